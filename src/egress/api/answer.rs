//! The answers of the API, octet for octet as clients know them.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use http::header::{
    ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::Fault;
use super::health::Health;
use crate::egress::policy::Policy;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn response(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn with(mut response: Response<Bytes>, name: HeaderName, value: HeaderValue) -> Response<Bytes> {
    response.headers_mut().insert(name, value);
    response
}

/// An error: one line of text.
fn error(status: StatusCode, message: &str) -> Response<Bytes> {
    let response = response(status, TEXT, format!("{message}\n"));
    with(
        response,
        X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    )
}

pub(super) fn not_found() -> Response<Bytes> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Bytes> {
    let response = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    with(response, ALLOW, HeaderValue::from_static(allowed))
}

/// The same resource under its one path.
pub(super) fn redirect(path: &str, query: Option<&str>) -> Response<Bytes> {
    let location = match query {
        Some(query) => Cow::Owned(format!("{path}?{query}")),
        None => Cow::Borrowed(path),
    };
    let Ok(value) = HeaderValue::from_str(&location) else {
        return not_found();
    };
    let link = location.replace('&', "&amp;").replace('"', "&#34;");
    let body = format!("<a href=\"{link}\">Moved Permanently</a>.\n\n");
    with(
        response(StatusCode::MOVED_PERMANENTLY, HTML, body),
        LOCATION,
        value,
    )
}

pub(super) fn health(health: &Health) -> Response<Bytes> {
    match health {
        Health::Ready => response(StatusCode::OK, TEXT, "ok"),
        Health::Degraded(how) => response(StatusCode::OK, TEXT, format!("ok\n{how}\n")),
        Health::NotReady(why) => {
            response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
        }
    }
}

/// What every successful answer about the policy says.
#[derive(Serialize)]
pub(super) struct Status<'a> {
    status: &'static str,
    mode: &'static str,
    #[serde(rename = "enforcementMode", skip_serializing_if = "str::is_empty")]
    enforcement_mode: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a Policy>,
}

impl<'a> Status<'a> {
    pub(super) fn of(policy: &Policy, enforcement_mode: &'a str) -> Self {
        Self {
            status: "ok",
            mode: policy.mode().as_str(),
            enforcement_mode,
            reason: "",
            policy: None,
        }
    }

    pub(super) fn because(self, reason: &'a str) -> Self {
        Self { reason, ..self }
    }

    pub(super) fn showing(self, policy: &'a Policy) -> Self {
        Self {
            policy: Some(policy),
            ..self
        }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        let mut body = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut body, Escaping);
        match self.serialize(&mut serializer) {
            Ok(()) => {
                body.push(b'\n');
                response(StatusCode::OK, JSON, body)
            }
            // The model has no value that JSON lacks.
            Err(cause) => error(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("internal error: {cause}"),
            ),
        }
    }
}

/// Compact JSON that is also safe inside HTML and JavaScript, as Go's encoder writes it.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let special = |character| matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(position) = rest.find(special) {
            let (plain, tail) = rest.split_at(position);
            CompactFormatter.write_string_fragment(writer, plain)?;
            let mut characters = tail.chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            rest = characters.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
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
    fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            recorded: None,
        }
    }

    pub(super) fn client(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn server(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn recorded_as(self, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            recorded: Some(text.into()),
            ..self
        }
    }

    pub(super) fn recorded(&self) -> &str {
        self.recorded.as_deref().unwrap_or(&self.message)
    }

    pub(super) fn fault(&self) -> Fault {
        if self.status.is_server_error() {
            Fault::Server
        } else {
            Fault::Client
        }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        error(self.status, &self.message)
    }
}
