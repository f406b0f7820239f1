//! The one telemetry module of all applets: metrics and logs over OpenTelemetry, JSON lines on
//! standard output (`docs/telemetry.md`).

pub mod instrument;
