//! What the integration tests stand on: counterparts that are stricter than real ones.
//!
//! Every helper is blocking and runs its own threads, so that a test is a plain `#[test]`.
//! Nothing here uses the code under test: the harness brings its own codecs, so that an error
//! cannot cancel itself out.

pub mod backend;
pub mod bench;
pub mod daemon;
pub mod dns;
pub mod egress;
pub mod http;
pub mod kube;
pub mod netns;
pub mod otlp;
pub mod redis;
pub mod sdk;
pub mod tls;
pub mod tools;
pub mod websocket;

mod eventually;
mod io;
mod port;
mod watch;

pub use daemon::Daemon;
pub use eventually::{becomes, eventually};
pub use netns::require_root;

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};

/// A TCP port of 127.0.0.1 that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("bind a port of 127.0.0.1")
        .port()
}

/// Says that the running test, or a part of it, was skipped, and why; also when the output of
/// tests that pass is hidden, because a skipped test proves nothing.
pub fn skipped(why: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    // Not `eprintln!`, which the test runner captures.
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").expect("standard error");
}
