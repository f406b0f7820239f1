//! Listen addresses as operators write them, and the sockets made from them.
//!
//! Owns the Go-style syntax (`:18080`, `host:port`, `[::1]:8080`) and what an empty host means.
//! Never accepts.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// The connections the kernel queues while the server is busy; it caps this at `somaxconn`.
pub const BACKLOG: i32 = 1024;

/// How often an idle connection is probed, so that a peer that vanished is noticed.
pub const KEEPALIVE: Duration = Duration::from_secs(15);

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
    pub fn bind(&self) -> Result<std::net::TcpListener, Refused> {
        self.socket().map_err(|cause| Refused {
            address: self.to_string(),
            cause,
        })
    }

    fn socket(&self) -> io::Result<std::net::TcpListener> {
        if self.host.is_empty() {
            let both = listening(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)));
            return match both {
                // A host without IPv6.
                Err(error) if lacks_ipv6(&error) => {
                    listening(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)))
                }
                result => result,
            };
        }
        let mut found: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        let first = found
            .first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        listening(*first)
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::AFNOSUPPORT)
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn listening(address: SocketAddr) -> io::Result<std::net::TcpListener> {
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
    // Linux hands both of these down to the accepted sockets.
    socket.set_tcp_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )?;
    socket.bind(&address.into())?;
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
