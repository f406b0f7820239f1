//! What the engine of execd adds to starting a shell, without HTTP around it.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opensandbox::execd::Engine;
use opensandbox::execd::command::{Commands, Event, Request};
use opensandbox::execd::environment::Environment;
use opensandbox::execd::events::Observer;
use opensandbox::execd::metrics::Metrics;
use opensandbox::execd::pty::{self, Mode, Role, Terminals, Update};
use opensandbox::execd::session::{Run, Sessions};
use opensandbox::execd::spawn::{Children, find_shell};
use opensandbox::runtime::{self, Runtime};
use opensandbox::telemetry::instrument::Meter;
use support::bench::measured;

use crate::bare::{bare_loop, posix_spawn, quantile, read_pipe, timed, wait};

/// Single executions in each of the interleaved rounds.
const SINGLE: usize = 40;
const ROUNDS: usize = 10;

/// Executions in each measurement of throughput.
const MANY: usize = 1500;

/// Bytes of streamed output.
const STREAMED: usize = 1 << 30;

/// Prints one line a case.
pub fn run() {
    let measured = measured();
    let rounds = if measured { ROUNDS } else { 1 };
    let scale = |count: usize| if measured { count } else { 1 };
    let threads = if measured {
        runtime::threads()
    } else {
        NonZeroUsize::MIN
    };
    let runtime = Runtime::new(threads).expect("threads");
    let engine = Engine {
        spawner: runtime.spawner(),
        children: Children::new(),
        observer: Arc::new(Observer::new(logger(), Metrics::new(&Meter::noop()))),
        environment: Arc::new(Environment::for_children(std::env::vars_os())),
        temporary: Arc::new(std::env::temp_dir()),
    };
    let shell = find_shell(&engine.environment).expect("a shell");

    let mut cases: [(&str, Vec<Duration>); 4] = [
        ("posix_spawn", Vec::new()),
        ("std::process", Vec::new()),
        ("engine: command", Vec::new()),
        ("engine: in a session", Vec::new()),
    ];
    let commands = Commands::new(engine.clone());
    let sessions = Sessions::new(engine.clone());
    let session = sessions
        .create(None, (*engine.environment).clone())
        .expect("a session");
    runtime.block_on(in_session(&sessions, &session));
    for _ in 0..rounds {
        for _ in 0..scale(SINGLE) {
            cases[0].1.push(timed(|| wait(posix_spawn(&shell))));
            cases[1].1.push(timed(|| standard(&shell)));
            cases[2]
                .1
                .push(timed(|| runtime.block_on(command(&commands, &engine))));
            cases[3]
                .1
                .push(timed(|| runtime.block_on(in_session(&sessions, &session))));
        }
    }
    let bare = quantile(&mut cases[0].1, 50);
    for (what, times) in &mut cases {
        let (p50, p99) = (quantile(times, 50), quantile(times, 99));
        println!(
            "one `true`   {what:<22} p50 {p50:>7.0} us  p99 {p99:>7.0} us  {:>+6.0} us  x{:.2} of posix_spawn",
            p50 - bare,
            p50 / bare
        );
    }

    for concurrent in [1, 16, 256] {
        let many = scale(MANY);
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds.div_ceil(3) {
            bare.push(timed(|| bare_loop(&shell, concurrent, many)));
            ours.push(timed(|| {
                runtime.block_on(engine_loop(&commands, &engine, concurrent, many));
            }));
        }
        let rate = |times: &mut Vec<Duration>| many as f64 / quantile(times, 50) * 1e6;
        let (bare, ours) = (rate(&mut bare), rate(&mut ours));
        println!(
            "{concurrent:>3} at once   engine {ours:>6.0}/s  posix_spawn loop {bare:>6.0}/s  x{:.2}",
            ours / bare
        );
    }

    let bytes = if measured { STREAMED } else { 1 << 20 };
    let (mut pipe, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds.div_ceil(5) {
        pipe.push(timed(|| {
            read_pipe("head", &["-c", &bytes.to_string(), "/dev/zero"], bytes)
        }));
        ours.push(timed(|| {
            let read = runtime.block_on(streamed(&commands, &engine, bytes));
            assert_eq!(read, bytes);
        }));
    }
    let rate = |times: &mut Vec<Duration>| bytes as f64 / quantile(times, 50);
    let (pipe, ours) = (rate(&mut pipe), rate(&mut ours));
    println!(
        "output       engine {ours:>6.0} MB/s  read of a pipe {pipe:>6.0} MB/s  x{:.2}",
        ours / pipe
    );

    let mut echoes = runtime.block_on(echoes(&engine, scale(SINGLE * ROUNDS)));
    let (p50, p99) = (quantile(&mut echoes, 50), quantile(&mut echoes, 99));
    println!("echo         terminal               p50 {p50:>7.0} us  p99 {p99:>7.0} us");
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

fn standard(shell: &Path) {
    let mut child = Command::new(shell)
        .args([OsStr::new("-c"), OsStr::new("true")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    assert!(child.wait().expect("a status").success());
}

fn request(engine: &Engine, command: &str) -> Request {
    Request {
        command: command.to_owned(),
        directory: None,
        environment: (*engine.environment).clone(),
        credentials: None,
        timeout: None,
        logger: logger(),
    }
}

async fn command(commands: &Commands, engine: &Engine) {
    let running = commands.start(request(engine, "true")).await;
    let running = running.expect("a shell");
    while let Ok(event) = running.events.recv().await {
        if let Event::End(outcome) = event {
            assert!(outcome.is_success());
        }
    }
}

async fn in_session(sessions: &Sessions, id: &str) {
    let run = Run {
        command: "true".to_owned(),
        directory: None,
        variables: Vec::new(),
        timeout: None,
        logger: logger(),
    };
    let events = sessions.run(id, run).await.expect("a shell");
    while events.recv().await.is_ok() {}
}

async fn engine_loop(commands: &Commands, engine: &Engine, concurrent: usize, many: usize) {
    let tasks: Vec<_> = (0..concurrent)
        .map(|worker| {
            let (commands, engine) = (commands.clone(), engine.clone());
            let share = many / concurrent + usize::from(worker < many % concurrent);
            engine.spawner.clone().spawn(async move {
                for _ in 0..share {
                    command(&commands, &engine).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

async fn streamed(commands: &Commands, engine: &Engine, bytes: usize) -> usize {
    let script = format!("head -c {bytes} /dev/zero");
    let running = commands.start(request(engine, &script)).await;
    let running = running.expect("a shell");
    let mut total = 0;
    while let Ok(event) = running.events.recv().await {
        if let Event::Output(_, bytes) = event {
            total += bytes.len();
        }
    }
    total
}

/// Round trips of one line through a terminal that only echoes.
async fn echoes(engine: &Engine, count: usize) -> Vec<Duration> {
    let terminals = Terminals::new(engine.clone());
    let id = terminals
        .create(pty::Request {
            directory: None,
            command: Some("stty -echo; echo ready; exec cat".to_owned()),
            environment: (*engine.environment).clone(),
            logger: logger(),
        })
        .expect("a terminal");
    let role = Role::Writer { takeover: false };
    let viewer = terminals.attach(&id, role, 0).expect("the lease");
    viewer.start(Mode::Pty, true).await.expect("a shell");
    shown(&viewer, "ready").await;
    let mut times = Vec::new();
    for number in 0..count {
        let line = format!("echo {number};\n");
        let begin = Instant::now();
        viewer.write(line.as_bytes()).await.expect("input");
        shown(&viewer, line.trim_end()).await;
        times.push(begin.elapsed());
    }
    terminals.delete_all().await;
    times
}

async fn shown(viewer: &pty::Viewer, wanted: &str) {
    let mut all = String::new();
    while !all.contains(wanted) {
        match viewer.next().await {
            Update::Output(_, bytes) => all.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?}"),
        }
    }
}
