//! How a client turns a host name into addresses, as a seam.
//!
//! Owns the two resolvers anybody may need. A process that filters DNS must not ask the system
//! about its own collectors, so it brings a [`Resolve`] of its own.

use std::future::Future;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::pin::Pin;

/// The answer to a name, in the order in which to try it.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Turns names into addresses. Literal addresses never reach it.
pub trait Resolve: Send + Sync + 'static {
    /// Addresses of `host`, a DNS name without port or brackets.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// `getaddrinfo` on a thread of its own. In a static musl binary that is musl's resolver, which
/// reads `/etc/hosts` and `/etc/resolv.conf` and has no NSS.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let host = host.to_owned();
        Box::pin(smol::unblock(move || {
            let found = (host.as_str(), 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        }))
    }
}

/// Refuses every name: for a client that may only be configured with addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiteralOnly;

impl Resolve for LiteralOnly {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(std::future::ready(Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{host} is a name; only an IP address can be used here"),
        ))))
    }
}
