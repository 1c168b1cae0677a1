//! A value as a record has it, and which types of columns take which values.

use datafusion::arrow::datatypes::{IntervalMonthDayNano, i256};
use tidemark_common::types::SqlType;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    /// Above what 63 bits hold.
    Unsigned(u64),
    Float(f32),
    Double(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Without its point, and the digits after that.
    Decimal(i256, i8),
    Days(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since 1970.
    Timestamp(i64),
    Interval(IntervalMonthDayNano),
    Uuid([u8; 16]),
}

/// What [`Scalar`]s a format yields in some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Unsigned,
    Float,
    Double,
    Text,
    Bytes,
    Decimal,
    Days,
    Time,
    Timestamp,
    Interval,
    Uuid,
}

/// Whether a column of this type takes such values. A number may still be too large for it, or a text no uuid: that is the record's failure.
pub(crate) fn takes(sql_type: &SqlType, kind: Kind) -> bool {
    use SqlType as T;
    match kind {
        Kind::Bool => matches!(sql_type, T::Boolean),
        Kind::Int | Kind::Unsigned => {
            matches!(sql_type, T::SmallInt | T::Integer | T::BigInt | T::Oid | T::Numeric(_) | T::Real | T::Double)
        }
        Kind::Float | Kind::Double => matches!(sql_type, T::Real | T::Double),
        Kind::Text => {
            let read =
                matches!(sql_type, T::Date | T::Time | T::Timestamp | T::TimestampTz | T::Interval | T::Numeric(_));
            read || is_text(sql_type) || matches!(sql_type, T::Uuid | T::Json | T::Jsonb | T::Bytea)
        }
        Kind::Bytes => matches!(sql_type, T::Bytea | T::Text),
        Kind::Decimal => matches!(sql_type, T::Numeric(_)),
        Kind::Days => matches!(sql_type, T::Date),
        Kind::Time => matches!(sql_type, T::Time),
        Kind::Timestamp => matches!(sql_type, T::Timestamp | T::TimestampTz),
        Kind::Interval => matches!(sql_type, T::Interval),
        Kind::Uuid => is_text(sql_type) || matches!(sql_type, T::Uuid),
    }
}

fn is_text(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Name)
}
