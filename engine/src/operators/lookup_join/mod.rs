//! Lookup join: rows that only come meet those that a table of another system has for their key.
//!
//! ```text
//!   rows ─▶ key known? ─ yes ─▶ joined, sent                       Cache: keys that were answered, for as long as their ttl
//!                │ no
//!                ▼
//!            Waiting ── key asked for after the commit ──▶ Asker ──▶ the other system
//!                │                                            │
//!                └────────── joined, sent ◀── an answer ──────┘    in a later epoch
//! ```
//!
//! Nothing waits for the other system inside of an epoch: a row whose key is not known is kept, with the epoch's commit, until
//! the answer has come, and sent then. Rows of one key are sent in the order in which they came. What has been sent is never
//! taken back, whatever becomes of the table: after a restart only rows that still waited are asked for once more.
//!
//! The watermark of the output waits for the rows that do: see [`LookupJoin::held_back`].

mod asker;
mod cache;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use tidemark_common::connector::LookupCache;
use tidemark_common::plan::{self, JoinKind, Node};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, RowCodec, Snapshot};

use self::asker::{Answer, Asker, Question};
pub use self::asker::{LookupReport, Outside};
use self::cache::{Cache, Found};
use self::waiting::{Waited, Waiting};
use super::aggregate::Placement;
use super::join::{Keys, Output, Picked, Residual};
use super::{Chunks, Operator, StateSize, StepContext, Watermarks, only_input, true_rows};

/// Keys that are asked for together.
const MAX_KEYS: usize = 1000;
/// Pairs that are looked at together.
const BLOCK: usize = 8192;

pub struct LookupJoin {
    plan: plan::LookupJoin,
    input: SchemaRef,
    /// Of the input, and of the table's rows.
    keys: Keys,
    keys_found: Keys,
    key_codec: RowCodec,
    key_schema: SchemaRef,
    found_codec: RowCodec,
    residual: Option<Residual>,
    output: Output,
    waiting: Waiting,
    cache: Cache,
    /// That share what may be remembered.
    shards: usize,
    /// Keys that are to be asked for once what waits for them is committed.
    to_ask: Vec<Vec<u8>>,
    asker: Asker,
    /// The watermark of the output has not got as far as it may: another step is needed, whether rows come or not.
    lags: bool,
}

/// How a lookup fares, for `tidemark.lookups` and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookupStatus {
    pub table: String,
    pub rows_waiting: u64,
    pub bytes_waiting: u64,
    pub keys_waiting: u64,
    pub keys_cached: u64,
    /// Rows whose key was known.
    pub hits: u64,
    pub report: LookupReport,
}

impl LookupStatus {
    /// Two shards of one operator.
    pub fn and(self, other: Self) -> Self {
        let report = if self.report.failures >= other.report.failures { &self.report } else { &other.report };
        Self {
            rows_waiting: self.rows_waiting + other.rows_waiting,
            bytes_waiting: self.bytes_waiting + other.bytes_waiting,
            keys_waiting: self.keys_waiting + other.keys_waiting,
            keys_cached: self.keys_cached + other.keys_cached,
            hits: self.hits + other.hits,
            report: LookupReport { answered: self.report.answered + other.report.answered, ..report.clone() },
            table: self.table,
        }
    }
}

impl LookupJoin {
    pub fn new(plan: &plan::LookupJoin, node: &Node, input: &SchemaRef, placement: &Placement) -> Result<Self> {
        let (on_input, on_found) = plan.keys();
        let key_fields: Vec<FieldRef> = on_found.iter().map(|&c| Arc::clone(&plan.schema.fields()[c])).collect();
        let found: Vec<FieldRef> = plan.schema.fields().iter().cloned().collect();
        let all: Vec<FieldRef> = input.fields().iter().chain(plan.schema.fields()).cloned().collect();
        let residual = plan.residual.as_ref().map(|expr| Residual::new(expr, &Schema::new(all)));
        let watermarks = node.properties.watermarks.iter().copied().collect();
        Ok(Self {
            input: Arc::clone(input),
            waiting: Waiting::new(input, on_input.clone(), watermarks, placement)?,
            keys: Keys::new(input, on_input, false)?,
            keys_found: Keys::new(&plan.schema, on_found.clone(), false)?,
            key_codec: RowCodec::for_keys(&key_fields)?,
            key_schema: Arc::new(Schema::new(key_fields)),
            found_codec: RowCodec::new(&found)?,
            residual: residual.transpose()?,
            output: Output::new(plan.output.clone(), input.fields().len(), Arc::clone(&node.schema)),
            cache: Cache::default(),
            shards: placement.shards,
            to_ask: Vec::new(),
            asker: Asker::new(plan.table.clone(), &plan.columns, &on_found, plan.name.clone()),
            lags: false,
            plan: plan.clone(),
        })
    }

    /// By column, the least value of the rows that wait: the watermark of the output does not pass it. Nor does it pass that of
    /// the input *before* the epoch, because any row of the epoch may have to wait:
    ///
    /// ```text
    ///   input's watermark, epoch by epoch    10    20    20    20
    ///   a row at 12 comes, waits, is sent          ▲           ▲
    ///   the output's                          -    10    12    12    20
    /// ```
    pub fn held_back(&mut self, snapshot: &Snapshot) -> Result<Watermarks> {
        self.load(snapshot)?;
        Ok(self.waiting.least(&self.input))
    }

    /// Tells the other system what is asked. To be called when what waits is committed.
    pub fn reach_out(&mut self, outside: &Outside) -> Result<()> {
        while !self.to_ask.is_empty() {
            let rest = self.to_ask.split_off(self.to_ask.len().min(MAX_KEYS));
            let keys = std::mem::replace(&mut self.to_ask, rest);
            let columns = self.key_codec.decode(keys.iter().map(Vec::as_slice))?;
            let batch = RecordBatch::try_new(Arc::clone(&self.key_schema), columns)?;
            self.asker.ask(Question { keys, batch }, outside);
        }
        Ok(())
    }

    pub fn status(&self) -> LookupStatus {
        LookupStatus {
            table: self.plan.name.clone(),
            rows_waiting: self.waiting.rows(),
            bytes_waiting: self.waiting.bytes(),
            keys_waiting: self.waiting.keys(),
            keys_cached: self.cache.len() as u64,
            hits: self.cache.hits(),
            report: self.asker.report(),
        }
    }

    /// What a restart has left waiting is asked for once more.
    fn load(&mut self, snapshot: &Snapshot) -> Result<()> {
        if !self.waiting.is_loaded() {
            self.to_ask = self.waiting.load(snapshot)?;
        }
        Ok(())
    }

    /// Rows that have come: sent if their key is known, kept otherwise.
    fn came(&mut self, ctx: &StepContext<'_>, delta: &Delta) -> Result<Chunks> {
        let (mut now, mut found): (Vec<u32>, Vec<Found>) = (Vec::new(), Vec::new());
        let mut waits: Vec<(u32, Vec<u8>)> = Vec::new();
        let (waiting, cache, to_ask) = (&mut self.waiting, &mut self.cache, &mut self.to_ask);
        self.keys.each(&delta.batch, |row, key| {
            let row = u32::try_from(row).expect("arrow batches of ours are far below 2^32 rows");
            let Some(key) = key else {
                // NULL equals nothing.
                now.push(row);
                found.push(Arc::default());
                return;
            };
            match cache.get(key, ctx.now).filter(|_| !waiting.contains(key)) {
                Some(rows) => {
                    now.push(row);
                    found.push(rows);
                }
                None => {
                    if waiting.expect(key) {
                        to_ask.push(key.to_vec());
                    }
                    waits.push((row, key.to_vec()));
                }
            }
        })?;
        self.waiting.add(delta, waits)?;
        let now = delta.take(&UInt32Array::from(now))?;
        self.joined(&now, &found)
    }

    /// An answer: the rows that have waited for it are sent.
    fn answered(&mut self, ctx: &StepContext<'_>, answer: Answer) -> Result<Chunks> {
        let mut rows = answer.rows;
        if let Some(filter) = &self.plan.filter {
            let mask = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
            let mask = mask.as_any().downcast_ref::<BooleanArray>();
            let mask = mask.ok_or_else(|| Error::internal("the filter of a lookup is not boolean"))?;
            rows = filter_record_batch(&rows, &true_rows(mask))?;
        }
        let encoded = self.found_codec.encode_rows(rows.columns(), rows.num_rows())?;
        let mut by_key: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        self.keys_found.each(&rows, |row, key| {
            if let Some(key) = key {
                by_key.entry(key.to_vec()).or_default().push(encoded.row(row).to_vec());
            }
        })?;
        let found: Vec<Found> = answer.keys.iter().map(|key| by_key.remove(key).unwrap_or_default().into()).collect();
        let Waited { rows, of } = self.waiting.take(ctx.snapshot, &answer.keys)?;
        let of_each: Vec<Found> = of.iter().map(|key| Arc::clone(&found[*key])).collect();
        let keys = answer.cache.keys.div_ceil(self.shards);
        self.cache.keep(answer.keys, found, ctx.now, LookupCache { keys, ..answer.cache });
        self.joined(&rows, &of_each)
    }

    /// The rows with those that were found for each.
    fn joined(&self, delta: &Delta, found: &[Found]) -> Result<Chunks> {
        let mut chunks = Chunks::new();
        let mut matched = vec![false; found.len()];
        let (mut left, mut right): (Vec<u32>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for (row, rows) in found.iter().enumerate() {
            for of_table in rows.iter() {
                left.push(row as u32);
                right.push(of_table);
                if left.len() == BLOCK {
                    chunks.extend(self.pairs(delta, std::mem::take(&mut left), &right, &mut matched)?);
                    right.clear();
                }
            }
        }
        chunks.extend(self.pairs(delta, left, &right, &mut matched)?);
        if self.plan.kind == JoinKind::Left {
            let alone: UInt32Array =
                matched.iter().enumerate().filter(|(_, matched)| !**matched).map(|(row, _)| row as u32).collect();
            if !alone.is_empty() {
                let weights = alone.values().iter().map(|row| delta.weight(*row as usize)).collect();
                let alone = Picked { batch: &delta.batch, rows: &alone };
                chunks.push(self.output.delta(Some(alone), None, None, weights)?);
            }
        }
        Ok(chunks)
    }

    fn pairs(&self, delta: &Delta, left: Vec<u32>, right: &[&[u8]], matched: &mut [bool]) -> Result<Option<Delta>> {
        if left.is_empty() {
            return Ok(None);
        }
        let found =
            RecordBatch::try_new(Arc::clone(&self.plan.schema), self.found_codec.decode(right.iter().copied())?)?;
        let (mut left, mut right) = (UInt32Array::from(left), UInt32Array::from_iter_values(0..right.len() as u32));
        if let Some(residual) = &self.residual {
            let (of_input, of_table) =
                (Picked { batch: &delta.batch, rows: &left }, Picked { batch: &found, rows: &right });
            let holds = residual.holds(of_input, of_table)?;
            let kept = |rows: &UInt32Array| -> UInt32Array {
                rows.values()
                    .iter()
                    .zip(&holds)
                    .filter(|(_, holds)| *holds == Some(true))
                    .map(|(row, _)| *row)
                    .collect()
            };
            (left, right) = (kept(&left), kept(&right));
        }
        left.values().iter().for_each(|row| matched[*row as usize] = true);
        if left.is_empty() {
            return Ok(None);
        }
        let weights = left.values().iter().map(|row| delta.weight(*row as usize)).collect();
        let (left, right) = (Picked { batch: &delta.batch, rows: &left }, Picked { batch: &found, rows: &right });
        self.output.delta(Some(left), Some(right), None, weights).map(Some)
    }
}

impl Operator for LookupJoin {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        self.load(ctx.snapshot)?;
        let answers = self.asker.take();
        self.lags = ctx.watermarks_before != ctx.watermarks || !answers.is_empty();
        let mut output = Chunks::new();
        for answer in answers {
            output.extend(self.answered(ctx, answer)?);
        }
        for delta in only_input(inputs)? {
            output.extend(self.came(ctx, &delta)?);
        }
        Ok(output)
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.waiting.flush(commit);
        Ok(())
    }

    fn due_at(&self) -> Result<Option<i64>> {
        let due = self.lags || self.asker.has_news() || !self.waiting.is_loaded();
        Ok(due.then_some(i64::MIN))
    }

    fn state_size(&self) -> StateSize {
        self.waiting.size()
    }

    fn lookup(&self) -> Option<&LookupJoin> {
        Some(self)
    }

    fn lookup_mut(&mut self) -> Option<&mut LookupJoin> {
        Some(self)
    }
}

/// The columns of a batch at those places.
fn columns_at(batch: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|&c| Arc::clone(batch.column(c))).collect()
}
