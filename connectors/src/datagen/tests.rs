use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use tidemark_common::ManualClock;
use tidemark_common::types::SqlType;

use crate::testing::*;
use crate::{Positions, open_source};

fn every_type() -> Vec<(&'static str, SqlType)> {
    let list = |t| SqlType::Array(Box::new(t));
    vec![
        ("a_bool", SqlType::Boolean),
        ("a_small", SqlType::SmallInt),
        ("an_int", SqlType::Integer),
        ("a_big", SqlType::BigInt),
        ("a_real", SqlType::Real),
        ("a_double", SqlType::Double),
        ("a_numeric", SqlType::Numeric(None)),
        ("a_price", SqlType::Numeric(Some((4, 2)))),
        ("a_wide", SqlType::Numeric(Some((60, 5)))),
        ("a_text", SqlType::Text),
        ("a_varchar", SqlType::Varchar(Some(4))),
        ("a_char", SqlType::Char(3)),
        ("bytes", SqlType::Bytea),
        ("a_date", SqlType::Date),
        ("a_time", SqlType::Time),
        ("ts", SqlType::Timestamp),
        ("tstz", SqlType::TimestampTz),
        ("span", SqlType::Interval),
        ("id", SqlType::Uuid),
        ("doc", SqlType::Json),
        ("docb", SqlType::Jsonb),
        ("list", list(SqlType::Integer)),
        ("pair", SqlType::Struct(vec![("x".into(), SqlType::Integer), ("y".into(), list(SqlType::Text))])),
        ("dict", SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Double))),
    ]
}

#[tokio::test]
async fn every_type_has_values_and_replays_exactly() {
    let columns = every_type();
    let mut spec = spec(
        &columns,
        &[
            ("connector", "datagen"),
            ("rows", "20000"),
            ("rows_per_second", "unlimited"),
            ("fields.a_text.null_rate", "0.25"),
        ],
    );
    spec.include = pairs(&[("offset", "o"), ("partition", "p"), ("timestamp", "t")]);
    let source = open_source(spec).unwrap();
    assert!(source.is_bounded());
    let whole = check_replay(source.as_ref()).await;
    assert_eq!(whole.num_rows(), 20_000);
    for (column, field) in whole.columns().iter().zip(whole.schema().fields()) {
        let expected = if field.name() == "a_text" { 4_000..6_000 } else { 0..1 };
        assert!(expected.contains(&column.null_count()), "{}: {} nulls", field.name(), column.null_count());
    }
    let varchars = whole.column_by_name("a_varchar").unwrap().as_string::<i32>();
    assert!(varchars.iter().flatten().all(|v| v.chars().count() <= 4));
}

#[tokio::test]
async fn kinds_follow_their_options() {
    let columns = [
        ("n", SqlType::Integer),
        ("price", SqlType::Numeric(Some((10, 2)))),
        ("who", SqlType::Text),
        ("day", SqlType::Date),
        ("ts", SqlType::Timestamp),
        ("late", SqlType::TimestampTz),
        ("name", SqlType::Text),
        ("recent", SqlType::Date),
    ];
    let source = open(
        &columns,
        &[
            ("connector", "datagen"),
            ("rows_per_second", "0"),
            ("start_time", "2024-05-01 12:00:00"),
            ("fields.n.kind", "sequence"),
            ("fields.n.start", "5"),
            ("fields.n.end", "104"),
            ("fields.price.min", "1.50"),
            ("fields.price.max", "2.50"),
            ("fields.who.kind", "choice"),
            ("fields.who.values", "ann, bob"),
            ("fields.day.min", "2024-01-01"),
            ("fields.day.max", "2024-01-03"),
            ("fields.late.max_past", "1 minute"),
            ("fields.name.length", "3"),
            ("fields.recent.max_past", "1 day"),
        ],
    )
    .unwrap();
    let (batch, positions) = all(source.as_ref(), None).await.unwrap();
    assert_eq!(positions, Positions::from([("0".to_string(), "100".to_string())]));
    let lines = rows(&batch);
    assert!(lines[0].starts_with("5|") && lines[99].starts_with("104|"));
    for line in &lines {
        let cells: Vec<&str> = line.split('|').collect();
        assert!(("1.50"..="2.50").contains(&cells[1]), "{line}");
        assert!(["ann", "bob"].contains(&cells[2]), "{line}");
        assert!(["2024-01-01", "2024-01-02", "2024-01-03"].contains(&cells[3]), "{line}");
        assert_eq!(cells[6].len(), 3);
        assert!(["2024-04-30", "2024-05-01"].contains(&cells[7]), "{line}");
    }
    assert!(lines[1].contains("|2024-05-01T12:00:00.001|"), "{}", lines[1]);
    let ts = batch.column(4).as_primitive::<TimestampMicrosecondType>();
    let late = batch.column(5).as_primitive::<TimestampMicrosecondType>();
    let behind: Vec<i64> = (0..100).map(|row| ts.value(row) - late.value(row)).collect();
    assert!(
        behind.iter().all(|b| (0..=60_000_000).contains(b)) && behind.iter().any(|b| *b > 10_000_000),
        "{behind:?}"
    );
}

#[tokio::test]
async fn the_seed_changes_the_rows() {
    let read = async |seed: &str| {
        let options = [("connector", "datagen"), ("rows", "50"), ("rows_per_second", "0"), ("seed", seed)];
        let source = open(&[("a", SqlType::BigInt), ("b", SqlType::BigInt)], &options).unwrap();
        all(source.as_ref(), None).await.unwrap().0
    };
    let one = read("1").await;
    assert_eq!(one, read("1").await);
    assert_ne!(one, read("2").await);
    assert_ne!(one.column(0), one.column(1));
}

#[tokio::test]
async fn the_rate_holds_rows_back_but_not_a_replay() {
    let clock = Arc::new(ManualClock::new(0));
    let mut spec = spec(&[("n", SqlType::BigInt)], &[("connector", "datagen"), ("fields.n.kind", "sequence")]);
    spec.clock = clock.clone();
    let source = open_source(spec).unwrap();
    assert!(!source.is_bounded());
    let mut reader = source.reader(&Positions::new(), None, None).await.unwrap();
    clock.advance(300_000);
    assert_eq!(reader.next().await.unwrap().unwrap().batch.num_rows(), 3);
    let until = Positions::from([("0".to_string(), "1000".to_string())]);
    let mut replay = source.reader(&Positions::new(), Some(&until), None).await.unwrap();
    let replayed = replay.next().await.unwrap().unwrap();
    assert_eq!(replayed.batch.num_rows(), 1000);
    assert_eq!(replayed.batch.column(0).as_primitive::<Int64Type>().value(999), 999);
    assert!(replay.next().await.unwrap().is_none());
}

#[test]
fn wrong_options_are_refused_by_name() {
    let columns = [("id", SqlType::Integer), ("name", SqlType::Text)];
    let with = |more: &[(&str, &str)]| {
        let mut options = vec![("connector", "datagen")];
        options.extend_from_slice(more);
        refused(open(&columns, &options))
    };
    assert_eq!(with(&[("rows_per_secnd", "5")]).2, "Perhaps you meant \"rows_per_second\".");
    assert_eq!(with(&[("fields.nam.length", "5")]).2, "Perhaps you meant \"name\".");
    assert_eq!(with(&[("fields.name.lenght", "5")]).2, "Perhaps you meant \"fields.name.length\".");
    assert!(with(&[("fields.id.length", "5")]).1.contains("does not go with"));
    assert!(with(&[("fields.id.kind", "randm")]).1.contains("sequence, random or choice"));
    assert!(with(&[("fields.id.min", "x")]).1.contains("column \"id\": option \"min\""));
    assert!(with(&[("fields.id.min", "9"), ("fields.id.max", "8")]).1.contains("must not be above"));
    assert!(with(&[("rows_per_second", "-1")]).1.contains("rows_per_second"));
    let mut with_key = spec(&columns, &[("connector", "datagen")]);
    with_key.include = pairs(&[("key", "k")]);
    let (code, message, hint) = refused(open_source(with_key));
    assert_eq!((code.as_str(), message.as_str()), ("42601", "this connector cannot INCLUDE key"));
    assert_eq!(hint, "It knows: offset, partition, timestamp.");
    assert_eq!(refused(open(&columns, &[("connector", "datagn")])).2, "Perhaps you meant \"datagen\".");
}

#[tokio::test]
async fn a_sequence_beyond_its_type_is_an_error() {
    let options =
        [("connector", "datagen"), ("rows", "10"), ("fields.n.kind", "sequence"), ("fields.n.start", "32760")];
    let source = open(&[("n", SqlType::SmallInt)], &options).unwrap();
    assert_eq!(refused(all(source.as_ref(), None).await).0, "22003");
}
