//! A strict OTLP receiver: http/protobuf, http/json and gRPC on one port, with scripted faults.
//!
//! Whatever the protocol or the data model forbids becomes a violation, and a test that ends with
//! [`Receiver::assert_clean`] fails on it. A lenient collector would hide exactly the defects the
//! tests are for.

mod json;
mod schema;
mod serve;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use crate::port::Port;
use crate::watch::Watch;
pub use view::{Kind, Number, Point, Record, Value};

/// Which service a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `/v1/metrics`, `MetricsService`.
    Metrics,
    /// `/v1/logs`, `LogsService`.
    Logs,
}

/// How a request was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
    /// `grpc`.
    Grpc,
}

/// A decoded export.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Of the metrics service.
    Metrics(ExportMetricsServiceRequest),
    /// Of the logs service.
    Logs(ExportLogsServiceRequest),
}

/// One export request, whatever it was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// How it was encoded.
    pub protocol: Protocol,
    /// The path of its URL.
    pub path: String,
    /// Its headers; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body as sent.
    pub encoded_size: usize,
    /// Whether the body was compressed with gzip.
    pub gzip: bool,
    /// What it carried.
    pub payload: Payload,
    /// The fault that answered it; `None`: it was accepted in full.
    pub fault: Option<Fault>,
}

impl Request {
    /// Which service it is for.
    #[must_use]
    pub fn signal(&self) -> Signal {
        match self.payload {
            Payload::Metrics(_) => Signal::Metrics,
            Payload::Logs(_) => Signal::Logs,
        }
    }

    fn accepted(&self) -> bool {
        matches!(
            self.fault,
            None | Some(Fault::Slow(_) | Fault::PartialSuccess { .. })
        )
    }
}

/// What a request meets instead of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status, also for gRPC, as a proxy in between would answer.
    Status(u16),
    /// This HTTP status with a `Retry-After` header.
    RetryAfter(u16, String),
    /// This gRPC status; for HTTP requests 503.
    Grpc(u32),
    /// This gRPC status with `RetryInfo` in its details; for HTTP requests 503 and `Retry-After`.
    GrpcRetryAfter(u32, Duration),
    /// Success that says how many items were rejected, and why.
    PartialSuccess {
        /// Data points or log records rejected.
        rejected: i64,
        /// The reason given.
        message: String,
    },
    /// The answer never comes.
    Hang,
    /// The connection is reset.
    Reset,
    /// Success, after this long.
    Slow(Duration),
    /// Success whose body never ends.
    EndlessBody,
    /// Success with a body that is no message.
    Garbage,
}

/// Faults for the requests to come; an empty queue is success.
#[derive(Default)]
struct Script {
    next: VecDeque<(Option<Signal>, Fault)>,
    always: Vec<(Option<Signal>, Fault)>,
}

impl Script {
    fn take(&mut self, signal: Signal) -> Option<Fault> {
        let matches = |wanted: &Option<Signal>| wanted.is_none_or(|wanted| wanted == signal);
        if let Some(at) = self.next.iter().position(|(wanted, _)| matches(wanted)) {
            return self.next.remove(at).map(|(_, fault)| fault);
        }
        let always = self.always.iter().find(|(wanted, _)| matches(wanted));
        always.map(|(_, fault)| fault.clone())
    }
}

/// What the receiver knows.
#[derive(Default)]
struct State {
    requests: Vec<Request>,
    violations: Vec<String>,
    connections: usize,
    script: Script,
    schema: schema::Schema,
}

/// A running receiver; stops when dropped.
pub struct Receiver {
    state: Arc<Watch<State>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    port: Port,
}

impl Receiver {
    /// Listens on a port of 127.0.0.1, in plain text.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)
    }

    /// Listens on a port of 127.0.0.1 with TLS; see [`Authority`](crate::tls::Authority).
    #[must_use]
    pub fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(config))
    }

    /// Listens at `address`, whose port may be 0.
    #[must_use]
    pub fn start_at(address: SocketAddr, tls: Option<rustls::ServerConfig>) -> Self {
        let mut receiver = Self {
            state: Arc::default(),
            tls: tls.map(Arc::new),
            port: Port::new(address),
        };
        receiver.resume();
        receiver
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT` with an HTTP protocol.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT` with gRPC: the same port.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        self.http_endpoint()
    }

    /// Closes the port and every connection: from now on the kernel refuses.
    pub fn down(&mut self) {
        self.port.down();
    }

    /// Listens again, on the same port.
    pub fn resume(&mut self) {
        let (state, tls) = (self.state.clone(), self.tls.clone());
        let serve = move |listener: &_, stopped: &_| serve::run(listener, &state, tls, stopped);
        self.port.up("otlp-receiver", serve);
    }

    /// The next request meets `fault`. Calls queue up, one request each.
    pub fn script(&self, fault: Fault) {
        self.state
            .update(|state| state.script.next.push_back((None, fault)));
    }

    /// The next request for `signal` meets `fault`.
    pub fn script_for(&self, signal: Signal, fault: Fault) {
        self.state
            .update(|state| state.script.next.push_back((Some(signal), fault)));
    }

    /// Every request that no queued fault takes meets `fault`; `None` ends it.
    pub fn always(&self, fault: Option<Fault>) {
        self.state.update(|state| {
            state.script.always = fault.map(|fault| (None, fault)).into_iter().collect();
        });
    }

    /// Every well-formed request so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// The metric exports that were accepted.
    #[must_use]
    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        let accepted = self.requests().into_iter().filter(Request::accepted);
        accepted
            .filter_map(|request| match request.payload {
                Payload::Metrics(metrics) => Some(metrics),
                Payload::Logs(_) => None,
            })
            .collect()
    }

    /// The log exports that were accepted.
    #[must_use]
    pub fn logs(&self) -> Vec<ExportLogsServiceRequest> {
        let accepted = self.requests().into_iter().filter(Request::accepted);
        accepted
            .filter_map(|request| match request.payload {
                Payload::Logs(logs) => Some(logs),
                Payload::Metrics(_) => None,
            })
            .collect()
    }

    /// The accepted data points of the metric `name`, in order of arrival.
    #[must_use]
    pub fn points(&self, name: &str) -> Vec<Point> {
        let mut points = self.all_points();
        points.retain(|point| point.name == name);
        points
    }

    /// Every accepted data point, in order of arrival.
    #[must_use]
    pub fn all_points(&self) -> Vec<Point> {
        self.metrics().iter().flat_map(view::points).collect()
    }

    /// Every accepted log record, in order of arrival.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.logs().iter().flat_map(view::records).collect()
    }

    /// Waits until `done` holds, asking it after every change.
    ///
    /// # Errors
    ///
    /// Says what was received, when `timeout` passed first.
    pub fn wait_for(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), String> {
        let mut seen = usize::MAX;
        let deadline = std::time::Instant::now() + timeout;
        loop {
            if done(self) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let changed = self.state.wait(left, |state| {
                let now = state.requests.len() + state.violations.len() + state.connections;
                (now != seen).then_some(now)
            });
            match changed {
                Some(now) => seen = now,
                None => return Err(self.summary(timeout)),
            }
        }
    }

    fn summary(&self, timeout: Duration) -> String {
        let state = self.state.lock();
        let requests: Vec<_> = state
            .requests
            .iter()
            .map(|request| (request.protocol, request.signal(), &request.fault))
            .collect();
        format!(
            "not within {timeout:?}; connections {}, requests {requests:?}, violations {:?}",
            state.connections, state.violations
        )
    }

    /// Everything that broke the protocol or the data model.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// Fails the test when anything broke the protocol or the data model.
    ///
    /// # Panics
    ///
    /// With the list of violations.
    pub fn assert_clean(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "OTLP violations: {violations:#?}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
    use prost::Message as _;

    use super::*;
    use crate::http::{Response, request};
    use crate::io::{HyperExecutor, HyperIo};

    const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

    fn logs(body: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("after 1970").as_nanos().to_string();
        serde_json::json!({"resourceLogs": [{
            "resource": {"attributes":
                [{"key": "service.name", "value": {"stringValue": "test"}}]},
            "scopeLogs": [{"scope": {"name": "test"}, "logRecords": [{
                "timeUnixNano": now, "observedTimeUnixNano": now,
                "severityNumber": 9, "severityText": "info", "body": {"stringValue": body},
                "attributes": [{"key": "n", "value": {"intValue": "7"}}]}]}]}]})
        .to_string()
    }

    fn post(receiver: &Receiver, path: &str, body: &str) -> std::io::Result<Response> {
        request(receiver.address(), "POST", path, JSON, body)
    }

    #[test]
    fn json_logs_arrive() {
        let receiver = Receiver::start();
        let answer = post(&receiver, "/v1/logs", &logs("hello")).expect("an answer");
        assert_eq!(answer.status, 200);
        let records = receiver.records();
        assert_eq!(records[0].body, "hello");
        assert_eq!(records[0].attributes["n"], 7);
        receiver.assert_clean();
    }

    #[test]
    fn an_unknown_path_and_a_bad_record_are_violations() {
        let receiver = Receiver::start();
        assert_eq!(post(&receiver, "/", "{}").expect("an answer").status, 404);
        assert_eq!(receiver.violations().len(), 1);
        let unnamed = logs("x").replace("service.name", "name");
        post(&receiver, "/v1/logs", &unnamed).expect("an answer");
        assert_eq!(receiver.violations().len(), 2);
    }

    #[test]
    fn faults_are_taken_in_order_by_the_signal_they_are_for() {
        let receiver = Receiver::start();
        receiver.script_for(Signal::Metrics, Fault::Status(500));
        receiver.script(Fault::RetryAfter(429, "3".to_owned()));
        receiver.script(Fault::Reset);
        let answer = post(&receiver, "/v1/logs", &logs("1")).expect("an answer");
        assert_eq!(answer.status, 429);
        assert!(answer.headers.contains(&"retry-after: 3".to_owned()));
        let reset = post(&receiver, "/v1/logs", &logs("2")).expect_err("reset");
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(receiver.records().len(), 0);
        assert_eq!(receiver.requests().len(), 2);
    }

    #[test]
    fn down_refuses_and_resume_takes_the_same_port() {
        let mut receiver = Receiver::start();
        receiver.down();
        let refused = post(&receiver, "/v1/logs", &logs("1")).expect_err("refused");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        receiver.resume();
        post(&receiver, "/v1/logs", &logs("2")).expect("an answer");
        let waited = receiver.wait_for(Duration::from_secs(5), |receiver| {
            receiver.records().len() == 1
        });
        waited.expect("one record");
    }

    /// One unary call over a connection of its own: HTTP status, `grpc-status`, body.
    fn call(receiver: &Receiver, message: &[u8]) -> (u16, Option<String>, Bytes) {
        let executor = Arc::new(smol::Executor::new());
        let uri = format!(
            "{}/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            receiver.grpc_endpoint()
        );
        smol::block_on(executor.clone().run(async {
            let stream = smol::net::TcpStream::connect(receiver.address()).await;
            let stream = HyperIo(stream.expect("connect"));
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(HyperExecutor(executor.clone()), stream)
                    .await
                    .expect("handshake");
            executor.spawn(connection).detach();
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            let request = ::http::Request::post(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from(
                    [&[0], &length[..], message].concat(),
                )))
                .expect("a request");
            let response = sender.send_request(request).await.expect("a response");
            let http = response.status().as_u16();
            let body = response.into_body().collect().await.expect("a body");
            let status = body.trailers().and_then(|all| all.get("grpc-status"));
            let status = status.map(|value| value.to_str().expect("text").to_owned());
            (http, status, body.to_bytes())
        }))
    }

    #[test]
    fn grpc_answers_carry_status_and_partial_success() {
        let receiver = Receiver::start();
        receiver.script(Fault::PartialSuccess {
            rejected: 3,
            message: "why".to_owned(),
        });
        receiver.script(Fault::Grpc(14));
        let empty = ExportMetricsServiceRequest::default().encode_to_vec();
        let (http, status, body) = call(&receiver, &empty);
        assert_eq!((http, status.as_deref()), (200, Some("0")));
        let answer = ExportMetricsServiceResponse::decode(&body[5..]).expect("a response");
        let partial = answer.partial_success.expect("partial success");
        assert_eq!(partial.rejected_data_points, 3);
        assert_eq!(call(&receiver, &empty).1.as_deref(), Some("14"));
        let violations = receiver.violations();
        assert!(
            violations[0].contains("without resource metrics"),
            "{violations:?}"
        );
    }
}
