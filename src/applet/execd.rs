//! The definition of the `execd` applet.

use std::path::Path;

use super::{Applet, Exits, Group, Manual, Operands, PROGRAM_SETTINGS};
use crate::config::{Error, Values, Warning};
use crate::daemon;
use crate::execd::{self, clone3, config::Config};
use crate::http::connect::Connector;
use crate::http::resolve::SystemResolver;
use crate::lifecycle::{Exit, Fatal, Signals};
use crate::telemetry::Component;
use crate::telemetry::env::{self as telemetry, component_settings};

/// Runs commands, shells and terminals for the clients of its API.
pub const APPLET: Applet = Applet {
    name: "execd",
    about: "Runs commands, shells and terminals inside a sandbox, over HTTP",
    description: "\
        Runs inside a sandbox, as its first process or beside the workload, and needs no file \
        but itself. Clients run commands and get their output as a stream of events, keep \
        persistent shells and terminals, and reach the ports of the sandbox. What is run sees \
        the daemon's environment without its secrets.",
    banner: Some("OpenSandbox Execd"),
    settings: &[
        Group {
            heading: "Execd",
            settings: execd::config::SETTINGS,
        },
        Group {
            heading: "Log",
            settings: execd::config::LOG_SETTINGS,
        },
        Group {
            heading: "Log output",
            settings: daemon::SETTINGS,
        },
        Group {
            heading: "Telemetry",
            settings: component_settings(Component::Execd),
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
    operands: Operands::Ignored,
    exits: Exits {
        meanings: &[
            (
                Exit::Success,
                "A signal asked for the end, and everything was drained.",
            ),
            (
                Exit::Failure,
                "The port is taken, the system lacks something asked for, or a drain was cut short.",
            ),
            (
                Exit::Setup,
                "The command line or the configuration cannot be used; nothing was started.",
            ),
        ],
        of: |fatal| match fatal {
            Fatal::Config(_) => Exit::Setup,
            Fatal::Failed { .. } | Fatal::Refused(_) | Fatal::Panicked => Exit::Failure,
        },
    },
    manual: Manual {
        files: &[
            (
                "/opt/opensandbox/.env",
                "What EXECD_ENVS names where the image's bootstrap.sh starts execd.",
            ),
            (
                "/etc/passwd, /etc/group",
                "The groups and the home directory of a user a command runs as.",
            ),
        ],
        signals: Signals::MEANINGS,
        examples: &[
            (
                "opensandbox execd --access-token-file=/run/secrets/execd",
                "Serve on port 44772 those who know the token.",
            ),
            (
                "curl -N -d '{\"command\":\"echo hello\"}' http://127.0.0.1:44772/command",
                "Run a command and watch its events.",
            ),
        ],
    },
    prepare,
    check: |values, warnings| {
        drop(telemetry::Config::read(Component::Execd, values, warnings));
        read(values, warnings).map(drop)
    },
    run: |values| {
        let mut warnings = Vec::new();
        let config = read(values, &mut warnings)?;
        let start = daemon::Start {
            component: Component::Execd,
            values,
            threshold: config.log_threshold,
            log: config.log_output.clone(),
            warnings,
            connector: Connector::new(SystemResolver),
        };
        daemon::run(start, |daemon| {
            execd::run(config, super::variables(), daemon)
        })
    },
};

/// Keeps programs from `clone3` where that is asked for: before there is a second thread, and
/// before anything is said, because the process may start again.
fn prepare(values: &Values) -> Result<(), Fatal> {
    let mode = clone3::Mode::parse(values.get(clone3::VARIABLE))
        .map_err(|invalid| Fatal::Refused(invalid.to_string()))?;
    let applied = super::variables().any(|(name, mark)| name == clone3::APPLIED && mark == "1");
    mode.apply(applied, std::env::args_os())
        .map(drop)
        .map_err(|error| Fatal::Refused(error.to_string()))
}

fn read(values: &Values, warnings: &mut Vec<Warning>) -> Result<Config, Error> {
    let read_file = |path: &Path| std::fs::read_to_string(path);
    Config::read(values, &read_file, warnings)
}
