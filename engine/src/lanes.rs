//! Event time of a source: which of its rows are late, which lie too far ahead, and how far the watermark has come.
//!
//! A row is late if its event time lies below the watermark that the rows before it in its lane have made. That depends on the
//! order of rows in the lane alone, not on epochs:
//!
//! ```text
//!   lane:       ts  10:00  10:04  10:01  10:09  10:03        WATERMARK FOR ts AS ts - INTERVAL '5 minutes'
//!   watermark       09:55  09:59  09:59  10:04  10:04
//!                                               late: 10:03 < 10:04
//!   source's watermark = minimum over lanes that are not idle; it never goes back
//! ```
//!
//! Two things hang on more than the lane: a lane that was idle finds that the others have gone on without it, and `max_future`
//! compares with the clock. Both are remembered by the place of the row in its lane from which they held ([`History`]), so that
//! whoever reads the rows again (a backfill, a SELECT over the source) judges as the first reading did.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::{filter_record_batch, nullif};
use serde::{Deserialize, Serialize};
use tidemark_common::Result;

use crate::engine::WatermarkDef;
use crate::operators::time_index::micros;

/// The clock that `max_future` is judged by is read anew when this part of `max_future` has passed, so that rows that come too
/// early all the time add few entries to the history.
const CLOCK_STEPS: i64 = 16;
/// In [`History`]: from this row on, none lies too far ahead.
const NEVER: i64 = i64::MAX;

/// Watermarks of a source's lanes and what they have judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lanes {
    lanes: BTreeMap<String, Lane>,
    /// Minimum over the lanes that are not idle, in microseconds; never goes back.
    watermark: Option<i64>,
    pub rows: u64,
    pub late_rows: u64,
    /// Rows that lay further ahead than `max_future`.
    pub future_rows: u64,
    pub dropped: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Lane {
    watermark: Option<i64>,
    /// When its last row was taken, in microseconds.
    last_row: i64,
    /// Of the next row, those that were refused are counted, too.
    place: u64,
    /// The row from which on the clock stands at this time, for `max_future`.
    clock: Option<(u64, i64)>,
}

/// What a reader who comes later cannot know: by lane, from its n-th row on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// The watermark is at least this: other lanes had gone on.
    raised: BTreeMap<String, Vec<(u64, i64)>>,
    /// The time that `max_future` is counted from; only where that has made a difference.
    clock: BTreeMap<String, Vec<(u64, i64)>>,
}

/// Who judges.
pub(crate) enum Judge<'a> {
    /// The source as it reads on, at this time; what its judgement hangs on is remembered.
    First { now: i64, history: &'a mut Arc<History> },
    /// Whoever reads the same rows from the start.
    Again(&'a History),
}

/// The rows of a batch that count, and those that do not.
pub(crate) struct Judged {
    pub kept: RecordBatch,
    pub refused: Option<Refused>,
}

/// Rows that were left out.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub rows: RecordBatch,
    pub reasons: Vec<Reason>,
    /// Event time of each.
    pub times: Vec<i64>,
    /// What each was compared with: the watermark of its lane, or the latest time that is allowed.
    pub bounds: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Late,
    Future,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Late => "late",
            Reason::Future => "future",
        }
    }
}

impl Lanes {
    /// Takes the rows that do not count out of a batch with the source's columns, and moves the lane on.
    pub fn admit(
        &mut self,
        def: Option<&WatermarkDef>,
        name: &str,
        batch: RecordBatch,
        places: Option<&[u64]>,
        mut judge: Judge<'_>,
    ) -> Result<Judged> {
        self.rows += batch.num_rows() as u64;
        let Some(def) = def else { return Ok(Judged { kept: batch, refused: None }) };
        let times = micros(batch.column(def.column))?;
        let made = made(def, &batch, &times)?;
        let floor = self.watermark;
        let lane = self.lanes.entry(name.to_string()).or_default();
        lane.begin(name, floor, def.max_future, &mut judge);
        let mut keep = Vec::with_capacity(batch.num_rows());
        let (mut reasons, mut bounds) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            lane.place = places.map_or(lane.place, |places| places[row]);
            let verdict = lane.judge(name, times[row], def, &mut judge);
            keep.push(verdict.is_none());
            match verdict {
                Some((reason, bound)) => {
                    reasons.push(reason);
                    bounds.push(bound);
                }
                None => lane.watermark = lane.watermark.max(made[row]),
            }
            lane.place += 1;
        }
        self.judged(&batch, keep, &times, reasons, bounds)
    }

    /// Judges rows that come out of their order: by how far the source is, which they do not move. `now`: that `max_future` counts from.
    /// With which of them count.
    pub fn admit_aside(
        &mut self,
        def: Option<&WatermarkDef>,
        batch: RecordBatch,
        now: i64,
    ) -> Result<(Judged, Vec<bool>)> {
        self.rows += batch.num_rows() as u64;
        let Some(def) = def else {
            let all = vec![true; batch.num_rows()];
            return Ok((Judged { kept: batch, refused: None }, all));
        };
        let times = micros(batch.column(def.column))?;
        let latest = def.max_future.map(|ahead| now.saturating_add(ahead));
        let verdicts: Vec<_> = times.iter().map(|time| def.judge((*time)?, self.watermark, latest)).collect();
        let keep: Vec<bool> = verdicts.iter().map(Option::is_none).collect();
        let (reasons, bounds) = verdicts.into_iter().flatten().unzip();
        Ok((self.judged(&batch, keep.clone(), &times, reasons, bounds)?, keep))
    }

    /// `reasons` and `bounds`: of the rows that are not kept.
    fn judged(
        &mut self,
        batch: &RecordBatch,
        keep: Vec<bool>,
        times: &[Option<i64>],
        reasons: Vec<Reason>,
        bounds: Vec<i64>,
    ) -> Result<Judged> {
        if reasons.is_empty() {
            return Ok(Judged { kept: batch.clone(), refused: None });
        }
        let future = reasons.iter().filter(|r| **r == Reason::Future).count() as u64;
        self.future_rows += future;
        self.late_rows += reasons.len() as u64 - future;
        // What has no time always counts.
        let times = keep.iter().zip(times).filter(|(keep, _)| !**keep).filter_map(|(_, time)| *time).collect();
        let keep = BooleanArray::from(keep);
        let rows = filter_record_batch(batch, &datafusion::arrow::compute::not(&keep)?)?;
        let refused = Some(Refused { rows, reasons, times, bounds });
        Ok(Judged { kept: filter_record_batch(batch, &keep)?, refused })
    }

    /// Moves the source's watermark on: the minimum over lanes that had a row within `idle_timeout`.
    /// `began`: when reading began in this life; what came while nobody read may still come.
    pub fn advance(&mut self, idle_timeout: Option<i64>, now: i64, began: i64) {
        let active =
            |lane: &&Lane| idle_timeout.is_none_or(|timeout| now.saturating_sub(lane.last_row.max(began)) < timeout);
        let minimum = self.lanes.values().filter(active).map(|l| l.watermark).min().flatten();
        self.watermark = self.watermark.max(minimum);
    }

    /// As [`advance`](Self::advance), for who reads again: the lanes that `first` knows count before their first row here.
    pub fn advance_as(&mut self, first: &Lanes) {
        let known = first.lanes.keys().map(|name| self.lanes.get(name).and_then(|lane| lane.watermark));
        self.watermark = self.watermark.max(known.min().flatten());
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

impl Lane {
    /// Before a batch: what has happened elsewhere since the last one.
    fn begin(&mut self, name: &str, floor: Option<i64>, max_future: Option<i64>, judge: &mut Judge<'_>) {
        let Judge::First { now, history } = judge else { return };
        self.last_row = *now;
        if let Some(floor) = floor.filter(|floor| self.watermark.is_none_or(|own| own < *floor)) {
            self.watermark = Some(floor);
            let raised = &mut Arc::make_mut(history).raised;
            raised.entry(name.to_string()).or_default().push((self.place, floor));
        }
        let Some(max_future) = max_future else { return };
        let step = (max_future / CLOCK_STEPS).max(1);
        if self.clock.is_none_or(|(_, read)| now.saturating_sub(read) >= step) {
            self.clock = Some((self.place, *now));
            // What was remembered holds no longer.
            let last = history.clock.get(name).and_then(|entries| entries.last());
            if last.is_some_and(|(_, clock)| *clock != NEVER) {
                let clocks = &mut Arc::make_mut(history).clock;
                clocks.entry(name.to_string()).or_default().push((self.place, NEVER));
            }
        }
    }

    /// Why its next row does not count, and what its time was compared with; `None`: it counts.
    fn judge(
        &mut self,
        name: &str,
        time: Option<i64>,
        def: &WatermarkDef,
        judge: &mut Judge<'_>,
    ) -> Option<(Reason, i64)> {
        let clock = match judge {
            Judge::First { .. } => self.clock.map(|(_, clock)| clock),
            Judge::Again(history) => {
                let raised = history.raised.get(name).and_then(|entries| held(entries, self.place));
                self.watermark = self.watermark.max(raised);
                history.clock.get(name).and_then(|entries| held(entries, self.place))
            }
        };
        let time = time?;
        let latest = def.max_future.zip(clock).map(|(ahead, clock)| clock.saturating_add(ahead));
        let verdict = def.judge(time, self.watermark, latest);
        if matches!(verdict, Some((Reason::Future, _))) {
            self.remember_clock(name, judge);
        }
        verdict
    }

    /// The clock has made a difference.
    fn remember_clock(&self, name: &str, judge: &mut Judge<'_>) {
        let (Judge::First { history, .. }, Some(clock)) = (judge, self.clock) else { return };
        let known = history.clock.get(name).and_then(|entries| entries.last());
        if known == Some(&clock) {
            return;
        }
        let entries = Arc::make_mut(history).clock.entry(name.to_string()).or_default();
        match entries.last_mut() {
            Some(last) if last.0 == clock.0 => *last = clock,
            _ => entries.push(clock),
        }
    }
}

impl WatermarkDef {
    /// Why a row of this time does not count, and what its time was compared with.
    fn judge(&self, time: i64, watermark: Option<i64>, latest: Option<i64>) -> Option<(Reason, i64)> {
        if let Some(latest) = latest.filter(|latest| time > *latest) {
            return Some((Reason::Future, latest));
        }
        let oldest = watermark?.saturating_sub(self.allowed_lateness);
        (time < oldest).then_some((Reason::Late, oldest))
    }
}

/// The watermark that each row makes: none without a time, or with one that has no end.
fn made(def: &WatermarkDef, batch: &RecordBatch, times: &[Option<i64>]) -> Result<Vec<Option<i64>>> {
    let endless = |time: &Option<i64>| matches!(time, Some(i64::MIN | i64::MAX));
    let evaluated = |rows: &RecordBatch| micros(&def.expr.evaluate(rows)?.into_array(rows.num_rows())?);
    if !times.iter().any(endless) {
        return evaluated(batch);
    }
    let mask: BooleanArray = times.iter().map(|time| Some(endless(time))).collect();
    let mut columns = batch.columns().to_vec();
    columns[def.column] = nullif(&columns[def.column], &mask)?;
    evaluated(&RecordBatch::try_new(batch.schema(), columns)?)
}

/// The value of the last entry at or before this row.
fn held(entries: &[(u64, i64)], row: u64) -> Option<i64> {
    let behind = entries.partition_point(|(from, _)| *from <= row);
    Some(entries[behind.checked_sub(1)?].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::TimestampMicrosecondArray;
    use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use datafusion::physical_expr::expressions::Column;

    fn batch(times: &[Option<i64>]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(TimestampMicrosecondArray::from(times.to_vec()))]).unwrap()
    }

    fn def() -> WatermarkDef {
        let expr = Arc::new(Column::new("ts", 0));
        WatermarkDef { column: 0, expr, reads: vec![0], max_future: None, allowed_lateness: 0 }
    }

    /// A source whose batches are judged as they come; each is kept, to be judged again.
    #[derive(Default)]
    struct Source {
        def: Option<WatermarkDef>,
        lanes: Lanes,
        history: Arc<History>,
        read: Vec<(&'static str, Vec<Option<i64>>)>,
        kept: BTreeMap<&'static str, Vec<Option<i64>>>,
    }

    impl Source {
        /// The times that count.
        fn take(&mut self, now: i64, lane: &'static str, times: &[i64]) -> Vec<i64> {
            let times: Vec<_> = times.iter().map(|t| Some(*t)).collect();
            let judge = Judge::First { now, history: &mut self.history };
            let def = self.def.get_or_insert_with(def);
            let judged = self.lanes.admit(Some(def), lane, batch(&times), None, judge).unwrap();
            self.read.push((lane, times));
            let kept = micros(judged.kept.column(0)).unwrap();
            self.kept.entry(lane).or_default().extend(&kept);
            kept.into_iter().flatten().collect()
        }

        /// Reads all again, lane after lane in pieces of `size`: the same rows must count.
        fn check_again(&self, size: usize) {
            let mut lanes = Lanes::default();
            let mut kept: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
            for (name, counted) in &self.kept {
                let times: Vec<_> = self.read.iter().filter(|r| r.0 == *name).flat_map(|r| r.1.clone()).collect();
                for piece in times.chunks(size) {
                    let judge = Judge::Again(&self.history);
                    let judged = lanes.admit(self.def.as_ref(), name, batch(piece), None, judge).unwrap();
                    kept.entry(name).or_default().extend(micros(judged.kept.column(0)).unwrap());
                    lanes.advance_as(&self.lanes);
                    assert!(self.lanes.watermark().is_none() || lanes.watermark() <= self.lanes.watermark());
                }
                assert_eq!(&kept[name], counted, "lane {name} in pieces of {size}");
            }
            assert_eq!((lanes.late_rows, lanes.future_rows), (self.lanes.late_rows, self.lanes.future_rows));
        }
    }

    #[test]
    fn lateness_depends_on_the_rows_before_not_on_the_batches() {
        let mut source = Source::default();
        assert_eq!(source.take(0, "a", &[5, 3, 7, 7, 6, 9, 1]), [5, 7, 7, 9]);
        assert_eq!(source.lanes.late_rows, 3);
        (1..8).for_each(|size| source.check_again(size));
    }

    #[test]
    fn a_row_without_a_time_is_never_late() {
        let mut lanes = Lanes::default();
        let judge = Judge::Again(&History::default());
        let judged = lanes.admit(Some(&def()), "a", batch(&[Some(9), None, Some(1)]), None, judge).unwrap();
        assert_eq!(judged.kept.num_rows(), 2);
    }

    #[test]
    fn a_time_without_end_makes_no_watermark() {
        let mut source = Source::default();
        assert_eq!(source.take(0, "a", &[5, i64::MAX, 6, i64::MIN, 4]), [5, i64::MAX, 6]);
        source.lanes.advance(None, 0, 0);
        assert_eq!(source.lanes.watermark(), Some(6));
        (1..5).for_each(|size| source.check_again(size));
    }

    #[test]
    fn the_slowest_lane_that_is_not_idle_holds_the_watermark() {
        let mut source = Source::default();
        source.take(0, "a", &[10]);
        source.take(0, "b", &[4]);
        source.lanes.advance(Some(100), 50, 0);
        assert_eq!(source.lanes.watermark(), Some(4));
        source.take(90, "a", &[20]);
        source.lanes.advance(Some(100), 120, 0);
        assert_eq!(source.lanes.watermark(), Some(20));
        // The lane that comes back does not move it back, and what lies below it is late.
        assert_eq!(source.take(121, "b", &[6, 20]), [20]);
        source.lanes.advance(Some(100), 121, 0);
        assert_eq!(source.lanes.watermark(), Some(20));
        (1..4).for_each(|size| source.check_again(size));
    }

    #[test]
    fn what_came_while_nobody_read_is_waited_for() {
        let mut source = Source::default();
        source.take(0, "a", &[10]);
        source.take(0, "b", &[10]);
        // The server was down from 0 to 1000. The lane that is read first does not make the other one late.
        source.take(1000, "a", &[500]);
        source.lanes.advance(Some(100), 1000, 1000);
        assert_eq!(source.take(1001, "b", &[20, 30]), [20, 30]);
        source.lanes.advance(Some(100), 1100, 1000);
        assert_eq!(source.lanes.watermark(), Some(30));
    }

    #[test]
    fn a_lane_that_comes_later_begins_at_the_watermark() {
        let mut source = Source::default();
        source.take(0, "b", &[10]);
        source.lanes.advance(None, 0, 0);
        assert_eq!(source.take(1, "a", &[8, 11, 9]), [11]);
        source.check_again(1);
    }

    #[test]
    fn rows_too_far_ahead_move_nothing() {
        let def = WatermarkDef { max_future: Some(100), ..def() };
        let mut source = Source { def: Some(def), ..Source::default() };
        assert_eq!(source.take(1000, "a", &[990, 5000, 989, 991, 1100, 1101]), [990, 991, 1100]);
        assert_eq!((source.lanes.late_rows, source.lanes.future_rows), (1, 2));
        // Time has come nearer; the same times count now, and did not before.
        assert_eq!(source.take(1050, "a", &[1101, 1150, 1151]), [1101, 1150]);
        assert_eq!(source.take(2000, "a", &[2000, 2101, 2100]), [2000, 2100]);
        assert_eq!(source.take(2001, "a", &[2101]), Vec::<i64>::new());
        assert_eq!(source.take(3000, "a", &[2101]), [2101]);
        (1..6).for_each(|size| source.check_again(size));
        assert_eq!(source.history.clock["a"].len(), 4, "{:?}", source.history);
    }

    #[test]
    fn a_window_is_reopened_for_as_long_as_is_allowed() {
        let def = WatermarkDef { allowed_lateness: 10, ..def() };
        let mut source = Source { def: Some(def), ..Source::default() };
        assert_eq!(source.take(0, "a", &[100, 90, 89, 95]), [100, 90, 95]);
        source.check_again(1);
    }
}
