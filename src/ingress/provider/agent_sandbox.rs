//! The `Sandbox` of kubernetes-sigs/agent-sandbox: which names an id may have, and where the
//! sandbox is, read off the object; pure.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::address;
use super::index::{Object, State};
use super::resource::{Metadata, Resource};

/// What is listed and watched.
pub const RESOURCE: Resource = Resource {
    provider: "agent-sandbox",
    group: "agents.x-k8s.io",
    versions: &["v1beta1", "v1alpha1"],
    plural: "sandboxes",
    subject: "sandbox ",
    each_name,
    parse,
};

/// What stands before names that would not start with a letter, and before those of older servers.
const PREFIX: &str = "sandbox-";

/// The longest DNS label (RFC 1035).
const LABEL: usize = 63;

/// How much of a longer one is kept before the dash and the digest.
const KEPT: usize = 54;

/// The most characters of a condition's reason and message that are told.
const TOLD: usize = 256;

/// Calls `visit` with the names the object of a sandbox may have, until it returns true: the id as
/// a DNS label, the id itself, the id with a prefix; none of them twice.
fn each_name(id: &str, visit: &mut dyn FnMut(&str) -> bool) {
    let label = dns_label(id);
    if visit(&label) {
        return;
    }
    if *label != *id && visit(id) {
        return;
    }
    if !id.starts_with(PREFIX) {
        let prefixed = format!("{PREFIX}{id}");
        if *label != *prefixed {
            visit(&prefixed);
        }
    }
}

/// The id as a label of RFC 1035; ids that are one, as UUIDs with a letter in front, cost nothing.
fn dns_label(id: &str) -> Cow<'_, str> {
    let plain = |octet: u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_label = id.len() <= LABEL
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && !id.ends_with('-')
        && id.bytes().all(plain)
        && !id.contains("--");
    if is_label {
        return Cow::Borrowed(id);
    }
    let mut label = String::with_capacity(id.len());
    for character in id.trim().to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => label.push(character),
            _ if label.ends_with('-') => {}
            _ => label.push('-'),
        }
    }
    let label = label.trim_matches('-');
    let mut label = if label.is_empty() {
        format!("{PREFIX}{}", digest(id))
    } else if label.starts_with(|first: char| first.is_ascii_lowercase()) {
        label.to_owned()
    } else {
        format!("{PREFIX}{label}")
    };
    if label.len() > LABEL {
        label.truncate(KEPT); // ASCII by now
        let kept = label.trim_matches('-');
        let starts = kept.starts_with(|first: char| first.is_ascii_lowercase());
        let kept = if starts { kept } else { "sandbox" };
        label = format!("{kept}-{}", digest(id));
    }
    Cow::Owned(label.trim_matches('-').to_owned())
}

/// The first eight hexadecimal digits of the SHA-256 of the id.
fn digest(id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    digest
        .iter()
        .take(4)
        .fold(String::new(), |mut text, octet| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{octet:02x}");
            text
        })
}

#[derive(Deserialize)]
struct Sandbox<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    conditions: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "serviceFQDN")]
    service: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "podIPs")]
    pods: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

/// # Errors
///
/// It is no object with a name.
fn parse(json: &[u8]) -> serde_json::Result<Object<'_>> {
    let Sandbox { metadata, status } = serde_json::from_slice(json)?;
    Ok(metadata.into_object(state(status)))
}

fn state(status: Option<&RawValue>) -> State<'static> {
    // A list would be read as the fields of one, in order.
    let status = status.filter(|status| status.get().starts_with('{'));
    let Some(status) = status.and_then(lenient::<Status<'_>>) else {
        return not_ready(None, " missing status");
    };
    let host = host(&status);
    let conditions: Option<Vec<&RawValue>> = status.conditions.and_then(lenient);
    let Some(conditions) = conditions else {
        let reason = " not ready (NoConditions: no sandbox conditions reported)";
        return not_ready(host, reason);
    };
    let conditions = conditions.into_iter().filter_map(lenient::<Condition>);
    let ready = { conditions }.find(|condition| condition.r#type == "Ready");
    let Some(ready) = ready else {
        let reason = " not ready (ReadyConditionMissing: ready condition missing)";
        return not_ready(host, reason);
    };
    if ready.status != "True" {
        let reason = told(&ready.reason, "DependenciesNotReady");
        let message = told(&ready.message, "Ready condition is not True");
        return not_ready(host, format!(" not ready ({reason}: {message})"));
    }
    match host {
        Some(host) => State::Ready(host.into()),
        None => not_ready(None, " has no serviceFQDN"),
    }
}

fn not_ready(host: Option<String>, reason: impl Into<Cow<'static, str>>) -> State<'static> {
    State::NotReady {
        host: host.map(Cow::Owned),
        reason: reason.into(),
    }
}

/// The service's name; newer controllers make no service unless asked, and tell the pods' addresses.
fn host(status: &Status<'_>) -> Option<String> {
    let service: Option<String> = status.service.and_then(lenient);
    let pods = || -> Option<Vec<String>> { status.pods.and_then(lenient) };
    let named = service.filter(|name| !name.is_empty());
    let first = named.or_else(|| pods()?.into_iter().find(|ip| !ip.is_empty()))?;
    address(&first).map(str::to_owned)
}

/// What `json` says, if it has that shape.
fn lenient<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Option<T> {
    serde_json::from_str(json.get()).ok()
}

/// Something of the controller's for clients, within bounds.
fn told<'a>(text: &'a str, default: &'a str) -> Cow<'a, str> {
    match text {
        "" => default.into(),
        text => match text.char_indices().nth(TOLD) {
            None => text.into(),
            Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn names(id: &str) -> Vec<String> {
        let mut names = Vec::new();
        each_name(id, &mut |name| {
            names.push(name.to_owned());
            false
        });
        names
    }

    #[test]
    fn the_names_of_an_id_are_those_of_the_contract() {
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let long = format!("A{}", "b".repeat(100));
        for (id, expected) in [
            ("demo", vec!["demo", "sandbox-demo"]),
            ("1234", vec!["sandbox-1234", "1234"]),
            (uuid, vec![&*format!("sandbox-{uuid}"), uuid]),
            ("!!!", vec!["sandbox-e84c538e", "!!!", "sandbox-!!!"]),
            ("???", vec!["sandbox-a03b221c", "???", "sandbox-???"]),
            ("My_Box", vec!["my-box", "My_Box", "sandbox-My_Box"]),
            ("sandbox-x", vec!["sandbox-x"]),
            (" a--b-", vec!["a-b", " a--b-", "sandbox- a--b-"]),
            (
                &long,
                vec![
                    &*format!("a{}-c70787b6", "b".repeat(53)),
                    &long,
                    &format!("sandbox-{long}"),
                ],
            ),
        ] {
            assert_eq!(names(id), expected, "{id:?}");
        }
    }

    #[test]
    fn the_search_ends_with_the_first_hit() {
        let mut seen = 0;
        each_name("My_Box", &mut |name| {
            seen += 1;
            name == "My_Box"
        });
        assert_eq!(seen, 2);
    }

    proptest::proptest! {
        #[test]
        fn every_id_has_a_label(id in ".{0,100}") {
            let label = dns_label(&id).into_owned();
            assert!((1..=LABEL).contains(&label.len()), "{label}");
            assert!(label.starts_with(|first: char| first.is_ascii_lowercase()), "{label}");
            assert!(!label.ends_with('-') && !label.contains("--"), "{label}");
            let plain = |octet: u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-');
            assert!(label.bytes().all(plain), "{label}");
            assert_eq!(dns_label(&label), label);
        }
    }

    fn read(status: Value) -> State<'static> {
        let object = json!({
            "metadata": {"name": "sb", "namespace": "ns", "uid": "u"},
            "spec": {"podTemplate": {}}, "status": status,
        });
        parse(object.to_string().leak().as_bytes()).unwrap().state
    }

    fn ready(rest: Value) -> Value {
        let mut status = json!({"conditions": [
            {"type": "Other", "status": "False"},
            {"type": "Ready", "status": "True", "reason": "r", "message": "m"},
        ]});
        let fields = status.as_object_mut().unwrap();
        fields.extend(rest.as_object().unwrap().clone());
        status
    }

    #[test]
    fn a_ready_sandbox_is_at_its_service_or_its_first_pod() {
        for (rest, host) in [
            (
                json!({"serviceFQDN": "sb.ns.svc.cluster.local"}),
                "sb.ns.svc.cluster.local",
            ),
            (
                json!({"serviceFQDN": "s.test", "podIPs": ["10.0.0.1"]}),
                "s.test",
            ),
            (
                json!({"serviceFQDN": "", "podIPs": ["", "fd00::1"]}),
                "fd00::1",
            ),
            (json!({"podIPs": ["10.0.0.1", "fd00::1"]}), "10.0.0.1"),
        ] {
            assert_eq!(read(ready(rest)), State::Ready(host.into()));
        }
    }

    #[test]
    fn a_sandbox_that_is_not_ready_says_why() {
        let no_conditions = " not ready (NoConditions: no sandbox conditions reported)";
        let no_ready = " not ready (ReadyConditionMissing: ready condition missing)";
        let condition = |fields: Value| json!({"conditions": [fields]});
        for (status, expected) in [
            (json!(null), " missing status"),
            (json!("x"), " missing status"),
            (json!([]), " missing status"),
            (json!({}), no_conditions),
            (json!({"conditions": null}), no_conditions),
            (json!({"conditions": {}}), no_conditions),
            (json!({"conditions": []}), no_ready),
            (
                json!({"conditions": [1, {"type": "Other", "status": "True"}]}),
                no_ready,
            ),
            (
                condition(
                    json!({"type": "Ready", "status": "False", "reason": "R", "message": "M"}),
                ),
                " not ready (R: M)",
            ),
            (
                condition(json!({"type": "Ready"})),
                " not ready (DependenciesNotReady: Ready condition is not True)",
            ),
            (ready(json!({})), " has no serviceFQDN"),
            (
                ready(json!({"serviceFQDN": 7, "podIPs": "x"})),
                " has no serviceFQDN",
            ),
        ] {
            match read(status.clone()) {
                State::NotReady { reason, .. } => assert_eq!(reason, expected, "{status}"),
                State::Ready(host) => panic!("{status}: ready at {host}"),
            }
        }
        let long = condition(json!({"type": "Ready", "message": "\u{e4}".repeat(10_000)}));
        match read(long) {
            State::NotReady { reason, .. } => assert!(reason.chars().count() < 2 * TOLD),
            State::Ready(_) => panic!("not ready"),
        }
    }
}
