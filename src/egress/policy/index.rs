//! Finds the first rule that matches a name, in one pass over the name and without allocating.
//!
//! An open-addressed hash table keyed by names. The hash is fed from the last character to the
//! first, so that reading a name once yields the hash of every parent domain on the way. Only
//! parents with as many labels as some rule has are looked up, and a name is read no further than
//! the longest of them: who asks for a name with a hundred labels does not choose what it costs.

/// A position in the rule list and what the rule says; the lower one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u32);

impl Rank {
    /// No rule: after every other.
    const NONE: Self = Self(u32::MAX);

    /// The rule at `position`. Lists are bounded by the size of a body or a file, far below the
    /// 2^31 positions there are.
    pub(super) fn new(position: usize, allow: bool) -> Self {
        let position = u32::try_from(position).unwrap_or(u32::MAX >> 1);
        Self(position << 1 | u32::from(allow))
    }

    pub(super) fn position(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(super) fn is_allow(self) -> bool {
        self.0 & 1 == 1
    }

    /// The rank of a rule, if it is one.
    fn found(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// A name and the first rules for it.
#[derive(Debug)]
struct Entry {
    /// Where the name is in `Index::names`.
    start: u32,
    end: u32,
    /// The first rule for the name itself.
    exact: Rank,
    /// The first rule for everything below it.
    below: Rank,
}

/// A slot of the table.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the hash, so that a foreign entry is seldom looked at.
    tag: u32,
    /// Where the entry is in `Index::entries`, or [`Slot::FREE`].
    entry: u32,
}

impl Slot {
    const FREE: u32 = u32::MAX;
}

/// Names, and names with everything below them, with the first rule for each.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Every name, one after the other.
    names: String,
    entries: Vec<Entry>,
    /// A power of two of slots, at most half of them taken; none if there is no entry.
    slots: Box<[Slot]>,
    /// How many labels the names have.
    depths: Depths,
}

/// A set of numbers of labels. The largest it tells apart, and those above it, are one: no name
/// has more (RFC 1035 section 2.3.4: 255 octets, two at least for each label).
#[derive(Clone, Copy, Debug, Default)]
struct Depths(u128);

impl Depths {
    fn bit(labels: u32) -> u128 {
        1 << labels.min(u128::BITS - 1)
    }

    fn add(&mut self, labels: u32) {
        self.0 |= Self::bit(labels);
    }

    fn contains(self, labels: u32) -> bool {
        self.0 & Self::bit(labels) != 0
    }

    /// Whether a number in the set is `labels` or larger.
    fn reaches(self, labels: u32) -> bool {
        self.0 >= Self::bit(labels)
    }
}

/// FNV-1a, 64 bits: one multiplication an octet, good enough over names.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    const START: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(self, octet: u8) -> Self {
        Self((self.0 ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
    }

    fn of(name: &str) -> Self {
        name.bytes().rev().fold(Self::START, Self::add)
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The upper bits depend on every octet; folding them down lets the low ones do so too.
    fn home(self) -> usize {
        (self.0 ^ self.0 >> 32) as usize
    }
}

impl Index {
    /// An index with room for `names` names without growing.
    pub(super) fn with_capacity(names: usize) -> Self {
        let slots = if names == 0 {
            0
        } else {
            (names * 2).next_power_of_two()
        };
        Self {
            names: String::new(),
            entries: Vec::with_capacity(names),
            slots: vec![
                Slot {
                    tag: 0,
                    entry: Slot::FREE,
                };
                slots
            ]
            .into(),
            depths: Depths::default(),
        }
    }

    /// Adds a rule for `name` itself. Of several rules for it, the first stays.
    pub(super) fn add_exact(&mut self, name: &str, rank: Rank) {
        if let Some(entry) = self.entry_mut(name) {
            entry.exact = entry.exact.min(rank);
        }
    }

    /// Adds a rule for everything below `name`. Of several rules for it, the first stays.
    pub(super) fn add_below(&mut self, name: &str, rank: Rank) {
        if let Some(entry) = self.entry_mut(name) {
            entry.below = entry.below.min(rank);
        }
    }

    /// The first rule that matches `name`, in any letter case and with or without a trailing dot.
    pub(super) fn find(&self, name: &str) -> Option<Rank> {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        if self.slots.is_empty() || name.is_empty() {
            return None;
        }
        let mut hash = Hash::START;
        let mut best = Rank::NONE;
        let mut labels = 1;
        for (position, octet) in name.iter().enumerate().rev() {
            if *octet == b'.' && !is_escaped(name, position) {
                let parent = name.get(position + 1..).unwrap_or_default();
                if self.depths.contains(labels)
                    && let Some(entry) = self.entry(parent, hash)
                {
                    best = best.min(entry.below);
                }
                labels += 1;
                if !self.depths.reaches(labels) {
                    return best.found();
                }
            }
            hash = hash.add(octet.to_ascii_lowercase());
        }
        if self.depths.contains(labels)
            && let Some(entry) = self.entry(name, hash)
        {
            best = best.min(entry.exact);
        }
        best.found()
    }

    fn entry(&self, name: &[u8], hash: Hash) -> Option<&Entry> {
        let mask = self.slots.len() - 1;
        let mut position = hash.home() & mask;
        loop {
            let slot = self.slots.get(position)?;
            if slot.entry == Slot::FREE {
                return None;
            }
            if slot.tag == hash.tag() {
                let entry = self.entries.get(slot.entry as usize)?;
                if self.name(entry).eq_ignore_ascii_case(name) {
                    return Some(entry);
                }
            }
            position = (position + 1) & mask;
        }
    }

    fn entry_mut(&mut self, name: &str) -> Option<&mut Entry> {
        let hash = Hash::of(name);
        let mask = self.slots.len().checked_sub(1)?;
        let mut position = hash.home() & mask;
        loop {
            let slot = *self.slots.get(position)?;
            if slot.entry == Slot::FREE {
                break;
            }
            let entry = self.entries.get(slot.entry as usize)?;
            if slot.tag == hash.tag() && self.name(entry) == name.as_bytes() {
                return self.entries.get_mut(slot.entry as usize);
            }
            position = (position + 1) & mask;
        }
        let entry = u32::try_from(self.entries.len()).ok()?;
        let start = u32::try_from(self.names.len()).ok()?;
        self.names.push_str(name);
        let end = u32::try_from(self.names.len()).ok()?;
        *self.slots.get_mut(position)? = Slot {
            tag: hash.tag(),
            entry,
        };
        self.depths.add(labels(name));
        self.entries.push(Entry {
            start,
            end,
            exact: Rank::NONE,
            below: Rank::NONE,
        });
        self.entries.last_mut()
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        self.names
            .as_bytes()
            .get(entry.start as usize..entry.end as usize)
            .unwrap_or_default()
    }
}

/// How many labels `name` has, counted as [`Index::find`] counts them.
fn labels(name: &str) -> u32 {
    let name = name.as_bytes();
    let dots = (0..name.len())
        .filter(|&position| name.get(position) == Some(&b'.') && !is_escaped(name, position));
    u32::try_from(dots.count()).map_or(u32::MAX, |dots| dots.saturating_add(1))
}

/// Whether the character at `position` is escaped (RFC 1035 section 5.1), so that a dot there is
/// part of a label and no boundary between two.
fn is_escaped(name: &[u8], position: usize) -> bool {
    let before = name.get(..position).unwrap_or_default();
    let backslashes = before.iter().rev().take_while(|octet| **octet == b'\\');
    backslashes.count() % 2 == 1
}
