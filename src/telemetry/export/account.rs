//! The account of what was exported and what was lost, by reason
//! (`otel.sdk.exporter.*.exported`), and what is said about failures in the log.
//!
//! Written by the exporter threads, read at each collection and at the end of the process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slog::{info, o, warn};

/// The most reasons kept apart; the receiver chooses the status codes.
const MAX_REASONS: usize = 32;

/// The reason of what comes beyond [`MAX_REASONS`], and of a failure that tells none.
const OTHER: &str = "_OTHER";

/// The shortest time between two warnings of one exporter.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Why items were not taken by the receiver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No complete answer within the time limit.
    #[error("no answer within the time limit")]
    Timeout,
    /// The connection could not be made, or broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// TLS could not be agreed on.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// An HTTP status other than 2xx.
    #[error("the receiver answered with status {0}")]
    Status(u16),
    /// A gRPC status other than OK, with its message.
    #[error("the receiver answered with gRPC status {0}: {1}")]
    Grpc(u16, String),
    /// An answer that is not OTLP.
    #[error("the receiver's answer is not OTLP: {0}")]
    Protocol(String),
    /// Standard output could not be written.
    #[error("cannot write: {0}")]
    Output(String),
    /// The process ended first.
    #[error("the process ended before the next attempt, after: {0}")]
    Shutdown(Box<Failure>),
}

impl Failure {
    /// The value of `error.type`.
    #[must_use]
    pub fn error_type(&self) -> Cow<'static, str> {
        match self {
            Self::Timeout => "timeout".into(),
            Self::Connection(_) => "connection".into(),
            Self::Tls(_) => "tls".into(),
            Self::Status(status) => status.to_string().into(),
            Self::Grpc(code, _) => grpc_name(*code).into(),
            Self::Protocol(_) => "protocol".into(),
            Self::Output(_) => "output".into(),
            Self::Shutdown(_) => "shutdown".into(),
        }
    }
}

/// The name of a gRPC status code (gRPC core, "Status codes and their use").
fn grpc_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}

/// What the receiver said to an export it accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Items it refused all the same.
    pub rejected: u64,
    /// Why, or what it wants the sender to know.
    pub message: String,
}

/// The account of one exporter.
#[derive(Debug)]
pub struct Account {
    logger: slog::Logger,
    offered: AtomicU64,
    exported: AtomicU64,
    lost: Mutex<BTreeMap<Cow<'static, str>, u64>>,
    streak: Mutex<Streak>,
}

/// Failures one after another.
#[derive(Debug, Default)]
struct Streak {
    /// Not yet told.
    lost: u64,
    last_warning: Option<Instant>,
    /// The last line said that exports fail.
    told: bool,
}

impl Account {
    /// An empty account of `items`. `logger` must not lead back to an exporter.
    #[must_use]
    pub fn new(items: &'static str, logger: &slog::Logger) -> Self {
        Self {
            logger: logger.new(o!("exported" => items)),
            offered: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            lost: Mutex::default(),
            streak: Mutex::default(),
        }
    }

    /// Enters items that are to be exported, before anything can happen to them.
    pub fn offer(&self, items: u64) {
        self.offered.fetch_add(items, Ordering::Relaxed);
    }

    /// Enters the end of one export of `items`; `None`: it failed before anything was sent.
    pub fn settle(&self, items: u64, outcome: Option<Result<Accepted, Failure>>) {
        match outcome {
            Some(Ok(accepted)) => {
                let rejected = accepted.rejected.min(items);
                self.exported.fetch_add(items - rejected, Ordering::Relaxed);
                self.lose("rejected", rejected);
                if rejected > 0 || !accepted.message.is_empty() {
                    self.say(rejected, Instant::now(), &|lost| {
                        warn!(self.logger, "an export was taken with remarks";
                            "lost" => lost, "message" => &accepted.message);
                    });
                } else {
                    self.recovered();
                }
            }
            Some(Err(failure)) => {
                self.lose(failure.error_type(), items);
                self.say(items, Instant::now(), &|lost| {
                    warn!(self.logger, "an export failed"; "lost" => lost, "error" => %failure);
                });
            }
            None => {
                self.lose(OTHER, items);
                self.say(items, Instant::now(), &|lost| {
                    warn!(self.logger, "an export could not be encoded"; "lost" => lost);
                });
            }
        }
    }

    /// Enters items that were lost before an export, for example because a queue was full.
    pub fn lose(&self, reason: impl Into<Cow<'static, str>>, items: u64) {
        if items == 0 {
            return;
        }
        let reason = reason.into();
        let mut lost = lock(&self.lost);
        let reason = if lost.len() >= MAX_REASONS && !lost.contains_key(&reason) {
            Cow::Borrowed(OTHER)
        } else {
            reason
        };
        *lost.entry(reason).or_default() += items;
    }

    /// Items the receiver took.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Items lost, by `error.type`.
    #[must_use]
    pub fn lost(&self) -> Vec<(Cow<'static, str>, u64)> {
        let lost = lock(&self.lost);
        lost.iter()
            .map(|(reason, n)| (reason.clone(), *n))
            .collect()
    }

    /// Items the receiver has not taken: lost, waiting or under way. At the end of the process all
    /// of them are lost.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        // In this order, so that an export that ends in between does not count twice.
        let offered = self.offered.load(Ordering::Relaxed);
        offered.saturating_sub(self.exported())
    }

    /// Lets `line` write a warning with what was lost since the last one, unless that was recent.
    fn say(&self, lost: u64, now: Instant, line: &dyn Fn(u64)) {
        let mut streak = lock(&self.streak);
        streak.lost += lost;
        let recent = |last: Instant| now.saturating_duration_since(last) < WARN_EVERY;
        if !streak.last_warning.is_some_and(recent) {
            streak.last_warning = Some(now);
            streak.told = true;
            line(std::mem::take(&mut streak.lost));
        }
    }

    fn recovered(&self) {
        let mut streak = lock(&self.streak);
        if std::mem::take(&mut streak.told) {
            info!(self.logger, "exports work again"; "lost" => std::mem::take(&mut streak.lost));
        }
    }
}

/// A poisoned account is still the account.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new("log records", &slog::Logger::root(slog::Discard, o!()))
    }

    fn settled(outcomes: impl IntoIterator<Item = Option<Result<Accepted, Failure>>>) -> Account {
        let account = account();
        for outcome in outcomes {
            account.offer(10);
            account.settle(10, outcome);
        }
        account
    }

    #[test]
    fn every_item_is_exported_or_lost_for_a_reason() {
        let partial = |rejected| {
            Some(Ok(Accepted {
                rejected,
                message: String::new(),
            }))
        };
        let account = settled([
            partial(0),
            partial(3),
            partial(99),
            Some(Err(Failure::Status(503))),
            Some(Err(Failure::Timeout)),
            Some(Err(Failure::Timeout)),
            None,
        ]);
        account.offer(2);
        account.lose("queue_full", 2);
        account.offer(1);
        assert_eq!(account.exported(), 17);
        let lost = [
            ("503", 10),
            ("_OTHER", 10),
            ("queue_full", 2),
            ("rejected", 13),
            ("timeout", 20),
        ];
        assert_eq!(account.lost(), lost.map(|(reason, n)| (reason.into(), n)));
        assert_eq!(account.outstanding(), 55 + 1);
    }

    #[test]
    fn a_receiver_cannot_invent_reasons_without_end() {
        let statuses = (100..600).map(|status| Some(Err(Failure::Status(status))));
        let account = settled(statuses);
        let lost = account.lost();
        assert_eq!(lost.len(), MAX_REASONS + 1);
        assert_eq!(lost.iter().map(|(_, n)| n).sum::<u64>(), 5000);
    }

    #[test]
    fn warnings_are_rare_and_add_up() {
        let account = account();
        let said = std::cell::RefCell::new(Vec::new());
        let start = Instant::now();
        for second in 0..130 {
            let now = start + Duration::from_secs(second);
            account.say(1, now, &|lost| said.borrow_mut().push(lost));
        }
        assert_eq!(*said.borrow(), [1, 60, 60]);
    }

    #[test]
    fn reasons_have_stable_names() {
        let text = String::new;
        for (failure, name) in [
            (Failure::Timeout, "timeout"),
            (Failure::Connection(text()), "connection"),
            (Failure::Tls(text()), "tls"),
            (Failure::Status(418), "418"),
            (Failure::Grpc(14, text()), "UNAVAILABLE"),
            (Failure::Grpc(99, text()), "UNKNOWN"),
            (Failure::Shutdown(Box::new(Failure::Timeout)), "shutdown"),
        ] {
            assert_eq!(failure.error_type(), name);
        }
    }
}
