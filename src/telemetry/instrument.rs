//! Instruments: how an applet declares what it measures, and the handles it moves.
//!
//! Owns the mapping from a declaration (name, unit, attributes, boundaries, help text) to an
//! OpenTelemetry instrument whose every data point carries the shared attributes (`sandbox_id`
//! and the extra attributes). Never decides what is exported, and never learns what a value
//! means: that is the declaring applet's `metrics.rs`.
//!
//! An applet declares its instruments once with [`instruments!`](crate::instruments); the doc
//! comment of each field is its description. The declaration is iterable as `INVENTORY`, which
//! is what the contract test and the generated tables of `docs/telemetry.md` read.

use std::sync::{Arc, OnceLock};

pub use opentelemetry::KeyValue;
use opentelemetry::metrics as otel;

use super::semconv::HttpKeys;

/// Boundaries, in seconds, for HTTP requests (telemetry contract, section 4).
pub const HTTP_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Boundaries, in seconds, for HTTP requests that stream: [`HTTP_SECONDS`] up to one hour.
pub const STREAMING_HTTP_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];

/// Boundaries, in seconds, for work that is usually far below a millisecond: DNS, nftables.
pub const SUB_MILLISECOND_SECONDS: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0,
];

/// What an instrument does with the values given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDownCounter,
    /// A distribution.
    Histogram,
    /// The last value set.
    Gauge,
    /// A value read at each collection.
    ObservableGauge,
    /// A growing sum read at each collection.
    ObservableCounter,
    /// A sum that grows and shrinks, read at each collection.
    ObservableUpDownCounter,
}

/// The declaration of one instrument.
#[derive(Debug)]
pub struct Instrument {
    /// Metric name, as exported over OTLP.
    pub name: &'static str,
    /// What it does with its values.
    pub kind: Kind,
    /// Unit in UCUM notation, for example `s`, `By`, `{query}`.
    pub unit: &'static str,
    /// Help text.
    pub description: &'static str,
    /// Attribute keys of its data points, besides the shared ones.
    pub attributes: &'static [&'static str],
    /// Histogram boundaries; empty for every other kind.
    pub boundaries: &'static [f64],
}

impl Instrument {
    /// The help text with the white space of its doc comment folded.
    #[must_use]
    pub fn help(&self) -> String {
        self.description
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Creates instruments of one scope, and adds the shared attributes to what they record.
#[derive(Clone)]
pub struct Meter {
    pub(super) inner: otel::Meter,
    shared: Arc<[KeyValue]>,
    http_keys: HttpKeys,
}

impl Meter {
    /// A meter that puts `shared` on every data point.
    #[must_use]
    pub fn new(inner: otel::Meter, shared: Arc<[KeyValue]>) -> Self {
        Self {
            inner,
            shared,
            http_keys: HttpKeys::default(),
        }
    }

    /// The same meter, whose instruments describe HTTP requests with `keys`.
    #[must_use]
    pub fn with_http_keys(self, http_keys: HttpKeys) -> Self {
        Self { http_keys, ..self }
    }

    /// The keys that describe HTTP requests.
    #[must_use]
    pub fn http_keys(&self) -> HttpKeys {
        self.http_keys
    }

    /// A meter whose instruments record nothing.
    #[must_use]
    pub fn noop() -> Self {
        let inner = otel::MeterProvider::meter(&otel::noop::NoopMeterProvider::new(), "noop");
        Self::new(inner, Arc::from([]))
    }

    pub(super) fn attributes(&self, own: &[KeyValue]) -> Vec<KeyValue> {
        self.shared.iter().chain(own).cloned().collect()
    }
}

/// A handle an applet keeps in its `Metrics`; implemented by the instrument types of this module.
pub trait Handle: Sized {
    /// What the handle does with its values.
    const KIND: Kind;
    /// Creates the instrument.
    fn create(meter: &Meter, declaration: &'static Instrument) -> Self;
}

/// A closed set of attribute values. An implementation enumerates every combination, so that a
/// recording is an array look-up and the cardinality is bounded by construction.
pub trait Labels: Copy {
    /// How many combinations exist.
    const COMBINATIONS: usize;
    /// The position of this combination, below [`Self::COMBINATIONS`].
    fn index(self) -> usize;
    /// The attributes of this combination.
    fn attributes(self) -> Vec<KeyValue>;
}

/// No attributes besides the shared ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlabelled;

impl Labels for Unlabelled {
    const COMBINATIONS: usize = 1;
    fn index(self) -> usize {
        0
    }
    fn attributes(self) -> Vec<KeyValue> {
        Vec::new()
    }
}

/// One lazily bound instrument for each label combination: a series appears with its first record.
struct Series<B> {
    bound: Box<[OnceLock<B>]>,
}

impl<B> Series<B> {
    fn new(combinations: usize) -> Self {
        Self {
            bound: (0..combinations).map(|_| OnceLock::new()).collect(),
        }
    }

    fn get<L: Labels>(&self, meter: &Meter, labels: L, bind: impl FnOnce(&[KeyValue]) -> B) -> &B {
        self.bound[labels.index()].get_or_init(|| bind(&meter.attributes(&labels.attributes())))
    }
}

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $inner:ty, $bound:ty, $value:ty, $verb:ident, $record:ident,
     |$meter:ident, $declaration:ident| $build:expr) => {
        $(#[$doc])*
        pub struct $name<L = Unlabelled> {
            meter: Meter,
            inner: $inner,
            series: Series<$bound>,
            labels: std::marker::PhantomData<fn(L)>,
        }

        impl<L: Labels> $name<L> {
            #[doc = concat!("Records `value` under `labels`.")]
            pub fn $record(&self, value: $value, labels: L) {
                self.series
                    .get(&self.meter, labels, |attributes| self.inner.bind(attributes))
                    .$verb(value);
            }
        }

        impl $name<Unlabelled> {
            /// Records `value`.
            pub fn $verb(&self, value: $value) {
                self.$record(value, Unlabelled);
            }
        }

        impl<L: Labels> Handle for $name<L> {
            const KIND: Kind = $kind;
            fn create($meter: &Meter, $declaration: &'static Instrument) -> Self {
                Self {
                    meter: $meter.clone(),
                    inner: $build,
                    series: Series::new(L::COMBINATIONS),
                    labels: std::marker::PhantomData,
                }
            }
        }
    };
}

labelled!(
    /// A sum that only grows, over a closed set of labels.
    Counter, Kind::Counter, otel::Counter<u64>, otel::BoundCounter<u64>, u64, add, add_for,
    |meter, declaration| meter
        .inner
        .u64_counter(declaration.name)
        .with_unit(declaration.unit)
        .with_description(declaration.help())
        .build()
);
labelled!(
    /// A sum that grows and shrinks, over a closed set of labels.
    UpDownCounter, Kind::UpDownCounter, otel::UpDownCounter<i64>, otel::BoundUpDownCounter<i64>, i64, add, add_for,
    |meter, declaration| meter
        .inner
        .i64_up_down_counter(declaration.name)
        .with_unit(declaration.unit)
        .with_description(declaration.help())
        .build()
);
labelled!(
    /// A distribution, over a closed set of labels.
    Histogram, Kind::Histogram, otel::Histogram<f64>, otel::BoundHistogram<f64>, f64, record, record_for,
    |meter, declaration| meter
        .inner
        .f64_histogram(declaration.name)
        .with_unit(declaration.unit)
        .with_description(declaration.help())
        .with_boundaries(declaration.boundaries.to_vec())
        .build()
);
labelled!(
    /// The last value set, over a closed set of labels.
    Gauge, Kind::Gauge, otel::Gauge<i64>, otel::BoundGauge<i64>, i64, record, record_for,
    |meter, declaration| meter
        .inner
        .i64_gauge(declaration.name)
        .with_unit(declaration.unit)
        .with_description(declaration.help())
        .build()
);

macro_rules! observable {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $value:ty, $builder:ident) => {
        $(#[$doc])*
        pub struct $name {
            meter: Meter,
            declaration: &'static Instrument,
        }

        impl $name {
            /// Registers where the values come from. `read` runs at each collection and calls the
            /// function it is given once for each data point, with that point's own attributes; a
            /// panic in it is contained, because it would end the collecting thread for good.
            pub fn observe(
                &self,
                read: impl Fn(&mut dyn FnMut($value, &[KeyValue])) + Send + Sync + 'static,
            ) {
                let meter = self.meter.clone();
                self.meter
                    .inner
                    .$builder(self.declaration.name)
                    .with_unit(self.declaration.unit)
                    .with_description(self.declaration.help())
                    .with_callback(move |observer| {
                        let collect = std::panic::AssertUnwindSafe(|| {
                            read(&mut |value, own| observer.observe(value, &meter.attributes(own)));
                        });
                        // The panic hook has already reported it.
                        let _ = std::panic::catch_unwind(collect);
                    })
                    .build();
            }
        }

        impl Handle for $name {
            const KIND: Kind = $kind;
            fn create(meter: &Meter, declaration: &'static Instrument) -> Self {
                Self { meter: meter.clone(), declaration }
            }
        }
    };
}

observable!(
    /// A whole number read at each collection.
    ObservableGauge, Kind::ObservableGauge, i64, i64_observable_gauge
);
observable!(
    /// A fraction read at each collection.
    ObservableRatio, Kind::ObservableGauge, f64, f64_observable_gauge
);
observable!(
    /// A growing whole number read at each collection.
    ObservableCounter, Kind::ObservableCounter, u64, u64_observable_counter
);
observable!(
    /// A whole number that adds up over processes, read at each collection.
    ObservableUpDownCounter, Kind::ObservableUpDownCounter, i64, i64_observable_up_down_counter
);
observable!(
    /// A growing fraction, such as processor seconds, read at each collection.
    ObservableTime, Kind::ObservableCounter, f64, f64_observable_counter
);

/// Declares the instruments of one scope: a struct of handles, its constructor, and `INVENTORY`.
///
/// ```
/// use opensandbox::telemetry::instrument::{Counter, Histogram, Meter, HTTP_SECONDS};
///
/// opensandbox::instruments! {
///     /// What the tea kitchen measures.
///     pub struct Metrics in "example/kitchen" {
///         /// Cups served.
///         cups: Counter = "kitchen.cups.count", "{cup}";
///         /// Time from order to cup.
///         brewing: Histogram = "kitchen.brewing.duration", "s", boundaries HTTP_SECONDS;
///     }
/// }
///
/// let metrics = Metrics::new(&Meter::noop());
/// metrics.cups.add(1);
/// assert_eq!(Metrics::INVENTORY[1].unit, "s");
/// ```
#[macro_export]
macro_rules! instruments {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident in $scope:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $handle:ty = $metric:literal, $unit:literal
                    $(, attributes [$($attribute:literal),+])?
                    $(, boundaries $boundaries:expr)? ;
            )+
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[doc = $doc])+ pub $field: $handle, )+
        }

        impl $name {
            /// The instrumentation scope of these instruments.
            pub const SCOPE: &'static str = $scope;

            /// Every instrument of this scope, in declaration order.
            pub const INVENTORY: &'static [$crate::telemetry::instrument::Instrument] = &[
                $( $crate::telemetry::instrument::Instrument {
                    name: $metric,
                    kind: <$handle as $crate::telemetry::instrument::Handle>::KIND,
                    unit: $unit,
                    description: concat!($($doc, "\n"),+),
                    attributes: &[$($($attribute),+)?],
                    boundaries: $crate::instruments!(@boundaries $($boundaries)?),
                }, )+
            ];

            /// Creates the instruments.
            #[must_use]
            pub fn new(meter: &$crate::telemetry::instrument::Meter) -> Self {
                let mut declarations = Self::INVENTORY.iter();
                let mut next = || declarations.next().expect("one declaration for each field");
                Self {
                    $( $field: <$handle as $crate::telemetry::instrument::Handle>::create(meter, next()), )+
                }
            }
        }
    };
    (@boundaries) => { &[] };
    (@boundaries $boundaries:expr) => { $boundaries };
}

/// Declares a closed set of values of one attribute: an enum, the text of each value, and its
/// [`Labels`](crate::telemetry::instrument::Labels).
///
/// ```
/// use opensandbox::telemetry::instrument::Labels;
///
/// opensandbox::attribute_values! {
///     /// What is in the cup.
///     pub enum Tea as "tea" {
///         /// Withered.
///         White = "white",
///         /// Oxidised.
///         Black = "black",
///     }
/// }
///
/// assert_eq!(Tea::ALL.len(), Tea::COMBINATIONS);
/// assert_eq!(Tea::Black.as_str(), "black");
/// assert_eq!(Tea::Black.attributes()[0].key.as_str(), "tea");
/// ```
#[macro_export]
macro_rules! attribute_values {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident as $key:literal {
            $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $( $(#[$variant_meta])* $variant ),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The attribute value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl $crate::telemetry::instrument::Labels for $name {
            const COMBINATIONS: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn attributes(self) -> Vec<$crate::telemetry::instrument::KeyValue> {
                vec![$crate::telemetry::instrument::KeyValue::new($key, self.as_str())]
            }
        }
    };
}
