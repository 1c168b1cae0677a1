//! WITH (ttl = '30 days', ttl_column = 'ts'): rows of a table or a source go when they are old.
//!
//! A table with the strategy scd2 has an option of that name, too: after how long without a load a version is closed.

use tidemark_catalog::{Column, Object, ObjectKind, Table, Ttl};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::event_time::duration;

/// What was asked for.
pub(super) struct Wanted {
    micros: i64,
    column: Option<String>,
}

impl Wanted {
    /// Takes the options out that say so.
    pub fn take(options: &mut Vec<(String, String)>) -> Result<Option<Self>> {
        let mut value = |name: &str| {
            let at = options.iter().position(|(key, _)| key == name)?;
            Some(options.remove(at).1)
        };
        match (value("ttl"), value("ttl_column")) {
            (None, None) => Ok(None),
            (Some(ttl), column) => Ok(Some(Self { micros: duration("ttl", &ttl)?, column })),
            (None, Some(_)) => Err(Error::invalid("option \"ttl_column\" needs the option \"ttl\"")),
        }
    }

    /// By the column that was named, or by `event_time`.
    pub fn of(self, columns: &[Column], event_time: Option<usize>) -> Result<Ttl> {
        let position = |name: &String| {
            columns.iter().position(|column| column.name == *name).ok_or_else(|| {
                let message = format!("column \"{name}\" of the option \"ttl_column\" does not exist");
                Error::new(SqlState::UndefinedColumn, message)
            })
        };
        let at = self.column.as_ref().map(position).transpose()?.or(event_time).ok_or_else(|| {
            Error::invalid("option \"ttl\" needs the option \"ttl_column\"")
                .with_hint("Name the column of type timestamp from which on rows stay for so long.")
        })?;
        match &columns[at].sql_type {
            SqlType::Timestamp | SqlType::TimestampTz => Ok(Ttl { attnum: at as i16 + 1, micros: self.micros }),
            other => Err(Error::new(
                SqlState::DatatypeMismatch,
                format!(
                    "column \"{}\" of the option \"ttl_column\" is of type {other}, not timestamp",
                    columns[at].name
                ),
            )),
        }
    }
}

/// Of a table that is kept here.
pub(super) fn of_table(
    options: &mut Vec<(String, String)>,
    columns: &[Column],
    is_remote: bool,
) -> Result<Option<Ttl>> {
    let is_scd2 = |(key, value): &(String, String)| key == "strategy" && value.eq_ignore_ascii_case("scd2");
    if options.iter().any(is_scd2) {
        return Ok(None);
    }
    let Some(wanted) = Wanted::take(options)? else { return Ok(None) };
    if is_remote {
        return Err(Error::unsupported("a table that is kept elsewhere has no ttl here"));
    }
    wanted.of(columns, None).map(Some)
}

/// The column by which rows go stays, as a time.
pub(super) fn refuse_if_expired_by(object: &Object, column: &str) -> Result<()> {
    let ObjectKind::Table(Table { ttl: Some(ttl), columns, .. }) = &object.kind else { return Ok(()) };
    match ttl.position(columns).is_some_and(|at| columns[at].name == column) {
        false => Ok(()),
        true => Err(Error::new(
            SqlState::DependentObjectsStillExist,
            format!("rows of \"{}\" go by column \"{column}\", its ttl_column", object.name),
        )
        .with_hint("Make a table with another ttl_column, or none, and load it from this one.")),
    }
}
