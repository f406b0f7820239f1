//! What a receiver gets of a running ingress: every instrument and every access record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opensandbox::ingress::metrics::Metrics;
use opensandbox::version::VERSION;
use serde_json::{Value, json};
use support::http::request;
use support::otlp::{Point, Receiver};
use support::redis::Server;

use crate::scene::{Backend, PATIENCE, Scene, TOKEN};
use support::eventually;

/// Exists only with `OTEL_SEMCONV_STABILITY_OPT_IN`.
const STANDARD: &str = "http.server.request.duration";

const TRACE: [&str; 2] = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"];

/// The sum over the last points of the series of `name` whose attributes include `with`.
fn total(points: &[Point], name: &str, with: &[(&str, Value)]) -> f64 {
    let mut last = BTreeMap::new();
    for point in points.iter().filter(|point| point.name == name) {
        let includes = |(key, value): &(&str, Value)| point.attributes.get(*key) == Some(value);
        if with.iter().all(includes) {
            last.insert(format!("{:?}", point.attributes), point.value.as_f64());
        }
    }
    last.values().sum()
}

#[test]
fn everything_that_happens_reaches_the_receiver() {
    let Some(redis) = Server::start() else { return };
    let receiver = Receiver::start();
    let scene = Scene::new();
    let ingress = scene
        .ingress()
        .arg("--secure-access-keys=a=YQ==")
        .arg("--renew-intent-enabled")
        .arg(format!(
            "--renew-intent-redis-dsn=redis://{}",
            redis.address()
        ))
        .arg("--drain-delay=0");
    let builder = ingress
        .builder
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_METRIC_EXPORT_INTERVAL", 200)
        .env("OPENSANDBOX_INGRESS_METRICS_EXTRA_ATTRS", "team=red");
    let mut ingress = crate::scene::Ingress { builder, ..ingress }.spawn();
    let port = scene.port();

    let parent = format!("00-{}-{}-01", TRACE[0], TRACE[1]);
    let trace = [
        ("traceparent", &*parent),
        ("tracestate", "vendor=1"),
        ("baggage", "user=7"),
    ];
    let open = format!("open-{port}");
    let shut = format!("shut-{port}");
    let signed = format!("shut-{port}-1vuhmo0-01234567a");
    let dead = format!("open-{}", support::free_port());
    let to = |route: &str, headers: &[(&str, &str)], method: &str, body: &str| {
        let headers = [&[("OpenSandbox-Ingress-To", route)], headers].concat();
        let answer = request(ingress.address, method, "/x?y=1", &headers, body);
        answer.expect("an answer").status
    };
    assert_eq!(to(&open, &trace, "POST", "four"), 200);
    assert_eq!(to(&open, &[], "BREW", ""), 200);
    assert_eq!(
        to(&shut, &[("OpenSandbox-Secure-Access", TOKEN)], "GET", ""),
        200
    );
    assert_eq!(to(&shut, &[], "GET", ""), 401);
    assert_eq!(to(&signed, &[], "GET", ""), 401);
    assert_eq!(to("nobody-80", &[], "GET", ""), 404);
    assert_eq!(to("no route", &[], "GET", ""), 400);
    assert_eq!(to(&dead, &[], "GET", ""), 502);
    // The trace of the caller goes on untouched.
    let seen = &scene.backend.requests()[0];
    for (name, value) in trace {
        assert_eq!(seen.header(name), Some(value));
    }

    let backend = Backend::start();
    let tunnel = format!("open-{}", backend.address.port());
    let address = ingress.address;
    let opened = std::thread::spawn(move || {
        let headers = [("OpenSandbox-Ingress-To", &*tunnel)];
        support::websocket::Client::connect(address, "/ws", &headers)
    });
    let mut other = backend.next();
    other.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let mut client = opened.join().unwrap().expect("a WebSocket");
    client.text("hello");
    eventually(|| {
        let points = receiver.all_points();
        (total(&points, "ingress.proxy.websocket.connections.active", &[]) == 1.0).then_some(())
    });
    drop(client);
    other.ended();
    eventually(|| (!redis.consumed(&[], "opensandbox:renew:intent").is_empty()).then_some(()));
    ingress.daemon.signal(rustix::process::Signal::TERM);
    assert!(ingress.daemon.wait(PATIENCE).success());
    ingress.daemon.assert_well_formed();
    receiver.assert_clean();

    let points = receiver.all_points();
    let sent: BTreeSet<_> = points.iter().map(|point| &*point.name).collect();
    for instrument in Metrics::INVENTORY {
        let expected = instrument.name != STANDARD;
        assert_eq!(
            sent.contains(instrument.name),
            expected,
            "{}",
            instrument.name
        );
    }
    for point in points.iter().filter(|point| point.scope == Metrics::SCOPE) {
        assert_eq!(point.attributes.get("team"), Some(&json!("red")));
        let service = point.resource.get("service.name");
        assert_eq!(
            service,
            Some(&json!(format!("opensandbox-ingress-{VERSION}")))
        );
        let text = format!("{:?}", point.attributes);
        assert!(
            !text.contains("open") && !text.contains("127.0.0.1"),
            "{text}"
        );
    }
    let count = |name: &str, with: &[(&str, Value)]| total(&points, name, with);
    let requests = |method: &str, status: u16, proxy_type: &str| {
        count(
            "ingress.http.request.count",
            &[
                ("http.method", json!(method)),
                ("http.status_code", json!(status)),
                ("proxy_type", json!(proxy_type)),
            ],
        )
    };
    assert_eq!(requests("POST", 200, "http"), 1.0);
    assert_eq!(requests("_OTHER", 200, "http"), 1.0);
    assert_eq!(requests("GET", 401, "http"), 2.0);
    assert_eq!(requests("GET", 404, "http"), 1.0);
    assert_eq!(requests("GET", 400, "http"), 1.0);
    assert_eq!(requests("GET", 502, "http"), 1.0);
    assert_eq!(requests("GET", 101, "websocket"), 1.0);
    assert_eq!(count("ingress.http.request.count", &[]), 9.0);
    let resolved = |result: &str| {
        count(
            "ingress.routing.resolutions.count",
            &[("result", json!(result))],
        )
    };
    // The one without a route was not looked up.
    assert_eq!((resolved("success"), resolved("not_found")), (7.0, 1.0));
    let decided = |result: &str| {
        count(
            "ingress.secure_access.decisions.count",
            &[("result", json!(result))],
        )
    };
    assert_eq!(decided("not_required"), 4.0);
    assert_eq!(decided("header_ok"), 1.0);
    assert_eq!(decided("signature_required"), 1.0);
    assert_eq!(decided("bad_signature"), 1.0);
    assert_eq!(count("ingress.proxy.http.requests_total", &[]), 4.0);
    assert_eq!(count("ingress.proxy.websocket.connections_total", &[]), 1.0);
    for active in [
        "ingress.http.requests.active",
        "ingress.proxy.websocket.connections.active",
    ] {
        assert_eq!(count(active, &[]), 0.0, "{active}");
    }
    let refused = [("error.type", json!("connect_refused"))];
    assert_eq!(count("ingress.upstream.errors.count", &refused), 1.0);
    assert_eq!(
        count("ingress.cache.objects", &[("provider", json!("static"))]),
        2.0
    );
    assert_eq!(count("ingress.cache.synced", &[]), 1.0);
    let published = [("result", json!("published"))];
    assert_eq!(count("ingress.renew_intent.events.count", &published), 2.0);
    assert!(count("ingress.proxy.io.bytes", &[("direction", json!("in"))]) >= 4.0);

    // The log and the receiver say the same.
    let written = ingress.daemon.events("ingress.access");
    let records: Vec<_> = receiver
        .records()
        .into_iter()
        .filter(|record| record.event_name == "ingress.access")
        .collect();
    assert_eq!((written.len(), records.len()), (9, 9));
    for (line, record) in written.iter().zip(&records) {
        for (key, value) in record.attributes.iter() {
            assert_eq!(line.get(key), Some(value), "{key} in {line}");
        }
        assert_eq!(record.body, line["msg"]);
        assert!(!line.to_string().contains("01234567a"), "{line}");
    }
    let traced = &records[0];
    assert_eq!((&*traced.trace_id, &*traced.span_id), (TRACE[0], TRACE[1]));
    assert_eq!(written[0]["trace_id"], TRACE[0]);
    assert_eq!(records[1].trace_id, "");
}

#[test]
fn the_standard_duration_is_there_when_it_was_asked_for() {
    let receiver = Receiver::start();
    let scene = Scene::new();
    let ingress = scene.ingress().arg("--drain-delay=0");
    let builder = ingress
        .builder
        .env(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            receiver.http_endpoint(),
        )
        .env("OTEL_SEMCONV_STABILITY_OPT_IN", "http");
    let mut ingress = crate::scene::Ingress { builder, ..ingress }.spawn();
    let route = format!("open-{}", scene.port());
    let answer = ingress.get("/", &[("OpenSandbox-Ingress-To", &route)]);
    assert_eq!(answer.status, 200);
    ingress.daemon.signal(rustix::process::Signal::TERM);
    assert!(ingress.daemon.wait(PATIENCE).success());
    receiver
        .wait_for(Duration::from_secs(10), |receiver| {
            !receiver.points(STANDARD).is_empty()
        })
        .unwrap();
    let point = receiver.points(STANDARD).pop().unwrap();
    assert_eq!(
        point.attributes.get("http.request.method"),
        Some(&json!("GET"))
    );
    assert_eq!(
        point.attributes.get("http.response.status_code"),
        Some(&json!(200))
    );
    assert!(
        receiver.records().is_empty(),
        "no endpoint for logs is known"
    );
}
