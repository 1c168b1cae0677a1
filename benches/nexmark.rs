//! Nexmark from the built-in generator, into a view and into nothing.
//!
//! ```text
//!   for each query and target: fresh server ──▶ CREATE SOURCE, CREATE VIEW | SINK ──▶ until all rows are through
//!                                               ──▶ rows/s, rows per CPU-second, bytes of state, epoch p50 and p99
//! ```
//!
//! `cargo bench --workspace --bench nexmark -- [--queries q0,q1] [--events N] [--into view|blackhole]`

#![allow(clippy::disallowed_methods)] // measuring is what this is for

use std::time::{Duration, Instant};

use tidemark_sqllogictest::process::{cpu_seconds, peak_memory};
use tidemark_sqllogictest::{Client, Failure, Result, Server};

struct Query {
    name: &'static str,
    asks_for: &'static str,
    sql: &'static str,
}

/// As published, in our spelling of windows.
const QUERIES: &[Query] = &[
    Query { name: "q0", asks_for: "pass through", sql: "SELECT auction, bidder, price, date_time, extra FROM bid" },
    Query {
        name: "q1",
        asks_for: "currency conversion",
        sql: "SELECT auction, bidder, 0.908::double precision * price AS price, date_time, extra FROM bid",
    },
    Query { name: "q2", asks_for: "selection", sql: "SELECT auction, price FROM bid WHERE auction % 123 = 0" },
    Query {
        name: "q5",
        asks_for: "hot items",
        sql: "WITH counts AS (
                  SELECT window_start, window_end, auction, count(*) AS num
                  FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
                  GROUP BY window_start, window_end, auction),
                maxima AS (
                  SELECT window_start, window_end, max(num) AS maxn FROM counts GROUP BY window_start, window_end)
              SELECT c.window_start, c.auction, c.num FROM counts AS c
              JOIN maxima AS m ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.num >= m.maxn",
    },
    Query {
        name: "q7",
        asks_for: "highest bid",
        sql: "SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid AS b
              JOIN (SELECT max(price) AS maxprice, window_start, window_end
                    FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, window_end) AS m
                ON b.price = m.maxprice AND b.date_time >= m.window_start AND b.date_time < m.window_end",
    },
    Query {
        name: "q7w",
        asks_for: "q7's window alone",
        sql: "SELECT window_start, window_end, max(price) AS maxprice
              FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, window_end",
    },
    Query {
        name: "q5w",
        asks_for: "q5's counts alone",
        sql: "SELECT window_start, window_end, auction, count(*) AS num
              FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
              GROUP BY window_start, window_end, auction",
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Into {
    View,
    Blackhole,
}

struct Measured {
    rows: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// Of the data directory: operators' state and views' contents.
    state_bytes: u64,
    /// The most memory that the server had.
    peak_bytes: u64,
    p50_ms: f64,
    p99_ms: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let events: u64 = match argument("--events") {
        Some(text) => text.parse().map_err(|_| Failure(format!("--events must be a number, not {text}")))?,
        None => 10_000_000,
    };
    let wanted = argument("--queries");
    let into = argument("--into");
    println!(
        "| Query | What it asks for | Into | Rows | Rows/s | Rows per CPU-second | State | Peak memory | Epoch p50 | Epoch p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for query in QUERIES {
        if wanted.as_ref().is_some_and(|w| !w.split(',').any(|name| name == query.name)) {
            continue;
        }
        for (target, word) in [(Into::View, "view"), (Into::Blackhole, "blackhole")] {
            if into.as_ref().is_some_and(|i| i != word) {
                continue;
            }
            let m = measure(query, target, events).await?;
            println!(
                "| {} | {} | {word} | {} | {} | {} | {} MB | {} MB | {:.1} ms | {:.1} ms |",
                query.name,
                query.asks_for,
                m.rows,
                thousands(m.rows as f64 / m.seconds),
                thousands(m.rows as f64 / m.cpu_seconds),
                m.state_bytes / 1_000_000,
                m.peak_bytes / 1_000_000,
                m.p50_ms,
                m.p99_ms,
            );
        }
    }
    Ok(())
}

fn thousands(n: f64) -> String {
    if n >= 1e6 { format!("{:.2} M", n / 1e6) } else { format!("{:.0} k", n / 1e3) }
}

async fn measure(query: &Query, into: Into, events: u64) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let server = Server::start_with(&dir.path().join("data"), &["--log", "warn"], &[]).await?;
    let mut client = server.connect().await?;
    client
        .query(&format!(
            "CREATE SOURCE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP, extra TEXT, \
             WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds') \
             WITH (connector = 'nexmark', nexmark.table.type = 'bid', nexmark.event.num = {events})"
        ))
        .await?;
    let cpu_before = cpu_seconds(server.pid())?;
    let began = Instant::now();
    create(&mut client, query, into).await?;
    // Of 50 events 46 are bids.
    let rows = wait_until_finished(&mut client, &server).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(server.pid())? - cpu_before;
    let epochs = client.lines("SELECT duration_ms FROM tidemark.epochs WHERE rows_in > 0 ORDER BY duration_ms").await?;
    let epochs: Vec<f64> = epochs.iter().filter_map(|l| l.parse().ok()).collect();
    let quantile = |q: f64| epochs.get(((epochs.len() as f64 - 1.0).max(0.0) * q) as usize).copied().unwrap_or(0.0);
    Ok(Measured {
        rows,
        seconds,
        cpu_seconds,
        state_bytes: bytes_of(server.dir())?,
        peak_bytes: peak_memory(server.pid())?,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    })
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

/// Rows of the source once it has given all of them.
async fn wait_until_finished(client: &mut Client, server: &Server) -> Result<u64> {
    loop {
        let lines = client.lines("SELECT state, rows FROM tidemark.sources WHERE name = 'bid'").await?;
        let line = lines.first().ok_or_else(|| Failure(format!("the source is gone\n{}", server.log_tail())))?;
        match line.split_once(' ') {
            Some(("finished", rows)) => return rows.parse().map_err(|_| Failure(format!("not a number: {rows}"))),
            Some(("failed", _)) => return Err(Failure(format!("the source failed\n{}", server.log_tail()))),
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
