//! A running ingress and what is behind it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use support::daemon::Builder;
use support::http::{Endpoint, Response, request};
use support::{Daemon, free_port, opensandbox};
use tempfile::TempDir;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The token of the sandbox `shut`.
pub const TOKEN: &str = "opaque-token";

/// Files, and a backend that answers every request 200 and remembers it.
pub struct Scene {
    pub directory: TempDir,
    pub backend: Endpoint,
}

impl Scene {
    /// With the sandboxes `open` and `shut`, both on this machine.
    pub fn new() -> Self {
        let scene = Self {
            directory: tempfile::tempdir().expect("a directory"),
            backend: Endpoint::start(),
        };
        scene.write(
            "routes.toml",
            &format!(
                "[sandboxes.open]\nhost = \"127.0.0.1\"\n\
                 [sandboxes.shut]\nhost = \"127.0.0.1\"\ntoken = \"{TOKEN}\"\n"
            ),
        );
        scene
    }

    /// Writes a file as an editor does: whole, and then at its place.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let new = self.directory.path().join("new");
        std::fs::write(&new, content).expect("write");
        std::fs::rename(new, &path).expect("rename");
        path
    }

    /// The port of the backend.
    pub fn port(&self) -> u16 {
        self.backend.address().port()
    }

    /// An ingress with these sandboxes, to be started.
    pub fn ingress(&self) -> Ingress<'_> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let routes = self.directory.path().join("routes.toml");
        let builder = opensandbox!("ingress")
            .arg("--provider-type=static")
            .arg(format!("--routes={}", routes.display()))
            .arg("--address=127.0.0.1")
            .arg(format!("--port={}", address.port()))
            .ready_when_http(address, "/status.ok");
        Ingress { builder, address }
    }
}

/// How an ingress is started, and where it will listen.
pub struct Ingress<'a> {
    pub builder: Builder<'a>,
    pub address: SocketAddr,
}

impl Ingress<'_> {
    /// Adds an argument.
    pub fn arg(self, argument: impl Into<String>) -> Self {
        let builder = self.builder.arg(argument);
        Self { builder, ..self }
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        Running {
            daemon: self.builder.spawn(),
            address: self.address,
        }
    }
}

/// A running ingress.
pub struct Running {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

impl Running {
    /// What is answered to `GET path` with these header lines.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.try_get(path, headers).expect("an answer")
    }

    /// The same; an error where there is no answer.
    pub fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        request(self.address, "GET", path, headers, "")
    }
}

/// A backend that answers when it is told to: the test is handed each request's connection.
pub struct Backend {
    pub address: SocketAddr,
    exchanges: Receiver<Exchange>,
}

/// A request whose head has been read.
pub struct Exchange {
    pub head: String,
    pub stream: TcpStream,
}

impl Backend {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let (sender, exchanges) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    // An error is the other end's end.
                    let _ = stream.and_then(|stream| receive(stream, &sender));
                });
            }
        });
        Self { address, exchanges }
    }

    /// The next request.
    pub fn next(&self) -> Exchange {
        self.exchanges.recv_timeout(PATIENCE).expect("a request")
    }
}

fn receive(stream: TcpStream, sender: &Sender<Exchange>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    // The test may be over.
    let _ = sender.send(Exchange { head, stream });
    Ok(())
}

impl Exchange {
    /// Sends these octets.
    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("send");
    }

    /// Waits until the other end has ended.
    pub fn ended(&mut self) {
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time-out");
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}
