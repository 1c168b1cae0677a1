//! The real server behind the wire: [`Database`] and [`Session`].

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::ast::Parsed;
use tidemark_sql::grammar;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Canceller, WireSession};
use crate::database::Database;
use crate::session::{CursorShape, Description, Notice, Outcome, Session, TransactionStatus};

/// The one role there is.
const SUPERUSER: &str = "tidemark";

impl Backend for Database {
    type Session = Served;

    fn password(&self, _user: &str) -> Option<String> {
        // The same for a role that does not exist, which is told only to who knows the password.
        self.config.password.clone()
    }

    fn open(self: &Arc<Self>, user: &str, database: &str, parameters: &BTreeMap<String, String>) -> Result<Served> {
        if user != SUPERUSER {
            return Err(Error::new(SqlState::InvalidAuthorization, format!("role \"{user}\" does not exist"))
                .with_hint(format!("Connect as {SUPERUSER}.")));
        }
        if database != self.name {
            return Err(Error::new(SqlState::UndefinedDatabase, format!("database \"{database}\" does not exist"))
                .with_hint(format!("Connect to {}.", self.name)));
        }
        Ok(Served { session: Session::new(Arc::clone(self), user, parameters)?, db: Arc::clone(self) })
    }

    fn cancel(&self, pid: i32, secret: i32) {
        Database::cancel(self, pid, secret);
    }

    fn max_connections(&self) -> usize {
        self.config.max_connections
    }
}

/// A session and the database that it is on.
pub struct Served {
    session: Session,
    db: Arc<Database>,
}

impl WireSession for Served {
    type Statement = Parsed;

    fn parse(&self, script: &str) -> Result<Vec<Parsed>> {
        grammar::parse_script(script)
    }

    fn backend_key(&self) -> (i32, i32) {
        self.session.backend_key()
    }

    async fn execute(&mut self, statement: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
        self.session.execute(statement, parameters).await
    }

    fn look_up(&mut self, statement: &Parsed, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        self.session.look_up_known(statement, parameters)
    }

    async fn describe(&mut self, statement: &Parsed, given: &[Option<SqlType>]) -> Result<Description> {
        self.session.describe(statement, given).await
    }

    async fn copy_batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.session.copy_batch(batch).await
    }

    async fn copy_finish(&mut self) -> Result<String> {
        self.session.copy_finish().await
    }

    fn copy_fail(&mut self) {
        self.session.copy_fail();
    }

    fn statement_failed(&mut self) {
        self.session.statement_failed();
    }

    fn cursor(&self, name: &str) -> Option<CursorShape> {
        self.session.cursor(name)
    }

    fn close_cursor(&mut self, name: &str) {
        self.session.close_cursor(name);
    }

    fn begin_implicit(&mut self) {
        self.session.begin_implicit();
    }

    async fn end_implicit(&mut self) -> Result<()> {
        self.session.end_implicit().await
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.session.transaction_status()
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        self.session.take_notices()
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.session.take_parameter_changes()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.session.setting(name)
    }

    fn settings_version(&self) -> u64 {
        self.session.info().settings_version()
    }

    fn canceller(&self) -> Canceller {
        let info = Arc::clone(self.session.info());
        Arc::new(move || info.cancel())
    }

    fn cancellation(&self) -> CancellationToken {
        self.session.cancellation()
    }

    fn resume(&mut self) -> CancellationToken {
        let info = self.session.info();
        info.begin_statement(&info.activity().query, self.db.now())
    }

    fn cancel_reason(&self) -> Error {
        self.session.cancel_reason()
    }

    fn now_micros(&self) -> i64 {
        self.db.now()
    }
}
