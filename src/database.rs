//! One database: a data directory, its catalog, its clock, and the sessions on it.
//!
//! ```text
//!   open: store ──objects──▶ Catalog ──define──▶ what runs ──▶ Engine (goes on from the last epoch)
//!   sessions ──▶ Engine::moment to read, Engine::commit to write
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use tidemark_catalog::{Catalog, Change, Object, ObjectKind};
use tidemark_common::{Clock, Error, FIRST_USER_OID, Oid, Result, SqlState, SystemClock};
use tidemark_engine::{Engine, EngineConfig, Moment, Transaction as Commit};
use tidemark_storage::{FoldRules, Key, Store, StoreOptions, value};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::coordinator::definitions::{self, Environment};
use crate::coordinator::source_columns;
use crate::pipelines::Pipelines;
use crate::planning;
use crate::sequences::Sequences;
use crate::session::SessionInfo;

pub struct Database {
    pub name: String,
    pub config: Arc<Config>,
    pub engine: Engine,
    pub environment: Arc<Environment>,
    pub sequences: Sequences,
    pub pipelines: Pipelines,
    pub store: Arc<Store>,
    pub started_at: i64,
    next_oid: AtomicI64,
    next_pid: AtomicI32,
    sessions: Mutex<HashMap<i32, Registered>>,
    shutdown: CancellationToken,
}

/// A session as others see it.
struct Registered {
    secret: i32,
    info: Arc<SessionInfo>,
    counts: bool,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "database {}", self.name)
    }
}

/// OIDs taken from the store at a time.
const OID_BLOCK: i64 = 1;

impl Database {
    /// Opens or creates the data directory and goes on from its last epoch.
    pub fn open(config: Arc<Config>, runtime: tokio::runtime::Handle) -> Result<Arc<Database>> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = StoreOptions {
            block_cache_bytes: config.block_cache_bytes as usize,
            sync: config.sync,
            ..StoreOptions::default()
        };
        let store = Store::open(&config.data_dir, &options)?;
        let environment = Arc::new(Environment {
            state: planning::state(&config)?,
            clock: clock.clone(),
            secret_key: config.secret_key.clone(),
            database: Arc::default(),
        });
        let catalog = Arc::new(load_catalog(&store)?);
        let definitions = catalog
            .objects()
            .filter(|o| definitions::runs(o))
            .map(|o| definitions::define_at_start(o, &catalog, &environment))
            .collect::<Result<Vec<_>>>()?;
        let next_oid = catalog.objects().map(|o| last_oid(o)).max().unwrap_or(0).max(FIRST_USER_OID - 1) + 1;
        let stored: Option<i64> = store.snapshot().get_value(&Key::Counter("oid"))?;
        let sequences = Sequences::new(store.snapshot());
        let pipelines = Pipelines::new(config.max_running_pipelines);
        let engine =
            Engine::start(store.clone(), catalog, definitions, engine_config(&config), clock.clone(), runtime)?;
        let database = Arc::new(Database {
            name: "tidemark".into(),
            config,
            engine,
            environment,
            sequences,
            pipelines,
            store,
            started_at: clock.now_micros(),
            next_oid: AtomicI64::new(stored.unwrap_or(0).max(i64::from(next_oid))),
            next_pid: AtomicI32::new(1),
            sessions: Mutex::default(),
            shutdown: CancellationToken::new(),
        });
        // Nobody else sets it.
        let _first = database.environment.database.set(Arc::downgrade(&database));
        Ok(database)
    }

    /// Drops what temporary objects a crash has left behind, goes on with views that were to replace others, and begins to run
    /// pipelines. Call once, before
    /// the first session.
    pub async fn clean_up(self: &Arc<Self>) -> Result<()> {
        let moment = self.engine.moment();
        for object in moment.catalog.objects().filter(|o| o.replaces().is_some()) {
            let (db, oid) = (self.clone(), object.oid);
            tokio::spawn(async move {
                if let Err(error) = db.replace_when_built(oid).await {
                    tracing::warn!(%error, "a view was not replaced");
                }
            });
        }
        let left: Vec<Oid> = moment.catalog.objects().filter(|o| o.temporary).map(|o| o.oid).collect();
        self.drop_objects(left).await?;
        let db = self.clone();
        tokio::spawn(async move { source_columns::evolve(&db).await });
        Pipelines::start(self).await
    }

    /// Removes objects whatever depends on them; for temporary ones, on which only temporary ones can depend.
    pub async fn drop_objects(&self, oids: Vec<Oid>) -> Result<()> {
        if oids.is_empty() {
            return Ok(());
        }
        loop {
            let catalog = self.engine.moment().catalog;
            let indexes = oids.iter().flat_map(|oid| catalog.indexes_of(*oid)).map(|(index, _)| index.oid);
            let oids: BTreeSet<Oid> = oids.iter().copied().chain(indexes).collect();
            let there = || oids.iter().filter(|o| catalog.get(**o).is_some());
            let changes: Vec<Change> = there().map(|o| Change::Remove(*o)).collect();
            if changes.is_empty() {
                return Ok(());
            }
            let commit = Commit {
                steps: there().map(|o| tidemark_engine::Step::Drop(*o)).collect(),
                objects: there().map(|o| (*o, None)).collect(),
                catalog: Some(Arc::new(catalog.apply(&changes))),
                ..Commit::default()
            };
            match self.engine.commit(commit).await {
                Ok(_) => return Ok(()),
                Err(error) if error.state() == SqlState::SerializationFailure => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.environment.clock
    }

    pub fn now(&self) -> i64 {
        self.clock().now_micros()
    }

    pub fn moment(&self) -> Moment {
        self.engine.moment()
    }

    /// A new OID, never given before in this data directory's life.
    pub fn new_oid(&self) -> Oid {
        self.next_oid.fetch_add(OID_BLOCK, Ordering::Relaxed) as Oid
    }

    /// What to store so that OIDs stay unique after a restart.
    pub fn oid_counter(&self) -> (String, i64) {
        ("oid".into(), self.next_oid.load(Ordering::Relaxed))
    }

    /// Gives the session its process id and secret.
    /// `counts`: towards max_connections.
    pub fn register(&self, info: &Arc<SessionInfo>, counts: bool) -> Result<(i32, i32)> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if counts && sessions.values().filter(|session| session.counts).count() >= self.config.max_connections {
            return Err(Error::new(SqlState::TooManyConnections, "sorry, too many clients already")
                .with_hint("Close idle sessions or raise max_connections."));
        }
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        #[allow(clippy::disallowed_methods)] // a secret, not a value that a query could see
        let secret = rand::rng().random();
        sessions.insert(pid, Registered { secret, info: info.clone(), counts });
        Ok((pid, secret))
    }

    pub fn unregister(&self, pid: i32) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    pub fn sessions(&self) -> Vec<(i32, Arc<SessionInfo>)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().map(|(pid, s)| (*pid, s.info.clone())).collect()
    }

    /// Cancels what a session is running, if the secret is its own.
    pub fn cancel(&self, pid: i32, secret: i32) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(&pid).filter(|s| s.secret == secret) {
            session.info.cancel();
        }
    }

    /// Cancelled when the server is to stop.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Finishes the epoch under way and closes the store.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        self.engine.stop().await;
    }
}

fn load_catalog(store: &Arc<Store>) -> Result<Catalog> {
    let snapshot = store.snapshot();
    let span = Key::objects();
    let mut changes = Vec::new();
    for entry in snapshot.scan(&span.start, &span.end) {
        let (_, stored) = entry?;
        changes.push(Change::Put(Box::new(Object::decode(value::unframe(&stored)?)?)));
    }
    Ok(Catalog::new("tidemark", "tidemark").apply(&changes))
}

/// The highest OID that an object holds, its constraints included.
fn last_oid(object: &Object) -> Oid {
    let mut oids = BTreeSet::from([object.oid]);
    if let ObjectKind::Table(table) = &object.kind {
        oids.extend(table.primary_key.iter().chain(&table.unique).map(|k| k.oid));
        oids.extend(table.checks.iter().map(|c| c.oid));
    }
    oids.last().copied().unwrap_or(0)
}

fn engine_config(config: &Config) -> EngineConfig {
    EngineConfig {
        epoch_interval: config.epoch_interval.as_micros() as i64,
        workers: config.workers,
        state_cache_bytes: config.state_cache_bytes as usize,
        epoch_rows: 50_000,
        source_queue_rows: config.source_queue_rows,
        source_queue_bytes: config.source_queue_bytes as usize,
        backfill_rows: 50_000,
        fold: FoldRules::from(config.column_rows as u64),
        outbox_max_bytes: config.outbox_max_bytes,
        lookup_max_bytes: config.lookup_max_bytes,
        subscription_epochs: 1024,
        sync: config.sync,
    }
}
