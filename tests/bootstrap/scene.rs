//! A directory with the script, a stand-in for execd, and whatever they leave behind.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::becomes;
use tempfile::TempDir;

/// Leaves its environment, arguments and process in files, and ends when asked to.
const STAND_IN: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
env > execd.env
readlink /proc/$$/fd/0 > execd.stdin
trap 'echo TERM > execd.signals; exit 0' TERM
echo "$$ $*" >> execd.starts
while :; do sleep 0.02; done
"#;

/// The shells the script is tried in; what is not installed is said loudly.
pub fn shells() -> Vec<Vec<&'static str>> {
    let mut shells = vec![vec!["bash"], vec!["dash"], vec!["busybox", "ash"]];
    shells.retain(|shell| {
        let found = Command::new(shell[0]).arg("--help").output().is_ok()
            || Command::new(shell[0]).args(["-c", ":"]).output().is_ok();
        if !found {
            support::skipped(&format!("{} is not installed", shell[0]));
        }
        found
    });
    shells
}

/// Where the script runs.
pub struct Scene {
    directory: TempDir,
    shell: Vec<&'static str>,
    script: String,
    wrapper: Option<String>,
}

impl Scene {
    /// With the stand-in as `execd`.
    pub fn new(shell: &[&'static str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
            shell: shell.to_vec(),
            script: fs::read_to_string(root.join("packaging/bootstrap.sh")).unwrap(),
            wrapper: None,
        };
        scene.program("execd", STAND_IN);
        scene
    }

    /// A place in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes an executable file.
    pub fn program(&self, name: &str, text: &str) {
        // By another process: a descriptor open for writing here could be inherited by a child of
        // another test, and a file open for writing cannot be executed.
        let status = Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(self.path(name))
            .stdin(text_file(text))
            .status();
        assert!(status.unwrap().success());
    }

    /// Sets one of the script's constants, where the real one takes longer than a test may.
    pub fn constant(&mut self, name: &str, value: u32) {
        let line = self.script.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        });
        let line = line.unwrap_or_else(|| panic!("no {name}")).to_owned();
        self.script = self.script.replace(&line, &format!("{name}={value}"));
    }

    /// Runs everything below a line of shell that ends in `exec "$@"`.
    pub fn wrapped(&mut self, wrapper: &str) {
        self.wrapper = Some(wrapper.to_owned());
    }

    /// Starts the script with `EXECD` and `EXECD_ENVS` in the directory, and these variables.
    pub fn start(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Running {
        let execd = self.path("execd");
        let envs = self.path("envs");
        let mut all = vec![
            ("EXECD", execd.to_str().unwrap()),
            ("EXECD_ENVS", envs.to_str().unwrap()),
        ];
        all.extend(variables);
        self.start_bare(&all, arguments, Stdio::null())
    }

    /// Starts the script with these variables and no others but `PATH` and `HOME`.
    pub fn start_bare(
        &self,
        variables: &[(&str, &str)],
        arguments: &[&str],
        stdin: Stdio,
    ) -> Running {
        let script = self.path("bootstrap.sh");
        fs::write(&script, &self.script).unwrap();
        let mut words: Vec<&str> = Vec::new();
        if let Some(wrapper) = &self.wrapper {
            words.extend(["sh", "-c", wrapper.as_str(), "sh"]);
        }
        words.extend(&self.shell);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(&script)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", self.directory.path())
            .envs(variables.iter().copied())
            .current_dir(self.directory.path())
            .stdin(stdin)
            .stdout(File::create(self.path("stdout")).unwrap())
            .stderr(File::create(self.path("stderr")).unwrap());
        Running {
            child: command.spawn().unwrap(),
            directory: self.directory.path().to_owned(),
        }
    }

    /// The text of a file, once it is there and ends its last line.
    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        let mut text = String::new();
        let path = self.path(name);
        let written = becomes(|| {
            text = fs::read_to_string(&path).unwrap_or_default();
            text.ends_with('\n')
        });
        assert!(written, "{name} has {text:?}\n{}", self.said());
        text
    }

    /// The lines of a file, once there are so many.
    #[track_caller]
    pub fn lines(&self, name: &str, count: usize) -> Vec<String> {
        let mut text = String::new();
        let enough = becomes(|| {
            text = fs::read_to_string(self.path(name)).unwrap_or_default();
            text.ends_with('\n') && text.lines().count() >= count
        });
        assert!(enough, "{name} has {text:?}\n{}", self.said());
        text.lines().map(str::to_owned).collect()
    }

    /// The value of a variable in a file that `env` wrote.
    #[track_caller]
    pub fn variable(&self, file: &str, name: &str) -> Option<String> {
        let text = self.text(file);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(str::to_owned)
    }

    /// What was written to standard output and error so far.
    pub fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        format!("{:?}\n{}{}", self.shell, read("stdout"), read("stderr"))
    }
}

fn text_file(text: &str) -> Stdio {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A script that runs; killed when dropped, and what it started asked to end.
pub struct Running {
    child: Child,
    directory: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its code, once it has ended.
    #[track_caller]
    pub fn code(&mut self) -> i32 {
        let mut status: Option<ExitStatus> = None;
        let ended = becomes(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let said = fs::read_to_string(self.directory.join("stderr")).unwrap();
        assert!(ended, "still running\n{said}");
        let status = status.unwrap();
        status.code().unwrap_or_else(|| panic!("{status}\n{said}"))
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            // Asked first, so that it ends what it has started.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ended = becomes(|| !self.is_running());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there, and has not ended.
pub fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn the_script_is_executable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/bootstrap.sh");
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}
