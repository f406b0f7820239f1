//! Gives back memory that something rare took: a start, whose command line and seventy settings take
//! several times the memory of the waiting that follows, an export, or a large policy.
//!
//! Changes nothing but where contents are kept: code comes back from the page cache when it runs
//! again, and heap that is in use is not touched. Worth its price, some dozens of page faults, where
//! it is paid at most once a second.

use std::ffi::{c_int, c_void};
use std::ptr;

/// Gives back heap that this thread has freed, and code that has run.
pub fn give_back() {
    give_back_heap();
    give_back_code();
}

/// Gives back heap that this thread has freed. mimalloc would otherwise keep it until much more is
/// allocated.
#[cfg(target_env = "musl")]
pub fn give_back_heap() {
    // Links the allocator where nothing else does.
    use libmimalloc_sys as _;
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

/// Gives back the read-only pages of the executable.
fn give_back_code() {
    // SAFETY: the callback has the type asked for, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back_segments), ptr::null_mut()) };
}

/// Called with the executable first; ends the iteration there.
unsafe extern "C" fn give_back_segments(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    /// Any value but zero.
    const END: c_int = 1;
    let page = rustix::param::page_size() as u64;
    // SAFETY: the caller's information is valid during this call, and describes `dlpi_phnum`
    // headers, unless there are none.
    let (base, headers) = unsafe {
        let object = &*object;
        if object.dlpi_phdr.is_null() {
            return END;
        }
        let count = usize::from(object.dlpi_phnum);
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, count);
        (object.dlpi_addr, headers)
    };
    let read_only = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0
    };
    for header in headers.iter().filter(read_only) {
        let start = (base + header.p_vaddr) / page * page;
        let end = (base + header.p_vaddr + header.p_memsz).next_multiple_of(page);
        // SAFETY: the kernel maps a segment in whole pages, so these are pages of a mapping of the
        // executable that nobody can write to. Their contents are those of the file, which cannot
        // be changed while it runs: a page that is dropped and read again is the same page. The
        // result does not matter: at worst, nothing is given back.
        unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(start as usize),
                (end - start) as usize,
                libc::MADV_DONTNEED,
            );
        }
    }
    END
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
        // Other tests of this process run code meanwhile: one of several looks is undisturbed.
        let shrinks = (0..100).any(|_| {
            let before = resident();
            give_back_code();
            resident() < before
        });
        assert!(shrinks);
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }

    #[test]
    fn what_is_in_use_survives() {
        let kept: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        give_back();
        give_back();
        assert!(
            kept.iter()
                .enumerate()
                .all(|(at, text)| *text == at.to_string())
        );
    }
}
