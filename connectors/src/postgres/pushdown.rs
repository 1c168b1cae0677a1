//! Aggregates and joins that the other server can do: a rule of the optimizer, run after filters have come to rest in the scans.
//!
//! ```text
//!   Aggregate: group by g, sum(x)             Projection: c0 AS g, c1 AS sum(x)
//!     Scan: c.s.t, filter            ──▶        Scan: (SELECT g AS c0, sum(x) AS c1 FROM s.t WHERE filter GROUP BY g)
//!
//!   Join: a.k = b.k                           Projection: c0 AS a.k, c1 AS a.v, c2 AS b.k
//!     Scan: c.s.a                    ──▶        Scan: (SELECT .. FROM (SELECT ..) l JOIN (SELECT ..) r ON ..)
//!     Scan: c.s.b
//! ```
//!
//! What comes of it is a remote relation again, so that a join of joins, or an aggregate over one, goes over as a whole. Only what
//! means the same on both sides goes: equality of keys as in [`super::filter`], and count, sum, min and max.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result as DfResult, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, Join, LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use tidemark_common::types::SqlType;

use super::expression::{computed, position};
use super::filter::{Class, class, identifier};
use super::reading::Reading;
use super::table::{Item, RemoteTable};
use super::types::{RemoteColumn, Texts};

#[derive(Debug, Default)]
pub struct PushDown {
    /// Scans that it has made: each has a name of its own.
    made: AtomicU64,
}

impl OptimizerRule for PushDown {
    fn name(&self) -> &str {
        "push_down_to_postgres"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let pushed = match &plan {
            LogicalPlan::Aggregate(aggregate) => aggregated(aggregate),
            LogicalPlan::Join(join) => joined(join),
            _ => None,
        };
        match pushed {
            Some(select) => Ok(Transformed::yes(self.scan_of(&select, plan.schema())?)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

impl PushDown {
    /// Columns c0, c1, .. of a SELECT, under the names and types of `schema`.
    fn scan_of(&self, select: &Select, schema: &DFSchema) -> DfResult<LogicalPlan> {
        let table = RemoteTable::derived(select.reading.clone(), &select.sql, schema.as_arrow(), &select.texts);
        let name = TableReference::bare(format!("remote{}", self.made.fetch_add(1, Ordering::Relaxed)));
        let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(table)), None)?;
        let columns = schema.iter().enumerate().map(|(i, (qualifier, field))| {
            Expr::Column(Column::new(Some(name.clone()), output(i))).alias_qualified(qualifier.cloned(), field.name())
        });
        scan.project(columns.collect::<Vec<_>>())?.build()
    }
}

/// A plan that is nothing but one SELECT over there.
pub struct WholeQuery {
    pub reading: Arc<Reading>,
    /// Its columns are called c0, c1, .. and are the plan's, in their order.
    pub sql: String,
    pub columns: Vec<RemoteColumn>,
}

impl WholeQuery {
    pub fn of(plan: &LogicalPlan) -> Option<Self> {
        let remote = Remote::of(plan).filter(|remote| !remote.items.is_empty())?;
        let items: Vec<String> = remote.items.iter().map(|item| item.sql.clone()).collect();
        let sql = remote.select(&items);
        Some(Self { reading: remote.reading, sql, columns: remote.items.into_iter().map(|item| item.column).collect() })
    }
}

/// What is to be sent instead of a plan's node.
struct Select {
    reading: Arc<Reading>,
    sql: String,
    /// Of each of its columns, how texts are compared.
    texts: Vec<Texts>,
}

/// Name of the `i`th column of what is derived.
pub(super) fn output(i: usize) -> String {
    format!("c{i}")
}

/// A relation that one server can give: `SELECT items FROM from WHERE conditions`, items as the plan's columns.
struct Remote {
    reading: Arc<Reading>,
    from: String,
    conditions: Vec<String>,
    items: Vec<Item>,
}

impl Remote {
    fn of(plan: &LogicalPlan) -> Option<Remote> {
        match plan {
            LogicalPlan::TableScan(scan) => Self::of_scan(scan),
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Projection(projection) => {
                let input = Self::of(&projection.input)?;
                let item = |expr: &Expr| computed(expr, projection.input.schema(), &input.items);
                let items = projection.expr.iter().map(item).collect::<Option<_>>()?;
                Some(Remote { items, ..input })
            }
            _ => None,
        }
    }

    fn of_scan(scan: &TableScan) -> Option<Remote> {
        let provider = source_as_provider(&scan.source).ok()?;
        let table = provider.downcast_ref::<RemoteTable>()?;
        if scan.fetch.is_some() {
            return None;
        }
        let all: Vec<usize> = (0..scan.source.schema().fields().len()).collect();
        Some(Remote {
            reading: table.reading().clone(),
            from: table.from().to_string(),
            conditions: table.conditions(&scan.filters)?,
            items: scan.projection.as_ref().unwrap_or(&all).iter().map(|i| table.item(*i)).collect(),
        })
    }

    fn select(&self, items: &[String]) -> String {
        let items: Vec<String> =
            items.iter().enumerate().map(|(i, item)| format!("{item} AS {}", identifier(&output(i)))).collect();
        let mut sql = format!("SELECT {} FROM {}", items.join(", "), self.from);
        if !self.conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", self.conditions.join(" AND ")));
        }
        sql
    }
}

/// Its values are equal here if and only if they are over there.
fn key_class(column: &RemoteColumn) -> Option<Class> {
    let class = class(&column.sql_type).filter(|_| column.cast.is_none())?;
    match class {
        Class::Float => None,
        Class::Text => column.texts.bytewise.then_some(class),
        _ => Some(class),
    }
}

// ---- Aggregates ---------------------------------------------------------------------------------------------------

fn aggregated(aggregate: &Aggregate) -> Option<Select> {
    let input = Remote::of(&aggregate.input)?;
    let item = |expr: &Expr| position(expr, aggregate.input.schema()).map(|i| &input.items[i]);
    let (mut groups, mut texts) = (Vec::new(), Vec::new());
    for expr in &aggregate.group_expr {
        let item = item(expr)?;
        key_class(&item.column)?;
        groups.push(item.sql.clone());
        texts.push(item.column.texts);
    }
    let mut items = groups.clone();
    for (i, expr) in aggregate.aggr_expr.iter().enumerate() {
        let field = aggregate.schema.field(groups.len() + i);
        items.push(call(expr, &SqlType::from_field(field), &item)?);
        // Of min and max, which have been told to compare by bytes.
        texts.push(Texts { bytewise: true, ordered: true, folded: false });
    }
    if items.is_empty() {
        return None;
    }
    let mut sql = input.select(&items);
    if !groups.is_empty() {
        sql.push_str(&format!(" GROUP BY {}", groups.join(", ")));
    }
    Some(Select { reading: input.reading, sql, texts })
}

/// `to`: the type that the aggregate has here.
fn call<'a>(expr: &Expr, to: &SqlType, item: &impl Fn(&Expr) -> Option<&'a Item>) -> Option<String> {
    let call: &AggregateFunction = match expr {
        Expr::AggregateFunction(call) => call,
        Expr::Alias(alias) => return self::call(&alias.expr, to, item),
        _ => return None,
    };
    let given = &call.params;
    if given.filter.is_some() || !given.order_by.is_empty() || given.null_treatment.is_some() {
        return None;
    }
    let [argument] = given.args.as_slice() else { return None };
    let name = call.func.name();
    if name == "count" && !given.distinct && matches!(argument, Expr::Literal(value, _) if !value.is_null()) {
        return Some("count(*)".into());
    }
    let item = item(argument)?;
    let (column, sql) = (&item.column, &item.sql);
    let distinct = if given.distinct { "DISTINCT " } else { "" };
    match name {
        "count" if !given.distinct || key_class(column).is_some() => Some(format!("count({distinct}{sql})")),
        "sum" if key_class(column) == Some(Class::Number) => Some(format!("sum({distinct}{sql})::{to}")),
        "min" | "max" => match key_class(column)? {
            Class::Number => Some(format!("{name}({sql})")),
            Class::Ordered if column.sql_type != SqlType::Bytea => Some(format!("{name}({sql})")),
            Class::Text if column.texts.ordered => Some(format!("{name}({sql} COLLATE \"C\")")),
            _ => None,
        },
        _ => None,
    }
}

// ---- Joins ----------------------------------------------------------------------------------------------------------

fn joined(join: &Join) -> Option<Select> {
    let kind = match join.join_type {
        JoinType::Inner => "JOIN",
        JoinType::Left => "LEFT JOIN",
        JoinType::Right => "RIGHT JOIN",
        JoinType::Full => "FULL JOIN",
        _ => return None,
    };
    if join.filter.is_some() || join.on.is_empty() || join.null_equality != NullEquality::NullEqualsNothing {
        return None;
    }
    let (left, right) = (Remote::of(&join.left)?, Remote::of(&join.right)?);
    if !Arc::ptr_eq(&left.reading, &right.reading) {
        return None;
    }
    let name = |side: &str, i: usize| format!("{side}.{}", identifier(&output(i)));
    let mut conditions = Vec::new();
    for (l, r) in &join.on {
        let (l, r) = (position(l, join.left.schema())?, position(r, join.right.schema())?);
        let (a, b) = (&left.items[l].column, &right.items[r].column);
        let same = match (key_class(a)?, key_class(b)?) {
            (Class::Ordered, Class::Ordered) => a.sql_type == b.sql_type,
            (a, b) => a == b,
        };
        // Two collations would leave over there to say which one counts.
        let collate = if key_class(a) == Some(Class::Text) { " COLLATE \"C\"" } else { "" };
        conditions.push(same.then(|| format!("{}{collate} = {}{collate}", name("l", l), name("r", r)))?);
    }
    let whole = |side: &Remote| side.select(&side.items.iter().map(|i| i.sql.clone()).collect::<Vec<_>>());
    let columns = (0..left.items.len()).map(|i| name("l", i)).chain((0..right.items.len()).map(|i| name("r", i)));
    let columns: Vec<String> =
        columns.enumerate().map(|(i, column)| format!("{column} AS {}", identifier(&output(i)))).collect();
    if columns.is_empty() {
        return None;
    }
    let sql = format!(
        "SELECT {} FROM ({}) AS l {kind} ({}) AS r ON {}",
        columns.join(", "),
        whole(&left),
        whole(&right),
        conditions.join(" AND ")
    );
    let texts = left.items.iter().chain(&right.items).map(|item| item.column.texts).collect();
    Some(Select { reading: left.reading, sql, texts })
}
