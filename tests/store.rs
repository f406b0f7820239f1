//! The policy file where the disk does not cooperate: full, read-only, or mounted over.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use opensandbox::egress::policy::{Action, Policy, Rule};
use opensandbox::egress::store::{Store, initial};
use rustix::thread::UnshareFlags;
use slog::{Discard, Logger, o};

/// Runs `work` where mounts are its own, with a directory to mount in. Without the privilege it
/// is skipped, loudly.
fn with_mounts(work: impl FnOnce(&Path) + Send) {
    if !support::require_root("mounts") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: the thread unshares only its own mounts, not its descriptor table, and
                // ends after the work.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
                mount("--make-rprivate /");
                work(directory.path());
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn mount(arguments: &str) {
    let status = Command::new("mount")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "mount {arguments}");
}

/// A file system of 32 KiB below `directory`.
fn small_disk(directory: &Path) -> PathBuf {
    let disk = directory.join("disk");
    fs::create_dir(&disk).unwrap();
    mount(&format!("-t tmpfs -o size=32k tmpfs {}", disk.display()));
    disk
}

/// Writes until nothing more fits.
fn fill(disk: &Path) {
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    let page = [0_u8; 4096];
    while io::Write::write_all(&mut filler, &page).is_ok() {}
}

fn policy(rules: usize) -> Policy {
    let rule = |number| Rule::new(Action::Allow, &format!("host{number}.example.com")).unwrap();
    Policy::new((0..rules).map(rule).collect(), Action::Deny)
}

fn save(path: &Path, policy: &Policy) -> io::Result<()> {
    Store::open(Some(path.to_owned())).stage(policy)?.commit()
}

fn load(path: &Path) -> Policy {
    let log = Logger::root(Discard, o!());
    initial(Some(path), r#"{"defaultAction":"allow"}"#, &log).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_full_disk_refuses_before_anything_moved() {
    with_mounts(|directory| {
        let disk = small_disk(directory);
        let path = disk.join("policy.json");
        save(&path, &policy(1)).unwrap();
        fill(&disk);
        let store = Store::open(Some(path.clone()));
        let refused = store.stage(&policy(100)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert_eq!(load(&path), policy(1));
        assert_eq!(names(&disk), ["filler", "policy.json"]);
    });
}

#[test]
fn a_mounted_file_is_written_in_place() {
    with_mounts(|directory| {
        let (real, path) = (directory.join("real"), directory.join("policy.json"));
        fs::write(&real, "{}").unwrap();
        fs::write(&path, "").unwrap();
        mount(&format!("--bind {} {}", real.display(), path.display()));
        let inode = fs::metadata(&path).unwrap().ino();
        save(&path, &policy(50)).unwrap();
        assert_eq!(load(&path), policy(50));
        save(&path, &policy(2)).unwrap();
        assert_eq!(load(&path), policy(2));
        assert_eq!(fs::metadata(&real).unwrap().ino(), inode);
        assert_eq!(names(directory), ["policy.json", "real"]);
    });
}

#[test]
fn a_mounted_file_on_a_full_disk_is_put_back() {
    with_mounts(|directory| {
        let disk = small_disk(directory);
        let (real, path) = (disk.join("real"), directory.join("policy.json"));
        save(&real, &policy(1)).unwrap();
        fs::write(&path, "").unwrap();
        mount(&format!("--bind {} {}", real.display(), path.display()));
        fill(&disk);
        let refused = save(&path, &policy(200)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert_eq!(load(&path), policy(1));
    });
}

#[test]
fn a_writable_file_in_a_read_only_directory_is_written_in_place() {
    with_mounts(|directory| {
        let disk = small_disk(directory);
        let (real, path) = (directory.join("real"), disk.join("policy.json"));
        fs::write(&real, "{}").unwrap();
        fs::write(&path, "").unwrap();
        mount(&format!("--bind {} {}", real.display(), path.display()));
        mount(&format!("-o remount,ro {}", disk.display()));
        save(&path, &policy(3)).unwrap();
        assert_eq!(load(&path), policy(3));
    });
}

#[test]
fn a_read_only_file_refuses_before_anything_moved() {
    with_mounts(|directory| {
        let disk = small_disk(directory);
        let path = disk.join("policy.json");
        save(&path, &policy(1)).unwrap();
        mount(&format!("-o remount,ro {}", disk.display()));
        let store = Store::open(Some(path.clone()));
        let refused = store.stage(&policy(2)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(load(&path), policy(1));
    });
}
