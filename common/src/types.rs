//! SQL types, and how each is held in Arrow.
//!
//! ```text
//!   text in SQL ──parse──▶ SqlType ──to_field──▶ Arrow Field (+ metadata) ──from_field──▶ SqlType ──▶ Postgres OID
//! ```
//!
//! Arrow has no uuid, json, varchar(n) or unconstrained numeric: those are held in the nearest Arrow type, and the field's
//! metadata under [`TYPE_KEY`] keeps the name. Values are kept in canonical form (a uuid lower-case with dashes), so that
//! equality, order and grouping of the held type are those of the SQL type.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::{Error, Oid, SqlState};

/// Field metadata key: the SQL type's name where the Arrow type does not tell it, e.g. `uuid` or `character varying(10)`.
pub const TYPE_KEY: &str = "tidemark.type";

/// Precision and scale that hold a `numeric` without (precision, scale): 28 digits before the point, 10 after it.
pub const NUMERIC_PRECISION: u8 = 38;
pub const NUMERIC_SCALE: i8 = 10;

/// Digits after the point of a [`RATIO`].
pub const RATIO_SCALE: i8 = 24;

/// The type of quotients and averages of numerics: wide enough for PostgreSQL's digits, and shown with as many as their size
/// calls for ([`shown_scale`]).
pub const RATIO: SqlType = SqlType::Numeric(Some((76, RATIO_SCALE)));

pub fn is_ratio(data_type: &DataType) -> bool {
    *data_type == DataType::Decimal256(76, RATIO_SCALE)
}

/// How many digits after the point are shown of a ratio: 16 significant ones in PostgreSQL's steps of four, and all that are
/// not zeros at the end. `digits`: the number times 10^24, without a sign.
pub fn shown_scale(digits: &str) -> usize {
    const SCALE: i32 = RATIO_SCALE as i32;
    let significant = digits.trim_start_matches('0');
    let used = SCALE - (digits.len() - digits.trim_end_matches('0').len()) as i32;
    let weight = (significant.len() as i32 - 1 - SCALE).div_euclid(4);
    // One in each step is shown with four digits more: PostgreSQL estimates 1 / 1 to be less than 1.
    let is_one = significant.trim_end_matches('0') == "1" && (significant.len() as i32 - 1 - SCALE) % 4 == 0;
    let steps = if significant.is_empty() { -1 } else { weight - i32::from(is_one) };
    (16 - 4 * steps).max(if significant.is_empty() { 0 } else { used }).clamp(0, SCALE) as usize
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SqlType {
    Boolean,
    SmallInt,
    Integer,
    BigInt,
    Real,
    Double,
    /// `None`: unconstrained, shown without trailing zeros.
    Numeric(Option<(u8, i8)>),
    Text,
    /// Longest length in characters.
    Varchar(Option<u32>),
    /// Padded with blanks to its length in characters.
    Char(u32),
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Oid,
    /// Postgres' `name`, in system tables.
    Name,
    Array(Box<SqlType>),
    Struct(Vec<(String, SqlType)>),
    Map(Box<SqlType>, Box<SqlType>),
    /// Whatever else an expression may yield; never the type of a stored column.
    #[serde(skip)]
    Other(DataType),
}

impl SqlType {
    /// The Arrow type that holds the values.
    pub fn data_type(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Integer => DataType::Int32,
            SqlType::BigInt => DataType::Int64,
            SqlType::Real => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Numeric(None) => DataType::Decimal128(NUMERIC_PRECISION, NUMERIC_SCALE),
            SqlType::Numeric(Some((p, s))) if *p <= 38 => DataType::Decimal128(*p, *s),
            SqlType::Numeric(Some((p, s))) => DataType::Decimal256(*p, *s),
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Name => DataType::Utf8,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Oid => DataType::Int32,
            SqlType::Array(item) => DataType::List(Arc::new(item.to_field("item", true))),
            SqlType::Struct(fields) => {
                DataType::Struct(fields.iter().map(|(name, t)| t.to_field(name, true)).collect::<Fields>())
            }
            SqlType::Map(key, value) => DataType::Map(
                Arc::new(Field::new(
                    "entries",
                    DataType::Struct(Fields::from(vec![key.to_field("keys", false), value.to_field("values", true)])),
                    false,
                )),
                false,
            ),
            SqlType::Other(data_type) => data_type.clone(),
        }
    }

    /// A field of this type, its metadata naming the type where Arrow cannot.
    pub fn to_field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.data_type(), nullable);
        match self {
            SqlType::Numeric(None)
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Oid
            | SqlType::Name => self.marked(field),
            _ => field,
        }
    }

    /// A field whose metadata names the type even where Arrow's type would do: that no other marker takes its place.
    pub fn to_marked_field_ref(&self, name: &str, nullable: bool) -> FieldRef {
        Arc::new(self.marked(self.to_field(name, nullable)))
    }

    fn marked(&self, field: Field) -> Field {
        field.with_metadata(HashMap::from([(TYPE_KEY.to_string(), self.to_string())]))
    }

    pub fn to_field_ref(&self, name: &str, nullable: bool) -> FieldRef {
        Arc::new(self.to_field(name, nullable))
    }

    /// The SQL type of a column; the inverse of [`SqlType::to_field`], total over what DataFusion can produce.
    pub fn from_field(field: &Field) -> SqlType {
        if let Some(named) = field.metadata().get(TYPE_KEY).and_then(|name| SqlType::from_marker(name)) {
            // A marker that survived a change of the held type says nothing any more.
            if named.data_type() == *field.data_type() {
                return named;
            }
        }
        SqlType::from_data_type(field.data_type())
    }

    pub fn from_data_type(data_type: &DataType) -> SqlType {
        match data_type {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::SmallInt,
            DataType::UInt16 | DataType::Int32 => SqlType::Integer,
            DataType::UInt32 | DataType::Int64 => SqlType::BigInt,
            DataType::UInt64 => SqlType::Numeric(Some((20, 0))),
            DataType::Float16 | DataType::Float32 => SqlType::Real,
            DataType::Float64 => SqlType::Double,
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s) => SqlType::Numeric(Some((*p, *s))),
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                SqlType::Bytea
            }
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::TimestampTz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item) => SqlType::Array(Box::new(SqlType::from_field(item))),
            DataType::Struct(fields) => {
                SqlType::Struct(fields.iter().map(|f| (f.name().clone(), SqlType::from_field(f))).collect())
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(kv) if kv.len() == 2 => {
                    SqlType::Map(Box::new(SqlType::from_field(&kv[0])), Box::new(SqlType::from_field(&kv[1])))
                }
                other => SqlType::Other(other.clone()),
            },
            DataType::Dictionary(_, value) => SqlType::from_data_type(value),
            other => SqlType::Other(other.clone()),
        }
    }

    /// Reads what [`SqlType::to_field`] wrote as marker.
    fn from_marker(name: &str) -> Option<SqlType> {
        let length = |prefix: &str| -> Option<u32> {
            name.strip_prefix(prefix)?.strip_prefix('(')?.strip_suffix(')')?.parse().ok()
        };
        Some(match name {
            "text" => SqlType::Text,
            "numeric" => SqlType::Numeric(None),
            "character varying" => SqlType::Varchar(None),
            "uuid" => SqlType::Uuid,
            "json" => SqlType::Json,
            "jsonb" => SqlType::Jsonb,
            "oid" => SqlType::Oid,
            "name" => SqlType::Name,
            _ => {
                if let Some(n) = length("character varying") {
                    SqlType::Varchar(Some(n))
                } else {
                    SqlType::Char(length("character")?)
                }
            }
        })
    }

    /// The type's OID in Postgres, by which clients choose a decoder.
    pub fn pg_oid(&self) -> Oid {
        match self {
            SqlType::Boolean => 16,
            SqlType::Bytea => 17,
            SqlType::Name => 19,
            SqlType::BigInt => 20,
            SqlType::SmallInt => 21,
            SqlType::Integer => 23,
            SqlType::Text | SqlType::Other(_) => 25,
            SqlType::Oid => 26,
            SqlType::Json => 114,
            SqlType::Real => 700,
            SqlType::Double => 701,
            SqlType::Char(_) => 1042,
            SqlType::Varchar(_) => 1043,
            SqlType::Date => 1082,
            SqlType::Time => 1083,
            SqlType::Timestamp => 1114,
            SqlType::TimestampTz => 1184,
            SqlType::Interval => 1186,
            SqlType::Numeric(_) => 1700,
            SqlType::Uuid => 2950,
            SqlType::Jsonb => 3802,
            SqlType::Struct(_) => 2249,
            // Postgres has no map; clients get it as json.
            SqlType::Map(..) => 114,
            SqlType::Array(item) => item.pg_array_oid(),
        }
    }

    /// OID of the array type over this type. Postgres' arrays have one type whatever their dimensions.
    fn pg_array_oid(&self) -> Oid {
        match self {
            SqlType::Boolean => 1000,
            SqlType::Bytea => 1001,
            SqlType::Name => 1003,
            SqlType::SmallInt => 1005,
            SqlType::Integer => 1007,
            SqlType::Text | SqlType::Other(_) => 1009,
            SqlType::Char(_) => 1014,
            SqlType::Varchar(_) => 1015,
            SqlType::BigInt => 1016,
            SqlType::Real => 1021,
            SqlType::Double => 1022,
            SqlType::Oid => 1028,
            SqlType::Timestamp => 1115,
            SqlType::Date => 1182,
            SqlType::Time => 1183,
            SqlType::TimestampTz => 1185,
            SqlType::Interval => 1187,
            SqlType::Numeric(_) => 1231,
            SqlType::Json | SqlType::Map(..) => 199,
            SqlType::Struct(_) => 2287,
            SqlType::Uuid => 2951,
            SqlType::Jsonb => 3807,
            SqlType::Array(item) => item.pg_array_oid(),
        }
    }

    /// A result that this type has no room for.
    pub fn out_of_range(&self) -> Error {
        match self {
            SqlType::Numeric(Some((precision, scale))) => {
                let whole = i16::from(*precision) - i16::from(*scale);
                Error::new(SqlState::NumericValueOutOfRange, "value overflows numeric format")
                    .with_detail(format!("There is room for {whole} digits before the point and {scale} after it."))
            }
            other => Error::new(SqlState::NumericValueOutOfRange, format!("{other} out of range")),
        }
    }

    /// Postgres' type modifier: -1 where there is none.
    pub fn typmod(&self) -> i32 {
        match self {
            SqlType::Numeric(Some((p, s))) => ((i32::from(*p) << 16) | (i32::from(*s) & 0x7ff)) + 4,
            SqlType::Varchar(Some(n)) | SqlType::Char(n) => *n as i32 + 4,
            SqlType::Array(item) => item.typmod(),
            _ => -1,
        }
    }
}

/// The name Postgres' `format_type` gives; parses back as SQL.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Boolean => f.write_str("boolean"),
            SqlType::SmallInt => f.write_str("smallint"),
            SqlType::Integer => f.write_str("integer"),
            SqlType::BigInt => f.write_str("bigint"),
            SqlType::Real => f.write_str("real"),
            SqlType::Double => f.write_str("double precision"),
            SqlType::Numeric(None) => f.write_str("numeric"),
            SqlType::Numeric(Some((p, s))) => write!(f, "numeric({p},{s})"),
            SqlType::Text => f.write_str("text"),
            SqlType::Varchar(None) => f.write_str("character varying"),
            SqlType::Varchar(Some(n)) => write!(f, "character varying({n})"),
            SqlType::Char(n) => write!(f, "character({n})"),
            SqlType::Bytea => f.write_str("bytea"),
            SqlType::Date => f.write_str("date"),
            SqlType::Time => f.write_str("time without time zone"),
            SqlType::Timestamp => f.write_str("timestamp without time zone"),
            SqlType::TimestampTz => f.write_str("timestamp with time zone"),
            SqlType::Interval => f.write_str("interval"),
            SqlType::Uuid => f.write_str("uuid"),
            SqlType::Json => f.write_str("json"),
            SqlType::Jsonb => f.write_str("jsonb"),
            SqlType::Oid => f.write_str("oid"),
            SqlType::Name => f.write_str("name"),
            SqlType::Array(item) => write!(f, "{item}[]"),
            SqlType::Struct(fields) => {
                f.write_str("struct(")?;
                for (i, (name, t)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{name} {t}")?;
                }
                f.write_str(")")
            }
            SqlType::Map(key, value) => write!(f, "map({key}, {value})"),
            SqlType::Other(data_type) => write!(f, "{data_type}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_way_through_a_field() {
        let types = [
            SqlType::Boolean,
            SqlType::SmallInt,
            SqlType::Integer,
            SqlType::BigInt,
            SqlType::Real,
            SqlType::Double,
            SqlType::Numeric(None),
            SqlType::Numeric(Some((10, 2))),
            SqlType::Numeric(Some((60, 5))),
            SqlType::Text,
            SqlType::Varchar(None),
            SqlType::Varchar(Some(7)),
            SqlType::Char(3),
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::TimestampTz,
            SqlType::Interval,
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Jsonb,
            SqlType::Oid,
            SqlType::Array(Box::new(SqlType::Uuid)),
            SqlType::Struct(vec![("a".into(), SqlType::Integer), ("b".into(), SqlType::Jsonb)]),
            SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Varchar(Some(2)))),
        ];
        for sql_type in types {
            assert_eq!(SqlType::from_field(&sql_type.to_field("c", true)), sql_type);
        }
    }
}
