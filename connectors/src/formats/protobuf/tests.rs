use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MapKey, Value};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::types::SqlType;

use super::encode_plan::plan as encode_plan;
use super::*;
use crate::formats::random_rows::{assert_others_unspoilt, columns, every_type, rows};
use crate::formats::registry::{Registry, RegistryOptions, SchemaKind, frame};
use crate::testing::schema as declared;

fn message_of(text: &str, name: &str) -> MessageDescriptor {
    let file = descriptors::from_text(text, HashMap::new()).unwrap();
    descriptors::message(file.parent_pool(), name).unwrap()
}

/// Schemas with the ids 1, 2, ..; the last names the columns.
fn records(wanted: &SchemaRef, message: &str, schemas: &[&str]) -> ProtobufRecords {
    let pairs = [("schema.registry".to_string(), "http://127.0.0.1:1".to_string())];
    let options = RegistryOptions::take(&mut Options::new(&pairs).unwrap(), &mut Options::default()).unwrap().unwrap();
    let registry = Arc::new(Registry::new(options));
    for (at, text) in schemas.iter().enumerate() {
        let (id, text) = (at as u32 + 1, text.to_string());
        registry.learn(Fetched { id, kind: SchemaKind::Protobuf, text, references: Vec::new() });
    }
    let places: Vec<usize> = (0..wanted.fields().len()).collect();
    let schemas_of = Schemas::Registry(ById::new(Lookup::new(&registry).unwrap()), "s".to_string());
    let records = ProtobufRecords::new(wanted, &places, message, schemas_of).unwrap();
    records.reader.set(message_of(schemas.last().unwrap(), message)).unwrap();
    records
}

fn decode(records: &ProtobufRecords, bytes: &[Vec<u8>]) -> (RecordBatch, Failures) {
    let bytes: Vec<Option<&[u8]>> = bytes.iter().map(|record| Some(record.as_slice())).collect();
    let (columns, failures) = records.columns(&bytes).unwrap();
    (RecordBatch::try_new(records.wanted.clone(), columns).unwrap(), failures)
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    let mut record = frame::begin(id);
    record.push(0);
    record.extend_from_slice(body);
    record
}

fn encoded(batch: &RecordBatch, message: &MessageDescriptor) -> Vec<Vec<u8>> {
    let plan = encode_plan(message, batch.schema().fields()).unwrap();
    let one = |row| {
        let mut body = Vec::new();
        encode::message(&plan, &|column| batch.column(column).as_ref(), row, &mut body).unwrap();
        framed(1, &body)
    };
    (0..batch.num_rows()).map(one).collect()
}

/// Protobuf tells a list that is NULL from none as little as one within a list.
fn can_be_null(sql_type: &SqlType) -> bool {
    !matches!(sql_type, SqlType::Array(_) | SqlType::Map(..))
}

#[tokio::test]
async fn what_is_encoded_is_decoded() {
    let mut rng = SmallRng::seed_from_u64(3);
    for (types, nulls) in [
        (every_type(), 0),
        (every_type().into_iter().filter(can_be_null).collect(), 3),
        (every_type().into_iter().filter(can_be_null).collect::<Vec<_>>(), 10),
    ] {
        let all = columns(&types);
        let text = derive::schema_of(&all, "shop.Everything").unwrap();
        let message = message_of(&text, "shop.Everything");
        let batch = rows(&all, 150, nulls, &mut rng);
        let (read, failures) = decode(&records(&all, "shop.Everything", &[&text]), &encoded(&batch, &message));
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(read, batch);
        let some: Vec<usize> = vec![11, 3, 18];
        let wanted = Arc::new(all.project(&some).unwrap());
        let part = decode(&records(&wanted, "shop.Everything", &[&text]), &encoded(&batch, &message)).0;
        assert_eq!(part, batch.project(&some).unwrap());
    }
}

const KINDS: &str = r#"
    syntax = "proto3";
    package p;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/duration.proto";
    import "google/protobuf/wrappers.proto";
    enum Colour { NONE = 0; RED = 1; BLUE = 5; }
    message Point { int32 x = 1; optional int32 y = 2; }
    message Node { int32 v = 1; Node next = 2; }
    message Nothing {}
    message M {
        int32 i32 = 1; sint32 s32 = 2; sfixed32 f32s = 3; uint32 u32 = 4; fixed32 f32u = 5;
        int64 i64 = 6; sint64 s64 = 7; sfixed64 f64s = 8; uint64 u64 = 9; fixed64 f64u = 10;
        float f = 11; double d = 12; bool b = 13; string s = 14; bytes y = 15;
        Colour colour = 16; Point point = 17; optional string maybe = 18;
        repeated int32 packed = 19; repeated int32 loose = 20 [packed = false]; repeated Point points = 21;
        map<string, Point> by_name = 22; map<int32, Colour> colours = 23;
        oneof choice { string left = 24; Point right = 25; int32 third = 26; }
        google.protobuf.Timestamp at = 27; google.protobuf.Duration lasts = 28;
        google.protobuf.Int64Value boxed = 29; google.protobuf.StringValue boxed_text = 30;
        Node node = 31; Nothing nothing = 32; repeated string names = 33; repeated double weights = 34;
    }"#;

fn inferred(message: &MessageDescriptor) -> Vec<(String, SqlType)> {
    message.fields().filter_map(|f| Some((f.name().to_string(), types::sql_type(&f).ok()?))).collect()
}

fn wanted(message: &MessageDescriptor, names: &[&str]) -> SchemaRef {
    let all = inferred(message);
    let one = |name: &&str| {
        let (name, sql_type) = all.iter().find(|(field, _)| field == name).unwrap();
        (name.as_str(), sql_type.clone())
    };
    declared(&names.iter().map(one).collect::<Vec<_>>())
}

fn read(names: &[&str], body: &[u8]) -> String {
    read_as(KINDS, "p.M", names, body)
}

fn read_as(text: &str, name: &str, names: &[&str], body: &[u8]) -> String {
    let wanted = wanted(&message_of(text, name), names);
    // Any message of the schema comes first in it: the place is not what is tested here.
    let places: Vec<usize> = (0..names.len()).collect();
    let plan = plan::plan(&message_of(text, name), &message_of(text, name), &named(&wanted), &places).unwrap();
    let mut rows = Rows::new(&wanted).unwrap();
    rows.record(|columns| decode::message(&plan, &[body], columns));
    let (columns, failures) = rows.finish().unwrap();
    match failures.into_iter().next() {
        Some((_, error)) => format!("! {}", error.message()),
        None => crate::testing::rows(&RecordBatch::try_new(wanted, columns).unwrap()).remove(0),
    }
}

#[test]
fn every_type_is_a_column() {
    let message = message_of(KINDS, "p.M");
    let shown: Vec<String> = inferred(&message).iter().map(|(name, sql_type)| format!("{name} {sql_type}")).collect();
    assert_eq!(
        shown.join(", "),
        "i32 integer, s32 integer, f32s integer, u32 bigint, f32u bigint, i64 bigint, s64 bigint, f64s bigint, \
         u64 numeric(20,0), f64u numeric(20,0), f real, d double precision, b boolean, s text, y bytea, colour text, \
         point struct(x integer, y integer), maybe text, packed integer[], loose integer[], \
         points struct(x integer, y integer)[], by_name map(text, struct(x integer, y integer)), \
         colours map(integer, text), left text, right struct(x integer, y integer), third integer, \
         at timestamp with time zone, lasts interval, boxed bigint, boxed_text text, names text[], \
         weights double precision[]"
    );
    for (name, part) in [("node", "contains itself"), ("nothing", "contains nothing")] {
        let error = types::sql_type(&message.get_field_by_name(name).unwrap()).unwrap_err();
        assert!(error.message().contains(part), "{error:?}");
    }
}

/// Another writer of the same messages.
#[test]
fn what_prost_writes_is_read() {
    let descriptor = message_of(KINDS, "p.M");
    let mut message = DynamicMessage::new(descriptor.clone());
    let point = |x: i32| {
        let mut point = DynamicMessage::new(message_of(KINDS, "p.Point"));
        point.set_field_by_name("x", Value::I32(x));
        // Of the pool of the message that it goes into.
        point
    };
    for (name, value) in [
        ("i32", Value::I32(-1)),
        ("s32", Value::I32(i32::MIN)),
        ("f32s", Value::I32(-7)),
        ("u32", Value::U32(u32::MAX)),
        ("f32u", Value::U32(7)),
        ("i64", Value::I64(i64::MIN)),
        ("s64", Value::I64(-3)),
        ("f64s", Value::I64(-4)),
        ("u64", Value::U64(u64::MAX)),
        ("f64u", Value::U64(4)),
        ("f", Value::F32(1.5)),
        ("d", Value::F64(-2.25)),
        ("b", Value::Bool(true)),
        ("s", Value::String("\u{e9}".into())),
        ("colour", Value::EnumNumber(5)),
        ("packed", Value::List((0..3).map(Value::I32).collect())),
        ("loose", Value::List((5..7).map(Value::I32).collect())),
        ("names", Value::List(vec![Value::String("a".into()), Value::String(String::new())])),
        ("colours", Value::Map(HashMap::from([(MapKey::I32(2), Value::EnumNumber(77))]))),
        ("weights", Value::List(vec![Value::F64(0.5)])),
    ] {
        message.set_field_by_name(name, value);
    }
    let names = [
        "i32", "s32", "f32s", "u32", "f32u", "i64", "s64", "f64s", "u64", "f64u", "f", "d", "b", "s", "colour",
        "packed", "loose", "names", "colours", "weights", "maybe", "point", "y",
    ];
    assert_eq!(
        read(&names, &message.encode_to_vec()),
        "-1|-2147483648|-7|4294967295|7|-9223372036854775808|-3|-4|18446744073709551615|4|1.5|-2.25|true|\u{e9}|BLUE|\
         [0, 1, 2]|[5, 6]|[a, ]|{2: 77}|[0.5]|||"
    );
    assert_eq!(read_as(KINDS, "p.Point", &["x", "y"], &point(4).encode_to_vec()), "4|");
}

#[test]
fn what_comes_again_counts_or_is_merged() {
    // i32 twice, and a text in its place, which is passed over.
    assert_eq!(read(&["i32"], &[0x08, 1, 0x08, 2, 0x0a, 1, b'x']), "2");
    // point {x: 1}, point {y: 2}.
    assert_eq!(read(&["point"], &[0x8a, 1, 2, 0x08, 1, 0x8a, 1, 2, 0x10, 2]), "{x: 1, y: 2}");
    // packed [1, 2], 3 by itself, [4].
    assert_eq!(read(&["packed"], &[0x9a, 1, 2, 1, 2, 0x98, 1, 3, 0x9a, 1, 1, 4]), "[1, 2, 3, 4]");
    assert_eq!(read(&["loose"], &[0xa2, 1, 2, 1, 2, 0xa0, 1, 3]), "[1, 2, 3]");
    // left = "a", then third = 3: whoever wants left sees nothing.
    let choice = [0xc2, 1, 1, b'a', 0xd0, 1, 3];
    assert_eq!(read(&["left", "right", "third"], &choice), "||3");
    assert_eq!(read(&["left"], &choice), "");
    assert_eq!(read(&["left"], &choice[..4]), "a");
    // {"k": {x: 1}}, {"k": {y: 2}}: the last entry, not both; and an entry without key and value.
    let entries =
        [0xb2, 1, 7, 0x0a, 1, b'k', 0x12, 2, 0x08, 1, 0xb2, 1, 7, 0x0a, 1, b'k', 0x12, 2, 0x10, 2, 0xb2, 1, 0];
    assert_eq!(read(&["by_name"], &entries), "{k: {x: 0, y: 2}, : {x: 0, y: }}");
}

#[test]
fn what_is_left_out() {
    let names = ["i32", "s", "b", "colour", "maybe", "point", "packed", "by_name", "left", "at", "boxed", "u64"];
    assert_eq!(read(&names, &[]), "0||false|NONE|||[]|{}||||0");
    let text = r#"syntax = "proto2"; enum E { A = 1; B = 2; }
        message M { optional int32 i = 1; optional int32 d = 2 [default = 7]; optional E e = 3 [default = B];
            optional E first = 4; optional string s = 5 [default = "x"]; repeated group G = 6 { optional int32 v = 1; } }
        message R { required int32 i = 1; }"#;
    assert_eq!(read_as(text, "M", &["i", "d", "e", "first", "s", "g"], &[]), "|7|B||x|[]");
    assert_eq!(read_as(text, "M", &["g", "i"], &[0x33, 0x08, 5, 0x34, 0x08, 1, 0x33, 0x34]), "[{v: 5}, {v: }]|1");
    assert_eq!(read_as(text, "M", &["i"], &[0x33, 0x08, 5, 0x34, 0x08, 1]), "1");
    assert!(read_as(text, "R", &["i"], &[]).contains("a required field is missing"));
}

#[test]
fn well_known_types() {
    let at = [0xda, 1, 0x0d, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0x10, 0xe8, 7];
    let mut body = at.to_vec();
    body[2] = body.len() as u8 - 3;
    assert_eq!(read(&["at"], &body), "1969-12-31T23:59:59.000001Z");
    assert_eq!(read(&["at"], &[0xda, 1, 0]), "1970-01-01T00:00:00Z");
    assert_eq!(read(&["lasts"], &[0xe2, 1, 2, 0x08, 90]), "1 mins 30.000000000 secs");
    assert_eq!(read(&["boxed", "boxed_text"], &[0xea, 1, 0, 0xf2, 1, 3, 0x0a, 1, b'z']), "0|z");
}

#[tokio::test]
async fn schemas_evolve() {
    let old = r#"syntax = "proto3"; message M { int32 id = 1; string note = 2; string gone = 3; }"#;
    let new = r#"syntax = "proto3"; enum E { X = 0; Y = 1; } message Other { M.In inner = 1; }
        message M { message In { int32 v = 1; } map<string, In> m = 9; message Deep { string d = 1; }
            int64 id = 1; string remark = 2; E e = 4; optional int32 more = 5; }"#;
    let columns =
        [("ID", SqlType::BigInt), ("remark", SqlType::Text), ("e", SqlType::Text), ("more", SqlType::Integer)];
    let all = records(&declared(&columns), "M", &[old, new]);
    let mut second = frame::begin(2);
    second.extend([2, 2, 0x08, 9, 0x20, 1, 0x28, 4]);
    let mut other = frame::begin(2);
    other.extend([0, 0x08]);
    let mut deep = frame::begin(2);
    deep.extend([4, 2, 2, 0x0a, 0]);
    let mut nowhere = frame::begin(2);
    nowhere.extend([2, 8]);
    let sent = [framed(1, &[0x08, 5, 0x12, 1, b'n', 0x1a, 1, b'g']), second, other, deep, nowhere, framed(3, &[])];
    let bytes: Vec<Option<&[u8]>> = sent[..5].iter().map(|record| Some(record.as_slice())).collect();
    let (columns, failures) = all.columns(&bytes).unwrap();
    let batch = RecordBatch::try_new(all.wanted.clone(), columns).unwrap();
    let shown = crate::testing::rows(&batch);
    assert_eq!(shown[..2], ["5|n|X|", "9||Y|4"]);
    let messages: Vec<&str> = failures.iter().map(|(_, error)| error.message()).collect();
    assert!(messages[0].contains("a message Other, not M"), "{messages:?}");
    assert!(messages[1].contains("a message M.Deep, not M"), "{messages:?}");
    assert!(messages[2].contains("no message at [4]"), "{messages:?}");
}

#[tokio::test]
async fn damage_spoils_no_neighbour() {
    let mut rng = SmallRng::seed_from_u64(8);
    let types: Vec<SqlType> = every_type();
    let all = columns(&types);
    let text = derive::schema_of(&all, "M").unwrap();
    let message = message_of(&text, "M");
    let batch = rows(&all, 30, 0, &mut rng);
    let whole = encoded(&batch, &message);
    let records = records(&all, "M", &[&text]);
    for _ in 0..150 {
        let mut damaged = whole.clone();
        let hit: Vec<usize> = (0..5).map(|_| rng.gen_range(0..damaged.len())).collect();
        for at in &hit {
            let record = &mut damaged[*at];
            match rng.gen_range(0..3) {
                0 => record.truncate(rng.gen_range(0..record.len())),
                1 => *record = [framed(1, &[]), (0..rng.gen_range(0..90)).map(|_| rng.r#gen()).collect()].concat(),
                _ => {
                    let place = rng.gen_range(6..record.len());
                    record[place] = rng.r#gen();
                }
            }
        }
        assert_others_unspoilt(&decode(&records, &damaged), &batch, &hit);
    }
    let deep: Vec<u8> = std::iter::repeat_n(0x0b, 100_000).collect();
    assert!(read(&["i32"], &deep).contains("within each other"));
}

#[test]
fn columns_are_held_against_the_schema() {
    let message = message_of(KINDS, "p.M");
    let check = |name: &str, sql_type: SqlType| plan::check(&message, &[(name.to_string(), sql_type)]);
    check("I32", SqlType::BigInt).unwrap();
    check("u64", SqlType::BigInt).unwrap();
    check("point", SqlType::Struct(vec![("y".to_string(), SqlType::Integer)])).unwrap();
    for (name, sql_type, code, part) in [
        ("i33", SqlType::Integer, "42703", "column \"i33\""),
        ("s", SqlType::Integer, "42804", "column \"s\": it is of type integer but the schema has string"),
        ("packed", SqlType::Integer, "42804", "repeated int32"),
        ("i32", SqlType::Array(Box::new(SqlType::Integer)), "42804", "column \"i32\""),
        ("point", SqlType::Struct(vec![("z".to_string(), SqlType::Integer)]), "42703", "column \"z\""),
    ] {
        let error = check(name, sql_type).unwrap_err();
        assert!(error.code() == code && error.message().contains(part), "{error:?}");
    }
    assert_eq!(descriptors::from_text("message {", HashMap::new()).unwrap_err().code(), "42P17");
    assert_eq!(descriptors::message(message.parent_pool(), "p.N").unwrap_err().code(), "42704");
}

#[test]
fn schemas_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.proto");
    std::fs::write(dir.path().join("part.proto"), "syntax = \"proto3\"; package q; message Part { int32 a = 1; }")
        .unwrap();
    std::fs::write(&path, "syntax = \"proto3\"; import \"part.proto\"; message M { q.Part part = 1; }").unwrap();
    let pool = descriptors::from_file(&path).unwrap();
    assert!(descriptors::message(&pool, "M").is_ok());
    let compiled = dir.path().join("m.desc");
    std::fs::write(&compiled, pool.encode_to_vec()).unwrap();
    assert!(descriptors::message(&descriptors::from_file(&compiled).unwrap(), "q.Part").is_ok());
    std::fs::write(&compiled, [0xff]).unwrap();
    assert_eq!(descriptors::from_file(&compiled).unwrap_err().code(), "42P17");
    assert_eq!(descriptors::from_file(&dir.path().join("no.proto")).unwrap_err().code(), "58P01");
}
