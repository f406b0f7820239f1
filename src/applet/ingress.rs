//! The definition of the `ingress` applet.

use super::{Applet, Exits, Group, Manual, Operands, PROGRAM_SETTINGS};
use crate::config::{Error, Values, Warning};
use crate::http::connect::Connector;
use crate::http::listen;
use crate::lifecycle::{Exit, Fatal, Signals};
use crate::telemetry::Component;
use crate::telemetry::env::{self as telemetry, component_settings};
use crate::{daemon, ingress};

/// Passes requests on to the sandboxes they name.
pub const APPLET: Applet = Applet {
    name: "ingress",
    about: "Passes requests on to the sandboxes they name",
    description: "\
        The gateway in front of the sandboxes of a cluster, or of a machine. A request names its \
        sandbox and port in a header, in the host or in the path; the sandbox is found in memory, \
        kept current from Kubernetes or from a file; who may come in is decided; and bytes go both \
        ways, HTTP and WebSocket alike. Every request is a log record and moves a metric.",
    banner: Some("OpenSandbox Ingress"),
    settings: &[
        Group {
            heading: "Ingress",
            settings: ingress::config::SETTINGS,
        },
        Group {
            heading: "Sandboxes",
            settings: ingress::provider::SETTINGS,
        },
        Group {
            heading: "Log",
            settings: daemon::SETTINGS,
        },
        Group {
            heading: "Telemetry",
            settings: component_settings(Component::Ingress),
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
                "A signal asked for the end, and everything under way was finished, or a second \
                 one asked not to wait for it.",
            ),
            (
                Exit::Failure,
                "Something failed after the start, or requests took longer than the drain may.",
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
                "$HOME/.kube/config",
                "How Kubernetes is reached, where it is there and no other file is named.",
            ),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount",
                "How Kubernetes is reached from a pod.",
            ),
        ],
        signals: Signals::MEANINGS,
        examples: &[
            (
                "opensandbox ingress --provider-type=static --routes=/etc/opensandbox/routes.toml",
                "Serve the sandboxes in a file.",
            ),
            (
                "opensandbox ingress --mode=uri --secure-access-keys-file=/run/secrets/keys",
                "Serve the sandboxes of the cluster of the kubeconfig, with routes in paths.",
            ),
            (
                "curl -H 'OpenSandbox-Ingress-To: my-sandbox-8080' http://127.0.0.1:28888/",
                "Ask port 8080 of a sandbox.",
            ),
        ],
    },
    prepare: |_| Ok(()),
    check: |values, warnings| {
        drop(telemetry::Config::read(
            Component::Ingress,
            values,
            warnings,
        ));
        read(values, warnings).map(drop)
    },
    run: |values| {
        let mut warnings = Vec::new();
        let config = read(values, &mut warnings)?;
        let handed_over = |name: &str| values.get(name).map(str::to_owned);
        let inherited = listen::inherited(handed_over)
            .map_err(Fatal::failed("cannot use the sockets handed over"))?;
        let start = daemon::Start {
            component: Component::Ingress,
            values,
            threshold: config.log_threshold,
            log: daemon::LogOutput::read(values),
            warnings,
            connector: Connector::default(),
        };
        daemon::run(start, |daemon| ingress::run(config, &inherited, daemon))
    },
};

fn read(values: &Values, warnings: &mut Vec<Warning>) -> Result<ingress::config::Config, Error> {
    let read_file = |path: &std::path::Path| std::fs::read_to_string(path);
    ingress::config::Config::read(values, &read_file, warnings)
}
