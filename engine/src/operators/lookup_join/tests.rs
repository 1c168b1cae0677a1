use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::logical_expr::Operator as Compare;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary, lit};
use datafusion::scalar::ScalarValue;
use expect_test::{Expect, expect};
use tidemark_common::connector::{LookupCache, LookupSession, LookupTable};
use tidemark_common::plan::Op;
use tidemark_common::{ManualClock, SqlState};
use tokio::sync::Notify;

use super::*;
use crate::operators::testing::{TestFlow, changes, delta, input, plan, schema, show, with_watermarks};

/// The other system: its rows, and what it was asked.
#[derive(Debug, Default)]
struct World {
    rows: Mutex<String>,
    asked: Mutex<Vec<Vec<i64>>>,
    /// Attempts that fail first.
    failures: Mutex<u32>,
    cache: Mutex<LookupCache>,
}

#[derive(Debug, Clone)]
struct Table(Arc<World>);

fn table_schema() -> SchemaRef {
    schema("id bigint, name text")
}

#[async_trait]
impl LookupTable for Table {
    async fn session(&self, columns: &[usize], by: &[usize]) -> Result<Box<dyn LookupSession>> {
        assert_eq!((columns, by), (&[0, 1][..], &[0][..]));
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl LookupSession for Table {
    async fn rows(&mut self, keys: &RecordBatch) -> Result<RecordBatch> {
        let mut failures = self.0.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Error::new(SqlState::ConnectionException, "nobody there"));
        }
        let mut keys: Vec<i64> = keys.column(0).as_primitive::<Int64Type>().values().to_vec();
        keys.sort_unstable();
        let all = delta(&table_schema(), &self.0.rows.lock().unwrap()).batch;
        let ids = all.column(0).as_primitive::<Int64Type>();
        let wanted: BooleanArray = ids.iter().map(|id| id.map(|id| keys.contains(&id))).collect();
        self.0.asked.lock().unwrap().push(keys);
        Ok(filter_record_batch(&all, &wanted)?)
    }

    fn cache(&self) -> LookupCache {
        *self.0.cache.lock().unwrap()
    }
}

fn left() -> SchemaRef {
    schema("k bigint, v bigint, ts timestamp")
}

/// A dataflow with a lookup of `k` in the world's table.
struct Test {
    flow: TestFlow,
    world: Arc<World>,
    bell: Arc<Notify>,
    outside: Outside,
}

fn column(name: &str, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, at))
}

impl Test {
    fn new(kind: JoinKind, shards: usize, change: impl FnOnce(&mut plan::LookupJoin)) -> Self {
        let world = Arc::new(World::default());
        let mut lookup = plan::LookupJoin {
            kind,
            table: Arc::new(Table(world.clone())),
            name: "w.t".into(),
            columns: vec![0, 1],
            schema: table_schema(),
            on: vec![(0, 0)],
            filter: None,
            residual: None,
            output: vec![0, 1, 2, 4],
        };
        change(&mut lookup);
        let all = schema("k bigint, v bigint, ts timestamp, name text");
        let nodes = vec![
            input(&left(), &[2]),
            (Op::Exchange { keys: vec![0] }, vec![0], left(), with_watermarks(&[2])),
            (Op::LookupJoin(lookup), vec![1], all, with_watermarks(&[2])),
        ];
        let bell = Arc::new(Notify::new());
        let rings = bell.clone();
        let outside = Outside {
            runtime: tokio::runtime::Handle::current(),
            waker: Arc::new(move || rings.notify_one()),
            clock: Arc::new(ManualClock::new(0)),
        };
        Self { flow: TestFlow::new(plan(nodes), shards), world, bell, outside }
    }

    /// What an epoch with these rows sends, and its watermark.
    fn epoch(&mut self, rows: &str, watermark: Option<i64>) -> (String, Option<i64>) {
        self.flow.now += 1;
        let mut changes = changes(vec![delta(&left(), rows)]);
        let time = |micros| ScalarValue::TimestampMicrosecond(Some(micros), None);
        changes.watermarks = watermark.into_iter().map(|at| (2, time(at))).collect();
        let sent = self.flow.epoch(changes);
        self.flow.flow.reach_out(&self.outside).unwrap();
        let watermark = sent.watermarks.get(&2).map(|value| match value {
            ScalarValue::TimestampMicrosecond(Some(micros), _) => *micros,
            other => panic!("{other:?}"),
        });
        (show(&sent.chunks), watermark)
    }

    fn rows(&mut self, rows: &str) -> String {
        self.epoch(rows, None).0
    }

    fn status(&self) -> LookupStatus {
        self.flow.flow.lookups().remove(0)
    }

    /// Until so many keys have been answered.
    async fn answered(&self, keys: u64) {
        while self.status().report.answered < keys {
            self.bell.notified().await;
        }
    }

    fn has(&self, rows: &str) {
        *self.world.rows.lock().unwrap() = rows.into();
    }

    fn asked(&self) -> Vec<Vec<i64>> {
        std::mem::take(&mut self.world.asked.lock().unwrap())
    }

    fn remembers(&self, ttl: i64) {
        *self.world.cache.lock().unwrap() = LookupCache { ttl, keys: 100 };
    }
}

fn check(sent: &str, expected: Expect) {
    expected.assert_eq(sent);
}

const AT: &str = "1970-01-01T00:00:00";

fn row(k: &str, v: i64) -> String {
    format!("+ {k} {v} {AT}\n")
}

#[tokio::test]
async fn rows_wait_for_the_answer_and_meet_what_is_there_then() {
    let mut test = Test::new(JoinKind::Inner, 1, |_| {});
    test.has("+ 1 one\n+ 1 uno\n+ 2 two");
    assert_eq!(test.rows(&(row("1", 10) + &row("2", 20) + &row("1", 5) + &row("3", 30) + &row("NULL", 0))), "");
    assert_eq!((test.status().rows_waiting, test.status().keys_waiting), (4, 3), "NULL meets nothing");
    test.answered(3).await;
    assert_eq!(test.flow.flow.due_at().unwrap(), Some(i64::MIN));
    check(
        &test.rows(""),
        expect![[r#"
            + 1 10 1970-01-01T00:00:00 one
            + 1 10 1970-01-01T00:00:00 uno
            + 2 20 1970-01-01T00:00:00 two
            + 1 5 1970-01-01T00:00:00 one
            + 1 5 1970-01-01T00:00:00 uno
        "#]],
    );
    assert_eq!(test.asked(), [[1, 2, 3]]);
    assert_eq!(test.status().rows_waiting, 0);
    // What was sent stays; the next row meets what is there now.
    test.has("+ 1 eins");
    assert_eq!(test.rows(&row("1", 11)), "");
    test.answered(4).await;
    check(
        &test.rows(""),
        expect![[r#"
            + 1 11 1970-01-01T00:00:00 eins
        "#]],
    );
    assert_eq!(test.flow.stored_entries(), 0, "nothing is kept of rows that are gone");
}

#[tokio::test]
async fn what_is_remembered_is_not_asked_for() {
    let mut test = Test::new(JoinKind::Left, 1, |_| {});
    test.remembers(10);
    test.has("+ 1 one");
    assert_eq!(test.rows(&(row("1", 1) + &row("2", 2))), "");
    // Behind a row that waits, one of its key waits, too.
    assert_eq!(test.rows(&row("1", 3)), "");
    test.answered(2).await;
    check(
        &test.rows(&row("1", 4)),
        expect![[r#"
            + 1 1 1970-01-01T00:00:00 one
            + 1 3 1970-01-01T00:00:00 one
            + 2 2 1970-01-01T00:00:00 NULL
            + 1 4 1970-01-01T00:00:00 one
        "#]],
    );
    test.has("+ 1 eins\n+ 2 zwei");
    check(
        &test.rows(&(row("2", 5) + &row("1", 6) + &row("NULL", 7))),
        expect![[r#"
            + 1 6 1970-01-01T00:00:00 one
            + 2 5 1970-01-01T00:00:00 NULL
            + NULL 7 1970-01-01T00:00:00 NULL
        "#]],
    );
    assert_eq!((test.asked(), test.status().hits), (vec![vec![1, 2]], 3));
    test.flow.now += 10;
    assert_eq!(test.rows(&row("1", 8)), "", "the answer is too old");
    test.answered(3).await;
    check(
        &test.rows(""),
        expect![[r#"
            + 1 8 1970-01-01T00:00:00 eins
        "#]],
    );
}

#[tokio::test]
async fn a_row_of_which_no_pair_fulfils_the_condition_is_alone() {
    let mut test = Test::new(JoinKind::Left, 1, |lookup| {
        let both = schema("k bigint, v bigint, ts timestamp, id bigint, name text");
        let v_is_more = binary(column("v", 1), Compare::Gt, column("id", 3), &both).unwrap();
        lookup.residual = Some(v_is_more);
        let not_x = binary(column("name", 1), Compare::NotEq, lit("x"), &table_schema()).unwrap();
        lookup.filter = Some(not_x);
    });
    test.has("+ 1 a\n+ 1 x\n+ 5 b\n+ 6 x");
    assert_eq!(test.rows(&(row("1", 9) + &row("5", 4) + &row("6", 9) + &row("1", 1))), "");
    test.answered(3).await;
    check(
        &test.rows(""),
        expect![[r#"
            + 1 9 1970-01-01T00:00:00 a
            + 5 4 1970-01-01T00:00:00 NULL
            + 6 9 1970-01-01T00:00:00 NULL
            + 1 1 1970-01-01T00:00:00 NULL
        "#]],
    );
}

#[tokio::test]
async fn what_waited_is_asked_for_after_a_restart_on_any_number_of_shards() {
    for (before, after) in [(1, 3), (3, 1), (2, 2)] {
        let mut test = Test::new(JoinKind::Inner, before, |_| {});
        *test.world.failures.lock().unwrap() = 1000;
        let many: String = (0..100).map(|k| row(&k.to_string(), k)).collect();
        assert_eq!(test.rows(&many), "");
        assert_eq!(test.rows(&row("7", 100)), "");
        test.flow.reopen(after);
        *test.world.failures.lock().unwrap() = 0;
        test.has(&(0..100).map(|k| format!("+ {k} n{k}\n")).collect::<String>());
        assert!(test.flow.flow.due_at().unwrap().is_some());
        assert_eq!(test.rows(&row("7", 101)), "");
        assert_eq!((test.status().rows_waiting, test.status().keys_waiting), (102, 100));
        test.answered(100).await;
        let sent = test.rows("");
        let mut lines: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in sent.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[4], format!("n{}", words[1]));
            lines.entry(words[1]).or_default().push(words[2]);
        }
        assert_eq!((lines.len(), &lines["7"]), (100, &vec!["7", "100", "101"]), "{before} shards, then {after}");
        assert_eq!(test.flow.stored_entries(), 0);
    }
}

#[tokio::test]
async fn the_watermark_waits_for_rows_that_do() {
    let mut test = Test::new(JoinKind::Inner, 1, |_| {});
    test.has("+ 1 one");
    let at = |second: i64| format!("+ 1 0 1970-01-01T00:00:{second:02}\n");
    let seconds = |second: i64| Some(second * 1_000_000);
    assert_eq!(test.epoch("", seconds(10)), (String::new(), None), "rows of this epoch may have to wait");
    assert_eq!(test.epoch(&at(12), seconds(20)).1, seconds(10));
    assert_eq!(test.epoch("", seconds(20)).1, seconds(12));
    test.flow.reopen(1);
    assert_eq!(test.epoch("", seconds(20)).1, seconds(12), "a restart forgets nothing");
    test.answered(1).await;
    let (sent, watermark) = test.epoch("", seconds(30));
    assert_eq!((sent.lines().count(), watermark), (1, seconds(12)), "the row goes before the watermark does");
    assert!(test.flow.flow.due_at().unwrap().is_some(), "the watermark has not got as far as it may");
    assert_eq!(test.epoch("", seconds(30)).1, seconds(30));
    assert_eq!(test.flow.flow.due_at().unwrap(), None);
}

#[tokio::test]
async fn a_question_that_fails_is_asked_again() {
    let mut test = Test::new(JoinKind::Inner, 1, |_| {});
    *test.world.failures.lock().unwrap() = 2;
    test.has("+ 1 one");
    assert_eq!(test.rows(&row("1", 1)), "");
    while test.status().report.failures < 2 {
        test.bell.notified().await;
    }
    let report = test.status().report;
    assert_eq!(report.error.as_deref(), Some("nobody there"));
    assert!(report.next_attempt.is_some() && test.flow.flow.due_at().unwrap().is_some(), "somebody wants to know");
    test.answered(1).await;
    assert_eq!(test.status().report, LookupReport { answered: 1, ..LookupReport::default() });
    assert_eq!(test.rows("").lines().count(), 1);
}
