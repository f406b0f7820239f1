//! With nothing set nothing is exported (requirement R5): the kernel is asked what the daemon did
//! on the network, and the log what it said.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::Daemon;
use support::daemon::Builder;
use support::egress::Place;
use support::otlp::Receiver;

use crate::daemon::traffic;

const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str =
    r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"*.good.test"}]}"#;

/// Where a node's collector would listen.
const COLLECTOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), 4318);

/// The first port Linux gives to who does not ask for one (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

/// What a start of the daemon did on the network.
#[derive(Debug)]
struct Trace {
    /// Its sockets, as in `AF_INET SOCK_DGRAM`; of netlink the protocol instead of the type.
    sockets: BTreeSet<String>,
    /// Whom it connected to.
    connected: BTreeSet<SocketAddr>,
    /// Whom it sent datagrams to.
    sent: BTreeSet<SocketAddr>,
    /// Where it listened.
    bound: BTreeSet<SocketAddr>,
}

fn can_trace() -> bool {
    let probe = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    let able = probe.is_ok_and(|probe| probe.status.success());
    if !able {
        support::skipped("strace cannot trace here");
    }
    able
}

/// The daemon under `strace`, which stands aside: the child is the daemon itself.
fn traced<'a>(place: &'a Place, trace: &Path) -> Builder<'a> {
    let strace = Builder::new("strace")
        .arg("-D")
        .arg("-f")
        .arg("-q")
        .arg("-e")
        .arg("trace=%network")
        .arg("-o")
        .arg(trace.display().to_string())
        .arg(env!("CARGO_BIN_EXE_opensandbox"))
        .arg("egress");
    place
        .prepare(strace, RULES)
        .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM_TIMEOUT", 1)
}

/// The text between `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: char) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split(after).next().unwrap_or(rest))
}

/// The internet address in a line, if it has one.
fn address(line: &str) -> Option<SocketAddr> {
    let port = between(line, "_port=htons(", ')')?.parse().ok()?;
    let ip = between(line, "inet_addr(\"", '"')
        .or_else(|| between(line, "inet_pton(AF_INET6, \"", '"'))?;
    Some(SocketAddr::new(ip.parse().ok()?, port))
}

impl Trace {
    /// Reads the trace of the process `pid`, whose last line says how that ended; the tracer
    /// writes it a little later than the end.
    fn read(path: &Path, pid: u32) -> Self {
        // The number is padded.
        let pid = pid.to_string();
        let is_last = |line: &str| {
            line.strip_prefix(&pid)
                .is_some_and(|rest| rest.trim_start() == "+++ exited with 0 +++")
        };
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            let text = std::fs::read_to_string(path).expect("the trace");
            if text.lines().any(is_last) {
                break text;
            }
            assert!(Instant::now() < deadline, "no end of {pid} in {text}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut trace = Self {
            sockets: BTreeSet::new(),
            connected: BTreeSet::new(),
            sent: BTreeSet::new(),
            bound: BTreeSet::new(),
        };
        for line in text.lines() {
            // `PID call(...) = result`, or the second half of an interrupted call.
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let name = call.split('(').next().unwrap_or_default();
            match name {
                "socket" => {
                    let arguments = between(call, "(", ')').unwrap_or_default();
                    let arguments: Vec<_> = arguments.split(", ").collect();
                    let kind = match arguments[..] {
                        ["AF_NETLINK", _, protocol] => protocol,
                        [_, kind, _] => kind.split('|').next().unwrap_or_default(),
                        _ => call,
                    };
                    trace.sockets.insert(format!("{} {kind}", arguments[0]));
                }
                "connect" => trace.connected.extend(address(call)),
                "sendto" | "sendmsg" | "sendmmsg" => trace.sent.extend(address(call)),
                "bind" => trace.bound.extend(address(call)),
                _ => {}
            }
        }
        trace
    }
}

/// Runs the traffic past a daemon with `environment`; what it did and what it said.
fn observe(environment: &[(&str, &str)]) -> (Place, Trace, Daemon) {
    let place = Place::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("trace");
    let mut egress = traced(&place, &file);
    for (variable, value) in environment {
        egress = egress.env(variable, value);
    }
    let mut daemon = egress.spawn();
    let threads = daemon.threads();
    let exporting =
        |name: &String| name.to_lowercase().contains("otel") || name.contains("OpenTel");
    assert!(!threads.iter().any(exporting), "{threads:?}");
    traffic(&place);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(
        daemon.wait(PATIENCE).code(),
        Some(0),
        "{}",
        daemon.transcript()
    );
    let trace = Trace::read(&file, daemon.pid());
    (place, trace, daemon)
}

/// Nothing but the upstream was spoken to, nothing was looked up, and nothing was said.
fn assert_silent(place: &Place, trace: &Trace, daemon: &Daemon) {
    let upstream = place.upstream().address();
    assert_eq!(trace.connected, BTreeSet::from([upstream]), "{trace:#?}");
    // Clients of the filter are answered where they asked from.
    let client = |peer: &SocketAddr| peer.ip().is_loopback() && peer.port() >= EPHEMERAL;
    let sent = trace.sent.iter();
    let others: Vec<_> = sent
        .filter(|peer| **peer != upstream && !client(peer))
        .collect();
    assert_eq!(others, Vec::<&SocketAddr>::new(), "{trace:#?}");
    let known = [
        "AF_INET SOCK_DGRAM",
        "AF_INET SOCK_STREAM",
        "AF_INET6 SOCK_DGRAM",
        "AF_INET6 SOCK_STREAM",
        "AF_NETLINK NETLINK_NETFILTER",
    ];
    let unknown: Vec<_> = trace
        .sockets
        .iter()
        .filter(|socket| !known.contains(&socket.as_str()))
        .collect();
    assert_eq!(unknown, Vec::<&String>::new());
    let listening: Vec<_> = trace
        .bound
        .iter()
        .map(|bound| bound.port())
        .filter(|port| ![0, place.dns().port(), place.api().port()].contains(port))
        .collect();
    assert_eq!(listening, Vec::<u16>::new(), "{trace:#?}");
    // A look-up would have reached the only resolver there is.
    for query in place.upstream().queries() {
        let asked = query.name.as_str();
        assert!(
            asked.is_empty() || asked == "." || asked.ends_with("good.test"),
            "{query:?}"
        );
    }
    for line in daemon.log() {
        let event = line["opensandbox.event"].as_str().unwrap_or_default();
        let text = line.to_string().to_lowercase();
        let about_export = ["otel", "otlp", "opentelemetry", "export", "host_ip", "4318"]
            .iter()
            .any(|word| text.contains(word));
        assert!(!event.is_empty() || !about_export, "{line}");
    }
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn nothing_set_opens_no_socket_looks_nothing_up_and_says_nothing() {
    if !can_trace() {
        return;
    }
    let (place, trace, daemon) = observe(&[]);
    assert_silent(&place, &trace, &daemon);
}

#[test]
fn the_address_of_the_node_alone_changes_nothing() {
    if !can_trace() {
        return;
    }
    let node = COLLECTOR.ip().to_string();
    let (place, trace, daemon) = observe(&[("HOST_IP", &node)]);
    assert_silent(&place, &trace, &daemon);
}

/// The counterpart: with the switch on, the same address is where metrics go, and the trace shows.
#[test]
fn the_address_of_the_node_is_used_when_that_is_asked_for() {
    if !can_trace() {
        return;
    }
    let place = Place::new();
    let receiver = place.enter(|| Receiver::start_at(COLLECTOR, None));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("trace");
    let mut daemon = traced(&place, &file)
        .env("HOST_IP", COLLECTOR.ip())
        .env("OPENSANDBOX_OTLP_NODE_FALLBACK", "true")
        .spawn();
    assert_eq!(daemon.stop().code(), Some(0));
    let trace = Trace::read(&file, daemon.pid());
    assert!(trace.connected.contains(&COLLECTOR), "{trace:#?}");
    receiver.assert_clean();
    assert!(!receiver.metrics().is_empty());
    assert!(receiver.logs().is_empty());
}
