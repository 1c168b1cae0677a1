//! The WITH clause as a connector reads it: each key is taken once, and what nobody took is an error.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::IntervalMonthDayNanoType;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Hidden, Result, nearest};

use crate::formats::text;

/// What to do with a record that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    Fail,
    Drop,
    /// Left out and kept, with why, in `tidemark.dead_letters`.
    DeadLetters,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    values: BTreeMap<String, String>,
    /// Values of options that were given as `SECRET name`: only [`Options::take_credential`] has them, so that no message can
    /// repeat one.
    secrets: BTreeMap<String, Hidden>,
    /// Every key that was asked for, for the hint of [`Options::finish`].
    known: Vec<&'static str>,
}

impl Options {
    /// Refuses a key given twice.
    pub fn new(pairs: &[(String, String)]) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (key, value) in pairs {
            if values.insert(key.clone(), value.clone()).is_some() {
                return Err(Error::invalid(format!("option \"{key}\" is given more than once")));
            }
        }
        Ok(Self { values, secrets: BTreeMap::new(), known: Vec::new() })
    }

    pub fn with_secrets(pairs: &[(String, String)], secrets: &[(String, Hidden)]) -> Result<Self> {
        Ok(Self { secrets: secrets.iter().cloned().collect(), ..Self::new(pairs)? })
    }

    /// With others, which count more.
    pub fn and(mut self, pairs: &[(String, String)]) -> Self {
        self.values.extend(pairs.iter().cloned());
        self
    }

    /// Whether it is given.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key) || self.secrets.contains_key(key)
    }

    /// Another spelling of an option. Where both are given it is this one that counts: the other is a connection's.
    pub fn spelled(&mut self, other: &'static str, key: &'static str) {
        self.known.push(other);
        if let Some(value) = self.values.remove(other) {
            self.secrets.remove(key);
            self.values.insert(key.to_string(), value);
        }
        if let Some(secret) = self.secrets.remove(other) {
            self.values.remove(key);
            self.secrets.insert(key.to_string(), secret);
        }
    }

    /// An option that may be a secret.
    pub fn take_credential(&mut self, key: &'static str) -> Option<Hidden> {
        let plain = self.take(key).map(Hidden::new);
        self.secrets.remove(key).or(plain)
    }

    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.values.remove(key)
    }

    pub fn require(&mut self, key: &'static str) -> Result<String> {
        self.take(key).ok_or_else(|| {
            if self.secrets.contains_key(key) {
                return not_secret(key);
            }
            Error::invalid(format!("option \"{key}\" is missing")).with_hint(format!("Add {key} = '..' to WITH (..)."))
        })
    }

    /// Parses the value, `what` naming what it should have been, e.g. "a whole number".
    pub fn parse<T: FromStr>(&mut self, key: &'static str, what: &str) -> Result<Option<T>> {
        match self.take(key) {
            None => Ok(None),
            Some(text) => match text.trim().parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::invalid(format!("option \"{key}\" must be {what}, not \"{text}\""))),
            },
        }
    }

    pub fn bool(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.take(key).map(|v| v.to_lowercase()).as_deref() {
            None => Ok(None),
            Some("true" | "on" | "yes" | "1") => Ok(Some(true)),
            Some("false" | "off" | "no" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format!("option \"{key}\" must be true or false, not \"{other}\""))),
        }
    }

    pub(crate) fn on_error(&mut self) -> Result<OnError> {
        match self.take("on_error").map(|text| text.to_lowercase()).as_deref() {
            None | Some("fail") => Ok(OnError::Fail),
            Some("drop") => Ok(OnError::Drop),
            Some("dlq") => Ok(OnError::DeadLetters),
            Some(other) => {
                Err(Error::invalid(format!("option \"on_error\" must be 'fail', 'drop' or 'dlq', not \"{other}\"")))
            }
        }
    }

    pub fn positive(&mut self, key: &'static str) -> Result<Option<f64>> {
        match self.parse::<f64>(key, "a number above 0")? {
            Some(value) if value <= 0.0 || !value.is_finite() => {
                Err(Error::invalid(format!("option \"{key}\" must be a number above 0, not \"{value}\"")))
            }
            other => Ok(other),
        }
    }

    /// `'1 second'`, `'500ms'`, `'2'` (seconds).
    pub fn duration(&mut self, key: &'static str) -> Result<Option<Duration>> {
        self.take(key).map(|text| duration(&text).map_err(|e| e.context(format!("option \"{key}\"")))).transpose()
    }

    /// All options whose key starts with `prefix`, secrets among them, the prefix cut off.
    pub fn take_credentials(&mut self, prefix: &str) -> BTreeMap<String, Hidden> {
        let secret: Vec<String> = self.secrets.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
        let mut taken: BTreeMap<String, Hidden> =
            self.take_prefix(prefix).into_iter().map(|(key, value)| (key, Hidden::new(value))).collect();
        let secrets =
            secret.into_iter().filter_map(|k| Some((k[prefix.len()..].to_string(), self.secrets.remove(&k)?)));
        taken.extend(secrets);
        taken
    }

    /// All options whose key starts with `prefix`, the prefix cut off.
    pub fn take_prefix(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let keys: Vec<String> = self.values.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
        keys.into_iter().filter_map(|k| self.values.remove(&k).map(|v| (k[prefix.len()..].to_string(), v))).collect()
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<()> {
        let known = |key: &&String| self.known.contains(&key.as_str());
        if let Some(key) = self.secrets.keys().find(known) {
            return Err(not_secret(key));
        }
        let Some(key) = self.values.keys().chain(self.secrets.keys()).next() else { return Ok(()) };
        let error = Error::invalid(format!("unrecognized option \"{key}\""));
        Err(match nearest(key, self.known.iter().copied()) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error.with_hint(format!("Options known here: {}.", self.known.join(", "))),
        })
    }
}

fn duration(value: &str) -> Result<Duration> {
    if let Ok(seconds) = value.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|e| Error::invalid(e.to_string()));
    }
    let spaced = match value.trim().find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => format!("{} {}", &value.trim()[..at], &value.trim()[at..]),
        None => value.to_string(),
    };
    let array = text::parse_one(&spaced, &SqlType::Interval)
        .map_err(|_| Error::invalid(format!("\"{value}\" is not a duration such as '1 second'")))?;
    let span = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
    let nanos = i64::from(span.days) * 86_400_000_000_000 + span.nanoseconds;
    if span.months != 0 || nanos <= 0 {
        return Err(Error::invalid(format!("\"{value}\" is not a duration such as '1 second'")));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

fn not_secret(key: &str) -> Error {
    Error::invalid(format!("option \"{key}\" cannot be a secret"))
        .with_hint("Only credentials can: write its value, or '${NAME}' for an environment variable.")
}
