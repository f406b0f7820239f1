//! What the supervisor costs beside its worker, and what it exports when it is asked to.

use std::fs;
use std::time::Duration;

use support::otlp::Receiver;

use crate::run::{FAST, supervisor};

/// Resident memory of a supervisor of this build, which is neither optimised nor static, in KiB.
/// The bar for the released binary is in `SPECIFICATION.md`.
const RESIDENT_KIB: u64 = 16 * 1024;

/// Memory that is its own, in KiB.
const OWN_KIB: u64 = 2 * 1024;

fn status(pid: rustix::process::Pid, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn it_waits_with_one_thread_little_memory_and_no_socket() {
    let mut supervisor = supervisor([""; 0]).script("exec sleep 1000");
    supervisor.next("start");
    let pid = supervisor.pid();
    assert_eq!(status(pid, "Threads:"), 1);
    let resident = status(pid, "VmRSS:");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB");
    let own = status(pid, "RssAnon:");
    assert!(own <= OWN_KIB, "{own} KiB");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).unwrap();
    for descriptor in descriptors {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap();
        assert!(
            !target.to_string_lossy().starts_with("socket:"),
            "{target:?}"
        );
    }
    supervisor.stop();
}

#[test]
fn memory_and_descriptors_stay_flat_over_restarts() {
    let mut supervisor = supervisor(["--backoff-min=1ms", "--backoff-max=1ms"])
        .flag("--on-burst-exit=false")
        .flag("--pre-start=/bin/true")
        .worker(&["/bin/true"]);
    let measure = |supervisor: &mut crate::run::Supervisor, runs: usize| {
        for _ in 0..runs {
            supervisor.next("start");
        }
        let pid = supervisor.pid();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).unwrap();
        (status(pid, "RssAnon:"), descriptors.count())
    };
    let (memory, descriptors) = measure(&mut supervisor, 50);
    let (memory_later, descriptors_later) = measure(&mut supervisor, 250);
    assert!(
        memory_later <= memory + 128,
        "{memory} KiB, then {memory_later} KiB"
    );
    // A hook may be under way at either look, with two ends of a pipe and one for its exec.
    assert!(
        descriptors_later <= descriptors + 4,
        "{descriptors}, then {descriptors_later}"
    );
    supervisor.stop();
}

#[test]
fn it_exports_its_metrics_when_there_is_somewhere_to_send_them() {
    let receiver = Receiver::start();
    let mut supervisor = supervisor(FAST)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_METRIC_EXPORT_INTERVAL", 100)
        // The worker's, whose port must stay free for it.
        .env("OTEL_METRICS_EXPORTER", "otlp,prometheus")
        .flag("--burst-max=3")
        .flag("--on-burst-exit=false")
        .script("echo x >> runs; test $(wc -l < runs) -le 3 && exit 5; exec sleep 1000");
    for _ in 0..4 {
        supervisor.next("start");
    }
    let received = receiver.wait_for(Duration::from_secs(20), |receiver| {
        let restarts = receiver.points("supervisor.worker.restarts_total");
        let uptime = receiver.points("supervisor.worker.uptime");
        restarts.iter().any(|point| point.value.as_f64() == 3.0) && !uptime.is_empty()
    });
    received.unwrap();
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    let last = |name: &str| receiver.points(name).pop().unwrap();
    let restarts = last("supervisor.worker.restarts_total");
    assert_eq!(restarts.attributes["reason"], "crashed");
    assert_eq!(
        last("supervisor.worker.last_exit.code").value.as_f64(),
        -1.0
    );
    assert_eq!(last("supervisor.backoff.seconds").value.as_f64(), 3.0);
    assert_eq!(last("supervisor.crashloop").value.as_f64(), 1.0);
    assert!(!receiver.points("process.uptime").is_empty());
    assert!(!receiver.records().is_empty());
    receiver.assert_clean();
}
