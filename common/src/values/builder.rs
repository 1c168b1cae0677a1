//! A column in the making: values come in one at a time, as text or in binary, and leave as an Arrow array.

use std::sync::Arc;

use crate::types::SqlType;
use crate::{Error, Result, SqlState};
use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, MapArray,
    NullBufferBuilder, StringBuilder, StructArray, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use datafusion::scalar::ScalarValue;

use super::{Style, text_in};

/// Builds arrays of exactly `SqlType::data_type()`. After an error the builder must be dropped: a nested value may be there
/// in part.
#[derive(Debug)]
pub struct ColumnBuilder(pub(super) Values);

#[derive(Debug)]
pub(super) enum Values {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Oid(Int32Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal128 {
        values: Decimal128Builder,
        precision: u8,
        scale: i8,
        unconstrained: bool,
        exact: bool,
    },
    Decimal256 {
        values: Decimal256Builder,
        precision: u8,
        scale: i8,
        /// A number with more digits after the point is an error, not rounded.
        exact: bool,
    },
    Text(StringBuilder, TextKind),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampTz(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    List {
        field: FieldRef,
        item: Box<ColumnBuilder>,
        offsets: Vec<i32>,
        nulls: NullBufferBuilder,
    },
    Struct {
        fields: Fields,
        columns: Vec<ColumnBuilder>,
        nulls: NullBufferBuilder,
    },
    Map {
        field: FieldRef,
        entries: Fields,
        key: Box<ColumnBuilder>,
        value: Box<ColumnBuilder>,
        offsets: Vec<i32>,
        nulls: NullBufferBuilder,
    },
}

/// What a text must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    Any,
    Varchar(u32),
    Char(u32),
    Name,
    Uuid,
    Json,
    Jsonb,
}

impl ColumnBuilder {
    pub fn new(sql_type: &SqlType) -> Result<ColumnBuilder> {
        Ok(ColumnBuilder(Values::new(sql_type)?))
    }

    /// Numbers that would have to be rounded are refused from now on.
    pub fn refuse_rounding(&mut self) {
        match &mut self.0 {
            Values::Decimal128 { exact, .. } | Values::Decimal256 { exact, .. } => *exact = true,
            Values::List { item, .. } => item.refuse_rounding(),
            _ => {}
        }
    }

    pub fn append_null(&mut self) {
        match &mut self.0 {
            Values::Boolean(b) => b.append_null(),
            Values::Int16(b) => b.append_null(),
            Values::Int32(b) | Values::Oid(b) => b.append_null(),
            Values::Int64(b) => b.append_null(),
            Values::Float32(b) => b.append_null(),
            Values::Float64(b) => b.append_null(),
            Values::Decimal128 { values, .. } => values.append_null(),
            Values::Decimal256 { values, .. } => values.append_null(),
            Values::Text(b, _) => b.append_null(),
            Values::Bytea(b) => b.append_null(),
            Values::Date(b) => b.append_null(),
            Values::Time(b) => b.append_null(),
            Values::Timestamp(b) | Values::TimestampTz(b) => b.append_null(),
            Values::Interval(b) => b.append_null(),
            Values::List { offsets, nulls, .. } | Values::Map { offsets, nulls, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                nulls.append_null();
            }
            Values::Struct { columns, nulls, .. } => {
                for column in columns {
                    column.append_null();
                }
                nulls.append_null();
            }
        }
    }

    /// Reads a value as Postgres' input functions do.
    pub fn append_text(&mut self, text: &str, style: &Style) -> Result<()> {
        text_in::append(self, text, style)
    }

    /// Reads a value as Postgres' receive functions do.
    pub fn append_binary(&mut self, bytes: &[u8]) -> Result<()> {
        super::binary_in::append(self, bytes)
    }

    /// The builder of the elements, if this one builds lists.
    pub(super) fn list_item(&mut self) -> Option<&mut ColumnBuilder> {
        match &mut self.0 {
            Values::List { item, .. } => Some(item),
            _ => None,
        }
    }

    /// The last `count` elements that were given to [`Self::list_item`] are one list.
    pub(super) fn close_list(&mut self, count: usize) {
        if let Values::List { offsets, nulls, .. } = &mut self.0 {
            offsets.push(offsets.last().copied().unwrap_or(0) + count as i32);
            nulls.append_non_null();
        }
    }

    /// The values so far; the builder is empty again.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match &mut self.0 {
            Values::Boolean(b) => Arc::new(b.finish()),
            Values::Int16(b) => Arc::new(b.finish()),
            Values::Int32(b) | Values::Oid(b) => Arc::new(b.finish()),
            Values::Int64(b) => Arc::new(b.finish()),
            Values::Float32(b) => Arc::new(b.finish()),
            Values::Float64(b) => Arc::new(b.finish()),
            Values::Decimal128 { values, .. } => Arc::new(values.finish()),
            Values::Decimal256 { values, .. } => Arc::new(values.finish()),
            Values::Text(b, _) => Arc::new(b.finish()),
            Values::Bytea(b) => Arc::new(b.finish()),
            Values::Date(b) => Arc::new(b.finish()),
            Values::Time(b) => Arc::new(b.finish()),
            Values::Timestamp(b) | Values::TimestampTz(b) => Arc::new(b.finish()),
            Values::Interval(b) => Arc::new(b.finish()),
            Values::List { field, item, offsets, nulls } => {
                let (offsets, nulls) = (finish_offsets(offsets), nulls.finish());
                Arc::new(ListArray::try_new(Arc::clone(field), offsets, item.finish()?, nulls)?)
            }
            Values::Struct { fields, columns, nulls } => {
                let length = nulls.len();
                let columns = columns.iter_mut().map(ColumnBuilder::finish).collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls.finish(), length)?)
            }
            Values::Map { field, entries, key, value, offsets, nulls } => {
                let pairs = StructArray::try_new(entries.clone(), vec![key.finish()?, value.finish()?], None)?;
                let (offsets, nulls) = (finish_offsets(offsets), nulls.finish());
                Arc::new(MapArray::try_new(Arc::clone(field), offsets, pairs, nulls, false)?)
            }
        })
    }
}

fn finish_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

impl Values {
    fn new(sql_type: &SqlType) -> Result<Values> {
        let text = |kind| Values::Text(StringBuilder::new(), kind);
        Ok(match sql_type {
            SqlType::Boolean => Values::Boolean(BooleanBuilder::new()),
            SqlType::SmallInt => Values::Int16(Int16Builder::new()),
            SqlType::Integer => Values::Int32(Int32Builder::new()),
            SqlType::BigInt => Values::Int64(Int64Builder::new()),
            SqlType::Oid => Values::Oid(Int32Builder::new()),
            SqlType::Real => Values::Float32(Float32Builder::new()),
            SqlType::Double => Values::Float64(Float64Builder::new()),
            SqlType::Numeric(of) => Values::decimal(&sql_type.data_type(), of.is_none())?,
            SqlType::Text | SqlType::Varchar(None) => text(TextKind::Any),
            SqlType::Varchar(Some(n)) => text(TextKind::Varchar(*n)),
            SqlType::Char(n) => text(TextKind::Char(*n)),
            SqlType::Name => text(TextKind::Name),
            SqlType::Uuid => text(TextKind::Uuid),
            SqlType::Json => text(TextKind::Json),
            SqlType::Jsonb => text(TextKind::Jsonb),
            SqlType::Bytea => Values::Bytea(BinaryBuilder::new()),
            SqlType::Date => Values::Date(Date32Builder::new()),
            SqlType::Time => Values::Time(Time64MicrosecondBuilder::new()),
            SqlType::Timestamp => Values::Timestamp(TimestampMicrosecondBuilder::new()),
            SqlType::TimestampTz => {
                Values::TimestampTz(TimestampMicrosecondBuilder::new().with_data_type(sql_type.data_type()))
            }
            SqlType::Interval => Values::Interval(IntervalMonthDayNanoBuilder::new()),
            SqlType::Array(item) => match sql_type.data_type() {
                DataType::List(field) => Values::List {
                    field,
                    item: Box::new(ColumnBuilder::new(item)?),
                    offsets: vec![0],
                    nulls: NullBufferBuilder::new(0),
                },
                other => return Err(Error::internal(format!("an array is held as {other}"))),
            },
            SqlType::Struct(types) => match sql_type.data_type() {
                DataType::Struct(fields) => Values::Struct {
                    fields,
                    columns: types.iter().map(|(_, t)| ColumnBuilder::new(t)).collect::<Result<_>>()?,
                    nulls: NullBufferBuilder::new(0),
                },
                other => return Err(Error::internal(format!("a struct is held as {other}"))),
            },
            SqlType::Map(key, value) => Values::map(key, value, &sql_type.data_type())?,
            SqlType::Other(other) => {
                return Err(Error::new(
                    SqlState::FeatureNotSupported,
                    format!("values of type {other} cannot be read from text or binary"),
                ));
            }
        })
    }

    fn decimal(data_type: &DataType, unconstrained: bool) -> Result<Values> {
        Ok(match data_type {
            DataType::Decimal128(precision, scale) => Values::Decimal128 {
                values: Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?,
                precision: *precision,
                scale: *scale,
                unconstrained,
                exact: false,
            },
            DataType::Decimal256(precision, scale) => Values::Decimal256 {
                values: Decimal256Builder::new().with_precision_and_scale(*precision, *scale)?,
                precision: *precision,
                scale: *scale,
                exact: false,
            },
            other => return Err(Error::internal(format!("a numeric is held as {other}"))),
        })
    }

    fn map(key: &SqlType, value: &SqlType, data_type: &DataType) -> Result<Values> {
        if let DataType::Map(field, _) = data_type
            && let DataType::Struct(entries) = field.data_type()
        {
            return Ok(Values::Map {
                field: Arc::clone(field),
                entries: entries.clone(),
                key: Box::new(ColumnBuilder::new(key)?),
                value: Box::new(ColumnBuilder::new(value)?),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(0),
            });
        }
        Err(Error::internal(format!("a map is held as {data_type}")))
    }
}

/// One value from its text.
pub fn scalar_from_text(sql_type: &SqlType, text: &str, style: &Style) -> Result<ScalarValue> {
    // Parameters of these types are what point lookups send.
    match sql_type {
        SqlType::Integer => return Ok(ScalarValue::Int32(Some(text_in::integer(text, "integer")?))),
        SqlType::BigInt => return Ok(ScalarValue::Int64(Some(text_in::integer(text, "bigint")?))),
        SqlType::Text => return Ok(ScalarValue::Utf8(Some(text.to_string()))),
        _ => {}
    }
    let mut builder = ColumnBuilder::new(sql_type)?;
    builder.append_text(text, style)?;
    Ok(ScalarValue::try_from_array(&builder.finish()?, 0)?)
}

/// One value from its binary form.
pub fn scalar_from_binary(sql_type: &SqlType, bytes: &[u8]) -> Result<ScalarValue> {
    let mut builder = ColumnBuilder::new(sql_type)?;
    builder.append_binary(bytes)?;
    Ok(ScalarValue::try_from_array(&builder.finish()?, 0)?)
}
