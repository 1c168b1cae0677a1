//! One run of a pipeline: its attempts, and what follows.
//!
//! ```text
//!   attempt 1 ──fails──▶ backoff ──▶ attempt 2 ──▶ .. ──▶ ON SUCCESS | ON FAILURE
//!      │
//!      ├─ work: the query, narrowed                    what to load is found out, in one transaction
//!      ├─ targets kept elsewhere, one after the other  each committed there with the run's id, done once however often it is tried
//!      └─ targets kept here · watermark · history      one transaction
//! ```

use std::sync::Arc;
use std::time::Duration;

use tidemark_catalog::{Object, ObjectKind};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{Counts, LoadRun, Strategy};
use tokio_util::sync::CancellationToken;

use super::history::{self, Order};
use super::options::PipelineOptions;
use super::work::{Definition, TargetWork};
use crate::coordinator::definitions::stored_query;
use crate::coordinator::loads::load_of;
use crate::database::Database;
use crate::session::Session;

/// The longest wait between attempts, in microseconds.
const MAX_BACKOFF: i64 = 3600 * 1_000_000;

/// How a run ended. Times are microseconds since 1970.
#[derive(Debug, Clone)]
pub struct Ended {
    pub began: i64,
    pub ended: i64,
    /// What each target got, by its name.
    pub result: Result<Vec<(String, Counts)>>,
}

/// Does a run, with as many attempts as it takes and may take.
pub async fn run(db: &Arc<Database>, order: &Order, cancel: &CancellationToken) -> Ended {
    let began = db.now();
    let mut attempt = order.attempt;
    let result = loop {
        let result = match Definition::of(&db.moment().catalog, order.pipeline) {
            Ok(definition) => one_attempt(db, &definition, order, attempt, cancel).await,
            Err(error) => break Err(error),
        };
        let Err(error) = result else { break result };
        let options = match Definition::of(&db.moment().catalog, order.pipeline) {
            Ok(definition) => definition.options,
            Err(_) => break Err(error),
        };
        let tried = (attempt - order.attempt) as u32;
        let pause = backoff(&options, order.run, tried);
        let too_late = db.now() + pause - began > options.retry_timeout;
        if cancel.is_cancelled() || tried >= options.retries || too_late {
            break Err(error);
        }
        tracing::warn!(pipeline = order.name, run = order.run, attempt, %error, "the attempt failed, the next one follows");
        tokio::select! {
            () = cancel.cancelled() => break Err(error),
            () = tokio::time::sleep(Duration::from_micros(pause as u64)) => attempt += 1,
        }
    };
    follow_up(db, order, attempt, result.as_ref().err()).await;
    Ended { began, ended: db.now(), result }
}

/// Twice as long each time, and by a share that differs from run to run, so that pipelines that failed together do not come back
/// together: between half and all of it.
fn backoff(options: &PipelineOptions, run: i64, tried: u32) -> i64 {
    let full = options.retry_backoff.saturating_mul(1 << tried.min(30)).min(MAX_BACKOFF);
    // SplitMix64 (Steele, Lea, Flood 2014), of what tells the attempts apart.
    let mut bits = (run as u64).wrapping_mul(1000).wrapping_add(u64::from(tried)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    full / 2 + ((bits >> 32) as i64 * (full / 2)) / (1 << 32)
}

async fn one_attempt(
    db: &Arc<Database>,
    definition: &Definition,
    order: &Order,
    attempt: i32,
    cancel: &CancellationToken,
) -> Result<Vec<(String, Counts)>> {
    let mut session = session(db, order)?;
    history::begin(&mut session, order, attempt, db.now()).await?;
    let timeout = definition.options.timeout.map_or(Duration::MAX, |timeout| Duration::from_micros(timeout as u64));
    let result = tokio::select! {
        biased;
        result = loaded(&mut session, definition, order, attempt) => result,
        () = cancel.cancelled() => Err(Error::new(SqlState::QueryCanceled, "the run was cancelled")),
        () = tokio::time::sleep(timeout) => {
            Err(Error::new(SqlState::QueryCanceled, "the attempt took longer than the pipeline's timeout"))
        }
    };
    let Err(error) = result else { return result };
    // What was under way in the session went with it; what it had committed stands.
    drop(session);
    let mut session = self::session(db, order)?;
    let status = if cancel.is_cancelled() { "canceled" } else { "failed" };
    match history::failed(&mut session, order, attempt, db.now(), status, &error).await? {
        true => Err(error),
        false => Ok(Vec::new()),
    }
}

fn session(db: &Arc<Database>, order: &Order) -> Result<Session> {
    Session::internal(db, &format!("pipeline {}", order.name))
}

/// Reads and loads in one transaction block; again, where other sessions wrote what it had read.
async fn loaded(
    session: &mut Session,
    definition: &Definition,
    order: &Order,
    attempt: i32,
) -> Result<Vec<(String, Counts)>> {
    let mut tries = 0;
    loop {
        session.script("BEGIN").await?;
        let done = load_once(session, definition, order, attempt).await;
        if let Some(counts) = session.block_done(done, &mut tries).await? {
            return Ok(counts);
        }
    }
}

/// In the transaction block of the session.
async fn load_once(
    session: &mut Session,
    definition: &Definition,
    order: &Order,
    attempt: i32,
) -> Result<Vec<(String, Counts)>> {
    let before = definition.watermark(session, order.full_refresh).await?;
    let until = if attempt > 1 { recorded_bound(session, definition, order).await? } else { None };
    let mut work = definition.work(session, before.clone(), until.clone()).await?;
    if work.targets.iter().any(|target| !target.additional.is_empty()) {
        session.script("ROLLBACK").await?;
        for target in &work.targets {
            add_columns(session, target).await?;
        }
        session.script("BEGIN").await?;
        work = definition.work(session, before, until).await?;
    }
    let elsewhere = |target: &&TargetWork| target.object.remote().is_some();
    let mut counts = Vec::new();
    if work.targets.iter().any(|target| elsewhere(&target)) {
        session.script("ROLLBACK").await?;
        for target in work.targets.iter().filter(elsewhere) {
            let bound = work.after.as_ref().map(|after| after.value.clone());
            let run = run_there(session, order, &target.object, bound);
            let done = match work.nothing_new {
                true => Counts::default(),
                false => {
                    session.in_own_transaction(async |session| load(session, target, order, Some(run)).await).await?
                }
            };
            counts.push((target.object.name.clone(), done));
        }
        session.script("BEGIN").await?;
    }
    for target in work.targets.iter().filter(|target| !elsewhere(target)) {
        let done = if work.nothing_new { Counts::default() } else { load(session, target, order, None).await? };
        counts.push((target.object.name.clone(), done));
    }
    let now = session.database().now();
    let total = counts.iter().fold(Counts::default(), |sum, (_, counts)| sum.plus(counts));
    history::succeeded(session, order, attempt, now, &total, work.before.as_ref(), work.after.as_ref()).await?;
    Ok(counts)
}

/// A run as the other system remembers it, and with it how far it has come.
fn run_there(session: &Session, order: &Order, target: &Object, bound: Option<String>) -> LoadRun {
    let target = session.database().moment().catalog.qualified_name(target);
    LoadRun { id: order.load_id.clone(), target, payload: bound, dry: false, anew: false }
}

/// How far an attempt of this run has come that was committed elsewhere and cut off here: this one must come as far, and no
/// further, since what is loaded there is not loaded again.
async fn recorded_bound(session: &mut Session, definition: &Definition, order: &Order) -> Result<Option<String>> {
    let catalog = session.catalog()?;
    for oid in &definition.pipeline.targets {
        let target = catalog.expect(*oid)?;
        let run = run_there(session, order, target, None);
        if let Some((_, Some(bound))) = session.loaded_by(target, &run).await? {
            return Ok(Some(bound));
        }
    }
    Ok(None)
}

async fn load(session: &mut Session, target: &TargetWork, order: &Order, run: Option<LoadRun>) -> Result<Counts> {
    let adds = load_of(&target.object)?.is_none_or(|load| matches!(load.strategy, Strategy::Append { .. }));
    let anew = order.full_refresh && adds;
    let run = run.map(|run| LoadRun { anew, ..run });
    if anew && run.is_none() {
        session.delete_all(&target.object).await?;
    }
    let query = stored_query(&target.query)?;
    session.load_select(&target.object, &target.columns, &query, run).await
}

/// on_drift = 'evolve': what the query has more than the target.
async fn add_columns(session: &mut Session, target: &TargetWork) -> Result<()> {
    if target.additional.is_empty() {
        return Ok(());
    }
    let ObjectKind::Table(_) = &target.object.kind else { return Ok(()) };
    let catalog = session.database().moment().catalog;
    let table = catalog.qualified_name(&target.object);
    for (name, sql_type) in &target.additional {
        let column = tidemark_catalog::quote_ident(name);
        let statement = format!("ALTER TABLE {table} ADD COLUMN {column} {sql_type}");
        session.script(&statement).await?;
        let change = format!("column {column} {sql_type} added");
        history::schema_changed(session, &catalog, &target.object, None, &change, &statement).await?;
    }
    Ok(())
}

/// Does all of it, and takes it back: what each target would get, and some of the rows.
pub async fn dry(
    db: &Arc<Database>,
    definition: &Definition,
    full_refresh: bool,
) -> Result<Vec<(String, Counts, Vec<String>)>> {
    let order = Order { full_refresh, ..Order::new(0, &definition.object, history::Cause::Manual) };
    let mut session = session(db, &order)?;
    let before = definition.watermark(&mut session, full_refresh).await?;
    session.script("BEGIN").await?;
    let mut work = definition.work(&mut session, before.clone(), None).await?;
    if work.targets.iter().any(|target| !target.additional.is_empty()) {
        for target in &work.targets {
            add_columns(&mut session, target).await?;
        }
        work = definition.work(&mut session, before, None).await?;
    }
    let mut done = Vec::new();
    for target in &work.targets {
        let (mut counts, mut rows) = (Counts::default(), Vec::new());
        if !work.nothing_new {
            rows = sample(&mut session, target).await?;
            counts = match target.object.remote().is_some() {
                false => load(&mut session, target, &order, None).await?,
                true => {
                    let run =
                        LoadRun { id: String::new(), target: String::new(), payload: None, dry: true, anew: false };
                    let mut there = self::session(db, &order)?;
                    there.set_search_path(&definition.pipeline.search_path)?;
                    there.in_own_transaction(async |session| load(session, target, &order, Some(run)).await).await?
                }
            };
        }
        done.push((target.object.name.clone(), counts, rows));
    }
    session.script("ROLLBACK").await?;
    Ok(done)
}

/// Some rows of the load, as JSON.
async fn sample(session: &mut Session, target: &TargetWork) -> Result<Vec<String>> {
    let pairs = target.columns.iter().map(|name| {
        format!("{}, input.{}", tidemark_catalog::quote_literal(name), tidemark_catalog::quote_ident(name))
    });
    let pairs: Vec<String> = pairs.collect();
    let query =
        format!("SELECT json_build_object({})::text FROM ({}) AS input LIMIT 5", pairs.join(", "), target.query);
    Ok(session.text_rows(&query).await?.into_iter().filter_map(|mut row| row.remove(0)).collect())
}

/// ON SUCCESS and ON FAILURE: by a session without rights of its own, each statement a transaction.
async fn follow_up(db: &Arc<Database>, order: &Order, attempt: i32, error: Option<&Error>) {
    let Ok(definition) = Definition::of(&db.moment().catalog, order.pipeline) else { return };
    let steps = if error.is_none() { &definition.pipeline.on_success } else { &definition.pipeline.on_failure };
    let mut problem = None;
    for step in steps {
        if let Err(error) = one_step(db, &definition, order, error, step).await {
            tracing::warn!(pipeline = order.name, run = order.run, %error, "a step after the run failed");
            problem.get_or_insert(error);
        }
    }
    let remembered = async {
        let mut session = session(db, order)?;
        if let Some(problem) = &problem {
            history::step_failed(&mut session, order, attempt, &problem.to_string()).await?;
        }
        history::expire(&mut session, order.pipeline, db.now() - definition.options.history).await
    };
    if let Err(error) = remembered.await {
        tracing::warn!(pipeline = order.name, %error, "the history of runs could not be written");
    }
}

async fn one_step(
    db: &Arc<Database>,
    definition: &Definition,
    order: &Order,
    error: Option<&Error>,
    step: &str,
) -> Result<()> {
    let mut session = Session::of_server(db, &format!("pipeline {}", order.name))?;
    session.set_search_path(&definition.pipeline.search_path)?;
    let info = session.info().clone();
    let status = if error.is_none() { "succeeded" } else { "failed" };
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    for (name, value) in
        [("run", order.run.to_string()), ("pipeline", order.name.clone()), ("status", status.into()), ("error", error)]
    {
        info.set(&format!("tidemark.{name}"), Some(&value), false)?;
    }
    session.script(step).await
}
