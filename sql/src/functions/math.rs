//! Numbers: what DataFusion lacks, or names or rounds otherwise.

use datafusion::logical_expr::ScalarUDF;
use tidemark_common::{Error, Result, SqlState};

use super::declare::{Kind, Row, function};
use super::value::{Value, rescale};

use Kind::{Any, AnyArray, Float8, Int4, Int8, Numeric};

pub(super) fn functions() -> Vec<ScalarUDF> {
    let mut all = division();
    all.extend(signs());
    all.extend(degrees());
    all.extend(counting());
    all.extend(logarithms());
    all
}

fn division_by_zero() -> Error {
    Error::new(SqlState::DivisionByZero, "division by zero")
}

fn out_of_range(what: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("{what} out of range"))
}

/// Both arguments at the larger of their scales.
fn aligned(r: &Row<'_>) -> Result<(i128, i128, i8)> {
    let ((a, a_scale), (b, b_scale)) = (r.numeric(0), r.numeric(1));
    let scale = a_scale.max(b_scale);
    Ok((rescale(a, a_scale, scale)?, rescale(b, b_scale, scale)?, scale))
}

fn division() -> Vec<ScalarUDF> {
    let modulo = |r: &Row<'_>| match r.int(1) {
        0 => Err(division_by_zero()),
        b => Ok(Value::Int(r.int(0).wrapping_rem(b))),
    };
    vec![
        function("div")
            .on(&[Numeric, Numeric], Numeric, |r| {
                let (a, b, _) = aligned(r)?;
                a.checked_div(b).map(|q| Value::Numeric(q, 0)).ok_or_else(division_by_zero)
            })
            .udf(),
        function("mod")
            .on(&[Int4, Int4], Int4, modulo)
            .on(&[Int8, Int8], Int8, modulo)
            .on(&[Numeric, Numeric], Numeric, |r| {
                let (a, b, scale) = aligned(r)?;
                a.checked_rem(b).map(|m| Value::Numeric(m, scale)).ok_or_else(division_by_zero)
            })
            .udf(),
        function("width_bucket")
            .on(&[Float8, Float8, Float8, Int4], Int4, |r| {
                bucket(r.float(0), r.float(1), r.float(2), r.int(3)).map(Value::Int)
            })
            .on(&[Float8, AnyArray], Int4, |r| {
                let bounds = datafusion::arrow::compute::cast(&r.list(1), &datafusion::arrow::datatypes::DataType::Float64)?;
                let bounds = datafusion::arrow::array::AsArray::as_primitive::<datafusion::arrow::datatypes::Float64Type>(&bounds);
                Ok(Value::count(bounds.values().iter().filter(|b| **b <= r.float(0)).count()))
            })
            .udf(),
    ]
}

/// 0 below the range, `count` + 1 above it; the range may run downwards.
fn bucket(x: f64, low: f64, high: f64, count: i64) -> Result<i64> {
    if count <= 0 {
        return Err(Error::invalid("count must be greater than zero"));
    }
    if low == high || !low.is_finite() || !high.is_finite() || x.is_nan() {
        return Err(
            Error::invalid("lower bound cannot equal upper bound").with_hint("Both bounds must be finite numbers.")
        );
    }
    let position = (x - low) / (high - low);
    Ok(match position {
        p if p < 0.0 => 0,
        p if p >= 1.0 => count + 1,
        p => (p * count as f64) as i64 + 1,
    })
}

fn signs() -> Vec<ScalarUDF> {
    let trimmed = |digits: i128, scale: i8| {
        let (mut digits, mut scale) = (digits, scale);
        while scale > 0 && digits % 10 == 0 {
            digits /= 10;
            scale -= 1;
        }
        (digits, scale)
    };
    vec![
        function("sign")
            .on(&[Float8], Float8, |r| Ok(Value::Float(if r.float(0) == 0.0 { 0.0 } else { r.float(0).signum() })))
            .on(&[Numeric], Numeric, |r| Ok(Value::Numeric(r.numeric(0).0.signum(), 0)))
            .udf(),
        function("ceiling")
            .on(&[Float8], Float8, |r| Ok(Value::Float(r.float(0).ceil())))
            .on(&[Numeric], Numeric, |r| {
                let (digits, scale) = r.numeric(0);
                let unit = 10i128.pow(scale.max(0) as u32);
                Ok(Value::Numeric(digits.div_euclid(unit) + i128::from(digits.rem_euclid(unit) != 0), 0))
            })
            .udf(),
        function("scale").on(&[Numeric], Int4, |r| Ok(Value::Int(r.numeric(0).1.into()))).udf(),
        function("min_scale")
            .on(&[Numeric], Int4, move |r| Ok(Value::Int(trimmed(r.numeric(0).0, r.numeric(0).1).1.into())))
            .udf(),
        function("trim_scale")
            .on(&[Numeric], Numeric, move |r| {
                let (digits, scale) = trimmed(r.numeric(0).0, r.numeric(0).1);
                Ok(Value::Numeric(digits, scale))
            })
            .udf(),
        function("factorial")
            .on(&[Int8], Numeric, |r| match r.int(0) {
                n if n < 0 => Err(out_of_range("factorial of a negative number")),
                n => (1..=i128::from(n))
                    .try_fold(1i128, |product, k| product.checked_mul(k))
                    .map(|product| Value::Numeric(product, 0))
                    .ok_or_else(|| out_of_range("value overflows numeric format:")),
            })
            .udf(),
    ]
}

/// Trigonometry in degrees, exact where a table is.
fn degrees() -> Vec<ScalarUDF> {
    fn sine(degrees: f64) -> f64 {
        let turned = degrees % 360.0;
        match turned.abs() {
            0.0 | 180.0 => 0.0,
            30.0 | 150.0 => 0.5 * turned.signum(),
            210.0 | 330.0 => -0.5 * turned.signum(),
            90.0 => turned.signum(),
            270.0 => -turned.signum(),
            _ => turned.to_radians().sin(),
        }
    }
    fn tangent(degrees: f64) -> f64 {
        match degrees % 180.0 {
            0.0 => 0.0,
            45.0 | -135.0 => 1.0,
            135.0 | -45.0 => -1.0,
            90.0 => f64::INFINITY,
            -90.0 => f64::NEG_INFINITY,
            other => other.to_radians().tan(),
        }
    }
    let of = |name: &'static str, f: fn(f64) -> f64| {
        function(name).on(&[Float8], Float8, move |r| Ok(Value::Float(f(r.float(0))))).udf()
    };
    vec![
        of("sind", sine),
        of("cosd", |x| sine(90.0 - x)),
        of("tand", tangent),
        of("cotd", |x| tangent(90.0 - x)),
        of("asind", |x| x.asin().to_degrees()),
        of("acosd", |x| x.acos().to_degrees()),
        of("atand", |x| x.atan().to_degrees()),
    ]
}

/// Logarithms that refuse what has none, and `~`.
fn logarithms() -> Vec<ScalarUDF> {
    fn of_positive(x: f64) -> Result<f64> {
        let wrong = |what| Error::new(SqlState::InvalidLogArgument, format!("cannot take logarithm of {what}"));
        match x {
            0.0 => Err(wrong("zero")),
            x if x < 0.0 => Err(wrong("a negative number")),
            x => Ok(x),
        }
    }
    let of = |name: &'static str, f: fn(f64) -> f64| {
        function(name).on(&[Float8], Float8, move |r| Ok(Value::Float(f(of_positive(r.float(0))?)))).udf()
    };
    vec![
        of("ln", f64::ln),
        of("log10", f64::log10),
        function("log")
            .on(&[Float8], Float8, |r| Ok(Value::Float(of_positive(r.float(0))?.log10())))
            .on(&[Float8, Float8], Float8, |r| {
                let (base, x) = (of_positive(r.float(0))?, of_positive(r.float(1))?);
                if base == 1.0 {
                    return Err(division_by_zero());
                }
                // What log2 and log10 give exactly, a quotient would not.
                Ok(Value::Float(match base {
                    2.0 => x.log2(),
                    10.0 => x.log10(),
                    _ => x.ln() / base.ln(),
                }))
            })
            .udf(),
        function("tidemark_bit_not")
            .on(&[Int4], Int4, |r| Ok(Value::Int(!r.int(0))))
            .on(&[Int8], Int8, |r| Ok(Value::Int(!r.int(0))))
            .udf(),
    ]
}

fn counting() -> Vec<ScalarUDF> {
    let nulls = |r: &Row<'_>| (0..r.len()).filter(|i| r.is_null(*i)).count();
    vec![
        function("num_nulls").on_nulls(&[Any], Some(Any), Int4, move |r| Ok(Value::count(nulls(r)))).udf(),
        function("num_nonnulls").on_nulls(&[Any], Some(Any), Int4, move |r| Ok(Value::count(r.len() - nulls(r)))).udf(),
    ]
}
