//! A TCP port that a thread serves, and that can go away and come back.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use smol::channel::{Receiver, Sender};
use smol::net::TcpListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The port. What serves it is stopped when this is dropped.
pub struct Port {
    address: SocketAddr,
    running: Option<Running>,
    reserved: Option<socket2::Socket>,
}

/// The thread that serves, and the handle that stops it.
struct Running {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Port {
    /// One at `address`, whose port may be 0; nothing listens yet.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            running: None,
            reserved: None,
        }
    }

    /// Where it is, once it was up.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens, and serves on a thread: `run` has to return when its channel closes.
    pub fn up(
        &mut self,
        name: &str,
        run: impl FnOnce(&TcpListener, &Receiver<()>) + Send + 'static,
    ) {
        if self.running.is_some() {
            return;
        }
        let socket = self.reserved.take().unwrap_or_else(|| bind(self.address));
        socket.listen(BACKLOG).expect("listen");
        let listener = smol::Async::new(std::net::TcpListener::from(socket));
        let listener = TcpListener::from(listener.expect("a non-blocking socket"));
        self.address = listener.local_addr().expect("its address");
        let (stop, stopped) = smol::channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&listener, &stopped))
            .expect("start a thread");
        self.running = Some(Running { stop, thread });
    }

    /// Closes the port and every connection: from now on the kernel refuses.
    pub fn down(&mut self) {
        if let Some(running) = self.running.take() {
            // A bound socket that does not listen keeps the port ours, and refuses.
            self.reserved = Some(bind(self.address));
            running.end();
        }
    }
}

impl Running {
    fn end(self) {
        self.stop.close();
        if self.thread.join().is_err() && !std::thread::panicking() {
            panic!("the thread of a server panicked");
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

/// A bound socket whose port can be bound once more, to reserve it.
fn bind(address: SocketAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.bind(&address.into()).expect("bind");
    socket
}
