//! The expressions of nf_tables rules this project uses, one function each
//! (linux/netfilter/nf_tables.h). Pure.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

/// One expression of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// The register every value passes through.
const REGISTER: Register = Register::Reg1;
/// The accept verdict (`NF_ACCEPT`, linux/netfilter.h).
const ACCEPT: u32 = 1;
/// The transport header as the base of a payload (`NFT_PAYLOAD_TRANSPORT_HEADER`).
const TRANSPORT_HEADER: u32 = 2;
/// Where TCP and UDP have the destination port.
const DESTINATION_PORT: (u32, u32) = (2, 2);
/// Reject with an ICMP error of the packet's own family (`NFT_REJECT_ICMPX_UNREACH`), and its
/// code "port unreachable" (`NFT_REJECT_ICMPX_PORT_UNREACH`), which ends a client's wait at once.
const REJECT_BY_FAMILY: u32 = 2;
const PORT_UNREACHABLE: u8 = 1;
/// The hardware type of the loopback device (`ARPHRD_LOOPBACK`, linux/if_arp.h).
const LOOPBACK: u16 = 772;
/// The direction of the packet that began a flow (`IP_CT_DIR_ORIGINAL`).
pub(super) const ORIGINAL: u8 = 0;

/// A transport protocol (IANA protocol numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp = 6,
    Udp = 17,
}

/// What connection tracking knows of a packet's flow (`enum nft_ct_keys`).
#[derive(Clone, Copy)]
pub(super) enum Tracked {
    /// One byte: 0 from the initiator, 1 towards it.
    Direction = 1,
    /// The destination port the flow began with.
    DestinationPort = 12,
    /// The IPv4 destination the flow began with; no other family passes.
    DestinationV4 = 20,
    /// The IPv6 destination the flow began with; no other family passes.
    DestinationV6 = 22,
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
    .into()
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn load(value: &[u8]) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(REGISTER),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

fn meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(REGISTER)]).into()
}

fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(REGISTER),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

/// `== value` on what was loaded last.
pub(super) fn equals(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

/// `!= value` on what was loaded last.
pub(super) fn differs(value: &[u8]) -> Expression {
    compare(Operator::NotEqual, value)
}

/// `& mask` on what was loaded last.
pub(super) fn masked(mask: &[u8]) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(REGISTER),
        Bitwise::DestinationRegister(REGISTER),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
    .into()
}

/// `@set` on what was loaded last.
pub(super) fn is_in(set: &str) -> Expression {
    Expressions::Lookup(vec![
        Lookup::Set(set.to_owned()),
        Lookup::SourceRegister(REGISTER),
    ])
    .into()
}

/// `meta l4proto transport`.
pub(super) fn transport_is(transport: Transport) -> [Expression; 2] {
    [meta(MetaKey::L4Proto), equals(&[transport as u8])]
}

/// `th dport port`; only after [`transport_is`].
pub(super) fn destination_port_is(port: u16) -> [Expression; 2] {
    let (offset, length) = DESTINATION_PORT;
    let load = Expressions::Payload(vec![
        Payload::DestinationRegister(REGISTER),
        Payload::Base(TRANSPORT_HEADER),
        Payload::Offset(offset),
        Payload::Len(length),
    ]);
    [load.into(), equals(&port.to_be_bytes())]
}

/// `meta oiftype loopback`.
pub(super) fn leaves_by_loopback() -> [Expression; 2] {
    [meta(MetaKey::Oiftype), equals(&LOOPBACK.to_ne_bytes())]
}

/// `meta mark mark`.
pub(super) fn mark_is(mark: u32) -> [Expression; 2] {
    [meta(MetaKey::Mark), equals(&mark.to_ne_bytes())]
}

/// `meta skuid user`.
pub(super) fn socket_user_is(user: u32) -> [Expression; 2] {
    [meta(MetaKey::SocketUserId), equals(&user.to_ne_bytes())]
}

/// `ct direction`.
pub(super) fn direction() -> Expression {
    // NFTA_CT_DREG, NFTA_CT_KEY
    let key = Tracked::Direction as u32;
    other("ct", vec![number(1, REGISTER.into()), number(2, key)])
}

/// `ct original key`.
pub(super) fn originally(key: Tracked) -> Expression {
    // NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_DIRECTION
    let direction = DefaultNla::new(3, vec![ORIGINAL]);
    let key = number(2, key as u32);
    other("ct", vec![number(1, REGISTER.into()), key, direction])
}

/// `ct original zone set zone`; only before connection tracking.
pub(super) fn set_zone(zone: u16) -> [Expression; 2] {
    // NFT_CT_ZONE; NFTA_CT_KEY, NFTA_CT_DIRECTION, NFTA_CT_SREG
    let key = number(2, 17);
    let direction = DefaultNla::new(3, vec![ORIGINAL]);
    let set = other("ct", vec![key, direction, number(4, REGISTER.into())]);
    [load(&zone.to_ne_bytes()), set]
}

/// `redirect to :port`.
pub(super) fn redirect_to(port: u16) -> [Expression; 2] {
    let load = Expressions::Immediate(vec![
        Immediate::DestinationRegister(REGISTER),
        Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec())),
    ]);
    // NFTA_REDIR_REG_PROTO_MIN
    [
        load.into(),
        other("redir", vec![number(1, REGISTER.into())]),
    ]
}

/// `counter`.
pub(super) fn counter() -> Expression {
    other("counter", Vec::new())
}

/// `reject with icmpx port-unreachable`.
pub(super) fn reject() -> Expression {
    // NFTA_REJECT_TYPE, NFTA_REJECT_ICMP_CODE
    let code = DefaultNla::new(2, vec![PORT_UNREACHABLE]);
    other("reject", vec![number(1, REJECT_BY_FAMILY), code])
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
    .into()
}

/// `accept`.
pub(super) fn accept() -> Expression {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])
}

/// `return`.
pub(super) fn leave() -> Expression {
    verdict(vec![VerdictAttribute::Code(Verdict::Return)])
}

/// `jump chain`.
pub(super) fn jump(chain: &str) -> Expression {
    verdict(vec![
        VerdictAttribute::Code(Verdict::Jump),
        VerdictAttribute::Chain(chain.to_owned()),
    ])
}
