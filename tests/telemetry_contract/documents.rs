//! The tables of `docs/telemetry.md` are what the registry says. `UPDATE_DOCS=1 cargo test` writes
//! them anew.
