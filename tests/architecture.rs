//! The invariants of `ARCHITECTURE.md` that can be read off the source.

use std::fs;
use std::path::{Path, PathBuf};

const APPLETS: [&str; 4] = ["execd", "egress", "ingress", "supervisor"];

/// Every source file below `src/`, with its path from there and the part before its tests.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(root: &Path, directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text
                    .split("#[cfg(test)]\nmod tests")
                    .next()
                    .unwrap_or_default();
                found.push((path.strip_prefix(root).unwrap().to_owned(), code.to_owned()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 8, "the walk found only {} files", found.len());
    found
}

/// The code lines of files selected by `within` that mention `what`, as `file: line`.
fn mentions(within: impl Fn(&Path) -> bool, what: &str) -> Vec<String> {
    sources()
        .iter()
        .filter(|(path, _)| within(path))
        .flat_map(|(path, code)| {
            code.lines()
                .filter(|line| !line.trim_start().starts_with("//") && line.contains(what))
                .map(|line| format!("{}: {}", path.display(), line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn belongs_to(path: &Path, module: &str) -> bool {
    path.starts_with(module) || path == Path::new(&format!("{module}.rs"))
}

#[test]
fn applets_never_import_each_other() {
    for applet in APPLETS {
        for other in APPLETS.iter().filter(|other| **other != applet) {
            let found = mentions(|path| belongs_to(path, applet), &format!("crate::{other}"));
            assert!(found.is_empty(), "{applet} uses {other}: {found:#?}");
        }
    }
}

#[test]
fn shared_ground_never_points_back_to_an_applet() {
    let ground = [
        "http",
        "telemetry",
        "lifecycle",
        "host",
        "runtime",
        "config",
    ];
    for applet in APPLETS {
        let found = mentions(
            |path| ground.iter().any(|module| belongs_to(path, module)),
            &format!("crate::{applet}"),
        );
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn the_policy_and_the_codecs_are_pure() {
    let pure = |path: &Path| {
        [
            "egress/policy",
            "egress/dns/wire",
            "json",
            "octets",
            "execd/api/pty/frames",
            "execd/frames",
            "execd/lines",
            "execd/text",
            "execd/ring",
            "ingress/access",
            "ingress/forwarded",
            "ingress/route",
            "ingress/provider/index",
            "ingress/provider/resource",
            "ingress/provider/batchsandbox",
            "ingress/provider/agent_sandbox",
            "ingress/provider/kubernetes/scan",
            "ingress/provider/kubernetes/yaml",
            "ingress/provider/kubernetes/backoff",
        ]
        .iter()
        .any(|module| belongs_to(path, module))
    };
    for impure in [
        "std::fs",
        "std::io",
        "std::env",
        "Instant::now",
        "SystemTime",
        "smol::",
        "slog::",
        "opentelemetry",
    ] {
        let found = mentions(pure, impure);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn only_netfilter_speaks_netlink() {
    let found = mentions(|path| !belongs_to(path, "egress/netfilter"), "netlink_");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_spawn_starts_processes() {
    // Becoming another program, which `clone3` does, starts none.
    let elsewhere = |path: &Path| {
        !belongs_to(path, "execd/spawn")
            && !belongs_to(path, "supervisor")
            && path != Path::new("execd/clone3.rs")
            // The exec plugin of a kubeconfig.
            && path != Path::new("ingress/provider/kubernetes/exec.rs")
    };
    for entry in [
        "process::Command",
        "libc::fork",
        "libc::clone",
        "posix_spawn",
    ] {
        let found = mentions(elsewhere, entry);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn only_telemetry_and_the_metrics_of_an_applet_name_opentelemetry() {
    let found = mentions(
        |path| !belongs_to(path, "telemetry") && !path.ends_with("metrics.rs"),
        "opentelemetry",
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_environment_is_read_in_one_place() {
    let found = mentions(
        |path| !belongs_to(path, "config") && path != Path::new("applet.rs"),
        "env::var",
    );
    assert!(found.is_empty(), "{found:#?}");
    let found = mentions(|_| true, "set_var");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_tokio_runtime_is_started() {
    for entry in ["tokio::runtime", "tokio::spawn", "tokio::main"] {
        let found = mentions(|_| true, entry);
        assert!(found.is_empty(), "{found:#?}");
    }
}
