//! Signals: which end it, which are passed on, and how many it can take.

use std::io::Read;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::run::{FAST, PROGRAM, is_gone, supervisor, text_of};
use support::becomes;

/// A worker that counts its signals, one line each.
const COUNTS: &str = "for s in HUP QUIT USR1 USR2 TERM; do trap \"echo $s >> signals\" $s; done; \
     echo ready > ready; while ! test -e end; do sleep 0.01; done";

#[test]
fn both_requests_to_stop_become_sigterm_and_further_ones_change_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut supervisor = supervisor(["--grace-period=20s"]).script(COUNTS);
        supervisor.next("start");
        let directory = supervisor.directory().to_owned();
        text_of(&directory.join("ready"));
        supervisor.signal(signal);
        assert_eq!(text_of(&directory.join("signals")), "TERM\n");
        for _ in 0..100 {
            supervisor.signal(Signal::TERM);
            supervisor.signal(Signal::INT);
        }
        std::fs::write(directory.join("end"), "").unwrap();
        supervisor.next("shutdown");
        assert_eq!(supervisor.wait().code(), Some(0));
    }
}

#[test]
fn the_signals_it_is_asked_to_forward_reach_the_worker() {
    let mut supervisor = supervisor(["--forward-signals=HUP,SIGUSR1,usr2"]).script(COUNTS);
    supervisor.next("start");
    let directory = supervisor.directory().to_owned();
    text_of(&directory.join("ready"));
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        supervisor.signal(signal);
        let path = directory.join("signals");
        let arrived = || {
            std::fs::read_to_string(&path)
                .unwrap_or_default()
                .contains(name)
        };
        assert!(becomes(arrived), "{name}");
    }
    std::fs::write(directory.join("end"), "").unwrap();
    supervisor.next("exit");
    supervisor.stop();
}

#[test]
fn a_storm_of_signals_is_survived() {
    let mut supervisor = supervisor(["--forward-signals=USR1"]).script(COUNTS);
    let worker = supervisor.next("start")["pid"].clone();
    let directory = supervisor.directory().to_owned();
    text_of(&directory.join("ready"));
    for _ in 0..20_000 {
        supervisor.signal(Signal::CHILD);
        supervisor.signal(Signal::USR1);
    }
    assert!(text_of(&directory.join("signals")).starts_with("USR1\n"));
    std::fs::write(directory.join("end"), "").unwrap();
    let exit = supervisor.next("exit");
    assert_eq!((&exit["pid"], &exit["exit_code"]), (&worker, &0.into()));
    assert_eq!(supervisor.stop().status.code(), Some(0));
}

#[test]
fn no_worker_outlives_its_supervisor() {
    let mut supervisor = supervisor([""; 0]).script("exec sleep 1000");
    let worker = supervisor.next("start")["pid"].as_i64().unwrap() as i32;
    assert!(!is_gone(worker));
    supervisor.signal(Signal::KILL);
    supervisor.wait();
    assert!(becomes(|| is_gone(worker)));
}

#[test]
fn a_stop_during_a_pause_does_not_wait_for_its_end() {
    let mut supervisor = supervisor(["--backoff-min=1h", "--backoff-max=1h"]).script("exit 1");
    supervisor.next("backoff");
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.kinds(), ["start", "exit", "backoff", "shutdown"]);
}

#[test]
fn readers_that_do_not_read_stop_neither_restarts_nor_the_end() {
    let mut child = Command::new(PROGRAM)
        .arg("supervisor")
        .args(FAST)
        .args(["--on-burst-exit=false", "--burst-max=2"])
        .args([
            "--backoff-min=1ms",
            "--",
            "sh",
            "-c",
            "echo x >> runs; exit 1",
        ])
        .current_dir(tempfile::tempdir().unwrap().keep())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than two pipes hold.
    let pid = Pid::from_child(&child);
    let directory = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_pid())).unwrap();
    let runs = || {
        std::fs::read_to_string(directory.join("runs"))
            .unwrap_or_default()
            .len()
            / 2
    };
    assert!(becomes(|| runs() > 600), "{} runs", runs());
    kill_process(pid, Signal::TERM).unwrap();
    assert!(becomes(|| child.try_wait().unwrap().is_some()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut events = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut events)
        .unwrap();
    let whole = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(events.lines().all(whole), "a line was torn");
    std::fs::remove_dir_all(directory).unwrap();
}
