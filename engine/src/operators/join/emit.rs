//! What a join sends: rows of either input side by side, or of one of them alone.

use std::sync::Arc;

use datafusion::arrow::array::new_null_array;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::plan::JoinKind;
use tidemark_common::{Delta, Result};

use super::side::Rows;
use crate::operators::Chunks;

pub struct Output {
    /// Of the left input, then of the right one.
    columns: Vec<usize>,
    left_width: usize,
    schema: SchemaRef,
}

/// Rows of an input.
#[derive(Clone, Copy)]
pub struct Picked<'a> {
    pub batch: &'a RecordBatch,
    pub rows: &'a UInt32Array,
}

impl Output {
    pub fn new(columns: Vec<usize>, left_width: usize, schema: SchemaRef) -> Self {
        Self { columns, left_width, schema }
    }

    /// Rows of both inputs side by side, NULL for an input that is not given; `mark` is the last column of a mark join.
    pub fn delta(
        &self,
        left: Option<Picked<'_>>,
        right: Option<Picked<'_>>,
        mark: Option<bool>,
        weights: Vec<i64>,
    ) -> Result<Delta> {
        let count = weights.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for &column in &self.columns {
            let (input, column) = match column.checked_sub(self.left_width) {
                None => (left, column),
                Some(column) => (right, column),
            };
            columns.push(match input {
                Some(picked) => take(picked.batch.column(column), picked.rows, None)?,
                None => new_null_array(self.schema.field(columns.len()).data_type(), count),
            });
        }
        columns.extend(mark.map(|mark| Arc::new(BooleanArray::from(vec![mark; count])) as ArrayRef));
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let inserts = weights.iter().all(|w| *w == 1);
        Ok(Delta::new(batch, (!inserts).then(|| Int64Array::from(weights))))
    }

    /// The rows of one input that come or go because they or their matches have changed. `keyless` have none.
    pub fn rows_alone(
        &self,
        kind: JoinKind,
        is_left: bool,
        rows: Option<&Rows>,
        keyless: Option<&Delta>,
        output: &mut Chunks,
    ) -> Result<()> {
        for &matched in sent_alone(kind, is_left) {
            let mark = (kind == JoinKind::Mark).then_some(matched);
            let mut send = |batch: &RecordBatch, rows: UInt32Array, weights: Vec<i64>| -> Result<()> {
                if !weights.is_empty() {
                    let picked = Some(Picked { batch, rows: &rows });
                    let (left, right) = if is_left { (picked, None) } else { (None, picked) };
                    output.push(self.delta(left, right, mark, weights)?);
                }
                Ok(())
            };
            if let Some(rows) = rows {
                let (picked, weights) = rows.changes_of(matched);
                send(&rows.batch, picked, weights)?;
            }
            if let Some(delta) = keyless.filter(|_| !matched) {
                let all = 0..delta.num_rows();
                let weights = all.clone().map(|row| delta.weight(row)).collect();
                send(&delta.batch, UInt32Array::from_iter_values(all.map(|row| row as u32)), weights)?;
            }
        }
        Ok(())
    }
}

/// Whether rows of an input are sent alone when they have matches, and when they have none.
fn sent_alone(kind: JoinKind, is_left: bool) -> &'static [bool] {
    match (kind, is_left) {
        (JoinKind::Left | JoinKind::Full | JoinKind::Anti, true) | (JoinKind::Right | JoinKind::Full, false) => {
            &[false]
        }
        (JoinKind::Semi, true) => &[true],
        (JoinKind::Mark, true) => &[false, true],
        (JoinKind::Inner | JoinKind::Right, true) => &[],
        (JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Mark, false) => &[],
    }
}
