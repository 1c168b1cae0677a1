//! What a change becomes on its way out: FORMAT of a sink.
//!
//! ```text
//!                     row comes          row changes                 row goes
//!   FORMAT PLAIN      value              -                           -                       rows that only come
//!   FORMAT UPSERT     key, value         key, new value              key, nothing (a tombstone)
//!   FORMAT DEBEZIUM   key, c: null, new  key, u: old, new            key, d: old, null; then a tombstone
//! ```
//!
//! Of one epoch a key has one change: what was before it, and what is after it.

use std::collections::HashMap;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use tidemark_common::{Error, Net, Result, SqlState};

use super::record_encode::RecordEncoder;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    Plain,
    Upsert,
    Debezium,
}

/// What goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The row of the changes that it is about.
    pub row: u32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Makes messages of changes.
pub(crate) struct Writer {
    pub envelope: Envelope,
    /// Columns of the key, and how they are written.
    pub key: Option<(Vec<usize>, Box<dyn RecordEncoder>)>,
    /// Columns of the value.
    pub columns: Vec<usize>,
    pub value: Box<dyn RecordEncoder>,
}

/// A change of one key, by rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    before: Option<u32>,
    after: Option<u32>,
}

impl Writer {
    /// What the first messages would have to wait for. Blocks.
    pub fn prepare(&self) -> Result<()> {
        if let Some((_, key)) = &self.key {
            key.prepare()?;
        }
        self.value.prepare()
    }

    /// Messages about rows of `net`, those with the same key in the order in which they came about. `time`: of the changes, in
    /// milliseconds since 1970, where messages tell it.
    pub fn messages(&self, net: &Net, time: i64) -> Result<Vec<Message>> {
        let changes = match (&net.weights, &self.key) {
            (None, _) => {
                (0..net.batch.num_rows() as u32).map(|row| Change { before: None, after: Some(row) }).collect()
            }
            (Some(weights), _) if self.envelope == Envelope::Plain => coming(weights),
            (Some(weights), Some((columns, _))) => by_key(&net.batch.project(columns)?, weights)?,
            (Some(_), None) => return Err(Error::internal("changes that have no key")),
        };
        let keys = match &self.key {
            Some((columns, encoder)) => encoder.encode(&net.batch.project(columns)?)?,
            None => vec![None; net.batch.num_rows()],
        };
        let values = self.value.encode(&net.batch.project(&self.columns)?)?;
        let mut messages = Vec::with_capacity(changes.len());
        for change in changes {
            let Some(row) = change.after.or(change.before) else { continue };
            let key = keys[row as usize].clone();
            if key.is_none() && self.envelope != Envelope::Plain {
                return Err(Error::new(
                    SqlState::NotNullViolation,
                    "the key of a row is NULL: its message would have none",
                )
                .with_hint("KEY ENCODE JSON has a place for NULL."));
            }
            let value_of = |row: Option<u32>| row.and_then(|row| values[row as usize].as_deref());
            match self.envelope {
                Envelope::Plain | Envelope::Upsert => {
                    messages.push(Message { row, key, value: value_of(change.after).map(<[u8]>::to_vec) });
                }
                Envelope::Debezium => {
                    let value = debezium(value_of(change.before), value_of(change.after), time);
                    messages.push(Message { row, key: key.clone(), value: Some(value) });
                    if change.after.is_none() {
                        messages.push(Message { row, key, value: None });
                    }
                }
            }
        }
        Ok(messages)
    }
}

/// The payload that Debezium's JSON has without its schema.
fn debezium(before: Option<&[u8]>, after: Option<&[u8]>, time: i64) -> Vec<u8> {
    let op = match (before, after) {
        (None, _) => b'c',
        (Some(_), Some(_)) => b'u',
        (Some(_), None) => b'd',
    };
    let [before, after] = [before, after].map(|row| row.unwrap_or(b"null"));
    let time = time.to_string();
    [b"{\"before\":", before, b",\"after\":", after, b",\"op\":\"", &[op], b"\",\"ts_ms\":", time.as_bytes(), b"}"]
        .concat()
}

/// Rows that come, each as often as it does.
fn coming(weights: &[(u32, i64)]) -> Vec<Change> {
    let times = |(row, weight): &(u32, i64)| {
        let change = Change { before: None, after: Some(*row) };
        std::iter::repeat_n(change, usize::try_from(*weight).unwrap_or(0))
    };
    weights.iter().flat_map(times).collect()
}

/// One change for each key, in order of first appearance.
fn by_key(keys: &RecordBatch, weights: &[(u32, i64)]) -> Result<Vec<Change>> {
    let fields = keys.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(keys.columns())?;
    let mut places: HashMap<OwnedRow, usize> = HashMap::new();
    let mut changes: Vec<Change> = Vec::new();
    for (row, weight) in weights {
        let place = *places.entry(rows.row(*row as usize).owned()).or_insert(changes.len());
        if place == changes.len() {
            changes.push(Change::default());
        }
        let side = match *weight {
            1 => &mut changes[place].after,
            -1 => &mut changes[place].before,
            _ => return Err(not_unique()),
        };
        if side.replace(*row).is_some() {
            return Err(not_unique());
        }
    }
    Ok(changes)
}

fn not_unique() -> Error {
    Error::new(SqlState::CardinalityViolation, "two rows have the same key at the same time")
        .with_hint("Name columns in the option \"key\" that tell all rows apart.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::record_encode::encoder;
    use crate::options::Options;
    use crate::testing::schema;
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;
    use tidemark_common::Delta;
    use tidemark_common::types::SqlType;

    /// Rows (k, v, weight) as messages: `key value`.
    fn written(envelope: Envelope, rows: &[(i64, i64, i64)]) -> Result<Vec<String>> {
        let columns = schema(&[("k", SqlType::BigInt), ("v", SqlType::BigInt)]);
        let column =
            |of: fn(&(i64, i64, i64)) -> i64| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
        let batch = RecordBatch::try_new(columns.clone(), vec![column(|r| r.0), column(|r| r.1)]).unwrap();
        let weights: Int64Array = rows.iter().map(|r| r.2).collect();
        let updating = rows.iter().any(|r| r.2 != 1);
        let net = Net::of(&columns, &[Delta::new(batch, updating.then_some(weights))]).unwrap();
        let key = Arc::new(columns.project(&[0]).unwrap());
        let writer = Writer {
            envelope,
            key: Some((vec![0], encoder("text", &key, &mut Options::default())?)),
            columns: vec![0, 1],
            value: encoder("json", &columns, &mut Options::default())?,
        };
        let text = |bytes: Option<Vec<u8>>| bytes.map_or("-".to_string(), |b| String::from_utf8(b).unwrap());
        let line = |message: Message| format!("{} {}", text(message.key), text(message.value));
        Ok(writer.messages(&net, 5)?.into_iter().map(line).collect())
    }

    #[test]
    fn changes_as_messages() {
        let changes = [(1, 10, -1), (2, 20, 1), (1, 11, 1), (3, 30, -1), (4, 40, 1), (4, 40, -1)];
        assert_eq!(written(Envelope::Upsert, &changes).unwrap(), [r#"1 {"k":1,"v":11}"#, r#"2 {"k":2,"v":20}"#, "3 -"]);
        assert_eq!(
            written(Envelope::Debezium, &changes).unwrap(),
            [
                r#"1 {"before":{"k":1,"v":10},"after":{"k":1,"v":11},"op":"u","ts_ms":5}"#,
                r#"2 {"before":null,"after":{"k":2,"v":20},"op":"c","ts_ms":5}"#,
                r#"3 {"before":{"k":3,"v":30},"after":null,"op":"d","ts_ms":5}"#,
                "3 -",
            ]
        );
        assert_eq!(
            written(Envelope::Plain, &[(1, 1, 2), (2, 2, 1), (3, 3, -1)]).unwrap(),
            [r#"1 {"k":1,"v":1}"#, r#"1 {"k":1,"v":1}"#, r#"2 {"k":2,"v":2}"#]
        );
        // Rows that only come: of one key the last counts, and all are there.
        assert_eq!(
            written(Envelope::Upsert, &[(1, 1, 1), (1, 2, 1)]).unwrap(),
            [r#"1 {"k":1,"v":1}"#, r#"1 {"k":1,"v":2}"#]
        );
        assert!(written(Envelope::Upsert, &[(1, 1, 1), (1, 2, 1), (2, 1, -1)]).is_err());
    }
}
