//! What a dataflow does beyond its operators: shards, watermarks, restarts, statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::Operator::{Minus, Plus};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, lit};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::AggregateStrategy::{Linear, Merge, Recompute};
use tidemark_common::plan::{Join, JoinKind, Op, UnnestColumn};
use tidemark_common::{Delta, Oid};

use super::{CollectionChanges, RunningDataflow};
use crate::operators::Watermarks;
use crate::operators::testing::{
    INPUT, Lowering, TestFlow, VIEW, changes, column, delta, input, lower, plan, rows_text, schema, show,
    with_watermarks,
};

fn integers(watermarks: &[(usize, i64)]) -> Watermarks {
    watermarks.iter().map(|&(column, value)| (column, ScalarValue::Int64(Some(value)))).collect()
}

fn no_rows(watermarks: &[(usize, i64)]) -> CollectionChanges {
    CollectionChanges { chunks: vec![], watermarks: integers(watermarks), ..CollectionChanges::default() }
}

fn minus(schema: &SchemaRef, name: &str, value: i64) -> Arc<dyn PhysicalExpr> {
    binary(column(schema, name), Minus, lit(value), schema).unwrap()
}

#[test]
fn a_watermark_goes_through_expressions_and_never_back() {
    let table = schema("a bigint, b bigint");
    let projected = schema("x bigint, y bigint, z bigint");
    let sum = binary(column(&table, "a"), Plus, column(&table, "b"), &table).unwrap();
    let exprs = vec![minus(&table, "a", 5), column(&table, "b"), sum];
    let mut flow = TestFlow::new(
        plan(vec![
            input(&table, &[0]),
            (Op::Filter { predicate: lit(true) }, vec![0], Arc::clone(&table), with_watermarks(&[0])),
            // z depends on a column without a watermark: it has none, whatever the planner says.
            (Op::Project { exprs }, vec![1], projected, with_watermarks(&[0, 2])),
        ]),
        1,
    );
    assert_eq!(flow.epoch(no_rows(&[])).watermarks, integers(&[]));
    assert_eq!(flow.epoch(no_rows(&[(0, 100), (1, 7)])).watermarks, integers(&[(0, 95)]));
    assert_eq!(flow.epoch(no_rows(&[(0, 90)])).watermarks, integers(&[(0, 95)]));
    flow.reopen(1);
    assert_eq!(flow.epoch(no_rows(&[])).watermarks, integers(&[(0, 95)]), "it is stored");
    assert_eq!(flow.epoch(no_rows(&[(0, 101)])).watermarks, integers(&[(0, 96)]));
}

#[test]
fn a_union_is_as_late_as_its_latest_input() {
    let table = schema("a bigint");
    let other: Oid = 20002;
    let mut second = input(&table, &[0]);
    second.0 = Op::Input { collection: other, name: "u".into(), projection: vec![0] };
    let nodes = vec![input(&table, &[0]), second, (Op::Union, vec![0, 1], Arc::clone(&table), with_watermarks(&[0]))];
    let mut flow = RunningDataflow::new(plan(nodes), VIEW, 2, 1 << 20).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = tidemark_storage::Store::open(dir.path(), &tidemark_storage::StoreOptions::default()).unwrap();
    let mut step = |a: &[(usize, i64)], b: &[(usize, i64)]| {
        let one = |watermarks: &[(usize, i64)], row| CollectionChanges {
            chunks: vec![delta(&table, row)],
            watermarks: integers(watermarks),
            idle: false,
        };
        let inputs = BTreeMap::from([(INPUT, one(a, "+ 1")), (other, one(b, "+ 2"))]);
        let output = flow.step(1, &store.snapshot(), &BTreeMap::new(), false, &inputs, 0).unwrap();
        let mut rows: Vec<String> = show(&output.chunks).lines().map(String::from).collect();
        rows.sort();
        assert_eq!(rows, ["+ 1", "+ 2"]);
        output.watermarks
    };
    assert_eq!(step(&[(0, 10)], &[]), integers(&[]));
    assert_eq!(step(&[(0, 20)], &[(0, 5)]), integers(&[(0, 5)]));
    assert_eq!(step(&[(0, 20)], &[(0, 50)]), integers(&[(0, 20)]));
}

#[test]
fn a_join_is_as_late_as_the_later_of_columns_that_must_be_equal() {
    let table = schema("w bigint, a bigint");
    let other: Oid = 20002;
    let mut second = input(&table, &[0, 1]);
    second.0 = Op::Input { collection: other, name: "u".into(), projection: vec![0, 1] };
    let exchange = |of| (Op::Exchange { keys: vec![0] }, vec![of], Arc::clone(&table), with_watermarks(&[0, 1]));
    let join = Join {
        kind: JoinKind::Left,
        on: vec![(0, 0)],
        null_equal: false,
        residual: None,
        output: vec![1, 0, 2],
        looked_up: [None, None],
        within: None,
        current: false,
    };
    // The other columns may come from any time, whatever the planner says.
    let joined = (Op::Join(join), vec![2, 3], schema("a bigint, w bigint, u bigint"), with_watermarks(&[0, 1, 2]));
    let nodes = vec![input(&table, &[0, 1]), second, exchange(0), exchange(1), joined];
    let mut flow = TestFlow::new(plan(nodes), 2);
    let mut step = |a: &[(usize, i64)], b: &[(usize, i64)]| {
        let inputs = BTreeMap::from([(INPUT, no_rows(a)), (other, no_rows(b))]);
        flow.try_epoch_of(&inputs).unwrap().watermarks
    };
    assert_eq!(step(&[(0, 10), (1, 7)], &[(1, 8)]), integers(&[]));
    assert_eq!(step(&[(0, 20)], &[(0, 5)]), integers(&[(1, 5), (2, 5)]));
    assert_eq!(step(&[(0, 20)], &[(0, 50)]), integers(&[(1, 20), (2, 20)]));
}

/// HOP: a row is in several windows, a list of starts; no later row is in a window before the first of them.
#[tokio::test]
async fn unnesting_a_list_takes_the_least_of_the_watermarks_list() {
    let table = schema("t bigint, v bigint");
    let list_type = DataType::new_list(DataType::Int64, true);
    let with_list: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("starts", list_type, true), Field::new("v", DataType::Int64, true)]));
    let ctx = SessionContext::new();
    let df_schema = datafusion::common::DFSchema::try_from(table.as_ref().clone()).unwrap();
    let starts = ctx.parse_sql_expr("make_array(t - t % 5, t - t % 5 - 5)", &df_schema).unwrap();
    let starts = ctx.create_physical_expr(starts, &df_schema).unwrap();
    let unnest = Op::Unnest {
        columns: vec![UnnestColumn::List { column: 0, depth: 1 }, UnnestColumn::Keep(1)],
        preserve_nulls: false,
    };
    let mut flow = TestFlow::new(
        plan(vec![
            input(&table, &[0]),
            (Op::Project { exprs: vec![starts, column(&table, "v")] }, vec![0], with_list, with_watermarks(&[0])),
            (unnest, vec![1], schema("start bigint, v bigint"), with_watermarks(&[0])),
        ]),
        1,
    );
    let mut first = changes(vec![delta(&table, "+ 12 1")]);
    first.watermarks = integers(&[(0, 12)]);
    let output = flow.epoch(first);
    assert_eq!((show(&output.chunks).as_str(), output.watermarks), ("+ 10 1\n+ 5 1\n", integers(&[(0, 5)])));
    assert_eq!(flow.epoch(no_rows(&[(0, 15)])).watermarks, integers(&[(0, 10)]));
}

fn many_rows(schema: &SchemaRef, rows: i64, seed: i64) -> Delta {
    let k: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 11 != 0).then_some((i * seed) % 97))));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|i| i * seed % 1000)));
    Delta::inserts(RecordBatch::try_new(Arc::clone(schema), vec![k, v]).unwrap())
}

/// Rows enough for threads: any number of shards comes to the same, and the same twice.
#[tokio::test]
async fn shards_agree() {
    let schema = schema("k bigint, v bigint");
    for strategy in [Merge, Linear, Recompute] {
        let call = if strategy == Linear { "sum(v)" } else { "max(v)" };
        let sql = format!("SELECT k, count(*), {call} FROM t GROUP BY k");
        let mut results = Vec::new();
        for shards in [1, 2, 3, 3] {
            let lowering = Lowering { strategy, close: None, emit_on_close: false };
            let mut flow = TestFlow::new(lower(&schema, &sql, lowering).await, shards);
            let mut sent = String::new();
            for epoch in 1..4 {
                let input = vec![many_rows(&schema, 20_000, epoch), many_rows(&schema, 10, epoch)];
                sent += &show(&flow.epoch(changes(input)).chunks);
            }
            results.push(sent);
        }
        let sorted = |text: &String| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        assert!(results[0].lines().count() > 98);
        assert_eq!(sorted(&results[0]), sorted(&results[1]));
        assert_eq!(sorted(&results[0]), sorted(&results[2]));
        assert_eq!(results[2], results[3], "{strategy:?}");
    }
}

#[tokio::test]
async fn statistics_count_rows() {
    let schema = schema("k bigint, v bigint");
    let lowering = Lowering { strategy: Linear, close: None, emit_on_close: false };
    let mut flow = TestFlow::new(lower(&schema, "SELECT k, count(*) FROM t GROUP BY k", lowering).await, 2);
    flow.epoch(changes(vec![delta(&schema, "+ 1 1\n+ 1 2\n+ 2 1")]));
    flow.epoch(changes(vec![delta(&schema, "+ 1 1\n- 2 1")]));
    let stats = flow.flow.stats();
    let rows: Vec<(u64, u64)> = stats.iter().map(|s| (s.rows_in, s.rows_out)).collect();
    assert_eq!(rows, [(0, 5), (5, 5), (5, 5), (5, 2 + 3)]);
    assert_eq!(stats[3].state.entries, 1);
    assert!(stats[3].state.cached_bytes > 0 && stats.iter().all(|s| s.nanos > 0));
}

/// A plan whose aggregate is not behind an exchange of its keys is still right with many shards.
#[tokio::test]
async fn rows_are_gathered_where_no_exchange_does_it() {
    let schema = schema("k bigint, v bigint");
    let lowering = Lowering { strategy: Merge, close: None, emit_on_close: false };
    let mut dataflow = (*lower(&schema, "SELECT k, count(*) FROM t GROUP BY k", lowering).await).clone();
    dataflow.nodes[2].op = Op::Filter { predicate: lit(true) };
    let mut flow = TestFlow::new(Arc::new(dataflow), 3);
    let mut counts = BTreeMap::new();
    for delta in flow.epoch(changes(vec![many_rows(&schema, 30_000, 1)])).chunks {
        for row in rows_text(&delta.batch) {
            assert!(counts.insert(row[0].clone(), row[1].parse::<i64>().unwrap()).is_none(), "{row:?} is there twice");
        }
    }
    assert_eq!(counts.values().sum::<i64>(), 30_000);
}

/// Rows enough for threads: what they write is what one shard writes, and what the next life reads.
#[tokio::test]
async fn shards_that_flush_side_by_side_write_what_one_does() {
    let schema = schema("k bigint, v bigint");
    let lowering = Lowering { strategy: Merge, close: Some(0), emit_on_close: true };
    let plan = lower(&schema, "SELECT k, count(*), max(v) FROM t GROUP BY k", lowering).await;
    let epoch = |number: i64| {
        let rows = number * 3000..number * 3000 + 6000;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.clone())),
            Arc::new(Int64Array::from_iter_values(rows.map(|row| row % 7))),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        CollectionChanges { chunks: vec![Delta::inserts(batch)], ..no_rows(&[(0, number * 3000)]) }
    };
    let run = |shards: usize| {
        let mut flow = TestFlow::new(Arc::clone(&plan), shards);
        let mut seen = Vec::new();
        for number in 0..4 {
            let mut rows: Vec<String> = show(&flow.epoch(epoch(number)).chunks).lines().map(String::from).collect();
            rows.sort();
            seen.push((rows, flow.stored()));
            flow.reopen(shards);
        }
        seen
    };
    let one = run(1);
    assert_eq!(one.last().map(|(rows, stored)| (rows.len(), stored.len() >= 6000)), Some((3000, true)));
    assert!(one == run(2) && one == run(3));
}
