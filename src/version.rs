//! Which build this is; stamped by `build.rs`.

/// Version of the product, reported as `service.version`.
pub const VERSION: &str = env!("OPENSANDBOX_VERSION");
/// Git commit the binary was built from.
pub const COMMIT: &str = env!("OPENSANDBOX_COMMIT");
/// UTC time of the build or of its commit.
pub const BUILD_TIME: &str = env!("OPENSANDBOX_BUILD_TIME");
/// Version of the Rust compiler.
pub const COMPILER: &str = env!("OPENSANDBOX_COMPILER");

/// The one line of `--version`, for a program or applet called `name`.
#[must_use]
pub fn line(name: &str) -> String {
    format!("{name} {VERSION} (commit {COMMIT}, built {BUILD_TIME})\n")
}

/// The plain-text banner a daemon prints before its first log line; nothing parses it.
#[must_use]
pub fn banner(title: &str) -> String {
    let double = "=".repeat(53);
    let single = "-".repeat(53);
    let platform = format!("{}/{}", std::env::consts::OS, architecture());
    format!(
        "{double}\n {title}\n{single}\n \
         Version     : {VERSION}\n \
         Git Commit  : {COMMIT}\n \
         Build Time  : {BUILD_TIME}\n \
         Rust Version: {COMPILER}\n \
         Platform    : {platform}\n{double}\n"
    )
}

/// The architecture as container images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_the_shape_operators_know() {
        let banner = banner("OpenSandbox Egress");
        let lines: Vec<_> = banner.lines().collect();
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "=".repeat(53));
        assert_eq!(lines[1], " OpenSandbox Egress");
        assert_eq!(lines[2], "-".repeat(53));
        assert_eq!(lines[3], format!(" Version     : {VERSION}"));
        assert!(lines[7].starts_with(" Platform    : linux/"));
        assert_eq!(lines[8], lines[0]);
    }
}
