//! Random changes against random top-N and window functions. The key `id` makes every order total, so that there is one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::scalar::ScalarValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Delta;
use tidemark_common::plan::{Dataflow, Op, Over, RowNumber, SortKey, TopN};

use super::{Row, Table, batch_result};
use crate::operators::testing::{TestFlow, changes, over_partitions, window_functions};

const PARTITIONS: [&[&str]; 5] = [&[], &["k"], &["k2"], &["k2", "k"], &["b"]];

/// Rows as text and how often each is there.
#[derive(Default)]
struct Bag(BTreeMap<String, i64>);

impl Bag {
    fn of(rows: &[Row]) -> Self {
        let mut bag = Self::default();
        rows.iter().for_each(|row| bag.add(format!("{row:?}"), 1));
        bag
    }

    fn add(&mut self, row: String, weight: i64) {
        let there = self.0.entry(row.clone()).or_default();
        *there += weight;
        if *there == 0 {
            self.0.remove(&row);
        }
    }

    fn apply(&mut self, chunks: &[Delta]) {
        for delta in chunks {
            for index in 0..delta.num_rows() {
                let columns = delta.batch.columns().iter();
                let row: Row = columns.map(|c| ScalarValue::try_from_array(c, index).unwrap()).collect();
                self.add(format!("{row:?}"), delta.weight(index));
            }
        }
    }
}

/// One plan, some epochs, each compared with what `sql` says of all rows.
async fn check(table: &mut Table, plan: Arc<Dataflow>, sql: &str, where_: &str) {
    let shards = table.rng.random_range(1..4);
    let mut flow = TestFlow::new(plan, shards);
    let mut contents = Bag::default();
    for epoch in 0..8 {
        if table.rng.random_ratio(1, 4) {
            let shards = table.rng.random_range(1..4);
            flow.reopen(shards);
        }
        let input = table.epoch();
        contents.apply(&flow.epoch(changes(input)).chunks);
        let expected = Bag::of(&batch_result(table, sql).await);
        assert_eq!(contents.0, expected.0, "{where_}, epoch {epoch}\n{sql}");
    }
}

struct Ordered {
    partition: Vec<usize>,
    order: Vec<SortKey>,
    /// "PARTITION BY .. ORDER BY .."
    text: String,
}

/// A partition and an order, which `total` ends with the key.
fn ordered(table: &mut Table, total: bool) -> Ordered {
    let column = |table: &Table, name: &str| table.schema.index_of(name).unwrap();
    let names = PARTITIONS[table.rng.random_range(0..PARTITIONS.len())];
    let partition: Vec<usize> = names.iter().map(|name| column(table, name)).collect();
    let mut order = Vec::new();
    let mut keys = Vec::new();
    let mut key = |table: &Table, name: &str, descending: bool, nulls_first: bool| {
        let column = column(table, name);
        if !partition.contains(&column) && order.iter().all(|k: &SortKey| k.column != column) {
            order.push(SortKey { column, descending, nulls_first });
            let (direction, nulls) =
                (if descending { "DESC" } else { "ASC" }, if nulls_first { "FIRST" } else { "LAST" });
            keys.push(format!("{name} {direction} NULLS {nulls}"));
        }
    };
    for _ in 0..table.rng.random_range(0..3) {
        let name = ["i", "n", "f", "s", "t", "kf", "b"][table.rng.random_range(0..7)];
        let (descending, nulls_first) = (table.rng.random(), table.rng.random());
        key(table, name, descending, nulls_first);
    }
    if total {
        key(table, "id", false, false);
    }
    let mut text = String::new();
    if !names.is_empty() {
        text += &format!("PARTITION BY {} ", names.join(", "));
    }
    if !keys.is_empty() {
        text += &format!("ORDER BY {}", keys.join(", "));
    }
    Ordered { partition, order, text }
}

#[tokio::test]
async fn top_n() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let append_only = rng.random_ratio(1, 3);
        let mut table = Table::new(seed, append_only);
        let number = [RowNumber::Each, RowNumber::Each, RowNumber::Rank, RowNumber::DenseRank][rng.random_range(0..4)];
        let Ordered { partition, order, text } = ordered(&mut table, number == RowNumber::Each);
        let offset = [0, 0, 1, 3][rng.random_range(0..4)];
        let limit = [Some(0), Some(1), Some(2), Some(5), Some(1000), None][rng.random_range(0..6)];
        let numbered = rng.random();
        let name = match number {
            RowNumber::Each => "row_number",
            RowNumber::Rank => "rank",
            RowNumber::DenseRank => "dense_rank",
        };
        let columns: Vec<&str> = table.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let mut sql = format!(
            "SELECT {}{} FROM (SELECT *, {name}() OVER ({text}) AS num FROM t) WHERE num > {offset}",
            columns.join(", "),
            if numbered { ", num" } else { "" }
        );
        if let Some(limit) = limit {
            sql += &format!(" AND num <= {}", offset + limit);
        }
        let op = Op::TopN(TopN {
            partition: partition.clone(),
            order,
            number,
            offset,
            limit,
            numbered,
            append_only,
            close: None,
        });
        let results = if numbered { vec![Field::new("num", DataType::UInt64, false)] } else { vec![] };
        let plan = over_partitions(&table.schema, &partition, op, results);
        check(&mut table, plan, &sql, &format!("seed {seed}")).await;
    }
}

/// Those that say the same of peers.
const OF_PEERS: [&str; 9] = [
    "rank() OVER (#)",
    "dense_rank() OVER (#)",
    "percent_rank() OVER (#)",
    "cume_dist() OVER (#)",
    "sum(i) OVER (#)",
    "count(*) OVER (#)",
    "max(s) OVER (#)",
    "count(DISTINCT i) OVER (#)",
    "avg(n) FILTER (WHERE b) OVER (#)",
];

/// Those that tell one row from the next.
const OF_ROWS: [&str; 16] = [
    "row_number() OVER (#)",
    "ntile(3) OVER (#)",
    "lag(s) OVER (#)",
    "lag(i) IGNORE NULLS OVER (#)",
    "lead(i, 2, -1) OVER (#)",
    "first_value(s) OVER (#)",
    "last_value(i) OVER (#)",
    "nth_value(n, 2) OVER (#)",
    "sum(i) OVER (# ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
    "avg(f) OVER (# ROWS 2 PRECEDING)",
    "count(*) OVER (# ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)",
    "min(n) OVER (# ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
    "last_value(s) OVER (# ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)",
    "sum(w) OVER (# GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "count(b) OVER (# GROUPS BETWEEN CURRENT ROW AND 2 FOLLOWING)",
    "array_agg(i) OVER (# ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
];

#[tokio::test]
async fn window_functions_of_random_partitions() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut table = Table::new(seed, rng.random_ratio(1, 4));
        let total = rng.random_ratio(2, 3);
        let Ordered { partition, order, text } = ordered(&mut table, total);
        let choices = if total { &OF_ROWS[..] } else { &OF_PEERS[..] };
        let picked: BTreeSet<usize> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..choices.len())).collect();
        let calls: Vec<String> = picked.into_iter().map(|at| choices[at].replace('#', &text)).collect();
        let calls: Vec<String> = calls.into_iter().enumerate().map(|(at, call)| format!("{call} AS c{at}")).collect();
        let sql = format!("SELECT *, {} FROM t", calls.join(", "));
        let (functions, mut results) = window_functions(&table.schema, &sql).await;
        results.iter_mut().enumerate().for_each(|(at, field)| *field = field.clone().with_name(format!("c{at}")));
        let op = Op::Over(Over { partition: partition.clone(), order, functions, close: None, until: None });
        let plan = over_partitions(&table.schema, &partition, op, results);
        check(&mut table, plan, &sql, &format!("seed {seed}")).await;
    }
}

/// Frames by value need one order key that can be added to.
#[tokio::test]
async fn frames_of_values() {
    for seed in 0..15 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut table = Table::new(seed, false);
        let descending: bool = rng.random();
        let column = table.schema.index_of("i").unwrap();
        let order = vec![SortKey { column, descending, nulls_first: descending }];
        let direction = if descending { "DESC" } else { "ASC" };
        let frame = ["2 PRECEDING AND CURRENT ROW", "1 PRECEDING AND 1 FOLLOWING", "1 FOLLOWING AND 3 FOLLOWING"]
            [rng.random_range(0..3)];
        let over = format!("PARTITION BY k ORDER BY i {direction} RANGE BETWEEN {frame}");
        let sql = format!("SELECT *, sum(w) OVER ({over}) AS c0 FROM t");
        let (functions, results) = window_functions(&table.schema, &sql).await;
        let partition = vec![table.schema.index_of("k").unwrap()];
        let op = Op::Over(Over { partition: partition.clone(), order, functions, close: None, until: None });
        let plan = over_partitions(&table.schema, &partition, op, results);
        check(&mut table, plan, &sql, &format!("seed {seed}")).await;
    }
}
