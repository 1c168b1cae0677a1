//! Columns that records have and their source does not: `on_drift`.
//!
//! ```text
//!   decoders ──note──▶ Unknown ──news──▶ SourceBatch::unknown ──▶ log, tidemark.sources       on_drift = 'ignore'
//!                              └─refused──▶ the source stops before the record                on_drift = 'error'
//!                                               └─ Missing ──▶ ALTER SOURCE .. ADD COLUMN, and it goes on     'evolve'
//! ```
//!
//! What has been noted stays, so that with `error` no batch is handed out after one that was refused, whichever worker met it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use datafusion::arrow::datatypes::Schema;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::json_path::JsonPath;
use super::json_scan;
use crate::options::Options;
use crate::postgres::OnDrift;
use crate::spec::PATH_METADATA;

/// Names that are kept: where keys are data there is no end of them.
pub(crate) const UNKNOWN_COLUMNS: usize = 100;

pub(crate) fn on_drift(options: &mut Options) -> Result<OnDrift> {
    let way = options.take("on_drift").map(|text| OnDrift::parse(&text)).transpose()?;
    Ok(way.unwrap_or(OnDrift::Ignore))
}

/// What a source says that stops before a column.
pub(crate) fn refused(column: &str, of: &str, way: OnDrift) -> Error {
    let hint = match way {
        OnDrift::Evolve => "The source is given the column, and goes on.".to_string(),
        _ => format!("ALTER SOURCE .. ADD COLUMN {column} with a type: it goes on with it."),
    };
    Error::new(SqlState::DatatypeMismatch, format!("{of} column \"{column}\", which the source does not"))
        .with_hint(hint)
}

/// Columns that a source waits for. One for all its readers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Missing(Arc<Mutex<Vec<(String, SqlType)>>>);

impl Missing {
    pub fn set(&self, columns: Vec<(String, SqlType)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = columns;
    }

    pub fn get(&self) -> Vec<(String, SqlType)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Noted {
    is_told: bool,
    /// `None`: nothing but NULL has come yet, or values of a type that no column has.
    sql_type: Option<SqlType>,
}

/// The names, and what is known of each.
#[derive(Debug)]
pub(crate) struct Unknown {
    way: OnDrift,
    names: RwLock<BTreeMap<String, Noted>>,
    missing: Missing,
}

impl Unknown {
    pub fn new(way: OnDrift, missing: Missing) -> Self {
        Self { way, names: RwLock::default(), missing }
    }

    /// `sql_type`: of the column that would hold its values.
    pub fn note(&self, name: &str, sql_type: impl FnOnce() -> Option<SqlType>) {
        let is_known = |names: &BTreeMap<String, Noted>| match names.get(name) {
            Some(noted) => noted.sql_type.is_some() || self.way != OnDrift::Evolve,
            None => names.len() >= UNKNOWN_COLUMNS,
        };
        if is_known(&self.names.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let sql_type = sql_type();
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if !is_known(&names) {
            let is_told = names.get(name).is_some_and(|noted| noted.is_told);
            names.insert(name.to_string(), Noted { is_told, sql_type });
        }
    }

    /// Those that have not been told; an error if there may be none.
    pub fn news(&self) -> Result<Vec<String>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let stops = |(_, noted): &(&String, &Noted)| match self.way {
            OnDrift::Ignore => false,
            OnDrift::Error => true,
            OnDrift::Evolve => noted.sql_type.is_some(),
        };
        if let Some((name, _)) = names.iter().find(stops) {
            let missing = names.iter().filter_map(|(name, noted)| Some((name.clone(), noted.sql_type.clone()?)));
            self.missing.set(missing.collect());
            return Err(refused(name, "the records have", self.way));
        }
        if names.values().all(|noted| noted.is_told) {
            return Ok(Vec::new());
        }
        drop(names);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let news = names
            .iter_mut()
            .filter_map(|(name, noted)| (!std::mem::replace(&mut noted.is_told, true)).then(|| name.clone()));
        Ok(news.collect())
    }
}

/// The type of a column for a value in JSON; `None`: NULL, which has any.
fn json_type(value: &[u8]) -> Option<SqlType> {
    Some(match value.first()? {
        b'n' => return None,
        b't' | b'f' => SqlType::Boolean,
        b'"' => SqlType::Text,
        b'{' | b'[' => SqlType::Jsonb,
        _ => match std::str::from_utf8(value).ok()?.parse::<i64>() {
            Ok(_) => SqlType::BigInt,
            Err(_) => SqlType::Double,
        },
    })
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
        let _scanned = json_scan::top_level(object, |key, value| {
            if !self.names.contains(key) {
                match json_scan::key_text(key) {
                    Some(name) if !self.names.contains(name.as_bytes()) => {
                        unknown.note(&name, || json_type(value));
                    }
                    _ => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{refused, schema};

    #[test]
    fn each_is_told_once() {
        let declared = schema(&[("id", SqlType::BigInt), ("é\"", SqlType::Text)]);
        let path = JsonPath::parse("$.meta.op").unwrap();
        let keys = KnownKeys::new(&declared, [&path].into_iter()).unwrap();
        let unknown = Unknown::new(OnDrift::Ignore, Missing::default());
        keys.look(br#"{"id": 1, "meta": {}, "\u00e9\"": "x"}"#, &unknown);
        assert!(unknown.news().unwrap().is_empty());
        keys.look(br#"{"new": 1, "\u0061": 2}"#, &unknown);
        keys.look(b"[1", &unknown);
        assert_eq!(unknown.news().unwrap(), ["a", "new"]);
        keys.look(br#"{"new": 1, "id": 2}"#, &unknown);
        assert!(unknown.news().unwrap().is_empty());
        for n in 0..2 * UNKNOWN_COLUMNS {
            unknown.note(&n.to_string(), || None);
        }
        assert_eq!(unknown.news().unwrap().len(), UNKNOWN_COLUMNS - 2);
    }

    #[test]
    fn error_refuses_all_that_follows() {
        let unknown = Unknown::new(OnDrift::Error, Missing::default());
        assert!(unknown.news().unwrap().is_empty());
        unknown.note("more", || None);
        for _ in 0..2 {
            let (code, message, _) = refused(unknown.news());
            assert_eq!(
                (code.as_str(), message.as_str()),
                ("42804", "the records have column \"more\", which the source does not")
            );
        }
    }

    #[test]
    fn evolve_waits_for_a_value() {
        let keys = KnownKeys::new(&schema(&[("id", SqlType::BigInt)]), [].into_iter()).unwrap();
        let missing = Missing::default();
        let unknown = Unknown::new(OnDrift::Evolve, missing.clone());
        keys.look(br#"{"id": 1, "a": null}"#, &unknown);
        assert_eq!(unknown.news().unwrap(), ["a"]);
        keys.look(br#"{"a": null, "b": null}"#, &unknown);
        assert_eq!(unknown.news().unwrap(), ["b"]);
        assert!(missing.get().is_empty());
        keys.look(br#"{"a": -7, "c": 1e3, "d": "x", "e": [1], "f": false, "g": 9223372036854775808}"#, &unknown);
        assert!(refused(unknown.news()).1.contains("column \"a\""));
        use SqlType::*;
        let types = [("a", BigInt), ("c", Double), ("d", Text), ("e", Jsonb), ("f", Boolean), ("g", Double)];
        assert_eq!(missing.get(), types.map(|(name, sql_type)| (name.to_string(), sql_type)));
    }
}
