//! The `BatchSandbox` of OpenSandbox's controller: which names an id may have, and where the
//! sandbox is, read off the object; pure.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::address;
use super::index::{Object, State};
use super::resource::{Annotations, Metadata, Resource};

/// What is listed and watched.
pub const RESOURCE: Resource = Resource {
    provider: "batchsandbox",
    group: "sandbox.opensandbox.io",
    versions: &["v1alpha1"],
    plural: "batchsandboxes",
    subject: "",
    each_name,
    parse,
};

/// Where the controller writes the addresses of the pods.
const ENDPOINTS: &str = "sandbox.opensandbox.io/endpoints";

/// What the server put before ids in older versions.
const LEGACY_PREFIX: &str = "sandbox-";

/// Calls `visit` with the names the object of a sandbox may have, until it returns true: the id,
/// then the legacy name, as the lifecycle server does.
fn each_name(id: &str, visit: &mut dyn FnMut(&str) -> bool) {
    if visit(id) || id.starts_with(LEGACY_PREFIX) {
        return;
    }
    visit(&format!("{LEGACY_PREFIX}{id}"));
}

#[derive(Deserialize)]
struct BatchSandbox<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    ready: i32,
    replicas: i32,
}

/// # Errors
///
/// It is no object with a name.
fn parse(json: &[u8]) -> serde_json::Result<Object<'_>> {
    let BatchSandbox { metadata, status } = serde_json::from_slice(json)?;
    // A status of another shape says of no replica that it is ready.
    let status = status.and_then(|status| serde_json::from_str(status.get()).ok());
    let state = state(&status.unwrap_or_default(), metadata.annotations.as_ref());
    Ok(metadata.into_object(state))
}

fn state(status: &Status, annotations: Option<&Annotations>) -> State<'static> {
    let host = host(annotations);
    if status.ready < 1 {
        let Status { ready, replicas } = status;
        return State::NotReady {
            host: host.ok().map(Cow::Owned),
            reason: format!(" (ready: {ready}/{replicas})").into(),
        };
    }
    match host {
        Ok(host) => State::Ready(host.into()),
        Err(reason) => State::NotReady { host: None, reason },
    }
}

/// The first address of a pod. Which pods of several are ready is not in the object.
fn host(annotations: Option<&Annotations>) -> Result<String, Cow<'static, str>> {
    let annotations = annotations.ok_or(": BatchSandbox has no annotations")?;
    let text = annotations.endpoints.as_deref();
    let text = text.filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| format!(": missing {ENDPOINTS} annotation"))?;
    let elements: Option<Vec<Option<String>>> = serde_json::from_str(text)
        .map_err(|cause| format!(": failed to parse endpoints annotation: {cause}"))?;
    let elements = elements.unwrap_or_default();
    if elements.is_empty() {
        return Err(": endpoints annotation contains no IPs".into());
    }
    let mut given = elements.iter().flatten().filter(|text| !text.is_empty());
    let Some(first) = given.clone().find_map(|text| address(text)) else {
        return Err(match given.next() {
            None => ": endpoints annotation contains no IPs yet".into(),
            Some(_) => ": endpoints annotation holds no address".into(),
        });
    };
    Ok(first.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(object: &Value) -> Object<'static> {
        parse(object.to_string().leak().as_bytes()).unwrap()
    }

    fn batch(annotations: Value, status: Value) -> Value {
        json!({
            "apiVersion": "sandbox.opensandbox.io/v1alpha1",
            "kind": "BatchSandbox",
            "metadata": {"name": "sb", "namespace": "ns", "uid": "u-1", "annotations": annotations},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "\u{e4}\n"}]}}},
            "status": status,
        })
    }

    fn reason(object: &Value) -> String {
        match read(object).state {
            State::NotReady { reason, .. } => reason.into_owned(),
            State::Ready(host) => panic!("ready at {host}"),
        }
    }

    #[test]
    fn a_ready_sandbox_is_at_its_first_address() {
        for (endpoints, host) in [
            (r#"["10.0.0.1", "10.0.0.2"]"#, "10.0.0.1"),
            (r#"["", "10.0.0.2"]"#, "10.0.0.2"),
            (r#"[null, "", "10.0.0.3"]"#, "10.0.0.3"),
            (r#"["fd00::1"]"#, "fd00::1"),
            (r#"["[fd00::1]"]"#, "fd00::1"),
            (r#"["0.0.0.0", "10.0.0.4"]"#, "10.0.0.4"),
        ] {
            let annotations = json!({ENDPOINTS: endpoints, "other": "x"});
            let object = read(&batch(annotations, json!({"ready": 2, "replicas": 2})));
            assert_eq!(object.state, State::Ready(host.into()), "{endpoints}");
            assert_eq!(
                (&*object.namespace, &*object.name, &*object.uid),
                ("ns", "sb", "u-1")
            );
            assert_eq!(object.token, None);
        }
    }

    #[test]
    fn the_token_is_trimmed_and_blank_is_none() {
        for (text, token) in [
            ("opaque", Some("opaque")),
            (" t \n", Some("t")),
            ("  ", None),
        ] {
            let annotations = json!({
                ENDPOINTS: r#"["10.0.0.1"]"#, "opensandbox.io/secure-access-token": text,
            });
            let object = read(&batch(annotations, json!({"ready": 1})));
            assert_eq!(object.token.as_deref(), token, "{text:?}");
        }
    }

    #[test]
    fn a_sandbox_that_is_not_ready_says_why() {
        let ready = json!({"ready": 1, "replicas": 1});
        let missing = ": missing sandbox.opensandbox.io/endpoints annotation";
        let none = ": endpoints annotation contains no IPs";
        for (annotations, status, expected) in [
            (
                json!({ENDPOINTS: r#"["10.0.0.1"]"#}),
                json!({"ready": 0, "replicas": 2}),
                " (ready: 0/2)",
            ),
            (json!({}), json!(null), " (ready: 0/0)"),
            (json!({}), json!({"ready": "one"}), " (ready: 0/0)"),
            (
                json!(null),
                ready.clone(),
                ": BatchSandbox has no annotations",
            ),
            (json!({"other": "x"}), ready.clone(), missing),
            (json!({ENDPOINTS: ""}), ready.clone(), missing),
            (json!({ENDPOINTS: "[]"}), ready.clone(), none),
            (json!({ENDPOINTS: "null"}), ready.clone(), none),
            (
                json!({ENDPOINTS: r#"["", null]"#}),
                ready.clone(),
                ": endpoints annotation contains no IPs yet",
            ),
            (
                json!({ENDPOINTS: r#"["a b"]"#}),
                ready.clone(),
                ": endpoints annotation holds no address",
            ),
        ] {
            let object = batch(annotations, status);
            assert_eq!(reason(&object), expected, "{object}");
        }
        for endpoints in ["invalid-json", "[1]", "{}"] {
            let text = reason(&batch(json!({ENDPOINTS: endpoints}), ready.clone()));
            let expected = ": failed to parse endpoints annotation: ";
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn the_address_of_a_sandbox_that_is_not_ready_is_remembered() {
        let annotations = json!({ENDPOINTS: r#"["10.0.0.1"]"#});
        match read(&batch(annotations, json!({"ready": 0}))).state {
            State::NotReady { host, .. } => assert_eq!(host.as_deref(), Some("10.0.0.1")),
            State::Ready(_) => panic!("not ready"),
        }
    }

    #[test]
    fn an_object_that_cannot_be_read_safely_is_an_error() {
        for text in [
            "{}",
            "[]",
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"name":"x"}"#,
            r#"{"metadata":{"name":"x","annotations":{"opensandbox.io/secure-access-token":1}}}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_legacy_name_is_tried_last() {
        for (id, expected) in [
            ("a", vec!["a", "sandbox-a"]),
            ("sandbox-a", vec!["sandbox-a"]),
        ] {
            let mut names = Vec::new();
            each_name(id, &mut |name| {
                names.push(name.to_owned());
                false
            });
            assert_eq!(names, expected);
        }
    }
}
