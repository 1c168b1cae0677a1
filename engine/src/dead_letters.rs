//! Records that could not be decoded, as rows of the table that keeps them, with the commit of the epoch that has read past them.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use datafusion::arrow::compute::cast;
use tidemark_common::Result;
use tidemark_common::connector::DeadLetter;

use crate::engine::SourceDef;
use crate::table::Table;

/// Rows for `table`, column by column of its name; a column that it has besides is NULL. `now`: microseconds since 1970.
pub fn rows(table: &Table, source: &SourceDef, letters: &[(Arc<str>, DeadLetter)], now: i64) -> Result<RecordBatch> {
    let of = letters.iter().map(|(_, letter)| letter);
    let bytes = |part: fn(&DeadLetter) -> &Option<Vec<u8>>| -> ArrayRef {
        Arc::new(of.clone().map(|letter| part(letter).as_deref()).collect::<BinaryArray>())
    };
    let known: [(&str, ArrayRef); 7] = [
        ("source", Arc::new(StringArray::from_iter_values(of.clone().map(|_| &source.name)))),
        ("split", Arc::new(StringArray::from_iter_values(letters.iter().map(|(lane, _)| lane)))),
        ("position", Arc::new(Int64Array::from_iter_values(of.clone().map(|letter| letter.position)))),
        ("key", bytes(|letter| &letter.key)),
        ("value", bytes(|letter| &letter.value)),
        ("error", Arc::new(StringArray::from_iter_values(of.clone().map(|letter| &letter.error)))),
        ("read_at", Arc::new(TimestampMicrosecondArray::from_value(now, letters.len()).with_timezone("UTC"))),
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
