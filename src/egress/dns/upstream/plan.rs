//! In which order the servers are asked for one query. Pure.

use super::{MAX_UPSTREAMS, Set};

/// The order of one query, and how far it got.
///
/// Every server is asked once, trusted ones first. After that the ones that have not failed for
/// good are asked again: a datagram may have been lost.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    order: [u8; MAX_UPSTREAMS],
    count: u8,
    /// Requests so far.
    asked: u8,
    /// Servers that failed for good, one bit each.
    failed: u32,
}

const _: () = assert!(MAX_UPSTREAMS <= u32::BITS as usize);

impl Plan {
    /// A plan for the servers of `set`.
    #[must_use]
    pub fn new(set: &Set) -> Self {
        let mut plan = Self {
            order: [0; MAX_UPSTREAMS],
            count: 0,
            asked: 0,
            failed: 0,
        };
        for trusted in [true, false] {
            for (position, server) in (0_u8..).zip(set.servers().iter().take(MAX_UPSTREAMS)) {
                if server.is_trusted() == trusted
                    && let Some(slot) = plan.order.get_mut(usize::from(plan.count))
                {
                    *slot = position;
                    plan.count += 1;
                }
            }
        }
        plan
    }

    /// The next server that was not asked yet.
    pub fn untried(&mut self) -> Option<usize> {
        let next = *self.order.get(usize::from(self.asked))?;
        (self.asked < self.count).then(|| {
            self.asked += 1;
            usize::from(next)
        })
    }

    /// The next server worth asking, again if need be; `None` when all have failed for good.
    pub fn another(&mut self) -> Option<usize> {
        if let Some(server) = self.untried() {
            return Some(server);
        }
        for _ in 0..self.count {
            let turn = usize::from(self.asked % self.count);
            // Stays above `count`, so that `untried` stays exhausted.
            self.asked = self.asked.checked_add(1).unwrap_or(self.count);
            let server = usize::from(*self.order.get(turn)?);
            if self.failed >> server & 1 == 0 {
                return Some(server);
            }
        }
        None
    }

    /// Records that `server` has failed for good.
    pub fn give_up(&mut self, server: usize) {
        self.failed |= 1_u32
            .checked_shl(u32::try_from(server).unwrap_or(u32::MAX))
            .unwrap_or(0);
    }

    /// How often the whole list was asked already.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        u32::from(self.asked.saturating_sub(1) / self.count.max(1))
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        usize::from(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DEMOTE_AFTER, Server};
    use super::*;
    use std::sync::Arc;

    fn set(count: u16) -> Set {
        let server = |port| Arc::new(Server::new(([192, 0, 2, 1], port).into(), false));
        Set((1..=count).map(server).collect())
    }

    #[test]
    fn trusted_servers_come_first_in_their_order() {
        let set = set(3);
        for _ in 0..DEMOTE_AFTER {
            set.servers()[0].silent();
        }
        let mut plan = Plan::new(&set);
        let order: Vec<_> = std::iter::from_fn(|| plan.untried()).collect();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn servers_are_asked_again_unless_they_failed() {
        let mut plan = Plan::new(&set(3));
        for expected in [0, 1, 2] {
            assert_eq!(plan.another(), Some(expected));
            assert_eq!(plan.rounds(), 0);
        }
        plan.give_up(1);
        let again: Vec<_> = (0..4).filter_map(|_| plan.another()).collect();
        assert_eq!(again, [0, 2, 0, 2]);
        assert!(plan.rounds() >= 1);
        plan.give_up(0);
        plan.give_up(2);
        assert_eq!((plan.another(), plan.untried()), (None, None));
    }

    #[test]
    fn a_long_wait_does_not_overflow() {
        let mut plan = Plan::new(&set(2));
        assert!((0..1000).all(|_| plan.another().is_some()));
        assert_eq!(plan.untried(), None);
    }

    #[test]
    fn no_servers_no_plan() {
        let mut plan = Plan::new(&Set::default());
        assert_eq!(
            (plan.another(), plan.untried(), plan.rounds()),
            (None, None, 0)
        );
    }
}
