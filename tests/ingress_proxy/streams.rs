//! Bodies on their way: piece by piece, in both directions, to their end or short of it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::scene::{Backend, PATIENCE, Scene};

/// Reads until `text` has come.
fn read_until(socket: &mut impl Read, text: &str) -> String {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(text.as_bytes()) {
        socket
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&received)));
        received.push(byte[0]);
    }
    String::from_utf8(received).unwrap()
}

#[test]
fn events_arrive_one_by_one() {
    let scene = Scene::new();
    let (next, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        peer.send("Transfer-Encoding: chunked\r\n\r\n");
        for number in 0..3 {
            // The next one only once the client has the last.
            wait.lock().unwrap().recv().unwrap();
            peer.send(format!("9\r\ndata: {number}\n\n\r\n"));
        }
        peer.send("0\r\n\r\n");
    });
    let route = scene.sandbox("box", &backend);
    let mut client = scene.connect();
    write!(client, "GET / HTTP/1.1\r\nHost: {route}.test\r\n\r\n").unwrap();
    read_until(&mut client, "\r\n\r\n");
    for number in 0..3 {
        next.send(()).unwrap();
        read_until(&mut client, &format!("data: {number}\n\n\r\n"));
    }
    read_until(&mut client, "0\r\n\r\n");
}

#[test]
fn a_body_of_known_length_is_not_held_back_either() {
    let scene = Scene::new();
    let (next, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
        for piece in ["one", "two"] {
            wait.lock().unwrap().recv().unwrap();
            peer.send(piece);
        }
    });
    let route = scene.sandbox("box", &backend);
    let mut client = scene.connect();
    write!(client, "GET / HTTP/1.1\r\nHost: {route}.test\r\n\r\n").unwrap();
    read_until(&mut client, "\r\n\r\n");
    for piece in ["one", "two"] {
        next.send(()).unwrap();
        read_until(&mut client, piece);
    }
}

#[test]
fn a_request_body_is_passed_on_as_it_comes() {
    let scene = Scene::new();
    let (seen, wait) = mpsc::channel::<Vec<u8>>();
    let backend = Backend::new(move |mut peer| {
        let head = peer.head().unwrap();
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        while let Some(chunk) = peer.chunk().unwrap() {
            seen.send(chunk).unwrap();
        }
        peer.answer("done");
    });
    let route = scene.sandbox("box", &backend);
    let mut client = scene.connect();
    write!(
        client,
        "GET / HTTP/1.1\r\nHost: {route}.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .unwrap();
    for piece in ["a", "bb", "ccc"] {
        write!(client, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        assert_eq!(wait.recv_timeout(PATIENCE).unwrap(), piece.as_bytes());
    }
    client.write_all(b"0\r\n\r\n").unwrap();
    read_until(&mut client, "done");
}

#[test]
fn trailers_pass_both_ways() {
    let scene = Scene::new();
    let backend = Backend::answering(|peer, _| {
        peer.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Sum: 9\r\nContent-Length: 1\r\n\r\n",
        );
    });
    let route = scene.sandbox("box", &backend);
    let response = scene.raw(format!(
        "POST / HTTP/1.1\r\nHost: {route}.test\r\nTE: trailers\r\nTrailer: X-Check\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\nX-Check: 7\r\n\r\n"
    ));
    let trailers = backend.request().trailers;
    assert_eq!(trailers, [("x-check".to_owned(), "7".to_owned())]);
    let rest = response
        .split_once("hi\r\n0\r\n")
        .unwrap()
        .1
        .to_ascii_lowercase();
    assert_eq!(rest, "x-sum: 9\r\n\r\n", "{response}");
}

#[test]
fn interim_responses_come_before_the_response() {
    let scene = Scene::new();
    let (next, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n";
    let backend = Backend::new(move |mut peer| {
        while let Some(request) = peer.request() {
            peer.send(hints);
            if request.line.contains("/later") {
                wait.lock().unwrap().recv().unwrap();
                peer.answer("ok");
            } else {
                peer.send(format!(
                    "{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                ));
            }
        }
    });
    let route = scene.sandbox("box", &backend);
    let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let mut client = scene.connect();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {route}.test\r\n\r\n");
    client.write_all(ask("/later").as_bytes()).unwrap();
    assert_eq!(read_until(&mut client, "\r\n\r\n"), expected);
    next.send(()).unwrap();
    let response = read_until(&mut client, "ok");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    // Pipelined behind one another, and together with their responses.
    client
        .write_all(ask("/at-once").repeat(3).as_bytes())
        .unwrap();
    for _ in 0..3 {
        for _ in 0..2 {
            assert_eq!(read_until(&mut client, "\r\n\r\n"), expected);
        }
        let response = read_until(&mut client, "ok");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    }
    // HTTP/1.0 knows no such thing.
    let response = scene.raw(format!(
        "GET /at-once HTTP/1.0\r\nHost: {route}.test\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
}

#[test]
fn a_body_is_held_back_until_the_sandbox_wants_it() {
    let scene = Scene::new();
    let backend = Backend::new(|mut peer| {
        let head = peer.head().unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        if head.line.contains("/refused") {
            peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
            return;
        }
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 4];
        peer.reader.read_exact(&mut body).unwrap();
        peer.answer(std::str::from_utf8(&body).unwrap());
    });
    let route = scene.sandbox("box", &backend);
    let ask = |path: &str| {
        let mut client = scene.connect();
        write!(
            client,
            "PUT {path} HTTP/1.1\r\nHost: {route}.test\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\n"
        )
        .unwrap();
        client
    };
    let mut client = ask("/wanted");
    assert_eq!(
        read_until(&mut client, "\r\n\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.write_all(b"body").unwrap();
    read_until(&mut client, "body");

    let mut client = ask("/refused");
    let response = read_until(&mut client, "no");
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
}

#[test]
fn a_sandbox_that_says_nothing_about_an_expectation_gets_the_body() {
    let scene = Scene::new();
    let backend = Backend::recording("ok");
    let route = scene.sandbox("box", &backend);
    let mut client = scene.connect();
    write!(
        client,
        "PUT / HTTP/1.1\r\nHost: {route}.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
    .unwrap();
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").unwrap();
    read_until(&mut client, "ok");
    assert_eq!(backend.request().body, b"body");
}

/// Whatever the framing, a response that was not finished must not look finished.
#[test]
fn a_sandbox_that_dies_in_the_middle_ends_the_client_in_the_middle() {
    let scene = Scene::new();
    let backend = Backend::new(|mut peer| {
        let head = peer.head().unwrap();
        let framing = if head.line.contains("/length") {
            "Content-Length: 100\r\n\r\nhello"
        } else {
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        };
        peer.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
        if head.line.contains("/reset") {
            peer.reset();
        }
    });
    let route = scene.sandbox("box", &backend);
    for (path, expected) in [("/length", "hello"), ("/chunked", "5\r\nhello\r\n")] {
        let response = scene.get(&route, path, "");
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, expected);
        let access = scene.access(|access| access["uri"] == path);
        assert_eq!(access["status"], 200);
        assert_eq!(access["error_type"], "body_aborted", "{access}");
    }
    // An HTTP/1.0 client can tell by the reset only.
    let mut client = scene.connect();
    write!(
        client,
        "GET /chunked HTTP/1.0\r\nHost: {route}.test\r\n\r\n"
    )
    .unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let scene = Scene::new();
    let (left, wait) = mpsc::channel::<&str>();
    let backend = Backend::new(move |mut peer| {
        let head = peer.request().unwrap();
        left.send("came").unwrap();
        if head.line.contains("/stream") {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        }
        // The end of the connection is how a backend learns of it.
        let mut rest = Vec::new();
        let _ = peer.reader.read_to_end(&mut rest);
        left.send("left").unwrap();
    });
    let route = scene.sandbox("box", &backend);
    for path in ["/silent", "/stream"] {
        let mut client = scene.connect();
        write!(client, "GET {path} HTTP/1.1\r\nHost: {route}.test\r\n\r\n").unwrap();
        assert_eq!(wait.recv_timeout(PATIENCE).unwrap(), "came");
        if path == "/stream" {
            read_until(&mut client, "x\r\n");
        }
        client.shutdown(Shutdown::Both).unwrap();
        drop(client);
        assert_eq!(wait.recv_timeout(PATIENCE).unwrap(), "left");
        let access = scene.access(|access| access["uri"] == path);
        assert_eq!(access["error_type"], "client_closed", "{access}");
        let status = if path == "/stream" { 200 } else { 499 };
        assert_eq!(access["status"], status);
    }
}

#[test]
fn a_slow_reader_slows_the_sandbox_down() {
    let scene = Scene::new();
    const TOTAL: usize = 64 * 1024 * 1024;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    let backend = Backend::new(move |mut peer| {
        peer.request();
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"
        ));
        let piece = vec![b'x'; 64 * 1024];
        while counter.load(std::sync::atomic::Ordering::SeqCst) < TOTAL {
            peer.reader.get_mut().write_all(&piece).unwrap();
            counter.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    let route = scene.sandbox("box", &backend);
    let mut client = scene.connect();
    write!(
        client,
        "GET / HTTP/1.1\r\nHost: {route}.test\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    // Wait until nothing moves any more: sockets and buffers are full, far below the whole.
    let mut before = usize::MAX;
    let started = Instant::now();
    while before != sent.load(std::sync::atomic::Ordering::SeqCst) {
        before = sent.load(std::sync::atomic::Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(before < TOTAL / 2, "{before}");
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(received.len() > TOTAL);
}
