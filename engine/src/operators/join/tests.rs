//! Joins as text tables, and random changes against every kind of join, compared with all pairs looked at one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary};
use expect_test::{Expect, expect};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Oid;
use tidemark_common::plan::{Dataflow, Join, JoinKind, Op, Properties};

use crate::operators::testing::{INPUT, TestFlow, changes, delta, plan, rows_text, schema, show};

const OTHER: Oid = INPUT + 5;
const KINDS: [JoinKind; 7] =
    [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti, JoinKind::Mark];

/// A join of l (k bigint, v bigint) and r (k bigint, w bigint).
#[derive(Debug, Clone, Copy)]
struct Test {
    kind: JoinKind,
    /// On equal k; all pairs otherwise.
    keyed: bool,
    null_equal: bool,
    /// And v > w.
    greater: bool,
    /// The inputs are stored by k: what can be looked up is not kept.
    stored: bool,
    /// The left input only grows, and the right one.
    grows: [bool; 2],
}

const ON_K: Test =
    Test { kind: JoinKind::Inner, keyed: true, null_equal: false, greater: false, stored: false, grows: [false; 2] };

fn left() -> SchemaRef {
    schema("k bigint, v bigint")
}

fn right() -> SchemaRef {
    schema("k bigint, w bigint")
}

impl Test {
    fn left_only(self) -> bool {
        matches!(self.kind, JoinKind::Semi | JoinKind::Anti | JoinKind::Mark)
    }

    fn flow(self, shards: usize) -> TestFlow {
        let mut flow = TestFlow::new(self.plan(), shards);
        if self.stored {
            flow.store_input(INPUT, &left());
            flow.store_input(OTHER, &right());
        }
        flow
    }

    fn plan(self) -> Arc<Dataflow> {
        let input = |collection, schema: &SchemaRef| {
            let op = Op::Input { collection, name: "t".into(), projection: vec![0, 1] };
            (op, vec![], Arc::clone(schema), Properties::default())
        };
        let grows = |of: usize| Properties { append_only: self.grows[of], ..Properties::default() };
        let keys = if self.keyed { vec![0] } else { vec![] };
        let exchange =
            |of, schema: SchemaRef| (Op::Exchange { keys: keys.clone() }, vec![of], schema, grows(of as usize));
        let both = Schema::new([left().fields().to_vec(), right().fields().to_vec()].concat());
        let column = |name: &str, at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
        let residual = binary(column("v", 1), Operator::Gt, column("w", 3), &both).unwrap();
        let mut fields: Vec<Field> = both.fields().iter().map(|f| f.as_ref().clone()).collect();
        if self.left_only() {
            fields.truncate(2);
        }
        let output = (0..fields.len()).collect();
        if self.kind == JoinKind::Mark {
            fields.push(Field::new("mark", DataType::Boolean, false));
        }
        let join = Join {
            kind: self.kind,
            on: keys.iter().map(|k| (*k, *k)).collect(),
            null_equal: self.null_equal,
            residual: self.greater.then_some(residual),
            output,
            looked_up: [None, None],
            within: None,
            current: false,
        };
        let looks_up = |left| {
            let keeps = join.counts_matches(left) || (join.keeps_counts() && !left);
            (self.stored && self.keyed && !self.null_equal && !keeps).then(|| vec![0])
        };
        let join = Join { looked_up: [looks_up(true), looks_up(false)], ..join };
        plan(vec![
            input(INPUT, &left()),
            input(OTHER, &right()),
            exchange(0, left()),
            exchange(1, right()),
            (Op::Join(join), vec![2, 3], Arc::new(Schema::new(fields)), Properties::default()),
        ])
    }
}

/// An epoch with rows of both inputs; what is sent, sorted.
fn epoch(flow: &mut TestFlow, l: &str, r: &str) -> String {
    let inputs = [(INPUT, left(), l), (OTHER, right(), r)]
        .into_iter()
        .map(|(oid, schema, text)| (oid, changes(vec![delta(&schema, text)])))
        .collect();
    let sent = show(&flow.try_epoch_of(&inputs).unwrap().chunks);
    let mut lines: Vec<&str> = sent.lines().collect();
    lines.sort_by_key(|line| line.split_once(' ').map(|(weight, row)| (row, weight)));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn check(test: Test, epochs: &[(&str, &str)], expected: Expect) {
    let mut flow = test.flow(1);
    let sent = epochs.iter().enumerate().map(|(n, (l, r))| format!("epoch {}\n{}", n + 1, epoch(&mut flow, l, r)));
    expected.assert_eq(&sent.collect::<String>());
}

#[test]
fn inner() {
    check(
        ON_K,
        &[
            ("+ 1 10\n+ 2 20\n+ NULL 0", ""),
            ("", "+ 1 100\n+ 1 101\n+ 3 300\n+ NULL 1"),
            // A new row, and one that its partner leaves: no pair that would have to be taken back.
            ("+ 1 11\n- 1 10", "- 1 100"),
            ("+2 2 20", "+2 2 200"),
        ],
        expect![[r#"
            epoch 1
            epoch 2
            + 1 10 1 100
            + 1 10 1 101
            epoch 3
            - 1 10 1 100
            - 1 10 1 101
            + 1 11 1 101
            epoch 4
            +6 2 20 2 200
        "#]],
    );
}

#[test]
fn outer_rows_come_and_go_with_their_partners() {
    check(
        Test { kind: JoinKind::Full, ..ON_K },
        &[
            ("+ 1 10\n+ NULL 0", "+ 3 300\n+ NULL 1"),
            ("", "+ 1 100"),
            ("+ 3 30", "- 1 100\n+ 1 101"),
            ("- 3 30\n- NULL 0", "- 1 101"),
        ],
        expect![[r#"
            epoch 1
            + 1 10 NULL NULL
            + NULL 0 NULL NULL
            + NULL NULL 3 300
            + NULL NULL NULL 1
            epoch 2
            + 1 10 1 100
            - 1 10 NULL NULL
            epoch 3
            - 1 10 1 100
            + 1 10 1 101
            + 3 30 3 300
            - NULL NULL 3 300
            epoch 4
            - 1 10 1 101
            + 1 10 NULL NULL
            - 3 30 3 300
            - NULL 0 NULL NULL
            + NULL NULL 3 300
        "#]],
    );
}

#[test]
fn a_residual_decides_whether_there_is_a_partner() {
    check(
        Test { kind: JoinKind::Left, greater: true, ..ON_K },
        &[("+ 1 10", "+ 1 11"), ("", "+ 1 9"), ("- 1 10\n+ 1 12", ""), ("", "- 1 9\n- 1 11")],
        expect![[r#"
            epoch 1
            + 1 10 NULL NULL
            epoch 2
            + 1 10 1 9
            - 1 10 NULL NULL
            epoch 3
            - 1 10 1 9
            + 1 12 1 11
            + 1 12 1 9
            epoch 4
            - 1 12 1 11
            - 1 12 1 9
            + 1 12 NULL NULL
        "#]],
    );
}

#[test]
fn existence() {
    let epochs =
        [("+ 1 10\n+ NULL 0", "+ 2 0"), ("+ 2 20", "+ 1 1\n+ 1 2"), ("", "- 1 1"), ("", "- 1 2\n- 2 0\n+ NULL 7")];
    check(
        Test { kind: JoinKind::Semi, ..ON_K },
        &epochs,
        expect![[r#"
            epoch 1
            epoch 2
            + 1 10
            + 2 20
            epoch 3
            epoch 4
            - 1 10
            - 2 20
        "#]],
    );
    check(
        Test { kind: JoinKind::Anti, null_equal: true, ..ON_K },
        &epochs,
        expect![[r#"
            epoch 1
            + 1 10
            + NULL 0
            epoch 2
            - 1 10
            epoch 3
            epoch 4
            + 1 10
            + 2 20
            - NULL 0
        "#]],
    );
    check(
        Test { kind: JoinKind::Mark, ..ON_K },
        &epochs,
        expect![[r#"
            epoch 1
            + 1 10 false
            + NULL 0 false
            epoch 2
            - 1 10 false
            + 1 10 true
            + 2 20 true
            epoch 3
            epoch 4
            + 1 10 false
            - 1 10 true
            + 2 20 false
            - 2 20 true
        "#]],
    );
}

type Row = (Option<i64>, Option<i64>);
type Contents = BTreeMap<Row, i64>;

/// What the join of two multisets is, by looking at all pairs.
fn expected(test: Test, left: &Contents, right: &Contents) -> BTreeMap<String, i64> {
    let meets = |l: &Row, r: &Row| {
        let equal = match (l.0, r.0) {
            _ if !test.keyed => true,
            (None, None) => test.null_equal,
            (a, b) => a.is_some() && a == b,
        };
        equal && (!test.greater || matches!((l.1, r.1), (Some(v), Some(w)) if v > w))
    };
    let text = |row: Option<&Row>| match row {
        None => "NULL NULL".to_string(),
        Some(row) => [row.0, row.1].map(|v| v.map_or("NULL".to_string(), |v| v.to_string())).join(" "),
    };
    let mut all = BTreeMap::new();
    let mut add = |row: String, weight: i64| *all.entry(row).or_insert(0) += weight;
    let pairs = !test.left_only();
    for (l, n) in left {
        let partners: Vec<_> = right.iter().filter(|(r, _)| meets(l, r)).collect();
        let lone = partners.is_empty();
        partners
            .iter()
            .filter(|_| pairs)
            .for_each(|(r, m)| add(format!("{} {}", text(Some(l)), text(Some(r))), n * **m));
        match test.kind {
            JoinKind::Left | JoinKind::Full if lone => add(format!("{} {}", text(Some(l)), text(None)), *n),
            JoinKind::Semi if !lone => add(text(Some(l)), *n),
            JoinKind::Anti if lone => add(text(Some(l)), *n),
            JoinKind::Mark => add(format!("{} {}", text(Some(l)), !lone), *n),
            _ => {}
        }
    }
    for (r, m) in right.iter().filter(|(r, _)| !left.keys().any(|l| meets(l, r))) {
        if matches!(test.kind, JoinKind::Right | JoinKind::Full) {
            add(format!("{} {}", text(None), text(Some(r))), *m);
        }
    }
    all
}

/// Some rows that come and go; the text of the changes.
fn change(rng: &mut StdRng, contents: &mut Contents, grows: bool) -> String {
    let mut text = String::new();
    for _ in 0..rng.random_range(0..8) {
        let some = |rng: &mut StdRng, n: i64| (!rng.random_ratio(1, 6)).then(|| rng.random_range(0..n));
        let mut row = (some(rng, 4), some(rng, 5));
        let mut weight = rng.random_range(1..3);
        if !grows && rng.random_ratio(1, 2) && !contents.is_empty() {
            let at = rng.random_range(0..contents.len());
            row = *contents.keys().nth(at).unwrap();
            weight = -rng.random_range(1..=contents[&row]);
        }
        let left = contents.entry(row).or_insert(0);
        *left += weight;
        if *left == 0 {
            contents.remove(&row);
        }
        let value = |v: Option<i64>| v.map_or("NULL".to_string(), |v| v.to_string());
        text += &format!("{weight:+} {} {}\n", value(row.0), value(row.1));
    }
    text
}

#[test]
fn random_changes() {
    let choices = [
        (true, false, false),
        (true, true, false),
        (true, false, true),
        (false, false, true),
        (false, false, false),
        (true, true, true),
    ];
    for (n, kind) in KINDS.into_iter().enumerate() {
        let inputs = [
            (false, [false; 2]),
            (true, [false; 2]),
            (false, [true; 2]),
            (false, [true, false]),
            (false, [false, true]),
        ];
        let all = inputs.into_iter().flat_map(|input| choices.map(|choice| (input, choice)));
        for (m, ((stored, grows), (keyed, null_equal, greater))) in all.enumerate() {
            let test = Test { kind, keyed, null_equal, greater, stored, grows };
            let mut rng = StdRng::seed_from_u64((n * 50 + m) as u64);
            let mut flow = test.flow(rng.random_range(1..4));
            let (mut left_rows, mut right_rows) = (Contents::new(), Contents::new());
            let mut got: BTreeMap<String, i64> = BTreeMap::new();
            // What only grows has ever more pairs.
            for step in 0..if grows.contains(&true) { 12 } else { 30 } {
                if rng.random_ratio(1, 15) {
                    let shards = rng.random_range(1..4);
                    flow.reopen(shards);
                }
                let l = change(&mut rng, &mut left_rows, grows[0]);
                let r = change(&mut rng, &mut right_rows, grows[1]);
                let inputs = [(INPUT, left(), &l), (OTHER, right(), &r)]
                    .into_iter()
                    .map(|(oid, schema, text)| (oid, changes(vec![delta(&schema, text)])))
                    .collect();
                let mut sent_now: BTreeMap<String, Vec<i64>> = BTreeMap::new();
                for delta in flow.try_epoch_of(&inputs).unwrap().chunks {
                    assert!(!delta.is_empty(), "no empty pieces");
                    for (row, values) in rows_text(&delta.batch).into_iter().enumerate() {
                        sent_now.entry(values.join(" ")).or_default().push(delta.weight(row));
                    }
                }
                for (row, weights) in sent_now {
                    assert!(!weights.contains(&0), "{test:?} step {step}: {row} with weight 0");
                    *got.entry(row).or_insert(0) += weights.iter().sum::<i64>();
                }
                got.retain(|_, weight| *weight != 0);
                assert_eq!(got, expected(test, &left_rows, &right_rows), "{test:?} step {step}\n{l}---\n{r}");
            }
        }
    }
}

#[test]
fn what_goes_leaves_nothing_behind() {
    for kind in KINDS {
        for greater in [false, true] {
            let mut flow = Test { kind, greater, ..ON_K }.flow(2);
            epoch(&mut flow, "+ 1 10\n+ 2 20\n+ NULL 1", "+ 1 5\n+ 1 6\n+ NULL 1");
            assert!(flow.stored_entries() > 0);
            epoch(&mut flow, "- 1 10\n- NULL 1", "- 1 5");
            flow.reopen(1);
            epoch(&mut flow, "- 2 20", "- 1 6\n- NULL 1");
            assert_eq!(flow.stored_entries(), 0, "{kind:?}");
        }
    }
}

#[test]
fn what_is_stored_is_not_kept_again() {
    let kept = |kind, greater| {
        let mut flow = Test { kind, greater, stored: true, ..ON_K }.flow(2);
        epoch(&mut flow, "+ 1 10\n+ 1 11", "+ 1 5\n+ 2 6\n+ 3 7");
        flow.stored_entries()
    };
    let kept = KINDS.map(|kind| format!("{kind:?} {} {}\n", kept(kind, false), kept(kind, true)));
    // Rows: of neither input, of the one whose matches are counted, of both; or three keys of the right one.
    expect![[r#"
        Inner 0 0
        Left 2 2
        Right 3 3
        Full 5 5
        Semi 3 2
        Anti 3 2
        Mark 3 2
    "#]]
    .assert_eq(&kept.concat());
}

#[test]
fn both_partners_change_where_they_are_stored() {
    check(
        Test { stored: true, ..ON_K },
        &[
            ("+ 1 10\n+2 2 20", "+ 1 100\n+ 2 200"),
            // Each is replaced: the pair goes and another one comes, nothing is sent and taken back.
            ("- 1 10\n+ 1 11", "- 1 100\n+ 1 101"),
            ("-1 2 20", "+ 2 200"),
        ],
        expect![[r#"
            epoch 1
            + 1 10 1 100
            +2 2 20 2 200
            epoch 2
            - 1 10 1 100
            + 1 11 1 101
            epoch 3
        "#]],
    );
}

#[test]
fn many_rows_of_a_key_are_kept_in_pieces() {
    let mut flow = Test { grows: [true; 2], ..ON_K }.flow(1);
    let rows: Vec<String> = (0..600).map(|w| format!("+ 1 {w}")).collect();
    epoch(&mut flow, "", &rows.join("\n"));
    epoch(&mut flow, "", "+3 1 600\n+ NULL 601\n+ 2 602");
    assert_eq!(flow.stored_entries(), 3 + 1 + 1);
    flow.reopen(2);
    let pairs = epoch(&mut flow, "+ 1 7", "+ 1 603");
    assert_eq!(pairs.lines().count(), 602);
    assert!(pairs.contains("+3 1 7 1 600\n") && pairs.contains("+ 1 7 1 599\n") && pairs.contains("+ 1 7 1 603\n"));
    let gone = [(INPUT, changes(vec![delta(&left(), "- 1 7")]))].into();
    let error = flow.try_epoch_of(&gone).unwrap_err();
    assert!(error.message().contains("a row of append-only input is there -1 times"), "{}", error.message());
}

/// What is on disk must be read for ever.
#[test]
fn bytes_are_pinned() {
    let stored = |test: Test| {
        let mut flow = test.flow(1);
        epoch(&mut flow, "+ 1 10\n+2 2 NULL", "+ 1 5\n+ 1 6");
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let entries = flow.stored().into_iter().filter(|(state, ..)| *state >= 4);
        entries.map(|(state, key, value)| format!("{state} {} {}\n", hex(&key), hex(&value))).collect::<String>()
    };
    expect![[r#"
        20 01800000000000000101800000000000000a 010204
        20 018000000000000002000000000000000000 010400
        21 018000000000000001018000000000000005 0102
        21 018000000000000001018000000000000006 0102
    "#]]
    .assert_eq(&stored(Test { kind: JoinKind::Left, greater: true, ..ON_K }));
    expect![[r#"
        20 01800000000000000101800000000000000a 0102
        20 018000000000000002000000000000000000 0104
        21 018000000000000001 0104
    "#]]
    .assert_eq(&stored(Test { kind: JoinKind::Semi, ..ON_K }));
    // The right rows of a key in one piece.
    expect![[r#"
        20 018000000000000001000000000000000100000000 01020901800000000000000a
        20 018000000000000002000000000000000100000000 010409000000000000000000
        21 018000000000000001000000000000000100000000 0102090180000000000000050209018000000000000006
    "#]]
    .assert_eq(&stored(Test { grows: [true; 2], ..ON_K }));
}
