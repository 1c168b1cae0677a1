//! An [`EpochCommit`]: all that one epoch writes, gathered in order, to become one RocksDB WriteBatch.
//!
//! Later operations win over earlier ones on the same key, a range deletion removes what was put before it and leaves
//! what is put after it. Shards may each fill their own; [`EpochCommit::append`] joins them.

use rocksdb::WriteBatch;
use serde::Serialize;
use tidemark_common::{Epoch, Oid, Result};

use crate::keys::{Key, Span, StateId};
use crate::value;

#[derive(Debug)]
pub struct EpochCommit {
    epoch: Epoch,
    /// Keys and values one after the other, as `ops` cuts them.
    data: Vec<u8>,
    ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy)]
struct Op {
    kind: Kind,
    /// Where the key (or the range's start) ends in `data`, and then the value (or the range's end).
    key_end: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

/// What one operation of a commit changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written<'a> {
    Key(&'a [u8]),
    /// From the first to before the second.
    Range(&'a [u8], &'a [u8]),
}

impl EpochCommit {
    /// What `epoch` will write. See [`Store::begin`](crate::Store::begin) for the next epoch's.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, data: Vec::new(), ops: Vec::new() }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// `value` starts with its format version: see [`value`].
    pub fn put(&mut self, key: &Key<'_>, value: &[u8]) {
        debug_assert_eq!(value.first(), Some(&value::VERSION), "{key:?} without a format version");
        key.encode_into(&mut self.data);
        self.close_put(value);
    }

    /// Puts `value` in its frame.
    pub fn put_value<T: Serialize + ?Sized>(&mut self, key: &Key<'_>, value: &T) -> Result<()> {
        self.put(key, &value::encode(value)?);
        Ok(())
    }

    /// Puts `value`, framed here, at the encoded key `prefix` ++ `key`.
    pub(crate) fn put_framed(&mut self, prefix: &[u8], key: &[u8], value: &[u8]) {
        self.data.extend_from_slice(prefix);
        self.data.extend_from_slice(key);
        let key_end = self.data.len();
        self.data.push(value::VERSION);
        self.data.extend_from_slice(value);
        self.ops.push(Op { kind: Kind::Put, key_end, end: self.data.len() });
    }

    pub fn delete(&mut self, key: &Key<'_>) {
        key.encode_into(&mut self.data);
        self.close_delete();
    }

    /// Deletes the encoded key `prefix` ++ `key`.
    pub(crate) fn delete_encoded(&mut self, prefix: &[u8], key: &[u8]) {
        self.data.extend_from_slice(prefix);
        self.data.extend_from_slice(key);
        self.close_delete();
    }

    /// Deletes all encoded keys from `from` to before `to`.
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        if from >= to {
            return;
        }
        self.data.extend_from_slice(from);
        let key_end = self.data.len();
        self.data.extend_from_slice(to);
        self.ops.push(Op { kind: Kind::DeleteRange, key_end, end: self.data.len() });
    }

    pub fn delete_span(&mut self, span: &Span) {
        self.delete_range(&span.start, &span.end);
    }

    /// Deletes the rows of a collection and their count.
    pub fn delete_collection(&mut self, collection: StateId) {
        self.delete_span(&Key::rows(collection));
        self.delete_columns(collection);
        self.delete(&Key::RowCount(collection));
    }

    /// Deletes what is kept of a collection by column.
    pub(crate) fn delete_columns(&mut self, collection: StateId) {
        self.delete_span(&Key::columns(collection));
    }

    /// Deletes the blocks of a collection, whose rows are entries now.
    pub fn delete_blocks(&mut self, collection: StateId) {
        self.delete_span(&Key::blocks(collection));
    }

    /// Deletes one operator's state.
    pub fn delete_state(&mut self, state: StateId) {
        self.delete_span(&Key::states(state));
    }

    /// Deletes all that is kept of an object but its definition: what DROP frees.
    pub fn delete_all_of(&mut self, oid: Oid) {
        self.delete_data_of(oid);
        self.delete_span(&Key::jobs(oid));
        self.delete_span(&Key::outbox(oid));
        self.delete_span(&Key::source_positions(oid));
        self.delete_span(&Key::source_states(oid));
        self.delete_span(&Key::set_aside(oid));
    }

    /// Deletes the rows and the state of every node of an object: it is to be built anew.
    pub fn delete_data_of(&mut self, oid: Oid) {
        self.delete_span(&Key::rows_of_object(oid));
        self.delete_span(&Key::columns_of_object(oid));
        self.delete_span(&Key::row_counts_of_object(oid));
        self.delete_span(&Key::states_of_object(oid));
    }

    /// Deletes what a sink has delivered.
    pub fn delete_outbox_through(&mut self, sink: Oid, epoch: Epoch) {
        self.delete_span(&Key::outbox_through(sink, epoch));
    }

    /// Adds what `other` holds, after what is here.
    pub fn append(&mut self, other: &EpochCommit) {
        let base = self.data.len();
        self.data.extend_from_slice(&other.data);
        self.ops.extend(other.ops.iter().map(|op| Op {
            kind: op.kind,
            key_end: op.key_end + base,
            end: op.end + base,
        }));
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Puts, deletions and range deletions.
    pub fn entries(&self) -> usize {
        self.ops.len()
    }

    pub fn range_deletions(&self) -> usize {
        self.ops.iter().filter(|op| matches!(op.kind, Kind::DeleteRange)).count()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// What it changes, in the order of its operations.
    pub(crate) fn written(&self) -> impl Iterator<Item = Written<'_>> {
        let mut start = 0;
        self.ops.iter().map(move |op| {
            let (key, value) = (&self.data[start..op.key_end], &self.data[op.key_end..op.end]);
            start = op.end;
            match op.kind {
                Kind::Put | Kind::Delete => Written::Key(key),
                Kind::DeleteRange => Written::Range(key, value),
            }
        })
    }

    pub(crate) fn to_batch(&self) -> WriteBatch {
        /// What RocksDB adds to an entry, at most: a tag and two lengths.
        const OVERHEAD: usize = 11;
        let mut batch = WriteBatch::with_capacity_bytes(self.data.len() + self.ops.len() * OVERHEAD);
        let mut start = 0;
        for op in &self.ops {
            let (key, value) = (&self.data[start..op.key_end], &self.data[op.key_end..op.end]);
            match op.kind {
                Kind::Put => batch.put(key, value),
                Kind::Delete => batch.delete(key),
                Kind::DeleteRange => batch.delete_range(key, value),
            }
            start = op.end;
        }
        batch
    }

    fn close_put(&mut self, value: &[u8]) {
        let key_end = self.data.len();
        self.data.extend_from_slice(value);
        self.ops.push(Op { kind: Kind::Put, key_end, end: self.data.len() });
    }

    fn close_delete(&mut self) {
        let end = self.data.len();
        self.ops.push(Op { kind: Kind::Delete, key_end: end, end });
    }
}
