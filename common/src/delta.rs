//! A [`Delta`]: the change of a collection in one epoch, as rows with weights.
//!
//! A collection is a multiset of rows. Weight +n means n more of the row, -n means n fewer; an update is -old +new in one
//! delta. `weights: None` says all are +1, which is what append-only streams send and what the fast paths look for.

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::SchemaRef;

use crate::error::Result;

#[derive(Debug, Clone)]
pub struct Delta {
    pub batch: RecordBatch,
    /// As long as `batch`, no nulls, no zeros; `None`: all +1.
    pub weights: Option<Int64Array>,
}

impl Delta {
    /// Rows that all appear once.
    pub fn inserts(batch: RecordBatch) -> Self {
        Self { batch, weights: None }
    }

    /// Rows that all go, once.
    pub fn deletes(batch: RecordBatch) -> Self {
        let weights = Int64Array::from(vec![-1; batch.num_rows()]);
        Self { batch, weights: Some(weights) }
    }

    pub fn new(batch: RecordBatch, weights: Option<Int64Array>) -> Self {
        debug_assert!(weights.as_ref().is_none_or(|w| w.len() == batch.num_rows() && w.null_count() == 0));
        Self { batch, weights }
    }

    pub fn empty(schema: SchemaRef) -> Self {
        Self::inserts(RecordBatch::new_empty(schema))
    }

    pub fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |w| w.value(row))
    }

    /// The same weights over other columns.
    #[must_use]
    pub fn with_batch(&self, batch: RecordBatch) -> Self {
        Self::new(batch, self.weights.clone())
    }

    /// Rows where `mask` is true.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self> {
        let batch = compute::filter_record_batch(&self.batch, mask)?;
        let weights = match &self.weights {
            Some(w) => Some(as_weights(compute::filter(w, mask)?)),
            None => None,
        };
        Ok(Self { batch, weights })
    }

    /// Rows at `indices`, in that order; a row may be taken several times or never.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self> {
        let columns = compute::take_arrays(self.batch.columns(), indices, None)?;
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        let batch = RecordBatch::try_new_with_options(self.batch.schema(), columns, &options)?;
        let weights = match &self.weights {
            Some(w) => Some(as_weights(compute::take(w, indices, None)?)),
            None => None,
        };
        Ok(Self { batch, weights })
    }

    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            batch: self.batch.slice(offset, length),
            weights: self.weights.as_ref().map(|w| w.slice(offset, length)),
        }
    }

    /// One delta with the rows of all, in order.
    pub fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Result<Self> {
        if let [one] = deltas {
            return Ok(one.clone());
        }
        let batch = compute::concat_batches(schema, deltas.iter().map(|d| &d.batch))?;
        let weights = deltas.iter().any(|d| d.weights.is_some()).then(|| {
            let mut all = Vec::with_capacity(batch.num_rows());
            for delta in deltas {
                match &delta.weights {
                    Some(w) => all.extend_from_slice(w.values()),
                    None => all.extend(std::iter::repeat_n(1, delta.num_rows())),
                }
            }
            Int64Array::from(all)
        });
        Ok(Self { batch, weights })
    }
}

fn as_weights(array: ArrayRef) -> Int64Array {
    Int64Array::from(array.to_data())
}
