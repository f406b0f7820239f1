//! What a test reads back of what was logged.

use std::io;
use std::sync::{Arc, Mutex};

use slog::{Drain, FnValue, Logger, o};

use super::events::Observer;
use super::metrics::Metrics;
use crate::telemetry::instrument::Meter;

/// The records written so far, as JSON lines: level, message, then the fields in order.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Vec<u8>>>);

impl io::Write for Recorder {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Recorder {
    pub(super) fn logger(&self) -> Logger {
        let drain = slog_json::Json::new(self.clone())
            .add_key_value(o!("level" => FnValue(|record| record.level().as_short_str())))
            .add_key_value(o!("msg" => FnValue(|record| record.msg().to_string())))
            .build();
        Logger::root(Mutex::new(drain).fuse(), o!())
    }

    pub(super) fn observer(&self) -> Observer {
        Observer::new(self.logger(), Metrics::new(&Meter::noop()))
    }

    /// The records since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        let octets = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(octets).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Level and message of the records since the last call.
    pub(super) fn take_messages(&self) -> Vec<String> {
        let message = |line: &String| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| record.get(key).unwrap().as_str().unwrap().to_owned();
            format!("{} {}", text("level"), text("msg"))
        };
        self.take().iter().map(message).collect()
    }

    /// The records with an `opensandbox.event` since the last call.
    pub(super) fn take_events(&self) -> Vec<String> {
        let mut records = self.take();
        records.retain(|record| record.contains("\"opensandbox.event\""));
        records
    }
}
