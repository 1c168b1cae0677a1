//! Collections against models: a `BTreeMap` gets the same deltas, and every scan must show what it holds.

use std::collections::BTreeMap;
use std::path::Path;

use datafusion::arrow::array::{Array, AsArray, Float64Array, Int32Array, Int64Array, StringArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use expect_test::expect;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Delta;
use tidemark_common::types::SqlType;

use super::*;
use crate::commit::EpochCommit;
use crate::store::{Store, StoreOptions};

const ID: StateId = StateId::new(16384, 0);

/// (k1, k2, text): the key is (k2, k1), out of the schema's order.
type Row = (i32, Option<String>, Option<String>);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k1", DataType::Int32, false),
        SqlType::Uuid.to_field("k2", true),
        Field::new("v", DataType::Utf8, true),
    ]))
}

fn keyed() -> Layout {
    Layout::Keyed { key: vec![1, 0] }
}

fn collection(layout: Layout) -> Arc<Collection> {
    Arc::new(Collection::new(ID, schema(), layout).unwrap().with_name("public.t"))
}

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|r| r.1.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.2.clone()).collect::<StringArray>()),
        ],
    )
    .unwrap()
}

fn delta(rows: &[(Row, i64)]) -> Delta {
    let only: Vec<Row> = rows.iter().map(|r| r.0.clone()).collect();
    let weights = rows.iter().any(|r| r.1 != 1).then(|| rows.iter().map(|r| r.1).collect::<Vec<_>>().into());
    Delta::new(batch(&only), weights)
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let text = |column: usize, i: usize| {
        let column = batch.column(column).as_string::<i32>();
        column.is_valid(i).then(|| column.value(i).to_string())
    };
    (0..batch.num_rows())
        .map(|i| (batch.column(0).as_primitive::<Int32Type>().value(i), text(1, i), text(2, i)))
        .collect()
}

fn scanned(collection: &Arc<Collection>, snapshot: &Arc<Snapshot>, range: &KeyRange, batch_size: usize) -> Vec<Row> {
    let scan = collection.scan(snapshot, None, range, batch_size).unwrap();
    let mut rows = Vec::new();
    for batch in scan {
        let batch = batch.unwrap();
        assert_eq!(&batch.schema(), collection.schema());
        assert!(batch.num_rows() <= batch_size && batch.num_rows() > 0);
        rows.extend(rows_of(&batch));
    }
    rows
}

fn open(dir: &Path) -> Arc<Store> {
    let options = StoreOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 16, sync: false };
    Store::open(dir, &options).unwrap()
}

fn finish(store: &Store, commit: EpochCommit) -> Arc<Snapshot> {
    store.commit(commit, store.epoch() + 1, false).unwrap()
}

fn random_row(rng: &mut StdRng) -> Row {
    let k2 = [None, Some(""), Some("a"), Some("ab"), Some("b")][rng.random_range(0..5)];
    let v = [None, Some("x"), Some("y"), Some("a value too long for the small blocks of the row format")]
        [rng.random_range(0..4)];
    (rng.random_range(-3..4), k2.map(String::from), v.map(String::from))
}

fn key_of_row(row: &Row) -> (Option<String>, i32) {
    (row.1.clone(), row.0)
}

/// Changes of keyed rows, with detours that cancel out. The net leaves at most one row a key.
fn keyed_changes(rng: &mut StdRng, model: &mut BTreeMap<(Option<String>, i32), Row>) -> Vec<(Row, i64)> {
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        let row = random_row(rng);
        let before = model.get(&key_of_row(&row)).cloned();
        if let Some(old) = before {
            changes.push((old, -1));
            model.remove(&key_of_row(&row));
        }
        if rng.random_bool(0.7) {
            changes.push((row.clone(), 1));
            model.insert(key_of_row(&row), row);
        }
    }
    if rng.random_bool(0.3) {
        changes.reverse(); // only the net counts
    }
    changes
}

fn multiset_changes(rng: &mut StdRng, model: &mut BTreeMap<Row, i64>) -> Vec<(Row, i64)> {
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(0..12) {
        let row = random_row(rng);
        let there = model.entry(row.clone()).or_default();
        let weight = rng.random_range(-*there..=3);
        if weight != 0 {
            *there += weight;
            changes.push((row, weight));
        }
    }
    model.retain(|_, weight| *weight != 0);
    if rng.random_bool(0.3) {
        changes.reverse();
    }
    changes
}

/// What a scan must show, given all changes so far.
enum Model {
    Keyed(BTreeMap<(Option<String>, i32), Row>),
    Sequence(Vec<Row>),
    Multiset(BTreeMap<Row, i64>),
}

impl Model {
    fn changes(&mut self, rng: &mut StdRng) -> Vec<(Row, i64)> {
        match self {
            Model::Keyed(model) => keyed_changes(rng, model),
            Model::Multiset(model) => multiset_changes(rng, model),
            Model::Sequence(model) => {
                let changes: Vec<(Row, i64)> =
                    (0..rng.random_range(0..9)).map(|_| (random_row(rng), rng.random_range(1..3))).collect();
                for (row, weight) in &changes {
                    model.extend(std::iter::repeat_n(row.clone(), *weight as usize));
                }
                changes
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        match self {
            Model::Keyed(model) => model.values().cloned().collect(),
            Model::Sequence(model) => model.clone(),
            Model::Multiset(model) => {
                model.iter().flat_map(|(row, weight)| std::iter::repeat_n(row.clone(), *weight as usize)).collect()
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Model::Keyed(model) => model.clear(),
            Model::Sequence(model) => model.clear(),
            Model::Multiset(model) => model.clear(),
        }
    }
}

fn run(seed: u64, layout: Layout, mut model: Model, budget: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut writer = CollectionWriter::new(collection(layout.clone()), budget);
    let mut indexes: Vec<Arc<Index>> = Vec::new();
    let mut folded = Folded::default();
    for epoch in 0..60i64 {
        if epoch % 10 == 0 {
            let index = new_index(indexes.len(), &layout);
            store.build_index(writer.collection(), &index).unwrap();
            indexes.push(index.clone());
            writer.add_index(index);
        }
        let before = store.snapshot();
        let mut commit = store.begin();
        for _ in 0..rng.random_range(0..4) {
            writer.apply(&before, &delta(&model.changes(&mut rng)), &mut commit).unwrap();
            if rng.random_bool(0.03) {
                writer.truncate(&before, &mut commit).unwrap();
                model.clear();
            }
        }
        assert_eq!(writer.row_count(&before).unwrap(), model.rows().len() as u64);
        if let Model::Keyed(model) = &model {
            check_current(&mut rng, &mut writer, &before, model);
        }
        let snapshot = finish(&store, commit);
        folded.note(writer.collection(), &snapshot);
        let snapshot = fold(&mut rng, &store, &mut writer, snapshot, epoch);
        let collection = writer.collection();
        check_whole(&mut rng, collection, &snapshot, model.rows());
        let size = rng.random_range(1..9);
        assert_eq!(scanned(collection, &snapshot, &KeyRange::full(), size), model.rows(), "epoch {epoch}");
        assert_eq!(collection.row_count(&snapshot).unwrap(), model.rows().len() as u64);
        indexes.iter().for_each(|index| check_index(&mut rng, collection, index, &snapshot));
        if epoch % 25 == 24 {
            drop((store, before, snapshot));
            store = open(dir.path());
            writer = CollectionWriter::new(Arc::clone(writer.collection()), budget).with_indexes(indexes.clone());
        }
    }
    assert!(folded.sheets > 30, "{folded:?}");
    assert!(folded.changed > 30 || layout == Layout::Sequence, "{folded:?}");
}

/// Sheets that were there, and entries of the overlay over them, by epoch.
#[derive(Debug, Default)]
struct Folded {
    sheets: usize,
    changed: usize,
}

impl Folded {
    fn note(&mut self, collection: &Collection, snapshot: &Snapshot) {
        for sheet in collection.sheets(snapshot, &[], None).unwrap() {
            self.sheets += 1;
            collection
                .visit_overlay(snapshot, &sheet, |_, _| {
                    self.changed += 1;
                    Ok(())
                })
                .unwrap();
        }
    }
}

fn fold(
    rng: &mut StdRng,
    store: &Store,
    writer: &mut CollectionWriter,
    mut snapshot: Arc<Snapshot>,
    epoch: i64,
) -> Arc<Snapshot> {
    for _ in 0..rng.random_range(0..6) {
        // Now and then there are too few rows.
        let worth = if rng.random_bool(0.03) { 1000 } else { 1 };
        let rules = FoldRules { worth, rows: 4 };
        if let Some(ahead) = writer.fold(&snapshot, rules, epoch * 1_500_000).unwrap() {
            snapshot = store.prepare(&ahead).unwrap();
        }
    }
    snapshot
}

/// Sheets, overlays and entries hold together what the entries alone do.
fn check_whole(rng: &mut StdRng, collection: &Arc<Collection>, snapshot: &Arc<Snapshot>, mut rows: Vec<Row>) {
    let read = |range: &KeyRange| -> Vec<Row> {
        let whole = collection.scan_whole(snapshot, vec![0, 1, 2], range, 3).unwrap();
        whole.flat_map(|batch| rows_of(&batch.unwrap())).collect()
    };
    let mut whole = read(&KeyRange::full());
    whole.sort();
    rows.sort();
    assert_eq!(whole, rows);
    let counted = collection.scan_whole(snapshot, vec![], &KeyRange::full(), 8192).unwrap();
    assert_eq!(counted.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), rows.len());
    if collection.layout() != &Layout::Sequence {
        let row = random_row(rng);
        let first = |row: &Row| match collection.key_columns()[0] {
            0 => ScalarValue::Int32(Some(row.0)),
            _ => ScalarValue::Utf8(row.1.clone()),
        };
        let range = collection.prefix_range(&[first(&row)]).unwrap();
        let (mut part, mut expected) = (read(&range), scanned(collection, snapshot, &range, 100));
        part.sort();
        expected.sort();
        assert_eq!(part, expected);
    }
}

/// Over other columns each time; a unique one where the rows allow it.
fn new_index(n: usize, layout: &Layout) -> Arc<Index> {
    let columns = [vec![2], vec![0], vec![2, 0], vec![1, 2], vec![0, 0], vec![0, 1]][n].clone();
    let unique = columns == [0, 1] && matches!(layout, Layout::Keyed { .. });
    Arc::new(Index::new(StateId::new(20_000 + n as u32, 0), "i", &schema(), columns, unique).unwrap())
}

/// What the index leads to is what a scan finds.
fn check_index(rng: &mut StdRng, collection: &Arc<Collection>, index: &Arc<Index>, snapshot: &Arc<Snapshot>) {
    let value = |row: &Row, column: usize| match column {
        0 => ScalarValue::Int32(Some(row.0)),
        1 => ScalarValue::Utf8(row.1.clone()),
        _ => ScalarValue::Utf8(row.2.clone()),
    };
    for _ in 0..5 {
        let wanted = random_row(rng);
        let given = rng.random_range(0..=index.columns().len());
        let columns = &index.columns()[..given];
        let prefix: Vec<ScalarValue> = columns.iter().map(|c| value(&wanted, *c)).collect();
        let next = index.columns().get(given).map(|c| (*c, value(&wanted, *c))).filter(|(_, bound)| !bound.is_null());
        let range = match &next {
            Some((_, bound)) => index.bounded_range(&prefix, Bound::Excluded(bound), Bound::Unbounded).unwrap(),
            None => index.prefix_range(&prefix).unwrap(),
        };
        let beyond = |row: &Row| next.as_ref().is_none_or(|(column, bound)| value(row, *column) > *bound);
        let has_entry = |row: &Row| !index.is_unique() || index.columns().iter().all(|c| !value(row, *c).is_null());
        let mut expected = scanned(collection, snapshot, &KeyRange::full(), 100);
        expected.retain(|row| columns.iter().all(|c| value(row, *c) == value(&wanted, *c)));
        expected.retain(|row| beyond(row) && has_entry(row));
        expected.sort();
        let scan = index.read(collection, snapshot, vec![0, 1, 2], vec![range], rng.random_range(1..9)).unwrap();
        let mut found: Vec<Row> = scan.flat_map(|batch| rows_of(&batch.unwrap())).collect();
        found.sort();
        assert_eq!(found, expected, "{index:?} {prefix:?} {next:?}");
    }
}

#[test]
fn a_unique_index_is_not_built_over_two_rows_of_one_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut writer = CollectionWriter::new(collection(keyed()), 1 << 20);
    let mut commit = store.begin();
    let row = |k1: i32, v: Option<&str>| ((k1, None, v.map(String::from)), 1);
    let rows: Vec<_> = (0..40_000).map(|i| row(i, (i % 39_999 == 0).then_some("twice"))).collect();
    writer.apply(&store.snapshot(), &delta(&rows), &mut commit).unwrap();
    finish(&store, commit);
    let over = |column| Index::new(StateId::new(20_000, 0), "i", &schema(), vec![column], true).unwrap();
    let error = store.build_index(writer.collection(), &over(2)).unwrap_err();
    assert_eq!((error.code(), error.detail()), ("23505", Some("Key (v)=(twice) is duplicated.")));
    store.forget_index(&over(2)).unwrap();
    assert!(store.strays(|oid| oid == ID.oid()).unwrap().is_empty());
    store.build_index(writer.collection(), &over(0)).unwrap();
    // A crash now leaves it, and the next start finds it.
    assert_eq!(store.strays(|oid| oid == ID.oid()).unwrap(), [20_000]);
    store.forget_index(&over(0)).unwrap();
    assert!(store.strays(|oid| oid == ID.oid()).unwrap().is_empty());
}

/// Before the commit, `current` already shows what was applied.
fn check_current(
    rng: &mut StdRng,
    writer: &mut CollectionWriter,
    snapshot: &Arc<Snapshot>,
    model: &BTreeMap<(Option<String>, i32), Row>,
) {
    let wanted: Vec<Row> = (0..5).map(|_| random_row(rng)).collect();
    let keys = writer.collection().key_of(&batch(&wanted)).unwrap();
    let keys: Vec<&[u8]> = keys.iter().collect();
    let found = writer.current(snapshot, &keys).unwrap();
    let rows = rows_of(&found.batch);
    for (row, at) in wanted.iter().zip(&found.found) {
        assert_eq!(at.map(|at| &rows[at]), model.get(&key_of_row(row)));
    }
}

#[test]
fn layouts_hold_what_their_deltas_say() {
    for seed in 0..4 {
        for budget in [0, 1500, 1 << 20] {
            run(seed, keyed(), Model::Keyed(BTreeMap::new()), budget);
            run(seed, Layout::Sequence, Model::Sequence(Vec::new()), budget);
            run(seed, Layout::Multiset, Model::Multiset(BTreeMap::new()), budget);
        }
    }
}

fn row(k1: i32, k2: &str, v: &str) -> Row {
    (k1, Some(k2.to_string()), Some(v.to_string()))
}

/// One epoch with these changes.
fn written(layout: Layout, changes: &[(Row, i64)]) -> (tempfile::TempDir, Arc<Store>, Arc<Collection>, Arc<Snapshot>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let collection = collection(layout);
    let mut commit = store.begin();
    let mut writer = CollectionWriter::new(Arc::clone(&collection), 1 << 20);
    writer.apply(&store.snapshot(), &delta(changes), &mut commit).unwrap();
    let snapshot = finish(&store, commit);
    (dir, store, collection, snapshot)
}

#[test]
fn bytes_are_pinned() {
    let mut text = String::new();
    for layout in [keyed(), Layout::Sequence, Layout::Multiset] {
        let (_dir, _store, _, snapshot) = written(layout.clone(), &[(row(1, "a", "x"), 1)]);
        text.push_str(&format!("{layout:?}\n"));
        for entry in snapshot.scan(&[0x30], &[0x40]) {
            let (key, value) = entry.unwrap();
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            text.push_str(&format!("  {} = {}\n", hex(&key), hex(&value)));
        }
    }
    expect![[r#"
        Keyed { key: [1, 0] }
          300000400000000000026100000000000000010180000001 = 0102780000000000000001
          320000400000000000 = 010100
        Sequence
          3000004000000000000000000000000000 = 0101800000010261000000000000000102780000000000000001
          320000400000000000 = 010101
        Multiset
          30000040000000000001800000010261000000000000000102780000000000000001 = 0102
          320000400000000000 = 010100
    "#]]
    .assert_eq(&text);
}

#[test]
fn contradictions_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let cases: [(Layout, &[(Row, i64)]); 5] = [
        (keyed(), &[(row(1, "a", "x"), 1), (row(1, "a", "y"), 1)]),
        (keyed(), &[(row(1, "a", "x"), 2)]),
        (keyed(), &[(row(9, "a", "x"), 1), (row(1, "a", "x"), -1)]),
        (Layout::Multiset, &[(row(9, "a", "x"), 1), (row(1, "a", "x"), -1)]),
        (Layout::Sequence, &[(row(1, "a", "x"), -1)]),
    ];
    for (layout, changes) in cases {
        let mut writer = CollectionWriter::new(collection(layout), 1 << 20);
        let mut commit = store.begin();
        let error = writer.apply(&store.snapshot(), &delta(changes), &mut commit).unwrap_err();
        assert_eq!(error.state(), SqlState::Internal);
        assert!(error.message().starts_with("public.t: "), "{error}");
        assert!(commit.is_empty());
        assert_eq!(writer.row_count(&store.snapshot()).unwrap(), 0);
    }
    // What is contradictory in parts, but not as a whole, is fine.
    let mut writer = CollectionWriter::new(collection(keyed()), 1 << 20);
    let fine = [(row(1, "a", "x"), -1), (row(1, "a", "x"), 2), (row(2, "a", "x"), 1), (row(2, "a", "x"), -1)];
    let mut commit = store.begin();
    writer.apply(&store.snapshot(), &delta(&fine), &mut commit).unwrap();
    assert_eq!(scanned(writer.collection(), &finish(&store, commit), &KeyRange::full(), 9), [row(1, "a", "x")]);
}

fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8(Some(value.to_string()))
}

fn int(value: i32) -> ScalarValue {
    ScalarValue::Int32(Some(value))
}

#[test]
fn ranges_by_prefix_and_bounds() {
    let mut changes: Vec<(Row, i64)> = Vec::new();
    for k2 in ["a", "ab", "b"] {
        changes.extend((-2..3).map(|k1| (row(k1, k2, "v"), 1)));
    }
    changes.push(((7, None, None), 1));
    let (_dir, _store, collection, snapshot) = written(keyed(), &changes);
    let keys = |range: KeyRange| -> String {
        let rows = scanned(&collection, &snapshot, &range, 4);
        rows.iter().map(|r| format!("{}{} ", r.1.as_deref().unwrap_or("-"), r.0)).collect()
    };
    use Bound::{Excluded, Included, Unbounded};
    let bounded = |prefix: &[ScalarValue], lower: Bound<ScalarValue>, upper: Bound<ScalarValue>| {
        keys(collection.bounded_range(prefix, lower.as_ref(), upper.as_ref()).unwrap())
    };
    assert_eq!(keys(collection.prefix_range(&[text("a")]).unwrap()), "a-2 a-1 a0 a1 a2 ");
    assert_eq!(keys(collection.prefix_range(&[text("ab"), int(1)]).unwrap()), "ab1 ");
    assert_eq!(keys(collection.prefix_range(&[ScalarValue::Utf8(None)]).unwrap()), "-7 ");
    assert_eq!(keys(collection.prefix_range(&[text("zz")]).unwrap()), "");
    assert_eq!(bounded(&[text("a")], Included(int(-1)), Excluded(int(2))), "a-1 a0 a1 ");
    assert_eq!(bounded(&[text("a")], Excluded(int(-1)), Included(int(2))), "a0 a1 a2 ");
    assert_eq!(bounded(&[text("b")], Excluded(int(0)), Unbounded), "b1 b2 ");
    // NULL is within no bounds.
    assert_eq!(bounded(&[], Unbounded, Excluded(text("ab"))), "a-2 a-1 a0 a1 a2 ");
    assert_eq!(bounded(&[], Excluded(text("ab")), Unbounded), "b-2 b-1 b0 b1 b2 ");
    assert_eq!(bounded(&[], Included(text("c")), Excluded(text("a"))), "");
    // Another type with the same value is as good, one without is an error.
    assert_eq!(keys(collection.prefix_range(&[text("ab"), ScalarValue::Int64(Some(1))]).unwrap()), "ab1 ");
    assert!(collection.prefix_range(&[text("ab"), ScalarValue::Float64(Some(1.5))]).is_err());
    assert!(collection.prefix_range(&[text("ab"), int(1), int(1)]).is_err());
}

#[test]
fn ranges_over_values_that_do_not_order_as_bytes_hold_more() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, true)]));
    let set = Collection::new(ID, Arc::clone(&schema), Layout::Multiset).unwrap();
    let zero = ScalarValue::Float64(Some(0.0));
    assert_eq!(set.prefix_range(std::slice::from_ref(&zero)).unwrap(), KeyRange::full());
    assert_eq!(set.bounded_range(&[], Bound::Included(&zero), Bound::Unbounded).unwrap(), KeyRange::full());
    let keyed = Collection::new(ID, Arc::clone(&schema), Layout::Keyed { key: vec![0] }).unwrap();
    let minus =
        keyed.key_of(&RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![-0.0]))]).unwrap()).unwrap();
    assert_eq!(keyed.prefix_range(&[zero]).unwrap().from, minus.row(0));
}

#[test]
fn projections_and_counts() {
    let changes = [(row(1, "a", "x"), 2), (row(2, "b", "y"), 1)];
    let (_dir, _store, collection, snapshot) = written(Layout::Multiset, &changes);
    let all = |columns: Vec<usize>| -> RecordBatch {
        let scan = collection.scan(&snapshot, Some(columns), &KeyRange::full(), 2).unwrap();
        let schema = Arc::clone(scan.schema());
        concat_batches(&schema, &scan.map(|b| b.unwrap()).collect::<Vec<_>>()).unwrap()
    };
    let swapped = all(vec![2, 0]);
    assert_eq!(swapped.schema().fields()[0].name(), "v");
    assert_eq!(swapped.column(1).as_primitive::<Int32Type>().values(), &[1, 1, 2]);
    let counted: usize =
        collection.scan(&snapshot, Some(vec![]), &KeyRange::full(), 2).unwrap().map(|b| b.unwrap().num_rows()).sum();
    assert_eq!(counted, 3);

    let (_dir, _store, collection, snapshot) = written(keyed(), &[(row(1, "a", "x"), 1), (row(2, "b", "y"), 1)]);
    for columns in [vec![0], vec![1], vec![2], vec![2, 1], vec![0, 2, 1], vec![]] {
        let scan = collection.scan(&snapshot, Some(columns.clone()), &KeyRange::full(), 9).unwrap();
        let batches: Vec<_> = scan.map(|b| b.unwrap()).collect();
        assert_eq!(batches, [batch(&[row(1, "a", "x"), row(2, "b", "y")]).project(&columns).unwrap()]);
    }
}

#[test]
fn a_scan_goes_on_in_a_later_snapshot() {
    let (_dir, store, collection, first) = written(Layout::Sequence, &[(row(1, "a", "x"), 5)]);
    let mut scan = collection.scan(&first, Some(vec![0]), &KeyRange::full(), 3).unwrap();
    assert_eq!(scan.next_delta().unwrap().unwrap().num_rows(), 3);
    let resume = scan.resume_key().unwrap().to_vec();

    let mut commit = store.begin();
    let mut writer = CollectionWriter::new(Arc::clone(&collection), 1 << 20);
    writer.apply(&first, &delta(&[(row(2, "a", "x"), 1)]), &mut commit).unwrap();
    let second = finish(&store, commit);
    let mut scan = collection.scan(&second, Some(vec![0]), &KeyRange::full().after(&resume), 10).unwrap();
    let rest = scan.next_delta().unwrap().unwrap();
    assert_eq!(rest.batch.column(0).as_primitive::<Int32Type>().values(), &[1, 1, 2]);
    assert!(scan.next_delta().unwrap().is_none());
}

#[test]
fn get_rows_finds_what_is_there() {
    let (_dir, _store, collection, snapshot) = written(keyed(), &[(row(1, "a", "x"), 1), (row(2, "b", "y"), 1)]);
    let wanted = batch(&[row(2, "b", "?"), row(3, "b", "?"), row(1, "a", "?"), row(2, "b", "?")]);
    let keys = collection.key_of(&wanted).unwrap();
    let found = collection.get_rows(&snapshot, &keys.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(found.found, [Some(0), None, Some(1), Some(2)]);
    assert_eq!(rows_of(&found.batch), [row(2, "b", "y"), row(1, "a", "x"), row(2, "b", "y")]);
}

fn numbers(rows: std::ops::Range<i64>) -> (SchemaRef, RecordBatch) {
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("n", DataType::Int64, false)]));
    let ids = Int64Array::from_iter_values(rows.clone());
    let ns = Int64Array::from_iter_values(rows.map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(ns)]).unwrap();
    (schema, batch)
}

#[test]
fn split_ranges_hold_every_row_once_and_are_even() {
    const ROWS: i64 = 100_000;
    let (schema, batch) = numbers(0..ROWS);
    for (layout, flush) in [
        (Layout::Sequence, true),
        (Layout::Sequence, false),
        (Layout::Keyed { key: vec![0] }, true),
        (Layout::Keyed { key: vec![1] }, false),
        (Layout::Multiset, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions { sync: false, ..StoreOptions::default() }).unwrap();
        let collection = Arc::new(Collection::new(ID, Arc::clone(&schema), layout.clone()).unwrap());
        let empty = collection.split_ranges(&store.snapshot(), 4).unwrap();
        assert_eq!(empty, [KeyRange::full()]);
        let mut commit = store.begin();
        let mut writer = CollectionWriter::new(Arc::clone(&collection), 1 << 20);
        writer.apply(&store.snapshot(), &Delta::inserts(batch.clone()), &mut commit).unwrap();
        let snapshot = finish(&store, commit);
        if flush {
            store.flush().unwrap();
        }
        let ranges = collection.split_ranges(&snapshot, 4).unwrap();
        assert_eq!(ranges.len(), 4, "{layout:?}");
        let mut seen = vec![false; ROWS as usize];
        for range in &ranges {
            let mut rows = 0;
            for batch in collection.scan(&snapshot, Some(vec![0]), range, 8192).unwrap() {
                for &id in batch.unwrap().column(0).as_primitive::<Int64Type>().values() {
                    assert!(!std::mem::replace(&mut seen[id as usize], true), "row {id} twice");
                    rows += 1;
                }
            }
            assert!((5_000..60_000).contains(&rows), "{layout:?}: a range of {rows}");
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}

/// Rows by number: (a, v).
type Numbered = BTreeMap<i64, (Option<i32>, Option<String>)>;

fn numbered() -> Arc<Collection> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("v", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ]));
    let layout = Layout::Keyed { key: vec![2] };
    Arc::new(Collection::new(ID, schema, layout).unwrap().with_blocks().unwrap())
}

fn numbered_batch<'a>(
    collection: &Collection,
    rows: impl Iterator<Item = (&'a i64, &'a (Option<i32>, Option<String>))>,
) -> RecordBatch {
    let rows: Vec<_> = rows.collect();
    RecordBatch::try_new(
        Arc::clone(collection.schema()),
        vec![
            Arc::new(rows.iter().map(|(_, (a, _))| *a).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(_, (_, v))| v.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|(n, _)| Some(**n)).collect::<Int64Array>()),
        ],
    )
    .unwrap()
}

fn numbered_rows(batches: impl Iterator<Item = RecordBatch>) -> Numbered {
    let mut rows = Numbered::new();
    for batch in batches {
        let (a, v) = (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_string::<i32>());
        for (i, n) in batch.column(2).as_primitive::<Int64Type>().values().iter().enumerate() {
            let row = (a.is_valid(i).then(|| a.value(i)), v.is_valid(i).then(|| v.value(i).to_string()));
            assert_eq!(rows.insert(*n, row), None, "row {n} twice");
            assert_eq!(rows.last_key_value().unwrap().0, n, "out of order");
        }
    }
    rows
}

/// Old rows, often at the edge of what came together, are changed, taken out or, where they were, put in again.
fn numbered_changes(rng: &mut StdRng, model: &mut Numbered, edges: &[i64]) -> (Numbered, Numbered) {
    let (mut gone, mut come) = (Numbered::new(), Numbered::new());
    let last = edges.last().copied().unwrap_or(0);
    for _ in 0..rng.random_range(1..40) {
        let n = match rng.random_bool(0.3) && !edges.is_empty() {
            true => edges[rng.random_range(0..edges.len())] - rng.random_range(0..2),
            false => rng.random_range(0..=last),
        };
        if gone.contains_key(&n) || come.contains_key(&n) {
            continue;
        }
        if let Some(before) = model.remove(&n) {
            gone.insert(n, before);
            if rng.random_bool(0.5) {
                come.insert(n, (Some(rng.random_range(0..9)), None));
            }
        }
    }
    model.extend(come.clone());
    (gone, come)
}

#[test]
fn blocks_hold_what_their_deltas_say() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let collection = numbered();
        let mut writer = CollectionWriter::new(Arc::clone(&collection), [1 << 20, 1 << 10][seed as usize % 2]);
        let (mut model, mut next, mut edges, mut blocks) = (Numbered::new(), 1, vec![], 0);
        for step in 0..25 {
            let (snapshot, mut commit) = (store.snapshot(), store.begin());
            match rng.random_range(0..10) {
                0..4 => {
                    let count = [3, 1023, 1024, 9000, 20_000][rng.random_range(0..5)];
                    let rows: Numbered = (next..next + count)
                        .map(|n| (n, ((n % 7 > 0).then_some(n as i32), (n % 3 > 0).then(|| format!("row {n}")))))
                        .collect();
                    let delta = Delta::inserts(numbered_batch(&collection, rows.iter()));
                    writer.apply(&snapshot, &delta, &mut commit).unwrap();
                    edges.extend([next, next + count]);
                    next += count;
                    model.extend(rows);
                }
                4..9 => {
                    let (gone, come) = numbered_changes(&mut rng, &mut model, &edges);
                    let rows = numbered_batch(&collection, gone.iter().chain(&come));
                    let weights: Vec<i64> = gone.iter().map(|_| -1).chain(come.iter().map(|_| 1)).collect();
                    writer.apply(&snapshot, &Delta::new(rows, Some(weights.into())), &mut commit).unwrap();
                }
                _ if rng.random_bool(0.2) => {
                    writer.truncate(&snapshot, &mut commit).unwrap();
                    model.clear();
                }
                _ => writer = CollectionWriter::new(Arc::clone(&collection), 1 << 16),
            }
            let snapshot = finish(&store, commit);
            blocks = blocks.max(collection.blocks(&snapshot).unwrap().len());
            let case = format!("seed {seed}, step {step}");
            check_numbered(&mut rng, &collection, &snapshot, &model, next, &case);
            assert_eq!(writer.row_count(&snapshot).unwrap(), model.len() as u64, "{case}");
            assert_eq!(collection.row_count(&snapshot).unwrap(), model.len() as u64, "{case}");
        }
        assert!(blocks > 3);
        check_entered(&mut rng, &store, &collection, &mut model, next);
    }
}

/// With an index the rows of blocks are entries.
fn check_entered(rng: &mut StdRng, store: &Store, collection: &Arc<Collection>, model: &mut Numbered, next: i64) {
    let index = Index::new(StateId::new(16384, 1), "by_a", collection.schema(), vec![0], false).unwrap();
    let index = Arc::new(index);
    let entered = store.build_index(collection, &index).unwrap();
    check_numbered(rng, collection, &entered, model, next, "both");
    let mut commit = store.begin();
    commit.delete_blocks(ID);
    let mut snapshot = finish(store, commit);
    let mut writer = CollectionWriter::new(Arc::clone(collection), 1 << 20).with_indexes([Arc::clone(&index)]);
    for step in 0..3 {
        check_numbered(rng, collection, &snapshot, model, next, &format!("entered, {step}"));
        assert!(collection.blocks(&snapshot).unwrap().is_empty());
        let all = index.read(collection, &snapshot, vec![0, 1, 2], vec![KeyRange::full()], 1000).unwrap();
        assert_eq!(all.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), model.len());
        let (gone, come) = numbered_changes(rng, model, &[1, next]);
        let rows = numbered_batch(collection, gone.iter().chain(&come));
        let weights: Vec<i64> = gone.iter().map(|_| -1).chain(come.iter().map(|_| 1)).collect();
        let mut commit = store.begin();
        writer.apply(&snapshot, &Delta::new(rows, Some(weights.into())), &mut commit).unwrap();
        snapshot = finish(store, commit);
    }
}

fn check_numbered(
    rng: &mut StdRng,
    collection: &Arc<Collection>,
    snapshot: &Arc<Snapshot>,
    model: &Numbered,
    next: i64,
    case: &str,
) {
    let batch_size = [7, 100, 8192, 100_000][rng.random_range(0..4)];
    let read = |range: &KeyRange| {
        let scan = collection.scan(snapshot, None, range, batch_size).unwrap().map(|batch| batch.unwrap());
        numbered_rows(scan.inspect(|batch| assert!((1..=batch_size).contains(&batch.num_rows()))))
    };
    assert_eq!(read(&KeyRange::full()), *model, "{case}");
    let counted = collection.scan(snapshot, Some(vec![]), &KeyRange::full(), batch_size).unwrap();
    assert_eq!(counted.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), model.len(), "{case}");
    let parts = collection.split_ranges(snapshot, 3).unwrap();
    assert_eq!(parts.iter().flat_map(&read).collect::<Numbered>(), *model, "{case}");
    assert_eq!(parts.iter().map(|range| read(range).len()).sum::<usize>(), model.len(), "{case}");

    let (a, b) = (rng.random_range(0..=next), rng.random_range(0..=next));
    let bound = |n: i64| ScalarValue::Int64(Some(n));
    let (a, b) = (a.min(b), a.max(b));
    let range = collection.bounded_range(&[], Bound::Included(&bound(a)), Bound::Excluded(&bound(b))).unwrap();
    assert!(read(&range).iter().eq(model.range(a..b)), "{case}: {a} to {b}");
    let mut scan = collection.scan(snapshot, None, &KeyRange::full(), batch_size).unwrap();
    let mut firsts = vec![];
    for _ in 0..rng.random_range(1..4) {
        let Some(rows) = scan.next_delta().unwrap() else { break };
        let keys = collection.key_of(&rows.batch).unwrap();
        assert!(keys.iter().eq(scan.row_keys().iter().map(Vec::as_slice)), "{case}");
        firsts.push(rows.batch);
    }
    if !firsts.is_empty() {
        let rest = read(&KeyRange::full().after(scan.resume_key().unwrap()));
        assert!(numbered_rows(firsts.into_iter()).iter().chain(&rest).eq(model), "{case}");
    }

    let wanted: Vec<i64> = (0..30).map(|_| rng.random_range(0..=next + 1)).collect();
    let keys = collection.encode_keys(&[Arc::new(Int64Array::from(wanted.clone())) as ArrayRef], wanted.len()).unwrap();
    let keys: Vec<&[u8]> = keys.iter().collect();
    let there: Vec<_> = wanted.iter().filter_map(|n| model.get_key_value(n)).collect();
    let mut writer = CollectionWriter::new(Arc::clone(collection), 1 << 20);
    for found in [collection.get_rows(snapshot, &keys).unwrap(), writer.current(snapshot, &keys).unwrap()] {
        assert_eq!(found.batch, numbered_batch(collection, there.iter().copied()), "{case}");
        assert!(found.found.iter().map(Option::is_some).eq(wanted.iter().map(|n| model.contains_key(n))), "{case}");
    }
}

#[test]
fn a_block_without_a_column_has_null_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let collection = numbered();
    let rows: Numbered = (1..=2000).map(|n| (n, (Some(n as i32), Some(format!("{n}"))))).collect();
    let mut commit = store.begin();
    let delta = Delta::inserts(numbered_batch(&collection, rows.iter()));
    CollectionWriter::new(Arc::clone(&collection), 1 << 20).apply(&store.snapshot(), &delta, &mut commit).unwrap();
    commit.delete(&collection.part(Part::Block { last: 2000, column: 2 }));
    let snapshot = finish(&store, commit);
    let mut scan = collection.scan(&snapshot, None, &KeyRange::full(), 8192).unwrap();
    let batch = scan.next().unwrap().unwrap();
    assert_eq!((batch.num_rows(), batch.column(1).null_count(), batch.column(0).null_count()), (2000, 2000, 0));
    let mut commit = store.begin();
    commit.put_value(&collection.part(Part::Block { last: 2000, column: 1 }), "torn").unwrap();
    let snapshot = finish(&store, commit);
    let error = collection.scan(&snapshot, None, &KeyRange::full(), 8192).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.state(), SqlState::DataCorrupted);
}
