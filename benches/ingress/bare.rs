//! The least that a proxy made of hyper costs: a server, a client and kept connections between
//! them, on the runtime and the sockets of ingress. It changes nothing and tells nobody.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use opensandbox::http::io::Stream;
use opensandbox::runtime::{Runtime, Spawner};
use smol::Async;

/// Has this program be the proxy: where it listens, and where the backend is.
pub const VARIABLE: &str = "OPENSANDBOX_BENCH_BARE";

/// Is the proxy for ever, if that is what this process was started for.
pub fn serve_if_asked() {
    let Ok(addresses) = std::env::var(VARIABLE) else {
        return;
    };
    let mut addresses = addresses.split(' ').map(|text| text.parse::<SocketAddr>());
    let mut next = || addresses.next().and_then(Result::ok).expect("an address");
    let (address, backend) = (next(), next());
    let runtime = Runtime::for_one_thread().expect("a descriptor");
    let passing = Arc::new(Passing {
        backend,
        spawner: runtime.spawner(),
        kept: Mutex::default(),
    });
    runtime.block_on(async {
        let listener = Async::<TcpListener>::bind(address).expect("a port");
        loop {
            let (socket, _) = listener.accept().await.expect("a client");
            passing.serve(socket.into_inner().expect("a socket"));
        }
    });
}

struct Passing {
    backend: SocketAddr,
    spawner: Spawner,
    kept: Mutex<Vec<SendRequest<Incoming>>>,
}

impl Passing {
    fn serve(self: &Arc<Self>, socket: TcpStream) {
        let stream = Stream::accepted(socket, &self.spawner).expect("a socket");
        let passing = self.clone();
        let service = service_fn(move |request| passing.clone().pass(request));
        let serving = http1::Builder::new().serve_connection(stream, service);
        self.spawner.spawn(serving).detach();
    }

    async fn pass(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let kept = {
            let mut kept = self.kept.lock().expect("no panic");
            let ready = kept.iter().rposition(SendRequest::is_ready);
            ready.map(|index| kept.swap_remove(index))
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = connection.send_request(request).await?;
        self.kept.lock().expect("no panic").push(connection);
        Ok(response)
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>, hyper::Error> {
        let socket = TcpStream::connect(self.backend).expect("the backend");
        let stream = Stream::accepted(socket, &self.spawner).expect("a socket");
        let (connection, driver) = handshake(stream).await?;
        self.spawner.spawn(driver).detach();
        Ok(connection)
    }
}
