//! What the target of a rule means: a network, a name, or a name and everything below it.
//!
//! Any text is accepted, because clients send any text. What can never match is kept, shown as
//! typed, and reported as a [`Suspicion`]: a dead deny rule is a hole its author does not see.

use std::net::{IpAddr, Ipv6Addr};

use super::network::Network;

/// Longest name without its trailing dot, in octets (RFC 1035 section 2.3.4, less the length
/// octet of the first label and the root label).
const NAME_OCTETS: usize = 253;

/// Longest label, in octets (RFC 1035 section 2.3.4).
const LABEL_OCTETS: usize = 63;

/// The meaning of a target. Two spellings of the same target are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address or a network.
    Network(Network),
    /// One name: lower case, ASCII, no trailing dot.
    Name(Box<str>),
    /// All names below this one, not the name itself: lower case, ASCII, no dot at either end.
    Below(Box<str>),
}

impl Target {
    /// Decides in this order: an address, a network in prefix notation, a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(network) = Network::parse(text) {
            return Self::Network(network);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match name.strip_prefix("*.") {
            Some(parent) if !parent.is_empty() => Self::Below(normalise(parent)),
            _ => Self::Name(normalise(name)),
        }
    }

    /// Why nothing can match, if so.
    #[must_use]
    pub fn suspicion(&self) -> Option<Suspicion> {
        match self {
            Self::Network(network) => match network.address() {
                IpAddr::V6(address) if is_mapped(address, network.prefix_len()) => {
                    Some(Suspicion::MappedAddress)
                }
                _ => None,
            },
            Self::Name(name) if &**name == "*" => Some(Suspicion::LoneWildcard),
            Self::Name(name) | Self::Below(name) => suspect_name(name),
        }
    }
}

/// Why a target can never match anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Suspicion {
    /// `*`.
    #[error("a lone * is not a wildcard: use defaultAction, or *. and a name")]
    LoneWildcard,
    /// A star that is not the first label.
    #[error("* is a wildcard only as the first label")]
    InnerWildcard,
    /// Longer than a name, or a label of one, can be; or with an empty label.
    #[error("a name has at most 253 characters, and each part between dots 1 to 63")]
    Length,
    /// A port, a path, a blank, something that has no ASCII form.
    #[error("not a host name, an address or a network")]
    Characters,
    /// Ends in a number, as no name does: an address with a mistake in it.
    #[error("looks like an address but is none")]
    BrokenAddress,
    /// An IPv4 address in IPv6 notation; no such packet is ever sent.
    #[error("an IPv4 address in IPv6 notation matches no packet: write it as IPv4")]
    MappedAddress,
}

/// The form that is compared: lower case, and ASCII where there is such a form (UTS 46).
fn normalise(name: &str) -> Box<str> {
    if name.is_ascii() {
        return name.to_ascii_lowercase().into();
    }
    match idna::domain_to_ascii(name) {
        // Other scripts have full stops of their own; one at the end is only now visible.
        Ok(ascii) => ascii.strip_suffix('.').unwrap_or(&ascii).into(),
        Err(_) => name.to_lowercase().into(),
    }
}

fn suspect_name(name: &str) -> Option<Suspicion> {
    if name.contains('*') {
        return Some(Suspicion::InnerWildcard);
    }
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    if !name.bytes().all(plain) {
        return Some(Suspicion::Characters);
    }
    let fits = |label: &str| (1..=LABEL_OCTETS).contains(&label.len());
    if name.len() > NAME_OCTETS || !name.split('.').all(fits) {
        return Some(Suspicion::Length);
    }
    // RFC 1123 section 2.1: the last label of a name is never all digits.
    let last = name.rsplit('.').next().unwrap_or(name);
    last.bytes()
        .all(|octet| octet.is_ascii_digit())
        .then_some(Suspicion::BrokenAddress)
}

fn is_mapped(address: Ipv6Addr, prefix_len: u8) -> bool {
    prefix_len >= 96 && address.to_ipv4_mapped().is_some()
}
