//! Columns that grow value by value: what Avro and Protobuf records are decoded into.
//!
//! ```text
//!   record ─▶ Scalar ──append──▶ Column (boolean | integer | text | .. | list of Column | fields of Column)
//!                                   │ a record that fails half-way: truncate to the row before it
//!                                   └─finish─▶ ArrayRef
//! ```
//!
//! A column takes what its SQL type can hold ([`takes`] says before the first record which kinds of values those are) and keeps it in
//! the form of that type: a uuid canonical, a numeric at its scale. What a record has that does not fit is that record's failure.

mod as_text;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use as_text::as_text;
pub(crate) use rows::Rows;
pub(crate) use scalar::{Kind, Scalar, takes};

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanBufferBuilder, ListArray, MapArray, StructArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use values::Values;

#[derive(Debug)]
pub(crate) struct Column {
    sql_type: SqlType,
    valid: BooleanBufferBuilder,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Values(Values),
    List(FieldRef, Vec<i32>, Box<Column>),
    /// The entries' field; keys, then values.
    Map(FieldRef, Vec<i32>, Box<[Column; 2]>),
    Struct(Fields, Vec<Column>),
}

impl Column {
    pub fn new(field: &FieldRef) -> Result<Self> {
        let sql_type = SqlType::from_field(field);
        let data = match field.data_type() {
            DataType::List(item) => Data::List(Arc::clone(item), vec![0], Box::new(Column::new(item)?)),
            DataType::Struct(fields) => {
                Data::Struct(fields.clone(), fields.iter().map(Column::new).collect::<Result<_>>()?)
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(Error::internal("the entries of a map are a struct"));
                };
                let columns = [Column::new(&fields[0])?, Column::new(&fields[1])?];
                Data::Map(Arc::clone(entries), vec![0], Box::new(columns))
            }
            _ => Data::Values(Values::new(&sql_type)?),
        };
        Ok(Self { sql_type, valid: BooleanBufferBuilder::new(0), data })
    }

    pub fn len(&self) -> usize {
        self.valid.len()
    }

    pub fn append(&mut self, value: Scalar<'_>) -> Result<()> {
        let Data::Values(values) = &mut self.data else { return Err(self.not_a("scalar")) };
        values.append(value, &self.sql_type)?;
        self.valid.append(true);
        Ok(())
    }

    pub fn null(&mut self) {
        match &mut self.data {
            Data::Values(values) => values.append_nothing(),
            Data::List(_, offsets, _) | Data::Map(_, offsets, _) => {
                let last = offsets[offsets.len() - 1];
                offsets.push(last);
            }
            Data::Struct(_, columns) => columns.iter_mut().for_each(Column::null),
        }
        self.valid.append(false);
    }

    /// Where the items of a list are appended; then [`Column::close`].
    pub fn items(&mut self) -> Result<&mut Column> {
        match self.data {
            Data::List(_, _, ref mut item) => Ok(item),
            _ => Err(self.not_a("list")),
        }
    }

    /// Where the entries of a map are appended: keys and values; then [`Column::close`].
    pub fn entries(&mut self) -> Result<&mut [Column; 2]> {
        match self.data {
            Data::Map(_, _, ref mut columns) => Ok(columns),
            _ => Err(self.not_a("map")),
        }
    }

    /// Where the fields of a struct are appended, one value each; then [`Column::close`].
    pub fn fields(&mut self) -> Result<&mut [Column]> {
        match self.data {
            Data::Struct(_, ref mut columns) => Ok(columns),
            _ => Err(self.not_a("struct")),
        }
    }

    /// The same, with what they are called.
    pub fn named_fields(&mut self) -> Result<(&Fields, &mut [Column])> {
        match self.data {
            Data::Struct(ref fields, ref mut columns) => Ok((fields, columns)),
            _ => Err(self.not_a("struct")),
        }
    }

    /// The list, map or struct whose parts have been appended is a value.
    pub fn close(&mut self) -> Result<()> {
        match &mut self.data {
            Data::Values(_) => return Err(self.not_a("nested value")),
            Data::List(_, offsets, item) => offsets.push(offset(item.len())?),
            Data::Map(_, offsets, columns) => offsets.push(offset(columns[0].len())?),
            Data::Struct(..) => {}
        }
        self.valid.append(true);
        Ok(())
    }

    /// Takes back all but the first `rows` values, and what a value that was not finished has left.
    pub fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        match &mut self.data {
            Data::Values(values) => values.truncate(rows),
            Data::List(_, offsets, item) => {
                offsets.truncate(rows + 1);
                item.truncate(offsets[rows] as usize);
            }
            Data::Map(_, offsets, columns) => {
                offsets.truncate(rows + 1);
                columns.iter_mut().for_each(|column| column.truncate(offsets[rows] as usize));
            }
            Data::Struct(_, columns) => columns.iter_mut().for_each(|column| column.truncate(rows)),
        }
    }

    pub fn finish(mut self) -> Result<ArrayRef> {
        let valid = self.valid.finish();
        let rows = valid.len();
        let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
        Ok(match self.data {
            Data::Values(values) => values.finish(nulls, &self.sql_type)?,
            Data::List(field, offsets, item) => {
                Arc::new(ListArray::try_new(field, OffsetBuffer::new(offsets.into()), item.finish()?, nulls)?)
            }
            Data::Map(field, offsets, columns) => {
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(Error::internal("the entries of a map are a struct"));
                };
                let columns = columns.into_iter().map(Column::finish).collect::<Result<_>>()?;
                let entries = StructArray::try_new(fields.clone(), columns, None)?;
                Arc::new(MapArray::try_new(field, OffsetBuffer::new(offsets.into()), entries, nulls, false)?)
            }
            Data::Struct(fields, columns) => {
                let columns = columns.into_iter().map(Column::finish).collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new_with_length(fields, columns, nulls, rows)?)
            }
        })
    }

    fn not_a(&self, what: &str) -> Error {
        Error::internal(format!("a column of type {} takes no {what}", self.sql_type))
    }
}

/// Arrow counts the values within a batch with 31 bits.
fn offset(count: usize) -> Result<i32> {
    i32::try_from(count).map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "the record is too large"))
}
