//! What the connectors' tests share: building sources from text, and reading them in the ways that must agree.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SystemClock};

use crate::{FormatSpec, Positions, Source, SourceReader, SourceSpec, open_source};

pub fn schema(columns: &[(&str, SqlType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(name, t)| t.to_field(name, true)).collect::<Vec<_>>()))
}

pub fn pairs(options: &[(&str, &str)]) -> Vec<(String, String)> {
    options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

pub fn spec(columns: &[(&str, SqlType)], options: &[(&str, &str)]) -> SourceSpec {
    SourceSpec {
        added: 0,
        name: "s".to_string(),
        columns: schema(columns),
        include: Vec::new(),
        key: Vec::new(),
        options: pairs(options),
        secrets: Vec::new(),
        format: None,
        shared: None,
        tables: Vec::new(),
        clock: Arc::new(SystemClock),
    }
}

pub fn encode(word: &str, options: &[(&str, &str)]) -> Option<FormatSpec> {
    Some(FormatSpec { format: "PLAIN".to_string(), encode: word.to_string(), options: pairs(options) })
}

pub fn open(columns: &[(&str, SqlType)], options: &[(&str, &str)]) -> Result<Arc<dyn Source>> {
    open_source(spec(columns, options))
}

/// Reads to the end; merges the positions.
pub async fn drain(reader: &mut dyn SourceReader, positions: &mut Positions) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    while let Some(read) = reader.next().await? {
        positions.extend(read.positions);
        batches.push(read.batch);
    }
    Ok(batches)
}

/// All rows of a bounded source, and its last positions.
pub async fn all(source: &dyn Source, projection: Option<&[usize]>) -> Result<(RecordBatch, Positions)> {
    let mut positions = Positions::new();
    let mut reader = source.reader(&positions, None, projection).await?;
    let batches = drain(reader.as_mut(), &mut positions).await?;
    Ok((join(source, projection, &batches)?, positions))
}

fn join(source: &dyn Source, projection: Option<&[usize]>, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let schema = match projection {
        Some(p) => Arc::new(source.schema().project(p)?),
        None => source.schema(),
    };
    Ok(concat_batches(&schema, batches)?)
}

/// The rows of a bounded source when its reader is given up after few batches, again and again, and each new one starts at the
/// positions that came with the last rows; and what a replay from each such place to the end gives must be the rest.
pub async fn with_restarts(source: &dyn Source, seed: u64) -> Result<RecordBatch> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (whole, end) = all(source, None).await?;
    let mut positions = Positions::new();
    let mut batches: Vec<RecordBatch> = Vec::new();
    'restarts: loop {
        let seen: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let mut replay = source.reader(&positions, Some(&end), None).await?;
        let rest = drain(replay.as_mut(), &mut Positions::new()).await?;
        assert_eq!(join(source, None, &rest)?, whole.slice(seen, whole.num_rows() - seen), "replay from {positions:?}");

        let mut replay = source.reader(&Positions::new(), Some(&positions), None).await?;
        let before = drain(replay.as_mut(), &mut Positions::new()).await?;
        assert_eq!(join(source, None, &before)?, whole.slice(0, seen), "replay until {positions:?}");

        let mut reader = source.reader(&positions, None, None).await?;
        for _ in 0..rng.gen_range(1..4) {
            match reader.next().await? {
                None => break 'restarts,
                Some(read) => {
                    positions.extend(read.positions);
                    batches.push(read.batch);
                }
            }
        }
    }
    assert_eq!(positions, end);
    join(source, None, &batches)
}

/// Every way of reading gives the same rows.
pub async fn check_replay(source: &dyn Source) -> RecordBatch {
    let (whole, _) = all(source, None).await.unwrap();
    for seed in 0..3 {
        assert_eq!(with_restarts(source, seed).await.unwrap(), whole);
    }
    let width = source.schema().fields().len();
    for projection in [vec![], vec![width - 1], (0..width).rev().collect::<Vec<_>>()] {
        let (part, _) = all(source, Some(&projection)).await.unwrap();
        assert_eq!(part, whole.project(&projection).unwrap(), "projection {projection:?}");
    }
    whole
}

pub fn rows(batch: &RecordBatch) -> Vec<String> {
    let show = |column: usize, row: usize| {
        datafusion::arrow::util::display::array_value_to_string(batch.column(column), row).unwrap()
    };
    (0..batch.num_rows())
        .map(|row| (0..batch.num_columns()).map(|c| show(c, row)).collect::<Vec<_>>().join("|"))
        .collect()
}

pub fn refused<T: std::fmt::Debug>(result: Result<T>) -> (String, String, String) {
    let error: Error = result.expect_err("this must be refused");
    (error.code().to_string(), error.message().to_string(), error.hint().unwrap_or_default().to_string())
}
