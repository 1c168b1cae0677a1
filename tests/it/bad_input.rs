//! Bad input: a clear error, the server goes on, nothing else is touched.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Instance, Random, start};

/// How long each fuzzer runs; TIDEMARK_FUZZ_SECONDS makes it longer.
fn fuzz_time() -> Duration {
    Duration::from_secs(std::env::var("TIDEMARK_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10))
}

/// A table with a view on it, which nothing below may touch.
async fn with_witness() -> Instance {
    let instance = start().await;
    instance.run("CREATE TABLE witness (a INT); INSERT INTO witness VALUES (1), (2)").await;
    instance.run("CREATE MATERIALIZED VIEW witness_sum AS SELECT sum(a) AS s FROM witness").await;
    instance
}

async fn untouched(instance: &Instance) {
    assert_eq!(instance.value("SELECT (SELECT count(*) FROM witness), (SELECT s FROM witness_sum)").await, "2 3");
}

#[tokio::test]
async fn malformed_statements() {
    let instance = with_witness().await;
    for (sql, code) in [
        ("SELEC 1", "42601"),
        ("SELECT 'unterminated", "42601"),
        ("SELECT \"unterminated", "42601"),
        ("SELECT $$unterminated", "42601"),
        ("SELECT /* unterminated", "42601"),
        ("SELECT (1", "42601"),
        ("SELECT 1)", "42601"),
        ("CREATE TABLE (", "42601"),
        ("INSERT INTO witness VALUES (1, 2)", "42601"),
        ("INSERT INTO witness VALUES ('x')", "22P02"),
        ("INSERT INTO witness VALUES (99999999999)", "22003"),
        ("SELECT a FROM witness WHERE", "42601"),
        ("SELECT nothing FROM witness", "42703"),
        ("SELECT * FROM nothing", "42P01"),
        ("SELECT nothing(1)", "42883"),
        ("SELECT 1 / 0", "22012"),
        ("SELECT 2147483647 + 1", "22003"),
        ("SELECT 9223372036854775807 + 1", "22003"),
        ("SELECT 'x'::int", "22P02"),
        ("SELECT '2024-13-01'::date", "22008"),
        ("SELECT 'x'::uuid", "22P02"),
        ("SELECT '{'::json", "22P02"),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM nothing", "42P01"),
        ("CREATE SOURCE s (a INT) WITH (connector = 'nothing')", "22023"),
        ("CREATE SOURCE s (a INT) WITH (connector = 'datagen', nothing = 1)", "22023"),
        ("DROP TABLE nothing", "42P01"),
        ("DROP TABLE witness", "2BP01"),
        ("SET nothing_at_all = 1", "42704"),
    ] {
        assert_eq!(instance.error(sql).await.0, code, "{sql}");
    }
    untouched(&instance).await;
}

#[tokio::test]
async fn sources_that_cannot_be_read() {
    let instance = with_witness().await;
    let dir = instance.dir.path();
    std::fs::create_dir(dir.join("parquet")).unwrap();
    std::fs::write(dir.join("parquet/cut.parquet"), b"PAR1 and then nothing").unwrap();
    let parquet = format!(
        "CREATE SOURCE p (*) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE PARQUET",
        dir.join("parquet").display()
    );
    let (code, message) = instance.error(&parquet).await;
    assert!(message.contains("cut.parquet"), "{code} {message}");

    let nowhere = "CREATE SOURCE n (*) WITH (connector = 'file', path = '/no/such/directory') FORMAT PLAIN ENCODE CSV (header = 'false')";
    let (_, message) = instance.error(nowhere).await;
    assert!(message.contains("/no/such/directory"), "{message}");

    // Rows that do not parse stop the source, with file and line in the reason, and nothing else. (Together with the view: a source
    // that nobody reads parses no columns, and the view would meet the line as it catches up.)
    std::fs::create_dir(dir.join("csv")).unwrap();
    std::fs::write(dir.join("csv/1.csv"), "1,one\n2,two\nthree,3\n4,four\n").unwrap();
    instance
        .run(&format!(
            "CREATE SOURCE c (id INT, name TEXT) WITH (connector = 'file', path = '{}') FORMAT PLAIN ENCODE CSV (header = 'false'); \
             CREATE MATERIALIZED VIEW names AS SELECT id, name FROM c",
            dir.join("csv").display()
        ))
        .await;
    instance.wait_for("SELECT count(*) FROM tidemark.sources WHERE name = 'c' AND error LIKE '%1.csv%'", &["1"]).await;
    instance.run("INSERT INTO witness VALUES (0); DELETE FROM witness WHERE a = 0").await;
    untouched(&instance).await;
}

#[tokio::test]
async fn rows_that_do_not_parse_can_be_dropped_and_are_counted() {
    let instance = start().await;
    let dir = instance.dir.path().join("csv");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("1.csv"), "1,one\nthree,3\n4,four\n").unwrap();
    instance
        .run(&format!(
            "CREATE SOURCE c (id INT, name TEXT) WITH (connector = 'file', path = '{}', on_error = 'drop') FORMAT PLAIN ENCODE CSV (header = 'false')",
            dir.display()
        ))
        .await;
    instance.run("CREATE MATERIALIZED VIEW names AS SELECT id, name FROM c").await;
    instance.wait_for("SELECT id FROM names ORDER BY id", &["1", "4"]).await;
    instance.wait_for("SELECT bad_rows FROM tidemark.sources WHERE name = 'c'", &["1"]).await;
}

/// Statements made of pieces of statements: an error or a result, never a broken connection.
#[tokio::test]
async fn fuzzed_statements() {
    const PIECES: &[&str] = &[
        "SELECT",
        "FROM",
        "WHERE",
        "witness",
        "a",
        "*",
        ",",
        "(",
        ")",
        "1",
        "'x'",
        "NULL",
        "AND",
        "OR",
        "NOT",
        "IN",
        "=",
        "<",
        "+",
        "-",
        "CREATE",
        "MATERIALIZED",
        "VIEW",
        "AS",
        "GROUP",
        "BY",
        "ORDER",
        "LIMIT",
        "count(*)",
        "sum(a)",
        "::int",
        "::text",
        "CASE",
        "WHEN",
        "THEN",
        "END",
        "SUBSCRIBE",
        "SOURCE",
        "WITH",
        "EXPLAIN",
        "SHOW",
        "VALUES",
        "UNION",
        "ALL",
        "JOIN",
        "ON",
        "LATERAL",
        "OVER",
        "PARTITION",
        "INTERVAL",
        "TUMBLE",
        "DESCRIPTOR",
        "EMIT",
        "ON WINDOW CLOSE",
        "[",
        "]",
        "ARRAY",
        "$1",
        "$$",
        "--",
        "/*",
        "*/",
        ";",
        "\"",
        "'",
        "\\",
        "\u{1F9EA}",
        "\u{0}x",
        "1e400",
        "99999999999999999999",
        "0x",
        "E'\\x'",
        "U&'\\00'",
        "@",
        "#",
        "||",
        "->>",
        "~*",
    ];
    let instance = with_witness().await;
    let mut random = Random::new(42);
    let began = Instant::now();
    let mut client = instance.client().await;
    while began.elapsed() < fuzz_time() {
        let n = 1 + random.below(14);
        let sql: Vec<&str> = (0..n).map(|_| PIECES[random.below(PIECES.len() as u64) as usize]).collect();
        let sql = sql.join(" ").replace('\u{0}', "");
        // A live SUBSCRIBE never ends, so bound each statement.
        let outcome = tokio::time::timeout(Duration::from_secs(20), client.simple_query(&sql)).await;
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => {
                let e = e.as_db_error().unwrap_or_else(|| panic!("{e:?} after {sql}\n{}", instance.server.log_tail()));
                assert_ne!(e.code().code(), "XX000", "{sql}: {}", e.message());
            }
            Err(_) => assert!(sql.contains("SUBSCRIBE"), "no answer to {sql}"),
        }
        if sql.contains("SUBSCRIBE") || random.below(50) == 0 {
            client = instance.client().await;
        }
        client.simple_query("ROLLBACK").await.unwrap();
    }
    untouched(&instance).await;
}

/// Deeply nested expressions: refused or computed, but the stack holds.
#[tokio::test]
async fn deep_nesting() {
    let instance = with_witness().await;
    for depth in [100, 10_000, 200_000] {
        for (open, close) in
            [("(", ")"), ("-(", ")"), ("NOT (", ")"), ("CASE WHEN true THEN (", ") END"), ("(SELECT ", ")")]
        {
            let sql = format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth));
            let client = instance.client().await;
            if let Err(e) = client.simple_query(&sql).await {
                assert!(e.as_db_error().is_some(), "{open} {depth} deep: {e:?}\n{}", instance.server.log_tail());
            }
        }
        let sql = format!("SELECT 1{}", " + 1".repeat(depth.min(20_000)));
        if let Err(e) = instance.client().await.simple_query(&sql).await {
            assert!(e.as_db_error().is_some(), "{depth} terms: {e:?}\n{}", instance.server.log_tail());
        }
    }
    untouched(&instance).await;
}

/// Bytes that are no protocol at all, and a protocol cut anywhere.
#[tokio::test]
async fn fuzzed_wire() {
    let instance = with_witness().await;
    let mut random = Random::new(43);
    let began = Instant::now();
    let mut round = 0u64;
    while began.elapsed() < fuzz_time() {
        round += 1;
        let mut stream = TcpStream::connect(("127.0.0.1", instance.server.port)).await.unwrap();
        let mut bytes = Vec::new();
        if !round.is_multiple_of(3) {
            bytes.extend(startup());
        }
        for _ in 0..random.below(6) {
            let body: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
            bytes.push(b"QPBDECSXFHdcf?p\0"[random.below(16) as usize]);
            // Sometimes the length is a lie.
            let length = match random.below(8) {
                0 => random.below(u64::from(u32::MAX)) as u32,
                1 => random.below(4) as u32,
                _ => body.len() as u32 + 4,
            };
            bytes.extend(length.to_be_bytes());
            bytes.extend(body);
        }
        let cut = random.below(bytes.len() as u64 + 1) as usize;
        // The server may hang up first; that is its right.
        let _ = stream.write_all(if round.is_multiple_of(2) { &bytes } else { &bytes[..cut] }).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "round {round}: the server neither answers nor hangs up");
        if round.is_multiple_of(100) {
            untouched(&instance).await;
        }
    }
    untouched(&instance).await;
}

fn startup() -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    body.extend(b"user\0tidemark\0database\0tidemark\0\0");
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

/// A message that claims to be two gigabytes long is not waited for in memory.
#[tokio::test]
async fn a_huge_length_is_refused() {
    let instance = with_witness().await;
    let mut stream = TcpStream::connect(("127.0.0.1", instance.server.port)).await.unwrap();
    stream.write_all(&0x7fff_ffffu32.to_be_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "it waits for two gigabytes of a startup message");
    untouched(&instance).await;
}
