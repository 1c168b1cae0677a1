//! Backfills under a limit, through the whole driver, on a clock that stands still until it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::physical_expr::expressions::lit;
use tidemark_catalog::Catalog;
use tidemark_common::plan::Op;
use tidemark_common::{Clock, ManualClock, Oid, SqlState};
use tidemark_storage::{Collection, FoldRules, Key, Layout, StateId, Store, StoreOptions};
use tokio::sync::oneshot;

use crate::operators::testing::{INPUT, VIEW, input, plan, schema, with_watermarks};
use crate::{Definition, Engine, EngineConfig, JobState, JobStatus, Step, TableDef, TableWrite, Transaction, ViewDef};

const OTHER: Oid = VIEW + 1;
const RATE: u64 = 1000;

/// Tells how often it was asked.
#[derive(Debug)]
struct Counted {
    clock: ManualClock,
    asked: AtomicU64,
}

impl Clock for Counted {
    fn now_micros(&self) -> i64 {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.clock.now_micros()
    }
}

/// A table of the keys 0 to 999, and an engine.
struct Running {
    engine: Engine,
    clock: Arc<Counted>,
    _dir: tempfile::TempDir,
}

fn collection(oid: Oid) -> Arc<Collection> {
    Arc::new(Collection::new(StateId::new(oid, 0), schema("k bigint"), Layout::Keyed { key: vec![0] }).unwrap())
}

async fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &StoreOptions { sync: false, ..StoreOptions::default() }).unwrap();
    let clock = Arc::new(Counted { clock: ManualClock::new(0), asked: AtomicU64::new(0) });
    let config = EngineConfig {
        epoch_interval: 20_000,
        workers: 1,
        state_cache_bytes: 1 << 20,
        epoch_rows: 1000,
        source_queue_rows: 1000,
        source_queue_bytes: 1 << 20,
        backfill_rows: 1000,
        fold: FoldRules::from(16),
        outbox_max_bytes: 1 << 20,
        lookup_max_bytes: 1 << 20,
        subscription_epochs: 10,
        sync: false,
    };
    let table = TableDef {
        ttl: None,
        oid: INPUT,
        name: "t".into(),
        collection: collection(INPUT),
        key: vec![0],
        key_name: Some("t_pkey".into()),
        indexes: vec![],
    };
    let catalog = Arc::new(Catalog::new("test", "test"));
    let runtime = tokio::runtime::Handle::current();
    let engine = Engine::start(store, catalog, vec![Definition::Table(table)], config, clock.clone(), runtime).unwrap();
    let running = Running { engine, clock, _dir: dir };
    running.insert((0..1000).collect()).await;
    running
}

impl Running {
    async fn insert(&self, keys: Vec<i64>) {
        let added = RecordBatch::try_new(schema("k bigint"), vec![Arc::new(Int64Array::from(keys))]).unwrap();
        let contents = collection(INPUT).id();
        let write = TableWrite { table: INPUT, contents, unchanged_since: None, removed: None, added: vec![added] };
        self.engine.commit(Transaction { writes: vec![write], ..Transaction::default() }).await.unwrap();
    }

    async fn step(&self, step: Step) -> oneshot::Receiver<tidemark_common::Result<()>> {
        let (ready, built) = oneshot::channel();
        let transaction = Transaction { steps: vec![step], ready: Some(ready), ..Transaction::default() };
        self.engine.commit(transaction).await.unwrap();
        built
    }

    /// `SELECT k FROM of`
    async fn create_view(
        &self,
        oid: Oid,
        of: Oid,
        rate: Option<u64>,
    ) -> oneshot::Receiver<tidemark_common::Result<()>> {
        let columns = schema("k bigint");
        let (mut from, inputs, fields, properties) = input(&columns, &[]);
        if let Op::Input { collection, .. } = &mut from {
            *collection = of;
        }
        let filter = (Op::Filter { predicate: lit(true) }, vec![0], columns.clone(), with_watermarks(&[]));
        let dataflow = plan(vec![(from, inputs, fields, properties), filter]);
        let name = format!("v{oid}");
        let def = ViewDef {
            oid,
            storage: oid,
            name,
            dataflow,
            collection: collection(oid),
            backfill_rate: rate,
            max_state_entries: None,
            indexes: vec![],
        };
        self.step(Step::Create(Definition::View(def))).await
    }

    fn job(&self, oid: Oid) -> JobStatus {
        self.engine.status().jobs.into_iter().find(|j| j.oid == oid).unwrap()
    }

    fn rows(&self, oid: Oid) -> u64 {
        collection(oid).row_count(&self.engine.moment().snapshot).unwrap()
    }

    /// Waits until its backfill has read so many rows.
    async fn read(&self, oid: Oid, rows: u64) {
        for _ in 0..30_000 {
            if self.job(oid).rows_done >= rows {
                assert_eq!(self.job(oid).rows_done, rows);
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{} rows instead of {rows}", self.job(oid).rows_done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_by_the_clock_and_for_nobody_else() {
    let running = running().await;
    let built = running.create_view(VIEW, INPUT, Some(RATE)).await;
    assert_eq!((running.rows(VIEW), running.job(VIEW).state), (0, JobState::Backfilling));
    running.clock.clock.advance(100_000);
    running.read(VIEW, 100).await;

    // Each of these makes an epoch, in which the backfill may read nothing. What it has read follows the changes.
    running.insert(vec![-1]).await;
    running.insert(vec![5000]).await;
    assert_eq!((running.job(VIEW).rows_done, running.rows(VIEW)), (100, 101));
    running.clock.clock.advance(20_000);
    running.read(VIEW, 120).await;

    // Another one is built meanwhile, and follows.
    running.create_view(OTHER, INPUT, None).await.await.unwrap().unwrap();
    running.insert(vec![5001]).await;
    assert_eq!((running.rows(OTHER), running.job(VIEW).rows_done), (1003, 120));

    running.step(Step::LimitBackfill(VIEW, Some(0))).await;
    running.clock.clock.advance(10_000_000);
    running.insert(vec![5002]).await;
    assert_eq!(running.job(VIEW).rows_done, 120);
    running.step(Step::LimitBackfill(VIEW, None)).await;
    built.await.unwrap().unwrap();
    assert_eq!((running.rows(VIEW), running.job(VIEW).rows_done), (1004, 1003));
    running.engine.stop().await;
}

/// Neither a backfill that may not go on nor a view that waits for it keeps the driver busy.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_does_not_spin() {
    let running = running().await;
    let first = running.create_view(VIEW, INPUT, Some(RATE)).await;
    let second = running.create_view(OTHER, VIEW, None).await;
    running.clock.clock.advance(100_000);
    running.read(VIEW, 100).await;
    let before = running.clock.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let asked = running.clock.asked.load(Ordering::SeqCst) - before;
    assert!(asked < 1000, "asked {asked} times for the time, in ten intervals");
    assert_eq!(running.job(OTHER).rows_done, 0);
    running.clock.clock.advance(1_000_000);
    running.read(VIEW, 1000).await;
    running.clock.clock.advance(1_000_000);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(running.rows(OTHER), 1000);
    running.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_dropped_half_built_leaves_nothing() {
    let running = running().await;
    let built = running.create_view(VIEW, INPUT, Some(RATE)).await;
    running.clock.clock.advance(500_000);
    running.read(VIEW, 500).await;
    assert_eq!(running.rows(VIEW), 500);
    running.step(Step::Drop(VIEW)).await;
    assert_eq!(built.await.unwrap().unwrap_err().state(), SqlState::QueryCanceled);
    running.clock.clock.advance(5_000_000);
    running.insert(vec![-1]).await;
    assert_eq!(running.rows(VIEW), 0);
    let snapshot = running.engine.moment().snapshot;
    assert!(snapshot.get(&Key::Job { oid: VIEW, what: "state" }).unwrap().is_none());
    assert!(running.engine.status().jobs.is_empty());
    running.engine.stop().await;
}
