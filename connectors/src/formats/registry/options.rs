//! The options `schema.registry..`, checked.

use std::time::Duration;

use reqwest::Url;
use tidemark_common::{Error, Hidden, Result};

use crate::options::Options;

/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct RegistryOptions {
    /// Tried in this order, without a slash at the end.
    pub urls: Vec<String>,
    pub user: Option<(Hidden, Hidden)>,
    /// A file of certificates in PEM to trust beside the machine's own.
    pub ca: Option<String>,
    /// Files in PEM: who we are.
    pub certificate: Option<(String, String)>,
    pub strategy: Strategy,
    pub timeout: Duration,
}

/// How the subject of a topic's records is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    Topic,
    Record,
    TopicRecord,
}

impl Strategy {
    /// `record`: the full name of the record or message.
    pub fn subject(self, topic: &str, record: Option<&str>) -> Result<String> {
        let record = || {
            record.ok_or_else(|| {
                Error::invalid("option \"schema.registry.name.strategy\" needs the option \"message\"")
                    .with_hint("It is the full name of the record: message = 'shop.Order'.")
            })
        };
        Ok(match self {
            Strategy::Topic => format!("{topic}-value"),
            Strategy::Record => record()?.to_string(),
            Strategy::TopicRecord => format!("{topic}-{}", record()?),
        })
    }
}

impl Strategy {
    /// Of the keys of a topic's records. `record`: the full name of the key's.
    pub fn key_subject(self, topic: &str, record: &str) -> String {
        match self {
            Strategy::Topic => format!("{topic}-key"),
            Strategy::Record => record.to_string(),
            Strategy::TopicRecord => format!("{topic}-{record}"),
        }
    }

    /// Of topics that are not known by name.
    pub fn subject_of_any(self, record: Option<&str>) -> Result<String> {
        match self {
            Strategy::Record => self.subject("", record),
            _ => Err(Error::invalid("option \"topic_pattern\" says of no topic which schema its records have")
                .with_hint("Use schema.registry.name.strategy = 'record_name_strategy' with message = '..', or option \"topic\".")),
        }
    }
}

/// Takes an option from the list after ENCODE, or else from the WITH clause.
pub(crate) fn either(own: &mut Options, with: &mut Options, key: &'static str) -> Option<String> {
    let other = with.take(key);
    own.take(key).or(other)
}

impl RegistryOptions {
    /// `None` without the option `schema.registry`.
    pub fn take(own: &mut Options, with: &mut Options) -> Result<Option<Self>> {
        let urls = either(own, with, "schema.registry");
        let credential = |own: &mut Options, with: &mut Options, key| {
            let other = with.take_credential(key);
            own.take_credential(key).or(other)
        };
        let user = credential(own, with, "schema.registry.username");
        let password = credential(own, with, "schema.registry.password");
        let ca = either(own, with, "schema.registry.ca");
        let certificate = either(own, with, "schema.registry.certificate");
        let key = either(own, with, "schema.registry.key");
        let strategy = either(own, with, "schema.registry.name.strategy");
        let given = [
            ("username", user.is_some()),
            ("password", password.is_some()),
            ("ca", ca.is_some()),
            ("certificate", certificate.is_some()),
            ("key", key.is_some()),
            ("name.strategy", strategy.is_some()),
        ];
        let timeout = match own.duration("schema.registry.timeout")? {
            None => with.duration("schema.registry.timeout")?,
            given => given,
        };
        let Some(urls) = urls else {
            return match given.iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((option, _)) => Err(half(option, "schema.registry", "the registry's URL")),
            };
        };
        let urls = urls.split(',').map(|url| url_of(url.trim())).collect::<Result<_>>()?;
        let user = both(user, password, ("username", "password"), "who signs in, and with what")?;
        let certificate = both(certificate, key, ("certificate", "key"), "a file in PEM")?;
        let strategy = strategy.as_deref().map_or(Ok(Strategy::Topic), strategy_of)?;
        Ok(Some(Self { urls, user, ca, certificate, strategy, timeout: timeout.unwrap_or(TIMEOUT) }))
    }
}

fn strategy_of(name: &str) -> Result<Strategy> {
    match name.to_lowercase().as_str() {
        "topic_name_strategy" => Ok(Strategy::Topic),
        "record_name_strategy" => Ok(Strategy::Record),
        "topic_record_name_strategy" => Ok(Strategy::TopicRecord),
        other => Err(Error::invalid(format!("option \"schema.registry.name.strategy\" cannot be '{other}'"))
            .with_hint("Use 'topic_name_strategy', 'record_name_strategy' or 'topic_record_name_strategy'.")),
    }
}

fn url_of(text: &str) -> Result<String> {
    let hint = "Such as 'http://host:8081'; several with commas between them.";
    // The text itself may hold a password.
    let wrong = |why: &str| Error::invalid(format!("option \"schema.registry\" {why}")).with_hint(hint);
    let url = Url::parse(text).map_err(|e| wrong(&format!("is no URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must not hold a name and a password")
            .with_hint("Use schema.registry.username and schema.registry.password."));
    }
    match url.scheme() {
        "http" | "https" => Ok(text.trim_end_matches('/').to_string()),
        other => Err(wrong(&format!("cannot begin with \"{other}:\""))),
    }
}

fn both<T>(one: Option<T>, other: Option<T>, names: (&str, &str), what: &str) -> Result<Option<(T, T)>> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(names.0, &format!("schema.registry.{}", names.1), what)),
        (None, Some(_)) => Err(half(names.1, &format!("schema.registry.{}", names.0), what)),
    }
}

fn half(given: &str, missing: &str, what: &str) -> Error {
    Error::invalid(format!("option \"schema.registry.{given}\" needs the option \"{missing}\""))
        .with_hint(format!("It is {what}."))
}
