//! Reading an upstream's answer: does it answer what was asked, what does it say, and which
//! addresses belong to the name that was asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CLASS_IN, HEADER, Record, flag, rtype, same_name, u16_at};

/// Names one chain of aliases may have, the queried name included. Resolvers give up at about
/// this length themselves.
pub const MAX_CHAIN: usize = 16;

/// Records of an answer section that are looked at; what lies behind them is relayed but opens
/// nothing.
pub const MAX_RECORDS: usize = 256;

/// An address a name resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// From an A or AAAA record.
    pub ip: IpAddr,
    /// How long it may be cached, in seconds.
    pub ttl: u32,
}

/// How an upstream message relates to a query sent to that upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// It answers the question.
    Question,
    /// It carries no question, as some servers answer what they cannot read.
    HeaderOnly,
    /// It belongs to something else.
    Foreign,
}

/// The answer section cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer")]
pub struct Malformed;

/// Compares an upstream message with the query it should answer, sent under `id`: id, operation
/// and question, names without regard to ASCII case. `question_end` is where the question of
/// `asked` ends.
#[must_use]
pub fn echo(answer: &[u8], id: u16, asked: &[u8], question_end: usize) -> Echo {
    let (Some(flags), Some(questions)) = (u16_at(answer, 2), u16_at(answer, 4)) else {
        return Echo::Foreign;
    };
    let sent = u16_at(asked, 2).unwrap_or_default();
    if answer.len() < HEADER
        || super::id(answer) != Some(id)
        || flags & flag::RESPONSE == 0
        || (flags ^ sent) & flag::OPCODE != 0
    {
        return Echo::Foreign;
    }
    if questions == 0 {
        return Echo::HeaderOnly;
    }
    let (Some(ours), Some(theirs)) = (
        asked.get(HEADER..question_end),
        answer.get(HEADER..question_end),
    ) else {
        return Echo::Foreign;
    };
    let name = ours.len().saturating_sub(4);
    // Length octets are below the letters, so they compare exactly.
    let same = questions == 1
        && ours.get(name..) == theirs.get(name..)
        && ours
            .iter()
            .zip(theirs)
            .take(name)
            .all(|(one, other)| one.eq_ignore_ascii_case(other));
    if same { Echo::Question } else { Echo::Foreign }
}

/// Whether the sender left something out for want of room.
#[must_use]
pub fn is_truncated(answer: &[u8]) -> bool {
    u16_at(answer, 2).unwrap_or_default() & flag::TRUNCATED != 0
}

/// The response code in the header.
#[must_use]
pub fn rcode(answer: &[u8]) -> u16 {
    u16_at(answer, 2).unwrap_or_default() & flag::RCODE
}

/// Appends the addresses of the answer section whose owner is the queried name or one of its
/// aliases, in order. Addresses of other names, which a resolver has no reason to send, are left
/// out.
///
/// # Errors
///
/// When a record of the answer section overruns the message; `into` is then as it was.
pub fn addresses(
    answer: &[u8],
    question_end: usize,
    into: &mut Vec<Address>,
) -> Result<(), Malformed> {
    let before = into.len();
    let mut chain = Chain::new();
    loop {
        into.truncate(before);
        let known = chain.names().len();
        match collect(answer, question_end, &mut chain, into) {
            Err(malformed) => {
                into.truncate(before);
                return Err(malformed);
            }
            // An alias that came after the records of its target needs another look.
            Ok(Stray::Some) if chain.names().len() > known => {}
            Ok(_) => return Ok(()),
        }
    }
}

/// Whether a pass over the section met records of names outside the chain.
enum Stray {
    None,
    Some,
}

fn collect(
    answer: &[u8],
    question_end: usize,
    chain: &mut Chain,
    into: &mut Vec<Address>,
) -> Result<Stray, Malformed> {
    let count = usize::from(u16_at(answer, 6).ok_or(Malformed)?);
    let mut at = question_end;
    let mut stray = Stray::None;
    for _ in 0..count.min(MAX_RECORDS) {
        let record = Record::read(answer, at).ok_or(Malformed)?;
        at = record.data.end;
        if record.class != CLASS_IN || !matches!(record.kind, rtype::A | rtype::AAAA | rtype::CNAME)
        {
            continue;
        }
        if !chain.contains(answer, record.owner) {
            stray = Stray::Some;
            continue;
        }
        let data = answer.get(record.data.clone()).ok_or(Malformed)?;
        let ip = match record.kind {
            rtype::A => IpAddr::from(Ipv4Addr::from(
                <[u8; 4]>::try_from(data).map_err(|_| Malformed)?,
            )),
            rtype::AAAA => IpAddr::from(Ipv6Addr::from(
                <[u8; 16]>::try_from(data).map_err(|_| Malformed)?,
            )),
            _ => {
                chain.extend(answer, record.data.start);
                continue;
            }
        };
        // A set top bit means zero (RFC 2181 section 8).
        let ttl = if record.ttl > i32::MAX.unsigned_abs() {
            0
        } else {
            record.ttl
        };
        into.push(Address { ip, ttl });
    }
    Ok(stray)
}

/// The queried name and its aliases, by position.
struct Chain {
    at: [usize; MAX_CHAIN],
    length: usize,
}

impl Chain {
    fn new() -> Self {
        Self {
            at: [HEADER; MAX_CHAIN],
            length: 1,
        }
    }

    fn names(&self) -> &[usize] {
        self.at.get(..self.length).unwrap_or_default()
    }

    fn contains(&self, answer: &[u8], name: usize) -> bool {
        self.names()
            .iter()
            .any(|&known| same_name(answer, known, name))
    }

    fn extend(&mut self, answer: &[u8], name: usize) {
        if self.contains(answer, name) {
            return;
        }
        if let Some(slot) = self.at.get_mut(self.length) {
            *slot = name;
            self.length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUESTION: &[u8] = b"\x01a\x04test\x00\x00\x01\x00\x01";
    const END: usize = HEADER + QUESTION.len();

    fn message(flags: u16, answers: u16, rest: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34];
        message.extend(flags.to_be_bytes());
        message.extend([0, 1]);
        message.extend(answers.to_be_bytes());
        message.extend([0; 4]);
        message.extend(rest.concat());
        message
    }

    fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend(kind.to_be_bytes());
        record.extend(CLASS_IN.to_be_bytes());
        record.extend(ttl.to_be_bytes());
        record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend(data);
        record
    }

    fn read(answer: &[u8]) -> Result<Vec<(String, u32)>, Malformed> {
        let mut found = Vec::new();
        addresses(answer, END, &mut found)?;
        Ok(found
            .iter()
            .map(|address| (address.ip.to_string(), address.ttl))
            .collect())
    }

    #[test]
    fn an_answer_matches_by_id_operation_and_question() {
        let asked = message(0x0100, 0, &[QUESTION]);
        let answer =
            |flags, question: &[u8]| echo(&message(flags, 0, &[question]), 0x1234, &asked, END);
        assert_eq!(answer(0x8180, QUESTION), Echo::Question);
        assert_eq!(
            answer(0x8180, b"\x01A\x04TEST\x00\x00\x01\x00\x01"),
            Echo::Question
        );
        assert_eq!(
            answer(0x8180, b"\x01b\x04test\x00\x00\x01\x00\x01"),
            Echo::Foreign
        );
        assert_eq!(
            answer(0x8180, b"\x01a\x04test\x00\x00\x1c\x00\x01"),
            Echo::Foreign
        );
        assert_eq!(answer(0x8180, b"\x01a"), Echo::Foreign);
        assert_eq!(answer(0x0100, QUESTION), Echo::Foreign);
        assert_eq!(answer(0xa180, QUESTION), Echo::Foreign);
        let mut other_id = message(0x8180, 0, &[QUESTION]);
        super::super::set_id(&mut other_id, 1);
        assert_eq!(echo(&other_id, 0x1234, &asked, END), Echo::Foreign);
        let mut bare = message(0x8181, 0, &[]);
        bare[5] = 0;
        assert_eq!(echo(&bare, 0x1234, &asked, END), Echo::HeaderOnly);
        assert_eq!(rcode(&bare), 1);
    }

    #[test]
    fn addresses_follow_the_chain_of_aliases() {
        let cname = record(b"\xc0\x0c", rtype::CNAME, 60, b"\x01b\xc0\x0e");
        let owned = record(b"\x01B\x04TEST\x00", rtype::A, 30, &[192, 0, 2, 1]);
        let stray = record(b"\x01c\xc0\x0e", rtype::A, 30, &[192, 0, 2, 2]);
        let six = record(b"\x01b\xc0\x0e", rtype::AAAA, 0x8000_0001, &[0x20; 16]);
        let expected = vec![
            ("192.0.2.1".to_owned(), 30),
            ("2020:2020:2020:2020:2020:2020:2020:2020".to_owned(), 0),
        ];
        let forward = message(0x8180, 4, &[QUESTION, &cname, &owned, &stray, &six]);
        assert_eq!(read(&forward), Ok(expected.clone()));
        let backward = message(0x8180, 4, &[QUESTION, &owned, &stray, &six, &cname]);
        assert_eq!(read(&backward), Ok(expected));
    }

    #[test]
    fn an_alias_loop_ends() {
        let one = record(b"\xc0\x0c", rtype::CNAME, 60, b"\x01b\xc0\x0e");
        let two = record(b"\x01b\xc0\x0e", rtype::CNAME, 60, b"\xc0\x0c");
        assert_eq!(
            read(&message(0x8180, 2, &[QUESTION, &two, &one])),
            Ok(vec![])
        );
    }

    #[test]
    fn a_record_that_overruns_is_malformed() {
        let mut answer = message(
            0x8180,
            1,
            &[QUESTION, &record(b"\xc0\x0c", rtype::A, 1, &[1; 4])],
        );
        answer.pop();
        assert_eq!(read(&answer), Err(Malformed));
        let short = record(b"\xc0\x0c", rtype::A, 1, &[1; 3]);
        assert_eq!(
            read(&message(0x8180, 1, &[QUESTION, &short])),
            Err(Malformed)
        );
        assert_eq!(read(&message(0x8180, 1, &[QUESTION])), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..600), end in 0_usize..700) {
            let _ = echo(&bytes, 0, &bytes, end);
            let _ = addresses(&bytes, end, &mut Vec::new());
        }
    }
}
