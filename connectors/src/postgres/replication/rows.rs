//! Changes on their way into a batch: values as text to columns, and beside them what each row does.
//!
//! ```text
//!   Put(12, ab)  Delete(12)  Put(13, ·)  Truncate        id    │ 12   │ 12     │ 13  │ ·
//!                                                        note  │ ab   │ ·      │ ·   │ ·
//!                                                        op    │ Put  │ Delete │ Put │ Truncate
//!                                                        kept                    (2, note)
//! ```

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::values::{ColumnBuilder, Style};
use tidemark_common::{Error, Result, SqlState};

use super::pgoutput::Value;
use crate::spec::projected;
use crate::{CHUNK_ROWS, RowChanges, RowOp};

/// Bytes of values in a batch, at most, but for the row that goes beyond them.
const CHUNK_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub struct Rows {
    /// What the batches hold.
    schema: SchemaRef,
    /// Of each of its columns among the declared.
    places: Vec<usize>,
    columns: Vec<ColumnBuilder>,
    style: Style,
    changes: RowChanges,
    bytes: usize,
}

/// Rows with what they do, and the bytes that they came from.
pub type Taken = (RecordBatch, RowChanges, usize);

impl Rows {
    pub fn new(schema: &SchemaRef, projection: Option<&[usize]>) -> Result<Self> {
        let (schema, places) = projected(schema, projection)?;
        let columns = columns(&schema)?;
        Ok(Self { schema, places, columns, style: Style::default(), changes: RowChanges::default(), bytes: 0 })
    }

    /// `value`: of each declared column.
    pub fn put<'a>(&mut self, value: impl Fn(usize) -> Value<'a>) -> Result<()> {
        self.row(RowOp::Put, value)
    }

    pub fn delete<'a>(&mut self, value: impl Fn(usize) -> Value<'a>) -> Result<()> {
        self.row(RowOp::Delete, value)
    }

    pub fn truncate(&mut self) -> Result<()> {
        self.row(RowOp::Truncate, |_| Value::Null)
    }

    fn row<'a>(&mut self, op: RowOp, value: impl Fn(usize) -> Value<'a>) -> Result<()> {
        let row = self.changes.ops.len() as u32;
        for (at, (place, builder)) in self.places.iter().zip(&mut self.columns).enumerate() {
            match value(*place) {
                Value::Null => builder.append_null(),
                Value::Unchanged => {
                    builder.append_null();
                    self.changes.kept.push((row, at as u32));
                }
                Value::Text(bytes) => {
                    let field = self.schema.field(at);
                    self.bytes += bytes.len();
                    append(builder, bytes, &self.style).map_err(|e| in_column(e, field))?;
                }
            }
        }
        self.changes.ops.push(op);
        Ok(())
    }

    /// Room for the two rows of a changed key is left, which go together.
    pub fn is_full(&self) -> bool {
        self.changes.ops.len() + 1 >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.changes.ops.is_empty()
    }

    pub fn len(&self) -> usize {
        self.changes.ops.len()
    }

    /// The rows so far; none may be there.
    pub fn take(&mut self) -> Result<Taken> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.len()));
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<_>>()?;
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok((batch, std::mem::take(&mut self.changes), std::mem::take(&mut self.bytes)))
    }

    /// Forgets the rows so far.
    pub fn clear(&mut self) -> Result<()> {
        self.columns = columns(&self.schema)?;
        self.changes = RowChanges::default();
        self.bytes = 0;
        Ok(())
    }
}

fn columns(schema: &SchemaRef) -> Result<Vec<ColumnBuilder>> {
    let builder = |field: &datafusion::arrow::datatypes::FieldRef| {
        let mut builder = ColumnBuilder::new(&SqlType::from_field(field))?;
        builder.refuse_rounding();
        Ok(builder)
    };
    schema.fields().iter().map(builder).collect()
}

fn append(builder: &mut ColumnBuilder, bytes: &[u8], style: &Style) -> Result<()> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(SqlState::InvalidTextRepresentation, "a text is not UTF-8"))?;
    builder.append_text(text, style)
}

fn in_column(error: Error, field: &datafusion::arrow::datatypes::Field) -> Error {
    let error = error.context(format_args!("column \"{}\"", field.name()));
    if error.hint().is_some() {
        error
    } else {
        error.with_hint("Declared as text, the column takes any value as it is.")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::Schema;

    use super::*;
    use crate::testing::{refused, rows as shown, schema};

    fn rows(projection: Option<&[usize]>) -> Rows {
        let columns = [("id", SqlType::BigInt), ("price", SqlType::Numeric(Some((6, 2)))), ("note", SqlType::Text)];
        Rows::new(&schema(&columns), projection).unwrap()
    }

    fn values<'a>(texts: &'a [&'a str; 3]) -> impl Fn(usize) -> Value<'a> {
        |at| match texts[at] {
            "" => Value::Null,
            "·" => Value::Unchanged,
            text => Value::Text(text.as_bytes()),
        }
    }

    #[test]
    fn rows_and_what_they_do() {
        let mut all = rows(None);
        let mut some = rows(Some(&[2, 0]));
        for rows in [&mut all, &mut some] {
            rows.put(values(&["1", "2.50", "a"])).unwrap();
            rows.delete(values(&["1", "", ""])).unwrap();
            rows.put(values(&["2", "·", "·"])).unwrap();
            rows.truncate().unwrap();
            assert_eq!(rows.len(), 4);
        }
        let (batch, changes, bytes) = all.take().unwrap();
        assert_eq!(shown(&batch), ["1|2.50|a", "1||", "2||", "||"]);
        assert_eq!(changes.ops, [RowOp::Put, RowOp::Delete, RowOp::Put, RowOp::Truncate]);
        assert_eq!((changes.kept, bytes), (vec![(2, 1), (2, 2)], 8));
        let (batch, changes, _) = some.take().unwrap();
        assert_eq!(
            (shown(&batch), changes.kept),
            (vec!["a|1".into(), "|1".into(), "|2".into(), "|".into()], vec![(2, 0)])
        );
        assert!(some.is_empty() && some.take().unwrap().0.num_rows() == 0);
        let mut none = Rows::new(&Arc::new(Schema::empty()), None).unwrap();
        none.truncate().unwrap();
        assert_eq!(none.take().unwrap().0.num_rows(), 1);
    }

    #[test]
    fn no_value_is_rounded() {
        let (code, message, hint) = refused(rows(None).put(values(&["1", "2.505", ""])));
        assert_eq!(
            (code.as_str(), message.as_str()),
            ("22003", "column \"price\": a numeric has more than 2 digits after the point")
        );
        assert!(hint.contains("as text"), "{hint}");
        rows(None).put(values(&["1", "2.500", ""])).unwrap();
        assert_eq!(refused(rows(None).put(values(&["1", "NaN", ""]))).0, "0A000");
        assert_eq!(refused(rows(None).put(|_| Value::Text(&[0xff]))).0, "22P02");
    }
}
