//! What a workload sees of the filter, through the kernel's redirect.

use std::path::Path;
use std::time::Duration;

use support::Daemon;
use support::dns::{Gate, Reply, Transport, Upstream};
use support::netns::Namespace;
use support::tools::{Dnsmasq, dig, require_programs};

use crate::scene::{self, Scene, allowing, resolver_v4, resolver_v6};

/// NXDOMAIN by policy.
const BLOCKED: &str = "15 (Blocked): (denied by egress policy)";

#[test]
fn dig_and_a_real_resolver_agree_on_what_the_policy_allows() {
    if !require_programs(&["dnsmasq"]) {
        return;
    }
    let Some((sandbox, outside)) = Scene::without_upstream() else {
        return;
    };
    let text = |number| format!("--txt-record=big.pypi.test,{number}{}", "x".repeat(200));
    let texts: Vec<_> = (0..24).map(text).collect();
    let mut options = vec![
        "--local=/test/",
        "--host-record=pypi.test,198.51.100.1",
        "--host-record=files.pypi.test,198.51.100.2,2001:db8:2::2",
        "--host-record=evil.test,203.0.113.66",
        "--cname=alias.pypi.test,files.pypi.test",
    ];
    options.extend(texts.iter().map(String::as_str));
    let _resolver = Dnsmasq::start(&outside, resolver_v4(), &options);
    let rules = tempfile::tempdir().unwrap();
    let mut egress = scene::egress(&sandbox, rules.path(), &allowing("*.pypi.test"))
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", resolver_v4())
        .spawn();
    let ask = |arguments: &[&str]| dig(&sandbox, resolver_v4(), arguments);

    for transport in ["+notcp", "+tcp"] {
        let allowed = ask(&["files.pypi.test", transport]);
        assert_eq!(allowed.status(), "NOERROR", "{}", allowed.0);
        assert_eq!(allowed.answers(), ["198.51.100.2"], "{}", allowed.0);
        assert_eq!(allowed.came_over_tcp(), transport == "+tcp");
        let denied = ask(&["evil.test", transport]);
        assert_eq!(denied.status(), "NXDOMAIN", "{}", denied.0);
        assert_eq!(denied.extended_error(), BLOCKED, "{}", denied.0);
        let authority = denied.section("AUTHORITY");
        assert_eq!(authority.len(), 1, "{}", denied.0);
        assert!(authority[0].contains(" IN SOA "), "{}", denied.0);
        assert!(
            denied.has_flag("ra") && denied.has_flag("rd"),
            "{}",
            denied.0
        );
        assert!(denied.answers().is_empty());
    }
    // A wildcard is for what is below it alone.
    assert_eq!(ask(&["pypi.test"]).status(), "NXDOMAIN");
    assert_eq!(ask(&["pypi.test"]).extended_error(), BLOCKED);

    let v6 = ask(&["files.pypi.test", "AAAA"]);
    assert_eq!(v6.answers(), ["2001:db8:2::2"], "{}", v6.0);
    let alias = ask(&["alias.pypi.test"]);
    assert_eq!(alias.answers(), ["files.pypi.test.", "198.51.100.2"]);
    let missing = ask(&["missing.pypi.test"]);
    assert_eq!(missing.status(), "NXDOMAIN", "{}", missing.0);
    assert_eq!(missing.extended_error(), "", "that is the resolver's word");

    let big = ask(&["big.pypi.test", "TXT"]);
    assert!(big.came_over_tcp(), "{}", big.0);
    assert_eq!(big.answers().len(), 24, "{}", big.0);
    assert!(big.size() > 4096, "{}", big.0);
    let cut = ask(&["big.pypi.test", "TXT", "+ignore"]);
    assert!(cut.has_flag("tc"), "{}", cut.0);
    assert!(!cut.came_over_tcp() && cut.size() <= 1232, "{}", cut.0);

    assert!(egress.stop().success());
}

#[test]
fn an_answer_fits_what_the_client_can_take() {
    let Some(scene) = Scene::new() else { return };
    // This resolver sends everything over UDP, whatever the client asked for.
    scene.upstream.answer("big.test", Reply::big(1500));
    let _egress = scene.egress(&allowing("big.test")).spawn();
    let ask =
        |arguments: &[&str]| scene.dig(&[&["big.test", "TXT", "+ignore"], arguments].concat());
    let whole = ask(&["+bufsize=4096"]);
    assert!(!whole.has_flag("tc"), "{}", whole.0);
    assert!(whole.size() > 1500, "{}", whole.0);
    for (arguments, most) in [
        (&["+noedns"][..], 512),
        (&["+bufsize=512"], 512),
        (&["+bufsize=1232"], 1232),
    ] {
        let cut = ask(arguments);
        assert_eq!(cut.status(), "NOERROR", "{}", cut.0);
        assert!(cut.has_flag("tc"), "{arguments:?} {}", cut.0);
        assert!(cut.size() <= most, "{arguments:?} {}", cut.0);
    }
    let retried = scene.dig(&["big.test", "TXT", "+noedns"]);
    assert!(
        retried.came_over_tcp() && retried.size() > 1500,
        "{}",
        retried.0
    );
}

#[test]
fn what_is_asked_over_tcp_is_forwarded_over_tcp() {
    let Some(scene) = Scene::new() else { return };
    let reply = Reply::big(5000).truncated_over_udp();
    scene.upstream.answer("big.test", reply);
    let _egress = scene.egress(&allowing("big.test")).spawn();
    let answer = scene.dig(&["big.test", "TXT"]);
    assert!(
        answer.came_over_tcp() && answer.size() > 5000,
        "{}",
        answer.0
    );
    let mut ways: Vec<_> = scene
        .upstream
        .queries_for("big.test")
        .iter()
        .map(|query| query.transport)
        .collect();
    // A resolver that takes long is asked again.
    ways.dedup();
    assert_eq!(ways, [Transport::Udp, Transport::Tcp]);
}

#[test]
fn the_case_of_a_name_is_kept_and_does_not_matter() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let egress = scene.egress(&allowing("*.Example.TEST")).spawn();
    let answer = scene.dig(&["wWw.eXaMpLe.tEsT"]);
    assert_eq!(answer.answers(), ["198.51.100.7"], "{}", answer.0);
    assert!(answer.section("ANSWER")[0].starts_with("wWw.eXaMpLe.tEsT. "));
    let asked = scene.upstream.queries_for("www.example.test");
    assert_eq!(asked[0].spelled, "wWw.eXaMpLe.tEsT");
    egress.wait_for_event("egress.outbound", |event| {
        event["target.host"] == "www.example.test"
    });
    let denied = scene.dig(&["EVIL.tEsT"]);
    assert_eq!(denied.extended_error(), BLOCKED);
    assert!(denied.section("QUESTION")[0].starts_with(";EVIL.tEsT."));
    egress.wait_for_event("egress.denied", |event| event["target.host"] == "evil.test");
}

#[test]
fn resolvers_may_have_ipv6_addresses() {
    let Some(scene) = Scene::new() else { return };
    let upstream = scene.outside.enter(|| Upstream::start_at(resolver_v6()));
    upstream.otherwise(Reply::addresses(60, &["198.51.100.6", "2001:db8:6::6"]));
    let _egress = scene
        .egress(&allowing("a.test"))
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", Namespace::cable_v6(2))
        .spawn();
    // Whichever resolver the workload names, it gets the filter, and the filter's upstream.
    for server in ["[2001:db8::2]:53", "192.0.2.2:53", "8.8.8.8:53", "[::1]:53"] {
        let server = server.parse().unwrap();
        for transport in ["+notcp", "+tcp"] {
            let ask = |name| dig(&scene.sandbox, server, &[name, "AAAA", transport]);
            assert_eq!(ask("a.test").answers(), ["2001:db8:6::6"], "{server}");
            assert_eq!(ask("b.test").extended_error(), BLOCKED, "{server}");
        }
    }
    assert!(scene.upstream.queries_for("a.test").is_empty());
    assert!(upstream.queries_for("b.test").is_empty());
}

#[test]
fn a_dead_upstream_is_a_servfail_in_time() {
    let Some(scene) = Scene::new() else { return };
    scene.upstream.otherwise(Reply::dropped());
    let egress = scene
        .egress(&allowing("*.test"))
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", 2)
        .spawn();
    for transport in ["+notcp", "+tcp"] {
        let answer = scene.dig(&["a.test", transport]);
        assert_eq!(answer.status(), "SERVFAIL", "{}", answer.0);
        let took = answer.took();
        // The upstream's two seconds, on a machine with other things to do.
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
    let told = egress.wait_for_event("egress.outbound", |event| event.get("error").is_some());
    assert_eq!(told["target.host"], "a.test");
    // Back from the dead.
    scene.resolve_everything();
    assert_eq!(scene.dig(&["b.test"]).answers(), ["198.51.100.7"]);
}

#[test]
fn a_dead_first_upstream_is_hardly_noticed() {
    let Some(scene) = Scene::new() else { return };
    scene.upstream.otherwise(Reply::dropped());
    scene.outside.ip("addr add 192.0.2.3/24 dev eth0");
    let second = "192.0.2.3:53".parse().unwrap();
    let second = scene.outside.enter(|| Upstream::start_at(second));
    second.otherwise(Reply::addresses(60, &["198.51.100.3"]));
    let _egress = scene
        .egress(&allowing("*.test"))
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", "192.0.2.2,192.0.2.3")
        .spawn();
    for transport in ["+notcp", "+tcp"] {
        // From the first query on, before any probe can have found out; the machine may be busy
        // with something else during one of them, but not during all.
        let took = ["a.test", "b.test", "c.test", "d.test"].map(|name| {
            let answer = scene.dig(&[name, transport]);
            assert_eq!(answer.answers(), ["198.51.100.3"], "{}", answer.0);
            answer.took()
        });
        let fastest = took.iter().min();
        assert!(fastest < Some(&Duration::from_millis(1200)), "{took:?}");
    }
}

/// Egress whose `/etc/resolv.conf` is `file`.
fn with_resolv_conf(scene: &Scene, file: &Path, follow: bool) -> Daemon {
    std::fs::write(file, "nameserver 192.0.2.2\n").unwrap();
    scene
        .egress(&allowing("*.test"))
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", "")
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM_FOLLOW", follow)
        .bind_mount(file, "/etc/resolv.conf")
        .spawn()
}

#[test]
fn resolv_conf_is_followed_when_that_is_asked_for() {
    let (Some(followed), Some(kept)) = (Scene::new(), Scene::new()) else {
        return;
    };
    let second = |scene: &Scene| {
        scene.outside.ip("addr add 192.0.2.3/24 dev eth0");
        let address = "192.0.2.3:53".parse().unwrap();
        let upstream = scene.outside.enter(|| Upstream::start_at(address));
        let first = &scene.upstream;
        first.otherwise(Reply::addresses(60, &["198.51.100.2"]));
        upstream.otherwise(Reply::addresses(60, &["198.51.100.3"]));
        upstream
    };
    let _seconds = [&kept, &followed].map(second);
    let files = [&kept, &followed].map(|scene| scene.rules.path().join("resolv.conf"));
    // First the one that must not look, so that it has had its time when the other has looked.
    let _keeping = with_resolv_conf(&kept, &files[0], false);
    let following = with_resolv_conf(&followed, &files[1], true);
    for scene in [&kept, &followed] {
        assert_eq!(scene.dig(&["a.test"]).answers(), ["198.51.100.2"]);
    }
    for file in &files {
        std::fs::write(file, "search cluster.test\nnameserver 192.0.2.3\n").unwrap();
    }
    following.wait_for_line(scene::PATIENCE, |line| {
        line["msg"] == "[dns] upstream resolvers: 192.0.2.3:53"
    });
    for transport in ["+notcp", "+tcp"] {
        let arguments = ["b.test", transport];
        assert_eq!(followed.dig(&arguments).answers(), ["198.51.100.3"]);
        assert_eq!(kept.dig(&arguments).answers(), ["198.51.100.2"]);
    }
    assert!(followed.upstream.queries_for("b.test").is_empty());
}

#[test]
fn a_change_of_policy_holds_for_the_next_query() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let _egress = scene.egress("").spawn();
    let denied = || scene.dig(&["a.test"]).extended_error() == BLOCKED;
    for transport in ["+notcp", "+tcp"] {
        assert!(denied());
        let rules = r#"[{"action":"allow","target":"a.test"}]"#;
        assert_eq!(scene.policy(&["-X", "PATCH", "-d", rules]).status, 200);
        assert_eq!(scene.dig(&["a.test", transport]).status(), "NOERROR");
        let replaced = scene.policy(&["-d", &allowing("b.test")]);
        assert_eq!(replaced.status, 200);
        assert!(denied());
        assert_eq!(scene.dig(&["b.test", transport]).status(), "NOERROR");
        let removed = scene.policy(&["-X", "DELETE", "-d", r#"["B.test"]"#]);
        assert_eq!(removed.status, 200);
        assert_eq!(scene.dig(&["b.test"]).extended_error(), BLOCKED);
    }
}

#[test]
fn an_answer_that_a_change_overtook_is_not_delivered() {
    let Some(scene) = Scene::new() else { return };
    let gate = Gate::default();
    let late = Reply::addresses(60, &["198.51.100.7"]).behind(&gate);
    scene.upstream.answer("a.test", late);
    let _egress = scene.egress(&allowing("a.test")).spawn();
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| scene.dig(&["a.test"]));
        assert!(scene.upstream.wait_for("a.test", 1, scene::PATIENCE));
        assert_eq!(scene.policy(&["-d", ""]).status, 200);
        gate.open();
        asking.join().unwrap()
    });
    assert_eq!(answer.extended_error(), BLOCKED, "{}", answer.0);
}
