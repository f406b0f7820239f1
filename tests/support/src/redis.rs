//! A real Redis, which can go away and come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port;
use crate::tools::require_programs;

/// How long it may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a database that is gone with it; stops when dropped.
pub struct Server {
    directory: TempDir,
    port: u16,
    /// Further lines of its configuration.
    settings: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// Starts one, on a port of 127.0.0.1 and on a socket; `None` where there is none installed,
    /// which was then said.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new())
    }

    /// Starts one with further settings, which may be made in its directory.
    ///
    /// # Panics
    ///
    /// When it does not answer in time.
    #[must_use]
    pub fn start_with(settings: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        if !require_programs(&["redis-server", "redis-cli"]) {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let mut server = Self {
            port: free_port(),
            settings: settings(directory.path()),
            directory,
            process: None,
        };
        server.up();
        Some(server)
    }

    /// Starts it again where it was, empty.
    ///
    /// # Panics
    ///
    /// When it does not answer in time.
    pub fn up(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        self.process = Some(command.spawn().expect("start redis-server"));
        let deadline = Instant::now() + PATIENCE;
        while self.try_command(&["PING"]).as_deref() != Some("PONG") {
            assert!(Instant::now() < deadline, "Redis does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it at once.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _killed = process.kill();
            let _reaped = process.wait();
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The socket it listens on as well.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn try_command(&self, words: &[&str]) -> Option<String> {
        let output = Command::new("redis-cli")
            .args(["--raw", "--no-auth-warning"])
            .arg("-s")
            .arg(self.socket())
            .args(words)
            .output()
            .expect("start redis-cli");
        let said = String::from_utf8_lossy(&output.stdout);
        output.status.success().then(|| said.trim_end().to_owned())
    }

    /// What it answers to a command.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words)
            .unwrap_or_else(|| panic!("Redis does not answer {words:?}"))
    }

    /// The elements of a list, the oldest first, as a consumer takes them from its tail.
    #[must_use]
    pub fn consumed(&self, options: &[&str], list: &str) -> Vec<String> {
        let all = self.command(&[options, &["LRANGE", list, "0", "-1"]].concat());
        let elements = all.lines().filter(|line| !line.is_empty());
        let mut elements: Vec<_> = elements.map(str::to_owned).collect();
        elements.reverse();
        elements
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}
