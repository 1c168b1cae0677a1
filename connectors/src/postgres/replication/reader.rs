//! The reader: takes what its worker hands out.

use std::sync::Arc;

use async_trait::async_trait;
use tidemark_common::{Error, Result, SqlState};
use tokio::sync::mpsc;

use super::feedback::Feedback;
use super::options::CdcOptions;
use super::position::Position;
use super::rows::Rows;
use super::worker::{Following, Worker};
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
    tables: &[(u32, Arc<CdcOptions>)],
    from: &Positions,
    until: Option<&Positions>,
    projection: Option<&[usize]>,
) -> Result<CdcReader> {
    let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
    let reader = CdcReader { batches, feedback: Arc::clone(feedback) };
    let lane: Arc<str> = options.lane().into();
    let at = Position::of(from, &lane)?;
    let tables = match options.is_shared {
        true => tables.iter().map(|(id, of)| shared(*id, of, from)).collect::<Result<_>>()?,
        false => {
            let rows = Rows::new(&options.schema, projection)?;
            let options = Arc::clone(options);
            vec![Following { options, rows, part: None, copied: at, unknown: Vec::new() }]
        }
    };
    match until {
        None => {}
        // Nothing has been read: nothing is read again.
        Some(until) if until.is_empty() => return Ok(reader),
        Some(_) if options.is_shared => return Err(no_rows(&options.name)),
        Some(_) => return Err(Error::internal("a postgres-cdc source cannot be read again: its rows are kept here")),
    }
    let (options, feedback) = (Arc::clone(options), Arc::clone(feedback));
    let worker = Worker { options, feedback, tables, lane, sender, at, half: None, tries: 0 };
    tokio::spawn(worker.run());
    Ok(reader)
}

/// One of the tables that share a source.
fn shared(id: u32, options: &Arc<CdcOptions>, from: &Positions) -> Result<Following> {
    let split: Arc<str> = format!("{}#{id}", options.place.label()).into();
    let copied = Position::of(from, &split)?;
    let (options, rows) = (Arc::clone(options), Rows::new(&options.schema, None)?);
    Ok(Following { options, rows, part: Some((id, split)), copied, unknown: Vec::new() })
}

/// Somebody reads from the source and not from its tables.
fn no_rows(name: &str) -> Error {
    Error::new(SqlState::WrongObjectType, format!("source \"{name}\" has no rows: its tables have them"))
        .with_hint(format!("CREATE TABLE name (*) FROM {name} TABLE 'schema.table', and read that."))
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
