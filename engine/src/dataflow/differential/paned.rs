//! Every function by panes: what closed windows sent must be what DataFusion says of all rows in each of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::scalar::ScalarValue;
use rand::Rng;
use tidemark_common::Delta;
use tidemark_common::plan::{Dataflow, Node, Op, PaneColumn, Panes, Properties, Shape, Window, Windows};

use super::{Contents, Exactly, Merge, Same, Table, all_names, check_groups, unordered_calls_of};
use crate::operators::testing::{Lowering, TestFlow, batch_of, changes, lower, with_watermarks};

const SECOND: i64 = 1_000_000;
const TIME: usize = 9;

/// Seconds.
const WINDOWS: [(Shape, i64, i64, i64); 6] = [
    (Shape::Hop, 5, 20, 0),
    (Shape::Hop, 1, 37, 3),
    (Shape::Hop, 5, 12, 1),
    (Shape::Hop, 10, 10, -2),
    (Shape::Cumulate, 5, 20, 7),
    (Shape::Cumulate, 1, 30, 0),
];

/// "SELECT t, k, call FROM t GROUP BY t, k" as windows over panes that start at t.
async fn plan(table: &Table, call: Option<&str>, windows: Windows, keyed: bool) -> Arc<Dataflow> {
    let key = if keyed { ", k" } else { "" };
    let call = call.map_or(String::new(), |call| format!(", {call} AS c"));
    let sql = format!("SELECT t{key}{call} FROM t GROUP BY t{key}");
    let lowering = Lowering { strategy: Merge, close: Some(0), emit_on_close: true };
    let mut nodes = lower(&table.schema, &sql, lowering).await.nodes.clone();
    let keys = usize::from(keyed);
    let states = nodes.last_mut().unwrap();
    let Op::Aggregate(aggregate) = &mut states.op else { panic!("it ends with the aggregate") };
    aggregate.partial = true;
    let calls = aggregate.calls.clone();
    let results: Vec<FieldRef> = states.schema.fields()[1..].to_vec();
    let mut fields = states.schema.fields()[..=keys].to_vec();
    calls.iter().for_each(|call| fields.extend(call.function.state_fields().unwrap()));
    states.schema = Arc::new(Schema::new(fields));
    states.properties = with_watermarks(&[0]);
    let (id, schema) = (states.id, Arc::clone(&states.schema));
    let exchange = Op::Exchange { keys: (1..=keys).collect() };
    nodes.push(Node { id: id + 1, op: exchange, inputs: vec![id], schema, properties: with_watermarks(&[0]) });
    let edge = |at: usize| PaneColumn::Window(Arc::new(Column::new("edge", at)) as Arc<dyn PhysicalExpr>);
    let columns = [edge(0), edge(1)].into_iter().chain((0..keys).map(PaneColumn::Key)).collect();
    let time = table.schema.field(TIME).data_type();
    let edges = ["window_start", "window_end"].map(|name| Arc::new(Field::new(name, time.clone(), true)));
    let schema = Arc::new(Schema::new(edges.into_iter().chain(results).collect::<Vec<_>>()));
    let op = Op::Panes(Panes { windows, keys, calls, columns });
    let properties = Properties { watermarks: [0, 1].into(), ..Properties::default() };
    nodes.push(Node { id: id + 2, op, inputs: vec![id + 1], schema, properties });
    Arc::new(Dataflow { nodes })
}

/// Rows of panes at or after `watermark`; late ones among them only where the aggregate must leave them out.
fn epoch(table: &mut Table, windows: &Windows, watermark: i64) -> Delta {
    let mut columns: Vec<Vec<ScalarValue>> = vec![vec![]; table.schema.fields().len()];
    for _ in 0..table.rng.random_range(0..30) {
        let mut row = table.random_row();
        let time = watermark + table.rng.random_range(0..25) * SECOND;
        row[TIME] = ScalarValue::TimestampMicrosecond(windows.pane(time), None);
        columns.iter_mut().zip(&row).for_each(|(column, value)| column.push(value.clone()));
        table.rows.push(row);
    }
    Delta::inserts(batch_of(&table.schema, columns))
}

/// All windows that end by `to`, in SQL.
fn closed(windows: &Windows, to: i64) -> String {
    let mut all = Vec::new();
    let mut at = -100 * SECOND;
    while let Some(Window { start, end }) = windows.first_ending_after(at).filter(|window| window.end <= to) {
        all.push(format!("({start}, {end})"));
        at = end;
    }
    format!("(VALUES {}) AS windows (ws, we)", all.join(", "))
}

async fn check(
    call: Option<(&str, Same)>,
    (shape, step, size, offset): (Shape, i64, i64, i64),
    keyed: bool,
    seed: u64,
) {
    let windows = Windows::new(shape, step * SECOND, size * SECOND, offset * SECOND).unwrap();
    let mut table = Table::new(seed, true);
    let plan = plan(&table, call.map(|call| call.0), windows, keyed).await;
    let mut flow = TestFlow::new(plan, table.rng.random_range(1..4));
    let mut contents = Contents::default();
    let mut watermark = windows.pane(0).unwrap();
    for _ in 0..12 {
        if table.rng.random_ratio(1, 3) {
            let shards = table.rng.random_range(1..4);
            flow.reopen(shards);
        }
        let mut input = changes(vec![epoch(&mut table, &windows, watermark)]);
        let moved = [0, 1, 7, 20, 150][table.rng.random_range(0..5)];
        watermark = windows.pane(watermark + moved * SECOND).unwrap();
        input.watermarks = [(TIME, ScalarValue::TimestampMicrosecond(Some(watermark), None))].into();
        contents.apply(&flow.epoch(input).chunks);
    }
    // Far ahead: nothing stays behind.
    let mut end = changes(vec![]);
    let last = watermark + 1000 * SECOND;
    end.watermarks = [(TIME, ScalarValue::TimestampMicrosecond(Some(last), None))].into();
    contents.apply(&flow.epoch(end).chunks);
    flow.epoch(changes(vec![]));
    assert_eq!(flow.stored_entries(), 0);

    let key = if keyed { ", k" } else { "" };
    let edge = |name: &str| format!("arrow_cast({name}, 'Timestamp(Microsecond, None)')");
    let value = call.map_or(String::new(), |call| format!(", {} AS c", call.0));
    let sql = format!(
        "SELECT {}, {}{key}{value} FROM t JOIN {} ON arrow_cast(t, 'Int64') >= ws AND arrow_cast(t, 'Int64') < we \
         GROUP BY ws, we{key}",
        edge("ws"),
        edge("we"),
        closed(&windows, last)
    );
    let same = call.map_or(Exactly, |call| call.1);
    let what = format!("({windows:?}, seed {seed})");
    check_groups(&contents, &table, &sql, 2 + usize::from(keyed), same, &what).await;
}

#[tokio::test]
async fn every_function_by_panes() {
    let mut tested = 0;
    for (number, name) in all_names().into_iter().enumerate() {
        for (index, (call, same)) in unordered_calls_of(&name).enumerate() {
            let seed = (number * 100 + index) as u64;
            // Some functions pick any row's k.
            let keyed = name.ends_with("_value") || !seed.is_multiple_of(3);
            check(Some((&call, same)), WINDOWS[(number + index) % WINDOWS.len()], keyed, seed).await;
            tested += 1;
        }
    }
    assert!(tested > 50);
}

#[tokio::test]
async fn distinct_by_panes() {
    for (seed, windows) in WINDOWS.into_iter().enumerate() {
        check(None, windows, true, seed as u64).await;
        check(Some(("count(*)", Exactly)), windows, false, seed as u64).await;
    }
}
