//! Types as written in DDL and casts to [`SqlType`], by all the names Postgres has for them.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, ObjectName, StructField, TimezoneInfo,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use crate::ast::fold;

/// Integers that take their values from a sequence: a column of them has a default, and is NOT NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SerialKind {
    SmallSerial,
    Serial,
    BigSerial,
}

impl SerialKind {
    pub fn sql_type(self) -> SqlType {
        match self {
            SerialKind::SmallSerial => SqlType::SmallInt,
            SerialKind::Serial => SqlType::Integer,
            SerialKind::BigSerial => SqlType::BigInt,
        }
    }
}

/// `serial` and its kind; to [`sql_type`] they are the integers below.
pub fn serial_kind(data_type: &DataType) -> Option<SerialKind> {
    let DataType::Custom(name, _) = data_type else { return None };
    match base_name(name)?.as_str() {
        "smallserial" | "serial2" => Some(SerialKind::SmallSerial),
        "serial" | "serial4" => Some(SerialKind::Serial),
        "bigserial" | "serial8" => Some(SerialKind::BigSerial),
        _ => None,
    }
}

pub fn sql_type(data_type: &DataType) -> Result<SqlType> {
    use DataType as D;
    Ok(match data_type {
        D::Boolean | D::Bool => SqlType::Boolean,
        D::SmallInt(None) | D::Int2(None) | D::Int16 => SqlType::SmallInt,
        D::Int(None) | D::Integer(None) | D::Int4(None) | D::Int32 => SqlType::Integer,
        D::BigInt(None) | D::Int8(None) | D::Int64 => SqlType::BigInt,
        D::Real | D::Float4 | D::Float32 => SqlType::Real,
        D::Float8 | D::Float64 | D::DoublePrecision | D::Double(ExactNumberInfo::None) => SqlType::Double,
        D::Float(info) => float(info)?,
        D::Numeric(info) | D::Decimal(info) | D::Dec(info) => SqlType::Numeric(numeric(info)?),
        D::Text | D::String(None) => SqlType::Text,
        D::Varchar(length) | D::CharacterVarying(length) | D::CharVarying(length) => {
            SqlType::Varchar(character_length(length, "varchar")?)
        }
        D::Char(length) | D::Character(length) => SqlType::Char(character_length(length, "char")?.unwrap_or(1)),
        D::Bytea | D::Bytes(None) => SqlType::Bytea,
        D::Date => SqlType::Date,
        D::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        D::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        D::Timestamp(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => SqlType::TimestampTz,
        D::Interval { .. } => SqlType::Interval,
        D::Uuid => SqlType::Uuid,
        D::JSON => SqlType::Json,
        D::JSONB => SqlType::Jsonb,
        D::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => SqlType::Array(Box::new(sql_type(item)?)),
        D::Struct(fields, _) => SqlType::Struct(fields.iter().map(struct_field).collect::<Result<_>>()?),
        D::Map(key, value) => SqlType::Map(Box::new(sql_type(key)?), Box::new(sql_type(value)?)),
        D::Custom(name, modifiers) => named(name, modifiers)?,
        D::Time(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => {
            return Err(Error::unsupported("type \"time with time zone\" is not supported")
                .with_hint("Use time, or timestamptz for a moment."));
        }
        other => return Err(unknown(&other.to_string().to_lowercase())),
    })
}

fn struct_field(field: &StructField) -> Result<(String, SqlType)> {
    let Some(name) = &field.field_name else {
        return Err(Error::syntax("a struct's fields need names").with_hint("Write STRUCT<a INT, b TEXT>."));
    };
    Ok((fold(name), sql_type(&field.field_type)?))
}

/// `float(p)`: real up to 24 bits of mantissa.
fn float(info: &ExactNumberInfo) -> Result<SqlType> {
    match info {
        ExactNumberInfo::None => Ok(SqlType::Double),
        ExactNumberInfo::Precision(1..=24) => Ok(SqlType::Real),
        ExactNumberInfo::Precision(25..=53) => Ok(SqlType::Double),
        _ => Err(Error::invalid("precision for type float must be between 1 and 53 bits")),
    }
}

fn numeric(info: &ExactNumberInfo) -> Result<Option<(u8, i8)>> {
    /// What a 256-bit decimal holds.
    const MAX_PRECISION: u64 = 76;
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(None),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    match u8::try_from(precision) {
        Ok(p) if (1..=MAX_PRECISION).contains(&precision) => match i8::try_from(scale) {
            Ok(s) if s >= 0 && scale <= i64::from(p) => Ok(Some((p, s))),
            _ => Err(Error::invalid(format!("NUMERIC scale {scale} must be between 0 and precision {precision}"))),
        },
        _ => Err(Error::invalid(format!("NUMERIC precision {precision} must be between 1 and {MAX_PRECISION}"))),
    }
}

fn character_length(length: &Option<CharacterLength>, name: &str) -> Result<Option<u32>> {
    /// Postgres' own limit.
    const MAX_LENGTH: u64 = 10_485_760;
    match length {
        None => Ok(None),
        Some(CharacterLength::IntegerLength { length: 0, .. }) => {
            Err(Error::invalid(format!("length for type {name} must be at least 1")))
        }
        Some(CharacterLength::IntegerLength { length, .. }) if *length <= MAX_LENGTH => Ok(Some(*length as u32)),
        Some(_) => Err(Error::invalid(format!("length for type {name} cannot exceed {MAX_LENGTH}"))),
    }
}

/// `text` of `text`, `pg_catalog.text`; nothing of other schemas. Unquoted names are folded to lower case.
pub(super) fn base_name(name: &ObjectName) -> Option<String> {
    let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let fold = |i: usize| match parts[i].quote_style {
        Some(_) => parts[i].value.clone(),
        None => parts[i].value.to_lowercase(),
    };
    match parts.len() {
        1 => Some(fold(0)),
        2 if fold(0) == "pg_catalog" => Some(fold(1)),
        _ => None,
    }
}

fn named(name: &ObjectName, modifiers: &[String]) -> Result<SqlType> {
    let Some(base) = base_name(name) else { return Err(unknown(&name.to_string())) };
    let quoted_char = base == "char" && name.0.iter().any(|p| p.as_ident().is_some_and(|i| i.quote_style.is_some()));
    let length = || -> Result<Option<u32>> {
        match modifiers {
            [] => Ok(None),
            [length] => {
                let length =
                    length.parse().map_err(|_| Error::invalid(format!("invalid length {length} for type {base}")))?;
                character_length(&Some(CharacterLength::IntegerLength { length, unit: None }), &base)
            }
            _ => Err(Error::invalid(format!("type {base} takes one length"))),
        }
    };
    Ok(match base.as_str() {
        _ if quoted_char => return Err(unknown("\"char\"")),
        "bool" | "boolean" => SqlType::Boolean,
        "int2" | "smallint" => SqlType::SmallInt,
        "int4" | "int" | "integer" => SqlType::Integer,
        "int8" | "bigint" => SqlType::BigInt,
        "float4" | "real" => SqlType::Real,
        "float8" | "double" => SqlType::Double,
        "numeric" | "decimal" => match modifiers {
            [] => SqlType::Numeric(None),
            [p, rest @ ..] => {
                let bad = |_| Error::invalid(format!("invalid NUMERIC type modifier {}", modifiers.join(", ")));
                let precision = p.parse().map_err(bad)?;
                let scale = rest.first().map_or(Ok(0), |s| s.parse().map_err(bad))?;
                SqlType::Numeric(numeric(&ExactNumberInfo::PrecisionAndScale(precision, scale))?)
            }
        },
        "text" | "string" | "citext" if modifiers.is_empty() && base != "citext" => SqlType::Text,
        "varchar" => SqlType::Varchar(length()?),
        // Without a length bpchar is text whose trailing blanks count: held as text.
        "bpchar" if modifiers.is_empty() => SqlType::Text,
        "bpchar" | "char" | "character" => SqlType::Char(length()?.unwrap_or(1)),
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "uuid" => SqlType::Uuid,
        "json" => SqlType::Json,
        "jsonb" => SqlType::Jsonb,
        "oid" => SqlType::Oid,
        "name" => SqlType::Name,
        "smallserial" | "serial2" => SqlType::SmallInt,
        "serial" | "serial4" => SqlType::Integer,
        "bigserial" | "serial8" => SqlType::BigInt,
        "map" | "struct" => return Err(malformed(&base)),
        // Arrays by their catalog names.
        array if array.starts_with('_') && array.len() > 1 => {
            let item = ObjectName::from(vec![array[1..].into()]);
            return match named(&item, modifiers) {
                Ok(item) => Ok(SqlType::Array(Box::new(item))),
                Err(_) => Err(unknown(array)),
            };
        }
        _ => return Err(unknown(&base)),
    })
}

fn malformed(base: &str) -> Error {
    let form = if base == "map" { "MAP<TEXT, INT>" } else { "STRUCT<a INT, b TEXT>" };
    Error::syntax(format!("type {base} is written with its parts")).with_hint(format!("Write {form}."))
}

pub(super) fn unknown(name: &str) -> Error {
    const NAMES: [&str; 34] = [
        "boolean",
        "bool",
        "smallint",
        "integer",
        "int",
        "bigint",
        "int2",
        "int4",
        "int8",
        "real",
        "float4",
        "float8",
        "double precision",
        "numeric",
        "decimal",
        "text",
        "varchar",
        "char",
        "bytea",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "interval",
        "uuid",
        "json",
        "jsonb",
        "oid",
        "name",
        "serial",
        "bigserial",
        "smallserial",
        "struct",
        "map",
    ];
    /// Names from elsewhere, and what they are here.
    const ELSEWHERE: [(&str, &str); 20] = [
        ("tinyint", "smallint"),
        ("mediumint", "integer"),
        ("datetime", "timestamp"),
        ("timestamp_ntz", "timestamp"),
        ("nvarchar", "varchar"),
        ("clob", "text"),
        ("longtext", "text"),
        ("mediumtext", "text"),
        ("tinytext", "text"),
        ("blob", "bytea"),
        ("longblob", "bytea"),
        ("binary", "bytea"),
        ("varbinary", "bytea"),
        ("citext", "text, and lower() to compare"),
        ("money", "numeric"),
        ("xml", "text"),
        ("inet", "text"),
        ("cidr", "text"),
        ("hugeint", "numeric(38, 0)"),
        ("ubigint", "numeric(20, 0)"),
    ];
    let error = Error::new(SqlState::UndefinedObject, format!("type \"{name}\" does not exist"));
    let base = name.split('(').next().unwrap_or(name).trim();
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == base) {
        return error.with_hint(format!("Use {ours}."));
    }
    match nearest(base, NAMES.into_iter()) {
        Some(near) => error.with_hint(format!("Perhaps you meant {near}.")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement as Sql;

    use super::*;
    use crate::ast::Statement;

    fn column_type(text: &str) -> DataType {
        let parsed = crate::grammar::parse_one(&format!("CREATE TABLE t (a {text})")).unwrap();
        let Statement::Sql(statement) = parsed.statement else { panic!("{text}") };
        let Sql::CreateTable(table) = *statement else { panic!("{text}") };
        table.columns[0].data_type.clone()
    }

    #[test]
    fn names_of_types() {
        let table = [
            ("bool boolean pg_catalog.bool", "boolean"),
            ("int2 smallint", "smallint"),
            ("int int4 integer pg_catalog.int4", "integer"),
            ("int8 bigint", "bigint"),
            ("float4 real float(24)", "real"),
            ("float8 float double float(25)", "double precision"),
            ("numeric decimal dec", "numeric"),
            ("numeric(10,2) decimal(10,2)", "numeric(10,2)"),
            ("numeric(10) decimal(10,0)", "numeric(10,0)"),
            ("text string pg_catalog.text", "text"),
            ("varchar", "character varying"),
            ("varchar(7) pg_catalog.varchar(7)", "character varying(7)"),
            ("char bpchar(1) char(1)", "character(1)"),
            ("char(3) bpchar(3) character(3)", "character(3)"),
            ("bytea", "bytea"),
            ("timestamptz timestamptz(3)", "timestamp with time zone"),
            ("timestamp timestamp(6)", "timestamp without time zone"),
            ("uuid UUID Uuid", "uuid"),
            ("json", "json"),
            ("jsonb", "jsonb"),
            ("oid", "oid"),
            ("name", "name"),
            ("text[] text[3] _text", "text[]"),
            ("int[][]", "integer[][]"),
            ("serial", "integer"),
        ];
        for (spellings, shown) in table {
            for spelling in spellings.split(' ') {
                assert_eq!(sql_type(&column_type(spelling)).unwrap().to_string(), shown, "{spelling}");
            }
        }
    }

    #[test]
    fn names_of_several_words() {
        let table = [
            ("double precision", "double precision"),
            ("character varying(4)", "character varying(4)"),
            ("timestamp(3) with time zone", "timestamp with time zone"),
            ("timestamp without time zone", "timestamp without time zone"),
            ("time without time zone", "time without time zone"),
            ("interval day to second(3)", "interval"),
            ("integer ARRAY", "integer[]"),
            ("integer ARRAY[4]", "integer[]"),
            ("STRUCT<a INT, b STRUCT<c TEXT>>", "struct(a integer, b struct(c text))"),
            ("MAP<TEXT, INT[]>", "map(text, integer[])"),
            ("MAP(TEXT, INT)", "map(text, integer)"),
            ("ARRAY<INT>", "integer[]"),
        ];
        for (spelling, shown) in table {
            assert_eq!(sql_type(&column_type(spelling)).unwrap().to_string(), shown, "{spelling}");
        }
    }

    #[test]
    fn what_a_type_is_called_parses_as_it() {
        for shown in [
            "boolean",
            "double precision",
            "numeric(10,2)",
            "character varying(7)",
            "character(3)",
            "integer[]",
            "timestamp with time zone",
            "time without time zone",
            "map(text, integer)",
        ] {
            assert_eq!(sql_type(&column_type(shown)).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn serials() {
        assert_eq!(serial_kind(&column_type("serial")), Some(SerialKind::Serial));
        assert_eq!(serial_kind(&column_type("BIGSERIAL")), Some(SerialKind::BigSerial));
        assert_eq!(serial_kind(&column_type("smallserial")), Some(SerialKind::SmallSerial));
        assert_eq!(serial_kind(&column_type("int")), None);
    }

    #[test]
    fn unknown_types_have_hints() {
        let error = |text: &str| sql_type(&column_type(text)).unwrap_err();
        let e = error("intege");
        assert_eq!(
            (e.code(), e.message(), e.hint()),
            ("42704", "type \"intege\" does not exist", Some("Perhaps you meant integer."))
        );
        assert_eq!(error("datetime").hint(), Some("Use timestamp."));
        assert_eq!(error("app.mood").message(), "type \"app.mood\" does not exist");
        assert_eq!(error("numeric(100, 2)").code(), "22023");
        assert_eq!(error("varchar(0)").code(), "22023");
        assert_eq!(error("timetz").code(), "0A000");
    }
}
