//! Random records against a map: rows and changes are what they must be, epoch by epoch.

use std::collections::BTreeMap;

use datafusion::arrow::array::{AsArray, Int64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tidemark_storage::{Collection, Layout, StateId, Store, StoreOptions};

use super::*;
use crate::table::TableDef;

/// Key -> the columns a and b.
type Model = BTreeMap<i64, (Option<i64>, Option<String>)>;

fn schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![field("k", DataType::Int64), field("a", DataType::Int64), field("b", DataType::Utf8)]))
}

fn table(store: &Store) -> Table {
    let collection = Collection::new(StateId::new(20000, 0), schema(), Layout::Keyed { key: vec![0] }).unwrap();
    let def = TableDef {
        oid: 20000,
        name: "s".into(),
        collection: Arc::new(collection),
        key: vec![0],
        key_name: Some("s_pkey".into()),
        indexes: Vec::new(),
        ttl: None,
    };
    Table::open(def, &store.snapshot(), 1 << 20).unwrap()
}

fn rows_of(batch: &RecordBatch) -> Vec<(i64, Option<i64>, Option<String>)> {
    let (keys, a) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
    let b = batch.column(2).as_string::<i32>();
    let row = |row: usize| {
        let b = b.is_valid(row).then(|| b.value(row).to_string());
        (keys.value(row), a.is_valid(row).then(|| a.value(row)), b)
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Records of an epoch as they come, which are applied to the model one by one.
fn records(rng: &mut StdRng, model: &mut Model) -> Vec<(RecordBatch, Option<RowChanges>)> {
    let mut parts = Vec::new();
    for _ in 0..rng.random_range(0..3) {
        let mut rows: Vec<(i64, Option<i64>, Option<String>)> = Vec::new();
        let mut changes = RowChanges::default();
        for _ in 0..rng.random_range(0..12) {
            let k = rng.random_range(0..12);
            let at = rows.len() as u32;
            match rng.random_range(0..20) {
                0 => {
                    changes.ops.push(RowOp::Truncate);
                    rows.push((0, None, None));
                    model.clear();
                }
                1..6 => {
                    changes.ops.push(RowOp::Delete);
                    rows.push((k, None, None));
                    model.remove(&k);
                }
                // A row gets another key, and keeps what was not repeated.
                6..8 if model.contains_key(&k) && !model.contains_key(&(k + 100)) => {
                    let (_, b) = model.remove(&k).unwrap();
                    changes.ops.extend([RowOp::Delete, RowOp::Put]);
                    rows.push((k, None, None));
                    rows.push((k + 100, Some(7), None));
                    changes.kept.push((at + 1, 2));
                    model.insert(k + 100, (Some(7), b));
                }
                8..12 if model.contains_key(&k) => {
                    let a = rng.random_bool(0.8).then(|| rng.random_range(0..3));
                    let b = model[&k].1.clone();
                    changes.ops.push(RowOp::Put);
                    rows.push((k, a, None));
                    changes.kept.push((at, 2));
                    model.insert(k, (a, b));
                }
                _ => {
                    let row = (
                        Some(rng.random_range(0..3)),
                        rng.random_bool(0.7).then(|| "x".repeat(rng.random_range(0..3))),
                    );
                    changes.ops.push(RowOp::Put);
                    rows.push((k, row.0, row.1.clone()));
                    model.insert(k, row);
                }
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.2.clone()).collect::<StringArray>()),
        ];
        let is_plain = changes.ops.iter().all(|op| *op == RowOp::Put) && changes.kept.is_empty();
        let batch = RecordBatch::try_new(schema(), columns).unwrap();
        parts.push((batch, (!is_plain).then_some(changes)));
    }
    parts
}

fn contents(store: &Store, table: &Table) -> Model {
    let mut scan = table.def.collection.scan(&store.snapshot(), None, &KeyRange::full(), 5).unwrap();
    let mut all = Model::new();
    while let Some(rows) = scan.next_delta().unwrap() {
        all.extend(rows_of(&rows.batch).into_iter().map(|(k, a, b)| (k, (a, b))));
    }
    all
}

#[test]
fn rows_are_those_that_the_records_leave() {
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        let (mut table, mut rng) = (table(&store), StdRng::seed_from_u64(seed));
        let (mut model, mut followed) = (Model::new(), Model::new());
        for epoch in 1..30 {
            let parts = records(&mut rng, &mut model);
            let snapshot = store.snapshot();
            table.follow(&snapshot, parts).unwrap();
            let mut commit = store.begin();
            let changes = table.apply(&snapshot, &mut commit).unwrap();
            store.commit(commit, epoch, false).unwrap();
            // Changes are of rows that were there, and of none that stays as it is.
            for delta in &changes {
                for (row, (k, a, b)) in rows_of(&delta.batch).into_iter().enumerate() {
                    match delta.weight(row) {
                        1 => assert_eq!(followed.insert(k, (a, b)), None, "seed {seed}, epoch {epoch}, key {k}"),
                        -1 => assert_eq!(followed.remove(&k), Some((a, b)), "seed {seed}, epoch {epoch}, key {k}"),
                        other => panic!("weight {other}"),
                    }
                }
            }
            assert_eq!(followed, model, "seed {seed}, epoch {epoch}");
            assert_eq!(contents(&store, &table), model, "seed {seed}, epoch {epoch}");
        }
    }
}

#[test]
fn what_cannot_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
    let mut table = table(&store);
    let row = |k: Option<i64>| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![k])),
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(StringArray::from(vec![None::<&str>])),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    };
    let keeping = RowChanges { ops: vec![RowOp::Put], kept: vec![(0, 2)], versions: Vec::new() };
    let error = table.follow(&store.snapshot(), vec![(row(Some(1)), Some(keeping))]).unwrap_err();
    assert_eq!(error.state(), SqlState::DataCorrupted);
    let error = table.follow(&store.snapshot(), vec![(row(None), None)]).unwrap_err();
    assert_eq!(error.state(), SqlState::NotNullViolation);
    let too_few = Some(RowChanges::default());
    let error = table.follow(&store.snapshot(), vec![(row(Some(1)), too_few)]).unwrap_err();
    assert!(error.message().contains("more or fewer changes"), "{error}");
}

/// Changes that know where they stand, in any order, some of them twice: what is left is what they say in their own order.
#[test]
fn older_changes_count_for_nothing() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        let (mut table, mut rng) = (table(&store), StdRng::seed_from_u64(seed));
        let mut model = Model::new();
        let mut all = Vec::new();
        for version in 0..120u8 {
            let (k, a) = (rng.random_range(0..9), rng.random_range(0..3));
            let op = match rng.random_range(0..30) {
                0 => RowOp::Truncate,
                1..10 => RowOp::Delete,
                _ => RowOp::Put,
            };
            match op {
                RowOp::Truncate => model.clear(),
                RowOp::Delete => drop(model.remove(&k)),
                RowOp::Put => drop(model.insert(k, (Some(a), None))),
            }
            let copies = rng.random_range(1..3);
            all.extend(std::iter::repeat_n((op, k, a, version), copies));
        }
        all.shuffle(&mut rng);
        let mut epoch = 0;
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let some = rest.split_off(..rng.random_range(1..20).min(rest.len())).unwrap();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(some.iter().map(|(_, k, _, _)| Some(*k)).collect::<Int64Array>()),
                Arc::new(some.iter().map(|(_, _, a, _)| Some(*a)).collect::<Int64Array>()),
                Arc::new(some.iter().map(|_| None::<String>).collect::<StringArray>()),
            ];
            let ops = some.iter().map(|(op, ..)| *op).collect();
            let versions = some.iter().map(|(.., version)| Box::from([*version])).collect();
            let changes = RowChanges { ops, kept: Vec::new(), versions };
            let snapshot = store.snapshot();
            let batch = RecordBatch::try_new(schema(), columns).unwrap();
            let written = table.follow(&snapshot, vec![(batch, Some(changes))]).unwrap();
            let mut commit = store.begin();
            written.put(&mut commit).unwrap();
            table.apply(&snapshot, &mut commit).unwrap();
            epoch += 1;
            store.commit(commit, epoch, false).unwrap();
            assert_eq!(order::stale(20000, &store.snapshot()).unwrap(), written.stale().unwrap());
        }
        assert_eq!(contents(&store, &table), model, "seed {seed}");
        assert!(order::stale(20000, &store.snapshot()).unwrap() > 0);
    }
}
