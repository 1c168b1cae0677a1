//! Which columns a reader is asked for, and where each comes from: decoded from the record, or told beside it by INCLUDE.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::Result;

use crate::options::OnError;
use crate::spec::projected;

/// `I`: what the connector can tell of a record.
#[derive(Debug)]
pub(crate) struct Wanted<I> {
    /// What the batches hold.
    pub schema: SchemaRef,
    outputs: Vec<Output<I>>,
    /// What is decoded: the declared columns at `places`.
    pub decoded: SchemaRef,
    pub places: Vec<usize>,
    /// Place in `decoded` of the column that the reader needs for itself.
    pub beside: Option<usize>,
}

#[derive(Debug)]
enum Output<I> {
    Decoded(usize),
    Included(I),
}

impl<I: Clone> Wanted<I> {
    /// `schema`: the `declared` columns, then those `included`. Where bad records are left out every declared column is decoded: which
    /// are bad must not depend on who reads. `beside`: a declared column that the reader needs for itself.
    pub fn new(
        schema: &SchemaRef,
        declared: &SchemaRef,
        included: &[I],
        projection: Option<&[usize]>,
        on_error: OnError,
        beside: Option<usize>,
    ) -> Result<Self> {
        let (schema, indices) = projected(schema, projection)?;
        let mut places: Vec<usize> = match on_error {
            OnError::Drop | OnError::DeadLetters => (0..declared.fields().len()).collect(),
            OnError::Fail => Vec::new(),
        };
        let mut place_of = |column: usize| match places.iter().position(|p| *p == column) {
            Some(at) => at,
            None => {
                places.push(column);
                places.len() - 1
            }
        };
        let output = |index: usize| match index.checked_sub(declared.fields().len()) {
            Some(at) => Output::Included(included[at].clone()),
            None => Output::Decoded(place_of(index)),
        };
        let outputs = indices.into_iter().map(output).collect();
        let beside = beside.map(&mut place_of);
        let decoded = Arc::new(declared.project(&places)?);
        Ok(Self { schema, outputs, decoded, places, beside })
    }

    /// The rows of `decoded` with what is told beside them.
    pub fn batch(&self, decoded: &RecordBatch, include: impl Fn(&I) -> ArrayRef) -> Result<RecordBatch> {
        let columns = self.outputs.iter().map(|output| match output {
            Output::Decoded(at) => Arc::clone(decoded.column(*at)),
            Output::Included(what) => include(what),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &options)?)
    }
}
