//! A job: the running dataflow of a materialized view or a sink, and where its output goes.
//!
//! ```text
//!   changes of its inputs (or a backfill's chunk of them) ──RunningDataflow──▶ changes ──▶ view's contents
//!                                                                                   └──▶ outbox of a sink
//! ```
//!
//! A job that fails (a division by zero in a view's expression) stops alone: nothing of the epoch in which it failed is kept
//! of it, and whoever reads it is told why. Everything else goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_common::plan::{Dataflow, Op};
use tidemark_common::{Clock, Delta, Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{Collection, CollectionWriter, EpochCommit, Key, Snapshot, Store};
use tokio::sync::mpsc;

use crate::backfill::{Progress, Replaying};
use crate::dataflow::{CollectionChanges, RunningDataflow};
use crate::engine::{Command, Definition, SinkDef, ViewDef};
use crate::operators::lookup_join::Outside;
use crate::operators::{Chunks, Held, HeldCollections};
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::state_limit::StateLimit;
use crate::status::{JobState, JobStatus, SinkStatus};

/// What outlives a restart of a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Stored {
    /// The dataflow has stepped once.
    started: bool,
    /// When it was created, in microseconds since 1970.
    created: i64,
    inputs: BTreeMap<Oid, Progress>,
    /// The plan that made the state on disk.
    fingerprint: String,
    failed: Option<String>,
    paused: bool,
}

impl Stored {
    fn rows_done(&self) -> u64 {
        self.inputs.values().map(Progress::rows).sum()
    }
}

pub(crate) enum Output {
    View(Box<CollectionWriter>),
    Sink {
        outbox: Outbox,
        def: SinkDef,
    },
    /// A sink that keeps nothing: its rows are counted.
    Discard {
        rows: u64,
        /// The last one.
        epoch: Epoch,
    },
}

pub(crate) struct Job {
    pub oid: Oid,
    /// Whose OID its state is kept under.
    pub storage: Oid,
    pub name: String,
    plan: Arc<Dataflow>,
    /// Inputs whose rows joins look up instead of keeping them.
    looks_up_in: BTreeSet<Oid>,
    running: RunningDataflow,
    pub output: Output,
    stored: Stored,
    /// Of its backfill.
    pub pace: Pace,
    /// What this epoch's chunk of it took.
    pub chunk: Option<ChunkWork>,
    pub replays: HashMap<Oid, Replaying>,
    /// What this epoch's replays gave, by source.
    pub replayed: HashMap<Oid, CollectionChanges>,
    /// What was stored when the epoch began, if something has moved since.
    at_start: Option<StoredMark>,
    state_limit: Option<StateLimit>,
    /// Why it failed in this life of the server.
    error: Option<Error>,
    rows_in: u64,
    rows_out: u64,
}

/// A chunk of a backfill: its rows, the time they took, and what they add to the commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkWork {
    pub rows: u64,
    pub micros: i64,
    pub bytes: usize,
}

impl Job {
    /// Opens it where the last epoch left it, or new. State made by another plan is removed and built again.
    pub fn open(
        definition: Definition,
        snapshot: &Arc<Snapshot>,
        shards: usize,
        cache: usize,
        is_source: &dyn Fn(Oid) -> bool,
        (now, interval): (i64, i64),
        commit: &mut EpochCommit,
    ) -> Result<Self> {
        let (oid, storage, name, plan) = match &definition {
            Definition::View(ViewDef { oid, storage, name, dataflow, .. }) => {
                (*oid, *storage, name.clone(), dataflow.clone())
            }
            Definition::Sink(SinkDef { oid, name, dataflow, .. }) => (*oid, *oid, name.clone(), dataflow.clone()),
            Definition::Table(_) | Definition::Source(_) => return Err(Error::internal("not a job")),
        };
        let fingerprint = plan.fingerprint();
        let before: Option<Stored> = snapshot.get_value(&Key::Job { oid: storage, what: "state" })?;
        let stored = match before {
            Some(stored) if stored.fingerprint == fingerprint => stored,
            other => {
                if other.is_some() {
                    tracing::warn!(job = name, "the plan has changed with this version: building it again");
                    commit.delete_data_of(storage);
                    if let Definition::View(def) = &definition {
                        def.indexes.iter().for_each(|index| commit.delete_collection(index.id()));
                    }
                }
                let inputs = plan.inputs().into_iter().map(|i| (i, crate::backfill::begin(i, is_source(i)))).collect();
                Stored { inputs, fingerprint, created: now, ..Stored::default() }
            }
        };
        let (rate, max_state_entries) = match &definition {
            Definition::View(def) => (def.backfill_rate, def.max_state_entries),
            _ => (None, None),
        };
        let output = match definition {
            Definition::View(def) => {
                Output::View(Box::new(CollectionWriter::new(def.collection, cache).with_indexes(def.indexes)))
            }
            Definition::Sink(def) if def.sink.discards() => Output::Discard { rows: 0, epoch: snapshot.epoch() },
            Definition::Sink(def) => Output::Sink { outbox: Outbox::open(oid, snapshot)?, def },
            Definition::Table(_) | Definition::Source(_) => return Err(Error::internal("not a job")),
        };
        Ok(Self {
            running: RunningDataflow::new(plan.clone(), storage, shards, cache)?,
            oid,
            storage,
            name,
            looks_up_in: plan.lookups().into_iter().map(|(collection, _)| collection).collect(),
            plan,
            output,
            stored,
            pace: Pace::new(rate, interval, now),
            replays: HashMap::new(),
            replayed: HashMap::new(),
            chunk: None,
            at_start: None,
            state_limit: max_state_entries.map(StateLimit::new),
            error: None,
            rows_in: 0,
            rows_out: 0,
        })
    }

    pub fn inputs(&self) -> impl Iterator<Item = Oid> + '_ {
        self.stored.inputs.keys().copied()
    }

    pub fn progress_mut(&mut self, input: Oid) -> Option<&mut Progress> {
        self.stored.inputs.get_mut(&input)
    }

    /// It reads the source again, from its beginning.
    pub fn is_replaying(&self, source: Oid) -> bool {
        self.stored.failed.is_none() && matches!(self.stored.inputs.get(&source), Some(Progress::Replaying { .. }))
    }

    /// What was stored before this epoch.
    pub fn mark_at_start(&mut self) -> StoredMark {
        self.at_start.take().unwrap_or_else(|| self.mark())
    }

    /// Remembers what was stored, before anything of this epoch moves it.
    pub fn begin_epoch(&mut self) {
        if self.at_start.is_none() {
            self.at_start = Some(self.mark());
        }
    }

    /// Takes back what this epoch moved.
    pub fn restore(&mut self, mark: &StoredMark) {
        self.stored = mark.0.clone();
    }

    pub fn replaying(&mut self, input: Oid) -> (Option<&mut Replaying>, Option<&mut Progress>) {
        (self.replays.get_mut(&input), self.stored.inputs.get_mut(&input))
    }

    /// Columns that the dataflow reads of an input.
    pub fn columns_of(&self, input: Oid) -> Vec<usize> {
        let mut columns: Vec<usize> = self
            .plan
            .nodes
            .iter()
            .filter_map(|n| match &n.op {
                Op::Input { collection, projection, .. } if *collection == input => Some(projection.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// What it looks rows up in, of what is stored, before this epoch moves its backfill on.
    pub fn held(&self, stored: &HeldCollections) -> HeldCollections {
        let held = |oid: &Oid| {
            let seen = self.stored.inputs.get(oid)?.seen();
            Some((*oid, Held { seen, ..stored.get(oid)?.clone() }))
        };
        self.looks_up_in.iter().filter_map(held).collect()
    }

    pub fn is_backfilling(&self) -> bool {
        self.stored.failed.is_none() && self.stored.inputs.values().any(|p| !p.is_live())
    }

    /// Microseconds until a step would move its backfill on without any new input. `building`: views that cannot be read yet.
    pub fn backfill_due_in(&self, now: i64, building: impl Fn(Oid) -> bool) -> Option<i64> {
        if self.replays.values().any(|r| r.hurries && r.is_due()) {
            return Some(0);
        }
        let waits = self.stored.failed.is_none()
            && self.stored.inputs.iter().any(|(oid, progress)| match progress {
                Progress::Live { .. } => false,
                Progress::Scanning { .. } => !building(*oid),
                Progress::Replaying { .. } => self.replays.get(oid).is_none_or(Replaying::is_due),
            });
        if waits { self.pace.due_in(now) } else { None }
    }

    /// Rows of existing data that its backfill has read.
    pub fn rows_done(&self) -> u64 {
        self.stored.rows_done()
    }

    /// `None`: it is still being built; else whether it can be read.
    pub fn built(&self) -> Option<Result<()>> {
        match &self.error {
            Some(error) => Some(Err(error.clone())),
            None if self.is_backfilling() || !self.stored.started => None,
            None => Some(Ok(())),
        }
    }

    pub fn collection(&self) -> Option<&Arc<Collection>> {
        match &self.output {
            Output::View(writer) => Some(writer.collection()),
            _ => None,
        }
    }

    pub fn failure(&self) -> Option<&str> {
        self.stored.failed.as_deref()
    }

    /// Why the view cannot be read now.
    pub fn unreadable(&self) -> Option<Error> {
        let error = |message: String| Error::new(SqlState::ObjectNotInPrerequisiteState, message);
        if let Some(reason) = &self.stored.failed {
            return Some(
                error(format!("materialized view \"{}\" has failed: {reason}", self.name))
                    .with_hint("Mend the data or the query, then DROP and CREATE it again."),
            );
        }
        self.is_backfilling().then(|| {
            error(format!("materialized view \"{}\" is still being built", self.name))
                .with_hint("SHOW JOBS shows its progress.")
        })
    }

    /// True if this step has anything to do.
    pub fn has_work(&self, inputs: &BTreeMap<Oid, CollectionChanges>, now: i64) -> bool {
        self.stored.failed.is_none()
            && (!self.stored.started
                || inputs.values().any(|c| !c.chunks.is_empty() || !c.watermarks.is_empty())
                || self.is_backfilling()
                || self.is_due(now))
    }

    /// Time alone gives it something to do.
    pub fn is_due(&self, now: i64) -> bool {
        // An error there is met again, and told, by the step.
        self.stored.failed.is_none() && self.running.due_at().map_or(true, |due| due.is_some_and(|at| at <= now))
    }

    /// Runs one epoch. What it writes is added to `commit` only if all of it went well.
    pub fn step(
        &mut self,
        epoch: Epoch,
        snapshot: &Arc<Snapshot>,
        inputs: &BTreeMap<Oid, CollectionChanges>,
        held: &HeldCollections,
        now: i64,
        commit: &mut EpochCommit,
    ) -> Result<CollectionChanges> {
        let mut own = EpochCommit::new(epoch);
        if let Some(limit) = &mut self.state_limit {
            limit.check(snapshot, self.storage, &self.name)?;
        }
        let first = !self.stored.started;
        let mut changes = self.running.step(epoch, snapshot, held, first, inputs, now)?;
        changes.chunks.retain(|c| !c.is_empty());
        self.running.flush(&mut own)?;
        self.rows_in += inputs.values().flat_map(|c| &c.chunks).map(|c| c.num_rows() as u64).sum::<u64>();
        let rows: u64 = changes.chunks.iter().map(|c| c.num_rows() as u64).sum();
        self.rows_out += rows;
        match &mut self.output {
            Output::View(writer) if !changes.chunks.is_empty() => {
                let schema = writer.collection().schema().clone();
                changes.chunks = restate(&schema, std::mem::take(&mut changes.chunks))?;
                writer.apply(snapshot, &Delta::concat(&schema, &changes.chunks)?, &mut own)?;
            }
            Output::View(_) => {}
            Output::Sink { outbox, .. } => outbox.append(epoch, &changes.chunks, &mut own)?,
            Output::Discard { rows: all, epoch: last } => {
                *all += rows;
                *last = epoch;
            }
        }
        self.stored.started = true;
        commit.append(&own);
        Ok(changes)
    }

    /// Tells other systems what its lookups ask them, now that what waits for the answers is committed.
    pub fn reach_out(&mut self, outside: &Outside, shards: usize) -> Result<()> {
        match self.running.reach_out(outside) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(&error, shards),
        }
    }

    /// Bytes of rows that wait for answers of other systems.
    pub fn bytes_waiting(&self) -> u64 {
        self.running.lookups().iter().map(|lookup| lookup.bytes_waiting).sum()
    }

    /// Stores what has moved besides the state.
    pub fn store(&self, before: &StoredMark, commit: &mut EpochCommit) -> Result<()> {
        if self.stored != before.0 {
            commit.put_value(&Key::Job { oid: self.storage, what: "state" }, &self.stored)?;
        }
        Ok(())
    }

    pub fn mark(&self) -> StoredMark {
        StoredMark(self.stored.clone())
    }

    /// Stops for good; the dataflow's memory is half stepped and goes.
    pub fn fail(&mut self, error: &Error, shards: usize) -> Result<()> {
        tracing::error!(job = self.name, %error, "the job has failed");
        self.stored.failed = Some(error.to_string());
        self.error = Some(error.clone());
        self.replays.clear();
        self.running = RunningDataflow::new(self.plan.clone(), self.storage, shards, 0)?;
        Ok(())
    }

    pub fn pause(&mut self, paused: bool) {
        self.stored.paused = paused;
        // RESUME of a sink that has given up, or waits to try again, begins anew.
        if let Output::Sink { outbox, .. } = &mut self.output {
            outbox.stop();
        }
    }

    /// Starts the delivery of a sink that is not paused.
    pub fn start_delivery(
        &mut self,
        store: &Arc<Store>,
        commands: &mpsc::WeakSender<Command>,
        runtime: &tokio::runtime::Handle,
        clock: &Arc<dyn Clock>,
    ) {
        if let Output::Sink { outbox, def } = &mut self.output
            && !self.stored.paused
            && !outbox.is_started()
        {
            outbox.start(def, store.clone(), commands.clone(), runtime, clock.clone());
        }
    }

    /// Rows of existing data that it has to read, given how many an input holds that it is still reading; `None`: not known.
    fn rows_total(&self, held: impl Fn(Oid) -> Option<u64>) -> Option<u64> {
        let of = |(oid, progress): (&Oid, &Progress)| match progress {
            Progress::Live { rows } => Some(*rows),
            Progress::Scanning { rows, .. } => Some(held(*oid)?.max(*rows)),
            Progress::Replaying { lanes, .. } => Some(held(*oid)?.max(lanes.rows)),
        };
        self.stored.inputs.iter().map(of).sum()
    }

    pub fn status(&self, held: impl Fn(Oid) -> Option<u64>) -> JobStatus {
        let nodes = self.running.stats();
        JobStatus {
            oid: self.oid,
            name: self.name.clone(),
            kind: if matches!(self.output, Output::View(_)) { "materialized view" } else { "sink" },
            state: match &self.stored.failed {
                Some(reason) => JobState::Failed(reason.clone()),
                None if self.is_backfilling() => JobState::Backfilling,
                None if self.stored.paused => JobState::Paused,
                None => JobState::Running,
            },
            created: self.stored.created,
            rows_done: self.rows_done(),
            rows_total: self.rows_total(held),
            rows_in: self.rows_in,
            rows_out: self.rows_out,
            state_entries: nodes.iter().map(|n| n.state.entries).sum(),
            state_bytes: nodes.iter().map(|n| n.state.cached_bytes).sum(),
            late_rows: nodes.iter().map(|n| n.late_rows).sum(),
            lookups: self.running.lookups(),
            nodes,
        }
    }

    pub fn sink_status(&self) -> Option<SinkStatus> {
        let mut status = SinkStatus { oid: self.oid, name: self.name.clone(), ..SinkStatus::default() };
        let mut gave_up = false;
        match &self.output {
            Output::View(_) => return None,
            Output::Discard { rows, epoch } => (status.delivered_rows, status.delivered_epoch) = (*rows, *epoch),
            Output::Sink { outbox, .. } => {
                let report = outbox.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                (status.error, gave_up) = (report.error, report.gave_up);
                (status.failures, status.next_attempt) = (report.failures, report.next_attempt);
                (status.delivered_epoch, status.delivered_rows) = (outbox.delivered, report.rows);
                status.pending_epochs = outbox.pending_epochs();
                (status.pending_rows, status.pending_bytes) = (outbox.pending.rows, outbox.pending.bytes);
            }
        }
        status.error = self.stored.failed.clone().or(status.error);
        status.state = match (&self.stored.failed, self.stored.paused, &status.error) {
            (Some(_), ..) => "failed",
            (_, true, _) => "paused",
            _ if gave_up => "failed",
            (_, _, Some(_)) => "retrying",
            _ => "running",
        };
        Some(status)
    }
}

/// What a job had stored before a step.
pub(crate) struct StoredMark(Stored);

impl StoredMark {
    pub fn rows_done(&self) -> u64 {
        self.0.rows_done()
    }
}

/// The same columns under the names and nullability that the catalog has for them.
fn restate(schema: &datafusion::arrow::datatypes::SchemaRef, chunks: Chunks) -> Result<Chunks> {
    chunks
        .into_iter()
        .map(|chunk| {
            let columns = chunk.batch.columns().to_vec();
            let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(chunk.num_rows()));
            let batch = datafusion::arrow::array::RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
            Ok(chunk.with_batch(batch))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// What is on disk must stay readable: a change here needs a new `FORMAT_VERSION` of the store.
    #[test]
    fn stored_bytes_are_pinned() {
        let stored = Stored {
            started: true,
            created: 3,
            inputs: BTreeMap::from([
                (16384, Progress::Live { rows: 5 }),
                (16385, Progress::Scanning { after: Some(vec![0xab]), rows: 6 }),
                (
                    16386,
                    Progress::Replaying {
                        positions: [("0".to_string(), "7".to_string())].into(),
                        lanes: Default::default(),
                    },
                ),
            ]),
            fingerprint: "f".into(),
            failed: Some("e".into()),
            paused: true,
        };
        let bytes = tidemark_storage::value::encode(&stored).unwrap();
        expect!["010106038080010005818001010101ab0682800102010130013700000000000000016601016501"]
            .assert_eq(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        assert_eq!(tidemark_storage::value::decode::<Stored>(&bytes).unwrap(), stored);
    }
}
