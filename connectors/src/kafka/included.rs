//! What INCLUDE can tell of a record beside its value.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use rdkafka::Message;
use rdkafka::message::Headers;
use tidemark_common::types::SqlType;
use tidemark_common::values::canonical_json;

use crate::formats::text::hex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Included {
    Key,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    /// The whole value, of which columns may have only a part.
    Payload,
}

const KNOWN: [(&str, SqlType, Included); 7] = [
    ("key", SqlType::Bytea, Included::Key),
    ("topic", SqlType::Text, Included::Topic),
    ("partition", SqlType::Integer, Included::Partition),
    ("offset", SqlType::BigInt, Included::Offset),
    ("timestamp", SqlType::TimestampTz, Included::Timestamp),
    ("headers", SqlType::Jsonb, Included::Headers),
    ("payload", SqlType::Jsonb, Included::Payload),
];

/// The words, and the types of their columns.
pub(super) fn known() -> Vec<(&'static str, SqlType)> {
    KNOWN.iter().map(|(word, sql_type, _)| (*word, sql_type.clone())).collect()
}

impl Included {
    /// Of a known word.
    pub fn of(word: &str) -> Option<Self> {
        KNOWN.iter().find(|(known, _, _)| *known == word).map(|(_, _, included)| *included)
    }

    pub fn name(self) -> &'static str {
        KNOWN.iter().find(|(_, _, included)| *included == self).map_or("", |(word, _, _)| word)
    }

    /// The column for records of one partition.
    pub fn column<M: Message>(self, records: &[&M]) -> ArrayRef {
        match self {
            Included::Key => Arc::new(BinaryArray::from_iter(records.iter().map(|record| record.key()))),
            Included::Topic => Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.topic()))),
            Included::Partition => {
                Arc::new(Int32Array::from_iter_values(records.iter().map(|record| record.partition())))
            }
            Included::Offset => Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.offset()))),
            Included::Timestamp => {
                let micros = records.iter().map(|record| timestamp(*record));
                Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"))
            }
            Included::Headers => {
                let mut column = StringBuilder::new();
                records.iter().for_each(|record| column.append_option(headers(*record)));
                Arc::new(column.finish())
            }
            Included::Payload => {
                let mut column = StringBuilder::new();
                records.iter().for_each(|record| column.append_option(payload(*record)));
                Arc::new(column.finish())
            }
        }
    }
}

/// In microseconds since 1970.
pub(super) fn timestamp(record: &impl Message) -> Option<i64> {
    record.timestamp().to_millis()?.checked_mul(1000)
}

/// `None` if it is no JSON.
fn payload(record: &impl Message) -> Option<String> {
    canonical_json(std::str::from_utf8(record.payload()?).ok()?).ok()
}

/// As a JSON object; of several with one key the last counts. What is no text is written as bytea is: `\x00ff`.
pub(super) fn headers(record: &impl Message) -> Option<String> {
    let text = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => text.to_string(),
        Err(_) => format!("\\x{}", hex(value)),
    };
    let pairs = record.headers()?.iter().map(|header| {
        let value = header.value.map_or(serde_json::Value::Null, |value| text(value).into());
        (header.key.to_string(), value)
    });
    canonical_json(&serde_json::Value::Object(pairs.collect()).to_string()).ok()
}
