//! Sandboxes that come, go and move: no request reaches another one than its own.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::scene::{Backend, Peer, Scene};
use support::eventually;

#[test]
fn a_recycled_address_gets_connections_of_its_own() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let port = backend.address.port();
    let first = scene.sandboxes.set("first", "uid-1", "127.0.0.1", None);
    let mut used = 0;
    for _ in 0..10 {
        assert!(
            scene
                .get(&format!("first-{port}"), "/", "")
                .contains("200 OK")
        );
        used = backend.connections();
    }
    // Another sandbox at the same address and port, while connections to the first are kept.
    scene.sandboxes.set("second", "uid-2", "127.0.0.1", None);
    assert!(
        scene
            .get(&format!("second-{port}"), "/", "")
            .contains("200 OK")
    );
    assert_eq!(backend.connections(), used + 1);
    assert!(!first.retired.is_set());
    // A later sandbox of the same id is another one as well.
    scene.sandboxes.set("first", "uid-3", "127.0.0.1", None);
    assert!(
        scene
            .get(&format!("first-{port}"), "/", "")
            .contains("200 OK")
    );
    assert_eq!(backend.connections(), used + 2);
}

#[test]
fn connections_to_a_sandbox_that_is_gone_are_closed() {
    let scene = Scene::new();
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let backend = Backend::new(move |mut peer| {
        while peer.request().is_some() {
            peer.answer("ok");
        }
        count.fetch_add(1, Ordering::SeqCst);
    });
    let route = scene.sandbox("box", &backend);
    assert!(scene.get(&route, "/", "").contains("200 OK"));
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    scene.sandboxes.remove("box");
    eventually(|| (closed.load(Ordering::SeqCst) == 1).then_some(()));
    assert!(scene.get(&route, "/", "").contains("404 Not Found"));
}

#[test]
fn a_connection_that_the_sandbox_closed_is_closed() {
    let scene = Scene::new();
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let backend = Backend::new(move |mut peer| {
        if peer.request().is_some() {
            peer.answer("ok");
            let socket = peer.reader.get_ref();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the other side is closed, too, though nobody asks for the sandbox any more.
            let mut rest = Vec::new();
            peer.reader.read_to_end(&mut rest).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let route = scene.sandbox("box", &backend);
    assert!(scene.get(&route, "/", "").contains("200 OK"));
    eventually(|| (closed.load(Ordering::SeqCst) == 1).then_some(()));
}

/// The sandbox moves between two addresses while clients ask for it without a pause. The answer
/// names the address; it has to be the sandbox's, unless that moved during the request.
#[test]
fn a_sandbox_that_moves_under_load_is_never_mistaken() {
    let scene = Arc::new(Scene::new());
    let answer = |mut peer: Peer| {
        while let Some(request) = peer.request() {
            let host = request.field("host").unwrap().to_owned();
            peer.answer(&host);
        }
    };
    let first = Backend::at("127.0.0.1:0".parse().unwrap(), answer);
    let port = first.address.port();
    let _second = Backend::at(SocketAddr::from(([127, 0, 0, 2], port)), answer);
    // Even while the sandbox stays where it is, odd while it moves.
    let generation = Arc::new(AtomicUsize::new(0));
    scene.sandboxes.set("box", "uid-0", "127.0.0.1", None);
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (scene, generation, done) = (scene.clone(), generation.clone(), done.clone());
            std::thread::spawn(move || {
                let mut certain = 0;
                let mut client = scene.connect();
                while !done.load(Ordering::SeqCst) {
                    let before = generation.load(Ordering::SeqCst);
                    write!(client, "GET / HTTP/1.1\r\nHost: box-{port}.test\r\n\r\n").unwrap();
                    let response = response(&mut client);
                    assert!(response.contains("200 OK"), "{response}");
                    if before % 2 == 0 && generation.load(Ordering::SeqCst) == before {
                        let octet = before / 2 % 2 + 1;
                        let expected = format!("\r\n\r\n127.0.0.{octet}:{port}");
                        assert!(response.ends_with(&expected), "{before} {response}");
                        certain += 1;
                    }
                }
                certain
            })
        })
        .collect();
    for number in 1..200 {
        std::thread::sleep(Duration::from_millis(5));
        let host = format!("127.0.0.{}", number % 2 + 1);
        generation.fetch_add(1, Ordering::SeqCst);
        scene
            .sandboxes
            .set("box", &format!("uid-{number}"), &host, None);
        generation.fetch_add(1, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    let certain: usize = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .sum();
    assert!(certain > 100, "{certain}");
}

/// Reads one response with a known length.
fn response(client: &mut impl Read) -> String {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    let head = String::from_utf8(received).unwrap();
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[test]
fn a_request_a_kept_connection_could_not_take_is_sent_on_another() {
    let scene = Scene::new();
    // Answers once, and closes the connection after a while nobody knows.
    let backend = Backend::new(|mut peer| {
        if peer.request().is_some() {
            peer.answer("ok");
        }
    });
    let route = scene.sandbox("box", &backend);
    for round in 1..=10 {
        let response = scene.raw(format!(
            "POST / HTTP/1.1\r\nHost: {route}.test\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
        ));
        // The close may cross the request on its way, and then the request was written.
        assert!(response.contains("200 OK"), "{round} {response}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(backend.connections(), 10);
}
