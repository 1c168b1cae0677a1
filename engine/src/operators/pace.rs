//! EMIT CHANGES EVERY: changes are held back, netted, and sent together at multiples of an interval. Without an interval only what
//! is final is sent: EMIT ON WINDOW CLOSE of what has no closing of its own, such as the first rows of each window.
//!
//! ```text
//!   12:00:00        12:00:10        12:00:20            EVERY INTERVAL '10 seconds'
//!      ├──+a──+b──-a──┼──+c──window──┼──▶
//!                     +b      closes  +..
//!                             +its rows at once: what is final does not wait
//! ```

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use tidemark_common::plan::Pace as Plan;
use tidemark_common::{Delta, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec};

use super::aggregate::Placement;
use super::aggregate::keys::on_time;
use super::time_index::{TimeIndex, micros, taken_rows, watermark_micros};
use super::{Chunks, Operator, StateSize, StepContext, only_input};

/// Which of a node's states it is.
const HELD: u32 = 0;
/// The place of rows that no watermark passes.
const OPEN: i64 = i64::MAX;

pub struct Pace {
    plan: Plan,
    schema: SchemaRef,
    codec: RowCodec,
    /// By the column with the watermark, the row ─▶ how often it has come or gone since it was last told.
    held: TimeIndex,
    /// All rows are on shard 0.
    is_first_shard: bool,
    late_rows: u64,
    /// When changes were last sent: the number of the interval. Rows held from an earlier life go first.
    sent: Option<i64>,
}

impl Pace {
    pub fn new(plan: Plan, schema: &SchemaRef, placement: &Placement) -> Result<Self> {
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        Ok(Self {
            plan,
            schema: Arc::clone(schema),
            codec: RowCodec::new(&fields)?,
            held: TimeIndex::new(KeyedState::new(placement.state(HELD), placement.cache_budget)),
            is_first_shard: placement.shard == 0,
            late_rows: 0,
            sent: None,
        })
    }

    fn hold(&mut self, ctx: &StepContext<'_>, delta: &Delta) -> Result<()> {
        let times = match self.plan.close {
            Some(column) => micros(delta.batch.column(column))?,
            None => vec![None; delta.num_rows()],
        };
        let encoded = self.codec.encode_rows(delta.batch.columns(), delta.num_rows())?;
        let rows = times.iter().enumerate();
        // What has no time is never final: where nothing else is sent, it is not kept either.
        let rows = rows.filter(|(_, time)| self.plan.every.is_some() || time.is_some());
        let rows = rows.map(|(row, time)| (time.unwrap_or(OPEN), encoded.row(row), delta.weight(row)));
        self.held.add(ctx.snapshot, rows, |_| Ok(()))
    }

    fn send_below(&mut self, ctx: &StepContext<'_>, bound: Option<i64>) -> Result<Option<Delta>> {
        let taken = match bound {
            Some(bound) => self.held.take_below(ctx.snapshot, bound)?,
            None => self.held.take_all(ctx.snapshot)?,
        };
        if taken.is_empty() {
            return Ok(None);
        }
        taken_rows(&taken, &self.codec, &self.schema, 1).map(Some)
    }
}

impl Operator for Pace {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        if !self.is_first_shard {
            return Ok(Chunks::new());
        }
        let mut changes = only_input(inputs)?;
        if let Some(column) = self.plan.close {
            // An idle input that comes back may change what is final.
            let late;
            (changes, late) = on_time(changes, column, &self.schema, ctx.watermarks_before)?;
            self.late_rows += late;
        }
        for delta in changes {
            self.hold(ctx, &delta)?;
        }
        let number = self.plan.every.map(|every| ctx.now.div_euclid(every));
        if number.is_some() && self.sent != number {
            self.sent = number;
            return Ok(self.send_below(ctx, None)?.into_iter().collect());
        }
        let Some(column) = self.plan.close else { return Ok(Chunks::new()) };
        match watermark_micros(ctx.watermarks, column, &self.schema.fields()[column])? {
            Some(watermark) => Ok(self.send_below(ctx, Some(watermark))?.into_iter().collect()),
            None => Ok(Chunks::new()),
        }
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.held.flush(commit);
        Ok(())
    }

    fn due_at(&self) -> Result<Option<i64>> {
        let Some(every) = self.plan.every else { return Ok(None) };
        let next = self.sent.map_or(i64::MIN, |number| (number + 1).saturating_mul(every));
        Ok(self.held.first().filter(|_| self.is_first_shard).map(|_| next))
    }

    fn state_size(&self) -> StateSize {
        self.held.size()
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::scalar::ScalarValue;
    use expect_test::expect;
    use tidemark_common::plan::Op;

    use super::*;
    use crate::operators::testing::{TestFlow, changes, delta, input, plan, schema, show, with_watermarks};

    const COLUMNS: &str = "w timestamp, n bigint";

    fn flow(plan_of: Plan) -> TestFlow {
        let schema = schema(COLUMNS);
        let watermarks: Vec<usize> = plan_of.close.into_iter().collect();
        let nodes = vec![
            input(&schema, &watermarks),
            (Op::Pace(plan_of), vec![0], Arc::clone(&schema), with_watermarks(&watermarks)),
        ];
        TestFlow::new(plan(nodes), 2)
    }

    /// Epochs at these seconds, with these rows and the watermark at these minutes; a restart behind one of them.
    fn run(flow: &mut TestFlow, epochs: &[(i64, &str, Option<i64>)], restart: Option<i64>) -> String {
        let mut told = String::new();
        for (now, rows, watermark) in epochs {
            flow.now = now * 1_000_000;
            let mut epoch = changes(vec![delta(&schema(COLUMNS), rows)]);
            if let Some(minute) = watermark {
                let time = ScalarValue::TimestampMicrosecond(Some(minute * 60_000_000), None);
                epoch.watermarks.insert(0, time);
            }
            let sent = show(&flow.epoch(epoch).chunks).replace('\n', "; ");
            let due = flow.flow.due_at().unwrap().map(|due| due / 1_000_000);
            told += &format!("{now}: {sent}due {due:?}, keeps {}\n", flow.stored_entries());
            if restart == Some(*now) {
                flow.reopen(3);
            }
        }
        told
    }

    #[test]
    fn changes_are_told_at_multiples_of_the_interval() {
        let epochs = [
            (100, "+ 1970-01-01_00:00:00 1", None),
            (101, "- 1970-01-01_00:00:00 1\n+ 1970-01-01_00:00:00 2", None),
            (102, "- 1970-01-01_00:00:00 2\n+ 1970-01-01_00:00:00 3", None),
            (109, "", None),
            (110, "", None),
        ];
        let told = [None, Some(102)]
            .map(|restart| run(&mut flow(Plan { every: Some(10_000_000), close: None }), &epochs, restart));
        expect![[r#"
            100: + 1970-01-01T00:00:00 1; due None, keeps 0
            101: due Some(110), keeps 2
            102: due Some(110), keeps 2
            109: due Some(110), keeps 2
            110: - 1970-01-01T00:00:00 1; + 1970-01-01T00:00:00 3; due None, keeps 0
            --
            100: + 1970-01-01T00:00:00 1; due None, keeps 0
            101: due Some(110), keeps 2
            102: due Some(110), keeps 2
            109: - 1970-01-01T00:00:00 1; + 1970-01-01T00:00:00 3; due None, keeps 0
            110: due None, keeps 0
        "#]]
        .assert_eq(&told.join("--\n"));
    }

    #[test]
    fn what_is_final_does_not_wait() {
        let rows = "+ 1970-01-01_00:00:00 1\n+ 1970-01-01_00:01:00 2\n+ NULL 3";
        let late = "- 1970-01-01_00:01:00 2\n+ 1970-01-01_00:01:00 4";
        let epochs = [(0, "", None), (1, rows, None), (2, "", Some(0)), (3, late, Some(1)), (4, "", Some(5))];
        let told = [None, Some(3_600_000_000)]
            .map(|every| run(&mut flow(Plan { every, close: Some(0) }), &epochs, every.is_none().then_some(2)));
        expect![[r#"
            0: due None, keeps 0
            1: due None, keeps 2
            2: due None, keeps 2
            3: + 1970-01-01T00:00:00 1; due None, keeps 1
            4: + 1970-01-01T00:01:00 4; due None, keeps 0
            --
            0: due None, keeps 0
            1: due Some(3600), keeps 3
            2: due Some(3600), keeps 3
            3: + 1970-01-01T00:00:00 1; due Some(3600), keeps 2
            4: + 1970-01-01T00:01:00 4; due Some(3600), keeps 1
        "#]]
        .assert_eq(&told.join("--\n"));
    }
}
