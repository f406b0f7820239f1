//! The events of ingress: fields in order, types, and what they leave out.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opensandbox::ingress::access::{Denied, Granted, Refusal};
use opensandbox::ingress::events::{Accessed, Failure, Observer};
use opensandbox::ingress::metrics::{Metrics, ProxyType, UpstreamError};
use opensandbox::ingress::provider::Missing;
use opensandbox::ingress::route::{Mode, Route};
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::trace_context::TraceContext;
use serde_json::{Map, Value, json};

use super::logged;

const COMMON: [&str; 6] = ["level", "ts", "logger", "msg", "team", "opensandbox.event"];

/// The one line that `act` has the log write, its keys in order.
pub fn line(act: impl FnOnce(&Observer)) -> Map<String, Value> {
    logged("opensandbox.ingress", &[("team", "red")], |logger| {
        act(&Observer::new(logger, Metrics::new(&Meter::noop())));
    })
}

/// A request that went well.
fn access<'a>(trace: &'a TraceContext) -> Accessed<'a> {
    Accessed {
        target: Some("10.244.1.5:8080"),
        client: "192.0.2.7",
        uri: "/sb-abc/8080/1vuhmo0/b4ebd53bk/v1/run?x=1",
        method: &Method::POST,
        route: Some(("sb-abc", 8080)),
        status: Some(StatusCode::OK),
        proxy_type: ProxyType::Http,
        elapsed: Duration::from_micros(12_345),
        bytes_in: 17,
        bytes_out: 4096,
        mode: Mode::Uri,
        granted: Some(Granted::Signature(b'k')),
        failure: None,
        trace,
    }
}

/// What the document shows.
pub fn proxied(to: &Observer) {
    access(&TraceContext::default()).emit(to);
}

#[track_caller]
fn assert_fields(access: &Accessed<'_>, fields: &[(&str, Value)]) {
    let line = line(|to| access.emit(to));
    let keys = COMMON.into_iter().chain(fields.iter().map(|(key, _)| *key));
    assert_eq!(
        line.keys().collect::<Vec<_>>(),
        keys.collect::<Vec<_>>(),
        "{line:?}"
    );
    assert_eq!(line["level"], "info");
    assert_eq!(line["logger"], "opensandbox.ingress");
    assert_eq!(line["msg"], "ingress requested");
    assert_eq!(line["opensandbox.event"], "ingress.access");
    for (key, value) in fields {
        assert_eq!(line[*key], *value, "{key}");
    }
}

#[test]
fn a_request_that_went_well() {
    let trace = TraceContext::default();
    let fields = [
        ("target", json!("10.244.1.5:8080")),
        ("client", json!("192.0.2.7")),
        ("uri", json!("/sb-abc/8080/1vuhmo0/*********/v1/run?x=1")),
        ("method", json!("POST")),
        ("sandbox_id", json!("sb-abc")),
        ("port", json!(8080)),
        ("status", json!(200)),
        ("proxy_type", json!("http")),
        ("duration_ms", json!(12.345)),
        ("bytes_in", json!(17)),
        ("bytes_out", json!(4096)),
        ("route_mode", json!("uri")),
        ("auth", json!("signature")),
        ("key_id", json!("k")),
    ];
    assert_fields(&access(&trace), &fields);
    let by_header = Accessed {
        granted: Some(Granted::Header),
        proxy_type: ProxyType::WebSocket,
        status: Some(StatusCode::SWITCHING_PROTOCOLS),
        ..access(&trace)
    };
    let line = line(|to| by_header.emit(to));
    assert_eq!(line["auth"], "header");
    assert_eq!(line["proxy_type"], "websocket");
    assert_eq!(line["status"], 101);
    assert!(!line.contains_key("key_id"));
}

#[test]
fn a_request_that_was_refused() {
    let trace = TraceContext::default();
    let refused = |refusal: &Refusal, route| {
        let access = Accessed {
            target: None,
            uri: "/",
            route,
            status: Some(refusal.status()),
            granted: None,
            failure: Some(Failure::Refused(refusal)),
            bytes_in: 0,
            bytes_out: 0,
            mode: Mode::Header,
            ..access(&trace)
        };
        line(|to| access.emit(to))
    };
    let known = Some(("sb-abc", 8080));
    let unreadable = Route::from_label("sb-08080-0-abcdef12k", "/").unwrap_err();
    for (refusal, route, error, error_type, status) in [
        (
            Refusal::from(unreadable),
            None,
            "invalid ingress route: invalid port format",
            "route",
            400,
        ),
        (Refusal::Port(22), known, "port 22 is not open", "port", 403),
        (
            Denied::Expired.into(),
            known,
            "signature: access expired",
            "denied",
            401,
        ),
        (
            Missing::NotFound {
                id: "sb-abc".to_owned(),
            }
            .into(),
            known,
            "sandbox not found: sb-abc",
            "not_found",
            404,
        ),
    ] {
        let line = refused(&refusal, route);
        assert_eq!(line["error"], error);
        assert_eq!(line["error_type"], error_type);
        assert_eq!(line["status"], status);
        assert_eq!(line.contains_key("sandbox_id"), route.is_some());
        assert!(!line.contains_key("target") && !line.contains_key("auth"));
    }
    // Where a sandbox is, is told to the log alone.
    let unready = Missing::NotReady {
        reason: "no endpoint".to_owned(),
        object: "ns-a/sb-abc".to_owned(),
        token: None,
    };
    let line = refused(&unready.into(), known);
    assert_eq!(line["error_type"], "not_ready");
    assert_eq!(line["object"], "ns-a/sb-abc");
    let ambiguous = Missing::Ambiguous {
        id: "sb-abc".to_owned(),
        objects: vec!["ns-a/sb-abc".to_owned(), "ns-b/sb-abc".to_owned()],
    };
    let line = refused(&ambiguous.into(), known);
    assert_eq!(line["error_type"], "ambiguous");
    assert_eq!(line["object"], "ns-a/sb-abc ns-b/sb-abc");
}

#[test]
fn a_request_whose_sandbox_failed_and_one_whose_client_left() {
    let trace = TraceContext::default();
    let failed = Accessed {
        status: Some(StatusCode::BAD_GATEWAY),
        failure: Some(Failure::Upstream {
            kind: UpstreamError::ConnectRefused,
            cause: "cannot connect to 10.244.1.5:8080: Connection refused",
        }),
        granted: Some(Granted::Open),
        ..access(&trace)
    };
    let line_of = line(|to| failed.emit(to));
    assert_eq!(line_of["auth"], "none");
    assert_eq!(line_of["error_type"], "connect_refused");
    assert_eq!(
        line_of["error"],
        "cannot connect to 10.244.1.5:8080: Connection refused"
    );
    let left = Accessed {
        status: None,
        ..access(&trace)
    };
    assert_eq!(line(|to| left.emit(to))["status"], 499);
}

#[test]
fn a_record_names_the_trace_of_its_request() {
    let mut headers = HeaderMap::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", HeaderValue::from_static(parent));
    let trace = TraceContext::from_headers(&headers);
    let line = line(|to| access(&trace).emit(to));
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(line["span_id"], "b7ad6b7169203331");
}
