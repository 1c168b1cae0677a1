//! The language, as recorded text: runs `suites/**/*.slt` over the wire against a server process.
//!
//! ```text
//!   suites/postgres/*.slt   plain Postgres: what PostgreSQL answers is the truth (scripts/slt-postgres.sh asks it)
//!   suites/tidemark/*.slt   what only Tidemark has
//!   suites/views/*.slt      view tests: one query, four runs that must agree (views.rs)
//!
//!   file ──records──▶ Client ──simple protocol──▶ a server of its own, data directory of its own
//! ```
//!
//! Suites of loads run once more with their tables kept in a PostgreSQL, under the label `elsewhere` (tests/it/loads_elsewhere.rs).
//!
//! NULL is written `NULL`, an empty string `(empty)`; white space within a row does not count. `skipif postgres` and
//! `onlyif postgres` stand before a record that differs by design, with a comment that says why.
//!
//! Architecture invariant: depends on no crate of Tidemark. What it knows of the server is what a user knows.

mod client;
pub mod process;
mod server;
mod suite;
mod views;

use std::fmt;
use std::path::{Path, PathBuf};

pub use client::{Client, ClientError};
pub use server::{Server, free_port};
pub use suite::{Options, Report, run_script, run_suites};

/// What went wrong, for a person.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure(error.to_string())
    }
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// All files below `dir` that end in `.slt`, in order of path.
pub fn slt_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "slt") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
