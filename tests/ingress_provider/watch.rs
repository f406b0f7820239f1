//! What a healthy API server tells, and what becomes of it.

use std::time::{Duration, Instant};

use opensandbox::ingress::provider::Missing;
use serde_json::json;
use support::kube::{Cluster, Definition, Verb, agent_sandbox, batchsandbox};

use crate::scene::{Setup, lists};
use support::eventually;

const BATCH: &str = "batchsandboxes";

fn cluster() -> Cluster {
    Cluster::start([Definition::batchsandbox()])
}

#[test]
fn sandboxes_are_listed_once_and_then_watched() {
    let cluster = cluster();
    cluster.apply(BATCH, batchsandbox("ns", "old", "10.0.0.1"));
    let mut scene = Setup::new(&cluster).synced(&cluster);
    let old = scene.find("old").unwrap();
    assert_eq!((&*old.host, old.token.as_deref()), ("10.0.0.1", None));
    assert_eq!(
        scene.find("none").unwrap_err().to_string(),
        "sandbox not found: none"
    );

    let mut secured = batchsandbox("ns", "new", "10.0.0.2");
    secured["metadata"]["annotations"]["opensandbox.io/secure-access-token"] = json!(" hush ");
    cluster.apply(BATCH, secured);
    let new = scene.found_at("new", "10.0.0.2");
    assert_eq!(new.token.as_deref(), Some("hush"));

    // Another address is another place: connections to the old one have to end.
    cluster.apply(BATCH, batchsandbox("ns", "old", "10.0.0.3"));
    scene.found_at("old", "10.0.0.3");
    assert!(old.retired.is_set() && !new.retired.is_set());

    cluster.delete(BATCH, "ns", "new");
    scene.gone("new");
    assert!(new.retired.is_set());
    assert_eq!((scene.status.objects(), scene.status.relists()), (1, 0));

    let list = lists(&cluster);
    let [list] = list.as_slice() else {
        panic!("{list:#?}");
    };
    assert_eq!(
        list.path,
        "/apis/sandbox.opensandbox.io/v1alpha1/batchsandboxes"
    );
    assert_eq!(list.query["resourceVersion"], "0");
    assert_eq!(list.query["limit"], "500");
    assert_eq!(list.headers["accept"], "application/json");
    assert_eq!(list.headers["authorization"], "Bearer t");
    assert!(list.headers["user-agent"].starts_with("opensandbox-ingress/"));
    let watch = &cluster.requests_for(Verb::Watch)[0];
    assert_eq!(watch.query["allowWatchBookmarks"], "true");
    assert_eq!(watch.query["resourceVersion"], "101");
    let seconds: u64 = watch.query["timeoutSeconds"].parse().unwrap();
    assert!((300..=600).contains(&seconds), "{seconds}");

    // What was known is served on when nothing keeps it fresh any more.
    scene.freeze();
    cluster.apply(BATCH, batchsandbox("ns", "old", "10.0.0.4"));
    assert_eq!(&*scene.find("old").unwrap().host, "10.0.0.3");
}

#[test]
fn a_sandbox_created_anew_is_another_one_even_at_the_same_address() {
    let cluster = cluster();
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    let scene = Setup::new(&cluster).synced(&cluster);
    let first = scene.find("a").unwrap();
    cluster.delete(BATCH, "ns", "a");
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    let second = eventually(|| scene.find("a").ok().filter(|found| found.uid != first.uid));
    assert!(first.retired.is_set() && !second.retired.is_set());
}

#[test]
fn a_name_in_two_namespaces_is_ambiguous_until_one_goes() {
    let cluster = cluster();
    cluster.apply(BATCH, batchsandbox("ns-b", "a", "10.0.0.1"));
    cluster.apply(BATCH, batchsandbox("ns-a", "a", "10.0.0.2"));
    let scene = Setup::new(&cluster).synced(&cluster);
    let error = scene.find("a").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(r#"ambiguous sandbox id "a""#) && !text.contains("ns-a"),
        "{text}"
    );
    match error {
        Missing::Ambiguous { objects, .. } => assert_eq!(objects, ["ns-a/a", "ns-b/a"]),
        other => panic!("{other:?}"),
    }
    cluster.delete(BATCH, "ns-a", "a");
    scene.found_at("a", "10.0.0.1");
}

#[test]
fn why_a_sandbox_is_not_ready_names_no_namespace() {
    let cluster = cluster();
    let mut asleep = batchsandbox("ns", "a", "10.0.0.1");
    asleep["status"]["ready"] = json!(0);
    asleep["metadata"]["annotations"]["opensandbox.io/secure-access-token"] = json!("hush");
    cluster.apply(BATCH, asleep);
    let mut bare = batchsandbox("ns", "sandbox-b", "");
    bare["metadata"]["annotations"] = json!(null);
    cluster.apply(BATCH, bare);
    let scene = Setup::new(&cluster).synced(&cluster);
    let error = scene.find("a").unwrap_err();
    assert_eq!(error.to_string(), "sandbox not ready: a (ready: 0/1)");
    match error {
        Missing::NotReady { object, token, .. } => {
            assert_eq!((object.as_str(), token.as_deref()), ("ns/a", Some("hush")));
        }
        other => panic!("{other:?}"),
    }
    // Found by its legacy name, told by the id that was asked for.
    let error = scene.find("b").unwrap_err().to_string();
    assert_eq!(
        error,
        "sandbox not ready: b: BatchSandbox has no annotations"
    );
}

#[test]
fn agent_sandboxes_are_found_by_the_names_their_ids_have() {
    let cluster = Cluster::start([Definition::agent_sandbox(&["v1alpha1"])]);
    cluster.apply(
        "sandboxes",
        agent_sandbox("ns", "demo", "demo.ns.svc.cluster.local"),
    );
    cluster.apply("sandboxes", agent_sandbox("ns", "sandbox-1234", "n.test"));
    let mut new = agent_sandbox("ns", "my-box", "");
    new["status"]["podIPs"] = json!(["10.0.0.7"]);
    cluster.apply("sandboxes", new);
    let mut bare = agent_sandbox("ns", "bare", "");
    bare["status"] = json!(null);
    cluster.apply("sandboxes", bare);
    let scene = Setup::new(&cluster).kind("agent-sandbox").synced(&cluster);
    for (id, host) in [
        ("demo", "demo.ns.svc.cluster.local"),
        ("1234", "n.test"),
        ("My_Box", "10.0.0.7"),
    ] {
        assert_eq!(&*scene.find(id).unwrap().host, host);
    }
    let error = scene.find("bare").unwrap_err().to_string();
    assert_eq!(error, "sandbox not ready: sandbox bare missing status");
}

#[test]
fn the_version_is_the_preferred_one_of_those_understood() {
    for (served, used) in [
        (&["v1beta1", "v1alpha1"][..], "v1beta1"),
        (&["v1alpha1", "v1beta1"], "v1alpha1"),
        (&["v2", "v1alpha1"], "v1alpha1"),
    ] {
        let cluster = Cluster::start([Definition::agent_sandbox(served)]);
        cluster.apply("sandboxes", agent_sandbox("ns", "a", "a.test"));
        let scene = Setup::new(&cluster).kind("agent-sandbox").synced(&cluster);
        scene.found_at("a", "a.test");
        let path = &lists(&cluster)[0].path;
        assert_eq!(*path, format!("/apis/agents.x-k8s.io/{used}/sandboxes"));
    }
    let cluster = Cluster::start([Definition::agent_sandbox(&["v2"])]);
    let scene = Setup::new(&cluster).kind("agent-sandbox").start();
    let said = scene.said_once("in other versions");
    assert!(
        said.contains("v2") && said.contains("v1beta1, v1alpha1"),
        "{said}"
    );
}

#[test]
fn a_list_in_pages_is_read_to_its_end() {
    let cluster = cluster();
    cluster.always_page();
    for number in 0..1200 {
        cluster.apply(BATCH, batchsandbox("ns", &format!("s{number}"), "10.0.0.1"));
    }
    let scene = Setup::new(&cluster).synced(&cluster);
    assert_eq!(scene.status.objects(), 1200);
    let pages = lists(&cluster);
    assert_eq!(pages.len(), 3, "{pages:#?}");
    assert!(pages.iter().all(|page| page.query["limit"] == "500"));
    assert!(
        pages[1..]
            .iter()
            .all(|page| !page.query.contains_key("resourceVersion"))
    );
}

#[test]
fn a_watch_that_is_over_goes_on_where_it_ended() {
    let cluster = cluster();
    let mut setup = Setup::new(&cluster);
    setup.watch = Duration::from_secs(1);
    let scene = setup.synced(&cluster);
    cluster.wait_for(Verb::Watch, 2);
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    scene.found_at("a", "10.0.0.1");
    cluster.wait_for(Verb::Watch, 4);
    assert_eq!(lists(&cluster).len(), 1);
    // One in which nothing came, not even a bookmark, is followed by a question.
    let asked = cluster.requests_for(Verb::List);
    let asked = asked.iter().find(|list| list.query["limit"] == "1");
    let query = &asked.expect("a question").query;
    assert_eq!(query["resourceVersion"], "100");
    assert_eq!(query["resourceVersionMatch"], "NotOlderThan");
    assert_eq!(scene.status.relists(), 0);
    assert!(
        scene.log.saying("API server").is_empty(),
        "{:#?}",
        scene.log.all()
    );
}

#[test]
fn a_bookmark_saves_listing_again() {
    let cluster = cluster();
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    let scene = Setup::new(&cluster).synced(&cluster);
    cluster.pass(50);
    let since = Instant::now();
    cluster.bookmark();
    // Everything before the bookmark is forgotten, so that only its version can be watched from.
    cluster.compact();
    eventually(|| {
        let age = scene.status.last_event_age();
        age.filter(|age| *age < since.elapsed())
    });
    cluster.cut_watches();
    cluster.wait_for(Verb::Watch, 2);
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    scene.found_at("b", "10.0.0.2");
    assert_eq!(
        cluster.requests_for(Verb::Watch)[1].query["resourceVersion"],
        "151"
    );
    assert_eq!(lists(&cluster).len(), 1);
}

#[test]
fn the_official_python_client_lists_and_watches_the_stand_in() {
    let Some(python) = support::sdk::python() else {
        return;
    };
    let cluster = cluster();
    cluster.always_page();
    for number in 0..7 {
        cluster.apply(BATCH, batchsandbox("ns", &format!("s{number}"), "10.0.0.1"));
    }
    let setup = Setup::new(&cluster);
    setup.config().unwrap();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/ingress_provider/client.py"
    );
    let child = std::process::Command::new(python)
        .arg(script)
        .arg(setup.path("kubeconfig"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    cluster.wait_for(Verb::Watch, 1);
    cluster.apply(BATCH, batchsandbox("ns", "s0", "10.0.0.9"));
    cluster.bookmark();
    cluster.apply(BATCH, batchsandbox("ns", "new", "10.0.0.2"));
    cluster.delete(BATCH, "ns", "new");
    cluster.wait_for(Verb::Watch, 2);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "pages 3 3 1",
            "MODIFIED s0 10.0.0.9",
            "ADDED new 10.0.0.2",
            "DELETED new 10.0.0.2",
            "expired 410",
        ]
    );
}
