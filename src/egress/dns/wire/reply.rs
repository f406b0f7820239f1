//! Building the answers the filter gives itself.

use super::query::{Edns, Query, Rejection};
use super::{HEADER, Record, flag, opcode, rcode, rtype, skip_name, u16_at};

/// How long a client may remember that a name is denied, in seconds: long enough to stop search
/// lists from being walked again and again, short enough that a policy change is felt at once.
pub const NEGATIVE_TTL: u32 = 5;

/// UDP payload this filter takes from clients, in octets (the size recommended by DNS Flag Day
/// 2020).
pub const OUR_PAYLOAD: u16 = 1232;

/// The EDNS option that carries an extended error (RFC 8914 section 2).
const EXTENDED_ERROR: u16 = 15;

/// Why there is no better answer (RFC 8914 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: &'static str,
}

impl ExtendedError {
    /// The policy refuses the name.
    pub const BLOCKED: Self = Self {
        code: 15,
        text: "denied by egress policy",
    };
    /// No upstream answered in time.
    pub const NO_REACHABLE_AUTHORITY: Self = Self {
        code: 22,
        text: "no upstream resolver answered",
    };
    /// No upstream could be asked.
    pub const NETWORK_ERROR: Self = Self {
        code: 23,
        text: "no upstream resolver could be reached",
    };
    /// The filter is stopping.
    pub const NOT_READY: Self = Self {
        code: 14,
        text: "egress is shutting down",
    };
}

/// Appends the answer to a message that is not forwarded; nothing for one that gets no answer.
pub fn rejected(message: &[u8], rejection: Rejection, out: &mut Vec<u8>) {
    let (code, keep) = match rejection {
        Rejection::NotAQuery => return,
        Rejection::FormatError => (rcode::FORMERR, flag::RECURSION_DESIRED),
        Rejection::NotImplemented => (rcode::NOTIMP, flag::RECURSION_DESIRED | flag::OPCODE),
    };
    let (Some(id), Some(flags)) = (u16_at(message, 0), u16_at(message, 2)) else {
        return;
    };
    header(out, id, flag::RESPONSE | (flags & keep) | code, [0; 4]);
}

/// Appends "no such name" for a denied query, with a start of authority that lets clients
/// remember it for [`NEGATIVE_TTL`] (RFC 2308 section 3).
pub fn denied(message: &[u8], query: &Query, out: &mut Vec<u8>) {
    own(message, query, rcode::NXDOMAIN, ExtendedError::BLOCKED, out);
}

/// Appends "server failure".
pub fn failed(message: &[u8], query: &Query, why: ExtendedError, out: &mut Vec<u8>) {
    own(message, query, rcode::SERVFAIL, why, out);
}

fn own(message: &[u8], query: &Query, code: u16, why: ExtendedError, out: &mut Vec<u8>) {
    let keep = flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
    let flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | (query.flags & keep) | code;
    let negative = code == rcode::NXDOMAIN;
    let sections = [1, 0, u16::from(negative), u16::from(query.edns.is_some())];
    header(out, query.id, flags, sections);
    out.extend_from_slice(query.question(message));
    if negative {
        authority(query.class, out);
    }
    if let Some(edns) = query.edns {
        opt(edns, Some(why), out);
    }
}

/// The root as the owner, the server and the mailbox: above every name, and nobody's zone.
fn authority(class: u16, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&rtype::SOA.to_be_bytes());
    out.extend_from_slice(&class.to_be_bytes());
    out.extend_from_slice(&NEGATIVE_TTL.to_be_bytes());
    out.extend_from_slice(&22_u16.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    // Serial, refresh, retry, expire, minimum: only the last means anything to a client.
    for field in [1, 3600, 600, 86400, NEGATIVE_TTL] {
        out.extend_from_slice(&u32::to_be_bytes(field));
    }
}

fn opt(client: Edns, why: Option<ExtendedError>, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&OUR_PAYLOAD.to_be_bytes());
    out.extend_from_slice(&(u32::from(client.dnssec_ok) << 15).to_be_bytes());
    let option = why.map_or(0, |why| 6 + length(why.text));
    out.extend_from_slice(&option.to_be_bytes());
    if let Some(why) = why {
        out.extend_from_slice(&EXTENDED_ERROR.to_be_bytes());
        out.extend_from_slice(&(2 + length(why.text)).to_be_bytes());
        out.extend_from_slice(&why.code.to_be_bytes());
        out.extend_from_slice(why.text.as_bytes());
    }
}

/// The length of one of our own short texts.
fn length(text: &str) -> u16 {
    u16::try_from(text.len()).unwrap_or_default()
}

/// Appends what a client gets whose limit the upstream's answer exceeds: header with TC, question
/// and OPT, so that it asks again over TCP (RFC 2181 section 9). Nothing when the answer has no
/// readable question.
pub fn truncated(answer: &[u8], client: Option<Edns>, limit: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let (Some(id), Some(flags)) = (u16_at(answer, 0), u16_at(answer, 2)) else {
        return;
    };
    let question_end = match u16_at(answer, 4) {
        Some(1) => skip_name(answer, HEADER).map(|end| end + 4),
        _ => None,
    };
    let Some(question) = question_end.and_then(|end| answer.get(HEADER..end)) else {
        return;
    };
    header(
        out,
        id,
        flags | flag::TRUNCATED,
        [1, 0, 0, u16::from(client.is_some())],
    );
    out.extend_from_slice(question);
    let Some(client) = client else { return };
    let room = limit.saturating_sub(out.len() - start);
    match upstream_opt(answer, HEADER + question.len()) {
        // It carries the extended response code and the server's cookie.
        Some(theirs) if theirs.len() <= room => out.extend_from_slice(theirs),
        _ => opt(client, None, out),
    }
}

/// The OPT record of an upstream answer; its owner is the root, so it can be moved.
fn upstream_opt(answer: &[u8], question_end: usize) -> Option<&[u8]> {
    let count = |at| u16_at(answer, at).map(usize::from);
    let records = count(6)? + count(8)? + count(10)?;
    let mut at = question_end;
    for _ in 0..records {
        let record = Record::read(answer, at)?;
        if record.kind == rtype::OPT && answer.get(at) == Some(&0) {
            return answer.get(at..record.data.end);
        }
        at = record.data.end;
    }
    None
}

fn header(out: &mut Vec<u8>, id: u16, flags: u16, counts: [u16; 4]) {
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    for count in counts {
        out.extend_from_slice(&count.to_be_bytes());
    }
}

/// Builds a recursive query of our own.
#[must_use]
pub fn ask(id: u16, name: &hickory_proto::rr::Name, kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 5);
    let flags = flag::RECURSION_DESIRED | (opcode::QUERY << 11);
    header(&mut message, id, flags, [1, 0, 0, 0]);
    for label in name {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&super::CLASS_IN.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::super::query::parse;
    use super::*;
    use hickory_proto::op::{Message, OpCode, ResponseCode};
    use hickory_proto::rr::rdata::opt::EdnsCode;
    use proptest::prelude::*;

    const PLAIN: &[u8] = b"\xab\xcd\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\
        \x01A\x04TeSt\x00\x00\x1c\x00\x01";
    const WITH_EDNS: &[u8] = b"\xab\xcd\x01\x10\x00\x01\x00\x00\x00\x00\x00\x01\
        \x01A\x04TeSt\x00\x00\x1c\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    fn query(message: &[u8]) -> Query {
        parse(message, &mut String::new()).unwrap()
    }

    #[test]
    fn a_denial_is_a_cacheable_nxdomain_with_an_extended_error() {
        let mut out = Vec::new();
        denied(WITH_EDNS, &query(WITH_EDNS), &mut out);
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!(answer.metadata.id, 0xabcd);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        assert!(answer.metadata.checking_disabled && !answer.metadata.authoritative);
        assert_eq!(&out[12..24], b"\x01A\x04TeSt\x00\x00\x1c\x00\x01");
        assert_eq!(answer.authorities.len(), 1);
        assert_eq!(answer.authorities[0].ttl, NEGATIVE_TTL);
        let edns = answer.edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        let Some(option) = edns.option(EdnsCode::Unknown(15)) else {
            panic!("no extended error in {edns:?}");
        };
        let bytes = Vec::<u8>::try_from(option).unwrap();
        assert_eq!(bytes, b"\x00\x0fdenied by egress policy");
    }

    #[test]
    fn a_client_without_edns_gets_none() {
        let mut out = Vec::new();
        failed(PLAIN, &query(PLAIN), ExtendedError::NETWORK_ERROR, &mut out);
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(answer.edns.is_none() && answer.authorities.is_empty());
    }

    #[test]
    fn rejections_are_a_header() {
        let mut out = Vec::new();
        rejected(PLAIN, Rejection::FormatError, &mut out);
        assert_eq!(out, b"\xab\xcd\x81\x01\0\0\0\0\0\0\0\0");
        out.clear();
        rejected(
            b"\xab\xcd\x29\x00\0\0\0\0\0\0\0\0",
            Rejection::NotImplemented,
            &mut out,
        );
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!(answer.metadata.op_code, OpCode::Update);
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
        out.clear();
        rejected(PLAIN, Rejection::NotAQuery, &mut out);
        assert_eq!(out, b"");
    }

    #[test]
    fn truncation_keeps_question_and_opt() {
        let mut big = WITH_EDNS.to_vec();
        big[2] |= 0x80;
        let mut out = Vec::new();
        let edns = query(WITH_EDNS).edns;
        truncated(&big, edns, 512, &mut out);
        let answer = Message::from_vec(&out).unwrap();
        assert!(answer.metadata.truncation);
        assert_eq!(answer.queries.len(), 1);
        assert_eq!(answer.edns.unwrap().max_payload(), 1232);
        out.clear();
        truncated(&big, None, 512, &mut out);
        assert!(Message::from_vec(&out).unwrap().edns.is_none());
    }

    #[test]
    fn our_own_queries_are_queries() {
        let name = hickory_proto::rr::Name::from_ascii("intranet.corp.").unwrap();
        let message = ask(7, &name, rtype::A);
        let mut text = String::new();
        assert_eq!(parse(&message, &mut text).unwrap().kind, rtype::A);
        assert_eq!(text, "intranet.corp");
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            truncated(&bytes, None, 512, &mut Vec::new());
            let edns = Edns { payload: 512, dnssec_ok: true };
            truncated(&bytes, Some(edns), 512, &mut Vec::new());
            rejected(&bytes, Rejection::FormatError, &mut Vec::new());
        }
    }
}
