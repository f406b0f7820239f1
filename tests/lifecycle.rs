//! Signals and panics of a real process.
//!
//! Each test starts this test binary again to run one of the ignored `child_*` functions, because
//! signal dispositions and the panic hook belong to a whole process.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use opensandbox::lifecycle::{DrainCut, Notice, Shutdown, Signals, conclude, report_panics};
use opensandbox::runtime::{Runtime, Spawner};
use rustix::process::{Pid, Signal, kill_process};

/// A child that prints what it has to say, one line each, beginning with this.
const SAYS: &str = "child: ";

fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{SAYS}{text}").unwrap();
    out.flush().unwrap();
}

struct Process {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Process {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", name, "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.filter_map(|line| Some(line.unwrap().strip_prefix(SAYS)?.to_owned()));
        Self {
            child,
            lines: Box::new(lines),
        }
    }

    #[track_caller]
    fn says(&mut self, expected: &str) {
        assert_eq!(self.lines.next().as_deref(), Some(expected));
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code and what was written to standard error.
    fn end(self) -> (Option<i32>, String) {
        let Self { child, lines } = self;
        lines.for_each(drop);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    }
}

/// Starts the signal watch as an applet does.
fn watch(spawner: &Spawner, shutdown: &Shutdown) {
    let signals = Signals::catch().unwrap();
    let notify = |notice: Notice| say(format_args!("{notice:?}"));
    let shutdown = shutdown.clone();
    spawner.spawn(signals.watch(shutdown, notify)).detach();
    say("ready");
}

fn runtime() -> Runtime {
    Runtime::new(NonZeroUsize::MIN).unwrap()
}

#[test]
#[ignore = "started by a_second_signal_cuts_the_drain_short"]
fn child_drains() {
    let (runtime, shutdown) = (runtime(), Shutdown::new());
    watch(&runtime.spawner(), &shutdown);
    runtime.block_on(async {
        shutdown.wait().await;
        let work = std::future::pending::<()>();
        let cut = shutdown.drain(Duration::from_secs(3600), work).await;
        assert_eq!(cut, Err(DrainCut::Forced));
        say("flushed");
    });
}

#[test]
#[ignore = "started by a_third_signal_ends_a_process_that_ignores_the_others"]
fn child_never_ends() {
    let (runtime, shutdown) = (runtime(), Shutdown::new());
    watch(&runtime.spawner(), &shutdown);
    runtime.block_on(std::future::pending::<()>());
}

#[test]
#[ignore = "started by panics_are_reported_and_never_printed"]
fn child_panics() {
    report_panics(|panic| say(panic.message));
    let runtime = runtime();
    let main = || {
        runtime.spawn(async { panic!("in a task") }).detach();
        runtime.block_on(runtime.spawn(async {}));
        let _ = std::thread::spawn(|| panic!("in a thread")).join();
        panic!("in main")
    };
    let exit = conclude(
        (),
        |()| main(),
        |(), fatal| say(fatal),
        |(), limit| say(format_args!("{limit:?}")),
    );
    std::process::exit(exit.code().into());
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let mut process = Process::start("child_drains");
    process.says("ready");
    process.send(Signal::USR1);
    process.says("MoreVerbose");
    process.send(Signal::TERM);
    process.says("Drain");
    process.send(Signal::USR2);
    process.says("LessVerbose");
    process.send(Signal::INT);
    process.says("Force");
    process.says("flushed");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn a_third_signal_ends_a_process_that_ignores_the_others() {
    let mut process = Process::start("child_never_ends");
    process.says("ready");
    process.send(Signal::TERM);
    process.says("Drain");
    process.send(Signal::TERM);
    process.says("Force");
    process.send(Signal::TERM);
    assert_eq!(process.end().0, Some(1));
}

#[test]
fn panics_are_reported_and_never_printed() {
    let mut process = Process::start("child_panics");
    process.says("in a task");
    process.says("in a thread");
    process.says("in main");
    process.says("the main thread panicked");
    process.says("5s");
    assert_eq!(process.end(), (Some(1), String::new()));
}
