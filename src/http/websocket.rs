//! WebSockets on the server's side (RFC 6455): the handshake, and messages on the connection that
//! it turns into one.
//!
//! Owns the protocol, its bounds, and that a connection ends: a goodbye is answered or waited for,
//! for a bounded time, and then the socket is closed by us. The framing is tungstenite's. Never
//! knows what a message means.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use ::http::{HeaderMap, HeaderValue, StatusCode};
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use async_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, WebSocketStream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::rt::{Read as _, ReadBuf, Write as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::stream::StreamExt;

use super::{Body, Request, Response, error};

/// The most bytes of a message that is received; a longer one ends the connection with code 1009.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// How long a peer may take to answer a goodbye, or to stop talking after the connection was hung
/// up.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);

/// The read buffer of a connection, in bytes.
const READ_BUFFER: usize = 4 * 1024;

/// The version of the protocol, the only one there ever was.
const VERSION: &str = "13";

/// The bytes of a client's key.
const KEY_BYTES: usize = 16;

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not ask for another protocol, or its handshake is wrong: 400.
    Malformed,
    /// It asks for a protocol other than this: 426.
    OtherProtocol,
}

impl Refusal {
    /// The answer.
    #[must_use]
    pub fn response(self) -> Response {
        let mut response = match self {
            Self::Malformed => error::text(StatusCode::BAD_REQUEST, "Bad Request"),
            Self::OtherProtocol => error::text(StatusCode::UPGRADE_REQUIRED, "Upgrade Required"),
        };
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        if self == Self::OtherProtocol {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

/// Whether a request with these headers asks for a WebSocket, however wrong its handshake is.
#[must_use]
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    lists(headers, &CONNECTION, "upgrade") && lists(headers, &UPGRADE, "websocket")
}

/// Whether a header whose value is a list of tokens has this one.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

/// A request whose handshake is right.
#[derive(Debug)]
pub struct Handshake {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Reads the handshake of a request. Any origin will do, and no extension or sub-protocol is
    /// ever agreed to.
    ///
    /// # Errors
    ///
    /// The request is none.
    pub fn read(request: &mut Request) -> Result<Self, Refusal> {
        let headers = request.headers();
        if !lists(headers, &CONNECTION, "upgrade") {
            return Err(Refusal::Malformed);
        }
        if !lists(headers, &UPGRADE, "websocket") {
            return Err(Refusal::OtherProtocol);
        }
        if !lists(headers, &SEC_WEBSOCKET_VERSION, VERSION) {
            return Err(Refusal::Malformed);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::Malformed)?;
        match STANDARD.decode(key) {
            Ok(decoded) if decoded.len() == KEY_BYTES => {}
            _ => return Err(Refusal::Malformed),
        }
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
        Ok(Self {
            accept: accept.map_err(|_| Refusal::Malformed)?,
            upgrade: hyper::upgrade::on(request),
        })
    }

    /// The answer after which the connection is a WebSocket.
    #[must_use]
    pub fn response(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        response
    }

    /// Waits until [`response`](Self::response) was sent.
    ///
    /// # Errors
    ///
    /// The client has left.
    pub async fn complete(self) -> hyper::Result<WebSocket> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let octets = Octets(self.upgrade.await?);
        let stream = WebSocketStream::from_raw_socket(octets, Role::Server, Some(config)).await;
        let (sender, receiver) = stream.split();
        Ok(WebSocket {
            sender: Sender(sender),
            receiver: Receiver(receiver),
        })
    }
}

/// A WebSocket; dropping it closes the connection as it is.
pub struct WebSocket {
    /// What is sent.
    pub sender: Sender,
    /// What is received. Pings are answered, and goodbyes repeated, only while this is asked for
    /// what is next.
    pub receiver: Receiver,
}

impl WebSocket {
    /// Says goodbye within `patience`, waits for the peer's for [`CLOSE_TIME`], and closes the
    /// connection.
    pub async fn close(mut self, code: u16, reason: &'static str, patience: Duration) {
        let say = async { self.sender.goodbye(code, reason).await.is_ok() };
        let late = async {
            Timer::after(patience).await;
            false
        };
        if say.or(late).await {
            self.receiver.finish().await;
        }
    }

    /// Closes the connection without a goodbye, and sees to it that what was sent arrives: a
    /// connection closed with unread bytes on it would be reset.
    pub async fn hang_up(self) {
        let (Sender(sender), Receiver(receiver)) = (self.sender, self.receiver);
        let Ok(stream) = WebSocketStream::reunite(sender, receiver) else {
            return;
        };
        let mut octets = stream.into_inner();
        let silence = async {
            let mut unread = [0; READ_BUFFER];
            if octets.close().await.is_ok() {
                while octets.read(&mut unread).await.is_ok_and(|read| read > 0) {}
            }
        };
        let late = async {
            Timer::after(CLOSE_TIME).await;
        };
        silence.or(late).await;
    }
}

/// The sending half. Every call waits until the bytes are with the kernel, so that the pace is the
/// peer's. One that is dropped before that may leave half a message, which the next one completes.
pub struct Sender(WebSocketSender<Octets>);

/// The peer has left, or said goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the WebSocket is closed")]
pub struct Gone;

impl Sender {
    /// Sends a text message.
    ///
    /// # Errors
    ///
    /// The peer has left.
    pub async fn text(&mut self, text: String) -> Result<(), Gone> {
        self.send(Message::Text(text.into())).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    ///
    /// The peer has left.
    pub async fn binary(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.send(Message::Binary(bytes.into())).await
    }

    /// Asks the peer for a sign of life.
    ///
    /// # Errors
    ///
    /// The peer has left.
    pub async fn ping(&mut self) -> Result<(), Gone> {
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn goodbye(&mut self, code: u16, reason: &'static str) -> Result<(), Gone> {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: Utf8Bytes::from_static(reason),
        };
        self.send(Message::Close(Some(frame))).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        self.0.send(message).await.map_err(|_| Gone)
    }
}

/// What came from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A text message.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping, which was answered.
    Ping,
    /// A sign of life.
    Pong,
}

/// Why nothing comes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer said goodbye; [`Receiver::finish`] returns it.
    Goodbye,
    /// The connection is gone.
    Gone,
    /// The peer broke the protocol or a bound: the connection is to be closed with this code.
    Wrong {
        /// The code of RFC 6455, section 7.4.1.
        code: u16,
        /// What it did.
        reason: &'static str,
    },
}

/// The receiving half.
pub struct Receiver(WebSocketReceiver<Octets>);

impl Receiver {
    /// Waits for what comes next. Nothing is lost when the future is dropped before it is done.
    ///
    /// # Errors
    ///
    /// Nothing comes any more.
    pub async fn next(&mut self) -> Result<Received, Ended> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text.into())),
            Some(Ok(Message::Binary(bytes))) => Ok(Received::Binary(bytes)),
            Some(Ok(Message::Ping(_))) => Ok(Received::Ping),
            // No raw frame is ever received.
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => Ok(Received::Pong),
            Some(Ok(Message::Close(_))) => Err(Ended::Goodbye),
            Some(Err(error)) => Err(Ended::of(&error)),
            None => Err(Ended::Gone),
        }
    }

    /// Reads to the end of the connection, for [`CLOSE_TIME`] at most.
    pub async fn finish(&mut self) {
        let end = async { while self.0.next().await.is_some_and(|next| next.is_ok()) {} };
        let late = async {
            Timer::after(CLOSE_TIME).await;
        };
        end.or(late).await;
    }
}

impl Ended {
    fn of(error: &tungstenite::Error) -> Self {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match error {
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            Error::Protocol(_) => Self::Wrong {
                code: 1002,
                reason: "protocol error",
            },
            Error::Utf8(_) => Self::Wrong {
                code: 1007,
                reason: "text is not UTF-8",
            },
            Error::Capacity(_) => Self::Wrong {
                code: 1009,
                reason: "message too large",
            },
            _ => Self::Gone,
        }
    }
}

/// An upgraded connection as a byte stream of smol's traits.
struct Octets(Upgraded);

impl AsyncRead for Octets {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(Pin::new(&mut self.0).poll_read(context, buffer.unfilled()))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Octets {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &[(&str, &str)] = &[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("origin", "https://anywhere.test"),
    ];

    fn read(headers: &[(&str, &str)]) -> Result<Handshake, Refusal> {
        let builder = headers
            .iter()
            .fold(::http::Request::builder(), |builder, (name, value)| {
                builder.header(*name, *value)
            });
        Handshake::read(&mut builder.body(Body::empty()).unwrap())
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        let mut headers = RIGHT.to_vec();
        headers.retain(|(key, _)| *key != name);
        headers
    }

    fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        let mut headers = without(name);
        headers.push((name, value));
        headers
    }

    #[test]
    fn a_right_handshake_is_answered_as_in_the_rfc() {
        let response = read(RIGHT).unwrap().response();
        assert_eq!(response.status(), 101);
        let headers = response.headers();
        assert_eq!(
            headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[CONNECTION], "Upgrade");
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn wrong_handshakes_are_refused_by_the_table() {
        for headers in [
            without("connection"),
            with("connection", "keep-alive"),
            without("sec-websocket-version"),
            with("sec-websocket-version", "8"),
            without("sec-websocket-key"),
            with("sec-websocket-key", ""),
            with("sec-websocket-key", "c2hvcnQ="),
            with("sec-websocket-key", "not base64 at all!"),
        ] {
            assert_eq!(read(&headers).unwrap_err(), Refusal::Malformed);
        }
        for headers in [without("upgrade"), with("upgrade", "h2c")] {
            assert_eq!(read(&headers).unwrap_err(), Refusal::OtherProtocol);
        }
    }

    #[test]
    fn refusals_name_the_version() {
        let response = Refusal::Malformed.response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
        assert!(!response.headers().contains_key(UPGRADE));
        let response = Refusal::OtherProtocol.response();
        assert_eq!(response.status(), 426);
        assert_eq!(response.headers()[UPGRADE], "websocket");
        let text = smol::block_on(response.into_body().collect(100)).unwrap();
        assert_eq!(text, "Upgrade Required\n");
    }

    #[test]
    fn a_request_may_ask_wrongly() {
        let asked = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            is_asked_for(&headers.collect())
        };
        assert!(asked(&without("sec-websocket-key")));
        assert!(!asked(&without("upgrade")));
        assert!(!asked(&without("connection")));
    }
}
