//! What the driver asks of the outside world. `connectors` implements these traits, `engine` calls them.
//!
//! ```text
//!   file, generator, topic ──SourceReader::next──▶ SourceBatch ──▶ bounded queue ──▶ driver
//!   outbox of a sink ──▶ SinkWriter::deliver(epoch, changes) ──▶ file, topic, table
//! ```

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::object_store::{ObjectMeta, ObjectStore};

use crate::types::SqlType;
use crate::{Delta, Epoch, Error, Result};

/// How far a source has been read: split -> position, both as text that a person can read in `tidemark.sources`.
/// A split is what is read in order: a partition of a topic, one file, a generator. A split that is not in the map has not
/// been begun.
pub type Positions = BTreeMap<String, String>;

/// Where rows come from. Built once from the WITH options; makes readers.
#[async_trait]
pub trait Source: Send + Sync + Debug {
    /// The declared columns, then the INCLUDE columns, as a view sees them.
    fn schema(&self) -> SchemaRef;

    /// An error if what it names cannot be reached now; asked once, when it is created.
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    /// A reader of what lies after `from`. With `until` it replays exactly the rows up to there, in the order they were
    /// first read, as fast as it can (no rate limit), and then ends; without, it goes on for as long as there is more to come.
    /// `projection`: the columns of `schema()` wanted, in that order; readers decode no others.
    async fn reader(
        &self,
        from: &Positions,
        until: Option<&Positions>,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn SourceReader>>;

    /// The Parquet files whose rows are those up to `until`, each of them to its end, for batch queries. `None`: its rows are elsewhere,
    /// or only a reader knows them.
    async fn parquet_files(&self, _until: &Positions) -> Result<Option<ParquetFiles>> {
        Ok(None)
    }

    /// An error if its columns cannot be read now; asked when one has been added.
    async fn check_columns(&self) -> Result<()> {
        self.check().await
    }

    /// Columns that its records have and it has not, and before which its readers have stopped so that they can be added.
    fn missing_columns(&self) -> Vec<MissingColumn> {
        Vec::new()
    }

    /// The rows of records of a split that were set aside, all columns, with the place of each where it has one; those that still
    /// cannot be decoded are `dead` again. The positions are nobody's.
    async fn decode(&self, split: &str, _records: Vec<Record>) -> Result<SourceBatch> {
        Err(Error::unsupported(format!("the records of {split} cannot be decoded again")))
    }

    /// An epoch has stored these positions: they are true from now on. For systems that keep a reader's place themselves, for people
    /// to see. Must not wait.
    fn committed(&self, _positions: &Positions) {}

    /// The source has been dropped for good: what it keeps in the other system goes.
    async fn dropped(&self) -> Result<()> {
        Ok(())
    }

    /// True if no row can ever come after the last (a generator with a row count): the source then counts as finished
    /// when its reader ends.
    fn is_bounded(&self) -> bool;
}

/// Files as they are now.
#[derive(Debug, Clone)]
pub struct ParquetFiles {
    pub store: Arc<dyn ObjectStore>,
    pub files: Vec<ObjectMeta>,
    /// How many columns of the source are columns of the files: its first ones.
    pub columns: usize,
}

#[async_trait]
pub trait SourceReader: Send {
    /// Waits for the next rows; `None` at the end (of `until`, or of a bounded source). Cancel-safe: a dropped future
    /// loses nothing.
    async fn next(&mut self) -> Result<Option<SourceBatch>>;

    /// Rows known to wait behind what was delivered, if the system can tell.
    fn lag_rows(&self) -> Option<u64>;

    /// Bytes that the other system keeps because no epoch has stored that they were read, if it can tell.
    fn lag_bytes(&self) -> Option<u64> {
        None
    }

    /// Why nothing comes, while it is waited for.
    fn trouble(&self) -> Option<Error> {
        None
    }
}

/// Some rows of one split, in order, and the positions after them.
/// There may be no rows, when only the position moved: a file without rows is done, or all records were left out.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// Rows of one watermark lane are in the order in which lateness is judged. Files read one after the other share a lane;
    /// partitions read side by side have one each.
    pub lane: Arc<str>,
    pub batch: RecordBatch,
    /// The place of each row in its lane, ascending, where rows may go missing before they are read again (a topic keeps its records
    /// for a while only). `None`: they are counted.
    pub places: Option<Vec<u64>>,
    /// What to store with the epoch that takes these rows; only the splits that moved.
    pub positions: Positions,
    /// Raw bytes read for these rows.
    pub bytes: usize,
    /// Records that could not be decoded and were left out because the user chose so.
    pub dropped: u64,
    /// Those among them that are kept: `on_error = 'dlq'`.
    pub dead: Vec<DeadLetter>,
    /// What the rows do, if the source has a primary key; `None`: each is put under its key.
    pub changes: Option<RowChanges>,
    /// More rows of the same transaction follow: no epoch ends here.
    pub unfinished: bool,
    /// The table that the rows belong to, where several share the source: its number, as the source was told it.
    pub into: Option<u32>,
    /// Names of columns that the records have and the source has not, each once for a reader.
    pub unknown: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingColumn {
    /// The table, where several share the source: its number, as the source was told it.
    pub of: Option<u32>,
    pub name: String,
    pub sql_type: SqlType,
}

/// A record as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in its split: an offset.
    pub position: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// When it was written, as it says itself; in microseconds since 1970.
    pub timestamp: Option<i64>,
    /// A JSON object.
    pub headers: Option<String>,
}

/// One that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub record: Record,
    pub error: String,
}

/// What the rows of a batch do to a source with a primary key, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowChanges {
    /// One for each row.
    pub ops: Vec<RowOp>,
    /// Values that stay as they were (and are NULL in the batch), because the system does not repeat what has not changed: row and
    /// column of the batch, ascending. They are those of the row with the same key. Where there is none, the row has got another key:
    /// they are those of the row that the Delete right before it, in the same batch, has deleted.
    pub kept: Vec<(u32, u32)>,
    /// Of each row, where it stands in the order of the other database, comparable as bytes: what comes after something later of its
    /// key counts for nothing. Empty: they count as they come.
    pub versions: Vec<Box<[u8]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOp {
    /// The row is there from now on, in place of the one with its key.
    Put,
    /// No row has this key any more. Only the columns of the key count.
    Delete,
    /// All rows are gone. No column counts.
    Truncate,
}

/// A table of another system whose rows are asked for by key: what a lookup join meets.
#[async_trait]
pub trait LookupTable: Send + Sync + Debug {
    /// What asks for `columns` of the table (by position) of the rows whose columns `by`, positions in `columns`, have certain values.
    async fn session(&self, columns: &[usize], by: &[usize]) -> Result<Box<dyn LookupSession>>;
}

#[async_trait]
pub trait LookupSession: Send {
    /// All rows whose key is one of `keys` (no NULLs among them), as of one moment; each as often as it is there. After an error the
    /// session is of no more use.
    async fn rows(&mut self, keys: &RecordBatch) -> Result<RecordBatch>;

    /// How long what was found may stand for what is there.
    fn cache(&self) -> LookupCache;
}

/// What is remembered of keys that have been asked for, those without rows among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupCache {
    /// In microseconds; 0: nothing is remembered.
    pub ttl: i64,
    pub keys: usize,
}

/// Where changes go.
#[async_trait]
pub trait Sink: Send + Sync + Debug {
    /// Opens the target and checks that it can be written. Called at CREATE SINK, at each start and after each failure.
    async fn writer(&self) -> Result<Box<dyn SinkWriter>>;

    /// True if rows are to be counted and forgotten, so that nothing needs to be kept for delivery.
    fn discards(&self) -> bool {
        false
    }
}

#[async_trait]
pub trait SinkWriter: Send {
    /// Makes the changes of one epoch durable in the target, all or nothing. After a crash the last epoch may be delivered
    /// again: delivering the same epoch twice must leave the target as once. An error is tried again, with another writer, unless
    /// its state is [`ObjectInUse`](crate::SqlState::ObjectInUse): then somebody else delivers in our place.
    async fn deliver(&mut self, epoch: Epoch, changes: Vec<Delta>) -> Result<()>;

    /// The last epoch that the target had when the writer was opened, where the target can tell: only later ones are delivered.
    fn last(&self) -> Option<Epoch> {
        None
    }

    /// An error if the target's last epoch did not have these changes. Asked if it is not yet known here that it has it.
    async fn confirm(&mut self, _changes: Vec<Delta>) -> Result<()> {
        Ok(())
    }
}
