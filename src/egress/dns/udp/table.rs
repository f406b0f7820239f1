//! The queries that wait for an upstream: found by the request that was sent for them, by the
//! client that repeats itself, and by the moment something has to happen.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::super::upstream::{Plan, Set};
use super::super::wire::query::Query;

/// Requests outstanding for one query; one more takes the place of the oldest.
const MAX_OUTSTANDING: usize = 12;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Which of our listeners the query came to.
    pub listener: usize,
    /// Who sent it.
    pub address: SocketAddr,
}

/// Names a request among all outstanding ones: the socket it was sent from and its message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The request with this id on this socket.
    #[must_use]
    pub fn new(socket: u32, id: u16) -> Self {
        Self(u64::from(socket) << 16 | u64::from(id))
    }

    /// The socket's number.
    #[must_use]
    pub fn socket(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// The message id.
    #[must_use]
    pub fn id(self) -> u16 {
        self.0 as u16
    }

    /// As a number that a queue can carry.
    #[must_use]
    pub fn tag(self) -> u64 {
        self.0
    }

    /// The inverse of [`Ticket::tag`].
    #[must_use]
    pub fn from_tag(tag: u64) -> Self {
        Self(tag)
    }
}

/// One request to one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How its answer is recognised.
    pub ticket: Ticket,
    /// Position of the server in the query's set.
    pub server: usize,
    /// When it was sent.
    pub sent: Instant,
}

/// A query that waits.
pub struct Pending {
    /// Where the answer goes.
    pub client: Client,
    /// As the client sent it.
    pub message: Vec<u8>,
    /// What `message` says.
    pub query: Query,
    /// The policy it was allowed by.
    pub generation: u64,
    /// When it came.
    pub started: Instant,
    /// When it is given up.
    pub deadline: Instant,
    /// The servers of that moment.
    pub set: Arc<Set>,
    /// How far it got with them.
    pub plan: Plan,
    /// The last answer that was not good enough; empty for none.
    pub consolation: Vec<u8>,
    /// What went wrong last.
    pub error: Option<String>,
    requests: Vec<Request>,
    fingerprint: Fingerprint,
    due: Option<Instant>,
}

impl Pending {
    /// The requests that were not answered yet.
    pub fn outstanding(&self) -> impl Iterator<Item = Request> {
        self.requests.iter().copied()
    }
}

/// A query to be added.
pub struct Arrival<'a> {
    /// Where the answer goes.
    pub client: Client,
    /// As the client sent it.
    pub message: &'a [u8],
    /// What `message` says.
    pub query: Query,
    /// The policy it was allowed by.
    pub generation: u64,
    /// When it came.
    pub now: Instant,
    /// When it is given up.
    pub deadline: Instant,
    /// The servers to ask.
    pub set: &'a Arc<Set>,
    /// See [`Table::fingerprint`].
    pub fingerprint: Fingerprint,
}

/// A query and who sent it, in short: a hash with a key that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

/// Hashes numbers of which nobody outside can choose which are in a map: those of a [`Ticket`] are
/// random, and a [`Fingerprint`] is a hash already.
#[derive(Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn write(&mut self, octets: &[u8]) {
        octets
            .iter()
            .for_each(|octet| self.write_u64(u64::from(*octet)));
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio of 2^64 (Knuth, "The Art of Computer Programming", 6.4) moves what
        // differs into the upper bits, where a map looks first.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Numbered<K> = HashMap<K, usize, BuildHasherDefault<Numbers>>;

/// Every waiting query, up to a bound.
pub struct Table {
    /// Freed places keep their buffers for the next query.
    places: Vec<Pending>,
    free: Vec<usize>,
    by_ticket: Numbered<Ticket>,
    by_client: Numbered<Fingerprint>,
    hasher: RandomState,
    bound: usize,
    /// No query is due before this; may be too early, never too late.
    next_due: Option<Instant>,
}

impl Table {
    /// A table for up to `bound` queries.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_ticket: HashMap::default(),
            by_client: HashMap::default(),
            hasher: RandomState::new(),
            bound,
            next_due: None,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// What `message` of `client` is found by.
    #[must_use]
    pub fn fingerprint(&self, client: Client, message: &[u8]) -> Fingerprint {
        let whole = (client.listener, client.address, message);
        Fingerprint(self.hasher.hash_one(whole))
    }

    /// Whether the same client already waits for an answer to the same message, whose fingerprint
    /// this is.
    #[must_use]
    pub fn repeats(&self, fingerprint: Fingerprint, client: Client, message: &[u8]) -> bool {
        self.by_client
            .get(&fingerprint)
            .and_then(|place| self.places.get(*place))
            .is_some_and(|known| known.client == client && known.message == message)
    }

    /// Adds a query; `None` when the table is full.
    pub fn insert(&mut self, arrival: &Arrival<'_>) -> Option<usize> {
        if self.len() >= self.bound {
            return None;
        }
        let place = self.free.pop().unwrap_or(self.places.len());
        let (mut message, mut consolation, requests) = match self.places.get_mut(place) {
            Some(old) => (
                std::mem::take(&mut old.message),
                std::mem::take(&mut old.consolation),
                std::mem::take(&mut old.requests),
            ),
            None => (Vec::new(), Vec::new(), Vec::new()),
        };
        message.clear();
        message.extend_from_slice(arrival.message);
        consolation.clear();
        let pending = Pending {
            client: arrival.client,
            message,
            query: arrival.query,
            generation: arrival.generation,
            started: arrival.now,
            deadline: arrival.deadline,
            set: Arc::clone(arrival.set),
            plan: Plan::new(arrival.set),
            consolation,
            error: None,
            requests,
            fingerprint: arrival.fingerprint,
            due: Some(arrival.deadline),
        };
        match self.places.get_mut(place) {
            Some(old) => *old = pending,
            None => self.places.push(pending),
        }
        self.by_client.insert(arrival.fingerprint, place);
        self.wake_at(arrival.deadline);
        Some(place)
    }

    /// The query at `place`.
    pub fn get(&self, place: usize) -> Option<&Pending> {
        self.places
            .get(place)
            .filter(|pending| pending.due.is_some())
    }

    /// The query at `place`.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Pending> {
        self.places
            .get_mut(place)
            .filter(|pending| pending.due.is_some())
    }

    /// Whether a request with this ticket is outstanding.
    #[must_use]
    pub fn is_outstanding(&self, ticket: Ticket) -> bool {
        self.by_ticket.contains_key(&ticket)
    }

    /// The query a request was sent for.
    #[must_use]
    pub fn find(&self, ticket: Ticket) -> Option<usize> {
        self.by_ticket.get(&ticket).copied()
    }

    /// Records a request for the query at `place`; the one it displaces, if there are too many.
    pub fn sent(&mut self, place: usize, request: Request) -> Option<Request> {
        let pending = self.places.get_mut(place)?;
        let requests = &mut pending.requests;
        let mut displaced = None;
        if requests.len() >= MAX_OUTSTANDING {
            let oldest = requests.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, request)| request.sent);
            displaced = oldest
                .map(|(position, _)| position)
                .map(|at| requests.swap_remove(at));
        }
        requests.push(request);
        if let Some(displaced) = displaced {
            self.by_ticket.remove(&displaced.ticket);
        }
        self.by_ticket.insert(request.ticket, place);
        displaced
    }

    /// Forgets a request; the query it was sent for, and the request.
    pub fn settle(&mut self, ticket: Ticket) -> Option<(usize, Request)> {
        let place = self.by_ticket.remove(&ticket)?;
        let pending = self.places.get_mut(place)?;
        let mut requests = pending.requests.iter();
        let position = requests.position(|request| request.ticket == ticket)?;
        Some((place, pending.requests.swap_remove(position)))
    }

    /// Asks for the query at `place` to be returned by [`Table::take_due`] at `moment`.
    pub fn schedule(&mut self, place: usize, moment: Instant) {
        if let Some(pending) = self.get_mut(place) {
            pending.due = Some(moment);
            self.wake_at(moment);
        }
    }

    fn wake_at(&mut self, moment: Instant) {
        self.next_due = Some(self.next_due.map_or(moment, |known| known.min(moment)));
    }

    /// The next moment worth looking at [`Table::take_due`].
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// Collects the queries that are due at `now`.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<usize>) {
        due.clear();
        if self.next_due.is_none_or(|moment| moment > now) {
            return;
        }
        // The whole table: at its full size this is some microseconds, and it happens about as
        // often as a server is too slow.
        self.next_due = None;
        for (place, pending) in self.places.iter().enumerate() {
            match pending.due {
                Some(moment) if moment <= now => due.push(place),
                Some(moment) => {
                    self.next_due = Some(self.next_due.map_or(moment, |known| known.min(moment)));
                }
                None => {}
            }
        }
    }

    /// Every waiting query.
    pub fn all(&self, places: &mut Vec<usize>) {
        places.clear();
        places.extend((0..self.places.len()).filter(|place| self.get(*place).is_some()));
    }

    /// Frees the place of a query; `release` is told of its outstanding requests.
    pub fn remove(&mut self, place: usize, mut release: impl FnMut(Request)) {
        let Some(pending) = self.places.get_mut(place) else {
            return;
        };
        if pending.due.take().is_none() {
            return;
        }
        for request in pending.requests.drain(..) {
            self.by_ticket.remove(&request.ticket);
            release(request);
        }
        if self.by_client.get(&pending.fingerprint) == Some(&place) {
            self.by_client.remove(&pending.fingerprint);
        }
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CLIENT: Client = Client {
        listener: 0,
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9),
    };

    fn insert(table: &mut Table, message: &[u8], now: Instant) -> Option<usize> {
        let query = Query {
            id: 1,
            flags: 0,
            kind: 1,
            class: 1,
            question_end: 0,
            edns: None,
        };
        let fingerprint = table.fingerprint(CLIENT, message);
        table.insert(&Arrival {
            client: CLIENT,
            message,
            query,
            generation: 0,
            now,
            deadline: now + Duration::from_secs(5),
            set: &Arc::default(),
            fingerprint,
        })
    }

    fn request(id: u16, sent: Instant) -> Request {
        Request {
            ticket: Ticket::new(7, id),
            server: 0,
            sent,
        }
    }

    #[test]
    fn the_bound_holds_and_places_are_used_again() {
        let mut table = Table::new(2);
        let now = Instant::now();
        let first = insert(&mut table, b"one", now).unwrap();
        insert(&mut table, b"two", now).unwrap();
        assert_eq!(insert(&mut table, b"three", now), None);
        let repeats = |table: &Table, message: &[u8]| {
            table.repeats(table.fingerprint(CLIENT, message), CLIENT, message)
        };
        assert!(repeats(&table, b"one") && !repeats(&table, b"three"));
        table.remove(first, |_| {});
        table.remove(first, |_| {});
        assert_eq!(table.len(), 1);
        assert!(!repeats(&table, b"one"));
        assert_eq!(insert(&mut table, b"three", now), Some(first));
        assert_eq!(table.get(first).unwrap().message, b"three");
    }

    #[test]
    fn requests_lead_back_to_their_query() {
        let mut table = Table::new(2);
        let now = Instant::now();
        let place = insert(&mut table, b"one", now).unwrap();
        assert!(table.sent(place, request(1, now)).is_none());
        assert!(table.sent(place, request(2, now)).is_none());
        assert_eq!(
            table.settle(Ticket::new(7, 3)).map(|(place, _)| place),
            None
        );
        assert_eq!(
            table.settle(Ticket::new(7, 1)).map(|(place, _)| place),
            Some(place)
        );
        assert_eq!(table.find(Ticket::new(7, 1)), None);
        let mut released = Vec::new();
        table.remove(place, |request| released.push(request.ticket.id()));
        assert_eq!(released, [2]);
        assert!(!table.is_outstanding(Ticket::new(7, 2)));
    }

    #[test]
    fn the_oldest_request_makes_room() {
        let mut table = Table::new(1);
        let now = Instant::now();
        let place = insert(&mut table, b"one", now).unwrap();
        let later = |n: u16| request(n, now + Duration::from_millis(u64::from(n)));
        for id in 0..12 {
            assert!(table.sent(place, later(id)).is_none());
        }
        assert_eq!(table.sent(place, later(12)).unwrap().ticket.id(), 0);
        assert!(!table.is_outstanding(Ticket::new(7, 0)));
    }

    #[test]
    fn queries_come_due_in_their_time() {
        let mut table = Table::new(3);
        let now = Instant::now();
        let early = insert(&mut table, b"early", now).unwrap();
        insert(&mut table, b"late", now).unwrap();
        table.schedule(early, now + Duration::from_millis(400));
        let mut due = Vec::new();
        table.take_due(now, &mut due);
        assert!(due.is_empty(), "{due:?}");
        let moment = table.next_due().unwrap();
        assert_eq!(moment, now + Duration::from_millis(400));
        table.take_due(moment, &mut due);
        assert_eq!(due, [early]);
        table.remove(early, |_| {});
        assert_eq!(table.next_due(), Some(now + Duration::from_secs(5)));
    }
}
