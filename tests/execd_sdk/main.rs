//! execd from the outside: the official SDKs, unmodified, and a WebSocket client, directly and
//! through the daemon's own proxy, which is the way all of it goes in Docker's bridge mode.

mod bridge;
mod direct;
mod scene;
