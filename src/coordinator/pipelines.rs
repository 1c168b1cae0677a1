//! CREATE PIPELINE and its ALTER.

use std::collections::BTreeSet;

use tidemark_catalog::{Catalog, Change, Object, ObjectKind, PIPELINES, Pipeline, Trigger};
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::ast::{CreatePipeline, PipelineTrigger, SecretOptions, WithOptions};

use super::{Target, already_exists, dependencies};
use crate::pipelines::options::{PipelineOptions, check_webhook};
use crate::pipelines::schedule::Schedule;
use crate::pipelines::work::Definition;
use crate::session::{Outcome, Session};

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
        let pipeline = Pipeline {
            targets: self.pipeline_targets(create)?,
            trigger: trigger(create)?,
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
        let mut depends_on = self.pipeline_inputs(create)?;
        depends_on.extend(pipeline.targets.iter().chain(&pipeline.after));
        depends_on.extend(pipeline.secrets.iter().map(|(_, oid)| *oid));
        let mut object = self.object(target, depends_on, ObjectKind::Pipeline(pipeline))?;
        if let Some(before) = before {
            object = Object { oid: before.oid, comment: before.comment.clone(), ..object };
        }
        refuse_cycle(self.catalog()?.as_ref(), &object)?;
        self.change_catalog(vec![Change::Put(Box::new(object.clone()))], vec![])?;
        self.check_pipeline(object.oid).await?;
        done()
    }

    /// What can be said of it without a look at any row.
    pub(super) async fn check_pipeline(&mut self, oid: Oid) -> Result<()> {
        Definition::of(self.catalog()?.as_ref(), oid)?.check(self).await
    }

    /// ALTER PIPELINE .. RESET WATERMARK: the next run begins anew.
    pub(super) async fn reset_watermark(&mut self, object: &Object) -> Result<()> {
        let delete = format!("DELETE FROM tidemark.watermarks WHERE pipeline_id = {}", object.oid);
        self.as_server(&delete).await
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
        self.change_pipeline(object, |pipeline| {
            if pipeline.paused && !paused {
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
        let given = self.secret_options(secrets)?;
        let goes = |key: &String| {
            reset.contains(key) || options.iter().any(|(k, _)| k == key) || given.iter().any(|(k, _)| k == key)
        };
        self.change_pipeline(object, |pipeline| {
            pipeline.options.retain(|(key, _)| !goes(key));
            pipeline.secrets.retain(|(key, _)| !goes(key));
            pipeline.options.extend(options.iter().cloned());
            pipeline.secrets.extend(given.iter().cloned());
        })
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

fn trigger(create: &CreatePipeline) -> Result<Trigger> {
    match &create.trigger {
        None | Some(PipelineTrigger::Manual) => Ok(Trigger::Manual),
        Some(PipelineTrigger::Schedule { pattern, zone }) => {
            Ok(Trigger::Schedule { pattern: pattern.clone(), zone: zone.clone() })
        }
        Some(PipelineTrigger::Every(micros)) => Ok(Trigger::Every(*micros)),
        Some(PipelineTrigger::Continuous) => Err(Error::unsupported("CONTINUOUS pipelines are not supported")
            .with_hint("CREATE MATERIALIZED VIEW keeps a query up to date; EVERY INTERVAL '1 second' loads what is new each second.")),
    }
}

fn check(pipeline: &Pipeline, name: &str) -> Result<()> {
    Schedule::of(pipeline)?;
    let secrets: Vec<String> = pipeline.secrets.iter().map(|(key, _)| key.clone()).collect();
    let options = PipelineOptions::parse(&pipeline.options, &secrets)?;
    if let Some(address) = &options.alert_webhook {
        check_webhook(address)?;
    }
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
