//! The binary form of every type, as Postgres' receive functions read it.

use crate::{Error, Result, SqlState};
use datafusion::arrow::datatypes::IntervalMonthDayNano;

use super::builder::{ColumnBuilder, TextKind, Values};
use super::datetime::{MICROS_PER_DAY, POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS};
use super::{Style, numeric, text_in};

/// Postgres allows six dimensions.
const MAX_DIMENSIONS: usize = 6;

/// Reads from the left of what is left.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| malformed("insufficient data left in message"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked"))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Length and value, `None` for null.
    fn sized(&mut self) -> Result<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            size => {
                let size = usize::try_from(size).map_err(|_| malformed("invalid length of a value"))?;
                Ok(Some(self.take(size)?))
            }
        }
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(SqlState::InvalidBinaryRepresentation, message)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes
        .try_into()
        .map_err(|_| malformed("incorrect binary data format").with_detail(format!("{} bytes, not {N}", bytes.len())))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| malformed("invalid byte sequence for encoding \"UTF8\""))
}

pub(super) fn append(builder: &mut ColumnBuilder, bytes: &[u8]) -> Result<()> {
    match &mut builder.0 {
        Values::Boolean(b) => b.append_value(fixed::<1>(bytes)?[0] != 0),
        Values::Int16(b) => b.append_value(i16::from_be_bytes(fixed(bytes)?)),
        Values::Int32(b) | Values::Oid(b) => b.append_value(i32::from_be_bytes(fixed(bytes)?)),
        Values::Int64(b) => b.append_value(i64::from_be_bytes(fixed(bytes)?)),
        Values::Float32(b) => b.append_value(f32::from_be_bytes(fixed(bytes)?)),
        Values::Float64(b) => b.append_value(f64::from_be_bytes(fixed(bytes)?)),
        Values::Decimal128 { values, precision, scale, unconstrained, exact } => {
            let decimal = numeric::checked(decimal(bytes)?, *scale, *exact)?;
            values.append_value(numeric::to_i128(decimal, *precision, *scale, *unconstrained)?);
        }
        Values::Decimal256 { values, precision, scale, exact } => {
            let decimal = numeric::checked(decimal(bytes)?, *scale, *exact)?;
            values.append_value(numeric::to_i256(decimal, *precision, *scale)?);
        }
        Values::Text(b, TextKind::Uuid) => b.append_value(uuid(fixed(bytes)?)),
        Values::Text(_, TextKind::Jsonb) => match bytes {
            [1, text @ ..] => builder.append_text(utf8(text)?, &Style::default())?,
            _ => return Err(malformed("unsupported jsonb version number")),
        },
        Values::Text(..) | Values::Map { .. } => builder.append_text(utf8(bytes)?, &Style::default())?,
        Values::Bytea(b) => b.append_value(bytes),
        Values::Date(b) => b.append_value(days_since_1970(i32::from_be_bytes(fixed(bytes)?))?),
        Values::Time(b) => {
            let micros = i64::from_be_bytes(fixed(bytes)?);
            if !(0..=MICROS_PER_DAY).contains(&micros) {
                return Err(Error::new(SqlState::DatetimeFieldOverflow, "time out of range"));
            }
            b.append_value(micros);
        }
        Values::Timestamp(b) | Values::TimestampTz(b) => {
            b.append_value(micros_since_1970(i64::from_be_bytes(fixed(bytes)?))?);
        }
        Values::Interval(b) => b.append_value(interval(fixed(bytes)?)?),
        Values::List { .. } => array(builder, bytes)?,
        Values::Struct { columns, nulls, .. } => {
            record(columns, bytes)?;
            nulls.append_non_null();
        }
    }
    Ok(())
}

fn decimal(bytes: &[u8]) -> Result<numeric::Decimal> {
    match numeric::parse_binary(bytes) {
        None => Err(malformed("invalid binary format of a numeric")),
        Some(Err(special)) => Err(text_in::numeric_special(special)),
        Some(Ok(decimal)) => Ok(decimal),
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).hyphenated().to_string()
}

fn days_since_1970(days: i32) -> Result<i32> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        days => days
            .checked_add(POSTGRES_EPOCH_DAYS)
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "date out of range")),
    }
}

fn micros_since_1970(micros: i64) -> Result<i64> {
    match micros {
        i64::MAX | i64::MIN => Ok(micros),
        micros => micros
            .checked_add(POSTGRES_EPOCH_MICROS)
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range")),
    }
}

fn interval(bytes: [u8; 16]) -> Result<IntervalMonthDayNano> {
    let mut reader = Reader(&bytes);
    let micros = i64::from_be_bytes(reader.array()?);
    let days = reader.i32()?;
    let months = reader.i32()?;
    let nanos =
        micros.checked_mul(1000).ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "interval out of range"))?;
    Ok(IntervalMonthDayNano::new(months, days, nanos))
}

fn array(builder: &mut ColumnBuilder, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader(bytes);
    let count = usize::try_from(reader.i32()?).ok().filter(|count| *count <= MAX_DIMENSIONS);
    let count = count.ok_or_else(|| malformed("invalid number of dimensions"))?;
    reader.take(8)?; // Flags and element type: the elements say both.
    let mut dimensions = Vec::with_capacity(count);
    for _ in 0..count {
        let size = usize::try_from(reader.i32()?).map_err(|_| malformed("invalid array dimension"))?;
        reader.i32()?;
        dimensions.push(size);
    }
    if dimensions.contains(&0) {
        // No elements at all, whatever the other sizes claim.
        dimensions.clear();
    }
    elements(builder, &dimensions, &mut reader)?;
    if reader.0.is_empty() { Ok(()) } else { Err(malformed("incorrect binary data format of an array")) }
}

/// One list of `dimensions[0]` elements, those being lists themselves if there are more dimensions.
fn elements(builder: &mut ColumnBuilder, dimensions: &[usize], reader: &mut Reader) -> Result<()> {
    let (size, inner) = match dimensions {
        [] => (0, &[][..]),
        [size, inner @ ..] => (*size, inner),
    };
    let Some(item) = builder.list_item() else {
        return Err(malformed("the array has more dimensions than its type"));
    };
    for _ in 0..size {
        if item.list_item().is_some() {
            if inner.is_empty() {
                return Err(malformed("the array has fewer dimensions than its type"));
            }
            elements(item, inner, reader)?;
        } else if !inner.is_empty() {
            return Err(malformed("the array has more dimensions than its type"));
        } else {
            match reader.sized()? {
                Some(bytes) => append(item, bytes)?,
                None => item.append_null(),
            }
        }
    }
    builder.close_list(size);
    Ok(())
}

fn record(columns: &mut [ColumnBuilder], bytes: &[u8]) -> Result<()> {
    let mut reader = Reader(bytes);
    let count = reader.i32()?;
    if usize::try_from(count).ok() != Some(columns.len()) {
        return Err(malformed(format!("wrong number of columns: {count}, expected {}", columns.len())));
    }
    for column in columns {
        reader.i32()?; // The field's type: known from the column.
        match reader.sized()? {
            Some(bytes) => append(column, bytes)?,
            None => column.append_null(),
        }
    }
    if reader.0.is_empty() { Ok(()) } else { Err(malformed("incorrect binary data format of a record")) }
}
