//! What the OpenTelemetry SDK says about itself: its `tracing` events become structured lines of
//! our log, limited in number, at the level `OTEL_LOG_LEVEL` allows.
//!
//! Spans and the events of every other library are refused at their call site, where that costs
//! one atomic load. Never writes to standard error.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use slog::{KV, Logger, Serializer, debug, error, info, trace, warn};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Dispatch, Event, Level, LevelFilter, Metadata, Subscriber};

use super::env::{Config, Diagnostics};

/// How many lines are written in each [`WINDOW`]; the rest is counted.
const LINES: u32 = 20;

/// The period of [`LINES`].
const WINDOW: Duration = Duration::from_secs(60);

/// The longest text of one field, in bytes.
const MAX_TEXT: usize = 1024;

/// The crates whose events are forwarded: `opentelemetry`, `opentelemetry_sdk`, ...
const TARGET: &str = "opentelemetry";

/// Forwards the SDK's events to `logger`, which must not lead back to an exporter, if `config`
/// makes use of the SDK. The process has one place for this, and keeps what comes first: only who
/// runs the process calls it, so that components which share one do not compete.
pub fn install(config: &Config, logger: &Logger) {
    let Diagnostics::Level(level) = config.diagnostics else {
        return;
    };
    if !config.exports() {
        return;
    }
    // An error means that somebody was first.
    let _ = tracing_core::dispatcher::set_global_default(Dispatch::new(Forwarder::new(
        level,
        logger.clone(),
    )));
}

struct Forwarder {
    logger: Logger,
    level: Level,
    budget: Mutex<Budget>,
}

/// Lines left in the current window.
#[derive(Debug, Default)]
struct Budget {
    began: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Budget {
    /// Whether a line may be written, with the number of those that could not be before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let current = |began: Instant| now.saturating_duration_since(began) < WINDOW;
        if !self.began.is_some_and(current) {
            self.began = Some(now);
            self.written = 0;
        }
        if self.written >= LINES {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Forwarder {
    fn new(level: slog::Level, logger: Logger) -> Self {
        Self {
            logger,
            level: match level {
                slog::Level::Critical | slog::Level::Error => Level::ERROR,
                slog::Level::Warning => Level::WARN,
                slog::Level::Info => Level::INFO,
                slog::Level::Debug => Level::DEBUG,
                slog::Level::Trace => Level::TRACE,
            },
            budget: Mutex::default(),
        }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && metadata.target().starts_with(TARGET)
            && *metadata.level() <= self.level
    }
}

impl Subscriber for Forwarder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        let admitted = self
            .budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(Instant::now());
        let Some(suppressed) = admitted else {
            return;
        };
        let metadata = event.metadata();
        let mut fields = Fields {
            name: metadata.name(),
            suppressed,
            message: String::new(),
            others: Vec::new(),
        };
        event.record(&mut fields);
        let message = if fields.message.is_empty() {
            "the OpenTelemetry SDK reports"
        } else {
            &fields.message
        };
        match *metadata.level() {
            Level::ERROR => error!(self.logger, "{message}"; &fields),
            Level::WARN => warn!(self.logger, "{message}"; &fields),
            Level::INFO => info!(self.logger, "{message}"; &fields),
            Level::DEBUG => debug!(self.logger, "{message}"; &fields),
            _ => trace!(self.logger, "{message}"; &fields),
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of one event.
struct Fields {
    name: &'static str,
    suppressed: u64,
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let mut end = value.len().min(MAX_TEXT);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let text = value[..end].to_owned();
        match field.name() {
            "message" => self.message = text,
            // The SDK repeats the event's own name as a field.
            "name" => {}
            name => self.others.push((name, text)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl KV for Fields {
    fn serialize(&self, _: &slog::Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        // Last field first, as slog asks for.
        if self.suppressed > 0 {
            serializer.emit_u64("suppressed".into(), self.suppressed)?;
        }
        for (name, value) in self.others.iter().rev() {
            // A field of the SDK must not pass for one of ours.
            serializer.emit_str(format!("otel.{name}").into(), value)?;
        }
        serializer.emit_str("otel.event".into(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use slog::{Drain, OwnedKVList, o};
    use std::sync::{Arc, MutexGuard};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Lines {
        fn lock(&self) -> MutexGuard<'_, Vec<String>> {
            self.0.lock().expect("no test panics with it")
        }
    }

    impl Drain for Lines {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &slog::Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
            struct Text(String);
            impl Serializer for Text {
                fn emit_arguments(
                    &mut self,
                    key: slog::Key,
                    value: &fmt::Arguments<'_>,
                ) -> slog::Result {
                    self.0.push_str(&format!(" {key}={value}"));
                    Ok(())
                }
            }
            let mut text = Text(format!(
                "{} {}",
                record.level().as_short_str(),
                record.msg()
            ));
            let _ = record.kv().serialize(record, &mut text);
            self.lock().push(text.0);
            Ok(())
        }
    }

    fn forwarder(level: slog::Level) -> (Dispatch, Lines) {
        let lines = Lines::default();
        let logger = Logger::root(lines.clone(), o!());
        (Dispatch::new(Forwarder::new(level, logger)), lines)
    }

    #[test]
    fn events_of_the_sdk_become_lines_at_the_level_asked_for() {
        let said = |level| {
            let (dispatch, lines) = forwarder(level);
            tracing_core::dispatcher::with_default(&dispatch, || {
                let reader = crate::telemetry::prometheus::Reader::default();
                let provider = SdkMeterProvider::builder().with_reader(reader).build();
                let _refused = provider
                    .meter("test")
                    .u64_counter("no spaces, please")
                    .build();
            });
            let lines = lines.lock();
            lines.clone()
        };
        let errors = said(slog::Level::Warning);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("ERRO "), "{errors:?}");
        assert!(errors[0].contains("no spaces, please"), "{errors:?}");
        // What is emitted last is written first.
        let last = errors[0].rsplit(' ').next().unwrap_or_default();
        assert!(last.starts_with("otel.event="), "{errors:?}");
        let everything = said(slog::Level::Debug);
        assert!(
            everything.iter().any(|line| line.starts_with("DEBG")),
            "{everything:?}"
        );
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let admitted = (0..100).filter(|_| budget.admit(start).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(budget.admit(start + WINDOW), Some(100 - u64::from(LINES)));
        assert_eq!(budget.admit(start + WINDOW), Some(0));
    }
}
