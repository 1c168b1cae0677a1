//! Where a record stands in the order of the other database: `order_by`.
//!
//! ```text
//!   order_by = 'source'                 DEBEZIUM: source.lsn | change_lsn | file, pos, row | scn | ts_ms      MAXWELL: position | ts, xid; xoffset
//!   order_by = '$.ts, $.seq'            these values of the record, the first that differs counts
//!                    ▼
//!   1 ++ a number, big-endian, or 2 ++ a text ++ 0 0; one behind the other: compared as bytes
//! ```
//!
//! Numbers are compared as numbers, to nine digits behind the point, texts as bytes; a text of digits is a number.

use datafusion::arrow::array::{Array, AsArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use crate::formats::json_path::{JsonPath, as_text};

/// Digits behind the point that count.
const FRACTION: usize = 9;

#[derive(Debug, Clone)]
pub(super) enum OrderBy {
    /// As the system that writes the records says where they were.
    Source,
    /// Values of the record.
    Paths(Vec<JsonPath>),
}

/// Comparable as bytes.
pub(super) type Version = Box<[u8]>;

impl OrderBy {
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "source" => Ok(OrderBy::Source),
            paths => Ok(OrderBy::Paths(paths.split(',').map(JsonPath::parse).collect::<Result<_>>().map_err(|e| {
                e.context("option \"order_by\"").with_hint("'source', or paths such as '$.ts, $.seq'.")
            })?)),
        }
    }
}

/// Of a JSON record, by paths into it.
pub(super) fn by_paths(record: &[u8], paths: &[JsonPath]) -> Result<Version> {
    let mut version = Vec::new();
    for path in paths {
        let value = path.find(record).and_then(as_text).ok_or_else(|| no_order(&path.to_string()))?;
        match number(&value) {
            Some(number) => put_number(&mut version, number),
            None => put_text(&mut version, &value),
        }
    }
    Ok(version.into())
}

pub(super) fn no_order(what: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("the record has no \"{what}\", by which it is ordered"))
}

/// What Debezium says of where a change was.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub lsn: Option<i128>,
    pub change_lsn: Option<String>,
    pub event_serial_no: Option<i128>,
    pub file: Option<String>,
    pub pos: Option<i128>,
    pub row: Option<i128>,
    pub scn: Option<String>,
    pub ts_ms: Option<i128>,
}

impl Origin {
    /// The names of what [`Origin::of_columns`] reads, and whether each is a number.
    const FIELDS: [(&str, bool); 8] = [
        ("lsn", true),
        ("change_lsn", false),
        ("event_serial_no", true),
        ("file", false),
        ("pos", true),
        ("row", true),
        ("scn", false),
        ("ts_ms", true),
    ];

    pub fn of_json(source: &[u8]) -> Self {
        let text = |key: &str| JsonPath::key(key).find(source).and_then(as_text);
        let number = |key: &str| text(key).and_then(|text| number(&text)).map(|n| n / scale());
        Self {
            lsn: number("lsn"),
            change_lsn: text("change_lsn"),
            event_serial_no: number("event_serial_no"),
            file: text("file"),
            pos: number("pos"),
            row: number("row"),
            scn: text("scn"),
            ts_ms: number("ts_ms"),
        }
    }

    /// The type of the column that [`Origin::of_columns`] takes.
    pub fn columns() -> DataType {
        let field = |(name, is_number): &(&str, bool)| -> Field {
            (if *is_number { SqlType::BigInt } else { SqlType::Text }).to_field(name, true)
        };
        DataType::Struct(Self::FIELDS.iter().map(field).collect::<Fields>())
    }

    pub fn of_columns(source: &StructArray, row: usize) -> Self {
        let there = |at: usize| source.is_valid(row) && source.column(at).is_valid(row);
        let number =
            |at: usize| there(at).then(|| i128::from(source.column(at).as_primitive::<Int64Type>().value(row)));
        let text = |at: usize| there(at).then(|| source.column(at).as_string::<i32>().value(row).to_string());
        Self {
            lsn: number(0),
            change_lsn: text(1),
            event_serial_no: number(2),
            file: text(3),
            pos: number(4),
            row: number(5),
            scn: text(6),
            ts_ms: number(7),
        }
    }

    /// The most exact that is there.
    pub fn version(&self) -> Result<Version> {
        let mut version = Vec::new();
        if let Some(lsn) = self.lsn {
            put_number(&mut version, lsn);
        } else if let Some(lsn) = &self.change_lsn {
            put_text(&mut version, lsn);
            put_number(&mut version, self.event_serial_no.unwrap_or(0));
        } else if let (Some(file), Some(pos)) = (&self.file, self.pos) {
            put_file(&mut version, file);
            put_number(&mut version, pos);
            put_number(&mut version, self.row.unwrap_or(0));
        } else if let Some(scn) = self.scn.as_deref().and_then(number) {
            put_number(&mut version, scn);
        } else {
            put_number(&mut version, self.ts_ms.ok_or_else(|| no_order("source.ts_ms"))?);
        }
        Ok(version.into())
    }
}

/// As Maxwell says it: `position` is there with output_binlog_position, `xid` if it is no snapshot. The last record of a transaction
/// has no `xoffset`.
pub(super) fn of_maxwell(record: &[u8]) -> Result<Version> {
    let text = |key: &str| JsonPath::key(key).find(record).and_then(as_text);
    let whole = |key: &str| text(key).and_then(|text| number(&text));
    let mut version = Vec::new();
    match text("position").as_deref().and_then(|position| position.rsplit_once(':')) {
        Some((file, pos)) => {
            put_file(&mut version, file);
            put_number(&mut version, number(pos).ok_or_else(|| no_order("position"))?);
        }
        None => {
            put_number(&mut version, whole("ts").ok_or_else(|| no_order("ts"))?);
            put_number(&mut version, whole("xid").unwrap_or(0));
        }
    }
    put_number(&mut version, whole("xoffset").unwrap_or(i128::MAX));
    Ok(version.into())
}

fn scale() -> i128 {
    10i128.pow(FRACTION as u32)
}

/// In units of the last digit that counts; `None`: it is none.
fn number(text: &str) -> Option<i128> {
    let text = text.trim();
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all(whole) || !all(fraction) {
        // As JSON may have it: 1.7e9.
        let value: f64 = text
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite() && digits.starts_with(|c: char| c.is_ascii_digit()))?;
        return Some((value * scale() as f64) as i128);
    }
    let fraction = format!("{:0<FRACTION$}", &fraction[..fraction.len().min(FRACTION)]);
    let value = whole.parse::<i128>().ok()?.checked_mul(scale())?.checked_add(fraction.parse().ok()?)?;
    Some(if minus { -value } else { value })
}

fn put_number(version: &mut Vec<u8>, number: i128) {
    version.push(1);
    version.extend_from_slice(&((number as u128) ^ (1 << 127)).to_be_bytes());
}

fn put_text(version: &mut Vec<u8>, text: &str) {
    version.push(2);
    for byte in text.bytes() {
        match byte {
            0 => version.extend_from_slice(&[0, 0xff]),
            byte => version.push(byte),
        }
    }
    version.extend_from_slice(&[0, 0]);
}

/// A file of a log: the number at its end counts, however many digits it has.
fn put_file(version: &mut Vec<u8>, file: &str) {
    let name = file.trim_end_matches(|c: char| c.is_ascii_digit());
    put_text(version, name);
    put_number(version, file[name.len()..].parse().unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::refused;

    #[test]
    fn what_comes_later_is_more() {
        let order = |text: &str| match OrderBy::parse(text).unwrap() {
            OrderBy::Paths(paths) => paths,
            OrderBy::Source => panic!("no paths"),
        };
        let paths = order("$.a, $.b.c");
        let records = [
            r#"{"a": -2, "b": {"c": "x"}}"#,
            r#"{"a": -1.5, "b": {"c": "x"}}"#,
            r#"{"a": "9", "b": {"c": "x"}}"#,
            r#"{"a": 10, "b": {"c": "x"}}"#,
            r#"{"a": 10, "b": {"c": "xy"}}"#,
            r#"{"a": 10.000000001, "b": {"c": ""}}"#,
            r#"{"a": 18446744073709551615, "b": {"c": 1}}"#,
            r#"{"a": "2024-01-01T00:00:00Z", "b": {"c": 1}}"#,
            r#"{"a": "2024-01-01T00:00:01Z", "b": {"c": 1}}"#,
        ];
        let versions: Vec<Version> = records.iter().map(|r| by_paths(r.as_bytes(), &paths).unwrap()).collect();
        assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
        let (code, message, _) = refused(by_paths(b"{\"a\": 1}", &paths));
        assert_eq!((code.as_str(), message.as_str()), ("22P02", "the record has no \"$.b.c\", by which it is ordered"));
        assert!(refused(OrderBy::parse("ts")).2.contains("'$.ts, $.seq'"));
    }

    #[test]
    fn as_their_databases_order_them() {
        for rising in [
            &[r#"{"lsn": 5, "ts_ms": 9}"#, r#"{"lsn": 24023128, "ts_ms": 1}"#][..],
            &[
                r#"{"file": "bin.000009", "pos": 700}"#,
                r#"{"file": "bin.000009", "pos": 700, "row": 1}"#,
                r#"{"file": "bin.1000000", "pos": 4}"#,
            ],
            &[
                r#"{"change_lsn": "00000027:00000ac0:0002"}"#,
                r#"{"change_lsn": "00000027:00000ac0:0002", "event_serial_no": 2}"#,
            ],
            &[r#"{"scn": "999"}"#, r#"{"scn": "1000"}"#],
            &[r#"{"ts_ms": 999}"#, r#"{"ts_ms": 1000}"#],
        ] {
            let versions: Vec<Version> =
                rising.iter().map(|source| Origin::of_json(source.as_bytes()).version().unwrap()).collect();
            assert!(versions.is_sorted_by(|one, other| one < other), "{rising:?}");
        }
        assert!(Origin::of_json(b"{}").version().is_err());
        let maxwell = [
            r#"{"ts": 5, "xid": 7, "xoffset": 0}"#,
            r#"{"ts": 5, "xid": 7, "commit": true}"#,
            r#"{"ts": 5, "xid": 8, "xoffset": 0}"#,
            r#"{"ts": 6}"#,
        ];
        let versions: Vec<Version> = maxwell.iter().map(|r| of_maxwell(r.as_bytes()).unwrap()).collect();
        assert!(versions.is_sorted_by(|one, other| one < other));
        let positions = [r#"{"position": "m.000006:800911", "ts": 9}"#, r#"{"position": "m.000010:4", "ts": 1}"#];
        let versions: Vec<Version> = positions.iter().map(|r| of_maxwell(r.as_bytes()).unwrap()).collect();
        assert!(versions[0] < versions[1]);
    }
}
