//! Records become rows: those that a worker has read, and those that were set aside and come again.
//!
//! ```text
//!   records of a partition ──decoder──▶ columns ─┬─ with what INCLUDE tells of each ──▶ SourceBatch
//!                                                └─ those that could not be decoded ──▶ an error, nothing, or dead letters
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage, Timestamp};
use tidemark_common::{Error, Result, SqlState};

use super::included::{self, Included};
use super::options::{KafkaOptions, Records};
use super::topics::Partition;
use crate::formats::changes::{ChangeDecoder, Changed, KeyValue};
use crate::formats::drift::Unknown;
use crate::formats::record::RecordDecoder;
use crate::formats::{Failures, assemble};
use crate::options::OnError;
use crate::wanted::Wanted;
use crate::{DeadLetter, Positions, Record, RowOp, SourceBatch};

enum Decoder {
    Rows(Box<dyn RecordDecoder>),
    Changes(Box<dyn ChangeDecoder>),
}

/// What records become, for who wants some of the columns.
pub(super) struct Decoding {
    pub options: Arc<KafkaOptions>,
    wanted: Wanted<Included>,
    decoder: Decoder,
    /// Columns that changes have and the source has not.
    unknown: Arc<Unknown>,
}

impl Decoding {
    pub fn new(options: &Arc<KafkaOptions>, projection: Option<&[usize]>) -> Result<Self> {
        let (on_error, included) = (options.on_error, &options.included);
        let wanted = Wanted::new(&options.schema, &options.declared, included, projection, on_error, None)?;
        let unknown = Arc::new(Unknown::new(options.on_drift, options.missing.clone()));
        let decoder = match &options.records {
            Records::Rows(format) => {
                Decoder::Rows(format.decoder(&options.declared, &wanted.decoded, &wanted.places)?)
            }
            Records::Changes(format) => {
                Decoder::Changes(format.decoder(&options.declared, options.key.declared.clone(), &unknown)?)
            }
        };
        Ok(Self { options: Arc::clone(options), wanted, decoder, unknown })
    }

    /// Of records that say what became of rows.
    pub fn changes(&self) -> Option<&dyn ChangeDecoder> {
        match &self.decoder {
            Decoder::Changes(decoder) => Some(&**decoder),
            Decoder::Rows(_) => None,
        }
    }

    /// No rows of a partition.
    pub fn none(&self, lane: &Arc<str>) -> SourceBatch {
        SourceBatch {
            lane: Arc::clone(lane),
            batch: RecordBatch::new_empty(Arc::clone(&self.wanted.schema)),
            places: None,
            positions: Positions::new(),
            bytes: 0,
            dropped: 0,
            changes: None,
            dead: Vec::new(),
            unfinished: false,
            unknown: Vec::new(),
            into: None,
        }
    }

    /// The rows of records of a partition, in their order.
    pub fn rows<M: Message>(&self, partition: &Partition, lane: &Arc<str>, records: &[&M]) -> Result<SourceBatch> {
        let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let bytes = records.iter().map(|record| len(record.payload()) + len(record.key())).sum();
        let read = SourceBatch { bytes, ..self.none(lane) };
        let decoder = match &self.decoder {
            Decoder::Rows(decoder) => decoder,
            Decoder::Changes(decoder) => return self.changed(&**decoder, partition, records, read),
        };
        let payloads: Vec<Option<&[u8]>> = records.iter().map(|record| record.payload()).collect();
        let (columns, mut failures) = decoder.columns(&payloads)?;
        failures.extend(self.null_keys(&columns, records));
        let chunk = assemble(&self.wanted.decoded, columns, records.len(), failures, |_| None)?;
        if let (OnError::Fail, Some(bad)) = (self.options.on_error, chunk.bad.first()) {
            return Err(bad_record(&bad.reason, partition, records[bad.record].offset()));
        }
        let dead = self.dead_letters(chunk.bad.iter().map(|bad| (records[bad.record], &bad.reason)));
        let good: Vec<&M>;
        let records = match chunk.bad.is_empty() {
            true => records,
            false => {
                good = chunk.good_records().into_iter().map(|record| records[record as usize]).collect();
                &good
            }
        };
        let batch = self.wanted.batch(&chunk.batch, |included| included.column(records))?;
        let places = Some(records.iter().map(|record| record.offset() as u64).collect());
        Ok(SourceBatch { batch, places, dropped: chunk.bad.len() as u64, dead, ..read })
    }

    /// As [`rows`](Self::rows), of records that say what became of rows.
    fn changed<M: Message>(
        &self,
        decoder: &dyn ChangeDecoder,
        partition: &Partition,
        records: &[&M],
        read: SourceBatch,
    ) -> Result<SourceBatch> {
        let pairs: Vec<KeyValue<'_>> = records.iter().map(|record| (record.key(), record.payload())).collect();
        let changed = decoder.rows(&pairs)?;
        let unknown = self.unknown.news().map_err(|error| error.context(partition))?;
        let refused = self.without_key(&changed, records);
        let changed = changed.without(refused)?;
        if let (OnError::Fail, Some((record, reason))) = (self.options.on_error, changed.failures.first()) {
            return Err(bad_record(reason, partition, records[*record].offset()));
        }
        let of_rows: Vec<&M> = changed.records.iter().map(|record| records[*record as usize]).collect();
        let columns = self.wanted.places.iter().map(|at| Arc::clone(&changed.columns[*at])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(of_rows.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.wanted.decoded), columns, &options)?;
        let batch = self.wanted.batch(&rows, |included| included.column(&of_rows))?;
        let dead = self.dead_letters(changed.failures.iter().map(|(record, reason)| (records[*record], reason)));
        Ok(SourceBatch {
            batch,
            dropped: changed.failures.len() as u64,
            dead,
            changes: Some(changed.changes),
            unknown,
            ..read
        })
    }

    /// Bad records as they came, if they are to be kept.
    fn dead_letters<'a, M: Message + 'a>(&self, bad: impl Iterator<Item = (&'a M, &'a Error)>) -> Vec<DeadLetter> {
        let letter = |(record, reason): (&M, &Error)| DeadLetter { record: kept(record), error: reason.to_string() };
        match self.options.on_error {
            OnError::DeadLetters => bad.map(letter).collect(),
            OnError::Fail | OnError::Drop => Vec::new(),
        }
    }

    /// Records that say something of a row whose key stands beside the value, and is not there.
    fn without_key<M: Message>(&self, changed: &Changed, records: &[&M]) -> BTreeMap<u32, Error> {
        let mut refused = BTreeMap::new();
        for included in &self.options.key.included {
            let column = included.column(records);
            let rows = changed.records.iter().zip(&changed.changes.ops).filter(|(_, op)| **op != RowOp::Truncate);
            let null = rows.filter(|(record, _)| column.is_null(**record as usize));
            refused.extend(null.map(|(record, _)| (*record, no_key(included.name()))));
        }
        refused
    }

    /// Records whose rows would have no key.
    fn null_keys<M: Message>(&self, columns: &[ArrayRef], records: &[&M]) -> Failures {
        let key = &self.options.key;
        let place = |at: &usize| self.wanted.places.iter().position(|place| place == at);
        let declared = key
            .declared
            .iter()
            .filter_map(|at| Some((self.options.schema.field(*at), Arc::clone(&columns[place(at)?]))));
        let included = key.included.iter().map(|included| (included.name(), included.column(records)));
        let columns = declared.map(|(field, column)| (field.name().as_str(), column)).chain(included);
        let nulls = columns.flat_map(|(name, column)| {
            let null = move |row: &usize| column.is_null(*row);
            let error = move |row| (row, no_key(name));
            (0..records.len()).filter(null).map(error)
        });
        nulls.collect()
    }
}

fn no_key(name: &str) -> Error {
    Error::new(SqlState::NotNullViolation, format!("\"{name}\" of the primary key is NULL"))
}

fn bad_record(reason: &Error, partition: &Partition, offset: i64) -> Error {
    reason
        .clone()
        .context(format!("{partition}, offset {offset}"))
        .with_hint("Leave such records out: on_error = 'drop', or 'dlq', which keeps them in tidemark.dead_letters.")
}

/// A record as it can be stored.
fn kept(record: &impl Message) -> Record {
    Record {
        position: record.offset(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.payload().map(<[u8]>::to_vec),
        timestamp: included::timestamp(record),
        headers: included::headers(record),
    }
}

/// The record of a partition that was [`kept`]. Of headers what INCLUDE tells of them.
pub(super) fn restored(record: Record, partition: &Partition) -> Result<OwnedMessage> {
    let timestamp = match record.timestamp {
        Some(micros) => Timestamp::CreateTime(micros.div_euclid(1000)),
        None => Timestamp::NotAvailable,
    };
    let headers = record.headers.as_deref().map(of_json).transpose()?;
    let (topic, number) = (partition.topic.to_string(), partition.number);
    Ok(OwnedMessage::new(record.value, record.key, topic, timestamp, number, record.position, headers))
}

fn of_json(object: &str) -> Result<OwnedHeaders> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(object)
        .map_err(|error| Error::new(SqlState::DataCorrupted, format!("headers that are no JSON object: {error}")))?;
    let header = |headers: OwnedHeaders, (key, value): (&String, &serde_json::Value)| {
        headers.insert(Header { key, value: value.as_str() })
    };
    Ok(object.iter().fold(OwnedHeaders::new(), header))
}
