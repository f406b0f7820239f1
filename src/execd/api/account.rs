//! The account of each request to the API.

use std::sync::Arc;

use http::request::Parts;
use slog::{Logger, warn};

use crate::execd::events::{self, Observer};
use crate::http::server::{self, Access, Outcome, Peer};
use crate::telemetry::semconv::HttpRequest;
use crate::telemetry::trace_context::TraceContext;

/// What a client that left before it was answered is counted as.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Turns finished requests into events.
pub struct Account(pub Arc<Observer>);

impl server::Observer for Account {
    /// The logger of the request: it names the caller's trace.
    type Span = Logger;

    fn begin(&self, head: &Parts, _: &Peer) -> Logger {
        TraceContext::from_headers(&head.headers).logger(self.0.logger())
    }

    fn end(&self, logger: Logger, access: Access) {
        let event = events::Access {
            request: HttpRequest {
                method: (&access.method).into(),
                route: access.route,
                status: access
                    .status
                    .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()),
            },
            elapsed: access.duration,
            complete: access.outcome == Outcome::Complete,
        };
        event.emit(&self.0, &logger);
    }

    fn accept_failed(&self, error: &std::io::Error) {
        // The server pauses after each, so there is no more than a line a second for long.
        warn!(self.0.logger(), "cannot accept a connection: {error}");
    }
}
