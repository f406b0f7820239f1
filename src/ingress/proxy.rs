//! The data path: a request comes in, its sandbox is found, and bytes go both ways.
//!
//! Owns the order of the steps, what is sent on, and every answer that is not a sandbox's. What a
//! step decides is not its business: routes, credentials and look-ups are their modules'. Nothing
//! here waits for anything but the client and the sandbox.

mod cores;
mod ledger;
mod tunnels;
mod usage;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::http::header::InvalidHeaderValue;
use ::http::header::{HOST, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use bytes::Bytes;
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use smol::Timer;
use smol::future::FutureExt;

use super::access::{self, Credentials, Keys, Ports, Refusal, SENDER};
use super::events::{self, Answered, Connected, Decided, HandedOver, Resolved};
use super::forwarded::Trusted;
use super::metrics::{ProxyType, UpstreamError};
use super::provider::{Directory, Sandbox};
use super::route::{self, Mode, Route};
use crate::http::connect::Connector;
use crate::http::forward::{self, Origin, Upgrade};
use crate::http::pool::Destination;
use crate::http::resolve::SystemResolver;
use crate::http::server::{self, Exchange, Handler, Limits, Peer};
use crate::http::upstream::{self, Answer, Upstream};
use crate::http::{Body, Request, Response, error};
use crate::lifecycle::Shutdown;
use crate::runtime::Spawner;

pub use cores::{Cores, start};
pub use usage::Usage;

use ledger::Ledger;
use tunnels::Tunnel;

/// Answers whether the process takes requests, before any routing.
pub const STATUS_PATH: &str = "/status.ok";

/// The most client connections; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 65_536;

/// How old the connection of a client may get, a tunnel excepted.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);

/// How long connecting to a sandbox may take, the look-up of its name included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long a sandbox may take to agree to an upgrade, connecting included.
pub const UPGRADE_TIME: Duration = Duration::from_secs(45);

/// The longest silence of a client in the middle of a request's body.
pub const BODY_SILENCE: Duration = Duration::from_secs(300);

/// The longest a client may leave a response in the socket's buffer without reading any of it.
pub const WRITE_STALL: Duration = Duration::from_secs(300);

/// Tells a sandbox's answer from one of ours.
const MARK: (HeaderName, HeaderValue) = (
    HeaderName::from_static("reverse-proxy-server-powerby"),
    HeaderValue::from_static("OpenSandbox-ingress"),
);

/// What is for ingress alone.
static OWN: [HeaderName; 3] = [access::HEADER, route::HEADER, route::FORMER_HEADER];

/// What a client must not have dropped by naming it in `Connection`.
static PROTECTED: [HeaderName; 4] = [
    access::HEADER,
    route::HEADER,
    HeaderName::from_static("opensandbox-egress-auth"),
    HeaderName::from_static("x-execd-access-token"),
];

/// What the data path is told to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where routes are found.
    pub mode: Mode,
    /// Which ports are open.
    pub ports: Ports,
    /// Whose word counts on who the client is.
    pub trusted: Trusted,
    /// How long a tunnel may be silent; none for any time.
    pub tunnel_idle: Option<Duration>,
    /// How long a tunnel may last; none for any time.
    pub tunnel_lifetime: Option<Duration>,
    /// How long a sandbox may take to begin its answer; none for any time.
    pub response_time: Option<Duration>,
    /// How long requests under way may take once the process is to end.
    pub drain_time: Duration,
    /// See [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// See [`CONNECTION_LIFETIME`]; none for any age.
    pub connection_lifetime: Option<Duration>,
}

impl Settings {
    /// Those of an ingress nobody configured, with routes found as `mode` says.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            ports: Ports::default(),
            trusted: Trusted::default(),
            tunnel_idle: None,
            tunnel_lifetime: None,
            response_time: None,
            drain_time: server::DRAIN_TIME,
            connections: MAX_CONNECTIONS,
            connection_lifetime: Some(CONNECTION_LIFETIME),
        }
    }

    /// What a client may cost.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            lifetime: self.connection_lifetime,
            body_bytes: u64::MAX,
            body_silence: BODY_SILENCE,
            body_time: None,
            write_stall: WRITE_STALL,
            drain_time: self.drain_time,
            ..Limits::default()
        }
    }
}

/// What every core works with.
pub struct Shared {
    /// What it is told to do.
    pub settings: Settings,
    /// The keys of signed routes; replaced as a whole.
    pub keys: ArcSwapOption<Keys>,
    /// Knows the sandboxes.
    pub directory: Arc<dyn Directory>,
    /// Where events go.
    pub events: Arc<events::Observer>,
    /// Is told which sandboxes are in use, where that keeps them alive.
    pub usage: Option<Arc<dyn Usage>>,
    /// When to say that no new requests should come, which may be before none is taken.
    pub draining: Shutdown,
    /// When to take no new requests.
    pub shutdown: Shutdown,
}

/// A place connections lead to: one port of one sandbox. A later sandbox at the same address is
/// another place, and so is the same one with another token.
#[derive(Clone, Debug)]
struct Place {
    sandbox: Arc<Sandbox>,
    port: u16,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && Arc::ptr_eq(&self.sandbox, &other.sandbox)
    }
}

impl Eq for Place {}

impl std::hash::Hash for Place {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(&self.sandbox), self.port).hash(state);
    }
}

impl Destination for Place {
    fn is_gone(&self) -> bool {
        self.sandbox.retired.is_set()
    }
}

/// The data path on one core: what all share, and connections of its own.
struct Core {
    shared: Arc<Shared>,
    upstream: Upstream<Place>,
    spawner: Spawner,
}

impl Core {
    fn new(shared: Arc<Shared>, spawner: Spawner) -> Self {
        let connector = Connector::new(SystemResolver).timeout(CONNECT_TIME);
        Self {
            shared,
            upstream: Upstream::new(spawner.clone(), connector),
            spawner,
        }
    }
}

impl Handler for Arc<Core> {
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send {
        let core = self.clone();
        async move {
            let Some(ledger) = request.extensions().get::<Arc<Ledger>>().cloned() else {
                return core.status();
            };
            let prepared = core.prepare(request, &ledger);
            // On the heap, because the way to here is a long one for something large.
            let passing = prepared.map(|prepared| Box::pin(core.exchange(prepared, &ledger)));
            let passed = match passing {
                Ok(passing) => passing.await,
                Err(failed) => Err(failed),
            };
            passed.unwrap_or_else(|failed| {
                let (status, message) = failed.answer();
                ledger.failed(failed);
                error::text(status, &message)
            })
        }
    }
}

/// Where a request that may come in goes.
struct Admitted {
    sandbox: Arc<Sandbox>,
    port: u16,
    /// The path and query sent on, where they are not those of the request.
    path: Option<PathAndQuery>,
}

/// A request as its sandbox is to have it.
struct Prepared {
    request: Request,
    place: Place,
    /// What the server knows of it.
    exchange: Option<Exchange>,
    /// The client's side of an upgrade.
    client: Option<OnUpgrade>,
}

impl Core {
    /// The answer to probes.
    fn status(&self) -> Response {
        if self.shared.draining.is_triggered() {
            return error::text(StatusCode::SERVICE_UNAVAILABLE, "draining");
        }
        if !self.shared.directory.is_synced() {
            return error::text(StatusCode::SERVICE_UNAVAILABLE, "not synced");
        }
        let mut response = Response::new(Body::from("OK"));
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let headers = response.headers_mut();
        headers.insert(::http::header::CONTENT_TYPE, text);
        response
    }

    /// Finds the sandbox of a request, and decides whether it may come in.
    fn admit(&self, request: &Request, ledger: &Ledger) -> Result<Admitted, Refusal> {
        let Shared {
            settings,
            keys,
            directory,
            events,
            usage,
            ..
        } = &*self.shared;
        let uri = request.uri();
        let route = Route::of(settings.mode, uri, request.headers())?;
        ledger.routed(&route.sandbox, route.port);
        if !settings.ports.contain(route.port) {
            return Err(Refusal::Port(route.port));
        }
        let started = Instant::now();
        let found = directory.find(&route.sandbox);
        let elapsed = started.elapsed();
        let resolved = Resolved {
            found: &found,
            elapsed,
        };
        resolved.emit(events);
        let keys = keys.load();
        // Nothing else depends on it.
        let now = route.signed.map_or(0, |_| seconds());
        let credentials = Credentials::of(request.headers(), keys.as_deref(), now);
        if let Some(decision) = credentials.open(&found, &route) {
            Decided(decision).emit(events);
            ledger.granted(decision?);
        }
        let sandbox = found?;
        let path = match settings.mode {
            Mode::Header => None,
            Mode::Uri => Some(route.upstream_path(sandbox.token.is_some())),
        };
        if let Some(usage) = usage {
            usage.used(&route.sandbox, route.port, path);
        }
        Ok(Admitted {
            path: path.map(|path| with_query(path, uri.query())).transpose()?,
            port: route.port,
            sandbox,
        })
    }

    /// Makes of a request what is sent on, or says why it is not.
    fn prepare(&self, request: Request, ledger: &Arc<Ledger>) -> Result<Prepared, Failed> {
        let Admitted {
            sandbox,
            port,
            path,
        } = self.admit(&request, ledger)?;
        let host = HeaderValue::from_maybe_shared(authority(&sandbox.host, port));
        let host = host.map_err(Failed::unnameable)?;
        ledger.found(host.clone());
        let upgrade = ledger.upgrade();
        let (mut head, body) = request.into_parts();
        // An upgrade has no body; where there is one, it is no upgrade.
        let body = match upgrade {
            Some(_) => Body::empty(),
            None => body,
        };
        let exchange = head.extensions.get::<Exchange>().cloned();
        let client = head.extensions.remove::<OnUpgrade>();
        let peer = exchange
            .as_ref()
            .and_then(|exchange| match exchange.peer() {
                Peer::Tcp(address) => Some(address.ip()),
                Peer::Unix => None,
            });
        let origin = Origin {
            peer,
            is_trusted: peer.is_none_or(|peer| self.shared.settings.trusted.includes(peer)),
        };
        let bodied = !body.is_end_stream();
        forward::request(&mut head, bodied, upgrade, origin, &PROTECTED)
            .map_err(Refusal::Malformed)?;
        forward::remove(&mut head.headers, |name| OWN.contains(name));
        head.headers.insert(HOST, host);
        if let Some(path) = path {
            head.uri = Uri::from(path);
        }
        if upgrade.is_some_and(|upgrade| upgrade.extended) {
            complete_handshake(&mut head.headers);
        }
        Ok(Prepared {
            request: Request::from_parts(head, self.reporting(ledger, body)),
            place: Place { sandbox, port },
            exchange,
            client,
        })
    }

    /// Sends a request to its sandbox and makes an answer of the response.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice"
    )]
    fn exchange(
        self: &Arc<Self>,
        prepared: Prepared,
        ledger: &Arc<Ledger>,
    ) -> impl Future<Output = Result<Response, Failed>> + Send {
        async move {
            let events = &self.shared.events;
            let (upgrade, proxy_type) = (ledger.upgrade(), ledger.proxy_type());
            if proxy_type == ProxyType::Http {
                HandedOver.emit(events);
            }
            let Place { sandbox, port } = &prepared.place;
            let answer = {
                // Pinned where it is made: what is passed by value is copied, and this is large.
                let sending = pin!(self.upstream.send(
                    &prepared.place,
                    &sandbox.host,
                    *port,
                    prepared.request,
                    prepared.exchange.as_ref(),
                ));
                self.in_time(upgrade, sending).await?
            };
            if let Some(elapsed) = answer.connecting {
                Connected {
                    proxy_type,
                    elapsed,
                }
                .emit(events);
            }
            Answered {
                proxy_type,
                elapsed: answer.elapsed,
            }
            .emit(events);

            let (mut head, body) = answer.response.into_parts();
            let switched = forward::response(&mut head, upgrade).map_err(Failed::unusable)?;
            head.headers.append(MARK.0, MARK.1);
            if !switched {
                let body = self.reporting(ledger, body);
                return Ok(Response::from_parts(head, body));
            }
            if let (Some(client), Some(backend), Some(exchange)) =
                (prepared.client, answer.upgrade, prepared.exchange)
            {
                let tunnel = Tunnel {
                    shared: self.shared.clone(),
                    ledger: ledger.begin_tunnel(),
                    exchange,
                    sandbox: prepared.place.sandbox,
                };
                self.spawner.spawn(tunnel.run(client, backend)).detach();
            }
            Ok(Response::from_parts(head, Body::empty()))
        }
    }

    /// Bounds the wait for the head of a response, where there is a bound.
    async fn in_time(
        &self,
        upgrade: Option<&Upgrade>,
        sending: impl Future<Output = Result<Answer, upstream::Error>>,
    ) -> Result<Answer, Failed> {
        let upgrades = upgrade.is_some();
        let limit = if upgrades {
            Some(UPGRADE_TIME)
        } else {
            self.shared.settings.response_time
        };
        let sending = async {
            let answer = sending.await;
            answer.map_err(|error| Failed::upstream(upgrades, &error))
        };
        let Some(limit) = limit else {
            return sending.await;
        };
        let late = async {
            Timer::after(limit).await;
            Err(Failed::late(upgrades))
        };
        sending.or(late).await
    }

    /// Has a body that may go on for long report that its sandbox is in use.
    fn reporting(&self, ledger: &Arc<Ledger>, body: Body) -> Body {
        match &self.shared.usage {
            Some(usage) => usage::reporting(usage.clone(), ledger.clone(), body),
            None => body,
        }
    }
}

/// Since the epoch.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Where a sandbox is reached, as `Host` says it: an IPv6 address in brackets.
fn authority(host: &str, port: u16) -> Bytes {
    let mut text = String::with_capacity(host.len() + "[]:65535".len());
    // In a name or an IPv4 address there is none.
    if host.contains(':') {
        text.extend(["[", host, "]"]);
    } else {
        text.push_str(host);
    }
    text.push(':');
    text.push_str(&port.to_string());
    text.into()
}

/// The path with the query of the request.
fn with_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, route::Error> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::from_maybe_shared(Bytes::from(text))
        .map_err(|_| route::Error::Path(path.to_owned()))
}

/// Adds what a WebSocket handshake over HTTP/1.1 has and one over HTTP/2 has not (RFC 8441 5.1).
fn complete_handshake(headers: &mut HeaderMap) {
    let mut nonce = [0; 16];
    // Should there be no randomness, the key is a constant: it keeps caches from answering, no
    // more.
    let _ = getrandom::fill(&mut nonce);
    let key = base64::engine::general_purpose::STANDARD.encode(nonce);
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    let version = HeaderValue::from_static("13");
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(version);
}

/// Why a request got no response of its sandbox.
#[derive(Debug)]
enum Failed {
    /// It went no further than here.
    Refused(Refusal),
    /// The way to the sandbox and back failed.
    Upstream {
        status: StatusCode,
        kind: UpstreamError,
        /// What the client is told, after our name. It names no address.
        told: &'static str,
        /// What the log is told.
        cause: String,
    },
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Failed {
    fn upstream(upgrades: bool, error: &upstream::Error) -> Self {
        use upstream::Failure;
        let (kind, told) = match error.kind() {
            Failure::Resolve => (
                UpstreamError::Dns,
                "upstream connect failed: the sandbox has no address",
            ),
            Failure::ConnectRefused => (
                UpstreamError::ConnectRefused,
                "upstream connect failed: connection refused",
            ),
            Failure::ConnectTimeout => (
                UpstreamError::ConnectTimeout,
                "upstream connect failed: timed out",
            ),
            Failure::Reset => (
                UpstreamError::Reset,
                "upstream failed: connection closed before the response",
            ),
            Failure::Malformed => (
                UpstreamError::Reset,
                "upstream failed: the response is not valid HTTP",
            ),
            Failure::RequestBody => (
                UpstreamError::ClientClosed,
                "the request body was not received completely",
            ),
        };
        Self::Upstream {
            status: match error.kind() {
                Failure::RequestBody => StatusCode::BAD_REQUEST,
                _ => unavailable(upgrades),
            },
            kind,
            told,
            cause: error.to_string(),
        }
    }

    fn late(upgrades: bool) -> Self {
        let told = "upstream failed: no response in time";
        Self::Upstream {
            status: unavailable(upgrades),
            kind: UpstreamError::HeaderTimeout,
            told,
            cause: told.to_owned(),
        }
    }

    /// The response must not be passed on.
    fn unusable(cause: forward::Refused) -> Self {
        Self::Upstream {
            status: StatusCode::BAD_GATEWAY,
            kind: UpstreamError::Reset,
            told: "upstream failed: the response cannot be passed on",
            cause: cause.to_string(),
        }
    }

    /// The sandbox's host cannot be written into a `Host` field.
    fn unnameable(cause: InvalidHeaderValue) -> Self {
        Self::Upstream {
            status: StatusCode::BAD_GATEWAY,
            kind: UpstreamError::Dns,
            told: "upstream connect failed: the sandbox has no address",
            cause: cause.to_string(),
        }
    }

    fn answer(&self) -> (StatusCode, String) {
        match self {
            Self::Refused(refusal) => (refusal.status(), refusal.message()),
            Self::Upstream { status, told, .. } => (*status, format!("{SENDER}{told}")),
        }
    }
}

/// The status of a failed upstream: clients of WebSockets and of HTTP have always been told
/// different ones.
fn unavailable(upgrades: bool) -> StatusCode {
    if upgrades {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::BAD_GATEWAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        for (host, expected) in [
            ("10.244.1.5", "10.244.1.5:8080"),
            ("fd00::5", "[fd00::5]:8080"),
            ("box.test", "box.test:8080"),
        ] {
            assert_eq!(authority(host, 8080), expected);
        }
    }
}
