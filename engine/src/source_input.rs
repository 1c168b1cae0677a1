//! Sources: a task reads ahead into a bounded queue, the driver takes from it at each tick.
//!
//! ```text
//!   SourceReader ──task──▶ Queue (rows and bytes bounded) ──take──▶ late rows out, watermark on ──▶ Delta
//!                                                            │
//!                                         positions, lanes: stored with the epoch that takes the rows
//! ```
//!
//! Lateness is judged here, once, for all views ([`lanes`](crate::lanes)). Rows that do not count are dropped, with the last few of
//! them kept for who asks, or go into a table with the commit of the epoch that takes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use datafusion::arrow::array::TimestampMicrosecondArray;
use datafusion::arrow::array::{ArrayRef, IntervalMonthDayNanoArray, RecordBatch, StringArray, new_null_array};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNano, SchemaRef};
use datafusion::scalar::ScalarValue;
use tidemark_common::connector::{DeadLetter, Positions, RowChanges, SourceBatch};
use tidemark_common::{Delta, Error, Oid, Result};
use tidemark_storage::{EpochCommit, Key, Snapshot, value};

pub use self::again::Replay;
pub(crate) use self::again::Reread;
pub(crate) use self::queue::{Lag, QueueLimits, ReadAhead, Waker};
use crate::dataflow::CollectionChanges;
use crate::dead_letters::{self, Fate};
use crate::engine::{SourceDef, WatermarkDef};
use crate::lanes::{History, Judge, Lanes, Reason, Refused};
use crate::operators::{Chunks, Watermarks};
use crate::table::follow::order::{self, Written};
use crate::table::{Table, conflict};

mod again;
mod queue;

/// Refused rows that are remembered.
const SAMPLES: usize = 10;
/// Microseconds.
const DAY: u64 = 86_400_000_000;

/// Columns of a table of refused rows besides those of its source: `late` or `future`; the watermark or the latest time that was
/// allowed; by how much the row missed that.
pub const LATE_COLUMNS: [&str; 3] = ["late_reason", "late_limit", "late_by"];

/// The watermark as the column's value, for the dataflows.
pub(crate) fn as_watermarks(def: Option<&WatermarkDef>, schema: &SchemaRef, lanes: &Lanes) -> Watermarks {
    let (Some(def), Some(value)) = (def, lanes.watermark()) else { return Watermarks::new() };
    // Rows that come late and are let in must still find what they belong to.
    let value = value.saturating_sub(def.allowed_lateness);
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

/// What an epoch takes from a source.
#[derive(Default)]
struct Taken {
    chunks: Chunks,
    positions: Positions,
    letters: Vec<(Arc<str>, DeadLetter)>,
    unknown: Vec<String>,
    orders: Vec<Written>,
}

/// Where the names of columns are stored that records have and the source has not.
const UNKNOWN: &str = "unknown_columns";
/// How many of them.
const UNKNOWN_COLUMNS: usize = 100;

/// Takes the records of each table: of all of them, or of none.
fn follow(
    tables: &mut BTreeMap<Oid, Table>,
    snapshot: &Arc<Snapshot>,
    records: BTreeMap<Oid, Vec<(RecordBatch, Option<RowChanges>)>>,
) -> Result<Vec<Written>> {
    let (mut written, mut taken) = (Vec::new(), Vec::new());
    for (oid, records) in records {
        // One that is gone has no rows.
        let Some(table) = tables.get_mut(&oid) else { continue };
        taken.push(oid);
        match table.follow(snapshot, records) {
            Ok(order) => written.push(order),
            Err(error) => {
                taken.iter().filter_map(|oid| tables.get_mut(oid).map(Table::forget_changes)).for_each(drop);
                return Err(error);
            }
        }
    }
    Ok(written)
}

/// Where a source's [`History`] is stored.
const HISTORY: &str = "history";

/// A row that did not count.
#[derive(Debug, Clone)]
pub struct RefusedRow {
    /// When it was read, in microseconds since 1970, as the times are.
    pub read_at: i64,
    pub reason: Reason,
    pub time: i64,
    /// The watermark, or the latest time that was allowed.
    pub limit: i64,
    /// The one row, with the columns that somebody reads.
    pub row: RecordBatch,
}

/// What the table of refused rows has besides the source's columns: why, what was missed, and by how much.
fn beside_refused(refused: &Refused) -> [(&'static str, ArrayRef); 3] {
    let reasons: StringArray = refused.reasons.iter().map(|reason| Some(reason.name())).collect();
    let limits = TimestampMicrosecondArray::from(refused.bounds.clone());
    let by = refused.times.iter().zip(&refused.bounds).map(|(time, limit)| {
        let micros = time.abs_diff(*limit);
        let (days, rest) = (micros / DAY, micros % DAY);
        Some(IntervalMonthDayNano::new(0, days as i32, rest as i64 * 1000))
    });
    let by: IntervalMonthDayNanoArray = by.collect();
    [(LATE_COLUMNS[0], Arc::new(reasons)), (LATE_COLUMNS[1], Arc::new(limits)), (LATE_COLUMNS[2], Arc::new(by))]
}

/// Refused rows as rows of the table that takes them, column by column of its name. A column that it has besides is NULL.
fn for_table(refused: &Refused, table: &SchemaRef) -> Result<RecordBatch> {
    let beside = beside_refused(refused);
    let column = |field: &FieldRef| -> Result<ArrayRef> {
        let name = field.name();
        let found = refused.rows.column_by_name(name);
        let found = found.or_else(|| beside.iter().find(|(known, _)| known == name).map(|(_, array)| array));
        Ok(match found {
            Some(array) => cast(array, field.data_type())?,
            None => new_null_array(field.data_type(), refused.rows.num_rows()),
        })
    };
    let columns = table.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(table.clone(), columns)?)
}

/// A source as the driver runs it.
pub(crate) struct SourceInput {
    pub def: SourceDef,
    pub positions: Positions,
    /// They have changed in this epoch.
    moved: bool,
    pub lanes: Lanes,
    /// Rarely changes, so that what it was before an epoch costs nothing.
    pub history: Arc<History>,
    /// Records of this epoch that could not be decoded, with their lanes.
    pub letters: Vec<(Arc<str>, DeadLetter)>,
    /// Rows of records that were set aside once, for this epoch.
    pub redelivered: Chunks,
    /// Such records have changed its own rows in this epoch.
    has_followed: bool,
    /// Columns that its records have and it has not.
    pub unknown: BTreeSet<String>,
    /// Records that came after later ones of their keys.
    pub stale: u64,
    /// The last rows that were refused.
    pub samples: Arc<VecDeque<RefusedRow>>,
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
    /// What everybody can see of [`Self::trouble`].
    pub shown: Option<Error>,
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
        let history = snapshot.get_value(&Key::SourceState { source: def.oid, what: HISTORY })?.unwrap_or_default();
        let history = Arc::new(history);
        let mut unknown: BTreeSet<String> =
            snapshot.get_value(&Key::SourceState { source: def.oid, what: UNKNOWN })?.unwrap_or_default();
        unknown.retain(|name| def.schema.index_of(name).is_err());
        let stale = order::stale(def.oid, snapshot)?;
        let paused = snapshot.get_value(&Key::SourceState { source: def.oid, what: "paused" })?.unwrap_or(false);
        Ok(Self {
            def,
            positions,
            moved: false,
            lanes,
            history,
            letters: Vec::new(),
            redelivered: Chunks::new(),
            has_followed: false,
            unknown,
            stale,
            samples: Arc::default(),
            reader: None,
            projection: Vec::new(),
            frozen: false,
            paused,
            began: None,
            idle: false,
            failed: None,
            shown: None,
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
        if self.def.late_table.is_some() || self.def.rows.is_some() {
            columns = (0..self.def.schema.fields().len()).collect();
        }
        let columns = self.def.with_time(&columns);
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
        self.began = None;
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

    pub fn lag(&self) -> Lag {
        self.reader.as_ref().map(ReadAhead::lag).unwrap_or_default()
    }

    /// Why it has failed, or what it waits for.
    pub fn trouble(&self) -> Option<Error> {
        self.failed.clone().or_else(|| self.reader.as_ref()?.trouble())
    }

    /// That is not an epoch's business: it is shown without one.
    pub fn has_news_of_trouble(&self) -> bool {
        self.trouble().as_ref().map(Error::message) != self.shown.as_ref().map(Error::message)
    }

    /// This epoch's rows, bounded by `rows`. Into `tables` go its own rows, if it has a primary key, and none is left here; those of the
    /// tables that share it; and those that are refused. Positions and lanes are after them. After an error it stands where it stood.
    pub fn take(
        &mut self,
        rows: usize,
        now: i64,
        tables: &mut BTreeMap<Oid, Table>,
        snapshot: &Arc<Snapshot>,
        commit: &mut EpochCommit,
    ) -> Result<CollectionChanges> {
        let (lanes, history) = (self.lanes.clone(), self.history.clone());
        let taken = match self.judge_rows(rows, now, tables, snapshot) {
            Ok(taken) => taken,
            Err(error) => {
                (self.lanes, self.history) = (lanes, history);
                return Err(error);
            }
        };
        // Rows that the source keeps itself are not read again.
        if self.def.rows.is_none() {
            for (lane, letter) in &taken.letters {
                dead_letters::note(self.def.oid, lane, letter.record.position as u64, Fate::Waits, commit)?;
            }
        }
        self.letters = taken.letters;
        self.put_orders(&taken.orders, commit)?;
        if self.note_unknown(taken.unknown) {
            commit.put(&Key::SourceState { source: self.def.oid, what: UNKNOWN }, &value::encode(&self.unknown)?);
        }
        for (split, position) in taken.positions {
            let key = Key::SourcePosition { source: self.def.oid, split: &split };
            commit.put(&key, &value::encode(&position)?);
            self.positions.insert(split, position);
            self.moved = true;
        }
        match self.reader.as_ref().and_then(ReadAhead::ended) {
            Some(Ok(())) => self.finished = true,
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
        let began = *self.began.get_or_insert(now);
        self.lanes.advance(self.def.idle_timeout, now, began);
        if self.lanes != lanes {
            commit.put(&Key::SourceState { source: self.def.oid, what: "lanes" }, &value::encode(&self.lanes)?);
        }
        if !Arc::ptr_eq(&self.history, &history) {
            commit.put(&Key::SourceState { source: self.def.oid, what: HISTORY }, &value::encode(&*self.history)?);
        }
        let watermarks = as_watermarks(self.def.watermark.as_ref(), &self.def.schema, &self.lanes);
        self.idle = self.lanes.is_idle(self.def.idle_timeout, now, began);
        Ok(CollectionChanges { chunks: taken.chunks, watermarks, idle: self.idle })
    }

    /// Of tables that are gone nothing is remembered: one that comes again is another.
    pub fn forget_tables(&mut self, commit: &mut EpochCommit) {
        let Some(tables) = &self.def.tables else { return };
        let of_table = |split: &str| split.rsplit_once('#').and_then(|(_, oid)| oid.parse::<Oid>().ok());
        let gone = |split: &&String| of_table(split).is_some_and(|table| !tables.contains(&table));
        let gone: Vec<String> = self.positions.keys().filter(gone).cloned().collect();
        for split in gone {
            commit.delete(&Key::SourcePosition { source: self.def.oid, split: &split });
            self.positions.remove(&split);
        }
    }

    /// What it has taken in the epoch is on disk.
    pub fn committed(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.def.source.committed(&self.positions);
        }
    }

    fn judge_rows(
        &mut self,
        rows: usize,
        now: i64,
        tables: &mut BTreeMap<Oid, Table>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Taken> {
        let mut all = Taken::default();
        let mut refused = Vec::new();
        let mut records: BTreeMap<Oid, Vec<(RecordBatch, Option<RowChanges>)>> = BTreeMap::new();
        let is_done = std::mem::take(&mut self.has_followed);
        let reader = self.reader.as_ref().filter(|_| !self.frozen && !is_done);
        for taken in reader.map(|r| r.take(rows)).unwrap_or_default() {
            if self.def.tables.is_some() {
                self.lanes.rows += taken.batch.num_rows() as u64;
                self.lanes.bytes += taken.bytes as u64;
                all.positions.extend(taken.positions);
                all.unknown.extend(taken.unknown);
                if let Some(table) = taken.into {
                    records.entry(table).or_default().push((taken.batch, taken.changes));
                }
                continue;
            }
            let batch = widen(&self.def.schema, &self.projection, &taken.batch)?;
            let judge = Judge::First { now, history: &mut self.history };
            let judged =
                self.lanes.admit(self.def.watermark.as_ref(), &taken.lane, batch, taken.places.as_deref(), judge)?;
            self.lanes.dropped += taken.dropped;
            self.lanes.bytes += taken.bytes as u64;
            all.positions.extend(taken.positions);
            all.unknown.extend(taken.unknown);
            refused.extend(judged.refused);
            all.letters.extend(taken.dead.into_iter().map(|letter| (Arc::clone(&taken.lane), letter)));
            if let Some(own) = &self.def.rows {
                records.entry(own.oid).or_default().push((judged.kept, taken.changes));
            } else if judged.kept.num_rows() > 0 {
                all.chunks.push(Delta::inserts(judged.kept));
            }
        }
        all.orders = follow(tables, snapshot, records)?;
        self.refuse(&refused, now, tables, snapshot)?;
        Ok(all)
    }

    fn refuse(
        &mut self,
        refused: &[Refused],
        now: i64,
        tables: &mut BTreeMap<Oid, Table>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<()> {
        let late = self.def.late_table.filter(|_| !refused.is_empty());
        if let Some(table) = late.and_then(|table| tables.get_mut(&table)) {
            let schema = table.def.collection.schema().clone();
            let rows = refused.iter().map(|r| for_table(r, &schema)).collect::<Result<Vec<_>>>()?;
            table.add(snapshot, concat_batches(&schema, &rows)?)?;
        }
        refused.iter().try_for_each(|rows| self.remember(rows, now))
    }

    fn put_orders(&mut self, orders: &[Written], commit: &mut EpochCommit) -> Result<()> {
        for order in orders {
            order.put(commit)?;
            self.stale = order.stale().unwrap_or(self.stale);
        }
        Ok(())
    }

    /// Takes records that were set aside into this epoch, before its other rows. After an error it has taken none.
    pub fn redeliver(
        &mut self,
        batches: Vec<SourceBatch>,
        now: i64,
        tables: &mut BTreeMap<Oid, Table>,
        snapshot: &Arc<Snapshot>,
        commit: &mut EpochCommit,
    ) -> Result<()> {
        if let Some(own) = &self.def.rows {
            // The rows of an epoch are compared with those before it all at once.
            if std::mem::replace(&mut self.has_followed, true) {
                return Err(conflict(&self.def.name));
            }
            let rows: u64 = batches.iter().map(|batch| batch.batch.num_rows() as u64).sum();
            let records = batches.into_iter().map(|batch| (batch.batch, batch.changes)).collect();
            let orders = follow(tables, snapshot, BTreeMap::from([(own.oid, records)]))?;
            self.put_orders(&orders, commit)?;
            self.lanes.rows += rows;
            return commit.put_value(&Key::SourceState { source: self.def.oid, what: "lanes" }, &self.lanes);
        }
        let mut lanes = self.lanes.clone();
        let (mut refused, mut kept, mut fates) = (Vec::new(), Chunks::new(), Vec::new());
        for SourceBatch { lane, batch, places, .. } in batches {
            let places = places.ok_or_else(|| Error::internal("records that were set aside have no places"))?;
            let (judged, counts) = lanes.admit_aside(self.def.watermark.as_ref(), batch, now)?;
            let fate = |(place, counts)| (Arc::clone(&lane), place, if counts { Fate::Taken } else { Fate::Refused });
            fates.extend(places.into_iter().zip(counts).map(fate));
            kept.extend((judged.kept.num_rows() > 0).then(|| Delta::inserts(judged.kept)));
            refused.extend(judged.refused);
        }
        self.refuse(&refused, now, tables, snapshot)?;
        for (lane, place, fate) in fates {
            dead_letters::note(self.def.oid, &lane, place, fate, commit)?;
        }
        self.lanes = lanes;
        self.redelivered.extend(kept);
        commit.put_value(&Key::SourceState { source: self.def.oid, what: "lanes" }, &self.lanes)
    }

    /// True if there are new ones among them: each is told once.
    fn note_unknown(&mut self, names: Vec<String>) -> bool {
        let before = self.unknown.len();
        for column in names {
            if self.unknown.len() < UNKNOWN_COLUMNS && self.unknown.insert(column.clone()) {
                let source = self.def.name.as_str();
                tracing::warn!(source, column, "records have a column that the source has not: it is left out");
            }
        }
        self.unknown.len() > before
    }

    fn remember(&mut self, refused: &Refused, now: i64) -> Result<()> {
        let rows = refused.rows.project(&self.projection)?;
        let first = refused.times.len().saturating_sub(SAMPLES);
        let samples = Arc::make_mut(&mut self.samples);
        for row in first..refused.times.len() {
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(RefusedRow {
                read_at: now,
                reason: refused.reasons[row],
                time: refused.times[row],
                limit: refused.bounds[row],
                row: rows.slice(row, 1),
            });
        }
        Ok(())
    }

    /// True if time alone has moved the watermark on, or made the source idle.
    pub fn idle_advance_due(&self, now: i64) -> bool {
        if self.def.idle_timeout.is_none() {
            return false;
        }
        let mut lanes = self.lanes.clone();
        lanes.advance(self.def.idle_timeout, now, self.began.unwrap_or(now));
        lanes.watermark() != self.lanes.watermark()
            || self.idle != self.lanes.is_idle(self.def.idle_timeout, now, self.began.unwrap_or(now))
    }
}
