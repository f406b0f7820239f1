//! The real daemon: every instrument and every event reaches a strict receiver after real traffic,
//! over each protocol, and says the same as the log on standard output.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opensandbox::version::VERSION;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::daemon::Builder;
use support::dns::Reply;
use support::egress::Place;
use support::http::request;
use support::otlp::{Kind, Number, Point, Protocol, Receiver, Record};
use support::{Daemon, opensandbox};

use crate::registry::{SCOPES, rows_of};
use crate::tables::{CONDITIONAL, EGRESS_VALUES, Row, STANDARD_DURATION};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

const RULES: &str =
    r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"*.good.test"}]}"#;

/// On every data point and every record.
pub const SHARED: [(&str, &str); 3] = [
    ("sandbox_id", "sb-contract"),
    ("team", "red"),
    ("zone", "a=b"),
];

/// A daemon as the contract describes it, under the traffic of its test.
pub struct Subject {
    /// The applet.
    pub name: &'static str,
    /// The scope of its own metrics.
    pub scope: &'static str,
    /// Instruments without a data point.
    pub silent: &'static [&'static str],
    /// The closed sets of its attributes.
    pub values: &'static [(&'static str, &'static [&'static str])],
    /// The routes that are asked for.
    pub routes: &'static [&'static str],
    /// The methods that are asked with.
    pub methods: &'static [&'static str],
    /// What its clients chose, which no attribute may contain.
    pub chosen: &'static [&'static str],
}

/// In mode `dns` nothing is applied to a packet filter, and a histogram has no zero to show.
const EGRESS: Subject = Subject {
    name: "egress",
    scope: "opensandbox/egress",
    silent: &["egress.nftables.apply.duration"],
    values: EGRESS_VALUES,
    routes: &["/policy", "/healthz", "unknown"],
    methods: &["GET", "POST", "PATCH", "DELETE", "_OTHER"],
    chosen: &["test", "127.0.0.1", "such"],
};

/// Egress with an identity; what it exports is up to the test.
pub fn egress(place: &Place) -> Builder<'_> {
    place
        .prepare(opensandbox!("egress"), RULES)
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", 1)
        .env("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-contract")
        .env(
            "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS",
            "team=blue, zone = a=b,team=red,empty=",
        )
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod%201")
}

/// The caller's trace, which one change of the policy belongs to.
pub const TRACE: [&str; 2] = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"];

/// Real traffic of every kind, asked with `dig` and over the API.
pub fn traffic(place: &Place) {
    let upstream = place.upstream();
    upstream.answer(
        "a.good.test",
        Reply::addresses(60, &["198.51.100.7", "2001:db8::7"]),
    );
    upstream.answer("dead.good.test", Reply::dropped());
    for (query, status) in [
        (&["a.good.test", "A"][..], "NOERROR"),
        (&["+tcp", "a.good.test", "AAAA"], "NOERROR"),
        (&["none.good.test"], "NXDOMAIN"),
        (&["dead.good.test"], "SERVFAIL"),
        (&["Evil.test", "TXT"], "NXDOMAIN"),
    ] {
        let answer = place.dig(query);
        assert!(answer.contains(&format!("status: {status}")), "{answer}");
    }
    // A response is no question: it gets no answer and is no decision of the policy.
    place.send(&[0x12, 0x34, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (method, path, body, status) in [
        ("GET", "/policy", "", 200),
        ("POST", "/policy", RULES, 200),
        ("POST", "/policy", r#"{"defaultAction":"foo"}"#, 400),
        (
            "PATCH",
            "/policy",
            r#"[{"action":"allow","target":"new.test"}]"#,
            200,
        ),
        ("PATCH", "/policy", "[]", 400),
        ("GET", "/no/such/path", "", 404),
        ("BREW", "/policy", "", 405),
    ] {
        let answer = place.ask_api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    let traced = [("traceparent", &*format!("00-{}-{}-01", TRACE[0], TRACE[1]))];
    let change = || request(place.api(), "DELETE", "/policy", &traced, r#"["new.test"]"#);
    let answer = place.enter(change).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// The value of each series when the daemon ended.
pub fn last(points: Vec<Point>) -> Vec<Point> {
    let key = |point: &Point| (point.name.clone(), format!("{:?}", point.attributes));
    let series: BTreeMap<_, _> = points
        .into_iter()
        .map(|point| (key(&point), point))
        .collect();
    series.into_values().collect()
}

/// The sum over the series of `name` whose attributes include `with`.
pub fn total(points: &[Point], name: &str, with: &[(&str, Value)]) -> f64 {
    let includes = |point: &Point| {
        with.iter()
            .all(|(key, value)| point.attributes.get(*key) == Some(value))
    };
    points
        .iter()
        .filter(|point| point.name == name && includes(point))
        .map(|point| point.value.as_f64())
        .sum()
}

fn kind_on_the_wire(row: &Row) -> Kind {
    use opensandbox::telemetry::instrument::Kind as Declared;
    let sum = |monotonic| Kind::Sum {
        monotonic,
        delta: false,
    };
    match row.kind {
        Declared::Counter | Declared::ObservableCounter => sum(true),
        Declared::UpDownCounter | Declared::ObservableUpDownCounter => sum(false),
        Declared::Histogram => Kind::Histogram { delta: false },
        Declared::Gauge | Declared::ObservableGauge => Kind::Gauge,
    }
}

/// Every data point is of a row, and every row has a data point, as the row says.
pub fn assert_points(subject: &Subject, points: &[Point]) {
    let mut seen = BTreeSet::new();
    for point in points {
        let name = point.name.as_str();
        let (row, declared) = rows_of(subject.scope)
            .find(|(row, _)| row.name == name)
            .unwrap_or_else(|| panic!("{name} is not in the contract"));
        let scope = SCOPES.iter().find(|scope| scope.name == point.scope);
        let in_scope = scope.is_some_and(|scope| scope.table.iter().any(|row| row.name == name));
        assert!(in_scope, "{name} in {}", point.scope);
        seen.insert(name);
        assert_eq!(point.kind, kind_on_the_wire(row), "{name}");
        assert_eq!(point.unit, row.unit, "{name}");
        assert_eq!(point.description, declared.help(), "{name}");
        if let Number::Histogram { bounds, .. } = &point.value {
            assert_eq!(bounds, row.boundaries, "{name}");
        }
        let allowed: BTreeSet<_> = SHARED
            .iter()
            .map(|(key, _)| *key)
            .chain(row.attributes.iter().copied())
            .collect();
        let found: BTreeSet<_> = point.attributes.keys().map(String::as_str).collect();
        assert!(found.is_subset(&allowed), "{name}: {found:?}");
        for missing in allowed.difference(&found) {
            let conditional = CONDITIONAL.contains(missing) && row.attributes.contains(missing);
            assert!(conditional, "{name} without {missing}");
        }
        for (key, value) in SHARED {
            assert_eq!(point.attributes[key], value, "{name}");
        }
        assert_bounded(subject, point);
    }
    for (row, _) in rows_of(subject.scope) {
        let expected = !subject.silent.contains(&row.name) && row.name != STANDARD_DURATION;
        assert_eq!(seen.contains(row.name), expected, "{}", row.name);
    }
}

/// Attribute values come from closed sets; nothing a client chose is among them.
fn assert_bounded(subject: &Subject, point: &Point) {
    for (key, value) in &point.attributes {
        let name = &point.name;
        if let Some((_, set)) = subject.values.iter().find(|(known, _)| known == key) {
            let text = value.as_str().unwrap_or_default();
            assert!(set.contains(&text), "{name}: {key}={value}");
        }
        match key.as_str() {
            "http.status_code" => assert!(value.is_i64(), "{name}: {key}={value}"),
            "http.route" => {
                assert!(subject.routes.iter().any(|route| value == route), "{value}");
            }
            "http.method" => {
                assert!(
                    subject.methods.iter().any(|method| value == method),
                    "{value}"
                );
            }
            _ => {}
        }
        let text = value.to_string();
        for chosen in subject.chosen {
            assert!(!text.contains(chosen), "{name}: {key}={value}");
        }
    }
}

/// What the traffic amounts to.
fn assert_values(points: &[Point]) {
    let sum = |name: &str, with: &[(&str, Value)]| total(points, name, with);
    assert_eq!(sum("egress.dns.query.duration", &[]), 4.);
    assert_eq!(sum("egress.policy.denied_total", &[]), 1.);
    for (decision, transport, outcome, count) in [
        ("allow", "udp", "noerror", 1.),
        ("allow", "tcp", "noerror", 1.),
        ("allow", "udp", "nxdomain", 1.),
        ("allow", "udp", "timeout", 1.),
        ("deny", "udp", "nxdomain", 1.),
    ] {
        let with = [
            ("decision", json!(decision)),
            ("transport", json!(transport)),
            ("outcome", json!(outcome)),
        ];
        assert_eq!(sum("egress.dns.queries.count", &with), count, "{with:?}");
    }
    assert_eq!(sum("egress.dns.queries.count", &[]), 5.);
    let reason = [("reason", json!("not_a_query"))];
    assert_eq!(sum("egress.dns.dropped.count", &reason), 1.);
    assert_eq!(sum("egress.dns.inflight", &[]), 0.);
    for unused in [
        "egress.nftables.rules.count",
        "egress.nftables.updates.count",
        "egress.nftables.dropped.packets",
        "egress.nftables.learned.elements",
        "opensandbox.log.records.dropped",
    ] {
        assert_eq!(sum(unused, &[]), 0., "{unused}");
    }
    for (method, route, status, count) in [
        ("GET", "/policy", 200, 1.),
        ("POST", "/policy", 200, 1.),
        ("POST", "/policy", 400, 1.),
        ("PATCH", "/policy", 200, 1.),
        ("PATCH", "/policy", 400, 1.),
        ("DELETE", "/policy", 200, 1.),
        ("GET", "unknown", 404, 1.),
        ("_OTHER", "/policy", 405, 1.),
    ] {
        let with = [
            ("http.method", json!(method)),
            ("http.route", json!(route)),
            ("http.status_code", json!(status)),
        ];
        for name in ["egress.http.request.count", "egress.http.request.duration"] {
            assert_eq!(sum(name, &with), count, "{name} {with:?}");
        }
    }
    assert!(sum("egress.system.memory.usage_bytes", &[]) > 0.);
    let busy = sum("egress.system.cpu.utilization", &[]);
    assert!((0. ..=1.).contains(&busy), "{busy}");
    assert!(sum("process.memory.usage", &[]) > 0.);
    assert!(sum("process.uptime", &[]) > 0.);
}

pub fn assert_resource(subject: &Subject, resource: &BTreeMap<String, Value>, daemon: &Daemon) {
    let service = format!("opensandbox-{}-{VERSION}", subject.name);
    let expected = [
        ("service.name", json!(service)),
        ("service.version", json!(VERSION)),
        ("telemetry.sdk.name", json!("opentelemetry")),
        ("telemetry.sdk.language", json!("rust")),
        ("os.type", json!("linux")),
        ("process.pid", json!(daemon.pid())),
        ("sandbox_id", json!("sb-contract")),
        ("k8s.pod.name", json!("pod 1")),
    ];
    for (key, value) in expected {
        assert_eq!(resource.get(key), Some(&value), "{key}");
    }
    let instance = resource["service.instance.id"].as_str().unwrap_or_default();
    assert_eq!(instance.len(), 36, "{instance}");
    for key in ["telemetry.sdk.version", "host.name"] {
        assert!(resource.contains_key(key), "{key}");
    }
}

/// What a log line and its OTLP record have to agree on: severity, text, the trace, and everything
/// else.
type Content = (String, String, [String; 2], BTreeMap<String, Value>);

fn of_line(line: &Value) -> Content {
    /// What an OTLP record has fields for.
    const OWN: [&str; 6] = ["level", "ts", "logger", "msg", "trace_id", "span_id"];
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let fields = line.as_object().into_iter().flatten();
    let attributes = fields
        .filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let trace = ["trace_id", "span_id"].map(text);
    (text("level"), text("msg"), trace, attributes)
}

fn of_record(record: &Record) -> Content {
    let body = record.body.as_str().expect("a text").to_owned();
    let trace = [record.trace_id.clone(), record.span_id.clone()];
    let attributes = record.attributes.clone();
    (record.severity_text.clone(), body, trace, attributes)
}

/// Every record is a line of the log with the same content, and no event is missing. Gives the names
/// of the events, sorted.
pub fn assert_records<'a>(
    subject: &Subject,
    records: &'a [Record],
    daemon: &Daemon,
) -> Vec<&'a str> {
    let mut lines: Vec<_> = daemon.log().iter().map(of_line).collect();
    for record in records {
        let content = of_record(record);
        let place = lines.iter().position(|line| *line == content);
        let place = place.unwrap_or_else(|| panic!("not in the log: {record:#?}"));
        lines.swap_remove(place);
        let number = match record.severity_text.as_str() {
            "debug" => 5,
            "info" => 9,
            "warn" => 13,
            "error" => 17,
            other => panic!("severity {other:?}"),
        };
        assert_eq!(record.severity_number, number, "{record:?}");
        assert_eq!(record.scope, format!("opensandbox.{}", subject.name));
        assert!(
            record.time > 0 && record.observed >= record.time,
            "{record:?}"
        );
        let event = record.attributes.get("opensandbox.event");
        let event = event.and_then(Value::as_str).unwrap_or_default();
        assert_eq!(record.event_name, event);
        for (key, value) in SHARED {
            assert_eq!(record.attributes[key], value, "{record:?}");
        }
        assert_resource(subject, &record.resource, daemon);
    }
    let left: Vec<_> = lines
        .iter()
        .filter(|(.., fields)| fields.contains_key("opensandbox.event"))
        .collect();
    assert!(left.is_empty(), "not exported: {left:#?}");
    let mut events: Vec<_> = records
        .iter()
        .map(|record| record.event_name.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    events.sort_unstable();
    events
}

/// What the traffic amounts to.
fn assert_egress_records(records: &[Record], daemon: &Daemon) {
    let events = assert_records(&EGRESS, records, daemon);
    let expected = [
        "egress.denied",
        "egress.loaded",
        "egress.outbound",
        "egress.outbound",
        "egress.outbound",
        "egress.outbound",
        "egress.update_failed",
        "egress.update_failed",
        "egress.updated",
        "egress.updated",
        "egress.updated",
    ];
    assert_eq!(events, expected);
    let traced = records.iter().filter(|record| record.trace_id == TRACE[0]);
    let traced: Vec<_> = traced.filter(|record| record.span_id == TRACE[1]).collect();
    let change = traced
        .iter()
        .find(|record| record.event_name == "egress.updated");
    assert!(change.is_some(), "{traced:#?}");
    let addresses: Vec<_> = records
        .iter()
        .filter_map(|record| record.attributes.get("target.ips"))
        .collect();
    assert_eq!(
        addresses,
        [&json!(["198.51.100.7"]), &json!(["2001:db8::7"])]
    );
}

fn everything_arrives(name: &str, protocol: Protocol) {
    let place = Place::new();
    let receiver = place.enter(Receiver::start);
    let mut daemon = egress(&place)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", name)
        .env("OTEL_LOGS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", 200)
        .spawn();
    traffic(&place);
    // What is exported about exports is about those before.
    let before = receiver.metrics().len();
    let waited = receiver.wait_for(PATIENCE, |now| now.metrics().len() > before + 1);
    waited.expect("metrics while it runs");
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.transcript());

    receiver.assert_clean();
    let requests = receiver.requests();
    assert!(requests.iter().all(|request| request.protocol == protocol));
    let points = last(receiver.all_points());
    assert_points(&EGRESS, &points);
    assert_values(&points);
    for point in &points {
        assert_resource(&EGRESS, &point.resource, &daemon);
    }
    let records = receiver.records();
    assert_egress_records(&records, &daemon);
    // The last metrics know of the last logs.
    let exported = total(&points, "otel.sdk.exporter.log.exported", &[]);
    assert_eq!(exported, records.len() as f64);
    assert_eq!(total(&points, "otel.sdk.processor.log.queue.size", &[]), 0.);
    for line in daemon.log() {
        for (key, value) in SHARED {
            assert_eq!(line[key], value, "{line}");
        }
        // All is well: the SDK has nothing to say.
        assert_eq!(line.get("otel.event"), None, "{line}");
    }
    assert!(!daemon.transcript().contains("telemetry was lost"));
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
    let place = Place::new();
    let receiver = place.enter(Receiver::start);
    let mut daemon = egress(&place)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
        .spawn();
    assert_eq!(place.ask_api("GET", "/policy", "").status, 200);
    assert_eq!(daemon.stop().code(), Some(0));
    receiver.assert_clean();
    let points = last(receiver.all_points());
    let both = [
        ("http.method", json!("GET")),
        ("http.request.method", json!("GET")),
        ("http.route", json!("/policy")),
        ("http.status_code", json!(200)),
        ("http.response.status_code", json!(200)),
    ];
    for name in ["egress.http.request.count", "egress.http.request.duration"] {
        assert_eq!(total(&points, name, &both), 1., "{name}");
    }
    let stable = [
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!(200)),
        ("http.route", json!("/policy")),
        ("url.scheme", json!("http")),
        ("sandbox_id", json!("sb-contract")),
    ];
    assert_eq!(total(&points, STANDARD_DURATION, &stable), 1.);
}

/// `OTEL_LOG_LEVEL`: structured, few, never raw on standard error, and never exported (section 2).
#[test]
fn the_sdk_speaks_through_the_log() {
    let place = Place::new();
    let receiver = place.enter(Receiver::start);
    let mut daemon = egress(&place)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_LOGS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", 10)
        .env("OTEL_LOG_LEVEL", "debug")
        .env("OPENSANDBOX_EGRESS_LOG_LEVEL", "debug")
        .spawn();
    let waited = receiver.wait_for(PATIENCE, |now| now.metrics().len() > 20);
    waited.expect("metrics");
    assert_eq!(daemon.stop().code(), Some(0));
    receiver.assert_clean();
    let log = daemon.log();
    let mut spoken = 0;
    for line in log.iter().filter_map(Value::as_object) {
        let place = line.keys().position(|key| key == "otel.event");
        if let Some(place) = place {
            assert_eq!(place, 4 + SHARED.len(), "{line:?}");
            spoken += 1;
        }
    }
    assert_eq!(spoken, 20, "lines a minute");
    assert_eq!(daemon.stderr(), "");
    for record in receiver.records() {
        assert!(!record.attributes.contains_key("otel.event"), "{record:?}");
    }
}

/// The general endpoint is for metrics alone, unless logs are asked for (section 2).
#[test]
fn an_endpoint_for_all_signals_does_not_turn_the_logs_of_egress_on() {
    for (variable, path, metrics, logs) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", true, false),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "/v1/logs", false, true),
    ] {
        let place = Place::new();
        let receiver = place.enter(Receiver::start);
        let mut daemon = place
            .prepare(opensandbox!("egress"), RULES)
            // Its own identifier is unset.
            .env("OPENSANDBOX_ID", "sb-fallback")
            .env(variable, format!("{}{path}", receiver.http_endpoint()))
            .spawn();
        assert!(place.dig(&["evil.test"]).contains("NXDOMAIN"));
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(PATIENCE).code(), Some(0));
        receiver.assert_clean();
        assert_eq!(!receiver.metrics().is_empty(), metrics, "{variable}");
        assert_eq!(!receiver.logs().is_empty(), logs, "{variable}");
        let points = receiver.all_points();
        let points = points.iter().map(|point| &point.attributes);
        let records = receiver.records();
        let records = records.iter().map(|record| &record.attributes);
        for attributes in points.chain(records) {
            assert_eq!(attributes["sandbox_id"], "sb-fallback");
        }
    }
}
