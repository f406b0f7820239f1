//! A scripted DNS upstream, UDP and TCP on one port, with a codec of its own.
//!
//! It answers what the test says, including what no decent server would: the wrong id, the wrong
//! question, nothing at all.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::watch::Watch;

/// Attempts to find a port that is free for UDP and TCP alike.
const BIND_ATTEMPTS: usize = 100;
/// How long a blocking read waits before it looks whether the upstream was stopped.
const POLL: Duration = Duration::from_millis(50);
/// How long a reply waits for a gate that is never opened.
const GATE_PATIENCE: Duration = Duration::from_secs(60);
/// The bit of the flags that says "truncated".
const TRUNCATED: u16 = 0x0200;

/// Record types by number (RFC 1035 section 3.2.2, RFC 3596).
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
}

/// One record of an answer section.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Owner; empty: the name that was asked for.
    pub owner: String,
    /// Type by number.
    pub rtype: u16,
    /// Seconds.
    pub ttl: u32,
    /// The data, encoded.
    pub data: Vec<u8>,
}

impl Answer {
    /// An A or AAAA record of the name that was asked for.
    #[must_use]
    pub fn address(address: IpAddr, ttl: u32) -> Self {
        let (rtype, data) = match address {
            IpAddr::V4(address) => (rtype::A, address.octets().to_vec()),
            IpAddr::V6(address) => (rtype::AAAA, address.octets().to_vec()),
        };
        Self {
            owner: String::new(),
            rtype,
            ttl,
            data,
        }
    }

    /// A CNAME record of the name that was asked for.
    #[must_use]
    pub fn alias(target: &str, ttl: u32) -> Self {
        Self {
            owner: String::new(),
            rtype: rtype::CNAME,
            ttl,
            data: encode_name(target),
        }
    }

    /// A TXT record of the name that was asked for.
    #[must_use]
    pub fn text(text: &[u8], ttl: u32) -> Self {
        let strings = text.chunks(255);
        Self {
            owner: String::new(),
            rtype: rtype::TXT,
            ttl,
            data: strings
                .flat_map(|part| {
                    let length = u8::try_from(part.len()).expect("at most 255");
                    std::iter::once(length).chain(part.iter().copied())
                })
                .collect(),
        }
    }

    /// The same record with another owner.
    #[must_use]
    pub fn owned_by(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.owner);
        self
    }
}

/// Holds replies back until it is opened; clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<Watch<bool>>);

impl Gate {
    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.0.update(|open| *open = true);
    }

    fn wait(&self) {
        // One that is never opened must not hold a thread for ever.
        let _opened = self.0.wait(GATE_PATIENCE, |open| open.then_some(()));
    }
}

/// When a reply is sent.
#[derive(Clone, Default)]
enum When {
    #[default]
    AtOnce,
    After(Duration),
    Opened(Gate),
}

impl When {
    fn wait(&self) {
        match self {
            Self::AtOnce => {}
            Self::After(delay) => std::thread::sleep(*delay),
            Self::Opened(gate) => gate.wait(),
        }
    }
}

/// What one query meets.
#[derive(Clone, Default)]
pub struct Reply {
    rcode: u16,
    answers: Vec<Answer>,
    when: When,
    dropped: bool,
    wrong_id: bool,
    wrong_question: Option<String>,
    truncated: bool,
    raw: Option<Vec<u8>>,
    preceded_by: Option<Box<Reply>>,
}

impl Reply {
    /// `NOERROR` with these records; A records are left out of answers to AAAA queries and the
    /// other way round.
    #[must_use]
    pub fn records(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            answers: answers.into_iter().collect(),
            ..Self::default()
        }
    }

    /// `NOERROR` with these addresses.
    ///
    /// # Panics
    ///
    /// When one of them is no address.
    #[must_use]
    pub fn addresses(ttl: u32, addresses: &[&str]) -> Self {
        Self::records(addresses.iter().map(|address| {
            let address = address.parse().expect("an address");
            Answer::address(address, ttl)
        }))
    }

    /// This response code (RFC 6895 section 2.3) and no records.
    #[must_use]
    pub fn rcode(rcode: u16) -> Self {
        Self {
            rcode,
            ..Self::default()
        }
    }

    /// `SERVFAIL`.
    #[must_use]
    pub fn servfail() -> Self {
        Self::rcode(2)
    }

    /// `NXDOMAIN`.
    #[must_use]
    pub fn nxdomain() -> Self {
        Self::rcode(3)
    }

    /// `REFUSED`.
    #[must_use]
    pub fn refused() -> Self {
        Self::rcode(5)
    }

    /// No answer; a TCP connection stays open.
    #[must_use]
    pub fn dropped() -> Self {
        Self {
            dropped: true,
            ..Self::default()
        }
    }

    /// These bytes after the id of the query.
    #[must_use]
    pub fn raw(after_id: &[u8]) -> Self {
        Self {
            raw: Some(after_id.to_vec()),
            ..Self::default()
        }
    }

    /// About `size` bytes of TXT records.
    #[must_use]
    pub fn big(size: usize) -> Self {
        Self::records((0..size.div_ceil(212)).map(|_| Answer::text(&[b'x'; 200], 60)))
    }

    /// Sent after `delay`.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.when = When::After(delay);
        self
    }

    /// Sent once `gate` is open.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.when = When::Opened(gate.clone());
        self
    }

    /// With an id that is not the query's.
    #[must_use]
    pub fn with_wrong_id(mut self) -> Self {
        self.wrong_id = true;
        self
    }

    /// With this name in the question section.
    #[must_use]
    pub fn with_question(mut self, name: &str) -> Self {
        self.wrong_question = Some(name.to_owned());
        self
    }

    /// Over UDP: no records and the truncated flag. Over TCP in full.
    #[must_use]
    pub fn truncated_over_udp(mut self) -> Self {
        self.truncated = true;
        self
    }

    /// Sent right after `first`, to the same query.
    #[must_use]
    pub fn preceded_by(mut self, first: Reply) -> Self {
        self.preceded_by = Some(Box::new(first));
        self
    }
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A length-prefixed message on a connection.
    Tcp,
}

/// One query that was received.
#[derive(Clone, Debug)]
pub struct Query {
    /// The name, lower case, no trailing dot.
    pub name: String,
    /// The name as spelled on the wire.
    pub spelled: String,
    /// The type by number.
    pub qtype: u16,
    /// How it came.
    pub transport: Transport,
    /// The message id.
    pub id: u16,
    /// Where it came from.
    pub peer: SocketAddr,
    /// The whole message.
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    replies: BTreeMap<String, VecDeque<Reply>>,
    fallback: Option<Reply>,
    queries: Vec<Query>,
}

impl State {
    /// The scripted replies in order; the last one stays.
    fn reply(&mut self, name: &str) -> Reply {
        let scripted = self.replies.get_mut(name).and_then(|replies| {
            if replies.len() > 1 {
                replies.pop_front()
            } else {
                replies.front().cloned()
            }
        });
        scripted
            .or_else(|| self.fallback.clone())
            .unwrap_or_else(Reply::nxdomain)
    }
}

/// A running upstream; stops when dropped.
pub struct Upstream {
    state: Arc<Watch<State>>,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Upstream {
    /// Listens on a port of 127.0.0.1. Names that have no script are `NXDOMAIN`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Listens at `address`, whose port may be 0.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    #[must_use]
    pub fn start_at(address: SocketAddr) -> Self {
        let (udp, tcp) = bind_both(address).expect("bind the DNS upstream");
        let address = udp.local_addr().expect("the upstream's address");
        let upstream = Self {
            state: Arc::default(),
            address,
            stopped: Arc::default(),
        };
        let (state, stopped) = (upstream.state.clone(), upstream.stopped.clone());
        spawn(move || serve_udp(&udp, &state, &stopped));
        let (state, stopped) = (upstream.state.clone(), upstream.stopped.clone());
        spawn(move || serve_tcp(&tcp, &state, &stopped));
        upstream
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queries for `name` (lower case, no trailing dot) meet `reply`.
    pub fn answer(&self, name: &str, reply: Reply) {
        self.script(name, [reply]);
    }

    /// Queries for `name` meet these replies in order; the last one stays.
    pub fn script(&self, name: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.state
            .update(|state| state.replies.insert(name.to_owned(), replies));
    }

    /// Queries for names without a script meet `reply`.
    pub fn otherwise(&self, reply: Reply) {
        self.state.update(|state| state.fallback = Some(reply));
    }

    /// Every query so far, in order of arrival.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        self.state.lock().queries.clone()
    }

    /// The queries for `name` so far.
    #[must_use]
    pub fn queries_for(&self, name: &str) -> Vec<Query> {
        let mut queries = self.queries();
        queries.retain(|query| query.name == name);
        queries
    }

    /// Waits until at least `count` queries for `name` came; whether they did.
    #[must_use]
    pub fn wait_for(&self, name: &str, count: usize, timeout: Duration) -> bool {
        let enough = |state: &mut State| {
            let seen = state.queries.iter().filter(|query| query.name == name);
            (seen.count() >= count).then_some(())
        };
        self.state.wait(timeout, enough).is_some()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name("dns-upstream".to_owned())
        .spawn(work)
        .expect("start an upstream thread");
}

fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..BIND_ATTEMPTS {
        let udp = UdpSocket::bind(address)?;
        result = TcpListener::bind(udp.local_addr()?).map(|tcp| (udp, tcp));
        if result.is_ok() || address.port() != 0 {
            break;
        }
    }
    result
}

fn serve_udp(socket: &UdpSocket, state: &Arc<Watch<State>>, stopped: &AtomicBool) {
    socket.set_read_timeout(Some(POLL)).expect("a read timeout");
    let mut buffer = [0; 65_535];
    while !stopped.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some(query) = parse(&buffer[..length], Transport::Udp, peer) else {
            continue;
        };
        let messages = react(state, &query);
        let late = |(when, _): &(When, _)| !matches!(when, When::AtOnce);
        let delayed = messages.iter().any(late);
        let socket = socket.try_clone().expect("another handle");
        let send = move || {
            for (when, message) in messages {
                when.wait();
                // The client may be gone; that is its business.
                let _sent = socket.send_to(&message, peer);
            }
        };
        if delayed { spawn(send) } else { send() }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Arc<Watch<State>>, stopped: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("non-blocking accept");
    while !stopped.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else {
            // Short, so that a test does not wait for its upstream.
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let (state, stopped) = (state.clone(), stopped.clone());
        spawn(move || {
            // An error here is the client's end of the connection.
            let _ended = serve_stream(&stream, peer, &state, &stopped);
            let _closed = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve_stream(
    mut stream: &TcpStream,
    peer: SocketAddr,
    state: &Watch<State>,
    stopped: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(POLL))?;
    loop {
        let mut length = [0; 2];
        read_exact(stream, &mut length, stopped)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        read_exact(stream, &mut message, stopped)?;
        let Some(query) = parse(&message, Transport::Tcp, peer) else {
            return Ok(());
        };
        for (when, message) in react(state, &query) {
            when.wait();
            let length = u16::try_from(message.len()).expect("a DNS message");
            stream.write_all(&[&length.to_be_bytes()[..], &message].concat())?;
        }
    }
}

fn read_exact(mut stream: &TcpStream, buffer: &mut [u8], stopped: &AtomicBool) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        if stopped.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Records the query; the messages it is answered with, and when each is sent.
fn react(state: &Watch<State>, query: &Query) -> Vec<(When, Vec<u8>)> {
    let reply = state.update(|state| {
        state.queries.push(query.clone());
        state.reply(&query.name)
    });
    let mut replies = Vec::new();
    let mut next = Some(Box::new(reply));
    while let Some(mut reply) = next {
        next = reply.preceded_by.take();
        replies.push(reply);
    }
    let in_order = replies.into_iter().rev().filter(|reply| !reply.dropped);
    in_order
        .map(|reply| (reply.when.clone(), encode(&reply, query)))
        .collect()
}

/// The parts of a query the script needs; `None` for anything that is not a plain query.
fn parse(bytes: &[u8], transport: Transport, peer: SocketAddr) -> Option<Query> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (spelled, end) = read_name(bytes, 12)?;
    (word(2)? & 0x8000 == 0 && word(4)? == 1).then_some(())?;
    Some(Query {
        name: spelled.to_ascii_lowercase(),
        spelled,
        qtype: word(end)?,
        transport,
        id: word(0)?,
        peer,
        bytes: bytes.to_vec(),
    })
}

fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        match length {
            0 => return Some((labels.join("."), at)),
            1..64 => labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned()),
            _ => return None,
        }
        at += length;
    }
}

/// A name in wire form without compression.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label of at most 63 bytes"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn encode(reply: &Reply, query: &Query) -> Vec<u8> {
    let id = if reply.wrong_id { !query.id } else { query.id };
    let mut message = id.to_be_bytes().to_vec();
    if let Some(raw) = &reply.raw {
        message.extend_from_slice(raw);
        return message;
    }
    let truncated = reply.truncated && query.transport == Transport::Udp;
    let fitting = |answer: &&Answer| {
        let address = [rtype::A, rtype::AAAA];
        !address.contains(&answer.rtype) || answer.rtype == query.qtype
    };
    let answers: Vec<_> = reply
        .answers
        .iter()
        .filter(fitting)
        .filter(|_| !truncated)
        .collect();
    // QR, RD copied, RA.
    let requested = u16::from_be_bytes([query.bytes[2], query.bytes[3]]);
    let flags = 0x8080 | requested & 0x0100 | reply.rcode | if truncated { TRUNCATED } else { 0 };
    let count = u16::try_from(answers.len()).expect("at most 65,535 records");
    for word in [flags, 1, count, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    let name = reply.wrong_question.as_ref().unwrap_or(&query.spelled);
    message.extend_from_slice(&encode_name(name));
    for word in [query.qtype, 1] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for answer in answers {
        if answer.owner.is_empty() {
            // A pointer to the question.
            message.extend_from_slice(&[0xc0, 12]);
        } else {
            message.extend_from_slice(&encode_name(&answer.owner));
        }
        message.extend_from_slice(&answer.rtype.to_be_bytes());
        message.extend_from_slice(&1u16.to_be_bytes());
        message.extend_from_slice(&answer.ttl.to_be_bytes());
        let length = u16::try_from(answer.data.len()).expect("record data");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&answer.data);
    }
    message
}

/// Asks `server` over UDP for one address record; `None` when nothing answers in `timeout`.
///
/// # Panics
///
/// When no socket can be had.
#[must_use]
pub fn ask(server: SocketAddr, name: &str, qtype: u16, timeout: Duration) -> Option<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    ask_from(&socket, server, name, qtype, timeout)
}

/// [`ask`] from a socket the caller prepared.
///
/// # Panics
///
/// When the socket cannot be given a timeout.
#[must_use]
pub fn ask_from(
    socket: &UdpSocket,
    server: SocketAddr,
    name: &str,
    qtype: u16,
    timeout: Duration,
) -> Option<Vec<u8>> {
    let message = query(0x1234, name, qtype);
    let deadline = Instant::now() + timeout;
    socket.send_to(&message, server).ok()?;
    let mut buffer = [0; 65_535];
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        let left = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).expect("a read timeout");
        let length = socket.recv(&mut buffer).ok()?;
        if buffer[..length].starts_with(&message[..2]) {
            return Some(buffer[..length].to_vec());
        }
    }
}

/// [`ask`] over TCP.
#[must_use]
pub fn ask_tcp(server: SocketAddr, name: &str, qtype: u16, timeout: Duration) -> Option<Vec<u8>> {
    let message = query(0x1234, name, qtype);
    let mut stream = TcpStream::connect_timeout(&server, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    let length = u16::try_from(message.len()).ok()?;
    stream
        .write_all(&[&length.to_be_bytes()[..], &message].concat())
        .ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

/// A plain recursive query in wire form.
#[must_use]
pub fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(&encode_name(name));
    for word in [qtype, 1] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message
}

/// The response code of a message.
///
/// # Panics
///
/// When it is shorter than a header.
#[must_use]
pub fn response_code(message: &[u8]) -> u8 {
    message[3] & 15
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn scripted_replies_come_in_order_over_both_transports() {
        let upstream = Upstream::start();
        upstream.script(
            "a.test",
            [
                Reply::servfail(),
                Reply::addresses(60, &["192.0.2.7", "::1"]),
            ],
        );
        let first = ask(upstream.address(), "A.test", rtype::A, PATIENCE).expect("an answer");
        assert_eq!(response_code(&first), 2);
        let second = ask_tcp(upstream.address(), "a.test", rtype::A, PATIENCE).expect("an answer");
        assert_eq!(response_code(&second), 0);
        assert!(second.ends_with(&[192, 0, 2, 7]));
        let other = ask(upstream.address(), "b.test", rtype::A, PATIENCE).expect("an answer");
        assert_eq!(response_code(&other), 3);
        assert_eq!(upstream.queries_for("a.test").len(), 2);
        assert_eq!(upstream.queries()[0].spelled, "A.test");
    }

    #[test]
    fn truncation_is_for_udp_only() {
        let upstream = Upstream::start();
        upstream.answer("big.test", Reply::big(5000).truncated_over_udp());
        let udp = ask(upstream.address(), "big.test", rtype::TXT, PATIENCE).expect("an answer");
        assert_eq!(udp[2] & 2, 2);
        let tcp = ask_tcp(upstream.address(), "big.test", rtype::TXT, PATIENCE).expect("an answer");
        assert!(tcp.len() > 5000);
    }

    #[test]
    fn a_wrong_id_comes_before_the_right_one() {
        let upstream = Upstream::start();
        let forged = Reply::addresses(60, &["192.0.2.66"]).with_wrong_id();
        let reply = Reply::addresses(60, &["192.0.2.7"]).preceded_by(forged);
        upstream.answer("a.test", reply);
        let answer = ask(upstream.address(), "a.test", rtype::A, PATIENCE).expect("an answer");
        assert!(answer.ends_with(&[192, 0, 2, 7]));
    }
}
