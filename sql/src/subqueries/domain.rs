//! A subquery, answered for every row of a domain: the values of the outer columns that it names.
//!
//! ```text
//!   Filter u.x <= outer(t.x)          Filter u.x <= d
//!     u                        ──▶      CrossJoin
//!                                         u
//!                                         domain: SELECT DISTINCT t.x AS d FROM t
//! ```
//!
//! The domain goes down to where nothing below names an outer column. On the way up every node keeps its columns beside its own:
//! what groups, numbers or limits rows does so for each row of the domain.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, JoinType, NullEquality, TableReference};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprFunctionExt, FetchType, Filter, Join, Limit, LogicalPlan, LogicalPlanBuilder,
    Operator, Projection, SkipType, Sort, SortExpr, WindowFrame, binary_expr, lit, when,
};

use datafusion::scalar::ScalarValue;

use super::unnest::not_there;

/// A plan that has a row for each value of some columns, under names of its own.
pub(super) struct Domain {
    rows: LogicalPlan,
    /// The outer columns, and what they are called here.
    names: Vec<(Column, Column)>,
    copies: std::cell::Cell<usize>,
}

impl Domain {
    /// The values that `columns` have in `input`. Without columns it is the one row that says nothing.
    pub fn of(input: &LogicalPlan, columns: Vec<Column>, number: usize) -> DfResult<Self> {
        let name = |at: usize| Column::new_unqualified(format!("__outer{number}_{at}"));
        let names: Vec<_> = columns.into_iter().enumerate().map(|(at, column)| (column, name(at))).collect();
        let values = names.iter().map(|(outer, own)| Expr::Column(outer.clone()).alias(&own.name));
        let rows = match names.is_empty() {
            true => LogicalPlanBuilder::empty(true).build()?,
            false => {
                LogicalPlanBuilder::from(input.clone()).project(values.collect::<Vec<_>>())?.distinct()?.build()?
            }
        };
        Ok(Self { rows, names, copies: std::cell::Cell::new(0) })
    }

    pub fn columns(&self) -> impl Iterator<Item = Column> + '_ {
        self.names.iter().map(|(_, own)| own.clone())
    }

    /// Each row of `left` with the rows of `right`, a plan with the domain's columns, that are its own.
    pub fn join(
        &self,
        left: &LogicalPlan,
        right: LogicalPlan,
        kind: JoinType,
        filter: Option<Expr>,
    ) -> DfResult<LogicalPlan> {
        let mut conditions = Vec::with_capacity(self.names.len());
        for (outer, own) in &self.names {
            conditions.extend(same(outer, left.schema(), own)?);
        }
        conditions.extend(filter);
        if conditions.is_empty() {
            conditions.push(lit(true));
        }
        LogicalPlanBuilder::from(left.clone()).join_on(right, kind, conditions)?.build()
    }

    /// The plan's rows for every row of the domain, whose columns come beside the plan's own.
    pub fn for_each(&self, plan: &LogicalPlan) -> DfResult<LogicalPlan> {
        if !self.is_named_in(plan) {
            let plan = match plan {
                LogicalPlan::Subquery(subquery) => subquery.subquery.as_ref(),
                other => other,
            };
            return match self.names.is_empty() {
                true => Ok(plan.clone()),
                false => LogicalPlanBuilder::from(plan.clone()).cross_join(self.rows.clone())?.build(),
            };
        }
        match plan {
            LogicalPlan::Subquery(subquery) => self.for_each(&subquery.subquery),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.for_each(&alias.input)?;
                self.renamed(input, &alias.input, plan, &alias.alias)
            }
            LogicalPlan::Projection(projection) => {
                let input = self.for_each(&projection.input)?;
                self.projected(&projection.expr, input)
            }
            LogicalPlan::Filter(filter) => {
                let input = self.for_each(&filter.input)?;
                Ok(LogicalPlan::Filter(Filter::try_new(self.inside(&filter.predicate)?, Arc::new(input))?))
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                LogicalPlanBuilder::from(self.for_each(input)?).distinct()?.build()
            }
            LogicalPlan::Sort(sort) => {
                let input = Arc::new(self.for_each(&sort.input)?);
                Ok(LogicalPlan::Sort(Sort { expr: self.order(&sort.expr)?, input, fetch: sort.fetch }))
            }
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Window(window) => self.window(&window.window_expr, &window.input),
            LogicalPlan::Join(join) => self.inner_join(join),
            LogicalPlan::Union(union) => {
                let mut all: Option<LogicalPlanBuilder> = None;
                for input in &union.inputs {
                    let columns = input.schema().columns().into_iter().chain(self.columns()).map(Expr::Column);
                    let input = LogicalPlanBuilder::from(self.for_each(input)?).project(columns.collect::<Vec<_>>())?;
                    all = Some(match all {
                        None => input,
                        Some(before) => before.union(input.build()?)?,
                    });
                }
                all.ok_or_else(|| not_there("of no branches"))?.build()
            }
            _ => Err(not_there("of this kind")),
        }
    }

    /// Other names for the columns, for where they come twice.
    fn copy(&self) -> Vec<Column> {
        self.copies.set(self.copies.get() + 1);
        self.columns().map(|own| Column::new_unqualified(format!("{}_{}", own.name, self.copies.get()))).collect()
    }

    fn is_named_in(&self, plan: &LogicalPlan) -> bool {
        let named = plan.all_out_ref_exprs();
        named.iter().any(|e| matches!(e, Expr::OuterReferenceColumn(_, c) if self.names.iter().any(|(o, _)| o == c)))
    }

    /// The expression with columns of the domain where it names outer ones.
    fn inside(&self, expr: &Expr) -> DfResult<Expr> {
        let names: HashMap<&Column, &Column> = self.names.iter().map(|(outer, own)| (outer, own)).collect();
        let changed = expr.clone().transform(|e| {
            Ok(match &e {
                Expr::OuterReferenceColumn(_, column) if names.contains_key(column) => {
                    Transformed::yes(Expr::Column(names[column].clone()))
                }
                _ => Transformed::no(e),
            })
        });
        Ok(changed?.data)
    }

    /// As [`Domain::inside`], under the name that it had.
    fn named(&self, expr: &Expr) -> DfResult<Expr> {
        let (relation, name) = expr.qualified_name();
        let inside = self.inside(expr)?;
        let same = inside.qualified_name() == (relation.clone(), name.clone());
        Ok(if same { inside } else { inside.alias_qualified(relation, name) })
    }

    fn order(&self, order: &[SortExpr]) -> DfResult<Vec<SortExpr>> {
        order.iter().map(|key| Ok(SortExpr { expr: self.inside(&key.expr)?, ..key.clone() })).collect()
    }

    fn projected(&self, exprs: &[Expr], input: LogicalPlan) -> DfResult<LogicalPlan> {
        let mut exprs = exprs.iter().map(|e| self.named(e)).collect::<DfResult<Vec<_>>>()?;
        exprs.extend(self.columns().map(Expr::Column));
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }

    fn renamed(
        &self,
        input: LogicalPlan,
        before: &LogicalPlan,
        after: &LogicalPlan,
        alias: &TableReference,
    ) -> DfResult<LogicalPlan> {
        let names = before.schema().columns().into_iter().zip(after.schema().fields());
        let renamed = names.map(|(old, new)| Expr::Column(old).alias_qualified(Some(alias.clone()), new.name()));
        let exprs = renamed.chain(self.columns().map(Expr::Column)).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }

    /// Groups for each row of the domain. Without GROUP BY there is one even over no rows.
    fn aggregate(&self, aggregate: &Aggregate) -> DfResult<LogicalPlan> {
        if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) {
            return Err(not_there("with GROUPING SETS"));
        }
        let input = Arc::new(self.for_each(&aggregate.input)?);
        let mut groups = aggregate.group_expr.iter().map(|e| self.named(e)).collect::<DfResult<Vec<_>>>()?;
        groups.extend(self.columns().map(Expr::Column));
        let calls = aggregate.aggr_expr.iter().map(|e| self.named(e)).collect::<DfResult<Vec<_>>>()?;
        let grouped = LogicalPlan::Aggregate(Aggregate::try_new(input, groups, calls)?);
        if !aggregate.group_expr.is_empty() {
            return Ok(grouped);
        }
        let copy = self.copy();
        let values = aggregate.schema.columns().into_iter().map(Expr::Column);
        let renamed = self.columns().zip(&copy).map(|(own, copy)| Expr::Column(own).alias(&copy.name));
        let grouped = LogicalPlanBuilder::from(grouped).project(values.chain(renamed).collect::<Vec<_>>())?.build()?;
        let mut conditions = Vec::with_capacity(copy.len());
        for (own, copy) in self.columns().zip(&copy) {
            conditions.extend(same(&own, self.rows.schema(), copy)?);
        }
        let all = LogicalPlanBuilder::from(self.rows.clone()).join_on(grouped, JoinType::Left, conditions)?.build()?;
        let mut values = Vec::with_capacity(aggregate.aggr_expr.len());
        for (call, column) in aggregate.aggr_expr.iter().zip(aggregate.schema.columns()) {
            let value = Expr::Column(column.clone());
            values.push(match of_no_rows(call, aggregate.schema.field_from_column(&column)?.data_type())? {
                None => value,
                Some(default) => when(value.clone().is_null(), default)
                    .otherwise(value)?
                    .alias_qualified(column.relation, column.name),
            });
        }
        values.extend(self.columns().map(Expr::Column));
        LogicalPlanBuilder::from(all).project(values)?.build()
    }

    /// The first rows for each row of the domain.
    fn limit(&self, limit: &Limit) -> DfResult<LogicalPlan> {
        let SkipType::Literal(skip) = limit.get_skip_type()? else { return Err(not_there("with such an OFFSET")) };
        let FetchType::Literal(fetch) = limit.get_fetch_type()? else { return Err(not_there("with such a LIMIT")) };
        let (order, input, above) = match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => (self.order(&sort.expr)?, &sort.input, None),
            LogicalPlan::Projection(projection) => match projection.input.as_ref() {
                LogicalPlan::Sort(sort) => (self.order(&sort.expr)?, &sort.input, Some(&projection.expr)),
                _ => (vec![], &limit.input, None),
            },
            _ => (vec![], &limit.input, None),
        };
        let rows = self.for_each(input)?;
        let columns: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        let partition = self.columns().map(Expr::Column).collect::<Vec<_>>();
        let number =
            row_number().partition_by(partition).order_by(order).window_frame(WindowFrame::new(None)).build()?;
        let numbered = Expr::Column(Column::new_unqualified(number.schema_name().to_string()));
        let mut within = numbered.clone().gt(lit(skip as u64));
        if let Some(fetch) = fetch {
            within = within.and(numbered.lt_eq(lit((skip + fetch) as u64)));
        }
        let first = LogicalPlanBuilder::from(rows).window([number])?.filter(within)?.project(columns)?.build()?;
        match above {
            Some(exprs) => self.projected(exprs, first),
            None => Ok(first),
        }
    }

    /// Partitions are within a row of the domain.
    fn window(&self, calls: &[Expr], input: &LogicalPlan) -> DfResult<LogicalPlan> {
        let input = self.for_each(input)?;
        let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        let mut partitioned = Vec::with_capacity(calls.len());
        for call in calls {
            let (relation, name) = call.qualified_name();
            let call = self.inside(call)?.transform(|e| match e {
                Expr::WindowFunction(mut function) => {
                    function.params.partition_by.extend(self.columns().map(Expr::Column));
                    Ok(Transformed::yes(Expr::WindowFunction(function)))
                }
                other => Ok(Transformed::no(other)),
            });
            let call = call?.data;
            let (own_relation, own) = call.qualified_name();
            columns.push(Expr::Column(Column::new(own_relation, own)).alias_qualified(relation, name));
            partitioned.push(call);
        }
        LogicalPlanBuilder::from(input).window(partitioned)?.project(columns)?.build()
    }

    /// The domain goes to the side that names it; to both, and to those that keep rows without a partner, under two names.
    fn inner_join(&self, join: &Join) -> DfResult<LogicalPlan> {
        let (in_left, in_right) = (self.is_named_in(&join.left), self.is_named_in(&join.right));
        let (mut to_left, mut to_right) = match join.join_type {
            JoinType::Inner => (in_left, in_right),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (true, in_right),
            JoinType::Right => (in_left, true),
            JoinType::Full => (true, true),
            _ => return Err(not_there("with a join of this kind")),
        };
        if !to_left && !to_right {
            // Only ON names it.
            to_left = true;
        }
        if join.join_type == JoinType::Right && !in_left {
            to_left = false;
        }
        let equal = join.on.iter().map(|(l, r)| {
            let (l, r) = (self.inside(l)?, self.inside(r)?);
            Ok(match join.null_equality {
                NullEquality::NullEqualsNothing => l.eq(r),
                NullEquality::NullEqualsNull => binary_expr(l, Operator::IsNotDistinctFrom, r),
            })
        });
        let mut conditions = equal.collect::<DfResult<Vec<_>>>()?;
        conditions.extend(join.filter.iter().map(|filter| self.inside(filter)).collect::<DfResult<Vec<_>>>()?);
        let left = if to_left { self.for_each(&join.left)? } else { join.left.as_ref().clone() };
        let right = if to_right { self.for_each(&join.right)? } else { join.right.as_ref().clone() };
        let mut columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
        to_right &= !self.names.is_empty();
        if !(to_left && to_right) {
            columns.extend(self.columns().map(Expr::Column));
            return LogicalPlanBuilder::from(left)
                .join_on(right, join.join_type, conditions)?
                .project(columns)?
                .build();
        }
        let copy = self.copy();
        let of_right = join.right.schema().columns().into_iter().map(Expr::Column);
        let renamed = self.columns().zip(&copy).map(|(own, copy)| Expr::Column(own).alias(&copy.name));
        let right = LogicalPlanBuilder::from(right).project(of_right.chain(renamed).collect::<Vec<_>>())?.build()?;
        for (own, copy) in self.columns().zip(&copy) {
            conditions.extend(same(&own, self.rows.schema(), copy)?);
        }
        columns.extend(self.columns().zip(copy).map(|(own, copy)| {
            let name = own.name.clone();
            match join.join_type {
                JoinType::Right => Expr::Column(copy).alias(name),
                JoinType::Full => coalesce(vec![Expr::Column(own), Expr::Column(copy)]).alias(name),
                _ => Expr::Column(own),
            }
        }));
        LogicalPlanBuilder::from(left).join_on(right, join.join_type, conditions)?.project(columns)?.build()
    }
}

/// Two columns have one value, or are both NULL: as equations that are never NULL. A join that takes NULL for a value would do so
/// for every equation of the query's own that DataFusion finds for it later on.
fn same(one: &Column, schema: &DFSchema, other: &Column) -> DfResult<Vec<Expr>> {
    let field = schema.field_from_column(one)?;
    let (one, other) = (Expr::Column(one.clone()), Expr::Column(other.clone()));
    if !field.is_nullable() {
        return Ok(vec![one.eq(other)]);
    }
    let value = |e: Expr| {
        Ok::<_, DataFusionError>(coalesce(vec![e, Expr::Literal(ScalarValue::new_default(field.data_type())?, None)]))
    };
    Ok(vec![value(one.clone())?.eq(value(other.clone())?), one.is_null().eq(other.is_null())])
}

/// What an aggregate is over no rows, if that is not NULL.
fn of_no_rows(call: &Expr, data_type: &DataType) -> DfResult<Option<Expr>> {
    match call {
        Expr::Alias(alias) => of_no_rows(&alias.expr, data_type),
        Expr::AggregateFunction(function) => {
            let value = function.func.default_value(data_type)?;
            Ok((!value.is_null()).then(|| Expr::Literal(value, None)))
        }
        _ => Ok(None),
    }
}
