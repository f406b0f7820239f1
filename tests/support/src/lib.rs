//! What the integration tests stand on: counterparts that are stricter than real ones.
//!
//! Every helper is blocking and runs its own threads, so that a test is a plain `#[test]`.
//! Nothing here uses the code under test: the harness brings its own codecs, so that an error
//! cannot cancel itself out.

pub mod daemon;
pub mod dns;
pub mod netns;
pub mod otlp;
pub mod tls;

mod io;
mod watch;

pub use daemon::Daemon;
pub use netns::require_root;

use std::net::{Ipv4Addr, TcpListener};

/// A TCP port of 127.0.0.1 that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("bind a port of 127.0.0.1")
        .port()
}
