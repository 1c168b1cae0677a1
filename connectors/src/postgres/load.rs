//! A load into a table over there: its rows into a staging table, then the strategy's SQL, in one transaction with the run's row.
//!
//! ```text
//!   BEGIN ─▶ tidemark_input ◀── COPY .. FROM STDIN BINARY, batch by batch
//!                │         ◀── or INSERT .. SELECT, where the rows are in the same database
//!                │ no NULL in a key, no key twice
//!                ▼
//!            LOCK TABLE, which readers do not notice ─▶ script ─▶ tidemark.progress ─▶ COMMIT
//! ```
//!
//! Whatever ends it before COMMIT, an error, a cancel, a crash on either side, leaves nothing. Readers over there see the table as
//! it was until then: rows are deleted, not truncated, since TRUNCATE would show old snapshots an empty table.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use futures::SinkExt;
use tidemark_common::{Error, Result, SqlState};
use tokio_postgres::CopyInSink;

use super::client::Client;
use super::ddl::TargetTable;
use super::encode::Encoder;
use super::filter::{identifier, literal};
use super::options::PostgresOptions;
use super::reading::SETTINGS;
use super::within::Within;
use super::{error, progress};
use crate::fail_point;
use crate::load::{Action, CHANGES, Counts, Declared, INPUT, Load, LoadRun, SCOPE, Script, Strategy, Target};

/// Rows from which on it is worth while to tell the server's planner how many there are.
const MANY: u64 = 1000;

/// What is to be loaded, and how.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub table: TargetTable,
    pub load: Load,
    /// For append, where it has a column for it: a UUID.
    pub batch_id: String,
    pub run: Option<LoadRun>,
}

/// What became of the wish to load.
pub enum Begun {
    Loading(Box<Loading>),
    /// The run has been.
    Done(Counts),
}

/// A load under way.
pub struct Loading {
    client: Client,
    plan: LoadPlan,
    /// All columns of the table.
    columns: Vec<String>,
    copy: Option<Pin<Box<CopyInSink<Bytes>>>>,
    encoder: Encoder,
    rows: u64,
    /// It is about the keys that come, or are in `tidemark_scope`, and about no others.
    confined: bool,
}

impl Loading {
    /// Begins a transaction, with a staging table for the columns that the load gives.
    pub async fn begin(client: Client, plan: LoadPlan) -> Result<Begun> {
        client.run(SETTINGS).await?;
        if plan.run.as_ref().is_some_and(|run| !run.dry) {
            progress::prepare(&client).await?;
        }
        // One that tries is in a transaction already, with the table as it would be.
        if plan.run.as_ref().is_none_or(|run| !run.dry) {
            client.run("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        }
        if let Some(run) = plan.run.as_ref().filter(|run| !run.dry)
            && let Some(counts) = progress::begin(&client, run).await?
        {
            return Ok(Begun::Done(counts));
        }
        let columns = plan.table.columns.iter().map(|column| column.name.clone()).collect();
        let loading =
            Loading { client, plan, columns, copy: None, encoder: Encoder::default(), rows: 0, confined: false };
        let name = loading.plan.table.qualified();
        loading.client.run(&loading.plan.load.input_table(&loading.target(&name, ""))).await?;
        fail_point("load.staged");
        Ok(Begun::Loading(Box::new(loading)))
    }

    /// Of changes: the keys of rows that go, before any row comes. Of all other keys nothing is known, and nothing becomes of them.
    pub async fn confine(&mut self, keys: &[RecordBatch]) -> Result<()> {
        self.confined = true;
        let name = self.plan.table.qualified();
        self.client.run(&self.plan.load.scope_table(&self.target(&name, ""))).await?;
        let names: Vec<String> = self.plan.load.keys.iter().map(|key| identifier(key)).collect();
        let sql = format!("COPY {SCOPE} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
        let failed = |e: tokio_postgres::Error| error::remote(&self.client.name, &e, Some(&sql));
        let mut copy = Box::pin(self.client.postgres.copy_in::<_, Bytes>(&sql).await.map_err(failed)?);
        let mut encoder = Encoder::default();
        for batch in keys.iter().filter(|batch| batch.num_rows() > 0) {
            for message in encoder.encode(batch)? {
                copy.send(message).await.map_err(failed)?;
            }
        }
        copy.send(encoder.finish()).await.map_err(failed)?;
        copy.as_mut().finish().await.map_err(failed).map(drop)
    }

    /// The keys that [`confine`](Self::confine) takes, as they are declared.
    pub fn key_columns(&self) -> Vec<Declared> {
        self.plan.load.key_columns().cloned().collect()
    }

    fn target<'a>(&'a self, name: &'a str, now: &'a str) -> Target<'a> {
        Target { name, columns: &self.columns, now }
    }

    /// The time of the load, as a literal: of the clock over there, which is the same for all who load the table, and read when it
    /// is this one's turn, so that it is after all loads before.
    async fn now(&self) -> Result<String> {
        let rows = self.client.texts("SELECT clock_timestamp()").await?;
        let now = rows.into_iter().flatten().next().flatten();
        let now = now.ok_or_else(|| Error::new(SqlState::ProtocolViolation, "the other server has no clock"))?;
        Ok(format!("TIMESTAMPTZ {}", literal(&now)))
    }

    pub fn options(&self) -> &PostgresOptions {
        &self.client.options
    }

    pub fn connection(&self) -> &Arc<str> {
        &self.client.name
    }

    /// Takes rows: the columns that the load gives, in their order. Waits while the server is busy with earlier ones.
    pub async fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        for message in self.encoder.encode(batch)? {
            self.send(message).await?;
        }
        self.rows += batch.num_rows() as u64;
        fail_point("load.copying");
        Ok(())
    }

    async fn send(&mut self, message: Bytes) -> Result<()> {
        let copy = match &mut self.copy {
            Some(copy) => copy,
            None => {
                let names: Vec<String> = self.plan.load.columns.iter().map(|column| identifier(&column.name)).collect();
                let sql = format!("COPY {INPUT} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
                let copy = self.client.postgres.copy_in(&sql).await;
                let copy = copy.map_err(|e| error::remote(&self.client.name, &e, Some(&sql)))?;
                self.copy.insert(Box::pin(copy))
            }
        };
        let Err(sent) = copy.send(message).await else { return Ok(()) };
        // Why it takes no more stands behind what it has taken.
        let said = match copy.as_mut().finish().await {
            Err(said) if said.as_db_error().is_some() => said,
            _ => sent,
        };
        Err(error::remote(&self.client.name, &said, None))
    }

    /// Rows that are in this database already.
    pub async fn insert(&mut self, within: &Within) -> Result<()> {
        if let Some(stage) = within.stage() {
            self.client.run(&stage).await?;
        }
        if let Some(failures) = within.failures()
            && let Some([Some(at), value]) = self.client.texts(&failures).await?.first().map(Vec::as_slice)
        {
            return Err(within.failure(&self.plan.table.name, at, value.as_deref()));
        }
        let names: Vec<String> = within.columns.iter().map(|column| identifier(column)).collect();
        let query = within.query();
        self.rows += self.client.execute(&format!("INSERT INTO {INPUT} ({}) {query}", names.join(", "))).await?;
        Ok(())
    }

    /// All rows have come: does with them what the strategy says, and commits.
    pub async fn finish(mut self) -> Result<Counts> {
        if self.copy.is_some() {
            let end = self.encoder.finish();
            self.send(end).await?;
        }
        if let Some(mut copy) = self.copy.take() {
            copy.as_mut().finish().await.map_err(|e| error::remote(&self.client.name, &e, None))?;
        }
        fail_point("load.copied");
        let counts = match self.plan.load.compares() {
            true => self.compare().await?,
            false => self.add().await?,
        };
        if self.plan.run.as_ref().is_some_and(|run| run.dry) {
            self.client.run("ROLLBACK").await?;
            return Ok(counts);
        }
        if let Some(run) = &self.plan.run {
            fail_point("load.progress");
            progress::record(&self.client, run, &counts).await?;
        }
        fail_point("load.commit");
        self.commit().await?;
        fail_point("load.committed");
        Ok(counts)
    }

    async fn commit(&self) -> Result<()> {
        let Err(error) = self.client.postgres.batch_execute("COMMIT").await else { return Ok(()) };
        let said = error::remote(&self.client.name, &error, None);
        if error.as_db_error().is_some() {
            return Err(said);
        }
        // Nobody has said whether it was done.
        let message = format!("whether the load of \"{}\" was committed is not known: {said}", self.plan.table.name);
        Err(Error::new(SqlState::StatementCompletionUnknown, message).with_hint(
            "A load with a run id (SET tidemark.run_id) can be tried again: if it was committed, nothing is done again.",
        ))
    }

    /// No other load at the same time; readers go on.
    async fn lock(&self) -> Result<()> {
        let table = self.plan.table.qualified();
        self.client.run(&format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")).await?;
        fail_point("load.locked");
        Ok(())
    }

    async fn add(&self) -> Result<Counts> {
        let table = self.plan.table.qualified();
        let mut counts = Counts { rows: self.rows, ..Counts::default() };
        let anew = self.plan.run.as_ref().is_some_and(|run| run.anew);
        if anew || self.plan.load.strategy == Strategy::Truncate {
            self.lock().await?;
            counts.deleted = self.client.execute(&format!("DELETE FROM {table}")).await?;
            fail_point("load.applied.0");
        }
        let sql = self.plan.load.added(&self.target(&table, &self.now().await?), &self.plan.batch_id);
        counts.inserted = self.client.execute(&sql).await?;
        fail_point("load.applied.1");
        Ok(counts)
    }

    async fn compare(&self) -> Result<Counts> {
        self.check_keys().await?;
        self.lock().await?;
        let (name, now) = (self.plan.table.qualified(), self.now().await?);
        let target = self.target(&name, &now);
        let is_empty = self.client.texts(&format!("SELECT 1 FROM {name} LIMIT 1")).await?.is_empty();
        if is_empty && let Some(first) = self.plan.load.first(&target)? {
            let inserted = self.client.execute(&first).await?;
            fail_point("load.applied.0");
            return Ok(Counts { rows: self.rows, inserted, ..Counts::default() });
        }
        self.analyze(INPUT).await?;
        let script = self.plan.load.script(&target, self.confined)?;
        for statement in &script.prepare {
            self.client.run(statement).await?;
        }
        fail_point("load.prepared");
        self.analyze(CHANGES).await?;
        let mut counts = self.changes(&script).await?;
        for (at, apply) in script.apply.iter().enumerate() {
            let rows = self.client.execute(&apply.sql).await?;
            if apply.counts {
                counts.deleted += rows;
            }
            fail_point(&format!("load.applied.{at}"));
        }
        Ok(counts)
    }

    async fn analyze(&self, temporary: &str) -> Result<()> {
        if self.rows >= MANY { self.client.run(&format!("ANALYZE {temporary}")).await } else { Ok(()) }
    }

    async fn check_keys(&self) -> Result<()> {
        let (load, table) = (&self.plan.load, &self.plan.table.name);
        if let Some(query) = load.sound_keys()
            && self.client.texts(&query).await?.into_iter().flatten().any(|sound| sound.as_deref() == Some("t"))
        {
            return Ok(());
        }
        if !self.client.texts(&load.null_keys()).await?.is_empty() {
            return Err(load.null_key_error(table));
        }
        let Some(query) = load.duplicates() else { return Ok(()) };
        let shown = |row: Vec<Option<String>>| {
            let mut texts: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            let copies = texts.pop().unwrap_or_default();
            (texts.join(", "), copies)
        };
        let rows: Vec<_> = self.client.texts(&query).await?.into_iter().map(shown).collect();
        if rows.is_empty() { Ok(()) } else { Err(load.duplicate_error(table, &rows)) }
    }

    /// How much there is to change, unless some of it may not be.
    async fn changes(&self, script: &Script) -> Result<Counts> {
        if let Some(check) = &script.check
            && let Some(row) = self.client.texts(check).await?.into_iter().next()
        {
            let mut keys: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            let event = keys.pop().unwrap_or_default();
            return Err(self.plan.load.late_event_error(&keys, &event));
        }
        let mut counts = Counts { rows: self.rows, ..Counts::default() };
        for row in self.client.texts(&script.counts).await? {
            let [Some(action), Some(times)] = row.as_slice() else { continue };
            let times = times.parse().map_err(|_| Error::internal(format!("\"{times}\" is no count")))?;
            counts.count(Action::parse(action)?, times);
        }
        Ok(counts)
    }
}
