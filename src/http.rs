//! HTTP for every applet: hyper's protocol code on smol's sockets.
//!
//! Owns the server, the router, the client with its connector and TLS, bodies and their limits,
//! error answers, the token check and WebSockets; and the parts of a proxy: what changes in the
//! heads it passes on, connections to backends, tunnels. Never knows a route, a policy or an
//! instrument: an applet passes handlers in and is told what happened through
//! [`server::Observer`].

pub mod auth;
pub mod body;
pub mod client;
pub mod connect;
pub mod error;
pub mod forward;
pub mod io;
pub mod json;
pub mod listen;
pub mod pool;
pub mod resolve;
pub mod router;
pub mod server;
mod session;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod websocket;

pub use body::Body;

/// An error of any kind, for seams where the cause is only passed on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request as handlers receive it and clients send it.
pub type Request<B = Body> = ::http::Request<B>;

/// A response as handlers answer it and clients receive it.
pub type Response<B = Body> = ::http::Response<B>;
