//! The pause before a restart: it doubles from one restart to the next, within limits, and is
//! blurred so that workers that failed together do not come back together. Pure.

use std::time::Duration;

/// What a pause is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    min: Duration,
    max: Duration,
    jitter: f64,
}

impl Limits {
    /// Pauses from `min` to `max`, which is raised to `min` if it is smaller, each changed by at
    /// most the share `jitter` of itself.
    #[must_use]
    pub fn new(min: Duration, max: Duration, jitter: f64) -> Self {
        Self {
            min,
            max: max.max(min),
            jitter,
        }
    }

    /// The share by which a pause is changed at most.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// The pause after one of `previous`, zero meaning that there was none. `draw` is a random
    /// number from 0 to 1.
    #[must_use]
    pub fn next(&self, previous: Duration, draw: f64) -> Duration {
        let base = if previous.is_zero() {
            self.min
        } else {
            previous.saturating_mul(2).clamp(self.min, self.max)
        };
        let factor = 1.0 + self.jitter * (2.0 * draw - 1.0);
        let blurred = Duration::try_from_secs_f64(base.as_secs_f64() * factor.max(0.0));
        blurred.unwrap_or(self.max).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_pause_doubles_between_its_limits() {
        let limits = Limits::new(seconds(1), seconds(8), 0.0);
        for (previous, expected) in [
            (Duration::ZERO, 1),
            (Duration::from_millis(500), 1),
            (seconds(1), 2),
            (seconds(2), 4),
            (seconds(4), 8),
            (seconds(8), 8),
            (seconds(100), 8),
        ] {
            assert_eq!(limits.next(previous, 0.5), seconds(expected));
        }
    }

    #[test]
    fn jitter_spreads_a_pause_by_its_share() {
        let limits = Limits::new(seconds(1), seconds(10), 0.5);
        assert_eq!(limits.next(seconds(2), 0.0), seconds(2));
        assert_eq!(limits.next(seconds(2), 0.5), seconds(4));
        assert_eq!(limits.next(seconds(2), 1.0), seconds(6));
    }

    #[test]
    fn a_maximum_below_the_minimum_is_raised() {
        let limits = Limits::new(seconds(5), seconds(1), 0.1);
        assert_eq!(limits.next(seconds(5), 1.0), seconds(5));
    }

    proptest! {
        #[test]
        fn no_pause_leaves_its_limits(
            min in 1..u64::MAX / 4,
            more: u64,
            jitter in 0.0..1e9_f64,
            previous: u64,
            draw in 0.0..=1.0_f64,
        ) {
            let min = Duration::from_nanos(min);
            let max = min.saturating_add(Duration::from_nanos(more));
            let pause = Limits::new(min, max, jitter).next(Duration::from_nanos(previous), draw);
            prop_assert!((min..=max).contains(&pause), "{pause:?}");
        }

        #[test]
        fn the_first_pause_is_the_minimum_and_a_little_more(draw in 0.0..=1.0_f64) {
            let pause = Limits::new(seconds(1), seconds(30), 0.1).next(Duration::ZERO, draw);
            prop_assert!((1000..=1100).contains(&pause.as_millis()), "{pause:?}");
        }

        #[test]
        fn without_a_stable_run_the_maximum_is_reached(draws in prop::collection::vec(0.0..=1.0_f64, 12)) {
            let limits = Limits::new(seconds(1), seconds(30), 0.1);
            let pause = draws.iter().fold(Duration::ZERO, |pause, draw| limits.next(pause, *draw));
            prop_assert!(pause >= seconds(27), "{pause:?}");
        }
    }
}
