//! What should not be: refused, or made so plain that a backend cannot take it for something else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use opensandbox::ingress::proxy::Settings;
use opensandbox::ingress::route::Mode;

use crate::scene::{Backend, PATIENCE, Scene};
use support::eventually;

/// A second request inside the first: whoever reads the first otherwise than we do finds it.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

struct Attack {
    scene: Scene,
    backend: Backend,
    route: String,
}

impl Attack {
    fn new() -> Self {
        let scene = Scene::new();
        let backend = Backend::recording("ok");
        let route = scene.sandbox("box", &backend);
        Self {
            scene,
            backend,
            route,
        }
    }

    /// Sends the attack, with `{route}` replaced, and returns what came back.
    fn send(&self, bytes: &str) -> String {
        self.backend.requests.lock().unwrap().clear();
        let bytes = bytes.replace("{route}", &self.route);
        let mut socket = self.scene.connect();
        socket.write_all(bytes.as_bytes()).unwrap();
        // A server that waits for more of the request is told that there is none.
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received);
        String::from_utf8_lossy(&received).into_owned()
    }

    fn lines(&self) -> Vec<String> {
        let requests = self.backend.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| request.line.clone())
            .collect()
    }
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() {
    let attack = Attack::new();
    let length = SMUGGLED.len();
    for (what, head, body) in [
        (
            "lengths that differ",
            "Content-Length: 0\r\nContent-Length: 38\r\n".to_owned(),
            SMUGGLED.to_owned(),
        ),
        (
            "a list of lengths",
            format!("Content-Length: {length}, 0\r\n"),
            SMUGGLED.to_owned(),
        ),
        (
            "a signed length",
            format!("Content-Length: +{length}\r\n"),
            SMUGGLED.to_owned(),
        ),
        (
            "a negative length",
            "Content-Length: -1\r\n".to_owned(),
            String::new(),
        ),
        (
            "a length in hexadecimal",
            "Content-Length: 0x10\r\n".to_owned(),
            String::new(),
        ),
        (
            "a control character before the coding",
            "Transfer-Encoding: \u{b}chunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a carriage return before the coding",
            "Transfer-Encoding: \rchunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a blank before the colon",
            "Transfer-Encoding : chunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a folded line",
            "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a folded line after another",
            "X: y\r\n Transfer-Encoding: chunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a coding besides chunked",
            "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
            "0\r\n\r\n".to_owned(),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked, chunked\r\n".to_owned(),
            "0\r\n\r\n".to_owned(),
        ),
        (
            "chunked on two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            "0\r\n\r\n".to_owned(),
        ),
        (
            "chunked before another",
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "another name for chunked",
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            format!("0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "an octet that is none of a name",
            "X(y): z\r\n".to_owned(),
            String::new(),
        ),
        (
            "a zero octet in a value",
            "X: a\0b\r\n".to_owned(),
            String::new(),
        ),
        (
            "two hosts",
            "Host: other-1.test\r\n".to_owned(),
            String::new(),
        ),
    ] {
        let response = attack.send(&format!(
            "POST /first HTTP/1.1\r\nHost: {{route}}.test\r\n{head}\r\n{body}"
        ));
        let refused = response.is_empty()
            || response.starts_with("HTTP/1.1 400 ")
            || response.starts_with("HTTP/1.1 501 ");
        assert!(refused, "{what}: {response}");
        assert_eq!(attack.lines(), [""; 0], "{what}");
    }
}

#[test]
fn a_length_beside_chunks_does_not_count_and_ends_the_connection() {
    let attack = Attack::new();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: CHUNKED\r\nContent-Length: 500\r\n",
    ] {
        let response = attack.send(&format!(
            "POST /first HTTP/1.1\r\nHost: {{route}}.test\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}"
        ));
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
        assert_eq!(attack.lines(), ["POST /first HTTP/1.1"]);
        let request = attack.backend.request();
        assert_eq!(request.field("content-length"), None);
        assert_eq!(request.field("transfer-encoding"), Some("chunked"));
        assert_eq!(request.body, b"");
    }
}

#[test]
fn a_bare_line_feed_is_made_a_whole_line_end() {
    let attack = Attack::new();
    let response = attack.send(
        "POST /first HTTP/1.1\nHost: {route}.test\nX: a\nContent-Length: 2\nConnection: close\n\nhi",
    );
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    // The backend's reader takes nothing but CRLF.
    let request = attack.backend.request();
    assert_eq!(
        (request.field("x"), request.body.as_slice()),
        (Some("a"), &b"hi"[..])
    );
}

#[test]
fn chunks_that_could_be_read_in_two_ways_are_refused() {
    let attack = Attack::new();
    for (what, body) in [
        ("a line feed after a size", "2\nhi\n0\n\n"),
        ("a line feed in an extension", "2;x\nhi\r\n0\r\n\r\n"),
        ("a size that is none", "0x2\r\nhi\r\n0\r\n\r\n"),
        ("a size with a sign", "+2\r\nhi\r\n0\r\n\r\n"),
        (
            "a size beyond all bounds",
            "fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
        ),
        ("no line end after a chunk", "2\r\nhi0\r\n\r\n"),
        ("an empty size", "\r\nhi\r\n0\r\n\r\n"),
    ] {
        let response = attack.send(&format!(
            "POST /first HTTP/1.1\r\nHost: {{route}}.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             {body}{SMUGGLED}"
        ));
        assert!(!response.contains(" 200 "), "{what}: {response}");
        // The backend never saw the end of it, so it was no request for it either.
        assert_eq!(attack.lines(), [""; 0], "{what}");
    }
}

#[test]
fn what_follows_a_request_is_another_one() {
    let attack = Attack::new();
    let response = attack.send(
        "GET /one HTTP/1.1\r\nHost: {route}.test\r\nContent-Length: 0\r\n\r\n\
         GET /two HTTP/1.1\r\nHost: gone-1.test\r\nConnection: close\r\n\r\n",
    );
    // The second went its own way: routed and judged for itself.
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("HTTP/1.1 404 "), "{response}");
    assert_eq!(attack.lines(), ["GET /one HTTP/1.1"]);
}

#[test]
fn credentials_cannot_be_named_away() {
    let attack = Attack::new();
    attack
        .scene
        .sandboxes
        .set("secret", "s", "127.0.0.1", Some("token"));
    let port = attack.backend.address.port();
    let response = attack.send(&format!(
        "GET / HTTP/1.1\r\nHost: secret-{port}.test\r\n\
         Connection: close, OpenSandbox-Secure-Access\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
    let response = attack.send(&format!(
        "GET / HTTP/1.1\r\nHost: secret-{port}.test\r\nOpenSandbox-Secure-Access: token\r\n\
         Connection: close, Authorization, X-EXECD-ACCESS-TOKEN, X-Forwarded-For, Host\r\n\
         Authorization: Bearer t\r\nX-EXECD-ACCESS-TOKEN: e\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let request = attack.backend.request();
    assert_eq!(request.field("authorization"), Some("Bearer t"));
    assert_eq!(request.field("x-execd-access-token"), Some("e"));
    assert_eq!(
        request.field("x-forwarded-for"),
        Some("10.0.0.1, 127.0.0.1")
    );
    assert!(request.field("host").is_some());
}

#[test]
fn a_response_cannot_smuggle_a_second_one() {
    let scene = Scene::new();
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    let backend = Backend::answering(move |peer, request| {
        let head = match request.line.split(' ').nth(1).unwrap() {
            "/differ" => "Content-Length: 0\r\nContent-Length: 53\r\n",
            "/coding" => "Transfer-Encoding: gzip, chunked\r\n",
            "/fold" => "Content-Length:\r\n 0\r\n",
            "/surplus" => "Content-Length: 0\r\n",
            path => panic!("{path}"),
        };
        peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{smuggled}"));
    });
    let route = scene.sandbox("box", &backend);
    for path in ["/differ", "/coding", "/fold"] {
        let response = scene.get(&route, path, "");
        assert!(response.starts_with("HTTP/1.1 502 "), "{path} {response}");
        assert!(!response.contains("smuggled"), "{response}");
    }
    // What comes after the end of a response belongs to nothing, and its connection is not used
    // for anybody else.
    for _ in 0..10 {
        let response = scene.get(&route, "/surplus", "");
        assert!(!response.contains("smuggled"), "{response}");
    }
}

#[test]
fn heads_are_bounded() {
    let attack = Attack::new();
    let long = "x".repeat(100_000);
    let many = "X: y\r\n".repeat(1000);
    for (what, bytes) in [
        (
            "a value",
            format!("GET / HTTP/1.1\r\nHost: {{route}}.test\r\nX: {long}\r\n\r\n"),
        ),
        (
            "fields",
            format!("GET / HTTP/1.1\r\nHost: {{route}}.test\r\n{many}\r\n"),
        ),
        (
            "a target",
            format!("GET /{long} HTTP/1.1\r\nHost: {{route}}.test\r\n\r\n"),
        ),
    ] {
        let response = attack.send(&bytes);
        let refused = response.is_empty()
            || response.starts_with("HTTP/1.1 431 ")
            || response.starts_with("HTTP/1.1 414 ");
        assert!(refused, "{what}: {response}");
        assert_eq!(attack.lines(), [""; 0], "{what}");
    }
    // So are those of backends.
    let scene = Scene::new();
    let backend = Backend::answering(move |peer, _| {
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nX: {}\r\n\r\n",
            "x".repeat(100_000)
        ));
    });
    let route = scene.sandbox("box", &backend);
    let response = scene.get(&route, "/", "");
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
}

#[test]
fn a_head_that_drips_runs_out_of_time() {
    let scene = Scene::with(Settings::new(Mode::Header), |limits| {
        limits.header_time = Duration::from_millis(300);
        limits.idle_time = Duration::from_millis(600);
    });
    let mut slow = scene.connect();
    let mut silent = scene.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    for socket in [&mut slow, &mut silent] {
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received);
        assert_eq!(received, b"");
    }
}

/// The frames of HTTP/2, as far as an attacker needs them.
struct Http2(TcpStream);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Http2 {
    fn new(scene: &Scene) -> Self {
        let mut socket = scene.connect();
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut http2 = Self(socket);
        http2.frame(SETTINGS, 0, 0, &[]).unwrap();
        http2
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) -> std::io::Result<()> {
        let mut frame = (body.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(body);
        self.0.write_all(&frame)
    }

    /// GET / with this authority, in literals without Huffman coding.
    fn head(authority: &str) -> Vec<u8> {
        let mut head = vec![0x82, 0x84, 0x86, 0x01, authority.len() as u8];
        head.extend_from_slice(authority.as_bytes());
        head
    }

    /// Reads frames until one of `kind`, or the end of the connection.
    fn wait_for(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).ok()?;
            if head[3] == kind {
                return Some(body);
            }
        }
    }
}

#[test]
fn opening_streams_only_to_reset_them_ends_the_connection() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let route = scene.sandbox("box", &backend);
    let mut attacker = Http2::new(&scene);
    let head = Http2::head(&format!("{route}.test"));
    let mut sent = 0_u32;
    for number in 0..100_000_u32 {
        let stream = 2 * number + 1;
        let written = attacker
            .frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)
            .and_then(|()| attacker.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if written.is_err() {
            break;
        }
        sent = number;
    }
    // It was told to go away, or cut off, and the rest of the process is well.
    let gone = attacker.wait_for(GOAWAY);
    assert!(gone.is_none_or(|body| body.len() >= 8));
    assert!(sent < 100_000);
    let reached = backend.requests.lock().unwrap().len();
    assert!(reached < 1000, "{reached}");
    assert!(scene.get(&route, "/", "").contains("200 OK"));
}

#[test]
fn heads_without_an_end_end_the_connection() {
    let scene = Scene::new();
    let mut attacker = Http2::new(&scene);
    attacker.frame(HEADERS, 0, 1, &Http2::head("x")).unwrap();
    // A literal that is never indexed, 4096 octets long, over and over.
    let mut piece = vec![0x10, 1, b'x', 0x7f, 0x81, 0x1f];
    piece.resize(6 + 4096, b'a');
    let mut sent = 0_u64;
    while attacker.frame(CONTINUATION, 0, 1, &piece).is_ok() {
        sent += piece.len() as u64;
        assert!(sent < 256 * 1024 * 1024, "nobody stopped it");
    }
    let response = scene.raw("GET /status.ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[test]
fn a_backend_that_hangs_or_refuses_harms_nobody_else() {
    let mut settings = Settings::new(Mode::Header);
    settings.response_time = Some(Duration::from_millis(300));
    let scene = Scene::with(settings, |_| {});
    let hanging = Backend::new(|mut peer| {
        peer.request();
        std::thread::sleep(PATIENCE);
    });
    let well = Backend::recording("ok");
    let (hanging, well) = (
        scene.sandbox("hanging", &hanging),
        scene.sandbox("well", &well),
    );
    let response = scene.get(&hanging, "/", "");
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    assert!(response.ends_with("no response in time\n"), "{response}");
    let access = scene.access(|access| access["sandbox_id"] == "hanging");
    assert_eq!(access["error_type"], "header_timeout");
    assert!(scene.get(&well, "/", "").contains("200 OK"));
    // Nonsense instead of HTTP.
    let nonsense = Backend::new(|mut peer| {
        peer.request();
        peer.send("SSH-2.0-OpenSSH_9\r\n\r\n");
    });
    let nonsense = scene.sandbox("nonsense", &nonsense);
    let response = scene.get(&nonsense, "/", "");
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    // The end instead of an answer.
    let mute = Backend::new(|mut peer| drop(peer.request()));
    let mute = scene.sandbox("mute", &mute);
    let response = scene.get(&mute, "/", "");
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    eventually(|| (scene.accesses().len() == 4).then_some(()));
}
