//! What hyper needs from a runtime: byte streams, an executor and a timer, all on smol.
//!
//! Owns the adaptation only. Reads land straight in hyper's buffer, which is never cleared first,
//! and vectored writes stay vectored. Never interprets a byte.

use std::future::Future;
use std::io::{self, BufRead, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_rustls::client::TlsStream;
use hyper::rt::{Executor, Read, ReadBufCursor, Sleep, Timer, Write};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::SockRef;

use crate::runtime::{Registered, Spawner};

/// A connection, as hyper reads and writes it.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(Socket<TcpStream>),
    /// A Unix socket.
    Unix(Socket<UnixStream>),
    /// TLS over TCP, on the client's side.
    Tls(Box<TlsStream<Async<TcpStream>>>),
}

/// A plain socket, and who waits for it.
#[derive(Debug)]
pub enum Socket<S: AsFd> {
    /// smol's reactor.
    Shared(Async<S>, Drained),
    /// The reactor of the thread that serves it.
    Own(Registered<S>),
}

/// Whether there was nothing left when a socket was read last, so that reading again would be in
/// vain before the reactor says otherwise. Clones are about the same socket.
#[derive(Clone, Debug, Default)]
pub struct Drained(Arc<AtomicBool>);

impl Drained {
    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_drained: bool) {
        self.0.store(is_drained, Ordering::Relaxed);
    }

    /// Has the socket read the next time, whatever the reactor says. smol's does not tell of an
    /// event that it delivers while it is being asked.
    pub fn forget(&self) {
        self.set(false);
    }
}

impl<S: AsFd> Socket<S> {
    fn get_ref(&self) -> &S {
        match self {
            Self::Shared(socket, _) => socket.get_ref(),
            Self::Own(socket) => socket.get_ref(),
        }
    }

    /// Waits where `spawner` does.
    fn new(socket: S, spawner: &Spawner) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(match spawner.register(socket)? {
            Ok(registered) => Self::Own(registered),
            Err(socket) => Self::Shared(Async::new_nonblocking(socket)?, Drained::default()),
        })
    }

    /// Receives into `cursor` without initialising it first.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let space = cursor.remaining();
        let mut receive = |socket: &S| {
            // SAFETY: the kernel only writes into the buffer, so nothing initialised is undone.
            let free = unsafe { cursor.as_mut() };
            let ((received, _), _) = rustix::net::recv(socket, free, RecvFlags::empty())?;
            let count = received.len();
            // SAFETY: rustix returned the first `count` bytes of `free` as initialised.
            unsafe { cursor.advance(count) };
            // Less than asked for is all there was. Nothing is the end, which stays.
            Ok((count, 0 < count && count < space))
        };
        match self {
            Self::Own(socket) => socket.poll_read(context, receive).map_ok(drop),
            Self::Shared(socket, drained) => loop {
                if drained.get() {
                    ready!(socket.poll_readable(context))?;
                    drained.set(false);
                }
                match receive(socket.get_ref()) {
                    Ok((_, was_all)) => {
                        drained.set(was_all);
                        return Poll::Ready(Ok(()));
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => drained.set(true),
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            },
        }
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Own(socket) => socket.poll_readable(context).map(Ok),
            Self::Shared(socket, drained) => {
                if drained.get() {
                    ready!(socket.poll_readable(context))?;
                    drained.set(false);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&S) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(socket) => socket.poll_write(context, write),
            Self::Shared(socket, _) => loop {
                match write(socket.get_ref()) {
                    Ok(count) => return Poll::Ready(Ok(count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => ready!(socket.poll_writable(context))?,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            },
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => socket.poll_read(context, cursor),
            Self::Unix(socket) => socket.poll_read(context, cursor),
            Self::Tls(stream) => decrypt(stream, context, cursor),
        }
    }
}

/// Copies the next decrypted bytes into `cursor`. The stream's own `AsyncRead` wants an initialised
/// slice, which would be cleared on every poll.
fn decrypt(
    stream: &mut TlsStream<Async<TcpStream>>,
    context: &mut Context<'_>,
    mut cursor: ReadBufCursor<'_>,
) -> Poll<io::Result<()>> {
    let (socket, session) = stream.get_mut();
    loop {
        let mut reader = session.reader();
        match reader.fill_buf() {
            Ok(plain) => {
                let count = plain.len().min(cursor.remaining());
                cursor.put_slice(plain.get(..count).unwrap_or_default());
                reader.consume(count);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        match session.read_tls(&mut Polled { socket, context }) {
            Ok(_) => session
                .process_new_packets()
                .map(drop)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// A socket seen as a blocking reader that would block while a poll of it is pending.
struct Polled<'a, 'b, 'c> {
    socket: &'a mut Async<TcpStream>,
    context: &'b mut Context<'c>,
}

impl io::Read for Polled<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_read(self.context, buffer) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Stream {
    /// Ready when there may be something to read, or the connection has failed.
    ///
    /// # Errors
    ///
    /// Waiting is impossible.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_readable(context),
            Self::Unix(socket) => socket.poll_readable(context),
            // Only reading tells what is left in the session.
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// What is known of a plain socket on smol's reactor, to be forgotten.
    pub(super) fn drained(&self) -> Option<Drained> {
        match self {
            Self::Tcp(Socket::Shared(_, drained)) | Self::Unix(Socket::Shared(_, drained)) => {
                Some(drained.clone())
            }
            Self::Tcp(Socket::Own(_)) | Self::Unix(Socket::Own(_)) | Self::Tls(_) => None,
        }
    }

    /// Makes the peer of a TCP connection see an error instead of an end when this is dropped.
    pub fn reset_when_closed(&self) {
        if let Self::Tcp(socket) = self {
            // Without it the end is an orderly one, which is no worse than before.
            let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }

    /// A TCP connection that smol's reactor waits for.
    #[must_use]
    pub fn tcp(socket: Async<TcpStream>) -> Self {
        Self::Tcp(Socket::Shared(socket, Drained::default()))
    }

    /// A connection over a Unix socket that smol's reactor waits for.
    #[must_use]
    pub fn unix(socket: Async<UnixStream>) -> Self {
        Self::Unix(Socket::Shared(socket, Drained::default()))
    }

    /// A TCP connection just accepted, waited for where `spawner` waits.
    ///
    /// # Errors
    ///
    /// The system refuses to watch one more.
    pub fn accepted(socket: TcpStream, spawner: &Spawner) -> io::Result<Self> {
        Socket::new(socket, spawner).map(Self::Tcp)
    }

    /// The same connection, waited for where `spawner` waits.
    ///
    /// # Errors
    ///
    /// The system refuses to watch one more.
    pub fn moved_to(self, spawner: &Spawner) -> io::Result<Self> {
        match self {
            Self::Tcp(Socket::Shared(socket, _)) => Self::accepted(socket.into_inner()?, spawner),
            other => Ok(other),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => socket.poll_write(context, |socket| send(socket, bytes)),
            Self::Unix(socket) => socket.poll_write(context, |socket| send(socket, bytes)),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // What was written is the kernel's.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = match self.get_mut() {
            Self::Tcp(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Tls(stream) => return Pin::new(stream.as_mut()).poll_close(context),
        };
        Poll::Ready(match ended {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            ended => ended,
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => socket.poll_write(context, |socket| send_all(socket, slices)),
            Self::Unix(socket) => socket.poll_write(context, |socket| send_all(socket, slices)),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }
}

fn send(socket: &impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)
}

fn send_all(socket: &impl AsFd, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let mut none = SendAncillaryBuffer::new(&mut []);
    rustix::net::sendmsg(socket, slices, &mut none, SendFlags::NOSIGNAL)
}

/// Lets hyper start tasks on the process's executor.
#[derive(Clone, Debug)]
pub struct Exec(pub Spawner);

impl<F> Executor<F> for Exec
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future).detach();
    }
}

/// hyper's timer on smol's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

struct Alarm(smol::Timer);

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(drop)
    }
}

impl Sleep for Alarm {}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Alarm(smol::Timer::after(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Alarm(smol::Timer::at(deadline)))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Alarm>() {
            Some(mut alarm) => alarm.0.set_at(deadline),
            None => *sleep = self.sleep_until(deadline),
        }
    }
}
