//! What the kernel says about the machine, the control group and this process.
//!
//! Parsers are pure and take whatever bytes there are; the readers around them keep their files
//! open and their buffers. A reading that is not to be had is `None`, never an invented number.
//! Never starts a process, never walks the descriptors of others, and never keeps a thread.

mod cgroup;
mod cpu;
mod file;
mod memory;
mod network;
mod process;
mod text;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use cgroup::Cgroup;
pub use cpu::{BusyShare, Times};
pub use memory::Memory;
pub use network::{Connections, Traffic};
pub use process::{Process, ProcessStat};

use file::ProcFile;

/// Readings of the machine, for the `system` instruments. Shared by the callbacks of several
/// instruments: every method takes `&self` and holds a lock for one `pread`.
pub struct Host {
    memory: Mutex<ProcFile>,
    cpu: Mutex<(ProcFile, BusyShare)>,
    traffic: Mutex<ProcFile>,
    sockets: Mutex<(ProcFile, ProcFile)>,
    proc: Box<Path>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Readings of the machine this process runs on. Opens nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Path::new("/proc"))
    }

    /// Readings from a file system laid out like `/proc`.
    fn at(proc: &Path) -> Self {
        let file = |name: &str| ProcFile::new(proc.join(name));
        Self {
            memory: Mutex::new(file("meminfo")),
            cpu: Mutex::new((file("stat"), BusyShare::default())),
            traffic: Mutex::new(file("net/dev")),
            sockets: Mutex::new((file("net/sockstat"), file("net/sockstat6"))),
            proc: proc.into(),
        }
    }

    /// Memory of the machine.
    pub fn memory(&self) -> Option<Memory> {
        Memory::parse(lock(&self.memory).read()?)
    }

    /// Time all processors have spent since the machine started.
    pub fn cpu_times(&self) -> Option<Times> {
        let (file, _) = &mut *lock(&self.cpu);
        Times::parse(file.read()?)
    }

    /// Share of the processors' time that was spent working since the previous reading, 0 to 1;
    /// the first reading is 0.
    pub fn cpu_busy(&self) -> Option<f64> {
        let (file, share) = &mut *lock(&self.cpu);
        Some(share.advance(Times::parse(file.read()?)?))
    }

    /// Bytes through all interfaces of the network namespace since each came up.
    pub fn traffic(&self) -> Option<Traffic> {
        Traffic::parse(lock(&self.traffic).read()?)
    }

    /// Sockets in use in the network namespace, IPv4 and IPv6 together.
    pub fn connections(&self) -> Option<Connections> {
        let (v4, v6) = &mut *lock(&self.sockets);
        let mut sockets = Connections::parse(v4.read()?);
        if let Some(text) = v6.read() {
            sockets += Connections::parse(text);
        }
        Some(sockets)
    }

    /// Processes this process can see.
    pub fn processes(&self) -> Option<u64> {
        let entries = std::fs::read_dir(&self.proc).ok()?;
        let is_process = |name: &std::ffi::OsStr| {
            let name = name.as_encoded_bytes();
            !name.is_empty() && name.iter().all(u8::is_ascii_digit)
        };
        let processes = entries
            .flatten()
            .filter(|entry| is_process(&entry.file_name()));
        Some(processes.count() as u64)
    }
}

/// A reader that panicked has left at most a stale buffer, which the next reading overwrites.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn reads_a_machine() {
        let proc = tempfile::tempdir().unwrap();
        let root = proc.path();
        for directory in ["net", "1", "42", "self", "4x"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        for (name, text) in [
            ("meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n"),
            ("stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2\n"),
            ("net/dev", "a\nb\n  lo: 5 0 0 0 0 0 0 0 7 0 0 0 0 0 0 0\n"),
            (
                "net/sockstat",
                "TCP: inuse 3 orphan 0\nUDP: inuse 2 mem 0\n",
            ),
            ("net/sockstat6", "TCP6: inuse 4\nUDP6: inuse 1\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        let host = Host::at(root);
        assert_eq!(host.memory().unwrap().used(), 600 * 1024);
        assert_eq!(host.cpu_busy(), Some(0.0));
        fs::write(root.join("stat"), "cpu  150 0 150 800 200 0 0 0 0 0\n").unwrap();
        assert_eq!(host.cpu_busy(), Some(1.0 / 3.0));
        let traffic = host.traffic().unwrap();
        assert_eq!((traffic.received, traffic.sent), (5, 7));
        let sockets = host.connections().unwrap();
        assert_eq!((sockets.tcp, sockets.udp), (7, 3));
        assert_eq!(host.processes(), Some(2));
    }

    #[test]
    fn what_is_not_there_is_not_invented() {
        let nothing = tempfile::tempdir().unwrap();
        let host = Host::at(&nothing.path().join("none"));
        assert!(host.memory().is_none());
        assert!(host.cpu_busy().is_none());
        assert!(host.traffic().is_none());
        assert!(host.connections().is_none());
        assert!(host.processes().is_none());
    }

    #[test]
    fn reads_this_machine() {
        let host = Host::new();
        let memory = host.memory().unwrap();
        assert!(memory.available <= memory.total && memory.used() > 0);
        assert_eq!(host.cpu_busy(), Some(0.0));
        assert!((0.0..=1.0).contains(&host.cpu_busy().unwrap()));
        assert!(host.traffic().is_some());
        assert!(host.connections().is_some());
        assert!(host.processes().unwrap() > 0);
    }
}
