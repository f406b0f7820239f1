//! Hooks: order, failures, time limits, environment, output.

use std::fs;

use rustix::process::Signal;

use crate::run::{FAST, is_gone, script, supervisor, text_of};
use support::becomes;

#[test]
fn a_pre_start_hook_that_fails_prevents_the_launch_and_counts() {
    let ended = supervisor(FAST)
        .flag("--pre-start=/bin/false")
        .flag("--burst-max=2")
        .script("exit 0")
        .end();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(
        ended.kinds(),
        ["prestart", "backoff", "prestart", "burst_exit"]
    );
    for hook in ended.all("prestart") {
        assert_eq!(
            (&hook["hook"], &hook["exit_code"]),
            (&"/bin/false".into(), &1.into())
        );
        assert_eq!(hook["error"], "exit status 1");
    }
    assert!(
        ended.logged(
            "supervisor: pre-start hook failed: prestart hook \"/bin/false\": exit status 1"
        )
    );
}

#[test]
fn every_hook_runs_in_order_whatever_the_others_do() {
    let directory = tempfile::tempdir().unwrap();
    let note = |name: &str, code: i32| {
        let text = format!("echo {name} >> \"$(dirname \"$0\")/order\"; exit {code}");
        script(directory.path(), name, &text)
    };
    let (one, two, three) = (note("one", 0), note("two", 3), note("three", 0));
    let mut supervisor = supervisor(FAST)
        .flag(format!("--post-exit={one}"))
        .flag("--post-exit=/nowhere/hook")
        .flag(format!("--post-exit={two}"))
        .flag(format!("--post-exit={three}"))
        .script("exit 0");
    supervisor.next("backoff");
    let ended = supervisor.stop();
    let hooks: Vec<_> = ended.all("postexit").into_iter().take(4).collect();
    let codes: Vec<_> = hooks.iter().map(|hook| &hook["exit_code"]).collect();
    assert_eq!(codes, [0, -1, 3, 0]);
    let error = hooks[1]["error"].as_str().unwrap();
    assert!(error.starts_with("/nowhere/hook: No such file"), "{error}");
    assert_eq!(hooks[2]["error"], "exit status 3");
    let order = fs::read_to_string(directory.path().join("order")).unwrap();
    assert!(order.starts_with("one\ntwo\nthree\n"), "{order}");
}

#[test]
fn a_hook_that_hangs_is_killed_with_everything_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = script(
        directory.path(),
        "hangs",
        "sh -c 'echo $$ > \"$0.child\"; while :; do sleep 1; done' \"$0\" & wait",
    );
    let ended = supervisor(FAST)
        .flag(format!("--pre-start={hangs}"))
        .flag("--pre-start-timeout=500ms")
        .flag("--burst-max=1")
        .script("exit 0")
        .end();
    assert_eq!(ended.status.code(), Some(1));
    let hook = ended.only("prestart");
    assert_eq!(
        (&hook["exit_code"], &hook["error"]),
        (&(-1).into(), &"signal: killed".into())
    );
    assert!(hook["duration_ms"].as_u64().unwrap() >= 500, "{hook}");
    let child: i32 = text_of(&directory.path().join("hangs.child"))
        .trim()
        .parse()
        .unwrap();
    assert!(becomes(|| is_gone(child)));
}

#[test]
fn a_stop_during_a_pre_start_hook_ends_with_code_0_and_without_a_launch() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = script(
        directory.path(),
        "hangs",
        "echo x > \"$0.runs\"; exec sleep 1000",
    );
    let supervisor = supervisor([
        format!("--pre-start={hangs}"),
        "--pre-start=/bin/true".to_owned(),
        "--burst-max=1".to_owned(),
    ])
    .script("exit 0");
    text_of(&directory.path().join("hangs.runs"));
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.kinds(), ["prestart", "shutdown"]);
    assert_eq!(ended.only("prestart")["error"], "signal: killed");
}

#[test]
fn post_exit_hooks_run_during_a_shutdown_and_are_told_what_ended() {
    let directory = tempfile::tempdir().unwrap();
    let tells = script(
        directory.path(),
        "tells",
        "env | grep ^WORKER_ | sort > \"$0.told\"",
    );
    let mut supervisor = supervisor([format!("--post-exit={tells}")]).script("exec sleep 1000");
    let pid = supervisor.next("start")["pid"].clone();
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.kinds(), ["start", "exit", "postexit", "shutdown"]);
    let elapsed = &ended.only("exit")["duration_ms"];
    let told = fs::read_to_string(directory.path().join("tells.told")).unwrap();
    let expected = format!(
        "WORKER_ATTEMPT=1\nWORKER_DURATION_MS={}\nWORKER_EXIT_CODE=-1\nWORKER_PID={pid}\nWORKER_SIGNAL=terminated\n",
        elapsed.as_u64().unwrap_or(0)
    );
    assert_eq!(told, expected);
}

#[test]
fn what_hooks_write_is_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let writes = script(
        directory.path(),
        "writes",
        "echo out; echo err >&2; head -c 2000 /dev/zero | tr '\\0' x; echo; printf 'no end'",
    );
    let mut supervisor = supervisor([format!("--pre-start={writes}")]).script("exec sleep 1000");
    supervisor.next("start");
    let ended = supervisor.stop();
    let lines: Vec<_> = ended
        .log
        .iter()
        .filter(|line| line["msg"] == "hook output")
        .map(|line| {
            assert_eq!(line["hook"], writes.as_str());
            line["line"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(lines, ["out", "err", &"x".repeat(512), "no end"]);
}

#[test]
fn what_a_hook_leaves_behind_may_go_on_writing() {
    let directory = tempfile::tempdir().unwrap();
    let leaves = script(
        directory.path(),
        "leaves",
        "( while ! test -e \"$0.go\"; do sleep 0.01; done; echo late; echo done > \"$0.done\" ) &",
    );
    let mut supervisor = supervisor([format!("--pre-start={leaves}")]).script("exec sleep 1000");
    supervisor.next("start");
    fs::write(directory.path().join("leaves.go"), "").unwrap();
    text_of(&directory.path().join("leaves.done"));
    let logged = || supervisor.log().iter().any(|line| line["line"] == "late");
    assert!(becomes(logged));
    supervisor.stop();
}

#[test]
fn a_hook_that_never_stops_writing_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let floods = script(directory.path(), "floods", "yes & exit 0");
    let mut supervisor = supervisor([format!("--pre-start={floods}")]).script("exec sleep 1000");
    supervisor.next("start");
    let complained = || supervisor.output().contains("hook output is too long");
    assert!(becomes(complained));
    let supervisor_pid = supervisor.pid();
    let yes = crate::run::children(supervisor_pid);
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    let lines = ended.log.iter().filter(|line| line["line"] == "y").count();
    assert_eq!(lines, 200);
    // Its output is gone with the supervisor, and so is it.
    assert!(becomes(|| yes.iter().all(|(pid, _)| is_gone(*pid))));
}

#[test]
fn a_stop_does_not_wait_for_a_post_exit_hook_longer_than_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = script(directory.path(), "hangs", "exec sleep 1000");
    let mut supervisor = supervisor([format!("--post-exit={hangs}")])
        .flag("--post-exit-timeout=300ms")
        .script("exec sleep 1000");
    supervisor.next("start");
    supervisor.signal(Signal::INT);
    let ended = supervisor.end();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.only("postexit")["error"], "signal: killed");
}
