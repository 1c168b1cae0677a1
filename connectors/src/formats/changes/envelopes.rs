//! Changes as other systems write them: Debezium, Maxwell, and records of one's own.
//!
//! ```text
//!   DEBEZIUM  {"op": "c" | "r" | "u" | "d" | "t", "before": {..}, "after": {..}}      perhaps in {"schema": .., "payload": ..}
//!   MAXWELL   {"type": "insert" | "update" | "delete", "data": {..}, "old": {what was otherwise}}
//!   CUSTOM    op, before, after by paths that are given
//! ```
//!
//! A new key is a delete of the old one and a put.

use std::borrow::Cow;

use tidemark_common::connector::RowOp;
use tidemark_common::{Error, Result, SqlState};

use super::order::{Origin, Version, no_order, of_maxwell};
use super::{Belongs, Declared, Envelope, KeyValue, Said, no_object};
use crate::formats::json_path::{JsonPath, as_text};
use crate::formats::json_scan;
use crate::options::Options;

/// What Debezium writes for a value that is not available.
pub(super) const UNAVAILABLE_TEXT: &str = "__debezium_unavailable_value";

/// What Debezium writes for a value that has not changed and that the database did not repeat; and the same as base64.
const UNAVAILABLE: [&[u8]; 2] = [b"\"__debezium_unavailable_value\"", b"\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\""];

/// Without the schema that may stand beside it.
pub(super) fn payload(record: &[u8]) -> &[u8] {
    let (mut payload, mut has_schema) = (None, false);
    let scanned = json_scan::top_level(record, |key, value| match key {
        b"payload" => payload = Some(value),
        b"schema" => has_schema = true,
        _ => {}
    });
    match (scanned, payload) {
        (Some(()), Some(payload)) if has_schema => payload,
        _ => record,
    }
}

fn put(object: &[u8]) -> Said<'_> {
    Said { op: RowOp::Put, object: Cow::Borrowed(object), kept: Vec::new() }
}

fn delete(object: Cow<'_, [u8]>) -> Said<'_> {
    Said { op: RowOp::Delete, object, kept: Vec::new() }
}

fn truncate() -> Said<'static> {
    Said { op: RowOp::Truncate, object: Cow::Borrowed(b"{}"), kept: Vec::new() }
}

/// The new row, after the end of the old if that had another key.
fn update<'a>(before: Option<&'a [u8]>, after: Said<'a>, declared: &Declared) -> Vec<Said<'a>> {
    match before {
        Some(before) if !declared.is_same_key(before, &after.object) => vec![delete(Cow::Borrowed(before)), after],
        _ => vec![after],
    }
}

pub(super) struct Debezium;

impl Envelope for Debezium {
    fn read<'a>(&self, (key, value): KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>> {
        // A tombstone, for the topic's compaction.
        let Some(value) = value else { return Ok(Vec::new()) };
        let (mut op, mut before, mut after) = (None, None, None);
        let scanned = json_scan::top_level(payload(value), |key, value| match key {
            b"op" => op = Some(value),
            b"before" => before = Some(value),
            b"after" => after = Some(value),
            _ => {}
        });
        let there = |object: Option<&'a [u8]>| object.filter(|object| *object != b"null");
        let (before, after) = (there(before), there(after));
        let op = scanned.and(op).and_then(as_text);
        match op.as_deref() {
            Some("c" | "r") => Ok(vec![available(after.ok_or_else(|| no_object("\"after\""))?, declared)?]),
            Some("u") => {
                Ok(update(before, available(after.ok_or_else(|| no_object("\"after\""))?, declared)?, declared))
            }
            Some("d") => {
                let gone = before.or_else(|| key.map(payload)).ok_or_else(|| no_object("\"before\" and no key"))?;
                Ok(vec![delete(Cow::Borrowed(gone))])
            }
            Some("t") => Ok(vec![truncate()]),
            // A message that was written into the database's log.
            Some("m") => Ok(Vec::new()),
            Some(other) => Err(unknown_op(other)),
            None => Err(no_object("\"op\"")),
        }
    }

    fn belongs(&self, (_, value): KeyValue<'_>) -> Belongs {
        let Some(value) = value else { return Belongs::Anywhere };
        let transaction = JsonPath::key("transaction").find(payload(value));
        match transaction.and_then(|transaction| JsonPath::key("id").find(transaction)) {
            Some(id) => Belongs::To { id: id.to_vec(), ends: false },
            None => Belongs::Alone,
        }
    }

    fn origin(&self, value: &[u8]) -> Option<Result<Version>> {
        let source = JsonPath::key("source").find(payload(value));
        Some(source.ok_or_else(|| no_order("source")).and_then(|source| Origin::of_json(source).version()))
    }

    fn inside<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        payload(value)
    }
}

/// The new row, in which what is not available stays as it was.
fn available<'a>(object: &'a [u8], declared: &Declared) -> Result<Said<'a>> {
    if !UNAVAILABLE.iter().any(|mark| object.windows(mark.len()).any(|part| part == *mark)) {
        return Ok(put(object));
    }
    let (mut there, mut kept) = (vec![b'{'], Vec::new());
    let scanned = json_scan::top_level(object, |key, value| {
        let column = declared.schema.fields().iter().position(|field| json_scan::is_key(key, field.name()));
        if UNAVAILABLE.contains(&value) {
            kept.extend(column);
            return;
        }
        if there.len() > 1 {
            there.push(b',');
        }
        there.extend_from_slice(&[b"\"", key, b"\":", value].concat());
    });
    scanned.ok_or_else(|| no_object("row in \"after\""))?;
    there.push(b'}');
    Ok(Said { op: RowOp::Put, object: Cow::Owned(there), kept })
}

pub(super) fn unknown_op(op: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("the record's operation \"{op}\" is not known"))
}

pub(super) struct Maxwell;

impl Envelope for Maxwell {
    fn read<'a>(&self, (_, value): KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let (mut kind, mut data, mut old) = (None, None, None);
        let scanned = json_scan::top_level(value, |key, value| match key {
            b"type" => kind = Some(value),
            b"data" => data = Some(value),
            b"old" => old = Some(value),
            _ => {}
        });
        let kind = scanned.and(kind).and_then(as_text).ok_or_else(|| no_object("\"type\""))?;
        let data = || data.ok_or_else(|| no_object("\"data\""));
        match kind.as_str() {
            "insert" | "bootstrap-insert" => Ok(vec![put(data()?)]),
            "delete" => Ok(vec![delete(Cow::Borrowed(data()?))]),
            "update" => {
                let (new, old) = (data()?, old.unwrap_or(b"{}"));
                let is_old = |name: &str| JsonPath::key(name).find(old).is_some();
                if !declared.key.iter().any(|at| is_old(declared.schema.field(*at).name())) {
                    return Ok(vec![put(new)]);
                }
                let before = declared.key_object(|name| {
                    let path = JsonPath::key(name);
                    path.find(old).or_else(|| path.find(new))
                });
                Ok(vec![delete(Cow::Owned(before)), put(new)])
            }
            // Changes of tables, and the beginning and end of a snapshot.
            _ => Ok(Vec::new()),
        }
    }

    fn belongs(&self, (_, value): KeyValue<'_>) -> Belongs {
        let (mut xid, mut ends) = (None, false);
        let scanned = json_scan::top_level(value.unwrap_or_default(), |key, value| match key {
            b"xid" => xid = Some(value),
            b"commit" => ends = value == b"true",
            _ => {}
        });
        match scanned.and(xid) {
            Some(id) => Belongs::To { id: id.to_vec(), ends },
            None if value.is_none() => Belongs::Anywhere,
            None => Belongs::Alone,
        }
    }

    fn origin(&self, value: &[u8]) -> Option<Result<Version>> {
        Some(of_maxwell(value))
    }
}

/// Records of one's own, by paths.
#[derive(Debug, Clone)]
pub(super) struct Custom {
    op: JsonPath,
    before: Option<JsonPath>,
    after: JsonPath,
    key: Option<JsonPath>,
    /// What the operation is called that puts a row, deletes one, empties the table, and says nothing.
    words: [(Vec<String>, Option<RowOp>); 4],
}

impl Custom {
    pub fn parse(options: &mut Options) -> Result<Self> {
        let path = |text: Option<String>| text.map(|text| JsonPath::parse(&text)).transpose();
        let op = path(Some(options.require("op")?))?.ok_or_else(|| Error::internal("an option that was there"))?;
        let before = path(options.take("before"))?;
        let after = path(options.take("after"))?.map_or_else(|| JsonPath::parse("$"), Ok)?;
        let key = path(options.take("key"))?;
        let mut words = |option: &'static str, default: &str, op: Option<RowOp>| {
            let words = options.take(option).unwrap_or_else(|| default.to_string());
            (words.split(',').map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()).collect(), op)
        };
        let words = [
            words("op.put", "c,r,u,i,insert,update,upsert", Some(RowOp::Put)),
            words("op.delete", "d,delete", Some(RowOp::Delete)),
            words("op.truncate", "t,truncate", Some(RowOp::Truncate)),
            words("op.ignore", "", None),
        ];
        Ok(Self { op, before, after, key, words })
    }
}

impl Custom {
    /// What lies in the object of the row and is no column of it.
    pub fn beside_row(&self) -> Vec<&JsonPath> {
        match self.after.first_key() {
            Some(_) => Vec::new(),
            None => std::iter::once(&self.op).chain(&self.before).chain(&self.key).collect(),
        }
    }
}

impl Envelope for Custom {
    fn read<'a>(&self, (_, value): KeyValue<'a>, declared: &Declared) -> Result<Vec<Said<'a>>> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let word = self.op.find(value).and_then(as_text).ok_or_else(|| no_object("operation"))?;
        let lower = word.to_lowercase();
        let known: Option<&(Vec<String>, Option<RowOp>)> = self.words.iter().find(|(words, _)| words.contains(&lower));
        let (_, op) = known.ok_or_else(|| unknown_op(&word))?;
        let before = self.before.as_ref().and_then(|path| path.find(value));
        match op {
            None => Ok(Vec::new()),
            Some(RowOp::Truncate) => Ok(vec![truncate()]),
            Some(RowOp::Put) => {
                let after = self.after.find(value).ok_or_else(|| no_object("new row"))?;
                Ok(update(before, put(after), declared))
            }
            Some(RowOp::Delete) => {
                let key = self.key.as_ref().and_then(|path| path.find(value));
                let gone = match (key, before) {
                    (Some(key), _) if key.first() != Some(&b'{') => Cow::Owned(declared.bare_key(key)?),
                    (Some(object), _) | (None, Some(object)) => Cow::Borrowed(object),
                    (None, None) => Cow::Borrowed(self.after.find(value).ok_or_else(|| no_object("old row"))?),
                };
                Ok(vec![delete(gone)])
            }
        }
    }
}
