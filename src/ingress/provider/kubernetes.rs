//! Sandboxes from a Kubernetes cluster: one listing and one watch, of one kind of object.
//!
//! Owns how the API server is found and asked. Never writes there, and asks nothing on behalf of a
//! request. Objects are read off the stream one by one, so that a listing of any length costs the
//! memory of its largest object.

pub mod access;
pub mod exec;
pub mod kubeconfig;
pub mod scan;

mod api;
mod backoff;
mod reflector;
mod yaml;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slog::Logger;

use self::access::{Access, Account, Material, Trust, Who};
use self::api::Api;
use self::backoff::Bucket;
use self::kubeconfig::Overrides;
use self::reflector::Reflector;
use super::index::Writer;
use super::resource::Resource;
use super::status::CacheStatus;
use crate::config::{Error, Values};
use crate::runtime::Spawner;

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a list, or a page of one, may take.
pub const LIST_TIME: Duration = Duration::from_secs(120);
/// The least a watch is asked to last; the most is twice as long. While nothing changes its end may
/// be the only sign of life: bookmarks come for versions after the one it began with, and it depends
/// on etcd whether those pass without a change.
pub const WATCH_TIME: Duration = Duration::from_secs(120);
/// How much longer than it was asked to last a watch is waited for.
pub const WATCH_MARGIN: Duration = Duration::from_secs(30);
/// The first wait before another attempt.
pub const FIRST_WAIT: Duration = Duration::from_millis(800);
/// The longest such wait, before chance is added: what changed while the server was away is unknown
/// for as long after its return.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The rate of requests when none is given, or zero.
const QPS: f64 = 5.0;
/// The requests at once when none are given, or zero.
const BURST: f64 = 10.0;

/// How the API server is found, and what is asked of it.
#[derive(Debug)]
pub struct Config {
    /// The kind of object.
    pub resource: Resource,
    /// The server, and our account there.
    pub access: Access,
    /// How many requests are made.
    bucket: Bucket,
    /// How long things may take.
    pub times: Times,
}

/// How long things may take; tests are in more of a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// See [`LIST_TIME`].
    pub list: Duration,
    /// See [`WATCH_TIME`].
    pub watch: Duration,
    /// See [`WATCH_MARGIN`].
    pub margin: Duration,
    /// See [`FIRST_WAIT`].
    pub first_wait: Duration,
    /// See [`LONGEST_WAIT`].
    pub longest_wait: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            list: LIST_TIME,
            watch: WATCH_TIME,
            margin: WATCH_MARGIN,
            first_wait: FIRST_WAIT,
            longest_wait: LONGEST_WAIT,
        }
    }
}

impl Config {
    /// Finds the API server: `--server`, the kubeconfig, or the service account of the pod.
    ///
    /// # Errors
    ///
    /// There is none, or what is said of it cannot be used.
    pub fn read(
        resource: Resource,
        values: &Values,
        read_file: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Error> {
        let access = access(values, read_file).map_err(|cause| {
            Error::Usage(format!(
                "Error building kubeconfig: failed to create client config: {cause}"
            ))
        })?;
        let qps = number(values, "KUBE_API_QPS", QPS)?;
        let burst = number(values, "KUBE_API_BURST", BURST)?;
        Ok(Self {
            resource,
            access,
            bucket: Bucket::new(qps, burst.trunc().max(1.0)),
            times: Times::default(),
        })
    }
}

/// A number that is not negative; zero is the default.
fn number(values: &Values, variable: &str, default: f64) -> Result<f64, Error> {
    let Some(text) = values.get(variable) else {
        return Ok(default);
    };
    let number = text.trim().parse::<f64>().ok();
    match number.filter(|number| number.is_finite() && *number >= 0.0) {
        Some(0.0) => Ok(default),
        Some(number) => Ok(number),
        None => Err(values.invalid(variable, "a number that is not negative")),
    }
}

fn access(values: &Values, read: &dyn Fn(&Path) -> io::Result<String>) -> Result<Access, String> {
    let overrides = Overrides {
        server: values.get("OPENSANDBOX_INGRESS_KUBE_SERVER"),
        cluster: values.get("OPENSANDBOX_INGRESS_KUBE_CLUSTER"),
    };
    if let Some(path) = values.get("KUBECONFIG") {
        let path = Path::new(path);
        let text = read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        return selected(path, &text, overrides, read);
    }
    if let Some(home) = values.get("HOME") {
        let path = PathBuf::from(home).join(".kube/config");
        // One that is not there, or not ours to read, is as good as none.
        if let Ok(text) = read(&path)
            && !text.trim().is_empty()
        {
            return selected(&path, &text, overrides, read);
        }
    }
    if let Some(server) = overrides.server {
        // The service account's token is for the cluster of the pod, not for any server.
        return Access::new(server, Trust::Public, None, Who::default(), read);
    }
    in_cluster(values, read).unwrap_or_else(|| {
        let nothing = "invalid configuration: no configuration has been provided, and this is no \
             pod: give --kubeconfig, or --provider-type=static for sandboxes outside of Kubernetes";
        Err(nothing.to_owned())
    })
}

fn selected(
    path: &Path,
    text: &str,
    overrides: Overrides<'_>,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Access, String> {
    let told = |cause| format!("{}: {cause}", path.display());
    let selected = kubeconfig::select(path, text, overrides).map_err(told)?;
    let access = Access::new(
        &selected.server,
        selected.trust,
        selected.tls_server_name,
        selected.who,
        read,
    );
    access.map_err(told)
}

/// The service account of the pod, if this is one.
fn in_cluster(
    values: &Values,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Option<Result<Access, String>> {
    let host = values.get("KUBERNETES_SERVICE_HOST")?;
    let port = values.get("KUBERNETES_SERVICE_PORT")?;
    let directory = Path::new(SERVICE_ACCOUNT);
    let token = directory.join("token");
    read(&token).ok()?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let who = Who {
        token_file: Some(token),
        ..Who::default()
    };
    let trust = Trust::Authorities(Material::File(directory.join("ca.crt")));
    Some(Access::new(
        &format!("https://{host}:{port}"),
        trust,
        None,
        who,
        read,
    ))
}

/// Reads the objects and keeps what is known of them current, until it is dropped.
pub(super) async fn keep_fresh(
    config: Box<Config>,
    writer: Writer,
    status: Arc<CacheStatus>,
    spawner: Spawner,
    log: Logger,
) {
    let account = Account::new(config.access, spawner);
    let api = Api::new(account, config.resource, config.bucket, config.times);
    Reflector::new(api, config.times, writer, status, log)
        .run()
        .await;
}

#[cfg(test)]
mod tests;
