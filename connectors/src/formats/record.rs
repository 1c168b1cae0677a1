//! Records that come apart: the messages of a broker.
//!
//! ```text
//!   records of a partition ──RecordDecoder──▶ wanted columns, a row each; those that failed, by their numbers
//! ```

use datafusion::arrow::array::{ArrayRef, BinaryArray, StringBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use std::sync::Arc;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::avro::AvroFormat;
use super::csv::{CsvOptions, CsvRecords};
use super::drift::Unknown;
use super::json::{JsonOptions, JsonRecords};
use super::protobuf::ProtobufFormat;
use super::{Failures, text};
use crate::options::Options;
use crate::spec::FormatSpec;

/// Decodes many records at once.
pub(crate) trait RecordDecoder: Send + Sync {
    /// The columns of the records, and what failed, in any order; a record that failed has NULL where it failed. `None`: it has no value.
    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)>;

    /// Notes the fields that schemas have and nobody wants, from now on: those of the record, or of the one in its field `within`.
    fn watch(&mut self, _unknown: Arc<Unknown>, _within: Option<&'static str>) {}
}

/// How a record's value is written.
#[derive(Debug, Clone)]
pub(crate) enum RecordFormat {
    Json(JsonOptions),
    Csv(CsvOptions),
    Avro(Arc<AvroFormat>),
    Protobuf(Arc<ProtobufFormat>),
    /// The value is the one column.
    Text,
    Bytes,
}

const FORMATS: [&str; 6] = ["json", "avro", "protobuf", "csv", "text", "bytes"];

impl RecordFormat {
    /// From FORMAT PLAIN ENCODE ..; its options may stand in the WITH clause as well. `topics`: those that are known by name. Asks
    /// nobody for a schema: [`RecordFormat::reach`] and [`RecordFormat::columns`] do.
    pub fn choose(format: Option<&FormatSpec>, options: &mut Options, topics: &[String]) -> Result<Self> {
        let Some(spec) = format else {
            return Err(Error::invalid("the source needs a format").with_hint("FORMAT PLAIN ENCODE JSON"));
        };
        if spec.format != "PLAIN" {
            return Err(Error::unsupported(format!("FORMAT {} is not supported", spec.format))
                .with_hint("FORMAT PLAIN ENCODE JSON | AVRO | PROTOBUF | CSV | TEXT | BYTES"));
        }
        let mut own = Options::new(&spec.options)?;
        let chosen = match spec.encode.to_lowercase().as_str() {
            "json" => RecordFormat::Json(JsonOptions::parse(&mut own, options)?),
            "csv" => RecordFormat::Csv(CsvOptions { header: false, ..CsvOptions::parse(&mut own, options)? }),
            "avro" => RecordFormat::Avro(Arc::new(AvroFormat::take(&mut own, options, topics)?)),
            "protobuf" => RecordFormat::Protobuf(Arc::new(ProtobufFormat::take(&mut own, options, topics)?)),
            "text" => RecordFormat::Text,
            "bytes" => RecordFormat::Bytes,
            other => {
                let error = Error::invalid(format!("unknown encoding \"{}\"", spec.encode));
                return Err(match nearest(other, FORMATS.iter().copied()) {
                    Some(near) => error.with_hint(format!("Perhaps you meant {}.", near.to_uppercase())),
                    None => error.with_hint("Known here: JSON, AVRO, PROTOBUF, CSV, TEXT, BYTES."),
                });
            }
        };
        own.finish()?;
        Ok(chosen)
    }

    /// Refuses columns that the format cannot have.
    pub fn check(&self, declared: &SchemaRef) -> Result<()> {
        let wanted = match self {
            RecordFormat::Text => SqlType::Text,
            RecordFormat::Bytes => SqlType::Bytea,
            RecordFormat::Json(options) => return JsonRecords::new(declared, options).map(drop),
            RecordFormat::Csv(_) | RecordFormat::Avro(_) | RecordFormat::Protobuf(_) => return Ok(()),
        };
        match declared.fields().as_ref() {
            [one] if SqlType::from_field(one) == wanted => Ok(()),
            _ => Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!("ENCODE {self} is for a source of one column of type {wanted}"),
            )
            .with_hint(format!("CREATE SOURCE name (value {wanted}) ..; the key and others by INCLUDE."))),
        }
    }

    /// Refuses columns that the schema does not have, where there is one. Asks for it.
    pub async fn reach(&self, declared: &SchemaRef) -> Result<()> {
        match self {
            RecordFormat::Avro(format) => format.check(declared).await,
            RecordFormat::Protobuf(format) => format.check(declared).await,
            _ => Ok(()),
        }
    }

    /// The columns that the schema names, where there is one. Asks for it.
    pub async fn columns(&self) -> Result<Option<SchemaRef>> {
        match self {
            RecordFormat::Avro(format) => format.columns().await.map(Some),
            RecordFormat::Protobuf(format) => format.columns().await.map(Some),
            _ => Ok(None),
        }
    }

    /// A decoder of the columns `wanted`, which are at `places` among those `declared`.
    pub fn decoder(
        &self,
        declared: &SchemaRef,
        wanted: &SchemaRef,
        places: &[usize],
    ) -> Result<Box<dyn RecordDecoder>> {
        Ok(match self {
            RecordFormat::Json(options) => Box::new(JsonValues(JsonRecords::new(wanted, options)?)),
            RecordFormat::Csv(options) => Box::new(CsvRecords::new(wanted, places, declared.fields().len(), options)),
            RecordFormat::Avro(format) => Box::new(format.decoder(declared, places)?),
            RecordFormat::Protobuf(format) => Box::new(format.decoder(declared, places)?),
            RecordFormat::Text => Box::new(Plain { schema: wanted.clone() }),
            RecordFormat::Bytes => Box::new(Raw { is_wanted: !wanted.fields().is_empty() }),
        })
    }
}

impl std::fmt::Display for RecordFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RecordFormat::Json(_) => "JSON",
            RecordFormat::Csv(_) => "CSV",
            RecordFormat::Avro(_) => "AVRO",
            RecordFormat::Protobuf(_) => "PROTOBUF",
            RecordFormat::Text => "TEXT",
            RecordFormat::Bytes => "BYTES",
        })
    }
}

/// The records that have a value, `instead` for those that have none, and the failures of these.
pub(super) fn with_values<'a>(records: &[Option<&'a [u8]>], instead: &'a [u8]) -> (Vec<&'a [u8]>, Failures) {
    let empty = |(at, record): (usize, &Option<&[u8]>)| record.is_none().then(|| (at, no_value()));
    let failures = records.iter().enumerate().filter_map(empty).collect();
    (records.iter().map(|record| record.unwrap_or(instead)).collect(), failures)
}

pub(super) fn no_value() -> Error {
    Error::new(SqlState::InvalidTextRepresentation, "the record has no value")
}

struct JsonValues(JsonRecords);

impl RecordDecoder for JsonValues {
    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)> {
        let (values, mut failures) = with_values(records, b"{}");
        let (columns, failed) = self.0.columns(&values)?;
        failures.extend(failed);
        Ok((columns, failures))
    }
}

/// The value as a text.
struct Plain {
    schema: SchemaRef,
}

impl RecordDecoder for Plain {
    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)> {
        let Some(field) = self.schema.fields().first() else { return Ok((Vec::new(), Failures::new())) };
        let (mut builder, mut failures) = (StringBuilder::new(), Failures::new());
        for (at, record) in records.iter().enumerate() {
            match record.map(std::str::from_utf8) {
                None => builder.append_null(),
                Some(Ok(value)) => builder.append_value(value),
                Some(Err(_)) => {
                    builder.append_null();
                    failures.push((at, text::in_column(text::not_utf8(), field)));
                }
            }
        }
        Ok((vec![Arc::new(builder.finish())], failures))
    }
}

/// The value as it is.
struct Raw {
    is_wanted: bool,
}

impl RecordDecoder for Raw {
    fn columns(&self, records: &[Option<&[u8]>]) -> Result<(Vec<ArrayRef>, Failures)> {
        let column = || Arc::new(BinaryArray::from_iter(records.iter().copied())) as ArrayRef;
        Ok((self.is_wanted.then(column).into_iter().collect(), Failures::new()))
    }
}
