//! VALIDATE MATERIALIZED VIEW: promise 1, asked of one view.
//!
//! ```text
//!   its query, as a batch over one epoch ──each row +1──┐
//!                                                       ├─▶ counted by row ──▶ rows that are not there equally often
//!   its contents at the same epoch ─────────each row +1─┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::prelude::col;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{MaterializedView, Object, ObjectKind};
use tidemark_common::plan::{Emit, Node, Op};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::ObjectType;

use super::{Outcome, Rows, RowsTag, Session};
use crate::coordinator::definitions;
use crate::query::{Names, StoredRows, state_of};

/// How often a row is in the query's result, and in the view. Names that no column of a view is likely to have.
const IN_QUERY: &str = "rows_in_query";
const IN_VIEW: &str = "rows_in_view";

impl Session {
    /// The rows that the view and its query differ in: none, or something is wrong with Tidemark.
    pub(super) async fn validate(&mut self, name: &sql::ObjectName) -> Result<Outcome> {
        let object = self.find_to_drop(ObjectType::MaterializedView, name)?;
        let view = materialized(&object)?;
        if self.transaction()?.buffers().next().is_some() {
            return Err(Error::new(
                SqlState::ActiveSqlTransaction,
                "VALIDATE MATERIALIZED VIEW cannot run in a transaction that has changed rows",
            )
            .with_hint("COMMIT first: views show what is committed."));
        }
        if let Emit::ChangesEvery(_) = view.emit {
            return Err(Error::unsupported(
                "a view with EMIT CHANGES EVERY equals its query only when it has just told its changes",
            )
            .with_hint("Validate a view of the same query with EMIT CHANGES."));
        }
        if view.emit == Emit::OnWindowClose {
            self.notice("rows of windows that are still open are in the query only, and are not compared");
        }
        self.check_repeatable(&object)?;
        let names = self.names_of_view(&object, view)?;
        let plan = difference(&names, &object, view)?;
        let (_, stream) = super::select::execute(&names, plan).await?;
        let schema = difference_schema(view);
        let stream = super::select::under(schema.clone(), stream);
        Ok(Outcome::Rows(Rows {
            schema,
            stream,
            tag: RowsTag::Fixed("VALIDATE MATERIALIZED VIEW"),
            live: false,
            binary: false,
        }))
    }

    pub(super) fn describe_validate(&self, name: &sql::ObjectName) -> Result<SchemaRef> {
        let object = self.find_to_drop(ObjectType::MaterializedView, name)?;
        Ok(difference_schema(materialized(&object)?))
    }

    /// A view that hangs on when its rows were read cannot be computed again.
    fn check_repeatable(&self, object: &Object) -> Result<()> {
        let plan = definitions::stored_dataflow(object, &self.transaction()?.catalog, &self.db.environment)?;
        let hangs = |node: &Node| match &node.op {
            Op::Clock | Op::LookupJoin(_) => true,
            Op::Join(join) => join.current,
            _ => false,
        };
        match plan.nodes.iter().any(hangs) {
            false => Ok(()),
            true => Err(Error::unsupported(format!("\"{}\" hangs on when its rows were read", object.name))
                .with_detail("A batch over the same rows has other times of processing.")
                .with_hint("A view over event time can be validated.")),
        }
    }

    /// What names in the view's query stand for, with the rows of this moment; nothing of the session has a say in it.
    fn names_of_view(&self, object: &Object, view: &MaterializedView) -> Result<Names> {
        let transaction = self.transaction()?;
        let environment = self.db.environment.clone();
        Ok(Names {
            remote: Arc::default(),
            state: state_of(environment.state.clone()),
            functions: Arc::new(tidemark_sql::functions::clock_at(transaction.moment.time)),
            catalog: transaction.catalog.clone(),
            search_path: view.search_path.clone(),
            reads: object.reads.clone(),
            system: None,
            scans: Arc::new(StoredRows::new(transaction, environment)),
            returned: HashMap::new(),
        })
    }
}

fn materialized(object: &Object) -> Result<&MaterializedView> {
    match &object.kind {
        ObjectKind::MaterializedView(view) => Ok(view),
        other => Err(Error::internal(format!("a {} in the place of a materialized view", other.name()))),
    }
}

fn difference(names: &Names, object: &Arc<Object>, view: &MaterializedView) -> Result<LogicalPlan> {
    let query = names.plan(&definitions::stored_query(&view.query)?)?;
    let contents = names.scans.relation(&names.catalog, object)?;
    let contents = LogicalPlanBuilder::scan(object.name.as_str(), provider_as_source(contents), None)?.build()?;
    let both = counted(query, view, 1, 0)?.union(counted(contents, view, 0, 1)?.build()?)?;
    let columns: Vec<Expr> = (0..view.columns.len()).map(|i| col(position(i))).collect();
    let totals = [sum(col(IN_QUERY)).alias(IN_QUERY), sum(col(IN_VIEW)).alias(IN_VIEW)];
    let differs = match view.emit == Emit::OnWindowClose {
        true => col(IN_VIEW).gt(col(IN_QUERY)),
        false => col(IN_VIEW).not_eq(col(IN_QUERY)),
    };
    // The sums are the view's own kind of sum: whole numbers, whatever type they come in.
    let whole = |name: &str| cast(col(name), SqlType::BigInt.data_type()).alias(name);
    let shown = columns.iter().cloned().chain([whole(IN_QUERY), whole(IN_VIEW)]).collect::<Vec<_>>();
    Ok(both.aggregate(columns, totals)?.filter(differs)?.project(shown)?.build()?)
}

/// The view's columns, in its types, and the two counts.
fn counted(plan: LogicalPlan, view: &MaterializedView, in_query: i64, in_view: i64) -> Result<LogicalPlanBuilder> {
    let columns = plan.schema().columns().into_iter().zip(plan.schema().fields()).zip(&view.columns).enumerate();
    let mut exprs: Vec<Expr> = columns
        .map(|(i, ((column, field), kept))| {
            let (column, stored) = (Expr::Column(column), kept.sql_type.data_type());
            let same = *field.data_type() == stored;
            if same { column } else { cast(column, stored) }.alias(position(i))
        })
        .collect();
    exprs.extend([lit(in_query).alias(IN_QUERY), lit(in_view).alias(IN_VIEW)]);
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?)
}

/// Columns go by their place: a view's names may need quotes, and may be any.
fn position(column: usize) -> String {
    format!("c{column}")
}

fn difference_schema(view: &MaterializedView) -> SchemaRef {
    let columns = view.columns.iter().map(|c| c.sql_type.to_field(&c.name, true));
    let counts = [IN_QUERY, IN_VIEW].map(|name| Field::new(name, SqlType::BigInt.data_type(), true));
    Arc::new(Schema::new(columns.chain(counts).collect::<Vec<_>>()))
}
