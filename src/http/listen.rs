//! Listen addresses as operators write them, and the sockets made from them or handed down.
//!
//! Owns the Go-style syntax (`:18080`, `host:port`, `[::1]:8080`), what an empty host means, and
//! socket activation. Never accepts.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, RawFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// The connections the kernel queues while the server is busy; it caps this at `somaxconn`.
pub const BACKLOG: i32 = 1024;

/// How often an idle connection is probed, so that a peer that vanished is noticed.
pub const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where inherited descriptors begin.
const FIRST_INHERITED: RawFd = 3;

/// The most inherited sockets that are looked at.
pub const MAX_INHERITED: i32 = 16;

/// The text is no listen address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no listen address; write host:port or :port")]
pub struct Invalid {
    text: String,
}

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}")]
pub struct Refused {
    /// The address as it was configured.
    pub address: String,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

/// Where to listen: a host, empty for every address of both families, and a port, 0 for any free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    host: String,
    port: u16,
}

impl FromStr for Listen {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid {
            text: text.to_owned(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(invalid)?;
                // Zone identifiers (`fe80::1%eth0`) are left to the resolver.
                let address = inner.split('%').next().unwrap_or_default();
                address.parse::<Ipv6Addr>().map_err(|_| invalid())?;
                inner
            }
            None if host.contains([':', ']', ' ', '/']) => return Err(invalid()),
            None => host,
        };
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| invalid())?,
        })
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self {
            host,
            port: address.port(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

impl Listen {
    /// Binds and listens. A name is resolved by the system; its first IPv4 address is preferred.
    ///
    /// # Errors
    ///
    /// The name is unknown, or the system refuses the address.
    pub fn bind(&self) -> Result<TcpListener, Refused> {
        let socket = self.first(|address| listening(bound(address, false)?));
        socket.map_err(|cause| self.refused(cause))
    }

    /// Binds `count` sockets to the same address, among which the kernel spreads the connections
    /// (`SO_REUSEPORT`): one for each thread that accepts. That no other process has the address is
    /// made sure of first, because such sockets would share with it silently.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_shared(&self, count: NonZeroUsize) -> Result<Vec<TcpListener>, Refused> {
        let all = || -> io::Result<Vec<TcpListener>> {
            let address = self.first(|address| {
                let alone = bound(address, false)?.local_addr()?;
                alone
                    .as_socket()
                    .ok_or_else(|| io::ErrorKind::Unsupported.into())
            })?;
            let each = (0..count.get()).map(|_| listening(bound(address, true)?));
            each.collect()
        };
        all().map_err(|cause| self.refused(cause))
    }

    fn refused(&self, cause: io::Error) -> Refused {
        Refused {
            address: self.to_string(),
            cause,
        }
    }

    /// Does `bind` with the address meant.
    fn first<T>(&self, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
        if self.host.is_empty() {
            let both = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)));
            return match both {
                // A host without IPv6.
                Err(error) if lacks_ipv6(&error) => {
                    bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)))
                }
                result => result,
            };
        }
        let mut found: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        let first = found
            .first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        bind(*first)
    }
}

/// The sockets systemd or another service manager listens on for this process (`LISTEN_FDS`), as
/// `environment` tells. Nothing is taken that is no listening TCP socket.
///
/// # Errors
///
/// What was announced is not there, or is something else.
pub fn inherited(
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Vec<TcpListener>, Refused> {
    let refused = |number: i32, cause| Refused {
        address: format!("the inherited descriptor {number}"),
        cause,
    };
    let ours = std::process::id().to_string();
    if environment("LISTEN_PID").is_none_or(|pid| pid != ours) {
        return Ok(Vec::new());
    }
    let count = environment("LISTEN_FDS").and_then(|count| count.parse::<i32>().ok());
    let count = count.unwrap_or(0).clamp(0, MAX_INHERITED);
    (FIRST_INHERITED..FIRST_INHERITED + count)
        .map(|number| adopt(number).map_err(|cause| refused(number, cause)))
        .collect()
}

fn adopt(number: RawFd) -> io::Result<TcpListener> {
    // SAFETY: the descriptor is borrowed for a duplication only, which fails if it is not open.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = Socket::from(rustix::io::fcntl_dupfd_cloexec(inherited, FIRST_INHERITED)?);
    // The original must not reach the processes we may start.
    rustix::io::fcntl_setfd(inherited, rustix::io::FdFlags::CLOEXEC)?;
    let is_tcp = socket.domain()? != Domain::UNIX && socket.r#type()? == Type::STREAM;
    if !is_tcp || !socket.is_listener()? {
        let what = "it is no listening TCP socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    prepare(&socket)?;
    Ok(socket.into())
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::AFNOSUPPORT)
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // The unspecified address takes both families, whatever the host's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Linux hands both of these down to the accepted sockets.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    SockRef::from(socket).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_those_of_go() {
        for (text, host, port) in [
            (":18080", "", 18080),
            ("0.0.0.0:80", "0.0.0.0", 80),
            ("localhost:0", "localhost", 0),
            ("[::1]:8080", "::1", 8080),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!((listen.host.as_str(), listen.port), (host, port));
            assert_eq!(listen.to_string(), text);
        }
        for text in [
            "",
            "18080",
            ":",
            ":http",
            ":65536",
            ":-1",
            ":+1",
            "::1:80",
            "[::1]",
            "[]:80",
            "[::1:80",
            "::1]:80",
            "a b:80",
            "http://a:80",
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.to_string().contains("host:port"), "{text}");
        }
    }

    #[test]
    fn an_empty_host_listens_on_both_families() {
        let listener = Listen::from_str(":0").unwrap().bind().unwrap();
        let address = listener.local_addr().unwrap();
        assert!(address.ip().is_unspecified());
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        std::net::TcpStream::connect(v4).unwrap();
        if address.is_ipv6() {
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
            std::net::TcpStream::connect(v6).unwrap();
        }
    }

    #[test]
    fn several_sockets_share_an_address_that_nobody_else_has() {
        let two = NonZeroUsize::new(2).unwrap();
        let listen = Listen::from_str("127.0.0.1:0").unwrap();
        let shared = listen.bind_shared(two).unwrap();
        let addresses: Vec<_> = shared.iter().map(|one| one.local_addr().unwrap()).collect();
        assert_eq!(addresses[0], addresses[1]);
        let taken = Listen::from(addresses[0]);
        assert_eq!(
            taken.bind_shared(two).unwrap_err().cause.kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn only_what_is_meant_for_this_process_is_inherited() {
        let none = inherited(|name| (name == "LISTEN_FDS").then(|| "1".to_owned()));
        assert!(none.unwrap().is_empty());
        let others = inherited(|name| match name {
            "LISTEN_PID" => Some("1".to_owned()),
            _ => Some("1".to_owned()),
        });
        assert!(others.unwrap().is_empty());
    }

    #[test]
    fn a_refusal_names_the_address() {
        let first = Listen::from_str("127.0.0.1:0").unwrap().bind().unwrap();
        let taken = Listen::from(first.local_addr().unwrap());
        let error = taken.bind().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {taken}: ")),
            "{error}"
        );
    }
}
