//! Rows a second through the hot path: count and max by window and key over an append-only stream. Run by hand:
//!
//! ```text
//!   cargo test --workspace --lib throughput -- --ignored --nocapture
//! ```

use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::scalar::ScalarValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Delta;
use tidemark_common::plan::AggregateStrategy;

use super::CollectionChanges;
use crate::operators::testing::{Lowering, TestFlow, lower, schema};

const EPOCHS: usize = 100;
const ROWS: usize = 50_000;
const KEYS: i64 = 2500;
/// Event time of an epoch: half a window, so that about two windows are open.
const EPOCH_MICROS: i64 = 5_000_000;
const WINDOW_MICROS: i64 = 10_000_000;

#[tokio::test]
#[ignore = "measures; nothing to fail"]
async fn count_and_max_by_window_and_key() {
    let schema = schema("w timestamp, k bigint, v bigint");
    let sql = "SELECT w, k, count(*), max(v) FROM t GROUP BY w, k";
    for strategy in [AggregateStrategy::Merge, AggregateStrategy::Linear] {
        let sql = if strategy == AggregateStrategy::Linear { sql.replace("max", "sum") } else { sql.to_string() };
        for (emit_on_close, shards) in [(false, 1), (true, 1), (false, 2)] {
            let lowering = Lowering { strategy, close: Some(0), emit_on_close };
            let mut flow = TestFlow::new(lower(&schema, &sql, lowering).await, shards);
            let mut rng = StdRng::seed_from_u64(1);
            let epochs: Vec<CollectionChanges> = (0..EPOCHS).map(|e| epoch(&schema, e as i64, &mut rng)).collect();
            let started = now();
            let mut sent = 0;
            for changes in epochs {
                sent += flow.epoch(changes).chunks.iter().map(Delta::num_rows).sum::<usize>();
            }
            let seconds = started.elapsed().as_secs_f64();
            let rate = (EPOCHS * ROWS) as f64 / seconds / 1e6;
            println!("{strategy:?}, on close {emit_on_close}, {shards} shards: {rate:.2} M rows/s, {sent} rows sent");
            for node in flow.flow.stats() {
                println!("    {:>8.1} ms  {node:?}", node.nanos as f64 / 1e6);
            }
        }
    }
}

fn epoch(schema: &datafusion::arrow::datatypes::SchemaRef, number: i64, rng: &mut StdRng) -> CollectionChanges {
    let start = number * EPOCH_MICROS;
    let times = (0..ROWS).map(|_| start + rng.random_range(0..EPOCH_MICROS) + rng.random_range(0..EPOCH_MICROS));
    let windows = times.map(|t| t - t % WINDOW_MICROS);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(windows)),
        Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| rng.random_range(0..KEYS)))),
        Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| rng.random_range(0..1_000_000)))),
    ];
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    let watermark = start - start % WINDOW_MICROS;
    CollectionChanges {
        chunks: vec![Delta::inserts(batch)],
        watermarks: [(0, ScalarValue::TimestampMicrosecond(Some(watermark), None))].into(),
        idle: false,
    }
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
