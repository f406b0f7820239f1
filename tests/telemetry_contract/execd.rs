//! Execd's part of the contract (sections 5 and 9): after real work, every instrument and every
//! event reaches a strict receiver, over each protocol, and says the same as the log.

use std::net::SocketAddr;
use std::time::Duration;

use opensandbox::execd::events::{Access, Execution, Observer, Reason};
use opensandbox::execd::metrics::{Metrics, Operation};
use opensandbox::execd::spawn::Usage;
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::semconv::{HttpRequest, Method};
use serde_json::{Map, Value, json};
use support::daemon::Builder;
use support::http::request;
use support::otlp::{Point, Protocol, Receiver, Record};
use support::{Daemon, opensandbox};

use crate::daemon::{
    PATIENCE, SHARED, Subject, TRACE, assert_points, assert_records, assert_resource, last, total,
};
use crate::events::logged;
use crate::tables::{EXECD_VALUES, STANDARD_DURATION};

const EXECD: Subject = Subject {
    name: "execd",
    scope: "opensandbox/execd",
    // No terminal is opened.
    silent: &["execd.pty.sessions.active"],
    values: EXECD_VALUES,
    routes: &[
        "/ping",
        "/command",
        "/command/status/:id",
        "/session",
        "/session/:sessionId/run",
        "unknown",
    ],
    methods: &["GET", "POST", "_OTHER"],
    chosen: &["s3cret", "127.0.0.1"],
};

/// Execd with an identity, and where it is asked; what it exports is up to the test.
fn execd() -> (Builder<'static>, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let builder = opensandbox!("execd", "--host=127.0.0.1")
        .arg(format!("--port={}", address.port()))
        .env("OPENSANDBOX_ID", "sb-contract")
        .env(
            "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS",
            "team=blue, zone = a=b,team=red,empty=",
        )
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod%201")
        .ready_when_http(address, "/ping");
    (builder, address)
}

/// A command that fills 80 MB: more than the daemon itself has ever had.
const LARGE: &str = "x=$(head -c 40000000 /dev/zero | tr '\\0' a); : ${#x}";

/// Real work of every kind. One ping has been before it.
fn work(address: SocketAddr) {
    let ask = |method: &str, path: &str, body: &Value| {
        let trace = format!("00-{}-{}-01", TRACE[0], TRACE[1]);
        let traced = [("traceparent", trace.as_str())];
        let body = body.to_string();
        request(address, method, path, &traced, &body).expect("an answer")
    };
    for (method, path, body, status) in [
        ("POST", "/command", json!({"command": LARGE}), 200),
        (
            "POST",
            "/command",
            json!({"command": "exit 3 # s3cret"}),
            200,
        ),
        (
            "POST",
            "/command",
            json!({"command": "sleep 300", "timeout": 50}),
            200,
        ),
        ("POST", "/command", json!({"command": ""}), 400),
        ("GET", "/command/status/s3cret", json!(null), 404),
        ("GET", "/s3cret", json!(null), 404),
        ("BREW", "/ping", json!(null), 404),
    ] {
        let answer = ask(method, path, &body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    let created = ask("POST", "/session", &json!({}));
    let id = created.body.split('"').nth(3).expect("an id");
    let answer = ask(
        "POST",
        &format!("/session/{id}/run"),
        &json!({"command": "echo s3cret; false"}),
    );
    assert!(answer.body.contains("exit status 1"), "{}", answer.body);
}

fn assert_values(points: &[Point]) {
    let sum = |name: &str, with: &[(&str, Value)]| total(points, name, with);
    for (operation, result, count) in [
        ("run_command", "success", 1.),
        ("run_command", "failure", 2.),
        ("run_in_session", "success", 0.),
        ("run_in_session", "failure", 1.),
    ] {
        let with = [("operation", json!(operation)), ("result", json!(result))];
        for name in ["execd.execution.count", "execd.execution.duration"] {
            assert_eq!(sum(name, &with), count, "{name} {with:?}");
        }
    }
    for (method, route, status, count) in [
        ("POST", "/command", 200, 3.),
        ("POST", "/command", 400, 1.),
        ("GET", "/command/status/:id", 404, 1.),
        ("GET", "unknown", 404, 1.),
        ("_OTHER", "unknown", 404, 1.),
        ("POST", "/session", 200, 1.),
        ("POST", "/session/:sessionId/run", 200, 1.),
    ] {
        let with = [
            ("http.method", json!(method)),
            ("http.route", json!(route)),
            ("http.status_code", json!(status)),
        ];
        for name in ["execd.http.request.count", "execd.http.request.duration"] {
            assert_eq!(sum(name, &with), count, "{name} {with:?}");
        }
    }
    assert_eq!(sum("execd.commands.active", &[]), 0.);
    assert!(sum("execd.execution.memory_bytes", &[]) >= 1.);
    assert!(sum("execd.system.memory.usage_bytes", &[]) > 0.);
    assert!(sum("execd.system.process.count", &[]) > 1.);
    let busy = sum("execd.system.cpu.usage", &[]);
    assert!((0. ..=100.).contains(&busy), "{busy}");
    for direction in ["in", "out"] {
        let with = [("direction", json!(direction))];
        assert!(sum("execd.system.network.io.bytes", &with) > 0.);
    }
    for protocol in ["tcp", "udp"] {
        let with = [("protocol", json!(protocol))];
        let name = "execd.system.network.connections.active";
        assert!(sum(name, &with) >= 0.);
    }
}

fn assert_execd_records(records: &[Record], daemon: &Daemon) {
    let events = assert_records(&EXECD, records, daemon);
    let count = |name| events.iter().filter(|found| **found == name).count();
    assert_eq!(count("execd.execution"), 4, "{events:?}");
    assert_eq!(count("execd.access"), 10, "{events:?}");
    assert_eq!(events.len(), 14, "{events:?}");
    let traced = records.iter().filter(|record| {
        record.trace_id == TRACE[0] && record.span_id == TRACE[1] && !record.event_name.is_empty()
    });
    // All but the first ping.
    assert_eq!(traced.count(), 13);
}

fn everything_arrives(name: &str, protocol: Protocol) {
    let receiver = Receiver::start();
    let (builder, address) = execd();
    let mut daemon = builder
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", name)
        .env("OTEL_METRIC_EXPORT_INTERVAL", 200)
        .spawn();
    work(address);
    let before = receiver.metrics().len();
    let waited = receiver.wait_for(PATIENCE, |now| now.metrics().len() > before + 1);
    waited.expect("metrics while it runs");
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.transcript());

    receiver.assert_clean();
    let requests = receiver.requests();
    assert!(requests.iter().all(|request| request.protocol == protocol));
    let points = last(receiver.all_points());
    assert_points(&EXECD, &points);
    assert_values(&points);
    for point in &points {
        assert_resource(&EXECD, &point.resource, &daemon);
    }
    assert_execd_records(&receiver.records(), &daemon);
    for line in daemon.log() {
        for (key, value) in SHARED {
            assert_eq!(line[key], value, "{line}");
        }
    }
    let transcript = daemon.transcript();
    assert!(!transcript.contains("telemetry was lost"), "{transcript}");
    assert!(!transcript.contains("s3cret"), "{transcript}");
}

#[test]
fn everything_arrives_over_http_protobuf() {
    everything_arrives("http/protobuf", Protocol::HttpProtobuf);
}

#[test]
fn everything_arrives_over_http_json() {
    everything_arrives("http/json", Protocol::HttpJson);
}

#[test]
fn everything_arrives_over_grpc() {
    everything_arrives("grpc", Protocol::Grpc);
}

#[test]
fn the_stable_http_keys_are_opted_into() {
    let receiver = Receiver::start();
    let (builder, _) = execd();
    let mut daemon = builder
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        .spawn();
    assert_eq!(daemon.stop().code(), Some(0));
    receiver.assert_clean();
    let points = last(receiver.all_points());
    let stable = [
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!(200)),
        ("http.route", json!("/ping")),
    ];
    assert!(total(&points, "execd.http.request.count", &stable) >= 1.);
    assert!(total(&points, STANDARD_DURATION, &stable) >= 1.);
}

/// The one line that `act` has the log write.
fn line(act: impl FnOnce(&Observer)) -> Map<String, Value> {
    logged("opensandbox.execd", &[], |logger| {
        act(&Observer::new(logger, Metrics::new(&Meter::noop())));
    })
}

fn fields(line: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let fields = line.iter().map(|(key, value)| (key.as_str(), value));
    fields
        .skip_while(|(key, _)| *key != "opensandbox.event")
        .collect()
}

#[test]
fn execd_access() {
    let access = |complete| {
        line(|to| {
            let event = Access {
                request: HttpRequest {
                    method: Method::Post,
                    route: "/command",
                    status: 200,
                },
                elapsed: Duration::from_millis(1500),
                complete,
            };
            event.emit(to, to.logger());
        })
    };
    let expected = [
        ("opensandbox.event", &json!("execd.access")),
        ("method", &json!("POST")),
        ("route", &json!("/command")),
        ("status", &json!(200)),
        ("duration", &json!(1.5)),
        ("aborted", &json!(true)),
    ];
    assert_eq!(fields(&access(true)), expected[..5]);
    assert_eq!(fields(&access(false)), expected);
    assert_eq!(access(true)["level"], "info");
}

#[test]
fn execd_execution() {
    let line = line(|to| {
        let event = Execution {
            operation: Operation::RunCommand,
            id: "0123",
            command: "never shown",
            exit_code: Some(3),
            reason: Reason::Exit,
            elapsed: Duration::from_millis(250),
            usage: Some(Usage {
                user: Duration::from_millis(20),
                system: Duration::from_millis(5),
                max_rss_bytes: Some(4096),
            }),
        };
        event.emit(to, to.logger());
    });
    let expected = [
        ("opensandbox.event", &json!("execd.execution")),
        ("operation", &json!("run_command")),
        ("execution_id", &json!("0123")),
        ("result", &json!("failure")),
        ("reason", &json!("exit")),
        ("exit_code", &json!(3)),
        ("duration", &json!(0.25)),
        ("cpu_time", &json!(0.025)),
        ("max_rss", &json!(4096)),
    ];
    assert_eq!(fields(&line), expected);
    assert_eq!(line["level"], "info");
}
