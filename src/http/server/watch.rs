//! The deadlines of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;

use super::Limits;
use super::link::{Link, Phase};

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It broke a limit.
    Cut,
    /// It is to end as soon as what is under way is done, and that soon.
    Close,
    /// As above, but what is under way may take its time.
    Retire,
    /// It has been idle for long enough to be kept in less memory.
    Park,
}

/// The deadlines of a connection, on one timer that is rarely touched: it is armed for the nearest
/// deadline and, when it fires, armed again if that deadline has moved. A request that comes and is
/// answered costs one look at the clock.
pub(super) struct Watch<'a> {
    link: &'a Link,
    limits: &'a Limits,
    phase: Phase,
    since: Instant,
    is_retired: bool,
    /// Whether an idle connection may be told to park.
    may_park: bool,
    armed: Instant,
    timer: Timer,
    /// Whether the timer has been asked to wake the connection.
    is_set: bool,
}

impl<'a> Watch<'a> {
    pub fn new(link: &'a Link, limits: &'a Limits) -> Self {
        let now = Instant::now();
        let armed = now + limits.header_time;
        Self {
            link,
            limits,
            phase: link.phase(),
            since: now,
            is_retired: false,
            may_park: false,
            armed,
            timer: Timer::at(armed),
            is_set: false,
        }
    }

    /// Says whether the connection may be told to park when it is idle.
    pub fn allow_parking(&mut self, is_allowed: bool) {
        self.may_park = is_allowed && self.limits.park_time < self.limits.idle_time;
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Verdict> {
        let phase = self.link.phase();
        let is_new = phase != self.phase;
        if is_new {
            self.phase = phase;
            let is_quick = phase == Phase::Busy && !self.link.is_http2();
            let expires = self.link.expires;
            if is_quick && expires.is_none_or(|at| self.is_set && self.armed <= at) {
                // It has no deadline before the timer, and whatever ends it comes by here.
                return Poll::Pending;
            }
            self.since = Instant::now();
        }
        loop {
            let Some((deadline, verdict)) = self.sentence() else {
                return Poll::Pending;
            };
            if deadline < self.armed {
                self.armed = deadline;
                self.timer.set_at(deadline);
            } else if is_new && self.is_set && self.since < self.armed {
                // It cannot have fired.
                return Poll::Pending;
            }
            self.is_set = true;
            if Pin::new(&mut self.timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.is_set = false;
            let now = Instant::now();
            self.armed = now + Duration::from_secs(u32::MAX.into());
            match verdict {
                // A response that ends on another thread wakes nobody here, so look again.
                None => self.since = now,
                Some(Verdict::Retire) if deadline <= now => {
                    self.is_retired = true;
                    return Poll::Ready(Verdict::Retire);
                }
                Some(verdict) if deadline <= now => return Poll::Ready(verdict),
                Some(_) => {}
            }
        }
    }

    /// When something becomes of the connection if the present phase goes on, and what.
    fn sentence(&self) -> Option<(Instant, Option<Verdict>)> {
        let is_http2 = self.link.is_http2();
        let limits = self.limits;
        let after = |time, verdict| Some((self.since + time, verdict));
        let phase = match self.phase {
            Phase::Head(_) => after(limits.header_time, Some(Verdict::Cut)),
            Phase::Stalled(_) => after(limits.write_stall, Some(Verdict::Cut)),
            Phase::Idle(_) if self.may_park && self.link.can_park() => {
                after(limits.park_time, Some(Verdict::Park))
            }
            Phase::Idle(_) => after(limits.idle_time, Some(Verdict::Close)),
            Phase::Busy if is_http2 => after(limits.idle_time, None),
            Phase::Busy => None,
        };
        // Between the requests of HTTP/1 the client may be about to send one. It is told with the
        // response to that.
        let retires = match self.phase {
            Phase::Busy | Phase::Stalled(_) => is_http2 || !self.link.wants_switch(),
            Phase::Head(_) | Phase::Idle(_) => is_http2,
        };
        let retiring = self
            .link
            .expires
            .filter(|_| retires && !self.is_retired)
            .map(|expires| (expires, Some(Verdict::Retire)));
        phase.into_iter().chain(retiring).min_by_key(|(at, _)| *at)
    }
}
