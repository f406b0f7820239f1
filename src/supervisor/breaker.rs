//! The crash-loop breaker: too many launches within a window of time. Pure; the clock is the
//! caller's, and must be one that is never set.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What counts as a crash loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time launches are counted over.
    pub window: Duration,
    /// So many within the window are too many; at least 1.
    pub launches: usize,
}

/// The launches that are remembered, at most as many as make a crash loop.
#[derive(Clone, Debug)]
pub struct Breaker {
    limits: Limits,
    launches: VecDeque<Instant>,
}

impl Breaker {
    /// A breaker that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            launches: VecDeque::new(),
        }
    }

    /// Remembers a launch, which does not come before the last one.
    pub fn launched(&mut self, now: Instant) {
        let forgotten = |launch: &Instant| now.duration_since(*launch) > self.limits.window;
        while self.launches.front().is_some_and(forgotten)
            || self.launches.len() >= self.limits.launches
        {
            self.launches.pop_front();
        }
        self.launches.push_back(now);
    }

    /// Forgets the last launch: the worker ran long enough not to be in a crash loop.
    pub fn forgive(&mut self) {
        self.launches.pop_back();
    }

    /// How many launches lie within the window, if they are too many.
    #[must_use]
    pub fn tripped(&self, now: Instant) -> Option<usize> {
        let recent = |launch: &&Instant| now.duration_since(**launch) <= self.limits.window;
        let recent = self.launches.iter().filter(recent).count();
        (recent >= self.limits.launches).then_some(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        window: Duration::from_secs(300),
        launches: 3,
    };

    #[test]
    fn it_trips_at_the_last_launch_the_window_allows() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(LIMITS);
        breaker.launched(at(0));
        breaker.launched(at(100));
        assert_eq!(breaker.tripped(at(100)), None);
        breaker.launched(at(300));
        assert_eq!(breaker.tripped(at(300)), Some(3));
        assert_eq!(breaker.tripped(at(301)), None);
        breaker.launched(at(310));
        assert_eq!(breaker.tripped(at(310)), Some(3));
    }

    #[test]
    fn a_long_run_is_no_part_of_a_crash_loop() {
        let now = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        for _ in 0..10 {
            breaker.launched(now);
            breaker.launched(now);
            breaker.forgive();
            breaker.forgive();
            assert_eq!(breaker.tripped(now), None);
        }
    }

    proptest! {
        /// Against the definition: the last `launches` launches, and whether the first of them
        /// lies within the window.
        #[test]
        fn it_trips_exactly_when_the_definition_says_so(
            steps in prop::collection::vec((0..200_u64, any::<bool>()), 0..60),
            launches in 1..6_usize,
            window in 0..400_u64,
        ) {
            let window = Duration::from_secs(window);
            let mut breaker = Breaker::new(Limits { window, launches });
            let mut now = Instant::now();
            let mut all = Vec::new();
            for (seconds, launch) in steps {
                now += Duration::from_secs(seconds);
                if launch {
                    breaker.launched(now);
                    all.push(now);
                }
                let oldest = all.len().checked_sub(launches).map(|index| all[index]);
                let expected = oldest.is_some_and(|oldest| now - oldest <= window);
                prop_assert_eq!(breaker.tripped(now).is_some(), expected);
                prop_assert!(breaker.launches.len() <= launches);
            }
        }
    }
}
