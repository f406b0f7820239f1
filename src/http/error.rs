//! Error answers, in the two shapes the APIs promise.
//!
//! Owns the exact bytes. Which status an applet answers with is the applet's decision.

use ::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use ::http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::{Body, Response, body, json};

/// Plain text: the message and a newline, as Go's `http.Error` answers it.
#[must_use]
pub fn text(status: StatusCode, message: &str) -> Response {
    let mut line = String::with_capacity(message.len() + 1);
    line.push_str(message);
    line.push('\n');
    let mut response = Response::new(Body::from(line));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// JSON: `{"code":...,"message":...}`, both keys always present, no final newline.
#[must_use]
pub fn json(status: StatusCode, code: &str, message: &str) -> Response {
    #[derive(Serialize)]
    struct Message<'a> {
        code: &'a str,
        message: &'a str,
    }
    // Two strings always serialise; an empty body would be the honest answer if they did not.
    let bytes = json::encode(&Message { code, message }).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

/// The status for a request body that could not be read.
#[must_use]
pub fn status_of(error: &body::Error) -> StatusCode {
    match error {
        body::Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        body::Error::TimedOut => StatusCode::REQUEST_TIMEOUT,
        body::Error::Transport(_) | body::Error::Producer(_) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(response: Response) -> bytes::Bytes {
        smol::block_on(response.into_body().collect(1000)).unwrap()
    }

    #[test]
    fn text_errors_are_those_of_go() {
        let response = text(StatusCode::UNAUTHORIZED, "unauthorized");
        assert_eq!(response.status(), 401);
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "text/plain; charset=utf-8"
        );
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(bytes(response), "unauthorized\n");
    }

    #[test]
    fn json_errors_always_have_both_keys() {
        let response = json(StatusCode::BAD_REQUEST, "MISSING_QUERY", "");
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "application/json; charset=utf-8"
        );
        assert_eq!(bytes(response), r#"{"code":"MISSING_QUERY","message":""}"#);
    }
}
