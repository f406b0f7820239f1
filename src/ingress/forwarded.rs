//! Whose word counts on who the client is: the proxies in front of ingress.
//!
//! Pure. Owns the list of trusted proxies and the choice of the client's name for the log. Never
//! rewrites a header: what goes on to the sandbox is the data path's.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

use crate::http::forward;

/// The chain of clients and proxies a request came through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client, as one proxy saw it.
pub const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// A network address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// With every bit beyond the prefix cleared.
    address: u128,
    prefix: u8,
}

/// The text is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("addresses and networks, such as 10.0.0.0/8,fd00::1")]
pub struct Invalid;

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| Invalid)?;
        // IPv4 addresses are the last 32 bits of IPv6 ones.
        let unused = if address.is_ipv4() { 96 } else { 0 };
        let most = 128 - unused;
        let length = match length {
            Some(length) => length.trim().parse().map_err(|_| Invalid)?,
            None => most,
        };
        if length > most {
            return Err(Invalid);
        }
        let prefix = unused + length;
        Ok(Self {
            address: cleared(number(address), prefix),
            prefix,
        })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        cleared(number(address), self.prefix) == self.address
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn cleared(address: u128, prefix: u8) -> u128 {
    let host = 128 - u32::from(prefix);
    u128::MAX.checked_shl(host).unwrap_or(0) & address
}

/// The proxies whose word counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trusted {
    /// Whoever asks: the headers are taken as they come, and anybody can write them.
    #[default]
    Everyone,
    /// Those in a list.
    Networks(Networks),
}

/// A list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Trusted {
    /// The proxies in the list; where that is empty, everyone.
    ///
    /// # Errors
    ///
    /// An item is no address and no network.
    pub fn parse<'a>(items: impl Iterator<Item = &'a str>) -> Result<Self, Invalid> {
        let networks: Vec<_> = items.map(str::parse).collect::<Result<_, _>>()?;
        Ok(if networks.is_empty() {
            Self::Everyone
        } else {
            Self::Networks(Networks(networks))
        })
    }

    /// Whether the headers in which `peer` says whom it forwards for count.
    #[must_use]
    pub fn includes(&self, peer: IpAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::Networks(Networks(networks)) => {
                networks.iter().any(|network| network.contains(peer))
            }
        }
    }

    /// The client of a request that came from `peer`, for the log.
    ///
    /// With a list of proxies it is the last one in the chain that is none of them. Without, it is
    /// the first, whoever wrote it.
    #[must_use]
    pub fn client<'a>(&self, peer: IpAddr, headers: &'a HeaderMap) -> Cow<'a, str> {
        let peer = peer.to_canonical();
        if self.includes(peer) {
            match self {
                Self::Everyone => {
                    let chain = text(headers, &FORWARDED_FOR);
                    let first = chain.and_then(|chain| chain.split(", ").next());
                    let named = first.or_else(|| text(headers, &REAL_IP));
                    if let Some(client) = named {
                        return Cow::Borrowed(client);
                    }
                }
                Self::Networks(_) => {
                    let chain = headers.get_all(FORWARDED_FOR).iter().rev();
                    let mut chain = chain
                        .filter_map(|value| value.to_str().ok())
                        .flat_map(|value| value.rsplit(',').map(str::trim));
                    let is_proxy = |name: &&str| {
                        let address = name.parse::<IpAddr>();
                        address.is_ok_and(|address| self.includes(address))
                    };
                    let client = chain.find(|name| !name.is_empty() && !is_proxy(name));
                    if let Some(client) = client.or_else(|| text(headers, &REAL_IP)) {
                        return Cow::Borrowed(client);
                    }
                }
            }
        }
        Cow::Owned(forward::address(peer))
    }
}

/// The first value of a header, if it is text that says something.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn client(list: &str, peer: &str, pairs: &[(&'static str, &'static str)]) -> String {
        let trusted = Trusted::parse(list.split(',').filter(|item| !item.is_empty())).unwrap();
        let headers = headers(pairs);
        let client = trusted.client(peer.parse().unwrap(), &headers);
        client.into_owned()
    }

    const CHAIN: (&str, &str) = ("x-forwarded-for", "10.0.0.1, 198.51.100.2");
    const REAL: (&str, &str) = ("x-real-ip", "203.0.113.5");

    /// The table of the contract, section 13.
    #[test]
    fn without_a_list_the_headers_are_believed() {
        assert_eq!(client("", "192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(client("", "192.0.2.1", &[REAL]), "203.0.113.5");
        assert_eq!(client("", "192.0.2.1", &[REAL, CHAIN]), "10.0.0.1");
        let comma = ("x-forwarded-for", "10.0.0.1,198.51.100.2");
        assert_eq!(client("", "192.0.2.1", &[comma]), "10.0.0.1,198.51.100.2");
        let empty = ("x-forwarded-for", "");
        assert_eq!(client("", "::ffff:192.0.2.1", &[empty]), "192.0.2.1");
    }

    #[test]
    fn with_a_list_only_its_proxies_are_believed() {
        let list = "192.0.2.0/24,198.51.100.2,fd00::/8";
        assert_eq!(client(list, "203.0.113.9", &[CHAIN, REAL]), "203.0.113.9");
        assert_eq!(client(list, "192.0.2.1", &[CHAIN]), "10.0.0.1");
        assert_eq!(client(list, "::ffff:192.0.2.1", &[CHAIN]), "10.0.0.1");
        // What the client itself wrote is further to the left than what a proxy wrote.
        let spoofed = ("x-forwarded-for", "1.2.3.4, 203.0.113.7,198.51.100.2");
        assert_eq!(client(list, "fd00::5", &[spoofed]), "203.0.113.7");
        let second = ("x-forwarded-for", "203.0.113.8");
        assert_eq!(client(list, "192.0.2.1", &[CHAIN, second]), "203.0.113.8");
        assert_eq!(client(list, "192.0.2.1", &[REAL]), "203.0.113.5");
        assert_eq!(client(list, "192.0.2.1", &[]), "192.0.2.1");
        let proxies = ("x-forwarded-for", "192.0.2.7, 198.51.100.2");
        assert_eq!(client(list, "192.0.2.1", &[proxies]), "192.0.2.1");
    }

    #[test]
    fn networks_are_addresses_with_a_length() {
        let trusts = |list: &str, peer: &str| {
            let trusted = Trusted::parse(list.split(',')).unwrap();
            trusted.includes(peer.parse().unwrap())
        };
        assert!(trusts("10.1.2.3/8", "10.255.0.1") && !trusts("10.0.0.0/8", "11.0.0.1"));
        assert!(trusts("0.0.0.0/0", "1.2.3.4") && !trusts("0.0.0.0/0", "::1"));
        assert!(trusts("::/0", "1.2.3.4") && trusts("::1", "::1") && !trusts("::1", "::2"));
        assert!(trusts("10.0.0.1/32", "10.0.0.1") && !trusts("10.0.0.1/32", "10.0.0.0"));
        for text in [
            "",
            "x",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0",
        ] {
            assert_eq!(Trusted::parse([text].into_iter()), Err(Invalid), "{text}");
        }
    }
}
