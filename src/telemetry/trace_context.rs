//! The caller's trace: W3C Trace Context (`traceparent`, `tracestate`) and W3C Baggage, read from
//! request headers, handed on in the environment of what is started for the request, and put on
//! the log records written for it.
//!
//! Pure. Creates no spans and no identifiers; what is not valid to the letter is ignored.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use slog::{Logger, o};

/// The log field of the trace.
pub const TRACE_ID_KEY: &str = "trace_id";
/// The log field of the caller's span.
pub const SPAN_ID_KEY: &str = "span_id";
/// The log field of the trace flags. It travels to the OTLP record and is not written as JSON.
pub const FLAGS_KEY: &str = "trace_flags";

static PARENT: HeaderName = HeaderName::from_static("traceparent");
static STATE: HeaderName = HeaderName::from_static("tracestate");
static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Length of a version 00 `traceparent`, and of the part every later version begins with.
const TRACEPARENT_LENGTH: usize = 55;
/// The flags this version defines: sampled, and random trace id (Level 2, section 2.3).
const KNOWN_FLAGS: u8 = 0x03;

/// Members of a `tracestate` (Trace Context, section 3.3.1.1).
const STATE_MEMBERS: usize = 32;
/// Characters in a `tracestate` key or value (sections 3.3.1.3.1 and 3.3.1.3.2).
const STATE_PART: usize = 256;
/// Characters in a whole `tracestate`; the recommendation asks for 512 to be passed on.
const STATE_LENGTH: usize = 4096;

/// Members of a `baggage` (Baggage, section 3.3.2 asks for at least 64).
const BAGGAGE_MEMBERS: usize = 180;
/// Bytes of a whole `baggage` (section 3.3.2).
const BAGGAGE_LENGTH: usize = 8192;

/// Text that is not the header it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid traceparent")]
pub struct Invalid;

/// Which span of which trace a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// The caller's trace; never all zeros.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The caller's span; never all zeros.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether the caller records this trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }
}

impl FromStr for TraceParent {
    type Err = Invalid;

    /// Reads a `traceparent` of version 00, or of a later version as far as it is version 00
    /// (Trace Context, sections 3.2 and 3.2.4).
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = text.as_bytes();
        let (known, rest) = bytes.split_at_checked(TRACEPARENT_LENGTH).ok_or(Invalid)?;
        let [version] = hex(known, 0)?;
        if version == 0xff
            || (version == 0 && !rest.is_empty())
            || rest.first().is_some_and(|byte| *byte != b'-')
            || [2, 35, 52].iter().any(|dash| known[*dash] != b'-')
        {
            return Err(Invalid);
        }
        let parent = Self {
            trace_id: hex(known, 3)?,
            span_id: hex(known, 36)?,
            flags: hex::<1>(known, 53)?[0] & KNOWN_FLAGS,
        };
        if parent.trace_id == [0; 16] || parent.span_id == [0; 8] {
            return Err(Invalid);
        }
        Ok(parent)
    }
}

impl fmt::Display for TraceParent {
    /// Version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            hex_text(&self.trace_id),
            hex_text(&self.span_id),
            self.flags
        )
    }
}

/// `bytes` in lower-case hexadecimal digits.
fn hex_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// `N` bytes from lower-case hexadecimal digits at `from`; upper case is not allowed here.
fn hex<const N: usize>(text: &[u8], from: usize) -> Result<[u8; N], Invalid> {
    let digits = text.get(from..from + 2 * N).ok_or(Invalid)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(Invalid),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

/// `N` bytes from exactly `2 * N` lower-case hexadecimal digits.
pub(super) fn parse_id<const N: usize>(text: &str) -> Option<[u8; N]> {
    (text.len() == 2 * N)
        .then(|| hex(text.as_bytes(), 0).ok())
        .flatten()
}

/// What a request says about its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    parent: Option<TraceParent>,
    state: Option<String>,
    baggage: Option<String>,
}

impl TraceContext {
    /// Reads the three headers. One `traceparent` is expected; several, or an invalid one, count
    /// as none, and then there is no `tracestate` either. Several `tracestate` or `baggage`
    /// headers count as one list; an invalid list is ignored as a whole.
    #[must_use]
    pub fn from_headers(headers: &http::HeaderMap) -> Self {
        let mut parents = headers.get_all(&PARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => parent
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            _ => None,
        };
        Self {
            parent,
            state: parent
                .and_then(|_| list(headers, &STATE, STATE_LENGTH))
                .filter(|list| is_tracestate(list)),
            baggage: list(headers, &BAGGAGE, BAGGAGE_LENGTH).filter(|list| is_baggage(list)),
        }
    }

    /// The caller's span, when the request named a valid one.
    #[must_use]
    pub fn parent(&self) -> Option<TraceParent> {
        self.parent
    }

    /// The context as environment variables for a process started for the request
    /// (OpenTelemetry, "Environment Variables as Context Propagation Carriers").
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        [
            ("TRACEPARENT", self.parent.map(|parent| parent.to_string())),
            ("TRACESTATE", self.state.clone()),
            ("BAGGAGE", self.baggage.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// A logger whose records name the caller's trace and span; `logger` itself when there are
    /// none.
    pub fn logger(&self, logger: &Logger) -> Logger {
        match self.parent {
            None => logger.clone(),
            Some(parent) => logger.new(o!(
                TRACE_ID_KEY => hex_text(&parent.trace_id),
                SPAN_ID_KEY => hex_text(&parent.span_id),
                FLAGS_KEY => parent.flags,
            )),
        }
    }
}

/// All headers of one name as one list; `None` when there are none or they are too long.
fn list(headers: &http::HeaderMap, name: &HeaderName, limit: usize) -> Option<String> {
    let mut joined = String::new();
    for value in headers.get_all(name) {
        let value = value.to_str().ok()?.trim();
        if !value.is_empty() {
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(value);
        }
        if joined.len() > limit {
            return None;
        }
    }
    (!joined.is_empty()).then_some(joined)
}

/// Space and tab (RFC 9110, section 5.6.3), which may surround list members.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Trace Context Level 2, section 3.3: up to 32 members with distinct keys, empty ones allowed.
fn is_tracestate(list: &str) -> bool {
    let mut keys: Vec<&str> = Vec::new();
    for member in list
        .split(',')
        .map(trim)
        .filter(|member| !member.is_empty())
    {
        let Some((key, value)) = member.split_once('=') else {
            return false;
        };
        if !is_state_key(key)
            || !is_state_value(value)
            || keys.contains(&key)
            || keys.len() == STATE_MEMBERS
        {
            return false;
        }
        keys.push(key);
    }
    !keys.is_empty()
}

fn is_state_key(key: &str) -> bool {
    key.len() <= STATE_PART
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key.bytes().all(
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'),
        )
}

fn is_state_value(value: &str) -> bool {
    (1..=STATE_PART).contains(&value.len())
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=' && byte != b',')
}

/// Baggage, section 3.3.1: `key=value` members, each with properties after semicolons.
fn is_baggage(list: &str) -> bool {
    let mut members = 0;
    for member in list.split(',') {
        members += 1;
        let mut parts = member.split(';');
        let pair = parts.next().and_then(|pair| pair.split_once('='));
        let valid = pair
            .is_some_and(|(key, value)| is_token(trim(key)) && is_baggage_value(trim(value)))
            && parts.all(|property| match property.split_once('=') {
                Some((key, value)) => is_token(trim(key)) && is_baggage_value(trim(value)),
                None => is_token(trim(property)),
            });
        if !valid || members > BAGGAGE_MEMBERS {
            return false;
        }
    }
    true
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_baggage_value(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| matches!(byte, b'!'..=b'~') && !b"\",;\\".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> http::HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_str(value).unwrap(),
                )
            })
            .fold(http::HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn valid_traceparents() {
        let parent: TraceParent = VALID.parse().unwrap();
        assert_eq!(parent.to_string(), VALID);
        assert!(parent.is_sampled());
        for later in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-f9",
        ] {
            assert_eq!(later.parse(), Ok(parent), "{later}");
        }
    }

    #[test]
    fn invalid_traceparents() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-010",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-0f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(Invalid), "{text}");
        }
    }

    #[test]
    fn tracestates() {
        let members = |count: usize| {
            (0..count)
                .map(|number| format!("k{number}=v"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let (key, value) = ("k".repeat(256), "v".repeat(256));
        for valid in [
            "congo=t61rcWkgMzE".to_owned(),
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE".to_owned(),
            "a=1 , ,\tb=2,".to_owned(),
            "fw529a3039@dt=FfYxM".to_owned(),
            "1a-_*/@=inner space".to_owned(),
            format!("{key}={value}"),
            members(32),
        ] {
            assert!(is_tracestate(&valid), "{valid}");
        }
        for invalid in [
            ",".to_owned(),
            "a".to_owned(),
            "a=".to_owned(),
            "=1".to_owned(),
            "A=1".to_owned(),
            "_a=1".to_owned(),
            "a =1".to_owned(),
            "a=1=2".to_owned(),
            "a=é".to_owned(),
            "a=1,a=2".to_owned(),
            format!("{key}k={value}"),
            format!("{key}={value}v"),
            members(33),
        ] {
            assert!(!is_tracestate(&invalid), "{invalid}");
        }
    }

    #[test]
    fn baggages() {
        for valid in [
            "a=1",
            "userId=Am%C3%A9lie , serverNode=DF%2028 ; prop ; prop2 = x,isProduction=",
            "a=b=c",
        ] {
            assert!(is_baggage(valid), "{valid}");
        }
        for invalid in [
            "", "a", "=1", "a=1,", "a b=1", "a=\"1\"", "a=1;=2", "a=é", "a=1 2",
        ] {
            assert!(!is_baggage(invalid), "{invalid}");
        }
        let many = |count: usize| vec!["a=1"; count].join(",");
        assert!(is_baggage(&many(BAGGAGE_MEMBERS)));
        assert!(!is_baggage(&many(BAGGAGE_MEMBERS + 1)));
    }

    #[test]
    fn headers_become_environment() {
        let context = TraceContext::from_headers(&headers(&[
            ("traceparent", VALID),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "user=x"),
        ]));
        assert_eq!(
            context.environment(),
            [
                ("TRACEPARENT", VALID.to_owned()),
                ("TRACESTATE", "a=1,b=2".to_owned()),
                ("BAGGAGE", "user=x".to_owned()),
            ]
        );
    }

    #[test]
    fn what_is_not_valid_is_left_out() {
        let none = TraceContext::default();
        for (pairs, expected) in [
            (vec![], none.clone()),
            (vec![("tracestate", "a=1")], none.clone()),
            (
                vec![("traceparent", VALID), ("traceparent", VALID)],
                none.clone(),
            ),
            (
                vec![("traceparent", "nonsense"), ("tracestate", "a=1")],
                none.clone(),
            ),
            (
                vec![
                    ("traceparent", VALID),
                    ("tracestate", "NO"),
                    ("baggage", "no"),
                ],
                TraceContext {
                    parent: VALID.parse().ok(),
                    ..none
                },
            ),
        ] {
            assert_eq!(
                TraceContext::from_headers(&headers(&pairs)),
                expected,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn an_overlong_list_is_left_out() {
        let long = format!("a={}", "v".repeat(BAGGAGE_LENGTH));
        let context = TraceContext::from_headers(&headers(&[("baggage", &long)]));
        assert!(context.environment().is_empty());
    }

    proptest! {
        #[test]
        fn a_valid_parent_is_written_as_it_was_read(
            trace_id in any::<[u8; 16]>(), span_id in any::<[u8; 8]>(), flags in 0..=KNOWN_FLAGS,
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let parent = TraceParent { trace_id, span_id, flags };
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }

        #[test]
        fn garbage_never_panics(text in ".{0,80}") {
            let _ = text.parse::<TraceParent>();
            let _ = is_tracestate(&text);
            let _ = is_baggage(&text);
        }

        #[test]
        fn one_changed_byte_never_panics(position in 0..VALID.len(), byte in 0_u8..128) {
            let mut text = VALID.as_bytes().to_vec();
            text[position] = byte;
            let text = String::from_utf8(text).unwrap();
            if let Ok(parent) = text.parse::<TraceParent>() {
                prop_assert_eq!(&parent.to_string()[3..53], &text[3..53]);
            }
        }
    }
}
