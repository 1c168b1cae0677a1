//! Rows compared with those of a subquery: the calls that [`crate::rows`] writes, as conditions over its columns.
//!
//! ```text
//!   tidemark_row_any('=', a, b, EXISTS (SELECT x, y ..))  ──▶  a Membership: as a IN (SELECT x ..), of both items
//!   tidemark_row_is('=', a, b, EXISTS (SELECT x, y ..))   ──▶  a = (SELECT x ..) AND b = (SELECT y ..)
//!                                       tied to the row   ──▶  (SELECT a = x AND b = y ..)
//! ```

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, disjunction, merge_schema};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, Signature, SimpleScalarUDF, Subquery,
    Volatility, binary_expr,
};
use datafusion::scalar::ScalarValue;
use tidemark_common::{Error, Result};

use super::{Membership, exists, has_subquery, value_of};
use crate::rows::{ANY, IS, compared, operator};

/// What the planner takes the calls for, until they are replaced.
pub(crate) fn function(name: &str) -> Option<Arc<ScalarUDF>> {
    static CALLS: LazyLock<[Arc<ScalarUDF>; 2]> = LazyLock::new(|| [ANY, IS].map(|name| Arc::new(stand_in(name))));
    CALLS.iter().find(|call| call.name() == name).cloned()
}

fn stand_in(name: &'static str) -> ScalarUDF {
    let signature = Signature::variadic_any(Volatility::Immutable);
    let called = move |_: &[_]| Err(Error::internal(format!("{name} was called")).into());
    SimpleScalarUDF::new_with_signature(name, signature, DataType::Boolean, Arc::new(called)).into()
}

/// True of the calls' names: what they are given is compared, not taken as it is.
pub(crate) fn is_call(name: &str) -> bool {
    [ANY, IS].contains(&name)
}

/// A call taken apart.
pub(super) struct Call<'a> {
    any: bool,
    op: Operator,
    row: &'a [Expr],
    subquery: &'a Subquery,
}

impl<'a> Call<'a> {
    pub(super) fn of(expr: &'a Expr) -> Option<Self> {
        let Expr::ScalarFunction(function) = expr else { return None };
        if !is_call(function.name()) {
            return None;
        }
        let [Expr::Literal(ScalarValue::Utf8(Some(op)), _), row @ .., Expr::Exists(rows)] = function.args.as_slice()
        else {
            return None;
        };
        Some(Self { any: function.name() == ANY, op: operator(op)?, row, subquery: &rows.subquery })
    }

    /// A call of [`ANY`].
    pub(super) fn any(expr: &'a Expr) -> Option<Self> {
        Self::of(expr).filter(|call| call.any)
    }

    /// The row as the subquery sees it.
    fn row_within(&self, schema: &DFSchema) -> DfResult<Vec<Expr>> {
        self.row.iter().map(|item| within(item, schema)).collect()
    }

    fn columns(&self) -> DfResult<Vec<Column>> {
        let columns = self.subquery.subquery.schema().columns();
        match columns.len().cmp(&self.row.len()) {
            std::cmp::Ordering::Less => Err(Error::syntax("subquery has too few columns").into()),
            std::cmp::Ordering::Greater => Err(Error::syntax("subquery has too many columns").into()),
            std::cmp::Ordering::Equal => Ok(columns),
        }
    }

    pub(super) fn membership(&self, schema: &DFSchema) -> DfResult<Membership> {
        // Under names that no other relation has.
        let named = self.columns()?.into_iter().enumerate();
        let named = named.map(|(i, column)| Expr::Column(column).alias(format!("__row{}", i + 1)));
        let rows = LogicalPlanBuilder::from(self.subquery.subquery.as_ref().clone());
        let rows = rows.project(named.collect::<Vec<_>>())?.build()?;
        let columns = rows.schema().columns();
        let row = self.row_within(schema)?;
        let pairs = || row.iter().cloned().zip(columns.iter().cloned().map(Expr::Column));
        let exists = |condition| exists(&self.subquery.spans, &rows, Some(condition));
        let condition = compare(self.op, pairs().collect())?;
        if self.op != Operator::Eq {
            let found = exists(condition.clone())?;
            return Ok(Membership { found, null_within: Some(exists(condition.is_null())?), null_wanted: None });
        }
        let nullable = |i: usize| rows.schema().nullable(&columns[i]).unwrap_or(true);
        let wanted = |i: usize| self.row[i].nullable(schema).unwrap_or(true);
        let nulls_within =
            (0..columns.len()).filter(|i| nullable(*i)).map(|i| Expr::Column(columns[i].clone()).is_null());
        let nulls_wanted = (0..columns.len()).filter(|i| wanted(*i)).map(|i| row[i].clone().is_null());
        // No pair tells the rows apart.
        let alike = pairs().enumerate().map(|(i, (item, column))| {
            let unknown = [wanted(i).then(|| item.clone().is_null()), nullable(i).then(|| column.clone().is_null())];
            unknown.into_iter().flatten().fold(item.eq(column), Expr::or)
        });
        let alike = conjunction(alike).ok_or_else(no_items)?;
        let unknown = |nulls: Option<Expr>| nulls.map(|nulls| exists(nulls.and(alike.clone()))).transpose();
        Ok(Membership {
            found: exists(condition)?,
            null_within: unknown(disjunction(nulls_within))?,
            null_wanted: unknown(disjunction(nulls_wanted))?,
        })
    }

    /// What a call of [`IS`] is.
    fn answer(&self, schema: &DFSchema) -> DfResult<Expr> {
        let columns = self.columns()?;
        let plan = &self.subquery.subquery;
        let limited = plan.exists(|node| Ok(matches!(node, LogicalPlan::Limit(_))))?;
        // Asked for twice, a row that LIMIT takes may be another one.
        if !self.subquery.outer_ref_columns.is_empty() || limited {
            let pairs = self.row_within(schema)?.into_iter().zip(columns.into_iter().map(Expr::Column));
            return self.scalar(compare(self.op, pairs.collect())?.alias("?column?"));
        }
        let scalars = columns.into_iter().map(|column| self.scalar(Expr::Column(column)));
        let scalars = scalars.collect::<DfResult<Vec<_>>>()?;
        compare(self.op, self.row.iter().cloned().zip(scalars).collect())
    }

    /// The subquery with one column.
    fn scalar(&self, value: Expr) -> DfResult<Expr> {
        let plan = LogicalPlanBuilder::from(self.subquery.subquery.as_ref().clone()).project([value])?.build()?;
        let outer_ref_columns = plan.all_out_ref_exprs();
        Ok(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), outer_ref_columns, ..self.subquery.clone() }))
    }
}

fn compare(op: Operator, pairs: Vec<(Expr, Expr)>) -> DfResult<Expr> {
    compared(op, pairs, &binary_expr).ok_or_else(no_items)
}

fn no_items() -> datafusion::error::DataFusionError {
    Error::syntax("cannot compare rows of zero length").into()
}

/// The item as a subquery over rows of `schema` sees it.
fn within(item: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    if has_subquery(item) {
        return Err(Error::unsupported("a subquery in a row that is compared with those of a subquery")
            .with_hint("Make it a column of a subquery in FROM first.")
            .into());
    }
    let seen = item.clone().transform(|e| match e {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(seen?.data)
}

/// Answers the calls of a node, but those of [`ANY`] where it makes a difference whether NULL is as good as false.
pub(super) fn of_node(node: LogicalPlan) -> DfResult<LogicalPlan> {
    let mut any = false;
    node.apply_expressions(|expr| {
        any |= expr.exists(|e| Ok(Call::of(e).is_some()))?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !any {
        return Ok(node);
    }
    let schema = merge_schema(&node.inputs());
    let by_themselves = matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Projection(_));
    let names = NamePreserver::new(&node);
    let answered = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_down(|e| match Call::of(&e) {
            Some(call) if !call.any => Ok(Transformed::new(call.answer(&schema)?, true, TreeNodeRecursion::Jump)),
            _ => Ok(Transformed::no(e)),
        })?;
        let expr = if by_themselves { expr.data } else { value_of(expr.data, &schema)? };
        Ok(Transformed::yes(name.restore(expr)))
    })?;
    answered.data.recompute_schema()
}

/// Refuses a row's comparison where no query is.
pub(crate) fn refuse(expr: &Expr) -> Result<()> {
    match expr.exists(|e| Ok(Call::of(e).is_some()))? {
        true => Err(Error::unsupported("cannot use subquery in this place")),
        false => Ok(()),
    }
}
