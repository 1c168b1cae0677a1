//! Rows of a source WITH (ttl = ..) go when they are old: wherever it is named, a condition on the clock stands over it.
//!
//! ```text
//!   clicks                Filter  coalesce(ts, 'infinity') > now() - ttl
//!                   ──▶     clicks
//! ```
//!
//! A row without a time stays, as in a table with a ttl. A time without a zone is one of UTC, whatever zone the session has.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::planner::ContextProvider;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, lit};
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use crate::functions::epoch_clock::micros_interval;
use crate::relation::Relation;

/// `functions` has `now()`: that of a session, or of the epoch.
pub(crate) fn rewrite(plan: LogicalPlan, functions: &dyn ContextProvider) -> Result<LogicalPlan> {
    let rewritten = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some(condition) = condition(scan, functions)? else { return Ok(Transformed::no(node)) };
        let filtered = LogicalPlanBuilder::from(node).filter(condition)?.build()?;
        // Below it is the same scan again.
        Ok(Transformed::new(filtered, true, TreeNodeRecursion::Jump))
    })?;
    Ok(rewritten.data)
}

fn condition(scan: &TableScan, functions: &dyn ContextProvider) -> Result<Option<Expr>> {
    let provider = source_as_provider(&scan.source)?;
    let Some((column, micros)) = provider.downcast_ref::<Relation>().and_then(|relation| relation.ttl) else {
        return Ok(None);
    };
    let call = |name: &str, args: Vec<Expr>| match functions.get_function_meta(name) {
        Some(function) => Ok(function.call(args)),
        None => Err(Error::internal(format!("{name}() is not there"))),
    };
    let field = scan.projected_schema.qualified_field(column);
    let moment = SqlType::TimestampTz.data_type();
    let time = match *field.1.data_type() == moment {
        true => Expr::Column(Column::from(field)),
        false => call("timezone", vec![lit("UTC"), Expr::Column(Column::from(field))])?,
    };
    let never = match &moment {
        DataType::Timestamp(_, zone) => lit(ScalarValue::TimestampMicrosecond(Some(i64::MAX), zone.clone())),
        other => return Err(Error::internal(format!("a moment is of type {other}"))),
    };
    let limit = call("now", vec![])? - micros_interval(micros);
    Ok(Some(coalesce(vec![time, never]).gt(limit)))
}
