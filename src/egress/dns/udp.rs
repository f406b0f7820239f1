//! The UDP path: one plain thread that waits in `poll`, receives and sends in batches, and owns
//! everything it touches.
//!
//! Never blocks besides that wait, takes no lock, and allocates nothing for a query it relays once
//! its buffers have grown. What the policy says is asked of the snapshot twice: when a query
//! arrives and when its answer does.

mod sources;
mod table;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use slog::error;

use self::sources::Sources;
use self::table::{Arrival, Client, Request, Table, Ticket};
use super::Shared;
use super::entropy::Entropy;
use super::mmsg::{BATCH, Inbox, Outbox};
use super::upstream::{Server, Set, is_final};
use super::wire::answer::{self, Address, Echo};
use super::wire::query::{self, Query, Rejection};
use super::wire::reply::{self, ExtendedError};
use super::wire::{self, MAX_MESSAGE, rcode_text, rtype_text};
use crate::egress::events::{Denied, Dropped, Outbound, Refused};
use crate::egress::metrics::{DropReason, Outcome, Transport};
use crate::egress::policy::{Action, Verdict};

/// The largest query taken over UDP, in octets; a longer one gets FORMERR.
pub const MAX_QUERY: usize = 4096;

/// Batches taken from one socket before the others have their turn.
const MAX_BATCHES: usize = 4;

/// Pause before the thread goes on after a panic, so that one that repeats does not spin.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// What may have something to say.
#[derive(Clone, Copy)]
enum Voice {
    /// The socket towards an upstream with this number.
    Source(u32),
    /// The listener at this position.
    Listener(usize),
    Stop,
}

/// Asks the thread to end.
pub struct Stop {
    event: OwnedFd,
    /// Until when queries that wait may still be answered.
    until: OnceLock<Instant>,
}

impl Stop {
    /// Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// The system gives no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            until: OnceLock::new(),
        })
    }

    /// No new queries from now on; those that wait are answered until `until`.
    pub fn request(&self, until: Instant) {
        let _ = self.until.set(until);
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// Serves queries from `listeners` until `stop` asks for the end. A panic costs the queries that
/// were waiting, and is reported.
pub fn serve(shared: &Shared, listeners: &[UdpSocket], stop: &Stop) {
    loop {
        let run = || Worker::new(shared, listeners, stop).run();
        let logger = shared.observer.logger();
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(cause)) => error!(logger, "[dns] filter restarts: {cause}"),
            Err(_) => error!(logger, "[dns] filter panicked and restarts"),
        }
        if stop.until.get().is_some() {
            return;
        }
        std::thread::sleep(PANIC_PAUSE);
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    listeners: &'a [UdpSocket],
    stop: &'a Stop,
    /// No new queries are taken.
    draining: bool,
    /// Answers to clients, one queue for each listener.
    replies: Vec<Outbox>,
    sources: Sources,
    table: Table,
    entropy: Entropy,
    /// The servers the sockets were last compared with.
    set: Arc<Set>,
    /// Scratch space that keeps its size.
    polled: Vec<PollFd<'static>>,
    voices: Vec<Voice>,
    name: String,
    addresses: Vec<Address>,
    ips: Vec<std::net::IpAddr>,
    places: Vec<usize>,
    unsent: Vec<(u64, io::Error)>,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let lost = i64::try_from(self.table.len()).unwrap_or(i64::MAX);
        self.shared.observer.metrics.in_flight.add(-lost);
    }
}

/// Why a query ends without a good answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Every server failed.
    Exhausted,
    /// The time is over.
    TimedOut,
    /// The filter is.
    Stopped,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, listeners: &'a [UdpSocket], stop: &'a Stop) -> Self {
        Self {
            shared,
            listeners,
            stop,
            draining: false,
            replies: listeners.iter().map(|_| Outbox::default()).collect(),
            sources: Sources::new(Arc::clone(&shared.hooks.socket)),
            table: Table::new(shared.max_in_flight),
            entropy: Entropy::new(),
            set: Arc::default(),
            polled: Vec::new(),
            voices: Vec::new(),
            name: String::new(),
            addresses: Vec::new(),
            ips: Vec::new(),
            places: Vec::new(),
            unsent: Vec::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut queries = Inbox::new(MAX_QUERY);
        let mut answers = Inbox::new(MAX_MESSAGE);
        loop {
            self.wait()?;
            let mut voices = std::mem::take(&mut self.voices);
            for voice in voices.drain(..) {
                match voice {
                    Voice::Source(number) => self.receive_answers(number, &mut answers),
                    Voice::Listener(position) => self.receive_queries(position, &mut queries),
                    Voice::Stop => self.draining = true,
                }
            }
            self.voices = voices;
            self.send();
            self.attend(Instant::now());
            if self.draining && self.table.len() == 0 {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do; `self.voices` are those that have something to say.
    ///
    /// With `poll` rather than `epoll`, which is told of every datagram that is sent or arrives,
    /// also while the thread is at work: that costs more than a look at a few sockets, once for all
    /// that arrived meanwhile.
    fn wait(&mut self) -> io::Result<()> {
        let (timeout, draining) = (self.timeout(), self.draining);
        let mut fds: Vec<PollFd<'_>> = std::mem::take(&mut self.polled);
        let sources = self.sources.iter();
        for (number, source) in sources {
            fds.push(PollFd::new(&source.socket, PollFlags::IN));
            self.voices.push(Voice::Source(number));
        }
        if !draining {
            for (position, listener) in self.listeners.iter().enumerate() {
                fds.push(PollFd::new(listener, PollFlags::IN));
                self.voices.push(Voice::Listener(position));
            }
            fds.push(PollFd::new(&self.stop.event, PollFlags::IN));
            self.voices.push(Voice::Stop);
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        let mut said = fds.iter().map(|fd| !fd.revents().is_empty());
        self.voices.retain(|_| said.next().unwrap_or_default());
        // Empty, and its space for the next time.
        self.polled = fds.into_iter().map_while(|_| None).collect();
        Ok(())
    }

    /// How long to wait at most; `None` when nothing is due.
    fn timeout(&self) -> Option<Timespec> {
        let due = self.table.next_due();
        let until = self.stop.until.get().filter(|_| self.draining).copied();
        let moment = match (due, until) {
            (Some(due), Some(until)) => due.min(until),
            (due, until) => due.or(until)?,
        };
        let wait = moment.saturating_duration_since(Instant::now());
        Timespec::try_from(wait).ok()
    }

    fn receive_queries(&mut self, listener: usize, inbox: &mut Inbox) {
        let Some(socket) = self.listeners.get(listener) else {
            return;
        };
        for _ in 0..MAX_BATCHES {
            // An error on a listener concerns an answer sent earlier, and there is nobody to tell.
            let Ok(count) = inbox.receive(socket.as_fd()) else {
                return;
            };
            let now = Instant::now();
            self.renew_set();
            for datagram in inbox.datagrams(count) {
                let Some(address) = datagram.sender else {
                    continue;
                };
                let client = Client { listener, address };
                self.query(client, datagram.bytes, datagram.cut, now);
            }
            if count < BATCH {
                return;
            }
            self.send();
        }
    }

    fn renew_set(&mut self) {
        let set = self.shared.upstreams.set();
        if !Arc::ptr_eq(&set, &self.set) {
            self.sources.keep(&set);
            self.set = Arc::clone(&set);
        }
    }

    fn query(&mut self, client: Client, message: &[u8], cut: bool, now: Instant) {
        let parsed = if cut {
            Err(Rejection::FormatError)
        } else {
            query::parse(message, &mut self.name)
        };
        let query = match parsed {
            Ok(query) => query,
            Err(rejection) => return self.reject(client, message, rejection),
        };
        let policy = self.shared.live.snapshot();
        let verdict = policy.evaluate(&self.name);
        let generation = policy.generation;
        drop(policy);
        if verdict.action == Action::Deny {
            return self.deny(client, message, &query, verdict);
        }
        let fingerprint = self.table.fingerprint(client, message);
        if self.table.repeats(fingerprint, client, message) {
            return;
        }
        let arrival = Arrival {
            client,
            message,
            query,
            generation,
            now,
            deadline: now + self.shared.timeout,
            set: &self.set,
            fingerprint,
        };
        let Some(place) = self.table.insert(&arrival) else {
            let reason = DropReason::InFlightLimit;
            return Dropped { reason }.emit(&self.shared.observer);
        };
        self.shared.observer.metrics.in_flight.add(1);
        if !self.ask_untried(place, now) {
            self.fail(place, Failure::Exhausted, now);
        }
    }

    fn reply(&mut self, client: Client, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(outbox) = self.replies.get_mut(client.listener) {
            outbox.push(Some(client.address), 0, write);
        }
    }

    fn reject(&mut self, client: Client, message: &[u8], rejection: Rejection) {
        if rejection == Rejection::NotAQuery {
            let reason = DropReason::NotAQuery;
            return Dropped { reason }.emit(&self.shared.observer);
        }
        self.reply(client, |out| reply::rejected(message, rejection, out));
        Refused {
            transport: Transport::Udp,
        }
        .emit(&self.shared.observer);
    }

    /// Tells the client that there is no such name; `self.name` is that name.
    fn deny(&mut self, client: Client, message: &[u8], query: &Query, verdict: Verdict) {
        self.reply(client, |out| reply::denied(message, query, out));
        Denied {
            host: &self.name,
            query_type: &rtype_text(query.kind),
            reason: verdict.reason,
            transport: Transport::Udp,
            outcome: Outcome::NxDomain,
        }
        .emit(&self.shared.observer);
    }

    /// Sends the query at `place` to the next server that was not asked yet; whether there was
    /// one.
    fn ask_untried(&mut self, place: usize, now: Instant) -> bool {
        loop {
            let pending = self.table.get_mut(place);
            let Some(server) = pending.and_then(|pending| pending.plan.untried()) else {
                return false;
            };
            if self.ask(place, server, now) {
                return true;
            }
        }
    }

    /// Sends the query at `place` to the server at position `server` of its set; whether that
    /// worked.
    fn ask(&mut self, place: usize, server: usize, now: Instant) -> bool {
        let Some(pending) = self.table.get(place) else {
            return false;
        };
        let Some(target) = pending.set.get(server).cloned() else {
            return false;
        };
        let ticket = match self.free_ticket(&target, now) {
            Ok(ticket) => ticket,
            Err(cause) => {
                self.note_failure(place, server, &target, &cause);
                return false;
            }
        };
        let Some(pending) = self.table.get(place) else {
            return false;
        };
        let (rounds, servers) = (pending.plan.rounds(), pending.plan.servers());
        let (message, deadline) = (&pending.message, pending.deadline);
        self.sources.push(ticket.socket(), ticket.tag(), |out| {
            let start = out.len();
            out.extend_from_slice(message);
            wire::set_id(out.get_mut(start..).unwrap_or_default(), ticket.id());
        });
        let request = Request {
            ticket,
            server,
            sent: now,
        };
        if let Some(displaced) = self.table.sent(place, request) {
            self.sources.release(displaced.ticket.socket());
        }
        let patience = super::patience(&target, self.shared.timeout, servers, rounds);
        self.table.schedule(place, deadline.min(now + patience));
        true
    }

    /// A socket towards `server` and an id that is not in use on it.
    fn free_ticket(&mut self, server: &Arc<Server>, now: Instant) -> io::Result<Ticket> {
        let socket = self.sources.choose(server, &mut self.entropy, now)?;
        // A socket has at most as many requests outstanding as the table has queries, a fraction
        // of all ids.
        loop {
            let ticket = Ticket::new(socket, self.entropy.next()?);
            if !self.table.is_outstanding(ticket) {
                return Ok(ticket);
            }
        }
    }

    /// Records that asking the server at position `position` failed for good.
    fn note_failure(&mut self, place: usize, position: usize, server: &Server, cause: &io::Error) {
        server.silent();
        let upstreams = &self.shared.upstreams;
        upstreams.complain(server, &cause.to_string());
        if let Some(pending) = self.table.get_mut(place) {
            pending.plan.give_up(position);
            pending.error = Some(format!("{}: {cause}", server.address));
        }
    }

    fn receive_answers(&mut self, number: u32, inbox: &mut Inbox) {
        for _ in 0..MAX_BATCHES {
            let Some(source) = self.sources.get(number) else {
                return;
            };
            let received = inbox.receive(source.socket.as_fd());
            let server = Arc::clone(&source.server);
            let now = Instant::now();
            match received {
                Ok(count) => {
                    for datagram in inbox.datagrams(count) {
                        self.answer(number, &server, datagram.bytes, now);
                    }
                    if count < BATCH {
                        return;
                    }
                    self.send();
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return,
                Err(cause) => self.source_failed(number, &cause, now),
            }
        }
    }

    /// Everything that was sent from a socket has failed, for example because nobody listens on
    /// the other side.
    fn source_failed(&mut self, number: u32, cause: &io::Error, now: Instant) {
        let mut places = std::mem::take(&mut self.places);
        self.table.all(&mut places);
        for place in places.drain(..) {
            let here = |request: &Request| request.ticket.socket() == number;
            while let Some(ticket) = self.table.get(place).and_then(|pending| {
                let request = pending.outstanding().find(here)?;
                Some(request.ticket)
            }) {
                self.request_failed(ticket, cause, now);
            }
        }
        self.places = places;
    }

    fn request_failed(&mut self, ticket: Ticket, cause: &io::Error, now: Instant) {
        let Some((place, request)) = self.table.settle(ticket) else {
            return;
        };
        self.sources.release(ticket.socket());
        let server = self
            .table
            .get(place)
            .and_then(|pending| pending.set.get(request.server));
        if let Some(server) = server.cloned() {
            self.note_failure(place, request.server, &server, cause);
        }
        self.next_server(place, now);
    }

    /// Goes on after one server failed for good.
    fn next_server(&mut self, place: usize, now: Instant) {
        if self.ask_untried(place, now) {
            return;
        }
        let outstanding = self
            .table
            .get(place)
            .map(|pending| pending.outstanding().count());
        if outstanding == Some(0) {
            self.fail(place, Failure::Exhausted, now);
        }
    }

    fn answer(&mut self, number: u32, server: &Arc<Server>, message: &mut [u8], now: Instant) {
        let unsolicited = Dropped {
            reason: DropReason::Unsolicited,
        };
        let ticket = Ticket::new(number, wire::id(message).unwrap_or_default());
        let found = self.table.find(ticket);
        let Some((place, pending)) = found.and_then(|place| Some((place, self.table.get(place)?)))
        else {
            server.alive();
            return unsolicited.emit(&self.shared.observer);
        };
        let end = pending.query.question_end;
        let code = answer::rcode(message);
        match answer::echo(message, ticket.id(), &pending.message, end) {
            Echo::Question => {}
            Echo::HeaderOnly if !is_final(code) => {}
            Echo::HeaderOnly | Echo::Foreign => return unsolicited.emit(&self.shared.observer),
        }
        let Some((_, request)) = self.table.settle(ticket) else {
            return;
        };
        self.sources.release(number);
        server.answered(now.saturating_duration_since(request.sent));

        self.addresses.clear();
        let readable = answer::addresses(message, end, &mut self.addresses).is_ok();
        if !is_final(code) {
            self.shared.upstreams.complain_about_code(server, code);
            if let Some(pending) = self.table.get_mut(place) {
                pending.plan.give_up(request.server);
                pending.consolation.clear();
                pending.consolation.extend_from_slice(message);
                pending.error = Some(format!("{} from {}", rcode_text(code), server.address));
            }
            self.next_server(place, now);
        } else if readable || answer::is_truncated(message) {
            self.relay(place, message, now);
        } else {
            let cause = io::Error::new(io::ErrorKind::InvalidData, answer::Malformed);
            self.note_failure(place, request.server, server, &cause);
            self.next_server(place, now);
        }
    }

    /// Ends the query at `place` with an answer of an upstream; `self.addresses` are its
    /// addresses.
    fn relay(&mut self, place: usize, message: &mut [u8], now: Instant) {
        let Some(pending) = self.table.get_mut(place) else {
            return;
        };
        let asked = std::mem::take(&mut pending.message);
        let (query, client) = (pending.query, pending.client);
        let elapsed = now.saturating_duration_since(pending.started);
        let (generation, error) = (pending.generation, pending.error.take());
        let code = answer::rcode(message);
        if query::parse(&asked, &mut self.name).is_ok() {
            match self.judge_again(generation) {
                Some(verdict) => self.deny(client, &asked, &query, verdict),
                None => {
                    wire::set_id(message, query.id);
                    let limit = query.udp_limit();
                    self.reply(client, |out| {
                        if message.len() > limit {
                            reply::truncated(message, query.edns, limit, out);
                        } else {
                            out.extend_from_slice(message);
                        }
                    });
                    self.ips.clear();
                    self.ips
                        .extend(self.addresses.iter().map(|address| address.ip));
                    Outbound {
                        host: &self.name,
                        addresses: &self.ips,
                        error: error.as_deref().filter(|_| !is_final(code)),
                        transport: Transport::Udp,
                        outcome: super::outcome(code),
                        elapsed,
                    }
                    .emit(&self.shared.observer);
                }
            }
        }
        if let Some(pending) = self.table.get_mut(place) {
            pending.message = asked;
        }
        self.forget(place, now);
    }

    /// The verdict on `self.name`, if it was allowed by an older policy and is denied now.
    fn judge_again(&self, generation: u64) -> Option<Verdict> {
        let policy = self.shared.live.snapshot();
        if policy.generation == generation {
            return None;
        }
        let verdict = policy.evaluate(&self.name);
        (verdict.action == Action::Deny).then_some(verdict)
    }

    /// Ends the query at `place` without a good answer: with the last one that was not good
    /// enough, else with SERVFAIL.
    fn fail(&mut self, place: usize, failure: Failure, now: Instant) {
        let Some(pending) = self.table.get_mut(place) else {
            return;
        };
        if !pending.consolation.is_empty() {
            let mut consolation = std::mem::take(&mut pending.consolation);
            self.addresses.clear();
            self.relay(place, &mut consolation, now);
            return;
        }
        if failure == Failure::TimedOut {
            let last = pending.outstanding().last();
            if let Some(server) = last.and_then(|request| pending.set.get(request.server)) {
                pending.error = Some(format!("{}: no answer in time", server.address));
            }
        }
        let asked = std::mem::take(&mut pending.message);
        let (query, client) = (pending.query, pending.client);
        let elapsed = now.saturating_duration_since(pending.started);
        let (generation, error) = (pending.generation, pending.error.take());
        let (why, outcome) = match failure {
            Failure::Exhausted => (ExtendedError::NETWORK_ERROR, Outcome::Error),
            Failure::TimedOut => (ExtendedError::NO_REACHABLE_AUTHORITY, Outcome::Timeout),
            Failure::Stopped => (ExtendedError::NOT_READY, Outcome::Error),
        };
        if query::parse(&asked, &mut self.name).is_ok() {
            match self.judge_again(generation) {
                Some(verdict) => self.deny(client, &asked, &query, verdict),
                None => {
                    self.reply(client, |out| reply::failed(&asked, &query, why, out));
                    Outbound {
                        host: &self.name,
                        addresses: &[],
                        error: Some(error.as_deref().unwrap_or(why.text)),
                        transport: Transport::Udp,
                        outcome,
                        elapsed,
                    }
                    .emit(&self.shared.observer);
                }
            }
        }
        self.forget(place, now);
    }

    /// Frees the place of a query that was answered; servers that let it wait are noted.
    fn forget(&mut self, place: usize, now: Instant) {
        if let Some(pending) = self.table.get(place) {
            for request in pending.outstanding() {
                let server = pending.set.get(request.server);
                if let Some(server) = server
                    && now.saturating_duration_since(request.sent) >= server.patience()
                {
                    server.silent();
                }
            }
        }
        let sources = &mut self.sources;
        self.table
            .remove(place, |request| sources.release(request.ticket.socket()));
        self.shared.observer.metrics.in_flight.add(-1);
    }

    /// Sends what has been queued.
    fn send(&mut self) {
        loop {
            for (outbox, listener) in self.replies.iter_mut().zip(self.listeners) {
                let observer = &self.shared.observer;
                outbox.flush(listener.as_fd(), |_, _| {
                    Dropped {
                        reason: DropReason::SendFailed,
                    }
                    .emit(observer);
                });
            }
            let mut unsent = std::mem::take(&mut self.unsent);
            self.sources.flush(&mut unsent);
            let done = unsent.is_empty();
            for (tag, cause) in unsent.drain(..) {
                self.request_failed(Ticket::from_tag(tag), &cause, Instant::now());
            }
            self.unsent = unsent;
            if done {
                return;
            }
        }
    }

    /// Sees to the queries whose time has come.
    fn attend(&mut self, now: Instant) {
        let mut places = std::mem::take(&mut self.places);
        let over = self.stop.until.get().is_some_and(|until| now >= *until);
        if over {
            self.table.all(&mut places);
        } else {
            self.table.take_due(now, &mut places);
        }
        for place in places.drain(..) {
            if over {
                self.fail(place, Failure::Stopped, now);
            } else {
                self.ask_further(place, now);
            }
        }
        self.places = places;
        self.send();
    }

    /// The query at `place` has waited long enough for the servers asked so far.
    fn ask_further(&mut self, place: usize, now: Instant) {
        loop {
            let Some(pending) = self.table.get_mut(place) else {
                return;
            };
            if now >= pending.deadline {
                return self.fail(place, Failure::TimedOut, now);
            }
            match pending.plan.another() {
                Some(server) if self.ask(place, server, now) => return,
                Some(_) => {}
                None => return self.fail(place, Failure::Exhausted, now),
            }
        }
    }
}
