//! FORMAT UPSERT: a value is the row with its key, no value says that the row is gone. As compacted topics have it.

use std::borrow::Cow;
use std::sync::Arc;

use tidemark_common::connector::RowOp;
use tidemark_common::{Error, Result};

use crate::formats::avro::AvroFormat;
use crate::formats::text;
use crate::options::Options;

use super::{Declared, Envelope, KeyValue, Said, no_object};

/// How keys are written. They are read where a record has no value.
#[derive(Debug, Clone)]
pub(super) enum KeyFormat {
    Text(KeyText),
    /// A record with the columns of the primary key.
    Avro(Arc<AvroFormat>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyText {
    /// An object with the columns of the primary key; if that is of one column, its value will do.
    Json,
    /// The one column, as text.
    Text,
}

impl KeyFormat {
    /// `values`: their encoding and its options.
    pub fn take(
        own: &mut Options,
        (encode, options): (&str, &Options),
        with: &Options,
        topics: &[String],
    ) -> Result<Self> {
        match own.take("key_encode").as_deref() {
            None | Some("json") => Ok(Self::Text(KeyText::Json)),
            Some("text") => Ok(Self::Text(KeyText::Text)),
            Some("avro") if encode == "AVRO" => Ok(Self::Avro(Arc::new(AvroFormat::of_keys(options, with, topics)?))),
            Some("avro") => {
                Err(Error::unsupported(format!("FORMAT UPSERT ENCODE {encode} with KEY ENCODE AVRO is not supported"))
                    .with_hint("Keys are read as Avro where values are: FORMAT UPSERT ENCODE AVRO .. KEY ENCODE AVRO."))
            }
            Some(other) => Err(Error::invalid(format!("KEY ENCODE {} is not known", other.to_uppercase()))
                .with_hint("Known here: JSON, TEXT, AVRO.")),
        }
    }
}

pub(super) struct Upsert(pub KeyText);

impl Envelope for Upsert {
    fn read<'a>(&self, (key, value): KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>> {
        let (op, object) = match value {
            Some(value) => (RowOp::Put, Cow::Borrowed(value)),
            None => (RowOp::Delete, self.0.deleted(key, declared)?),
        };
        Ok(vec![Said { op, object, kept: Vec::new() }])
    }
}

impl KeyText {
    /// The key of a record without a value, as an object.
    pub fn deleted<'a>(self, key: Option<&'a [u8]>, declared: &Declared) -> Result<Cow<'a, [u8]>> {
        // All of the key is beside the value.
        if declared.key.is_empty() {
            return Ok(Cow::Borrowed(b"{}"));
        }
        let key = key.ok_or_else(|| no_object("key and no value"))?;
        let text = match self {
            KeyText::Json if key.trim_ascii_start().first() == Some(&b'{') => {
                return Ok(Cow::Borrowed(super::envelopes::payload(key)));
            }
            KeyText::Json => Cow::Borrowed(key),
            KeyText::Text => {
                let text = std::str::from_utf8(key).map_err(|_| text::not_utf8())?;
                Cow::Owned(serde_json::Value::from(text).to_string().into_bytes())
            }
        };
        declared.bare_key(&text).map(Cow::Owned)
    }
}
