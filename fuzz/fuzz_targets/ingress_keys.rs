//! The reader of keys, and what a signature opens.

#![no_main]

#[path = "../checks/ingress_keys.rs"]
mod ingress_keys;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress_keys::check(data));
