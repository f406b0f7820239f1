//! Reading a client's query: what the filter has to know, and nothing else.
//!
//! The ordinary query (one question, at most an OPT record) is read in place. Anything else that
//! is still a query is decoded in full by `hickory-proto`, so that only well-formed messages are
//! ever forwarded.

use std::fmt::Write as _;

use hickory_proto::op::Message;

use super::{HEADER, MAX_NAME, PLAIN_UDP, Record, flag, opcode, rtype, u16_at};

/// What a client asked, by position in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Message id.
    pub id: u16,
    /// The header's flag word.
    pub flags: u16,
    /// QTYPE.
    pub kind: u16,
    /// QCLASS.
    pub class: u16,
    /// Where the question section ends; it starts behind the header.
    pub question_end: usize,
    /// The client's OPT record, if it sent one.
    pub edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// UDP payload the sender can take, in octets.
    pub payload: u16,
    /// The sender wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// Why a message is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Too short for a header, or a response: gets no answer.
    NotAQuery,
    /// Gets FORMERR.
    FormatError,
    /// An operation this filter does not know: gets NOTIMP.
    NotImplemented,
}

impl Query {
    /// The question section of the message this was read from.
    #[must_use]
    pub fn question<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        message.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// The largest UDP answer the client takes, in octets.
    #[must_use]
    pub fn udp_limit(&self) -> usize {
        self.edns
            .map_or(PLAIN_UDP, |edns| usize::from(edns.payload).max(PLAIN_UDP))
    }
}

/// Reads a query. `name` receives the queried name in lower case without the trailing dot, the
/// root as the empty string; every octet outside letters, digits, `-` and `_` is written `\DDD`
/// (RFC 1035 section 5.1), so a dot in the text always is a label boundary.
///
/// # Errors
///
/// Says how to turn the message down.
pub fn parse(message: &[u8], name: &mut String) -> Result<Query, Rejection> {
    use Rejection::{FormatError, NotAQuery, NotImplemented};

    let header = message.first_chunk::<HEADER>().ok_or(NotAQuery)?;
    let [id, flags, questions, answers, authorities, additionals] =
        [0, 2, 4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    if flags & flag::RESPONSE != 0 {
        return Err(NotAQuery);
    }
    let operation = (flags & flag::OPCODE) >> 11;
    if operation != opcode::QUERY && operation != opcode::NOTIFY {
        return Err(NotImplemented);
    }
    if questions != 1 || answers > 1 || authorities > 1 || additionals > 2 {
        return Err(FormatError);
    }

    let name_end = read_name(message, name).ok_or(FormatError)?;
    let mut query = Query {
        id,
        flags,
        kind: u16_at(message, name_end).ok_or(FormatError)?,
        class: u16_at(message, name_end + 2).ok_or(FormatError)?,
        question_end: name_end + 4,
        edns: None,
    };

    let ordinary = operation == opcode::QUERY && answers == 0 && authorities == 0;
    match additionals {
        0 if ordinary && query.question_end == message.len() => return Ok(query),
        1 if ordinary => {
            if let Some(edns) = sole_opt(message, query.question_end) {
                query.edns = Some(edns);
                return Ok(query);
            }
        }
        _ => {}
    }

    let decoded = Message::from_vec(message).map_err(|_| FormatError)?;
    query.edns = decoded.edns.as_ref().map(|edns| Edns {
        payload: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
    });
    Ok(query)
}

/// Writes the queried name as text; the end of the name in the message. A compression pointer has
/// nothing to point back to here and is refused.
fn read_name(message: &[u8], text: &mut String) -> Option<usize> {
    text.clear();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some(at + 1);
        }
        let end = at + 1 + length;
        if length > 63 || end - HEADER >= MAX_NAME {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for octet in message.get(at + 1..end)? {
            if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_') {
                text.push(char::from(octet.to_ascii_lowercase()));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\{octet:03}");
            }
        }
        at = end;
    }
}

/// The OPT record at `at`, when it is well-formed and the last thing in the message.
fn sole_opt(message: &[u8], at: usize) -> Option<Edns> {
    let record = Record::read(message, at)?;
    let root_owner = message.get(at) == Some(&0);
    if !root_owner || record.kind != rtype::OPT || record.data.end != message.len() {
        return None;
    }
    let mut options = message.get(record.data)?;
    while !options.is_empty() {
        let length = usize::from(u16_at(options, 2)?);
        options = options.get(4 + length..)?;
    }
    Some(Edns {
        payload: record.class,
        dnssec_ok: record.ttl & 0x8000 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Header of a query with the given section counts, RD set.
    fn header(counts: [u16; 4]) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 0x01, 0x00];
        for count in counts {
            message.extend(count.to_be_bytes());
        }
        message
    }

    fn query(counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let mut message = header(counts);
        message.extend(rest);
        message
    }

    const A_TEST: &[u8] = b"\x01A\x04TeSt\x00\x00\x1c\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    #[test]
    fn an_ordinary_query_is_read_in_place() {
        let mut name = String::from("left over");
        let message = query([1, 0, 0, 0], A_TEST);
        let read = parse(&message, &mut name).unwrap();
        assert_eq!(name, "a.test");
        assert_eq!((read.id, read.kind, read.class), (0xabcd, 28, 1));
        assert_eq!(read.question(&message), A_TEST);
        assert_eq!((read.edns, read.udp_limit()), (None, 512));
    }

    #[test]
    fn edns_is_read() {
        let message = query([1, 0, 0, 1], &[A_TEST, OPT].concat());
        let read = parse(&message, &mut String::new()).unwrap();
        let edns = read.edns.unwrap();
        assert_eq!((edns.payload, edns.dnssec_ok), (1232, true));
        assert_eq!(read.udp_limit(), 1232);
    }

    #[test]
    fn a_label_never_forges_a_boundary() {
        let mut name = String::new();
        let message = query([1, 0, 0, 0], b"\x09x.example\x03com\x00\x00\x01\x00\x01");
        parse(&message, &mut name).unwrap();
        assert_eq!(name, "x\\046example.com");
    }

    #[test]
    fn the_root_is_the_empty_name() {
        let mut name = String::new();
        parse(&query([1, 0, 0, 0], b"\x00\x00\x02\x00\x01"), &mut name).unwrap();
        assert_eq!(name, "");
    }

    #[test]
    fn malformed_input_is_turned_down_as_the_contract_says() {
        use Rejection::{FormatError, NotAQuery, NotImplemented};
        let with_flags = |flags: u16| {
            let mut message = query([1, 0, 0, 0], A_TEST);
            message[2..4].copy_from_slice(&flags.to_be_bytes());
            message
        };
        let cases: &[(&str, Vec<u8>, Rejection)] = &[
            ("eleven bytes", vec![0; 11], NotAQuery),
            ("a response", with_flags(0x8100), NotAQuery),
            ("STATUS", with_flags(2 << 11), NotImplemented),
            ("UPDATE", with_flags(5 << 11), NotImplemented),
            ("no question", header([0, 0, 0, 0]), FormatError),
            (
                "two questions",
                query([2, 0, 0, 0], &[A_TEST, A_TEST].concat()),
                FormatError,
            ),
            ("two answers", query([1, 2, 0, 0], A_TEST), FormatError),
            ("two authorities", query([1, 0, 2, 0], A_TEST), FormatError),
            (
                "three additionals",
                query([1, 0, 0, 3], A_TEST),
                FormatError,
            ),
            ("a question claimed", header([1, 0, 0, 0]), FormatError),
            (
                "a pointer in the question",
                query([1, 0, 0, 0], b"\xc0\x0c\x00\x01\x00\x01"),
                FormatError,
            ),
            (
                "a question cut short",
                query([1, 0, 0, 0], b"\x01a\x00\x00\x01\x00"),
                FormatError,
            ),
            (
                "an answer claimed",
                query([1, 1, 0, 0], A_TEST),
                FormatError,
            ),
            (
                "an option that overruns",
                query(
                    [1, 0, 0, 1],
                    &[
                        A_TEST,
                        b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x08x",
                    ]
                    .concat(),
                ),
                FormatError,
            ),
        ];
        for (what, message, expected) in cases {
            assert_eq!(parse(message, &mut String::new()), Err(*expected), "{what}");
        }
    }

    #[test]
    fn unusual_but_valid_queries_are_forwarded() {
        let mut notify = query([1, 0, 0, 0], A_TEST);
        notify[2] = 4 << 3;
        assert!(parse(&notify, &mut String::new()).is_ok());
        // IXFR carries the client's SOA in the authority section (RFC 1995 section 3).
        let soa = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x16\x00\x00\
            \x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01";
        let ixfr = query([1, 0, 1, 1], &[A_TEST, &soa[..], OPT].concat());
        let read = parse(&ixfr, &mut String::new()).unwrap();
        assert_eq!(read.udp_limit(), 1232);
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&message, &mut String::new());
        }

        /// What is accepted is a message the reference decoder accepts too, with the same
        /// question and the same EDNS parameters.
        #[test]
        fn agrees_with_the_reference_decoder(
            labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..5),
            kind: u16, class: u16, tail in proptest::collection::vec(any::<u8>(), 0..40),
            additionals in 0_u16..3, with_opt: bool,
        ) {
            let mut rest = Vec::new();
            for label in &labels {
                rest.push(u8::try_from(label.len()).unwrap());
                rest.extend(label);
            }
            rest.push(0);
            rest.extend(kind.to_be_bytes());
            rest.extend(class.to_be_bytes());
            if with_opt {
                rest.extend(OPT);
            }
            rest.extend(tail);
            let message = query([1, 0, 0, additionals], &rest);
            let mut name = String::new();
            let reference = Message::from_vec(&message);
            if let Ok(read) = parse(&message, &mut name) {
                let reference = reference.unwrap();
                prop_assert_eq!(&reference.queries[0].name.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), &labels);
                prop_assert_eq!(u16::from(reference.queries[0].query_type), read.kind);
                let edns = reference.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
                prop_assert_eq!(edns, read.edns.map(|edns| (edns.payload.max(512), edns.dnssec_ok)));
                prop_assert_eq!(name.matches('.').count() + 1, labels.len().max(1));
            } else {
                prop_assert!(reference.is_err() || additionals > 2);
            }
        }
    }
}
