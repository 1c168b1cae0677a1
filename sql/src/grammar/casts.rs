//! Casts to types that Arrow does not have, as calls; intervals in a spelling that Arrow reads.
//!
//! ```text
//!   x::uuid               ──▶  tidemark_to_uuid(x)            uuid 'a0..'             ──▶  tidemark_to_uuid('a0..')
//!   x::varchar(3)         ──▶  tidemark_to_varchar(x, 3)      '1 2:03'::interval      ──▶  INTERVAL '1 days 7380 seconds'
//!   x::char(3)            ──▶  tidemark_to_char(x, 3)         INTERVAL '1-2' YEAR TO MONTH ──▶ INTERVAL '14 months'
//!   x::json, ::jsonb      ──▶  tidemark_to_json(x), ..jsonb   x::pg_catalog.int4      ──▶  x::INT
//!   x::numeric            ──▶  tidemark_to_numeric(x)
//! ```
//!
//! Casts to the types of the system tables (`regclass`, `oid`, ...) stay as they are.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, DateTimeField, ExactNumberInfo, Expr, Interval, IntervalFields, TimezoneInfo, TypedString,
    Value, ValueWithSpan, VisitMut, VisitorMut,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::build::{call, interval, number, replaced, string_of};
use super::interval::{self as intervals, Field, Qualifier};
use super::types;

/// Rewrites every cast and interval in `node`, and what else DataFusion spells otherwise ([`super::forms`]).
pub fn rewrite(node: &mut impl VisitMut) -> Result<()> {
    super::forms::rewrite(node)?;
    match node.visit(&mut Casts) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Casts;

impl VisitorMut for Casts {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        let new = rewritten(expr);
        replaced(expr, new)
    }
}

fn rewritten(expr: &mut Expr) -> Result<Option<Expr>> {
    match expr {
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr: inner, data_type, .. } => {
            if let DataType::Interval { fields, precision } = data_type {
                return literal_interval(inner, qualifier_of_type(*fields, *precision)?);
            }
            cast(inner, data_type)
        }
        Expr::TypedString(TypedString { data_type, value, .. }) => {
            if let Some(text) = string_of(&value.value)
                && let DataType::Interval { fields, precision } = data_type
            {
                let parsed = intervals::parse(text, qualifier_of_type(*fields, *precision)?)?;
                return Ok(Some(interval(parsed.canonical())));
            }
            cast(&mut Expr::Value(value.clone()), data_type)
        }
        Expr::Value(ValueWithSpan { value: value @ Value::UnicodeStringLiteral(_), .. }) => {
            if let Value::UnicodeStringLiteral(text) = value {
                *value = Value::SingleQuotedString(std::mem::take(text));
            }
            Ok(None)
        }
        Expr::Interval(i) => {
            let qualifier = qualifier_of_literal(i)?;
            literal_interval(&mut i.value, qualifier)
        }
        _ => Ok(None),
    }
}

/// The call that stands for the cast, if the type is not one DataFusion casts to itself.
fn cast(inner: &mut Expr, data_type: &mut DataType) -> Result<Option<Expr>> {
    if let DataType::Custom(name, _) = data_type
        && types::base_name(name).is_none_or(|name| is_system_type(&name))
    {
        return Ok(None);
    }
    let sql_type = match types::sql_type(data_type) {
        Ok(sql_type) => sql_type,
        // Other types that the parser knows are for DataFusion to take or refuse.
        Err(_) if !matches!(data_type, DataType::Custom(..)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (function, length) = match sql_type {
        SqlType::Uuid => ("tidemark_to_uuid", None),
        SqlType::Json => ("tidemark_to_json", None),
        SqlType::Jsonb => ("tidemark_to_jsonb", None),
        SqlType::Numeric(None) => ("tidemark_to_numeric", None),
        SqlType::Varchar(Some(n)) => ("tidemark_to_varchar", Some(n)),
        SqlType::Char(n) => ("tidemark_to_char", Some(n)),
        other => {
            if let DataType::Custom(..) = data_type
                && let Some(plain) = plain(&other)
            {
                *data_type = plain;
            }
            return Ok(None);
        }
    };
    let mut args = vec![std::mem::replace(inner, Expr::Tuple(vec![]))];
    args.extend(length.map(number));
    Ok(Some(call(function, args)))
}

/// The spelling of a type that DataFusion knows.
fn plain(sql_type: &SqlType) -> Option<DataType> {
    Some(match sql_type {
        SqlType::Boolean => DataType::Boolean,
        SqlType::SmallInt => DataType::SmallInt(None),
        SqlType::Integer => DataType::Int(None),
        SqlType::BigInt => DataType::BigInt(None),
        SqlType::Real => DataType::Real,
        SqlType::Double => DataType::DoublePrecision,
        SqlType::Numeric(Some((p, s))) => {
            DataType::Numeric(ExactNumberInfo::PrecisionAndScale(u64::from(*p), i64::from(*s)))
        }
        SqlType::Text | SqlType::Varchar(None) => DataType::Text,
        SqlType::Bytea => DataType::Bytea,
        SqlType::Date => DataType::Date,
        SqlType::Time => DataType::Time(None, TimezoneInfo::None),
        SqlType::Timestamp => DataType::Timestamp(None, TimezoneInfo::None),
        SqlType::TimestampTz => DataType::Timestamp(None, TimezoneInfo::WithTimeZone),
        SqlType::Interval => DataType::Interval { fields: None, precision: None },
        _ => return None,
    })
}

fn is_system_type(name: &str) -> bool {
    const NAMES: [&str; 26] = [
        "oid",
        "name",
        "xid",
        "xid8",
        "cid",
        "tid",
        "aclitem",
        "regclass",
        "regtype",
        "regproc",
        "regprocedure",
        "regoper",
        "regoperator",
        "regnamespace",
        "regrole",
        "regconfig",
        "regdictionary",
        "regcollation",
        "int2vector",
        "oidvector",
        "anyarray",
        "cstring",
        "pg_lsn",
        "pg_node_tree",
        "char",
        "unknown",
    ];
    NAMES.contains(&name.strip_prefix('_').unwrap_or(name)) || name.starts_with("pg_")
}

/// A literal is read now; any other expression stays as it is.
fn literal_interval(value: &mut Expr, qualifier: Qualifier) -> Result<Option<Expr>> {
    let text = match value {
        Expr::Value(value) => match string_of(&value.value) {
            Some(text) => text,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(interval(intervals::parse(text, qualifier)?.canonical())))
}

fn qualifier_of_type(fields: Option<IntervalFields>, precision: Option<u64>) -> Result<Qualifier> {
    use IntervalFields as F;
    let (first, last) = match fields {
        None => (None, None),
        Some(F::Year) => (Some(Field::Year), None),
        Some(F::Month) => (Some(Field::Month), None),
        Some(F::Day) => (Some(Field::Day), None),
        Some(F::Hour) => (Some(Field::Hour), None),
        Some(F::Minute) => (Some(Field::Minute), None),
        Some(F::Second) => (Some(Field::Second), None),
        Some(F::YearToMonth) => (Some(Field::Year), Some(Field::Month)),
        Some(F::DayToHour) => (Some(Field::Day), Some(Field::Hour)),
        Some(F::DayToMinute) => (Some(Field::Day), Some(Field::Minute)),
        Some(F::DayToSecond) => (Some(Field::Day), Some(Field::Second)),
        Some(F::HourToMinute) => (Some(Field::Hour), Some(Field::Minute)),
        Some(F::HourToSecond) => (Some(Field::Hour), Some(Field::Second)),
        Some(F::MinuteToSecond) => (Some(Field::Minute), Some(Field::Second)),
    };
    Ok(Qualifier { first, last, precision: digits(precision)? })
}

fn qualifier_of_literal(interval: &Interval) -> Result<Qualifier> {
    let field = |field: &Option<DateTimeField>| -> Result<Option<Field>> {
        Ok(Some(match field {
            None => return Ok(None),
            Some(DateTimeField::Year | DateTimeField::Years) => Field::Year,
            Some(DateTimeField::Month | DateTimeField::Months) => Field::Month,
            Some(DateTimeField::Day | DateTimeField::Days) => Field::Day,
            Some(DateTimeField::Hour | DateTimeField::Hours) => Field::Hour,
            Some(DateTimeField::Minute | DateTimeField::Minutes) => Field::Minute,
            Some(DateTimeField::Second | DateTimeField::Seconds) => Field::Second,
            Some(other) => {
                return Err(Error::syntax(format!("{other} cannot follow an interval")).with_hint(format!(
                    "Put the unit inside the quotes: INTERVAL '1 {}'.",
                    other.to_string().to_lowercase()
                )));
            }
        }))
    };
    let precision = digits(interval.fractional_seconds_precision.or(interval.leading_precision))?;
    Ok(Qualifier { first: field(&interval.leading_field)?, last: field(&interval.last_field)?, precision })
}

fn digits(precision: Option<u64>) -> Result<Option<u32>> {
    // Postgres keeps six digits whatever more is asked for.
    Ok(precision.map(|digits| digits.min(6) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::build::rewritten_select;

    fn rewritten(sql: &str) -> Result<String> {
        let text = rewritten_select(sql, rewrite)?;
        // What is printed must be SQL again.
        crate::grammar::parse_one(&format!("SELECT {text}"))?;
        Ok(text)
    }

    #[test]
    fn casts_become_calls() {
        let table = [
            ("x::uuid", "tidemark_to_uuid(x)"),
            ("CAST(x AS uuid)", "tidemark_to_uuid(x)"),
            ("uuid 'a'", "tidemark_to_uuid('a')"),
            ("x::pg_catalog.uuid", "tidemark_to_uuid(x)"),
            ("x::json ->> 'a'", "tidemark_to_json(x) ->> 'a'"),
            ("jsonb '{}'", "tidemark_to_jsonb('{}')"),
            ("x::varchar(3)", "tidemark_to_varchar(x, 3)"),
            ("x::character varying(3)", "tidemark_to_varchar(x, 3)"),
            ("x::char", "tidemark_to_char(x, 1)"),
            ("x::bpchar(4)", "tidemark_to_char(x, 4)"),
            ("x::numeric", "tidemark_to_numeric(x)"),
            ("numeric '1.5'", "tidemark_to_numeric('1.5')"),
            ("f(x::uuid::text)", "f(tidemark_to_uuid(x)::TEXT)"),
            (
                "(SELECT a::uuid FROM t WHERE b::json IS NULL)",
                "(SELECT tidemark_to_uuid(a) FROM t WHERE tidemark_to_json(b) IS NULL)",
            ),
        ];
        for (sql, expected) in table {
            assert_eq!(rewritten(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn other_casts_stay() {
        for sql in [
            "x::TEXT",
            "x::VARCHAR",
            "x::NUMERIC(10,2)",
            "x::INT",
            "x::REGCLASS",
            "x::oid",
            "x::regtype",
            "DATE '2020-01-01'",
        ] {
            assert_eq!(rewritten(sql).unwrap(), sql);
        }
        assert_eq!(rewritten("x::pg_catalog.int4").unwrap(), "x::INT");
        assert_eq!(rewritten("TRY_CAST(x AS uuid)").unwrap(), "TRY_CAST(x AS UUID)");
    }

    #[test]
    fn intervals_are_read() {
        let table = [
            ("INTERVAL '1' MINUTE", "INTERVAL '60 seconds'"),
            ("INTERVAL '1 day 2 hours'", "INTERVAL '1 days 7200 seconds'"),
            ("'1 day 2 hours'::interval", "INTERVAL '1 days 7200 seconds'"),
            ("CAST('1' AS interval hour)", "INTERVAL '3600 seconds'"),
            ("INTERVAL '1-2' YEAR TO MONTH", "INTERVAL '14 months'"),
            ("INTERVAL '1 2:03' DAY TO MINUTE", "INTERVAL '1 days 7380 seconds'"),
            ("INTERVAL(2) '1.555 s'", "INTERVAL '1.560000 seconds'"),
            ("INTERVAL '1.555' SECOND(2)", "INTERVAL '1.560000 seconds'"),
            ("INTERVAL 'P1D'", "INTERVAL '1 days'"),
            ("a - INTERVAL '5 seconds'", "a - INTERVAL '5 seconds'"),
            ("x::interval", "x::INTERVAL"),
        ];
        for (sql, expected) in table {
            assert_eq!(rewritten(sql).unwrap(), expected, "{sql}");
        }
        assert_eq!(rewritten("INTERVAL '1 parsec'").unwrap_err().code(), "22007");
    }

    #[test]
    fn unknown_types_are_told() {
        let error = rewritten("x::intt").unwrap_err();
        assert_eq!((error.code(), error.message()), ("42704", "type \"intt\" does not exist"));
    }
}
