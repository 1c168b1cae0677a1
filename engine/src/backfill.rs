//! Backfill: a new dataflow reads what its inputs hold already, in chunks, beside the clock.
//!
//! A stored collection is read in the order of its keys. Up to the key that has been read, the dataflow also follows the
//! changes of each epoch; beyond it, changes are left alone, since the scan will find them in a later snapshot:
//!
//! ```text
//!   keys   a ─────────────────────────── k ─────────────── z
//!          ├ read: live changes count ───┤ not yet: ignored ┤        each epoch moves k on by one chunk
//! ```
//!
//! So at every epoch the dataflow is exact for the part it has read, no log of changes is kept, and a restart goes on at k.
//!
//! A source holds nothing: its rows are read again by a reader of its own, up to where the epochs have read it. When the rest
//! is short the source stands still for a moment, and the dataflow joins at a position that both have:
//!
//! ```text
//!   source's own position   ──────▶ A ──────▶ B ──▶ C (stands still)
//!   replay                  ═══ up to A ═══ up to B ═ up to C: joined
//! ```

use std::sync::Arc;

use datafusion::arrow::array::BooleanArray;
use serde::{Deserialize, Serialize};
use tidemark_common::connector::Positions;
use tidemark_common::{Delta, Oid, Result};
use tidemark_storage::{Collection, KeyRange, Layout, Snapshot};

use crate::dataflow::CollectionChanges;
use crate::lanes::Lanes;
use crate::operators::{Chunks, Seen, Watermarks};
use crate::source_input::{QueueLimits, ReadAhead, Reread, SourceInput, Waker, as_watermarks};

/// Replays that have caught up so often without meeting the source make it stand still.
const ROUNDS_BEFORE_FREEZE: u32 = 2;
/// Rows of a batch of a scan.
const BATCH_ROWS: usize = 8192;

/// How far a dataflow has read one of its inputs; stored with each epoch that moves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// It follows the changes and nothing else; so many rows were read before.
    Live { rows: u64 },
    /// Of a stored collection: the last key read.
    Scanning { after: Option<Vec<u8>>, rows: u64 },
    /// Of a source.
    Replaying { positions: Positions, lanes: Lanes },
}

impl Progress {
    pub fn is_live(&self) -> bool {
        matches!(self, Progress::Live { .. })
    }

    /// What of a stored collection has come to the dataflow.
    pub fn seen(&self) -> Seen {
        match self {
            Progress::Live { .. } => Seen::All,
            Progress::Scanning { after: Some(last), .. } => Seen::UpTo(last.clone()),
            Progress::Scanning { after: None, .. } | Progress::Replaying { .. } => Seen::Nothing,
        }
    }

    /// Rows read of what was there already.
    pub fn rows(&self) -> u64 {
        match self {
            Progress::Live { rows } | Progress::Scanning { rows, .. } => *rows,
            Progress::Replaying { lanes, .. } => lanes.rows,
        }
    }
}

/// The next chunk of a stored collection, of `rows` at most, and the live changes that belong to what has been read.
pub(crate) fn scan_step(
    collection: &Arc<Collection>,
    snapshot: &Arc<Snapshot>,
    progress: &mut Progress,
    live: Option<&CollectionChanges>,
    rows: usize,
) -> Result<CollectionChanges> {
    let Progress::Scanning { after, rows: total } = progress else {
        return Ok(live.cloned().unwrap_or_default());
    };
    // In batches of one size, so that together they are no more than was asked for.
    let batch = if rows == 0 { 0 } else { rows / rows.div_ceil(BATCH_ROWS) };
    let range = after.as_ref().map_or_else(KeyRange::full, |key| KeyRange::full().after(key));
    let mut scan = collection.scan(snapshot, None, &range, batch.max(1))?;
    let mut chunks = Chunks::new();
    let mut read = 0;
    let mut at_end = false;
    while batch > 0 && read + batch <= rows {
        match scan.next_delta()? {
            Some(delta) => {
                read += delta.num_rows();
                chunks.push(delta);
            }
            None => {
                at_end = true;
                break;
            }
        }
    }
    *total += read as u64;
    let rows = *total;
    if let Some(key) = scan.resume_key() {
        *after = Some(key.to_vec());
    }
    if at_end {
        let live = live.cloned().unwrap_or_default();
        chunks.extend(live.chunks);
        *progress = Progress::Live { rows };
        return Ok(CollectionChanges { chunks, watermarks: live.watermarks, ..CollectionChanges::default() });
    }
    if let (Some(after), Some(live)) = (after, live) {
        for delta in &live.chunks {
            chunks.extend(up_to(collection, delta, after)?);
        }
    }
    // Watermarks speak of what comes after all rows; while old rows still come, there are none.
    Ok(CollectionChanges { chunks, watermarks: Watermarks::new(), ..CollectionChanges::default() })
}

/// The changes whose key is not beyond `last`. New rows of a sequence are always beyond it.
fn up_to(collection: &Collection, delta: &Delta, last: &[u8]) -> Result<Option<Delta>> {
    if *collection.layout() == Layout::Sequence {
        return Ok(None);
    }
    let keys = collection.key_of(&delta.batch)?;
    let mask: BooleanArray = keys.iter().map(|key| Some(key <= last)).collect();
    let kept = delta.filter(&mask)?;
    Ok((!kept.is_empty()).then_some(kept))
}

/// What a step of a replay may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub rows: usize,
    /// The limit of rows a second behind it.
    pub rate: Option<u64>,
    /// What its reader may have ahead of it.
    pub ahead: QueueLimits,
}

/// A dataflow's own reader of a source.
pub(crate) struct Replaying {
    reader: Option<ReadAhead>,
    /// Where the reader ends.
    until: Positions,
    rounds: u32,
    /// Rows since this reader began.
    round_rows: u64,
    /// The source stands still for it: what is left is short, and no limit holds for that.
    pub hurries: bool,
    projection: Vec<usize>,
}

impl Replaying {
    pub fn new(source: &SourceInput, columns: &[usize]) -> Self {
        let projection = source.def.with_time(columns);
        Self { reader: None, until: Positions::new(), rounds: 0, round_rows: 0, hurries: false, projection }
    }

    /// The next rows of the replay; joins the source when both are at one position. Call before the source takes its
    /// rows of this epoch: from the join on these belong to the dataflow.
    pub fn step(
        &mut self,
        source: &mut SourceInput,
        progress: &mut Progress,
        snapshot: &Arc<Snapshot>,
        allowed: Allowed,
        runtime: &tokio::runtime::Handle,
        waker: &Waker,
    ) -> Result<CollectionChanges> {
        let Progress::Replaying { positions, lanes } = progress else { return Ok(CollectionChanges::default()) };
        let mut chunks = Chunks::new();
        if let Some(reader) = &self.reader {
            for taken in reader.take(allowed.rows) {
                self.round_rows += taken.batch.num_rows() as u64;
                let read =
                    Reread { def: &source.def, projection: &self.projection, history: &source.history, snapshot };
                chunks.extend(read.rows(&taken, lanes)?.into_iter().map(Delta::inserts));
                positions.extend(taken.positions);
            }
            match reader.ended() {
                None => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => {
                    positions.clone_from(&self.until);
                    self.reader = None;
                    self.rounds += 1;
                }
            }
        }
        lanes.advance_as(&source.lanes);
        let watermarks = as_watermarks(source.def.watermark.as_ref(), &source.def.schema, lanes);
        if self.reader.is_none() {
            if *positions == source.positions {
                source.frozen = false;
                self.hurries = false;
                *progress = Progress::Live { rows: lanes.rows };
                return Ok(CollectionChanges { chunks, watermarks, ..CollectionChanges::default() });
            }
            // With a limit only when as much again is read in a moment, or the source would stand still for long.
            let short = allowed.rate.is_none_or(|rate| self.round_rows <= (rate / 10).max(1));
            self.hurries |= self.rounds >= ROUNDS_BEFORE_FREEZE && short;
            source.frozen |= self.hurries;
            self.round_rows = 0;
            self.until = source.positions.clone();
            let (from, until) = (positions.clone(), Some(self.until.clone()));
            let (of, columns) = (source.def.source.clone(), self.projection.clone());
            self.reader = Some(ReadAhead::start(runtime, of, from, until, columns, allowed.ahead, waker.clone()));
        }
        Ok(CollectionChanges { chunks, watermarks, ..CollectionChanges::default() })
    }

    /// True if the next step has something to do.
    pub fn is_due(&self) -> bool {
        self.reader.as_ref().is_none_or(|r| r.has_batches() || r.ended().is_some())
    }
}

/// Where a dataflow begins to read an input.
pub(crate) fn begin(_input: Oid, is_source: bool) -> Progress {
    if is_source {
        Progress::Replaying { positions: Positions::new(), lanes: Lanes::default() }
    } else {
        Progress::Scanning { after: None, rows: 0 }
    }
}

#[cfg(test)]
mod tests;
