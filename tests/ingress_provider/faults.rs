//! An API server that fails, in every way: what was known is served on, nothing is lost, and the
//! log says each change once.

use std::time::Duration;

use support::kube::{Cluster, Definition, Fault, Verb, batchsandbox};

use crate::scene::{Scene, Setup, lists};
use support::eventually;

const BATCH: &str = "batchsandboxes";

/// A cluster with one sandbox.
fn cluster() -> Cluster {
    let cluster = Cluster::start([Definition::batchsandbox()]);
    cluster.apply(BATCH, batchsandbox("ns", "a", "10.0.0.1"));
    cluster
}

/// What is changed now is seen.
fn is_current(scene: &Scene, cluster: &Cluster) {
    cluster.apply(BATCH, batchsandbox("ns", "current", "10.1.0.1"));
    scene.found_at("current", "10.1.0.1");
    cluster.delete(BATCH, "ns", "current");
    scene.gone("current");
    assert!(scene.status.is_in_touch());
}

#[test]
fn an_expired_watch_lists_again_and_keeps_what_did_not_change() {
    for over in ["event", "status"] {
        let cluster = cluster();
        cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
        let scene = Setup::new(&cluster).synced(&cluster);
        let (a, b) = (scene.find("a").unwrap(), scene.find("b").unwrap());
        if over == "event" {
            cluster.expire_watches();
        } else {
            cluster.script(Verb::Watch, Fault::Status(410, "Gone".to_owned()));
            cluster.cut_watches();
        }
        cluster.wait_for(Verb::List, 2);
        eventually(|| (scene.status.relists() == 1).then_some(()));
        cluster.wait_for_watch();
        assert_eq!(lists(&cluster)[1].query["resourceVersion"], "102");
        assert!(std::sync::Arc::ptr_eq(&a, &scene.find("a").unwrap()));
        assert!(!a.retired.is_set() && !b.retired.is_set());
        is_current(&scene, &cluster);
    }
}

#[test]
fn what_was_deleted_unseen_is_gone_after_listing_again() {
    let mut cluster = cluster();
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    let scene = Setup::new(&cluster).synced(&cluster);
    let b = scene.find("b").unwrap();
    cluster.down();
    cluster.delete(BATCH, "ns", "b");
    cluster.compact();
    cluster.up();
    scene.gone("b");
    assert!(b.retired.is_set());
    is_current(&scene, &cluster);
}

#[test]
fn a_watch_cut_off_in_the_middle_of_an_object_loses_nothing() {
    let cluster = cluster();
    let scene = Setup::new(&cluster).synced(&cluster);
    cluster.script(Verb::Watch, Fault::CutMidObject);
    cluster.cut_watches();
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    scene.found_at("b", "10.0.0.2");
    cluster.wait_for_watch();
    is_current(&scene, &cluster);
    assert_eq!(lists(&cluster).len(), 1);
}

#[test]
fn a_list_cut_off_in_the_middle_of_an_object_is_read_again() {
    let cluster = cluster();
    cluster.script(Verb::List, Fault::CutMidObject);
    cluster.script(Verb::List, Fault::CutMidObject);
    cluster.script(Verb::List, Fault::Garbage);
    let scene = Setup::new(&cluster).synced(&cluster);
    assert_eq!(&*scene.find("a").unwrap().host, "10.0.0.1");
    assert_eq!(lists(&cluster).len(), 4);
    scene.said_once("does not answer");
    scene.said_once("cannot be read");
    scene.said_once("answers again");
    is_current(&scene, &cluster);
}

#[test]
fn a_page_that_expired_is_no_reason_to_fail_for_ever() {
    let cluster = cluster();
    cluster.always_page();
    for number in 0..600 {
        cluster.apply(BATCH, batchsandbox("ns", &format!("s{number}"), "10.0.0.1"));
    }
    let gone = || Fault::Status(410, "The provided continue parameter is too old".to_owned());
    cluster.script(Verb::List, Fault::Slow(Duration::from_millis(1)));
    cluster.script(Verb::List, gone());
    let scene = Setup::new(&cluster).synced(&cluster);
    assert_eq!(scene.status.objects(), 601);
    let listed = lists(&cluster);
    assert_eq!(listed.len(), 3, "{listed:#?}");
    // All at once, and the newest state.
    assert!(listed[2].query.is_empty(), "{:?}", listed[2]);
}

#[test]
fn a_server_that_is_behind_is_asked_for_what_it_has() {
    let cluster = cluster();
    let scene = Setup::new(&cluster).synced(&cluster);
    let behind = "Timeout: Too large resource version: 101, current: 7".to_owned();
    cluster.script(Verb::List, Fault::Status(504, behind));
    cluster.expire_watches();
    cluster.wait_for(Verb::List, 3);
    cluster.wait_for_watch();
    let listed = lists(&cluster);
    assert_eq!(listed[1].query["resourceVersion"], "101");
    assert!(listed[2].query.is_empty(), "{:?}", listed[2]);
    is_current(&scene, &cluster);
}

#[test]
fn a_slow_server_is_waited_for() {
    let cluster = cluster();
    for verb in [Verb::Discover, Verb::List, Verb::Watch] {
        cluster.script(verb, Fault::Slow(Duration::from_millis(50)));
    }
    let scene = Setup::new(&cluster).synced(&cluster);
    is_current(&scene, &cluster);
    assert!(
        scene.log.saying("API server").is_empty(),
        "{:#?}",
        scene.log.all()
    );
}

#[test]
fn a_refusal_is_told_with_what_to_do_and_ends_when_it_is_lifted() {
    let cluster = cluster();
    cluster.forbid(true);
    let scene = Setup::new(&cluster).start();
    let said = scene.said_once("(403)");
    for part in [
        "ClusterRole",
        "get, list and watch of batchsandboxes in sandbox.opensandbox.io",
        "is forbidden: User",
        "nothing is served before the first listing",
    ] {
        assert!(said.contains(part), "{said}");
    }
    cluster.wait_for(Verb::List, 4);
    assert!(!scene.status.is_synced() && !scene.status.is_in_touch());
    assert_eq!(
        scene.find("a").unwrap_err().to_string(),
        "sandbox not found: a"
    );
    cluster.forbid(false);
    scene.synced();
    scene.found_at("a", "10.0.0.1");
    cluster.wait_for_watch();

    // The right is taken away later: what is known is served on.
    cluster.forbid(true);
    cluster.cut_watches();
    let refused = || scene.log.saying("(403)").len() == 2;
    eventually(|| refused().then_some(()));
    let said = scene.log.saying("(403)").pop().unwrap();
    assert!(said.contains("what was known is served on"), "{said}");
    assert!(!scene.status.is_in_touch());
    scene.find("a").unwrap();
    cluster.forbid(false);
    cluster.wait_for_watch();
    is_current(&scene, &cluster);
    assert_eq!(
        scene.log.saying("answers again").len(),
        2,
        "{:#?}",
        scene.log.all()
    );
}

#[test]
fn a_missing_definition_is_told_and_waited_for() {
    let cluster = Cluster::start([]);
    let scene = Setup::new(&cluster).start();
    let said = scene.said_once("(404)");
    assert!(
        said.contains("install the custom resource definition"),
        "{said}"
    );
    cluster.wait_for(Verb::List, 3);
    cluster.define([Definition::batchsandbox()]);
    scene.synced();
    cluster.wait_for_watch();
    is_current(&scene, &cluster);
    scene.said_once("(404)");
}

#[test]
fn a_server_that_is_gone_leaves_what_was_known_and_is_seen_to_be_gone() {
    let mut cluster = cluster();
    let scene = Setup::new(&cluster).synced(&cluster);
    cluster.down();
    let said = scene.said_once("does not answer");
    assert!(
        said.contains("what was known is served on") && said.contains("server=http"),
        "{said}"
    );
    assert!(!scene.status.is_in_touch() && scene.status.is_synced());
    let age = || scene.status.last_event_age().unwrap();
    let before = age();
    eventually(|| (age() > before + Duration::from_secs(1)).then_some(()));
    let a = scene.find("a").unwrap();
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    // A server that has just come back cannot be watched at once.
    cluster.script(Verb::Watch, Fault::RetryAfter(429, 1));
    cluster.up();
    // The watch goes on where it ended; nothing is listed again.
    scene.found_at("b", "10.0.0.2");
    is_current(&scene, &cluster);
    assert!(!a.retired.is_set());
    assert_eq!(lists(&cluster).len(), 1);
    scene.said_once("answers again");
    scene.said_once("does not answer");
}

#[test]
fn a_server_that_is_not_there_at_the_start_is_waited_for() {
    let mut cluster = cluster();
    cluster.down();
    let scene = Setup::new(&cluster).start();
    let said = scene.said_once("does not answer");
    assert!(
        said.contains("nothing is served before the first listing"),
        "{said}"
    );
    cluster.up();
    scene.synced();
    is_current(&scene, &cluster);
}

#[test]
fn a_watch_that_died_without_a_word_is_replaced() {
    let cluster = cluster();
    cluster.script(Verb::Watch, Fault::Silent);
    cluster.script(Verb::Watch, Fault::Hang);
    let mut setup = Setup::new(&cluster);
    setup.watch = Duration::from_secs(1);
    setup.margin = Duration::from_millis(500);
    let scene = setup.synced(&cluster);
    assert!(cluster.requests_for(Verb::Watch).len() >= 2);
    is_current(&scene, &cluster);
    assert_eq!(lists(&cluster).len(), 1);
}

#[test]
fn watches_that_end_at_once_are_not_repeated_in_a_tight_loop() {
    let cluster = cluster();
    for _ in 0..3 {
        cluster.script(Verb::Watch, Fault::EndAtOnce);
    }
    let scene = Setup::new(&cluster).synced(&cluster);
    scene.said_once("the watch ended at once");
    is_current(&scene, &cluster);
}

#[test]
fn a_server_that_asks_to_be_left_alone_is() {
    let cluster = cluster();
    let scene = Setup::new(&cluster).synced(&cluster);
    cluster.script(Verb::Watch, Fault::RetryAfter(429, 1));
    let since = std::time::Instant::now();
    cluster.cut_watches();
    cluster.wait_for(Verb::Watch, 3);
    assert!(since.elapsed() >= Duration::from_secs(1));
    is_current(&scene, &cluster);
    scene.said_once("(429)");
}

#[test]
fn an_object_that_cannot_be_read_is_left_out_and_told() {
    let cluster = cluster();
    let odd = || {
        let mut odd = batchsandbox("ns", "odd", "10.0.0.2");
        odd["metadata"]["annotations"]["opensandbox.io/secure-access-token"] = serde_json::json!(5);
        odd
    };
    cluster.apply(BATCH, odd());
    let scene = Setup::new(&cluster).synced(&cluster);
    scene.found_at("a", "10.0.0.1");
    scene.gone("odd");
    let said = scene.said_once("left out");
    assert!(said.contains("unreadable=1"), "{said}");

    // The same in a watch: what it was before is not served on, which might be open to anybody.
    cluster.apply(BATCH, batchsandbox("ns", "odd", "10.0.0.2"));
    scene.found_at("odd", "10.0.0.2");
    cluster.apply(BATCH, odd());
    scene.gone("odd");
    is_current(&scene, &cluster);
    cluster.delete(BATCH, "ns", "odd");
    cluster.expire_watches();
    eventually(|| (!scene.log.saying("no sandbox is left out").is_empty()).then_some(()));
    cluster.wait_for_watch();
    is_current(&scene, &cluster);
}

#[test]
fn a_cluster_that_was_restored_from_an_older_state_is_listed_anew() {
    let cluster = cluster();
    cluster.pass(1000);
    let mut setup = Setup::new(&cluster);
    setup.watch = Duration::from_secs(1);
    let scene = setup.synced(&cluster);
    cluster.restore(500);
    cluster.apply(BATCH, batchsandbox("ns", "b", "10.0.0.2"));
    // Of versions before ours nothing comes, and the watch ends as if nothing had happened.
    scene.found_at("b", "10.0.0.2");
    let said = scene.said_once("(504)");
    assert!(said.contains("Too large resource version: 1101"), "{said}");
    let listed = lists(&cluster);
    assert_eq!(listed[1].query["resourceVersion"], "1101");
    assert!(listed[2].query.is_empty(), "{:?}", listed[2]);
    is_current(&scene, &cluster);
}
