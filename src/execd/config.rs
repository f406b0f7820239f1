//! The settings of execd and their typed form (contract `execd-core`, sections 1.4 to 1.7).
//!
//! Owns every name, default and parse rule. Reads nothing itself: the values come resolved from
//! [`config`](crate::config). A value that does not parse is refused, as launchers of the Go
//! component know it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clone3;
use crate::config::{Error, Kind, Origin, Setting, Values, Warning, duration};
use crate::daemon::LogOutput;
use crate::telemetry::log::{Destination, Threshold};

/// The file the log goes to, in preference to `OPENSANDBOX_LOG_OUTPUT`.
pub const LOG_FILE: &str = "EXECD_LOG_FILE";

const TOKEN: &str = "EXECD_ACCESS_TOKEN";
const TOKEN_FILE: &str = "EXECD_ACCESS_TOKEN_FILE";
const HOST: &str = "EXECD_LISTEN_HOST";
// Not EXECD_PORT: Kubernetes sets that to a URL in every pod beside a service called execd.
const PORT: &str = "EXECD_LISTEN_PORT";
const LEVEL: &str = "EXECD_LOG_LEVEL";
const GRACE: &str = "EXECD_API_GRACE_SHUTDOWN";
const DRAIN: &str = "EXECD_DRAIN_TIMEOUT";
const END_CHILDREN: &str = "EXECD_END_CHILDREN";
const ENVS: &str = "EXECD_ENVS";
const METRICS_SCOPE: &str = "EXECD_METRICS_SCOPE";
const JUPYTER_HOST: &str = "JUPYTER_HOST";
const JUPYTER_TOKEN: &str = "JUPYTER_TOKEN";
const JUPYTER_POLL: &str = "EXECD_JUPYTER_IDLE_POLL_INTERVAL";

/// Every setting of execd besides those of telemetry.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "host",
        variable: HOST,
        default: "0.0.0.0",
        kind: Kind::Text,
        help: "IPv4 address the API listens on",
    },
    Setting {
        flag: "port",
        variable: PORT,
        default: "44772",
        kind: Kind::Text,
        help: "Port of the API; 0 means any that is free",
    },
    Setting {
        flag: "access-token",
        variable: TOKEN,
        default: "",
        kind: Kind::Secret,
        help: "Token every request must carry as X-EXECD-ACCESS-TOKEN; empty leaves the API open. As a flag it is visible to all processes",
    },
    Setting {
        flag: "access-token-file",
        variable: TOKEN_FILE,
        default: "",
        kind: Kind::Text,
        help: "File that holds the token, one final newline dropped; the token given directly wins",
    },
    Setting {
        flag: "envs",
        variable: ENVS,
        default: "",
        kind: Kind::Text,
        help: "File of NAME=value lines that is read for every command and adds to its environment",
    },
    Setting {
        flag: "metrics-scope",
        variable: METRICS_SCOPE,
        default: "host",
        kind: Kind::Text,
        help: "What GET /metrics tells of: host, or cgroup for the limits and the use of execd's own control group",
    },
    Setting {
        flag: "drain-timeout",
        variable: DRAIN,
        default: "3s",
        kind: Kind::Text,
        help: "How long requests under way may take to finish after SIGTERM before what they run is ended",
    },
    Setting {
        flag: "end-children",
        variable: END_CHILDREN,
        default: "true",
        kind: Kind::Switch,
        help: "End commands, sessions and terminals when execd ends; otherwise they are left to themselves",
    },
    Setting {
        flag: "clone3-compat",
        variable: clone3::VARIABLE,
        default: "",
        kind: Kind::Text,
        help: "Answer clone3 with ENOSYS, for old programs in old container runtimes: 1 or true, or reexec to start again below the filter",
    },
    Setting {
        flag: "graceful-shutdown-timeout",
        variable: GRACE,
        default: "1s",
        kind: Kind::Text,
        help: "Accepted for compatibility: a stream ends with its last event and is not held open",
    },
    Setting {
        flag: "jupyter-host",
        variable: JUPYTER_HOST,
        default: "",
        kind: Kind::Text,
        help: "URL of the Jupyter server that runs code",
    },
    Setting {
        flag: "jupyter-token",
        variable: JUPYTER_TOKEN,
        default: "",
        kind: Kind::Secret,
        help: "Token of the Jupyter server",
    },
    Setting {
        flag: "jupyter-idle-poll-interval",
        variable: JUPYTER_POLL,
        default: "100ms",
        kind: Kind::Text,
        help: "How often a Jupyter kernel is asked whether it is idle",
    },
];

/// The settings of execd's log.
pub const LOG_SETTINGS: &[Setting] = &[
    Setting {
        flag: "log-level",
        variable: LEVEL,
        default: "6",
        kind: Kind::Text,
        help: "0 to 2 nothing, 3 errors, 4 warnings, 5 and 6 information, 7 and more everything; SIGUSR1 and SIGUSR2 change it later",
    },
    Setting {
        flag: "log-file",
        variable: LOG_FILE,
        default: "",
        kind: Kind::Text,
        help: "File the log goes to, in preference to --log-output",
    },
];

/// What `GET /metrics` tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The machine.
    Host,
    /// The control group of this process.
    Cgroup,
}

/// What execd was told to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// IPv4 address the API listens on.
    pub host: std::net::Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The token of the API; `None` leaves it open.
    pub token: Option<String>,
    /// The `EXECD_ENVS` file, not expanded.
    pub envs_file: Option<String>,
    /// What `GET /metrics` tells of.
    pub metrics_scope: Scope,
    /// How long requests under way may take after the end was asked for.
    pub drain: Duration,
    /// Whether what runs is ended at the end.
    pub end_children: bool,
    /// Whether programs are kept from `clone3`.
    pub clone3: bool,
    /// How much is logged.
    pub log_threshold: Threshold,
    /// Where the log goes.
    pub log_output: LogOutput,
}

impl Config {
    /// Reads the settings. `read_file` gives the content of the token file.
    ///
    /// # Errors
    ///
    /// A value is not what the setting expects, or the token file cannot be used.
    pub fn read(
        values: &Values,
        read_file: &dyn Fn(&Path) -> std::io::Result<String>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Error> {
        time(values, GRACE)?;
        jupyter(values, warnings)?;
        Ok(Self {
            host: parsed(values, HOST, "an IPv4 address, such as 0.0.0.0")?,
            port: parsed(values, PORT, "a port number from 0 to 65535")?,
            token: token(values, read_file)?,
            envs_file: values.get(ENVS).map(str::to_owned),
            metrics_scope: match values.get(METRICS_SCOPE).unwrap_or_default().trim() {
                "host" => Scope::Host,
                "cgroup" => Scope::Cgroup,
                _ => return Err(values.invalid(METRICS_SCOPE, "host or cgroup")),
            },
            drain: time(values, DRAIN)?,
            end_children: values.switch(END_CHILDREN, warnings),
            clone3: clone3_mode(values)? != clone3::Mode::Off,
            log_threshold: threshold(parsed(values, LEVEL, "a whole number from 0 to 7")?),
            log_output: match values.get(LOG_FILE) {
                Some(path) => LogOutput {
                    variable: LOG_FILE,
                    destinations: vec![Destination::File(PathBuf::from(path))],
                },
                None => LogOutput::read(values),
            },
        })
    }
}

/// What is to be done about `clone3`, before anything else is.
///
/// # Errors
///
/// The value means nothing.
pub fn clone3_mode(values: &Values) -> Result<clone3::Mode, Error> {
    clone3::Mode::parse(values.get(clone3::VARIABLE))
        .map_err(|invalid| Error::Usage(invalid.to_string()))
}

fn parsed<T: std::str::FromStr>(
    values: &Values,
    variable: &str,
    expected: &str,
) -> Result<T, Error> {
    let text = values.get(variable).unwrap_or_default().trim();
    text.parse().map_err(|_| values.invalid(variable, expected))
}

/// A duration with the sign that Go allows; one below zero is zero.
fn time(values: &Values, variable: &str) -> Result<Duration, Error> {
    let text = values.get(variable).unwrap_or("0").trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let duration = duration(text)
        .ok_or_else(|| values.invalid(variable, "a duration such as 500ms, 3s or 1m30s"))?;
    Ok(if negative { Duration::ZERO } else { duration })
}

fn threshold(level: i64) -> Threshold {
    match level {
        ..=2 => Threshold::Silent,
        3 => Threshold::Error,
        4 => Threshold::Warn,
        5 | 6 => Threshold::Info,
        7.. => Threshold::Debug,
    }
}

/// The settings of the Jupyter server, which this version does not talk to; what launchers give
/// must be accepted, or refused, all the same.
fn jupyter(values: &Values, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    if let Some(host) = values.get(JUPYTER_HOST)
        && values.origin(JUPYTER_HOST) != Origin::Flag
        && !host.starts_with("http://")
        && !host.starts_with("https://")
    {
        return Err(values.invalid(JUPYTER_HOST, "a URL that starts with http:// or https://"));
    }
    if time(values, JUPYTER_POLL)?.is_zero() {
        warnings.push(values.warning(JUPYTER_POLL, "100ms"));
    }
    Ok(())
}

fn token(
    values: &Values,
    read_file: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Option<String>, Error> {
    if let Some(token) = values.get(TOKEN) {
        return Ok(Some(token.to_owned()));
    }
    let Some(path) = values.get(TOKEN_FILE) else {
        return Ok(None);
    };
    let content = read_file(Path::new(path)).map_err(|cause| {
        values.invalid(TOKEN_FILE, format!("a file that can be read ({cause})"))
    })?;
    let token = content.strip_suffix('\n').unwrap_or(&content);
    let token = token.strip_suffix('\r').unwrap_or(token);
    if token.is_empty() {
        return Err(values.invalid(TOKEN_FILE, "a file that holds the token, but it is empty"));
    }
    Ok(Some(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon;

    fn read(pairs: &[(&str, &str)]) -> (Result<Config, String>, Vec<String>) {
        let settings = [SETTINGS, LOG_SETTINGS, daemon::SETTINGS].concat();
        let values = Values::from_pairs(&settings, pairs);
        let mut warnings = Vec::new();
        let files = |path: &Path| match path.to_str() {
            Some("/token") => Ok("from file\n".to_owned()),
            Some("/empty") => Ok("\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let config = Config::read(&values, &files, &mut warnings);
        (
            config.map_err(|error| error.to_string()),
            warnings.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let (config, warnings) = read(&[]);
        let config = config.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(
            (config.host.to_string().as_str(), config.port),
            ("0.0.0.0", 44772)
        );
        assert_eq!(config.token, None);
        assert_eq!(config.log_threshold, Threshold::Info);
        assert_eq!(config.metrics_scope, Scope::Host);
        assert!(config.end_children && !config.clone3);
        assert_eq!(config.log_output.destinations, [Destination::Stdout]);
    }

    #[test]
    fn what_the_end_to_end_suites_set_is_accepted() {
        let (config, warnings) = read(&[
            ("EXECD_API_GRACE_SHUTDOWN", "3s"),
            ("EXECD_JUPYTER_IDLE_POLL_INTERVAL", "200ms"),
            ("EXECD_LOG_FILE", "/tmp/opensandbox-e2e/logs/execd.log"),
            ("OPENSANDBOX_LOG_OUTPUT", "stderr"),
            ("JUPYTER_HOST", "http://127.0.0.1:54321"),
        ]);
        let output = config.unwrap().log_output;
        let file = PathBuf::from("/tmp/opensandbox-e2e/logs/execd.log");
        assert_eq!(output.destinations, [Destination::File(file)]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn levels_are_numbers() {
        for (text, expected) in [
            ("-1", Threshold::Silent),
            ("0", Threshold::Silent),
            ("2", Threshold::Silent),
            ("3", Threshold::Error),
            ("4", Threshold::Warn),
            ("5", Threshold::Info),
            ("6", Threshold::Info),
            ("7", Threshold::Debug),
            ("99", Threshold::Debug),
        ] {
            let (config, _) = read(&[("EXECD_LOG_LEVEL", text)]);
            assert_eq!(config.unwrap().log_threshold, expected, "{text}");
        }
    }

    #[test]
    fn durations_may_have_a_sign() {
        for text in ["-3s", "0", "+1s", "1h2m", "1.5s"] {
            let (config, _) = read(&[("EXECD_API_GRACE_SHUTDOWN", text)]);
            assert!(config.is_ok(), "{text}");
        }
        let (config, warnings) = read(&[("EXECD_JUPYTER_IDLE_POLL_INTERVAL", "-1s")]);
        assert!(config.is_ok());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let (config, _) = read(&[("EXECD_DRAIN_TIMEOUT", "-1s")]);
        assert_eq!(config.unwrap().drain, Duration::ZERO);
    }

    #[test]
    fn what_does_not_parse_is_refused_by_name() {
        for (variable, text) in [
            (HOST, "::1"),
            (PORT, "abc"),
            (PORT, "70000"),
            (LEVEL, "info"),
            (GRACE, "3"),
            (DRAIN, "soon"),
            (JUPYTER_POLL, "200"),
            (JUPYTER_HOST, "127.0.0.1:1"),
            (METRICS_SCOPE, "pod"),
            (TOKEN_FILE, "/missing"),
            (TOKEN_FILE, "/empty"),
            (clone3::VARIABLE, "2"),
        ] {
            let error = read(&[(variable, text)]).0.unwrap_err();
            assert!(error.contains(variable), "{error}");
        }
    }

    #[test]
    fn the_token_comes_directly_or_from_a_file() {
        let (config, _) = read(&[(TOKEN_FILE, "/token")]);
        assert_eq!(config.unwrap().token.as_deref(), Some("from file"));
        let both = [(TOKEN, "direct"), (TOKEN_FILE, "/missing")];
        assert_eq!(read(&both).0.unwrap().token.as_deref(), Some("direct"));
    }
}
