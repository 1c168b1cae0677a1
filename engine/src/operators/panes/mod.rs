//! Overlapping windows, each put together from panes when it closes.
//!
//! ```text
//!   pane, key, states ──▶ blocks.rs: kept by pane ──┐
//!                                                   ▼
//!   the new watermark ──▶ windows that have ended: their blocks, merged by key ──▶ window, key, results
//!                    └──▶ panes of ended windows only: dropped
//! ```
//!
//! Rows come final and once from the aggregate below, when their pane closes: a row of the input is counted once, not in each of its
//! windows. Windows are sent in the order of their ends; in one of them keys stand in the order of the blocks, which the panes'
//! numbers alone decide.

mod blocks;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::{self, PaneColumn, Window};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, Snapshot};

use self::blocks::{Blocks, Merged};
use super::aggregate::{Call, Placement, conform};
use super::time_index::{check_time, watermark_micros};
use super::{Chunks, Operator, StateSize, StepContext, Watermarks, only_input};

pub struct Panes {
    name: String,
    windows: plan::Windows,
    columns: Vec<PaneColumn>,
    pane: FieldRef,
    output: SchemaRef,
    blocks: Blocks,
}

impl Panes {
    pub fn new(plan: &plan::Panes, input: &SchemaRef, output: &SchemaRef, placement: Placement) -> Result<Self> {
        let pane = Arc::clone(&input.fields()[0]);
        check_time(&pane)?;
        let calls = plan.calls.iter().map(|call| Call::new(call, false)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: placement.name(),
            windows: plan.windows,
            columns: plan.columns.clone(),
            pane,
            output: Arc::clone(output),
            blocks: Blocks::new(plan.windows, &input.fields()[1..], plan.keys, calls, placement)?,
        })
    }

    /// The rows of each pane.
    fn by_pane(&self, chunks: Chunks) -> Result<BTreeMap<i64, Vec<RecordBatch>>> {
        let mut panes: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
        for Delta { batch, weights } in chunks {
            if weights.is_some_and(|weights| weights.values().iter().any(|weight| *weight != 1)) {
                return Err(Error::internal(format!("{}: a pane came twice or went away", self.name)));
            }
            // Runs: the aggregate sends what it closes in the order of its keys, which panes lead.
            let starts = batch.column(0).as_primitive::<TimestampMicrosecondType>().values();
            let mut from = 0;
            for run in starts.chunk_by(|a, b| a == b) {
                panes.entry(run[0]).or_default().push(batch.slice(from, run.len()));
                from += run.len();
            }
        }
        Ok(panes)
    }

    /// Sends the windows that end after `before` and not after `to`.
    fn close(&mut self, snapshot: &Snapshot, before: Option<i64>, to: i64) -> Result<Chunks> {
        let mut sent = Chunks::new();
        let mut after = before.or_else(|| self.blocks.first_pane(i64::MIN));
        while let Some(window) = after.and_then(|after| self.windows.first_ending_after(after)) {
            if window.end > to {
                break;
            }
            match self.blocks.first_pane(window.start) {
                None => break,
                // The next window that has rows is the first that holds this pane.
                Some(pane) if pane >= window.end => after = Some(pane),
                Some(_) => {
                    let merged = self.blocks.between(snapshot, window.start, window.end)?;
                    sent.extend(merged.map(|merged| self.rows(window, merged)).transpose()?);
                    after = Some(window.end);
                }
            }
        }
        let open = self.windows.first_ending_after(to).map_or(i64::MAX, |window| window.start);
        self.blocks.drop_before(snapshot, open)?;
        Ok(sent)
    }

    fn rows(&self, window: Window, merged: Merged) -> Result<Delta> {
        let rows = merged.rows();
        let (keys, results) = merged.results(self.blocks.calls())?;
        let mut columns = Vec::with_capacity(self.output.fields().len());
        for column in &self.columns {
            let data_type = self.output.field(columns.len()).data_type();
            columns.push(match column {
                PaneColumn::Key(at) => conform(Arc::clone(&keys[*at]), data_type)?,
                PaneColumn::Window(expr) => of_window(expr, window, self.pane.data_type())?.to_array_of_size(rows)?,
            });
        }
        for result in results {
            columns.push(conform(result, self.output.field(columns.len()).data_type())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Delta::inserts(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?))
    }
}

/// What an expression over a window is for `window`; `time`: the type of times.
fn of_window(expr: &Arc<dyn PhysicalExpr>, window: Window, time: &DataType) -> Result<ScalarValue> {
    let edges = RecordBatch::try_from_iter([("window_start", window.start), ("window_end", window.end)].map(
        |(name, edge)| {
            let edge = TimestampMicrosecondArray::from(vec![edge]).with_data_type(time.clone());
            (name, Arc::new(edge) as ArrayRef)
        },
    ))?;
    Ok(ScalarValue::try_from_array(&expr.evaluate(&edges)?.into_array(1)?, 0)?)
}

/// The watermarks of the output: the first window that is still open.
pub fn watermarks(plan: &plan::Panes, input: &Watermarks, schema: &Schema) -> Result<Watermarks> {
    let pane = &schema.fields()[0];
    let reached = watermark_micros(input, 0, pane)?;
    let Some(open) = reached.and_then(|reached| plan.windows.first_ending_after(reached)) else {
        return Ok(Watermarks::new());
    };
    let columns = plan.columns.iter().enumerate().filter_map(|(at, column)| match column {
        PaneColumn::Window(expr) => Some((at, expr)),
        PaneColumn::Key(_) => None,
    });
    columns.map(|(at, expr)| Ok((at, of_window(expr, open, pane.data_type())?))).collect()
}

impl Operator for Panes {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        self.blocks.load(ctx.snapshot)?;
        for (pane, rows) in self.by_pane(only_input(inputs)?)? {
            self.blocks.put(pane, &rows)?;
        }
        let before = watermark_micros(ctx.watermarks_before, 0, &self.pane)?;
        let after = watermark_micros(ctx.watermarks, 0, &self.pane)?;
        match after.filter(|after| before.is_none_or(|before| before < *after)) {
            Some(to) => self.close(ctx.snapshot, before, to),
            None => Ok(Chunks::new()),
        }
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.blocks.flush(commit);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        self.blocks.size()
    }
}
