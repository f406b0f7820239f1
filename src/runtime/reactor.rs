//! A reactor of one thread: what a core of the proxy waits on.
//!
//! smol's reactor is one for the process: each wait is armed by a system call and may end on
//! another thread, which then has to wake the right one. Here a socket is registered once,
//! edge-triggered, with the thread that serves it, and that thread waits for it. Timers, and
//! sockets that are not moved here, stay with smol's. Owns waiting; never reads or writes.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// The most events taken from the kernel at once.
const EVENTS: usize = 256;

/// The number of the descriptor that ends a wait from outside.
const NOTICE: u64 = u64::MAX;

/// Waits for the sockets of one thread.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: OwnedFd,
    notice: Arc<Notice>,
    sources: Mutex<Sources>,
}

/// The registered sockets, by number; a number is used again when its socket is gone.
#[derive(Debug, Default)]
struct Sources {
    slots: Vec<Option<Arc<Source>>>,
    free: Vec<usize>,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct Source {
    read: Direction,
    write: Direction,
    /// Whether the peer has ended its side, or the connection failed. There will be no other event
    /// of it, so reading goes on until it has been read.
    has_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Direction {
    /// How often it has become ready.
    ticks: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Direction {
    /// Notes that it has become ready; returns whom to wake.
    fn tick(&self) -> Option<Waker> {
        self.ticks.fetch_add(1, Ordering::Release);
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        waker.take()
    }

    /// Ready if something has happened since `seen` ticks.
    fn poll(&self, seen: u64, context: &Context<'_>) -> Poll<()> {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ticks.load(Ordering::Acquire) != seen {
            return Poll::Ready(());
        }
        let is_known = waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()));
        if !is_known {
            let former = waker.replace(context.waker().clone());
            // Whatever goes with it goes when nothing is locked.
            drop(waker);
            drop(former);
        }
        Poll::Pending
    }
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let notice = Notice {
            is_set: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &notice.event, EventData::new_u64(NOTICE), flags)?;
        Ok(Self {
            epoll,
            notice: Arc::new(notice),
            sources: Mutex::default(),
        })
    }

    /// Runs `future`, waiting for the registered sockets whenever it is not to be polled.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let waker = Waker::from(self.notice.clone());
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut events = Vec::with_capacity(EVENTS);
        let mut wakers = Vec::with_capacity(EVENTS);
        loop {
            self.notice.is_set.store(false, Ordering::SeqCst);
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            self.wait(&mut events, &mut wakers);
        }
    }

    /// Takes what has happened; waits for it if the future is not to be polled anyway.
    fn wait(&self, events: &mut Vec<epoll::Event>, wakers: &mut Vec<Waker>) {
        let notice = &self.notice;
        notice.is_waiting.store(true, Ordering::SeqCst);
        let at_once = rustix::event::Timespec::default();
        let timeout = notice.is_set.load(Ordering::SeqCst).then_some(&at_once);
        events.clear();
        let waited = epoll::wait(&self.epoll, spare_capacity(events), timeout);
        notice.is_waiting.store(false, Ordering::SeqCst);
        if waited.is_err() {
            // Interrupted; there is no other reason once the descriptor exists.
            return;
        }
        self.note(events, wakers);
        // Not before the sources are unlocked: who is woken may be dropped, and its sockets with it.
        wakers.drain(..).for_each(Waker::wake);
    }

    /// Notes what has happened, and whom to wake.
    fn note(&self, events: &[epoll::Event], wakers: &mut Vec<Waker>) {
        let sources = self.sources();
        for event in events {
            let (flags, data) = (event.flags, event.data);
            if data.u64() == NOTICE {
                self.notice.clear();
                continue;
            }
            let number = usize::try_from(data.u64()).unwrap_or(usize::MAX);
            let Some(Some(source)) = sources.slots.get(number) else {
                continue;
            };
            let ended = EventFlags::ERR | EventFlags::HUP;
            if flags.intersects(EventFlags::RDHUP | ended) {
                // Before the tick that tells of it.
                source.has_ended.store(true, Ordering::Release);
            }
            if flags.intersects(EventFlags::IN | EventFlags::RDHUP | ended) {
                wakers.extend(source.read.tick());
            }
            if flags.intersects(EventFlags::OUT | ended) {
                wakers.extend(source.write.tick());
            }
        }
    }

    fn add(&self, socket: &impl AsFd) -> io::Result<(usize, Arc<Source>)> {
        let source = Arc::<Source>::default();
        let number = {
            let mut sources = self.sources();
            let number = sources.free.pop().unwrap_or(sources.slots.len());
            if number == sources.slots.len() {
                sources.slots.push(None);
            }
            if let Some(slot) = sources.slots.get_mut(number) {
                *slot = Some(source.clone());
            }
            number
        };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(number as u64);
        if let Err(error) = epoll::add(&self.epoll, socket, data, flags) {
            self.remove(number);
            return Err(error.into());
        }
        Ok((number, source))
    }

    fn remove(&self, number: usize) {
        let mut sources = self.sources();
        if let Some(slot) = sources.slots.get_mut(number) {
            *slot = None;
            sources.free.push(number);
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the future of a thread is to be polled, and ends the thread's wait if need be.
#[derive(Debug)]
struct Notice {
    is_set: AtomicBool,
    is_waiting: AtomicBool,
    event: OwnedFd,
}

impl Notice {
    fn clear(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either the wait sees that it is set, or this sees that it has begun.
        if !self.is_set.swap(true, Ordering::SeqCst) && self.is_waiting.load(Ordering::SeqCst) {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

/// A non-blocking socket that one thread waits for.
pub struct Registered<S: AsFd> {
    socket: S,
    reactor: Arc<Reactor>,
    number: usize,
    source: Arc<Source>,
    /// The ticks after which there was nothing left to read, and no room to write.
    read: u64,
    written: u64,
}

impl<S: AsFd> fmt::Debug for Registered<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Registered")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl<S: AsFd> Registered<S> {
    pub(super) fn new(reactor: &Arc<Reactor>, socket: S) -> io::Result<Self> {
        let (number, source) = reactor.add(&socket)?;
        Ok(Self {
            socket,
            reactor: reactor.clone(),
            number,
            source,
            // Unknown, so tried.
            read: u64::MAX,
            written: u64::MAX,
        })
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Ready when there may be something to read.
    pub fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.source.read.poll(self.read, context)
    }

    /// Reads with `read`, which says how much there was and whether that was all. Waits while there
    /// is nothing.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn poll_read(
        &mut self,
        context: &Context<'_>,
        mut read: impl FnMut(&S) -> Result<(usize, bool), Errno>,
    ) -> Poll<io::Result<usize>> {
        let direction = &self.source.read;
        loop {
            let ticks = direction.ticks.load(Ordering::Acquire);
            if ticks == self.read && direction.poll(ticks, context).is_pending() {
                return Poll::Pending;
            }
            match read(&self.socket) {
                Ok((count, was_all)) => {
                    if was_all && !self.source.has_ended.load(Ordering::Acquire) {
                        self.read = ticks;
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN) => self.read = ticks,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes with `write`. Waits while there is no room.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn poll_write(
        &mut self,
        context: &Context<'_>,
        mut write: impl FnMut(&S) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        let direction = &self.source.write;
        loop {
            let ticks = direction.ticks.load(Ordering::Acquire);
            if ticks == self.written && direction.poll(ticks, context).is_pending() {
                return Poll::Pending;
            }
            match write(&self.socket) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => self.written = ticks,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl<S: AsFd> Drop for Registered<S> {
    fn drop(&mut self) {
        // Before the number is used again, so that no event of this socket is taken for another's.
        let _ = epoll::delete(&self.reactor.epoll, &self.socket);
        self.reactor.remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn registered(reactor: &Arc<Reactor>) -> (UnixStream, Registered<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, Registered::new(reactor, theirs).unwrap())
    }

    /// What the next read gives, with a buffer of `size`.
    async fn read(socket: &mut Registered<UnixStream>, size: usize) -> Vec<u8> {
        let mut buffer = vec![0; size];
        let count = std::future::poll_fn(|context| {
            socket.poll_read(context, |socket| {
                let count = rustix::io::read(socket, &mut buffer)?;
                Ok((count, count < size))
            })
        });
        let count = count.await.unwrap();
        buffer.truncate(count);
        buffer
    }

    #[test]
    fn what_comes_later_wakes_the_thread() {
        let reactor = Arc::new(Reactor::new().unwrap());
        let (mut ours, mut theirs) = registered(&reactor);
        let writing = std::thread::spawn(move || {
            for piece in [b"one", b"two"] {
                std::thread::sleep(Duration::from_millis(20));
                ours.write_all(piece).unwrap();
            }
        });
        reactor.block_on(async {
            assert_eq!(read(&mut theirs, 10).await, b"one");
            assert_eq!(read(&mut theirs, 10).await, b"two");
            assert_eq!(read(&mut theirs, 10).await, b"");
        });
        writing.join().unwrap();
    }

    #[test]
    fn an_end_that_came_with_the_last_bytes_is_seen() {
        let reactor = Arc::new(Reactor::new().unwrap());
        let (mut ours, mut theirs) = registered(&reactor);
        ours.write_all(b"last").unwrap();
        drop(ours);
        reactor.block_on(async {
            assert_eq!(read(&mut theirs, 3).await, b"las");
            assert_eq!(read(&mut theirs, 3).await, b"t");
            assert_eq!(read(&mut theirs, 3).await, b"");
        });
    }

    #[test]
    fn a_full_socket_is_written_when_there_is_room() {
        let reactor = Arc::new(Reactor::new().unwrap());
        let (ours, mut theirs) = registered(&reactor);
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut ours = ours;
            let mut received = Vec::new();
            std::io::Read::read_to_end(&mut ours, &mut received).unwrap();
            received.len()
        });
        let total = 4 * 1024 * 1024;
        reactor.block_on(async {
            let mut left = vec![b'x'; total];
            while !left.is_empty() {
                let count = std::future::poll_fn(|context| {
                    theirs.poll_write(context, |socket| rustix::io::write(socket, &left))
                });
                let count = count.await.unwrap();
                left.drain(..count);
            }
        });
        drop(theirs);
        assert_eq!(reading.join().unwrap(), total);
    }

    #[test]
    fn others_can_wake_the_thread() {
        let reactor = Reactor::new().unwrap();
        let (sender, receiver) = smol::channel::bounded(1);
        let sending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            sender.try_send(7).unwrap();
        });
        assert_eq!(reactor.block_on(receiver.recv()), Ok(7));
        // Timers are smol's.
        reactor.block_on(smol::Timer::after(Duration::from_millis(20)));
        sending.join().unwrap();
    }

    #[test]
    fn numbers_are_used_again() {
        let reactor = Arc::new(Reactor::new().unwrap());
        let (_first, registered_first) = registered(&reactor);
        let number = registered_first.number;
        drop(registered_first);
        let (_second, registered_second) = registered(&reactor);
        assert_eq!(registered_second.number, number);
    }
}
