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

use tidemark_common::{Error, Result, SqlState, nearest};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::client::Client;
use super::error;
use super::options::PostgresOptions;
use super::table::RemoteTable;
use super::types::{Described, RemoteColumn, Texts, map};

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
        let columns = self.columns(schema, table).await?;
        RemoteTable::new(self.clone(), schema, table, columns)
    }

    async fn columns(&self, schema: &str, table: &str) -> Result<Vec<RemoteColumn>> {
        let first = self.first.lock().await;
        let rows = first.postgres.query(COLUMNS, &[&schema, &table]).await;
        let rows = rows.map_err(|e| error::remote(&self.name, &e, None))?;
        if rows.is_empty() {
            return Err(self.missing(&first, schema, table).await?);
        }
        // A table may have no columns: it has one row here, without a name.
        let named = rows.iter().filter(|row| row.get::<_, Option<String>>(0).is_some());
        Ok(named.map(|row| self.column(row)).collect())
    }

    fn column(&self, row: &tokio_postgres::Row) -> RemoteColumn {
        let described =
            Described { type_oid: row.get(2), element_oid: row.get(3), typmod: row.get(4), dimensions: row.get(5) };
        let (sql_type, cast) = map(&described, &self.options.numeric);
        let not_null: bool = row.get(1);
        RemoteColumn {
            name: row.get(0),
            sql_type,
            nullable: !not_null,
            cast,
            texts: Texts { bytewise: row.get(6), ordered: row.get(7), folded: row.get(8) },
        }
    }

    async fn missing(&self, first: &Client, schema: &str, table: &str) -> Result<Error> {
        let rows = first.postgres.query(NAMES, &[]).await.map_err(|e| error::remote(&self.name, &e, None))?;
        let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let asked = format!("{schema}.{table}");
        let message = format!("relation \"{asked}\" does not exist in connection \"{}\"", self.name);
        let error = Error::new(SqlState::UndefinedTable, message);
        Ok(match nearest(&asked, known.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{}.{near}\".", self.name)),
            None => error,
        })
    }
}

async fn begin(name: &Arc<str>, options: &Arc<PostgresOptions>, more: &str) -> Result<Client> {
    let client = Client::connect(name, options).await?;
    client.run(&format!("{SETTINGS}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{more}")).await?;
    Ok(client)
}

/// Name, NOT NULL, type, element type, modifier, dimensions, whether equality and order are bytewise, and Unicode is known.
const COLUMNS: &str = "
WITH RECURSIVE found AS (
    SELECT a.attnum, a.attname::text AS name, coalesce(a.attnotnull, false) AS attnotnull, a.atttypid, a.atttypmod,
        coalesce(a.attndims, 0)::int AS dimensions, a.attcollation
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
), base AS (
    SELECT attnum, atttypid AS type, atttypmod AS modifier FROM found
    UNION ALL
    SELECT b.attnum, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT f.name, f.attnotnull, coalesce(t.oid, 0)::oid,
    (CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END)::oid,
    coalesce(b.modifier, -1)::int, f.dimensions,
    coalesce(l.collisdeterministic, true), getdatabaseencoding() = 'UTF8',
    getdatabaseencoding() = 'UTF8' AND EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')
FROM found f
LEFT JOIN base b ON b.attnum = f.attnum AND NOT EXISTS (SELECT FROM pg_type d WHERE d.oid = b.type AND d.typtype = 'd')
LEFT JOIN pg_type t ON t.oid = b.type
LEFT JOIN pg_collation l ON l.oid = f.attcollation
ORDER BY f.attnum";

const NAMES: &str = "
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1 LIMIT 1000";
