//! Execd from end to end: the real binary, asked by a client that shares no code with it, and by
//! `curl`.

mod client;
mod command;
mod faults;
mod http;
mod metrics;
mod process;
mod proxy;
mod pty;
mod session;
mod stream;
