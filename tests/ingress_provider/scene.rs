//! A provider at work, and what tests ask of it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use opensandbox::config::Values;
use opensandbox::ingress::provider::{
    self, CacheStatus, Config, Directory, Missing, Provider, SETTINGS, Sandbox,
};
use opensandbox::runtime::Runtime;
use support::kube::{Cluster, Request, Verb};

use crate::log::Log;
use support::eventually;

/// How long a test waits for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The requests for lists so far, but for those that only ask how far the server is.
pub fn lists(cluster: &Cluster) -> Vec<Request> {
    let mut lists = cluster.requests_for(Verb::List);
    lists.retain(|list| list.query.get("limit").is_none_or(|limit| limit != "1"));
    lists
}

/// A running provider.
pub struct Scene {
    provider: Option<Provider>,
    directory: Arc<dyn Directory>,
    pub status: Arc<CacheStatus>,
    pub log: Log,
    pub folder: Arc<tempfile::TempDir>,
    _runtime: Runtime,
}

/// What a provider is started with.
pub struct Setup {
    kind: String,
    cluster: String,
    user: String,
    pub folder: Arc<tempfile::TempDir>,
    pub watch: Duration,
    pub margin: Duration,
}

impl Setup {
    /// For `BatchSandbox` objects of a cluster without TLS.
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            kind: "batchsandbox".to_owned(),
            cluster: format!("server: {}", cluster.server()),
            user: "token: t".to_owned(),
            folder: Arc::new(tempfile::tempdir().unwrap()),
            watch: Duration::from_secs(300),
            margin: Duration::from_secs(30),
        }
    }

    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = kind.to_owned();
        self
    }

    /// Adds lines to the cluster of the kubeconfig.
    pub fn cluster(mut self, lines: &str) -> Self {
        self.cluster = format!("{}\n{lines}", self.cluster);
        self
    }

    /// The lines of the user of the kubeconfig.
    pub fn user(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.user);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> Result<Config, String> {
        let indent =
            |lines: &str| -> String { lines.lines().map(|line| format!("    {line}\n")).collect() };
        let kubeconfig = format!(
            "current-context: m\ncontexts:\n- name: m\n  context: {{cluster: c, user: u}}\nclusters:\n- name: c\n  cluster:\n{}users:\n- name: u\n  user:\n{}",
            indent(&self.cluster),
            indent(&self.user)
        );
        let path = self.path("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        let pairs = [
            ("OPENSANDBOX_INGRESS_PROVIDER_TYPE", self.kind.as_str()),
            ("KUBECONFIG", path.to_str().unwrap()),
            ("KUBE_API_QPS", "1000"),
            ("KUBE_API_BURST", "1000"),
        ];
        let mut config = read(&pairs)?;
        if let Config::Kubernetes(config) = &mut config {
            config.times.first_wait = Duration::from_millis(20);
            config.times.longest_wait = Duration::from_millis(100);
            config.times.watch = self.watch;
            config.times.margin = self.margin;
        }
        Ok(config)
    }

    /// Starts the provider, and waits for nothing.
    pub fn start(self) -> Scene {
        let folder = self.folder.clone();
        Scene::start(self.config().unwrap(), folder)
    }

    /// Starts the provider, and waits until it knows every sandbox and watches.
    pub fn synced(self, cluster: &Cluster) -> Scene {
        let scene = self.start();
        scene.synced();
        cluster.wait_for_watch();
        scene
    }
}

/// The configuration with these settings.
pub fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
    let values = Values::from_pairs(SETTINGS, pairs);
    let read_file = |path: &Path| std::fs::read_to_string(path);
    Config::read(&values, &read_file, &mut Vec::new()).map_err(|error| error.to_string())
}

impl Scene {
    pub fn start(config: Config, folder: Arc<tempfile::TempDir>) -> Self {
        // One thread of its own; the one of the test only asks.
        let runtime = Runtime::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let log = Log::default();
        let provider = provider::start(config, &runtime.spawner(), &log.logger());
        Self {
            directory: provider.directory(),
            status: provider.status(),
            provider: Some(provider),
            log,
            folder,
            _runtime: runtime,
        }
    }

    /// Waits for the first listing.
    pub fn synced(&self) {
        eventually(|| self.directory.is_synced().then_some(()));
    }

    pub fn find(&self, id: &str) -> Result<Arc<Sandbox>, Missing> {
        self.directory.find(id)
    }

    /// Waits until the sandbox is at `host`.
    pub fn found_at(&self, id: &str, host: &str) -> Arc<Sandbox> {
        eventually(|| self.find(id).ok().filter(|sandbox| *sandbox.host == *host))
    }

    /// Waits until there is no such sandbox.
    pub fn gone(&self, id: &str) {
        eventually(|| matches!(self.find(id), Err(Missing::NotFound { .. })).then_some(()));
    }

    /// Waits until the log says something, once.
    pub fn said_once(&self, text: &str) -> String {
        let said = eventually(|| {
            let said = self.log.saying(text);
            (!said.is_empty()).then_some(said)
        });
        assert_eq!(said.len(), 1, "{:#?}", self.log.all());
        said.into_iter().next().unwrap()
    }

    /// Stops the provider; what it knew stays.
    pub fn freeze(&mut self) {
        self.provider = None;
    }
}
