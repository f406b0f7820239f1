//! Panics as events instead of stack traces on standard error.

use std::any::Any;
use std::fmt;
use std::panic::{self, Location};

/// A panic, wherever in the process it happened and whoever contains it.
#[derive(Clone, Copy, Debug)]
pub struct Panic<'a> {
    /// The name of the thread.
    pub thread: &'a str,
    /// What the panic said.
    pub message: &'a str,
    /// Where it began.
    pub location: Option<&'a Location<'a>>,
}

impl fmt::Display for Panic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {:?} panicked: {}", self.thread, self.message)?;
        match self.location {
            Some(location) => write!(f, " (at {location})"),
            None => Ok(()),
        }
    }
}

/// Has every panic of the process given to `report`, which logs and counts it, instead of being
/// printed.
///
/// The hook is process-wide by nature, so this is called once, by the entry of an applet.
/// `report` runs on the panicking thread and must not panic itself: that would abort the process.
pub fn report_panics(report: impl Fn(&Panic<'_>) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        report(&Panic {
            thread: std::thread::current().name().unwrap_or("unnamed"),
            message: message(info.payload()),
            location: info.location(),
        });
    }));
}

/// The text of a panic's payload, which is a string unless somebody went out of their way.
fn message(payload: &dyn Any) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a value that is not text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_become_text() {
        assert_eq!(message(&"literal"), "literal");
        assert_eq!(message(&format!("{}", 1)), "1");
        assert_eq!(message(&7_u8), "a value that is not text");
    }

    #[test]
    fn a_panic_is_one_line_with_its_place() {
        let location = Location::caller();
        let panic = Panic {
            thread: "worker-1",
            message: "boom",
            location: Some(location),
        };
        let line = panic.to_string();
        assert!(
            line.starts_with("thread \"worker-1\" panicked: boom (at src/lifecycle/panics.rs:"),
            "{line}"
        );
    }
}
