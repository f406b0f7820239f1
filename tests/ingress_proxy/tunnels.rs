//! Upgrades: handshakes that pass unchanged, and the bytes after them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use opensandbox::ingress::proxy::Settings;
use opensandbox::ingress::route::Mode;

use crate::scene::{Backend, PATIENCE, Peer, Scene};

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: b\r\nSet-Cookie: a=1\r\nSet-Cookie: c=2\r\n\r\n";

fn read_head(socket: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    String::from_utf8(received).unwrap()
}

/// Asks for an upgrade and reads the head of the answer; `more` are header lines.
fn ask(scene: &Scene, route: &str, more: &str) -> (TcpStream, String) {
    let mut client = scene.connect();
    let head = ask_on(&mut client, route, more);
    (client, head)
}

/// As [`ask`], on a connection that is there.
fn ask_on(client: &mut TcpStream, route: &str, more: &str) -> String {
    write!(
        client,
        "GET /ws?x=1 HTTP/1.1\r\nHost: {route}.test\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .unwrap();
    read_head(client)
}

const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";

/// Grants every upgrade and sends back what comes.
fn echo() -> Backend {
    Backend::new(|mut peer| {
        peer.head().unwrap();
        peer.send(GRANTED);
        let mut writer = peer.reader.get_ref().try_clone().unwrap();
        let _ = std::io::copy(&mut peer.reader, &mut writer);
        let _ = writer.shutdown(Shutdown::Write);
    })
}

#[test]
fn a_handshake_passes_with_everything_in_it() {
    let scene = Scene::new();
    let (seen, wait) = mpsc::channel();
    let backend = Backend::new(move |mut peer| {
        seen.send(peer.head().unwrap()).unwrap();
        peer.send(GRANTED);
        // The first bytes of the new protocol may come along with the answer.
        peer.send(b"\x81\x02hi");
        let mut rest = Vec::new();
        let _ = peer.reader.read_to_end(&mut rest);
    });
    let route = scene.sandbox("box", &backend);
    let more = format!(
        "{WEBSOCKET}Origin: http://a.test\r\nCookie: a=1\r\nAuthorization: Bearer t\r\n\
         X-EXECD-ACCESS-TOKEN: e\r\nSec-WebSocket-Protocol: a, b\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\nUser-Agent: u\r\n\
         OpenSandbox-Ingress-To: {route}\r\n"
    );
    let (mut client, head) = ask(&scene, "ignored", &more);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in [
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-accept: s3ppLMBitxaq9kygzzhzrbk+xoo=\r\n",
        "sec-websocket-protocol: b\r\n",
        "set-cookie: a=1\r\n",
        "set-cookie: c=2\r\n",
        "reverse-proxy-server-powerby: opensandbox-ingress\r\n",
    ] {
        assert!(lower.contains(&line.to_ascii_lowercase()), "{line} {head}");
    }
    let mut frame = [0; 4];
    client.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x02hi");

    let request = wait.recv_timeout(PATIENCE).unwrap();
    assert_eq!(request.line, "GET /ws?x=1 HTTP/1.1");
    let host = backend.address.to_string();
    for (name, value) in [
        ("host", host.as_str()),
        ("connection", "Upgrade"),
        ("upgrade", "WebSocket"),
        ("origin", "http://a.test"),
        ("cookie", "a=1"),
        ("authorization", "Bearer t"),
        ("x-execd-access-token", "e"),
        ("sec-websocket-protocol", "a, b"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("user-agent", "u"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(request.field(name), Some(value), "{request:?}");
    }
    assert_eq!(request.field("opensandbox-ingress-to"), None);
}

#[test]
fn bytes_pass_both_ways_until_both_sides_have_finished() {
    let scene = Scene::new();
    let backend = echo();
    let route = scene.sandbox("box", &backend);
    // Not a WebSocket at all: the bytes are nobody's business.
    let (mut client, head) = ask(
        &scene,
        &route,
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    );
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 253) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let expected = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == expected, "{}", received.len());
    let access = scene.access(|_| true);
    assert_eq!(access["status"], 101);
    assert_eq!(access["proxy_type"], "websocket");
    assert_eq!(access["bytes_in"], 4_000_000);
    assert_eq!(access["bytes_out"], 4_000_000);
    assert!(access.get("error").is_none(), "{access}");
}

#[test]
fn a_refusal_of_an_upgrade_is_an_ordinary_answer() {
    let scene = Scene::new();
    let body = "x".repeat(3000);
    let answer = body.clone();
    let backend = Backend::answering(move |peer, _| {
        let length = answer.len();
        peer.send(format!(
            "HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: {length}\r\n\r\n{answer}"
        ));
    });
    let route = scene.sandbox("box", &backend);
    let (mut client, head) = ask(&scene, &route, WEBSOCKET);
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("x-why: because"),
        "{head}"
    );
    let mut received = vec![0; body.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, body.as_bytes());
    let access = scene.access(|_| true);
    assert_eq!(
        (&access["status"], &access["proxy_type"]),
        (&403.into(), &"websocket".into())
    );
}

#[test]
fn an_upgrade_that_finds_nobody_is_unavailable() {
    let scene = Scene::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    scene.sandboxes.set("box", "box", "127.0.0.1", None);
    let (_, head) = ask(&scene, &format!("box-{port}"), WEBSOCKET);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

#[test]
fn a_change_of_protocol_nobody_asked_for_is_no_answer() {
    let scene = Scene::new();
    let backend = Backend::new(|mut peer: Peer| {
        peer.request();
        peer.send(GRANTED);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
        let mut rest = Vec::new();
        let _ = peer.reader.read_to_end(&mut rest);
    });
    let route = scene.sandbox("box", &backend);
    for (asked, more) in [
        ("nothing", ""),
        ("an offer to nobody", "Upgrade: websocket\r\n"),
        ("another one", "Connection: upgrade\r\nUpgrade: foo/1\r\n"),
        ("h2c", "Connection: upgrade\r\nUpgrade: h2c\r\n"),
    ] {
        let response = scene.raw(format!(
            "GET / HTTP/1.1\r\nHost: {route}.test\r\n{more}\r\n\
             GET /next HTTP/1.1\r\nHost: {route}.test\r\nConnection: close\r\n\r\n"
        ));
        assert!(response.starts_with("HTTP/1.1 502 "), "{asked}: {response}");
        assert!(
            !response.contains("secret") && !response.contains(" 101 "),
            "{response}"
        );
    }
}

#[test]
fn tunnels_end_when_the_sandbox_is_gone() {
    let scene = Scene::new();
    let backend = echo();
    let route = scene.sandbox("box", &backend);
    let (mut client, _) = ask(&scene, &route, WEBSOCKET);
    client.write_all(b"\x82\x01x").unwrap();
    let mut frame = [0; 3];
    client.read_exact(&mut frame).unwrap();
    scene.sandboxes.remove("box");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    // Close, 1001 (going away).
    assert_eq!(rest, b"\x88\x02\x03\xe9");
}

#[test]
fn a_drain_says_goodbye_to_tunnels_and_lets_requests_finish() {
    let scene = Scene::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Backend::new(move |mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        wait.lock().unwrap().recv().unwrap();
        peer.send("lf");
    });
    let echo = echo();
    let (slow_route, route) = (scene.sandbox("slow", &slow), scene.sandbox("box", &echo));
    let (mut tunnel, _) = ask(&scene, &route, WEBSOCKET);
    let mut client = scene.connect();
    write!(client, "GET / HTTP/1.1\r\nHost: {slow_route}.test\r\n\r\n").unwrap();
    read_head(&mut client);
    let mut half = [0; 2];
    client.read_exact(&mut half).unwrap();

    scene.shutdown.trigger();
    let mut rest = Vec::new();
    tunnel.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"\x88\x02\x03\xe9");
    assert!(is_of_no_use(TcpStream::connect(scene.address)));
    go.send(()).unwrap();
    client.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"lf");
    drop((tunnel, client));
    assert_eq!(scene.stop(), Ok(()));
}

/// Whether nobody answers that all is well: the listener may be gone already or about to go.
fn is_of_no_use(connected: std::io::Result<TcpStream>) -> bool {
    connected.map_or(true, |mut socket| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(b"GET /status.ok HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        !answer.starts_with(b"HTTP/1.1 200")
    })
}

#[test]
fn tunnels_may_have_limits() {
    for lifetime in [false, true] {
        let mut settings = Settings::new(Mode::Header);
        let limit = Some(Duration::from_millis(300));
        if lifetime {
            settings.tunnel_lifetime = limit;
        } else {
            settings.tunnel_idle = limit;
        }
        let scene = Scene::with(settings, |_| {});
        let backend = echo();
        let route = scene.sandbox("box", &backend);
        let (mut client, _) = ask(&scene, &route, WEBSOCKET);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"\x88\x02\x03\xe9");
    }
}

#[test]
fn a_connection_that_was_idle_or_is_old_becomes_a_tunnel_that_stays() {
    let mut settings = Settings::new(Mode::Header);
    let lifetime = Duration::from_millis(300);
    settings.connection_lifetime = Some(lifetime);
    let park_time = lifetime / 30;
    let scene = Scene::with(settings, |limits| limits.park_time = park_time);
    let backend = echo();
    let route = scene.sandbox("box", &backend);
    for wait in [10 * park_time, 2 * lifetime] {
        let mut client = scene.connect();
        write!(client, "GET /status.ok HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        read_head(&mut client);
        client.read_exact(&mut [0; 2]).unwrap();
        std::thread::sleep(wait);
        let head = ask_on(&mut client, &route, WEBSOCKET).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(!head.contains("close"), "{head}");
        std::thread::sleep(2 * lifetime);
        client.write_all(b"still here").unwrap();
        let mut back = [0; 10];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"still here");
    }
}

#[test]
fn a_tunnel_counts_as_a_connection() {
    let scene = Scene::with(Settings::new(Mode::Header), |limits| limits.connections = 1);
    let backend = echo();
    let route = scene.sandbox("box", &backend);
    let (tunnel, _) = ask(&scene, &route, WEBSOCKET);
    let mut second = scene.connect();
    second
        .write_all(b"GET /status.ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    second
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut answer = Vec::new();
    assert!(second.read_to_end(&mut answer).is_err(), "{answer:?}");
    drop(tunnel);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    second.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}
