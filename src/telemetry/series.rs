//! Instruments whose label combinations are too many to enumerate, such as HTTP requests by
//! method, route and status.
//!
//! The first recording of a combination binds it; later ones are a look-up under a shared lock.
//! The number of combinations is bounded by [`MAX_SERIES`]; what comes beyond is recorded in one
//! series marked `otel.metric.overflow`, as the SDK itself does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{OnceLock, PoisonError, RwLock};

use foldhash::fast::RandomState;
use opentelemetry::KeyValue;
use opentelemetry::metrics as otel;

use super::instrument::{Handle, Instrument, Kind, Meter};
use super::semconv::HttpKeys;

/// The most label combinations one instrument keeps apart.
pub const MAX_SERIES: usize = 1000;

/// One combination of attribute values.
pub trait Key: Clone + Eq + Hash + Send + Sync + 'static {
    /// Its attributes, besides the shared ones; `keys` says how HTTP requests are described.
    fn attributes(&self, keys: HttpKeys) -> Vec<KeyValue>;
}

struct Series<K, B> {
    meter: Meter,
    /// Hashed by less than what resists floods of chosen keys: their number is bounded.
    bound: RwLock<HashMap<K, B, RandomState>>,
    overflow: OnceLock<B>,
}

impl<K: Key, B> Series<K, B> {
    fn new(meter: &Meter) -> Self {
        Self {
            meter: meter.clone(),
            bound: RwLock::default(),
            overflow: OnceLock::new(),
        }
    }

    /// Records in the series of `key`, which is bound if there is none yet.
    fn record(&self, key: &K, bind: impl FnOnce(&[KeyValue]) -> B, record: impl FnOnce(&B)) {
        // A poisoned map is whole: insertion is its only change.
        let known = self.bound.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = known.get(key) {
            return record(bound);
        }
        drop(known);
        let mut known = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_SERIES && !known.contains_key(key) {
            let attributes = [KeyValue::new("otel.metric.overflow", true)];
            let bind = || bind(&self.meter.attributes(&attributes));
            return record(self.overflow.get_or_init(bind));
        }
        let bind = || {
            let own = key.attributes(self.meter.http_keys());
            bind(&self.meter.attributes(&own))
        };
        record(known.entry(key.clone()).or_insert_with(bind));
    }
}

/// A sum that only grows, over combinations that are met as they come.
pub struct KeyedCounter<K> {
    inner: otel::Counter<u64>,
    series: Series<K, otel::BoundCounter<u64>>,
}

impl<K: Key> KeyedCounter<K> {
    /// Adds `value` to the series of `key`.
    pub fn add_for(&self, value: u64, key: &K) {
        let bind = |attributes: &[_]| self.inner.bind(attributes);
        self.series.record(key, bind, |bound| bound.add(value));
    }
}

impl<K: Key> Handle for KeyedCounter<K> {
    const KIND: Kind = Kind::Counter;

    fn create(meter: &Meter, declaration: &'static Instrument) -> Self {
        Self {
            inner: meter
                .inner
                .u64_counter(declaration.name)
                .with_unit(declaration.unit)
                .with_description(declaration.help())
                .build(),
            series: Series::new(meter),
        }
    }
}

/// A distribution, over combinations that are met as they come.
pub struct KeyedHistogram<K> {
    inner: otel::Histogram<f64>,
    series: Series<K, otel::BoundHistogram<f64>>,
}

impl<K: Key> KeyedHistogram<K> {
    /// Records `value` in the series of `key`.
    pub fn record_for(&self, value: f64, key: &K) {
        let bind = |attributes: &[_]| self.inner.bind(attributes);
        self.series.record(key, bind, |bound| bound.record(value));
    }
}

impl<K: Key> Handle for KeyedHistogram<K> {
    const KIND: Kind = Kind::Histogram;

    fn create(meter: &Meter, declaration: &'static Instrument) -> Self {
        Self {
            inner: meter
                .inner
                .f64_histogram(declaration.name)
                .with_unit(declaration.unit)
                .with_description(declaration.help())
                .with_boundaries(declaration.boundaries.to_vec())
                .build(),
            series: Series::new(meter),
        }
    }
}
