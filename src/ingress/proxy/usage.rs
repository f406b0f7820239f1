//! Sandboxes that are in use for longer than one request looks.
//!
//! Owns when a long body reports again. What a report leads to, and how often it counts, is the
//! business of who is told.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::ledger::Ledger;
use crate::http::{Body, body};

/// The least time between two reports of one exchange.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Bodies announced to be no longer than this report nothing: they are over soon.
const SHORT: u64 = 64 * 1024;

/// Is told which sandboxes are in use. Called on the data path: it must not wait.
pub trait Usage: Send + Sync + 'static {
    /// A request for this sandbox was let in, or bytes of an earlier one still pass. `path` is the
    /// path sent on, without its query, where routes are found in paths.
    fn used(&self, sandbox: &str, port: u16, path: Option<&str>);
}

/// The same body; while it goes on, its sandbox is reported to be in use.
pub(super) fn reporting(usage: Arc<dyn Usage>, ledger: Arc<Ledger>, body: Body) -> Body {
    let is_short = http_body::Body::size_hint(&body).upper();
    if is_short.is_some_and(|bytes| bytes <= SHORT) {
        return body;
    }
    Body::stream(Reporting {
        body,
        usage,
        ledger,
        reported: Instant::now(),
    })
}

struct Reporting {
    body: Body,
    usage: Arc<dyn Usage>,
    ledger: Arc<Ledger>,
    reported: Instant,
}

impl http_body::Body for Reporting {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = polled
            && self.reported.elapsed() >= REPORT_INTERVAL
        {
            self.reported = Instant::now();
            let usage = &self.usage;
            self.ledger
                .with_route(|sandbox, port| usage.used(sandbox, port, None));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
