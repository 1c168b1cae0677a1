//! What the system tables tell about the running server, as plain values.

use std::fmt::Debug;

use tidemark_common::{Epoch, Oid};

use crate::pipelines::PipelineFact;

/// The running server, as system tables see it. Times are microseconds since 1970 in UTC.
///
/// Each call answers for one moment; none may block for longer than a lock is held.
pub trait SystemFacts: Debug + Send + Sync {
    fn jobs(&self) -> Vec<JobFact>;
    fn sources(&self) -> Vec<SourceFact>;
    /// The last rows that each source refused.
    fn late_rows(&self) -> Vec<LateRowFact>;
    fn sinks(&self) -> Vec<SinkFact>;
    fn lookups(&self) -> Vec<LookupFact>;
    fn pipelines(&self) -> Vec<PipelineFact>;
    /// The epochs still remembered, oldest first.
    fn epochs(&self) -> Vec<EpochFact>;
    /// All settings with the session's values.
    fn settings(&self) -> Vec<SettingFact>;
    fn sessions(&self) -> Vec<SessionFact>;
    /// The session's own.
    fn cursors(&self) -> Vec<CursorFact>;
    /// See [`super::registry_functions`].
    fn functions(&self) -> Vec<FunctionFact>;
    /// Rows and bytes of a table or materialized view; `None` where nothing is stored.
    fn size(&self, oid: Oid) -> Option<RelationSize>;
    /// The value a sequence gave last; `None`: none yet.
    fn sequence_last_value(&self, oid: Oid) -> Option<i64>;
    fn database_bytes(&self) -> u64;
}

/// The dataflow of a view or sink.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFact {
    pub id: i64,
    /// What it works for.
    pub object: Oid,
    /// `materialized view`, `sink`
    pub kind: String,
    /// `backfilling`, `running`, `paused`, `failed`
    pub state: String,
    /// Rows of existing data that have been read, and how many there are.
    pub rows_done: Option<i64>,
    pub rows_total: Option<i64>,
    /// Microseconds since 1970.
    pub started_at: Option<i64>,
    pub error: Option<String>,
}

/// A row that a source did not count. Times in microseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LateRowFact {
    pub source: Oid,
    pub read_at: i64,
    /// `late`, `future`
    pub reason: String,
    pub event_time: i64,
    /// The watermark, or the latest time that was allowed.
    pub limit: i64,
    pub row: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceFact {
    pub oid: Oid,
    /// `running`, `paused`, `idle`, `finished`, `failed`
    pub state: String,
    /// The position it would go on from, as the connector writes it.
    pub offsets: Option<String>,
    pub watermark: Option<i64>,
    pub rows: i64,
    pub late_rows: i64,
    pub future_rows: i64,
    pub bad_rows: i64,
    pub stale_rows: i64,
    /// Columns that its records have and it has not.
    pub unknown_columns: Option<String>,
    /// How much is known to be there and not read yet.
    pub lag_rows: Option<i64>,
    pub lag_bytes: Option<i64>,
    pub lag_seconds: Option<f64>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SinkFact {
    pub oid: Oid,
    pub state: String,
    pub delivered_epoch: Option<Epoch>,
    pub epochs_behind: u64,
    pub rows: i64,
    pub failures: i64,
    pub next_attempt: Option<i64>,
    pub pending_rows: i64,
    pub pending_bytes: i64,
    pub error: Option<String>,
}

/// One of an object's lookups in another system.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LookupFact {
    pub object: Oid,
    pub table: String,
    pub rows_waiting: i64,
    pub bytes_waiting: i64,
    pub keys_waiting: i64,
    pub keys_cached: i64,
    pub keys_asked: i64,
    pub cache_hits: i64,
    pub failures: i64,
    pub next_attempt: Option<i64>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EpochFact {
    pub epoch: Epoch,
    pub committed: i64,
    pub duration_ms: f64,
    /// Of that, until the disk has it.
    pub commit_ms: f64,
    pub rows_in: i64,
    pub rows_out: i64,
    pub bytes: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SettingFact {
    pub name: String,
    pub value: String,
    pub default: String,
    pub unit: Option<String>,
    pub description: String,
    /// `default`, `session`, `configuration file`, `environment variable`, `command line`
    pub source: String,
    /// `user`: by SET; `postmaster`: only when the server starts; `internal`: never.
    pub context: String,
    /// `bool`, `integer`, `real`, `string`, `enum`
    pub kind: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionFact {
    pub pid: i32,
    pub user: String,
    pub application_name: String,
    pub client_address: Option<String>,
    pub client_port: Option<i32>,
    pub started: i64,
    pub transaction_started: Option<i64>,
    pub query_started: Option<i64>,
    pub state_changed: Option<i64>,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`
    pub state: String,
    /// The last statement's text.
    pub query: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct CursorFact {
    pub name: String,
    pub statement: String,
    pub holdable: bool,
    pub binary: bool,
    pub scrollable: bool,
    pub created: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RelationSize {
    pub rows: i64,
    /// How many of them are kept by column.
    pub column_rows: i64,
    pub bytes: i64,
    /// Of its indexes.
    pub index_bytes: i64,
    /// Since the server started.
    pub rows_inserted: i64,
    pub rows_updated: i64,
    pub rows_deleted: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    Scalar,
    Aggregate,
    Window,
}

/// One way to call a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FunctionFact {
    pub name: String,
    pub kind: FunctionKind,
    /// Type names as Postgres has them; `"any"` where any type will do.
    pub arguments: Vec<String>,
    /// The last argument may be given any number of times.
    pub variadic: bool,
    pub result: String,
    /// `i`mmutable, `s`table, `v`olatile
    pub volatility: char,
}
