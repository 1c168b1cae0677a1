//! The copy: the table's rows at the moment from which the slot has the changes.
//!
//! ```text
//!   session:  ───────────────────── BEGIN, SET TRANSACTION SNAPSHOT ── COPY ─▶ Truncate, Put, Put, ..
//!   wire:     CREATE_REPLICATION_SLOT ──▶ snapshot, 0/A  ─╴(closed)                                ─▶ position 0/A
//! ```

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::copy_text::Lines;
use super::lsn::Lsn;
use super::options::CdcOptions;
use super::pgoutput::Value;
use super::position::Position;
use super::publication;
use super::raw::malformed;
use super::session::query;
use super::shape::{Shape, undeclared};
use super::slot::Slot;
use super::table::{Table, in_stream, types};
use super::watch::Watch;
use super::wire::Wire;
use super::worker::{Worker, nobody_reads};
use crate::fail_point;
use crate::postgres::client::Client;
use crate::postgres::error;
use crate::postgres::filter::{identifier, literal};

/// The copy takes as long as it takes, and rows that policies hide are an error, not left out.
pub const SESSION: &str =
    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET row_security = off";

/// Hands out all rows; from where the stream goes on.
pub async fn copy(worker: &mut Worker) -> Result<Lsn> {
    let options = Arc::clone(&worker.options);
    let place = &options.place;
    let client = place.connect().await?;
    client.run(SESSION).await?;
    let table = Table::find(&client, place).await?;
    let filter = publication::ensure(&client, &options, &table).await?;
    fail_point("cdc_published");
    // Of a copy that did not come to its end.
    Slot::remove(&client, &options).await?;
    let files = files(&client, &table).await?;
    let mut wire = Wire::open(place).await?;
    worker.feedback.begin();
    let (at, snapshot) = Slot::create(&mut wire, &options, &options.slot, false).await?;
    let _watch = Watch::start(&options, &worker.feedback, Vec::new());
    fail_point("cdc_slot_made");
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}", literal(&snapshot));
    client.run(&begin).await?;
    drop(wire);
    let table_now = Table::find(&client, place).await?;
    worker.tables[0].unknown = check_shape(&client, &options, &table_now).await?.into_iter().collect();
    copy_table(worker, 0, &client, at, &table, filter.as_deref()).await?;
    if self::files(&client, &table).await? != files {
        return Err(Error::new(
            SqlState::SerializationFailure,
            format!("table \"{}\" was truncated or written anew while it was copied", place.label()),
        ));
    }
    hand_out(worker, 0, Position::At(at)).await?;
    worker.at = Some(at);
    worker.tables[0].copied = Some(at);
    Ok(at)
}

/// The table's columns that the source does not have; an error if the source's are not all of them there.
pub async fn check_shape(client: &Client, options: &CdcOptions, table: &Table) -> Result<BTreeSet<String>> {
    let types = types(client, &table.columns, &SqlType::Numeric(None)).await?;
    let named: Vec<(&str, &SqlType)> = table.columns.iter().map(|c| c.name.as_str()).zip(&types).collect();
    Shape::of(options, &named, true)?;
    undeclared(options, in_stream(table, &types))
}

fn select(options: &CdcOptions, table: &Table, filter: Option<&str>) -> String {
    let columns: Vec<String> = options.schema.fields().iter().map(|f| identifier(f.name())).collect();
    // Tables that inherit from it have changes of their own.
    let only = if table.is_partitioned { "" } else { "ONLY " };
    let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    format!("SELECT {} FROM {only}{}{filter}", columns.join(", "), options.place.quoted())
}

/// Hands out the rows of the table at `place` among the worker's, but for the last of them.
pub async fn copy_table(
    worker: &mut Worker,
    place: usize,
    client: &Client,
    at: Lsn,
    table: &Table,
    filter: Option<&str>,
) -> Result<()> {
    let select = select(&worker.tables[place].options, table, filter);
    let select = select.as_str();
    let width = worker.tables[place].options.schema.fields().len();
    let sql = format!("COPY ({select}) TO STDOUT");
    let mut canceller = client.canceller();
    let failed = |e: &tokio_postgres::Error| error::remote(&client.name, e, Some(select));
    let mut stream = pin!(client.postgres.copy_out(&sql).await.map_err(|e| failed(&e))?);
    let (mut lines, mut copied) = (Lines::default(), 0);
    // What an earlier copy has left.
    worker.tables[place].rows.truncate()?;
    while let Some(bytes) = stream.next().await {
        lines.push(&bytes.map_err(|e| failed(&e))?)?;
        while let Some(row) = lines.next() {
            if row.len() != width {
                return Err(malformed(format_args!("a row of {} columns", row.len())));
            }
            worker.tables[place].rows.put(|column| row.get(column).map_or(Value::Null, Value::Text))?;
            copied += 1;
            if worker.tables[place].rows.is_full() {
                hand_out(worker, place, Position::Copying { at, rows: copied }).await?;
                fail_point("cdc_copying");
            }
        }
    }
    canceller.disarm();
    lines.finish()
}

/// Rows of a copy, and how far it is.
pub async fn hand_out(worker: &mut Worker, place: usize, position: Position) -> Result<()> {
    let batch = worker.copied(place, position)?;
    worker.sender.send(Ok(batch)).await.map_err(|_| nobody_reads())?;
    worker.tries = 0;
    Ok(())
}

/// The files that hold the table: what writes it anew gives it others, and a snapshot of before sees nothing in those.
pub async fn files(client: &Client, table: &Table) -> Result<Vec<u32>> {
    let rows = query(client, FILES, &[&table.oid]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const FILES: &str = "
SELECT pg_relation_filenode(part) FROM (
    SELECT $1::oid::regclass AS part UNION SELECT relid FROM pg_partition_tree($1::oid::regclass)
) parts WHERE pg_relation_filenode(part) IS NOT NULL ORDER BY 1";
