//! Decimal numbers between text, Postgres' base-10000 binary form, and Arrow's scaled integers.

use crate::types::{NUMERIC_PRECISION, NUMERIC_SCALE, shown_scale};
use crate::{Error, Result, SqlState};
use bytes::{BufMut, BytesMut};
use datafusion::arrow::datatypes::i256;

use super::column::{DecimalForm, Zeros};

/// A decimal number as digits: value = digits * 10^exponent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub negative: bool,
    /// ASCII digits without leading zeros; empty is zero.
    pub digits: Vec<u8>,
    pub exponent: i32,
}

/// What data mostly holds, such as `-1234.56`, without a detour: at most 18 digits, not more of them after the point than
/// `scale`, nothing around them. `None`: [`Decimal::parse`] has to look.
pub(super) fn plain(text: &str, precision: u8, scale: i8) -> Option<i128> {
    const MOST_DIGITS: usize = 18;
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if digits.len() > MOST_DIGITS + 1 {
        return None;
    }
    let mut value = 0u64;
    let mut point = None;
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let count = digits.len() - usize::from(point.is_some());
    let fraction = point.map_or(0, |at| digits.len() - 1 - at);
    if !(1..=MOST_DIGITS).contains(&count) {
        return None;
    }
    let more = u32::try_from(i32::from(scale) - fraction as i32).ok()?;
    let value = i128::from(value).checked_mul(10i128.checked_pow(more)?)?;
    let fits = value < 10i128.checked_pow(precision.into())?;
    fits.then_some(if digits.len() < bytes.len() { -value } else { value })
}

/// Exponents beyond this are out of range for Postgres too.
const EXPONENT_LIMIT: i32 = 200_000;

impl Decimal {
    /// Postgres' syntax: `12`, `-1.5`, `.5`, `5.`, `1e-3`. `None`: not a number (or NaN, infinity).
    pub fn parse(text: &str) -> Option<Decimal> {
        let mut rest = text.trim_ascii().as_bytes();
        let negative = rest.first() == Some(&b'-');
        if matches!(rest.first(), Some(b'-' | b'+')) {
            rest = &rest[1..];
        }
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix(b".") {
            Some(after) => split_digits(after),
            None => (&[][..], after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut exponent = 0i32;
        if let [b'e' | b'E', after @ ..] = after {
            let written: i32 = std::str::from_utf8(after).ok()?.parse().ok()?;
            exponent = written.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT);
        } else if !after.is_empty() {
            return None;
        }
        let zeros = whole.iter().take_while(|d| **d == b'0').count();
        let mut digits = whole[zeros..].to_vec();
        let zeros = if digits.is_empty() { fraction.iter().take_while(|d| **d == b'0').count() } else { 0 };
        digits.extend_from_slice(&fraction[zeros..]);
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Decimal { negative, digits, exponent })
    }

    /// The digits at `scale`, rounded half away from zero as Postgres does; `None` if there are more than `precision`.
    fn at_scale(mut self, precision: u8, scale: i8) -> Option<String> {
        let shift = self.exponent + i32::from(scale);
        let count = self.digits.len() as i32;
        if self.digits.is_empty() || count + shift < 0 {
            return Some("0".into());
        }
        if count + shift > i32::from(precision) + 1 {
            return None;
        }
        if shift >= 0 {
            self.digits.resize((count + shift) as usize, b'0');
        } else {
            let kept = (count + shift) as usize;
            let up = self.digits[kept] >= b'5';
            self.digits.truncate(kept);
            if up {
                add_one(&mut self.digits);
            }
        }
        if self.digits.len() > usize::from(precision) {
            return None;
        }
        if self.digits.is_empty() {
            return Some("0".into());
        }
        let digits = std::str::from_utf8(&self.digits).expect("only ASCII digits are put there");
        Some(if self.negative { format!("-{digits}") } else { digits.to_string() })
    }
}

fn split_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().take_while(|b| b.is_ascii_digit()).count())
}

fn add_one(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
}

/// The scaled integer of a numeric(p, s) column, as text that both widths can read.
fn unscaled(decimal: Decimal, precision: u8, scale: i8, unconstrained: bool) -> Result<String> {
    decimal.at_scale(precision, scale).ok_or_else(|| {
        let error = Error::new(SqlState::NumericValueOutOfRange, "numeric field overflow");
        if unconstrained {
            let whole = i32::from(NUMERIC_PRECISION) - i32::from(NUMERIC_SCALE);
            return error
                .with_detail(format!(
                    "A numeric without precision holds {whole} digits before and {NUMERIC_SCALE} after the decimal point."
                ))
                .with_hint("Declare the column as numeric(precision, scale), up to numeric(76, scale).");
        }
        let whole = i32::from(precision) - i32::from(scale);
        let bound = if whole == 0 { "1".to_string() } else { format!("10^{whole}") };
        error.with_detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
        ))
    })
}

/// The number; an error if it is to be `exact` and has more than `scale` digits after the point.
pub(super) fn checked(decimal: Decimal, scale: i8, exact: bool) -> Result<Decimal> {
    let zeros = decimal.digits.iter().rev().take_while(|d| **d == b'0').count() as i32;
    if exact && !decimal.digits.is_empty() && decimal.exponent + zeros < -i32::from(scale) {
        return Err(Error::new(
            SqlState::NumericValueOutOfRange,
            format!("a numeric has more than {scale} digits after the point"),
        ));
    }
    Ok(decimal)
}

pub(super) fn to_i128(decimal: Decimal, precision: u8, scale: i8, unconstrained: bool) -> Result<i128> {
    let text = unscaled(decimal, precision, scale, unconstrained)?;
    text.parse().map_err(|_| Error::internal(format!("{text} does not fit 128 bits")))
}

pub(super) fn to_i256(decimal: Decimal, precision: u8, scale: i8) -> Result<i256> {
    let text = unscaled(decimal, precision, scale, false)?;
    i256::from_string(&text).ok_or_else(|| Error::internal(format!("{text} does not fit 256 bits")))
}

/// Sign, digits before the point (none for zero) and digits after it, as they are shown.
struct Shown<'a> {
    negative: bool,
    whole: &'a [u8],
    /// Zeros that belong to the value but are not in `whole`: a negative scale.
    whole_zeros: usize,
    /// Zeros between the point and `fraction`.
    fraction_zeros: usize,
    fraction: &'a [u8],
}

/// `unscaled`: an integer in decimal, as `to_string` gives it.
fn shown(unscaled: &str, form: DecimalForm) -> Shown<'_> {
    let negative = unscaled.starts_with('-');
    let digits = unscaled.trim_start_matches('-').as_bytes();
    let digits = if digits == b"0" { &[] } else { digits };
    if form.scale <= 0 {
        let whole_zeros = if digits.is_empty() { 0 } else { usize::from(form.scale.unsigned_abs()) };
        return Shown { negative, whole: digits, whole_zeros, fraction_zeros: 0, fraction: &[] };
    }
    let scale = form.scale as usize;
    let (whole, mut fraction) = digits.split_at(digits.len().saturating_sub(scale));
    let mut fraction_zeros = scale - fraction.len();
    match form.zeros {
        Zeros::All => {}
        Zeros::None => {
            let end = fraction.iter().rposition(|d| *d != b'0').map_or(0, |at| at + 1);
            fraction = &fraction[..end];
            if fraction.is_empty() {
                fraction_zeros = 0;
            }
        }
        Zeros::OfRatio => {
            let shown = shown_scale(unscaled.trim_start_matches('-'));
            fraction_zeros = fraction_zeros.min(shown);
            fraction = &fraction[..shown - fraction_zeros];
        }
    }
    Shown { negative, whole, whole_zeros: 0, fraction_zeros, fraction }
}

pub(super) fn write_text(unscaled: &str, form: DecimalForm, out: &mut BytesMut) {
    let number = shown(unscaled, form);
    if number.negative {
        out.put_u8(b'-');
    }
    if number.whole.is_empty() {
        out.put_u8(b'0');
    }
    out.put_slice(number.whole);
    out.put_bytes(b'0', number.whole_zeros);
    if number.fraction_zeros + number.fraction.len() > 0 {
        out.put_u8(b'.');
        out.put_bytes(b'0', number.fraction_zeros);
        out.put_slice(number.fraction);
    }
}

/// Postgres' form: count of base-10000 digits, weight of the first, sign, digits shown after the point, the digits.
pub(super) fn write_binary(unscaled: &str, form: DecimalForm, out: &mut BytesMut) {
    let number = shown(unscaled, form);
    let scale = number.fraction_zeros + number.fraction.len();
    let mut digits = Vec::with_capacity(96);
    let whole = number.whole.len() + number.whole_zeros;
    digits.resize((4 - whole % 4) % 4, b'0');
    digits.extend_from_slice(number.whole);
    digits.resize(digits.len() + number.whole_zeros, b'0');
    let whole_groups = digits.len() / 4;
    digits.resize(digits.len() + number.fraction_zeros, b'0');
    digits.extend_from_slice(number.fraction);
    digits.resize(digits.len().next_multiple_of(4), b'0');

    let groups: Vec<u16> =
        digits.chunks(4).map(|group| group.iter().fold(0, |sum, d| sum * 10 + u16::from(d - b'0'))).collect();
    let first = groups.iter().position(|g| *g != 0).unwrap_or(groups.len());
    let end = groups.iter().rposition(|g| *g != 0).map_or(first, |at| at + 1);
    out.put_u16((end - first) as u16);
    out.put_i16(if first == end { 0 } else { whole_groups as i16 - 1 - first as i16 });
    out.put_u16(if number.negative { 0x4000 } else { 0 });
    out.put_u16(scale as u16);
    for group in &groups[first..end] {
        out.put_u16(*group);
    }
}

/// What [`write_binary`] wrote; `None` if it is malformed, `Some(Err)` for NaN and the infinities.
pub(super) fn parse_binary(bytes: &[u8]) -> Option<Result<Decimal, &'static str>> {
    let (head, groups) = bytes.split_at_checked(8)?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let negative = match word(4) {
        0 => false,
        0x4000 => true,
        0xC000 => return Some(Err("NaN")),
        0xD000 => return Some(Err("Infinity")),
        0xF000 => return Some(Err("-Infinity")),
        _ => return None,
    };
    let count = usize::from(word(0));
    if groups.len() != count * 2 {
        return None;
    }
    let weight = i32::from(word(2) as i16);
    let mut digits = Vec::with_capacity(count * 4);
    for pair in groups.chunks(2) {
        let group = u16::from_be_bytes([pair[0], pair[1]]);
        if group > 9999 {
            return None;
        }
        digits.extend([group / 1000, group / 100 % 10, group / 10 % 10, group % 10].map(|d| b'0' + d as u8));
    }
    let zeros = digits.iter().take_while(|d| **d == b'0').count();
    digits.drain(..zeros);
    Some(Ok(Decimal { negative, digits, exponent: (weight - count as i32 + 1) * 4 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str, precision: u8, scale: i8) -> String {
        let unscaled = to_i128(Decimal::parse(value).unwrap(), precision, scale, false).unwrap();
        let mut out = BytesMut::new();
        write_text(&unscaled.to_string(), DecimalForm { scale, zeros: Zeros::All }, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn text_is_rounded_half_away_from_zero() {
        assert_eq!(text("1.005", 10, 2), "1.01");
        assert_eq!(text("-1.005", 10, 2), "-1.01");
        assert_eq!(text("0.004", 10, 2), "0.00");
        assert_eq!(text("9.995", 10, 2), "10.00");
        assert_eq!(text("0.5", 10, 0), "1");
        assert_eq!(text("0.05", 10, 0), "0");
        assert_eq!(text("1e5", 10, 2), "100000.00");
        assert_eq!(text("-.5", 3, 3), "-0.500");
        assert_eq!(text("1234", 4, -2), "1200");
        assert_eq!(text("000.0012e1", 10, 4), "0.0120");
    }

    #[test]
    fn too_large_is_out_of_range() {
        let error = to_i128(Decimal::parse("999.995").unwrap(), 5, 2, false).unwrap_err();
        assert_eq!(error.message(), "numeric field overflow");
        assert_eq!(
            error.detail(),
            Some("A field with precision 5, scale 2 must round to an absolute value less than 10^3.")
        );
        assert!(to_i128(Decimal::parse("1e200000").unwrap(), 38, 10, true).is_err());
        assert!(to_i128(Decimal::parse("5").unwrap(), 3, 3, false).is_err());
    }

    #[test]
    fn not_numbers() {
        for text in ["", "-", ".", "1e", "e5", "1_000", "0x10", "1.2.3", "NaN", "1 2"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn binary_comes_back() {
        for (value, scale) in
            [("0", 0i8), ("0.00", 2), ("1", 0), ("-12345.678", 3), ("10000", 0), ("0.0001", 4), ("0.00001", 5)]
        {
            let unscaled = to_i128(Decimal::parse(value).unwrap(), 38, scale, false).unwrap();
            let mut out = BytesMut::new();
            write_binary(&unscaled.to_string(), DecimalForm { scale, zeros: Zeros::All }, &mut out);
            let back = parse_binary(&out).unwrap().unwrap();
            assert_eq!(to_i128(back, 38, scale, false).unwrap(), unscaled, "{value}");
        }
    }

    /// 12345.678 in Postgres: 3 digits, weight 1, positive, scale 3: 1 | 2345 | 6780.
    #[test]
    fn binary_is_as_postgres_sends_it() {
        let mut out = BytesMut::new();
        write_binary("12345678", DecimalForm { scale: 3, zeros: Zeros::All }, &mut out);
        assert_eq!(&out[..], [0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c]);
    }
}
