//! What a name in a query stands for: system table, stored relation, or a view that gives way to its query.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF};
use datafusion::sql::sqlparser::ast;
use tidemark_catalog::{Catalog, Column, Object, ObjectKind, Read, View};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar;
use tidemark_sql::lower::not_followed;
use tidemark_sql::planner::{Planner, Resolver};

use crate::pg_catalog::{self, SystemContext};
use crate::planning::aside;
use crate::session::{RemoteName, RemoteTables, Returned, fold, kept_elsewhere};

/// Makes the relation behind a catalog object: with rows to scan, or as the input of a dataflow.
pub trait Scans: Send + Sync {
    fn relation(&self, catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>>;
}

/// DataFusion's state, which most statements that need no planning do without.
pub type StatementState = Arc<LazyLock<Arc<SessionState>, Box<dyn FnOnce() -> Arc<SessionState> + Send>>>;

/// A state that is there already.
pub fn state_of(state: Arc<SessionState>) -> StatementState {
    Arc::new(LazyLock::new(Box::new(move || state)))
}

/// All that planning a query needs to know.
#[derive(Clone)]
pub struct Names {
    pub state: StatementState,
    /// Functions that depend on the session, by every name they have.
    pub functions: Arc<HashMap<String, Arc<ScalarUDF>>>,
    pub catalog: Arc<Catalog>,
    pub search_path: Vec<String>,
    /// Of a stored query: the relations as it knows them.
    pub reads: Vec<Read>,
    /// `None`: system tables are not to be had (in a dataflow).
    pub system: Option<Arc<SystemContext>>,
    pub scans: Arc<dyn Scans>,
    /// Rows that data-modifying parts of the statement have returned.
    pub returned: HashMap<String, Returned>,
    /// Tables of other systems, found before planning.
    pub remote: Arc<RemoteTables>,
}

impl Names {
    pub fn planner(&self) -> Planner<'_> {
        Planner::new(&self.state, self)
    }

    /// Plans a query as the user wrote it; not optimized.
    pub fn plan(&self, query: &ast::Query) -> Result<LogicalPlan> {
        aside(|| self.plan_here(query))
    }

    /// As [`Names::plan`], of a query that is planned in no time: going aside costs more than that.
    pub fn plan_here(&self, query: &ast::Query) -> Result<LogicalPlan> {
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        rewrite(&mut statement)?;
        self.planner().statement(&statement)
    }

    /// An expression over columns, e.g. a DEFAULT or CHECK.
    pub fn expr(&self, text: &str, schema: &DFSchema) -> Result<Expr> {
        let mut expr = parse_expr(text)?;
        grammar::literals::rewrite(&mut expr)?;
        grammar::casts::rewrite(&mut expr)?;
        self.planner().expr(&expr, schema)
    }

    fn remote_table(&self, connection: &str, name: &TableReference) -> Result<Arc<dyn TableProvider>> {
        let schema = name.schema().unwrap_or_default().to_string();
        let key = (connection.to_string(), schema, name.table().to_string());
        if let Some(table) = self.remote.get(&key) {
            return Ok(table.clone());
        }
        if self.catalog.connection(connection).is_err() {
            return Err(cross_database(name));
        }
        Err(not_followed(&name.to_string()))
    }

    /// A table whose contents are in another system, with the columns that are declared here, or the first of them that a stored
    /// query knows.
    fn kept_elsewhere(&self, object: &Object, known: Option<&Read>) -> Result<Arc<dyn TableProvider>> {
        let key = kept_elsewhere(object, &self.catalog)
            .ok_or_else(|| Error::internal(format!("\"{}\" has no connection", object.name)))?;
        let Some(table) = self.remote.get(&key) else { return Err(not_followed(&object.name)) };
        let there = table.schema();
        let name = TableReference::bare(object.name.as_str());
        let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(table.clone()), None)?;
        let width = known.map_or(usize::MAX, |read| read.columns.len());
        let column = |column: &Column| {
            let field = there.field_with_name(&column.name).map_err(|_| {
                let message = format!(
                    "column \"{}\" of \"{}\" is not there in connection \"{}\"",
                    column.name, object.name, key.0
                );
                Error::new(SqlState::UndefinedColumn, message).with_hint(
                    "The table over there was changed: on_drift = 'evolve' adds the column with the next load.",
                )
            })?;
            let found = Expr::Column(datafusion::common::Column::new(Some(name.clone()), &column.name));
            if SqlType::from_field(field) == column.sql_type {
                return Ok(found);
            }
            let declared = column.sql_type.to_field(&column.name, true);
            let metadata = FieldMetadata::from(&declared);
            let cast = datafusion::logical_expr::cast(found, declared.data_type().clone());
            Ok(cast.alias_with_metadata(column.name.as_str(), Some(metadata)))
        };
        let columns = object.columns().iter().take(width).map(column).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ViewTable::new(scan.project(columns)?.build()?, None)))
    }

    /// A plain view, with its first columns under these names.
    fn view(&self, object: &Object, view: &View, columns: Vec<String>) -> Result<Arc<dyn TableProvider>> {
        let parsed = grammar::parse_one(&view.query)?;
        let Statement::Sql(statement) = parsed.statement else {
            return Err(Error::internal(format!("view \"{}\" is no query", object.name)));
        };
        let mut statement = *statement;
        rewrite(&mut statement)?;
        let mut inside = self.clone();
        inside.search_path.clone_from(&view.search_path);
        inside.reads.clone_from(&object.reads);
        inside.returned.clear();
        let plan = inside.planner().statement(&statement)?;
        let plan = named(plan, columns)?;
        Ok(Arc::new(ViewTable::new(plan, Some(view.query.clone()))))
    }
}

/// The plan's first columns, under these names.
fn named(plan: LogicalPlan, names: Vec<String>) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> =
        plan.schema().columns().into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name)).collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// The first columns of a relation.
fn narrowed(name: &str, relation: Arc<dyn TableProvider>, width: usize) -> Result<Arc<dyn TableProvider>> {
    let columns = (0..width).collect();
    let scan = LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(relation), Some(columns))?;
    Ok(Arc::new(ViewTable::new(scan.build()?, None)))
}

impl Resolver for Names {
    fn resolve(&self, name: &TableReference) -> Result<Arc<dyn TableProvider>> {
        if name.schema().is_none()
            && let Some(returned) = self.returned.get(name.table())
        {
            let message = format!("WITH query \"{}\" does not have a RETURNING clause", name.table());
            return returned.clone().ok_or_else(|| Error::unsupported(message));
        }
        if let Some(database) = name.catalog()
            && database != self.catalog.database
        {
            return self.remote_table(database, name);
        }
        if let Some(system) = &self.system
            && let Some(table) = pg_catalog::system_table(name.schema().unwrap_or("pg_catalog"), name.table(), system)
        {
            return Ok(table);
        }
        if let Some(schema) = name.schema()
            && self.catalog.schema_oid(schema).is_none()
            && self.catalog.connection(schema).is_ok()
        {
            return Err(Error::new(SqlState::UndefinedTable, format!("relation \"{name}\" does not exist")).with_hint(
                format!("\"{schema}\" is a connection: name the schema, too, as in {schema}.public.{}.", name.table()),
            ));
        }
        let known = Read::find(&self.reads, name.schema(), name.table(), &self.search_path);
        let object = match known {
            Some(read) => self.catalog.expect(read.oid)?,
            None => self.catalog.resolve(name.schema(), name.table(), &self.search_path)?,
        };
        match &object.kind {
            ObjectKind::View(view) => {
                let columns = || object.columns().iter().map(|column| column.name.clone()).collect();
                self.view(object, view, known.map_or_else(columns, |read| read.columns.clone()))
            }
            ObjectKind::Table(table) if table.remote.is_some() => self.kept_elsewhere(object, known),
            kind if kind.is_relation() => {
                let Some(read) = known else { return self.scans.relation(&self.catalog, object) };
                let relation = self.scans.relation(&self.catalog, &Arc::new(read.as_known(object)))?;
                match read.columns.len() {
                    width if width < object.columns().len() => narrowed(name.table(), relation, width),
                    _ => Ok(relation),
                }
            }
            kind => Err(Error::new(
                SqlState::WrongObjectType,
                format!("cannot open relation \"{}\": it is a {}", object.name, kind.name()),
            )),
        }
    }

    fn function(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        pg_catalog::function(name, self.system.as_ref()).or_else(|| self.functions.get(name).cloned())
    }

    fn function_names(&self) -> Vec<String> {
        let of_catalog = self.system.iter().flat_map(|_| pg_catalog::function_names()).map(str::to_string);
        self.functions.keys().cloned().chain(of_catalog).collect()
    }
}

/// Our spellings and Postgres' in what DataFusion plans.
pub fn rewrite(statement: &mut ast::Statement) -> Result<()> {
    if let ast::Statement::Query(query) = statement
        && let Some(lock) = query.locks.first()
    {
        return Err(Error::unsupported(format!("{lock} is not supported")).with_hint(
            "Leave it out: of two transactions that write the same row the later one gets 40001 and tries again.",
        ));
    }
    Nesting::check(statement)?;
    grammar::windows::rewrite(statement)?;
    grammar::forms::rewrite_fields(statement);
    pg_catalog::rewrite_statement(statement);
    grammar::literals::rewrite(statement)?;
    grammar::casts::rewrite(statement)
}

/// Subqueries in expressions within each other. DataFusion's checks of a plan take twice as long for each level.
const DEEPEST_SUBQUERY: usize = 10;

#[derive(Default)]
struct Nesting {
    depth: usize,
}

impl Nesting {
    fn check(statement: &ast::Statement) -> Result<()> {
        match ast::Visit::visit(statement, &mut Nesting::default()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(
                SqlState::ProgramLimitExceeded,
                format!("subqueries are nested more than {DEEPEST_SUBQUERY} deep"),
            )
            .with_hint("Take some of them out: WITH name AS (SELECT ..).")),
        }
    }
}

/// Whether there is a query in the expression.
pub fn has_subquery(expr: &ast::Expr) -> bool {
    let found = ast::visit_expressions(expr, |expr| match is_subquery(expr) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn is_subquery(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. })
}

impl ast::Visitor for Nesting {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        self.depth += usize::from(is_subquery(expr));
        if self.depth > DEEPEST_SUBQUERY { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        self.depth -= usize::from(is_subquery(expr));
        ControlFlow::Continue(())
    }
}

fn parse_expr(text: &str) -> Result<ast::Expr> {
    let parsed = grammar::parse_one(&format!("SELECT {text}"))?;
    if let Statement::Sql(statement) = parsed.statement
        && let ast::Statement::Query(query) = *statement
        && let ast::SetExpr::Select(select) = *query.body
        && let Some(ast::SelectItem::UnnamedExpr(expr)) = select.projection.into_iter().next()
    {
        return Ok(expr);
    }
    Err(Error::syntax(format!("\"{text}\" is no expression")))
}

/// `[schema.]name` of a parsed name, folded as Postgres does.
pub fn object_name(name: &ast::ObjectName, database: &str) -> Result<(Option<String>, String)> {
    let fold = |ident: &ast::Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    match parts.as_slice() {
        [name] => Ok((None, name.clone())),
        [schema, name] => Ok((Some(schema.clone()), name.clone())),
        [catalog, schema, name] if catalog == database => Ok((Some(schema.clone()), name.clone())),
        _ => Err(cross_database(name)),
    }
}

fn cross_database(name: &impl Display) -> Error {
    Error::unsupported(format!("cross-database references are not implemented: \"{name}\"")).with_hint(
        "Tables of another PostgreSQL can be read, not written: CREATE CONNECTION c .., then SELECT .. FROM c.schema.table.",
    )
}

/// Connection, schema and table, if the name is of a table of a connection.
pub fn remote_name(name: &ast::ObjectName, catalog: &Catalog) -> Option<RemoteName> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    let [connection, schema, table] = parts.as_slice() else { return None };
    catalog.connection(connection).is_ok().then(|| (connection.clone(), schema.clone(), table.clone()))
}

/// The object a statement names.
pub fn find_relation(catalog: &Catalog, name: &ast::ObjectName, search_path: &[String]) -> Result<Arc<Object>> {
    let (schema, name) = object_name(name, &catalog.database)?;
    Ok(catalog.resolve(schema.as_deref(), &name, search_path)?.clone())
}
