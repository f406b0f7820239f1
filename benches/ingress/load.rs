//! The clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use support::bench::{Pace, Samples};

use crate::backend::BODY;
use crate::contenders::Contender;

/// Connections of the paced load.
const PACED_CONNECTIONS: u32 = 64;

/// Descriptors for all the connections, which those who are started from here inherit. Returns how
/// many there may be.
pub fn raise_limits() -> usize {
    let limit = |most| Rlimit {
        current: most,
        maximum: most,
    };
    let most = getrlimit(Resource::Nofile).maximum;
    for wanted in [Some(100_000), most] {
        if setrlimit(Resource::Nofile, limit(wanted)).is_ok() {
            return wanted.map_or(usize::MAX, |most| most as usize);
        }
    }
    1024
}

/// The first core is for who is measured.
pub fn stay_off_the_first_core() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 {
        let mut rest = CpuSet::new();
        (1..cores).for_each(|core| rest.set(core));
        sched_setaffinity(None, &rest).expect("the other cores");
    }
}

pub fn wrk_is_there() -> bool {
    let wrk = Command::new("wrk")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    wrk.is_ok()
}

/// Requests answered at full load.
pub fn wrk(contender: &Contender, time: Duration) -> f64 {
    // wrk takes whole seconds.
    let seconds = time.as_secs().max(1);
    let output = Command::new("wrk")
        .args(["-t1", "-c32", &format!("-d{seconds}s")])
        .args(["-H", &format!("Host: {}", contender.host)])
        .arg(format!("http://{}/", contender.address))
        .output()
        .expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{text}"
    );
    let line = text.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    let count = count.unwrap_or_else(|| panic!("{text}"));
    count * time.as_secs_f64() / seconds as f64
}

fn connect(contender: &Contender) -> TcpStream {
    let socket = TcpStream::connect(contender.address).expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a socket");
    socket
}

/// Reads up to the end of a head; what is beyond it is returned.
fn read_head(socket: &mut TcpStream) -> (String, Vec<u8>) {
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = kept.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = kept.split_off(end + 4);
            return (String::from_utf8_lossy(&kept).into_owned(), rest);
        }
        let count = socket.read(&mut piece).expect("an answer");
        assert!(count > 0, "no answer: {}", String::from_utf8_lossy(&kept));
        kept.extend_from_slice(&piece[..count]);
    }
}

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\n\r\n").into_bytes()
}

/// One small request on a kept connection.
fn exchange(socket: &mut TcpStream, host: &str) {
    socket.write_all(&request(host)).expect("sent");
    let (head, rest) = read_head(socket);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = [0; BODY.len()];
    body[..rest.len()].copy_from_slice(&rest);
    socket
        .read_exact(&mut body[rest.len()..])
        .expect("the body");
}

pub fn warm_up(contender: &Contender) {
    let mut socket = connect(contender);
    for _ in 0..100 {
        exchange(&mut socket, &contender.host);
    }
}

/// Requests at a fixed rate, as many as are due in `time`; how long each took, in microseconds.
///
/// An answer has come when the kernel has it, not when this thread gets to read it, which it does
/// when it needs the connection again. Where that has to wait for an answer, what follows it is
/// late, and counts from when it was due.
pub fn paced(contender: &Contender, rate: u32, time: Duration) -> Samples {
    let mut clients: Vec<_> = (0..PACED_CONNECTIONS)
        .map(|_| Client::new(contender))
        .collect();
    let mut delays = Samples::default();
    let count = (time.as_secs_f64() * f64::from(rate)) as u32;
    let mut pace = Pace::new(rate);
    for number in 0..count {
        pace.wait();
        let due = wall_clock();
        let client = &mut clients[(number % PACED_CONNECTIONS) as usize];
        client.receive(&mut delays);
        client.since = Some(if client.is_behind { due } else { wall_clock() });
        client.socket.write_all(&client.request).expect("sent");
    }
    for client in &mut clients {
        client.receive(&mut delays);
    }
    delays
}

/// One connection of the paced load.
struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    /// When the request was sent that is not answered yet.
    since: Option<f64>,
    /// Whether an answer had to be waited for, so that what follows it is late.
    is_behind: bool,
}

impl Client {
    fn new(contender: &Contender) -> Self {
        let mut socket = connect(contender);
        exchange(&mut socket, &contender.host);
        let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
        // SAFETY: the option's value is an int, of which the true address and length are given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPING,
                (&raw const flags).cast(),
                size_of_val(&flags) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "the kernel takes the time of what comes");
        Self {
            socket,
            request: request(&contender.host),
            since: None,
            is_behind: false,
        }
    }

    /// Reads the answer, if there is to be one.
    fn receive(&mut self, delays: &mut Samples) {
        let Some(since) = self.since.take() else {
            return;
        };
        let (mut answer, mut length) = ([0; 4096], 0);
        self.is_behind = false;
        let arrived = loop {
            let (count, arrived) = match receive(&self.socket, &mut answer[length..], true) {
                Some(received) => received,
                None => {
                    self.is_behind = true;
                    receive(&self.socket, &mut answer[length..], false).expect("an answer")
                }
            };
            assert!(count > 0, "the connection was closed");
            length += count;
            if answer[..length].ends_with(BODY) {
                break arrived;
            }
        };
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        delays.add(arrived - since);
    }
}

/// Receives what is there: how much, and when the kernel got the last of it in microseconds of the
/// wall clock. `None` where there is nothing, if it need not be waited for.
fn receive(socket: &TcpStream, into: &mut [u8], at_once: bool) -> Option<(usize, f64)> {
    let mut vector = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = [0_u64; 32];
    // SAFETY: all-zero bytes are a valid value of this C structure (integers, null pointers).
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let flags = if at_once { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: the header points to one vector, which points to `into` with its true length, and to
    // `control` with its true length; all of them outlive the call.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let count = usize::try_from(count).ok()?;
    // SAFETY: the kernel has filled in the header, whose control messages are in `control`.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if first.is_null() {
        // The kernel takes a moment to begin with it.
        return Some((count, wall_clock()));
    }
    // SAFETY: not null, so it is a control message in `control`. Only the time of arrival was asked
    // for, and that begins with a timespec.
    let at: libc::timespec = unsafe {
        libc::CMSG_DATA(first)
            .cast::<libc::timespec>()
            .read_unaligned()
    };
    Some((count, at.tv_sec as f64 * 1e6 + at.tv_nsec as f64 / 1e3))
}

/// Microseconds of the wall clock.
fn wall_clock() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a time after 1970").as_secs_f64() * 1e6
}

/// Seconds for a body of this length.
pub fn download(contender: &Contender, length: u64) -> f64 {
    let mut socket = connect(contender);
    let start = Instant::now();
    let host = &contender.host;
    write!(
        socket,
        "GET /body/{length} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    )
    .expect("sent");
    let (head, rest) = read_head(&mut socket);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut left = length - rest.len() as u64;
    let mut piece = vec![0; 256 * 1024];
    while left > 0 {
        let count = socket.read(&mut piece).expect("the body");
        assert!(count > 0, "{left} bytes are missing");
        left -= count as u64;
    }
    start.elapsed().as_secs_f64()
}

fn websocket(contender: &Contender) -> TcpStream {
    let mut socket = connect(contender);
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        contender.host
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let (head, _) = read_head(&mut socket);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket
}

/// Messages sent back on `connections` at once.
pub fn echo(contender: &Contender, connections: usize, time: Duration) -> f64 {
    // A masked text frame.
    let mut message = [b'x'; 70];
    message[..6].copy_from_slice(&[0x81, 0x80 | 64, 1, 2, 3, 4]);
    let count: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(move || {
                    let mut socket = websocket(contender);
                    let mut answer = [0; 70];
                    let start = Instant::now();
                    let mut count = 0;
                    while start.elapsed() < time {
                        socket.write_all(&message).expect("sent");
                        socket.read_exact(&mut answer).expect("sent back");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    });
    count as f64
}

/// Events received on `streams` at once.
pub fn listen_to_events(contender: &Contender, streams: usize, time: Duration) -> f64 {
    let received: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..streams)
            .map(|_| {
                scope.spawn(move || {
                    let mut socket = connect(contender);
                    let host = &contender.host;
                    write!(socket, "GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
                    let (head, _) = read_head(&mut socket);
                    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                    let start = Instant::now();
                    let mut piece = [0; 4096];
                    let mut events = 0;
                    while start.elapsed() < time {
                        let count = socket.read(&mut piece).expect("events");
                        events += piece[..count].iter().filter(|byte| **byte == b':').count();
                    }
                    events
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    });
    received as f64
}

/// What idle connections did before.
#[derive(Clone, Copy)]
pub enum Idle {
    /// One request, one after the other.
    KeptAlive,
    /// As above, many at once.
    Used,
    /// An upgrade.
    WebSocket,
}

/// Opens connections that then do nothing.
pub fn idle(contender: &Contender, kind: Idle, count: usize) -> Vec<TcpStream> {
    let open = |number: usize| {
        if let Idle::WebSocket = kind {
            return websocket(contender);
        }
        if matches!(kind, Idle::Used) && number.is_multiple_of(1000) {
            let mut many: Vec<_> = (0..64).map(|_| connect(contender)).collect();
            many.iter_mut()
                .for_each(|socket| exchange(socket, &contender.host));
        }
        let mut socket = connect(contender);
        exchange(&mut socket, &contender.host);
        socket
    };
    (0..count).map(open).collect()
}
