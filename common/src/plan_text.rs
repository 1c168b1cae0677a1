//! DataFusion's names of expressions in SQL's words: `count(Int64(1))` is `count(*)` to whoever reads EXPLAIN.

use bytes::BytesMut;
use datafusion::arrow::datatypes::IntervalMonthDayNano;

/// Types as DataFusion writes them before a literal: `Int64(1)`.
const LITERALS: &[&str] = &[
    "Boolean",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float16",
    "Float32",
    "Float64",
    "Utf8",
    "LargeUtf8",
    "Utf8View",
    "Decimal128",
    "Decimal256",
    "Date32",
    "TimestampMicrosecond",
    "IntervalMonthDayNano",
];

/// Types as DataFusion writes them in a cast: `CAST(a AS Int64)`.
const CASTS: &[(&str, &str)] = &[
    ("Boolean", "boolean"),
    ("Int16", "smallint"),
    ("Int32", "integer"),
    ("Int64", "bigint"),
    ("Float32", "real"),
    ("Float64", "double precision"),
    ("Utf8", "text"),
    ("Utf8View", "text"),
    ("Date32", "date"),
    ("Decimal128", "numeric"),
    ("Decimal256", "numeric"),
    ("Timestamp(Microsecond, None)", "timestamp"),
    ("Timestamp(µs)", "timestamp"),
];

pub fn readable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !in_word && let Some((literal, after)) = literal(rest).or_else(|| bare_interval(rest)) {
            out.push_str(&literal);
            rest = after;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    for (theirs, ours) in CASTS {
        out = out.replace(&format!(" AS {theirs})"), &format!(" AS {ours})"));
        out = out.replace(&format!(" AS {theirs}("), &format!(" AS {ours}("));
    }
    out.replace("count(1)", "count(*)").replace(" ASC NULLS LAST", "").replace(" DESC NULLS FIRST", " DESC")
}

/// An interval that stands in no parentheses, as in `ts + IntervalMonthDayNano { .. }`.
fn bare_interval(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix("IntervalMonthDayNano {")?;
    let end = inside.find('}')?;
    Some((format!("'{}'", interval(&inside[..end])?), &inside[end + 1..]))
}

/// The literal that the text begins with, in SQL, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let (name, inside) = text.split_once('(')?;
    LITERALS.contains(&name).then_some(())?;
    let end = closing(inside)?;
    let (value, after) = (&inside[..end], &inside[end + 1..]);
    let shown = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(value) if name.starts_with("Interval") => format!("'{}'", interval(value)?),
        Some(string) => format!("'{}'", string.replace('\'', "''")),
        None if name.starts_with("Decimal") => decimal(value)?,
        None if value == "NULL" || name.starts_with(['B', 'I', 'U', 'F']) => value.into(),
        None => format!("'{value}'"),
    };
    Some((shown, after))
}

/// Where the parenthesis closes that has been opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return Some(at),
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 }` is 1 day.
fn interval(text: &str) -> Option<String> {
    let number = |name: &str| -> Option<&str> {
        let value = text.split_once(&format!("{name}: "))?.1;
        value.split(|c: char| !c.is_ascii_digit() && c != '-').next()
    };
    let (months, days, nanos) = (number("months")?, number("days")?, number("nanoseconds")?);
    let value = IntervalMonthDayNano::new(months.parse().ok()?, days.parse().ok()?, nanos.parse().ok()?);
    let mut out = BytesMut::new();
    crate::values::interval::write(value, &mut out);
    String::from_utf8(out.to_vec()).ok()
}

/// `Some(650),10,2` is 6.50.
fn decimal(text: &str) -> Option<String> {
    let mut parts = text.rsplitn(3, ',');
    let scale: usize = parts.next()?.trim().parse().ok()?;
    let _precision = parts.next()?;
    let unscaled = parts.next()?.strip_prefix("Some(")?.strip_suffix(')')?;
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_sql_words() {
        for (theirs, ours) in [
            ("count(Int64(1))", "count(*)"),
            ("orders.id > Int32(-1)", "orders.id > -1"),
            ("string_agg(name,Utf8(\", (it's)\"))", "string_agg(name,', (it''s)')"),
            ("amount * Decimal128(Some(650),10,2)", "amount * 6.50"),
            ("amount < Decimal128(Some(-5),10,2)", "amount < -0.05"),
            ("CAST(id AS Int64) + CAST(x AS Decimal128(10, 2))", "CAST(id AS bigint) + CAST(x AS numeric(10, 2))"),
            (
                "f(a,IntervalMonthDayNano(\"IntervalMonthDayNano { months: 1, days: 0, nanoseconds: -300000000000 }\"))",
                "f(a,'1 mon -00:05:00')",
            ),
            ("ts + IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 } > x", "ts + '1 day' > x"),
            ("a IS DISTINCT FROM Int64(NULL)", "a IS DISTINCT FROM NULL"),
            ("array_agg(a) ORDER BY [a ASC NULLS LAST]", "array_agg(a) ORDER BY [a]"),
            ("toInt64(1)", "toInt64(1)"),
            ("Int64(unclosed", "Int64(unclosed"),
        ] {
            assert_eq!(readable(theirs), ours);
        }
    }
}
