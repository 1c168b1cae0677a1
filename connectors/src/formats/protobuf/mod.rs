//! Protobuf records: those of a schema registry, or of one message in a file.
//!
//! ```text
//!   CREATE  ──▶ latest schema of the subject, its message ──▶ columns of (*), or a check of those declared
//!   records ──▶ id, place of the message, body ──▶ schema of the id ──plan──▶ decode ──▶ Rows ──▶ wanted columns; failures
//!                                                  (compiled once, kept)
//! ```
//!
//! The descriptor only makes the plan; the bytes go straight into the columns, and what is not wanted is passed over.

mod decode;
mod derive;
mod descriptors;
mod encode;
mod encode_plan;
mod plan;
mod types;
mod wire;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{Schema as Columns, SchemaRef};
use prost_reflect::{FileDescriptor, MessageDescriptor};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

pub(crate) use self::encode::ProtobufEncoder;
use self::plan::MessagePlan;
use self::wire::{Wire, damaged};
use super::Failures;
use super::column::{Column, Rows};
use super::drift::Unknown;
use super::record::{RecordDecoder, no_value};
use super::registry::{ById, Fetched, Lookup, either};
use super::schema_source::SchemaSource;
use super::varint::unzigzag;
use crate::options::Options;

/// Messages that are declared within each other.
const DEEPEST: u64 = 100;

#[derive(Debug)]
pub(crate) struct ProtobufFormat {
    source: SchemaSource,
    /// The full name of the message.
    message: String,
}

impl ProtobufFormat {
    pub fn take(own: &mut Options, with: &mut Options, topics: &[String]) -> Result<Self> {
        let message = either(own, with, "message").ok_or_else(|| {
            Error::invalid("ENCODE PROTOBUF needs the option \"message\"")
                .with_hint("It is the full name of the message: message = 'shop.Order'.")
        })?;
        let source = SchemaSource::take(own, with, "PROTOBUF", topics, Some(&message))?;
        Ok(Self { source, message })
    }

    /// Refuses columns that the latest schema does not have. Asks the registry.
    pub async fn check(&self, declared: &SchemaRef) -> Result<()> {
        let columns = named(declared);
        self.latest().await?.iter().try_for_each(|message| plan::check(message, &columns))
    }

    /// The columns of the latest schema: those that can be columns. Asks the registry.
    pub async fn columns(&self) -> Result<SchemaRef> {
        let messages = self.latest().await?;
        let message = messages.first().ok_or_else(|| Error::internal("a source has a schema"))?;
        let mut fields = Vec::new();
        for field in message.fields() {
            match types::sql_type(&field) {
                Ok(sql_type) => fields.push(sql_type.to_field(field.name(), true)),
                Err(error) => tracing::warn!(%error, "field \"{}\" becomes no column", field.name()),
            }
        }
        match fields.is_empty() {
            true => Err(Error::new(
                SqlState::IndeterminateDatatype,
                format!("message {} has no field that can be a column", self.message),
            )),
            false => Ok(Arc::new(Columns::new(fields))),
        }
    }

    /// Asks nothing yet.
    pub fn decoder(&self, declared: &SchemaRef, places: &[usize]) -> Result<ProtobufRecords> {
        let schemas = match &self.source {
            SchemaSource::Registry(registry, subjects) => {
                Schemas::Registry(ById::new(Lookup::new(registry)?), subjects[0].clone())
            }
            SchemaSource::File(path) => Schemas::File(path.clone()),
        };
        ProtobufRecords::new(declared, places, &self.message, schemas)
    }

    /// For rows of these columns. Asks nothing yet.
    pub fn encoder(&self, columns: &SchemaRef) -> Result<ProtobufEncoder> {
        match &self.source {
            SchemaSource::Registry(registry, subjects) => {
                ProtobufEncoder::registered(columns, registry, &subjects[0], &self.message)
            }
            SchemaSource::File(path) => ProtobufEncoder::of_file(columns, path, &self.message),
        }
    }

    async fn latest(&self) -> Result<Vec<MessageDescriptor>> {
        match &self.source {
            SchemaSource::File(path) => {
                let (path, name) = (path.clone(), self.message.clone());
                let read = move || Ok(vec![descriptors::message(&descriptors::from_file(&path)?, &name)?]);
                let read = tokio::task::spawn_blocking(read).await;
                read.unwrap_or_else(|e| Err(Error::internal(format!("reading a Protobuf schema failed: {e}"))))
            }
            SchemaSource::Registry(registry, subjects) => {
                let mut messages = Vec::new();
                for subject in subjects {
                    let fetched = registry.latest(subject).await?;
                    let message = message_of(&fetched, &self.message);
                    messages.push(message.map_err(|error| error.context(format!("subject \"{subject}\"")))?);
                }
                Ok(messages)
            }
        }
    }
}

fn message_of(fetched: &Fetched, name: &str) -> Result<MessageDescriptor> {
    descriptors::message(descriptors::from_registry(fetched)?.parent_pool(), name)
}

fn named(columns: &SchemaRef) -> Vec<(String, SqlType)> {
    columns.fields().iter().map(|field| (field.name().clone(), SqlType::from_field(field))).collect()
}

/// What the records of one schema are read by.
#[derive(Debug)]
struct Writer {
    file: FileDescriptor,
    plan: MessagePlan,
}

#[derive(Debug)]
enum Schemas {
    /// And the subject.
    Registry(ById<Writer>, String),
    File(PathBuf),
}

#[derive(Debug)]
pub(crate) struct ProtobufRecords {
    declared: Vec<(String, SqlType)>,
    /// The columns wanted: those at `places` among the declared.
    wanted: SchemaRef,
    places: Vec<usize>,
    message: String,
    schemas: Schemas,
    reader: OnceLock<MessageDescriptor>,
    watch: Option<(Arc<Unknown>, Option<&'static str>)>,
}

impl ProtobufRecords {
    fn new(declared: &SchemaRef, places: &[usize], message: &str, schemas: Schemas) -> Result<Self> {
        let (wanted, message) = (Arc::new(declared.project(places)?), message.to_string());
        Ok(Self {
            declared: named(declared),
            wanted,
            places: places.to_vec(),
            message,
            schemas,
            reader: OnceLock::new(),
            watch: None,
        })
    }

    /// The message that names the columns: the latest when the first record is read.
    fn reader(&self) -> Result<MessageDescriptor> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader.clone());
        }
        let message = match &self.schemas {
            Schemas::Registry(by_id, subject) => message_of(by_id.latest(subject)?.as_ref(), &self.message)?,
            Schemas::File(path) => descriptors::message(&descriptors::from_file(path)?, &self.message)?,
        };
        Ok(self.reader.get_or_init(|| message).clone())
    }

    fn writer(&self, reader: &MessageDescriptor, fetched: &Fetched) -> Result<Writer> {
        let file = descriptors::from_registry(fetched)?;
        let message = descriptors::message(file.parent_pool(), &self.message)?;
        let plan = plan::plan(&message, reader, &self.declared, &self.places)?;
        if let Some((unknown, within)) = &self.watch {
            for field in plan::unread(&message, &plan, *within) {
                unknown.note(field.name(), || types::sql_type(&field).ok());
            }
        }
        Ok(Writer { file, plan })
    }

    /// A body begins with where its message is declared.
    fn framed(&self, writer: &Writer, body: &[u8], columns: &mut [Column]) -> Result<()> {
        let mut wire = Wire(body);
        let path = message_path(&mut wire)?;
        let found = descriptors::message_at(&writer.file, &path);
        match found.as_ref().map(MessageDescriptor::full_name) {
            Some(name) if name == self.message => decode::message(&writer.plan, &[wire.0], columns),
            Some(other) => Err(Error::new(
                SqlState::DatatypeMismatch,
                format!("the record is a message {other}, not {}", self.message),
            )),
            None => Err(damaged(&format!("its schema has no message at {path:?}"))),
        }
    }
}

/// Where a message is declared: its place in the file, then within the message before it. A single zero stands for the first.
fn message_path(wire: &mut Wire<'_>) -> Result<Vec<usize>> {
    let count = unzigzag(wire.varint()?);
    if count == 0 {
        return Ok(vec![0]);
    }
    let count = u64::try_from(count).ok().filter(|count| *count <= DEEPEST);
    let count = count.ok_or_else(|| damaged("the place of its message cannot be read"))?;
    let place =
        |_| usize::try_from(unzigzag(wire.varint()?)).map_err(|_| damaged("the place of its message is negative"));
    (0..count).map(place).collect()
}

impl RecordDecoder for ProtobufRecords {
    fn watch(&mut self, unknown: Arc<Unknown>, within: Option<&'static str>) {
        self.watch = Some((unknown, within));
    }

    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)> {
        let reader = self.reader()?;
        let mut rows = Rows::new(&self.wanted)?;
        match &self.schemas {
            Schemas::Registry(by_id, _) => by_id.read(
                records,
                &mut rows,
                |fetched| self.writer(&reader, fetched),
                |writer, body, columns| self.framed(writer, body, columns),
            )?,
            Schemas::File(_) => {
                let plan = plan::plan(&reader, &reader, &self.declared, &self.places)?;
                for record in records {
                    match record {
                        Some(bytes) => rows.record(|columns| decode::message(&plan, &[bytes], columns)),
                        None => rows.fail(no_value()),
                    }
                }
            }
        }
        rows.finish()
    }
}

/// A schema with a message `R` of these columns, and records of it.
#[cfg(test)]
pub(crate) fn written(batch: &datafusion::arrow::array::RecordBatch) -> Result<(String, Vec<Vec<u8>>)> {
    use std::collections::HashMap;

    let text = derive::schema_of(&batch.schema(), "R")?;
    let file = descriptors::from_text(&text, HashMap::new())?;
    let plan = encode_plan::plan(&descriptors::message(file.parent_pool(), "R")?, batch.schema().fields())?;
    let one = |row| {
        let mut out = Vec::new();
        encode::message(&plan, &|column| batch.column(column).as_ref(), row, &mut out).map(|()| out)
    };
    let records = (0..batch.num_rows()).map(one).collect::<Result<_>>()?;
    Ok((text, records))
}
