//! The token check of the HTTP APIs.
//!
//! Owns the comparison and nothing else: what a refusal looks like is the applet's contract.

use std::fmt;
use std::hint::black_box;

use ::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// A shared secret, or the absence of one, which leaves the API open.
///
/// Only its digest is kept, so a core dump or a `Debug` line does not carry it.
#[derive(Clone)]
pub struct Token {
    header: HeaderName,
    digest: Option<[u8; 32]>,
}

impl Token {
    /// The token `secret`, carried by `header`. An empty secret means that none is required.
    #[must_use]
    pub fn new(header: HeaderName, secret: &str) -> Self {
        let digest = (!secret.is_empty()).then(|| digest(secret.as_bytes()));
        Self { header, digest }
    }

    /// Whether a token is required at all.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.digest.is_some()
    }

    /// Whether a request with these headers may pass: no token is required, or the first value of
    /// the header equals it.
    ///
    /// The time taken depends on the length of what was sent, never on the secret.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.digest else {
            return true;
        };
        let presented = headers.get(&self.header).map_or(&[][..], |v| v.as_bytes());
        is_same(&digest(presented), expected)
    }
}

/// Whether the two are equal. Of two that are as long, the time taken says nothing.
#[must_use]
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let pairs = one.iter().zip(other);
    let difference = pairs.fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    one.len() == other.len() && difference == 0
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("header", &self.header)
            .field("required", &self.is_required())
            .finish()
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    const HEADER: HeaderName = HeaderName::from_static("opensandbox-egress-auth");

    fn headers(values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (HEADER, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_empty_token_leaves_the_api_open() {
        let token = Token::new(HEADER, "");
        assert!(!token.is_required());
        assert!(token.allows(&headers(&[])));
        assert!(token.allows(&headers(&["anything"])));
    }

    #[test]
    fn only_the_first_value_counts_and_it_must_be_equal() {
        let token = Token::new(HEADER, "s3cret");
        assert!(token.allows(&headers(&["s3cret"])));
        assert!(token.allows(&headers(&["s3cret", "other"])));
        for refused in [
            &[][..],
            &[""],
            &["s3cre"],
            &["s3crets"],
            &["S3CRET"],
            &["other", "s3cret"],
        ] {
            assert!(!token.allows(&headers(refused)), "{refused:?}");
        }
    }

    #[test]
    fn debug_output_does_not_carry_the_secret() {
        let text = format!("{:?}", Token::new(HEADER, "s3cret"));
        assert!(!text.contains("s3cret"), "{text}");
    }
}
