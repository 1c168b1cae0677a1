//! Which field each column is written to, and how.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use prost_reflect::{FieldDescriptor, Kind as Of, MessageDescriptor};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::types::{WellKnown, well_known};

/// For the columns of a message, in the order of the fields' numbers.
#[derive(Debug)]
pub(super) struct EncodePlan(pub Vec<Field>);

#[derive(Debug)]
pub(super) struct Field {
    pub column: usize,
    pub number: u32,
    pub declared: FieldRef,
    pub shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    One(Form),
    Many(Form),
    Map(Form, Form),
}

#[derive(Debug)]
pub(super) enum Form {
    Bool,
    /// Of so many bits, signed or not, and how it is written.
    Whole(Whole, Written),
    Float,
    Double,
    Text,
    /// Of the value as PostgreSQL writes it.
    AsText,
    Bytes,
    Symbol(HashMap<String, i32>),
    Timestamp,
    Message(EncodePlan),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Whole {
    I32,
    U32,
    I64,
    U64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Written {
    Varint,
    Zigzag,
    Fixed32,
    Fixed64,
}

/// Each column goes to the field of its name.
pub(super) fn plan(message: &MessageDescriptor, columns: &Fields) -> Result<EncodePlan> {
    let mut fields = Vec::new();
    for (column, declared) in columns.iter().enumerate() {
        let name = declared.name();
        let found = message.get_field_by_name(name);
        let field = found.or_else(|| message.fields().find(|field| field.name().eq_ignore_ascii_case(name)));
        let field = field.ok_or_else(|| {
            let text = format!("message {} has no field for column \"{name}\"", message.full_name());
            Error::new(SqlState::UndefinedColumn, text)
                .with_hint("Leave the column out, or give it the field's name with AS.")
        })?;
        let shape = shape(&field, &SqlType::from_field(declared), declared);
        let shape = shape.map_err(|error| error.context(format!("column \"{name}\"")))?;
        fields.push(Field { column, number: field.number(), declared: declared.clone(), shape });
    }
    fields.sort_by_key(|field| field.number);
    if let Some(pair) = fields.windows(2).find(|pair| pair[0].number == pair[1].number) {
        let text =
            format!("columns \"{}\" and \"{}\" are for one field", pair[0].declared.name(), pair[1].declared.name());
        return Err(Error::new(SqlState::DuplicateColumn, text));
    }
    let written = |number: u32| fields.iter().any(|field| field.number == number);
    match message.fields().find(|field| field.is_required() && !written(field.number())) {
        Some(field) => Err(Error::new(
            SqlState::UndefinedColumn,
            format!("the required field \"{}\" of message {} has no column", field.name(), message.full_name()),
        )),
        None => Ok(EncodePlan(fields)),
    }
}

fn shape(field: &FieldDescriptor, sql_type: &SqlType, declared: &FieldRef) -> Result<Shape> {
    let mismatch = || {
        Error::new(
            SqlState::DatatypeMismatch,
            format!("it is of type {sql_type}, which field \"{}\" of the Protobuf schema does not take", field.name()),
        )
    };
    match (field.kind(), sql_type, declared.data_type()) {
        (Of::Message(entry), SqlType::Map(key, value), held) if field.is_map() => {
            let parts = super::encode::entry_fields(held)?;
            let key = form(&entry.map_entry_key_field().kind(), key, &parts[0])?.ok_or_else(mismatch)?;
            let value = form(&entry.map_entry_value_field().kind(), value, &parts[1])?.ok_or_else(mismatch)?;
            Ok(Shape::Map(key, value))
        }
        (of, SqlType::Array(item), DataType::List(held)) if field.is_list() => {
            Ok(Shape::Many(form(&of, item, held)?.ok_or_else(mismatch)?))
        }
        (of, ..) if !field.is_list() && !field.is_map() && !field.is_group() => {
            Ok(Shape::One(form(&of, sql_type, declared)?.ok_or_else(mismatch)?))
        }
        _ => Err(mismatch()),
    }
}

/// `None` if such values are not written so.
fn form(of: &Of, sql_type: &SqlType, declared: &FieldRef) -> Result<Option<Form>> {
    use SqlType as T;
    let whole = |whole, written| {
        matches!(sql_type, T::SmallInt | T::Integer | T::BigInt | T::Oid).then_some(Form::Whole(whole, written))
    };
    let is_text = matches!(sql_type, T::Text | T::Varchar(_) | T::Char(_) | T::Name);
    Ok(match of {
        Of::Bool => matches!(sql_type, T::Boolean).then_some(Form::Bool),
        Of::Int32 => whole(Whole::I32, Written::Varint),
        Of::Sint32 => whole(Whole::I32, Written::Zigzag),
        Of::Sfixed32 => whole(Whole::I32, Written::Fixed32),
        Of::Uint32 => whole(Whole::U32, Written::Varint),
        Of::Fixed32 => whole(Whole::U32, Written::Fixed32),
        Of::Int64 => whole(Whole::I64, Written::Varint),
        Of::Sint64 => whole(Whole::I64, Written::Zigzag),
        Of::Sfixed64 => whole(Whole::I64, Written::Fixed64),
        Of::Uint64 => whole(Whole::U64, Written::Varint),
        Of::Fixed64 => whole(Whole::U64, Written::Fixed64),
        Of::Float => matches!(sql_type, T::Real).then_some(Form::Float),
        Of::Double => matches!(sql_type, T::Real | T::Double).then_some(Form::Double),
        Of::String => match sql_type {
            T::Uuid | T::Json | T::Jsonb => Some(Form::Text),
            T::Numeric(_) | T::Date | T::Time | T::Interval => Some(Form::AsText),
            _ => is_text.then_some(Form::Text),
        },
        Of::Bytes => matches!(sql_type, T::Bytea).then_some(Form::Bytes),
        Of::Enum(symbols) => {
            let numbers = symbols.values().map(|value| (value.name().to_string(), value.number()));
            is_text.then(|| Form::Symbol(numbers.collect()))
        }
        Of::Message(message) => match (well_known(message), sql_type, declared.data_type()) {
            (Some(WellKnown::Timestamp), T::Timestamp | T::TimestampTz, _) => Some(Form::Timestamp),
            (None, T::Struct(_), DataType::Struct(fields)) => Some(Form::Message(plan(message, fields)?)),
            _ => None,
        },
    })
}
