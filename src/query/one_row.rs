//! A row of expressions over parameters, as those in VALUES are: computed without DataFusion's optimizer and executor, which cost
//! many times what such expressions do, and as often as one likes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;

use super::Names;
use super::parameters::{fields_of, over_parameters, typed};

#[derive(Debug)]
pub struct OneRow {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    parameters: SchemaRef,
    /// As planned.
    fields: Vec<FieldRef>,
    lasting: bool,
}

impl OneRow {
    /// The only row of the plan, whose parameters are of these types. `None`: it is not a SELECT of expressions alone.
    pub fn of(names: &Names, plan: &LogicalPlan, parameters: Vec<DataType>) -> Result<Option<Self>> {
        let LogicalPlan::Projection(given) = plan else { return Ok(None) };
        if !matches!(given.input.as_ref(), LogicalPlan::EmptyRelation(empty) if empty.produce_one_row) {
            return Ok(None);
        }
        for expr in &given.expr {
            if expr.exists(|e| Ok(!is_plain(e)))? {
                return Ok(None);
            }
        }
        let parameters = fields_of(parameters);
        let plan = typed(plan.clone(), &parameters)?;
        let LogicalPlan::Projection(analyzed) = names.planner().analyze(&plan)? else { return Ok(None) };
        let parameters = Schema::new(parameters);
        let seen = Arc::new(DFSchema::try_from(parameters.clone())?);
        let props = names.state.execution_props();
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&seen))
            .with_config_options(names.state.config_options().clone())
            .with_query_execution_start_time(props.query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let fields = analyzed.schema.fields().iter().cloned().collect();
        let (mut exprs, mut lasting) = (Vec::with_capacity(analyzed.expr.len()), true);
        for expr in analyzed.expr {
            lasting &= !expr.exists(|e| Ok(changes_by_itself(e)))?;
            let expr = simplifier.simplify(over_parameters(expr.unalias())?)?;
            exprs.push(create_physical_expr(&expr, &seen, props, &PhysicalPlanningContext::default())?);
        }
        Ok(Some(Self { exprs, parameters: Arc::new(parameters), fields, lasting }))
    }

    /// Whether it is the same for the same parameters in every statement, as long as catalog and settings are.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// `parameters`: of the types that [`OneRow::of`] was given.
    pub fn row(&self, parameters: &[ScalarValue]) -> Result<RecordBatch> {
        let values = parameters.iter().map(|p| p.to_array()).collect::<Result<Vec<ArrayRef>, _>>()?;
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let values = RecordBatch::try_new_with_options(Arc::clone(&self.parameters), values, &one)?;
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&values)?.into_array(1);
        let columns = self.exprs.iter().map(evaluate).collect::<Result<Vec<ArrayRef>, _>>()?;
        // What an expression becomes may be NULL, or another kind of text, where its plan did not say so.
        let fields = self.fields.iter().zip(&columns);
        let fields = fields.map(|(field, column)| {
            field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &one)?)
    }
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
    )
}

/// Has another value in another statement.
fn changes_by_itself(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(function) => function.func.signature().volatility != Volatility::Immutable,
        Expr::ScalarVariable(..) => true,
        _ => false,
    }
}
