//! What the engine does with a source that has a primary key, in small.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use tidemark_common::Result;
use tidemark_common::values::{Column, Style};
use tokio::time::timeout;

use super::server::Database;
use crate::postgres::replication::lsn::Lsn;
use crate::{Positions, RowOp, Source, SourceBatch, SourceReader};

pub const PATIENCE: Duration = Duration::from_secs(90);

pub type Row = Vec<Option<String>>;

pub struct Mirror {
    pub source: Arc<dyn Source>,
    /// Columns of the key, which are the first ones.
    key: usize,
    pub reader: Option<Box<dyn SourceReader>>,
    /// What has come of a transaction that is not whole.
    pending: Vec<SourceBatch>,
    /// As stored.
    pub positions: Positions,
    pub rows: BTreeMap<Row, Row>,
    /// All that was applied.
    pub ops: Vec<String>,
}

impl Mirror {
    pub fn new(source: Arc<dyn Source>, key: usize) -> Self {
        let (positions, rows) = (Positions::new(), BTreeMap::new());
        Self { source, key, reader: None, pending: Vec::new(), positions, rows, ops: Vec::new() }
    }

    /// Takes a batch. With the last one of a transaction all of it is applied and stored.
    pub async fn step(&mut self) -> Result<()> {
        if self.reader.is_none() {
            self.reader = Some(self.source.reader(&self.positions, None, None).await?);
        }
        let batch = self.reader.as_mut().unwrap().next().await?.expect("changes have no end");
        assert_eq!(batch.unfinished, batch.positions.is_empty(), "a position belongs to what is whole");
        assert_eq!(batch.batch.num_rows(), batch.changes.as_ref().unwrap().ops.len());
        let unfinished = batch.unfinished;
        self.pending.push(batch);
        if !unfinished {
            for batch in std::mem::take(&mut self.pending) {
                self.apply(&batch);
                self.positions.extend(batch.positions);
            }
        }
        Ok(())
    }

    /// The process is gone, and with it what was not stored.
    pub fn fall(&mut self) {
        self.reader = None;
        self.pending.clear();
    }

    pub fn commit(&self) {
        self.source.committed(&self.positions);
    }

    pub fn position(&self) -> &str {
        self.positions.values().next().map_or("", String::as_str)
    }

    fn apply(&mut self, batch: &SourceBatch) {
        let changes = batch.changes.as_ref().unwrap();
        let mut deleted: Option<Row> = None;
        for (at, (op, mut row)) in changes.ops.iter().zip(texts(&batch.batch)).enumerate() {
            let key = row[..self.key].to_vec();
            let kept = changes.kept.iter().filter(|(row, _)| *row as usize == at).map(|(_, column)| *column as usize);
            let kept: Vec<usize> = kept.collect();
            let shown: Vec<String> =
                row.iter().enumerate().map(|(i, v)| show(v.as_deref(), kept.contains(&i))).collect();
            match op {
                RowOp::Put => {
                    let before = self.rows.get(&key).cloned().or_else(|| deleted.take());
                    kept.iter().for_each(|i| {
                        row[*i] = before.as_ref().expect("a row that keeps values was there")[*i].clone()
                    });
                    self.ops.push(format!("Put {}", shown.join(" ")));
                    self.rows.insert(key, row);
                }
                RowOp::Delete => {
                    self.ops.push(format!("Delete {}", shown[..self.key].join(" ")));
                    deleted = Some(self.rows.remove(&key).expect("a row that is deleted was there"));
                    continue;
                }
                RowOp::Truncate => {
                    self.ops.push("Truncate".into());
                    self.rows.clear();
                }
            }
            deleted = None;
        }
    }

    /// Reads until the rows are those of `select`, while nobody changes them.
    pub async fn until_equal(&mut self, database: &Database, select: &str) {
        let wanted = database.rows(select).await;
        let wanted: BTreeMap<Row, Row> = wanted.into_iter().map(|row| (row[..self.key].to_vec(), row)).collect();
        let equal = timeout(PATIENCE, async {
            while self.rows != wanted || !self.pending.is_empty() || self.positions.is_empty() {
                self.step().await.unwrap();
            }
        });
        let equal = equal.await.is_ok();
        let differs = self.rows.iter().find(|(key, row)| wanted.get(*key) != Some(*row));
        let missing = wanted.keys().find(|key| !self.rows.contains_key(*key));
        assert!(equal, "not equal at {:?}: {differs:?}, missing {missing:?}", self.positions);
    }

    /// Reads all that has been committed by now.
    pub async fn catch_up(&mut self, database: &Database) {
        let now: Lsn = database.value("SELECT pg_current_wal_lsn()").await.parse().unwrap();
        let reached = timeout(PATIENCE, async {
            while self.position().parse::<Lsn>().map_or(true, |at| at < now) {
                self.step().await.unwrap();
            }
        });
        reached.await.unwrap_or_else(|_| panic!("{:?} does not reach {now}", self.positions));
    }

    /// The error that comes in the end.
    pub async fn fails(&mut self) -> (String, String) {
        let failed = async {
            loop {
                if let Err(error) = self.step().await {
                    return (
                        error.code().to_string(),
                        format!("{} {}", error.message(), error.hint().unwrap_or_default()),
                    );
                }
            }
        };
        let failed = timeout(PATIENCE, failed).await.unwrap();
        self.fall();
        failed
    }
}

/// Long ones by their length.
fn show(value: Option<&str>, is_kept: bool) -> String {
    match value {
        None if is_kept => "·".into(),
        None => "NULL".into(),
        Some(long) if long.len() > 40 => format!("{}*{}", &long[..1], long.len()),
        Some(value) => value.into(),
    }
}

/// Values as PostgreSQL writes them.
pub fn texts(batch: &RecordBatch) -> Vec<Row> {
    let columns = batch.columns().iter().zip(batch.schema_ref().fields());
    let columns: Vec<Column> = columns.map(|(array, field)| Column::new(array, field).unwrap()).collect();
    let value = |column: &Column, row: usize| {
        let mut text = BytesMut::new();
        (!column.is_null(row)).then(|| {
            column.write_text(row, &Style::default(), &mut text);
            String::from_utf8(text.to_vec()).unwrap()
        })
    };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect()
}
