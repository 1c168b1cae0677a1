use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use tidemark_common::types::SqlType;

use super::*;
use crate::formats::drift::{Missing, Unknown};
use crate::options::Options;
use crate::postgres::OnDrift;
use crate::spec::FormatSpec;
use crate::testing::{pairs, schema};

fn columns() -> SchemaRef {
    schema(&[("id", SqlType::BigInt), ("name", SqlType::Text), ("doc", SqlType::Jsonb)])
}

fn decoder(format: &str, options: &[(&str, &str)]) -> Result<Box<dyn ChangeDecoder>> {
    let spec = FormatSpec { format: format.into(), encode: "JSON".into(), options: pairs(options) };
    let format = ChangeFormat::choose(Some(&spec), &mut Options::default(), &[])?.unwrap();
    format.decoder(&columns(), vec![0], &Arc::new(Unknown::new(OnDrift::Ignore, Missing::default())))
}

/// Each row as `record op id name doc`, kept values as `=`; each bad record with its reason.
fn read(format: &str, options: &[(&str, &str)], records: &[(Option<&str>, Option<&str>)]) -> Vec<String> {
    let decoder = decoder(format, options).unwrap();
    let bytes: Vec<KeyValue<'_>> = records.iter().map(|(k, v)| (k.map(str::as_bytes), v.map(str::as_bytes))).collect();
    let changed = decoder.rows(&bytes).unwrap();
    let rows = RecordBatch::try_new(columns(), changed.columns).unwrap();
    let mut lines = Vec::new();
    for (row, op) in changed.changes.ops.iter().enumerate() {
        let mut line = format!("{} {op:?}", changed.records[row]);
        let ids = rows.column(0).as_primitive::<Int64Type>();
        write!(line, " {}", if rows.column(0).is_null(row) { "-".into() } else { ids.value(row).to_string() }).unwrap();
        for column in [1, 2] {
            let is_kept = changed.changes.kept.contains(&(row as u32, column as u32));
            let value = rows.column(column).as_string::<i32>();
            let text = if rows.column(column).is_null(row) { "-" } else { value.value(row) };
            write!(line, " {}", if is_kept { "=" } else { text }).unwrap();
        }
        lines.push(line);
    }
    lines.extend(changed.failures.iter().map(|(record, error)| format!("{record} bad: {error}")));
    lines
}

fn values<'a>(values: &[&'a str]) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    values.iter().map(|value| (None, Some(*value))).collect()
}

#[test]
fn upserts() {
    let records = [
        (None, Some(r#"{"id": 1, "name": "a", "doc": {"x":  1}}"#)),
        (Some(r#"{"id": 1}"#), None),
        (Some("2"), None),
        (Some(r#"{"schema": {}, "payload": {"id": 3}}"#), None),
        (None, Some(r#"{"name": "no id"}"#)),
        (None, None),
        (Some("x"), None),
    ];
    assert_eq!(
        read("UPSERT", &[], &records),
        [
            r#"0 Put 1 a {"x": 1}"#,
            "1 Delete 1 - -",
            "2 Delete 2 - -",
            "3 Delete 3 - -",
            "4 bad: a row without column \"id\" of the primary key",
            "5 bad: the record has no key and no value",
            "6 bad: invalid JSON record: Encountered unexpected 'x' whilst parsing value",
        ]
    );
    assert_eq!(read("UPSERT", &[("key_encode", "text")], &[(Some("7"), None)]), ["0 Delete 7 - -"]);
}

#[test]
fn debezium() {
    let records = [
        (None, Some(r#"{"before": null, "after": {"id": 1, "name": "a"}, "op": "c", "ts_ms": 5}"#)),
        (None, Some(r#"{"schema": {}, "payload": {"before": null, "after": {"id": 2, "name": "b"}, "op": "r"}}"#)),
        (None, Some(r#"{"before": {"id": 1}, "after": {"id": 1, "name": "a2"}, "op": "u"}"#)),
        (None, Some(r#"{"before": {"id": 1}, "after": {"id": 3, "name": "a3"}, "op": "u"}"#)),
        (
            None,
            Some(
                r#"{"after": {"id": 3, "name": "__debezium_unavailable_value", "doc": "__debezium_unavailable_value"}, "op": "u"}"#,
            ),
        ),
        (None, Some(r#"{"before": {"id": 3}, "after": null, "op": "d"}"#)),
        (Some(r#"{"id": 3}"#), None),
        (Some(r#"{"payload": {"id": 4}, "schema": 1}"#), Some(r#"{"before": null, "op": "d"}"#)),
        (None, Some(r#"{"op": "t"}"#)),
        (None, Some(r#"{"op": "m", "message": {}}"#)),
        (None, Some(r#"{"op": "x"}"#)),
        (None, Some(r#"{"before": {"id": 1}, "after": {"id": "y"}, "op": "u"}"#)),
        (None, Some("no json")),
    ];
    assert_eq!(
        read("DEBEZIUM", &[], &records),
        [
            "0 Put 1 a -",
            "1 Put 2 b -",
            "2 Put 1 a2 -",
            "3 Delete 1 - -",
            "3 Put 3 a3 -",
            "4 Put 3 = =",
            "5 Delete 3 - -",
            "7 Delete 4 - -",
            "8 Truncate - - -",
            "10 bad: the record's operation \"x\" is not known",
            "11 bad: invalid JSON record: whilst decoding field 'id': failed to parse \"y\" as Int64",
            "12 bad: the record has no \"op\"",
        ]
    );
}

#[test]
fn maxwell() {
    let records = values(&[
        r#"{"database": "d", "table": "t", "type": "insert", "data": {"id": 1, "name": "a"}}"#,
        r#"{"type": "update", "data": {"id": 1, "name": "b"}, "old": {"name": "a"}}"#,
        r#"{"type": "update", "data": {"id": 2, "name": "b"}, "old": {"id": 1}}"#,
        r#"{"type": "delete", "data": {"id": 2, "name": "b"}}"#,
        r#"{"type": "bootstrap-start"}"#,
        r#"{"type": "bootstrap-insert", "data": {"id": 3}}"#,
        r#"{"type": "table-alter", "def": {}}"#,
        r#"{"type": "insert"}"#,
        "[]",
    ]);
    assert_eq!(
        read("MAXWELL", &[], &records),
        [
            "0 Put 1 a -",
            "1 Put 1 b -",
            "2 Delete 1 - -",
            "2 Put 2 b -",
            "3 Delete 2 b -",
            "5 Put 3 - -",
            "7 bad: the record has no \"data\"",
            "8 bad: the record has no \"type\"",
        ]
    );
}

#[test]
fn records_of_ones_own() {
    let options =
        [("op", "$.meta.kind"), ("after", "$.row"), ("key", "$.meta.id"), ("op.put", "NEW"), ("op.ignore", "ping")];
    let records = values(&[
        r#"{"meta": {"kind": "new"}, "row": {"id": 1, "name": "a"}}"#,
        r#"{"meta": {"kind": "D", "id": 1}}"#,
        r#"{"meta": {"kind": "ping"}}"#,
        r#"{"meta": {"kind": "truncate"}}"#,
        r#"{"meta": {"kind": "what"}}"#,
        r#"{}"#,
    ]);
    assert_eq!(
        read("CUSTOM", &options, &records),
        [
            "0 Put 1 a -",
            "1 Delete 1 - -",
            "3 Truncate - - -",
            "4 bad: the record's operation \"what\" is not known",
            "5 bad: the record has no operation",
        ]
    );
    for (format, options) in [
        ("CUSTOM", &[][..]),
        ("CUSTOM", &[("op", "kind")]),
        ("CUSTOM", &[("op", "$.k"), ("unknown", "x")]),
        ("UPSERT", &[("key_encode", "xml")]),
        ("CANAL", &[]),
    ] {
        assert!(decoder(format, options).is_err(), "{format} {options:?}");
    }
}

/// Whatever the bytes are: rows or bad records, no panic.
#[test]
fn arbitrary_bytes() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    let seeds = [
        r#"{"before": {"id": 1}, "after": {"id": 3, "name": "__debezium_unavailable_value"}, "op": "u"}"#,
        r#"{"type": "update", "data": {"id": 2, "name": "b"}, "old": {"id": 1}}"#,
        r#"{"id": 1, "name": "a", "doc": {"x":  [1, "\"", {}]}}"#,
    ];
    let custom = [("op", "$.type"), ("after", "$.data"), ("before", "$.old")];
    let decoders = [
        decoder("UPSERT", &[]).unwrap(),
        decoder("DEBEZIUM", &[]).unwrap(),
        decoder("MAXWELL", &[]).unwrap(),
        decoder("CUSTOM", &custom).unwrap(),
    ];
    let mut rng = SmallRng::seed_from_u64(3);
    for round in 0..3000 {
        let mut record = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..rng.gen_range(0..4) {
            let at = rng.gen_range(0..record.len());
            match rng.gen_range(0..3) {
                0 => record[at] = rng.r#gen(),
                1 => record.truncate(at.max(1)),
                _ => drop(record.remove(at)),
            }
            if record.is_empty() {
                record.push(b'{');
            }
        }
        for decoder in &decoders {
            let good =
                (None, Some(&br#"{"id": 9, "op": "c", "type": "insert", "after": {"id": 9}, "data": {"id": 9}}"#[..]));
            let changed = decoder.rows(&[good, (Some(&record), Some(&record)), (Some(&record), None), good]).unwrap();
            assert_eq!(changed.records.first(), Some(&0));
            assert_eq!(changed.records.last(), Some(&3));
        }
    }
}
