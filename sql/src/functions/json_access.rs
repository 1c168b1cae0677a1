//! Reading from JSON: the functions behind `->`, `->>`, `#>`, `#>>`, `@>`, `?` and their kin.

use std::borrow::Cow;
use std::ops::Range;

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result};

use super::arrays::parse_text_array;
use super::declare::{Kind, Row, function};
use super::json::{Json, Scanner, parse};
use super::value::Value;

use Kind::{Any, Bool, Int4, Int8, Json as JsonKind, Jsonb, SameJson, Text, Texts};

pub const JSON_GET: &str = "tidemark_json_get";
pub const JSON_GET_TEXT: &str = "tidemark_json_get_text";
pub const JSON_GET_PATH: &str = "tidemark_json_get_path";
pub const JSON_GET_PATH_TEXT: &str = "tidemark_json_get_path_text";
pub const JSONB_CONTAINS: &str = "tidemark_jsonb_contains";
pub const JSONB_EXISTS: &str = "jsonb_exists";
pub const JSONB_EXISTS_ANY: &str = "jsonb_exists_any";
pub const JSONB_EXISTS_ALL: &str = "jsonb_exists_all";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut all = vec![
        function(JSON_GET)
            .on(&[JsonKind, Text], SameJson, |r| Ok(verbatim(r.text(0), member(r.text(0), r.text(1))?)))
            .on(&[JsonKind, Int8], SameJson, |r| Ok(verbatim(r.text(0), item(r.text(0), r.int(1))?)))
            .udf(),
        function(JSON_GET_TEXT)
            .on(&[JsonKind, Text], Text, |r| as_text(r.text(0), member(r.text(0), r.text(1))?))
            .on(&[JsonKind, Int8], Text, |r| as_text(r.text(0), item(r.text(0), r.int(1))?))
            .udf(),
        function(JSON_GET_PATH)
            .on(&[JsonKind, Texts], SameJson, |r| Ok(verbatim(r.text(0), walk(r.text(0), &r.texts(1))?)))
            .on(&[JsonKind, Text], SameJson, |r| Ok(verbatim(r.text(0), walk(r.text(0), &path(r, 1)?)?)))
            .udf(),
        function(JSON_GET_PATH_TEXT)
            .on(&[JsonKind, Texts], Text, |r| as_text(r.text(0), walk(r.text(0), &r.texts(1))?))
            .on(&[JsonKind, Text], Text, |r| as_text(r.text(0), walk(r.text(0), &path(r, 1)?)?))
            .udf(),
        function(JSONB_CONTAINS)
            .on(&[Jsonb, Jsonb], Bool, |r| Ok(contains(&parse(r.text(0))?, &parse(r.text(1))?, true).into()))
            .udf(),
        function(JSONB_EXISTS).on(&[Jsonb, Text], Bool, |r| Ok(exists(&parse(r.text(0))?, r.text(1)).into())).udf(),
        function(JSONB_EXISTS_ANY)
            .on(&[Jsonb, Texts], Bool, |r| {
                let value = parse(r.text(0))?;
                Ok(r.texts(1).iter().flatten().any(|key| exists(&value, key)).into())
            })
            .udf(),
        function(JSONB_EXISTS_ALL)
            .on(&[Jsonb, Texts], Bool, |r| {
                let value = parse(r.text(0))?;
                Ok(r.texts(1).iter().flatten().all(|key| exists(&value, key)).into())
            })
            .udf(),
    ];
    all.extend(named());
    all
}

/// The functions that users call by name.
fn named() -> Vec<ScalarUDF> {
    let extract = |name: &'static str, result: Kind| {
        function(name)
            .on_nulls(&[JsonKind], Some(Any), result, move |r| {
                if (0..r.len()).any(|i| r.is_null(i)) {
                    return Ok(Value::Null);
                }
                let path = (1..r.len()).map(|i| text_argument(r, i)).collect::<Result<Vec<_>>>()?;
                let found = walk(r.text(0), &path)?;
                if result == Text { as_text(r.text(0), found) } else { Ok(verbatim(r.text(0), found)) }
            })
            .udf()
    };
    let type_of = |name| function(name).on(&[JsonKind], Text, |r| Ok(parse(r.text(0))?.type_name().into())).udf();
    let length = |name| function(name).on(&[JsonKind], Int4, |r| array_length(r.text(0))).udf();
    vec![
        extract("json_extract_path", JsonKind),
        extract("jsonb_extract_path", Jsonb),
        extract("json_extract_path_text", Text),
        extract("jsonb_extract_path_text", Text),
        type_of("json_typeof"),
        type_of("jsonb_typeof"),
        function("tidemark_json_elements").on(&[JsonKind], Texts, |r| elements(r.text(0), false)).udf(),
        function("tidemark_json_elements_text").on(&[JsonKind], Texts, |r| elements(r.text(0), true)).udf(),
        function("tidemark_json_keys").on(&[JsonKind], Texts, |r| Ok(entries(r.text(0), false)?.0.into())).udf(),
        function("tidemark_json_values").on(&[JsonKind], Texts, |r| Ok(entries(r.text(0), false)?.1.into())).udf(),
        function("tidemark_json_values_text").on(&[JsonKind], Texts, |r| Ok(entries(r.text(0), true)?.1.into())).udf(),
        length("json_array_length"),
        length("jsonb_array_length"),
    ]
}

fn text_argument(row: &Row<'_>, i: usize) -> Result<Option<String>> {
    let (array, at, sql_type) = row.any(i);
    super::output::text_of(array, at, sql_type, row.clock())
}

fn path(row: &Row<'_>, i: usize) -> Result<Vec<Option<String>>> {
    parse_text_array(row.text(i))
}

/// A part of `text` as json, or as the text that it holds.
fn part(text: &str, range: Range<usize>, as_plain: bool) -> Result<Option<String>> {
    match as_text(text, Some(range.clone()))? {
        Value::Text(plain) if as_plain => Ok(Some(plain)),
        Value::Null if as_plain => Ok(None),
        _ => Ok(Some(text[range].to_string())),
    }
}

/// The items of an array.
fn elements(text: &str, as_plain: bool) -> Result<Value> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'[') {
        return Err(Error::invalid("cannot extract elements from a value that is not an array"));
    }
    let mut found = Vec::new();
    scanner.items(0, |s, depth| {
        let range = s.skip(depth)?;
        found.push(part(text, range, as_plain)?);
        Ok(())
    })?;
    Ok(found.into())
}

type Values = Vec<Option<String>>;

/// Keys and values of an object.
fn entries(text: &str, as_plain: bool) -> Result<(Values, Values)> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'{') {
        return Err(Error::invalid("cannot take apart a value that is not an object"));
    }
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    scanner.members(0, |s, key, depth| {
        let range = s.skip(depth)?;
        keys.push(Some(key.into_owned()));
        values.push(part(text, range, as_plain)?);
        Ok(())
    })?;
    Ok((keys, values))
}

fn array_length(text: &str) -> Result<Value> {
    let mut scanner = Scanner::new(text);
    match scanner.peek() {
        Some(b'[') => {
            let mut n = 0;
            scanner.items(0, |s, depth| {
                n += 1;
                s.skip(depth).map(|_| ())
            })?;
            Ok(Value::Int(n))
        }
        Some(b'{') => Err(Error::invalid("cannot get array length of a non-array")),
        _ => Err(Error::invalid("cannot get array length of a scalar")),
    }
}

/// Where the member `key` of the object `text` stands; the last of several, as in Postgres.
fn member(text: &str, key: &str) -> Result<Option<Range<usize>>> {
    let mut scanner = Scanner::new(text);
    let mut found = None;
    if scanner.peek() == Some(b'{') {
        scanner.members(0, |s, name, depth| {
            let range = s.skip(depth)?;
            if name == key {
                found = Some(range);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Where item `index` of the array `text` stands; a negative one counts from the end.
fn item(text: &str, index: i64) -> Result<Option<Range<usize>>> {
    let mut scanner = Scanner::new(text);
    let mut items = Vec::new();
    if scanner.peek() == Some(b'[') {
        scanner.items(0, |s, depth| {
            items.push(s.skip(depth)?);
            Ok(())
        })?;
    }
    let index = if index < 0 { index + items.len() as i64 } else { index };
    Ok(usize::try_from(index).ok().and_then(|i| items.get(i).cloned()))
}

fn walk(text: &str, path: &[Option<String>]) -> Result<Option<Range<usize>>> {
    let mut scanner = Scanner::new(text);
    let mut at = scanner.skip(0)?;
    for step in path {
        let Some(step) = step else { return Ok(None) };
        let part = &text[at.clone()];
        let next = if part.starts_with('[') {
            match step.trim().parse() {
                Ok(index) => item(part, index)?,
                Err(_) => None,
            }
        } else {
            member(part, step)?
        };
        let Some(next) = next else { return Ok(None) };
        at = at.start + next.start..at.start + next.end;
    }
    Ok(Some(at))
}

fn verbatim(text: &str, range: Option<Range<usize>>) -> Value {
    range.map(|r| &text[r]).map_or(Value::Null, Value::from)
}

/// A string without its quotes, null as NULL, anything else as it stands.
fn as_text(text: &str, range: Option<Range<usize>>) -> Result<Value> {
    let Some(range) = range else { return Ok(Value::Null) };
    let part = &text[range];
    Ok(match part.as_bytes().first() {
        Some(b'"') => match parse(part)? {
            Json::String(text) => text.as_ref().into(),
            other => return Err(Error::internal(format!("{} in quotes", other.type_name()))),
        },
        Some(b'n') => Value::Null,
        _ => part.into(),
    })
}

/// Whether `right` is found in `left`: each member with its key, each item anywhere.
fn contains(left: &Json<'_>, right: &Json<'_>, top: bool) -> bool {
    match (left, right) {
        (Json::Object(left), Json::Object(right)) => {
            right.iter().all(|(key, value)| left.iter().any(|(name, held)| name == key && contains(held, value, false)))
        }
        (Json::Array(left), Json::Array(right)) => {
            right.iter().all(|item| left.iter().any(|held| contains(held, item, false)))
        }
        // Postgres' one exception: an array contains a bare scalar.
        (Json::Array(left), Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_)) if top => {
            left.iter().any(|held| contains(held, right, false))
        }
        (Json::Number(left), Json::Number(right)) => same_number(left, right),
        (left, right) => left == right,
    }
}

/// Canonical numbers that differ in trailing zeros only are equal.
fn same_number(left: &str, right: &str) -> bool {
    fn trim(n: &str) -> Cow<'_, str> {
        Cow::Borrowed(if n.contains('.') { n.trim_end_matches('0').trim_end_matches('.') } else { n })
    }
    trim(left) == trim(right)
}

fn exists(value: &Json<'_>, key: &str) -> bool {
    match value {
        Json::Object(members) => members.iter().any(|(name, _)| name == key),
        Json::Array(items) => items.iter().any(|item| matches!(item, Json::String(s) if s == key)),
        Json::String(s) => s == key,
        _ => false,
    }
}
