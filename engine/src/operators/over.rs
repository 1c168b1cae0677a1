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

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, new_empty_array};
use datafusion::arrow::compute::{cast, concat, interleave};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::physical_expr::window::WindowExpr;
use tidemark_common::plan;
use tidemark_common::{Delta, Result};
use tidemark_storage::{EncodedRows, EpochCommit, RowCodec, Snapshot};

use super::aggregate::Placement;
use super::partitions::{Partitions, Row, Touched};
use super::{Chunks, Operator, StateSize, StepContext, only_input};

pub struct Over {
    functions: Vec<Arc<dyn WindowExpr>>,
    output: SchemaRef,
    rows: Partitions,
    results: RowCodec,
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
struct Computed {
    columns: Vec<ArrayRef>,
    results: EncodedRows,
}

impl Over {
    pub fn new(plan: &plan::Over, input: &SchemaRef, output: &SchemaRef, placement: &Placement) -> Result<Self> {
        let rows = Partitions::new(input, &plan.partition, &plan.order, plan.close, placement)?;
        let fields: Vec<FieldRef> = output.fields()[input.fields().len()..].to_vec();
        Ok(Self {
            functions: plan.functions.clone(),
            output: Arc::clone(output),
            rows,
            results: RowCodec::new(&fields)?,
        })
    }

    fn read(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Side> {
        let mut side = Side::default();
        for (partition, changes) in touched.changes.iter().enumerate() {
            side.starts.push(side.rows.len());
            if changes.is_empty() {
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
    fn changes(&self, old: &Side, new: &Side, touched: &Touched) -> Result<Option<Delta>> {
        let (was, is) = (self.compute(touched, old)?, self.compute(touched, new)?);
        let mut picks: Vec<(usize, usize)> = Vec::new();
        for partition in 0..touched.changes.len() {
            let of_old = sorted(old, &was, partition);
            let of_new = sorted(new, &is, partition);
            let (gone, come) = difference(&of_old, &of_new, |&row| line(old, &was, row), |&row| line(new, &is, row));
            picks.extend(gone.into_iter().map(|row| (OLD, row)));
            picks.extend(come.into_iter().map(|row| (NEW, row)));
        }
        if picks.is_empty() {
            return Ok(None);
        }
        let columns = was.columns.iter().zip(&is.columns);
        let columns = columns.map(|(was, is)| interleave(&[was, is], &picks)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?;
        let weights = picks.iter().map(|&(side, _)| if side == OLD { -1 } else { 1 });
        Ok(Some(Delta::new(batch, Some(Int64Array::from_iter_values(weights)))))
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
        let touched = self.rows.touch(ctx, only_input(inputs)?)?;
        let mut output = Chunks::new();
        if touched.changes.iter().any(|changes| !changes.is_empty()) {
            let old = self.read(ctx.snapshot, &touched)?;
            for (partition, changes) in touched.changes.iter().enumerate() {
                let key = touched.partitions.key(partition);
                changes.iter().try_for_each(|(row, weight)| self.rows.change(key, row, *weight))?;
            }
            let new = self.read(ctx.snapshot, &touched)?;
            output.extend(self.changes(&old, &new, &touched)?);
        }
        self.rows.close(ctx)?;
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.rows.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        self.rows.size()
    }

    fn take_late_rows(&mut self) -> u64 {
        self.rows.take_late_rows()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use tidemark_common::plan::{Op, SortKey};

    use super::*;
    use crate::operators::testing::{TestFlow, over_partitions, schema, window_functions};

    const COLUMNS: &str = "k text, v bigint, id text";

    async fn flow(partition: Vec<usize>, functions: &str) -> TestFlow {
        let columns = schema(COLUMNS);
        let (functions, results) = window_functions(&columns, &format!("SELECT {functions} FROM t")).await;
        let order = vec![SortKey { column: 1, descending: false, nulls_first: false }];
        let over = plan::Over { partition: partition.clone(), order, functions, close: None };
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
}
