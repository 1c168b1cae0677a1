//! Records that say what became of rows: FORMAT UPSERT, DEBEZIUM, MAXWELL, CUSTOM.
//!
//! ```text
//!   record                                          what it says of rows               decoded
//!   key 1, value {"id": 1, "a": 5}     UPSERT       put    {"id": 1, "a": 5}  ─┐
//!   key 1, no value                    UPSERT       delete {"id": 1}           ├─ one decoder, ─▶ columns, RowChanges
//!   {"op": "u", "before": ..,          DEBEZIUM     delete the old key,        │  all at once
//!               "after": ..}                          if it is another; put ..─┘
//! ```
//!
//! A record says something of no row (a tombstone after a delete, a heartbeat), of one, or of two. Either all of it can be decoded, or it
//! is a bad record. JSON records are cut into objects first ([`objects`]); those of a schema are columns at once ([`columns`]).

mod columns;
mod envelopes;
mod format;
mod objects;
mod order;
mod transactions;
mod upsert;

use std::borrow::Cow;
use std::collections::BTreeMap;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::connector::{RowChanges, RowOp};
use tidemark_common::{Error, Result, SqlState};

pub(crate) use self::format::ChangeFormat;
use self::order::Version;
pub(crate) use self::transactions::{Belongs, open_at_end};
use super::Failures;
use super::json_path::JsonPath;

/// A record: its key and its value.
pub(crate) type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What a record says of a row.
#[derive(Debug)]
struct Said<'a> {
    pub op: RowOp,
    /// A JSON object with the row's columns; with those of the key, if the row is deleted; none, if all are.
    pub object: Cow<'a, [u8]>,
    /// Columns whose values stay, by position among those declared.
    pub kept: Vec<usize>,
}

/// How records are read.
trait Envelope: Send + Sync {
    /// What the record says, in order.
    fn read<'a>(&self, record: KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>>;

    /// Which transaction the record belongs to.
    fn belongs(&self, _record: KeyValue<'_>) -> Belongs {
        Belongs::Alone
    }

    /// Where the change was, as whoever wrote the record says it; `None`: nobody says it.
    fn origin(&self, _value: &[u8]) -> Option<Result<Version>> {
        None
    }

    /// The part of the record that paths lead into.
    fn inside<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        value
    }
}

/// The columns that records are about.
#[derive(Debug)]
struct Declared {
    pub schema: SchemaRef,
    /// The declared ones among those of the primary key.
    pub key: Vec<usize>,
}

impl Declared {
    /// An object with the key's values only, each as `value` has it.
    fn key_object<'v>(&self, value: impl Fn(&str) -> Option<&'v [u8]>) -> Vec<u8> {
        let mut object = vec![b'{'];
        for at in &self.key {
            let name = self.schema.field(*at).name();
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
            object.push(b':');
            object.extend_from_slice(value(name).unwrap_or(b"null"));
        }
        object.push(b'}');
        object
    }

    /// An object with a key that is written without one.
    fn bare_key(&self, value: &[u8]) -> Result<Vec<u8>> {
        match self.key.as_slice() {
            [_] => Ok(self.key_object(|_| Some(value))),
            key => Err(Error::new(
                SqlState::InvalidTextRepresentation,
                format!("the key of the record is one value, and the primary key has {} columns", key.len()),
            )),
        }
    }

    /// Whether two objects have the same key, as far as both say it in the same words.
    fn is_same_key(&self, one: &[u8], other: &[u8]) -> bool {
        self.key.iter().all(|at| {
            let path = JsonPath::key(self.schema.field(*at).name());
            path.find(one) == path.find(other)
        })
    }

    fn no_key(&self, column: usize, op: RowOp) -> Error {
        let what = if op == RowOp::Put { "a row" } else { "a delete" };
        let name = self.schema.field(column).name();
        Error::new(SqlState::NotNullViolation, format!("{what} without column \"{name}\" of the primary key"))
    }
}

/// Decodes many records at once into rows and what becomes of them.
pub(crate) trait ChangeDecoder: Send + Sync {
    fn rows(&self, records: &[KeyValue<'_>]) -> Result<Changed>;

    /// Which transaction a record belongs to.
    fn belongs(&self, record: KeyValue<'_>) -> Belongs;
}

/// Rows, in the order of their records.
pub(crate) struct Changed {
    /// The declared columns.
    pub columns: Vec<ArrayRef>,
    /// The record of each row.
    pub records: Vec<u32>,
    pub changes: RowChanges,
    /// Of records, ascending.
    pub failures: Failures,
}

impl Changed {
    /// Without records that cannot be taken, by number.
    pub fn without(self, refused: BTreeMap<u32, Error>) -> Result<Self> {
        if refused.is_empty() {
            return Ok(self);
        }
        let keep: Vec<bool> = self.records.iter().map(|record| !refused.contains_key(record)).collect();
        let places = keep.iter().scan(0, |next, keep| {
            let place = keep.then_some(*next);
            *next += u32::from(*keep);
            Some(place)
        });
        let places: Vec<Option<u32>> = places.collect();
        let kept = self.changes.kept.iter().filter_map(|(row, column)| Some((places[*row as usize]?, *column)));
        fn only<T: Copy>(all: &[T], keep: &[bool]) -> Vec<T> {
            all.iter().zip(keep).filter(|(_, keep)| **keep).map(|(one, _)| *one).collect()
        }
        let mut versions = self.changes.versions;
        let mut place = keep.iter();
        versions.retain(|_| place.next().copied().unwrap_or_default());
        let changes = RowChanges { kept: kept.collect(), ops: only(&self.changes.ops, &keep), versions };
        let records = only(&self.records, &keep);
        let mask = BooleanArray::from(keep);
        let columns = self.columns.iter().map(|column| compute::filter(column, &mask)).collect::<Result<_, _>>()?;
        let mut failures: BTreeMap<usize, Error> = self.failures.into_iter().collect();
        failures.extend(refused.into_iter().map(|(record, error)| (record as usize, error)));
        Ok(Self { columns, records, changes, failures: failures.into_iter().collect() })
    }
}

fn no_object(what: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("the record has no {what}"))
}

#[cfg(test)]
mod tests;
