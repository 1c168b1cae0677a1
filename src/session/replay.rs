//! REPLAY DEAD LETTERS: records that a source could not decode are decoded again, and count from the epoch that takes them.
//!
//! ```text
//!   tidemark.dead_letters ──PIECE at a time──▶ decode ─┬─ decoded ──▶ one commit: rows of the source, their letters gone
//!                                                      └─ still bad ──▶ stay
//! ```
//!
//! Each piece is a transaction of its own: whoever stops half way goes on with what is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_catalog::{Object, ObjectKind, Source, quote_literal};
use tidemark_common::connector::Record;
use tidemark_common::{Error, Result, SqlState};
use tidemark_engine::{Redelivery, SourceDef};
use tidemark_sql::ast::ReplayDeadLetters;

use super::{Outcome, Session};
use crate::coordinator::definitions;
use crate::pipelines::history::DEAD_LETTERS;
use crate::query::find_relation;

/// Letters that are taken together.
const PIECE: usize = 1000;

/// What has become of letters.
#[derive(Debug, Default)]
struct Replayed {
    taken: usize,
    bad: usize,
    /// Of the first one that is still bad.
    why: Option<String>,
}

impl Session {
    pub(super) async fn replay_dead_letters(&mut self, replay: &ReplayDeadLetters) -> Result<Outcome> {
        if self.in_transaction_block() {
            let message = "REPLAY DEAD LETTERS cannot run inside a transaction block";
            return Err(Error::new(SqlState::ActiveSqlTransaction, message)
                .with_hint("It has transactions of its own. COMMIT first."));
        }
        let catalog = self.catalog()?;
        let object = find_relation(&catalog, &replay.source, &self.search_path())?;
        let source = source_of(&object)?;
        let def = definitions::source(&object, source, &catalog, &self.db.environment)?;
        let mut letters = self.letters(&object, replay.selection.as_deref()).await?;
        let mut internal = Session::internal(&self.database(), "REPLAY DEAD LETTERS")?;
        let mut all = Replayed::default();
        while let Some(batch) = letters.next().await {
            let batch = batch?;
            for (split, records) in by_split(&batch)? {
                replay_piece(&mut internal, &def, &split, records, replay.force, &mut all).await?;
            }
        }
        if let Some(why) = all.why {
            let message = format!("{} of {} letters cannot be decoded yet: {why}", all.bad, all.bad + all.taken);
            self.notice_with_hint(message, "They stay in tidemark.dead_letters.");
        }
        Ok(Outcome::Command(format!("REPLAY {}", all.taken)))
    }

    /// The letters of a source, oldest first.
    async fn letters(
        &mut self,
        source: &Object,
        selection: Option<&sql::Expr>,
    ) -> Result<datafusion::execution::SendableRecordBatchStream> {
        let condition = selection.map(|condition| format!(" AND ({condition})")).unwrap_or_default();
        let text = format!(
            "SELECT split, position, key, value, timestamp, headers::text FROM tidemark.{DEAD_LETTERS} \
             WHERE source_id = {}{condition}",
            source.oid
        );
        match Box::pin(self.run(&tidemark_sql::grammar::parse_one(&text)?, &[])).await? {
            Outcome::Rows(rows) => Ok(rows.stream),
            _ => Err(Error::internal("a query gave no rows")),
        }
    }
}

fn source_of(object: &Arc<Object>) -> Result<&Source> {
    match &object.kind {
        ObjectKind::Source(source) => Ok(source),
        other => {
            let message = format!("\"{}\" is a {}, not a source", object.name, other.name());
            Err(Error::new(SqlState::WrongObjectType, message).with_hint(
                "Dead letters are replayed by the source that they came from: tidemark.dead_letters.source.",
            ))
        }
    }
}

/// Pieces of records of one split, in their order.
fn by_split(letters: &RecordBatch) -> Result<Vec<(String, Vec<Record>)>> {
    let [splits, positions, keys, values, times, headers] = letters.columns() else {
        return Err(Error::internal("a letter has other columns"));
    };
    let (splits, headers) = (splits.as_string::<i32>(), headers.as_string::<i32>());
    let (keys, values) = (keys.as_binary::<i32>(), values.as_binary::<i32>());
    let positions = positions.as_primitive::<Int64Type>();
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let bytes =
        |column: &datafusion::arrow::array::BinaryArray, row| column.is_valid(row).then(|| column.value(row).to_vec());
    let mut pieces: Vec<(String, Vec<Record>)> = Vec::new();
    for row in 0..letters.num_rows() {
        let record = Record {
            position: positions.value(row),
            key: bytes(keys, row),
            value: bytes(values, row),
            timestamp: times.is_valid(row).then(|| times.value(row)),
            headers: headers.is_valid(row).then(|| headers.value(row).to_string()),
        };
        let split = splits.value(row);
        match pieces.iter_mut().rfind(|(of, piece)| of == split && piece.len() < PIECE) {
            Some((_, piece)) => piece.push(record),
            None => pieces.push((split.to_string(), vec![record])),
        }
    }
    Ok(pieces)
}

async fn replay_piece(
    session: &mut Session,
    def: &SourceDef,
    split: &str,
    mut records: Vec<Record>,
    force: bool,
    all: &mut Replayed,
) -> Result<()> {
    let mut tries = 0;
    loop {
        let read: BTreeSet<i64> = records.iter().map(|record| record.position).collect();
        let batch = def.source.decode(split, records.clone()).await?;
        let bad: BTreeSet<i64> = batch.dead.iter().map(|letter| letter.record.position).collect();
        let why = batch.dead.first().map(|letter| format!("{split}, {}: {}", letter.record.position, letter.error));
        let ordered = batch.changes.as_ref().is_some_and(|changes| !changes.versions.is_empty());
        let taken: Vec<i64> = read.difference(&bad).copied().collect();
        if def.rows.is_some() && !ordered && !force && batch.batch.num_rows() > 0 {
            return Err(unordered(&def.name));
        }
        let redelivery = Redelivery { source: def.oid, batches: vec![batch] };
        session.script("BEGIN").await?;
        let done = take(session, def, split, &taken, redelivery).await;
        if session.block_done(done, &mut tries).await?.is_some() {
            all.taken += taken.len();
            all.bad += bad.len();
            all.why = all.why.take().or(why);
            return Ok(());
        }
        // Somebody else has dealt with some of them.
        let there = positions(session, &format!("SELECT position FROM {}", of(def, split, &taken))).await?;
        records.retain(|record| there.contains(&record.position) || bad.contains(&record.position));
    }
}

/// In the session's transaction: the letters go, and their records count.
async fn take(
    session: &mut Session,
    def: &SourceDef,
    split: &str,
    taken: &[i64],
    redelivery: Redelivery,
) -> Result<()> {
    if taken.is_empty() {
        return Ok(());
    }
    let gone = positions(session, &format!("DELETE FROM {} RETURNING position", of(def, split, taken))).await?;
    if gone.len() < taken.len() {
        return Err(Error::new(SqlState::SerializationFailure, "another session has dealt with these dead letters"));
    }
    session.transaction_mut()?.redelivery = Some(redelivery);
    Ok(())
}

/// Letters, as they stand after FROM.
fn of(def: &SourceDef, split: &str, positions: &[i64]) -> String {
    let list: Vec<String> = positions.iter().map(i64::to_string).collect();
    let (oid, split, list) = (def.oid, quote_literal(split), list.join(", "));
    format!("tidemark.{DEAD_LETTERS} WHERE source_id = {oid} AND split = {split} AND position IN ({list})")
}

async fn positions(session: &mut Session, query: &str) -> Result<BTreeSet<i64>> {
    let rows = session.text_rows(query).await?;
    Ok(rows.into_iter().flatten().flatten().filter_map(|text| text.parse().ok()).collect())
}

fn unordered(source: &str) -> Error {
    let message = format!("source \"{source}\" does not know what has become of these rows since");
    Error::new(SqlState::ObjectNotInPrerequisiteState, message)
        .with_detail(
            "Without order_by in its format a record that was set aside would take the place of later ones of its key.",
        )
        .with_hint("REPLAY DEAD LETTERS FORCE FROM .. takes the records as if they came now; WHERE picks some of them.")
}
