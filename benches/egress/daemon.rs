//! The real binary, started as an operator would, but without a log on the terminal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::bench::Process;
use support::free_port;

use crate::load::{Sides, Target, first_answer};
use crate::receiver::Receiver;

/// A user without any right, so that the kernel's redirect of the machine is left alone.
const NOBODY: u32 = 65_534;

/// The binary under test and a place for its files.
pub struct Installed {
    binary: PathBuf,
    directory: tempfile::TempDir,
    upstream: SocketAddr,
    sides: Sides,
}

/// How long after its start a daemon did something.
#[derive(Clone, Copy)]
pub struct Ready {
    /// It answered a query.
    pub dns: Duration,
    /// It answered `GET /healthz` with 200.
    pub health: Duration,
}

impl Installed {
    /// Of the binary that `OPENSANDBOX_BENCH_BINARY` names, or else the one built for this run.
    pub fn new(upstream: SocketAddr, sides: Sides) -> Self {
        let built = std::env::var_os("OPENSANDBOX_BENCH_BINARY")
            .map_or_else(|| env!("CARGO_BIN_EXE_opensandbox").into(), PathBuf::from);
        let directory = tempfile::tempdir().expect("a directory");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).expect("our directory");
        // Where anyone may execute it, and no debugging information takes part.
        let binary = directory.path().join("opensandbox");
        std::fs::copy(&built, &binary).unwrap_or_else(|error| panic!("{built:?}: {error}"));
        Self {
            binary,
            directory,
            upstream,
            sides,
        }
    }

    /// The binary's size in MiB.
    pub fn size(&self) -> f64 {
        let length = std::fs::metadata(&self.binary).expect("the binary").len();
        length as f64 / f64::from(1 << 20)
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How long `opensandbox --version` takes: what any program of this size does.
    pub fn version(&self) -> Duration {
        let start = Instant::now();
        let status = Command::new(&self.binary)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("the binary runs").success());
        start.elapsed()
    }

    /// Starts egress with `telemetry` and a log file, and waits until it answers.
    pub fn start(&self, telemetry: &[(&str, &str)]) -> (Daemon, Ready) {
        let (dns, http) = (address(free_port()), address(free_port()));
        let rules =
            r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"*.bench.test"}]}"#;
        let log = self.directory().join(format!("log-{}", dns.port()));
        let mut command = Command::new(&self.binary);
        command
            .arg("egress")
            .env_clear()
            .env("OPENSANDBOX_EGRESS_RULES", rules)
            .env("OPENSANDBOX_EGRESS_RULES_DIR", self.directory())
            .env("OPENSANDBOX_EGRESS_DNS_PORT", dns.port().to_string())
            .env("OPENSANDBOX_EGRESS_HTTP_ADDR", http.to_string())
            .env("OPENSANDBOX_EGRESS_DNS_UPSTREAM", self.upstream.to_string())
            .env("OPENSANDBOX_EGRESS_ALLOW_UNENFORCED", "true")
            .env("OPENSANDBOX_EGRESS_SANDBOX_ID", "sb-bench")
            .env("OPENSANDBOX_LOG_OUTPUT", log)
            .envs(telemetry.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let start = Instant::now();
        let child = command.spawn().expect("the binary runs");
        first_answer(dns);
        let answered = start.elapsed();
        while get(http, "/healthz") != Some(200) {
            std::thread::sleep(Duration::from_micros(100));
        }
        let ready = Ready {
            dns: answered,
            health: start.elapsed(),
        };
        let process = Process(child.id());
        for (thread, name, _) in process.threads() {
            self.sides.pin(Some(thread), name == "dns");
        }
        let daemon = Daemon {
            child,
            process,
            dns,
            http,
        };
        (daemon, ready)
    }
}

/// The variables that send metrics, and log records too if asked, to `receiver`.
pub fn telemetry(receiver: &Receiver, logs: bool) -> [(&'static str, &str); 3] {
    let exporter = if logs { "otlp" } else { "none" };
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
        ("OTEL_LOGS_EXPORTER", exporter),
        // So that exports happen while it is measured.
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ]
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A running egress; killed when dropped.
pub struct Daemon {
    child: Child,
    /// As procfs shows it.
    pub process: Process,
    /// Where it filters.
    pub dns: SocketAddr,
    http: SocketAddr,
}

impl Daemon {
    /// Its filter.
    pub fn target(&self) -> Target {
        Target {
            address: self.dns,
            process: self.process,
            thread: "dns",
            whole: true,
        }
    }

    /// Replaces its policy; how long the answer took.
    pub fn replace_policy(&self, policy: &str) -> Duration {
        let start = Instant::now();
        let head = format!("content-length: {}\r\n", policy.len());
        let status = request(self.http, "POST /policy", &head, policy);
        assert_eq!(status, Some(200), "the policy is taken");
        start.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> Option<u16> {
    request(address, &format!("GET {path}"), "", "")
}

/// The status of an answer; `None` while nobody listens.
fn request(address: SocketAddr, line: &str, head: &str, body: &str) -> Option<u16> {
    let mut connection = TcpStream::connect(address).ok()?;
    let head = format!("{line} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n{head}\r\n");
    connection.write_all(head.as_bytes()).ok()?;
    connection.write_all(body.as_bytes()).ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).ok()?;
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}
