//! Protobuf types as SQL types.

use prost_reflect::{FieldDescriptor, Kind as Of, MessageDescriptor};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use crate::formats::column::Kind;

/// Messages that stand for a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum WellKnown {
    Timestamp,
    Duration,
    /// A scalar that may be absent, field 1.
    Wrapper(FieldDescriptor),
}

pub(super) fn well_known(message: &MessageDescriptor) -> Option<WellKnown> {
    Some(match message.full_name().strip_prefix("google.protobuf.")? {
        "Timestamp" => WellKnown::Timestamp,
        "Duration" => WellKnown::Duration,
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
        | "StringValue" | "BytesValue" => WellKnown::Wrapper(message.get_field(1)?),
        _ => return None,
    })
}

/// What the values of a scalar or an enum are to a column; `None` of a message that is no value.
pub(super) fn kind(of: &Of) -> Option<Kind> {
    Some(match of {
        Of::Bool => Kind::Bool,
        Of::Int32 | Of::Sint32 | Of::Sfixed32 | Of::Uint32 | Of::Fixed32 | Of::Int64 | Of::Sint64 | Of::Sfixed64 => {
            Kind::Int
        }
        Of::Uint64 | Of::Fixed64 => Kind::Unsigned,
        Of::Float => Kind::Float,
        Of::Double => Kind::Double,
        Of::String | Of::Enum(_) => Kind::Text,
        Of::Bytes => Kind::Bytes,
        Of::Message(message) => match well_known(message)? {
            WellKnown::Timestamp => Kind::Timestamp,
            WellKnown::Duration => Kind::Interval,
            WellKnown::Wrapper(field) => kind(&field.kind())?,
        },
    })
}

/// Types within the type of one column: few messages that refer to each other can stand for billions.
const MOST_TYPES: usize = 10_000;
const DEEPEST: usize = 50;

/// The type of the column for a field. Fails on messages that contain themselves, or nothing.
pub(super) fn sql_type(field: &FieldDescriptor) -> Result<SqlType> {
    Walk::default().field(field)
}

#[derive(Default)]
struct Walk {
    around: Vec<String>,
    met: usize,
}

impl Walk {
    fn field(&mut self, field: &FieldDescriptor) -> Result<SqlType> {
        if field.is_map()
            && let Of::Message(entry) = field.kind()
        {
            let key = self.kind(&entry.map_entry_key_field().kind())?;
            let value = self.kind(&entry.map_entry_value_field().kind())?;
            return Ok(SqlType::Map(Box::new(key), Box::new(value)));
        }
        let one = self.kind(&field.kind()).map_err(|error| error.context(format!("field \"{}\"", field.name())))?;
        Ok(if field.is_list() { SqlType::Array(Box::new(one)) } else { one })
    }

    fn kind(&mut self, of: &Of) -> Result<SqlType> {
        self.met += 1;
        Ok(match of {
            Of::Bool => SqlType::Boolean,
            Of::Int32 | Of::Sint32 | Of::Sfixed32 => SqlType::Integer,
            Of::Uint32 | Of::Fixed32 | Of::Int64 | Of::Sint64 | Of::Sfixed64 => SqlType::BigInt,
            Of::Uint64 | Of::Fixed64 => SqlType::Numeric(Some((20, 0))),
            Of::Float => SqlType::Real,
            Of::Double => SqlType::Double,
            Of::String | Of::Enum(_) => SqlType::Text,
            Of::Bytes => SqlType::Bytea,
            Of::Message(message) => match well_known(message) {
                Some(WellKnown::Timestamp) => SqlType::TimestampTz,
                Some(WellKnown::Duration) => SqlType::Interval,
                Some(WellKnown::Wrapper(field)) => self.kind(&field.kind())?,
                None => self.message(message)?,
            },
        })
    }

    fn message(&mut self, message: &MessageDescriptor) -> Result<SqlType> {
        let name = message.full_name().to_string();
        let unfit = |why: &str| Err(Error::unsupported(format!("message {name} {why}: no column has such a type")));
        if self.around.contains(&name) {
            return unfit("contains itself");
        }
        if message.fields().len() == 0 {
            return unfit("contains nothing");
        }
        if self.met > MOST_TYPES || self.around.len() >= DEEPEST {
            return unfit("is too large");
        }
        self.around.push(name);
        let fields = message.fields().map(|field| Ok((field.name().to_string(), self.field(&field)?)));
        let fields = fields.collect::<Result<_>>()?;
        self.around.pop();
        Ok(SqlType::Struct(fields))
    }
}
