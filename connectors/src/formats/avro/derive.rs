//! The Avro schema of some columns: what a sink registers.
//!
//! Every column may be NULL, so each is a union with null whose default is null: a later schema can leave a column out or have one
//! more and is still compatible. An interval is a text, since Avro's durations have no sign and count milliseconds.

use datafusion::arrow::datatypes::SchemaRef;
use serde_json::{Value, json};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

/// The schema's text. `name`: of the record, in full.
pub(super) fn schema_of(columns: &SchemaRef, name: &str) -> Result<String> {
    let (namespace, short) = name.rsplit_once('.').unwrap_or(("", name));
    if !name.split('.').all(is_name) {
        return Err(Error::invalid(format!("\"{name}\" is no name of an Avro record"))
            .with_hint("Option \"message\": letters, digits and '_', with '.' between the parts of a namespace."));
    }
    let types = columns.fields().iter().map(|field| (field.name().clone(), SqlType::from_field(field)));
    let mut record = record_of(&types.collect::<Vec<_>>(), short)?;
    if !namespace.is_empty() {
        record["namespace"] = json!(namespace);
    }
    Ok(record.to_string())
}

fn record_of(columns: &[(String, SqlType)], name: &str) -> Result<Value> {
    let field = |(column, sql_type): &(String, SqlType)| {
        if !is_name(column) {
            return Err(Error::new(
                SqlState::InvalidName,
                format!("column \"{column}\" cannot be a field of an Avro record"),
            )
            .with_hint("Letters, digits and '_': give it another name with AS."));
        }
        let inner = type_of(sql_type, &format!("{name}_{column}"));
        let inner = inner.map_err(|error| error.context(format!("column \"{column}\"")))?;
        Ok(json!({ "name": column, "type": ["null", inner], "default": null }))
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "type": "record", "name": name, "fields": fields }))
}

/// `name`: of a record in this place.
fn type_of(sql_type: &SqlType, name: &str) -> Result<Value> {
    let annotated = |held: &str, logical: &str| json!({ "type": held, "logicalType": logical });
    let nullable = |inner: Value| json!(["null", inner]);
    Ok(match sql_type {
        SqlType::Boolean => json!("boolean"),
        SqlType::SmallInt | SqlType::Integer | SqlType::Oid => json!("int"),
        SqlType::BigInt => json!("long"),
        SqlType::Real => json!("float"),
        SqlType::Double => json!("double"),
        SqlType::Numeric(_) => match sql_type.data_type() {
            held if held.is_decimal() => {
                let (precision, scale) = digits(sql_type);
                if scale < 0 || i16::from(scale) > i16::from(precision) {
                    return Err(Error::unsupported(format!("{sql_type} is no decimal of Avro"))
                        .with_hint("Cast it to a numeric with a scale between 0 and its precision."));
                }
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
            other => return Err(Error::internal(format!("{sql_type} is held in {other}"))),
        },
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Name
        | SqlType::Json
        | SqlType::Jsonb
        | SqlType::Interval => json!("string"),
        SqlType::Uuid => annotated("string", "uuid"),
        SqlType::Bytea => json!("bytes"),
        SqlType::Date => annotated("int", "date"),
        SqlType::Time => annotated("long", "time-micros"),
        SqlType::Timestamp => annotated("long", "local-timestamp-micros"),
        SqlType::TimestampTz => annotated("long", "timestamp-micros"),
        SqlType::Array(item) => json!({ "type": "array", "items": nullable(type_of(item, name)?) }),
        SqlType::Map(key, value) if **key == SqlType::Text => {
            json!({ "type": "map", "values": nullable(type_of(value, name)?) })
        }
        SqlType::Struct(fields) => record_of(fields, name)?,
        other => {
            return Err(Error::unsupported(format!("values of type {other} cannot be written as Avro"))
                .with_hint("Cast the column to TEXT."));
        }
    })
}

fn digits(sql_type: &SqlType) -> (u8, i8) {
    match sql_type {
        SqlType::Numeric(Some(digits)) => *digits,
        _ => (tidemark_common::types::NUMERIC_PRECISION, tidemark_common::types::NUMERIC_SCALE),
    }
}

fn is_name(name: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(of_name) && name.starts_with(|c: char| !c.is_ascii_digit())
}
