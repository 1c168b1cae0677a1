//! Records that could not be decoded.
//!
//! ```text
//!   first reading ──▶ a row of tidemark.dead_letters, and in the store: Waits ──REPLAY DEAD LETTERS──▶ Taken, or Refused as late
//!
//!   read again, for a new view or a SELECT, whether or not it can be decoded by now:
//!      Waits, Refused ─▶ left out         Taken ─▶ a row, which moves no watermark
//! ```
//!
//! All with the commit of the epoch that reads past them, or that takes them: so all views of a source have the same records, whenever
//! they were made.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use datafusion::arrow::compute::cast;
use serde::{Deserialize, Serialize};
use tidemark_common::connector::{DeadLetter, Record, SourceBatch};
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_storage::{EpochCommit, Key, Snapshot, value};

use crate::engine::SourceDef;
use crate::table::Table;

/// What has become of a record that could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Waits,
    /// It could be decoded later, and counted.
    Taken,
    /// It could be decoded later, and came too late.
    Refused,
}

pub fn note(source: Oid, lane: &str, place: u64, fate: Fate, commit: &mut EpochCommit) -> Result<()> {
    commit.put_value(&Key::SetAside { source, split: lane, position: place }, &fate)
}

/// Those among records that are read again, by place. An error if the first reading could decode one that this one could not.
pub fn fates(source: &SourceDef, read: &SourceBatch, snapshot: &Arc<Snapshot>) -> Result<BTreeMap<u64, Fate>> {
    let mut fates = BTreeMap::new();
    if source.dead_letters.is_none() {
        return Ok(fates);
    }
    let dead = read.dead.iter().map(|letter| letter.record.position as u64);
    let places = || read.places.iter().flatten().copied().chain(dead.clone());
    if let (Some(first), Some(last)) = (places().min(), places().max()) {
        let at = |position| Key::SetAside { source: source.oid, split: &read.lane, position }.encode();
        for entry in snapshot.scan(&at(first), &at(last.saturating_add(1))) {
            let (key, stored) = entry?;
            if let Key::SetAside { position, .. } = Key::decode(&key)? {
                fates.insert(position, value::decode(&stored)?);
            }
        }
    }
    match read.dead.iter().find(|letter| fates.get(&(letter.record.position as u64)) != Some(&Fate::Waits)) {
        None => Ok(fates),
        Some(DeadLetter { record, error }) => {
            let (name, lane, place) = (&source.name, &read.lane, record.position);
            let message =
                format!("source \"{name}\", {lane}, {place}: read before, and cannot be decoded any more: {error}");
            Err(Error::new(SqlState::DataCorrupted, message))
        }
    }
}

/// Rows for `table`, column by column of its name; a column that it has besides is NULL. `now`: microseconds since 1970.
pub fn rows(table: &Table, source: &SourceDef, letters: &[(Arc<str>, DeadLetter)], now: i64) -> Result<RecordBatch> {
    let of = letters.iter().map(|(_, letter)| &letter.record);
    let bytes = |part: fn(&Record) -> &Option<Vec<u8>>| -> ArrayRef {
        Arc::new(of.clone().map(|record| part(record).as_deref()).collect::<BinaryArray>())
    };
    let time = |times: TimestampMicrosecondArray| -> ArrayRef { Arc::new(times.with_timezone("UTC")) };
    let known: [(&str, ArrayRef); 10] = [
        ("source_id", Arc::new(Int64Array::from_value(i64::from(source.oid), letters.len()))),
        ("source", Arc::new(StringArray::from_iter_values(of.clone().map(|_| &source.name)))),
        ("split", Arc::new(StringArray::from_iter_values(letters.iter().map(|(lane, _)| lane)))),
        ("position", Arc::new(Int64Array::from_iter_values(of.clone().map(|record| record.position)))),
        ("key", bytes(|letter| &letter.key)),
        ("value", bytes(|letter| &letter.value)),
        ("headers", Arc::new(of.clone().map(|record| record.headers.as_deref()).collect::<StringArray>())),
        ("timestamp", time(of.clone().map(|record| record.timestamp).collect())),
        ("error", Arc::new(StringArray::from_iter_values(letters.iter().map(|(_, letter)| &letter.error)))),
        ("read_at", time(TimestampMicrosecondArray::from_value(now, letters.len()))),
    ];
    let schema = table.def.collection.schema();
    let column = |field: &datafusion::arrow::datatypes::FieldRef| -> Result<ArrayRef> {
        let found = known.iter().find(|(name, _)| name == field.name());
        Ok(match found {
            Some((_, array)) => cast(array, field.data_type())?,
            None => new_null_array(field.data_type(), letters.len()),
        })
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
