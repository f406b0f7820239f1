//! What happens in egress, as one struct an event: `emit` writes the log record and moves the
//! instruments together (telemetry contract, section 9).
//!
//! Business code builds an event and hands it an [`Observer`]; it never touches a logger or an
//! instrument itself.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use slog::{KV, Record, Serializer, error, info, warn};

use super::metrics::{Decision, DropReason, Metrics, Outcome, QueryLabels, Transport};
use super::policy::{Action, DomainSet, Reason};
use super::webhook::Publisher;
use crate::telemetry::log::Nested;
use crate::telemetry::semconv::HttpRequest;
use crate::telemetry::trace_context::TraceContext;

/// How many `egress.denied` records a second are written; the rest are only counted, and the next
/// record says how many they were.
const DENIED_RECORDS_PER_SECOND: u64 = 100;

/// How many rules a record lists unless told otherwise; a longer list is logged as its digest.
const LISTED_RULES: usize = 256;

/// How long a listed list may be as JSON, in octets: few rules can still be long ones.
const LISTED_RULES_OCTETS: usize = 64 * 1024;

/// Where events go.
pub struct Observer {
    logger: slog::Logger,
    /// The instruments; public for readings that are not events, such as gauges.
    pub metrics: Metrics,
    /// Names whose successful look-ups are not logged (`log_skip.always`).
    pub log_skip: arc_swap::ArcSwap<DomainSet>,
    denied: RateLimit,
    listed_rules: usize,
    webhook: Option<Publisher>,
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
            listed_rules: LISTED_RULES,
            webhook: None,
        }
    }

    /// Tells `webhook` of every denial as well.
    #[must_use]
    pub fn telling(mut self, webhook: Publisher) -> Self {
        self.webhook = Some(webhook);
        self
    }

    /// Lists up to `rules` rules in a record, instead of 256, before it writes their digest.
    #[must_use]
    pub fn listing_up_to(mut self, rules: usize) -> Self {
        self.listed_rules = rules;
        self
    }

    /// The logger, for plain operational lines.
    pub fn logger(&self) -> &slog::Logger {
        &self.logger
    }

    /// What happens on behalf of a request that carried `trace`.
    #[must_use]
    pub fn within(&self, trace: &TraceContext) -> RequestObserver {
        RequestObserver {
            logger: trace.logger(&self.logger),
            listed_rules: self.listed_rules,
        }
    }

    /// Says at the end how many `egress.denied` records were left out that no record told of.
    pub fn conclude(&self) {
        let suppressed = self.denied.take_suppressed();
        if suppressed > 0 {
            info!(self.logger, "egress denied records suppressed"; "suppressed" => suppressed);
        }
    }
}

/// Where the events of one request go: its records name the caller's trace.
pub struct RequestObserver {
    logger: slog::Logger,
    listed_rules: usize,
}

impl RequestObserver {
    /// The logger, for plain operational lines.
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
            serializer.emit_serde("target.ips".into(), &Nested(self.addresses))?;
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
        if let Some(webhook) = &to.webhook {
            webhook.denied(self.host);
        }
        if let Some(suppressed) = to.denied.admit(Instant::now()) {
            info!(to.logger, "egress denied"; DeniedRecord {
                query: Some((self.host, self.query_type)),
                reason: self.reason.as_str(),
                suppressed,
            });
        }
    }
}

/// The fields of an `egress.denied` record.
struct DeniedRecord<'a> {
    /// Name and type, where the message could be read.
    query: Option<(&'a str, &'a str)>,
    reason: &'static str,
    /// Records left out since the one before.
    suppressed: u64,
}

impl KV for DeniedRecord<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "egress.denied")?;
        if let Some((host, _)) = self.query {
            serializer.emit_str("target.host".into(), host)?;
        }
        serializer.emit_str("reason".into(), self.reason)?;
        if let Some((_, query_type)) = self.query {
            serializer.emit_str("qtype".into(), query_type)?;
        }
        if self.suppressed > 0 {
            serializer.emit_u64("suppressed".into(), self.suppressed)?;
        }
        Ok(())
    }
}

/// A message was turned down before the policy was asked: it cannot be read as a query, or asks
/// for an operation that is not forwarded.
pub struct Refused {
    /// How the client asked.
    pub transport: Transport,
}

impl Refused {
    /// Writes the record, unless too many were written this second, and moves the instruments. It
    /// is not a denial by policy, so it does not count as one.
    pub fn emit(&self, to: &Observer) {
        to.metrics.queries.add_for(
            1,
            QueryLabels {
                decision: Decision::Deny,
                transport: self.transport,
                outcome: Outcome::Other,
            },
        );
        if let Some(suppressed) = to.denied.admit(Instant::now()) {
            info!(to.logger, "egress denied"; DeniedRecord {
                query: None,
                reason: "malformed",
                suppressed,
            });
        }
    }
}

/// A request to the policy API is over.
pub struct Requested<'a> {
    /// Its method.
    pub method: &'a http::Method,
    /// The template it matched.
    pub route: &'static str,
    /// The status answered; `None` when the client left before there was one.
    pub status: Option<http::StatusCode>,
    /// From its head to the end of the response.
    pub elapsed: Duration,
}

/// What a client that left before it was answered is counted as.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Requested<'_> {
    /// Moves the instruments.
    pub fn emit(&self, to: &Observer) {
        let request = HttpRequest {
            method: self.method.into(),
            route: self.route,
            status: self
                .status
                .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16()),
        };
        let seconds = self.elapsed.as_secs_f64();
        to.metrics.http_requests.add_for(1, &request);
        to.metrics.http_duration.record_for(seconds, &request);
        to.metrics.server_duration.record(seconds, request);
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

/// `egress.loaded`: the policy the process starts with is in force.
pub struct Loaded<'a, R> {
    /// The default action.
    pub default_action: Action,
    /// The user's rules in order.
    pub rules: &'a [R],
}

impl<R: Serialize + Clone + Send + 'static> Loaded<'_, R> {
    /// Writes the record.
    pub fn emit(&self, to: &Observer) {
        info!(to.logger, "egress policy loaded"; PolicyRecord {
            event: "egress.loaded",
            default_action: self.default_action,
            rules: Rules::of(self.rules, to.listed_rules),
        });
    }
}

/// `egress.updated`: a change asked for over the API is in force.
pub struct Updated<'a, R> {
    /// The default action after the change.
    pub default_action: Action,
    /// The rules of this request alone.
    pub rules: &'a [R],
}

impl<R: Serialize + Clone + Send + 'static> Updated<'_, R> {
    /// Writes the record.
    pub fn emit(&self, to: &RequestObserver) {
        info!(to.logger, "egress policy updated"; PolicyRecord {
            event: "egress.updated",
            default_action: self.default_action,
            rules: Rules::of(self.rules, to.listed_rules),
        });
    }
}

/// Whose fault a failure is; decides the level of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was refused: `warn`.
    Client,
    /// The request could not be carried out: `error`.
    Server,
}

/// `egress.update_failed`: a change was not made; the policy in force is what it was.
pub struct UpdateFailed<'a> {
    /// Why.
    pub error: &'a str,
    /// Whose fault it is.
    pub fault: Fault,
}

impl UpdateFailed<'_> {
    /// Writes the record.
    pub fn emit(&self, to: &RequestObserver) {
        const MESSAGE: &str = "egress policy update failed";
        match self.fault {
            Fault::Client => warn!(to.logger, "{}", MESSAGE; self),
            Fault::Server => error!(to.logger, "{}", MESSAGE; self),
        }
    }
}

impl KV for UpdateFailed<'_> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), "egress.update_failed")?;
        serializer.emit_str("error".into(), self.error)
    }
}

/// The fields of a record about a policy.
struct PolicyRecord<R> {
    event: &'static str,
    default_action: Action,
    rules: Rules<R>,
}

/// A list of rules in a record.
enum Rules<R> {
    Listed(Vec<R>),
    Digested { digest: String, count: usize },
}

impl<R: Serialize + Clone> Rules<R> {
    fn of(rules: &[R], listed: usize) -> Self {
        // The model has no value that JSON lacks, so there is always a text to digest.
        let canonical = serde_json::to_vec(rules).unwrap_or_default();
        if rules.len() <= listed && canonical.len() <= LISTED_RULES_OCTETS {
            return Self::Listed(rules.to_vec());
        }
        let mut digest = String::from("sha256:");
        for octet in Sha256::digest(&canonical) {
            digest.push_str(&format!("{octet:02x}"));
        }
        Self::Digested {
            digest,
            count: rules.len(),
        }
    }
}

impl<R: Serialize + Clone + Send + 'static> KV for PolicyRecord<R> {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        serializer.emit_str("opensandbox.event".into(), self.event)?;
        serializer.emit_str("egress.default".into(), self.default_action.as_str())?;
        match &self.rules {
            Rules::Listed(rules) => serializer.emit_serde("rules".into(), &Nested(rules)),
            Rules::Digested { digest, count } => {
                serializer.emit_str("rules_digest".into(), digest)?;
                serializer.emit_usize("rules_count".into(), *count)
            }
        }
    }
}

/// Admits a fixed number of events in each second, and counts the others.
struct RateLimit {
    per_second: u64,
    start: Instant,
    /// The current second in the upper 32 bits, the events admitted in it in the lower ones.
    state: AtomicU64,
    /// Events not admitted that nobody was told of yet.
    suppressed: AtomicU64,
}

impl RateLimit {
    fn new(per_second: u64) -> Self {
        Self {
            per_second,
            start: Instant::now(),
            state: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether an event is admitted, and then how many were not since the last that was.
    fn admit(&self, now: Instant) -> Option<u64> {
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
        match admitted {
            Ok(_) => Some(self.take_suppressed()),
            Err(_) => {
                self.suppressed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn take_suppressed(&self) -> u64 {
        // Looking is cheaper than exchanging, and there is nearly always nothing to take.
        if self.suppressed.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.suppressed.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Rule;
    use super::super::recorder::Recorder;
    use super::*;

    /// The one record that `act` writes.
    fn written(act: impl FnOnce(&Observer)) -> String {
        let recorder = Recorder::default();
        act(&recorder.observer());
        let mut records = recorder.take();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    fn untraced(observer: &Observer) -> RequestObserver {
        observer.within(&TraceContext::default())
    }

    fn rules(count: usize) -> Vec<Rule> {
        (0..count)
            .map(|number| Rule::new(Action::Allow, &format!("Host{number}.test")).unwrap())
            .collect()
    }

    #[test]
    fn loaded_lists_the_rules_in_order() {
        let rules = rules(2);
        let line = written(|observer| {
            Loaded {
                default_action: Action::Deny,
                rules: &rules,
            }
            .emit(observer);
        });
        assert!(
            line.ends_with(r#""opensandbox.event":"egress.loaded","egress.default":"deny","rules":[{"action":"allow","target":"Host0.test"},{"action":"allow","target":"Host1.test"}]}"#),
            "{line}"
        );
        assert!(line.starts_with(r#"{"level":"INFO","msg":"egress policy loaded","#));
    }

    #[test]
    fn updated_lists_nothing_as_an_empty_array() {
        let line = written(|observer| {
            let nothing: &[Rule] = &[];
            Updated {
                default_action: Action::Allow,
                rules: nothing,
            }
            .emit(&untraced(observer));
        });
        assert!(
            line.ends_with(
                r#""opensandbox.event":"egress.updated","egress.default":"allow","rules":[]}"#
            ),
            "{line}"
        );
    }

    #[test]
    fn a_long_list_is_a_digest() {
        let update = |count: usize| {
            written(|observer| {
                Updated {
                    default_action: Action::Deny,
                    rules: &rules(count),
                }
                .emit(&untraced(observer));
            })
        };
        assert!(update(256).contains(r#""rules":["#));
        let long = update(257);
        assert!(!long.contains(r#""rules":"#));
        assert!(long.ends_with(r#","rules_count":257}"#), "{long}");
        let canonical = serde_json::to_string(&rules(257)).unwrap();
        let digest: String = Sha256::digest(canonical.as_bytes())
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        assert!(long.contains(&format!(r#""rules_digest":"sha256:{digest}""#)));
    }

    #[test]
    fn a_few_long_rules_are_a_digest_too() {
        let huge = Rule::new(Action::Deny, &"x".repeat(LISTED_RULES_OCTETS)).unwrap();
        let line = written(|observer| {
            Updated {
                default_action: Action::Deny,
                rules: &[huge],
            }
            .emit(&untraced(observer));
        });
        assert!(line.contains(r#""rules_count":1"#));
        assert!(line.len() < 1024);
    }

    #[test]
    fn a_failure_is_a_warning_or_an_error() {
        let fail = |fault| {
            written(|observer| {
                UpdateFailed {
                    error: "empty patch body",
                    fault,
                }
                .emit(&untraced(observer));
            })
        };
        let refused = fail(Fault::Client);
        assert!(
            refused.ends_with(
                r#""opensandbox.event":"egress.update_failed","error":"empty patch body"}"#
            ),
            "{refused}"
        );
        assert!(refused.contains(r#""level":"WARN""#));
        assert!(fail(Fault::Server).contains(r#""level":"ERRO""#));
    }
    #[test]
    fn the_records_of_a_request_name_its_trace() {
        let mut headers = http::HeaderMap::new();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", parent.parse().unwrap());
        let line = written(|observer| {
            UpdateFailed {
                error: "empty patch body",
                fault: Fault::Client,
            }
            .emit(&observer.within(&TraceContext::from_headers(&headers)));
        });
        assert!(line.contains(r#""trace_id":"0af7651916cd43dd8448eb211c80319c""#));
        assert!(line.contains(r#""span_id":"b7ad6b7169203331""#));
    }

    #[test]
    fn what_the_rate_limit_suppresses_is_told() {
        let limit = RateLimit::new(2);
        let within = |seconds| limit.start + Duration::from_secs(seconds);
        let first: Vec<_> = (0..5).map(|_| limit.admit(within(0))).collect();
        assert_eq!(first, [Some(0), Some(0), None, None, None]);
        let second: Vec<_> = (0..3).map(|_| limit.admit(within(1))).collect();
        assert_eq!(second, [Some(3), Some(0), None]);
        assert_eq!(limit.take_suppressed(), 1);
        assert_eq!(limit.take_suppressed(), 0);
    }

    #[test]
    fn a_denial_says_what_was_asked_and_how_many_went_unsaid() {
        let deny = |observer: &Observer| {
            Denied {
                host: "evil.test",
                query_type: "AAAA",
                reason: Reason::Default,
                transport: Transport::Udp,
                outcome: Outcome::NxDomain,
            }
            .emit(observer);
        };
        let line = written(deny);
        assert!(
            line.ends_with(
                r#""opensandbox.event":"egress.denied","target.host":"evil.test","reason":"default","qtype":"AAAA"}"#
            ),
            "{line}"
        );
        let recorder = Recorder::default();
        let observer = recorder.observer();
        observer.denied.suppressed.store(7, Ordering::Relaxed);
        deny(&observer);
        observer.denied.suppressed.store(8, Ordering::Relaxed);
        Refused {
            transport: Transport::Tcp,
        }
        .emit(&observer);
        observer.conclude();
        observer.denied.suppressed.store(9, Ordering::Relaxed);
        observer.conclude();
        let records = recorder.take();
        assert!(records[0].ends_with(r#""qtype":"AAAA","suppressed":7}"#));
        assert!(records[1].ends_with(r#""reason":"malformed","suppressed":8}"#));
        assert!(records[2].contains(r#""suppressed":9"#));
        assert_eq!(records.len(), 3);
    }
}
