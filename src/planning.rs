//! DataFusion as Tidemark sets it up: functions, rules, memory, how many threads one query may have, and where planning runs.

mod cheap_first;
mod dynamic_filters;
mod early_filter;
mod kept_rows;
mod late_text;
mod outer_joins;
mod small_decimals;
mod stages;

use std::sync::Arc;

use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use tidemark_common::Result;
use tidemark_connectors::postgres::PushDown;
use tidemark_sql::{functions, optimizer};
use tokio::runtime::{Handle, RuntimeFlavor};

use self::cheap_first::CheapFirst;
use self::dynamic_filters::DynamicFilters;
use self::late_text::LateText;
pub use self::late_text::as_text;
use self::outer_joins::OuterJoinConstants;
use crate::config::Config;
use crate::pg_catalog::SystemSubqueries;

type PhysicalRule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// Does work that may take long without waiting, such as planning a query of many joins: the other sessions of this worker
/// thread go on elsewhere meanwhile.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The state that all sessions start from.
pub fn state(config: &Config) -> Result<Arc<SessionState>> {
    let mut session = SessionConfig::new().with_target_partitions(config.workers.clamp(1, 8)).with_batch_size(8192);
    let options = session.options_mut();
    options.sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".into());
    options.optimizer.prefer_existing_sort = true;
    // It refuses GROUP BY over a CASE of which the logical plan knows, and the physical one does not, that it is never NULL.
    options.execution.skip_physical_aggregate_schema_check = true;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(config.query_memory_limit as usize)))
        .build_arc()?;
    let mut rules = optimizer::rules();
    rules.push(Arc::new(PushDown::default()));
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(session)
        .with_runtime_env(runtime)
        .with_analyzer_rule(Arc::new(SystemSubqueries))
        .with_expr_planners(functions::expr_planners())
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(physical_rules())
        .build();
    functions::register(&mut state)?;
    // MySQL's and Flink's, which DataFusion takes for to_char, with patterns that are neither's.
    state.deregister_udf("date_format")?;
    Ok(Arc::new(state))
}

/// How an optimized plan is run. DataFusion's rules leave out sorts by an expression that a filter has made constant, and may not
/// find that again when they have moved the expression: where their own check refuses what they have made, nothing is moved.
pub async fn physical(state: &SessionState, optimized: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    match state.query_planner().create_physical_plan(optimized, state).await {
        Err(error) if error.to_string().contains("does not satisfy order requirements") => {
            let rules = physical_rules().into_iter().filter(|rule| rule.name() != "ProjectionPushdown").collect();
            let state =
                SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(rules).build();
            Ok(state.query_planner().create_physical_plan(optimized, &state).await?)
        }
        planned => Ok(planned?),
    }
}

/// DataFusion's rules, after three of ours. In place of the rules that push conditions down, which take columns of one name for one
/// another: ours, for what joins and sorts come to know, and what filters ask of the scan below.
fn physical_rules() -> Vec<PhysicalRule> {
    let rules = PhysicalOptimizer::new().rules.into_iter().filter_map(|rule| match rule.name() {
        "FilterPushdown" => None,
        "FilterPushdown(Post)" => Some(Arc::new(DynamicFilters) as PhysicalRule),
        _ => Some(rule),
    });
    let first: [PhysicalRule; 3] = [Arc::new(OuterJoinConstants), Arc::new(LateText), Arc::new(CheapFirst)];
    first.into_iter().chain(rules).collect()
}
