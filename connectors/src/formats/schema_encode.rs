//! Rows as records of a schema: what a sink's ENCODE AVRO and ENCODE PROTOBUF write, of its values and of its keys.

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::Result;

use super::avro::{AvroEncoder, AvroFormat};
use super::protobuf::{ProtobufEncoder, ProtobufFormat};
use super::record_encode::RecordEncoder;
use super::registry::{RegistryOptions, either};
use super::schema_source::KeySource;
use crate::options::Options;

/// For rows of these columns that go to `topic`; `None` if `encode` has no schema. Asks nobody yet.
pub(crate) fn schema_encoder(
    encode: &str,
    columns: &SchemaRef,
    own: &mut Options,
    with: &mut Options,
    topic: &str,
) -> Result<Option<Box<dyn RecordEncoder>>> {
    let topics = [topic.to_string()];
    Ok(match encode.to_lowercase().as_str() {
        "avro" => Some(Box::new(AvroFormat::take(own, with, &topics)?.encoder(columns)?)),
        "protobuf" => Some(Box::new(ProtobufFormat::take(own, with, &topics)?.encoder(columns)?)),
        _ => None,
    })
}

/// For keys of these columns, by the registry of the values, whose options stay for these to take.
pub(crate) fn key_encoder(
    encode: &str,
    columns: &SchemaRef,
    own: &Options,
    with: &Options,
    topic: &str,
) -> Result<Option<Box<dyn RecordEncoder>>> {
    let is_avro = match encode.to_lowercase().as_str() {
        "avro" => true,
        "protobuf" => false,
        _ => return Ok(None),
    };
    let KeySource { registry, subjects, name } = KeySource::new(own, with, encode, &[topic.to_string()])?;
    Ok(Some(match is_avro {
        true => Box::new(AvroEncoder::new(columns, &registry, &subjects[0], &name)?),
        false => Box::new(ProtobufEncoder::registered(columns, &registry, &subjects[0], &name)?),
    }))
}

/// Takes what [`key_encoder`] has read, where values have no schema and leave it.
pub(crate) fn take_for_keys(own: &mut Options, with: &mut Options) -> Result<()> {
    either(own, with, "message");
    RegistryOptions::take(own, with).map(drop)
}
