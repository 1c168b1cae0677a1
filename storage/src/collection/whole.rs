//! Reading all rows of a range, in no order: from sheets where there are any.
//!
//! ```text
//!   range ──▶ sheet, entries, sheet, sheet, entries ──▶ batches ──┐
//!                └─────────────┴──────┴── overlays, gathered ─────┴──▶ the last batches
//! ```

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Delta, Result};

use super::scan::Repeating;
use super::sheets::{Entries, Sheet};
use super::{Collection, CollectionScan, KeyRange};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub struct WholeScan {
    collection: Arc<Collection>,
    snapshot: Arc<Snapshot>,
    columns: Vec<usize>,
    /// Of the batches it yields.
    schema: SchemaRef,
    batch_size: usize,
    pieces: std::vec::IntoIter<Piece>,
    /// Those of a piece.
    entries: Option<CollectionScan>,
    /// Rows that are no longer as in their sheets.
    changed: Entries,
    repeating: Repeating,
}

#[derive(Debug)]
enum Piece {
    Sheet(Sheet),
    Entries(KeyRange),
}

impl WholeScan {
    pub(super) fn new(
        collection: Arc<Collection>,
        snapshot: Arc<Snapshot>,
        range: &KeyRange,
        columns: Vec<usize>,
        schema: SchemaRef,
        batch_size: usize,
    ) -> Result<Self> {
        let sheets = collection.sheets(&snapshot, &range.from, range.to.as_deref())?;
        Ok(Self {
            collection,
            snapshot,
            columns,
            schema,
            batch_size: batch_size.max(1),
            pieces: pieces(range, sheets).into_iter(),
            entries: None,
            changed: Entries::default(),
            repeating: Repeating::default(),
        })
    }

    fn next_delta(&mut self) -> Result<Option<Delta>> {
        loop {
            if let Some(entries) = &mut self.entries
                && let Some(rows) = entries.next_delta()?
            {
                return Ok(Some(rows));
            }
            self.entries = None;
            if self.changed.keys.len() >= self.batch_size {
                return self.next_changed();
            }
            match self.pieces.next() {
                Some(Piece::Entries(range)) => {
                    let columns = Some(self.columns.clone());
                    let scan = self.collection.scan(&self.snapshot, columns, &range, self.batch_size)?;
                    self.entries = Some(scan);
                }
                Some(Piece::Sheet(sheet)) => {
                    let changed = &mut self.changed;
                    let (columns, schema) = (&self.columns, &self.schema);
                    let rows = self.collection.read_sheet(&self.snapshot, &sheet, columns, schema, changed)?;
                    if rows.num_rows() > 0 {
                        return Ok(Some(rows));
                    }
                }
                None => return self.next_changed(),
            }
        }
    }

    fn next_changed(&mut self) -> Result<Option<Delta>> {
        if self.changed.keys.is_empty() {
            return Ok(None);
        }
        let changed = std::mem::take(&mut self.changed);
        self.collection.rows_of(&changed, &self.columns, &self.schema).map(Some)
    }
}

impl Iterator for WholeScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut repeating = std::mem::take(&mut self.repeating);
        let next = repeating.next(self.batch_size, || self.next_delta());
        self.repeating = repeating;
        next
    }
}

/// The range as sheets, which lie within it, and what is between them.
fn pieces(range: &KeyRange, sheets: Vec<Sheet>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(sheets.len() + 1);
    let mut at = range.from.clone();
    for sheet in sheets {
        if at < sheet.head.from {
            pieces.push(Piece::Entries(KeyRange { from: at, to: Some(sheet.head.from.clone()) }));
        }
        at = sheet.to.clone();
        pieces.push(Piece::Sheet(sheet));
    }
    if range.to.as_ref().is_none_or(|to| at < *to) {
        pieces.push(Piece::Entries(KeyRange { from: at, to: range.to.clone() }));
    }
    pieces
}
