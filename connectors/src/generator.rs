//! Readers of generators: rows that are a function of their number.
//!
//! ```text
//!   position n ──Generate::generate(n, most, columns)──▶ rows, position after them ──▶ SourceBatch
//! ```
//!
//! A generator has one split, named "0", whose position is a number in text. Because a row depends on nothing but its number
//! (and the options), reading again from a position gives the same rows.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::{Clock, Error, Result, SqlState};

use crate::pace::Pace;
use crate::spec::projected;
use crate::{Positions, Source, SourceBatch, SourceReader};

pub(crate) const SPLIT: &str = "0";

/// Makes rows by number.
pub(crate) trait Generate: Send + Sync + Debug + 'static {
    fn schema(&self) -> SchemaRef;

    /// Rows of the positions from `from` on: at most `most` rows, none at or after position `end`, with the columns at
    /// `columns` of `schema()`, which make `projected`. Returns them with the position after the last.
    fn generate(
        &self,
        from: u64,
        end: u64,
        most: usize,
        columns: &[usize],
        projected: &SchemaRef,
    ) -> Result<(RecordBatch, u64)>;
}

#[derive(Debug)]
pub(crate) struct GeneratorSource<G> {
    pub generator: Arc<G>,
    /// Position at which there is nothing more, ever.
    pub end: Option<u64>,
    /// Positions a second, `None`: as fast as it goes.
    pub rate: Option<f64>,
    pub chunk_rows: usize,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl<G: Generate> Source for GeneratorSource<G> {
    fn schema(&self) -> SchemaRef {
        self.generator.schema()
    }

    async fn reader(
        &self,
        from: &Positions,
        until: Option<&Positions>,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn SourceReader>> {
        let (schema, columns) = projected(&self.generator.schema(), projection)?;
        let position = position(from)?;
        let (end, rate) = match until {
            Some(until) => (Some(self::position(until)?), None),
            None => (self.end, self.rate),
        };
        Ok(Box::new(GeneratorReader {
            generator: self.generator.clone(),
            position,
            end,
            pace: Pace::new(self.clock.clone(), rate),
            chunk_rows: self.chunk_rows,
            schema,
            columns,
            lane: SPLIT.into(),
        }))
    }

    fn is_bounded(&self) -> bool {
        self.end.is_some()
    }
}

fn position(positions: &Positions) -> Result<u64> {
    match positions.get(SPLIT) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            Error::new(SqlState::DataCorrupted, format!("a generator's position must be a number, not \"{text}\""))
        }),
    }
}

struct GeneratorReader<G> {
    generator: Arc<G>,
    position: u64,
    end: Option<u64>,
    pace: Pace,
    chunk_rows: usize,
    schema: SchemaRef,
    columns: Vec<usize>,
    lane: Arc<str>,
}

#[async_trait]
impl<G: Generate> SourceReader for GeneratorReader<G> {
    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        let end = self.end.unwrap_or(u64::MAX);
        if self.position >= end {
            return Ok(None);
        }
        let allowed = self.pace.ready().await;
        let end = end.min(self.position.saturating_add(allowed as u64));
        let (batch, after) =
            self.generator.generate(self.position, end, self.chunk_rows, &self.columns, &self.schema)?;
        self.pace.spend((after - self.position) as usize);
        self.position = after;
        Ok(Some(SourceBatch {
            lane: self.lane.clone(),
            bytes: batch.get_array_memory_size(),
            batch,
            places: None,
            positions: Positions::from([(SPLIT.to_string(), after.to_string())]),
            dropped: 0,
            changes: None,
            dead: Vec::new(),
            unfinished: false,
            unknown: Vec::new(),
            into: None,
        }))
    }

    fn lag_rows(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }
}
