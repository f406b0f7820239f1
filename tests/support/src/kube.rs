//! A Kubernetes API server, as far as listing and watching custom resources goes: discovery, pages,
//! resource versions that expire, bookmarks, refusals, TLS, and every way to fail on the way.
//!
//! It keeps objects and their history as the real one does, so that a client that is told the wrong
//! version, or resumes where it must not, sees it. The official Python client works against it
//! (`tests/ingress_provider.rs`).

mod serve;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use smol::channel::Sender;

use crate::port::Port;
use crate::tls::Authority;
use crate::watch::Watch;

/// How long a test waits for a request.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of custom resource.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The API group.
    pub group: String,
    /// The versions that are served, the preferred one first.
    pub versions: Vec<String>,
    /// The name in paths.
    pub plural: String,
    /// The kind.
    pub kind: String,
}

impl Definition {
    /// `BatchSandbox` of OpenSandbox.
    #[must_use]
    pub fn batchsandbox() -> Self {
        Self::new(
            "sandbox.opensandbox.io",
            &["v1alpha1"],
            "batchsandboxes",
            "BatchSandbox",
        )
    }

    /// `Sandbox` of agent-sandbox, in these versions.
    #[must_use]
    pub fn agent_sandbox(versions: &[&str]) -> Self {
        Self::new("agents.x-k8s.io", versions, "sandboxes", "Sandbox")
    }

    fn new(group: &str, versions: &[&str], plural: &str, kind: &str) -> Self {
        Self {
            group: group.to_owned(),
            versions: versions.iter().map(|&version| version.to_owned()).collect(),
            plural: plural.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// What is served.
    Discover,
    /// A list, or a page of one.
    List,
    /// A watch.
    Watch,
}

/// What a request meets instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A `Status` with this code and message.
    Status(u16, String),
    /// As above, with `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// The answer never comes.
    Hang,
    /// The connection ends in the middle of the first object.
    CutMidObject,
    /// The answer comes in pieces, with this pause before each.
    Slow(Duration),
    /// A success that is no JSON.
    Garbage,
    /// A watch that ends at once.
    EndAtOnce,
    /// A watch that says nothing any more, and does not end.
    Silent,
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is for.
    pub verb: Verb,
    /// Its path.
    pub path: String,
    /// Its query, decoded.
    pub query: BTreeMap<String, String>,
    /// Its headers; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status it was answered with.
    pub status: u16,
}

/// What goes to those who watch.
#[derive(Clone, Debug)]
enum Message {
    /// An event of the definition with this index, which made this version.
    Event(usize, u64, Arc<str>),
    /// A bookmark of this version.
    Bookmark(u64),
    /// A watch's last event, after which it ends.
    Last(Arc<str>),
    /// These bytes, and the end of the connection.
    Cut(Arc<str>),
}

/// Something that happened to an object.
struct Change {
    version: u64,
    definition: usize,
    event: Arc<str>,
}

#[derive(Default)]
struct State {
    definitions: Vec<Definition>,
    /// By definition, namespace and name.
    objects: BTreeMap<(usize, String, String), Value>,
    version: u64,
    uids: u64,
    history: VecDeque<Change>,
    /// What happened up to this version is forgotten.
    forgotten: u64,
    watchers: Vec<Sender<Message>>,
    requests: Vec<Request>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    tokens: Option<HashSet<String>>,
    /// Why nobody may see the objects.
    forbidden: bool,
    /// Whether a list from the cache is paged, too.
    always_paged: bool,
    /// So many generated objects of the first definition, each with this much ballast.
    generated: Option<(usize, usize)>,
}

/// A running API server; stops when dropped.
pub struct Cluster {
    state: Arc<Watch<State>>,
    port: Port,
    authority: Option<Authority>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Cluster {
    /// One that serves `definitions` on a port of 127.0.0.1, in plain text.
    #[must_use]
    pub fn start(definitions: impl IntoIterator<Item = Definition>) -> Self {
        Self::launch(definitions, None)
    }

    /// One with TLS, which demands a certificate of its authority when `require_client` says so.
    #[must_use]
    pub fn start_tls(
        definitions: impl IntoIterator<Item = Definition>,
        require_client: bool,
    ) -> Self {
        let authority = Authority::new();
        let config = authority.server_config(require_client);
        Self::launch(definitions, Some((authority, config)))
    }

    fn launch(
        definitions: impl IntoIterator<Item = Definition>,
        tls: Option<(Authority, rustls::ServerConfig)>,
    ) -> Self {
        let (authority, config) = tls.unzip();
        let mut cluster = Self {
            state: Arc::default(),
            port: Port::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            authority,
            tls: config.map(Arc::new),
        };
        cluster.state.update(|state| {
            state.definitions = definitions.into_iter().collect();
            // A cluster has a past.
            (state.version, state.forgotten) = (100, 100);
        });
        cluster.up();
        cluster
    }

    /// Its address, as a kubeconfig has it.
    #[must_use]
    pub fn server(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.port.address())
    }

    /// The authority of its certificate.
    ///
    /// # Panics
    ///
    /// It has none.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a cluster with TLS")
    }

    /// Closes the port and every connection.
    pub fn down(&mut self) {
        self.port.down();
        self.state.update(|state| state.watchers.clear());
    }

    /// Serves again, on the same port.
    pub fn up(&mut self) {
        let (state, tls) = (self.state.clone(), self.tls.clone());
        let serve = move |listener: &_, stopped: &_| serve::run(listener, &state, tls, stopped);
        self.port.up("kube-api", serve);
    }

    /// Creates or replaces an object of the definition with this plural. Its `metadata` needs a
    /// name and a namespace; uid and version are given.
    ///
    /// # Panics
    ///
    /// There is no such definition, or the object has no name.
    pub fn apply(&self, plural: &str, mut object: Value) {
        self.state.update(|state| {
            let (definition, key) = state.key(plural, &object);
            let old = state.objects.get(&key);
            let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
            let uid = old.map(|old| old["metadata"]["uid"].clone());
            let uid = uid.unwrap_or_else(|| {
                state.uids += 1;
                format!("00000000-0000-4000-8000-{:012}", state.uids).into()
            });
            state.version += 1;
            object["metadata"]["uid"] = uid;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            state.objects.insert(key, object.clone());
            state.happened(definition, kind, object);
        });
    }

    /// Deletes an object.
    ///
    /// # Panics
    ///
    /// It does not exist.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.state.update(|state| {
            let metadata = json!({"metadata": {"namespace": namespace, "name": name}});
            let (definition, key) = state.key(plural, &metadata);
            let mut object = state.objects.remove(&key).expect("the object exists");
            state.version += 1;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            state.happened(definition, "DELETED", object);
        });
    }

    /// Lists so many generated objects, `generated-0` and so on, each with so many bytes that
    /// nobody needs, besides what was applied to the first definition.
    pub fn generate(&self, count: usize, ballast: usize) {
        self.state
            .update(|state| state.generated = Some((count, ballast)));
    }

    /// The next request of this kind meets `fault`. Calls queue up.
    pub fn script(&self, verb: Verb, fault: Fault) {
        let queue = |state: &mut State| {
            let faults = state.faults.entry(verb.name()).or_default();
            faults.push_back(fault);
        };
        self.state.update(queue);
    }

    /// Only these tokens are accepted.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
        self.state.update(|state| state.tokens = Some(tokens));
    }

    /// Whether nobody may see the objects. Watches under way go on.
    pub fn forbid(&self, forbidden: bool) {
        self.state.update(|state| state.forbidden = forbidden);
    }

    /// Serves other definitions, or the same in other versions.
    pub fn define(&self, definitions: impl IntoIterator<Item = Definition>) {
        let definitions = definitions.into_iter().collect();
        self.state.update(|state| state.definitions = definitions);
    }

    /// Makes pages of lists from the cache, too, as a server without one does.
    pub fn always_page(&self) {
        self.state.update(|state| state.always_paged = true);
    }

    /// Forgets what happened so far: a watch cannot begin before now, nor a page be continued.
    pub fn compact(&self) {
        self.state.update(|state| {
            state.forgotten = state.version;
            state.history.clear();
        });
    }

    /// Goes back to this version, as a cluster does that is restored from a backup; the objects stay.
    pub fn restore(&self, version: u64) {
        self.state.update(|state| {
            state.version = version;
            state.forgotten = version;
            state.history.clear();
            state.watchers.clear();
        });
    }

    /// Ends every watch as an expired one.
    pub fn expire_watches(&self) {
        let text = event(
            "ERROR",
            &serve::status(410, "Expired", "too old resource version"),
        );
        self.tell_last(Message::Last(text));
    }

    /// Cuts every watch off in the middle of an event.
    pub fn cut_watches(&self) {
        self.tell_last(Message::Cut(
            r#"{"type":"MODIFIED","object":{"metadata":{"na"#.into(),
        ));
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        let version = self.state.lock().version;
        let message = Message::Bookmark(version);
        self.state.update(|state| state.tell(&message));
    }

    /// Moves on without an event for the objects, as other resources do.
    pub fn pass(&self, versions: u64) {
        self.state.update(|state| state.version += versions);
    }

    fn tell_last(&self, message: Message) {
        self.state.update(|state| {
            state.tell(&message);
            state.watchers.clear();
        });
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// Every request of one kind so far.
    #[must_use]
    pub fn requests_for(&self, verb: Verb) -> Vec<Request> {
        let all = self.requests();
        all.into_iter()
            .filter(|request| request.verb == verb)
            .collect()
    }

    /// Waits until so many requests of one kind came.
    ///
    /// # Panics
    ///
    /// They do not in time.
    pub fn wait_for(&self, verb: Verb, count: usize) {
        let of_kind = |request: &&Request| request.verb == verb;
        let enough = |state: &mut State| {
            (state.requests.iter().filter(of_kind).count() >= count).then_some(())
        };
        let came = self.state.wait(PATIENCE, enough);
        assert!(
            came.is_some(),
            "not {count} of {verb:?}: {:#?}",
            self.requests()
        );
    }

    /// Waits until exactly one watch is under way.
    ///
    /// # Panics
    ///
    /// There is none in time.
    pub fn wait_for_watch(&self) {
        let watched = |state: &mut State| {
            state.watchers.retain(|watcher| !watcher.is_closed());
            (state.watchers.len() == 1).then_some(())
        };
        let came = self.state.wait(PATIENCE, watched);
        assert!(came.is_some(), "no watch: {:#?}", self.requests());
    }
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

impl State {
    fn key(&self, plural: &str, object: &Value) -> (usize, (usize, String, String)) {
        let mut definitions = self.definitions.iter();
        let found = definitions.position(|known| known.plural == plural);
        let definition = found.expect("a definition with this plural");
        let text = |field: &str| {
            let text = object["metadata"][field].as_str();
            text.expect("a name and a namespace").to_owned()
        };
        (definition, (definition, text("namespace"), text("name")))
    }

    fn happened(&mut self, definition: usize, kind: &str, mut object: Value) {
        let known = &self.definitions[definition];
        object["apiVersion"] = format!("{}/{}", known.group, known.versions[0]).into();
        object["kind"] = known.kind.clone().into();
        let event = event(kind, &object);
        self.tell(&Message::Event(definition, self.version, event.clone()));
        self.history.push_back(Change {
            version: self.version,
            definition,
            event,
        });
    }

    fn tell(&mut self, message: &Message) {
        self.watchers
            .retain(|watcher| watcher.try_send(message.clone()).is_ok());
    }

    /// The fault for a request of this kind.
    fn fault(&mut self, verb: Verb) -> Option<Fault> {
        self.faults.get_mut(verb.name())?.pop_front()
    }
}

/// The line of a watch.
fn event(kind: &str, object: &Value) -> Arc<str> {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// A `BatchSandbox` that is ready at `host`, as the controller leaves it.
#[must_use]
pub fn batchsandbox(namespace: &str, name: &str, host: &str) -> Value {
    json!({
        "apiVersion": "sandbox.opensandbox.io/v1alpha1",
        "kind": "BatchSandbox",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"sandbox.opensandbox.io/endpoints": json!([host]).to_string()},
        },
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "sandbox"}]}}},
        "status": {"replicas": 1, "allocated": 1, "ready": 1},
    })
}

/// A `Sandbox` of agent-sandbox that is ready behind a service.
#[must_use]
pub fn agent_sandbox(namespace: &str, name: &str, service: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podTemplate": {"spec": {"containers": []}}},
        "status": {
            "serviceFQDN": service,
            "conditions": [{"type": "Ready", "status": "True", "reason": "DependenciesReady"}],
        },
    })
}
