//! What every daemon does around its work: signals, log, telemetry, runtime, and the way out.
//!
//! Owns the order of these steps, so that no way out skips the flush. Never knows what the daemon
//! is for: that is the function it is given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, error, info, o, warn};

use crate::config::{Kind, Setting, Values, Warning};
use crate::lifecycle::{self, Exit, Fatal, Notice, Shutdown, Signals};
use crate::runtime::{self, Runtime};
use crate::telemetry::log::{self, Destination, LogConfig, LogGuard, Threshold};
use crate::telemetry::{self, Component, Telemetry};

/// The settings of every daemon's log.
pub const SETTINGS: &[Setting] = &[Setting {
    flag: "log-output",
    variable: LOG_OUTPUT,
    default: "stdout",
    kind: Kind::Text,
    help: "Where the log goes: comma list of stdout, stderr and file paths; files are rotated",
}];

const LOG_OUTPUT: &str = "OPENSANDBOX_LOG_OUTPUT";

/// The share of the flush deadline that is left for the log after telemetry has used the rest.
const LOG_CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// How a daemon is started.
pub struct Start<'a> {
    /// Which daemon.
    pub component: Component,
    /// Its resolved settings.
    pub values: &'a Values,
    /// How much it logs at first.
    pub threshold: Threshold,
    /// What was found while its own settings were read.
    pub warnings: Vec<Warning>,
    /// How telemetry reaches its receivers.
    pub network: telemetry::Network,
}

/// What a daemon works with.
pub struct Daemon {
    /// Metrics and the logger.
    pub telemetry: Telemetry,
    /// The executor.
    pub runtime: Runtime,
    /// The token by which it learns that it is to end.
    pub shutdown: Shutdown,
}

impl Daemon {
    /// The logger of the process.
    #[must_use]
    pub fn logger(&self) -> &Logger {
        self.telemetry.logger()
    }
}

/// Runs `main` as the daemon described by `start`, to its end, whichever that is.
///
/// # Errors
///
/// The log, the runtime or the signal handlers cannot be had. What `main` fails with is logged and
/// becomes the exit code.
pub fn run(
    start: Start<'_>,
    main: impl FnOnce(&Daemon) -> Result<Exit, Fatal>,
) -> Result<Exit, Fatal> {
    let mut warnings = start.values.warnings().to_vec();
    warnings.extend(start.warnings);
    let config = telemetry::Config::read(start.component, start.values, &mut warnings);
    let signals = Signals::catch().map_err(Fatal::failed("cannot catch signals"))?;
    let (logger, guard) = log::build(&LogConfig {
        name: start.component.logger(),
        threshold: start.threshold,
        destinations: Destination::parse_list(start.values.get(LOG_OUTPUT).unwrap_or_default()),
        baseline: config
            .shared_attributes()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    })
    .map_err(Fatal::failed("cannot log"))?;
    for warning in &warnings {
        warn!(logger, "{warning}");
    }
    let runtime =
        Runtime::new(runtime::threads()).map_err(Fatal::failed("cannot start the executor"))?;
    let panics = logger.clone();
    lifecycle::report_panics(move |panic| {
        error!(panics, "a panic was contained: {}", panic.message; o!(
            "thread" => panic.thread.to_owned(),
            "location" => panic.location.map(ToString::to_string),
        ));
    });
    let telemetry = Telemetry::init(&config, logger, &guard, start.network);
    let daemon = Daemon {
        telemetry,
        runtime,
        shutdown: Shutdown::new(),
    };
    daemon.runtime.spawn(watch_signals(signals, &daemon, &guard)).detach();
    let logger = daemon.logger().clone();
    Ok(lifecycle::conclude(
        || main(&daemon),
        |fatal| error!(logger, "{fatal}"),
        |within| finish(daemon_telemetry, guard, within),
    ))
}
