//! The duties of process 1: orphans, and signals that nobody else would heed.

use rustix::process::Signal;

use crate::run::{Supervisor, children, supervisor, text_of};
use support::becomes;

/// Leaves 1,000 orphans with codes of their own, some in sessions of their own, and ends with 42.
const ORPHANS: &str = "i=0; while [ $i -lt 950 ]; do (exit 7 &); i=$((i+1)); done; \
     while [ $i -lt 1000 ]; do (setsid sh -c 'sleep 0.05; exit 9' &); i=$((i+1)); done; exit 42";

fn no_zombie_stays(supervisor: &Supervisor) {
    let zombies = || {
        let mut children = children(supervisor.pid());
        children.retain(|(_, state)| *state == 'Z');
        children
    };
    assert!(becomes(|| zombies().is_empty()), "{:?}", zombies());
}

#[test]
fn a_thousand_orphans_are_reaped_and_the_status_of_the_worker_is_not() {
    let mut supervisor = supervisor(["--backoff-min=300ms", "--backoff-max=300ms"]).script(ORPHANS);
    for attempt in 1..=2 {
        let exit = supervisor.next("exit");
        assert_eq!(
            (&exit["attempt"], &exit["exit_code"]),
            (&attempt.into(), &42.into())
        );
        no_zombie_stays(&supervisor);
    }
    assert_eq!(supervisor.stop().status.code(), Some(0));
}

#[test]
fn no_status_is_taken_while_orphans_pour_in() {
    let script = "echo x >> runs; n=$(wc -l < runs); \
        i=0; while [ $i -lt 50 ]; do (exit 7 &); i=$((i+1)); done; exit $n";
    let mut supervisor = supervisor(["--backoff-min=1ms", "--backoff-max=1ms"])
        .flag("--burst-max=1000")
        .flag("--post-exit=/bin/false")
        .script(script);
    for attempt in 1..=20 {
        let exit = supervisor.next("exit");
        assert_eq!(
            (&exit["attempt"], &exit["exit_code"]),
            (&attempt.into(), &attempt.into())
        );
        assert_eq!(supervisor.next("postexit")["exit_code"], 1);
    }
    supervisor.stop();
}

#[test]
fn as_process_one_it_reaps_forwards_and_ends() {
    if !support::require_root("a process namespace") {
        return;
    }
    let script = format!(
        "trap 'echo HUP > hup' HUP; ({ORPHANS}); echo ready > ready; while :; do sleep 0.01; done"
    );
    let mut supervisor = supervisor(["--forward-signals=HUP"])
        .in_new_pid_namespace()
        .script(&script);
    let start = supervisor.next("start");
    // Process 1 is the supervisor.
    assert!(start["pid"].as_i64().unwrap() < 10, "{start}");
    let directory = supervisor.directory().to_owned();
    text_of(&directory.join("ready"));
    no_zombie_stays(&supervisor);
    // A signal process 1 has no handler for is dropped by the kernel, and must do no harm.
    supervisor.signal(Signal::USR1);
    supervisor.signal(Signal::HUP);
    text_of(&directory.join("hup"));
    let ended = supervisor.stop();
    assert_eq!(ended.status.code(), Some(0));
    let exit = ended.only("exit");
    assert_eq!(
        (&exit["signal"], &exit["reason"]),
        (&"terminated".into(), &"shutdown".into())
    );
}

#[test]
fn as_process_one_a_stop_right_after_the_start_is_not_lost() {
    if !support::require_root("a process namespace") {
        return;
    }
    for _ in 0..20 {
        let mut supervisor = supervisor([""; 0])
            .in_new_pid_namespace()
            .script("exec sleep 1000");
        supervisor.next("start");
        assert_eq!(supervisor.stop().status.code(), Some(0));
    }
}
