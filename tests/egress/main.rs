//! Egress from end to end: the real binary in a network namespace, between a workload that uses
//! `dig`, `curl` and the official SDK, and resolvers on the other end of a cable.
//!
//! Needs root and those tools; what is missing is said loudly and skips the test.

mod api;
mod dns;
mod events;
mod lifecycle;
mod scene;
mod sdk;
