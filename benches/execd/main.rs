//! execd as it is delivered and used, over HTTP, against a bare `posix_spawn` of the same shell and a
//! bare pipe, and what it takes of the machine (`SPECIFICATION.md`, numbers 2, 4, 10 to 12); then
//! its engine alone.
//!
//! `OPENSANDBOX_BENCH_BINARY` names the binary; `make bench` sets it to the static one.

mod bare;
mod client;
mod daemon;
mod engine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::bench::{Spread, Table, interleave, measured, quantile};
use support::http::Connection;

use bare::{bare_loop, posix_spawn, read_pipe, timed, wait};
use client::{Terminal, streamed};
use daemon::{Installed, REQUEST};

/// Starts of each daemon.
const STARTS: usize = 20;
/// How long one is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(3);
/// Single commands a round, and rounds.
const SINGLE: usize = 40;
const ROUNDS: usize = 10;
/// Commands in each measurement of throughput.
const MANY: usize = 1500;
/// Bytes of streamed output, in files of this size, in lines of that.
const STREAMED: usize = 1 << 30;
const FILE: usize = 64 << 20;
const LINE: usize = 128;

fn main() {
    let scale = |count: usize| if measured() { count } else { 1 };
    let installed = Installed::new();
    let shell = shell();
    println!("execd over HTTP, {}", shell.display());
    footprint(&installed, scale(STARTS));
    latency(&installed, &shell, scale(ROUNDS), scale(SINGLE));
    throughput(&installed, &shell, scale(5), scale(MANY));
    output(&installed, scale(3));
    echo(&installed, scale(SINGLE * ROUNDS));
    println!("\nthe engine of execd alone");
    engine::run();
}

/// The shell that execd runs.
fn shell() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        let mut places = std::env::split_paths(&path).map(|directory| directory.join(name));
        places.find(|place| place.exists())
    };
    find("bash").or_else(|| find("sh")).expect("a shell")
}

/// Start to the first answer, and memory at rest.
fn footprint(installed: &Installed, starts: usize) {
    let times = (0..starts).map(|_| installed.execd().1.as_secs_f64() * 1e3);
    let started = Spread::of(times);
    let (execd, _) = installed.execd();
    let supervisor = installed.supervisor();
    if measured() {
        std::thread::sleep(SETTLE);
    }
    let mut table = Table::new(&["at rest", "RSS MiB", "private MiB", "threads"]);
    for (name, process) in [
        ("execd", execd.process()),
        ("supervisor", supervisor.process()),
    ] {
        let (all, own) = process.resident();
        let threads = process.threads().len();
        table.row(&[&name, &format!("{all:.1}"), &format!("{own:.1}"), &threads]);
    }
    println!("  from exec to /ping: {started:.1} ms\n{table}");
}

/// One command at a time.
fn latency(installed: &Installed, shell: &Path, rounds: usize, single: usize) {
    let (execd, _) = installed.execd();
    let mut connection = Connection::open(execd.address()).expect("a connection");
    let round = |mut one: Box<dyn FnMut() + '_>| {
        move || {
            let mut times: Vec<_> = (0..single)
                .map(|_| timed(&mut one).as_secs_f64() * 1e6)
                .collect();
            times.sort_by(f64::total_cmp);
            (quantile(&times, 0.5), quantile(&times, 0.99))
        }
    };
    let bare = round(Box::new(|| wait(posix_spawn(shell))));
    let ours = round(Box::new(|| {
        let answer = connection
            .request("POST", "/command", REQUEST)
            .expect("an answer");
        assert!(
            answer.body.contains("execution_complete"),
            "{}",
            answer.body
        );
    }));
    let results = interleave(rounds, &mut [Box::new(bare), Box::new(ours)]);
    let column = |case: usize, which: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        results[case].iter().map(which).collect()
    };
    let mut table = Table::new(&["one `true`", "p50 us", "p99 us"]);
    for (case, name) in [(0, "posix_spawn"), (1, "POST /command")] {
        let (p50, p99) = (column(case, |times| times.0), column(case, |times| times.1));
        table.row(&[
            &name,
            &format!("{:.0}", Spread::of(p50)),
            &format!("{:.0}", Spread::of(p99)),
        ]);
    }
    let added = column(1, |times| times.0)
        .iter()
        .zip(column(0, |times| times.0))
        .map(|(ours, bare)| ours - bare)
        .collect::<Vec<_>>();
    let ratio = Spread::of_ratios(&column(1, |times| times.0), &column(0, |times| times.0));
    println!(
        "{table}  added at p50: {:.0} us, x{ratio:.2}\n",
        Spread::of(added)
    );
}

/// Many commands at once.
fn throughput(installed: &Installed, shell: &Path, rounds: usize, many: usize) {
    let mut table = Table::new(&["at once", "posix_spawn/s", "POST /command/s", "share"]);
    for concurrent in [1, 16, 256] {
        let (execd, _) = installed.execd();
        let rate = |elapsed: Duration| many as f64 / elapsed.as_secs_f64();
        let results = interleave(
            rounds,
            &mut [
                Box::new(|| rate(timed(|| bare_loop(shell, concurrent, many)))),
                Box::new(|| rate(timed(|| execd.commands(concurrent, many)))),
            ],
        );
        table.row(&[
            &concurrent,
            &format!("{:.0}", Spread::of(results[0].iter().copied())),
            &format!("{:.0}", Spread::of(results[1].iter().copied())),
            &format!("{:.2}", Spread::of_ratios(&results[1], &results[0])),
        ]);
    }
    println!("{table}");
}

/// Much output.
fn output(installed: &Installed, rounds: usize) {
    let bytes = if measured() { STREAMED } else { FILE };
    let file = installed.directory().join("lines");
    let line = format!("{}\n", "x".repeat(LINE - 1));
    std::fs::write(&file, line.repeat(FILE / LINE)).expect("a file");
    let files = vec![file.to_str().expect("a path"); bytes / FILE];
    let command = format!("cat {}", files.join(" "));
    let (execd, _) = installed.execd();
    // What the first output of a process costs once is no growth.
    streamed(&execd, &format!("head -c 4M {}", files[0]));
    let before = execd.process().resident().0;
    let mut growth: f64 = 0.0;
    let rate = |elapsed: Duration| bytes as f64 / elapsed.as_secs_f64() / 1e6;
    let results = interleave(
        rounds,
        &mut [
            Box::new(|| rate(timed(|| read_pipe("cat", &files, bytes)))),
            Box::new(|| {
                rate(timed(|| {
                    growth = growth.max(streamed(&execd, &command) - before);
                }))
            }),
        ],
    );
    let [pipe, ours] = &results[..] else {
        unreachable!("two cases were given")
    };
    println!(
        "  {} MiB of lines of {LINE}: cat through a pipe {:.0} MB/s, POST /command {:.0} MB/s, share {:.2}; \
         RSS grew by at most {growth:.1} MiB, also while the client paused\n",
        bytes >> 20,
        Spread::of(pipe.iter().copied()),
        Spread::of(ours.iter().copied()),
        Spread::of_ratios(ours, pipe),
    );
}

/// There and back through a terminal that only echoes.
fn echo(installed: &Installed, count: usize) {
    let (execd, _) = installed.execd();
    let mut terminal = Terminal::open(&execd, "stty -echo; echo ready; exec cat");
    terminal.until("ready");
    let mut times: Vec<_> = (0..count)
        .map(|number| {
            let line = format!("echo {number};");
            let elapsed = timed(|| {
                terminal.type_line(&line);
                terminal.until(&line);
            });
            elapsed.as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "  echo of a terminal over a WebSocket: p50 {:.0} us, p99 {:.0} us",
        quantile(&times, 0.5),
        quantile(&times, 0.99)
    );
}
