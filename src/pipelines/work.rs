//! What a run loads: the pipeline's query, narrowed to the rows that are wanted, for each of its targets.
//!
//! ```text
//!   query ─▶ filter ─▶ watermark < incremental_column <= the greatest there is ─▶ sample ─▶ dedupe ─▶ limit ─▶ the target's columns
//! ```
//!
//! The upper bound is asked for first, so that what comes meanwhile is not half in this run: it is the next one's.

use std::sync::Arc;

use tidemark_catalog::{Catalog, Column, Object, ObjectKind, Pipeline, quote_ident};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_connectors::load::{Deletes, Strategy};

use super::history::{self, Watermark};
use super::options::{Dedupe, OnDrift, PipelineOptions};
use crate::coordinator::loads::load_of;
use crate::pg_catalog::present_query;
use crate::session::Session;

/// A pipeline with its options read.
#[derive(Debug, Clone)]
pub struct Definition {
    pub object: Arc<Object>,
    pub pipeline: Pipeline,
    pub options: PipelineOptions,
}

/// One run's work.
#[derive(Debug, Clone)]
pub struct Work {
    pub targets: Vec<TargetWork>,
    pub before: Option<Watermark>,
    /// `None`: there is no incremental column, or not a row to load.
    pub after: Option<Watermark>,
    /// There is an incremental column, and nothing beyond the watermark.
    pub nothing_new: bool,
}

#[derive(Debug, Clone)]
pub struct TargetWork {
    pub object: Arc<Object>,
    /// Those of the target that the query's columns are for, in the query's order.
    pub columns: Vec<String>,
    pub query: String,
    /// Columns of the query that the target has not.
    pub additional: Vec<(String, SqlType)>,
}

impl Definition {
    pub fn of(catalog: &Catalog, oid: Oid) -> Result<Self> {
        let object = catalog.get(oid).cloned();
        let Some((object, ObjectKind::Pipeline(pipeline))) = object.map(|o| (o.clone(), o.kind.clone())) else {
            return Err(Error::new(SqlState::UndefinedObject, "the pipeline was dropped"));
        };
        let options = PipelineOptions::of(&pipeline)?;
        Ok(Self { object, pipeline, options })
    }

    /// How far earlier runs have come, if that is where this one goes on.
    pub async fn watermark(&self, session: &mut Session, full_refresh: bool) -> Result<Option<Watermark>> {
        match &self.options.incremental_column {
            // That of a column that was the incremental one before says nothing of this one.
            Some(column) if !full_refresh => {
                Ok(history::watermark(session, self.object.oid).await?.filter(|mark| mark.column == *column))
            }
            _ => Ok(None),
        }
    }

    /// What a run is to do, in the session's transaction. `before`: how far the last one came; `until`: how far an earlier attempt
    /// of this one has come.
    pub async fn work(&self, session: &mut Session, before: Option<Watermark>, until: Option<String>) -> Result<Work> {
        session.set_search_path(&self.pipeline.search_path)?;
        let catalog = session.catalog()?;
        let query = present_query(&catalog, &self.object);
        let columns = session.query_columns(&query).await?;
        let mut conditions: Vec<String> = self.options.filter.iter().map(|filter| format!("({filter})")).collect();
        let mut after = None;
        if let Some(column) = &self.options.incremental_column {
            let bounds = (before.as_ref(), until);
            after = self.upper_bound(session, &query, &columns, column, &mut conditions, bounds).await?;
        }
        if let Some(sample) = self.options.sample {
            conditions.push(format!("random() < {sample}"));
        }
        let mut targets = Vec::new();
        for oid in &self.pipeline.targets {
            let object = catalog.expect(*oid)?.clone();
            targets.push(self.target(object, &query, &columns, &conditions)?);
        }
        let nothing_new = self.options.incremental_column.is_some() && after.is_none();
        Ok(Work { targets, before, after, nothing_new })
    }

    /// Whether the query, the options and the targets go together, without a look at any row.
    pub async fn check(&self, session: &mut Session) -> Result<()> {
        let catalog = session.catalog()?;
        let query = present_query(&catalog, &self.object);
        let columns = session.query_columns(&query).await?;
        if let Some(column) = &self.options.incremental_column {
            type_of(&columns, column, "incremental_column")?;
        }
        let filter: Vec<String> = self.options.filter.iter().map(|filter| format!("({filter})")).collect();
        for oid in &self.pipeline.targets {
            let target = self.target(catalog.expect(*oid)?.clone(), &query, &columns, &filter)?;
            session.query_columns(&target.query).await?;
        }
        Ok(())
    }

    /// The greatest value beyond the watermark, and the conditions that say so.
    async fn upper_bound(
        &self,
        session: &mut Session,
        query: &str,
        columns: &[(String, SqlType)],
        column: &str,
        conditions: &mut Vec<String>,
        (before, until): (Option<&Watermark>, Option<String>),
    ) -> Result<Option<Watermark>> {
        let sql_type = type_of(columns, column, "incremental_column")?;
        let name = quote_ident(column);
        if let Some(before) = before {
            conditions.push(format!("{name} > {}", before.literal()));
        }
        let greatest = match until {
            Some(until) => Some(until),
            None => {
                let text = format!("SELECT max({name})::text FROM ({query}) AS input{}", where_clause(conditions));
                session.text_rows(&text).await?.into_iter().next().and_then(|row| row[0].clone())
            }
        };
        let Some(value) = greatest else { return Ok(None) };
        let after = Watermark { column: column.to_string(), sql_type: sql_type.to_string(), value };
        conditions.push(format!("{name} <= {}", after.literal()));
        Ok(Some(after))
    }

    fn target(
        &self,
        object: Arc<Object>,
        query: &str,
        columns: &[(String, SqlType)],
        conditions: &[String],
    ) -> Result<TargetWork> {
        let load = load_of(&object)?;
        let wanted: Vec<String> = match &load {
            Some(load) => load.columns.iter().map(|column| column.name.clone()).collect(),
            None => object.columns().iter().map(|column| column.name.clone()).collect(),
        };
        let is_wanted = |name: &String| wanted.contains(name);
        let additional: Vec<(String, SqlType)> = columns.iter().filter(|(name, _)| !is_wanted(name)).cloned().collect();
        let lacking: Vec<&String> = wanted
            .iter()
            .filter(|name| !columns.iter().any(|(column, _)| column == *name))
            .filter(|name| {
                let derived = |c: &Column| c.normalize.as_ref().is_some_and(|normalize| normalize.derived().is_some());
                let filled = |c: &Column| c.default.is_some() || c.identity.is_some() || derived(c);
                object.columns().iter().any(|c| c.name == **name && !filled(c))
            })
            .collect();
        let taken: Vec<String> = match self.options.on_drift {
            OnDrift::Evolve => columns.iter().map(|(name, _)| name.clone()).collect(),
            _ => columns.iter().map(|(name, _)| name.clone()).filter(is_wanted).collect(),
        };
        if self.options.on_drift == OnDrift::Error && !(additional.is_empty() && lacking.is_empty()) {
            return Err(drift(&object, &additional, &lacking));
        }
        let keys = load.as_ref().map(|load| load.keys.clone()).unwrap_or_default();
        if let Some(key) = keys.iter().find(|key| lacking.contains(key)) {
            return Err(Error::new(
                SqlState::UndefinedColumn,
                format!("the query has no column \"{key}\", by which \"{}\" is loaded", object.name),
            ));
        }
        if let Some(Dedupe::LatestBy(column)) = &self.options.dedupe {
            type_of(columns, column, "dedupe")?;
            if keys.is_empty() {
                return Err(Error::invalid(format!(
                    "dedupe = 'latest by {column}' needs keys, which \"{}\" is not loaded by",
                    object.name
                ))
                .with_hint("Write dedupe = 'distinct', or DISTINCT ON in the query."));
            }
        }
        let replaces = load.as_ref().is_some_and(|load| load.strategy == Strategy::Truncate);
        if replaces && self.options.incremental_column.is_some() {
            return Err(Error::invalid(format!(
                "incremental_column does not go with strategy truncate of \"{}\"",
                object.name
            ))
            .with_hint("Only the rows of the last run would be left: use append or merge."));
        }
        let deletes = load.as_ref().is_some_and(|load| load.deletes != Deletes::Ignore);
        if deletes && self.options.incremental_column.is_some() {
            return Err(Error::invalid(format!("incremental_column does not go with deletes of \"{}\"", object.name))
                .with_hint(
                    "A run sees only what is new, and would take all the rest for deleted. Leave one of the two out.",
                ));
        }
        if deletes && let Some(option) = self.options.leaving_out() {
            return Err(Error::invalid(format!("{option} does not go with deletes of \"{}\"", object.name))
                .with_hint("The table takes what does not come for deleted, and so what is left out."));
        }
        if self.options.on_drift == OnDrift::Evolve && !additional.is_empty() && object.remote().is_some() {
            let columns: Vec<&str> = additional.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!(
                "the pipeline cannot add columns to \"{}\", which is kept in another system: {}",
                object.name,
                columns.join(", ")
            );
            return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message).with_hint(
                "DROP TABLE here, which leaves it alone there, and CREATE TABLE with them and on_drift = 'evolve'.",
            ));
        }
        let text = self.text(query, &taken, conditions, &keys);
        let additional = if self.options.on_drift == OnDrift::Evolve { additional } else { Vec::new() };
        Ok(TargetWork { object, columns: taken, query: text, additional })
    }

    /// The query of a load; as it was written, if there is nothing to add.
    fn text(&self, query: &str, columns: &[String], conditions: &[String], keys: &[String]) -> String {
        let list = |names: &[String]| names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ");
        let PipelineOptions { dedupe, limit, on_drift, .. } = &self.options;
        if conditions.is_empty() && dedupe.is_none() && limit.is_none() && *on_drift != OnDrift::Ignore {
            return query.to_string();
        }
        let distinct = if *dedupe == Some(Dedupe::Distinct) { "DISTINCT " } else { "" };
        let columns = list(columns);
        let from = match dedupe {
            Some(Dedupe::LatestBy(latest)) => format!(
                "(SELECT *, row_number() OVER (PARTITION BY {} ORDER BY {} DESC NULLS LAST) AS tidemark_rank \
                 FROM ({query}) AS input{}) AS ranked WHERE tidemark_rank = 1",
                list(keys),
                quote_ident(latest),
                where_clause(conditions)
            ),
            _ => format!("({query}) AS input{}", where_clause(conditions)),
        };
        let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        format!("SELECT {distinct}{columns} FROM {from}{limit}")
    }
}

fn where_clause(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

fn type_of(columns: &[(String, SqlType)], column: &str, option: &str) -> Result<SqlType> {
    if let Some((_, sql_type)) = columns.iter().find(|(name, _)| name == column) {
        return Ok(sql_type.clone());
    }
    let message = format!("option \"{option}\" names column \"{column}\", which the query does not have");
    let error = Error::new(SqlState::UndefinedColumn, message);
    Err(match tidemark_common::nearest(column, columns.iter().map(|(name, _)| name.as_str())) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error,
    })
}

/// The query's columns and the target's, where they differ.
fn drift(object: &Object, additional: &[(String, SqlType)], lacking: &[&String]) -> Error {
    let more = additional.iter().map(|(name, sql_type)| format!("+ {name} {sql_type}: in the query only"));
    let less = lacking.iter().map(|name| format!("- {name}: in the table only"));
    let detail: Vec<String> = more.chain(less).collect();
    Error::new(SqlState::DatatypeMismatch, format!("the query's columns are not those of \"{}\"", object.name))
        .with_detail(detail.join("\n"))
        .with_hint("Change the query, or set on_drift = 'ignore' (load what both have) or 'evolve' (add columns to the table).")
}
