//! Sinks: what an epoch sends is part of its commit; a task delivers it epoch by epoch.
//!
//! ```text
//!   tick:  changes ──▶ Outbox{sink, epoch, n} in the commit
//!   task:  Outbox after the last delivered ──▶ SinkWriter::deliver(epoch) ──▶ Delivered(epoch) ──▶ next commit:
//!                                                                      SinkProgress = epoch, entries through it deleted
//! ```
//!
//! A crash between deliver and the next commit delivers that epoch again, which a writer must make harmless.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use tidemark_common::connector::Sink;
use tidemark_common::{Delta, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{EpochCommit, Key, Snapshot, Store, value};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use crate::engine::{Command, SinkDef};
use crate::operators::Chunks;

/// Longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const WEIGHT_COLUMN: &str = "__tidemark_weight";

/// The driver's side of a sink.
pub(crate) struct Outbox {
    sink: Oid,
    pub delivered: Epoch,
    /// Epochs that wait, with their bytes.
    pending: std::collections::VecDeque<(Epoch, u64)>,
    pub pending_bytes: u64,
    task: Option<AbortHandle>,
    wake: Arc<Notify>,
    pub report: Arc<Mutex<Report>>,
}

/// What the task has to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub error: Option<String>,
    pub rows: u64,
}

impl Outbox {
    pub fn open(sink: Oid, snapshot: &Arc<Snapshot>) -> Result<Self> {
        let delivered = snapshot.get_value(&Key::SinkProgress(sink))?.unwrap_or(0);
        let mut outbox = Self {
            sink,
            delivered,
            pending: Default::default(),
            pending_bytes: 0,
            task: None,
            wake: Arc::new(Notify::new()),
            report: Arc::default(),
        };
        let span = Key::outbox_after(sink, delivered);
        for entry in snapshot.scan(&span.start, &span.end) {
            let (key, stored) = entry?;
            if let Key::Outbox { epoch, .. } = Key::decode(&key)? {
                outbox.note(epoch, stored.len() as u64);
            }
        }
        Ok(outbox)
    }

    fn note(&mut self, epoch: Epoch, bytes: u64) {
        self.pending_bytes += bytes;
        match self.pending.back_mut() {
            Some((last, sum)) if *last == epoch => *sum += bytes,
            _ => self.pending.push_back((epoch, bytes)),
        }
    }

    pub fn pending_epochs(&self) -> u64 {
        self.pending.len() as u64
    }

    pub fn append(&mut self, epoch: Epoch, changes: &Chunks, commit: &mut EpochCommit) -> Result<()> {
        for (seq, delta) in changes.iter().enumerate() {
            let stored = value::frame(&encode(delta)?);
            self.note(epoch, stored.len() as u64);
            commit.put(&Key::Outbox { sink: self.sink, epoch, seq: seq as u32 }, &stored);
        }
        Ok(())
    }

    /// Forgets what has been delivered, with the next commit.
    pub fn delivered(&mut self, epoch: Epoch, commit: &mut EpochCommit) -> Result<()> {
        self.delivered = epoch;
        while let Some((first, bytes)) = self.pending.front().copied()
            && first <= epoch
        {
            self.pending.pop_front();
            self.pending_bytes -= bytes;
        }
        commit.put(&Key::SinkProgress(self.sink), &value::encode(&epoch)?);
        commit.delete_outbox_through(self.sink, epoch);
        Ok(())
    }

    /// The epoch is committed: the task may look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn start(
        &mut self,
        def: &SinkDef,
        store: Arc<Store>,
        commands: mpsc::WeakSender<Command>,
        runtime: &tokio::runtime::Handle,
    ) {
        let delivery = Delivery {
            oid: def.oid,
            name: def.name.clone(),
            sink: def.sink.clone(),
            store,
            commands,
            wake: self.wake.clone(),
            report: self.report.clone(),
            delivered: self.delivered,
        };
        self.stop();
        self.task = Some(runtime.spawn(delivery.run()).abort_handle());
    }

    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    pub fn is_running(&self) -> bool {
        self.task.is_some()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Delivery {
    oid: Oid,
    name: String,
    sink: Arc<dyn Sink>,
    store: Arc<Store>,
    commands: mpsc::WeakSender<Command>,
    wake: Arc<Notify>,
    report: Arc<Mutex<Report>>,
    delivered: Epoch,
}

impl Delivery {
    /// Delivers for ever; a failure is tried again, slower each time.
    async fn run(mut self) {
        let mut backoff = Duration::from_millis(100);
        loop {
            match self.deliver_all(&mut backoff).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(sink = self.name, %error, "delivery failed, trying again");
                    self.report(|r| r.error = Some(error.to_string()));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    /// Returns when the server stops.
    async fn deliver_all(&mut self, backoff: &mut Duration) -> Result<()> {
        let mut writer = self.sink.writer().await?;
        loop {
            let Some((epoch, changes)) = self.next_epoch()? else {
                self.wake.notified().await;
                continue;
            };
            let rows: usize = changes.iter().map(Delta::num_rows).sum();
            writer.deliver(epoch, changes).await?;
            self.delivered = epoch;
            *backoff = Duration::from_millis(100);
            self.report(|r| {
                r.error = None;
                r.rows += rows as u64;
            });
            let Some(commands) = self.commands.upgrade() else { return Ok(()) };
            if commands.send(Command::Delivered(self.oid, epoch)).await.is_err() {
                return Ok(());
            }
        }
    }

    fn next_epoch(&self) -> Result<Option<(Epoch, Chunks)>> {
        let snapshot = self.store.snapshot();
        let span = Key::outbox_after(self.oid, self.delivered);
        let mut found: Option<(Epoch, Chunks)> = None;
        for entry in snapshot.scan(&span.start, &span.end) {
            let (key, stored) = entry?;
            let Key::Outbox { epoch, .. } = Key::decode(&key)? else { continue };
            match &mut found {
                None => found = Some((epoch, vec![decode(value::unframe(&stored)?)?])),
                Some((of, chunks)) if *of == epoch => chunks.push(decode(value::unframe(&stored)?)?),
                Some(_) => break,
            }
        }
        Ok(found)
    }

    fn report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A delta as an Arrow IPC stream, the weights as one more column where there are any.
fn encode(delta: &Delta) -> Result<Vec<u8>> {
    let batch = match &delta.weights {
        None => delta.batch.clone(),
        Some(weights) => {
            let mut fields: Vec<_> = delta.batch.schema().fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false)));
            let mut columns = delta.batch.columns().to_vec();
            columns.push(Arc::new(weights.clone()) as ArrayRef);
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?
        }
    };
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn decode(bytes: &[u8]) -> Result<Delta> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    let corrupted = || Error::new(SqlState::DataCorrupted, "an outbox entry holds no batch");
    let batch = reader.next().ok_or_else(corrupted)??;
    let last = batch.num_columns().saturating_sub(1);
    if batch.schema().fields().get(last).is_none_or(|f| f.name() != WEIGHT_COLUMN) {
        return Ok(Delta::inserts(batch));
    }
    let weights = batch.column(last).as_any().downcast_ref::<Int64Array>().cloned().ok_or_else(corrupted)?;
    let columns: Vec<usize> = (0..last).collect();
    Ok(Delta::new(batch.project(&columns)?, Some(weights)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_survives_the_outbox() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        for delta in [Delta::inserts(batch.clone()), Delta::new(batch, Some(Int64Array::from(vec![1, -2])))] {
            let back = decode(&encode(&delta).unwrap()).unwrap();
            assert_eq!(back.batch.column(0), delta.batch.column(0));
            assert_eq!(back.weights, delta.weights);
        }
    }
}
