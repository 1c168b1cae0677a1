//! The log of a transaction's changes of one table, and its index by key.
//!
//! ```text
//!   remove, add ──▶ log ──▶ entries by key: the row before, the row now, those in between
//!   append      ──▶ log ──▶ runs: new rows with numbers that follow each other, found by arithmetic
//! ```
//!
//! Rows of a table without a primary key are mostly appended, millions of them in a COPY: a run costs nothing for each. A row of a run
//! that is changed afterwards has an entry, which counts.

use std::collections::BTreeMap;
use std::ops::Bound;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::interleave_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::Result;
use tidemark_storage::{EncodedRows, MIN_BLOCK_ROWS, key_of_number, number_of_key};

/// A row of a batch in the log.
pub type RowAt = (usize, usize);

/// What stands under a key from a place in the log on.
#[derive(Debug, Clone, Copy)]
struct Version {
    since: usize,
    row: Option<RowAt>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// The row in the snapshot, if the transaction took one out.
    before: Option<RowAt>,
    now: Version,
    /// What stood there before, oldest first: statements that began then still read it.
    older: Vec<Version>,
}

impl Entry {
    fn new(before: Option<RowAt>, now: Version) -> Self {
        Self { before, now, older: Vec::new() }
    }

    fn put(&mut self, version: Version) {
        self.older.push(std::mem::replace(&mut self.now, version));
    }

    /// As of a place in the log; `None`: not touched by then.
    fn at(&self, upto: usize) -> Option<Version> {
        if self.now.since < upto {
            return Some(self.now);
        }
        let known = self.older.partition_point(|version| version.since < upto);
        known.checked_sub(1).map(|last| self.older[last])
    }
}

/// The rows of a batch, all of them new.
#[derive(Debug, Clone, Copy)]
struct Run {
    since: usize,
    batch: usize,
    first: i64,
    rows: usize,
}

impl Run {
    fn end(&self) -> i64 {
        self.first + self.rows as i64
    }

    /// The first key, and the one after the last.
    fn keys(&self) -> ([u8; 9], [u8; 9]) {
        (key_of_number(self.first), key_of_number(self.end()))
    }

    fn version(&self, number: i64) -> Version {
        Version { since: self.since, row: Some((self.batch, (number - self.first) as usize)) }
    }
}

#[derive(Debug, Clone)]
pub enum Logged {
    Removed(RecordBatch),
    Added(RecordBatch),
    /// Rows with the numbers from this one on.
    Appended(RecordBatch, i64),
}

impl Logged {
    pub fn rows(&self) -> &RecordBatch {
        let (Logged::Removed(rows) | Logged::Added(rows) | Logged::Appended(rows, _)) = self;
        rows
    }
}

/// The log and its index by key. Grows only, so that who has read up to a place in it can go on.
#[derive(Debug, Default)]
pub struct Changes {
    pub log: Vec<Logged>,
    batches: Vec<RecordBatch>,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Their numbers rise.
    runs: Vec<Run>,
    /// Memory of the rows, roughly.
    pub bytes: usize,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.runs.is_empty()
    }

    pub fn remove(&mut self, batch: RecordBatch, keys: &EncodedRows) {
        let (at, since) = (self.keep(&batch), self.log.len());
        for (i, key) in keys.iter().enumerate() {
            let gone = Version { since, row: None };
            match self.entries.get_mut(key) {
                Some(entry) => entry.put(gone),
                None => {
                    let entry = match self.appended(key) {
                        Some(row) => Entry { before: None, now: gone, older: vec![row] },
                        None => Entry::new(Some((at, i)), gone),
                    };
                    self.entries.insert(key.to_vec(), entry);
                }
            }
        }
        self.log.push(Logged::Removed(batch));
    }

    /// False if a row has its key already.
    pub fn add(&mut self, batch: RecordBatch, keys: &EncodedRows) -> bool {
        let (at, since) = (self.keep(&batch), self.log.len());
        for (i, key) in keys.iter().enumerate() {
            let row = Version { since, row: Some((at, i)) };
            match self.entries.get_mut(key) {
                Some(entry) if entry.now.row.is_some() => return false,
                Some(entry) => entry.put(row),
                None => {
                    if self.appended(key).is_some() {
                        return false;
                    }
                    self.entries.insert(key.to_vec(), Entry::new(None, row));
                }
            }
        }
        self.log.push(Logged::Added(batch));
        true
    }

    /// Adds rows with the numbers from `first` on, which are beyond all that were given before.
    pub fn append(&mut self, batch: RecordBatch, first: i64) {
        debug_assert!(self.runs.last().is_none_or(|run| run.end() <= first));
        let (rows, since) = (batch.num_rows(), self.log.len());
        self.bytes += batch.get_array_memory_size();
        self.runs.push(Run { since, batch: self.batches.len(), first, rows });
        self.batches.push(batch.clone());
        self.log.push(Logged::Appended(batch, first));
    }

    fn keep(&mut self, batch: &RecordBatch) -> usize {
        self.bytes += batch.get_array_memory_size() + batch.num_rows() * 64;
        self.batches.push(batch.clone());
        self.batches.len() - 1
    }

    /// The row of a run with this key.
    fn appended(&self, key: &[u8]) -> Option<Version> {
        if self.runs.is_empty() {
            return None;
        }
        let number = number_of_key(key)?;
        let run = &self.runs[self.runs.partition_point(|run| run.first <= number).checked_sub(1)?];
        (number < run.end()).then(|| run.version(number))
    }

    /// The row under a key has been changed before this place in the log.
    pub fn touches(&self, key: &[u8], upto: usize) -> bool {
        match self.entries.get(key) {
            Some(entry) => entry.at(upto).is_some(),
            None => self.appended(key).is_some_and(|row| row.since < upto),
        }
    }

    /// True, and the row that is there now, for a key that was touched.
    pub fn lookup(&self, key: &[u8]) -> Option<Option<RowAt>> {
        self.entries.get(key).map(|entry| entry.now.row).or_else(|| self.appended(key).map(|version| version.row))
    }

    /// Rows of the snapshot that were taken out.
    pub fn before(&self) -> Vec<RowAt> {
        self.entries.values().filter_map(|entry| entry.before).collect()
    }

    /// The rows put in before a place in the log, and still there then, in order of key.
    pub fn standing(&self, upto: usize, from: &[u8], to: Option<&[u8]>) -> Vec<RowAt> {
        let mut rows = Vec::new();
        if to.is_some_and(|to| from >= to) {
            return rows;
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = self.entries.range::<[u8], _>((Bound::Included(from), upper)).peekable();
        let standing = |entry: &Entry| entry.at(upto).and_then(|version| version.row);
        for run in self.runs.iter().filter(|run| run.since < upto) {
            let (first, end) = run.keys();
            if to.is_some_and(|to| to <= first.as_slice()) {
                break;
            }
            if end.as_slice() <= from {
                continue;
            }
            while let Some((_, entry)) = entries.next_if(|(at, _)| at.as_slice() < first.as_slice()) {
                rows.extend(standing(entry));
            }
            let is_whole = first.as_slice() >= from && to.is_none_or(|to| end.as_slice() <= to);
            if is_whole && entries.peek().is_none_or(|(at, _)| at.as_slice() >= end.as_slice()) {
                rows.extend((0..run.rows).map(|row| (run.batch, row)));
                continue;
            }
            for number in run.first..run.end() {
                let key = key_of_number(number);
                match entries.next_if(|(at, _)| at.as_slice() == key.as_slice()) {
                    Some((_, entry)) => rows.extend(standing(entry)),
                    None if key.as_slice() >= from && to.is_none_or(|to| key.as_slice() < to) => {
                        rows.extend(run.version(number).row);
                    }
                    None => {}
                }
            }
        }
        rows.extend(entries.filter_map(|(_, entry)| standing(entry)));
        rows
    }

    /// All rows put in that are still there, in order of key: batches as they were put in where they are large and none of their rows
    /// was changed.
    pub fn current(&self, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let whole = |run: &Run| {
            let (first, end) = run.keys();
            run.rows >= MIN_BLOCK_ROWS
                && self
                    .entries
                    .range::<[u8], _>((Bound::Included(&first[..]), Bound::Excluded(&end[..])))
                    .next()
                    .is_none()
        };
        let mut batches = Vec::new();
        let mut from = Vec::new();
        let gather = |from: &[u8], to: Option<&[u8]>| -> Result<Option<RecordBatch>> {
            let rows = self.standing(usize::MAX, from, to);
            if rows.is_empty() { Ok(None) } else { self.gather(&rows, schema).map(Some) }
        };
        for run in self.runs.iter().filter(|run| whole(run)) {
            let (first, end) = run.keys();
            batches.extend(gather(&from, Some(&first))?);
            batches.push(self.batches[run.batch].clone());
            from = end.to_vec();
        }
        batches.extend(gather(&from, None)?);
        Ok(batches)
    }

    /// These rows, at a cost that does not depend on how many others there are.
    pub fn gather(&self, rows: &[RowAt], schema: &SchemaRef) -> Result<RecordBatch> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(schema.clone()));
        }
        let mut used: Vec<usize> = rows.iter().map(|(batch, _)| *batch).collect();
        used.sort_unstable();
        used.dedup();
        let batches: Vec<&RecordBatch> = used.iter().map(|batch| &self.batches[*batch]).collect();
        let rows: Vec<RowAt> =
            rows.iter().map(|(batch, row)| (used.partition_point(|known| known < batch), *row)).collect();
        Ok(interleave_record_batch(&batches, &rows)?)
    }
}
