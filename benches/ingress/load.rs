//! The clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use support::bench::quantile;

use crate::contenders::Contender;

/// Connections of the paced load.
const PACED_CONNECTIONS: u32 = 8;

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

/// One small request on a kept connection.
fn exchange(socket: &mut TcpStream, host: &str) {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let (head, rest) = read_head(socket);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = [0; 12];
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

/// Delays in microseconds.
pub struct Paced {
    pub median: f64,
    pub tail: f64,
}

/// Requests at a fixed rate, from the moment each was due. Whoever is too slow for the rate has
/// answered fewer of them when the time is over, each later than the one before.
pub fn paced(contender: &Contender, rate: u32, time: Duration) -> Paced {
    let gap = Duration::from_secs(1) * PACED_CONNECTIONS / rate;
    let mut delays: Vec<f64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..PACED_CONNECTIONS)
            .map(|number| {
                scope.spawn(move || {
                    let mut socket = connect(contender);
                    exchange(&mut socket, &contender.host);
                    let start = Instant::now() + gap * number / PACED_CONNECTIONS;
                    let end = start + time;
                    let mut due = start;
                    let mut delays = Vec::new();
                    while due < end && Instant::now() < end {
                        if let Some(early) = due.checked_duration_since(Instant::now()) {
                            std::thread::sleep(early);
                        }
                        let sent = Instant::now();
                        exchange(&mut socket, &contender.host);
                        // Sleeping too long is the client's fault, being behind is not.
                        let late = sent.saturating_duration_since(due + gap);
                        delays.push((sent.elapsed() + late).as_secs_f64() * 1e6);
                        due += gap;
                    }
                    delays
                })
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    });
    delays.sort_by(f64::total_cmp);
    Paced {
        median: quantile(&delays, 0.5),
        tail: quantile(&delays, 0.99),
    }
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
