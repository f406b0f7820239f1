//! `/proc/meminfo` (proc_meminfo(5)).

use super::text::{lines, number, words};

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`: what the kernel manages.
    pub total: u64,
    /// `MemAvailable`: what a new workload could get without swapping.
    pub available: u64,
}

impl Memory {
    /// What is in use and could not be given back: total less available.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let bytes = |line: &[u8]| number(words(line).next()?)?.checked_mul(1024);
        let (mut total, mut available) = (None, None);
        for line in lines(text) {
            if let Some(rest) = line.strip_prefix(b"MemTotal:") {
                total = bytes(rest);
            } else if let Some(rest) = line.strip_prefix(b"MemAvailable:") {
                available = bytes(rest);
            }
            if let (Some(total), Some(available)) = (total, available) {
                return Some(Self { total, available });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_kernels_text() {
        let text = b"MemTotal:       24684084 kB\nMemFree:        20142320 kB\n\
            MemAvailable:   24083092 kB\nBuffers:          116840 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.total, 24_684_084 * 1024);
        assert_eq!(memory.used(), (24_684_084 - 24_083_092) * 1024);
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
