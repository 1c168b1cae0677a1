//! A table over there as it is declared here: made if it is missing, compared if it is there.
//!
//! ```text
//!   declared ──┬── not there: CREATE SCHEMA, TABLE, INDEX ──────────────────────────────────────────┐
//!              └── there ──▶ drift.rs: what differs ──on_drift──▶ refused, or ALTER TABLE, or nothing ┴─▶ one transaction
//! ```

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::client::Client;
use super::drift::{Live, LiveColumn, OnDrift, settle_drift};
use super::error;
use super::filter::{identifier, literal};
use super::reading::SETTINGS;
use crate::load::{Load, Strategy};

/// A table as it is declared.
#[derive(Debug, Clone)]
pub struct TargetTable {
    /// As it is called here.
    pub name: String,
    pub schema: String,
    pub table: String,
    /// Those of the strategy among them.
    pub columns: Vec<TargetColumn>,
    /// The primary key first, if there is one, then what else is unique.
    pub keys: Vec<Vec<String>>,
    pub has_primary_key: bool,
    /// What the strategy looks up by, besides keys: columns, and a condition.
    pub indexes: Vec<(Vec<String>, Option<String>)>,
}

#[derive(Debug, Clone)]
pub struct TargetColumn {
    pub name: String,
    pub sql_type: SqlType,
    pub nullable: bool,
}

/// What was done to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// In words.
    pub change: String,
    pub sql: String,
}

impl TargetColumn {
    pub(super) fn definition(&self) -> String {
        let not_null = if self.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", identifier(&self.name), self.sql_type)
    }
}

/// The indexes that a strategy wants besides the table's keys.
pub fn indexes_for(load: &Load, keys: &[Vec<String>]) -> Vec<(Vec<String>, Option<String>)> {
    match &load.strategy {
        Strategy::Scd2(scd2) => vec![(load.keys.clone(), Some(identifier(&scd2.is_current)))],
        Strategy::Merge(_) if !keys.iter().any(|key| key.starts_with(&load.keys)) => vec![(load.keys.clone(), None)],
        Strategy::Merge(_) | Strategy::Append { .. } | Strategy::Truncate => Vec::new(),
    }
}

impl TargetTable {
    /// In quotes.
    pub fn qualified(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }

    /// Makes the table over there as it is declared, as far as `on_drift` lets it; what it has done. `dry`: in a transaction that is
    /// left open, to be rolled back.
    pub async fn settle(&self, client: &Client, on_drift: OnDrift, dry: bool) -> Result<Vec<SchemaChange>> {
        client.run(&format!("{SETTINGS}; BEGIN")).await?;
        // Two that find it missing would both create it.
        let lock = literal(&format!("tidemark ddl {}", self.qualified()));
        client.execute(&format!("SELECT pg_advisory_xact_lock(hashtextextended({lock}, 0))")).await?;
        let changes = match self.live(client).await? {
            None => self.creation(client).await?,
            Some(live) => settle_drift(self, &live, on_drift)?,
        };
        for change in &changes {
            client.execute(&change.sql).await?;
        }
        if !dry {
            client.run("COMMIT").await?;
        }
        Ok(changes)
    }

    async fn creation(&self, client: &Client) -> Result<Vec<SchemaChange>> {
        let mut changes = Vec::new();
        let change = |change: String, sql: String| SchemaChange { change, sql };
        let name = literal(&self.schema);
        let there = client.texts(&format!("SELECT 1 FROM pg_namespace WHERE nspname = {name}")).await?;
        if there.is_empty() {
            let schema = identifier(&self.schema);
            changes.push(change(format!("schema {schema} created"), format!("CREATE SCHEMA {schema}")));
        }
        let columns = |names: &[String]| names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
        let mut lines: Vec<String> = self.columns.iter().map(TargetColumn::definition).collect();
        for (at, key) in self.keys.iter().enumerate() {
            let kind = if at == 0 && self.has_primary_key { "PRIMARY KEY" } else { "UNIQUE" };
            lines.push(format!("{kind} ({})", columns(key)));
        }
        let table = self.qualified();
        changes.push(change(format!("table {table} created"), format!("CREATE TABLE {table} ({})", lines.join(", "))));
        for (names, condition) in &self.indexes {
            let only = condition.as_ref().map_or(String::new(), |condition| format!(" WHERE {condition}"));
            let sql = format!("CREATE INDEX ON {table} ({}){only}", columns(names));
            changes.push(change(format!("index on {table} created"), sql));
        }
        Ok(changes)
    }

    async fn live(&self, client: &Client) -> Result<Option<Live>> {
        let failed = |e| error::remote(&client.name, &e, None);
        let found = client.postgres.query_opt(RELATION, &[&self.schema, &self.table]).await.map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        let (oid, is_table): (u32, bool) = (found.get(0), found.get(1));
        if !is_table {
            let message = format!("connection \"{}\": {} is not a table", client.name, self.qualified());
            return Err(Error::new(SqlState::WrongObjectType, message)
                .with_hint("Name a table, or one that is not there yet: it is created."));
        }
        let columns = client.postgres.query(COLUMNS, &[&oid]).await.map_err(failed)?;
        let column = |row: &tokio_postgres::Row| LiveColumn {
            name: row.get(0),
            sql_type: row.get(1),
            not_null: row.get(2),
            filled: row.get(3),
        };
        let keys = client.postgres.query(KEYS, &[&oid]).await.map_err(failed)?;
        Ok(Some(Live {
            columns: columns.iter().map(column).collect(),
            keys: keys.iter().map(|row| row.get(0)).collect(),
        }))
    }
}

const RELATION: &str = "
SELECT c.oid, c.relkind IN ('r', 'p') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1::text AND c.relname = $2::text";

const COLUMNS: &str = "
SELECT attname::text, format_type(atttypid, atttypmod), attnotnull,
    atthasdef OR attidentity <> '' OR attgenerated <> ''
FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// Of indexes that hold for all rows.
const KEYS: &str = "
SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
    FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.place <= i.indnkeyatts)
FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL";
