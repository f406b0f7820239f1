//! Names requests, so that a client can point at one.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Where clients look for the id.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

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

    /// The id of a request with these `headers`.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let given = headers.get(HEADER).filter(|id| is_plain(id)).cloned();
        given.or_else(|| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::try_from(format!("{:016x}-{number}", self.process)).ok()
        })
    }
}

fn is_plain(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
