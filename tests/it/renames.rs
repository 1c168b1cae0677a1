//! A view whose tables have got other names since goes on from its state when the server starts again: nothing is built anew.

use crate::harness::{start, text};

#[tokio::test]
async fn a_view_goes_on_under_new_names() {
    let mut instance = start().await;
    for sql in [
        "CREATE SCHEMA other",
        "CREATE TABLE t (k TEXT, v INT)",
        "CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s FROM t WHERE t.v > 0 GROUP BY k",
        "CREATE MATERIALIZED VIEW best AS SELECT max(s) AS best FROM sums",
        "CREATE VIEW above AS SELECT k FROM sums JOIN best ON s = best",
        "INSERT INTO t VALUES ('a', 1), ('b', 2)",
        "ALTER TABLE t RENAME COLUMN k TO kind",
        "ALTER TABLE t RENAME TO numbers",
        "ALTER TABLE numbers SET SCHEMA other",
        "ALTER MATERIALIZED VIEW sums RENAME TO totals",
        "ALTER MATERIALIZED VIEW totals RENAME COLUMN s TO total",
        "CREATE TABLE t (k TEXT, v INT)",
        "INSERT INTO t VALUES ('nobody', 1000)",
        "INSERT INTO other.numbers VALUES ('a', 10)",
    ] {
        instance.run(sql).await;
    }
    for (insert, sums) in [("('b', 20)", ["a 11", "b 22"]), ("('a', 100)", ["a 111", "b 22"])] {
        instance.server.kill_and_restart().await.unwrap();
        let log = instance.server.log_tail();
        assert!(!log.contains("building it again"), "{log}");
        instance.run(&format!("INSERT INTO other.numbers VALUES {insert}")).await;
        assert_eq!(instance.lines("SELECT * FROM totals ORDER BY k").await, sums);
    }
    assert_eq!(instance.value("SELECT best FROM best").await, "111");
    assert_eq!(instance.value("SELECT k FROM above").await, "a");
    assert_eq!(instance.value("SELECT max(total) FROM totals").await, "111");
    let shown = text(&instance.psql(&["-At", "-c", "\\sv above"]).stdout);
    assert!(shown.contains("FROM totals AS sums (k, s) JOIN best"), "{shown}");
    let shown = text(&instance.psql(&["-A", "-c", "\\d+ totals"]).stdout);
    assert!(shown.contains("total|bigint") && shown.contains("SELECT k, sum(v) AS total FROM"), "{shown}");

    // What is shown makes the same view again.
    let shown = instance.psql(&["-At", "-c", "SHOW CREATE MATERIALIZED VIEW totals"]);
    let shown = text(&shown.stdout);
    let create = shown.split_once('|').expect("a name and a text").1.replace("totals", "again");
    let output = instance.psql(&["-v", "ON_ERROR_STOP=1", "-c", &create]);
    assert!(output.status.success(), "{create}\n{}", text(&output.stderr));
    assert_eq!(instance.lines("SELECT * FROM again ORDER BY k").await, ["a 111", "b 22"]);
}
