//! Who comes in: ports that are open at all, and the credentials of secured sandboxes (OSEP-0011).
//!
//! Pure. Owns the keys, the signature of a route, the order in which credentials count, and the
//! status and text of every refusal before the sandbox is asked. Never looks a sandbox up, and
//! never reads a clock.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};

use super::provider::{Missing, Sandbox};
use super::route::{self, DIGEST_DIGITS, Expiry, Route, Signed, is_key};
use crate::http::{auth, forward};

/// Carries the token of a secured sandbox.
pub const HEADER: HeaderName = HeaderName::from_static("opensandbox-secure-access");

/// What every text of ours to a client begins with.
pub const SENDER: &str = "OpenSandbox Ingress: ";

/// How many keys there can be: one for each name.
pub const MAX_KEYS: usize = 36;

/// Standard base64, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys that routes are signed with, by name.
#[derive(Clone)]
pub struct Keys([Option<Box<[u8]>>; MAX_KEYS]);

/// Why a list of keys cannot be used. Repeats nothing that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not a name, an equals sign and a secret.
    #[error("invalid keys segment {0} (want key_id=base64)")]
    Segment(usize),
    /// The name is too long.
    #[error("invalid keys segment {0}: key_id must be exactly 1 character")]
    LongName(usize),
    /// The name is a letter in upper case.
    #[error("key_id must be lowercase [0-9a-z], got {0:?}")]
    UpperCase(char),
    /// The name is another character.
    #[error("key_id must be [0-9a-z], got {0:?}")]
    Name(char),
    /// The secret is no base64.
    #[error("decode secret for key {0:?}: illegal base64 data")]
    Secret(char),
    /// The name was given before.
    #[error("key_id {0:?} is given twice")]
    Repeated(char),
    /// There is none.
    #[error("no keys parsed")]
    None,
}

impl Keys {
    /// Reads `key_id=base64` segments, separated by commas or line ends; a secret may have
    /// `base64:` before it, and may lack its padding.
    ///
    /// # Errors
    ///
    /// One of them cannot be used, or there is none.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Self([const { None }; MAX_KEYS]);
        let mut any = false;
        let segments = text.split([',', '\n']).map(str::trim);
        for (index, segment) in segments.enumerate().filter(|(_, text)| !text.is_empty()) {
            let place = index + 1;
            let (name, secret) = segment.split_once('=').ok_or(KeysError::Segment(place))?;
            let (name, secret) = (name.trim(), secret.trim());
            let secret = secret.strip_prefix("base64:").unwrap_or(secret);
            let mut characters = name.chars();
            let name = characters.next().ok_or(KeysError::Segment(place))?;
            if characters.next().is_some() {
                return Err(KeysError::LongName(place));
            }
            let slot = match u8::try_from(name).ok().and_then(slot) {
                Some(slot) => &mut keys.0[slot],
                None if name.is_uppercase() => return Err(KeysError::UpperCase(name)),
                None => return Err(KeysError::Name(name)),
            };
            let secret = BASE64.decode(secret).map_err(|_| KeysError::Secret(name))?;
            if secret.is_empty() {
                return Err(KeysError::Segment(place));
            }
            if slot.replace(secret.into()).is_some() {
                return Err(KeysError::Repeated(name));
            }
            any = true;
        }
        if any { Ok(keys) } else { Err(KeysError::None) }
    }

    /// The names of the keys, in order.
    pub fn names(&self) -> impl Iterator<Item = char> {
        let named = (b'0'..=b'9').chain(b'a'..=b'z').zip(&self.0);
        named.filter_map(|(name, secret)| secret.as_ref().map(|_| char::from(name)))
    }

    /// Signs a route with the key of this name.
    #[must_use]
    pub fn sign(&self, key: u8, sandbox: &str, port: u16, expires: u64) -> Option<Signed> {
        let secret = self.0[slot(key)?].as_deref()?;
        let canonical = format!("v1\nshort\n{sandbox}\n{port}\n{}\n", Expiry(expires));
        let mut hash = Sha256::new();
        for part in [secret, canonical.as_bytes()] {
            // Configurations and heads of requests are far smaller than 4 GiB.
            hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        let mut digest = [0; DIGEST_DIGITS];
        for (pair, octet) in digest.chunks_exact_mut(2).zip(hash.iter()) {
            let digits = b"0123456789abcdef";
            pair[0] = digits[usize::from(octet >> 4)];
            pair[1] = digits[usize::from(octet & 0xf)];
        }
        Some(Signed {
            expires,
            digest,
            key,
        })
    }

    /// Whether the signature of a route holds at `now`, in seconds since the epoch.
    fn verify(&self, route: &Route<'_>, signed: Signed, now: u64) -> Result<(), Denied> {
        if now > signed.expires {
            return Err(Denied::Expired);
        }
        let right = self.sign(signed.key, &route.sandbox, route.port, signed.expires);
        let right = right.ok_or(Denied::UnknownKey)?;
        if auth::is_same(&signed.digest, &right.digest) {
            Ok(())
        } else {
            Err(Denied::BadSignature)
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Where the key of this name is kept.
fn slot(name: u8) -> Option<usize> {
    let slot = if name.is_ascii_digit() {
        name - b'0'
    } else {
        name.wrapping_sub(b'a').wrapping_add(10)
    };
    is_key(name).then_some(usize::from(slot))
}

/// By what right a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The sandbox needs none.
    Open,
    /// The header carries the sandbox's token.
    Header,
    /// The route is signed with the key of this name.
    Signature(u8),
}

/// Why a request did not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The header carries something else; a signature does not count then.
    #[error("secure access header mismatch")]
    HeaderMismatch,
    /// Neither header nor signature.
    #[error("signature required for this sandbox")]
    SignatureRequired,
    /// The signature held until some time ago.
    #[error("access expired")]
    Expired,
    /// The signature names a key that there is none of.
    #[error("unauthorized: unknown signed_key_id")]
    UnknownKey,
    /// The signature is another route's, or nobody's.
    #[error("unauthorized: signature mismatch")]
    BadSignature,
    /// The route is signed, and there are no keys.
    #[error("ingress verifier not configured")]
    NoVerifier,
}

/// What a request presents, and what it is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The first value of [`HEADER`], if the request has any.
    pub presented: Option<&'a [u8]>,
    /// The keys of this process, if it has any.
    pub keys: Option<&'a Keys>,
    /// Now, in seconds since the epoch.
    pub now: u64,
}

impl<'a> Credentials<'a> {
    /// What a request with these headers presents.
    #[must_use]
    pub fn of(headers: &'a HeaderMap, keys: Option<&'a Keys>, now: u64) -> Self {
        Self {
            presented: headers.get(HEADER).map(http::HeaderValue::as_bytes),
            keys,
            now,
        }
    }

    /// Whether they open what was looked up for the route. `None` where there is nothing to open.
    ///
    /// A sandbox that is not ready is judged as one that is, so that its state is told only to
    /// those who may come in.
    #[must_use]
    pub fn open(
        &self,
        found: &Result<Arc<Sandbox>, Missing>,
        route: &Route<'_>,
    ) -> Option<Result<Granted, Denied>> {
        let token = match found {
            Ok(sandbox) => sandbox.token.as_deref(),
            Err(Missing::NotReady { token, .. }) => token.as_deref(),
            Err(Missing::NotFound { .. } | Missing::Ambiguous { .. }) => return None,
        };
        Some(self.judge(token, route))
    }

    fn judge(&self, token: Option<&str>, route: &Route<'_>) -> Result<Granted, Denied> {
        let token = token.map(str::trim).filter(|token| !token.is_empty());
        let Some(token) = token else {
            return Ok(Granted::Open);
        };
        if let Some(presented) = self.presented {
            return if auth::is_same(presented.trim_ascii(), token.as_bytes()) {
                Ok(Granted::Header)
            } else {
                Err(Denied::HeaderMismatch)
            };
        }
        let signed = route.signed.ok_or(Denied::SignatureRequired)?;
        let keys = self.keys.ok_or(Denied::NoVerifier)?;
        keys.verify(route, signed, self.now)?;
        Ok(Granted::Signature(signed.key))
    }
}

/// Which ports of sandboxes can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    allowed: Vec<RangeInclusive<u16>>,
    denied: Vec<RangeInclusive<u16>>,
}

/// The text is neither a port nor a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ports from 1 to 65535 and ranges of them, such as 80,8000-8999")]
pub struct InvalidPorts;

impl Ports {
    /// The ports in `allowed`, or all where that is empty, without those in `denied`.
    ///
    /// # Errors
    ///
    /// An item is no port and no range.
    pub fn parse<'a>(
        allowed: impl Iterator<Item = &'a str>,
        denied: impl Iterator<Item = &'a str>,
    ) -> Result<Self, InvalidPorts> {
        Ok(Self {
            allowed: allowed.map(range).collect::<Result<_, _>>()?,
            denied: denied.map(range).collect::<Result<_, _>>()?,
        })
    }

    /// Whether this one can be reached.
    #[must_use]
    pub fn contain(&self, port: u16) -> bool {
        let within =
            |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&port));
        (self.allowed.is_empty() || within(&self.allowed)) && !within(&self.denied)
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, InvalidPorts> {
    let port = |text: &str| {
        let digits = text.trim();
        let is_number = digits.bytes().all(|octet| octet.is_ascii_digit());
        let number = digits.parse().ok().filter(|port| is_number && *port != 0);
        number.ok_or(InvalidPorts)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    if range.is_empty() {
        return Err(InvalidPorts);
    }
    Ok(range)
}

/// Why a request goes no further, before the sandbox is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names no sandbox.
    #[error(transparent)]
    Route(#[from] route::Error),
    /// The port is not open.
    #[error("port {0} is not open")]
    Port(u16),
    /// There is no sandbox that takes it.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// It must not come in.
    #[error("signature: {0}")]
    Denied(#[from] Denied),
    /// It cannot be passed on as it is.
    #[error(transparent)]
    Malformed(#[from] forward::Refused),
}

impl Refusal {
    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Route(_) => StatusCode::BAD_REQUEST,
            Self::Port(_) => StatusCode::FORBIDDEN,
            Self::Missing(Missing::NotFound { .. }) => StatusCode::NOT_FOUND,
            Self::Missing(Missing::NotReady { .. }) | Self::Denied(Denied::NoVerifier) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Missing(Missing::Ambiguous { .. }) => StatusCode::BAD_GATEWAY,
            Self::Denied(_) => StatusCode::UNAUTHORIZED,
            Self::Malformed(refused) => refused.status(),
        }
    }

    /// What the client is told, without the final line end.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{SENDER}{self}")
    }
}

#[cfg(test)]
mod tests;
