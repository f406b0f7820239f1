//! Stamps version, commit, build time and compiler into the binary.
//!
//! Each comes from the variable of its name (`VERSION`, `GIT_COMMIT`, `BUILD_TIME`), else from what
//! the source tree knows. The build time is `SOURCE_DATE_EPOCH` or the time of the commit, never
//! the clock, so that the same source gives the same binary.

use std::env;
use std::process::Command;

/// What stands for a commit or a time nobody knows.
const UNKNOWN: &str = "assigned-at-build-time";

fn main() {
    for name in ["VERSION", "GIT_COMMIT", "BUILD_TIME", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    // Every commit and checkout appends to this log.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }

    let version = given("VERSION")
        .or_else(|| given("CARGO_PKG_VERSION"))
        .unwrap_or_else(|| "dirty".to_owned());
    let commit = given("GIT_COMMIT")
        .or_else(|| git(&["rev-parse", "HEAD"]))
        .unwrap_or_else(|| UNKNOWN.to_owned());
    let time = given("BUILD_TIME")
        .or_else(|| given("SOURCE_DATE_EPOCH").and_then(|seconds| utc(&seconds)))
        .or_else(|| git(&["log", "-1", "--format=%ct"]).and_then(|seconds| utc(&seconds)))
        .unwrap_or_else(|| UNKNOWN.to_owned());
    let compiler = given("RUSTC")
        .and_then(|rustc| output(Command::new(rustc).arg("--version")))
        .and_then(|line| line.split(' ').nth(1).map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=OPENSANDBOX_VERSION={version}");
    println!("cargo::rustc-env=OPENSANDBOX_COMMIT={commit}");
    println!("cargo::rustc-env=OPENSANDBOX_BUILD_TIME={time}");
    println!("cargo::rustc-env=OPENSANDBOX_COMPILER={compiler}");
}

/// The variable, if it has a value that fits on the line of a build directive.
fn given(name: &str) -> Option<String> {
    let value = env::var(name).ok()?.trim().to_owned();
    (!value.is_empty() && !value.contains('\n')).then_some(value)
}

fn git(arguments: &[&str]) -> Option<String> {
    output(Command::new("git").args(arguments))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Seconds since 1970 as `2006-01-02T15:04:05Z`.
fn utc(seconds: &str) -> Option<String> {
    let seconds: u64 = seconds.parse().ok()?;
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    Some(format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    ))
}
