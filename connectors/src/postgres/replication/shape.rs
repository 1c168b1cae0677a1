//! How the table's columns become the source's: by name, each of a type that holds what comes.
//!
//! ```text
//!   table    id bigint │ note text │ total numeric(10,2) │ added later          source     total numeric(12,2) │ id bigint
//!   places                                                                                 2                   │ 0
//! ```
//!
//! Values travel as text, so that TEXT holds any type.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_common::types::{NUMERIC_PRECISION, NUMERIC_SCALE, SqlType};
use tidemark_common::{Error, Result, SqlState, nearest};

use super::options::CdcOptions;
use super::table::Identity;
use crate::formats::drift::refused;
use crate::postgres::OnDrift;

#[derive(Debug, Clone)]
pub struct Shape {
    /// Of each declared column among the table's; `None`: one that was added to the source, and that the table did not have then.
    pub places: Vec<Option<usize>>,
    /// Columns of the table.
    pub width: usize,
}

impl Shape {
    /// `columns`: the table's, with their types. `is_now`: it is as it is now, and not as it was when the stream was written.
    pub fn of(options: &CdcOptions, columns: &[(&str, &SqlType)], is_now: bool) -> Result<Self> {
        let first_added = options.schema.fields().len() - options.added;
        let place = |(of, field): (usize, &datafusion::arrow::datatypes::FieldRef)| {
            let found = columns.iter().position(|(name, _)| name == field.name());
            if found.is_none() && of >= first_added && !is_now {
                return Ok(None);
            }
            let at = found.ok_or_else(|| {
                let message = format!("table \"{}\" has no column \"{}\"", options.place.label(), field.name());
                let error = Error::new(SqlState::UndefinedColumn, message);
                match nearest(field.name(), columns.iter().map(|(name, _)| *name)) {
                    Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                    None => error.with_hint("Make the source anew without that column."),
                }
            })?;
            let (declared, found) = (SqlType::from_field(field), columns[at].1);
            match holds(&declared, found) {
                true => Ok(Some(at)),
                false => Err(Error::new(
                    SqlState::DatatypeMismatch,
                    format!(
                        "column \"{}\" is declared as {declared}, and in table \"{}\" it is {found}",
                        field.name(),
                        options.place.label()
                    ),
                )
                .with_hint(format!(
                    "Make the source anew with that column as {found}, or as text, which holds any type."
                ))),
            }
        };
        let places = options.schema.fields().iter().enumerate().map(place).collect::<Result<_>>()?;
        Ok(Self { places, width: columns.len() })
    }
}

/// The table's columns that the source does not have, by name; an error if it may not lack any.
pub fn undeclared<'a>(
    options: &CdcOptions,
    columns: impl Iterator<Item = (&'a str, &'a SqlType)>,
) -> Result<BTreeSet<String>> {
    let missing: BTreeMap<&str, &SqlType> =
        columns.filter(|(name, _)| options.schema.index_of(name).is_err()).collect();
    match missing.first_key_value().filter(|_| options.on_drift != OnDrift::Ignore) {
        None => Ok(missing.into_keys().map(String::from).collect()),
        Some((name, _)) => {
            let named = |(name, sql_type): (&&str, &&SqlType)| (name.to_string(), (*sql_type).clone());
            options.missing.set(missing.iter().map(named).collect());
            Err(refused(name, &format!("table \"{}\" has", options.place.label()), options.on_drift))
        }
    }
}

/// An error unless old rows are told by the source's primary key.
pub fn check_identity(options: &CdcOptions, identity: &Identity) -> Result<()> {
    let Identity::Columns(found) = identity else { return Ok(()) };
    let key = options.key_names();
    if found.len() == key.len() && found.iter().all(|name| key.contains(&name.as_str())) {
        return Ok(());
    }
    let (table, key) = (options.place.label(), key.join(", "));
    let message = match found.is_empty() {
        true => format!("table \"{table}\" has no replica identity: nothing tells which rows its changes are about"),
        false => {
            format!("the primary key ({key}) is not by what table \"{table}\" tells its rows, ({})", found.join(", "))
        }
    };
    Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message).with_hint(format!(
        "Declare the table's own primary key, or over there: ALTER TABLE {} REPLICA IDENTITY USING INDEX one on ({key}); or FULL.",
        options.place.quoted()
    )))
}

/// True if every value of `found` is one of `declared`, or is refused when it comes and is not.
fn holds(declared: &SqlType, found: &SqlType) -> bool {
    use SqlType::*;
    if declared == found {
        return true;
    }
    match (declared, found) {
        (Text | Varchar(None), _) => true,
        (Varchar(Some(room)), Varchar(Some(n)) | Char(n)) => room >= n,
        (Integer, SmallInt) | (BigInt, SmallInt | Integer | Oid) => true,
        (Double, SmallInt | Integer | Real) | (Real, SmallInt) => true,
        (Numeric(_), SmallInt) => whole_digits(declared) >= 5,
        (Numeric(_), Integer) => whole_digits(declared) >= 10,
        (Numeric(_), BigInt) => whole_digits(declared) >= 19,
        // What has more digits is refused when it comes.
        (Numeric(_), Numeric(None)) => true,
        (Numeric(_), Numeric(Some(_))) => {
            whole_digits(declared) >= whole_digits(found) && scale(declared) >= scale(found)
        }
        (Json, Jsonb) | (Jsonb, Json) => true,
        (Array(declared), Array(found)) => holds(innermost(declared), innermost(found)),
        _ => false,
    }
}

/// How many dimensions an array has is no part of its type over there.
fn innermost(item: &SqlType) -> &SqlType {
    match item {
        SqlType::Array(item) => innermost(item),
        other => other,
    }
}

fn scale(numeric: &SqlType) -> i16 {
    match numeric {
        SqlType::Numeric(Some((_, scale))) => i16::from(*scale),
        _ => i16::from(NUMERIC_SCALE),
    }
}

fn whole_digits(numeric: &SqlType) -> i16 {
    match numeric {
        SqlType::Numeric(Some((precision, _))) => i16::from(*precision) - scale(numeric),
        _ => i16::from(NUMERIC_PRECISION) - scale(numeric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_column_holds() {
        use SqlType::*;
        let numeric = |p, s| Numeric(Some((p, s)));
        let list = |item: SqlType| Array(Box::new(item));
        let yes = [
            (BigInt, Integer),
            (Text, Uuid),
            (Varchar(None), list(Date)),
            (Varchar(Some(8)), Char(8)),
            (numeric(12, 3), numeric(10, 2)),
            (numeric(10, 2), Numeric(None)),
            (Numeric(None), BigInt),
            (Jsonb, Json),
            (list(list(BigInt)), list(Integer)),
        ];
        let no = [
            (Integer, BigInt),
            (Varchar(Some(7)), Varchar(Some(8))),
            (Varchar(Some(7)), Text),
            (numeric(12, 1), numeric(10, 2)),
            (numeric(10, 3), numeric(10, 2)),
            (numeric(10, 2), Integer),
            (Timestamp, TimestampTz),
            (BigInt, Text),
            (list(BigInt), BigInt),
            (BigInt, list(BigInt)),
        ];
        for (declared, found) in yes {
            assert!(holds(&declared, &found), "{declared} holds {found}");
        }
        for (declared, found) in no {
            assert!(!holds(&declared, &found), "{declared} does not hold {found}");
        }
    }
}
