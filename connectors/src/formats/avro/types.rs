//! Avro types as SQL types.

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::schema::{Field, Id, Leaf, Node, Schema};
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

/// Types within the type of one column: few that refer to each other can stand for billions.
const MOST_TYPES: usize = 10_000;
const DEEPEST: usize = 50;

/// The type of the columns for such values. Fails on those that have none: unions of several types, types that contain themselves.
pub(super) fn sql_type(schema: &Schema, id: Id) -> Result<SqlType> {
    Walk { schema, around: Vec::new(), met: 0 }.of(id)
}

struct Walk<'a> {
    schema: &'a Schema,
    around: Vec<Id>,
    met: usize,
}

impl Walk<'_> {
    fn of(&mut self, id: Id) -> Result<SqlType> {
        let schema = self.schema;
        let id = schema.without_null(id);
        let nothing = |what: &str| Err(Error::unsupported(format!("{} {what}", schema.name(id))));
        if self.around.contains(&id) {
            return nothing("contains itself: no column has such a type");
        }
        self.met += 1;
        if self.met > MOST_TYPES || self.around.len() >= DEEPEST {
            return nothing("is too large for the type of a column");
        }
        self.around.push(id);
        let sql_type = match schema.node(id) {
            Node::Null | Node::Union(_) => return nothing("is the type of no column"),
            Node::Leaf(leaf) => leaf.sql_type(),
            Node::Enum(_) => SqlType::Text,
            Node::Array(items) => SqlType::Array(Box::new(self.of(*items)?)),
            Node::Map(values) => SqlType::Map(Box::new(SqlType::Text), Box::new(self.of(*values)?)),
            Node::Record(record) => {
                let one = |field: &Field| {
                    let sql_type = self.of(field.node);
                    Ok((field.name.clone(), sql_type.map_err(|e| e.context(format!("field \"{}\"", field.name)))?))
                };
                SqlType::Struct(record.fields.iter().map(one).collect::<Result<_>>()?)
            }
        };
        self.around.pop();
        Ok(sql_type)
    }
}
