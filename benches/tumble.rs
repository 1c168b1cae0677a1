//! Windows over rows that are in memory as Arrow: what the engine itself costs, without decoding, without a server.
//!
//! ```text
//!   the generator's bids ──once──▶ columns in memory, an epoch after the other
//!   SQL ──planned as the server plans it──▶ dataflow: step, flush, commit with fsync, each epoch
//!                                           ──▶ rows a second, rows per core-second, and which part takes how long
//! ```
//!
//! `cargo bench --workspace --bench tumble -- [--events N] [--rows N an epoch] [--out FILE]`

#![allow(clippy::disallowed_methods)] // measuring is what this is for

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionConfig;
use datafusion::scalar::ScalarValue;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Bid, Event};
use serde_json::json;
use tidemark_common::plan::{Dataflow, Emit};
use tidemark_common::{Delta, Error, Oid};
use tidemark_engine::dataflow::{CollectionChanges, RunningDataflow};
use tidemark_engine::operators::HeldCollections;
use tidemark_sql::ast::Statement;
use tidemark_sql::planner::{Planner, Resolver};
use tidemark_sql::relation::Relation;
use tidemark_sql::{functions, grammar, lower, optimizer};
use tidemark_sqllogictest::process::cpu_seconds;
use tidemark_sqllogictest::{Failure, Result};
use tidemark_storage::{Store, StoreOptions};

/// As the server's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BIDS: Oid = 20000;
const SINK: Oid = 20001;
/// Rows of one batch, as sources give them.
const BATCH: usize = 8192;
/// How far the watermark is behind, in microseconds.
const BEHIND: i64 = 4_000_000;
/// As much as the server gives all views.
const CACHE_BYTES: usize = 512 << 20;
/// Of each query; the median counts.
const ROUNDS: usize = 5;

const QUERIES: [(&str, Emit, &str); 3] = [
    ("tumble, 10 s, count by auction", Emit::OnWindowClose, TUMBLE),
    ("the same, changes sent at once", Emit::Changes, TUMBLE),
    (
        "hop, 60 s by 1 s, count by auction",
        Emit::OnWindowClose,
        "SELECT window_start, window_end, auction, count(*) AS num
         FROM HOP(bid, date_time, INTERVAL '1 second', INTERVAL '60 seconds') GROUP BY window_start, window_end, auction",
    ),
];
const TUMBLE: &str = "SELECT window_start, window_end, auction, count(*) AS num
    FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, window_end, auction";

/// What all epochs of a run took.
#[derive(Clone, Copy, Default)]
struct Measured {
    wall: Duration,
    cpu_seconds: f64,
    /// Of the wall: operators, what they hand to the commit, and the commit.
    step: Duration,
    flush: Duration,
    commit: Duration,
    rows_sent: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let number = |name: &str, otherwise: usize| match argument(name) {
        Some(text) => text.parse().map_err(|_| Failure(format!("{name} must be a number, not {text}"))),
        None => Ok(otherwise),
    };
    let epochs = epochs(number("--events", 5_000_000)?, number("--rows", 50_000)?)?;
    let rows: usize = epochs.iter().flat_map(|e| &e.chunks).map(Delta::num_rows).sum();
    println!("| Query | Rows/s | Rows per core-second | Operators | Flush | Commit | Rows sent |");
    println!("|---|---|---|---|---|---|---|");
    for (name, emit, sql) in QUERIES {
        let plan = Arc::new(dataflow(sql, emit).map_err(failure)?);
        let mut runs = (0..ROUNDS)
            .map(|_| measure(&plan, &epochs))
            .collect::<tidemark_common::Result<Vec<_>>>()
            .map_err(failure)?;
        runs.sort_by(|a, b| a.cpu_seconds.total_cmp(&b.cpu_seconds));
        let m = runs[ROUNDS / 2];
        let part = |part: Duration| format!("{:.0}%", 100.0 * part.as_secs_f64() / m.wall.as_secs_f64());
        let (rate, per_core) = (rows as f64 / m.wall.as_secs_f64(), rows as f64 / m.cpu_seconds);
        println!(
            "| {name} | {:.2} M | {:.2} M | {} | {} | {} | {} |",
            rate / 1e6,
            per_core / 1e6,
            part(m.step),
            part(m.flush),
            part(m.commit),
            m.rows_sent
        );
        if let Some(path) = argument("--out") {
            let mut out = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
            writeln!(out, "{}", json!({"query": name, "rows_per_second": rate, "rows_per_core_second": per_core}))?;
        }
    }
    Ok(())
}

fn failure(error: Error) -> Failure {
    Failure(error.to_string())
}

/// The bids among so many events, with the watermark that the source would give.
fn epochs(events: usize, rows: usize) -> Result<Vec<CollectionChanges>> {
    let config = NexmarkConfig { base_time: 1_700_000_000_000, ..NexmarkConfig::default() };
    let bids = EventGenerator::new(config).take(events).filter_map(|event| match event {
        Event::Bid(Bid { auction, price, date_time, .. }) => {
            Some((auction as i64, price as i64, date_time as i64 * 1000))
        }
        Event::Person(_) | Event::Auction(_) => None,
    });
    let bids: Vec<(i64, i64, i64)> = bids.collect();
    let mut latest = i64::MIN;
    let epoch = |bids: &[(i64, i64, i64)]| {
        let batches = bids.chunks(BATCH).map(|bids| {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(bids.iter().map(|bid| bid.0))),
                Arc::new(Int64Array::from_iter_values(bids.iter().map(|bid| bid.1))),
                Arc::new(TimestampMicrosecondArray::from_iter_values(bids.iter().map(|bid| bid.2))),
            ];
            RecordBatch::try_new(schema(), columns).map(Delta::inserts).map_err(|e| Failure(e.to_string()))
        });
        let chunks = batches.collect::<Result<_>>()?;
        latest = bids.iter().map(|bid| bid.2).fold(latest, i64::max);
        let watermark = ScalarValue::TimestampMicrosecond(Some(latest - BEHIND), None);
        Ok(CollectionChanges { chunks, watermarks: [(2, watermark)].into(), idle: false })
    };
    bids.chunks(rows).map(epoch).collect()
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [("auction", DataType::Int64), ("price", DataType::Int64), ("date_time", time)];
    Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

fn measure(plan: &Arc<Dataflow>, epochs: &[CollectionChanges]) -> tidemark_common::Result<Measured> {
    let dir = tempfile::tempdir().map_err(|e| Error::internal(e.to_string()))?;
    let store = Store::open(dir.path(), &StoreOptions::default())?;
    let mut flow = RunningDataflow::new(Arc::clone(plan), SINK, 1, CACHE_BYTES)?;
    let held = HeldCollections::new();
    let mut measured = Measured::default();
    let cpu_now = || cpu_seconds(std::process::id()).map_err(|e| Error::internal(e.0));
    let (began, cpu_before) = (Instant::now(), cpu_now()?);
    for (number, changes) in epochs.iter().enumerate() {
        let inputs = BTreeMap::from([(BIDS, changes.clone())]);
        let snapshot = store.snapshot();
        let mut commit = store.begin();
        let started = Instant::now();
        let sent = flow.step(number as u64 + 1, &snapshot, &held, number == 0, &inputs, number as i64)?;
        let stepped = Instant::now();
        flow.flush(&mut commit)?;
        let flushed = Instant::now();
        store.commit(commit, snapshot.epoch() + 1, true)?;
        measured.step += stepped - started;
        measured.flush += flushed - stepped;
        measured.commit += flushed.elapsed();
        measured.rows_sent += sent.chunks.iter().map(Delta::num_rows).sum::<usize>();
    }
    measured.wall = began.elapsed();
    measured.cpu_seconds = cpu_now()? - cpu_before;
    Ok(measured)
}

/// Planned as the server plans a view's query.
fn dataflow(sql: &str, emit: Emit) -> tidemark_common::Result<Dataflow> {
    let mut session = SessionConfig::new();
    session.options_mut().sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    let mut state: SessionState = SessionStateBuilder::new_with_default_features()
        .with_config(session)
        .with_expr_planners(functions::expr_planners())
        .with_optimizer_rules(optimizer::rules())
        .build();
    functions::register(&mut state)?;
    let Statement::Sql(mut statement) = grammar::parse_one(sql)?.statement else {
        return Err(Error::internal("the query is no query"));
    };
    grammar::windows::rewrite(statement.as_mut())?;
    grammar::literals::rewrite(statement.as_mut())?;
    grammar::casts::rewrite(statement.as_mut())?;
    let planner = Planner::new(&state, &OnlyBids);
    let plan = planner.statement(&statement)?;
    lower::lower(&planner.optimize(&plan)?, emit)
}

struct OnlyBids;

impl Resolver for OnlyBids {
    fn resolve(&self, _: &TableReference) -> tidemark_common::Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(Relation {
            oid: BIDS,
            name: "bid".into(),
            schema: schema(),
            append_only: true,
            key: None,
            indexed: Vec::new(),
            lookups: Vec::new(),
            watermark: Some(2),
            ttl: None,
            versions: None,
            constraints: None,
            scan: None,
            asked: None,
        }))
    }

    fn function(&self, _: &str) -> Option<Arc<ScalarUDF>> {
        None
    }

    fn function_names(&self) -> Vec<String> {
        Vec::new()
    }
}
