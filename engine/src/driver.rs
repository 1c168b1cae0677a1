//! The driver: the one thread that ticks.
//!
//! ```text
//!        ┌───────────────────────────── wait ◀────────────────────────────┐
//!        │  a transaction: at once    a bell (rows, ended reader)   time   │
//!        ▼                                                                 │
//!   is a tick due? ── no ──────────────────────────────────────────────────┤
//!        │ yes                                                             │
//!        ▼                                                                 │
//!   tick: gather ─▶ run ─▶ commit ─▶ publish ─▶ answer ────────────────────┘
//! ```
//!
//! While none is due, rows that rest are [folded](crate::fold).
//!
//! Rows from sources alone wait for `epoch_interval`, or until there are enough of them for a full epoch. When a commit fails
//! the clock stops for good: what was answered is on disk, nothing further is promised, and every later command gets the reason.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidemark_catalog::Catalog;
use tidemark_common::{Clock, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{EpochCommit, Key, Snapshot, Store};
use tokio::sync::{mpsc, oneshot};

use crate::backfill::{Progress, Replaying};
use crate::engine::{Command, Definition, EngineConfig, Moment, Shared, Transaction};
use crate::fold::FoldTurn;
use crate::job::{Job, Output};
use crate::operators::lookup_join::Outside;
use crate::operators::{Chunks, Held, HeldCollections, Seen};
use crate::source_input::{QueueLimits, SourceInput, Waker};
use crate::status::{EpochStatus, SourceStatus};
use crate::subscription::{Subscriber, Subscription};
use crate::table::Table;

/// A transaction and who waits for it.
pub(crate) type Pending = (Transaction, oneshot::Sender<Result<Epoch>>);

/// The counter under which the time of the last epoch is stored.
pub(crate) const TIME: &str = "time";
/// Transactions that one epoch may take.
const MAX_TRANSACTIONS: usize = 512;

pub(crate) struct Driver {
    // What it works with.
    pub store: Arc<Store>,
    pub config: EngineConfig,
    pub clock: Arc<dyn Clock>,
    pub runtime: tokio::runtime::Handle,
    pub shared: Arc<Shared>,
    pub commands: mpsc::WeakSender<Command>,
    pub waker: Waker,

    // What runs.
    pub tables: BTreeMap<Oid, Table>,
    pub sources: BTreeMap<Oid, SourceInput>,
    pub jobs: BTreeMap<Oid, Job>,
    /// Jobs in the order in which they run.
    pub order: Vec<Oid>,
    pub subscribers: HashMap<Oid, Vec<Subscriber>>,

    // Where it is.
    pub epoch: Epoch,
    pub snapshot: Arc<Snapshot>,
    pub catalog: Arc<Catalog>,
    pub pending: VecDeque<Pending>,
    /// Who waits for the epoch being made. Here, so that who waited for one that fails is told why.
    pub admitted: Vec<oneshot::Sender<Result<Epoch>>>,
    /// Tables and views as of the last commit, all of them seen.
    pub held: HeldCollections,
    /// There is something else than at the last commit.
    pub rewired: bool,
    /// Of views that another one has replaced in this epoch, what that changes.
    pub replaced: HashMap<Oid, Chunks>,
    pub delivered: BTreeMap<Oid, Epoch>,
    /// Who waits for which views to be built.
    pub waiting: Vec<(Vec<Oid>, oneshot::Sender<Result<()>>)>,
    pub folding: FoldTurn,
    pub last_tick: i64,
    /// Of the epoch: what now() is in views. It never goes back, not by a restart either.
    pub time: i64,

    // What it tells.
    pub epochs: Arc<VecDeque<EpochStatus>>,
    pub transactions: u64,
    pub conflicts: u64,
}

impl Driver {
    pub fn open(
        store: Arc<Store>,
        definitions: Vec<Definition>,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        runtime: tokio::runtime::Handle,
        shared: Arc<Shared>,
        commands: mpsc::WeakSender<Command>,
    ) -> Result<Self> {
        let snapshot = store.snapshot();
        let catalog = shared.moment.read().unwrap_or_else(PoisonError::into_inner).catalog.clone();
        let bell = shared.bell.clone();
        let time: i64 = snapshot.get_value(&Key::Counter(TIME))?.unwrap_or_default();
        let mut driver = Self {
            epoch: snapshot.epoch(),
            snapshot,
            catalog,
            store,
            config,
            folding: FoldTurn::default(),
            last_tick: clock.now_micros(),
            time,
            clock,
            runtime,
            shared,
            commands,
            waker: Arc::new(move || bell.notify_one()),
            tables: BTreeMap::new(),
            sources: BTreeMap::new(),
            jobs: BTreeMap::new(),
            order: Vec::new(),
            subscribers: HashMap::new(),
            pending: VecDeque::new(),
            admitted: Vec::new(),
            held: HeldCollections::new(),
            rewired: false,
            replaced: HashMap::new(),
            delivered: BTreeMap::new(),
            waiting: Vec::new(),
            epochs: Arc::default(),
            transactions: 0,
            conflicts: 0,
        };
        let mut commit = driver.store.begin();
        let known: HashSet<Oid> = definitions.iter().flat_map(Definition::oids).collect();
        for stray in driver.store.strays(|oid| known.contains(&oid))? {
            commit.delete_data_of(stray);
        }
        // Sources first: a job asks whether its input is one.
        let (mut sources, rest): (Vec<_>, Vec<_>) =
            definitions.into_iter().partition(|d| matches!(d, Definition::Source(_)));
        sources.extend(rest);
        for definition in sources {
            driver.create(definition, &mut commit)?;
        }
        driver.rewire();
        driver.hold();
        if !commit.is_empty() {
            driver.epoch += 1;
            driver.snapshot = driver.store.commit(commit, driver.epoch, driver.config.sync)?;
        }
        driver.publish();
        Ok(driver)
    }

    /// Opens what a definition describes.
    pub fn create(&mut self, definition: Definition, commit: &mut EpochCommit) -> Result<()> {
        match definition {
            Definition::Table(def) => {
                let table = Table::open(def, &self.snapshot, self.config.state_cache_bytes / 16)?;
                self.tables.insert(table.def.oid, table);
            }
            Definition::Source(def) => {
                if let Some(rows) = def.rows.clone() {
                    let table = Table::open(rows, &self.snapshot, self.config.state_cache_bytes / 16)?;
                    self.tables.insert(def.oid, table);
                }
                let mut source = SourceInput::open(def, &self.snapshot)?;
                source.forget_tables(commit);
                self.sources.insert(source.def.oid, source);
            }
            job => {
                let is_source = |oid| self.sources.contains_key(&oid) && !self.tables.contains_key(&oid);
                let cache = self.config.state_cache_bytes / 4;
                let job = Job::open(
                    job,
                    &self.snapshot,
                    self.config.workers,
                    cache,
                    &is_source,
                    (self.clock.now_micros(), self.config.epoch_interval),
                    commit,
                )?;
                self.jobs.insert(job.oid, job);
            }
        }
        Ok(())
    }

    /// After a commit that changed what there is: what joins look rows up in. In an epoch that changes it, they still find the
    /// rows where the last one left them.
    pub fn hold(&mut self) {
        let seen = Seen::All;
        let tables = self.tables.iter().map(|(oid, table)| {
            let def = &table.def;
            let held = Held { collection: def.collection.clone(), indexes: def.indexes.clone(), seen: seen.clone() };
            (*oid, held)
        });
        let views = self.jobs.iter().filter_map(|(oid, job)| {
            let Output::View(writer) = &job.output else { return None };
            let (collection, indexes) = (writer.collection().clone(), writer.indexes().to_vec());
            Some((*oid, Held { collection, indexes, seen: seen.clone() }))
        });
        self.held = tables.chain(views).collect();
    }

    /// After anything was created or dropped: the order of jobs, what each source reads, who replays, who delivers.
    pub fn rewire(&mut self) {
        self.rewired = true;
        self.order = self.topological_order();
        let mut columns: HashMap<Oid, Vec<usize>> = HashMap::new();
        for job in self.jobs.values_mut() {
            for input in job.inputs().collect::<Vec<_>>() {
                if let Some(source) = self.sources.get(&input) {
                    columns.entry(input).or_default().extend(job.columns_of(input));
                    let wanted = job.columns_of(input);
                    let replays = matches!(job.progress_mut(input), Some(Progress::Replaying { .. }));
                    if replays && !job.replays.contains_key(&input) {
                        job.replays.insert(input, Replaying::new(source, &wanted));
                    }
                }
            }
            job.start_delivery(&self.store, &self.commands, &self.runtime, &self.clock);
        }
        let limits = self.limits();
        for (oid, source) in &mut self.sources {
            if !source.paused {
                let wanted = columns.remove(oid).unwrap_or_default();
                source.read_columns(wanted, &self.runtime, limits, self.waker.clone());
            }
        }
        self.unfreeze();
    }

    /// A source stands still only for as long as somebody is about to join it.
    pub fn unfreeze(&mut self) {
        for (oid, source) in &mut self.sources {
            source.frozen &= self.jobs.values().any(|job| job.is_replaying(*oid));
        }
    }

    pub fn limits(&self) -> QueueLimits {
        QueueLimits { rows: self.config.source_queue_rows, bytes: self.config.source_queue_bytes }
    }

    /// Inputs before their users; otherwise by age.
    fn topological_order(&self) -> Vec<Oid> {
        fn visit(oid: Oid, jobs: &BTreeMap<Oid, Job>, order: &mut Vec<Oid>) {
            if order.contains(&oid) {
                return;
            }
            if let Some(job) = jobs.get(&oid) {
                for input in job.inputs() {
                    visit(input, jobs, order);
                }
                order.push(oid);
            }
        }
        let mut order = Vec::with_capacity(self.jobs.len());
        for oid in self.jobs.keys() {
            visit(*oid, &self.jobs, &mut order);
        }
        order
    }

    /// Runs until it is told to stop, everyone has gone, or a commit fails.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let stopped = loop {
            match self.wait(&mut commands) {
                Some(Command::Stop(answer)) => break Some(answer),
                Some(command) => self.take(command),
                None if commands.is_closed() => break None,
                None => {}
            }
            let mut stop = None;
            while self.pending.len() < MAX_TRANSACTIONS
                && let Ok(command) = commands.try_recv()
            {
                match command {
                    Command::Stop(answer) => stop = Some(answer),
                    other => self.take(other),
                }
            }
            let done = match self.is_due() {
                true => self.tick(),
                false if self.fold_due_in() <= 0 => self.fold(),
                false => Ok(()),
            };
            if let Err(error) = done {
                self.stop_clock(error, &mut commands);
                return;
            }
            if self.sources.values().any(SourceInput::has_news_of_trouble) {
                self.publish();
            }
            if stop.is_some() {
                break stop;
            }
        };
        // What was sent before Stop is still answered.
        while !self.pending.is_empty() {
            if let Err(error) = self.tick() {
                self.stop_clock(error, &mut commands);
                return;
            }
        }
        for job in self.jobs.values_mut() {
            if let Output::Sink { outbox, .. } = &mut job.output {
                outbox.stop();
            }
        }
        if let Err(error) = self.store.close() {
            tracing::error!(%error, "closing the store");
        }
        self.publish();
        // Whoever is answered may end the process, and RocksDB must not be at its own end in this thread then.
        drop(self);
        if let Some(answer) = stopped {
            let _nobody_waits = answer.send(());
        }
    }

    /// Waits for a command, the bell, or the time at which something is due.
    fn wait(&self, commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
        if !self.pending.is_empty() || self.backfill_due() {
            return commands.try_recv().ok();
        }
        let interval = Duration::from_micros(self.config.epoch_interval.max(1) as u64);
        let bell = self.shared.bell.clone();
        self.runtime.clone().block_on(async {
            tokio::select! {
                command = commands.recv() => command,
                () = bell.notified() => None,
                () = tokio::time::sleep(self.until_due(interval)) => None,
            }
        })
    }

    fn until_due(&self, interval: Duration) -> Duration {
        let passed = Duration::from_micros((self.clock.now_micros() - self.last_tick).max(0) as u64);
        let waits = self.sources.values().any(|s| s.has_rows());
        let backfill = self.backfill_due_in().map_or(interval, |micros| Duration::from_micros(micros.max(0) as u64));
        let next = if waits { interval.saturating_sub(passed) } else { interval };
        let fold = Duration::from_micros(self.fold_due_in().max(0) as u64);
        next.min(backfill).min(fold).max(Duration::from_millis(1))
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Transaction(transaction, answer) => self.pending.push_back((transaction, answer)),
            Command::Subscribe(oid, answer) => {
                let _nobody_waits = answer.send(self.subscribe(oid));
            }
            Command::Delivered(sink, epoch) => {
                self.delivered.insert(sink, epoch);
            }
            Command::SinkFails => self.publish(),
            Command::Stop(_) => {}
        }
    }

    fn subscribe(&mut self, oid: Oid) -> Result<Subscription> {
        let known = self.tables.contains_key(&oid) || self.jobs.contains_key(&oid) || self.sources.contains_key(&oid);
        if !known {
            return Err(Error::new(SqlState::UndefinedTable, format!("relation {oid} does not exist")));
        }
        let moment = self.shared.moment.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (subscriber, subscription) = Subscriber::new(moment, self.config.subscription_epochs);
        self.subscribers.entry(oid).or_default().push(subscriber);
        Ok(subscription)
    }

    pub fn backfill_due(&self) -> bool {
        self.backfill_due_in().is_some_and(|micros| micros <= 0)
    }

    /// Microseconds until the next chunk of a backfill; `None`: it waits for something else, or there is none.
    fn backfill_due_in(&self) -> Option<i64> {
        if self.is_held_up() {
            return None;
        }
        let now = self.clock.now_micros();
        let building = |oid| self.jobs.get(&oid).is_some_and(Job::is_backfilling);
        self.jobs.values().filter_map(|job| job.backfill_due_in(now, building)).min()
    }

    /// Nothing is taken that could add to what waits for another system.
    pub fn is_held_up(&self) -> bool {
        self.outbox_full() || self.lookups_full()
    }

    /// The rows that wait for a lookup have reached their bound.
    fn lookups_full(&self) -> bool {
        self.jobs.values().any(|job| job.bytes_waiting() >= self.config.lookup_max_bytes)
    }

    /// A sink has reached its bound.
    fn outbox_full(&self) -> bool {
        self.jobs.values().any(|job| match &job.output {
            Output::Sink { outbox, .. } => outbox.pending.bytes >= self.config.outbox_max_bytes,
            _ => false,
        })
    }

    fn is_due(&self) -> bool {
        if self.pending.iter().any(|(t, _)| self.may_take(t)) || self.backfill_due() {
            return true;
        }
        let now = self.clock.now_micros();
        let interval_passed = now < self.last_tick || now - self.last_tick >= self.config.epoch_interval;
        let any = |test: &dyn Fn(&SourceInput) -> bool| self.sources.values().any(test);
        if interval_passed && !self.delivered.is_empty() {
            return true;
        }
        if self.outbox_full() {
            return false;
        }
        // An answer lets rows go that wait for it.
        if interval_passed && self.jobs.values().any(|job| job.is_due(now)) {
            return true;
        }
        if self.lookups_full() {
            return false;
        }
        any(&|s| s.queued_rows() >= self.config.epoch_rows)
            || (interval_passed
                && (any(&|s| s.has_rows() || s.idle_advance_due(now))
                    || self.tables.values().any(|table| table.is_due(now))))
    }

    /// While a sink or lookup is at its bound, only what adds no rows goes on, DROP above all.
    pub fn may_take(&self, transaction: &Transaction) -> bool {
        (transaction.writes.is_empty() && transaction.redelivery.is_none()) || !self.is_held_up()
    }

    /// Makes the newest state visible to everyone.
    pub fn publish(&mut self) {
        let unreadable: HashMap<Oid, Error> =
            self.jobs.values().filter_map(|j| j.unreadable().map(|e| (j.oid, e))).collect();
        *self.shared.moment.write().unwrap_or_else(PoisonError::into_inner) = Moment {
            snapshot: self.snapshot.clone(),
            catalog: self.catalog.clone(),
            time: self.time,
            unreadable: Arc::new(unreadable),
        };
        let jobs = self.jobs.values().map(|j| j.status(|input| self.rows_held(input))).collect();
        self.sources.values_mut().for_each(|source| source.shown = source.trouble());
        let sources = self.sources.values().map(|s| self.source_status(s)).collect();
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.jobs = jobs;
        status.sinks = self.jobs.values().filter_map(Job::sink_status).collect();
        status.sources = sources;
        status.source_rows = self.sources.values().map(|s| s.lanes.rows).sum();
        status.epochs = self.epochs.clone();
        status.transactions = self.transactions;
        status.conflicts = self.conflicts;
        status.running = true;
    }

    /// After a commit: what its lookups ask.
    pub fn reach_out(&mut self) -> Result<()> {
        let outside = Outside { runtime: self.runtime.clone(), waker: self.waker.clone(), clock: self.clock.clone() };
        self.jobs.values_mut().try_for_each(|job| job.reach_out(&outside, self.config.workers))
    }

    /// Rows that an input holds now. Of a view that is being built itself nobody knows.
    fn rows_held(&self, input: Oid) -> Option<u64> {
        let is_read = |source: &&SourceInput| source.def.rows.is_none() && source.def.tables.is_none();
        if let Some(source) = self.sources.get(&input).filter(is_read) {
            return Some(source.lanes.rows);
        }
        let collection = match self.jobs.get(&input) {
            Some(job) if job.is_backfilling() => return None,
            Some(job) => job.collection()?,
            None => &self.tables.get(&input)?.def.collection,
        };
        let counted = collection.row_count(&self.snapshot);
        counted.inspect_err(|error| tracing::warn!(collection = collection.name(), %error, "cannot count rows")).ok()
    }

    fn source_status(&self, source: &SourceInput) -> SourceStatus {
        let oid = source.def.oid;
        SourceStatus {
            oid,
            name: source.def.name.clone(),
            state: match (&source.failed, source.paused, source.finished) {
                (Some(_), ..) => "failed",
                (_, true, _) => "paused",
                (_, _, true) => "finished",
                _ if source.shown.is_some() => "retrying",
                _ => "running",
            },
            error: source.shown.as_ref().map(ToString::to_string),
            positions: source.positions.iter().map(|(s, p)| (s.clone(), p.clone())).collect(),
            watermark: source.lanes.watermark(),
            rows: source.lanes.rows,
            late_rows: source.lanes.late_rows,
            future_rows: source.lanes.future_rows,
            refused: source.samples.clone(),
            dropped: source.lanes.dropped,
            stale_rows: source.stale,
            unknown_columns: source.unknown.iter().cloned().collect(),
            missing_columns: source.failed.iter().flat_map(|_| source.def.source.missing_columns()).collect(),
            bytes: source.lanes.bytes,
            lag_rows: source.lag().rows,
            lag_bytes: source.lag().bytes,
        }
    }

    /// A commit failed: whoever waits or comes later is told why, reading goes on.
    fn stop_clock(mut self, error: Error, commands: &mut mpsc::Receiver<Command>) {
        tracing::error!(%error, "a commit failed; the clock has stopped");
        let error = Error::new(error.state(), format!("the clock has stopped: {error}"))
            .with_detail("What was acknowledged is on disk. Nothing can be written until the server is started again.")
            .with_hint("Free space or mend the disk, then restart the server.");
        {
            let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
            status.clock_error = Some(error.clone());
            status.running = false;
        }
        let waiting = self.pending.drain(..).map(|(_, answer)| answer).chain(self.admitted.drain(..));
        for answer in waiting {
            let _nobody_waits = answer.send(Err(error.clone()));
        }
        for (_, ready) in self.waiting.drain(..) {
            let _nobody_waits = ready.send(Err(error.clone()));
        }
        self.sources.clear();
        self.subscribers.clear();
        let runtime = self.runtime.clone();
        while let Some(command) = runtime.block_on(commands.recv()) {
            match command {
                Command::Transaction(_, answer) => {
                    let _nobody_waits = answer.send(Err(error.clone()));
                }
                Command::Subscribe(_, answer) => {
                    let _nobody_waits = answer.send(Err(error.clone()));
                }
                Command::Delivered(..) | Command::SinkFails => {}
                Command::Stop(answer) => {
                    let _nobody_waits = answer.send(());
                    return;
                }
            }
        }
    }
}
