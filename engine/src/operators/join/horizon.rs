//! When rows of a join's input can meet nothing any more: no partner can come, and they do not change themselves.
//!
//! ```text
//!                 time of the row           time + reach
//!   ──────────────────┼──────────────────────────┼─────────────────▶ event time
//!                                                └ let go when the other input's watermark is beyond; if the input is
//!                                                  updating, its own must be beyond the row, too
//! ```
//!
//! Rows that are never taken back, and of which nobody asks when they go, are indexed in pieces of those that come together and have
//! about the same time: a piece goes with its last row.
//!
//! A row that meets one partner at most, the next in time, waits until it has met one: it goes by the time of that.

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::scalar::ScalarValue;
use tidemark_common::plan::Within;
use tidemark_common::{Error, Result};
use tidemark_storage::{Entry, EpochCommit, KeyedState};

use crate::operators::aggregate::keys::on_time;
use crate::operators::time_index::{TimeIndex, check_time, micros, watermark_micros};
use crate::operators::{Chunks, StepContext, Watermarks};

/// Rows of a piece at most, and the microseconds between the first and the last.
pub const PIECE_ROWS: usize = 256;
pub const PIECE_SPAN: i64 = 1_000_000;

pub struct Horizon {
    is_left: bool,
    time: (usize, FieldRef),
    partners_time: (usize, FieldRef),
    /// How much later a partner's time may be than the row's.
    reach: i64,
    append_only: bool,
    pub in_pieces: bool,
    /// How far the partners have been taken to be while their input was idle.
    passed: Option<i64>,
    is_restored: bool,
    /// Rows are looked for by the time of the partner that they have met.
    pub until_met: bool,
    /// By the rows' times (their partners'), their keys; the value is how long the part is that the join's key makes. By the last time
    /// of a piece, the first of its keys; the value is the keys, each behind its length and that of the join's.
    rows: TimeIndex,
}

impl Horizon {
    /// `None`: rows of this input are kept for ever. `asks`: somebody wants to know when a row goes.
    pub fn new(
        within: &Within,
        is_left: bool,
        [left, right]: [&SchemaRef; 2],
        (append_only, asks): (bool, bool),
        entries: KeyedState,
    ) -> Result<Option<Self>> {
        let until_met = is_left && within.until_met;
        let Some(reach) = within.reach(is_left).or(until_met.then_some(0)) else { return Ok(None) };
        let of = |schema: &SchemaRef, column: usize| (column, schema.fields()[column].clone());
        let (mut time, mut partners_time) = (of(left, within.left), of(right, within.right));
        if !is_left {
            std::mem::swap(&mut time, &mut partners_time);
        }
        check_time(&time.1)?;
        check_time(&partners_time.1)?;
        let rows = TimeIndex::new(entries);
        Ok(Some(Self {
            is_left,
            time,
            partners_time,
            reach,
            append_only,
            in_pieces: append_only && !asks && !until_met,
            passed: None,
            is_restored: false,
            until_met,
            rows,
        }))
    }

    /// Its own changes in `chunks`, without those of rows that may have been let go: none comes below the watermark, unless one of
    /// several inputs behind it was idle. Gives how many those were.
    pub fn on_time(&self, ctx: &StepContext<'_>, chunks: Chunks, schema: &SchemaRef) -> Result<(Chunks, u64)> {
        if self.append_only {
            return Ok((chunks, 0));
        }
        let own = if self.is_left { ctx.watermarks_before } else { ctx.right_watermarks_before };
        on_time(chunks, self.time.0, schema, own)
    }

    /// The partners in `chunks`, without those that come too late to meet what has been let go: none does, unless the partners' input
    /// was idle and this one has gone on without it. Gives how many those were.
    pub fn partners_on_time(
        &mut self,
        ctx: &StepContext<'_>,
        chunks: Chunks,
        schema: &SchemaRef,
    ) -> Result<(Chunks, u64)> {
        if !self.is_restored {
            self.passed = self.rows.noted(ctx.snapshot)?;
            self.is_restored = true;
        }
        let Some(passed) = self.passed else { return Ok((chunks, 0)) };
        let passed = ScalarValue::TimestampMicrosecond(Some(passed), None);
        on_time(chunks, self.partners_time.0, schema, &Watermarks::from([(self.partners_time.0, passed)]))
    }

    /// Rows with times below it can be let go.
    pub fn bound(&mut self, ctx: &StepContext<'_>) -> Result<Option<i64>> {
        let (own, others, idle) = match self.is_left {
            true => (ctx.watermarks, ctx.right_watermarks, ctx.idle),
            false => (ctx.right_watermarks, ctx.watermarks, [ctx.idle[1], ctx.idle[0]]),
        };
        let own = watermark_micros(own, self.time.0, &self.time.1)?;
        let mut partners = watermark_micros(others, self.partners_time.0, &self.partners_time.1)?;
        if idle == [false, true] && partners < own {
            // A partner that is silent holds nobody back.
            partners = own;
            if self.passed < own {
                self.passed = own;
                own.into_iter().for_each(|own| self.rows.note(own));
            }
        }
        let Some(partners) = partners.max(self.passed) else { return Ok(None) };
        let meets_nothing = partners.saturating_sub(self.reach);
        if self.append_only {
            return Ok(Some(meets_nothing));
        }
        Ok(own.map(|changes| meets_nothing.min(changes)))
    }

    /// The times of partners.
    pub fn partners_times(&self, partners: &RecordBatch) -> Result<Vec<Option<i64>>> {
        micros(partners.column(self.partners_time.0))
    }

    /// The times of rows, as they are indexed. A row without one meets nothing: it is kept only if it may be taken back.
    pub fn times(&self, rows: &RecordBatch) -> Result<Vec<Option<i64>>> {
        let times: &ArrayRef = rows.column(self.time.0);
        let without = self.append_only.then_some(i64::MIN);
        Ok(micros(times)?.into_iter().map(|time| time.or(without)).collect())
    }

    /// A row is kept from now on, or no longer.
    pub fn keep(&mut self, time: Option<i64>, key: &[u8], key_len: usize, kept: bool) {
        let Some(time) = time else { return };
        match kept {
            true => self.rows.put(time, key, &(key_len as u32).to_be_bytes()),
            false => self.rows.delete(time, key),
        }
    }

    /// Rows are kept from now on: their times, keys and the lengths of the join's keys.
    pub fn keep_in_pieces(&mut self, mut rows: Vec<(i64, &[u8], usize)>) {
        rows.sort_unstable();
        let mut rest = rows.as_slice();
        while let Some((first, ..)) = rest.first() {
            let last = first.saturating_add(PIECE_SPAN);
            let len = rest.partition_point(|(time, ..)| *time <= last).min(PIECE_ROWS);
            let (piece, others) = rest.split_at(len);
            let mut keys = Vec::new();
            for (_, key, key_len) in piece {
                keys.extend((key.len() as u32).to_be_bytes());
                keys.extend((*key_len as u32).to_be_bytes());
                keys.extend_from_slice(key);
            }
            self.rows.put(piece[len - 1].0, piece[0].1, &keys);
            rest = others;
        }
    }

    /// The keys of the rows to let go; the value of each is the length of the join's key.
    pub fn take(&mut self, ctx: &StepContext<'_>) -> Result<Vec<Entry>> {
        let Some(bound) = self.bound(ctx)? else { return Ok(Vec::new()) };
        let taken = self.rows.take_below(ctx.snapshot, bound)?;
        if !self.in_pieces {
            return Ok(taken);
        }
        let mut rows = Vec::new();
        for (_, piece) in &taken {
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                rows.push(split_row(&mut rest).ok_or_else(|| Error::internal("a piece of a join's rows is damaged"))?);
            }
        }
        Ok(rows)
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.rows.flush(commit);
    }
}

fn split_row(rest: &mut &[u8]) -> Option<Entry> {
    let (len, tail) = rest.split_first_chunk::<4>()?;
    let (key_len, tail) = tail.split_first_chunk::<4>()?;
    let (key, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = tail;
    Some((key.to_vec(), key_len.to_vec()))
}

/// The length in a taken entry.
pub fn key_len(value: &[u8]) -> usize {
    value.try_into().map_or(0, u32::from_be_bytes) as usize
}
