//! The life of a worker: restarts, back-off, breaker, events.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::run::{FAST, PROGRAM, is_gone, supervisor, text_of};
use support::becomes;

fn keys(event: &Value) -> Vec<&str> {
    event
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn a_worker_that_fails_is_started_again_until_told_to_stop() {
    let mut supervisor = supervisor(FAST).flag("--name=flaky").script("exit 1");
    supervisor.next("start");
    supervisor.next("backoff");
    supervisor.next("start");
    supervisor.next("backoff");
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    for (number, start) in ended.all("start").into_iter().enumerate() {
        assert_eq!(
            keys(start),
            ["ts", "name", "event", "pid", "gen", "attempt"]
        );
        assert_eq!(start["attempt"], number + 1);
        assert_eq!(start["gen"], number + 1);
    }
    for exit in ended.all("exit") {
        assert_eq!(
            (&exit["exit_code"], &exit["reason"]),
            (&1.into(), &"crashed".into())
        );
        assert_eq!(exit.get("signal"), None);
    }
    for (number, backoff) in ended.all("backoff").into_iter().enumerate() {
        assert_eq!(
            keys(backoff),
            ["ts", "name", "event", "sleep_ms", "next_attempt"]
        );
        assert_eq!(backoff["sleep_ms"], 10);
        assert_eq!(backoff["next_attempt"], number + 2);
    }
    let shutdown = ended.only("shutdown");
    assert_eq!(keys(shutdown), ["ts", "name", "event", "reason"]);
    assert_eq!(shutdown["reason"], "ctx cancelled");
    assert!(ended.events.iter().all(|event| event["name"] == "flaky"));
    assert_eq!(ended.kinds().last(), Some(&"shutdown"));
}

#[test]
fn an_end_with_code_0_is_a_reason_to_start_again_too() {
    let mut supervisor = supervisor(FAST).script("exit 0");
    let exit = supervisor.next("exit");
    assert_eq!(
        (&exit["exit_code"], &exit["reason"]),
        (&0.into(), &"exited".into())
    );
    supervisor.next("start");
    assert_eq!(supervisor.stop().status.code(), Some(0));
}

#[test]
fn a_worker_that_ends_when_told_to_ends_once() {
    let mut supervisor = supervisor(["--grace-period=20s"])
        .script("trap 'exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done");
    supervisor.next("start");
    text_of(&supervisor.directory().join("ready"));
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    let exit = ended.only("exit");
    assert_eq!(
        (&exit["exit_code"], &exit["reason"]),
        (&0.into(), &"shutdown".into())
    );
    assert_eq!(ended.kinds(), ["start", "exit", "shutdown"]);
}

#[test]
fn a_worker_that_ignores_the_request_is_killed_with_its_process_group() {
    let mut supervisor = supervisor(["--grace-period=250ms"]).script(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 1; done' & \
         echo ready > ready; while :; do sleep 1; done",
    );
    supervisor.next("start");
    text_of(&supervisor.directory().join("ready"));
    let child: i32 = text_of(&supervisor.directory().join("child"))
        .trim()
        .parse()
        .unwrap();
    assert!(!is_gone(child));
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    let exit = ended.only("exit");
    assert_eq!(exit["signal"], "killed");
    assert_eq!(
        (&exit["exit_code"], &exit["reason"]),
        (&(-1).into(), &"shutdown".into())
    );
    assert_eq!(
        keys(exit),
        [
            "ts",
            "name",
            "event",
            "pid",
            "gen",
            "attempt",
            "exit_code",
            "signal",
            "duration_ms",
            "reason"
        ]
    );
    assert!(exit["duration_ms"].as_u64().unwrap() >= 250, "{exit}");
    assert!(becomes(|| is_gone(child)), "the worker's child is left");
}

#[test]
fn nothing_of_a_worker_that_died_is_left_beside_the_next() {
    let mut supervisor = supervisor(FAST).script(
        "test -e child && exec sleep 1000; \
         sh -c 'echo $$ > child; while :; do sleep 1; done' & while :; do sleep 1; done",
    );
    let worker = supervisor.next("start")["pid"].as_i64().unwrap();
    let child: i32 = text_of(&supervisor.directory().join("child"))
        .trim()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(worker as i32).unwrap(), Signal::KILL).unwrap();
    let exit = supervisor.next("exit");
    assert_eq!(
        (&exit["signal"], &exit["reason"]),
        (&"killed".into(), &"signaled".into())
    );
    supervisor.next("start");
    assert!(is_gone(child), "the worker's child is left");
    supervisor.stop();
}

#[test]
fn a_stable_run_makes_the_next_pause_short_again() {
    let mut supervisor = supervisor([
        "--backoff-min=10ms",
        "--backoff-max=5s",
        "--backoff-jitter=0",
    ])
    .flag("--stable-after=2s")
    .flag("--burst-max=4")
    .script("echo x >> runs; test $(wc -l < runs) = 3 && sleep 2.1; exit 1");
    let pauses: Vec<_> = (0..4)
        .map(|_| supervisor.next("backoff")["sleep_ms"].clone())
        .collect();
    assert_eq!(pauses, [10, 20, 10, 20]);
    let ended = supervisor.stop();
    let stable = ended.only("stable");
    assert_eq!(
        keys(stable),
        [
            "ts",
            "name",
            "event",
            "pid",
            "gen",
            "duration_ms",
            "reset_backoff"
        ]
    );
    assert_eq!(
        (&stable["gen"], &stable["reset_backoff"]),
        (&3.into(), &true.into())
    );
}

#[test]
fn a_crash_loop_ends_the_supervisor_with_code_1() {
    let ended = supervisor(FAST)
        .flag("--burst-max=3")
        .flag("--burst-window=90s")
        .script("exit 1")
        .end();
    assert_eq!(ended.status.code(), Some(1));
    let burst = ended.only("burst_exit");
    assert_eq!(
        keys(burst),
        [
            "ts", "name", "event", "attempt", "reason", "attempts", "window"
        ]
    );
    assert_eq!(
        (&burst["attempt"], &burst["attempts"]),
        (&3.into(), &3.into())
    );
    assert_eq!(burst["reason"], "crashloop budget exceeded");
    assert_eq!(burst["window"], "1m30s");
    assert_eq!(ended.all("start").len(), 3);
    assert_eq!(ended.kinds().last(), Some(&"burst_exit"));
    assert!(ended.logged("supervisor: supervisor: crashloop budget exceeded"));
}

#[test]
fn a_crash_loop_that_does_not_end_it_is_told_with_every_launch() {
    let mut supervisor = supervisor(FAST)
        .flag("--burst-max=2")
        .flag("--on-burst-exit=false")
        .script("exit 1");
    for attempt in 2..5 {
        assert_eq!(supervisor.next("burst_exit")["attempt"], attempt);
        assert_eq!(supervisor.next("backoff")["next_attempt"], attempt + 1);
    }
    assert_eq!(supervisor.stop().status.code(), Some(0));
}

#[test]
fn a_program_that_cannot_be_started_is_tried_again_too() {
    let ended = supervisor(FAST)
        .flag("--burst-max=2")
        .worker(&["/nowhere/worker", "x"])
        .end();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.kinds(), ["exit", "backoff", "exit", "burst_exit"]);
    for exit in ended.all("exit") {
        assert_eq!(
            keys(exit),
            ["ts", "name", "event", "gen", "attempt", "reason", "error"]
        );
        assert_eq!(
            (&exit["name"], &exit["reason"]),
            (&"worker".into(), &"launch_failed".into())
        );
        let error = exit["error"].as_str().unwrap();
        assert!(
            error.starts_with("/nowhere/worker: No such file"),
            "{error}"
        );
    }
    assert!(ended.logged("supervisor: launch failed: /nowhere/worker: "));
}

#[test]
fn a_worker_has_its_own_group_no_input_and_everything_else_of_the_supervisor() {
    let mut supervisor = supervisor([""; 0]).env("GREETING", "good day").script(
        "echo \"$GREETING\" from $PWD; readlink /proc/self/fd/0 > input; \
         cut -d ' ' -f 1,5 /proc/$$/stat > group; grep -E '^Sig(Blk|Ign)' /proc/self/status > signals; \
         echo ready > ready; exec sleep 1000",
    );
    supervisor.next("start");
    let directory = supervisor.directory().to_owned();
    text_of(&directory.join("ready"));
    let greeting = format!(
        "good day from {}",
        directory.canonicalize().unwrap().display()
    );
    assert!(supervisor.output().lines().any(|line| line == greeting));
    assert_eq!(text_of(&directory.join("input")), "/dev/null\n");
    let group = text_of(&directory.join("group"));
    let (pid, group) = group.trim().split_once(' ').unwrap();
    assert_eq!(pid, group);
    // Neither the signals the supervisor reads itself nor the broken pipes it ignores.
    let signals = text_of(&directory.join("signals"));
    for line in signals.lines() {
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::CHILD, Signal::PIPE] {
            assert_eq!(mask & 1 << (signal.as_raw() - 1), 0, "{signals}");
        }
    }
    supervisor.stop();
}

#[test]
fn the_log_has_the_words_operators_know() {
    let mut supervisor = supervisor(FAST).script("exit 4");
    let exit = supervisor.next("exit");
    let ended = supervisor.stop();
    let pid = &exit["pid"];
    assert!(ended.output.contains("\n OpenSandbox Supervisor\n"));
    assert!(ended.logged("supervising \"sh\" (event-log=stderr)"));
    assert!(ended.logged(&format!(
        "supervisor: worker started (pid={pid}, gen=1, attempt=1)"
    )));
    assert!(ended.logged(&format!(
        "supervisor: worker exited (pid={pid}, gen=1, dur="
    )));
    assert!(ended.logged("code=4, signal=, reason=crashed)"));
    assert!(
        ended
            .log
            .iter()
            .all(|line| line["logger"] == "opensandbox.supervisor")
    );
}

#[test]
fn events_go_to_a_file_whose_directories_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/events.jsonl");
    let ended = supervisor(FAST)
        .flag(format!("--event-log={}", path.display()))
        .flag("--burst-max=2")
        .script("exit 1")
        .end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.events.is_empty());
    assert!(ended.logged(&format!("(event-log={})", path.display())));
    let kinds: Vec<_> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["start", "exit", "backoff", "start", "exit", "burst_exit"]
    );
}

#[test]
fn a_supervisor_supervises_supervisors() {
    let mut supervisor = supervisor([""; 0]).worker(&[
        PROGRAM,
        "supervisor",
        "--event-log=inner",
        "--",
        "sh",
        "-c",
        "echo $$ > worker; exec sleep 1000",
    ]);
    supervisor.next("start");
    let worker: i32 = text_of(&supervisor.directory().join("worker"))
        .trim()
        .parse()
        .unwrap();
    let inner = supervisor.directory().join("inner");
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.wait().code(), Some(0));
    let events = fs::read_to_string(inner).unwrap();
    assert_eq!(
        events.matches("\"event\":\"shutdown\"").count(),
        1,
        "{events}"
    );
    assert!(is_gone(worker));
}
