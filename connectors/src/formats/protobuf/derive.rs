//! The Protobuf schema of some columns: what a sink registers.
//!
//! Scalars are `optional`, so that a NULL is told from a zero. What Protobuf has no type for is a string, as PostgreSQL writes the value.
//! Fields are numbered in the order of the columns: a column that is added comes last, or the schema is another one.

use std::fmt::Write;

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

/// The text of a `.proto`. `name`: of the message, in full.
pub(super) fn schema_of(columns: &SchemaRef, name: &str) -> Result<String> {
    let (package, short) = name.rsplit_once('.').unwrap_or(("", name));
    if !name.split('.').all(is_name) {
        return Err(Error::invalid(format!("\"{name}\" is no name of a Protobuf message"))
            .with_hint("Option \"message\": letters, digits and '_', with '.' between the parts of a package."));
    }
    let columns = super::named(columns);
    let mut text = "syntax = \"proto3\";\n".to_string();
    if !package.is_empty() {
        let _ = writeln!(text, "package {package};");
    }
    if columns.iter().any(|(_, sql_type)| has_timestamp(sql_type)) {
        text.push_str("import \"google/protobuf/timestamp.proto\";\n");
    }
    text.push_str(&message_of(&columns, short)?);
    Ok(text)
}

fn message_of(columns: &[(String, SqlType)], name: &str) -> Result<String> {
    let (mut fields, mut inner) = (String::new(), String::new());
    for (at, (column, sql_type)) in columns.iter().enumerate() {
        if !is_name(column) {
            return Err(Error::new(
                SqlState::InvalidName,
                format!("column \"{column}\" cannot be a field of a Protobuf message"),
            )
            .with_hint("Letters, digits and '_': give it another name with AS."));
        }
        let in_column = |error: Error| error.context(format!("column \"{column}\""));
        let nested = format!("Of_{column}");
        let declared = field_of(sql_type, &nested, &mut inner).map_err(in_column)?;
        let _ = writeln!(fields, "{declared} {column} = {};", at + 1);
    }
    Ok(format!("message {name} {{\n{inner}{fields}}}\n"))
}

/// The type with its label. A message that it needs goes to `inner`, called `nested`.
fn field_of(sql_type: &SqlType, nested: &str, inner: &mut String) -> Result<String> {
    Ok(match sql_type {
        SqlType::Array(item) => format!("repeated {}", type_of(item, nested, inner)?),
        SqlType::Map(key, value) if is_key(key) => {
            format!("map<{}, {}>", type_of(key, nested, inner)?, type_of(value, nested, inner)?)
        }
        SqlType::Struct(_) => type_of(sql_type, nested, inner)?,
        other => format!("optional {}", type_of(other, nested, inner)?),
    })
}

fn is_key(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text | SqlType::Boolean | SqlType::Integer | SqlType::BigInt)
}

fn type_of(sql_type: &SqlType, nested: &str, inner: &mut String) -> Result<String> {
    Ok(match sql_type {
        SqlType::Boolean => "bool".to_string(),
        SqlType::SmallInt | SqlType::Integer | SqlType::Oid => "int32".to_string(),
        SqlType::BigInt => "int64".to_string(),
        SqlType::Real => "float".to_string(),
        SqlType::Double => "double".to_string(),
        SqlType::Bytea => "bytes".to_string(),
        SqlType::TimestampTz | SqlType::Timestamp => "google.protobuf.Timestamp".to_string(),
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Name
        | SqlType::Numeric(_)
        | SqlType::Date
        | SqlType::Time
        | SqlType::Interval
        | SqlType::Uuid
        | SqlType::Json
        | SqlType::Jsonb => "string".to_string(),
        SqlType::Struct(fields) => {
            inner.push_str(&message_of(fields, nested)?);
            nested.to_string()
        }
        other => {
            return Err(Error::unsupported(format!("values of type {other} cannot be written there as Protobuf"))
                .with_hint("Lists of lists and maps have no type there: cast the column to TEXT or JSONB."));
        }
    })
}

fn has_timestamp(sql_type: &SqlType) -> bool {
    match sql_type {
        SqlType::TimestampTz | SqlType::Timestamp => true,
        SqlType::Array(item) => has_timestamp(item),
        SqlType::Map(_, value) => has_timestamp(value),
        SqlType::Struct(fields) => fields.iter().any(|(_, sql_type)| has_timestamp(sql_type)),
        _ => false,
    }
}

fn is_name(name: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(of_name) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}
