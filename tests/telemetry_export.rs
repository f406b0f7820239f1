//! The export of metrics and logs, from an applet's point of view, against a receiver that forgives
//! nothing: every protocol, every fault, and the silence when nothing is configured.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use opensandbox::config::Values;
use opensandbox::http::connect::Connector;
use opensandbox::lifecycle::Shutdown;
use opensandbox::runtime::Runtime;
use opensandbox::telemetry::env::{Config, SETTINGS, component_settings};
use opensandbox::telemetry::instrument::{Counter, HTTP_SECONDS, Histogram, UpDownCounter};
use opensandbox::telemetry::log::{self, Destination, LogConfig, Threshold};
use opensandbox::telemetry::semconv::{HttpRequest, Method, ServerRequestDuration};
use opensandbox::telemetry::series::{KeyedCounter, KeyedHistogram};
use opensandbox::telemetry::{Component, Losses, Telemetry};
use slog::{info, o};
use support::otlp::{Fault, Kind, Number, Point, Protocol, Receiver, Request, Signal};
use support::tls::Authority;

opensandbox::instruments! {
    /// What the tests measure.
    struct Metrics in "opensandbox/test" {
        /// Cups served.
        cups: Counter = "test.cups.count", "{cup}";
        /// Guests now.
        guests: UpDownCounter = "test.guests", "{guest}";
        /// Time to brew.
        brewing: Histogram = "test.brewing.duration", "s", boundaries HTTP_SECONDS;
        /// Requests.
        requests: KeyedCounter<HttpRequest> = "test.http.request.count", "{request}",
            attributes ["http.method", "http.route", "http.status_code"];
        /// Time of requests.
        request_duration: KeyedHistogram<HttpRequest> = "test.http.request.duration", "s",
            attributes ["http.method", "http.route", "http.status_code"], boundaries HTTP_SECONDS;
        /// Time of requests, the standard way.
        server_duration: ServerRequestDuration = "http.server.request.duration", "s",
            boundaries HTTP_SECONDS;
    }
}

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// An export interval that never comes.
const NEVER: (&str, &str) = ("OTEL_METRIC_EXPORT_INTERVAL", "86400000");

/// The telemetry of a component, with its log in a file.
struct Bench {
    telemetry: Option<Telemetry>,
    metrics: Metrics,
    warnings: Vec<String>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn start(component: Component, pairs: &[(&str, &str)]) -> Self {
        let table: Vec<_> = SETTINGS
            .iter()
            .chain(component_settings(component))
            .copied()
            .collect();
        let mut warnings = Vec::new();
        let values = Values::from_pairs(&table, pairs);
        let config = Config::read(component, &values, &mut warnings);
        let directory = tempfile::tempdir().expect("a directory");
        let baseline = config
            .shared_attributes()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let log = log::build(&LogConfig {
            name: component.logger(),
            threshold: Threshold::Info,
            destinations: vec![Destination::File(directory.path().join("log"))],
            baseline,
        })
        .expect("a log");
        let telemetry = Telemetry::init(&config, log, &Connector::default());
        Self {
            metrics: Metrics::new(&telemetry.meter(Metrics::SCOPE)),
            telemetry: Some(telemetry),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            directory,
        }
    }

    /// With every export going to `receiver`, and metrics only at the end.
    fn to(receiver: &Receiver, component: Component, pairs: &[(&str, &str)]) -> Self {
        let endpoint = receiver.http_endpoint();
        let base = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "1"),
            NEVER,
        ];
        let mut all: Vec<_> = base
            .into_iter()
            .filter(|(name, _)| pairs.iter().all(|(given, _)| given != name))
            .collect();
        all.extend_from_slice(pairs);
        let bench = Self::start(component, &all);
        assert_eq!(bench.warnings, Vec::<String>::new());
        bench
    }

    fn logger(&self) -> slog::Logger {
        self.telemetry.as_ref().expect("running").logger().clone()
    }

    fn end_within(&mut self, limit: Duration) -> Losses {
        self.telemetry.take().expect("running").shutdown(limit)
    }

    fn end(&mut self) -> Losses {
        self.end_within(PATIENCE)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Waits until the log has `text`.
    fn wait_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).expect("the log")
    }
}

fn wait(receiver: &Receiver, done: impl FnMut(&Receiver) -> bool) {
    if let Err(seen) = receiver.wait_for(PATIENCE, done) {
        panic!("{seen}");
    }
}

fn one<'a>(points: &'a [Point], name: &str) -> &'a Point {
    let found: Vec<_> = points.iter().filter(|point| point.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {points:#?}");
    found[0]
}

fn attributes(pairs: &[(&str, serde_json::Value)]) -> BTreeMap<String, serde_json::Value> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("http/protobuf", Protocol::HttpProtobuf),
    ("http/json", Protocol::HttpJson),
    ("grpc", Protocol::Grpc),
];

#[test]
fn every_protocol_carries_names_kinds_units_attributes_and_resource() {
    for (name, protocol) in PROTOCOLS {
        for (compression, gzip) in [("none", false), ("gzip", true)] {
            let receiver = Receiver::start();
            let mut bench = Bench::to(
                &receiver,
                Component::Egress,
                &[
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
                    ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
                    (
                        "OTEL_EXPORTER_OTLP_HEADERS",
                        "Authorization=Bearer%20t,x-tenant=a",
                    ),
                    ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod%201"),
                    ("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-1"),
                    ("OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS", "team=blue"),
                ],
            );
            bench.metrics.cups.add(3);
            bench.metrics.guests.add(5);
            bench.metrics.guests.add(-2);
            bench.metrics.brewing.record(0.3);
            info!(bench.logger(), "tea is ready"; o!("opensandbox.event" => "tea.ready", "cups" => 3));
            let losses = bench.end();
            assert_eq!(
                (losses.metric_points, losses.log_records),
                (0, 0),
                "{}",
                bench.log()
            );
            assert!(losses.metrics_flushed);
            receiver.assert_clean();

            let points = receiver.all_points();
            let shared = attributes(&[("sandbox_id", "sb-1".into()), ("team", "blue".into())]);
            let cups = one(&points, "test.cups.count");
            assert_eq!(
                (cups.scope.as_str(), cups.unit.as_str()),
                ("opensandbox/test", "{cup}")
            );
            assert_eq!(cups.description, "Cups served.");
            assert_eq!(
                cups.kind,
                Kind::Sum {
                    monotonic: true,
                    delta: false
                }
            );
            assert_eq!(cups.value, Number::Int(3));
            assert_eq!(cups.attributes, shared);
            let guests = one(&points, "test.guests");
            assert_eq!(
                guests.kind,
                Kind::Sum {
                    monotonic: false,
                    delta: false
                }
            );
            assert_eq!(guests.value, Number::Int(3));
            let brewing = one(&points, "test.brewing.duration");
            assert_eq!(brewing.kind, Kind::Histogram { delta: false });
            let Number::Histogram {
                count, sum, bounds, ..
            } = &brewing.value
            else {
                panic!("{brewing:?}");
            };
            assert_eq!((*count, *sum, bounds.as_slice()), (1, 0.3, HTTP_SECONDS));

            let records = receiver.records();
            assert_eq!(records.len(), 1, "{records:?}");
            let record = &records[0];
            assert_eq!(record.body, "tea is ready");
            assert_eq!(record.event_name, "tea.ready");
            assert_eq!(record.scope, "opensandbox.egress");
            assert_eq!(record.attributes.get("cups"), Some(&3.into()));
            assert_eq!(record.attributes.get("sandbox_id"), Some(&"sb-1".into()));
            for resource in [&cups.resource, &record.resource] {
                let service = format!("opensandbox-egress-{}", opensandbox::version::VERSION);
                for (key, value) in [
                    ("service.name", service.as_str()),
                    ("service.version", opensandbox::version::VERSION),
                    ("sandbox_id", "sb-1"),
                    ("k8s.pod.name", "pod 1"),
                    ("os.type", "linux"),
                ] {
                    assert_eq!(resource.get(key), Some(&value.into()), "{key}");
                }
            }
            assert_eq!(cups.resource, record.resource);

            for request in receiver.requests() {
                assert_eq!((request.protocol, request.gzip), (protocol, gzip));
                let header = |name: &str| request.headers.get(name).map(String::as_str);
                assert_eq!(header("authorization"), Some("Bearer t"));
                assert_eq!(header("x-tenant"), Some("a"));
                assert!(header("user-agent").is_some_and(|agent| agent.starts_with("opensandbox")));
            }
            assert!(!bench.log().contains("Bearer"), "{}", bench.log());
        }
    }
}

#[test]
fn the_interval_is_honoured_and_the_connection_is_kept() {
    for (name, _) in PROTOCOLS {
        let receiver = Receiver::start();
        let mut bench = Bench::to(
            &receiver,
            Component::Execd,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
                ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
        );
        bench.metrics.cups.add(1);
        wait(&receiver, |receiver| receiver.metrics().len() >= 4);
        assert_eq!(receiver.connections(), 1, "{name}");
        assert_eq!(bench.end().metric_points, 0);
        receiver.assert_clean();
    }
}

#[test]
fn temporality_and_histograms_follow_the_preference() {
    for (preference, sum_delta, histogram_delta) in [
        ("cumulative", false, false),
        ("delta", true, true),
        ("lowmemory", true, true),
    ] {
        for exponential in [false, true] {
            let aggregation = if exponential {
                "base2_exponential_bucket_histogram"
            } else {
                "explicit_bucket_histogram"
            };
            let receiver = Receiver::start();
            let mut bench = Bench::to(
                &receiver,
                Component::Execd,
                &[
                    (
                        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                        preference,
                    ),
                    (
                        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                        aggregation,
                    ),
                ],
            );
            bench.metrics.cups.add(1);
            bench.metrics.guests.add(1);
            bench.metrics.brewing.record(0.5);
            bench.end();
            receiver.assert_clean();
            let points = receiver.all_points();
            let kind = |name| one(&points, name).kind;
            assert_eq!(
                kind("test.cups.count"),
                Kind::Sum {
                    monotonic: true,
                    delta: sum_delta
                }
            );
            // An up-down counter is a level: deltas of it say nothing.
            assert_eq!(
                kind("test.guests"),
                Kind::Sum {
                    monotonic: false,
                    delta: false
                }
            );
            let expected = if exponential {
                Kind::ExponentialHistogram {
                    delta: histogram_delta,
                }
            } else {
                Kind::Histogram {
                    delta: histogram_delta,
                }
            };
            assert_eq!(kind("test.brewing.duration"), expected, "{preference}");
        }
    }
}

#[test]
fn http_attributes_follow_the_opt_in() {
    for (opt_in, keys, standard) in [
        ("", ["http.method", "http.status_code"].as_slice(), false),
        (
            "http",
            &["http.request.method", "http.response.status_code"],
            true,
        ),
        (
            "http/dup",
            &[
                "http.method",
                "http.request.method",
                "http.response.status_code",
                "http.status_code",
            ],
            true,
        ),
    ] {
        let receiver = Receiver::start();
        let pairs = [("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        let request = HttpRequest {
            method: Method::Post,
            route: "/code/contexts/:contextId",
            status: 503,
        };
        for _ in 0..2 {
            bench.metrics.requests.add_for(1, &request);
        }
        bench.metrics.request_duration.record_for(0.2, &request);
        bench.metrics.server_duration.record(0.2, request);
        bench.end();
        receiver.assert_clean();
        let points = receiver.all_points();
        let requests = one(&points, "test.http.request.count");
        assert_eq!(requests.value, Number::Int(2));
        let mut expected: Vec<_> = keys.to_vec();
        expected.push("http.route");
        expected.sort_unstable();
        let found: Vec<_> = requests.attributes.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{opt_in:?}");
        assert_eq!(
            requests.attributes.get("http.route"),
            Some(&"/code/contexts/:contextId".into())
        );
        let all = receiver.points("http.server.request.duration");
        assert_eq!(all.len(), usize::from(standard), "{opt_in:?}");
        if let Some(point) = all.first() {
            assert_eq!(point.attributes.get("error.type"), Some(&"503".into()));
        }
    }
}

#[test]
fn temporary_faults_are_retried_until_the_receiver_has_everything() {
    for (name, protocol) in PROTOCOLS {
        let mut faults = vec![
            Fault::Status(429),
            Fault::Status(502),
            Fault::Status(503),
            Fault::Status(504),
            Fault::RetryAfter(429, "0".to_owned()),
            Fault::Reset,
        ];
        if protocol == Protocol::Grpc {
            faults.push(Fault::Grpc(14));
            faults.push(Fault::GrpcRetryAfter(8, Duration::from_millis(1)));
        }
        for fault in faults {
            let receiver = Receiver::start();
            receiver.script_for(Signal::Logs, fault.clone());
            let pairs = [("OTEL_EXPORTER_OTLP_PROTOCOL", name)];
            let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
            info!(bench.logger(), "once");
            wait(&receiver, |receiver| receiver.records().len() == 1);
            let losses = bench.end();
            assert_eq!(losses.log_records, 0, "{name} {fault:?}: {}", bench.log());
            receiver.assert_clean();
        }
    }
}

#[test]
fn the_receiver_says_how_long_to_wait() {
    for (name, fault) in [
        ("http/protobuf", Fault::RetryAfter(429, "1".to_owned())),
        ("http/json", Fault::RetryAfter(503, "1".to_owned())),
        ("grpc", Fault::GrpcRetryAfter(14, Duration::from_secs(1))),
    ] {
        let receiver = Receiver::start();
        receiver.script(fault);
        let pairs = [("OTEL_EXPORTER_OTLP_PROTOCOL", name)];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        let start = Instant::now();
        info!(bench.logger(), "once");
        wait(&receiver, |receiver| receiver.records().len() == 1);
        assert!(start.elapsed() >= Duration::from_secs(1), "{name}");
        assert_eq!(bench.end().log_records, 0);
    }
}

#[test]
fn permanent_faults_are_not_retried_and_are_counted_by_reason() {
    for (name, fault, reason) in [
        ("http/protobuf", Fault::Status(400), "400"),
        ("http/protobuf", Fault::Status(401), "401"),
        ("http/json", Fault::Status(413), "413"),
        ("http/json", Fault::Status(500), "500"),
        ("http/protobuf", Fault::Status(307), "307"),
        ("grpc", Fault::Grpc(3), "INVALID_ARGUMENT"),
        ("grpc", Fault::Grpc(16), "UNAUTHENTICATED"),
        ("grpc", Fault::Grpc(8), "RESOURCE_EXHAUSTED"),
        ("grpc", Fault::Status(404), "404"),
    ] {
        let receiver = Receiver::start();
        receiver.script_for(Signal::Logs, fault.clone());
        let pairs = [("OTEL_EXPORTER_OTLP_PROTOCOL", name)];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        info!(bench.logger(), "lost");
        bench.wait_log("an export failed");
        let losses = bench.end();
        assert_eq!(losses.log_records, 1, "{name} {fault:?}: {}", bench.log());
        let of_logs = |request: &&Request| request.signal() == Signal::Logs;
        assert_eq!(
            receiver.requests().iter().filter(of_logs).count(),
            1,
            "{name} {fault:?}"
        );
        let log = bench.log();
        assert!(log.contains("an export failed"), "{log}");
        assert!(log.contains("telemetry was lost"), "{log}");
        let points = receiver.points("otel.sdk.exporter.log.exported");
        let lost = points
            .iter()
            .find(|point| point.attributes.get("error.type") == Some(&reason.into()));
        assert!(
            lost.is_some_and(|lost| lost.value == Number::Int(1)),
            "{reason}: {points:?}"
        );
    }
}

#[test]
fn a_partial_success_is_counted_and_told_and_not_retried() {
    for (name, _) in PROTOCOLS {
        let receiver = Receiver::start();
        let partial = |rejected| Fault::PartialSuccess {
            rejected,
            message: "too old".to_owned(),
        };
        receiver.script_for(Signal::Logs, partial(2));
        let pairs = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
            ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "3"),
        ];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        for _ in 0..3 {
            info!(bench.logger(), "some of them");
        }
        bench.wait_log("too old");
        assert_eq!(bench.end().log_records, 2, "{name}");
        assert_eq!(receiver.logs().len(), 1);
        let points = receiver.points("otel.sdk.exporter.log.exported");
        let value = |reason: Option<&str>| {
            let reason = reason.map(serde_json::Value::from);
            let point = points
                .iter()
                .find(|point| point.attributes.get("error.type") == reason.as_ref());
            point.map(|point| point.value.as_f64())
        };
        assert_eq!(
            (value(None), value(Some("rejected"))),
            (Some(1.0), Some(2.0)),
            "{name}"
        );
    }
}

#[test]
fn a_receiver_that_hangs_or_never_stops_is_left_in_time() {
    for (name, _) in PROTOCOLS {
        for (fault, reason) in [(Fault::Hang, "timeout"), (Fault::EndlessBody, "protocol")] {
            let receiver = Receiver::start();
            receiver.script_for(Signal::Logs, fault.clone());
            let pairs = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ];
            let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
            info!(bench.logger(), "lost");
            wait(&receiver, |receiver| !receiver.requests().is_empty());
            // The next batch is not held up for longer than the time limit.
            info!(bench.logger(), "kept");
            wait(&receiver, |receiver| {
                receiver
                    .records()
                    .iter()
                    .any(|record| record.body == "kept")
            });
            // Over HTTP the status has accepted the batch; gRPC has its status at the very end.
            let lost = fault == Fault::Hang || name == "grpc";
            assert_eq!(bench.end().log_records, u64::from(lost), "{name} {fault:?}");
            let points = receiver.points("otel.sdk.exporter.log.exported");
            let failed = points
                .iter()
                .find_map(|point| point.attributes.get("error.type"));
            assert_eq!(
                failed,
                lost.then(|| reason.into()).as_ref(),
                "{name} {points:?}"
            );
        }
    }
}

#[test]
fn an_answer_that_is_no_message_does_not_lose_what_was_accepted() {
    for (name, _) in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.script_for(Signal::Logs, Fault::Garbage);
        let pairs = [("OTEL_EXPORTER_OTLP_PROTOCOL", name)];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        info!(bench.logger(), "taken");
        wait(&receiver, |receiver| !receiver.requests().is_empty());
        assert_eq!(bench.end().log_records, 0, "{name}: {}", bench.log());
    }
}

#[test]
fn a_dead_receiver_bounds_the_end_and_everything_is_counted() {
    for (name, _) in PROTOCOLS {
        let mut receiver = Receiver::start();
        receiver.down();
        let pairs = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "4"),
        ];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        bench.metrics.cups.add(1);
        for _ in 0..50 {
            info!(bench.logger(), "lost");
        }
        let losses = bench.end_within(Duration::from_secs(3));
        assert_eq!(losses.log_records, 50, "{name}");
        assert!(losses.metric_points >= 1, "{name}: {losses:?}");
        let log = bench.log();
        assert_eq!(log.matches("\"msg\":\"lost\"").count(), 50, "{log}");
        assert!(log.contains("telemetry was lost"), "{log}");
        assert!(
            log.lines().count() < 60,
            "the failures flood the log: {log}"
        );
    }
}

#[test]
fn a_hanging_receiver_bounds_the_end() {
    for (name, _) in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.always(Some(Fault::Hang));
        let pairs = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", name),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BLRP_EXPORT_TIMEOUT", "60000"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "60000"),
        ];
        let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
        bench.metrics.cups.add(1);
        info!(bench.logger(), "lost");
        wait(&receiver, |receiver| !receiver.requests().is_empty());
        let start = Instant::now();
        let losses = bench.end_within(Duration::from_secs(1));
        // Far below the time limit of one export.
        let took = start.elapsed();
        assert!(took < PATIENCE, "{took:?}");
        assert_eq!(losses.log_records, 1, "{name}");
    }
}

#[test]
fn exports_resume_when_the_receiver_comes_back() {
    let mut receiver = Receiver::start();
    receiver.down();
    let mut bench = Bench::to(&receiver, Component::Execd, &[]);
    info!(bench.logger(), "patience");
    std::thread::sleep(Duration::from_millis(200));
    receiver.resume();
    wait(&receiver, |receiver| receiver.records().len() == 1);
    assert_eq!(bench.end().log_records, 0);
    receiver.assert_clean();
}

#[test]
fn tls_checks_the_receiver_and_shows_the_client() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let client = authority.client();
    let root = authority.root_file().display().to_string();
    let other_root = stranger.root_file().display().to_string();
    let certificate = client.certificate_file().display().to_string();
    let key = client.key_file().display().to_string();
    for (name, _) in PROTOCOLS {
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", name);
        let trusted = ("OTEL_EXPORTER_OTLP_CERTIFICATE", root.as_str());
        let identity = [
            (
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                certificate.as_str(),
            ),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.as_str()),
        ];
        for (mutual, pairs, works) in [
            (false, vec![protocol, trusted], true),
            (
                true,
                vec![protocol, trusted, identity[0], identity[1]],
                true,
            ),
            (true, vec![protocol, trusted], false),
            (
                false,
                vec![
                    protocol,
                    ("OTEL_EXPORTER_OTLP_CERTIFICATE", other_root.as_str()),
                ],
                false,
            ),
            (false, vec![protocol], false),
        ] {
            let config = authority.server_config(mutual);
            let receiver = Receiver::start_tls(config);
            let mut all = pairs.clone();
            all.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "20000"));
            let mut bench = Bench::to(&receiver, Component::Execd, &all);
            info!(bench.logger(), "private");
            if works {
                wait(&receiver, |receiver| receiver.records().len() == 1);
            }
            let losses = bench.end_within(Duration::from_secs(5));
            assert_eq!(
                losses.log_records,
                u64::from(!works),
                "{pairs:?}: {}",
                bench.log()
            );
            assert_eq!(receiver.records().len(), usize::from(works), "{pairs:?}");
        }
    }
}

#[test]
fn certificates_that_cannot_be_used_export_nothing_rather_than_trust_others() {
    let authority = Authority::new();
    let receiver = Receiver::start_tls(authority.server_config(false));
    let client = authority.client();
    let certificate = client.certificate_file().display().to_string();
    for pair in [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/does/not/exist.pem"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/dev/null"),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            certificate.as_str(),
        ),
    ] {
        let mut bench = Bench::to(&receiver, Component::Execd, &[pair]);
        bench.metrics.cups.add(1);
        info!(bench.logger(), "kept at home");
        bench.end();
        let log = bench.log();
        let refused = log.matches("an exporter cannot be used").count();
        assert_eq!(refused, 2, "{pair:?}: {log}");
        assert_eq!(receiver.connections(), 0);
    }
}

#[test]
fn a_full_queue_is_counted_and_the_logger_is_not_held_up() {
    let receiver = Receiver::start();
    receiver.always(Some(Fault::Hang));
    let pairs = [
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "10"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "60000"),
    ];
    let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
    for _ in 0..1000 {
        info!(bench.logger(), "much");
    }
    let losses = bench.end_within(Duration::from_secs(1));
    assert_eq!(losses.log_records, 1000);
}

/// The sockets this process has open.
fn sockets() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc");
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .collect()
}

/// Names of the threads of this process.
fn threads() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/task").expect("/proc");
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .collect()
}

/// Run again in a process of its own, because the other tests open sockets and start threads.
#[test]
fn nothing_configured_opens_no_socket_and_starts_no_exporter() {
    const MARK: &str = "TELEMETRY_EXPORT_ALONE";
    if std::env::var_os(MARK).is_none() {
        let this = std::env::current_exe().expect("this test");
        let name = "nothing_configured_opens_no_socket_and_starts_no_exporter";
        let status = std::process::Command::new(this)
            .args([name, "--exact", "--test-threads=1", "--nocapture"])
            .env(MARK, "1")
            .status()
            .expect("run this test alone");
        assert!(status.success());
        return;
    }
    let before = sockets();
    for pairs in [
        vec![],
        vec![("HOST_IP", "127.0.0.1")],
        vec![
            ("OTEL_SDK_DISABLED", "true"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://collector.invalid:4318",
            ),
        ],
        vec![
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://collector.invalid:4318",
            ),
        ],
    ] {
        let mut bench = Bench::start(Component::Egress, &pairs);
        assert_eq!(bench.warnings, Vec::<String>::new());
        bench.metrics.cups.add(1);
        bench.metrics.brewing.record(1.0);
        info!(bench.logger(), "only here");
        assert_eq!(sockets(), before, "{pairs:?}");
        let exporting: Vec<_> = threads()
            .into_iter()
            .filter(|name| {
                ["otel", "OpenTel", "async-io", "blocking"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            })
            .collect();
        assert_eq!(exporting, Vec::<String>::new(), "{pairs:?}");
        let losses = bench.end();
        assert_eq!((losses.metric_points, losses.log_records), (0, 0));
        assert_eq!(bench.log().lines().count(), 1, "{}", bench.log());
    }
}

fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("receive");
    answer
}

#[test]
fn a_scraper_is_served_beside_the_push() {
    let receiver = Receiver::start();
    let pairs = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "0"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OPENSANDBOX_ID", "sb-1"),
    ];
    let mut bench = Bench::to(&receiver, Component::Execd, &pairs);
    let runtime = Runtime::new(NonZeroUsize::MIN.saturating_add(1)).expect("threads");
    let shutdown = Shutdown::new();
    let telemetry = bench.telemetry.as_ref().expect("running");
    let addresses = telemetry.serve_scrapers(&runtime.spawner(), shutdown.clone());
    let address = *addresses.first().expect("an address");
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    bench.metrics.cups.add(2);
    for _ in 0..2 {
        let answer = get(
            address,
            "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        // Cumulative, whatever the push prefers.
        let line =
            "test_cups_count_total{otel_scope_name=\"opensandbox/test\",sandbox_id=\"sb-1\"} 2\n";
        assert!(answer.contains(line), "{answer}");
        assert!(
            answer.contains("service_name=\"opensandbox-execd-"),
            "{answer}"
        );
    }
    let missing = get(
        address,
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    let refused = get(
        address,
        "PUT /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
    shutdown.trigger();
    bench.end();
    let points = receiver.all_points();
    let cups = one(&points, "test.cups.count");
    assert_eq!(
        cups.kind,
        Kind::Sum {
            monotonic: true,
            delta: true
        }
    );
}

#[test]
fn otlp_without_an_endpoint_is_one_warning_and_no_export() {
    let mut bench = Bench::start(Component::Execd, &[("OTEL_METRICS_EXPORTER", "otlp")]);
    assert_eq!(bench.warnings.len(), 1, "{:?}", bench.warnings);
    bench.metrics.cups.add(1);
    assert_eq!(bench.end().metric_points, 0);
}
