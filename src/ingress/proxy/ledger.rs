//! What is noted of a request on its way, and told when it is over.
//!
//! Owns the promise that each request is begun once and accounted for once, however it ends, and
//! that a tunnel is accounted for when it closes.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ::http::request::Parts;
use ::http::{Extensions, HeaderValue, Method, StatusCode, Uri};
use slog::warn;

use super::{Failed, STATUS_PATH, Shared};
use crate::http::forward::Upgrade;
use crate::http::server::{self, Access, Outcome, Peer};
use crate::ingress::access::Granted;
use crate::ingress::events::{Accessed, Begun, Failure, Moved};
use crate::ingress::metrics::{Direction, ProxyType, UpstreamError};
use crate::telemetry::trace_context::TraceContext;

/// What is noted of one request.
#[derive(Debug)]
pub(super) struct Ledger {
    method: Method,
    uri: Uri,
    client: String,
    trace: TraceContext,
    upgrade: Option<Upgrade>,
    started: Instant,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    route: Option<(String, u16)>,
    target: Option<HeaderValue>,
    granted: Option<Granted>,
    failure: Option<Failed>,
    /// Whether the end of the exchange is only the beginning of a tunnel.
    is_tunnel: bool,
}

impl Ledger {
    fn open(shared: &Shared, head: &Parts, peer: &Peer) -> Self {
        let bodied = head.headers.contains_key(TRANSFER_ENCODING)
            || head
                .headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0");
        let client = match peer {
            Peer::Tcp(address) => {
                let client = shared.settings.trusted.client(address.ip(), &head.headers);
                client.into_owned()
            }
            Peer::Unix => String::new(),
        };
        let ledger = Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            client,
            trace: TraceContext::from_headers(&head.headers),
            upgrade: Upgrade::asked_for(head, bodied),
            started: Instant::now(),
            notes: Mutex::default(),
        };
        Begun {
            method: &ledger.method,
            uri: &ledger.target(),
            proxy_type: ledger.proxy_type(),
        }
        .emit(&shared.events);
        ledger
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The change of protocol it asks for.
    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        self.upgrade.as_ref()
    }

    pub(super) fn proxy_type(&self) -> ProxyType {
        match self.upgrade {
            Some(_) => ProxyType::WebSocket,
            None => ProxyType::Http,
        }
    }

    /// The target of the request, without the host it may name.
    fn target(&self) -> Cow<'_, str> {
        match self.uri.path_and_query() {
            Some(path) => Cow::Borrowed(path.as_str()),
            None => Cow::Owned(self.uri.to_string()),
        }
    }

    pub(super) fn routed(&self, sandbox: &str, port: u16) {
        self.notes().route = Some((sandbox.to_owned(), port));
    }

    pub(super) fn granted(&self, granted: Granted) {
        self.notes().granted = Some(granted);
    }

    /// Where it goes, as `Host` says it.
    pub(super) fn found(&self, target: HeaderValue) {
        self.notes().target = Some(target);
    }

    pub(super) fn failed(&self, failed: Failed) {
        self.notes().failure = Some(failed);
    }

    /// Reads the route, if there is one yet.
    pub(super) fn with_route(&self, read: impl FnOnce(&str, u16)) {
        if let Some((sandbox, port)) = &self.notes().route {
            read(sandbox, *port);
        }
    }

    /// How long it is there.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// From here on the request ends with its tunnel.
    pub(super) fn begin_tunnel(self: &Arc<Self>) -> Arc<Self> {
        self.notes().is_tunnel = true;
        self.clone()
    }

    /// Tells how the request ended. `moved` is what its bodies or its tunnel carried.
    pub(super) fn close(&self, shared: &Shared, ending: &Ending) {
        let notes = self.notes();
        let route = notes.route.as_ref();
        let failure = match &notes.failure {
            Some(Failed::Refused(refusal)) => Some(Failure::Refused(refusal)),
            Some(Failed::Upstream { kind, cause, .. }) => {
                let kind = *kind;
                Some(Failure::Upstream { kind, cause })
            }
            None => ending.failure.as_ref().map(|(kind, cause)| {
                let kind = *kind;
                Failure::Upstream { kind, cause }
            }),
        };
        Accessed {
            target: notes.target.as_ref().and_then(|text| text.to_str().ok()),
            client: &self.client,
            uri: &self.target(),
            method: &self.method,
            route: route.map(|(sandbox, port)| (sandbox.as_str(), *port)),
            status: ending.status,
            proxy_type: self.proxy_type(),
            elapsed: ending.elapsed,
            bytes_in: ending.received,
            bytes_out: ending.sent,
            mode: shared.settings.mode,
            granted: notes.granted,
            failure,
            trace: &self.trace,
        }
        .emit(&shared.events);
    }

    /// Counts bytes that went each way.
    pub(super) fn moved(&self, shared: &Shared, received: u64, sent: u64) {
        let proxy_type = self.proxy_type();
        for (direction, bytes) in [(Direction::In, received), (Direction::Out, sent)] {
            if bytes > 0 {
                Moved {
                    direction,
                    proxy_type,
                    bytes,
                }
                .emit(&shared.events);
            }
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub status: Option<StatusCode>,
    /// How long it took.
    pub elapsed: Duration,
    pub received: u64,
    pub sent: u64,
    pub failure: Option<(UpstreamError, String)>,
}

/// Opens a ledger for each request of a core and closes it at its end. Probes have none.
pub(super) struct Account(pub Arc<Shared>);

impl server::Observer for Account {
    type Span = Option<Arc<Ledger>>;

    fn begin(&self, head: &Parts, peer: &Peer) -> Self::Span {
        if head.uri.path() == STATUS_PATH {
            return None;
        }
        Some(Arc::new(Ledger::open(&self.0, head, peer)))
    }

    fn share(&self, span: &Self::Span, extensions: &mut Extensions) {
        if let Some(ledger) = span {
            extensions.insert(ledger.clone());
        }
    }

    fn end(&self, span: Self::Span, access: Access) {
        let Some(ledger) = span else { return };
        if ledger.notes().is_tunnel {
            return;
        }
        let failure = match (access.outcome, access.failure) {
            (_, Some(cause)) => Some((UpstreamError::BodyAborted, cause)),
            (Outcome::Aborted, None) => {
                Some((UpstreamError::ClientClosed, "the client left".to_owned()))
            }
            (Outcome::Complete | Outcome::Panicked, None) => None,
        };
        ledger.moved(&self.0, access.received, access.bytes);
        let ending = Ending {
            status: access.status,
            elapsed: access.duration,
            received: access.received,
            sent: access.bytes,
            failure,
        };
        ledger.close(&self.0, &ending);
    }

    fn malformed(&self, peer: &Peer, error: &hyper::Error) {
        slog::debug!(self.0.events.logger(), "not HTTP from {peer:?}: {error}");
    }

    fn accept_failed(&self, error: &std::io::Error) {
        // The server pauses after each, so there is no more than a line a second for long.
        warn!(
            self.0.events.logger(),
            "cannot accept a connection: {error}"
        );
    }
}
