//! The task that reads for a reader: a copy first if there is none, then the stream; and again, when the connection was lost.
//!
//! ```text
//!   handed out  ── T1 ── T2 ── T3 (half) ─╳ connection lost
//!                          │at   │half: T3, 8192 rows
//!   again                  └─ T3: 8192 rows passed over, the rest handed out ── T4 ──▶
//! ```

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use tidemark_common::{Error, Result};
use tokio::sync::mpsc;

use super::feedback::Feedback;
use super::lsn::Lsn;
use super::options::CdcOptions;
use super::position::Position;
use super::rows::Rows;
use super::slot::Lease;
use super::{join, snapshot, stream};
use crate::{Positions, SourceBatch};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a slot that is in use is tried again, with waits of a minute and a half together: a server takes a minute to notice that
/// a client is gone.
const TRIES_IN_USE: u32 = 9;

pub struct Worker {
    pub options: Arc<CdcOptions>,
    pub feedback: Arc<Feedback>,
    /// One, which is all of the source; or those that share it.
    pub tables: Vec<Following>,
    /// The split of the stream.
    pub lane: Arc<str>,
    pub sender: mpsc::Sender<Result<SourceBatch>>,
    /// All transactions before have been handed out whole; `None`: the copy has not.
    pub at: Option<Lsn>,
    /// The one that follows has been handed out in part.
    pub half: Option<Half>,
    /// That failed, one after the other.
    pub tries: u32,
}

/// A table that is read.
pub struct Following {
    pub options: Arc<CdcOptions>,
    pub rows: Rows,
    /// Where its rows go, and the split of its copy; none if it is all of the source.
    pub part: Option<(u32, Arc<str>)>,
    /// Transactions that commit from there on count for it; `None`: it has not been copied.
    pub copied: Option<Lsn>,
    /// Columns that it has and the source has not, and that have not been told of.
    pub unknown: Vec<String>,
}

/// Some rows of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    pub commit: Lsn,
    pub rows: usize,
}

impl Worker {
    /// Reads until nobody wants more, or something fails that does not pass.
    pub async fn run(mut self) {
        let sender = self.sender.clone();
        let reads = async {
            loop {
                let Err(error) = self.attempt().await else { continue };
                let error = error.context(format_args!("source \"{}\"", self.options.name));
                match self.waits(&error) {
                    Some(wait) => {
                        tracing::warn!(source = self.options.name, %error, ?wait, "postgres-cdc: tried again");
                        tokio::time::sleep(wait).await;
                    }
                    None => return error,
                }
            }
        };
        tokio::select! {
            () = sender.closed() => {}
            error = reads => {
                // Nobody to tell if the reader is gone.
                let _told = sender.send(Err(error)).await;
            }
        }
    }

    async fn attempt(&mut self) -> Result<()> {
        let _lease = Lease::take(&self.options)?;
        self.tables.iter_mut().try_for_each(|table| table.rows.clear())?;
        if self.options.is_shared {
            let from = match self.at {
                Some(at) => at,
                None => join::begin(self).await?,
            };
            let join = join::prepare(self).await?;
            return stream::follow(self, from, join).await;
        }
        let from = match self.at {
            Some(at) => at,
            None => snapshot::copy(self).await?,
        };
        stream::follow(self, from, None).await
    }

    /// How long to wait before it is tried again; `None`: waiting does not help.
    fn waits(&mut self, error: &Error) -> Option<Duration> {
        self.tries += 1;
        let passes = match error.code() {
            "55006" => self.tries <= TRIES_IN_USE,
            code => passes(code),
        };
        passes.then(|| LONGEST_WAIT.min(FIRST_WAIT * (1 << (self.tries - 1).min(8))))
    }

    /// What has come so far, of one table after the other. Without a position it is a part of what becomes whole later.
    pub fn batches(&mut self, position: Option<Position>) -> Result<Vec<SourceBatch>> {
        let mut batches = Vec::new();
        let lane = Arc::clone(&self.lane);
        for table in self.tables.iter_mut().filter(|table| table.part.is_none() || !table.rows.is_empty()) {
            batches.push(SourceBatch { unfinished: true, ..table.batch(&lane)? });
        }
        if batches.is_empty() {
            batches.push(nothing(&lane));
        }
        if let (Some(position), Some(last)) = (position, batches.last_mut()) {
            last.unfinished = false;
            last.positions.insert(lane.to_string(), position.to_string());
        }
        Ok(batches)
    }

    /// What has been copied of a table.
    pub fn copied(&mut self, place: usize, position: Position) -> Result<SourceBatch> {
        let lane = Arc::clone(&self.lane);
        let table = &mut self.tables[place];
        let split = table.part.as_ref().map_or(&lane, |(_, split)| split).to_string();
        Ok(SourceBatch { positions: Positions::from([(split, position.to_string())]), ..table.batch(&lane)? })
    }

    pub fn has_rows(&self) -> bool {
        self.tables.iter().any(|table| !table.rows.is_empty())
    }
}

impl Following {
    fn batch(&mut self, lane: &Arc<str>) -> Result<SourceBatch> {
        let (batch, changes, bytes) = self.rows.take()?;
        let unknown = std::mem::take(&mut self.unknown).into_iter();
        let place = &self.options.place;
        let unknown = unknown.map(|name| if self.part.is_some() { format!("{}.{name}", place.table) } else { name });
        Ok(SourceBatch {
            batch,
            bytes,
            changes: Some(changes),
            into: self.part.as_ref().map(|(id, _)| *id),
            unknown: unknown.collect(),
            ..nothing(lane)
        })
    }
}

/// No rows, of no table.
fn nothing(lane: &Arc<str>) -> SourceBatch {
    SourceBatch {
        lane: Arc::clone(lane),
        batch: RecordBatch::new_empty(Arc::new(Schema::empty())),
        places: None,
        positions: Positions::new(),
        bytes: 0,
        dropped: 0,
        dead: Vec::new(),
        changes: None,
        unfinished: false,
        unknown: Vec::new(),
        into: None,
    }
}

/// A server that is away, restarting, full, or a table that was changed under the copy.
fn passes(code: &str) -> bool {
    (code.starts_with("08") && code != "08P01") || matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "40001")
}

pub fn nobody_reads() -> Error {
    Error::internal("nobody reads any more")
}
