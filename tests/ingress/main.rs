//! Ingress from end to end: the real binary between clients and backends, with sandboxes from a
//! file, keys that change, a real Redis, and a receiver of telemetry.
//!
//! What is missing on the machine is said loudly and skips the test.

mod access;
mod chart;
mod command_line;
mod lifecycle;
mod renew;
mod scene;
mod telemetry;
