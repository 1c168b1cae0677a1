//! Making and changing JSON: `json_build_object`, `to_json`, `||`, `-`, `jsonb_set`.

use std::borrow::Cow;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::arrays::parse_text_array;
use super::clock::Clock;
use super::declare::{Kind, Row, function};
use super::json::{Json, parse, quote, sort_members, to_jsonb};
use super::output::text_of;
use super::value::Value;

use Kind::{Any, AnyArray, Bool, Int8, Json as JsonKind, Jsonb, Text, Texts};

pub const JSONB_CONCAT: &str = "jsonb_concat";
pub const JSONB_DELETE: &str = "jsonb_delete";
pub const JSONB_DELETE_PATH: &str = "jsonb_delete_path";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut all = making();
    all.extend(changing());
    all
}

/// Text made here is `json`; the `jsonb` functions bring it into canonical form.
fn finish(text: String, kind: Kind) -> Result<Value> {
    Ok(if kind == Jsonb { to_jsonb(&text)? } else { text }.into())
}

fn making() -> Vec<ScalarUDF> {
    let object =
        |name, kind| function(name).on_nulls(&[], Some(Any), kind, move |r| finish(build_object(r)?, kind)).udf();
    let array = |name, kind| {
        function(name)
            .on_nulls(&[], Some(Any), kind, move |r| {
                let items = (0..r.len()).map(|i| argument(r, i)).collect::<Result<Vec<_>>>()?;
                finish(format!("[{}]", items.join(", ")), kind)
            })
            .udf()
    };
    let of_value = |name, kind| function(name).on(&[Any], kind, move |r| finish(argument(r, 0)?, kind)).udf();
    let of_texts = |name, kind| {
        function(name)
            .on(&[Texts], kind, move |r| finish(object_of_texts(&r.texts(0))?, kind))
            .on(&[Text], kind, move |r| finish(object_of_texts(&parse_text_array(r.text(0))?)?, kind))
            .udf()
    };
    vec![
        object("json_build_object", JsonKind),
        object("jsonb_build_object", Jsonb),
        array("json_build_array", JsonKind),
        array("jsonb_build_array", Jsonb),
        of_value("to_json", JsonKind),
        of_value("to_jsonb", Jsonb),
        of_value("row_to_json", JsonKind),
        function("array_to_json").on(&[AnyArray], JsonKind, |r| Ok(argument(r, 0)?.into())).udf(),
        of_texts("json_object", JsonKind),
        of_texts("jsonb_object", Jsonb),
    ]
}

fn argument(row: &Row<'_>, i: usize) -> Result<String> {
    let (array, at, sql_type) = row.any(i);
    let mut out = String::new();
    write_json(array, at, sql_type, row.clock(), &mut out)?;
    Ok(out)
}

fn build_object(row: &Row<'_>) -> Result<String> {
    if row.len() % 2 == 1 {
        return Err(Error::invalid("argument list must have even number of elements")
            .with_hint("The arguments must consist of alternating keys and values."));
    }
    let mut members = Vec::new();
    for i in (0..row.len()).step_by(2) {
        let (array, at, sql_type) = row.any(i);
        if array.is_null(at) {
            return Err(Error::invalid(format!("argument {}: key must not be null", i + 1)));
        }
        let mut member = String::new();
        write_key(array, at, sql_type, row.clock(), &mut member)?;
        member.push_str(" : ");
        member.push_str(&argument(row, i + 1)?);
        members.push(member);
    }
    Ok(format!("{{{}}}", members.join(", ")))
}

fn object_of_texts(texts: &[Option<String>]) -> Result<String> {
    if texts.len() % 2 == 1 {
        return Err(Error::invalid("array must have even number of elements"));
    }
    let mut members = Vec::new();
    for pair in texts.chunks(2) {
        let key = pair[0].as_deref().ok_or_else(|| Error::invalid("null value not allowed for object key"))?;
        let mut member = String::new();
        quote(key, &mut member);
        member.push_str(" : ");
        match &pair[1] {
            Some(text) => quote(text, &mut member),
            None => member.push_str("null"),
        }
        members.push(member);
    }
    Ok(format!("{{{}}}", members.join(", ")))
}

/// A value as the name of a member: what it is as JSON, in quotes. It is not NULL.
pub(super) fn write_key(
    array: &dyn Array,
    row: usize,
    sql_type: &SqlType,
    clock: &Clock,
    out: &mut String,
) -> Result<()> {
    if matches!(sql_type, SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Struct(_)) {
        return Err(Error::invalid("key value must be scalar, not array, composite, or json"));
    }
    let mut json = String::new();
    write_json(array, row, sql_type, clock, &mut json)?;
    if json.starts_with('"') {
        out.push_str(&json)
    } else {
        quote(&json, out)
    }
    Ok(())
}

/// A value of any type as JSON, as `to_json` does it.
pub(super) fn write_json(
    array: &dyn Array,
    row: usize,
    sql_type: &SqlType,
    clock: &Clock,
    out: &mut String,
) -> Result<()> {
    let Some(text) = text_of(array, row, sql_type, clock)? else {
        out.push_str("null");
        return Ok(());
    };
    match (sql_type, array.data_type()) {
        (SqlType::Json | SqlType::Jsonb, _) => out.push_str(&text),
        (_, DataType::Boolean) => out.push_str(if text == "t" { "true" } else { "false" }),
        (_, t) if t.is_numeric() && !text.ends_with(|c: char| c.is_ascii_alphabetic()) => out.push_str(&text),
        (SqlType::Timestamp | SqlType::TimestampTz, _) => {
            let text = text.replacen(' ', "T", 1);
            // An offset has its minutes here, `+02:00`.
            let minutes = text.rsplit(['+', '-']).next().is_some_and(|offset| offset.contains(':'));
            let zone = if *sql_type == SqlType::TimestampTz && !minutes { ":00" } else { "" };
            quote(&format!("{text}{zone}"), out);
        }
        (SqlType::Array(item), DataType::List(_)) => {
            let items = array.as_list::<i32>().value(row);
            out.push('[');
            for i in 0..items.len() {
                out.push_str(if i > 0 { "," } else { "" });
                write_json(&items, i, item, clock, out)?;
            }
            out.push(']');
        }
        (_, DataType::Struct(fields)) => {
            out.push('{');
            for (i, (column, field)) in array.as_struct().columns().iter().zip(fields).enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                quote(field.name(), out);
                out.push(':');
                write_json(column, row, &SqlType::from_field(field), clock, out)?;
            }
            out.push('}');
        }
        _ => quote(&text, out),
    }
    Ok(())
}

fn changing() -> Vec<ScalarUDF> {
    let pretty = |r: &Row<'_>| {
        let mut out = String::new();
        parse(r.text(0))?.canonical()?.pretty(0, &mut out);
        Ok(out.into())
    };
    let path = |r: &Row<'_>, i: usize| parse_text_array(r.text(i));
    vec![
        function(JSONB_CONCAT).on(&[Jsonb, Jsonb], Jsonb, |r| concat(r.text(0), r.text(1))).udf(),
        function(JSONB_DELETE)
            .on(&[Jsonb, Text], Jsonb, |r| delete_keys(r.text(0), &[Some(r.text(1).to_string())]))
            .on(&[Jsonb, Texts], Jsonb, |r| delete_keys(r.text(0), &r.texts(1)))
            .on(&[Jsonb, Int8], Jsonb, |r| delete_item(r.text(0), r.int(1)))
            .udf(),
        function(JSONB_DELETE_PATH)
            .on(&[Jsonb, Texts], Jsonb, |r| edit(r.text(0), &r.texts(1), &Edit::Delete))
            .on(&[Jsonb, Text], Jsonb, move |r| edit(r.text(0), &path(r, 1)?, &Edit::Delete))
            .udf(),
        jsonb_set("jsonb_set", |r| Edit::Set { value: r.text(2), create: r.len() < 4 || r.bool(3) }),
        jsonb_set("jsonb_insert", |r| Edit::Insert { value: r.text(2), after: r.len() > 3 && r.bool(3) }),
        function("jsonb_strip_nulls")
            .on(&[Jsonb], Jsonb, |r| Ok(strip_nulls(parse(r.text(0))?).to_string().into()))
            .udf(),
        function("json_strip_nulls")
            .on(&[JsonKind], JsonKind, |r| Ok(compact(&strip_nulls(parse(r.text(0))?)).into()))
            .udf(),
        function("jsonb_pretty").on(&[Jsonb], Text, pretty).udf(),
    ]
}

fn jsonb_set(name: &'static str, kind: for<'a> fn(&Row<'a>) -> Edit<'a>) -> ScalarUDF {
    let by_literal = move |r: &Row<'_>| edit(r.text(0), &parse_text_array(r.text(1))?, &kind(r));
    let by_array = move |r: &Row<'_>| edit(r.text(0), &r.texts(1), &kind(r));
    function(name)
        .on(&[Jsonb, Text, Jsonb], Jsonb, by_literal)
        .on(&[Jsonb, Text, Jsonb, Bool], Jsonb, by_literal)
        .on(&[Jsonb, Texts, Jsonb], Jsonb, by_array)
        .on(&[Jsonb, Texts, Jsonb, Bool], Jsonb, by_array)
        .udf()
}

fn done(value: Json<'_>) -> Result<Value> {
    Ok(value.canonical()?.to_string().into())
}

fn concat(left: &str, right: &str) -> Result<Value> {
    done(match (parse(left)?, parse(right)?) {
        (Json::Object(mut left), Json::Object(right)) => {
            left.extend(right);
            Json::Object(sort_members(left))
        }
        (left, right) => {
            let items = |v| if let Json::Array(items) = v { items } else { vec![v] };
            let mut all = items(left);
            all.extend(items(right));
            Json::Array(all)
        }
    })
}

fn delete_keys(text: &str, keys: &[Option<String>]) -> Result<Value> {
    let gone = |key: &str| keys.iter().flatten().any(|k| k == key);
    done(match parse(text)? {
        Json::Object(members) => Json::Object(members.into_iter().filter(|(key, _)| !gone(key)).collect()),
        Json::Array(items) => {
            Json::Array(items.into_iter().filter(|item| !matches!(item, Json::String(s) if gone(s))).collect())
        }
        _ => return Err(Error::invalid("cannot delete from scalar")),
    })
}

fn delete_item(text: &str, index: i64) -> Result<Value> {
    done(match parse(text)? {
        Json::Array(mut items) => {
            if let Some(at) = position(index, items.len()) {
                items.remove(at);
            }
            Json::Array(items)
        }
        Json::Object(_) => return Err(Error::invalid("cannot delete from object using integer index")),
        _ => return Err(Error::invalid("cannot delete from scalar")),
    })
}

/// A negative index counts from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i64 } else { index };
    usize::try_from(index).ok().filter(|i| *i < length)
}

enum Edit<'a> {
    Delete,
    Set { value: &'a str, create: bool },
    Insert { value: &'a str, after: bool },
}

fn edit(text: &str, path: &[Option<String>], how: &Edit<'_>) -> Result<Value> {
    let mut value = parse(text)?.into_owned();
    if matches!(value, Json::Object(_) | Json::Array(_)) {
        edit_at(&mut value, path, how)?;
    } else {
        let what =
            if matches!(how, Edit::Delete) { "cannot delete path in scalar" } else { "cannot set path in scalar" };
        return Err(Error::invalid(what));
    }
    done(value)
}

fn edit_at(target: &mut Json<'static>, path: &[Option<String>], how: &Edit<'_>) -> Result<()> {
    let Some((Some(step), rest)) = path.split_first() else { return Ok(()) };
    match target {
        Json::Object(members) => edit_member(members, step, rest, how),
        Json::Array(items) => {
            let index: i64 = step
                .trim()
                .parse()
                .map_err(|_| Error::invalid(format!("path element is not an integer: \"{step}\"")))?;
            edit_item(items, index, rest, how)
        }
        _ => Ok(()),
    }
}

type Members = Vec<(Cow<'static, str>, Json<'static>)>;

fn edit_member(members: &mut Members, key: &str, rest: &[Option<String>], how: &Edit<'_>) -> Result<()> {
    let found = members.iter().rposition(|(name, _)| name == key);
    if let (Some(at), false) = (found, rest.is_empty()) {
        return edit_at(&mut members[at].1, rest, how);
    }
    if !rest.is_empty() {
        return Ok(());
    }
    let new = |value: &str| -> Result<_> { Ok((Cow::Owned(key.to_string()), parse(value)?.into_owned())) };
    match (how, found) {
        (Edit::Delete, Some(at)) => {
            members.remove(at);
        }
        (Edit::Set { value, .. }, Some(at)) => members[at] = new(value)?,
        (Edit::Set { value, create: true } | Edit::Insert { value, .. }, None) => members.push(new(value)?),
        (Edit::Insert { .. }, Some(_)) => {
            return Err(Error::invalid("cannot replace existing key")
                .with_hint("Try using the function jsonb_set to replace key value."));
        }
        _ => {}
    }
    Ok(())
}

fn edit_item(items: &mut Vec<Json<'static>>, index: i64, rest: &[Option<String>], how: &Edit<'_>) -> Result<()> {
    let found = position(index, items.len());
    if let (Some(at), false) = (found, rest.is_empty()) {
        return edit_at(&mut items[at], rest, how);
    }
    if !rest.is_empty() {
        return Ok(());
    }
    // Beyond an end, a new item goes to that end.
    let end = if index < 0 { 0 } else { items.len() };
    match (how, found) {
        (Edit::Delete, Some(at)) => {
            items.remove(at);
        }
        (Edit::Set { value, .. }, Some(at)) => items[at] = parse(value)?.into_owned(),
        (Edit::Set { value, create: true }, None) => items.insert(end, parse(value)?.into_owned()),
        (Edit::Insert { value, after }, at) => {
            let at = at.map_or(end, |at| at + usize::from(*after));
            items.insert(at, parse(value)?.into_owned());
        }
        _ => {}
    }
    Ok(())
}

fn strip_nulls(value: Json<'_>) -> Json<'_> {
    match value {
        Json::Object(members) => Json::Object(
            members.into_iter().filter(|(_, v)| *v != Json::Null).map(|(k, v)| (k, strip_nulls(v))).collect(),
        ),
        Json::Array(items) => Json::Array(items.into_iter().map(strip_nulls).collect()),
        other => other,
    }
}

/// Without any blanks, as the `json` functions print.
fn compact(value: &Json<'_>) -> String {
    let mut out = String::new();
    write_compact(value, &mut out);
    out
}

fn write_compact(value: &Json<'_>, out: &mut String) {
    match value {
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_compact(item, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                quote(key, out);
                out.push(':');
                write_compact(value, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
