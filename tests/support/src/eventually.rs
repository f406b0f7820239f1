//! Waiting for what another process, or another thread, is about to do.

use std::time::{Duration, Instant};

/// How long a test waits: long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long apart it looks.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `check` finds something.
///
/// # Panics
///
/// When it does not in time.
#[track_caller]
pub fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it never came about");
        std::thread::sleep(POLL);
    }
}

/// Whether `is_so` becomes true in time.
#[must_use]
pub fn becomes(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}
