//! Parameters as columns: what is planned for their types runs with any values of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;

pub fn types_of(parameters: &[ScalarValue]) -> Vec<DataType> {
    parameters.iter().map(ScalarValue::data_type).collect()
}

/// `$1`, `$2`, ..
pub(super) fn fields_of(types: impl IntoIterator<Item = DataType>) -> Vec<FieldRef> {
    types.into_iter().enumerate().map(|(i, t)| Arc::new(Field::new(format!("${}", i + 1), t, true))).collect()
}

/// The plan with parameters of these types.
pub(super) fn typed(plan: LogicalPlan, parameters: &[FieldRef]) -> Result<LogicalPlan> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let plan = plan.transform_up(|node| {
        let typed = node.map_expressions(|expr| {
            expr.transform_up(|e| {
                let Expr::Placeholder(mut p) = e else { return Ok(Transformed::no(e)) };
                p.field = parameters.iter().find(|f| *f.name() == p.id).cloned();
                Ok(Transformed::yes(Expr::Placeholder(p)))
            })
        })?;
        typed.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(plan.data)
}

/// The expression over columns in place of parameters.
pub(super) fn over_parameters(expr: Expr) -> Result<Expr> {
    let expr = expr.transform_up(|e| {
        Ok(match e {
            Expr::Placeholder(p) => Transformed::yes(Expr::Column(Column::new_unqualified(p.id))),
            other => Transformed::no(other),
        })
    })?;
    Ok(expr.data)
}
