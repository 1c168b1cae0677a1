//! Continuous pipelines: the changes of a query, loaded epoch by epoch as they come.
//!
//! ```text
//!   dataflow ──an epoch's changes──▶ outbox ──▶ deliver ─▶ rows that come, rows that go ──▶ the targets' strategies
//!                                                                      one transaction with: tidemark.watermarks, the epoch
//! ```
//!
//! An epoch that is delivered again, after a crash, is known by that row (in another system by `tidemark.progress`), and left out.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_catalog::{Object, columns_schema};
use tidemark_common::connector::{Sink, SinkWriter};
use tidemark_common::{Delta, Epoch, Error, Net, Oid, Result, SqlState};
use tidemark_connectors::load::{Counts, Deletes, LoadRun, Strategy};

use super::history;
use super::work::Definition;
use crate::coordinator::loads::load_of;
use crate::database::Database;
use crate::session::{Changed, Session};

/// What tells in `tidemark.watermarks` that the value is an epoch.
pub const EPOCH: &str = "tidemark_epoch";

/// The sink that a continuous pipeline is to the engine.
#[derive(Debug)]
pub struct Loads {
    pipeline: Oid,
    schema: SchemaRef,
    database: Arc<OnceLock<Weak<Database>>>,
}

impl Loads {
    pub fn new(pipeline: &Object, database: Arc<OnceLock<Weak<Database>>>) -> Self {
        let columns = pipeline.continuous().map(|continuous| continuous.columns.as_slice()).unwrap_or_default();
        Self { pipeline: pipeline.oid, schema: columns_schema(columns), database }
    }
}

#[async_trait::async_trait]
impl Sink for Loads {
    async fn writer(&self) -> Result<Box<dyn SinkWriter>> {
        // Delivery begins while the database is still being opened.
        let database = loop {
            match self.database.get() {
                Some(database) => break database.clone(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Ok(Box::new(Writer { pipeline: self.pipeline, schema: self.schema.clone(), database }))
    }
}

struct Writer {
    pipeline: Oid,
    schema: SchemaRef,
    database: Weak<Database>,
}

#[async_trait::async_trait]
impl SinkWriter for Writer {
    async fn deliver(&mut self, epoch: Epoch, changes: Vec<Delta>) -> Result<()> {
        let stopping = || Error::new(SqlState::AdminShutdown, "the server is shutting down");
        let db = self.database.upgrade().ok_or_else(stopping)?;
        let net = Net::of(&self.schema, &changes)?;
        let delivered = self.load(&db, epoch, &net).await;
        db.pipelines.delivered(&db, self.pipeline, delivered.as_ref().err());
        delivered
    }
}

impl Writer {
    async fn load(&self, db: &Arc<Database>, epoch: Epoch, net: &Net) -> Result<()> {
        let definition = Definition::of(&db.moment().catalog, self.pipeline)?;
        let name = definition.object.name.clone();
        let mut session = Session::internal(db, &format!("pipeline {name}"))?;
        let before = history::watermark(&mut session, self.pipeline).await?;
        if before.is_some_and(|mark| mark.value.parse::<Epoch>().is_ok_and(|before| before >= epoch)) {
            return Ok(());
        }
        let catalog = db.moment().catalog;
        let targets = definition.pipeline.targets.iter().map(|oid| catalog.expect(*oid).cloned());
        let (there, here): (Vec<_>, Vec<_>) =
            targets.collect::<Result<Vec<_>>>()?.into_iter().partition(|target| target.remote().is_some());
        let mut counts = Counts::default();
        for target in &there {
            let id = format!("{}-{}-{epoch}", self.pipeline, definition.pipeline.since);
            let run = LoadRun { id, target: target.name.clone(), payload: None, dry: false, anew: false };
            let rows = changed(net, target)?;
            let loaded = async |session: &mut Session| session.load_changed(target, rows, Some(run)).await;
            counts = counts.plus(&session.in_own_transaction(loaded).await?);
        }
        let mut tries = 0;
        loop {
            session.script("BEGIN").await?;
            let done = self.load_here(&mut session, &here, net, (&name, epoch), counts).await;
            if session.block_done(done, &mut tries).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// An epoch's changes into the tables of this server, and that they are in them: all of it or nothing.
    async fn load_here(
        &self,
        session: &mut Session,
        targets: &[Arc<Object>],
        net: &Net,
        (name, epoch): (&str, Epoch),
        mut counts: Counts,
    ) -> Result<()> {
        for target in targets {
            counts = counts.plus(&session.load_changed(target, changed(net, target)?, None).await?);
        }
        history::loaded(session, self.pipeline, name, epoch, &counts).await
    }
}

/// What there is to do in this target after an epoch.
fn changed(net: &Net, target: &Object) -> Result<Changed> {
    let load = load_of(target)?;
    let deletes = load.is_some_and(|load| load.deletes != Deletes::Ignore);
    let gone = match (&net.weights, deletes) {
        (Some(_), true) => Some(vec![net.gone()?]),
        // Nothing goes: and what does not come stays, too.
        (None, true) => Some(Vec::new()),
        (_, false) => None,
    };
    Ok(Changed { schema: net.batch.schema(), come: vec![net.come()?], gone })
}

/// Whether the query's changes can be loaded into the target.
pub fn check_target(target: &Object, append_only: bool) -> Result<()> {
    let load = load_of(target)?;
    let refused = |why: String, hint: &str| Err(Error::unsupported(why).with_hint(hint));
    let name = &target.name;
    match load.as_ref().map(|load| &load.strategy) {
        Some(Strategy::Truncate) => refused(
            format!("a continuous pipeline cannot load into \"{name}\", whose strategy is truncate"),
            "Each change would replace all that is there: use merge.",
        ),
        None | Some(Strategy::Append { .. }) if !append_only => refused(
            format!("the query changes rows that it has given, and \"{name}\" only takes rows that stay as they are"),
            "Load into a table with strategy merge or scd2. EXPLAIN CREATE MATERIALIZED VIEW v AS the query shows what updates rows.",
        ),
        _ => Ok(()),
    }
}
