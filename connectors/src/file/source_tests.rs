use std::io::Write;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tidemark_common::types::SqlType;
use tidemark_common::{ManualClock, Result};

use super::options::FileOptions;
use super::source::FileSource;
use super::store::{Location, S3Options};
use crate::options::Options;
use crate::testing::*;
use crate::{Positions, Source, SourceSpec, infer_columns, open_source};

fn put(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn columns() -> Vec<(&'static str, SqlType)> {
    vec![("id", SqlType::BigInt), ("name", SqlType::Text), ("at", SqlType::Timestamp)]
}

fn csv(ids: std::ops::Range<i64>) -> String {
    let mut text = "id,name,at\n".to_string();
    for id in ids {
        text.push_str(&format!("{id},\"n, {id}\",2024-01-01 00:{:02}:{:02}\n", id / 60 % 60, id % 60));
    }
    text
}

fn json(ids: std::ops::Range<i64>) -> String {
    ids.map(|id| format!("{{\"name\": \"n, {id}\", \"id\": {id}, \"at\": \"2024-01-01T00:00:00Z\"}}\n")).collect()
}

fn parquet(ids: std::ops::Range<i64>) -> Vec<u8> {
    let fields = vec![
        Field::new("NAME", DataType::Utf8, true),
        Field::new("id", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let names = StringArray::from_iter_values(ids.clone().map(|id| format!("n, {id}")));
    let times = TimestampMillisecondArray::from_iter_values(ids.clone().map(|id| id * 1000)).with_timezone("UTC");
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![Arc::new(names), Arc::new(Int64Array::from_iter_values(ids)), Arc::new(times)],
    )
    .unwrap();
    let mut out = Vec::new();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4000)).build();
    let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

fn gzip(content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn file_spec(path: &str, more: &[(&str, &str)]) -> SourceSpec {
    let mut options = vec![("connector", "file"), ("path", path), ("bounded", "true")];
    options.extend_from_slice(more);
    let mut spec = spec(&columns(), &options);
    spec.include = pairs(&[("file", "f"), ("offset", "o"), ("timestamp", "t")]);
    spec
}

fn open_dir(dir: &FsPath, more: &[(&str, &str)]) -> Result<Arc<dyn Source>> {
    open_source(file_spec(dir.to_str().unwrap(), more))
}

/// The ids of a batch whose first column they are.
fn ids(batch: &RecordBatch) -> Vec<i64> {
    rows(batch).iter().map(|line| line.split('|').next().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn csv_files_replay_exactly_in_key_order() {
    let dir = TempDir::new().unwrap();
    put(&dir, "b.csv", csv(20_000..30_000));
    put(&dir, "a/1.csv", csv(0..20_000));
    put(&dir, "c.csv.gz", gzip(csv(30_000..30_010)));
    put(&dir, "d.csv", "");
    put(&dir, "e.csv", "id,name,at\n");
    put(&dir, "_tmp.csv", "nonsense");
    put(&dir, "a/.hidden", "nonsense");
    let source = open_dir(dir.path(), &[("format", "csv")]).unwrap();
    let whole = check_replay(source.as_ref()).await;
    assert_eq!(ids(&whole), (0..30_010).collect::<Vec<_>>());
    assert!(
        rows(&whole)[20_001].starts_with("20001|n, 20001|2024-01-01T00:33:21|b.csv|1|"),
        "{}",
        rows(&whole)[20_001]
    );
}

#[tokio::test]
async fn json_and_parquet_replay_exactly() {
    let dir = TempDir::new().unwrap();
    put(&dir, "1.jsonl.gz", gzip(json(0..9_000)));
    put(&dir, "2.jsonl.zst", zstd::encode_all(json(9_000..9_005).as_bytes(), 0).unwrap());
    let path = dir.path().join("*.jsonl*");
    let source = open_source(file_spec(path.to_str().unwrap(), &[("format", "json")])).unwrap();
    assert_eq!(ids(&check_replay(source.as_ref()).await), (0..9_005).collect::<Vec<_>>());

    put(&dir, "1.parquet", parquet(0..10_000));
    put(&dir, "2.parquet", parquet(10_000..12_345));
    let path = dir.path().join("?.parquet");
    let source = open_source(file_spec(path.to_str().unwrap(), &[])).unwrap();
    let whole = check_replay(source.as_ref()).await;
    assert_eq!(ids(&whole), (0..12_345).collect::<Vec<_>>());
    assert!(rows(&whole)[61].starts_with("61|n, 61|1970-01-01T00:01:01|1.parquet|61|"), "{}", rows(&whole)[61]);
}

#[tokio::test]
async fn bz2_and_xz_are_read() {
    let dir = TempDir::new().unwrap();
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(csv(0..10).as_bytes()).unwrap();
    put(&dir, "1.csv.bz2", bz2.finish().unwrap());
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(csv(10..20).as_bytes()).unwrap();
    put(&dir, "2.csv.xz", xz.finish().unwrap());
    let source = open_dir(dir.path(), &[("format", "csv")]).unwrap();
    assert_eq!(ids(&all(source.as_ref(), None).await.unwrap().0), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn new_files_are_read_as_they_come_and_replayed_in_that_order() {
    let dir = TempDir::new().unwrap();
    put(&dir, "m.csv", csv(0..5));
    let options = [("format", "csv"), ("bounded", "false"), ("poll_interval", "10ms")];
    let spec =
        spec(&columns(), &[&[("connector", "file"), ("path", dir.path().to_str().unwrap())], &options[..]].concat());
    let source = open_source(spec).unwrap();
    assert!(!source.is_bounded());
    let mut positions = Positions::new();
    let mut read = Vec::new();
    let mut reader = source.reader(&positions, None, None).await.unwrap();
    for (name, range) in [("z.csv", 5..8), ("a.csv", 8..9), ("b.csv", 9..12)] {
        let batch = reader.next().await.unwrap().unwrap();
        positions.extend(batch.positions);
        read.extend(ids(&batch.batch));
        put(&dir, name, csv(range));
    }
    // A restart with a file not seen yet, whose key is before others.
    drop(reader);
    let mut reader = source.reader(&positions, None, None).await.unwrap();
    let batch = reader.next().await.unwrap().unwrap();
    positions.extend(batch.positions);
    read.extend(ids(&batch.batch));
    assert_eq!(read, (0..12).collect::<Vec<_>>());
    let seqs: Vec<&str> =
        ["m.csv", "z.csv", "a.csv", "b.csv"].iter().map(|f| positions[*f].split(':').next().unwrap()).collect();
    assert_eq!(seqs, ["0", "1", "2", "3"]);

    let mut replay = source.reader(&Positions::new(), Some(&positions), None).await.unwrap();
    let again: Vec<i64> = drain(replay.as_mut(), &mut Positions::new()).await.unwrap().iter().flat_map(ids).collect();
    assert_eq!(again, read);
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a.csv", csv(0..20_000));
    let source = open_dir(dir.path(), &[("format", "csv")]).unwrap();
    let mut reader = source.reader(&Positions::new(), None, Some(&[0])).await.unwrap();
    let mut read = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            next = reader.next() => match next.unwrap() {
                Some(batch) => read.extend(ids(&batch.batch)),
                None => break,
            },
        }
        tokio::select! {
            next = reader.next() => match next.unwrap() {
                Some(batch) => read.extend(ids(&batch.batch)),
                None => break,
            },
            () = tokio::time::sleep(Duration::from_micros(50)) => {}
        }
    }
    assert_eq!(read, (0..20_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn bad_records_stop_the_source_or_are_counted() {
    let dir = TempDir::new().unwrap();
    let mut text = csv(0..10_000);
    text.push_str("oops,x,2024-01-01\n10000,only two\n10001,last,2024-01-01\n");
    put(&dir, "bad.csv", &text);
    let source = open_dir(dir.path(), &[("format", "csv")]).unwrap();
    let mut reader = source.reader(&Positions::new(), None, None).await.unwrap();
    let failed = drain(reader.as_mut(), &mut Positions::new()).await;
    let (code, message, hint) = refused(failed);
    assert_eq!(code, "22P02");
    assert!(
        message.ends_with("bad.csv\": line 10002: column \"id\": invalid input syntax for type bigint: \"oops\""),
        "{message}"
    );
    assert!(hint.contains("on_error = 'drop'"));
    // It stays failed, and does not look finished.
    assert!(reader.next().await.is_err());

    let source =
        open_dir(dir.path(), &[("format", "csv"), ("on_error", "drop"), ("rows_per_second", "1000000")]).unwrap();
    let mut reader = source.reader(&Positions::new(), None, None).await.unwrap();
    let (mut dropped, mut read) = (0, 0);
    while let Some(batch) = reader.next().await.unwrap() {
        dropped += batch.dropped;
        read += batch.batch.num_rows();
    }
    assert_eq!((dropped, read), (2, 10_001));
    let source = open_dir(dir.path(), &[("format", "csv"), ("on_error", "drop")]).unwrap();
    let whole = check_replay(source.as_ref()).await;
    assert!(
        rows(&whole)[10_000].starts_with("10001|last|2024-01-01T00:00:00|bad.csv|10002|"),
        "{}",
        rows(&whole)[10_000]
    );
}

#[tokio::test]
async fn damaged_files_are_named() {
    let dir = TempDir::new().unwrap();
    let whole = parquet(0..1000);
    let whole_gz = gzip(csv(0..1000));
    for (name, content, format) in [
        ("cut.parquet", &whole[..whole.len() / 2], "parquet"),
        ("empty.parquet", &[][..], "parquet"),
        ("cut.csv.gz", &whole_gz[..whole_gz.len() / 2], "csv"),
        ("plain.csv.gz", b"id,name,at\n1,a,\n", "csv"),
        ("plain.csv.zst", b"id,name,at\n1,a,\n", "csv"),
    ] {
        put(&dir, name, content);
        let path = dir.path().join(name);
        let source =
            open_source(file_spec(path.to_str().unwrap(), &[("format", format), ("on_error", "drop")])).unwrap();
        let (code, message, _) = refused(all(source.as_ref(), None).await);
        assert_eq!(code, "XX001", "{name}: {message}");
        assert!(message.contains(name), "{message}");
    }
    // Bytes inside that are wrong must not bring anything down either.
    let mut broken = whole.clone();
    broken[100..400].fill(0xab);
    put(&dir, "broken.parquet", &broken);
    let path = dir.path().join("broken.parquet");
    let source = open_source(file_spec(path.to_str().unwrap(), &[])).unwrap();
    assert!(refused(all(source.as_ref(), None).await).1.contains("broken.parquet"));
}

#[tokio::test]
async fn a_file_that_changed_or_went_is_noticed_in_a_replay() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a.csv", csv(0..10));
    let source = open_dir(dir.path(), &[("format", "csv")]).unwrap();
    let (_, positions) = all(source.as_ref(), None).await.unwrap();
    put(&dir, "a.csv", csv(0..9));
    let replay = async || {
        let mut reader = source.reader(&Positions::new(), Some(&positions), None).await.unwrap();
        refused(drain(reader.as_mut(), &mut Positions::new()).await)
    };
    let (code, message, _) = replay().await;
    assert_eq!(code, "XX001");
    assert!(message.contains("fewer rows"), "{message}");
    std::fs::remove_file(dir.path().join("a.csv")).unwrap();
    assert_eq!(replay().await.0, "58P01");
    // What was read and grew since is not read again.
    put(&dir, "a.csv", csv(0..20));
    let mut reader = source.reader(&positions, None, None).await.unwrap();
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn event_time_sets_the_pace_of_a_replay_at_speed() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a.csv", csv(0..100));
    let clock = Arc::new(ManualClock::new(0));
    let mut spec =
        file_spec(dir.path().to_str().unwrap(), &[("format", "csv"), ("replay_speed", "10"), ("replay_column", "at")]);
    spec.clock = clock.clone();
    let source = open_source(spec).unwrap();
    let mut reader = source.reader(&Positions::new(), None, Some(&[0])).await.unwrap();
    assert_eq!(ids(&reader.next().await.unwrap().unwrap().batch), [0]);
    clock.advance(1_000_000);
    let batch = reader.next().await.unwrap().unwrap();
    assert_eq!(ids(&batch.batch), (1..=10).collect::<Vec<_>>());
    assert_eq!(batch.positions["a.csv"], "0:11");
    clock.advance(1_000_000_000);
    let batch = reader.next().await.unwrap().unwrap();
    assert_eq!(ids(&batch.batch), (11..100).collect::<Vec<_>>());
    assert!(batch.positions["a.csv"].starts_with("0:100:done:"));
}

#[test]
fn wrong_options_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a.csv", csv(0..1));
    let with = |path: &str, more: &[(&str, &str)]| refused(open_source(file_spec(path, more)));
    let path = dir.path().join("a.csv");
    let path = path.to_str().unwrap();
    assert_eq!(with("/nowhere/at/all.csv", &[]).0, "58P01");
    assert_eq!(with(path, &[("delimeter", ";")]).2, "Perhaps you meant \"delimiter\".");
    assert!(with(path, &[("delimiter", ";;")]).1.contains("one ASCII character"));
    assert!(with(path, &[("on_error", "skip")]).1.contains("'fail', 'drop' or 'dlq'"));
    assert!(with(path, &[("replay_speed", "5")]).1.contains("go together"));
    assert!(with(path, &[("replay_speed", "5"), ("replay_column", "id")]).1.contains("must be a timestamp"));
    assert!(with(path, &[("poll_interval", "soon")]).1.contains("poll_interval"));
    assert!(with(dir.path().to_str().unwrap(), &[]).2.contains("FORMAT PLAIN ENCODE"));
    assert!(with(path, &[("format", "cvs")]).2.contains("CSV"));
    assert_eq!(with("gs://bucket/x.csv", &[]).0, "0A000");
    let mut spec = file_spec(path, &[]);
    spec.format = encode("CSV", &[("headr", "true")]);
    assert_eq!(refused(open_source(spec)).2, "Perhaps you meant \"header\".");
    let mut spec = file_spec(path, &[]);
    spec.include = pairs(&[("partition", "p")]);
    assert_eq!(refused(open_source(spec)).2, "It knows: file, offset, timestamp.");
}

#[tokio::test]
async fn columns_come_from_the_data() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a.csv", "id,price,ok,day,at,name\n1,1.5,true,2024-01-01,2024-01-01T00:00:00,x\n");
    put(&dir, "a.jsonl", "{\"a\": 1, \"b\": {\"c\": [1.5]}, \"d\": null}\n");
    put(&dir, "a.parquet", parquet(0..3));
    let infer = async |name: &str| {
        let path = dir.path().join(name);
        let options = pairs(&[("connector", "file"), ("path", path.to_str().unwrap()), ("bounded", "true")]);
        let schema = infer_columns(&options, &[], None).await.unwrap();
        schema
            .fields()
            .iter()
            .map(|f| format!("{} {}", f.name(), SqlType::from_field(f)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(
        infer("a.csv").await,
        "id bigint, price double precision, ok boolean, day date, at timestamp without time zone, name text"
    );
    assert_eq!(infer("a.jsonl").await, "a bigint, b struct(c double precision[]), d text");
    assert_eq!(infer("a.parquet").await, "NAME text, id bigint, at timestamp with time zone");
}

#[tokio::test]
async fn an_object_store_is_read_like_a_directory() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (key, content) in [
        ("data/in/1.csv", csv(0..10_000)),
        ("data/in/2.csv", csv(10_000..10_003)),
        ("data/in/_3.csv", "x".to_string()),
        ("data/other.csv", "x".to_string()),
    ] {
        store.put(&Path::from(key), content.into()).await.unwrap();
    }
    for (key, expected) in [("data/in/", 10_003), ("data/in", 10_003), ("data/in/2.csv", 3), ("data/*/1.csv", 10_000)] {
        let dir = TempDir::new().unwrap();
        let spec = file_spec(dir.path().to_str().unwrap(), &[("format", "csv")]);
        let mut given = Options::new(&spec.options).unwrap();
        given.take("connector").unwrap();
        let mut options = FileOptions::parse(spec, given).unwrap();
        options.location = Location::below(store.clone(), key, "s3://bucket/data").unwrap();
        let source = FileSource(Arc::new(options));
        let whole = check_replay(&source).await;
        assert_eq!(whole.num_rows(), expected, "{key}");
    }
}

#[tokio::test]
async fn the_example_flights_are_read() {
    let path = FsPath::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights/*.parquet");
    let options = [("connector", "file"), ("path", path.to_str().unwrap()), ("bounded", "true")];
    let schema = infer_columns(&pairs(&options), &[], None).await.unwrap();
    let columns: Vec<(&str, SqlType)> =
        schema.fields().iter().map(|f| (f.name().as_str(), SqlType::from_field(f))).collect();
    let (flights, _) = all(open(&columns, &options).unwrap().as_ref(), None).await.unwrap();
    assert_eq!(flights.num_rows(), 27_004);
    assert_eq!(rows(&flights)[0], "2013-01-01T05:15:00|UA|1545|N14228|EWR|IAH|2|11|227|1400");
}

#[test]
fn a_bucket_is_opened_with_its_options() {
    let s3 = [
        ("s3.endpoint", "http://127.0.0.1:9000"),
        ("s3.region", "eu-central-1"),
        ("s3.access_key_id", "id"),
        ("s3.secret_access_key", "hush"),
    ];
    let source = open_source(file_spec("s3://bucket/in/*.csv", &s3)).unwrap();
    assert!(!format!("{source:?}").contains("hush"), "{source:?}");
    let options = S3Options::parse(&mut Options::new(&pairs(&s3)).unwrap());
    assert!(!format!("{options:?}").contains("hush"), "{options:?}");
    assert!(refused(open_source(file_spec("s3:///in/*.csv", &s3))).1.contains("names no bucket"));
    assert!(
        refused(open_source(file_spec("s3://bucket/a.csv", &[("s3.secret_key", "x")]))).1.contains("s3.secret_key")
    );
}
