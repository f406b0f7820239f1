//! The executable's own pages in memory.
//!
//! Most of what a start runs, from the parser of the command line on, never runs again, yet its
//! pages stay mapped and count as memory of the process: more than everything it allocates.

use std::ptr;

/// The alignment `madvise` asks for: no page of the supported systems is larger.
const LARGEST_PAGE: usize = 64 * 1024;

unsafe extern "C" {
    /// Where the executable begins in memory; the linker defines it.
    static __executable_start: u8;
    /// Where its code ends.
    static etext: u8;
}

/// Gives the pages of the code back; those that are used come back one by one, from the page cache.
pub(super) fn release() {
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr() / LARGEST_PAGE * LARGEST_PAGE;
    let Some(length) = end.checked_sub(start) else {
        return;
    };
    // SAFETY: from `__executable_start` to `etext` there are only read-only mappings of the
    // executable, which nobody has written to and nobody can while it runs, so that a page that is
    // dropped and read again is the same page. The result does not matter: at worst, nothing is
    // given back.
    unsafe {
        libc::madvise(
            ptr::with_exposed_provenance_mut(start),
            length,
            libc::MADV_DONTNEED,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident pages of files, in KiB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssFile:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    #[test]
    fn what_is_given_back_is_still_there_when_it_is_needed() {
        let before = resident();
        release();
        assert!(resident() < before, "{before} KiB");
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
