//! The task that reads for a reader: a copy first if there is none, then the stream; and again, when the connection was lost.
//!
//! ```text
//!   handed out  ── T1 ── T2 ── T3 (half) ─╳ connection lost
//!                          │at   │half: T3, 8192 rows
//!   again                  └─ T3: 8192 rows passed over, the rest handed out ── T4 ──▶
//! ```

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::{Error, Result};
use tokio::sync::mpsc;

use super::feedback::Feedback;
use super::lsn::Lsn;
use super::options::CdcOptions;
use super::position::Position;
use super::rows::Rows;
use super::slot::Lease;
use super::{snapshot, stream};
use crate::{Positions, SourceBatch};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a slot that is in use is tried again, with waits of a minute and a half together: a server takes a minute to notice that
/// a client is gone.
const TRIES_IN_USE: u32 = 9;

pub struct Worker {
    pub options: Arc<CdcOptions>,
    pub feedback: Arc<Feedback>,
    pub rows: Rows,
    pub lane: Arc<str>,
    /// Columns of the table that the source does not have, and that have not been told of.
    pub unknown: Vec<String>,
    pub sender: mpsc::Sender<Result<SourceBatch>>,
    /// All transactions before have been handed out whole; `None`: the copy has not.
    pub at: Option<Lsn>,
    /// The one that follows has been handed out in part.
    pub half: Option<Half>,
    /// That failed, one after the other.
    pub tries: u32,
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
        self.rows.clear()?;
        let from = match self.at {
            Some(at) => at,
            None => snapshot::copy(self).await?,
        };
        stream::follow(self, from).await
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

    /// What has come so far. Without a position it is a part of what becomes whole later.
    pub fn batch(&mut self, position: Option<Position>) -> Result<SourceBatch> {
        let (batch, changes, bytes) = self.rows.take()?;
        let positions = position.map(|position| (self.lane.to_string(), position.to_string()));
        Ok(SourceBatch {
            lane: Arc::clone(&self.lane),
            batch,
            places: None,
            unfinished: positions.is_none(),
            positions: Positions::from_iter(positions),
            bytes,
            dropped: 0,
            dead: Vec::new(),
            changes: Some(changes),
            unknown: std::mem::take(&mut self.unknown),
        })
    }
}

/// A server that is away, restarting, full, or a table that was changed under the copy.
fn passes(code: &str) -> bool {
    (code.starts_with("08") && code != "08P01") || matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "40001")
}

pub fn nobody_reads() -> Error {
    Error::internal("nobody reads any more")
}
