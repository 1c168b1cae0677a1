//! The protocol's corners: portals, cancel, pipelines, errors with positions, parameters.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future};
use tokio_postgres::NoTls;
use tokio_postgres::types::Type;

use crate::harness::start;

#[tokio::test]
async fn a_portal_gives_its_rows_bit_by_bit() {
    let instance = start().await;
    let mut client = instance.client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT i FROM generate_series(1, 10) AS g(i) ORDER BY i", &[]).await.unwrap();
    let mut all: Vec<Vec<i64>> = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 4).await.unwrap();
        if rows.is_empty() {
            break;
        }
        all.push(rows.iter().map(as_i64).collect());
    }
    assert_eq!(all, [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10]]);
    // A portal of one transaction beside another.
    let one = transaction.bind("SELECT i FROM generate_series(1, 3) AS g(i) ORDER BY i", &[]).await.unwrap();
    let two = transaction.bind("SELECT i FROM generate_series(11, 13) AS g(i) ORDER BY i", &[]).await.unwrap();
    assert_eq!(as_i64(&transaction.query_portal(&one, 1).await.unwrap()[0]), 1);
    assert_eq!(as_i64(&transaction.query_portal(&two, 1).await.unwrap()[0]), 11);
    assert_eq!(transaction.query_portal(&one, 0).await.unwrap().len(), 2);
    assert_eq!(transaction.query_portal(&two, 0).await.unwrap().len(), 2);
    transaction.commit().await.unwrap();
}

fn as_i64(row: &tokio_postgres::Row) -> i64 {
    match *row.columns()[0].type_() {
        Type::INT4 => i64::from(row.get::<_, i32>(0)),
        _ => row.get(0),
    }
}

/// A statement that runs until it is cancelled: more rows than anyone waits for.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 3000000) AS a(i), generate_series(1, 3000000) AS b(j)";

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_statement_of_either_protocol() {
    let instance = start().await;
    for simple in [true, false] {
        let client = instance.client().await;
        let token = client.cancel_token();
        let running = tokio::spawn(async move {
            let result = if simple {
                client.simple_query(ENDLESS).await.map(|_| ())
            } else {
                client.query(ENDLESS, &[]).await.map(|_| ())
            };
            (result, client)
        });
        // A cancel that comes before the statement has begun has nothing to cancel: ask until it is heard.
        while !running.is_finished() {
            token.cancel_query(NoTls).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (result, client) = running.await.unwrap();
        let error = result.expect_err("cancelled");
        assert_eq!(error.code().map(|c| c.code()), Some("57014"), "simple: {simple}: {error:?}");
        // The session goes on; a late cancel may hit one more statement.
        let again = client.simple_query("SELECT 1").await;
        assert!(again.is_ok() || again.unwrap_err().code().is_some_and(|c| c.code() == "57014"));
        client.simple_query("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn statement_timeout() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("SET statement_timeout = '100ms'").await.unwrap();
    let error = client.simple_query(ENDLESS).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    client.batch_execute("SET statement_timeout = 0; SELECT 1").await.unwrap();
}

#[tokio::test]
async fn errors_carry_code_position_and_hint() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("CREATE TABLE customers (name TEXT, city TEXT)").await.unwrap();
    let fields = |error: tokio_postgres::Error| {
        let e = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
        let position = match e.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(p)) => Some(*p),
            _ => None,
        };
        (e.code().code().to_string(), position, e.hint().map(String::from))
    };
    let (code, position, _) = fields(client.simple_query("SELECT 1;\nSELEC 2").await.unwrap_err());
    assert_eq!((code.as_str(), position), ("42601", Some(11)));
    let (code, _, hint) = fields(client.simple_query("SELECT nam FROM customers").await.unwrap_err());
    assert_eq!(code, "42703");
    assert!(hint.unwrap_or_default().contains("name"));
    let (code, _, _) = fields(client.query("SELECT * FROM custmers", &[]).await.unwrap_err());
    assert_eq!(code, "42P01");
}

/// What follows an error in a pipeline is skipped up to Sync, and the next statement is answered.
#[tokio::test]
async fn an_error_in_a_pipeline() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let values = [1i32, 2, 1, 3];
    let results = future::join_all(values.iter().map(|v| {
        let (client, insert) = (&client, &insert);
        async move { client.execute(insert, &[v]).await }
    }))
    .await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(results[2].as_ref().unwrap_err().code().unwrap().code(), "23505");
    assert_eq!(instance.lines("SELECT a FROM t ORDER BY a").await, ["1", "2", "3"]);
}

/// A simple query of several statements is one transaction.
#[tokio::test]
async fn several_statements_in_one_message_are_all_or_nothing() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT)").await;
    let client = instance.client().await;
    client.batch_execute("INSERT INTO t VALUES (1); SELECT 1/0; INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(instance.value("SELECT count(*) FROM t").await, "0");
    client.batch_execute("INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); SELECT 1/0").await.unwrap_err();
    assert_eq!(instance.lines("SELECT a FROM t").await, ["1"]);
}

#[tokio::test]
async fn parameters_take_the_types_of_their_places() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("CREATE TABLE t (a BIGINT, b TEXT, c NUMERIC(10,2), d TIMESTAMPTZ)").await.unwrap();
    let types = |sql: &'static str| {
        let prepared = client.prepare(sql);
        async move { prepared.await.unwrap().params().to_vec() }
    };
    assert_eq!(types("SELECT * FROM t WHERE a = $1 AND b LIKE $2").await, [Type::INT8, Type::TEXT]);
    assert_eq!(types("INSERT INTO t (b, a) VALUES ($1, $2)").await, [Type::TEXT, Type::INT8]);
    assert_eq!(types("UPDATE t SET c = $1 WHERE d < $2").await, [Type::NUMERIC, Type::TIMESTAMPTZ]);
    assert_eq!(types("SELECT $1::int + $2::int").await, [Type::INT4, Type::INT4]);
    assert_eq!(types("SELECT $1").await, [Type::TEXT]);
    assert_eq!(types("SELECT * FROM t LIMIT $1").await, [Type::INT8]);
    // The same parameter twice, and out of order.
    let row = client.query_one("SELECT $2::text || $1::text || $2::text", &[&"b", &"a"]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "aba");
}

#[tokio::test]
async fn a_prepared_statement_follows_the_table() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await.unwrap();
    let select = client.prepare("SELECT a FROM t WHERE a >= $1").await.unwrap();
    assert_eq!(client.query(&select, &[&0i32]).await.unwrap().len(), 1);
    client.batch_execute("INSERT INTO t VALUES (2); CREATE TABLE other (x INT)").await.unwrap();
    assert_eq!(client.query(&select, &[&0i32]).await.unwrap().len(), 2);
    client.batch_execute("DROP TABLE t").await.unwrap();
    let error = client.query(&select, &[&0i32]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42P01");
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let instance = start().await;
    let client = instance.client().await;
    let version: String = client.query_one("SELECT version()", &[]).await.unwrap().get(0);
    assert!(version.starts_with("PostgreSQL "), "{version}");
    assert!(version.contains("Tidemark"), "{version}");
    for (setting, value) in [
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ] {
        assert_eq!(instance.value(&format!("SHOW {setting}")).await, value);
    }
    assert_eq!(instance.value("SELECT current_user, current_database()").await, "tidemark tidemark");
}

/// A client that reads slowly makes the server wait, and all rows arrive.
#[tokio::test]
async fn a_slow_reader_gets_all_rows() {
    let instance = start().await;
    let client = instance.client().await;
    let rows =
        client.query_raw("SELECT i FROM generate_series(1, 200000) AS g(i)", std::iter::empty::<i32>()).await.unwrap();
    let mut rows = std::pin::pin!(rows);
    let mut n = 0;
    while rows.next().await.transpose().unwrap().is_some() {
        n += 1;
        if n % 50_000 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(n, 200_000);
}

#[tokio::test]
async fn an_unread_result_is_let_go() {
    let instance = start().await;
    let client = instance.client().await;
    {
        let rows = client
            .query_raw("SELECT i FROM generate_series(1, 100000) AS g(i)", std::iter::empty::<i32>())
            .await
            .unwrap();
        let mut rows = std::pin::pin!(rows);
        rows.try_next().await.unwrap();
    }
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}
