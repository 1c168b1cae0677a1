//! One statement's reading of one connection: all of it at one moment of the other server.
//!
//! ```text
//!   first session:  BEGIN REPEATABLE READ READ ONLY ──▶ describes tables ──▶ reads, if there is one to read
//!                        └── pg_export_snapshot(), if there are more ──▶ a session for each, SET TRANSACTION SNAPSHOT
//! ```
//!
//! A session reads one table at a time, and DataFusion several at once, so that each open scan has a session of its own. (The first
//! one keeps the snapshot, and is not among them: cancelling a scan ends its transaction.) They end with the statement.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemark_common::{Error, Result, SqlState};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::client::Client;
use super::describe::describe;
use super::error;
use super::options::PostgresOptions;
use super::table::RemoteTable;

/// Tables that a statement reads from one connection at a time.
const MAX_SESSIONS: usize = 16;

/// Operators mean the built-in ones, and texts of values are the same whatever the other server's settings.
pub const SETTINGS: &str = "SET search_path = pg_catalog; SET datestyle = ISO; SET intervalstyle = postgres; \
                        SET timezone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex; SET standard_conforming_strings = on";

pub struct Reading {
    pub name: Arc<str>,
    pub options: Arc<PostgresOptions>,
    first: Arc<Mutex<Client>>,
    /// Scans that have been planned: with one, nobody needs the snapshot's name.
    planned: AtomicUsize,
    /// One permit for each further session.
    sessions: Arc<Semaphore>,
    snapshot: OnceCell<String>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading({})", self.name)
    }
}

/// A session that a scan has to itself.
pub enum Lent {
    First(OwnedMutexGuard<Client>),
    Own { client: Box<Client>, _permit: OwnedSemaphorePermit },
}

impl Lent {
    pub fn client(&self) -> &Client {
        match self {
            Lent::First(client) => client,
            Lent::Own { client, .. } => client,
        }
    }
}

impl Reading {
    pub async fn open(name: Arc<str>, options: Arc<PostgresOptions>) -> Result<Arc<Reading>> {
        let client = begin(&name, &options, "").await?;
        Ok(Arc::new(Reading {
            name,
            options,
            first: Arc::new(Mutex::new(client)),
            planned: AtomicUsize::new(0),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            snapshot: OnceCell::new(),
        }))
    }

    pub(super) fn plan_scan(&self) {
        self.planned.fetch_add(1, Ordering::Relaxed);
    }

    /// A session in the one snapshot.
    pub(super) async fn lend(&self) -> Result<Lent> {
        if self.planned.load(Ordering::Relaxed) <= 1 {
            return Ok(Lent::First(self.first.clone().lock_owned().await));
        }
        let snapshot = self.snapshot.get_or_try_init(|| self.export()).await?;
        let Ok(permit) = self.sessions.clone().try_acquire_owned() else {
            return Err(Error::new(
                SqlState::ConfigurationLimitExceeded,
                format!(
                    "the statement reads more than {MAX_SESSIONS} tables of connection \"{}\" at a time",
                    self.name
                ),
            )
            .with_hint("Read some of them into tables first: CREATE TABLE .. AS SELECT."));
        };
        let adopt = format!("; SET TRANSACTION SNAPSHOT '{}'", snapshot.replace('\'', "''"));
        let client = Box::new(begin(&self.name, &self.options, &adopt).await?);
        Ok(Lent::Own { client, _permit: permit })
    }

    async fn export(&self) -> Result<String> {
        let first = self.first.lock().await;
        let row = first.postgres.query_one("SELECT pg_export_snapshot()", &[]).await;
        Ok(row.map_err(|e| error::remote(&self.name, &e, None))?.get(0))
    }

    /// The table, view or whatever else can be read under that name.
    pub async fn table(self: &Arc<Self>, schema: &str, table: &str) -> Result<RemoteTable> {
        let columns = describe(&*self.first.lock().await, schema, table).await?;
        RemoteTable::new(self.clone(), schema, table, columns)
    }
}

async fn begin(name: &Arc<str>, options: &Arc<PostgresOptions>, more: &str) -> Result<Client> {
    let client = Client::connect(name, options).await?;
    client.run(&format!("{SETTINGS}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{more}")).await?;
    Ok(client)
}
