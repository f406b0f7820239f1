//! execd as the first process of a sandbox, under more than an agent will ask of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::http::Connection;
use tempfile::TempDir;

/// Commands, and how many of them are under way at once.
const COMMANDS: usize = 10_000;
const IN_FLIGHT: usize = 64;

/// One command in so many leaves an orphan behind.
const ORPHANED: usize = 10;

/// What is kept of ended commands is bounded, and the bound reached long before.
const WARM: usize = 7_000;

/// By how much resident memory may grow afterwards, in KiB: a KiB a command, which is less than
/// anything that is forgotten of one.
const GROWTH_KIB: u64 = 3 * 1024;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// execd as process 1 of a namespace of its own; killed when dropped, and everything in it.
struct Sandbox {
    unshare: Child,
    execd: Pid,
    address: SocketAddr,
    directory: TempDir,
}

impl Sandbox {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = fs::File::create(directory.path().join("log")).expect("a log");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, support::free_port()));
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
            .args([env!("CARGO_BIN_EXE_opensandbox"), "execd"])
            .args(["--log-level=4", "--port", &address.port().to_string()])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // The static binary has another allocator. This one keeps what it was given by size
            // and by thread, unless told otherwise.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "16384")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("start unshare");
        let mut sandbox = Self {
            execd: Pid::from_child(&unshare),
            unshare,
            address,
            directory,
        };
        sandbox.eventually("execd answers", || {
            let answer = Connection::open(address).and_then(|mut c| c.request("GET", "/ping", ""));
            answer.is_ok_and(|answer| answer.status == 200)
        });
        let (execd, _) = children(sandbox.execd)[0];
        sandbox.execd = execd;
        sandbox
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.execd.as_raw_pid()).into()
    }

    /// What its descriptors are.
    fn descriptors(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path("fd")).expect("its descriptors");
        entries
            .map(|entry| {
                let path = entry.expect("an entry").path();
                // One that is closed meanwhile was none that stays.
                let target = fs::read_link(&path).unwrap_or_default();
                let number = path.file_name().expect("a number").to_string_lossy();
                format!("{number} {}", target.display())
            })
            .collect()
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(self.path("status")).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|text| text.parse().ok()).expect("a number")
    }

    /// Nobody but execd is left, dead or alive.
    fn wait_until_alone(&self) {
        self.eventually("nobody is left", || children(self.execd).is_empty());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The children of a process, with their state.
fn children(parent: Pid) -> Vec<(Pid, char)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let state = fields.next()?.chars().next()?;
            let its_parent: i32 = fields.next()?.parse().ok()?;
            (its_parent == parent.as_raw_pid()).then_some((Pid::from_raw(pid)?, state))
        })
        .collect()
}

/// Runs the commands from `range`, as many at once as there are connections, and checks what each
/// wrote and its code.
fn run(sandbox: &Sandbox, range: std::ops::Range<usize>) {
    let next = AtomicUsize::new(range.start);
    std::thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| {
                let mut connection = Connection::open(sandbox.address).expect("a connection");
                connection.patience(PATIENCE).expect("a time-out");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= range.end {
                        return;
                    }
                    one(&mut connection, number);
                }
            });
        }
    });
}

fn one(connection: &mut Connection, number: usize) {
    let code = number % 256;
    let orphan = match number % ORPHANED {
        0 => "(sleep 0.05; exit 77) & ",
        _ => "",
    };
    let body = format!(r#"{{"command":"{orphan}echo {number}; exit {code}"}}"#);
    let answer = connection
        .request("POST", "/command", &body)
        .expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let events: Vec<serde_json::Value> = answer
        .body
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event).expect("an event"))
        .filter(|event: &serde_json::Value| event["type"] != "ping")
        .collect();
    let types: Vec<_> = events.iter().map(|event| &event["type"]).collect();
    let end = if code == 0 {
        "execution_complete"
    } else {
        "error"
    };
    assert_eq!(types, ["init", "stdout", end], "{}", answer.body);
    assert_eq!(events[1]["text"], number.to_string());
    if code != 0 {
        assert_eq!(events[2]["error"]["evalue"], code.to_string());
    }
}

#[test]
fn every_code_is_right_and_nothing_is_left() {
    if !support::require_root("a process namespace") {
        return;
    }
    let sandbox = Sandbox::start();
    run(&sandbox, 0..100);
    sandbox.wait_until_alone();
    let descriptors = sandbox.descriptors();
    run(&sandbox, 100..WARM);
    let warm = sandbox.resident_kib();
    run(&sandbox, WARM..COMMANDS);
    let end = sandbox.resident_kib();
    assert!(
        end <= warm + GROWTH_KIB,
        "{warm} KiB after {WARM} commands, {end} KiB after {COMMANDS}"
    );
    sandbox.wait_until_alone();
    let mut left = BTreeSet::new();
    sandbox.eventually("every descriptor is closed", || {
        left = sandbox.descriptors();
        left.len() <= descriptors.len()
    });
    let complaints = sandbox.log();
    let lines = complaints.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<_> = lines.filter(|line| !line.contains("\"info\"")).collect();
    assert!(lines.is_empty(), "{lines:#?}");
    println!("{warm} KiB, then {end} KiB; {} descriptors", left.len());
}

#[test]
fn as_the_first_process_it_ends_when_asked_and_takes_everyone_along() {
    if !support::require_root("a process namespace") {
        return;
    }
    let mut sandbox = Sandbox::start();
    let mut connection = Connection::open(sandbox.address).expect("a connection");
    let started = connection.send(
        "POST",
        "/command",
        r#"{"command":"sleep 1000 & echo x; sleep 1000"}"#,
    );
    assert_eq!(started.expect("an answer").status, 200);
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("\"stdout\"") {
        let more = connection.piece(|piece| heard.extend_from_slice(piece));
        assert!(more.expect("output"));
    }
    kill_process(sandbox.execd, Signal::TERM).expect("signal");
    // The stream has its end.
    while connection
        .piece(|piece| heard.extend_from_slice(piece))
        .expect("an orderly end")
    {}
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("signal: terminated"), "{heard}");
    let status = sandbox.unshare.wait().expect("its end");
    assert_eq!(status.code(), Some(0), "{}", sandbox.log());
}

/// `yes | head -c`, and lines that have no end: what passes through is not kept.
#[test]
fn memory_stays_flat_however_much_passes_through() {
    if !support::require_root("a process namespace") {
        return;
    }
    /// Of this build, which is not optimised; `make bench` has the numbers of the specification.
    const BYTES: usize = 32 * 1024 * 1024;
    const GROWTH_KIB: u64 = 8 * 1024;
    let sandbox = Sandbox::start();
    let mut connection = Connection::open(sandbox.address).expect("a connection");
    connection.patience(PATIENCE).expect("a time-out");
    connection
        .request("POST", "/command", r#"{"command":"yes | head -c 1M"}"#)
        .expect("an answer");
    let before = sandbox.resident_kib();
    for source in [
        "yes",
        "yes x | tr -d '\\n'",
        "cat /dev/zero",
        "yes \"$(seq -s ' ' 30)\"",
    ] {
        let command = format!("{source} | head -c {BYTES}");
        let body = serde_json::json!({ "command": command }).to_string();
        let answer = connection
            .send("POST", "/command", &body)
            .expect("an answer");
        assert_eq!(answer.status, 200);
        let (mut pieces, mut most, mut tail) = (0, 0, Vec::new());
        loop {
            let more = connection.piece(|piece| {
                tail.clear();
                tail.extend_from_slice(&piece[piece.len().saturating_sub(200)..]);
            });
            if !more.expect("output") {
                break;
            }
            pieces += 1;
            if pieces % 512 == 0 {
                most = most.max(sandbox.resident_kib());
            }
        }
        let tail = String::from_utf8_lossy(&tail);
        assert!(tail.contains("execution_complete"), "{source}: {tail}");
        assert!(
            most <= before + GROWTH_KIB,
            "{source}: {before} KiB before, up to {most} KiB"
        );
    }
}
