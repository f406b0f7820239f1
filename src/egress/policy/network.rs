//! Addresses and networks, and sets of them without redundancy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address range in prefix notation, host bits zero; one address is the longest prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    // The order of the fields makes the derived order put a network before all it contains.
    address: IpAddr,
    prefix_len: u8,
}

impl Network {
    /// The network of `prefix_len` bits that contains `address`; `None` if there are not as many.
    #[must_use]
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u32.checked_sub(prefix_len.into())?;
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u32.checked_sub(prefix_len.into())?;
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Some(Self {
            address,
            prefix_len,
        })
    }

    /// Reads `address` or `address/prefix-length`. An IPv6 address alone may carry a zone, which
    /// is dropped: the packet filter has no such notion.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((address, len)) = text.split_once('/') {
            // No signs, no leading zeros: "10.0.0.0/08" is more likely a mistake than a network.
            let plain = len == "0" || len.starts_with(|first| matches!(first, '1'..='9'));
            return Self::new(
                address.parse().ok()?,
                plain.then(|| len.parse().ok()).flatten()?,
            );
        }
        match text.split_once('%') {
            Some((address, zone)) if !zone.is_empty() => {
                Some(Self::from(IpAddr::V6(address.parse().ok()?)))
            }
            Some(_) => None,
            None => Some(Self::from(text.parse::<IpAddr>().ok()?)),
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits all its addresses share.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(first) => {
                let host = u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host))
            }
            IpAddr::V6(first) => {
                let host = u128::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host))
            }
        }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // Families do not mix: every IPv4 address sorts before every IPv6 address.
        self.address <= address && address <= self.last()
    }

    fn is_single(&self) -> bool {
        self.address == self.last()
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        Self {
            address,
            prefix_len,
        }
    }
}

impl fmt::Display for Network {
    /// Canonical text, single addresses without a length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix_len)
        }
    }
}

/// Networks of both families in ascending order, IPv4 first, none containing another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSet(Box<[Network]>);

impl FromIterator<Network> for NetworkSet {
    /// Sorts, and drops what another network contains.
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort_unstable();
        // Prefixes nest or are disjoint, so what contains a network is the last one kept.
        networks.dedup_by(|next, kept| kept.contains(next.address));
        Self(networks.into())
    }
}

impl NetworkSet {
    /// Whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|network| network.address <= address);
        after
            .checked_sub(1)
            .and_then(|candidate| self.0.get(candidate))
            .is_some_and(|network| network.contains(address))
    }

    /// The networks of both families.
    #[must_use]
    pub fn as_slice(&self) -> &[Network] {
        &self.0
    }

    /// The IPv4 networks.
    #[must_use]
    pub fn v4(&self) -> &[Network] {
        self.0.get(..self.boundary()).unwrap_or_default()
    }

    /// The IPv6 networks.
    #[must_use]
    pub fn v6(&self) -> &[Network] {
        self.0.get(self.boundary()..).unwrap_or_default()
    }

    fn boundary(&self) -> usize {
        self.0.partition_point(|network| network.address.is_ipv4())
    }
}
