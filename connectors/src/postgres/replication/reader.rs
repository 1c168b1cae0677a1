//! The reader: takes what its worker hands out.

use std::sync::Arc;

use async_trait::async_trait;
use tidemark_common::{Error, Result};
use tokio::sync::mpsc;

use super::feedback::Feedback;
use super::options::CdcOptions;
use super::position::Position;
use super::rows::Rows;
use super::worker::Worker;
use crate::{Positions, SourceBatch, SourceReader};

/// Batches that wait between the worker and the reader.
const QUEUED_BATCHES: usize = 4;

pub struct CdcReader {
    batches: mpsc::Receiver<Result<SourceBatch>>,
    feedback: Arc<Feedback>,
}

pub fn start(
    options: &Arc<CdcOptions>,
    feedback: &Arc<Feedback>,
    from: &Positions,
    until: Option<&Positions>,
    projection: Option<&[usize]>,
) -> Result<CdcReader> {
    let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
    let reader = CdcReader { batches, feedback: Arc::clone(feedback) };
    let lane: Arc<str> = options.place.label().into();
    let at = Position::of(from, &lane)?;
    let rows = Rows::new(&options.schema, projection)?;
    match until {
        None => {}
        // Nothing has been read: nothing is read again.
        Some(until) if until.is_empty() => return Ok(reader),
        Some(_) => return Err(Error::internal("a postgres-cdc source cannot be read again: its rows are kept here")),
    }
    let (options, feedback) = (Arc::clone(options), Arc::clone(feedback));
    let worker = Worker { options, feedback, rows, lane, unknown: Vec::new(), sender, at, half: None, tries: 0 };
    tokio::spawn(worker.run());
    Ok(reader)
}

#[async_trait]
impl SourceReader for CdcReader {
    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        self.batches.recv().await.transpose()
    }

    /// The server's log is not counted in rows.
    fn lag_rows(&self) -> Option<u64> {
        None
    }

    fn lag_bytes(&self) -> Option<u64> {
        self.feedback.lag()
    }
}
