//! How the messages of one schema become the columns that are wanted.
//!
//! A column is the field of its name in the latest schema (as it stands, or else whatever the case), and in the message's own schema
//! the field of that one's number: a field that is called otherwise by now is the same field. How a value is written, and how the
//! symbols of an enum are called, the message's own schema says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{Cardinality, FieldDescriptor, Kind as Of, MessageDescriptor, Value};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::types::{self, WellKnown, well_known};
use crate::formats::column::takes;

/// For the fields of a message, one column each.
#[derive(Debug, Default)]
pub(super) struct MessagePlan {
    pub names: Vec<String>,
    pub columns: Vec<ColumnPlan>,
    /// By number, in order: what meeting a field means.
    pub fields: Vec<(u32, Met)>,
}

impl MessagePlan {
    pub fn met(&self, number: u32) -> Option<&Met> {
        let at = self.fields.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.fields[at].1)
    }
}

#[derive(Debug, Default)]
pub(super) struct Met {
    pub column: Option<usize>,
    /// Columns of the same oneof, which it takes the place of.
    pub instead: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct ColumnPlan {
    pub shape: Shape,
    pub absent: Absent,
}

#[derive(Debug)]
pub(super) enum Shape {
    One(Item),
    Many(Item),
    /// Keys and values, each with what it is where an entry leaves it out.
    Map(Box<[ColumnPlan; 2]>),
    /// The writer has no such field.
    Nothing,
}

/// How one value is read.
#[derive(Debug)]
pub(super) enum Item {
    Scalar(Of),
    Enum(HashMap<i32, String>),
    Timestamp,
    Duration,
    Wrapper(Of, Value),
    /// `true`: between the marks of a group.
    Message(MessagePlan, bool),
}

/// What stands for a field that a message does not have.
#[derive(Debug)]
pub(super) enum Absent {
    Null,
    Default(Value),
    /// A list or map without anything in it.
    Empty,
    /// A message in which every field is absent: the value of an entry.
    Message,
    Refused,
}

/// The plan for messages by `writer`. `reader`: the schema that names the columns. Of the `columns` those at the places `wanted` are read,
/// in that order; which field is whose does not depend on it.
pub(super) fn plan(
    writer: &MessageDescriptor,
    reader: &MessageDescriptor,
    columns: &[(String, SqlType)],
    wanted: &[usize],
) -> Result<MessagePlan> {
    message(writer, reader, columns, wanted, false)
}

/// The writer's fields that no column is for; `within`: of the message that this field is.
pub(super) fn unread(writer: &MessageDescriptor, plan: &MessagePlan, within: Option<&str>) -> Vec<FieldDescriptor> {
    let Some(within) = within else { return skipped(writer, plan) };
    let Some(field) = writer.get_field_by_name(within) else { return Vec::new() };
    let shape = plan.met(field.number()).and_then(|met| met.column).map(|column| &plan.columns[column].shape);
    match (field.kind(), shape) {
        (Of::Message(below), Some(Shape::One(Item::Message(plan, _)))) => skipped(&below, plan),
        _ => Vec::new(),
    }
}

fn skipped(message: &MessageDescriptor, plan: &MessagePlan) -> Vec<FieldDescriptor> {
    let is_read = |field: &FieldDescriptor| plan.met(field.number()).is_some_and(|met| met.column.is_some());
    message.fields().filter(|field| !is_read(field)).collect()
}

/// Refuses columns that the schema does not have, or has otherwise.
pub(super) fn check(reader: &MessageDescriptor, columns: &[(String, SqlType)]) -> Result<()> {
    all_of(reader, reader, columns, true).map(drop)
}

fn all_of(
    writer: &MessageDescriptor,
    reader: &MessageDescriptor,
    columns: &[(String, SqlType)],
    strict: bool,
) -> Result<MessagePlan> {
    let all: Vec<usize> = (0..columns.len()).collect();
    message(writer, reader, columns, &all, strict)
}

fn message(
    writer: &MessageDescriptor,
    reader: &MessageDescriptor,
    columns: &[(String, SqlType)],
    wanted: &[usize],
    strict: bool,
) -> Result<MessagePlan> {
    let fields = matched(writer, reader, columns);
    let mut plan = MessagePlan::default();
    let mut numbers = BTreeMap::new();
    for (at, column) in wanted.iter().enumerate() {
        let (name, sql_type) = &columns[*column];
        let one = match &fields[*column] {
            (Some(field), read) => {
                numbers.insert(field.number(), at);
                let read = read.as_ref().unwrap_or(field);
                let shape = shape(field, read, sql_type, strict);
                let shape = shape.map_err(|error| error.context(format!("column \"{name}\"")))?;
                ColumnPlan { shape, absent: absent(read) }
            }
            (None, _) if strict => return Err(missing(name, reader)),
            (None, read) => ColumnPlan { shape: Shape::Nothing, absent: read.as_ref().map_or(Absent::Null, absent) },
        };
        plan.names.push(name.clone());
        plan.columns.push(one);
    }
    plan.fields = met(writer, &numbers);
    Ok(plan)
}

/// The field of each column in the message's own schema, and in the one that names the columns.
fn matched(
    writer: &MessageDescriptor,
    reader: &MessageDescriptor,
    columns: &[(String, SqlType)],
) -> Vec<(Option<FieldDescriptor>, Option<FieldDescriptor>)> {
    let (of_reader, of_writer) = (places(reader, columns), places(writer, columns));
    let mut taken = BTreeSet::new();
    let one = |(read, own): (Option<FieldDescriptor>, Option<FieldDescriptor>)| {
        let found = match &read {
            Some(read) => writer.get_field(read.number()),
            None => own,
        };
        (found.filter(|field| taken.insert(field.number())), read)
    };
    of_reader.into_iter().zip(of_writer).map(one).collect()
}

/// Also a field that is not wanted may take the place of one that is.
fn met(writer: &MessageDescriptor, taken: &BTreeMap<u32, usize>) -> Vec<(u32, Met)> {
    let mut fields: BTreeMap<u32, Met> = BTreeMap::new();
    for (number, column) in taken {
        fields.entry(*number).or_default().column = Some(*column);
        let oneof = writer.get_field(*number).and_then(|field| field.containing_oneof());
        for other in oneof.iter().flat_map(|oneof| oneof.fields()).filter(|other| other.number() != *number) {
            fields.entry(other.number()).or_default().instead.push(*column);
        }
    }
    fields.into_iter().collect()
}

fn shape(field: &FieldDescriptor, reader: &FieldDescriptor, sql_type: &SqlType, strict: bool) -> Result<Shape> {
    let mismatch = || {
        let found = described(field);
        let error =
            Error::new(SqlState::DatatypeMismatch, format!("it is of type {sql_type} but the schema has {found}"));
        match types::sql_type(field) {
            Ok(own) => error.with_hint(format!("Declare it as {own}.")),
            Err(_) => error,
        }
    };
    let one =
        |of: &Of, reader: &Of, sql_type: &SqlType| item(of, reader, sql_type, field.is_group(), strict, &mismatch);
    match (field.kind(), reader.kind(), sql_type) {
        (Of::Message(entry), reader, SqlType::Map(key, value)) if field.is_map() => {
            let reader = match &reader {
                Of::Message(reader) if reader.is_map_entry() => reader,
                _ => &entry,
            };
            let part = |field: FieldDescriptor, reader: FieldDescriptor, sql_type: &SqlType| -> Result<ColumnPlan> {
                let absent = match field.kind() {
                    Of::Message(_) => Absent::Message,
                    _ => Absent::Default(field.default_value()),
                };
                Ok(ColumnPlan { shape: Shape::One(one(&field.kind(), &reader.kind(), sql_type)?), absent })
            };
            let key = part(entry.map_entry_key_field(), reader.map_entry_key_field(), key)?;
            let value = part(entry.map_entry_value_field(), reader.map_entry_value_field(), value)?;
            Ok(Shape::Map(Box::new([key, value])))
        }
        _ if field.is_map() => Err(mismatch()),
        (of, reader, SqlType::Array(sql_type)) if field.is_list() => Ok(Shape::Many(one(&of, &reader, sql_type)?)),
        _ if field.is_list() => Err(mismatch()),
        (of, reader, sql_type) => Ok(Shape::One(one(&of, &reader, sql_type)?)),
    }
}

fn item(
    of: &Of,
    reader: &Of,
    sql_type: &SqlType,
    is_group: bool,
    strict: bool,
    mismatch: &dyn Fn() -> Error,
) -> Result<Item> {
    if let Some(kind) = types::kind(of) {
        if !takes(sql_type, kind) {
            return Err(mismatch());
        }
        return Ok(match of {
            Of::Enum(symbols) => {
                // Of several names of a number the first is its name.
                let mut names = HashMap::new();
                for value in symbols.values() {
                    names.entry(value.number()).or_insert_with(|| value.name().to_string());
                }
                Item::Enum(names)
            }
            Of::Message(message) => match well_known(message) {
                Some(WellKnown::Timestamp) => Item::Timestamp,
                Some(WellKnown::Duration) => Item::Duration,
                Some(WellKnown::Wrapper(field)) => Item::Wrapper(field.kind(), field.default_value()),
                None => return Err(mismatch()),
            },
            scalar => Item::Scalar(scalar.clone()),
        });
    }
    match (of, reader, sql_type) {
        (Of::Message(writer), Of::Message(reader), SqlType::Struct(fields)) => {
            Ok(Item::Message(all_of(writer, reader, fields, strict)?, is_group))
        }
        (Of::Message(writer), _, SqlType::Struct(fields)) => {
            Ok(Item::Message(all_of(writer, writer, fields, strict)?, is_group))
        }
        _ => Err(mismatch()),
    }
}

/// What a field is where a message leaves it out.
fn absent(field: &FieldDescriptor) -> Absent {
    let is_told = field.supports_presence() && field.field_descriptor_proto().default_value.is_none();
    if field.is_list() || field.is_map() {
        Absent::Empty
    } else if field.cardinality() == Cardinality::Required {
        Absent::Refused
    } else if is_told || matches!(field.kind(), Of::Message(_)) {
        Absent::Null
    } else {
        match field.kind() {
            Of::Enum(symbols) => {
                let number = field.default_value().as_enum_number().unwrap_or_default();
                let name =
                    symbols.get_value(number).map_or_else(|| number.to_string(), |value| value.name().to_string());
                Absent::Default(Value::String(name))
            }
            _ => Absent::Default(field.default_value()),
        }
    }
}

/// The field of each column: by its name, or else by its name in another case if no column has that one's.
fn places(message: &MessageDescriptor, columns: &[(String, SqlType)]) -> Vec<Option<FieldDescriptor>> {
    let exact: Vec<_> = columns.iter().map(|(name, _)| message.get_field_by_name(name)).collect();
    let folded = |name: &str| {
        message.fields().find(|field| {
            field.name().eq_ignore_ascii_case(name) && !exact.iter().flatten().any(|exact| exact == field)
        })
    };
    columns.iter().zip(&exact).map(|((name, _), field)| field.clone().or_else(|| folded(name))).collect()
}

/// For people to read.
fn described(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        Of::Message(message) if field.is_map() => return format!("a map ({})", message.full_name()),
        Of::Message(message) => format!("message {}", message.full_name()),
        Of::Enum(symbols) => format!("enum {}", symbols.full_name()),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    if field.is_list() { format!("repeated {one}") } else { one }
}

fn missing(column: &str, message: &MessageDescriptor) -> Error {
    let text = format!("message {} has no field for column \"{column}\"", message.full_name());
    let error = Error::new(SqlState::UndefinedColumn, text);
    let names: Vec<String> = message.fields().map(|field| field.name().to_string()).collect();
    match nearest(column, names.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("Perhaps it is \"{near}\".")),
        None => error.with_detail(format!("It has: {}.", names.join(", "))),
    }
}
