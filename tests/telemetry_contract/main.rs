//! The telemetry contract, checked against what the registry declares, what the code emits, and
//! what the daemon sends.

mod daemon;
mod documents;
mod events;
mod execd;
mod registry;
mod scrape;
mod silence;
mod tables;
