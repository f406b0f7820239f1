//! Which sandbox and which of its ports a request is for: the route, read off a header, a host or
//! a path, and written as the server mints it.
//!
//! Pure. Owns the grammar of routes, signed and unsigned, and what goes on to the sandbox as path.
//! Never knows a sandbox, and never judges a signature: that is [`access`](super::access).

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::num::IntErrorKind;
use std::str::FromStr;

use http::header::HOST;
use http::{HeaderMap, HeaderName, Uri};

use crate::config::percent_decoded;

/// Names the sandbox and the port in mode `header`.
pub const HEADER: HeaderName = HeaderName::from_static("opensandbox-ingress-to");

/// What [`HEADER`] was called before.
pub const FORMER_HEADER: HeaderName = HeaderName::from_static("open-sandbox-ingress");

/// The digits of the number an expiry is written in; 36^13 exceeds every 64-bit number.
const MAX_EXPIRY_DIGITS: usize = 13;

/// The characters of a signature's digest.
pub const DIGEST_DIGITS: usize = 8;

/// The characters of a signature: its digest, and the name of the key.
const SIGNATURE_DIGITS: usize = DIGEST_DIGITS + 1;

/// What stands for a signature where it may be seen.
const REDACTED: &str = "*********";

/// Where routes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a header, else in the first label of the host.
    Header,
    /// In the first segments of the path.
    Uri,
}

impl Mode {
    /// The mode's own name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Uri => "uri",
        }
    }
}

/// The text names no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no routing mode")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    /// Reads a mode. Hosts are read in mode `header`, so the names the server has for routing by
    /// host mean the same.
    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "header" | "host" | "wildcard" => Ok(Self::Header),
            "uri" => Ok(Self::Uri),
            _ => Err(UnknownMode),
        }
    }
}

/// Why a request has no route. The text is what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither header nor host.
    #[error("missing header 'Opensandbox-Ingress-To' or 'Host'")]
    NoHost,
    /// No path.
    #[error("missing URI path")]
    NoPath,
    /// A header or a host that is none.
    #[error("invalid ingress route: invalid host: {0}")]
    Host(String),
    /// A path with too few segments.
    #[error(
        "invalid ingress route: invalid URI path format: expected \
         '/<sandbox-id>/<sandbox-port>/<path-to-request>', got: {0}"
    )]
    Path(String),
    /// A path whose sandbox is empty.
    #[error("invalid ingress route: missing sandbox-id or sandbox-port in URI path")]
    NoSandbox,
    /// The octets that a segment of the path encodes are no text.
    #[error("invalid ingress route: invalid URL escape in {0:?}")]
    Escape(String),
    /// The port is none.
    #[error("invalid ingress route: invalid port format: {0}")]
    Port(#[from] PortError),
}

impl Error {
    /// The text for the log, where nothing that may be half of a signed route is repeated.
    #[must_use]
    pub fn logged(&self) -> &'static str {
        match self {
            Self::NoHost => "missing route header and host",
            Self::NoPath => "missing URI path",
            Self::Host(_) => "invalid ingress route: invalid host",
            Self::Path(_) => "invalid ingress route: invalid URI path format",
            Self::NoSandbox => "invalid ingress route: missing sandbox-id in URI path",
            Self::Escape(_) => "invalid ingress route: invalid URL escape",
            Self::Port(_) => "invalid ingress route: invalid port format",
        }
    }
}

/// Why a text is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number, in a header or a host.
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    Syntax(String),
    /// Not a 64-bit number, in a header or a host.
    #[error("strconv.Atoi: parsing {0:?}: value out of range")]
    Range(String),
    /// Written with zeros in front, in a path.
    #[error("port must not have leading zeros")]
    LeadingZeros,
    /// Not from 1 to 65535.
    #[error("invalid port {0:?}")]
    Invalid(String),
}

/// What makes a route a signed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The last second the signature holds, since the epoch. Its text in the route is the one
    /// shortest form, so the number says it all.
    pub expires: u64,
    /// The first hexadecimal digits of the digest.
    pub digest: [u8; DIGEST_DIGITS],
    /// The name of the key.
    pub key: u8,
}

impl Signed {
    fn parse(expires: &str, signature: &str) -> Option<Self> {
        let expires = parse_expiry(expires)?;
        let (digest, key) = signature.as_bytes().split_first_chunk()?;
        let &[key] = key else { return None };
        let is_hex = |octet: &u8| matches!(octet, b'0'..=b'9' | b'a'..=b'f');
        (digest.iter().all(is_hex) && is_key(key)).then_some(Self {
            expires,
            digest: *digest,
            key,
        })
    }

    /// The expiry as the route has it.
    #[must_use]
    pub fn expiry(self) -> Expiry {
        Expiry(self.expires)
    }
}

impl fmt::Display for Signed {
    /// The signature, without the expiry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for octet in self.digest.iter().chain([&self.key]) {
            f.write_char(char::from(*octet))?;
        }
        Ok(())
    }
}

/// A second since the epoch, displayed in base 36.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(pub u64);

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; MAX_EXPIRY_DIGITS];
        let mut rest = self.0;
        let mut from = digits.len();
        while from == digits.len() || rest > 0 {
            from -= 1;
            digits[from] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
        }
        for digit in &digits[from..] {
            f.write_char(char::from(*digit))?;
        }
        Ok(())
    }
}

/// Whether the octet can name a key.
#[must_use]
pub const fn is_key(octet: u8) -> bool {
    matches!(octet, b'0'..=b'9' | b'a'..=b'z')
}

/// Reads an expiry: base 36 in lower case, without zeros in front, at most 2^64 - 1.
fn parse_expiry(text: &str) -> Option<u64> {
    let shortest = text == "0" || !text.starts_with('0');
    let fits = (1..=MAX_EXPIRY_DIGITS).contains(&text.len());
    if !shortest || !fits || !text.bytes().all(is_key) {
        return None;
    }
    u64::from_str_radix(text, 36).ok()
}

/// Whom a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The sandbox; never empty.
    pub sandbox: Cow<'a, str>,
    /// Its port; never 0.
    pub port: u16,
    /// The signature, if the route has one.
    pub signed: Option<Signed>,
    path: &'a str,
    unsecured_path: &'a str,
}

impl<'a> Route<'a> {
    /// Reads the route of a request. The path is taken as it was sent, escapes and all.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn of(mode: Mode, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Self, Error> {
        match mode {
            Mode::Uri => Self::from_path(uri.path()),
            Mode::Header => {
                let named = |name| headers.get(name).map(http::HeaderValue::as_bytes);
                let given = |name| named(name).filter(|value: &&[u8]| !value.is_empty());
                if let Some(label) = given(HEADER).or_else(|| given(FORMER_HEADER)) {
                    return Self::from_label(text(label)?, uri.path());
                }
                // The target of a request in absolute form, or of HTTP/2, has the host.
                let host = match uri.authority() {
                    Some(authority) => authority.as_str(),
                    None => text(named(HOST).unwrap_or_default())?,
                };
                if host.bytes().any(|octet| octet.is_ascii_uppercase()) {
                    let lower = host.to_ascii_lowercase();
                    let route = Route::from_label(&lower, uri.path());
                    return route.map(|route| route.detached(uri.path()));
                }
                Self::from_label(host, uri.path())
            }
        }
    }

    /// Reads a route from the value of a header, or from a host: `<id>-<port>`, and
    /// `<id>-<port>-<expiry>-<signature>`, up to the first dot.
    ///
    /// # Errors
    ///
    /// It is no route.
    pub fn from_label(text: &'a str, path: &'a str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::NoHost);
        }
        let label = label(text);
        let route = |sandbox, port, signed| Self {
            sandbox: Cow::Borrowed(sandbox),
            port,
            signed,
            path,
            unsecured_path: path,
        };
        let mut signed = label.rsplitn(4, '-');
        if let Some(signature) = signed.next().filter(|last| last.len() == SIGNATURE_DIGITS)
            && let (Some(expires), Some(port), Some(sandbox)) =
                (signed.next(), signed.next(), signed.next())
            && !sandbox.is_empty()
            && let Some(signed) = Signed::parse(expires, signature)
            && let Ok(port) = parse_port(port)
        {
            return Ok(route(sandbox, port, Some(signed)));
        }
        match label.rsplit_once('-') {
            Some((sandbox, port)) if !label.starts_with('-') => {
                Ok(route(sandbox, parse_port_leniently(port)?, None))
            }
            _ => Err(Error::Host(text.to_owned())),
        }
    }

    /// Reads a route from a path as it was sent: `/<id>/<port>`, and
    /// `/<id>/<port>/<expiry>/<signature>`, before the path that goes on.
    ///
    /// # Errors
    ///
    /// It does not begin with a route.
    pub fn from_path(path: &'a str) -> Result<Self, Error> {
        if path.is_empty() {
            return Err(Error::NoPath);
        }
        let mut rest = path.strip_prefix('/').unwrap_or(path);
        // The next segment, decoded, and what follows it with its slash.
        let mut next = || {
            let (segment, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let last = after.is_empty();
            rest = after.get(1..).unwrap_or_default();
            (segment, if last { None } else { Some(after) })
        };
        let (sandbox, Some(_)) = next() else {
            return Err(Error::Path(path.to_owned()));
        };
        let (port, unsecured_path) = next();
        let sandbox = decode(sandbox)?;
        if sandbox.is_empty() {
            return Err(Error::NoSandbox);
        }
        let port = parse_port(&decode(port)?)?;
        let (signed, path) = match unsecured_path {
            None => (None, None),
            Some(_) => {
                let (expires, _) = next();
                let (signature, path) = next();
                match (decode(expires), decode(signature)) {
                    (Ok(expires), Ok(signature)) => (Signed::parse(&expires, &signature), path),
                    // Whatever it is, it is the sandbox's.
                    (Err(_), _) | (_, Err(_)) => (None, None),
                }
            }
        };
        let unsecured_path = unsecured_path.unwrap_or("/");
        Ok(Self {
            sandbox,
            port,
            path: match signed {
                Some(_) => path.unwrap_or("/"),
                None => unsecured_path,
            },
            signed,
            unsecured_path,
        })
    }

    /// The path that goes on to the sandbox, as it was sent. To a sandbox that needs no credential
    /// the signature of a path was none, and goes on with it.
    #[must_use]
    pub fn upstream_path(&self, is_secured: bool) -> &'a str {
        if is_secured {
            self.path
        } else {
            self.unsecured_path
        }
    }

    /// The route as a header has it, and as the first label of a host.
    #[must_use]
    pub fn label(&self) -> String {
        self.joined('-')
    }

    /// The route as a path begins.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("/{}", self.joined('/'))
    }

    fn joined(&self, by: char) -> String {
        let mut text = format!("{}{by}{}", self.sandbox, self.port);
        if let Some(signed) = self.signed {
            let _ = write!(text, "{by}{}{by}{signed}", signed.expiry());
        }
        text
    }

    /// The same route with its sandbox owned, and `path` in the place of its own.
    fn detached<'b>(self, path: &'b str) -> Route<'b> {
        Route {
            sandbox: Cow::Owned(self.sandbox.into_owned()),
            port: self.port,
            signed: self.signed,
            path,
            unsecured_path: path,
        }
    }
}

fn text(value: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(value).map_err(|_| Error::Host(String::from_utf8_lossy(value).into_owned()))
}

/// The first label, without a scheme before it and a port behind it.
fn label(text: &str) -> &str {
    let text = text.strip_prefix("https://").unwrap_or(text);
    let text = text.strip_prefix("http://").unwrap_or(text);
    let label = text.split_once('.').map_or(text, |(label, _)| label);
    match label.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => host,
        _ => label,
    }
}

/// Reads a port as a path and a signed route have it.
fn parse_port(text: &str) -> Result<u16, PortError> {
    if text.len() > 1 && text.starts_with('0') {
        return Err(PortError::LeadingZeros);
    }
    valid_port(text, text.parse().ok())
}

/// Reads a port as an unsigned label has it: any number of zeros in front.
fn parse_port_leniently(text: &str) -> Result<u16, PortError> {
    match text.parse::<i64>() {
        Ok(number) => valid_port(text, u16::try_from(number).ok()),
        Err(error) => Err(match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                PortError::Range(text.to_owned())
            }
            _ => PortError::Syntax(text.to_owned()),
        }),
    }
}

fn valid_port(text: &str, port: Option<u16>) -> Result<u16, PortError> {
    port.filter(|port| *port != 0)
        .ok_or_else(|| PortError::Invalid(text.to_owned()))
}

/// Decodes the escapes of a segment.
fn decode(segment: &str) -> Result<Cow<'_, str>, Error> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let text = percent_decoded(segment).ok_or_else(|| Error::Escape(segment.to_owned()))?;
    Ok(Cow::Owned(text))
}

/// The text without the signatures of the routes in it, wherever they are.
#[must_use]
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut copied = 0;
    // The two words before the present one, each with what separates it from the next.
    let mut before: [Option<(&str, u8)>; 2] = [None, None];
    let mut start = 0;
    let is_word = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'%' | b'+');
    for end in 0..=text.len() {
        let separator = text.as_bytes().get(end).copied();
        if separator.is_some_and(is_word) {
            continue;
        }
        // A word is ASCII; between the octets of any other character there is none.
        let word = text.get(start..end).unwrap_or_default();
        if let [Some((port, first)), Some((expires, second))] = before
            && first == second
            && matches!(first, b'-' | b'/')
            && is_signed(port, expires, word)
        {
            clean.push_str(&text[copied..start]);
            clean.push_str(REDACTED);
            copied = end;
        }
        before = [before[1], separator.map(|separator| (word, separator))];
        start = end + 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

fn is_signed(port: &str, expires: &str, signature: &str) -> bool {
    let [Ok(port), Ok(expires), Ok(signature)] = [port, expires, signature].map(decode) else {
        return false;
    };
    let is_port = parse_port_leniently(&port).is_ok();
    is_port && Signed::parse(&expires, &signature).is_some()
}

#[cfg(test)]
mod tests;
