//! The command line: what is a flag, what is the worker, and how mistakes end.

use std::process::{Command, Stdio};

use crate::run::{FAST, PROGRAM, supervisor};

/// Exit code, standard output and standard error of a supervisor that starts nothing.
fn refused(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM)
        .arg("supervisor")
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_missing_worker_ends_with_code_2() {
    for arguments in [&[][..], &["--name=a"], &["--name=a", "--"], &["sh"]] {
        let (code, _, error) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(
            error.contains("missing worker command after `--`"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_flag_that_cannot_be_read_ends_with_code_2_and_names_itself() {
    for (flag, named) in [
        ("--nope", "--nope"),
        ("--grace-period=20", "GRACE_PERIOD"),
        ("--grace-period=soon", "GRACE_PERIOD"),
        ("--burst-max=many", "BURST_MAX"),
        ("--backoff-jitter=x", "BACKOFF_JITTER"),
        ("--on-burst-exit=perhaps", "--on-burst-exit"),
        ("--forward-signals=KILL", "FORWARD_SIGNALS"),
        ("--event-log=/dev/null/events", "/dev/null/events"),
        ("--config=/nowhere/config", "/nowhere/config"),
    ] {
        let (code, _, error) = refused(&[flag, "--", "true"]);
        assert_eq!(code, Some(2), "{flag}: {error}");
        assert!(error.contains(named), "{flag}: {error}");
    }
}

#[test]
fn help_and_the_configuration_need_no_worker() {
    for arguments in [["-h"], ["--help"], ["-help"]] {
        let (code, help, _) = refused(&arguments);
        assert_eq!(code, Some(0));
        assert!(help.contains("opensandbox supervisor [OPTIONS] -- WORKER [ARGUMENT]..."));
    }
    let (code, config, _) = refused(&["-grace-period", "20s", "--print-config"]);
    assert_eq!(code, Some(0));
    let line = "grace-period = \"20s\"  # OPENSANDBOX_SUPERVISOR_GRACE_PERIOD (flag)";
    assert!(config.lines().any(|l| l == line), "{config}");
}

#[test]
fn everything_behind_the_first_two_dashes_is_the_worker_s() {
    let mut supervisor =
        supervisor(FAST).worker(&["sh", "-c", "echo \"$0 $*\"", "foo", "--", "--name=b", "-h"]);
    supervisor.next("exit");
    let ended = supervisor.stop();
    assert!(
        ended
            .output
            .lines()
            .any(|line| line == "foo -- --name=b -h"),
        "{}",
        ended.output
    );
    assert!(ended.events.iter().all(|event| event["name"] == "sh"));
}

#[test]
fn words_before_the_two_dashes_are_ignored() {
    let ended = supervisor(FAST)
        .flag("--burst-max=1")
        .flag("stray")
        .flag("--name=late")
        .worker(&["/bin/true"])
        .end();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.only("start")["name"], "true");
    assert!(ended.logged("stray --name=late"));
}

#[test]
fn variables_set_what_flags_do_not() {
    let ended = supervisor(["--burst-max=1"])
        .env("OPENSANDBOX_SUPERVISOR_BURST_MAX", 5)
        .env("OPENSANDBOX_SUPERVISOR_NAME", "from variable")
        .worker(&["/bin/true"])
        .end();
    assert_eq!(ended.only("burst_exit")["attempts"], 1);
    assert_eq!(ended.only("start")["name"], "from variable");
}

#[test]
fn it_is_found_under_the_names_of_the_images() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["opensandbox-supervisor", "supervisor"] {
        let link = directory.path().join(name);
        std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
        let output = Command::new(&link)
            .args(["--burst-max=1", "--", "/bin/false"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("\"burst_exit\"")
        );
    }
}
