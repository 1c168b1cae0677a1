//! Row messages of the table as puts and deletes by the source's key.
//!
//! ```text
//!   Insert 12, a                                  Put 12, a
//!   Update 12, b                                  Put 12, b
//!   Update 12, (unchanged, kept out of line)      Put 12, ·         kept: note
//!   Update 12 ─▶ 13, b                            Delete 12, Put 13, b
//!   Delete 13                                     Delete 13
//!   Truncate                                      Truncate
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::options::CdcOptions;
use super::pgoutput::{Message, Old, Relation, Tuple, Value};
use super::raw::malformed;
use super::rows::Rows;
use super::shape::{Shape, check_identity, undeclared};
use super::table::{Column, Identity, Table, types};

pub struct Changes {
    options: Arc<CdcOptions>,
    table: u32,
    /// Columns that the source does not have.
    unknown: BTreeSet<String>,
    /// As the last Relation message had it.
    shape: Option<Shape>,
}

impl Changes {
    pub fn new(options: Arc<CdcOptions>, table: &Table) -> Self {
        Self { options, table: table.oid, unknown: BTreeSet::new(), shape: None }
    }

    /// What the table's rows look like from now on; names of columns that the source does not have, each once.
    pub async fn relation(&mut self, relation: &Relation<'_>) -> Result<Vec<String>> {
        let place = &self.options.place;
        let is_named = (relation.schema, relation.name) == (place.schema.as_str(), place.table.as_str());
        match (relation.oid == self.table, is_named) {
            (true, true) => {}
            (false, false) => return Ok(Vec::new()),
            (true, false) => {
                let now = format!("{}.{}", relation.schema, relation.name);
                return Err(gone(&self.options, &format!("is now called \"{now}\"")));
            }
            (false, true) => return Err(gone(&self.options, "has been made anew")),
        }
        let column = |c: &super::pgoutput::RelationColumn<'_>| Column {
            name: c.name.to_string(),
            type_oid: c.type_oid,
            typmod: c.typmod,
            dimensions: 0,
            is_generated: false,
        };
        let columns: Vec<Column> = relation.columns.iter().map(column).collect();
        let client = place.connect().await?;
        let types = types(&client, &columns, &SqlType::Numeric(None)).await?;
        let named: Vec<(&str, &SqlType)> = relation.columns.iter().map(|c| c.name).zip(&types).collect();
        self.shape = Some(Shape::of(&self.options, &named, false)?);
        let keys = relation.columns.iter().filter(|c| c.is_key).map(|c| c.name.to_string());
        let identity = if relation.identity == b'f' { Identity::Full } else { Identity::Columns(keys.collect()) };
        check_identity(&self.options, &identity)?;
        let all = undeclared(&self.options, named.into_iter())?;
        Ok(all.into_iter().filter(|name| self.unknown.insert(name.clone())).collect())
    }

    /// How many rows a message makes. None: it is about another table.
    pub fn rows(&self, message: &Message<'_>) -> usize {
        match message {
            Message::Insert { relation, .. } | Message::Delete { relation, .. } => usize::from(*relation == self.table),
            Message::Update { relation, old: Some(old), new } if *relation == self.table => {
                1 + usize::from(self.moves(old, new))
            }
            Message::Update { relation, .. } => usize::from(*relation == self.table),
            Message::Truncate { relations } => usize::from(relations.contains(&self.table)),
            _ => 0,
        }
    }

    /// Those that [`Self::rows`] has counted.
    pub fn add(&self, message: &Message<'_>, rows: &mut Rows) -> Result<()> {
        let added = match message {
            Message::Insert { new, .. } => self.put(None, new, rows),
            Message::Update { old, new, .. } => match old {
                Some(old) if self.moves(old, new) => {
                    self.delete(old, rows).and_then(|()| self.put(Some(old), new, rows))
                }
                old => self.put(old.as_ref(), new, rows),
            },
            Message::Delete { old, .. } => self.delete(old, rows),
            Message::Truncate { .. } => rows.truncate(),
            _ => Err(Error::internal("a message without rows has been counted")),
        };
        added.map_err(|e| e.context(format_args!("table \"{}\"", self.options.place.label())))
    }

    /// True if the row has another key now.
    fn moves(&self, old: &Old<'_>, new: &Tuple<'_>) -> bool {
        let Some(shape) = &self.shape else { return false };
        let differs = |at: &usize| {
            let Some(place) = shape.places[*at] else { return false };
            let (was, is) = (old.values.get(place), new.get(place));
            is != Some(&Value::Unchanged) && was != is
        };
        self.options.key.iter().any(differs)
    }

    fn put(&self, old: Option<&Old<'_>>, new: &Tuple<'_>, rows: &mut Rows) -> Result<()> {
        let shape = self.shape(new)?;
        let is_key = |at: usize| self.options.key.contains(&at);
        let value = |at: usize| {
            let Some(place) = shape.places[at] else { return Value::Null };
            match (new[place], old) {
                (Value::Unchanged, Some(old)) if old.is_whole || is_key(at) => {
                    old.values.get(place).copied().unwrap_or(Value::Unchanged)
                }
                (value, _) => value,
            }
        };
        if self.options.key.iter().any(|at| value(*at) == Value::Unchanged) {
            return Err(Error::new(
                SqlState::DataCorrupted,
                "the server does not tell the key of a row that was updated",
            )
            .with_hint("Update that server, or ALTER TABLE .. REPLICA IDENTITY FULL over there."));
        }
        rows.put(value)
    }

    fn delete(&self, old: &Old<'_>, rows: &mut Rows) -> Result<()> {
        let shape = self.shape(&old.values)?;
        rows.delete(|at| match shape.places[at].filter(|_| self.options.key.contains(&at)) {
            Some(place) => old.values[place],
            None => Value::Null,
        })
    }

    fn shape(&self, tuple: &Tuple<'_>) -> Result<&Shape> {
        let shape = self.shape.as_ref().ok_or_else(|| malformed("a row comes before its table's columns"))?;
        match tuple.len() == shape.width {
            true => Ok(shape),
            false => Err(malformed(format_args!("a row of {} columns, not {}", tuple.len(), shape.width))),
        }
    }
}

fn gone(options: &CdcOptions, what: &str) -> Error {
    Error::new(SqlState::UndefinedTable, format!("table \"{}\" {what}", options.place.label()))
        .with_hint("Make the source anew: it copies the table again.")
}
