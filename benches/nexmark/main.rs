//! Nexmark from one file of JSON events, into nothing or into a view.
//!
//! ```text
//!   the generator's events ──once──▶ a file of JSON lines
//!   for each query: fresh server ──▶ CREATE SOURCE, CREATE SINK | VIEW ──▶ until all events are through
//!                                    ──▶ events/s, events per CPU-second and times Flink's, memory, state, epoch p50 and p99
//! ```
//!
//! `cargo bench --workspace --bench nexmark -- [--queries q0,q1] [--events N] [--into view|blackhole] [--flag '--workers 1'] [--out FILE]`
//!
//! With `--out` each query adds a line of JSON to the file, all figures in it, also those that the table has no column for. Into
//! `$TIDEMARK_FIGURES` goes what is asked for, as benches/common/figures.py prints it.

#![allow(clippy::disallowed_methods)] // measuring is what this is for

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemark_sqllogictest::process::{cpu_seconds, cpu_seconds_by_thread, peak_memory};
use tidemark_sqllogictest::{Client, Failure, Result, Server};

use crate::queries::{QUERIES, Query};

mod events;
mod queries;

#[derive(Clone, Copy, PartialEq)]
enum Into {
    View,
    Blackhole,
}

struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    /// Of the data directory: operators' state and views' contents.
    state_bytes: u64,
    /// The most memory that the server had.
    peak_bytes: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the CPU-seconds, those of the clock's thread, and of the workers that it starts; the rest is mostly decoding.
    clock_cpu_seconds: f64,
    workers_cpu_seconds: f64,
    /// Seconds in which an epoch was under way, and of these the seconds of its commit.
    epochs_seconds: f64,
    commits_seconds: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let events: u64 = match argument("--events") {
        Some(text) => text.parse().map_err(|_| Failure(format!("--events must be a number, not {text}")))?,
        None => 5_000_000,
    };
    let wanted = argument("--queries");
    let into = match argument("--into").as_deref() {
        None | Some("blackhole") => Into::Blackhole,
        Some("view") => Into::View,
        Some(other) => return Err(Failure(format!("--into must be view or blackhole, not {other}"))),
    };
    let flags = argument("--flag").unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let file = events::file(&std::env::temp_dir().join("tidemark-bench"), events)?;
    println!(
        "| Query | What it asks for | Events/s | Events per CPU-second | times Flink's | Asked | State | Peak memory | Epoch p50 | Epoch p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for query in &QUERIES {
        if wanted.as_ref().is_some_and(|w| !w.split(',').any(|name| name == query.name)) {
            continue;
        }
        let m = match measure(query, into, &file, &flags).await {
            Ok(measured) => measured,
            Err(failure) if wanted.is_none() => {
                println!("| {} | {} | {} |", query.name, query.asks_for, failure.0.lines().next().unwrap_or_default());
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let (rate, per_cpu) = (events as f64 / m.seconds, events as f64 / m.cpu_seconds);
        if let Some(path) = argument("--out") {
            append(&path, &m.line(query, events))?;
        }
        let times_flink = query.flink.map(|flink| (per_cpu / flink.events_per_cpu_second, flink.asked));
        if let (Some((times, asked)), Ok(path)) = (times_flink, std::env::var("TIDEMARK_FIGURES")) {
            let figure = format!("{}, times Flink's events per CPU-second", query.name);
            let (reached, least) = (format!("{times:.1}"), format!("at least {asked}"));
            append(
                &path,
                &json!({"part": "nexmark", "figure": figure, "reached": reached, "asked": least, "met": times >= asked}),
            )?;
        }
        println!(
            "| {} | {} | {} | {} | {} | {} MB | {} MB | {:.1} ms | {:.1} ms |",
            query.name,
            query.asks_for,
            thousands(rate),
            thousands(per_cpu),
            times_flink.map(|(times, asked)| format!("{times:.1} | {asked}")).unwrap_or(" | ".into()),
            m.state_bytes / 1_000_000,
            m.peak_bytes / 1_000_000,
            m.p50_ms,
            m.p99_ms,
        );
    }
    Ok(())
}

fn append(path: &str, line: &serde_json::Value) -> Result<()> {
    let mut out = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    Ok(writeln!(out, "{line}")?)
}

impl Measured {
    /// A line of `--out`.
    fn line(&self, query: &Query, events: u64) -> serde_json::Value {
        json!({
            "query": query.name, "events": events, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds,
            "clock_cpu_seconds": self.clock_cpu_seconds, "workers_cpu_seconds": self.workers_cpu_seconds, "epochs_seconds": self.epochs_seconds,
            "commits_seconds": self.commits_seconds, "state_bytes": self.state_bytes, "peak_bytes": self.peak_bytes,
        })
    }
}

fn thousands(n: f64) -> String {
    if n >= 1e6 { format!("{:.2} M", n / 1e6) } else { format!("{:.0} k", n / 1e3) }
}

async fn measure(query: &Query, into: Into, file: &Path, flags: &[&str]) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let flags = [&["--log", "warn"], flags].concat();
    let server = Server::start_with(&dir.path().join("data"), &flags, &[]).await?;
    let mut client = server.connect().await?;
    client
        .query(&format!(
            "CREATE SOURCE nexmark ({}, WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') \
             WITH (connector = 'file', path = '{}', timestamp_unit = 'ms', bounded = 'true') FORMAT PLAIN ENCODE JSON",
            events::COLUMNS,
            file.display()
        ))
        .await?;
    for (kind, number, columns) in events::KINDS {
        client
            .query(&format!("CREATE VIEW {kind} AS SELECT {columns} FROM nexmark WHERE event_type = {number}"))
            .await?;
    }
    for statement in query.needs.split(';').filter(|s| !s.trim().is_empty()) {
        client.query(statement).await?;
    }
    let (cpu_before, threads_before) = (cpu_seconds(server.pid())?, Threads::of(server.pid())?);
    let began = Instant::now();
    create(&mut client, query, into).await?;
    wait_until_finished(&mut client, &server).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(server.pid())? - cpu_before;
    let threads = Threads::of(server.pid())?;
    let clock_cpu_seconds = threads.clock - threads_before.clock;
    let others_cpu_seconds = threads.others - threads_before.others;
    let epochs =
        numbers(&mut client, "SELECT duration_ms FROM tidemark.epochs WHERE rows_in > 0 ORDER BY duration_ms").await?;
    // Those without rows of their own, too: rows that are read once more for a new sink are in no other number.
    let all_epochs = numbers(&mut client, "SELECT duration_ms FROM tidemark.epochs").await?;
    let commits = numbers(&mut client, "SELECT commit_ms FROM tidemark.epochs").await?;
    let quantile = |q: f64| epochs.get(((epochs.len() as f64 - 1.0).max(0.0) * q) as usize).copied().unwrap_or(0.0);
    Ok(Measured {
        seconds,
        cpu_seconds,
        state_bytes: bytes_of(server.dir())?,
        peak_bytes: peak_memory(server.pid())?,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        clock_cpu_seconds,
        workers_cpu_seconds: cpu_seconds - clock_cpu_seconds - others_cpu_seconds,
        epochs_seconds: all_epochs.iter().sum::<f64>() / 1e3,
        commits_seconds: commits.iter().sum::<f64>() / 1e3,
    })
}

/// CPU-seconds of the threads that run. Those of the workers are in neither: workers end with each step.
struct Threads {
    clock: f64,
    others: f64,
}

impl Threads {
    fn of(pid: u32) -> Result<Self> {
        let (clock, others): (Vec<_>, Vec<_>) =
            cpu_seconds_by_thread(pid)?.into_iter().partition(|(name, _)| name == "clock");
        let seconds = |threads: Vec<(String, f64)>| threads.iter().map(|(_, seconds)| seconds).sum();
        Ok(Self { clock: seconds(clock), others: seconds(others) })
    }
}

async fn numbers(client: &mut Client, sql: &str) -> Result<Vec<f64>> {
    Ok(client.lines(sql).await?.iter().filter_map(|line| line.parse().ok()).collect())
}

async fn create(client: &mut Client, query: &Query, into: Into) -> Result<()> {
    let Query { name, sql, .. } = query;
    client
        .query(&match into {
            Into::View => format!("CREATE MATERIALIZED VIEW {name} AS {sql}"),
            Into::Blackhole => format!("CREATE SINK {name} AS {sql} WITH (connector = 'blackhole')"),
        })
        .await?;
    Ok(())
}

/// Until the source has given all its rows.
async fn wait_until_finished(client: &mut Client, server: &Server) -> Result<()> {
    loop {
        let lines = client.lines("SELECT state FROM tidemark.sources").await?;
        let line = lines.first().ok_or_else(|| Failure(format!("the source is gone\n{}", server.log_tail())))?;
        match line.as_str() {
            "finished" => return Ok(()),
            "failed" => return Err(Failure(format!("the source failed\n{}", server.log_tail()))),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Of the files in a directory and those below it.
fn bytes_of(dir: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A file may be gone by now: the store compacts while we look.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
