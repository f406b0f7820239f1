//! What is in the table, as transactions. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook, HookNumber, InetHookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementList,
    SetElementMessage, SetMessage, TableAttribute, TableMessage,
};

use super::rule::{
    Expression, ORIGINAL, Tracked, Transport, accept, counter, destination_port_is, differs,
    direction, equals, is_in, jump, leave, leaves_by_loopback, mark_is, masked, originally,
    redirect_to, reject, set_zone, socket_user_is, transport_is,
};
use super::transaction::Transaction;
use super::{Settings, TABLE};

/// The port of DNS.
const DNS: u16 = 53;
/// Elements of one message; an attribute may have 64 KiB and an element takes up to 28 bytes.
const CHUNK: usize = 1024;

/// The zone chain must come before connection tracking (`NF_IP_PRI_RAW`).
const ZONE_PRIORITY: i32 = -300;
/// The NAT chain goes before every other one: the first to translate a flow wins. It must come
/// after connection tracking, which is at -200 (`NF_IP_PRI_CONNTRACK`).
const REDIRECT_PRIORITY: i32 = -199;
/// The filter chain sees packets as they will leave (`NF_IP_PRI_FILTER`).
const GUARD_PRIORITY: i32 = 0;
/// The policy of both base chains (`NF_ACCEPT`): all but DNS is none of our business.
const POLICY: u32 = 1;

/// Where connections of our own are tracked. Any number but 0, the zone of all others.
const OWN_ZONE: u16 = DNS;

/// Sorts our own queries apart before they are tracked.
pub(super) const ZONE: &str = "zone";
const REDIRECT: &str = "redirect";
const GUARD: &str = "guard";
const ESCAPED: &str = "escaped";
const BYPASS: &str = "bypass";

/// A set of addresses of one family.
struct Set {
    name: &'static str,
    /// Distinguishes sets within a transaction.
    id: u32,
    /// `TYPE_IPADDR` or `TYPE_IP6ADDR` of the `nft` program, so that it can print the elements.
    key_type: u32,
    key_length: u32,
}

const EXEMPT_V4: Set = Set::new("exempt_v4", 1, 7, 4);
const EXEMPT_V6: Set = Set::new("exempt_v6", 2, 8, 16);
const UPSTREAM_V4: Set = Set::new("upstream_v4", 3, 7, 4);
const UPSTREAM_V6: Set = Set::new("upstream_v6", 4, 8, 16);

impl Set {
    const fn new(name: &'static str, id: u32, key_type: u32, key_length: u32) -> Self {
        Self {
            name,
            id,
            key_type,
            key_length,
        }
    }

    fn create(&self, transaction: &mut Transaction) {
        let attributes = vec![
            SetAttribute::Table(TABLE.to_owned()),
            SetAttribute::Name(self.name.to_owned()),
            SetAttribute::KeyType(self.key_type),
            SetAttribute::KeyLen(self.key_length),
            SetAttribute::Id(self.id),
        ];
        let message = NfTablesMessage::NewSet(SetMessage { attributes });
        transaction.push(format!("set {}", self.name), NLM_F_CREATE, message);
    }

    fn add(&self, transaction: &mut Transaction, keys: &[Vec<u8>]) {
        for chunk in keys.chunks(CHUNK) {
            let elements = chunk.iter().map(|key| {
                let key = DataAttribute::Value(key.clone());
                ListAttribute::Element(vec![SetElementAttribute::Key(key)])
            });
            let attributes = vec![
                SetElementList::Table(TABLE.to_owned()),
                SetElementList::Set(self.name.to_owned()),
                SetElementList::SetId(self.id),
                SetElementList::Elements(elements.collect()),
            ];
            let message = NfTablesMessage::NewSetElement(SetElementMessage { attributes });
            transaction.push(
                format!("elements of set {}", self.name),
                NLM_F_CREATE,
                message,
            );
        }
    }

    fn clear(&self, transaction: &mut Transaction) {
        let attributes = vec![
            SetElementList::Table(TABLE.to_owned()),
            SetElementList::Set(self.name.to_owned()),
        ];
        let message = NfTablesMessage::DeleteSetElement(SetElementMessage { attributes });
        transaction.push(format!("elements of set {}", self.name), 0, message);
    }
}

/// The distinct addresses of each family as set keys.
fn keys(addresses: impl IntoIterator<Item = IpAddr>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address.to_canonical() {
            IpAddr::V4(address) => v4.push(address.octets().to_vec()),
            IpAddr::V6(address) => v6.push(address.octets().to_vec()),
        }
    }
    for keys in [&mut v4, &mut v6] {
        keys.sort_unstable();
        keys.dedup();
    }
    (v4, v6)
}

/// The upstreams that need an exemption: those the redirect would catch.
fn upstream_keys(upstreams: &[SocketAddr]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let caught = upstreams.iter().filter(|upstream| upstream.port() == DNS);
    keys(caught.map(SocketAddr::ip))
}

fn table() -> TableMessage {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    TableMessage { attributes }
}

/// Deletes the table, whether it exists or not.
pub(super) fn remove() -> Transaction {
    let mut transaction = Transaction::default();
    let object = format!("table inet {TABLE}");
    transaction.push(&object, NLM_F_CREATE, NfTablesMessage::NewTable(table()));
    transaction.push(&object, 0, NfTablesMessage::DeleteTable(table()));
    transaction
}

/// What becomes of a table of the same name.
#[derive(Clone, Copy)]
pub(super) enum Existing {
    /// It goes.
    Replace,
    /// It stays, and the whole transaction fails.
    Keep,
}

/// Puts in the table `settings` describe; `zones` says whether the kernel has zones of connection
/// tracking.
pub(super) fn install(settings: &Settings, existing: Existing, zones: bool) -> Transaction {
    let (mut transaction, flags) = match existing {
        Existing::Replace => (remove(), NLM_F_CREATE),
        Existing::Keep => (Transaction::default(), NLM_F_CREATE | NLM_F_EXCL),
    };
    let object = format!("table inet {TABLE}");
    transaction.push(object, flags, NfTablesMessage::NewTable(table()));

    for set in [EXEMPT_V4, EXEMPT_V6, UPSTREAM_V4, UPSTREAM_V6] {
        set.create(&mut transaction);
    }
    let (v4, v6) = keys(settings.exempt.iter().copied());
    EXEMPT_V4.add(&mut transaction, &v4);
    EXEMPT_V6.add(&mut transaction, &v6);
    let (v4, v6) = upstream_keys(&settings.upstreams);
    UPSTREAM_V4.add(&mut transaction, &v4);
    UPSTREAM_V6.add(&mut transaction, &v6);

    chain(&mut transaction, BYPASS, None);
    chain(&mut transaction, ESCAPED, None);
    chain(&mut transaction, REDIRECT, Some(("nat", REDIRECT_PRIORITY)));
    chain(&mut transaction, GUARD, Some(("filter", GUARD_PRIORITY)));

    if zones {
        chain(&mut transaction, ZONE, Some(("filter", ZONE_PRIORITY)));
        zone(&mut transaction, settings);
    }
    bypass(&mut transaction, settings);
    redirect(&mut transaction, settings.port);
    guard(&mut transaction, settings.port);
    transaction
}

/// Replaces the elements of the upstream sets.
pub(super) fn replace_upstreams(transaction: &mut Transaction, upstreams: &[SocketAddr]) {
    let (v4, v6) = upstream_keys(upstreams);
    for (set, keys) in [(UPSTREAM_V4, v4), (UPSTREAM_V6, v6)] {
        set.clear(transaction);
        set.add(transaction, &keys);
    }
}

/// Tracks our own queries in a zone of their own. The kernel reuses source ports: without it, a
/// query of ours from a port the workload just asked from would belong to the workload's flow,
/// and be redirected to ourselves.
fn zone(transaction: &mut Transaction, settings: &Settings) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let ours = mark_is(settings.mark.get())
            .into_iter()
            .chain(socket_user_is(settings.user))
            .chain(transport_is(transport))
            .chain(destination_port_is(DNS))
            .chain(set_zone(OWN_ZONE));
        rule(transaction, ZONE, ours);
    }
}

/// Who may speak DNS past the filter: exempt resolvers for all, the upstreams for us.
fn bypass(transaction: &mut Transaction, settings: &Settings) {
    for (key, set) in [
        (Tracked::DestinationV4, EXEMPT_V4),
        (Tracked::DestinationV6, EXEMPT_V6),
    ] {
        rule(
            transaction,
            BYPASS,
            [originally(key), is_in(set.name), accept()],
        );
    }
    for (key, set) in [
        (Tracked::DestinationV4, UPSTREAM_V4),
        (Tracked::DestinationV6, UPSTREAM_V6),
    ] {
        let ours = mark_is(settings.mark.get())
            .into_iter()
            .chain(socket_user_is(settings.user))
            .chain([originally(key), is_in(set.name), accept()]);
        rule(transaction, BYPASS, ours);
    }
}

/// Sends DNS to the filter.
fn redirect(transaction: &mut Transaction, port: u16) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let dns = || {
            transport_is(transport)
                .into_iter()
                .chain(destination_port_is(DNS))
        };
        rule(transaction, REDIRECT, dns().chain([jump(BYPASS)]));
        rule(transaction, REDIRECT, dns().chain(redirect_to(port)));
    }
}

/// Refuses DNS the redirect did not catch.
fn guard(transaction: &mut Transaction, port: u16) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let outgoing = || {
            transport_is(transport)
                .into_iter()
                .chain([direction(), equals(&[ORIGINAL])])
        };
        let to_dns = outgoing().chain([
            originally(Tracked::DestinationPort),
            equals(&DNS.to_be_bytes()),
            jump(ESCAPED),
        ]);
        rule(transaction, GUARD, to_dns);
        // A resolver on the loopback, such as Docker's 127.0.0.11, listens on another port and
        // has its own translation from 53; the port itself answers anyone who finds it.
        let to_hidden_port = leaves_by_loopback().into_iter().chain(outgoing()).chain([
            originally(Tracked::DestinationPort),
            differs(&DNS.to_be_bytes()),
            originally(Tracked::DestinationV4),
            is_in(UPSTREAM_V4.name),
            differs(&Ipv4Addr::LOCALHOST.octets()),
            masked(&[255, 0, 0, 0]),
            equals(&[127, 0, 0, 0]),
            counter(),
            reject(),
        ]);
        rule(transaction, GUARD, to_hidden_port);
        let redirected = transport_is(transport)
            .into_iter()
            .chain(destination_port_is(port))
            .chain([leave()]);
        rule(transaction, ESCAPED, redirected);
    }
    rule(transaction, ESCAPED, [jump(BYPASS)]);
    rule(transaction, ESCAPED, [counter(), reject()]);
}

/// How errors name a chain and its rules.
pub(super) fn object(chain: &str) -> String {
    format!("chain {chain}")
}

/// Adds a chain; with a type and a priority it is called for each packet that is sent.
fn chain(transaction: &mut Transaction, name: &str, base: Option<(&str, i32)>) {
    let mut attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(name.to_owned()),
    ];
    if let Some((kind, priority)) = base {
        attributes.extend([
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(InetHookNumber::LocalOut)),
                Hook::Priority(priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(POLICY),
            ChainAttribute::Type(kind.to_owned()),
        ]);
    }
    let message = NfTablesMessage::NewChain(ChainMessage { attributes });
    transaction.push(object(name), NLM_F_CREATE, message);
}

fn rule(
    transaction: &mut Transaction,
    chain: &str,
    expressions: impl IntoIterator<Item = Expression>,
) {
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions.into_iter().collect()),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    transaction.push(object(chain), flags, message);
}
