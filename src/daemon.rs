//! What every daemon does around its work: signals, log, telemetry, executor, and the way out.
//!
//! Owns the order of these steps, so that no way out skips the flush. Never knows what the daemon
//! is for: that is the function it is given.

use std::time::Duration;

use slog::{Logger, error, info, warn};
use smol::Timer;

use crate::config::{Kind, Setting, Values, Warning};
use crate::footprint;
use crate::http::connect::Connector;
use crate::lifecycle::{self, Exit, Fatal, Notice, Shutdown, Signals};
use crate::runtime::{self, Runtime};
use crate::telemetry::log::{self, Destination, LogConfig, Threshold};
use crate::telemetry::{self, Component, Telemetry, process};

/// The settings of every daemon's log.
pub const SETTINGS: &[Setting] = &[Setting {
    flag: "log-output",
    variable: LOG_OUTPUT,
    default: "stdout",
    kind: Kind::Text,
    help: "Where the log goes: comma list of stdout, stderr and file paths; files are rotated",
}];

const LOG_OUTPUT: &str = "OPENSANDBOX_LOG_OUTPUT";

/// Where the log goes.
#[derive(Clone, Debug)]
pub struct LogOutput {
    /// The setting that says so.
    pub variable: &'static str,
    /// What it says.
    pub destinations: Vec<Destination>,
}

impl LogOutput {
    /// Reads the setting of every daemon.
    #[must_use]
    pub fn read(values: &Values) -> Self {
        Self {
            variable: LOG_OUTPUT,
            destinations: Destination::parse_list(values.get(LOG_OUTPUT).unwrap_or_default()),
        }
    }
}

/// How long after its beginning a start is over.
const STARTED: Duration = Duration::from_secs(1);

/// How a daemon is started.
pub struct Start<'a> {
    /// Which daemon.
    pub component: Component,
    /// Its resolved settings.
    pub values: &'a Values,
    /// How much it logs at first.
    pub threshold: Threshold,
    /// Where it logs.
    pub log: LogOutput,
    /// What was found while its own settings were read.
    pub warnings: Vec<Warning>,
    /// How telemetry reaches its receivers.
    pub connector: Connector,
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
    pub fn logger(&self) -> &Logger {
        self.telemetry.logger()
    }
}

/// Runs `main` as the daemon that `start` describes, to its end, whichever that is. What `main`
/// fails with is logged, and becomes the exit code.
///
/// # Errors
///
/// The log, the executor or the signal handlers cannot be had; nothing was started.
pub fn run(
    start: Start<'_>,
    main: impl FnOnce(&Daemon) -> Result<Exit, Fatal>,
) -> Result<Exit, Fatal> {
    let mut warnings = start.values.warnings().to_vec();
    warnings.extend(start.warnings);
    let config = telemetry::Config::read(start.component, start.values, &mut warnings);
    let signals = Signals::catch().map_err(Fatal::failed("cannot catch signals"))?;
    let runtime =
        Runtime::new(runtime::threads()).map_err(Fatal::failed("cannot start the executor"))?;
    let log = log::build(&LogConfig {
        name: start.component.logger(),
        threshold: start.threshold,
        destinations: start.log.destinations,
        baseline: config
            .shared_attributes()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    })
    .map_err(|error| match error {
        log::Error::Open { .. } => start
            .values
            .invalid(
                start.log.variable,
                format!("outputs that can be opened, but {error}"),
            )
            .into(),
        log::Error::Thread(_) => Fatal::failed("cannot log")(error),
    })?;
    for warning in &warnings {
        warn!(log.0, "{warning}");
    }
    // The process has one place for each of these, so they belong to who runs the process.
    telemetry::diagnostics::install(&config, &log.1.local());
    report_panics(log.0.clone());
    let daemon = Daemon {
        telemetry: Telemetry::init(&config, log, &start.connector),
        runtime,
        shutdown: Shutdown::new(),
    };
    watch(signals, &daemon);
    process::observe(
        &daemon.telemetry.meter(process::Metrics::SCOPE),
        daemon.telemetry.log().dropped(),
    );
    daemon
        .telemetry
        .serve_scrapers(&daemon.runtime.spawner(), daemon.shutdown.clone());
    let release = async {
        Timer::after(STARTED).await;
        footprint::give_back();
    };
    daemon.runtime.spawn(release).detach();
    Ok(lifecycle::conclude(
        daemon,
        main,
        |daemon, fatal| error!(daemon.logger(), "{fatal}"),
        finish,
    ))
}

/// Ends what still runs, then exports and writes what telemetry holds, within `limit`.
fn finish(daemon: Daemon, limit: Duration) {
    let Daemon {
        telemetry, runtime, ..
    } = daemon;
    drop(runtime);
    telemetry.shutdown(limit);
}

fn report_panics(logger: Logger) {
    lifecycle::report_panics(move |panic| {
        let location = panic.location.map(ToString::to_string);
        error!(logger, "observed a panic: {}", panic.message;
            "thread" => panic.thread,
            "location" => location);
    });
}

fn watch(signals: Signals, daemon: &Daemon) {
    let logger = daemon.logger().clone();
    let level = daemon.telemetry.log().level();
    let notify = move |notice| match notice {
        Notice::Drain => info!(
            logger,
            "received shutdown signal; beginning graceful shutdown"
        ),
        Notice::Force => warn!(logger, "received a second shutdown signal; ending at once"),
        Notice::MoreVerbose => level.raise(),
        Notice::LessVerbose => level.lower(),
    };
    daemon
        .runtime
        .spawn(signals.watch(daemon.shutdown.clone(), notify))
        .detach();
}
