//! EXPLAIN: a query's batch plan, a view's dataflow.

use datafusion::physical_plan::displayable;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use futures::future::BoxFuture;
use tidemark_catalog::{Object, ObjectKind};
use tidemark_common::plan::{Dataflow, readable};
use tidemark_common::{Error, Result};
use tidemark_engine::JobStatus;
use tidemark_sql::ast::{Emit, Explain, ExplainTarget, SinkFrom, Statement};

use super::select::{text_rows, with_parameters};
use super::update::Scope;
use super::{Outcome, Session, dml};
use crate::coordinator::{definitions, lookups};
use crate::query::Lookup;

impl Session {
    pub(super) async fn explain(&mut self, explain: &Explain, parameters: &[ScalarValue]) -> Result<Outcome> {
        let text = match &explain.target {
            ExplainTarget::Object(object_type, name) => {
                let object = self.find_to_drop(*object_type, name)?;
                match object.kind {
                    ObjectKind::Pipeline(_) => self.explain_pipeline(&object).await?,
                    _ => self.explain_object(&object, explain.analyze)?,
                }
            }
            ExplainTarget::Statement(statement) => match statement.as_ref() {
                Statement::CreateMaterializedView(create) => self.explain_dataflow(&create.query, create.emit)?,
                Statement::CreateSink(create) => match &create.from {
                    SinkFrom::Query { query, emit, .. } => self.explain_dataflow(query, *emit)?,
                    SinkFrom::Relation(name) => {
                        let query = definitions::stored_query(&format!("SELECT * FROM {name}"))?;
                        self.explain_dataflow(&query, Emit::Changes)?
                    }
                },
                Statement::Sql(statement) => self.explain_sql(statement, explain, parameters).await?,
                _ => return Err(Error::unsupported("this statement has no plan to explain")),
            },
        };
        text_rows(&[("QUERY PLAN", text.lines().map(|l| Some(l.to_string())).collect())], "EXPLAIN")
    }

    fn explain_dataflow(&mut self, query: &sql::Query, emit: Emit) -> Result<String> {
        let path = self.search_path();
        let catalog = self.catalog()?;
        let asked = lookups::asked(&self.remote, &catalog)?;
        Ok(definitions::dataflow(query, &path, emit, None, &asked, &catalog, &self.db.environment)?.to_string())
    }

    fn explain_object(&mut self, object: &Object, analyze: bool) -> Result<String> {
        let catalog = self.catalog()?;
        let dataflow = match &object.kind {
            ObjectKind::MaterializedView(_) | ObjectKind::Sink(_) => {
                definitions::stored_dataflow(object, &catalog, &self.db.environment)?
            }
            other => return Err(Error::unsupported(format!("a {} has no dataflow", other.name()))),
        };
        let status = self.db.engine.status();
        let job = status.jobs.iter().find(|j| j.oid == object.oid);
        Ok(match job.filter(|_| analyze) {
            Some(job) => with_statistics(&dataflow, job),
            None => dataflow.to_string(),
        })
    }

    async fn explain_sql(
        &mut self,
        statement: &sql::Statement,
        explain: &Explain,
        parameters: &[ScalarValue],
    ) -> Result<String> {
        let mut shown = String::new();
        let query = match statement {
            sql::Statement::Query(query) => query.as_ref().clone(),
            sql::Statement::Insert(insert) if !explain.analyze => match &insert.source {
                Some(source) => {
                    shown = self.shown_load(insert, source)?;
                    source.as_ref().clone()
                }
                None => return Ok("Insert of default values".into()),
            },
            sql::Statement::Update(update) if !explain.analyze => {
                let scope = self.update_scope(update, None)?;
                dml::set_list(&scope.object, &update.assignments)?;
                return self.explain_change("Update", &scope, explain, parameters).await;
            }
            sql::Statement::Delete(delete) if !explain.analyze => {
                let scope = self.delete_scope(delete, None)?;
                return self.explain_change("Delete", &scope, explain, parameters).await;
            }
            _ if explain.analyze => {
                return Err(Error::unsupported("EXPLAIN ANALYZE of a statement that writes is not supported"));
            }
            other => return Ok(format!("{other}")),
        };
        let names = self.names(None)?;
        let plan = names.plan(&query)?;
        if !explain.analyze
            && Lookup::is_candidate(&plan)?
            && let Some(lookup) = Lookup::of(&names, &plan, parameters)?
            && self.can_look_up(&lookup)?
        {
            return Ok(readable(&lookup.to_string()));
        }
        let plan = with_parameters(plan, parameters)?;
        let optimized = names.planner().optimize(&plan)?;
        let physical = crate::planning::physical(&names.state, &optimized).await?;
        if !explain.analyze {
            let mut text = readable(&displayable(physical.as_ref()).indent(explain.verbose).to_string());
            if explain.verbose {
                text = format!("{}\n\n{text}", optimized.display_indent_schema());
            }
            return Ok(shown + &text);
        }
        let task = std::sync::Arc::new(datafusion::execution::TaskContext::from(&***names.state));
        let mut stream = datafusion::physical_plan::execute_stream(physical.clone(), task)?;
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            rows += batch?.num_rows();
        }
        let text = datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(physical.as_ref());
        Ok(format!("{}\nRows: {rows}", text.indent(explain.verbose).to_string().trim_end()))
    }
}

impl Session {
    /// How the rows are looked for that are changed. Boxed, as it lies on the stack of every statement else.
    fn explain_change<'a>(
        &'a mut self,
        what: &'a str,
        scope: &'a Scope<'_>,
        explain: &'a Explain,
        parameters: &'a [ScalarValue],
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.explain_search(what, scope, explain, parameters))
    }

    async fn explain_search(
        &mut self,
        what: &str,
        scope: &Scope<'_>,
        explain: &Explain,
        parameters: &[ScalarValue],
    ) -> Result<String> {
        let names = self.names(None)?;
        let plan = with_parameters(scope.search(&names)?, parameters)?;
        let optimized = names.planner().optimize(&plan)?;
        let physical = crate::planning::physical(&names.state, &optimized).await?;
        let text = readable(&displayable(physical.as_ref()).indent(explain.verbose).to_string());
        let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
        Ok(format!("{what} on {}\n{}", names.catalog.qualified_name(&scope.object), lines.join("\n")))
    }
}

/// The plan, then what each node has done since the server started.
fn with_statistics(dataflow: &Dataflow, job: &JobStatus) -> String {
    let mut text =
        format!("{dataflow}\n\nnode  operator            rows in     rows out   state entries   time (ms)\n");
    for (node, stats) in dataflow.nodes.iter().zip(&job.nodes) {
        let operator: String = format!("{:?}", node.op).chars().take_while(|c| c.is_alphanumeric()).collect();
        text.push_str(&format!(
            "{:>4}  {:<14} {:>12} {:>12} {:>15} {:>11.1}\n",
            node.id,
            operator,
            stats.rows_in,
            stats.rows_out,
            stats.state.entries,
            stats.nanos as f64 / 1e6
        ));
    }
    text
}
