//! The reverse proxy in front of every sandbox: finds the pod a request is for, and passes it on.
//!
//! A request's way is short: its route is parsed (pure), the sandbox is looked up in memory
//! ([`provider`]), access is decided (pure), the exchange is streamed both ways, and one event
//! tells what happened.

pub mod access;
pub mod events;
pub mod forwarded;
pub mod metrics;
pub mod provider;
pub mod proxy;
pub mod renew;
pub mod route;
