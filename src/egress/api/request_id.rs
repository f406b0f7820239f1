//! Names requests, so that a client can point at one.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id of a client that is given back, in octets.
const LONGEST: usize = 128;

/// Gives each answer the id its request came with, or a new one.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// New ids start with `process`, a random number that tells processes apart.
    #[must_use]
    pub fn new(process: u64) -> Self {
        Self {
            process,
            next: AtomicU64::new(0),
        }
    }

    /// Names `response` after `request`.
    pub(super) fn answer(&self, request: &Request<Bytes>, response: &mut Response<Bytes>) {
        let given = request.headers().get(X_REQUEST_ID);
        let id = given.filter(|id| is_plain(id)).cloned().or_else(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::try_from(format!("{:016x}-{number}", self.process)).ok()
        });
        if let Some(id) = id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
    }
}

fn is_plain(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
