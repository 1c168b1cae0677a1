//! WITH (strategy = ..) of a table.

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::scd2::{OutOfOrder, Scd2};
use super::{Declared, Deletes, Load, Merge, Strategy};
use crate::options::Options;

/// What the table says besides its options.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    pub name: &'a str,
    pub columns: &'a [Declared],
    pub primary_key: Option<&'a [String]>,
    pub unique: &'a [Vec<String>],
}

impl Load {
    /// `None`: the options say nothing of loading. With it comes what the user should be told.
    pub fn parse(options: &[(String, String)], table: Table<'_>) -> Result<Option<(Self, Vec<String>)>> {
        if options.is_empty() {
            return Ok(None);
        }
        let mut options = Options::new(options)?;
        let strategy = options.take("strategy").map(|text| text.to_lowercase());
        let Some(strategy) = strategy else {
            options.take_prefix("");
            return Err(Error::invalid("option \"strategy\" is missing")
                .with_hint("Say how the table is loaded: strategy = 'append', 'truncate', 'merge' or 'scd2'."));
        };
        let mut reading = Reading { options, table, notices: Vec::new() };
        let load = match strategy.as_str() {
            "append" => reading.append()?,
            "truncate" => reading.truncate(),
            "merge" | "scd1" => reading.merge()?,
            "scd2" => reading.scd2()?,
            other => {
                return Err(Error::invalid(format!("there is no strategy \"{other}\""))
                    .with_hint("A table is loaded by 'append', 'truncate', 'merge' (or 'scd1') or 'scd2'."));
            }
        };
        reading.options.finish()?;
        let own = load.own_columns();
        if let Some(own) = own.iter().find(|own| table.columns.iter().any(|c| c.name == own.name)) {
            let message = format!("column \"{}\" of \"{}\" is one that the strategy adds", own.name, table.name);
            return Err(Error::new(SqlState::DuplicateColumn, message)
                .with_hint("Leave it out of the table's columns, or give the strategy's another name in WITH."));
        }
        if let Some((_, twice)) = own.iter().enumerate().find(|(at, c)| own[..*at].iter().any(|o| o.name == c.name)) {
            let message = format!("two columns of the strategy are called \"{}\"", twice.name);
            return Err(Error::new(SqlState::DuplicateColumn, message));
        }
        Ok(Some((load, reading.notices)))
    }
}

/// The column of `latest by column`.
pub fn latest_by(text: &str) -> Option<&str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [latest, by, column] if latest.eq_ignore_ascii_case("latest") && by.eq_ignore_ascii_case("by") => Some(column),
        _ => None,
    }
}

struct Reading<'a> {
    options: Options,
    table: Table<'a>,
    notices: Vec<String>,
}

impl Reading<'_> {
    fn append(&mut self) -> Result<Load> {
        let loaded_at = self.optional_column("loaded_at", "_loaded_at")?;
        let batch_id = self.optional_column("batch_id", "_batch_id")?;
        Ok(self.load(Strategy::Append { loaded_at, batch_id }, Vec::new()))
    }

    fn truncate(&mut self) -> Load {
        self.load(Strategy::Truncate, Vec::new())
    }

    fn merge(&mut self) -> Result<Load> {
        let keys = self.keys()?;
        let deletes = self.deletes()?;
        let latest_by = self.latest_by()?;
        let update_columns = match self.columns("update_columns")? {
            Some(columns) => columns,
            None => self.all_but(&keys),
        };
        if let Some(key) = update_columns.iter().find(|c| keys.contains(c)) {
            return Err(Error::invalid(format!("update_columns has \"{key}\", which is a key")));
        }
        let flag = self.name("is_deleted", "is_deleted")?;
        let is_deleted = (deletes == Deletes::Soft).then_some(flag);
        let strategy = Strategy::Merge(Merge { update_columns, is_deleted });
        Ok(Load { deletes, latest_by, ..self.load(strategy, keys) })
    }

    fn scd2(&mut self) -> Result<Load> {
        let keys = self.keys()?;
        let deletes = self.deletes()?;
        let latest_by = self.latest_by()?;
        let event_time = self.options.take("event_time");
        if let Some(name) = &event_time {
            let column = self.find("event_time", name)?;
            if column.sql_type != SqlType::TimestampTz {
                return Err(Error::new(
                    SqlState::DatatypeMismatch,
                    format!("event_time \"{name}\" is of type {}, not timestamp with time zone", column.sql_type),
                )
                .with_hint("Declare the column TIMESTAMPTZ."));
            }
            if keys.contains(name) {
                return Err(Error::invalid(format!("event_time \"{name}\" is a key")));
            }
        }
        let out_of_order = match self.options.take("out_of_order").map(|text| text.to_lowercase()).as_deref() {
            None | Some("error") => OutOfOrder::Refuse,
            Some("splice") if event_time.is_some() => OutOfOrder::Splice,
            Some("splice") => return Err(Error::invalid("out_of_order = 'splice' needs event_time")),
            Some(other) => {
                return Err(Error::invalid(format!(
                    "option \"out_of_order\" must be error or splice, not \"{other}\""
                )));
            }
        };
        let compare = match self.columns("compare_columns")? {
            Some(columns) => columns,
            None => self.all_but(&keys).into_iter().filter(|c| Some(c) != event_time.as_ref()).collect(),
        };
        if let Some(key) = compare.iter().find(|c| keys.contains(c) || Some(*c) == event_time.as_ref()) {
            return Err(Error::invalid(format!("compare_columns has \"{key}\", which is a key or the event time")));
        }
        let strategy = Strategy::Scd2(Scd2 {
            valid_from: self.name("valid_from", "valid_from")?,
            valid_to: self.name("valid_to", "valid_to")?,
            is_current: self.name("is_current", "is_current")?,
            row_hash: self.name("row_hash", "row_hash")?,
            compare,
            event_time,
            out_of_order,
            ttl: self.options.take("ttl"),
        });
        Ok(Load { deletes, latest_by, ..self.load(strategy, keys) })
    }

    fn load(&self, strategy: Strategy, keys: Vec<String>) -> Load {
        Load { strategy, columns: self.table.columns.to_vec(), keys, deletes: Deletes::Ignore, latest_by: None }
    }

    /// `keys =`, else a UNIQUE constraint, else the primary key.
    fn keys(&mut self) -> Result<Vec<String>> {
        let primary = self.table.primary_key.map(<[String]>::to_vec);
        let declared = self.table.unique.first().cloned().or_else(|| primary.clone());
        let given = self.columns("keys")?;
        let keys = given.clone().or_else(|| declared.clone()).ok_or_else(|| {
            Error::new(SqlState::InvalidTableDefinition, format!("table \"{}\" has no key to load by", self.table.name))
                .with_hint("Declare a PRIMARY KEY, or say keys = 'column, ..' in WITH.")
        })?;
        let same = |other: &Vec<String>| other.len() == keys.len() && other.iter().all(|key| keys.contains(key));
        if let Some(other) = declared.iter().chain(&primary).find(|other| !same(other)) {
            self.notices.push(format!(
                "table \"{}\" is loaded by ({}), not by its key ({})",
                self.table.name,
                keys.join(", "),
                other.join(", ")
            ));
        }
        if keys.is_empty() {
            return Err(Error::invalid("option \"keys\" names no column"));
        }
        Ok(keys)
    }

    fn deletes(&mut self) -> Result<Deletes> {
        Ok(match self.options.take("deletes").map(|text| text.to_lowercase()).as_deref() {
            None | Some("ignore") => Deletes::Ignore,
            Some("soft") => Deletes::Soft,
            Some("hard") => Deletes::Hard,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "option \"deletes\" must be ignore, soft or hard, not \"{other}\""
                )));
            }
        })
    }

    /// `dedupe = 'latest by column'`.
    fn latest_by(&mut self) -> Result<Option<String>> {
        let Some(text) = self.options.take("dedupe") else { return Ok(None) };
        let Some(column) = latest_by(&text) else {
            return Err(Error::invalid(format!("option \"dedupe\" must be 'latest by column', not \"{text}\"")));
        };
        Ok(Some(self.find("dedupe", column)?.name.clone()))
    }

    /// A list of columns; each is one of the table's, and named once.
    fn columns(&mut self, option: &'static str) -> Result<Option<Vec<String>>> {
        let Some(text) = self.options.take(option) else { return Ok(None) };
        let mut columns: Vec<String> = Vec::new();
        for name in names(&text) {
            let column = self.find(option, &name)?.name.clone();
            if columns.contains(&column) {
                return Err(Error::invalid(format!("option \"{option}\" names \"{column}\" twice")));
            }
            columns.push(column);
        }
        Ok(Some(columns))
    }

    fn find(&self, option: &str, name: &str) -> Result<&Declared> {
        self.table.columns.iter().find(|c| c.name == name).ok_or_else(|| {
            let message =
                format!("option \"{option}\" names column \"{name}\", which \"{}\" does not have", self.table.name);
            let error = Error::new(SqlState::UndefinedColumn, message);
            match tidemark_common::nearest(name, self.table.columns.iter().map(|c| c.name.as_str())) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => error,
            }
        })
    }

    fn all_but(&self, keys: &[String]) -> Vec<String> {
        self.table.columns.iter().map(|c| c.name.clone()).filter(|name| !keys.contains(name)).collect()
    }

    fn name(&mut self, option: &'static str, default: &str) -> Result<String> {
        match self.options.take(option) {
            Some(name) => check_name(option, name),
            None => Ok(default.to_string()),
        }
    }

    /// `true`, or a name.
    fn optional_column(&mut self, option: &'static str, default: &str) -> Result<Option<String>> {
        Ok(match self.options.take(option) {
            None => None,
            Some(text) => match text.to_lowercase().as_str() {
                "true" | "on" => Some(default.to_string()),
                "false" | "off" => None,
                _ => Some(check_name(option, text)?),
            },
        })
    }
}

/// What a column can be called that the strategy adds.
fn check_name(option: &str, name: String) -> Result<String> {
    const LONGEST: usize = 63;
    let starts = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if !starts || name.len() > LONGEST || name.eq_ignore_ascii_case("null") {
        let message = format!("option \"{option}\" must be the name of a column, not \"{name}\"");
        return Err(Error::invalid(message)
            .with_hint(format!("It begins with a letter or an underscore, and has at most {LONGEST} bytes.")));
    }
    Ok(name)
}

/// Names between commas; those in double quotes may have commas of their own.
fn names(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let name = names.last_mut().expect("there is always one");
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(String::new()),
            c if c.is_whitespace() && !quoted && name.is_empty() => {}
            c => name.push(c),
        }
    }
    names.iter().map(|name| name.trim_end().to_string()).filter(|name| !name.is_empty()).collect()
}
