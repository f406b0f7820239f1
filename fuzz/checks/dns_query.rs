//! What holds for any octets a client may send to the DNS filter.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use opensandbox::egress::dns::wire::query::{Query, Rejection, parse};
use opensandbox::egress::dns::wire::reply::{self, ExtendedError};

/// Panics if `data`, taken as a message of a client, is read unlike the reference decoder reads
/// it, or is answered with something that decoder cannot read.
pub fn check(data: &[u8]) {
    let mut name = String::new();
    let reference = Message::from_vec(data);
    match parse(data, &mut name) {
        Ok(query) => {
            // What EDNS options contain is between the client and the upstream.
            let reference = reference
                .or_else(|_| Message::from_vec(&without_options(data, query.question_end)))
                .expect("what is forwarded is well-formed");
            agrees(&query, &name, data, &reference);
            answers(&query, data);
        }
        Err(rejection) => {
            if let Ok(reference) = &reference {
                refusal_is_due(data, reference, rejection);
            }
            let mut out = Vec::new();
            reply::rejected(data, rejection, &mut out);
            assert_eq!(out.is_empty(), rejection == Rejection::NotAQuery);
            if !out.is_empty() {
                let answer = Message::from_vec(&out).expect("a readable answer");
                assert_eq!(out[..2], data[..2]);
                assert_ne!(answer.metadata.response_code, ResponseCode::NoError);
            }
        }
    }
}

/// The message with its OPT record, which follows the question, emptied.
fn without_options(data: &[u8], question_end: usize) -> Vec<u8> {
    let mut bare = data[..question_end + 11].to_vec();
    bare[question_end + 9..].fill(0);
    bare
}

fn agrees(query: &Query, name: &str, data: &[u8], reference: &Message) {
    let [asked] = reference.queries.as_slice() else {
        panic!("one question");
    };
    assert_eq!(query.id, reference.metadata.id);
    assert_eq!(query.kind, u16::from(asked.query_type));
    assert_eq!(query.class, u16::from(asked.query_class));
    let labels: Vec<_> = asked.name.iter().map(present).collect();
    assert_eq!(name, labels.join("."));
    let edns = reference.edns.as_ref();
    let edns = edns.map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
    // The reference raises a payload below 512.
    let ours = query.edns;
    assert_eq!(
        ours.map(|edns| (edns.payload.max(512), edns.dnssec_ok)),
        edns
    );
    assert_eq!(query.question(data).len(), query.question_end - 12);
}

/// A label as text in which a dot never stands for itself.
fn present(label: &[u8]) -> String {
    let octet = |octet: &u8| match octet {
        b'-' | b'_' | b'a'..=b'z' | b'0'..=b'9' => char::from(*octet).to_string(),
        b'A'..=b'Z' => char::from(octet.to_ascii_lowercase()).to_string(),
        _ => format!("\\{octet:03}"),
    };
    label.iter().map(octet).collect()
}

/// A well-formed message is turned down only for what the contract names.
fn refusal_is_due(data: &[u8], reference: &Message, rejection: Rejection) {
    let count = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    let within = count(4) == 1 && count(6) <= 1 && count(8) <= 1 && count(10) <= 2;
    let operation = reference.metadata.op_code;
    let known = matches!(operation, OpCode::Query | OpCode::Notify);
    let response = reference.metadata.message_type == MessageType::Response;
    match rejection {
        Rejection::NotAQuery => assert!(response),
        Rejection::NotImplemented => assert!(!known),
        // The only other reason is a compression pointer in the question.
        Rejection::FormatError => assert!(!within || compressed(data)),
    }
}

fn compressed(data: &[u8]) -> bool {
    let mut at = 12;
    loop {
        match data[at] {
            0 => return false,
            length if length >= 0xc0 => return true,
            length => at += 1 + usize::from(length),
        }
    }
}

/// What we answer ourselves can be read, and answers the question.
fn answers(query: &Query, data: &[u8]) {
    let mut denied = Vec::new();
    reply::denied(data, query, &mut denied);
    let mut failed = Vec::new();
    reply::failed(data, query, ExtendedError::NETWORK_ERROR, &mut failed);
    let mut truncated = Vec::new();
    reply::truncated(&denied, query.edns, query.udp_limit(), &mut truncated);
    for message in [&denied, &failed, &truncated] {
        let answer = Message::from_vec(message).expect("a readable answer");
        assert_eq!(answer.metadata.id, query.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(message[12..query.question_end], *query.question(data));
        assert_eq!(answer.edns.is_some(), query.edns.is_some());
        assert!(message.len() <= query.udp_limit());
    }
}
