//! The egress sidecar: decides by name what a sandbox may reach, and records it.
//!
//! Owns the DNS filter, the policy and its HTTP API, and the kernel redirect that makes the filter
//! unavoidable. Never terminates or inspects the workload's own connections.

pub mod always;
pub mod api;
pub mod config;
pub mod dns;
pub mod events;
pub mod metrics;
pub mod netfilter;
pub mod policy;
#[cfg(test)]
mod recorder;
pub mod store;
pub mod webhook;
pub mod writer;
