//! Other people's programs, unmodified, as scripts below `scripts/` install them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support.ancestors().nth(2).expect("the root of the package")
}

/// What an installing script prints; `None` where it cannot be had, which was then said.
fn installed(script: &str) -> Option<PathBuf> {
    let path = root().join("scripts").join(script);
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(path).output().expect("run the script");
    if !status.success() {
        let why = String::from_utf8_lossy(&stderr);
        crate::skipped(&format!("{script} cannot be installed: {why}"));
        return None;
    }
    let path = String::from_utf8(stdout).expect("a path");
    Some(PathBuf::from(path.trim_end()))
}

/// A Python that has the SDK, `websockets` and `kubernetes`.
#[must_use]
pub fn python() -> Option<PathBuf> {
    installed("python-sdk")
}

/// A Node.js, and the directory with the SDK, which `createRequire` finds it from.
#[must_use]
pub fn javascript() -> Option<(PathBuf, PathBuf)> {
    let home = installed("javascript-sdk")?;
    Some((home.join("node"), home))
}

/// The directory of `prometheus` and `promtool`.
#[must_use]
pub fn prometheus() -> Option<PathBuf> {
    installed("prometheus")
}

/// The version of a package in a list such as `tests/sdks/requirements.txt`.
///
/// # Panics
///
/// When the list does not pin it.
#[must_use]
pub fn pinned(requirements: &str, package: &str) -> String {
    let pin = requirements
        .lines()
        .find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
    pin.unwrap_or_else(|| panic!("{package} is not pinned"))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_found_by_its_package() {
        let list = "# a comment\nopensandbox==1.1.1\nwebsockets==17.4\n";
        assert_eq!(pinned(list, "websockets"), "17.4");
        assert_eq!(pinned(list, "opensandbox"), "1.1.1");
    }
}
