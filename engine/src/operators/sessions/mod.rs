//! GROUP BY the sessions of SESSION, over rows that only come: a session is kept as the states of its aggregates, not as its rows.
//!
//! ```text
//!   rows ─▶ late ones out ─▶ spans.rs: the session of each row, and the kept ones that it extends or joins
//!                                                │
//!   kept.rs: a partition's open sessions ──▶ their states ──merged with──▶ those of the rows ─▶ open: kept again
//!                                                                                           └─▶ final: sent, forgotten
//!   the new watermark ─▶ partitions whose timer it has passed ─▶ sessions that end below it: final
//! ```
//!
//! A session that begins and ends within an epoch is never stored. Sessions are sent when they are final, in the order of their
//! ends, or at each change: -old +new, where several are one now several -old.

mod kept;
mod spans;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array,
    new_empty_array, new_null_array,
};
use datafusion::arrow::compute::{concat_batches, interleave, take};
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use tidemark_common::plan;
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, RowCodec};

use self::kept::Before;
use self::spans::{Joined, Span};
use super::aggregate::keys::{GroupNumbers, KeyCodec, on_time};
use super::aggregate::{Call, Owned, Placement, conform, copies, size_of};
use super::time_index::{TimeIndex, check_time, watermark_micros};
use super::{Chunks, Operator, StateSize, StepContext, Watermarks, only_input};

/// The part of the memory for state that the index by time has.
const TIMERS_SHARE: usize = 8;

pub struct Sessions {
    placement: Placement,
    input: SchemaRef,
    output: SchemaRef,
    keys: KeyCodec,
    /// The partition's columns; the time is before them.
    key_columns: RangeInclusive<usize>,
    gap: i64,
    calls: Vec<Call>,
    columns: Vec<Arc<dyn PhysicalExpr>>,
    emit_on_close: bool,
    /// States of the calls; where changes are sent, what was sent and is not a state itself, too.
    stored: RowCodec,
    results: RowCodec,
    partitions: KeyedState,
    /// Partitions by their timers.
    timers: TimeIndex,
    late_rows: u64,
}

/// What comes in an epoch, and which partitions it is for.
struct Epoch {
    partitions: GroupNumbers,
    /// Partitions whose timers have passed.
    due: BTreeSet<usize>,
    rows: RecordBatch,
    /// The partition of each row.
    of: Vec<usize>,
    watermark: Option<i64>,
}

/// What a partition has from now on.
struct Kept {
    timer: i64,
    value: Vec<u8>,
}

/// Sessions with one row of each column.
struct Side {
    partitions: Vec<usize>,
    spans: Vec<Span>,
    states: Vec<ArrayRef>,
    /// Where changes are sent.
    results: Vec<ArrayRef>,
}

/// The place of the time in the input.
const TIME: usize = 0;

const OLD: usize = 0;
const NEW: usize = 1;

impl Sessions {
    pub fn new(plan: &plan::Sessions, input: &SchemaRef, output: &SchemaRef, placement: Placement) -> Result<Self> {
        check_time(input.field(TIME))?;
        let key_columns = 1..=plan.keys;
        let calls = plan.calls.iter().map(|call| Call::new(call, false)).collect::<Result<Vec<_>>>()?;
        let results: Vec<FieldRef> = calls.iter().map(|call| Arc::clone(&call.result)).collect();
        let mut stored: Vec<FieldRef> = calls.iter().flat_map(|c| c.state_fields.iter().map(Arc::clone)).collect();
        if !plan.emit_on_close {
            stored.extend(calls.iter().filter(|c| !c.state_is_result()).map(|c| Arc::clone(&c.result)));
        }
        let for_timers = placement.cache_budget / TIMERS_SHARE;
        Ok(Self {
            input: Arc::clone(input),
            output: Arc::clone(output),
            keys: KeyCodec::new(&input.fields()[key_columns.clone()], None)?,
            key_columns,
            gap: plan.gap,
            columns: plan.columns.clone(),
            emit_on_close: plan.emit_on_close,
            stored: RowCodec::new(&stored)?,
            results: RowCodec::new(&results)?,
            calls,
            partitions: KeyedState::new(placement.state(0), placement.cache_budget - for_timers),
            timers: TimeIndex::new(KeyedState::new(placement.state(1), for_timers)),
            placement,
            late_rows: 0,
        })
    }

    fn take(&mut self, ctx: &StepContext<'_>, chunks: Chunks) -> Result<Epoch> {
        let (chunks, late_rows) = on_time(chunks, TIME, &self.input, ctx.watermarks_before)?;
        self.late_rows += late_rows;
        let copies = chunks.into_iter().map(|delta| Ok(copies(delta, &self.placement)?.batch));
        let mut batches = copies.collect::<Result<Vec<_>>>()?;
        let rows = match batches.len() {
            1 => batches.remove(0),
            _ => concat_batches(&self.input, &batches)?,
        };
        let mut partitions = GroupNumbers::default();
        let of = match rows.num_rows() {
            0 => Vec::new(),
            count => self.keys.number(&rows.columns()[self.key_columns.clone()], count, &mut partitions)?,
        };
        let watermark = watermark_micros(ctx.watermarks, TIME, &self.input.fields()[TIME])?;
        let mut due = BTreeSet::new();
        if let Some(watermark) = watermark {
            let passed: Vec<Vec<u8>> =
                self.timers.take_below(ctx.snapshot, watermark)?.into_iter().map(|(key, _)| key).collect();
            let nothing = vec![(); passed.len()];
            let mine = Owned { placement: &self.placement, keys: &self.keys }.only(passed, nothing)?.0;
            due.extend(mine.iter().map(|key| partitions.number(None, key)));
        }
        self.partitions.load(ctx.snapshot, &partitions.keys())?;
        Ok(Epoch { partitions, due, rows, of, watermark })
    }

    fn joined(&self, epoch: &Epoch, before: &Before<'_>) -> Result<Joined> {
        let times = epoch.rows.column(TIME).as_primitive::<TimestampMicrosecondType>();
        if times.null_count() > 0 {
            return Err(Error::internal(format!("{}: a row of a session has no time", self.placement.name())));
        }
        Joined::new(&epoch.of, times.values(), &before.spans, &before.of_partition, self.gap)
    }

    /// Those of the kept sessions that `which` names.
    fn old(&self, before: &Before<'_>, which: &[usize]) -> Result<Side> {
        let mut states = match which.is_empty() {
            true => {
                self.calls.iter().flat_map(|call| &call.state_fields).map(|f| new_empty_array(f.data_type())).collect()
            }
            false => self.stored.decode(which.iter().map(|&at| before.states[at]))?,
        };
        let mut sent = states.split_off(self.calls.iter().map(|call| call.state_fields.len()).sum()).into_iter();
        let mut results = Vec::new();
        if !self.emit_on_close {
            let mut of_calls = states.as_slice();
            for call in &self.calls {
                let (own, others) = of_calls.split_at(call.state_fields.len());
                let stored = if call.state_is_result() { Some(Arc::clone(&own[0])) } else { sent.next() };
                results.push(stored.unwrap_or_else(|| new_empty_array(call.result.data_type())));
                of_calls = others;
            }
        }
        Ok(Side {
            partitions: which.iter().map(|&at| before.partitions[at]).collect(),
            spans: which.iter().map(|&at| before.spans[at]).collect(),
            states,
            results,
        })
    }

    /// The sessions with rows. `parts`: of `old`, which session each has become a part of.
    fn new_side(&self, epoch: &Epoch, joined: Joined, old: &Side, parts: &[Option<usize>]) -> Result<Side> {
        let total = joined.spans.len();
        let (rows, of): (Vec<u32>, Vec<usize>) =
            parts.iter().enumerate().filter_map(|(row, part)| part.map(|part| (row as u32, part))).unzip();
        let rows = UInt32Array::from(rows);
        let mut states = Vec::with_capacity(old.states.len());
        for call in &self.calls {
            if total == 0 {
                states.extend(call.state_fields.iter().map(|field| new_empty_array(field.data_type())));
                continue;
            }
            let mut accumulator = call.accumulator()?;
            call.update(accumulator.as_mut(), &epoch.rows, &joined.of_rows, total)?;
            let added = call.states(accumulator.as_mut())?;
            let own = &old.states[states.len()..states.len() + call.state_fields.len()];
            let stored = own.iter().map(|state| take(state, &rows, None)).collect::<Result<Vec<_>, _>>()?;
            states.extend(call.joined(&stored, &of, added)?);
        }
        let results = if self.emit_on_close { Vec::new() } else { self.results_of(&states, total)? };
        let of_partition = joined.of_partition.iter().enumerate();
        let partitions = of_partition.flat_map(|(partition, of)| std::iter::repeat_n(partition, of.len())).collect();
        Ok(Side { partitions, spans: joined.spans, states, results })
    }

    fn results_of(&self, mut states: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let of_call = |call: &Call| {
            let (own, others) = states.split_at(call.state_fields.len());
            states = others;
            if rows == 0 { Ok(new_empty_array(call.result.data_type())) } else { call.results_of(own, rows) }
        };
        self.calls.iter().map(of_call).collect()
    }

    /// What has become final, in the order of time.
    fn closed(&self, epoch: &Epoch, sides: [&Side; 2], mut picks: Vec<(usize, usize)>) -> Result<Option<Delta>> {
        picks.sort_by_cached_key(|&(side, row)| {
            let Span { start, end } = sides[side].spans[row];
            (end, start, epoch.partitions.key(sides[side].partitions[row]))
        });
        let states = sides[OLD].states.iter().zip(&sides[NEW].states);
        let states = states.map(|(old, new)| interleave(&[old, new], &picks)).collect::<Result<Vec<_>, _>>()?;
        let results = self.results_of(&states, picks.len())?;
        self.rows(epoch, sides, &picks, results, None)
    }

    /// -old +new, session by session.
    fn changes(&self, epoch: &Epoch, sides: [&Side; 2], parts: &[Option<usize>]) -> Result<Option<Delta>> {
        let encoded = |side: &Side| self.results.encode_rows(&side.results, side.spans.len());
        let (was, is) = (encoded(sides[OLD])?, encoded(sides[NEW])?);
        let mut of_session: Vec<Vec<usize>> = vec![Vec::new(); sides[NEW].spans.len()];
        parts.iter().enumerate().for_each(|(old, part)| {
            if let Some(session) = part {
                of_session[*session].push(old);
            }
        });
        let mut picks = Vec::new();
        for (session, parts) in of_session.into_iter().enumerate() {
            let is_same =
                |old: usize| sides[OLD].spans[old] == sides[NEW].spans[session] && was.row(old) == is.row(session);
            if !matches!(parts.as_slice(), [only] if is_same(*only)) {
                picks.extend(parts.into_iter().map(|old| (OLD, old)).chain([(NEW, session)]));
            }
        }
        let results = sides[OLD].results.iter().zip(&sides[NEW].results);
        let results = results.map(|(old, new)| interleave(&[old, new], &picks)).collect::<Result<Vec<_>, _>>()?;
        let weights = picks.iter().map(|&(side, _)| if side == OLD { -1 } else { 1 });
        let weights = picks.iter().any(|(side, _)| *side == OLD).then(|| Int64Array::from_iter_values(weights));
        self.rows(epoch, sides, &picks, results, weights)
    }

    fn rows(
        &self,
        epoch: &Epoch,
        sides: [&Side; 2],
        picks: &[(usize, usize)],
        results: Vec<ArrayRef>,
        weights: Option<Int64Array>,
    ) -> Result<Option<Delta>> {
        if picks.is_empty() {
            return Ok(None);
        }
        let keys =
            self.keys.decode(picks.iter().map(|&(side, row)| epoch.partitions.key(sides[side].partitions[row])))?;
        let edge = |of: fn(&Span) -> i64| {
            let edges = picks.iter().map(|&(side, row)| of(&sides[side].spans[row]));
            Arc::new(TimestampMicrosecondArray::from_iter_values(edges)) as ArrayRef
        };
        let bounds = [edge(|span| span.start), edge(|span| span.end)];
        let mut columns = of_sessions(&self.columns, &self.input.fields()[..=*self.key_columns.end()], keys, bounds)?;
        columns.extend(results);
        let columns = columns.into_iter().zip(self.output.fields()).map(|(c, field)| conform(c, field.data_type()));
        let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
        let columns = columns.collect::<Result<_>>()?;
        Ok(Some(Delta::new(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?, weights)))
    }

    /// What touched partitions have from now on: those of `before` that are neither final nor a part of another, and the open ones of
    /// `new`.
    fn values(&self, epoch: &Epoch, before: &Before<'_>, gone: &[bool], new: &Side) -> Result<Vec<Option<Kept>>> {
        let open: Vec<usize> = (0..new.spans.len()).filter(|at| !epoch.is_final(new.spans[*at])).collect();
        let sent = self.calls.iter().zip(&new.results).filter(|(call, _)| !call.state_is_result());
        let columns = new.states.iter().chain(sent.map(|(_, result)| result)).map(Arc::clone);
        let columns: Vec<ArrayRef> = match open.len() == new.spans.len() {
            true => columns.collect(),
            false => {
                let open = UInt32Array::from_iter_values(open.iter().map(|at| *at as u32));
                columns.map(|column| take(&column, &open, None)).collect::<Result<_, _>>()?
            }
        };
        let encoded = self.stored.encode_rows(&columns, open.len())?;
        let mut open = open.iter().enumerate().peekable();
        let mut values = Vec::with_capacity(epoch.partitions.len());
        let mut sessions: Vec<(Span, &[u8])> = Vec::new();
        for (partition, of) in before.of_partition.iter().enumerate() {
            sessions.clear();
            let stay = of.clone().filter(|old| !gone[*old]);
            sessions.extend(stay.map(|old| (before.spans[old], before.states[old])));
            while let Some((row, &at)) = open.next_if(|(_, at)| new.partitions[**at] == partition) {
                sessions.push((new.spans[at], encoded.row(row)));
            }
            sessions.sort_unstable_by_key(|(span, _)| span.start);
            // Sessions lie apart: the first to begin is the first to end.
            values.push(match (sessions.first(), before.timers[partition]) {
                (None, _) => None,
                (Some((first, _)), timer) => {
                    let timer = timer.filter(|timer| *timer <= first.end && !epoch.due.contains(&partition));
                    let timer = timer.unwrap_or(first.end);
                    Some(Kept { timer, value: kept::value(timer, &sessions)? })
                }
            });
        }
        Ok(values)
    }

    /// `timers`: of partitions that had sessions before.
    fn keep(&mut self, epoch: &Epoch, timers: &[Option<i64>], values: Vec<Option<Kept>>) {
        for (partition, value) in values.into_iter().enumerate() {
            let key = epoch.partitions.key(partition);
            // One that is due has been taken out.
            let timer = timers[partition].filter(|_| !epoch.due.contains(&partition));
            let next = value.as_ref().map(|kept| kept.timer);
            if timer != next {
                timer.into_iter().for_each(|timer| self.timers.delete(timer, key));
                next.into_iter().for_each(|timer| self.timers.put(timer, key, &[]));
            }
            match value {
                Some(kept) => self.partitions.put(key, &kept.value),
                None if timers[partition].is_some() => self.partitions.delete(key),
                None => {}
            }
        }
    }
}

impl Epoch {
    /// No row can join it any more.
    fn is_final(&self, span: Span) -> bool {
        self.watermark.is_some_and(|watermark| span.end < watermark)
    }
}

/// Expressions over the partition's columns and the edges of sessions. `fields`: the time's, and the partition's.
fn of_sessions(
    exprs: &[Arc<dyn PhysicalExpr>],
    fields: &[FieldRef],
    keys: Vec<ArrayRef>,
    edges: [ArrayRef; 2],
) -> Result<Vec<ArrayRef>> {
    let Some((time, of_keys)) = fields.split_first() else { return Err(Error::internal("sessions have no time")) };
    let edge_fields = ["window_start", "window_end"].map(|name| Field::new(name, time.data_type().clone(), true));
    let key_fields = of_keys.iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(key_fields.chain(edge_fields).collect::<Vec<_>>()));
    let edges = edges.into_iter().map(|edge| conform(edge, time.data_type())).collect::<Result<Vec<_>>>()?;
    let batch = RecordBatch::try_new(schema, keys.into_iter().chain(edges).collect())?;
    Ok(exprs.iter().map(|expr| expr.evaluate(&batch)?.into_array(batch.num_rows())).collect::<Result<_, _>>()?)
}

/// The watermarks of the output: no session that is sent later ends before that of the time.
pub fn watermarks(plan: &plan::Sessions, input: &Watermarks, schema: &Schema) -> Result<Watermarks> {
    let fields = &schema.fields()[..=plan.keys];
    let Some(reached) = watermark_micros(input, TIME, &fields[TIME])? else { return Ok(Watermarks::new()) };
    let keys = fields[1..].iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let edges = [None, Some(reached)].map(|edge| Arc::new(TimestampMicrosecondArray::from(vec![edge])) as ArrayRef);
    let values = of_sessions(&plan.columns, fields, keys, edges)?;
    let values = values.iter().map(|value| ScalarValue::try_from_array(value, 0));
    Ok(values.collect::<Result<Vec<_>, _>>()?.into_iter().enumerate().filter(|(_, value)| !value.is_null()).collect())
}

impl Operator for Sessions {
    fn step(&mut self, ctx: &StepContext<'_>, inputs: Vec<Chunks>) -> Result<Chunks> {
        let epoch = self.take(ctx, only_input(inputs)?)?;
        if epoch.partitions.is_empty() {
            return Ok(Chunks::new());
        }
        let before = Before::read(&epoch.partitions, |key| self.partitions.get(key))
            .ok_or_else(|| Error::internal(format!("{}: stored sessions are damaged", self.placement.name())))?;
        let mut joined = self.joined(&epoch, &before)?;
        let is_part = std::mem::take(&mut joined.of_kept);
        let is_gone = |(part, span): (&Option<usize>, &Span)| part.is_some() || epoch.is_final(*span);
        let gone: Vec<bool> = is_part.iter().zip(&before.spans).map(is_gone).collect();
        let which: Vec<usize> = (0..gone.len()).filter(|at| gone[*at]).collect();
        let parts: Vec<Option<usize>> = which.iter().map(|at| is_part[*at]).collect();
        let old = self.old(&before, &which)?;
        let new = self.new_side(&epoch, joined, &old, &parts)?;
        let sent = if self.emit_on_close {
            let of_old = (0..which.len()).filter(|at| parts[*at].is_none()).map(|at| (OLD, at));
            let of_new = (0..new.spans.len()).filter(|at| epoch.is_final(new.spans[*at])).map(|at| (NEW, at));
            self.closed(&epoch, [&old, &new], of_old.chain(of_new).collect())?
        } else {
            self.changes(&epoch, [&old, &new], &parts)?
        };
        let values = self.values(&epoch, &before, &gone, &new)?;
        let timers = before.timers;
        self.keep(&epoch, &timers, values);
        Ok(sent.into_iter().collect())
    }

    fn flush(&mut self, commit: &mut EpochCommit) -> Result<()> {
        self.partitions.flush(commit);
        self.timers.flush(commit);
        Ok(())
    }

    /// The partitions: timers are one small entry each besides.
    fn state_size(&self) -> StateSize {
        size_of([&self.partitions])
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}
