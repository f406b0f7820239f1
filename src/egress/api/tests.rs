//! The contract's cases, over the real writer, a real store and an enforcer that is told to fail.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use std::num::NonZeroUsize;

use http::header::AsHeaderName;
use proptest::prelude::*;

use super::super::policy::{Action, AlwaysRules, Effective, Policy, Rule};
use super::super::recorder::Recorder;
use super::super::store::Store;
use super::super::writer::{EnforceError, Enforcer, Reviewer};
use super::*;
use crate::http::{Body, BoxError};
use crate::runtime::Runtime;

/// Stands for the kernel: remembers what it enforces, and fails when told to.
#[derive(Default)]
struct Kernel {
    applied: Mutex<Vec<Arc<Effective>>>,
    fails: AtomicBool,
    /// What happens right after the next success.
    then: Mutex<Option<Act>>,
}

type Act = Box<dyn FnOnce(&Kernel) + Send>;

impl Kernel {
    fn count(&self) -> usize {
        self.applied.lock().unwrap().len()
    }

    fn enforced(&self) -> Arc<Effective> {
        self.applied.lock().unwrap().last().cloned().unwrap()
    }

    fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    fn then(&self, act: impl FnOnce(&Kernel) + Send + 'static) {
        *self.then.lock().unwrap() = Some(Box::new(act));
    }
}

struct Enforcing(Arc<Kernel>);

impl Enforcer for Enforcing {
    fn mode(&self) -> &str {
        "dns"
    }

    fn filters_addresses(&self) -> bool {
        true
    }

    fn apply(&self, next: &Arc<Effective>) -> Result<(), EnforceError> {
        if self.0.fails.load(Ordering::SeqCst) {
            return Err(EnforceError("no such table".into()));
        }
        self.0.applied.lock().unwrap().push(Arc::clone(next));
        if let Some(then) = self.0.then.lock().unwrap().take() {
            then(&self.0);
        }
        Ok(())
    }
}

/// Stands for the vault: needs one host to be allowed.
struct Binding(&'static str);

impl Reviewer for Binding {
    fn review(&self, next: &Effective) -> Result<(), String> {
        if next.evaluate(self.0).action == Action::Allow {
            return Ok(());
        }
        Err(format!(
            "credential vault policy validation: host {:?} is not allowed",
            self.0
        ))
    }
}

struct Fixture {
    api: Api,
    writer: Arc<Writer>,
    kernel: Arc<Kernel>,
    recorder: Recorder,
    file: PathBuf,
    _directory: tempfile::TempDir,
    _runtime: Runtime,
}

/// An answer with its body read.
type Answer = http::Response<String>;

#[derive(Default)]
struct Setup {
    policy: &'static str,
    token: &'static str,
    always: AlwaysRules,
    reviewers: Vec<Box<dyn Reviewer>>,
    max_rules: Option<usize>,
}

impl Fixture {
    fn new(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.json");
        let recorder = Recorder::default();
        let observer = Arc::new(recorder.observer());
        let kernel = Arc::new(Kernel::default());
        let writer = Writer::start(
            Policy::parse(setup.policy.as_bytes()).unwrap(),
            setup.always,
            Box::new(Enforcing(Arc::clone(&kernel))),
            setup.reviewers,
            Store::open(Some(file.clone())),
            Arc::clone(&observer),
        )
        .unwrap();
        let writer = Arc::new(writer);
        let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
        let settings = Settings {
            token: Token::new(TOKEN_HEADER, setup.token),
            max_rules: setup.max_rules,
            request_ids: RequestIds::new(0xabc),
        };
        let health = Arc::new(HealthGate::new(Health::Ready));
        let spawner = runtime.spawner();
        let api = Api::new(settings, Arc::clone(&writer), observer, health, spawner);
        Self {
            api,
            writer,
            kernel,
            recorder,
            file,
            _directory: directory,
            _runtime: runtime,
        }
    }

    fn with(policy: &'static str) -> Self {
        Self::new(Setup {
            policy,
            ..Setup::default()
        })
    }

    fn ask(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(method, path, &[], Body::from(body.as_ref().to_vec()))
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        smol::block_on(async {
            let (head, body) = self.api.handle(request).await.into_parts();
            let body = body.collect(1 << 20).await.unwrap();
            Answer::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    fn policy(&self, method: &str, body: impl AsRef<[u8]>) -> (u16, String) {
        let answer = self.ask(method, "/policy", body);
        let status = answer.status().as_u16();
        if status == 200 {
            assert_eq!(header(&answer, "content-type"), "application/json");
        } else {
            assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
            assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        }
        (status, answer.into_body())
    }

    fn rules(&self) -> Vec<String> {
        let line = |rule: &Rule| format!("{} {}", rule.action().as_str(), rule.text());
        self.writer.policy().rules().iter().map(line).collect()
    }

    /// Whether memory, kernel and file still are what they were.
    fn state(&self) -> (Arc<Policy>, u64, u64, Option<Vec<u8>>) {
        (
            self.writer.policy(),
            self.writer.live().snapshot().generation,
            self.kernel.enforced().generation,
            fs::read(&self.file).ok(),
        )
    }
}

fn header(answer: &Answer, name: impl AsHeaderName) -> &str {
    answer.headers().get(name).unwrap().to_str().unwrap()
}

const TWO: &str = r#"{"egress":[{"action":"allow","target":"example.com"},{"action":"deny","target":"*.example.com"}]}"#;
const OK: &str = r#"{"status":"ok","mode":"enforcing","enforcementMode":"dns"}
"#;

#[test]
fn get_shows_the_policy_as_typed() {
    let fixture = Fixture::with(
        r#"{"defaultAction":"allow","egress":[{"action":"deny","target":" Foo.Test. "}]}"#,
    );
    assert_eq!(
        fixture.policy("GET", ""),
        (
            200,
            r#"{"status":"ok","mode":"enforcing","enforcementMode":"dns","policy":{"egress":[{"action":"deny","target":"Foo.Test."}],"defaultAction":"allow"}}
"#
            .to_owned()
        )
    );
}

#[test]
fn get_always_shows_a_list() {
    let fixture = Fixture::with("");
    let (_, body) = fixture.policy("GET", "");
    assert!(body.contains(r#""mode":"deny_all""#), "{body}");
    assert!(
        body.contains(r#""policy":{"egress":[],"defaultAction":"deny"}"#),
        "{body}"
    );
}

#[test]
fn json_is_escaped_as_go_does() {
    let fixture = Fixture::with("");
    fixture.policy("POST", "{\"egress\":[{\"target\":\"<a>&\\\"\u{2028}é\"}]}");
    let (_, body) = fixture.policy("GET", "");
    assert!(
        body.contains(r#""target":"\u003ca\u003e\u0026\"\u2028é""#),
        "{body}"
    );
}

#[test]
fn post_and_put_replace() {
    for method in ["POST", "PUT"] {
        let fixture = Fixture::with(TWO);
        fixture.recorder.take();
        let body = r#" {"defaultAction":"deny","egress":[{"action":"ALLOW","target":"a.test"}]} "#;
        assert_eq!(fixture.policy(method, body), (200, OK.to_owned()));
        assert_eq!(fixture.rules(), ["allow a.test"]);
        assert_eq!(fixture.kernel.count(), 2);
        assert_eq!(fixture.writer.live().snapshot().generation, 2);
        assert_eq!(
            fs::read_to_string(&fixture.file).unwrap(),
            "{\n  \"egress\": [\n    {\n      \"action\": \"allow\",\n      \"target\": \"a.test\"\n    }\n  ],\n  \"defaultAction\": \"deny\"\n}\n"
        );
        assert_eq!(
            fixture.recorder.take_events(),
            [
                r#"{"level":"INFO","msg":"egress policy updated","opensandbox.event":"egress.updated","egress.default":"deny","rules":[{"action":"allow","target":"a.test"}]}"#
            ]
        );
    }
}

#[test]
fn post_of_nothing_resets() {
    let fixture = Fixture::with(TWO);
    fixture.recorder.take();
    for body in ["", "  \n"] {
        assert_eq!(
            fixture.policy("POST", body),
            (
                200,
                "{\"status\":\"ok\",\"mode\":\"deny_all\",\"enforcementMode\":\"dns\",\"reason\":\"policy reset to default deny-all\"}\n".to_owned()
            )
        );
    }
    assert_eq!(*fixture.writer.policy(), Policy::default());
    let events = fixture.recorder.take_events();
    assert!(events[0].contains(r#""egress.default":"deny","rules":[]"#));
}

#[test]
fn post_of_an_empty_document_is_an_ordinary_change() {
    for body in ["{}", "null"] {
        let fixture = Fixture::with(TWO);
        assert_eq!(
            fixture.policy("POST", body),
            (
                200,
                "{\"status\":\"ok\",\"mode\":\"deny_all\",\"enforcementMode\":\"dns\"}\n"
                    .to_owned()
            )
        );
    }
}

#[test]
fn refused_requests_change_nothing() {
    let fixture = Fixture::with(TWO);
    let before = fixture.state();
    fixture.recorder.take();
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("POST", b"not-json", "invalid policy: ", ""),
        ("POST", b"[]", "invalid policy: ", ""),
        (
            "PUT",
            br#"{"egress":[{"target":"a"}"#,
            "invalid policy: ",
            "",
        ),
        (
            "POST",
            b"{\"egress\":[{\"target\":\"\xff\"}]}",
            "invalid policy: invalid UTF-8",
            "",
        ),
        (
            "POST",
            br#"{"defaultAction":"foo"}"#,
            "invalid policy: unsupported defaultAction \"foo\"\n",
            "",
        ),
        (
            "POST",
            br#"{"egress":[{"action":"foo","target":"a"}]}"#,
            "invalid policy: unsupported action \"foo\"\n",
            "",
        ),
        (
            "POST",
            br#"{"egress":[null]}"#,
            "invalid policy: egress target cannot be empty\n",
            "",
        ),
        ("PATCH", b" ", "empty body\n", "empty patch body"),
        ("PATCH", b"not-json", "invalid patch rules: ", ""),
        ("PATCH", b"{}", "invalid patch rules: ", ""),
        ("PATCH", b"\xff", "invalid patch rules: invalid UTF-8", ""),
        (
            "PATCH",
            b"[]",
            "invalid patch rules: empty array\n",
            "empty patch rules array",
        ),
        (
            "PATCH",
            b"null",
            "invalid patch rules: empty array\n",
            "empty patch rules array",
        ),
        (
            "PATCH",
            br#"[{"action":"foo","target":"a"}]"#,
            "invalid merged policy: unsupported action \"foo\"\n",
            "",
        ),
        (
            "PATCH",
            b"[null]",
            "invalid merged policy: egress target cannot be empty\n",
            "",
        ),
        ("DELETE", b"", "empty body\n", "empty delete body"),
        ("DELETE", b"not-json", "invalid delete targets: ", ""),
        ("DELETE", b"[1]", "invalid delete targets: ", ""),
        (
            "DELETE",
            b"[]",
            "invalid delete targets: empty array\n",
            "empty delete targets array",
        ),
        (
            "DELETE",
            b"null",
            "invalid delete targets: empty array\n",
            "empty delete targets array",
        ),
    ];
    for (method, body, expected, recorded) in cases {
        let shown = String::from_utf8_lossy(body);
        let (status, message) = fixture.policy(method, body);
        assert_eq!(status, 400, "{method} {shown}");
        assert!(message.starts_with(expected), "{method} {shown}: {message}");
        assert_eq!(message.matches('\n').count(), 1, "{message}");
        let records = fixture.recorder.take();
        let [record] = &records[..] else {
            panic!("{method} {shown}: {records:?}");
        };
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["level"], "WARN");
        assert_eq!(record["msg"], "egress policy update failed");
        assert_eq!(record["opensandbox.event"], "egress.update_failed");
        let recorded = if recorded.is_empty() {
            message.trim_end()
        } else {
            recorded
        };
        assert_eq!(record["error"], recorded);
        assert_eq!(record.get("rules"), None);
    }
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.kernel.count(), 1);
}

#[test]
fn patch_puts_its_rules_first() {
    let fixture = Fixture::with(TWO);
    fixture.recorder.take();
    let body = r#"[{"action":"deny","target":"blocked.com"},{"action":"allow","target":" Example.com "},{"action":"deny","target":"example.COM"}]"#;
    assert_eq!(fixture.policy("PATCH", body), (200, OK.to_owned()));
    assert_eq!(
        fixture.rules(),
        [
            "deny blocked.com",
            "allow Example.com",
            "deny *.example.com"
        ]
    );
    let events = fixture.recorder.take_events();
    // As sent: blanks, letter case and the rule that lost included.
    assert!(
        events[0].ends_with(
            r#""egress.default":"deny","rules":[{"action":"deny","target":"blocked.com"},{"action":"allow","target":" Example.com "},{"action":"deny","target":"example.COM"}]}"#
        ),
        "{events:?}"
    );
}

#[test]
fn patch_overrides_in_any_letter_case() {
    let fixture = Fixture::with(r#"{"egress":[{"action":"deny","target":"Example.COM"}]}"#);
    fixture.policy("PATCH", r#"[{"action":"allow","target":"example.com"}]"#);
    assert_eq!(fixture.rules(), ["allow example.com"]);
}

#[test]
fn delete_removes_by_target() {
    let fixture = Fixture::with(
        r#"{"egress":[{"action":"allow","target":"a.com"},{"action":"deny","target":"Blocked.com"},{"action":"allow","target":"b.com"}]}"#,
    );
    fixture.recorder.take();
    let answer = fixture.policy("DELETE", r#"["blocked.com","nonexistent.com",null," "]"#);
    assert_eq!(answer, (200, OK.to_owned()));
    assert_eq!(fixture.rules(), ["allow a.com", "allow b.com"]);
    let events = fixture.recorder.take_events();
    assert!(
        events[0].ends_with(r#""rules":[{"action":"deny","target":"Blocked.com"}]}"#),
        "{events:?}"
    );
}

#[test]
fn delete_of_nothing_known_touches_nothing() {
    let fixture = Fixture::with(TWO);
    let before = fixture.state();
    fixture.recorder.take();
    for _ in 0..2 {
        assert_eq!(
            fixture.policy("DELETE", r#"["nonexistent.com"," "]"#),
            (
                200,
                "{\"status\":\"ok\",\"mode\":\"enforcing\",\"enforcementMode\":\"dns\",\"reason\":\"no matching targets found\"}\n".to_owned()
            )
        );
    }
    assert_eq!(fixture.state(), before);
    assert_eq!(fixture.kernel.count(), 1);
    assert!(fixture.recorder.take_events().is_empty());
}

#[test]
fn a_list_emptied_by_delete_is_a_list() {
    let fixture = Fixture::with(TWO);
    let (_, answer) = fixture.policy("DELETE", r#"["example.com","*.example.com"]"#);
    assert!(answer.contains(r#""mode":"deny_all""#), "{answer}");
    assert!(fixture.policy("GET", "").1.contains(r#""egress":[]"#));
}

#[test]
fn too_many_rules_are_refused() {
    let limited = |policy, limit| {
        Fixture::new(Setup {
            policy,
            max_rules: Some(limit),
            ..Setup::default()
        })
    };
    let fixture = limited(TWO, 2);
    let before = fixture.state();
    let third = r#"[{"action":"allow","target":"c.com"}]"#;
    assert_eq!(
        fixture.policy("PATCH", third),
        (
            413,
            "egress rule total count 3 exceeds limit 2\n".to_owned()
        )
    );
    // One that replaces another does not add to the count.
    let same = r#"[{"action":"deny","target":"example.com"}]"#;
    assert_eq!(fixture.policy("PATCH", same).0, 200);
    let fixture = limited("", 1);
    assert_eq!(fixture.policy("POST", TWO).0, 413);
    assert_eq!(fixture.kernel.count(), 1);
    assert_ne!(before.0, fixture.writer.policy());
    assert!(Fixture::with("").policy("POST", TWO).0 == 200);
}

#[test]
fn the_operators_rules_are_enforced_but_not_shown() {
    let fixture = Fixture::new(Setup {
        always: AlwaysRules {
            deny: vec![Rule::new(Action::Deny, "192.0.2.1").unwrap()],
            allow: Vec::new(),
        },
        ..Setup::default()
    });
    let body = r#"{"egress":[{"action":"allow","target":"192.0.2.1"}]}"#;
    assert_eq!(fixture.policy("POST", body).0, 200);
    let enforced = fixture.kernel.enforced();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(enforced.denied().contains(address));
    assert_eq!(enforced.evaluate_address(address), Some(Action::Deny));
    assert_eq!(fixture.rules(), ["allow 192.0.2.1"]);
    assert!(
        !fs::read_to_string(&fixture.file)
            .unwrap()
            .contains("deny\",\n      \"target\"")
    );
}

/// A change by each method, against [`TWO`].
const CHANGES: [(&str, &str, &str); 4] = [
    ("POST", "", "reset"),
    ("POST", r#"{"egress":[]}"#, "post"),
    ("PATCH", r#"[{"target":"c.com"}]"#, "patch"),
    ("DELETE", r#"["example.com"]"#, "delete"),
];

#[test]
fn a_kernel_that_refuses_leaves_everything_as_it_was() {
    for (method, body, operation) in CHANGES {
        let fixture = Fixture::with(TWO);
        let before = fixture.state();
        fixture.recorder.take();
        fixture.kernel.fail(true);
        assert_eq!(
            fixture.policy(method, body),
            (
                500,
                "failed to apply nftables policy: no such table\n".to_owned()
            )
        );
        assert_eq!(fixture.state(), before, "{method}");
        let records = fixture.recorder.take();
        let failed = &records[records.len() - 2..];
        assert_eq!(
            failed,
            [
                format!(
                    r#"{{"level":"ERRO","msg":"policy API: nftables apply failed ({operation}): no such table"}}"#
                ),
                format!(
                    r#"{{"level":"ERRO","msg":"egress policy update failed","opensandbox.event":"egress.update_failed","error":"nftables apply ({operation}): no such table"}}"#
                ),
            ]
        );
        fixture.kernel.fail(false);
        assert_eq!(fixture.policy(method, body).0, 200);
    }
}

#[test]
fn a_disk_that_refuses_leaves_everything_as_it_was() {
    for (method, body, _) in CHANGES {
        let fixture = Fixture::with(TWO);
        fs::create_dir(&fixture.file).unwrap();
        let before = fixture.state();
        fixture.recorder.take();
        let (status, message) = fixture.policy(method, body);
        assert_eq!(status, 500);
        assert!(
            message.starts_with("failed to persist policy: "),
            "{message}"
        );
        assert_eq!(fixture.state(), before, "{method}");
        assert_eq!(fixture.kernel.count(), 1, "the kernel was never asked");
        let events = fixture.recorder.take_events();
        assert!(
            events[0].contains(r#""error":"persist policy: "#),
            "{events:?}"
        );
        assert!(events[0].contains(r#""level":"ERRO""#), "{events:?}");
    }
}

#[test]
fn a_disk_that_refuses_late_takes_the_kernel_back() {
    for (method, body, _) in CHANGES {
        let fixture = Fixture::with(TWO);
        let before = fixture.state();
        let file = fixture.file.clone();
        fixture.kernel.then(move |_| fs::create_dir(file).unwrap());
        let (status, message) = fixture.policy(method, body);
        assert_eq!(status, 500);
        assert!(
            message.starts_with("failed to persist policy: "),
            "{message}"
        );
        assert_eq!(fixture.state(), before, "{method}");
        assert_eq!(fixture.kernel.count(), 3, "applied, and the old one again");
        fs::remove_dir(&fixture.file).unwrap();
        assert_eq!(fixture.policy(method, body).0, 200);
    }
}

#[test]
fn what_could_not_be_taken_back_is_tried_again() {
    let fixture = Fixture::with(TWO);
    let file = fixture.file.clone();
    fixture.kernel.then(move |kernel| {
        fs::create_dir(file).unwrap();
        kernel.fail(true);
    });
    fixture.recorder.take();
    assert_eq!(fixture.policy("POST", "").0, 500);
    let logged = fixture.recorder.take_messages();
    let expected = "ERRO policy: the previous policy could not be enforced again";
    assert!(
        logged.iter().any(|line| line.starts_with(expected)),
        "{logged:?}"
    );
    assert_eq!(fixture.kernel.enforced().generation, 2);
    assert!(fixture.writer.reconcile().is_err());
    fixture.kernel.fail(false);
    fixture.writer.reconcile().unwrap();
    assert_eq!(fixture.kernel.enforced().generation, 1);
    let applied = fixture.kernel.count();
    fixture.writer.reconcile().unwrap();
    assert_eq!(fixture.kernel.count(), applied, "in step: nothing to do");
}

#[test]
fn what_depends_on_the_policy_may_object() {
    for (method, body, operation) in CHANGES {
        if operation == "patch" {
            continue;
        }
        let fixture = Fixture::new(Setup {
            policy: TWO,
            reviewers: vec![Box::new(Binding("example.com"))],
            ..Setup::default()
        });
        let before = fixture.state();
        let (status, message) = fixture.policy(method, body);
        assert_eq!(status, 400);
        assert!(
            message.contains("credential vault policy validation"),
            "{message}"
        );
        assert_eq!(fixture.state(), before, "{method}");
        assert_eq!(fixture.kernel.count(), 1);
    }
}

#[test]
fn dead_targets_are_accepted_and_named() {
    let fixture = Fixture::with("");
    fixture.recorder.take();
    let body = r#"[{"target":"a b"},{"target":"*"},{"target":"x:1"},{"target":"1.2.3"},{"action":"allow","target":"fine.test"}]"#;
    let (status, answer) = fixture.policy("PATCH", body);
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let reason = answer["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "4 target(s) can never match: \"a b\" (not a host name, an address or a network), \"*\" (a lone * is not a wildcard: use defaultAction, or *. and a name), \"x:1\" (not a host name, an address or a network), and 1 more"
    );
    let logged = fixture.recorder.take_messages();
    assert!(
        logged.contains(&format!("WARN policy: {reason}")),
        "{logged:?}"
    );
    // They are only news once.
    let (_, answer) = fixture.policy("PATCH", r#"[{"target":"b.test"}]"#);
    assert_eq!(answer, OK);
}

#[test]
fn other_methods_are_not_allowed() {
    let fixture = Fixture::with("");
    for method in ["HEAD", "OPTIONS", "TRACE", "MOVE"] {
        let response = fixture.ask(method, "/policy", "");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header(&response, "allow"), "GET, POST, PUT, PATCH, DELETE");
        assert_eq!(response.body(), "method not allowed\n");
    }
}

#[test]
fn other_paths_are_not_found() {
    let fixture = Fixture::with("");
    for path in ["/", "/policy/", "/policy/x", "/Policy", "/healthz/"] {
        let response = fixture.ask("GET", path, "");
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(response.body(), "404 page not found\n");
    }
}

#[test]
fn other_spellings_of_a_path_are_redirected() {
    let fixture = Fixture::with("");
    let response = fixture.ask("GET", "//policy?a=b&c", "");
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(header(&response, "location"), "/policy?a=b&c");
    assert_eq!(
        response.body(),
        "<a href=\"/policy?a=b&amp;c\">Moved Permanently</a>.\n\n"
    );
}

#[test]
fn healthz_tells_whether_the_workload_may_start() {
    let fixture = Fixture::with("");
    for method in ["GET", "HEAD", "POST"] {
        let response = fixture.ask(method, "/healthz", "");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.body(), "ok");
        assert_eq!(
            header(&response, "content-type"),
            "text/plain; charset=utf-8"
        );
    }
    let gate = &fixture.api.health;
    gate.set(Health::NotReady("mitmproxy not ready".into()));
    let response = fixture.ask("GET", "/healthz", "");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.body(), "mitmproxy not ready\n");
    gate.set(Health::Degraded("not enforced".into()));
    let response = fixture.ask("GET", "/healthz", "");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "ok\nnot enforced\n");
}

#[test]
fn the_policy_needs_the_token_and_nothing_else_does() {
    let fixture = Fixture::new(Setup {
        policy: TWO,
        token: "s3cret",
        ..Setup::default()
    });
    let before = fixture.state();
    fixture.recorder.take();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] {
        for headers in [&[][..], &[("OpenSandbox-Egress-Auth", "s3cre")]] {
            let answer = fixture.send(method, "/policy", headers, Body::from("{}"));
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method}");
            assert_eq!(answer.body(), "unauthorized\n");
        }
    }
    assert_eq!(fixture.state(), before);
    assert!(
        fixture.recorder.take().is_empty(),
        "refusals are not logged"
    );
    assert_eq!(fixture.ask("GET", "/healthz", "").status(), StatusCode::OK);
    let nowhere = fixture.ask("GET", "/nowhere", "");
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    let token = [("OPENSANDBOX-EGRESS-AUTH", "s3cret")];
    let answer = fixture.send("POST", "/policy", &token, Body::from("{}"));
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = fixture.send("HEAD", "/policy", &token, Body::empty());
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn an_open_api_is_warned_about() {
    let warned = |token| {
        let setup = Setup {
            token,
            ..Setup::default()
        };
        let messages = Fixture::new(setup).recorder.take_messages();
        let warning = "WARN policy API: no token is set";
        messages.iter().any(|message| message.starts_with(warning))
    };
    assert!(warned(""));
    assert!(!warned("s3cret"));
}

#[test]
fn a_large_body_is_refused_as_such() {
    let fixture = Fixture::with(TWO);
    let before = fixture.state();
    fixture.recorder.take();
    let largest = " ".repeat(MAX_BODY - 2) + "{}";
    let larger = format!(" {largest}");
    assert_eq!(
        fixture.policy("POST", larger),
        (413, "the body is larger than 1048576 bytes\n".to_owned())
    );
    assert_eq!(fixture.state(), before);
    let events = fixture.recorder.take_events();
    assert!(events[0].contains(r#""error":"the body is larger than 1048576 bytes""#));
    assert_eq!(fixture.policy("POST", largest).0, 200);
}

/// A body whose sender goes away.
struct Broken;

impl http_body::Body for Broken {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, BoxError>>> {
        std::task::Poll::Ready(Some(Err("gone".into())))
    }
}

#[test]
fn a_body_that_breaks_off_changes_nothing() {
    let fixture = Fixture::with(TWO);
    let before = fixture.state();
    let answer = fixture.send("POST", "/policy", &[], Body::stream(Broken));
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.body().starts_with("failed to read body: "));
    assert_eq!(fixture.state(), before);
}

#[test]
fn every_answer_has_a_request_id() {
    let fixture = Fixture::with("");
    let id = |given: &[(&str, &str)]| {
        let answer = fixture.send("GET", "/nowhere", given, Body::empty());
        header(&answer, "x-request-id").to_owned()
    };
    assert_eq!(id(&[("X-Request-ID", "abc-1")]), "abc-1");
    assert_eq!(id(&[]), "0000000000000abc-0");
    assert_eq!(id(&[("X-Request-ID", "with blank")]), "0000000000000abc-1");
    let long = "x".repeat(129);
    assert_eq!(id(&[("X-Request-ID", &long)]), "0000000000000abc-2");
}

#[test]
fn loaded_is_reported_once_it_is_enforced() {
    let fixture = Fixture::with(TWO);
    assert_eq!(fixture.kernel.count(), 1);
    assert_eq!(
        fixture.recorder.take_events(),
        [
            r#"{"level":"INFO","msg":"egress policy loaded","opensandbox.event":"egress.loaded","egress.default":"deny","rules":[{"action":"allow","target":"example.com"},{"action":"deny","target":"*.example.com"}]}"#
        ]
    );
}

#[test]
fn the_rule_limit_is_announced_unless_there_is_none() {
    let announced = |max_rules| {
        let fixture = Fixture::new(Setup {
            max_rules,
            token: "s3cret",
            ..Setup::default()
        });
        fixture.recorder.take_messages().pop()
    };
    assert_eq!(
        announced(Some(4096)).unwrap(),
        "INFO policy API: max egress rules per policy (POST/PATCH) = 4096 (set OPENSANDBOX_EGRESS_MAX_RULES=0 to disable)"
    );
    assert_eq!(announced(None).unwrap(), "INFO egress policy loaded");
}

#[test]
fn changes_made_at_once_all_take_effect() {
    let fixture = Fixture::with("");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                for number in 0..8 {
                    let rule =
                        format!(r#"[{{"action":"allow","target":"h{thread}-{number}.test"}}]"#);
                    assert_eq!(fixture.policy("PATCH", rule).0, 200);
                    assert_eq!(fixture.policy("GET", "").0, 200);
                }
            });
        }
    });
    assert_eq!(fixture.rules().len(), 32);
    let saved = Policy::parse(&fs::read(&fixture.file).unwrap()).unwrap();
    assert_eq!(saved, *fixture.writer.policy());
    assert_eq!(
        fixture.kernel.enforced().generation,
        fixture.writer.live().snapshot().generation
    );
}

#[test]
fn the_file_is_where_the_next_start_finds_it() {
    let fixture = Fixture::with("");
    fixture.policy("POST", TWO);
    let logger = Recorder::default().logger();
    let path: &Path = &fixture.file;
    let loaded = crate::egress::store::initial(Some(path), "", &logger).unwrap();
    assert_eq!(loaded, *fixture.writer.policy());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_body_is_a_panic_and_only_success_changes_anything(
        method in prop_oneof![Just("POST"), Just("PATCH"), Just("DELETE")],
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[\\[{]?\"?[a-z<>*. :\\[\\]{},\"]{0,40}".prop_map(String::into_bytes),
        ],
    ) {
        let fixture = Fixture::with(TWO);
        let before = fixture.state();
        let (status, _) = fixture.policy(method, &body);
        if status == 200 {
            prop_assert_eq!(
                fixture.kernel.enforced().generation,
                fixture.writer.live().snapshot().generation
            );
        } else {
            prop_assert_eq!(status, 400);
            prop_assert_eq!(fixture.state(), before);
        }
    }
}
