//! The wire under a [`Delivery`](super::delivery::Delivery): one connection to the receiver, kept
//! between exports, and the three ways to put a batch on it.
//!
//! Never follows a redirect, never sends the configured headers anywhere but to the configured
//! endpoint, and reads at most [`MAX_ANSWER`] bytes of an answer.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Collected, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use smol::{Executor, Task};

use super::account::{Accepted, Failure};
use super::delivery::asked;
use super::message;
use super::retry;
use crate::http::connect::{self, Connector};
use crate::runtime::Spawner;
use crate::telemetry::env::{Otlp, Protocol};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// What the exporters call themselves.
const USER_AGENT: &str = concat!("opensandbox-otlp/", env!("OPENSANDBOX_VERSION"));

/// Length of the prefix of a gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message").
const GRPC_PREFIX: usize = 5;

/// What became of a batch.
pub enum Answer {
    /// Taken.
    Accepted(Accepted),
    /// Not taken, and never will be.
    Refused(Failure),
    /// Not taken now; perhaps later, after the wait the receiver asks for.
    Later(Failure, Option<Duration>),
}

/// Where batches of one signal go, and how.
pub struct Transport {
    endpoint: Uri,
    protocol: Protocol,
    headers: HeaderMap,
    connector: Connector,
    connection: smol::lock::Mutex<Option<Connection>>,
}

impl Transport {
    /// A way to the endpoint of `otlp`; for gRPC, `call` is the path. `connector` makes the
    /// connections, with the TLS settings of `otlp`.
    ///
    /// # Errors
    ///
    /// The scheme is `https` and TLS cannot be set up.
    pub fn new(
        otlp: &Otlp,
        call: &'static str,
        connector: &Connector,
    ) -> Result<Self, super::tls::Error> {
        let mut connector = connector.clone();
        if otlp.endpoint.scheme() == Some(&Scheme::HTTPS) {
            connector = connector.tls(super::tls::client(otlp)?);
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &otlp.headers {
            headers.append(name, value.clone());
        }
        // What frames the message is not the operator's to choose.
        for name in [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ] {
            headers.remove(name);
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(USER_AGENT));
        let mut endpoint = otlp.endpoint.clone().into_parts();
        let authority = authority(&otlp.endpoint);
        if otlp.protocol == Protocol::Grpc {
            endpoint.path_and_query = Some(PathAndQuery::from_static(call));
            endpoint.authority = authority
                .as_ref()
                .and_then(|authority| Authority::try_from(authority.as_bytes()).ok());
        } else if let Some(authority) = authority {
            headers.entry(header::HOST).or_insert(authority);
        }
        Ok(Self {
            // Scheme and authority were there before, so the parts are a whole.
            endpoint: Uri::from_parts(endpoint).unwrap_or_else(|_| otlp.endpoint.clone()),
            protocol: otlp.protocol,
            headers,
            connector,
            connection: smol::lock::Mutex::new(None),
        })
    }

    /// Sends `batch` once, over a connection whose tasks are those of `executor` and whose socket is
    /// waited for by the thread of `spawner`. Dropping the future abandons the connection.
    pub(super) async fn send(
        &self,
        batch: &Request<Bytes>,
        deadline: Instant,
        executor: &Arc<Executor<'static>>,
        spawner: &Spawner,
    ) -> Result<Answer, Failure> {
        let mut slot = self.connection.lock().await;
        // Since the last export nothing has driven the connection: let it notice that it is closed.
        smol::future::yield_now().await;
        if let Some(mut connection) = slot.take().filter(Connection::is_open) {
            // A kept connection may break before the answer through no fault of the receiver.
            if let Ok(answer) = connection.exchange(self.request(batch, deadline)).await {
                *slot = answer.body().is_ok().then_some(connection);
                return Ok(self.judge(answer));
            }
        }
        let mut connection = self.connect(executor, spawner).await?;
        let answer = connection.exchange(self.request(batch, deadline)).await?;
        *slot = answer.body().is_ok().then_some(connection);
        Ok(self.judge(answer))
    }

    async fn connect(
        &self,
        executor: &Arc<Executor<'static>>,
        spawner: &Spawner,
    ) -> Result<Connection, Failure> {
        let io = self
            .connector
            .connect(&self.endpoint)
            .await
            .map_err(|error| match error {
                connect::Error::TimedOut { .. } => Failure::Timeout,
                connect::Error::Handshake { .. } => Failure::Tls(error.to_string()),
                _ => Failure::Connection(error.to_string()),
            })?;
        let io = io
            .moved_to(spawner)
            .map_err(|error| Failure::Connection(error.to_string()))?;
        if self.protocol == Protocol::Grpc {
            let (sender, connection) = http2::handshake(Spawn(Arc::downgrade(executor)), io)
                .await
                .map_err(broken)?;
            let driver = executor.spawn(async move {
                // What broke is told to the request that waits.
                let _ = connection.await;
            });
            Ok(Connection {
                sender: Sender::Http2(sender),
                _driver: driver,
            })
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(broken)?;
            let driver = executor.spawn(async move {
                let _ = connection.await;
            });
            Ok(Connection {
                sender: Sender::Http1(sender),
                _driver: driver,
            })
        }
    }

    fn request(&self, batch: &Request<Bytes>, deadline: Instant) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        let encoding = batch.headers().get(header::CONTENT_ENCODING);
        let body = if self.protocol == Protocol::Grpc {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // The protocol allows eight digits.
            let milliseconds = remaining.as_millis().clamp(1, 99_999_999);
            if let Ok(value) = HeaderValue::try_from(format!("{milliseconds}m")) {
                headers.insert("grpc-timeout", value);
            }
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            if let Some(encoding) = encoding {
                headers.insert("grpc-encoding", encoding.clone());
            }
            *request.uri_mut() = self.endpoint.clone();
            grpc_frame(batch.body(), encoding.is_some())
        } else {
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
                if let Some(value) = batch.headers().get(&name) {
                    headers.insert(name, value.clone());
                }
            }
            if let Some(path) = self.endpoint.path_and_query() {
                *request.uri_mut() = Uri::from(path.clone());
            }
            batch.body().clone()
        };
        *request.body_mut() = Full::new(body);
        request
    }

    fn judge(&self, answer: Response<Body>) -> Answer {
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        if self.protocol == Protocol::Grpc {
            return grpc_answer(&head.headers, status, body);
        }
        if !head.status.is_success() {
            let failure = Failure::Status(status);
            return if retry::http_status(status) {
                Answer::Later(failure, asked(&head.headers))
            } else {
                Answer::Refused(failure)
            };
        }
        let accepted = body.ok().and_then(|body| {
            let body = body.to_bytes();
            match self.protocol {
                Protocol::HttpJson => message::accepted_json(&body),
                Protocol::HttpProtobuf | Protocol::Grpc => message::accepted_protobuf(&body),
            }
        });
        // The status has accepted the batch; an answer that cannot be read only loses the remarks.
        Answer::Accepted(accepted.unwrap_or_default())
    }
}

/// Host and port of a URL, without credentials.
fn authority(endpoint: &Uri) -> Option<HeaderValue> {
    let host = endpoint.host()?;
    match endpoint.port() {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
        None => HeaderValue::try_from(host).ok(),
    }
}

/// What there is of an answer's body.
type Body = Result<Collected<Bytes>, Failure>;

struct Connection {
    sender: Sender,
    /// Dropping it closes the connection.
    _driver: Task<()>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Body>, Failure> {
        let answer: Response<Incoming> = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(broken)?;
                sender.send_request(request).await.map_err(broken)?
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(broken)?;
                sender.send_request(request).await.map_err(broken)?
            }
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::Protocol(format!("it is longer than {MAX_ANSWER} bytes"))
            } else {
                Failure::Connection(error.to_string())
            }
        });
        Ok(Response::from_parts(head, body))
    }
}

/// Starts hyper's own tasks on the executor of the delivery. Weak, because the executor owns the
/// tasks that own this.
#[derive(Clone)]
struct Spawn(Weak<Executor<'static>>);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

fn broken(error: hyper::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Failure::Connection(text)
}

fn grpc_frame(message: &Bytes, compressed: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(GRPC_PREFIX + message.len());
    frame.put_u8(u8::from(compressed));
    // The encoder refuses batches above 64 MiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Reads the answer to a gRPC call (gRPC over HTTP/2, "Responses"): the status is in the trailers,
/// or in the head when there is no message.
fn grpc_answer(head: &HeaderMap, http_status: u16, body: Body) -> Answer {
    let body = match body {
        Ok(body) => body,
        Err(failure @ Failure::Protocol(_)) => return Answer::Refused(failure),
        Err(failure) => return Answer::Later(failure, None),
    };
    let trailers = body.trailers().cloned();
    let status = trailers
        .as_ref()
        .filter(|trailers| trailers.contains_key("grpc-status"))
        .unwrap_or(head);
    let text = |name: &str| status.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status").and_then(|code| code.parse::<u16>().ok()) else {
        let failure = Failure::Status(http_status);
        return if retry::http_status(http_status) {
            Answer::Later(failure, asked(head))
        } else if http_status == 200 {
            Answer::Refused(Failure::Protocol("no gRPC status".to_owned()))
        } else {
            Answer::Refused(failure)
        };
    };
    if code == 0 {
        let body = body.to_bytes();
        let accepted = body
            .split_at_checked(GRPC_PREFIX)
            .filter(|(prefix, _)| prefix.first() == Some(&0))
            .and_then(|(_, message)| message::accepted_protobuf(message));
        return Answer::Accepted(accepted.unwrap_or_default());
    }
    let failure = Failure::Grpc(
        code,
        message::remark(text("grpc-message").unwrap_or_default()),
    );
    // Receivers pad the details or not; one that encodes them wrongly only loses its hint.
    let asked = text("grpc-status-details-bin")
        .and_then(|details| {
            base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(details.trim_end_matches('='))
                .ok()
        })
        .and_then(|details| message::retry_info(&details));
    if retry::grpc_status(code, asked.is_some()) {
        Answer::Later(failure, asked)
    } else {
        Answer::Refused(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to a call with this status in its head, as in a response without a message.
    fn answered(http_status: u16, head: &[(&'static str, &'static str)]) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in head {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let empty = smol::block_on(Full::new(Bytes::new()).collect());
        let body = empty.map_err(|never| match never {});
        grpc_answer(&headers, http_status, body)
    }

    #[test]
    fn a_grpc_status_decides_whatever_else_the_answer_has() {
        assert!(matches!(
            answered(200, &[("grpc-status", "0")]),
            Answer::Accepted(_)
        ));
        let refused = answered(200, &[("grpc-status", "3"), ("grpc-message", "no")]);
        let Answer::Refused(failure) = refused else {
            panic!("INVALID_ARGUMENT is permanent");
        };
        assert_eq!(failure, Failure::Grpc(3, "no".to_owned()));
        let later = answered(200, &[("grpc-status", "14")]);
        assert!(matches!(later, Answer::Later(Failure::Grpc(14, _), None)));
    }

    #[test]
    fn details_that_are_no_base64_only_lose_the_hint() {
        for details in ["***", "AAAA=AAAA", "", "gA"] {
            let head = [("grpc-status", "8"), ("grpc-status-details-bin", details)];
            assert!(matches!(
                answered(200, &head),
                Answer::Refused(Failure::Grpc(8, _))
            ));
        }
    }

    #[test]
    fn an_answer_without_a_grpc_status_is_judged_by_http() {
        assert!(matches!(
            answered(200, &[]),
            Answer::Refused(Failure::Protocol(_))
        ));
        assert!(matches!(
            answered(404, &[]),
            Answer::Refused(Failure::Status(404))
        ));
        let busy = answered(503, &[("retry-after", "7")]);
        let seven = Some(Duration::from_secs(7));
        assert!(matches!(busy, Answer::Later(Failure::Status(503), asked) if asked == seven));
        let nonsense = answered(200, &[("grpc-status", "fine")]);
        assert!(matches!(nonsense, Answer::Refused(Failure::Protocol(_))));
    }

    #[test]
    fn a_message_is_framed_with_its_compression_and_length() {
        let message = Bytes::from_static(b"abc");
        assert_eq!(grpc_frame(&message, false), b"\0\0\0\0\x03abc"[..]);
        assert_eq!(grpc_frame(&message, true), b"\x01\0\0\0\x03abc"[..]);
    }

    #[test]
    fn the_host_header_has_no_credentials() {
        let host = |url: &'static str| authority(&Uri::from_static(url));
        assert_eq!(
            host("http://me:secret@c:4318/x"),
            Some(HeaderValue::from_static("c:4318"))
        );
        assert_eq!(
            host("http://[::1]/x"),
            Some(HeaderValue::from_static("[::1]"))
        );
    }
}
