//! Reading `resolv.conf(5)`. Pure.

use std::net::{IpAddr, SocketAddr};

use super::PORT;

/// Most name servers taken from the file.
pub const MAX_NAMESERVERS: usize = 10;

/// Most domains of a search list (glibc since 2.26 has no limit; nothing legitimate needs more).
const MAX_SEARCH: usize = 32;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers in file order.
    pub nameservers: Vec<IpAddr>,
    /// Domains appended to names that are not complete, without trailing dot.
    pub search: Vec<String>,
    /// Dots from which on a name is tried as it is first.
    pub ndots: usize,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
        }
    }
}

impl ResolvConf {
    /// Reads the file's text; what it does not know is skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    read.nameservers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    read.search = words
                        .map(|word| word.trim_end_matches('.').to_ascii_lowercase())
                        .filter(|domain| !domain.is_empty())
                        .take(MAX_SEARCH)
                        .collect();
                }
                Some("options") => {
                    let ndots = words
                        .filter_map(|word| word.strip_prefix("ndots:")?.parse().ok())
                        .next_back();
                    read.ndots = ndots.unwrap_or(read.ndots).min(15);
                }
                _ => {}
            }
        }
        read
    }

    /// The resolvers to ask: loopback ones last, since they may well lead back to ourselves, at
    /// most [`MAX_NAMESERVERS`], each once.
    #[must_use]
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        let (loopback, others): (Vec<&IpAddr>, Vec<&IpAddr>) =
            self.nameservers.iter().partition(|ip| ip.is_loopback());
        let mut upstreams = Vec::new();
        for ip in others.into_iter().chain(loopback).take(MAX_NAMESERVERS) {
            let address = SocketAddr::from((*ip, PORT));
            if !upstreams.contains(&address) {
                upstreams.push(address);
            }
        }
        upstreams
    }

    /// The complete names to try for `name`, in order; one with a trailing dot is complete.
    #[must_use]
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(complete) = name.strip_suffix('.') {
            return vec![complete.to_owned()];
        }
        let mut candidates: Vec<_> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{domain}"))
            .collect();
        let dots = name.matches('.').count();
        let place = if dots >= self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(place, name.to_owned());
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_pod() {
        let read = ResolvConf::parse(
            "# generated\nsearch ns.svc.cluster.local SVC.cluster.local.\n\
             nameserver 10.96.0.10 # cluster\nnameserver ::1\nnameserver bogus\noptions edns0 ndots:5\n",
        );
        assert_eq!(read.ndots, 5);
        assert_eq!(
            read.candidates("otel.monitoring"),
            [
                "otel.monitoring.ns.svc.cluster.local",
                "otel.monitoring.svc.cluster.local",
                "otel.monitoring"
            ]
        );
        assert_eq!(read.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
        assert_eq!(read.candidates("otel."), ["otel"]);
    }

    #[test]
    fn loopback_servers_come_last_and_the_list_is_capped() {
        let mut text =
            String::from("nameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 192.0.2.1\n");
        let read = ResolvConf::parse(&text);
        let upstreams: Vec<_> = read.upstreams().iter().map(ToString::to_string).collect();
        assert_eq!(upstreams, ["192.0.2.1:53", "127.0.0.53:53"]);
        for last in 2..20 {
            text.push_str(&format!("nameserver 192.0.2.{last}\n"));
        }
        // The cap comes before repeats are dropped, as in the component this replaces.
        assert_eq!(
            ResolvConf::parse(&text).upstreams().len(),
            MAX_NAMESERVERS - 1
        );
    }

    #[test]
    fn nothing_is_not_an_error() {
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
        assert_eq!(ResolvConf::default().upstreams(), []);
    }
}
