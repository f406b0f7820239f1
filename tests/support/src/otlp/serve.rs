//! The wire: connections, HTTP and gRPC framing, decoding, answers and faults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_lite::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message;
use smol::Executor;

use super::{Fault, Payload, Protocol, Request, Signal, State, json};
use crate::io::{HyperExecutor, HyperIo};
use crate::watch::Watch;

/// The largest body accepted, encoded or decoded; a sidecar that sends more is broken.
const BODY_LIMIT: usize = 16 << 20;

type Body = BoxBody<Bytes, Infallible>;

/// Accepts until `stopped` closes.
pub fn run(
    listener: &smol::net::TcpListener,
    state: &Arc<Watch<State>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    stopped: &smol::channel::Receiver<()>,
) {
    let executor = Arc::new(Executor::new());
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            state.update(|state| state.connections += 1);
            let connection = connection(stream, state.clone(), tls.clone(), executor.clone());
            executor.spawn(connection).detach();
        }
    };
    let stop = async {
        let _closed = stopped.recv().await;
    };
    smol::block_on(executor.run(accept.or(stop)));
}

/// Serves one connection until it ends or is reset.
async fn connection(
    stream: smol::net::TcpStream,
    state: Arc<Watch<State>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    executor: Arc<Executor<'static>>,
) {
    let socket: Arc<smol::Async<TcpStream>> = stream.clone().into();
    let (reset, must_reset) = smol::channel::bounded::<()>(1);
    let service = {
        let state = state.clone();
        hyper::service::service_fn(move |request| {
            let (state, reset) = (state.clone(), reset.clone());
            async move { Ok::<_, Infallible>(answer(request, &state, &reset).await) }
        })
    };
    let builder = hyper_util::server::conn::auto::Builder::new(HyperExecutor(executor));
    let serve = async {
        match tls {
            None => {
                let served = builder.serve_connection(HyperIo(stream), service);
                let _ended = served.await;
            }
            Some(config) => {
                let acceptor = futures_rustls::TlsAcceptor::from(config);
                match acceptor.accept(stream).await {
                    Ok(stream) => {
                        let served = builder.serve_connection(HyperIo(stream), service);
                        let _ended = served.await;
                    }
                    Err(error) => {
                        state.update(|state| {
                            state.violations.push(format!("TLS handshake: {error}"));
                        });
                    }
                }
            }
        }
    };
    let ended = async {
        serve.await;
        false
    };
    let must_reset = async {
        if must_reset.recv().await.is_err() {
            // No sender is left: the connection ends by itself.
            std::future::pending::<()>().await;
        }
        true
    };
    if ended.or(must_reset).await {
        // Closing a socket that does not linger resets the connection.
        let _reset = socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
    }
}

/// Why a request is not a valid export.
struct Invalid {
    status: StatusCode,
    text: String,
}

impl Invalid {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }
}

async fn answer(
    request: http::Request<Incoming>,
    state: &Watch<State>,
    reset: &smol::channel::Sender<()>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return refuse(
                state,
                &head,
                &Invalid::new(StatusCode::BAD_REQUEST, format!("body: {error}")),
            );
        }
    };
    let mut received = match decode(&head, &body) {
        Ok(received) => received,
        Err(invalid) => return refuse(state, &head, &invalid),
    };
    let (protocol, signal) = (received.protocol, received.signal());
    let fault = state.update(|state| state.script.take(signal));
    if let Some(Fault::Slow(delay)) = &fault {
        // Recorded after the wait: a client that gives up meanwhile was not accepted.
        smol::Timer::after(*delay).await;
    }
    received.fault.clone_from(&fault);
    record(state, received);
    match fault {
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Reset) => {
            let _sent = reset.try_send(());
            return std::future::pending().await;
        }
        _ => {}
    }
    match protocol {
        Protocol::Grpc => grpc_response(signal, fault.as_ref()),
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            http_response(protocol, signal, fault.as_ref())
        }
    }
}

fn refuse(state: &Watch<State>, head: &http::request::Parts, invalid: &Invalid) -> Response<Body> {
    let text = format!("{} {}: {}", head.method, head.uri.path(), invalid.text);
    state.update(|state| state.violations.push(text.clone()));
    plain(invalid.status, text)
}

fn record(state: &Watch<State>, request: Request) {
    state.update(|state| {
        let mut violations = state.schema.check(&request);
        state.violations.append(&mut violations);
        state.requests.push(request);
    });
}

fn decode(head: &http::request::Parts, body: &Bytes) -> Result<Request, Invalid> {
    let path = head.uri.path();
    let (signal, grpc) = match path {
        "/v1/metrics" => (Signal::Metrics, false),
        "/v1/logs" => (Signal::Logs, false),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
            (Signal::Metrics, true)
        }
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => (Signal::Logs, true),
        _ => return Err(Invalid::new(StatusCode::NOT_FOUND, "unknown path")),
    };
    if head.method != Method::POST {
        return Err(Invalid::new(StatusCode::METHOD_NOT_ALLOWED, "not a POST"));
    }
    let mut headers = BTreeMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if headers.insert(name.as_str().to_owned(), value).is_some() {
            let text = format!("header {name} twice");
            return Err(Invalid::new(StatusCode::BAD_REQUEST, text));
        }
    }
    let content_type = headers.get("content-type").map_or("", String::as_str);
    let protocol = match (grpc, content_type) {
        (true, "application/grpc" | "application/grpc+proto") => Protocol::Grpc,
        (false, "application/x-protobuf") => Protocol::HttpProtobuf,
        (false, "application/json") => Protocol::HttpJson,
        _ => {
            let text = format!("content-type {content_type:?}");
            return Err(Invalid::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    };
    let (gzip, message) = match protocol {
        Protocol::Grpc => grpc_message(head, &headers, body)?,
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            match headers.get("content-encoding").map(String::as_str) {
                None | Some("identity") => (false, body.clone()),
                Some("gzip") => (true, gunzip(body)?),
                Some(other) => {
                    let text = format!("content-encoding {other:?}");
                    return Err(Invalid::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
                }
            }
        }
    };
    let invalid = |text: String| Invalid::new(StatusCode::BAD_REQUEST, text);
    let payload = match (protocol, signal) {
        (Protocol::HttpJson, Signal::Metrics) => {
            Payload::Metrics(json::decode(&message).map_err(invalid)?)
        }
        (Protocol::HttpJson, Signal::Logs) => {
            Payload::Logs(json::decode(&message).map_err(invalid)?)
        }
        (_, Signal::Metrics) => Payload::Metrics(protobuf(&message)?),
        (_, Signal::Logs) => Payload::Logs(protobuf(&message)?),
    };
    Ok(Request {
        protocol,
        path: path.to_owned(),
        headers,
        encoded_size: body.len(),
        gzip,
        payload,
        fault: None,
    })
}

/// Decodes, and demands that encoding again gives a message of the same length: an unknown or
/// repeated field would be lost silently.
fn protobuf<M: Message + Default>(bytes: &Bytes) -> Result<M, Invalid> {
    let invalid = |text| Invalid::new(StatusCode::BAD_REQUEST, text);
    let message =
        M::decode(bytes.clone()).map_err(|error| invalid(format!("protobuf: {error}")))?;
    if message.encoded_len() != bytes.len() {
        return Err(invalid("protobuf: fields outside the schema".to_owned()));
    }
    Ok(message)
}

fn gunzip(bytes: &[u8]) -> Result<Bytes, Invalid> {
    let mut decoded = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(BODY_LIMIT as u64)
        .read_to_end(&mut decoded)
        .map_err(|error| Invalid::new(StatusCode::BAD_REQUEST, format!("gzip: {error}")))?;
    Ok(decoded.into())
}

/// The one message of a unary call (gRPC over HTTP/2, "Length-Prefixed-Message").
fn grpc_message(
    head: &http::request::Parts,
    headers: &BTreeMap<String, String>,
    body: &Bytes,
) -> Result<(bool, Bytes), Invalid> {
    let invalid = |text: String| Invalid::new(StatusCode::BAD_REQUEST, text);
    if head.version != http::Version::HTTP_2 {
        return Err(invalid(format!("gRPC over {:?}", head.version)));
    }
    if headers.get("te").map(String::as_str) != Some("trailers") {
        return Err(invalid("no te: trailers".to_owned()));
    }
    let Some((prefix, message)) = body.split_at_checked(5) else {
        return Err(invalid(format!("gRPC body of {} bytes", body.len())));
    };
    let length = prefix[1..]
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length != message.len() {
        let text = format!("gRPC length {length}, body has {}", message.len());
        return Err(invalid(text));
    }
    let encoding = headers.get("grpc-encoding").map(String::as_str);
    match (prefix[0], encoding) {
        (0, _) => Ok((false, body.slice(5..))),
        (1, Some("gzip")) => Ok((true, gunzip(message)?)),
        (flag, encoding) => Err(invalid(format!(
            "compressed flag {flag} with grpc-encoding {encoding:?}"
        ))),
    }
}

/// The body of a success, empty or with a partial success.
fn success(protocol: Protocol, signal: Signal, fault: Option<&Fault>) -> Vec<u8> {
    let partial = match fault {
        Some(Fault::PartialSuccess { rejected, message }) => Some((*rejected, message.clone())),
        _ => None,
    };
    match (protocol, signal) {
        (Protocol::HttpJson, signal) => {
            let key = match signal {
                Signal::Metrics => "rejectedDataPoints",
                Signal::Logs => "rejectedLogRecords",
            };
            let body = partial.map_or_else(
                || serde_json::json!({}),
                |(rejected, message)| {
                    serde_json::json!({"partialSuccess":
                        {key: rejected.to_string(), "errorMessage": message}})
                },
            );
            body.to_string().into_bytes()
        }
        (_, Signal::Metrics) => ExportMetricsServiceResponse {
            partial_success: partial.map(|(rejected_data_points, error_message)| {
                ExportMetricsPartialSuccess {
                    rejected_data_points,
                    error_message,
                }
            }),
        }
        .encode_to_vec(),
        (_, Signal::Logs) => ExportLogsServiceResponse {
            partial_success: partial.map(|(rejected_log_records, error_message)| {
                ExportLogsPartialSuccess {
                    rejected_log_records,
                    error_message,
                }
            }),
        }
        .encode_to_vec(),
    }
}

fn http_response(protocol: Protocol, signal: Signal, fault: Option<&Fault>) -> Response<Body> {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let retry_after = match fault {
        Some(Fault::RetryAfter(_, value)) => Some(value.clone()),
        Some(Fault::GrpcRetryAfter(_, delay)) => Some(delay.as_secs().to_string()),
        _ => None,
    };
    let content_type = match protocol {
        Protocol::HttpJson => "application/json",
        _ => "application/x-protobuf",
    };
    let (status, body) = match fault {
        Some(Fault::Status(status) | Fault::RetryAfter(status, _)) => {
            let status = StatusCode::from_u16(*status).expect("a scripted status in 100..=999");
            (status, full("scripted fault"))
        }
        Some(Fault::Grpc(_) | Fault::GrpcRetryAfter(..)) => (unavailable, full("scripted fault")),
        Some(Fault::EndlessBody) => (StatusCode::OK, endless()),
        Some(Fault::Garbage) => (StatusCode::OK, full(&b"\xff\xff\xff<html>"[..])),
        _ => (StatusCode::OK, full(success(protocol, signal, fault))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(value) = retry_after {
        let value = HeaderValue::from_str(&value).expect("a scripted Retry-After");
        headers.insert(header::RETRY_AFTER, value);
    }
    response
}

fn grpc_response(signal: Signal, fault: Option<&Fault>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let body = match fault {
        Some(Fault::Status(status) | Fault::RetryAfter(status, _)) => {
            let status = StatusCode::from_u16(*status).expect("a scripted status in 100..=999");
            return plain(status, "scripted fault".to_owned());
        }
        Some(Fault::Grpc(code)) => {
            trailers.insert("grpc-status", HeaderValue::from(*code));
            full(Bytes::new())
        }
        Some(Fault::GrpcRetryAfter(code, delay)) => {
            trailers.insert("grpc-status", HeaderValue::from(*code));
            trailers.insert("grpc-status-details-bin", retry_info(*code, *delay));
            full(Bytes::new())
        }
        Some(Fault::EndlessBody) => endless(),
        Some(Fault::Garbage) => full(&b"\x00\x00\x00\x00\x04\xff\xff\xff\xff"[..]),
        _ => {
            let message = success(Protocol::Grpc, signal, fault);
            let mut framed = BytesMut::with_capacity(5 + message.len());
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).expect("a small message"));
            framed.put_slice(&message);
            full(framed.freeze())
        }
    };
    if trailers.is_empty() {
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
    }
    let body = body.with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// `google.rpc.Status` with one `RetryInfo`, as base64 without padding.
fn retry_info(code: u32, delay: Duration) -> HeaderValue {
    #[derive(Clone, PartialEq, Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(uint32, tag = "1")]
        code: u32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    let retry_delay = Delay {
        seconds: i64::try_from(delay.as_secs()).expect("a short delay"),
        nanos: i32::try_from(delay.subsec_nanos()).expect("below a second"),
    };
    let info = RetryInfo {
        retry_delay: Some(retry_delay),
    };
    let status = Status {
        code,
        message: "scripted fault".to_owned(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        }],
    };
    HeaderValue::from_str(&base64(&status.encode_to_vec())).expect("base64 is a header value")
}

/// RFC 4648 section 4 without padding, as gRPC wants its binary headers.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0; 2].iter())
            .take(3)
            .fold(0usize, |word, byte| word << 8 | usize::from(*byte));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[word >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn endless() -> Body {
    let chunk = Bytes::from_static(&[0; 16 * 1024]);
    let frames = futures_lite::stream::repeat(chunk).map(|chunk| Ok(Frame::data(chunk)));
    http_body_util::BodyExt::boxed(StreamBody::new(frames))
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_matches_the_vectors_of_rfc_4648() {
        let encoded =
            ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|v| base64(v.as_bytes()));
        assert_eq!(
            encoded,
            ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"]
        );
    }
}
