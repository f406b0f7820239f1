//! The DNS filter.

pub mod wire;
