//! WITH (ttl = '30 days', ttl_column = 'ts'): rows of a table go when they are old.
//!
//! A table with the strategy scd2 has an option of that name, too: after how long without a load a version is closed.

use tidemark_catalog::{Object, ObjectKind, Table, Ttl};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::event_time::duration;
use super::tables::Draft;

/// Takes the options out that say so.
pub(super) fn of(options: &mut Vec<(String, String)>, draft: &Draft) -> Result<Option<Ttl>> {
    let value = |name: &str| options.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if value("strategy").is_some_and(|strategy| strategy.eq_ignore_ascii_case("scd2")) {
        return Ok(None);
    }
    let (ttl, column) = (value("ttl"), value("ttl_column"));
    options.retain(|(key, _)| key != "ttl" && key != "ttl_column");
    let (ttl, column) = match (ttl, column) {
        (None, None) => return Ok(None),
        (Some(ttl), Some(column)) => (ttl, column),
        (Some(_), None) => {
            return Err(Error::invalid("option \"ttl\" needs the option \"ttl_column\"")
                .with_hint("Name the column of type timestamp from which on rows stay for so long."));
        }
        (None, Some(_)) => return Err(Error::invalid("option \"ttl_column\" needs the option \"ttl\"")),
    };
    if draft.remote.is_some() {
        return Err(Error::unsupported("a table that is kept elsewhere has no ttl here"));
    }
    let micros = duration("ttl", &ttl)?;
    let Some(at) = draft.columns.iter().position(|c| c.name == column) else {
        let message = format!("column \"{column}\" of the option \"ttl_column\" does not exist");
        return Err(Error::new(SqlState::UndefinedColumn, message));
    };
    match draft.columns[at].sql_type {
        SqlType::Timestamp | SqlType::TimestampTz => Ok(Some(Ttl { attnum: at as i16 + 1, micros })),
        ref other => Err(Error::new(
            SqlState::DatatypeMismatch,
            format!("column \"{column}\" of the option \"ttl_column\" is of type {other}, not timestamp"),
        )),
    }
}

/// The column by which rows go stays, as a time.
pub(super) fn refuse_if_expired_by(object: &Object, column: &str) -> Result<()> {
    let ObjectKind::Table(Table { ttl: Some(ttl), columns, .. }) = &object.kind else { return Ok(()) };
    match columns.iter().any(|c| c.attnum == ttl.attnum && c.name == column) {
        false => Ok(()),
        true => Err(Error::new(
            SqlState::DependentObjectsStillExist,
            format!("rows of \"{}\" go by column \"{column}\", its ttl_column", object.name),
        )
        .with_hint("Make a table with another ttl_column, or none, and load it from this one.")),
    }
}
