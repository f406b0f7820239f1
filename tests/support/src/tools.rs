//! What users run against a daemon: `dig` and `curl`, and `dnsmasq` for it to stand before.

use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::dns::{ask, rtype};
use crate::http::Response;
use crate::netns::Namespace;

/// How long a server may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether all of these are installed; if not, says loudly that the test was skipped.
#[must_use]
pub fn require_programs(programs: &[&str]) -> bool {
    let missing = |program: &&&str| {
        let found = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_err()
    };
    match programs.iter().find(missing) {
        Some(program) => crate::skipped(&format!("{program} is not installed")),
        None => return true,
    }
    false
}

/// What `dig` printed.
#[derive(Clone, Debug)]
pub struct Dug(pub String);

/// Runs `dig` with `arguments` inside `namespace`, once and without retries.
///
/// # Panics
///
/// When it cannot be started.
#[must_use]
pub fn dig(namespace: &Namespace, server: SocketAddr, arguments: &[&str]) -> Dug {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let common = ["+tries=1", "+time=8", "-p", &port, &at];
    let output = namespace.run("dig", &[&common[..], arguments].concat());
    Dug(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Dug {
    /// The response code as `dig` names it; empty when nothing answered.
    #[must_use]
    pub fn status(&self) -> &str {
        self.between("status: ", ",")
    }

    /// Whether a flag such as `tc` is set.
    #[must_use]
    pub fn has_flag(&self, flag: &str) -> bool {
        self.between(";; flags: ", ";")
            .split(' ')
            .any(|set| set == flag)
    }

    /// The extended error (RFC 8914), as `dig` words it.
    #[must_use]
    pub fn extended_error(&self) -> &str {
        self.between("EDE: ", "\n")
    }

    /// The records of a section, such as `ANSWER`, fields separated by one space.
    #[must_use]
    pub fn section(&self, name: &str) -> Vec<String> {
        let heading = format!(";; {name} SECTION:");
        let lines = self.0.lines().skip_while(|line| *line != heading).skip(1);
        lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// The data of the records of the answer section.
    #[must_use]
    pub fn answers(&self) -> Vec<String> {
        let data = |record: &String| record.splitn(5, ' ').nth(4).map(str::to_owned);
        self.section("ANSWER").iter().filter_map(data).collect()
    }

    /// Whether the final answer came over TCP.
    #[must_use]
    pub fn came_over_tcp(&self) -> bool {
        let server = self.between(";; SERVER: ", "\n");
        assert!(
            server.is_empty() || server.ends_with("P)"),
            "this dig does not tell the transport: {}",
            self.0
        );
        server.ends_with("(TCP)")
    }

    /// Bytes of the final answer.
    #[must_use]
    pub fn size(&self) -> usize {
        self.between("MSG SIZE  rcvd: ", "\n").parse().unwrap_or(0)
    }

    /// How long the final answer took.
    #[must_use]
    pub fn took(&self) -> Duration {
        let milliseconds = self.between(";; Query time: ", " msec").parse();
        Duration::from_millis(milliseconds.unwrap_or(u64::MAX))
    }

    fn between(&self, before: &str, after: &str) -> &str {
        let rest = self.0.split_once(before).map_or("", |(_, rest)| rest);
        rest.split_once(after).map_or("", |(found, _)| found)
    }
}

/// Runs `curl` with `arguments` inside `namespace` and reads the final answer.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn curl(namespace: &Namespace, arguments: &[&str]) -> Response {
    let common = ["--silent", "--show-error", "--include", "--max-time", "20"];
    let output = namespace.run("curl", &[&common[..], arguments].concat());
    let Output { status, stderr, .. } = &output;
    let errors = String::from_utf8_lossy(stderr);
    assert!(status.success(), "curl {arguments:?}: {errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut rest = &*text;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let status = status.expect("a status");
        // `100 Continue` comes before the answer.
        if status >= 200 {
            return Response {
                status,
                headers: lines.map(str::to_owned).collect(),
                body: body.to_owned(),
            };
        }
        rest = body;
    }
}

/// A real resolver; ends when dropped.
pub struct Dnsmasq(Child);

impl Dnsmasq {
    /// Serves what `options` say, and nothing else, at `address` inside `namespace`.
    ///
    /// # Panics
    ///
    /// When it cannot be started or does not answer in time.
    #[must_use]
    pub fn start(namespace: &Namespace, address: SocketAddr, options: &[&str]) -> Self {
        let mut command = Command::new("dnsmasq");
        command
            .args(["--keep-in-foreground", "--log-facility=-", "--user=root"])
            .args(["--conf-file=/dev/null", "--pid-file", "--bind-interfaces"])
            .args(["--no-resolv", "--no-hosts", "--no-daemon"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = namespace.enter(|| command.spawn());
        let mut server = Self(child.expect("start dnsmasq"));
        let deadline = Instant::now() + PATIENCE;
        let poll = Duration::from_millis(50);
        while namespace
            .enter(|| ask(address, "ready.invalid", rtype::A, poll))
            .is_none()
        {
            let ended = server.0.try_wait().expect("look at dnsmasq");
            assert!(ended.is_none(), "dnsmasq ended: {ended:?}");
            assert!(Instant::now() < deadline, "dnsmasq does not answer");
            std::thread::sleep(poll);
        }
        server
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
