//! How the daemon starts, ends, and goes on when its surroundings do not cooperate.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use support::Daemon;
use support::dns::{Reply, ask, response_code, rtype};
use support::otlp::{Fault, Receiver};
use support::tools::{curl, dig};

use crate::scene::{API, PATIENCE, Scene, allowing, resolver_v4};

/// Where the filter itself listens.
const FILTER: &str = "127.0.0.1:15353";
/// How long silence must last to count as silence.
const SILENCE: Duration = Duration::from_millis(300);
/// Longer than any end takes: five seconds of flush after two of queries under way, on a machine
/// with other things to do. One that waited for the receiver would take [`EXPORT`].
const END: Duration = Duration::from_secs(20);
/// How long an export may take.
const EXPORT: Duration = Duration::from_secs(60);

/// Whether the workload gets no answer from anywhere.
fn is_closed(scene: &Scene) -> bool {
    let silent = |server: SocketAddr| {
        scene
            .sandbox
            .enter(|| ask(server, "ok.test", rtype::A, SILENCE))
            .is_none()
    };
    silent(resolver_v4()) && silent("8.8.8.8:53".parse().unwrap())
}

/// Waits for a daemon that cannot run, and gives what it said last.
fn refusal(mut daemon: Daemon) -> String {
    let status = daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", daemon.transcript());
    daemon.assert_well_formed();
    let log = daemon.log();
    let last = log.last().expect("a record");
    assert_eq!(last["level"], "error", "{}", daemon.transcript());
    last["msg"].as_str().unwrap().to_owned()
}

/// Asks for `ok.test` on several threads until told to stop; counts the answers.
fn load(scene: &Scene, stop: &AtomicBool, answered: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let answer = || ask(resolver_v4(), "ok.test", rtype::A, SILENCE);
        if scene.sandbox.enter(answer).as_deref().map(response_code) == Some(0) {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends egress with SIGTERM in the middle of load, with this `fault` at the OTLP receiver. Returns
/// the answers the clients got, and the receiver.
fn end_under_load(scene: &Scene, fault: Option<Fault>) -> (usize, Daemon, Receiver) {
    let receiver = scene.sandbox.enter(Receiver::start);
    receiver.always(fault);
    let mut egress = scene
        .egress(&allowing("ok.test"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint())
        .env("OTEL_METRIC_EXPORT_INTERVAL", 86_400_000)
        .env("OTEL_METRIC_EXPORT_TIMEOUT", EXPORT.as_millis())
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT.as_millis())
        .spawn();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(scene, &stop, &answered));
        }
        while answered.load(Ordering::Relaxed) < 200 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let asked = Instant::now();
        let status = egress.stop();
        let took = asked.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0), "{}", egress.transcript());
        assert!(took < END, "{took:?}");
    });
    assert!(is_closed(scene), "DNS is closed after the end");
    (answered.into_inner(), egress, receiver)
}

#[test]
fn the_end_under_load_loses_nothing_and_closes_dns() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let (answered, egress, receiver) = end_under_load(&scene, None);
    receiver.assert_clean();
    let points = receiver.points("egress.dns.queries.count");
    let counted: f64 = points
        .iter()
        .filter(|point| point.attributes["decision"] == "allow")
        .map(|point| point.value.as_f64())
        .sum();
    assert!(counted >= answered as f64, "{counted} of {answered}");
    let records = egress.events("egress.outbound").len();
    assert_eq!(records as f64, counted, "a record each");
    let last = egress.log();
    let last: Vec<_> = last.iter().rev().take(2).map(|line| &line["msg"]).collect();
    assert_eq!(
        last,
        [
            "egress shutdown complete",
            "dns redirect stays; DNS is closed until a successor starts"
        ]
    );

    let _successor = scene.egress(&allowing("ok.test")).spawn();
    assert_eq!(scene.ask("ok.test"), Some(0));
}

#[test]
fn a_receiver_that_hangs_delays_the_end_no_longer_than_allowed() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let (answered, egress, _receiver) = end_under_load(&scene, Some(Fault::Hang));
    assert!(egress.events("egress.outbound").len() >= answered);
}

#[test]
fn the_redirect_goes_when_the_operator_wants_it_to() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut egress = scene
        .egress("")
        .env("OPENSANDBOX_EGRESS_TEARDOWN_ON_EXIT", true)
        .spawn();
    assert_eq!(scene.ask("ok.test"), Some(3));
    assert!(egress.stop().success());
    assert_eq!(scene.ask("ok.test"), Some(0), "DNS is open");
}

#[test]
fn a_crash_leaves_dns_closed_and_a_successor_takes_over() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut egress = scene.egress(&allowing("ok.test")).spawn();
    assert_eq!(scene.ask("ok.test"), Some(0));
    egress.kill();
    assert!(is_closed(&scene));
    let _successor = scene.egress(&allowing("ok.test")).spawn();
    assert_eq!(scene.ask("ok.test"), Some(0));
    assert_eq!(scene.ask("evil.test"), Some(3));
}

#[test]
fn a_second_instance_leaves_the_first_alone() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut first = scene.egress(&allowing("ok.test")).spawn();
    assert_eq!(scene.ask("ok.test"), Some(0));
    let second = support::opensandbox!("egress")
        .within(&scene.sandbox)
        .env("OPENSANDBOX_EGRESS_RULES_DIR", scene.rules.path().display())
        .spawn();
    let said = refusal(second);
    for part in [FILTER, "in use", "OPENSANDBOX_EGRESS_DNS_PORT"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(scene.ask("ok.test"), Some(0), "{}", first.transcript());
    assert_eq!(scene.ask("evil.test"), Some(3));
    assert!(first.stop().success());
    assert!(is_closed(&scene));
}

#[test]
fn a_start_that_fails_leaves_dns_closed() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let start = || {
        support::opensandbox!("egress")
            .within(&scene.sandbox)
            .env("OPENSANDBOX_EGRESS_RULES_DIR", scene.rules.path().display())
            .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", resolver_v4())
    };
    assert_eq!(scene.ask("ok.test"), Some(0), "open before");
    let squatter = scene.sandbox.enter(|| UdpSocket::bind(FILTER)).unwrap();
    let said = refusal(start().spawn());
    assert!(said.contains(FILTER), "{said}");
    assert!(is_closed(&scene), "somebody has the port of the filter");
    drop(squatter);

    let squatter = scene.sandbox.enter(|| TcpListener::bind(API)).unwrap();
    let said = refusal(start().spawn());
    for part in [":18080", "in use", "OPENSANDBOX_EGRESS_HTTP_ADDR"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(is_closed(&scene), "somebody has the port of the API");
    drop(squatter);

    let directory = scene.rules.path().display();
    let said = refusal(
        start()
            .env("OPENSANDBOX_EGRESS_POLICY_FILE", directory)
            .spawn(),
    );
    assert!(
        said.contains("OPENSANDBOX_EGRESS_POLICY_FILE: cannot read "),
        "{said}"
    );
    assert!(is_closed(&scene), "the policy cannot be read");
}

#[test]
fn without_the_capability_it_runs_only_when_told_to() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut refused = support::opensandbox!("egress")
        .within(&scene.sandbox)
        .without(CapabilitySet::NET_ADMIN)
        .env("OPENSANDBOX_EGRESS_RULES_DIR", scene.rules.path().display());
    let said = refusal(refused.spawn());
    for part in ["CAP_NET_ADMIN", "OPENSANDBOX_EGRESS_ALLOW_UNENFORCED=true"] {
        assert!(said.contains(part), "{said}");
    }
    refused = scene
        .egress(&allowing("ok.test"))
        .without(CapabilitySet::NET_ADMIN)
        .env("OPENSANDBOX_EGRESS_ALLOW_UNENFORCED", true);
    let mut egress = refused.spawn();
    let told = egress.wait_for_line(PATIENCE, |line| line["level"] == "error");
    let told = told["msg"].as_str().unwrap();
    assert!(told.starts_with("NOT ENFORCED: "), "{told}");
    let health = curl(&scene.sandbox, &[&format!("http://{API}/healthz")]);
    assert_eq!(health.status, 200);
    assert!(health.body.contains("not redirected"), "{}", health.body);
    let shown = scene.policy(&[]).body;
    assert!(
        shown.contains(r#""enforcementMode":"dns-unenforced""#),
        "{shown}"
    );
    // Who asks the filter is filtered; who does not is not.
    let ask = |name| dig(&scene.sandbox, FILTER.parse().unwrap(), &[name]);
    assert_eq!(ask("ok.test").answers(), ["198.51.100.7"]);
    assert_eq!(ask("evil.test").status(), "NXDOMAIN");
    assert_eq!(scene.ask("evil.test"), Some(0));
    assert!(egress.stop().success());
}

#[test]
fn a_wrong_command_line_is_one_line_and_changes_nothing() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    for (argument, named) in [
        ("--nonsense", "--nonsense"),
        ("--rules={", "OPENSANDBOX_EGRESS_RULES"),
        ("--mode=dns+nonsense", "OPENSANDBOX_EGRESS_MODE"),
        (
            "--dns-upstream=dns.google",
            "OPENSANDBOX_EGRESS_DNS_UPSTREAM",
        ),
    ] {
        let mut egress = support::opensandbox!("egress", argument)
            .within(&scene.sandbox)
            .spawn();
        let status = egress.wait(PATIENCE);
        assert_eq!(status.code(), Some(64), "{}", egress.transcript());
        let said = egress.stderr();
        assert!(said.contains(named), "{argument}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(scene.ask("ok.test"), Some(0), "the kernel was not touched");
    }
}

#[test]
fn signals_change_how_much_is_logged() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut egress = scene.egress(&allowing("ok.test")).spawn();
    let announced = |level: &str| {
        let message = format!("log level is now {level}");
        egress.wait_for_line(PATIENCE, |line| line["msg"] == message.as_str());
    };
    egress.signal(Signal::USR1);
    announced("debug");
    egress.signal(Signal::USR2);
    announced("info");
    egress.signal(Signal::USR2);
    announced("warn");
    assert_eq!(scene.ask("ok.test"), Some(0));
    egress.signal(Signal::USR1);
    assert!(
        egress
            .wait_for_line(PATIENCE, |line| line["level"] == "warn")
            .is_object()
    );
    let info_again = || {
        let log = egress.log();
        let infos = log
            .iter()
            .filter(|line| line["msg"] == "log level is now info");
        infos.count() == 2
    };
    let deadline = Instant::now() + PATIENCE;
    while !info_again() {
        assert!(Instant::now() < deadline, "{}", egress.transcript());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(scene.ask("ok.test"), Some(0));
    assert!(egress.stop().success());
    let heard = egress.events("egress.outbound").len();
    assert_eq!(heard, 1, "only the second query was logged");
}

#[test]
fn answers_go_on_when_nobody_reads_the_log() {
    /// Enough for their records to fill the pipe several times.
    const QUERIES: usize = 2_000;
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    let mut egress = scene.egress(&allowing("ok.test")).unheard().spawn();
    for _ in 0..QUERIES {
        assert_eq!(scene.ask("ok.test"), Some(0));
    }
    assert_eq!(scene.policy(&[]).status, 200);
    egress.hear();
    assert!(egress.stop().success());
    assert_eq!(egress.events("egress.outbound").len(), QUERIES);
}

#[test]
fn answers_go_on_when_the_log_has_no_reader_any_more() {
    let Some(scene) = Scene::new() else { return };
    scene.resolve_everything();
    scene.upstream.answer("evil.test", Reply::nxdomain());
    let mut egress = scene.egress(&allowing("ok.test")).unheard().spawn();
    egress.hang_up();
    for _ in 0..100 {
        assert_eq!(scene.ask("ok.test"), Some(0));
        assert_eq!(scene.ask("evil.test"), Some(3));
    }
    assert_eq!(scene.policy(&["-d", &allowing("b.test")]).status, 200);
    assert_eq!(scene.ask("b.test"), Some(0));
    assert!(egress.stop().success());
}
