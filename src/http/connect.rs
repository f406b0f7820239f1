//! How a client gets a connection: addresses, socket, TLS.
//!
//! Owns the order of attempts and their deadline. It asks only the resolver it was given, and never
//! a proxy from the environment.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;
use rustix::io::Errno;
use smol::future::FutureExt;
use smol::{Async, Timer};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::io::Stream;
use super::listen::KEEPALIVE;
use super::resolve::{Resolve, SystemResolver};
use super::tls::Tls;

/// The most addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 8;

/// How long resolving, connecting and the TLS handshake may take together.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The least an address is given to answer before the next one is tried.
pub const ATTEMPT_TIME: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI has no host, or a scheme other than `http` and `https`.
    #[error("cannot connect to {0}: not an http or https address with a host")]
    Target(Uri),
    /// `https` is asked of a connector without TLS.
    #[error("cannot connect to {0}: TLS is not configured")]
    NoTls(Uri),
    /// The name has no address.
    #[error("cannot resolve {host}: {cause}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// No address accepted the connection; the last refusal is told.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The handshake failed, for example because the certificate is not trusted.
    #[error("no TLS session with {host}: {cause}")]
    Handshake {
        /// The name verified.
        host: String,
        /// What rustls said.
        cause: io::Error,
    },
    /// It took longer than it may.
    #[error("no connection to {host} within {time:?}")]
    TimedOut {
        /// The host asked for.
        host: String,
        /// The time allowed.
        time: Duration,
    },
}

/// Prepares a socket before it connects, for example with `SO_MARK`.
pub type SocketHook = Arc<dyn Fn(&Socket) -> io::Result<()> + Send + Sync>;

/// Makes connections. Clones share their parts.
#[derive(Clone)]
pub struct Connector {
    resolver: Arc<dyn Resolve>,
    hook: Option<SocketHook>,
    tls: Option<Tls>,
    time: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connector")
            .field("tls", &self.tls)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

impl Default for Connector {
    fn default() -> Self {
        Self::new(SystemResolver)
    }
}

impl Connector {
    /// Connects in the clear, to what `resolver` says.
    #[must_use]
    pub fn new(resolver: impl Resolve) -> Self {
        Self {
            resolver: Arc::new(resolver),
            hook: None,
            tls: None,
            time: CONNECT_TIME,
        }
    }

    /// Speaks TLS with `https` targets.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Shows every socket to `hook` before it connects; an error of it fails the attempt.
    #[must_use]
    pub fn socket_hook(
        mut self,
        hook: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// Gives up after `time`, TLS included. The default is [`CONNECT_TIME`].
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Connects to the origin of `uri`, in TLS when its scheme is `https`.
    ///
    /// # Errors
    ///
    /// There is no connection; the error names what failed.
    pub async fn connect(&self, uri: &Uri) -> Result<Stream, Error> {
        let host = uri.host().map(bare).filter(|host| !host.is_empty());
        let (host, tls) = match (host, uri.scheme_str()) {
            (Some(host), Some("http")) => (host, None),
            (Some(host), Some("https")) => match &self.tls {
                Some(tls) => (host, Some(tls)),
                None => return Err(Error::NoTls(uri.clone())),
            },
            _ => return Err(Error::Target(uri.clone())),
        };
        let port = uri
            .port_u16()
            .unwrap_or(if tls.is_some() { 443 } else { 80 });
        let connecting = async {
            let socket = self.tcp(host, port).await?;
            let Some(tls) = tls else {
                return Ok(Stream::tcp(socket));
            };
            let session = tls.handshake(host, socket).await;
            session
                .map(|session| Stream::Tls(Box::new(session)))
                .map_err(|cause| Error::Handshake {
                    host: host.to_owned(),
                    cause,
                })
        };
        self.in_time(host, connecting).await
    }

    /// Connects in the clear to `host`, a name or an address without brackets.
    ///
    /// # Errors
    ///
    /// There is no connection; the error names what failed.
    pub async fn reach(&self, host: &str, port: u16) -> Result<Stream, Error> {
        let connecting = async { self.tcp(host, port).await.map(Stream::tcp) };
        self.in_time(host, connecting).await
    }

    async fn in_time(
        &self,
        host: &str,
        connecting: impl Future<Output = Result<Stream, Error>>,
    ) -> Result<Stream, Error> {
        let late = async {
            Timer::after(self.time).await;
            Err(Error::TimedOut {
                host: host.to_owned(),
                time: self.time,
            })
        };
        connecting.or(late).await
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<Async<TcpStream>, Error> {
        let unresolved = |cause| Error::Resolve {
            host: host.to_owned(),
            cause,
        };
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(host).await.map_err(unresolved)?,
        };
        let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut last = unresolved(none);
        // What one address may take, so that a dead one leaves time for the others.
        let share = self.time / (addresses.len().clamp(1, MAX_ADDRESSES) as u32);
        let attempt_time = share.max(ATTEMPT_TIME);
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            let address = SocketAddr::from((address, port));
            let late = async {
                Timer::after(attempt_time).await;
                Err(io::ErrorKind::TimedOut.into())
            };
            match self.attempt(address).or(late).await {
                Ok(socket) => return Ok(socket),
                Err(cause) => last = Error::Connect { address, cause },
            }
        }
        Err(last)
    }

    async fn attempt(&self, address: SocketAddr) -> io::Result<Async<TcpStream>> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE),
        )?;
        if let Some(hook) = &self.hook {
            hook(&socket)?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let stream = Async::new_nonblocking(TcpStream::from(socket))?;
        stream.writable().await?;
        match stream.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}
