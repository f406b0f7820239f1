//! Gives back memory that something rare took: a start, whose command line and seventy settings take
//! several times the memory of the waiting that follows, or a large policy.
//!
//! Changes nothing but where contents are kept: code comes back from the page cache when it runs
//! again, and heap that is in use is not touched.

use std::fs;
use std::io;

/// Gives back code that has run and heap that was freed. Worth its price, some dozens of page
/// faults, once: at the end of a start.
///
/// # Errors
///
/// The system does not tell where the code is, or does not take it back.
pub fn give_back() -> io::Result<()> {
    give_back_heap();
    give_back_code()
}

/// Gives back heap that this thread has freed. mimalloc would otherwise keep it until much more is
/// allocated.
#[cfg(target_env = "musl")]
pub fn give_back_heap() {
    // Links the allocator where nothing else does.
    use mimalloc as _;
    unsafe extern "C" {
        /// mimalloc.h: frees what the heap of this thread does not use.
        fn mi_collect(force: bool);
    }
    // SAFETY: without preconditions; live allocations are not touched.
    unsafe { mi_collect(true) }
}

/// Gives back heap that was freed.
#[cfg(not(target_env = "musl"))]
pub fn give_back_heap() {
    // SAFETY: without preconditions; live allocations are not touched. Whether anything was given
    // back does not matter.
    unsafe { libc::malloc_trim(0) };
}

fn give_back_code() -> io::Result<()> {
    let here = give_back_code as fn() -> io::Result<()> as usize;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    for Mapping { start, end, .. } in unchanged(&maps, here) {
        // SAFETY: the range is one mapping of the running executable, read-only and without a page
        // of its own, so it has no contents but those of the file; a file cannot be changed while
        // it is executed.
        let given = unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_DONTNEED) };
        if given != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A mapping, as smaps has it (proc_pid_smaps(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// Pages that are not those of the file, in KiB; `None` until its line is read.
    anonymous: Option<u64>,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (permissions, _offset) = (fields.next()?, fields.next()?);
        Some(Self {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            permissions,
            file: (fields.next()?, fields.next()?),
            anonymous: None,
        })
    }
}

/// The read-only mappings, of the file whose code is at `address`, that are as they are in it.
fn unchanged(smaps: &str, address: usize) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::parse(line) {
            mappings.push(mapping);
        } else if let (Some(size), Some(mapping)) =
            (line.strip_prefix("Anonymous:"), mappings.last_mut())
        {
            let size = size.trim_end_matches("kB").trim();
            mapping.anonymous = size.parse().ok();
        }
    }
    let is_here = |mapping: &&Mapping<'_>| (mapping.start..mapping.end).contains(&address);
    let Some(file) = mappings.iter().find(is_here).map(|mapping| mapping.file) else {
        return Vec::new();
    };
    mappings.retain(|mapping| {
        mapping.file == file
            && ["r-xp", "r--p"].contains(&mapping.permissions)
            && mapping.anonymous == Some(0)
    });
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let smaps = "\
            1000-2000 r--p 00000000 fe:00 7 /opensandbox\n\
            Rss:                   4 kB\n\
            Anonymous:             0 kB\n\
            2000-4000 r-xp 00001000 fe:00 7 /opensandbox\n\
            Anonymous:             0 kB\n\
            VmFlags: rd ex mr mw me\n\
            4000-5000 r--p 00003000 fe:00 7 /opensandbox\n\
            Anonymous:             4 kB\n\
            5000-6000 rw-p 00004000 fe:00 7 /opensandbox\n\
            Anonymous:             0 kB\n\
            6000-7000 r--p 00005000 fe:00 7 /opensandbox\n\
            7000-8000 r-xp 00000000 fe:00 8 /lib/libc.so\n\
            Anonymous:             0 kB\n\
            8000-9000 r-xp 00000000 00:00 0 [vdso]\n\
            Anonymous:             0 kB\n";
        let starts = |address| -> Vec<usize> {
            let found = unchanged(smaps, address);
            found.iter().map(|mapping| mapping.start).collect()
        };
        assert_eq!(starts(0x2000), [0x1000, 0x2000]);
        assert_eq!(starts(0x3fff), [0x1000, 0x2000]);
        assert_eq!(starts(0x9000), [0_usize; 0]);
    }

    #[test]
    fn what_is_in_use_survives() {
        let kept: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        give_back().unwrap();
        give_back().unwrap();
        assert!(
            kept.iter()
                .enumerate()
                .all(|(at, text)| *text == at.to_string())
        );
    }
}
