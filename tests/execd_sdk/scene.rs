//! A running execd, and clients that are told where it is by what stands in for the lifecycle
//! server: the one call of it that the SDKs make before they speak to a sandbox.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use support::daemon::Builder;
use support::http::{Endpoint, Reply};
use support::{Daemon, opensandbox, sdk};
use tempfile::TempDir;

pub const TOKEN: &str = "s3cret-token";

/// Longer than any client takes.
const PATIENCE_SECONDS: &str = "300";

/// A sandbox.
pub struct Scene {
    /// What daemon and clients share, and what is left of both at the end.
    pub shared: TempDir,
    pub token: &'static str,
}

impl Scene {
    pub fn new(token: &'static str) -> Self {
        Self {
            shared: tempfile::tempdir().expect("a directory"),
            token,
        }
    }

    /// execd, to be started at `address`.
    pub fn execd(&self, address: SocketAddr) -> Builder<'static> {
        // A file of variables, as `bootstrap.sh` provides one.
        let variables = self.shared.path().join(".env");
        std::fs::write(&variables, "").expect("write");
        let execd = opensandbox!("execd")
            .arg("--port")
            .arg(address.port().to_string())
            .env("HOME", self.shared.path().display())
            .env("EXECD_ENVS", variables.display());
        match self.token {
            "" => execd.ready_when_http(address, "/ping"),
            // A successful answer takes the token.
            token => execd
                .env("EXECD_ACCESS_TOKEN", token)
                .ready_when_line("execd listening on"),
        }
    }

    /// What the lifecycle server answers: a sandbox's execd is at `endpoint`.
    pub fn lifecycle(&self, endpoint: &str) -> Endpoint {
        self.lifecycle_with(endpoint, &[])
    }

    /// The same, and that these headers are needed as well.
    pub fn lifecycle_with(&self, endpoint: &str, headers: &[(&str, &str)]) -> Endpoint {
        let token = ("X-EXECD-ACCESS-TOKEN", self.token);
        let token = (!self.token.is_empty()).then_some(&token);
        let headers: Vec<_> = headers
            .iter()
            .chain(token)
            .map(|(name, value)| format!(r#""{name}":"{value}""#))
            .collect();
        let headers = headers.join(",");
        let server = Endpoint::start();
        server.otherwise(Reply::Status(
            200,
            vec!["Content-Type: application/json".to_owned()],
            format!(r#"{{"endpoint":"{endpoint}","headers":{{{headers}}}}}"#),
        ));
        server
    }

    /// The Python SDK of this kind; `None` where it cannot be had.
    pub fn python(&self, kind: &str, lifecycle: &Endpoint) -> Option<Command> {
        let mut command = client(sdk::python()?);
        command
            .arg(script("sdk.py"))
            .args([kind, &lifecycle.address().to_string()])
            .arg(self.shared.path());
        Some(command)
    }

    /// The JavaScript SDK; `None` where it cannot be had.
    pub fn javascript(&self, lifecycle: &Endpoint) -> Option<Command> {
        let (node, home) = sdk::javascript()?;
        let mut command = client(node);
        command
            .arg(script("sdk.mjs"))
            .arg(home)
            .arg(lifecycle.address().to_string())
            .arg(self.shared.path());
        Some(command)
    }

    /// A WebSocket client; `None` where it cannot be had.
    pub fn terminals(&self, endpoint: &str) -> Option<Command> {
        let mut command = client(sdk::python()?);
        command.arg(script("pty.py")).args([endpoint, self.token]);
        Some(command)
    }
}

/// A program that is ended when it waits for something that does not come.
fn client(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE_SECONDS).arg(program);
    command
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/execd_sdk")
        .join(name)
}

/// Runs a client to its end; gives what it printed.
#[track_caller]
pub fn succeeds(daemon: &Daemon, mut client: Command) -> String {
    let output = client.output().expect("start the client");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{client:?}\n{said}\n{errors}\n{}",
        daemon.transcript()
    );
    said.trim_end().to_owned()
}

/// What a client of the Python SDK prints at its end.
pub fn python_says() -> String {
    let version = sdk::pinned(include_str!("../sdks/requirements.txt"), "opensandbox");
    format!("opensandbox {version}")
}

/// What a client of the JavaScript SDK prints at its end.
pub fn javascript_says() -> String {
    let package: serde_json::Value =
        serde_json::from_str(include_str!("../sdks/package.json")).expect("JSON");
    let name = "@alibaba-group/opensandbox";
    format!(
        "{name} {}",
        package["dependencies"][name].as_str().expect("a pin")
    )
}
