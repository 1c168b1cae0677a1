//! Rows as records of a schema: what a sink's ENCODE AVRO and ENCODE PROTOBUF write, of its values and of its keys.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Error, Result};

use super::avro::{AvroEncoder, AvroFormat, name_of};
use super::protobuf::{ProtobufEncoder, ProtobufFormat};
use super::record_encode::RecordEncoder;
use super::registry::{Registry, RegistryOptions, either};
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

/// For keys of these columns, by the registry of the values, whose options stay for these to take. The record is called as that of the
/// values, with `Key` after it.
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
    let (mut own, mut with) = (own.clone(), with.clone());
    let name = either(&mut own, &mut with, "message").unwrap_or_else(|| name_of(topic)) + "Key";
    let options = RegistryOptions::take(&mut own, &mut with)?.ok_or_else(|| {
        Error::invalid(format!("KEY ENCODE {} needs the option \"schema.registry\"", encode.to_uppercase()))
            .with_hint("schema.registry = 'http://host:8081': the key's schema is made of its columns, and registered.")
    })?;
    let subject = options.strategy.key_subject(topic, &name);
    let registry = Arc::new(Registry::new(options));
    Ok(Some(match is_avro {
        true => Box::new(AvroEncoder::new(columns, &registry, &subject, &name)?),
        false => Box::new(ProtobufEncoder::registered(columns, &registry, &subject, &name)?),
    }))
}

/// Takes what [`key_encoder`] has read, where values have no schema and leave it.
pub(crate) fn take_for_keys(own: &mut Options, with: &mut Options) -> Result<()> {
    either(own, with, "message");
    RegistryOptions::take(own, with).map(drop)
}
