//! The end: readiness, the drain, tunnels, and who does not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use support::websocket::Client;

use crate::scene::{Backend, PATIENCE, Running, Scene};
use support::eventually;

fn status(ingress: &Running) -> Option<u16> {
    ingress
        .try_get("/status.ok", &[])
        .ok()
        .map(|answer| answer.status)
}

#[test]
fn probes_are_answered_whatever_their_method_and_host() {
    let scene = Scene::new();
    let ingress = scene.ingress().spawn();
    let route = format!("open-{}", scene.port());
    for method in ["GET", "POST", "DELETE"] {
        let headers = [("OpenSandbox-Ingress-To", &*route)];
        let answer = support::http::request(ingress.address, method, "/status.ok", &headers, "");
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "OK"));
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    assert!(scene.backend.requests().is_empty());
    // Any other path is the sandbox's.
    let answer = ingress.get("/status.ok/", &[("OpenSandbox-Ingress-To", &route)]);
    assert_eq!(answer.status, 200);
    assert_eq!(scene.backend.requests().len(), 1);
    let first = ingress.daemon.wait_for_event("ingress.access", |_| true);
    assert_eq!(first["uri"], "/status.ok/", "probes leave no record");
}

#[test]
fn what_is_under_way_is_finished() {
    let scene = Scene::new();
    let backend = Backend::start();
    let mut ingress = scene.ingress().arg("--drain-delay=1s").spawn();
    let address = ingress.address;
    let route = format!("open-{}", backend.address.port());
    let asked = thread::spawn(move || {
        let headers = [("OpenSandbox-Ingress-To", &*route)];
        support::http::request(address, "GET", "/slow", &headers, "")
    });
    let mut slow = backend.next();
    assert_eq!(status(&ingress), Some(200));
    ingress.daemon.signal(Signal::TERM);
    // First nobody should send requests here any more; those who do are still served.
    eventually(|| (status(&ingress) == Some(503)).then_some(()));
    let route = format!("open-{}", scene.port());
    let answer = ingress.get("/late", &[("OpenSandbox-Ingress-To", &route)]);
    assert_eq!(answer.status, 200);
    // Then nobody can.
    eventually(|| status(&ingress).is_none().then_some(()));
    slow.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    let answer = asked.join().unwrap().expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, "done"));
    assert!(ingress.daemon.wait(PATIENCE).success());
    ingress.daemon.assert_well_formed();
    let records = ingress.daemon.events("ingress.access");
    assert!(
        records.iter().all(|record| record["status"] == 200),
        "{records:?}"
    );
    assert_eq!(records.len(), 2);
}

#[test]
fn tunnels_are_closed_and_hold_nobody_up() {
    let scene = Scene::new();
    let backend = Backend::start();
    let mut ingress = scene.ingress().arg("--drain-delay=0").spawn();
    let route = format!("open-{}", backend.address.port());
    let address = ingress.address;
    let opened = thread::spawn(move || {
        Client::connect(address, "/ws", &[("OpenSandbox-Ingress-To", &route)])
    });
    let mut tunnel = backend.next();
    assert!(tunnel.head.starts_with("GET /ws HTTP/1.1\r\n"));
    // The answer to the client's constant key.
    tunnel.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let client = opened.join().unwrap().expect("a WebSocket");
    ingress.daemon.signal(Signal::TERM);
    tunnel.ended();
    assert!(ingress.daemon.wait(PATIENCE).success());
    drop(client);
    let record = ingress.daemon.events("ingress.access").pop().unwrap();
    assert_eq!(record["status"], 101);
    assert_eq!(record["proxy_type"], "websocket");
}

#[test]
fn a_second_signal_waits_for_nobody() {
    let scene = Scene::new();
    let backend = Backend::start();
    let mut ingress = scene
        .ingress()
        .arg("--drain-delay=1h")
        .arg("--drain-timeout=1h")
        .spawn();
    let address = ingress.address;
    let route = format!("open-{}", backend.address.port());
    let asked = thread::spawn(move || {
        let headers = [("OpenSandbox-Ingress-To", &*route)];
        support::http::request(address, "GET", "/never", &headers, "")
    });
    let mut never = backend.next();
    ingress.daemon.signal(Signal::TERM);
    eventually(|| (status(&ingress) == Some(503)).then_some(()));
    ingress.daemon.signal(Signal::TERM);
    assert!(ingress.daemon.wait(PATIENCE).success());
    assert!(asked.join().unwrap().is_err(), "it was cut off");
    never.ended();
}

#[test]
fn what_takes_longer_than_the_drain_is_cut_off_and_told() {
    let scene = Scene::new();
    let backend = Backend::start();
    let mut ingress = scene
        .ingress()
        .arg("--drain-delay=0")
        .arg("--drain-timeout=100ms")
        .spawn();
    let address = ingress.address;
    let route = format!("open-{}", backend.address.port());
    let asked = thread::spawn(move || {
        let headers = [("OpenSandbox-Ingress-To", &*route)];
        support::http::request(address, "GET", "/never", &headers, "")
    });
    let _never = backend.next();
    ingress.daemon.signal(Signal::TERM);
    assert_eq!(ingress.daemon.wait(PATIENCE).code(), Some(1));
    assert!(asked.join().unwrap().is_err());
    let said = ingress.daemon.transcript();
    assert!(said.contains("requests were cut off"), "{said}");
}

/// As behind a service: clients that go where readiness is true lose nothing.
#[test]
fn clients_that_heed_readiness_lose_nothing() {
    let scene = Scene::new();
    let mut ingress = scene.ingress().arg("--drain-delay=2s").spawn();
    let address = ingress.address;
    let route = format!("open-{}", scene.port());
    let (ended, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (ended, answered, route) = (ended.clone(), answered.clone(), route.clone());
            thread::spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    let headers = [("OpenSandbox-Ingress-To", &*route)];
                    let answer = support::http::request(address, "POST", "/x", &headers, "body");
                    assert_eq!(answer.expect("an answer").status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually(|| (answered.load(Ordering::Relaxed) > 50).then_some(()));
    ingress.daemon.signal(Signal::TERM);
    eventually(|| (status(&ingress) == Some(503)).then_some(()));
    let before = answered.load(Ordering::Relaxed);
    eventually(|| (answered.load(Ordering::Relaxed) > before + 10).then_some(()));
    ended.store(true, Ordering::Release);
    for client in clients {
        client.join().expect("a client that lost nothing");
    }
    assert!(ingress.daemon.wait(PATIENCE).success());
}

#[test]
fn sandboxes_come_and_go_without_a_restart() {
    let scene = Scene::new();
    let ingress = scene.ingress().spawn();
    let route = format!("new-{}", scene.port());
    let ask = || {
        ingress
            .get("/", &[("OpenSandbox-Ingress-To", &route)])
            .status
    };
    assert_eq!(ask(), 404);
    scene.write("routes.toml", "[sandboxes.new]\nhost = \"127.0.0.1\"\n");
    eventually(|| (ask() == 200).then_some(()));
    // A mistake changes nothing.
    scene.write("routes.toml", "[sandboxes.new\n");
    ingress
        .daemon
        .wait_for_line(PATIENCE, |line| line["level"] == "warn");
    assert_eq!(ask(), 200);
    scene.write("routes.toml", "[sandboxes]\n");
    eventually(|| (ask() == 404).then_some(()));
}
