//! The DNS filter against a scripted upstream, on loopback sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opensandbox::egress::dns::upstream::Source;
use opensandbox::egress::dns::{
    Config, Hooks, Listeners, MAX_IN_FLIGHT, Running, SocketHook, start,
};
use opensandbox::egress::events::Observer;
use opensandbox::egress::metrics::Metrics;
use opensandbox::egress::policy::{AlwaysRules, Effective, Live, Policy};
use opensandbox::runtime::Runtime;
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::prometheus::Reader;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use slog::Drain as _;
use support::dns::{Gate, Reply, Upstream, ask, ask_tcp, query, response_code, rtype};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than anything takes that works, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);
const POLICY: &str = r#"{"defaultAction":"deny","egress":[
    {"action":"allow","target":"ok.test"},
    {"action":"allow","target":"*.ok.test"}]}"#;

/// Log lines as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A filter in front of `upstreams`.
struct Filter {
    _meters: SdkMeterProvider,
    metrics: Reader,
    runtime: Runtime,
    running: Option<Running>,
    live: Arc<Live>,
    lines: Lines,
    address: SocketAddr,
}

impl Filter {
    fn start(upstreams: &[SocketAddr]) -> Self {
        Self::with(upstreams, |_| {}, Arc::new(|_| Ok(())))
    }

    fn with(
        upstreams: &[SocketAddr],
        adjust: impl FnOnce(&mut Config),
        socket: SocketHook,
    ) -> Self {
        let lines = Lines::default();
        let json = slog_json::Json::default(lines.clone());
        let logger = slog::Logger::root(Mutex::new(json).fuse(), slog::o!());
        let metrics = Reader::default();
        let meters = SdkMeterProvider::builder()
            .with_reader(metrics.clone())
            .build();
        let meter = Meter::new(meters.meter(Metrics::SCOPE), Arc::from([]));
        let both = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().unwrap());
        let listeners = Listeners::bind(&both, &logger).unwrap();
        let observer = Arc::new(Observer::new(logger, Metrics::new(&meter)));
        let live = Arc::new(Live::new(effective(POLICY, 1)));
        let mut config = Config {
            upstreams: Source::List(upstreams.to_vec()),
            timeout: PATIENCE / 2,
            probe_name: String::new(),
            probe_interval: Duration::from_secs(3600),
            exempt: Vec::new(),
            max_in_flight: MAX_IN_FLIGHT,
        };
        adjust(&mut config);
        let hooks = Hooks {
            socket,
            ..Hooks::none()
        };
        let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let spawner = runtime.spawner();
        let running = start(config, listeners, live.clone(), observer, hooks, &spawner).unwrap();
        Self {
            address: running.addresses()[0],
            _meters: meters,
            metrics,
            running: Some(running),
            runtime,
            live,
            lines,
        }
    }

    fn set_policy(&self, policy: &str, generation: u64) {
        self.live.replace(Arc::new(effective(policy, generation)));
    }

    fn ask(&self, name: &str, qtype: u16) -> Vec<u8> {
        ask(self.address, name, qtype, PATIENCE).expect("an answer")
    }

    fn ask_tcp(&self, name: &str, qtype: u16) -> Vec<u8> {
        ask_tcp(self.address, name, qtype, PATIENCE).expect("an answer")
    }

    /// The sum of the series of metric `name`, in its scraped form, that carry all `attributes`.
    fn metric(&self, name: &str, attributes: &[(&str, &str)]) -> i64 {
        let carries = |line: &&str| {
            let attribute =
                |(key, value): &(&str, &str)| line.contains(&format!("{key}=\"{value}\""));
            attributes.iter().all(attribute)
        };
        self.metrics
            .scrape()
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter(carries)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<i64>().ok())
            .sum()
    }

    /// The log records that mention all of `parts`, waited for.
    fn records(&self, parts: &[&str]) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
            let found: Vec<_> = lines
                .lines()
                .filter(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned)
                .collect();
            if !found.is_empty() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(&mut self, within: Duration) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop(within));
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn effective(policy: &str, generation: u64) -> Effective {
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    Effective::compile(&AlwaysRules::default(), &policy, generation)
}

/// An address nothing listens on and that does not say so: datagrams vanish.
fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = client.recv(&mut buffer).expect("an answer");
    buffer.truncate(length);
    buffer
}

/// A query with an OPT record that announces `payload`.
fn edns_query(id: u16, name: &str, qtype: u16, payload: u16) -> Vec<u8> {
    let mut message = query(id, name, qtype);
    message[11] = 1;
    message.extend([0, 0, 41]);
    message.extend(payload.to_be_bytes());
    message.extend([0; 6]);
    message
}

fn is_truncated(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

#[test]
fn allowed_names_are_forwarded_and_recorded() {
    let upstream = Upstream::start();
    upstream.answer(
        "ok.test",
        Reply::addresses(60, &["192.0.2.1", "2001:db8::1"]),
    );
    upstream.answer("a.b.ok.test", Reply::addresses(60, &["192.0.2.2"]));
    let filter = Filter::start(&[upstream.address()]);

    assert!(filter.ask("ok.test", rtype::A).ends_with(&[192, 0, 2, 1]));
    assert!(
        filter
            .ask("a.b.ok.test", rtype::A)
            .ends_with(&[192, 0, 2, 2])
    );
    assert_eq!(filter.ask("ok.test", rtype::AAAA).last(), Some(&1));
    let nodata = filter.ask("ok.test", rtype::TXT);
    assert_eq!(response_code(&nodata), 0);
    assert_eq!(response_code(&filter.ask("none.ok.test", rtype::A)), 3);

    let record = &filter.records(&["egress.outbound", "a.b.ok.test"])[0];
    assert!(record.contains(r#""target.ips":["192.0.2.2"]"#), "{record}");
    assert!(!record.contains("error"), "{record}");
    let record = &filter.records(&["egress.outbound", "none.ok.test"])[0];
    assert!(!record.contains("target.ips"), "{record}");
}

#[test]
fn denied_names_never_reach_an_upstream() {
    let upstream = Upstream::start();
    upstream.otherwise(Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::start(&[upstream.address()]);
    for qtype in [rtype::A, rtype::AAAA, rtype::TXT, 252, 255] {
        for answer in [
            filter.ask("bad.test", qtype),
            filter.ask_tcp("bad.test", qtype),
        ] {
            assert_eq!(response_code(&answer), 3);
            assert_eq!(answer[7], 0, "no answer records");
            assert_eq!(answer[9], 1, "a start of authority");
        }
    }
    let client = client();
    let message = edns_query(7, "bad.test", rtype::A, 1232);
    client.send_to(&message, filter.address).unwrap();
    let answer = receive(&client);
    assert!(
        answer.ends_with(b"\x00\x0fdenied by egress policy"),
        "{answer:?}"
    );
    assert!(upstream.queries_for("bad.test").is_empty());
    let records = filter.records(&["egress.denied", "bad.test"]);
    assert!(records[0].contains(r#""reason":"default""#), "{records:?}");
    assert!(
        records
            .iter()
            .any(|record| record.contains(r#""qtype":"AAAA""#))
    );
}

#[test]
fn the_letter_case_of_the_question_comes_back() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::start(&[upstream.address()]);
    let answer = filter.ask("oK.TeSt", rtype::A);
    assert_eq!(&answer[12..20], b"\x02oK\x04TeSt");
    assert_eq!(upstream.queries_for("ok.test")[0].spelled, "oK.TeSt");
    let denied = filter.ask("BaD.test", rtype::A);
    assert_eq!(&denied[13..16], b"BaD");
}

#[test]
fn large_answers_fit_the_client_or_are_truncated() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::big(1000));
    upstream.answer("huge.ok.test", Reply::big(6000));
    let filter = Filter::start(&[upstream.address()]);
    let client = client();
    let ask = |message: &[u8]| {
        client.send_to(message, filter.address).unwrap();
        receive(&client)
    };
    let plain = ask(&query(1, "ok.test", rtype::TXT));
    assert!(is_truncated(&plain) && plain.len() <= 512);
    assert_eq!(plain[7], 0);
    let edns = ask(&edns_query(2, "ok.test", rtype::TXT, 1232));
    assert!(!is_truncated(&edns) && edns.len() > 1000);
    let cut = ask(&edns_query(3, "huge.ok.test", rtype::TXT, 4096));
    assert!(is_truncated(&cut) && cut.len() <= 4096);
    assert_eq!(cut[11], 1, "an OPT record");
    let whole = ask(&edns_query(4, "huge.ok.test", rtype::TXT, 65_535));
    assert!(whole.len() > 6000);
    let tcp = filter.ask_tcp("huge.ok.test", rtype::TXT);
    assert!(!is_truncated(&tcp) && tcp.len() > 6000);
}

#[test]
fn an_answer_truncated_upstream_is_had_over_tcp() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::big(5000).truncated_over_udp());
    let filter = Filter::start(&[upstream.address()]);
    assert!(is_truncated(&filter.ask("ok.test", rtype::TXT)));
    let whole = filter.ask_tcp("ok.test", rtype::TXT);
    assert!(!is_truncated(&whole) && whole.len() > 5000);
}

#[test]
fn queries_on_one_connection_do_not_wait_for_each_other() {
    let upstream = Upstream::start();
    let gate = Gate::default();
    let slow = Reply::addresses(60, &["192.0.2.1"]).behind(&gate);
    upstream.answer("slow.ok.test", slow);
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.2"]));
    let filter = Filter::start(&[upstream.address()]);
    let mut stream = TcpStream::connect(filter.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for (id, name) in [(1, "slow.ok.test"), (2, "ok.test"), (3, "bad.test")] {
        let message = query(id, name, rtype::A);
        let length = u16::try_from(message.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&message).unwrap();
    }
    let mut next = || {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        u16::from_be_bytes([answer[0], answer[1]])
    };
    let mut quick = [next(), next()];
    quick.sort_unstable();
    assert_eq!(quick, [2, 3]);
    gate.open();
    assert_eq!(next(), 1);
}

#[test]
fn forged_answers_are_ignored() {
    let upstream = Upstream::start();
    let good = || Reply::addresses(60, &["192.0.2.7"]);
    let forged = || Reply::addresses(60, &["192.0.2.66"]);
    upstream.answer("ok.test", good().preceded_by(forged().with_wrong_id()));
    let other = forged().with_question("other.ok.test");
    upstream.answer("a.ok.test", good().preceded_by(other));
    let filter = Filter::start(&[upstream.address()]);
    for name in ["ok.test", "a.ok.test"] {
        assert!(
            filter.ask(name, rtype::A).ends_with(&[192, 0, 2, 7]),
            "{name}"
        );
    }
}

#[test]
fn ids_and_source_ports_differ_from_the_clients() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::start(&[upstream.address()]);
    for _ in 0..32 {
        assert_eq!(filter.ask("ok.test", rtype::A)[..2], [0x12, 0x34]);
    }
    let queries = upstream.queries_for("ok.test");
    let ids: std::collections::HashSet<_> = queries.iter().map(|query| query.id).collect();
    assert!(ids.len() > 24, "{ids:?}");
    let ports: std::collections::HashSet<_> = queries.iter().map(|query| query.peer).collect();
    assert!(ports.len() > 1, "{ports:?}");
}

#[test]
fn a_silent_upstream_costs_little() {
    let (_keep, silent) = black_hole();
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::with(
        &[silent, upstream.address()],
        |c| c.timeout = 5 * SECOND,
        Arc::new(|_| Ok(())),
    );
    let start = Instant::now();
    assert!(filter.ask("ok.test", rtype::A).ends_with(&[192, 0, 2, 1]));
    // The client's own patience ends after five seconds; how soon the answer really comes is
    // shown in tests/egress, by the best of several.
    assert!(start.elapsed() < 4 * SECOND, "{:?}", start.elapsed());
    let answer = filter.ask_tcp("ok.test", rtype::A);
    assert!(answer.ends_with(&[192, 0, 2, 1]));
}

#[test]
fn a_failing_upstream_leads_to_the_next() {
    let first = Upstream::start();
    let second = Upstream::start();
    first.otherwise(Reply::servfail());
    second.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    for upstream in [&first, &second] {
        upstream.answer("refused.ok.test", Reply::refused());
    }
    let filter = Filter::start(&[first.address(), second.address()]);
    assert!(filter.ask("ok.test", rtype::A).ends_with(&[192, 0, 2, 1]));
    assert!(
        filter
            .ask_tcp("ok.test", rtype::A)
            .ends_with(&[192, 0, 2, 1])
    );
    // The last answer is relayed as it is.
    assert_eq!(response_code(&filter.ask("refused.ok.test", rtype::A)), 5);
    assert_eq!(
        response_code(&filter.ask_tcp("refused.ok.test", rtype::A)),
        5
    );
    let records = filter.records(&["egress.outbound", "refused.ok.test"]);
    assert!(
        records[0].contains("REFUSED from 127.0.0.1:"),
        "{records:?}"
    );
}

#[test]
fn without_any_upstream_the_client_is_told_why() {
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let filter = Filter::start(&[closed]);
    let client = client();
    client
        .send_to(&edns_query(1, "ok.test", rtype::A, 1232), filter.address)
        .unwrap();
    let answer = receive(&client);
    assert_eq!(response_code(&answer), 2);
    assert!(answer.ends_with(b"no upstream resolver could be reached"));
    assert_eq!(response_code(&filter.ask_tcp("ok.test", rtype::A)), 2);
    let record = &filter.records(&["egress.outbound", "ok.test"])[0];
    assert!(record.contains("refused"), "{record}");

    let (_keep, silent) = black_hole();
    let adjust = |config: &mut Config| config.timeout = Duration::from_millis(200);
    let filter = Filter::with(&[silent], adjust, Arc::new(|_| Ok(())));
    client
        .send_to(&edns_query(2, "ok.test", rtype::A, 1232), filter.address)
        .unwrap();
    assert!(receive(&client).ends_with(b"no upstream resolver answered"));
    assert_eq!(response_code(&filter.ask_tcp("ok.test", rtype::A)), 2);
}

#[test]
fn a_lost_datagram_is_sent_again() {
    let upstream = Upstream::start();
    let good = Reply::addresses(60, &["192.0.2.1"]);
    upstream.script("ok.test", [Reply::dropped(), good]);
    let filter = Filter::start(&[upstream.address()]);
    assert!(filter.ask("ok.test", rtype::A).ends_with(&[192, 0, 2, 1]));
    assert!(upstream.queries_for("ok.test").len() >= 2);
}

#[test]
fn malformed_messages_are_turned_down() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::start(&[upstream.address()]);
    let client = client();
    let answered = |message: &[u8]| {
        client.send_to(message, filter.address).unwrap();
        receive(&client)
    };
    let mut update = query(1, "ok.test", rtype::A);
    update[2] = 5 << 3;
    assert_eq!(answered(&update), b"\0\x01\xa8\x04\0\0\0\0\0\0\0\0");
    let mut two = query(2, "ok.test", rtype::A);
    two[5] = 2;
    assert_eq!(answered(&two), b"\0\x02\x81\x01\0\0\0\0\0\0\0\0");
    assert_eq!(response_code(&answered(&query(3, "ok.test", 1)[..12])), 1);
    let mut padded = query(4, "ok.test", rtype::A);
    padded.resize(5000, 0);
    assert_eq!(response_code(&answered(&padded)), 1);

    // Neither of these gets an answer; the next query does.
    let mut response = query(5, "ok.test", rtype::A);
    response[2] |= 0x80;
    client.send_to(&response, filter.address).unwrap();
    client.send_to(&[0; 11], filter.address).unwrap();
    assert_eq!(answered(&query(6, "ok.test", rtype::A))[..2], [0, 6]);
}

#[test]
fn the_number_of_waiting_queries_is_bounded() {
    let (_keep, silent) = black_hole();
    let adjust = |config: &mut Config| {
        config.max_in_flight = 2;
        // The four are sent within it.
        config.timeout = 2 * SECOND;
    };
    let filter = Filter::with(&[silent], adjust, Arc::new(|_| Ok(())));
    let client = client();
    for id in 1..=4 {
        let message = query(id, "ok.test", rtype::A);
        client.send_to(&message, filter.address).unwrap();
    }
    let mut ids = [receive(&client)[1], receive(&client)[1]];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    let pause = Some(Duration::from_millis(100));
    client.set_read_timeout(pause).unwrap();
    assert!(client.recv(&mut [0; 512]).is_err());
}

#[test]
fn a_client_that_repeats_itself_is_answered_once() {
    let upstream = Upstream::start();
    let gate = Gate::default();
    let slow = Reply::addresses(60, &["192.0.2.1"]).behind(&gate);
    upstream.answer("ok.test", slow);
    let filter = Filter::start(&[upstream.address()]);
    let client = client();
    let message = query(1, "ok.test", rtype::A);
    for _ in 0..3 {
        client.send_to(&message, filter.address).unwrap();
    }
    // Whatever came before this one was taken before it.
    filter.ask("bad.test", rtype::A);
    gate.open();
    receive(&client);
    assert_eq!(filter.metric("egress_dns_queries_count_total", &[]), 2);
    let pause = Some(Duration::from_millis(100));
    client.set_read_timeout(pause).unwrap();
    assert!(client.recv(&mut [0; 512]).is_err());
}

#[test]
fn a_denial_reaches_queries_in_flight() {
    let upstream = Upstream::start();
    let gate = Gate::default();
    let slow = Reply::addresses(60, &["192.0.2.1"]).behind(&gate);
    upstream.otherwise(slow);
    let filter = Filter::start(&[upstream.address()]);
    let client = client();
    let message = query(1, "ok.test", rtype::A);
    client.send_to(&message, filter.address).unwrap();
    let address = filter.address;
    let tcp = std::thread::spawn(move || ask_tcp(address, "a.ok.test", rtype::A, PATIENCE));
    assert!(upstream.wait_for("ok.test", 1, PATIENCE));
    assert!(upstream.wait_for("a.ok.test", 1, PATIENCE));
    filter.set_policy(r#"{"defaultAction":"deny"}"#, 2);
    gate.open();
    assert_eq!(response_code(&receive(&client)), 3);
    assert_eq!(response_code(&tcp.join().unwrap().unwrap()), 3);
    assert!(!filter.records(&["egress.denied", "\"ok.test"]).is_empty());
}

#[test]
fn stopping_answers_what_can_be_answered() {
    let upstream = Upstream::start();
    let slow = Reply::addresses(60, &["192.0.2.1"]).after(Duration::from_millis(200));
    upstream.answer("ok.test", slow);
    upstream.answer("never.ok.test", Reply::dropped());
    let mut filter = Filter::start(&[upstream.address()]);
    let client = client();
    for (id, name) in [(1, "ok.test"), (2, "never.ok.test")] {
        let message = query(id, name, rtype::A);
        client.send_to(&message, filter.address).unwrap();
        assert!(upstream.wait_for(name, 1, PATIENCE));
    }
    let start = Instant::now();
    filter.stop(2 * SECOND);
    assert!(start.elapsed() < PATIENCE);
    let first = receive(&client);
    assert_eq!((first[1], response_code(&first)), (1, 0));
    let second = receive(&client);
    assert_eq!((second[1], response_code(&second)), (2, 2));
    assert!(
        ask(
            filter.address,
            "ok.test",
            rtype::A,
            Duration::from_millis(100)
        )
        .is_none()
    );
}

#[test]
fn a_panic_costs_its_query_and_nothing_else() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let dns_thread = Mutex::new(0);
    let hook: SocketHook = Arc::new(move |_| {
        if std::thread::current().name() == Some("dns") {
            let mut sockets = dns_thread.lock().unwrap();
            *sockets += 1;
            let first = *sockets == 1;
            drop(sockets);
            assert!(!first, "this panic is part of a test");
        }
        Ok(())
    });
    let filter = Filter::with(&[upstream.address()], |_| {}, hook);
    let lost = ask(
        filter.address,
        "ok.test",
        rtype::A,
        Duration::from_millis(300),
    );
    assert!(lost.is_none());
    assert!(filter.ask("ok.test", rtype::A).ends_with(&[192, 0, 2, 1]));
    assert!(!filter.records(&["panicked and restarts"]).is_empty());
}

#[test]
fn the_hook_sees_every_upstream_socket_but_the_exempt() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let refuse: SocketHook = Arc::new(|_| Err(std::io::ErrorKind::PermissionDenied.into()));
    let filter = Filter::with(&[upstream.address()], |_| {}, refuse.clone());
    assert_eq!(response_code(&filter.ask("ok.test", rtype::A)), 2);
    assert_eq!(response_code(&filter.ask_tcp("ok.test", rtype::A)), 2);
    assert!(upstream.queries().is_empty());
    let exempt = |config: &mut Config| config.exempt = vec![upstream.address().ip()];
    let filter = Filter::with(&[upstream.address()], exempt, refuse);
    assert_eq!(response_code(&filter.ask("ok.test", rtype::A)), 0);
    assert_eq!(response_code(&filter.ask_tcp("ok.test", rtype::A)), 0);
}

#[test]
fn a_probe_that_fails_is_told_once() {
    let upstream = Upstream::start();
    upstream.answer("probe.test", Reply::refused());
    let adjust = |config: &mut Config| {
        config.probe_name = "probe.test".to_owned();
        config.probe_interval = Duration::from_millis(50);
    };
    let filter = Filter::with(&[upstream.address()], adjust, Arc::new(|_| Ok(())));
    assert!(upstream.wait_for("probe.test", 4, PATIENCE));
    let failed = format!(
        "[dns] upstream probe {} failed: REFUSED",
        upstream.address()
    );
    assert_eq!(filter.records(&[&failed]).len(), 1);
    let all = "[dns] all upstream probes failed; using full upstream list for forwarding";
    assert_eq!(filter.records(&[all]).len(), 1);
    upstream.answer("probe.test", Reply::addresses(60, &["192.0.2.1"]));
    assert_eq!(filter.records(&["succeeded again"]).len(), 1);
}

#[test]
fn our_own_names_go_past_the_policy() {
    let upstream = Upstream::start();
    upstream.answer(
        "collector.test",
        Reply::addresses(60, &["192.0.2.1", "2001:db8::1"]),
    );
    let big: Vec<_> = (0..200).map(|n| format!("192.0.2.{n}")).collect();
    let big: Vec<_> = big.iter().map(String::as_str).collect();
    upstream.answer("many.test", Reply::addresses(60, &big).truncated_over_udp());
    upstream.answer("broken.test", Reply::servfail());
    let filter = Filter::start(&[upstream.address()]);
    let resolver = filter.running.as_ref().unwrap().resolver();
    let lookup = |name: &str| filter.runtime.block_on(resolver.lookup(name));
    let texts = |found: Vec<std::net::IpAddr>| -> Vec<_> {
        found.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        texts(lookup("collector.test").unwrap()),
        ["192.0.2.1", "2001:db8::1"]
    );
    assert_eq!(lookup("many.test").unwrap().len(), 200);
    assert_eq!(texts(lookup("192.0.2.5").unwrap()), ["192.0.2.5"]);
    let kind = |name| lookup(name).unwrap_err().kind();
    assert_eq!(kind("none.test"), std::io::ErrorKind::NotFound);
    assert_eq!(kind("broken.test"), std::io::ErrorKind::Other);
    assert_eq!(kind("a..b"), std::io::ErrorKind::InvalidInput);
    assert!(
        filter
            .lines
            .0
            .lock()
            .unwrap()
            .windows(15)
            .all(|w| w != b"egress.outbound")
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let result = Listeners::bind(&[address], &logger);
    let error = result.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

/// What `dig` makes of an answer.
fn dig(filter: &Filter, arguments: &[&str]) -> Option<String> {
    let port = filter.address.port().to_string();
    let output = std::process::Command::new("dig")
        .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=3"])
        .args(arguments)
        .output()
        .ok()?;
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn dig_understands_the_answers() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    upstream.answer("huge.ok.test", Reply::big(6000));
    let filter = Filter::start(&[upstream.address()]);
    let Some(allowed) = dig(&filter, &["ok.test", "A", "+short"]) else {
        support::skipped("dig is not installed");
        return;
    };
    assert_eq!(allowed, "192.0.2.1\n");
    let denied = dig(&filter, &["bad.test", "A"]).unwrap();
    assert!(denied.contains("status: NXDOMAIN"), "{denied}");
    assert!(
        denied.contains("EDE: 15 (Blocked): (denied by egress policy)"),
        "{denied}"
    );
    assert!(denied.contains("flags: qr rd ra;"), "{denied}");
    let huge = dig(&filter, &["huge.ok.test", "TXT"]).unwrap();
    assert!(huge.contains("Truncated, retrying in TCP mode"), "{huge}");
    assert!(huge.contains("ANSWER: 29"), "{huge}");
    let tcp = dig(&filter, &["bad.test", "AAAA", "+tcp"]).unwrap();
    assert!(tcp.contains("status: NXDOMAIN"), "{tcp}");
}

#[test]
fn every_message_is_counted_once() {
    let upstream = Upstream::start();
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    upstream.answer("fail.ok.test", Reply::servfail());
    let filter = Filter::start(&[upstream.address()]);
    for _ in 0..3 {
        filter.ask("ok.test", rtype::A);
    }
    filter.ask_tcp("ok.test", rtype::A);
    filter.ask("none.ok.test", rtype::A);
    filter.ask("fail.ok.test", rtype::A);
    filter.ask("bad.test", rtype::A);
    filter.ask_tcp("bad.test", rtype::A);
    let client = client();
    client
        .send_to(&query(1, "ok.test", 1)[..12], filter.address)
        .unwrap();
    receive(&client);
    client.send_to(&[0; 11], filter.address).unwrap();
    filter.ask("bad.test", rtype::A);
    // A record is written after its answer is queued and before the thread takes the next query.
    let count = |attributes: &[_]| filter.metric("egress_dns_queries_count_total", attributes);
    let allow = ("decision", "allow");
    assert_eq!(
        count(&[allow, ("transport", "udp"), ("outcome", "noerror")]),
        3
    );
    assert_eq!(
        count(&[allow, ("transport", "tcp"), ("outcome", "noerror")]),
        1
    );
    assert_eq!(count(&[allow, ("outcome", "nxdomain")]), 1);
    assert_eq!(count(&[allow, ("outcome", "servfail")]), 1);
    let deny = ("decision", "deny");
    assert_eq!(
        count(&[deny, ("transport", "udp"), ("outcome", "nxdomain")]),
        2
    );
    assert_eq!(
        count(&[deny, ("transport", "tcp"), ("outcome", "nxdomain")]),
        1
    );
    assert_eq!(count(&[deny, ("outcome", "other")]), 1);
    assert_eq!(filter.metric("egress_policy_denied_total", &[]), 3);
    assert_eq!(
        filter.metric("egress_dns_query_duration_seconds_count", &[]),
        6
    );
    assert_eq!(filter.metric("egress_dns_inflight", &[]), 0);
    let dropped = [("reason", "not_a_query")];
    assert_eq!(filter.metric("egress_dns_dropped_count_total", &dropped), 1);
    assert_eq!(filter.metric("egress_dns_upstream_healthy", &[]), 1);
    assert_eq!(filter.records(&["egress.outbound"]).len(), 6);
}

#[test]
fn both_families_are_served_and_asked() {
    let Ok(probe) = UdpSocket::bind("[::1]:0") else {
        support::skipped("this machine has no ::1");
        return;
    };
    drop(probe);
    let upstream = Upstream::start_at("[::1]:0".parse().unwrap());
    upstream.answer("ok.test", Reply::addresses(60, &["192.0.2.1"]));
    let filter = Filter::start(&[upstream.address()]);
    for address in filter.running.as_ref().unwrap().addresses() {
        for ask in [ask, ask_tcp] {
            let answer = ask(*address, "ok.test", rtype::A, PATIENCE).unwrap();
            assert!(answer.ends_with(&[192, 0, 2, 1]), "{address}");
        }
    }
}

#[test]
fn connections_are_bounded() {
    let upstream = Upstream::start();
    let filter = Filter::start(&[upstream.address()]);
    let connect = || TcpStream::connect(filter.address).unwrap();
    let message = query(1, "bad.test", rtype::A);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    // A silent connection is closed after two seconds, and then there is room for another: where
    // opening them takes long, the attempt proves nothing.
    let refused = (0..10).any(|_| {
        let open: Vec<_> = (0..256).map(|_| connect()).collect();
        let mut last = connect();
        last.set_read_timeout(Some(PATIENCE)).unwrap();
        // What is refused may be gone before it is written to.
        let _ = last.write_all(&framed);
        let refused = !matches!(last.read(&mut [0; 1]), Ok(1));
        drop(open);
        refused
    });
    assert!(refused, "every one of 257 connections was served");
    let deadline = Instant::now() + PATIENCE;
    while ask_tcp(filter.address, "bad.test", rtype::A, SECOND).is_none() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_connection_serves_a_bounded_number_of_queries() {
    let upstream = Upstream::start();
    let filter = Filter::start(&[upstream.address()]);
    let mut stream = TcpStream::connect(filter.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let message = query(1, "bad.test", rtype::A);
    let length = u16::try_from(message.len()).unwrap();
    let framed = [&length.to_be_bytes()[..], &message].concat();
    for _ in 0..128 {
        stream.write_all(&framed).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_silent_connection_is_closed() {
    let upstream = Upstream::start();
    let filter = Filter::start(&[upstream.address()]);
    let mut stream = TcpStream::connect(filter.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0]).unwrap();
    let start = Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(1900));
}
