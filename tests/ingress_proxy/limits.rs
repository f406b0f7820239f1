//! What connections cost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use opensandbox::footprint;
use opensandbox::ingress::proxy::Settings;
use opensandbox::ingress::route::Mode;

use crate::scene::{Backend, Peer, Scene};
use support::eventually;

/// Above what is measured (see `SPECIFICATION.md`), in a process that runs other tests: below what
/// hyper's buffers alone would take.
const MOST: usize = 12 * 1024;

const CONNECTIONS: usize = 500;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn idle_connections_are_cheap() {
    let scene = Scene::with(Settings::new(Mode::Header), |limits| {
        limits.park_time = Duration::from_millis(50);
    });
    for _ in 0..10 {
        // The allocator's first pages are nobody's.
        scene.raw("GET /status.ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    }
    let before = resident();
    let clients: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = scene.connect();
            client
                .write_all(b"GET /status.ok HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut head = [0; 12];
            client.read_exact(&mut head).unwrap();
            client
        })
        .collect();
    eventually(|| {
        footprint::give_back_heap();
        let each = resident().saturating_sub(before) / clients.len();
        (each < MOST).then_some(())
    });
}

#[test]
fn every_connection_is_given_back() {
    let scene = Scene::with(Settings::new(Mode::Header), |limits| limits.connections = 8);
    let backend = Backend::new(|mut peer: Peer| {
        while peer.request().is_some() {
            peer.answer("ok");
        }
    });
    let route = scene.sandbox("box", &backend);
    // Many more than may be open at once, by clients that leave in every way.
    for number in 0..100 {
        let mut client = scene.connect();
        match number % 4 {
            0 => {}
            1 => client.write_all(b"GET / HTT").unwrap(),
            2 => client.write_all(b"nonsense\r\n\r\n").unwrap(),
            _ => write!(client, "GET / HTTP/1.1\r\nHost: {route}.test\r\n\r\n").unwrap(),
        }
    }
    eventually(|| scene.get(&route, "/", "").contains("200 OK").then_some(()));
}
