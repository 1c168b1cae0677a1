use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tidemark_common::types::SqlType;
use tidemark_common::{Delta, SystemClock};

use super::sink::{FileSink, FileWriter};
use super::store::Location;
use crate::formats::Format;
use crate::testing::*;
use crate::{SinkSpec, SinkWriter, open_sink, open_source};

fn columns() -> Vec<(&'static str, SqlType)> {
    vec![("id", SqlType::BigInt), ("doc", SqlType::Json)]
}

fn delta(rows: &[(i64, &str, i64)]) -> Delta {
    let ids = Int64Array::from_iter_values(rows.iter().map(|r| r.0));
    let docs = StringArray::from_iter_values(rows.iter().map(|r| r.1));
    let batch = RecordBatch::try_new(schema(&columns()), vec![Arc::new(ids), Arc::new(docs)]).unwrap();
    Delta::new(batch, Some(Int64Array::from_iter_values(rows.iter().map(|r| r.2))))
}

fn sink_spec(dir: &TempDir, format: &str, more: &[(&str, &str)]) -> SinkSpec {
    let mut options = vec![("connector", "file"), ("path", dir.path().to_str().unwrap())];
    options.extend_from_slice(more);
    SinkSpec {
        name: "out".to_string(),
        schema: schema(&columns()),
        identity: "out-1".to_string(),
        append_only: true,
        key: None,
        options: pairs(&options),
        secrets: Vec::new(),
        format: encode(format, &[]),
        clock: Arc::new(SystemClock),
    }
}

fn files(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(dir.path()).unwrap().map(read).collect()
}

#[tokio::test]
async fn an_epoch_delivered_twice_leaves_the_target_as_once() {
    for format in ["CSV", "JSON", "PARQUET"] {
        let dir = TempDir::new().unwrap();
        let sink = open_sink(sink_spec(&dir, format, &[])).unwrap();
        let mut writer = sink.writer().await.unwrap();
        let first = vec![delta(&[(1, "{\"a\": 1}", 1)]), delta(&[(2, "[]", 2)])];
        writer.deliver(7, first.clone()).await.unwrap();
        writer.deliver(8, vec![]).await.unwrap();
        writer.deliver(9, vec![delta(&[(3, "null", 1)])]).await.unwrap();
        let once = files(&dir);
        let mut again = sink.writer().await.unwrap();
        again.deliver(7, first).await.unwrap();
        assert_eq!(files(&dir), once);
        let extension = format.to_lowercase();
        let names: Vec<String> = once.keys().cloned().collect();
        assert_eq!(names, [format!("out-{:020}.{extension}", 7), format!("out-{:020}.{extension}", 9)]);

        let path = dir.path().to_str().unwrap();
        let options = [("connector", "file"), ("path", path), ("bounded", "true"), ("format", extension.as_str())];
        let source = open(&columns(), &options).unwrap();
        let read = rows(&all(source.as_ref(), None).await.unwrap().0);
        let last = if format == "JSON" { "3|" } else { "3|null" };
        assert_eq!(read, ["1|{\"a\": 1}", "2|[]", "2|[]", last], "{format}");
    }
}

#[tokio::test]
async fn what_json_holds_is_written_as_json() {
    let dir = TempDir::new().unwrap();
    let sink = open_sink(sink_spec(&dir, "JSON", &[("prefix", "p")])).unwrap();
    sink.writer().await.unwrap().deliver(1, vec![delta(&[(1, "{\"a\":\n 1}", 1)])]).await.unwrap();
    let text = std::fs::read_to_string(dir.path().join(format!("p-{:020}.json", 1))).unwrap();
    assert_eq!(text, "{\"id\":1,\"doc\":{\"a\":  1}}\n");
}

#[tokio::test]
async fn updates_are_refused_or_written_as_a_change_log() {
    let dir = TempDir::new().unwrap();
    let mut spec = sink_spec(&dir, "CSV", &[]);
    spec.append_only = false;
    let (code, _, hint) = refused(open_sink(spec));
    assert_eq!(code, "0A000");
    assert!(hint.contains("changelog = 'true'"));

    let mut spec = sink_spec(&dir, "CSV", &[("changelog", "true")]);
    spec.append_only = false;
    let mut writer = open_sink(spec).unwrap().writer().await.unwrap();
    writer.deliver(3, vec![delta(&[(1, "1", -1), (1, "2", 1)])]).await.unwrap();
    let text = std::fs::read_to_string(dir.path().join(format!("out-{:020}.csv", 3))).unwrap();
    assert_eq!(text, "id,doc,__epoch,__weight\n1,1,3,-1\n1,2,3,1\n");
}

#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let list = |t| SqlType::Array(Box::new(t));
    let columns = [
        ("b", SqlType::Boolean),
        ("s", SqlType::SmallInt),
        ("i", SqlType::Integer),
        ("l", SqlType::BigInt),
        ("r", SqlType::Real),
        ("d", SqlType::Double),
        ("n", SqlType::Numeric(Some((12, 3)))),
        ("wide", SqlType::Numeric(Some((60, 5)))),
        ("span", SqlType::Interval),
        ("m", SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Double))),
        ("t", SqlType::Text),
        ("v", SqlType::Varchar(Some(9))),
        ("c", SqlType::Char(4)),
        ("x", SqlType::Bytea),
        ("day", SqlType::Date),
        ("clock", SqlType::Time),
        ("ts", SqlType::Timestamp),
        ("tz", SqlType::TimestampTz),
        ("u", SqlType::Uuid),
        ("j", SqlType::Jsonb),
        ("a", list(SqlType::Text)),
        ("st", SqlType::Struct(vec![("x".into(), SqlType::Integer), ("y".into(), list(SqlType::BigInt))])),
    ];
    let nulls: Vec<(String, String)> =
        columns.iter().map(|(n, _)| (format!("fields.{n}.null_rate"), "0.2".into())).collect();
    let mut made = spec(&columns, &[("connector", "datagen"), ("rows", "500"), ("rows_per_second", "0")]);
    made.options.extend(nulls);
    let (batch, _) = all(open_source(made).unwrap().as_ref(), None).await.unwrap();
    for format in ["CSV", "JSON", "PARQUET"] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_str().unwrap();
        let sink = open_sink(SinkSpec { schema: batch.schema(), ..sink_spec(&dir, format, &[]) }).unwrap();
        sink.writer().await.unwrap().deliver(1, vec![Delta::inserts(batch.clone())]).await.unwrap();
        let format = format.to_lowercase();
        let source =
            open(&columns, &[("connector", "file"), ("path", path), ("bounded", "true"), ("format", &format)]).unwrap();
        let (read, _) = all(source.as_ref(), None).await.unwrap();
        for (column, field) in batch.schema().fields().iter().enumerate() {
            assert_eq!(read.column(column), batch.column(column), "{format} {}", field.name());
        }
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_refused_at_once() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let mut spec = sink_spec(&dir, "CSV", &[]);
    spec.options = pairs(&[("connector", "file"), ("path", dir.path().join("file/below").to_str().unwrap())]);
    let (_, message, _) = refused(open_sink(spec).unwrap().writer().await.map(|_| ()));
    assert!(message.contains("file/below"), "{message}");
    let mut spec = sink_spec(&dir, "CSV", &[("prefx", "a")]);
    assert_eq!(refused(open_sink(spec.clone())).2, "Perhaps you meant \"prefix\".");
    spec.options = pairs(&[("connector", "blackhoel")]);
    assert_eq!(refused(open_sink(spec.clone())).2, "Perhaps you meant \"blackhole\".");
    spec.options = pairs(&[("connector", "blackhole")]);
    spec.format = None;
    spec.append_only = false;
    let mut writer = open_sink(spec).unwrap().writer().await.unwrap();
    writer.deliver(1, vec![delta(&[(1, "1", -1)])]).await.unwrap();
}

#[tokio::test]
async fn an_object_store_takes_files_by_put() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let schema: SchemaRef = schema(&columns());
    let sink = FileSink {
        path: "s3://bucket/out".to_string(),
        s3: Default::default(),
        format: Format::Parquet,
        prefix: "p".to_string(),
        schema,
        changelog: false,
    };
    let mut writer = FileWriter { sink, location: Location::below(store.clone(), "out/", "s3://bucket/out").unwrap() };
    for _ in 0..2 {
        writer.deliver(12, vec![delta(&[(1, "1", 1)])]).await.unwrap();
    }
    let meta = store.head(&Path::from(format!("out/p-{:020}.parquet", 12))).await.unwrap();
    assert!(meta.size > 0);
}
