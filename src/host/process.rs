//! This process: `/proc/self/stat` (proc_pid_stat(5)) and its descriptors.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::file::ProcFile;
use super::lock;
use super::text::{number, words};

/// Readings of this process. Every method takes `&self` and holds a lock for one `pread`.
pub struct Process {
    stat: Mutex<ProcFile>,
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Process {
    /// Opens nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stat: Mutex::new(ProcFile::new(PathBuf::from("/proc/self/stat"))),
        }
    }

    /// The kernel's account of this process.
    pub fn stat(&self) -> Option<ProcessStat> {
        ProcessStat::parse(lock(&self.stat).read()?)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> Option<u64> {
        const DIRECTORY: &str = "/proc/self/fd";
        // Since Linux 6.2 the directory's size is the number, and nothing needs to be listed.
        match std::fs::metadata(DIRECTORY).ok()?.len() {
            // One of those listed is the listing itself.
            0 => Some((std::fs::read_dir(DIRECTORY).ok()?.count() as u64).saturating_sub(1)),
            count => Some(count),
        }
    }
}

/// What the kernel accounts to one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Processor time in its own code.
    pub user: Duration,
    /// Processor time in the kernel on its behalf.
    pub system: Duration,
    /// Threads.
    pub threads: u64,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// From the start of the machine to the start of the process.
    pub started: Duration,
}

impl ProcessStat {
    /// Time since the process started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        );
        now.saturating_sub(self.started)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The second field is the name in parentheses, and may hold anything at all.
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = words(text.get(name_end + 1..)?);
        // Counted as the manual counts, from 1: the field after the name is the third.
        let user = number(fields.nth(14 - 3)?)?;
        let system = number(fields.next()?)?;
        let threads = number(fields.nth(20 - 16)?)?;
        let started = number(fields.nth(22 - 21)?)?;
        let pages = number(fields.nth(24 - 23)?)?;
        Some(Self {
            user: ticks(user),
            system: ticks(system),
            threads,
            resident: pages.checked_mul(rustix::param::page_size() as u64)?,
            started: ticks(started),
        })
    }
}

fn ticks(count: u64) -> Duration {
    let each_second = rustix::param::clock_ticks_per_second().max(1);
    let nanoseconds = (count % each_second) * 1_000_000_000 / each_second;
    Duration::from_secs(count / each_second) + Duration::from_nanos(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "28566 (c) at) R 28564 28564 8643 0 -1 4194304 103 0 0 0 250 101 0 0 20 0 \
        7 0 310743 3133440 379 18446744073709551615 93908824354816 93908824374697 0 0 0 0 0 0 0 0 \
        0 0 17 1 0 0 0 0 0 93908824390704 93908824392320 93909033766912 0 0 0 0 0\n";

    #[test]
    fn a_kernels_line() {
        let stat = ProcessStat::parse(STAT.as_bytes()).unwrap();
        assert_eq!((stat.user, stat.system), (ticks(250), ticks(101)));
        assert_eq!(stat.threads, 7);
        assert_eq!(stat.started, ticks(310_743));
        assert_eq!(stat.resident, 379 * rustix::param::page_size() as u64);
    }

    #[test]
    fn this_process() {
        let process = Process::new();
        let stat = process.stat().unwrap();
        assert!(stat.threads >= 1 && stat.resident > 0);
        assert!(stat.uptime() < Duration::from_secs(24 * 3600));
        assert!(process.descriptors().unwrap() >= 3);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ProcessStat::parse(&text);
        }

        #[test]
        fn a_line_cut_short_never_panics(length in 0..STAT.len()) {
            let _ = ProcessStat::parse(&STAT.as_bytes()[..length]);
        }
    }
}
