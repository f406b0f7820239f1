//! The heads a proxy passes on.

#![no_main]

#[path = "../checks/http_forward.rs"]
mod http_forward;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_forward::check(data));
