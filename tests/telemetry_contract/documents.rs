//! What `docs/telemetry.md` shows is what the code says: settings, instruments and events are
//! written between markers. `UPDATE_DOCS=1 cargo test --test telemetry_contract` writes them anew.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use opensandbox::config::Setting;
use opensandbox::daemon;
use opensandbox::egress::events::{
    Denied, Fault, Loaded, Observer, Outbound, UpdateFailed, Updated,
};
use opensandbox::egress::metrics::{Outcome, Transport};
use opensandbox::egress::policy::{Action, Reason, Rule};
use opensandbox::telemetry::Component;
use opensandbox::telemetry::env::{SETTINGS, component_settings};
use opensandbox::telemetry::instrument::{Instrument, Kind};
use opensandbox::telemetry::prometheus::name_of;
use opensandbox::telemetry::trace_context::TraceContext;
use serde_json::{Map, Value, json};

use crate::events::{ingress, line};
use crate::registry::SCOPES;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md");

fn settings(table: &[Setting]) -> String {
    let mut text = String::from("| variable | flag | default | meaning |\n|---|---|---|---|\n");
    for setting in table {
        let default = match setting.default {
            "" => "unset".to_owned(),
            default => format!("`{default}`"),
        };
        let Setting { variable, flag, .. } = setting;
        // Not a tag of HTML.
        let help = setting.help.replace('<', "&lt;");
        let _ = writeln!(text, "| `{variable}` | `--{flag}` | {default} | {help} |");
    }
    text
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter | Kind::ObservableCounter => "counter",
        Kind::UpDownCounter | Kind::ObservableUpDownCounter => "up-down counter",
        Kind::Histogram => "histogram",
        Kind::Gauge | Kind::ObservableGauge => "gauge",
    }
}

fn instruments(inventory: &[Instrument]) -> String {
    let mut text = String::from(
        "| metric, and its Prometheus name | kind, unit | attributes | meaning |\n|---|---|---|---|\n",
    );
    for found in inventory {
        let attributes: Vec<_> = found
            .attributes
            .iter()
            .map(|key| format!("`{key}`"))
            .collect();
        let _ = writeln!(
            text,
            "| `{}`<br>`{}` | {}, `{}` | {} | {} |",
            found.name,
            name_of(found),
            kind(found.kind),
            found.unit,
            attributes.join(", "),
            found.help()
        );
    }
    text
}

/// The boundaries of every documented histogram.
fn boundaries() -> String {
    let mut text = String::from("| histogram | boundaries |\n|---|---|\n");
    let scopes = SCOPES.iter().filter(|scope| scope.pending.is_empty());
    for found in scopes.flat_map(|scope| scope.inventory) {
        if found.kind == Kind::Histogram {
            let bounds: Vec<_> = found.boundaries.iter().map(f64::to_string).collect();
            let _ = writeln!(text, "| `{}` | {} |", found.name, bounds.join(" "));
        }
    }
    text
}

/// One event as the log writes it, at a fixed time.
fn example(act: impl FnOnce(&Observer)) -> String {
    let mut line = line(act);
    line["sandbox_id"] = json!("sb-abc");
    shown(line)
}

fn shown(mut line: Map<String, Value>) -> String {
    line["ts"] = json!("2026-11-20T23:51:47.822Z");
    // Not every operator has extra attributes.
    line.shift_remove("team");
    format!("```json\n{}\n```\n", Value::Object(line))
}

/// The examples of the events of egress, by event.
fn egress_event(name: &str) -> String {
    let rules = [Rule::new(Action::Allow, "*.pypi.org").unwrap()];
    let addresses: [IpAddr; 1] = ["198.51.100.7".parse().unwrap()];
    example(|to| {
        let request = to.within(&TraceContext::default());
        match name {
            "egress.loaded" => Loaded {
                default_action: Action::Deny,
                rules: &rules,
            }
            .emit(to),
            "egress.updated" => Updated {
                default_action: Action::Deny,
                rules: &rules,
            }
            .emit(&request),
            "egress.update_failed" => UpdateFailed {
                error: "empty patch rules array",
                fault: Fault::Client,
            }
            .emit(&request),
            "egress.outbound" => Outbound {
                host: "files.pypi.org",
                addresses: &addresses,
                error: None,
                transport: Transport::Udp,
                outcome: Outcome::NoError,
                elapsed: Duration::ZERO,
            }
            .emit(to),
            "egress.denied" => Denied {
                host: "evil.example",
                query_type: "A",
                reason: Reason::Default,
                transport: Transport::Udp,
                outcome: Outcome::NxDomain,
            }
            .emit(to),
            other => panic!("no example of {other}"),
        }
    })
}

/// What stands between the markers of `section`.
fn content(section: &str) -> String {
    let component = |component| settings(component_settings(component));
    if section == "event ingress.access" {
        return shown(ingress::line(ingress::proxied));
    }
    if let Some(event) = section.strip_prefix("event ") {
        return egress_event(event);
    }
    if let Some(name) = section.strip_prefix("metrics ") {
        let scope = SCOPES.iter().find(|scope| scope.name == name);
        return instruments(scope.unwrap_or_else(|| panic!("no scope {name}")).inventory);
    }
    match section {
        "settings" => settings(SETTINGS),
        "settings log" => settings(daemon::SETTINGS),
        "boundaries" => boundaries(),
        "settings egress" => component(Component::Egress),
        "settings ingress" => component(Component::Ingress),
        other => panic!("no section {other}"),
    }
}

/// The document with the sections between its markers written anew.
fn refreshed(document: &str) -> String {
    const BEGIN: &str = "<!-- begin ";
    let mut text = String::new();
    let mut rest = document;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (section, after) = after.split_once(" -->\n").expect("the end of a marker");
        let end = format!("<!-- end {section} -->");
        let (_, after) = after
            .split_once(&end)
            .unwrap_or_else(|| panic!("no {end:?}"));
        let _ = write!(
            text,
            "{before}{BEGIN}{section} -->\n{}{end}",
            content(section)
        );
        rest = after;
    }
    text + rest
}

#[test]
fn the_document_is_current() {
    let document = std::fs::read_to_string(PATH).expect("docs/telemetry.md");
    let current = refreshed(&document);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, current).expect("write docs/telemetry.md");
        return;
    }
    let differs = document.lines().zip(current.lines()).find(|(a, b)| a != b);
    assert!(
        document == current,
        "run with UPDATE_DOCS=1; first: {differs:#?}"
    );
}

/// A component is documented once all of its instruments exist.
#[test]
fn nothing_is_left_out_of_the_document() {
    let document = std::fs::read_to_string(PATH).expect("docs/telemetry.md");
    for scope in SCOPES.iter().filter(|scope| scope.pending.is_empty()) {
        let marker = format!("<!-- begin metrics {} -->", scope.name);
        assert!(document.contains(&marker), "{marker}");
    }
}
