//! `/proxy`: the other servers of a sandbox, and execd itself (contract 10).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::backend::{Backend, Peer};
use support::free_port;
use support::tools::require_programs;
use support::websocket::{Client, Event};

use crate::client::{Answer, Execd, PATIENCE, builder};
use support::eventually;

/// The path of a server behind execd.
fn path(port: u16, rest: &str) -> String {
    format!("/proxy/{port}{rest}")
}

fn connect(execd: &Execd) -> TcpStream {
    let stream = TcpStream::connect(execd.address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends raw bytes and reads until the connection is closed or reset.
fn raw(execd: &Execd, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(execd);
    stream.write_all(bytes.as_ref()).unwrap();
    let mut received = Vec::new();
    // What came before a reset counts.
    let _ = stream.read_to_end(&mut received);
    String::from_utf8_lossy(&received).into_owned()
}

/// The access records but those of execd's own routes.
fn accesses(execd: &Execd) -> Vec<String> {
    let events = execd.daemon.events("execd.access");
    let events = events.iter();
    events
        .filter(|event| event["route"] != "/ping")
        .map(|event| format!("{} {} {}", event["method"], event["route"], event["status"]))
        .collect()
}

/// Waits until what execd passed on is over and recorded.
fn access(execd: &Execd, is_it: impl Fn(&Value) -> bool) -> Value {
    execd.daemon.wait_for_event("execd.access", is_it)
}

#[test]
fn a_request_goes_on_as_it_came_but_for_its_hop() {
    let execd = Execd::of(builder().env("EXECD_ACCESS_TOKEN", "sEcr3t"));
    let backend = Backend::recording("hello");
    let port = backend.address.port();
    let raw_path = "/a%2Fb//x/../%C3%A9/./;p=1/?q=%2f+%20&&r=[]";
    let answer = raw(
        &execd,
        format!(
            "PATCH /proxy/{port}{raw_path} HTTP/1.1\r\nHost: caller.test:1234\r\n\
             X-EXECD-ACCESS-TOKEN: sEcr3t\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: gzip\r\n\
             Keep-Alive: 5\r\nProxy-Authorization: Basic x\r\nAuthorization: Bearer app\r\n\
             Cookie: a=b\r\nX-Forwarded-For: 203.0.113.9, 198.51.100.1\r\n\
             X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 203.0.113.7\r\n\
             X-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 4\r\n\r\nbody"
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let request = backend.request();
    assert_eq!(request.line, format!("PATCH {raw_path} HTTP/1.1"));
    assert_eq!(request.body, b"body");
    let mut fields = request.fields.clone();
    fields.sort();
    let expected = [
        ("authorization", "Bearer app"),
        ("content-length", "4"),
        ("cookie", "a=b"),
        ("host", "caller.test:1234"),
        ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "203.0.113.7"),
        ("x-twice", "1"),
        ("x-twice", "2"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields, expected);
    // Neither the path nor anything else the client chose is in the record.
    access(&execd, |event| event["route"] == "/proxy/:port");
    assert_eq!(accesses(&execd), [r#""PATCH" "/proxy/:port" 200"#]);
    assert!(!execd.daemon.transcript().contains("203.0.113"));
}

#[test]
fn every_method_and_status_passes() {
    let execd = Execd::start();
    let backend = Backend::answering(|peer, request| {
        let status = request.line.split(['/', ' ']).nth(2).unwrap().to_owned();
        let body = match status.as_str() {
            "204" | "304" => "",
            _ => "{\"denied\":true}",
        };
        let length = match status.as_str() {
            "204" | "304" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let body = if request.line.starts_with("HEAD ") {
            ""
        } else {
            body
        };
        peer.send(format!(
            "HTTP/1.1 {status} Whatever It Is\r\nX-App: kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Server: app\r\nContent-Encoding: identity\r\n{length}\r\n{body}"
        ));
    });
    let port = backend.address.port();
    for method in [
        "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW",
    ] {
        let answer = execd.call(method, &path(port, "/200"), &[], "");
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(answer.text(), "{\"denied\":true}");
    }
    for status in [201, 204, 301, 304, 403, 418, 500, 503, 599] {
        let target = path(port, &format!("/{status}/_active"));
        let answer = execd.call("GET", &target, &["Connection: close"], "");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("x-app"), Some("kept"));
        assert_eq!(answer.header("server"), Some("app"));
        let cookies: Vec<_> = answer
            .headers
            .iter()
            .filter(|line| line.to_ascii_lowercase().starts_with("set-cookie:"))
            .collect();
        assert_eq!(cookies.len(), 2);
    }
    let head = raw(
        &execd,
        format!(
            "HEAD {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            path(port, "/200")
        ),
    );
    assert!(
        head.to_ascii_lowercase().contains("content-length: 15"),
        "{head}"
    );
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    // Nothing is asked for that the client did not ask for.
    for request in backend.requests.lock().unwrap().iter() {
        assert_eq!(request.field("accept-encoding"), None);
    }
}

#[test]
fn the_own_port_is_answered_in_process() {
    let execd = Execd::of(builder().env("EXECD_ACCESS_TOKEN", "sEcr3t"));
    let token = ["X-EXECD-ACCESS-TOKEN: sEcr3t"];
    let own = format!("/proxy/{}", execd.address.port());
    for headers in [&[][..], &["X-EXECD-ACCESS-TOKEN: other"]] {
        let refused = execd.call("GET", &format!("{own}/metrics"), headers, "");
        assert_eq!(refused.status, 401);
    }
    let body = json!({"command": "echo through; exit 3"}).to_string();
    let answer = execd.open("POST", &format!("{own}/command"), &token, &body);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let whole = answer.whole();
    assert!(whole.text().contains(r#""text":"through""#), "{whole:?}");
    assert!(whole.text().contains(r#""evalue":"3""#), "{whole:?}");
    for (rest, status) in [
        ("/nope", 404),
        ("", 404),
        ("/", 404),
        ("/command/status/x?y=z", 404),
        ("/command", 400),
    ] {
        let method = if status == 400 { "DELETE" } else { "GET" };
        let answer = execd.call(method, &format!("{own}{rest}"), &token, "");
        assert_eq!(answer.status, status, "{rest}");
    }
    // As deep as it gets.
    for (hops, status) in [(3, 200), (8, 200), (9, 508), (400, 508)] {
        let path = format!("{}/ping", own.repeat(hops));
        assert_eq!(
            execd.call("GET", &path, &token, "").status,
            status,
            "{hops}"
        );
    }
    let backend = Backend::recording("other");
    let through = format!("{own}/proxy/{}/x%2Fy?z", backend.address.port());
    assert_eq!(execd.call("GET", &through, &token, "").text(), "other");
    assert_eq!(backend.request().line, "GET /x%2Fy?z HTTP/1.1");
    assert_eq!(backend.request().field("x-execd-access-token"), None);

    // Each was recorded once, as what it was.
    access(&execd, |event| event["route"] == "/proxy/:port");
    let seen = accesses(&execd);
    assert_eq!(
        seen,
        [
            r#""GET" "unknown" 401"#,
            r#""GET" "unknown" 401"#,
            r#""POST" "/command" 200"#,
            r#""GET" "unknown" 404"#,
            r#""GET" "unknown" 404"#,
            r#""GET" "unknown" 404"#,
            r#""GET" "/command/status/:id" 404"#,
            r#""DELETE" "/command" 400"#,
            r#""GET" "unknown" 508"#,
            r#""GET" "unknown" 508"#,
            r#""GET" "/proxy/:port" 200"#,
        ]
    );
    let pings = execd.daemon.events("execd.access");
    let pings = pings.iter().filter(|event| event["route"] == "/ping");
    assert_eq!(pings.count(), 2);
}

#[test]
fn a_run_through_the_own_port_ends_with_its_client() {
    let execd = Execd::start();
    let session = execd.session();
    let own = format!("/proxy/{}/session/{session}/run", execd.address.port());
    let request = json!({"command": "echo go; sleep 983"}).to_string();
    let mut answer = execd.open("POST", &own, &[], &request);
    while let Some(piece) = answer.piece().unwrap() {
        if String::from_utf8_lossy(&piece).contains(r#""text":"go""#) {
            break;
        }
    }
    answer.abandon();
    // The session is free again: the run was cancelled.
    let run = execd.run_in(&session, "echo free");
    assert_eq!(run.stdout(), ["free"]);
}

#[test]
fn places_that_are_none_are_told_apart() {
    let execd = Execd::start();
    let closed = free_port();
    for (path, status, body) in [
        ("/proxy/", 400, "port is required\n"),
        ("/proxy//x", 400, "port is required\n"),
        (
            "/proxy/http/",
            400,
            "port must be a number from 1 to 65535\n",
        ),
        ("/proxy/0/", 400, "port must be a number from 1 to 65535\n"),
        (
            "/proxy/65536/",
            400,
            "port must be a number from 1 to 65535\n",
        ),
        ("/proxy/-1/", 400, "port must be a number from 1 to 65535\n"),
        (
            "/proxy/localhost:80/",
            400,
            "port must be a number from 1 to 65535\n",
        ),
        (&format!("/proxy/{closed}/x"), 502, "Bad Gateway\n"),
    ] {
        let answer = execd.get(path);
        assert_eq!((answer.status, answer.text()), (status, body), "{path}");
        let text = "text/plain; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(text));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    for path in ["/proxy", "/proxy%2F80/", "/%70roxy/80/", "//proxy/80/"] {
        let answer = execd.get(path);
        assert_eq!(
            (answer.status, answer.text()),
            (404, "404 page not found"),
            "{path}"
        );
    }
}

#[test]
fn a_server_on_ipv6_only_is_found() {
    let execd = Execd::start();
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let backend = Backend::at(address, |mut peer| {
        while peer.request().is_some() {
            peer.answer("six");
        }
    });
    let answer = execd.get(&path(backend.address.port(), "/"));
    assert_eq!((answer.status, answer.text()), (200, "six"));
}

#[test]
fn connections_are_used_again() {
    let execd = Execd::start();
    let backend = Backend::answering(|peer, request| {
        peer.answer(&request.line);
        if request.line.contains("/last") {
            // As a server does that keeps no idle connection.
            peer.reader.get_ref().shutdown(Shutdown::Both).unwrap();
        }
    });
    let port = backend.address.port();
    for _ in 0..20 {
        assert_eq!(execd.get(&path(port, "/")).status, 200);
        let posted = execd.call("POST", &path(port, "/p"), &[], "body");
        assert_eq!(posted.status, 200);
    }
    // One that is not quite free yet is replaced instead of waited for.
    let connections = backend.connections();
    assert!(connections < 10, "{connections} for 40 requests");
    for _ in 0..10 {
        assert_eq!(execd.get(&path(port, "/last")).status, 200);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(execd.get(&path(port, "/")).status, 200);
    }
}

/// A server whose connections are given to the test.
fn handed_over() -> (Backend, Receiver<Peer>) {
    let (give, take) = channel();
    let give = Mutex::new(give);
    let backend = Backend::new(move |peer| {
        // A test that has ended takes no more.
        let _ = give.lock().unwrap().send(peer);
    });
    (backend, take)
}

fn taken(peers: &Receiver<Peer>) -> Peer {
    peers.recv_timeout(PATIENCE).unwrap()
}

/// Whether the connection of a peer has ended.
fn has_ended(peer: &mut Peer) -> bool {
    let stream = peer.reader.get_ref();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    loop {
        match peer.reader.read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn events_pass_one_by_one() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let target = path(backend.address.port(), "/events");
    let address = execd.address;
    let client = std::thread::spawn(move || {
        Answer::of(address, "GET", &target, &["Accept: text/event-stream"], "").unwrap()
    });
    let mut peer = taken(&peers);
    peer.head().unwrap();
    peer.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    // The head arrives before there is anything of the body.
    let mut answer = client.join().unwrap();
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    for number in 0..20 {
        let event = format!("data: {number}\n\n");
        peer.send(format!("{:x}\r\n{event}\r\n", event.len()));
        // The next one is sent only when this one has arrived.
        assert_eq!(answer.piece().unwrap().unwrap(), event.as_bytes());
    }
    peer.send("0\r\n\r\n");
    assert_eq!(answer.piece().unwrap(), None);
}

#[test]
fn a_body_passes_while_it_is_sent() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let mut client = connect(&execd);
    write!(
        client,
        "POST {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        path(backend.address.port(), "/upload")
    )
    .unwrap();
    let mut peer = taken(&peers);
    let head = peer.head().unwrap();
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two", "three"] {
        write!(client, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        assert_eq!(peer.chunk().unwrap().unwrap(), piece.as_bytes());
    }
    // Both ways at once: the answer begins before the request has ended.
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n");
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    while line != "early\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    client.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
    assert_eq!(peer.chunk().unwrap().unwrap(), b"last");
    assert_eq!(peer.chunk().unwrap(), None);
}

#[test]
fn a_server_that_dies_leaves_no_clean_end() {
    let execd = Execd::start();
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 1000"] {
        for reset in [false, true] {
            let backend = Backend::new(move |mut peer| {
                peer.request().unwrap();
                let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
                let piece = if framing.starts_with('C') {
                    "half"
                } else {
                    "4\r\nhalf\r\n"
                };
                peer.send(head + piece);
                if reset {
                    // What was sent would be lost with it.
                    std::thread::sleep(Duration::from_millis(100));
                    peer.reset();
                }
            });
            let target = path(backend.address.port(), "/");
            let answer = raw(&execd, format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(body.contains("half"), "{body}");
            // The connection is closed, and nothing says that this was all.
            assert!(!body.contains("\r\n0\r\n"), "{body:?}");
        }
    }
    // One that dies before it answers, or answers something else.
    for said in [
        "",
        "HTTP/1.1 200 O",
        "220 smtp ready\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ] {
        let backend = Backend::new(move |mut peer| {
            peer.request().unwrap();
            peer.send(said);
        });
        let answer = execd.get(&path(backend.address.port(), "/"));
        assert_eq!(
            (answer.status, answer.text()),
            (502, "Bad Gateway\n"),
            "{said:?}"
        );
    }
    let record = access(&execd, |event| event["status"] == 502);
    assert_eq!(record["route"], "/proxy/:port");
}

#[test]
fn a_client_that_goes_is_missed_by_the_server() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let target = path(backend.address.port(), "/");
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");

    // While the server thinks about the answer.
    let mut client = connect(&execd);
    client.write_all(request.as_bytes()).unwrap();
    let mut peer = taken(&peers);
    peer.head().unwrap();
    drop(client);
    assert!(has_ended(&mut peer));

    // In the middle of the answer.
    let mut client = connect(&execd);
    client.write_all(request.as_bytes()).unwrap();
    let mut peer = taken(&peers);
    peer.head().unwrap();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    client.read_exact(&mut [0; 20]).unwrap();
    drop(client);
    assert!(has_ended(&mut peer));

    // In the middle of its own body.
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 1000"] {
        let mut client = connect(&execd);
        let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n4\r\nhalf\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let mut peer = taken(&peers);
        peer.head().unwrap();
        drop(client);
        assert!(has_ended(&mut peer), "{framing}");
    }
}

#[test]
fn large_bodies_pass_in_little_memory() {
    const SIZE: usize = 256 << 20;
    let execd = Execd::start();
    let backend = Backend::new(|mut peer| {
        while let Some(head) = peer.head() {
            let length: usize = head.field("content-length").unwrap_or("0").parse().unwrap();
            let mut left = length;
            let mut sum = 0_u64;
            let mut piece = vec![0; 1 << 16];
            while left > 0 {
                let read = peer.reader.read(&mut piece[..left.min(1 << 16)]).unwrap();
                assert!(read > 0);
                sum += piece[..read]
                    .iter()
                    .map(|byte| u64::from(*byte))
                    .sum::<u64>();
                left -= read;
            }
            if head.line.starts_with("GET") {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                let piece = vec![7; 1 << 20];
                for _ in 0..SIZE >> 20 {
                    peer.send(&piece);
                }
            } else {
                peer.answer(&sum.to_string());
            }
        }
    });
    let target = path(backend.address.port(), "/");
    let download = || {
        let mut client = connect(&execd);
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut received = 0;
        let mut piece = vec![0; 1 << 18];
        loop {
            let read = client.read(&mut piece).unwrap();
            if read == 0 {
                return received;
            }
            received += read;
        }
    };
    let upload = || {
        let mut client = connect(&execd);
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        let piece = vec![3; 1 << 20];
        for _ in 0..SIZE >> 20 {
            client.write_all(&piece).unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(download() > SIZE);
    let before = execd.daemon.status("VmHWM");
    assert!(download() > SIZE);
    let answer = upload();
    assert!(
        answer.ends_with(&format!("\r\n\r\n{}", 3 * SIZE)),
        "{answer}"
    );
    let after = execd.daemon.status("VmHWM");
    assert!(after < before + 8192, "{before} KiB, then {after} KiB");
}

#[test]
fn a_slow_client_slows_the_server() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let mut client = connect(&execd);
    let target = path(backend.address.port(), "/");
    write!(client, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut peer = taken(&peers);
    peer.head().unwrap();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    // Nobody reads: what fits into the sockets is taken, and then no more.
    let stream = peer.reader.get_mut();
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let chunk = [b"10000\r\n", &[b'x'; 1 << 16][..], b"\r\n"].concat();
    let mut sent = 0;
    while stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 256 << 20, "it is kept somewhere");
    }
    assert!(execd.daemon.status("VmRSS") < 40 << 10);
    drop(client);
    assert!(has_ended(&mut peer));
}

#[test]
fn trailers_pass_both_ways() {
    let execd = Execd::start();
    let backend = Backend::answering(|peer, _| {
        peer.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length\r\n\r\n\
             4\r\nbody\r\n0\r\nX-Sum: 42\r\nContent-Length: 9\r\n\r\n",
        );
    });
    let answer = raw(
        &execd,
        format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close, TE\r\nTE: trailers\r\n\
             Transfer-Encoding: chunked\r\nTrailer: X-Mine\r\n\r\n2\r\nhi\r\n0\r\nX-Mine: yes\r\n\r\n",
            path(backend.address.port(), "/")
        ),
    );
    let end = answer.to_ascii_lowercase();
    assert!(end.ends_with("\r\n0\r\nx-sum: 42\r\n\r\n"), "{answer}");
    let request = backend.request();
    assert_eq!(request.body, b"hi");
    assert_eq!(request.trailers, [("x-mine".to_owned(), "yes".to_owned())]);
    assert_eq!(request.field("te"), Some("trailers"));
}

#[test]
fn a_body_that_is_held_back_is_asked_for_by_the_server() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let target = path(backend.address.port(), "/");
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    );
    // The server refuses: the body is never asked for.
    let mut client = connect(&execd);
    client.write_all(head.as_bytes()).unwrap();
    let mut peer = taken(&peers);
    assert_eq!(peer.head().unwrap().field("expect"), Some("100-continue"));
    peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 413"), "{line}");
    // The server wants it.
    let mut client = connect(&execd);
    client.write_all(head.as_bytes()).unwrap();
    let mut peer = taken(&peers);
    peer.head().unwrap();
    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
    let mut reader = BufReader::new(client.try_clone().unwrap());
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");
    client.write_all(b"body").unwrap();
    let mut body = [0; 4];
    peer.reader.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"body");
    peer.answer("thanks");
    let mut answer = String::new();
    while !answer.ends_with("thanks") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        answer.push(char::from(byte[0]));
    }
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
}

#[test]
fn interim_responses_pass() {
    let execd = Execd::start();
    let backend = Backend::answering(|peer, _| {
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: close\r\n\r\n");
        peer.answer("late");
    });
    let target = path(backend.address.port(), "/");
    let answer = raw(
        &execd,
        format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    );
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(answer.starts_with(early), "{answer}");
    assert!(answer.ends_with("late"), "{answer}");
}

#[test]
fn one_request_never_becomes_two() {
    let execd = Execd::start();
    let backend = Backend::recording("seen");
    let port = backend.address.port();
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len();
    for fields in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}"),
        format!("Content-Length: 0, {length}\r\n\r\n{inner}"),
        format!("Content-Length: +{length}\r\n\r\n{inner}"),
        format!("Content-Length: 0x0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: identity\r\nContent-Length: {length}\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Connection: Content-Length\r\nContent-Length: {length}\r\n\r\n{inner}"),
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        format!(
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\nContent-Length: {length}\r\n\r\n{inner}"
        ),
        format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: {length}\r\n\r\n{inner}"
        ),
        "Transfer-Encoding: chunked\r\n\r\n1 ;a\r\nx\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n0\r\n\r\n".to_owned(),
        "X: a\rb\r\n\r\n".to_owned(),
        "X: a\0b\r\n\r\n".to_owned(),
        "Bad Name: x\r\n\r\n".to_owned(),
    ] {
        backend.requests.lock().unwrap().clear();
        let mut stream = connect(&execd);
        let request = format!("POST /proxy/{port}/outer HTTP/1.1\r\nHost: x\r\n{fields}");
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let seen = backend.requests.lock().unwrap().clone();
        let smuggled = seen
            .iter()
            .any(|request| request.line.contains("/smuggled"));
        assert!(!smuggled, "{fields:?}: {seen:#?}");
        assert!(seen.len() <= 1, "{fields:?}: {seen:#?}");
        for request in seen {
            // What a server can understand in one way only.
            let lengths = request
                .fields
                .iter()
                .filter(|(name, _)| name == "content-length" || name == "transfer-encoding");
            assert!(lengths.count() <= 1, "{fields:?}: {request:#?}");
            assert_eq!(request.field("http2-settings"), None);
        }
    }
    // Targets that name another place do not lead there.
    for target in [
        format!("http://evil.test/proxy/{port}/absolute"),
        format!("/proxy/{port}/@evil.test/"),
    ] {
        backend.requests.lock().unwrap().clear();
        let answer = raw(
            &execd,
            format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        );
        assert!(answer.ends_with("seen"), "{answer}");
    }
    assert_eq!(execd.get("/ping").status, 200);
}

#[test]
fn a_terminal_of_another_daemon_is_reached_through_a_tunnel() {
    let inner = Execd::start();
    let outer = Execd::start();
    let created = inner.post("/pty", &json!({}));
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    let target = path(inner.address.port(), &format!("/pty/{id}/ws"));
    let mut client = Client::connect(outer.address, &target, &[]).unwrap();
    assert!(matches!(client.receive(), Event::Text(text) if text.contains("connected")));
    client.binary(b"\0echo sum=$((20+22)); exit 6\n");
    let mut shown = Vec::new();
    let exit = loop {
        match client.receive() {
            Event::Binary(bytes) => shown.extend_from_slice(&bytes[1..]),
            Event::Text(text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert!(String::from_utf8_lossy(&shown).contains("sum=42"));
    assert_eq!(exit, "{\"type\":\"exit\",\"exit_code\":6}\n");
    assert_eq!(
        client.receive(),
        Event::Close(1000, "process exited".to_owned())
    );
    client.close(1000);
    assert_eq!(client.receive(), Event::End);
    let record = access(&outer, |event| event["route"] == "/proxy/:port");
    assert_eq!(record["status"], 101);

    // What refuses, refuses through it.
    let target = path(inner.address.port(), "/pty/nobody/ws");
    let refused = Client::connect(outer.address, &target, &[]).unwrap_err();
    assert_eq!(refused.status, 404);
    assert!(refused.body.contains("CONTEXT_NOT_FOUND"));
    // A client that goes is missed at the other end.
    let target = path(inner.address.port(), &format!("/pty/{id}/ws"));
    let client = eventually(|| Client::connect(outer.address, &target, &[]).ok());
    drop(client);
    eventually(|| Client::connect(inner.address, &format!("/pty/{id}/ws"), &[]).ok());
}

#[test]
fn any_protocol_passes_once_the_server_agrees() {
    let execd = Execd::start();
    let (backend, peers) = handed_over();
    let target = path(backend.address.port(), "/");
    let ask = |protocol: &str| {
        let mut client = connect(&execd);
        write!(
            client,
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        )
        .unwrap();
        let mut peer = taken(&peers);
        let head = peer.head().unwrap();
        assert_eq!(head.field("upgrade"), Some(protocol));
        assert_eq!(head.field("connection"), Some("Upgrade"));
        (client, peer)
    };
    let (mut client, mut peer) = ask("something/1");
    // With bytes right behind the answer, which belong to the tunnel.
    peer.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: something/1\r\n\r\nfirst",
    );
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut first = [0; 5];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first");
    client.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    peer.reader.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"ping");
    // One side may end first.
    client.shutdown(Shutdown::Write).unwrap();
    assert!(has_ended(&mut peer));
    peer.send("the rest");
    drop(peer);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the rest");

    // A server that does not agree answers as to any request.
    let (client, mut peer) = ask("something/2");
    peer.answer("no");
    let mut answer = String::new();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Its connection would be used again.
    drop(peer);
    // One that agrees to something else, or unasked, is not believed.
    let (client, mut peer) = ask("something/3");
    peer.send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n");
    answer.clear();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let mut client = connect(&execd);
    write!(client, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut peer = taken(&peers);
    peer.head().unwrap();
    peer.send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    answer.clear();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn the_end_of_the_daemon_is_told_to_both_ends_of_a_tunnel() {
    let mut execd = Execd::start();
    let (backend, peers) = handed_over();
    let target = path(backend.address.port(), "/");
    let address = execd.address;
    let client = std::thread::spawn(move || Client::connect(address, &target, &[]).unwrap());
    let mut peer = taken(&peers);
    assert_eq!(
        peer.head().unwrap().field("sec-websocket-version"),
        Some("13")
    );
    // What RFC 6455 makes of the client's key.
    peer.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    let mut client = client.join().unwrap();
    execd.daemon.signal(Signal::TERM);
    assert_eq!(client.receive(), Event::Close(1001, String::new()));
    let mut close = [0; 8];
    peer.reader.read_exact(&mut close).unwrap();
    assert_eq!(close[0], 0x88);
    drop((client, peer));
    assert!(execd.daemon.wait(PATIENCE).success());
}

/// A server of Python's standard library, as agents start one. It ends when dropped.
struct Python {
    child: Child,
    port: u16,
}

impl Python {
    /// Serves a directory; `None` where there is no Python, which was then said.
    fn serving(directory: &std::path::Path) -> Option<Self> {
        if !require_programs(&["python3", "curl"]) {
            return None;
        }
        let port = free_port();
        let child = Command::new("python3")
            .args([
                "-m",
                "http.server",
                "--bind",
                "127.0.0.1",
                &port.to_string(),
            ])
            .current_dir(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Self { child, port })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn curl_gets_files_from_a_python_server() {
    let root = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(root.path().join("a b.bin"), &content).unwrap();
    let Some(python) = Python::serving(root.path()) else {
        return;
    };
    let execd = Execd::start();
    let url = |rest: &str| format!("http://{}/proxy/{}{rest}", execd.address, python.port);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "60"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    assert!(curl(&[&url("/a%20b.bin")]) == content);
    let listing = String::from_utf8(curl(&[&url("/")])).unwrap();
    assert!(listing.contains("a%20b.bin"), "{listing}");
    let head = String::from_utf8(curl(&["--head", &url("/a%20b.bin")])).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200"),
        "{head}"
    );
    assert!(head.contains("3000000"), "{head}");
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let (root, missing) = (url("/"), url("/missing"));
    let posted = [&status[..], &["--data", "x", &root]].concat();
    assert_eq!(curl(&posted), b"501");
    let missing = [&status[..], &[&missing]].concat();
    assert_eq!(curl(&missing), b"404");
    // Many at once.
    let all = Arc::new(Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert!(curl(&[&url("/a%20b.bin")]) == content);
                    *all.lock().unwrap() += 1;
                }
            });
        }
    });
    assert_eq!(*all.lock().unwrap(), 40);
}
