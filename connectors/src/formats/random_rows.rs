//! Rows of every type for the tests of formats: the same with the same seed.

use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::{FieldRef, Fields, IntervalMonthDayNano, Schema, SchemaRef, i256};
use rand::Rng;
use rand::rngs::SmallRng;
use tidemark_common::types::SqlType;

use super::Failures;
use super::column::{Column, Scalar};

pub fn every_type() -> Vec<SqlType> {
    let address = vec![("street".to_string(), SqlType::Text), ("no".to_string(), SqlType::Integer)];
    vec![
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Integer,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::Double,
        SqlType::Numeric(None),
        SqlType::Numeric(Some((9, 2))),
        SqlType::Numeric(Some((60, 5))),
        SqlType::Text,
        SqlType::Varchar(Some(40)),
        SqlType::Char(40),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Jsonb,
        SqlType::Array(Box::new(SqlType::Integer)),
        SqlType::Array(Box::new(SqlType::Uuid)),
        SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::BigInt)),
        SqlType::Struct(address.clone()),
        SqlType::Array(Box::new(SqlType::Struct(address))),
    ]
}

/// Columns `c0`, `c1`, ..
pub fn columns(types: &[SqlType]) -> SchemaRef {
    let fields = types.iter().enumerate().map(|(at, sql_type)| sql_type.to_field(&format!("c{at}"), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// `nulls`: how many of ten values are NULL.
pub fn rows(schema: &SchemaRef, rows: usize, nulls: u32, rng: &mut SmallRng) -> RecordBatch {
    let column = |field: &FieldRef| {
        let mut column = Column::new(field).unwrap();
        (0..rows).for_each(|_| fill(&mut column, field, nulls, rng));
        column.finish().unwrap()
    };
    let arrays = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema.clone(), arrays).unwrap()
}

fn fill(column: &mut Column, field: &FieldRef, nulls: u32, rng: &mut SmallRng) {
    if field.is_nullable() && rng.gen_ratio(nulls, 10) {
        return column.null();
    }
    match SqlType::from_field(field) {
        SqlType::Array(item) => {
            let (items, field) = (column.items().unwrap(), item.to_field_ref("item", true));
            (0..rng.gen_range(0..4)).for_each(|_| fill(items, &field, nulls, rng));
            column.close().unwrap();
        }
        SqlType::Map(_, value) => {
            let ([keys, values], field) = (column.entries().unwrap(), value.to_field_ref("values", true));
            for at in 0..rng.gen_range(0..4) {
                keys.append(Scalar::Text(&format!("k{at}"))).unwrap();
                fill(values, &field, nulls, rng);
            }
            column.close().unwrap();
        }
        SqlType::Struct(fields) => {
            let types: Fields = fields.iter().map(|(name, sql_type)| sql_type.to_field(name, true)).collect();
            column.fields().unwrap().iter_mut().zip(&types).for_each(|(column, field)| fill(column, field, nulls, rng));
            column.close().unwrap();
        }
        sql_type => scalar(column, &sql_type, rng),
    }
}

fn scalar(column: &mut Column, sql_type: &SqlType, rng: &mut SmallRng) {
    let edge: bool = rng.gen_ratio(1, 8);
    let text: String = (0..rng.gen_range(0..30)).map(|_| rng.gen_range('!'..'\u{17f}')).collect();
    let bytes: Vec<u8> = (0..rng.gen_range(0..30)).map(|_| rng.r#gen()).collect();
    let value = match sql_type {
        SqlType::Boolean => Scalar::Bool(rng.r#gen()),
        SqlType::SmallInt => Scalar::Int(if edge { i16::MIN.into() } else { rng.r#gen::<i16>().into() }),
        SqlType::Integer => Scalar::Int(if edge { i32::MAX.into() } else { rng.gen_range(-300..300) }),
        SqlType::BigInt => Scalar::Int(if edge { i64::MIN } else { rng.r#gen() }),
        SqlType::Real => Scalar::Float(if edge { f32::INFINITY } else { rng.r#gen() }),
        SqlType::Double => Scalar::Double(if edge { -0.0 } else { rng.r#gen() }),
        SqlType::Numeric(None) => Scalar::Decimal(i256::from_i128(rng.r#gen::<i64>().into()), 10),
        SqlType::Numeric(Some((precision, scale))) => {
            let largest = i256::from_i128(10).checked_pow(u32::from(*precision)).unwrap().wrapping_sub(i256::ONE);
            let some = i256::from_i128(rng.gen_range(-999_999_999..999_999_999));
            Scalar::Decimal(if edge { largest.wrapping_neg() } else { some }, *scale)
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => Scalar::Text(&text),
        SqlType::Bytea => Scalar::Bytes(&bytes),
        SqlType::Date => Scalar::Days(rng.gen_range(-100_000..100_000)),
        SqlType::Time => Scalar::Time(rng.gen_range(0..86_400_000_000)),
        SqlType::Timestamp | SqlType::TimestampTz => Scalar::Timestamp(rng.gen_range(-1 << 55..1 << 55)),
        SqlType::Interval => Scalar::Interval(IntervalMonthDayNano::new(
            rng.gen_range(-500..500),
            rng.gen_range(-500..500),
            rng.gen_range(-1_i64 << 40..1 << 40) * 1000,
        )),
        SqlType::Uuid => Scalar::Uuid(rng.r#gen()),
        SqlType::Json => Scalar::Text("{\"b\": 1,  \"a\": [null]}"),
        SqlType::Jsonb => Scalar::Text("{\"a\": [1, \"x\"]}"),
        other => panic!("{other}"),
    };
    column.append(value).unwrap();
}

/// Of records some of which, `hit`, are damaged: only these may be bad, bad ones are rows of NULLs, and all others are as they were.
pub fn assert_others_unspoilt((read, failures): &(RecordBatch, Failures), whole: &RecordBatch, hit: &[usize]) {
    assert!(failures.iter().all(|(row, error)| hit.contains(row) && !error.message().is_empty()));
    for row in (0..whole.num_rows()).filter(|row| !hit.contains(row)) {
        assert_eq!(read.slice(row, 1), whole.slice(row, 1));
    }
    for (row, _) in failures {
        assert!(read.columns().iter().all(|column| column.is_null(*row)));
    }
}
