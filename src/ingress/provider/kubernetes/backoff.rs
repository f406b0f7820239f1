//! How long to wait before asking again, and how often to ask at all; pure, the clock and chance
//! are the caller's.

use std::time::{Duration, Instant};

/// After this time without a failure the waits are short again.
const CALM: Duration = Duration::from_secs(120);

/// Growing waits between attempts.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    last: Option<Instant>,
}

impl Backoff {
    /// Waits from `first`, doubling up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
            last: None,
        }
    }

    /// How long to wait after a failure at `now`: at least the wait that is due, and up to twice
    /// that, by `chance` (0 to 1), so that replicas do not ask together.
    pub fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        let calm = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) > CALM);
        if calm {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.longest);
        let wait = wait.mul_f64(1.0 + chance.clamp(0.0, 1.0));
        self.last = now.checked_add(wait);
        wait
    }

    /// How long to wait when the server says for how long: up to twice that, by `chance`. A server
    /// that says so is there, as it is when it has just come back, and the waits are short again.
    pub fn asked(&mut self, asked: Duration, chance: f64) -> Duration {
        self.next = self.first;
        asked.max(self.first).mul_f64(1.0 + chance.clamp(0.0, 1.0))
    }
}

/// A bound on the rate of requests: so many at once, so many a second on average.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    most: f64,
    left: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Full at first.
    #[must_use]
    pub fn new(rate: f64, most: f64) -> Self {
        Self {
            rate,
            most,
            left: most,
            filled: None,
        }
    }

    /// Takes one request at `now`; how long it has to wait.
    pub fn take(&mut self, now: Instant) -> Duration {
        let since = self
            .filled
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.filled = Some(now);
        self.left = (self.left + since.as_secs_f64() * self.rate).min(self.most) - 1.0;
        if self.left >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.left / self.rate).unwrap_or(Duration::MAX)
    }
}

/// A number from 0 to 1 that nobody can foresee.
#[must_use]
pub fn chance() -> f64 {
    // Without randomness the waits are the shortest, which is no failure.
    let random = getrandom::u32().unwrap_or(0);
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_start_again_after_a_calm() {
        let mut backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
        let start = Instant::now();
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.failed(now, 0.0);
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(
            waits,
            [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        assert_eq!(backoff.failed(now, 1.0), Duration::from_secs(60));
        now += Duration::from_secs(60) + CALM;
        assert_eq!(backoff.failed(now, 0.0), Duration::from_secs(30));
        now += Duration::from_secs(31) + CALM;
        assert_eq!(backoff.failed(now, 0.5), Duration::from_millis(1200));
    }

    #[test]
    fn a_wait_that_is_asked_for_is_the_wait_however_long_the_trouble() {
        let mut backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
        let now = Instant::now();
        for _ in 0..8 {
            backoff.failed(now, 0.0);
        }
        let asked = Duration::from_secs(2);
        assert_eq!(backoff.asked(asked, 0.0), asked);
        assert_eq!(backoff.asked(asked, 1.0), asked * 2);
        let short = Duration::from_millis(800);
        assert_eq!(backoff.asked(Duration::ZERO, 0.0), short);
        assert_eq!(backoff.failed(now, 0.0), short);
    }

    #[test]
    fn requests_beyond_the_burst_are_spread() {
        let mut bucket = Bucket::new(5.0, 10.0);
        let now = Instant::now();
        for _ in 0..10 {
            assert_eq!(bucket.take(now), Duration::ZERO);
        }
        assert_eq!(bucket.take(now), Duration::from_millis(200));
        assert_eq!(bucket.take(now), Duration::from_millis(400));
        assert_eq!(bucket.take(now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn chance_is_between_nothing_and_all() {
        assert!((0..100).all(|_| (0.0..=1.0).contains(&chance())));
    }
}
