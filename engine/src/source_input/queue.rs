//! What a reader task has read ahead: bounded, and whole transactions at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_common::connector::{Positions, Source, SourceBatch};
use tidemark_common::{Error, Result};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How often it is asked how much waits behind, while nothing comes.
const LAG_IS_TOLD: Duration = Duration::from_secs(1);

/// How much a queue may hold before its reader waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub rows: usize,
    pub bytes: usize,
}

/// Called when a queue has something for the driver.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

/// What waits in the other system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

impl Lag {
    fn of(reader: &dyn tidemark_common::connector::SourceReader) -> Self {
        Self { rows: reader.lag_rows(), bytes: reader.lag_bytes() }
    }
}

#[derive(Default)]
struct QueueState {
    batches: VecDeque<SourceBatch>,
    rows: usize,
    bytes: usize,
    lag: Lag,
    /// What its reader waits for.
    trouble: Option<Error>,
    /// Set once the reader has nothing more: at its end, or failed.
    ended: Option<Result<()>>,
}

impl QueueState {
    /// Batches at the front after which no transaction is open; all, if it is open because the queue is too short for it.
    fn whole_batches(&self, limits: QueueLimits) -> usize {
        let is_full = self.rows >= limits.rows || self.bytes >= limits.bytes;
        match self.batches.iter().rposition(|batch| !batch.unfinished) {
            Some(last) => last + 1,
            // More than the queue holds: it comes in parts.
            None if is_full => self.batches.len(),
            None => 0,
        }
    }

    /// What there is of a transaction that was not read to its end goes: it will be read again.
    fn end(&mut self, result: Result<()>) {
        while let Some(half) = self.batches.pop_back_if(|batch| batch.unfinished) {
            self.rows -= half.batch.num_rows();
            self.bytes -= half.bytes;
        }
        self.ended = Some(result);
    }
}

/// A reader task and what it has read ahead.
pub(crate) struct ReadAhead {
    limits: QueueLimits,
    state: Arc<(Mutex<QueueState>, Notify)>,
    task: AbortHandle,
}

fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadAhead {
    pub fn start(
        runtime: &tokio::runtime::Handle,
        source: Arc<dyn Source>,
        from: Positions,
        until: Option<Positions>,
        projection: Vec<usize>,
        limits: QueueLimits,
        waker: Waker,
    ) -> Self {
        let state = Arc::new((Mutex::new(QueueState::default()), Notify::new()));
        let shared = state.clone();
        let task = runtime.spawn(async move {
            let result = read(&*source, &from, until.as_ref(), &projection, limits, &shared, &waker).await;
            lock(&shared.0).end(result);
            waker();
        });
        Self { limits, state, task: task.abort_handle() }
    }

    /// Takes whole batches, at least one if there is any, until they hold `rows`; of a transaction all or none, unless it is more
    /// than the queue holds.
    pub fn take(&self, rows: usize) -> Vec<SourceBatch> {
        let mut state = lock(&self.state.0);
        let mut taken = Vec::new();
        let mut taken_rows = 0;
        let mut whole = state.whole_batches(self.limits);
        while (taken_rows < rows || taken.last().is_some_and(|last: &SourceBatch| last.unfinished))
            && whole > 0
            && let Some(batch) = state.batches.pop_front()
        {
            whole -= 1;
            taken_rows += batch.batch.num_rows();
            state.rows -= batch.batch.num_rows();
            state.bytes -= batch.bytes;
            taken.push(batch);
        }
        drop(state);
        self.state.1.notify_one();
        taken
    }

    /// Those that an epoch can take.
    pub fn queued_rows(&self) -> usize {
        let state = lock(&self.state.0);
        match state.whole_batches(self.limits) {
            all if all == state.batches.len() => state.rows,
            whole => state.batches.iter().take(whole).map(|batch| batch.batch.num_rows()).sum(),
        }
    }

    pub fn has_batches(&self) -> bool {
        lock(&self.state.0).whole_batches(self.limits) > 0
    }

    pub fn lag(&self) -> Lag {
        let state = lock(&self.state.0);
        Lag { rows: state.lag.rows.map(|lag| lag + state.rows as u64), ..state.lag }
    }

    /// What its reader waits for, if something is wrong.
    pub fn trouble(&self) -> Option<Error> {
        lock(&self.state.0).trouble.clone()
    }

    /// How it ended, once everything it read has been taken.
    pub fn ended(&self) -> Option<Result<()>> {
        let state = lock(&self.state.0);
        if state.batches.is_empty() { state.ended.clone() } else { None }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(
    source: &dyn Source,
    from: &Positions,
    until: Option<&Positions>,
    projection: &[usize],
    limits: QueueLimits,
    shared: &(Mutex<QueueState>, Notify),
    waker: &Waker,
) -> Result<()> {
    let mut reader = source.reader(from, until, Some(projection)).await?;
    loop {
        loop {
            let full = {
                let state = lock(&shared.0);
                state.rows >= limits.rows || state.bytes >= limits.bytes
            };
            if !full {
                break;
            }
            shared.1.notified().await;
        }
        let Ok(next) = tokio::time::timeout(LAG_IS_TOLD, reader.next()).await else {
            let (mut state, lag) = (lock(&shared.0), Lag::of(&*reader));
            state.trouble = reader.trouble();
            if std::mem::replace(&mut state.lag, lag) != lag {
                drop(state);
                waker();
            }
            continue;
        };
        let Some(batch) = next? else { return Ok(()) };
        {
            let mut state = lock(&shared.0);
            state.rows += batch.batch.num_rows();
            state.bytes += batch.bytes;
            state.lag = Lag::of(&*reader);
            state.trouble = reader.trouble();
            state.batches.push_back(batch);
        }
        waker();
    }
}
