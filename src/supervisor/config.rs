//! The settings of the supervisor and what they mean. Pure.

use std::time::Duration;

use rustix::process::Signal;

use super::backoff;
use super::breaker;
use crate::config::{Error, Kind, Setting, Values, Warning, duration};
use crate::telemetry::log::Threshold;

macro_rules! settings {
    ($($flag:literal, $variable:ident, $default:literal, $kind:ident, $help:literal;)+) => {
        $(const $variable: &str = concat!("OPENSANDBOX_SUPERVISOR_", stringify!($variable));)+

        /// The settings of the supervisor.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            flag: $flag,
            variable: $variable,
            default: $default,
            kind: Kind::$kind,
            help: $help,
        }),+];
    };
}

settings! {
    "name", NAME, "", Text, "Name of the worker in events; unset: the file name of its command";
    "pre-start", PRE_START, "", List, "Executables run before each launch, without arguments or a shell; may be repeated";
    "post-exit", POST_EXIT, "", List, "Executables run after each end of the worker, with WORKER_* variables; may be repeated";
    "pre-start-timeout", PRE_START_TIMEOUT, "30s", Text, "Time each pre-start hook has before it is killed";
    "post-exit-timeout", POST_EXIT_TIMEOUT, "30s", Text, "Time each post-exit hook has before it is killed";
    "grace-period", GRACE_PERIOD, "10s", Text, "Time the worker has to end after SIGTERM before its process group is killed";
    "forward-signals", FORWARD_SIGNALS, "", List, "Signals passed on to the worker, of HUP, QUIT, USR1, USR2, WINCH";
    "backoff-min", BACKOFF_MIN, "1s", Text, "Pause before the first restart; it doubles with each further one";
    "backoff-max", BACKOFF_MAX, "30s", Text, "Longest pause before a restart";
    "backoff-jitter", BACKOFF_JITTER, "0.1", Text, "Random share by which a pause is shortened or lengthened; 0: none";
    "stable-after", STABLE_AFTER, "60s", Text, "Run time after which the pause begins at its minimum again";
    "burst-window", BURST_WINDOW, "5m", Text, "Time within which launches count as a crash loop";
    "burst-max", BURST_MAX, "10", Text, "Launches within the window that make a crash loop";
    "on-burst-exit", ON_BURST_EXIT, "true", Switch, "End with exit code 1 on a crash loop instead of restarting for ever";
    "event-log", EVENT_LOG, "", Text, "File of events, one JSON object a line, rotated; unset: standard error";
    "log-level", LOG_LEVEL, "info", Text, "How much is logged: debug, info, warn, error";
}

/// The most launches a crash loop may be set to consist of; each is remembered.
pub const MAX_BURST: usize = 10_000;

/// The signals that can be forwarded. The others mean something to the supervisor itself, or
/// cannot be caught.
const FORWARDABLE: [(&str, Signal); 5] = [
    ("HUP", Signal::HUP),
    ("QUIT", Signal::QUIT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// How a worker is supervised.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the worker in events; `None`: the file name of its command.
    pub name: Option<String>,
    /// Run before each launch.
    pub pre_start: Vec<String>,
    /// Run after each end.
    pub post_exit: Vec<String>,
    /// Time of each pre-start hook.
    pub pre_start_timeout: Duration,
    /// Time of each post-exit hook.
    pub post_exit_timeout: Duration,
    /// Between `SIGTERM` and `SIGKILL`.
    pub grace_period: Duration,
    /// Passed on to the worker.
    pub forward: Vec<Signal>,
    /// The pause before a restart.
    pub backoff: backoff::Limits,
    /// Run time that ends a series of restarts.
    pub stable_after: Duration,
    /// What counts as a crash loop.
    pub burst: breaker::Limits,
    /// Whether a crash loop ends the supervisor.
    pub exit_on_burst: bool,
    /// Where events go; `None`: standard error.
    pub event_log: Option<String>,
    /// How much is logged.
    pub threshold: Threshold,
}

impl Config {
    /// Reads the settings. A value that is not what its kind asks for is an error, as the command
    /// line of the Go component has it; one that is out of range is replaced, with a warning.
    ///
    /// # Errors
    ///
    /// A value that is no duration, number or signal.
    pub fn read(values: &Values, warnings: &mut Vec<Warning>) -> Result<Self, Error> {
        let mut positive = |variable| positive_duration(values, variable, warnings);
        let pre_start_timeout = positive(PRE_START_TIMEOUT)?;
        let post_exit_timeout = positive(POST_EXIT_TIMEOUT)?;
        let grace_period = positive(GRACE_PERIOD)?;
        let (backoff_min, backoff_max) = (positive(BACKOFF_MIN)?, positive(BACKOFF_MAX)?);
        let stable_after = positive(STABLE_AFTER)?;
        let window = positive(BURST_WINDOW)?;
        let paths = |variable| values.list(variable).map(str::to_owned).collect();
        let log_level = |text: &str| Threshold::from_name(text);
        Ok(Self {
            name: values.get(NAME).map(str::to_owned),
            pre_start: paths(PRE_START),
            post_exit: paths(POST_EXIT),
            pre_start_timeout,
            post_exit_timeout,
            grace_period,
            forward: forwarded(values)?,
            backoff: backoff::Limits::new(backoff_min, backoff_max, jitter(values)?),
            stable_after,
            burst: breaker::Limits {
                window,
                launches: burst_max(values, warnings)?,
            },
            exit_on_burst: values.switch(ON_BURST_EXIT, warnings),
            event_log: values.get(EVENT_LOG).map(str::to_owned),
            threshold: values
                .parsed(LOG_LEVEL, log_level, warnings)
                .unwrap_or_default(),
        })
    }
}

fn default(variable: &str) -> &'static str {
    SETTINGS
        .iter()
        .find(|setting| setting.variable == variable)
        .map_or("", |setting| setting.default)
}

/// A duration that is not zero; what is zero or negative becomes the default.
fn positive_duration(
    values: &Values,
    variable: &'static str,
    warnings: &mut Vec<Warning>,
) -> Result<Duration, Error> {
    let default = default(variable);
    let text = values.get(variable).unwrap_or(default).trim();
    let negative = text.starts_with('-');
    let magnitude = duration(text.strip_prefix(['-', '+']).unwrap_or(text))
        .ok_or_else(|| values.invalid(variable, "a duration such as 500ms, 20s or 1m30s"))?;
    if negative || magnitude.is_zero() {
        warnings.push(values.warning(variable, default));
        return Ok(duration(default).unwrap_or_default());
    }
    Ok(magnitude)
}

/// A share from 0 up; a negative one counts as 0.
fn jitter(values: &Values) -> Result<f64, Error> {
    let text = values
        .get(BACKOFF_JITTER)
        .unwrap_or(default(BACKOFF_JITTER));
    match text.trim().parse::<f64>() {
        Ok(share) if share.is_finite() => Ok(share.max(0.0)),
        _ => Err(values.invalid(BACKOFF_JITTER, "a number such as 0.1")),
    }
}

fn burst_max(values: &Values, warnings: &mut Vec<Warning>) -> Result<usize, Error> {
    let default = default(BURST_MAX);
    let text = values.get(BURST_MAX).unwrap_or(default).trim();
    let number: i64 = text
        .parse()
        .map_err(|_| values.invalid(BURST_MAX, "a whole number"))?;
    let mut instead = |used: &str| warnings.push(values.warning(BURST_MAX, used));
    match usize::try_from(number) {
        Err(_) | Ok(0) => {
            instead(default);
            Ok(default.parse().unwrap_or(MAX_BURST))
        }
        Ok(number) if number > MAX_BURST => {
            instead(&MAX_BURST.to_string());
            Ok(MAX_BURST)
        }
        Ok(number) => Ok(number),
    }
}

fn forwarded(values: &Values) -> Result<Vec<Signal>, Error> {
    let signal = |name: &str| {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let known = FORWARDABLE.iter().find(|(known, _)| *known == name);
        known.map(|(_, signal)| *signal)
    };
    values
        .list(FORWARD_SIGNALS)
        .map(|name| {
            signal(name).ok_or_else(|| {
                let known = FORWARDABLE.map(|(name, _)| name).join(", ");
                values.invalid(FORWARD_SIGNALS, format!("a list of {known}"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
        let values = Values::from_pairs(SETTINGS, pairs);
        let mut warnings = Vec::new();
        let config = Config::read(&values, &mut warnings).map_err(|error| error.to_string())?;
        Ok((config, warnings.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let (config, warnings) = read(&[]).unwrap();
        assert!(warnings.is_empty());
        assert!(config.pre_start.is_empty() && config.post_exit.is_empty());
        assert_eq!(config.pre_start_timeout, Duration::from_secs(30));
        assert_eq!(config.post_exit_timeout, Duration::from_secs(30));
        assert_eq!(config.grace_period, Duration::from_secs(10));
        assert_eq!(config.stable_after, Duration::from_secs(60));
        assert_eq!(config.burst.window, Duration::from_secs(300));
        assert_eq!(config.burst.launches, 10);
        let backoff = backoff::Limits::new(Duration::from_secs(1), Duration::from_secs(30), 0.1);
        assert_eq!(config.backoff, backoff);
        assert!(config.exit_on_burst);
        assert_eq!((config.name, config.event_log), (None, None));
        assert_eq!(config.threshold, Threshold::Info);
        assert!(config.forward.is_empty());
    }

    #[test]
    fn what_is_not_positive_is_replaced_by_the_default() {
        for (variable, value) in [
            (GRACE_PERIOD, "0"),
            (GRACE_PERIOD, "-5s"),
            (BURST_MAX, "0"),
            (BURST_MAX, "-3"),
        ] {
            let (config, warnings) = read(&[(variable, value)]).unwrap();
            assert_eq!(config.grace_period, Duration::from_secs(10));
            assert_eq!(config.burst.launches, 10);
            assert_eq!(warnings.len(), 1, "{variable}={value}");
        }
        let (config, _) = read(&[(BURST_MAX, "1000000000")]).unwrap();
        assert_eq!(config.burst.launches, MAX_BURST);
    }

    #[test]
    fn jitter_is_a_share_and_never_negative() {
        for (value, expected) in [("0", 0.0), ("0.25", 0.25), ("-0.5", 0.0), ("", 0.1)] {
            let (config, _) = read(&[(BACKOFF_JITTER, value)]).unwrap();
            assert_eq!(config.backoff.jitter(), expected, "{value:?}");
        }
    }

    #[test]
    fn signals_have_names_with_or_without_sig() {
        let (config, _) = read(&[(FORWARD_SIGNALS, "SIGHUP,usr1, WINCH")]).unwrap();
        assert_eq!(config.forward, [Signal::HUP, Signal::USR1, Signal::WINCH]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_it() {
        for (variable, value) in [
            (GRACE_PERIOD, "20"),
            (BACKOFF_MIN, "soon"),
            (BACKOFF_JITTER, "much"),
            (BACKOFF_JITTER, "inf"),
            (BURST_MAX, "1.5"),
            (FORWARD_SIGNALS, "HUP,KILL"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn an_unknown_log_level_means_info() {
        let (config, warnings) = read(&[(LOG_LEVEL, "loud")]).unwrap();
        assert_eq!(config.threshold, Threshold::Info);
        assert_eq!(warnings.len(), 1);
        let (config, _) = read(&[(LOG_LEVEL, "debug")]).unwrap();
        assert_eq!(config.threshold, Threshold::Debug);
    }
}
