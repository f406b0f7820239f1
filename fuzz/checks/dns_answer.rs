//! What holds for any octets an upstream may send to the DNS filter.

use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use opensandbox::egress::dns::wire::answer::{self, Echo, MAX_CHAIN, MAX_RECORDS};
use opensandbox::egress::dns::wire::query::Edns;
use opensandbox::egress::dns::wire::reply;

/// Panics if `data`, taken as an answer, yields other addresses than the reference decoder finds
/// for the name that was asked for, or is truncated to something that decoder cannot read.
pub fn check(data: &[u8]) {
    let Some(end) = question_end(data) else {
        // Whatever the place, nothing may panic.
        for end in [0, 12, data.len(), data.len() + 1] {
            let _ = answer::echo(data, 0, data, end);
            let _ = answer::addresses(data, end, &mut Vec::new());
        }
        reply::truncated(data, None, 512, &mut Vec::new());
        return;
    };
    let mut found = Vec::new();
    let read = answer::addresses(data, end, &mut found);
    let found: Vec<_> = found.iter().map(|address| address.ip).collect();
    if let Ok(reference) = Message::from_vec(data) {
        echoes(data, end);
        truncates(data);
        compare(&reference, read.is_ok(), &found);
    }
    if read.is_err() {
        assert!(found.is_empty());
    }
}

/// Where the question of a message with one uncompressed question ends.
fn question_end(data: &[u8]) -> Option<usize> {
    let counts = data.get(4..6)?;
    let mut at = 12;
    loop {
        match usize::from(*data.get(at)?) {
            0 => break,
            length @ 1..64 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 5;
    (counts == [0, 1] && end <= data.len() && at - 12 < 255).then_some(end)
}

/// A response answers the query it repeats, and no other.
fn echoes(data: &[u8], end: usize) {
    let id = u16::from_be_bytes([data[0], data[1]]);
    let response = data[2] & 0x80 != 0;
    let expected = if response {
        Echo::Question
    } else {
        Echo::Foreign
    };
    assert_eq!(answer::echo(data, id, data, end), expected);
    assert_eq!(answer::echo(data, !id, data, end), Echo::Foreign);
    let mut other = data.to_vec();
    other[end - 1] ^= 1;
    assert_eq!(answer::echo(&other, id, data, end), Echo::Foreign);
}

fn truncates(data: &[u8]) {
    let edns = Edns {
        payload: 512,
        dnssec_ok: false,
    };
    for edns in [None, Some(edns)] {
        let mut out = Vec::new();
        reply::truncated(data, edns, 512, &mut out);
        let short = Message::from_vec(&out).expect("a readable answer");
        assert!(short.metadata.truncation && out.len() <= 512);
        assert_eq!(short.queries.len(), 1);
        assert_eq!(short.edns.is_some(), edns.is_some());
    }
}

fn compare(reference: &Message, readable: bool, found: &[IpAddr]) {
    // An address record without data is one of a dynamic update, never of an answer.
    let hollow = |record: &Record| {
        let kind = record.record_type();
        let looked_at = [RecordType::A, RecordType::AAAA, RecordType::CNAME];
        looked_at.contains(&kind) && matches!(record.data, RData::Update0(_))
    };
    if reference.answers.iter().any(hollow) || reference.answers.len() > MAX_RECORDS {
        return;
    }
    let mut chain: Vec<&Name> = vec![&reference.queries[0].name];
    let of_chain = |chain: &[&Name], record: &Record| {
        record.dns_class == DNSClass::IN && chain.contains(&&record.name)
    };
    loop {
        let known = chain.len();
        for record in &reference.answers {
            if let RData::CNAME(target) = &record.data
                && of_chain(&chain, record)
                && !chain.contains(&&target.0)
            {
                chain.push(&target.0);
            }
        }
        if chain.len() == known {
            break;
        }
    }
    if chain.len() > MAX_CHAIN {
        return;
    }
    let expected: Vec<_> = reference
        .answers
        .iter()
        .filter(|record| of_chain(&chain, record))
        .filter_map(|record| record.data.ip_addr())
        .collect();
    assert!(readable, "the reference decoder reads it");
    assert_eq!(found, expected);
}
