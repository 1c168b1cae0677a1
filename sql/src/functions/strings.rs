//! Text: quoting, `format`, and the string functions that DataFusion lacks or does otherwise.

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::declare::{Kind, Row, function};
use super::output::text_of;
use super::value::Value;

use Kind::{Any, Int4, Int8, Text, Texts};

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut all = quoting();
    all.extend(pieces());
    all
}

fn quoting() -> Vec<ScalarUDF> {
    vec![
        function("quote_ident").on(&[Text], Text, |r| Ok(quote_ident(r.text(0)).into())).udf(),
        function("quote_literal").on(&[Any], Text, |r| Ok(any_text(r, 0)?.map(|t| quote_literal(&t)).into())).udf(),
        function("quote_nullable")
            .on_nulls(&[Any], None, Text, |r| {
                Ok(any_text(r, 0)?.map_or("NULL".to_string(), |t| quote_literal(&t)).into())
            })
            .udf(),
        function("format").on_nulls(&[Text], Some(Any), Text, format).udf(),
        function("unistr").on(&[Text], Text, |r| unistr(r.text(0)).map(Value::from)).udf(),
        function("parse_ident").on(&[Text], Texts, |r| parse_ident(r.text(0)).map(Value::from)).udf(),
        function("concat")
            .on_nulls(&[Any], Some(Any), Text, |r| {
                let parts = (0..r.len()).map(|i| any_text(r, i)).collect::<Result<Vec<_>>>()?;
                Ok(parts.into_iter().flatten().collect::<String>().into())
            })
            .udf(),
        function("concat_ws")
            .on_nulls(&[Text, Any], Some(Any), Text, |r| {
                if r.is_null(0) {
                    return Ok(Value::Null);
                }
                let parts = (1..r.len()).map(|i| any_text(r, i)).collect::<Result<Vec<_>>>()?;
                Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(r.text(0)).into())
            })
            .udf(),
    ]
}

fn pieces() -> Vec<ScalarUDF> {
    vec![
        function("left").on(&[Text, Int4], Text, |r| Ok(left(r.text(0), r.int(1)).into())).udf(),
        function("right").on(&[Text, Int4], Text, |r| Ok(right(r.text(0), r.int(1)).into())).udf(),
        function("split_part").on(&[Text, Text, Int4], Text, |r| split_part(r.text(0), r.text(1), r.int(2))).udf(),
        function("ascii").on(&[Text], Int4, |r| Ok(Value::Int(r.text(0).chars().next().map_or(0, |c| c as i64)))).udf(),
        function("chr").on(&[Int4], Text, |r| chr(r.int(0))).udf(),
        function("to_hex")
            .on(&[Int4], Text, |r| Ok(format!("{:x}", r.int4(0)?).into()))
            .on(&[Int8], Text, |r| Ok(format!("{:x}", r.int(0)).into()))
            .udf(),
        function("repeat").on(&[Text, Int4], Text, |r| repeat(r.text(0), r.int(1))).udf(),
        function("initcap").on(&[Text], Text, |r| Ok(initcap(r.text(0)).into())).udf(),
        function("lpad")
            .on(&[Text, Int4], Text, |r| pad(r.text(0), r.int(1), " ", true))
            .on(&[Text, Int4, Text], Text, |r| pad(r.text(0), r.int(1), r.text(2), true))
            .udf(),
        function("rpad")
            .on(&[Text, Int4], Text, |r| pad(r.text(0), r.int(1), " ", false))
            .on(&[Text, Int4, Text], Text, |r| pad(r.text(0), r.int(1), r.text(2), false))
            .udf(),
    ]
}

/// An argument of any type as text.
pub(super) fn any_text(row: &Row<'_>, i: usize) -> Result<Option<String>> {
    let (array, at, sql_type) = row.any(i);
    text_of(array, at, sql_type, row.clock())
}

/// Words that Postgres quotes when they are names.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// A name as SQL text: in quotes where it needs them.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && RESERVED.binary_search(&name).is_err();
    if plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A value as SQL text; an E string where there are backslashes.
pub fn quote_literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn left(text: &str, n: i64) -> String {
    let count = text.chars().count() as i64;
    let keep = if n < 0 { (count + n).max(0) } else { n };
    text.chars().take(keep as usize).collect()
}

fn right(text: &str, n: i64) -> String {
    let count = text.chars().count() as i64;
    let skip = if n < 0 { n.saturating_neg() } else { (count - n).max(0) };
    text.chars().skip(skip as usize).collect()
}

/// Characters from `start` (1-based, may lie before the text), `length` of them.
pub(super) fn substring(text: &str, start: i64, length: Option<i64>) -> Result<Value> {
    let (skip, take) = slice(start, length)?;
    Ok(text.chars().skip(skip).take(take).collect::<String>().into())
}

/// How many to skip and to take for `substring`.
pub(super) fn slice(start: i64, length: Option<i64>) -> Result<(usize, usize)> {
    let end = match length {
        Some(n) if n < 0 => return Err(Error::new(SqlState::SubstringError, "negative substring length not allowed")),
        Some(n) => start.saturating_add(n),
        None => i64::MAX,
    };
    let from = start.max(1);
    Ok((from as usize - 1, end.saturating_sub(from).max(0) as usize))
}

fn split_part(text: &str, delimiter: &str, n: i64) -> Result<Value> {
    if n == 0 {
        return Err(Error::invalid("field position must not be zero"));
    }
    if delimiter.is_empty() {
        return Ok(if n == 1 || n == -1 { text } else { "" }.into());
    }
    let skip = n.unsigned_abs() as usize - 1;
    let part = if n > 0 {
        text.split(delimiter).nth(skip)
    } else {
        let parts: Vec<&str> = text.split(delimiter).collect();
        parts.len().checked_sub(skip + 1).map(|i| parts[i])
    };
    Ok(part.unwrap_or_default().into())
}

fn chr(code: i64) -> Result<Value> {
    let limit = |message: &str| Error::new(SqlState::ProgramLimitExceeded, message);
    match code {
        0 => Err(limit("null character not permitted")),
        code if code < 0 => Err(limit("character number must be positive")),
        code => u32::try_from(code)
            .ok()
            .and_then(char::from_u32)
            .map(|c| c.to_string().into())
            .ok_or_else(|| limit("requested character not valid for encoding: UTF8")),
    }
}

/// The longest text a function may make, as in Postgres.
const MAX_TEXT: usize = 1 << 30;

fn checked_length(bytes: Option<usize>) -> Result<()> {
    match bytes {
        Some(bytes) if bytes < MAX_TEXT => Ok(()),
        _ => Err(Error::new(SqlState::ProgramLimitExceeded, "requested length too large")),
    }
}

fn repeat(text: &str, n: i64) -> Result<Value> {
    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    checked_length(text.len().checked_mul(n))?;
    Ok(text.repeat(n).into())
}

fn pad(text: &str, length: i64, fill: &str, left: bool) -> Result<Value> {
    let length = length.max(0) as usize;
    let count = text.chars().count();
    if count >= length || fill.is_empty() {
        return Ok(text.chars().take(length).collect::<String>().into());
    }
    checked_length(length.checked_mul(4))?;
    let padding: String = fill.chars().cycle().take(length - count).collect();
    Ok(if left { padding + text } else { format!("{text}{padding}") }.into())
}

fn initcap(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    out
}

fn unistr(text: &str) -> Result<String> {
    let invalid = || {
        Error::new(SqlState::SyntaxError, "invalid Unicode escape")
            .with_hint("Unicode escapes must be \\XXXX, \\+XXXXXX, \\uXXXX, or \\UXXXXXXXX.")
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (prefix, digits) = match rest.as_bytes().first() {
            Some(b'\\') => {
                out.push('\\');
                rest = &rest[1..];
                continue;
            }
            Some(b'+') => (1, 6),
            Some(b'u') => (1, 4),
            Some(b'U') => (1, 8),
            _ => (0, 4),
        };
        let code = rest.get(prefix..prefix + digits).ok_or_else(invalid)?;
        let code = u32::from_str_radix(code, 16).map_err(|_| invalid())?;
        out.push(char::from_u32(code).ok_or_else(invalid)?);
        rest = &rest[prefix + digits..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The parts of a qualified name, folded as SQL folds them.
fn parse_ident(text: &str) -> Result<Vec<Option<String>>> {
    let invalid = || Error::invalid(format!("string is not a valid identifier: \"{text}\""));
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').filter(|end| *end > 0).ok_or_else(invalid)?;
            parts.push(Some(quoted[..end].to_string()));
            rest = quoted[end + 1..].trim_start();
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            let name = &rest[..end];
            if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                return Err(invalid());
            }
            parts.push(Some(name.to_lowercase()));
            rest = rest[end..].trim_start();
        }
        match rest.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => return Ok(parts),
            None => return Err(invalid()),
        }
    }
}

/// `format('%s %I %L', ..)`, with positions, widths and the `-` flag.
fn format(row: &Row<'_>) -> Result<Value> {
    if row.is_null(0) {
        return Ok(Value::Null);
    }
    let mut out = String::new();
    let mut chars = row.text(0).chars().peekable();
    let mut next_argument = 1;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let unfinished =
            || Error::invalid("unterminated format() type specifier").with_hint("For a single \"%\" use \"%%\".");
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<usize> {
            let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
            digits.parse().ok()
        };
        let mut position = None;
        let mut width = number(&mut chars);
        if width.is_some() && chars.next_if_eq(&'$').is_some() {
            position = width.take();
            if position == Some(0) {
                return Err(Error::invalid("format specifies argument 0, but arguments are numbered from 1"));
            }
        }
        let mut align_left = false;
        if width.is_none() {
            while chars.next_if_eq(&'-').is_some() {
                align_left = true;
            }
            if chars.next_if_eq(&'*').is_some() {
                let given = argument(row, next_argument)?.and_then(|w| w.parse::<i64>().ok()).unwrap_or(0);
                next_argument += 1;
                align_left |= given < 0;
                width = Some(given.unsigned_abs() as usize);
            } else {
                width = number(&mut chars);
            }
        }
        let specifier = chars.next().ok_or_else(unfinished)?;
        let index = position.unwrap_or(next_argument);
        next_argument = index + 1;
        let text = match specifier {
            's' => argument(row, index)?.unwrap_or_default(),
            'I' => match argument(row, index)? {
                Some(name) => quote_ident(&name),
                None => {
                    return Err(Error::new(
                        SqlState::DataException,
                        "null values cannot be formatted as an SQL identifier",
                    ));
                }
            },
            'L' => argument(row, index)?.map_or("NULL".to_string(), |t| quote_literal(&t)),
            other => {
                return Err(Error::invalid(format!("unrecognized format() type specifier \"{other}\""))
                    .with_hint("For a single \"%\" use \"%%\"."));
            }
        };
        let blanks = width.unwrap_or(0).saturating_sub(text.chars().count());
        checked_length(out.len().checked_add(blanks))?;
        let blanks = " ".repeat(blanks);
        out.push_str(&if align_left { format!("{text}{blanks}") } else { format!("{blanks}{text}") });
    }
    Ok(out.into())
}

fn argument(row: &Row<'_>, index: usize) -> Result<Option<String>> {
    if index >= row.len() {
        return Err(Error::invalid("too few arguments for format()"));
    }
    any_text(row, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_words_are_sorted_for_the_search() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn names_are_quoted_when_they_must_be() {
        assert_eq!(quote_ident("a_1"), "a_1");
        for name in ["A", "1a", "select", "a b", "", "é"] {
            assert_eq!(quote_ident(name), format!("\"{name}\""));
        }
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
    }
}
