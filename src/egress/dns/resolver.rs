//! Names of our own: what the exporters and the webhook are given by host name is asked of the
//! upstreams directly, past the policy and past the redirect.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use smol::future;

use super::Shared;
use super::exchange::{self, Protocol, Question, Said};
use super::wire::answer;
use super::wire::{reply, rtype};
use crate::http::resolve::{Resolve, Resolving};

/// The file of fixed names.
const HOSTS: &str = "/etc/hosts";

/// Looks up host names through the upstreams.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    /// The file of fixed names as it was at the start: a container that shares it with the
    /// workload must not have its collector or its webhook moved by an edit.
    hosts: Arc<str>,
}

impl Resolver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let hosts = std::fs::read_to_string(HOSTS).unwrap_or_default();
        Self {
            shared,
            hosts: hosts.into(),
        }
    }

    /// The addresses of `host`: itself if it is one, else what `/etc/hosts` said, else what the
    /// upstreams say, with the search list of `resolv.conf`.
    ///
    /// # Errors
    ///
    /// `NotFound` when it has none, `InvalidInput` when it is no host name, `TimedOut` and others
    /// when no upstream could tell.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let fixed = in_hosts(&self.hosts, host);
        if !fixed.is_empty() {
            return Ok(fixed);
        }
        let candidates = self.shared.upstreams.resolv_conf().candidates(host);
        for candidate in candidates {
            let mut name = Name::from_ascii(&candidate)
                .map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause))?;
            name.set_fqdn(true);
            let (four, six) =
                future::zip(self.ask(&name, rtype::A), self.ask(&name, rtype::AAAA)).await;
            let addresses = match (four, six) {
                (Ok(four), Ok(six)) => [four, six].concat(),
                // One family is enough to go on with.
                (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => found,
                (Err(cause), _) | (_, Err(cause)) => return Err(cause),
            };
            if !addresses.is_empty() {
                return Ok(addresses);
            }
        }
        let message = format!("{host} has no address");
        Err(io::Error::new(io::ErrorKind::NotFound, message))
    }

    async fn ask(&self, name: &Name, kind: u16) -> io::Result<Vec<IpAddr>> {
        let message = reply::ask(0, name, kind);
        let end = message.len();
        let mut protocol = Protocol::Udp;
        loop {
            let message = message.clone();
            let question = Question { message, end };
            match exchange::ask(&self.shared, question, protocol).await {
                Said::Final(answer)
                    if answer::is_truncated(&answer) && protocol == Protocol::Udp =>
                {
                    protocol = Protocol::Tcp;
                }
                Said::Final(answer) => {
                    let mut found = Vec::new();
                    answer::addresses(&answer, end, &mut found)
                        .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
                    return Ok(found.iter().map(|address| address.ip).collect());
                }
                Said::Nothing {
                    error,
                    timed_out: true,
                } => return Err(io::Error::new(io::ErrorKind::TimedOut, error)),
                Said::Consolation(_, error) | Said::Nothing { error, .. } => {
                    return Err(io::Error::other(error));
                }
            }
        }
    }
}

impl Resolve for Resolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(self.lookup(host))
    }
}

/// The addresses a hosts file gives a name, in file order.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_searched_without_regard_to_case() {
        let text = "127.0.0.1 localhost\n# 192.0.2.9 collector\n\
            192.0.2.1\tCollector collector.local # ours\n::1 localhost\nbogus collector\n";
        assert_eq!(
            in_hosts(text, "collector."),
            ["192.0.2.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(in_hosts(text, "localhost").len(), 2);
        assert!(in_hosts(text, "ours").is_empty());
    }
}
