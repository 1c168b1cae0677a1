//! Every function by sessions, on closing and by changes: what was sent must be what DataFusion says of all rows in each session.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::scalar::ScalarValue;
use rand::Rng;
use tidemark_common::Delta;
use tidemark_common::plan::{Dataflow, Op, Sessions};

use super::{Contents, Exactly, Merge, Same, Table, all_names, check_groups, unordered_calls_of};
use crate::dataflow::CollectionChanges;
use crate::operators::testing::{Lowering, TestFlow, batch_of, changes, lower, with_watermarks};

const SECOND: i64 = 1_000_000;
const GAP: i64 = 3 * SECOND;
const TIME: usize = 9;

/// "SELECT t, k, call FROM t GROUP BY t, k" with sessions in the place of t.
async fn plan(table: &Table, call: Option<&str>, keyed: bool, emit_on_close: bool) -> Arc<Dataflow> {
    let key = if keyed { ", k" } else { "" };
    let call = call.map_or(String::new(), |call| format!(", {call} AS c"));
    let sql = format!("SELECT t{key}{call} FROM t GROUP BY t{key}");
    let lowering = Lowering { strategy: Merge, close: Some(0), emit_on_close };
    let mut nodes = lower(&table.schema, &sql, lowering).await.nodes.clone();
    let keys = usize::from(keyed);
    let [.., exchange, sessions] = nodes.as_mut_slice() else { panic!("it ends with an exchange and the aggregate") };
    exchange.op = Op::Exchange { keys: (1..=keys).collect() };
    let Op::Aggregate(aggregate) = &sessions.op else { panic!("it ends with the aggregate") };
    let calls = aggregate.calls.clone();
    let column = |at: usize| Arc::new(Column::new("", at)) as Arc<dyn PhysicalExpr>;
    let columns = [keys, keys + 1].into_iter().chain(0..keys).map(column).collect();
    let results: Vec<FieldRef> = sessions.schema.fields()[1..].to_vec();
    let time = table.schema.field(TIME).data_type();
    let edges = ["window_start", "window_end"].map(|name| Arc::new(Field::new(name, time.clone(), true)));
    sessions.schema = Arc::new(Schema::new(edges.into_iter().chain(results).collect::<Vec<_>>()));
    sessions.op = Op::Sessions(Sessions { keys, gap: GAP, calls, columns, emit_on_close });
    sessions.properties = with_watermarks(&[1]);
    Arc::new(Dataflow { nodes })
}

/// Rows at or after `watermark`, and late ones, which must not count.
fn epoch(table: &mut Table, watermark: i64) -> Delta {
    let mut columns: Vec<Vec<ScalarValue>> = vec![vec![]; table.schema.fields().len()];
    for _ in 0..table.rng.random_range(0..20) {
        let mut row = table.random_row();
        let time = watermark + table.rng.random_range(-2..30) * SECOND;
        row[TIME] = ScalarValue::TimestampMicrosecond(Some(time), None);
        columns.iter_mut().zip(&row).for_each(|(column, value)| column.push(value.clone()));
        if time >= watermark {
            table.rows.push(row);
        }
    }
    Delta::inserts(batch_of(&table.schema, columns))
}

fn batch_sql(call: Option<&str>, keyed: bool) -> String {
    let (key, by) = if keyed { (", k", "PARTITION BY k") } else { ("", "") };
    let value = call.map_or(String::new(), |call| format!(", {call} AS c"));
    let edge = |name: &str| format!("arrow_cast({name}, 'Timestamp(Microsecond, None)')");
    let timed = format!(
        "SELECT *, arrow_cast(t, 'Int64') AS at, lag(arrow_cast(t, 'Int64')) OVER ({by} ORDER BY t) AS before FROM t"
    );
    let numbered = format!(
        "SELECT *, sum(CASE WHEN at - before <= {GAP} THEN 0 ELSE 1 END) OVER ({by} ORDER BY t) AS session FROM ({timed})"
    );
    let of = if keyed { "PARTITION BY k, session" } else { "PARTITION BY session" };
    let rows = format!("SELECT *, min(at) OVER ({of}) AS ws, max(at) OVER ({of}) + {GAP} AS we FROM ({numbered})");
    format!("SELECT {}, {}{key}{value} FROM ({rows}) GROUP BY ws, we{key}", edge("ws"), edge("we"))
}

async fn check(call: Option<(&str, Same)>, keyed: bool, emit_on_close: bool, seed: u64) {
    let mut table = Table::new(seed, true);
    let plan = plan(&table, call.map(|call| call.0), keyed, emit_on_close).await;
    let sql = batch_sql(call.map(|call| call.0), keyed);
    let mut flow = TestFlow::new(plan, table.rng.random_range(1..4));
    let mut contents = Contents::default();
    let at = |watermark| [(TIME, ScalarValue::TimestampMicrosecond(Some(watermark), None))].into();
    let mut watermark = 0;
    flow.epoch(CollectionChanges { watermarks: at(watermark), ..changes(vec![]) });
    for number in 0..=10 {
        if table.rng.random_ratio(1, 3) {
            let shards = table.rng.random_range(1..4);
            flow.reopen(shards);
        }
        // The last is far ahead: nothing stays behind.
        let is_last = number == 10;
        let mut input =
            changes(if is_last { vec![] } else { vec![epoch(&mut table, watermark), epoch(&mut table, watermark)] });
        watermark += if is_last { 1000 } else { [0, 1, 4, 12, 60][table.rng.random_range(0..5)] } * SECOND;
        input.watermarks = at(watermark);
        contents.apply(&flow.epoch(input).chunks);
        if emit_on_close && !is_last {
            continue;
        }
        let same = call.map_or(Exactly, |call| call.1);
        let what = format!("(seed {seed}, epoch {number}, on close: {emit_on_close})");
        check_groups(&contents, &table, &sql, 2 + usize::from(keyed), same, &what).await;
    }
    flow.epoch(changes(vec![]));
    assert_eq!(flow.stored_entries(), 0);
}

#[tokio::test]
async fn every_function_by_sessions() {
    let mut tested = 0;
    for (number, name) in all_names().into_iter().enumerate() {
        for (index, (call, same)) in unordered_calls_of(&name).enumerate() {
            let seed = (number * 100 + index) as u64;
            // Some functions pick any row's k.
            let keyed = name.ends_with("_value") || !seed.is_multiple_of(3);
            check(Some((&call, same)), keyed, seed.is_multiple_of(2), seed).await;
            tested += 1;
        }
    }
    assert!(tested > 50);
}

#[tokio::test]
async fn sessions_in_many_orders() {
    for seed in 0..12 {
        let on_close = seed % 2 == 0;
        check(None, true, on_close, seed).await;
        check(Some(("count(*)", Exactly)), seed % 3 == 0, on_close, seed).await;
        check(Some(("max(i)", Exactly)), true, on_close, seed).await;
    }
}
