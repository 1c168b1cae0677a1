//! Rows that were looked up lately, as they are stored: a lookup by key that finds its row here need not search RocksDB for it.
//!
//! ```text
//!   lookup at epoch 42 ──▶ kept, true since 40 ─────────────────▶ the row
//!                     └──▶ not kept ──▶ RocksDB ──▶ true since 42 ──▶ the row
//!   commit 43 ──▶ forgets the rows whose keys it writes ──▶ snapshot 43 is there to be read
//! ```
//!
//! What is kept is true from its epoch until a commit writes its key, and is gone before anyone can read that commit. A reader of an
//! older epoch does not take it, and what it reads itself it does not leave here: a commit may have passed already.
//!
//! Rows are kept in two generations. When the young ones take half of the memory, they become the old ones and the old ones go;
//! those that are looked up are young again.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use hashbrown::{DefaultHashBuilder, HashTable};
use tidemark_common::Epoch;

use crate::commit::Written;

/// Parts, each with its lock, so that readers seldom meet.
const SHARDS: usize = 16;
/// Bytes of key and value above which a row is not kept.
const MAX_ROW_BYTES: usize = 4096;
/// Bytes that an allocation takes besides its own, roughly.
const ALLOCATION: usize = 16;
/// Rows written at once after which all are forgotten, rather than each by its key.
const MANY: usize = 100_000;
/// What the keys of a collection's rows start with: their tag and its id.
const START: usize = 9;

pub(crate) struct HotRows {
    shards: Vec<Mutex<Shard>>,
    hasher: DefaultHashBuilder,
    /// The last one that was written.
    epoch: AtomicU64,
    /// Starts of the keys of which some were ever kept: most of what is written has others.
    starts: RwLock<HashSet<Vec<u8>>>,
}

struct Shard {
    young: HashTable<Kept>,
    old: HashTable<Kept>,
    /// Of the young ones.
    bytes: usize,
    max_bytes: usize,
}

struct Kept {
    since: Epoch,
    key_len: u32,
    row: Row,
}

/// Key and value. Most are short, and lie in the table itself: what a lookup waits for is memory, once more for each place.
enum Row {
    Short { len: u8, bytes: [u8; Row::SHORT] },
    Long(Box<[u8]>),
}

impl Row {
    const SHORT: usize = 46;

    fn new(key: &[u8], value: &[u8]) -> Self {
        let len = key.len() + value.len();
        if len > Self::SHORT {
            return Row::Long([key, value].concat().into());
        }
        let mut bytes = [0; Self::SHORT];
        bytes[..key.len()].copy_from_slice(key);
        bytes[key.len()..len].copy_from_slice(value);
        Row::Short { len: len as u8, bytes }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Row::Short { len, bytes } => &bytes[..usize::from(*len)],
            Row::Long(bytes) => bytes,
        }
    }
}

impl Kept {
    fn new(key: &[u8], value: &[u8], since: Epoch) -> Self {
        Self { since, key_len: key.len() as u32, row: Row::new(key, value) }
    }

    fn key(&self) -> &[u8] {
        &self.row.bytes()[..self.key_len as usize]
    }

    fn value(&self) -> &[u8] {
        &self.row.bytes()[self.key_len as usize..]
    }

    /// That it takes, roughly: tables have some room to spare.
    fn size(&self) -> usize {
        let beside = match &self.row {
            Row::Short { .. } => 0,
            Row::Long(bytes) => bytes.len() + ALLOCATION,
        };
        size_of::<Kept>() * 3 / 2 + beside
    }
}

impl HotRows {
    /// Keeps so many bytes, at most.
    pub fn new(epoch: Epoch, max_bytes: usize) -> Self {
        let max_bytes = max_bytes / 2 / SHARDS;
        let shard = || Shard { young: HashTable::new(), old: HashTable::new(), bytes: 0, max_bytes };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: DefaultHashBuilder::default(),
            epoch: AtomicU64::new(epoch),
            starts: RwLock::default(),
        }
    }

    /// Calls `found` with the value that the key has in the epoch, if it is kept.
    pub fn get(&self, key: &[u8], epoch: Epoch, found: impl FnOnce(&[u8])) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        if let Some(kept) = shard.young.find(hash, |kept| kept.key() == key) {
            let is_true = kept.since <= epoch;
            if is_true {
                found(kept.value());
            }
            return is_true;
        }
        let Ok(old) = shard.old.find_entry(hash, |kept| kept.key() == key && kept.since <= epoch) else { return false };
        let (kept, _) = old.remove();
        found(kept.value());
        shard.keep(hash, kept, &self.hasher);
        true
    }

    /// What was read from the store as of the epoch.
    pub fn put(&self, key: &[u8], value: &[u8], epoch: Epoch) {
        let Some(start) = key.get(..START).filter(|_| key.len() + value.len() <= MAX_ROW_BYTES) else { return };
        // Before the epoch is looked at: who has written a later one looks here after that.
        if !self.starts.read().unwrap_or_else(PoisonError::into_inner).contains(start) {
            self.starts.write().unwrap_or_else(PoisonError::into_inner).insert(start.to_vec());
        }
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        // With the lock held: who writes a later one and has not had it yet forgets what is put here.
        if self.epoch.load(Ordering::SeqCst) != epoch || shard.has(hash, key) {
            return;
        }
        shard.keep(hash, Kept::new(key, value, epoch), &self.hasher);
    }

    /// These keys have been written, and the epoch is to be read next.
    pub fn forget<'a>(&self, epoch: Epoch, written: impl Iterator<Item = Written<'a>>) {
        self.epoch.store(epoch, Ordering::SeqCst);
        let starts = self.starts.read().unwrap_or_else(PoisonError::into_inner);
        if starts.is_empty() {
            return;
        }
        // Keys of one collection come together.
        let (mut last, mut is_kept): (&[u8], bool) = (&[], false);
        let mut count = 0;
        for written in written {
            match written {
                Written::Key(key) => {
                    let start = &key[..key.len().min(START)];
                    if start != last {
                        (last, is_kept) = (start, starts.contains(start));
                    }
                    if !is_kept {
                        continue;
                    }
                    count += 1;
                    if count > MANY {
                        return self.clear();
                    }
                    let hash = self.hasher.hash_one(key);
                    self.shard(hash).remove(hash, key);
                }
                Written::Range(from, to) => {
                    let from = &from[..from.len().min(START)];
                    if starts.iter().any(|start| from <= start.as_slice() && to > start.as_slice()) {
                        return self.clear();
                    }
                }
            }
        }
    }

    fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.clear();
            shard.old.clear();
            shard.bytes = 0;
        }
    }

    /// By bits that the tables themselves do not start from.
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(hash >> 40) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn has(&self, hash: u64, key: &[u8]) -> bool {
        [&self.young, &self.old].iter().any(|table| table.find(hash, |kept| kept.key() == key).is_some())
    }

    fn keep(&mut self, hash: u64, kept: Kept, hasher: &DefaultHashBuilder) {
        let bytes = kept.size();
        if self.bytes + bytes > self.max_bytes {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.young.insert_unique(hash, kept, |kept| hasher.hash_one(kept.key()));
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(young) = self.young.find_entry(hash, |kept| kept.key() == key) {
            let (kept, _) = young.remove();
            self.bytes -= kept.size();
        }
        if let Ok(old) = self.old.find_entry(hash, |kept| kept.key() == key) {
            drop(old.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::keys::{Key, StateId};
    use crate::snapshot::Snapshot;
    use crate::store::{Store, StoreOptions};

    /// Epochs, and the rows that are there in each.
    type History = Vec<(Arc<Snapshot>, BTreeMap<u32, u64>)>;

    fn key(collection: u32, n: u32) -> Vec<u8> {
        Key::Row { collection: StateId::new(collection, 0), key: &n.to_be_bytes() }.encode()
    }

    fn get(rows: &HotRows, key: &[u8], epoch: Epoch) -> Option<Vec<u8>> {
        let mut value = None;
        let found = rows.get(key, epoch, |found| value = Some(found.to_vec()));
        assert_eq!(found, value.is_some());
        value
    }

    #[test]
    fn a_row_is_true_from_its_epoch_until_it_is_written() {
        let rows = HotRows::new(5, 1 << 20);
        rows.put(&key(1, 1), b"one", 5);
        rows.put(&key(1, 2), b"two", 4);
        assert_eq!(get(&rows, &key(1, 1), 5).as_deref(), Some(&b"one"[..]));
        for len in [0, 32, 33, 34, 500] {
            rows.put(&key(1, 100 + len), &vec![7; len as usize], 5);
            assert_eq!(get(&rows, &key(1, 100 + len), 5), Some(vec![7; len as usize]));
        }
        assert_eq!(get(&rows, &key(1, 1), 4), None, "it may have been another then");
        assert_eq!(get(&rows, &key(1, 2), 5), None, "it may be another by now");
        rows.forget(6, [Written::Key(&key(1, 3)), Written::Key(&key(2, 1))].into_iter());
        assert_eq!(get(&rows, &key(1, 1), 6).as_deref(), Some(&b"one"[..]));
        rows.forget(7, [Written::Key(&key(1, 1))].into_iter());
        assert_eq!(get(&rows, &key(1, 1), 7), None);
        rows.put(&key(1, 1), b"one", 6);
        assert_eq!(get(&rows, &key(1, 1), 7), None, "a reader of the epoch before comes late");
        // A range that touches a collection takes all, whichever of its rows it has.
        for (from, to, stays) in [((2, 0), (3, 0), true), ((0, 0), (1, 0), false), ((1, 0), (1, 1), false)] {
            rows.put(&key(1, 9), b"nine", 7);
            rows.forget(7, [Written::Range(&key(from.0, from.1), &key(to.0, to.1))].into_iter());
            assert_eq!(get(&rows, &key(1, 9), 7).is_some(), stays, "{from:?} {to:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_read_stays() {
        const BYTES: usize = 64 << 10;
        let rows = HotRows::new(1, BYTES);
        rows.put(&key(1, 0), b"often", 1);
        for n in 1..10_000 {
            rows.put(&key(1, n), &[7; 20], 1);
            assert!(get(&rows, &key(1, 0), 1).is_some(), "{n}");
        }
        rows.put(&key(1, 10_000), &[7; MAX_ROW_BYTES], 1);
        assert_eq!(get(&rows, &key(1, 10_000), 1), None);
        let kept = (0..10_000).filter(|n| get(&rows, &key(1, *n), 1).is_some()).count();
        assert!((100..BYTES / size_of::<Kept>()).contains(&kept), "{kept}");
    }

    /// Readers of the last and of older epochs beside a writer: each sees what its epoch says.
    #[test]
    fn readers_see_their_epoch() {
        const KEYS: u32 = 40;
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { block_cache_bytes: 1 << 16, write_buffer_bytes: 1 << 16, sync: false };
        let store = Store::open(dir.path(), &options).unwrap();
        let history: Mutex<History> = Mutex::default();
        history.lock().unwrap().push((store.snapshot(), BTreeMap::new()));
        let read = |seed: u64| {
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..20_000 {
                let back = if rng.random_bool(0.8) { 0 } else { rng.random_range(0..5) };
                let (snapshot, expected) = {
                    let history = history.lock().unwrap();
                    history[history.len().saturating_sub(1 + back)].clone()
                };
                let mut wanted: Vec<u32> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..KEYS)).collect();
                wanted.sort_unstable();
                wanted.dedup();
                let keys: Vec<Vec<u8>> = wanted.iter().map(|n| key(1, *n)).collect();
                let mut found = BTreeMap::new();
                let each = |at: usize, value: &[u8]| {
                    found.insert(wanted[at], crate::value::decode::<u64>(value)?);
                    Ok(())
                };
                snapshot.get_often(&keys, each).unwrap();
                let expected = expected.into_iter().filter(|(n, _)| wanted.contains(n)).collect();
                assert_eq!(found, expected, "epoch {}", snapshot.epoch());
            }
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3).map(|seed| scope.spawn(move || read(seed))).collect();
            let mut rng = StdRng::seed_from_u64(9);
            while !readers.iter().all(|reader| reader.is_finished()) {
                let mut rows = history.lock().unwrap().last().unwrap().1.clone();
                let (mut commit, epoch) = (store.begin(), store.epoch() + 1);
                match rng.random_range(0..50) {
                    0 => {
                        rows.clear();
                        commit.delete_collection(StateId::new(1, 0));
                    }
                    _ => (0..rng.random_range(1..6)).for_each(|_| {
                        let n = rng.random_range(0..KEYS);
                        let row = Key::Row { collection: StateId::new(1, 0), key: &n.to_be_bytes() };
                        if rng.random_bool(0.2) {
                            rows.remove(&n);
                            commit.delete(&row);
                        } else {
                            rows.insert(n, epoch);
                            commit.put_value(&row, &epoch).unwrap();
                        }
                    }),
                }
                let snapshot = store.commit(commit, epoch, false).unwrap();
                let mut history = history.lock().unwrap();
                history.push((snapshot, rows));
                if history.len() > 10 {
                    history.remove(0);
                }
            }
        });
    }
}
