//! Starting processes: the only place of the daemon that does.
//!
//! Owns what every child is guaranteed: a session and process group of its own, default signal
//! dispositions, no blocked signals, no descriptors but those given to it, and an exit status that
//! is collected exactly once. Never reads a process's output and never decides when it must end.

pub mod accounts;
mod exit;
mod vfork;
mod wait;

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::process::{Pid, Signal};
use smol::Async;
use smol::channel::Receiver;

pub use accounts::{Accounts, Credentials};
pub use exit::{Ended, Exit, Usage};
use vfork::{Plan, Pointers, Step};

use super::environment::Environment;

/// The stack of the thread that waits for a child where the kernel has no pidfd, in bytes.
const WAITER_STACK: usize = 64 * 1024;

/// What to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The program's path; nothing is looked up.
    pub program: &'a Path,
    /// All arguments, the first being the program's name.
    pub arguments: &'a [&'a OsStr],
    /// The whole environment.
    pub environment: &'a Environment,
    /// Where it starts; the daemon's own directory when absent.
    pub directory: Option<&'a Path>,
    /// Whom it becomes; the daemon's user when absent.
    pub credentials: Option<&'a Credentials>,
    /// Its descriptors 0, 1, 2 and so on.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Whether descriptor 0 is a terminal it takes as its controlling one.
    pub terminal: bool,
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// An argument, a variable or a path has a byte 0 in it.
    #[error("fork/exec {}: invalid argument (a NUL byte in the command, a path or a variable)", .0.display())]
    Nul(PathBuf),
    /// The working directory cannot be entered.
    #[error("chdir {}: {}", .directory.display(), Text(.errno))]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why, as an error number.
        errno: i32,
    },
    /// The process may not become the user asked for.
    #[error("fork/exec {}: {} (cannot become uid {uid} gid {gid})", .program.display(), Text(.errno))]
    Credentials {
        /// The program.
        program: PathBuf,
        /// User asked for.
        uid: u32,
        /// Group asked for.
        gid: u32,
        /// Why, as an error number.
        errno: i32,
    },
    /// Anything else the kernel refused: no such program, no more processes, no memory.
    #[error("fork/exec {}: {}{}", .program.display(), Text(.errno), advice(*.errno))]
    Exec {
        /// The program.
        program: PathBuf,
        /// Why, as an error number.
        errno: i32,
    },
    /// The descriptors of a process could not be made.
    #[error("{what}: {}{}", Text(.errno), advice(*.errno))]
    Descriptors {
        /// What could not be made, for example `pipe`.
        what: &'static str,
        /// Why, as an error number.
        errno: i32,
    },
    /// No program of this name is in the search path.
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotFound(&'static str),
}

impl SpawnError {
    /// A failure to make the descriptors of a process.
    pub(super) fn descriptors<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Descriptors {
            what,
            errno: errno(&error.into()),
        }
    }

    /// The error number behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Nul(_) | Self::NotFound(_) => None,
            Self::Directory { errno, .. }
            | Self::Credentials { errno, .. }
            | Self::Exec { errno, .. }
            | Self::Descriptors { errno, .. } => Some(*errno),
        }
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// An error number in the words of the reference implementation, whatever the C library says.
struct Text<'a>(&'a i32);

impl fmt::Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match *self.0 {
            libc::EPERM => "operation not permitted",
            libc::ENOENT => "no such file or directory",
            libc::EIO => "input/output error",
            libc::E2BIG => "argument list too long",
            libc::ENOEXEC => "exec format error",
            libc::EAGAIN => "resource temporarily unavailable",
            libc::ENOMEM => "cannot allocate memory",
            libc::EACCES => "permission denied",
            libc::ENOTDIR => "not a directory",
            libc::EINVAL => "invalid argument",
            libc::ENFILE => "too many open files in system",
            libc::EMFILE => "too many open files",
            libc::ETXTBSY => "text file busy",
            libc::ENOSPC => "no space left on device",
            libc::ELOOP => "too many levels of symbolic links",
            libc::ENAMETOOLONG => "file name too long",
            libc::ENOSYS => "function not implemented",
            other => return write!(formatter, "errno {other}"),
        })
    }
}

fn advice(errno: i32) -> &'static str {
    match errno {
        libc::EAGAIN => " (a limit on processes is reached: pids cgroup or RLIMIT_NPROC)",
        libc::ENOMEM => " (raise the memory limit or end other processes)",
        libc::EMFILE => " (raise RLIMIT_NOFILE or end other commands)",
        libc::E2BIG => " (the command and its environment exceed the kernel's limit)",
        _ => "",
    }
}

/// The children of this process: starts them, and knows which ended processes are theirs.
///
/// Clones share their state.
#[derive(Clone, Default)]
pub struct Children {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Held shared while a child is started and entered below, exclusively while an unknown ended
    /// process is collected: a child that ends at once is never taken for an orphan.
    gate: RwLock<()>,
    known: Mutex<Known>,
    /// Told whenever a child was collected.
    collected: event_listener::Event,
    /// The largest resident set this process was last seen to have had, in bytes.
    own_peak: AtomicU64,
    without_pidfd: bool,
}

#[derive(Default)]
struct Known {
    /// Children whose status belongs to a [`Child`].
    owned: HashSet<u32>,
    /// Children nobody waits for any more.
    abandoned: Vec<u32>,
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Whole after a panic: every change is one insertion or removal.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child's largest resident set, if it is the child's own. The kernel counts what a process was
    /// before it became its program: this one, whose memory it shared.
    fn distinct(&self, peak: u64) -> Option<u64> {
        if peak <= self.own_peak.load(Ordering::Relaxed) {
            return None;
        }
        let own = super::processes::own_peak()?;
        self.own_peak.store(own, Ordering::Relaxed);
        (peak > own).then_some(peak)
    }

    /// Collects those abandoned children that have ended.
    fn sweep(&self) {
        self.known()
            .abandoned
            .retain(|pid| matches!(wait::collect(*pid), Ok(None)));
    }
}

impl Children {
    /// No children yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same on a kernel without pidfd (before Linux 5.2, some sandboxes), for tests: every child
    /// gets a thread that waits for it.
    #[must_use]
    pub fn without_pidfd() -> Self {
        let inner = Inner {
            without_pidfd: true,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Starts a process. Blocks until the kernel has loaded the program, some 100 microseconds, or
    /// as long as the file system takes to enter the directory and open the program.
    ///
    /// # Errors
    ///
    /// There is no process; the error says which step failed.
    pub fn spawn(&self, spec: &Spec<'_>) -> Result<Child, SpawnError> {
        self.inner.sweep();
        let prepared = Prepared::new(spec)?;
        let descriptors = lift(spec.descriptors)?;
        let descriptors: Vec<BorrowedFd<'_>> = descriptors
            .iter()
            .zip(spec.descriptors)
            .map(|(lifted, given)| lifted.as_ref().map_or(*given, AsFd::as_fd))
            .collect();
        let plan = Plan {
            program: &prepared.program,
            arguments: &Pointers::new(&prepared.arguments),
            environment: &Pointers::new(&prepared.environment),
            directory: prepared.directory.as_deref(),
            descriptors: &descriptors,
            terminal: spec.terminal,
            credentials: spec
                .credentials
                .map(|who| (who.uid, who.gid, who.groups.as_slice())),
        };
        let started = {
            let _gate = self
                .inner
                .gate
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let want_pidfd = !self.inner.without_pidfd;
            let started = vfork::start(&plan, want_pidfd)
                .or_else(|failure| match failure.step {
                    // Old kernels ignore the flag of a pidfd; some sandboxes refuse it.
                    Step::Clone if want_pidfd && failure.errno == libc::EINVAL => {
                        vfork::start(&plan, false)
                    }
                    _ => Err(failure),
                })
                .map_err(|failure| spec.error(&failure))?;
            self.inner.known().owned.insert(started.pid);
            started
        };
        Child::new(self.inner.clone(), started)
    }

    /// Collects every ended process that was inherited, and none that a [`Child`] stands for.
    ///
    /// Returns whether one that belongs to a [`Child`] is in the way: the kernel shows only the
    /// first ended process, so there may be more behind it. Call again after the next
    /// [`collected`](Self::collected).
    pub(super) fn reap_orphans(&self) -> bool {
        loop {
            let _gate = self
                .inner
                .gate
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let Ok(Some(pid)) = wait::peek() else {
                return false;
            };
            if self.inner.known().owned.contains(&pid) {
                return true;
            }
            // An error means that somebody else collected it in between.
            let _ = wait::collect(pid);
        }
    }

    /// Completes after the next time a child was collected.
    pub(super) fn collected(&self) -> event_listener::EventListener {
        self.inner.collected.listen()
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Children").finish_non_exhaustive()
    }
}

impl Spec<'_> {
    fn error(&self, failure: &vfork::Failure) -> SpawnError {
        let errno = failure.errno;
        match (failure.step, self.directory, self.credentials) {
            (Step::Directory, Some(directory), _) => SpawnError::Directory {
                directory: directory.to_owned(),
                errno,
            },
            (Step::Credentials, _, Some(who)) => SpawnError::Credentials {
                program: self.program.to_owned(),
                uid: who.uid,
                gid: who.gid,
                errno,
            },
            (Step::Descriptors, ..) => SpawnError::Descriptors {
                what: "dup2",
                errno,
            },
            (Step::Terminal, ..) => SpawnError::Descriptors {
                what: "controlling terminal",
                errno,
            },
            _ => SpawnError::Exec {
                program: self.program.to_owned(),
                errno,
            },
        }
    }
}

/// A specification as the kernel takes it.
struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: Option<CString>,
}

impl Prepared {
    fn new(spec: &Spec<'_>) -> Result<Self, SpawnError> {
        let terminated =
            |text: &[u8]| CString::new(text).map_err(|_| SpawnError::Nul(spec.program.to_owned()));
        Ok(Self {
            program: terminated(spec.program.as_os_str().as_bytes())?,
            arguments: spec
                .arguments
                .iter()
                .map(|argument| terminated(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            environment: spec
                .environment
                .iter()
                .map(|(name, value)| {
                    terminated(&[name.as_bytes(), b"=", value.as_bytes()].concat())
                })
                .collect::<Result<_, _>>()?,
            directory: spec
                .directory
                .map(|directory| terminated(directory.as_os_str().as_bytes()))
                .transpose()?,
        })
    }
}

/// Copies those descriptors whose own number another one is to get.
fn lift(descriptors: &[BorrowedFd<'_>]) -> Result<Vec<Option<OwnedFd>>, SpawnError> {
    let floor = i32::try_from(descriptors.len()).unwrap_or(i32::MAX);
    descriptors
        .iter()
        .map(|descriptor| {
            (descriptor.as_raw_fd() < floor)
                .then(|| rustix::io::fcntl_dupfd_cloexec(descriptor, floor))
                .transpose()
                .map_err(SpawnError::descriptors("dup"))
        })
        .collect()
}

/// A process that was started here and whose status nobody has collected.
///
/// Until [`collect`](Self::collect) its number, and that of its group and session, belong to it
/// alone, so signals reach nobody else. Dropping it leaves the process running; its status is then
/// collected in passing.
pub struct Child {
    pid: u32,
    children: Arc<Inner>,
    ending: Ending,
    ended: Mutex<Option<Ended>>,
}

/// How the end of a child is noticed.
enum Ending {
    Pidfd(Async<OwnedFd>),
    /// Closed by a thread that waits.
    Thread(Receiver<()>),
}

impl Child {
    fn new(children: Arc<Inner>, started: vfork::Started) -> Result<Self, SpawnError> {
        let pid = started.pid;
        let ending = match started.pidfd {
            // Reading it is never tried, so it need not be made non-blocking.
            Some(pidfd) => Async::new_nonblocking(pidfd).map(Ending::Pidfd),
            None => waiter(pid),
        };
        match ending {
            Ok(ending) => Ok(Self {
                pid,
                children,
                ending,
                ended: Mutex::new(None),
            }),
            Err(error) => {
                // Its end could not be noticed, so it must not go on.
                kill(Target::Group(pid), Signal::KILL);
                let mut known = children.known();
                known.owned.remove(&pid);
                known.abandoned.push(pid);
                Err(SpawnError::Descriptors {
                    what: "wait for the process",
                    errno: errno(&error),
                })
            }
        }
    }

    /// Its process id, which is also the id of its group and its session.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the process and leaves its status uncollected.
    ///
    /// # Errors
    ///
    /// The reactor refused to wait.
    pub async fn exited(&self) -> io::Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        match &self.ending {
            Ending::Pidfd(pidfd) => pidfd.readable().await,
            Ending::Thread(ended) => {
                // Nothing is ever sent: the error says that the thread has seen the end.
                let _ = ended.recv().await;
                Ok(())
            }
        }
    }

    /// Collects the status if the process has ended.
    ///
    /// # Errors
    ///
    /// The process is no child of this one any more: something else collected it.
    pub fn collect(&self) -> io::Result<Option<Ended>> {
        let mut ended = self.ended();
        if ended.is_none() {
            *ended = wait::collect(self.pid)?;
            if let Some(ended) = &mut *ended {
                let peak = ended.usage.max_rss_bytes;
                ended.usage.max_rss_bytes = peak.and_then(|peak| self.children.distinct(peak));
                self.children.known().owned.remove(&self.pid);
                self.children.collected.notify(usize::MAX);
            }
        }
        Ok(*ended)
    }

    /// Waits for the end of the process and collects its status.
    ///
    /// # Errors
    ///
    /// As [`exited`](Self::exited) and [`collect`](Self::collect).
    pub async fn wait(&self) -> io::Result<Ended> {
        loop {
            self.exited().await?;
            if let Some(ended) = self.collect()? {
                return Ok(ended);
            }
        }
    }

    /// Sends a signal to the process's group, or to the process alone, and says whether it could be
    /// sent: not once the status was collected, since the number may be another process's then.
    pub fn signal(&self, scope: Scope, signal: Signal) -> bool {
        let ended = self.ended();
        ended.is_none()
            && kill(
                match scope {
                    Scope::Group => Target::Group(self.pid),
                    Scope::Process => Target::Process(self.pid),
                },
                signal,
            )
    }

    fn ended(&self) -> MutexGuard<'_, Option<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let mut known = self.children.known();
            known.owned.remove(&self.pid);
            known.abandoned.push(self.pid);
            drop(known);
            self.children.sweep();
            self.children.collected.notify(usize::MAX);
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Child").field(&self.pid).finish()
    }
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The process and everything in its process group.
    Group,
    /// The process alone.
    Process,
}

pub(super) enum Target {
    Group(u32),
    Process(u32),
}

/// Sends a signal and says whether there was somebody to get it.
pub(super) fn kill(target: Target, signal: Signal) -> bool {
    let pid = |id: u32| Pid::from_raw(id.cast_signed());
    match target {
        Target::Group(id) => {
            pid(id).is_some_and(|pid| rustix::process::kill_process_group(pid, signal).is_ok())
        }
        Target::Process(id) => {
            pid(id).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
        }
    }
}

/// Waits for a child in a thread, where the kernel has no pidfd.
fn waiter(pid: u32) -> io::Result<Ending> {
    let (held, ended) = smol::channel::bounded(1);
    std::thread::Builder::new()
        .name(format!("wait-{pid}"))
        .stack_size(WAITER_STACK)
        .spawn(move || {
            let _held = held;
            // An error means that the child is gone already.
            let _ = wait::block_until_ended(pid);
        })?;
    Ok(Ending::Thread(ended))
}

/// The first file of this name in a search path that may be executed.
#[must_use]
pub fn find_program(name: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| {
            let executable = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
            executable && path.is_file()
        })
}

/// The shell commands run in: `bash`, else `sh`.
///
/// # Errors
///
/// Neither is in the search path of `environment`.
pub fn find_shell(environment: &Environment) -> Result<PathBuf, SpawnError> {
    let search = environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
    ["bash", "sh"]
        .into_iter()
        .find_map(|name| find_program(name, search))
        .ok_or(SpawnError::NotFound("sh"))
}

/// Where programs are looked up when no `PATH` is set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `bash` that sessions and terminals need.
///
/// # Errors
///
/// It is not in the search path of `environment`.
pub fn find_bash(environment: &Environment) -> Result<PathBuf, SpawnError> {
    let search = environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
    find_program("bash", search).ok_or(SpawnError::NotFound("bash"))
}

/// Reads a file up to a limit.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut content)?;
    Ok(content)
}
