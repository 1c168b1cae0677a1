//! Rows as Protobuf messages: of a schema that is made of their columns and registered, or of one in a file.
//!
//! A NULL is a field that is left out. A list or a map has no NULL within it, and is itself empty where it is NULL.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Field as Declared, FieldRef, Fields, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    SchemaRef, TimestampMicrosecondType,
};
use tidemark_common::{Error, Result, SqlState};

use super::derive::schema_of;
use super::descriptors;
use super::encode_plan::{EncodePlan, Field, Form, Shape, Whole, Written, plan};
use crate::formats::column::as_text;
use crate::formats::record_encode::RecordEncoder;
use crate::formats::registry::{Lookup, Registry, SchemaKind, frame};

/// Seconds since 1970 of what a Timestamp may be.
const TIMESTAMPS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

pub(crate) struct ProtobufEncoder {
    plan: EncodePlan,
    /// None: nothing stands before the message.
    framed: Option<Framed>,
}

struct Framed {
    registry: Arc<Registry>,
    subject: String,
    schema: String,
    id: OnceLock<u32>,
}

impl Framed {
    /// Registers the schema if it is not, and blocks.
    fn id(&self) -> Result<u32> {
        if let Some(id) = self.id.get() {
            return Ok(*id);
        }
        let id = Lookup::new(&self.registry)?.register(&self.subject, SchemaKind::Protobuf, &self.schema)?;
        Ok(*self.id.get_or_init(|| id))
    }
}

impl ProtobufEncoder {
    /// `name`: of the message, in full. Asks nobody yet.
    pub fn registered(columns: &SchemaRef, registry: &Arc<Registry>, subject: &str, name: &str) -> Result<Self> {
        let schema = schema_of(columns, name)?;
        let file = descriptors::from_text(&schema, HashMap::new())?;
        let plan = plan(&descriptors::message(file.parent_pool(), name)?, columns.fields())?;
        let (registry, subject) = (Arc::clone(registry), subject.to_string());
        Ok(Self { plan, framed: Some(Framed { registry, subject, schema, id: OnceLock::new() }) })
    }

    pub fn of_file(columns: &SchemaRef, path: &Path, name: &str) -> Result<Self> {
        let message = descriptors::message(&descriptors::from_file(path)?, name)?;
        Ok(Self { plan: plan(&message, columns.fields())?, framed: None })
    }
}

impl RecordEncoder for ProtobufEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let mut start = Vec::new();
        if let Some(framed) = &self.framed {
            start = frame::begin(framed.id()?);
            // The first message of the file.
            start.push(0);
        }
        let one = |row| {
            let mut out = start.clone();
            message(&self.plan, &|column| batch.column(column).as_ref(), row, &mut out)?;
            Ok(Some(out))
        };
        (0..batch.num_rows()).map(one).collect()
    }

    fn prepare(&self) -> Result<()> {
        self.framed.as_ref().map_or(Ok(()), |framed| framed.id().map(drop))
    }
}

pub(super) fn message<'a>(
    plan: &EncodePlan,
    columns: &dyn Fn(usize) -> &'a dyn Array,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    for field in &plan.0 {
        let array = columns(field.column);
        if array.is_valid(row) {
            let written = column(field, array, row, out);
            written.map_err(|error| error.context(format!("column \"{}\"", field.declared.name())))?;
        }
    }
    Ok(())
}

fn column(field: &Field, array: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<()> {
    match &field.shape {
        Shape::One(form) => value(form, field.number, &field.declared, array, row, out)?,
        Shape::Many(form) => {
            let items = array.as_list::<i32>().value(row);
            let declared = item_field(array.data_type())?;
            for at in 0..items.len() {
                refuse_null(&items, at, "a list")?;
                value(form, field.number, declared, &items, at, out)?;
            }
        }
        Shape::Map(key, of) => {
            let entries = array.as_map().value(row);
            let declared = entry_fields(array.data_type())?;
            for at in 0..entries.len() {
                refuse_null(entries.column(1), at, "a map")?;
                let mut entry = Vec::new();
                value(key, 1, &declared[0], entries.column(0), at, &mut entry)?;
                value(of, 2, &declared[1], entries.column(1), at, &mut entry)?;
                bytes(field.number, &entry, out);
            }
        }
    }
    Ok(())
}

fn refuse_null(array: &dyn Array, at: usize, what: &str) -> Result<()> {
    match array.is_null(at) {
        true => Err(Error::new(SqlState::NotNullViolation, format!("{what} of Protobuf cannot hold a NULL"))
            .with_hint("array_remove(column, NULL) takes them out of a list.")),
        false => Ok(()),
    }
}

fn item_field(held: &DataType) -> Result<&FieldRef> {
    match held {
        DataType::List(item) => Ok(item),
        other => Err(Error::internal(format!("{other} is no list"))),
    }
}

/// Of the keys and the values of a map.
pub(super) fn entry_fields(held: &DataType) -> Result<&Fields> {
    match held {
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => Ok(fields),
            other => Err(Error::internal(format!("{other} is no entry of a map"))),
        },
        other => Err(Error::internal(format!("{other} is no map"))),
    }
}

/// A tag and a value.
fn value(
    form: &Form,
    number: u32,
    declared: &Declared,
    array: &dyn Array,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    match form {
        Form::Bool => {
            tag(number, 0, out);
            out.push(array.as_boolean().value(row).into());
        }
        Form::Whole(whole, written) => write_whole(in_range(whole_of(array, row)?, *whole)?, *written, number, out),
        Form::Float => {
            tag(number, 5, out);
            out.extend(array.as_primitive::<Float32Type>().value(row).to_le_bytes());
        }
        Form::Double => {
            let value = match array.data_type() {
                DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)),
                _ => array.as_primitive::<Float64Type>().value(row),
            };
            tag(number, 1, out);
            out.extend(value.to_le_bytes());
        }
        Form::Text => bytes(number, array.as_string::<i32>().value(row).as_bytes(), out),
        Form::AsText => bytes(number, as_text(declared, array, row)?.as_bytes(), out),
        Form::Bytes => bytes(number, array.as_binary::<i32>().value(row), out),
        Form::Symbol(symbols) => {
            let symbol = array.as_string::<i32>().value(row);
            let unknown =
                || Error::new(SqlState::InvalidTextRepresentation, format!("\"{symbol}\" is no symbol of the enum"));
            let value = *symbols.get(symbol).ok_or_else(unknown)?;
            tag(number, 0, out);
            varint(i64::from(value) as u64, out);
        }
        Form::Timestamp => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let mut inner = Vec::new();
            let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
            if !TIMESTAMPS.contains(&seconds) {
                return Err(Error::new(
                    SqlState::DatetimeFieldOverflow,
                    "a timestamp of Protobuf is of the years 1 to 9999",
                ));
            }
            for (number, part) in [(1, seconds), (2, rest * 1000)].into_iter().filter(|(_, part)| *part != 0) {
                tag(number, 0, &mut inner);
                varint(part as u64, &mut inner);
            }
            bytes(number, &inner, out);
        }
        Form::Message(plan) => {
            let (columns, mut inner) = (array.as_struct(), Vec::new());
            message(plan, &|column| columns.column(column).as_ref(), row, &mut inner)?;
            bytes(number, &inner, out);
        }
    }
    Ok(())
}

fn write_whole(value: i64, written: Written, number: u32, out: &mut Vec<u8>) {
    match written {
        Written::Varint => {
            tag(number, 0, out);
            varint(value as u64, out);
        }
        Written::Zigzag => {
            tag(number, 0, out);
            varint(((value << 1) ^ (value >> 63)) as u64, out);
        }
        Written::Fixed32 => {
            tag(number, 5, out);
            out.extend((value as u32).to_le_bytes());
        }
        Written::Fixed64 => {
            tag(number, 1, out);
            out.extend(value.to_le_bytes());
        }
    }
}

fn whole_of(array: &dyn Array, row: usize) -> Result<i64> {
    Ok(match array.data_type() {
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        other => return Err(Error::internal(format!("{other} holds no whole numbers"))),
    })
}

fn in_range(number: i64, whole: Whole) -> Result<i64> {
    let fits = match whole {
        Whole::I32 => i32::try_from(number).is_ok(),
        Whole::U32 => u32::try_from(number).is_ok(),
        Whole::I64 => true,
        Whole::U64 => number >= 0,
    };
    match fits {
        true => Ok(number),
        false => Err(Error::new(SqlState::NumericValueOutOfRange, format!("{number} is out of range of the field"))),
    }
}

fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire), out);
}

fn varint(mut rest: u64, out: &mut Vec<u8>) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}
