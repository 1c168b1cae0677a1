//! A message's bytes into columns, as a [`MessagePlan`] says.
//!
//! ```text
//!   bytes ─▶ fields in any order ─▶ what was found for each column ─▶ one value to each column, in the order of columns
//! ```
//!
//! Of a field that is there more than once the last value counts; messages are merged, which is the same as reading one after the
//! other: so what was found of a message are all its pieces.

use std::collections::HashMap;

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use prost_reflect::{Kind as Of, Value};
use tidemark_common::{Error, Result, SqlState};

use super::plan::{Absent, ColumnPlan, Item, MessagePlan, Shape};
use super::wire::{Raw, Wire, damaged};
use crate::formats::column::{Column, Scalar};
use crate::formats::varint::unzigzag;

/// A message, whose pieces are read one after the other.
pub(super) fn message(plan: &MessagePlan, pieces: &[&[u8]], columns: &mut [Column]) -> Result<()> {
    let mut found: Vec<Vec<Raw<'_>>> = plan.columns.iter().map(|_| Vec::new()).collect();
    for piece in pieces {
        let mut wire = Wire(piece);
        while !wire.is_empty() {
            let (number, raw) = wire.field()?;
            let Some(met) = plan.met(number) else { continue };
            if let Some(column) = met.column {
                note(&plan.columns[column].shape, raw, &mut found[column]);
            }
            met.instead.iter().for_each(|column| found[*column].clear());
        }
    }
    for (at, (plan_of, found)) in plan.columns.iter().zip(&found).enumerate() {
        let read = column(plan_of, found, &mut columns[at]);
        read.map_err(|error| error.context(format!("column \"{}\"", plan.names[at])))?;
    }
    Ok(())
}

/// Keeps what counts. A value that is written in another form than its type is passed over, as an unknown field is.
fn note<'a>(shape: &Shape, raw: Raw<'a>, found: &mut Vec<Raw<'a>>) {
    match shape {
        Shape::One(item) if fits(item, raw) => {
            if !matches!(raw, Raw::Bytes(_) | Raw::Group(_)) || matches!(item, Item::Scalar(_)) {
                found.clear();
            }
            found.push(raw);
        }
        Shape::Many(item) if fits(item, raw) || (is_packable(item) && matches!(raw, Raw::Bytes(_))) => found.push(raw),
        Shape::Map(_) if matches!(raw, Raw::Bytes(_)) => found.push(raw),
        _ => {}
    }
}

fn fits(item: &Item, raw: Raw<'_>) -> bool {
    match item {
        Item::Scalar(of) => form_of(of, raw),
        Item::Enum(_) => matches!(raw, Raw::Varint(_)),
        Item::Message(_, true) => matches!(raw, Raw::Group(_)),
        Item::Message(_, false) | Item::Timestamp | Item::Duration | Item::Wrapper(..) => matches!(raw, Raw::Bytes(_)),
    }
}

fn form_of(of: &Of, raw: Raw<'_>) -> bool {
    match of {
        Of::String | Of::Bytes => matches!(raw, Raw::Bytes(_)),
        Of::Fixed32 | Of::Sfixed32 | Of::Float => matches!(raw, Raw::Fixed32(_)),
        Of::Fixed64 | Of::Sfixed64 | Of::Double => matches!(raw, Raw::Fixed64(_)),
        _ => matches!(raw, Raw::Varint(_)),
    }
}

fn is_packable(item: &Item) -> bool {
    match item {
        Item::Scalar(of) => !matches!(of, Of::String | Of::Bytes),
        Item::Enum(_) => true,
        _ => false,
    }
}

fn column(plan: &ColumnPlan, found: &[Raw<'_>], into: &mut Column) -> Result<()> {
    match (&plan.shape, found) {
        (_, []) => absent(plan, into),
        (Shape::Nothing, _) => Err(Error::internal("a field that the schema does not have was found")),
        (Shape::One(item), found) => value(item, found, into),
        (Shape::Many(item), found) => {
            let items = into.items()?;
            found.iter().try_for_each(|raw| many(item, *raw, items))?;
            into.close()
        }
        (Shape::Map(parts), found) => map(parts, found, into),
    }
}

fn absent(plan: &ColumnPlan, into: &mut Column) -> Result<()> {
    match (&plan.absent, &plan.shape) {
        (Absent::Null, _) => {
            into.null();
            Ok(())
        }
        (Absent::Empty, _) => into.close(),
        (Absent::Default(value), Shape::One(Item::Enum(names))) if value.as_enum_number().is_some() => {
            append_symbol(names, value.as_enum_number().unwrap_or_default(), into)
        }
        (Absent::Default(value), _) => into.append(default(value)?),
        (Absent::Message, Shape::One(item)) => self::value(item, &[], into),
        (Absent::Message | Absent::Refused, _) => Err(damaged("a required field is missing")),
    }
}

/// A value; of a message all its pieces.
fn value(item: &Item, found: &[Raw<'_>], into: &mut Column) -> Result<()> {
    match item {
        Item::Scalar(of) => {
            let raw = found.last().ok_or_else(|| Error::internal("a value that was found"))?;
            into.append(scalar(of, *raw)?)
        }
        Item::Enum(names) => match found.last() {
            Some(Raw::Varint(number)) => append_symbol(names, *number as i32, into),
            _ => Err(Error::internal("an enum is a number")),
        },
        Item::Timestamp => {
            let (seconds, nanos) = seconds_and_nanos(&bytes_of(found))?;
            let micros = seconds.checked_mul(1_000_000).and_then(|m| m.checked_add(i64::from(nanos).div_euclid(1000)));
            let far = || Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range");
            into.append(Scalar::Timestamp(micros.ok_or_else(far)?))
        }
        Item::Duration => {
            let (seconds, nanos) = seconds_and_nanos(&bytes_of(found))?;
            let nanos = seconds.checked_mul(1_000_000_000).and_then(|n| n.checked_add(i64::from(nanos)));
            let far = || Error::new(SqlState::DatetimeFieldOverflow, "interval out of range");
            into.append(Scalar::Interval(IntervalMonthDayNano::new(0, 0, nanos.ok_or_else(far)?)))
        }
        Item::Wrapper(of, zero) => {
            let mut last = None;
            for piece in bytes_of(found) {
                let mut wire = Wire(piece);
                while !wire.is_empty() {
                    let (number, raw) = wire.field()?;
                    if number == 1 && form_of(of, raw) {
                        last = Some(raw);
                    }
                }
            }
            match last {
                Some(raw) => into.append(scalar(of, raw)?),
                None => into.append(default(zero)?),
            }
        }
        Item::Message(plan, _) => {
            message(plan, &bytes_of(found), into.fields()?)?;
            into.close()
        }
    }
}

fn bytes_of<'a>(found: &[Raw<'a>]) -> Vec<&'a [u8]> {
    let one = |raw: &Raw<'a>| match raw {
        Raw::Bytes(bytes) | Raw::Group(bytes) => Some(*bytes),
        _ => None,
    };
    found.iter().filter_map(one).collect()
}

/// One item, or several packed.
fn many(item: &Item, raw: Raw<'_>, items: &mut Column) -> Result<()> {
    let Raw::Bytes(bytes) = raw else { return value(item, &[raw], items) };
    if !is_packable(item) {
        return value(item, &[raw], items);
    }
    let mut wire = Wire(bytes);
    while !wire.is_empty() {
        let raw = match item {
            Item::Scalar(Of::Fixed32 | Of::Sfixed32 | Of::Float) => Raw::Fixed32(u32::from_le_bytes(wire.array()?)),
            Item::Scalar(Of::Fixed64 | Of::Sfixed64 | Of::Double) => Raw::Fixed64(u64::from_le_bytes(wire.array()?)),
            _ => Raw::Varint(wire.varint()?),
        };
        value(item, &[raw], items)?;
    }
    Ok(())
}

/// Of entries with the same key the last counts.
fn map(parts: &[ColumnPlan; 2], found: &[Raw<'_>], into: &mut Column) -> Result<()> {
    let mut entries: Vec<[Vec<Raw<'_>>; 2]> = Vec::with_capacity(found.len());
    let mut places: HashMap<Option<Raw<'_>>, usize> = HashMap::new();
    for bytes in bytes_of(found) {
        let mut entry = [Vec::new(), Vec::new()];
        let mut wire = Wire(bytes);
        while !wire.is_empty() {
            let (number, raw) = wire.field()?;
            if let Some(at) = [1, 2].iter().position(|part| *part == number) {
                note(&parts[at].shape, raw, &mut entry[at]);
            }
        }
        match places.entry(entry[0].last().copied()) {
            std::collections::hash_map::Entry::Occupied(place) => entries[*place.get()] = entry,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
        }
    }
    let columns = into.entries()?;
    for entry in &entries {
        for at in 0..2 {
            column(&parts[at], &entry[at], &mut columns[at])?;
        }
    }
    into.close()
}

fn append_symbol(names: &HashMap<i32, String>, number: i32, into: &mut Column) -> Result<()> {
    match names.get(&number) {
        Some(name) => into.append(Scalar::Text(name)),
        // A symbol of a later schema.
        None => into.append(Scalar::Text(&number.to_string())),
    }
}

fn scalar<'a>(of: &Of, raw: Raw<'a>) -> Result<Scalar<'a>> {
    Ok(match (of, raw) {
        (Of::Bool, Raw::Varint(value)) => Scalar::Bool(value != 0),
        (Of::Int32, Raw::Varint(value)) => Scalar::Int((value as i32).into()),
        (Of::Int64, Raw::Varint(value)) => Scalar::Int(value as i64),
        (Of::Uint32, Raw::Varint(value)) => Scalar::Int((value as u32).into()),
        (Of::Uint64, Raw::Varint(value)) | (Of::Fixed64, Raw::Fixed64(value)) => Scalar::Unsigned(value),
        (Of::Sint32, Raw::Varint(value)) => Scalar::Int((unzigzag(value) as i32).into()),
        (Of::Sint64, Raw::Varint(value)) => Scalar::Int(unzigzag(value)),
        (Of::Fixed32, Raw::Fixed32(value)) => Scalar::Int(value.into()),
        (Of::Sfixed32, Raw::Fixed32(value)) => Scalar::Int((value as i32).into()),
        (Of::Sfixed64, Raw::Fixed64(value)) => Scalar::Int(value as i64),
        (Of::Float, Raw::Fixed32(value)) => Scalar::Float(f32::from_bits(value)),
        (Of::Double, Raw::Fixed64(value)) => Scalar::Double(f64::from_bits(value)),
        (Of::String, Raw::Bytes(value)) => {
            Scalar::Text(std::str::from_utf8(value).map_err(|_| crate::formats::text::not_utf8())?)
        }
        (Of::Bytes, Raw::Bytes(value)) => Scalar::Bytes(value),
        (of, raw) => return Err(Error::internal(format!("{raw:?} was taken for a {of:?}"))),
    })
}

fn default(value: &Value) -> Result<Scalar<'_>> {
    Ok(match value {
        Value::Bool(value) => Scalar::Bool(*value),
        Value::I32(value) => Scalar::Int((*value).into()),
        Value::I64(value) => Scalar::Int(*value),
        Value::U32(value) => Scalar::Int((*value).into()),
        Value::U64(value) => Scalar::Unsigned(*value),
        Value::F32(value) => Scalar::Float(*value),
        Value::F64(value) => Scalar::Double(*value),
        Value::String(value) => Scalar::Text(value),
        Value::Bytes(value) => Scalar::Bytes(value),
        other => return Err(Error::internal(format!("{other:?} is no default of a scalar"))),
    })
}

/// The fields 1 and 2 of a Timestamp or a Duration.
fn seconds_and_nanos(pieces: &[&[u8]]) -> Result<(i64, i32)> {
    let (mut seconds, mut nanos) = (0, 0);
    for piece in pieces {
        let mut wire = Wire(piece);
        while !wire.is_empty() {
            match wire.field()? {
                (1, Raw::Varint(value)) => seconds = value as i64,
                (2, Raw::Varint(value)) => nanos = value as i32,
                _ => {}
            }
        }
    }
    Ok((seconds, nanos))
}
