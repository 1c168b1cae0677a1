//! What the wire protocol needs of the server behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::session::{CursorShape, Description, Notice, Outcome, TransactionStatus};

/// The server: opens sessions and cancels what they run.
pub trait Backend: Send + Sync + 'static {
    type Session: WireSession;

    /// The password that `user` must prove; `None` if no password is configured at all. Where passwords are required and
    /// the role is unknown, a text that nobody can guess: who guesses roles learns nothing.
    fn password(&self, user: &str) -> Option<String>;

    /// Opens a session. Fails with `UndefinedDatabase` (`database "x" does not exist`) or `InvalidAuthorization` (`role "x"
    /// does not exist`). `parameters` are those of the startup message, without user and database.
    fn open(
        self: &Arc<Self>,
        user: &str,
        database: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self::Session>;

    /// Cancels the running statement of the session with this key; does nothing if there is none.
    fn cancel(&self, pid: i32, secret: i32);

    fn max_connections(&self) -> usize;
}

pub type Canceller = Arc<dyn Fn() + Send + Sync>;

/// A session as the wire protocol uses it. See `Session` for what each method does.
pub trait WireSession: Send + 'static {
    type Statement: Send + Sync + 'static;

    /// The statements of a script; none for an empty one.
    fn parse(&self, script: &str) -> Result<Vec<Self::Statement>>;

    fn backend_key(&self) -> (i32, i32);

    fn execute(
        &mut self,
        statement: &Self::Statement,
        parameters: &[ScalarValue],
    ) -> impl Future<Output = Result<Outcome>> + Send;

    /// The rows of a statement of which it is known by now that they are found at once. `None`: it is to be executed.
    fn look_up(&mut self, statement: &Self::Statement, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>>;

    fn describe(
        &mut self,
        statement: &Self::Statement,
        given: &[Option<SqlType>],
    ) -> impl Future<Output = Result<Description>> + Send;

    fn copy_batch(&mut self, batch: RecordBatch) -> impl Future<Output = Result<()>> + Send;

    fn copy_finish(&mut self) -> impl Future<Output = Result<String>> + Send;

    fn copy_fail(&mut self);

    fn statement_failed(&mut self);

    /// A cursor that SQL has declared.
    fn cursor(&self, name: &str) -> Option<CursorShape>;

    fn close_cursor(&mut self, name: &str);

    /// From here to [`WireSession::end_implicit`], statements outside of BEGIN .. COMMIT share one transaction: those of one Query
    /// message, or all up to the next Sync. Not called where there is only one, so that it can be run again on a conflict.
    fn begin_implicit(&mut self);

    /// Commits what the implicit transaction did, or rolls it back if a statement failed; leaves a transaction that the
    /// client began open.
    fn end_implicit(&mut self) -> impl Future<Output = Result<()>> + Send;

    fn transaction_status(&self) -> TransactionStatus;

    fn take_notices(&mut self) -> Vec<Notice>;

    fn take_parameter_changes(&mut self) -> Vec<(String, String)>;

    fn setting(&self, name: &str) -> Option<String>;

    /// Changes whenever a setting does.
    fn settings_version(&self) -> u64;

    /// What cancels the statement that the session is running, also while `execute` holds the session.
    fn canceller(&self) -> Canceller;

    /// The token of the statement that `execute` began last: cancelled by a cancel request while its rows are sent or its data
    /// received.
    fn cancellation(&self) -> CancellationToken;

    /// A suspended portal goes on: a fresh token, in the place of [`WireSession::cancellation`]'s.
    fn resume(&mut self) -> CancellationToken;

    /// The error of a statement whose token was triggered.
    fn cancel_reason(&self) -> Error;

    /// What `now` means in a literal: microseconds since 1970 UTC.
    fn now_micros(&self) -> i64;
}
