//! The definition of the `supervisor` applet, and how it is heard.
//!
//! Not a [`daemon`]: where nothing is exported it has one thread and no executor, because it waits
//! beside every worker for as long as that runs.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use slog::{Logger, error, info, warn};

use super::{Applet, Exits, Group, Manual, Operand, Operands, PROGRAM_SETTINGS};
use crate::config::{Error, Values, Warning};
use crate::daemon;
use crate::http::connect::Connector;
use crate::lifecycle::{Exit, Fatal, conclude};
use crate::supervisor::events::Observer;
use crate::supervisor::metrics::Metrics;
use crate::supervisor::{self, Config, Duty, Supervisor, WorkerCommand};
use crate::telemetry::env as telemetry;
use crate::telemetry::instrument::Meter;
use crate::telemetry::log::{self, Destination, LineWriter, LogConfig};
use crate::telemetry::{Component, Telemetry, process};

/// Permissions of the directories made for the event log, before the umask.
const DIRECTORY_MODE: u32 = 0o755;

/// Keeps one worker running.
pub const APPLET: Applet = Applet {
    name: "supervisor",
    about: "Keeps one worker running, as process 1 of a container or below it",
    description: "\
        Runs the command behind -- in a process group of its own, and runs it again whenever it \
        ends, after a pause that doubles from one restart to the next. Hooks run before each \
        launch and after each end. Too many launches in a short time end it, so that whoever \
        started it can react. Orphaned processes that fall to it are reaped.",
    banner: Some("OpenSandbox Supervisor"),
    settings: &[
        Group {
            heading: "Supervisor",
            settings: supervisor::SETTINGS,
        },
        Group {
            heading: "Log and telemetry",
            settings: daemon::SETTINGS,
        },
        Group {
            heading: "OpenTelemetry",
            settings: telemetry::SETTINGS,
        },
        Group {
            heading: "Program",
            settings: PROGRAM_SETTINGS,
        },
    ],
    operands: Operands::Command(Operand {
        name: "WORKER",
        words: &[],
        help: "The worker and its arguments",
    }),
    exits: Exits {
        meanings: &[
            (
                Exit::Success,
                "SIGTERM or SIGINT asked for the end, whatever the worker ended with.",
            ),
            (
                Exit::Failure,
                "The worker was launched too often in too short a time.",
            ),
            (
                Exit::Setup,
                "The command line cannot be used, or something needed cannot be had.",
            ),
        ],
        of: |_| Exit::Setup,
    },
    manual: Manual {
        files: &[],
        signals: &[
            (
                "SIGTERM, SIGINT",
                "Send the worker SIGTERM, kill its process group after --grace-period, run the \
                 post-exit hooks, end. Further ones change nothing.",
            ),
            (
                "SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH",
                "Passed on to the worker if --forward-signals has them.",
            ),
        ],
        examples: &[
            (
                "opensandbox supervisor --name=egress --grace-period=20s -- /opt/opensandbox-egress/egress",
                "Keep the egress filter of a sandbox running.",
            ),
            (
                "opensandbox supervisor --event-log=/var/log/worker.jsonl --burst-max=5 --burst-window=1m -- worker --port 80",
                "Write events to a file, and give up after five launches within a minute.",
            ),
        ],
    },
    prepare: |_| Ok(()),
    check: |values, warnings| {
        drop(telemetry_config(values, warnings));
        Config::read(values, warnings).map(drop)
    },
    run,
};

fn run(values: &Values) -> Result<Exit, Fatal> {
    let mut warnings = values.warnings().to_vec();
    let config = Config::read(values, &mut warnings)?;
    let telemetry = telemetry_config(values, &mut warnings);
    let worker = WorkerCommand::new(values.operands())
        .ok_or_else(|| Error::Usage("missing worker command after `--`".to_owned()))?;
    let events = config.event_log.as_deref().unwrap_or("stderr");
    let event_log = open_event_log(config.event_log.as_deref())
        .map_err(Fatal::failed(format!("cannot open the event log {events}")))?;
    // Before telemetry starts threads, which would otherwise be interrupted by the signals.
    let duty = Duty::take(config.forward.clone())
        .map_err(Fatal::failed("cannot take over signals and orphans"))?;
    let voice = Voice::new(values, &config, &telemetry)?;
    for warning in &warnings {
        warn!(voice.logger(), "{warning}");
    }
    info!(
        voice.logger(),
        "supervising {:?} (event-log={events})",
        worker.program.to_string_lossy()
    );
    let name = config.name.clone().unwrap_or_else(|| worker.name());
    let metrics = Metrics::new(&voice.meter());
    let observer = Observer::new(name, event_log, voice.logger().clone(), metrics);
    let supervisor = Supervisor::new(config, worker, duty, observer);
    Ok(conclude(
        voice,
        |voice| {
            Ok(supervisor.run().unwrap_or_else(|cause| {
                error!(
                    voice.logger(),
                    "supervisor: cannot wait for the worker: {cause}"
                );
                Exit::Setup
            }))
        },
        |voice, fatal| error!(voice.logger(), "supervisor: {fatal}"),
        Voice::finish,
    ))
}

/// What is exported. There is no scrape endpoint: the worker reads the same variables and needs
/// the port for itself.
fn telemetry_config(values: &Values, warnings: &mut Vec<Warning>) -> telemetry::Config {
    let mut config = telemetry::Config::read(Component::Supervisor, values, warnings);
    config.metrics.prometheus = None;
    config
}

fn open_event_log(path: Option<&str>) -> io::Result<LineWriter> {
    let Some(path) = path.map(Path::new) else {
        return LineWriter::open(&Destination::Stderr);
    };
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)?;
    }
    LineWriter::open(&Destination::File(path.to_owned()))
}

/// How the supervisor is heard.
enum Voice {
    /// By its log, which it writes itself.
    Direct(Logger),
    /// By its log and its exporters, which have threads.
    Exporting(Box<Telemetry>),
}

impl Voice {
    fn new(values: &Values, config: &Config, telemetry: &telemetry::Config) -> Result<Self, Fatal> {
        let log = LogConfig {
            name: Component::Supervisor.logger(),
            threshold: config.threshold,
            destinations: daemon::LogOutput::read(values).destinations,
            baseline: telemetry
                .shared_attributes()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        let failed = || Fatal::failed("cannot log");
        let (metrics, logs) = (&telemetry.metrics, &telemetry.logs);
        let exported =
            metrics.otlp.is_some() || metrics.console || logs.otlp.is_some() || logs.console;
        if !exported {
            return Ok(Self::Direct(log::direct(&log).map_err(failed())?));
        }
        let log = log::build(&log).map_err(failed())?;
        let telemetry = Telemetry::init(telemetry, log, &Connector::default());
        process::observe(
            &telemetry.meter(process::Metrics::SCOPE),
            telemetry.log().dropped(),
        );
        Ok(Self::Exporting(Box::new(telemetry)))
    }

    fn logger(&self) -> &Logger {
        match self {
            Self::Direct(logger) => logger,
            Self::Exporting(telemetry) => telemetry.logger(),
        }
    }

    fn meter(&self) -> Meter {
        match self {
            Self::Direct(_) => Meter::noop(),
            Self::Exporting(telemetry) => telemetry.meter(Metrics::SCOPE),
        }
    }

    fn finish(self, limit: Duration) {
        match self {
            Self::Direct(_) => {}
            Self::Exporting(telemetry) => {
                telemetry.shutdown(limit);
            }
        }
    }
}
