//! A source's options about time: what becomes of rows that come late or lie ahead, and how long it waits for quiet lanes.
//!
//! ```text
//!   late_data = 'drop'                                       left out, counted, the last ones in tidemark.late_rows
//!             = 'dlq' [, late_table = 'name']                the same, and all of them in a table
//!             = 'reopen', allowed_lateness = '1 hour'        counted into their windows, which are kept for so much longer
//!   max_future = '10 minutes'                                what lies further ahead of the clock is treated as late
//!   idle_timeout = '1 minute'                                a quiet lane no longer holds the watermark back
//! ```

use tidemark_catalog::{Catalog, Column, Object, ObjectKind};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::LATE_COLUMNS;
use tidemark_sql::ast::CreateSource;
use tidemark_sql::grammar;

use crate::session::Session;

const NAMES: [&str; 5] = ["idle_timeout", "late_data", "late_table", "allowed_lateness", "max_future"];

type Options = Vec<(String, String)>;

/// Times in microseconds.
#[derive(Debug, Default)]
pub struct EventTime {
    pub idle_timeout: Option<i64>,
    late: Late,
    late_table: Option<String>,
    pub allowed_lateness: Option<i64>,
    pub max_future: Option<i64>,
}

/// What becomes of rows that do not count.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Late {
    #[default]
    Drop,
    Table,
    Reopen,
}

impl EventTime {
    /// The options that are the engine's, and those that are left for the connector.
    pub fn split(options: &[(String, String)]) -> Result<(Self, Options)> {
        let (ours, rest): (Options, Options) = options.iter().cloned().partition(|(k, _)| NAMES.contains(&k.as_str()));
        let mut time = EventTime::default();
        for (key, value) in &ours {
            match key.as_str() {
                "idle_timeout" => time.idle_timeout = Some(duration(key, value)?),
                "allowed_lateness" => time.allowed_lateness = Some(duration(key, value)?),
                "max_future" => time.max_future = Some(duration(key, value)?),
                "late_table" => time.late_table = Some(value.clone()),
                _ => time.late = policy(value)?,
            }
        }
        let needs = |what: &str, with: &str| Error::invalid(format!("option \"{what}\" needs late_data = '{with}'"));
        match time.late {
            Late::Reopen if time.allowed_lateness.is_none() => {
                Err(Error::invalid("late_data = 'reopen' needs the option \"allowed_lateness\"").with_hint(
                    "Say for how long windows are kept open for late rows, for example allowed_lateness = '1 hour'.",
                ))
            }
            _ if time.allowed_lateness.is_some() && time.late != Late::Reopen => {
                Err(needs("allowed_lateness", "reopen"))
            }
            _ if time.late_table.is_some() && time.late != Late::Table => Err(needs("late_table", "dlq")),
            _ => Ok((time, rest)),
        }
    }

    /// Nothing is late without a watermark.
    pub fn check(&self, has_watermark: bool) -> Result<()> {
        let given = [
            ("late_data", self.late != Late::Drop),
            ("max_future", self.max_future.is_some()),
            ("idle_timeout", self.idle_timeout.is_some()),
        ];
        match given.iter().find(|(_, given)| *given && !has_watermark) {
            None => Ok(()),
            Some((option, _)) => Err(Error::invalid(format!("option \"{option}\" needs a watermark"))
                .with_hint("Declare WATERMARK FOR ts AS ts - INTERVAL '5 seconds' among the columns.")),
        }
    }
}

fn policy(value: &str) -> Result<Late> {
    match value {
        "drop" => Ok(Late::Drop),
        "dlq" => Ok(Late::Table),
        "reopen" => Ok(Late::Reopen),
        other => Err(Error::invalid(format!("option \"late_data\" cannot be '{other}'"))
            .with_hint("Use 'drop', 'dlq' (into a table) or 'reopen' (with allowed_lateness).")),
    }
}

/// A fixed time above zero, in microseconds.
pub(super) fn duration(key: &str, text: &str) -> Result<i64> {
    let micros = grammar::interval::parse(text, grammar::interval::Qualifier::default())
        .ok()
        .filter(|i| i.months == 0)
        .and_then(|i| (i64::from(i.days) * 86_400_000_000).checked_add(i.micros))
        .filter(|m| *m > 0);
    micros.ok_or_else(|| {
        Error::invalid(format!("option \"{key}\" must be a time such as '1 minute', not \"{text}\""))
            .with_hint("It is above 0, and without months, which have no fixed length.")
    })
}

impl Session {
    /// The table that takes what a source refuses: the one of that name, or a new one.
    pub(super) fn late_table(
        &mut self,
        create: &CreateSource,
        columns: &[Column],
        options: &[(String, String)],
    ) -> Result<Option<Oid>> {
        let (time, _) = EventTime::split(options)?;
        if time.late != Late::Table {
            return Ok(None);
        }
        let mut target = self.target(&create.name, false)?;
        target.name = time.late_table.unwrap_or_else(|| format!("{}_late", target.name));
        let event_time = create.watermark.as_ref().map(|w| crate::session::fold(&w.column));
        let event_time = columns.iter().find(|c| Some(&c.name) == event_time.as_ref());
        let limit = event_time.map_or(SqlType::Timestamp, |c| c.sql_type.clone());
        let wanted = late_columns(columns, limit)?;
        match self.existing(&target)? {
            Some(table) => {
                check_fits(&table, &wanted)?;
                Ok(Some(table.oid))
            }
            None => Ok(Some(self.add_plain_table(target, wanted)?.oid)),
        }
    }
}

/// The source's columns, then why a row did not count.
fn late_columns(source: &[Column], limit: SqlType) -> Result<Vec<Column>> {
    if let Some(taken) = source.iter().find(|c| LATE_COLUMNS.contains(&c.name.as_str())) {
        return Err(Error::new(
            SqlState::DuplicateColumn,
            format!("column \"{}\" is one that the table of late rows has itself", taken.name),
        )
        .with_hint("Give the source's column another name."));
    }
    let own = LATE_COLUMNS.into_iter().zip([SqlType::Text, limit, SqlType::Interval]);
    let all = source.iter().map(|c| (c.name.as_str(), c.sql_type.clone())).chain(own);
    let column = |(at, (name, sql_type)): (usize, (&str, SqlType))| Column {
        nullable: true,
        ..Column::new(name, sql_type, at as i16 + 1)
    };
    Ok(all.enumerate().map(column).collect())
}

/// A table that a source writes refused rows into stays as it is: a row that it would not take would stop the source.
pub(super) fn refuse_if_late_table(catalog: &Catalog, table: &Object, what: &str) -> Result<()> {
    let writes =
        |object: &Object| matches!(&object.kind, ObjectKind::Source(source) if source.late_table == Some(table.oid));
    match catalog.objects().find(|object| writes(object)) {
        None => Ok(()),
        Some(source) => Err(Error::new(
            SqlState::DependentObjectsStillExist,
            format!("cannot {what} \"{}\": source \"{}\" writes refused rows into it", table.name, source.name),
        )
        .with_hint("Make a view over it, or drop the source first.")),
    }
}

/// A table that is there already must take every row.
fn check_fits(table: &Object, wanted: &[Column]) -> Result<()> {
    let astray = |why: String| {
        Err(Error::new(
            SqlState::DatatypeMismatch,
            format!("\"{}\" cannot take the rows that are refused: {why}", table.name),
        )
        .with_hint("Drop or rename it, or name another one with the option late_table."))
    };
    let ObjectKind::Table(of) = &table.kind else { return astray(format!("it is a {}", table.kind_name())) };
    if of.remote.is_some() || of.load.is_some() || of.primary_key.is_some() || !of.unique.is_empty() {
        return astray("it has a key, a load strategy or a connection".into());
    }
    for column in wanted {
        match of.columns.iter().find(|c| c.name == column.name) {
            Some(found) if found.sql_type == column.sql_type => {}
            Some(found) => return astray(format!("column \"{}\" is of type {}", found.name, found.sql_type)),
            None => return astray(format!("it has no column \"{}\"", column.name)),
        }
    }
    let strict = of.columns.iter().find(|c| !c.nullable);
    strict.map_or(Ok(()), |c| astray(format!("column \"{}\" is NOT NULL", c.name)))
}
