//! The mark on the packets of our own queries.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

/// A random packet mark (`SO_MARK`), fresh for each process.
///
/// It tells our packets apart, and keeps a workload out that knows the mark of another sandbox. It
/// is no secret from one with `CAP_NET_RAW`, which can read marks off packets; the table therefore
/// wants the socket's user and a known destination as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(NonZeroU32);

impl Mark {
    /// A fresh mark.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn random() -> io::Result<Self> {
        loop {
            let value = getrandom::u32().map_err(io::Error::other)?;
            if let Some(value) = NonZeroU32::new(value) {
                return Ok(Self(value));
            }
        }
    }

    /// A mark of this value.
    #[must_use]
    pub const fn new(value: NonZeroU32) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Marks what `socket` sends from now on; to be called before it connects.
    ///
    /// # Errors
    ///
    /// This process has neither `CAP_NET_ADMIN` nor (since Linux 5.17) `CAP_NET_RAW`.
    pub fn apply(self, socket: impl AsFd) -> io::Result<()> {
        socket2::SockRef::from(&socket).set_mark(self.get())
    }
}
