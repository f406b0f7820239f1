//! `/command`: one shell for each (contract 7).

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use smol::stream;

use super::answer::{self, Code, Failure};
use super::input::{self, Fields, Mistake};
use super::stream::{Events, never_began};
use super::{Api, Call, Endpoint};
use crate::execd::command::{InterruptError, Request, StartCause, Status};
use crate::execd::frames::End;
use crate::execd::paths::{Directory, DirectoryError};
use crate::execd::spawn::{Accounts, Credentials, SpawnError};
use crate::http::router::Router;
use crate::http::{Body, BoxError, Response};
use crate::telemetry::log::timestamp::rfc3339_nanoseconds;
use crate::telemetry::trace_context::TraceContext;

/// The most bytes of a log that are read at once for its response.
const LOG_PIECE: usize = 64 * 1024;

/// The header with the cursor to ask for next.
const TAIL_CURSOR: HeaderName = HeaderName::from_static("execd-commands-tail-cursor");

/// The header that tells where a log begins which no longer has what was asked for.
const LOG_START: HeaderName = HeaderName::from_static("execd-commands-log-start");

pub(super) fn routes(router: Router<Endpoint>) -> Router<Endpoint> {
    router
        .route(Method::POST, "/command", |api, call| {
            Box::pin(run(api, call))
        })
        .route(Method::DELETE, "/command", |api, call| {
            Box::pin(interrupt(api, call))
        })
        .route(Method::GET, "/command/status/:id", |api, call| {
            Box::pin(status(api, call))
        })
        .route(Method::GET, "/command/:id/logs", |api, call| {
            Box::pin(logs(api, call))
        })
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    command: String,
    directory: String,
    background: bool,
    timeout: Option<Duration>,
    who: Option<Who>,
    envs: Vec<(String, String)>,
}

/// As whom a command is to run.
#[derive(Debug, PartialEq, Eq)]
enum Who {
    Id { uid: u32, gid: Option<u32> },
    Name(String),
}

const PARSING: &str = "error parsing request, MAYBE invalid body format.";
const VALIDATING: &str = "invalid request, validation error";

impl Wanted {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        const NAME: &str = "RunCommandRequest";
        let parsing = |mistake: Mistake| Failure::invalid(format!("{PARSING} {mistake}"));
        let invalid = |message| Err(Failure::invalid(format!("{VALIDATING} {message}")));
        let fields = Fields::parse(body, NAME).map_err(parsing)?;
        let command = fields.text("command").map_err(parsing)?.unwrap_or_default();
        let directory = fields.text("cwd").map_err(parsing)?.unwrap_or_default();
        let background = fields.switch("background").map_err(parsing)?;
        let timeout = fields.signed("timeout").map_err(parsing)?.unwrap_or(0);
        let uid = fields.id("uid").map_err(parsing)?;
        let gid = fields.id("gid").map_err(parsing)?;
        let user = fields.text("user").map_err(parsing)?;
        let envs = fields.texts("envs").map_err(parsing)?;
        let timeout = validate(VALIDATING, NAME, command, ("TimeoutMs", timeout))?;
        let who = match (uid, gid, user.filter(|name| !name.is_empty())) {
            (None, Some(_), _) => return invalid("uid is required when gid is provided"),
            (Some(_), _, Some(_)) => return invalid("give either uid or user"),
            (Some(uid), gid, None) => Some(Who::Id { uid, gid }),
            (None, None, Some(name)) => Some(Who::Name(name.to_owned())),
            (None, None, None) => None,
        };
        Ok(Self {
            command: command.to_owned(),
            directory: directory.to_owned(),
            background,
            timeout,
            who,
            envs,
        })
    }
}

/// Checks the two fields that every execution has; the time-out in milliseconds, 0 for none.
pub(super) fn validate(
    prefix: &str,
    name: &str,
    command: &str,
    (field, timeout): (&str, i64),
) -> Result<Option<Duration>, Failure> {
    let mistake = |field: &str, tag: &str| {
        format!(
            "Key: '{name}.{field}' Error:Field validation for '{field}' failed on the '{tag}' tag"
        )
    };
    let mut mistakes = Vec::new();
    if command.is_empty() {
        mistakes.push(mistake("Command", "required"));
    }
    if timeout < 0 {
        mistakes.push(mistake(field, "gte"));
    }
    if !mistakes.is_empty() {
        return Err(Failure::invalid(format!(
            "{prefix} {}",
            mistakes.join("\n")
        )));
    }
    let milliseconds = u64::try_from(timeout).unwrap_or(0);
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

/// Makes of a wish what the engine can run. Blocks.
fn prepare(
    api: &Api,
    wanted: Wanted,
    trace: &TraceContext,
    logger: slog::Logger,
) -> Result<Request, Failure> {
    let validating = |message: String| Failure::invalid(format!("{VALIDATING} {message}"));
    let credentials = wanted
        .who
        .map(credentials)
        .transpose()
        .map_err(validating)?;
    let engine = api.engine();
    let file = api.envs_file(&logger);
    let mut environment = engine.layered(credentials.as_ref(), file);
    environment.set_trace(trace);
    let environment = environment.with(wanted.envs);
    let directory = Directory::resolve(&wanted.directory, &environment, engine.home());
    let directory = directory
        .and_then(|directory| {
            directory.as_ref().map_or(Ok(()), Directory::check)?;
            Ok(directory)
        })
        .map_err(|error: DirectoryError| validating(error.to_string()))?;
    Ok(Request {
        command: wanted.command,
        directory: directory.map(|directory| directory.path().to_owned()),
        environment,
        credentials,
        timeout: wanted.timeout,
        logger,
    })
}

fn credentials(who: Who) -> Result<Credentials, String> {
    let accounts = Accounts::read(Path::new("/"));
    match who {
        Who::Id { uid, gid } => Ok(accounts.credentials(uid, gid)),
        Who::Name(name) => {
            let user = accounts.by_name(&name);
            let user = user.ok_or_else(|| format!("there is no user {name:?}"))?;
            Ok(accounts.credentials(user.uid, None))
        }
    }
}

async fn run(api: Api, call: Call) -> Result<Response, Failure> {
    let Call {
        request,
        trace,
        logger,
        ..
    } = call;
    let body = input::read(&api, request.into_body()).await?;
    let wanted = Wanted::parse(&body)?;
    drop(body);
    let background = wanted.background;
    let request = {
        let api = api.clone();
        let spawner = api.engine().spawner.clone();
        let prepare = move || prepare(&api, wanted, &trace, logger);
        spawner.unblock(prepare).await?
    };
    let begun = if background {
        let started = api.commands().start_background(request).await;
        started.map(|id| Events::of_end(&id, &End::Complete { milliseconds: 0 }))
    } else {
        let started = api.commands().start(request).await;
        started.map(|running| Events::of_command(&running.id, running.events))
    };
    match begun {
        Ok(events) => Ok(events.response()),
        Err(error) => match &error.cause {
            StartCause::TooMany => Err(Failure::busy(format!("error running commands {error}"))),
            StartCause::Spawn(SpawnError::Descriptors { .. }) => {
                Err(Failure::failed(format!("error running commands {error}")))
            }
            StartCause::Spawn(cause) => {
                let end = never_began(cause.to_string());
                Ok(Events::of_end(&error.id, &end).response())
            }
        },
    }
}

/// Ends a command, or the text that runs in a session.
async fn interrupt(api: Api, call: Call) -> Result<Response, Failure> {
    let id = call.query("id").unwrap_or_default();
    if id.is_empty() {
        return Err(Failure::missing("missing query parameter 'id'"));
    }
    match api.commands().interrupt(&id).await {
        Ok(()) => Ok(answer::done()),
        Err(InterruptError::Unknown) if api.sessions().interrupt(&id).is_ok() => Ok(answer::done()),
        Err(error) => Err(Failure::failed(format!(
            "error interruptting code context. {error}"
        ))),
    }
}

#[derive(Serialize)]
struct Known<'a> {
    id: &'a str,
    content: &'a str,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
}

async fn status(api: Api, call: Call) -> Result<Response, Failure> {
    let id = call.parameter("id");
    let Some(status) = api.commands().status(id) else {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            Code::InvalidRequestBody,
            format!("command not found: {id}"),
        ));
    };
    let Status {
        id,
        command,
        started,
        finished,
    } = &status;
    let known = Known {
        id,
        content: command,
        running: finished.is_none(),
        exit_code: finished.as_ref().map(|finished| finished.exit_code),
        error: finished.as_ref().and_then(|end| end.error.as_deref()),
        started_at: rfc3339_nanoseconds(*started),
        finished_at: finished
            .as_ref()
            .map(|finished| rfc3339_nanoseconds(finished.at)),
    };
    Ok(answer::document(StatusCode::OK, &known))
}

async fn logs(api: Api, call: Call) -> Result<Response, Failure> {
    let id = call.parameter("id").to_owned();
    if id.is_empty() {
        return Err(Failure::missing("missing command execution id"));
    }
    let cursor = call.query("cursor").unwrap_or_default();
    let cursor = cursor.parse::<i64>().unwrap_or(0);
    let cursor = u64::try_from(cursor)
        .map_err(|_| Failure::invalid(format!("error seek file: seek {id}: invalid argument")))?;
    let limit = call.query("limit").and_then(|limit| limit.parse().ok());
    let extent = api.commands().log_extent(&id, cursor);
    let extent = extent.map_err(|error| Failure::invalid(error.to_string()))?;
    let end = extent
        .end
        .min(extent.start.saturating_add(limit.unwrap_or(u64::MAX)));
    let mut response = Response::new(log_body(api, id, extent.start..end));
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    headers.insert(TAIL_CURSOR, end.into());
    if extent.start > cursor {
        headers.insert(LOG_START, extent.start.into());
    }
    Ok(response)
}

/// The bytes of a log, read as the client takes them.
fn log_body(api: Api, id: String, range: std::ops::Range<u64>) -> Body {
    let pieces = stream::try_unfold((api, id, range), |(api, id, mut range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let most = usize::try_from(range.end - range.start).map_or(LOG_PIECE, |n| n.min(LOG_PIECE));
        let (start, bytes) = api.commands().read_log(&id, range.start, most).await?;
        if start != range.start || bytes.is_empty() {
            // The command writes faster than the client reads: what it was promised is gone.
            return Err(BoxError::from("the log was overwritten while it was read"));
        }
        range.start += bytes.len() as u64;
        Ok(Some((Frame::data(Bytes::from(bytes)), (api, id, range))))
    });
    Body::stream(StreamBody::new(pieces))
}
