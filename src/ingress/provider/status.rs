//! How fresh what a provider knows is, for metrics and for whoever waits for the first listing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_listener::Event;

use super::index::Index;

/// What is known about the knowledge of a provider. All readings are cheap and never wait.
#[derive(Debug)]
pub struct CacheStatus {
    provider: &'static str,
    index: Arc<Index>,
    since: Instant,
    synced: AtomicBool,
    first_sync: Event,
    in_touch: AtomicBool,
    /// Nanoseconds after `since`, of the last sign of life; zero if there was none.
    heard: AtomicU64,
    listings: AtomicU64,
}

impl CacheStatus {
    pub(super) fn new(provider: &'static str, index: Arc<Index>) -> Self {
        Self {
            provider,
            index,
            since: Instant::now(),
            synced: AtomicBool::new(false),
            first_sync: Event::new(),
            in_touch: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            listings: AtomicU64::new(0),
        }
    }

    /// The provider, as `--provider-type` names it.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// How many objects are known, ready or not.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.index.len()
    }

    /// Whether the sandboxes were read completely at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Whether what is known is being kept current: false while the source of the sandboxes
    /// cannot be reached or read, and what was known before is served on.
    #[must_use]
    pub fn is_in_touch(&self) -> bool {
        self.in_touch.load(Ordering::Relaxed)
    }

    /// How long ago the source last gave a sign of life: a listing, an event, a bookmark, or the end
    /// of a watch in good order, every few minutes. None if it never did.
    #[must_use]
    pub fn last_event_age(&self) -> Option<Duration> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            heard => Some(
                self.since
                    .elapsed()
                    .saturating_sub(Duration::from_nanos(heard)),
            ),
        }
    }

    /// How often the sandboxes were read completely after the first time.
    #[must_use]
    pub fn relists(&self) -> u64 {
        self.listings.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Completes when the sandboxes were read completely for the first time.
    pub async fn synced(&self) {
        while !self.is_synced() {
            let listener = self.first_sync.listen();
            if !self.is_synced() {
                listener.await;
            }
        }
    }

    /// The source gave a sign of life.
    pub(super) fn heard(&self) {
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.heard.store(now.max(1), Ordering::Relaxed);
        self.in_touch.store(true, Ordering::Relaxed);
    }

    /// Everything was read.
    pub(super) fn listed(&self) {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.heard();
        self.synced.store(true, Ordering::Release);
        self.first_sync.notify(usize::MAX);
    }

    /// The source cannot be reached or read.
    pub(super) fn lost(&self) {
        self.in_touch.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Writer;
    use super::*;

    #[test]
    fn the_first_listing_syncs_and_the_others_are_relists() {
        let status = Arc::new(CacheStatus::new("static", Writer::new().index()));
        assert!(!status.is_synced() && status.last_event_age().is_none());
        let waiting = std::thread::spawn({
            let status = Arc::clone(&status);
            move || smol::block_on(status.synced())
        });
        status.listed();
        waiting.join().unwrap();
        assert_eq!((status.relists(), status.is_in_touch()), (0, true));
        assert!(status.last_event_age().is_some());
        status.lost();
        assert!(status.is_synced() && !status.is_in_touch());
        status.listed();
        assert_eq!((status.relists(), status.is_in_touch()), (1, true));
    }
}
