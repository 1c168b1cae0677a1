//! A transaction: the moment it reads, and what it is about to change.
//!
//! ```text
//!   BEGIN ─▶ Moment (one epoch, one catalog) ─┬─ reads: snapshot, own changes over it
//!                                             ├─ writes: buffered by table
//!                                             ├─ DDL: the catalog as it will be, and the steps to it
//!                                             └─ COMMIT ─▶ one engine::Transaction ─▶ one epoch
//! ```
//!
//! A statement outside BEGIN is a transaction of its own.

mod buffer;
mod changes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use buffer::{OwnChanges, TableBuffer};
use tidemark_catalog::{Catalog, Change, ObjectKind};
use tidemark_common::connector::Source;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::{Definition, Moment, Redelivery, Step, TableDef, Transaction as Commit};

use crate::coordinator::definitions;

/// DDL that COMMIT will bring about, in order. Definitions are made at commit, from the catalog as it then is.
#[derive(Debug, Clone, PartialEq)]
pub enum PlannedStep {
    Create(Oid),
    /// The same contents under other names or constraints.
    Redefine(Oid),
    /// The table has new contents, which are in the transaction's buffer for it.
    ReplaceTable(Oid),
    /// Its relation is kept, and what the relation holds goes into it.
    CreateIndex(Oid),
    /// The view `by` takes the place of `view`.
    Replace {
        view: Oid,
        by: Oid,
    },
    Drop(Oid),
    Truncate(Oid),
    Pause(Oid, bool),
    /// Rows a second that a view's backfill may read.
    LimitBackfill(Oid, Option<u64>),
}

pub struct Transaction {
    pub moment: Moment,
    /// The moment's catalog with the transaction's own changes.
    pub catalog: Arc<Catalog>,
    /// Began with BEGIN, so that only COMMIT ends it.
    pub explicit: bool,
    /// A statement has failed; only ROLLBACK is left.
    pub failed: bool,
    pub read_only: bool,
    /// What now() says, in microseconds.
    pub started_at: i64,
    pub changes: Vec<Change>,
    pub steps: Vec<PlannedStep>,
    pub counters: BTreeMap<String, i64>,
    pub redelivery: Option<Redelivery>,
    tables: BTreeMap<Oid, TableBuffer>,
    savepoints: Vec<Savepoint>,
    max_bytes: usize,
}

/// What a savepoint remembers of the session around its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    pub settings: usize,
    pub cursors: u64,
}

struct Savepoint {
    name: String,
    marks: Marks,
    read_only: bool,
    catalog: Arc<Catalog>,
    changes: usize,
    steps: usize,
    tables: BTreeMap<Oid, usize>,
    /// Buffers of those that DDL has given up since.
    forgotten: BTreeMap<Oid, TableBuffer>,
}

impl Savepoint {
    /// A buffer that is given up while this is the last savepoint; what was first buffered after it is not needed again.
    fn forget(&mut self, table: Oid, buffer: TableBuffer) {
        if self.tables.contains_key(&table) {
            self.forgotten.entry(table).or_insert(buffer);
        }
    }
}

impl Transaction {
    pub fn new(moment: Moment, explicit: bool, started_at: i64, max_bytes: usize) -> Self {
        Self {
            catalog: moment.catalog.clone(),
            moment,
            explicit,
            failed: false,
            read_only: false,
            started_at,
            changes: Vec::new(),
            steps: Vec::new(),
            counters: BTreeMap::new(),
            redelivery: None,
            tables: BTreeMap::new(),
            savepoints: Vec::new(),
            max_bytes,
        }
    }

    /// The table's buffer, if the transaction has changed the table.
    pub fn buffer(&self, table: Oid) -> Option<&TableBuffer> {
        self.tables.get(&table).filter(|b| !b.is_empty())
    }

    /// Buffers of all tables that have been changed.
    pub fn buffers(&self) -> impl Iterator<Item = &TableBuffer> {
        self.tables.values().filter(|b| !b.is_empty())
    }

    /// The table's buffer, to change it.
    pub fn buffer_mut(&mut self, def: &TableDef) -> Result<&mut TableBuffer> {
        if self.read_only {
            return Err(Error::new(SqlState::ReadOnlySqlTransaction, "cannot write in a read-only transaction"));
        }
        self.check_size()?;
        Ok(self.tables.entry(def.oid).or_insert_with(|| TableBuffer::new(def.clone())))
    }

    /// Bytes that may still be written.
    pub fn room(&self) -> usize {
        let forgotten = self.savepoints.iter().flat_map(|s| s.forgotten.values());
        let bytes: usize = self.tables.values().chain(forgotten).map(TableBuffer::bytes).sum();
        self.max_bytes.saturating_sub(bytes)
    }

    /// What is not committed yet has a bound.
    pub fn check_size(&self) -> Result<()> {
        if self.room() == 0 {
            return Err(Error::new(
                SqlState::ConfigurationLimitExceeded,
                "the transaction has grown beyond max_transaction_bytes",
            )
            .with_hint("Commit in smaller pieces, or raise max_transaction_bytes."));
        }
        Ok(())
    }

    /// Makes a change of the catalog visible to the rest of the transaction.
    pub fn change_catalog(&mut self, changes: Vec<Change>, steps: Vec<PlannedStep>) -> Result<()> {
        if self.read_only {
            return Err(Error::new(
                SqlState::ReadOnlySqlTransaction,
                "cannot change objects in a read-only transaction",
            ));
        }
        self.changes.extend(changes);
        self.steps.extend(steps);
        let mut next = self.moment.catalog.apply(&self.changes);
        next.version = self.moment.catalog.version + 1;
        self.catalog = Arc::new(next);
        Ok(())
    }

    /// The table goes, or gets other contents. ROLLBACK TO a savepoint brings back what was buffered by then.
    pub fn forget_table(&mut self, table: Oid) {
        if let (Some(buffer), Some(savepoint)) = (self.tables.remove(&table), self.savepoints.last_mut()) {
            savepoint.forget(table, buffer);
        }
    }

    /// True if COMMIT has nothing to do.
    pub fn is_read_only_so_far(&self) -> bool {
        self.changes.is_empty()
            && self.steps.is_empty()
            && self.counters.is_empty()
            && self.tables.values().all(TableBuffer::is_empty)
    }

    pub fn savepoint(&mut self, name: &str, marks: Marks) {
        self.savepoints.push(Savepoint {
            name: name.into(),
            marks,
            read_only: self.read_only,
            catalog: self.catalog.clone(),
            changes: self.changes.len(),
            steps: self.steps.len(),
            tables: self.tables.iter().map(|(oid, b)| (*oid, b.mark())).collect(),
            forgotten: BTreeMap::new(),
        });
    }

    pub fn release(&mut self, name: &str) -> Result<()> {
        let at = self.find_savepoint(name)?;
        let released = self.savepoints.split_off(at);
        if let Some(outer) = self.savepoints.last_mut() {
            for (table, buffer) in released.into_iter().flat_map(|s| s.forgotten) {
                outer.forget(table, buffer);
            }
        }
        Ok(())
    }

    /// Takes back what came after the savepoint, which stays.
    pub fn rollback_to(&mut self, name: &str) -> Result<Marks> {
        let at = self.find_savepoint(name)?;
        let mut forgotten = BTreeMap::new();
        for (table, buffer) in self.savepoints[at..].iter_mut().flat_map(|s| std::mem::take(&mut s.forgotten)) {
            // The first one is of the time of the savepoint.
            forgotten.entry(table).or_insert(buffer);
        }
        self.tables.extend(forgotten);
        self.savepoints.truncate(at + 1);
        let savepoint = &self.savepoints[at];
        self.catalog = savepoint.catalog.clone();
        self.changes.truncate(savepoint.changes);
        self.steps.truncate(savepoint.steps);
        self.tables.retain(|oid, _| savepoint.tables.contains_key(oid));
        for (oid, mark) in &savepoint.tables {
            if let Some(buffer) = self.tables.get_mut(oid) {
                buffer.rollback_to(*mark)?;
            }
        }
        self.read_only = savepoint.read_only;
        self.failed = false;
        Ok(savepoint.marks)
    }

    fn find_savepoint(&self, name: &str) -> Result<usize> {
        self.savepoints
            .iter()
            .rposition(|s| s.name == name)
            .ok_or_else(|| Error::new(SqlState::InvalidSavepoint, format!("savepoint \"{name}\" does not exist")))
    }

    /// Views and sinks that it creates, which must catch up before they can be read.
    pub fn created_jobs(&self) -> Vec<Oid> {
        let is_job = |oid: &Oid| {
            self.catalog.get(*oid).is_some_and(|o| {
                o.continuous().is_some() || matches!(o.kind, ObjectKind::MaterializedView(_) | ObjectKind::Sink(_))
            })
        };
        self.steps
            .iter()
            .filter_map(|s| match s {
                PlannedStep::Create(oid) if is_job(oid) => Some(*oid),
                _ => None,
            })
            .collect()
    }

    /// Sources that were there before it, and that it drops; an error for those that cannot be opened.
    pub fn dropped_sources(&self, env: &definitions::Environment) -> Vec<Result<Arc<dyn Source>>> {
        let before = &self.moment.catalog;
        let open = |step: &PlannedStep| {
            let PlannedStep::Drop(oid) = step else { return None };
            let object = before.get(*oid)?;
            let ObjectKind::Source(source) = &object.kind else { return None };
            let opened = definitions::source(object, source, before, env).map(|def| def.source);
            Some(opened.map_err(|e| e.context(format_args!("source \"{}\"", object.name))))
        };
        self.steps.iter().filter_map(open).collect()
    }

    /// What the engine is to commit.
    pub fn into_commit(self, env: &definitions::Environment) -> Result<Commit> {
        let mut steps = Vec::with_capacity(self.steps.len());
        let dropped: Vec<Oid> =
            self.steps.iter().filter_map(|s| if let PlannedStep::Drop(oid) = s { Some(*oid) } else { None }).collect();
        for (i, step) in self.steps.iter().enumerate() {
            steps.push(match step {
                // Created and dropped again in one transaction: never there.
                PlannedStep::Create(oid)
                | PlannedStep::ReplaceTable(oid)
                | PlannedStep::Redefine(oid)
                | PlannedStep::CreateIndex(oid)
                    if dropped.contains(oid) =>
                {
                    continue;
                }
                PlannedStep::Redefine(oid) if self.is_defined_besides(i, *oid) => continue,
                PlannedStep::Create(oid) | PlannedStep::Redefine(oid) => Step::Create(self.define(*oid, env)?),
                PlannedStep::ReplaceTable(oid) => match self.define(*oid, env)? {
                    Definition::Table(def) => Step::ReplaceTable(def),
                    _ => return Err(Error::internal("only a table's contents can be replaced")),
                },
                PlannedStep::CreateIndex(oid) => self.create_index(*oid)?,
                PlannedStep::Replace { view, by } => Step::Replace { view: *view, by: *by },
                PlannedStep::Drop(oid) => Step::Drop(*oid),
                PlannedStep::Truncate(oid) => Step::Truncate(*oid),
                PlannedStep::Pause(oid, paused) => Step::Pause(*oid, *paused),
                PlannedStep::LimitBackfill(oid, rate) => Step::LimitBackfill(*oid, *rate),
            });
        }
        let objects = self
            .changes
            .iter()
            .map(|change| match change {
                Change::Put(object) => Ok((object.oid, Some(object.encode()?))),
                Change::Remove(oid) => Ok((*oid, None)),
            })
            .collect::<Result<_>>()?;
        let catalog = (!self.changes.is_empty()).then_some(self.catalog);
        let writes = self
            .tables
            .into_values()
            .filter(|b| !dropped.contains(&b.def().oid))
            .filter_map(|b| b.into_write().transpose())
            .collect::<Result<_>>()?;
        Ok(Commit {
            writes,
            steps,
            objects,
            counters: self.counters.into_iter().collect(),
            redelivery: self.redelivery,
            catalog,
            ..Commit::default()
        })
    }

    /// Whether another step than the `i`th makes the engine know the table as it will be: once is enough.
    fn is_defined_besides(&self, i: usize, table: Oid) -> bool {
        self.steps[..i].contains(&PlannedStep::Redefine(table))
            || self.steps.contains(&PlannedStep::Create(table))
            || self.steps.contains(&PlannedStep::ReplaceTable(table))
    }

    fn create_index(&self, oid: Oid) -> Result<Step> {
        let object = self.catalog.expect(oid)?;
        let index = object.index().ok_or_else(|| Error::internal(format!("\"{}\" is no index", object.name)))?;
        let relation = self.catalog.expect(index.relation)?;
        Ok(Step::CreateIndex {
            relation: relation.oid,
            index: definitions::created_index(relation, oid, &self.catalog)?,
        })
    }

    fn define(&self, oid: Oid, env: &definitions::Environment) -> Result<Definition> {
        definitions::define(self.catalog.expect(oid)?, &self.catalog, env)
    }
}
