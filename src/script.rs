//! `tidemark run FILE.sql`: a script against a database in this process, for CI jobs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::StreamExt;
use tidemark_common::{Error, Result, SqlState};
use tidemark_sql::grammar;

use crate::config::Config;
use crate::database::Database;
use crate::session::{Outcome, Rows, RowsTag, Session};
use tidemark_common::values::{Column, Style};

/// Runs the script; the exit code is that of the first statement that fails.
pub async fn run(config: Arc<Config>, script: &Path, temporary: bool) -> Result<ExitCode> {
    let text = read(script)?;
    let directory = temporary.then(tempfile::tempdir).transpose()?;
    let config = match &directory {
        Some(directory) => Arc::new(Config { data_dir: directory.path().join("data"), ..config.as_ref().clone() }),
        None => config,
    };
    let db = Database::open(config, tokio::runtime::Handle::current())?;
    db.clean_up().await?;
    let mut session = Session::new(db.clone(), "tidemark", &BTreeMap::new())?;
    let result = run_script(&mut session, &text).await;
    drop(session);
    db.shutdown().await;
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            report(&error, &text);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read(script: &Path) -> Result<String> {
    let mut text = String::new();
    if script == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(script).map_err(|e| Error::from(e).context(script.display()))
}

async fn run_script(session: &mut Session, text: &str) -> Result<()> {
    for statement in grammar::parse_script(text)? {
        let outcome = session.execute(&statement, &[]).await;
        for notice in session.take_notices() {
            eprintln!("{}:  {}", notice.severity, notice.message);
        }
        match outcome? {
            Outcome::Rows(rows) => print_rows(session, rows).await?,
            Outcome::Command(tag) => println!("{tag}"),
            Outcome::CopyIn(_) => {
                session.copy_fail();
                return Err(Error::unsupported("COPY FROM STDIN cannot run in a script")
                    .with_hint("Use INSERT, or a file source."));
            }
            Outcome::CopyOut(rows, _) => print_rows(session, rows).await?,
            Outcome::Deallocate(name) => {
                return Err(Error::new(
                    SqlState::UndefinedPreparedStatement,
                    format!("prepared statement \"{name}\" does not exist"),
                ));
            }
            Outcome::Empty => {}
        }
    }
    Ok(())
}

/// Rows as psql shows them, unaligned: values between bars.
async fn print_rows(session: &Session, mut rows: Rows) -> Result<()> {
    let names: Vec<&str> = rows.schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", names.join("|"))?;
    let style = Style::default().with_time_zone(&session.setting("TimeZone").unwrap_or_else(|| "UTC".into()))?;
    let mut count = 0;
    while let Some(batch) = rows.stream.next().await {
        let batch = batch?;
        count += batch.num_rows();
        write_batch(&mut out, &rows.schema, &batch, &style)?;
    }
    match rows.tag {
        RowsTag::Select => writeln!(out, "({count} row{})", if count == 1 { "" } else { "s" })?,
        RowsTag::Count(words) => writeln!(out, "{words} {count}")?,
        RowsTag::Fixed(tag) => writeln!(out, "{tag}")?,
    }
    Ok(())
}

fn write_batch(out: &mut impl Write, schema: &SchemaRef, batch: &RecordBatch, style: &Style) -> Result<()> {
    let columns = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, array)| Column::new(array, field))
        .collect::<Result<Vec<_>>>()?;
    let mut text = BytesMut::new();
    for row in 0..batch.num_rows() {
        text.clear();
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                text.extend_from_slice(b"|");
            }
            if !column.is_null(row) {
                column.write_text(row, style, &mut text);
            }
        }
        text.extend_from_slice(b"\n");
        out.write_all(&text)?;
    }
    Ok(())
}

fn report(error: &Error, script: &str) {
    match error.position() {
        Some(position) => {
            let line = script.chars().take(position.saturating_sub(1)).filter(|c| *c == '\n').count() + 1;
            eprintln!("ERROR:  {error} (line {line})");
        }
        None => eprintln!("ERROR:  {error}"),
    }
    if let Some(detail) = error.detail() {
        eprintln!("DETAIL:  {detail}");
    }
    if let Some(hint) = error.hint() {
        eprintln!("HINT:  {hint}");
    }
}
