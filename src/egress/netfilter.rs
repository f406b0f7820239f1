//! The kernel redirect that makes the DNS filter unavoidable. The only module that speaks netlink.
//!
//! One nf_tables table of the `inet` family, [`TABLE`], serves IPv4 and IPv6 alike; it is written
//! over netlink, without `iptables` or `nft`. Every packet the namespace sends passes its chains:
//!
//! * `zone` has our own queries tracked apart, so that no flow of the workload claims them.
//! * `redirect` (NAT) sends DNS, that is UDP and TCP to port 53 of any address, to the filter on
//!   the loopback. It comes before every other NAT chain of the namespace, so Docker's rewriting
//!   of `127.0.0.11` applies to our own queries only.
//! * `guard` (filter) refuses DNS that escaped: flows that were translated, or left alone, before
//!   the redirect existed. It also refuses packets sent straight to the hidden port behind a
//!   loopback resolver such as Docker's.
//!
//! Past them go the resolvers exempt by configuration, and our own queries, which must carry the
//! random [`Mark`] of this process, come from a socket of our user *and* go to a known upstream.
//!
//! **Fail closed.** The table goes in before anything is read or served and replaces what a
//! predecessor left in one transaction. A process that finds the port of its filter taken leaves
//! the table of whoever has it alone. While the filter is down, DNS is redirected to a closed port. After
//! the end the table stays, without our own exemption, unless the operator wants it removed.
//!
//! **What it cannot stop.** A workload with `CAP_NET_ADMIN` deletes the table. One with
//! `CAP_NET_RAW` writes frames to a packet socket, which no output chain sees: drop that
//! capability from the workload. DNS over other ports, TLS or HTTPS is out of scope of the mode
//! `dns`. A forwarder inside the namespace (Docker's, when it resolves from the container's
//! namespace) needs its upstreams exempt, or it asks the filter that asks it.
//!
//! Calls block for well below a millisecond; the kernel answers within the call.

mod error;
mod mark;
mod rule;
mod ruleset;
mod transaction;

pub use error::Error;
pub use mark::Mark;

use std::io::ErrorKind::AlreadyExists;
use std::net::{IpAddr, SocketAddr};

use ruleset::Existing;
use transaction::{Connection, Transaction};

/// The name of the table.
pub const TABLE: &str = "opensandbox";

/// What the kernel is to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The loopback port of the filter, UDP and TCP, both families.
    pub port: u16,
    /// Marks the sockets of our own queries.
    pub mark: Mark,
    /// The user our own sockets belong to: the effective user of this process, in the numbers of
    /// the user namespace that owns the network namespace.
    pub user: u32,
    /// Resolvers the workload may ask directly.
    pub exempt: Vec<IpAddr>,
    /// Resolvers the filter asks; may be empty until they are known.
    pub upstreams: Vec<SocketAddr>,
}

/// The redirect in force. Dropping it leaves the kernel as it is.
pub struct Redirect {
    connection: Connection,
    zones: bool,
}

impl Redirect {
    /// Puts the table in, replacing one of the same name in the same transaction: no packet sees
    /// a moment without the redirect.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`] tells whether this process, or this kernel, can enforce at all.
    pub fn install(settings: &Settings) -> Result<Self, Error> {
        Self::put_in(settings, Existing::Replace)
    }

    /// Closes DNS where no table is in force, for a filter that cannot start. A table that is
    /// there stays as it is: its owner may be alive.
    ///
    /// # Errors
    ///
    /// As for [`install`](Self::install).
    pub fn close_if_open(settings: &Settings) -> Result<(), Error> {
        match Self::put_in(settings, Existing::Keep) {
            Err(Error::Refused { source, .. }) if source.kind() == AlreadyExists => Ok(()),
            closed => closed.map(drop),
        }
    }

    fn put_in(settings: &Settings, existing: Existing) -> Result<Self, Error> {
        let mut connection = Connection::open()?;
        let zones = match connection.commit(ruleset::install(settings, existing, true)) {
            Ok(()) => true,
            Err(Error::Unsupported { object, .. }) if object == ruleset::object(ruleset::ZONE) => {
                connection.commit(ruleset::install(settings, existing, false))?;
                false
            }
            Err(error) => return Err(error),
        };
        Ok(Self { connection, zones })
    }

    /// Whether our own queries are tracked apart from the workload's. Where the kernel has no
    /// zones (`CONFIG_NF_CONNTRACK_ZONES`), a query of ours from a source port the workload used
    /// moments before comes back to the filter and takes one more turn.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        self.zones
    }

    /// Replaces the resolvers our own queries may go to.
    ///
    /// # Errors
    ///
    /// The kernel refused; the resolvers before stay in force.
    pub fn set_upstreams(&mut self, upstreams: &[SocketAddr]) -> Result<(), Error> {
        let mut transaction = Transaction::default();
        ruleset::replace_upstreams(&mut transaction, upstreams);
        self.connection.commit(transaction)
    }

    /// Ends our own exemption and leaves the rest: DNS is closed until a successor starts.
    ///
    /// # Errors
    ///
    /// The kernel refused; the exemption stays.
    pub fn seal(mut self) -> Result<(), Error> {
        self.set_upstreams(&[])
    }

    /// Removes the table: DNS is open and unfiltered.
    ///
    /// # Errors
    ///
    /// The kernel refused; the redirect stays.
    pub fn remove(mut self) -> Result<(), Error> {
        self.connection.commit(ruleset::remove())
    }
}
