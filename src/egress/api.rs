//! The HTTP API of egress: `/policy` and `/healthz`.
//!
//! Turns requests into changes of the policy and the outcome into answers. Knows no sockets: a
//! request comes with its whole body, its size already bounded, its token already checked where
//! [`needs_token`] says so. Never enforces or stores anything itself; that is the
//! [`Writer`](super::writer::Writer).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use slog::{error, info, warn};

use super::events::{Fault, Observer, UpdateFailed, Updated};
use super::policy::{self, Policy, Rule, SentRule};
use super::writer::{Refused, Writer};

mod answer;
mod health;
mod path;
mod request_id;

pub use health::{Health, HealthGate};
pub use request_id::RequestIds;

use answer::{Failure, Status};

/// Largest request body, in octets. The server answers more with 413 before it gets here.
pub const MAX_BODY: usize = 1024 * 1024;

/// The header a client shows its token in.
pub const TOKEN_HEADER: &str = "opensandbox-egress-auth";

/// What `/policy` answers to.
const POLICY_METHODS: &str = "GET, POST, PUT, PATCH, DELETE";

/// Whether a request for `path` must show the token, if one is set.
#[must_use]
pub fn needs_token(path: &str) -> bool {
    path == "/policy" || path == "/credential-vault" || path.starts_with("/credential-vault/")
}

/// Says in the log what it means to run without a token on `address`.
pub fn warn_without_token(observer: &Observer, address: &dyn fmt::Display) {
    warn!(
        observer.logger(),
        "policy API: no token is set, so whoever reaches {address} may change the policy, the workload included; set OPENSANDBOX_EGRESS_TOKEN"
    );
}

/// A kind of change, as log lines call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Reset,
    Replace,
    Merge,
    Remove,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Replace => "post",
            Self::Merge => "patch",
            Self::Remove => "delete",
        }
    }
}

/// Answers requests.
pub struct Api {
    writer: Arc<Writer>,
    observer: Arc<Observer>,
    health: Arc<HealthGate>,
    /// Most rules of a policy; `None` is no limit.
    max_rules: Option<usize>,
    request_ids: RequestIds,
}

impl Api {
    /// Answers requests about the policy of `writer`, which may have `max_rules` rules, and about
    /// `health`.
    #[must_use]
    pub fn new(
        writer: Arc<Writer>,
        observer: Arc<Observer>,
        health: Arc<HealthGate>,
        max_rules: Option<usize>,
        request_ids: RequestIds,
    ) -> Self {
        if let Some(limit) = max_rules {
            info!(
                observer.logger(),
                "policy API: max egress rules per policy (POST/PATCH) = {limit} (set OPENSANDBOX_EGRESS_MAX_RULES=0 to disable)"
            );
        }
        Self {
            writer,
            observer,
            health,
            max_rules,
            request_ids,
        }
    }

    /// Answers `request`. A change blocks until it is in force, on disk and in the kernel; call
    /// this where blocking is fine.
    #[must_use]
    pub fn handle(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut response = self.route(request);
        self.request_ids.answer(request, &mut response);
        response
    }

    fn route(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        if let Some(clean) = path::cleaned(path) {
            return answer::redirect(&clean, request.uri().query());
        }
        match path {
            "/healthz" => answer::health(&self.health.get()),
            "/policy" => self.policy(request),
            _ => answer::not_found(),
        }
    }

    fn policy(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let body = request.body().trim_ascii();
        let outcome = match *request.method() {
            Method::GET => return self.show(),
            Method::POST | Method::PUT if body.is_empty() => self.reset(),
            Method::POST | Method::PUT => self.replace(body),
            Method::PATCH => self.merge(body),
            Method::DELETE => self.remove(body),
            _ => return answer::method_not_allowed(POLICY_METHODS),
        };
        outcome.unwrap_or_else(|failure| {
            UpdateFailed {
                error: failure.recorded(),
                fault: failure.fault(),
            }
            .emit(&self.observer);
            failure.response()
        })
    }

    fn show(&self) -> Response<Bytes> {
        let policy = self.writer.policy();
        Status::of(&policy, self.writer.enforcer().mode())
            .showing(&policy)
            .response()
    }

    fn reset(&self) -> Result<Response<Bytes>, Failure> {
        let log = self.observer.logger();
        info!(log, "policy API: reset to default deny-all");
        let mut transaction = self.writer.begin();
        let next = Policy::default();
        transaction
            .commit(next.clone())
            .map_err(|cause| self.refused(Operation::Reset, cause))?;
        self.updated(&next, &[] as &[Rule]);
        info!(log, "policy API: proxy and nftables updated to deny_all");
        Ok(Status::of(&next, self.writer.enforcer().mode())
            .because("policy reset to default deny-all")
            .response())
    }

    fn replace(&self, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        let next = Policy::parse(body)
            .map_err(|cause| Failure::client(format!("invalid policy: {cause}")))?;
        self.check_count(&next)?;
        let mut transaction = self.writer.begin();
        let log = self.observer.logger();
        let (mode, enforcement) = (next.mode().as_str(), self.writer.enforcer().mode());
        info!(
            log,
            "policy API: updating policy to mode={mode}, enforcement={enforcement}"
        );
        transaction
            .commit(next.clone())
            .map_err(|cause| self.refused(Operation::Replace, cause))?;
        self.updated(&next, next.rules());
        info!(log, "policy API: proxy and nftables updated successfully");
        Ok(self.done(&next, next.rules()))
    }

    fn merge(&self, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        if body.is_empty() {
            return Err(Failure::client("empty body").recorded_as("empty patch body"));
        }
        let sent = policy::parse_rules(body)
            .map_err(|cause| Failure::client(format!("invalid patch rules: {cause}")))?;
        if sent.is_empty() {
            return Err(Failure::client("invalid patch rules: empty array")
                .recorded_as("empty patch rules array"));
        }
        let patch: Vec<Rule> = sent
            .iter()
            .map(SentRule::check)
            .collect::<Result<_, _>>()
            .map_err(|cause| Failure::client(format!("invalid merged policy: {cause}")))?;
        let mut transaction = self.writer.begin();
        let next = transaction.policy().merged(patch.clone());
        self.check_count(&next)?;
        let log = self.observer.logger();
        let (mode, enforcement) = (next.mode().as_str(), self.writer.enforcer().mode());
        info!(
            log,
            "policy API: patching policy with {} new rule(s), mode={mode}, enforcement={enforcement}",
            patch.len()
        );
        transaction
            .commit(next.clone())
            .map_err(|cause| self.refused(Operation::Merge, cause))?;
        self.updated(&next, &sent);
        info!(log, "policy API: patch applied successfully");
        Ok(self.done(&next, &patch))
    }

    fn remove(&self, body: &[u8]) -> Result<Response<Bytes>, Failure> {
        if body.is_empty() {
            return Err(Failure::client("empty body").recorded_as("empty delete body"));
        }
        let targets = policy::parse_targets(body)
            .map_err(|cause| Failure::client(format!("invalid delete targets: {cause}")))?;
        if targets.is_empty() {
            return Err(Failure::client("invalid delete targets: empty array")
                .recorded_as("empty delete targets array"));
        }
        let mut transaction = self.writer.begin();
        let current = transaction.policy();
        let (next, removed) = current.without(&targets);
        let enforcement = self.writer.enforcer().mode();
        if removed.is_empty() {
            return Ok(Status::of(&current, enforcement)
                .because("no matching targets found")
                .response());
        }
        let log = self.observer.logger();
        info!(
            log,
            "policy API: deleting {} egress rule(s) by target, removed={}, mode={}, enforcement={enforcement}",
            targets.len(),
            removed.len(),
            next.mode().as_str()
        );
        transaction
            .commit(next.clone())
            .map_err(|cause| self.refused(Operation::Remove, cause))?;
        self.updated(&next, &removed);
        info!(log, "policy API: delete applied successfully");
        Ok(self.done(&next, &[]))
    }

    /// The answer to a change that was made, `asked` being the rules that came with it.
    fn done(&self, next: &Policy, asked: &[Rule]) -> Response<Bytes> {
        let status = Status::of(next, self.writer.enforcer().mode());
        match self.writer.warn_about(asked) {
            Some(suspects) => status.because(&suspects).response(),
            None => status.response(),
        }
    }

    fn updated<R>(&self, next: &Policy, rules: &[R])
    where
        R: serde::Serialize + Clone + Send + 'static,
    {
        Updated {
            default_action: next.default_action(),
            rules,
        }
        .emit(&self.observer);
    }

    fn check_count(&self, next: &Policy) -> Result<(), Failure> {
        let count = next.rules().len();
        match self.max_rules {
            Some(limit) if count > limit => Err(Failure::too_large(format!(
                "egress rule total count {count} exceeds limit {limit}"
            ))),
            _ => Ok(()),
        }
    }

    fn refused(&self, operation: Operation, refused: Refused) -> Failure {
        let log = self.observer.logger();
        match refused {
            Refused::Review(objection) => Failure::client(objection),
            Refused::Save(cause) => {
                error!(log, "policy API: persist policy failed: {cause}");
                Failure::server(format!("failed to persist policy: {cause}"))
                    .recorded_as(format!("persist policy: {cause}"))
            }
            Refused::Enforce(cause) => {
                let operation = operation.as_str();
                error!(
                    log,
                    "policy API: nftables apply failed ({operation}): {cause}"
                );
                Failure::server(format!("failed to apply nftables policy: {cause}"))
                    .recorded_as(format!("nftables apply ({operation}): {cause}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
