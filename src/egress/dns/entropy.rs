//! Unpredictable numbers, taken from the kernel in bulk.

use std::io;

/// Octets fetched with one system call.
const BULK: usize = 512;

/// A source of numbers nobody can predict: message ids and the choice of a source port.
pub struct Entropy {
    bytes: [u8; BULK],
    used: usize,
}

impl Entropy {
    /// A source that has fetched nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; BULK],
            used: BULK,
        }
    }

    /// The next number.
    ///
    /// # Errors
    ///
    /// The kernel gives no random bytes.
    pub fn next(&mut self) -> io::Result<u16> {
        loop {
            if let Some(bytes) = self.bytes.get(self.used..).and_then(<[u8]>::first_chunk) {
                self.used += 2;
                return Ok(u16::from_ne_bytes(*bytes));
            }
            getrandom::fill(&mut self.bytes).map_err(io::Error::from)?;
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_differ_beyond_one_fetch() {
        let mut entropy = Entropy::new();
        let numbers: HashSet<_> = (0..2 * BULK).map(|_| entropy.next().unwrap()).collect();
        assert!(numbers.len() > BULK, "{}", numbers.len());
    }
}
