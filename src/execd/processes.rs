//! Which processes belong to a session of the kernel, as `/proc` tells.
//!
//! Looks only; signals are sent by [`terminate`](super::terminate). Reads of `/proc` are served from
//! memory and do not block.

use std::fs;

/// A process that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

/// Every process of a session that has not ended (a zombie has).
pub(super) fn of_session(session: u32) -> Vec<Member> {
    all().filter(|member| member.session == session).collect()
}

/// One process, unless it has ended.
pub(super) fn one(pid: u32) -> Option<Member> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The children of a process that have not ended. Nothing where the kernel does not list them
/// (`CONFIG_PROC_CHILDREN`); of a process with threads, those of its first one.
pub(super) fn children(pid: u32) -> Vec<Member> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|child| one(child.parse().ok()?))
        .collect()
}

/// Whether a process reads from a pipe.
pub(super) fn reads_a_pipe(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/fd/0"))
        .is_ok_and(|input| input.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
}

/// Whether a process still runs the program it was forked from.
pub(super) fn is_fork_of(pid: u32, parent: u32) -> bool {
    let line = |pid| fs::read(format!("/proc/{pid}/cmdline")).ok();
    line(pid).is_some_and(|line_of_fork| line(parent) == Some(line_of_fork))
}

/// The largest resident set this process has had, in bytes.
pub(super) fn own_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The clock in which the kernel tells when a process started: ticks from boot.
pub(super) fn ticks_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * per_second + nanos * per_second / 1_000_000_000
}

fn all() -> impl Iterator<Item = Member> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(one)
}

/// Parses `/proc/<pid>/stat` (proc_pid_stat(5)); none for a zombie.
fn parse(stat: &[u8]) -> Option<Member> {
    // The name may have anything in it, so what follows is found from its last parenthesis.
    let text = std::str::from_utf8(stat.get(stat.iter().rposition(|byte| *byte == b')')? + 1..)?);
    let pid = std::str::from_utf8(stat.split(|byte| *byte == b' ').next()?).ok()?;
    let mut fields = text.ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
    let id = |number: u64| u32::try_from(number).ok();
    Some(Member {
        pid: pid.parse().ok()?,
        parent: id(number(0)?)?,
        group: id(number(0)?)?,
        session: id(number(0)?)?,
        // Field 22; the session is field 6.
        started: number(15)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_anything_in_it() {
        let rest = "7 8 9 34816 10 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 5";
        let line = format!("42 (a) R (b) S {rest}");
        let expected = Member {
            pid: 42,
            parent: 7,
            group: 8,
            session: 9,
            started: 4711,
        };
        assert_eq!(parse(line.as_bytes()), Some(expected));
        assert_eq!(parse(format!("42 (x) Z {rest}").as_bytes()), None);
        assert_eq!(parse(b"42 (x"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn this_process_is_in_its_own_session() {
        let me = one(std::process::id()).unwrap();
        assert!(of_session(me.session).contains(&me));
    }
}
