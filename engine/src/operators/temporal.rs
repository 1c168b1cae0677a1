//! Temporal filter: rows that leave, or come, as time passes.
//!
//! ```text
//!   ts > now() - 1 hour                                   ts <= now()
//!   changes ─ above the bound ─▶ kept, sent               changes ─ at or below the bound ─▶ sent
//!             else: has left                                        above ─▶ kept, not sent
//!   bound moves ─▶ kept rows that it reaches: -           bound moves ─▶ kept rows that it reaches: +
//! ```
//!
//! What is there follows from the row and the bound alone, so a row that is taken back is found where it is, and nothing of rows
//! that have left is kept. The input is exchanged by the column, so that a row and its taking back meet.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::plan::{Keeps, Temporal, numbers};
use tidemark_common::{Delta, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec};

use super::aggregate::Placement;
use super::exchange::shards_of;
use super::time_index::{TimeIndex, taken_rows};
use super::{Chunks, Operator, StateSize, StepContext, check_weight, only_input};

/// Which of a node's states it is.
const ROWS: u32 = 0;
/// A year in microseconds, and how many of them a row is looked for ahead.
const YEAR: i64 = 31_557_600_000_000;
const YEARS: i64 = 300;

pub struct TemporalFilter {
    plan: Temporal,
    schema: SchemaRef,
    codec: RowCodec,
    /// For errors.
    name: String,
    placement: Placement,
    /// By its number, the row ─▶ weight.
    rows: TimeIndex,
    /// The bound that is waited for, and when it will be.
    due: Cell<Option<(i64, i64)>>,
    now: i64,
}

impl TemporalFilter {
    pub fn new(plan: &Temporal, schema: &SchemaRef, placement: Placement) -> Result<Self> {
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        Ok(Self {
            plan: plan.clone(),
            schema: Arc::clone(schema),
            codec: RowCodec::new(&fields)?,
            rows: TimeIndex::new(KeyedState::new(placement.state(ROWS), placement.cache_budget)),
            name: placement.name(),
            placement,
            due: Cell::new(None),
            now: i64::MIN,
        })
    }

    /// The least number that the bound has not reached yet.
    fn limit(&self, now: i64) -> Result<i64> {
        let reached_by_equal =
            matches!((self.plan.keeps, self.plan.or_equal), (Keeps::Above, false) | (Keeps::Below, true));
        let bound = self.plan.at(now)?;
        Ok(if reached_by_equal { bound.saturating_add(1) } else { bound })
    }

    /// The kept rows that the bound has reached: they leave, or come.
    fn reached(&mut self, ctx: &StepContext<'_>, limit: i64) -> Result<Option<Delta>> {
        let taken = self.rows.take_below(ctx.snapshot, limit)?;
        if taken.is_empty() {
            return Ok(None);
        }
        let sign = if self.plan.keeps == Keeps::Above { -1 } else { 1 };
        let all = taken_rows(&taken, &self.codec, &self.schema, sign)?;
        let mine = self.mine(all.batch.column(self.plan.column), all.num_rows())?;
        let mine = all.filter(&mine)?;
        Ok((!mine.is_empty()).then_some(mine))
    }

    /// After a restart with another number of shards there are rows of others among them.
    fn mine(&self, column: &ArrayRef, rows: usize) -> Result<BooleanArray> {
        let Placement { shard, shards, .. } = self.placement;
        if shards == 1 {
            return Ok(BooleanArray::from(vec![true; rows]));
        }
        Ok(shards_of(&[Arc::clone(column)], rows, shards)?.into_iter().map(|of| Some(of == shard)).collect())
    }

    /// Rows on one side of the bound are sent, on the other they wait; those that will be reached are kept.
    fn changed(&mut self, ctx: &StepContext<'_>, delta: &Delta, limit: i64) -> Result<Option<Delta>> {
        let times = numbers(delta.batch.column(self.plan.column))?;
        let ahead: BooleanArray = times.iter().map(|time| Some(time.is_some_and(|time| time >= limit))).collect();
        let is_there = |time: &Option<i64>| match self.plan.keeps {
            Keeps::Above => time.is_some_and(|time| time >= limit),
            Keeps::Below => time.is_some_and(|time| time < limit),
        };
        let sent: BooleanArray = times.iter().map(|time| Some(is_there(time))).collect();
        let kept = filter_record_batch(&delta.batch, &ahead)?;
        let weights = (0..delta.num_rows()).filter(|row| ahead.value(*row)).map(|row| delta.weight(row));
        self.keep(ctx, &kept, &weights.collect::<Vec<_>>())?;
        let sent = delta.filter(&sent)?;
        Ok((!sent.is_empty()).then_some(sent))
    }

    fn keep(&mut self, ctx: &StepContext<'_>, rows: &RecordBatch, weights: &[i64]) -> Result<()> {
        let times = numbers(rows.column(self.plan.column))?;
        let encoded = self.codec.encode_rows(rows.columns(), rows.num_rows())?;
        let rows = times.iter().zip(weights).enumerate();
        let rows = rows.filter_map(|(row, (time, weight))| Some(((*time)?, encoded.row(row), *weight)));
        self.rows.add(ctx.snapshot, rows, |weight| check_weight(&self.name, "a row", weight))
    }

    /// The first moment after `now` at which the bound has reached `time`.
    fn moment_of(&self, time: i64) -> Result<Option<i64>> {
        let reached = |now: i64| -> Result<bool> { Ok(self.limit(now)? > time) };
        let (mut before, mut step) = (self.now, 1_000_000);
        let end = self.now.saturating_add(YEAR * YEARS);
        let mut after = before;
        while !reached(after)? {
            if after >= end {
                return Ok(None);
            }
            before = after;
            after = after.saturating_add(step).min(end);
            step *= 2;
        }
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if reached(middle)? { after = middle } else { before = middle }
        }
        Ok(Some(after))
    }
}

impl Operator for TemporalFilter {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        self.now = ctx.now;
        let limit = self.limit(ctx.now)?;
        let mut output = Chunks::new();
        output.extend(self.reached(ctx, limit)?);
        for delta in only_input(inputs)? {
            output.extend(self.changed(ctx, &delta, limit)?);
        }
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.rows.flush(commit);
        Ok(())
    }

    fn due_at(&self) -> Result<Option<i64>> {
        let Some(first) = self.rows.first() else { return Ok(None) };
        // Before its first step it has not looked yet.
        let Some(first) = first.filter(|_| self.now != i64::MIN) else { return Ok(Some(i64::MIN)) };
        if let Some((known, at)) = self.due.get()
            && known == first
        {
            return Ok(Some(at));
        }
        let at = self.moment_of(first)?.unwrap_or(i64::MAX);
        self.due.set(Some((first, at)));
        Ok(Some(at))
    }

    fn state_size(&self) -> StateSize {
        self.rows.size()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::datatypes::IntervalMonthDayNano;
    use datafusion::arrow::datatypes::{DataType, TimeUnit};
    use datafusion::arrow::util::display::array_value_to_string;
    use datafusion::logical_expr::Operator as Compare;
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, lit};
    use datafusion::scalar::ScalarValue;
    use expect_test::expect;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use tidemark_common::plan::{Op, Properties};

    use super::*;
    use crate::operators::testing::{TestFlow, delta, input, plan, schema, show};

    const COLUMNS: &str = "id bigint, ts timestamp";
    const SECOND: i64 = 1_000_000;

    /// now() - INTERVAL '10 seconds', as a TIMESTAMP.
    fn ten_seconds_ago() -> Arc<dyn PhysicalExpr> {
        let now = Arc::new(Column::new("now", 0));
        let plain = CastExpr::new(now, DataType::Timestamp(TimeUnit::Microsecond, None), None);
        let ten = lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, 10 * SECOND * 1000))));
        Arc::new(BinaryExpr::new(Arc::new(plain), Compare::Minus, ten))
    }

    fn flow(keeps: Keeps, or_equal: bool, shards: usize) -> TestFlow {
        let schema = schema(COLUMNS);
        let temporal = Temporal { column: 1, bound: ten_seconds_ago(), keeps, or_equal };
        let nodes = vec![
            input(&schema, &[]),
            (Op::Exchange { keys: vec![1] }, vec![0], Arc::clone(&schema), Properties::default()),
            (Op::Temporal(temporal), vec![1], Arc::clone(&schema), Properties::default()),
        ];
        TestFlow::new(plan(nodes), shards)
    }

    fn at(second: i64) -> String {
        let time = ScalarValue::TimestampMicrosecond(Some(second * SECOND), None).to_array().unwrap();
        array_value_to_string(&time, 0).unwrap()
    }

    #[test]
    fn rows_leave_and_come_as_time_passes() {
        let mut told = String::new();
        for keeps in [Keeps::Above, Keeps::Below] {
            let mut flow = flow(keeps, false, 1);
            told += &format!("{keeps:?}\n");
            for (now, rows) in [
                (20, format!("+ 1 {}\n+ 2 {}\n+ 3 {}\n+ 4 NULL", at(9), at(10), at(12))),
                (21, String::new()),
                (22, format!("- 2 {}\n+2 5 {}", at(10), at(13))),
                (24, format!("- 3 {}\n- 5 {}", at(12), at(13))),
            ] {
                flow.now = now * SECOND;
                told += &format!("{now}: {}", flow.rows(&schema(COLUMNS), &rows).replace('\n', "; "));
                let due = flow.flow.due_at().unwrap().map(|due| due as f64 / SECOND as f64);
                told += &format!("due {due:?}, keeps {}\n", flow.stored_entries());
            }
        }
        expect![[r#"
            Above
            20: + 3 1970-01-01T00:00:12; due Some(22.0), keeps 1
            21: due Some(22.0), keeps 1
            22: - 3 1970-01-01T00:00:12; +2 5 1970-01-01T00:00:13; due Some(23.0), keeps 1
            24: -2 5 1970-01-01T00:00:13; due None, keeps 0
            Below
            20: + 1 1970-01-01T00:00:09; due Some(20.000001), keeps 2
            21: + 2 1970-01-01T00:00:10; due Some(22.000001), keeps 1
            22: - 2 1970-01-01T00:00:10; due Some(22.000001), keeps 2
            24: + 3 1970-01-01T00:00:12; +2 5 1970-01-01T00:00:13; - 3 1970-01-01T00:00:12; - 5 1970-01-01T00:00:13; due None, keeps 0
        "#]]
        .assert_eq(&told);
    }

    /// At every moment what is there is what the condition says of all rows, over restarts with other numbers of shards.
    #[test]
    fn what_is_there_is_what_the_condition_says() {
        let mut rng = StdRng::seed_from_u64(11);
        for (keeps, or_equal) in [Keeps::Above, Keeps::Below].into_iter().flat_map(|k| [(k, true), (k, false)]) {
            let mut flow = flow(keeps, or_equal, 2);
            let (mut rows, mut sent): (BTreeMap<(i64, i64), i64>, BTreeMap<String, i64>) = Default::default();
            for _ in 0..120 {
                flow.now += rng.random_range(0..3) * SECOND;
                let mut text = String::new();
                for _ in 0..rng.random_range(0..6) {
                    let (id, second) = (rng.random_range(0..4), flow.now / SECOND + rng.random_range(-16..4));
                    let there = rows.entry((id, second)).or_default();
                    let weight = if *there > 0 && rng.random_bool(0.5) { -1 } else { 1 };
                    *there += weight;
                    text += &format!("{weight:+} {id} {}\n", at(second));
                }
                let changes = crate::operators::testing::changes(vec![delta(&schema(COLUMNS), &text)]);
                for line in show(&flow.epoch(changes).chunks).lines() {
                    let (weight, row) = line.split_once(' ').unwrap();
                    let weight = match weight {
                        "+" => 1,
                        "-" => -1,
                        more => more.parse().unwrap(),
                    };
                    *sent.entry(row.to_string()).or_default() += weight;
                }
                if rng.random_bool(0.1) {
                    flow.reopen(rng.random_range(1..4));
                }
                let bound = flow.now / SECOND - 10;
                let holds = |second: i64| match (keeps, or_equal) {
                    (Keeps::Above, true) => second >= bound,
                    (Keeps::Above, false) => second > bound,
                    (Keeps::Below, true) => second <= bound,
                    (Keeps::Below, false) => second < bound,
                };
                let row = |id: i64, second: i64| format!("{id} {}", at(second));
                let expected: BTreeMap<String, i64> = rows
                    .iter()
                    .filter(|((_, second), there)| **there > 0 && holds(*second))
                    .map(|((id, second), there)| (row(*id, *second), *there))
                    .collect();
                sent.retain(|_, there| *there != 0);
                assert_eq!(sent, expected, "{keeps:?} {or_equal} at {}", flow.now / SECOND);
            }
        }
    }
}
