//! The daemons of an AI-agent sandbox as one library; `main.rs` is a thin shell around [`applet`].
//!
//! The library exists so that integration tests, benchmarks and fuzz targets reach the same code
//! the binary runs. `ARCHITECTURE.md` has the map and the invariants.

#[cfg(any(target_env = "musl", test))]
pub mod allocator;
pub mod applet;
pub mod config;
pub mod daemon;
pub mod egress;
pub mod execd;
pub mod footprint;
pub mod generate;
pub mod host;
pub mod http;
pub mod ingress;
pub mod json;
pub mod lifecycle;
#[cfg(target_arch = "x86_64")]
mod memory;
pub mod runtime;
pub mod supervisor;
pub mod telemetry;
pub mod version;
