//! Who is measured: ingress, a bare proxy of hyper, nginx and HAProxy, each one process on the first
//! core, and a direct connection.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::bench::Process;
use support::free_port;

use crate::bare;

pub const OURS: &str = "ingress";
pub const SILENT: &str = "ingress silent";
pub const BARE: &str = "bare hyper";
pub const NGINX: &str = "nginx";

/// A way to the backend.
pub struct Contender {
    pub name: &'static str,
    pub address: SocketAddr,
    /// What requests say the host is.
    pub host: String,
    child: Option<Child>,
}

impl Contender {
    pub fn is_direct(&self) -> bool {
        self.child.is_none()
    }

    /// The process of its own, if it has one.
    pub fn process(&self) -> Option<Process> {
        self.child.as_ref().map(|child| Process(child.id()))
    }

    /// What it has used so far, on all its threads.
    pub fn processor_time(&self) -> Duration {
        self.process()
            .map_or(Duration::ZERO, |process| process.processor_time(None))
    }

    /// Its memory in MiB.
    pub fn resident(&self) -> Option<f64> {
        self.process().map(|process| process.resident().0)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The binary under test, and a place for everybody's files.
pub struct Installed {
    binary: PathBuf,
    directory: tempfile::TempDir,
    backend: SocketAddr,
    receiver: String,
}

impl Installed {
    /// Of the binary that `OPENSANDBOX_BENCH_BINARY` names, or else the one built for this run.
    pub fn new(backend: SocketAddr) -> Self {
        let binary = std::env::var_os("OPENSANDBOX_BENCH_BINARY")
            .map_or_else(|| env!("CARGO_BIN_EXE_opensandbox").into(), PathBuf::from);
        Self {
            binary,
            directory: tempfile::tempdir().expect("a directory"),
            backend,
            receiver: receiver(),
        }
    }

    /// A direct connection first, and everybody that is there.
    pub fn start_all(&self) -> Vec<Contender> {
        let direct = Contender {
            name: "direct",
            address: self.backend,
            host: self.backend.to_string(),
            child: None,
        };
        let mut all = vec![direct, self.ingress(), self.silent(), self.bare()];
        for (name, start) in [
            (NGINX, Self::nginx as fn(&Self) -> Contender),
            ("haproxy", Self::haproxy),
        ] {
            let is_there = Command::new(name)
                .arg("-v")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if is_there.is_ok_and(|status| status.success()) {
                all.push(start(self));
            } else {
                support::skipped(&format!("{name} is not installed"));
            }
        }
        all
    }

    /// With metrics and log records sent to a receiver, and an access log.
    pub fn ingress(&self) -> Contender {
        let telemetry = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*self.receiver),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            // So that exports happen while it is measured.
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ];
        self.ours(OURS, &telemetry)
    }

    /// With an access log only.
    fn silent(&self) -> Contender {
        self.ours(SILENT, &[])
    }

    fn ours(&self, name: &'static str, telemetry: &[(&str, &str)]) -> Contender {
        let address = free();
        let routes = self.directory.path().join("routes.toml");
        fs::write(&routes, "[sandboxes.box]\nhost = \"127.0.0.1\"\n").expect("our directory");
        let mut command = on_the_first_core(&self.binary);
        command
            .args(["ingress", "--provider-type=static", "--drain-delay=0"])
            .arg(format!("--routes={}", routes.display()))
            .args(["--address=127.0.0.1", &format!("--port={}", address.port())])
            .env_clear()
            .env("OPENSANDBOX_LOG_OUTPUT", self.log(name))
            .envs(telemetry.iter().copied());
        let host = format!("box-{}.bench.test", self.backend.port());
        started(name, address, host, command)
    }

    /// This program once more, as the proxy.
    fn bare(&self) -> Contender {
        let address = free();
        let mut command = on_the_first_core(std::env::current_exe().expect("this program"));
        command.env(bare::VARIABLE, format!("{address} {}", self.backend));
        started(BARE, address, address.to_string(), command)
    }

    fn nginx(&self) -> Contender {
        let address = free();
        let directory = self.directory.path().display();
        let (log, backend) = (self.log(NGINX), self.backend);
        let log = log.display();
        let config = self.directory.path().join("nginx.conf");
        let text = format!(
            r#"daemon off; master_process off; worker_processes 1;
            pid {directory}/nginx.pid; error_log {log}.error;
            events {{ worker_connections 8000; }}
            http {{
                log_format access '$remote_addr "$request" $status $body_bytes_sent '
                    '$request_time $upstream_addr "$http_user_agent"';
                access_log {log} access;
                keepalive_requests 1000000000;
                client_body_temp_path {directory}/c; proxy_temp_path {directory}/p;
                fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
                map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
                upstream box {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
                server {{
                    listen {address};
                    location / {{
                        proxy_pass http://box; proxy_http_version 1.1;
                        proxy_set_header Connection $connection_upgrade;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    }}
                    location /events {{
                        proxy_pass http://box; proxy_http_version 1.1;
                        proxy_set_header Connection ""; proxy_buffering off;
                    }}
                }}
            }}"#
        );
        fs::write(&config, text).expect("our directory");
        let mut command = on_the_first_core(NGINX);
        command
            .arg("-p")
            .arg(self.directory.path())
            .arg("-c")
            .arg(config);
        started(NGINX, address, address.to_string(), command)
    }

    fn haproxy(&self) -> Contender {
        let address = free();
        let backend = self.backend;
        let config = self.directory.path().join("haproxy.cfg");
        let text = format!(
            "global\n nbthread 1\n maxconn 4000\n log stdout format raw local0 info\n\
             defaults\n mode http\n log global\n option httplog\n option forwardfor\n\
             \x20http-reuse always\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             \x20timeout tunnel 60s\n\
             frontend all\n bind {address}\n default_backend box\n\
             backend box\n server one {backend}\n"
        );
        fs::write(&config, text).expect("our directory");
        let mut command = on_the_first_core("haproxy");
        let log = File::create(self.log("haproxy")).expect("our directory");
        command.arg("-db").arg("-f").arg(config).stdout(log);
        started("haproxy", address, address.to_string(), command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }
}

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// One core for who is measured; it sizes itself by what it may use.
fn on_the_first_core(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program.into());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn started(
    name: &'static str,
    address: SocketAddr,
    host: String,
    mut command: Command,
) -> Contender {
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let contender = Contender {
        name,
        address,
        host,
        child: Some(child),
    };
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{name} does not listen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    contender
}

/// Takes whatever telemetry is sent; returns what `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || take(connection));
        }
    });
    endpoint
}

fn take(mut connection: TcpStream) {
    let mut kept = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        while let Some(end) = kept.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&kept[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if kept.len() < whole {
                break;
            }
            kept.drain(..whole);
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
            if connection.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        match connection.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => kept.extend_from_slice(&piece[..count]),
        }
    }
}
