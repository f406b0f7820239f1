//! What ingress measures (telemetry contract, section 7; OSEP-0010, section 1.3).
//!
//! One process serves many sandboxes, so a sandbox is never an attribute: it is in the log records
//! of [`events`](super::events).

use std::sync::Arc;

use opentelemetry::KeyValue;

use super::provider::CacheStatus;
use crate::host::Host;
use crate::telemetry::instrument::{
    Counter, HTTP_SECONDS, Histogram, Labels, ObservableCounter, ObservableGauge, ObservableRatio,
    STREAMING_HTTP_SECONDS, SUB_MILLISECOND_SECONDS, UpDownCounter,
};
use crate::telemetry::semconv::{HttpKeys, Method, ServerRequestDuration};
use crate::telemetry::series::{Key, KeyedCounter, KeyedHistogram};

/// Boundaries, in seconds, for look-ups in memory.
pub const RESOLUTION_SECONDS: &[f64] = &[
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
];

crate::instruments! {
    /// The instruments of ingress.
    pub struct Metrics in "opensandbox/ingress" {
        /// Requests by their final status; 499 when the client left before there was one.
        http_requests: KeyedCounter<RequestKey> = "ingress.http.request.count", "{request}",
            attributes ["http.method", "http.status_code", "proxy_type"];
        /// Time from a request's head to its last byte, or to the end of its tunnel.
        http_duration: KeyedHistogram<DurationKey> = "ingress.http.request.duration", "s",
            attributes ["http.method", "proxy_type"], boundaries STREAMING_HTTP_SECONDS;
        /// Look-ups of a sandbox.
        resolutions: Counter<Resolution> = "ingress.routing.resolutions.count", "{resolution}",
            attributes ["result"];
        /// Time of a look-up.
        resolution_duration: Histogram<Resolution> = "ingress.routing.resolution.duration", "s",
            attributes ["result"], boundaries RESOLUTION_SECONDS;
        /// Requests that may come in and are no upgrade, as they are handed to their sandbox.
        proxied: Counter = "ingress.proxy.http.requests_total", "{request}";
        /// Tunnels established.
        tunnels: Counter = "ingress.proxy.websocket.connections_total", "{connection}";
        /// Busy share of the host's processors since the previous collection, 0 to 100.
        host_cpu: ObservableRatio = "ingress.system.cpu.usage", "%";
        /// Memory in use on the host: total less available.
        host_memory: ObservableGauge = "ingress.system.memory.usage_bytes", "By";
        /// Requests under way.
        active: UpDownCounter<ProxyType> = "ingress.http.requests.active", "{request}",
            attributes ["proxy_type"];
        /// Tunnels open now.
        tunnels_active: UpDownCounter = "ingress.proxy.websocket.connections.active", "{connection}";
        /// Exchanges that failed between ingress and the sandbox, or because the client left.
        upstream_errors: Counter<UpstreamErrorLabels> = "ingress.upstream.errors.count", "{error}",
            attributes ["error.type", "proxy_type"];
        /// Time to connect to a sandbox.
        connect_duration: Histogram<ProxyType> = "ingress.upstream.connect.duration", "s",
            attributes ["proxy_type"], boundaries SUB_MILLISECOND_SECONDS;
        /// Time from handing a request over to the head of the sandbox's response.
        first_byte: Histogram<ProxyType> = "ingress.upstream.response.time_to_first_byte", "s",
            attributes ["proxy_type"], boundaries HTTP_SECONDS;
        /// Decisions on who comes in to a sandbox.
        decisions: Counter<Decision> = "ingress.secure_access.decisions.count", "{decision}",
            attributes ["result"];
        /// Sandboxes known.
        cache_objects: ObservableGauge = "ingress.cache.objects", "{object}",
            attributes ["provider"];
        /// 1 once the sandboxes were read completely, 0 before.
        cache_synced: ObservableGauge = "ingress.cache.synced", "{cache}", attributes ["provider"];
        /// Time since the source of the sandboxes was last heard of.
        cache_age: ObservableRatio = "ingress.cache.last_event.age", "s", attributes ["provider"];
        /// Times the sandboxes were read completely, beyond the first.
        cache_relists: ObservableCounter = "ingress.cache.relists.count", "{relist}",
            attributes ["provider"];
        /// Renew intents by what became of them.
        renew_events: Counter<RenewResult> = "ingress.renew_intent.events.count", "{event}",
            attributes ["result"];
        /// Renew intents waiting for Redis.
        renew_queue: ObservableGauge = "ingress.renew_intent.queue.depth", "{event}";
        /// Bytes of bodies and tunnels; `in` is towards the sandbox.
        io: Counter<IoLabels> = "ingress.proxy.io.bytes", "By",
            attributes ["direction", "proxy_type"];
        /// Time to answer a request, under the stable semantic conventions; only with
        /// OTEL_SEMCONV_STABILITY_OPT_IN.
        server_duration: ServerRequestDuration = "http.server.request.duration", "s",
            attributes ["http.request.method", "http.response.status_code", "http.route", "url.scheme", "error.type"],
            boundaries STREAMING_HTTP_SECONDS;
    }
}

crate::attribute_values! {
    /// How a request is passed on; a request for an upgrade that is refused counts as one too.
    #[derive(Hash)]
    pub enum ProxyType as "proxy_type" {
        /// Request and response.
        Http = "http",
        /// An upgrade to a tunnel.
        WebSocket = "websocket",
    }
}

crate::attribute_values! {
    /// What a look-up found.
    pub enum Resolution as "result" {
        /// A sandbox that takes requests.
        Success = "success",
        /// None.
        NotFound = "not_found",
        /// One that takes no requests now.
        NotReady = "not_ready",
        /// More than one.
        Error = "error",
    }
}

crate::attribute_values! {
    /// Who comes in, and who does not.
    pub enum Decision as "result" {
        /// The sandbox needs no credential.
        NotRequired = "not_required",
        /// The token is right.
        HeaderOk = "header_ok",
        /// The signature is right.
        SignatureOk = "signature_ok",
        /// The token is wrong.
        HeaderMismatch = "header_mismatch",
        /// Neither token nor signature.
        SignatureRequired = "signature_required",
        /// The signature is too old.
        Expired = "expired",
        /// The signature is wrong.
        BadSignature = "bad_signature",
        /// The signature names an unknown key.
        UnknownKey = "unknown_key",
        /// There are no keys.
        VerifierMissing = "verifier_missing",
    }
}

crate::attribute_values! {
    /// What went wrong on the way to the sandbox and back.
    pub enum UpstreamError as "error.type" {
        /// The sandbox's host refused the connection, or cannot be reached.
        ConnectRefused = "connect_refused",
        /// The connection was not made in time.
        ConnectTimeout = "connect_timeout",
        /// The name of the sandbox has no address.
        Dns = "dns",
        /// The sandbox closed the connection, or sent what is no HTTP, before the response.
        Reset = "reset",
        /// The head of the response did not come in time.
        HeaderTimeout = "header_timeout",
        /// The response ended before it was complete.
        BodyAborted = "body_aborted",
        /// The client left.
        ClientClosed = "client_closed",
    }
}

crate::attribute_values! {
    /// What became of a renew intent.
    pub enum RenewResult as "result" {
        /// Redis has it.
        Published = "published",
        /// The sandbox had one a short while ago.
        Throttled = "throttled",
        /// Too many were waiting.
        DroppedFull = "dropped_full",
        /// The process ended first.
        DroppedShutdown = "dropped_shutdown",
        /// Redis did not take it.
        Failed = "failed",
    }
}

crate::attribute_values! {
    /// Which way bytes go.
    pub enum Direction as "direction" {
        /// Towards the sandbox.
        In = "in",
        /// Towards the client.
        Out = "out",
    }
}

/// A finished request, as its count tells it apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// How it was asked.
    pub method: Method,
    /// The final status.
    pub status: u16,
    /// How it was passed on.
    pub proxy_type: ProxyType,
}

impl Key for RequestKey {
    fn attributes(&self, keys: HttpKeys) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(5);
        keys.method(self.method, &mut attributes);
        keys.status(self.status, &mut attributes);
        attributes.extend(self.proxy_type.attributes());
        attributes
    }
}

/// A finished request, as its duration tells it apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DurationKey {
    /// How it was asked.
    pub method: Method,
    /// How it was passed on.
    pub proxy_type: ProxyType,
}

impl Key for DurationKey {
    fn attributes(&self, keys: HttpKeys) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(3);
        keys.method(self.method, &mut attributes);
        attributes.extend(self.proxy_type.attributes());
        attributes
    }
}

/// The attributes of `ingress.upstream.errors.count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamErrorLabels {
    /// What went wrong.
    pub error: UpstreamError,
    /// How the request was passed on.
    pub proxy_type: ProxyType,
}

impl Labels for UpstreamErrorLabels {
    const COMBINATIONS: usize = UpstreamError::COMBINATIONS * ProxyType::COMBINATIONS;

    fn index(self) -> usize {
        self.error.index() * ProxyType::COMBINATIONS + self.proxy_type.index()
    }

    fn attributes(self) -> Vec<KeyValue> {
        [self.error.attributes(), self.proxy_type.attributes()].concat()
    }
}

/// The attributes of `ingress.proxy.io.bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLabels {
    /// Which way.
    pub direction: Direction,
    /// How the request was passed on.
    pub proxy_type: ProxyType,
}

impl Labels for IoLabels {
    const COMBINATIONS: usize = Direction::COMBINATIONS * ProxyType::COMBINATIONS;

    fn index(self) -> usize {
        self.direction.index() * ProxyType::COMBINATIONS + self.proxy_type.index()
    }

    fn attributes(self) -> Vec<KeyValue> {
        [self.direction.attributes(), self.proxy_type.attributes()].concat()
    }
}

impl Metrics {
    /// Registers the readings of what is known of the sandboxes.
    pub fn observe_cache(&self, status: &Arc<CacheStatus>) {
        // One of three names.
        let provider = [KeyValue::new("provider", status.provider())];
        let source = (Arc::clone(status), provider.clone());
        self.cache_objects.observe(move |point| {
            let (status, provider) = &source;
            point(
                i64::try_from(status.objects()).unwrap_or(i64::MAX),
                provider,
            );
        });
        let source = (Arc::clone(status), provider.clone());
        self.cache_synced.observe(move |point| {
            let (status, provider) = &source;
            point(status.is_synced().into(), provider);
        });
        let source = (Arc::clone(status), provider.clone());
        self.cache_age.observe(move |point| {
            let (status, provider) = &source;
            if let Some(age) = status.last_event_age() {
                point(age.as_secs_f64(), provider);
            }
        });
        let source = (Arc::clone(status), provider);
        self.cache_relists.observe(move |point| {
            let (status, provider) = &source;
            point(status.relists(), provider);
        });
    }

    /// Registers the readings of the host that the proposal asks for.
    pub fn observe_host(&self) {
        let host = Arc::new(Host::new());
        let source = Arc::clone(&host);
        self.host_memory.observe(move |point| {
            if let Some(memory) = source.memory() {
                point(i64::try_from(memory.used()).unwrap_or(i64::MAX), &[]);
            }
        });
        self.host_cpu.observe(move |point| {
            if let Some(busy) = host.cpu_busy() {
                point(busy * 100.0, &[]);
            }
        });
    }
}
