//! A program that gets us credentials: the exec plugin of a kubeconfig, protocols `v1` and
//! `v1beta1` of `client.authentication.k8s.io`.
//!
//! Owns the one place where ingress starts a process. The program gets our environment, what the
//! kubeconfig adds, and no terminal; what it says on standard error stays on ours. Its answer is
//! bounded, and so is its time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_lite::{AsyncReadExt as _, FutureExt as _};
use serde::Deserialize;
use smol::Timer;
use smol::process::Command;

use super::access::{self, Trust};
use crate::runtime::Spawner;

/// The versions of the protocol.
pub const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

/// How long a plugin may take.
pub const TIME: Duration = Duration::from_secs(60);

/// The most bytes of its answer.
pub const MAX_ANSWER: u64 = 1024 * 1024;

/// A plugin as the kubeconfig describes it.
#[derive(Clone)]
pub struct Plugin {
    /// The version of the protocol it is to speak.
    pub version: String,
    /// The program: a path, or a name to be found in `PATH`.
    pub command: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What is added to its environment.
    pub variables: BTreeMap<String, String>,
    /// How to get the program, for people.
    pub hint: Option<String>,
    /// What it is told of the cluster, if it wants to know.
    pub cluster: Option<ClusterInfo>,
}

// Arguments and variables may be secrets.
impl fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Plugin")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// The cluster, for a plugin.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    /// Its address.
    pub server: Option<String>,
    /// The name in its certificate.
    pub tls_server_name: Option<String>,
    /// Whom we trust.
    pub trust: Trust,
}

/// What a plugin gave us.
#[derive(Clone)]
pub struct Credential {
    /// A bearer token.
    pub token: Option<String>,
    /// A certificate and its key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    expires: Option<SystemTime>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Whether it has not expired.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        access::is_fresh(self.expires)
    }
}

/// Why a plugin gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be started.
    #[error("cannot start the credential plugin {}: {cause}{}", command.display(), hint.as_deref().map_or(String::new(), |hint| format!(" ({hint})")))]
    Start {
        /// The program.
        command: PathBuf,
        /// What the system said.
        cause: io::Error,
        /// How to get it.
        hint: Option<String>,
    },
    /// It failed.
    #[error("the credential plugin {} failed: {status}", command.display())]
    Failed {
        /// The program.
        command: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long.
    #[error("the credential plugin {} took longer than {TIME:?}", command.display())]
    TimedOut {
        /// The program.
        command: PathBuf,
    },
    /// Its answer cannot be used.
    #[error("the credential plugin {} answered with {reason}", command.display())]
    Answer {
        /// The program.
        command: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Its output cannot be read, or what it is to be told.
    #[error("the credential plugin: {0}")]
    Io(#[from] io::Error),
}

impl Plugin {
    /// Runs the plugin.
    ///
    /// # Errors
    ///
    /// It gave no credential that can be used.
    pub async fn run(&self, spawner: &Spawner) -> Result<Credential, Error> {
        let plugin = self.clone();
        // The info may need a file; processes are started off the executor, too.
        let info = spawner.unblock(move || plugin.info()).await?;
        let answer = async { self.answer(&info).await };
        let late = async {
            Timer::after(TIME).await;
            let command = self.command.clone();
            Err(Error::TimedOut { command })
        };
        let answer = answer.or(late).await?;
        parse(&answer, &self.version).map_err(|reason| Error::Answer {
            command: self.command.clone(),
            reason,
        })
    }

    async fn answer(&self, info: &str) -> Result<Vec<u8>, Error> {
        let mut child = Command::new(&self.command)
            .args(&self.arguments)
            .envs(&self.variables)
            .env("KUBERNETES_EXEC_INFO", info)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| Error::Start {
                command: self.command.clone(),
                cause,
                hint: self.hint.clone(),
            })?;
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(Error::Answer {
                command: self.command.clone(),
                reason: format!("more than {MAX_ANSWER} bytes"),
            });
        }
        let status = child.status().await?;
        if !status.success() {
            let command = self.command.clone();
            return Err(Error::Failed { command, status });
        }
        Ok(answer)
    }

    /// The `ExecCredential` it is started with.
    fn info(&self) -> io::Result<String> {
        let mut spec = serde_json::json!({"interactive": false});
        if let Some(cluster) = &self.cluster {
            let authorities = access::authorities(&cluster.trust).map_err(io::Error::other)?;
            spec["cluster"] = serde_json::json!({
                "server": cluster.server,
                "tls-server-name": cluster.tls_server_name,
                "insecure-skip-tls-verify": cluster.trust == Trust::Anybody,
                "certificate-authority-data": authorities.map(|pem| BASE64_STANDARD.encode(pem)),
            });
        }
        let info = serde_json::json!({
            "apiVersion": self.version,
            "kind": "ExecCredential",
            "spec": spec,
        });
        Ok(info.to_string())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// What an answer gives; the error never quotes it.
fn parse(answer: &[u8], version: &str) -> Result<Credential, String> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|cause| format!("no ExecCredential (line {})", cause.line()))?;
    if answer.kind != "ExecCredential" || answer.api_version != version {
        return Err(format!(
            "something other than an ExecCredential of {version}"
        ));
    }
    let status = answer.status.ok_or("no status")?;
    let expires = status.expiration_timestamp.map(|text| {
        rfc3339(&text).ok_or_else(|| format!("an expirationTimestamp that is no time: {text:?}"))
    });
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let certificate = given(status.client_certificate_data);
    let key = given(status.client_key_data);
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate.into_bytes(), key.into_bytes())),
        (None, None) => None,
        _ => return Err("half of a certificate and its key".to_owned()),
    };
    let token = given(status.token);
    if token.is_none() && identity.is_none() {
        return Err("neither a token nor a certificate".to_owned());
    }
    Ok(Credential {
        token,
        identity,
        expires: expires.transpose()?,
    })
}

/// A time of RFC 3339, to the second.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        let all = digits.bytes().all(|octet| octet.is_ascii_digit());
        all.then(|| digits.parse().ok())?
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let is_at = |(place, mark): &(usize, u8)| text.as_bytes().get(*place) == Some(mark);
    marks.iter().all(is_at).then_some(())?;
    let separator = text.as_bytes().get(10)?;
    matches!(separator, b'T' | b't' | b' ').then_some(())?;
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let sane = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    sane.then_some(())?;
    let zone = text.get(19..)?;
    let zone = zone.strip_prefix('.').map_or(zone, |fraction| {
        fraction.trim_start_matches(|character: char| character.is_ascii_digit())
    });
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', tens, ones] => {
            let digits = [hours, &[*tens, *ones]].concat();
            let digits: i64 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
            let minutes = digits / 100 * 60 + digits % 100;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    // Days since the epoch, counting years from March, so that the leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days - 719_468;
    let seconds = days * 86_400 + (hour * 60 + minute - offset) * 60 + second;
    let seconds = u64::try_from(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_with_their_offset() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:30:15Z", Some(951_827_415)),
            ("2026-11-30T18:00:00.123456789+01:00", Some(1_796_058_000)),
            ("2026-11-30t17:00:00z", Some(1_796_058_000)),
            ("2026-11-30T12:00:00-05:00", Some(1_796_058_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-30T17:00:00", None),
            ("soon", None),
            ("", None),
            ("2026-11-30T17:00:00+1", None),
        ] {
            let expected = seconds.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn answers_are_checked() {
        let version = VERSIONS[0];
        let answer =
            |status| json!({"apiVersion": version, "kind": "ExecCredential", "status": status});
        let read = |answer: serde_json::Value| parse(answer.to_string().as_bytes(), version);
        let good = read(answer(
            json!({"token": "t", "expirationTimestamp": "2000-01-01T00:00:00Z"}),
        ));
        let good = good.unwrap();
        assert_eq!((good.token.as_deref(), good.is_fresh()), (Some("t"), false));
        let pair = json!({"clientCertificateData": "c", "clientKeyData": "k"});
        let pair = read(answer(pair)).unwrap();
        assert!(pair.identity.is_some() && pair.is_fresh());
        for (answer, told) in [
            (answer(json!(null)), "no status"),
            (answer(json!({})), "neither a token nor a certificate"),
            (answer(json!({"token": ""})), "neither"),
            (answer(json!({"clientKeyData": "k"})), "half of"),
            (
                answer(json!({"token": "t", "expirationTimestamp": "x"})),
                "no time",
            ),
            (
                json!({"apiVersion": VERSIONS[1], "kind": "ExecCredential"}),
                "something other",
            ),
            (
                json!({"apiVersion": version, "kind": "Other"}),
                "something other",
            ),
            (json!([]), "no ExecCredential"),
        ] {
            let error = read(answer.clone()).unwrap_err();
            assert!(error.contains(told), "{answer}: {error}");
        }
    }
}
