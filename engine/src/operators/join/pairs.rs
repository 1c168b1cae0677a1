//! Joins that look at pairs: those that give them, and those that ask more of a pair than equal keys.
//!
//! ```text
//!   changed left rows  ✕ all right rows of the key     ┐ candidates ─residual─▶ pairs ─▶ after - before of each
//!   other left rows    ✕ changed right rows of the key ┘ (a block at a time)      │
//!                                                                                 └─▶ matches of each row, before and after
//!                                                     rows whose having matches changed ─▶ outer rows, semi, anti, mark
//! ```
//!
//! Each pair is looked at once an epoch, with the weights of both rows before and after it, so that a row coming on one side
//! and its partner going on the other make nothing to be taken back.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use tidemark_common::plan::JoinKind;
use tidemark_common::{Error, Result};
use tidemark_storage::EpochCommit;

use super::emit::{Output, Picked};
use super::side::{Changes, Rows, Side};
use super::two_inputs;
use crate::operators::aggregate::keys::GroupNumbers;
use crate::operators::aggregate::size_of;
use crate::operators::{Chunks, Operator, StateSize, StepContext, true_rows};

/// Candidates that are looked at together.
const BLOCK: usize = 8192;

pub struct Pairs {
    kind: JoinKind,
    left: Side,
    right: Side,
    residual: Option<Residual>,
    output: Output,
    /// Rows alone are sent when they are let go, and not before.
    waits: bool,
    late_rows: u64,
}

/// A condition over pairs and the columns it reads, numbered as those of the left input, then those of the right.
pub struct Residual {
    expr: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// Candidate pairs: rows of the left and of the right.
#[derive(Default)]
struct Block {
    left: Vec<u32>,
    right: Vec<u32>,
}

/// The rows of both inputs that the epoch has to do with.
struct Inputs {
    left: Rows,
    right: Rows,
    groups: usize,
    /// The pairs that have come or gone, if rows are kept until they have met.
    met: Vec<(u32, u32, i64)>,
}

impl Residual {
    /// `schema`: all columns of both inputs.
    pub fn new(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Self> {
        let mut columns: Vec<usize> = collect_columns(expr).iter().map(Column::index).collect();
        columns.sort_unstable();
        let expr = Arc::clone(expr).transform_up(|e| {
            let Some(column) = e.downcast_ref::<Column>() else { return Ok(Transformed::no(e)) };
            let at = columns.iter().position(|c| *c == column.index()).expect("all columns were collected");
            Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Arc<dyn PhysicalExpr>))
        })?;
        Ok(Self { expr: expr.data, schema: Arc::new(schema.project(&columns)?), columns })
    }

    /// Which of the pairs, as many rows of either, fulfil it.
    pub fn holds(&self, left: Picked<'_>, right: Picked<'_>) -> Result<BooleanArray> {
        let (width, pairs) = (left.batch.num_columns(), left.rows.len());
        let columns = self.columns.iter().map(|&c| match c < width {
            true => take(left.batch.column(c), left.rows, None),
            false => take(right.batch.column(c - width), right.rows, None),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(pairs));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let mask = self.expr.evaluate(&batch)?.into_array(pairs)?;
        let mask = mask.as_any().downcast_ref::<BooleanArray>();
        let mask = mask.ok_or_else(|| Error::internal(format!("join condition {} is not boolean", self.expr)))?;
        Ok(true_rows(mask))
    }
}

impl Pairs {
    pub fn new(
        kind: JoinKind,
        left: Side,
        right: Side,
        residual: Option<Residual>,
        output: Output,
        waits: bool,
    ) -> Self {
        Self { kind, left, right, residual, output, waits, late_rows: 0 }
    }

    /// Pairs, and rows alone, that the changes make come or go.
    fn changed(&mut self, ctx: &StepContext<'_>, left: &Chunks, right: &Chunks) -> Result<Chunks> {
        let mut groups = GroupNumbers::default();
        let left = self.left.changes(left, &mut groups)?;
        let right = self.right.changes(right, &mut groups)?;
        let mut inputs = self.load(ctx, &left, &right, &groups)?;
        let mut output = Chunks::new();
        self.pairs(&mut inputs, &mut output)?;
        for (is_left, rows, keyless) in [(true, &inputs.left, &left.keyless), (false, &inputs.right, &right.keyless)] {
            // Those that have a key wait until no partner can come.
            let now = (!self.waits).then_some(rows);
            self.output.rows_alone(self.kind, is_left, now, keyless.as_ref(), &mut output)?;
        }
        self.left.met(&inputs.left, &inputs.right, inputs.met)?;
        self.left.store(ctx, &inputs.left, &groups)?;
        self.right.store(ctx, &inputs.right, &groups)?;
        Ok(output)
    }

    fn load(
        &mut self,
        ctx: &StepContext<'_>,
        left: &Changes,
        right: &Changes,
        groups: &GroupNumbers,
    ) -> Result<Inputs> {
        let (mut by_left, mut by_right) = (vec![false; groups.len()], vec![false; groups.len()]);
        left.mark(&mut by_left);
        right.mark(&mut by_right);
        let mut inputs = Inputs {
            left: self.left.load(ctx, left, &by_right, groups)?,
            right: self.right.load(ctx, right, &by_left, groups)?,
            groups: groups.len(),
            met: Vec::new(),
        };
        inputs.left.forget_matches_of_changed();
        inputs.right.forget_matches_of_changed();
        Ok(inputs)
    }

    /// Looks at all pairs of which a row has changed.
    fn pairs(&self, inputs: &mut Inputs, output: &mut Chunks) -> Result<()> {
        let mut block = Block::default();
        for group in 0..inputs.groups {
            // By number: a block that is full is looked at between two pairs, which changes `inputs`.
            for l in 0..inputs.left.changed(group).len() {
                let left = inputs.left.changed(group)[l];
                for r in 0..inputs.right.changed(group).len() {
                    block.left.push(left);
                    block.right.push(inputs.right.changed(group)[r]);
                }
                for r in 0..inputs.right.others(group).len() {
                    block.left.push(left);
                    block.right.push(inputs.right.others(group)[r]);
                }
                self.finish_if_full(&mut block, inputs, output)?;
            }
            for r in 0..inputs.right.changed(group).len() {
                let right = inputs.right.changed(group)[r];
                let others = inputs.left.others(group);
                block.left.extend_from_slice(others);
                block.right.extend(others.iter().map(|_| right));
                self.finish_if_full(&mut block, inputs, output)?;
            }
        }
        self.finish(block, inputs, output)
    }

    fn finish_if_full(&self, block: &mut Block, inputs: &mut Inputs, output: &mut Chunks) -> Result<()> {
        if block.left.len() < BLOCK {
            return Ok(());
        }
        self.finish(std::mem::take(block), inputs, output)
    }

    /// Counts the matches of each row in the block, and gives the pairs that come or go.
    fn finish(&self, block: Block, inputs: &mut Inputs, output: &mut Chunks) -> Result<()> {
        let (left, right) = (UInt32Array::from(block.left), UInt32Array::from(block.right));
        let holds = match &self.residual {
            Some(residual) if !left.is_empty() => {
                let of_left = Picked { batch: &inputs.left.batch, rows: &left };
                Some(residual.holds(of_left, Picked { batch: &inputs.right.batch, rows: &right })?)
            }
            _ => None,
        };
        let (mut of_left, mut of_right, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (pair, (&l, &r)) in left.values().iter().zip(right.values()).enumerate() {
            if holds.as_ref().is_some_and(|holds| !holds.value(pair)) {
                continue;
            }
            let (of_l, of_r) = (inputs.left.rows[l as usize], inputs.right.rows[r as usize]);
            inputs.left.add_match(l, of_r);
            inputs.right.add_match(r, of_l);
            let weight = of_l.after * of_r.after - of_l.before * of_r.before;
            if weight != 0 && self.gives_pairs() {
                of_left.push(l);
                of_right.push(r);
                weights.push(weight);
            }
        }
        if self.left.is_kept_until_met() {
            inputs.met.extend(of_left.iter().zip(&of_right).zip(&weights).map(|((l, r), weight)| (*l, *r, *weight)));
        }
        if !weights.is_empty() {
            let (of_left, of_right) = (UInt32Array::from(of_left), UInt32Array::from(of_right));
            let left = Picked { batch: &inputs.left.batch, rows: &of_left };
            let right = Picked { batch: &inputs.right.batch, rows: &of_right };
            output.push(self.output.delta(Some(left), Some(right), None, weights)?);
        }
        Ok(())
    }

    fn gives_pairs(&self) -> bool {
        matches!(self.kind, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full)
    }
}

impl Operator for Pairs {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let [left, right] = two_inputs(inputs)?;
        let (left, late_left) = self.left.on_time(ctx, left, &mut self.right)?;
        let (right, late_right) = self.right.on_time(ctx, right, &mut self.left)?;
        self.late_rows += late_left + late_right;
        let mut output = match left.is_empty() && right.is_empty() {
            true => Chunks::new(),
            false => self.changed(ctx, &left, &right)?,
        };
        for (is_left, side) in [(true, &mut self.left), (false, &mut self.right)] {
            if let Some(rows) = side.let_go(ctx, self.waits)? {
                self.output.rows_alone(self.kind, is_left, Some(&rows), None, &mut output)?;
            }
        }
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.left.flush(commit);
        self.right.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        size_of([self.left.kept(), self.right.kept()].into_iter().flatten())
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}
