//! The canonical form of a row, whose SHA-256 tells whether it has changed.
//!
//! For each column that is compared, in the order of the bytes of their names, unless it is NULL:
//!
//! ```text
//!   octets of the name : name = octets of the text : text           5:email=7:a@b.com6:status=6:active
//! ```
//!
//! The text is PostgreSQL's (DateStyle ISO, IntervalStyle postgres, extra_float_digits 1), with one form for equal values: numerics
//! without trailing zeros, floats with one zero, timestamps with a time zone in UTC, bytes in hexadecimal. Lengths make the form
//! unambiguous; what is NULL is left out, so that a column added to the table changes no row that has nothing in it.

use tidemark_common::types::SqlType;

use super::{Declared, quoted};

/// The SHA-256 of the columns, which are of relation `of`, as an expression of type bytea.
pub fn row_hash(columns: &[Declared], of: &str) -> String {
    let mut columns: Vec<&Declared> = columns.iter().collect();
    columns.sort_by(|a, b| a.name.cmp(&b.name));
    let encoded: Vec<String> = columns.iter().map(|column| encoded(column, of)).collect();
    let text = if encoded.is_empty() { "''".to_string() } else { encoded.join(" || ") };
    format!("sha256(convert_to({text}, 'UTF8'))")
}

fn encoded(column: &Declared, of: &str) -> String {
    let value = format!("{of}.{}", quoted(&column.name));
    let text = text(&value, &column.sql_type);
    let name = column.name.replace('\'', "''");
    format!("coalesce('{}:{name}=' || octet_length({text}) || ':' || {text}, '')", column.name.len())
}

/// One text for equal values.
fn text(value: &str, sql_type: &SqlType) -> String {
    match sql_type {
        SqlType::Text | SqlType::Varchar(_) => value.to_string(),
        SqlType::Numeric(_) => format!("trim_scale({value})::text"),
        // -0.0 + 0 is 0.
        SqlType::Real => format!("({value} + 0::real)::text"),
        SqlType::Double => format!("({value} + 0::double precision)::text"),
        SqlType::TimestampTz => format!("({value} AT TIME ZONE 'UTC')::text"),
        SqlType::Bytea => format!("encode({value}, 'hex')"),
        _ => format!("({value})::text"),
    }
}
