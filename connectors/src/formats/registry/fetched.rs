//! What a registry answers with.

use serde_json::Value;
use tidemark_common::{Error, Result, SqlState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SchemaKind {
    Avro,
    Protobuf,
    Json,
}

impl SchemaKind {
    pub fn name(self) -> &'static str {
        match self {
            SchemaKind::Avro => "AVRO",
            SchemaKind::Protobuf => "PROTOBUF",
            SchemaKind::Json => "JSON",
        }
    }
}

/// A schema with all that it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub id: u32,
    pub kind: SchemaKind,
    pub text: String,
    /// Each after those that it refers to itself.
    pub references: Vec<Named>,
}

impl Fetched {
    /// Refuses one that is written otherwise.
    pub fn of_kind(&self, kind: SchemaKind) -> Result<&Self> {
        match self.kind == kind {
            true => Ok(self),
            false => Err(Error::new(
                SqlState::DatatypeMismatch,
                format!("schema {} is {}, not {}", self.id, self.kind.name(), kind.name()),
            )
            .with_hint(format!("FORMAT PLAIN ENCODE {}", self.kind.name()))),
        }
    }
}

/// A schema under the name by which others refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub name: String,
    pub text: String,
}

/// Where a schema that another refers to is found.
#[derive(Debug)]
pub(super) struct Reference {
    pub name: String,
    pub subject: String,
    pub version: i64,
}

pub(super) fn read_id(answer: &Value) -> Result<u32> {
    answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| unread("has no id"))
}

pub(super) fn read_schema(answer: &Value) -> Result<(SchemaKind, String, Vec<Reference>)> {
    let kind = match answer["schemaType"].as_str() {
        None | Some("AVRO") => SchemaKind::Avro,
        Some("PROTOBUF") => SchemaKind::Protobuf,
        Some("JSON") => SchemaKind::Json,
        Some(other) => return Err(unread(&format!("is of type {other}"))),
    };
    let text = answer["schema"].as_str().ok_or_else(|| unread("has no schema"))?;
    let references = answer["references"].as_array().into_iter().flatten();
    let one = |reference: &Value| {
        let (name, subject) = (reference["name"].as_str()?, reference["subject"].as_str()?);
        let version = reference["version"].as_i64()?;
        Some(Reference { name: name.to_string(), subject: subject.to_string(), version })
    };
    let references: Option<Vec<Reference>> = references.map(one).collect();
    Ok((kind, text.to_string(), references.ok_or_else(|| unread("has references that name nothing"))?))
}

fn unread(what: &str) -> Error {
    Error::new(SqlState::ProtocolViolation, format!("the schema registry's answer {what}"))
}
