//! Errors and notices as the messages that clients understand.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use tidemark_common::{Error, SqlState};

use crate::session::Notice;

/// Why the work on a message stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Tell the client and go on with its next message.
    Report(Report),
    /// The statement was cancelled; the session knows why.
    Cancelled,
    /// Tell the client and hang up.
    Fatal(Error),
    /// The client is gone.
    Gone,
}

/// An error and where in the client's data it was found.
#[derive(Debug)]
pub(super) struct Report {
    pub error: Error,
    pub context: Option<String>,
}

pub(super) type Flow<T> = std::result::Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Report(Report { error, context: None })
    }
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Stop::Gone
    }
}

impl From<pgwire::error::PgWireError> for Stop {
    fn from(error: pgwire::error::PgWireError) -> Self {
        Error::internal(error.to_string()).into()
    }
}

pub(super) fn protocol_violation(message: impl Into<String>) -> Error {
    Error::new(SqlState::ProtocolViolation, message)
}

pub(super) fn shutting_down() -> Error {
    Error::new(SqlState::AdminShutdown, "terminating connection due to administrator command")
}

/// `severity`: ERROR or FATAL.
pub(super) fn write_error(severity: &str, report: &Report, out: &mut BytesMut) {
    let error = &report.error;
    let mut fields = head(severity, error.code(), error.message());
    optional(&mut fields, b'D', error.detail());
    optional(&mut fields, b'H', error.hint());
    optional(&mut fields, b'P', error.position().map(|p| p.to_string()).as_deref());
    optional(&mut fields, b'W', report.context.as_deref());
    ErrorResponse::new(fields).encode(out).expect("an error response has no limit below 2 GB");
}

pub(super) fn write_notice(notice: &Notice, out: &mut BytesMut) {
    let mut fields = head(notice.severity, notice.code, &notice.message);
    optional(&mut fields, b'D', notice.detail.as_deref());
    optional(&mut fields, b'H', notice.hint.as_deref());
    NoticeResponse::new(fields).encode(out).expect("a notice has no limit below 2 GB");
}

fn head(severity: &str, code: &str, message: &str) -> Vec<(u8, String)> {
    vec![
        (b'S', severity.to_string()),
        (b'V', severity.to_string()),
        (b'C', code.to_string()),
        (b'M', without_zeros(message)),
    ]
}

fn optional(fields: &mut Vec<(u8, String)>, kind: u8, value: Option<&str>) {
    if let Some(value) = value {
        fields.push((kind, without_zeros(value)));
    }
}

/// Strings on the wire end at the first zero byte.
fn without_zeros(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
