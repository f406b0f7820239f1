//! Bytes both ways between two connections whose protocol has changed.
//!
//! Owns back-pressure, half-closing, counting, and the end. An idle tunnel holds no buffer: what is
//! read is written at once, and only what the other side does not take is kept. Never interprets
//! what passes, except that it knows where WebSocket frames end, so that it can say goodbye between
//! two of them.

mod frames;

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBuf, Write};
use smol::Timer;
use smol::future::FutureExt;

use frames::Frames;

/// The most bytes read at once, and so the most that is kept of a direction whose reader is slow.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// How often one direction may copy before the rest of the process gets its turn.
const TURNS: usize = 16;

/// How long the goodbye may take: the close frames, and the other side's end of the stream.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);

/// What passed so far; may be looked at while the tunnel runs.
#[derive(Debug, Default)]
pub struct Traffic {
    to_client: AtomicU64,
    to_backend: AtomicU64,
}

impl Traffic {
    /// Bytes read from the backend.
    #[must_use]
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    /// Bytes read from the client.
    #[must_use]
    pub fn to_backend(&self) -> u64 {
        self.to_backend.load(Ordering::Relaxed)
    }

    fn total(&self) -> u64 {
        self.to_client().wrapping_add(self.to_backend())
    }
}

/// How a tunnel treats its ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether WebSocket frames pass: an end that is asked for is then announced to both sides with
    /// close code 1001 (going away), if the stream towards them is between two frames.
    pub websocket: bool,
    /// How long nothing may pass in either direction; none for any time.
    pub idle: Option<Duration>,
}

/// Why a tunnel is over.
#[derive(Debug)]
pub enum End {
    /// Both sides have finished.
    Finished,
    /// Reading from or writing to the client failed.
    Client(io::Error),
    /// Reading from or writing to the backend failed.
    Backend(io::Error),
    /// Nothing passed for too long.
    Idle,
    /// It was asked to end.
    Asked,
}

/// Copies until both sides have finished, one of them fails, nothing passes for too long, or
/// `asked` completes. Both connections are closed then.
pub async fn run<C, B>(
    mut client: C,
    mut backend: B,
    options: Options,
    traffic: &Traffic,
    asked: impl Future<Output = ()>,
) -> End
where
    C: Read + Write + Unpin,
    B: Read + Write + Unpin,
{
    let mut up = Direction::new(options.websocket);
    let mut down = Direction::new(options.websocket);
    let copying =
        poll_fn(|context| {
            let upward = up.poll(context, &mut client, &mut backend, &traffic.to_backend);
            let downward = down.poll(context, &mut backend, &mut client, &traffic.to_client);
            match (upward, downward) {
                (Poll::Ready(Err(Side::From(error))), _)
                | (_, Poll::Ready(Err(Side::To(error)))) => Poll::Ready(End::Client(error)),
                (Poll::Ready(Err(Side::To(error))), _)
                | (_, Poll::Ready(Err(Side::From(error)))) => Poll::Ready(End::Backend(error)),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
                _ => Poll::Pending,
            }
        });
    let idle = silence(options.idle, traffic);
    let asked = async {
        asked.await;
        End::Asked
    };
    let end = copying.or(asked).or(idle).await;
    if matches!(end, End::Asked | End::Idle) {
        let goodbye = async {
            let to_client = down.goodbye(&mut client, &frames::GOING_AWAY);
            let to_backend = up.goodbye(&mut backend, &frames::GOING_AWAY_MASKED);
            smol::future::zip(to_client, to_backend).await;
        };
        let late = async {
            Timer::after(CLOSE_TIME).await;
        };
        goodbye.or(late).await;
    }
    end
}

/// Completes when nothing has passed for `limit`.
async fn silence(limit: Option<Duration>, traffic: &Traffic) -> End {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut seen = traffic.total();
    loop {
        Timer::after(limit).await;
        let now = traffic.total();
        if now == seen {
            return End::Idle;
        }
        seen = now;
    }
}

/// The side of a direction that failed.
enum Side {
    From(io::Error),
    To(io::Error),
}

/// One of the two directions.
#[derive(Debug)]
struct Direction {
    /// Read, and not yet taken by the other side.
    kept: BytesMut,
    /// Written, and perhaps still in a buffer of the writer.
    is_unflushed: bool,
    state: State,
    frames: Option<Frames>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Copying,
    /// There is nothing more to read.
    Finishing,
    Finished,
}

impl Direction {
    fn new(websocket: bool) -> Self {
        Self {
            kept: BytesMut::new(),
            is_unflushed: false,
            state: State::Copying,
            frames: websocket.then(Frames::default),
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut (impl Read + Unpin),
        to: &mut (impl Write + Unpin),
        count: &AtomicU64,
    ) -> Poll<Result<(), Side>> {
        for _ in 0..TURNS {
            if !self.kept.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, &self.kept));
                self.wrote(written.map_err(Side::To)?)?;
                continue;
            }
            match self.state {
                State::Finished => return Poll::Ready(Ok(())),
                State::Finishing => {
                    // Shutting down flushes. A peer that is gone already has had its end.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(context));
                    self.state = State::Finished;
                    continue;
                }
                State::Copying => {}
            }
            let mut space = [MaybeUninit::uninit(); CHUNK_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(context, buffer.unfilled()) {
                Poll::Ready(result) => result.map_err(Side::From)?,
                Poll::Pending => {
                    if self.is_unflushed {
                        let flushed = ready!(Pin::new(&mut *to).poll_flush(context));
                        flushed.map_err(Side::To)?;
                        self.is_unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.state = State::Finishing;
                continue;
            }
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if let Some(frames) = &mut self.frames {
                frames.advance(bytes);
            }
            self.is_unflushed = true;
            let written = match Pin::new(&mut *to).poll_write(context, bytes) {
                Poll::Ready(written) => written.map_err(Side::To)?,
                Poll::Pending => 0,
            };
            if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                self.kept.extend_from_slice(rest);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn wrote(&mut self, count: usize) -> Result<(), Side> {
        if count == 0 {
            return Err(Side::To(io::ErrorKind::WriteZero.into()));
        }
        self.kept.advance(count);
        self.is_unflushed = true;
        if self.kept.is_empty() {
            // An idle tunnel keeps no memory.
            self.kept = BytesMut::new();
        }
        Ok(())
    }

    /// Ends the stream towards `peer`, with `close` if that can be read there, and waits until it
    /// has ended its own.
    async fn goodbye(&mut self, peer: &mut (impl Read + Write + Unpin), close: &[u8]) {
        if self.state == State::Finished {
            return;
        }
        let is_between = self.kept.is_empty()
            && self.state == State::Copying
            && self.frames.as_ref().is_some_and(Frames::is_between);
        let mut peer = pin!(peer);
        let mut close = if is_between { close } else { &[] };
        let said = poll_fn(|context| {
            while !close.is_empty() {
                let count = ready!(peer.as_mut().poll_write(context, close))?;
                close = close.get(count.max(1)..).unwrap_or_default();
            }
            peer.as_mut().poll_shutdown(context)
        });
        if said.await.is_err() {
            return;
        }
        // Closing with something unread would reset the connection, and the goodbye with it.
        poll_fn(|context| {
            let mut space = [MaybeUninit::uninit(); 4096];
            loop {
                let mut buffer = ReadBuf::uninit(&mut space);
                let read = ready!(peer.as_mut().poll_read(context, buffer.unfilled()));
                if read.is_err() || buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::io::Stream;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use smol::{Async, Task};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn pair() -> (Async<UnixStream>, Stream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (
            Async::new(ours).unwrap(),
            Stream::unix(Async::new(theirs).unwrap()),
        )
    }

    struct Scene {
        client: Async<UnixStream>,
        backend: Async<UnixStream>,
        traffic: Arc<Traffic>,
        end: smol::channel::Sender<()>,
        running: Task<End>,
    }

    fn tunnel(options: Options) -> Scene {
        let (client, left) = pair();
        let (backend, right) = pair();
        let traffic = Arc::new(Traffic::default());
        let (end, asked) = smol::channel::bounded::<()>(1);
        let running = smol::spawn({
            let traffic = traffic.clone();
            async move {
                let asked = async {
                    let _ = asked.recv().await;
                };
                run(left, right, options, &traffic, asked).await
            }
        });
        Scene {
            client,
            backend,
            traffic,
            end,
            running,
        }
    }

    #[test]
    fn one_side_may_finish_before_the_other() {
        smol::block_on(async {
            let mut scene = tunnel(Options::default());
            scene.client.write_all(b"question").await.unwrap();
            scene.client.get_ref().shutdown(Shutdown::Write).unwrap();
            let mut asked = Vec::new();
            scene.backend.read_to_end(&mut asked).await.unwrap();
            assert_eq!(asked, b"question");
            scene.backend.write_all(b"answer, later").await.unwrap();
            scene.backend.get_ref().shutdown(Shutdown::Write).unwrap();
            let mut answered = Vec::new();
            scene.client.read_to_end(&mut answered).await.unwrap();
            assert_eq!(answered, b"answer, later");
            assert!(matches!(scene.running.await, End::Finished));
            assert_eq!(scene.traffic.to_backend(), 8);
            assert_eq!(scene.traffic.to_client(), 13);
        });
    }

    #[test]
    fn a_slow_reader_slows_the_writer_and_gets_every_byte() {
        smol::block_on(async {
            let Scene {
                mut client,
                mut backend,
                traffic,
                running,
                end: _end,
            } = tunnel(Options::default());
            let sent: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
            let expected = sent.clone();
            let writing = smol::spawn(async move {
                client.write_all(&sent).await.unwrap();
                client.get_ref().shutdown(Shutdown::Write).unwrap();
                client
            });
            // Until the backend reads, the tunnel takes no more than the sockets and a chunk hold.
            let mut before = u64::MAX;
            while before != traffic.to_backend() {
                before = traffic.to_backend();
                Timer::after(Duration::from_millis(100)).await;
            }
            assert!(before < 4 * 1024 * 1024, "{before}");
            let mut received = Vec::new();
            backend.read_to_end(&mut received).await.unwrap();
            assert!(received == expected);
            backend.get_ref().shutdown(Shutdown::Write).unwrap();
            writing.await;
            assert!(matches!(running.await, End::Finished));
        });
    }

    #[test]
    fn an_end_that_is_asked_for_is_announced_between_frames() {
        smol::block_on(async {
            let mut scene = tunnel(Options {
                websocket: true,
                idle: None,
            });
            // A whole frame to the client, half a frame to the backend.
            scene.backend.write_all(b"\x81\x02hi").await.unwrap();
            scene.client.write_all(b"\x81\x84mask").await.unwrap();
            let mut frame = [0; 4];
            scene.client.read_exact(&mut frame).await.unwrap();
            let mut half = [0; 6];
            scene.backend.read_exact(&mut half).await.unwrap();
            scene.end.send(()).await.unwrap();
            let mut rest = Vec::new();
            scene.client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, frames::GOING_AWAY);
            rest.clear();
            scene.backend.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"");
            drop((scene.client, scene.backend));
            assert!(matches!(scene.running.await, End::Asked));
        });
    }

    #[test]
    fn silence_ends_a_tunnel_that_has_a_limit() {
        smol::block_on(async {
            let mut scene = tunnel(Options {
                websocket: false,
                idle: Some(Duration::from_millis(50)),
            });
            let mut rest = Vec::new();
            scene.client.read_to_end(&mut rest).await.unwrap();
            drop((scene.client, scene.backend));
            assert!(matches!(scene.running.await, End::Idle));
        });
    }
}
