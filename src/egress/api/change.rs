//! What becomes of a request for another policy.
//!
//! Knows no connection and no route: a request is an operation and a whole body.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use slog::{error, info};

use super::answer::Status;
use crate::egress::events::{Fault, Observer, RequestObserver, UpdateFailed, Updated};
use crate::egress::policy::{self, Policy, Rule, SentRule};
use crate::egress::writer::{Refused, Writer};
use crate::http::{Response, error as answer_error};
use crate::telemetry::trace_context::TraceContext;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Another policy; deny all, if there is none in the body.
    Replace,
    /// Rules in front of the others.
    Merge,
    /// All rules for some targets.
    Remove,
}

/// Shows and changes the policy.
pub(super) struct Changes {
    writer: Arc<Writer>,
    observer: Arc<Observer>,
    max_rules: Option<usize>,
}

impl Changes {
    pub(super) fn new(
        writer: Arc<Writer>,
        observer: Arc<Observer>,
        max_rules: Option<usize>,
    ) -> Self {
        Self {
            writer,
            observer,
            max_rules,
        }
    }

    /// A change that a request with this trace asks for.
    pub(super) fn on_behalf_of(&self, trace: &TraceContext) -> Change<'_> {
        Change {
            writer: &self.writer,
            observer: self.observer.within(trace),
            max_rules: self.max_rules,
        }
    }

    /// Answers with the user's policy.
    pub(super) fn show(&self) -> Response {
        let policy = self.writer.policy();
        Status::of(&policy, self.writer.enforcer().mode())
            .showing(&policy)
            .response()
    }
}

/// A change in the making, for one request.
pub(super) struct Change<'a> {
    writer: &'a Writer,
    observer: RequestObserver,
    max_rules: Option<usize>,
}

impl Change<'_> {
    /// Answers the change once it is in force, on disk and in the kernel, or refused. Blocks.
    pub(super) fn make(&self, operation: Operation, body: &[u8]) -> Response {
        let body = body.trim_ascii();
        let outcome = match operation {
            Operation::Replace if body.is_empty() => self.reset(),
            Operation::Replace => self.replace(body),
            Operation::Merge => self.merge(body),
            Operation::Remove => self.remove(body),
        };
        outcome.unwrap_or_else(|failure| self.fail(&failure))
    }

    /// Records `failure` and answers it.
    pub(super) fn fail(&self, failure: &Failure) -> Response {
        UpdateFailed {
            error: failure.recorded(),
            fault: failure.fault(),
        }
        .emit(&self.observer);
        answer_error::text(failure.status, &failure.message)
    }

    fn reset(&self) -> Result<Response, Failure> {
        let log = self.observer.logger();
        info!(log, "policy API: reset to default deny-all");
        let mut transaction = self.writer.begin(self.observer.logger());
        let next = Arc::new(Policy::default());
        transaction
            .commit(Arc::clone(&next))
            .map_err(|cause| self.refused("reset", cause))?;
        self.updated(&next, &[] as &[Rule]);
        info!(log, "policy API: proxy and nftables updated to deny_all");
        Ok(Status::of(&next, self.writer.enforcer().mode())
            .because("policy reset to default deny-all")
            .response())
    }

    fn replace(&self, body: &[u8]) -> Result<Response, Failure> {
        let next = Policy::parse(body)
            .map_err(|cause| Failure::client(format!("invalid policy: {cause}")))?;
        let next = Arc::new(next);
        self.check_count(&next)?;
        let mut transaction = self.writer.begin(self.observer.logger());
        let log = self.observer.logger();
        let (mode, enforcement) = (next.mode().as_str(), self.writer.enforcer().mode());
        info!(
            log,
            "policy API: updating policy to mode={mode}, enforcement={enforcement}"
        );
        transaction
            .commit(Arc::clone(&next))
            .map_err(|cause| self.refused("post", cause))?;
        self.updated(&next, next.rules());
        info!(log, "policy API: proxy and nftables updated successfully");
        Ok(self.done(&next, next.rules()))
    }

    fn merge(&self, body: &[u8]) -> Result<Response, Failure> {
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
        let mut transaction = self.writer.begin(self.observer.logger());
        let next = Arc::new(transaction.policy().merged(patch.clone()));
        self.check_count(&next)?;
        let log = self.observer.logger();
        let (mode, enforcement) = (next.mode().as_str(), self.writer.enforcer().mode());
        info!(
            log,
            "policy API: patching policy with {} new rule(s), mode={mode}, enforcement={enforcement}",
            patch.len()
        );
        transaction
            .commit(Arc::clone(&next))
            .map_err(|cause| self.refused("patch", cause))?;
        self.updated(&next, &sent);
        info!(log, "policy API: patch applied successfully");
        Ok(self.done(&next, &patch))
    }

    fn remove(&self, body: &[u8]) -> Result<Response, Failure> {
        if body.is_empty() {
            return Err(Failure::client("empty body").recorded_as("empty delete body"));
        }
        let targets = policy::parse_targets(body)
            .map_err(|cause| Failure::client(format!("invalid delete targets: {cause}")))?;
        if targets.is_empty() {
            return Err(Failure::client("invalid delete targets: empty array")
                .recorded_as("empty delete targets array"));
        }
        let mut transaction = self.writer.begin(self.observer.logger());
        let current = transaction.policy();
        let (next, removed) = current.without(&targets);
        let next = Arc::new(next);
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
            .commit(Arc::clone(&next))
            .map_err(|cause| self.refused("delete", cause))?;
        self.updated(&next, &removed);
        info!(log, "policy API: delete applied successfully");
        Ok(self.done(&next, &[]))
    }

    /// The answer to a change that was made, `asked` being the rules that came with it.
    fn done(&self, next: &Policy, asked: &[Rule]) -> Response {
        let status = Status::of(next, self.writer.enforcer().mode());
        match self.writer.warn_about(asked, self.observer.logger()) {
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

    /// What to say about a change that was not made; `operation` is its name in the log.
    fn refused(&self, operation: &str, refused: Refused) -> Failure {
        let log = self.observer.logger();
        match refused {
            Refused::Review(objection) => Failure::client(objection),
            Refused::Save(cause) => {
                error!(log, "policy API: persist policy failed: {cause}");
                Failure::server(format!("failed to persist policy: {cause}"))
                    .recorded_as(format!("persist policy: {cause}"))
            }
            Refused::Enforce(cause) => {
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

/// Why a change was not made.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: Cow<'static, str>,
    /// What the event says, where it differs.
    recorded: Option<Cow<'static, str>>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            recorded: None,
        }
    }

    fn client(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    fn server(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn recorded_as(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            recorded: Some(text.into()),
            ..self
        }
    }

    fn recorded(&self) -> &str {
        self.recorded.as_deref().unwrap_or(&self.message)
    }

    fn fault(&self) -> Fault {
        if self.status.is_server_error() {
            Fault::Server
        } else {
            Fault::Client
        }
    }
}
