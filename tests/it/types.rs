//! Every type, both ways: as text through psql's protocol, as binary through a driver's.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::harness::start;

/// A value's binary form as it is on the wire, for types that the driver has no Rust type for.
#[derive(Debug, Clone, PartialEq)]
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Stores `values` in a column of type `sql` by binary parameters, and reads them back the same way.
async fn round_trip<T>(client: &tokio_postgres::Client, sql: &str, values: &[T])
where
    T: ToSql + Sync + PartialEq + std::fmt::Debug + for<'a> FromSql<'a>,
{
    client.batch_execute(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (n INT, v {sql})")).await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    for (n, value) in values.iter().enumerate() {
        client.execute(&insert, &[&(n as i32), value]).await.unwrap_or_else(|e| panic!("{sql}: {value:?}: {e:?}"));
    }
    client.execute(&insert, &[&-1i32, &None::<T>]).await.unwrap();
    let rows = client.query("SELECT v FROM t ORDER BY n", &[]).await.unwrap();
    assert_eq!(rows[0].try_get::<_, Option<T>>(0).unwrap_or_else(|e| panic!("{sql}: {e:?}")), None, "{sql}");
    let read: Vec<T> = rows[1..].iter().map(|r| r.try_get(0).unwrap_or_else(|e| panic!("{sql}: {e:?}"))).collect();
    assert_eq!(read, values, "{sql}");
    // And as a parameter that is compared with the column.
    for value in values {
        let found = client.query_one("SELECT count(*) FROM t WHERE v = $1", &[value]).await;
        let found: i64 = found.unwrap_or_else(|e| panic!("{sql}: {value:?}: {e:?}")).get(0);
        assert!(found >= 1, "{sql}: {value:?} is not equal to itself");
    }
}

fn instant(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap()
}

#[tokio::test]
async fn scalars_in_binary() {
    let instance = start().await;
    let client = &instance.client().await;
    round_trip(client, "BOOLEAN", &[true, false]).await;
    round_trip(client, "SMALLINT", &[0, -1, i16::MIN, i16::MAX]).await;
    round_trip(client, "INT", &[0, -1, i32::MIN, i32::MAX]).await;
    round_trip(client, "BIGINT", &[0, -1, i64::MIN, i64::MAX]).await;
    round_trip(client, "REAL", &[0.0f32, -1.5, f32::MIN, f32::MAX, f32::INFINITY]).await;
    round_trip(client, "DOUBLE PRECISION", &[0.0f64, -1.5, f64::MIN, f64::MAX, f64::NEG_INFINITY]).await;
    let texts = ["", "a", "it's", "tab\there", "line\nbreak", "Zürich \u{1F9EA}", "\\N", "NULL"].map(String::from);
    round_trip(client, "TEXT", &texts).await;
    round_trip(client, "VARCHAR(20)", &texts).await;
    round_trip(client, "BYTEA", &[vec![], vec![0u8, 1, 255], (0..=255).collect()]).await;
    round_trip(client, "UUID", &[Uuid::nil(), Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)]).await;
}

#[tokio::test]
async fn dates_and_times_in_binary() {
    let instance = start().await;
    let client = &instance.client().await;
    let date = |y, m, d| NaiveDate::from_ymd_opt(y, m, d).unwrap();
    round_trip(
        client,
        "DATE",
        &[date(2000, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(9999, 12, 31), date(1, 1, 1)],
    )
    .await;
    let time = |h, m, s, us| NaiveTime::from_hms_micro_opt(h, m, s, us).unwrap();
    round_trip(client, "TIME", &[time(0, 0, 0, 0), time(12, 34, 56, 789_012), time(23, 59, 59, 999_999)]).await;
    let stamps =
        ["2000-01-01 00:00:00", "1969-12-31 23:59:59.999999", "2024-02-29 12:00:00.000001", "9999-12-31 23:59:59"];
    round_trip(client, "TIMESTAMP", &stamps.map(instant)).await;
    let instants: Vec<DateTime<Utc>> = stamps.iter().map(|s| instant(s).and_utc()).collect();
    round_trip(client, "TIMESTAMPTZ", &instants).await;
    // An interval: microseconds, days, months.
    let interval = |us: i64, days: i32, months: i32| {
        Raw([us.to_be_bytes().as_slice(), &days.to_be_bytes(), &months.to_be_bytes()].concat())
    };
    round_trip(client, "INTERVAL", &[interval(0, 0, 0), interval(1, 2, 3), interval(-1, -2, -3)]).await;
}

#[tokio::test]
async fn json_in_binary() {
    let instance = start().await;
    let client = &instance.client().await;
    client.batch_execute("CREATE TABLE j (n INT, a JSON, b JSONB)").await.unwrap();
    let values = [r#"{"a": [1, 2.5, null, "x"], "b": {"c": true}}"#, "[]", "1", "\"text\"", "null"];
    for (n, text) in values.iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        client.execute("INSERT INTO j VALUES ($1, $2, $3)", &[&(n as i32), &value, &value]).await.unwrap();
    }
    for (row, text) in client.query("SELECT a, b FROM j ORDER BY n", &[]).await.unwrap().iter().zip(values) {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(row.get::<_, serde_json::Value>(0), value);
        assert_eq!(row.get::<_, serde_json::Value>(1), value);
    }
}

/// A numeric as Postgres sends it: digits in groups of four, weight, sign, scale.
fn numeric(groups: &[i16], weight: i16, negative: bool, scale: u16) -> Raw {
    let mut bytes = Vec::new();
    bytes.extend((groups.len() as i16).to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(if negative { 0x4000u16 } else { 0 }.to_be_bytes());
    bytes.extend(scale.to_be_bytes());
    groups.iter().for_each(|g| bytes.extend(g.to_be_bytes()));
    Raw(bytes)
}

#[tokio::test]
async fn numeric_in_binary() {
    let instance = start().await;
    let client = &instance.client().await;
    // 12345.67, -0.05, 0.00, 10000.00
    let values = [
        numeric(&[1, 2345, 6700], 1, false, 2),
        numeric(&[500], -1, true, 2),
        numeric(&[], 0, false, 2),
        numeric(&[1], 1, false, 2),
    ];
    round_trip(client, "NUMERIC(12,2)", &values).await;
    let text: Vec<String> = instance.lines("SELECT v FROM t WHERE v IS NOT NULL ORDER BY n").await;
    assert_eq!(text, ["12345.67", "-0.05", "0.00", "10000.00"]);
}

#[tokio::test]
async fn arrays_in_binary() {
    let instance = start().await;
    let client = &instance.client().await;
    round_trip(client, "INT[]", &[vec![], vec![Some(1), None, Some(-3)]]).await;
    round_trip(client, "BIGINT[]", &[vec![i64::MIN, i64::MAX]]).await;
    round_trip(client, "TEXT[]", &[vec!["a".to_string(), String::new(), "b,\"c\"".to_string()]]).await;
    round_trip(client, "BOOLEAN[]", &[vec![true, false]]).await;
    round_trip(client, "DOUBLE PRECISION[]", &[vec![0.5f64, -1.0]]).await;
    round_trip(client, "UUID[]", &[vec![Uuid::nil()]]).await;
    round_trip(client, "TIMESTAMP[]", &[vec![instant("2024-02-29 12:00:00.000001")]]).await;
    round_trip(client, "DATE[]", &[vec![NaiveDate::from_ymd_opt(2024, 2, 29).unwrap()]]).await;
}

/// The types that Describe tells are those of the columns, and drivers choose decoders by them.
#[tokio::test]
async fn described_types() {
    let instance = start().await;
    let client = instance.client().await;
    let types = [
        ("BOOLEAN", Type::BOOL),
        ("SMALLINT", Type::INT2),
        ("INT", Type::INT4),
        ("BIGINT", Type::INT8),
        ("REAL", Type::FLOAT4),
        ("DOUBLE PRECISION", Type::FLOAT8),
        ("NUMERIC", Type::NUMERIC),
        ("NUMERIC(10,2)", Type::NUMERIC),
        ("TEXT", Type::TEXT),
        ("VARCHAR(3)", Type::VARCHAR),
        ("CHAR(3)", Type::BPCHAR),
        ("BYTEA", Type::BYTEA),
        ("DATE", Type::DATE),
        ("TIME", Type::TIME),
        ("TIMESTAMP", Type::TIMESTAMP),
        ("TIMESTAMPTZ", Type::TIMESTAMPTZ),
        ("INTERVAL", Type::INTERVAL),
        ("UUID", Type::UUID),
        ("JSON", Type::JSON),
        ("JSONB", Type::JSONB),
        ("INT[]", Type::INT4_ARRAY),
        ("TEXT[]", Type::TEXT_ARRAY),
        ("UUID[]", Type::UUID_ARRAY),
    ];
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (t, _))| format!("c{i} {t}")).collect();
    client.batch_execute(&format!("CREATE TABLE t ({})", columns.join(", "))).await.unwrap();
    client.batch_execute("CREATE MATERIALIZED VIEW v AS SELECT * FROM t").await.unwrap();
    for relation in ["t", "v"] {
        let statement = client.prepare(&format!("SELECT * FROM {relation}")).await.unwrap();
        for (column, (sql, expected)) in statement.columns().iter().zip(&types) {
            assert_eq!(column.type_(), expected, "{relation}: {sql}");
        }
    }
    let placeholders: Vec<String> = (1..=types.len()).map(|i| format!("${i}")).collect();
    let insert = client.prepare(&format!("INSERT INTO t VALUES ({})", placeholders.join(", "))).await.unwrap();
    for (given, (sql, expected)) in insert.params().iter().zip(&types) {
        assert_eq!(given, expected, "parameter for {sql}");
    }
}
