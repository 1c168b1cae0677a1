//! Window functions as DataFusion plans and runs them: columns in order, one row a window, none without a time.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Int64Builder, ListBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, IntervalUnit};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as Planned;
use tidemark_sql::ast::Statement;
use tidemark_sql::grammar::{casts, parse_one, windows};

/// Integers stand for times: the shape is what is tested here, the arithmetic is the functions' own.
fn function(name: &str, arguments: usize, result: DataType, f: fn(&[i64]) -> Vec<i64>) -> ScalarUDF {
    let offset = DataType::Interval(IntervalUnit::MonthDayNano);
    let mut types = vec![DataType::Int64; arguments];
    if name != "tidemark_window_end" {
        types.push(offset);
    }
    let is_list = matches!(result, DataType::List(_));
    create_udf(
        name,
        types,
        result,
        Volatility::Immutable,
        Arc::new(move |args: &[ColumnarValue]| {
            let arrays = ColumnarValue::values_to_arrays(args)?;
            let ints: Vec<_> = arrays[..arguments].iter().map(|a| a.as_primitive::<Int64Type>()).collect();
            let rows = (0..ints[0].len()).map(|row| {
                ints[0].is_valid(row).then(|| f(&ints.iter().map(|column| column.value(row)).collect::<Vec<_>>()))
            });
            Ok(ColumnarValue::Array(if is_list { lists(rows) } else { values(rows) }))
        }),
    )
}

fn lists(rows: impl Iterator<Item = Option<Vec<i64>>>) -> Arc<dyn Array> {
    let mut builder = ListBuilder::new(Int64Builder::new());
    for row in rows {
        builder.append_option(row.map(|values| values.into_iter().map(Some)));
    }
    Arc::new(builder.finish())
}

fn values(rows: impl Iterator<Item = Option<Vec<i64>>>) -> Arc<dyn Array> {
    let mut builder = Int64Builder::new();
    for row in rows {
        builder.append_option(row.map(|values| values[0]));
    }
    Arc::new(builder.finish())
}

async fn run(sql: &str) -> Result<String> {
    let context = SessionContext::new();
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let start = |a: &[i64]| vec![a[0].div_euclid(a[1]) * a[1]];
    let end = |a: &[i64]| vec![a[0].div_euclid(a[1]) * a[1] + a[1]];
    // slide, size
    let starts = |a: &[i64]| {
        let last = a[0].div_euclid(a[1]) * a[1];
        (0..).map(|i| last - i * a[1]).take_while(|s| s + a[2] > a[0]).collect()
    };
    context.register_udf(function("tidemark_tumble_start", 2, DataType::Int64, start));
    context.register_udf(function("tidemark_tumble_end", 2, DataType::Int64, end));
    context.register_udf(function("tidemark_hop_starts", 3, list, starts));
    context.register_udf(function("tidemark_window_end", 2, DataType::Int64, |a| vec![a[0] + a[1]]));
    let create = "CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (11, 'b'), (NULL, 'c'), (15, 'd')) AS v (ts, name)";
    context.sql(create).await?.collect().await?;
    let Statement::Sql(mut statement) = parse_one(sql)?.statement else { panic!("{sql}") };
    windows::rewrite(statement.as_mut())?;
    casts::rewrite(statement.as_mut())?;
    let plan = context.state().statement_to_plan(Planned::Statement(statement)).await?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

#[tokio::test]
async fn tumble() {
    let expected = "\
+----+------+--------------+------------+
| ts | name | window_start | window_end |
+----+------+--------------+------------+
| 1  | a    | 0            | 10         |
| 11 | b    | 10           | 20         |
| 15 | d    | 10           | 20         |
+----+------+--------------+------------+";
    for from in [
        "TUMBLE(t, ts, 10)",
        "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), 10))",
        "TUMBLE((SELECT * FROM t), ts, 10) AS w",
        "TUMBLE(size => 10, data => TABLE public.t, timecol => ts)",
    ] {
        assert_eq!(run(&format!("SELECT * FROM {from} ORDER BY ts")).await.unwrap(), expected, "{from}");
    }
}

#[tokio::test]
async fn hop() {
    let expected = "\
+----+------+--------------+------------+
| ts | name | window_start | window_end |
+----+------+--------------+------------+
| 1  | a    | -5           | 5          |
| 1  | a    | 0            | 10         |
| 11 | b    | 5            | 15         |
| 11 | b    | 10           | 20         |
| 15 | d    | 10           | 20         |
| 15 | d    | 15           | 25         |
+----+------+--------------+------------+";
    for from in
        ["HOP(t, ts, 5, 10)", "TABLE(HOP(TABLE t, DESCRIPTOR(ts), 5, 10))", "HOP((SELECT * FROM t), ts, 5, 10) w"]
    {
        assert_eq!(run(&format!("SELECT * FROM {from} ORDER BY ts, window_start")).await.unwrap(), expected, "{from}");
    }
}

/// A slide longer than the size leaves gaps: a row in one has no window, and does not appear.
#[tokio::test]
async fn hop_with_gaps() {
    let shown = run("SELECT name FROM HOP(t, ts, 10, 2)").await.unwrap();
    assert_eq!(shown.lines().filter(|line| line.contains("| a") || line.contains("| b")).count(), 2, "{shown}");
    assert!(!shown.contains("| d") && !shown.contains("| c"), "{shown}");
}

#[tokio::test]
async fn windows_are_relations_like_others() {
    let count = "+--------------+---+\n| window_start | n |\n+--------------+---+\n| 0            | 1 |\n| 10           | 2 |\n+--------------+---+";
    let queries = [
        "SELECT window_start, count(*) AS n FROM TUMBLE(t, ts, 10) GROUP BY window_start, window_end ORDER BY 1",
        "SELECT w.window_start, count(w.name) AS n FROM TUMBLE(t, ts, 10) AS w GROUP BY w.window_start ORDER BY 1",
        "WITH x AS (SELECT * FROM t) SELECT window_start, count(*) AS n FROM TUMBLE(x, ts, 10) GROUP BY 1 ORDER BY 1",
        "SELECT a.window_start, count(*) AS n FROM TUMBLE(t, ts, 10) a JOIN t b ON a.ts = b.ts GROUP BY 1 ORDER BY 1",
        "SELECT window_start, count(*) AS n FROM TUMBLE(t, t.ts, 10) GROUP BY 1 ORDER BY 1",
    ];
    for sql in queries {
        assert_eq!(run(sql).await.unwrap(), count, "{sql}");
    }
}

#[tokio::test]
async fn intervals_as_datafusion_reads_them() {
    let shown = run("SELECT INTERVAL '1-2' YEAR TO MONTH AS a, '1 day -2:03:04.5'::interval AS b").await;
    let shown = shown.unwrap();
    assert!(shown.contains("14 mons") && shown.contains("1 days -2 hours -3 mins -4.500000000 secs"), "{shown}");
}
