//! A row of expressions over nothing, as those in VALUES are: computed without DataFusion's optimizer and executor, which cost
//! many times what such expressions do.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;
use tidemark_common::Result;

use super::Names;

/// The only row of the plan, under its schema. `None`: it is not a SELECT of expressions alone.
pub fn one_row(names: &Names, plan: &LogicalPlan) -> Result<Option<RecordBatch>> {
    let LogicalPlan::Projection(given) = plan else { return Ok(None) };
    if !matches!(given.input.as_ref(), LogicalPlan::EmptyRelation(empty) if empty.produce_one_row) {
        return Ok(None);
    }
    for expr in &given.expr {
        if expr.exists(|e| Ok(!is_plain(e)))? {
            return Ok(None);
        }
    }
    let LogicalPlan::Projection(analyzed) = names.planner().analyze(plan)? else { return Ok(None) };
    let nothing = analyzed.input.schema();
    let props = names.state.execution_props();
    let context = SimplifyContext::builder()
        .with_schema(nothing.clone())
        .with_config_options(names.state.config_options().clone())
        .with_query_execution_start_time(props.query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let row = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &row)?;
    let mut columns = Vec::with_capacity(analyzed.expr.len());
    for expr in analyzed.expr {
        let expr = simplifier.simplify(expr.unalias())?;
        let physical = create_physical_expr(&expr, nothing, props, &PhysicalPlanningContext::default())?;
        columns.push(physical.evaluate(&row)?.into_array(1)?);
    }
    // What an expression becomes may be NULL, or another kind of text, where its plan did not say so.
    let fields = analyzed.schema.fields().iter().zip(&columns);
    let fields = fields
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(Some(RecordBatch::try_new(schema, columns)?))
}

/// Has its value from itself and its arguments.
fn is_plain(expr: &Expr) -> bool {
    !matches!(
        expr,
        Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::Unnest(_)
            | Expr::Placeholder(_)
    )
}
