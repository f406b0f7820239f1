//! `/pty`: terminals, over REST and WebSocket (contract 9).
//!
//! Owns who is let in and what is said to whom who is not. What is said once a WebSocket is open is
//! [`connection`]'s.

use http::{Method, StatusCode};
use serde::Serialize;
use slog::{debug, info};

use super::answer::{self, Code, Failure};
use super::input::{self, Fields, Mistake};
use super::session::{self, Created};
use super::{Api, Call, Endpoint};
use crate::execd::pty::{AttachError, Mode, Request as Terminal, Role};
use crate::http::Response;
use crate::http::router::Router;
use crate::http::websocket::{self, Handshake};
use connection::Visit;

pub mod connection;
mod frames;

pub(super) fn routes(router: Router<Endpoint>) -> Router<Endpoint> {
    router
        .route(Method::POST, "/pty", |api, call| {
            Box::pin(create(api, call))
        })
        .route(Method::GET, "/pty/:sessionId", |api, call| {
            Box::pin(async move { status(&api, &call) })
        })
        .route(Method::DELETE, "/pty/:sessionId", |api, call| {
            Box::pin(delete(api, call))
        })
        .route(Method::GET, "/pty/:sessionId/ws", |api, call| {
            Box::pin(async move { connect(&api, call) })
        })
}

/// The id a request names.
fn id(call: &Call) -> Result<String, Failure> {
    match call.parameter("sessionId") {
        "" => Err(Failure::missing("missing path parameter 'sessionId'")),
        id => Ok(id.to_owned()),
    }
}

fn unknown(id: &str) -> Failure {
    Failure::unknown(format!("pty session {id} not found"))
}

async fn create(api: Api, call: Call) -> Result<Response, Failure> {
    let parsing = |mistake: Mistake| Failure::invalid(format!("error parsing request: {mistake}"));
    let creating = |cause: String| Failure::failed(format!("error creating pty session: {cause}"));
    let body = input::read(&api, call.request.into_body()).await?;
    let fields = Fields::parse_optional(&body, "CreatePTYSessionRequest").map_err(parsing)?;
    let given = fields.text("cwd").map_err(parsing)?.unwrap_or_default();
    let command = fields.text("command").map_err(parsing)?;
    let command = command.filter(|command| !command.is_empty());
    let prepare = {
        let (api, given) = (api.clone(), given.to_owned());
        let (trace, logger) = (call.trace, call.logger.clone());
        move || {
            let engine = api.engine();
            let mut environment = engine.layered(None, api.envs_file(&logger));
            environment.set_trace(&trace);
            let directory = session::own_directory(&given, &api, &environment)?;
            Ok((directory, environment))
        }
    };
    let prepared = api.engine().spawner.unblock(prepare).await;
    let (directory, environment) = prepared.map_err(creating)?;
    let terminal = Terminal {
        directory,
        command: command.map(str::to_owned),
        environment,
        logger: call.logger.clone(),
    };
    let created = api.terminals().create(terminal);
    let id =
        created.map_err(|full| Failure::busy(format!("error creating pty session: {full}")))?;
    info!(call.logger, "created pty session {id}");
    let created = Created { session_id: &id };
    Ok(answer::document(StatusCode::CREATED, &created))
}

#[derive(Serialize)]
struct Status<'a> {
    session_id: &'a str,
    running: bool,
    output_offset: u64,
    /// How the last shell ended; absent while one runs, and before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

fn status(api: &Api, call: &Call) -> Result<Response, Failure> {
    let id = id(call)?;
    let known = api.terminals().status(&id).ok_or_else(|| unknown(&id))?;
    let status = Status {
        session_id: &id,
        running: known.running.is_some(),
        output_offset: known.output_offset,
        exit_code: known.exit_code,
    };
    Ok(answer::document(StatusCode::OK, &status))
}

async fn delete(api: Api, call: Call) -> Result<Response, Failure> {
    let id = id(&call)?;
    let deleted = api.terminals().delete(&id).await;
    deleted.map_err(|_| unknown(&id))?;
    info!(call.logger, "deleted pty session {id}");
    Ok(answer::done())
}

/// What the query of a connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    /// What a shell is to run on, if one has to be started.
    mode: Mode,
    /// From where on output is shown.
    since: u64,
    /// Whether another client may be driven out.
    takeover: bool,
    /// To look on, and neither type nor start anything.
    view: bool,
    /// Whether a shell is started in place of one that has ended.
    restart: bool,
}

impl Wish {
    fn read(query: impl Fn(&str) -> Option<String>) -> Self {
        let is = |name, value| query(name).as_deref() == Some(value);
        Self {
            mode: if is("pty", "0") {
                Mode::Pipe
            } else {
                Mode::Pty
            },
            since: query("since").map_or(0, |since| leading_integer(&since)),
            takeover: is("takeover", "1"),
            view: is("view", "1"),
            restart: !is("restart", "0"),
        }
    }
}

/// The integer a text begins with; 0 where there is none, it is below that, or no offset.
fn leading_integer(text: &str) -> u64 {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let integer = text[..digits].parse();
    integer
        .ok()
        .filter(|offset| i64::try_from(*offset).is_ok())
        .unwrap_or(0)
}

/// Makes a WebSocket of the connection of a request, on a terminal that is there and free, or is to
/// be taken over.
fn connect(api: &Api, mut call: Call) -> Result<Response, Failure> {
    let id = id(&call)?;
    let wish = Wish::read(|name| call.query(name));
    let role = if wish.view {
        Role::Observer
    } else {
        Role::Writer { takeover: false }
    };
    // A lease is had before the answer, so that of two clients one is refused. One that is taken
    // over is taken from a client only by one that is there: when the answer was sent.
    let viewer = match api.terminals().attach(&id, role, wish.since) {
        Ok(viewer) => Some(viewer),
        Err(AttachError::AlreadyConnected(_))
            if wish.takeover && websocket::is_asked_for(call.request.headers()) =>
        {
            None
        }
        Err(error) => return Err(refusal(&error, &id)),
    };
    let handshake = match Handshake::read(&mut call.request) {
        Ok(handshake) => handshake,
        Err(refusal) => {
            let logger = &call.logger;
            debug!(
                logger,
                "pty ws upgrade failed for session {id}: {refusal:?}"
            );
            return Ok(refusal.response());
        }
    };
    let too_many = || Failure::busy("too many connections are open: close one");
    let place = api.upgraded().ok_or_else(too_many)?;
    let visit = Visit {
        mode: wish.mode,
        types: !wish.view,
        restarts: wish.restart,
        logger: call.logger,
        id,
    };
    let response = handshake.response();
    let terminals = api.terminals().clone();
    let serve = async move {
        let _place = place;
        let Ok(socket) = handshake.complete().await else {
            return;
        };
        let takeover = Role::Writer { takeover: true };
        let viewer = viewer.map_or_else(|| terminals.attach(&visit.id, takeover, wish.since), Ok);
        match viewer {
            Ok(viewer) => connection::serve(socket, viewer, visit).await,
            Err(error) => {
                let code = match error {
                    AttachError::Unknown(_) => frames::Code::SessionGone,
                    _ => frames::Code::RuntimeError,
                };
                connection::fail(socket, code, &error.to_string()).await;
            }
        }
    };
    api.engine().spawner.spawn(serve).detach();
    Ok(response)
}

fn refusal(error: &AttachError, id: &str) -> Failure {
    match error {
        AttachError::Unknown(_) => unknown(id),
        AttachError::AlreadyConnected(_) => Failure::new(
            StatusCode::CONFLICT,
            Code::AlreadyConnected,
            error.to_string(),
        ),
        AttachError::TooManyViewers => Failure::busy(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(pairs: &[(&str, &str)]) -> Wish {
        Wish::read(|name| {
            let mut pairs = pairs.iter();
            pairs.find_map(|(key, value)| (*key == name).then(|| (*value).to_owned()))
        })
    }

    #[test]
    fn wishes_are_exact() {
        let plain = Wish {
            mode: Mode::Pty,
            since: 0,
            takeover: false,
            view: false,
            restart: true,
        };
        assert_eq!(wish(&[]), plain);
        let other = [
            ("pty", "false"),
            ("takeover", "true"),
            ("view", ""),
            ("restart", "no"),
        ];
        assert_eq!(wish(&other), plain);
        let all = [
            ("pty", "0"),
            ("since", "7"),
            ("takeover", "1"),
            ("view", "1"),
            ("restart", "0"),
        ];
        let expected = Wish {
            mode: Mode::Pipe,
            since: 7,
            takeover: true,
            view: true,
            restart: false,
        };
        assert_eq!(wish(&all), expected);
    }

    #[test]
    fn offsets_are_the_integers_texts_begin_with() {
        for (text, offset) in [
            ("0", 0),
            ("+42", 42),
            ("12abc", 12),
            ("12.9", 12),
            ("-5", 0),
            ("", 0),
            ("abc", 0),
            ("9223372036854775807", 9_223_372_036_854_775_807),
            ("9223372036854775808", 0),
            ("99999999999999999999999", 0),
        ] {
            assert_eq!(leading_integer(text), offset, "{text}");
        }
    }
}
