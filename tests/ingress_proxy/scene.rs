//! An ingress of its own for each test: sandboxes in a map, backends that follow a script.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use opensandbox::http::listen::Listen;
use opensandbox::http::server::{Limits, Server};
use opensandbox::ingress::access::Keys;
use opensandbox::ingress::events::Observer;
use opensandbox::ingress::metrics::Metrics;
use opensandbox::ingress::provider::{Directory, Missing, Retired, Sandbox};
use opensandbox::ingress::proxy::{self, Cores, Settings, Shared, Usage};
use opensandbox::ingress::route::Mode;
use opensandbox::lifecycle::{DrainCut, Shutdown};
use opensandbox::telemetry::instrument::Meter;
use serde_json::Value;
use slog::{Drain, Logger, o};
pub use support::backend::{Backend, Peer};
use support::eventually;

/// Long enough that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The sandboxes of a test.
#[derive(Default)]
pub struct Sandboxes(Mutex<HashMap<String, Result<Arc<Sandbox>, Missing>>>);

impl Directory for Sandboxes {
    fn find(&self, id: &str) -> Result<Arc<Sandbox>, Missing> {
        let known = self.0.lock().unwrap();
        known
            .get(id)
            .cloned()
            .unwrap_or_else(|| Err(Missing::NotFound { id: id.to_owned() }))
    }

    fn is_synced(&self) -> bool {
        true
    }
}

impl Sandboxes {
    /// Adds a sandbox, or replaces the one of this id, which is then retired.
    pub fn set(&self, id: &str, uid: &str, host: &str, token: Option<&str>) -> Arc<Sandbox> {
        let sandbox = Arc::new(Sandbox {
            uid: uid.into(),
            host: host.into(),
            token: token.map(Into::into),
            retired: Retired::default(),
        });
        let before = self
            .0
            .lock()
            .unwrap()
            .insert(id.to_owned(), Ok(sandbox.clone()));
        if let Some(Ok(before)) = before {
            before.retired.set();
        }
        sandbox
    }

    /// Has no such sandbox any more.
    pub fn remove(&self, id: &str) {
        if let Some(Ok(before)) = self.0.lock().unwrap().remove(id) {
            before.retired.set();
        }
    }

    /// Makes look-ups of this id fail.
    pub fn miss(&self, id: &str, why: Missing) {
        self.0.lock().unwrap().insert(id.to_owned(), Err(why));
    }
}

/// What is told about the use of sandboxes.
#[derive(Default)]
pub struct Used(pub Mutex<Vec<(String, u16, Option<String>)>>);

impl Usage for Used {
    fn used(&self, sandbox: &str, port: u16, path: Option<&str>) {
        let path = path.map(str::to_owned);
        self.0
            .lock()
            .unwrap()
            .push((sandbox.to_owned(), port, path));
    }
}

/// Log records as JSON lines in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An ingress that ends with the test.
pub struct Scene {
    pub address: SocketAddr,
    pub sandboxes: Arc<Sandboxes>,
    pub used: Arc<Used>,
    pub shutdown: Shutdown,
    shared: Arc<Shared>,
    cores: Cores,
    lines: Lines,
}

impl Scene {
    /// One with the usual settings that finds routes in headers and hosts.
    pub fn new() -> Self {
        Self::with(Settings::new(Mode::Header), |_| {})
    }

    /// One with these settings.
    pub fn with(settings: Settings, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = settings.limits();
        change(&mut limits);
        let lines = Lines::default();
        let drain = Mutex::new(
            slog_json::Json::new(lines.clone())
                .add_default_keys()
                .set_newlines(true)
                .build(),
        );
        let logger = Logger::root(drain.fuse(), o!());
        let sandboxes = Arc::new(Sandboxes::default());
        let used = Arc::new(Used::default());
        let shutdown = Shutdown::new();
        let shared = Arc::new(Shared {
            settings,
            keys: ArcSwapOption::empty(),
            directory: sandboxes.clone(),
            events: Arc::new(Observer::new(logger, Metrics::new(&Meter::noop()))),
            usage: Some(used.clone()),
            draining: shutdown.clone(),
            shutdown: shutdown.clone(),
        });
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let two = NonZeroUsize::new(2).unwrap();
        let servers = Server::bind_each(&[Listen::from(any)], &limits, two).unwrap();
        let address = servers[0].addresses()[0];
        let cores = proxy::start(servers, &shared).unwrap();
        Self {
            address,
            sandboxes,
            used,
            shutdown,
            shared,
            cores,
            lines,
        }
    }

    /// Verifies signed routes with these keys from now on.
    pub fn keys(&self, keys: Keys) {
        self.shared.keys.store(Some(Arc::new(keys)));
    }

    /// Makes `backend` the sandbox `id`, and returns the route to it.
    pub fn sandbox(&self, id: &str, backend: &Backend) -> String {
        self.sandboxes.set(id, id, "127.0.0.1", None);
        format!("{id}-{}", backend.address.port())
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends raw bytes and reads until the connection is closed.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = self.connect();
        socket.write_all(bytes.as_ref()).unwrap();
        let mut received = Vec::new();
        // A reset ends it as well; what came before it counts.
        let _ = socket.read_to_end(&mut received);
        String::from_utf8_lossy(&received).into_owned()
    }

    /// Sends one request without a body that closes the connection; `more` are header lines.
    pub fn get(&self, route: &str, path: &str, more: &str) -> String {
        self.raw(format!(
            "GET {path} HTTP/1.1\r\nHost: {route}.test\r\nConnection: close\r\n{more}\r\n"
        ))
    }

    /// The access records so far.
    pub fn accesses(&self) -> Vec<Value> {
        let lines = self.lines.0.lock().unwrap();
        let text = String::from_utf8(lines.clone()).unwrap();
        // The last one may still be written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|record| record["opensandbox.event"] == "ingress.access")
            .collect()
    }

    /// The first access record for which `is_it` holds, once there is one.
    pub fn access(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(|| self.accesses().into_iter().find(&is_it))
    }

    /// Ends the ingress and says how.
    pub fn stop(&self) -> Result<(), DrainCut> {
        self.shutdown.trigger();
        smol::block_on(self.cores.finished())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}
