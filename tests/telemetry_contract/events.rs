//! Every event of section 9, emitted through the code that emits it: names, levels, fields in
//! order, types. Those of ingress are in [`ingress`].

pub mod ingress;

use std::net::IpAddr;
use std::time::Duration;

use opensandbox::egress::events::{
    Denied, Fault, Loaded, Observer, Outbound, Refused, UpdateFailed, Updated,
};
use opensandbox::egress::metrics::{Metrics, Outcome, Transport};
use opensandbox::egress::policy::{Action, Reason, Rule};
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::log::{self, Destination, LogConfig, Threshold};
use opensandbox::telemetry::trace_context::TraceContext;
use serde_json::{Map, Value, json};
use slog::Logger;

/// The keys before those of an event, with the baseline of the test.
const COMMON: [&str; 6] = ["level", "ts", "logger", "msg", "sandbox_id", "team"];

/// The one line that `act` has the log of egress write, its keys in order.
pub fn line(act: impl FnOnce(&Observer)) -> Map<String, Value> {
    let baseline = [("sandbox_id", "sb"), ("team", "red")];
    logged("opensandbox.egress", &baseline, |logger| {
        act(&Observer::new(logger, Metrics::new(&Meter::noop())));
    })
}

/// The one line that `act` has the log called `name` write, its keys in order.
pub fn logged(
    name: &'static str,
    baseline: &[(&str, &str)],
    act: impl FnOnce(Logger),
) -> Map<String, Value> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log");
    let baseline = baseline.iter();
    let (logger, guard) = log::build(&LogConfig {
        name,
        threshold: Threshold::Info,
        destinations: vec![Destination::File(file.clone())],
        baseline: baseline
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    })
    .unwrap();
    act(logger);
    guard.close(Duration::from_secs(5));
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn assert_event(level: &str, name: &str, fields: &[(&str, Value)], act: impl FnOnce(&Observer)) {
    let line = line(act);
    let expected: Vec<_> = COMMON
        .into_iter()
        .chain(["opensandbox.event"])
        .chain(fields.iter().map(|(key, _)| *key))
        .collect();
    assert_eq!(line.keys().collect::<Vec<_>>(), expected, "{line:?}");
    assert_eq!(line["level"], level);
    assert_eq!(line["logger"], "opensandbox.egress");
    assert_eq!(line["opensandbox.event"], name);
    for (key, value) in fields {
        assert_eq!(line[*key], *value, "{key}");
    }
}

fn outbound(addresses: &[IpAddr], error: Option<&str>, to: &Observer) {
    Outbound {
        host: "files.pypi.example",
        addresses,
        error,
        transport: Transport::Udp,
        outcome: Outcome::NoError,
        elapsed: Duration::from_millis(1),
    }
    .emit(to);
}

#[test]
fn egress_outbound() {
    let host = ("target.host", json!("files.pypi.example"));
    let addresses = ["198.51.100.7", "2001:db8::7"].map(|address| address.parse().unwrap());
    let listed = ("target.ips", json!(["198.51.100.7", "2001:db8::7"]));
    assert_event("info", "egress.outbound", &[host.clone(), listed], |to| {
        outbound(&addresses, None, to);
    });
    assert_event(
        "info",
        "egress.outbound",
        std::slice::from_ref(&host),
        |to| {
            outbound(&[], None, to);
        },
    );
    let error = ("error", json!("no answer"));
    assert_event("info", "egress.outbound", &[host, error], |to| {
        outbound(&[], Some("no answer"), to);
    });
}

fn rules() -> (Vec<Rule>, Value) {
    let rules = vec![
        Rule::new(Action::Deny, "Z.example").unwrap(),
        Rule::new(Action::Allow, "*.a.example").unwrap(),
    ];
    let listed = json!([
        {"action": "deny", "target": "Z.example"},
        {"action": "allow", "target": "*.a.example"},
    ]);
    (rules, listed)
}

#[test]
fn egress_loaded_and_updated() {
    let (rules, listed) = rules();
    let fields = [("egress.default", json!("deny")), ("rules", listed)];
    assert_event("info", "egress.loaded", &fields, |to| {
        Loaded {
            default_action: Action::Deny,
            rules: &rules,
        }
        .emit(to);
    });
    assert_event("info", "egress.updated", &fields, |to| {
        Updated {
            default_action: Action::Deny,
            rules: &rules,
        }
        .emit(&to.within(&TraceContext::default()));
    });
}

#[test]
fn a_long_list_of_rules_is_its_digest() {
    let rule = Rule::new(Action::Allow, "a.example").unwrap();
    let rules = vec![rule; 257];
    let line = line(|to| {
        Loaded {
            default_action: Action::Allow,
            rules: &rules,
        }
        .emit(to);
    });
    let own: Vec<_> = line.keys().skip(COMMON.len()).collect();
    let expected = [
        "opensandbox.event",
        "egress.default",
        "rules_digest",
        "rules_count",
    ];
    assert_eq!(own, expected);
    let digest = line["rules_digest"].as_str().unwrap();
    assert_eq!(digest.len(), "sha256:".len() + 64);
    assert_eq!(line["rules_count"], 257);
}

#[test]
fn egress_update_failed() {
    for (fault, level) in [(Fault::Client, "warn"), (Fault::Server, "error")] {
        let fields = [("error", json!("why"))];
        assert_event(level, "egress.update_failed", &fields, |to| {
            UpdateFailed {
                error: "why",
                fault,
            }
            .emit(&to.within(&TraceContext::default()));
        });
    }
}

#[test]
fn egress_denied() {
    for (reason, text) in [
        (Reason::Rule, "rule"),
        (Reason::Default, "default"),
        (Reason::Always, "always"),
    ] {
        let fields = [
            ("target.host", json!("evil.example")),
            ("reason", json!(text)),
            ("qtype", json!("AAAA")),
        ];
        assert_event("info", "egress.denied", &fields, |to| {
            Denied {
                host: "evil.example",
                query_type: "AAAA",
                reason,
                transport: Transport::Tcp,
                outcome: Outcome::NxDomain,
            }
            .emit(to);
        });
    }
    // A message that cannot be read has neither a host nor a type.
    let fields = [("reason", json!("malformed"))];
    assert_event("info", "egress.denied", &fields, |to| {
        Refused {
            transport: Transport::Udp,
        }
        .emit(to);
    });
}
