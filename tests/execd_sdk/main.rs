//! execd from the outside: the official SDKs, unmodified, and a WebSocket client, directly, through
//! the daemon's own proxy, which is the way all of it goes in Docker's bridge mode, and through
//! ingress, which is the way it goes in a cluster.

mod bridge;
mod direct;
mod gateway;
mod scene;
