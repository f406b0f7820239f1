//! The definition of the `egress` applet.

use std::path::Path;

use super::{Applet, Exits, Group, Manual, Operands, PROGRAM_SETTINGS};
use crate::config::{Error, Values, Warning};
use crate::lifecycle::Signals;
use crate::telemetry::Component;
use crate::telemetry::env::{self as telemetry, component_settings};
use crate::{daemon, egress};

/// Decides by name what a sandbox may reach.
pub const APPLET: Applet = Applet {
    name: "egress",
    about: "Decides by name what a sandbox may reach, and records it",
    description: "\
        Runs beside a sandbox in its network namespace. Names are resolved through a filter that \
        answers only what the policy allows; the kernel sends every DNS query of the sandbox to \
        it. The policy comes from the environment or a file and is changed over an HTTP API. \
        Every decision is a log record and moves a metric.",
    banner: Some("OpenSandbox Egress"),
    settings: &[
        Group {
            heading: "Egress",
            settings: egress::config::SETTINGS,
        },
        Group {
            heading: "Log",
            settings: daemon::SETTINGS,
        },
        Group {
            heading: "Telemetry",
            settings: component_settings(Component::Egress),
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
    exits: Exits::USUAL,
    manual: Manual {
        files: &[
            (
                "/var/egress/rules/deny.always",
                "Names and addresses that are denied whatever the policy says, one a line.",
            ),
            (
                "/var/egress/rules/allow.always",
                "Names and addresses that are allowed unless deny.always has them, one a line.",
            ),
            (
                "/var/egress/rules/log_skip.always",
                "Names whose allowed queries are not logged, one a line.",
            ),
            (
                "/etc/resolv.conf",
                "The upstream resolvers when no others are set.",
            ),
        ],
        signals: Signals::MEANINGS,
        examples: &[
            (
                "OPENSANDBOX_EGRESS_RULES='{\"egress\":[{\"action\":\"allow\",\"target\":\"*.example.com\"}]}' opensandbox egress",
                "Allow example.com's subdomains and nothing else.",
            ),
            (
                "opensandbox egress --config /etc/opensandbox/egress.toml --print-config",
                "Show every setting with its value and where the value comes from, without starting.",
            ),
            (
                "curl http://127.0.0.1:18080/policy",
                "Ask the running filter for its policy.",
            ),
        ],
    },
    prepare: |_| Ok(()),
    check: |values, warnings| {
        drop(telemetry::Config::read(Component::Egress, values, warnings));
        read(values, warnings).map(drop)
    },
    run: |values| {
        let mut warnings = Vec::new();
        let config = read(values, &mut warnings)?;
        let resolver = egress::UpstreamResolver::default();
        let start = daemon::Start {
            component: Component::Egress,
            values,
            threshold: config.log_threshold,
            log: daemon::LogOutput::read(values),
            warnings,
            connector: egress::connector(&resolver),
        };
        daemon::run(start, |daemon| egress::run(config, &resolver, daemon))
    },
};

fn read(values: &Values, warnings: &mut Vec<Warning>) -> Result<egress::config::Config, Error> {
    let read_file = |path: &Path| std::fs::read_to_string(path);
    egress::config::Config::read(values, &read_file, warnings)
}
