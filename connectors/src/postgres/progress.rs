//! `tidemark.progress` in the database that is loaded: which runs have been, and what they did. A run's row is committed with its
//! rows, so that a run whose row is there has been, and any other has not.
//!
//! ```text
//!   BEGIN ─▶ lock (run, target) ─▶ is its row there? ── yes ─▶ its counts, and nothing else
//!                                        └── no ─▶ load .. ─▶ its row ─▶ COMMIT
//! ```

use tidemark_common::Result;

use super::client::Client;
use super::error;
use crate::load::{Counts, LoadRun};

/// Runs of one target that are remembered.
const KEPT: i64 = 1000;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS tidemark.progress (
    run_id text NOT NULL, target text NOT NULL,
    rows bigint NOT NULL, inserted bigint NOT NULL, updated bigint NOT NULL, closed bigint NOT NULL, deleted bigint NOT NULL,
    payload text, committed_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, run_id)
)";

/// Makes the table if it is not there. Outside of a transaction.
pub async fn prepare(client: &Client) -> Result<()> {
    if is_there(client).await? {
        return Ok(());
    }
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('tidemark progress', 0))";
    let schema = "SELECT 1 FROM pg_namespace WHERE nspname = 'tidemark'";
    client.run(&format!("BEGIN; {lock}")).await?;
    if client.texts(schema).await?.is_empty() {
        client.run("CREATE SCHEMA tidemark").await?;
    }
    client.run(&format!("{TABLE}; COMMIT")).await
}

/// Keeps others from doing the same run; what it did, if it has been. In the load's transaction.
pub async fn begin(client: &Client, run: &LoadRun) -> Result<Option<Counts>> {
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1::text || ' ' || $2::text, 0))";
    let locked = client.postgres.query(lock, &[&run.target, &run.id]).await;
    locked.map_err(|e| error::remote(&client.name, &e, None))?;
    Ok(row_of(client, run).await?.map(|(counts, _)| counts))
}

/// What a run has done, and the payload that was recorded with it, if it has been.
pub async fn recorded(client: &Client, run: &LoadRun) -> Result<Option<(Counts, Option<String>)>> {
    match is_there(client).await? {
        true => row_of(client, run).await,
        false => Ok(None),
    }
}

async fn is_there(client: &Client) -> Result<bool> {
    Ok(!client.texts("SELECT 1 WHERE to_regclass('tidemark.progress') IS NOT NULL").await?.is_empty())
}

async fn row_of(client: &Client, run: &LoadRun) -> Result<Option<(Counts, Option<String>)>> {
    let sql = "SELECT rows, inserted, updated, closed, deleted, payload FROM tidemark.progress \
               WHERE target = $1 AND run_id = $2";
    let row = client.postgres.query_opt(sql, &[&run.target, &run.id]).await;
    let row = row.map_err(|e| error::remote(&client.name, &e, None))?;
    let count = |row: &tokio_postgres::Row, at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
    Ok(row.map(|row| {
        let counts = Counts {
            rows: count(&row, 0),
            inserted: count(&row, 1),
            updated: count(&row, 2),
            closed: count(&row, 3),
            deleted: count(&row, 4),
        };
        (counts, row.get(5))
    }))
}

/// The run has been, once the transaction is committed. What is old goes.
pub async fn record(client: &Client, run: &LoadRun, counts: &Counts) -> Result<()> {
    let failed = |e| error::remote(&client.name, &e, None);
    let Counts { rows, inserted, updated, closed, deleted } = *counts;
    let [rows, inserted, updated, closed, deleted] =
        [rows, inserted, updated, closed, deleted].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let sql = "INSERT INTO tidemark.progress (run_id, target, rows, inserted, updated, closed, deleted, payload) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&run.id, &run.target, &rows, &inserted, &updated, &closed, &deleted, &run.payload];
    client.postgres.execute(sql, &values).await.map_err(failed)?;
    let sql = "DELETE FROM tidemark.progress WHERE target = $1 AND run_id IN \
               (SELECT run_id FROM tidemark.progress WHERE target = $1 ORDER BY committed_at DESC OFFSET $2)";
    client.postgres.execute(sql, &[&run.target, &KEPT]).await.map_err(failed)?;
    Ok(())
}
