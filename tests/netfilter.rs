//! The kernel redirect, judged by traffic: in namespaces of its own, against two resolvers that
//! answer differently, so that every answer tells which way the query went.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opensandbox::egress::netfilter::{Error, Mark, Redirect, Settings};
use support::dns::{Reply, Upstream, ask, ask_from, ask_tcp, response_code, rtype};
use support::netns::Namespace;
use support::require_root;

const PORT: u16 = 15353;
const WHY: &str = "nf_tables in a network namespace";
const NAME: &str = "a.test";
/// Enough for an answer that must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long silence must last to count as silence.
const SILENCE: Duration = Duration::from_millis(300);

/// Whoever that is, it is not us.
const FOREIGN_USER: u32 = 1000;

/// What the filter answers, and what the resolver beyond does.
const FILTERED: Option<u8> = Some(5);
const BEYOND: Option<u8> = Some(2);

/// A sandbox with its filter, and a resolver on the other end of its cable.
struct Scene {
    sandbox: Namespace,
    outside: Namespace,
    filters: Vec<Upstream>,
    resolvers: Vec<Upstream>,
}

impl Scene {
    fn new() -> Self {
        let (sandbox, outside) = Namespace::pair();
        let resolvers = vec![
            outside.enter(|| Upstream::start_at(resolver_v4())),
            outside.enter(|| Upstream::start_at(resolver_v6())),
        ];
        for resolver in &resolvers {
            resolver.otherwise(Reply::rcode(2));
        }
        let mut scene = Self {
            sandbox,
            outside,
            filters: Vec::new(),
            resolvers,
        };
        scene.start_filter();
        scene
    }

    fn start_filter(&mut self) {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for address in loopback {
            let address = SocketAddr::new(address, PORT);
            let filter = self.sandbox.enter(|| Upstream::start_at(address));
            filter.otherwise(Reply::rcode(5));
            self.filters.push(filter);
        }
    }

    fn install(&self, settings: &Settings) -> Redirect {
        let installed = self.sandbox.enter(|| Redirect::install(settings));
        installed.expect("the redirect")
    }

    /// The response code an unprivileged look at the network gets.
    fn udp(&self, server: SocketAddr) -> Option<u8> {
        let answer = self.sandbox.enter(|| ask(server, NAME, rtype::A, PATIENCE));
        answer.as_deref().map(response_code)
    }

    fn tcp(&self, server: SocketAddr) -> Option<u8> {
        let answer = self
            .sandbox
            .enter(|| ask_tcp(server, NAME, rtype::A, PATIENCE));
        answer.as_deref().map(response_code)
    }

    /// Whether nothing answers over either transport.
    fn is_closed(&self, server: SocketAddr) -> bool {
        self.sandbox.enter(|| {
            ask(server, NAME, rtype::A, SILENCE).is_none()
                && ask_tcp(server, NAME, rtype::A, SILENCE).is_none()
        })
    }

    /// The response code a socket marked with `mark` gets.
    fn marked(&self, mark: Mark, server: SocketAddr) -> Option<u8> {
        let answer = self.sandbox.enter(|| {
            let socket = unconnected(server);
            mark.apply(&socket).expect("mark the socket");
            ask_from(&socket, server, NAME, rtype::A, PATIENCE)
        });
        answer.as_deref().map(response_code)
    }

    fn nft(&self, arguments: &str) -> String {
        let words: Vec<_> = arguments.split(' ').collect();
        let output = self.sandbox.run("nft", &words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nft {arguments}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Whether `nft`, which tests use to look and to build foreign tables, is installed.
fn nft_is_installed() -> bool {
    let installed = std::process::Command::new("nft").arg("--version").output();
    if installed.is_err() {
        support::skipped("nft is not installed");
    }
    installed.is_ok()
}

fn resolver_v4() -> SocketAddr {
    SocketAddr::new(Namespace::cable_v4(2), 53)
}

fn resolver_v6() -> SocketAddr {
    SocketAddr::new(Namespace::cable_v6(2), 53)
}

fn unconnected(server: SocketAddr) -> UdpSocket {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).expect("a socket")
}

fn mark(value: u32) -> Mark {
    Mark::new(NonZeroU32::new(value).expect("not zero"))
}

fn settings(value: u32) -> Settings {
    Settings {
        port: PORT,
        mark: mark(value),
        user: 0,
        exempt: Vec::new(),
        upstreams: vec![resolver_v4(), resolver_v6()],
    }
}

#[test]
fn every_query_of_both_families_and_transports_goes_to_the_filter() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    assert_eq!(scene.udp(resolver_v4()), BEYOND, "before the redirect");
    let _redirect = scene.install(&settings(7));
    for server in [resolver_v4(), resolver_v6()] {
        assert_eq!(scene.udp(server), FILTERED, "{server} over UDP");
        assert_eq!(scene.tcp(server), FILTERED, "{server} over TCP");
    }
    let local = ["127.0.0.1:53", "127.0.0.11:53", "[::1]:53"];
    for server in local.map(|text| text.parse().expect("an address")) {
        assert_eq!(scene.udp(server), FILTERED, "{server} over UDP");
        assert_eq!(scene.tcp(server), FILTERED, "{server} over TCP");
    }
    let elsewhere = SocketAddr::new(Namespace::cable_v4(2), 54);
    let other = scene.outside.enter(|| Upstream::start_at(elsewhere));
    other.otherwise(Reply::rcode(2));
    assert_eq!(scene.udp(elsewhere), BEYOND, "other ports are left alone");
}

#[test]
fn dig_sees_the_filter() {
    if !require_root(WHY) {
        return;
    }
    if std::process::Command::new("dig")
        .arg("-v")
        .output()
        .is_err()
    {
        support::skipped("dig is not installed");
        return;
    }
    let scene = Scene::new();
    let _redirect = scene.install(&settings(7));
    for server in [
        "@192.0.2.2",
        "@2001:db8::2",
        "@8.8.8.8",
        "@2001:4860:4860::8888",
    ] {
        for transport in ["+notcp", "+tcp"] {
            let arguments = [server, NAME, transport, "+tries=1", "+time=2"];
            let output = scene.sandbox.run("dig", &arguments);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("status: REFUSED"), "{arguments:?}: {text}");
        }
    }
    assert_eq!(scene.resolvers[0].queries().len(), 0);
    assert_eq!(scene.resolvers[1].queries().len(), 0);
}

#[test]
fn our_own_queries_pass_only_with_mark_user_and_destination() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let redirect = scene.install(&settings(7));
    for server in [resolver_v4(), resolver_v6()] {
        assert_eq!(scene.marked(mark(7), server), BEYOND, "{server}");
        assert_eq!(scene.marked(mark(8), server), FILTERED, "another mark");
        match scene
            .sandbox
            .enter(|| ask_as_user(FOREIGN_USER, mark(7), server))
        {
            Some(foreign) => assert_eq!(foreign, FILTERED, "another user with our mark"),
            None => support::skipped("there is only one user in this user namespace"),
        }
    }
    drop(redirect);

    let mut elsewhere = settings(7);
    elsewhere.upstreams = vec![resolver_v6()];
    let _redirect = scene.install(&elsewhere);
    assert_eq!(
        scene.marked(mark(7), resolver_v4()),
        FILTERED,
        "not an upstream"
    );
}

/// Asks from a socket that belongs to `user`, as a workload with `CAP_NET_RAW` could; `None` where
/// there is no such user.
fn ask_as_user(user: u32, mark: Mark, server: SocketAddr) -> Option<Option<u8>> {
    // SAFETY: the calls change and tell the file-system user of this thread alone, and the thread
    // ends with the test's closure.
    let now = unsafe {
        libc::setfsuid(user);
        libc::setfsuid(u32::MAX)
    };
    (now.cast_unsigned() == user).then_some(())?;
    let socket = unconnected(server);
    mark.apply(&socket).expect("mark the socket");
    let answer = ask_from(&socket, server, NAME, rtype::A, PATIENCE);
    Some(answer.as_deref().map(response_code))
}

/// A socket at `port`, which another one has just left. A process that some test starts at this
/// moment has a copy of that one until its program is loaded.
fn bind_again(port: u16) -> UdpSocket {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                assert!(Instant::now() < deadline, "port {port} stays taken");
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.expect("the same port"),
        }
    }
}

#[test]
fn a_port_the_workload_just_used_does_not_lead_our_query_astray() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let redirect = scene.install(&settings(7));
    assert!(redirect.has_zones(), "this kernel has zones");
    let (theirs, ours) = scene.sandbox.enter(|| {
        let server = resolver_v4();
        let theirs = unconnected(server);
        let port = theirs.local_addr().expect("an address").port();
        let first = ask_from(&theirs, server, NAME, rtype::A, PATIENCE);
        drop(theirs);
        let ours = bind_again(port);
        mark(7).apply(&ours).expect("mark the socket");
        (first, ask_from(&ours, server, NAME, rtype::A, PATIENCE))
    });
    assert_eq!(theirs.as_deref().map(response_code), FILTERED);
    assert_eq!(ours.as_deref().map(response_code), BEYOND);
    let back = scene.sandbox.enter(|| {
        let server = resolver_v4();
        let ours = unconnected(server);
        mark(7).apply(&ours).expect("mark the socket");
        let port = ours.local_addr().expect("an address").port();
        let _answer = ask_from(&ours, server, NAME, rtype::A, PATIENCE);
        drop(ours);
        let theirs = bind_again(port);
        ask_from(&theirs, server, NAME, rtype::A, PATIENCE)
    });
    assert_eq!(
        back.as_deref().map(response_code),
        FILTERED,
        "and the other way round"
    );
}

#[test]
fn a_marked_connection_bypasses_too() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let _redirect = scene.install(&settings(7));
    let connected = scene.sandbox.enter(|| -> io::Result<IpAddr> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        mark(7).apply(socket.as_fd())?;
        socket.connect(&resolver_v4().into())?;
        // A redirected connection would have come from nowhere the resolver knows.
        let peer = socket.peer_addr()?.as_socket().expect("an address");
        Ok(peer.ip())
    });
    assert_eq!(connected.expect("a connection"), Namespace::cable_v4(2));
    assert_eq!(scene.filters[0].queries().len(), 0);
}

#[test]
fn exempt_resolvers_are_open_to_everyone() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let mut exempt = settings(7);
    exempt.exempt = vec![Namespace::cable_v4(2)];
    let _redirect = scene.install(&exempt);
    assert_eq!(scene.udp(resolver_v4()), BEYOND);
    assert_eq!(scene.tcp(resolver_v4()), BEYOND);
    assert_eq!(scene.udp(resolver_v6()), FILTERED);
}

#[test]
fn without_the_filter_dns_is_closed() {
    if !require_root(WHY) {
        return;
    }
    let mut scene = Scene::new();
    let redirect = scene.install(&settings(7));
    scene.filters.clear();
    // The filter's threads notice their end within a moment.
    let deadline = Instant::now() + PATIENCE;
    while !scene.is_closed(resolver_v4()) {
        assert!(Instant::now() < deadline, "the filter ended");
    }
    assert!(scene.is_closed(resolver_v6()));
    drop(redirect);
    assert!(
        scene.is_closed(resolver_v4()),
        "the redirect outlives its owner"
    );
    assert_eq!(scene.resolvers[0].queries().len(), 0);
}

#[test]
fn a_successor_takes_over_without_a_gap() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    // Dropped without teardown: what a crash leaves.
    drop(scene.install(&settings(1)));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let asking = threads.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(scene.udp(resolver_v4()), FILTERED);
                asked += 1;
            }
            asked
        });
        for value in 2..=100 {
            drop(scene.install(&settings(value)));
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().expect("the asking thread") > 0);
    });
    assert_eq!(
        scene.resolvers[0].queries().len(),
        0,
        "nothing slipped through"
    );
    assert_eq!(
        scene.marked(mark(1), resolver_v4()),
        FILTERED,
        "the predecessor's mark"
    );
    assert_eq!(scene.marked(mark(100), resolver_v4()), BEYOND);
    if nft_is_installed() {
        let tables = scene.nft("list tables");
        assert_eq!(tables.trim(), "table inet opensandbox");
    }
}

#[test]
fn a_foreign_table_of_the_same_name_is_replaced() {
    if !require_root(WHY) || !nft_is_installed() {
        return;
    }
    let scene = Scene::new();
    scene.nft("add table inet opensandbox");
    scene.nft("add set inet opensandbox upstream_v4 { type ether_addr; flags interval; }");
    scene.nft(
        "add chain inet opensandbox egress { type filter hook output priority 0; policy drop; }",
    );
    assert!(scene.is_closed(resolver_v4()));
    let _redirect = scene.install(&settings(7));
    assert_eq!(scene.udp(resolver_v4()), FILTERED);
    assert_eq!(scene.marked(mark(7), resolver_v4()), BEYOND);
}

#[test]
fn upstreams_change_in_place_and_sealing_closes_our_own_way() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let mut none = settings(7);
    none.upstreams.clear();
    let mut redirect = scene.install(&none);
    assert_eq!(
        scene.marked(mark(7), resolver_v4()),
        FILTERED,
        "not known yet"
    );
    redirect.set_upstreams(&[resolver_v4()]).expect("upstreams");
    assert_eq!(scene.marked(mark(7), resolver_v4()), BEYOND);
    assert_eq!(scene.marked(mark(7), resolver_v6()), FILTERED);
    redirect.set_upstreams(&[resolver_v6()]).expect("upstreams");
    assert_eq!(scene.marked(mark(7), resolver_v4()), FILTERED);
    assert_eq!(scene.marked(mark(7), resolver_v6()), BEYOND);
    redirect.seal().expect("sealed");
    assert_eq!(scene.marked(mark(7), resolver_v6()), FILTERED);
}

#[test]
fn removing_opens_and_removing_nothing_is_fine() {
    if !require_root(WHY) {
        return;
    }
    let scene = Scene::new();
    let redirect = scene.install(&settings(7));
    let another = scene.install(&settings(8));
    redirect.remove().expect("removed");
    assert_eq!(scene.udp(resolver_v4()), BEYOND);
    another.remove().expect("nothing to remove");
}

#[test]
fn a_flow_older_than_the_redirect_is_refused() {
    if !require_root(WHY) || !nft_is_installed() {
        return;
    }
    let scene = Scene::new();
    // Something else in the namespace made the kernel track connections.
    scene.nft("add table ip other");
    scene.nft("add chain ip other output { type filter hook output priority 0; }");
    scene.nft("add rule ip other output ct state new accept");
    let socket = scene.sandbox.enter(|| unconnected(resolver_v4()));
    let again = |patience| ask_from(&socket, resolver_v4(), NAME, rtype::A, patience);
    let before = again(PATIENCE);
    assert_eq!(before.as_deref().map(response_code), BEYOND);
    let _redirect = scene.install(&settings(7));
    assert_eq!(again(SILENCE), None);
    assert_eq!(
        scene.resolvers[0].queries().len(),
        1,
        "refused before it left"
    );
}

#[test]
fn the_hidden_port_of_a_loopback_resolver_is_closed_to_the_workload() {
    if !require_root(WHY) || !nft_is_installed() {
        return;
    }
    let scene = Scene::new();
    // As Docker does for the resolver of its own networks.
    let (docker, hidden) = ("127.0.0.11:53", "127.0.0.11:4053");
    let [docker, hidden] = [docker, hidden].map(|text| text.parse().expect("an address"));
    let resolver = scene.sandbox.enter(|| Upstream::start_at(hidden));
    resolver.otherwise(Reply::rcode(2));
    scene.nft("add table ip docker");
    scene.nft("add chain ip docker output { type nat hook output priority -100; }");
    scene.nft("add rule ip docker output ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:4053");
    assert_eq!(scene.udp(docker), BEYOND, "before the redirect");
    let mut ours = settings(7);
    ours.upstreams = vec![docker];
    let _redirect = scene.install(&ours);
    assert_eq!(scene.marked(mark(7), docker), BEYOND, "our own queries");
    assert_eq!(scene.udp(docker), FILTERED, "the workload's queries");
    let direct = scene.sandbox.enter(|| ask(hidden, NAME, rtype::A, SILENCE));
    assert_eq!(direct, None, "the hidden port");
}

#[test]
fn the_table_reads_as_intended() {
    if !require_root(WHY) || !nft_is_installed() {
        return;
    }
    let scene = Scene::new();
    let mut all = settings(0x1234_5678);
    all.exempt = vec!["198.51.100.1".parse().expect("an address")];
    all.upstreams
        .push("[::ffff:203.0.113.9]:53".parse().expect("an address"));
    all.upstreams
        .push("203.0.113.10:5353".parse().expect("an address"));
    let _redirect = scene.install(&all);
    let listing = scene.nft("-n list table inet opensandbox");
    for wanted in [
        "type nat hook output priority -199; policy accept;",
        "type filter hook output priority 0; policy accept;",
        "elements = { 198.51.100.1 }",
        "elements = { 192.0.2.2, 203.0.113.9 }",
        "elements = { 2001:db8::2 }",
        "ct original ip daddr @exempt_v4 accept",
        "ct original ip6 daddr @exempt_v6 accept",
        "type filter hook output priority -300; policy accept;",
        "meta mark 0x12345678 meta skuid 0 udp dport 53 ct original zone set 53",
        "meta mark 0x12345678 meta skuid 0 tcp dport 53 ct original zone set 53",
        "meta mark 0x12345678 meta skuid 0 ct original ip daddr @upstream_v4 accept",
        "meta mark 0x12345678 meta skuid 0 ct original ip6 daddr @upstream_v6 accept",
        "udp dport 53 jump bypass",
        "udp dport 53 redirect to :15353",
        "tcp dport 53 jump bypass",
        "tcp dport 53 redirect to :15353",
        "counter packets 0 bytes 0 reject",
    ] {
        assert!(listing.contains(wanted), "{wanted:?} is not in\n{listing}");
    }
}

#[test]
fn without_the_capability_the_message_says_what_to_do() {
    if !require_root(WHY) {
        return;
    }
    let sandbox = Namespace::new();
    let refused = sandbox.enter(|| {
        let mut sets = rustix::thread::capabilities(None).expect("capabilities");
        sets.effective
            .remove(rustix::thread::CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).expect("drop CAP_NET_ADMIN");
        Redirect::install(&settings(7)).map(drop)
    });
    let error = refused.expect_err("not permitted");
    assert!(matches!(error, Error::NotPermitted), "{error:?}");
    assert!(error.is_unavailable());
    let text = error.to_string();
    assert!(
        text.contains("give the container that capability"),
        "{text}"
    );
}
