//! The handle: what sessions, the coordinator and sink tasks may ask of the driver.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use tidemark_catalog::Catalog;
use tidemark_common::connector::{Sink, Source, SourceBatch};
use tidemark_common::plan::Dataflow;
use tidemark_common::{Clock, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{Collection, FoldRules, Index, Snapshot, Store};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::driver::Driver;
use crate::status::Status;
use crate::subscription::Subscription;
use crate::table::{TableDef, TableWrite};

/// The bounds and the pace of the clock.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Shortest time between two ticks that only sources ask for, in microseconds.
    pub epoch_interval: i64,
    /// Shards of each dataflow.
    pub workers: usize,
    /// Memory for hot state, shared by all operators, in bytes.
    pub state_cache_bytes: usize,
    /// Rows that an epoch takes from each source.
    pub epoch_rows: usize,
    /// What each source may read ahead.
    pub source_queue_rows: usize,
    pub source_queue_bytes: usize,
    /// Rows of a backfill in each epoch.
    pub backfill_rows: usize,
    /// Undelivered bytes of a sink at which the clock waits.
    pub outbox_max_bytes: u64,
    /// Of rows that wait for the lookups of one view, sink or pipeline.
    pub lookup_max_bytes: u64,
    /// Epochs whose changes wait for a slow SUBSCRIBE before it is ended.
    pub subscription_epochs: usize,
    /// Which tables and views are kept by column as well.
    pub fold: FoldRules,
    /// fsync at each commit.
    pub sync: bool,
}

/// One moment: what a statement reads, all of it as of one epoch.
#[derive(Clone)]
pub struct Moment {
    pub snapshot: Arc<Snapshot>,
    pub catalog: Arc<Catalog>,
    /// Of the last epoch, in microseconds since 1970: what now() is in its views.
    pub time: i64,
    /// Views that cannot be read now, and why: still being built, or failed.
    pub unreadable: Arc<std::collections::HashMap<Oid, Error>>,
}

impl Moment {
    pub fn epoch(&self) -> Epoch {
        self.snapshot.epoch()
    }
}

/// What the driver is to run for a catalog object.
#[derive(Debug, Clone)]
pub enum Definition {
    Table(TableDef),
    Source(SourceDef),
    View(ViewDef),
    Sink(SinkDef),
}

impl Definition {
    pub fn oid(&self) -> Oid {
        match self {
            Definition::Table(d) => d.oid,
            Definition::Source(d) => d.oid,
            Definition::View(d) => d.oid,
            Definition::Sink(d) => d.oid,
        }
    }

    /// Those under which it and its indexes keep what they store.
    pub(crate) fn oids(&self) -> Vec<Oid> {
        let indexes: &[Arc<Index>] = match self {
            Definition::Table(d) => &d.indexes,
            Definition::View(d) => &d.indexes,
            Definition::Source(_) | Definition::Sink(_) => &[],
        };
        let own = match self {
            Definition::View(d) => d.storage,
            other => other.oid(),
        };
        indexes.iter().map(|index| index.id().oid()).chain([own]).collect()
    }
}

#[derive(Debug, Clone)]
pub struct SourceDef {
    pub oid: Oid,
    pub name: String,
    pub source: Arc<dyn Source>,
    /// Declared and INCLUDE columns, all nullable.
    pub schema: SchemaRef,
    pub watermark: Option<WatermarkDef>,
    /// Microseconds without a row after which a lane no longer holds the watermark back.
    pub idle_timeout: Option<i64>,
    /// The table that takes the rows that are refused.
    pub late_table: Option<Oid>,
    /// The table that takes records that could not be decoded.
    pub dead_letters: Option<Oid>,
    /// Where its rows are, if it has a primary key: they come and go by it.
    pub rows: Option<TableDef>,
    /// The tables that its rows go into, if it has none itself: batches say which.
    pub tables: Option<Vec<Oid>>,
}

impl SourceDef {
    /// What has to be read for these columns: they, and those that the watermark needs.
    pub(crate) fn with_time(&self, columns: &[usize]) -> Vec<usize> {
        let time = self.watermark.iter().flat_map(|watermark| &watermark.reads);
        columns.iter().chain(time).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[derive(Debug, Clone)]
pub struct WatermarkDef {
    /// Event time.
    pub column: usize,
    pub expr: Arc<dyn PhysicalExpr>,
    /// Columns that `expr` and the event time read.
    pub reads: Vec<usize>,
    /// Microseconds that a row may lie ahead of the clock; a row beyond is refused.
    pub max_future: Option<i64>,
    /// Microseconds that a row may lie below the watermark; windows are kept for so much longer.
    pub allowed_lateness: i64,
}

#[derive(Debug, Clone)]
pub struct ViewDef {
    pub oid: Oid,
    /// Whose OID its rows and state are kept under: its own, or that of the view that took its place.
    pub storage: Oid,
    pub name: String,
    pub dataflow: Arc<Dataflow>,
    pub collection: Arc<Collection>,
    /// Rows a second that its backfill may read; `None`: no limit.
    pub backfill_rate: Option<u64>,
    /// Entries that its state may have; `None`: no limit.
    pub max_state_entries: Option<u64>,
    pub indexes: Vec<Arc<Index>>,
}

#[derive(Debug, Clone)]
pub struct SinkDef {
    pub oid: Oid,
    pub name: String,
    pub dataflow: Arc<Dataflow>,
    pub sink: Arc<dyn Sink>,
}

/// A step of DDL, taken with the commit of its transaction.
#[derive(Debug)]
pub enum Step {
    Create(Definition),
    /// The same table with other contents, which come with the transaction; who follows the table is not told.
    ReplaceTable(TableDef),
    /// Enters what the relation holds in an index that is new, and keeps it from then on. A table's definition, which comes with
    /// another step, has the index already.
    CreateIndex {
        relation: Oid,
        index: Arc<Index>,
    },
    /// A view that has been built takes the place of another one, whose readers are told what is different.
    Replace {
        view: Oid,
        by: Oid,
    },
    /// Removes it and all it keeps.
    Drop(Oid),
    /// Empties a table that nothing depends on.
    Truncate(Oid),
    /// A source or sink stops for the time being, or goes on.
    Pause(Oid, bool),
    /// Rows a second that a view's backfill may read from now on.
    LimitBackfill(Oid, Option<u64>),
}

impl Step {
    /// The object that it brings into being.
    pub(crate) fn created(&self) -> Option<Oid> {
        match self {
            Step::Create(definition) => Some(definition.oid()),
            _ => None,
        }
    }
}

/// Records of a source that were set aside, and that are taken after all: each batch of all columns, with the places of its rows where
/// they have one.
#[derive(Debug)]
pub struct Redelivery {
    pub source: Oid,
    pub batches: Vec<SourceBatch>,
}

/// What becomes true in one epoch, or not at all.
#[derive(Debug, Default)]
pub struct Transaction {
    pub writes: Vec<TableWrite>,
    pub steps: Vec<Step>,
    pub redelivery: Option<Redelivery>,
    /// Catalog objects to store, encoded, or `None` to remove.
    pub objects: Vec<(Oid, Option<Vec<u8>>)>,
    /// Named numbers to store: the next OID, how far sequences are reserved.
    pub counters: Vec<(String, i64)>,
    /// The catalog after it.
    pub catalog: Option<Arc<Catalog>>,
    /// Views that are being built already, for which `ready` waits too.
    pub awaits: Vec<Oid>,
    /// Told when the views that it creates have caught up, or could not.
    pub ready: Option<oneshot::Sender<Result<()>>>,
}

pub(crate) enum Command {
    Transaction(Transaction, oneshot::Sender<Result<Epoch>>),
    Subscribe(Oid, oneshot::Sender<Result<Subscription>>),
    /// A sink has everything up to this epoch.
    Delivered(Oid, Epoch),
    /// A sink cannot deliver, and says so in its report.
    SinkFails,
    /// Ends after the epoch that is under way.
    Stop(oneshot::Sender<()>),
}

/// State that the driver publishes.
pub(crate) struct Shared {
    pub moment: RwLock<Moment>,
    pub status: Mutex<Status>,
    /// Rung when there is something to do besides commands.
    pub bell: Arc<Notify>,
}

/// Talks to the driver. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl Engine {
    /// Commands that may wait for the driver before senders wait too.
    const MAX_COMMANDS: usize = 1024;

    /// Goes on from the store's last epoch with `definitions`, in any order, and starts the clock.
    pub fn start(
        store: Arc<Store>,
        catalog: Arc<Catalog>,
        definitions: Vec<Definition>,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Engine> {
        let (commands, receiver) = mpsc::channel(Self::MAX_COMMANDS);
        let moment = Moment { snapshot: store.snapshot(), catalog, time: 0, unreadable: Arc::default() };
        let shared = Arc::new(Shared {
            moment: RwLock::new(moment),
            status: Mutex::new(Status::default()),
            bell: Arc::new(Notify::new()),
        });
        let engine = Engine { commands: commands.clone(), shared: shared.clone() };
        let driver = Driver::open(store, definitions, config, clock, runtime, shared, commands.downgrade())?;
        std::thread::Builder::new()
            .name("clock".into())
            .spawn(move || driver.run(receiver))
            .map_err(|e| Error::from(e).context("starting the clock"))?;
        Ok(engine)
    }

    /// The newest moment.
    pub fn moment(&self) -> Moment {
        self.shared.moment.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits, and returns the epoch in which every view shows it.
    pub async fn commit(&self, transaction: Transaction) -> Result<Epoch> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Transaction(transaction, answer)).await?;
        answered.await.map_err(|_| self.stopped(SqlState::StatementCompletionUnknown))?
    }

    /// All changes of a table or view after a moment that comes with it.
    pub async fn subscribe(&self, oid: Oid) -> Result<Subscription> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Subscribe(oid, answer)).await?;
        answered.await.map_err(|_| self.stopped(SqlState::AdminShutdown))?
    }

    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finishes the epoch under way and stops the clock.
    pub async fn stop(&self) {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Stop(answer)).await.is_ok() {
            // An error means that the driver is gone already, which is what was asked for.
            let _gone = answered.await;
        }
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| self.stopped(SqlState::AdminShutdown))
    }

    fn stopped(&self, state: SqlState) -> Error {
        match self.status().clock_error {
            Some(error) => error,
            None => Error::new(state, "the server is shutting down"),
        }
    }
}
