//! The sandboxes in memory, by name.
//!
//! Owns what a look-up finds: one writer changes it, any number of threads read it without ever
//! waiting. Never knows where objects come from, what their names are made of, or a clock.
//!
//! Names are spread over [`SHARDS`] immutable slices; a change replaces one slice, a look-up is a
//! hash, an atomic load and a search among neighbours in one piece of memory. What was found stays
//! whole for whoever holds it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::{Retired, Sandbox};

/// The most objects held; with about 400 bytes each they need 400 MiB.
pub const MAX_OBJECTS: usize = 1 << 20;

/// Into how many parts the names are spread: at 100,000 sandboxes a change copies some 100 slots.
const SHARDS: usize = 1024;

/// What a provider read of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// Its namespace; empty where there are none.
    pub namespace: Cow<'a, str>,
    /// Its name.
    pub name: Cow<'a, str>,
    /// What tells it from a later object of the same name.
    pub uid: Cow<'a, str>,
    /// Its secure-access token.
    pub token: Option<Cow<'a, str>>,
    /// Whether it takes requests.
    pub state: State<'a>,
}

/// Whether an object takes requests, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// At this address or name.
    Ready(Cow<'a, str>),
    /// Not now.
    NotReady {
        /// Where it is reached once it is ready, if that is known. Connections to it live on.
        host: Option<Cow<'a, str>>,
        /// Why, to be read after the id: ` missing status`.
        reason: Cow<'a, str>,
    },
}

impl State<'_> {
    fn host(&self) -> Option<&str> {
        match self {
            Self::Ready(host) => Some(host),
            Self::NotReady { host, .. } => host.as_deref(),
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Ready(_) => None,
            Self::NotReady { reason, .. } => Some(reason),
        }
    }
}

/// There is no room for another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_OBJECTS} sandboxes")]
pub struct Full;

/// What a name leads to.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A sandbox that takes requests.
    Ready(Arc<Sandbox>),
    /// A sandbox that takes none now.
    NotReady {
        /// Why, as in [`State::NotReady`].
        reason: String,
        /// `namespace/name`.
        object: String,
        /// Its secure-access token.
        token: Option<Arc<str>>,
    },
    /// Objects of several namespaces; `namespace/name`, sorted.
    Ambiguous(Vec<String>),
}

/// The readers' side.
pub struct Index {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: RandomState,
    objects: AtomicUsize,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Index")
            .field("objects", &self.len())
            .finish_non_exhaustive()
    }
}

/// Sorted by hash, name and namespace.
type Shard = Box<[Slot]>;

#[derive(Clone)]
struct Slot {
    hash: u64,
    entry: Arc<Entry>,
}

struct Entry {
    namespace: Arc<str>,
    name: Box<str>,
    /// There is none as long as its address is unknown.
    sandbox: Option<Arc<Sandbox>>,
    /// There is none when it takes requests.
    obstacle: Option<Box<Obstacle>>,
    /// The last listing it was part of.
    listing: AtomicU64,
}

#[derive(PartialEq, Eq)]
struct Obstacle {
    reason: Box<str>,
    token: Option<Arc<str>>,
}

impl Entry {
    fn object(&self) -> String {
        if self.namespace.is_empty() {
            return self.name.to_string();
        }
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Index {
    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has exactly this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Found {
        let hash = self.hasher.hash_one(name);
        let shard = self.shard(hash).load();
        let mut same = named(&shard, hash, name).map(|(_, entry)| entry);
        let Some(entry) = same.next() else {
            return Found::Nothing;
        };
        if let Some(second) = same.next() {
            let both = [entry, second].into_iter();
            return Found::Ambiguous(both.chain(same).map(|entry| entry.object()).collect());
        }
        match (&entry.obstacle, &entry.sandbox) {
            (None, Some(sandbox)) => Found::Ready(Arc::clone(sandbox)),
            (obstacle, _) => {
                let obstacle = obstacle.as_deref();
                Found::NotReady {
                    reason: obstacle.map_or_else(String::new, |known| known.reason.to_string()),
                    object: entry.object(),
                    token: obstacle.and_then(|known| known.token.clone()),
                }
            }
        }
    }

    fn shard(&self, hash: u64) -> &ArcSwap<Shard> {
        // The low bits choose the shard, the whole orders its slots.
        let position = hash as usize % SHARDS;
        &self.shards[position]
    }
}

/// The slots of a shard with this name, in the order of their namespaces.
fn named<'a>(
    shard: &'a [Slot],
    hash: u64,
    name: &'a str,
) -> impl Iterator<Item = (usize, &'a Arc<Entry>)> {
    let first = shard.partition_point(|slot| slot.hash < hash);
    let rest = shard.iter().enumerate().skip(first);
    rest.take_while(move |(_, slot)| slot.hash == hash)
        .filter(move |(_, slot)| *slot.entry.name == *name)
        .map(|(position, slot)| (position, &slot.entry))
}

/// The one who changes the index.
#[derive(Debug)]
pub struct Writer {
    index: Arc<Index>,
    /// Namespaces are few, and each is kept once.
    namespaces: HashSet<Arc<str>>,
    listing: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Of an index that is empty.
    #[must_use]
    pub fn new() -> Self {
        let empty = Arc::new(Shard::default());
        let shards = (0..SHARDS).map(|_| ArcSwap::new(Arc::clone(&empty)));
        Self {
            index: Arc::new(Index {
                shards: shards.collect(),
                hasher: RandomState::new(),
                objects: AtomicUsize::new(0),
            }),
            namespaces: HashSet::new(),
            listing: 0,
        }
    }

    /// The readers' side.
    #[must_use]
    pub fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }

    /// Begins a complete listing: [`put`](Self::put) every object there is, then
    /// [`finish_listing`](Self::finish_listing). One that is never finished removes nothing.
    pub fn begin_listing(&mut self) {
        self.listing += 1;
    }

    /// Removes what the listing did not name.
    pub fn finish_listing(&mut self) {
        let current = |slot: &&Slot| slot.entry.listing.load(Ordering::Relaxed) == self.listing;
        for cell in &self.index.shards {
            let shard = cell.load();
            if shard.iter().all(|slot| current(&slot)) {
                continue;
            }
            let kept: Shard = shard.iter().filter(current).cloned().collect();
            let removed = shard.len() - kept.len();
            cell.store(Arc::new(kept));
            self.index.objects.fetch_sub(removed, Ordering::Relaxed);
            for slot in shard.iter().filter(|slot| !current(slot)) {
                retire(slot.entry.sandbox.as_ref());
            }
        }
        self.namespaces.retain(|name| Arc::strong_count(name) > 1);
    }

    /// Adds an object, or replaces the one of the same namespace and name. A sandbox that did not
    /// change stays the one readers hold.
    ///
    /// # Errors
    ///
    /// There is no room for another one.
    pub fn put(&mut self, object: &Object<'_>) -> Result<(), Full> {
        let hash = self.index.hasher.hash_one(&*object.name);
        let cell = self.index.shard(hash);
        let shard = cell.load();
        let place = place(&shard, hash, object);
        let old = match place {
            Ok(position) => shard.get(position).map(|slot| &slot.entry),
            Err(_) if self.index.len() >= MAX_OBJECTS => return Err(Full),
            Err(_) => None,
        };
        let old_sandbox = old.and_then(|old| old.sandbox.as_ref());
        let sandbox = object.state.host().map(|host| {
            let same = |old: &&Arc<Sandbox>| {
                *old.uid == *object.uid
                    && *old.host == *host
                    && old.token.as_deref() == object.token.as_deref()
            };
            old_sandbox
                .filter(same)
                .cloned()
                .unwrap_or_else(|| new_sandbox(object, host))
        });
        let obstacle = object.state.reason().map(|reason| {
            Box::new(Obstacle {
                reason: reason.into(),
                token: object.token.as_deref().map(Arc::from),
            })
        });
        let kept = match (old_sandbox, &sandbox) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if let Some(old) = old
            && kept
            && old.obstacle == obstacle
        {
            old.listing.store(self.listing, Ordering::Relaxed);
            return Ok(());
        }
        let namespace = match self.namespaces.get(&*object.namespace) {
            Some(known) => Arc::clone(known),
            None => {
                let new: Arc<str> = object.namespace.as_ref().into();
                self.namespaces.insert(Arc::clone(&new));
                new
            }
        };
        let entry = Arc::new(Entry {
            namespace,
            name: object.name.as_ref().into(),
            sandbox,
            obstacle,
            listing: AtomicU64::new(self.listing),
        });
        let slot = Slot { hash, entry };
        let (before, after, grown) = match place {
            Ok(position) => (position, position + 1, 0),
            Err(position) => (position, position, 1),
        };
        let before = shard.iter().take(before).cloned();
        let after = shard.iter().skip(after).cloned();
        cell.store(Arc::new(before.chain([slot]).chain(after).collect()));
        self.index.objects.fetch_add(grown, Ordering::Relaxed);
        if !kept {
            retire(old_sandbox);
        }
        Ok(())
    }

    /// Removes an object; whether it was there.
    pub fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let hash = self.index.hasher.hash_one(name);
        let cell = self.index.shard(hash);
        let shard = cell.load();
        let found = named(&shard, hash, name).find(|(_, entry)| *entry.namespace == *namespace);
        let Some((position, entry)) = found else {
            return false;
        };
        let others = shard.iter().enumerate();
        let others = others.filter(|(other, _)| *other != position);
        let kept = others.map(|(_, slot)| slot.clone()).collect();
        cell.store(Arc::new(kept));
        self.index.objects.fetch_sub(1, Ordering::Relaxed);
        retire(entry.sandbox.as_ref());
        true
    }
}

/// Where an object is in a shard, or where it would have to be inserted.
fn place(shard: &[Slot], hash: u64, object: &Object<'_>) -> Result<usize, usize> {
    let (name, namespace) = (&*object.name, &*object.namespace);
    shard.binary_search_by(|slot| {
        let entry = &slot.entry;
        let ordering = slot.hash.cmp(&hash);
        ordering
            .then_with(|| (*entry.name).cmp(name))
            .then_with(|| (*entry.namespace).cmp(namespace))
    })
}

fn new_sandbox(object: &Object<'_>, host: &str) -> Arc<Sandbox> {
    Arc::new(Sandbox {
        uid: object.uid.as_ref().into(),
        host: host.into(),
        token: object.token.as_deref().map(Arc::from),
        retired: Retired::default(),
    })
}

fn retire(sandbox: Option<&Arc<Sandbox>>) {
    if let Some(sandbox) = sandbox {
        sandbox.retired.set();
    }
}

#[cfg(test)]
mod tests;
