//! Signals, and the end of everything.

use std::fs;

use rustix::process::Signal;

use crate::scene::{Scene, is_alive, shells};
use support::becomes;

/// Says what it gets, and takes its time to end.
const HELPER: &str = "#!/bin/sh\n\
    trap 'echo \"TERM $*\" > user.signals; sleep 0.2; echo over >> user.signals; exit 9' TERM\n\
    echo $$ > user.pid\n\
    while :; do sleep 0.02; done\n";

#[test]
fn a_signal_to_end_reaches_the_command_and_execd() {
    for shell in shells() {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let scene = Scene::new(&shell);
            scene.program("helper", HELPER);
            let variables = [("BOOTSTRAP_CMD", "exec ./helper a b")];
            let mut running = scene.start(&variables, &[]);
            scene.text("user.pid");
            let execd = scene.lines("execd.starts", 1);
            running.signal(signal);
            assert_eq!(running.code(), 0, "{}", scene.said());
            // It was waited for.
            assert_eq!(scene.text("user.signals"), "TERM a b\nover\n");
            assert_eq!(scene.text("execd.signals"), "TERM\n");
            let pid = execd[0].split(' ').next().unwrap();
            assert!(!is_alive(pid));
        }
    }
}

#[test]
fn a_second_signal_changes_nothing() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        scene.program(
            "helper",
            "#!/bin/sh\ntrap 'echo TERM >> user.signals' TERM\necho $$ > user.pid\n\
             until [ -e enough ]; do sleep 0.02; done\necho over >> user.signals\n",
        );
        let mut running = scene.start(&[], &["./helper"]);
        scene.text("user.pid");
        scene.text("execd.starts");
        for count in 1..=3 {
            running.signal(Signal::TERM);
            scene.lines("user.signals", count);
            assert!(running.is_running());
        }
        fs::write(scene.path("enough"), "").unwrap();
        assert_eq!(running.code(), 0);
        assert!(scene.text("user.signals").ends_with("over\n"));
    }
}

#[test]
fn the_end_of_the_command_ends_execd() {
    for shell in shells() {
        let scene = Scene::new(&shell);
        let command = "until [ -s execd.starts ]; do sleep 0.01; done; exit 6";
        let mut running = scene.start(&[], &["-c", command]);
        assert_eq!(running.code(), 6);
        assert_eq!(scene.text("execd.signals"), "TERM\n");
    }
}

#[test]
fn an_execd_that_does_not_end_is_killed() {
    for shell in shells() {
        let mut scene = Scene::new(&shell);
        scene.constant("osb_grace", 1);
        scene.program(
            "execd",
            "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ntrap 'echo TERM > execd.signals' TERM\n\
             echo $$ >> execd.starts\nwhile :; do sleep 0.02; done\n",
        );
        let command = "until [ -s execd.starts ]; do sleep 0.01; done; exit 4";
        let mut running = scene.start(&[], &["-c", command]);
        assert_eq!(running.code(), 4, "{}", scene.said());
        assert_eq!(scene.text("execd.signals"), "TERM\n");
        let pid = scene.lines("execd.starts", 1);
        assert!(becomes(|| !is_alive(&pid[0])));
    }
}

#[test]
fn a_stop_does_not_wait_for_the_next_start_of_execd() {
    for shell in shells() {
        let mut scene = Scene::new(&shell);
        scene.constant("osb_longest_pause", 1000);
        scene.program("execd", "#!/bin/sh\nexit 1\n");
        let script = fs::read_to_string(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/bootstrap.sh"),
        )
        .unwrap();
        assert!(script.contains("osb_pause=1\n"));
        let mut running = scene.start(&[], &["sleep", "1000"]);
        // Two crashes, then a pause of four seconds and more.
        assert!(becomes(|| scene.said().contains("again in 4s")));
        running.signal(Signal::TERM);
        assert_eq!(running.code(), 0);
    }
}

#[test]
fn as_process_one_it_passes_the_code_and_leaves_nobody() {
    if !support::require_root("a process namespace") {
        return;
    }
    for shell in shells() {
        let mut scene = Scene::new(&shell);
        scene.wrapped("exec unshare --pid --fork --mount-proc --kill-child \"$@\"");
        // Orphans, which process 1 has to collect.
        let command = "echo $PPID > parent; i=0; while [ $i -lt 100 ]; do (true & exit); i=$((i+1)); \
                       done; until [ -s execd.starts ]; do sleep 0.01; done; \
                       sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status > zombies; exit 11";
        let mut running = scene.start(&[], &["-c", command]);
        assert_eq!(running.code(), 11, "{}", scene.said());
        assert_eq!(scene.text("parent"), "1\n");
        assert_eq!(fs::read_to_string(scene.path("zombies")).unwrap(), "");
    }
}
