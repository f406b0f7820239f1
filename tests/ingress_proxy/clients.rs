//! Real clients through the proxy: curl, nghttp2, Python's websockets, and RFC 8441 with hyper.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Empty};
use opensandbox::http::connect::Connector;
use opensandbox::http::io::{Clock, Exec};
use opensandbox::http::resolve::LiteralOnly;
use opensandbox::runtime::Runtime;
use smol::future::FutureExt;

use crate::scene::{Backend, PATIENCE, Scene};

/// What a program prints, which must succeed.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text} {error}");
    text
}

#[test]
fn curl_over_http2_is_answered_by_an_http1_sandbox() {
    let scene = Scene::new();
    let backend = Backend::answering(|peer, request| {
        let body = format!("{} {}", request.line, request.body.len());
        let length = body.len();
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ));
    });
    let route = scene.sandbox("box", &backend);
    let url = format!("http://{}/a%2Fb?c", scene.address);
    let big = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(big.path(), vec![b'x'; 3_000_000]).unwrap();
    let head = format!("OpenSandbox-Ingress-To: {route}");
    let curl = |more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--http2-prior-knowledge", "-H", &head, &url]);
        output(command.args(more))
    };
    assert_eq!(curl(&[]), "GET /a%2Fb?c HTTP/1.1 0");
    let file = format!("@{}", big.path().display());
    assert_eq!(
        curl(&["--data-binary", &file]),
        "POST /a%2Fb?c HTTP/1.1 3000000"
    );
    assert!(curl(&["-I"]).starts_with("HTTP/2 200"));
    let cookies = ["-H", "Cookie: a=1", "-H", "Cookie: b=2"];
    curl(&cookies);
    let requests = backend.requests.lock().unwrap();
    assert_eq!(requests.last().unwrap().field("cookie"), Some("a=1; b=2"));
    assert!(
        requests
            .iter()
            .all(|request| request.field("x-forwarded-host").is_some())
    );
}

#[test]
fn a_sandbox_that_dies_resets_the_stream_of_an_http2_client() {
    let scene = Scene::new();
    let backend = Backend::new(|mut peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let route = scene.sandbox("box", &backend);
    let failed = Command::new("curl")
        .args(["-sS", "--http2-prior-knowledge"])
        .args(["-H", &format!("OpenSandbox-Ingress-To: {route}")])
        .arg(format!("http://{}/", scene.address))
        .output()
        .unwrap();
    // CURLE_HTTP2_STREAM: the stream was not closed cleanly.
    assert_eq!(failed.status.code(), Some(92), "{failed:?}");
}

#[test]
fn nghttp2_multiplexes_requests() {
    let scene = Scene::new();
    let backend = Backend::recording("hello");
    let route = scene.sandbox("box", &backend);
    let url = format!("http://{}/", scene.address);
    let head = format!("opensandbox-ingress-to: {route}");
    let shown = output(Command::new("nghttp").args(["-v", "-H", &head, &url]));
    assert!(
        shown.contains(":status: 200") && shown.contains("hello"),
        "{shown}"
    );
    let load = output(
        Command::new("h2load")
            .args(["-n", "500", "-c", "4", "-m", "10", "-H", &head])
            .arg(&url),
    );
    assert!(
        load.contains("500 succeeded, 0 failed, 0 errored"),
        "{load}"
    );
    assert_eq!(backend.requests.lock().unwrap().len(), 501);
}

#[test]
fn python_websockets_speak_through_it() {
    let Some(python) = support::sdk::python() else {
        return;
    };
    let scene = Scene::new();
    scene.sandboxes.set("box", "box", "127.0.0.1", None);
    let mut command = Command::new(python);
    command.args(["-c", include_str!("websockets.py")]);
    command.args([&scene.address.to_string(), "box"]);
    assert_eq!(output(&mut command), "fine\n");
    let access = scene.access(|_| true);
    assert_eq!(
        (&access["status"], &access["proxy_type"]),
        (&101.into(), &"websocket".into())
    );
}

#[test]
fn a_websocket_may_come_over_http2() {
    let scene = Scene::new();
    let backend = Backend::new(|mut peer| {
        let request = peer.head().unwrap();
        assert_eq!(request.line, "GET /ws HTTP/1.1");
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
        assert_eq!(request.field("sec-websocket-key").map(str::len), Some(24));
        assert_eq!(request.field("authorization"), Some("Bearer t"));
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: b\r\n\r\n",
        );
        let mut writer = peer.reader.get_ref().try_clone().unwrap();
        let _ = std::io::copy(&mut peer.reader, &mut writer);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let route = scene.sandbox("box", &backend);
    let runtime = Runtime::new(NonZeroUsize::MIN).unwrap();
    let talking = talk(scene.address, route, &runtime);
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("it hangs")
    };
    runtime.block_on(talking.or(late));
    let access = scene.access(|access| access["status"] != 501);
    assert_eq!(
        (&access["status"], &access["method"]),
        (&200.into(), &"CONNECT".into())
    );
    assert_eq!(
        (&access["bytes_in"], &access["bytes_out"]),
        (&100_000.into(), &100_000.into())
    );
}

/// Opens a WebSocket by an extended CONNECT, and has bytes sent back.
async fn talk(address: SocketAddr, route: String, runtime: &Runtime) {
    let connector = Connector::new(LiteralOnly);
    let host = address.ip().to_string();
    let stream = connector.reach(&host, address.port()).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http2::Builder::new(Exec(runtime.spawner()))
        .timer(Clock)
        .handshake::<_, Empty<Bytes>>(stream)
        .await
        .unwrap();
    let _driver = runtime.spawn(driver);
    // The settings have to be there before an extended CONNECT may be sent, so ask for something.
    let probe = Request::builder()
        .uri(format!("http://{address}/status.ok"))
        .version(Version::HTTP_2)
        .body(Empty::new())
        .unwrap();
    let answer = sender.send_request(probe).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "OK");

    let connect = |protocol: &'static str| {
        let mut connect = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://{route}.test/ws"))
            .version(Version::HTTP_2)
            .header("authorization", "Bearer t")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "a, b")
            .body(Empty::new())
            .unwrap();
        let protocol = hyper::ext::Protocol::from_static(protocol);
        connect.extensions_mut().insert(protocol);
        connect
    };
    let refused = sender.send_request(connect("connect-udp")).await.unwrap();
    assert_eq!(refused.status(), 501);

    let mut answer = sender.send_request(connect("websocket")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "b");
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let mut tunnel = hyper::upgrade::on(&mut answer).await.unwrap();
    let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let mut received = Vec::new();
    for piece in sent.chunks(10_000) {
        write_all(&mut tunnel, piece).await;
        while received.len() < piece.len() {
            assert!(read_some(&mut tunnel, &mut received).await > 0);
        }
        assert!(received == piece);
        received.clear();
    }
    std::future::poll_fn(|context| {
        hyper::rt::Write::poll_shutdown(std::pin::Pin::new(&mut tunnel), context)
    })
    .await
    .unwrap();
    assert_eq!(read_some(&mut tunnel, &mut received).await, 0);
}

async fn write_all(tunnel: &mut hyper::upgrade::Upgraded, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = std::future::poll_fn(|context| {
            hyper::rt::Write::poll_write(std::pin::Pin::new(&mut *tunnel), context, bytes)
        });
        bytes = &bytes[count.await.unwrap()..];
    }
}

async fn read_some(tunnel: &mut hyper::upgrade::Upgraded, into: &mut Vec<u8>) -> usize {
    std::future::poll_fn(|context| {
        let mut space = [0; 4096];
        let mut buffer = hyper::rt::ReadBuf::new(&mut space);
        let pinned = std::pin::Pin::new(&mut *tunnel);
        let read = hyper::rt::Read::poll_read(pinned, context, buffer.unfilled());
        read.map(|result| {
            result.unwrap();
            into.extend_from_slice(buffer.filled());
            buffer.filled().len()
        })
    })
    .await
}
