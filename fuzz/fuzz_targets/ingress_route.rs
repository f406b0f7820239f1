//! The readers of routes, and the laws of what they read.

#![no_main]

#[path = "../checks/ingress_route.rs"]
mod ingress_route;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress_route::check(data));
