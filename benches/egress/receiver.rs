//! OTLP receivers of every kind: one that takes everything, and dead ones.
//!
//! The receiver of the tests keeps and checks what it is sent, and would itself be the load here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A receiver and the listeners it keeps.
pub struct Receiver {
    endpoint: String,
    requests: Arc<AtomicU64>,
    _silent: Option<TcpListener>,
}

impl Receiver {
    /// Answers every request with success.
    pub fn willing() -> Self {
        let (listener, endpoint) = listen();
        let requests = Arc::<AtomicU64>::default();
        let counted = requests.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, counted) = (connection.expect("a connection"), counted.clone());
                std::thread::spawn(move || answer(&connection, &counted));
            }
        });
        Self {
            endpoint,
            requests,
            _silent: None,
        }
    }

    /// Refuses connections.
    pub fn refusing() -> Self {
        let (_, endpoint) = listen();
        Self {
            endpoint,
            requests: Arc::default(),
            _silent: None,
        }
    }

    /// Takes connections, and never answers.
    pub fn hanging() -> Self {
        let (listener, endpoint) = listen();
        Self {
            endpoint,
            requests: Arc::default(),
            _silent: Some(listener),
        }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many requests were answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, endpoint)
}

/// Reads requests and answers each; ends with the connection, whatever ends it.
fn answer(connection: &TcpStream, requests: &AtomicU64) {
    let mut input = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if !matches!(input.read_line(&mut line), Ok(1..)) {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.is_empty() {
                break;
            }
        }
        let body = std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink());
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let mut output = connection;
        if body.is_err() || output.write_all(answer).is_err() {
            return;
        }
        requests.fetch_add(1, Ordering::Relaxed);
    }
}
