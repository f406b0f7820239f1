//! Load for the filter, and what it is compared with: a responder that answers everything, and the
//! least a UDP relay has to do.
//!
//! Load, responder and whoever is measured share the machine. So that they do not take turns on
//! one core, the thread that is measured has the first core and everything else the rest.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use opensandbox::egress::dns::mmsg::{BATCH, Inbox, Outbox};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use support::bench::{Pace, Process, Samples};

/// Names that are asked for.
const NAMES: usize = 5000;
/// Queries outstanding at full load.
pub const WINDOW: usize = 128;
/// Queries a second when delays are measured.
pub const RATE: u32 = 10_000;
/// Largest message here.
const ROOM: usize = 512;
/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// The two sides of the machine.
#[derive(Clone, Copy)]
pub struct Sides {
    cores: usize,
}

impl Sides {
    /// Of the cores this process may use. Puts this thread, and those it starts from now on, on
    /// the side of the others.
    pub fn split() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let sides = Self { cores };
        sides.pin(None, false);
        sides
    }

    /// Puts `thread`, or this one, on a side.
    pub fn pin(self, thread: Option<u32>, measured: bool) {
        if self.cores < 2 {
            return;
        }
        let mut set = CpuSet::new();
        if measured {
            set.set(0);
        } else {
            (1..self.cores).for_each(|core| set.set(core));
        }
        let thread = thread.and_then(|thread| Pid::from_raw(thread as i32));
        sched_setaffinity(thread, &set).expect("a processor");
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let raw = socket2::SockRef::from(&socket);
    raw.set_recv_buffer_size(1 << 20).expect("a buffer");
    socket
}

/// Waits until one of the sockets has something; whether it does.
fn wait(sockets: &[&UdpSocket], limit: Option<Duration>) -> bool {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|socket| PollFd::new(*socket, PollFlags::IN))
        .collect();
    let limit = limit.map(|limit| Timespec::try_from(limit).expect("a short time"));
    poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Answers every query with one address.
pub fn responder() -> SocketAddr {
    let socket = socket();
    let address = socket.local_addr().expect("an address");
    spawn("responder", move || {
        let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
        loop {
            wait(&[&socket], None);
            let Ok(count) = inbox.receive(socket.as_fd()) else {
                continue;
            };
            for query in inbox.datagrams(count) {
                outbox.push(query.sender, 0, |out| {
                    let start = out.len();
                    out.extend_from_slice(query.bytes);
                    out[start + 2..start + 4].copy_from_slice(&[0x81, 0x80]);
                    out[start + 7] = 1;
                    out.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
                    out.extend_from_slice(&[192, 0, 2, 1]);
                });
            }
            outbox.flush(socket.as_fd(), |_, error| panic!("{error}"));
        }
    });
    address
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .expect("a thread");
}

/// What queries are sent to.
#[derive(Clone, Copy)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Who answers there.
    pub process: Process,
    /// The thread that answers.
    pub thread: &'static str,
    /// Whether the others count too.
    pub whole: bool,
}

/// The least a relay has to do: batches, another id, back to whoever asked.
pub fn relay(upstream: SocketAddr, sides: Sides) -> Target {
    const NAME: &str = "relay";
    let (front, back) = (socket(), socket());
    back.connect(upstream).expect("a route");
    let address = front.local_addr().expect("an address");
    spawn(NAME, move || {
        sides.pin(None, true);
        let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
        let mut clients: Vec<Option<(SocketAddr, [u8; 2])>> = vec![None; 1 << 16];
        let mut next = 0_u16;
        loop {
            wait(&[&front, &back], None);
            if let Ok(count) = inbox.receive(front.as_fd()) {
                for query in inbox.datagrams(count) {
                    let id = [query.bytes[0], query.bytes[1]];
                    next = next.wrapping_add(1);
                    clients[usize::from(next)] = query.sender.map(|sender| (sender, id));
                    query.bytes[..2].copy_from_slice(&next.to_be_bytes());
                    outbox.push(None, 0, |out| out.extend_from_slice(query.bytes));
                }
                outbox.flush(back.as_fd(), |_, error| panic!("{error}"));
            }
            if let Ok(count) = inbox.receive(back.as_fd()) {
                for answer in inbox.datagrams(count) {
                    let place = u16::from_be_bytes([answer.bytes[0], answer.bytes[1]]);
                    if let Some((client, id)) = clients[usize::from(place)].take() {
                        answer.bytes[..2].copy_from_slice(&id);
                        outbox.push(Some(client), 0, |out| out.extend_from_slice(answer.bytes));
                    }
                }
                outbox.flush(front.as_fd(), |_, error| panic!("{error}"));
            }
        }
    });
    Target {
        address,
        process: Process(std::process::id()),
        thread: NAME,
        whole: false,
    }
}

/// A query for one of the names.
fn query(number: usize, out: &mut Vec<u8>) {
    let id = (number % (1 << 16)) as u16;
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09");
    out.extend_from_slice(format!("host-{:04}", number % NAMES).as_bytes());
    out.extend_from_slice(b"\x05bench\x04test\x00\x00\x01\x00\x01");
}

/// Asks one query of `address`, again and again until it is answered.
pub fn first_answer(address: SocketAddr) {
    let socket = socket();
    socket.connect(address).expect("a route");
    let mut message = Vec::new();
    query(0, &mut message);
    let mut buffer = [0; ROOM];
    loop {
        // While nobody listens, this or the next call meets the refusal.
        let _ = socket.send(&message);
        if wait(&[&socket], Some(PATIENCE)) && socket.recv(&mut buffer).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A round at full load.
#[derive(Clone, Copy)]
pub struct Throughput {
    /// Answers a second.
    pub rate: f64,
    /// Processor time of an answer, in microseconds.
    pub cost: f64,
    /// The part of it in the thread that answers.
    pub front: f64,
}

/// Asks as many queries of `target` as it answers, for as long as `round`.
pub fn throughput(target: Target, round: Duration) -> Throughput {
    let socket = socket();
    let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
    let (mut sent, mut answered) = (0_usize, 0_usize);
    let mut room = WINDOW;
    let used = |whole: bool| {
        let only = (!whole).then_some(target.thread);
        target.process.processor_time(only).as_secs_f64()
    };
    let before = [used(target.whole), used(false)];
    let start = Instant::now();
    while start.elapsed() < round {
        for _ in 0..room {
            outbox.push(Some(target.address), 0, |out| query(sent, out));
            sent += 1;
        }
        outbox.flush(socket.as_fd(), |_, error| panic!("{error}"));
        if !wait(&[&socket], Some(PATIENCE)) {
            // Everything outstanding is lost.
            room = WINDOW;
            continue;
        }
        room = inbox.receive(socket.as_fd()).unwrap_or(0).min(BATCH);
        answered += room;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let each = |seconds: f64| seconds * 1e6 / answered as f64;
    Throughput {
        rate: answered as f64 / elapsed,
        cost: each(used(target.whole) - before[0]),
        front: each(used(false) - before[1]),
    }
}

/// A round at a fixed rate.
#[derive(Clone)]
pub struct Delay {
    /// How long each answer took, in microseconds.
    pub delays: Samples,
    /// Processor time of the threads of `target` that do not answer, in milliseconds a second.
    pub beside: f64,
}

/// Asks [`RATE`] queries a second of `address`, as many as are due in `round`, and does not wait for
/// answers. `target` is who answers there, if it is a process of its own.
///
/// An answer has come when the kernel has it, not when this thread gets to read it: what this side
/// of the machine is busy with is nobody's delay.
pub fn delay(address: SocketAddr, target: Option<Target>, round: Duration) -> Delay {
    let beside = || {
        target.map_or(0.0, |target| {
            let all = target.process.processor_time(None);
            let answering = target.process.processor_time(Some(target.thread));
            all.saturating_sub(answering).as_secs_f64() * 1e3
        })
    };
    let before = beside();
    let count = (round.as_secs_f64() * f64::from(RATE)) as usize;
    let socket = socket();
    socket.connect(address).expect("a route");
    socket.set_nonblocking(true).expect("a socket");
    // From the first call on, the kernel takes the time of every datagram.
    arrival(&socket);
    let mut sent = Vec::with_capacity(count);
    let mut delays = Samples::default();
    let mut buffer = [0; ROOM];
    let mut receive = |sent: &[f64]| {
        while socket.recv(&mut buffer).is_ok() {
            let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            delays.add(arrival(&socket) - sent[number]);
        }
        delays.count()
    };
    let mut message = Vec::new();
    let (epoch, mut pace) = (Instant::now(), Pace::new(RATE));
    for number in 0..count {
        pace.wait();
        message.clear();
        query(number, &mut message);
        sent.push(microseconds(clock_gettime(ClockId::Realtime)));
        socket.send(&message).expect("a query is sent");
        receive(&sent);
    }
    let elapsed = epoch.elapsed();
    let beside = (beside() - before) / elapsed.as_secs_f64();
    while receive(&sent) < count && wait(&[&socket], Some(PATIENCE)) {}
    Delay { delays, beside }
}

/// When the kernel got the datagram that was received last, in microseconds of the wall clock.
fn arrival(socket: &UdpSocket) -> f64 {
    let mut at = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: this request writes one timespec, and `at` is one.
    unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut at) };
    at.tv_sec as f64 * 1e6 + at.tv_nsec as f64 / 1e3
}

/// The time of the last datagram of a socket as a timespec (`linux/sockios.h`).
const SIOCGSTAMPNS: libc::Ioctl = 0x8907;

fn microseconds(time: Timespec) -> f64 {
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Asks `rate` queries a second of each of `targets`, in bursts of one batch, until `until`; how
/// many were answered.
pub fn sustain(targets: &[SocketAddr], rate: u32, until: Instant) -> u64 {
    let socket = socket();
    let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
    let start = Instant::now();
    let pause = Duration::from_secs(BATCH as u64) / rate;
    let mut answered = 0;
    for burst in 0_u32.. {
        let due = start + pause * burst;
        if due >= until {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for target in targets {
            for number in 0..BATCH {
                outbox.push(Some(*target), 0, |out| query(number, out));
            }
        }
        outbox.flush(socket.as_fd(), |_, error| panic!("{error}"));
        while let Ok(count) = inbox.receive(socket.as_fd()) {
            answered += count as u64;
        }
    }
    answered
}
