//! EXPLAIN ANALYZE of a view: what its operators have done.

use crate::harness::start;

#[tokio::test]
async fn what_a_query_says_twice_is_computed_once() {
    let instance = start().await;
    instance.run("CREATE TABLE t (k INT, v INT)").await;
    instance
        .run(
            "CREATE MATERIALIZED VIEW best AS WITH counts AS (SELECT k, count(*) AS n FROM t GROUP BY k) \
             SELECT c.k, c.n FROM counts AS c WHERE c.n = (SELECT max(n) FROM counts)",
        )
        .await;
    instance.run("INSERT INTO t SELECT i % 3, i FROM generate_series(1, 10) AS g (i)").await;
    assert_eq!(instance.lines("SELECT * FROM best").await, ["1 4"]);
    instance.run("DELETE FROM t WHERE v IN (1, 4)").await;
    assert_eq!(instance.lines("SELECT * FROM best ORDER BY k").await, ["0 3", "2 3"]);
    assert!(instance.lines("VALIDATE MATERIALIZED VIEW best").await.is_empty());

    let operators = instance.lines("EXPLAIN ANALYZE MATERIALIZED VIEW best").await;
    // A line for each, that begins with its number.
    let reads = operators.iter().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 1 && words[0].parse::<u32>().is_ok() && words[1] == "Input"
    });
    assert_eq!(reads.count(), 1, "{operators:#?}");
}
