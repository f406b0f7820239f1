//! What happens in egress, as one struct an event: `emit` writes the log record and moves the
//! instruments together (telemetry contract, section 9).
//!
//! Business code builds an event and hands it an [`Observer`]; it never touches a logger or an
//! instrument itself.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slog::{KV, Record, Serializer, info, o};

use super::metrics::{Decision, DropReason, Metrics, Outcome, QueryLabels, Transport};
use super::policy::{DomainSet, Reason};

/// How many `egress.denied` records a second are written; the rest are only counted.
const DENIED_RECORDS_PER_SECOND: u64 = 100;

/// Where events go.
pub struct Observer {
    logger: slog::Logger,
    /// The instruments; public for readings that are not events, such as gauges.
    pub metrics: Metrics,
    /// Names whose successful look-ups are not logged (`log_skip.always`).
    pub log_skip: arc_swap::ArcSwap<DomainSet>,
    denied: RateLimit,
}

impl Observer {
    /// Sends records to `logger` and measurements to `metrics`.
    #[must_use]
    pub fn new(logger: slog::Logger, metrics: Metrics) -> Self {
        Self {
            logger,
            metrics,
            log_skip: arc_swap::ArcSwap::default(),
            denied: RateLimit::new(DENIED_RECORDS_PER_SECOND),
        }
    }

    /// The logger, for plain operational lines.
    #[must_use]
    pub fn logger(&self) -> &slog::Logger {
        &self.logger
    }
}

/// `egress.outbound`: an allowed query was forwarded, with or without success.
pub struct Outbound<'a> {
    /// Lower case, no trailing dot.
    pub host: &'a str,
    /// A and AAAA records of the answer section, in order.
    pub addresses: &'a [IpAddr],
    /// Why no upstream gave an answer.
    pub error: Option<&'a str>,
    /// How the client asked.
    pub transport: Transport,
    /// What the client was told.
    pub outcome: Outcome,
    /// From the first upstream packet to the answer or the failure.
    pub elapsed: Duration,
}

impl Outbound<'_> {
    /// Writes the record and moves the instruments.
    pub fn emit(&self, to: &Observer) {
        to.metrics.query_duration.record(self.elapsed.as_secs_f64());
        to.metrics.queries.add_for(
            1,
            QueryLabels {
                decision: Decision::Allow,
                transport: self.transport,
                outcome: self.outcome,
            },
        );
        if self.error.is_some() || !to.log_skip.load().contains(self.host) {
            info!(to.logger, "egress outbound"; self);
        }
    }
}

impl KV for Outbound<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "egress.outbound")?;
        serializer.emit_str("target.host".into(), self.host)?;
        if !self.addresses.is_empty() {
            serializer.emit_serde("target.ips".into(), &slog::Serde(self.addresses.to_vec()))?;
        }
        if let Some(error) = self.error {
            serializer.emit_str("error".into(), error)?;
        }
        Ok(())
    }
}

/// `egress.denied`: a query was refused.
pub struct Denied<'a> {
    /// Lower case, no trailing dot.
    pub host: &'a str,
    /// The query type in presentation form, for example `AAAA`.
    pub query_type: &'a str,
    /// Which part of the policy refused it.
    pub reason: Reason,
    /// How the client asked.
    pub transport: Transport,
    /// What the client was told.
    pub outcome: Outcome,
}

impl Denied<'_> {
    /// Writes the record, unless too many were written this second, and moves the instruments.
    pub fn emit(&self, to: &Observer) {
        to.metrics.denied.add(1);
        to.metrics.queries.add_for(
            1,
            QueryLabels {
                decision: Decision::Deny,
                transport: self.transport,
                outcome: self.outcome,
            },
        );
        if to.denied.admit(Instant::now()) {
            info!(to.logger, "egress denied"; o!(
                "opensandbox.event" => "egress.denied",
                "target.host" => self.host.to_owned(),
                "reason" => self.reason.as_str(),
                "qtype" => self.query_type.to_owned(),
            ));
        }
    }
}

/// A DNS message got no answer, or an answer was discarded.
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
}

impl Dropped {
    /// Moves the instrument; a record for each would be a weapon for the sender.
    pub fn emit(&self, to: &Observer) {
        to.metrics.dropped.add_for(1, self.reason);
    }
}

/// Admits a fixed number of events in each second.
struct RateLimit {
    per_second: u64,
    start: Instant,
    /// The current second in the upper 32 bits, the events admitted in it in the lower ones.
    state: AtomicU64,
}

impl RateLimit {
    fn new(per_second: u64) -> Self {
        Self {
            per_second,
            start: Instant::now(),
            state: AtomicU64::new(0),
        }
    }

    fn admit(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.start).as_secs() << 32;
        let admitted = self
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                let state = if state >> 32 == second >> 32 {
                    state
                } else {
                    second
                };
                (state & 0xffff_ffff < self.per_second).then_some(state + 1)
            });
        admitted.is_ok()
    }
}
