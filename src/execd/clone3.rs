//! Programs that must not see `clone3` (contract 1.6): under old container runtimes a filter answers
//! it with `EPERM`, which glibc takes for a refusal, while `ENOSYS` would make it use `clone`.
//!
//! Owns the switch and the filter. The filter is inherited by every child, which is the point; it
//! costs them `sudo` and other set-user-id programs, because the kernel demands `no_new_privs`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;

/// The variable that says what is to be done.
pub const VARIABLE: &str = "EXECD_CLONE3_COMPAT";

/// The variable by which a re-executed process knows that the filter is there.
pub const APPLIED: &str = "_EXECD_CLONE3_COMPAT_APPLIED";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Install the filter and go on.
    Install,
    /// Install the filter and start again, so that the daemon itself never saw `clone3` work.
    Reexec,
}

/// A value that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid EXECD_CLONE3_COMPAT=\"{0}\" (use 1, true, or reexec)")]
pub struct Invalid(pub String);

/// The filter cannot be installed, or the process not started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no seccomp filters, or does not allow one here.
    #[error("clone3 compat: seccomp is not available on this kernel: {0}")]
    Seccomp(#[source] io::Error),
    /// The program cannot be executed again.
    #[error("clone3 compat: cannot start again: {0}")]
    Exec(#[source] io::Error),
}

impl Mode {
    /// Reads the variable's value; none and the empty one mean nothing is to be done.
    ///
    /// # Errors
    ///
    /// The value is none of the known ones.
    pub fn parse(value: Option<&str>) -> Result<Self, Invalid> {
        let raw = value.unwrap_or_default();
        match raw.trim().to_ascii_lowercase().as_str() {
            "" | "0" | "false" | "off" | "no" => Ok(Self::Off),
            "1" | "true" | "yes" | "on" => Ok(Self::Install),
            "reexec" => Ok(Self::Reexec),
            _ => Err(Invalid(raw.to_owned())),
        }
    }

    /// Does it, and says whether the filter is there. `applied` is whether [`APPLIED`] is set to
    /// `1`. Is called before any thread is started; the filter reaches threads all the same.
    ///
    /// # Errors
    ///
    /// The filter cannot be installed, or the process not started again.
    pub fn apply(
        self,
        applied: bool,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<bool, Error> {
        match self {
            Self::Off => Ok(false),
            Self::Reexec if applied => Ok(true),
            Self::Install => install().map(|()| true).map_err(Error::Seccomp),
            Self::Reexec => {
                install().map_err(Error::Seccomp)?;
                Err(Error::Exec(start_again(arguments)))
            }
        }
    }
}

/// Becomes this program once more, with the same arguments and environment.
fn start_again(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Error {
    // The link itself works even where the file was removed or replaced since.
    let mut again = std::process::Command::new("/proc/self/exe");
    let mut arguments = arguments.into_iter();
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).env(APPLIED, "1").exec()
}

/// Installs the filter in every thread of this process, for good.
fn install() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // The number of the call is the first field of `seccomp_data`, and that of `clone3` is the same
    // on every architecture since calls have common numbers (5.3).
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    let no_such_call = libc::ENOSYS.unsigned_abs() & libc::SECCOMP_RET_DATA;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, clone3)
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | no_such_call,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points to the array above, whose length it tells; the kernel copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        // A thread that could not take it over.
        thread if thread > 0 => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_the_contract() {
        for (value, mode) in [
            (None, Mode::Off),
            (Some(""), Mode::Off),
            (Some(" OFF "), Mode::Off),
            (Some("0"), Mode::Off),
            (Some("no"), Mode::Off),
            (Some("1"), Mode::Install),
            (Some("Yes\n"), Mode::Install),
            (Some("on"), Mode::Install),
            (Some("ReExec"), Mode::Reexec),
        ] {
            assert_eq!(Mode::parse(value), Ok(mode), "{value:?}");
        }
        assert_eq!(
            Mode::parse(Some("2 ")).unwrap_err().to_string(),
            "invalid EXECD_CLONE3_COMPAT=\"2 \" (use 1, true, or reexec)"
        );
    }

    #[test]
    fn nothing_is_done_when_nothing_is_to_be_done() {
        assert!(!Mode::Off.apply(false, ["x"]).unwrap());
        assert!(Mode::Reexec.apply(true, ["x"]).unwrap());
    }
}
