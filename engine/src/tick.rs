//! One tick: everything that becomes true together.
//!
//! ```text
//!   1 transactions   checked in order of arrival; DDL has an epoch without other DDL
//!   2 sources        a bounded number of rows each; those that are refused may go into a table, those with a key go into their own
//!   3 tables         what was admitted becomes changes
//!   4 jobs           in topological order, each on the changes of its inputs
//!   5 commit         one WriteBatch, on disk
//!   6 publish        readers see it; then sessions are answered, sinks and subscribers woken
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemark_common::{Epoch, Error, Oid, Result, SqlState};
use tidemark_storage::{EpochCommit, Key, value};

use crate::backfill::{Allowed, Progress, scan_step};
use crate::dataflow::CollectionChanges;
use crate::dead_letters;
use crate::driver::{Driver, TIME};
use crate::engine::{Definition, Redelivery, Step, Transaction};
use crate::job::{ChunkWork, Job, Output};
use crate::source_input::SourceInput;
use crate::status::{EPOCHS_KEPT, EpochStatus};
use crate::subscription::Change;
use crate::table::{Checked, Table, TableWrite, conflict};

type Changes = BTreeMap<Oid, CollectionChanges>;

impl Driver {
    /// An error here is a failed commit: nothing of the epoch is on disk, and memory is ahead of it.
    pub(crate) fn tick(&mut self) -> Result<()> {
        let started = self.clock.now_micros();
        self.last_tick = started;
        // The wall's clock may be put back; that of the database is not.
        self.time = self.time.max(started);
        let epoch = self.epoch + 1;
        let mut commit = self.store.begin();
        let mut rewritten = Vec::new();

        self.transactions(&mut commit, &mut rewritten)?;
        self.note_delivered(&mut commit)?;
        self.replays_before_sources(started)?;
        let mut changes = self.source_changes(started, &mut commit)?;
        self.table_changes(&rewritten, &mut changes, &mut commit)?;
        let rows = count_rows(&changes);
        self.run_jobs(epoch, started, &mut changes, &mut commit)?;
        let rows_out = count_rows(&changes) - rows;

        if commit.is_empty() && self.admitted.is_empty() {
            self.reach_out()?;
            self.publish(); // a source has ended, a backfill waits for its reader, a lookup has failed
            return Ok(());
        }
        commit.put_value(&Key::Counter(TIME), &self.time)?;
        let bytes = commit.bytes() as u64;
        let before_commit = self.clock.now_micros();
        self.snapshot = self.store.commit(commit, epoch, self.config.sync)?;
        self.epoch = epoch;
        self.sources.values_mut().for_each(SourceInput::committed);
        if std::mem::take(&mut self.rewired) {
            self.hold();
        }
        let now = self.clock.now_micros();
        for job in self.jobs.values_mut() {
            if let Some(ChunkWork { rows, micros, bytes: own }) = job.chunk.take() {
                // Its part of the commit, by its bytes.
                let part = i128::from(now - before_commit) * own as i128 / bytes.max(1) as i128;
                job.pace.took(rows, micros + i64::try_from(part).unwrap_or(i64::MAX));
            }
        }
        self.remember(EpochStatus {
            epoch,
            committed_at: now,
            duration_micros: (now - started).max(0) as u64,
            commit_micros: (now - before_commit).max(0) as u64,
            rows,
            rows_out,
            bytes,
            transactions: self.admitted.len() as u32,
        });
        self.transactions += self.admitted.len() as u64;
        self.reach_out()?;
        self.publish();
        self.tell(epoch, &changes);
        self.answer_builders();
        Ok(())
    }

    fn remember(&mut self, status: EpochStatus) {
        let epochs: &mut VecDeque<EpochStatus> = Arc::make_mut(&mut self.epochs);
        if epochs.len() == EPOCHS_KEPT {
            epochs.pop_front();
        }
        epochs.push_back(status);
    }

    fn tell(&mut self, epoch: Epoch, changes: &Changes) {
        for answer in self.admitted.drain(..) {
            let _nobody_waits = answer.send(Ok(epoch));
        }
        for job in self.jobs.values() {
            if let Output::Sink { outbox, .. } = &job.output {
                outbox.wake();
            }
        }
        self.subscribers.retain(|oid, subscribers| {
            match changes.get(oid).filter(|c| !c.chunks.is_empty()) {
                Some(c) => {
                    let change = Change { epoch, deltas: c.chunks.clone() };
                    subscribers.retain(|s| s.send(&change));
                }
                None => subscribers.retain(|s| !s.is_gone()),
            }
            !subscribers.is_empty()
        });
    }

    /// Admits what waits, in order of arrival. A transaction that is refused is answered at once and leaves nothing behind.
    fn transactions(&mut self, commit: &mut EpochCommit, rewritten: &mut Vec<Oid>) -> Result<()> {
        let mut waiting = VecDeque::new();
        while let Some((transaction, answer)) = self.pending.pop_front() {
            if !self.may_take(&transaction) {
                waiting.push_back((transaction, answer));
                continue;
            }
            let ddl = !transaction.steps.is_empty();
            if ddl && !self.admitted.is_empty() {
                self.pending.push_front((transaction, answer));
                break;
            }
            match self.admit(transaction, commit, rewritten) {
                Ok(()) => self.admitted.push(answer),
                Err(error) => {
                    self.conflicts += u64::from(error.state() == SqlState::SerializationFailure);
                    let _nobody_waits = answer.send(Err(error));
                }
            }
            if ddl {
                break;
            }
        }
        while let Some(held) = waiting.pop_back() {
            self.pending.push_front(held);
        }
        Ok(())
    }

    /// All of a transaction, or an error and nothing of it.
    fn admit(&mut self, transaction: Transaction, commit: &mut EpochCommit, rewritten: &mut Vec<Oid>) -> Result<()> {
        if let Some(catalog) = &transaction.catalog
            && catalog.version != self.catalog.version + 1
        {
            return Err(Error::new(SqlState::SerializationFailure, "the catalog was changed by another session")
                .with_hint("Run the statement again."));
        }
        self.may_replace(&transaction.steps)?;
        self.may_redeliver(transaction.redelivery.as_ref())?;
        let mut new_tables = new_tables(&transaction, self)?;
        let built = self.build_indexes(&transaction.steps, &new_tables);
        let checked = built
            .and_then(|()| self.check(transaction.writes, &mut new_tables))
            .and_then(|checked| self.redeliver(transaction.redelivery, commit).map(|()| checked));
        let checked = match checked {
            Ok(checked) => checked,
            Err(error) => {
                self.forget_indexes(&transaction.steps)?;
                return Err(error);
            }
        };
        // Nothing below can refuse any more, except by failing the epoch as a whole.
        let has_steps = !transaction.steps.is_empty();
        let mut building = transaction.awaits;
        for step in transaction.steps {
            if let Step::Create(Definition::View(_) | Definition::Sink(_)) = &step {
                building.extend(step.created());
            }
            self.take_step(step, &mut new_tables, commit, rewritten)?;
        }
        for (oid, write) in checked {
            if let Some(table) = self.tables.get_mut(&oid) {
                table.admit(write);
            }
        }
        for (oid, object) in transaction.objects {
            match object {
                Some(bytes) => commit.put(&Key::Object(oid), &value::frame(&bytes)),
                None => commit.delete(&Key::Object(oid)),
            }
        }
        for (name, number) in transaction.counters {
            commit.put_value(&Key::Counter(&name), &number)?;
        }
        if let Some(catalog) = transaction.catalog {
            self.catalog = catalog;
        }
        if has_steps {
            self.rewire();
        }
        building.retain(|oid| self.jobs.contains_key(oid));
        if let Some(ready) = transaction.ready {
            self.waiting.push((building, ready));
        }
        Ok(())
    }

    /// Views that read the source again from its beginning would not know whether they have come by such a record.
    fn may_redeliver(&self, redelivery: Option<&Redelivery>) -> Result<()> {
        let Some(redelivery) = redelivery else { return Ok(()) };
        match self.jobs.values().find(|job| job.is_replaying(redelivery.source)) {
            None => Ok(()),
            Some(job) => {
                let message = format!("\"{}\", which reads the source, is still being built", job.name);
                Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message)
                    .with_hint("SHOW JOBS shows its progress: replay the dead letters when it has caught up."))
            }
        }
    }

    fn redeliver(&mut self, redelivery: Option<Redelivery>, commit: &mut EpochCommit) -> Result<()> {
        let Some(Redelivery { source, batches }) = redelivery else { return Ok(()) };
        let source = self.sources.get_mut(&source).ok_or_else(|| conflict(&source.to_string()))?;
        source.redeliver(batches, self.clock.now_micros(), &mut self.tables, &self.snapshot, commit)
    }

    fn check(&mut self, writes: Vec<TableWrite>, new_tables: &mut BTreeMap<Oid, Table>) -> Result<Vec<(Oid, Checked)>> {
        let mut checked = Vec::with_capacity(writes.len());
        for write in writes {
            let oid = write.table;
            let table = match new_tables.get_mut(&oid) {
                Some(table) => table,
                None => self.tables.get_mut(&oid).ok_or_else(|| conflict(&oid.to_string()))?,
            };
            checked.push((oid, table.check(&self.snapshot, write)?));
        }
        Ok(checked)
    }

    /// Enters in new indexes what their relations hold, ahead of the commit with which they are there.
    fn build_indexes(&mut self, steps: &[Step], new_tables: &BTreeMap<Oid, Table>) -> Result<()> {
        for step in steps {
            let Step::CreateIndex { relation, index } = step else { continue };
            let replaced_by = |step: &Step| match step {
                Step::Replace { view, by } if view == relation => Some(*by),
                _ => None,
            };
            let relation = &steps.iter().find_map(replaced_by).unwrap_or(*relation);
            let table = new_tables.get(relation).or_else(|| self.tables.get(relation));
            let collection = match table {
                Some(table) => Some(&table.def.collection),
                // A view that comes into being with the index has no rows yet.
                None => self.jobs.get(relation).and_then(Job::collection),
            };
            if let Some(collection) = collection {
                self.snapshot = self.store.build_index(collection, index)?;
            }
        }
        Ok(())
    }

    fn forget_indexes(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            if let Step::CreateIndex { index, .. } = step {
                self.store.forget_index(index)?;
            }
        }
        Ok(())
    }

    /// Answers who waits for views to be built: all of them are, or one has failed.
    fn answer_builders(&mut self) {
        for (oids, ready) in std::mem::take(&mut self.waiting) {
            let built: Vec<_> =
                oids.iter().map(|oid| self.jobs.get(oid).map_or_else(|| Some(Err(cancelled())), Job::built)).collect();
            match built.iter().find_map(|b| b.as_ref().and_then(|b| b.as_ref().err())) {
                Some(error) => {
                    let _nobody_waits = ready.send(Err(error.clone()));
                }
                None if built.iter().all(Option::is_some) => {
                    let _nobody_waits = ready.send(Ok(()));
                }
                None => self.waiting.push((oids, ready)),
            }
        }
    }

    fn take_step(
        &mut self,
        step: Step,
        new_tables: &mut BTreeMap<Oid, Table>,
        commit: &mut EpochCommit,
        rewritten: &mut Vec<Oid>,
    ) -> Result<()> {
        match step {
            Step::Create(definition) => {
                let oid = definition.oid();
                match new_tables.remove(&oid) {
                    Some(table) => {
                        self.tables.insert(oid, table);
                    }
                    None => self.create(definition, commit)?,
                }
            }
            Step::ReplaceTable(def) => {
                if let Some(old) = self.tables.get(&def.oid) {
                    delete_contents(old, commit);
                }
                rewritten.push(def.oid);
                if let Some(table) = new_tables.remove(&def.oid) {
                    self.tables.insert(def.oid, table);
                }
            }
            Step::Truncate(oid) => {
                if let Some(table) = self.tables.get_mut(&oid) {
                    table.truncate(&self.snapshot, commit)?;
                }
            }
            Step::CreateIndex { relation, index } => {
                if let Some(Output::View(writer)) = self.jobs.get_mut(&relation).map(|job| &mut job.output) {
                    writer.add_index(index);
                } else if let Some(table) = self.tables.get(&relation) {
                    commit.delete_blocks(table.def.collection.id());
                }
            }
            Step::Replace { view, by } => self.replace(view, by, commit)?,
            Step::Drop(oid) => self.drop_object(oid, commit),
            Step::Pause(oid, paused) => self.pause(oid, paused, commit)?,
            Step::LimitBackfill(oid, rate) => {
                let now = self.clock.now_micros();
                if let Some(job) = self.jobs.get_mut(&oid) {
                    job.pace.set_rate(rate, now);
                }
            }
        }
        Ok(())
    }

    fn drop_object(&mut self, oid: Oid, commit: &mut EpochCommit) {
        self.tables.remove(&oid);
        self.sources.remove(&oid);
        let storage = self.jobs.remove(&oid).map_or(oid, |job| job.storage);
        self.subscribers.remove(&oid);
        self.delivered.remove(&oid);
        for job in self.jobs.values_mut() {
            if let Output::View(writer) = &mut job.output {
                writer.remove_indexes_of(oid);
            }
        }
        commit.delete_all_of(storage);
    }

    fn pause(&mut self, oid: Oid, paused: bool, commit: &mut EpochCommit) -> Result<()> {
        if let Some(job) = self.jobs.get_mut(&oid) {
            let mark = job.mark();
            job.pause(paused);
            job.store(&mark, commit)?;
        } else if let Some(source) = self.sources.get_mut(&oid) {
            commit.put_value(&Key::SourceState { source: oid, what: "paused" }, &paused)?;
            source.paused = paused;
            source.failed = None;
            if paused {
                source.stop_reading();
            }
        }
        Ok(())
    }

    fn note_delivered(&mut self, commit: &mut EpochCommit) -> Result<()> {
        for (sink, epoch) in std::mem::take(&mut self.delivered) {
            if let Some(Output::Sink { outbox, .. }) = self.jobs.get_mut(&sink).map(|j| &mut j.output) {
                outbox.delivered(epoch, commit)?;
            }
        }
        Ok(())
    }

    fn table_changes(&mut self, rewritten: &[Oid], changes: &mut Changes, commit: &mut EpochCommit) -> Result<()> {
        for (oid, table) in &mut self.tables {
            if !rewritten.contains(oid) {
                table.expire(&self.snapshot, self.time)?;
            }
            let chunks = table.apply(&self.snapshot, commit)?;
            if !chunks.is_empty() && !rewritten.contains(oid) {
                changes.insert(*oid, CollectionChanges { chunks, ..Default::default() });
            }
        }
        Ok(())
    }

    /// Replays run before their sources take this epoch's rows, which belong to a dataflow from the moment it joins.
    fn replays_before_sources(&mut self, now: i64) -> Result<()> {
        let ahead = self.limits();
        for job in self.jobs.values_mut().filter(|j| j.failure().is_none() && !j.replays.is_empty()) {
            job.begin_epoch();
            for input in job.inputs().collect::<Vec<_>>() {
                let (allowance, rate, before) = (job.pace.allowance(now), job.pace.rate(), job.rows_done());
                let (Some(replay), Some(progress)) = job.replaying(input) else { continue };
                let rows = if replay.hurries { self.config.epoch_rows } else { allowance.min(self.config.epoch_rows) };
                if rows == 0 {
                    continue;
                }
                let allowed = Allowed { rows, rate, ahead };
                let Some(source) = self.sources.get_mut(&input) else { continue };
                match replay.step(source, progress, &self.snapshot, allowed, &self.runtime, &self.waker) {
                    Ok(step) => {
                        job.replayed.insert(input, step);
                        job.pace.spend(job.rows_done() - before, now);
                    }
                    Err(error) => job.fail(&error, self.config.workers)?,
                }
                if job.progress_mut(input).is_some_and(|p| p.is_live()) {
                    job.replays.remove(&input);
                }
            }
        }
        self.unfreeze();
        Ok(())
    }

    fn source_changes(&mut self, now: i64, commit: &mut EpochCommit) -> Result<Changes> {
        let mut changes = Changes::new();
        for (oid, source) in &mut self.sources {
            let chunks = std::mem::take(&mut source.redelivered);
            if !chunks.is_empty() {
                changes.insert(*oid, CollectionChanges { chunks, ..CollectionChanges::default() });
            }
        }
        if self.is_held_up() {
            return Ok(changes);
        }
        for (oid, source) in &mut self.sources {
            match source.take(self.config.epoch_rows, now, &mut self.tables, &self.snapshot, commit) {
                // What became of its rows is the table's change.
                Ok(_) if source.def.rows.is_some() || source.def.tables.is_some() => {}
                Ok(taken) => {
                    let before = changes.remove(oid);
                    changes.insert(*oid, join(before, Some(&taken)));
                }
                Err(error) => {
                    tracing::error!(source = source.def.name, %error, "the source has failed");
                    source.failed = Some(error);
                    source.stop_reading();
                }
            }
        }
        for source in self.sources.values_mut() {
            let letters = std::mem::take(&mut source.letters);
            let table = source.def.dead_letters.and_then(|table| self.tables.get_mut(&table));
            if let Some(table) = table.filter(|_| !letters.is_empty()) {
                table.add(&self.snapshot, dead_letters::rows(table, &source.def, &letters, now)?)?;
            }
        }
        Ok(changes)
    }

    fn run_jobs(&mut self, epoch: Epoch, now: i64, changes: &mut Changes, commit: &mut EpochCommit) -> Result<()> {
        for oid in self.order.clone() {
            if let Some(job) = self.jobs.get_mut(&oid) {
                job.begin_epoch();
            }
            let held = self.jobs.get(&oid).map(|job| job.held(&self.held)).unwrap_or_default();
            let (started, bytes_before) = (self.clock.now_micros(), commit.bytes());
            let inputs = self.job_inputs(oid, now, changes)?;
            let Some(job) = self.jobs.get_mut(&oid) else { continue };
            let mark = job.mark_at_start();
            if let Some(chunks) = self.replaced.remove(&oid) {
                changes.insert(oid, CollectionChanges { chunks, ..CollectionChanges::default() });
            }
            if job.has_work(&inputs, self.time) {
                match job.step(epoch, &self.snapshot, &inputs, &held, self.time, commit) {
                    Ok(mut output) => {
                        let replaced = changes.remove(&oid).unwrap_or_default();
                        output.chunks.splice(0..0, replaced.chunks);
                        changes.insert(oid, output);
                    }
                    Err(error) => {
                        // What it had read of a backfill in this epoch is not kept either.
                        job.restore(&mark);
                        job.fail(&error, self.config.workers)?;
                    }
                }
            }
            job.store(&mark, commit)?;
            let rows = job.rows_done().saturating_sub(mark.rows_done());
            let micros = self.clock.now_micros() - started;
            job.chunk = (rows > 0).then(|| ChunkWork { rows, micros, bytes: commit.bytes() - bytes_before });
        }
        self.unfreeze();
        Ok(())
    }

    /// What each of a job's inputs gives it in this epoch: the changes, or a chunk of a backfill.
    fn job_inputs(&mut self, oid: Oid, now: i64, changes: &Changes) -> Result<BTreeMap<Oid, CollectionChanges>> {
        let mut given = BTreeMap::new();
        let Some(job) = self.jobs.get(&oid) else { return Ok(given) };
        let inputs: Vec<Oid> = job.inputs().collect();
        for input in inputs {
            let upstream = match self.jobs.get(&input) {
                // A view that has failed has no changes any more, and what follows it must not go on as if it had none.
                Some(up) if up.failure().is_some() => Err(up.name.clone()),
                Some(up) => Ok((up.collection().cloned(), up.is_backfilling())),
                None => Ok((self.tables.get(&input).map(|t| t.def.collection.clone()), false)),
            };
            let Some(job) = self.jobs.get_mut(&oid) else { break };
            if job.failure().is_some() {
                break;
            }
            let (collection, upstream_builds) = match upstream {
                Ok(found) => found,
                Err(name) => {
                    let error = Error::new(
                        SqlState::ObjectNotInPrerequisiteState,
                        format!("materialized view \"{name}\", which it reads, has failed"),
                    );
                    job.fail(&error, self.config.workers)?;
                    break;
                }
            };
            let replayed = job.replayed.remove(&input);
            let live = changes.get(&input);
            let (rows, before) = (job.pace.allowance(now).min(self.config.backfill_rows), job.rows_done());
            let step = match (job.progress_mut(input), collection) {
                (Some(Progress::Scanning { .. }), _) if upstream_builds => CollectionChanges::default(),
                (Some(progress @ Progress::Scanning { .. }), Some(collection)) => {
                    scan_step(&collection, &self.snapshot, progress, live, rows)?
                }
                (Some(Progress::Replaying { .. }), _) => replayed.unwrap_or_default(),
                _ => join(replayed, live),
            };
            if let Some(Progress::Scanning { .. } | Progress::Live { .. }) = job.progress_mut(input) {
                job.pace.spend(job.rows_done() - before, now);
            }
            given.insert(input, step);
        }
        Ok(given)
    }
}

/// For whoever waits for a view that has been dropped meanwhile.
fn cancelled() -> Error {
    Error::new(SqlState::QueryCanceled, "what was being built has been dropped, by CANCEL JOB or DROP")
}

fn count_rows(changes: &Changes) -> u64 {
    changes.values().flat_map(|c| &c.chunks).map(|c| c.num_rows() as u64).sum()
}

/// What goes before the epoch's own rows, and those: the end of a replay, in the epoch in which a dataflow joins.
fn join(replayed: Option<CollectionChanges>, live: Option<&CollectionChanges>) -> CollectionChanges {
    let mut joined = replayed.unwrap_or_default();
    if let Some(live) = live {
        joined.chunks.extend(live.chunks.iter().cloned());
        joined.watermarks = live.watermarks.clone();
        joined.idle = live.idle;
    }
    joined
}

/// Tables that the transaction makes, opened but not yet part of the database.
fn new_tables(transaction: &Transaction, driver: &Driver) -> Result<BTreeMap<Oid, Table>> {
    let mut tables = BTreeMap::new();
    for step in &transaction.steps {
        if let Step::Create(Definition::Table(def)) | Step::ReplaceTable(def) = step {
            let table = Table::open(def.clone(), &driver.snapshot, driver.config.state_cache_bytes / 16)?;
            tables.insert(def.oid, table);
        }
    }
    Ok(tables)
}

fn delete_contents(table: &Table, commit: &mut EpochCommit) {
    commit.delete_collection(table.def.collection.id());
    for index in &table.def.indexes {
        commit.delete_collection(index.id());
    }
}
