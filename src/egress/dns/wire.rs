//! The DNS wire format, as far as a filter that relays messages needs it (RFC 1035 section 4,
//! RFC 6891, RFC 8914).
//!
//! Pure: reads and builds messages in buffers it is given, and never panics, whatever the bytes.
//! Never decodes a whole message that it only has to pass on.

pub mod answer;
pub mod query;
pub mod reply;

/// Length of the message header (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;

/// The largest message DNS can carry; also what one length prefix over TCP can announce.
pub const MAX_MESSAGE: usize = u16::MAX as usize;

/// The UDP payload every resolver must accept, and the limit for a client without EDNS
/// (RFC 1035 section 2.3.4).
pub const PLAIN_UDP: usize = 512;

/// Octets of a name in wire form, root label included (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// Header flag bits (RFC 1035 section 4.1.1, RFC 4035 section 3).
pub mod flag {
    /// This message is a response.
    pub const RESPONSE: u16 = 0x8000;
    /// The answer did not fit.
    pub const TRUNCATED: u16 = 0x0200;
    /// The client wants recursion.
    pub const RECURSION_DESIRED: u16 = 0x0100;
    /// The server offers recursion.
    pub const RECURSION_AVAILABLE: u16 = 0x0080;
    /// The client does its own DNSSEC validation.
    pub const CHECKING_DISABLED: u16 = 0x0010;
    /// Where the operation code sits.
    pub const OPCODE: u16 = 0x7800;
    /// Where the response code sits.
    pub const RCODE: u16 = 0x000f;
}

/// Operation codes this filter forwards.
pub mod opcode {
    /// A standard query.
    pub const QUERY: u16 = 0;
    /// A zone change notification (RFC 1996).
    pub const NOTIFY: u16 = 4;
}

/// Response codes (RFC 1035 section 4.1.1).
pub mod rcode {
    /// An answer, possibly empty.
    pub const NOERROR: u16 = 0;
    /// The query could not be read.
    pub const FORMERR: u16 = 1;
    /// The server failed.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// The operation is not supported.
    pub const NOTIMP: u16 = 4;
}

/// Record types the filter looks into.
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// The name servers of a zone.
    pub const NS: u16 = 2;
    /// Another name for the owner.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// The EDNS pseudo record (RFC 6891).
    pub const OPT: u16 = 41;
}

/// Class IN.
pub const CLASS_IN: u16 = 1;

/// The name of a response code, for log lines (IANA DNS RCODEs).
#[must_use]
pub fn rcode_text(code: u16) -> std::borrow::Cow<'static, str> {
    match code {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        6 => "YXDOMAIN".into(),
        7 => "YXRRSET".into(),
        8 => "NXRRSET".into(),
        9 => "NOTAUTH".into(),
        10 => "NOTZONE".into(),
        other => format!("RCODE{other}").into(),
    }
}

/// The presentation form of a record type, `TYPE65280` where it has no name (RFC 3597 section 5).
#[must_use]
pub fn rtype_text(code: u16) -> std::borrow::Cow<'static, str> {
    use hickory_proto::rr::RecordType;
    match RecordType::from(code) {
        RecordType::Unknown(_) => format!("TYPE{code}").into(),
        known => <&'static str>::from(known).into(),
    }
}

/// The message id, `None` for a message too short to have one.
#[must_use]
pub fn id(message: &[u8]) -> Option<u16> {
    u16_at(message, 0)
}

/// Replaces the message id; a message too short to have one stays as it is.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.first_chunk_mut::<2>() {
        *field = id.to_be_bytes();
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

/// Where the name that starts at `at` ends in place: a compression pointer ends it.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let limit = at + MAX_NAME;
    loop {
        let length = *message.get(at)?;
        match length & 0xc0 {
            0x00 if length == 0 => return Some(at + 1),
            0x00 => at += 1 + usize::from(length),
            0xc0 => {
                message.get(at + 1)?;
                return Some(at + 2);
            }
            _ => return None,
        }
        if at >= limit {
            return None;
        }
    }
}

/// The labels of a name, compression pointers followed. A pointer has to lead strictly back from
/// where the current run of labels began, so the walk always ends.
struct Labels<'m> {
    message: &'m [u8],
    at: usize,
    run: usize,
    octets: usize,
    /// Whether the root label was reached; without it the name is malformed.
    complete: bool,
}

impl<'m> Labels<'m> {
    fn new(message: &'m [u8], at: usize) -> Self {
        Self {
            message,
            at,
            run: at,
            octets: 1,
            complete: false,
        }
    }
}

impl<'m> Iterator for Labels<'m> {
    type Item = &'m [u8];

    fn next(&mut self) -> Option<&'m [u8]> {
        loop {
            let length = *self.message.get(self.at)?;
            match length & 0xc0 {
                0x00 if length == 0 => {
                    self.complete = true;
                    return None;
                }
                0x00 => {
                    let end = self.at + 1 + usize::from(length);
                    let label = self.message.get(self.at + 1..end)?;
                    self.octets += 1 + label.len();
                    if self.octets > MAX_NAME {
                        return None;
                    }
                    self.at = end;
                    return Some(label);
                }
                0xc0 => {
                    let target = usize::from(u16_at(self.message, self.at)? & 0x3fff);
                    if target >= self.run {
                        return None;
                    }
                    self.at = target;
                    self.run = target;
                }
                _ => return None,
            }
        }
    }
}

/// Whether two names of one message are the same, ASCII case aside (RFC 4343). Malformed names
/// equal nothing.
fn same_name(message: &[u8], left: usize, right: usize) -> bool {
    let mut left = Labels::new(message, left);
    let mut right = Labels::new(message, right);
    loop {
        match (left.next(), right.next()) {
            (Some(one), Some(other)) if one.eq_ignore_ascii_case(other) => {}
            (None, None) => return left.complete && right.complete,
            _ => return false,
        }
    }
}

/// One resource record, located but not decoded.
struct Record {
    owner: usize,
    kind: u16,
    class: u16,
    ttl: u32,
    data: std::ops::Range<usize>,
}

impl Record {
    /// Locates the record at `at`; its end is `data.end`.
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let fixed = skip_name(message, at)?;
        let start = fixed + 10;
        let end = start + usize::from(u16_at(message, fixed + 8)?);
        (end <= message.len()).then_some(())?;
        Some(Self {
            owner: at,
            kind: u16_at(message, fixed)?,
            class: u16_at(message, fixed + 2)?,
            ttl: u32_at(message, fixed + 4)?,
            data: start..end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_loop_ends() {
        // At 0: pointer to itself; at 2: pointer forward to 4; at 4: pointer back to 2.
        let message = [0xc0, 0, 0xc0, 4, 0xc0, 2];
        for at in [0, 2, 4] {
            let mut labels = Labels::new(&message, at);
            assert_eq!(labels.by_ref().count(), 0);
            assert!(!labels.complete);
            assert!(!same_name(&message, at, at));
        }
    }

    #[test]
    fn names_compare_without_case_and_through_pointers() {
        // 0: "com."; 5: "A" -> com; 9: "a.COM." written out.
        let message = b"\x03com\x00\x01A\xc0\x00\x01a\x03COM\x00";
        assert!(same_name(message, 5, 9));
        assert!(!same_name(message, 0, 9));
    }

    #[test]
    fn a_name_longer_than_255_octets_is_malformed() {
        let mut message = Vec::new();
        for _ in 0..4 {
            message.push(63);
            message.extend([b'x'; 63]);
        }
        message.push(0);
        assert_eq!(skip_name(&message, 0), None);
        let mut labels = Labels::new(&message, 0);
        assert_eq!(labels.by_ref().count(), 3);
        assert!(!labels.complete);
    }

    #[test]
    fn record_types_have_their_presentation_form() {
        assert_eq!(rtype_text(28), "AAAA");
        assert_eq!(rtype_text(65280), "TYPE65280");
    }
}
