//! The allocator of the static binary: mimalloc, because musl's own costs 30 to 40 % of the
//! throughput.
//!
//! Asks for an alignment only where it is more than what every block has. mimalloc's way to an
//! aligned block takes several times the instructions of the other, and nearly nothing that Rust
//! allocates needs it.
//!
//! Sound because each function passes on what [`GlobalAlloc`] promises its callers, and because
//! [`is_usual`] repeats what mimalloc promises of any block: the tests below try every size and
//! alignment that it answers for.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// The alignment of blocks that are as large themselves (`MI_MAX_ALIGN_SIZE`, mimalloc/types.h).
const USUAL: usize = 16;

/// mimalloc.
#[derive(Debug)]
pub struct Allocator;

/// Whether a block of `size` is aligned as `layout` asks for anyway.
#[inline]
fn is_usual(layout: Layout, size: usize) -> bool {
    layout.align() <= USUAL && layout.align() <= size
}

// SAFETY: see the documentation of the module.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the size is not zero, and the alignment a power of two.
        let block = unsafe {
            if is_usual(layout, size) {
                mi_malloc(size)
            } else {
                mi_malloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        let block = unsafe {
            if is_usual(layout, size) {
                mi_zalloc(size)
            } else {
                mi_zalloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller has the block from here, however it was aligned.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has the block from here, and the new size is not zero.
        let block = unsafe {
            if is_usual(layout, size) {
                mi_realloc(block.cast(), size)
            } else {
                mi_realloc_aligned(block.cast(), size, layout.align())
            }
        };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allocates in each of the ways, and has `look` at every block.
    fn each(layout: Layout, look: impl Fn(&[u8])) {
        // SAFETY: the layouts are of blocks with some octets; each block is read where it was
        // written, and freed once.
        unsafe {
            let block = Allocator.alloc(layout);
            block.write_bytes(7, layout.size());
            look(std::slice::from_raw_parts(block, layout.size()));
            let longer = layout.size() * 2;
            let block = Allocator.realloc(block, layout, longer);
            assert_eq!(*block.add(layout.size() - 1), 7);
            block.write_bytes(7, longer);
            look(std::slice::from_raw_parts(block, longer));
            let layout = Layout::from_size_align(longer, layout.align()).unwrap();
            Allocator.dealloc(block, layout);
            let block = Allocator.alloc_zeroed(layout);
            let zeros = std::slice::from_raw_parts(block, longer);
            assert!(zeros.iter().all(|octet| *octet == 0));
            look(zeros);
            Allocator.dealloc(block, layout);
        }
    }

    #[test]
    fn every_block_is_aligned_as_it_was_asked_for() {
        let sizes = (1..600).chain((10..22).map(|power| (1 << power) + 1));
        for size in sizes {
            for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
                let layout = Layout::from_size_align(size, align).unwrap();
                each(layout, |block| {
                    assert!(
                        block.as_ptr().addr().is_multiple_of(align),
                        "{size} {align}"
                    );
                });
            }
        }
    }
}
