//! The order of a record's fields.
//!
//! slog hands fields over newest first: the macros `info!(.., "a" => 1, "b" => 2)` and `o!(..)`
//! emit `b` before `a`, and a child logger's fields come before its parent's. A reader expects
//! them as they were listed, parents first. An event ([`EVENT_KEY`]) implements [`slog::KV`]
//! itself and emits its fields as it lists them, its name first, which is how it is recognised.
//! Any other [`slog::KV`] emits as slog asks for, last field first.

/// The field that names an event; an event emits it before any other.
pub const EVENT_KEY: &str = "opensandbox.event";

/// The positions of fields in the order they are written, given how they were emitted: first
/// `context` fields of the logger, then those of the record, up to `total`. `event` tells that
/// the record's first field was [`EVENT_KEY`].
pub(super) fn positions(context: usize, total: usize, event: bool) -> impl Iterator<Item = usize> {
    let own = (context..total).map(move |position| {
        if event {
            position
        } else {
            context + total - 1 - position
        }
    });
    (0..context).rev().chain(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_are_turned_round_and_events_are_not() {
        let order = |context, total, event| positions(context, total, event).collect::<Vec<_>>();
        assert!(order(0, 0, false).is_empty());
        assert_eq!(order(2, 5, false), [1, 0, 4, 3, 2]);
        assert_eq!(order(2, 5, true), [1, 0, 2, 3, 4]);
        assert_eq!(order(3, 3, false), [2, 1, 0]);
    }
}
