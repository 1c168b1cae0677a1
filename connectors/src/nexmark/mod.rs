//! `connector = 'nexmark'`: the people, auctions and bids of the Nexmark benchmark, as the public generator makes them.
//!
//! ```text
//!   event number n ──kind of n──▶ person | auction | bid ──(seeded by n)──▶ row ──wanted columns──▶ batch
//! ```
//!
//! Of 50 events one is a person, three are auctions and 46 are bids. A source gives the rows of one kind, or with
//! `type = 'event'` all of them; its position counts events of all kinds, so that sources of different kinds with the same
//! options tell one story. Event time starts at `nexmark.base.time` and goes by the event number: 10,000 events a second, or
//! `nexmark.event.rate` where that is given.

mod columns;
mod event;

use std::sync::Arc;

use ::nexmark::config::NexmarkConfig;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::array::RecordBatchOptions;
use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, nearest};

use self::columns::{Column, Table};
use self::event::{Events, Row};
use crate::formats::text;
use crate::generator::{Generate, GeneratorSource};
use crate::options::Options;
use crate::spec::{SourceSpec, refuse_format, with_include};
use crate::{CHUNK_ROWS, Source};

/// 2015-07-15 00:00 UTC, where RisingWave's generator starts; fixed, so that replays after a restart agree.
const BASE_TIME_MILLIS: u64 = 1_436_918_400_000;

#[derive(Debug)]
struct Nexmark {
    schema: SchemaRef,
    columns: Vec<Column>,
    table: Table,
    events: Events,
}

pub(crate) fn open(spec: SourceSpec, mut options: Options) -> Result<Arc<dyn Source>> {
    refuse_format(spec.format.as_ref(), "nexmark")?;
    let table = table(&mut options)?;
    let spec = if spec.columns.fields().is_empty() { SourceSpec { columns: table.schema(), ..spec } } else { spec };
    let schema = with_include(
        &spec,
        &[("offset", SqlType::BigInt), ("partition", SqlType::Integer), ("timestamp", SqlType::TimestampTz)],
    )?;
    let mut columns = Vec::new();
    for field in spec.columns.fields() {
        columns.push(table.column(field)?);
    }
    columns.extend(spec.include.iter().map(|(what, _)| Column::included(what)));
    let end = whole(&mut options, "nexmark.event.num", "event.num")?;
    let (rate, config) = config(&mut options)?;
    let seed = whole(&mut options, "nexmark.seed", "seed")?.unwrap_or(0);
    let chunk_rows = whole(&mut options, "nexmark.max.chunk.size", "max.chunk.size")?.unwrap_or(CHUNK_ROWS as u64);
    if !(1..=1 << 20).contains(&chunk_rows) {
        return Err(Error::invalid("option \"nexmark.max.chunk.size\" must be from 1 to 1048576"));
    }
    options.finish()?;
    let events = Events::new(config, seed);
    Ok(Arc::new(GeneratorSource {
        generator: Arc::new(Nexmark { schema, columns, table, events }),
        end,
        rate,
        chunk_rows: chunk_rows as usize,
        clock: spec.clock,
    }))
}

/// The columns that the kind of event has.
pub(crate) fn infer(options: &mut Options) -> Result<SchemaRef> {
    Ok(table(options)?.schema())
}

fn either(options: &mut Options, key: &'static str, short: &'static str) -> Option<String> {
    let (long, short) = (options.take(key), options.take(short));
    long.or(short)
}

fn whole(options: &mut Options, key: &'static str, short: &'static str) -> Result<Option<u64>> {
    match either(options, key, short) {
        None => Ok(None),
        Some(text) => match text.trim().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::invalid(format!("option \"{key}\" must be a whole number, not \"{text}\""))),
        },
    }
}

fn table(options: &mut Options) -> Result<Table> {
    let (long, short) = (either(options, "nexmark.table.type", "table.type"), options.take("type"));
    let Some(name) = long.or(short).map(|t| t.to_lowercase()) else {
        return Err(Error::invalid("option \"nexmark.table.type\" is missing")
            .with_hint("Add nexmark.table.type = 'person' | 'auction' | 'bid' | 'event' to WITH (..)."));
    };
    Table::named(&name).ok_or_else(|| {
        let error = Error::invalid(format!(
            "option \"nexmark.table.type\" must be person, auction, bid or event, not \"{name}\""
        ));
        match nearest(&name, ["person", "auction", "bid", "event"].into_iter()) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error,
        }
    })
}

/// Events a second in real time, if limited, and the generator's own settings.
fn config(options: &mut Options) -> Result<(Option<f64>, NexmarkConfig)> {
    let mut config = NexmarkConfig { base_time: base_time(options)?, ..NexmarkConfig::default() };
    let gap = whole(options, "nexmark.min.event.gap.in.ns", "min.event.gap.in.ns")?.filter(|gap| *gap > 0);
    let rate = whole(options, "nexmark.event.rate", "event.rate")?.filter(|rate| *rate > 0);
    if let Some(rate) = rate {
        config.first_rate = rate as usize;
        config.next_rate = rate as usize;
    }
    match (rate, gap) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("give either \"nexmark.event.rate\" or \"nexmark.min.event.gap.in.ns\""))
        }
        (Some(rate), None) => Ok((Some(rate as f64), config)),
        (None, Some(gap)) => Ok((Some(1e9 / gap as f64), config)),
        (None, None) => Ok((None, config)),
    }
}

/// In milliseconds, given as such or as a timestamp.
fn base_time(options: &mut Options) -> Result<u64> {
    let Some(value) = either(options, "nexmark.base.time", "base.time") else { return Ok(BASE_TIME_MILLIS) };
    if let Ok(millis) = value.trim().parse() {
        return Ok(millis);
    }
    let array =
        text::parse_one(&value, &SqlType::TimestampTz).map_err(|e| e.context("option \"nexmark.base.time\""))?;
    let micros = crate::datagen::raw(&array)?;
    u64::try_from(micros / 1000).map_err(|_| Error::invalid("option \"nexmark.base.time\" must not be before 1970"))
}

impl Generate for Nexmark {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn generate(
        &self,
        from: u64,
        end: u64,
        most: usize,
        columns: &[usize],
        projected: &SchemaRef,
    ) -> Result<(RecordBatch, u64)> {
        let wanted: Vec<&Column> = columns.iter().map(|index| &self.columns[*index]).collect();
        let effort = self.table.effort(&wanted);
        let expected = most.min((end - from) as usize);
        let mut builders: Vec<_> = wanted.iter().map(|column| column.builder(expected)).collect();
        let mut row = Row::default();
        let (mut number, mut rows) = (from, 0);
        while number < end && rows < most {
            let kind = self.events.kind(number);
            if self.table.holds(kind) {
                self.events.fill(number, &effort, &mut row);
                for builder in &mut builders {
                    builder.append(&row);
                }
                rows += 1;
            }
            number += 1;
        }
        let arrays = builders.into_iter().zip(projected.fields()).map(|(builder, field)| builder.finish(field));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        Ok((RecordBatch::try_new_with_options(projected.clone(), arrays, &options)?, number))
    }
}

#[cfg(test)]
mod tests;
