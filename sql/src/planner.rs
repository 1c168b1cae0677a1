//! Names and expressions of a statement -> DataFusion's logical plan.
//!
//! ```text
//!   ast::Query ──windows, casts rewritten──▶ SqlToRel ──▶ LogicalPlan ──optimize──▶ LogicalPlan
//!                                              │
//!                               Resolver: names -> relations, views, system tables
//! ```
//!
//! Architecture invariant: no I/O. Whoever calls has resolved what needs any.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF, lit,
};
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use crate::column_names;
use crate::grammar::build::call;
use crate::grammar::types::sql_type;
use crate::literals;
use crate::subqueries::{self, Found, NotIn};

/// Finds what names stand for.
pub trait Resolver: Send + Sync {
    /// In FROM.
    fn resolve(&self, name: &TableReference) -> Result<Arc<dyn TableProvider>>;

    /// A function that depends on the session or the catalog; these come before those of the state.
    fn function(&self, name: &str) -> Option<Arc<ScalarUDF>>;

    /// The names of all such functions, for hints.
    fn function_names(&self) -> Vec<String>;
}

/// Plans statements against one moment of the catalog.
pub struct Planner<'a> {
    /// Functions, options and optimizer rules.
    state: &'a SessionState,
    resolver: &'a dyn Resolver,
}

impl<'a> Planner<'a> {
    pub fn new(state: &'a SessionState, resolver: &'a dyn Resolver) -> Self {
        Self { state, resolver }
    }

    /// The plan of a query as it was written, not yet optimized.
    pub fn query(&self, query: &ast::Query) -> Result<LogicalPlan> {
        self.statement(&ast::Statement::Query(Box::new(query.clone())))
    }

    pub fn statement(&self, statement: &ast::Statement) -> Result<LogicalPlan> {
        let mut statement = statement.clone();
        crate::rows::rewrite(&mut statement)?;
        crate::using::rewrite(&mut statement, self.resolver)?;
        column_names::rewrite(&mut statement)?;
        array_calls(&mut statement);
        crate::order_names::rewrite(&mut statement)?;
        crate::aggregate_order::rewrite(&mut statement);
        let plan = self.sql_to_rel().sql_statement_to_plan(statement).map_err(located)?;
        let plan = crate::ttl::rewrite(crate::asof::rewrite(plan)?, self)?;
        let plan = crate::grouping_keys::rewrite(crate::set_operations::rewrite(plan)?)?;
        let plan = crate::partition_keys::rewrite(crate::outer_types::settle(literals::settle(plan)?)?)?;
        let plan = crate::distinct_on::rewrite(crate::lateral::rewrite(plan)?)?;
        Ok(subqueries::rewrite(plan, NotIn::Some)?)
    }

    /// An expression over `schema`, with its types settled.
    pub fn expr(&self, expr: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
        let mut expr = expr.clone();
        crate::rows::rewrite(&mut expr)?;
        let expr = self.sql_to_rel().sql_to_expr(expr, schema, &mut PlannerContext::new()).map_err(located)?;
        subqueries::rows::refuse(&expr)?;
        Ok(literals::settle_expr(expr)?)
    }

    /// The plan with its types settled, not yet optimized.
    pub fn analyze(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        let options = self.state.config_options();
        Ok(self.state.analyzer().execute_and_check(plan.clone(), options, |_, _| {})?)
    }

    pub fn optimize(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        match subqueries::find(plan)? {
            Found::None => return Ok(self.state.optimize(plan)?),
            Found::Astray => return Ok(self.state.optimize(&subqueries::unnest(plan.clone())?)?),
            Found::Some => {}
        }
        let optimized = self.state.optimize(plan);
        let is_done = match &optimized {
            Ok(done) => !subqueries::has_subqueries(done)?,
            Err(_) => !subqueries::has_subqueries(plan)?,
        };
        if is_done {
            return Ok(optimized?);
        }
        Ok(self.state.optimize(&subqueries::unnest(plan.clone())?)?)
    }

    fn sql_to_rel(&self) -> SqlToRel<'_, Self> {
        let options = &self.state.config_options().sql_parser;
        SqlToRel::new_with_options(
            self,
            ParserOptions {
                parse_float_as_decimal: options.parse_float_as_decimal,
                enable_ident_normalization: true,
                support_varchar_with_length: true,
                map_string_types_to_utf8view: false,
                enable_options_value_normalization: false,
                collect_spans: true,
                default_null_ordering: options.default_null_ordering.as_str().into(),
            },
        )
    }
}

impl ContextProvider for Planner<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(self.resolver.resolve(&name)?))
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DfResult<Arc<dyn TableSource>> {
        let Some(function) = self.state.table_functions().get(name) else {
            let known = self.state.table_functions().keys().map(String::as_str);
            let error = Error::new(SqlState::UndefinedFunction, format!("table function {name} does not exist"));
            return Err(match nearest(name, known) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")).into(),
                None => error.into(),
            });
        };
        let mut args = args.into_iter().map(|a| self.constant(a)).collect::<DfResult<Vec<_>>>()?;
        as_first(&mut args)?;
        args.iter_mut().for_each(to_nanoseconds);
        let args = datafusion::catalog::TableFunctionArgs::new(&args, self.state);
        Ok(provider_as_source(function.create_table_provider_with_args(args)?))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(datafusion::datasource::cte_worktable::CteWorkTable::new(name, schema))))
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        column_names::planners()
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(PostgresTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let known = || self.state.scalar_functions().get(name).cloned();
        self.resolver.function(name).or_else(known).or_else(|| subqueries::rows::function(name))
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().chain(self.resolver.function_names()).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}

/// `ARRAY[t.x]` as the call that DataFusion makes of it: in the literal's elements it forgets the tables further out.
fn array_calls(statement: &mut ast::Statement) {
    let done = ast::visit_expressions_mut(statement, |expr| {
        if let ast::Expr::Array(array) = expr
            && !array.elem.is_empty()
        {
            *expr = call("make_array", std::mem::take(&mut array.elem));
        }
        ControlFlow::<()>::Continue(())
    });
    debug_assert!(done.is_continue());
}

/// Literals in quotes after a date or a timestamp: a series' end, and its step.
fn as_first(args: &mut [Expr]) -> DfResult<()> {
    let Some((Expr::Literal(first, _), rest)) = args.split_first_mut() else { return Ok(()) };
    let first = first.data_type();
    if !matches!(first, DataType::Date32 | DataType::Timestamp(..)) {
        return Ok(());
    }
    for (at, arg) in rest.iter_mut().enumerate() {
        let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &*arg else { continue };
        let value = match at {
            0 => {
                let micros = crate::functions::parse_timestamp(text)?;
                ScalarValue::TimestampMicrosecond(Some(micros), None).cast_to(&first)?
            }
            _ => crate::functions::interval_literal(text)?,
        };
        *arg = Expr::Literal(value, None);
    }
    Ok(())
}

/// Types in casts and typed literals are those of stored columns, so that both sides of a comparison agree.
#[derive(Debug)]
struct PostgresTypes;

impl TypePlanner for PostgresTypes {
    fn plan_type_field(&self, written: &ast::DataType) -> DfResult<Option<FieldRef>> {
        Ok(match sql_type(written) {
            // A change of the held type alone would not check the text: only their functions cast to them.
            Ok(SqlType::Uuid | SqlType::Json | SqlType::Jsonb) => None,
            // Unmarked it would go on as the char(n) or varchar(n) that it was cast from.
            Ok(SqlType::Text) => Some(SqlType::Text.to_marked_field_ref("", true)),
            Ok(sql_type) => Some(sql_type.to_field_ref("", true)),
            // Not one of ours: DataFusion's, or its error.
            Err(_) => None,
        })
    }
}

impl Planner<'_> {
    /// Folds the argument of a table function to a constant.
    fn constant(&self, expr: Expr) -> DfResult<Expr> {
        use datafusion::logical_expr::simplify::SimplifyContext;
        use datafusion::optimizer::simplify_expressions::ExprSimplifier;
        let context = SimplifyContext::builder().with_config_options(self.state.config_options().clone()).build();
        let simplifier = ExprSimplifier::new(context);
        let mut rewritten = expr;
        for rewrite in &self.state.analyzer().function_rewrites {
            let apply = |e: Expr| rewrite.rewrite(e, DFSchema::empty_ref(), self.state.config_options());
            rewritten = rewritten.transform_up(apply)?.data;
        }
        let coerced = simplifier.coerce(rewritten, DFSchema::empty_ref())?;
        simplifier.simplify(coerced)
    }
}

/// DataFusion's table functions take timestamps in nanoseconds only.
fn to_nanoseconds(arg: &mut Expr) {
    if let Expr::Literal(ScalarValue::TimestampMicrosecond(micros, zone), _) = arg
        && let Some(nanos) = micros.map(|m| m.checked_mul(1000))
    {
        *arg = lit(ScalarValue::TimestampNanosecond(nanos, zone.clone()));
    }
}

fn located(error: DataFusionError) -> Error {
    let location = fault_location(&error);
    let error = Error::from(error);
    match location {
        Some((line, column)) => error.with_location(line, column),
        None => error,
    }
}

/// Line and column (both 1-based) at which the planner found fault, if it can tell.
fn fault_location(error: &DataFusionError) -> Option<(u64, u64)> {
    let span = error.diagnostic()?.span?;
    Some((span.start.line, span.start.column))
}
