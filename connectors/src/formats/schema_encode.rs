//! Rows as records of a schema: what a sink's ENCODE AVRO and ENCODE PROTOBUF write.

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::Result;

use super::avro::AvroFormat;
use super::protobuf::ProtobufFormat;
use super::record_encode::RecordEncoder;
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
