//! Assignment: a query's column becomes a table's column.
//!
//! ```text
//!   literal or parameter in text ──Postgres' input syntax──▶ ┐
//!   number ──rounded, range checked──────────────────────▶  ├─▶ array of exactly the column's type
//!   anything else ──its text form──▶ input syntax ────────▶ ┘
//!   what Postgres does not assign (boolean to integer, a text column to a date) is refused before any row is read
//! ```

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, ListArray, StructArray, new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use tidemark_catalog::Column;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use tidemark_common::values::{self, ColumnBuilder, Style};

/// What is to be assigned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub sql_type: SqlType,
    /// A literal in quotes, NULL or a parameter: of no type of its own yet.
    pub unknown: bool,
}

impl Source {
    pub fn typed(field: &Field) -> Source {
        Source { sql_type: SqlType::from_field(field), unknown: *field.data_type() == DataType::Null }
    }

    pub fn unknown() -> Source {
        Source { sql_type: SqlType::Text, unknown: true }
    }

    /// Of data whose text has to be read whatever it was before.
    pub fn lenient(field: &Field) -> Source {
        let sql_type = SqlType::from_field(field);
        let unknown = is_text(&sql_type) || *field.data_type() == DataType::Null;
        Source { sql_type, unknown }
    }

    /// The columns of a query.
    pub fn of_plan(plan: &LogicalPlan) -> Vec<Source> {
        let fields = plan.schema().fields();
        fields
            .iter()
            .enumerate()
            .map(|(i, field)| {
                let mut source = Source::typed(field);
                source.unknown |= is_text(&source.sql_type) && is_unknown(plan, i);
                source
            })
            .collect()
    }
}

/// True if the output column is literals and parameters only.
fn is_unknown(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Projection(p) => p.expr.get(column).is_some_and(|e| is_unknown_expr(e, &p.input)),
        LogicalPlan::Values(v) => v.values.iter().all(|row| row.get(column).is_some_and(is_literal_of_values)),
        LogicalPlan::Union(u) => u.inputs.iter().all(|input| is_unknown(input, column)),
        LogicalPlan::SubqueryAlias(s) => is_unknown(&s.input, column),
        LogicalPlan::Sort(s) => is_unknown(&s.input, column),
        LogicalPlan::Limit(l) => is_unknown(&l.input, column),
        LogicalPlan::Filter(f) => is_unknown(&f.input, column),
        _ => false,
    }
}

fn is_unknown_expr(expr: &Expr, input: &LogicalPlan) -> bool {
    match expr {
        Expr::Alias(alias) => is_unknown_expr(&alias.expr, input),
        Expr::Column(column) => {
            input.schema().maybe_index_of_column(column).is_some_and(|position| is_unknown(input, position))
        }
        other => is_literal(other),
    }
}

/// The planner puts a cast around a literal to make the rows of VALUES alike.
fn is_literal_of_values(expr: &Expr) -> bool {
    match expr {
        Expr::Cast(cast) => is_literal(&cast.expr),
        other => is_literal(other),
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_literal(&alias.expr),
        Expr::Literal(..) | Expr::Placeholder(_) => true,
        _ => false,
    }
}

pub(super) fn is_text(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name)
}

fn is_number(sql_type: &SqlType) -> bool {
    is_integer(sql_type) || matches!(sql_type, SqlType::Real | SqlType::Double | SqlType::Numeric(_))
}

fn is_integer(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt)
}

/// Whether Postgres converts by itself where a value is assigned.
fn assignable(from: &Source, to: &SqlType) -> bool {
    use SqlType as T;
    if from.unknown || from.sql_type == *to || is_text(to) {
        return true;
    }
    match (&from.sql_type, to) {
        (f, t) if is_number(f) && is_number(t) => true,
        (T::Oid, t) => is_integer(t),
        (f, T::Oid) => is_integer(f),
        (T::Date, T::Timestamp | T::TimestampTz) => true,
        (T::Timestamp | T::TimestampTz, T::Date | T::Time | T::Timestamp | T::TimestampTz) => true,
        (T::Time, T::Interval) | (T::Interval, T::Time) => true,
        (T::Json, T::Jsonb) | (T::Jsonb, T::Json) => true,
        // Held as text: expressions such as coalesce do not keep what else they are.
        (f, T::Uuid | T::Json | T::Jsonb) => is_text(f),
        (T::Array(f), T::Array(t)) => assignable(&Source { sql_type: f.as_ref().clone(), unknown: false }, t),
        (T::Struct(f), T::Struct(t)) => {
            f.len() == t.len()
                && f.iter()
                    .zip(t)
                    .all(|((_, f), (_, t))| assignable(&Source { sql_type: f.clone(), unknown: false }, t))
        }
        (T::Map(fk, fv), T::Map(tk, tv)) => {
            let source = |t: &SqlType| Source { sql_type: t.clone(), unknown: false };
            assignable(&source(fk), tk) && assignable(&source(fv), tv)
        }
        _ => false,
    }
}

/// Whether a column of one type can become one of the other without being told how.
pub(crate) fn converts(from: &SqlType, to: &SqlType) -> bool {
    assignable(&Source { sql_type: from.clone(), unknown: false }, to)
}

/// Refuses a DEFAULT that no row could take.
pub(crate) fn check_default(expr: &Expr, column: &Column) -> Result<()> {
    if expr.exists(|e| Ok(matches!(e, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_))))? {
        return Err(Error::unsupported("cannot use subquery in DEFAULT expression"));
    }
    if expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_))))? {
        return Err(Error::new(SqlState::GroupingError, "aggregate functions are not allowed in DEFAULT expressions"));
    }
    let (_, field) = expr.to_field(&DFSchema::empty())?;
    let source = Source::typed(&field);
    // A literal has been read as text, and of no type yet.
    check(&Source { unknown: source.unknown || (is_text(&source.sql_type) && is_literal(expr)), ..source }, column)
}

/// Refuses what cannot be assigned to the column.
pub(super) fn check(from: &Source, column: &Column) -> Result<()> {
    if assignable(from, &column.sql_type) {
        return Ok(());
    }
    let (name, to) = (&column.name, unmodified(&column.sql_type));
    let from = unmodified(&from.sql_type);
    Err(Error::new(
        SqlState::DatatypeMismatch,
        format!("column \"{name}\" is of type {to} but expression is of type {from}"),
    )
    .with_hint("You will need to rewrite or cast the expression."))
}

/// The type's name without length or precision.
fn unmodified(sql_type: &SqlType) -> String {
    match sql_type {
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Numeric(_) => "numeric".into(),
        SqlType::Array(item) => format!("{}[]", unmodified(item)),
        other => other.to_string(),
    }
}

/// The array as one of exactly `to.data_type()`.
pub(super) fn convert(array: &ArrayRef, from: &SqlType, to: &SqlType, style: &Style) -> Result<ArrayRef> {
    let wanted = to.data_type();
    if array.null_count() == array.len() {
        return Ok(new_null_array(&wanted, array.len()));
    }
    if from == to && *array.data_type() == wanted {
        return Ok(array.clone());
    }
    match (from, to) {
        (f, t) if f == t && !matches!(t, SqlType::Array(_) | SqlType::Struct(_)) => cast(array, &wanted),
        (f, SqlType::Text | SqlType::Varchar(None)) if is_text(f) && !matches!(f, SqlType::Char(_)) => {
            cast(array, &wanted)
        }
        (f, t) if is_text(f) => parse(array, t, style, matches!(f, SqlType::Char(_)) && is_text(t)),
        (f, t) if is_number(f) && is_number(t) => number(array, f, t),
        (f, SqlType::Oid) if is_integer(f) => oid(array),
        (SqlType::Oid, t) if is_integer(t) => number(&cast(&bits(array)?, &DataType::Int64)?, &SqlType::BigInt, t),
        (SqlType::Boolean, t) if is_text(t) => {
            // Arrow's words: true and false, as Postgres casts them.
            parse(&cast(array, &DataType::Utf8)?, t, style, false)
        }
        (SqlType::Date, SqlType::Timestamp) => cast(array, &wanted),
        (SqlType::Array(f), SqlType::Array(t)) => list(array, f, t, &wanted, style),
        (SqlType::Struct(f), SqlType::Struct(t)) => structure(array, f, t, &wanted, style),
        (SqlType::Map(..), SqlType::Map(..)) => cast(array, &wanted),
        (f, t) => through_text(array, f, t, style),
    }
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(array, to, &options)?)
}

/// Reads each text by the input syntax of `to`. `trim`: the blanks that pad a char(n) are no part of it.
fn parse(array: &ArrayRef, to: &SqlType, style: &Style, trim: bool) -> Result<ArrayRef> {
    let texts = cast(array, &DataType::Utf8)?;
    let mut builder = ColumnBuilder::new(to)?;
    for text in texts.as_string::<i32>() {
        match text {
            Some(text) if trim => builder.append_text(text.trim_end_matches(' '), style)?,
            Some(text) => builder.append_text(text, style)?,
            None => builder.append_null(),
        }
    }
    builder.finish()
}

fn through_text(array: &ArrayRef, from: &SqlType, to: &SqlType, style: &Style) -> Result<ArrayRef> {
    let column = values::Column::of_type(array, from)?;
    let mut builder = ColumnBuilder::new(to)?;
    let mut text = BytesMut::new();
    for row in 0..array.len() {
        if column.is_null(row) {
            builder.append_null();
            continue;
        }
        text.clear();
        column.write_text(row, style, &mut text);
        builder.append_text(&String::from_utf8_lossy(&text), style)?;
    }
    builder.finish()
}

fn number(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    match to {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt => {
            let whole = match from {
                SqlType::Real | SqlType::Double => {
                    let floats = cast(array, &DataType::Float64)?;
                    let rounded: Float64Array =
                        floats.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::round_ties_even)).collect();
                    Arc::new(rounded)
                }
                // Half away from zero, as numeric rounds.
                SqlType::Numeric(_) => match array.data_type() {
                    DataType::Decimal256(..) => cast(array, &DataType::Decimal256(76, 0))?,
                    _ => cast(array, &DataType::Decimal128(38, 0))?,
                },
                _ => array.clone(),
            };
            cast_checked(&whole, &to.data_type(), || out_of_range(to))
        }
        SqlType::Real => {
            let out = cast(array, &DataType::Float32)?;
            let doubles = cast(array, &DataType::Float64)?;
            let lost = out
                .as_primitive::<datafusion::arrow::datatypes::Float32Type>()
                .iter()
                .zip(doubles.as_primitive::<Float64Type>())
                .any(|(f, d)| f.is_some_and(f32::is_infinite) && d.is_some_and(f64::is_finite));
            if lost {
                return Err(Error::new(SqlState::NumericValueOutOfRange, "value out of range: overflow"));
            }
            Ok(out)
        }
        SqlType::Numeric(of) => cast_checked(array, &to.data_type(), || numeric_overflow(of.as_ref())),
        _ => cast(array, &to.data_type()),
    }
}

fn cast_checked(array: &ArrayRef, to: &DataType, error: impl Fn() -> Error) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|e| match e {
        ArrowError::CastError(_)
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::InvalidArgumentError(_)
        | ArrowError::ComputeError(_) => error(),
        other => other.into(),
    })
}

fn out_of_range(to: &SqlType) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("{to} out of range"))
}

fn numeric_overflow(of: Option<&(u8, i8)>) -> Error {
    let error = Error::new(SqlState::NumericValueOutOfRange, "numeric field overflow");
    match of {
        Some((p, s)) => error.with_detail(format!(
            "A field with precision {p}, scale {s} must round to an absolute value less than 10^{}.",
            i32::from(*p) - i32::from(*s)
        )),
        None => error
            .with_detail("A numeric without precision keeps 28 digits before the point and 10 after it.")
            .with_hint("Give a precision and scale, as in numeric(38,0), or use double precision."),
    }
}

/// OIDs are unsigned, and held in the bits of an integer.
fn oid(array: &ArrayRef) -> Result<ArrayRef> {
    let wide = cast(array, &DataType::Int64)?;
    let held: Int32Array = wide
        .as_primitive::<Int64Type>()
        .iter()
        .map(|v| {
            let fits = |v: i64| (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&v);
            v.map(|v| {
                if fits(v) {
                    Ok(v as u32 as i32)
                } else {
                    Err(Error::new(SqlState::NumericValueOutOfRange, "OID out of range"))
                }
            })
            .transpose()
        })
        .collect::<Result<_>>()?;
    Ok(Arc::new(held))
}

fn bits(array: &ArrayRef) -> Result<ArrayRef> {
    let held = cast(array, &DataType::Int32)?;
    let unsigned: datafusion::arrow::array::UInt32Array =
        held.as_primitive::<datafusion::arrow::datatypes::Int32Type>().iter().map(|v| v.map(|v| v as u32)).collect();
    Ok(Arc::new(unsigned))
}

fn list(array: &ArrayRef, from: &SqlType, to: &SqlType, wanted: &DataType, style: &Style) -> Result<ArrayRef> {
    let item = match array.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item.clone(),
        other => return Err(Error::internal(format!("an array is held as {other}"))),
    };
    let plain = cast(array, &DataType::List(item))?;
    let plain = plain.as_list::<i32>();
    let DataType::List(field) = wanted else {
        return Err(Error::internal(format!("an array is to be held as {wanted}")));
    };
    let values = convert(plain.values(), from, to, style)?;
    Ok(Arc::new(ListArray::try_new(field.clone(), plain.offsets().clone(), values, plain.nulls().cloned())?))
}

fn structure(
    array: &ArrayRef,
    from: &[(String, SqlType)],
    to: &[(String, SqlType)],
    wanted: &DataType,
    style: &Style,
) -> Result<ArrayRef> {
    let DataType::Struct(fields) = wanted else {
        return Err(Error::internal(format!("a struct is to be held as {wanted}")));
    };
    let given = array.as_struct();
    let columns = given
        .columns()
        .iter()
        .zip(from.iter().zip(to))
        .map(|(column, ((_, from), (_, to)))| convert(column, from, to, style))
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, given.nulls().cloned(), given.len())?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{BooleanArray, Decimal128Array, Int64Array, StringArray};
    use datafusion::arrow::util::display::array_value_to_string;

    use super::*;

    fn texts(array: &ArrayRef) -> Vec<String> {
        (0..array.len()).map(|i| array_value_to_string(array, i).unwrap()).collect()
    }

    fn column(sql_type: SqlType) -> Column {
        Column::new("a", sql_type, 1)
    }

    fn source(sql_type: SqlType) -> Source {
        Source { sql_type, unknown: false }
    }

    #[test]
    fn numbers_are_rounded_as_in_postgres() {
        let style = Style::default();
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), Some(1.5), Some(-2.5), None]));
        let whole = convert(&floats, &SqlType::Double, &SqlType::Integer, &style).unwrap();
        assert_eq!(texts(&whole), ["0", "2", "-2", ""]);
        let decimals = Decimal128Array::from(vec![5, 15, -25]).with_precision_and_scale(3, 1).unwrap();
        let decimals: ArrayRef = Arc::new(decimals);
        let from = SqlType::Numeric(Some((3, 1)));
        assert_eq!(texts(&convert(&decimals, &from, &SqlType::BigInt, &style).unwrap()), ["1", "2", "-3"]);
        let cut = convert(&decimals, &from, &SqlType::Numeric(Some((2, 0))), &style).unwrap();
        assert_eq!(texts(&cut), ["1", "2", "-3"]);
    }

    #[test]
    fn what_does_not_fit_is_said_as_in_postgres() {
        let style = Style::default();
        let big: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
        let error = convert(&big, &SqlType::BigInt, &SqlType::Integer, &style).unwrap_err();
        assert_eq!((error.code(), error.message()), ("22003", "integer out of range"));
        let error = convert(&big, &SqlType::BigInt, &SqlType::Numeric(Some((4, 2))), &style).unwrap_err();
        assert_eq!((error.code(), error.message()), ("22003", "numeric field overflow"));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["abc"]));
        let error = convert(&text, &SqlType::Text, &SqlType::Varchar(Some(2)), &style).unwrap_err();
        assert_eq!((error.code(), error.message()), ("22001", "value too long for type character varying(2)"));
        let error = convert(&text, &SqlType::Text, &SqlType::Integer, &style).unwrap_err();
        assert_eq!((error.code(), error.message()), ("22P02", "invalid input syntax for type integer: \"abc\""));
    }

    #[test]
    fn times_change_their_kind_by_the_session_zone() {
        let style = Style::default().with_time_zone("Europe/Berlin").unwrap();
        let text: ArrayRef = Arc::new(StringArray::from(vec!["2024-07-01 12:00:00"]));
        let local = convert(&text, &SqlType::Text, &SqlType::Timestamp, &style).unwrap();
        let absolute = convert(&local, &SqlType::Timestamp, &SqlType::TimestampTz, &style).unwrap();
        assert_eq!(texts(&absolute), ["2024-07-01T10:00:00Z"]);
        let back = convert(&absolute, &SqlType::TimestampTz, &SqlType::Timestamp, &style).unwrap();
        assert_eq!(texts(&back), ["2024-07-01T12:00:00"]);
        assert_eq!(texts(&convert(&absolute, &SqlType::TimestampTz, &SqlType::Date, &style).unwrap()), ["2024-07-01"]);
    }

    #[test]
    fn everything_becomes_text_but_text_becomes_nothing() {
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None]));
        let out = convert(&flags, &SqlType::Boolean, &SqlType::Text, &Style::default()).unwrap();
        assert_eq!(texts(&out), ["true", ""]);
        assert!(check(&source(SqlType::Boolean), &column(SqlType::Text)).is_ok());
        assert!(check(&Source::unknown(), &column(SqlType::Date)).is_ok());
        let error = check(&source(SqlType::Boolean), &column(SqlType::Integer)).unwrap_err();
        assert_eq!(error.code(), "42804");
        assert_eq!(error.message(), "column \"a\" is of type integer but expression is of type boolean");
        let error = check(&source(SqlType::Text), &column(SqlType::Numeric(Some((4, 2))))).unwrap_err();
        assert_eq!(error.message(), "column \"a\" is of type numeric but expression is of type text");
    }
}
