//! A log that tests read.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use slog::{Drain, KV as _, Level, Logger, OwnedKVList, Record, Serializer, o};

/// Every record so far, as `LEVEL message key=value`.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone().fuse(), o!())
    }

    /// The records of a level above debug that say `text`.
    pub fn saying(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let told = |line: &&String| !line.starts_with("DEBG") && line.contains(text);
        lines.iter().filter(told).cloned().collect()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}

impl Drain for Log {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let level: Level = record.level();
        let mut line = Line(format!("{} {}", level.as_short_str(), record.msg()));
        record.kv().serialize(record, &mut line).unwrap();
        self.0.lock().unwrap().push(line.0);
        Ok(())
    }
}
