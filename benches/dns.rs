//! The DNS filter against a bare UDP relay of the same shape, in one process and one run.
//!
//! `cargo bench --bench dns --profile quick`. The promises (SPECIFICATION.md): with metrics and a
//! log file on, at least 0.6 of the relay's queries a second; at 10,000 queries a second, at most
//! 60 us (median) and 300 us (99th percentile) above a direct query.
//!
//! Load, responder and whoever is measured share the machine. So that they do not take turns on
//! one core, the measured thread has the first core and the others the rest; the cost of a query
//! is also given as processor time of the measured thread, which does not depend on them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opensandbox::egress::dns::mmsg::{BATCH, Inbox, Outbox};
use opensandbox::egress::dns::upstream::Source;
use opensandbox::egress::dns::{self, Config, Hooks, MAX_IN_FLIGHT, Running};
use opensandbox::egress::events::Observer;
use opensandbox::egress::metrics::Metrics;
use opensandbox::egress::policy::{AlwaysRules, Effective, Live, Policy};
use opensandbox::runtime::Runtime;
use opensandbox::telemetry::instrument::Meter;
use opensandbox::telemetry::log::{self, Destination, LogConfig, LogGuard, Threshold};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Names that are asked for.
const NAMES: usize = 5000;
/// Queries outstanding at full load.
const WINDOW: usize = 128;
/// How long one throughput measurement takes, and how many make a result.
const ROUND: Duration = Duration::from_millis(1000);
const ROUNDS: usize = 5;
/// Rate and length of the latency measurement.
const RATE: u32 = 10_000;
const LATENCY_QUERIES: usize = 30_000;
/// Largest message here.
const ROOM: usize = 512;

fn main() {
    pin(Side::Others);
    let stop = Arc::new(AtomicBool::new(false));
    let responder = responder(&stop);
    let relay = Target::relay(responder, &stop);
    let direct = latency(responder);
    println!(
        "direct query at {RATE} q/s: p50 {:.0} us, p99 {:.0} us",
        direct.0, direct.1
    );
    println!("{WINDOW} queries outstanding, {ROUNDS} rounds of {ROUND:?}, medians:");
    for mode in [Mode::Off, Mode::Metrics, Mode::MetricsAndLog] {
        let filter = Filter::start(responder, mode);
        let mut rows: [Vec<(f64, f64)>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (row, target) in rows.iter_mut().zip([&relay, &filter.target]) {
                row.push(throughput(target));
            }
        }
        let ratio = |part: fn(&(f64, f64)) -> f64| {
            median(rows[0].iter().zip(&rows[1]).map(|(r, f)| part(f) / part(r)))
        };
        let rate = |row: &[(f64, f64)]| median(row.iter().map(|round| round.0));
        let cost = |row: &[(f64, f64)]| median(row.iter().map(|round| round.1));
        println!(
            "{mode:?}: relay {:.0} q/s ({:.2} us CPU), filter {:.0} q/s ({:.2} us CPU), ratio {:.2} (CPU {:.2})",
            rate(&rows[0]),
            cost(&rows[0]),
            rate(&rows[1]),
            cost(&rows[1]),
            ratio(|round| round.0),
            1.0 / ratio(|round| round.1),
        );
        let direct = latency(responder);
        let through = latency(filter.target.address);
        println!(
            "{mode:?}: added at {RATE} q/s: p50 {:.0} us, p99 {:.0} us",
            through.0 - direct.0,
            through.1 - direct.1
        );
        filter.stop();
    }
    stop.store(true, Ordering::Relaxed);
}

#[derive(Clone, Copy)]
enum Side {
    Measured,
    Others,
}

/// Puts this thread, and those it starts, on its side of the machine.
fn pin(side: Side) {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // Once pinned, this thread sees fewer.
    static CORES: AtomicU64 = AtomicU64::new(0);
    let _ = CORES.compare_exchange(0, cores as u64, Ordering::Relaxed, Ordering::Relaxed);
    let cores = CORES.load(Ordering::Relaxed) as usize;
    if cores < 2 {
        return;
    }
    let mut set = CpuSet::new();
    match side {
        Side::Measured => set.set(0),
        Side::Others => (1..cores).for_each(|core| set.set(core)),
    }
    sched_setaffinity(None, &set).expect("a processor");
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let raw = socket2::SockRef::from(&socket);
    raw.set_recv_buffer_size(1 << 20).expect("a buffer");
    socket
}

/// Waits until one of the sockets has something; whether it does.
fn wait(sockets: &[&UdpSocket], limit: Duration) -> bool {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|socket| PollFd::new(*socket, PollFlags::IN))
        .collect();
    let limit = Timespec::try_from(limit).expect("a short time");
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Answers every query with one address.
fn responder(stop: &Arc<AtomicBool>) -> SocketAddr {
    let socket = socket();
    let address = socket.local_addr().expect("an address");
    let stop = stop.clone();
    spawn("responder", move || {
        let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
        while !stop.load(Ordering::Relaxed) {
            if !wait(&[&socket], ROUND) {
                continue;
            }
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
struct Target {
    address: SocketAddr,
    /// The thread whose processor time counts.
    thread: &'static str,
}

impl Target {
    /// The least a relay has to do: batches, another id, back to whoever asked.
    fn relay(upstream: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let (front, back) = (socket(), socket());
        back.connect(upstream).expect("a route");
        let address = front.local_addr().expect("an address");
        let stop = stop.clone();
        pin(Side::Measured);
        spawn("relay", move || {
            let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
            let mut clients: Vec<Option<(SocketAddr, [u8; 2])>> = vec![None; 1 << 16];
            let mut next = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                if !wait(&[&front, &back], ROUND) {
                    continue;
                }
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
        pin(Side::Others);
        Self {
            address,
            thread: "relay",
        }
    }

    /// Processor time its thread has used.
    fn processor_time(&self) -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
        let nanoseconds = tasks
            .filter_map(|task| {
                let path = task.ok()?.path();
                let name = std::fs::read_to_string(path.join("comm")).ok()?;
                let stat = std::fs::read_to_string(path.join("schedstat")).ok()?;
                let used: u64 = stat.split_whitespace().next()?.parse().ok()?;
                (name.trim() == self.thread).then_some(used)
            })
            .sum();
        Duration::from_nanos(nanoseconds)
    }
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Off,
    Metrics,
    MetricsAndLog,
}

/// The filter with telemetry in some mode.
struct Filter {
    target: Target,
    running: Running,
    runtime: Runtime,
    log: Option<LogGuard>,
    _meters: Option<SdkMeterProvider>,
    _directory: tempfile::TempDir,
}

impl Filter {
    fn start(upstream: SocketAddr, mode: Mode) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (logger, log) = match mode {
            Mode::MetricsAndLog => {
                let config = LogConfig {
                    name: "opensandbox.egress",
                    threshold: Threshold::Info,
                    destinations: vec![Destination::File(directory.path().join("log"))],
                    baseline: vec![("sandbox_id".to_owned(), "sb-bench".to_owned())],
                };
                let (logger, guard) = log::build(&config).expect("a log file");
                (logger, Some(guard))
            }
            _ => (slog::Logger::root(slog::Discard, slog::o!()), None),
        };
        let meters = match mode {
            Mode::Off => None,
            _ => Some(
                SdkMeterProvider::builder()
                    .with_reader(ManualReader::builder().build())
                    .build(),
            ),
        };
        let meter = meters.as_ref().map_or_else(Meter::noop, |meters| {
            Meter::new(meters.meter(Metrics::SCOPE), Arc::from([]))
        });
        let observer = Arc::new(Observer::new(logger, Metrics::new(&meter)));
        let policy =
            br#"{"defaultAction":"deny","egress":[{"action":"allow","target":"*.bench.test"}]}"#;
        let policy = Policy::parse(policy).expect("a policy");
        let live = Live::new(Effective::compile(&AlwaysRules::default(), &policy, 1));
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            upstreams: Source::List(vec![upstream]),
            timeout: Duration::from_secs(5),
            probe_name: ".".to_owned(),
            probe_interval: Duration::from_secs(30),
            exempt: Vec::new(),
            max_in_flight: MAX_IN_FLIGHT,
        };
        let runtime = Runtime::new(NonZeroUsize::MIN).expect("a runtime");
        pin(Side::Measured);
        let running = dns::start(
            config,
            Arc::new(live),
            observer,
            Hooks::none(),
            &runtime.spawner(),
        )
        .expect("the filter");
        pin(Side::Others);
        Self {
            target: Target {
                address: running.addresses()[0],
                thread: "dns",
            },
            running,
            runtime,
            log,
            _meters: meters,
            _directory: directory,
        }
    }

    fn stop(self) {
        self.runtime
            .block_on(self.running.stop(Duration::from_secs(1)));
        if let Some(log) = self.log {
            let lost = log.close(Duration::from_secs(10));
            println!("log records lost: {lost}");
        }
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

/// Queries a second and processor time of the target for each, in microseconds.
fn throughput(target: &Target) -> (f64, f64) {
    let socket = socket();
    let (mut inbox, mut outbox) = (Inbox::new(ROOM), Outbox::default());
    let (mut sent, mut answered) = (0_usize, 0_usize);
    let mut room = WINDOW;
    let before = target.processor_time();
    let start = Instant::now();
    while start.elapsed() < ROUND {
        for _ in 0..room {
            outbox.push(Some(target.address), 0, |out| query(sent, out));
            sent += 1;
        }
        outbox.flush(socket.as_fd(), |_, error| panic!("{error}"));
        if !wait(&[&socket], Duration::from_millis(200)) {
            // Everything outstanding is lost.
            room = WINDOW;
            continue;
        }
        room = inbox.receive(socket.as_fd()).unwrap_or(0).min(BATCH);
        answered += room;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let used = (target.processor_time() - before).as_secs_f64();
    (answered as f64 / elapsed, used * 1e6 / answered as f64)
}

/// Median and 99th percentile of an answer's delay at a fixed rate, in microseconds.
fn latency(address: SocketAddr) -> (f64, f64) {
    let socket = Arc::new(socket());
    socket.connect(address).expect("a route");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a limit");
    let epoch = Instant::now();
    let sent: Arc<Vec<AtomicU64>> =
        Arc::new((0..LATENCY_QUERIES).map(|_| AtomicU64::new(0)).collect());
    let sender = {
        let (socket, sent) = (socket.clone(), sent.clone());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            for (number, moment) in sent.iter().enumerate() {
                let due = epoch + Duration::from_secs(number as u64) / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                message.clear();
                query(number, &mut message);
                moment.store(epoch.elapsed().as_nanos() as u64, Ordering::Relaxed);
                socket.send(&message).expect("a query is sent");
            }
        })
    };
    let mut delays = Vec::with_capacity(LATENCY_QUERIES);
    let mut buffer = [0; ROOM];
    while delays.len() < LATENCY_QUERIES {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let now = epoch.elapsed().as_nanos() as u64;
                let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                delays.push(now - sent[number].load(Ordering::Relaxed));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    sender.join().expect("the sender");
    let lost = LATENCY_QUERIES - delays.len();
    if lost > 0 {
        println!("{lost} queries lost: the machine is too busy to measure latency");
    }
    delays.sort_unstable();
    let at = |share: usize| delays[delays.len() * share / 100] as f64 / 1e3;
    (at(50), at(99))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
