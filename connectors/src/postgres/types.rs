//! Postgres' types as ours, without loss: what has no counterpart here comes as its text.
//!
//! ```text
//!   bool int2 int4 int8 float4 float8 text varchar(n) char(n) bytea date time timestamp timestamptz interval
//!   uuid json jsonb oid, arrays of these, domains over these                 the type of that name
//!   numeric(p, s), p up to 76                                                numeric(p, s)
//!   numeric                                                                  the option `numeric`: exact, or an error
//!   enum, inet, range, xml, money, timetz, composite, ..., arrays of these   text, text[]
//! ```

use tidemark_common::types::SqlType;

/// A column of a remote relation.
#[derive(Debug, Clone)]
pub struct RemoteColumn {
    pub name: String,
    pub sql_type: SqlType,
    pub nullable: bool,
    /// The type that it is cast to over there, where it comes as text.
    pub cast: Option<&'static str>,
    pub texts: Texts,
}

/// How the other server compares the texts of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Texts {
    /// False if texts that differ may be equal over there (a nondeterministic collation).
    pub bytewise: bool,
    /// True if `COLLATE "C"` orders texts over there as they are ordered here (UTF-8).
    pub ordered: bool,
    /// True if `COLLATE "und-x-icu"` tells capitals and small letters apart over there as they are here (Unicode).
    pub folded: bool,
}

/// What `pg_attribute` and `pg_type` say of a column, domains resolved.
pub struct Described {
    pub type_oid: u32,
    /// Of an array's elements; 0 if it is none.
    pub element_oid: u32,
    pub typmod: i32,
    /// Declared dimensions of an array.
    pub dimensions: i32,
}

/// Our type, and what to cast to over there.
pub fn map(described: &Described, numeric: &SqlType) -> (SqlType, Option<&'static str>) {
    if described.element_oid == 0 {
        return match scalar(described.type_oid, described.typmod, numeric) {
            Some(SqlType::Text) if described.type_oid == NUMERIC => (SqlType::Text, Some("text")),
            Some(sql_type) => (sql_type, None),
            None => (SqlType::Text, Some("text")),
        };
    }
    let array = |item: SqlType| (0..described.dimensions.max(1)).fold(item, |item, _| SqlType::Array(Box::new(item)));
    match scalar(described.element_oid, described.typmod, numeric) {
        Some(SqlType::Text) if described.element_oid == NUMERIC => (array(SqlType::Text), Some("text[]")),
        Some(item) => (array(item), None),
        None => (array(SqlType::Text), Some("text[]")),
    }
}

const NUMERIC: u32 = 1700;

fn scalar(oid: u32, typmod: i32, numeric: &SqlType) -> Option<SqlType> {
    let length = u32::try_from(typmod - 4).ok().filter(|n| *n > 0);
    Some(match oid {
        16 => SqlType::Boolean,
        17 => SqlType::Bytea,
        20 => SqlType::BigInt,
        21 => SqlType::SmallInt,
        23 => SqlType::Integer,
        19 | 25 => SqlType::Text,
        26 => SqlType::Oid,
        114 => SqlType::Json,
        700 => SqlType::Real,
        701 => SqlType::Double,
        1042 => length.map_or(SqlType::Text, SqlType::Char),
        1043 => SqlType::Varchar(length),
        1082 => SqlType::Date,
        1083 => SqlType::Time,
        1114 => SqlType::Timestamp,
        1184 => SqlType::TimestampTz,
        1186 => SqlType::Interval,
        NUMERIC => sized_numeric(typmod).unwrap_or_else(|| numeric.clone()),
        2950 => SqlType::Uuid,
        3802 => SqlType::Jsonb,
        _ => return None,
    })
}

/// `None`: without precision, or wider than a numeric can be here.
fn sized_numeric(typmod: i32) -> Option<SqlType> {
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = packed >> 16;
    // Eleven bits with a sign.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    // Digits before the point that a negative scale says are zeros; more after it than there are digits.
    let (precision, scale) = if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    (1..=76).contains(&precision).then_some(SqlType::Numeric(Some((precision, scale))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(type_oid: u32, element_oid: u32, typmod: i32, dimensions: i32) -> String {
        let (sql_type, cast) = map(&Described { type_oid, element_oid, typmod, dimensions }, &SqlType::Numeric(None));
        match cast {
            Some(cast) => format!("{sql_type} from {cast}"),
            None => sql_type.to_string(),
        }
    }

    #[test]
    fn each_type_has_its_own() {
        assert_eq!(of(1043, 0, 14, 0), "character varying(10)");
        assert_eq!(of(1042, 0, 7, 0), "character(3)");
        assert_eq!(of(1042, 0, -1, 0), "text");
        assert_eq!(of(1007, 23, -1, 1), "integer[]");
        assert_eq!(of(1007, 23, -1, 0), "integer[]", "a domain or a result has no dimensions declared");
        assert_eq!(of(3500, 0, -1, 0), "text from text");
        assert_eq!(of(3501, 3500, -1, 2), "text[][] from text[]");
    }

    #[test]
    fn numerics_keep_all_their_digits() {
        let typmod = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(of(1700, 0, typmod(10, 2), 0), "numeric(10,2)");
        assert_eq!(of(1700, 0, typmod(76, 40), 0), "numeric(76,40)");
        assert_eq!(of(1700, 0, typmod(2, -3), 0), "numeric(5,0)");
        assert_eq!(of(1700, 0, typmod(2, 5), 0), "numeric(5,5)");
        assert_eq!(of(1700, 0, typmod(100, 2), 0), "numeric");
        assert_eq!(of(1231, 1700, typmod(6, 1), 1), "numeric(6,1)[]");
        let text = map(&Described { type_oid: 1700, element_oid: 0, typmod: -1, dimensions: 0 }, &SqlType::Text);
        assert_eq!(text, (SqlType::Text, Some("text")));
    }
}
