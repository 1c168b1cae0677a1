//! A session: one connection's settings, transaction and statements.
//!
//! ```text
//!   execute(statement) ─▶ in a transaction block? ─ no ─▶ own transaction ─▶ run ─▶ commit ─▶ Outcome
//!                                  │                          ▲              │
//!                                 yes                         └── again ◀────┘ someone else changed the rows first
//!                                  └─▶ run within it
//! ```
//!
//! [`Session::execute`] looks after transactions, cancelling and errors; what each statement does is in the file of its name.

mod api;
mod assign;
mod control;
mod copy;
mod cursor;
mod delete;
mod describe;
mod dml;
mod explain;
mod facts;
mod info;
pub(crate) mod insert;
mod internal;
mod load;
mod normalize;
mod parts;
mod pipeline;
mod plans;
mod remote;
mod replay;
mod run;
mod select;
mod sequence_functions;
mod settings;
mod show;
mod subscribe;
mod update;
mod validate;

pub use api::*;
pub(crate) use assign::{check_default, converts};
pub use info::SessionInfo;
pub(crate) use insert::loading::Changed;
pub(crate) use internal::time_literal;
pub(crate) use normalize::Normalizer;
pub(crate) use select::{one_batch, with_parameters};
pub use tidemark_sql::ast::fold;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::scalar::ScalarValue;
use tidemark_catalog::Change;
use tidemark_common::connector::Source;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::ast::Parsed;
use tokio_util::sync::CancellationToken;

use self::copy::CopyState;
use self::cursor::Cursors;
use self::parts::Parts;
pub(crate) use self::parts::Returned;
use self::plans::Plans;
pub(crate) use self::remote::{RemoteName, RemoteTables, kept_elsewhere};
use crate::database::Database;
use crate::pg_catalog::SystemContext;
use crate::query::{Names, StatementState, StoredRows};
use crate::transaction::{Marks, PlannedStep, Transaction};

/// Times a statement is run again because other sessions were faster.
const MAX_RETRIES: usize = 100;

/// One connection.
pub struct Session {
    db: Arc<Database>,
    info: Arc<SessionInfo>,
    pid: i32,
    secret: i32,
    /// Functions that depend on this session.
    functions: Arc<HashMap<String, Arc<ScalarUDF>>>,
    transaction: Option<Transaction>,
    /// Several statements of one simple query are one transaction.
    implicit_block: bool,
    prepared: BTreeMap<String, Prepared>,
    plans: Plans,
    cursors: Cursors,
    notices: Vec<Notice>,
    copy: Option<CopyState>,
    /// Schema of this session's temporary tables, once it has any.
    temp_schema: Option<Oid>,
    /// While a statement runs that has data-modifying parts.
    parts: Option<Parts>,
    /// While a statement is planned that names tables of other systems.
    remote: Arc<RemoteTables>,
    /// The server's own: it may write its tables.
    internal: bool,
    /// Rows that the next load reads by these names.
    given: HashMap<String, Returned>,
    /// Rows whose keys the next load takes out, and then leaves all but them and those that come alone.
    gone: Option<Vec<RecordBatch>>,
}

/// A statement of PREPARE.
#[derive(Debug, Clone)]
struct Prepared {
    statement: Parsed,
    parameters: Vec<SqlType>,
}

impl Session {
    /// `parameters`: what the client's startup message said (application_name, TimeZone, ...).
    pub fn new(db: Arc<Database>, user: &str, parameters: &BTreeMap<String, String>) -> Result<Session> {
        Self::register(db, user, parameters, true)
    }

    /// `counts`: towards max_connections.
    fn register(db: Arc<Database>, user: &str, parameters: &BTreeMap<String, String>, counts: bool) -> Result<Session> {
        let info = Arc::new(SessionInfo::new(&db, user));
        for (name, value) in parameters {
            info.set_at_start(name, value)?;
        }
        let (pid, secret) = db.register(&info, counts)?;
        info.set_pid(pid);
        let functions = Arc::new(facts::functions(&db, &info));
        let cursors = Cursors::new(db.config.max_cursor_bytes as usize);
        Ok(Session {
            db,
            info,
            pid,
            secret,
            functions,
            transaction: None,
            implicit_block: false,
            prepared: BTreeMap::new(),
            plans: Plans::default(),
            cursors,
            notices: Vec::new(),
            copy: None,
            temp_schema: None,
            parts: None,
            remote: Arc::default(),
            internal: false,
            given: HashMap::new(),
            gone: None,
        })
    }

    /// Process id and secret of the cancel protocol.
    pub fn backend_key(&self) -> (i32, i32) {
        (self.pid, self.secret)
    }

    pub fn info(&self) -> &Arc<SessionInfo> {
        &self.info
    }

    /// Runs one statement. Parameters have the types that `describe` gave (or the client's).
    pub async fn execute(&mut self, statement: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
        let cancel = self.info.begin_statement(&statement.text, self.db.now());
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(self.info.cancel_reason()),
            result = self.execute_in_transaction(statement, parameters) => result,
        };
        if let Err(error) = &result {
            tracing::debug!(%error, statement = statement.text, "statement failed");
            self.statement_failed();
        }
        self.info.end_statement(self.transaction_status(), self.db.now());
        result.map_err(|e| place(e, statement))
    }

    async fn execute_in_transaction(&mut self, statement: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
        if self.transaction.as_ref().is_some_and(|t| t.failed) && !control::allowed_when_failed(&statement.statement) {
            return Err(Error::new(
                SqlState::InFailedSqlTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        let mut tries = 0;
        loop {
            let own = self.transaction.is_none();
            self.begin_if_none();
            // A statement that was cancelled may have left them.
            self.parts = None;
            let outcome = Box::pin(self.run(statement, parameters)).await;
            // Rows that are still to be read hold on to what they need.
            self.remote = Arc::default();
            let outcome = outcome?;
            if !self.ends_with_statement() || self.copy.is_some() {
                return Ok(outcome);
            }
            match self.commit().await {
                Ok(()) => return Ok(outcome),
                // Nobody has seen anything of it, so it may simply run again on newer data.
                Err(error) if own && error.state() == SqlState::SerializationFailure && tries < MAX_RETRIES => {
                    tries += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a transaction for a statement that has none.
    fn begin_if_none(&mut self) {
        if self.transaction.is_none() {
            let max_bytes = self.db.config.max_transaction_bytes as usize;
            let mut transaction = Transaction::new(self.db.moment(), false, self.db.now(), max_bytes);
            transaction.read_only = self.info.setting("default_transaction_read_only").as_deref() == Some("on");
            self.info.begin_transaction(transaction.started_at, &transaction.catalog);
            self.transaction = Some(transaction);
        }
    }

    /// What a statement does may be followed by others in its transaction.
    pub(crate) fn in_transaction_block(&self) -> bool {
        self.implicit_block || self.transaction.as_ref().is_some_and(|t| t.explicit)
    }

    /// What a statement does is a part of another one.
    pub(crate) fn is_part(&self) -> bool {
        self.parts.is_some()
    }

    /// True if the transaction is the statement's own.
    fn ends_with_statement(&self) -> bool {
        !self.implicit_block && self.transaction.as_ref().is_some_and(|t| !t.explicit)
    }

    /// Makes the transaction's changes true, and waits until every view shows them.
    async fn commit(&mut self) -> Result<()> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        let cursors = self.cursors.take_own();
        let mut committed = cursors.hold().await;
        if committed.is_ok() {
            committed = self.commit_changes(transaction).await;
        }
        if committed.is_ok() {
            self.cursors.put_back(cursors);
        } else {
            self.info.roll_back_settings();
        }
        self.tell_cursors();
        self.info.end_transaction();
        committed
    }

    async fn commit_changes(&mut self, transaction: Transaction) -> Result<()> {
        if transaction.is_read_only_so_far() {
            return Ok(());
        }
        let builds: Vec<Oid> = transaction.created_jobs();
        let dropped = transaction.dropped_sources(&self.db.environment);
        let mut commit = transaction.into_commit(&self.db.environment)?;
        if !commit.objects.is_empty() {
            commit.counters.push(self.db.oid_counter());
        }
        let ready = (!builds.is_empty()).then(|| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            commit.ready = Some(sender);
            receiver
        });
        let changes_catalog = commit.catalog.is_some();
        self.db.engine.commit(commit).await?;
        self.let_go(dropped).await;
        if changes_catalog {
            self.db.pipelines.news();
        }
        let Some(ready) = ready else { return Ok(()) };
        // If this future is dropped (cancel), what was being built goes again.
        let guard = DropUnlessReady { db: self.db.clone(), oids: builds };
        let built = ready.await.map_err(|_| Error::new(SqlState::AdminShutdown, "the server is shutting down"))?;
        let mut done = built;
        for oid in &guard.oids {
            if done.is_ok() && self.db.moment().catalog.get(*oid).is_some_and(|o| o.replaces().is_some()) {
                done = self.db.replace(*oid).await;
            }
        }
        match done {
            Ok(()) => {
                guard.disarm();
                Ok(())
            }
            Err(error) => {
                let oids = guard.disarm();
                self.db.drop_objects(oids).await?;
                Err(error)
            }
        }
    }

    /// What dropped sources keep in other systems goes. They are gone whether or not it does.
    async fn let_go(&mut self, dropped: Vec<Result<Arc<dyn Source>>>) {
        for source in dropped {
            let let_go = match source {
                Ok(source) => source.dropped().await,
                Err(error) => Err(error),
            };
            if let Err(error) = let_go {
                tracing::warn!(%error, "what a dropped source kept in another system is still there");
                let hint = error.hint().map(str::to_string);
                let message = error.to_string();
                self.notices.push(Notice { severity: "WARNING", code: error.code(), message, detail: None, hint });
            }
        }
    }

    /// Several statements of one message: one transaction, as in Postgres.
    pub fn begin_implicit(&mut self) {
        self.implicit_block = true;
    }

    /// The message's statements have all run.
    pub async fn end_implicit(&mut self) -> Result<()> {
        self.implicit_block = false;
        if self.ends_with_statement() {
            if self.transaction.as_ref().is_some_and(|t| t.failed) {
                self.rollback();
                return Ok(());
            }
            return self.commit().await;
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.transaction = None;
        self.copy = None;
        self.cursors.roll_back();
        self.tell_cursors();
        self.info.roll_back_settings();
        self.info.end_transaction();
    }

    /// An error outside `execute` (parse, bind) happened: a transaction is failed from here on.
    pub fn statement_failed(&mut self) {
        self.copy = None;
        match &mut self.transaction {
            Some(t) if t.explicit => t.failed = true,
            Some(_) => {
                self.implicit_block = false;
                self.rollback();
            }
            // It may have been cancelled while it ended.
            None => self.rollback(),
        }
    }

    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.transaction {
            Some(t) if t.explicit && t.failed => TransactionStatus::Failed,
            Some(t) if t.explicit => TransactionStatus::InTransaction,
            _ => TransactionStatus::Idle,
        }
    }

    /// Rows of a COPY FROM STDIN, with the schema that `CopyIn` asked for.
    pub async fn copy_batch(&mut self, batch: RecordBatch) -> Result<()> {
        let result = self.copy_rows(batch).await;
        if result.is_err() {
            self.statement_failed();
        }
        result
    }

    /// All data has come; returns the tag.
    pub async fn copy_finish(&mut self) -> Result<String> {
        let rows = match self.copy_end().await {
            Ok(rows) => rows,
            Err(error) => {
                self.statement_failed();
                return Err(error);
            }
        };
        if self.ends_with_statement()
            && let Err(error) = self.commit().await
        {
            self.statement_failed();
            return Err(error);
        }
        Ok(format!("COPY {rows}"))
    }

    /// The client gave up, or its data did not parse: nothing of the COPY is kept.
    pub fn copy_fail(&mut self) {
        self.statement_failed();
    }

    /// Notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn notice(&mut self, message: impl Into<String>) {
        let message = message.into();
        self.notices.push(Notice { severity: "NOTICE", code: "00000", message, detail: None, hint: None });
    }

    pub(crate) fn notice_with_hint(&mut self, message: String, hint: &str) {
        let hint = Some(hint.to_string());
        self.notices.push(Notice { severity: "NOTICE", code: "00000", message, detail: None, hint });
    }

    fn warning(&mut self, code: &'static str, message: impl Into<String>) {
        self.notices.push(Notice { severity: "WARNING", code, message: message.into(), detail: None, hint: None });
    }

    /// Settings that changed since the last call and that clients want to hear of (ParameterStatus).
    pub fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.info.take_reported_changes()
    }

    /// A setting that changes how values are written: TimeZone, DateStyle, IntervalStyle, extra_float_digits, bytea_output.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.info.setting(name)
    }

    /// Cancels the running statement when triggered; a fresh token per statement.
    pub fn cancellation(&self) -> CancellationToken {
        self.info.cancellation()
    }

    /// The error of a statement that was cancelled.
    pub fn cancel_reason(&self) -> Error {
        self.info.cancel_reason()
    }

    // ---- For the coordinator ------------------------------------------------------------------------------------------

    pub(crate) fn current_transaction(&self) -> Result<&Transaction> {
        self.transaction()
    }

    pub(crate) fn database(&self) -> Arc<Database> {
        self.db.clone()
    }

    /// The search path without the temporary schema: where new objects go, and what stored queries remember.
    pub(crate) fn settled_search_path(&self) -> Vec<String> {
        self.search_path()
    }

    pub(crate) fn tell(&mut self, message: String) {
        self.notice(message);
    }

    pub(crate) fn names_for_ddl(&self) -> Result<Names> {
        self.names(None)
    }

    pub(crate) fn change_catalog(&mut self, changes: Vec<Change>, steps: Vec<PlannedStep>) -> Result<()> {
        let catalog = self.transaction()?.catalog.clone();
        for change in &changes {
            let object = match change {
                Change::Put(object) => catalog.get(object.oid).map_or(object.as_ref(), |before| before),
                Change::Remove(oid) => catalog.expect(*oid)?,
            };
            self.check_may_change(object.schema, &object.name)?;
        }
        self.transaction_mut()?.change_catalog(changes, steps)?;
        let catalog = self.transaction()?.catalog.clone();
        self.info.note_schemas(&catalog);
        Ok(())
    }

    pub(crate) fn forget_table(&mut self, table: Oid) -> Result<()> {
        self.transaction_mut()?.forget_table(table);
        Ok(())
    }

    pub(crate) fn set_temporary_schema(&mut self, schema: Oid) {
        self.temp_schema = Some(schema);
    }

    /// All rows of a plan, in memory.
    pub(crate) async fn rows_of(&mut self, names: &Names, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        select::collect(names, plan).await
    }

    fn drop_temporary(&mut self) -> Result<()> {
        let Some(schema) = self.temp_schema else { return Ok(()) };
        let catalog = self.transaction()?.catalog.clone();
        let objects = catalog.dependants(schema);
        let steps = objects
            .iter()
            .filter(|o| crate::coordinator::definitions::is_kept(o))
            .map(|o| PlannedStep::Drop(o.oid))
            .collect();
        let changes = objects.iter().map(|o| Change::Remove(o.oid)).collect();
        self.change_catalog(changes, steps)
    }

    fn transaction(&self) -> Result<&Transaction> {
        self.transaction.as_ref().ok_or_else(|| Error::internal("there is no transaction"))
    }

    fn transaction_mut(&mut self) -> Result<&mut Transaction> {
        self.transaction.as_mut().ok_or_else(|| Error::internal("there is no transaction"))
    }

    /// Schemas in which unqualified names are looked up, the temporary one first.
    fn search_path(&self) -> Vec<String> {
        let mut path = self.info.search_path();
        if let Some(temp) = self.temp_schema
            && let Some(schema) = self.transaction.as_ref().and_then(|t| t.catalog.get(temp))
        {
            path.insert(0, schema.name.clone());
        }
        path
    }

    /// What names in this statement stand for. `with_row_numbers`: this table's hidden column is wanted.
    fn names(&self, with_row_numbers: Option<Oid>) -> Result<Names> {
        let transaction = self.transaction()?;
        let (mut rows, mut returned) = match &self.parts {
            Some(parts) => (parts.rows.clone(), parts.returned.clone()),
            None => (StoredRows::new(transaction, self.db.environment.clone()), HashMap::new()),
        };
        returned.extend(self.given.clone());
        rows.with_row_numbers = with_row_numbers;
        let search_path = self.search_path();
        let facts = Arc::new(facts::Facts::new(self.db.clone(), self.info.clone(), transaction.moment.clone()));
        let system = SystemContext::new(transaction.catalog.clone(), facts, search_path.clone());
        Ok(Names {
            state: self.statement_state(transaction),
            functions: self.functions.clone(),
            catalog: transaction.catalog.clone(),
            search_path,
            reads: Vec::new(),
            system: Some(system),
            scans: Arc::new(rows),
            returned,
            remote: self.remote.clone(),
        })
    }

    /// DataFusion's state with this session's time zone and this transaction's now().
    fn statement_state(&self, transaction: &Transaction) -> StatementState {
        let base = self.db.environment.state.clone();
        let (started_at, zone) = (transaction.started_at, self.info.setting("TimeZone"));
        Arc::new(LazyLock::new(Box::new(move || {
            let mut state = base.as_ref().clone();
            state.execution_props_mut().query_execution_start_time =
                chrono::DateTime::from_timestamp_micros(started_at);
            if zone.is_some() {
                state.config_mut().options_mut().execution.time_zone = zone;
            }
            // Where single expressions are compiled, their functions find the time zone there.
            let options = state.config_options().clone();
            state.execution_props_mut().config_options = Some(options);
            Arc::new(state)
        })))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.db.unregister(self.pid);
        if let (Some(schema), Ok(runtime)) = (self.temp_schema, tokio::runtime::Handle::try_current()) {
            let db = self.db.clone();
            runtime.spawn(async move {
                let catalog = db.moment().catalog;
                let mut oids: Vec<Oid> = catalog.dependants(schema).iter().map(|o| o.oid).collect();
                oids.push(schema);
                if let Err(error) = db.drop_objects(oids).await {
                    tracing::warn!(%error, "temporary objects of a session that has ended are left until the next start");
                }
            });
        }
    }
}

/// Drops views whose building was cancelled.
struct DropUnlessReady {
    db: Arc<Database>,
    oids: Vec<Oid>,
}

impl DropUnlessReady {
    fn disarm(mut self) -> Vec<Oid> {
        std::mem::take(&mut self.oids)
    }
}

impl Drop for DropUnlessReady {
    fn drop(&mut self) {
        let oids = std::mem::take(&mut self.oids);
        if oids.is_empty() {
            return;
        }
        let db = self.db.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = db.drop_objects(oids).await {
                    tracing::warn!(%error, "a view whose creation was cancelled is still there");
                }
            });
        }
    }
}

/// The planner knows line and column in the statement's text; clients count characters from the start of what they sent.
fn place(error: Error, statement: &Parsed) -> Error {
    let (Some((line, column)), None) = (error.location(), error.position()) else { return error };
    let lines_before = usize::try_from(line).unwrap_or(1).saturating_sub(1);
    let characters_before: usize =
        statement.text.split_inclusive('\n').take(lines_before).map(|line| line.chars().count()).sum();
    error.with_position(statement.offset + characters_before + usize::try_from(column).unwrap_or(1))
}
