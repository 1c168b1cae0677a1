//! What is encoded is decoded: every type, in every format of records that has no schema of its own.

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tidemark_common::types::SqlType;

use super::Failures;
use super::random_rows::{columns, every_type, rows};
use super::record::RecordFormat;
use super::record_encode::encoder;
use crate::options::Options;
use crate::testing::{encode, pairs};

fn there_and_back(format: &str, batch: &RecordBatch) -> (Vec<ArrayRef>, Failures) {
    // Without it an empty text is NULL.
    let options: &[(&str, &str)] = if format == "CSV" { &[("null", "\\N")] } else { &[] };
    let encoder = encoder(format, &batch.schema(), &mut Options::new(&pairs(options)).unwrap()).unwrap();
    let written = encoder.encode(batch).unwrap();
    let records: Vec<Option<&[u8]>> = written.iter().map(Option::as_deref).collect();
    let format = RecordFormat::choose(encode(format, options).as_ref(), &mut Options::default(), &[]).unwrap();
    let places: Vec<usize> = (0..batch.num_columns()).collect();
    format.decoder(&batch.schema(), &batch.schema(), &places).unwrap().columns(&records).unwrap()
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut rng = SmallRng::seed_from_u64(11);
    for sql_type in every_type() {
        // A second column tells a NULL from a line with nothing in it.
        let schema = columns(&[sql_type.clone(), SqlType::Integer]);
        for format in ["JSON", "CSV"] {
            for nulls in [0, 3, 10] {
                let batch = rows(&schema, 100, nulls, &mut rng);
                let (columns, failures) = there_and_back(format, &batch);
                assert!(failures.is_empty(), "{format} {sql_type}: {failures:?}");
                let back = RecordBatch::try_new(schema.clone(), columns).unwrap();
                for row in 0..batch.num_rows() {
                    let (before, after) = (batch.slice(row, 1), back.slice(row, 1));
                    assert_eq!(before, after, "{format} {sql_type}");
                }
            }
        }
    }
}

#[test]
fn one_value_is_encoded_and_decoded() {
    let mut rng = SmallRng::seed_from_u64(12);
    for (format, sql_type) in [("TEXT", SqlType::Text), ("BYTES", SqlType::Bytea)] {
        let batch = rows(&columns(&[sql_type]), 200, 2, &mut rng);
        let (columns, failures) = there_and_back(format, &batch);
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(columns[0].to_data(), batch.column(0).to_data(), "{format}");
    }
}
