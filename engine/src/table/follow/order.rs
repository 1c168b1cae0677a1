//! Which records of a source come too late: where each key's last change stood in the order of the other database.
//!
//! ```text
//!   put    k=1 at 7      k=1: 7
//!   put    k=1 at 5      5 < 7: counts for nothing
//!   delete k=1 at 9      k=1: 9, gone ─▶ kept for a while, so that what is older does not bring it back
//!   truncate   at 20     floor: 20; rows go that stood before, and what is older counts for nothing
//! ```
//!
//! What comes again at the same place counts again, and changes nothing. Of keys that are gone the last [`GONE_KEYS`] are remembered,
//! numbered in the order in which they went.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_common::{Error, Oid, Result};
use tidemark_storage::{EpochCommit, Key, Snapshot, StateId, value};

/// Deleted keys of a source that are remembered.
const GONE_KEYS: u64 = if cfg!(test) { 50 } else { 1_000_000 };

/// Where [`Meta`] is stored.
const META: &str = "order";

/// Keys by themselves: [`Version`].
fn by_key(source: Oid) -> StateId {
    StateId::new(source, 1)
}

/// Keys that are gone, by number.
fn by_number(source: Oid) -> StateId {
    StateId::new(source, 2)
}

/// What is stored of a source as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Meta {
    /// Where it was emptied.
    floor: Option<Vec<u8>>,
    /// The number that the oldest of the keys has that are gone, or less; and the next one's.
    first: u64,
    next: u64,
    /// How many are gone and remembered.
    gone: u64,
    /// Records that came too late.
    stale: u64,
}

/// Of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Version {
    at: Vec<u8>,
    /// Its number, if it is gone.
    gone: Option<u64>,
}

/// Of an epoch: what was, and what becomes of it.
pub(super) struct Order<'a> {
    source: Oid,
    snapshot: &'a Arc<Snapshot>,
    meta: Meta,
    before: HashMap<&'a [u8], Version>,
    now: BTreeMap<&'a [u8], (&'a [u8], bool)>,
    /// Keys whose rows go because the source is emptied.
    forgotten: Vec<Vec<u8>>,
}

/// What is to be stored, if the epoch is.
#[derive(Debug, Default)]
pub(crate) struct Written {
    source: Oid,
    versions: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    gone: Vec<(u64, Option<Vec<u8>>)>,
    meta: Option<Meta>,
}

impl Written {
    pub fn put(&self, commit: &mut EpochCommit) -> Result<()> {
        let entries = self.versions.iter().map(|(key, value)| (by_key(self.source), key.clone(), value));
        let gone = self.gone.iter().map(|(n, key)| (by_number(self.source), n.to_be_bytes().to_vec(), key));
        for (state, key, value) in entries.chain(gone) {
            match value {
                Some(value) => commit.put(&Key::State { state, key: &key }, value),
                None => commit.delete(&Key::State { state, key: &key }),
            }
        }
        match &self.meta {
            Some(meta) => commit.put_value(&Key::SourceState { source: self.source, what: META }, meta),
            None => Ok(()),
        }
    }

    /// How many records of the source have come too late, if that is known anew.
    pub fn stale(&self) -> Option<u64> {
        self.meta.as_ref().map(|meta| meta.stale)
    }
}

/// How many records of a source have come too late.
pub(crate) fn stale(source: Oid, snapshot: &Snapshot) -> Result<u64> {
    let meta: Option<Meta> = snapshot.get_value(&Key::SourceState { source, what: META })?;
    Ok(meta.unwrap_or_default().stale)
}

impl<'a> Order<'a> {
    /// `keys`: those of the records.
    pub fn open(source: Oid, snapshot: &'a Arc<Snapshot>, keys: impl Iterator<Item = &'a [u8]>) -> Result<Self> {
        let meta = snapshot.get_value(&Key::SourceState { source, what: META })?.unwrap_or_default();
        let keys: Vec<&[u8]> = keys.collect::<HashSet<_>>().into_iter().collect();
        let found = versions(source, snapshot, &keys)?;
        let before = keys.into_iter().zip(found).filter_map(|(key, found)| Some((key, found?))).collect();
        Ok(Self { source, snapshot, meta, before, now: BTreeMap::new(), forgotten: Vec::new() })
    }

    /// False if the record comes too late.
    pub fn takes(&mut self, key: &'a [u8], at: &'a [u8], is_gone: bool) -> bool {
        let last = self.now.get(key).map(|(at, _)| *at).or(self.before.get(key).map(|before| before.at.as_slice()));
        if last.max(self.meta.floor.as_deref()).is_some_and(|last| at < last) {
            self.meta.stale += 1;
            return false;
        }
        self.now.insert(key, (at, is_gone));
        true
    }

    /// False if the source was emptied later than there.
    pub fn empties(&mut self, at: &[u8]) -> bool {
        if self.meta.floor.as_deref().is_some_and(|floor| at < floor) {
            self.meta.stale += 1;
            return false;
        }
        self.meta.floor = Some(at.to_vec());
        true
    }

    /// True if what was put for a key in this epoch stood after the source was emptied.
    pub fn survives(&self, key: &[u8]) -> bool {
        self.now.get(key).is_some_and(|(at, _)| Some(*at) > self.meta.floor.as_deref())
    }

    /// Which of the rows with these keys go since the source is emptied: those that did not come after that. What the epoch itself
    /// says of a key counts more.
    pub fn emptied(&mut self, keys: &[&[u8]]) -> Result<Vec<bool>> {
        let found = versions(self.source, self.snapshot, keys)?;
        let mut goes = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            let is_told = self.now.contains_key(key);
            let is_later = found.is_some_and(|found| Some(found.at.as_slice()) > self.meta.floor.as_deref());
            goes.push(is_told || !is_later);
            if !is_told && !is_later {
                self.forgotten.push(key.to_vec());
            }
        }
        Ok(goes)
    }

    pub fn finish(self) -> Result<Written> {
        let Self { source, snapshot, mut meta, before, now, forgotten } = self;
        let (mut versions, mut gone) = (Vec::with_capacity(now.len()), Vec::new());
        let mut back = HashSet::new();
        for (key, (at, is_gone)) in now {
            if let Some(number) = before.get(key).and_then(|before| before.gone) {
                gone.push((number, None));
                back.insert(number);
                meta.gone = meta.gone.saturating_sub(1);
            }
            let number = is_gone.then_some(meta.next);
            if let Some(number) = number {
                gone.push((number, Some(value::frame(key))));
                (meta.next, meta.gone) = (number + 1, meta.gone + 1);
            }
            versions.push((key.to_vec(), Some(value::encode(&Version { at: at.to_vec(), gone: number })?)));
        }
        versions.extend(forgotten.into_iter().map(|key| (key, None)));
        let mut written = Written { source, versions, gone, meta: None };
        forget(&mut meta, snapshot, &back, &mut written)?;
        written.meta = Some(meta);
        Ok(written)
    }
}

/// The oldest of the keys that are gone, if there are too many.
fn forget(meta: &mut Meta, snapshot: &Arc<Snapshot>, back: &HashSet<u64>, written: &mut Written) -> Result<()> {
    if meta.gone <= GONE_KEYS {
        return Ok(());
    }
    let state = by_number(written.source);
    let span = Key::states(state);
    let from = Key::State { state, key: &meta.first.to_be_bytes() }.encode();
    for entry in snapshot.scan(&from, &span.end) {
        if meta.gone <= GONE_KEYS {
            break;
        }
        let (stored, key) = entry?;
        let Key::State { key: number, .. } = Key::decode(&stored)? else { continue };
        let number =
            u64::from_be_bytes(number.try_into().map_err(|_| Error::internal("a number of other than 8 bytes"))?);
        meta.first = number + 1;
        if !back.contains(&number) {
            written.gone.push((number, None));
            written.versions.push((value::unframe(&key)?.to_vec(), None));
            meta.gone -= 1;
        }
    }
    Ok(())
}

fn versions(source: Oid, snapshot: &Snapshot, keys: &[&[u8]]) -> Result<Vec<Option<Version>>> {
    let state = by_key(source);
    let keys: Vec<Key<'_>> = keys.iter().map(|key| Key::State { state, key }).collect();
    let found = snapshot.multi_get(&keys)?;
    found.into_iter().map(|found| found.map(|bytes| value::decode(&bytes)).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use tidemark_storage::{Store, StoreOptions};

    use super::*;

    fn entries(store: &Store, state: StateId) -> usize {
        let span = Key::states(state);
        store.snapshot().scan(&span.start, &span.end).count()
    }

    #[test]
    fn not_all_that_is_gone_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        for epoch in 1..=20u8 {
            let snapshot = store.snapshot();
            // Twenty go, of which ten come back in the next epoch.
            let keys: Vec<[u8; 2]> = (0..20).map(|n| [epoch, n]).chain((0..10).map(|n| [epoch - 1, n])).collect();
            let mut order = Order::open(7, &snapshot, keys.iter().map(<[u8; 2]>::as_slice)).unwrap();
            let (at, earlier) = ([epoch], [epoch - 1]);
            for key in &keys {
                assert!(order.takes(key, &at, key[0] == epoch));
            }
            assert!(!order.takes(&keys[0], &earlier, false));
            let mut commit = store.begin();
            order.finish().unwrap().put(&mut commit).unwrap();
            store.commit(commit, u64::from(epoch), false).unwrap();
        }
        // Those of the last epoch are counted with the next.
        assert!((50..=70).contains(&entries(&store, by_number(7))), "{}", entries(&store, by_number(7)));
        assert_eq!(stale(7, &store.snapshot()).unwrap(), 20);
        let snapshot = store.snapshot();
        let keys = [[1u8, 15], [20, 15]];
        let mut order = Order::open(7, &snapshot, keys.iter().map(<[u8; 2]>::as_slice)).unwrap();
        assert!(order.takes(&keys[0], &[0], false), "forgotten");
        assert!(!order.takes(&keys[1], &[0], false), "remembered");
    }
}
