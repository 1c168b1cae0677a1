//! How a table comes to a slot that is already read: its rows as they were at a moment, while all others stand still at that moment.
//!
//! ```text
//!   session:  publication: ADD TABLE ────────────── BEGIN, SET TRANSACTION SNAPSHOT ················ COPY ─▶ Truncate, Put, Put, ..
//!   wire:                        temporary slot ──▶ snapshot, 0/S ─╴(closed, and the slot with it)
//!   stream:   ── T1 ── T2 ──────────────────────── T3 ── T4 (commits before 0/S) ─┤ stands still ├── T5 (commits behind it) ──▶
//! ```
//!
//! Of T1 to T4 the new table's changes are in the copy, and are passed over; those of T5 come by the stream. A temporary slot is made
//! when all transactions have ended that were open before the publication had the table, so that none of these can commit behind it.

use std::pin::Pin;
use std::sync::Arc;

use tidemark_common::{Error, Result, SqlState};

use super::lsn::Lsn;
use super::position::Position;
use super::publication;
use super::session::query;
use super::slot::Slot;
use super::snapshot::{SESSION, check_shape, copy_table, files, hand_out};
use super::table::Table;
use super::wire::Wire;
use super::worker::{Worker, nobody_reads};
use crate::fail_point;
use crate::postgres::client::Client;
use crate::postgres::filter::literal;

/// Tables that wait for the stream to come to the moment of their snapshot.
pub struct Join {
    /// In a transaction with the snapshot.
    client: Client,
    pub at: Lsn,
    tables: Vec<Joining>,
}

struct Joining {
    /// Its place among those of the worker.
    place: usize,
    table: Table,
    filter: Option<String>,
    files: Vec<u32>,
}

/// Makes publication and slot, without any table; from where the stream goes on.
pub async fn begin(worker: &mut Worker) -> Result<Lsn> {
    let options = Arc::clone(&worker.options);
    let client = options.place.connect().await?;
    publication::ensure_empty(&client, &options).await?;
    Slot::remove(&client, &options).await?;
    let mut wire = Wire::open(&options.place).await?;
    worker.feedback.begin();
    let (at, _) = Slot::create(&mut wire, &options, &options.slot, false).await?;
    for batch in worker.batches(Some(Position::At(at)))? {
        worker.sender.send(Ok(batch)).await.map_err(|_| nobody_reads())?;
    }
    worker.at = Some(at);
    Ok(at)
}

/// A snapshot for the tables that have not been copied; `None`: all have been.
pub async fn prepare(worker: &mut Worker) -> Result<Option<Join>> {
    let waiting: Vec<usize> = (0..worker.tables.len()).filter(|at| worker.tables[*at].copied.is_none()).collect();
    if waiting.is_empty() {
        return Ok(None);
    }
    let options = Arc::clone(&worker.options);
    let client = options.place.connect().await?;
    client.run(SESSION).await?;
    let mut tables = Vec::new();
    for place in waiting {
        let of = Arc::clone(&worker.tables[place].options);
        let table = Table::find(&client, &of.place).await?;
        let filter = publication::ensure(&client, &of, &table).await?;
        let files = files(&client, &table).await?;
        tables.push(Joining { place, table, filter, files });
    }
    fail_point("cdc_joined_publication");
    let mut wire = Wire::open(&options.place).await?;
    let slot = temporary(&options.slot, options.clock.now_micros());
    let (at, snapshot) = Slot::create(&mut wire, &options, &slot, true).await?;
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}", literal(&snapshot));
    client.run(&begin).await?;
    drop(wire);
    Ok(Some(Join { client, at, tables }))
}

/// The name of a slot that goes with its session. One of before may not have gone yet.
fn temporary(slot: &str, now: i64) -> String {
    format!("{}_{now:x}", slot.chars().take(40).collect::<String>())
}

impl Join {
    pub fn has(&self, place: usize) -> bool {
        self.tables.iter().any(|joining| joining.place == place)
    }

    /// Hands out all rows of the tables; from there on their changes count.
    pub async fn copy(self, worker: &mut Worker) -> Result<()> {
        for joining in &self.tables {
            let of = Arc::clone(&worker.tables[joining.place].options);
            // As it was in the snapshot.
            let table = Table::find(&self.client, &of.place).await?;
            let unknown = check_shape(&self.client, &of, &table).await?;
            worker.tables[joining.place].unknown = unknown.into_iter().collect();
            copy_table(worker, joining.place, &self.client, self.at, &joining.table, joining.filter.as_deref()).await?;
            if files(&self.client, &joining.table).await? != joining.files {
                return Err(Error::new(
                    SqlState::SerializationFailure,
                    format!("table \"{}\" was truncated or written anew while it was copied", of.place.label()),
                ));
            }
            hand_out(worker, joining.place, Position::At(self.at)).await?;
            fail_point("cdc_joined_table");
        }
        for joining in &self.tables {
            worker.tables[joining.place].copied = Some(self.at);
        }
        query(&self.client, "COMMIT", &[]).await.map(drop)
    }
}

/// A copy on its way.
pub type Copying<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_slots_have_names_of_their_own() {
        let name = temporary(&"x".repeat(63), 1_700_000_000_000_000);
        assert!(name.len() <= 63 && name.starts_with("xxx") && name.ends_with("_60a24181e4000"), "{name}");
        assert_ne!(temporary("a", 1), temporary("a", 2));
    }
}
