//! Changes whose records have a schema: they are decoded as columns, and rows are taken out of these.
//!
//! ```text
//!   UPSERT    values ──decoder──▶ columns ──────────────────────▶ puts
//!             keys of records without a value ──as JSON, text or Avro──▶ deletes
//!
//!   DEBEZIUM  records ──decoder──▶ op, before, after             op c, r, u: the row of after; a new key: before it, that of before
//!                                  (structs of the columns)      op d: the row of before
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StructArray, new_empty_array, new_null_array};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use tidemark_common::connector::{RowChanges, RowOp};
use tidemark_common::{Error, Result};

use super::envelopes::{UNAVAILABLE_TEXT, unknown_op};
use super::order::Origin;
use super::upsert::{KeyFormat, KeyText};
use super::{Belongs, ChangeDecoder, Changed, Declared, KeyValue, no_object};
use crate::formats::Failures;
use crate::formats::avro::AvroRecords;
use crate::formats::json::{JsonOptions, JsonRecords};
use crate::formats::record::RecordDecoder;

/// A row of one of several sets of columns: which set, and its place there.
type Place = (usize, usize);

/// What comes out, record by record.
#[derive(Default)]
struct Gathered {
    places: Vec<Place>,
    records: Vec<u32>,
    changes: RowChanges,
    failures: BTreeMap<usize, Error>,
}

impl Gathered {
    fn row(&mut self, record: usize, op: RowOp, place: Place) {
        self.places.push(place);
        self.records.push(record as u32);
        self.changes.ops.push(op);
    }

    /// `sets`: the declared columns, as often as there are places for.
    fn finish(self, declared: &Declared, sets: &[Vec<ArrayRef>]) -> Result<Changed> {
        let column = |at: usize| -> Result<ArrayRef> {
            let arrays: Vec<&dyn Array> = sets.iter().map(|set| set[at].as_ref()).collect();
            Ok(match self.places.is_empty() {
                true => new_empty_array(declared.schema.field(at).data_type()),
                false => interleave(&arrays, &self.places)?,
            })
        };
        let columns = (0..declared.schema.fields().len()).map(column).collect::<Result<_>>()?;
        let failures = self.failures.into_iter().collect();
        Ok(Changed { columns, records: self.records, changes: self.changes, failures })
    }
}

/// Records that have a value.
struct Valued {
    /// Their numbers.
    records: Vec<usize>,
    columns: Vec<ArrayRef>,
    /// By number.
    failures: BTreeMap<usize, Error>,
}

fn decode(decoder: &dyn RecordDecoder, records: &[KeyValue<'_>]) -> Result<Valued> {
    let there: Vec<usize> = (0..records.len()).filter(|at| records[*at].1.is_some()).collect();
    let values: Vec<Option<&[u8]>> = there.iter().map(|at| records[*at].1).collect();
    let (columns, failures) = decoder.columns(&values)?;
    let failures = by_record(failures, &there);
    Ok(Valued { records: there, columns, failures })
}

fn by_record(failures: Failures, of: &[usize]) -> BTreeMap<usize, Error> {
    failures.into_iter().map(|(row, error)| (of[row], error)).collect()
}

/// A column of the key that is NULL in a row.
fn null_key(declared: &Declared, columns: &[ArrayRef], row: usize) -> Option<usize> {
    declared.key.iter().copied().find(|at| columns[*at].is_null(row))
}

/// FORMAT UPSERT of records with a schema.
pub(super) struct Columns {
    records: Box<dyn RecordDecoder>,
    declared: Declared,
    keys: Keys,
}

/// How the keys of records without a value are read.
enum Keys {
    /// As objects, of which the columns are made.
    Text(KeyText, JsonRecords),
    /// As the columns of the key.
    Records(AvroRecords),
}

impl Columns {
    pub fn new(records: Box<dyn RecordDecoder>, declared: Declared, key: &KeyFormat) -> Result<Self> {
        let keys = match key {
            KeyFormat::Text(key) => Keys::Text(*key, JsonRecords::new(&declared.schema, &JsonOptions::default())?),
            KeyFormat::Avro(format) => {
                let schema = Arc::new(declared.schema.project(&declared.key)?);
                Keys::Records(format.decoder(&schema, &(0..declared.key.len()).collect::<Vec<_>>())?)
            }
        };
        Ok(Self { records, declared, keys })
    }

    /// What records without a value delete: their numbers, and the declared columns, of which only those of the key count.
    fn deleted(&self, records: &[KeyValue<'_>], failures: &mut BTreeMap<usize, Error>) -> Result<Deleted> {
        let all = records.iter().enumerate().filter(|(_, record)| record.1.is_none());
        let (mut gone, mut objects, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (key, _)) in all {
            let read = match &self.keys {
                Keys::Text(text, _) => text.deleted(*key, &self.declared).map(|object| objects.push(object)),
                Keys::Records(_) if key.is_none() && !self.declared.key.is_empty() => {
                    Err(no_object("key and no value"))
                }
                Keys::Records(_) => {
                    keys.push(*key);
                    Ok(())
                }
            };
            match read {
                Ok(()) => gone.push(at),
                Err(error) => drop(failures.insert(at, error)),
            }
        }
        let nothing = |at: usize| new_null_array(self.declared.schema.field(at).data_type(), gone.len());
        let (columns, failed) = match &self.keys {
            Keys::Text(_, decoder) => decoder.columns(&objects.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
            // All of the key is beside the value.
            Keys::Records(_) if self.declared.key.is_empty() => {
                ((0..self.declared.schema.fields().len()).map(nothing).collect(), Failures::new())
            }
            Keys::Records(decoder) => {
                let (found, failed) = decoder.columns(&keys)?;
                let mut columns: Vec<ArrayRef> = (0..self.declared.schema.fields().len()).map(nothing).collect();
                self.declared.key.iter().zip(found).for_each(|(at, column)| columns[*at] = column);
                (columns, failed)
            }
        };
        failures.extend(by_record(failed, &gone));
        Ok(Deleted { gone, columns })
    }
}

struct Deleted {
    gone: Vec<usize>,
    columns: Vec<ArrayRef>,
}

impl ChangeDecoder for Columns {
    fn rows(&self, records: &[KeyValue<'_>]) -> Result<Changed> {
        let Valued { records: there, columns: values, failures } = decode(&*self.records, records)?;
        let mut all = Gathered { failures, ..Gathered::default() };
        let Deleted { gone, columns: keys } = self.deleted(records, &mut all.failures)?;
        let (mut put, mut deleted) = (there.iter().enumerate().peekable(), gone.iter().enumerate().peekable());
        for at in 0..records.len() {
            let put = put.next_if(|(_, of)| **of == at).map(|(row, _)| (RowOp::Put, 0, row, &values));
            let deleted = deleted.next_if(|(_, of)| **of == at).map(|(row, _)| (RowOp::Delete, 1, row, &keys));
            let Some((op, set, row, columns)) = put.or(deleted) else { continue };
            if all.failures.contains_key(&at) {
                continue;
            }
            match null_key(&self.declared, columns, row) {
                Some(column) => drop(all.failures.insert(at, self.declared.no_key(column, op))),
                None => all.row(at, op, (set, row)),
            }
        }
        all.finish(&self.declared, &[values, keys])
    }

    fn belongs(&self, _: KeyValue<'_>) -> Belongs {
        Belongs::Alone
    }
}

/// FORMAT DEBEZIUM of records with a schema.
pub(super) struct EnvelopeColumns {
    /// Op, before, after; and where the change was, if rows are ordered by that.
    pub records: Box<dyn RecordDecoder>,
    pub declared: Declared,
    /// Of one column: the id in a record that stands for the transaction.
    pub transactions: Box<dyn RecordDecoder>,
}

/// The rows before and after, and their keys.
struct Sides<'a> {
    before: &'a StructArray,
    after: &'a StructArray,
    keys: [Rows; 2],
}

impl EnvelopeColumns {
    fn sides<'a>(&self, before: &'a StructArray, after: &'a StructArray) -> Result<Sides<'a>> {
        let field = |at: &usize| SortField::new(self.declared.schema.field(*at).data_type().clone());
        let converter = RowConverter::new(self.declared.key.iter().map(field).collect())?;
        let keys = |side: &StructArray| {
            let columns: Vec<ArrayRef> = self.declared.key.iter().map(|at| side.column(*at).clone()).collect();
            converter.convert_columns(&columns)
        };
        Ok(Sides { keys: [keys(before)?, keys(after)?], before, after })
    }

    /// What the record in this row says, with the set that each row is in.
    fn read(&self, op: Option<&str>, row: usize, sides: &Sides<'_>) -> Result<Vec<(RowOp, usize)>> {
        let [before, after] = [sides.before, sides.after].map(|side| side.is_valid(row));
        let moved = before && sides.keys[0].row(row) != sides.keys[1].row(row);
        let said = match op {
            Some("c" | "r" | "u") if !after => return Err(no_object("\"after\"")),
            Some("c" | "r") => vec![(RowOp::Put, 1)],
            Some("u") if moved => vec![(RowOp::Delete, 0), (RowOp::Put, 1)],
            Some("u") => vec![(RowOp::Put, 1)],
            Some("d") if before => vec![(RowOp::Delete, 0)],
            Some("d") => return Err(no_object("\"before\"")),
            Some("t") => vec![(RowOp::Truncate, 0)],
            Some("m") => Vec::new(),
            Some(other) => return Err(unknown_op(other)),
            None => return Err(no_object("\"op\"")),
        };
        let sets = [sides.before.columns(), sides.after.columns()];
        for (op, set) in said.iter().filter(|(op, _)| *op != RowOp::Truncate) {
            if let Some(column) = null_key(&self.declared, sets[*set], row) {
                return Err(self.declared.no_key(column, *op));
            }
        }
        Ok(said)
    }
}

impl ChangeDecoder for EnvelopeColumns {
    fn rows(&self, records: &[KeyValue<'_>]) -> Result<Changed> {
        // What has no value is a tombstone, for the topic's compaction.
        let Valued { records: there, columns, failures } = decode(&*self.records, records)?;
        let mut all = Gathered { failures, ..Gathered::default() };
        let [op, before, after, origin @ ..] = columns.as_slice() else {
            return Err(Error::internal("an envelope that has not three columns"));
        };
        let origin = origin.first().map(|origin| origin.as_struct());
        let (ops, before, after) = (op.as_string::<i32>(), before.as_struct(), after.as_struct());
        let sides = self.sides(before, after)?;
        for (row, at) in there.iter().enumerate() {
            if all.failures.contains_key(at) {
                continue;
            }
            let said = self.read(ops.is_valid(row).then(|| ops.value(row)), row, &sides).and_then(|said| {
                let version =
                    origin.filter(|_| !said.is_empty()).map(|origin| Origin::of_columns(origin, row).version());
                Ok((said, version.transpose()?))
            });
            match said {
                Err(error) => drop(all.failures.insert(*at, error)),
                Ok((said, version)) => {
                    let versions = version.into_iter().flat_map(|version| std::iter::repeat_n(version, said.len()));
                    all.changes.versions.extend(versions);
                    for (op, set) in said {
                        let out = all.places.len() as u32;
                        if op == RowOp::Put {
                            let kept = unavailable(after.columns(), row);
                            all.changes.kept.extend(kept.map(|column| (out, column as u32)));
                        }
                        all.row(*at, op, (set, row));
                    }
                }
            }
        }
        let sets = [before, after].map(|side| side.columns().iter().map(Arc::clone).collect::<Vec<_>>());
        all.finish(&self.declared, &sets)
    }

    fn belongs(&self, (_, value): KeyValue<'_>) -> Belongs {
        if value.is_none() {
            return Belongs::Anywhere;
        }
        // What cannot be read is a bad record, whatever it belongs to.
        let Ok((columns, failures)) = self.transactions.columns(&[value]) else { return Belongs::Alone };
        let transaction = columns.first().map(|column| column.as_struct()).filter(|_| failures.is_empty());
        let there = transaction.filter(|transaction| transaction.is_valid(0) && transaction.column(0).is_valid(0));
        match there.map(|transaction| transaction.column(0).as_string::<i32>().value(0)) {
            Some(id) => Belongs::To { id: id.as_bytes().to_vec(), ends: false },
            None => Belongs::Alone,
        }
    }
}

/// Columns of which the database did not repeat the value.
fn unavailable(columns: &[ArrayRef], row: usize) -> impl Iterator<Item = usize> {
    let is_so = move |column: &ArrayRef| {
        column.is_valid(row)
            && match column.data_type() {
                DataType::Utf8 => column.as_string::<i32>().value(row) == UNAVAILABLE_TEXT,
                DataType::Binary => column.as_binary::<i32>().value(row) == UNAVAILABLE_TEXT.as_bytes(),
                _ => false,
            }
    };
    columns.iter().enumerate().filter(move |(_, column)| is_so(column)).map(|(at, _)| at)
}
