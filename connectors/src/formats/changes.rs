//! Records that say what became of rows: FORMAT UPSERT, DEBEZIUM, MAXWELL, CUSTOM.
//!
//! ```text
//!   record                                          what it says of rows               decoded
//!   key 1, value {"id": 1, "a": 5}     UPSERT       put    {"id": 1, "a": 5}  ─┐
//!   key 1, no value                    UPSERT       delete {"id": 1}           ├─ one decoder, ─▶ columns, RowChanges
//!   {"op": "u", "before": ..,          DEBEZIUM     delete the old key,        │  all at once
//!               "after": ..}                          if it is another; put ..─┘
//! ```
//!
//! A record says something of no row (a tombstone after a delete, a heartbeat), of one, or of two. Either all of it can be decoded, or it
//! is a bad record.

mod envelopes;
mod upsert;

use std::borrow::Cow;
use std::collections::BTreeMap;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::connector::{RowChanges, RowOp};
use tidemark_common::{Error, Result, SqlState};

use self::envelopes::{Custom, Debezium, Maxwell};
use self::upsert::{KeyFormat, Upsert};
use super::Failures;
use super::json::{JsonOptions, JsonRecords};
use super::json_path::JsonPath;
use crate::options::Options;
use crate::spec::FormatSpec;

/// A record: its key and its value.
pub(crate) type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What a record says of a row.
#[derive(Debug)]
struct Said<'a> {
    pub op: RowOp,
    /// A JSON object with the row's columns; with those of the key, if the row is deleted; none, if all are.
    pub object: Cow<'a, [u8]>,
    /// Columns whose values stay, by position among those declared.
    pub kept: Vec<usize>,
}

/// How records are read.
trait Envelope: Send + Sync {
    /// What the record says, in order.
    fn read<'a>(&self, record: KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>>;
}

/// The columns that records are about.
#[derive(Debug)]
struct Declared {
    pub schema: SchemaRef,
    /// The declared ones among those of the primary key.
    pub key: Vec<usize>,
}

impl Declared {
    /// An object with the key's values only, each as `value` has it.
    fn key_object<'v>(&self, value: impl Fn(&str) -> Option<&'v [u8]>) -> Vec<u8> {
        let mut object = vec![b'{'];
        for at in &self.key {
            let name = self.schema.field(*at).name();
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
            object.push(b':');
            object.extend_from_slice(value(name).unwrap_or(b"null"));
        }
        object.push(b'}');
        object
    }

    /// Whether two objects have the same key, as far as both say it in the same words.
    fn is_same_key(&self, one: &[u8], other: &[u8]) -> bool {
        self.key.iter().all(|at| {
            let path = JsonPath::key(self.schema.field(*at).name());
            path.find(one) == path.find(other)
        })
    }
}

/// Decodes records into rows and what becomes of them.
pub(crate) struct ChangeDecoder {
    envelope: Box<dyn Envelope>,
    declared: Declared,
    rows: JsonRecords,
}

/// Rows, in the order of their records.
pub(crate) struct Changed {
    /// The declared columns.
    pub columns: Vec<ArrayRef>,
    /// The record of each row.
    pub records: Vec<u32>,
    pub changes: RowChanges,
    /// Of records, ascending.
    pub failures: Failures,
}

impl ChangeDecoder {
    pub fn rows(&self, records: &[KeyValue<'_>]) -> Result<Changed> {
        let mut failures: BTreeMap<usize, Error> = BTreeMap::new();
        let (mut said, mut of) = (Vec::new(), Vec::new());
        for (at, record) in records.iter().enumerate() {
            match self.envelope.read(*record, &self.declared) {
                Ok(all) => {
                    of.extend(std::iter::repeat_n(at as u32, all.len()));
                    said.extend(all);
                }
                Err(error) => {
                    failures.insert(at, error);
                }
            }
        }
        let objects: Vec<&[u8]> = said.iter().map(|said| said.object.as_ref()).collect();
        let (columns, bad) = self.rows.columns(&objects)?;
        for (row, error) in bad {
            failures.entry(of[row] as usize).or_insert(error);
        }
        for (row, said) in said.iter().enumerate().filter(|(_, said)| said.op != RowOp::Truncate) {
            let null = self.declared.key.iter().find(|at| columns[**at].is_null(row));
            if let Some(null) = null {
                let error = self.no_key(*null, said.op);
                failures.entry(of[row] as usize).or_insert(error);
            }
        }
        let keep: Vec<bool> = of.iter().map(|record| !failures.contains_key(&(*record as usize))).collect();
        let mut changes = RowChanges::default();
        for said in said.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(said, _)| said) {
            let row = changes.ops.len() as u32;
            changes.kept.extend(said.kept.iter().map(|column| (row, *column as u32)));
            changes.ops.push(said.op);
        }
        let mut kept = keep.iter();
        of.retain(|_| kept.next() == Some(&true));
        let mask = BooleanArray::from(keep);
        let columns = columns.iter().map(|column| compute::filter(column, &mask)).collect::<Result<_, _>>()?;
        Ok(Changed { columns, records: of, changes, failures: failures.into_iter().collect() })
    }

    fn no_key(&self, column: usize, op: RowOp) -> Error {
        let what = if op == RowOp::Put { "a row" } else { "a delete" };
        let name = self.declared.schema.field(column).name();
        Error::new(SqlState::NotNullViolation, format!("{what} without column \"{name}\" of the primary key"))
    }
}

/// FORMAT of records that say what became of rows.
#[derive(Debug, Clone)]
pub(crate) struct ChangeFormat {
    kind: Kind,
    pub json: JsonOptions,
}

#[derive(Debug, Clone)]
enum Kind {
    Upsert(KeyFormat),
    Debezium,
    Maxwell,
    Custom(Box<Custom>),
}

impl ChangeFormat {
    /// `None`: records are rows. Options may stand in the WITH clause as well, if they are not the format's own.
    pub fn choose(format: Option<&FormatSpec>, with: &mut Options) -> Result<Option<Self>> {
        let Some(spec) = format.filter(|spec| spec.format != "PLAIN") else { return Ok(None) };
        let mut own = Options::new(&spec.options)?;
        let kind = match spec.format.as_str() {
            "UPSERT" => Kind::Upsert(KeyFormat::take(&mut own)?),
            "DEBEZIUM" => Kind::Debezium,
            "MAXWELL" => Kind::Maxwell,
            "CUSTOM" => Kind::Custom(Box::new(Custom::parse(&mut own)?)),
            other => {
                return Err(Error::unsupported(format!("FORMAT {other} is not supported"))
                    .with_hint("FORMAT PLAIN, UPSERT, DEBEZIUM, MAXWELL or CUSTOM"));
            }
        };
        if !spec.encode.eq_ignore_ascii_case("json") {
            return Err(Error::unsupported(format!("FORMAT {} ENCODE {} is not supported", spec.format, spec.encode))
                .with_hint(format!("FORMAT {} ENCODE JSON", spec.format)));
        }
        let json = JsonOptions::parse(&mut own, with)?;
        own.finish()?;
        Ok(Some(Self { kind, json }))
    }

    /// Whether a record's value is a row, so that columns can be taken from it.
    pub fn is_of_rows(&self) -> bool {
        matches!(self.kind, Kind::Upsert(_))
    }

    /// `key`: the declared columns of the primary key, by position.
    pub fn decoder(&self, schema: &SchemaRef, key: Vec<usize>) -> Result<ChangeDecoder> {
        let envelope: Box<dyn Envelope> = match &self.kind {
            Kind::Upsert(key) => Box::new(Upsert(*key)),
            Kind::Debezium => Box::new(Debezium),
            Kind::Maxwell => Box::new(Maxwell),
            Kind::Custom(custom) => custom.clone(),
        };
        let rows = JsonRecords::new(schema, &self.json)?;
        Ok(ChangeDecoder { envelope, declared: Declared { schema: schema.clone(), key }, rows })
    }
}

fn no_object(what: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("the record has no {what}"))
}

#[cfg(test)]
mod tests;
