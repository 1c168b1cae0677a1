//! A [`Delta`]: the change of a collection in one epoch, as rows with weights.
//!
//! A collection is a multiset of rows. Weight +n means n more of the row, -n means n fewer; an update is -old +new in one
//! delta. `weights: None` says all are +1, which is what append-only streams send and what the fast paths look for.

use std::collections::HashMap;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};

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

/// What some deltas come to.
#[derive(Debug, Clone)]
pub struct Net {
    pub batch: RecordBatch,
    /// Distinct rows of `batch` with their weights summed up, in order of first appearance, none of them 0. `None`: every row of
    /// `batch` counts once.
    pub weights: Option<Vec<(u32, i64)>>,
}

impl Net {
    pub fn of(schema: &SchemaRef, deltas: &[Delta]) -> Result<Self> {
        let restated = deltas.iter().map(|delta| -> Result<Delta> {
            let options = RecordBatchOptions::new().with_row_count(Some(delta.num_rows()));
            let columns = delta.batch.columns().to_vec();
            Ok(delta.with_batch(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?))
        });
        let all = Delta::concat(schema, &restated.collect::<Result<Vec<_>>>()?)?;
        let Some(weights) = &all.weights else { return Ok(Self { batch: all.batch, weights: None }) };
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(all.batch.columns())?;
        let mut sums: HashMap<OwnedRow, (u32, i64)> = HashMap::new();
        for (row, weight) in weights.values().iter().enumerate() {
            sums.entry(rows.row(row).owned()).or_insert((row as u32, 0)).1 += weight;
        }
        let mut sums: Vec<(u32, i64)> = sums.into_values().filter(|(_, weight)| *weight != 0).collect();
        sums.sort_unstable();
        Ok(Self { batch: all.batch, weights: Some(sums) })
    }

    /// Rows that are there and were not, each as often as it is there more.
    pub fn come(&self) -> Result<RecordBatch> {
        self.repeated(1)
    }

    /// Rows that were there and are not.
    pub fn gone(&self) -> Result<RecordBatch> {
        self.repeated(-1)
    }

    fn repeated(&self, sign: i64) -> Result<RecordBatch> {
        let rows: UInt32Array = match &self.weights {
            None if sign > 0 => return Ok(self.batch.clone()),
            None => UInt32Array::from(Vec::<u32>::new()),
            Some(weights) => {
                let times = |(row, weight): &(u32, i64)| std::iter::repeat_n(*row, (weight * sign).max(0) as usize);
                UInt32Array::from_iter_values(weights.iter().flat_map(times))
            }
        };
        Ok(compute::take_record_batch(&self.batch, &rows)?)
    }
}

fn as_weights(array: ArrayRef) -> Int64Array {
    Int64Array::from(array.to_data())
}
