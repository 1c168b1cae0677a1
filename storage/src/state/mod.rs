//! [`KeyedState`]: the keyed values of one operator shard, hot ones in memory, all of them in RocksDB.
//!
//! ```text
//!   each epoch:  load(snapshot, keys) ──▶ get / put / delete in memory ──▶ flush(commit): dirty entries, sorted
//!
//!   a key is looked up in     cache: present, or known to be absent
//!                             gaps: ranges removed since the snapshot           ──▶ absent
//!                             complete? then what is not cached does not exist  ──▶ absent
//!                             RocksDB, as of the snapshot, many keys at once
//! ```
//!
//! What the snapshot given does not show (dirty, or flushed into a commit of a later epoch) is *recent*: it stays cached and
//! overlays the snapshot until one is seen that shows it. Clean entries that are not recent equal the snapshot, so they may
//! be evicted; that happens when a new snapshot is first seen.
//!
//! *low* is a key below which nothing lives. It makes taking what a watermark has passed cheap when nothing has.

mod slots;

use std::cmp::Ordering;
use std::ops::ControlFlow;

use tidemark_common::{Epoch, Result};

use crate::commit::EpochCommit;
use crate::keys::{Key, Span, StateId, span, successor};
use crate::snapshot::{Cursor, Direction, Snapshot};
use crate::value;
use slots::{DIRTY, LIVE, RECENT, STORED, Slots, USED};

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// State up to this size is read whole when it is first used, so that later misses cost nothing.
const WARM_UP_BYTES: usize = 8 << 20;
/// A complete cache up to this many entries answers scans by itself.
const SCAN_IN_MEMORY: usize = 512;
/// So few entries are deleted one by one: range deletions cost every reader a little until they are compacted away.
const POINT_DELETES: usize = 16;
/// Unsorted recent entries that a scan puts up with.
const RECENT_TAIL: usize = 64;

#[derive(Debug)]
pub struct KeyedState {
    /// The encoded keys this state owns, all starting with `span.start`.
    span: Span,
    budget: usize,
    slots: Slots,
    /// Recent slots, sorted by key, and those that came after sorting.
    recent: Vec<u32>,
    recent_tail: Vec<u32>,
    gaps: Vec<Gap>,
    /// Nothing is in RocksDB that is not cached. `None`: nobody has looked.
    complete: Option<bool>,
    /// No entry lives below; `None`: none lives at all.
    low: Option<Vec<u8>>,
    /// Of the snapshot last seen.
    epoch: Option<Epoch>,
    /// Of the last commit flushed into that no snapshot has shown yet.
    flushed_into: Option<Epoch>,
}

/// A range whose entries in the snapshot are gone.
#[derive(Debug)]
struct Gap {
    from: Vec<u8>,
    /// `None`: to the end.
    to: Option<Vec<u8>>,
    /// Its range deletion is in a commit.
    flushed: bool,
}

impl Gap {
    fn covers(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && is_before(key, self.to.as_deref())
    }
}

fn is_before(key: &[u8], to: Option<&[u8]>) -> bool {
    to.is_none_or(|to| key < to)
}

impl KeyedState {
    /// Owns all keys of `id`; shards that share an id use [`KeyedState::with_prefix`]. Keeps about `budget_bytes` in memory,
    /// and what the epoch being made has changed.
    pub fn new(id: StateId, budget_bytes: usize) -> Self {
        Self::over(Key::State { state: id, key: &[] }.encode(), budget_bytes)
    }

    /// Owns the keys of `id` that start with `prefix`, which is put before every key and taken off again.
    pub fn with_prefix(id: StateId, prefix: &[u8], budget_bytes: usize) -> Self {
        Self::over(Key::State { state: id, key: prefix }.encode(), budget_bytes)
    }

    /// Owns the encoded keys that start with `prefix`.
    pub(crate) fn over(prefix: Vec<u8>, budget_bytes: usize) -> Self {
        Self {
            span: span(prefix),
            budget: budget_bytes,
            slots: Slots::default(),
            recent: Vec::new(),
            recent_tail: Vec::new(),
            gaps: Vec::new(),
            complete: None,
            low: Some(Vec::new()),
            epoch: None,
            flushed_into: None,
        }
    }

    /// How many entries live, if that is known without counting them.
    pub fn len(&self) -> Option<usize> {
        (self.complete == Some(true)).then(|| self.slots.present())
    }

    /// Whether none lives, if that is known.
    pub fn is_empty(&self) -> Option<bool> {
        self.len().map(|len| len == 0)
    }

    /// A key below which no entry lives; `None`: none lives at all. Empty until somebody has looked.
    pub fn low(&self) -> Option<&[u8]> {
        self.low.as_deref()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// Makes [`KeyedState::get`] answer for `keys`, reading those that are not cached, together.
    pub fn load<K: AsRef<[u8]>>(&mut self, snapshot: &Snapshot, keys: &[K]) -> Result<()> {
        self.observe(snapshot)?;
        let complete = self.complete == Some(true);
        // Marks cost a lookup a key: a complete cache far from its budget needs none.
        if complete && self.slots.bytes() < self.budget / 2 {
            return Ok(());
        }
        let mut missing: Vec<&[u8]> = Vec::new();
        for key in keys {
            let key = key.as_ref();
            match self.slots.find(key) {
                Some(at) => self.slots.raise(at, USED),
                None if complete => {}
                None if self.in_gap(key) => {
                    self.slots.insert(key, None, USED);
                }
                None => missing.push(key),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let encoded: Vec<Vec<u8>> = missing.iter().map(|key| self.encoded(key)).collect();
        let slots = &mut self.slots;
        snapshot.multi_get_sorted(encoded.iter().map(Vec::as_slice), |i, found| {
            match found {
                Some(stored) => slots.insert(missing[i], Some(value::unframe(stored)?), USED | STORED),
                None => slots.insert(missing[i], None, USED),
            };
            Ok(())
        })
    }

    /// The value of a key that was loaded, or put, in this epoch.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.slots.find(key) {
            Some(at) => self.slots.slot(at).value(),
            None => {
                debug_assert!(self.complete == Some(true), "{key:02x?} was not loaded");
                None
            }
        }
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let at = match self.slots.find(key) {
            Some(at) => {
                self.slots.set(at, Some(value));
                at
            }
            None => self.slots.insert(key, Some(value), self.unseen()),
        };
        self.touch(at);
        if self.low.as_deref().is_none_or(|low| key < low) {
            self.low = Some(key.to_vec());
        }
    }

    pub fn delete(&mut self, key: &[u8]) {
        match self.slots.find(key) {
            Some(at) if self.slots.slot(at).is(STORED) => {
                if self.slots.slot(at).value().is_some() {
                    self.slots.set(at, None);
                    self.touch(at);
                }
            }
            // Never written, so there is nothing to delete; but that it is absent stays known.
            Some(at) if self.complete == Some(true) => self.slots.remove(at),
            Some(at) => {
                self.slots.set(at, None);
                self.slots.lower(at, DIRTY);
            }
            None if self.complete == Some(true) => {}
            None => {
                let at = self.slots.insert(key, None, STORED);
                self.touch(at);
            }
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.slots = Slots::default();
        self.recent.clear();
        self.recent_tail.clear();
        self.gaps = vec![Gap { from: Vec::new(), to: None, flushed: false }];
        self.complete = Some(true);
        self.low = None;
    }

    /// Writes what changed into `commit`, in the order of keys.
    pub fn flush(&mut self, commit: &mut EpochCommit) {
        debug_assert!(
            self.epoch.is_none_or(|seen| seen < commit.epoch()),
            "a commit of an epoch that was read already"
        );
        self.flushed_into = Some(commit.epoch());
        for gap in self.gaps.iter_mut().filter(|gap| !gap.flushed) {
            let from = [&self.span.start, gap.from.as_slice()].concat();
            match &gap.to {
                Some(to) => commit.delete_range(&from, &[&self.span.start, to.as_slice()].concat()),
                None => commit.delete_range(&from, &self.span.end),
            }
            gap.flushed = true;
        }
        self.sort_recent();
        let complete = self.complete == Some(true);
        for &at in &self.recent {
            let slot = self.slots.slot(at);
            if !slot.is(LIVE) || !slot.is(DIRTY) {
                continue;
            }
            match slot.value() {
                Some(value) => {
                    commit.put_framed(&self.span.start, slot.key(), value);
                    self.slots.raise(at, STORED);
                    self.slots.lower(at, DIRTY);
                }
                None => {
                    commit.delete_encoded(&self.span.start, slot.key());
                    self.slots.lower(at, STORED | DIRTY);
                    if complete {
                        self.slots.remove(at);
                    }
                }
            }
        }
    }

    /// Removes and returns all entries with a key below `upper`, in the order of keys.
    pub fn take_below(&mut self, snapshot: &Snapshot, upper: &[u8]) -> Result<Vec<Entry>> {
        self.observe(snapshot)?;
        let Some(low) = self.low.clone().filter(|low| low.as_slice() < upper) else { return Ok(Vec::new()) };
        let mut taken: Vec<Entry> = Vec::new();
        let mut next = None;
        self.merge(snapshot, &low, None, Direction::Forward, |key, value| {
            if key < upper {
                taken.push((key.to_vec(), value.to_vec()));
                return true;
            }
            next = Some(key.to_vec());
            false
        })?;
        self.low = next;
        if taken.len() <= POINT_DELETES {
            taken.iter().for_each(|(key, _)| self.delete(key));
            return Ok(taken);
        }
        let mut stored = false;
        for (key, _) in &taken {
            match self.slots.find(key) {
                Some(at) => {
                    stored |= self.slots.slot(at).is(STORED);
                    self.slots.remove(at);
                }
                None => stored = true,
            }
        }
        if stored {
            self.gaps.push(Gap { from: low, to: Some(upper.to_vec()), flushed: false });
        }
        Ok(taken)
    }

    /// Removes all entries with a key below `upper`, reading none of them from disk but the first.
    pub fn drop_below(&mut self, snapshot: &Snapshot, upper: &[u8]) -> Result<()> {
        self.observe(snapshot)?;
        let Some(low) = self.low.clone().filter(|low| low.as_slice() < upper) else { return Ok(()) };
        let mut first = None;
        self.merge(snapshot, &low, None, Direction::Forward, |key, _| {
            first = Some(key.to_vec());
            false
        })?;
        if first.as_deref().is_none_or(|first| first >= upper) {
            self.low = first;
            return Ok(());
        }
        let mut stored = self.complete != Some(true);
        // Below low there may be deletions still to be flushed; they stay.
        let doomed = self.sorted_slots(&low, Some(upper));
        for at in doomed {
            stored |= self.slots.slot(at).is(STORED);
            self.slots.remove(at);
        }
        if stored {
            self.gaps.push(Gap { from: low, to: Some(upper.to_vec()), flushed: false });
        }
        self.low = Some(upper.to_vec());
        Ok(())
    }

    /// The entries whose keys start with `prefix`, in order.
    pub fn scan_prefix(&mut self, snapshot: &Snapshot, prefix: &[u8]) -> Result<Vec<Entry>> {
        self.scan_range(snapshot, prefix, successor(prefix).as_deref(), Direction::Forward, usize::MAX)
    }

    /// Calls `each` with the entries whose keys start with one of `prefixes`: the position of the prefix, key and value. In the
    /// order of keys; no prefix may start with another.
    pub fn scan_prefixes<K: AsRef<[u8]>>(
        &mut self,
        snapshot: &Snapshot,
        prefixes: &[K],
        mut each: impl FnMut(usize, &[u8], &[u8]),
    ) -> Result<()> {
        self.observe(snapshot)?;
        let mut order: Vec<usize> = (0..prefixes.len()).collect();
        order.sort_unstable_by(|&a, &b| prefixes[a].as_ref().cmp(prefixes[b].as_ref()));
        if self.scans_in_memory() {
            let all = self.sorted_slots(&[], None);
            let mut rest = all.iter().map(|&at| self.slots.slot(at)).peekable();
            for at in order {
                let prefix = prefixes[at].as_ref();
                while rest.next_if(|slot| slot.key() < prefix).is_some() {}
                while let Some(slot) = rest.next_if(|slot| slot.key().starts_with(prefix)) {
                    slot.value().into_iter().for_each(|value| each(at, slot.key(), value));
                }
            }
            return Ok(());
        }
        let mut cursor = snapshot.cursor(self.span.clone());
        for at in order {
            let prefix = prefixes[at].as_ref();
            let to = successor(prefix);
            let each = |key: &[u8], value: &[u8]| {
                each(at, key, value);
                true
            };
            self.merge_with(snapshot, Some(&mut cursor), prefix, to.as_deref(), Direction::Forward, each)?;
        }
        Ok(())
    }

    fn scans_in_memory(&self) -> bool {
        self.complete == Some(true) && self.slots.present() <= SCAN_IN_MEMORY
    }

    /// Calls `each` with the entries whose keys start with `prefix`, in order, until it says false.
    pub fn visit_prefix(
        &mut self,
        snapshot: &Snapshot,
        prefix: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.observe(snapshot)?;
        self.merge(snapshot, prefix, successor(prefix).as_deref(), Direction::Forward, each)
    }

    /// The next entries of a walk over all of them, at most `limit`, the first after key `after`.
    pub fn scan_chunk(&mut self, snapshot: &Snapshot, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>> {
        let from = after.map_or(Vec::new(), |after| [after, &[0]].concat());
        self.scan_range(snapshot, &from, None, Direction::Forward, limit)
    }

    /// At most `limit` entries from `from` to before `to` (`None`: to the end), from the first on, or from the last back.
    pub fn scan_range(
        &mut self,
        snapshot: &Snapshot,
        from: &[u8],
        to: Option<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        self.observe(snapshot)?;
        let mut entries = Vec::new();
        if limit > 0 {
            self.merge(snapshot, from, to, direction, |key, value| {
                entries.push((key.to_vec(), value.to_vec()));
                entries.len() < limit
            })?;
        }
        Ok(entries)
    }

    /// Calls `each` with the entries from `from` to before `to`, as they are now, until it says false.
    fn merge(
        &mut self,
        snapshot: &Snapshot,
        from: &[u8],
        to: Option<&[u8]>,
        direction: Direction,
        each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.merge_with(snapshot, None, from, to, direction, each)
    }

    /// As [`KeyedState::merge`], reading with `cursor`, which only goes forward, if one is given.
    fn merge_with(
        &mut self,
        snapshot: &Snapshot,
        cursor: Option<&mut Cursor<'_>>,
        from: &[u8],
        to: Option<&[u8]>,
        direction: Direction,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let in_memory = self.scans_in_memory();
        let mut overlay = if in_memory { self.sorted_slots(from, to) } else { self.recent_slots(from, to) };
        if direction == Direction::Reverse {
            overlay.reverse();
        }
        let mut overlay = overlay.into_iter().map(|at| self.slots.slot(at)).peekable();
        let mut more = true;
        let cleared = self.gaps.iter().any(|gap| gap.from.is_empty() && gap.to.is_none());
        if !in_memory && !cleared {
            let start = self.encoded(from);
            let end = to.map_or_else(|| self.span.end.clone(), |to| self.encoded(to));
            let visit = |encoded: &[u8], stored: &[u8]| {
                let key = &encoded[self.span.start.len()..];
                let mut overlaid = false;
                while let Some(slot) = overlay.next_if(|slot| order(slot.key(), key, direction).is_le()) {
                    overlaid = slot.key() == key;
                    more = slot.value().is_none_or(|value| each(slot.key(), value));
                    if !more {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if !overlaid && !self.in_gap(key) {
                    more = each(key, value::unframe(stored)?);
                }
                Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            };
            match cursor {
                Some(cursor) => cursor.visit(&start, &end, visit)?,
                None => snapshot.visit(&start, &end, direction, visit)?,
            }
        }
        while more && let Some(slot) = overlay.next() {
            more = slot.value().is_none_or(|value| each(slot.key(), value));
        }
        Ok(())
    }

    /// The live slots with keys in a range, by key.
    fn sorted_slots(&self, from: &[u8], to: Option<&[u8]>) -> Vec<u32> {
        let within = |at: &u32| {
            let key = self.slots.slot(*at).key();
            from <= key && is_before(key, to)
        };
        let mut found: Vec<u32> = self.slots.live().filter(within).collect();
        found.sort_unstable_by(|&a, &b| self.slots.slot(a).key().cmp(self.slots.slot(b).key()));
        found
    }

    /// The live recent slots with keys in a range, by key.
    fn recent_slots(&mut self, from: &[u8], to: Option<&[u8]>) -> Vec<u32> {
        if self.recent_tail.len() > RECENT_TAIL + self.recent.len() / RECENT_TAIL {
            self.sort_recent();
        }
        let key = |at: u32| self.slots.slot(at).key();
        let live = |at: &u32| self.slots.slot(*at).is(LIVE);
        let start = self.recent.partition_point(|&at| key(at) < from);
        let sorted = self.recent[start..].iter().copied().take_while(|&at| is_before(key(at), to));
        let mut found: Vec<u32> = sorted.filter(live).collect();
        let before = found.len();
        let tail = self.recent_tail.iter().copied();
        found.extend(tail.filter(|&at| live(&at) && from <= key(at) && is_before(key(at), to)));
        if found.len() > before {
            found.sort_by(|&a, &b| key(a).cmp(key(b)));
        }
        found
    }

    fn sort_recent(&mut self) {
        if !self.recent_tail.is_empty() {
            self.recent.append(&mut self.recent_tail);
            // Stable sorting finds the run that is sorted already.
            self.recent.sort_by(|&a, &b| self.slots.slot(a).key().cmp(self.slots.slot(b).key()));
        }
    }

    fn touch(&mut self, at: u32) {
        if !self.slots.slot(at).is(RECENT) {
            self.recent_tail.push(at);
        }
        self.slots.raise(at, DIRTY | RECENT | USED);
    }

    /// Flags of an entry that is put without having been loaded.
    fn unseen(&self) -> u8 {
        if self.complete == Some(true) { 0 } else { STORED }
    }

    fn in_gap(&self, key: &[u8]) -> bool {
        self.gaps.iter().any(|gap| gap.covers(key))
    }

    fn encoded(&self, key: &[u8]) -> Vec<u8> {
        [&self.span.start, key].concat()
    }

    /// Notes which snapshot is read, and with a newer one, what need not be remembered any more.
    fn observe(&mut self, snapshot: &Snapshot) -> Result<()> {
        let epoch = snapshot.epoch();
        debug_assert!(self.epoch.is_none_or(|seen| seen <= epoch), "an older snapshot than before");
        if self.flushed_into.is_some_and(|flushed| flushed <= epoch) {
            self.settle();
        }
        let newer = self.epoch.is_some_and(|seen| seen != epoch);
        if newer && self.slots.bytes() > self.budget && self.slots.evict(self.budget - self.budget / 8) {
            self.complete = Some(false);
        }
        self.epoch = Some(epoch);
        if self.complete.is_none() {
            self.warm_up(snapshot)?;
        }
        Ok(())
    }

    /// All that was flushed is in the snapshot now.
    fn settle(&mut self) {
        self.flushed_into = None;
        self.gaps.retain(|gap| !gap.flushed);
        self.sort_recent();
        let slots = &mut self.slots;
        self.recent.retain(|&at| {
            let keep = slots.slot(at).is(DIRTY);
            if !keep {
                slots.forget_recent(at);
            }
            keep
        });
    }

    /// Reads the whole state into the cache, if it is small.
    fn warm_up(&mut self, snapshot: &Snapshot) -> Result<()> {
        let limit = WARM_UP_BYTES.min(self.budget / 2);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut complete = true;
        snapshot.visit(&self.span.start, &self.span.end, Direction::Forward, |key, stored| {
            let entry = (key[self.span.start.len()..].to_vec(), value::unframe(stored)?.to_vec());
            bytes += entry.0.len() + entry.1.len() + size_of::<slots::Slot>();
            complete = bytes <= limit;
            if !complete {
                return Ok(ControlFlow::Break(()));
            }
            entries.push(entry);
            Ok(ControlFlow::Continue(()))
        })?;
        self.complete = Some(complete);
        if complete {
            for (key, value) in entries {
                if self.slots.find(&key).is_none() && !self.in_gap(&key) {
                    self.slots.insert(&key, Some(&value), STORED);
                }
            }
        }
        Ok(())
    }
}

fn order(a: &[u8], b: &[u8], direction: Direction) -> Ordering {
    match direction {
        Direction::Forward => a.cmp(b),
        Direction::Reverse => b.cmp(a),
    }
}

#[cfg(test)]
mod tests;
