//! The answers of the API, octet for octet as clients know them.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use super::health::Health;
use crate::egress::policy::Policy;
use crate::http::{Body, Response, error, json};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

pub(super) fn health(health: &Health) -> Response {
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

    pub(super) fn response(&self) -> Response {
        match json::encode(self) {
            Ok(mut body) => {
                body.push(b'\n');
                response(StatusCode::OK, JSON, body)
            }
            // The model has no value that JSON lacks.
            Err(cause) => {
                let message = format!("internal error: {cause}");
                error::text(StatusCode::INTERNAL_SERVER_ERROR, &message)
            }
        }
    }
}
