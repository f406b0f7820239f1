//! Renew intents, with a real Redis: what arrives, how often, and what happens while there is none.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;
use support::redis::Server;
use support::tls::Authority;

use crate::scene::{Backend, PATIENCE, Running, Scene};
use support::eventually;

const LIST: &str = "opensandbox:renew:intent";

fn ingress(scene: &Scene, dsn: &str, arguments: &[&str]) -> Running {
    let ingress = scene
        .ingress()
        .arg("--renew-intent-enabled")
        .arg(format!("--renew-intent-redis-dsn={dsn}"))
        .arg("--drain-delay=0")
        .arg("--log-level=debug");
    let ingress = arguments
        .iter()
        .fold(ingress, |ingress, argument| ingress.arg(*argument));
    ingress.spawn()
}

fn ask(scene: &Scene, ingress: &Running, sandbox: &str) {
    let route = format!("{sandbox}-{}", scene.port());
    let headers = [
        ("OpenSandbox-Ingress-To", &*route),
        ("OpenSandbox-Secure-Access", crate::scene::TOKEN),
    ];
    assert_eq!(ingress.get("/", &headers).status, 200);
}

/// The sandboxes of the intents, the oldest first, once there are so many.
fn sandboxes(redis: &Server, options: &[&str], list: &str, count: usize) -> Vec<String> {
    let intents = eventually(|| {
        let intents = redis.consumed(options, list);
        (intents.len() >= count).then_some(intents)
    });
    let intents = intents.iter().map(|intent| {
        let intent: Value = serde_json::from_str(intent).expect("JSON");
        intent["sandbox_id"].as_str().expect("a sandbox").to_owned()
    });
    intents.collect()
}

#[test]
fn each_sandbox_in_use_is_told_once_an_interval() {
    let Some(redis) = Server::start() else { return };
    let scene = Scene::new();
    let dsn = format!("redis://{}/0", redis.address());
    let ingress = ingress(&scene, &dsn, &["--mode=uri"]);
    let port = scene.port();
    let before = SystemTime::now();
    for _ in 0..20 {
        let path = format!("/open/{port}/a%2Fb/c%20d?secret=1");
        assert_eq!(ingress.get(&path, &[]).status, 200);
    }
    // Who does not come in is not in use.
    assert_eq!(ingress.get(&format!("/shut/{port}/x"), &[]).status, 401);
    assert_eq!(ingress.get(&format!("/nobody/{port}/x"), &[]).status, 404);
    let shut = ingress.get(
        &format!("/shut/{port}/y"),
        &[("OpenSandbox-Secure-Access", crate::scene::TOKEN)],
    );
    assert_eq!(shut.status, 200);
    assert_eq!(sandboxes(&redis, &[], LIST, 2), ["open", "shut"]);
    let first: Value = serde_json::from_str(&redis.consumed(&[], LIST)[0]).unwrap();
    let keys: Vec<_> = first.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["sandbox_id", "observed_at", "port", "request_uri"]);
    assert_eq!(first["port"], port);
    assert_eq!(first["request_uri"], "/a/b/c d");
    let observed = first["observed_at"].as_str().unwrap();
    let shape: String = observed
        .chars()
        .map(|digit| if digit.is_ascii_digit() { '0' } else { digit })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000000Z");
    let age = before.elapsed().unwrap();
    assert!(age < Duration::from_secs(300), "the server would drop it");
    ingress.daemon.wait_for_line(PATIENCE, |line| {
        line["msg"] == "renewintent: published"
            && line["sandbox_id"] == "open"
            && line["queue_key"] == LIST
    });
}

#[test]
fn the_list_is_cut_to_its_newest_and_everything_is_told_without_an_interval() {
    let Some(redis) = Server::start() else { return };
    let scene = Scene::new();
    let dsn = format!("unix://{}", redis.socket().display());
    let arguments = [
        "--renew-intent-min-interval=0",
        "--renew-intent-queue-max-len=3",
        "--renew-intent-queue-key=other",
    ];
    let mut ingress = ingress(&scene, &dsn, &arguments);
    for _ in 0..9 {
        ask(&scene, &ingress, "open");
    }
    ask(&scene, &ingress, "shut");
    ingress.daemon.signal(Signal::TERM);
    assert!(ingress.daemon.wait(PATIENCE).success());
    assert_eq!(sandboxes(&redis, &[], "other", 3), ["open", "open", "shut"]);
    // In header mode nothing is told of the path.
    let last: Value = serde_json::from_str(&redis.consumed(&[], "other")[2]).unwrap();
    assert_eq!(last.get("request_uri"), None);
}

#[test]
fn no_request_suffers_while_redis_is_gone_and_the_next_use_after_it_is_back_is_told() {
    let Some(mut redis) = Server::start() else {
        return;
    };
    let scene = Scene::new();
    let dsn = format!("redis://{}", redis.address());
    let ingress = ingress(&scene, &dsn, &[]);
    redis.down();
    ask(&scene, &ingress, "open");
    let failed = ingress.daemon.wait_for_line(PATIENCE, |line| {
        line["msg"] == "renewintent: redis publish failed"
    });
    assert_eq!(failed["level"], "error");
    assert_eq!(failed["sandbox_id"], "open");
    for _ in 0..50 {
        ask(&scene, &ingress, "open");
    }
    redis.up();
    // What Redis was not told counts as not said: the next request says it.
    eventually(|| {
        ask(&scene, &ingress, "open");
        (!redis.consumed(&[], LIST).is_empty()).then_some(())
    });
    // A connection that was cut while nobody used it is no obstacle.
    redis.down();
    redis.up();
    ask(&scene, &ingress, "shut");
    assert_eq!(sandboxes(&redis, &[], LIST, 1), ["shut"]);
}

#[test]
fn what_waits_reaches_redis_before_the_end() {
    let Some(redis) = Server::start() else { return };
    let scene = Scene::new();
    let dsn = format!("redis://{}", redis.address());
    let mut ingress = ingress(&scene, &dsn, &["--renew-intent-min-interval=0"]);
    for _ in 0..30 {
        ask(&scene, &ingress, "open");
    }
    ingress.daemon.signal(Signal::TERM);
    assert!(ingress.daemon.wait(PATIENCE).success());
    assert_eq!(redis.consumed(&[], LIST).len(), 30);
}

#[test]
fn redis_may_ask_for_a_password_a_certificate_and_another_database() {
    let authority = Authority::new();
    let identity = authority.server();
    let port = support::free_port();
    let started = Server::start_with(|_| {
        let file = |path: &std::path::Path| path.display().to_string();
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", file(identity.certificate_file())),
            ("--tls-key-file", file(identity.key_file())),
            ("--tls-ca-cert-file", file(&authority.root_file())),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    });
    let Some(redis) = started else { return };
    let acl = ["ACL", "SETUSER", "gate", "on", ">s3cret:@/", "~*", "+@all"];
    assert_eq!(redis.command(&acl), "OK");
    let scene = Scene::new();
    let dsn = format!("rediss://gate:s3cret%3A%40%2F@127.0.0.1:{port}/5?client_name=gate");
    let trusted = format!(
        "--renew-intent-redis-ca-file={}",
        authority.root_file().display()
    );
    let running = ingress(&scene, &dsn, &[&trusted]);
    ask(&scene, &running, "open");
    assert_eq!(sandboxes(&redis, &["-n", "5"], LIST, 1), ["open"]);
    let clients = redis.command(&["CLIENT", "LIST"]);
    assert!(
        clients.contains("name=gate") && clients.contains("user=gate"),
        "{clients}"
    );

    // Without the authority nobody is told anything, and why is said without the password.
    let running = ingress(&scene, &dsn, &[]);
    ask(&scene, &running, "shut");
    let failed = running.daemon.wait_for_line(PATIENCE, |line| {
        line["msg"] == "renewintent: redis publish failed"
    });
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("certificate") && !error.contains("s3cret"),
        "{error}"
    );
    let wrong = format!("rediss://gate:wrong@127.0.0.1:{port}/5");
    let running = ingress(&scene, &wrong, &[&trusted]);
    ask(&scene, &running, "shut");
    let failed = running.daemon.wait_for_line(PATIENCE, |line| {
        line["msg"] == "renewintent: redis publish failed"
    });
    let error = failed["error"].as_str().unwrap();
    assert!(error.starts_with("AUTH: WRONGPASS"), "{error}");
    assert_eq!(sandboxes(&redis, &["-n", "5"], LIST, 1), ["open"]);
}

#[test]
fn a_stream_keeps_its_sandbox_in_use_while_bytes_flow() {
    let Some(redis) = Server::start() else { return };
    let scene = Scene::new();
    let backend = Backend::start();
    let dsn = format!("redis://{}", redis.address());
    let ingress = ingress(&scene, &dsn, &["--renew-intent-min-interval=1"]);
    let route = format!("open-{}", backend.address.port());
    let address = ingress.address;
    let asked = std::thread::spawn(move || {
        let headers = [("OpenSandbox-Ingress-To", &*route)];
        support::http::request(address, "GET", "/events", &headers, "")
    });
    let mut stream = backend.next();
    stream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
    assert_eq!(sandboxes(&redis, &[], LIST, 1), ["open"]);
    let told = eventually(|| {
        stream.send("data: tick\n\n");
        std::thread::sleep(Duration::from_millis(100));
        let told = redis.consumed(&[], LIST);
        (told.len() >= 2).then_some(told)
    });
    let told: Value = serde_json::from_str(&told[1]).unwrap();
    assert_eq!(told["sandbox_id"], "open");
    assert_eq!(told["port"], backend.address.port());
    drop(stream);
    assert_eq!(asked.join().unwrap().expect("an answer").status, 200);
}
