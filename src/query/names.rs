//! What a name in a query stands for: system table, stored relation, or a view that gives way to its query.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::sql::sqlparser::ast;
use tidemark_catalog::{Catalog, Object, ObjectKind, View};
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar;
use tidemark_sql::planner::{Planner, Resolver};

use crate::pg_catalog::{self, SystemContext};

/// Makes the relation behind a catalog object: with rows to scan, or as the input of a dataflow.
pub trait Scans: Send + Sync {
    fn relation(&self, catalog: &Catalog, object: &Arc<Object>) -> Result<Arc<dyn TableProvider>>;
}

/// All that planning a query needs to know.
#[derive(Clone)]
pub struct Names {
    pub state: Arc<SessionState>,
    /// Functions that depend on the session.
    pub functions: Arc<HashMap<String, Arc<ScalarUDF>>>,
    pub catalog: Arc<Catalog>,
    pub search_path: Vec<String>,
    /// `None`: system tables are not to be had (in a dataflow).
    pub system: Option<Arc<SystemContext>>,
    pub scans: Arc<dyn Scans>,
}

impl Names {
    pub fn planner(&self) -> Planner<'_> {
        Planner::new(&self.state, self, &self.functions)
    }

    /// Plans a query as the user wrote it; not optimized.
    pub fn plan(&self, query: &ast::Query) -> Result<LogicalPlan> {
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        rewrite(&mut statement)?;
        self.planner().statement(&statement)
    }

    /// An expression over columns, e.g. a DEFAULT or CHECK.
    pub fn expr(&self, text: &str, schema: &DFSchema) -> Result<Expr> {
        let mut expr = parse_expr(text)?;
        grammar::casts::rewrite(&mut expr)?;
        self.planner().expr(&expr, schema)
    }

    fn view(&self, object: &Object, view: &View) -> Result<Arc<dyn TableProvider>> {
        let parsed = grammar::parse_one(&view.query)?;
        let Statement::Sql(statement) = parsed.statement else {
            return Err(Error::internal(format!("view \"{}\" is no query", object.name)));
        };
        let mut statement = *statement;
        rewrite(&mut statement)?;
        let inside = Names { search_path: view.search_path.clone(), ..self.clone() };
        let plan = inside.planner().statement(&statement)?;
        let plan = named(plan, view)?;
        Ok(Arc::new(ViewTable::new(plan, Some(view.query.clone()))))
    }
}

/// Gives the plan's columns the names that the view has for them.
fn named(plan: LogicalPlan, view: &View) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .zip(&view.columns)
        .map(|(column, named)| Expr::Column(column).alias(named.name.clone()))
        .collect();
    Ok(datafusion::logical_expr::LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

impl Resolver for Names {
    fn resolve(&self, name: &TableReference) -> Result<Arc<dyn TableProvider>> {
        if let Some(system) = &self.system
            && let Some(table) = pg_catalog::system_table(name.schema().unwrap_or("pg_catalog"), name.table(), system)
        {
            return Ok(table);
        }
        if let Some(database) = name.catalog()
            && database != self.catalog.database
        {
            return Err(Error::unsupported(format!("cross-database references are not implemented: \"{name}\"")));
        }
        let object = self.catalog.resolve(name.schema(), name.table(), &self.search_path)?;
        match &object.kind {
            ObjectKind::View(view) => self.view(object, view),
            kind if kind.is_relation() => self.scans.relation(&self.catalog, object),
            kind => Err(Error::new(
                SqlState::WrongObjectType,
                format!("cannot open relation \"{}\": it is a {}", object.name, kind.name()),
            )),
        }
    }
}

/// Our spellings and Postgres' in what DataFusion plans.
pub fn rewrite(statement: &mut ast::Statement) -> Result<()> {
    grammar::windows::rewrite(statement)?;
    grammar::forms::rewrite_fields(statement);
    pg_catalog::rewrite_statement(statement);
    grammar::casts::rewrite(statement)
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
        _ => Err(Error::unsupported(format!("cross-database references are not implemented: \"{name}\""))),
    }
}

/// The object a statement names.
pub fn find_relation(catalog: &Catalog, name: &ast::ObjectName, search_path: &[String]) -> Result<Arc<Object>> {
    let (schema, name) = object_name(name, &catalog.database)?;
    Ok(catalog.resolve(schema.as_deref(), &name, search_path)?.clone())
}
