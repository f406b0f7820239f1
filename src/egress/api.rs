//! The HTTP API of egress: `/policy` and `/healthz`.
//!
//! Owns the routes, who may use them, and how a request is read before anything waits for it.
//! What becomes of a change is [`change`]'s. Never enforces or stores anything itself; that is the
//! [`Writer`](super::writer::Writer).

use std::sync::Arc;

use http::{HeaderName, Method, StatusCode};
use slog::{info, warn};
use smol::lock::Semaphore;

use super::events::Observer;
use super::writer::Writer;
use crate::footprint;
use crate::http::auth::Token;
use crate::http::router::{Miss, Router};
use crate::http::server::Handler;
use crate::http::{Request, Response, body, error};
use crate::runtime::Spawner;
use crate::telemetry::trace_context::TraceContext;

mod answer;
mod change;
mod health;
mod request_id;

pub use health::{Health, HealthGate};
pub use request_id::RequestIds;

use change::{Changes, Failure, Operation};

/// Largest request body, in octets.
pub const MAX_BODY: usize = 1024 * 1024;

/// Changes whose bodies are read, or which wait to be made, at the same time; a further one is
/// answered 503. Each may hold [`MAX_BODY`] octets, and the workload shares the memory.
pub const MAX_CHANGES: usize = 32;

/// A body longer than this, in octets, is worth giving its memory back at once.
const LARGE_BODY: usize = 32 * 1024;

/// Connections open at the same time; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 512;

/// Octets of request line and header fields.
pub const MAX_HEAD: usize = 16 * 1024;

/// The header a client shows its token in.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("opensandbox-egress-auth");

/// Where changes are made.
const POLICY: &str = "/policy";

/// How the API is set up.
#[derive(Debug)]
pub struct Settings {
    /// What a client must show for `/policy`, in [`TOKEN_HEADER`].
    pub token: Token,
    /// Most rules of a policy; `None` is no limit.
    pub max_rules: Option<usize>,
    /// Names requests.
    pub request_ids: RequestIds,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Show,
    Change(Operation),
}

/// Answers requests.
pub struct Api {
    router: Router<Endpoint>,
    changes: Arc<Changes>,
    health: Arc<HealthGate>,
    token: Token,
    request_ids: RequestIds,
    spawner: Spawner,
    under_way: Arc<Semaphore>,
    /// Who holds it makes a change. Changes wait for each other in any case; waiting here takes no
    /// thread, so that one thread makes them all, and its heap is the only one that grows.
    turn: Arc<Semaphore>,
}

impl Api {
    /// Answers requests about the policy of `writer` and about `health`. Changes are made on
    /// threads of `spawner` that may block.
    #[must_use]
    pub fn new(
        settings: Settings,
        writer: Arc<Writer>,
        observer: Arc<Observer>,
        health: Arc<HealthGate>,
        spawner: Spawner,
    ) -> Self {
        if let Some(limit) = settings.max_rules {
            info!(
                observer.logger(),
                "policy API: max egress rules per policy (POST/PATCH) = {limit} (set OPENSANDBOX_EGRESS_MAX_RULES=0 to disable)"
            );
        }
        if !settings.token.is_required() {
            warn!(
                observer.logger(),
                "policy API: no token is set, so whoever reaches it may change the policy, the workload included; set OPENSANDBOX_EGRESS_TOKEN"
            );
        }
        let router = Router::new()
            .redirect_unclean()
            .any("/healthz", Endpoint::Health)
            .route(Method::GET, POLICY, Endpoint::Show)
            .route(Method::POST, POLICY, Endpoint::Change(Operation::Replace))
            .route(Method::PUT, POLICY, Endpoint::Change(Operation::Replace))
            .route(Method::PATCH, POLICY, Endpoint::Change(Operation::Merge))
            .route(Method::DELETE, POLICY, Endpoint::Change(Operation::Remove));
        Self {
            router,
            changes: Arc::new(Changes::new(writer, observer, settings.max_rules)),
            health,
            token: settings.token,
            request_ids: settings.request_ids,
            spawner,
            under_way: Arc::new(Semaphore::new(MAX_CHANGES)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    async fn answer(&self, request: Request) -> Response {
        let endpoint = match self.router.find(&request) {
            Ok(found) => *found.endpoint,
            Err(Miss::MethodNotAllowed { .. }) if !self.token.allows(request.headers()) => {
                return unauthorized();
            }
            Err(miss) => return miss.response(request.method()),
        };
        if endpoint == Endpoint::Health {
            return answer::health(&self.health.get());
        }
        if !self.token.allows(request.headers()) {
            return unauthorized();
        }
        match endpoint {
            Endpoint::Change(operation) => self.change(operation, request).await,
            _ => self.changes.show(),
        }
    }

    async fn change(&self, operation: Operation, request: Request) -> Response {
        let trace = TraceContext::from_headers(request.headers());
        let Some(permit) = self.under_way.try_acquire_arc() else {
            let message = "too many changes are under way; try again";
            let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, message);
            return self.changes.on_behalf_of(&trace).fail(&failure);
        };
        // Read first, wait for other changes then: a slow client holds up nobody but itself.
        match request.into_body().collect(MAX_BODY).await {
            Ok(body) => {
                let changes = Arc::clone(&self.changes);
                let turn = self.turn.acquire_arc().await;
                let large = body.len() > LARGE_BODY;
                // The change goes on when the client has left, and so do its claims.
                let make = move || {
                    let response = changes.on_behalf_of(&trace).make(operation, &body);
                    drop(body);
                    if large {
                        footprint::give_back();
                    }
                    drop((turn, permit));
                    response
                };
                let response = self.spawner.unblock(make).await;
                if large {
                    // The body was read into the heap of the threads that serve.
                    footprint::give_back_heap();
                }
                response
            }
            Err(cause) => {
                let message = match &cause {
                    // Nothing failed: it was not even read.
                    body::Error::TooLarge { .. } => cause.to_string(),
                    _ => format!("failed to read body: {cause}"),
                };
                let status = error::status_of(&cause);
                let change = self.changes.on_behalf_of(&trace);
                change.fail(&Failure::new(status, message))
            }
        }
    }
}

impl Handler for Api {
    async fn handle(&self, request: Request) -> Response {
        let id = self.request_ids.of(request.headers());
        let mut response = self.answer(request).await;
        if let Some(id) = id {
            response.headers_mut().insert(request_id::HEADER, id);
        }
        response
    }
}

fn unauthorized() -> Response {
    error::text(StatusCode::UNAUTHORIZED, "unauthorized")
}

#[cfg(test)]
mod tests;
