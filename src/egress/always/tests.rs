//! The contract's cases, on real files and with a clock of ours.

use std::fs;
use std::sync::Mutex;

use super::super::policy::{Effective, Policy};
use super::super::recorder::Recorder;
use super::super::store::Store;
use super::super::writer::{EnforceError, Enforcer};
use super::*;

/// Stands for the kernel: fails as often as it is told to.
struct Kernel(Arc<Mutex<Tally>>);

#[derive(Default)]
struct Tally {
    applied: usize,
    failures: usize,
}

impl Enforcer for Kernel {
    fn mode(&self) -> &str {
        "dns"
    }

    fn filters_addresses(&self) -> bool {
        false
    }

    fn apply(&self, _: &Arc<Effective>) -> Result<(), EnforceError> {
        let mut tally = self.0.lock().unwrap();
        if tally.failures > 0 {
            tally.failures -= 1;
            return Err(EnforceError("table is busy".into()));
        }
        tally.applied += 1;
        Ok(())
    }
}

const INTERVAL: Duration = Duration::from_secs(60);

struct Fixture {
    files: AlwaysFiles,
    writer: Writer,
    observer: Arc<Observer>,
    tally: Arc<Mutex<Tally>>,
    recorder: Recorder,
    now: Instant,
    directory: tempfile::TempDir,
}

impl Fixture {
    /// Starts with `files`, pairs of name and content.
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let now = Instant::now();
        let recorder = Recorder::default();
        let observer = Arc::new(recorder.observer());
        let files = AlwaysFiles::open(directory.path(), INTERVAL, now, observer.logger()).unwrap();
        let tally = Arc::<Mutex<Tally>>::default();
        let writer = Writer::start(
            Policy::default(),
            files.rules(),
            Box::new(Kernel(Arc::clone(&tally))),
            Vec::new(),
            Store::open(None),
            Arc::clone(&observer),
        )
        .unwrap();
        recorder.take();
        Self {
            files,
            writer,
            observer,
            tally,
            recorder,
            now,
            directory,
        }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.directory.path().join(name), content).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Lets `seconds` pass and looks.
    fn after(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.files.refresh(self.now, &self.writer, &self.observer);
    }

    fn allows(&self, name: &str) -> bool {
        self.writer.live().snapshot().evaluate(name).action == Action::Allow
    }

    fn applied(&self) -> usize {
        self.tally.lock().unwrap().applied
    }
}

fn open(files: &[(&str, &str)]) -> Result<AlwaysFiles, String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let log = Recorder::default().logger();
    AlwaysFiles::open(directory.path(), INTERVAL, Instant::now(), &log)
        .map_err(|cause| cause.to_string())
}

#[test]
fn missing_files_are_empty() {
    let files = open(&[]).unwrap();
    assert_eq!(files.rules(), AlwaysRules::default());
    assert!(files.log_skip().patterns().is_empty());
}

#[test]
fn what_is_read_is_announced() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content| fs::write(directory.path().join(name), content).unwrap();
    write(
        "deny.always",
        "# c\n\n192.0.2.1\n2001:db8::/32\n*.foo.test\n",
    );
    write("log_skip.always", "a.test\n");
    let recorder = Recorder::default();
    let files = AlwaysFiles::open(
        directory.path(),
        INTERVAL,
        Instant::now(),
        &recorder.logger(),
    )
    .unwrap();
    assert_eq!(files.rules().deny.len(), 3);
    let path = directory.path().display();
    assert_eq!(
        recorder.take_messages(),
        [
            format!("INFO loaded 3 always-deny rule(s) from {path}/deny.always"),
            format!("INFO loaded 0 always-allow rule(s) from {path}/allow.always"),
            format!("INFO loaded 1 outbound log skip pattern(s) from {path}/log_skip.always"),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_used_stops_the_start() {
    let refused = open(&[("allow.always", "ok.test\n\u{fffd}\n")]);
    assert!(refused.is_ok(), "any text is a target");
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("deny.always")).unwrap();
    let log = Recorder::default().logger();
    let refused = AlwaysFiles::open(directory.path(), INTERVAL, Instant::now(), &log).unwrap_err();
    assert!(matches!(refused, LoadError::Rules(_)), "{refused}");
    let refused = open(&[("log_skip.always", "a.test\n10.0.0.0/8\n")]).unwrap_err();
    assert!(refused.starts_with("failed to load outbound log skip file: "));
    assert!(
        refused.ends_with(
            "log_skip.always line 2: \"10.0.0.0/8\" is not a domain pattern; only host/domain entries are supported"
        ),
        "{refused}"
    );
}

#[test]
fn log_skip_patterns_keep_their_order_and_case() {
    let content = "# c\n  # indented\nmetadata.internal\n  *.cluster.local  \nFoo.Example.Com\n";
    let files = open(&[("log_skip.always", content)]).unwrap();
    assert_eq!(
        files.log_skip().patterns(),
        ["metadata.internal", "*.cluster.local", "Foo.Example.Com"]
    );
    let files = open(&[("log_skip.always", "# c\n\n")]).unwrap();
    assert!(files.log_skip().patterns().is_empty());
}

#[test]
fn a_change_is_seen_once_the_interval_is_over() {
    let mut fixture = Fixture::new(&[("allow.always", "a.test\n")]);
    assert!(fixture.allows("a.test"));
    fixture.write("allow.always", "b.test\n");
    fixture.after(30);
    assert!(fixture.allows("a.test"));
    fixture.after(31);
    assert!(fixture.allows("b.test"));
    assert!(!fixture.allows("a.test"));
}

#[test]
fn an_unchanged_file_is_not_applied_again() {
    let mut fixture = Fixture::new(&[("deny.always", "a.test\n"), ("log_skip.always", "b\n")]);
    fixture.after(60);
    fixture.after(60);
    assert_eq!(fixture.applied(), 1, "the start alone");
    assert!(fixture.recorder.take().is_empty());
}

#[test]
fn a_deleted_file_takes_its_rules_with_it() {
    let mut fixture = Fixture::new(&[("allow.always", "a.test\n"), ("log_skip.always", "b\n")]);
    fixture.observer.log_skip.store(fixture.files.log_skip());
    fs::remove_file(fixture.path("allow.always")).unwrap();
    fs::remove_file(fixture.path("log_skip.always")).unwrap();
    fixture.after(60);
    assert!(!fixture.allows("a.test"));
    assert!(!fixture.observer.log_skip.load().contains("b"));
}

#[test]
fn a_new_file_is_seen() {
    let mut fixture = Fixture::new(&[]);
    fixture.write("allow.always", "a.test # for the build\n");
    fixture.write("log_skip.always", "*.noise.test\n");
    fixture.after(60);
    assert!(fixture.allows("a.test"));
    assert!(fixture.observer.log_skip.load().contains("x.noise.test"));
    let path = fixture.path("log_skip.always");
    let messages = fixture.recorder.take_messages();
    assert_eq!(
        messages[0],
        format!("INFO loaded 1 outbound log skip pattern(s) from {path}")
    );
    assert!(
        messages[1]
            .starts_with("INFO policy API: reloaded always rules applied (deny=0 allow=1 fp="),
        "{messages:?}"
    );
}

#[test]
fn a_broken_file_keeps_its_rules_and_holds_up_no_other() {
    let mut fixture = Fixture::new(&[("allow.always", "a.test\n")]);
    let long = "x".repeat(70_000);
    fixture.write("allow.always", &long);
    fixture.write("log_skip.always", "1.2.3.4\n");
    fixture.write("deny.always", "sub.a.test\n");
    fixture.after(60);
    assert!(fixture.allows("a.test"));
    assert_eq!(fixture.files.rules().deny.len(), 1);
    let warning = |name: &str, cause: &str| {
        let path = fixture.path(name);
        format!("WARN policy API: periodic reload of always rules failed: {path} line 1: {cause}")
    };
    let messages = fixture.recorder.take_messages();
    assert_eq!(
        messages[0],
        warning("allow.always", "longer than 65536 octets")
    );
    assert_eq!(
        messages[1],
        warning(
            "log_skip.always",
            "\"1.2.3.4\" is not a domain pattern; only host/domain entries are supported"
        )
    );
    assert_eq!(messages.len(), 3, "{messages:?}");
    fixture.after(60);
    assert!(fixture.recorder.take().is_empty(), "said once");
    fixture.write("allow.always", "c.test\n");
    fixture.after(60);
    assert!(fixture.allows("c.test"));
}

#[test]
fn a_file_that_cannot_be_read_is_reported_once_and_tried_again() {
    let mut fixture = Fixture::new(&[("allow.always", "a.test\n")]);
    let path = fixture.path("allow.always");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fixture.after(60);
    fixture.after(60);
    assert_eq!(fixture.recorder.take().len(), 1);
    assert!(fixture.allows("a.test"));
    fs::remove_dir(&path).unwrap();
    fixture.write("allow.always", "b.test\n");
    fixture.after(60);
    assert!(fixture.allows("b.test"));
}

#[test]
fn what_the_kernel_refused_is_tried_again() {
    let mut fixture = Fixture::new(&[]);
    fixture.write("allow.always", "a.test\n");
    fixture.tally.lock().unwrap().failures = 1;
    fixture.after(60);
    assert!(!fixture.allows("a.test"));
    assert_eq!(
        fixture.recorder.take_messages(),
        ["WARN policy API: apply reloaded always rules to nftables failed: table is busy"]
    );
    fixture.after(60);
    assert!(fixture.allows("a.test"));
}

#[test]
fn a_reload_keeps_the_users_policy_and_a_change_keeps_the_operators() {
    let mut fixture = Fixture::new(&[("deny.always", "bad.test\n")]);
    let user = Policy::parse(br#"{"defaultAction":"allow"}"#).unwrap();
    fixture
        .writer
        .begin(fixture.observer.logger())
        .commit(Arc::new(user.clone()))
        .unwrap();
    assert!(!fixture.allows("bad.test"));
    fixture.write("deny.always", "worse.test\n");
    fixture.after(60);
    assert!(fixture.allows("bad.test"));
    assert!(!fixture.allows("worse.test"));
    assert_eq!(*fixture.writer.policy(), user);
}

#[test]
fn rules_for_addresses_are_warned_about_where_they_do_nothing() {
    let mut fixture = Fixture::new(&[]);
    fixture.write("deny.always", "10.0.0.0/8\n");
    fixture.after(60);
    let messages = fixture.recorder.take_messages();
    let expected =
        "WARN policy: 1 rule(s) for addresses are kept but not enforced in mode dns".to_owned();
    assert!(messages.contains(&expected), "{messages:?}");
}

#[test]
fn the_fingerprint_depends_on_what_is_said_not_on_the_order() {
    let rules = |action, targets: &[&str]| -> Vec<Rule> {
        let rule = |target: &&str| Rule::new(action, target).unwrap();
        targets.iter().map(rule).collect()
    };
    let of = |deny: &[&str], allow: &[&str]| {
        fingerprint(&AlwaysRules {
            deny: rules(Action::Deny, deny),
            allow: rules(Action::Allow, allow),
        })
    };
    assert_eq!(of(&["a", "b"], &[]), of(&["b", "a"], &[]));
    assert_eq!(of(&[], &[]), fingerprint(&AlwaysRules::default()));
    assert_ne!(of(&["a"], &[]), of(&[], &["a"]));
    assert_ne!(of(&["a"], &[]), of(&["a", "b"], &[]));
    assert_ne!(of(&["ab"], &[]), of(&["a", "b"], &[]));
}

#[test]
fn it_is_over_when_the_process_is() {
    let Fixture {
        files,
        writer,
        observer,
        directory,
        ..
    } = Fixture::new(&[]);
    let threads = std::num::NonZeroUsize::MIN;
    let runtime = crate::runtime::Runtime::new(threads).unwrap();
    let shutdown = Shutdown::new();
    let task = runtime.spawn(files.keep_fresh(
        Arc::new(writer),
        observer,
        runtime.spawner(),
        shutdown.clone(),
    ));
    shutdown.trigger();
    runtime.block_on(task);
    drop(directory);
}
