//! Regular expressions with Postgres' flags, over the `regex` crate: no backreferences in patterns, always linear time.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use regex::{Captures, Regex, RegexBuilder};
use tidemark_common::{Error, Result, SqlState};

use super::declare::{Kind, Row, function};
use super::value::Value;

use Kind::{Bool, Int4, Text, Texts};

/// Compiles `pattern` with Postgres' flags: i, c, s, n/m, p, w, x, q; `g` belongs to the caller.
pub(super) fn compile(pattern: &str, flags: &str) -> Result<Regex> {
    let escaped = if flags.contains('q') { regex::escape(pattern) } else { translate(pattern) };
    let mut builder = RegexBuilder::new(&escaped);
    // Postgres' dot matches a newline unless asked otherwise.
    builder.dot_matches_new_line(true);
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            'c' => builder.case_insensitive(false),
            'n' | 'm' => builder.multi_line(true).dot_matches_new_line(false),
            'p' => builder.dot_matches_new_line(false),
            'w' => builder.multi_line(true),
            's' => builder.multi_line(false).dot_matches_new_line(true),
            'x' => builder.ignore_whitespace(true),
            'g' | 'q' | 'e' | 't' => &mut builder,
            other => return Err(Error::invalid(format!("invalid regular expression option: \"{other}\""))),
        };
    }
    builder.build().map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
        Error::new(SqlState::InvalidRegularExpression, format!("invalid regular expression: {reason}"))
    })
}

/// Postgres' escapes that are spelled otherwise here: `\m`, `\M`, `\y`, `\Y`, `\Z`.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('m') => out.push_str("\\b{start}"),
            Some('M') => out.push_str("\\b{end}"),
            Some('y') => out.push_str("\\b"),
            Some('Y') => out.push_str("\\B"),
            Some('Z') => out.push_str("\\z"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![
        function("regexp_replace")
            .on(&[Text, Text, Text], Text, |r| replace(r, ""))
            .on(&[Text, Text, Text, Text], Text, |r| replace(r, r.text(3)))
            .udf(),
        function("regexp_match")
            .on(&[Text, Text], Texts, |r| first_match(r, ""))
            .on(&[Text, Text, Text], Texts, |r| first_match(r, r.text(2)))
            .udf(),
        // regexp_matches() opened up by unnest(), a row for each.
        function("tidemark_regexp_matches")
            .on(&[Text, Text], Kind::TextLists, |r| matches(r, ""))
            .on(&[Text, Text, Text], Kind::TextLists, |r| matches(r, r.text(2)))
            .udf(),
        function("regexp_split_to_array")
            .on(&[Text, Text], Texts, |r| split(r, ""))
            .on(&[Text, Text, Text], Texts, |r| split(r, r.text(2)))
            .udf(),
        function("regexp_like")
            .on(&[Text, Text], Bool, |r| Ok(r.regex(r.text(1), "")?.is_match(r.text(0)).into()))
            .on(&[Text, Text, Text], Bool, |r| Ok(r.regex(r.text(1), r.text(2))?.is_match(r.text(0)).into()))
            .udf(),
        function("regexp_count")
            .on(&[Text, Text], Int4, |r| count(r, 1, ""))
            .on(&[Text, Text, Int4], Int4, |r| count(r, r.int(2), ""))
            .on(&[Text, Text, Int4, Text], Int4, |r| count(r, r.int(2), r.text(3)))
            .udf(),
        regexp_substr(),
        regexp_instr(),
        function("substring")
            .on(&[Text, Text], Text, |r| {
                let regex = r.regex(r.text(1), "")?;
                let found = regex.captures(r.text(0)).and_then(|c| c.get(usize::from(regex.captures_len() > 1)));
                Ok(found.map(|m| m.as_str().to_string()).into())
            })
            .on(&[Text, Int4], Text, |r| super::strings::substring(r.text(0), r.int(1), None))
            .on(&[Text, Int4, Int4], Text, |r| super::strings::substring(r.text(0), r.int(1), Some(r.int(2))))
            .on(&[Kind::Bytea, Int4], Kind::Bytea, |r| super::binary::substring(r.bytes(0), r.int(1), None))
            .on(&[Kind::Bytea, Int4, Int4], Kind::Bytea, |r| {
                super::binary::substring(r.bytes(0), r.int(1), Some(r.int(2)))
            })
            .alias("substr")
            .udf(),
    ]
}

fn replace(row: &Row<'_>, flags: &str) -> Result<Value> {
    let regex = row.regex(row.text(1), flags)?;
    let replacement = row.text(2);
    let expand = |captures: &Captures<'_>| expand(replacement, captures);
    let text = row.text(0);
    let replaced = if flags.contains('g') { regex.replace_all(text, expand) } else { regex.replace(text, expand) };
    Ok(replaced.as_ref().into())
}

/// `\1` to `\9` are the groups, `\&` is the whole match, `\\` a backslash.
fn expand(replacement: &str, captures: &Captures<'_>) -> String {
    let mut out = String::new();
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let group = match chars.next() {
            Some('&') => Some(0),
            Some(d) if d.is_ascii_digit() && d != '0' => d.to_digit(10),
            Some('\\') | None => {
                out.push('\\');
                None
            }
            Some(other) => {
                out.extend(['\\', other]);
                None
            }
        };
        if let Some(group) = group {
            out.push_str(captures.get(group as usize).map_or("", |m| m.as_str()));
        }
    }
    out
}

/// The groups of the first match, or the whole match where there are none.
fn first_match(row: &Row<'_>, flags: &str) -> Result<Value> {
    if flags.contains('g') {
        return Err(Error::invalid("regexp_match() does not support the \"global\" option")
            .with_hint("Use the regexp_matches function instead."));
    }
    let regex: Arc<Regex> = row.regex(row.text(1), flags)?;
    Ok(regex.captures(row.text(0)).map(groups).into())
}

/// The groups of a match, or all of it where there are none.
fn groups(captures: Captures<'_>) -> Vec<Option<String>> {
    let skip = usize::from(captures.len() > 1);
    captures.iter().skip(skip).map(|m| m.map(|m| m.as_str().to_string())).collect()
}

/// The groups of the first match, or with flag g of all.
fn matches(row: &Row<'_>, flags: &str) -> Result<Value> {
    let regex = row.regex(row.text(1), flags)?;
    let most = if flags.contains('g') { usize::MAX } else { 1 };
    Ok(Value::TextLists(regex.captures_iter(row.text(0)).take(most).map(groups).collect()))
}

fn split(row: &Row<'_>, flags: &str) -> Result<Value> {
    let regex = row.regex(row.text(1), flags)?;
    let text = row.text(0);
    let mut parts = Vec::new();
    let mut from = 0;
    // An empty match at either end or right after a match splits nothing.
    for found in regex.find_iter(text).filter(|m| !m.is_empty() || (m.start() > 0 && m.start() < text.len())) {
        if found.is_empty() && found.start() == from {
            continue;
        }
        parts.push(Some(text[from..found.start()].to_string()));
        from = found.end();
    }
    parts.push(Some(text[from..].to_string()));
    Ok(parts.into())
}

/// The text from the character `start` on, counted from 1, and the bytes before it.
fn from_character(text: &str, start: i64) -> Result<(&str, usize)> {
    let skip = usize::try_from(start - 1)
        .map_err(|_| Error::invalid(format!("invalid value for parameter \"start\": {start}")))?;
    let at = text.char_indices().nth(skip).map_or(text.len(), |(at, _)| at);
    Ok((&text[at..], at))
}

fn count(row: &Row<'_>, start: i64, flags: &str) -> Result<Value> {
    let (text, _) = from_character(row.text(0), start)?;
    Ok(Value::count(row.regex(row.text(1), flags)?.find_iter(text).count()))
}

/// The byte range of group `group` of the `nth` match.
fn nth_match(row: &Row<'_>, start: i64, nth: i64, flags: &str, group: i64) -> Result<Option<std::ops::Range<usize>>> {
    let (text, before) = from_character(row.text(0), start)?;
    let bad = |name: &str, value: i64| Error::invalid(format!("invalid value for parameter \"{name}\": {value}"));
    let nth = usize::try_from(nth).ok().filter(|n| *n > 0).ok_or_else(|| bad("n", nth))?;
    let group = usize::try_from(group).map_err(|_| bad("subexpr", group))?;
    let regex = row.regex(row.text(1), flags)?;
    let found = regex.captures_iter(text).nth(nth - 1).and_then(|c| c.get(group).map(|m| m.range()));
    Ok(found.map(|r| r.start + before..r.end + before))
}

fn regexp_substr() -> ScalarUDF {
    let take = |r: &Row<'_>, start, nth, flags: &str, group| {
        Ok(nth_match(r, start, nth, flags, group)?.map(|range| r.text(0)[range].to_string()).into())
    };
    function("regexp_substr")
        .on(&[Text, Text], Text, move |r| take(r, 1, 1, "", 0))
        .on(&[Text, Text, Int4], Text, move |r| take(r, r.int(2), 1, "", 0))
        .on(&[Text, Text, Int4, Int4], Text, move |r| take(r, r.int(2), r.int(3), "", 0))
        .on(&[Text, Text, Int4, Int4, Text], Text, move |r| take(r, r.int(2), r.int(3), r.text(4), 0))
        .on(&[Text, Text, Int4, Int4, Text, Int4], Text, move |r| take(r, r.int(2), r.int(3), r.text(4), r.int(5)))
        .udf()
}

fn regexp_instr() -> ScalarUDF {
    // `end`: 0 for where the match begins, 1 for the character after it.
    let find = |r: &Row<'_>, start, nth, end: i64, flags: &str, group| {
        if !(0..=1).contains(&end) {
            return Err(Error::invalid(format!("invalid value for parameter \"endoption\": {end}")));
        }
        let at = nth_match(r, start, nth, flags, group)?.map(|range| if end == 0 { range.start } else { range.end });
        Ok(Value::count(at.map_or(0, |at| r.text(0)[..at].chars().count() + 1)))
    };
    function("regexp_instr")
        .on(&[Text, Text], Int4, move |r| find(r, 1, 1, 0, "", 0))
        .on(&[Text, Text, Int4], Int4, move |r| find(r, r.int(2), 1, 0, "", 0))
        .on(&[Text, Text, Int4, Int4], Int4, move |r| find(r, r.int(2), r.int(3), 0, "", 0))
        .on(&[Text, Text, Int4, Int4, Int4], Int4, move |r| find(r, r.int(2), r.int(3), r.int(4), "", 0))
        .on(&[Text, Text, Int4, Int4, Int4, Text], Int4, move |r| find(r, r.int(2), r.int(3), r.int(4), r.text(5), 0))
        .on(&[Text, Text, Int4, Int4, Int4, Text, Int4], Int4, move |r| {
            find(r, r.int(2), r.int(3), r.int(4), r.text(5), r.int(6))
        })
        .udf()
}
