//! Sheets: rows kept a second time, column by column, for those who read all of them.
//!
//! ```text
//!   keys       a b c d e f g h i j k l m n o p q r s t u v ..
//!   entries    every row, as it is now: for lookups, indexes, joins
//!   sheets     └─ sheet 0 ─┘└─ sheet 1 ──┘     └ sheet 2┘       rows as they were when the sheet was made
//!   overlay          d: GONE   k: row                           what has become of the keys of a sheet since
//!
//!   all rows = sheet 0 without d + sheet 1 without k + entries n o p + sheet 2 + entries from u on + k of the overlay
//!
//!   Part::Sheet { to: key }                       number, first key, how many rows, whether they have weights (postcard)
//!   Part::SheetColumn { sheet: 0, column: 0 }     the rows' keys, ascending
//!   Part::SheetColumn { sheet: 0, column: 1 + c } column c: see `column`
//!   Part::SheetColumn { sheet: 0, column: MAX }   the rows' weights, of a multiset where not all are 1
//!   Part::Overlay { key }                         as the row's entry, or GONE
//! ```
//!
//! Whoever reads all rows takes the columns as they stand, some fifty rows in the time of one entry; whoever looks a row up does not
//! know of sheets. The price is a second copy on disk, and a second entry for a change within a sheet, so only rows
//! that rest get one: [`folding`](super::folding) decides.
//!
//! **Invariant:** sheets do not overlap, and are never changed. Within a sheet's keys, its rows and the overlay over them are the entries.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions,
};
use datafusion::arrow::compute::{filter, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use serde::{Deserialize, Serialize};
use tidemark_common::{Delta, Result};

use super::blocks::{GONE, place};
use super::{Collection, column};
use crate::commit::EpochCommit;
use crate::keys::{Key, Part};
use crate::snapshot::{Chunk, Direction, Snapshot};
use crate::value;

const KEYS: u16 = 0;
const WEIGHTS: u16 = u16::MAX;

static KEY_FIELD: LazyLock<FieldRef> = LazyLock::new(|| Arc::new(Field::new("key", DataType::Binary, false)));
static WEIGHT_FIELD: LazyLock<FieldRef> = LazyLock::new(|| Arc::new(Field::new("weight", DataType::Int64, false)));

/// The rows with keys from `from` to before `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sheet {
    pub to: Vec<u8>,
    pub head: Head,
}

/// What is stored of a sheet as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub number: u64,
    pub from: Vec<u8>,
    /// At least one.
    pub rows: u64,
    pub has_weights: bool,
}

/// Rows by key, gathered to be decoded together.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub keys: Vec<Vec<u8>>,
    /// Out of their frames.
    pub values: Vec<Vec<u8>>,
}

impl Collection {
    /// The sheets that lie within these keys, ascending.
    pub(super) fn sheets(&self, snapshot: &Snapshot, from: &[u8], to: Option<&[u8]>) -> Result<Vec<Sheet>> {
        let mut sheets = Vec::new();
        if self.in_blocks {
            return Ok(sheets);
        }
        // One that ends with the first key has none of the others.
        let first = self.part(Part::Sheet { to: from }).encode();
        snapshot.visit(&first, &Key::sheets(self.id).end, Direction::Forward, |key, stored| {
            let Key::Columns { part: Part::Sheet { to: end }, .. } = Key::decode(key)? else { return Err(self.torn()) };
            if to.is_some_and(|to| end > to) {
                return Ok(ControlFlow::Break(()));
            }
            let head: Head = value::decode(stored)?;
            if head.from.as_slice() >= from && head.from.as_slice() < end {
                sheets.push(Sheet { to: end.to_vec(), head });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(sheets)
    }

    /// Makes a sheet of `entries`, which are all that there is in its keys.
    pub(super) fn write_sheet(
        &self,
        number: u64,
        (from, to): (&[u8], &[u8]),
        entries: &Chunk,
        commit: &mut EpochCommit,
    ) -> Result<Sheet> {
        let prefix = Key::rows(self.id).start.len();
        let keys: Vec<&[u8]> = entries.iter().map(|(key, _)| &key[prefix..]).collect();
        let values = entries.iter().map(|(_, stored)| value::unframe(stored)).collect::<Result<Vec<_>>>()?;
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let rows = self.delta_of(&keys, &values, &columns, &self.schema)?;
        let key = |column| self.part(Part::SheetColumn { sheet: number, column });
        let stored_keys: ArrayRef = Arc::new(BinaryArray::from_iter_values(&keys));
        commit.put(&key(KEYS), &column::encode(&KEY_FIELD, &stored_keys)?);
        for column in columns {
            let encoded = column::encode(&self.schema.fields()[column], rows.batch.column(column))?;
            commit.put(&key(place(column)?), &encoded);
        }
        let weights = rows.weights.map(|weights| Arc::new(weights) as ArrayRef);
        if let Some(weights) = &weights {
            commit.put(&key(WEIGHTS), &column::encode(&WEIGHT_FIELD, weights)?);
        }
        let head = Head { number, from: from.to_vec(), rows: keys.len() as u64, has_weights: weights.is_some() };
        commit.put_value(&self.part(Part::Sheet { to }), &head)?;
        Ok(Sheet { to: to.to_vec(), head })
    }

    /// Its rows are entries only from now on, without an overlay.
    pub(super) fn delete_sheet(&self, snapshot: &Snapshot, sheet: &Sheet, commit: &mut EpochCommit) -> Result<()> {
        commit.delete(&self.part(Part::Sheet { to: &sheet.to }));
        let places = (0..self.schema.fields().len()).map(place).collect::<Result<Vec<_>>>()?;
        for column in places.into_iter().chain([KEYS, WEIGHTS]) {
            commit.delete(&self.part(Part::SheetColumn { sheet: sheet.head.number, column }));
        }
        self.visit_overlay(snapshot, sheet, |key, _| {
            commit.delete(&self.part(Part::Overlay { key }));
            Ok(())
        })
    }

    /// Calls `each` with the keys and values that the overlay has within a sheet.
    pub(super) fn visit_overlay(
        &self,
        snapshot: &Snapshot,
        sheet: &Sheet,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let prefix = Key::overlay(self.id).start;
        let (from, to) = ([&prefix, sheet.head.from.as_slice()].concat(), [&prefix, sheet.to.as_slice()].concat());
        snapshot.visit(&from, &to, Direction::Forward, |key, stored| {
            each(&key[prefix.len()..], value::unframe(stored)?)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The rows of a sheet of which the overlay says nothing, with their weights; what it says goes into `changed`. Only `columns`,
    /// which `schema` describes.
    pub(super) fn read_sheet(
        &self,
        snapshot: &Snapshot,
        sheet: &Sheet,
        columns: &[usize],
        schema: &SchemaRef,
        changed: &mut Entries,
    ) -> Result<Delta> {
        let Head { number, rows, has_weights, .. } = sheet.head;
        let rows = usize::try_from(rows).map_err(|_| self.torn())?;
        let mut touched: Vec<Vec<u8>> = Vec::new();
        self.visit_overlay(snapshot, sheet, |key, value| {
            if value != GONE {
                changed.keys.push(key.to_vec());
                changed.values.push(value.to_vec());
            }
            touched.push(key.to_vec());
            Ok(())
        })?;
        let part = |column| Part::SheetColumn { sheet: number, column };
        let arrays = self.columns_of(snapshot, rows, columns.iter().copied(), part)?;
        let arrays = columns.iter().map(|&column| arrays[column].clone()).collect::<Option<_>>();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = arrays.ok_or_else(|| self.torn())?;
        let mut batch = RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?;
        let column = |column: u16, field: &FieldRef| -> Result<ArrayRef> {
            let stored = snapshot.get(&self.part(part(column)))?.ok_or_else(|| self.torn())?;
            column::decode(field, rows, &stored).ok_or_else(|| self.torn())?
        };
        let mut weights = match has_weights {
            true => Some(column(WEIGHTS, &WEIGHT_FIELD)?),
            false => None,
        };
        if !touched.is_empty() {
            let keys = column(KEYS, &KEY_FIELD)?;
            let kept = without(keys.as_binary(), &touched);
            batch = filter_record_batch(&batch, &kept)?;
            weights = weights.map(|weights| filter(&weights, &kept)).transpose()?;
        }
        let weights = weights.map(|weights| weights.as_primitive::<Int64Type>().clone());
        Ok(Delta::new(batch, weights))
    }

    /// The rows of these entries.
    pub(super) fn rows_of(&self, entries: &Entries, columns: &[usize], schema: &SchemaRef) -> Result<Delta> {
        let keys: Vec<&[u8]> = entries.keys.iter().map(Vec::as_slice).collect();
        let values: Vec<&[u8]> = entries.values.iter().map(Vec::as_slice).collect();
        self.delta_of(&keys, &values, columns, schema)
    }
}

/// All of `keys`, which ascend, but for these, which ascend too.
fn without(keys: &BinaryArray, touched: &[Vec<u8>]) -> BooleanArray {
    let mut kept = BooleanBufferBuilder::new(keys.len());
    kept.append_n(keys.len(), true);
    let mut from = 0;
    for key in touched {
        let (mut low, mut high) = (from, keys.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match keys.value(middle) < key.as_slice() {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        if low < keys.len() && keys.value(low) == key.as_slice() {
            kept.set_bit(low, false);
        }
        from = low;
    }
    BooleanArray::new(kept.finish(), None)
}
