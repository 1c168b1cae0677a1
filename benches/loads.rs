//! Loads of a million rows by strategy, here and in PostgreSQL, beside the same by SQL written by hand in the same PostgreSQL.
//!
//! ```text
//!   day1: rows       ──first load──▶ a table that is empty
//!   day2: 1% changed ──load────────▶ the table
//!   day2 once more   ──load────────▶ the table, which it does not change
//! ```
//!
//! `cargo bench --workspace --bench loads -- [--rows N] [--only merge|scd2]`

#![allow(clippy::disallowed_methods)] // measuring is what this is for

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tidemark_sqllogictest::process::{Service, peak_memory};
use tidemark_sqllogictest::{Client, Failure, Result, Server};

const COLUMNS: &str = "id BIGINT PRIMARY KEY, email TEXT, status TEXT, amount NUMERIC(12,2), updated_at TIMESTAMPTZ";

const LOADS: [&str; 3] = ["first", "1% changed", "nothing changed"];

struct Strategy {
    name: &'static str,
    options: &'static str,
    /// As one writes it for PostgreSQL: the table, and the statements of a load, in which DAY is where the rows come from.
    table: &'static str,
    by_hand: &'static [&'static str],
}

const STRATEGIES: [Strategy; 2] = [
    Strategy {
        name: "merge",
        options: "strategy = 'merge'",
        table: "CREATE TABLE merge_by_hand (id BIGINT PRIMARY KEY, email TEXT, status TEXT, amount NUMERIC(12,2), updated_at TIMESTAMPTZ)",
        by_hand: &["INSERT INTO merge_by_hand AS t SELECT * FROM DAY
             ON CONFLICT (id) DO UPDATE SET email = excluded.email, status = excluded.status, amount = excluded.amount,
                 updated_at = excluded.updated_at
             WHERE (t.email, t.status, t.amount, t.updated_at) IS DISTINCT FROM
                 (excluded.email, excluded.status, excluded.amount, excluded.updated_at)"],
    },
    Strategy {
        name: "scd2",
        options: "strategy = 'scd2', compare_columns = 'email, status, amount'",
        table: "CREATE TABLE scd2_by_hand (id BIGINT, email TEXT, status TEXT, amount NUMERIC(12,2), updated_at TIMESTAMPTZ,
                    valid_from TIMESTAMPTZ NOT NULL, valid_to TIMESTAMPTZ, is_current BOOLEAN NOT NULL, row_hash BYTEA NOT NULL,
                    PRIMARY KEY (id, valid_from));
                CREATE INDEX ON scd2_by_hand (id) WHERE is_current",
        by_hand: &[
            "CREATE TEMP TABLE come ON COMMIT DROP AS
                 SELECT *, sha256(convert_to(concat_ws('|', coalesce(email, '~'), coalesce(status, '~'), coalesce(amount::text, '~')),
                     'UTF8')) AS row_hash FROM DAY",
            "UPDATE scd2_by_hand AS t SET valid_to = now(), is_current = false FROM come AS c
                 WHERE t.id = c.id AND t.is_current AND t.row_hash <> c.row_hash",
            "INSERT INTO scd2_by_hand SELECT c.id, c.email, c.status, c.amount, c.updated_at, now(), NULL, true, c.row_hash
                 FROM come AS c LEFT JOIN scd2_by_hand AS t ON t.id = c.id AND t.is_current WHERE t.id IS NULL",
        ],
    },
];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let rows: u64 = match argument("--rows") {
        Some(text) => text.parse().map_err(|_| Failure(format!("--rows must be a number, not {text}")))?,
        None => 1_000_000,
    };
    let only = argument("--only");
    let postgres = Postgres::start()?;
    let mut there = Client::connect(&postgres.url(), "postgres").await?;
    days(&mut there, rows).await?;
    println!("| Strategy | Load of {rows} rows | Tidemark | PostgreSQL by hand | Ratio | Kept in PostgreSQL | Ratio |");
    println!("|---|---|---|---|---|---|---|");
    for strategy in STRATEGIES.iter().filter(|strategy| only.as_ref().is_none_or(|only| only == strategy.name)) {
        let by_hand = by_hand(&mut there, strategy).await?;
        let dir = tempfile::tempdir()?;
        let server = Server::start_with(&dir.path().join("data"), &["--log", "warn"], &[]).await?;
        let mut here = server.connect().await?;
        days(&mut here, rows).await?;
        let name = strategy.name;
        here.query(&format!("CREATE TABLE {name} ({COLUMNS}) WITH ({})", strategy.options)).await?;
        let kept_here = loads(&mut here, name, "").await?;
        let peak = peak_memory(server.pid())?;
        // The whole load runs in the other system then.
        let kept_there = kept_there(&mut here, strategy, &postgres).await;
        for (at, load) in LOADS.iter().enumerate() {
            let (there, ratio) = match &kept_there {
                Ok(seconds) => (format!("{:.2} s", seconds[at]), format!("{:.2}", seconds[at] / by_hand[at])),
                Err(_) => ("-".into(), "-".into()),
            };
            let (here, hand) = (kept_here[at], by_hand[at]);
            println!("| {name} | {load} | {here:.2} s | {hand:.2} s | {:.2} | {there} | {ratio} |", here / hand);
        }
        eprintln!("{name}: peak memory {} MB", peak / 1_000_000);
        if let Err(Failure(why)) = kept_there {
            eprintln!("{name}: not kept in PostgreSQL: {why}");
        }
    }
    Ok(())
}

/// The rows of two days, of which the second has every hundredth changed.
async fn days(client: &mut Client, rows: u64) -> Result<()> {
    for (day, status) in [("day1", "'new'"), ("day2", "CASE WHEN i % 100 = 0 THEN 'gold' ELSE 'new' END")] {
        client.query(&format!("CREATE TABLE {day} ({COLUMNS})")).await?;
        client
            .query(&format!(
                "INSERT INTO {day} SELECT i, 'user' || i || '@example.org', {status}, (i % 10000)::numeric / 100, \
                 TIMESTAMPTZ '2024-01-01' + i * INTERVAL '1 second' FROM generate_series(1, {rows}) AS g (i)"
            ))
            .await?;
    }
    Ok(())
}

/// `from`: what stands before the names of the days.
async fn loads(client: &mut Client, table: &str, from: &str) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for day in ["day1", "day2", "day2"] {
        let began = Instant::now();
        client.query(&format!("INSERT INTO {table} SELECT * FROM {from}{day}")).await?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

async fn by_hand(client: &mut Client, strategy: &Strategy) -> Result<Vec<f64>> {
    client.query(strategy.table).await?;
    let mut seconds = Vec::new();
    for day in ["day1", "day2", "day2"] {
        let began = Instant::now();
        let statements = strategy.by_hand.join(";\n").replace("DAY", day);
        client.query(&format!("BEGIN; {statements}; COMMIT")).await?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

async fn kept_there(client: &mut Client, strategy: &Strategy, postgres: &Postgres) -> Result<Vec<f64>> {
    let name = format!("{}_there", strategy.name);
    client.query(&postgres.connection()).await?;
    client
        .query(&format!(
            "CREATE TABLE {name} ({COLUMNS}) WITH ({}, connection = 'c', table = 'public.{name}')",
            strategy.options
        ))
        .await?;
    loads(client, &name, "c.public.").await
}

/// A PostgreSQL of its own, which syncs what it commits, as Tidemark does.
struct Postgres {
    _service: Service,
    port: u16,
}

impl Postgres {
    fn start() -> Result<Self> {
        let port = tidemark_sqllogictest::free_port()?;
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres.sh"));
        script.envs([("PG_LISTEN", "127.0.0.1"), ("PG_FSYNC", "on")]).env("PG_PORT", port.to_string());
        Ok(Self { _service: Service::start(&mut script)?, port })
    }

    fn url(&self) -> String {
        format!("host=127.0.0.1 port={} user=tidemark dbname=postgres", self.port)
    }

    fn connection(&self) -> String {
        format!(
            "CREATE CONNECTION c WITH (type = 'postgres', host = '127.0.0.1', port = {}, user = 'tidemark', database = 'postgres')",
            self.port
        )
    }
}
