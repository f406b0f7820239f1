//! What is said to the server: one JSON object.

use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::config::percent_decoded;
use crate::telemetry::log::timestamp::rfc3339_nine_digits;

/// The most octets of a path that are said; the rest is left out.
pub const MAX_PATH: usize = 1024;

/// A sandbox is in use.
#[derive(Debug)]
pub(super) struct Intent {
    pub(super) sandbox: Box<str>,
    port: u16,
    path: Option<Box<str>>,
    /// When, by the clock that never jumps.
    pub(super) said: Instant,
    observed_at: SystemTime,
}

#[derive(Serialize)]
struct Payload<'a> {
    sandbox_id: &'a str,
    observed_at: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_uri: Option<String>,
}

impl Intent {
    pub(super) fn new(
        sandbox: &str,
        port: u16,
        path: Option<&str>,
        said: Instant,
        observed_at: SystemTime,
    ) -> Self {
        let path = path.map(|path| {
            let mut end = path.len().min(MAX_PATH);
            while !path.is_char_boundary(end) {
                end -= 1;
            }
            path[..end].into()
        });
        Self {
            sandbox: sandbox.into(),
            port,
            path,
            said,
            observed_at,
        }
    }

    pub(super) fn json(&self) -> Vec<u8> {
        let payload = Payload {
            sandbox_id: &self.sandbox,
            // Always nine digits: the server's oldest Python reads three and six besides, and no
            // other number of them.
            observed_at: rfc3339_nine_digits(self.observed_at),
            port: self.port,
            request_uri: self.path.as_deref().map(|path| {
                // What is no text without its escapes is said with them.
                percent_decoded(path).unwrap_or_else(|| path.to_owned())
            }),
        };
        // Texts and numbers always serialise.
        serde_json::to_vec(&payload).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn json(path: Option<&str>) -> String {
        let observed = UNIX_EPOCH + Duration::new(1_774_180_800, 120_000_000);
        let intent = Intent::new("sb", 8080, path, Instant::now(), observed);
        String::from_utf8(intent.json()).unwrap()
    }

    #[test]
    fn an_intent_is_what_the_server_reads() {
        assert_eq!(
            json(Some("/a%2Fb/c%20d%3Fe")),
            r#"{"sandbox_id":"sb","observed_at":"2026-03-22T12:00:00.120000000Z","port":8080,"request_uri":"/a/b/c d?e"}"#
        );
        assert_eq!(
            json(None),
            r#"{"sandbox_id":"sb","observed_at":"2026-03-22T12:00:00.120000000Z","port":8080}"#
        );
    }

    #[test]
    fn a_path_is_cut_and_what_is_no_text_is_said_as_it_is() {
        assert!(json(Some("/%zz%4")).ends_with(r#""request_uri":"/%zz%4"}"#));
        assert!(json(Some("/%ff")).ends_with(r#""request_uri":"/%ff"}"#));
        let long = "é".repeat(MAX_PATH);
        let intent = Intent::new(
            "sb",
            1,
            Some(&format!("/{long}")),
            Instant::now(),
            UNIX_EPOCH,
        );
        assert_eq!(intent.path.unwrap().len(), MAX_PATH - 1);
    }
}
