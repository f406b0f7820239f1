//! The readers of what an API server says, and of kubeconfigs.

#![no_main]

#[path = "../checks/kube_object.rs"]
mod kube_object;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kube_object::check(data));
