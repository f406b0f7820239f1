//! The last bytes of an endless stream, addressed by their distance from its beginning.
//!
//! Pure; memory is taken as it is needed, up to the capacity.

use std::collections::VecDeque;

/// A bounded window on the end of a stream.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    total: u64,
}

impl Ring {
    /// An empty stream of which at most `capacity` bytes are kept.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            total: 0,
        }
    }

    /// How many bytes the stream has had.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The offset of the oldest byte that is kept.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.total - self.bytes.len() as u64
    }

    /// Appends to the stream.
    pub fn write(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let room = self.capacity - kept.len();
        let surplus = self.bytes.len().saturating_sub(room);
        self.bytes.drain(..surplus);
        self.bytes.extend(kept);
    }

    /// At most `limit` bytes from `offset`, and the offset of the first of them: the oldest that is
    /// kept if `offset` is older. Beyond the end there is nothing, at the total.
    #[must_use]
    pub fn read(&self, offset: u64, limit: usize) -> (u64, Vec<u8>) {
        let start = offset.clamp(self.oldest(), self.total);
        let skip = usize::try_from(start - self.oldest()).unwrap_or(usize::MAX);
        let end = skip.saturating_add(limit).min(self.bytes.len());
        let (front, back) = self.bytes.as_slices();
        let within = |slice: &[u8], before: usize| {
            let from = skip.saturating_sub(before).min(slice.len());
            let to = end.saturating_sub(before).min(slice.len());
            slice.get(from..to).unwrap_or_default().to_vec()
        };
        let mut read = within(front, 0);
        read.extend(within(back, front.len()));
        (start, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(capacity: usize, writes: &[&str]) -> Ring {
        let mut ring = Ring::new(capacity);
        for write in writes {
            ring.write(write.as_bytes());
        }
        ring
    }

    #[test]
    fn the_table_of_the_contract() {
        let mib = 1 << 20;
        for (capacity, writes, offset, expected, total) in [
            (mib, &["hello", " world"][..], 0, (0, "hello world"), 11),
            (mib, &["abcde"], 2, (2, "cde"), 5),
            (mib, &["abc"], 3, (3, ""), 3),
            (mib, &["abc"], 9, (3, ""), 3),
            (8, &["abcdef", "ghij"], 0, (2, "cdefghij"), 10),
            (8, &["abcdef", "ghij"], 5, (5, "fghij"), 10),
            (4, &["ABCDEF"], 0, (2, "CDEF"), 6),
            (4, &["ABCDEF"], 1, (2, "CDEF"), 6),
            (4, &["1234"], 0, (0, "1234"), 4),
            (4, &["ABCD", "EF"], 0, (2, "CDEF"), 6),
        ] {
            let ring = ring(capacity, writes);
            let (start, bytes) = ring.read(offset, usize::MAX);
            assert_eq!(
                (start, String::from_utf8(bytes).unwrap().as_str()),
                expected
            );
            assert_eq!(ring.total(), total);
        }
    }

    #[test]
    fn nothing_is_allocated_ahead() {
        assert_eq!(Ring::new(1 << 30).bytes.capacity(), 0);
    }

    proptest! {
        #[test]
        fn a_ring_is_the_end_of_its_stream(
            capacity in 1usize..40,
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..12),
            offset in 0u64..400,
            limit in 0usize..50,
        ) {
            let mut ring = Ring::new(capacity);
            for write in &writes {
                ring.write(write);
            }
            let stream = writes.concat();
            let oldest = stream.len().saturating_sub(capacity) as u64;
            let start = offset.clamp(oldest, stream.len() as u64);
            let from = usize::try_from(start).unwrap();
            let end = (from + limit).min(stream.len());
            prop_assert_eq!(ring.read(offset, limit), (start, stream[from..end].to_vec()));
            prop_assert!(ring.bytes.len() <= capacity);
        }
    }
}
