//! Errors of another server: its SQLSTATE, message, detail and hint, and the connection's name before them.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};

use tidemark_common::{Error, SqlState};
use tokio_postgres::error::DbError;

/// What went wrong on a connection that had been made. `sql`: the statement that it was about.
pub fn remote(connection: &str, error: &tokio_postgres::Error, sql: Option<&str>) -> Error {
    let said = match error.as_db_error() {
        Some(db) => of_server(db),
        None => Error::new(SqlState::ConnectionException, causes(error)),
    };
    let detail = [said.detail().map(String::from), sql.map(|sql| format!("Remote statement: {sql}"))];
    let detail: Vec<String> = detail.into_iter().flatten().collect();
    let named = said.context(format_args!("connection \"{connection}\""));
    if detail.is_empty() { named } else { named.with_detail(detail.join("\n")) }
}

/// The server's own error.
pub fn of_server(db: &DbError) -> Error {
    let mut error = Error::new(state(db.code().code()), db.message());
    if let Some(detail) = db.detail() {
        error = error.with_detail(detail);
    }
    if let Some(hint) = db.hint() {
        error = error.with_hint(hint);
    }
    error
}

/// The error and what caused it, which says more.
pub fn causes(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

/// A server that made up codes for ever would fill the memory with them.
const MAX_CODES: usize = 1000;

static CODES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Of any code that a server says.
pub fn state(code: &str) -> SqlState {
    let mut codes = CODES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = codes.get(code) {
        return SqlState::Other(known);
    }
    if codes.len() >= MAX_CODES || code.len() != 5 {
        return SqlState::ConnectionException;
    }
    let kept: &'static str = Box::leak(code.to_string().into_boxed_str());
    codes.insert(kept);
    SqlState::Other(kept)
}
