//! A running supervisor and what it says.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;
use serde_json::Value;
use support::becomes;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_opensandbox");

/// How long anything may take that is meant to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Flags with which restarts come fast, and as many of them as a slow machine may need.
pub const FAST: [&str; 3] = [
    "--backoff-min=10ms",
    "--backoff-max=10ms",
    "--burst-max=1000",
];

/// How to start a supervisor.
pub struct Builder {
    flags: Vec<OsString>,
    variables: Vec<(String, String)>,
    new_pid_namespace: bool,
}

/// A supervisor with these flags and nothing in its environment but `PATH`.
pub fn supervisor<S: AsRef<str>>(flags: impl IntoIterator<Item = S>) -> Builder {
    Builder {
        flags: flags.into_iter().map(|flag| flag.as_ref().into()).collect(),
        variables: Vec::new(),
        new_pid_namespace: false,
    }
}

impl Builder {
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// As process 1 of a new namespace.
    pub fn in_new_pid_namespace(mut self) -> Self {
        self.new_pid_namespace = true;
        self
    }

    /// Runs a shell script as the worker.
    pub fn script(self, script: &str) -> Supervisor {
        self.worker(&["sh", "-c", script])
    }

    pub fn worker(self, worker: &[&str]) -> Supervisor {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("stdout");
        let mut command = Command::new(PROGRAM);
        command
            .arg("supervisor")
            .args(&self.flags)
            .arg("--")
            .args(worker)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .envs(self.variables)
            .current_dir(directory.path())
            .stdout(File::create(&output).unwrap())
            .stderr(Stdio::piped());
        let spawn = || {
            if self.new_pid_namespace {
                // SAFETY: the descriptor table stays shared; the thread only starts one process.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.unwrap();
            }
            command.spawn().unwrap()
        };
        let mut child = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        let (sender, events) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Supervisor {
            child,
            directory,
            output,
            lines: events,
            events: Vec::new(),
        }
    }
}

/// A running supervisor; killed when dropped, and its worker with it.
pub struct Supervisor {
    child: Child,
    directory: TempDir,
    output: PathBuf,
    lines: Receiver<String>,
    events: Vec<Value>,
}

impl Supervisor {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The directory it was started in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Everything on standard output: banner, log, and what the worker wrote.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    /// The messages of its log.
    pub fn log(&self) -> Vec<Value> {
        let output = self.output();
        let lines = output.lines().filter(|line| line.starts_with("{\"level\""));
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The next event of this kind, which has to come soon.
    #[track_caller]
    pub fn next(&mut self, kind: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!(
                    "no event {kind} after {:#?}\n{}",
                    self.events,
                    self.output()
                );
            };
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                panic!("not an event: {line}");
            };
            self.events.push(event.clone());
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// Asks it to stop, and waits for that.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let status = self.wait();
        let log = self.log();
        let output = self.output();
        let mut events = std::mem::take(&mut self.events);
        for line in self.lines.iter() {
            events.push(serde_json::from_str(&line).unwrap());
        }
        Ended {
            status,
            events,
            log,
            output,
        }
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        let ended = becomes(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "still running:\n{}", self.output());
        status.unwrap()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a supervisor that has ended has said.
pub struct Ended {
    pub status: ExitStatus,
    pub events: Vec<Value>,
    pub log: Vec<Value>,
    pub output: String,
}

impl Ended {
    /// The events of this kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        let events = self.events.iter();
        events.filter(|event| event["event"] == kind).collect()
    }

    /// The kinds of all events, in order.
    pub fn kinds(&self) -> Vec<&str> {
        let events = self.events.iter();
        events
            .map(|event| event["event"].as_str().unwrap())
            .collect()
    }

    /// The only event of this kind.
    #[track_caller]
    pub fn only(&self, kind: &str) -> &Value {
        match self.all(kind)[..] {
            [event] => event,
            _ => panic!("not one {kind} in {:#?}", self.events),
        }
    }

    pub fn logged(&self, message: &str) -> bool {
        let has = |line: &Value| line["msg"].as_str().unwrap().contains(message);
        self.log.iter().any(has)
    }
}

/// The text of a file once it is there and ends its last line.
#[track_caller]
pub fn text_of(path: &Path) -> String {
    let mut text = String::new();
    let written = becomes(|| {
        text = fs::read_to_string(path).unwrap_or_default();
        text.ends_with('\n')
    });
    assert!(written, "{} has {text:?}", path.display());
    text
}

/// The state letter and the parent of a process, if it exists.
pub fn state(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Whether a process is gone, or as good as.
pub fn is_gone(pid: i32) -> bool {
    state(pid).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

/// The children of a process, by id and state.
pub fn children(parent: Pid) -> Vec<(i32, char)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let (state, its_parent) = state(pid)?;
            (its_parent == parent.as_raw_pid()).then_some((pid, state))
        })
        .collect()
}

/// Writes an executable script.
pub fn script(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    // By another process: a descriptor open for writing here could be inherited by a child of
    // another test, and a file open for writing cannot be executed.
    let status = Command::new("sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"",
            "sh",
        ])
        .arg(&path)
        .arg(text)
        .status();
    assert!(status.unwrap().success());
    path.to_str().unwrap().to_owned()
}
