//! The one unsafe step of starting a process: a child that shares the parent's memory until `exec`.
//!
//! A `fork` copies the page tables of the daemon for every command; `CLONE_VM | CLONE_VFORK` copies
//! nothing and suspends only the calling thread until the child has executed its program. The
//! standard library's own fast path (`posix_spawn`) cannot start a session, take a terminal, change
//! user or close descriptors, so the few system calls in between are made here.
//!
//! Owns nothing and decides nothing: every pointer comes prepared in a [`Plan`]. Between `clone` and
//! `exec` there is no allocation, no lock, and no library call that keeps state.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

/// The stack the child runs on until `exec`, in bytes; a page below it faults instead of
/// overwriting memory.
const STACK: usize = 64 * 1024;

/// Size in bytes of the kernel's signal set (`_NSIG / 8`).
const SIGSET_BYTES: usize = 8;

/// The highest signal number (`_NSIG`).
const LAST_SIGNAL: c_int = 64;

/// What to become. Strings are terminated, vectors of pointers end with a null pointer.
pub(super) struct Plan<'a> {
    /// The program.
    pub program: &'a CStr,
    /// Its arguments, the first being its name.
    pub arguments: &'a Pointers<'a>,
    /// Its environment.
    pub environment: &'a Pointers<'a>,
    /// Where it starts; the parent's directory when absent.
    pub directory: Option<&'a CStr>,
    /// What becomes descriptor 0, 1, 2 and so on. All are at least as high as this list is long, so
    /// that putting one into place never overwrites another.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Whether descriptor 0 becomes the controlling terminal.
    pub terminal: bool,
    /// User, group and supplementary groups; those of the parent when absent.
    pub credentials: Option<(u32, u32, &'a [u32])>,
}

/// A null-terminated vector of C strings.
pub(super) struct Pointers<'a> {
    raw: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    pub(super) fn new<S: AsRef<CStr> + 'a>(strings: &'a [S]) -> Self {
        let raw = strings
            .iter()
            .map(|string| string.as_ref().as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            raw,
            strings: std::marker::PhantomData,
        }
    }
}

/// The step at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    /// The kernel made no process.
    Clone = 1,
    /// `setsid`.
    Session,
    /// Putting descriptors into place.
    Descriptors,
    /// Taking the controlling terminal.
    Terminal,
    /// Changing user and groups.
    Credentials,
    /// Entering the working directory.
    Directory,
    /// `execve`.
    Exec,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Clone,
        Self::Session,
        Self::Descriptors,
        Self::Terminal,
        Self::Credentials,
        Self::Directory,
        Self::Exec,
    ];
}

/// A start that failed; there is no child.
#[derive(Debug)]
pub(super) struct Failure {
    pub step: Step,
    pub errno: i32,
}

/// A process, and the descriptor that becomes readable at its end (Linux 5.2).
pub(super) struct Started {
    pub pid: u32,
    pub pidfd: Option<OwnedFd>,
}

/// What the child sees of its parent's memory.
struct Shared<'a> {
    plan: &'a Plan<'a>,
    /// The [`Step`] that failed, 0 for none, written by the child.
    step: AtomicU8,
    errno: AtomicI32,
}

/// Starts a process in a session of its own, with default signal dispositions, no blocked signal,
/// and no descriptor but those of the plan.
pub(super) fn start(plan: &Plan<'_>, want_pidfd: bool) -> Result<Started, Failure> {
    let shared = Shared {
        plan,
        step: AtomicU8::new(0),
        errno: AtomicI32::new(0),
    };
    let failed = |errno: i32| Failure {
        step: Step::Clone,
        errno,
    };
    let stack =
        Stack::map().map_err(|error| failed(error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    if want_pidfd {
        flags |= libc::CLONE_PIDFD;
    }
    // No handler of this process may run in the child, where it would act on shared memory.
    let blocked = BlockedSignals::new();
    // SAFETY: `child` gets a stack of its own and a pointer to `shared`, which outlives it: with
    // `CLONE_VFORK` this thread goes on only when the child has executed a program or ended. The
    // child keeps to what is safe there (see `child`). Its descriptors and signal dispositions are
    // copies, so changing them leaves this process alone.
    let pid = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            ptr::from_ref(&shared).cast_mut().cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let clone_error = io::Error::last_os_error();
    drop(blocked);
    if pid < 0 {
        return Err(failed(clone_error.raw_os_error().unwrap_or(libc::EAGAIN)));
    }
    // SAFETY: the kernel has just put a new descriptor there, which nothing else owns.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    let step = shared.step.load(Ordering::Acquire);
    let failed_step = Step::ALL.into_iter().find(|known| *known as u8 == step);
    match failed_step {
        None => Ok(Started {
            pid: pid.unsigned_abs(),
            pidfd,
        }),
        Some(step) => {
            // The child has ended, or is about to: nobody else knows it, so it is collected here.
            // SAFETY: no pointer is passed.
            while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
            Err(Failure {
                step,
                errno: shared.errno.load(Ordering::Acquire),
            })
        }
    }
}

/// The child between `clone` and `execve`. Shares memory with the suspended parent thread and with
/// running sibling threads, so it makes system calls and nothing else.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `start` passes a `Shared` that outlives this process's use of its memory.
    let shared = unsafe { &*argument.cast::<Shared<'_>>() };
    let plan = shared.plan;
    // SAFETY: plain system calls on pointers that the plan keeps valid. They are made through
    // `syscall` where the C library's function would act on its other threads (user and group
    // ids) or refuse signals it reserves for itself.
    unsafe {
        // All zero is `SIG_DFL` without flags in the kernel's layout on every architecture; 64
        // bytes are more than any of them reads. Handlers go before the mask is lifted.
        let default = [0u64; 8];
        for signal in 1..=LAST_SIGNAL {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                SIGSET_BYTES,
            );
        }
        if libc::syscall(libc::SYS_setsid) < 0 {
            return give_up(shared, Step::Session);
        }
        let mut target: RawFd = 0;
        for source in plan.descriptors {
            if libc::dup2(std::os::fd::AsRawFd::as_raw_fd(source), target) < 0 {
                return give_up(shared, Step::Descriptors);
            }
            target += 1;
        }
        // Before Linux 5.9 there is no such call; then only descriptors that this process itself
        // inherited without close-on-exec go on to the child.
        libc::syscall(libc::SYS_close_range, target, c_int::MAX, 0);
        if plan.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return give_up(shared, Step::Terminal);
        }
        if let Some((user, group, groups)) = plan.credentials
            && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, group, group, group) < 0
                || libc::syscall(libc::SYS_setresuid, user, user, user) < 0)
        {
            return give_up(shared, Step::Credentials);
        }
        if let Some(directory) = plan.directory
            && libc::chdir(directory.as_ptr()) < 0
        {
            return give_up(shared, Step::Directory);
        }
        let none = 0u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null::<u64>(),
            SIGSET_BYTES,
        );
        libc::execve(
            plan.program.as_ptr(),
            plan.arguments.raw.as_ptr(),
            plan.environment.raw.as_ptr(),
        );
    }
    give_up(shared, Step::Exec)
}

/// Tells the parent what failed; the returned value is the exit status nobody looks at.
fn give_up(shared: &Shared<'_>, step: Step) -> c_int {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    shared.errno.store(errno, Ordering::Release);
    shared.step.store(step as u8, Ordering::Release);
    // SAFETY: ends this process without running anything of the parent's, such as exit handlers.
    unsafe { libc::_exit(127) }
}

/// A mapping for the child's stack.
struct Stack {
    base: *mut c_void,
}

impl Stack {
    const GUARD: usize = 4096;

    fn map() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping, whose lowest part is made inaccessible.
        unsafe {
            let base = libc::mmap(
                ptr::null_mut(),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self { base };
            if libc::mprotect(base, Self::GUARD, libc::PROT_NONE) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }

    /// Stacks grow down, and are aligned to 16 bytes at their top.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.byte_add(STACK) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the child that ran on it has left it.
        unsafe {
            libc::munmap(self.base, STACK);
        }
    }
}

/// Every signal blocked in this thread, until dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are local and initialised by the calls that get them.
        unsafe {
            let mut all = std::mem::zeroed::<libc::sigset_t>();
            let mut before = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask the kernel gave before.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}
