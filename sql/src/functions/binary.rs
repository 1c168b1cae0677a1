//! `bytea`: encodings, bytes and bits.

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::declare::{Kind, function};
use super::strings::slice;
use super::value::Value;

use Kind::{Bytea, Int4, Int8, Text};

pub const BYTEA_CONCAT: &str = "tidemark_bytea_concat";

pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![
        function("encode").on(&[Bytea, Text], Text, |r| encode(r.bytes(0), r.text(1))).udf(),
        function("decode").on(&[Text, Text], Bytea, |r| decode(r.text(0), r.text(1))).udf(),
        function("get_byte")
            .on(&[Bytea, Int4], Int4, |r| Ok(Value::Int(r.bytes(0)[index(r.int(1), r.bytes(0).len())?].into())))
            .udf(),
        function("set_byte")
            .on(&[Bytea, Int4, Int4], Bytea, |r| {
                let mut bytes = r.bytes(0).to_vec();
                let at = index(r.int(1), bytes.len())?;
                bytes[at] = r.int(2) as u8;
                Ok(bytes.into())
            })
            .udf(),
        function("get_bit")
            .on(&[Bytea, Int8], Int4, |r| {
                let at = index(r.int(1), r.bytes(0).len() * 8)?;
                Ok(Value::Int((r.bytes(0)[at / 8] >> (at % 8) & 1).into()))
            })
            .udf(),
        function("set_bit")
            .on(&[Bytea, Int8, Int4], Bytea, |r| {
                let mut bytes = r.bytes(0).to_vec();
                let at = index(r.int(1), bytes.len() * 8)?;
                match r.int(2) {
                    0 => bytes[at / 8] &= !(1 << (at % 8)),
                    1 => bytes[at / 8] |= 1 << (at % 8),
                    _ => return Err(Error::invalid("new bit must be 0 or 1")),
                }
                Ok(bytes.into())
            })
            .udf(),
        function("bit_count")
            .on(&[Bytea], Int8, |r| Ok(Value::Int(r.bytes(0).iter().map(|b| i64::from(b.count_ones())).sum())))
            .udf(),
        function("convert_from")
            .on(&[Bytea, Text], Text, |r| convert_from(r.bytes(0), r.text(1)))
            .on(&[Text, Text], Text, |r| convert_from(&parse_bytea(r.text(0))?, r.text(1)))
            .udf(),
        function("convert_to")
            .on(&[Text, Text], Bytea, |r| {
                require_utf8(r.text(1))?;
                Ok(r.text(0).as_bytes().to_vec().into())
            })
            .udf(),
        function("length")
            .alias("char_length")
            .alias("character_length")
            .on(&[Text], Int4, |r| {
                // A char's blanks are padding, not value.
                let padded = matches!(r.any(0).2, SqlType::Char(_));
                let text = if padded { r.text(0).trim_end_matches(' ') } else { r.text(0) };
                Ok(Value::count(text.chars().count()))
            })
            .on(&[Bytea], Int4, |r| Ok(Value::count(r.bytes(0).len())))
            .udf(),
        function("octet_length")
            .on(&[Text], Int4, |r| Ok(Value::count(r.text(0).len())))
            .on(&[Bytea], Int4, |r| Ok(Value::count(r.bytes(0).len())))
            .udf(),
        function("bit_length")
            .on(&[Text], Int4, |r| Ok(Value::count(r.text(0).len() * 8)))
            .on(&[Bytea], Int4, |r| Ok(Value::count(r.bytes(0).len() * 8)))
            .udf(),
        function(BYTEA_CONCAT).on(&[Bytea, Bytea], Bytea, |r| Ok([r.bytes(0), r.bytes(1)].concat().into())).udf(),
    ]
}

pub(super) fn substring(bytes: &[u8], start: i64, length: Option<i64>) -> Result<Value> {
    let (skip, take) = slice(start, length)?;
    Ok(bytes.iter().skip(skip).take(take).copied().collect::<Vec<u8>>().into())
}

fn index(at: i64, length: usize) -> Result<usize> {
    usize::try_from(at).ok().filter(|i| *i < length).ok_or_else(|| {
        let last = length as i64 - 1;
        Error::new(SqlState::DataException, format!("index {at} out of valid range, 0..{last}"))
    })
}

fn unknown_encoding(name: &str) -> Error {
    Error::invalid(format!("unrecognized encoding: \"{name}\"")).with_hint("Known are hex, base64 and escape.")
}

fn encode(bytes: &[u8], encoding: &str) -> Result<Value> {
    Ok(match encoding.to_ascii_lowercase().as_str() {
        "hex" => super::output::bytea(bytes)[2..].into(),
        "base64" => base64(bytes).into(),
        "escape" => escape(bytes).into(),
        _ => return Err(unknown_encoding(encoding)),
    })
}

fn decode(text: &str, encoding: &str) -> Result<Value> {
    Ok(match encoding.to_ascii_lowercase().as_str() {
        "hex" => parse_hex(text)?.into(),
        "base64" => parse_base64(text)?.into(),
        "escape" => parse_escape(text)?.into(),
        _ => return Err(unknown_encoding(encoding)),
    })
}

/// Postgres' input of `bytea`: `\x` and hex digits, or escapes.
pub fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(hex) => parse_hex(hex),
        None => parse_escape(text),
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let mut digits = Vec::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
        let digit = c.to_digit(16).ok_or_else(|| Error::invalid(format!("invalid hexadecimal digit: \"{c}\"")))?;
        digits.push(digit as u8);
    }
    if digits.len() % 2 == 1 {
        return Err(Error::invalid("invalid hexadecimal data: odd number of digits"));
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Printable ASCII as it is, a backslash doubled, NUL and what is above 127 in three octal digits.
fn escape(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| match b {
            b'\\' => "\\\\".to_string(),
            0 | 0x80.. => format!("\\{b:03o}"),
            b => char::from(*b).to_string(),
        })
        .collect()
}

fn parse_escape(text: &str) -> Result<Vec<u8>> {
    let invalid = || Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type bytea");
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        match rest {
            [b'\\', tail @ ..] => {
                out.push(b'\\');
                rest = tail;
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => return Err(invalid()),
        }
    }
    Ok(out)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Postgres breaks base64 after 76 characters.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 4);
    for (i, chunk) in bytes.chunks(3).enumerate() {
        if i > 0 && i % 19 == 0 {
            out.push('\n');
        }
        let group = chunk.iter().fold(0u32, |g, b| g << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for k in 0..4 {
            let digit = (group >> (18 - 6 * k) & 63) as usize;
            out.push(if k <= chunk.len() { char::from(BASE64[digit]) } else { '=' });
        }
    }
    out
}

fn parse_base64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut group, mut digits, mut padding) = (0u32, 0, 0);
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace()) {
        match BASE64.iter().position(|b| *b == c) {
            Some(digit) if padding == 0 => group = group << 6 | digit as u32,
            None if c == b'=' && digits >= 2 => {
                padding += 1;
                group <<= 6;
            }
            _ => {
                let symbol = char::from(c);
                return Err(Error::invalid(format!(
                    "invalid symbol \"{symbol}\" found while decoding base64 sequence"
                )));
            }
        }
        digits += 1;
        if digits == 4 {
            out.extend_from_slice(&group.to_be_bytes()[1..4 - padding]);
            (group, digits) = (0, 0);
        }
    }
    if digits != 0 {
        return Err(Error::invalid("invalid base64 end sequence")
            .with_hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
    }
    Ok(out)
}

fn require_utf8(encoding: &str) -> Result<()> {
    match encoding.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "utf8" | "unicode" | "sqlascii" => Ok(()),
        _ => Err(Error::unsupported(format!("encoding \"{encoding}\" is not supported")).with_hint("Use UTF8.")),
    }
}

fn convert_from(bytes: &[u8], encoding: &str) -> Result<Value> {
    require_utf8(encoding)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(Error::new(SqlState::DataException, "invalid byte sequence for encoding \"UTF8\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_inverse_of_their_decodings() {
        for length in 0..70usize {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37 + length) as u8).collect();
            assert_eq!(parse_base64(&base64(&bytes)).unwrap(), bytes);
            assert_eq!(parse_bytea(&super::super::output::bytea(&bytes)).unwrap(), bytes);
        }
        assert_eq!(parse_escape("a\\\\\\001").unwrap(), b"a\\\x01");
        for bad in ["a", "ab=c", "a===", "é"] {
            assert!(parse_base64(bad).is_err(), "{bad}");
        }
    }
}
