//! Collecting ended children: the system calls that `rustix` has no form of.
//!
//! Owns nothing; says which child ended, and takes one by its number. Never waits.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::exit::{Ended, Exit, Usage};

/// Takes the status of the child `pid` if it has ended.
pub(super) fn collect(pid: u32) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to local storage of the types the call writes.
    let found = retry(|| unsafe {
        libc::wait4(
            pid.cast_signed(),
            &raw mut status,
            libc::WNOHANG,
            usage.as_mut_ptr(),
        )
    })?;
    if found == 0 {
        return Ok(None);
    }
    // SAFETY: `rusage` is plain numbers, for which all zero is a value, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    Ok(Some(Ended {
        exit: exit(status),
        usage: Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            max_rss_bytes: Some(u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024),
        },
    }))
}

/// Says which child has ended, if any, and leaves its status where it is.
pub(super) fn peek() -> io::Result<Option<u32>> {
    look(libc::P_ALL, 0, libc::WNOHANG)
}

/// Waits in this thread until the child `pid` has ended, and leaves its status where it is.
pub(super) fn block_until_ended(pid: u32) -> io::Result<()> {
    look(libc::P_PID, pid, 0).map(drop)
}

fn look(kind: libc::idtype_t, id: u32, options: i32) -> io::Result<Option<u32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOWAIT | options;
    // SAFETY: the pointer is to local storage of the type the call writes.
    retry(|| unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) })?;
    // SAFETY: `siginfo_t` is plain data, for which all zero is a value. The kernel fills the fields
    // of a child's end, or leaves the zeros when none has ended.
    let pid = unsafe { info.assume_init().si_pid() };
    Ok((pid > 0).then(|| pid.unsigned_abs()))
}

fn retry(mut call: impl FnMut() -> i32) -> io::Result<i32> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn exit(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal {
            number: libc::WTERMSIG(status),
            core_dumped: libc::WCOREDUMP(status),
        }
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}
