//! A date compared with a moment, as a date compared with a date.
//!
//! ```text
//!   d < date '1994-01-01' + interval '1 year'         the sum is a timestamp, the date of each row is cast to one
//!   CAST(d AS timestamp) < '1995-01-01 00:00'   ──▶   d < '1995-01-01'         one comparison, and a scan's statistics have it
//!   CAST(d AS timestamp) < '1995-01-01 12:00'   ──▶   d <= '1995-01-01'
//!   CAST(d AS timestamp(9)) < CAST(t AS timestamp(9))   ──▶   CAST(d AS timestamp) < t      where `t` has microseconds
//! ```
//!
//! DataFusion compares in nanoseconds, which reach from 1677 to 2262; so other dates and moments are errors no more.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Cast, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast, lit};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Comes before constants become literals, since some have no nanoseconds, and again after it.
#[derive(Debug)]
pub(crate) struct DateBounds;

impl OptimizerRule for DateBounds {
    fn name(&self) -> &str {
        "date_bounds"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        if !casts_to_timestamp(&plan)? {
            return Ok(Transformed::no(plan));
        }
        let schema = match &plan {
            LogicalPlan::TableScan(scan) => {
                DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
            }
            _ => merge_schema(&plan.inputs()),
        };
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let compared = expr.transform_up(|expr| Ok(compare_dates(expr, &schema)))?;
            Ok(compared.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Most plans do not, and are not looked at any closer.
fn casts_to_timestamp(plan: &LogicalPlan) -> DfResult<bool> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        found |= expr.exists(|expr| Ok(matches!(expr, Expr::Cast(cast) if is_timestamp(&cast.field))))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_timestamp(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Timestamp(_, None))
}

fn compare_dates(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let dates = match &expr {
        Expr::BinaryExpr(binary) => comparison(binary, schema),
        Expr::InList(list) => list_of_dates(list, schema),
        _ => None,
    };
    match dates {
        Some(dates) => Transformed::yes(dates),
        None => Transformed::no(expr),
    }
}

fn comparison(binary: &BinaryExpr, schema: &DFSchema) -> Option<Expr> {
    let (date, op, moment) = match (date_of(&binary.left, schema), date_of(&binary.right, schema)) {
        (Some(date), None) => (date, binary.op, &binary.right),
        (None, Some(date)) => (date, binary.op.swap()?, &binary.left),
        _ => return None,
    };
    let (left, op, right) = match day_of(moment) {
        Some(day) => (date.clone(), bound_by(op, day.is_midnight)?, day.as_literal()),
        None => {
            let moment = uncast(moment, schema)?;
            (cast(date.clone(), moment.get_type(schema).ok()?), bound_by(op, true)?, moment.clone())
        }
    };
    Some(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
}

/// How a date compares with a day, if it compares so with a moment of it; `None`: not with the day alone.
fn bound_by(op: Operator, is_midnight: bool) -> Option<Operator> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    match (op, is_midnight) {
        (Lt | LtEq, false) => Some(LtEq),
        (Gt | GtEq, false) => Some(Gt),
        (Lt | LtEq | Gt | GtEq | Eq | NotEq | IsDistinctFrom | IsNotDistinctFrom, true) => Some(op),
        _ => None,
    }
}

/// `IN (..)` midnights, or moments of microseconds.
fn list_of_dates(list: &InList, schema: &DFSchema) -> Option<Expr> {
    let date = date_of(&list.expr, schema)?.clone();
    let midnight = |moment: &Expr| day_of(moment).filter(|day| day.is_midnight).map(|day| day.as_literal());
    let (expr, moments) = match list.list.iter().map(midnight).collect::<Option<Vec<_>>>() {
        Some(dates) => (date, dates),
        None => {
            let moments = list.list.iter().map(|moment| uncast(moment, schema).cloned());
            (cast(date, DataType::Timestamp(TimeUnit::Microsecond, None)), moments.collect::<Option<Vec<_>>>()?)
        }
    };
    Some(Expr::InList(InList { expr: Box::new(expr), list: moments, negated: list.negated }))
}

/// What a timestamp is cast from, if it is a date.
fn date_of<'a>(expr: &'a Expr, schema: &DFSchema) -> Option<&'a Expr> {
    let Expr::Cast(Cast { expr, field }) = expr else { return None };
    let date = expr.as_ref();
    (is_timestamp(field) && date.get_type(schema).is_ok_and(|of| of == DataType::Date32)).then_some(date)
}

/// What has become a timestamp of nanoseconds only to be compared.
fn uncast<'a>(moment: &'a Expr, schema: &DFSchema) -> Option<&'a Expr> {
    let Expr::Cast(Cast { expr, field }) = moment else { return None };
    let is_finer = matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, None));
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    (is_finer && expr.get_type(schema).is_ok_and(|of| of == micros)).then_some(expr.as_ref())
}

/// The day of a moment.
struct Day {
    days: i32,
    is_midnight: bool,
}

impl Day {
    fn new(moment: i64, a_day: i64) -> Option<Self> {
        match moment {
            i64::MAX => Some(Self { days: i32::MAX, is_midnight: true }),
            i64::MIN => Some(Self { days: i32::MIN, is_midnight: true }),
            _ => {
                let days = moment.div_euclid(a_day).try_into().ok()?;
                Some(Self { days, is_midnight: moment.rem_euclid(a_day) == 0 })
            }
        }
    }

    fn as_literal(&self) -> Expr {
        lit(ScalarValue::Date32(Some(self.days)))
    }
}

fn day_of(expr: &Expr) -> Option<Day> {
    let value = match expr {
        Expr::Literal(value, _) => value,
        // Too early or too late to have nanoseconds: it would be a literal.
        Expr::Cast(Cast { expr, field }) if is_timestamp(field) => expr.as_literal()?,
        _ => return None,
    };
    match value {
        ScalarValue::TimestampMicrosecond(moment, None) => Day::new((*moment)?, 86_400_000_000),
        ScalarValue::TimestampNanosecond(moment, None) => Day::new((*moment)?, 86_400_000_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::logical_expr::col;
    use expect_test::{Expect, expect};

    use super::*;

    const DAY: i64 = 86_400_000_000;

    /// `d` is a date, `t` a timestamp.
    fn check(expr: Expr, expected: Expect) {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fields = vec![Field::new("d", DataType::Date32, true), Field::new("t", timestamp, true)];
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        let found = expr.transform_up(|expr| Ok(compare_dates(expr, &schema))).unwrap();
        expected.assert_eq(&found.data.to_string());
    }

    fn moment(micros: i64) -> Expr {
        lit(ScalarValue::TimestampMicrosecond(Some(micros), None))
    }

    fn as_timestamp(name: &str) -> Expr {
        cast(col(name), DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    #[test]
    fn midnight_is_its_day() {
        check(as_timestamp("d").lt(moment(DAY)), expect![[r#"d < Date32("1970-01-02")"#]]);
        check(as_timestamp("d").gt_eq(moment(-DAY)), expect![[r#"d >= Date32("1969-12-31")"#]]);
        check(as_timestamp("d").eq(moment(0)), expect![[r#"d = Date32("1970-01-01")"#]]);
        check(as_timestamp("d").not_eq(moment(0)), expect![[r#"d != Date32("1970-01-01")"#]]);
        check(moment(0).lt(as_timestamp("d")), expect![[r#"d > Date32("1970-01-01")"#]]);
    }

    #[test]
    fn later_in_a_day_counts_to_it() {
        check(as_timestamp("d").lt(moment(DAY + 1)), expect![[r#"d <= Date32("1970-01-02")"#]]);
        check(as_timestamp("d").lt_eq(moment(DAY - 1)), expect![[r#"d <= Date32("1970-01-01")"#]]);
        check(as_timestamp("d").gt(moment(-1)), expect![[r#"d > Date32("1969-12-31")"#]]);
        check(as_timestamp("d").gt_eq(moment(1)), expect![[r#"d > Date32("1970-01-01")"#]]);
        check(moment(1).gt_eq(as_timestamp("d")), expect![[r#"d <= Date32("1970-01-01")"#]]);
    }

    #[test]
    fn lists() {
        let midnights = vec![moment(0), moment(DAY)];
        check(
            as_timestamp("d").in_list(midnights, true),
            expect![[r#"d NOT IN ([Date32("1970-01-01"), Date32("1970-01-02")])"#]],
        );
        check(
            as_timestamp("d").in_list(vec![moment(1)], false),
            expect!["CAST(d AS Timestamp(µs)) IN ([TimestampMicrosecond(1, None)])"],
        );
    }

    #[test]
    fn beyond_nanoseconds() {
        let nanos = |expr| cast(expr, DataType::Timestamp(TimeUnit::Nanosecond, None));
        check(nanos(col("d")).lt(nanos(moment(400_000 * DAY))), expect![[r#"d < Date32("3065-03-01")"#]]);
        check(nanos(col("d")).lt(nanos(col("t"))), expect!["CAST(d AS Timestamp(µs)) < t"]);
        check(nanos(col("t")).lt(nanos(col("d"))), expect!["CAST(d AS Timestamp(µs)) > t"]);
    }

    #[test]
    fn all_else_stays() {
        check(as_timestamp("d").eq(moment(1)), expect!["CAST(d AS Timestamp(µs)) = TimestampMicrosecond(1, None)"]);
        check(as_timestamp("t").lt(moment(0)), expect!["CAST(t AS Timestamp(µs)) < TimestampMicrosecond(0, None)"]);
        check(as_timestamp("d").lt(col("t")), expect!["CAST(d AS Timestamp(µs)) < t"]);
        let null = lit(ScalarValue::TimestampMicrosecond(None, None));
        check(as_timestamp("d").lt(null), expect!["CAST(d AS Timestamp(µs)) < TimestampMicrosecond(NULL, None)"]);
    }
}
