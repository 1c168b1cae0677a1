//! Rows in, rows out, as text. What holds for every function is tested by `dataflow/differential.rs`.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use expect_test::{Expect, expect};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::SqlState;
use tidemark_common::plan::AggregateStrategy::{self, Linear, Merge, Recompute};

use crate::dataflow::CollectionChanges;
use crate::operators::Watermarks;
use crate::operators::testing::{Lowering, TestFlow, changes, delta, lower, rows_text, schema, show};

const ALL: [AggregateStrategy; 3] = [Merge, Linear, Recompute];

async fn flow(schema: &SchemaRef, sql: &str, strategy: AggregateStrategy, shards: usize) -> TestFlow {
    TestFlow::new(lower(schema, sql, Lowering { strategy, close: None, emit_on_close: false }).await, shards)
}

/// Each text is an epoch; all strategies give the same.
async fn check(strategies: &[AggregateStrategy], columns: &str, sql: &str, epochs: &[&str], expected: Expect) {
    let schema = schema(columns);
    let mut texts = Vec::new();
    for strategy in strategies {
        let mut flow = flow(&schema, sql, *strategy, 1).await;
        let sent = epochs.iter().map(|rows| flow.rows(&schema, rows)).enumerate();
        texts.push(sent.map(|(epoch, sent)| format!("epoch {}\n{sent}", epoch + 1)).collect::<String>());
    }
    expected.assert_eq(&texts[0]);
    for (text, strategy) in texts.iter().zip(strategies) {
        assert_eq!(*text, texts[0], "{strategy:?}");
    }
}

#[tokio::test]
async fn updates_take_back_what_was_sent() {
    check(
        &[Linear, Recompute],
        "k text, v bigint",
        "SELECT k, count(*), sum(v) FROM t GROUP BY k",
        &["+ a 1\n+ b 2\n+ a 3", "- a 1\n+ a 10\n+ c NULL", "- b 2", "", "- a 3\n- a 10\n+ a 13\n+ a 0\n- c NULL"],
        expect![[r#"
            epoch 1
            + a 2 4
            + b 1 2
            epoch 2
            - a 2 4
            + a 2 13
            + c 1 NULL
            epoch 3
            - b 1 2
            epoch 4
            epoch 5
            - c 1 NULL
        "#]],
    )
    .await;
}

#[tokio::test]
async fn appended_rows() {
    check(
        &ALL,
        "k text, v bigint",
        "SELECT k, count(v), sum(v) FROM t GROUP BY k",
        &["+ a 1\n+ NULL 2\n+ a 3", "+ NULL NULL\n+ NULL 5", "+ a NULL", "+ a 0"],
        expect![[r#"
            epoch 1
            + a 2 4
            + NULL 1 2
            epoch 2
            - NULL 1 2
            + NULL 2 7
            epoch 3
            epoch 4
            - a 2 4
            + a 3 4
        "#]],
    )
    .await;
}

#[tokio::test]
async fn without_group_by_there_is_always_one_row() {
    check(
        &ALL,
        "v bigint",
        "SELECT count(*), sum(v) FROM t",
        &["", "", "+ 1\n+ 2"],
        expect![[r#"
            epoch 1
            + 0 NULL
            epoch 2
            epoch 3
            - 0 NULL
            + 2 3
        "#]],
    )
    .await;
    check(
        &[Linear, Recompute],
        "v bigint",
        "SELECT count(*), sum(v) FROM t",
        &["+ 1", "- 1", "+ 5"],
        expect![[r#"
            epoch 1
            + 1 1
            epoch 2
            - 1 1
            + 0 NULL
            epoch 3
            - 0 NULL
            + 1 5
        "#]],
    )
    .await;
}

#[tokio::test]
async fn distinct_sends_a_row_once() {
    check(
        &ALL,
        "k text, v bigint",
        "SELECT DISTINCT k FROM t",
        &["+ a 1\n+ a 2\n+ NULL 1", "+ a 3\n+ b 1\n+ NULL 2", "+ b 1"],
        expect![[r#"
            epoch 1
            + a
            + NULL
            epoch 2
            + b
            epoch 3
        "#]],
    )
    .await;
    check(
        &[Linear, Recompute],
        "k text, v bigint",
        "SELECT DISTINCT k FROM t",
        &["+ a 1\n+ a 2", "- a 1", "- a 2\n+ b 1"],
        expect![[r#"
            epoch 1
            + a
            epoch 2
            epoch 3
            - a
            + b
        "#]],
    )
    .await;
}

#[tokio::test]
async fn distinct_values_are_in_order() {
    check(
        &[Merge, Recompute],
        "v bigint, s text",
        "SELECT array_agg(DISTINCT v), array_agg(DISTINCT s) FROM t",
        &["+ 9 b\n+ 3 a\n+ 7 a\n+ NULL c", "+ 1 d\n+ 9 NULL\n+ 8 a"],
        expect![[r#"
            epoch 1
            + [NULL, 3, 7, 9] [a, b, c]
            epoch 2
            - [NULL, 3, 7, 9] [a, b, c]
            + [NULL, 1, 3, 7, 8, 9] [NULL, a, b, c, d]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn the_first_row_of_a_shardless_aggregate_comes_once_with_many_shards() {
    for strategy in ALL {
        let schema = schema("v bigint");
        let mut flow = flow(&schema, "SELECT count(*) FROM t", strategy, 3).await;
        assert_eq!(flow.rows(&schema, ""), "+ 0\n");
        flow.reopen(2);
        assert_eq!(flow.rows(&schema, "+ 1"), "- 0\n+ 1\n");
    }
}

#[tokio::test]
async fn more_rows_gone_than_come_is_an_internal_error() {
    for (strategy, part) in [(Linear, "a group has -1 rows"), (Recompute, "a row is there -1 times")] {
        let schema = schema("k text");
        let mut flow = flow(&schema, "SELECT k, count(*) FROM t GROUP BY k", strategy, 1).await;
        let error = flow.try_epoch(changes(vec![delta(&schema, "- a")])).unwrap_err();
        assert_eq!(error.state(), SqlState::Internal);
        assert!(error.message().contains(part) && error.message().contains("node 3 of object"), "{error}");
    }
    let schema = schema("k text");
    let mut flow = flow(&schema, "SELECT k, count(*) FROM t GROUP BY k", Merge, 1).await;
    let error = flow.try_epoch(changes(vec![delta(&schema, "- a")])).unwrap_err();
    assert!(error.message().contains("went away from append-only input"), "{error}");
}

#[tokio::test]
async fn a_sum_that_does_not_fit_is_an_error() {
    let schema = schema("v bigint");
    let mut flow = flow(&schema, "SELECT sum(v) FROM t", Linear, 1).await;
    let error = flow.try_epoch(changes(vec![delta(&schema, "+ 9223372036854775807\n+ 2")])).unwrap_err();
    assert_eq!(error.state(), SqlState::NumericValueOutOfRange);
    assert_eq!(error.message(), "bigint out of range");
}

#[tokio::test]
async fn a_sum_may_leave_its_range_on_the_way() {
    check(
        &[Linear],
        "v bigint",
        "SELECT sum(v) FROM t",
        &["+ 9223372036854775807\n+ 2\n+ -3"],
        expect![[r#"
            epoch 1
            + 9223372036854775806
        "#]],
    )
    .await;
}

/// Rows and a watermark for column `at`.
fn with_watermark(schema: &SchemaRef, rows: &str, at: usize, watermark: Option<i64>) -> CollectionChanges {
    let mut input = changes(vec![delta(schema, rows)]);
    input.watermarks = watermark.map(|w| (at, ScalarValue::Int64(Some(w)))).into_iter().collect::<Watermarks>();
    input
}

async fn closing(schema: &SchemaRef, strategy: AggregateStrategy, emit_on_close: bool, shards: usize) -> TestFlow {
    let sql = "SELECT k, w, count(*), sum(v) FROM t GROUP BY k, w";
    TestFlow::new(lower(schema, sql, Lowering { strategy, close: Some(1), emit_on_close }).await, shards)
}

#[tokio::test]
async fn windows_close() {
    let schema = schema("w bigint, k text, v bigint");
    for strategy in [Merge, Linear] {
        let mut flow = closing(&schema, strategy, false, 1).await;
        let mut text = String::new();
        let epochs = [
            ("+ 10 a 1\n+ 20 a 2\n+ NULL a 3", Some(10)),
            ("+ 10 b 4\n+ 30 a 5", Some(20)),
            // The first is late now, and the watermark does not go back.
            ("+ 10 a 6\n+ 20 a 7\n+ NULL a 1", Some(15)),
            ("", Some(31)),
        ];
        for (rows, watermark) in epochs {
            text += &show(&flow.epoch(with_watermark(&schema, rows, 0, watermark)).chunks);
            text += &format!("stored {}, late {}\n", flow.stored_entries(), flow.flow.late_rows());
        }
        expect![[r#"
            + a 10 1 1
            + a 20 1 2
            + a NULL 1 3
            stored 3, late 0
            + b 10 1 4
            + a 30 1 5
            stored 3, late 0
            - a 20 1 2
            + a 20 2 9
            - a NULL 1 3
            + a NULL 2 4
            stored 3, late 1
            stored 1, late 1
        "#]]
        .assert_eq(&text);
    }
}

#[tokio::test]
async fn windows_are_sent_when_they_close() {
    let schema = schema("w bigint, k text, v bigint");
    for (strategy, shards) in ALL.into_iter().flat_map(|s| [(s, 1), (s, 3)]) {
        let mut flow = closing(&schema, strategy, true, shards).await;
        let sent = |flow: &mut TestFlow, rows: &str, watermark: i64| {
            let chunks = flow.epoch(with_watermark(&schema, rows, 0, Some(watermark))).chunks;
            let sorted: BTreeSet<String> = show(&chunks).lines().map(String::from).collect();
            sorted.into_iter().collect::<Vec<_>>().join("; ")
        };
        assert_eq!(sent(&mut flow, "+ 10 a 1\n+ 20 b 2\n+ NULL a 3\n+ 10 c 1\n+ 10 c 1", 10), "");
        flow.reopen(shards % 3 + 1);
        assert_eq!(sent(&mut flow, "+ 10 a 4\n+ 12 d 4\n+ 30 e 9", 20), "+ a 10 2 5; + c 10 2 2; + d 12 1 4");
        flow.reopen(shards);
        // Late after the restart as before it.
        assert_eq!(sent(&mut flow, "+ 10 a 4\n+ 20 b 1", 20), "");
        assert_eq!(flow.flow.late_rows(), 1);
        assert_eq!(sent(&mut flow, "", 1000), "+ b 20 2 3; + e 30 1 9");
        assert_eq!(flow.stored_entries(), 1, "the NULL window stays: {strategy:?}");
    }
}

/// Random watermarks: closed windows are exactly the batch result over the rows that were not late.
#[tokio::test]
async fn closed_windows_equal_the_batch() {
    let schema = schema("w bigint, k text, v bigint");
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let strategy = ALL[rng.random_range(0..3)];
        let emit_on_close = rng.random_bool(0.5);
        let mut flow = closing(&schema, strategy, emit_on_close, rng.random_range(1..4)).await;
        let mut expected: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
        let mut contents: BTreeMap<String, i64> = BTreeMap::new();
        let (mut watermark, mut late) = (0, 0);
        for epoch in 0..20 {
            let mut rows = String::new();
            for _ in 0..rng.random_range(0..10) {
                let (w, k, v) = (rng.random_range(0..30) + epoch, rng.random_range(0..3), rng.random_range(0..9));
                rows += &format!("+ {w} k{k} {v}\n");
                if w < watermark {
                    late += 1;
                    continue;
                }
                let group = expected.entry((w, format!("k{k}"))).or_default();
                *group = (group.0 + 1, group.1 + v);
            }
            watermark = watermark.max(rng.random_range(0..30) + epoch - 10);
            if rng.random_ratio(1, 5) {
                let shards = rng.random_range(1..4);
                flow.reopen(shards);
            }
            for delta in flow.epoch(with_watermark(&schema, &rows, 0, Some(watermark))).chunks {
                for (row, text) in rows_text(&delta.batch).into_iter().enumerate() {
                    *contents.entry(text.join(" ")).or_default() += delta.weight(row);
                }
            }
            contents.retain(|_, weight| *weight != 0);
            let visible = expected.iter().filter(|((w, _), _)| !emit_on_close || *w < watermark);
            let visible: BTreeMap<String, i64> =
                visible.map(|((w, k), (count, sum))| (format!("{k} {w} {count} {sum}"), 1)).collect();
            assert_eq!(contents, visible, "seed {seed}, epoch {epoch}, {strategy:?}, watermark {watermark}");
            let open = expected.keys().filter(|(w, _)| *w >= watermark).count();
            if strategy != Recompute {
                assert_eq!(flow.stored_entries(), open, "seed {seed}, epoch {epoch}");
            }
        }
        assert!(late > 0, "seed {seed} tests no late rows");
        flow.epoch(with_watermark(&schema, "", 0, Some(1000)));
        assert_eq!(flow.stored_entries(), 0, "seed {seed}");
    }
}

#[tokio::test]
async fn recompute_stores_rows_and_what_was_sent() {
    let schema = schema("w bigint, k text, v bigint");
    let mut flow = closing(&schema, Recompute, false, 2).await;
    flow.epoch(with_watermark(&schema, "+ 1 a 1\n+ 1 a 1\n+ 1 a 2\n+ 2 a 1", 0, Some(0)));
    assert_eq!(flow.stored_entries(), 3 + 2, "rows with weights, and a result a group");
    flow.epoch(with_watermark(&schema, "", 0, Some(2)));
    assert_eq!(flow.stored_entries(), 2);
}

/// What is on disk must stay readable: a change here needs a new format version.
#[tokio::test]
async fn stored_bytes_are_pinned() {
    let schema = schema("w bigint, k text, v bigint");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut text = String::new();
    for strategy in ALL {
        let mut flow = closing(&schema, strategy, false, 1).await;
        flow.epoch(with_watermark(&schema, "+ 258 a 1\n+ 258 a 1\n+ NULL NULL NULL", 0, Some(3)));
        text += &format!("{strategy:?}\n");
        for (state, key, value) in flow.stored() {
            text += &format!("{state}  {}  {}\n", hex(&key), hex(&value));
        }
    }
    expect![[r#"
        Merge
        1  0000000000000000  01018000000000000003
        16  0001800000000000010202610000000000000001  01018000000000000002018000000000000002
        16  0100000000000000000000  01018000000000000001000000000000000000
        Linear
        1  0000000000000000  01018000000000000003
        16  0001800000000000010202610000000000000001  0100000000000000020000000000000002000000000000000200000000000000000000000000000002
        16  0100000000000000000000  0100000000000000010000000000000001000000000000000000000000000000000000000000000000
        Recompute
        1  0000000000000000  01018000000000000003
        16  0001800000000000010202610000000000000001018000000000000001  01000000000000000200000014
        16  0100000000000000000000000000000000000000  0100000000000000010000000b
        17  0001800000000000010202610000000000000001  01018000000000000002018000000000000002
        17  0100000000000000000000  01018000000000000001000000000000000000
    "#]].assert_eq(&text);
}

#[tokio::test]
async fn the_next_value_follows_an_extreme_that_goes() {
    check(
        &[Linear, Recompute],
        "k text, v bigint, s text",
        "SELECT k, min(v), max(v), max(s), max(v) FILTER (WHERE v < 3) FROM t GROUP BY k",
        &[
            "+ a 1 x\n+ a 2 y\n+2 a 5 NULL\n+ b NULL b",
            "- a 1 x\n- a 5 NULL",
            // The last 5 goes while something smaller, and something between, come.
            "- a 5 NULL\n+ a 0 z\n+ a 3 NULL",
            "- a 2 y\n- a 0 z\n- b NULL b",
            "- a 3 NULL\n+ c 7 NULL",
        ],
        expect![[r#"
            epoch 1
            + a 1 5 y 2
            + b NULL NULL b NULL
            epoch 2
            - a 1 5 y 2
            + a 2 5 y 2
            epoch 3
            - a 2 5 y 2
            + a 0 3 z 2
            epoch 4
            - a 0 3 z 2
            + a 3 3 NULL NULL
            - b NULL NULL b NULL
            epoch 5
            - a 3 3 NULL NULL
            + c 7 7 NULL NULL
        "#]],
    )
    .await;
}

#[tokio::test]
async fn nothing_has_no_average() {
    let epochs = ["", "+ a NULL\n+ b 1.50", "+ a 3.00\n+ b 2.00", "- b 1.50\n- b 2.00\n- a 3.00", "- a NULL"];
    let both = [Linear, Recompute];
    check(
        &both,
        "k text, n numeric",
        "SELECT avg(n), min(k) FROM t",
        &epochs,
        expect![[r#"
        epoch 1
        + NULL NULL
        epoch 2
        - NULL NULL
        + 1.500000 a
        epoch 3
        - 1.500000 a
        + 2.166666 a
        epoch 4
        - 2.166666 a
        + NULL a
        epoch 5
        - NULL a
        + NULL NULL
    "#]],
    )
    .await;
    check(
        &both,
        "k text, n numeric",
        "SELECT k, avg(n) FROM t GROUP BY k",
        &epochs,
        expect![[r#"
        epoch 1
        epoch 2
        + a NULL
        + b 1.500000
        epoch 3
        - a NULL
        + a 3.000000
        - b 1.500000
        + b 1.750000
        epoch 4
        - b 1.750000
        - a 3.000000
        + a NULL
        epoch 5
        - a NULL
    "#]],
    )
    .await;
}

#[tokio::test]
async fn values_of_min_and_max_go_with_their_rows() {
    let schema = schema("k text, v bigint");
    let sql = "SELECT k, min(v), max(v), count(*) FROM t GROUP BY k";
    let mut flow = flow(&schema, sql, Linear, 2).await;
    flow.rows(&schema, "+ a 1\n+ a 2\n+ b 3\n+ b NULL");
    assert_eq!(flow.stored_entries(), 2 + 3, "two groups, three values that both calls look at");
    flow.rows(&schema, "- a 1\n- b 3");
    flow.reopen(1);
    flow.rows(&schema, "- a 2\n- b NULL");
    assert_eq!(flow.stored_entries(), 0);
}
