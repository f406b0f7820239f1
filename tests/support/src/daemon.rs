//! The real binary under test, and everything it says.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use crate::http::get;
use crate::netns::Namespace;
use crate::watch::Watch;

/// How long a daemon may take to become ready, and to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often readiness is asked for.
const POLL: Duration = Duration::from_millis(5);
/// The keys every log line begins with.
const FIRST_KEYS: [&str; 4] = ["level", "ts", "logger", "msg"];

/// Prepares the binary of the package whose integration test uses this:
/// `support::opensandbox!("egress").env("K", "v").spawn()`.
#[macro_export]
macro_rules! opensandbox {
    ($($argument:expr),* $(,)?) => {
        $crate::daemon::Builder::new(env!("CARGO_BIN_EXE_opensandbox"))$(.arg($argument))*
    };
}

/// How to start a daemon. Its environment is empty but for `PATH` and what [`Builder::env`] adds.
pub struct Builder<'a> {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    namespace: Option<&'a Namespace>,
    mounts: Vec<Mount>,
    denied: CapabilitySet,
    ready: Option<Ready>,
    unheard: bool,
}

/// Something only the daemon sees at a path.
enum Mount {
    /// What is at the first path, at the second.
    Bind(PathBuf, PathBuf),
    /// An empty file system of so many bytes.
    Disk(PathBuf, usize),
}

/// How a daemon shows that it is ready.
enum Ready {
    /// A successful answer to `GET path` at this address.
    Http(SocketAddr, String),
    /// A log line that contains this text.
    Line(String),
}

impl<'a> Builder<'a> {
    /// A daemon that is `program`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::from([("PATH".to_owned(), path)]),
            namespace: None,
            mounts: Vec::new(),
            denied: CapabilitySet::empty(),
            ready: None,
            unheard: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, variable: &str, value: impl fmt::Display) -> Self {
        self.environment
            .insert(variable.to_owned(), value.to_string());
        self
    }

    /// Runs it inside `namespace`.
    #[must_use]
    pub fn within(mut self, namespace: &'a Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Lets it alone see, at `to`, what is at `from`. Needs root.
    #[must_use]
    pub fn bind_mount(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.mounts.push(Mount::Bind(from.into(), to.into()));
        self
    }

    /// Gives it alone an empty file system of `bytes` bytes at `at`; the test reaches it through
    /// [`Daemon::path`]. Needs root.
    #[must_use]
    pub fn disk(mut self, at: impl Into<PathBuf>, bytes: usize) -> Self {
        self.mounts.push(Mount::Disk(at.into(), bytes));
        self
    }

    /// Takes these capabilities from it. Needs root.
    #[must_use]
    pub fn without(mut self, capabilities: CapabilitySet) -> Self {
        self.denied |= capabilities;
        self
    }

    /// It is ready when `GET path` at `address` succeeds.
    #[must_use]
    pub fn ready_when_http(mut self, address: SocketAddr, path: &str) -> Self {
        self.ready = Some(Ready::Http(address, path.to_owned()));
        self
    }

    /// It is ready when a line of standard output contains `text`.
    #[must_use]
    pub fn ready_when_line(mut self, text: &str) -> Self {
        self.ready = Some(Ready::Line(text.to_owned()));
        self
    }

    /// Nobody reads its standard output until [`Daemon::hear`].
    #[must_use]
    pub fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it ends or is not ready in time, with everything it said.
    #[must_use]
    pub fn spawn(self) -> Daemon {
        let daemon = self.start();
        let ready = match &self.ready {
            None => true,
            Some(Ready::Http(address, path)) => self.poll(&daemon, *address, path),
            Some(Ready::Line(text)) => daemon
                .said
                .wait(PATIENCE, |said| {
                    let heard = said.lines.iter().any(|line| line.contains(text.as_str()));
                    (heard || said.open == 0).then_some(heard)
                })
                .unwrap_or(false),
        };
        assert!(ready, "the daemon is not ready:\n{}", daemon.transcript());
        daemon
    }

    fn start(&self) -> Daemon {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A process has the namespaces and the capabilities of the thread that starts it.
        let start = || {
            self.confine();
            command.spawn()
        };
        let child = match self.namespace {
            Some(namespace) => namespace.enter(start),
            None => std::thread::scope(|scope| scope.spawn(start).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        };
        let mut child = child.expect("start the daemon");
        let said = Arc::<Watch<Said>>::default();
        let stdout = child.stdout.take().expect("a pipe");
        let stderr = child.stderr.take().expect("a pipe");
        listen(stderr, said.clone(), |said, line| said.errors.push(line));
        let mut daemon = Daemon {
            child,
            unheard: Some(stdout),
            said,
            status: None,
        };
        if !self.unheard {
            daemon.hear();
        }
        daemon
    }

    /// Makes this thread what the daemon is to be.
    fn confine(&self) {
        if !self.mounts.is_empty() {
            // SAFETY: the thread unshares only its own mounts, not its descriptor table, and ends
            // once it has started the daemon.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
                .expect("unshare the mounts");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).expect("make the mounts private");
        }
        for mount in &self.mounts {
            match mount {
                Mount::Bind(from, to) => rustix::mount::mount_bind(from, to),
                Mount::Disk(at, bytes) => {
                    let size = CString::new(format!("size={bytes}")).expect("an option");
                    rustix::mount::mount("disk", at, "tmpfs", MountFlags::empty(), &*size)
                }
            }
            .expect("mount");
        }
        for capability in self.denied.iter() {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .expect("give a capability up");
        }
    }

    fn poll(&self, daemon: &Daemon, address: SocketAddr, path: &str) -> bool {
        let ask = || get(address, path).is_ok_and(|answer| answer.status / 100 == 2);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && daemon.said.lock().open > 0 {
            let ready = match self.namespace {
                Some(namespace) => namespace.enter(ask),
                None => ask(),
            };
            if ready {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

/// What a daemon has written.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    errors: Vec<String>,
    /// Of its pipes that are read, those it has not closed.
    open: usize,
}

fn listen(
    pipe: impl std::io::Read + Send + 'static,
    said: Arc<Watch<Said>>,
    push: fn(&mut Said, String),
) {
    said.update(|said| said.open += 1);
    let listen = move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            said.update(|said| push(said, line));
        }
        said.update(|said| said.open -= 1);
    };
    std::thread::Builder::new()
        .name("daemon-output".to_owned())
        .spawn(listen)
        .expect("start a reader");
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    unheard: Option<ChildStdout>,
    said: Arc<Watch<Said>>,
    status: Option<ExitStatus>,
}

impl Daemon {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it was seen to end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.status.is_some()
    }

    /// Begins to read the standard output of a daemon that was [`Builder::unheard`].
    pub fn hear(&mut self) {
        if let Some(stdout) = self.unheard.take() {
            listen(stdout, self.said.clone(), |said, line| {
                said.lines.push(line)
            });
        }
    }

    /// Closes the standard output of a daemon that was [`Builder::unheard`].
    pub fn hang_up(&mut self) {
        self.unheard = None;
    }

    /// Where the test finds the daemon's own `path`, which must be absolute.
    ///
    /// # Panics
    ///
    /// When it is relative.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref().strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(path)
    }

    /// A number of `/proc/PID/status`, for example `VmRSS` in KiB or `Threads`.
    ///
    /// # Panics
    ///
    /// When it is gone, or the kernel does not tell.
    #[must_use]
    pub fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the daemon's status");
        let value = status.lines().find_map(|line| {
            let value = line.strip_prefix(field)?.strip_prefix(':')?;
            value.split_whitespace().next()?.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {field} in {status}"))
    }

    /// The names of its threads.
    ///
    /// # Panics
    ///
    /// When it is gone.
    #[must_use]
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks
            .expect("the daemon's threads")
            // A thread may end while it is looked at.
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal the daemon");
    }

    /// SIGTERM, then waits for the end; checks every log line.
    ///
    /// # Panics
    ///
    /// When it does not end in time, or a line is malformed.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let status = self.wait(PATIENCE);
        self.assert_well_formed();
        status
    }

    /// SIGKILL: what a crash leaves behind.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _killed = self.wait(PATIENCE);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end in time, with everything it said.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the daemon") {
                self.status = Some(status);
                // The readers may still have lines to take.
                let all = |said: &mut Said| (said.open == 0).then_some(());
                let _drained = self.said.wait(PATIENCE, all);
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon still runs:\n{}",
                self.transcript()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Everything it wrote, for messages.
    #[must_use]
    pub fn transcript(&self) -> String {
        let said = self.said.lock();
        let (lines, errors) = (said.lines.join("\n"), said.errors.join("\n"));
        format!("-- standard output\n{lines}\n-- standard error\n{errors}\n")
    }

    /// Its standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.said.lock().errors.join("\n")
    }

    /// Its log lines, without the banner before them and without malformed ones.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let said = self.said.lock();
        let lines = said.lines.iter();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Its log lines whose `opensandbox.event` is `name`.
    #[must_use]
    pub fn events(&self, name: &str) -> Vec<Value> {
        let mut log = self.log();
        log.retain(|line| line["opensandbox.event"] == name);
        log
    }

    /// Waits for a log line that `is_it` accepts.
    ///
    /// # Panics
    ///
    /// When none comes in time, with everything it said.
    pub fn wait_for_line(&self, timeout: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut seen = 0;
        let found = self.said.wait(timeout, |said| {
            let new = said.lines[seen..].iter();
            let found = new
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(&is_it);
            seen = said.lines.len();
            found
        });
        found.unwrap_or_else(|| panic!("no such line:\n{}", self.transcript()))
    }

    /// Waits for an event `name` that `is_it` accepts.
    ///
    /// # Panics
    ///
    /// When none comes in time, with everything it said.
    pub fn wait_for_event(&self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_line(PATIENCE, |line| {
            line["opensandbox.event"] == name && is_it(line)
        })
    }

    /// Checks that every line after the banner is one JSON object that begins with the keys
    /// `level`, `ts`, `logger`, `msg`, and has no key twice (telemetry contract, section 9).
    ///
    /// # Panics
    ///
    /// With the lines that do not.
    pub fn assert_well_formed(&self) {
        let said = self.said.lock();
        let log = said.lines.iter().skip_while(|line| !line.starts_with('{'));
        let wrong: Vec<_> = log
            .filter_map(|line| malformed(line).map(|why| format!("{why}: {line}")))
            .collect();
        assert!(wrong.is_empty(), "malformed log lines: {wrong:#?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.status.is_none() {
            // It may have ended by itself.
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.transcript());
        }
    }
}

/// What is wrong with a log line.
fn malformed(line: &str) -> Option<String> {
    let fields = match fields(line) {
        Ok(fields) => fields,
        Err(error) => return Some(error.to_string()),
    };
    let keys: Vec<_> = fields.iter().map(|(key, _)| key.as_str()).collect();
    if !keys.starts_with(&FIRST_KEYS) {
        return Some(format!("begins with {:?}", &keys[..keys.len().min(4)]));
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Some(format!("key {} twice", pair[0]));
    }
    let text = |index: usize| fields[index].1.as_str().unwrap_or_default();
    if !["debug", "info", "warn", "error"].contains(&text(0)) {
        return Some(format!("level {:?}", text(0)));
    }
    let shape: String = text(1)
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if shape != "0000-00-00T00:00:00.000Z" {
        return Some(format!("ts {:?}", text(1)));
    }
    None
}

/// The fields of a JSON object in order, duplicates included.
fn fields(line: &str) -> serde_json::Result<Vec<(String, Value)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("one JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let fields = deserializer.deserialize_map(Fields)?;
    deserializer.end()?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::malformed;

    #[test]
    fn log_lines_are_judged() {
        let good =
            r#"{"level":"info","ts":"2026-11-20T23:51:47.822Z","logger":"l","msg":"m","a":1}"#;
        assert_eq!(malformed(good), None);
        for bad in [
            "plain text",
            r#"{"ts":"2026-11-20T23:51:47.822Z","level":"info","logger":"l","msg":"m"}"#,
            r#"{"level":"info","ts":"2026-11-20T23:51:47Z","logger":"l","msg":"m"}"#,
            r#"{"level":"info","ts":"2026-11-20T23:51:47.822Z","logger":"l","msg":"m","a":1,"a":2}"#,
            r#"{"level":"loud","ts":"2026-11-20T23:51:47.822Z","logger":"l","msg":"m"}"#,
            r#"{"level":"info","ts":"2026-11-20T23:51:47.822Z","logger":"l","msg":"m"} trailing"#,
        ] {
            assert!(malformed(bad).is_some(), "{bad}");
        }
    }
}
