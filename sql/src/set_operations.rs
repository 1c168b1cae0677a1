//! EXCEPT ALL and INTERSECT ALL, which take as many of equal rows as the other side has; UNION of numerics and floats, as floats.
//!
//! ```text
//!   a EXCEPT ALL b    a: x x x, b: x    ──▶  x1 x2 x3 without x1     x2 x3
//!   a INTERSECT ALL b a: x x x, b: x x  ──▶  x1 x2 x3 that are in x1 x2
//! ```
//!
//! DataFusion plans both as a join that keeps or drops all equal rows at once; with the rows numbered it counts.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::error::Result as DfResult;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, Union, cast, col};
use datafusion::optimizer::analyzer::type_coercion::coerce_union_schema;

const LEFT_NUMBER: &str = "tidemark_left_number";
const RIGHT_NUMBER: &str = "tidemark_right_number";

/// Rewrites every such join in the plan, subqueries included.
pub fn rewrite(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let counting = |node| match node {
        LogicalPlan::Join(join) if counts(&join) => counted(join).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    };
    Ok(plan.transform_up_with_subqueries(counting)?.data)
}

/// A UNION whose branches have the same types where these are numbers: what stands above it can rely on them. Numerics beside
/// floats are floats; DataFusion would make numerics of the floats.
pub(crate) fn union(inputs: Vec<Arc<LogicalPlan>>) -> DfResult<LogicalPlan> {
    let type_of = |input: &LogicalPlan, at: usize| input.schema().field(at).data_type().clone();
    let width = inputs.first().map_or(0, |first| first.schema().fields().len());
    let mut wanted: Vec<Option<DataType>> = vec![None; width];
    for (at, wanted) in wanted.iter_mut().enumerate() {
        let types: Vec<DataType> = inputs.iter().map(|input| type_of(input, at)).collect();
        if !types.iter().all(DataType::is_numeric) || types.iter().all(|t| *t == types[0]) {
            continue;
        }
        let floats = types.iter().any(DataType::is_floating) && types.iter().any(DataType::is_decimal);
        *wanted = Some(match floats {
            true => DataType::Float64,
            false => coerce_union_schema(&inputs)?.field(at).data_type().clone(),
        });
    }
    let inputs = inputs.into_iter().map(|input| {
        if wanted.iter().enumerate().all(|(at, t)| t.as_ref().is_none_or(|t| *t == type_of(&input, at))) {
            return Ok(input);
        }
        let columns =
            input.schema().columns().into_iter().zip(&wanted).enumerate().map(|(at, (column, wanted))| match wanted {
                Some(wanted) if *wanted != type_of(&input, at) => {
                    let name = (column.relation.clone(), column.name.clone());
                    cast(Expr::Column(column), wanted.clone()).alias_qualified(name.0, name.1)
                }
                _ => Expr::Column(column),
            });
        let columns: Vec<Expr> = columns.collect();
        Ok(Arc::new(LogicalPlanBuilder::from(input.as_ref().clone()).project(columns)?.build()?))
    });
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs.collect::<DfResult<Vec<_>>>()?)?))
}

/// Only set operations compare NULLs as equal here, and those without ALL have distinct rows on their left.
fn counts(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull
        && matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi)
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

fn counted(join: Join) -> DfResult<LogicalPlan> {
    let columns = join.left.schema().columns();
    let left = numbered(join.left.as_ref().clone(), LEFT_NUMBER)?;
    let right = numbered(join.right.as_ref().clone(), RIGHT_NUMBER)?;
    let mut on = join.on;
    on.push((col(LEFT_NUMBER), col(RIGHT_NUMBER)));
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(columns.into_iter().map(Expr::Column))?.build()
}

/// The rows with a number each, by which equal ones differ.
fn numbered(plan: LogicalPlan, name: &str) -> DfResult<LogicalPlan> {
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let number = row_number().partition_by(columns.clone()).build()?;
    let of_window = Column::from_name(number.schema_name().to_string());
    LogicalPlanBuilder::from(plan)
        .window(vec![number])?
        .project(columns.into_iter().chain([Expr::Column(of_window).alias(name)]))?
        .build()
}
