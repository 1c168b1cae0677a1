//! Where the schemas of binary records are: `schema.registry`, or a file, `schema.location`.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_common::{Error, Result};

use super::avro::name_of;
use super::registry::{Registry, RegistryOptions, either};
use crate::options::Options;

#[derive(Debug)]
pub(crate) enum SchemaSource {
    /// Records that begin with the number of their schema. The subjects of the topics, the first of which names the columns.
    Registry(Arc<Registry>, Vec<String>),
    /// Records that are nothing but the value.
    File(PathBuf),
}

impl SchemaSource {
    /// `topics`: none if they are found by a pattern. `message`: the full name of the record, where it is given.
    pub fn take(
        own: &mut Options,
        with: &mut Options,
        encode: &str,
        topics: &[String],
        message: Option<&str>,
    ) -> Result<Self> {
        let location = either(own, with, "schema.location");
        match (RegistryOptions::take(own, with)?, location) {
            (Some(_), Some(_)) => {
                Err(Error::invalid("options \"schema.registry\" and \"schema.location\" exclude each other"))
            }
            (None, None) => Err(Error::invalid(format!("ENCODE {encode} needs the option \"schema.registry\""))
                .with_hint("Add (schema.registry = 'http://host:8081'), or schema.location = 'file:///path'.")),
            (None, Some(location)) => file(&location).map(SchemaSource::File),
            (Some(options), None) => {
                let strategy = options.strategy;
                let subjects: Vec<String> = match topics {
                    [] => vec![strategy.subject_of_any(message)?],
                    topics => topics.iter().map(|topic| strategy.subject(topic, message)).collect::<Result<_>>()?,
                };
                Ok(SchemaSource::Registry(Arc::new(Registry::new(options)), subjects))
            }
        }
    }
}

/// Where the schemas of keys are.
pub(crate) struct KeySource {
    pub registry: Arc<Registry>,
    pub subjects: Vec<String>,
    /// What the key's record is called: as that of the values, with `Key` after it.
    pub name: String,
}

impl KeySource {
    /// By the registry of the values, whose options stay for those to take. `topics`: known by name.
    pub fn new(own: &Options, with: &Options, encode: &str, topics: &[String]) -> Result<Self> {
        let what = format!("KEY ENCODE {}", encode.to_uppercase());
        let Some(topic) = topics.first() else {
            return Err(Error::unsupported(format!("{what} is not supported with \"topic_pattern\""))
                .with_hint("Name the topics: topic = 'a, b'."));
        };
        let (mut own, mut with) = (own.clone(), with.clone());
        let name = either(&mut own, &mut with, "message").unwrap_or_else(|| name_of(topic)) + "Key";
        let options = RegistryOptions::take(&mut own, &mut with)?.ok_or_else(|| {
            Error::invalid(format!("{what} needs the option \"schema.registry\""))
                .with_hint("Add (schema.registry = 'http://host:8081').")
        })?;
        let subjects = topics.iter().map(|topic| options.strategy.key_subject(topic, &name)).collect();
        Ok(Self { registry: Arc::new(Registry::new(options)), subjects, name })
    }
}

fn file(location: &str) -> Result<PathBuf> {
    let path = location.strip_prefix("file://").unwrap_or(location);
    match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(Error::invalid(format!("option \"schema.location\" cannot be '{location}'"))
            .with_hint("A file on the server's machine: 'file:///path/name.avsc'.")),
    }
}
