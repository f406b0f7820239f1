//! What the supervisor needs of the kernel and no safe interface offers: signals as a descriptor,
//! a look at ended children, and the last steps of a child before its program.
//!
//! The only unsafe code of the supervisor. Decides nothing.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal};

/// Signals that are read from a descriptor instead of being delivered. They are blocked in the
/// thread that made this and in those it starts later, for good.
#[derive(Debug)]
pub struct SignalQueue(OwnedFd);

impl SignalQueue {
    /// Begins to keep `signals`, even those that were ignored. One that is pending already counts
    /// once, as always with signals.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set, and `sigaddset` gets an initialised one.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            set.assume_init()
        };
        for signal in signals {
            // An ignored signal is dropped even while it is blocked, and an ignored SIGCHLD has
            // the kernel throw away the exit statuses.
            // SAFETY: the default disposition runs no code of this process.
            if unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the set is initialised, and the former mask is not asked for.
        let blocked =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, so nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The number of the next signal, if one is waiting.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is valid for writes of `size` bytes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            };
        }
        if usize::try_from(read) != Ok(size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the kernel has written all of it, and every bit pattern is a value.
        let info = unsafe { info.assume_init() };
        Ok(i32::try_from(info.ssi_signo).ok())
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child that has ended, and stays as it is until it is waited for by its id.
///
/// # Errors
///
/// `ECHILD`: there is no child at all.
pub fn ended_child() -> io::Result<Option<Pid>> {
    // SAFETY: zero is a value of every field.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `waitid` fills in the child's fields, or leaves the zeros if none has ended.
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}

/// Starts a program in a process group of its own, without the signal mask of this process, and
/// bound to it: when this thread ends, however it does, the child is killed.
///
/// # Errors
///
/// The program cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let prepare = move || {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set that `pthread_sigmask` reads.
        let unblocked = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
        };
        if unblocked != 0 {
            return Err(io::Error::from_raw_os_error(unblocked));
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before that.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, none of which allocates or locks.
    unsafe { command.process_group(0).pre_exec(prepare) }.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_children_there_is_none_that_ended() {
        // Other tests of this process may have children of their own.
        match ended_child() {
            Ok(_) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ECHILD)),
        }
    }
}
