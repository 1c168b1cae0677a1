//! Of the conditions of a filter those that cost little come first: the others are asked of fewer rows.
//!
//! ```text
//!   mode = 'MAIL' AND f(x) AND day >= 1994-01-01   ──▶   day >= 1994-01-01 AND mode = 'MAIL' AND f(x)
//! ```
//!
//! Only conditions that cannot fail come forward; all others keep their order, in which one may protect the next.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};

#[derive(Debug)]
pub struct CheapFirst;

impl PhysicalOptimizerRule for CheapFirst {
    fn name(&self) -> &str {
        "CheapFirst"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(node)) };
            let Some(predicate) = in_order(filter) else { return Ok(Transformed::no(node)) };
            let filter = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            Ok(Transformed::yes(Arc::new(filter) as _))
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `None`: it is.
fn in_order(filter: &FilterExec) -> Option<Arc<dyn PhysicalExpr>> {
    let schema = filter.input().schema();
    let mut conditions = split_conjunction(filter.predicate());
    if conditions.is_sorted_by_key(|condition| effort(condition, &schema)) {
        return None;
    }
    conditions.sort_by_key(|condition| effort(condition, &schema));
    Some(conjunction(conditions.into_iter().cloned()))
}

/// What a condition costs for a row.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Effort {
    /// Columns of one width with each other or with constants.
    Numbers,
    /// The same of text and the like.
    Bytes,
    /// Whatever else, which may fail.
    Unknown,
}

/// Of some values it may be an error.
pub(super) fn may_fail(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    effort(condition, schema) == Effort::Unknown
}

fn effort(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Effort {
    if let Some(binary) = condition.downcast_ref::<BinaryExpr>() {
        let (left, op, right) = (binary.left(), *binary.op(), binary.right());
        return match op {
            Operator::And | Operator::Or => effort(left, schema).max(effort(right, schema)),
            _ if is_comparison(op) => effort_to_read(left, schema).max(effort_to_read(right, schema)),
            _ => Effort::Unknown,
        };
    }
    if let Some(list) = condition.downcast_ref::<InListExpr>() {
        let values = list.list().iter().map(|value| effort_to_read(value, schema)).max();
        return effort_to_read(list.expr(), schema).max(values.unwrap_or(Effort::Numbers));
    }
    if let Some(null) = condition.downcast_ref::<IsNullExpr>() {
        return effort_to_read(null.arg(), schema);
    }
    if let Some(not_null) = condition.downcast_ref::<IsNotNullExpr>() {
        return effort_to_read(not_null.arg(), schema);
    }
    effort_to_read(condition, schema)
}

pub(super) fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn effort_to_read(value: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Effort {
    if !value.is::<Column>() && !value.is::<Literal>() {
        return Effort::Unknown;
    }
    match value.data_type(schema) {
        Ok(of) if of.is_primitive() || of == DataType::Boolean => Effort::Numbers,
        Ok(_) => Effort::Bytes,
        Err(_) => Effort::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::empty::EmptyExec;
    use expect_test::{Expect, expect};

    use super::*;

    /// `a` and `b` are integers, `t` is text.
    fn schema() -> Schema {
        let field = |name: &str, of| Field::new(name, of, true);
        Schema::new(vec![field("a", DataType::Int32), field("b", DataType::Int32), field("t", DataType::Utf8)])
    }

    fn of(left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        binary(left, op, right, &schema()).unwrap()
    }

    fn column(name: &str) -> Arc<dyn PhysicalExpr> {
        col(name, &schema()).unwrap()
    }

    fn check<const N: usize>(conditions: [&Arc<dyn PhysicalExpr>; N], expected: Expect) {
        let input = Arc::new(EmptyExec::new(Arc::new(schema())));
        let filter = FilterExec::try_new(conjunction(conditions.into_iter().cloned()), input).unwrap();
        let plan = CheapFirst.optimize(Arc::new(filter), &ConfigOptions::default()).unwrap();
        let filter: &FilterExec = plan.downcast_ref().unwrap();
        expected.assert_eq(&filter.predicate().to_string());
    }

    #[test]
    fn numbers_before_text_before_all_else() {
        let less = of(column("a"), Operator::Lt, column("b"));
        let text = of(column("t"), Operator::Eq, lit("x"));
        let quotient = of(of(lit(1), Operator::Divide, column("a")), Operator::Gt, lit(2));
        check([&text, &less], expect!["a@0 < b@1 AND t@2 = x"]);
        check([&quotient, &text, &less], expect!["a@0 < b@1 AND t@2 = x AND 1 / a@0 > 2"]);
        check([&text, &quotient], expect!["t@2 = x AND 1 / a@0 > 2"]);
    }

    #[test]
    fn what_protects_stays_before_what_it_protects() {
        let odd = of(of(column("b"), Operator::Modulo, lit(2)), Operator::Eq, lit(1));
        let quotient = of(of(lit(1), Operator::Divide, column("a")), Operator::Gt, lit(2));
        check([&odd, &quotient], expect!["b@1 % 2 = 1 AND 1 / a@0 > 2"]);
        check([&quotient, &odd], expect!["1 / a@0 > 2 AND b@1 % 2 = 1"]);
    }

    #[test]
    fn a_choice_costs_what_its_dearest_does() {
        let one = of(column("a"), Operator::Eq, lit(1));
        let text = of(column("t"), Operator::Eq, lit("x"));
        let either = of(one.clone(), Operator::Or, text);
        check([&either, &one], expect!["a@0 = 1 AND (a@0 = 1 OR t@2 = x)"]);
    }
}
