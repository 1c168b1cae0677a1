//! FORMAT UPSERT: a value is the row with its key, no value says that the row is gone. As compacted topics have it.

use std::borrow::Cow;

use tidemark_common::connector::RowOp;
use tidemark_common::{Error, Result};

use crate::formats::text;
use crate::options::Options;

use super::{Declared, Envelope, KeyValue, Said, no_object};

/// How keys are written. They are read where a record has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFormat {
    /// An object with the columns of the primary key; if that is of one column, its value will do.
    Json,
    /// The one column, as text.
    Text,
}

impl KeyFormat {
    pub fn take(own: &mut Options) -> Result<Self> {
        match own.take("key_encode").as_deref() {
            None | Some("json") => Ok(Self::Json),
            Some("text") => Ok(Self::Text),
            Some(other) => Err(Error::invalid(format!("KEY ENCODE {} is not known", other.to_uppercase()))
                .with_hint("Known here: JSON, TEXT.")),
        }
    }
}

pub(super) struct Upsert(pub KeyFormat);

impl Envelope for Upsert {
    fn read<'a>(&self, (key, value): KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>> {
        let (op, object) = match value {
            Some(value) => (RowOp::Put, Cow::Borrowed(value)),
            None => (RowOp::Delete, self.0.deleted(key, declared)?),
        };
        Ok(vec![Said { op, object, kept: Vec::new() }])
    }
}

impl KeyFormat {
    /// The key of a record without a value, as an object.
    pub fn deleted<'a>(self, key: Option<&'a [u8]>, declared: &Declared) -> Result<Cow<'a, [u8]>> {
        // All of the key is beside the value.
        if declared.key.is_empty() {
            return Ok(Cow::Borrowed(b"{}"));
        }
        let key = key.ok_or_else(|| no_object("key and no value"))?;
        let text = match self {
            KeyFormat::Json if key.trim_ascii_start().first() == Some(&b'{') => {
                return Ok(Cow::Borrowed(super::envelopes::payload(key)));
            }
            KeyFormat::Json => Cow::Borrowed(key),
            KeyFormat::Text => {
                let text = std::str::from_utf8(key).map_err(|_| text::not_utf8())?;
                Cow::Owned(serde_json::Value::from(text).to_string().into_bytes())
            }
        };
        declared.bare_key(&text).map(Cow::Owned)
    }
}
