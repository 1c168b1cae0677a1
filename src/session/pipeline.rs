//! RUN, DRY RUN, VALIDATE and EXPLAIN of a pipeline, and SHOW RUNS.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Object, Trigger, quote_ident, quote_literal};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{Counts, Deletes, Load, Strategy};
use tidemark_sql::ast::{RunPipeline, ShowRuns, Statement};

use super::{Outcome, Session, one_batch};
use crate::coordinator::definitions::stored_query;
use crate::coordinator::loads::load_of;
use crate::pipelines::run;
use crate::pipelines::work::{Definition, TargetWork, Work};

/// Runs that SHOW RUNS shows unless told otherwise.
const RUNS: u64 = 100;

impl Session {
    fn pipeline(&self, name: &sql::ObjectName) -> Result<Arc<Object>> {
        let name = self.global_name(name, "pipeline")?;
        Ok(self.catalog()?.pipeline(&name)?.clone())
    }

    pub(super) async fn run_pipeline(&mut self, run: &RunPipeline) -> Result<Outcome> {
        let words = if run.dry { "DRY RUN PIPELINE" } else { "RUN PIPELINE" };
        if self.in_transaction_block() {
            return Err(Error::new(
                SqlState::ActiveSqlTransaction,
                format!("{words} cannot run inside a transaction block"),
            )
            .with_hint("A run has transactions of its own. COMMIT first."));
        }
        let object = self.pipeline(&run.name)?;
        let db = self.database();
        if run.dry {
            let definition = Definition::of(&db.moment().catalog, object.oid)?;
            let done = run::dry(&db, &definition, run.full_refresh).await?;
            let rows = done.iter().map(|(target, counts, sample)| {
                (None, target.as_str(), counts, Some(format!("[{}]", sample.join(", "))))
            });
            return counted(rows.collect(), "DRY RUN PIPELINE");
        }
        let mut waiting = db.pipelines.run_now(&db, &object, run.full_refresh)?;
        let ended = (&mut waiting.ended).await;
        let ended = ended.map_err(|_| Error::new(SqlState::AdminShutdown, "the server is shutting down"))?;
        let done = ended.result.map_err(|error| {
            let context = format!("pipeline \"{}\", run {}", object.name, waiting.run);
            error.context(context)
        })?;
        counted(
            done.iter().map(|(target, counts)| (Some(waiting.run), target.as_str(), counts, None)).collect(),
            "RUN PIPELINE",
        )
    }

    /// SHOW RUNS as the SELECT that it is.
    pub(super) fn runs_query(&self, show: &ShowRuns) -> Result<String> {
        let of = match &show.pipeline {
            Some(name) => format!(" WHERE pipeline_id = {}", self.pipeline(name)?.oid),
            None => String::new(),
        };
        Ok(format!(
            "SELECT run, attempt, pipeline, trigger, status, started, ended - started AS duration, rows_in, inserted, updated, \
             unchanged, closed, deleted, watermark_after AS watermark, error FROM tidemark.run_history{of} \
             ORDER BY run DESC, attempt DESC LIMIT {}",
            show.limit.unwrap_or(RUNS)
        ))
    }

    /// What would be run, and how: SQL and plans.
    pub(super) async fn explain_pipeline(&mut self, object: &Object) -> Result<String> {
        let definition = Definition::of(self.catalog()?.as_ref(), object.oid)?;
        let (work, mut internal) = self.pipeline_work(&definition).await?;
        let mut lines = vec![format!("Pipeline {}, {}", object.name, when(&definition))];
        let after =
            definition.pipeline.after.iter().filter_map(|oid| internal.database().moment().catalog.get(*oid).cloned());
        let after: Vec<String> = after.map(|object| object.name.clone()).collect();
        if !after.is_empty() {
            lines.push(format!("  After: {}", after.join(", ")));
        }
        if let Some(column) = &definition.options.incremental_column {
            let from = work.before.as_ref().map_or("the beginning", |mark| mark.value.as_str());
            let to = work.after.as_ref().map_or("nothing new", |mark| mark.value.as_str());
            lines.push(format!("  Watermark: {column} from {from} to {to}"));
        }
        for target in &work.targets {
            lines.push(format!("  Into {}: {}", target.object.name, strategy(target)?));
            for statement in additions(target) {
                lines.push(format!("    {statement}"));
            }
            lines.extend(target.query.lines().map(|line| format!("    {line}")));
            let explained = match target.object.remote() {
                Some(_) => insertion(&internal, target)?,
                None => target.query.clone(),
            };
            let plan = internal.text_rows(&format!("EXPLAIN {explained}")).await?;
            lines.extend(plan.into_iter().flatten().flatten().map(|line| format!("      {line}")));
        }
        internal.script("ROLLBACK").await?;
        Ok(lines.join("\n"))
    }

    /// The work of a run that began now, in a transaction of another session.
    async fn pipeline_work(&mut self, definition: &Definition) -> Result<(Work, Session)> {
        let mut session = Session::internal(&self.database(), "pipelines")?;
        let before = definition.watermark(&mut session, false).await?;
        session.script("BEGIN").await?;
        let work = definition.work(&mut session, before, None).await?;
        Ok((work, session))
    }

    /// Each thing that a run needs, and whether it is there.
    pub(super) async fn validate_pipeline(&mut self, name: &sql::ObjectName) -> Result<Outcome> {
        let object = self.pipeline(name)?;
        let definition = Definition::of(self.catalog()?.as_ref(), object.oid)?;
        let mut checks = vec![Check::passed("schedule", when(&definition))];
        match self.pipeline_work(&definition).await {
            Err(error) => checks.push(Check::failed("query", &error)),
            Ok((work, mut session)) => {
                let mark = work.after.as_ref().or(work.before.as_ref());
                let mark = mark.map(|mark| format!("up to {} {}", mark.column, mark.value)).unwrap_or_default();
                checks.push(Check::passed("query", mark));
                for target in &work.targets {
                    checks.push(check_target(&mut session, target).await);
                    session.script("ROLLBACK; BEGIN").await?;
                }
                session.script("ROLLBACK").await?;
            }
        }
        let text =
            |of: fn(&Check) -> Option<&str>| Arc::new(checks.iter().map(of).collect::<StringArray>()) as ArrayRef;
        let columns = vec![
            text(|check| Some(&check.step)),
            Arc::new(checks.iter().map(|check| Some(check.ok)).collect::<BooleanArray>()),
            text(|check| Some(&check.detail)),
            text(|check| check.hint.as_deref()),
        ];
        Ok(one_batch(RecordBatch::try_new(validation_columns(), columns)?, "VALIDATE PIPELINE"))
    }
}

/// A step of VALIDATE PIPELINE.
struct Check {
    step: String,
    ok: bool,
    detail: String,
    hint: Option<String>,
}

impl Check {
    fn passed(step: impl Into<String>, detail: String) -> Self {
        Self { step: step.into(), ok: true, detail, hint: None }
    }

    fn failed(step: impl Into<String>, error: &Error) -> Self {
        let detail = error.detail().map(|detail| format!("\n{detail}")).unwrap_or_default();
        let detail = format!("{error} ({}){detail}", error.code());
        Self { step: step.into(), ok: false, detail, hint: error.hint().map(str::to_string) }
    }
}

/// Whether the rows fit the target: they are loaded up to the first, which stays nowhere.
async fn check_target(session: &mut Session, target: &TargetWork) -> Check {
    let step = format!("into {}", target.object.name);
    let additions = additions(target);
    if !additions.is_empty() {
        return Check::passed(step, additions.join("\n"));
    }
    if let Some(remote) = target.object.remote() {
        // What would be done there is not: the connection ends before it is committed.
        return match session.try_remote(&target.object, remote).await {
            Ok((client, changes)) if changes.is_empty() => {
                Check::passed(step, format!("{} of connection \"{}\" is as declared", remote.name(), client.name))
            }
            Ok((_, changes)) => Check::passed(step, format!("to be done first: {}", changes.join(", "))),
            Err(error) => Check::failed(step, &error),
        };
    }
    // A load of no rows would take out all that is there, to be put back.
    let replaces = |load: Load| load.strategy == Strategy::Truncate || load.deletes != Deletes::Ignore;
    let loaded = async {
        if load_of(&target.object)?.is_some_and(replaces) {
            return strategy(target);
        }
        let query = stored_query(&format!("SELECT * FROM ({}) AS input LIMIT 0", target.query))?;
        session.load_select(&target.object, &target.columns, &query, None).await?;
        strategy(target)
    };
    match loaded.await {
        Ok(strategy) => Check::passed(step, strategy),
        Err(error) => Check::failed(step, &error),
    }
}

fn strategy(target: &TargetWork) -> Result<String> {
    let Some(load) = load_of(&target.object)? else { return Ok("rows are added".into()) };
    Ok(match load.strategy {
        Strategy::Append { .. } | Strategy::Truncate => load.name().to_string(),
        _ => format!("{} by {}", load.name(), load.keys.join(", ")),
    })
}

/// The load as a statement, which says where its rows go.
fn insertion(session: &Session, target: &TargetWork) -> Result<String> {
    let columns: Vec<String> = target.columns.iter().map(|column| quote_ident(column)).collect();
    let name = session.catalog()?.qualified_name(&target.object);
    Ok(format!("INSERT INTO {name} ({}) {}", columns.join(", "), target.query))
}

/// What on_drift = 'evolve' does first.
fn additions(target: &TargetWork) -> Vec<String> {
    let add = |(name, sql_type): &(String, _)| {
        format!("ALTER TABLE {} ADD COLUMN {} {sql_type};", quote_ident(&target.object.name), quote_ident(name))
    };
    target.additional.iter().map(add).collect()
}

fn when(definition: &Definition) -> String {
    let paused = if definition.pipeline.paused { ", paused" } else { "" };
    let when = match &definition.pipeline.trigger {
        Trigger::Manual if definition.pipeline.after.is_empty() => "manual".to_string(),
        Trigger::Manual => "when those it comes after have succeeded".to_string(),
        Trigger::Schedule { pattern, zone } => {
            format!("schedule {} in {}", quote_literal(pattern), zone.as_deref().unwrap_or("UTC"))
        }
        Trigger::Continuous(_) => "continuous".to_string(),
        Trigger::Every(micros) => format!("every {} seconds", *micros as f64 / 1e6),
    };
    format!("{when}{paused}")
}

/// Rows by what became of them, a row a target.
fn counted(rows: Vec<(Option<i64>, &str, &Counts, Option<String>)>, tag: &'static str) -> Result<Outcome> {
    let number = |of: fn(&Counts) -> u64| {
        Arc::new(rows.iter().map(|(_, _, counts, _)| Some(of(counts) as i64)).collect::<Int64Array>()) as ArrayRef
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(_, target, _, _)| Some(*target)).collect::<StringArray>()),
        number(|counts| counts.rows),
        number(|counts| counts.inserted),
        number(|counts| counts.updated),
        number(Counts::unchanged),
        number(|counts| counts.closed),
        number(|counts| counts.deleted),
    ];
    match tag {
        "RUN PIPELINE" => columns.insert(0, Arc::new(rows.iter().map(|(run, ..)| *run).collect::<Int64Array>())),
        _ => columns.push(Arc::new(rows.iter().map(|(.., sample)| sample.clone()).collect::<StringArray>())),
    }
    Ok(one_batch(RecordBatch::try_new(run_columns(tag != "RUN PIPELINE"), columns)?, tag))
}

fn run_columns(dry: bool) -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let counts = ["rows", "inserted", "updated", "unchanged", "closed", "deleted"].map(number);
    let target = Field::new("target", DataType::Utf8, true);
    let fields: Vec<Field> = match dry {
        false => [number("run"), target].into_iter().chain(counts).collect(),
        true => [target].into_iter().chain(counts).chain([Field::new("sample", DataType::Utf8, true)]).collect(),
    };
    Arc::new(Schema::new(fields))
}

fn validation_columns() -> SchemaRef {
    crate::coordinator::connections::check_columns()
}

/// The columns of what these statements give.
pub(super) fn columns_of(statement: &Statement) -> Option<SchemaRef> {
    match statement {
        Statement::RunPipeline(run) => Some(run_columns(run.dry)),
        Statement::ValidatePipeline(_) => Some(validation_columns()),
        _ => None,
    }
}
