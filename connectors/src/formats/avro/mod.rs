//! Avro records: those of a schema registry, or of one schema in a file.
//!
//! ```text
//!   CREATE  ──▶ latest schema of the subject ──▶ columns of (*), or a check of those declared
//!   records ──▶ id, body ──▶ schema of the id ──plan──▶ decode ──▶ Rows ──▶ wanted columns; those that failed, by their numbers
//!                            (kept, with its plan)
//! ```
//!
//! Decoding is ours and not arrow-avro's: that one reads a named type that stands in a schema twice, and a timestamp whose unit has
//! changed, by the reader's schema alone, and so yields other values than were written; and what it has read of a record that fails
//! stays. The tests hold both against each other where they agree.

mod cursor;
mod decode;
mod derive;
mod encode;
mod plan;
mod schema;
mod types;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{Schema as Columns, SchemaRef};
use tidemark_common::{Error, Result, SqlState};

pub(crate) use self::encode::AvroEncoder;
use self::plan::RecordPlan;
use self::schema::Schema;
use super::Failures;
use super::column::Rows;
use super::drift::Unknown;
use super::record::{RecordDecoder, no_value};
use super::registry::{ById, Fetched, Lookup, SchemaKind, either};
use super::schema_source::{KeySource, SchemaSource};
use crate::options::Options;

#[derive(Debug)]
pub(crate) struct AvroFormat {
    source: SchemaSource,
    /// Of the records that a sink writes.
    name: String,
}

impl AvroFormat {
    pub fn take(own: &mut Options, with: &mut Options, topics: &[String]) -> Result<Self> {
        let message = either(own, with, "message");
        let source = SchemaSource::take(own, with, "AVRO", topics, message.as_deref())?;
        let name = message.or_else(|| topics.first().map(|topic| name_of(topic))).unwrap_or_default();
        Ok(Self { source, name })
    }

    /// Of keys: see [`KeySource`].
    pub fn of_keys(own: &Options, with: &Options, topics: &[String]) -> Result<Self> {
        let KeySource { registry, subjects, name } = KeySource::new(own, with, "AVRO", topics)?;
        Ok(Self { source: SchemaSource::Registry(registry, subjects), name })
    }

    /// Refuses columns that the latest schema does not have. Asks the registry.
    pub async fn check(&self, declared: &SchemaRef) -> Result<()> {
        for schema in self.latest().await? {
            plan::check(&Arc::new(schema), declared)?;
        }
        Ok(())
    }

    /// The columns of the latest schema: those that can be columns. Asks the registry.
    pub async fn columns(&self) -> Result<SchemaRef> {
        let schemas = self.latest().await?;
        let schema = schemas.first().ok_or_else(|| Error::internal("a source has a schema"))?;
        let mut fields = Vec::new();
        for field in &schema.record()?.fields {
            match types::sql_type(schema, field.node) {
                Ok(sql_type) => fields.push(sql_type.to_field(&field.name, true)),
                Err(error) => tracing::warn!(%error, "field \"{}\" becomes no column", field.name),
            }
        }
        match fields.is_empty() {
            true => {
                Err(Error::new(SqlState::IndeterminateDatatype, "the Avro schema has no field that can be a column"))
            }
            false => Ok(Arc::new(Columns::new(fields))),
        }
    }

    /// Asks nothing yet.
    pub fn decoder(&self, declared: &SchemaRef, places: &[usize]) -> Result<AvroRecords> {
        let schemas = match &self.source {
            SchemaSource::Registry(registry, subjects) => {
                Schemas::Registry(ById::new(Lookup::new(registry)?), subjects[0].clone())
            }
            SchemaSource::File(path) => Schemas::File(path.clone()),
        };
        AvroRecords::new(declared, places, schemas)
    }

    /// For rows of these columns. Asks nothing yet.
    pub fn encoder(&self, columns: &SchemaRef) -> Result<AvroEncoder> {
        match &self.source {
            SchemaSource::Registry(registry, subjects) => AvroEncoder::new(columns, registry, &subjects[0], &self.name),
            SchemaSource::File(_) => Err(Error::unsupported(
                "a sink cannot write Avro by the option \"schema.location\"",
            )
            .with_hint("schema.registry = 'http://host:8081': its schema is made of the columns, and registered.")),
        }
    }

    async fn latest(&self) -> Result<Vec<Schema>> {
        match &self.source {
            SchemaSource::File(path) => {
                let text = tokio::fs::read_to_string(path).await;
                Ok(vec![read_file(path, text)?])
            }
            SchemaSource::Registry(registry, subjects) => {
                let mut schemas = Vec::new();
                for subject in subjects {
                    let fetched = registry.latest(subject).await?;
                    schemas.push(parse(&fetched).map_err(|error| error.context(format!("subject \"{subject}\"")))?);
                }
                Ok(schemas)
            }
        }
    }
}

/// A topic's name as a record's.
pub(crate) fn name_of(topic: &str) -> String {
    let letters: String = topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    match letters.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("_{letters}"),
        false => letters,
    }
}

fn parse(fetched: &Fetched) -> Result<Schema> {
    let fetched = fetched.of_kind(SchemaKind::Avro)?;
    Schema::parse(fetched.references.iter().map(|named| named.text.as_str()).chain([fetched.text.as_str()]))
}

fn read_file(path: &Path, text: std::io::Result<String>) -> Result<Schema> {
    let in_file = |error: Error| error.context(format!("file \"{}\"", path.display()));
    Schema::parse([text.map_err(|error| in_file(error.into()))?.as_str()]).map_err(in_file)
}

/// What the records of one schema are read by.
#[derive(Debug)]
struct Writer {
    schema: Arc<Schema>,
    plan: RecordPlan,
}

#[derive(Debug)]
enum Schemas {
    /// And the subject.
    Registry(ById<Writer>, String),
    File(PathBuf),
}

#[derive(Debug)]
pub(crate) struct AvroRecords {
    declared: SchemaRef,
    /// The columns wanted: those at `places` among the declared.
    wanted: SchemaRef,
    places: Vec<usize>,
    schemas: Schemas,
    reader: OnceLock<Arc<Schema>>,
    watch: Option<(Arc<Unknown>, Option<&'static str>)>,
}

impl AvroRecords {
    fn new(declared: &SchemaRef, places: &[usize], schemas: Schemas) -> Result<Self> {
        let wanted = Arc::new(declared.project(places)?);
        let (declared, places) = (declared.clone(), places.to_vec());
        Ok(Self { declared, wanted, places, schemas, reader: OnceLock::new(), watch: None })
    }

    /// The schema that names and defaults are taken from: the latest when the first record is read.
    fn reader(&self) -> Result<Arc<Schema>> {
        if let Some(reader) = self.reader.get() {
            return Ok(Arc::clone(reader));
        }
        let schema = match &self.schemas {
            Schemas::Registry(by_id, subject) => parse(by_id.latest(subject)?.as_ref())?,
            Schemas::File(path) => read_file(path, std::fs::read_to_string(path))?,
        };
        Ok(Arc::clone(self.reader.get_or_init(|| Arc::new(schema))))
    }

    fn writer(&self, reader: &Arc<Schema>, schema: Arc<Schema>) -> Result<Writer> {
        let plan = plan::plan(&schema, reader, &self.declared, &self.places)?;
        if let Some((unknown, within)) = &self.watch {
            for (name, id) in plan::unread(&schema, &plan, *within) {
                unknown.note(name, || types::sql_type(&schema, id).ok());
            }
        }
        Ok(Writer { schema, plan })
    }
}

impl RecordDecoder for AvroRecords {
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
                |fetched| self.writer(&reader, Arc::new(parse(fetched)?)),
                |writer, body, columns| decode::record(&writer.plan, &writer.schema, body, columns),
            )?,
            Schemas::File(_) => {
                let writer = self.writer(&reader, Arc::clone(&reader))?;
                for record in records {
                    match record {
                        Some(bytes) => {
                            rows.record(|columns| decode::record(&writer.plan, &writer.schema, bytes, columns))
                        }
                        None => rows.fail(no_value()),
                    }
                }
            }
        }
        rows.finish()
    }
}

/// A schema `R` of these columns, and records of it.
#[cfg(test)]
pub(crate) fn written(batch: &datafusion::arrow::array::RecordBatch) -> Result<(String, Vec<Vec<u8>>)> {
    let one = |row| {
        let mut out = Vec::new();
        encode::row_of(batch, row, &mut out).map(|()| out)
    };
    let records = (0..batch.num_rows()).map(one).collect::<Result<_>>()?;
    Ok((derive::schema_of(&batch.schema(), "R")?, records))
}
