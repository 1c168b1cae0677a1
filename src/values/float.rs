//! Floating point numbers as Postgres prints them: `1e+20`, `0.0001`, `NaN`.

use std::fmt::{self, Write};

use bytes::{BufMut, BytesMut};

/// A text on the stack; the longest number fits.
struct Small {
    bytes: [u8; 64],
    len: usize,
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

pub(super) fn write_f64(value: f64, extra_digits: i32, out: &mut BytesMut) {
    // Whole numbers are common; the negative zero is not one of them.
    if value.abs() < 1e15 && value.fract() == 0.0 && (value != 0.0 || value.is_sign_positive()) && extra_digits > 0 {
        out.put_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        return;
    }
    write(value, value.is_nan(), value.is_infinite(), value.is_sign_negative(), DOUBLE, extra_digits, out);
}

pub(super) fn write_f32(value: f32, extra_digits: i32, out: &mut BytesMut) {
    write(value, value.is_nan(), value.is_infinite(), value.is_sign_negative(), REAL, extra_digits, out);
}

fn write(
    value: impl fmt::LowerExp,
    is_nan: bool,
    is_infinite: bool,
    negative: bool,
    width: Width,
    extra_digits: i32,
    out: &mut BytesMut,
) {
    if is_nan {
        return out.put_slice(b"NaN");
    }
    if is_infinite {
        return out.put_slice(if negative { b"-Infinity" } else { b"Infinity" });
    }
    let mut text = Small { bytes: [0; 64], len: 0 };
    let limit = if extra_digits > 0 {
        write!(text, "{value:e}").expect("the shortest form of a float has at most 17 digits");
        width.shortest_limit
    } else {
        let digits = (width.digits + extra_digits).max(1);
        write!(text, "{value:.*e}", (digits - 1) as usize).expect("at most 15 digits");
        digits
    };
    lay_out(&text.bytes[..text.len], limit, extra_digits <= 0, out);
}

/// `-1.25e-7` as mantissa and exponent becomes `-1.25e-07`, or plain digits if the exponent is small.
fn lay_out(scientific: &[u8], limit: i32, strip: bool, out: &mut BytesMut) {
    let e = scientific.iter().position(|b| *b == b'e').expect("LowerExp always writes an exponent");
    let exponent: i32 = std::str::from_utf8(&scientific[e + 1..])
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("LowerExp writes the exponent as an integer");
    let mut mantissa = &scientific[..e];
    if let Some(rest) = mantissa.strip_prefix(b"-") {
        out.put_u8(b'-');
        mantissa = rest;
    }
    let mut digits = [0u8; 32];
    let mut count = 0;
    for digit in mantissa.iter().filter(|b| **b != b'.') {
        digits[count] = *digit;
        count += 1;
    }
    if strip {
        while count > 1 && digits[count - 1] == b'0' {
            count -= 1;
        }
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
        ];
        for (value, text) in cases {
            assert_eq!(double(value, 1), text);
        }
        for (value, text) in [(123456f32, "123456"), (1234567f32, "1.234567e+06"), (1e6, "1e+06"), (0.1, "0.1")] {
            assert_eq!(real(value, 1), text);
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
