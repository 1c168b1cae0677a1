//! A session: one connection's settings, transaction and statements.

mod api;

pub use api::*;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;
use tidemark_common::types::SqlType;
use tidemark_sql::ast::Parsed;
use tokio_util::sync::CancellationToken;

use crate::database::Database;

/// One connection.
pub struct Session {
    _db: Arc<Database>,
}

impl Session {
    /// `parameters`: what the client's startup message said (application_name, TimeZone, ...).
    pub fn new(_db: Arc<Database>, _user: &str, _parameters: &BTreeMap<String, String>) -> Result<Session> {
        todo!()
    }

    /// Process id and secret of the cancel protocol.
    pub fn backend_key(&self) -> (i32, i32) {
        todo!()
    }

    /// Runs one statement. Parameters have the types that `describe` gave (or the client's).
    pub async fn execute(&mut self, _statement: &Parsed, _parameters: &[ScalarValue]) -> Result<Outcome> {
        todo!()
    }

    /// Parameter and result types without running it. `given`: types that the client declared, by position.
    pub async fn describe(&mut self, _statement: &Parsed, _given: &[Option<SqlType>]) -> Result<Description> {
        todo!()
    }

    /// Rows of a COPY FROM STDIN, with the schema that `CopyIn` asked for.
    pub async fn copy_batch(&mut self, _batch: RecordBatch) -> Result<()> {
        todo!()
    }

    /// All data has come; returns the tag.
    pub async fn copy_finish(&mut self) -> Result<String> {
        todo!()
    }

    /// The client gave up, or its data did not parse: nothing of the COPY is kept.
    pub fn copy_fail(&mut self) {
        todo!()
    }

    /// An error outside `execute` (parse, bind) happened: a transaction is failed from here on.
    pub fn statement_failed(&mut self) {
        todo!()
    }

    pub fn transaction_status(&self) -> TransactionStatus {
        todo!()
    }

    /// Notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        todo!()
    }

    /// Settings that changed since the last call and that clients want to hear of (ParameterStatus).
    pub fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        todo!()
    }

    /// A setting that changes how values are written: TimeZone, DateStyle, IntervalStyle, extra_float_digits, bytea_output.
    pub fn setting(&self, _name: &str) -> Option<String> {
        todo!()
    }

    /// Cancels the running statement when triggered; a fresh token per statement.
    pub fn cancellation(&self) -> CancellationToken {
        todo!()
    }
}
