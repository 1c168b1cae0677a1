//! The binary form of every type, as Postgres' send functions write it.

use std::ops::Range;

use crate::{Error, Oid, Result, SqlState};
use bytes::{BufMut, BytesMut};

use super::column::{Column, Data};
use super::datetime::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS};
use super::{Style, numeric};

impl Column {
    /// Appends the binary form of a value that is not null.
    pub fn write_binary(&self, row: usize, style: &Style, out: &mut BytesMut) -> Result<()> {
        match &self.data {
            Data::Boolean(a) => out.put_u8(u8::from(a.value(row))),
            Data::Int16(a) => out.put_i16(a.value(row)),
            Data::Int32(a) | Data::Oid(a) => out.put_i32(a.value(row)),
            Data::Int64(a) => out.put_i64(a.value(row)),
            Data::Float32(a) => out.put_f32(a.value(row)),
            Data::Float64(a) => out.put_f64(a.value(row)),
            Data::Decimal128(a, form) => numeric::write_binary(itoa::Buffer::new().format(a.value(row)), *form, out),
            Data::Decimal256(a, form) => numeric::write_binary(&a.value(row).to_string(), *form, out),
            Data::Text(a) | Data::Json(a) => out.put_slice(a.value(row).as_bytes()),
            Data::Jsonb(a) => {
                out.put_u8(1);
                out.put_slice(a.value(row).as_bytes());
            }
            Data::Uuid(a) => write_uuid(a.value(row), out)?,
            Data::Bytea(a) => out.put_slice(a.value(row)),
            Data::Date(a) => out.put_i32(from_2000_days(a.value(row))?),
            Data::Time(a) => out.put_i64(a.value(row)),
            Data::Timestamp(a) | Data::TimestampTz(a) => out.put_i64(from_2000_micros(a.value(row))?),
            Data::Interval(a) => {
                let value = a.value(row);
                out.put_i64(value.nanoseconds / 1000);
                out.put_i32(value.days);
                out.put_i32(value.months);
            }
            Data::List { array, items, item_oid } => {
                let offsets = array.value_offsets();
                write_array(items, offsets[row] as usize..offsets[row + 1] as usize, *item_oid, style, out)?;
            }
            Data::Struct { columns, .. } => {
                out.put_i32(columns.len() as i32);
                for (column, oid) in columns {
                    out.put_u32(*oid);
                    column.write_sized_binary(row, style, out)?;
                }
            }
            Data::Map { .. } => self.write_json(row, style, out),
        }
        Ok(())
    }

    /// Length and value, or -1 for null: how values stand in rows, arrays and records.
    pub fn write_sized_binary(&self, row: usize, style: &Style, out: &mut BytesMut) -> Result<()> {
        if self.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        let start = out.len();
        out.put_i32(0);
        self.write_binary(row, style, out)?;
        set_size(out, start)
    }
}

/// Fills in the length of what follows the four bytes at `start`.
pub(super) fn set_size(out: &mut BytesMut, start: usize) -> Result<()> {
    let size = i32::try_from(out.len() - start - 4)
        .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "a value is larger than 2 GB"))?;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
    Ok(())
}

fn from_2000_days(days: i32) -> Result<i32> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        days => days
            .checked_sub(POSTGRES_EPOCH_DAYS)
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "date out of range")),
    }
}

fn from_2000_micros(micros: i64) -> Result<i64> {
    match micros {
        i64::MAX | i64::MIN => Ok(micros),
        micros => micros
            .checked_sub(POSTGRES_EPOCH_MICROS)
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range")),
    }
}

fn write_uuid(text: &str, out: &mut BytesMut) -> Result<()> {
    let mut digits = text.bytes().filter(|b| *b != b'-').map(|b| char::from(b).to_digit(16));
    let mut count = 0;
    while let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) {
        out.put_u8((high << 4 | low) as u8);
        count += 1;
    }
    if count == 16 { Ok(()) } else { Err(Error::new(SqlState::DataCorrupted, format!("\"{text}\" is held as a uuid"))) }
}

/// Postgres' arrays are boxes: dimensions first, then all elements. Lists of lists of different lengths have no such form.
fn write_array(items: &Column, rows: Range<usize>, item_oid: Oid, style: &Style, out: &mut BytesMut) -> Result<()> {
    let mut dimensions = Vec::new();
    measure(items, rows.clone(), 0, &mut dimensions)?;
    if dimensions.contains(&0) {
        dimensions.clear();
    }
    out.put_i32(dimensions.len() as i32);
    let flags_at = out.len();
    out.put_i32(0);
    out.put_u32(item_oid);
    for size in &dimensions {
        out.put_i32(*size as i32);
        out.put_i32(1);
    }
    let mut has_null = false;
    if !dimensions.is_empty() {
        write_elements(items, rows, style, &mut has_null, out)?;
    }
    out[flags_at + 3] = u8::from(has_null);
    Ok(())
}

fn measure(items: &Column, rows: Range<usize>, depth: usize, dimensions: &mut Vec<usize>) -> Result<()> {
    match dimensions.get(depth) {
        None => dimensions.push(rows.len()),
        Some(size) if *size == rows.len() => {}
        Some(_) => {
            return Err(Error::new(
                SqlState::DataException,
                "multidimensional arrays must have sub-arrays with matching dimensions in binary format",
            )
            .with_hint("Ask for the column in text format."));
        }
    }
    if let Data::List { array, items: inner, .. } = &items.data {
        for row in rows {
            if items.is_null(row) {
                return Err(Error::new(SqlState::DataException, "a null sub-array has no binary format")
                    .with_hint("Ask for the column in text format."));
            }
            let offsets = array.value_offsets();
            measure(inner, offsets[row] as usize..offsets[row + 1] as usize, depth + 1, dimensions)?;
        }
    }
    Ok(())
}

fn write_elements(
    items: &Column,
    rows: Range<usize>,
    style: &Style,
    has_null: &mut bool,
    out: &mut BytesMut,
) -> Result<()> {
    for row in rows {
        if let Data::List { array, items: inner, .. } = &items.data {
            let offsets = array.value_offsets();
            write_elements(inner, offsets[row] as usize..offsets[row + 1] as usize, style, has_null, out)?;
        } else {
            *has_null |= items.is_null(row);
            items.write_sized_binary(row, style, out)?;
        }
    }
    Ok(())
}
