//! CREATE OR REPLACE MATERIALIZED VIEW: the new one is built beside the old one, which can be read meanwhile, and takes its place
//! in one epoch.
//!
//! ```text
//!   CREATE OR REPLACE v ──▶ "v (replacement)", a view like any other, built ──▶ Step::Replace: it is v, with v's OID
//!        readers checked                                    readers checked again ┘   readers see the difference
//! ```
//!
//! A kill in between is no end: the next start goes on with it.

use std::sync::Arc;
use std::time::Duration;

use tidemark_catalog::{Catalog, Change, MaterializedView, Object, ObjectKind};
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::Transaction as Commit;

use super::definitions::{self, Environment};
use super::indexes::move_indexes;
use super::{already_exists, views};
use crate::database::Database;
use crate::session::Session;
use crate::transaction::{PlannedStep, Transaction};

/// How long a reader that is still being built is waited for at a time.
const PAUSE: Duration = Duration::from_millis(20);

impl Session {
    /// Makes `object` one that takes the place of `before` when it has been built. Returns those that were to do so until now.
    pub(super) fn stand_in(&mut self, before: &Object, object: &mut Object) -> Result<Vec<Oid>> {
        let ObjectKind::MaterializedView(view) = &mut object.kind else {
            return Err(Error::internal("only a materialized view is replaced"));
        };
        if !matches!(before.kind, ObjectKind::MaterializedView(_)) {
            return Err(Error::new(
                SqlState::WrongObjectType,
                format!("\"{}\" is not a materialized view", before.name),
            ));
        }
        view.replaces = Some(before.oid);
        object.schema = before.schema;
        object.name = format!("{} (replacement)", before.name);
        let catalog = self.catalog()?;
        let readers = catalog.dependants(before.oid);
        if object.depends_on.contains(&before.oid) || readers.iter().any(|r| object.depends_on.contains(&r.oid)) {
            return Err(Error::new(
                SqlState::InvalidObjectDefinition,
                format!("materialized view \"{}\" cannot depend on itself", before.name),
            ));
        }
        let after = in_place_of(before, object)?;
        check_readers(&catalog, before, &after, &self.database().environment)?;
        move_indexes(&catalog, &self.database(), before, &after)?;
        let earlier: Vec<Oid> = catalog.objects().filter(|o| o.replaces() == Some(before.oid)).map(|o| o.oid).collect();
        match catalog.find_in(object.schema, &object.name) {
            Some(taken) if !earlier.contains(&taken.oid) => Err(already_exists(taken)),
            _ => Ok(earlier),
        }
    }
}

impl Database {
    /// Puts a view that has been built in the place of the one that it replaces, in one epoch.
    pub async fn replace(&self, oid: Oid) -> Result<()> {
        loop {
            let mut transaction = Transaction::new(self.moment(), false, self.now(), usize::MAX);
            let catalog = transaction.catalog.clone();
            let object = catalog.get(oid);
            let before = object.and_then(|o| o.replaces()).and_then(|view| catalog.get(view));
            let (Some(object), Some(before)) = (object, before) else {
                return Err(Error::new(SqlState::UndefinedTable, "the view to replace has been dropped meanwhile"));
            };
            let after = in_place_of(before, object)?;
            check_readers(&catalog, before, &after, &self.environment)?;
            let (mut changes, mut steps) = move_indexes(&catalog, self, before, &after)?;
            changes.extend(follow_indexes(&catalog, before, &changes));
            steps.insert(0, PlannedStep::Replace { view: before.oid, by: oid });
            changes.extend([Change::Remove(oid), Change::Put(Box::new(after))]);
            transaction.change_catalog(changes, steps)?;
            let mut commit = transaction.into_commit(&self.environment)?;
            commit.counters.push(self.oid_counter());
            match self.engine.commit(commit).await {
                Ok(_) => return Ok(()),
                Err(error) if error.state() == SqlState::SerializationFailure => {}
                // Somebody begins to read the old one just now.
                Err(error) if error.state() == SqlState::ObjectNotInPrerequisiteState => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Database::replace`], for one that a restart has left without a statement that waits for it.
    pub async fn replace_when_built(&self, oid: Oid) -> Result<()> {
        let (ready, built) = tokio::sync::oneshot::channel();
        self.engine.commit(Commit { awaits: vec![oid], ready: Some(ready), ..Commit::default() }).await?;
        // Without an answer the server is shutting down, and the next start goes on.
        let Ok(built) = built.await else { return Ok(()) };
        let done = match built {
            Ok(()) => self.replace(oid).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.state() != SqlState::AdminShutdown => {
                self.drop_objects(vec![oid]).await?;
                Err(error)
            }
            done => done,
        }
    }
}

/// Whoever looks rows of the view up by an index depends on the one that takes that one's place.
fn follow_indexes(catalog: &Catalog, before: &Object, moved: &[Change]) -> Vec<Change> {
    let new_oid = |name: &str| {
        let mut put = moved.iter().filter_map(|change| match change {
            Change::Put(object) => Some(object),
            Change::Remove(_) => None,
        });
        put.find(|object| object.name == name).map(|object| object.oid)
    };
    let renamed: Vec<(Oid, Oid)> =
        catalog.indexes_of(before.oid).filter_map(|(index, _)| Some((index.oid, new_oid(&index.name)?))).collect();
    let uses = |object: &&Arc<Object>| renamed.iter().any(|(old, _)| object.depends_on.contains(old));
    let follow = |object: &Arc<Object>| {
        let mut object = object.as_ref().clone();
        for (old, new) in &renamed {
            if object.depends_on.remove(old) {
                object.depends_on.insert(*new);
            }
        }
        Change::Put(Box::new(object))
    };
    catalog.objects().filter(uses).map(follow).collect()
}

/// The object that `before` becomes: its identity, with the other's definition and contents.
fn in_place_of(before: &Object, by: &Object) -> Result<Object> {
    let ObjectKind::MaterializedView(view) = &by.kind else {
        return Err(Error::internal("only a materialized view is replaced"));
    };
    let storage = Some(definitions::view_storage(by, view));
    let mut view = MaterializedView { storage, replaces: None, ..view.clone() };
    for column in &mut view.columns {
        if let Some(old) = before.columns().iter().find(|old| old.name == column.name) {
            column.comment.clone_from(&old.comment);
        }
    }
    let (depends_on, reads) = (by.depends_on.clone(), by.reads.clone());
    Ok(Object { depends_on, reads, kind: ObjectKind::MaterializedView(view), ..before.clone() })
}

/// Whoever reads the view goes on from its state: with the plan that it has, told of rows that go and rows that come.
fn check_readers(catalog: &Arc<Catalog>, before: &Object, after: &Object, env: &Environment) -> Result<()> {
    let mut readers = catalog.dependants(before.oid);
    readers.retain(|reader| reader.index().is_none());
    let (Some(first), ObjectKind::MaterializedView(view)) = (readers.first(), &before.kind) else { return Ok(()) };
    if view.append_only || view.watermark.is_some() {
        return Err(refused(
            before,
            first,
            "It relies on rows of the view being final, and a replacement takes some back.",
        ));
    }
    views::keeps_columns(before, after)?;
    let next = Arc::new(catalog.apply(&[Change::Put(Box::new(after.clone()))]));
    for reader in &readers {
        let fingerprint = match &reader.kind {
            ObjectKind::MaterializedView(view) => &view.fingerprint,
            ObjectKind::Sink(sink) => &sink.fingerprint,
            _ => match reader.continuous() {
                Some(continuous) => &continuous.fingerprint,
                None => continue,
            },
        };
        let plan = definitions::stored_dataflow(reader, &next, env)?;
        if plan.fingerprint() != *fingerprint {
            return Err(refused(before, reader, "Its plan would be another one, and its state is of the one it has."));
        }
    }
    Ok(())
}

fn refused(before: &Object, reader: &Object, why: &str) -> Error {
    Error::new(
        SqlState::DependentObjectsStillExist,
        format!("cannot replace materialized view {} because other objects depend on it", before.name),
    )
    .with_detail(format!("{} {} depends on it. {why}", reader.kind_name(), reader.name))
    .with_hint("Drop what depends on it first.")
}
