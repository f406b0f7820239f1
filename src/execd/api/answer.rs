//! The answers of the API, byte for byte as clients know them (contract 2.4 and 2.5).

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use crate::http::{Body, Response, error, json};

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The `code` of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequestBody,
    MissingQuery,
    RuntimeError,
    ContextNotFound,
    AlreadyConnected,
}

impl Code {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequestBody => "INVALID_REQUEST_BODY",
            Self::MissingQuery => "MISSING_QUERY",
            Self::RuntimeError => "RUNTIME_ERROR",
            Self::ContextNotFound => "CONTEXT_NOT_FOUND",
            Self::AlreadyConnected => "ALREADY_CONNECTED",
        }
    }
}

/// A request that is not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// 400: the request says something that cannot be done.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidRequestBody, message)
    }

    /// 400: the request does not say of what it speaks.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::MissingQuery, message)
    }

    /// 500: it was tried, and failed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::RuntimeError,
            message,
        )
    }

    /// 503: there is too much already.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::RuntimeError, message)
    }

    /// 404: there is no such session.
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::ContextNotFound, message)
    }

    pub(super) fn response(&self) -> Response {
        error::json(self.status, self.code.as_str(), &self.message)
    }
}

/// 200 without a body.
pub(super) fn done() -> Response {
    Response::new(Body::empty())
}

/// A JSON document.
pub(super) fn document(status: StatusCode, document: &impl Serialize) -> Response {
    match json::encode(document) {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response
        }
        // No document of this API has what JSON lacks.
        Err(cause) => Failure::failed(format!("internal error: {cause}")).response(),
    }
}

/// 401. `error` is what clients have always got; the other two are what all other errors have.
pub(super) fn unauthorized() -> Response {
    #[derive(Serialize)]
    struct Refusal {
        error: &'static str,
        code: &'static str,
        message: &'static str,
    }
    let message = "Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN";
    let refusal = Refusal {
        error: message,
        code: "UNAUTHORIZED",
        message,
    };
    document(StatusCode::UNAUTHORIZED, &refusal)
}

/// 404 for a path that nothing is registered for.
pub(super) fn not_found() -> Response {
    let mut response = Response::new(Body::from("404 page not found"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
