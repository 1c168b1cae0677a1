//! The file sink: one file an epoch.
//!
//! The file's name comes from the epoch and its bytes from the rows, and it appears whole or not at all (a rename, or one put):
//! delivering an epoch twice leaves the target as once. An epoch without rows leaves no file.

use std::io::Write;
use std::path::Path as FsPath;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tidemark_common::{Delta, Epoch, Error, Result, SqlState};

use super::store::{Location, S3Options, store_error};
use crate::formats::{Format, encode};
use crate::options::Options;
use crate::spec::SinkSpec;
use crate::{Sink, SinkWriter};

/// Columns of a change log, after the sink's own.
const EPOCH_COLUMN: &str = "__epoch";
const WEIGHT_COLUMN: &str = "__weight";

#[derive(Debug, Clone)]
pub(super) struct FileSink {
    pub path: String,
    pub s3: S3Options,
    pub format: Format,
    pub prefix: String,
    pub schema: SchemaRef,
    pub changelog: bool,
}

pub(crate) fn open(spec: SinkSpec, mut options: Options) -> Result<Arc<dyn Sink>> {
    let path = options.require("path")?;
    let s3 = S3Options::parse(&mut options);
    let format = Format::choose(spec.format.as_ref(), &mut options, "").map_err(|e| {
        if spec.format.is_none() { e.with_hint("Add FORMAT PLAIN ENCODE CSV | JSON | PARQUET.") } else { e }
    })?;
    let prefix = options.take("prefix").unwrap_or_else(|| spec.name.clone());
    let changelog = options.bool("changelog")?.unwrap_or(false);
    options.finish()?;
    if prefix.is_empty() || prefix.contains(['/', '\\']) || prefix.starts_with(['.', '_']) {
        return Err(Error::invalid(format!("option \"prefix\" must be the start of a file name, not \"{prefix}\"")));
    }
    if !spec.append_only && !changelog {
        return Err(Error::unsupported("a file sink cannot take updates and deletes: files are only added").with_hint(
            "Write the changes themselves with changelog = 'true', or sink from a view that only adds rows.",
        ));
    }
    let schema = if changelog { with_changelog(&spec.schema)? } else { spec.schema };
    Ok(Arc::new(FileSink { path, s3, format, prefix, schema, changelog }))
}

fn with_changelog(schema: &SchemaRef) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    for name in [EPOCH_COLUMN, WEIGHT_COLUMN] {
        if fields.iter().any(|f| f.name() == name) {
            return Err(Error::new(
                SqlState::DuplicateColumn,
                format!("column \"{name}\" is taken by changelog = 'true'"),
            ));
        }
        fields.push(Arc::new(Field::new(name, DataType::Int64, false)));
    }
    Ok(Arc::new(Schema::new(fields)))
}

#[async_trait]
impl Sink for FileSink {
    async fn writer(&self) -> Result<Box<dyn SinkWriter>> {
        let location = Location::to_write(&self.path, &self.s3)?;
        let writer = FileWriter { sink: self.clone(), location };
        writer.check().await?;
        Ok(Box::new(writer))
    }
}

pub(super) struct FileWriter {
    pub sink: FileSink,
    pub location: Location,
}

#[async_trait]
impl SinkWriter for FileWriter {
    async fn deliver(&mut self, epoch: Epoch, changes: Vec<Delta>) -> Result<()> {
        let batch = self.sink.rows(epoch, &changes)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let name = format!("{}-{epoch:020}.{}", self.sink.prefix, self.sink.format.extension());
        let bytes = encode::encode(&self.sink.format, &batch)?;
        self.put(&name, bytes).await
    }
}

impl FileSink {
    /// The rows of the epoch's file.
    fn rows(&self, epoch: Epoch, changes: &[Delta]) -> Result<RecordBatch> {
        let width = self.schema.fields().len() - if self.changelog { 2 } else { 0 };
        let inner = Arc::new(self.schema.project(&(0..width).collect::<Vec<_>>())?);
        let all = Delta::concat(&inner, changes)?;
        let rows = all.num_rows();
        if self.changelog {
            let mut columns: Vec<ArrayRef> = all.batch.columns().to_vec();
            let epoch = i64::try_from(epoch).map_err(|_| Error::internal("an epoch beyond bigint"))?;
            columns.push(Arc::new(Int64Array::from(vec![epoch; rows])));
            columns.push(Arc::new((0..rows).map(|row| all.weight(row)).collect::<Int64Array>()));
            return Ok(RecordBatch::try_new(self.schema.clone(), columns)?);
        }
        let Some(weights) = &all.weights else { return Ok(all.batch) };
        let mut repeated = Vec::with_capacity(rows);
        for (row, weight) in weights.values().iter().enumerate() {
            let times = usize::try_from(*weight)
                .map_err(|_| Error::internal("a row was taken away from a stream that only adds rows"))?;
            repeated.extend(std::iter::repeat_n(row as u32, times));
        }
        Ok(all.take(&UInt32Array::from(repeated))?.batch)
    }
}

impl FileWriter {
    /// Finds out now, and not at the first epoch, whether files can be written.
    async fn check(&self) -> Result<()> {
        let name = format!("_{}.check", self.sink.prefix);
        self.put(&name, Vec::new()).await?;
        self.location.store.delete(&Path::from(name)).await.map_err(|e| store_error(e, &self.location.base))
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let Some(dir) = &self.location.local else {
            let put = self.location.store.put(&Path::from(name), PutPayload::from(bytes)).await;
            return put.map(|_| ()).map_err(|e| store_error(e, &self.location.show(&Path::from(name))));
        };
        let (dir, owned) = (dir.clone(), name.to_string());
        let written = tokio::task::spawn_blocking(move || write_whole(&dir, &owned, &bytes)).await;
        let written = written.map_err(|e| Error::internal(format!("writing \"{name}\" failed: {e}")))?;
        written.map_err(|e| Error::from(e).context(format!("cannot write \"{name}\" in \"{}\"", self.location.base)))
    }
}

/// Under a hidden name first, so that nobody sees half a file, and on disk before it gets its name.
fn write_whole(dir: &FsPath, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let hidden = dir.join(format!(".{name}.tmp"));
    let mut file = std::fs::File::create(&hidden)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&hidden, dir.join(name))?;
    std::fs::File::open(dir)?.sync_all()
}
