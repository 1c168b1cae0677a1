//! Columns that records have and their source does not: `on_drift`.
//!
//! ```text
//!   decoders ──note──▶ Unknown ──news──▶ SourceBatch::unknown ──▶ log, tidemark.sources       on_drift = 'ignore'
//!                              └─refused──▶ the source stops before the record                on_drift = 'error'
//! ```
//!
//! What has been noted stays, so that with `error` no batch is handed out after one that was refused, whichever worker met it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock};

use datafusion::arrow::datatypes::Schema;
use tidemark_common::{Error, Result, SqlState};

use super::json_path::JsonPath;
use super::json_scan;
use crate::options::Options;
use crate::postgres::OnDrift;
use crate::spec::PATH_METADATA;

/// Names that are kept: where keys are data there is no end of them.
pub(crate) const UNKNOWN_COLUMNS: usize = 100;

/// Sources are not given columns while they run.
pub(crate) fn on_drift(options: &mut Options) -> Result<OnDrift> {
    match options.take("on_drift").map(|text| OnDrift::parse(&text)).transpose()? {
        None => Ok(OnDrift::Ignore),
        Some(OnDrift::Evolve) => Err(Error::unsupported(
            "on_drift = 'evolve' is not supported for a source: its columns stay as they are",
        )
        .with_hint(
            "'ignore' leaves new columns out and names them in tidemark.sources, 'error' stops the source before them.",
        )),
        Some(way) => Ok(way),
    }
}

/// What a source says that stops before a column.
pub(crate) fn refused(column: &str, of: &str) -> Error {
    Error::new(SqlState::DatatypeMismatch, format!("{of} column \"{column}\", which the source does not"))
        .with_hint("Make the source anew with that column, or with on_drift = 'ignore', which leaves it out.")
}

/// The names, and whether each has been told.
#[derive(Debug)]
pub(crate) struct Unknown {
    way: OnDrift,
    names: RwLock<BTreeMap<String, bool>>,
}

impl Unknown {
    pub fn new(way: OnDrift) -> Self {
        Self { way, names: RwLock::default() }
    }

    pub fn note(&self, name: &str) {
        let is_known = |names: &BTreeMap<String, bool>| names.contains_key(name) || names.len() >= UNKNOWN_COLUMNS;
        if is_known(&self.names.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if !is_known(&names) {
            names.insert(name.to_string(), false);
        }
    }

    /// Those that have not been told; an error if there may be none.
    pub fn news(&self) -> Result<Vec<String>> {
        if self.way == OnDrift::Error {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            return names.keys().next().map_or(Ok(Vec::new()), |name| Err(refused(name, "the records have")));
        }
        if self.names.read().unwrap_or_else(PoisonError::into_inner).values().all(|told| *told) {
            return Ok(Vec::new());
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let news = names.iter_mut().filter_map(|(name, told)| (!std::mem::replace(told, true)).then(|| name.clone()));
        Ok(news.collect())
    }
}

/// The keys of objects that are rows.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    names: HashSet<Vec<u8>>,
    /// A column is the whole object.
    all: bool,
}

impl KnownKeys {
    /// `besides`: paths in the object of what is no column and is read.
    pub fn new<'a>(declared: &Schema, besides: impl Iterator<Item = &'a JsonPath>) -> Result<Self> {
        let mut known = Self { names: HashSet::new(), all: false };
        for field in declared.fields() {
            match field.metadata().get(PATH_METADATA) {
                None => drop(known.names.insert(field.name().clone().into_bytes())),
                Some(path) => known.path(&JsonPath::parse(path)?),
            }
        }
        besides.for_each(|path| known.path(path));
        Ok(known)
    }

    fn path(&mut self, path: &JsonPath) {
        match path.first_key() {
            Some(key) => drop(self.names.insert(key.as_bytes().to_vec())),
            None => self.all = true,
        }
    }

    /// Notes the keys of an object that are not known.
    pub fn look(&self, object: &[u8], unknown: &Unknown) {
        if self.all {
            return;
        }
        // What is no object is a bad record.
        let _scanned = json_scan::top_level(object, |key, _| {
            if !self.names.contains(key) {
                match json_scan::key_text(key) {
                    Some(name) if !self.names.contains(name.as_bytes()) => unknown.note(&name),
                    _ => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::types::SqlType;

    use super::*;
    use crate::testing::{pairs, refused, schema};

    #[test]
    fn each_is_told_once() {
        let declared = schema(&[("id", SqlType::BigInt), ("é\"", SqlType::Text)]);
        let path = JsonPath::parse("$.meta.op").unwrap();
        let keys = KnownKeys::new(&declared, [&path].into_iter()).unwrap();
        let unknown = Unknown::new(OnDrift::Ignore);
        keys.look(br#"{"id": 1, "meta": {}, "\u00e9\"": "x"}"#, &unknown);
        assert!(unknown.news().unwrap().is_empty());
        keys.look(br#"{"new": 1, "\u0061": 2}"#, &unknown);
        keys.look(b"[1", &unknown);
        assert_eq!(unknown.news().unwrap(), ["a", "new"]);
        keys.look(br#"{"new": 1, "id": 2}"#, &unknown);
        assert!(unknown.news().unwrap().is_empty());
        for n in 0..2 * UNKNOWN_COLUMNS {
            unknown.note(&n.to_string());
        }
        assert_eq!(unknown.news().unwrap().len(), UNKNOWN_COLUMNS - 2);
    }

    #[test]
    fn error_refuses_all_that_follows() {
        let unknown = Unknown::new(OnDrift::Error);
        assert!(unknown.news().unwrap().is_empty());
        unknown.note("more");
        for _ in 0..2 {
            let (code, message, _) = refused(unknown.news());
            assert_eq!(
                (code.as_str(), message.as_str()),
                ("42804", "the records have column \"more\", which the source does not")
            );
        }
        let mut options = Options::new(&pairs(&[("on_drift", "evolve")])).unwrap();
        assert_eq!(refused(on_drift(&mut options)).0, "0A000");
    }
}
