//! `FROM t AS a (x)`: the first columns get other names, the rest keep theirs.
//!
//! DataFusion wants a name for each: a relation with such a list is planned without it, and then named; a WITH query is one, too.
//!
//! ```text
//!   WITH c (x) AS (SELECT ..)   ──▶   WITH c AS (SELECT * FROM (SELECT ..) AS c (x))
//! ```

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::error::Result as DfResult;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{Cte, Query, Statement, TableAlias, TableFactor, VisitMut, VisitorMut};
use tidemark_common::{Error, Result, SqlState};

use crate::grammar::windows::{derived, select_of, template};

/// What the planner asks for each relation of a FROM.
pub(crate) fn planners() -> &'static [Arc<dyn RelationPlanner>] {
    static PLANNERS: LazyLock<[Arc<dyn RelationPlanner>; 1]> = LazyLock::new(|| [Arc::new(FirstColumns)]);
    PLANNERS.as_slice()
}

#[derive(Debug)]
struct FirstColumns;

impl RelationPlanner for FirstColumns {
    fn plan_relation(
        &self,
        mut relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        let Some(mut alias) = named(&mut relation).and_then(Option::take) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if alias.columns.is_empty() {
            if let Some(place) = named(&mut relation) {
                *place = Some(alias);
            }
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let names = std::mem::take(&mut alias.columns);
        let names = names.into_iter().map(|column| context.normalize_ident(column.name)).collect();
        let plan = context.plan(relation)?;
        let plan = renamed(plan, &context.normalize_ident(alias.name.clone()), names)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, Some(alias)))))
    }
}

fn named(relation: &mut TableFactor) -> Option<&mut Option<TableAlias>> {
    match relation {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => Some(alias),
        _ => None,
    }
}

fn renamed(plan: LogicalPlan, table: &str, names: Vec<String>) -> DfResult<LogicalPlan> {
    let columns = plan.schema().columns();
    if names.len() > columns.len() {
        let (there, named) = (columns.len(), names.len());
        return Err(Error::new(
            SqlState::InvalidColumnReference,
            format!("table \"{table}\" has {there} columns available but {named} columns specified"),
        )
        .into());
    }
    let rest: Vec<String> = columns.iter().skip(names.len()).map(|column| column.name.clone()).collect();
    let named = columns.into_iter().zip(names.into_iter().chain(rest));
    let named: Vec<Expr> = named.map(|(column, name)| Expr::Column(column).alias(name)).collect();
    LogicalPlanBuilder::from(plan).project(named)?.build()
}

/// Column names of WITH queries, as those of relations.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    match VisitMut::visit(statement, &mut WithQueries) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct WithQueries;

impl VisitorMut for WithQueries {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        // DataFusion names the columns of a recursive one itself.
        for cte in query.with.iter_mut().filter(|with| !with.recursive).flat_map(|with| &mut with.cte_tables) {
            if let Err(error) = name_columns(cte) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }
}

fn name_columns(cte: &mut Cte) -> Result<()> {
    if cte.alias.columns.is_empty() {
        return Ok(());
    }
    let alias = TableAlias { columns: std::mem::take(&mut cte.alias.columns), ..cte.alias.clone() };
    let mut whole = template("SELECT * FROM t")?;
    std::mem::swap(&mut whole, &mut cte.query);
    let [table] = select_of(&mut cte.query)?.from.as_mut_slice() else {
        return Err(Error::internal("a template reads one table"));
    };
    table.relation = derived(whole, alias);
    Ok(())
}
