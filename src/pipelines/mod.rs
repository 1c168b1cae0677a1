//! Pipelines: queries whose rows are loaded into tables, when they are due.
//!
//! ```text
//!   catalog: Pipeline ─┐
//!   clock ─────────────┼─ decide ─▶ Run ──▶ a task: run.rs ──▶ load strategies ──▶ tables
//!   how runs ended ────┘  ▲                    │
//!        ▲                └── news ────────────┤
//!        └── tidemark.run_history ◀────────────┘
//! ```
//!
//! One loop looks at all pipelines whenever something has happened or the next is due. No pipeline runs twice at a time.

mod alerts;
pub mod continuous;
mod decide;
pub mod history;
pub mod options;
pub mod run;
pub mod schedule;
pub mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_catalog::{Catalog, Object, ObjectKind, Pipeline};
use tidemark_common::{Error, Oid, Result, SqlState};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use self::alerts::Alert;
use self::decide::{Candidate, Decision, Last, decide};
use self::history::{Cause, Order};
use self::run::Ended;
use self::schedule::Schedule;
use self::work::Definition;
use crate::database::Database;
use crate::session::Session;

/// The loop looks at least so often: a clock may be set.
const LONGEST_PAUSE: i64 = 30_000_000;

/// What runs, and how it went last.
pub struct Pipelines {
    inner: Mutex<Inner>,
    news: Notify,
    /// How many run at once.
    slots: Arc<Semaphore>,
}

#[derive(Default)]
struct Inner {
    states: BTreeMap<Oid, State>,
    last_run: i64,
}

/// Times are microseconds since 1970.
#[derive(Default)]
struct State {
    running: Option<Running>,
    last: Option<Last>,
    error: Option<String>,
    handled: i64,
    began: i64,
    seen: i64,
    failing: Option<Failing>,
    runs: [u64; 2],
}

struct Running {
    run: i64,
    cancel: CancellationToken,
}

/// It has failed, and not succeeded since.
struct Failing {
    since: i64,
    run: i64,
    /// When word was sent last; 0: never.
    alerted: i64,
}

/// A pipeline as system tables show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineFact {
    pub oid: Oid,
    /// `paused`, `running`, `failed`, `idle`
    pub state: &'static str,
    pub run: Option<i64>,
    pub next: Option<i64>,
    pub last_run: Option<i64>,
    pub last_ended: Option<i64>,
    /// `succeeded`, `failed` or `skipped`.
    pub last_status: Option<&'static str>,
    pub error: Option<String>,
    /// Since the server started.
    pub succeeded: u64,
    pub failed: u64,
}

/// A run that someone waits for; if they go, it is cancelled.
pub struct Waiting {
    pub run: i64,
    pub ended: oneshot::Receiver<Ended>,
    cancel: CancellationToken,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pipelines {
    pub fn new(at_once: usize) -> Self {
        Self { inner: Mutex::default(), news: Notify::new(), slots: Arc::new(Semaphore::new(at_once)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed that may make one due.
    pub fn news(&self) {
        self.news.notify_one();
    }

    /// Makes the tables of the history, takes up what was cut off, and begins to look after schedules.
    pub async fn start(db: &Arc<Database>) -> Result<()> {
        let mut session = Session::internal(db, "pipelines")?;
        history::create_tables(&mut session).await?;
        let cut_off = history::cut_off(&mut session, db.now()).await?;
        let remembered = history::last_runs(&mut session).await?;
        let last_run = history::last_run(&mut session).await?;
        db.pipelines.lock().last_run = last_run;
        db.pipelines.remember(remembered);
        for order in cut_off {
            if db.moment().catalog.get(order.pipeline).is_some() {
                let began = db.pipelines.launch(db, order, None);
                began.map_err(|e| e.context("taking up a run that was cut off"))?;
            }
        }
        let db = db.clone();
        tokio::spawn(async move { supervise(&db).await });
        Ok(())
    }

    fn remember(&self, runs: Vec<history::Remembered>) {
        let mut inner = self.lock();
        for last in runs {
            let state = inner.states.entry(last.pipeline).or_default();
            state.last =
                Some(Last { run: last.run, ended: last.ended, succeeded: last.succeeded, skipped: last.skipped });
            state.handled = last.due.unwrap_or(0);
            state.began = last.began;
            state.seen = last.ended;
            if !last.succeeded {
                state.failing = Some(Failing { since: last.ended, run: last.run, alerted: 0 });
                state.error = last.error;
            }
        }
    }

    /// A continuous pipeline has loaded an epoch, or could not.
    pub fn delivered(&self, db: &Arc<Database>, pipeline: Oid, error: Option<&Error>) {
        let now = db.now();
        let mut inner = self.lock();
        let state = inner.states.entry(pipeline).or_default();
        let news = match error {
            None => {
                state.error = None;
                state.failing.take().filter(|failing| failing.alerted > 0).map(|failing| failing.since)
            }
            Some(error) => {
                let first = state.error.replace(error.to_string()).is_none();
                state.failing.get_or_insert(Failing { since: now, run: 0, alerted: 0 });
                drop(inner);
                if first {
                    tracing::error!(pipeline, %error, "the pipeline cannot load");
                    self.news();
                }
                return;
            }
        };
        drop(inner);
        if let (Some(failing_since), Some(object)) = (news, db.moment().catalog.get(pipeline)) {
            send(db, pipeline, Alert { pipeline: object.name.clone(), run: 0, failing_since, error: None });
        }
    }

    /// RUN PIPELINE.
    pub fn run_now(&self, db: &Arc<Database>, pipeline: &Object, full_refresh: bool) -> Result<Waiting> {
        if pipeline.continuous().is_some() {
            let message = format!("pipeline \"{}\" is continuous: it has no runs", pipeline.name);
            return Err(Error::new(SqlState::WrongObjectType, message)
                .with_hint("What comes is loaded at once. To load all anew, DROP PIPELINE and CREATE it again."));
        }
        let run = self.next_run();
        let order = Order { full_refresh, ..Order::new(run, pipeline, Cause::Manual) };
        let (sender, ended) = oneshot::channel();
        let cancel = self.launch(db, order, Some(sender))?;
        Ok(Waiting { run, ended, cancel })
    }

    pub(crate) fn next_run(&self) -> i64 {
        let mut inner = self.lock();
        inner.last_run += 1;
        inner.last_run
    }

    /// Begins a run, unless one is under way. The token cancels it.
    fn launch(
        &self,
        db: &Arc<Database>,
        order: Order,
        tell: Option<oneshot::Sender<Ended>>,
    ) -> Result<CancellationToken> {
        let cancel = CancellationToken::new();
        {
            let mut inner = self.lock();
            let state = inner.states.entry(order.pipeline).or_default();
            if let Some(running) = &state.running {
                let message = format!("pipeline \"{}\" is running", order.name);
                return Err(Error::new(SqlState::ObjectInUse, message)
                    .with_detail(format!("It is run {}.", running.run))
                    .with_hint("Runs of one pipeline do not overlap: wait for it. SHOW RUNS shows how far it is."));
            }
            state.running = Some(Running { run: order.run, cancel: cancel.clone() });
            state.began = db.now();
            if let Some(due) = order.due {
                state.handled = due;
            }
        }
        let (db, slots, token) = (db.clone(), self.slots.clone(), cancel.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            let ended = run::run(&db, &order, &token).await;
            db.pipelines.ended(&db, &order, &ended);
            if let Some(tell) = tell {
                // Whoever asked may have gone.
                let _gone = tell.send(ended);
            }
        });
        Ok(cancel)
    }

    fn ended(&self, db: &Arc<Database>, order: &Order, ended: &Ended) {
        let succeeded = ended.result.is_ok();
        let mut inner = self.lock();
        let state = inner.states.entry(order.pipeline).or_default();
        state.running = None;
        state.began = ended.began;
        state.last = Some(Last { run: order.run, ended: ended.ended, succeeded, skipped: false });
        state.runs[usize::from(!succeeded)] += 1;
        state.error = ended.result.as_ref().err().map(ToString::to_string);
        match (&state.error, state.failing.take()) {
            (None, None) => {}
            (None, Some(failing)) => {
                tracing::info!(pipeline = order.name, run = order.run, "the pipeline works again");
                let alert =
                    Alert { pipeline: order.name.clone(), run: order.run, failing_since: failing.since, error: None };
                if failing.alerted > 0 {
                    send(db, order.pipeline, alert);
                }
            }
            (Some(error), failing) => {
                tracing::error!(pipeline = order.name, run = order.run, error, "the pipeline failed");
                let (since, alerted) = failing.map_or((ended.ended, 0), |failing| (failing.since, failing.alerted));
                state.failing = Some(Failing { since, run: order.run, alerted });
            }
        }
        drop(inner);
        self.news();
    }

    /// Begins what is due; when to look again.
    fn step(&self, db: &Arc<Database>) -> Option<i64> {
        let catalog = db.moment().catalog;
        let now = db.now();
        let candidates = self.candidates(&catalog);
        let (decisions, wake) = decide(now, &candidates);
        for decision in decisions {
            self.act(db, &catalog, decision, now);
        }
        let alert = self.alerts(db, &catalog, now);
        let mut gone = Vec::new();
        self.lock().states.retain(|oid, state| {
            let there = catalog.get(*oid).is_some();
            if let (Some(running), false) = (&state.running, there) {
                running.cancel.cancel();
            }
            if !there && state.running.is_none() {
                gone.push(*oid);
            }
            there || state.running.is_some()
        });
        if !gone.is_empty() {
            let db = db.clone();
            tokio::spawn(async move {
                if let Err(error) = history::dropped(&db, &gone).await {
                    tracing::warn!(%error, "the end of pipelines could not be written down");
                }
            });
        }
        [wake, alert].into_iter().flatten().min()
    }

    fn candidates(&self, catalog: &Catalog) -> BTreeMap<Oid, Candidate> {
        let mut inner = self.lock();
        let mut candidates = BTreeMap::new();
        for (oid, pipeline) in pipelines(catalog) {
            // They were read when it was created.
            let (Ok(schedule), Ok(definition)) = (Schedule::of(pipeline), Definition::of(catalog, oid)) else {
                continue;
            };
            let state = inner.states.entry(oid).or_default();
            candidates.insert(
                oid,
                Candidate {
                    schedule,
                    after: pipeline.after.clone(),
                    catch_up: definition.options.catch_up,
                    freshness: definition.options.freshness,
                    paused: pipeline.paused,
                    running: state.running.is_some(),
                    handled: state.handled.max(pipeline.since),
                    last: state.last,
                    began: state.began.max(pipeline.since),
                    seen: state.seen.max(pipeline.since),
                },
            );
        }
        candidates
    }

    fn act(&self, db: &Arc<Database>, catalog: &Catalog, decision: Decision, now: i64) {
        let order = |pipeline: Oid, due: Option<i64>, parent| {
            let cause = if due.is_some() { Cause::Schedule } else { Cause::Dependency };
            let pipeline = catalog.expect(pipeline)?;
            Ok::<_, Error>(Order { due, parent, ..Order::new(self.next_run(), pipeline, cause) })
        };
        match decision {
            Decision::Run { pipeline, due, parent } => {
                // Nothing else than this loop and a session begins runs; if one was faster, this one is not needed.
                if let Err(error) = order(pipeline, due, parent).and_then(|order| self.launch(db, order, None)) {
                    tracing::info!(%error, "a run is left out");
                }
            }
            Decision::Skip { pipeline, due, of, why, parent } => {
                // Decisions are of pipelines of this catalog.
                let Ok(order) = order(pipeline, due, parent) else { return };
                let of = catalog.get(of).map(|o| o.name.clone()).unwrap_or_default();
                let why = format!("it comes after pipeline \"{of}\": {why}");
                let mut inner = self.lock();
                let state = inner.states.entry(pipeline).or_default();
                state.seen = now;
                state.handled = due.unwrap_or(state.handled);
                state.last = Some(Last { run: order.run, ended: now, succeeded: false, skipped: true });
                state.error = Some(why.clone());
                drop(inner);
                self.news();
                let db = db.clone();
                tokio::spawn(async move {
                    let written = async {
                        let mut session = Session::internal(&db, "pipelines")?;
                        history::skipped(&mut session, &order, now, &why).await
                    };
                    if let Err(error) = written.await {
                        tracing::warn!(pipeline = order.name, %error, "a skipped run could not be written down");
                    }
                });
            }
            Decision::Forget { pipeline, until } => self.lock().states.entry(pipeline).or_default().handled = until,
        }
    }

    /// Sends word of what fails; when the next is to be sent.
    fn alerts(&self, db: &Arc<Database>, catalog: &Catalog, now: i64) -> Option<i64> {
        let mut next: Option<i64> = None;
        let mut inner = self.lock();
        for (oid, state) in &mut inner.states {
            let Some(failing) = &mut state.failing else { continue };
            let Ok(definition) = Definition::of(catalog, *oid) else { continue };
            if definition.options.alert_webhook.is_none() && definition.pipeline.secrets.is_empty() {
                continue;
            }
            if definition.pipeline.paused {
                continue;
            }
            if now - failing.alerted >= definition.options.alert_every {
                failing.alerted = now;
                let error = Some(state.error.clone().unwrap_or_default());
                let name = definition.object.name.clone();
                send(db, *oid, Alert { pipeline: name, run: failing.run, failing_since: failing.since, error });
            }
            let again = failing.alerted + definition.options.alert_every;
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        next
    }

    /// The pipelines of the catalog, and how they fare.
    pub fn facts(&self, catalog: &Catalog) -> Vec<PipelineFact> {
        let inner = self.lock();
        let fact = |(oid, pipeline): (Oid, &Pipeline)| {
            let state = inner.states.get(&oid);
            let running = state.and_then(|state| state.running.as_ref());
            let last = state.and_then(|state| state.last);
            let handled = state.map_or(0, |state| state.handled).max(pipeline.since);
            PipelineFact {
                oid,
                state: match (running, last) {
                    (Some(_), _) => "running",
                    _ if pipeline.continuous().is_some() && !pipeline.paused => {
                        if state.is_some_and(|state| state.error.is_some()) { "failed" } else { "running" }
                    }
                    (None, _) if pipeline.paused => "paused",
                    (None, Some(last)) if !last.succeeded => "failed",
                    _ => "idle",
                },
                run: running.map(|running| running.run),
                next: Schedule::of(pipeline).ok().filter(|_| !pipeline.paused).and_then(|s| s.next(handled)),
                last_run: last.map(|last| last.run),
                last_ended: last.map(|last| last.ended),
                last_status: last.map(Last::status),
                error: state.and_then(|state| state.error.clone()),
                succeeded: state.map_or(0, |state| state.runs[0]),
                failed: state.map_or(0, |state| state.runs[1]),
            }
        };
        pipelines(catalog).map(fact).collect()
    }

    /// Ends the run under way; `false`: there is none.
    pub fn cancel(&self, pipeline: Oid) -> bool {
        let inner = self.lock();
        let running = inner.states.get(&pipeline).and_then(|state| state.running.as_ref());
        running.inspect(|running| running.cancel.cancel()).is_some()
    }
}

fn pipelines(catalog: &Catalog) -> impl Iterator<Item = (Oid, &Pipeline)> {
    catalog.objects().filter_map(|object| match &object.kind {
        ObjectKind::Pipeline(pipeline) => Some((object.oid, pipeline)),
        _ => None,
    })
}

async fn supervise(db: &Arc<Database>) {
    let shutdown = db.shutdown_token();
    loop {
        let wake = db.pipelines.step(db);
        let pause = wake.map_or(LONGEST_PAUSE, |wake| (wake - db.now()).clamp(0, LONGEST_PAUSE));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = db.pipelines.news.notified() => {}
            () = tokio::time::sleep(Duration::from_micros(pause as u64)) => {}
        }
    }
}

/// Sends word, if the pipeline says where to.
fn send(db: &Arc<Database>, pipeline: Oid, alert: Alert) {
    let db = db.clone();
    tokio::spawn(async move {
        let sent = async {
            let catalog = db.moment().catalog;
            let definition = Definition::of(&catalog, pipeline)?;
            match options::webhook(&definition.pipeline, &catalog, db.environment.secret_key.as_ref())? {
                Some(address) => alert.send(&address).await,
                None => Ok(()),
            }
        };
        if let Err(error) = sent.await {
            tracing::error!(pipeline = alert.pipeline, %error, "the alert could not be sent");
        }
    });
}
