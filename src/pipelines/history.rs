//! Runs as they are remembered: tables of schema `tidemark`, written in the transactions of the runs themselves.
//!
//! ```text
//!   begin: a row "running" ──▶ the load ──▶ one transaction: rows of the target · watermark · the row "succeeded"
//!                                 └─ fails ─▶ the row "failed", and what the target had
//!   a row that is "running" when the server starts was cut off: nothing of it is in a table kept here
//! ```

use rand::Rng;
use tidemark_catalog::{Catalog, Object, quote_literal};
use tidemark_common::{Epoch, Error, Oid, Result};
use tidemark_connectors::load::Counts;

use crate::session::{Session, time_literal};

/// Made when a data directory has none.
const TABLES: [(&str, &str); 4] = [
    (
        "run_history",
        "CREATE TABLE tidemark.run_history (run BIGINT, attempt INT, pipeline TEXT NOT NULL, pipeline_id BIGINT NOT NULL, \
         trigger TEXT NOT NULL, scheduled_for TIMESTAMPTZ, parent BIGINT, full_refresh BOOLEAN NOT NULL, \
         started TIMESTAMPTZ NOT NULL, ended TIMESTAMPTZ, status TEXT NOT NULL, error TEXT, sqlstate TEXT, rows_in BIGINT, \
         inserted BIGINT, updated BIGINT, unchanged BIGINT, closed BIGINT, deleted BIGINT, watermark_before TEXT, \
         watermark_after TEXT, step_error TEXT, load_id TEXT, PRIMARY KEY (run, attempt))",
    ),
    (
        "watermarks",
        "CREATE TABLE tidemark.watermarks (pipeline_id BIGINT PRIMARY KEY, pipeline TEXT NOT NULL, column_name TEXT NOT NULL, \
         value TEXT NOT NULL, type TEXT NOT NULL, run BIGINT NOT NULL, updated TIMESTAMPTZ NOT NULL)",
    ),
    (
        "schema_history",
        "CREATE TABLE tidemark.schema_history (changed_at TIMESTAMPTZ NOT NULL, relation_id BIGINT NOT NULL, schema_name TEXT NOT NULL, \
         name TEXT NOT NULL, connection TEXT, remote_table TEXT, change TEXT NOT NULL, sql TEXT NOT NULL)",
    ),
    (
        DEAD_LETTERS,
        "CREATE TABLE tidemark.dead_letters (source TEXT, source_id BIGINT, split TEXT, position BIGINT, key BYTEA, value BYTEA, \
         headers JSONB, timestamp TIMESTAMPTZ, error TEXT, read_at TIMESTAMPTZ)",
    ),
];

/// Records that sources could not decode and that are kept: `on_error = 'dlq'`.
pub const DEAD_LETTERS: &str = "dead_letters";

/// Why a run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Schedule,
    Dependency,
    Manual,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Schedule => "schedule",
            Cause::Dependency => "dependency",
            Cause::Manual => "manual",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "schedule" => Cause::Schedule,
            "dependency" => Cause::Dependency,
            _ => Cause::Manual,
        }
    }
}

/// A run to do. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub run: i64,
    /// Tells the run's loads apart from those of any other run of any server, in the systems that they go to.
    pub load_id: String,
    /// The attempt to begin with.
    pub attempt: i32,
    pub pipeline: Oid,
    pub name: String,
    pub cause: Cause,
    pub due: Option<i64>,
    pub parent: Option<i64>,
    pub full_refresh: bool,
}

impl Order {
    /// A first attempt, which nothing else has set off.
    pub fn new(run: i64, pipeline: &Object, cause: Cause) -> Self {
        #[allow(clippy::disallowed_methods)] // an id, which no query computes with
        let unique: u64 = rand::rng().random();
        Self {
            run,
            load_id: format!("{run}-{unique:016x}"),
            attempt: 1,
            pipeline: pipeline.oid,
            name: pipeline.name.clone(),
            cause,
            due: None,
            parent: None,
            full_refresh: false,
        }
    }
}

/// How far a pipeline with `incremental_column` has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    pub column: String,
    pub sql_type: String,
    pub value: String,
}

impl Watermark {
    /// As SQL.
    pub fn literal(&self) -> String {
        format!("CAST({} AS {})", quote_literal(&self.value), self.sql_type)
    }
}

/// The last run of each pipeline, as a start of the server finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub pipeline: Oid,
    pub run: i64,
    pub began: i64,
    pub ended: i64,
    pub succeeded: bool,
    pub skipped: bool,
    pub due: Option<i64>,
    pub error: Option<String>,
}

pub async fn create_tables(session: &mut Session) -> Result<()> {
    for (name, create) in TABLES {
        let there = session.database().moment().catalog.find_in(tidemark_catalog::TIDEMARK_SCHEMA, name).is_some();
        if !there {
            session.script(create).await?;
        }
    }
    Ok(())
}

fn optional_time(micros: Option<i64>) -> String {
    micros.map_or_else(|| "NULL".into(), time_literal)
}

fn optional_text(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".into(), quote_literal)
}

fn optional_number(number: Option<i64>) -> String {
    number.map_or_else(|| "NULL".into(), |number| number.to_string())
}

/// Writes that an attempt begins.
pub async fn begin(session: &mut Session, order: &Order, attempt: i32, now: i64) -> Result<()> {
    session.script(&inserted(order, attempt, now, "running", None, None)).await
}

/// Writes that a pipeline would have run, had another one.
pub async fn skipped(session: &mut Session, order: &Order, now: i64, why: &str) -> Result<()> {
    session.script(&inserted(order, 1, now, "skipped", Some(now), Some(why))).await
}

fn inserted(order: &Order, attempt: i32, now: i64, status: &str, ended: Option<i64>, error: Option<&str>) -> String {
    format!(
        "INSERT INTO tidemark.run_history (run, attempt, pipeline, pipeline_id, trigger, scheduled_for, parent, full_refresh, \
         started, ended, status, error, load_id) VALUES ({}, {attempt}, {}, {}, '{}', {}, {}, {}, {}, {}, '{status}', {}, {})",
        order.run,
        quote_literal(&order.name),
        order.pipeline,
        order.cause.name(),
        optional_time(order.due),
        optional_number(order.parent),
        order.full_refresh,
        time_literal(now),
        optional_time(ended),
        optional_text(error),
        quote_literal(&order.load_id),
    )
}

/// For the transaction of the load: the run has succeeded.
pub async fn succeeded(
    session: &mut Session,
    order: &Order,
    attempt: i32,
    now: i64,
    counts: &Counts,
    before: Option<&Watermark>,
    after: Option<&Watermark>,
) -> Result<()> {
    session
        .script(&format!(
            "UPDATE tidemark.run_history SET status = 'succeeded', ended = {}, rows_in = {}, inserted = {}, updated = {}, \
             unchanged = {}, closed = {}, deleted = {}, watermark_before = {}, watermark_after = {} \
             WHERE run = {} AND attempt = {attempt}",
            time_literal(now),
            counts.rows,
            counts.inserted,
            counts.updated,
            counts.unchanged(),
            counts.closed,
            counts.deleted,
            optional_text(before.map(|mark| mark.value.as_str())),
            optional_text(after.map(|mark| mark.value.as_str())),
            order.run,
        ))
        .await?;
    let Some(after) = after else { return Ok(()) };
    session
        .script(&format!(
            "INSERT INTO tidemark.watermarks VALUES ({}, {}, {}, {}, {}, {}, {}) ON CONFLICT (pipeline_id) DO UPDATE SET \
             pipeline = excluded.pipeline, column_name = excluded.column_name, value = excluded.value, type = excluded.type, \
             run = excluded.run, updated = excluded.updated",
            order.pipeline,
            quote_literal(&order.name),
            quote_literal(&after.column),
            quote_literal(&after.value),
            quote_literal(&after.sql_type),
            order.run,
            time_literal(now),
        ))
        .await
}

/// Writes that an attempt has failed; an attempt that has succeeded after all stays so, and `false` comes back.
pub async fn failed(
    session: &mut Session,
    order: &Order,
    attempt: i32,
    now: i64,
    status: &str,
    error: &Error,
) -> Result<bool> {
    let mut text = error.to_string();
    for more in [error.detail(), error.hint()].into_iter().flatten() {
        text.push('\n');
        text.push_str(more);
    }
    let at = format!("run = {} AND attempt = {attempt}", order.run);
    session
        .script(&format!(
            "UPDATE tidemark.run_history SET status = '{status}', ended = {}, error = {}, sqlstate = {} WHERE {at} AND status = 'running'",
            time_literal(now),
            quote_literal(&text),
            quote_literal(error.code()),
        ))
        .await?;
    let rows = session.text_rows(&format!("SELECT status FROM tidemark.run_history WHERE {at}")).await?;
    Ok(rows.first().and_then(|row| row[0].as_deref()) != Some("succeeded"))
}

pub async fn step_failed(session: &mut Session, order: &Order, attempt: i32, error: &str) -> Result<()> {
    let set = format!("UPDATE tidemark.run_history SET step_error = {}", quote_literal(error));
    session.script(&format!("{set} WHERE run = {} AND attempt = {attempt}", order.run)).await
}

/// Forgets runs that began before `until`.
pub async fn expire(session: &mut Session, pipeline: Oid, until: i64) -> Result<()> {
    let of = format!("pipeline_id = {pipeline} AND started < {}", time_literal(until));
    session.script(&format!("DELETE FROM tidemark.run_history WHERE {of} AND status <> 'running'")).await
}

pub async fn watermark(session: &mut Session, pipeline: Oid) -> Result<Option<Watermark>> {
    let query = format!("SELECT column_name, type, value FROM tidemark.watermarks WHERE pipeline_id = {pipeline}");
    let rows = session.text_rows(&query).await?;
    Ok(rows.into_iter().next().and_then(|row| match row.as_slice() {
        [Some(column), Some(sql_type), Some(value)] => {
            Some(Watermark { column: column.clone(), sql_type: sql_type.clone(), value: value.clone() })
        }
        _ => None,
    }))
}

pub async fn last_run(session: &mut Session) -> Result<i64> {
    let rows = session.text_rows("SELECT max(run)::text FROM tidemark.run_history").await?;
    Ok(rows.first().and_then(|row| number(&row[0])).unwrap_or(0))
}

fn micros(column: &str) -> String {
    format!("(extract(epoch from {column}) * 1000000)::bigint::text")
}

fn number(text: &Option<String>) -> Option<i64> {
    text.as_deref()?.parse().ok()
}

/// Marks the runs that were cut off, and gives them to be done again.
pub async fn cut_off(session: &mut Session, now: i64) -> Result<Vec<Order>> {
    let query = format!(
        "SELECT run::text, attempt::text, pipeline_id::text, pipeline, trigger, {}, parent::text, full_refresh::text, load_id \
         FROM tidemark.run_history WHERE status = 'running' AND trigger <> 'continuous' ORDER BY run",
        micros("scheduled_for")
    );
    let rows = session.text_rows(&query).await?;
    if !rows.is_empty() {
        let error = "the server stopped before it had ended";
        session
            .script(&format!(
                "UPDATE tidemark.run_history SET status = 'interrupted', ended = {}, error = '{error}', sqlstate = '57P01' \
                 WHERE status = 'running' AND trigger <> 'continuous'",
                time_literal(now)
            ))
            .await?;
    }
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some(Order {
                run: number(&row[0])?,
                attempt: number(&row[1])? as i32 + 1,
                pipeline: number(&row[2])? as Oid,
                name: row[3].clone()?,
                cause: Cause::parse(row[4].as_deref()?),
                due: number(&row[5]),
                parent: number(&row[6]),
                full_refresh: row[7].as_deref() == Some("true"),
                load_id: row[8].clone().unwrap_or_default(),
            })
        })
        .collect())
}

/// Writes down what was done to the columns of a table. `elsewhere`: the connection and the table that it is kept in.
pub async fn schema_changed(
    session: &mut Session,
    catalog: &Catalog,
    relation: &Object,
    elsewhere: Option<(&str, String)>,
    change: &str,
    sql: &str,
) -> Result<()> {
    let (connection, table) = elsewhere.unzip();
    let now = session.database().now();
    session
        .script(&format!(
            "INSERT INTO tidemark.schema_history VALUES ({}, {}, {}, {}, {}, {}, {}, {})",
            time_literal(now),
            relation.oid,
            quote_literal(catalog.schema_name(relation.schema)),
            quote_literal(&relation.name),
            optional_text(connection),
            optional_text(table.as_deref()),
            quote_literal(change),
            quote_literal(sql),
        ))
        .await
}

/// For the transaction of the load: a continuous pipeline has loaded an epoch. It has one run for all its life.
pub async fn loaded(session: &mut Session, pipeline: Oid, name: &str, epoch: Epoch, counts: &Counts) -> Result<()> {
    let db = session.database();
    let (now, of) = (time_literal(db.now()), format!("pipeline_id = {pipeline}"));
    let known = session.text_rows(&format!("SELECT run::text FROM tidemark.watermarks WHERE {of}")).await?;
    let run = match known.first().and_then(|row| row[0].clone()) {
        Some(run) => run,
        None => {
            let run = db.pipelines.next_run();
            session
                .script(&format!(
                    "INSERT INTO tidemark.run_history (run, attempt, pipeline, pipeline_id, trigger, full_refresh, started, status, \
                     rows_in, inserted, updated, unchanged, closed, deleted) \
                     VALUES ({run}, 1, {}, {pipeline}, 'continuous', false, {now}, 'running', 0, 0, 0, 0, 0, 0)",
                    quote_literal(name)
                ))
                .await?;
            run.to_string()
        }
    };
    session
        .script(&format!(
            "UPDATE tidemark.run_history SET rows_in = rows_in + {}, inserted = inserted + {}, updated = updated + {}, \
             unchanged = unchanged + {}, closed = closed + {}, deleted = deleted + {} WHERE run = {run}",
            counts.rows,
            counts.inserted,
            counts.updated,
            counts.unchanged(),
            counts.closed,
            counts.deleted
        ))
        .await?;
    session
        .script(&format!(
            "INSERT INTO tidemark.watermarks VALUES ({pipeline}, {}, '{}', '{epoch}', 'bigint', {run}, {now}) \
             ON CONFLICT (pipeline_id) DO UPDATE SET value = excluded.value, updated = excluded.updated",
            quote_literal(name),
            super::continuous::EPOCH
        ))
        .await
}

/// Pipelines that are there no longer: how far they were, and what was running for ever.
pub async fn dropped(db: &std::sync::Arc<crate::database::Database>, pipelines: &[Oid]) -> Result<()> {
    let mut session = Session::internal(db, "pipelines")?;
    let list: Vec<String> = pipelines.iter().map(ToString::to_string).collect();
    let of = format!("pipeline_id IN ({})", list.join(", "));
    session.script(&format!("DELETE FROM tidemark.watermarks WHERE {of}")).await?;
    session
        .script(&format!(
            "UPDATE tidemark.run_history SET status = 'dropped', ended = {} WHERE {of} AND status = 'running'",
            time_literal(db.now())
        ))
        .await
}

/// The last run of each pipeline that has ended.
pub async fn last_runs(session: &mut Session) -> Result<Vec<Remembered>> {
    let query = format!(
        "SELECT DISTINCT ON (pipeline_id) pipeline_id::text, run::text, {}, {}, status, {}, error FROM tidemark.run_history \
         WHERE status <> 'running' ORDER BY pipeline_id, run DESC, attempt DESC",
        micros("started"),
        micros("ended"),
        micros("scheduled_for")
    );
    let rows = session.text_rows(&query).await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some(Remembered {
                pipeline: number(&row[0])? as Oid,
                run: number(&row[1])?,
                began: number(&row[2])?,
                ended: number(&row[3])?,
                succeeded: row[4].as_deref() == Some("succeeded"),
                skipped: row[4].as_deref() == Some("skipped"),
                due: number(&row[5]),
                error: row[6].clone(),
            })
        })
        .collect())
}
