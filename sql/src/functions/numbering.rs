//! row_number(), rank(), dense_rank() and ntile() with PostgreSQL's types: DataFusion's own count without a sign.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::functions_window::{ntile, rank, row_number};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::window_state::WindowAggState;
use datafusion::logical_expr::{Documentation, LimitEffect, PartitionEvaluator, Signature, WindowUDF, WindowUDFImpl};
use datafusion::physical_expr::PhysicalExpr;

pub(super) fn functions() -> Vec<WindowUDF> {
    [
        (row_number::row_number_udwf(), DataType::Int64),
        (rank::rank_udwf(), DataType::Int64),
        (rank::dense_rank_udwf(), DataType::Int64),
        (ntile::ntile_udwf(), DataType::Int32),
    ]
    .map(|(theirs, data_type)| WindowUDF::new_from_impl(Numbering { theirs, data_type }))
    .into()
}

/// One of DataFusion's functions, its results cast.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Numbering {
    theirs: Arc<WindowUDF>,
    data_type: DataType,
}

impl WindowUDFImpl for Numbering {
    fn name(&self) -> &str {
        self.theirs.name()
    }

    fn signature(&self) -> &Signature {
        self.theirs.signature()
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> DfResult<Box<dyn PartitionEvaluator>> {
        let theirs = self.theirs.partition_evaluator_factory(args)?;
        Ok(Box::new(CastResults { theirs, data_type: self.data_type.clone() }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> DfResult<FieldRef> {
        let field = self.theirs.field(args)?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(self.data_type.clone())))
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.theirs.sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.theirs.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.theirs.documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.theirs.inner().limit_effect(args)
    }
}

#[derive(Debug)]
struct CastResults {
    theirs: Box<dyn PartitionEvaluator>,
    data_type: DataType,
}

impl PartitionEvaluator for CastResults {
    fn memoize(&mut self, state: &mut WindowAggState) -> DfResult<()> {
        self.theirs.memoize(state)
    }

    fn get_range(&self, row: usize, rows: usize) -> DfResult<Range<usize>> {
        self.theirs.get_range(row, rows)
    }

    fn is_causal(&self) -> bool {
        self.theirs.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> DfResult<ArrayRef> {
        Ok(cast(&self.theirs.evaluate_all(values, rows)?, &self.data_type)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> DfResult<ScalarValue> {
        self.theirs.evaluate(values, range)?.cast_to(&self.data_type)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> DfResult<ArrayRef> {
        Ok(cast(&self.theirs.evaluate_all_with_rank(rows, ranks)?, &self.data_type)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.theirs.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.theirs.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.theirs.include_rank()
    }
}
