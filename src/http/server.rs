//! The HTTP server: HTTP/1.1 and h2c by prior knowledge, on TCP and Unix sockets.
//!
//! Owns accepting, the limits on what a client may cost, draining, and containing a handler that
//! panics. Never knows a route: a [`Handler`] answers, an [`Observer`] is told.

mod connection;
mod exchange;
mod link;
mod watch;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::Extensions;
use ::http::request::Parts;
use smol::channel::Sender;
use smol::lock::{Semaphore, SemaphoreGuardArc};
use smol::{Async, Timer};

use super::io::{Exec, Stream};
use super::listen::{Listen, Refused};
use super::{Request, Response};
use crate::lifecycle::{DrainCut, Shutdown};
use crate::runtime::Spawner;

use connection::Builders;
pub use exchange::{Access, Exchange, Outcome, Peer, UNKNOWN_ROUTE};

/// The most connections open at once; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 4096;

/// The most bytes of request line and header fields; more gives 431. The read buffer of a
/// connection grows to twice this at most, and is never smaller than 8 KiB.
pub const HEADER_BYTES: usize = 64 * 1024;

/// The most bytes of a request body; more gives 413.
pub const BODY_BYTES: u64 = 1024 * 1024;

/// How long the head of a request may take, from its first byte; for the first request of a
/// connection, from the connection.
pub const HEADER_TIME: Duration = Duration::from_secs(10);

/// The longest wait for the next piece of a request body; past it, the handler sees an error.
pub const BODY_SILENCE: Duration = Duration::from_secs(30);

/// How long a whole request body may take.
pub const BODY_TIME: Duration = Duration::from_secs(300);

/// How long a connection may stay open without a request under way.
pub const IDLE_TIME: Duration = Duration::from_secs(120);

/// How long a connection of HTTP/1 may be without a request before it is kept in less memory.
pub const PARK_TIME: Duration = Duration::from_secs(2);

/// The share of [`Limits::lifetime`] by which a connection may end earlier, so that those that were
/// opened together do not end together.
pub const LIFETIME_SPREAD: f64 = 0.1;

/// The longest a client may leave the response in the socket's buffer without reading any of it.
pub const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long requests under way may take to finish once the process is to end.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The most requests under way at once on one HTTP/2 connection.
pub const MAX_STREAMS: u32 = 128;

/// The most streams a client may have reset before they were looked at, on one HTTP/2 connection;
/// more end the connection.
pub const MAX_PENDING_RESETS: usize = 20;

/// The most streams of one HTTP/2 connection that may be reset for errors of the client.
pub const MAX_ERROR_RESETS: usize = 1024;

/// What a response body may have buffered unsent on one HTTP/2 stream, in bytes.
pub const STREAM_SEND_BYTES: usize = 64 * 1024;

/// How often an HTTP/2 connection is probed, and how long the answer may take.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What is read and thrown away of a body no handler wanted, in bytes and in time. Closing the
/// connection with unread bytes on it would reset it and take the response along.
pub const LINGER_BYTES: u64 = 16 * 1024 * 1024;

/// See [`LINGER_BYTES`].
pub const LINGER_TIME: Duration = Duration::from_secs(2);

/// How long a client that was let in before a drain may take to begin its first request.
pub const FIRST_REQUEST: Duration = Duration::from_secs(2);

/// The pause after an `accept` that failed for lack of descriptors or memory: first, and longest.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What a client may cost. The default is made of the constants of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// See [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// See [`HEADER_BYTES`].
    pub header_bytes: usize,
    /// See [`BODY_BYTES`]; `u64::MAX` where handlers stream bodies and bound them themselves.
    pub body_bytes: u64,
    /// See [`HEADER_TIME`].
    pub header_time: Duration,
    /// See [`BODY_SILENCE`].
    pub body_silence: Duration,
    /// See [`BODY_TIME`]; `None` where bodies may be of any size.
    pub body_time: Option<Duration>,
    /// See [`IDLE_TIME`].
    pub idle_time: Duration,
    /// See [`PARK_TIME`].
    pub park_time: Duration,
    /// How old a connection may get; none for any age. One that is older ends with the exchange
    /// under way or, without one, with the next. What it has become after an upgrade goes on.
    pub lifetime: Option<Duration>,
    /// See [`WRITE_STALL`].
    pub write_stall: Duration,
    /// See [`DRAIN_TIME`].
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            header_bytes: HEADER_BYTES,
            body_bytes: BODY_BYTES,
            header_time: HEADER_TIME,
            body_silence: BODY_SILENCE,
            body_time: Some(BODY_TIME),
            idle_time: IDLE_TIME,
            park_time: PARK_TIME,
            lifetime: None,
            write_stall: WRITE_STALL,
            drain_time: DRAIN_TIME,
        }
    }
}

/// Answers requests.
///
/// The future is dropped when the client goes away, so work that must be finished is spawned.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;
}

impl<F, Answer> Handler for F
where
    F: Fn(Request) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Response> + Send,
{
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send {
        self(request)
    }
}

/// Is told what happens in a server, to turn it into events.
pub trait Observer: Send + Sync + 'static {
    /// What is remembered of a request from its beginning to its end.
    type Span: Send + 'static;

    /// A request has begun.
    fn begin(&self, head: &Parts, peer: &Peer) -> Self::Span;

    /// May put something of the span among the extensions of its request, where the handler finds
    /// it.
    fn share(&self, _span: &Self::Span, _extensions: &mut Extensions) {}

    /// The last byte of the response was handed over, or the exchange was abandoned. Called
    /// exactly once for each [`begin`](Self::begin).
    fn end(&self, span: Self::Span, access: Access);

    /// A connection was closed because it did not speak HTTP, or its head was too large.
    fn malformed(&self, _peer: &Peer, _error: &hyper::Error) {}

    /// A connection could not be accepted; the server goes on after a pause.
    fn accept_failed(&self, _error: &io::Error) {}
}

/// Nobody is told anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    type Span = ();

    fn begin(&self, _head: &Parts, _peer: &Peer) {}

    fn end(&self, (): (), _access: Access) {}
}

/// Listening sockets and the limits that will hold for their clients.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    limits: Limits,
    slots: Arc<Semaphore>,
}

impl Server {
    /// Listens on every address; from here on clients can connect, and wait for
    /// [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// One of the addresses cannot be had. None is kept then.
    pub fn bind(addresses: &[Listen], limits: Limits) -> Result<Self, Refused> {
        let listeners = addresses.iter().map(|address| {
            let listener = address.bind()?;
            Listener::tcp(listener).map_err(|cause| Refused {
                address: address.to_string(),
                cause,
            })
        });
        Ok(Self {
            listeners: listeners.collect::<Result<_, _>>()?,
            slots: Arc::new(Semaphore::new(limits.connections)),
            limits,
        })
    }

    /// Listens on every address with `count` servers, for as many threads that each serve
    /// connections of their own. The limit on connections holds for all of them together.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_each(
        addresses: &[Listen],
        limits: &Limits,
        count: NonZeroUsize,
    ) -> Result<Vec<Self>, Refused> {
        let mut servers = Self::none(limits, count);
        for address in addresses {
            for (server, listener) in servers.iter_mut().zip(address.bind_shared(count)?) {
                let listener = Listener::tcp(listener).map_err(|cause| Refused {
                    address: address.to_string(),
                    cause,
                })?;
                server.listeners.push(listener);
            }
        }
        Ok(servers)
    }

    /// Listens on sockets that are bound already, with `count` servers as
    /// [`bind_each`](Self::bind_each) does.
    ///
    /// # Errors
    ///
    /// The system refuses a duplicate of a descriptor.
    pub fn adopt_each(
        sockets: &[TcpListener],
        limits: &Limits,
        count: NonZeroUsize,
    ) -> io::Result<Vec<Self>> {
        let mut servers = Self::none(limits, count);
        for server in &mut servers {
            for socket in sockets {
                server.listeners.push(Listener::tcp(socket.try_clone()?)?);
            }
        }
        Ok(servers)
    }

    fn none(limits: &Limits, count: NonZeroUsize) -> Vec<Self> {
        let slots = Arc::new(Semaphore::new(limits.connections));
        let server = |_| Self {
            listeners: Vec::new(),
            limits: limits.clone(),
            slots: slots.clone(),
        };
        (0..count.get()).map(server).collect()
    }

    /// Listens on a Unix socket as well. A socket file nobody listens on is replaced.
    ///
    /// # Errors
    ///
    /// The path is taken, or cannot be created.
    pub fn and_unix(mut self, path: &Path) -> Result<Self, Refused> {
        let bound = bind_unix(path).and_then(Async::new);
        let socket = bound.map_err(|cause| Refused {
            address: path.display().to_string(),
            cause,
        })?;
        let path = path.to_owned();
        self.listeners.push(Listener::Unix { socket, path });
        Ok(self)
    }

    /// The TCP addresses listened on, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| match listener {
                Listener::Tcp(tcp) => tcp.get_ref().local_addr().ok(),
                Listener::Unix { .. } => None,
            })
            .collect()
    }

    /// Serves until `shutdown`, then closes the listeners and lets what is under way finish.
    ///
    /// # Errors
    ///
    /// A connection had to be cut: its request took longer than [`Limits::drain_time`], or the end
    /// was forced.
    pub async fn serve<H: Handler, O: Observer>(
        self,
        spawner: Spawner,
        handler: H,
        observer: O,
        shutdown: Shutdown,
    ) -> Result<(), DrainCut> {
        // Every connection holds a sender: the channel closes when the last one is gone.
        let (running, cut) = smol::channel::bounded(1);
        let exec = Exec(spawner.clone());
        let shared = Arc::new(Shared {
            handler,
            observer,
            slots: self.slots,
            builders: Builders::new(&self.limits, &exec),
            limits: self.limits,
            exec,
            shutdown: shutdown.clone(),
        });
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| spawner.spawn(listener.accept_all(shared.clone(), running.clone())))
            .collect();
        drop(running);
        shutdown.wait().await;
        for task in accepting {
            task.cancel().await;
        }
        let mut outcome = Ok(());
        while let Ok(reason) = cut.recv().await {
            outcome = Err(reason);
        }
        outcome
    }
}

/// What every connection of a server uses.
struct Shared<H, O> {
    handler: H,
    observer: O,
    limits: Limits,
    builders: Builders,
    exec: Exec,
    shutdown: Shutdown,
    slots: Arc<Semaphore>,
}

/// A place among the connections a server may have open, given back when dropped.
#[derive(Debug)]
struct Slot {
    running: Sender<DrainCut>,
    _permit: SemaphoreGuardArc,
}

#[derive(Debug)]
enum Listener {
    Tcp(Async<TcpListener>),
    Unix {
        socket: Async<UnixListener>,
        path: PathBuf,
    },
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // Only tidiness: a file left behind is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    fn tcp(listener: TcpListener) -> io::Result<Self> {
        Async::new(listener).map(Self::Tcp)
    }

    /// Takes a connection, if one is waiting.
    fn accept(&self, spawner: &Spawner) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.get_ref().accept()?;
                Ok((Stream::accepted(stream, spawner)?, Peer::Tcp(address)))
            }
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.get_ref().accept()?;
                Ok((Stream::unix(Async::new(stream)?), Peer::Unix))
            }
        }
    }

    async fn wait(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.readable().await,
            Self::Unix { socket, .. } => socket.readable().await,
        }
    }

    async fn accept_all<H: Handler, O: Observer>(
        self,
        shared: Arc<Shared<H, O>>,
        running: Sender<DrainCut>,
    ) {
        let mut pause = ACCEPT_PAUSE.0;
        loop {
            let permit = shared.slots.acquire_arc().await;
            let accepted = self.accept(&shared.exec.0);
            if let Err(error) = &accepted
                && error.kind() == io::ErrorKind::WouldBlock
            {
                // The place is free for other listeners until there is somebody to take it.
                drop(permit);
                // Should waiting fail, accepting will say why.
                let _ = self.wait().await;
                continue;
            }
            match accepted {
                Ok((stream, peer)) => {
                    pause = ACCEPT_PAUSE.0;
                    let slot = Slot {
                        running: running.clone(),
                        _permit: permit,
                    };
                    let connection = connection::serve(shared.clone(), stream, peer, slot);
                    shared.exec.0.spawn(connection).detach();
                }
                Err(error) => {
                    shared.observer.accept_failed(&error);
                    // A client that gave up says nothing about the next one; anything else, lack
                    // of descriptors first of all, would only fail again.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        Timer::after(pause).await;
                        pause = (pause * 2).min(ACCEPT_PAUSE.1);
                    }
                }
            }
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let abandoned = std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|refused| refused.kind() == io::ErrorKind::ConnectionRefused);
            if !abandoned {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}
