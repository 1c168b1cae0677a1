//! Damaged input: every decoder answers with rows or an error, whatever the bytes are.

use std::io::Cursor;
use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::Result;
use tidemark_common::types::SqlType;

use super::csv::{CsvDecoder, CsvOptions};
use super::json::{JsonDecoder, JsonOptions};
use super::{FileDecoder, Format, encode};
use crate::file::compression::Compression;
use crate::testing::*;

fn columns() -> Vec<(&'static str, SqlType)> {
    vec![
        ("id", SqlType::Integer),
        ("t", SqlType::Text),
        ("u", SqlType::Uuid),
        ("j", SqlType::Json),
        ("ts", SqlType::TimestampTz),
        ("a", SqlType::Array(Box::new(SqlType::Integer))),
    ]
}

fn read(mut decoder: impl FileDecoder) -> Result<usize> {
    let mut rows = 0;
    while let Some(chunk) = decoder.next(100)? {
        assert_eq!(chunk.records, chunk.batch.num_rows() + chunk.bad.len());
        rows += chunk.batch.num_rows();
    }
    Ok(rows)
}

fn decode(format: &Format, compression: Compression, schema: &SchemaRef, bytes: Vec<u8>) -> Result<usize> {
    let places: Vec<usize> = (0..schema.fields().len()).collect();
    match format {
        Format::Csv(options) => {
            let input = compression.decompress(Cursor::new(bytes))?;
            read(CsvDecoder::new(input, schema, &places, schema, options)?)
        }
        Format::Json(options) => read(JsonDecoder::new(compression.decompress(Cursor::new(bytes))?, schema, options)?),
        Format::Parquet => read(super::parquet::ParquetDecoder::new(Bytes::from(bytes), schema)?),
    }
}

#[tokio::test]
async fn damage_is_answered_with_an_error() {
    let source = open(&columns(), &[("connector", "datagen"), ("rows", "300"), ("rows_per_second", "0")]).unwrap();
    let (batch, _) = all(source.as_ref(), None).await.unwrap();
    let mut rng = SmallRng::seed_from_u64(5);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut encoder, &mut out).unwrap();
        out
    };
    let csv = Format::Csv(CsvOptions::default());
    let json = Format::Json(JsonOptions::default());
    for (format, compression) in [
        (&csv, Compression::None),
        (&json, Compression::None),
        (&csv, Compression::Gzip),
        (&Format::Parquet, Compression::None),
    ] {
        let mut whole = encode::encode(format, &batch).unwrap();
        if compression == Compression::Gzip {
            whole = gzip(&whole);
        }
        assert_eq!(decode(format, compression, &batch.schema(), whole.clone()).unwrap(), 300);
        for _ in 0..60 {
            let mut damaged = whole.clone();
            for _ in 0..rng.gen_range(1..6) {
                let at = rng.gen_range(0..damaged.len());
                damaged[at] = rng.r#gen();
            }
            if rng.r#gen() {
                damaged.truncate(rng.gen_range(0..damaged.len()));
            }
            // Parquet's reader may panic on damage; the source catches that where it reads.
            let decoded =
                std::panic::catch_unwind(AssertUnwindSafe(|| decode(format, compression, &batch.schema(), damaged)));
            match (format, decoded) {
                (_, Ok(Ok(rows))) => assert!(rows <= 600),
                (_, Ok(Err(error))) => assert!(!error.message().is_empty()),
                (Format::Parquet, Err(_)) => {}
                (other, Err(_)) => panic!("{other:?} panicked"),
            }
        }
    }
}
