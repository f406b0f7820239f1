//! Messages of a DNS client, against the reference decoder.

#![no_main]

#[path = "../checks/dns_query.rs"]
mod dns_query;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_query::check(data));
