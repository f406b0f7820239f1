//! The policy API behind real sockets: what clients do to a server, and it must not mind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opensandbox::egress::api::{
    Api, Health, HealthGate, MAX_BODY, MAX_CHANGES, RequestIds, Settings, TOKEN_HEADER,
};
use opensandbox::egress::events::Observer;
use opensandbox::egress::metrics::Metrics;
use opensandbox::egress::policy::{AlwaysRules, Policy};
use opensandbox::egress::store::Store;
use opensandbox::egress::writer::{NamesOnly, Writer};
use opensandbox::http::auth::Token;
use opensandbox::http::server::{Limits, Server, Unobserved};
use opensandbox::lifecycle::Shutdown;
use opensandbox::runtime::Runtime;
use opensandbox::telemetry::instrument::Meter;
use slog::{Discard, Logger, o};

/// How long an answer may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    address: SocketAddr,
    writer: Arc<Writer>,
    shutdown: Shutdown,
    _runtime: Runtime,
}

impl Fixture {
    fn start() -> Self {
        // The test's own thread counts as the first.
        let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let logger = Logger::root(Discard, o!());
        let observer = Arc::new(Observer::new(logger, Metrics::new(&Meter::noop())));
        let writer = Writer::start(
            Policy::default(),
            AlwaysRules::default(),
            Box::new(NamesOnly),
            Vec::new(),
            Store::open(None),
            Arc::clone(&observer),
        );
        let writer = Arc::new(writer.unwrap());
        let settings = Settings {
            token: Token::new(TOKEN_HEADER, "s3cret"),
            max_rules: None,
            request_ids: RequestIds::new(1),
        };
        let api = Api::new(
            settings,
            Arc::clone(&writer),
            observer,
            Arc::new(HealthGate::new(Health::Ready)),
            runtime.spawner(),
        );
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&[listen], Limits::default()).unwrap();
        let address = server.addresses()[0];
        let shutdown = Shutdown::new();
        let serving = server.serve(runtime.spawner(), api, Unobserved, shutdown.clone());
        runtime.spawn(serving).detach();
        Self {
            address,
            writer,
            shutdown,
            _runtime: runtime,
        }
    }

    /// Sends the head of a request for `/policy` with a body of `length` octets.
    fn begin(&self, method: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} /policy HTTP/1.1\r\nhost: x\r\nopensandbox-egress-auth: s3cret\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        stream
    }

    fn ask(&self, method: &str, body: &str) -> String {
        let mut stream = self.begin(method, body.len());
        stream.write_all(body.as_bytes()).unwrap();
        answer(stream)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_client_that_stalls_holds_up_nobody_else() {
    let fixture = Fixture::start();
    let body = r#"[{"action":"allow","target":"slow.test"}]"#;
    let mut slow = fixture.begin("PATCH", body.len());
    let (first, rest) = body.split_at(10);
    slow.write_all(first.as_bytes()).unwrap();
    let quick = fixture.ask("PATCH", r#"[{"action":"allow","target":"quick.test"}]"#);
    assert!(quick.starts_with("HTTP/1.1 200 OK\r\n"), "{quick}");
    slow.write_all(rest.as_bytes()).unwrap();
    assert!(answer(slow).starts_with("HTTP/1.1 200 OK\r\n"));
    let shown = fixture.ask("GET", "");
    assert!(
        shown.ends_with(
            "{\"status\":\"ok\",\"mode\":\"enforcing\",\"enforcementMode\":\"dns\",\"policy\":{\"egress\":[{\"action\":\"allow\",\"target\":\"slow.test\"},{\"action\":\"allow\",\"target\":\"quick.test\"}],\"defaultAction\":\"deny\"}}\n"
        ),
        "{shown}"
    );
}

#[test]
fn so_many_clients_may_stall_and_no_more() {
    let fixture = Fixture::start();
    let stalled: Vec<_> = (0..MAX_CHANGES)
        .map(|_| fixture.begin("PATCH", MAX_BODY))
        .collect();
    let body = r#"[{"action":"allow","target":"late.test"}]"#;
    let until = Instant::now() + PATIENCE;
    // The heads of the others may still be on their way, and so may their end below.
    let wait_for = |status: &str| loop {
        let answer = fixture.ask("PATCH", body);
        if answer.starts_with(status) {
            return answer;
        }
        assert!(Instant::now() < until, "{answer}");
    };
    let refused = wait_for("HTTP/1.1 503 ");
    assert!(
        refused.contains("too many changes are under way"),
        "{refused}"
    );
    drop(stalled);
    wait_for("HTTP/1.1 200 ");
}

#[test]
fn a_client_that_leaves_changes_nothing() {
    let fixture = Fixture::start();
    let before = fixture.writer.policy();
    for sent in ["", "[", r#"[{"action":"allow","target":"a.test"}]"#] {
        let mut stream = fixture.begin("PATCH", 100);
        stream.write_all(sent.as_bytes()).unwrap();
        drop(stream);
    }
    assert!(fixture.ask("GET", "").contains(r#""egress":[]"#));
    assert_eq!(fixture.writer.policy(), before);
}

#[test]
fn a_body_that_is_too_large_is_refused_with_its_reason() {
    let fixture = Fixture::start();
    let refused = fixture.ask("POST", &" ".repeat(MAX_BODY + 1));
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    assert!(
        refused.ends_with("the body is larger than 1048576 bytes\n"),
        "{refused}"
    );
}

#[test]
fn delete_takes_a_body() {
    let fixture = Fixture::start();
    fixture.ask(
        "POST",
        r#"{"egress":[{"action":"allow","target":"a.test"}]}"#,
    );
    let answer = fixture.ask("DELETE", r#"["a.test"]"#);
    assert!(answer.contains(r#""mode":"deny_all""#), "{answer}");
    let again = fixture.ask("DELETE", r#"["a.test"]"#);
    assert!(again.contains("no matching targets found"), "{again}");
    assert!(
        again.to_ascii_lowercase().contains("\r\nx-request-id: "),
        "{again}"
    );
}
