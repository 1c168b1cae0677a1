//! The text form of every type, exactly as Postgres prints it.

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::{ArrowPrimitiveType, PrimitiveArray};

use super::column::{Column, Data};
use super::{Style, array_text, datetime, float, interval, json, numeric};

impl Column {
    /// Appends the text of a value that is not null.
    pub fn write_text(&self, row: usize, style: &Style, out: &mut BytesMut) {
        match &self.data {
            Data::Boolean(a) => out.put_u8(if a.value(row) { b't' } else { b'f' }),
            Data::Int16(a) => write_integer(a, row, out),
            Data::Int32(a) => write_integer(a, row, out),
            Data::Int64(a) => write_integer(a, row, out),
            Data::Oid(a) => out.put_slice(itoa::Buffer::new().format(a.value(row) as u32).as_bytes()),
            Data::Float32(a) => float::write_f32(a.value(row), style.extra_float_digits, out),
            Data::Float64(a) => float::write_f64(a.value(row), style.extra_float_digits, out),
            Data::Decimal128(a, form) => {
                let (value, mut buffer) = (a.value(row), itoa::Buffer::new());
                // Few numbers need 128 bits, which take several times as long.
                let text = match i64::try_from(value) {
                    Ok(small) => buffer.format(small),
                    Err(_) => buffer.format(value),
                };
                numeric::write_text(text, *form, out);
            }
            Data::Decimal256(a, form) => numeric::write_text(&a.value(row).to_string(), *form, out),
            Data::Text(a) | Data::Uuid(a) | Data::Json(a) | Data::Jsonb(a) => out.put_slice(a.value(row).as_bytes()),
            Data::Bytea(a) => write_bytea(a.value(row), style, out),
            Data::Date(a) => datetime::write_date(a.value(row), out),
            Data::Time(a) => datetime::write_time(a.value(row), out),
            Data::Timestamp(a) => datetime::write_timestamp(a.value(row), b' ', out),
            Data::TimestampTz(a) => datetime::write_timestamptz(a.value(row), style, b' ', out),
            Data::Interval(a) if style.iso_intervals => interval::write_iso(a.value(row), out),
            Data::Interval(a) => interval::write(a.value(row), out),
            Data::List { array, items, .. } => {
                let offsets = array.value_offsets();
                array_text::write_array(items, offsets[row] as usize..offsets[row + 1] as usize, style, out);
            }
            Data::Struct { columns, .. } => array_text::write_record(columns, row, style, out),
            Data::Map { .. } => self.write_json(row, style, out),
        }
    }

    /// Text that needs no quotes inside an array or a record.
    pub(super) fn is_plain(&self) -> bool {
        matches!(
            &self.data,
            Data::Boolean(_)
                | Data::Int16(_)
                | Data::Int32(_)
                | Data::Int64(_)
                | Data::Oid(_)
                | Data::Float32(_)
                | Data::Float64(_)
                | Data::Decimal128(..)
                | Data::Decimal256(..)
                | Data::Uuid(_)
                | Data::Time(_)
        )
    }

    /// Appends the value as JSON, as `to_json` gives it.
    pub(super) fn write_json(&self, row: usize, style: &Style, out: &mut BytesMut) {
        if self.is_null(row) {
            return out.put_slice(b"null");
        }
        match &self.data {
            Data::Boolean(a) => out.put_slice(if a.value(row) { b"true" } else { b"false" }),
            Data::Float32(a) if !a.value(row).is_finite() => self.write_json_string(row, style, out),
            Data::Float64(a) if !a.value(row).is_finite() => self.write_json_string(row, style, out),
            Data::Int16(_)
            | Data::Int32(_)
            | Data::Int64(_)
            | Data::Oid(_)
            | Data::Float32(_)
            | Data::Float64(_)
            | Data::Decimal128(..)
            | Data::Decimal256(..)
            | Data::Json(_)
            | Data::Jsonb(_) => self.write_text(row, style, out),
            Data::Timestamp(a) => {
                out.put_u8(b'"');
                datetime::write_timestamp(a.value(row), b'T', out);
                out.put_u8(b'"');
            }
            Data::TimestampTz(a) => {
                out.put_u8(b'"');
                datetime::write_timestamptz(a.value(row), style, b'T', out);
                out.put_u8(b'"');
            }
            Data::List { array, items, .. } => {
                let offsets = array.value_offsets();
                let rows = offsets[row] as usize..offsets[row + 1] as usize;
                write_separated(rows, b'[', b']', out, |item, out| items.write_json(item, style, out));
            }
            Data::Struct { names, columns } => write_separated(0..columns.len(), b'{', b'}', out, |at, out| {
                json::write_string(&names[at], out);
                out.put_u8(b':');
                columns[at].0.write_json(row, style, out);
            }),
            Data::Map { array, keys, values } => {
                let offsets = array.value_offsets();
                let rows = offsets[row] as usize..offsets[row + 1] as usize;
                write_separated(rows, b'{', b'}', out, |entry, out| {
                    keys.write_json_string(entry, style, out);
                    out.put_u8(b':');
                    values.write_json(entry, style, out);
                });
            }
            _ => self.write_json_string(row, style, out),
        }
    }

    fn write_json_string(&self, row: usize, style: &Style, out: &mut BytesMut) {
        let mut text = BytesMut::new();
        self.write_text(row, style, &mut text);
        json::write_string(&String::from_utf8_lossy(&text), out);
    }
}

fn write_separated(
    items: std::ops::Range<usize>,
    open: u8,
    close: u8,
    out: &mut BytesMut,
    mut write: impl FnMut(usize, &mut BytesMut),
) {
    out.put_u8(open);
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        write(item, out);
    }
    out.put_u8(close);
}

fn write_integer<T>(array: &PrimitiveArray<T>, row: usize, out: &mut BytesMut)
where
    T: ArrowPrimitiveType,
    T::Native: itoa::Integer,
{
    out.put_slice(itoa::Buffer::new().format(array.value(row)).as_bytes());
}

fn write_bytea(bytes: &[u8], style: &Style, out: &mut BytesMut) {
    if style.bytea_escape {
        for byte in bytes {
            match byte {
                b'\\' => out.put_slice(b"\\\\"),
                0x20..=0x7e => out.put_u8(*byte),
                _ => out.put_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]),
            }
        }
        return;
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.put_slice(b"\\x");
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}
