//! Telemetry that cannot get rid of what it has, next to a daemon that has work to do: DNS is
//! answered, memory is bounded, what is lost is counted, and the end comes in time.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::daemon::Builder;
use support::dns::{Reply, query, rtype};
use support::egress::Place;
use support::otlp::{Fault, Number, Receiver};
use support::{Daemon, opensandbox};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any end takes: the flush of telemetry is given five seconds, the drains before it
/// two each. One that waited for the receiver or the reader would take [`EXPORT`], or for ever.
const END_WITHIN: Duration = Duration::from_secs(25);

/// How long an export may take where the end must not wait for one.
const EXPORT: Duration = Duration::from_secs(60);

const RULES: &str =
    r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"*.good.test"}]}"#;

/// Queries that wait for their answer at the same time.
const WINDOW: u16 = 32;

/// Sends `count` queries and checks each answer.
fn resolve(place: &Place, count: usize) {
    place
        .upstream()
        .answer("a.good.test", Reply::addresses(60, &["198.51.100.7"]));
    place.enter(|| {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
        socket.connect(place.dns()).expect("the filter");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut buffer = [0; 512];
        for _ in 0..count.div_ceil(WINDOW.into()) {
            for id in 0..WINDOW {
                let sent = socket.send(&query(id, "a.good.test", rtype::A));
                sent.expect("send a query");
            }
            let mut answered = [false; WINDOW as usize];
            for _ in 0..WINDOW {
                let length = socket.recv(&mut buffer).expect("an answer");
                let answer = &buffer[..length];
                let id = u16::from_be_bytes([answer[0], answer[1]]);
                let again = std::mem::replace(&mut answered[usize::from(id)], true);
                assert!(!again, "query {id} was answered twice");
                assert_eq!(answer[3] & 15, 0, "query {id}");
                assert!(answer.ends_with(&[198, 51, 100, 7]), "query {id}");
            }
        }
    });
}

/// Egress that exports as often as it can, and gives up soon: minutes pass in seconds.
fn hasty<'a>(place: &'a Place, receiver: &Receiver) -> Builder<'a> {
    place
        .prepare(opensandbox!("egress"), RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_LOGS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", 20)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", 100)
        .env("OTEL_BLRP_SCHEDULE_DELAY", 10)
}

/// SIGTERM; the daemon ends well and in time.
fn end(daemon: &mut Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(
        daemon.wait(END_WITHIN).code(),
        Some(0),
        "{}",
        daemon.transcript()
    );
    daemon.assert_well_formed();
}

fn lines<'a>(log: &'a [Value], message: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["msg"] == message).collect()
}

/// What a receiver does that does not take anything.
fn faults() -> [(&'static str, Option<Fault>); 4] {
    [
        ("refuses", None),
        ("hangs", Some(Fault::Hang)),
        ("answers 503", Some(Fault::Status(503))),
        ("resets", Some(Fault::Reset)),
    ]
}

#[test]
fn dns_is_answered_whatever_the_receiver_does_and_losses_are_counted() {
    for (name, fault) in faults() {
        let place = Place::new();
        let mut receiver = place.enter(Receiver::start);
        match &fault {
            Some(fault) => receiver.always(Some(fault.clone())),
            None => place.enter(|| receiver.down()),
        }
        let mut daemon = hasty(&place, &receiver).spawn();
        resolve(&place, 4096);
        if fault.is_some() {
            // A long outage is many exports in vain.
            let waited = receiver.wait_for(PATIENCE, |now| now.requests().len() >= 30);
            waited.unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        resolve(&place, 4096);
        end(&mut daemon);

        let log = daemon.log();
        assert_eq!(daemon.events("egress.outbound").len(), 8192, "{name}");
        let lost = lines(&log, "telemetry was lost");
        assert_eq!(lost.len(), 1, "{name}");
        let own = ["an export failed", "telemetry was lost"];
        let exportable = log
            .iter()
            .filter(|line| !own.iter().any(|own| line["msg"] == *own));
        assert_eq!(lost[0]["log_records"], exportable.count(), "{name}");
        assert!(lost[0]["metric_points"].as_u64() > Some(0), "{name}");
        // One warning a minute and exporter, not one a failure.
        let failed = lines(&log, "an export failed").len();
        assert!((1..=2).contains(&failed), "{name}: {failed}");
        assert!(receiver.metrics().is_empty() && receiver.logs().is_empty());
    }
}

/// Requirement "Risk 1": however long the receiver is away, memory does not grow.
#[test]
fn memory_does_not_grow_while_the_receiver_is_away() {
    for (name, fault) in faults() {
        let place = Place::new();
        let mut receiver = place.enter(Receiver::start);
        match &fault {
            Some(fault) => receiver.always(Some(fault.clone())),
            None => place.enter(|| receiver.down()),
        }
        let mut daemon = hasty(&place, &receiver)
            // The harness would keep every line.
            .env("OPENSANDBOX_LOG_OUTPUT", "/dev/null")
            .spawn();
        // The queue is full after a tenth of that, and every buffer as large as it gets.
        resolve(&place, 16_384);
        let before = daemon.status("VmRSS");
        let exports = receiver.requests().len();
        resolve(&place, 49_152);
        let after = daemon.status("VmRSS");
        let vain = receiver.requests().len() - exports;
        assert!(vain >= 10 || fault.is_none(), "{name}: {vain}");
        // KiB; SPECIFICATION.md, number 21. What is lost without a bound would be some 15,000.
        let growth = after.saturating_sub(before);
        assert!(growth < 1024, "{name}: {before} to {after} KiB");
        end(&mut daemon);
    }
}

/// An export may take longer than the end.
#[test]
fn the_end_does_not_wait_for_a_receiver_that_hangs() {
    let place = Place::new();
    let receiver = place.enter(Receiver::start);
    receiver.always(Some(Fault::Hang));
    let mut daemon = place
        .prepare(opensandbox!("egress"), RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_LOGS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", 50)
        .env("OTEL_METRIC_EXPORT_TIMEOUT", EXPORT.as_millis())
        .env("OTEL_BLRP_EXPORT_TIMEOUT", EXPORT.as_millis())
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT.as_millis())
        .spawn();
    resolve(&place, 32);
    let waited = receiver.wait_for(PATIENCE, |now| now.requests().len() >= 2);
    waited.expect("an export of each signal");
    end(&mut daemon);
    let log = daemon.log();
    let lost = lines(&log, "telemetry was lost");
    assert!(lost[0]["log_records"].as_u64() >= Some(32), "{lost:?}");
}

/// A reader of standard output that stopped holds up neither DNS, nor exports, nor the end.
#[test]
fn a_log_nobody_reads_holds_up_nothing() {
    let place = Place::new();
    let receiver = place.enter(Receiver::start);
    let mut daemon = hasty(&place, &receiver)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", 5000)
        .env("OTEL_BLRP_MAX_QUEUE_SIZE", 65_536)
        .unheard()
        .spawn();
    // More than the pipe and the queue hold.
    const QUERIES: usize = 20_480;
    resolve(&place, QUERIES);
    let dropped = |now: &Receiver| {
        let points = now.points("opensandbox.log.records.dropped");
        let full = points
            .iter()
            .rev()
            .find(|point| point.attributes["reason"] == "queue_full");
        match full.map(|point| point.value.clone()) {
            Some(Number::Int(count)) => count,
            _ => 0,
        }
    };
    let outbound = |now: &Receiver| {
        let records = now.records();
        let outbound = records
            .iter()
            .filter(|record| record.event_name == "egress.outbound");
        outbound.count()
    };
    let waited = receiver.wait_for(PATIENCE, |now| dropped(now) > 0 && outbound(now) == QUERIES);
    waited.expect("exports while nobody reads");

    daemon.hear();
    let told = daemon.wait_for_line(PATIENCE, |line| line["msg"] == "log records dropped");
    assert_eq!(told["reason"], "queue_full");
    end(&mut daemon);
    let log = daemon.log();
    let told = lines(&log, "log records dropped");
    let told: u64 = told.iter().filter_map(|line| line["count"].as_u64()).sum();
    let written = daemon.events("egress.outbound").len();
    assert_eq!(written as u64 + told, QUERIES as u64);
    receiver.assert_clean();
}

#[test]
fn the_end_does_not_wait_for_a_log_nobody_reads() {
    let place = Place::new();
    let mut daemon = place
        .prepare(opensandbox!("egress"), RULES)
        .unheard()
        .spawn();
    resolve(&place, 8192);
    end(&mut daemon);
}

/// What was lost at an output is told at the end, where another one can still be heard.
#[test]
fn lines_a_full_disk_did_not_take_are_told_at_the_end() {
    let place = Place::new();
    let mut daemon = place
        .prepare(opensandbox!("egress"), RULES)
        .env("OPENSANDBOX_LOG_OUTPUT", "stdout,/dev/full")
        .spawn();
    resolve(&place, 32);
    end(&mut daemon);
    let log = daemon.log();
    let lost = lines(&log, "telemetry was lost");
    assert!(lost[0]["log_lines"].as_u64() >= Some(32), "{lost:?}");
    assert_eq!(
        (&lost[0]["log_records"], &lost[0]["metric_points"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn a_log_that_cannot_be_opened_is_a_configuration_error() {
    let place = Place::new();
    let mut daemon = opensandbox!("egress")
        .env("OPENSANDBOX_EGRESS_ALLOW_UNENFORCED", true)
        .env(
            "OPENSANDBOX_EGRESS_DNS_UPSTREAM",
            place.upstream().address(),
        )
        .env("OPENSANDBOX_LOG_OUTPUT", "stdout,/nonexistent/log")
        .spawn();
    assert_eq!(daemon.wait(PATIENCE).code(), Some(64));
    let said = daemon.stderr();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("OPENSANDBOX_LOG_OUTPUT") && said.contains("/nonexistent/log"),
        "{said}"
    );
}
