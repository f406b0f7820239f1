//! Ingress as it is delivered, between clients and a backend on loopback, in turns with nginx,
//! HAProxy, a bare proxy of hyper and a direct connection (`SPECIFICATION.md`, numbers 15 to 17 and
//! 19).
//!
//! `cargo bench --bench ingress -- PART...` runs some parts of it: `requests`, `telemetry`, `delays`,
//! `bodies`, `echoes`, `events`, `idle`; none takes much more than a minute.
//! `OPENSANDBOX_BENCH_ROUNDS` is how many rounds requests and delays are measured in.
//! `OPENSANDBOX_BENCH_BINARY` names the binary; `make bench` sets it to the static one. nginx,
//! HAProxy and wrk are those of the system (`scripts/setup bench`); without one of them its rows
//! are left out, and that is said.

mod backend;
mod bare;
mod contenders;
mod load;

use std::time::Duration;

use opensandbox::http::server::PARK_TIME;
use support::bench::{Estimate, OneCore, Samples, Spread, Table, interleave, measured, wanted};

use self::backend::Backend;
use self::contenders::{Contender, Installed};

/// How much of everything.
struct Extent {
    rounds: usize,
    round: Duration,
    /// Rounds at a fixed rate, and how long each takes.
    paced_rounds: usize,
    paced: Duration,
    body: u64,
    streams: usize,
    idle: usize,
    /// From the opening of idle connections to the look at them.
    pause: Duration,
}

impl Extent {
    fn new() -> Self {
        if measured() {
            let rounds = std::env::var("OPENSANDBOX_BENCH_ROUNDS").ok();
            let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
            Self {
                rounds,
                round: Duration::from_secs(2),
                paced_rounds: 5 * rounds,
                paced: Duration::from_millis(200),
                body: 1 << 30,
                streams: 200,
                idle: 10_000,
                pause: 2 * PARK_TIME,
            }
        } else {
            Self {
                rounds: 1,
                round: Duration::from_millis(100),
                paced_rounds: 1,
                paced: Duration::from_millis(100),
                body: 1 << 20,
                streams: 4,
                idle: 50,
                pause: Duration::ZERO,
            }
        }
    }
}

/// Requests a second when delays are measured: about half of what one core passes on.
const RATE: u32 = 8_000;

fn main() {
    bare::serve_if_asked();
    let descriptors = load::raise_limits();
    load::stay_off_the_first_core();
    let mut extent = Extent::new();
    // Both ends of a connection are in this process, and so are the backend's.
    extent.idle = extent.idle.min(descriptors.saturating_sub(1000) / 2);
    let backend = Backend::start();
    let installed = Installed::new(backend.address);
    let contenders = installed.start_all();
    let full_load = [
        ("requests", requests as fn(&Extent, &[Contender])),
        ("telemetry", telemetry),
    ];
    for (part, run) in full_load {
        if wanted(part) && load::wrk_is_there() {
            run(&extent, &contenders);
        } else if wanted(part) {
            support::skipped("wrk is not installed: no numbers at full load");
        }
    }
    if wanted("delays") {
        delays(&extent, &contenders);
    }
    if wanted("bodies") {
        bodies(&extent, &contenders);
    }
    if wanted("echoes") {
        echoes(&extent, &contenders);
    }
    if wanted("events") {
        events(&extent, &contenders, &backend);
    }
    drop(contenders);
    if wanted("idle") {
        idle(&extent, &installed, &backend);
    }
}

/// Requests per second, and per second of processor time, of each contender in each round.
fn at_full_load(contenders: &[&Contender], rounds: usize, round: Duration) -> Vec<Vec<(f64, f64)>> {
    let mut cases: Vec<Box<dyn FnMut() -> (f64, f64) + '_>> = Vec::new();
    for contender in contenders {
        cases.push(Box::new(move || {
            let before = contender.processor_time();
            let requests = load::wrk(contender, round);
            let used = contender.processor_time() - before;
            (
                requests / round.as_secs_f64(),
                requests / used.as_secs_f64(),
            )
        }));
    }
    interleave(rounds, &mut cases)
}

/// Requests per second of processor time, connections kept on both sides.
fn requests(extent: &Extent, contenders: &[Contender]) {
    let all: Vec<_> = contenders.iter().collect();
    let results = at_full_load(&all, extent.rounds, extent.round);
    let efficiency = |index: usize| -> Vec<f64> {
        let rounds = results.get(index);
        rounds.map_or_else(Vec::new, |rounds| {
            rounds.iter().map(|(_, each)| *each).collect()
        })
    };
    let named = |name: &str| {
        let index = contenders.iter().position(|one| one.name == name);
        efficiency(index.unwrap_or(usize::MAX))
    };
    let (ours, nginx) = (named(contenders::OURS), named(contenders::NGINX));
    let mut table = Table::new(&[
        "",
        "requests/s",
        "requests/CPU s",
        "ingress / this",
        "this / nginx",
    ]);
    for (index, contender) in contenders.iter().enumerate() {
        let rate = Spread::of(results[index].iter().map(|(rate, _)| *rate));
        if contender.is_direct() {
            table.row(&[&contender.name, &format!("{rate:.0}"), &"-", &"-", &"-"]);
            continue;
        }
        let these = efficiency(index);
        let cells = [
            format!("{rate:.0}"),
            format!("{:.0}", Spread::of(these.iter().copied())),
            format!("{:.2}", Spread::of_ratios(&ours, &these)),
            format!("{:.2}", Spread::of_ratios(&these, &nginx)),
        ];
        table.row(&[&contender.name, &cells[0], &cells[1], &cells[2], &cells[3]]);
    }
    println!("small requests, keep-alive on both sides, access log on\n{table}");
}

/// What metrics and log records over OTLP leave of the throughput. A machine that is shared changes
/// its speed from one second to the next by more than that, so there are many short rounds, and each
/// is compared with the one beside it.
fn telemetry(extent: &Extent, contenders: &[Contender]) {
    let named = |name| contenders.iter().find(|one| one.name == name);
    let (Some(ours), Some(silent)) = (named(contenders::OURS), named(contenders::SILENT)) else {
        return;
    };
    let results = at_full_load(&[ours, silent], 5 * extent.rounds, extent.round / 2);
    let ratio = |number: fn(&(f64, f64)) -> f64| {
        let numbers = |case: usize| results[case].iter().map(number).collect::<Vec<_>>();
        format!("{:.3}", Spread::of_ratios(&numbers(0), &numbers(1)))
    };
    let mut table = Table::new(&["", "requests/s", "requests/CPU s"]);
    let cells = [ratio(|round| round.0), ratio(|round| round.1)];
    table.row(&[&"with telemetry, over none", &cells[0], &cells[1]]);
    println!("small requests, access log on\n{table}");
}

/// What is added to the delay of a direct request, at a fixed rate.
fn delays(extent: &Extent, contenders: &[Contender]) {
    let mut cases: Vec<Box<dyn FnMut() -> Samples + '_>> = Vec::new();
    for contender in contenders {
        cases.push(Box::new(move || load::paced(contender, RATE, extent.paced)));
    }
    let sharing = OneCore::share(contenders.iter().filter_map(Contender::process));
    let results = interleave(extent.paced_rounds, &mut cases);
    drop((sharing, cases));
    let mut table = Table::new(&["", "added p50 us", "added p99 us"]);
    for (contender, rounds) in contenders.iter().zip(&results) {
        let over = |share: f64| {
            let estimate = Estimate::of([rounds, &results[0]], |[this, direct]| {
                let direct = if contender.is_direct() {
                    0.0
                } else {
                    direct.quantile(share)
                };
                this.quantile(share) - direct
            });
            format!("{estimate:.0}")
        };
        let name = if contender.is_direct() {
            "direct, in full"
        } else {
            contender.name
        };
        table.row(&[&name, &over(0.5), &over(0.99)]);
    }
    println!(
        "delay at {RATE} requests/s on one core, in {} rounds of {} ms\n{table}",
        extent.paced_rounds,
        extent.paced.as_millis()
    );
}

/// One large body: how fast, and how much processor time.
fn bodies(extent: &Extent, contenders: &[Contender]) {
    let mut cases: Vec<Box<dyn FnMut() -> (f64, f64) + '_>> = Vec::new();
    for contender in contenders {
        cases.push(Box::new(move || {
            let before = contender.processor_time();
            let seconds = load::download(contender, extent.body);
            let used = contender.processor_time() - before;
            let mebibytes = extent.body as f64 / f64::from(1 << 20);
            (mebibytes / seconds, used.as_secs_f64() * 1024.0 / mebibytes)
        }));
    }
    let results = interleave(extent.rounds.min(3), &mut cases);
    drop(cases);
    let mut table = Table::new(&["", "MiB/s", "CPU s/GiB", "resident MiB"]);
    for (contender, rounds) in contenders.iter().zip(&results) {
        let speed = Spread::of(rounds.iter().map(|(speed, _)| *speed));
        let used = Spread::of(rounds.iter().map(|(_, used)| *used));
        let resident = contender
            .resident()
            .map_or_else(String::new, |mib| format!("{mib:.1}"));
        let cells = [format!("{speed:.0}"), format!("{used:.2}")];
        table.row(&[&contender.name, &cells[0], &cells[1], &resident]);
    }
    println!("a body of {} MiB\n{table}", extent.body >> 20);
}

/// WebSocket messages sent back, one after the other on each of some connections.
fn echoes(extent: &Extent, contenders: &[Contender]) {
    // The bare proxy passes no upgrade on.
    let contenders = contenders.iter().filter(|one| one.name != contenders::BARE);
    let contenders: Vec<_> = contenders.collect();
    let mut cases: Vec<Box<dyn FnMut() -> (f64, f64) + '_>> = Vec::new();
    for contender in contenders.iter().copied() {
        cases.push(Box::new(move || {
            let before = contender.processor_time();
            let messages = load::echo(contender, 16, extent.round);
            let used = contender.processor_time() - before;
            (
                messages / extent.round.as_secs_f64(),
                messages / used.as_secs_f64(),
            )
        }));
    }
    let results = interleave(extent.rounds.min(3), &mut cases);
    drop(cases);
    let mut table = Table::new(&["", "messages/s", "messages/CPU s"]);
    for (contender, rounds) in contenders.iter().zip(&results) {
        let rate = format!("{:.0}", Spread::of(rounds.iter().map(|(rate, _)| *rate)));
        let each = Spread::of(rounds.iter().map(|(_, each)| *each));
        let each = if contender.is_direct() {
            "-".to_owned()
        } else {
            format!("{each:.0}")
        };
        table.row(&[&contender.name, &rate, &each]);
    }
    println!("WebSocket messages of 64 octets, there and back\n{table}");
}

/// Event streams to many clients at once.
fn events(extent: &Extent, contenders: &[Contender], backend: &Backend) {
    let mut table = Table::new(&["", "events/s", "events/CPU s"]);
    for contender in contenders {
        let before = contender.processor_time();
        let events = load::listen_to_events(contender, extent.streams, extent.round);
        let used = contender.processor_time() - before;
        let rate = format!("{:.0}", events / extent.round.as_secs_f64());
        let each = if contender.is_direct() {
            "-".to_owned()
        } else {
            format!("{:.0}", events / used.as_secs_f64())
        };
        table.row(&[&contender.name, &rate, &each]);
        backend.wait_until_idle();
    }
    let interval = backend::EVENT_INTERVAL.as_millis();
    println!(
        "{} event streams, an event every {interval} ms each\n{table}",
        extent.streams
    );
}

/// Memory of connections that do nothing.
fn idle(extent: &Extent, installed: &Installed, backend: &Backend) {
    let mut table = Table::new(&["idle connections of ingress", "count", "KiB each"]);
    for (what, kind) in [
        ("keep-alive", load::Idle::KeptAlive),
        (
            "keep-alive, after 64 at once had used the pool",
            load::Idle::Used,
        ),
        ("WebSocket, both sides", load::Idle::WebSocket),
    ] {
        let contender = installed.ingress();
        load::warm_up(&contender);
        let before = contender.resident().unwrap_or(f64::NAN);
        let connections = load::idle(&contender, kind, extent.idle);
        // Until even the last of them has been idle for long enough.
        std::thread::sleep(extent.pause);
        let after = contender.resident().unwrap_or(f64::NAN);
        let each = (after - before) * 1024.0 / connections.len() as f64;
        table.row(&[&what, &connections.len(), &format!("{each:.1}")]);
        drop(connections);
        drop(contender);
        backend.wait_until_idle();
    }
    println!("{table}");
}
