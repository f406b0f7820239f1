//! The real binary, started as in a sandbox, but with its log in a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::bench::Process;
use support::free_port;
use support::http::{Connection, get};
use tempfile::TempDir;

/// The body that runs the shortest command.
pub const REQUEST: &str = r#"{"command":"true"}"#;

/// The binary under test and a place for its files.
pub struct Installed {
    binary: PathBuf,
    directory: TempDir,
}

impl Installed {
    /// Of the binary that `OPENSANDBOX_BENCH_BINARY` names, or else the one built for this run.
    pub fn new() -> Self {
        Self {
            binary: std::env::var_os("OPENSANDBOX_BENCH_BINARY")
                .map_or_else(|| env!("CARGO_BIN_EXE_opensandbox").into(), PathBuf::from),
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn start(&self, applet: &str, arguments: &[&str]) -> Child {
        let log = self.directory().join(format!("{applet}.log"));
        Command::new(&self.binary)
            .arg(applet)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OPENSANDBOX_LOG_OUTPUT", log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs")
    }

    /// execd, and how long it took to answer.
    pub fn execd(&self) -> (Running, Duration) {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let begin = Instant::now();
        let child = self.start("execd", &["--port", &address.port().to_string()]);
        while !get(address, "/ping").is_ok_and(|answer| answer.status == 200) {
            std::thread::sleep(Duration::from_micros(100));
        }
        let elapsed = begin.elapsed();
        (Running { child, address }, elapsed)
    }

    /// A supervisor of something that sleeps.
    pub fn supervisor(&self) -> Running {
        let child = self.start("supervisor", &["--", "sleep", "1000"]);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Running { child, address }
    }
}

/// A daemon that runs; killed when dropped.
pub struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Runs `many` commands, so many of them at once.
    pub fn commands(&self, concurrent: usize, many: usize) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..concurrent.min(many) {
                scope.spawn(|| {
                    let mut connection = Connection::open(self.address).expect("a connection");
                    while next.fetch_add(1, Ordering::Relaxed) < many {
                        let answer = connection.request("POST", "/command", REQUEST);
                        let answer = answer.expect("an answer");
                        assert!(
                            answer.body.contains("execution_complete"),
                            "{}",
                            answer.body
                        );
                    }
                });
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
