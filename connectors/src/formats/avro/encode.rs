//! Rows as Avro records of a schema that has been made of their columns.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType, i256,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::derive::schema_of;
use crate::formats::column::as_text;
use crate::formats::record_encode::RecordEncoder;
use crate::formats::registry::{Lookup, Registry, SchemaKind, frame};

/// Encodes rows, each after the id of their schema.
pub(crate) struct AvroEncoder {
    registry: Arc<Registry>,
    subject: String,
    schema: String,
    id: OnceLock<u32>,
}

impl AvroEncoder {
    /// `name`: of the record, in full. Asks nobody yet.
    pub fn new(columns: &SchemaRef, registry: &Arc<Registry>, subject: &str, name: &str) -> Result<Self> {
        let schema = schema_of(columns, name)?;
        Ok(Self { registry: Arc::clone(registry), subject: subject.to_string(), schema, id: OnceLock::new() })
    }

    /// Blocks if nobody has asked before.
    fn id(&self) -> Result<u32> {
        if let Some(id) = self.id.get() {
            return Ok(*id);
        }
        let id = Lookup::new(&self.registry)?.register(&self.subject, SchemaKind::Avro, &self.schema)?;
        Ok(*self.id.get_or_init(|| id))
    }
}

impl RecordEncoder for AvroEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let id = self.id()?;
        let one = |row| {
            let mut out = frame::begin(id);
            row_of(batch, row, &mut out)?;
            Ok(Some(out))
        };
        (0..batch.num_rows()).map(one).collect()
    }

    fn prepare(&self) -> Result<()> {
        self.id().map(drop)
    }
}

/// The body of a record.
pub(super) fn row_of(batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<()> {
    let schema = batch.schema_ref();
    schema.fields().iter().zip(batch.columns()).try_for_each(|(field, column)| nullable(field, column, row, out))
}

/// A value of `["null", type]`.
fn nullable(field: &Field, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    if array.is_null(row) {
        long(0, out);
        return Ok(());
    }
    long(1, out);
    value(field, array, row, out)
}

fn value(field: &Field, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    match array.data_type() {
        DataType::Boolean => out.push(array.as_boolean().value(row).into()),
        DataType::Int16 => long(array.as_primitive::<Int16Type>().value(row).into(), out),
        DataType::Int32 => long(array.as_primitive::<Int32Type>().value(row).into(), out),
        DataType::Int64 => long(array.as_primitive::<Int64Type>().value(row), out),
        DataType::Float32 => out.extend(array.as_primitive::<Float32Type>().value(row).to_le_bytes()),
        DataType::Float64 => out.extend(array.as_primitive::<Float64Type>().value(row).to_le_bytes()),
        DataType::Date32 => long(array.as_primitive::<Date32Type>().value(row).into(), out),
        DataType::Time64(_) => long(array.as_primitive::<Time64MicrosecondType>().value(row), out),
        DataType::Timestamp(..) => long(array.as_primitive::<TimestampMicrosecondType>().value(row), out),
        DataType::Decimal128(..) => {
            decimal(i256::from_i128(array.as_primitive::<Decimal128Type>().value(row)), out);
        }
        DataType::Decimal256(..) => decimal(array.as_primitive::<Decimal256Type>().value(row), out),
        DataType::Utf8 => bytes(array.as_string::<i32>().value(row).as_bytes(), out),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row), out),
        DataType::Interval(_) => bytes(as_text(field, array, row)?.as_bytes(), out),
        DataType::List(item) => {
            let items = array.as_list::<i32>().value(row);
            block(items.len(), out, |at, out| nullable(item, &items, at, out))?;
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, field) = (entries.column(0).as_string::<i32>(), &entries.fields()[1]);
            block(entries.len(), out, |at, out| {
                bytes(keys.value(at).as_bytes(), out);
                nullable(field, entries.column(1), at, out)
            })?;
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields.iter().zip(columns).try_for_each(|(field, column)| nullable(field, column, row, out))?;
        }
        _ => return Err(Error::internal(format!("a value of type {} for Avro", SqlType::from_field(field)))),
    }
    Ok(())
}

/// The items of an array or a map, and their end.
fn block(count: usize, out: &mut Vec<u8>, mut item: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<()> {
    if count > 0 {
        long(count as i64, out);
        (0..count).try_for_each(|at| item(at, out))?;
    }
    long(0, out);
    Ok(())
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value);
}

/// Without the bytes that only repeat the sign.
fn decimal(value: i256, out: &mut Vec<u8>) {
    let all = value.to_be_bytes();
    let fill = if value.is_negative() { 0xff } else { 0 };
    let needed = |at: usize| all[at] != fill || (all[at + 1] ^ fill) >= 0x80;
    let first = (0..all.len() - 1).find(|at| needed(*at)).unwrap_or(all.len() - 1);
    bytes(&all[first..], out);
}
