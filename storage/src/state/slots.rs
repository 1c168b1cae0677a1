//! The entries that [`KeyedState`](super::KeyedState) holds in memory: a slab of slots and a hash table of their numbers,
//! so that lists of entries are lists of numbers and the clock hand of eviction has something to walk over.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The slot holds an entry. A slot without this flag is free, or remembered as recent.
pub const LIVE: u8 = 1;
/// The entry differs from what was last flushed.
pub const DIRTY: u8 = 2;
/// RocksDB may hold something at this key.
pub const STORED: u8 = 4;
/// Looked at since the clock hand passed.
pub const USED: u8 = 8;
/// Changed since the snapshot last seen, which hence does not show it as it is.
pub const RECENT: u8 = 16;

/// Bytes, short ones in place.
#[derive(Debug, Clone)]
pub enum Bytes {
    Short(u8, [u8; Bytes::SHORT]),
    Long(Box<[u8]>),
}

impl Bytes {
    const SHORT: usize = 30;

    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() <= Self::SHORT {
            let mut short = [0; Self::SHORT];
            short[..bytes.len()].copy_from_slice(bytes);
            Bytes::Short(bytes.len() as u8, short)
        } else {
            Bytes::Long(bytes.into())
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Short(len, bytes) => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }

    fn heap(&self) -> usize {
        match self {
            Bytes::Short(..) => 0,
            Bytes::Long(bytes) => bytes.len(),
        }
    }
}

#[derive(Debug)]
pub struct Slot {
    key: Bytes,
    /// `None`: known to be absent.
    value: Option<Bytes>,
    flags: u8,
}

impl Slot {
    pub fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(Bytes::as_slice)
    }

    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bytes(&self) -> usize {
        SLOT_BYTES + self.key.heap() + self.value.as_ref().map_or(0, Bytes::heap)
    }
}

/// A slot and its place in the hash table.
const SLOT_BYTES: usize = size_of::<Slot>() + 2 * size_of::<Indexed>();

/// A slot and half the hash of its key, so that growing and comparing hardly ever touch the slot.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    hash: u32,
    at: u32,
}

impl Indexed {
    /// All bits that the table looks at, from those that are kept.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Debug, Default)]
pub struct Slots {
    index: HashTable<Indexed>,
    hasher: DefaultHashBuilder,
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: usize,
    present: usize,
    hand: usize,
}

impl Slots {
    /// Bytes of the live entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Live entries that have a value.
    pub fn present(&self) -> usize {
        self.present
    }

    pub fn slot(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }

    pub fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        let is_key = |entry: &Indexed| entry.hash == hash && self.slot(entry.at).key() == key;
        self.index.find(Indexed::spread(hash), is_key).map(|entry| entry.at)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Numbers of all live slots.
    pub fn live(&self) -> impl Iterator<Item = u32> {
        (0..self.slots.len() as u32).filter(|&at| self.slot(at).is(LIVE))
    }

    /// Adds a key that is not there.
    pub fn insert(&mut self, key: &[u8], value: Option<&[u8]>, flags: u8) -> u32 {
        let slot = Slot { key: Bytes::new(key), value: value.map(Bytes::new), flags: flags | LIVE };
        self.bytes += slot.bytes();
        self.present += usize::from(value.is_some());
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("the budget ends long before 4 billion entries")
            }
        };
        let hash = self.hash(key);
        self.index.insert_unique(Indexed::spread(hash), Indexed { hash, at }, |entry| Indexed::spread(entry.hash));
        at
    }

    pub fn set(&mut self, at: u32, value: Option<&[u8]>) {
        let slot = &mut self.slots[at as usize];
        self.bytes -= slot.bytes();
        self.present -= usize::from(slot.value.is_some());
        slot.value = value.map(Bytes::new);
        self.bytes += slot.bytes();
        self.present += usize::from(value.is_some());
    }

    pub fn raise(&mut self, at: u32, flags: u8) {
        self.slots[at as usize].flags |= flags;
    }

    pub fn lower(&mut self, at: u32, flags: u8) {
        self.slots[at as usize].flags &= !flags;
    }

    /// Takes the entry out. A recent one keeps its slot and key until [`Slots::forget_recent`], for lists name it.
    pub fn remove(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        self.bytes -= slot.bytes();
        self.present -= usize::from(slot.value.is_some());
        slot.value = None;
        slot.flags &= RECENT;
        let recent = slot.flags != 0;
        let hash = self.hash(self.slot(at).key());
        if let Ok(entry) = self.index.find_entry(Indexed::spread(hash), |entry| entry.at == at) {
            entry.remove();
        }
        if !recent {
            self.free.push(at);
        }
    }

    /// No list names this slot any more.
    pub fn forget_recent(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        slot.flags &= !RECENT;
        if !slot.is(LIVE) {
            self.free.push(at);
        }
    }

    /// Second chance: takes out clean entries, those not used lately first, until `target` bytes are left. True if any went.
    pub fn evict(&mut self, target: usize) -> bool {
        let mut evicted = false;
        // Two rounds: the first may only take away the marks.
        for _ in 0..2 * self.slots.len() {
            if self.bytes <= target {
                break;
            }
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if !slot.is(LIVE) || slot.is(DIRTY | RECENT) {
                continue;
            }
            if slot.is(USED) {
                slot.flags &= !USED;
            } else {
                self.remove(self.hand as u32);
                evicted = true;
            }
        }
        evicted
    }
}
