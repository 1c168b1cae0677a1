//! CREATE PIPELINE and its ALTER.

use std::collections::BTreeSet;

use tidemark_catalog::{Catalog, Change, Continuous, Object, ObjectKind, PIPELINES, Pipeline, Trigger, columns_of};
use tidemark_common::plan::Dataflow;
use tidemark_common::plan::Emit;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::ast::{CreatePipeline, Parsed, PipelineTrigger, SecretOptions, Statement, WithOptions};
use tidemark_sql::grammar;

use super::indexes::indexes_used;
use super::secrets::altered;
use super::{Target, already_exists, definitions, dependencies, lookups};
use crate::pipelines::continuous::check_target;
use crate::pipelines::options::{OnDrift, PipelineOptions, check_webhook};
use crate::pipelines::schedule::Schedule;
use crate::pipelines::work::Definition;
use crate::session::{Outcome, Session};
use crate::transaction::PlannedStep;

impl Session {
    pub(crate) async fn create_pipeline(&mut self, create: &CreatePipeline) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE PIPELINE".into()));
        let target = Target { schema: PIPELINES, name: self.global_name(&create.name, "pipeline")? };
        let before = self.existing(&target)?;
        if let Some(before) = &before {
            if create.if_not_exists {
                self.tell(format!("pipeline \"{}\" already exists, skipping", before.name));
                return done();
            }
            if !create.or_replace {
                return Err(already_exists(before));
            }
        }
        // Finds the tables of other systems, too, for the planning that follows.
        self.query_columns(&create.query_text).await?;
        let now = self.database().now();
        let targets = self.pipeline_targets(create)?;
        let catalog = self.catalog()?;
        let mut depends_on = self.pipeline_inputs(create)?;
        // A stream has no end that a run could come to.
        let streams =
            depends_on.iter().any(|oid| catalog.get(*oid).is_some_and(|o| matches!(o.kind, ObjectKind::Source(_))));
        let is_continuous = match create.trigger {
            Some(PipelineTrigger::Continuous) => true,
            None => streams && create.after.is_empty(),
            _ => false,
        };
        let continuous = match is_continuous {
            true => Some(self.continuous(create, &targets)?),
            false => None,
        };
        let pipeline = Pipeline {
            targets,
            trigger: match &continuous {
                Some((continuous, _)) => Trigger::Continuous(continuous.clone()),
                None => trigger(create),
            },
            after: self.earlier_pipelines(create)?,
            query: create.query_text.clone(),
            search_path: self.names_for_ddl()?.search_path,
            options: create.options.clone(),
            secrets: self.secret_options(&create.secrets)?,
            on_success: create.on_success.clone(),
            on_failure: create.on_failure.clone(),
            paused: false,
            since: now,
        };
        check(&pipeline, &target.name)?;
        depends_on.extend(pipeline.targets.iter().chain(&pipeline.after));
        depends_on.extend(pipeline.secrets.iter().map(|(_, oid)| *oid));
        let mut object = self.object(target, depends_on, ObjectKind::Pipeline(pipeline))?;
        if let Some(before) = before {
            if before.continuous().is_some() || continuous.is_some() {
                return Err(Error::unsupported(format!(
                    "a continuous pipeline cannot take the place of \"{}\", nor give it up",
                    before.name
                ))
                .with_hint("DROP PIPELINE, then CREATE PIPELINE: what is in the tables stays."));
            }
            self.tell_if_watermark_is_left(&before, &object);
            object = Object { oid: before.oid, comment: before.comment.clone(), ..object };
        }
        refuse_cycle(self.catalog()?.as_ref(), &object)?;
        let mut steps = Vec::new();
        if let Some((_, dataflow)) = continuous {
            object.depends_on.extend(dataflow.inputs());
            object.depends_on.extend(indexes_used(&dataflow, self.catalog()?.as_ref()));
            object.lookups = dataflow.lookups().into_iter().collect();
            object.asked = lookups::asked(&self.names_for_ddl()?.remote, self.catalog()?.as_ref())?;
            steps.push(PlannedStep::Create(object.oid));
        }
        self.change_catalog(vec![Change::Put(Box::new(object.clone()))], steps)?;
        self.check_pipeline(object.oid).await?;
        done()
    }

    /// What can be said of it without a look at any row.
    pub(super) async fn check_pipeline(&mut self, oid: Oid) -> Result<()> {
        Definition::of(self.catalog()?.as_ref(), oid)?.check(self).await
    }

    /// ALTER PIPELINE .. RESET WATERMARK: the next run begins anew.
    pub(super) async fn reset_watermark(&mut self, object: &Object) -> Result<()> {
        if object.continuous().is_some() {
            return Err(Error::new(
                SqlState::WrongObjectType,
                format!("pipeline \"{}\" is continuous: its watermark is the epoch", object.name),
            )
            .with_hint("To load all anew, DROP PIPELINE and CREATE it again."));
        }
        let delete = format!("DELETE FROM tidemark.watermarks WHERE pipeline_id = {}", object.oid);
        self.as_server(&delete).await
    }

    /// The dataflow of a continuous pipeline, if its changes can be loaded.
    fn continuous(&mut self, create: &CreatePipeline, targets: &[Oid]) -> Result<(Continuous, Dataflow)> {
        let names = self.names_for_ddl()?;
        let env = self.database().environment.clone();
        let asked = lookups::asked(&names.remote, &names.catalog)?;
        let path = &names.search_path;
        let dataflow = definitions::dataflow(&create.query, path, Emit::Changes, None, &asked, &names.catalog, &env)?;
        let output = dataflow.output();
        let append_only = output.properties.append_only;
        for target in targets {
            let target = names.catalog.expect(*target)?;
            check_target(target, append_only)?;
            if comes_from(&names.catalog, dataflow.inputs(), target.oid) {
                let message = format!("what the query reads comes from \"{}\", which the pipeline loads", target.name);
                return Err(Error::new(SqlState::InvalidObjectDefinition, message)
                    .with_hint("It would go round for ever: load into another table."));
            }
        }
        let columns = super::views::named_columns(columns_of(&output.schema), &create.query, &[])?;
        let fingerprint = dataflow.fingerprint();
        Ok((Continuous { columns, append_only, fingerprint }, dataflow))
    }

    fn pipeline_targets(&mut self, create: &CreatePipeline) -> Result<Vec<Oid>> {
        let mut targets = Vec::new();
        for name in &create.targets {
            let object = self.table_to_change(name, "load into")?;
            if object.temporary {
                return Err(Error::new(
                    SqlState::InvalidTableDefinition,
                    format!("\"{}\" is temporary: it ends with this session", object.name),
                )
                .with_hint("Load into a table that stays."));
            }
            self.check_may_change(object.schema, &object.name)?;
            if targets.contains(&object.oid) {
                return Err(Error::invalid(format!("table \"{}\" is named twice", object.name)));
            }
            targets.push(object.oid);
        }
        Ok(targets)
    }

    fn earlier_pipelines(&mut self, create: &CreatePipeline) -> Result<Vec<Oid>> {
        let catalog = self.catalog()?;
        let mut after = Vec::new();
        for name in &create.after {
            let name = self.global_name(name, "pipeline")?;
            let oid = catalog.pipeline(&name)?.oid;
            if !after.contains(&oid) {
                after.push(oid);
            }
        }
        Ok(after)
    }

    /// What the query reads: relations kept here, and connections.
    fn pipeline_inputs(&mut self, create: &CreatePipeline) -> Result<BTreeSet<Oid>> {
        let names = self.names_for_ddl()?;
        let plan = names.plan(&create.query)?;
        dependencies(&plan, &names.catalog, &create.query, &names.search_path)
    }

    /// ALTER PIPELINE .. PAUSE | RESUME
    pub(super) fn pause_pipeline(&mut self, object: &Object, paused: bool) -> Result<()> {
        let now = self.database().now();
        if object.continuous().is_some() {
            self.change_catalog(vec![], vec![PlannedStep::Pause(object.oid, paused)])?;
        }
        self.change_pipeline(object, |pipeline| {
            if pipeline.paused && !paused && object.continuous().is_none() {
                pipeline.since = now;
            }
            pipeline.paused = paused;
        })
    }

    /// ALTER PIPELINE .. SET (..) | RESET (..)
    pub(super) fn set_pipeline_options(
        &mut self,
        object: &Object,
        options: &WithOptions,
        secrets: &SecretOptions,
        reset: &[String],
    ) -> Result<()> {
        let ObjectKind::Pipeline(before) = &object.kind else {
            return Err(Error::internal(format!("\"{}\" is no pipeline", object.name)));
        };
        let (given, set) = ((before.options.clone(), before.secrets.clone()), (options, self.secret_options(secrets)?));
        let what = format!("pipeline \"{}\"", object.name);
        let (options, secrets) = altered(given, set, reset, &what)?;
        self.change_pipeline(object, |pipeline| (pipeline.options, pipeline.secrets) = (options, secrets))?;
        let after = self.catalog()?.expect(object.oid)?.clone();
        self.tell_if_watermark_is_left(object, &after);
        Ok(())
    }

    fn tell_if_watermark_is_left(&mut self, before: &Object, after: &Object) {
        let left = incremental_column(before);
        if let Some(column) = left.filter(|_| left != incremental_column(after)) {
            let name = &before.name;
            self.tell(format!(
                "the watermark of \"{name}\" was one of column \"{column}\": the next run reads all rows"
            ));
        }
    }

    fn change_pipeline(&mut self, object: &Object, change: impl FnOnce(&mut Pipeline)) -> Result<()> {
        let mut object = object.clone();
        let ObjectKind::Pipeline(pipeline) = &mut object.kind else {
            return Err(Error::internal(format!("\"{}\" is no pipeline", object.name)));
        };
        let secrets_before: Vec<Oid> = pipeline.secrets.iter().map(|(_, oid)| *oid).collect();
        change(pipeline);
        check(pipeline, &object.name)?;
        let secrets: Vec<Oid> = pipeline.secrets.iter().map(|(_, oid)| *oid).collect();
        object.depends_on.retain(|oid| !secrets_before.contains(oid));
        object.depends_on.extend(secrets);
        self.change_catalog(vec![Change::Put(Box::new(object))], vec![])
    }
}

fn incremental_column(pipeline: &Object) -> Option<&str> {
    let ObjectKind::Pipeline(pipeline) = &pipeline.kind else { return None };
    pipeline.options.iter().find(|(key, _)| key == "incremental_column").map(|(_, column)| column.as_str())
}

/// When it runs, if it is not continuous.
fn trigger(create: &CreatePipeline) -> Trigger {
    match &create.trigger {
        None | Some(PipelineTrigger::Manual | PipelineTrigger::Continuous) => Trigger::Manual,
        Some(PipelineTrigger::Schedule { pattern, zone }) => {
            Trigger::Schedule { pattern: pattern.clone(), zone: zone.clone() }
        }
        Some(PipelineTrigger::Every(micros)) => Trigger::Every(*micros),
    }
}

/// Whether relations get their rows, by views and continuous pipelines, from one of the tables.
fn comes_from(catalog: &Catalog, relations: BTreeSet<Oid>, table: Oid) -> bool {
    let mut wave: Vec<Oid> = relations.into_iter().collect();
    let mut met = BTreeSet::new();
    while let Some(oid) = wave.pop() {
        if oid == table {
            return true;
        }
        if !met.insert(oid) {
            continue;
        }
        wave.extend(catalog.get(oid).iter().flat_map(|object| object.depends_on.iter().copied()));
        for object in catalog.objects() {
            if let ObjectKind::Pipeline(pipeline) = &object.kind
                && pipeline.continuous().is_some()
                && pipeline.targets.contains(&oid)
            {
                wave.extend(object.depends_on.iter().filter(|input| !pipeline.targets.contains(input)));
            }
        }
    }
    false
}

/// A step is stored and shown as it was written.
fn check_step(step: &str) -> Result<()> {
    let statements = grammar::parse_script(step)?;
    if statements.is_empty() {
        return Err(Error::syntax("a step of a pipeline has no statement").with_hint("Leave the clause out."));
    }
    let is_secret =
        |parsed: &Parsed| matches!(parsed.statement, Statement::CreateSecret(_) | Statement::AlterSecret(_));
    match statements.iter().any(is_secret) {
        false => Ok(()),
        true => Err(Error::invalid("a step of a pipeline cannot hold the value of a secret")
            .with_hint("CREATE SECRET once, by itself; a secret FROM ENV or FROM FILE takes a new value from there.")),
    }
}

fn check(pipeline: &Pipeline, name: &str) -> Result<()> {
    let schedule = Schedule::of(pipeline)?;
    if let Trigger::Schedule { pattern, .. } = &pipeline.trigger
        && schedule.next(pipeline.since).is_none()
    {
        return Err(Error::invalid(format!("schedule \"{pattern}\" never comes"))
            .with_hint("No day has this date, or it has passed: '0 2 28 2 *' is every 28 February at 02:00."));
    }
    let options = PipelineOptions::of(pipeline)?;
    if pipeline.continuous().is_some() {
        const OF_RUNS: [&str; 11] = [
            "incremental_column",
            "filter",
            "dedupe",
            "limit",
            "sample",
            "retries",
            "retry_backoff",
            "retry_timeout",
            "timeout",
            "catch_up",
            "freshness",
        ];
        if let Some((option, _)) = pipeline.options.iter().find(|(key, _)| OF_RUNS.contains(&key.as_str())) {
            return Err(Error::invalid(format!(
                "option \"{option}\" is about runs, which a continuous pipeline has not"
            ))
            .with_hint("Say in the query which rows are to be loaded."));
        }
        if !(pipeline.after.is_empty() && pipeline.on_success.is_empty() && pipeline.on_failure.is_empty()) {
            return Err(Error::invalid(format!(
                "AFTER and ON are about runs, which \"{name}\" has not: it is continuous"
            )));
        }
        if options.on_drift == OnDrift::Evolve {
            return Err(Error::invalid("on_drift of a continuous pipeline must be error or ignore"));
        }
    }
    if let Some(address) = &options.alert_webhook {
        check_webhook(address)?;
    }
    pipeline.on_success.iter().chain(&pipeline.on_failure).try_for_each(|step| check_step(step))?;
    if options.freshness.is_some() && pipeline.after.is_empty() {
        return Err(Error::invalid(format!(
            "option \"freshness\" of \"{name}\" is about pipelines it comes AFTER, and there is none"
        )));
    }
    if options.freshness.is_some() && pipeline.trigger == Trigger::Manual {
        return Err(Error::invalid("option \"freshness\" needs a SCHEDULE or EVERY")
            .with_hint("Without one, the pipeline runs as soon as those it comes after have succeeded."));
    }
    Ok(())
}

/// A pipeline that comes after itself would never run.
fn refuse_cycle(catalog: &Catalog, object: &Object) -> Result<()> {
    let after = |oid: Oid| match catalog.get(oid).map(|o| &o.kind) {
        _ if oid == object.oid => after_of(object),
        Some(ObjectKind::Pipeline(pipeline)) => pipeline.after.as_slice(),
        _ => &[],
    };
    // Paths from the new one back to itself, depth first.
    let mut paths: Vec<Vec<Oid>> = vec![vec![object.oid]];
    let mut met = BTreeSet::new();
    while let Some(path) = paths.pop() {
        let end = path.last().copied().unwrap_or(object.oid);
        for next in after(end) {
            if *next == object.oid {
                let name = |oid: &Oid| match *oid == object.oid {
                    true => object.name.clone(),
                    false => catalog.get(*oid).map(|o| o.name.clone()).unwrap_or_default(),
                };
                let cycle: Vec<String> = path.iter().chain([next]).map(name).collect();
                return Err(Error::new(
                    SqlState::InvalidObjectDefinition,
                    format!("pipeline \"{}\" would come after itself", object.name),
                )
                .with_detail(format!("{}.", cycle.join(" comes after ")))
                .with_hint("Take one AFTER of these out."));
            }
            if met.insert(*next) {
                paths.push(path.iter().chain([next]).copied().collect());
            }
        }
    }
    Ok(())
}

fn after_of(object: &Object) -> &[Oid] {
    match &object.kind {
        ObjectKind::Pipeline(pipeline) => &pipeline.after,
        _ => &[],
    }
}
