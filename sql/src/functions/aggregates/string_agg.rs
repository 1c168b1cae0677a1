//! `string_agg`: DataFusion's, which sorts for itself where the rows do not come in its order.
//!
//! DataFusion's own demands its order of the rows, so that a query could have but one `string_agg(.. ORDER BY ..)`.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result as DfResult;
use datafusion::functions_aggregate::string_agg::string_agg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalSortExpr;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, SqlState};

pub fn functions() -> Vec<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    vec![AggregateUDF::new_from_impl(StringAgg { signature, strings: string_agg_udaf() })]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StringAgg {
    signature: Signature,
    strings: Arc<AggregateUDF>,
}

/// DISTINCT sorts in PostgreSQL, and what it gives is in that order.
fn sorted_if_distinct<T>(args: AccumulatorArgs, make: impl FnOnce(AccumulatorArgs) -> T) -> T {
    if !args.is_distinct || !args.order_bys.is_empty() {
        return make(args);
    }
    let options = SortOptions { descending: false, nulls_first: false };
    let sorted = [PhysicalSortExpr::new(Arc::clone(&args.exprs[0]), options)];
    make(AccumulatorArgs { order_bys: &sorted, ..args })
}

impl AggregateUDFImpl for StringAgg {
    fn name(&self) -> &str {
        "string_agg"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> DfResult<Vec<DataType>> {
        let is_text = |t: &DataType| t.is_string() || t.is_null();
        if given.len() == 2 && given.iter().all(is_text) {
            // As it is, or ORDER BY the argument would be by something else than the argument.
            let text = |t: &DataType| if t.is_null() { DataType::Utf8 } else { t.clone() };
            return Ok(given.iter().map(text).collect());
        }
        let given: Vec<String> = given.iter().map(|t| SqlType::from_data_type(t).to_string()).collect();
        let message = format!("function string_agg({}) does not exist", given.join(", "));
        Err(Error::new(SqlState::UndefinedFunction, message).into())
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::LargeUtf8)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        self.strings.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        sorted_if_distinct(args, |args| self.strings.accumulator(args))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.strings.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        self.strings.create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::SoftRequirement
    }

    /// Its accumulator sorts in any case.
    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> DfResult<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }
}
