//! Reading one committed epoch, for as long as one likes, whatever is committed meanwhile.
//!
//! ```text
//!   Arc<Snapshot> ──get, multi_get──▶ values
//!                 ──scan(from, to)──▶ Scan ──a chunk at a time, seeking anew after its last key──▶ keys and values
//! ```
//!
//! A [`Scan`] owns its snapshot and holds no RocksDB iterator between chunks, so it may wait for its reader as long as it
//! takes, on any thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use rocksdb::{DB, DBRawIterator, ReadOptions};
use self_cell::self_cell;
use serde::de::DeserializeOwned;
use tidemark_common::{Epoch, Error, Result};

use crate::errors::from_rocksdb;
use crate::hot::HotRows;
use crate::keys::{Key, Span};
use crate::value;

type View<'a> = rocksdb::Snapshot<'a>;

self_cell!(
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: View,
    }
);

/// The store as of one epoch.
pub struct Snapshot {
    /// Reads keys as of `pinned`.
    reading: ReadOptions,
    pinned: Pinned,
    epoch: Epoch,
    hot: Arc<HotRows>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(epoch {})", self.epoch)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Reverse,
}

/// An open place in a range of a snapshot.
pub(crate) struct Cursor<'a> {
    entries: DBRawIterator<'a>,
}

impl Cursor<'_> {
    /// Calls `each` with the entries from `from` to before `to`, which lie in the cursor's range, until it breaks.
    pub fn visit(
        &mut self,
        from: &[u8],
        to: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.entries.seek(from);
        while let Some((key, value)) = self.entries.item().filter(|(key, _)| *key < to) {
            if each(key, value)?.is_break() {
                return Ok(());
            }
            self.entries.next();
        }
        self.entries.status().map_err(from_rocksdb)
    }
}

impl Snapshot {
    pub(crate) fn new(db: Arc<DB>, epoch: Epoch, hot: Arc<HotRows>) -> Self {
        let pinned = Pinned::new(db, |db| db.snapshot());
        let mut reading = ReadOptions::default();
        reading.set_snapshot(pinned.borrow_dependent());
        Self { reading, pinned, epoch, hot }
    }

    /// The last epoch that is in it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.pinned.borrow_owner().get_opt(key.encode(), &self.reading).map_err(from_rocksdb)
    }

    /// A value that was written with [`value::encode`].
    pub fn get_value<T: DeserializeOwned>(&self, key: &Key<'_>) -> Result<Option<T>> {
        self.get(key)?.map(|bytes| value::decode(&bytes)).transpose()
    }

    /// The values of `keys`, in their order.
    pub fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let encoded: Vec<Vec<u8>> = keys.iter().map(Key::encode).collect();
        self.multi_get_encoded(&encoded)
    }

    /// As [`Snapshot::multi_get`], for keys that are encoded already, in any order.
    pub fn multi_get_encoded(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|&a, &b| keys[a].cmp(&keys[b]));
        let mut values = vec![None; keys.len()];
        self.multi_get_sorted(order.iter().map(|&i| keys[i].as_slice()), |at, found| {
            values[order[at]] = found.map(<[u8]>::to_vec);
            Ok(())
        })?;
        Ok(values)
    }

    /// Calls `each` with the position and the value of every key, in the order of `sorted`, which must be ascending.
    pub(crate) fn multi_get_sorted<'k>(
        &self,
        sorted: impl Iterator<Item = &'k [u8]>,
        mut each: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        /// Values that RocksDB keeps pinned at a time.
        const BATCH: usize = 1024;
        let db = self.pinned.borrow_owner();
        let family = db.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME).expect("opened with this family");
        let keys: Vec<&[u8]> = sorted.collect();
        debug_assert!(keys.is_sorted());
        if let [key] = keys.as_slice() {
            let value = db.get_pinned_opt(key, &self.reading).map_err(from_rocksdb)?;
            return each(0, value.as_deref());
        }
        for (batch_index, batch) in keys.chunks(BATCH).enumerate() {
            let absent = self.absent_at_front(batch);
            for i in 0..absent {
                each(batch_index * BATCH + i, None)?;
            }
            let found = db.batched_multi_get_cf_opt(family, batch[absent..].iter().copied(), true, &self.reading);
            for (i, value) in found.into_iter().enumerate() {
                let value = value.map_err(from_rocksdb)?;
                each(batch_index * BATCH + absent + i, value.as_deref())?;
            }
        }
        Ok(())
    }

    /// Calls `each` with the position and the value of every one of these keys, which ascend, that is there, in any order. For keys
    /// that are likely to be asked for again.
    pub(crate) fn get_often(&self, sorted: &[Vec<u8>], mut each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut others = Vec::new();
        for (at, key) in sorted.iter().enumerate() {
            let mut taken = Ok(());
            if !self.hot.get(key, self.epoch, |value| taken = each(at, value)) {
                others.push(at);
            }
            taken?;
        }
        if others.is_empty() {
            return Ok(());
        }
        self.multi_get_sorted(others.iter().map(|at| sorted[*at].as_slice()), |i, value| match value {
            Some(value) => {
                self.hot.put(&sorted[others[i]], value, self.epoch);
                each(others[i], value)
            }
            None => Ok(()),
        })
    }

    /// How many of the first keys lie before all that is there from the first of them on. Rows that are new are mostly behind all
    /// others, or their table is empty: one look tells it, where each key by itself would be looked for in vain.
    fn absent_at_front(&self, sorted: &[&[u8]]) -> usize {
        /// Keys for which a look is less work than they are.
        const WORTH: usize = 64;
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return 0 };
        if sorted.len() < WORTH {
            return 0;
        }
        let db = self.pinned.borrow_owner();
        let family = db.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME).expect("opened with this family");
        let mut options = ReadOptions::default();
        options.set_snapshot(self.pinned.borrow_dependent());
        options.set_iterate_upper_bound([last, &[0][..]].concat());
        // Among what was deleted it would take long, and is given up.
        options.set_max_skippable_internal_keys(sorted.len() as u64);
        let mut at = db.raw_iterator_cf_opt(family, options);
        at.seek(first);
        match (at.key(), at.status()) {
            (Some(there), Ok(())) => sorted.partition_point(|key| *key < there),
            (None, Ok(())) => sorted.len(),
            // What is wrong, if anything is, the keys themselves will tell.
            (_, Err(_)) => 0,
        }
    }

    /// Calls `each` with the entries from `from` to before `to` until it breaks.
    pub(crate) fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_range(from..to);
        let mut entries = self.pinned.borrow_dependent().raw_iterator_opt(options);
        match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Reverse => entries.seek_to_last(),
        }
        while let Some((key, value)) = entries.item() {
            if each(key, value)?.is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => entries.next(),
                Direction::Reverse => entries.prev(),
            }
        }
        entries.status().map_err(from_rocksdb)
    }

    /// For many visits within one range, each cheaper than [`Snapshot::visit`].
    pub(crate) fn cursor(&self, range: Span) -> Cursor<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(range);
        Cursor { entries: self.pinned.borrow_dependent().raw_iterator_opt(options) }
    }

    /// The first entry at or after `from` and before `to`.
    pub fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.one(from, to, Direction::Forward)
    }

    /// The last entry before `to` and not before `from`.
    pub fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.one(from, to, Direction::Reverse)
    }

    fn one(&self, from: &[u8], to: &[u8], direction: Direction) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = None;
        self.visit(from, to, direction, |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// All entries from `from` to before `to`, encoded keys, ascending.
    pub fn scan(self: &Arc<Self>, from: &[u8], to: &[u8]) -> Scan {
        Scan::new(Arc::clone(self), from, to, Direction::Forward)
    }

    /// As [`Snapshot::scan`], descending.
    pub fn scan_reverse(self: &Arc<Self>, from: &[u8], to: &[u8]) -> Scan {
        Scan::new(Arc::clone(self), from, to, Direction::Reverse)
    }

    /// How many bytes the tables on disk hold between `from` and `to`, roughly; what is still in memory is not counted.
    pub fn approximate_bytes(&self, from: &[u8], to: &[u8]) -> u64 {
        let db = self.pinned.borrow_owner();
        db.get_approximate_sizes(&[rocksdb::Range::new(from, to)]).into_iter().sum()
    }
}

/// Entries of a range, a chunk at a time.
#[derive(Debug)]
pub struct Scan {
    snapshot: Arc<Snapshot>,
    from: Vec<u8>,
    to: Vec<u8>,
    direction: Direction,
    done: bool,
    chunk: Chunk,
    /// Next entry of `chunk` for the iterator.
    at: usize,
}

/// Some entries, in one buffer.
#[derive(Debug, Default, Clone)]
pub struct Chunk {
    data: Vec<u8>,
    /// Where each key and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Chunk {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1].1 };
        &self.data[start..self.ends[index].0]
    }

    pub fn value(&self, index: usize) -> &[u8] {
        let (start, end) = self.ends[index];
        &self.data[start..end]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map(|i| (self.key(i), self.value(i)))
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.data.extend_from_slice(key);
        let key_end = self.data.len();
        self.data.extend_from_slice(value);
        self.ends.push((key_end, self.data.len()));
    }

    fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}

impl Scan {
    /// A chunk ends at so many bytes, or one entry if that is bigger.
    const CHUNK_BYTES: usize = 4 << 20;
    /// Entries in a chunk of the iterator.
    const CHUNK_ENTRIES: usize = 1024;

    fn new(snapshot: Arc<Snapshot>, from: &[u8], to: &[u8], direction: Direction) -> Self {
        let (from, to) = (from.to_vec(), to.to_vec());
        Self { snapshot, from, to, direction, done: false, chunk: Chunk::default(), at: 0 }
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether it is known that there are no entries left.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Replaces `chunk` by the next entries, at most `limit`; false when there are none left.
    pub fn fill(&mut self, chunk: &mut Chunk, limit: usize) -> Result<bool> {
        chunk.clear();
        if self.done {
            return Ok(false);
        }
        let mut full = false;
        self.snapshot.visit(&self.from, &self.to, self.direction, |key, value| {
            chunk.push(key, value);
            full = chunk.len() >= limit || chunk.data.len() >= Self::CHUNK_BYTES;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        self.done = !full;
        if let Some(last) = chunk.len().checked_sub(1) {
            let key = chunk.key(last);
            match self.direction {
                Direction::Forward => {
                    self.from = key.to_vec();
                    self.from.push(0);
                }
                Direction::Reverse => self.to = key.to_vec(),
            }
        }
        Ok(!chunk.is_empty())
    }
}

impl Iterator for Scan {
    type Item = Result<(Vec<u8>, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.chunk.len() {
            let mut chunk = std::mem::take(&mut self.chunk);
            let filled = self.fill(&mut chunk, Self::CHUNK_ENTRIES);
            self.chunk = chunk;
            self.at = 0;
            match filled {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.done = true;
                    self.chunk.clear();
                    return Some(Err(error));
                }
            }
        }
        let entry = (self.chunk.key(self.at).to_vec(), self.chunk.value(self.at).to_vec());
        self.at += 1;
        Some(Ok(entry))
    }
}
