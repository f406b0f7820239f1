//! `/metrics` (contract 6) and what reaches a collector (telemetry contract, section 5).

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::client::{Execd, builder};

const KEYS: [&str; 5] = [
    "cpu_count",
    "cpu_used_pct",
    "mem_total_mib",
    "mem_used_mib",
    "timestamp",
];

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[track_caller]
fn assert_reading(reading: &Value) {
    let keys: Vec<_> = reading.as_object().unwrap().keys().collect();
    assert_eq!(keys, KEYS);
    let number = |key: &str| reading[key].as_f64().unwrap();
    assert!(number("cpu_count") > 0.0);
    assert!((0.0..100.1).contains(&number("cpu_used_pct")));
    assert!(number("mem_total_mib") > 0.0);
    assert!((0.0..=number("mem_total_mib")).contains(&number("mem_used_mib")));
    let timestamp = reading["timestamp"].as_u64().unwrap();
    assert!(timestamp <= now() && timestamp + 60_000 > now());
}

#[test]
fn a_reading_has_all_of_its_keys() {
    let execd = Execd::start();
    for _ in 0..2 {
        let answer = execd.get("/metrics");
        assert_eq!(answer.status, 200);
        let json = "application/json; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(json));
        assert_reading(&answer.json());
        assert!(!answer.text().ends_with('\n'));
    }
}

#[test]
fn the_share_of_a_busy_processor_is_seen() {
    let execd = Execd::start();
    let busy = execd.run_in_background("while :; do :; done");
    let count = execd.get("/metrics").json()["cpu_count"].as_f64().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let share = execd.get("/metrics").json()["cpu_used_pct"]
        .as_f64()
        .unwrap();
    // Others may use more; nobody can make it less than about one of them.
    assert!(share > 100.0 / count / 4.0, "{share} of {count}");
    execd.delete(&format!("/command?id={busy}"));
}

#[test]
fn the_control_group_has_readings_too() {
    let execd = Execd::of(builder().env("EXECD_METRICS_SCOPE", "cgroup"));
    let answer = execd.get("/metrics");
    if answer.status == 500 {
        // The machine gives this process no control group to read.
        answer.json()["message"]
            .as_str()
            .unwrap()
            .strip_prefix("error reading runtime metrics. failed to get ")
            .unwrap();
        support::skipped("there is no control group with processor and memory readings");
        return;
    }
    assert_reading(&answer.json());
}

#[test]
fn a_watcher_is_told_every_second_until_the_end() {
    let mut execd = Execd::start();
    let mut answer = execd.open("GET", "/metrics/watch", &[], "");
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let begun = Instant::now();
    for _ in 0..2 {
        let line = answer.piece().unwrap().unwrap();
        assert_eq!(
            line.iter().position(|byte| *byte == b'\n'),
            Some(line.len() - 1)
        );
        assert_reading(&serde_json::from_slice(&line).unwrap());
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "a share needs time"
    );
    execd.daemon.signal(rustix::process::Signal::TERM);
    while answer.piece().unwrap().is_some() {}
    let status = execd.daemon.wait(crate::client::PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", execd.daemon.transcript());
}

#[test]
fn all_instruments_reach_a_collector() {
    let receiver = support::otlp::Receiver::start();
    let mut execd = Execd::of(
        builder()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
            .env("OTEL_METRIC_EXPORT_INTERVAL", 86_400_000)
            .env("OPENSANDBOX_ID", "sb-abc"),
    );
    execd.run("true");
    execd.run("exit 3");
    let session = execd.session();
    execd.run_in(&session, "true");
    assert_eq!(execd.daemon.stop().code(), Some(0));
    let points = receiver.all_points();
    let names: BTreeSet<_> = points.iter().map(|point| point.name.as_str()).collect();
    for name in [
        "execd.http.request.count",
        "execd.http.request.duration",
        "execd.execution.count",
        "execd.execution.duration",
        "execd.commands.active",
        "execd.system.cpu.usage",
        "execd.system.memory.usage_bytes",
        "execd.system.process.count",
        "execd.system.network.io.bytes",
        "execd.system.network.connections.active",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let sum = |name: &str, attributes: &[(&str, &str)]| -> f64 {
        let of = points.iter().filter(|point| {
            let has = |(key, value): &(&str, &str)| {
                point
                    .attributes
                    .get(*key)
                    .is_some_and(|found| found == value)
            };
            point.name == name && attributes.iter().all(has)
        });
        of.map(|point| point.value.as_f64()).sum()
    };
    let executions = |operation, result| {
        let attributes = [("operation", operation), ("result", result)];
        sum("execd.execution.count", &attributes)
    };
    assert_eq!(executions("run_command", "success"), 1.0);
    assert_eq!(executions("run_command", "failure"), 1.0);
    assert_eq!(executions("run_in_session", "success"), 1.0);
    let route = [("http.route", "/session/:sessionId/run")];
    assert_eq!(sum("execd.http.request.count", &route), 1.0);
    assert_eq!(sum("execd.commands.active", &[]), 0.0);
    for point in &points {
        assert_eq!(point.attributes["sandbox_id"], "sb-abc", "{}", point.name);
    }
    let records = receiver.records();
    let events = records.iter().map(|record| record.event_name.as_str());
    let events: BTreeSet<_> = events.filter(|name| !name.is_empty()).collect();
    assert_eq!(events, BTreeSet::from(["execd.access", "execd.execution"]));
    receiver.assert_clean();
}
