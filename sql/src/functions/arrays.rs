//! Arrays as Postgres has them: bounds, and the text form `{a,"b c",NULL}`.

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;
use datafusion::functions_nested::remove::array_remove_all_udf;
use datafusion::functions_nested::replace::array_replace_all_udf;
use datafusion::logical_expr::ScalarUDF;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::clock::Clock;
use super::declare::{Kind, Row, function};
use super::output::text_of;
use super::value::Value;

use Kind::{AnyArray, Int4, Text};

pub(super) fn functions() -> Vec<ScalarUDF> {
    let length = |row: &Row<'_>| Ok(length_of(row.list(0), row.int(1)).into());
    // Postgres removes and replaces every occurrence.
    let every = [
        array_remove_all_udf().as_ref().clone().with_aliases(["array_remove"]),
        array_replace_all_udf().as_ref().clone().with_aliases(["array_replace"]),
    ];
    let mut all = vec![
        function("array_lower")
            .on(&[AnyArray, Int4], Int4, |row| Ok(length_of(row.list(0), row.int(1)).map(|_| 1i64).into()))
            .udf(),
        function("array_upper").on(&[AnyArray, Int4], Int4, length).udf(),
        function("array_length").alias("list_length").on(&[AnyArray, Int4], Int4, length).udf(),
        function("array_ndims")
            .alias("list_ndims")
            .on(&[AnyArray], Int4, |row| Ok(dimensions(row.list(0)).map(|d| d.len() as i64).into()))
            .udf(),
        function("array_dims")
            .alias("list_dims")
            .on(&[AnyArray], Text, |row| {
                let bounds = |d: Vec<usize>| d.iter().map(|n| format!("[1:{n}]")).collect::<String>();
                Ok(dimensions(row.list(0)).map(bounds).into())
            })
            .udf(),
        function("cardinality")
            .on(&[AnyArray], Int4, |row| Ok(Value::count(dimensions(row.list(0)).map_or(0, |d| d.iter().product()))))
            .udf(),
        function("array_to_string")
            .alias("array_join")
            .alias("list_to_string")
            .on(&[AnyArray, Text], Text, |row| joined(row, None))
            .on_nulls(&[AnyArray, Text, Text], None, Text, |row| {
                if row.is_null(0) || row.is_null(1) {
                    return Ok(Value::Null);
                }
                joined(row, (!row.is_null(2)).then(|| row.text(2)))
            })
            .udf(),
        function("string_to_array")
            .alias("string_to_list")
            .on_nulls(&[Text, Text], None, Kind::Texts, split)
            .on_nulls(&[Text, Text, Text], None, Kind::Texts, split)
            .udf(),
    ];
    all.extend(every);
    all
}

/// The length of each dimension; `None` for an empty array, which has none in Postgres.
fn dimensions(items: ArrayRef) -> Option<Vec<usize>> {
    if items.is_empty() {
        return None;
    }
    let mut lengths = vec![items.len()];
    let mut inner = items;
    while let DataType::List(_) = inner.data_type() {
        let lists: &datafusion::arrow::array::ListArray = inner.as_any().downcast_ref()?;
        inner = lists.value(0);
        lengths.push(inner.len());
    }
    Some(lengths)
}

fn length_of(items: ArrayRef, dimension: i64) -> Option<i64> {
    let index = usize::try_from(dimension.checked_sub(1)?).ok()?;
    dimensions(items)?.get(index).map(|n| *n as i64)
}

fn joined(row: &Row<'_>, null: Option<&str>) -> Result<Value> {
    let mut parts = Vec::new();
    collect_texts(&row.list(0), null, row.clock(), &mut parts)?;
    Ok(parts.join(row.text(1)).into())
}

fn collect_texts(items: &ArrayRef, null: Option<&str>, clock: &Clock, parts: &mut Vec<String>) -> Result<()> {
    if let Some(lists) = items.as_any().downcast_ref::<datafusion::arrow::array::ListArray>() {
        for inner in lists.iter().flatten() {
            collect_texts(&inner, null, clock, parts)?;
        }
        return Ok(());
    }
    let item_type = SqlType::from_data_type(items.data_type());
    for i in 0..items.len() {
        match text_of(items, i, &item_type, clock)? {
            Some(text) => parts.push(text),
            None => parts.extend(null.map(str::to_string)),
        }
    }
    Ok(())
}

fn split(row: &Row<'_>) -> Result<Value> {
    if row.is_null(0) {
        return Ok(Value::Null);
    }
    let text = row.text(0);
    let parts: Vec<String> = if text.is_empty() {
        Vec::new()
    } else if row.is_null(1) {
        text.chars().map(String::from).collect()
    } else if row.text(1).is_empty() {
        vec![text.to_string()]
    } else {
        text.split(row.text(1)).map(str::to_string).collect()
    };
    let null = (row.len() > 2 && !row.is_null(2)).then(|| row.text(2));
    Ok(parts.into_iter().map(|p| if Some(p.as_str()) == null { None } else { Some(p) }).collect::<Vec<_>>().into())
}

/// Reads a one-dimensional `{a,"b c",NULL}`.
pub fn parse_text_array(text: &str) -> Result<Vec<Option<String>>> {
    let malformed = || {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: \"{text}\""))
            .with_detail("An array literal is written {a,b}, an item with blanks or commas in double quotes.")
    };
    let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(malformed)?;
    let mut items = Vec::new();
    if body.trim().is_empty() {
        return Ok(items);
    }
    let mut chars = body.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut item = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        loop {
            match chars.peek().copied() {
                None if quoted => return Err(malformed()),
                Some('"') if quoted => {
                    chars.next();
                    while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                    break;
                }
                None => break,
                Some(',') if !quoted => break,
                Some('{' | '}' | '"') if !quoted => return Err(malformed()),
                Some('\\') => {
                    chars.next();
                    item.push(chars.next().ok_or_else(malformed)?);
                }
                Some(c) => {
                    item.push(c);
                    chars.next();
                }
            }
        }
        let plain = if quoted { item } else { item.trim_end().to_string() };
        match plain {
            plain if quoted => items.push(Some(plain)),
            plain if plain.is_empty() => return Err(malformed()),
            plain if plain.eq_ignore_ascii_case("null") => items.push(None),
            plain => items.push(Some(plain)),
        }
        match chars.next() {
            None => return Ok(items),
            Some(',') => {}
            Some(_) => return Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_literals() {
        let some = |s: &str| Some(s.to_string());
        assert_eq!(
            parse_text_array("{a, \"b, c\" ,NULL,\"null\",\\,}").unwrap(),
            [some("a"), some("b, c"), None, some("null"), some(",")]
        );
        assert_eq!(parse_text_array(" { } ").unwrap(), []);
        for bad in ["", "a", "{a", "{a,}", "{\"a}", "{\"a\"b}", "{{a}}"] {
            assert!(parse_text_array(bad).is_err(), "{bad}");
        }
    }
}
