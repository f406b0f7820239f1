//! What a process writes, from its pipes to whoever wants it.
//!
//! Owns the reading ends. Reads only as fast as the [`Sink`] takes, so a slow client slows the
//! process down instead of filling memory; a client that is gone slows nobody. Never closes a pipe
//! that something may still write to: see [`Pipes::follow`].

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::pipe::PipeFlags;
use smol::Async;
use smol::channel::Receiver;

/// The size of a first read, in bytes.
const SMALL_READ: usize = 4 * 1024;

/// The size of a read once a pipe has shown that it has that much: a whole default pipe.
const LARGE_READ: usize = 64 * 1024;

/// The most bytes that are between a terminal's processes and its reader: 64 KiB written and not
/// yet processed (`tty_buffer.c`), and 4 KiB processed (`n_tty.c`), with room to spare.
const TERMINAL_BUFFERS: usize = 128 * 1024;

/// Where bytes were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a process writes.
pub(super) trait Sink: Send {
    /// Takes some bytes; the next read waits for it.
    fn take(&mut self, stream: Stream, bytes: Bytes) -> impl Future<Output = ()> + Send;
}

/// A pipe: what the daemon reads, and what a child is given.
pub(super) fn pipe() -> io::Result<(Async<OwnedFd>, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Async::new(read)?, write))
}

struct Source {
    stream: Stream,
    pipe: Async<OwnedFd>,
    read_size: usize,
    terminal: bool,
}

impl Source {
    /// Completes with the next bytes; none at the end of the stream.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            match self.read(self.read_size) {
                Ok(bytes) => return Poll::Ready(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A terminal without processes has an error for an end; a pipe has none.
                Err(_) => return Poll::Ready(Bytes::new()),
            }
            match self.pipe.poll_readable(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Bytes::new()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn read(&mut self, limit: usize) -> io::Result<Bytes> {
        let mut buffer = Vec::with_capacity(limit);
        let read = loop {
            match rustix::io::read(self.pipe.get_ref(), spare_capacity(&mut buffer)) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        if read == limit && limit >= SMALL_READ {
            self.read_size = LARGE_READ;
        }
        // A few bytes do not hold on to a large buffer.
        Ok(if read < limit / 2 {
            Bytes::copy_from_slice(&buffer)
        } else {
            buffer.into()
        })
    }

    /// How many bytes can be read at once.
    fn available(&self) -> usize {
        if self.terminal {
            // The kernel moves a terminal's output between two buffers in its own time, and counts
            // only what has arrived. A read does wait for what is on its way.
            return TERMINAL_BUFFERS;
        }
        rustix::io::ioctl_fionread(self.pipe.get_ref())
            .ok()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(0)
    }
}

/// The pipes of one process.
pub(super) struct Pipes {
    sources: Vec<Source>,
    /// Which is asked first; the others come first next time, so that none is starved.
    first: usize,
}

impl Pipes {
    pub(super) fn new(pipes: impl IntoIterator<Item = (Stream, Async<OwnedFd>)>) -> Self {
        let sources = pipes
            .into_iter()
            .map(|(stream, pipe)| Source {
                stream,
                pipe,
                read_size: SMALL_READ,
                terminal: false,
            })
            .collect();
        Self { sources, first: 0 }
    }

    /// The reader's side of a terminal, as if it were a pipe.
    pub(super) fn of_terminal(terminal: Async<OwnedFd>) -> Self {
        let mut pipes = Self::new([(Stream::Stdout, terminal)]);
        for source in &mut pipes.sources {
            source.terminal = true;
        }
        pipes
    }

    /// Hands on what is written, in order of arrival, until `ended` is closed; then what had been
    /// written by then, and no more. Bytes that others write later are left for
    /// [`follow`](Self::follow).
    pub(super) async fn until(&mut self, ended: &Receiver<()>, sink: &mut impl Sink) {
        let mut end = std::pin::pin!(ended.recv());
        loop {
            let next = poll_fn(|context| {
                if let Poll::Ready(read) = self.poll_any(context) {
                    return Poll::Ready(Some(read));
                }
                end.as_mut().poll(context).map(|_| None)
            });
            match next.await {
                Some((_, bytes)) if bytes.is_empty() => {}
                Some((stream, bytes)) => sink.take(stream, bytes).await,
                None => break,
            }
            // A process that has left others writing behind would never be seen to end.
            if ended.is_closed() {
                break;
            }
        }
        self.flush(sink).await;
    }

    /// Hands on what can be read now.
    async fn flush(&mut self, sink: &mut impl Sink) {
        let mut index = 0;
        while let Some(source) = self.sources.get_mut(index) {
            // One read more than there are bytes shows the end, where it is one.
            let mut left = source.available();
            let at_end = loop {
                match source.read(left.clamp(1, LARGE_READ)) {
                    Ok(bytes) if bytes.is_empty() => break true,
                    Ok(bytes) => {
                        left = left.saturating_sub(bytes.len());
                        sink.take(source.stream, bytes).await;
                    }
                    Err(_) => break false,
                }
                // Others still write: they are never caught up with.
                if left == 0 && source.available() > 0 {
                    break false;
                }
            };
            if at_end {
                self.sources.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Whether nobody can write any more, as far as has been seen.
    pub(super) fn at_end(&self) -> bool {
        self.sources.is_empty()
    }

    /// Hands on what is written until nobody can write any more. A process that has outlived its
    /// shell would be killed by `SIGPIPE`, or block, were its pipe closed or left full.
    pub(super) async fn follow(mut self, mut sink: impl Sink) {
        while !self.sources.is_empty() {
            let (stream, bytes) = poll_fn(|context| self.poll_any(context)).await;
            if !bytes.is_empty() {
                sink.take(stream, bytes).await;
            }
        }
    }

    /// Completes with bytes of any pipe; with none when one has come to its end.
    fn poll_any(&mut self, context: &mut Context<'_>) -> Poll<(Stream, Bytes)> {
        let count = self.sources.len();
        for turn in 0..count {
            let index = (self.first + turn) % count;
            let Some(source) = self.sources.get_mut(index) else {
                continue;
            };
            if let Poll::Ready(bytes) = source.poll_read(context) {
                let stream = source.stream;
                self.first = index + 1;
                if bytes.is_empty() {
                    self.sources.remove(index);
                }
                return Poll::Ready((stream, bytes));
            }
        }
        Poll::Pending
    }
}

/// Takes everything and keeps nothing.
pub(super) struct Discard;

impl Sink for Discard {
    async fn take(&mut self, _: Stream, _: Bytes) {}
}
