//! COPY FROM STDIN and TO STDOUT in its three formats.

use std::io::Write;
use std::pin::pin;
use std::process::Stdio;

use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;

use crate::harness::{Instance, start, text};

async fn copy_in(client: &tokio_postgres::Client, sql: &str, data: &str) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(client.copy_in::<_, Bytes>(sql).await?);
    // In small pieces, so that rows are cut anywhere.
    for piece in data.as_bytes().chunks(7) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn copy_out(client: &tokio_postgres::Client, sql: &str) -> String {
    let pieces: Vec<Bytes> = client.copy_out(sql).await.unwrap().try_collect().await.unwrap();
    text(&pieces.concat())
}

async fn table(instance: &Instance) -> tokio_postgres::Client {
    instance.run("CREATE TABLE t (a INT, b TEXT, c TIMESTAMP)").await;
    instance.client().await
}

#[tokio::test]
async fn text_format() {
    let instance = start().await;
    let client = table(&instance).await;
    let data =
        "1\tone\t2024-01-01 00:00:00\n2\t\\N\t\\N\n3\ttab\\there \\\\ and\\nline\t2024-02-29 12:34:56.789\n4\t\t\\N\n";
    assert_eq!(copy_in(&client, "COPY t FROM STDIN", data).await.unwrap(), 4);
    assert_eq!(copy_out(&client, "COPY t TO STDOUT").await, data);
    assert_eq!(copy_out(&client, "COPY (SELECT a, b FROM t WHERE a > 3 ORDER BY a) TO STDOUT").await, "4\t\n");
    assert_eq!(
        copy_out(&client, "COPY t (b) TO STDOUT WITH (DELIMITER '|', NULL 'nil')").await.lines().nth(1),
        Some("nil")
    );
}

#[tokio::test]
async fn csv_format() {
    let instance = start().await;
    let client = table(&instance).await;
    let data = "a,b,c\n1,one,2024-01-01 00:00:00\n2,,\n3,\"say \"\"hi\"\", twice\nor so\",\n4,\"\",\n";
    assert_eq!(copy_in(&client, "COPY t FROM STDIN WITH (FORMAT csv, HEADER)", data).await.unwrap(), 4);
    assert_eq!(instance.lines("SELECT a FROM t WHERE b IS NULL").await, ["2"]);
    assert_eq!(copy_out(&client, "COPY t TO STDOUT WITH (FORMAT csv, HEADER true)").await, data);
    assert_eq!(
        copy_out(&client, "COPY (SELECT 1 AS x, 'a;b' AS y) TO STDOUT WITH (FORMAT csv, DELIMITER ';')").await,
        "1;\"a;b\"\n"
    );
}

#[tokio::test]
async fn binary_format() {
    let instance = start().await;
    let client = instance.client().await;
    client.batch_execute("CREATE TABLE t (a BIGINT, b TEXT, c DOUBLE PRECISION)").await.unwrap();
    let types = [Type::INT8, Type::TEXT, Type::FLOAT8];
    let sink = client.copy_in("COPY t FROM STDIN WITH (FORMAT binary)").await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for n in 0..1000i64 {
        let name = (n % 3 > 0).then(|| format!("name {n}"));
        writer.as_mut().write(&[&n, &name, &(n as f64 / 2.0)]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 1000);
    let stream =
        client.copy_out("COPY (SELECT a, b, c FROM t ORDER BY a) TO STDOUT WITH (FORMAT binary)").await.unwrap();
    let rows: Vec<_> = BinaryCopyOutStream::new(stream, &types).try_collect().await.unwrap();
    assert_eq!(rows.len(), 1000);
    assert_eq!(rows[3].get::<Option<String>>(1), None);
    assert_eq!((rows[4].get::<i64>(0), rows[4].get::<String>(1), rows[4].get::<f64>(2)), (4, "name 4".into(), 2.0));
}

#[tokio::test]
async fn a_bad_row_keeps_nothing() {
    let instance = start().await;
    let client = table(&instance).await;
    for (sql, data, code) in [
        ("COPY t FROM STDIN", "1\tone\t\\N\nx\ttwo\t\\N\n", "22P02"),
        ("COPY t FROM STDIN", "1\tone\n", "22P04"),
        ("COPY t FROM STDIN", "1\tone\t\\N\textra\n", "22P04"),
        ("COPY t FROM STDIN WITH (FORMAT csv)", "1,\"unterminated\n", "22P04"),
        ("COPY t FROM STDIN WITH (FORMAT csv)", "1,one,not a time\n", "22007"),
        ("COPY t FROM STDIN", "99999999999\tone\t\\N\n", "22003"),
    ] {
        let error = copy_in(&client, sql, data).await.expect_err(data);
        assert_eq!(error.code().map(|c| c.code()), Some(code), "{data:?}: {error:?}");
        assert_eq!(instance.value("SELECT count(*) FROM t").await, "0");
    }
    assert_eq!(copy_in(&client, "COPY t FROM STDIN", "").await.unwrap(), 0);
}

#[tokio::test]
async fn constraints_hold_and_views_see_it() {
    let instance = start().await;
    instance.run("CREATE TABLE p (id INT PRIMARY KEY, n INT NOT NULL DEFAULT 5 CHECK (n > 0))").await;
    instance.run("CREATE MATERIALIZED VIEW v AS SELECT sum(n) AS s FROM p").await;
    let client = instance.client().await;
    assert_eq!(copy_in(&client, "COPY p (id) FROM STDIN", "1\n2\n").await.unwrap(), 2);
    assert_eq!(instance.value("SELECT s FROM v").await, "10");
    for (data, code) in [("1\t1\n", "23505"), ("3\t\\N\n", "23502"), ("3\t-1\n", "23514")] {
        let error = copy_in(&client, "COPY p FROM STDIN", data).await.unwrap_err();
        assert_eq!(error.code().map(|c| c.code()), Some(code), "{error:?}");
    }
    assert_eq!(instance.value("SELECT s FROM v").await, "10");
}

#[tokio::test]
async fn psql_copies_both_ways() {
    let instance = start().await;
    instance.run("CREATE TABLE t (a INT, b TEXT)").await;
    let mut child = instance
        .psql_command()
        .args(["-q", "-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "\\copy t from stdin with (format csv)\n1,one\n2,two\n\\.\n\\copy t to stdout\n";
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "1\tone\n2\ttwo\n");
}

#[tokio::test]
async fn columns_are_normalised() {
    let instance = start().await;
    let client = instance.client().await;
    let columns = "id INT PRIMARY KEY, mail TEXT NORMALIZE (trim, lower), \
                   at TIMESTAMPTZ NORMALIZE (parse_timestamp ['DD.MM.YYYY HH24:MI'], on_failure = null), \
                   host TEXT NORMALIZE (derive(split_part(mail, '@', 2)))";
    for (table, with) in [("plain", ""), ("merged", " WITH (strategy = 'merge')")] {
        client.batch_execute(&format!("CREATE TABLE {table} ({columns}){with}")).await.unwrap();
        let sql = format!("COPY {table} FROM STDIN WITH (FORMAT csv)");
        assert_eq!(copy_in(&client, &sql, "1,  A@X.org,05.03.2024 10:20\n2,B@Y.org ,soon\n3,,\n").await.unwrap(), 3);
        // Binary values are of the column's type, and need no parsing.
        let types = [Type::INT4, Type::TEXT, Type::TIMESTAMPTZ];
        let sink = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await.unwrap();
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
        writer.as_mut().write(&[&4_i32, &"C@Z.org", &at]).await.unwrap();
        writer.finish().await.unwrap();
        // A parameter is given as text, where one is parsed.
        let insert = client.prepare(&format!("INSERT INTO {table} (id, mail, at) VALUES ($1, $2, $3)")).await.unwrap();
        assert_eq!(insert.params(), [Type::INT4, Type::TEXT, Type::TEXT]);
        client.execute(&insert, &[&5_i32, &" D@W.org", &"01.02.2024 00:00"]).await.unwrap();
        let sql = format!("SELECT id, mail, (at AT TIME ZONE 'UTC')::text AS at, host FROM {table} ORDER BY id");
        assert_eq!(
            copy_out(&client, &format!("COPY ({sql}) TO STDOUT")).await,
            "1\ta@x.org\t2024-03-05 10:20:00\tx.org\n2\tb@y.org\t\\N\ty.org\n3\t\\N\t\\N\t\\N\n\
             4\tc@z.org\t1970-01-02 00:00:00\tz.org\n5\td@w.org\t2024-02-01 00:00:00\tw.org\n",
            "{table}"
        );
    }
}
