//! SELECTs by key that are prepared and run many times: the plan that is kept says what the statement would say without it.

use tokio_postgres::types::Type;

use crate::harness::start;

#[tokio::test]
async fn a_prepared_lookup_gives_what_is_there() {
    let instance = start().await;
    instance
        .run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) g (i)")
        .await;
    let client = instance.client().await;
    let one = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    let few = client.prepare("SELECT v, id AS number, id FROM t WHERE id IN ($1, $2, $3)").await.unwrap();
    let more = client.prepare("SELECT id + 1, upper(v) FROM t WHERE id = $1 AND v <> $2").await.unwrap();
    for round in 0..3 {
        for id in [1, 50, 100] {
            assert_eq!(client.query_one(&one, &[&id]).await.unwrap().get::<_, &str>(0), format!("v{id}"), "{round}");
        }
        for nothing in [Some(0), Some(101), Some(-1), None::<i32>] {
            assert!(client.query(&one, &[&nothing]).await.unwrap().is_empty(), "{nothing:?}");
        }
        // Each row once, whatever is missing or said twice.
        let rows = client.query(&few, &[&7, &None::<i32>, &7]).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, i32>(1), rows[0].get::<_, i32>(2)), ("v7", 7, 7));
        assert_eq!(rows[0].columns()[1].name(), "number");
        let mut found: Vec<i32> =
            client.query(&few, &[&9, &3, &1000]).await.unwrap().iter().map(|row| row.get(2)).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 9]);
        let row = client.query_one(&more, &[&5, &""]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (6, "V5"));
        assert!(client.query(&more, &[&5, &"v5"]).await.unwrap().is_empty());
    }
    instance.run("UPDATE t SET v = 'new' WHERE id = 1; DELETE FROM t WHERE id = 50").await;
    assert_eq!(client.query_one(&one, &[&1]).await.unwrap().get::<_, &str>(0), "new");
    assert!(client.query(&one, &[&50]).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_of_every_kind_are_found() {
    let instance = start().await;
    for (t, values) in [
        ("SMALLINT", ["-32768", "0", "32767"]),
        ("BIGINT", ["-9223372036854775808", "0", "9223372036854775807"]),
        ("TEXT", ["''", "'eight888'", "'a key that is longer than the first blocks of the row format, all of them'"]),
        ("DOUBLE PRECISION", ["0", "1.5", "'NaN'"]),
        ("NUMERIC(10,2)", ["-1", "0.01", "99"]),
        (
            "UUID",
            [
                "'00000000-0000-0000-0000-000000000000'",
                "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            ],
        ),
        ("DATE", ["'1969-12-31'", "'2024-02-29'", "'9999-12-31'"]),
        ("TIMESTAMPTZ", ["'1969-12-31 00:00:00+00'", "'2024-02-29 12:00:00+02'", "'2030-01-01 00:00:00+00'"]),
        ("BOOLEAN", ["true", "false", "false"]),
    ] {
        instance
            .run(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (a {t}, b INT, n INT, PRIMARY KEY (a, b))"))
            .await;
        for (n, value) in values.iter().enumerate() {
            instance.run(&format!("INSERT INTO t VALUES ({value}, {n}, {n})")).await;
        }
        let client = instance.client().await;
        for (n, value) in values.iter().enumerate() {
            client
                .batch_execute(&format!("PREPARE p{n} AS SELECT n FROM t WHERE a = {value} AND b = $1"))
                .await
                .unwrap();
            for _ in 0..2 {
                let found =
                    client.query(&format!("SELECT n FROM t WHERE b = $1 AND a = {value}"), &[&(n as i32)]).await;
                assert_eq!(found.unwrap()[0].get::<_, i32>(0), n as i32, "{t} {value}");
                let rows = instance_rows(&client, &format!("EXECUTE p{n} ({n})")).await;
                assert_eq!(rows, [n.to_string()], "{t} {value}");
            }
        }
    }
}

async fn instance_rows(client: &tokio_postgres::Client, statement: &str) -> Vec<String> {
    let messages = client.simple_query(statement).await.unwrap();
    messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_string()),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_transaction_looks_up_what_it_has_done() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')").await;
    let (client, other) = (instance.client().await, instance.client().await);
    let one = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    let value =
        async |id: i32| -> Option<String> { client.query_opt(&one, &[&id]).await.unwrap().map(|row| row.get(0)) };
    assert_eq!(value(1).await.as_deref(), Some("a"));
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(value(1).await.as_deref(), Some("a"));
    other.batch_execute("UPDATE t SET v = 'other' WHERE id = 2").await.unwrap();
    assert_eq!(value(2).await.as_deref(), Some("b"), "one moment");
    client.batch_execute("UPDATE t SET v = 'mine' WHERE id = 1; INSERT INTO t VALUES (3, 'c')").await.unwrap();
    assert_eq!((value(1).await.as_deref(), value(3).await.as_deref()), (Some("mine"), Some("c")));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!((value(1).await.as_deref(), value(3).await), (Some("a"), None));
    assert_eq!(value(2).await.as_deref(), Some("other"));
    // In a transaction that has failed nothing is looked up.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SELECT 1 / 0").await.unwrap_err();
    let refused = client.query(&one, &[&1]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(1).await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_lookup_follows_its_relation() {
    let instance = start().await;
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a')").await;
    let client = instance.client().await;
    let one = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    let first = async || client.query(&one, &[&1]).await;
    assert_eq!(first().await.unwrap()[0].get::<_, &str>(0), "a");
    instance.run("ALTER TABLE t ADD COLUMN w INT").await;
    assert_eq!(first().await.unwrap()[0].get::<_, &str>(0), "a");
    instance.run("ALTER TABLE t RENAME TO u").await;
    assert_eq!(first().await.unwrap_err().code().unwrap().code(), "42P01");
    instance.run("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'another')").await;
    assert_eq!(first().await.unwrap()[0].get::<_, &str>(0), "another");
    instance.run("DROP TABLE t; CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 5)").await;
    let error = first().await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000", "{error:?}");
    instance.run("DROP TABLE t").await;
    assert_eq!(first().await.unwrap_err().code().unwrap().code(), "42P01");
    // The search path says which table it is.
    instance
        .run("CREATE SCHEMA s; CREATE TABLE s.t (id INT PRIMARY KEY, v TEXT); INSERT INTO s.t VALUES (1, 's')")
        .await;
    client.batch_execute("SET search_path = s").await.unwrap();
    assert_eq!(first().await.unwrap()[0].get::<_, &str>(0), "s");
    assert_eq!(one.params(), [Type::INT4]);
}
