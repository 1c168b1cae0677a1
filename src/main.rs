//! The server: one binary, one data directory.
//!
//! ```text
//!   main ─┬─ serve   Database ◀── pgwire (psql, drivers)
//!         │             ▲ └────── http (metrics, health)
//!         ├─ run     a script against a Database in this process
//!         └─ config  what is set, and from where
//! ```

mod config;
mod coordinator;
mod database;
mod http;
mod metrics;
mod pg_catalog;
mod pgwire;
mod pipelines;
mod planning;
mod query;
mod script;
mod sequences;
mod serve;
mod session;
mod transaction;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use tidemark_common::{Error, Result};

use crate::config::{Command, Config};

/// Batches come and go all the time: glibc's gives their memory back to the kernel and faults it in again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Of a worker thread, in bytes. Syntax trees and plans are walked by recursion, as deep as the grammar lets a statement be.
pub(crate) const STACK: usize = 16 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let (command, config) = config::from_command_line()?;
    if let Command::Config = command {
        print!("{}", config.listing());
        return Ok(ExitCode::SUCCESS);
    }
    start_logging(&config)?;
    // Both providers are linked, so one must be chosen before anything asks.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK)
        .enable_all()
        .thread_name("worker")
        .build()
        .map_err(|e| Error::from(e).context("starting the runtime"))?;
    let config = Arc::new(config);
    match command {
        Command::Run { script, temporary } => runtime.block_on(script::run(config, &script, temporary)),
        Command::Serve | Command::Config => runtime.block_on(serve::run(config)).map(|()| ExitCode::SUCCESS),
    }
}

fn start_logging(config: &Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .map_err(|e| Error::invalid(format!("log = '{}' is not a filter: {e}", config.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colours are for eyes; on a terminal NO_COLOR still has its say.
    if std::io::stderr().is_terminal() {
        log.init()
    } else {
        log.with_ansi(false).init()
    }
    Ok(())
}

/// An error on standard error, as psql would show it.
fn report(error: &Error) {
    eprintln!("tidemark: {error}");
    if let Some(detail) = error.detail() {
        eprintln!("DETAIL: {detail}");
    }
    if let Some(hint) = error.hint() {
        eprintln!("HINT: {hint}");
    }
}
