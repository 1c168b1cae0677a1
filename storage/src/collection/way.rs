//! A [`Way`] to the rows of a collection: by the first columns of its key, or of an index.
//!
//! ```text
//!   values of those columns, many rows of them
//!      │ encoded: prefixes of keys
//!      ├── the whole key ──────────────────────────────▶ get ─┐
//!      ├── the first columns of the key ── cursor ──▶ entries ├─▶ rows and their weights
//!      └── an index ── get or cursor ──▶ row keys ─────▶ get ─┘
//! ```
//!
//! This is what lets a join look rows up where they are stored already, instead of keeping them again.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Delta, Result};

use super::{Collection, Index, Layout};
use crate::keys::{Key, StateId, successor};
use crate::snapshot::Snapshot;
use crate::value;

#[derive(Debug, Clone)]
pub struct Way {
    collection: Arc<Collection>,
    /// `None`: by the collection's own key.
    index: Option<Arc<Index>>,
    columns: usize,
}

impl Way {
    /// To the rows of `collection` by `columns`, in any way that there is. No value of them may be NULL.
    pub fn by(collection: &Arc<Collection>, indexes: &[Arc<Index>], columns: &[usize]) -> Option<Self> {
        let way = |index| Way { collection: Arc::clone(collection), index, columns: columns.len() };
        // Rows of a multiset are all key: a range of it is found by the first columns only if nothing else orders them.
        if matches!(collection.layout, Layout::Keyed { .. }) && collection.key_columns.starts_with(columns) {
            return Some(way(None));
        }
        // A unique index leads to no row with a NULL in another of its columns.
        let leads = |index: &&Arc<Index>| {
            index.columns().starts_with(columns) && (!index.is_unique() || index.columns().len() == columns.len())
        };
        indexes.iter().filter(leads).min_by_key(|index| index.columns().len()).map(|index| way(Some(Arc::clone(index))))
    }

    /// The rows that have `values` (an array for each column; no two rows of them are the same), as of the snapshot, in any
    /// order; only those whose keys are not beyond `last`. `projection` and `schema` say what to give of them.
    pub fn find(
        &self,
        snapshot: &Snapshot,
        values: &[ArrayRef],
        last: Option<&[u8]>,
        projection: &[usize],
        schema: &SchemaRef,
    ) -> Result<Delta> {
        let keys = self.index.as_ref().map_or(&*self.collection, |index| &index.keys);
        let prefixes = keys.key_codec.encode_prefixes(values)?;
        let seen = |row_key: &[u8]| last.is_none_or(|last| row_key <= last);
        let whole = keys.key_columns.len() == self.columns;
        let Some(index) = &self.index else {
            if whole {
                let row_keys = prefixes.into_iter().filter(|key| seen(key)).collect();
                return self.collection.rows_at(snapshot, row_keys, projection, schema);
            }
            let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            visit(snapshot, self.collection.id, &prefixes, |row_key, stored| {
                if seen(row_key) {
                    entries.push((row_key.to_vec(), value::unframe(stored)?.to_vec()));
                }
                Ok(())
            })?;
            let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) =
                entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).unzip();
            return self.collection.delta_of(&keys, &values, projection, schema);
        };
        let mut row_keys: Vec<Vec<u8>> = Vec::new();
        let mut each = |stored: &[u8]| {
            let row_key = value::unframe(stored)?;
            if seen(row_key) {
                row_keys.push(row_key.to_vec());
            }
            Ok(())
        };
        if index.is_unique() && whole {
            let wanted = prefixes.iter().map(|key| Key::Row { collection: index.id(), key }.encode());
            let found = snapshot.multi_get_encoded(&wanted.collect::<Vec<_>>())?;
            found.iter().flatten().try_for_each(|stored| each(stored))?;
        } else {
            visit(snapshot, index.id(), &prefixes, |_, stored| each(stored))?;
        }
        let wanted = row_keys.len();
        let rows = self.collection.rows_at(snapshot, row_keys, projection, schema)?;
        match rows.num_rows() == wanted {
            true => Ok(rows),
            false => Err(index.astray(&self.collection)),
        }
    }
}

/// Calls `each` with the entries of a collection whose keys start with one of `prefixes`.
fn visit(
    snapshot: &Snapshot,
    collection: StateId,
    prefixes: &[Vec<u8>],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let rows = Key::rows(collection);
    let own = rows.start.len();
    let mut sorted: Vec<&[u8]> = prefixes.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let mut cursor = snapshot.cursor(rows.clone());
    for prefix in sorted {
        let from = [&rows.start, prefix].concat();
        let to = successor(&from).unwrap_or_else(|| rows.end.clone());
        cursor.visit(&from, &to, |key, stored| {
            each(&key[own..], stored)?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}
