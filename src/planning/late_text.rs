//! Text of Parquet files is compared as it is read, and copied out only for the rows that are left.
//!
//! ```text
//!   FilterExec: mode = 'MAIL'                     ProjectionExec: day, mode as text
//!     ProjectionExec: day, mode as text    ──▶      FilterExec: mode = 'MAIL'
//!       DataSourceExec: day, mode (a view)            DataSourceExec: day, mode (a view)
//! ```
//!
//! A view is a length with the first bytes of a text and where the others are: those of a dictionary or a page, which all its rows
//! share. Everything but a scan of files has text end to end (`Utf8`).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, in_list,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use super::cheap_first::is_comparison;

#[derive(Debug)]
pub struct LateText;

impl PhysicalOptimizerRule for LateText {
    fn name(&self) -> &str {
        "LateText"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match swapped(&node)? {
                Some(swapped) => Transformed::yes(swapped),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The columns of a scan of files, those that are views as text.
pub fn as_text(scan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = scan.schema();
    if schema.fields().iter().all(|field| *field.data_type() != DataType::Utf8View) {
        return Ok(scan);
    }
    let shown = schema.fields().iter().enumerate().map(|(at, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
        let expr = match field.data_type() {
            DataType::Utf8View => Arc::new(CastExpr::new(column, DataType::Utf8, None)),
            _ => column,
        };
        ProjectionExpr { expr, alias: field.name().clone() }
    });
    Ok(Arc::new(ProjectionExec::try_new(shown, scan)?))
}

/// A filter over such a projection, below it.
fn swapped(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(None) };
    let Some(projection) = filter.input().downcast_ref::<ProjectionExec>() else { return Ok(None) };
    let below = Below { shown: projection.expr(), schema: &projection.input().schema() };
    let is_ours = below.shown.iter().all(|shown| shown.expr.is::<Column>() || view_of(&shown.expr).is_some());
    if !is_ours || filter.projection().is_some() || filter.fetch().is_some() {
        return Ok(None);
    }
    let filter = FilterExecBuilder::from(filter)
        .with_predicate(below.condition(filter.predicate())?)
        .with_input(Arc::clone(projection.input()))
        .build()?;
    Ok(Some(Arc::new(ProjectionExec::try_new(below.shown.to_vec(), Arc::new(filter))?)))
}

/// The view that is shown as text.
fn view_of(expr: &Arc<dyn PhysicalExpr>) -> Option<&Arc<dyn PhysicalExpr>> {
    let cast = expr.downcast_ref::<CastExpr>()?;
    (cast.expr().is::<Column>() && *cast.cast_type() == DataType::Utf8).then(|| cast.expr())
}

/// What a projection shows, and the columns of its input.
struct Below<'a> {
    shown: &'a [ProjectionExpr],
    schema: &'a Schema,
}

impl Below<'_> {
    /// A condition over the columns that are shown, over those of the input.
    fn condition(&self, condition: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let moved = Arc::clone(condition).transform_down(|expr| {
            if let Some(compared) = self.compared(&expr)? {
                return Ok(Transformed::new(compared, true, TreeNodeRecursion::Jump));
            }
            let Some(column) = expr.downcast_ref::<Column>() else { return Ok(Transformed::no(expr)) };
            let shown = Arc::clone(&self.shown[column.index()].expr);
            Ok(Transformed::new(shown, true, TreeNodeRecursion::Jump))
        });
        moved.data()
    }

    /// Views, compared with each other or with constants.
    fn compared(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
            && is_comparison(*binary.op())
            && let (Some(left), Some(right)) = (self.view(binary.left()), self.view(binary.right()))
        {
            return Ok(Some(Arc::new(BinaryExpr::new(left, *binary.op(), right))));
        }
        if let Some(list) = expr.downcast_ref::<InListExpr>()
            && let Some(of) = self.view(list.expr())
            && let Some(values) = list.list().iter().map(|value| self.view(value)).collect()
        {
            return in_list(of, values, &list.negated(), self.schema).map(Some);
        }
        if let Some(like) = expr.downcast_ref::<LikeExpr>()
            && let (Some(of), Some(pattern)) = (self.view(like.expr()), self.view(like.pattern()))
        {
            let like = LikeExpr::new(like.negated(), like.case_insensitive(), of, pattern);
            return Ok(Some(Arc::new(like)));
        }
        if let Some(null) = expr.downcast_ref::<IsNullExpr>() {
            return Ok(self.view(null.arg()).map(|of| Arc::new(IsNullExpr::new(of)) as _));
        }
        if let Some(null) = expr.downcast_ref::<IsNotNullExpr>() {
            return Ok(self.view(null.arg()).map(|of| Arc::new(IsNotNullExpr::new(of)) as _));
        }
        Ok(None)
    }

    /// A text as a view: a column that is one, or a constant.
    fn view(&self, text: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
        if let Some(column) = text.downcast_ref::<Column>() {
            return view_of(&self.shown[column.index()].expr).cloned();
        }
        match text.downcast_ref::<Literal>()?.value() {
            ScalarValue::Utf8(value) => Some(Arc::new(Literal::new(ScalarValue::Utf8View(value.clone())))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, is_null, like, lit};
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::empty::EmptyExec;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(condition: impl Fn(&Schema) -> Arc<dyn PhysicalExpr>, expected: Expect) {
        let field = |name: &str, of| Field::new(name, of, true);
        let views = vec![field("a", DataType::Int32), field("t", DataType::Utf8View), field("u", DataType::Utf8View)];
        let scan = as_text(Arc::new(EmptyExec::new(Arc::new(Schema::new(views))))).unwrap();
        let condition = condition(&scan.schema());
        let filter: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(condition, scan).unwrap());
        let plan = LateText.optimize(Arc::clone(&filter), &ConfigOptions::default()).unwrap();
        assert_eq!(plan.schema(), filter.schema());
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        expected.assert_eq(shown.lines().nth(1).unwrap().trim());
    }

    #[test]
    fn views_are_compared_and_all_else_is_asked_of_text() {
        let equal = |s: &Schema| binary(col("t", s)?, Operator::Eq, lit("x"), s);
        check(|s| equal(s).unwrap(), expect!["FilterExec: t@1 = x"]);
        check(
            |s| binary(col("t", s).unwrap(), Operator::Lt, col("u", s).unwrap(), s).unwrap(),
            expect!["FilterExec: t@1 < u@2"],
        );
        check(
            |s| in_list(col("t", s).unwrap(), vec![lit("x"), lit("y")], &true, s).unwrap(),
            expect!["FilterExec: t@1 NOT IN (SET) ([x, y])"],
        );
        check(
            |s| like(true, false, col("t", s).unwrap(), lit("x%"), s).unwrap(),
            expect!["FilterExec: t@1 NOT LIKE x%"],
        );
        check(|s| is_null(col("t", s).unwrap()).unwrap(), expect!["FilterExec: t@1 IS NULL"]);
        check(
            |s| {
                let joined = binary(col("t", s).unwrap(), Operator::StringConcat, col("u", s).unwrap(), s).unwrap();
                let other = binary(joined, Operator::Eq, lit("x"), s).unwrap();
                binary(other, Operator::Or, equal(s).unwrap(), s).unwrap()
            },
            expect!["FilterExec: CAST(t@1 AS Utf8) || CAST(u@2 AS Utf8) = x OR t@1 = x"],
        );
    }
}
