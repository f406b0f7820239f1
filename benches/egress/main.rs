//! The egress daemon as it is delivered, against a bare UDP relay and a direct query, and what it
//! takes of the machine (`SPECIFICATION.md`, numbers 1 to 6, 19, 21, 22).
//!
//! `cargo bench --bench egress -- PART...` runs some parts of it: `start`, `idle`, `throughput`,
//! `delay`, `sustained`, `rules`; each takes less than two minutes.
//! `OPENSANDBOX_BENCH_BINARY` names the binary; `make bench` sets it to the static one.
//! `OPENSANDBOX_BENCH_ROUNDS` is how many rounds throughput and delay are measured in.
//! `OPENSANDBOX_BENCH_SUSTAINED` is how many seconds the load under dead receivers lasts.

mod daemon;
mod load;
mod receiver;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::bench::{Estimate, OneCore, Samples, Spread, Table, interleave, measured, wanted};

use self::daemon::{Daemon, Installed, telemetry};
use self::load::{Delay, RATE, Sides, Target, Throughput, WINDOW, delay, relay, throughput};
use self::receiver::Receiver;

/// Starts of the daemon.
const STARTS: usize = 20;
/// How long a daemon is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(3);
/// How often an idle daemon is looked at, and how long apart: its exports come and go.
const LOOKS: usize = 40;
const APART: Duration = Duration::from_millis(75);
/// Rounds at full load, and how long each takes.
const ROUNDS: usize = 21;
const ROUND: Duration = Duration::from_millis(600);
/// How long a round at a fixed rate takes; there are as many as fit into the same time.
const DELAY_ROUND: Duration = Duration::from_millis(200);
/// Queries a second of each daemon while receivers are dead, and for how long.
const SUSTAINED_RATE: u32 = 5_000;
const SUSTAINED: Duration = Duration::from_secs(60);
/// When the queues towards a dead receiver are full and its first time limits are over.
const WARM: Duration = Duration::from_secs(20);
/// Rules of the largest policy, and how often it is replaced.
const RULES: usize = 4096;
const POSTS: usize = 100;

/// How much of everything.
struct Extent {
    starts: usize,
    rounds: usize,
    posts: usize,
    round: Duration,
    settle: Duration,
    looks: usize,
    warm: Duration,
    sustained: Duration,
}

impl Extent {
    fn new() -> Self {
        if !measured() {
            let moment = Duration::from_millis(50);
            return Self {
                starts: 1,
                rounds: 1,
                posts: 2,
                round: moment,
                settle: moment,
                looks: 1,
                warm: moment,
                sustained: moment * 2,
            };
        }
        let number = |variable| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
        let rounds = number("OPENSANDBOX_BENCH_ROUNDS");
        let seconds = number("OPENSANDBOX_BENCH_SUSTAINED");
        Self {
            starts: STARTS,
            rounds: rounds.map_or(ROUNDS, |rounds| rounds as usize),
            posts: POSTS,
            round: ROUND,
            settle: SETTLE,
            looks: LOOKS,
            warm: WARM,
            sustained: seconds.map_or(SUSTAINED, Duration::from_secs),
        }
    }
}

impl Extent {
    /// Rounds at a fixed rate.
    fn delay_rounds(&self) -> usize {
        let fit = self.round.as_millis() / DELAY_ROUND.as_millis();
        self.rounds * (fit as usize).max(1)
    }
}

fn main() {
    let extent = Extent::new();
    let sides = Sides::split();
    let upstream = load::responder();
    let installed = Installed::new(upstream, sides);
    if wanted("start") {
        start_up(&installed, &extent);
    }
    if ["idle", "throughput", "delay", "sustained"]
        .into_iter()
        .any(wanted)
    {
        beside_receivers(upstream, &installed, sides, &extent);
    }
    if wanted("rules") {
        rules(&installed, &extent);
    }
}

/// Daemons that differ in where their telemetry goes.
fn beside_receivers(upstream: SocketAddr, installed: &Installed, sides: Sides, extent: &Extent) {
    let (willing, refusing, hanging) = (
        Receiver::willing(),
        Receiver::refusing(),
        Receiver::hanging(),
    );
    let settings = [
        ("nothing configured", None),
        ("metrics", Some(telemetry(&willing, false))),
        ("metrics and logs", Some(telemetry(&willing, true))),
        ("receiver refuses", Some(telemetry(&refusing, true))),
        ("receiver hangs", Some(telemetry(&hanging, true))),
    ];
    let daemons = settings.map(|(name, settings)| {
        let settings = settings.as_ref().map_or(&[][..], |settings| &settings[..]);
        (name, installed.start(settings).0)
    });
    std::thread::sleep(extent.settle);
    if wanted("idle") {
        idle(&daemons, extent);
    }
    let relay = relay(upstream, sides);
    if wanted("throughput") {
        under_full_load(relay, &daemons, extent);
    }
    if wanted("delay") {
        added_delay(upstream, relay, &daemons, extent);
    }
    if wanted("sustained") {
        sustained(&daemons, extent);
    }
    println!(
        "exports the willing receiver took: {}\n",
        willing.requests()
    );
}

/// The size of the binary, and how long it takes to its first answers.
fn start_up(installed: &Installed, extent: &Extent) {
    println!("binary: {:.2} MiB\n", installed.size());
    let mut cases: [Box<dyn FnMut() -> [f64; 2]>; 2] = [
        Box::new(|| [milliseconds(installed.version()); 2]),
        Box::new(|| {
            let (daemon, ready) = installed.start(&[]);
            drop(daemon);
            [milliseconds(ready.dns), milliseconds(ready.health)]
        }),
    ];
    let rounds = interleave(extent.starts, &mut cases);
    let spread = |case: usize, part: usize| Spread::of(rounds[case].iter().map(|ms| ms[part]));
    let mut table = Table::new(&["from exec to", "ms"]);
    table.row(&[&"the end of --version", &spread(0, 0)]);
    table.row(&[&"the first DNS answer", &spread(1, 0)]);
    table.row(&[&"/healthz 200", &spread(1, 1)]);
    println!("{table}");
}

/// What a daemon takes that nobody has asked anything.
fn idle(daemons: &[(&str, Daemon)], extent: &Extent) {
    let mut looks: Vec<Vec<(f64, f64)>> = vec![Vec::new(); daemons.len()];
    for _ in 0..extent.looks {
        for ((_, daemon), looks) in daemons.iter().zip(&mut looks) {
            looks.push(daemon.process.resident());
        }
        std::thread::sleep(APART);
    }
    let mut table = Table::new(&["idle", "RSS MiB", "of it private", "threads", "sockets"]);
    for ((name, daemon), looks) in daemons.iter().zip(looks) {
        let mut threads: Vec<_> = daemon.process.threads();
        threads.sort();
        let names: Vec<_> = threads.iter().map(|(_, name, _)| name.as_str()).collect();
        table.row(&[
            name,
            &format!("{:.2}", Spread::of(looks.iter().map(|look| look.0))),
            &format!("{:.2}", Spread::of(looks.iter().map(|look| look.1))),
            &format!("{} ({})", names.len(), names.join(" ")),
            &daemon.process.sockets(),
        ]);
    }
    println!("{table}");
}

/// Queries a second, and processor time of each.
fn under_full_load(relay: Target, daemons: &[(&str, Daemon)], extent: &Extent) {
    let mut cases: Vec<Box<dyn FnMut() -> Throughput>> =
        vec![Box::new(|| throughput(relay, extent.round))];
    for (_, daemon) in daemons {
        cases.push(Box::new(|| throughput(daemon.target(), extent.round)));
    }
    let rounds = interleave(extent.rounds, &mut cases);
    let rates: Vec<Vec<_>> = rounds
        .iter()
        .map(|rounds| rounds.iter().map(|round| round.rate).collect())
        .collect();
    println!("{WINDOW} queries outstanding, log at info to a file:");
    let mut table = Table::new(&[
        "",
        "queries/s",
        "us CPU a query",
        "of it dns thread",
        "share of the relay",
        "share of no telemetry",
        "RSS MiB",
    ]);
    let names = ["bare relay"].into_iter();
    let names = names.chain(daemons.iter().map(|(name, _)| *name));
    for (case, name) in names.enumerate() {
        let cost = Spread::of(rounds[case].iter().map(|round| round.cost));
        let front = Spread::of(rounds[case].iter().map(|round| round.front));
        let resident = match case.checked_sub(1) {
            Some(daemon) => format!("{:.2}", daemons[daemon].1.process.resident().0),
            None => String::new(),
        };
        table.row(&[
            &name,
            &format!("{:.0}", Spread::of(rates[case].iter().copied())),
            &format!("{cost:.2}"),
            &format!("{front:.2}"),
            &format!("{:.2}", Spread::of_ratios(&rates[case], &rates[0])),
            &format!("{:.2}", Spread::of_ratios(&rates[case], &rates[1])),
            &resident,
        ]);
    }
    println!("{table}");
}

/// How much later an answer comes than one that was asked for directly, and than a bare relay's.
fn added_delay(upstream: SocketAddr, relay: Target, daemons: &[(&str, Daemon)], extent: &Extent) {
    const DIRECT: usize = 0;
    const RELAY: usize = 1;
    const SILENT: usize = 2;
    let round = DELAY_ROUND.min(extent.round);
    let mut cases: Vec<Box<dyn FnMut() -> Delay>> = vec![
        Box::new(|| delay(upstream, None, round)),
        Box::new(|| delay(relay.address, None, round)),
    ];
    for (_, daemon) in daemons {
        cases.push(Box::new(|| delay(daemon.dns, Some(daemon.target()), round)));
    }
    // Until the queues towards the dead receivers are full.
    for (_, daemon) in daemons {
        delay(daemon.dns, None, extent.round);
    }
    let sharing = OneCore::share(daemons.iter().map(|(_, daemon)| daemon.process));
    let rounds = interleave(extent.delay_rounds(), &mut cases);
    drop(sharing);
    let samples = |case: usize| -> Vec<Samples> {
        let rounds = rounds[case].iter();
        rounds.map(|round| round.delays.clone()).collect()
    };
    let (direct, relay, silent) = (samples(DIRECT), samples(RELAY), samples(SILENT));
    let p50 = |samples: &Samples| samples.quantile(0.5);
    let p90 = |samples: &Samples| samples.quantile(0.9);
    let p99 = |samples: &Samples| samples.quantile(0.99);
    println!(
        "{RATE} queries a second on one core in {} rounds of {} ms, microseconds:",
        extent.delay_rounds(),
        DELAY_ROUND.as_millis()
    );
    let mut table = Table::new(&[
        "",
        "p50 above direct",
        "p50 above the relay",
        "p99 above direct",
        "p90, share of no telemetry",
        "p99, share of no telemetry",
        "beside the dns thread, ms CPU/s",
    ]);
    table.row(&[
        &"direct query, in full",
        &format!("{:.0}", Estimate::of([&direct], |[direct]| p50(direct))),
        &"",
        &format!("{:.0}", Estimate::of([&direct], |[direct]| p99(direct))),
    ]);
    let names = ["bare relay"].into_iter();
    let names = names.chain(daemons.iter().map(|(name, _)| *name));
    for (case, name) in (RELAY..).zip(names) {
        let own = samples(case);
        let above = |other: &[Samples], quantile: fn(&Samples) -> f64| {
            let above = Estimate::of([&own, other], |[own, other]| {
                quantile(own) - quantile(other)
            });
            format!("{above:.0}")
        };
        let share = |quantile: fn(&Samples) -> f64| {
            let share = Estimate::of([&own, &silent], |[own, silent]| {
                quantile(own) / quantile(silent)
            });
            format!("{share:.2}")
        };
        let beside = Spread::of(rounds[case].iter().map(|round| round.beside));
        table.row(&[
            &name,
            &above(&direct, p50),
            &above(&relay, p50),
            &above(&direct, p99),
            &share(p90),
            &share(p99),
            &format!("{beside:.2}"),
        ]);
    }
    println!("{table}");
}

/// Whether a receiver that is dead for long makes a daemon grow.
fn sustained(daemons: &[(&str, Daemon)], extent: &Extent) {
    let targets: Vec<_> = daemons.iter().map(|(_, daemon)| daemon.dns).collect();
    let resident = || -> Vec<f64> {
        let daemons = daemons.iter();
        daemons
            .map(|(_, daemon)| daemon.process.resident().0)
            .collect()
    };
    let start = Instant::now();
    let warm = start + extent.warm.min(extent.sustained / 2);
    let end = start + extent.sustained;
    let mut answered = load::sustain(&targets, SUSTAINED_RATE, warm);
    let before = resident();
    answered += load::sustain(&targets, SUSTAINED_RATE, end);
    let after = resident();
    let each = answered / targets.len() as u64;
    println!(
        "{SUSTAINED_RATE} queries a second for {:.0} s, {each} answers each:",
        extent.sustained.as_secs_f64()
    );
    let mut table = Table::new(&["", "RSS MiB, warm", "at the end", "growth"]);
    for ((name, _), (before, after)) in daemons.iter().zip(before.iter().zip(&after)) {
        table.row(&[
            name,
            &format!("{before:.2}"),
            &format!("{after:.2}"),
            &format!("{:.2}", after - before),
        ]);
    }
    println!("{table}");
}

/// What the largest policy takes.
fn rules(installed: &Installed, extent: &Extent) {
    let (daemon, _) = installed.start(&[]);
    std::thread::sleep(extent.settle);
    let rule = |number: usize| match number % 4 {
        0 | 1 => format!(r#"{{"action":"allow","target":"*.zone{number}.example.com"}}"#),
        2 => format!(r#"{{"action":"deny","target":"host{number}.service.example.org"}}"#),
        _ => format!(
            r#"{{"action":"allow","target":"10.{}.{}.0/24"}}"#,
            number / 256 % 256,
            number % 256
        ),
    };
    let rules: Vec<_> = (0..RULES).map(rule).collect();
    let policy = format!(r#"{{"egress":[{}]}}"#, rules.join(","));
    let resident = || format!("{:.2}", daemon.process.resident().0);
    let mut table = Table::new(&[
        "POST /policy",
        "ms",
        "RSS MiB before",
        "after",
        "most so far",
    ]);
    for (what, times) in [
        (&*format!("of {RULES} rules, once"), 1),
        ("again and again", extent.posts),
    ] {
        let before = resident();
        let times = (0..times).map(|_| milliseconds(daemon.replace_policy(&policy)));
        let times = Spread::of(times);
        std::thread::sleep(extent.settle);
        let peak = format!("{:.2}", daemon.process.peak());
        table.row(&[&what, &times, &before, &resident(), &peak]);
    }
    println!("{table}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
