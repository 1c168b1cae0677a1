//! OVER: window functions, DataFusion's own, over the rows of touched partitions.
//!
//! ```text
//!   a touched partition:  its rows, as they were ──functions──▶ results ─┐
//!   the epoch's changes ──▶ the rows kept                                ├─▶ -gone +come
//!                         its rows, as they are ───functions──▶ results ─┘
//! ```
//!
//! What was sent is computed again instead of kept: the rows come in the same order each time, equal ones in that of their other
//! columns, so the functions say the same of them. It costs time, and saves a second copy of each row.
//!
//! Rows that a function says to be final ([`plan::Until`]) are forgotten, and found again by [`Due`] though nothing touches them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, new_empty_array};
use datafusion::arrow::compute::{cast, concat, interleave};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::physical_expr::window::WindowExpr;
use tidemark_common::plan;
use tidemark_common::{Delta, Result};
use tidemark_storage::{EncodedRows, EpochCommit, RowCodec, Snapshot};

use super::aggregate::Placement;
use super::due::Due;
use super::partitions::{Partitions, Row, Touched};
use super::{Chunks, Operator, StateSize, StepContext, only_input};

pub struct Over {
    functions: Vec<Arc<dyn WindowExpr>>,
    output: SchemaRef,
    rows: Partitions,
    results: RowCodec,
    due: Option<Due>,
}

/// The rows of the touched partitions at one moment, those of a partition one after the other.
#[derive(Default)]
struct Side {
    rows: Vec<Row>,
    of: Vec<u32>,
    /// Where the rows of each touched partition begin; one more at the end.
    starts: Vec<usize>,
}

/// Rows with their results.
pub(super) struct Computed {
    pub columns: Vec<ArrayRef>,
    results: EncodedRows,
}

impl Over {
    pub fn new(plan: &plan::Over, input: &SchemaRef, output: &SchemaRef, placement: &Placement) -> Result<Self> {
        let rows = Partitions::new(input, &plan.partition, &plan.order, plan.close, placement)?;
        let due = plan.until.map(|until| Due::new(until, input, placement)).transpose()?;
        let fields: Vec<FieldRef> = output.fields()[input.fields().len()..].to_vec();
        Ok(Self {
            functions: plan.functions.clone(),
            output: Arc::clone(output),
            rows: rows.with_late_rows_by(plan.until.map(|until| until.time)),
            due,
            results: RowCodec::new(&fields)?,
        })
    }

    fn read(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Side> {
        let mut side = Side::default();
        for partition in 0..touched.changes.len() {
            side.starts.push(side.rows.len());
            if !touched.is_read(partition) {
                continue;
            }
            let number = u32::try_from(partition).expect("an epoch touches far fewer than 2^32 partitions");
            self.rows.visit(snapshot, touched.partitions.key(partition), |row, weight| {
                let copies = usize::try_from(weight).unwrap_or(0);
                side.of.extend(std::iter::repeat_n(number, copies));
                side.rows.extend(std::iter::repeat_n(row, copies));
                true
            })?;
        }
        side.starts.push(side.rows.len());
        Ok(side)
    }

    fn compute(&self, touched: &Touched, side: &Side) -> Result<Computed> {
        let rows: Vec<&Row> = side.rows.iter().collect();
        let batch = self.rows.decode(&touched.partitions.keys(), side.of.clone(), &rows)?;
        let mut columns = batch.columns().to_vec();
        let first_result = columns.len();
        for function in &self.functions {
            let data_type = self.output.field(columns.len()).data_type();
            let mut pieces: Vec<ArrayRef> = vec![new_empty_array(data_type)];
            for range in side.starts.windows(2).filter(|range| range[0] < range[1]) {
                let values = function.evaluate(&batch.slice(range[0], range[1] - range[0]))?;
                pieces.push(if values.data_type() == data_type { values } else { cast(&values, data_type)? });
            }
            columns.push(concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?);
        }
        let results = self.results.encode_rows(&columns[first_result..], rows.len())?;
        Ok(Computed { columns, results })
    }

    /// -gone +come, partition by partition.
    fn changes(&self, old: (&Side, &Computed), new: (&Side, &Computed)) -> Result<Option<Delta>> {
        let mut picks: Vec<(usize, usize)> = Vec::new();
        for partition in 0..old.0.starts.len() - 1 {
            let of_old = sorted(old.0, old.1, partition);
            let of_new = sorted(new.0, new.1, partition);
            let (gone, come) =
                difference(&of_old, &of_new, |&row| line(old.0, old.1, row), |&row| line(new.0, new.1, row));
            picks.extend(gone.into_iter().map(|row| (OLD, row)));
            picks.extend(come.into_iter().map(|row| (NEW, row)));
        }
        self.picked([&old.1.columns, &new.1.columns], &picks)
    }

    /// Rows of the one side go, of the other they come.
    fn picked(&self, sides: [&Vec<ArrayRef>; 2], picks: &[(usize, usize)]) -> Result<Option<Delta>> {
        if picks.is_empty() {
            return Ok(None);
        }
        let columns = sides[OLD].iter().zip(sides[NEW]);
        let columns = columns.map(|(was, is)| interleave(&[was, is], picks)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?;
        if picks.iter().all(|(side, _)| *side == NEW) {
            return Ok(Some(Delta::inserts(batch)));
        }
        let weights = picks.iter().map(|&(side, _)| if side == OLD { -1 } else { 1 });
        Ok(Some(Delta::new(batch, Some(Int64Array::from_iter_values(weights)))))
    }

    /// Forgets rows that are final, and notes when the next ones of each partition will be. Gives the rows that are final.
    fn settle(
        &mut self,
        ctx: &StepContext<'_>,
        touched: &Touched,
        old: (&Side, &Computed),
        new: (&Side, &Computed),
    ) -> Result<Vec<usize>> {
        let Some(due) = &mut self.due else { return Ok(Vec::new()) };
        let watermark = due.watermark(ctx.watermarks)?;
        let (was, is) = (due.times(old.1)?, due.times(new.1)?);
        let mut done = Vec::new();
        for partition in (0..touched.changes.len()).filter(|partition| touched.is_read(*partition)) {
            let key = touched.partitions.key(partition);
            let is_final = |row: &usize| is[*row].zip(watermark).is_some_and(|(end, watermark)| end < watermark);
            let rows = new.0.starts[partition]..new.0.starts[partition + 1];
            let (now_final, open): (Vec<usize>, Vec<usize>) = rows.clone().partition(is_final);
            for row in &now_final {
                // Copies of a row stand together: the last of them may be open yet.
                let copies = (*row..rows.end).take_while(|copy| new.0.rows[*copy].bytes == new.0.rows[*row].bytes);
                let open = copies.filter(|copy| !is_final(copy)).count();
                self.rows.set(key, &new.0.rows[*row], open as i64);
            }
            let before = (old.0.starts[partition]..old.0.starts[partition + 1]).filter_map(|row| was[row]).min();
            due.moved(before, open.iter().filter_map(|row| is[*row]).min(), key);
            done.extend(now_final);
        }
        Ok(done)
    }
}

const OLD: usize = 0;
const NEW: usize = 1;

/// What tells a row and its results from others of its partition.
fn line<'a>(side: &'a Side, computed: &'a Computed, row: usize) -> (&'a [u8], &'a [u8]) {
    (&side.rows[row].bytes, computed.results.row(row))
}

/// The rows of a partition by their lines: copies of a row stand together, whatever the functions say of each.
fn sorted(side: &Side, computed: &Computed, partition: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (side.starts[partition]..side.starts[partition + 1]).collect();
    rows.sort_by(|&a, &b| line(side, computed, a).cmp(&line(side, computed, b)));
    rows
}

/// Which of `old` are not in `new`, and which of `new` are not in `old`; both sorted by their lines.
fn difference<'a, L: Ord + 'a>(
    old: &[usize],
    new: &[usize],
    old_line: impl Fn(&usize) -> L,
    new_line: impl Fn(&usize) -> L,
) -> (Vec<usize>, Vec<usize>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let mut new = new.iter().peekable();
    for row in old {
        let line = old_line(row);
        come.extend(std::iter::from_fn(|| new.next_if(|n| new_line(n) < line)));
        if new.next_if(|n| new_line(n) == line).is_none() {
            gone.push(*row);
        }
    }
    come.extend(new);
    (gone, come)
}

impl Operator for Over {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let mut touched = self.rows.touch(ctx, only_input(inputs)?)?;
        if let Some(due) = &mut self.due {
            due.take(ctx, &self.rows.keys)?.iter().for_each(|partition| touched.read_too(partition));
        }
        let mut output = Chunks::new();
        if (0..touched.changes.len()).any(|partition| touched.is_read(partition)) {
            let old = self.read(ctx.snapshot, &touched)?;
            for (partition, changes) in touched.changes.iter().enumerate() {
                let key = touched.partitions.key(partition);
                changes.iter().try_for_each(|(row, weight)| self.rows.change(key, row, *weight))?;
            }
            let new = self.read(ctx.snapshot, &touched)?;
            let (was, is) = (self.compute(&touched, &old)?, self.compute(&touched, &new)?);
            let done = self.settle(ctx, &touched, (&old, &was), (&new, &is))?;
            output.extend(match &self.due {
                Some(due) if due.until.emit_on_close => {
                    let picks: Vec<(usize, usize)> = done.into_iter().map(|row| (NEW, row)).collect();
                    self.picked([&was.columns, &is.columns], &picks)?
                }
                _ => self.changes((&old, &was), (&new, &is))?,
            });
        }
        self.rows.close(ctx)?;
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.rows.flush(commit);
        if let Some(due) = &mut self.due {
            due.flush(commit);
        }
        Ok(())
    }

    /// The rows: what is due is one small entry a partition besides.
    fn state_size(&self) -> StateSize {
        self.rows.size()
    }

    fn take_late_rows(&mut self) -> u64 {
        self.rows.take_late_rows()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::scalar::ScalarValue;
    use expect_test::expect;
    use tidemark_common::plan::{Op, SortKey};

    use super::*;
    use crate::dataflow::CollectionChanges;
    use crate::operators::testing::{TestFlow, over_partitions, schema, show, window_functions};

    const COLUMNS: &str = "k text, v bigint, id text";

    async fn flow(partition: Vec<usize>, functions: &str) -> TestFlow {
        let columns = schema(COLUMNS);
        let (functions, results) = window_functions(&columns, &format!("SELECT {functions} FROM t")).await;
        let order = vec![SortKey { column: 1, descending: false, nulls_first: false }];
        let over = plan::Over { partition: partition.clone(), order, functions, close: None, until: None };
        TestFlow::new(over_partitions(&columns, &partition, Op::Over(over), results), 1)
    }

    fn run(flow: &mut TestFlow, epochs: &[&str]) -> String {
        let columns = schema(COLUMNS);
        let sent: Vec<String> = epochs.iter().map(|text| flow.rows(&columns, text)).collect();
        sent.join("--\n")
    }

    #[tokio::test]
    async fn only_what_differs_is_sent() {
        let mut flow = flow(vec![0], "sum(v) OVER (PARTITION BY k ORDER BY v)").await;
        let epochs = ["+ a 1 x\n+ a 2 y\n+ b 3 z", "+ a 3 w", "- a 1 x", "+ b 4 NULL\n- b 4 NULL"];
        expect![[r#"
            + a 1 x 1
            + a 2 y 3
            + b 3 z 3
            --
            + a 3 w 6
            --
            - a 1 x 1
            - a 2 y 3
            - a 3 w 6
            + a 2 y 2
            + a 3 w 5
            --
        "#]]
        .assert_eq(&run(&mut flow, &epochs));
    }

    #[tokio::test]
    async fn copies_of_a_row_are_numbered_each() {
        let mut flow = flow(vec![], "row_number() OVER (ORDER BY v)").await;
        let epochs = ["+2 a 1 x\n+ a 1 w", "- a 1 x", "- a 1 w\n- a 1 x"];
        expect![[r#"
            + a 1 w 1
            + a 1 x 2
            + a 1 x 3
            --
            - a 1 x 3
            --
            - a 1 w 1
            - a 1 x 2
        "#]]
        .assert_eq(&run(&mut flow, &epochs));
    }

    #[tokio::test]
    async fn the_same_after_a_restart() {
        let mut flow = flow(vec![0], "lag(id) OVER (PARTITION BY k ORDER BY v)").await;
        run(&mut flow, &["+ a 1 x\n+ a 3 y"]);
        flow.reopen(3);
        expect![[r#"
            - a 3 y x
            + a 2 z x
            + a 3 y z
        "#]]
        .assert_eq(&run(&mut flow, &["+ a 2 z"]));
    }

    /// A row is final once its time is below the watermark.
    async fn final_by_time(emit_on_close: bool) -> TestFlow {
        let columns = schema("k bigint, ts timestamp");
        let itself = "min(ts) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN CURRENT ROW AND CURRENT ROW) AS itself";
        let (functions, results) = window_functions(&columns, &format!("SELECT {itself} FROM t")).await;
        let order = vec![SortKey { column: 1, descending: false, nulls_first: false }];
        let until = Some(plan::Until { time: 1, function: 0, emit_on_close });
        let over = plan::Over { partition: vec![0], order, functions, close: None, until };
        TestFlow::new(over_partitions(&columns, &[0], Op::Over(over), results), 1)
    }

    fn to(flow: &mut TestFlow, watermark: i64, text: &str) -> String {
        let watermark = ScalarValue::TimestampMicrosecond(Some(watermark), None);
        // "+ 1 12": the twelfth microsecond.
        let long = |line: &str| {
            line.rsplit_once(' ').map(|(head, ts)| format!("{head} 1970-01-01T00:00:00.0000{ts}")).unwrap()
        };
        let text = text.lines().map(long).collect::<Vec<_>>().join("\n");
        let delta = crate::operators::testing::delta(&schema("k bigint, ts timestamp"), &text);
        let chunks = if delta.num_rows() == 0 { vec![] } else { vec![delta] };
        let changes = CollectionChanges { chunks, watermarks: [(1, watermark)].into(), ..CollectionChanges::default() };
        show(&flow.epoch(changes).chunks)
    }

    #[tokio::test]
    async fn rows_that_are_final_are_sent_and_forgotten_on_whatever_shards() {
        let mut flow = final_by_time(true).await;
        assert_eq!(to(&mut flow, 10, "+ 1 12\n+ 2 30\n+ 3 15\n+ 1 40"), "");
        assert_eq!(flow.stored_entries(), 4 + 3);
        flow.reopen(3);
        assert_eq!(to(&mut flow, 15, ""), "+ 1 1970-01-01T00:00:00.000012 1970-01-01T00:00:00.000012\n");
        flow.reopen(2);
        let sent = to(&mut flow, 31, "+ 3 14\n+ 1 16\n+ 4 50");
        let mut keys: Vec<&str> = sent.lines().map(|line| &line[..4]).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["+ 1 ", "+ 2 ", "+ 3 "], "that of before the watermark is late: {sent}");
        assert_eq!(flow.stored_entries(), 2 + 2);
        assert_eq!(to(&mut flow, 100, "").lines().count(), 2);
        assert_eq!(flow.stored_entries(), 0);
    }

    #[tokio::test]
    async fn rows_that_were_sent_are_forgotten_when_they_are_final() {
        let mut flow = final_by_time(false).await;
        assert_eq!(to(&mut flow, 10, "+ 1 12\n+ 2 30\n+ 1 40").lines().count(), 3);
        assert_eq!(to(&mut flow, 20, "- 2 30\n+ 2 31").lines().count(), 2);
        assert_eq!(flow.stored_entries(), 2 + 2);
        assert_eq!(to(&mut flow, 100, ""), "");
        assert_eq!(flow.stored_entries(), 0);
    }
}
