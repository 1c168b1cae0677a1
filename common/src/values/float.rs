//! Floating point numbers as Postgres prints them: `1e+20`, `0.0001`, `NaN`.
//!
//! The shortest digits that read back as the number are found by Ryu (Adams, PLDI 2018), as in Postgres.

use std::fmt::{self, Write};

use bytes::{BufMut, BytesMut};

/// A text on the stack; the longest number fits.
struct Small {
    bytes: [u8; 64],
    len: usize,
}

impl Small {
    fn rewrite(&mut self, value: impl fmt::LowerExp, after_point: usize) {
        self.len = 0;
        write!(self, "{value:.after_point$e}").expect("at most 20 digits");
    }
}

impl Write for Small {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// What the two widths differ in: significant digits, and the exponent from which Postgres goes over to `1e+15`.
#[derive(Clone, Copy)]
struct Width {
    digits: i32,
    shortest_limit: i32,
}

const DOUBLE: Width = Width { digits: 15, shortest_limit: 15 };
const REAL: Width = Width { digits: 6, shortest_limit: 6 };

/// What printing asks of a float, whatever its width.
trait Float: fmt::LowerExp + ryu::Float {
    const WIDTH: Width;
    fn is_nan(self) -> bool;
    fn is_infinite(self) -> bool;
    fn is_negative(self) -> bool;
    /// Absolute values of the number and its neighbours, if they are integers of 128 bits.
    fn neighbours(self) -> Option<[u128; 3]>;
}

macro_rules! float {
    ($type:ty, $width:expr) => {
        impl Float for $type {
            const WIDTH: Width = $width;

            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }

            fn is_infinite(self) -> bool {
                <$type>::is_infinite(self)
            }

            fn is_negative(self) -> bool {
                self.is_sign_negative()
            }

            fn neighbours(self) -> Option<[u128; 3]> {
                if self.fract() != 0.0 {
                    return None;
                }
                let all = [self.abs().next_down(), self.abs(), self.abs().next_up()];
                let whole = all.iter().all(|v| v.fract() == 0.0 && *v < u128::MAX as $type);
                whole.then(|| all.map(|v| v as u128))
            }
        }
    };
}

float!(f64, DOUBLE);
float!(f32, REAL);

pub(super) fn write_f64(value: f64, extra_digits: i32, out: &mut BytesMut) {
    // Whole numbers are common; the negative zero is not one of them.
    if value.abs() < 1e15 && value.fract() == 0.0 && (value != 0.0 || value.is_sign_positive()) && extra_digits > 0 {
        out.put_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        return;
    }
    write(value, extra_digits, out);
}

pub(super) fn write_f32(value: f32, extra_digits: i32, out: &mut BytesMut) {
    write(value, extra_digits, out);
}

fn write<F: Float>(value: F, extra_digits: i32, out: &mut BytesMut) {
    if value.is_nan() {
        return out.put_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.put_slice(if value.is_negative() { b"-Infinity" } else { b"Infinity" });
    }
    if extra_digits > 0 && value.neighbours().is_none() {
        let mut buffer = ryu::Buffer::new();
        return lay_out(buffer.format_finite(value).as_bytes(), F::WIDTH.shortest_limit, out);
    }
    let mut text = Small { bytes: [0; 64], len: 0 };
    if extra_digits <= 0 {
        let digits = (F::WIDTH.digits + extra_digits).max(1);
        write!(text, "{value:.*e}", (digits - 1) as usize).expect("at most 15 digits");
        return lay_out(&text.bytes[..text.len], digits, out);
    }
    write!(text, "{value:e}").expect("the shortest form of a float has at most 17 digits");
    // Of two shortest texts that are as close, Postgres takes the even one, as rounding to so many digits does.
    let mut after_point = mantissa_digits(&text.bytes[..text.len]) - 1;
    if after_point as i32 >= F::WIDTH.digits {
        text.rewrite(value, after_point);
    }
    while !reads_back_surely(value, &text.bytes[..text.len]) {
        after_point += 1;
        text.rewrite(value, after_point);
    }
    lay_out(&text.bytes[..text.len], F::WIDTH.shortest_limit, out);
}

fn mantissa_digits(scientific: &[u8]) -> usize {
    scientific.iter().take_while(|b| **b != b'e').filter(|b| b.is_ascii_digit()).count()
}

/// Shortest digits may lie exactly between two floats, and read back right only because the even one wins. Postgres does not count
/// on that and takes more digits. Happens to large integers only.
fn reads_back_surely<F: Float>(value: F, scientific: &[u8]) -> bool {
    let distances = || {
        let [below, exact, above] = value.neighbours()?;
        let text = std::str::from_utf8(scientific).ok()?;
        let (mantissa, exponent) = text.trim_start_matches('-').split_once('e')?;
        let (first, more) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let zeros = exponent.parse::<u32>().ok()?.checked_sub(more.len() as u32)?;
        let written: u128 = format!("{first}{more}").parse::<u128>().ok()?.checked_mul(10u128.checked_pow(zeros)?)?;
        let room = if written < exact { exact - below } else { above - exact };
        Some((written.abs_diff(exact), room))
    };
    // What has no such distances is no large integer.
    distances().is_none_or(|(distance, room)| distance * 2 < room)
}

/// `-1.25e-7` or `12.5` as Postgres writes it: with an exponent of two digits if that is small or from `limit` on, otherwise without.
fn lay_out(number: &[u8], limit: i32, out: &mut BytesMut) {
    let (mut mantissa, mut exponent) = match number.iter().position(|b| *b == b'e') {
        Some(e) => (&number[..e], exponent(&number[e + 1..])),
        None => (number, 0),
    };
    if let Some(rest) = mantissa.strip_prefix(b"-") {
        out.put_u8(b'-');
        mantissa = rest;
    }
    let mut digits = [0u8; 64];
    let mut count = 0;
    let mut whole = mantissa.len();
    for (at, byte) in mantissa.iter().enumerate() {
        match byte {
            b'.' => whole = at,
            // Zeros before the first digit only move the point.
            b'0' if count == 0 => exponent -= 1,
            digit => {
                digits[count] = *digit;
                count += 1;
            }
        }
    }
    // Of the first digit.
    exponent += whole as i32 - 1;
    if count == 0 {
        return out.put_u8(b'0');
    }
    while count > 1 && digits[count - 1] == b'0' {
        count -= 1;
    }
    let digits = &digits[..count];
    if exponent < -4 || exponent >= limit {
        with_exponent(digits, exponent, out);
    } else if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        out.put_slice(digits);
    } else {
        let whole = (exponent + 1) as usize;
        if digits.len() <= whole {
            out.put_slice(digits);
            out.put_bytes(b'0', whole - digits.len());
        } else {
            out.put_slice(&digits[..whole]);
            out.put_u8(b'.');
            out.put_slice(&digits[whole..]);
        }
    }
}

fn exponent(text: &[u8]) -> i32 {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let exponent = digits.iter().fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
    if negative { -exponent } else { exponent }
}

fn with_exponent(digits: &[u8], exponent: i32, out: &mut BytesMut) {
    out.put_u8(digits[0]);
    if digits.len() > 1 {
        out.put_u8(b'.');
        out.put_slice(&digits[1..]);
    }
    out.put_slice(if exponent < 0 { b"e-" } else { b"e+" });
    let magnitude = exponent.unsigned_abs();
    if magnitude < 10 {
        out.put_u8(b'0');
    }
    out.put_slice(itoa::Buffer::new().format(magnitude).as_bytes());
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn double(value: f64, extra: i32) -> String {
        let mut out = BytesMut::new();
        write_f64(value, extra, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn real(value: f32, extra: i32) -> String {
        let mut out = BytesMut::new();
        write_f32(value, extra, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// What PostgreSQL 15 prints.
    #[test]
    fn as_postgres_prints_them() {
        let cases = [
            (1e15, "1e+15"),
            (1e14, "100000000000000"),
            (123456789012345.0, "123456789012345"),
            (1234567890123456.0, "1.234567890123456e+15"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (-0.0, "-0"),
            (0.0, "0"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (0.1 + 0.2, "0.30000000000000004"),
            (-12.5, "-12.5"),
            (100.0, "100"),
            (9007199254740993.0, "9.007199254740992e+15"),
            (1125899906842624.2, "1.1258999068426242e+15"),
            (-187291654633770000.0, "-1.8729165463376998e+17"),
        ];
        for (value, text) in cases {
            assert_eq!(double(value, 1), text);
        }
        let cases = [
            (123456f32, "123456"),
            (1234567f32, "1.234567e+06"),
            (1e6, "1e+06"),
            (0.1, "0.1"),
            // Halfway between two floats with one digit less.
            (126777217.0, "1.26777216e+08"),
            (68636540.0, "6.8636544e+07"),
            (23.5e8, "2.3500001e+09"),
            (169468.13, "169468.12"),
        ];
        for (value, text) in cases {
            assert_eq!(real(value, 1), text);
        }
    }

    /// The shortest digits, of which there may be several that read back: those nearest to the number.
    #[test]
    fn shortest_digits_are_the_nearest() {
        fn check<F: Float + std::str::FromStr + PartialEq + std::fmt::Debug>(value: F) {
            let mut text = Small { bytes: [0; 64], len: 0 };
            write!(text, "{value:e}").unwrap();
            let after_point = mantissa_digits(&text.bytes[..text.len]) - 1;
            text.rewrite(value, after_point);
            let (mut nearest, mut found) = (BytesMut::new(), BytesMut::new());
            lay_out(&text.bytes[..text.len], F::WIDTH.shortest_limit, &mut nearest);
            write(value, 1, &mut found);
            assert_eq!(found, nearest, "{value:e}");
            let read: F = std::str::from_utf8(&found).unwrap().parse().ok().unwrap();
            assert_eq!(read, value);
        }
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let (bits, narrow) = (rng.random(), rng.random());
            let doubles =
                [f64::from_bits(bits), rng.random(), rng.random_range(-1e6..1e6), rng.random_range(0.0..1e-6)];
            for value in doubles.into_iter().filter(|v| v.is_finite() && v.neighbours().is_none()) {
                check(value);
            }
            let reals = [f32::from_bits(narrow), rng.random()];
            for value in reals.into_iter().filter(|v| v.is_finite() && v.neighbours().is_none()) {
                check(value);
            }
        }
        for value in [f64::MIN_POSITIVE, 5e-324, f64::EPSILON, 9.5367431640625e-7, 2.5e-310] {
            check(value);
        }
    }

    #[test]
    fn with_fewer_digits_when_asked() {
        for (value, text) in [(0.1 + 0.2, "0.3"), (1e15, "1e+15"), (1e20, "1e+20"), (0.0, "0")] {
            assert_eq!(double(value, 0), text);
        }
        assert_eq!(real(1.0 / 3.0, 0), "0.333333");
        assert_eq!(real(123456789.123, 0), "1.23457e+08");
    }
}
