//! The list of resolvers as it is written in `OPENSANDBOX_EGRESS_DNS_UPSTREAM`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{MAX_UPSTREAMS, PORT};

/// Why a list of resolvers cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not a literal address, without a port.
    #[error(
        "OPENSANDBOX_EGRESS_DNS_UPSTREAM: upstream {0:?} must be a literal IP address, not a hostname: names cannot be resolved before there is a resolver"
    )]
    Hostname(String),
    /// Not a literal address, with a port.
    #[error(
        "OPENSANDBOX_EGRESS_DNS_UPSTREAM: host {0:?} must be a literal IP address, not a hostname (avoids DNS self-recursion with REDIRECT)"
    )]
    HostnameWithPort(String),
    /// The port is missing, zero or not a number.
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM: invalid port in {0:?}")]
    Port(String),
    /// No closing bracket.
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM: invalid bracketed IPv6 {0:?}")]
    Bracket(String),
    /// No IPv6 address between the brackets.
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM: invalid IP inside brackets {0:?}")]
    InsideBrackets(String),
    /// Nothing in it.
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM must list at least one upstream resolver")]
    Empty,
    /// More than [`MAX_UPSTREAMS`].
    #[error("OPENSANDBOX_EGRESS_DNS_UPSTREAM must list at most {MAX_UPSTREAMS} upstream resolvers")]
    TooMany,
}

/// Reads a comma list of `ip`, `ip:port`, `[ip6]`, `[ip6]:port`; order kept, repeats dropped.
///
/// # Errors
///
/// See [`ListError`].
pub fn parse_list(text: &str) -> Result<Vec<SocketAddr>, ListError> {
    let mut list = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let address = parse_entry(entry)?;
        if !list.contains(&address) {
            list.push(address);
        }
    }
    match list.len() {
        0 => Err(ListError::Empty),
        count if count > MAX_UPSTREAMS => Err(ListError::TooMany),
        _ => Ok(list),
    }
}

fn parse_entry(entry: &str) -> Result<SocketAddr, ListError> {
    let port = |text: &str| match text.parse() {
        Ok(port @ 1_u16..) => Ok(port),
        _ => Err(ListError::Port(entry.to_owned())),
    };
    if let Some(rest) = entry.strip_prefix('[') {
        let (inside, tail) = rest
            .split_once(']')
            .ok_or_else(|| ListError::Bracket(entry.to_owned()))?;
        let address: Ipv6Addr = inside
            .parse()
            .map_err(|_| ListError::InsideBrackets(entry.to_owned()))?;
        let port = match tail.strip_prefix(':') {
            Some(text) => port(text)?,
            None if tail.is_empty() => PORT,
            None => return Err(ListError::Bracket(entry.to_owned())),
        };
        return Ok(SocketAddr::from((address, port)));
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok(SocketAddr::from((address, PORT)));
    }
    match entry.split_once(':') {
        Some((host, text)) if !text.contains(':') => {
            let address: IpAddr = host
                .parse()
                .map_err(|_| ListError::HostnameWithPort(host.to_owned()))?;
            Ok(SocketAddr::from((address, port(text)?)))
        }
        _ => Err(ListError::Hostname(entry.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_port() {
        for (text, expected) in [
            ("8.8.8.8", "8.8.8.8:53"),
            ("1.1.1.1:5353", "1.1.1.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::2]:853", "[2001:db8::2]:853"),
            ("[2001:db8::3]", "[2001:db8::3]:53"),
            ("8.8.8.8, 8.8.8.8,, 1.1.1.1 ", "8.8.8.8:53 1.1.1.1:53"),
        ] {
            let list: Vec<_> = parse_list(text)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(list.join(" "), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, expected) in [
            ("", "OPENSANDBOX_EGRESS_DNS_UPSTREAM must list at least one"),
            (" , ", "must list at least one upstream resolver"),
            (
                "dns.google",
                "OPENSANDBOX_EGRESS_DNS_UPSTREAM: upstream \"dns.google\" must be a literal IP address, not a hostname: ",
            ),
            (
                "dns.google,8.8.8.8",
                "upstream \"dns.google\" must be a literal IP address",
            ),
            (
                "dns.google:53",
                "OPENSANDBOX_EGRESS_DNS_UPSTREAM: host \"dns.google\" must be a literal IP address, not a hostname (avoids DNS self-recursion with REDIRECT)",
            ),
            ("1.1.1.1:", "invalid port in \"1.1.1.1:\""),
            ("1.1.1.1:0", "invalid port in \"1.1.1.1:0\""),
            ("[::1", "invalid bracketed IPv6 \"[::1\""),
            ("[::1]x", "invalid bracketed IPv6 \"[::1]x\""),
            ("[x]", "invalid IP inside brackets \"[x]\""),
        ] {
            let error = parse_list(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let many: Vec<_> = (0..=MAX_UPSTREAMS).map(|n| format!("10.0.0.{n}")).collect();
        assert_eq!(parse_list(&many.join(",")), Err(ListError::TooMany));
    }
}
