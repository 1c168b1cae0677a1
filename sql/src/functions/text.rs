//! Text as a value, by Postgres' input syntax.

use tidemark_common::{Error, Result, SqlState};

fn invalid(text: &str, sql_type: &str) -> Error {
    let message = format!("invalid input syntax for type {sql_type}: \"{text}\"");
    Error::new(SqlState::InvalidTextRepresentation, message)
}

fn out_of_range(text: &str, sql_type: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("value \"{text}\" is out of range for type {sql_type}"))
}

pub(super) fn integer(text: &str) -> Result<i64> {
    let trimmed = text.trim();
    trimmed.parse().map_err(|_| {
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if is_number { out_of_range(text, "bigint") } else { invalid(text, "integer") }
    })
}

pub(super) fn float(text: &str) -> Result<f64> {
    let trimmed = text.trim();
    let value: f64 = trimmed.parse().map_err(|_| invalid(text, "double precision"))?;
    // Only a word may be infinite.
    if value.is_infinite() && trimmed.bytes().any(|b| b.is_ascii_digit()) {
        return Err(Error::new(
            SqlState::NumericValueOutOfRange,
            format!("\"{text}\" is out of range for type double precision"),
        ));
    }
    Ok(value)
}

/// Any unambiguous beginning of the words.
pub(super) fn boolean(text: &str) -> Result<bool> {
    let word = text.trim().to_lowercase();
    let begins = |full: &str| !word.is_empty() && full.starts_with(&word);
    match word.as_str() {
        "1" | "on" => Ok(true),
        "0" | "of" | "off" => Ok(false),
        _ if begins("true") || begins("yes") => Ok(true),
        _ if begins("false") || begins("no") => Ok(false),
        _ => Err(invalid(text, "boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        assert_eq!(integer(" -7 ").unwrap(), -7);
        assert_eq!(integer("9223372036854775808").unwrap_err().code(), "22003");
        for text in ["", "x", "1.5", "-"] {
            assert_eq!(integer(text).unwrap_err().code(), "22P02", "{text}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(float(" .5e1").unwrap(), 5.0);
        assert_eq!(float("-Infinity").unwrap(), f64::NEG_INFINITY);
        assert_eq!(float("1e400").unwrap_err().code(), "22003");
        assert_eq!(float("x").unwrap_err().code(), "22P02");
    }

    #[test]
    fn booleans() {
        assert!(boolean(" Tr ").unwrap() && boolean("on").unwrap() && boolean("y").unwrap());
        assert!(!boolean("f").unwrap() && !boolean("off").unwrap() && !boolean("0").unwrap());
        for text in ["", "o", "maybe", "truely"] {
            assert_eq!(boolean(text).unwrap_err().code(), "22P02", "{text}");
        }
    }
}
