//! The operators without state: rows in, rows out, as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::Operator as Op;
use datafusion::physical_expr::expressions::{binary, lit};
use expect_test::{Expect, expect};
use tidemark_common::Delta;
use tidemark_common::plan::UnnestColumn;
use tidemark_storage::{Store, StoreOptions};

use super::constant::Constant;
use super::exchange::{hash_rows, repartition};
use super::filter::Filter;
use super::project::Project;
use super::testing::{column, delta, schema, show};
use super::union::Union;
use super::unnest::Unnest;
use super::{Chunks, Operator, StepContext, Watermarks};

fn step(operator: &mut dyn Operator, first: bool, inputs: Vec<Chunks>) -> Chunks {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
    let none = Watermarks::new();
    let ctx = StepContext {
        epoch: 1,
        snapshot: &store.snapshot(),
        held: &BTreeMap::new(),
        first,
        watermarks_before: &none,
        watermarks: &none,
        right_watermarks_before: &none,
        right_watermarks: &none,
        idle: [false, false],
        now: 0,
    };
    operator.step(&ctx, inputs).unwrap()
}

fn check(operator: &mut dyn Operator, input: Delta, expected: Expect) {
    expected.assert_eq(&show(&step(operator, false, vec![vec![input]])));
}

#[test]
fn filter_keeps_what_is_true() {
    let schema = schema("a bigint, b text");
    let predicate = binary(column(&schema, "a"), Op::Gt, lit(1i64), &schema).unwrap();
    let input = delta(&schema, "+ 1 x\n+ 2 y\n- 3 z\n+ NULL n\n+4 5 w");
    check(
        &mut Filter::new(Arc::clone(&predicate)),
        input,
        expect![[r#"
            + 2 y
            - 3 z
            +4 5 w
        "#]],
    );
    let none_left = step(&mut Filter::new(predicate), false, vec![vec![delta(&schema, "+ 0 x")]]);
    assert!(none_left.is_empty(), "no empty pieces");
}

#[test]
fn project_computes_and_keeps_weights() {
    let input_schema = schema("a bigint, b text");
    let double = binary(column(&input_schema, "a"), Op::Multiply, lit(2i64), &input_schema).unwrap();
    let exprs = vec![column(&input_schema, "b"), double, lit(7i64)];
    let mut project = Project::new(exprs, schema("b text, d bigint, c bigint"));
    check(
        &mut project,
        delta(&input_schema, "+ 1 x\n- 2 y\n+3 NULL z"),
        expect![[r#"
            + x 2 7
            - y 4 7
            +3 z NULL 7
        "#]],
    );
}

#[test]
fn union_appends() {
    let (left, right) = (schema("a bigint"), schema("other bigint"));
    let inputs = vec![vec![delta(&left, "+ 1\n- 2")], vec![delta(&right, "+ 3"), delta(&right, "+ 4")]];
    let output = step(&mut Union::new(Arc::clone(&left)), false, inputs);
    assert_eq!(show(&output), "+ 1\n- 2\n+ 3\n+ 4\n");
    assert!(output.iter().all(|d| d.batch.schema() == left));
}

#[test]
fn constant_comes_in_the_first_step() {
    let batch = delta(&schema("a bigint"), "+ 1\n+ 2").batch;
    let mut constant = Constant::new(batch);
    assert_eq!(show(&step(&mut constant, true, vec![])), "+ 1\n+ 2\n");
    assert!(step(&mut constant, false, vec![]).is_empty());
}

fn lists(values: Vec<Option<Vec<Option<i64>>>>) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values))
}

fn unnest_input() -> Delta {
    let l = lists(vec![Some(vec![Some(5), Some(6)]), None, Some(vec![]), Some(vec![None]), None]);
    let m = lists(vec![Some(vec![Some(7)]), Some(vec![Some(8), Some(9)]), Some(vec![]), None, None]);
    let k: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
    let batch = RecordBatch::try_from_iter_with_nullable([("k", k, true), ("l", l, true), ("m", m, true)]).unwrap();
    Delta::new(batch, Some(vec![1, -1, 1, 1, 2].into()))
}

#[test]
fn unnest_opens_lists_side_by_side() {
    let columns = vec![
        UnnestColumn::Keep(0),
        UnnestColumn::List { column: 1, depth: 1 },
        UnnestColumn::List { column: 2, depth: 1 },
    ];
    let output = schema("k bigint, l bigint, m bigint");
    check(
        &mut Unnest::new(columns.clone(), true, Arc::clone(&output)),
        unnest_input(),
        expect![[r#"
            + 1 5 7
            + 1 6 NULL
            - 2 NULL 8
            - 2 NULL 9
            + 4 NULL NULL
            +2 5 NULL NULL
        "#]],
    );
    check(
        &mut Unnest::new(columns, false, output),
        unnest_input(),
        expect![[r#"
            + 1 5 7
            + 1 6 NULL
            - 2 NULL 8
            - 2 NULL 9
            + 4 NULL NULL
        "#]],
    );
}

#[test]
fn unnest_opens_lists_in_lists_and_structs() {
    let inner = lists(vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(3)]), None, Some(vec![Some(4)])]);
    let field = Arc::new(Field::new_list_field(inner.data_type().clone(), true));
    let offsets = datafusion::arrow::buffer::OffsetBuffer::from_lengths([3, 1]);
    let nested: ArrayRef = Arc::new(ListArray::new(field, offsets, inner, None));
    let flat = lists(vec![Some(vec![Some(10), Some(20)]), Some(vec![Some(30)])]);
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "hidden"]));
    let structs: ArrayRef = Arc::new(StructArray::new(
        vec![Field::new("name", DataType::Utf8, true)].into(),
        vec![names],
        Some(NullBuffer::from(vec![true, false])),
    ));
    let batch =
        RecordBatch::try_from_iter_with_nullable([("n", nested, true), ("f", flat, true), ("s", structs, true)])
            .unwrap();
    let columns = vec![
        UnnestColumn::List { column: 0, depth: 2 },
        UnnestColumn::List { column: 1, depth: 1 },
        UnnestColumn::Field { column: 2, field: 0 },
    ];
    check(
        &mut Unnest::new(columns, true, schema("n bigint, f bigint, name text")),
        Delta::inserts(batch),
        expect![[r#"
            + 1 10 a
            + 2 20 a
            + 3 10 a
            + NULL 20 a
            + NULL 10 a
            + NULL 20 a
            + 4 30 NULL
        "#]],
    );
}

fn keyed(rows: i64) -> (SchemaRef, Delta) {
    let schema = schema("k bigint, v bigint");
    let k: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 7 != 0).then_some(i % 5))));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let delta = Delta::inserts(RecordBatch::try_new(Arc::clone(&schema), vec![k, v]).unwrap());
    (schema, delta)
}

#[test]
fn exchange_sends_equal_keys_to_one_shard_and_loses_nothing() {
    let (_, delta) = keyed(1000);
    let parts = repartition(vec![delta.slice(0, 300), delta.slice(300, 700)], &[0], 3).unwrap();
    let mut rows = 0;
    let mut keys_seen = std::collections::BTreeMap::new();
    for (shard, chunks) in parts.iter().enumerate() {
        for line in show(chunks).lines() {
            rows += 1;
            let key = line.split(' ').nth(1).unwrap().to_string();
            assert_eq!(*keys_seen.entry(key).or_insert(shard), shard, "{line}");
        }
    }
    assert_eq!((rows, keys_seen.len()), (1000, 6));
    let gathered = repartition(vec![delta], &[], 3).unwrap();
    assert_eq!(gathered.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 0]);
}

/// Where keys go must not depend on the version, the machine or the process.
#[test]
fn hashes_are_pinned() {
    let hash = |column: ArrayRef| {
        let rows = column.len();
        hash_rows(&[column], rows).unwrap().iter().map(|h| format!("{h:016x}")).collect::<Vec<_>>().join(" ")
    };
    let integers = hash(Arc::new(Int64Array::from(vec![Some(0), Some(-1), None])));
    let texts = hash(Arc::new(StringArray::from(vec![Some(""), Some("tidemark!"), None])));
    let lists = hash(lists(vec![Some(vec![Some(1)]), None]));
    expect![[r#"
        7def9af5fbde3004 e3b04748ad1800c6 bb529ca6ac0f6266
        7def9af5fbde3004 004490a35c2bf2e2 bb529ca6ac0f6266
        38e56774a0b25252 7593e9d62218161b
    "#]]
    .assert_eq(&format!("{integers}\n{texts}\n{lists}\n"));
    let floats: ArrayRef = Arc::new(datafusion::arrow::array::Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
    let floats = hash_rows(&[floats], 4).unwrap();
    assert!(floats[0] == floats[1] && floats[2] == floats[3] && floats[0] != floats[2]);
    let views = datafusion::arrow::compute::cast(&StringArray::from(vec!["tidemark!"]), &DataType::Utf8View).unwrap();
    assert_eq!(texts.split(' ').nth(1).unwrap(), hash(views));
}

#[test]
fn rows_without_columns_are_rows() {
    let empty = Arc::new(Schema::empty());
    let input_schema = schema("a bigint");
    let mut project = Project::new(vec![], empty);
    let output = step(&mut project, false, vec![vec![delta(&input_schema, "+ 1\n+ 2")]]);
    assert_eq!(output[0].num_rows(), 2);
}
