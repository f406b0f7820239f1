//! A WebSocket client by hand, which shows frames as they are on the wire.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::http::Response;

/// How long a frame, or the end of the connection, is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The key of the example in RFC 6455, section 1.3, and what a server makes of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The key every frame is masked with.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame: its code and its reason.
    Close(u16, String),
    /// The connection was closed.
    End,
    /// The connection was reset.
    Reset,
}

/// A connection. Dropping it closes the connection without a goodbye.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Opens a WebSocket at `path`, with further header lines.
    ///
    /// # Errors
    ///
    /// The server answered something else, which is returned.
    ///
    /// # Panics
    ///
    /// When there is no connection, or no answer that is HTTP.
    pub fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let usual = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let client = Self::handshake(address, path, &[&usual, headers].concat())?;
        Ok(client)
    }

    /// As [`connect`](Self::connect), with these header lines only.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// As [`connect`](Self::connect), and when what accepts is no WebSocket.
    pub fn handshake(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("no delay");
        let mut client = Self {
            stream,
            received: Vec::new(),
        };
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        client.send_raw(request.as_bytes());
        let mut answer = client.read_head();
        if answer.status != 101 {
            let length = answer
                .header("content-length")
                .map_or(0, |length| length.parse().expect("a length"));
            client.fill(length).expect("the body");
            let body = client.received.drain(..length).collect();
            answer.body = String::from_utf8(body).expect("text");
            return Err(answer);
        }
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        Ok(client)
    }

    /// Sends a text frame.
    pub fn text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    /// Sends a binary frame.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.send(BINARY, bytes);
    }

    /// Sends a ping.
    pub fn ping(&mut self, bytes: &[u8]) {
        self.send(PING, bytes);
    }

    /// Sends a pong.
    pub fn pong(&mut self, bytes: &[u8]) {
        self.send(PONG, bytes);
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16) {
        self.send(CLOSE, &code.to_be_bytes());
    }

    /// Ends the sending half of the connection.
    pub fn shut_down(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shut down");
    }

    /// Sends bytes as they are. What the server no longer takes is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a time-out");
        // The server may have closed the connection, which is then read.
        let _sent = self.stream.write_all(bytes);
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.send_raw(&frame(opcode, payload));
    }

    /// The next frame, or the end.
    ///
    /// # Panics
    ///
    /// When there is none in time, or it is fragmented, masked or malformed.
    pub fn next(&mut self) -> Event {
        self.next_within(PATIENCE)
            .unwrap_or_else(|| panic!("nothing came for {PATIENCE:?}"))
    }

    /// The next frame that comes within `time`; `None` if there is none.
    ///
    /// # Panics
    ///
    /// When it is fragmented, masked or malformed.
    pub fn next_within(&mut self, time: Duration) -> Option<Event> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(event) = self.parse() {
                return Some(event);
            }
            match self.read(deadline) {
                Ok(0) => return Some(Event::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Some(Event::Reset);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn parse(&mut self) -> Option<Event> {
        let (&first, rest) = self.received.split_first()?;
        let (&second, rest) = rest.split_first()?;
        assert_eq!(first & 0xf0, 0x80, "fragmented, or reserved bits");
        assert_eq!(second & 0x80, 0, "masked");
        let (length, extra) = match second {
            126 => (u16::from_be_bytes(*rest.first_chunk()?).into(), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (short.into(), 0),
        };
        let length = usize::try_from(length).expect("a length");
        let payload = rest.get(extra..extra + length)?.to_vec();
        self.received.drain(..2 + extra + length);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Some(match first & 0x0f {
            TEXT => Event::Text(text(&payload)),
            BINARY => Event::Binary(payload),
            PING => Event::Ping(payload),
            PONG => Event::Pong(payload),
            CLOSE => {
                let code = payload
                    .first_chunk()
                    .copied()
                    .map_or(1005, u16::from_be_bytes);
                Event::Close(code, text(payload.get(2..).unwrap_or_default()))
            }
            other => panic!("opcode {other}"),
        })
    }

    fn read_head(&mut self) -> Response {
        let end = loop {
            let found = self
                .received
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = found {
                break end;
            }
            let read = self.read(Instant::now() + PATIENCE).expect("an answer");
            assert!(read > 0, "closed without an answer");
        };
        let head: Vec<u8> = self.received.drain(..end + 4).take(end).collect();
        let head = String::from_utf8(head).expect("a head");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        Response {
            status: status.and_then(|code| code.parse().ok()).expect("a status"),
            headers: lines.map(str::to_owned).collect(),
            body: String::new(),
        }
    }

    fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.received.len() < length {
            if self.read(Instant::now() + PATIENCE)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn read(&mut self, deadline: Instant) -> io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(&mut piece) {
            Ok(read) => {
                self.received.extend_from_slice(&piece[..read]);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(error) => Err(error),
        }
    }
}

/// A frame of a client.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).expect("below 126")),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("16 bits").to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}
