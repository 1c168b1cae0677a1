//! Sources: a task reads ahead into a bounded queue, the driver takes from it at each tick.
//!
//! ```text
//!   SourceReader ──task──▶ Queue (rows and bytes bounded) ──take──▶ late rows out, watermark on ──▶ Delta
//!                                                            │
//!                                         positions, lanes: stored with the epoch that takes the rows
//! ```
//!
//! Lateness is judged here, once, for all views: a row is late if its event time lies below the watermark that the rows before
//! it in its lane have made. That depends on the order of rows in the lane alone, not on epochs, so a replay of the same rows
//! (a backfill, a SELECT over the source) drops the same ones.
//!
//! ```text
//!   lane:       ts  10:00  10:04  10:01  10:09  10:03        WATERMARK FOR ts AS ts - INTERVAL '5 minutes'
//!   watermark       09:55  09:59  09:59  10:04  10:04
//!                                               late: 10:03 < 10:04
//!   source's watermark = minimum over lanes that are not idle; it never goes back
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::{Array, BooleanArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};
use tidemark_common::connector::{Positions, Source, SourceBatch};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, Key, Snapshot, value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::dataflow::CollectionChanges;
use crate::engine::{SourceDef, WatermarkDef};
use crate::operators::{Chunks, Watermarks};

/// How much a queue may hold before its reader waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub rows: usize,
    pub bytes: usize,
}

/// Called when a queue has something for the driver.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct QueueState {
    batches: VecDeque<SourceBatch>,
    rows: usize,
    bytes: usize,
    lag_rows: Option<u64>,
    /// Set once the reader has nothing more: at its end, or failed.
    ended: Option<Result<()>>,
}

/// A reader task and what it has read ahead.
pub(crate) struct ReadAhead {
    state: Arc<(Mutex<QueueState>, Notify)>,
    task: AbortHandle,
}

fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadAhead {
    pub fn start(
        runtime: &tokio::runtime::Handle,
        source: Arc<dyn Source>,
        from: Positions,
        until: Option<Positions>,
        projection: Vec<usize>,
        limits: QueueLimits,
        waker: Waker,
    ) -> Self {
        let state = Arc::new((Mutex::new(QueueState::default()), Notify::new()));
        let shared = state.clone();
        let task = runtime.spawn(async move {
            let result = read(&*source, &from, until.as_ref(), &projection, limits, &shared, &waker).await;
            lock(&shared.0).ended = Some(result);
            waker();
        });
        Self { state, task: task.abort_handle() }
    }

    /// Takes whole batches, at least one if there is any, until they hold `rows`.
    pub fn take(&self, rows: usize) -> Vec<SourceBatch> {
        let mut state = lock(&self.state.0);
        let mut taken = Vec::new();
        let mut taken_rows = 0;
        while taken_rows < rows
            && let Some(batch) = state.batches.pop_front()
        {
            taken_rows += batch.batch.num_rows();
            state.rows -= batch.batch.num_rows();
            state.bytes -= batch.bytes;
            taken.push(batch);
        }
        drop(state);
        self.state.1.notify_one();
        taken
    }

    pub fn queued_rows(&self) -> usize {
        lock(&self.state.0).rows
    }

    pub fn has_batches(&self) -> bool {
        !lock(&self.state.0).batches.is_empty()
    }

    pub fn lag_rows(&self) -> Option<u64> {
        let state = lock(&self.state.0);
        state.lag_rows.map(|lag| lag + state.rows as u64)
    }

    /// How it ended, once everything it read has been taken.
    pub fn ended(&self) -> Option<Result<()>> {
        let state = lock(&self.state.0);
        if state.batches.is_empty() { state.ended.clone() } else { None }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(
    source: &dyn Source,
    from: &Positions,
    until: Option<&Positions>,
    projection: &[usize],
    limits: QueueLimits,
    shared: &(Mutex<QueueState>, Notify),
    waker: &Waker,
) -> Result<()> {
    let mut reader = source.reader(from, until, Some(projection)).await?;
    loop {
        loop {
            let full = {
                let state = lock(&shared.0);
                state.rows >= limits.rows || state.bytes >= limits.bytes
            };
            if !full {
                break;
            }
            shared.1.notified().await;
        }
        let Some(batch) = reader.next().await? else { return Ok(()) };
        {
            let mut state = lock(&shared.0);
            state.rows += batch.batch.num_rows();
            state.bytes += batch.bytes;
            state.lag_rows = reader.lag_rows();
            state.batches.push_back(batch);
        }
        waker();
    }
}

/// Event time of a source: watermarks of its lanes and what they have judged late.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lanes {
    lanes: BTreeMap<String, Lane>,
    /// Minimum over the lanes that are not idle, in microseconds; never goes back.
    watermark: Option<i64>,
    pub rows: u64,
    pub late_rows: u64,
    pub dropped: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Lane {
    watermark: Option<i64>,
    /// When its last row was taken, in microseconds.
    last_row: i64,
}

impl Lanes {
    /// Takes the late rows out of a batch with the source's columns, and moves the lane on.
    pub fn admit(
        &mut self,
        def: Option<&WatermarkDef>,
        lane: &str,
        batch: RecordBatch,
        now: i64,
    ) -> Result<RecordBatch> {
        self.rows += batch.num_rows() as u64;
        let Some(def) = def else { return Ok(batch) };
        let times = micros(batch.column(def.column))?;
        let made = micros(&def.expr.evaluate(&batch)?.into_array(batch.num_rows())?)?;
        let floor = self.watermark;
        let lane = self.lanes.entry(lane.to_string()).or_default();
        lane.last_row = now;
        let mut current = lane.watermark;
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let late = times.is_valid(row) && current.max(floor).is_some_and(|w| times.value(row) < w);
            keep.push(!late);
            if !late && made.is_valid(row) {
                current = current.max(Some(made.value(row)));
            }
        }
        lane.watermark = current;
        let kept = keep.iter().filter(|k| **k).count();
        if kept == batch.num_rows() {
            return Ok(batch);
        }
        self.late_rows += (batch.num_rows() - kept) as u64;
        Ok(filter_record_batch(&batch, &BooleanArray::from(keep))?)
    }

    /// Moves the source's watermark on: the minimum over lanes that had a row within `idle_timeout`.
    pub fn advance(&mut self, idle_timeout: Option<i64>, now: i64) {
        let active = |lane: &&Lane| idle_timeout.is_none_or(|timeout| now - lane.last_row < timeout);
        let minimum = self.lanes.values().filter(active).map(|l| l.watermark).min().flatten();
        self.watermark = self.watermark.max(minimum);
    }

    /// No lane has had a row within `idle_timeout`.
    pub fn is_idle(&self, idle_timeout: Option<i64>, now: i64, began: i64) -> bool {
        let last = self.lanes.values().map(|l| l.last_row).max().unwrap_or(began).max(began);
        idle_timeout.is_some_and(|timeout| now - last >= timeout)
    }

    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }
}

fn micros(array: &Arc<dyn Array>) -> Result<TimestampMicrosecondArray> {
    let plain = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    plain
        .as_any()
        .downcast_ref::<TimestampMicrosecondArray>()
        .cloned()
        .ok_or_else(|| Error::internal("an event time is not a timestamp"))
}

/// The watermark as the column's value, for the dataflows.
pub(crate) fn as_watermarks(def: Option<&WatermarkDef>, schema: &SchemaRef, lanes: &Lanes) -> Watermarks {
    let (Some(def), Some(value)) = (def, lanes.watermark) else { return Watermarks::new() };
    let zone = match schema.field(def.column).data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    Watermarks::from([(def.column, ScalarValue::TimestampMicrosecond(Some(value), zone))])
}

/// The source's columns from those that were read; what nobody reads is NULL.
pub(crate) fn widen(schema: &SchemaRef, projection: &[usize], batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| match projection.iter().position(|p| *p == i) {
            Some(at) => batch.column(at).clone(),
            None => new_null_array(field.data_type(), rows),
        })
        .collect();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// A source as the driver runs it.
pub(crate) struct SourceInput {
    pub def: SourceDef,
    pub positions: Positions,
    pub lanes: Lanes,
    reader: Option<ReadAhead>,
    /// Columns that are read: what the consumers need, and the event time.
    projection: Vec<usize>,
    /// A view that is about to join waits for the source to stand still.
    pub frozen: bool,
    pub paused: bool,
    /// When the first epoch of this life asked it for rows.
    began: Option<i64>,
    idle: bool,
    pub failed: Option<Error>,
    pub finished: bool,
}

impl SourceInput {
    /// Continues from what the last epoch stored.
    pub fn open(def: SourceDef, snapshot: &Arc<Snapshot>) -> Result<Self> {
        let mut positions = Positions::new();
        let span = Key::source_positions(def.oid);
        for entry in snapshot.scan(&span.start, &span.end) {
            let (key, stored) = entry?;
            if let Key::SourcePosition { split, .. } = Key::decode(&key)? {
                positions.insert(split.to_string(), value::decode(&stored)?);
            }
        }
        let lanes: Lanes =
            snapshot.get_value(&Key::SourceState { source: def.oid, what: "lanes" })?.unwrap_or_default();
        let paused = snapshot.get_value(&Key::SourceState { source: def.oid, what: "paused" })?.unwrap_or(false);
        Ok(Self {
            def,
            positions,
            lanes,
            reader: None,
            projection: Vec::new(),
            frozen: false,
            paused,
            began: None,
            idle: false,
            failed: None,
            finished: false,
        })
    }

    /// Reads these columns from now on. What was read ahead with others is read again.
    pub fn read_columns(
        &mut self,
        mut columns: Vec<usize>,
        runtime: &tokio::runtime::Handle,
        limits: QueueLimits,
        waker: Waker,
    ) {
        if let Some(watermark) = &self.def.watermark {
            columns.extend(watermark.reads.iter().copied());
        }
        columns.sort_unstable();
        columns.dedup();
        if (self.reader.is_some() && columns == self.projection) || self.failed.is_some() {
            return;
        }
        self.projection = columns.clone();
        self.finished = false;
        let source = self.def.source.clone();
        self.reader = Some(ReadAhead::start(runtime, source, self.positions.clone(), None, columns, limits, waker));
    }

    /// Lets its reader go; what it read ahead will be read again.
    pub fn stop_reading(&mut self) {
        self.reader = None;
    }

    pub fn queued_rows(&self) -> usize {
        match &self.reader {
            Some(reader) if !self.frozen => reader.queued_rows(),
            _ => 0,
        }
    }

    /// True if an epoch has something to take: rows, or the news that the reader has ended.
    pub fn has_rows(&self) -> bool {
        let news = |r: &ReadAhead| !self.finished && self.failed.is_none() && r.ended().is_some();
        !self.frozen && self.reader.as_ref().is_some_and(|r| r.has_batches() || news(r))
    }

    pub fn lag_rows(&self) -> Option<u64> {
        self.reader.as_ref().and_then(ReadAhead::lag_rows)
    }

    /// This epoch's rows, bounded by `rows`. Positions and lanes are after them.
    pub fn take(&mut self, rows: usize, now: i64, commit: &mut EpochCommit) -> Result<CollectionChanges> {
        let mut chunks = Chunks::new();
        let lanes_before = self.lanes.clone();
        let reader = self.reader.as_ref().filter(|_| !self.frozen);
        for taken in reader.map(|r| r.take(rows)).unwrap_or_default() {
            let batch = widen(&self.def.schema, &self.projection, &taken.batch)?;
            let kept = self.lanes.admit(self.def.watermark.as_ref(), &taken.lane, batch, now)?;
            self.lanes.dropped += taken.dropped;
            self.lanes.bytes += taken.bytes as u64;
            for (split, position) in taken.positions {
                let key = Key::SourcePosition { source: self.def.oid, split: &split };
                commit.put(&key, &value::encode(&position)?);
                self.positions.insert(split, position);
            }
            if kept.num_rows() > 0 {
                chunks.push(Delta::inserts(kept));
            }
        }
        match self.reader.as_ref().and_then(ReadAhead::ended) {
            Some(Ok(())) => self.finished = true,
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
        self.lanes.advance(self.def.idle_timeout, now);
        if self.lanes != lanes_before {
            commit.put(&Key::SourceState { source: self.def.oid, what: "lanes" }, &value::encode(&self.lanes)?);
        }
        let watermarks = as_watermarks(self.def.watermark.as_ref(), &self.def.schema, &self.lanes);
        self.idle = self.lanes.is_idle(self.def.idle_timeout, now, *self.began.get_or_insert(now));
        Ok(CollectionChanges { chunks, watermarks, idle: self.idle })
    }

    /// True if time alone has moved the watermark on, or made the source idle.
    pub fn idle_advance_due(&self, now: i64) -> bool {
        if self.def.idle_timeout.is_none() {
            return false;
        }
        let mut lanes = self.lanes.clone();
        lanes.advance(self.def.idle_timeout, now);
        lanes.watermark != self.lanes.watermark
            || self.idle != self.lanes.is_idle(self.def.idle_timeout, now, self.began.unwrap_or(now))
    }
}

/// Reads a source's rows again, up to where an epoch has read it, late rows left out: what a SELECT over the source sees.
pub struct Replay {
    reader: Box<dyn tidemark_common::connector::SourceReader>,
    def: SourceDef,
    projection: Vec<usize>,
    wanted: Vec<usize>,
    lanes: Lanes,
}

impl Replay {
    /// `columns`: those of the source's schema that are wanted, in that order.
    pub async fn start(def: SourceDef, until: &Positions, columns: Vec<usize>) -> Result<Self> {
        let mut projection = columns.clone();
        projection.extend(def.watermark.iter().flat_map(|w| w.reads.iter().copied()));
        projection.sort_unstable();
        projection.dedup();
        let reader = def.source.reader(&Positions::new(), Some(until), Some(&projection)).await?;
        Ok(Self { reader, def, projection, wanted: columns, lanes: Lanes::default() })
    }

    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(read) = self.reader.next().await? else { return Ok(None) };
        let batch = widen(&self.def.schema, &self.projection, &read.batch)?;
        let kept = self.lanes.admit(self.def.watermark.as_ref(), &read.lane, batch, 0)?;
        Ok(Some(kept.project(&self.wanted)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::physical_expr::expressions::Column;

    fn batch(times: &[Option<i64>]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(TimestampMicrosecondArray::from(times.to_vec()))]).unwrap()
    }

    fn def() -> WatermarkDef {
        WatermarkDef { column: 0, expr: Arc::new(Column::new("ts", 0)), reads: vec![0] }
    }

    #[test]
    fn lateness_depends_on_the_rows_before_not_on_the_batches() {
        let times: Vec<_> = [5, 3, 7, 7, 6, 9, 1].map(Some).to_vec();
        let all = Lanes::default().admit(Some(&def()), "a", batch(&times), 0).unwrap();
        let mut pieces = Lanes::default();
        let kept: usize =
            times.iter().map(|t| pieces.admit(Some(&def()), "a", batch(&[*t]), 0).unwrap().num_rows()).sum();
        assert_eq!((all.num_rows(), kept, pieces.late_rows), (4, 4, 3));
    }

    #[test]
    fn a_row_without_a_time_is_never_late() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.admit(Some(&def()), "a", batch(&[Some(9), None, Some(1)]), 0).unwrap().num_rows(), 2);
    }

    #[test]
    fn the_slowest_lane_that_is_not_idle_holds_the_watermark() {
        let mut lanes = Lanes::default();
        lanes.admit(Some(&def()), "a", batch(&[Some(10)]), 0).unwrap();
        lanes.admit(Some(&def()), "b", batch(&[Some(4)]), 0).unwrap();
        lanes.advance(Some(100), 50);
        assert_eq!(lanes.watermark(), Some(4));
        lanes.admit(Some(&def()), "a", batch(&[Some(20)]), 90).unwrap();
        lanes.advance(Some(100), 120);
        assert_eq!(lanes.watermark(), Some(20));
        // The lane that comes back does not move it back, and what lies below it is late.
        assert_eq!(lanes.admit(Some(&def()), "b", batch(&[Some(6)]), 121).unwrap().num_rows(), 0);
        lanes.advance(Some(100), 121);
        assert_eq!(lanes.watermark(), Some(20));
    }
}
