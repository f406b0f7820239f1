//! Where records go, as an operator writes it (`OPENSANDBOX_LOG_OUTPUT`). Pure: opens nothing.

use std::fmt;
use std::path::PathBuf;

/// One place records are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to and rotated.
    File(PathBuf),
}

/// As the operator wrote it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Stdout => f.write_str("stdout"),
            Destination::Stderr => f.write_str("stderr"),
            Destination::File(path) => path.display().fmt(f),
        }
    }
}

impl Destination {
    /// Reads a comma list of `stdout`, `stderr` and paths. Space around an item is ignored, empty
    /// items and repetitions are dropped; a list with nothing in it means standard output.
    #[must_use]
    pub fn parse_list(list: &str) -> Vec<Self> {
        let mut destinations = Vec::new();
        for item in list
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let destination = match item {
                "stdout" => Destination::Stdout,
                "stderr" => Destination::Stderr,
                path => Destination::File(PathBuf::from(path)),
            };
            if !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
        if destinations.is_empty() {
            destinations.push(Destination::Stdout);
        }
        destinations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order_and_loses_its_noise() {
        let file = || Destination::File(PathBuf::from("/var/log/egress.log"));
        for (list, expected) in [
            ("", vec![Destination::Stdout]),
            (" , ", vec![Destination::Stdout]),
            ("stderr", vec![Destination::Stderr]),
            (
                " /var/log/egress.log , stdout,stdout",
                vec![file(), Destination::Stdout],
            ),
        ] {
            assert_eq!(Destination::parse_list(list), expected, "{list:?}");
        }
    }
}
