//! The Kafka source: what CREATE SOURCE checks, and its readers.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use rdkafka::consumer::Consumer;
use rdkafka::{Message, Offset};
use tidemark_common::{Error, Result, SqlState};

use super::client::{ClientOptions, Purpose, TIMEOUT, blocking};
use super::decoding::{Decoding, restored};
use super::error::from_kafka;
use super::options::{KafkaOptions, where_and_what};
use super::starting::{Start, Starting};
use super::stored::Stored;
use super::topics::{Topics, list_of};
use crate::formats::record::RecordFormat;
use crate::formats::{Format, infer as infer_format};
use crate::options::Options;
use crate::spec::{FormatSpec, SourceSpec};
use crate::{MissingColumn, Positions, Record, Source, SourceBatch, SourceReader};

/// Records from which columns are taken.
const SAMPLE: usize = 1000;
/// How long the next of them is waited for.
const SAMPLE_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct KafkaSource {
    options: Arc<KafkaOptions>,
    stored: Arc<Stored>,
}

pub(crate) fn open(spec: SourceSpec, options: Options) -> Result<Arc<dyn Source>> {
    let options = Arc::new(KafkaOptions::parse(spec, options)?);
    Ok(Arc::new(KafkaSource { options, stored: Arc::default() }))
}

#[async_trait]
impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.options.schema)
    }

    async fn check(&self) -> Result<()> {
        let options = Arc::clone(&self.options);
        blocking(move || {
            let control = options.client.consumer(&options.name, &Arc::default(), Purpose::Follow)?;
            options.topics.partitions(&control, TIMEOUT).map(drop)
        })
        .await?;
        self.options.records.reach(&self.options.declared).await
    }

    async fn reader(
        &self,
        from: &Positions,
        until: Option<&Positions>,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn SourceReader>> {
        let start = Start {
            options: Arc::clone(&self.options),
            stored: Arc::clone(&self.stored),
            from: from.clone(),
            until: until.cloned(),
            projection: projection.map(<[usize]>::to_vec),
        };
        Ok(match until {
            Some(_) => Box::new(start.once().await?),
            None => Box::new(Starting::new(start)),
        })
    }

    async fn decode(&self, split: &str, records: Vec<Record>) -> Result<SourceBatch> {
        let (options, split) = (Arc::clone(&self.options), split.to_string());
        // It may ask a schema registry.
        blocking(move || {
            let partition = options.topics.partition(&split)?;
            let records = records.into_iter().map(|record| restored(record, &partition));
            let records = records.collect::<Result<Vec<_>>>()?;
            Decoding::new(&options, None)?.rows(&partition, &split.into(), &records.iter().collect::<Vec<_>>())
        })
        .await
    }

    fn missing_columns(&self) -> Vec<MissingColumn> {
        let columns = self.options.missing.get();
        columns.into_iter().map(|(name, sql_type)| MissingColumn { of: None, name, sql_type }).collect()
    }

    fn committed(&self, positions: &Positions) {
        self.stored.note(positions);
    }

    fn is_bounded(&self) -> bool {
        self.options.bounded
    }
}

/// The columns that the schema names, or else those that the first records have.
pub(crate) async fn infer(mut options: Options, format: Option<&FormatSpec>) -> Result<SchemaRef> {
    let (client, topics, records) = where_and_what(&mut options, format)?;
    if let Some(columns) = records.columns().await? {
        return Ok(columns);
    }
    let format = records.rows().ok_or_else(|| {
        Error::new(SqlState::InvalidTableDefinition, "the records' columns are not taken from changes")
            .with_hint("Declare the columns.")
    })?;
    let RecordFormat::Json(json) = format.clone() else {
        return Err(Error::new(SqlState::InvalidTableDefinition, format!("ENCODE {format} does not name its columns"))
            .with_hint("Declare the columns."));
    };
    let sample = blocking(move || sample(&client, &topics)).await?;
    if sample.is_empty() {
        return Err(Error::new(SqlState::IndeterminateDatatype, "no record is there to take columns from")
            .with_hint("Declare the columns."));
    }
    infer_format::from_text(&Format::Json(json), Box::new(Cursor::new(sample)))
}

/// Some records, a line each. What is no JSON is left out.
fn sample(client: &ClientOptions, topics: &Topics) -> Result<Vec<u8>> {
    let consumer = client.consumer("sample", &Arc::default(), Purpose::Bounded)?;
    let partitions = topics.partitions(&consumer, TIMEOUT)?;
    let list = list_of(partitions.iter().map(|one| (one.clone(), Offset::Beginning)))?;
    consumer.assign(&list).map_err(|e| from_kafka(&e, "reading partitions"))?;
    let (mut lines, mut records, mut ended) = (Vec::new(), 0, 0);
    while records < SAMPLE && ended < partitions.len() {
        match consumer.poll(SAMPLE_WAIT) {
            None => break,
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(from_kafka(&error, "reading records")),
            Some(Ok(message)) => {
                let value = message.payload().and_then(|v| serde_json::from_slice::<serde_json::Value>(v).ok());
                if let Some(object) = value.filter(serde_json::Value::is_object) {
                    serde_json::to_writer(&mut lines, &object)
                        .map_err(|e| Error::internal(format!("a record cannot be written again: {e}")))?;
                    lines.push(b'\n');
                    records += 1;
                }
            }
        }
    }
    Ok(lines)
}
