//! Clients that cost as little as they can.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::http::request;

use crate::daemon::Running;

/// How much of a stream is read at once.
const READ: usize = 256 * 1024;
/// Reads between two looks at the daemon's memory, and after how many the client pauses, for how
/// long.
const LOOK: usize = 64;
const PAUSE: (usize, Duration) = (512, Duration::from_millis(500));

/// Runs a command and reads its events to their end; gives the most memory the daemon used
/// meanwhile, in MiB.
pub fn streamed(execd: &Running, command: &str) -> f64 {
    let mut stream = TcpStream::connect(execd.address()).expect("a connection");
    let body = format!(r#"{{"command":"{command}"}}"#);
    write!(
        stream,
        "POST /command HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("a request");
    let mut buffer = vec![0; READ];
    let mut tail = Vec::new();
    let (mut reads, mut most): (usize, f64) = (0, 0.0);
    loop {
        let read = stream.read(&mut buffer).expect("output");
        if read == 0 {
            break;
        }
        let last = &buffer[read.saturating_sub(128)..read];
        tail.extend_from_slice(last);
        tail.drain(..tail.len().saturating_sub(128));
        reads += 1;
        if reads == PAUSE.0 {
            std::thread::sleep(PAUSE.1);
        }
        if reads % LOOK == 0 || reads == PAUSE.0 {
            most = most.max(execd.process().resident().0);
        }
    }
    let tail = String::from_utf8_lossy(&tail);
    assert!(tail.contains("execution_complete"), "{tail}");
    most
}

/// A terminal over a WebSocket.
pub struct Terminal {
    reader: BufReader<TcpStream>,
    shown: Vec<u8>,
}

impl Terminal {
    /// One that runs `command`.
    pub fn open(execd: &Running, command: &str) -> Self {
        let address = execd.address();
        let body = format!(r#"{{"command":"{command}"}}"#);
        let created = request(address, "POST", "/pty", &[], &body).expect("an answer");
        let id = created.body.split('"').nth(3).expect("an id").to_owned();
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        write!(
            stream,
            "GET /pty/{id}/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .expect("a handshake");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a status");
        assert!(line.contains(" 101 "), "{line}");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("a head");
        }
        Self {
            reader,
            shown: Vec::new(),
        }
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        // A masked binary frame; a mask of zeros changes nothing.
        let length = u8::try_from(line.len() + 2).expect("a short line");
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, 0];
        frame.extend_from_slice(line.as_bytes());
        frame.push(b'\n');
        self.reader.get_mut().write_all(&frame).expect("input");
    }

    /// Reads until this was shown.
    pub fn until(&mut self, wanted: &str) {
        while !self
            .shown
            .windows(wanted.len())
            .any(|window| window == wanted.as_bytes())
        {
            let mut head = [0; 2];
            self.reader.read_exact(&mut head).expect("a frame");
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.reader.read_exact(&mut length).expect("a length");
                    u16::from_be_bytes(length).into()
                }
                127 => panic!("a frame longer than a terminal sends"),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.reader.read_exact(&mut payload).expect("a payload");
            if head[0] == 0x82 {
                self.shown.extend_from_slice(&payload);
            }
        }
        self.shown.clear();
    }
}
