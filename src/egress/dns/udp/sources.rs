//! The UDP sockets queries are sent from: a few for each upstream, used in random order and
//! replaced often, so that neither the source port nor the id of a query can be guessed.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::entropy::Entropy;
use super::super::mmsg::Outbox;
use super::super::socket::{self, SocketHook};
use super::super::upstream::{Server, Set};

/// Sockets of one upstream in use at the same time.
const SPREAD: usize = 4;

/// Queries sent from one socket before it is replaced.
const MAX_USES: u32 = 1024;

/// How long one socket is used before it is replaced.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Sockets open at the same time, replaced ones that still wait for answers included. Where the
/// bound is reached, sockets live longer.
const MAX_SOCKETS: usize = 128;

/// One socket.
pub struct Source {
    /// Connected to the server.
    pub socket: UdpSocket,
    /// Whom it is connected to.
    pub server: Arc<Server>,
    /// Queries to be sent at the end of this round.
    pub outbox: Outbox,
    opened: Instant,
    uses: u32,
    /// Requests whose answer would arrive here.
    waiting: u32,
    /// Replaced: closed as soon as nothing waits.
    retired: bool,
}

/// The sockets of one upstream.
struct Pool {
    server: Arc<Server>,
    current: [Option<u32>; SPREAD],
    /// The socket of this round: queries that arrive together leave with one system call.
    chosen: Option<u32>,
}

/// All sockets.
pub struct Sources {
    hook: SocketHook,
    sockets: Vec<Option<Source>>,
    open: usize,
    pools: Vec<Pool>,
    /// Sockets with something in their outbox.
    filled: Vec<u32>,
}

impl Sources {
    /// No sockets yet; `hook` is called for each that is opened.
    #[must_use]
    pub fn new(hook: SocketHook) -> Self {
        Self {
            hook,
            sockets: Vec::new(),
            open: 0,
            pools: Vec::new(),
            filled: Vec::new(),
        }
    }

    /// The socket with this number.
    pub fn get(&self, number: u32) -> Option<&Source> {
        self.sockets.get(number as usize)?.as_ref()
    }

    /// Every open socket with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Source)> {
        let numbered = (0_u32..).zip(&self.sockets);
        numbered.filter_map(|(number, source)| Some((number, source.as_ref()?)))
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Source> {
        self.sockets.get_mut(number as usize)?.as_mut()
    }

    /// A socket towards `server`, the same until [`Sources::flush`].
    ///
    /// # Errors
    ///
    /// None could be opened.
    pub fn choose(
        &mut self,
        server: &Arc<Server>,
        entropy: &mut Entropy,
        now: Instant,
    ) -> io::Result<u32> {
        let known = self
            .pools
            .iter()
            .position(|pool| Arc::ptr_eq(&pool.server, server));
        let position = known.unwrap_or_else(|| {
            self.pools.push(Pool {
                server: Arc::clone(server),
                current: [None; SPREAD],
                chosen: None,
            });
            self.pools.len() - 1
        });
        let Some(pool) = self.pools.get(position) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Some(chosen) = pool.chosen {
            return Ok(chosen);
        }
        let turn = usize::from(entropy.next()?) % SPREAD;
        let current = pool.current.get(turn).copied().flatten();
        let worn = |source: &Source| {
            source.uses >= MAX_USES || now.saturating_duration_since(source.opened) >= MAX_AGE
        };
        let usable = current.filter(|number| {
            self.open >= MAX_SOCKETS || self.get(*number).is_some_and(|source| !worn(source))
        });
        let chosen = match usable {
            Some(number) => number,
            None => {
                let number = self.open(server, now)?;
                if let Some(old) = current {
                    self.retire(old);
                }
                number
            }
        };
        if let Some(pool) = self.pools.get_mut(position) {
            pool.chosen = Some(chosen);
            if let Some(slot) = pool.current.get_mut(turn) {
                *slot = Some(chosen);
            }
        }
        Ok(chosen)
    }

    fn open(&mut self, server: &Arc<Server>, now: Instant) -> io::Result<u32> {
        if self.open >= MAX_SOCKETS {
            return Err(io::Error::other("too many sockets wait for upstreams"));
        }
        let socket = socket::datagrams_to(server, &self.hook)?;
        let free = self.sockets.iter().position(Option::is_none);
        let number = free.unwrap_or(self.sockets.len());
        let number = u32::try_from(number).map_err(io::Error::other)?;
        let source = Source {
            socket,
            server: Arc::clone(server),
            outbox: Outbox::default(),
            opened: now,
            uses: 0,
            waiting: 0,
            retired: false,
        };
        match self.sockets.get_mut(number as usize) {
            Some(slot) => *slot = Some(source),
            None => self.sockets.push(Some(source)),
        }
        self.open += 1;
        Ok(number)
    }

    /// Queues a request on a socket; its answer is waited for until [`Sources::release`].
    pub fn push(&mut self, number: u32, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(source) = self
            .sockets
            .get_mut(number as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        if source.outbox.is_empty() {
            self.filled.push(number);
        }
        source.outbox.push(None, tag, write);
        source.uses += 1;
        source.waiting += 1;
    }

    /// One answer less is waited for.
    pub fn release(&mut self, number: u32) {
        if let Some(source) = self.get_mut(number) {
            source.waiting = source.waiting.saturating_sub(1);
            self.close_if_done(number);
        }
    }

    fn retire(&mut self, number: u32) {
        if let Some(source) = self.get_mut(number) {
            source.retired = true;
            self.close_if_done(number);
        }
    }

    fn close_if_done(&mut self, number: u32) {
        let done =
            |source: &Source| source.retired && source.waiting == 0 && source.outbox.is_empty();
        if self.get(number).is_some_and(done)
            && let Some(slot) = self.sockets.get_mut(number as usize)
        {
            *slot = None;
            self.open -= 1;
        }
    }

    /// Sends what was queued and ends the round; `failed` receives the tags of requests that could
    /// not be sent.
    pub fn flush(&mut self, failed: &mut Vec<(u64, io::Error)>) {
        let mut filled = std::mem::take(&mut self.filled);
        for number in filled.drain(..) {
            if let Some(source) = self.get_mut(number) {
                let socket = source.socket.as_fd();
                source
                    .outbox
                    .flush(socket, |tag, error| failed.push((tag, error)));
                self.close_if_done(number);
            }
        }
        self.filled = filled;
        for pool in &mut self.pools {
            pool.chosen = None;
        }
    }

    /// Retires the sockets of servers that are not in `set` any more.
    pub fn keep(&mut self, set: &Set) {
        let in_set = |pool: &mut Pool| {
            let mut servers = set.servers().iter();
            !servers.any(|server| Arc::ptr_eq(server, &pool.server))
        };
        let gone: Vec<_> = self.pools.extract_if(.., in_set).collect();
        for number in gone.iter().flat_map(|pool| pool.current).flatten() {
            self.retire(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sources() -> Sources {
        Sources::new(Arc::new(|_| Ok(())))
    }

    fn server() -> (UdpSocket, Arc<Server>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Server::new(socket.local_addr().unwrap(), false);
        (socket, Arc::new(server))
    }

    #[test]
    fn source_ports_change_with_rounds_uses_and_time() {
        let (upstream, server) = server();
        let mut sources = sources();
        let mut entropy = Entropy::new();
        let start = Instant::now();
        let mut ports = HashSet::new();
        let mut failed = Vec::new();
        for round in 0..100_u32 {
            let now = start + MAX_AGE * round;
            let number = sources.choose(&server, &mut entropy, now).unwrap();
            assert_eq!(sources.choose(&server, &mut entropy, now).unwrap(), number);
            sources.push(number, 0, |out| out.push(0));
            sources.flush(&mut failed);
            sources.release(number);
            ports.insert(upstream.recv_from(&mut [0; 9]).unwrap().1.port());
            assert!(sources.open <= SPREAD);
        }
        assert!(failed.is_empty(), "{failed:?}");
        assert!(ports.len() > 50, "{}", ports.len());
    }

    #[test]
    fn a_replaced_socket_stays_open_while_an_answer_is_due() {
        let (_upstream, server) = server();
        let mut sources = sources();
        let mut entropy = Entropy::new();
        let now = Instant::now();
        let number = sources.choose(&server, &mut entropy, now).unwrap();
        sources.push(number, 0, |out| out.push(0));
        sources.flush(&mut Vec::new());
        sources.keep(&Set::default());
        assert!(sources.get(number).is_some());
        sources.release(number);
        assert!(sources.get(number).is_none());
        assert_eq!(sources.open, 0);
    }

    #[test]
    fn the_number_of_sockets_is_bounded() {
        let (_upstream, server) = server();
        let mut sources = sources();
        let mut entropy = Entropy::new();
        let start = Instant::now();
        for round in 0..1000_u32 {
            let number = sources
                .choose(&server, &mut entropy, start + MAX_AGE * round)
                .unwrap();
            sources.push(number, 0, |out| out.push(0));
            sources.flush(&mut Vec::new());
        }
        assert_eq!(sources.open, MAX_SOCKETS);
    }

    #[test]
    fn a_hook_that_fails_is_an_error() {
        let (_upstream, server) = server();
        let hook: SocketHook = Arc::new(|_| Err(io::ErrorKind::PermissionDenied.into()));
        let mut sources = Sources::new(hook);
        let error = sources.choose(&server, &mut Entropy::new(), Instant::now());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
