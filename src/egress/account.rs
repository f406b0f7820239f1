//! The account of each request to the policy API.

use std::sync::Arc;

use http::request::Parts;
use slog::warn;

use super::events::{Observer, Requested};
use crate::http::server::{self, Access, Peer};

/// Turns finished requests into events.
pub(super) struct Account(pub Arc<Observer>);

impl server::Observer for Account {
    type Span = ();

    fn begin(&self, _head: &Parts, _peer: &Peer) {}

    fn end(&self, (): (), access: Access) {
        Requested {
            method: &access.method,
            route: access.route,
            status: access.status,
            elapsed: access.duration,
        }
        .emit(&self.0);
    }

    fn accept_failed(&self, error: &std::io::Error) {
        // The server pauses after each, so there is no more than a line a second for long.
        warn!(
            self.0.logger(),
            "policy server: cannot accept a connection: {error}"
        );
    }
}
