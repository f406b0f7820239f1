//! What the real process says on its standard output: the exact records, in order.

use serde_json::Value;

use crate::scene::{Scene, allowing, untimed};

const ALLOW_A: &str = r#"[{"action":"allow","target":"a.test"}]"#;

/// What every record of these tests begins with, after its level.
const NAMED: &str = r#""logger":"opensandbox.egress","msg":"#;
/// The fields every record of these tests carries.
const SHARED: &str = r#""sandbox_id":"sb-1","tenant":"t1","zone":"z=1""#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn expected(level: &str, message: &str, fields: &str) -> String {
    format!(r#"{{"level":"{level}",{NAMED}"{message}",{SHARED},{fields}}}"#)
}

#[test]
fn every_event_has_its_exact_form() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let policy = r#"{"egress":[{"action":"allow","target":"*.Test"},{"action":"deny","target":"b.test"}],"defaultAction":"deny"}"#;
    let mut egress = scene
        .egress(policy)
        .env("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-1")
        .env(
            "OPENSANDBOX_EGRESS_METRICS_EXTRA_ATTRS",
            " tenant=t1 ,zone=z=1,junk",
        )
        .spawn();

    let answer = scene.dig(&["WWW.Test", "A"]);
    assert_eq!(answer.answers(), ["198.51.100.7"]);
    assert_eq!(scene.dig(&["evil.example", "AAAA"]).status(), "NXDOMAIN");
    let change = |arguments: &[&str]| scene.policy(arguments).status;
    assert_eq!(change(&["-X", "PATCH", "-d", ALLOW_A]), 200);
    assert_eq!(change(&["-X", "PUT", "-d", &allowing("A.test")]), 200);
    assert_eq!(change(&["-X", "DELETE", "-d", r#"["a.TEST"]"#]), 200);
    assert_eq!(change(&["-X", "DELETE", "-d", r#"["a.TEST"]"#]), 200);
    assert_eq!(change(&["-X", "POST", "-d", ""]), 200);
    assert_eq!(change(&["-X", "PATCH", "-d", "[]"]), 400);
    assert!(egress.stop().success());

    let written: Vec<_> = egress
        .log()
        .iter()
        .filter(|record| record.get("opensandbox.event").is_some())
        .map(untimed)
        .collect();
    let event = |level, message, name: &str, fields: &str| {
        let name = format!(r#""opensandbox.event":"{name}""#);
        expected(level, message, &format!("{name},{fields}"))
    };
    let updated = |fields| event("info", "egress policy updated", "egress.updated", fields);
    let wanted = [
        event(
            "info",
            "egress policy loaded",
            "egress.loaded",
            r#""egress.default":"deny","rules":[{"action":"allow","target":"*.Test"},{"action":"deny","target":"b.test"}]"#,
        ),
        event(
            "info",
            "egress outbound",
            "egress.outbound",
            r#""target.host":"www.test","target.ips":["198.51.100.7"]"#,
        ),
        event(
            "info",
            "egress denied",
            "egress.denied",
            r#""target.host":"evil.example","reason":"default","qtype":"AAAA""#,
        ),
        updated(r#""egress.default":"deny","rules":[{"action":"allow","target":"a.test"}]"#),
        updated(r#""egress.default":"deny","rules":[{"action":"allow","target":"A.test"}]"#),
        updated(r#""egress.default":"deny","rules":[{"action":"allow","target":"A.test"}]"#),
        updated(r#""egress.default":"deny","rules":[]"#),
        event(
            "warn",
            "egress policy update failed",
            "egress.update_failed",
            r#""error":"empty patch rules array""#,
        ),
    ];
    assert_eq!(written, wanted);
    let named = |record: &Value| record["sandbox_id"] == "sb-1" && record["tenant"] == "t1";
    assert!(egress.log().iter().all(named), "{}", egress.transcript());
}

#[test]
fn the_records_of_a_request_name_its_trace_and_no_others() {
    let Some(scene) = Scene::new() else { return };
    let mut egress = scene
        .egress("")
        .env("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-1")
        .spawn();
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    let invalid = format!("traceparent: 00-{TRACE}-0000000000000000-01");
    let patch = |data, headers: &[&str]| {
        let arguments = ["-X", "PATCH", "-d", data];
        scene.policy(&[&arguments, headers].concat()).status
    };
    let unmatched = r#"[{"action":"allow","target":"a b"}]"#;
    assert_eq!(patch(ALLOW_A, &["-H", &parent]), 200);
    assert_eq!(patch(unmatched, &["-H", &parent]), 200);
    assert_eq!(patch("nonsense", &["-H", &parent]), 400);
    assert_eq!(patch(ALLOW_A, &["-H", &invalid]), 200);
    assert_eq!(patch(ALLOW_A, &[]), 200);
    assert!(egress.stop().success());

    let log = egress.log();
    let traced = |record: &&Value| record.get("trace_id").is_some();
    let updates: Vec<_> = log
        .iter()
        .filter(|record| record["opensandbox.event"] == "egress.updated")
        .collect();
    assert_eq!(updates.len(), 4);
    assert_eq!(updates.iter().filter(|record| traced(record)).count(), 2);
    let trace = format!(r#""sandbox_id":"sb-1","trace_id":"{TRACE}","span_id":"{SPAN}""#);
    assert_eq!(
        untimed(updates[0]),
        format!(
            r#"{{"level":"info",{NAMED}"egress policy updated",{trace},"opensandbox.event":"egress.updated","egress.default":"deny","rules":{ALLOW_A}}}"#
        )
    );
    let failed = egress.events("egress.update_failed");
    assert_eq!(failed.len(), 1);
    assert!(untimed(&failed[0]).contains(&format!("{trace},\"opensandbox.event\"")));
    // The plain lines of those requests too: two a change that is made, and one about the target.
    let plain = log
        .iter()
        .filter(|record| traced(record) && record.get("opensandbox.event").is_none());
    let messages: Vec<_> = plain
        .map(|record| record["msg"].as_str().unwrap())
        .collect();
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert!(
        messages
            .iter()
            .any(|message| message.contains("can never match"))
    );
    let others = log.iter().filter(|record| !traced(record)).count();
    assert!(others > 5, "{}", egress.transcript());
}

#[test]
fn denials_beyond_the_limit_are_counted_and_told() {
    const DENIALS: u64 = 300;
    let Some(scene) = Scene::new() else { return };
    let mut egress = scene.egress("").spawn();
    for _ in 0..DENIALS {
        assert_eq!(scene.ask("evil.test"), Some(3));
    }
    assert!(egress.stop().success());
    let records = egress.events("egress.denied");
    let told = |record: &Value| record["suppressed"].as_u64().unwrap_or(0);
    let suppressed: u64 = egress.log().iter().map(told).sum();
    assert_eq!(records.len() as u64 + suppressed, DENIALS);
    assert!(suppressed > 0, "{} records", records.len());
    let last = egress.log();
    let last = last.iter().rfind(|record| told(record) > 0).unwrap();
    let keys: Vec<_> = last.as_object().unwrap().keys().collect();
    assert_eq!(keys.last().unwrap().as_str(), "suppressed");
}

#[test]
fn names_of_the_skip_list_are_not_logged_unless_they_fail() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    scene
        .upstream
        .answer("broken.skip.test", support::dns::Reply::refused());
    std::fs::write(
        scene.rules.path().join("log_skip.always"),
        "# noise\n*.Skip.test\n",
    )
    .unwrap();
    let mut egress = scene.egress(&allowing("*.test")).spawn();
    for name in ["a.skip.test", "broken.skip.test", "b.test"] {
        assert!(scene.ask(name).is_some());
    }
    assert!(egress.stop().success());
    let hosts: Vec<_> = egress
        .events("egress.outbound")
        .iter()
        .map(|event| event["target.host"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(hosts, ["broken.skip.test", "b.test"]);
}
