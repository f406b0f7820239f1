//! What 100,000 sandboxes cost, in a process of its own: the objects are read off the stream one by
//! one, and only what is needed of each is kept (`SPECIFICATION.md`, numbers 3 and 18).

use std::num::NonZeroUsize;
use std::path::Path;

use opensandbox::config::Values;
use opensandbox::ingress::provider::{self, Config, SETTINGS};
use opensandbox::runtime::Runtime;
use support::kube::{Cluster, Definition};

const SANDBOXES: usize = 100_000;

/// What nobody needs of each object: a pod template has some kilobytes.
const BALLAST: usize = 1500;

/// The most that may be added to the process at any moment, in KiB. The list has 200 MiB.
const MOST: u64 = 96 * 1024;

/// A line of `/proc/self/status`, in KiB.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn a_hundred_thousand_sandboxes_cost_what_is_kept_of_them() {
    let cluster = Cluster::start([Definition::batchsandbox()]);
    cluster.generate(SANDBOXES, BALLAST);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let server = cluster.server();
    let text = format!(
        "{{current-context: m, contexts: [{{name: m, context: {{cluster: c}}}}], clusters: [{{name: c, cluster: {{server: '{server}'}}}}]}}"
    );
    std::fs::write(&path, text).unwrap();
    let values = Values::from_pairs(SETTINGS, &[("KUBECONFIG", path.to_str().unwrap())]);
    let read = |path: &Path| std::fs::read_to_string(path);
    let config = Config::read(&values, &read, &mut Vec::new()).unwrap();
    let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());

    let before = status("VmRSS");
    let provider = provider::start(config, &runtime.spawner(), &log);
    smol::block_on(provider.status().synced());
    let peak = status("VmHWM") - before;
    assert_eq!(provider.status().objects(), SANDBOXES);
    assert!(peak <= MOST, "{peak} KiB");
    let last = provider.directory().find("generated-99999").unwrap();
    assert_eq!(&*last.host, "10.1.134.159");
}
