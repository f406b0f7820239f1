//! How long a request waits for its sandbox's address, and what known sandboxes cost
//! (`SPECIFICATION.md`, numbers 3 and 18).
//!
//! `OPENSANDBOX_BENCH_BINARY` names the binary; `make bench` sets it to the static one.

use std::borrow::Cow;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opensandbox::config::Values;
use opensandbox::ingress::provider::index::{Object, State, Writer};
use opensandbox::ingress::provider::{self, Config, Directory, SETTINGS};
use opensandbox::runtime::Runtime;
use support::bench::{Process, Spread, Table, interleave, measured, timed};
use support::daemon::Builder;
use support::kube::{Cluster, Definition};

/// How long a round of one case takes, and how many there are.
const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 9;

/// How many sandboxes there are.
const SANDBOXES: [usize; 3] = [100, 10_000, 100_000];

fn main() {
    print!("{}", daemon());
    print!("{}", index());
    print!("{}", look_ups());
}

/// What the daemon needs, by how many sandboxes it read from an API server; their objects have
/// some kilobytes each.
fn daemon() -> Table {
    const BALLAST: usize = 2048;
    let mut table = Table::new(&["sandboxes of the daemon", "RSS, MiB", "private", "seconds"]);
    let sizes: &[usize] = if measured() {
        &[0, 10_000, 100_000]
    } else {
        &[100]
    };
    for &size in sizes {
        let cluster = Cluster::start([Definition::batchsandbox()]);
        cluster.generate(size, BALLAST);
        let folder = tempfile::tempdir().expect("a directory");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], support::free_port()));
        let program = std::env::var_os("OPENSANDBOX_BENCH_BINARY");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_opensandbox").into());
        let start = Instant::now();
        let daemon = Builder::new(program)
            .arg("ingress")
            .arg(format!("--kubeconfig={}", kubeconfig(&cluster, &folder)))
            .arg(format!("--port={}", address.port()))
            .ready_when_http(address, "/status.ok")
            .spawn();
        let seconds = start.elapsed().as_secs_f64();
        cluster.wait_for_watch();
        if measured() {
            // What only the start needed is given back soon after it.
            std::thread::sleep(Duration::from_secs(3));
        }
        let (resident, private) = Process(daemon.pid()).resident();
        table.row(&[
            &size,
            &format!("{resident:.1}"),
            &format!("{private:.1}"),
            &format!("{seconds:.2}"),
        ]);
    }
    table
}

/// The path of a kubeconfig for `cluster`.
fn kubeconfig(cluster: &Cluster, folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("kubeconfig");
    let text = format!(
        "{{current-context: m, contexts: [{{name: m, context: {{cluster: c}}}}], \
          clusters: [{{name: c, cluster: {{server: '{}'}}}}]}}",
        cluster.server()
    );
    std::fs::write(&path, text).expect("write");
    path.display().to_string()
}

/// What the index costs, by how many sandboxes it knows.
fn index() -> Table {
    let process = Process(std::process::id());
    let mut table = Table::new(&["sandboxes in the index", "MiB", "bytes each"]);
    let sizes = if measured() {
        &SANDBOXES[1..]
    } else {
        &SANDBOXES[..1]
    };
    for &size in sizes {
        let (_, before) = process.resident();
        let mut writer = Writer::new();
        fill(&mut writer, size);
        let (_, after) = process.resident();
        let grown = after - before;
        let each = grown * 1024.0 * 1024.0 / size as f64;
        table.row(&[&size, &format!("{grown:.1}"), &format!("{each:.0}")]);
        // What is freed would be used by the next one; it would seem to cost nothing.
        std::mem::forget(writer);
    }
    table
}

fn fill(writer: &mut Writer, size: usize) {
    for number in 0..size {
        put(writer, number, number);
    }
}

/// Writes a sandbox as the server makes them: an id, an address and a token.
fn put(writer: &mut Writer, number: usize, address: usize) {
    let name = format!("550e8400-e29b-41d4-a716-{number:012}");
    let uid = format!("00000000-0000-4000-9000-{number:012}");
    let address = u32::try_from(address).expect("an address");
    let host = std::net::Ipv4Addr::from_bits(0x0a00_0000 + address).to_string();
    let object = Object {
        namespace: "opensandbox".into(),
        name: name.into(),
        uid: uid.into(),
        token: Some(Cow::Owned(format!("{number:032}"))),
        state: State::Ready(host.into()),
    };
    writer.put(&object).expect("room");
}

/// How long look-ups and changes take.
fn look_ups() -> Table {
    let rounds = if measured() { ROUNDS } else { 1 };
    let runtime = Runtime::new(NonZeroUsize::new(2).expect("two")).expect("threads");
    let sizes = if measured() {
        &SANDBOXES[..]
    } else {
        &SANDBOXES[..1]
    };
    let known: Vec<_> = sizes
        .iter()
        .map(|&size| Known::new(size, &runtime))
        .collect();
    let mut described = Vec::new();
    let mut cases: Vec<Box<dyn FnMut() -> f64 + '_>> = Vec::new();
    for known in &known {
        let mut number = 0;
        described.push(("look-up, found", known.size));
        cases.push(timed(ROUND, move || {
            number = (number + 7919) % known.size;
            black_box(known.directory.find(black_box(&known.ids[number]))).expect("found");
        }));
        described.push(("look-up, not found", known.size));
        cases.push(timed(ROUND, move || {
            number = (number + 7919) % known.size;
            black_box(known.directory.find(black_box(&known.others[number]))).expect_err("none");
        }));
        let mut writer = Writer::new();
        fill(&mut writer, known.size);
        described.push(("change of an address", known.size));
        let (mut at, mut round) = (0, 0);
        cases.push(timed(ROUND, move || {
            at = (at + 7919) % known.size;
            round += 1;
            put(&mut writer, at, round);
        }));
        described.push(("look-up, found, while others change", known.size));
        cases.push(beside_changes(known));
    }
    let results = interleave(rounds, &mut cases);
    let mut table = Table::new(&["what", "sandboxes", "ns each"]);
    for ((what, size), rounds) in described.iter().zip(results) {
        table.row(&[what, size, &Spread::of(rounds)]);
    }
    table
}

/// A provider that read its sandboxes from an API server.
struct Known {
    size: usize,
    directory: Arc<dyn Directory>,
    ids: Vec<String>,
    others: Vec<String>,
    _cluster: Cluster,
    _folder: tempfile::TempDir,
    _provider: provider::Provider,
}

impl Known {
    fn new(size: usize, runtime: &Runtime) -> Self {
        let cluster = Cluster::start([Definition::batchsandbox()]);
        cluster.generate(size, 0);
        let folder = tempfile::tempdir().expect("a directory");
        let path = kubeconfig(&cluster, &folder);
        let pairs = [("KUBECONFIG", path.as_str())];
        let values = Values::from_pairs(SETTINGS, &pairs);
        let read = |path: &Path| std::fs::read_to_string(path);
        let config = Config::read(&values, &read, &mut Vec::new()).expect("a configuration");
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let provider = provider::start(config, &runtime.spawner(), &log);
        smol::block_on(provider.status().synced());
        assert_eq!(provider.status().objects(), size);
        Self {
            size,
            directory: provider.directory(),
            ids: (0..size)
                .map(|number| format!("generated-{number}"))
                .collect(),
            others: (0..size)
                .map(|number| format!("elsewhere-{number}"))
                .collect(),
            _cluster: cluster,
            _folder: folder,
            _provider: provider,
        }
    }
}

/// Look-ups in an index that another thread changes all the time.
fn beside_changes(known: &Known) -> Box<dyn FnMut() -> f64 + '_> {
    Box::new(move || {
        let mut writer = Writer::new();
        fill(&mut writer, known.size);
        let index = writer.index();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    put(&mut writer, round * 7919 % known.size, round % (1 << 20));
                }
            });
            let names: Vec<_> = (0..known.size)
                .map(|number| format!("550e8400-e29b-41d4-a716-{number:012}"))
                .collect();
            let mut number = 0;
            let each = timed(ROUND, || {
                number = (number + 7919) % names.len();
                black_box(index.find(black_box(&names[number])));
            })();
            done.store(true, Ordering::Relaxed);
            each
        })
    })
}
