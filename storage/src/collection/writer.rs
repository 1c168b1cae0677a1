//! Writing a collection: the net of a [`Delta`] over what is there.
//!
//! ```text
//!   delta ──rows of one key together──▶ what is there now + changes = what is left ──▶ put or delete
//!                                        ▲ KeyedState over the collection's own keys: hot rows need no read,
//!                                          and what this epoch has written already counts
//! ```
//!
//! Many new rows of a collection that may have blocks are one: see [`blocks`](super::blocks). Changes of rows that have a copy by
//! column are told there, too: see [`sheets`](super::sheets).
//!
//! Indexes of the collection get their entries here too: each key whose row came, went or is another one moves them.
//!
//! A delta that contradicts the contents (two rows left for one key, a row taken away that was not there) is a fault of the
//! engine and stops before anything is changed.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::max;
use tidemark_common::{Delta, Error, Oid, Result};

use super::blocks::{self, Block, GONE, MIN_BLOCK_ROWS};
use super::folding::{FoldRules, Folding};
use super::index::{Index, Move};
use super::{Collection, Contents, FoundRows, Layout, weight_of};
use crate::commit::EpochCommit;
use crate::keys::Key;
use crate::rows::EncodedRows;
use crate::snapshot::Snapshot;
use crate::state::KeyedState;

#[derive(Debug)]
pub struct CollectionWriter {
    collection: Arc<Collection>,
    cache: KeyedState,
    /// Read when first needed, then kept.
    contents: Option<Contents>,
    indexes: Vec<Arc<Index>>,
    /// Blocks, if rows may be in them; read when first needed, then kept.
    blocks: Option<Vec<Block>>,
    /// The last number that a row has or had, where they may be in blocks; read when first needed, then kept.
    last_number: Option<i64>,
    /// Its sheets, if it may have any; read when first needed, then kept.
    folding: Option<Folding>,
}

/// What becomes of the key of row `key` of a delta.
enum Change {
    /// It gets the value of this row, in the place of that one's.
    Put { key: usize, value: usize, before: Option<usize> },
    /// It gets this weight.
    Weigh { key: usize, weight: i64, is_new: bool },
    /// This row was there.
    Delete { key: usize, before: usize },
}

impl Change {
    /// What it means to an index.
    fn as_move(&self, keys: &EncodedRows) -> Option<Move> {
        let (key, gone, come) = match *self {
            Change::Put { key, value, before } => (key, before, Some(value)),
            Change::Weigh { key, is_new, .. } => (key, None, Some(key).filter(|_| is_new)),
            Change::Delete { key, before } => (key, Some(before), None),
        };
        (gone.is_some() || come.is_some()).then(|| Move { row_key: keys.row(key).to_vec(), gone, come })
    }
}

/// Values as they are stored: one row has one form, whenever it came.
struct Values {
    rows: EncodedRows,
    collection: Arc<Collection>,
}

impl Values {
    fn row(&self, index: usize) -> &[u8] {
        self.collection.value_codec.stored(self.rows.row(index))
    }
}

impl CollectionWriter {
    /// Keeps about `budget_bytes` of rows in memory. One writer a collection.
    pub fn new(collection: Arc<Collection>, budget_bytes: usize) -> Self {
        let prefix = Key::Row { collection: collection.id, key: &[] }.encode();
        Self {
            collection,
            cache: KeyedState::over(prefix, budget_bytes),
            contents: None,
            indexes: Vec::new(),
            blocks: None,
            last_number: None,
            folding: None,
        }
    }

    /// Keeps these indexes up to date from now on.
    #[must_use]
    pub fn with_indexes(mut self, indexes: impl IntoIterator<Item = Arc<Index>>) -> Self {
        indexes.into_iter().for_each(|index| self.add_index(index));
        self
    }

    /// Keeps an index, which holds what the collection holds, up to date from now on.
    pub fn add_index(&mut self, index: Arc<Index>) {
        self.indexes.retain(|kept| kept.id() != index.id());
        self.indexes.push(index);
    }

    pub fn indexes(&self) -> &[Arc<Index>] {
        &self.indexes
    }

    /// Forgets an object's indexes.
    pub fn remove_indexes_of(&mut self, oid: Oid) {
        self.indexes.retain(|kept| kept.id().oid() != oid);
    }

    pub fn collection(&self) -> &Arc<Collection> {
        &self.collection
    }

    /// Bytes of rows in memory.
    pub fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// How many rows there are, with those of the epoch being made.
    pub fn row_count(&mut self, snapshot: &Snapshot) -> Result<u64> {
        Ok(self.contents(snapshot)?.rows)
    }

    /// Writes the net of `delta` into `commit`. `snapshot` is of the last commit; earlier calls since then count.
    pub fn apply(&mut self, snapshot: &Snapshot, delta: &Delta, commit: &mut EpochCommit) -> Result<()> {
        if delta.is_empty() {
            return Ok(());
        }
        let contents = self.contents(snapshot)?;
        if let Some(first) = self.first_of_blocks(snapshot, delta)? {
            let written = self.collection.write_blocks(first, &delta.batch, commit)?;
            self.blocks.iter_mut().for_each(|blocks| blocks.extend_from_slice(&written));
            return self.put_contents(self.counted(contents, delta.num_rows() as i64)?, commit);
        }
        let (contents, moves) = match self.collection.layout {
            Layout::Keyed { .. } => self.apply_keyed(snapshot, delta, contents, commit)?,
            Layout::Sequence => self.append(delta, contents, commit)?,
            Layout::Multiset => self.apply_multiset(snapshot, delta, contents, commit)?,
        };
        self.cache.flush(commit);
        for index in &self.indexes {
            index.write(&delta.batch, &moves, commit)?;
        }
        self.put_contents(contents, commit)
    }

    /// The next step by which rows that rest are kept by column, too. What the collection holds does not change: whoever reads the
    /// snapshot finds the same before and after it. `now`: in microseconds. `None`: nothing to do now.
    pub fn fold(&mut self, snapshot: &Arc<Snapshot>, rules: FoldRules, now: i64) -> Result<Option<EpochCommit>> {
        if self.collection.in_blocks {
            return Ok(None);
        }
        let (collection, rows) = (Arc::clone(&self.collection), self.contents(snapshot)?.rows);
        self.folding(snapshot)?.step(&collection, snapshot, rows, rules, now)
    }

    /// Removes all rows.
    pub fn truncate(&mut self, snapshot: &Snapshot, commit: &mut EpochCommit) -> Result<()> {
        let contents = Contents { rows: 0, ..self.contents(snapshot)? };
        self.cache.clear();
        self.cache.flush(commit);
        commit.delete_columns(self.collection.id);
        self.blocks = Some(Vec::new());
        self.folding.iter_mut().for_each(Folding::clear);
        self.indexes.iter().for_each(|index| commit.delete_collection(index.id()));
        self.put_contents(contents, commit)
    }

    /// The rows with these keys, with what this epoch has changed: for checks that come before [`CollectionWriter::apply`].
    pub fn current<K: AsRef<[u8]>>(&mut self, snapshot: &Snapshot, keys: &[K]) -> Result<FoundRows> {
        self.cache.load(snapshot, keys)?;
        let standing = self.standing(snapshot, keys)?;
        let values: Vec<Option<&[u8]>> =
            (0..keys.len()).map(|at| self.before(keys[at].as_ref(), standing.get(&at))).collect();
        self.collection.found_rows(keys, &values)
    }

    /// The number of the first of these rows, if they can be blocks: new, many, and looked for by no index.
    fn first_of_blocks(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Option<u64>> {
        if !self.collection.in_blocks {
            return Ok(None);
        }
        let known = match self.last_number {
            Some(known) => known,
            None => self.collection.last_number(snapshot)?.unwrap_or(-1),
        };
        let numbers = self.collection.numbers(&delta.batch)?;
        self.last_number = Some(max(numbers).map_or(known, |last| last.max(known)));
        let come = delta.weights.is_none() && self.indexes.is_empty() && delta.num_rows() >= MIN_BLOCK_ROWS;
        let follow = || numbers.null_count() == 0 && numbers.values().windows(2).all(|two| two[0] + 1 == two[1]);
        let first = numbers.values().first().copied().filter(|first| come && *first > known && follow());
        Ok(first.and_then(|first| u64::try_from(first).ok()))
    }

    /// Rows of blocks that no entry speaks of, by position in `keys`, which are loaded.
    fn standing<K: AsRef<[u8]>>(&mut self, snapshot: &Snapshot, keys: &[K]) -> Result<HashMap<usize, Vec<u8>>> {
        let unknown = (0..keys.len()).filter(|&at| self.cache.get(keys[at].as_ref()).is_none());
        Ok(self.collection.in_blocks(snapshot, keys, unknown)?.into_iter().collect())
    }

    /// What is at a key that is loaded. `standing`: in its block.
    fn before<'a>(&'a self, key: &[u8], standing: Option<&'a Vec<u8>>) -> Option<&'a [u8]> {
        match self.cache.get(key) {
            None => standing.map(Vec::as_slice),
            entry => entry.filter(|entry| !self.collection.in_blocks || *entry != GONE),
        }
    }

    /// Takes out what is at a key.
    fn take_out(&mut self, snapshot: &Snapshot, key: &[u8]) -> Result<()> {
        if self.blocks.is_none() {
            self.blocks = Some(self.collection.blocks(snapshot)?);
        }
        match self.blocks.as_ref().is_some_and(|blocks| blocks::holds(blocks, key)) {
            true => self.cache.put(key, GONE),
            false => self.cache.delete(key),
        }
        Ok(())
    }

    fn contents(&mut self, snapshot: &Snapshot) -> Result<Contents> {
        match self.contents {
            Some(contents) => Ok(contents),
            None => {
                let contents = self.collection.contents(snapshot)?;
                self.contents = Some(contents);
                Ok(contents)
            }
        }
    }

    fn put_contents(&mut self, contents: Contents, commit: &mut EpochCommit) -> Result<()> {
        if self.contents != Some(contents) {
            self.contents = Some(contents);
            commit.put_value(&Key::RowCount(self.collection.id), &contents)?;
        }
        Ok(())
    }

    fn apply_keyed(
        &mut self,
        snapshot: &Snapshot,
        delta: &Delta,
        contents: Contents,
        commit: &mut EpochCommit,
    ) -> Result<(Contents, Vec<Move>)> {
        let keys = self.collection.key_of(&delta.batch)?;
        let values = self.encode_values(delta)?;
        let order = self.load_in_order(snapshot, &keys)?;
        let standing = match self.collection.in_blocks {
            true => self.standing(snapshot, &keys.iter().collect::<Vec<_>>())?,
            false => HashMap::new(),
        };
        let mut changes = Vec::new();
        let mut rows = 0;
        // What may be left for one key, each with its weight.
        let mut left: Vec<(&[u8], Option<usize>, i64)> = Vec::new();
        for group in order.chunk_by(|&a, &b| keys.row(a) == keys.row(b)) {
            let key = group[0];
            let before = self.before(keys.row(key), standing.get(&key));
            left.clear();
            left.extend(before.map(|value| (value, None, 1)));
            for &row in group {
                let value = values.row(row);
                match left.iter_mut().find(|(other, ..)| *other == value) {
                    Some((.., weight)) => *weight += delta.weight(row),
                    None => left.push((value, Some(row), delta.weight(row))),
                }
            }
            left.retain(|(.., weight)| *weight != 0);
            // What was there has gone, so the delta has it.
            let row_of = |before: Option<&[u8]>| {
                let before = before?;
                group.iter().copied().find(|&row| values.row(row) == before)
            };
            match left[..] {
                [] => match row_of(before) {
                    Some(before) => changes.push(Change::Delete { key, before }),
                    None => continue,
                },
                [(_, None, 1)] => continue,
                [(_, Some(value), 1)] => changes.push(Change::Put { key, value, before: row_of(before) }),
                _ => return Err(self.contradiction(keys.row(key), &left.iter().map(|l| l.2).collect::<Vec<_>>())),
            }
            rows += left.len() as i64 - i64::from(before.is_some());
        }
        self.carry_out(snapshot, &changes, &keys, Some(&values), commit)?;
        Ok((self.counted(contents, rows)?, self.moves(&changes, &keys)))
    }

    fn apply_multiset(
        &mut self,
        snapshot: &Snapshot,
        delta: &Delta,
        contents: Contents,
        commit: &mut EpochCommit,
    ) -> Result<(Contents, Vec<Move>)> {
        let keys = self.collection.key_of(&delta.batch)?;
        let order = self.load_in_order(snapshot, &keys)?;
        let mut changes = Vec::new();
        let mut rows = 0;
        for group in order.chunk_by(|&a, &b| keys.row(a) == keys.row(b)) {
            let key = group[0];
            let before = self.cache.get(keys.row(key)).map_or(Ok(0), weight_of)?;
            let net: i64 = group.iter().map(|&row| delta.weight(row)).sum();
            rows += net;
            match before + net {
                _ if net == 0 => {}
                0 => changes.push(Change::Delete { key, before: key }),
                weight if weight > 0 => changes.push(Change::Weigh { key, weight, is_new: before == 0 }),
                weight => return Err(self.contradiction(keys.row(key), &[weight])),
            }
        }
        self.carry_out(snapshot, &changes, &keys, None, commit)?;
        Ok((self.counted(contents, rows)?, self.moves(&changes, &keys)))
    }

    fn append(&mut self, delta: &Delta, contents: Contents, commit: &mut EpochCommit) -> Result<(Contents, Vec<Move>)> {
        let values = self.encode_values(delta)?;
        if let Some(row) = (0..delta.num_rows()).find(|&row| delta.weight(row) < 0) {
            let name = &self.collection.name;
            return Err(Error::internal(format!("{name}: row {row} of a delta would be taken from a sequence")));
        }
        let prefix = Key::Row { collection: self.collection.id, key: &[] }.encode();
        let mut next = contents.next_sequence;
        let mut moves = Vec::new();
        for row in 0..delta.num_rows() {
            for _ in 0..delta.weight(row) {
                let key = next.to_be_bytes();
                commit.put_framed(&prefix, &key, values.row(row));
                if !self.indexes.is_empty() {
                    moves.push(Move { row_key: key.to_vec(), gone: None, come: Some(row) });
                }
                next += 1;
            }
        }
        Ok((Contents { rows: contents.rows + (next - contents.next_sequence), next_sequence: next }, moves))
    }

    /// For the indexes, if there are any.
    fn moves(&self, changes: &[Change], keys: &EncodedRows) -> Vec<Move> {
        let changes = if self.indexes.is_empty() { &[] } else { changes };
        changes.iter().filter_map(|change| change.as_move(keys)).collect()
    }

    fn encode_values(&self, delta: &Delta) -> Result<Values> {
        let columns: Vec<ArrayRef> =
            self.collection.value_columns.iter().map(|&c| Arc::clone(delta.batch.column(c))).collect();
        let rows = self.collection.value_codec.encode_rows(&columns, delta.num_rows())?;
        Ok(Values { rows, collection: Arc::clone(&self.collection) })
    }

    /// Loads the keys and gives the rows in the order of their keys, rows of one key as they came.
    fn load_in_order(&mut self, snapshot: &Snapshot, keys: &EncodedRows) -> Result<Vec<usize>> {
        self.cache.load(snapshot, &keys.iter().collect::<Vec<_>>())?;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|&a, &b| keys.row(a).cmp(keys.row(b)));
        Ok(order)
    }

    fn carry_out(
        &mut self,
        snapshot: &Snapshot,
        changes: &[Change],
        keys: &EncodedRows,
        values: Option<&Values>,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        let overlay = Key::overlay(self.collection.id).start;
        for change in changes {
            match *change {
                Change::Put { key, value, .. } => {
                    let values = values.ok_or_else(|| Error::internal("a keyed change without values"))?;
                    self.cache.put(keys.row(key), values.row(value));
                    self.overlay(snapshot, (&overlay, keys.row(key)), values.row(value), commit)?;
                }
                Change::Weigh { key, weight, .. } => {
                    let mut buffer = [0; 10];
                    let encoded = postcard::to_slice(&weight, &mut buffer)
                        .map_err(|e| Error::internal(format!("cannot encode weight {weight}: {e}")))?;
                    self.cache.put(keys.row(key), encoded);
                    self.overlay(snapshot, (&overlay, keys.row(key)), encoded, commit)?;
                }
                Change::Delete { key, .. } => {
                    self.take_out(snapshot, keys.row(key))?;
                    self.overlay(snapshot, (&overlay, keys.row(key)), GONE, commit)?;
                }
            }
        }
        Ok(())
    }

    /// Tells the overlay, which begins with `prefix`, if the key is one of a sheet's.
    fn overlay(
        &mut self,
        snapshot: &Snapshot,
        (prefix, key): (&[u8], &[u8]),
        value: &[u8],
        commit: &mut EpochCommit,
    ) -> Result<()> {
        if !self.collection.in_blocks && self.folding(snapshot)?.changes(key) {
            commit.put_framed(prefix, key, value);
        }
        Ok(())
    }

    fn folding(&mut self, snapshot: &Snapshot) -> Result<&mut Folding> {
        match self.folding.take() {
            Some(folding) => Ok(self.folding.insert(folding)),
            None => Ok(self.folding.insert(Folding::open(&self.collection, snapshot)?)),
        }
    }

    fn counted(&self, contents: Contents, rows: i64) -> Result<Contents> {
        let rows = contents.rows.checked_add_signed(rows).ok_or_else(|| {
            Error::internal(format!("{}: {} rows and {rows:+} of them", self.collection.name, contents.rows))
        })?;
        Ok(Contents { rows, ..contents })
    }

    fn contradiction(&self, key: &[u8], weights: &[i64]) -> Error {
        let name = &self.collection.name;
        Error::internal(format!("{name}: a delta leaves rows with weights {weights:?} for one key"))
            .with_detail(format!("The key's bytes are {key:02x?}."))
    }
}
