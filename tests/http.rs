//! The HTTP ground on loopback: against curl, against raw sockets, against itself.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use opensandbox::http::auth::Token;
use opensandbox::http::client::{self, Client};
use opensandbox::http::connect::{self, Connector};
use opensandbox::http::io::{Exec, Stream};
use opensandbox::http::listen::Listen;
use opensandbox::http::resolve::{LiteralOnly, Resolve, Resolving};
use opensandbox::http::router::Router;
use opensandbox::http::server::{
    Access, Exchange, Limits, Observer, Outcome, Peer, Server, UNKNOWN_ROUTE, Unobserved,
};
use opensandbox::http::tls::{HTTP_1, Identity, Tls, Verify};
use opensandbox::http::{Body, Request, Response, error};
use opensandbox::lifecycle::{DrainCut, Shutdown};
use opensandbox::runtime::Runtime;
use smol::{Async, Task, Timer};
use support::eventually;

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(200);

/// What the observer was told, in order: requests that ended, what was no request, and the paths
/// of requests that began.
#[derive(Clone, Default)]
struct Records(
    Arc<Mutex<Vec<Access>>>,
    Arc<Mutex<Vec<String>>>,
    Arc<Mutex<Vec<String>>>,
);

impl Observer for Records {
    type Span = String;

    fn begin(&self, head: &Parts, _peer: &Peer) -> String {
        let path = head.uri.path().to_owned();
        self.2.lock().unwrap().push(path.clone());
        path
    }

    fn end(&self, _span: String, access: Access) {
        self.0.lock().unwrap().push(access);
    }

    fn malformed(&self, _peer: &Peer, error: &hyper::Error) {
        self.1.lock().unwrap().push(error.to_string());
    }
}

impl Records {
    /// The records, once there are `count` of them.
    fn wait(&self, count: usize) -> Vec<Access> {
        eventually(|| {
            let records = self.0.lock().unwrap();
            (records.len() >= count).then(|| records.clone())
        })
    }
}

impl Records {
    /// Waits until `count` requests for `path` have begun.
    fn wait_begun(&self, path: &str, count: usize) {
        eventually(|| {
            let begun = self.2.lock().unwrap();
            let begun = begun.iter().filter(|begun| *begun == path).count();
            (begun >= count).then_some(())
        });
    }
}

/// A server on a free loopback port that ends with the test.
struct Fixture {
    runtime: Runtime,
    address: SocketAddr,
    shutdown: Shutdown,
    records: Records,
    app: Arc<App>,
    serving: Option<Task<Result<(), DrainCut>>>,
}

impl Fixture {
    fn start(limits: Limits) -> Self {
        Self::start_on(limits, false)
    }

    /// As `start`; `alone` on one thread with a reactor of its own.
    fn start_on(limits: Limits, alone: bool) -> Self {
        let runtime = Runtime::new(NonZeroUsize::new(3).unwrap()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(&[Listen::from(any)], limits).unwrap();
        let address = server.addresses()[0];
        let shutdown = Shutdown::new();
        let records = Records::default();
        let app = Arc::new(App::new());
        let answering = app.clone();
        let serve = |runtime: &Runtime| {
            server.serve(
                runtime.spawner(),
                move |request| {
                    let app = answering.clone();
                    async move { app.answer(request).await }
                },
                records.clone(),
                shutdown.clone(),
            )
        };
        let serving = Some(if alone {
            let one = Runtime::for_one_thread().unwrap();
            let serving = serve(&one);
            let (end, ended) = smol::channel::bounded(1);
            std::thread::spawn(move || end.try_send(one.block_on(serving)));
            runtime.spawn(async move { ended.recv().await.unwrap() })
        } else {
            runtime.spawn(serve(&runtime))
        });
        Self {
            runtime,
            address,
            shutdown,
            records,
            app,
            serving,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends raw bytes and reads until the server closes the connection.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = self.connect();
        socket.write_all(bytes).unwrap();
        read_all(&mut socket)
    }

    /// Ends the server and says how.
    fn stop(mut self) -> Result<(), DrainCut> {
        self.shutdown.trigger();
        let serving = self.serving.take().unwrap();
        self.runtime.block_on(within(PATIENCE, serving))
    }

    fn client(&self) -> Client {
        let spawner = self.runtime.spawner();
        Client::new(
            spawner,
            Connector::new(LiteralOnly),
            client::Limits::default(),
        )
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    smol::future::or(future, async {
        Timer::after(time).await;
        panic!("it takes longer than {time:?}")
    })
    .await
}

fn read_all(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        result => drop(result.unwrap()),
    }
    String::from_utf8(bytes).unwrap()
}

const TOKEN: HeaderName = HeaderName::from_static("opensandbox-egress-auth");

#[derive(Clone, Copy)]
enum Endpoint {
    Policy,
    Echo,
    Context,
    Stream,
    Endless,
    Panic,
    PanicLater,
    Slow,
    Held,
    Never,
    Peer,
    Upgrade,
    Guarded,
}

struct App {
    router: Router<Endpoint>,
    token: Token,
    /// Triggered when what is held may go on.
    release: Shutdown,
}

impl App {
    fn new() -> Self {
        let router = Router::new()
            .redirect_unclean()
            .route(Method::GET, "/policy", Endpoint::Policy)
            .route(Method::POST, "/policy", Endpoint::Policy)
            .route(Method::POST, "/echo", Endpoint::Echo)
            .route(Method::GET, "/code/contexts/:contextId", Endpoint::Context)
            .route(Method::GET, "/stream", Endpoint::Stream)
            .route(Method::GET, "/endless", Endpoint::Endless)
            .any("/panic", Endpoint::Panic)
            .any("/panic-later", Endpoint::PanicLater)
            .any("/slow", Endpoint::Slow)
            .any("/held", Endpoint::Held)
            .any("/never", Endpoint::Never)
            .any("/peer", Endpoint::Peer)
            .any("/upgrade", Endpoint::Upgrade)
            .any("/guarded", Endpoint::Guarded);
        let token = Token::new(TOKEN, "s3cret");
        let release = Shutdown::new();
        Self {
            router,
            token,
            release,
        }
    }

    async fn answer(&self, mut request: Request) -> Response {
        let found = match self.router.find(&request) {
            Ok(found) => found,
            Err(miss) => return miss.response(request.method()),
        };
        match found.endpoint {
            Endpoint::Policy => Response::new("policy".into()),
            Endpoint::Echo => match request.into_body().collect(1 << 20).await {
                Ok(bytes) => Response::new(bytes.into()),
                Err(cause) => error::text(error::status_of(&cause), &cause.to_string()),
            },
            Endpoint::Context => Response::new(found.parameters.get("contextId").to_owned().into()),
            Endpoint::Stream => {
                let pieces = smol::stream::unfold(0, |number| async move {
                    Timer::after(Duration::from_millis(5)).await;
                    let frame = Frame::data(Bytes::from(format!("{number}\n")));
                    (number < 3).then_some((Ok::<_, io::Error>(frame), number + 1))
                });
                Response::new(Body::stream(StreamBody::new(pieces)))
            }
            Endpoint::Endless => {
                let piece = Bytes::from(vec![b'x'; 64 * 1024]);
                let pieces = smol::stream::repeat_with(move || {
                    Ok::<_, io::Error>(Frame::data(piece.clone()))
                });
                Response::new(Body::stream(StreamBody::new(pieces)))
            }
            Endpoint::Panic => panic!("this panic is part of a test"),
            Endpoint::PanicLater => {
                let pieces = smol::stream::repeat_with(|| -> io::Result<Frame<Bytes>> {
                    panic!("this panic is part of a test")
                });
                Response::new(Body::stream(StreamBody::new(pieces)))
            }
            Endpoint::Slow => {
                Timer::after(SHORT).await;
                Response::new("done".into())
            }
            Endpoint::Held => {
                self.release.wait().await;
                Response::new("done".into())
            }
            Endpoint::Never => std::future::pending().await,
            Endpoint::Peer => {
                let exchange = request.extensions().get::<Exchange>().unwrap();
                Response::new(format!("{:?}", exchange.peer()).into())
            }
            Endpoint::Upgrade => {
                let upgrade = hyper::upgrade::on(&mut request);
                let release = self.release.clone();
                std::thread::spawn(move || {
                    smol::block_on(async {
                        let _upgraded = upgrade.await.unwrap();
                        release.wait().await;
                    });
                });
                let mut response = Response::default();
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response
            }
            Endpoint::Guarded if self.token.allows(request.headers()) => Response::default(),
            Endpoint::Guarded => error::text(StatusCode::UNAUTHORIZED, "unauthorized"),
        }
    }
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "20",
        ])
        .args(arguments)
        .output()
        .expect("curl is needed for this test");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_is_served_in_both_versions() {
    let fixture = Fixture::start(Limits::default());
    let big = "0123456789abcdef".repeat(50_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &big).unwrap();
    let upload = format!("@{}", file.path().display());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let get = |path: &str| curl(&[version, "-i", &fixture.url(path)]);
        let policy = get("/policy");
        assert!(
            policy.contains(" 200 ") && policy.ends_with("\r\n\r\npolicy"),
            "{policy}"
        );
        assert!(get("/code/contexts/a%2Fb").ends_with("\r\n\r\na%2Fb"));
        assert!(get("/stream").ends_with("\r\n\r\n0\n1\n2\n"));
        let missing = get("/nothing").to_lowercase();
        assert!(missing.contains(" 404 ") && missing.ends_with("404 page not found\n"));
        assert!(missing.contains("content-type: text/plain; charset=utf-8\r\n"));
        assert!(missing.contains("x-content-type-options: nosniff\r\n"));
        let wrong = curl(&[version, "-i", "-X", "PATCH", &fixture.url("/policy")]);
        assert!(wrong.contains(" 405 ") && wrong.ends_with("\r\n\r\nmethod not allowed\n"));
        assert!(
            wrong
                .to_lowercase()
                .contains(&format!("{ALLOW}: get, post\r\n"))
        );
        let moved = curl(&[version, "-i", "--path-as-is", &fixture.url("//policy?x")]);
        assert!(moved.contains(" 301 "), "{moved}");
        assert!(
            moved.to_lowercase().contains("location: /policy?x\r\n"),
            "{moved}"
        );
        let echoed = curl(&[version, "--data-binary", &upload, &fixture.url("/echo")]);
        assert!(echoed == big, "{} bytes came back", echoed.len());
        let head = curl(&[version, "-I", &fixture.url("/peer")]).to_lowercase();
        assert!(
            head.contains(" 200 ") && head.contains("\ncontent-length: "),
            "{head}"
        );
        let token = format!("{TOKEN}: s3cret");
        assert!(curl(&[version, "-i", "-H", &token, &fixture.url("/guarded")]).contains(" 200 "));
        assert!(get("/guarded").contains(" 401 "));
    }
    assert_eq!(fixture.stop(), Ok(()));
}

#[test]
fn every_exchange_is_recorded_once_with_its_template() {
    let fixture = Fixture::start(Limits::default());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        curl(&[version, &fixture.url("/code/contexts/7")]);
        curl(&[version, &fixture.url("/stream")]);
        curl(&[version, &fixture.url("/nothing")]);
        curl(&[version, "-I", &fixture.url("/peer")]);
        curl(&[version, "-o", "/dev/null", &fixture.url("/panic")]);
    }
    let records = fixture.records.wait(10);
    let seen: Vec<_> = records
        .iter()
        .map(|a| {
            (
                a.method.as_str(),
                a.route,
                a.status.unwrap().as_u16(),
                a.bytes,
                a.outcome,
            )
        })
        .collect();
    let expected = [
        (
            "GET",
            "/code/contexts/:contextId",
            200,
            1,
            Outcome::Complete,
        ),
        ("GET", "/stream", 200, 6, Outcome::Complete),
        ("GET", UNKNOWN_ROUTE, 404, 19, Outcome::Complete),
        ("HEAD", "/peer", 200, 0, Outcome::Complete),
        ("GET", "/panic", 500, 0, Outcome::Panicked),
    ];
    assert_eq!(seen, [expected, expected].concat());
    assert_eq!(fixture.stop(), Ok(()));
}

#[test]
fn a_client_that_leaves_ends_the_exchange() {
    let fixture = Fixture::start(Limits::default());
    // Before the response, in the middle of it, and with a body that panics.
    for (path, status, outcome) in [
        ("/never", None, Outcome::Aborted),
        ("/endless", Some(StatusCode::OK), Outcome::Aborted),
        ("/panic-later", Some(StatusCode::OK), Outcome::Panicked),
    ] {
        let before = fixture.records.0.lock().unwrap().len();
        let mut socket = fixture.connect();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        if path == "/panic-later" {
            // The head was not on the wire yet, so there is nothing to cut short.
            assert_eq!(read_all(&mut socket), "");
        } else if status.is_some() {
            let mut some = [0; 12];
            socket.read_exact(&mut some).unwrap();
            assert_eq!(&some, b"HTTP/1.1 200");
        } else {
            fixture.records.wait_begun(path, 1);
        }
        drop(socket);
        let records = fixture.records.wait(before + 1);
        let last = records.last().unwrap();
        assert_eq!(
            (last.route, last.status, last.outcome),
            (path, status, outcome)
        );
    }
    assert_eq!(fixture.stop(), Ok(()));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::start(Limits::default());
    let answer = fixture.raw(
        b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\
          POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
          GET /policy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let bodies: Vec<_> = answer
        .split("HTTP/1.1 200 OK")
        .skip(1)
        .map(|response| response.split("\r\n\r\n").nth(1).unwrap())
        .collect();
    assert_eq!(bodies, ["done", "one", "policy"], "{answer}");
}

#[test]
fn what_is_not_http_is_refused_clearly() {
    let fixture = Fixture::start(Limits::default());
    for bytes in [
        &b"hello\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /policy HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /policy HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let answer = fixture.raw(bytes);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    }
    // Told after the answer.
    eventually(|| (fixture.records.1.lock().unwrap().len() == 6).then_some(()));
    for head in [
        "GET /policy HTTP/1.1\r\n",
        "GET /policy HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    ] {
        let answer = fixture.raw(format!("{head}\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.ends_with("exactly one Host header is required\n"),
            "{answer}"
        );
    }
    // HTTP/1.0 has no Host header.
    let answer = fixture.raw(b"GET /policy HTTP/1.0\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("policy"),
        "{answer}"
    );
}

#[test]
fn heads_have_a_size_and_a_time() {
    let fixture = Fixture::start(Limits {
        header_bytes: 8192,
        header_time: SHORT,
        ..Limits::default()
    });
    let long = format!(
        "GET /policy HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert!(fixture.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));

    // One byte at a time, for ever.
    let mut slow = fixture.connect();
    slow.set_nodelay(true).unwrap();
    let start = Instant::now();
    let closed = b"GET /policy HTTP/1.1\r\nX-Slow: "
        .iter()
        .chain(std::iter::repeat(&b'x'))
        .any(|byte| {
            std::thread::sleep(SHORT / 20);
            start.elapsed() > PATIENCE || slow.write_all(&[*byte]).is_err()
        });
    assert!(
        closed && start.elapsed() < PATIENCE,
        "{:?}",
        start.elapsed()
    );

    // Nothing at all; and the start of a second request.
    assert_eq!(fixture.raw(b""), "");
    let mut socket = fixture.connect();
    write!(socket, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    fixture.records.wait(1);
    write!(socket, "GET /pol").unwrap();
    let answer = read_all(&mut socket);
    assert!(answer.ends_with("policy"), "{answer}");
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let fixture = Fixture::start(Limits {
        idle_time: SHORT / 4,
        ..Limits::default()
    });
    let start = Instant::now();
    let answer = fixture.raw(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.ends_with("done"), "{answer}");
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn bodies_have_a_size_announced_or_not() {
    let fixture = Fixture::start(Limits {
        body_bytes: 1000,
        ..Limits::default()
    });
    let big = "x".repeat(3_000_000);
    // The client writes everything before it reads, and still gets the answer.
    let announced = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{big}",
        big.len()
    );
    let answer = fixture.raw(announced.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.ends_with("the body is larger than 1000 bytes\n"),
        "{answer}"
    );
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{big}\r\n0\r\n\r\n",
        big.len()
    );
    let answer = fixture.raw(chunked.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.ends_with("the body is larger than 1000 bytes\n"),
        "{answer}"
    );
    // Whoever asks first need not send.
    let answer = fixture.raw(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &big).unwrap();
    let upload = format!("@{}", file.path().display());
    let arguments = ["--http2-prior-knowledge", "-i", "--data-binary", &upload];
    let answer = curl(&[&arguments[..], &[&fixture.url("/echo")]].concat());
    assert!(answer.starts_with("HTTP/2 413 "), "{answer}");
}

#[test]
fn an_unread_body_does_not_take_the_answer_along() {
    let fixture = Fixture::start(Limits {
        body_bytes: u64::MAX,
        ..Limits::default()
    });
    let big = "x".repeat(3_000_000);
    let request = format!(
        "POST /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{big}",
        big.len()
    );
    let answer = fixture.raw(request.as_bytes());
    assert!(answer.ends_with("404 page not found\n"), "{answer}");
}

#[test]
fn a_body_that_stops_arriving_is_an_error_of_the_client() {
    for limits in [
        Limits {
            body_silence: SHORT,
            ..Limits::default()
        },
        Limits {
            body_time: Some(SHORT),
            ..Limits::default()
        },
    ] {
        let fixture = Fixture::start(limits);
        let mut socket = fixture.connect();
        let head =
            "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\n";
        write!(socket, "{head}abc").unwrap();
        let answer = read_all(&mut socket);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[test]
fn a_response_nobody_reads_is_given_up() {
    let fixture = Fixture::start(Limits {
        write_stall: SHORT,
        ..Limits::default()
    });
    let mut socket = fixture.connect();
    write!(socket, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let record = fixture.records.wait(1).remove(0);
    assert_eq!(
        (record.route, record.outcome),
        ("/endless", Outcome::Aborted)
    );
    assert!(record.bytes > 0);
}

#[test]
fn connections_beyond_the_bound_wait_their_turn() {
    let fixture = Fixture::start(Limits {
        connections: 1,
        ..Limits::default()
    });
    let mut first = fixture.connect();
    write!(first, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    fixture.records.wait(1);
    let mut second = fixture.connect();
    let request = "GET /policy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    second.write_all(request.as_bytes()).unwrap();
    second.set_read_timeout(Some(SHORT)).unwrap();
    let error = second.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_all(&mut second).ends_with("policy"));
}

#[test]
fn a_drain_lets_requests_finish_and_closes_idle_connections() {
    let fixture = Fixture::start(Limits::default());
    let mut idle = fixture.connect();
    write!(idle, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    fixture.records.wait(1);
    let mut busy = fixture.connect();
    write!(busy, "GET /held HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let url = fixture.url("/held");
    let h2 = std::thread::spawn(move || curl(&["--http2-prior-knowledge", &url]));
    fixture.records.wait_begun("/held", 2);
    let address = fixture.address;
    fixture.shutdown.trigger();
    // Its end shows that the connections learn of the drain; the other two need no longer.
    assert!(read_all(&mut idle).ends_with("policy"));
    std::thread::sleep(SHORT);
    fixture.app.release.trigger();
    assert_eq!(fixture.stop(), Ok(()));
    let answer = read_all(&mut busy);
    assert!(answer.ends_with("done"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert_eq!(h2.join().unwrap(), "done");
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_drain_answers_the_first_request_of_who_was_let_in_before() {
    let fixture = Fixture::start(Limits::default());
    let (mut first, mut silent) = (fixture.connect(), fixture.connect());
    let mut idle = fixture.connect();
    // Who came before this one was let in before it.
    write!(idle, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    fixture.records.wait(1);
    fixture.shutdown.trigger();
    assert!(read_all(&mut idle).ends_with("policy"));
    write!(first, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = read_all(&mut first);
    assert!(
        answer.to_lowercase().contains("connection: close") && answer.ends_with("policy"),
        "{answer}"
    );
    assert_eq!(read_all(&mut silent), "");
    assert_eq!(fixture.stop(), Ok(()));
}

#[test]
fn a_drain_is_cut_at_its_deadline_and_by_force() {
    for (force, expected) in [(false, DrainCut::Deadline), (true, DrainCut::Forced)] {
        let fixture = Fixture::start(Limits {
            drain_time: if force { PATIENCE } else { SHORT },
            ..Limits::default()
        });
        let mut socket = fixture.connect();
        write!(socket, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        fixture.records.wait_begun("/never", 1);
        let (records, shutdown) = (fixture.records.clone(), fixture.shutdown.clone());
        if force {
            shutdown.force();
        }
        assert_eq!(fixture.stop(), Err(expected));
        let record = records.wait(1).remove(0);
        assert_eq!((record.status, record.outcome), (None, Outcome::Aborted));
        assert_eq!(read_all(&mut socket), "");
    }
}

/// What comes over the connection up to and including `end`.
fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn write_slowly(socket: &mut TcpStream, bytes: &[u8]) {
    socket.set_nodelay(true).unwrap();
    for byte in bytes {
        socket.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_version_is_told_however_the_first_octets_arrive() {
    for alone in [false, true] {
        let fixture = Fixture::start_on(Limits::default(), alone);
        let mut socket = fixture.connect();
        write_slowly(&mut socket, PREFACE);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        socket.write_all(&settings).unwrap();
        let mut frame = [0; 9];
        socket.read_exact(&mut frame).unwrap();
        assert_eq!(frame[3], settings[3], "{frame:?}");
        drop(socket);

        for method in ["PRI", "PRIVATE", "PROPFIND"] {
            let mut socket = fixture.connect();
            let request =
                format!("{method} /policy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            write_slowly(&mut socket, request.as_bytes());
            let answer = read_all(&mut socket);
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        }

        // It ends in the middle of the preface.
        for length in [1, 23] {
            let mut socket = fixture.connect();
            socket.write_all(&PREFACE[..length]).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let answer = read_all(&mut socket);
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
                "{answer}"
            );
        }
        assert_eq!(fixture.stop(), Ok(()));
    }
}

#[test]
fn a_preface_has_as_much_time_as_a_head() {
    for alone in [false, true] {
        let limits = Limits {
            header_time: SHORT,
            ..Limits::default()
        };
        let fixture = Fixture::start_on(limits, alone);
        for length in [0, 3, 23, PREFACE.len()] {
            let mut socket = fixture.connect();
            socket.write_all(&PREFACE[..length]).unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).unwrap();
        }
    }
}

/// Longer than it takes a connection to be parked, by far.
const UNTIL_PARKED: Duration = Duration::from_millis(100);

fn parking() -> Limits {
    Limits {
        park_time: UNTIL_PARKED / 10,
        ..Limits::default()
    }
}

#[test]
fn a_parked_connection_goes_on_where_it_was() {
    const GET: &str = "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n";
    for alone in [false, true] {
        let fixture = Fixture::start_on(parking(), alone);
        let mut socket = fixture.connect();
        let park = || std::thread::sleep(UNTIL_PARKED);
        for _ in 0..3 {
            socket.write_all(GET.as_bytes()).unwrap();
            read_until(&mut socket, "\r\n\r\npolicy");
            park();
        }
        // A head in two pieces.
        socket.write_all(&GET.as_bytes()[..10]).unwrap();
        park();
        socket.write_all(&GET.as_bytes()[10..]).unwrap();
        read_until(&mut socket, "\r\n\r\npolicy");
        park();
        // Two requests and the beginning of a third, which is kept.
        write!(socket, "{GET}{GET}{}", &GET[..10]).unwrap();
        read_until(&mut socket, "\r\n\r\npolicy");
        read_until(&mut socket, "\r\n\r\npolicy");
        park();
        socket.write_all(&GET.as_bytes()[10..20]).unwrap();
        park();
        socket.write_all(&GET.as_bytes()[20..]).unwrap();
        read_until(&mut socket, "\r\n\r\npolicy");
        park();
        // A body, in time and late.
        let post = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        write!(socket, "{post}12345").unwrap();
        read_until(&mut socket, "\r\n\r\n12345");
        park();
        write!(socket, "{post}12").unwrap();
        park();
        write!(socket, "345").unwrap();
        read_until(&mut socket, "\r\n\r\n12345");
        park();
        // Upgrades that are not granted.
        for _ in 0..2 {
            let ask = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c";
            write!(
                socket,
                "GET /policy HTTP/1.1\r\nHost: a\r\n{ask}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            )
            .unwrap();
            read_until(&mut socket, "\r\n\r\npolicy");
            park();
        }
        let last = "GET /policy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        socket.write_all(last.as_bytes()).unwrap();
        assert!(read_all(&mut socket).ends_with("\r\n\r\npolicy"));
        let records = fixture.records.wait(11);
        assert!(records.iter().all(|one| one.outcome == Outcome::Complete));
        assert_eq!(fixture.stop(), Ok(()));
    }
}

#[test]
fn a_body_nobody_has_read_keeps_a_connection_from_parking() {
    for alone in [false, true] {
        let fixture = Fixture::start_on(parking(), alone);
        let mut socket = fixture.connect();
        let half = "x".repeat(50_000);
        let head = "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
        write!(socket, "{head}{half}").unwrap();
        read_until(&mut socket, "404 page not found\n");
        std::thread::sleep(UNTIL_PARKED);
        let last = "GET /policy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        write!(socket, "{half}{last}").unwrap();
        assert!(read_all(&mut socket).ends_with("\r\n\r\npolicy"));
    }
}

#[test]
fn a_parked_connection_ends_like_any_other() {
    for alone in [false, true] {
        // By itself.
        let limits = Limits {
            idle_time: SHORT,
            ..parking()
        };
        let fixture = Fixture::start_on(limits, alone);
        let answer = fixture.raw(b"GET /policy HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.ends_with("policy"), "{answer}");
        assert_eq!(fixture.stop(), Ok(()));

        // By the client, which makes room for the next, and with the server.
        let limits = Limits {
            connections: 1,
            ..parking()
        };
        let fixture = Fixture::start_on(limits, alone);
        for _ in 0..2 {
            let mut socket = fixture.connect();
            write!(socket, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            read_until(&mut socket, "\r\n\r\npolicy");
            std::thread::sleep(UNTIL_PARKED);
        }
        let mut socket = fixture.connect();
        write!(socket, "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_until(&mut socket, "\r\n\r\npolicy");
        std::thread::sleep(UNTIL_PARKED);
        assert_eq!(fixture.stop(), Ok(()));
        assert_eq!(read_all(&mut socket), "");
    }
}

#[test]
fn what_a_connection_becomes_holds_no_place_by_itself() {
    for alone in [false, true] {
        let limits = Limits {
            connections: 1,
            ..Limits::default()
        };
        let fixture = Fixture::start_on(limits, alone);
        let mut tunnel = fixture.connect();
        let ask = "Connection: Upgrade\r\nUpgrade: a";
        write!(tunnel, "GET /upgrade HTTP/1.1\r\nHost: a\r\n{ask}\r\n\r\n").unwrap();
        assert!(read_until(&mut tunnel, "\r\n\r\n").starts_with("HTTP/1.1 101 "));
        let answer = fixture.raw(b"GET /policy HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("policy"), "{answer}");
        let release = fixture.app.release.clone();
        assert_eq!(fixture.stop(), Ok(()));
        tunnel.set_read_timeout(Some(SHORT)).unwrap();
        let error = tunnel.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        release.trigger();
        tunnel.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(read_all(&mut tunnel), "");
    }
}

#[test]
fn an_old_connection_ends_with_an_exchange() {
    for (alone, park_time) in [(false, PATIENCE), (true, PATIENCE), (true, SHORT / 20)] {
        let limits = Limits {
            lifetime: Some(SHORT),
            park_time,
            ..Limits::default()
        };
        let fixture = Fixture::start_on(limits, alone);
        let get = "GET /policy HTTP/1.1\r\nHost: a\r\n\r\n";

        // Between two exchanges it stays: the client may be about to send.
        let mut socket = fixture.connect();
        socket.write_all(get.as_bytes()).unwrap();
        read_until(&mut socket, "\r\n\r\npolicy");
        std::thread::sleep(2 * SHORT);
        socket.write_all(get.as_bytes()).unwrap();
        let last = read_all(&mut socket);
        assert!(last.contains("connection: close\r\n"), "{last}");
        assert!(last.ends_with("\r\n\r\npolicy"), "{last}");

        // It gets too old in the middle of one.
        let mut socket = fixture.connect();
        write!(socket, "GET /held HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        fixture.records.wait_begun("/held", 1);
        std::thread::sleep(2 * SHORT);
        fixture.app.release.trigger();
        let last = read_all(&mut socket);
        assert!(last.contains("connection: close\r\n"), "{last}");
        assert!(last.ends_with("\r\n\r\ndone"), "{last}");
        assert_eq!(fixture.stop(), Ok(()));
    }
}

#[test]
fn an_old_connection_of_http2_lets_its_requests_finish() {
    for lifetime in [Some(SHORT), None] {
        let limits = Limits {
            lifetime,
            ..Limits::default()
        };
        let fixture = Fixture::start(limits);
        let runtime = &fixture.runtime;
        let connecting = async {
            let socket = Async::<TcpStream>::connect(fixture.address).await.unwrap();
            http2::Builder::new(Exec(runtime.spawner()))
                .handshake(Stream::tcp(socket))
                .await
                .unwrap()
        };
        let (mut sender, connection) = runtime.block_on(connecting);
        let connection = runtime.spawn(connection);
        let held = runtime.spawn(sender.send_request(get(&fixture.url("/held"))));
        fixture.records.wait_begun("/held", 1);
        std::thread::sleep(2 * SHORT);
        fixture.app.release.trigger();
        runtime.block_on(within(PATIENCE, async {
            let body = held.await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "done");
            if lifetime.is_some() {
                connection.await.unwrap();
            } else {
                let more = sender.send_request(get(&fixture.url("/policy")));
                assert_eq!(more.await.unwrap().status(), StatusCode::OK);
            }
        }));
    }
}

#[test]
fn a_unix_socket_is_served_and_replaced_when_abandoned() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let server = Server::bind(&[], Limits::default())
        .unwrap()
        .and_unix(&path)
        .unwrap();
    let taken = Server::bind(&[], Limits::default())
        .unwrap()
        .and_unix(&path)
        .unwrap_err();
    assert!(taken.to_string().contains("api.sock"), "{taken}");
    let shutdown = Shutdown::new();
    let handler = |request: Request| async move {
        let exchange = request.extensions().get::<Exchange>().unwrap().clone();
        Response::new(format!("{:?}", exchange.peer()).into())
    };
    let serving = server.serve(runtime.spawner(), handler, Unobserved, shutdown.clone());
    let serving = runtime.spawn(serving);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let socket = ["--unix-socket", path.to_str().unwrap()];
        let answer = curl(&[&socket[..], &[version, "http://sandbox/"]].concat());
        assert_eq!(answer, "Unix");
    }
    shutdown.trigger();
    assert_eq!(runtime.block_on(within(PATIENCE, serving)), Ok(()));
    assert!(!path.exists());
}

fn get(url: &str) -> Request {
    let request = Request::builder().uri(url);
    request.body(Body::empty()).unwrap()
}

#[test]
fn the_client_reuses_connections() {
    let fixture = Fixture::start(Limits::default());
    let client = fixture.client();
    fixture.runtime.block_on(within(PATIENCE, async {
        let mut peers = Vec::new();
        for _ in 0..5 {
            let response = client.fetch(get(&fixture.url("/peer"))).await.unwrap();
            peers.push(response.into_body());
            let response = client.fetch(get(&fixture.url("/stream"))).await.unwrap();
            assert_eq!(response.into_body(), "0\n1\n2\n");
            let mut request = get(&fixture.url("/echo"));
            *request.method_mut() = Method::POST;
            *request.body_mut() = "ping".into();
            let response = client.fetch(request).await.unwrap();
            assert_eq!(response.headers()[CONTENT_LENGTH], "4");
            assert_eq!(response.into_body(), "ping");
        }
        peers.dedup();
        assert_eq!(peers.len(), 1, "{peers:?}");
        // A body that is not read to its end takes its connection with it.
        drop(client.send(get(&fixture.url("/endless"))).await.unwrap());
        let response = client.fetch(get(&fixture.url("/peer"))).await.unwrap();
        assert_ne!(response.into_body(), peers[0]);
    }));
}

#[test]
fn the_client_survives_a_connection_the_server_closed() {
    let fixture = Fixture::start(Limits {
        idle_time: SHORT / 4,
        ..Limits::default()
    });
    let client = fixture.client();
    fixture.runtime.block_on(within(PATIENCE, async {
        for _ in 0..3 {
            let response = client.fetch(get(&fixture.url("/policy"))).await.unwrap();
            assert_eq!(response.into_body(), "policy");
            Timer::after(SHORT).await;
        }
    }));
}

#[test]
fn the_client_gives_up_in_time_and_in_size() {
    let fixture = Fixture::start(Limits::default());
    let limits = client::Limits {
        time: SHORT,
        response_bytes: 100_000,
    };
    let client = Client::new(
        fixture.runtime.spawner(),
        Connector::new(LiteralOnly),
        limits,
    );
    fixture.runtime.block_on(within(PATIENCE, async {
        let error = client.fetch(get(&fixture.url("/never"))).await.unwrap_err();
        assert!(matches!(error, client::Error::TimedOut(SHORT)), "{error}");
        let error = client
            .fetch(get(&fixture.url("/endless")))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the response: the body is larger than 100000 bytes"
        );
        let error = client.fetch(get("/policy")).await.unwrap_err();
        assert!(matches!(error, client::Error::Target(_)), "{error}");
        let error = client.fetch(get("https://127.0.0.1/")).await.unwrap_err();
        let error = error.to_string();
        assert_eq!(
            error,
            "cannot connect to https://127.0.0.1/: TLS is not configured"
        );
        let error = client
            .fetch(get("http://name.test/"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("cannot resolve name.test: "), "{error}");
    }));
}

/// Answers every name with the same addresses and remembers what it was asked.
#[derive(Clone)]
struct Scripted {
    addresses: Vec<IpAddr>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        self.asked.lock().unwrap().push(host.to_owned());
        Box::pin(std::future::ready(Ok(self.addresses.clone())))
    }
}

#[test]
fn names_are_resolved_by_the_callers_resolver_and_the_next_address_is_tried() {
    let fixture = Fixture::start(Limits::default());
    let resolver = Scripted {
        // Nothing listens on the port there.
        addresses: vec![[127, 0, 0, 2].into(), Ipv4Addr::LOCALHOST.into()],
        asked: Arc::default(),
    };
    let sockets = Arc::new(Mutex::new(0));
    let counter = sockets.clone();
    let connector = Connector::new(resolver.clone()).socket_hook(move |socket| {
        *counter.lock().unwrap() += 1;
        socket.set_recv_buffer_size(100_000)
    });
    let spawner = fixture.runtime.spawner();
    let client = Client::new(spawner.clone(), connector, client::Limits::default());
    let url = format!("http://collector.test:{}/policy", fixture.address.port());
    fixture.runtime.block_on(within(PATIENCE, async {
        let response = client.fetch(get(&url)).await.unwrap();
        assert_eq!(response.into_body(), "policy");
        assert_eq!(*resolver.asked.lock().unwrap(), ["collector.test"]);
        assert_eq!(*sockets.lock().unwrap(), 2);

        let refusing = Connector::new(LiteralOnly)
            .socket_hook(|_| Err(io::Error::other("the mark is not permitted")));
        let client = Client::new(spawner, refusing, client::Limits::default());
        let error = client
            .fetch(get(&fixture.url("/policy")))
            .await
            .unwrap_err();
        let expected = format!(
            "cannot connect to {}: the mark is not permitted",
            fixture.address
        );
        assert_eq!(error.to_string(), expected);
    }));
}

#[test]
fn a_silent_address_does_not_cost_all_the_time() {
    let fixture = Fixture::start(Limits::default());
    // A full backlog swallows the connection attempts.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let silent = SocketAddr::from(([127, 0, 0, 3], fixture.address.port()));
    full.bind(&silent.into()).unwrap();
    full.listen(0).unwrap();
    let _filling: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&silent.into());
            socket
        })
        .collect();
    let resolver = Scripted {
        addresses: vec![silent.ip(), Ipv4Addr::LOCALHOST.into()],
        asked: Arc::default(),
    };
    let connector = Connector::new(resolver).timeout(Duration::from_secs(2));
    let spawner = fixture.runtime.spawner();
    let client = Client::new(spawner.clone(), connector, client::Limits::default());
    let url = format!("http://collector.test:{}/policy", fixture.address.port());
    fixture.runtime.block_on(within(PATIENCE, async {
        let response = client.fetch(get(&url)).await.unwrap();
        assert_eq!(response.into_body(), "policy");
        let connector = Connector::new(LiteralOnly).timeout(SHORT);
        let error = connector
            .connect(&format!("http://{silent}").parse().unwrap())
            .await;
        let error = error.unwrap_err();
        assert!(
            matches!(
                error,
                connect::Error::Connect { .. } | connect::Error::TimedOut { .. }
            ),
            "{error}"
        );
    }));
}

#[test]
fn a_custom_host_header_is_kept() {
    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(&[Listen::from(any)], Limits::default()).unwrap();
    let url = format!("http://{}/", server.addresses()[0]);
    let shutdown = Shutdown::new();
    let handler = |request: Request| async move {
        let host = request.headers()[HOST].as_bytes().to_vec();
        Response::new(host.into())
    };
    let serving = server.serve(runtime.spawner(), handler, Unobserved, shutdown.clone());
    let serving = runtime.spawn(serving);
    let connector = Connector::new(LiteralOnly);
    let client = Client::new(runtime.spawner(), connector, client::Limits::default());
    runtime.block_on(within(PATIENCE, async {
        let mut request = get(&url);
        let host = HeaderValue::from_static("sandbox.test");
        request.headers_mut().insert(HOST, host);
        let response = client.fetch(request).await.unwrap();
        assert_eq!(response.into_body(), "sandbox.test");
        let authority = url.parse::<Uri>().unwrap().authority().unwrap().to_string();
        let response = client.fetch(get(&url)).await.unwrap();
        assert_eq!(response.into_body(), authority);
        shutdown.trigger();
        assert_eq!(serving.await, Ok(()));
    }));
}

/// A certificate authority and what it signs.
struct Authority {
    certificate: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
        Self { certificate }
    }

    fn pem(&self) -> Vec<u8> {
        self.certificate.pem().into_bytes()
    }

    fn issue(&self, name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.certificate).unwrap();
        Identity {
            certificates: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }
}

/// A TLS server that wants a client certificate of `clients`, if any, and answers each request
/// with 100,000 bytes and the protocol agreed on.
fn tls_server(
    runtime: &Runtime,
    identity: &Identity,
    clients: Option<&Authority>,
) -> (SocketAddr, Task<()>) {
    use futures_rustls::rustls::server::WebPkiClientVerifier;
    use futures_rustls::rustls::{RootCertStore, ServerConfig};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use smol::io::{AsyncReadExt, AsyncWriteExt};

    let provider = Arc::new(futures_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(&authority.pem()).unwrap())
                .unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(&identity.certificates);
    let key = PrivateKeyDer::from_pem_slice(&identity.key).unwrap();
    let mut config = builder
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = futures_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = smol::block_on(smol::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let mut request = [0; 4096];
            while let Ok(1..) = stream.read(&mut request).await {
                let protocol = stream
                    .get_ref()
                    .1
                    .alpn_protocol()
                    .unwrap_or(b"none")
                    .to_vec();
                let body = [vec![b'x'; 100_000], protocol].concat();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let response = [head.as_bytes(), &body].concat();
                if stream.write_all(&response).await.is_err() || stream.flush().await.is_err() {
                    break;
                }
            }
        }
    });
    (address, serving)
}

#[test]
fn tls_trusts_whom_it_is_told_to() {
    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _serving) = tls_server(&runtime, &authority.issue("collector.test"), None);
    let attempt = |name: &str, verify: Verify| {
        let resolver = Scripted {
            addresses: vec![address.ip()],
            asked: Arc::default(),
        };
        let connector = Connector::new(resolver).tls(Tls::new(verify, None, &[HTTP_1]).unwrap());
        let client = Client::new(runtime.spawner(), connector, client::Limits::default());
        let url = format!("https://{name}:{}/", address.port());
        runtime.block_on(within(PATIENCE, async {
            let first = client.fetch(get(&url)).await?;
            let second = client.fetch(get(&url)).await?;
            assert_eq!(first.body(), second.body());
            Ok::<_, client::Error>(first.into_body())
        }))
    };
    let body = attempt("collector.test", Verify::Authorities(authority.pem())).unwrap();
    assert!(
        body.len() == 100_008 && body.ends_with(b"xhttp/1.1"),
        "{}",
        body.len()
    );
    attempt("other.test", Verify::Nothing).unwrap();
    for (name, verify) in [
        ("collector.test", Verify::Public),
        ("collector.test", Verify::Authorities(other.pem())),
        ("other.test", Verify::Authorities(authority.pem())),
        ("127.0.0.1", Verify::Authorities(authority.pem())),
    ] {
        let error = attempt(name, verify).unwrap_err().to_string();
        let prefix = format!("no TLS session with {name}: invalid peer certificate: ");
        assert!(error.starts_with(&prefix), "{error}");
    }
}

#[test]
fn tls_presents_the_client_certificate() {
    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let (servers, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let (address, _serving) = tls_server(&runtime, &servers.issue("127.0.0.1"), Some(&clients));
    let attempt = |identity: Option<&Identity>| {
        let tls = Tls::new(Verify::Authorities(servers.pem()), identity, &[HTTP_1]).unwrap();
        let connector = Connector::new(LiteralOnly).tls(tls);
        let client = Client::new(runtime.spawner(), connector, client::Limits::default());
        let url = format!("https://{address}/");
        runtime.block_on(within(PATIENCE, client.fetch(get(&url))))
    };
    let response = attempt(Some(&clients.issue("client.test"))).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    attempt(Some(&other.issue("client.test"))).unwrap_err();
    attempt(None).unwrap_err();
    let mismatched = Identity {
        key: other.issue("a").key,
        ..clients.issue("a")
    };
    let error = Tls::new(Verify::Public, Some(&mismatched), &[HTTP_1]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the client certificate and key: "),
        "{error}"
    );
}

/// Run by the test below in a process of its own, because it takes away the descriptors.
#[test]
#[ignore = "the other half of a_server_out_of_descriptors_recovers"]
fn server_with_few_descriptors() {
    #[derive(Clone, Default)]
    struct Failures(Arc<Mutex<usize>>);

    impl Observer for Failures {
        type Span = ();

        fn begin(&self, _head: &Parts, _peer: &Peer) {}

        fn end(&self, (): (), _access: Access) {}

        fn accept_failed(&self, error: &io::Error) {
            assert_eq!(error.raw_os_error(), Some(24), "{error}");
            *self.0.lock().unwrap() += 1;
        }
    }

    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(&[Listen::from(any)], Limits::default()).unwrap();
    let address = server.addresses()[0];
    let few = rustix::process::Rlimit {
        current: Some(32),
        maximum: Some(32),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let failures = Failures::default();
    let counter = failures.clone();
    let shutdown = Shutdown::new();
    let end = shutdown.clone();
    let handler = move |_: Request| {
        end.trigger();
        let count = counter.0.lock().unwrap().to_string();
        async move { Response::new(count.into()) }
    };
    let serving = server.serve(runtime.spawner(), handler, failures, shutdown);
    println!("listening on {address} ");
    runtime.block_on(within(PATIENCE, serving)).unwrap();
}

#[test]
fn a_server_out_of_descriptors_recovers() {
    use std::io::{BufRead, BufReader};

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "server_with_few_descriptors",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = lines
        .find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("listening on ")?;
            Some(address.trim().parse().unwrap())
        })
        .unwrap();
    let crowd: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    std::thread::sleep(5 * SHORT);
    drop(crowd);
    let failures = curl(&[&format!("http://{address}/")]);
    // Once each pause, and not thousands of times.
    assert!(
        (1..20).contains(&failures.parse::<u32>().unwrap()),
        "{failures}"
    );
    // To its end: the child cannot report into a closed pipe.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}
