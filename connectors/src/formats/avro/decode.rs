//! A record's bytes into columns, as a [`Plan`] says.

use datafusion::arrow::datatypes::{IntervalMonthDayNano, i256};
use serde_json::Value;
use tidemark_common::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::plan::{Plan, ReaderDefault, RecordPlan, Step};
use super::schema::{Id, Leaf, Node, Schema, Unit};
use crate::formats::column::{Column, Scalar};

/// One record, all of it.
pub(super) fn record(plan: &RecordPlan, schema: &Schema, bytes: &[u8], columns: &mut [Column]) -> Result<()> {
    let mut cursor = Cursor::new(bytes);
    fields(plan, schema, &mut cursor, columns)?;
    cursor.end()
}

fn fields(plan: &RecordPlan, schema: &Schema, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<()> {
    let of_column = |at: usize, error: Error| error.context(format!("column \"{}\"", plan.names[at]));
    for step in &plan.steps {
        match step {
            Step::Skip(node) => cursor.skip(schema, *node)?,
            Step::Read(at, plan) => {
                value(plan, schema, cursor, &mut columns[*at]).map_err(|error| of_column(*at, error))?;
            }
        }
    }
    for (at, default) in &plan.absent {
        match default {
            None => columns[*at].null(),
            Some(ReaderDefault { schema, node, value }) => {
                default_value(schema, *node, value, &mut columns[*at]).map_err(|error| of_column(*at, error))?;
            }
        }
    }
    Ok(())
}

fn value(plan: &Plan, schema: &Schema, cursor: &mut Cursor<'_>, column: &mut Column) -> Result<()> {
    match plan {
        Plan::Null => {
            column.null();
            Ok(())
        }
        Plan::Leaf(leaf) => column.append(scalar(*leaf, cursor)?),
        Plan::Enum(symbols) => {
            let symbol = cursor.choice(symbols.len(), "symbols of the enum")?;
            column.append(Scalar::Text(&symbols[symbol]))
        }
        Plan::Array(plan) => {
            let items = column.items()?;
            cursor.items(|cursor| value(plan, schema, cursor, items))?;
            column.close()
        }
        Plan::Map(plan) => {
            let [keys, values] = column.entries()?;
            cursor.items(|cursor| {
                keys.append(Scalar::Text(cursor.text()?))?;
                value(plan, schema, cursor, values)
            })?;
            column.close()
        }
        Plan::Record(plan) => {
            fields(plan, schema, cursor, column.fields()?)?;
            column.close()
        }
        Plan::Union(branches) => {
            let branch = cursor.choice(branches.len(), "types of the union")?;
            match &branches[branch] {
                Ok(plan) => value(plan, schema, cursor, column),
                Err(error) => Err(error.clone()),
            }
        }
    }
}

fn scalar<'a>(leaf: Leaf, cursor: &mut Cursor<'a>) -> Result<Scalar<'a>> {
    Ok(match leaf {
        Leaf::Boolean => Scalar::Bool(cursor.boolean()?),
        Leaf::Int => Scalar::Int(i64::from(cursor.int()?)),
        Leaf::Long => Scalar::Int(cursor.long()?),
        Leaf::Float => Scalar::Float(f32::from_le_bytes(cursor.array()?)),
        Leaf::Double => Scalar::Double(f64::from_le_bytes(cursor.array()?)),
        Leaf::Bytes => Scalar::Bytes(cursor.bytes()?),
        Leaf::Fixed(size) => Scalar::Bytes(cursor.take(size)?),
        Leaf::String | Leaf::UuidText => Scalar::Text(cursor.text()?),
        Leaf::Date => Scalar::Days(cursor.int()?),
        Leaf::Time(unit) => Scalar::Time(micros(cursor.long()?, unit)?),
        Leaf::Timestamp { unit, .. } => Scalar::Timestamp(micros(cursor.long()?, unit)?),
        Leaf::Decimal { size, scale, .. } => {
            let bytes = match size {
                Some(size) => cursor.take(size)?,
                None => cursor.bytes()?,
            };
            Scalar::Decimal(whole(bytes)?, scale)
        }
        Leaf::UuidFixed => Scalar::Uuid(cursor.array()?),
        Leaf::Duration => Scalar::Interval(duration(cursor.array()?)),
    })
}

fn micros(count: i64, unit: Unit) -> Result<i64> {
    let far = || Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range");
    match unit {
        Unit::Milli => count.checked_mul(1000).ok_or_else(far),
        Unit::Micro => Ok(count),
        Unit::Nano => Ok(count.div_euclid(1000)),
    }
}

/// A number in two's complement, the highest byte first.
fn whole(bytes: &[u8]) -> Result<i256> {
    let fill = if bytes.first().is_some_and(|first| *first >= 0x80) { 0xff } else { 0 };
    let over = bytes.len().saturating_sub(32);
    let (beyond, kept) = bytes.split_at(over);
    let same_sign = kept.first().is_none_or(|first| (*first >= 0x80) == (fill == 0xff));
    if beyond.iter().any(|byte| *byte != fill) || !same_sign {
        return Err(Error::new(SqlState::NumericValueOutOfRange, "value overflows numeric format"));
    }
    let mut all = [fill; 32];
    all[32 - kept.len()..].copy_from_slice(kept);
    Ok(i256::from_be_bytes(all))
}

/// Months, days and milliseconds, each without a sign.
fn duration(bytes: [u8; 12]) -> IntervalMonthDayNano {
    let part = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    IntervalMonthDayNano::new(part(0) as i32, part(4) as i32, i64::from(part(8)) * 1_000_000)
}

/// A default out of a schema: JSON, bytes as a text of the characters 0 to 255, a union's by the first branch that it fits.
fn default_value(schema: &Schema, node: Id, json: &Value, column: &mut Column) -> Result<()> {
    let unfit =
        || Error::new(SqlState::InvalidObjectDefinition, format!("{json} is no default of {}", schema.name(node)));
    match (schema.node(node), json) {
        (Node::Null, Value::Null) => {
            column.null();
            Ok(())
        }
        (Node::Union(branches), _) => {
            let fits = |branch: &&Id| matches!(schema.node(**branch), Node::Null) == json.is_null();
            let branch = branches.iter().find(fits).ok_or_else(unfit)?;
            default_value(schema, *branch, json, column)
        }
        (Node::Enum(_), Value::String(symbol)) => column.append(Scalar::Text(symbol)),
        (Node::Array(items), Value::Array(values)) => {
            let column_of_items = column.items()?;
            values.iter().try_for_each(|value| default_value(schema, *items, value, column_of_items))?;
            column.close()
        }
        (Node::Map(of), Value::Object(entries)) => {
            let [keys, values] = column.entries()?;
            for (key, value) in entries {
                keys.append(Scalar::Text(key))?;
                default_value(schema, *of, value, values)?;
            }
            column.close()
        }
        (Node::Record(record), Value::Object(values)) => {
            let (names, columns) = column.named_fields()?;
            for (name, column) in names.iter().zip(columns) {
                let field = record.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name.name()));
                let value = field.and_then(|field| Some((field, values.get(&field.name).or(field.default.as_ref())?)));
                match value {
                    None => column.null(),
                    Some((field, value)) => default_value(schema, field.node, value, column)?,
                }
            }
            column.close()
        }
        (Node::Leaf(leaf), _) => {
            let bytes: Vec<u8> = json.as_str().unwrap_or_default().chars().map(|c| c as u8).collect();
            default_scalar(*leaf, json, &bytes).ok_or_else(unfit).and_then(|scalar| column.append(scalar?))
        }
        _ => Err(unfit()),
    }
}

fn default_scalar<'a>(leaf: Leaf, json: &'a Value, bytes: &'a [u8]) -> Option<Result<Scalar<'a>>> {
    let count = || json.as_i64();
    Some(Ok(match leaf {
        Leaf::Boolean => Scalar::Bool(json.as_bool()?),
        Leaf::Int | Leaf::Long => Scalar::Int(count()?),
        Leaf::Float => Scalar::Float(json.as_f64()? as f32),
        Leaf::Double => Scalar::Double(json.as_f64()?),
        Leaf::String | Leaf::UuidText => Scalar::Text(json.as_str()?),
        Leaf::Bytes => json.as_str().map(|_| Scalar::Bytes(bytes))?,
        Leaf::Fixed(size) => json.as_str().filter(|_| bytes.len() == size).map(|_| Scalar::Bytes(bytes))?,
        Leaf::Date => Scalar::Days(i32::try_from(count()?).ok()?),
        Leaf::Time(unit) => return Some(micros(count()?, unit).map(Scalar::Time)),
        Leaf::Timestamp { unit, .. } => return Some(micros(count()?, unit).map(Scalar::Timestamp)),
        Leaf::Decimal { scale, .. } => {
            json.as_str()?;
            return Some(whole(bytes).map(|value| Scalar::Decimal(value, scale)));
        }
        Leaf::UuidFixed => Scalar::Uuid(bytes.try_into().ok()?),
        Leaf::Duration => Scalar::Interval(duration(bytes.try_into().ok()?)),
    }))
}
