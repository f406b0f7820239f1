//! Where Redis is: the URL that the Go component reads, with all of its parameters.
//!
//! Pure. What a parameter says about a pool of connections is checked and otherwise means nothing:
//! there is one connection.

use std::path::PathBuf;
use std::time::Duration;

use crate::config;

/// How long connecting may take.
pub const DIAL_TIME: Duration = Duration::from_secs(5);

/// How long a command and its replies may take.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(3);

/// How often a batch is tried again on a new connection.
pub const MAX_RETRIES: u32 = 3;

/// The pause before it is tried again: at first, and at most.
pub const RETRY_PAUSE: (Duration, Duration) =
    (Duration::from_millis(8), Duration::from_millis(512));

/// Parameters that hold a number and change nothing.
const NUMBERS: [&str; 6] = [
    "pool_size",
    "min_idle_conns",
    "max_idle_conns",
    "max_active_conns",
    "max_concurrent_dials",
    "protocol",
];

/// Parameters that hold a duration and change nothing.
const DURATIONS: [&str; 6] = [
    "pool_timeout",
    "conn_max_idle_time",
    "idle_timeout",
    "conn_max_lifetime",
    "max_conn_age",
    "conn_max_lifetime_jitter",
];

/// How the other end is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether in TLS, and then how.
        tls: Option<Verification>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Whether the certificate of the other end counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It must be a trusted one.
    Full,
    /// Any will do.
    Skipped,
}

/// Where Redis is, and how to speak with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    /// How it is reached.
    pub address: Address,
    /// The user, where one logs in with a name.
    pub username: Option<String>,
    /// The password, where one logs in.
    pub password: Option<String>,
    /// The database.
    pub db: u32,
    /// What the connection calls itself.
    pub client_name: Option<String>,
    /// See [`DIAL_TIME`].
    pub dial_time: Duration,
    /// See [`EXCHANGE_TIME`].
    pub exchange_time: Duration,
    /// See [`MAX_RETRIES`].
    pub max_retries: u32,
    /// See [`RETRY_PAUSE`].
    pub retry_pause: (Duration, Duration),
}

impl std::fmt::Debug for Dsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dsn")
            .field("address", &self.address)
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

/// Why a URL names no Redis. Repeats neither user nor password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No scheme we know.
    #[error("redis://, rediss:// or unix:// followed by an address")]
    Scheme,
    /// The port is none.
    #[error("an address with a port from 1 to 65535")]
    Port,
    /// More than a database in the path.
    #[error("at most a database number in the path")]
    Path,
    /// The database is no number.
    #[error("a database that is a number")]
    Database,
    /// A socket without a path.
    #[error("the path of a socket")]
    Socket,
    /// An escape that is none.
    #[error("escapes that are two hexadecimal digits")]
    Escape,
    /// A parameter nobody knows.
    #[error("no parameter {0:?}")]
    Unknown(String),
    /// A parameter with a value it cannot have.
    #[error("another value of the parameter {0:?}")]
    Value(String),
}

impl Dsn {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// It names no Redis.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(Invalid::Scheme)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, "")))
        {
            None => (None, None),
            Some((name, password)) => (text_of(name)?, text_of(password)?),
        };
        let mut db = 0;
        let address = match scheme {
            "redis" | "rediss" => {
                db = database(path.trim_matches('/'))?;
                let (host, port) = host_and_port(host)?;
                let tls = (scheme == "rediss").then_some(Verification::Full);
                Address::Tcp { host, port, tls }
            }
            "unix" if path.len() > 1 && host.is_empty() => {
                Address::Unix(PathBuf::from(unescaped(path, false)?))
            }
            "unix" => return Err(Invalid::Socket),
            _ => return Err(Invalid::Scheme),
        };
        let mut dsn = Self {
            address,
            username,
            password,
            db,
            client_name: None,
            dial_time: DIAL_TIME,
            exchange_time: EXCHANGE_TIME,
            max_retries: MAX_RETRIES,
            retry_pause: RETRY_PAUSE,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            dsn.apply(&unescaped(name, true)?, &unescaped(value, true)?)?;
        }
        Ok(dsn)
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        let wrong = || Invalid::Value(name.to_owned());
        match name {
            "db" => self.db = value.parse().map_err(|_| Invalid::Database)?,
            "client_name" => self.client_name = Some(value.to_owned()),
            "max_retries" => {
                self.max_retries = match value.parse().map_err(|_| wrong())? {
                    i32::MIN..0 => 0,
                    0 => MAX_RETRIES,
                    number => number.unsigned_abs().min(MAX_RETRIES),
                };
            }
            "min_retry_backoff" => {
                self.retry_pause.0 = time(value, RETRY_PAUSE.0).ok_or_else(wrong)?
            }
            "max_retry_backoff" => {
                self.retry_pause.1 = time(value, RETRY_PAUSE.1).ok_or_else(wrong)?
            }
            "dial_timeout" => self.dial_time = time(value, DIAL_TIME).ok_or_else(wrong)?,
            // The two are one: a command is a packet, and its replies are awaited.
            "read_timeout" | "write_timeout" => {
                self.exchange_time = time(value, EXCHANGE_TIME).ok_or_else(wrong)?;
            }
            "pool_fifo" => drop(config::switch(value).ok_or_else(wrong)?),
            "skip_verify" => match &mut self.address {
                Address::Tcp { tls: Some(tls), .. } => {
                    if config::switch(value).ok_or_else(wrong)? {
                        *tls = Verification::Skipped;
                    }
                }
                _ => return Err(Invalid::Unknown(name.to_owned())),
            },
            _ if NUMBERS.contains(&name) => drop(value.parse::<i32>().map_err(|_| wrong())?),
            _ if DURATIONS.contains(&name) => drop(time(value, DIAL_TIME).ok_or_else(wrong)?),
            _ => return Err(Invalid::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

/// A duration in Go's syntax, or seconds; nothing is `default`, and what says "without limit" is
/// bounded all the same.
fn time(text: &str, default: Duration) -> Option<Duration> {
    let parsed = match text.strip_prefix('-') {
        Some(rest) => {
            parse_time(rest)?;
            DIAL_TIME
        }
        None if text.is_empty() => default,
        None => match parse_time(text)? {
            Duration::ZERO => default,
            time => time,
        },
    };
    Some(parsed.min(DIAL_TIME))
}

fn parse_time(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| config::duration(text))
}

fn database(path: &str) -> Result<u32, Invalid> {
    if path.contains('/') {
        return Err(Invalid::Path);
    }
    if path.is_empty() {
        return Ok(0);
    }
    path.parse().map_err(|_| Invalid::Database)
}

/// A host without brackets, `localhost` where there is none, and a port.
fn host_and_port(text: &str) -> Result<(String, u16), Invalid> {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an IPv6 address is within its brackets.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match inner.unwrap_or(host) {
        "" => "localhost",
        host => host,
    };
    let port = match port {
        "" => 6379,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(Invalid::Port)?,
    };
    Ok((host.to_owned(), port))
}

/// What the text says, if it says anything.
fn text_of(text: &str) -> Result<Option<String>, Invalid> {
    let text = unescaped(text, false)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The text without its escapes; in a query a plus is a blank.
fn unescaped(text: &str, query: bool) -> Result<String, Invalid> {
    let plain = if query {
        config::percent_decoded(&text.replace('+', " "))
    } else {
        config::percent_decoded(text)
    };
    plain.ok_or(Invalid::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: Option<Verification>) -> Address {
        let host = host.to_owned();
        Address::Tcp { host, port, tls }
    }

    #[test]
    fn addresses_have_the_defaults_of_the_go_client() {
        let (full, skipped) = (Some(Verification::Full), Some(Verification::Skipped));
        for (text, address, db) in [
            ("redis://127.0.0.1:6379/0", tcp("127.0.0.1", 6379, None), 0),
            ("redis://", tcp("localhost", 6379, None), 0),
            ("redis://:7000", tcp("localhost", 7000, None), 0),
            ("redis://cache/3/", tcp("cache", 6379, None), 3),
            ("redis://cache/3?db=4", tcp("cache", 6379, None), 4),
            ("redis://[::1]", tcp("::1", 6379, None), 0),
            ("redis://[::1]:7000/2", tcp("::1", 7000, None), 2),
            ("rediss://cache", tcp("cache", 6379, full), 0),
            (
                "rediss://cache?skip_verify=true",
                tcp("cache", 6379, skipped),
                0,
            ),
            (
                "rediss://cache?skip_verify=false",
                tcp("cache", 6379, full),
                0,
            ),
            (
                "unix:///run/redis.sock?db=1",
                Address::Unix("/run/redis.sock".into()),
                1,
            ),
            ("unix://u:p@/run/a%20b", Address::Unix("/run/a b".into()), 0),
        ] {
            let dsn = Dsn::parse(text).unwrap();
            assert_eq!((dsn.address, dsn.db), (address, db), "{text}");
        }
    }

    #[test]
    fn who_logs_in_is_not_shown() {
        for (text, username, password) in [
            ("redis://h", None, None),
            ("redis://me@h", Some("me"), None),
            ("redis://:s3cret@h", None, Some("s3cret")),
            ("redis://me:s3cret@h", Some("me"), Some("s3cret")),
            ("redis://me:s3%40cret:x@h", Some("me"), Some("s3@cret:x")),
        ] {
            let dsn = Dsn::parse(text).unwrap();
            assert_eq!(dsn.username.as_deref(), username, "{text}");
            assert_eq!(dsn.password.as_deref(), password, "{text}");
            assert!(!format!("{dsn:?}").contains("cret"));
        }
    }

    #[test]
    fn every_parameter_of_the_go_client_is_known() {
        let dsn = Dsn::parse(
            "redis://h?db=1&protocol=3&client_name=a+b&max_retries=2&min_retry_backoff=1ms\
             &max_retry_backoff=1&dial_timeout=2&read_timeout=500ms&write_timeout=500ms\
             &pool_fifo=true&pool_size=5&pool_timeout=1m&min_idle_conns=1&max_idle_conns=2\
             &max_active_conns=3&max_concurrent_dials=4&conn_max_idle_time=30m&idle_timeout=-1\
             &conn_max_lifetime=0&max_conn_age=1h&conn_max_lifetime_jitter=1s",
        )
        .unwrap();
        assert_eq!(dsn.client_name.as_deref(), Some("a b"));
        assert_eq!(dsn.max_retries, 2);
        assert_eq!(
            dsn.retry_pause,
            (Duration::from_millis(1), Duration::from_secs(1))
        );
        assert_eq!(dsn.dial_time, Duration::from_secs(2));
        assert_eq!(dsn.exchange_time, Duration::from_millis(500));
        let never = Dsn::parse("redis://h?max_retries=-1&read_timeout=-1&dial_timeout=1h").unwrap();
        assert_eq!(never.max_retries, 0);
        assert_eq!(
            (never.exchange_time, never.dial_time),
            (DIAL_TIME, DIAL_TIME)
        );
        let default = Dsn::parse("redis://h?max_retries=0&read_timeout=0&dial_timeout=").unwrap();
        assert_eq!(default, Dsn::parse("redis://h").unwrap());
    }

    #[test]
    fn what_names_no_redis_is_refused_without_its_password() {
        for (text, expected) in [
            ("", Invalid::Scheme),
            ("s3cret@h:6379", Invalid::Scheme),
            ("http://:s3cret@h", Invalid::Scheme),
            ("redis://:s3cret@h:x", Invalid::Port),
            ("redis://:s3cret@h:0", Invalid::Port),
            ("redis://:s3cret@h/1/2", Invalid::Path),
            ("redis://:s3cret@h/x", Invalid::Database),
            ("redis://:s3cret@h/-1", Invalid::Database),
            ("redis://:s3cret@h?db=x", Invalid::Database),
            ("redis://:s3cret%@h", Invalid::Escape),
            ("unix://", Invalid::Socket),
            ("unix://host/run/redis.sock", Invalid::Socket),
            (
                "redis://h?skip_verify=true",
                Invalid::Unknown("skip_verify".to_owned()),
            ),
            (
                "redis://h?timeout=1",
                Invalid::Unknown("timeout".to_owned()),
            ),
            (
                "redis://h?pool_size=x",
                Invalid::Value("pool_size".to_owned()),
            ),
            (
                "redis://h?dial_timeout=x",
                Invalid::Value("dial_timeout".to_owned()),
            ),
            (
                "rediss://h?skip_verify=2",
                Invalid::Value("skip_verify".to_owned()),
            ),
        ] {
            let error = Dsn::parse(text).unwrap_err();
            assert!(!error.to_string().contains("s3cret"));
            assert_eq!(error, expected, "{text}");
        }
    }
}
