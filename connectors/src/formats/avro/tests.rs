use std::sync::Arc;

use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Result;
use tidemark_common::types::SqlType;

use super::schema::Schema;
use super::*;
use crate::formats::random_rows::{assert_others_unspoilt, columns, every_type, rows};
use crate::formats::registry::{Fetched, Registry, RegistryOptions, frame};
use crate::testing::schema as declared;

/// Schemas with the ids 1, 2, ..; the last is the reader's.
fn records(wanted: &SchemaRef, schemas: &[&str]) -> AvroRecords {
    let pairs = [("schema.registry".to_string(), "http://127.0.0.1:1".to_string())];
    let options = RegistryOptions::take(&mut Options::new(&pairs).unwrap(), &mut Options::default()).unwrap().unwrap();
    let registry = Arc::new(Registry::new(options));
    for (at, text) in schemas.iter().enumerate() {
        let (id, text) = (at as u32 + 1, text.to_string());
        registry.learn(Fetched { id, kind: SchemaKind::Avro, text, references: Vec::new() });
    }
    let reader = Schema::parse([*schemas.last().unwrap()]).unwrap();
    let schemas = Schemas::Registry(ById::new(Lookup::new(&registry).unwrap()), "s".to_string());
    let places: Vec<usize> = (0..wanted.fields().len()).collect();
    let records = AvroRecords::new(wanted, &places, schemas).unwrap();
    records.reader.set(Arc::new(reader)).unwrap();
    records
}

fn encoded(batch: &RecordBatch, id: u32) -> Vec<Vec<u8>> {
    let one = |row| {
        let mut out = frame::begin(id);
        encode::row_of(batch, row, &mut out).unwrap();
        out
    };
    (0..batch.num_rows()).map(one).collect()
}

fn decode(records: &AvroRecords, bytes: &[Vec<u8>]) -> (RecordBatch, Failures) {
    let bytes: Vec<Option<&[u8]>> = bytes.iter().map(|record| Some(record.as_slice())).collect();
    let (columns, failures) = records.columns(&bytes).unwrap();
    (RecordBatch::try_new(records.wanted.clone(), columns).unwrap(), failures)
}

fn shown(batch: &RecordBatch) -> Vec<String> {
    crate::testing::rows(batch)
}

#[tokio::test]
async fn what_is_encoded_is_decoded() {
    let mut rng = SmallRng::seed_from_u64(3);
    let all = columns(&every_type());
    let text = derive::schema_of(&all, "shop.Everything").unwrap();
    for nulls in [0, 3, 10] {
        let batch = rows(&all, 200, nulls, &mut rng);
        let (read, failures) = decode(&records(&all, &[&text]), &encoded(&batch, 1));
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(read, batch);
    }
    let empty = rows(&all, 0, 0, &mut rng);
    assert_eq!(decode(&records(&all, &[&text]), &[]).0, empty);
    // Fewer columns, in another order.
    let batch = rows(&all, 50, 2, &mut rng);
    let some: Vec<usize> = vec![20, 3, 25, 9];
    let wanted = Arc::new(all.project(&some).unwrap());
    assert_eq!(decode(&records(&wanted, &[&text]), &encoded(&batch, 1)).0, batch.project(&some).unwrap());
}

#[tokio::test]
async fn huge_values() {
    let all = declared(&[("t", SqlType::Text), ("a", SqlType::Array(Box::new(SqlType::BigInt)))]);
    let mut made = Rows::new(&all).unwrap();
    made.record(|columns| {
        columns[0].append(crate::formats::column::Scalar::Text(&"\u{e9}".repeat(3 << 20)))?;
        let items = columns[1].items()?;
        (0..200_000).try_for_each(|n| items.append(crate::formats::column::Scalar::Int(n)))?;
        columns[1].close()
    });
    let batch = RecordBatch::try_new(all.clone(), made.finish().unwrap().0).unwrap();
    let text = derive::schema_of(&all, "R").unwrap();
    assert_eq!(decode(&records(&all, &[&text]), &encoded(&batch, 1)).0, batch);
}

/// Another reader of the same bytes.
#[test]
fn arrow_avro_reads_what_we_write() {
    let odd = |t: &SqlType| {
        matches!(t, SqlType::Interval | SqlType::Uuid | SqlType::Char(_))
            || *t == SqlType::Array(Box::new(SqlType::Uuid))
            || matches!(t, SqlType::Map(..))
    };
    let types: Vec<SqlType> = every_type().into_iter().filter(|sql_type| !odd(sql_type)).collect();
    let schema = columns(&types);
    let batch = rows(&schema, 300, 3, &mut SmallRng::seed_from_u64(4));
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    let text = derive::schema_of(&schema, "R").unwrap();
    store.set(Fingerprint::Id(7), AvroSchema::new(text)).unwrap();
    let mut decoder =
        ReaderBuilder::new().with_batch_size(1000).with_writer_schema_store(store).build_decoder().unwrap();
    for record in encoded(&batch, 7) {
        assert_eq!(decoder.decode(&record).unwrap(), record.len());
    }
    let theirs = decoder.flush().unwrap().unwrap();
    for (at, sql_type) in types.iter().enumerate() {
        let (ours, theirs) = (batch.project(&[at]).unwrap(), theirs.project(&[at]).unwrap());
        assert_eq!(shown(&ours), shown(&theirs), "{sql_type}");
    }
}

#[tokio::test]
async fn damage_spoils_no_neighbour() {
    let mut rng = SmallRng::seed_from_u64(8);
    let all = columns(&every_type());
    let text = derive::schema_of(&all, "Everything").unwrap();
    let records = records(&all, &[&text]);
    let batch = rows(&all, 30, 2, &mut rng);
    let whole = encoded(&batch, 1);
    for _ in 0..150 {
        let mut damaged = whole.clone();
        let hit: Vec<usize> = (0..5).map(|_| rng.gen_range(0..damaged.len())).collect();
        for at in &hit {
            let record = &mut damaged[*at];
            match rng.gen_range(0..4) {
                0 => record.truncate(rng.gen_range(0..record.len())),
                1 => *record = [frame::begin(1), (0..rng.gen_range(0..90)).map(|_| rng.r#gen()).collect()].concat(),
                2 => record.extend([1, 2, 3]),
                _ => {
                    let place = rng.gen_range(5..record.len());
                    record[place] = rng.r#gen();
                }
            }
        }
        assert_others_unspoilt(&decode(&records, &damaged), &batch, &hit);
    }
}

fn record_of(fields: &str) -> String {
    format!("{{\"type\": \"record\", \"name\": \"R\", \"fields\": [{fields}]}}")
}

fn one(schemas: &[&str], wanted: &[(&str, SqlType)], id: u8, body: &[u8]) -> Result<String> {
    let mut record = vec![0, 0, 0, 0, id];
    record.extend_from_slice(body);
    let (read, failures) = decode(&records(&declared(wanted), schemas), &[record]);
    match failures.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(shown(&read).remove(0)),
    }
}

#[tokio::test]
async fn schemas_evolve() {
    let field = |name: &str, of: &str, more: &str| format!("{{\"name\": \"{name}\", \"type\": {of}{more}}}");
    let old = record_of(
        &[field("id", "\"int\"", ""), field("gone", "\"string\"", ""), field("note", "\"string\"", "")].join(","),
    );
    let new = record_of(
        &[
            field("remark", "\"string\"", ", \"aliases\": [\"note\"]"),
            field("tags", "{\"type\": \"array\", \"items\": \"string\"}", ", \"default\": [\"none\"]"),
            field("id", "\"long\"", ""),
            field("unset", "[\"null\", \"int\"]", ""),
        ]
        .join(","),
    );
    let wanted = [
        ("tags", SqlType::Array(Box::new(SqlType::Text))),
        ("id", SqlType::BigInt),
        ("remark", SqlType::Text),
        ("unset", SqlType::Integer),
    ];
    let body = [6, 4, b'x', b'x', 2, b'n'];
    assert_eq!(one(&[&old, &new], &wanted, 1, &body).unwrap(), "[none]|3|n|");
    // A source that began with the old schema goes on with the new one.
    let wanted = [("id", SqlType::Integer), ("note", SqlType::Text), ("gone", SqlType::Text)];
    let body = [2, b'r', 2, 2, b't', 0, 14, 0];
    assert_eq!(one(&[&new, &old], &wanted, 1, &body).unwrap(), "7|r|");
    // Whatever the case, where no field stands as the column does.
    let schema = record_of(&[field("userId", "\"int\"", ""), field("userid", "\"int\"", "")].join(","));
    assert_eq!(one(&[&schema], &[("userid", SqlType::Integer)], 1, &[2, 4]).unwrap(), "2");
    assert_eq!(one(&[&schema], &[("USERID", SqlType::Integer)], 1, &[2, 4]).unwrap(), "1");
    // And whichever of them are wanted.
    let both = declared(&[("USERID", SqlType::Integer), ("userId", SqlType::Integer)]);
    for (places, expected) in [(vec![0, 1], "2|1"), (vec![0], "2"), (vec![1], "1")] {
        let schemas = Schemas::File(std::path::PathBuf::new());
        let records = AvroRecords::new(&both, &places, schemas).unwrap();
        records.reader.set(Arc::new(Schema::parse([schema.as_str()]).unwrap())).unwrap();
        let (columns, _) = records.columns(&[Some(&[2, 4])]).unwrap();
        let batch = RecordBatch::try_new(records.wanted.clone(), columns).unwrap();
        assert_eq!(shown(&batch), [expected]);
    }
}

#[tokio::test]
async fn types_are_those_of_the_writer() {
    let of = |of: &str| record_of(&format!("{{\"name\": \"c\", \"type\": {of}}}"));
    let millis = of("{\"type\": \"long\", \"logicalType\": \"timestamp-millis\"}");
    let micros = of("{\"type\": \"long\", \"logicalType\": \"timestamp-micros\"}");
    let wanted = [("c", SqlType::TimestampTz)];
    assert_eq!(one(&[&millis, &micros], &wanted, 1, &[0xd0, 0x0f]).unwrap(), "1970-01-01T00:00:01Z");
    let symbols = of("{\"type\": \"enum\", \"name\": \"E\", \"symbols\": [\"A\", \"B\", \"NEW\"]}");
    let fewer = of("{\"type\": \"enum\", \"name\": \"E\", \"symbols\": [\"A\", \"B\"]}");
    assert_eq!(one(&[&symbols, &fewer], &[("c", SqlType::Text)], 1, &[4]).unwrap(), "NEW");
    let (bare, union) = (of("\"int\""), of("[\"null\", \"long\", \"string\"]"));
    assert_eq!(one(&[&union, &bare], &[("c", SqlType::Integer)], 1, &[2, 6]).unwrap(), "3");
    let error = one(&[&union, &bare], &[("c", SqlType::Integer)], 1, &[4, 2, b'x']).unwrap_err();
    assert!(error.message().contains("column \"c\"") && error.message().contains("string"), "{error:?}");
    // A type by its name, once evolved: here arrow-avro reads the writer's bytes by the reader's schema.
    let pair = |inner: &str| {
        record_of(&format!(
            "{{\"name\": \"a\", \"type\": {{\"type\": \"record\", \"name\": \"P\", \"fields\": [{inner}]}}}}, {{\"name\": \"b\", \"type\": \"P\"}}"
        ))
    };
    let before = pair("{\"name\": \"old\", \"type\": \"string\"}, {\"name\": \"x\", \"type\": \"int\"}");
    let after = pair("{\"name\": \"x\", \"type\": \"long\"}");
    let wanted = [("b", SqlType::Struct(vec![("x".to_string(), SqlType::BigInt)]))];
    assert_eq!(one(&[&before, &after], &wanted, 1, &[2, b'q', 2, 2, b'q', 4]).unwrap(), "{x: 2}");
}

#[tokio::test]
async fn few_bytes_are_no_billions_of_items() {
    let of = |of: &str| record_of(&format!("{{\"name\": \"c\", \"type\": {of}}}, {{\"name\": \"d\", \"type\": {of}}}"));
    let nulls = of("{\"type\": \"array\", \"items\": \"null\"}");
    let wanted = [("c", SqlType::Array(Box::new(SqlType::Integer)))];
    let billions = [0xfe, 0xff, 0xff, 0xff, 0xff, 0x07, 0];
    let error = one(&[&nulls], &wanted, 1, &billions).unwrap_err();
    assert!(error.message().contains("have no bytes"), "{error:?}");
    let mut skipped = vec![0];
    skipped.extend(billions);
    assert!(one(&[&nulls], &wanted, 1, &skipped).is_err());
    let list = record_of("{\"name\": \"id\", \"type\": \"int\"}, {\"name\": \"next\", \"type\": [\"null\", \"R\"]}");
    let deep: Vec<u8> = std::iter::repeat_n([2, 2], 5000).flatten().collect();
    let error = one(&[&list], &[("id", SqlType::Integer)], 1, &deep).unwrap_err();
    assert!(error.message().contains("within each other"), "{error:?}");
    assert_eq!(one(&[&list], &[("id", SqlType::Integer)], 1, &[2, 2, 4, 0]).unwrap(), "1");
}

fn columns_of(text: &str) -> Vec<String> {
    let schema = Schema::parse([text]).unwrap();
    let one = |field: &schema::Field| match types::sql_type(&schema, field.node) {
        Ok(sql_type) => format!("{} {sql_type}", field.name),
        Err(error) => format!("{} ! {}", field.name, error.message()),
    };
    schema.record().unwrap().fields.iter().map(one).collect()
}

#[test]
fn every_avro_type_is_a_column() {
    let logical = |held: &str, name: &str| format!("{{\"type\": \"{held}\", \"logicalType\": \"{name}\"}}");
    for (of, expected) in [
        ("\"boolean\"".to_string(), "boolean"),
        ("\"int\"".to_string(), "integer"),
        ("\"long\"".to_string(), "bigint"),
        ("\"float\"".to_string(), "real"),
        ("\"double\"".to_string(), "double precision"),
        ("\"bytes\"".to_string(), "bytea"),
        ("[\"string\", \"null\"]".to_string(), "text"),
        ("{\"type\": \"fixed\", \"name\": \"F\", \"size\": 3}".to_string(), "bytea"),
        ("{\"type\": \"enum\", \"name\": \"E\", \"symbols\": [\"A\"]}".to_string(), "text"),
        (logical("int", "date"), "date"),
        (logical("int", "time-millis"), "time without time zone"),
        (logical("long", "time-micros"), "time without time zone"),
        (logical("long", "timestamp-millis"), "timestamp with time zone"),
        (logical("long", "local-timestamp-micros"), "timestamp without time zone"),
        (logical("string", "uuid"), "uuid"),
        (logical("string", "no such"), "text"),
        (
            "{\"type\": \"bytes\", \"logicalType\": \"decimal\", \"precision\": 9, \"scale\": 2}".to_string(),
            "numeric(9,2)",
        ),
        ("{\"type\": \"bytes\", \"logicalType\": \"decimal\", \"precision\": 1, \"scale\": 2}".to_string(), "bytea"),
        ("{\"type\": \"fixed\", \"name\": \"D\", \"size\": 12, \"logicalType\": \"duration\"}".to_string(), "interval"),
        ("{\"type\": \"array\", \"items\": [\"null\", \"int\"]}".to_string(), "integer[]"),
        ("{\"type\": \"map\", \"values\": \"long\"}".to_string(), "map(text, bigint)"),
        (record_of("{\"name\": \"a\", \"type\": \"int\"}").replace("\"R\"", "\"S\""), "struct(a integer)"),
        ("[\"null\", \"int\", \"string\"]".to_string(), "! union of null, int, string is the type of no column"),
        ("\"null\"".to_string(), "! null is the type of no column"),
        ("[\"null\", \"R\"]".to_string(), "! field \"c\": record R contains itself: no column has such a type"),
    ] {
        assert_eq!(
            columns_of(&record_of(&format!("{{\"name\": \"c\", \"type\": {of}}}"))),
            [format!("c {expected}")],
            "{of}"
        );
    }
}

/// Thirty records of which each has the next one twice.
#[test]
fn few_types_are_no_billions_of_columns() {
    let mut of = "\"int\"".to_string();
    for n in 0..30 {
        let fields = format!("{{\"name\": \"a\", \"type\": {of}}}, {{\"name\": \"b\", \"type\": \"N{n}\"}}");
        let fields = if n == 0 {
            fields.replace("\"N0\"", "\"int\"")
        } else {
            fields.replace(&format!("N{n}"), &format!("N{}", n - 1))
        };
        of = format!("{{\"type\": \"record\", \"name\": \"N{n}\", \"fields\": [{fields}]}}");
    }
    let found = columns_of(&record_of(&format!("{{\"name\": \"c\", \"type\": {of}}}")));
    assert!(found[0].contains("is too large"), "{found:?}");
}

#[test]
fn columns_are_held_against_the_schema() {
    let text = record_of(
        "{\"name\": \"id\", \"type\": \"long\"}, {\"name\": \"u\", \"type\": [\"int\", \"string\"]}, {\"name\": \"at\", \"type\": \"long\"}",
    );
    let reader = Arc::new(Schema::parse([text.as_str()]).unwrap());
    let check = |wanted: &[(&str, SqlType)]| plan::check(&reader, &declared(wanted));
    for fine in [SqlType::BigInt, SqlType::Integer, SqlType::Double, SqlType::Numeric(None)] {
        check(&[("ID", fine)]).unwrap();
    }
    for (wanted, code, part) in [
        (("idd", SqlType::BigInt), "42703", "column \"idd\""),
        (("id", SqlType::Text), "42804", "column \"id\": it is of type text but the schema has long"),
        (("at", SqlType::TimestampTz), "42804", "column \"at\""),
        (("u", SqlType::Text), "0A000", "column \"u\": union of int, string"),
    ] {
        let error = check(&[wanted]).unwrap_err();
        assert!(error.code() == code && error.message().contains(part), "{error:?}");
    }
    assert!(Schema::parse(["{"]).is_err());
    assert!(Schema::parse(["\"no such\""]).is_err());
    assert!(Schema::parse(["\"string\""]).unwrap().record().is_err());
}

#[tokio::test]
async fn what_names_no_schema_is_refused() {
    let text = record_of("{\"name\": \"id\", \"type\": \"long\"}");
    let records = records(&declared(&[("id", SqlType::BigInt)]), &[&text]);
    let (read, failures) =
        records.columns(&[None, Some(b""), Some(b"{}"), Some(&[0, 0, 0]), Some(&[0, 0, 0, 0, 1, 8])]).unwrap();
    assert_eq!(failures.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(failures[2].1.detail().unwrap().contains("0x7b"));
    assert_eq!(read[0].null_count(), 4);
}
