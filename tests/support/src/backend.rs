//! A server that follows a script, with every byte of its connections in the hands of a test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a peer may take for the next bytes; only a hang takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that a backend has accepted, read by lines and bytes.
pub struct Peer {
    /// What comes from it.
    pub reader: BufReader<TcpStream>,
    /// Which connection of the backend it is, from 0.
    pub number: usize,
}

/// The head of a request as it arrived, and its body.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method, target and version.
    pub line: String,
    /// Names in lower case, in the order in which they came.
    pub fields: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// What came after a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Received {
    /// The value of a field.
    ///
    /// # Panics
    ///
    /// When it is there more than once.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut named = self.fields.iter().filter(|(found, _)| found == name);
        let first = named.next();
        assert!(named.next().is_none(), "{name} is there more than once");
        first.map(|(_, value)| value.as_str())
    }
}

impl Peer {
    /// Reads a whole request; none at the end of the connection.
    ///
    /// # Panics
    ///
    /// When its length is no number.
    pub fn request(&mut self) -> Option<Received> {
        let mut received = self.head()?;
        if let Some(length) = received.field("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut body).ok()?;
            received.body = body;
        } else if received.field("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                received.body.extend_from_slice(&chunk);
            }
            received.trailers = self.fields()?;
        }
        Some(received)
    }

    /// Reads the head of a request; none at the end of the connection.
    pub fn head(&mut self) -> Option<Received> {
        let line = self.line()?;
        Some(Received {
            line,
            fields: self.fields()?,
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    /// The next chunk of a body; none after the last.
    ///
    /// # Panics
    ///
    /// When the framing is wrong.
    pub fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).ok()?;
        if size == 0 {
            return Some(None);
        }
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Some(Some(chunk))
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(": ").unwrap();
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        Some(line.to_owned())
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The client may be gone, which is its right.
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
    }

    /// Answers 200 with a body of known length.
    pub fn answer(&mut self, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    /// Closes so that the other side sees an error.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn reset(self) {
        let socket = socket2::Socket::from(self.reader.into_inner());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A server: each connection is handled on a thread of its own.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many connections it has accepted.
    pub connections: Arc<AtomicUsize>,
    /// What was kept of what it was asked.
    pub requests: Arc<Mutex<Vec<Received>>>,
}

impl Backend {
    /// Every connection is given to `handle`.
    pub fn new(handle: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handle)
    }

    /// As [`new`](Self::new), at an address of choice.
    ///
    /// # Panics
    ///
    /// When it cannot be had.
    pub fn at(address: SocketAddr, handle: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                let number = count.fetch_add(1, Ordering::SeqCst);
                let handle = handle.clone();
                std::thread::spawn(move || {
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket.set_nodelay(true).unwrap();
                    handle(Peer {
                        reader: BufReader::new(socket),
                        number,
                    });
                });
            }
        });
        Self {
            address,
            connections,
            requests: Arc::default(),
        }
    }

    /// Reads whole requests, keeps them, and answers each with `name`.
    pub fn recording(name: &'static str) -> Self {
        Self::answering(move |peer, _| peer.answer(name))
    }

    /// Reads whole requests, keeps them, and lets `answer` answer each.
    pub fn answering(answer: impl Fn(&mut Peer, &Received) + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Received>>> = Arc::default();
        let kept = requests.clone();
        let backend = Self::new(move |mut peer| {
            while let Some(request) = peer.request() {
                kept.lock().unwrap().push(request.clone());
                answer(&mut peer, &request);
            }
        });
        Self {
            requests,
            ..backend
        }
    }

    /// The only request so far.
    ///
    /// # Panics
    ///
    /// When there is none, or another one.
    #[must_use]
    pub fn request(&self) -> Received {
        let requests = self.requests.lock().unwrap();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
