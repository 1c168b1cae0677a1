//! Avro types as SQL types.

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::schema::{Id, Leaf, Node, Schema};
use crate::formats::column::Kind;

impl Leaf {
    /// What its values are to a column.
    pub fn kind(self) -> Kind {
        match self {
            Leaf::Boolean => Kind::Bool,
            Leaf::Int | Leaf::Long => Kind::Int,
            Leaf::Float => Kind::Float,
            Leaf::Double => Kind::Double,
            Leaf::Bytes | Leaf::Fixed(_) => Kind::Bytes,
            Leaf::String | Leaf::UuidText => Kind::Text,
            Leaf::Date => Kind::Days,
            Leaf::Time(_) => Kind::Time,
            Leaf::Timestamp { .. } => Kind::Timestamp,
            Leaf::Decimal { .. } => Kind::Decimal,
            Leaf::UuidFixed => Kind::Uuid,
            Leaf::Duration => Kind::Interval,
        }
    }

    fn sql_type(self) -> SqlType {
        match self {
            Leaf::Boolean => SqlType::Boolean,
            Leaf::Int => SqlType::Integer,
            Leaf::Long => SqlType::BigInt,
            Leaf::Float => SqlType::Real,
            Leaf::Double => SqlType::Double,
            Leaf::Bytes | Leaf::Fixed(_) => SqlType::Bytea,
            Leaf::String => SqlType::Text,
            Leaf::Date => SqlType::Date,
            Leaf::Time(_) => SqlType::Time,
            Leaf::Timestamp { local: false, .. } => SqlType::TimestampTz,
            Leaf::Timestamp { local: true, .. } => SqlType::Timestamp,
            Leaf::Decimal { precision, scale, .. } => SqlType::Numeric(Some((precision, scale))),
            Leaf::UuidText | Leaf::UuidFixed => SqlType::Uuid,
            Leaf::Duration => SqlType::Interval,
        }
    }
}

/// The type of the columns for such values. Fails on those that have none: unions of several types, types that contain themselves.
pub(super) fn sql_type(schema: &Schema, id: Id) -> Result<SqlType> {
    within(schema, id, &mut Vec::new())
}

fn within(schema: &Schema, id: Id, around: &mut Vec<Id>) -> Result<SqlType> {
    let id = schema.without_null(id);
    let nothing = |what: &str| Err(Error::unsupported(format!("{} {what}", schema.name(id))));
    if around.contains(&id) {
        return nothing("contains itself: no column has such a type");
    }
    around.push(id);
    let sql_type = match schema.node(id) {
        Node::Null | Node::Union(_) => return nothing("is the type of no column"),
        Node::Leaf(leaf) => leaf.sql_type(),
        Node::Enum(_) => SqlType::Text,
        Node::Array(items) => SqlType::Array(Box::new(within(schema, *items, around)?)),
        Node::Map(values) => SqlType::Map(Box::new(SqlType::Text), Box::new(within(schema, *values, around)?)),
        Node::Record(record) => {
            let one = |field: &super::schema::Field| {
                let sql_type = within(schema, field.node, around);
                Ok((field.name.clone(), sql_type.map_err(|e| e.context(format!("field \"{}\"", field.name)))?))
            };
            SqlType::Struct(record.fields.iter().map(one).collect::<Result<_>>()?)
        }
    };
    around.pop();
    Ok(sql_type)
}
