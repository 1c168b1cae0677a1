//! What is fuzzed: decoders, each with records that it reads.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use crate::formats::changes::{ChangeDecoder, ChangeFormat, KeyValue};
use crate::formats::drift::{Missing, Unknown};
use crate::formats::random_rows::{columns, every_type, rows};
use crate::formats::record::{RecordDecoder, RecordFormat};
use crate::formats::record_encode::encoder;
use crate::formats::{Failures, avro as avro_format, protobuf as protobuf_format};
use crate::options::Options;
use crate::postgres::OnDrift;
use crate::spec::FormatSpec;
use crate::testing::pairs;

const ROWS: usize = 12;

#[derive(Debug, Clone, Default)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Record {
    fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { key: None, value: Some(value.into()) }
    }

    pub fn len(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len)
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown =
            |part: &Option<Vec<u8>>| part.as_ref().map_or("-".to_string(), |bytes| bytes.escape_ascii().to_string());
        f.pad(&format!("{} => {}", shown(&self.key), shown(&self.value)))
    }
}

/// What became of some records.
pub struct Decoded {
    /// That its rows take.
    pub bytes: usize,
    /// What the last record became.
    pub last: String,
}

pub type Decode = Box<dyn Fn(&[Record]) -> Result<Decoded, String>>;

pub struct Subject {
    pub name: &'static str,
    pub decode: Decode,
    /// Records that it reads.
    pub whole: Vec<Record>,
    /// What each becomes.
    pub shown: Vec<String>,
    pub is_text: bool,
}

impl Subject {
    fn new(name: &'static str, decode: Decode, whole: Vec<Record>, is_text: bool) -> Self {
        let show = |record: &Record| {
            let decoded = decode(std::slice::from_ref(record)).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(!decoded.last.starts_with("bad"), "{name}: {}", decoded.last);
            decoded.last
        };
        let shown = whole.iter().map(show).collect();
        Self { name, decode, whole, shown, is_text }
    }
}

fn are_sound(failures: &Failures, records: usize) -> Result<(), String> {
    let known = failures.iter().all(|(record, error)| *record < records && !error.message().is_empty());
    known.then_some(()).ok_or_else(|| format!("failures {failures:?}"))
}

fn shown(error: &Error) -> String {
    format!("bad: {error}")
}

/// Each record a row.
fn of_rows(decoder: Box<dyn RecordDecoder>, schema: SchemaRef) -> Decode {
    Box::new(move |records| {
        let values: Vec<Option<&[u8]>> = records.iter().map(|record| record.value.as_deref()).collect();
        let (columns, failures) = decoder.columns(&values).map_err(|e| format!("all fail: {e}"))?;
        are_sound(&failures, records.len())?;
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(|e| e.to_string())?;
        if batch.num_rows() != records.len() {
            return Err(format!("{} rows of {} records", batch.num_rows(), records.len()));
        }
        let last = records.len() - 1;
        let bad = failures.iter().find(|(record, _)| *record == last).map(|(_, error)| shown(error));
        let last = bad.unwrap_or_else(|| format!("{:?}", batch.slice(last, 1).columns()));
        Ok(Decoded { bytes: batch.get_array_memory_size(), last })
    })
}

/// Each record a change, or several.
fn of_changes(decoder: Box<dyn ChangeDecoder>, schema: SchemaRef) -> Decode {
    Box::new(move |records| {
        let both: Vec<KeyValue<'_>> = records.iter().map(|one| (one.key.as_deref(), one.value.as_deref())).collect();
        let changed = decoder.rows(&both).map_err(|e| format!("all fail: {e}"))?;
        are_sound(&changed.failures, records.len())?;
        if !changed.failures.is_sorted_by_key(|(record, _)| *record) {
            return Err(format!("failures {:?}", changed.failures));
        }
        let batch = RecordBatch::try_new(schema.clone(), changed.columns).map_err(|e| e.to_string())?;
        let (ops, of) = (&changed.changes.ops, &changed.records);
        let is_ascending = of.windows(2).all(|pair| pair[0] <= pair[1]);
        if ops.len() != batch.num_rows() || of.len() != ops.len() || !is_ascending {
            return Err(format!("{} rows, {ops:?} of records {of:?}", batch.num_rows()));
        }
        let bad = |record: u32| changed.failures.iter().find(|(failed, _)| *failed == record as usize);
        if let Some(both) = of.iter().find(|record| bad(**record).is_some()) {
            return Err(format!("record {both} is bad and says something"));
        }
        let last = records.len() as u32 - 1;
        let first_row = of.partition_point(|record| *record < last);
        let rows = batch.slice(first_row, batch.num_rows() - first_row);
        let last = match bad(last) {
            Some((_, error)) => shown(error),
            None => format!("{:?} {:?}", &ops[first_row..], rows.columns()),
        };
        Ok(Decoded { bytes: batch.get_array_memory_size(), last })
    })
}

fn random(schema: &SchemaRef, nulls: u32) -> RecordBatch {
    rows(schema, ROWS, nulls, &mut SmallRng::seed_from_u64(7))
}

fn format(encode: &str, options: &[(&str, &str)]) -> RecordFormat {
    let spec = FormatSpec { format: "PLAIN".into(), encode: encode.into(), options: pairs(options) };
    RecordFormat::choose(Some(&spec), &mut Options::default(), &[]).unwrap()
}

fn decoder(format: &RecordFormat, schema: &SchemaRef) -> Decode {
    let places: Vec<usize> = (0..schema.fields().len()).collect();
    of_rows(format.decoder(schema, schema, &places).unwrap(), schema.clone())
}

fn encoded(encode: &str, batch: &RecordBatch) -> Vec<Vec<u8>> {
    let encoder = encoder(encode, &batch.schema(), &mut Options::default()).unwrap();
    encoder.encode(batch).unwrap().into_iter().flatten().collect()
}

fn values(records: Vec<Vec<u8>>) -> Vec<Record> {
    records.into_iter().map(Record::new).collect()
}

pub fn json() -> Subject {
    let schema = columns(&every_type());
    let whole = values(encoded("json", &random(&schema, 2)));
    Subject::new("JSON", decoder(&format("JSON", &[]), &schema), whole, true)
}

pub fn csv() -> Subject {
    let schema = columns(&every_type());
    let whole = values(encoded("csv", &random(&schema, 2)));
    Subject::new("CSV", decoder(&format("CSV", &[]), &schema), whole, true)
}

pub fn text() -> Subject {
    let schema = columns(&[SqlType::Text]);
    let whole = values(encoded("text", &random(&schema, 0)));
    Subject::new("TEXT", decoder(&format("TEXT", &[]), &schema), whole, true)
}

pub fn bytes() -> Subject {
    let schema = columns(&[SqlType::Bytea]);
    let whole = values(encoded("bytes", &random(&schema, 0)));
    Subject::new("BYTES", decoder(&format("BYTES", &[]), &schema), whole, false)
}

/// A file for as long as somebody needs it.
fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let url = format!("file://{}", path.display());
    (dir, url)
}

/// Schemas are read with the first record.
fn keeping(dir: tempfile::TempDir, decode: Decode) -> Decode {
    Box::new(move |records| {
        let _needed = &dir;
        decode(records)
    })
}

fn avro_of(name: &'static str, batch: &RecordBatch) -> Subject {
    let (text, records) = avro_format::written(batch).unwrap();
    let (dir, url) = file("r.avsc", &text);
    let decode = decoder(&format("AVRO", &[("schema.location", &url)]), &batch.schema());
    Subject::new(name, keeping(dir, decode), values(records), false)
}

pub fn avro() -> Subject {
    avro_of("AVRO", &random(&columns(&every_type()), 2))
}

/// Fields that nobody wants, among them those of which a byte can stand for many.
pub fn avro_passed_over() -> Subject {
    let schema = r#"{"type": "record", "name": "R", "fields": [
        {"name": "nulls", "type": {"type": "array", "items": "null"}},
        {"name": "hollow", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}},
        {"name": "empty", "type": {"type": "map", "values": {"type": "fixed", "name": "F", "size": 0}}},
        {"name": "chain", "type": ["null", {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}]},
        {"name": "deep", "type": {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": "long"}}}},
        {"name": "c0", "type": "long"}, {"name": "c1", "type": {"type": "array", "items": "int"}}]}"#;
    let (dir, url) = file("r.avsc", schema);
    let wanted = columns(&[SqlType::BigInt, SqlType::Array(Box::new(SqlType::Integer))]);
    let decode = decoder(&format("AVRO", &[("schema.location", &url)]), &wanted);
    let whole = [
        &[4, 0, 6, 0, 2, 2, b'k', 0, 2, 2, 0, 2, 2, 2, 6, 0, 0, 0, 8, 2, 4, 0][..],
        &[0, 0, 0, 0, 0, 1, 0],
        &[3, 0, 0, 0, 0, 0, 0, 6, 3, 4, 2, 4, 0],
    ];
    Subject::new("AVRO passed over", keeping(dir, decode), values(whole.map(<[u8]>::to_vec).to_vec()), false)
}

fn protobuf_of(name: &'static str, batch: &RecordBatch) -> Subject {
    let (text, records) = protobuf_format::written(batch).unwrap();
    let (dir, url) = file("r.proto", &text);
    let format = format("PROTOBUF", &[("schema.location", &url), ("message", "R")]);
    Subject::new(name, keeping(dir, decoder(&format, &batch.schema())), values(records), false)
}

pub fn protobuf() -> Subject {
    protobuf_of("PROTOBUF", &random(&columns(&every_type()), 0))
}

/// What only a schema of somebody else's has.
pub fn protobuf_kinds() -> Subject {
    let schema = r#"syntax = "proto3";
        import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
        message Node { int32 v = 1; Node next = 2; repeated Node more = 3; }
        message R {
            repeated int32 c0 = 1; repeated int32 c1 = 2 [packed = false]; map<string, Node> by_name = 3; Node node = 4;
            google.protobuf.Timestamp c2 = 5; google.protobuf.Duration c3 = 6; google.protobuf.Int64Value c4 = 7;
            oneof choice { string c5 = 8; Node right = 9; } repeated double c6 = 10; map<int32, bool> c7 = 11;
        }"#;
    let (dir, url) = file("r.proto", schema);
    let ints = || SqlType::Array(Box::new(SqlType::Integer));
    let wanted = columns(&[
        ints(),
        ints(),
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::BigInt,
        SqlType::Text,
        SqlType::Array(Box::new(SqlType::Double)),
        SqlType::Map(Box::new(SqlType::Integer), Box::new(SqlType::Boolean)),
    ]);
    let decode = decoder(&format("PROTOBUF", &[("schema.location", &url), ("message", "R")]), &wanted);
    let packed = [&[10, 3, 1, 0x96, 1][..], &[16, 5, 16, 6]].concat();
    let nested =
        [&[26, 7, 10, 1, b'k', 18, 2, 8, 1][..], &[34, 6, 8, 1, 18, 2, 8, 2], &[42, 2, 8, 5, 50, 4, 8, 1, 16, 2]];
    let rest = [&[58, 2, 8, 9, 66, 2, b'h', b'i'][..], &[82, 8, 0, 0, 0, 0, 0, 0, 0, 64], &[90, 4, 8, 1, 16, 1]];
    let (nested, rest) = (nested.concat(), rest.concat());
    let whole = vec![packed.clone(), nested.clone(), rest.clone(), [packed, nested, rest].concat()];
    Subject::new("PROTOBUF kinds", keeping(dir, decode), values(whole), false)
}

fn changed(format: &str, encode: &str, options: &[(&str, &str)], schema: &SchemaRef) -> Decode {
    let spec = FormatSpec { format: format.into(), encode: encode.into(), options: pairs(options) };
    let format = ChangeFormat::choose(Some(&spec), &mut Options::default(), &[]).unwrap().unwrap();
    let unknown = Arc::new(Unknown::new(OnDrift::Ignore, Missing::default()));
    of_changes(format.decoder(schema, vec![0], &unknown).unwrap(), schema.clone())
}

/// Columns of a row with a key, and rows of them as JSON.
fn keyed() -> (SchemaRef, RecordBatch, Vec<String>) {
    let types = [SqlType::BigInt, SqlType::Text, SqlType::Jsonb, SqlType::Numeric(Some((9, 2))), SqlType::TimestampTz];
    let schema = columns(&types);
    let batch = random(&schema, 0);
    let texts = encoded("json", &batch).into_iter().map(|value| String::from_utf8(value).unwrap()).collect();
    (schema, batch, texts)
}

pub fn json_changes() -> Vec<Subject> {
    let (schema, _, rows) = keyed();
    let pairs = || rows.iter().zip(rows.iter().skip(1));
    let upserts = pairs().enumerate().map(|(at, (key, value))| Record {
        key: Some(key.clone().into_bytes()),
        value: (at % 3 > 0).then(|| value.clone().into_bytes()),
    });
    let debezium = pairs().enumerate().map(|(at, (old, new))| {
        Record::new(match at % 5 {
            0 => format!("{{\"op\":\"c\",\"before\":null,\"after\":{new}}}"),
            1 => format!("{{\"schema\":{{}},\"payload\":{{\"op\":\"u\",\"before\":{old},\"after\":{new}}}}}"),
            2 => format!("{{\"before\":{old},\"after\":null,\"op\":\"d\"}}"),
            3 => "{\"op\":\"t\"}".to_string(),
            _ => format!(
                "{{\"op\":\"u\",\"before\":{old},\"after\":{}}}",
                new.replace("\"c1\":", "\"c1\":\"__debezium_unavailable_value\",\"x\":")
            ),
        })
    });
    let maxwell = pairs().enumerate().map(|(at, (old, new))| {
        let kind = ["insert", "update", "delete", "bootstrap-insert"][at % 4];
        Record::new(format!("{{\"database\":\"d\",\"table\":\"t\",\"type\":\"{kind}\",\"data\":{new},\"old\":{old}}}"))
    });
    let custom = pairs().enumerate().map(|(at, (old, new))| {
        let op = ["I", "D", "T", "-"][at % 4];
        Record::new(format!("{{\"m\":{{\"op\":\"{op}\"}},\"o\":{old},\"n\":{new}}}"))
    });
    let by_paths = [
        ("op", "$.m.op"),
        ("after", "$.n"),
        ("before", "$.o"),
        ("op.put", "I,U"),
        ("op.delete", "D"),
        ("op.truncate", "T"),
        ("op.ignore", "-"),
    ];
    let subject = |name, format, options: &[(&str, &str)], whole: Vec<Record>| {
        Subject::new(name, changed(format, "JSON", options, &schema), whole, true)
    };
    vec![
        subject("UPSERT JSON", "UPSERT", &[], upserts.collect()),
        subject("DEBEZIUM JSON", "DEBEZIUM", &[], debezium.collect()),
        subject("MAXWELL", "MAXWELL", &[], maxwell.collect()),
        subject("CUSTOM", "CUSTOM", &by_paths, custom.collect()),
    ]
}

/// Envelopes of columns: `op`, `before`, `after`.
fn envelopes() -> (SchemaRef, RecordBatch) {
    let (schema, batch, _) = keyed();
    let row: ArrayRef = Arc::new(StructArray::from(batch));
    let ops: StringArray = (0..ROWS).map(|at| Some(["c", "u", "d", "r", "t", "m"][at % 6])).collect();
    let of_row = |name: &str| Field::new(name, DataType::Struct(schema.fields().clone()), true);
    let written = Arc::new(Schema::new(vec![SqlType::Text.to_field("op", true), of_row("before"), of_row("after")]));
    (schema, RecordBatch::try_new(written, vec![Arc::new(ops), row.clone(), row]).unwrap())
}

pub fn avro_changes() -> Subject {
    let (schema, batch) = envelopes();
    let (text, records) = avro_format::written(&batch).unwrap();
    let (dir, url) = file("r.avsc", &text);
    let decode = changed("DEBEZIUM", "AVRO", &[("schema.location", &url)], &schema);
    Subject::new("DEBEZIUM AVRO", keeping(dir, decode), values(records), false)
}

pub fn protobuf_changes() -> Subject {
    let (schema, batch) = envelopes();
    let (text, records) = protobuf_format::written(&batch).unwrap();
    let (dir, url) = file("r.proto", &text);
    let decode = changed("DEBEZIUM", "PROTOBUF", &[("schema.location", &url), ("message", "R")], &schema);
    Subject::new("DEBEZIUM PROTOBUF", keeping(dir, decode), values(records), false)
}
