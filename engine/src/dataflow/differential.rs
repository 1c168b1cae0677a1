//! Random changes against random aggregates: what the dataflow sent in all must be what DataFusion returns for all rows.

mod ordered;
mod paned;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Delta;
use tidemark_common::plan::AggregateStrategy::{self, Linear, Merge, Recompute};

use crate::operators::testing::{Lowering, TestFlow, batch_of, changes, context, lower, schema};

const COLUMNS: &str = "id bigint, k bigint, k2 text, kf double, i bigint, n numeric, f double, s text, b boolean, \
                       t timestamp, w bigint";

/// How results are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Same {
    Exactly,
    /// The elements of a list, or of a text separated by commas, in any order.
    InAnyOrder,
    /// Up to a relative error.
    Within(f64),
}
use Same::{Exactly, InAnyOrder, Within};

const ROUNDING: Same = Within(1e-9);
/// Sketches that saw their input in another order.
const SKETCH: Same = Within(0.25);

/// Every aggregate function that DataFusion registers, by each of its names.
fn calls_of(name: &str) -> Vec<(String, Same)> {
    let call = |sql: &str, same: Same| (sql.to_string(), same);
    let each = |args: &[&str], same| args.iter().map(|a| (format!("{name}({a})"), same)).collect::<Vec<_>>();
    match name {
        // Exists for GROUPING SETS only, where the planner replaces it by an expression.
        "grouping" => vec![],
        "count" => {
            let mut calls = each(&["*", "i", "s", "DISTINCT i", "DISTINCT s", "DISTINCT n"], Exactly);
            calls.push(call("count(*) FILTER (WHERE i > 2)", Exactly));
            calls.push(call("count(f) FILTER (WHERE b)", Exactly));
            calls
        }
        "sum" => {
            let mut calls = each(&["i", "n", "DISTINCT i", "i * 2 - 1", "4000000000000000 - i"], Exactly);
            calls.extend(each(&["f"], ROUNDING));
            calls.push(call("sum(i) FILTER (WHERE b)", Exactly));
            calls
        }
        // Not of kf: which of two NaNs or zeros is the least depends on DataFusion's batches.
        "min" | "max" => {
            let mut calls = each(&["i", "n", "f", "s", "b", "t", "DISTINCT s"], Exactly);
            calls.push((format!("{name}(s) FILTER (WHERE b)"), Exactly));
            calls
        }
        "avg" | "mean" => each(&["i", "n", "f"], ROUNDING),
        // Of one value a group there is only one choice.
        "any_value" => each(&["k"], Exactly),
        "first_value" | "last_value" => {
            let mut calls = each(&["i ORDER BY id", "s ORDER BY id DESC", "n ORDER BY i, id", "k"], Exactly);
            calls.push((format!("{name}(i ORDER BY id) FILTER (WHERE b)"), Exactly));
            calls.push((format!("{name}(s ORDER BY id) IGNORE NULLS"), Exactly));
            calls
        }
        "nth_value" => each(&["i, 2 ORDER BY id", "s, -2 ORDER BY id"], Exactly),
        "array_agg" => {
            let mut calls = each(&["i ORDER BY id", "s ORDER BY i DESC, id"], Exactly);
            calls.extend(each(&["i", "s", "DISTINCT i"], InAnyOrder));
            calls.push(call("array_agg(s) FILTER (WHERE s IS NOT NULL)", InAnyOrder));
            calls
        }
        "string_agg" => {
            let mut calls = each(&["s, ',' ORDER BY id"], Exactly);
            calls.extend(each(&["s, ','", "DISTINCT s, ','"], InAnyOrder));
            calls
        }
        "median" => each(&["i", "f", "n", "DISTINCT i"], Exactly),
        "percentile_cont" | "quantile_cont" => vec![(format!("{name}(0.25) WITHIN GROUP (ORDER BY f)"), ROUNDING)],
        "mode" => {
            let ordered = |order: &str| (format!("mode() WITHIN GROUP (ORDER BY {order})"), Exactly);
            ["i", "s DESC", "n", "b"].map(ordered).into()
        }
        "approx_median" => each(&["i", "f"], SKETCH),
        "approx_percentile_cont" => vec![call("approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY f)", SKETCH)],
        "approx_percentile_cont_with_weight" => {
            vec![call("approx_percentile_cont_with_weight(w, 0.5) WITHIN GROUP (ORDER BY f)", SKETCH)]
        }
        "approx_distinct" => each(&["i", "s"], Exactly),
        "bit_and" | "bit_or" | "bit_xor" => each(&["i", "DISTINCT i"], Exactly),
        "bool_and" | "bool_or" => each(&["b", "i > 1"], Exactly),
        "stddev" | "stddev_samp" | "stddev_pop" | "var" | "var_pop" | "var_population" | "var_samp" | "var_sample" => {
            each(&["f", "i"], Within(1e-6))
        }
        "corr" | "covar" | "covar_samp" | "covar_pop" => each(&["f, i"], Within(1e-6)),
        name if name.starts_with("regr_") => each(&["f, w"], Within(1e-6)),
        other => panic!("DataFusion has a new aggregate function {other}: say here how to test it"),
    }
}

/// Those that do not ask for their rows in an order.
fn unordered_calls_of(name: &str) -> impl Iterator<Item = (String, Same)> {
    calls_of(name).into_iter().filter(|(call, _)| !call.contains("ORDER BY") || call.contains("WITHIN"))
}

/// Calls that have no plan with this strategy.
fn suits(call: &str, strategy: AggregateStrategy) -> bool {
    match strategy {
        Merge | Recompute => true,
        Linear => {
            let exact_sum = call.starts_with("sum(") && call != "sum(f)";
            let extreme = ["min(", "max("].iter().any(|name| call.starts_with(name));
            let kept_in_order = extreme && !["(f)", "(b)"].iter().any(|argument| call.ends_with(argument));
            let total = call.starts_with("count(") || exact_sum || call == "avg(n)";
            (kept_in_order || total) && !call.contains("DISTINCT")
        }
    }
}

struct Table {
    schema: SchemaRef,
    rng: StdRng,
    next_id: i64,
    rows: Vec<Vec<ScalarValue>>,
    append_only: bool,
}

impl Table {
    fn new(seed: u64, append_only: bool) -> Self {
        Self { schema: schema(COLUMNS), rng: StdRng::seed_from_u64(seed), next_id: 0, rows: vec![], append_only }
    }

    fn random_row(&mut self) -> Vec<ScalarValue> {
        self.next_id += 1;
        let rng = &mut self.rng;
        let small = |rng: &mut StdRng, n: i64| (!rng.random_ratio(1, 6)).then(|| rng.random_range(-1..n));
        let kf = [Some(0.0), Some(-0.0), Some(f64::NAN), None, Some(1.5)][rng.random_range(0..5)];
        vec![
            ScalarValue::Int64(Some(self.next_id)),
            ScalarValue::Int64(small(rng, 3)),
            ScalarValue::Utf8(small(rng, 2).map(|v| format!("k{v}"))),
            ScalarValue::Float64(kf),
            ScalarValue::Int64(small(rng, 9)),
            ScalarValue::Decimal128(small(rng, 900).map(i128::from), 20, 2),
            ScalarValue::Float64(small(rng, 100).map(|v| v as f64 / 8.0)),
            ScalarValue::Utf8(small(rng, 6).map(|v| format!("v{v}"))),
            ScalarValue::Boolean(small(rng, 3).map(|v| v > 0)),
            ScalarValue::TimestampMicrosecond(small(rng, 50).map(|v| v * 1_000_000), None),
            ScalarValue::Int64(Some(rng.random_range(1..5))),
        ]
    }

    /// The changes of an epoch: some chunks, deleted rows and copies of rows among them if the table is no log.
    fn epoch(&mut self) -> Vec<Delta> {
        let chunks = self.rng.random_range(0..4);
        (0..chunks).map(|_| self.chunk()).filter(|delta| !delta.is_empty()).collect()
    }

    fn chunk(&mut self) -> Delta {
        let mut columns: Vec<Vec<ScalarValue>> = vec![vec![]; self.schema.fields().len()];
        let mut weights = Vec::new();
        let mut push = |row: &[ScalarValue], weight: i64| {
            columns.iter_mut().zip(row).for_each(|(c, v)| c.push(v.clone()));
            weights.push(weight);
        };
        for _ in 0..self.rng.random_range(0..12) {
            let choice = if self.append_only || self.rows.is_empty() { 0 } else { self.rng.random_range(0..10) };
            let at = if self.rows.is_empty() { 0 } else { self.rng.random_range(0..self.rows.len()) };
            match choice {
                0..5 => {
                    let row = self.random_row();
                    push(&row, 1);
                    self.rows.push(row);
                }
                5 => {
                    let row = self.rows[at].clone();
                    push(&row, 2);
                    self.rows.extend([row.clone(), row]);
                }
                6..9 => push(&self.rows.swap_remove(at), -1),
                _ => {
                    push(&self.rows.swap_remove(at), -1);
                    let row = self.random_row();
                    push(&row, 1);
                    self.rows.push(row);
                }
            }
        }
        let batch = batch_of(&self.schema, columns);
        Delta::new(batch, (!self.append_only).then(|| weights.into()))
    }

    fn batch(&self) -> datafusion::arrow::array::RecordBatch {
        let mut columns: Vec<Vec<ScalarValue>> = vec![vec![]; self.schema.fields().len()];
        for row in &self.rows {
            columns.iter_mut().zip(row).for_each(|(c, v)| c.push(v.clone()));
        }
        batch_of(&self.schema, columns)
    }
}

type Row = Vec<ScalarValue>;

/// What a view over the dataflow would hold.
#[derive(Default)]
struct Contents(BTreeMap<String, (Row, i64)>);

impl Contents {
    fn apply(&mut self, chunks: &[Delta]) {
        for delta in chunks {
            for index in 0..delta.num_rows() {
                let row: Row =
                    delta.batch.columns().iter().map(|c| ScalarValue::try_from_array(c, index).unwrap()).collect();
                let key = format!("{row:?}");
                let entry = self.0.entry(key.clone()).or_insert((row, 0));
                entry.1 += delta.weight(index);
                if entry.1 == 0 {
                    self.0.remove(&key);
                }
            }
        }
        for (key, (_, weight)) in &self.0 {
            assert_eq!(*weight, 1, "{key}");
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.0.values().map(|(row, _)| row.clone()).collect()
    }
}

async fn batch_result(table: &Table, sql: &str) -> Vec<Row> {
    let batches = context(table.batch()).sql(sql).await.unwrap().collect().await.unwrap();
    let rows = batches.iter().flat_map(|b| (0..b.num_rows()).map(move |row| (b, row)));
    rows.map(|(b, row)| b.columns().iter().map(|c| ScalarValue::try_from_array(c, row).unwrap()).collect()).collect()
}

/// Groups by key text, so that rows of both sides can be paired.
fn by_key(rows: Vec<Row>, group: usize) -> BTreeMap<String, Row> {
    let count = rows.len();
    let keyed: BTreeMap<String, Row> = rows
        .into_iter()
        .map(|row| (format!("{:?}", row[..group].iter().map(plain).collect::<Vec<_>>()), row))
        .collect();
    assert_eq!(keyed.len(), count, "a group is there twice");
    keyed
}

/// -0.0 is 0.0 as a key, and a NaN is a NaN.
fn plain(value: &ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Float64(Some(v)) if v.is_nan() => ScalarValue::Float64(Some(f64::NAN)),
        ScalarValue::Float64(Some(v)) => ScalarValue::Float64(Some(v + 0.0)),
        other => other.clone(),
    }
}

fn is_same(got: &ScalarValue, expected: &ScalarValue, same: Same) -> bool {
    match (got, expected, same) {
        _ if plain(got) == plain(expected) => true,
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b)), Within(error)) => {
            (a - b).abs() <= error * a.abs().max(b.abs()).max(1.0) || (a.is_nan() && b.is_nan())
        }
        (ScalarValue::Int64(Some(a)), ScalarValue::Int64(Some(b)), Within(error)) => {
            (a - b).abs() as f64 <= (error * (a.abs().max(b.abs()) as f64)).max(1.0)
        }
        (ScalarValue::List(a), ScalarValue::List(b), InAnyOrder) => {
            let sorted = |list: &datafusion::arrow::array::ListArray| {
                let items = list.value(0);
                let mut items: Vec<String> =
                    (0..items.len()).map(|i| format!("{:?}", ScalarValue::try_from_array(&items, i))).collect();
                items.sort();
                items
            };
            a.is_null(0) == b.is_null(0) && sorted(a) == sorted(b)
        }
        (_, _, InAnyOrder) => {
            let sorted = |value: &ScalarValue| value.to_string().split(',').map(String::from).collect::<BTreeSet<_>>();
            got.to_string().len() == expected.to_string().len() && sorted(got) == sorted(expected)
        }
        _ => false,
    }
}

/// The groups that were sent, by their first `group` columns, are those of the query, and of each the last column is the same.
async fn check_groups(contents: &Contents, table: &Table, sql: &str, group: usize, same: Same, what: &str) {
    let got = by_key(contents.rows(), group);
    let expected = by_key(batch_result(table, sql).await, group);
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{sql} {what}");
    for (key, expected) in &expected {
        let (got, expected) = (got[key].last().unwrap(), expected.last().unwrap());
        assert!(is_same(got, expected, same), "{sql} {what}\n{key}: {got:?} != {expected:?}");
    }
}

/// One query, some epochs, each compared.
async fn check(keys: &[&str], calls: &[(String, Same)], strategy: AggregateStrategy, seed: u64, epochs: usize) {
    let mut table = Table::new(seed, strategy == Merge);
    let list: Vec<String> =
        keys.iter().map(|k| k.to_string()).chain(calls.iter().enumerate().map(|(i, c)| aliased(&c.0, i))).collect();
    let mut sql = format!("SELECT {} FROM t", list.join(", "));
    if !keys.is_empty() {
        sql += &format!(" GROUP BY {}", keys.join(", "));
    }
    let same: Vec<Same> = keys.iter().map(|_| Exactly).chain(calls.iter().map(|c| c.1)).collect();
    let lowering = Lowering { strategy, close: None, emit_on_close: false };
    let plan = lower(&table.schema, &sql, lowering).await;
    let mut flow = TestFlow::new(plan, table.rng.random_range(1..4));
    let mut contents = Contents::default();
    for epoch in 0..epochs {
        if table.rng.random_ratio(1, 4) {
            let shards = table.rng.random_range(1..4);
            flow.reopen(shards);
        }
        let input = table.epoch();
        let sent = flow.epoch(changes(input)).chunks;
        contents.apply(&sent);
        let got = by_key(contents.rows(), keys.len());
        let expected = by_key(batch_result(&table, &sql).await, keys.len());
        let where_ = format!("{sql} ({strategy:?}, seed {seed}, epoch {epoch})");
        assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{where_}");
        for (key, expected) in &expected {
            for (index, same) in same.iter().enumerate() {
                let got = &got[key][index];
                assert!(
                    is_same(got, &expected[index], *same),
                    "{where_}\n{key} {}: {got:?} != {:?}",
                    list[index],
                    expected[index]
                );
                assert_eq!(got.data_type(), expected[index].data_type(), "{where_} {}", list[index]);
            }
        }
    }
}

const KEYS: [&[&str]; 5] = [&[], &["k"], &["k2", "k"], &["kf"], &["k", "kf"]];

fn aliased(call: &str, index: usize) -> String {
    format!("{call} AS c{index}")
}

fn all_names() -> Vec<String> {
    let state = SessionContext::new().state();
    let names: BTreeSet<String> = state.aggregate_functions().keys().cloned().collect();
    names.into_iter().collect()
}

async fn every_function(strategy: AggregateStrategy) {
    let mut tested = 0;
    for (number, name) in all_names().into_iter().enumerate() {
        let keyed_by_k = ["any_value", "first_value", "last_value"].contains(&name.as_str());
        for (index, call) in calls_of(&name).into_iter().enumerate().filter(|(_, c)| suits(&c.0, strategy)) {
            let seed = (number * 100 + index) as u64;
            let keys = if keyed_by_k { &["k"][..] } else { KEYS[(number + index) % KEYS.len()] };
            check(keys, &[call], strategy, seed, 8).await;
            tested += 1;
        }
    }
    assert!(tested > 0);
}

#[tokio::test]
async fn every_function_merged() {
    every_function(Merge).await;
}

#[tokio::test]
async fn every_function_recomputed() {
    every_function(Recompute).await;
}

#[tokio::test]
async fn every_linear_function() {
    every_function(Linear).await;
}

#[tokio::test]
async fn random_combinations() {
    // A function under two names would be one column.
    let aliases = ["mean", "quantile_cont", "stddev_samp", "var_population", "var_samp", "var_sample", "covar_samp"];
    let names: Vec<String> = all_names().into_iter().filter(|n| !aliases.contains(&n.as_str())).collect();
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let strategy = [Merge, Linear, Recompute][rng.random_range(0..3)];
        let all: Vec<(String, Same)> =
            names.iter().flat_map(|n| calls_of(n)).filter(|c| suits(&c.0, strategy)).collect();
        // DataFusion forgets this DISTINCT unless it is the only call.
        let all: Vec<_> = all.into_iter().filter(|c| c.0 != "bit_xor(DISTINCT i)").collect();
        let picked: BTreeSet<usize> = (0..rng.random_range(1..5)).map(|_| rng.random_range(0..all.len())).collect();
        let calls: Vec<_> = picked.into_iter().map(|i| all[i].clone()).collect();
        // Some functions pick any row's k.
        let keys: &[&str] = [&["k"][..], &["k2", "k"], &["k", "kf"]][rng.random_range(0..3)];
        check(keys, &calls, strategy, seed, 10).await;
    }
}

#[tokio::test]
async fn distinct() {
    for (seed, strategy) in [(1, Merge), (2, Linear), (3, Recompute), (4, Linear), (5, Merge)] {
        check(&["k", "k2"], &[], strategy, seed, 12).await;
        check(&["kf"], &[], strategy, seed, 12).await;
    }
}
