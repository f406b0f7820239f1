//! `/session`: persistent shells (contract 8).

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Serialize;

use super::answer::{self, Failure};
use super::input::{self, Fields, Mistake};
use super::stream::Events;
use super::{Api, Call, Endpoint, command};
use crate::execd::environment::{self, Environment};
use crate::execd::paths::{Directory, DirectoryError};
use crate::execd::session::{Run, RunError};
use crate::http::Response;
use crate::http::router::Router;
use crate::telemetry::trace_context::TraceContext;

pub(super) fn routes(router: Router<Endpoint>) -> Router<Endpoint> {
    router
        .route(Method::POST, "/session", |api, call| {
            Box::pin(create(api, call))
        })
        .route(Method::POST, "/session/:sessionId/run", |api, call| {
            Box::pin(run(api, call))
        })
        .route(Method::DELETE, "/session/:sessionId", |api, call| {
            Box::pin(delete(api, call))
        })
}

#[derive(Serialize)]
pub(super) struct Created<'a> {
    pub session_id: &'a str,
}

/// The directory of a shell to come, which is made if need be. Blocks.
pub(super) fn own_directory(
    given: &str,
    api: &Api,
    environment: &Environment,
) -> Result<Option<std::path::PathBuf>, String> {
    let directory = Directory::resolve(given, environment, api.engine().home());
    let directory = directory.and_then(|directory| {
        directory.as_ref().map_or(Ok(()), Directory::create)?;
        Ok(directory)
    });
    match directory {
        Ok(directory) => Ok(directory.map(|directory| directory.path().to_owned())),
        Err(DirectoryError::Expand { given, cause }) => {
            Err(format!("resolve request cwd {given}: {cause}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn create(api: Api, call: Call) -> Result<Response, Failure> {
    let parsing = |mistake: Mistake| Failure::invalid(format!("error parsing request. {mistake}"));
    let creating = |cause: String| Failure::failed(format!("error creating session. {cause}"));
    let body = input::read(&api, call.request.into_body()).await?;
    let fields = Fields::parse_optional(&body, "CreateSessionRequest").map_err(parsing)?;
    let given = fields.text("cwd").map_err(parsing)?;
    let given = given.unwrap_or_default().to_owned();
    let logger = call.logger;
    let prepare = {
        let api = api.clone();
        move || {
            let environment = api.engine().layered(None, api.envs_file(&logger));
            let directory = own_directory(&given, &api, &environment)?;
            Ok((directory, environment))
        }
    };
    let prepared = api.engine().spawner.unblock(prepare).await;
    let (directory, environment) = prepared.map_err(creating)?;
    match api.sessions().create(directory, environment) {
        Ok(id) => Ok(answer::document(
            StatusCode::OK,
            &Created { session_id: &id },
        )),
        Err(full) => Err(Failure::busy(format!("error creating session. {full}"))),
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    command: String,
    directory: String,
    timeout: Option<Duration>,
}

impl Wanted {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        const NAME: &str = "RunInSessionRequest";
        let parsing =
            |mistake: Mistake| Failure::invalid(format!("error parsing request. {mistake}"));
        let fields = Fields::parse(body, NAME).map_err(parsing)?;
        let command = fields.text("command").map_err(parsing)?.unwrap_or_default();
        let timeout = fields.signed("timeout").map_err(parsing)?.unwrap_or(0);
        let directory = fields.text("cwd").map_err(parsing)?.unwrap_or_default();
        let timeout = command::validate("invalid request.", NAME, command, ("Timeout", timeout))?;
        Ok(Self {
            command: command.to_owned(),
            directory: directory.to_owned(),
            timeout,
        })
    }
}

async fn run(api: Api, call: Call) -> Result<Response, Failure> {
    let id = call.parameter("sessionId").to_owned();
    if id.is_empty() {
        return Err(Failure::missing("missing path parameter 'sessionId'"));
    }
    let Call {
        request,
        trace,
        logger,
        ..
    } = call;
    let body = input::read(&api, request.into_body()).await?;
    let Wanted {
        command,
        directory,
        timeout,
    } = Wanted::parse(&body)?;
    let directory = match directory.as_str() {
        "" => None,
        _ => {
            let check = {
                let api = api.clone();
                move || existing(&directory, &api)
            };
            let checked = api.engine().spawner.unblock(check).await;
            checked.map_err(|error| Failure::invalid(format!("invalid request. {error}")))?
        }
    };
    let run = Run {
        command,
        directory,
        variables: trace_variables(&trace, &api.engine().environment),
        timeout,
        logger,
    };
    let submitted = api.sessions().submit(&id, run).map_err(|error| {
        let message = format!("error running in session. {error}");
        match error {
            RunError::Unknown => Failure::unknown(message),
            RunError::Busy => Failure::busy(message),
            RunError::Nul => Failure::invalid(message),
            RunError::Start(_) => Failure::failed(message),
        }
    })?;
    let beginning = async move {
        let begun = submitted.begun().await;
        begun.map_err(|error| error.to_string())
    };
    Ok(Events::of_run(&id, Box::pin(beginning)).response())
}

/// A directory that must be there. One that is relative is below the daemon's own. Blocks.
fn existing(given: &str, api: &Api) -> Result<Option<std::path::PathBuf>, DirectoryError> {
    let engine = api.engine();
    let directory = Directory::resolve(given, &engine.environment, engine.home())?;
    let Some(directory) = directory else {
        return Ok(None);
    };
    directory.check()?;
    let path = directory.path();
    Ok(Some(
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    ))
}

/// The caller's trace as variables to export. Those of the caller before must not stay, so where
/// this one has none, the daemon's own come back.
fn trace_variables(trace: &TraceContext, own: &Environment) -> Vec<(String, Option<String>)> {
    let mut environment = Environment::default();
    for name in environment::TRACE {
        if let Some(value) = own.get(name) {
            environment.set(*name, value);
        }
    }
    environment.set_trace(trace);
    environment::TRACE
        .iter()
        .map(|name| {
            let value = environment.get(name);
            let value = value.map(|value| value.to_string_lossy().into_owned());
            ((*name).to_owned(), value)
        })
        .collect()
}

async fn delete(api: Api, call: Call) -> Result<Response, Failure> {
    let id = call.parameter("sessionId");
    match api.sessions().delete(id).await {
        Ok(()) => Ok(answer::done()),
        Err(unknown) => Err(Failure::unknown(unknown.to_string())),
    }
}
