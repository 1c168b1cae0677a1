//! How fast the store is: `cargo run -p tidemark-storage --example rates [ROWS]`. Prints rows per second of wall clock and
//! of this thread's processor time; flushes and compactions run in other threads.

use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{Field, Schema};
use tidemark_common::{Delta, Result};
use tidemark_storage::{Collection, CollectionWriter, KeyRange, KeyedState, Layout, StateId, Store, StoreOptions};

const EPOCH_ROWS: usize = 50_000;

/// Seven columns, as Nexmark's bids.
fn bids(from: usize, rows: usize) -> Result<RecordBatch> {
    let ids = from..from + rows;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids.clone().map(|i| i as i64).collect::<Int64Array>())),
        ("auction", Arc::new(ids.clone().map(|i| scatter(i) as i64 % 10_000).collect::<Int64Array>())),
        ("bidder", Arc::new(ids.clone().map(|i| scatter(i + 1) as i64 % 100_000).collect::<Int64Array>())),
        ("price", Arc::new(ids.clone().map(|i| scatter(i + 2) as i32 % 1000).collect::<Int32Array>())),
        ("channel", Arc::new(ids.clone().map(|i| Some(["Google", "Apple", "Baidu"][i % 3])).collect::<StringArray>())),
        ("url", Arc::new(ids.clone().map(|i| Some(format!("https://example.org/item/{i}"))).collect::<StringArray>())),
        ("ts", Arc::new(ids.map(|i| Some(i as i64 * 100)).collect::<TimestampMicrosecondArray>())),
    ];
    let fields: Vec<Field> = columns.iter().map(|(name, a)| Field::new(*name, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

fn scatter(i: usize) -> usize {
    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 33
}

#[derive(Clone, Copy)]
struct Stopwatch {
    wall: Instant,
    processor: Option<f64>,
}

impl Stopwatch {
    #[allow(clippy::disallowed_methods)] // measuring
    fn start() -> Self {
        Self { wall: Instant::now(), processor: processor_seconds() }
    }

    fn report(self, what: &str, rows: usize) {
        let wall = rows as f64 / self.wall.elapsed().as_secs_f64();
        print!("{what:<52} {wall:>12.0} rows/s");
        match (self.processor, processor_seconds()) {
            (Some(from), Some(to)) => println!(" {:>12.0} rows/cpu-s", rows as f64 / (to - from)),
            _ => println!(),
        }
    }
}

/// Of this thread, where the system tells.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

fn write(store: &Store, collection: &Arc<Collection>, rows: usize) -> Result<()> {
    let mut writer = CollectionWriter::new(Arc::clone(collection), 64 << 20);
    for from in (0..rows).step_by(EPOCH_ROWS) {
        let snapshot = store.snapshot();
        let mut commit = store.begin();
        writer.apply(&snapshot, &Delta::inserts(bids(from, EPOCH_ROWS)?), &mut commit)?;
        store.commit(commit, store.epoch() + 1, true)?;
    }
    Ok(())
}

fn scan(store: &Store, collection: &Arc<Collection>, columns: Option<Vec<usize>>) -> Result<usize> {
    let scan = collection.scan(&store.snapshot(), columns, &KeyRange::full(), 8192)?;
    scan.map(|batch| Ok(batch?.num_rows())).sum()
}

fn state(store: &Store, rows: usize) -> Result<()> {
    let mut state = KeyedState::new(StateId::new(1, 1), 512 << 20);
    let start = Stopwatch::start();
    for from in (0..rows).step_by(EPOCH_ROWS) {
        let keys: Vec<[u8; 16]> =
            (from..from + EPOCH_ROWS).map(|i| ((scatter(i) as u128) << 64 | i as u128).to_be_bytes()).collect();
        state.load(&store.snapshot(), &keys)?;
        for key in &keys {
            state.put(key, &[7; 16]);
        }
        let mut commit = store.begin();
        state.flush(&mut commit);
        store.commit(commit, store.epoch() + 1, true)?;
    }
    start.report("KeyedState: load, put, flush sorted, commit", rows);
    let start = Stopwatch::start();
    let mut cold = KeyedState::new(StateId::new(1, 1), 1 << 20);
    for from in (0..rows / 4).step_by(EPOCH_ROWS) {
        let keys: Vec<[u8; 16]> =
            (from..from + EPOCH_ROWS).map(|i| ((scatter(i) as u128) << 64 | i as u128).to_be_bytes()).collect();
        cold.load(&store.snapshot(), &keys)?;
    }
    start.report("KeyedState: load of cold keys", rows / 4);
    Ok(())
}

fn main() -> Result<()> {
    let rows = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let dir = std::env::temp_dir().join(format!("tidemark-rates-{}", std::process::id()));
    let store = Store::open(&dir, &StoreOptions::default())?;
    let schema = bids(0, 1)?.schema();
    let layouts =
        [("keyed", Layout::Keyed { key: vec![0] }), ("sequence", Layout::Sequence), ("multiset", Layout::Multiset)];
    for (oid, (name, layout)) in layouts.into_iter().enumerate() {
        let collection = Arc::new(Collection::new(StateId::new(oid as u32 + 2, 0), Arc::clone(&schema), layout)?);
        let start = Stopwatch::start();
        write(&store, &collection, rows)?;
        start.report(&format!("{name}: write, an fsync every {EPOCH_ROWS}"), rows);
        let start = Stopwatch::start();
        scan(&store, &collection, None)?;
        start.report(&format!("{name}: scan of 7 columns"), rows);
        let start = Stopwatch::start();
        scan(&store, &collection, Some(vec![3]))?;
        start.report(&format!("{name}: scan of 1 column, the 4th"), rows);
    }
    state(&store, rows)?;
    println!("{:?}", store.stats()?);
    store.close()?;
    drop(store);
    Ok(std::fs::remove_dir_all(dir)?)
}
