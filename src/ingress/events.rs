//! What happens in ingress, as one struct an event: `emit` writes the log record and moves the
//! instruments together (telemetry contract, section 9).
//!
//! Business code builds an event and hands it an [`Observer`]; it never touches a logger or an
//! instrument itself. Credentials are left out here, not by who emits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use slog::{KV, Logger, Record, Serializer, debug, error, info};

use super::access::{Denied, Granted, Refusal};
use super::metrics::{
    Decision, Direction, DurationKey, IoLabels, Metrics, ProxyType, RenewResult, RequestKey,
    Resolution, UpstreamError, UpstreamErrorLabels,
};
use super::provider::{Missing, Sandbox};
use super::route::{Mode, redacted};
use crate::http::server::UNKNOWN_ROUTE;
use crate::telemetry::semconv::{HttpRequest, Method};
use crate::telemetry::trace_context::TraceContext;

/// What a client that left before it was answered is counted as.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Where events go.
pub struct Observer {
    logger: Logger,
    /// The instruments; public for readings that are not events, such as gauges.
    pub metrics: Metrics,
}

impl Observer {
    /// Sends records to `logger` and measurements to `metrics`.
    #[must_use]
    pub fn new(logger: Logger, metrics: Metrics) -> Self {
        Self { logger, metrics }
    }

    /// The logger, for plain operational lines.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }
}

/// A request has come. Each is followed by one [`Accessed`], however it ends.
pub struct Begun<'a> {
    /// Its method.
    pub method: &'a http::Method,
    /// Its target as it was sent.
    pub uri: &'a str,
    /// How it will be passed on.
    pub proxy_type: ProxyType,
}

impl Begun<'_> {
    /// Writes the record and moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.active.add_for(1, self.proxy_type);
        debug!(to.logger, "ingress request begun"; self);
    }
}

impl KV for Begun<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("uri".into(), &redacted(self.uri))?;
        serializer.emit_str("method".into(), self.method.as_str())?;
        serializer.emit_str("proxy_type".into(), self.proxy_type.as_str())
    }
}

/// A sandbox was looked up.
pub struct Resolved<'a> {
    /// What was found.
    pub found: &'a Result<Arc<Sandbox>, Missing>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Resolved<'_> {
    /// Moves the instruments.
    pub fn emit(&self, to: &Observer) {
        let result = match self.found {
            Ok(_) => Resolution::Success,
            Err(Missing::NotFound { .. }) => Resolution::NotFound,
            Err(Missing::NotReady { .. }) => Resolution::NotReady,
            Err(Missing::Ambiguous { .. }) => Resolution::Error,
        };
        to.metrics.resolutions.add_for(1, result);
        to.metrics
            .resolution_duration
            .record_for(self.elapsed.as_secs_f64(), result);
    }
}

/// It was decided whether a request may come in.
pub struct Decided(pub Result<Granted, Denied>);

impl Decided {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        let result = match self.0 {
            Ok(Granted::Open) => Decision::NotRequired,
            Ok(Granted::Header) => Decision::HeaderOk,
            Ok(Granted::Signature(_)) => Decision::SignatureOk,
            Err(Denied::HeaderMismatch) => Decision::HeaderMismatch,
            Err(Denied::SignatureRequired) => Decision::SignatureRequired,
            Err(Denied::Expired) => Decision::Expired,
            Err(Denied::BadSignature) => Decision::BadSignature,
            Err(Denied::UnknownKey) => Decision::UnknownKey,
            Err(Denied::NoVerifier) => Decision::VerifierMissing,
        };
        to.metrics.decisions.add_for(1, result);
    }
}

/// A connection to a sandbox was made.
pub struct Connected {
    /// What for.
    pub proxy_type: ProxyType,
    /// How long it took.
    pub elapsed: Duration,
}

impl Connected {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics
            .connect_duration
            .record_for(self.elapsed.as_secs_f64(), self.proxy_type);
    }
}

/// A request that is no upgrade is handed to its sandbox.
pub struct HandedOver;

impl HandedOver {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.proxied.add(1);
    }
}

/// The head of a sandbox's response has come.
pub struct Answered {
    /// What for.
    pub proxy_type: ProxyType,
    /// How long after the request was handed over.
    pub elapsed: Duration,
}

impl Answered {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics
            .first_byte
            .record_for(self.elapsed.as_secs_f64(), self.proxy_type);
    }
}

/// Bytes of a body or a tunnel went one way.
pub struct Moved {
    /// Which way.
    pub direction: Direction,
    /// Of what.
    pub proxy_type: ProxyType,
    /// How many.
    pub bytes: u64,
}

impl Moved {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        let labels = IoLabels {
            direction: self.direction,
            proxy_type: self.proxy_type,
        };
        to.metrics.io.add_for(self.bytes, labels);
    }
}

/// A tunnel was established. Each is followed by one [`TunnelClosed`].
pub struct TunnelOpened;

impl TunnelOpened {
    /// Moves the instruments.
    pub fn emit(&self, to: &Observer) {
        to.metrics.tunnels.add(1);
        to.metrics.tunnels_active.add(1);
    }
}

/// A tunnel has ended.
pub struct TunnelClosed;

impl TunnelClosed {
    /// Moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.tunnels_active.add(-1);
    }
}

/// Why a request did not end well.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// It went no further than ingress.
    Refused(&'a Refusal),
    /// Something between ingress, the sandbox and the client failed.
    Upstream {
        /// What.
        kind: UpstreamError,
        /// What the failing part said.
        cause: &'a str,
    },
}

impl Failure<'_> {
    /// Its name among all.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Upstream { kind, .. } => kind.as_str(),
            Self::Refused(Refusal::Route(_)) => "route",
            Self::Refused(Refusal::Port(_)) => "port",
            Self::Refused(Refusal::Denied(_)) => "denied",
            Self::Refused(Refusal::Malformed(_)) => "malformed",
            Self::Refused(Refusal::Missing(missing)) => match missing {
                Missing::NotFound { .. } => Resolution::NotFound.as_str(),
                Missing::NotReady { .. } => Resolution::NotReady.as_str(),
                Missing::Ambiguous { .. } => "ambiguous",
            },
        }
    }
}

/// `ingress.access`: a request is over.
pub struct Accessed<'a> {
    /// The address and port it went to, if it went anywhere.
    pub target: Option<&'a str>,
    /// Who asked.
    pub client: &'a str,
    /// Its target as it was sent.
    pub uri: &'a str,
    /// Its method.
    pub method: &'a http::Method,
    /// The sandbox and the port it named.
    pub route: Option<(&'a str, u16)>,
    /// The final status; `None` when the client left before there was one.
    pub status: Option<http::StatusCode>,
    /// How it was passed on.
    pub proxy_type: ProxyType,
    /// From its head to its last byte, or to the end of the tunnel.
    pub elapsed: Duration,
    /// Bytes of the body towards the sandbox.
    pub bytes_in: u64,
    /// Bytes of the body towards the client.
    pub bytes_out: u64,
    /// Where routes are found.
    pub mode: Mode,
    /// By what right it came in, if it did.
    pub granted: Option<Granted>,
    /// Why it did not end well.
    pub failure: Option<Failure<'a>>,
    /// What the request said about its trace.
    pub trace: &'a TraceContext,
}

impl Accessed<'_> {
    fn status(&self) -> u16 {
        self.status
            .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16())
    }

    /// Writes the record and moves the instruments.
    pub fn emit(&self, to: &Observer) {
        let method = Method::from(self.method);
        let proxy_type = self.proxy_type;
        let status = self.status();
        let seconds = self.elapsed.as_secs_f64();
        to.metrics.active.add_for(-1, proxy_type);
        to.metrics.http_requests.add_for(
            1,
            &RequestKey {
                method,
                status,
                proxy_type,
            },
        );
        to.metrics
            .http_duration
            .record_for(seconds, &DurationKey { method, proxy_type });
        let standard = HttpRequest {
            method,
            route: UNKNOWN_ROUTE,
            status,
        };
        to.metrics.server_duration.record(seconds, standard);
        if let Some(Failure::Upstream { kind, .. }) = self.failure {
            let labels = UpstreamErrorLabels {
                error: kind,
                proxy_type,
            };
            to.metrics.upstream_errors.add_for(1, labels);
        }
        info!(self.trace.logger(&to.logger), "ingress requested"; self);
    }
}

impl KV for Accessed<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "ingress.access")?;
        if let Some(target) = self.target {
            serializer.emit_str("target".into(), target)?;
        }
        serializer.emit_str("client".into(), self.client)?;
        serializer.emit_str("uri".into(), &redacted(self.uri))?;
        serializer.emit_str("method".into(), self.method.as_str())?;
        if let Some((sandbox, port)) = self.route {
            serializer.emit_str("sandbox_id".into(), sandbox)?;
            serializer.emit_u16("port".into(), port)?;
        }
        serializer.emit_u16("status".into(), self.status())?;
        serializer.emit_str("proxy_type".into(), self.proxy_type.as_str())?;
        serializer.emit_f64("duration_ms".into(), milliseconds(self.elapsed))?;
        serializer.emit_u64("bytes_in".into(), self.bytes_in)?;
        serializer.emit_u64("bytes_out".into(), self.bytes_out)?;
        serializer.emit_str("route_mode".into(), self.mode.as_str())?;
        match self.granted {
            None => {}
            Some(Granted::Open) => serializer.emit_str("auth".into(), "none")?,
            Some(Granted::Header) => serializer.emit_str("auth".into(), "header")?,
            Some(Granted::Signature(key)) => {
                serializer.emit_str("auth".into(), "signature")?;
                serializer.emit_char("key_id".into(), char::from(key))?;
            }
        }
        let Some(failure) = &self.failure else {
            return Ok(());
        };
        match failure {
            Failure::Upstream { cause, .. } => serializer.emit_str("error".into(), cause)?,
            Failure::Refused(Refusal::Route(cause)) => {
                serializer.emit_str("error".into(), cause.logged())?;
            }
            Failure::Refused(cause) => {
                serializer.emit_arguments("error".into(), &format_args!("{cause}"))?;
            }
        }
        serializer.emit_str("error_type".into(), failure.kind())?;
        match failure {
            Failure::Refused(Refusal::Missing(Missing::NotReady { object, .. })) => {
                serializer.emit_str("object".into(), object)
            }
            Failure::Refused(Refusal::Missing(Missing::Ambiguous { objects, .. })) => {
                serializer.emit_str("object".into(), &objects.join(" "))
            }
            Failure::Refused(_) | Failure::Upstream { .. } => Ok(()),
        }
    }
}

/// Milliseconds, to the microsecond.
fn milliseconds(elapsed: Duration) -> f64 {
    // Exact for the first 285 years.
    elapsed.as_micros() as f64 / 1000.0
}

/// Renew intents were dealt with.
pub struct Renewed<'a> {
    /// What became of them.
    pub result: RenewResult,
    /// How many they are.
    pub count: u64,
    /// Whom they are for, where it is one.
    pub sandbox: Option<&'a str>,
    /// The list in Redis.
    pub queue: &'a str,
    /// Why Redis did not take them.
    pub error: Option<&'a dyn fmt::Display>,
}

impl Renewed<'_> {
    /// Writes the record, where the outcome is one of Redis, and moves the instrument.
    pub fn emit(&self, to: &Observer) {
        to.metrics.renew_events.add_for(self.count, self.result);
        match self.result {
            RenewResult::Published => debug!(to.logger, "renewintent: published"; self),
            RenewResult::Failed => error!(to.logger, "renewintent: redis publish failed"; self),
            RenewResult::Throttled | RenewResult::DroppedFull | RenewResult::DroppedShutdown => {}
        }
    }
}

impl KV for Renewed<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        if let Some(sandbox) = self.sandbox {
            serializer.emit_str("sandbox_id".into(), sandbox)?;
        } else {
            serializer.emit_u64("intents".into(), self.count)?;
        }
        serializer.emit_str("queue_key".into(), self.queue)?;
        match self.error {
            Some(error) => serializer.emit_arguments("error".into(), &format_args!("{error}")),
            None => Ok(()),
        }
    }
}
