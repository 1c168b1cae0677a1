//! UNNEST: a row becomes one row for each element of its list columns, side by side.
//!
//! ```text
//!   a | l       | m          a | l | m
//!   1 | [5, 6]  | [7]   ──▶  1 | 5 | 7        the shorter list is filled up with NULL; a row whose lists are all
//!                            1 | 6 | NULL     empty goes away; a NULL list is one NULL element with preserve_nulls
//! ```
//!
//! A list in a list is opened `depth` times: at each level the columns with that much left to open are opened together, the
//! deepest first, as DataFusion does it.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{is_null, nullif, take};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use tidemark_common::plan::UnnestColumn;
use tidemark_common::{Delta, Error, Result};

use super::{Chunks, Operator, StepContext, only_input};

pub struct Unnest {
    columns: Vec<UnnestColumn>,
    preserve_nulls: bool,
    schema: SchemaRef,
}

impl Unnest {
    pub fn new(columns: Vec<UnnestColumn>, preserve_nulls: bool, schema: SchemaRef) -> Self {
        Self { columns, preserve_nulls, schema }
    }

    fn unnest(&self, delta: &Delta) -> Result<Delta> {
        let mut columns = self.columns.iter().map(|c| source_column(c, &delta.batch)).collect::<Result<Vec<_>>>()?;
        // Which input row each current row comes from.
        let mut origin: Vec<u32> = (0..delta.num_rows() as u32).collect();
        let deepest = self.columns.iter().map(depth).max().unwrap_or(0);
        for level in (1..=deepest).rev() {
            let opened: Vec<bool> = self.columns.iter().map(|c| depth(c) >= level).collect();
            let rows = open_lists(&mut columns, &opened, origin.len(), self.preserve_nulls)?;
            origin = rows.iter().map(|&r| origin[r as usize]).collect();
        }
        let weights = match (&delta.weights, deepest) {
            (Some(weights), 1..) => Some(origin.iter().map(|&r| weights.value(r as usize)).collect::<Vec<_>>().into()),
            (weights, _) => weights.clone(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(origin.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Delta::new(batch, weights))
    }
}

impl Operator for Unnest {
    fn step(&mut self, _ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let mut output = Chunks::new();
        for delta in only_input(inputs)? {
            let unnested = self.unnest(&delta)?;
            if !unnested.is_empty() {
                output.push(unnested);
            }
        }
        Ok(output)
    }
}

fn depth(column: &UnnestColumn) -> usize {
    match column {
        UnnestColumn::List { depth, .. } => *depth,
        UnnestColumn::Keep(_) | UnnestColumn::Field { .. } => 0,
    }
}

fn source_column(column: &UnnestColumn, batch: &RecordBatch) -> Result<ArrayRef> {
    match column {
        UnnestColumn::Keep(column) | UnnestColumn::List { column, .. } => Ok(Arc::clone(batch.column(*column))),
        UnnestColumn::Field { column, field } => {
            let structs = batch.column(*column).as_struct_opt().ok_or_else(|| {
                Error::internal(format!(
                    "column {column} of an unnest is {}, not a struct",
                    batch.column(*column).data_type()
                ))
            })?;
            let values = structs.column(*field);
            if structs.null_count() == 0 {
                return Ok(Arc::clone(values));
            }
            Ok(nullif(values, &is_null(structs)?)?)
        }
    }
}

/// Opens the lists of the `opened` columns by one level and repeats the others; returns the row each new row comes from.
fn open_lists(columns: &mut [ArrayRef], opened: &[bool], rows: usize, preserve_nulls: bool) -> Result<Vec<u32>> {
    let lists: Vec<Option<Lists>> = columns
        .iter()
        .zip(opened)
        .map(|(column, &open)| open.then(|| Lists::new(column)).transpose())
        .collect::<Result<_>>()?;
    let null_length = usize::from(preserve_nulls);
    let mut origin = Vec::new();
    let mut lengths = Vec::with_capacity(rows);
    for row in 0..rows {
        let longest = lists.iter().flatten().map(|l| l.length(row).unwrap_or(null_length)).max().unwrap_or(0);
        origin.extend(std::iter::repeat_n(row as u32, longest));
        lengths.push(longest);
    }
    let repeated = UInt32Array::from(origin.clone());
    for (column, lists) in columns.iter_mut().zip(&lists) {
        *column = match lists {
            Some(lists) => lists.elements(&lengths)?,
            None => take(column, &repeated, None)?,
        };
    }
    Ok(origin)
}

/// A list column of any of arrow's list types: where in the values each row's elements are.
struct Lists {
    ranges: Vec<Option<(usize, usize)>>,
    values: ArrayRef,
}

impl Lists {
    fn new(array: &ArrayRef) -> Result<Self> {
        let spans: Vec<(usize, usize)>;
        let values;
        match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                spans = list.offsets().windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect();
                values = Arc::clone(list.values());
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                spans = list.offsets().windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect();
                values = Arc::clone(list.values());
            }
            DataType::FixedSizeList(_, size) => {
                let size = *size as usize;
                spans = (0..array.len()).map(|i| (i * size, (i + 1) * size)).collect();
                values = Arc::clone(array.as_fixed_size_list().values());
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                let sizes = list.offsets().iter().zip(list.sizes());
                spans = sizes.map(|(&o, &s)| (o as usize, (o + s) as usize)).collect();
                values = Arc::clone(list.values());
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                let sizes = list.offsets().iter().zip(list.sizes());
                spans = sizes.map(|(&o, &s)| (o as usize, (o + s) as usize)).collect();
                values = Arc::clone(list.values());
            }
            // unnest(NULL)
            DataType::Null => {
                spans = vec![(0, 0); array.len()];
                values = new_null_array(&DataType::Null, 0);
                return Ok(Self { ranges: spans.into_iter().map(|_| None).collect(), values });
            }
            other => return Err(Error::internal(format!("an unnest got a column of type {other}, which is no list"))),
        }
        let ranges = spans.into_iter().enumerate().map(|(row, span)| array.is_valid(row).then_some(span)).collect();
        Ok(Self { ranges, values })
    }

    fn length(&self, row: usize) -> Option<usize> {
        self.ranges[row].map(|(start, end)| end - start)
    }

    /// `lengths[row]` elements of each row, filled up with NULL.
    fn elements(&self, lengths: &[usize]) -> Result<ArrayRef> {
        let mut indices: Vec<Option<u32>> = Vec::with_capacity(lengths.iter().sum());
        for (range, &length) in self.ranges.iter().zip(lengths) {
            let (start, end) = range.unwrap_or((0, 0));
            indices.extend((start..end).map(|i| Some(i as u32)));
            indices.extend(std::iter::repeat_n(None, length - (end - start)));
        }
        if self.values.is_empty() {
            return Ok(new_null_array(self.values.data_type(), indices.len()));
        }
        Ok(take(&self.values, &UInt32Array::from(indices), None)?)
    }
}
