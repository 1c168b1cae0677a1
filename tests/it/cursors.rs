//! Cursors over the wire: streaming, limits, what clients ask of them, and those over SUBSCRIBE.

use tokio_postgres::SimpleQueryMessage;

use crate::harness::{Instance, start, start_with};
use crate::raw::Raw;

fn texts(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_string()).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn lines(client: &tokio_postgres::Client, sql: &str) -> Vec<String> {
    texts(&client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")))
}

#[tokio::test]
async fn kept_rows_have_a_limit() {
    let instance = start_with(&["--max-cursor-bytes", "16MB"]).await;
    let client = instance.client().await;
    let big = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 100000) AS g(i)";
    client.batch_execute(&format!("BEGIN; DECLARE c SCROLL CURSOR FOR {big}; FETCH 10 FROM c")).await.unwrap();
    let error = client.batch_execute("FETCH LAST FROM c").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53400", "{error:?}");
    assert!(error.message().contains("max_cursor_bytes"), "{error:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    // A cursor WITH HOLD that is too large fails its COMMIT, with all that the transaction did.
    client.batch_execute("CREATE TABLE t (a INT)").await.unwrap();
    client
        .batch_execute(&format!("BEGIN; INSERT INTO t VALUES (1); DECLARE c CURSOR WITH HOLD FOR {big}"))
        .await
        .unwrap();
    let error = client.batch_execute("COMMIT").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "53400");
    assert_eq!(lines(&client, "SELECT count(*) FROM t").await, ["0"]);
    assert!(lines(&client, "SELECT name FROM pg_cursors").await.is_empty());
    // What a cursor has kept is free again: many small ones in turn fit.
    for _ in 0..5 {
        let small = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 5000) AS g(i)";
        client
            .batch_execute(&format!("DECLARE c CURSOR WITH HOLD FOR {small}; MOVE ALL FROM c; CLOSE c"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn psql_fetches_a_result_in_pieces() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT); INSERT INTO t SELECT i FROM generate_series(1, 1000) AS g (i)").await;
    let output = instance.psql(&[
        "-At",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "FETCH_COUNT=100",
        "-c",
        "SELECT a FROM t ORDER BY a",
        "-c",
        "SELECT 1 / (a - 500) FROM t ORDER BY a",
    ]);
    let (out, err) = (crate::harness::text(&output.stdout), crate::harness::text(&output.stderr));
    let rows: Vec<&str> = out.lines().collect();
    assert_eq!((rows[0], rows[999]), ("1", "1000"), "{err}");
    assert!(err.contains("division by zero"), "{err}");
}

/// What psycopg's named cursors do: DECLARE, then Describe of a portal of that name, FETCH, CLOSE.
#[tokio::test]
async fn the_protocol_describes_and_closes_a_cursor() {
    let instance = start().await;
    let mut raw = Raw::connect(&instance).await;
    raw.query("BEGIN; DECLARE c CURSOR FOR SELECT 7::BIGINT AS n, 'x'::TEXT AS t").await;
    raw.send(b'D', b"Pc\0").await;
    raw.send(b'S', b"").await;
    let messages = raw.until_ready().await;
    let (kind, body) = &messages[0];
    assert_eq!(*kind, b'T');
    assert!(body.windows(2).any(|w| w == b"n\0") && body.windows(2).any(|w| w == b"t\0"), "{body:?}");
    // A portal of the protocol cannot have its name, and Execute is FETCH's.
    raw.send(b'P', b"\0SELECT 1\0\0\0").await;
    raw.send(b'B', b"c\0\0\0\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(code(&raw.until_ready().await), "42P03");
    raw.query("ROLLBACK; BEGIN; DECLARE c BINARY CURSOR FOR SELECT 7::INT AS n").await;
    let fetched = raw.query("FETCH c").await;
    let row = fetched.iter().find(|(kind, _)| *kind == b'D').unwrap();
    assert_eq!(row.1, [0, 1, 0, 0, 0, 4, 0, 0, 0, 7], "in binary");
    raw.send(b'C', b"Pc\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until_ready().await[0].0, b'3');
    assert_eq!(code(&raw.query("FETCH c").await), "34000");
}

fn code(messages: &[(u8, Vec<u8>)]) -> String {
    let (_, body) = messages.iter().find(|(kind, _)| *kind == b'E').expect("an error");
    let field = body.split(|b| *b == 0).find(|field| field.first() == Some(&b'C')).unwrap();
    String::from_utf8(field[1..].to_vec()).unwrap()
}

#[tokio::test]
async fn the_extended_protocol_declares_with_parameters_and_fetches_in_pieces() {
    let instance = start().await;
    let mut client = instance.client().await;
    let transaction = client.transaction().await.unwrap();
    let declare = "DECLARE c CURSOR FOR SELECT i FROM generate_series(1, 100) AS g(i) WHERE i <= $1 ORDER BY i";
    transaction.execute(declare, &[&10i64]).await.unwrap();
    let rows = transaction.query("FETCH 4 FROM c", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // A portal of FETCH that has not ended has the cursor.
    let portal = transaction.bind("FETCH 4 FROM c", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap()[0].get::<_, i64>(0), 5);
    let rest = transaction.query_portal(&portal, 0).await.unwrap();
    assert_eq!(rest.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>(), [6, 7, 8]);
    let portal = transaction.bind("FETCH ALL FROM c", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), 1);
    let error = transaction.query("FETCH c", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55006");
    drop(portal);
}

#[tokio::test]
async fn a_statement_that_the_protocol_prepared_is_deallocated_by_sql() {
    let instance = start().await;
    let mut raw = Raw::connect(&instance).await;
    raw.send(b'P', b"mine\0SELECT 1\0\0\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(raw.until_ready().await[0].0, b'1');
    let done = raw.query("DEALLOCATE mine").await;
    assert_eq!(done[0], (b'C', b"DEALLOCATE\0".to_vec()));
    assert_eq!(code(&raw.query("DEALLOCATE mine").await), "26000");
    raw.send(b'D', b"Smine\0").await;
    raw.send(b'S', b"").await;
    assert_eq!(code(&raw.until_ready().await), "26000");
    // In a transaction the error fails it, as any does.
    raw.query("BEGIN").await;
    assert_eq!(code(&raw.query("DEALLOCATE mine").await), "26000");
    assert_eq!(code(&raw.query("SELECT 1").await), "25P02");
}

#[tokio::test]
async fn a_cursor_follows_a_view() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT PRIMARY KEY, b INT); INSERT INTO t VALUES (1, 10), (2, 20)").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT a, b * 2 AS b FROM t").await;
    let client = instance.client().await;
    client.batch_execute("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE v").await.unwrap();
    // The contents first, one at a time.
    let changes = |rows: Vec<String>| -> Vec<String> {
        let mut rows: Vec<String> = rows.iter().map(|r| r.split_once(' ').unwrap().1.to_string()).collect();
        rows.sort();
        rows
    };
    let mut first = lines(&client, "FETCH 1 FROM c").await;
    first.extend(lines(&client, "FETCH FORWARD 5 FROM c").await);
    assert_eq!(changes(first), ["1 1 20", "1 2 40"]);
    assert!(lines(&client, "FETCH 5 FROM c WITH (timeout = '20ms')").await.is_empty());
    // Then each change, though the transaction itself goes on reading its snapshot.
    instance.run("UPDATE t SET b = 11 WHERE a = 1").await;
    assert_eq!(changes(lines(&client, "FETCH ALL FROM c").await), ["-1 1 20", "1 1 22"]);
    assert_eq!(lines(&client, "SELECT b FROM v WHERE a = 1").await, ["20"]);
    // FETCH waits for a first row.
    let waiting = tokio::spawn(async move {
        let rows = lines(&client, "FETCH ALL FROM c").await;
        (rows, client)
    });
    instance.run("INSERT INTO t VALUES (3, 30)").await;
    let (rows, client) = waiting.await.unwrap();
    assert_eq!(changes(rows), ["1 3 60"]);
    // A cancelled wait fails its transaction.
    let token = client.cancel_token();
    let waiting = tokio::spawn(async move {
        let error = client.simple_query("FETCH ALL FROM c").await.unwrap_err();
        (error, client)
    });
    while !waiting.is_finished() {
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (error, client) = waiting.await.unwrap();
    assert_eq!(error.code().unwrap().code(), "57014");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(lines(&client, "SELECT count(*) FROM pg_cursors").await, ["0"]);
    // The subscriber is gone, and the clock goes on.
    assert_eq!(value_after_insert(&instance).await, "4");
}

async fn value_after_insert(instance: &Instance) -> String {
    instance.run("INSERT INTO t VALUES (4, 40)").await;
    instance.value("SELECT count(*) FROM v").await
}
