//! Values that are taken together (an IN list, a BETWEEN, the results of a CASE), of one kind as Postgres chooses it.
//!
//! ```text
//!   float_column IN (0.5, 1.5)      ──▶  float_column IN (0.5::float8, 1.5::float8)
//!   i IN (INTERVAL '30 days')       ──▶  tidemark_interval_order(i) IN (tidemark_interval_order(..))
//! ```
//!
//! DataFusion would make numerics of the floats, and does not know that a month is 30 days.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::{INTERVAL_ORDER, PostgresCasts};

/// Numerics beside a float, as floats. True if there was one.
pub(super) fn as_floats(values: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types = types(values, schema);
    if !types.iter().flatten().any(DataType::is_floating) {
        return false;
    }
    let mut changed = false;
    for (value, data_type) in values.iter_mut().zip(types) {
        if data_type.is_some_and(|t| t.is_decimal()) {
            let numeric = std::mem::take(*value);
            **value = Expr::Cast(Cast::new(Box::new(numeric), DataType::Float64));
            changed = true;
        }
    }
    changed
}

impl PostgresCasts {
    /// Intervals by their length. True if there was one.
    pub(super) fn by_length(&self, values: &mut [&mut Expr], schema: &DFSchema) -> DfResult<bool> {
        let is_interval = |t: &Option<DataType>| matches!(t, Some(DataType::Interval(_)));
        let types = types(values, schema);
        for (value, _) in values.iter_mut().zip(&types).filter(|(_, t)| is_interval(t)) {
            let interval = std::mem::take(*value);
            **value = self.call(INTERVAL_ORDER, interval)?;
        }
        Ok(types.iter().any(is_interval))
    }
}

/// A parameter has none yet.
fn types(values: &[&mut Expr], schema: &DFSchema) -> Vec<Option<DataType>> {
    values.iter().map(|value| value.get_type(schema).ok()).collect()
}
