//! What a session takes and gives: the border between the wire protocol and everything behind it.
//!
//! ```text
//!   bytes ──pgwire──▶ Parsed + parameters ──Session::execute──▶ Outcome ──pgwire──▶ bytes
//! ```

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use tidemark_common::types::SqlType;

/// What executing a statement yields.
pub enum Outcome {
    /// Rows, as they are computed. The tag is sent after the last.
    Rows(Rows),
    /// Done; the command tag, e.g. `INSERT 0 3`.
    Command(String),
    /// The client sends data now, which goes to [`super::Session::copy_batch`] and ends by `copy_finish` or `copy_fail`.
    CopyIn(CopyIn),
    /// Rows in COPY's format; the tag is `COPY n`.
    CopyOut(Rows, CopyOptions),
    /// DEALLOCATE of a name that SQL has not prepared: the client may have, by the protocol.
    Deallocate(String),
    /// Nothing between two semicolons.
    Empty,
}

pub struct Rows {
    pub schema: SchemaRef,
    pub stream: SendableRecordBatchStream,
    pub tag: RowsTag,
    /// Rows come as they happen (SUBSCRIBE): flush after each batch.
    pub live: bool,
    /// Of a BINARY cursor: in binary also where the protocol does not ask.
    pub binary: bool,
}

/// An open cursor to who wants to describe it.
pub struct CursorShape {
    pub schema: SchemaRef,
    pub binary: bool,
}

/// The command tag of a statement that returns rows; the number is the rows sent unless it is given here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsTag {
    /// `SELECT n`
    Select,
    /// `INSERT 0 n`, `UPDATE n`, `DELETE n` with RETURNING: the word(s) before the number.
    Count(&'static str),
    /// As it is: `SHOW`, `EXPLAIN`, ...
    Fixed(&'static str),
}

/// A COPY .. FROM STDIN that has begun: rows must have these columns, in this order.
pub struct CopyIn {
    pub schema: SchemaRef,
    pub options: CopyOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyFormat {
    #[default]
    Text,
    Csv,
    Binary,
}

/// COPY's options after defaults, as in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: u8,
    pub null: String,
    pub header: bool,
    pub quote: u8,
    pub escape: u8,
    /// Column positions (in the COPY's own list) that are always quoted (out) or never null (in).
    pub force_quote: Vec<usize>,
    pub force_not_null: Vec<usize>,
    pub force_null: Vec<usize>,
}

/// What Describe answers.
#[derive(Debug, Clone)]
pub struct Description {
    pub parameters: Vec<SqlType>,
    /// `None`: returns no rows.
    pub columns: Option<SchemaRef>,
}

/// A NOTICE, WARNING or INFO for the client, sent before the statement's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: &'static str,
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// ReadyForQuery's byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}
