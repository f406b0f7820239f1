//! The HTTP API of execd (contract `execd-core`, sections 2 and 3).
//!
//! Owns the routes, who may use them, and how a path is read. Each family of routes is a file of
//! its own below, with a function `routes` that [`routes`] calls; its handlers get the whole
//! request, upgrades included. Never runs anything itself: that is the engine's.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use slog::{Logger, warn};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use super::Engine;
use super::command::Commands;
use super::config::Scope;
use super::environment;
use super::paths;
use super::pty::Terminals;
use super::readings::Readings;
use super::session::Sessions;
use super::spawn::read_bounded;
use crate::config::percent_decoded_octets;
use crate::http::auth::Token;
use crate::http::router::{Miss, Router};
use crate::http::server::{Exchange, Handler};
use crate::http::{Request, Response, error};
use crate::lifecycle::Shutdown;
use crate::telemetry::trace_context::TraceContext;

mod account;
mod answer;
mod command;
pub mod input;
pub mod metrics;
pub mod proxy;
pub mod pty;
mod session;
pub mod stream;

pub use account::Account;

use answer::Failure;

/// The header a client shows its token in.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-execd-access-token");

/// The most connections that have become something else than HTTP (terminals, tunnels).
pub const MAX_UPGRADED: usize = 1024;

/// What begins the path of a request that is for another server.
const PROXY: &str = "/proxy/";

/// Every route there is. A family of routes is plugged in here.
fn routes() -> Router<Endpoint> {
    let router: Router<Endpoint> =
        Router::new()
            .redirect_final_slash()
            .route(Method::GET, "/ping", |_, _| Box::pin(ping()));
    let router = command::routes(router);
    let router = session::routes(router);
    let router = pty::routes(router);
    let router = proxy::routes(router);
    metrics::routes(router)
}

/// Answers a request that was found to be for it.
type Endpoint = fn(Api, Call) -> Answering;

/// An answer on its way.
type Answering = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

/// A request as a handler gets it.
pub(super) struct Call {
    /// As it came; `hyper::upgrade::on` works on it.
    pub request: Request,
    /// What the caller says of its trace.
    pub trace: TraceContext,
    /// Whose records name that trace.
    pub logger: Logger,
    parameters: Vec<(&'static str, String)>,
}

impl Call {
    /// The value of `:name` in the path, percent-decoded.
    pub(super) fn parameter(&self, name: &str) -> &str {
        let mut parameters = self.parameters.iter();
        parameters
            .find_map(|(known, value)| (*known == name).then_some(value.as_str()))
            .unwrap_or_default()
    }

    /// The first value of `name` in the query, decoded.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        let query = self.request.uri().query()?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| decode(&text.replace('+', " "));
            (decode(key)? == name).then(|| decode(value))?
        })
    }
}

/// How the API is set up.
#[derive(Debug)]
pub struct Settings {
    /// What every request must show, in [`TOKEN_HEADER`].
    pub token: Token,
    /// The `EXECD_ENVS` file, not expanded.
    pub envs_file: Option<String>,
    /// What `GET /metrics` tells of.
    pub metrics_scope: Scope,
    /// The port it is served on: requests to it through `/proxy` need not leave the process.
    pub port: u16,
}

/// Answers requests. Clones share their state.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    router: Router<Endpoint>,
    settings: Settings,
    engine: Engine,
    commands: Commands,
    sessions: Sessions,
    terminals: Terminals,
    shutdown: Shutdown,
    readings: Readings,
    readers: Semaphore,
    servers: proxy::Servers,
    upgraded: Arc<Semaphore>,
}

impl Api {
    /// An API to run things with `engine`, whose endless answers end with `shutdown`.
    #[must_use]
    pub fn new(settings: Settings, engine: Engine, shutdown: Shutdown) -> Self {
        Self {
            shared: Arc::new(Shared {
                router: routes(),
                readings: Readings::new(settings.metrics_scope),
                settings,
                commands: Commands::new(engine.clone()),
                sessions: Sessions::new(engine.clone()),
                terminals: Terminals::new(engine.clone()),
                servers: proxy::Servers::new(&engine.spawner),
                engine,
                shutdown,
                readers: Semaphore::new(input::MAX_READERS),
                upgraded: Arc::new(Semaphore::new(MAX_UPGRADED)),
            }),
        }
    }

    /// What runs.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The commands.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.shared.commands
    }

    /// The persistent shells.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// The terminals.
    #[must_use]
    pub fn terminals(&self) -> &Terminals {
        &self.shared.terminals
    }

    /// The other servers of the sandbox.
    fn servers(&self) -> &proxy::Servers {
        &self.shared.servers
    }

    /// How it is set up.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Asks answers without an end to come to one.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shared.shutdown
    }

    /// A place for a connection that has become something else than HTTP, to be held for as long
    /// as it is open: the end of the process waits for it. None when there are too many.
    pub fn upgraded(&self) -> Option<SemaphoreGuardArc> {
        self.shared.upgraded.try_acquire_arc()
    }

    /// Waits until no upgraded connection is open.
    pub async fn upgraded_ended(&self) {
        let mut places = Vec::with_capacity(MAX_UPGRADED);
        for _ in 0..MAX_UPGRADED {
            places.push(self.shared.upgraded.acquire().await);
        }
    }

    /// Answers one request, whether it came from a connection or from within, as one to the own
    /// port through `/proxy` does. The template it matched is noted in its [`Exchange`].
    pub async fn dispatch(&self, request: Request) -> Response {
        let Some(path) = decode(request.uri().path()) else {
            let mut response = error::text(StatusCode::BAD_REQUEST, "400 Bad Request");
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            return response;
        };
        if !self.shared.settings.token.allows(request.headers()) {
            return answer::unauthorized();
        }
        let (method, query) = (request.method(), request.uri().query());
        match self.shared.router.find_path(method, &path, query) {
            Ok(found) => {
                let exchange = request.extensions().get::<Exchange>();
                // What is passed on is counted as what it turns out to be.
                if let (Some(exchange), false) = (exchange, found.template.starts_with(PROXY)) {
                    exchange.set_route(found.template);
                }
                let parameters = found.parameters.iter();
                let parameters = parameters.map(|(name, value)| (name, value.to_owned()));
                let trace = TraceContext::from_headers(request.headers());
                let call = Call {
                    parameters: parameters.collect(),
                    logger: trace.logger(self.shared.engine.observer.logger()),
                    trace,
                    request,
                };
                let answer = (found.endpoint)(self.clone(), call).await;
                answer.unwrap_or_else(|failure| failure.response())
            }
            Err(Miss::Moved { status, location }) => {
                let location = prefixed(request.headers(), &location);
                Miss::Moved { status, location }.response(method)
            }
            Err(Miss::NotFound | Miss::MethodNotAllowed { .. }) => answer::not_found(),
        }
    }

    /// The variables of the `EXECD_ENVS` file. Blocks.
    fn envs_file(&self, logger: &Logger) -> environment::File {
        let engine = &self.shared.engine;
        let Some(given) = &self.shared.settings.envs_file else {
            return environment::File::default();
        };
        let path = match paths::expand(given, &engine.environment, engine.home()) {
            Ok(path) => path,
            Err(cause) => {
                warn!(logger, "EXECD_ENVS: failed to resolve file path: {cause}");
                return environment::File::default();
            }
        };
        match read_bounded(Path::new(&path), environment::MAX_FILE) {
            Ok(content) => {
                let file = environment::parse_file(&content, &engine.environment);
                for line in &file.malformed {
                    warn!(logger, "EXECD_ENVS: skip malformed line {line}");
                }
                file
            }
            Err(cause) => {
                warn!(logger, "EXECD_ENVS: failed to read file: {cause}");
                environment::File::default()
            }
        }
    }
}

impl Handler for Api {
    async fn handle(&self, request: Request) -> Response {
        self.dispatch(request).await
    }
}

async fn ping() -> Result<Response, Failure> {
    Ok(answer::done())
}

/// A location below the path that a proxy in front says it has removed.
fn prefixed(headers: &HeaderMap, location: &str) -> String {
    let prefix = headers.get("x-forwarded-prefix");
    let prefix = prefix.and_then(|value| value.to_str().ok());
    let mut path = String::new();
    for character in prefix.unwrap_or_default().chars() {
        match character {
            '/' if path.ends_with('/') => {}
            '/' | '-' | 'a'..='z' | 'A'..='Z' | '0'..='9' => path.push(character),
            _ => {}
        }
    }
    let path = path.trim_end_matches('/');
    format!("{path}{location}")
}

/// Percent-decodes a text; bytes that are no UTF-8 then are replaced.
fn decode(text: &str) -> Option<String> {
    let bytes = percent_decoded_octets(text)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_or_refused() {
        for (text, decoded) in [
            ("/ping", Some("/ping")),
            ("/p%69ng", Some("/ping")),
            ("/a%2Fb%2f", Some("/a/b/")),
            ("/%C3%A9", Some("/é")),
            ("/%ff", Some("/\u{fffd}")),
            ("/%zz", None),
            ("/%+1", None),
            ("/%4", None),
        ] {
            assert_eq!(decode(text).as_deref(), decoded, "{text}");
        }
    }

    #[test]
    fn a_redirect_stays_below_the_prefix_of_a_proxy() {
        for (prefix, location) in [
            ("", "/ping"),
            ("/", "/ping"),
            ("/base//x/", "/base/x/ping"),
            ("//evil.example", "/evilexample/ping"),
            ("/a<b>\"", "/ab/ping"),
        ] {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(prefix).unwrap();
            headers.insert("x-forwarded-prefix", value);
            assert_eq!(prefixed(&headers, "/ping"), location, "{prefix}");
        }
        assert_eq!(prefixed(&HeaderMap::new(), "/ping"), "/ping");
    }
}
