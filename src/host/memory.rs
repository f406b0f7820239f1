//! `/proc/meminfo` (proc_meminfo(5)).

use super::text::{lines, number, words};

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`: what the kernel manages.
    pub total: u64,
    /// `MemAvailable`: what a new workload could get without swapping.
    pub available: u64,
    /// `MemFree`: what nothing uses.
    pub free: u64,
    /// `Buffers`, `Cached` and `SReclaimable`: what the kernel keeps to be faster.
    pub caches: u64,
}

impl Memory {
    /// What is in use and could not be given back: total less available.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }

    /// What is neither free nor a cache, as `free(1)` counts it.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let rest = self.total.saturating_sub(self.free);
        rest.saturating_sub(self.caches)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let bytes = |line: &[u8]| number(words(line).next()?)?.checked_mul(1024);
        let (mut total, mut available, mut free) = (None, None, None);
        let mut caches = 0_u64;
        for line in lines(text) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, rest) = line.split_at(colon);
            match name {
                b"MemTotal" => total = bytes(&rest[1..]),
                b"MemAvailable" => available = bytes(&rest[1..]),
                b"MemFree" => free = bytes(&rest[1..]),
                b"Buffers" | b"Cached" | b"SReclaimable" => {
                    caches = caches.saturating_add(bytes(&rest[1..]).unwrap_or_default());
                }
                _ => {}
            }
        }
        Some(Self {
            total: total?,
            available: available?,
            free: free.unwrap_or_default(),
            caches,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_kernels_text() {
        let text = b"MemTotal:       24684084 kB\nMemFree:        20142320 kB\n\
            MemAvailable:   24083092 kB\nBuffers:          116840 kB\n\
            Cached:          3954608 kB\nSwapCached:           12 kB\nSReclaimable:      9000 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.total, 24_684_084 * 1024);
        assert_eq!(memory.used(), (24_684_084 - 24_083_092) * 1024);
        let caches = 116_840 + 3_954_608 + 9_000;
        assert_eq!(memory.taken(), (24_684_084 - 20_142_320 - caches) * 1024);
    }

    #[test]
    fn half_a_text_is_none() {
        for text in [
            "",
            "MemTotal: 1 kB\n",
            "MemTotal: 1 kB\nMemAvailable: x kB\n",
            "MemTotal: 99999999999999999999 kB\nMemAvailable: 1 kB\n",
            "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n",
        ] {
            assert_eq!(Memory::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn more_available_than_there_is_means_none_used() {
        let memory = Memory::parse(b"MemTotal: 1 kB\nMemAvailable: 2 kB\n").unwrap();
        assert_eq!(memory.used(), 0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Memory::parse(&text);
        }
    }
}
