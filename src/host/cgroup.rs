//! The control group of this process: what it may use and what it has used (cgroups(7)).
//!
//! Version 2, version 1, and the mixture of both that some systems mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text::{lines, number, words};

/// Directories looked at upwards for a limit; deeper hierarchies do not occur.
const MAX_DEPTH: usize = 32;
/// A version 1 memory limit from here on means none: the kernel writes the largest page-aligned
/// number it can hold.
const NO_LIMIT_V1: u64 = 1 << 62;

/// Where the control files of this process lie. A controller that is not mounted gives no
/// readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    cpu: Option<Controller>,
    memory: Option<Controller>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Controller {
    /// The group's own directory.
    directory: PathBuf,
    /// The top of the hierarchy as far as it is visible.
    top: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// Finds the group of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let read = |path: &str| fs::read(path).unwrap_or_default();
        Self::find(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    fn find(memberships: &[u8], mounts: &[u8]) -> Self {
        let controller = |name: &[u8]| {
            lines(memberships)
                .filter_map(Membership::parse)
                .filter(|group| group.controllers.is_empty() || group.has(name))
                // A controller lives in one hierarchy; the unified one has what no other claims.
                .max_by_key(|group| !group.controllers.is_empty())
                .and_then(|group| {
                    let unified = group.controllers.is_empty();
                    lines(mounts)
                        .filter_map(Mount::parse)
                        .filter(|mount| mount.unified == unified && (unified || mount.has(name)))
                        .find_map(|mount| mount.locate(group.path, unified))
                })
        };
        Self {
            cpu: controller(b"cpu"),
            memory: controller(b"memory"),
        }
    }

    /// Processors' worth of time the group may use, for example 1.5; `None` without a limit.
    #[must_use]
    pub fn cpu_quota(&self) -> Option<f64> {
        let cpu = self.cpu.as_ref()?;
        let quota_at = |directory: &Path| -> Option<f64> {
            let (quota, period) = if cpu.unified {
                let text = fs::read(directory.join("cpu.max")).ok()?;
                let mut fields = words(&text);
                (number(fields.next()?)?, number(fields.next()?)?)
            } else {
                (
                    value(directory, "cpu.cfs_quota_us")?,
                    value(directory, "cpu.cfs_period_us")?,
                )
            };
            (period > 0).then(|| quota as f64 / period as f64)
        };
        cpu.upwards().filter_map(quota_at).reduce(f64::min)
    }

    /// Processor time the group has used since it was made.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        let cpu = self.cpu.as_ref()?;
        if cpu.unified {
            let stat = fs::read(cpu.directory.join("cpu.stat")).ok()?;
            return field(&stat, b"usage_usec").map(Duration::from_micros);
        }
        // `cpuacct` is mounted with `cpu` wherever there is version 1.
        value(&cpu.directory, "cpuacct.usage").map(Duration::from_nanos)
    }

    /// Bytes of memory the group may use; `None` without a limit.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let name = memory.name("memory.max", "memory.limit_in_bytes");
        memory
            .upwards()
            .filter_map(|directory| value(directory, name))
            .filter(|limit| *limit < NO_LIMIT_V1)
            .min()
    }

    /// Bytes of memory the group uses now, page cache included.
    #[must_use]
    pub fn memory_usage(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let name = memory.name("memory.current", "memory.usage_in_bytes");
        value(&memory.directory, name)
    }

    /// Bytes of memory the group uses and would not give back readily: without the part of the page
    /// cache that was not used lately.
    #[must_use]
    pub fn memory_working_set(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let stat = fs::read(memory.directory.join("memory.stat")).ok()?;
        let name = memory.name("inactive_file", "total_inactive_file");
        let inactive = field(&stat, name.as_bytes()).unwrap_or_default();
        Some(self.memory_usage()?.saturating_sub(inactive))
    }

    /// The most bytes of memory the group has used; `None` where the kernel does not record it
    /// (version 2 before Linux 5.19).
    #[must_use]
    pub fn memory_peak(&self) -> Option<u64> {
        let memory = self.memory.as_ref()?;
        let name = memory.name("memory.peak", "memory.max_usage_in_bytes");
        value(&memory.directory, name)
    }
}

impl Controller {
    fn name(&self, unified: &'static str, version1: &'static str) -> &'static str {
        if self.unified { unified } else { version1 }
    }

    /// The group and the groups it is in: a limit of any of them holds.
    fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.directory
            .ancestors()
            .take_while(|directory| directory.starts_with(&self.top))
            .take(MAX_DEPTH)
    }
}

/// The number in a control file; `None` for `max` and `-1`, which mean no limit.
fn value(directory: &Path, name: &str) -> Option<u64> {
    number(fs::read(directory.join(name)).ok()?.trim_ascii())
}

/// The number of a `name number` line.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| {
        let mut fields = words(line);
        (fields.next()? == name).then(|| number(fields.next()?))?
    })
}

/// A line of `/proc/self/cgroup`: `hierarchy:controllers:path`.
struct Membership<'a> {
    controllers: &'a [u8],
    path: &'a [u8],
}

impl<'a> Membership<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        parts.next()?;
        Some(Self {
            controllers: parts.next()?,
            path: parts.next()?,
        })
    }

    fn has(&self, controller: &[u8]) -> bool {
        contains(self.controllers, controller)
    }
}

/// A line of `/proc/self/mountinfo` about a control group file system.
struct Mount<'a> {
    root: &'a [u8],
    point: &'a [u8],
    options: &'a [u8],
    unified: bool,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        // Fields 4 and 5, then any number of optional ones up to a dash, then type, source and
        // options.
        let mut fields = words(line).skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let unified = match fields.next()? {
            b"cgroup2" => true,
            b"cgroup" => false,
            _ => return None,
        };
        Some(Self {
            root,
            point,
            options: fields.nth(1)?,
            unified,
        })
    }

    fn has(&self, controller: &[u8]) -> bool {
        contains(self.options, controller)
    }

    /// The directory of the group `path` under this mount. A mount may show only part of the
    /// hierarchy, whose top is then its root; a group outside that part is not visible.
    fn locate(&self, path: &[u8], unified: bool) -> Option<Controller> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let top = PathBuf::from(text(self.point)?);
        let inside = Path::new(text(path)?)
            .strip_prefix(text(self.root)?)
            .unwrap_or(Path::new(""));
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let escapes = inside
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)));
        Some(Controller {
            directory: if escapes {
                top.clone()
            } else {
                top.join(inside)
            },
            top,
            unified,
        })
    }
}

fn contains(list: &[u8], item: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|entry| entry == item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(directory: &str, top: &str, unified: bool) -> Option<Controller> {
        Some(Controller {
            directory: directory.into(),
            top: top.into(),
            unified,
        })
    }

    #[test]
    fn version_2_in_a_container() {
        let mounts = b"31 23 0:28 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        let found = Cgroup::find(b"0::/\n", mounts);
        assert_eq!(
            found.memory,
            group("/sys/fs/cgroup", "/sys/fs/cgroup", true)
        );
        let found = Cgroup::find(b"0::/system.slice/egress.service\n", mounts);
        let expected = "/sys/fs/cgroup/system.slice/egress.service";
        assert_eq!(found.cpu, group(expected, "/sys/fs/cgroup", true));
        // The path of a group outside the namespace's root.
        let found = Cgroup::find(b"0::/../other\n", mounts);
        assert_eq!(found.cpu, group("/sys/fs/cgroup", "/sys/fs/cgroup", true));
    }

    #[test]
    fn version_1_in_a_container_without_a_namespace() {
        let memberships = b"5:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n";
        let mounts =
            b"1 2 0:3 /docker/abc /sys/fs/cgroup/memory ro shared:9 - cgroup cgroup rw,memory\n\
            1 2 0:4 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        let found = Cgroup::find(memberships, mounts);
        let memory = "/sys/fs/cgroup/memory";
        assert_eq!(found.memory, group(memory, memory, false));
        let cpu = "/sys/fs/cgroup/cpu,cpuacct";
        assert_eq!(found.cpu, group(cpu, cpu, false));
    }

    #[test]
    fn both_versions_together() {
        let memberships = b"4:memory:/deep/er\n0::/unified\n";
        let mounts = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = Cgroup::find(memberships, mounts);
        let memory = "/sys/fs/cgroup/memory";
        assert_eq!(
            found.memory,
            group("/sys/fs/cgroup/memory/deep/er", memory, false)
        );
        let unified = "/sys/fs/cgroup/unified";
        assert_eq!(
            found.cpu,
            group("/sys/fs/cgroup/unified/unified", unified, true)
        );
    }

    #[test]
    fn no_control_groups_no_readings() {
        let found = Cgroup::find(b"", b"");
        assert_eq!(found, Cgroup::default());
        assert_eq!(found.cpu_quota(), None);
        assert_eq!(found.memory_limit(), None);
        assert_eq!(found.memory_usage(), None);
        assert_eq!(found.memory_peak(), None);
        assert_eq!(found.memory_working_set(), None);
        assert_eq!(found.cpu_time(), None);
    }

    #[test]
    fn the_tightest_limit_upwards_holds() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        for (name, text) in [
            ("a/cpu.max", "150000 100000\n"),
            ("a/b/cpu.max", "max 100000\n"),
            ("a/memory.max", "1048576\n"),
            ("a/b/memory.max", "2097152\n"),
            ("a/b/memory.current", "4096\n"),
            ("a/b/memory.peak", "8192\n"),
            ("a/b/memory.stat", "anon 1\nfile 2048\ninactive_file 1024\n"),
            ("a/b/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
        ] {
            fs::write(top.path().join(name), text).unwrap();
        }
        let controller = Some(Controller {
            directory: inner,
            top: top.path().to_owned(),
            unified: true,
        });
        let cgroup = Cgroup {
            cpu: controller.clone(),
            memory: controller,
        };
        assert_eq!(cgroup.cpu_quota(), Some(1.5));
        assert_eq!(cgroup.memory_limit(), Some(1_048_576));
        assert_eq!(cgroup.memory_usage(), Some(4096));
        assert_eq!(cgroup.memory_peak(), Some(8192));
        assert_eq!(cgroup.memory_working_set(), Some(3072));
        assert_eq!(cgroup.cpu_time(), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn version_1_files() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(top.path().join(name), text).unwrap();
        write("cpu.cfs_quota_us", "-1\n");
        write("cpu.cfs_period_us", "100000\n");
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.usage_in_bytes", "5\n");
        write("memory.max_usage_in_bytes", "6\n");
        let controller = Some(Controller {
            directory: top.path().to_owned(),
            top: top.path().to_owned(),
            unified: false,
        });
        let cgroup = Cgroup {
            cpu: controller.clone(),
            memory: controller,
        };
        assert_eq!(cgroup.cpu_quota(), None);
        assert_eq!(cgroup.memory_limit(), None);
        assert_eq!(cgroup.memory_usage(), Some(5));
        assert_eq!(cgroup.memory_peak(), Some(6));
        write("memory.stat", "cache 9\ntotal_inactive_file 2\n");
        write("cpuacct.usage", "1500000000\n");
        assert_eq!(cgroup.memory_working_set(), Some(3));
        assert_eq!(cgroup.cpu_time(), Some(Duration::from_millis(1500)));
        write("cpu.cfs_quota_us", "50000\n");
        write("memory.limit_in_bytes", "4096\n");
        assert_eq!(cgroup.cpu_quota(), Some(0.5));
        assert_eq!(cgroup.memory_limit(), Some(4096));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            memberships in proptest::collection::vec(any::<u8>(), 0..200),
            mounts in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Cgroup::find(&memberships, &mounts);
        }
    }
}
