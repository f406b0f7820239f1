//! The policy API as `curl` sees it, and what becomes of the policy on disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::http::Response;
use support::tools::curl;

use crate::scene::{API, PATIENCE, Scene, allowing};

const JSON: Option<&str> = Some("application/json");
const TEXT: Option<&str> = Some("text/plain; charset=utf-8");

/// A policy of `count` rules.
fn policy_of(count: usize) -> String {
    let rules: Vec<_> = (0..count)
        .map(|number| format!(r#"{{"action":"allow","target":"host{number}.test"}}"#))
        .collect();
    format!(r#"{{"egress":[{}]}}"#, rules.join(","))
}

#[test]
fn answers_are_those_clients_know() {
    let Some(scene) = Scene::new() else { return };
    let _egress = scene.egress("").spawn();
    let change = |method: &str, body: &str| scene.policy(&["-X", method, "-d", body]);
    let ok = |rest: &str| format!("{{\"status\":\"ok\",\"mode\":{rest}}}\n");
    let enforcing = ok(r#""enforcing","enforcementMode":"dns""#);
    for (answer, body) in [
        (
            scene.policy(&[]),
            ok(
                r#""deny_all","enforcementMode":"dns","policy":{"egress":[],"defaultAction":"deny"}"#,
            ),
        ),
        (
            change("PATCH", r#"[{"action":"allow","target":"A.test"}]"#),
            enforcing.clone(),
        ),
        (
            change("PATCH", r#"[{"action":"deny","target":"<b>&.test"}]"#),
            ok(
                r#""enforcing","enforcementMode":"dns","reason":"1 target(s) can never match: \"\u003cb\u003e\u0026.test\" (not a host name, an address or a network)""#,
            ),
        ),
        (
            scene.policy(&[]),
            ok(
                r#""enforcing","enforcementMode":"dns","policy":{"egress":[{"action":"deny","target":"\u003cb\u003e\u0026.test"},{"action":"allow","target":"A.test"}],"defaultAction":"deny"}"#,
            ),
        ),
        (
            change("DELETE", r#"["a.TEST","nothing.test"]"#),
            enforcing.clone(),
        ),
        (
            change("DELETE", r#"["nothing.test"]"#),
            ok(r#""enforcing","enforcementMode":"dns","reason":"no matching targets found""#),
        ),
        (
            change("PUT", r#"{"defaultAction":"allow"}"#),
            ok(r#""allow_all","enforcementMode":"dns""#),
        ),
        (
            change("POST", "{}"),
            ok(r#""deny_all","enforcementMode":"dns""#),
        ),
        (
            change("POST", ""),
            ok(r#""deny_all","enforcementMode":"dns","reason":"policy reset to default deny-all""#),
        ),
    ] {
        assert_eq!(answer.body, body);
        assert_eq!((answer.status, answer.header("Content-Type")), (200, JSON));
    }
    let health = curl(&scene.sandbox, &[&format!("http://{API}/healthz")]);
    assert_eq!((health.status, &*health.body), (200, "ok"));
    let missing = curl(&scene.sandbox, &[&format!("http://{API}/policy/")]);
    assert_eq!(
        (missing.status, &*missing.body),
        (404, "404 page not found\n")
    );
    let unclean = curl(&scene.sandbox, &[&format!("http://{API}//policy")]);
    assert_eq!(
        (unclean.status, unclean.header("Location")),
        (301, Some("/policy"))
    );
}

#[test]
fn only_the_token_opens_the_policy_and_only_its_methods_exist() {
    let Some(scene) = Scene::new() else { return };
    let _egress = scene
        .egress("")
        .env("OPENSANDBOX_EGRESS_TOKEN", "s3cret")
        .spawn();
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    for wrong in [
        "",
        "-HOPENSANDBOX-EGRESS-AUTH: s3cre",
        "-HAuthorization: s3cret",
    ] {
        for method in methods {
            let mut arguments = vec!["-X", method];
            arguments.extend((!wrong.is_empty()).then_some(wrong));
            let refused = scene.policy(&arguments);
            assert_eq!(refused.status, 401, "{method} {wrong}");
            assert_eq!(refused.body, "unauthorized\n");
            assert_eq!(refused.header("content-type"), TEXT);
        }
    }
    for path in ["healthz", "elsewhere"] {
        let answer = curl(&scene.sandbox, &[&format!("http://{API}/{path}")]);
        assert_ne!(answer.status, 401, "{path} needs no token");
    }
    let token = "opensandbox-egress-auth: s3cret";
    assert_eq!(scene.policy(&["-H", token]).status, 200);
    for method in ["-XOPTIONS", "-XTRACE", "-XNONSENSE", "--head"] {
        let refused = scene.policy(&[method, "-H", token]);
        assert_eq!(refused.status, 405, "{method}");
        let allowed = refused.header("Allow");
        assert_eq!(allowed, Some("GET, POST, PUT, PATCH, DELETE"), "{method}");
        if method != "--head" {
            assert_eq!(refused.body, "method not allowed\n");
        }
    }
}

/// Method, arguments of `curl`, body; the status and the beginning of what is answered.
type Case<'a> = (&'a str, &'a [&'a str], Vec<u8>, u16, &'a str);

#[test]
fn what_cannot_be_a_policy_changes_nothing() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let file = scene.rules.path().join("policy.json");
    let mut egress = scene
        .egress("")
        .env("OPENSANDBOX_EGRESS_POLICY_FILE", file.display())
        .spawn();
    assert_eq!(scene.policy(&["-d", &allowing("ok.test")]).status, 200);
    let saved = fs::read_to_string(&file).unwrap();
    let shown = scene.policy(&[]).body;

    let body = scene.rules.path().join("body");
    let data = format!("@{}", body.display());
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let huge = format!(
        r#"{{"egress":[{{"action":"allow","target":"{}"}}],"defaultAction":"allow"}}"#,
        "x".repeat(10 * 1024 * 1024)
    );
    let deep = "[".repeat(100_000);
    let many = policy_of(4097);
    let many_rules = &many[r#"{"egress":"#.len()..many.len() - 1];
    let just_enough = policy_of(4096);
    let just_enough = &just_enough[r#"{"egress":"#.len()..just_enough.len() - 1];
    let evil = r#"{"action":"allow","target":"evil.test"}"#;
    let with_evil = |rest: &str| format!(r#"{{"egress":[{evil}{rest}"#).into_bytes();
    let too_many = "egress rule total count 4097 exceeds limit 4096";
    let cases: Vec<Case> = vec![
        (
            "POST",
            &[],
            huge.clone().into(),
            413,
            "the body is larger than 1048576 bytes",
        ),
        (
            "POST",
            &chunked,
            huge.clone().into(),
            413,
            "the body is larger than 1048576 bytes",
        ),
        (
            "PATCH",
            &chunked,
            huge.into(),
            413,
            "the body is larger than 1048576 bytes",
        ),
        ("PUT", &[], many.clone().into(), 413, too_many),
        (
            "PATCH",
            &[],
            many_rules.into(),
            413,
            "egress rule total count 4098 exceeds limit 4096",
        ),
        ("PATCH", &[], just_enough.into(), 413, too_many),
        ("POST", &[], deep.into(), 400, "invalid policy: "),
        (
            "POST",
            &[],
            b"{\"egress\":[{\"action\":\"allow\",\"target\":\"\xff\xfe.test\"}]}".to_vec(),
            400,
            "invalid policy: ",
        ),
        (
            "POST",
            &[],
            with_evil(r#"],"defaultAction":"foo"}"#),
            400,
            r#"invalid policy: unsupported defaultAction "foo""#,
        ),
        ("POST", &[], with_evil(""), 400, "invalid policy: "),
        ("POST", &[], with_evil("]} {}"), 400, "invalid policy: "),
        (
            "PUT",
            &[],
            with_evil(r#",{"action":"foo","target":"a"}]}"#),
            400,
            r#"invalid policy: unsupported action "foo""#,
        ),
        (
            "PUT",
            &[],
            with_evil(r#",{"action":"allow","target":" "}]}"#),
            400,
            "invalid policy: egress target cannot be empty",
        ),
        ("PATCH", &[], evil.into(), 400, "invalid patch rules: "),
        (
            "PATCH",
            &[],
            b"[]".to_vec(),
            400,
            "invalid patch rules: empty array",
        ),
        ("PATCH", &[], b" ".to_vec(), 400, "empty body"),
        (
            "PATCH",
            &[],
            format!(r#"[{evil},{{"action":"x","target":"a"}}]"#).into(),
            400,
            "invalid merged policy: ",
        ),
        (
            "DELETE",
            &[],
            b"[1]".to_vec(),
            400,
            "invalid delete targets: ",
        ),
        (
            "DELETE",
            &[],
            b"null".to_vec(),
            400,
            "invalid delete targets: empty array",
        ),
        ("DELETE", &[], Vec::new(), 400, "empty body"),
    ];
    let count = cases.len();
    for (method, arguments, bytes, status, message) in cases {
        fs::write(&body, bytes).unwrap();
        let data = ["-X", method, "--data-binary", &data];
        let refused = scene.policy(&[&data, arguments].concat());
        let said = &refused.body;
        assert_eq!(refused.status, status, "{method} {message}: {said}");
        assert!(said.starts_with(message), "{method} {message}: {said}");
        assert!(said.ends_with('\n') && said.len() < 300, "{said}");
        assert_eq!(refused.header("Content-Type"), TEXT);
        assert_eq!(scene.policy(&[]).body, shown, "{method} {message}");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            saved,
            "{method} {message}"
        );
        assert_eq!(scene.ask("ok.test"), Some(0), "{method} {message}");
        assert_eq!(scene.ask("evil.test"), Some(3), "{method} {message}");
    }
    assert!(egress.stop().success());
    let failures = egress.events("egress.update_failed");
    assert!(failures.iter().all(|event| event["level"] == "warn"));
    assert_eq!(failures.len(), count, "{failures:#?}");
}

#[test]
fn a_change_survives_a_restart_and_a_crash() {
    let Some(scene) = Scene::new() else { return };
    let file = scene.rules.path().join("policy.json");
    let start = || {
        scene
            .egress(&allowing("environment.test"))
            .env("OPENSANDBOX_EGRESS_POLICY_FILE", file.display())
            .spawn()
    };
    let mut egress = start();
    let rules = r#"[{"action":"allow","target":"Saved.test"}]"#;
    assert_eq!(scene.policy(&["-X", "PATCH", "-d", rules]).status, 200);
    let shown = scene.policy(&[]).body;
    assert!(egress.stop().success());
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        r#"{
  "egress": [
    {
      "action": "allow",
      "target": "Saved.test"
    },
    {
      "action": "allow",
      "target": "environment.test"
    }
  ],
  "defaultAction": "deny"
}
"#
    );
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut egress = start();
    assert_eq!(scene.policy(&[]).body, shown);
    assert_eq!(scene.policy(&["-d", &allowing("crash.test")]).status, 200);
    let shown = scene.policy(&[]).body;
    egress.kill();
    let mut egress = start();
    assert_eq!(scene.policy(&[]).body, shown);
    assert!(egress.stop().success());
}

#[test]
fn a_full_disk_refuses_a_change_and_an_emptied_one_takes_it() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let disk = tempfile::tempdir().unwrap();
    let egress = scene
        .egress(&allowing("ok.test"))
        .disk(disk.path(), 32 * 1024)
        .env(
            "OPENSANDBOX_EGRESS_POLICY_FILE",
            disk.path().join("policy.json").display(),
        )
        .spawn();
    let inside = egress.path(disk.path());
    let evil: &[&str] = &[
        "-X",
        "PATCH",
        "-d",
        r#"[{"action":"allow","target":"evil.test"}]"#,
    ];
    let (saved, shown) = (
        scene.policy(&["-d", &allowing("ok.test")]),
        scene.policy(&[]),
    );
    assert_eq!(saved.status, 200);
    let saved = fs::read_to_string(inside.join("policy.json")).unwrap();

    let filler = inside.join("filler");
    fill(&filler);
    let refused: Response = scene.policy(evil);
    assert_eq!(refused.status, 500);
    assert!(
        refused.body.starts_with("failed to persist policy: "),
        "{}",
        refused.body
    );
    let failed = egress.wait_for_event("egress.update_failed", |_| true);
    assert_eq!(failed["level"], "error");
    assert_eq!(scene.policy(&[]).body, shown.body);
    assert_eq!(
        fs::read_to_string(inside.join("policy.json")).unwrap(),
        saved
    );
    assert_eq!(scene.ask("evil.test"), Some(3));
    assert_eq!(
        fs::read_dir(&inside).unwrap().count(),
        2,
        "nothing is left behind"
    );

    fs::remove_file(filler).unwrap();
    assert_eq!(scene.policy(evil).status, 200);
    assert_eq!(scene.ask("evil.test"), Some(0));
}

/// Writes until nothing more fits.
fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn the_files_of_the_operator_are_followed() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let deny = scene.rules.path().join("deny.always");
    let allow = scene.rules.path().join("allow.always");
    fs::write(&allow, "# operator\nalways.test\n").unwrap();
    let egress = scene
        .egress(&allowing("ok.test"))
        .env("OPENSANDBOX_EGRESS_RULES_INTERVAL_SEC", 1)
        .spawn();
    let applied = |counts: &str| {
        egress.wait_for_line(PATIENCE, |line| {
            let message = line["msg"].as_str().unwrap();
            message.starts_with(&format!(
                "policy API: reloaded always rules applied ({counts} fp="
            ))
        })
    };
    assert_eq!(scene.ask("always.test"), Some(0));
    assert_eq!(scene.ask("ok.test"), Some(0));
    fs::write(&deny, "ok.test\n").unwrap();
    applied("deny=1 allow=1");
    assert_eq!(scene.ask("ok.test"), Some(3));
    egress.wait_for_event("egress.denied", |event| event["reason"] == "always");
    // A change over the API does not undo it, and does not show it.
    assert_eq!(scene.policy(&["-d", &allowing("*.test")]).status, 200);
    assert_eq!(scene.ask("ok.test"), Some(3));
    assert!(!scene.policy(&[]).body.contains("ok.test"));
    fs::remove_file(&deny).unwrap();
    fs::remove_file(&allow).unwrap();
    applied("deny=0 allow=0");
    assert_eq!(scene.ask("ok.test"), Some(0));
}
