//! The sockets of the filter: listeners, and sockets towards upstreams that carry the mark.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::upstream::Server;

/// What is done to every socket towards an upstream before it is used, for example setting the
/// mark by which the kernel's redirect recognises our own queries. Servers of the exempt list are
/// spared.
pub type SocketHook = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

/// Buffer asked for in the kernel, in octets; it gives what its own limit allows.
const KERNEL_BUFFER: usize = 1 << 20;

/// A UDP socket and a TCP listener on one address.
pub struct Listener {
    /// For datagrams.
    pub udp: std::net::UdpSocket,
    /// For connections.
    pub tcp: std::net::TcpListener,
}

/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;

impl Listener {
    /// Binds both; with port 0, both to the same free one.
    ///
    /// # Errors
    ///
    /// The address is taken, or the system lacks the family.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut attempts = if address.port() == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            match Self::bind_once(address) {
                // The port UDP was given may be taken for TCP.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                result => return result,
            }
        }
    }

    fn bind_once(address: SocketAddr) -> io::Result<Self> {
        let udp = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        let tcp = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            udp.set_only_v6(true)?;
            tcp.set_only_v6(true)?;
        }
        udp.set_nonblocking(true)?;
        udp.set_recv_buffer_size(KERNEL_BUFFER)?;
        udp.bind(&address.into())?;
        let udp = std::net::UdpSocket::from(udp);
        tcp.set_nonblocking(true)?;
        tcp.set_reuse_address(true)?;
        tcp.bind(&udp.local_addr()?.into())?;
        tcp.listen(BACKLOG)?;
        Ok(Self {
            udp,
            tcp: tcp.into(),
        })
    }
}

/// A UDP socket connected to `server`: the kernel picks a random source port and passes on nothing
/// from anybody else.
///
/// # Errors
///
/// No socket, the hook's error, or no route.
pub fn datagrams_to(server: &Server, hook: &SocketHook) -> io::Result<std::net::UdpSocket> {
    let socket = towards(server, Type::DGRAM, Protocol::UDP, hook)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    // Binding first makes the port random per socket; connecting alone would derive it from the
    // destination.
    let any: SocketAddr = if server.address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    socket.bind(&any.into())?;
    socket.connect(&server.address.into())?;
    Ok(socket.into())
}

/// A non-blocking TCP socket for `server`, not connected yet.
///
/// # Errors
///
/// No socket, or the hook's error.
pub fn stream_to(server: &Server, hook: &SocketHook) -> io::Result<Socket> {
    let socket = towards(server, Type::STREAM, Protocol::TCP, hook)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn towards(
    server: &Server,
    kind: Type,
    protocol: Protocol,
    hook: &SocketHook,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(server.address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if !server.exempt {
        hook(socket.as_fd())?;
    }
    Ok(socket)
}
