//! DECLARE, FETCH, MOVE, CLOSE: a query whose rows are taken when they are wanted.
//!
//! ```text
//!   DECLARE ─▶ query started on the transaction's snapshot ─▶ Scan ◀── FETCH, MOVE
//!                                                              │
//!   COMMIT: gone, unless WITH HOLD: the rest is read into memory    ROLLBACK [TO]: gone, if declared since
//! ```
//!
//! A FETCH streams out of the cursor: its rows are read as the client takes them. Cursors of this kind and the portals of the
//! extended protocol are one namespace to clients, and apart here: the wire keeps its portals itself.

mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::{Declare, DeclareOf, Fetch};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use self::scan::{Aim, Memory, Scan};
use super::{CursorShape, Outcome, Rows, RowsTag, Session, fold, select, settings, with_parameters};
use crate::pg_catalog::CursorFact;

/// Cursors that a session may have open: each is a query under way.
const MAX_CURSORS: usize = 1000;

/// The cursors of a session.
pub(super) struct Cursors {
    open: BTreeMap<String, Cursor>,
    /// The number of the next one: savepoints remember it.
    next: u64,
    memory: Arc<Memory>,
}

struct Cursor {
    fact: CursorFact,
    schema: SchemaRef,
    number: u64,
    /// Declared by a transaction that has committed.
    held: bool,
    live: bool,
    scan: Arc<Mutex<Scan>>,
}

impl Cursor {
    /// The cursor's rows, if no FETCH is still at them.
    fn scan(&self) -> Result<OwnedMutexGuard<Scan>> {
        let name = &self.fact.name;
        let scan = self.scan.clone().try_lock_owned().map_err(|_| {
            Error::new(SqlState::ObjectInUse, format!("cursor \"{name}\" is in use by a FETCH that has not ended"))
                .with_hint("Read the rows of that FETCH to their end, or close its portal.")
        })?;
        if scan.is_broken() {
            let message = format!("portal \"{name}\" cannot be run");
            return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message));
        }
        Ok(scan)
    }
}

impl Cursors {
    pub fn new(max_bytes: usize) -> Self {
        Self { open: BTreeMap::new(), next: 0, memory: Memory::new(max_bytes) }
    }

    fn find(&self, name: &str) -> Result<&Cursor> {
        self.open.get(name).ok_or_else(|| no_cursor(name))
    }

    /// For [`Cursors::close_since`].
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// ROLLBACK TO: those declared since the mark are gone.
    pub fn close_since(&mut self, mark: u64) {
        self.open.retain(|_, cursor| cursor.number < mark);
    }

    pub fn close_all(&mut self) {
        self.open.clear();
    }

    /// ROLLBACK: those of the transaction are gone.
    pub fn roll_back(&mut self) {
        self.open.retain(|_, cursor| cursor.held);
    }

    /// COMMIT: takes those of the transaction out, and out of those WITH HOLD the rest of their rows.
    pub fn take_own(&mut self) -> OwnCursors {
        let own = self.open.extract_if(.., |_, cursor| !cursor.held);
        OwnCursors(own.map(|(_, cursor)| cursor).filter(|cursor| cursor.fact.holdable).collect())
    }

    /// The transaction has committed: these live on.
    pub fn put_back(&mut self, own: OwnCursors) {
        for mut cursor in own.0 {
            cursor.held = true;
            self.open.insert(cursor.fact.name.clone(), cursor);
        }
    }

    pub fn facts(&self) -> Vec<CursorFact> {
        self.open.values().map(|cursor| cursor.fact.clone()).collect()
    }
}

/// Cursors WITH HOLD of a transaction that commits.
pub(super) struct OwnCursors(Vec<Cursor>);

impl OwnCursors {
    pub async fn hold(&self) -> Result<()> {
        for cursor in &self.0 {
            cursor.scan()?.hold().await?;
        }
        Ok(())
    }
}

fn no_cursor(name: &str) -> Error {
    Error::new(SqlState::UndefinedCursor, format!("cursor \"{name}\" does not exist"))
}

impl Session {
    /// An open cursor, as the wire describes it.
    pub fn cursor(&self, name: &str) -> Option<CursorShape> {
        let cursor = self.cursors.open.get(name)?;
        Some(CursorShape { schema: cursor.schema.clone(), binary: cursor.fact.binary })
    }

    /// Closes a cursor, if there is one of that name.
    pub fn close_cursor(&mut self, name: &str) {
        if self.cursors.open.remove(name).is_some() {
            self.tell_cursors();
        }
    }

    /// pg_cursors reads from outside of the session.
    pub(super) fn tell_cursors(&self) {
        self.info.note_cursors(self.cursors.facts());
    }

    pub(super) async fn declare(&mut self, declare: &Declare, parameters: &[ScalarValue]) -> Result<Outcome> {
        let name = fold(&declare.name);
        let (schema, source) = match &declare.of {
            DeclareOf::Query(query) => {
                let names = self.names(None)?;
                let plan = with_parameters(names.plan(checked(query)?)?, parameters)?;
                self.check_declare(&name, declare)?;
                let (schema, source) = select::execute(&names, plan).await?;
                (select::renamed(schema, query), source)
            }
            DeclareOf::Subscribe(subscribe) => {
                let refused = |what: &str| {
                    Error::unsupported(format!("a cursor over SUBSCRIBE cannot be {what}"))
                        .with_hint("Its rows come as they happen, and it has no end.")
                };
                match (declare.scroll, declare.hold) {
                    (Some(true), _) => return Err(refused("SCROLL")),
                    (_, true) => return Err(refused("WITH HOLD")),
                    _ => {}
                }
                self.check_declare(&name, declare)?;
                self.subscription(subscribe).await?
            }
        };
        let live = matches!(declare.of, DeclareOf::Subscribe(_));
        let scrollable = declare.scroll == Some(true);
        let scan = Scan::new(source, scrollable, live, &self.cursors.memory);
        let fact = CursorFact {
            name: name.clone(),
            statement: declare.text.clone(),
            holdable: declare.hold,
            binary: declare.binary,
            scrollable,
            created: self.db.now(),
        };
        let number = self.cursors.next;
        self.cursors.next += 1;
        let cursor = Cursor { fact, schema, number, held: false, live, scan: Arc::new(Mutex::new(scan)) };
        self.cursors.open.insert(name, cursor);
        self.tell_cursors();
        Ok(Outcome::Command("DECLARE CURSOR".into()))
    }

    fn check_declare(&self, name: &str, declare: &Declare) -> Result<()> {
        if !declare.hold && !self.in_transaction_block() {
            return Err(Error::new(
                SqlState::NoActiveSqlTransaction,
                "DECLARE CURSOR can only be used in transaction blocks",
            )
            .with_hint("BEGIN first, or declare it WITH HOLD."));
        }
        if self.cursors.open.contains_key(name) {
            return Err(Error::new(SqlState::DuplicateCursor, format!("cursor \"{name}\" already exists")));
        }
        if self.cursors.open.len() >= MAX_CURSORS {
            let message = format!("too many cursors: {MAX_CURSORS} are open");
            return Err(Error::new(SqlState::ConfigurationLimitExceeded, message)
                .with_hint("CLOSE those that are no longer used."));
        }
        Ok(())
    }

    pub(super) async fn fetch(&mut self, fetch: &Fetch) -> Result<Outcome> {
        let cursor = self.cursors.find(&fold(&fetch.name))?;
        let until = timeout(fetch, cursor.live)?.map(|timeout| Instant::now() + timeout);
        let (schema, binary, live) = (cursor.schema.clone(), cursor.fact.binary, cursor.live);
        let mut scan = cursor.scan()?;
        let aim = scan.aim(fetch.direction, fetch.moves).await?;
        let mut walk = match aim {
            Aim::There(rows) => return Ok(Outcome::Command(format!("MOVE {rows}"))),
            Aim::Walk(walk) => walk.waiting(until),
        };
        if fetch.moves {
            while scan.next(&mut walk).await?.is_some() {}
            return Ok(Outcome::Command(format!("MOVE {}", walk.passed)));
        }
        let rows = futures::stream::try_unfold((scan, walk), |(mut scan, mut walk)| async move {
            let batch = scan.next(&mut walk).await?;
            Ok(batch.map(|batch| (batch, (scan, walk))))
        });
        let stream: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), rows));
        let stream = select::under(schema.clone(), stream);
        Ok(Outcome::Rows(Rows { schema, stream, tag: RowsTag::Count("FETCH"), live, binary }))
    }

    pub(super) fn close(&mut self, name: Option<&sql::Ident>) -> Result<Outcome> {
        let tag = match name.map(fold) {
            Some(name) => {
                self.cursors.open.remove(&name).ok_or_else(|| no_cursor(&name))?;
                "CLOSE CURSOR"
            }
            None => {
                self.cursors.close_all();
                "CLOSE CURSOR ALL"
            }
        };
        self.tell_cursors();
        Ok(Outcome::Command(tag.into()))
    }
}

/// The query, if a cursor can be over it.
fn checked(query: &sql::Query) -> Result<&sql::Query> {
    if super::dml::modifying(query).is_some() {
        return Err(Error::unsupported("DECLARE CURSOR must not contain data-modifying statements in WITH"));
    }
    if crate::coordinator::tables::select_into(query).is_some() {
        return Err(Error::syntax("SELECT ... INTO is not allowed here"));
    }
    Ok(query)
}

/// `WITH (timeout = '1s')`: how long a FETCH waits for a first row.
fn timeout(fetch: &Fetch, live: bool) -> Result<Option<Duration>> {
    let mut timeout = None;
    for (key, value) in &fetch.options {
        if key != "timeout" {
            return Err(
                Error::invalid(format!("unrecognized option \"{key}\"")).with_hint("FETCH knows the option timeout.")
            );
        }
        if !live {
            return Err(Error::invalid("option \"timeout\" is for cursors over SUBSCRIBE"));
        }
        let millis = settings::millis(value).ok_or_else(|| {
            Error::invalid(format!("option \"timeout\" must be a time such as 500ms or 2s, not '{value}'"))
        })?;
        timeout = Some(Duration::from_millis(millis));
    }
    Ok(timeout)
}
