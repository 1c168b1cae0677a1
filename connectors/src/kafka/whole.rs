//! Transactions of the other database, whole: what has come of one is held back until it has ended.
//!
//! ```text
//!   records     a a b │ b b c │ ...................      a, b, c: transactions; │ what was polled together
//!   handed out  a a     b b b                  c
//!               b held  c held                 nothing came for QUIET: it has ended, nobody says it otherwise
//! ```
//!
//! What is handed out together is one batch, and so in one epoch. Positions move with what is handed out: after a crash the rest comes
//! again. Of a transaction that is larger than [`LARGEST_TRANSACTION`] parts are handed out.

use datafusion::arrow::compute::concat_batches;
use tidemark_common::{Error, Result};

use crate::{RowChanges, SourceBatch};

/// Microseconds without a record of a partition after which its last transaction has ended. Who writes them sends a transaction's
/// records one right after the other.
const QUIET: i64 = 500_000;
/// Bytes of a transaction that are held back of a partition.
const LARGEST_TRANSACTION: usize = 64 << 20;

/// The transaction that a partition is in.
#[derive(Debug)]
pub(super) struct Held {
    pub id: Vec<u8>,
    batches: Vec<SourceBatch>,
    bytes: usize,
    /// When the last record came, in microseconds.
    last: i64,
    is_in_parts: bool,
}

impl Held {
    pub fn new(id: Vec<u8>) -> Self {
        Self { id, batches: Vec::new(), bytes: 0, last: 0, is_in_parts: false }
    }

    /// More of it. What has to go out, since it is too large.
    pub fn add(&mut self, batch: SourceBatch, now: i64, source: &str) -> Result<Option<SourceBatch>> {
        self.last = now;
        self.bytes += batch.bytes;
        self.batches.push(batch);
        if self.bytes < LARGEST_TRANSACTION {
            return Ok(None);
        }
        if !std::mem::replace(&mut self.is_in_parts, true) {
            let (transaction, lane) =
                (String::from_utf8_lossy(&self.id), self.batches.last().map(|batch| &*batch.lane));
            tracing::warn!(source, %transaction, lane, LARGEST_TRANSACTION, "the transaction is too large: it comes in parts");
        }
        self.bytes = 0;
        joined(std::mem::take(&mut self.batches))
    }

    pub fn has_ended(&self, now: i64) -> bool {
        now.saturating_sub(self.last) >= QUIET
    }

    /// All there is of it, and what comes with its end.
    pub fn end(mut self, with: Option<SourceBatch>) -> Result<Option<SourceBatch>> {
        self.batches.extend(with);
        joined(self.batches)
    }
}

/// Batches of a partition as one.
fn joined(mut batches: Vec<SourceBatch>) -> Result<Option<SourceBatch>> {
    if batches.len() < 2 {
        return Ok(batches.pop());
    }
    let rows: Vec<_> = batches.iter().map(|batch| batch.batch.clone()).collect();
    let mut all = batches.remove(0);
    let mut changes = all.changes.take().unwrap_or_default();
    for batch in batches {
        append(&mut changes, batch.changes.unwrap_or_default())?;
        all.positions.extend(batch.positions);
        all.bytes += batch.bytes;
        all.dropped += batch.dropped;
        all.dead.extend(batch.dead);
        all.unknown.extend(batch.unknown);
    }
    all.batch = concat_batches(&all.batch.schema(), &rows)?;
    all.changes = Some(changes);
    Ok(Some(all))
}

fn append(all: &mut RowChanges, more: RowChanges) -> Result<()> {
    let first = u32::try_from(all.ops.len()).map_err(|_| Error::internal("a transaction has too many rows"))?;
    all.kept.extend(more.kept.into_iter().map(|(row, column)| (first + row, column)));
    all.ops.extend(more.ops);
    all.versions.extend(more.versions);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use tidemark_common::types::SqlType;

    use super::*;
    use crate::testing::{rows, schema};
    use crate::{Positions, RowOp};

    fn batch(values: &[i64], next: i64, bytes: usize) -> SourceBatch {
        let column = Arc::new(Int64Array::from(values.to_vec()));
        SourceBatch {
            lane: "0".into(),
            batch: RecordBatch::try_new(schema(&[("n", SqlType::BigInt)]), vec![column]).unwrap(),
            places: None,
            positions: Positions::from([("0".to_string(), format!("0..{next}"))]),
            bytes,
            dropped: 1,
            dead: Vec::new(),
            changes: Some(RowChanges { ops: vec![RowOp::Put; values.len()], kept: vec![(0, 0)], versions: Vec::new() }),
            unfinished: false,
            unknown: Vec::new(),
            into: None,
        }
    }

    #[test]
    fn what_belongs_together_is_one_batch() {
        let mut held = Held::new(b"t".to_vec());
        assert!(held.add(batch(&[1, 2], 2, 10), 0, "s").unwrap().is_none());
        assert!(held.add(batch(&[3], 3, 10), 1, "s").unwrap().is_none());
        assert!(!held.has_ended(QUIET) && held.has_ended(QUIET + 1));
        let all = held.end(Some(batch(&[4], 4, 10))).unwrap().unwrap();
        assert_eq!((rows(&all.batch).join(" "), all.bytes, all.dropped), ("1 2 3 4".to_string(), 30, 3));
        assert_eq!(all.positions["0"], "0..4");
        let changes = all.changes.unwrap();
        assert_eq!((changes.ops.len(), changes.kept), (4, vec![(0, 0), (2, 0), (3, 0)]));
        assert!(Held::new(Vec::new()).end(None).unwrap().is_none());
    }

    #[test]
    fn what_is_too_large_comes_in_parts() {
        let mut held = Held::new(b"t".to_vec());
        assert!(held.add(batch(&[1], 1, LARGEST_TRANSACTION - 1), 0, "s").unwrap().is_none());
        let part = held.add(batch(&[2], 2, 1), 0, "s").unwrap().unwrap();
        assert_eq!(part.batch.num_rows(), 2);
        assert!(held.add(batch(&[3], 3, 1), 0, "s").unwrap().is_none());
        assert_eq!(held.end(None).unwrap().unwrap().batch.num_rows(), 1);
    }
}
