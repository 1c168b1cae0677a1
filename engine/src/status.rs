//! What runs and how it does, as of the last epoch: the facts behind the system tables and metrics.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemark_common::connector::MissingColumn;
use tidemark_common::{Epoch, Error, Oid};

use crate::dataflow::NodeStats;
use crate::operators::lookup_join::LookupStatus;
use crate::source_input::RefusedRow;

/// Epochs that are remembered.
pub(crate) const EPOCHS_KEPT: usize = 1000;

#[derive(Debug, Clone, Default)]
pub struct Status {
    pub jobs: Vec<JobStatus>,
    pub sources: Vec<SourceStatus>,
    pub sinks: Vec<SinkStatus>,
    /// The newest last.
    pub epochs: Arc<VecDeque<EpochStatus>>,
    pub transactions: u64,
    pub conflicts: u64,
    /// Rows that all sources have given since the start.
    pub source_rows: u64,
    /// Why the clock stopped.
    pub clock_error: Option<Error>,
    pub running: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    Backfilling,
    Running,
    Paused,
    Failed(String),
}

impl JobState {
    pub fn name(&self) -> &'static str {
        match self {
            JobState::Backfilling => "backfilling",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Failed(_) => "failed",
        }
    }
}

/// A dataflow: a materialized view or a sink.
#[derive(Debug, Clone)]
pub struct JobStatus {
    pub oid: Oid,
    pub name: String,
    pub kind: &'static str,
    pub state: JobState,
    /// Microseconds since 1970.
    pub created: i64,
    /// Rows of existing data that its backfill has read.
    pub rows_done: u64,
    /// Rows of existing data that there are for it, where that is known.
    pub rows_total: Option<u64>,
    pub rows_in: u64,
    pub rows_out: u64,
    pub state_entries: u64,
    pub state_bytes: u64,
    pub late_rows: u64,
    pub lookups: Vec<LookupStatus>,
    pub nodes: Vec<NodeStats>,
}

#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub oid: Oid,
    pub name: String,
    /// running, retrying, paused, finished, failed
    pub state: &'static str,
    pub error: Option<String>,
    /// Split and position, as text.
    pub positions: Vec<(String, String)>,
    /// Microseconds of event time.
    pub watermark: Option<i64>,
    pub rows: u64,
    pub late_rows: u64,
    /// Rows that lay too far ahead.
    pub future_rows: u64,
    /// The last rows that were late or too far ahead, the newest last.
    pub refused: Arc<VecDeque<RefusedRow>>,
    /// Records that could not be decoded.
    pub dropped: u64,
    /// Records that came after later ones of their keys, and counted for nothing.
    pub stale_rows: u64,
    /// Columns that records have and the source has not.
    pub unknown_columns: Vec<String>,
    /// Those that it has stopped before, so that it can be given them.
    pub missing_columns: Vec<MissingColumn>,
    pub bytes: u64,
    /// Rows known to wait.
    pub lag_rows: Option<u64>,
    /// That the other system keeps because they are not stored here yet.
    pub lag_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct SinkStatus {
    pub oid: Oid,
    pub name: String,
    /// running, paused, retrying, failed
    pub state: &'static str,
    pub error: Option<String>,
    pub delivered_epoch: Epoch,
    pub delivered_rows: u64,
    pub pending_epochs: u64,
    /// Attempts in a row that have failed, and when the next is due, in microseconds since 1970.
    pub failures: u64,
    pub next_attempt: Option<i64>,
    pub pending_rows: u64,
    pub pending_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct EpochStatus {
    pub epoch: Epoch,
    /// Microseconds since 1970 at which it was committed.
    pub committed_at: i64,
    pub duration_micros: u64,
    pub commit_micros: u64,
    /// Rows that came in, from sources and transactions.
    pub rows: u64,
    /// Rows that views and sinks changed by.
    pub rows_out: u64,
    /// Bytes of the commit.
    pub bytes: u64,
    pub transactions: u32,
}
