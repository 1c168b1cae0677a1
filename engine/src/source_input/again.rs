//! A source read again, from its beginning: for a new dataflow, and for a SELECT over it.
//!
//! ```text
//!   reader ──▶ SourceBatch ─┬─ not decodable at first ──▶ left out, or a row by now (dead letters)
//!                           └─ the others ──▶ late, too far ahead: as the first reading judged ──▶ rows
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use tidemark_common::Result;
use tidemark_common::connector::{Positions, SourceBatch, SourceReader};
use tidemark_storage::{Key, Snapshot};

use super::{HISTORY, widen};
use crate::dead_letters::{self, Fate};
use crate::engine::SourceDef;
use crate::lanes::{History, Judge, Lanes};

/// How the rows of a source are read again: those that counted when they were read first.
pub(crate) struct Reread<'a> {
    pub def: &'a SourceDef,
    /// Columns that are read.
    pub projection: &'a [usize],
    pub history: &'a History,
    /// Of an epoch that has read them.
    pub snapshot: &'a Arc<Snapshot>,
}

impl Reread<'_> {
    /// The rows with the source's columns. `lanes`: of whoever reads.
    pub fn rows(&self, read: &SourceBatch, lanes: &mut Lanes) -> Result<Vec<RecordBatch>> {
        let mut batch = widen(&self.def.schema, self.projection, &read.batch)?;
        let mut places = read.places.as_deref().map(Cow::Borrowed);
        let fates = dead_letters::fates(self.def, read, self.snapshot)?;
        let mut rows = Vec::new();
        if let Some(all) = places.as_deref().filter(|_| !fates.is_empty()) {
            // What came out of its order has moved no watermark.
            let those = |with: &dyn Fn(Option<&Fate>) -> bool| -> BooleanArray {
                all.iter().map(|place| Some(with(fates.get(place)))).collect()
            };
            let taken = filter_record_batch(&batch, &those(&|fate| fate == Some(&Fate::Taken)))?;
            lanes.rows += taken.num_rows() as u64;
            rows.push(taken);
            batch = filter_record_batch(&batch, &those(&|fate| fate.is_none()))?;
            places = Some(all.iter().copied().filter(|place| !fates.contains_key(place)).collect::<Vec<_>>().into());
        }
        let judge = Judge::Again(self.history);
        let judged = lanes.admit(self.def.watermark.as_ref(), &read.lane, batch, places.as_deref(), judge)?;
        rows.push(judged.kept);
        rows.retain(|rows| rows.num_rows() > 0);
        Ok(rows)
    }
}

/// Reads a source's rows again, up to where an epoch has read it, late rows left out: what a SELECT over the source sees.
pub struct Replay {
    reader: Box<dyn SourceReader>,
    def: SourceDef,
    projection: Vec<usize>,
    wanted: Vec<usize>,
    lanes: Lanes,
    history: History,
    snapshot: Arc<Snapshot>,
}

impl Replay {
    /// `columns`: those of the source's schema that are wanted, in that order. `snapshot`: of the epoch that has read `until`.
    pub async fn start(
        def: SourceDef,
        snapshot: Arc<Snapshot>,
        until: &Positions,
        columns: Vec<usize>,
    ) -> Result<Self> {
        let history = snapshot.get_value(&Key::SourceState { source: def.oid, what: HISTORY })?.unwrap_or_default();
        let projection = def.with_time(&columns);
        let reader = def.source.reader(&Positions::new(), Some(until), Some(&projection)).await?;
        Ok(Self { reader, def, projection, wanted: columns, lanes: Lanes::default(), history, snapshot })
    }

    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(read) = self.reader.next().await? else { return Ok(None) };
        let (def, snapshot) = (&self.def, &self.snapshot);
        let again = Reread { def, projection: &self.projection, history: &self.history, snapshot };
        let rows = again.rows(&read, &mut self.lanes)?;
        Ok(Some(concat_batches(&self.def.schema, &rows)?.project(&self.wanted)?))
    }
}
