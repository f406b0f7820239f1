//! The providers of ingress against an API server, over the wire, with every way to fail; and
//! against a file of routes. `tests/support/src/kube.rs` is the server.

mod daemon;
mod faults;
mod log;
mod routes;
mod scene;
mod sign_in;
mod watch;
