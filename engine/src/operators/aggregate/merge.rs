//! Accumulator states, merged with what each epoch adds. For append-only input.
//!
//! ```text
//!   group key ─▶ [ state columns of call 1 | of call 2 | ... | results that were sent and are not the state itself ]
//!
//!   stored states ──merge_batch──┐
//!   the epoch's rows ──update────┴▶ accumulators ──state──▶ stored ──▶ results
//! ```
//!
//! Of DISTINCT a call is fed the rows that bring a new value ([`Distinct`]).
//!
//! Results that were sent are stored, not computed again: a state that has been through the store may come to a result that
//! differs in a last bit or in the order of a list, and what is taken back must be what was sent.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::logical_expr::GroupsAccumulator;
use tidemark_common::Result;
use tidemark_storage::{EpochCommit, KeyedState, RowCodec, Snapshot};

use super::calls::Call;
use super::distinct::{Distinct, Fresh, Place};
use super::{Change, Closed, Groups, Owned, Side, Touched};
use crate::operators::StateSize;

pub struct Merge {
    calls: Vec<Call>,
    /// Of calls with DISTINCT, which rows count.
    places: Vec<Option<Place>>,
    distinct: Distinct,
    codec: RowCodec,
    state: KeyedState,
    /// Results are wanted at every change, not only when a group closes.
    sends_changes: bool,
    /// Closed groups are sent as states.
    partial: bool,
}

impl Merge {
    /// `values`: where the values of DISTINCT are kept. States that are sent must have them in themselves.
    pub fn new(
        mut calls: Vec<Call>,
        input: &SchemaRef,
        [state, values]: [KeyedState; 2],
        sends_changes: bool,
        partial: bool,
    ) -> Result<Self> {
        let mut distinct = Distinct::new(values);
        let mut places = vec![None; calls.len()];
        for at in (0..calls.len()).filter(|_| !partial) {
            places[at] = distinct.keep(&calls, at, input)?;
            if places[at].is_some() {
                calls[at] = calls[at].of_each_value(input)?;
            }
        }
        let mut fields: Vec<FieldRef> = calls.iter().flat_map(|c| c.state_fields.iter().map(Arc::clone)).collect();
        if sends_changes {
            fields.extend(calls.iter().filter(|c| !c.state_is_result()).map(|c| Arc::clone(&c.result)));
        }
        Ok(Self { codec: RowCodec::new(&fields)?, calls, places, distinct, state, sends_changes, partial })
    }

    /// What is stored of the touched groups: which of them are known, and their columns.
    fn load(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Side> {
        let keys = touched.groups.keys();
        self.state.load(snapshot, &keys)?;
        let mut known = Vec::new();
        let mut rows = Vec::new();
        for (group, key) in keys.iter().enumerate() {
            if let Some(row) = self.state.get(key) {
                known.push(group);
                rows.push(row);
            }
        }
        let columns = if known.is_empty() { Vec::new() } else { self.codec.decode(rows)? };
        Ok(Side { groups: known, columns })
    }

    /// The states of a call after the epoch, one row a touched group.
    ///
    /// Accumulators that count groups take it that each has had a row, so stored states can be merged first only if they
    /// are there for all groups. Else the epoch's rows get accumulators of their own, and both states are merged.
    fn advance(epoch: &Epoch<'_>, stored: &[ArrayRef], known: &[usize]) -> Result<Vec<ArrayRef>> {
        let Epoch { call, touched, .. } = epoch;
        let total = touched.groups.len();
        let mut accumulator = call.accumulator()?;
        if !call.is_ordered() && (known.len() == total || !call.counts_groups()) {
            if !known.is_empty() {
                accumulator.merge_batch(stored, known, total)?;
            }
            epoch.update(accumulator.as_mut(), Some(total))?;
            return call.states(accumulator.as_mut());
        }
        let added = Self::added_states(epoch)?;
        call.joined(stored, known, added)
    }

    /// The states of the epoch's rows alone. Accumulators that care about order want all rows at once, sorted.
    fn added_states(epoch: &Epoch<'_>) -> Result<Vec<ArrayRef>> {
        let Epoch { call, touched, .. } = epoch;
        let mut accumulator = call.accumulator()?;
        if call.is_ordered() {
            let (batch, groups) = touched.in_one_piece()?;
            call.update_in_order(accumulator.as_mut(), &batch, &groups, touched.groups.len())?;
        } else {
            epoch.update(accumulator.as_mut(), None)?;
        }
        call.states(accumulator.as_mut())
    }

    /// The results among stored columns.
    fn stored_results(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        let mut next_state = 0;
        let mut next_result: usize = self.calls.iter().map(|c| c.state_fields.len()).sum();
        let mut results = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            if call.state_is_result() {
                results.push(Arc::clone(&columns[next_state]));
            } else {
                results.push(Arc::clone(&columns[next_result]));
                next_result += 1;
            }
            next_state += call.state_fields.len();
        }
        results
    }
}

impl Groups for Merge {
    fn apply(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Change> {
        let total = touched.groups.len();
        let before = self.load(snapshot, touched)?;
        if self.calls.is_empty() {
            return self.apply_distinct(before, touched);
        }
        let mut stored = Vec::with_capacity(self.codec.num_columns());
        let mut offset = 0;
        let fresh = self.distinct.apply(snapshot, touched, &self.calls)?;
        for (call, place) in self.calls.iter().zip(&self.places) {
            let columns = offset..offset + call.state_fields.len();
            offset = columns.end;
            let own = if before.groups.is_empty() { &[][..] } else { &before.columns[columns] };
            let epoch = Epoch { call, touched, fresh: place.map(|place| (&fresh, place)) };
            stored.extend(Self::advance(&epoch, own, &before.groups)?);
        }
        let mut results = Vec::with_capacity(self.calls.len());
        if self.sends_changes {
            let mut offset = 0;
            for call in &self.calls {
                let states = &stored[offset..offset + call.state_fields.len()];
                offset += call.state_fields.len();
                results.push(call.results_of(states, total)?);
            }
            stored.extend(
                self.calls.iter().zip(&results).filter(|(c, _)| !c.state_is_result()).map(|(_, r)| Arc::clone(r)),
            );
        }
        let encoded = self.codec.encode_rows(&stored, total)?;
        for group in 0..total {
            self.state.put(touched.groups.key(group), encoded.row(group));
        }
        if !self.sends_changes {
            return Ok(Change::default());
        }
        let old_columns = if before.groups.is_empty() { Vec::new() } else { self.stored_results(&before.columns) };
        let old = Side { groups: before.groups, columns: old_columns };
        Ok(Change { old, new: Side { groups: (0..total).collect(), columns: results } })
    }

    fn drop_closed(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        self.distinct.drop_below(snapshot, horizon)?;
        self.state.drop_below(snapshot, horizon)
    }

    fn take_closed(&mut self, snapshot: &Snapshot, horizon: &[u8], owned: &Owned<'_>) -> Result<Closed> {
        self.distinct.drop_below(snapshot, horizon)?;
        let (keys, rows): (Vec<_>, Vec<_>) = self.state.take_below(snapshot, horizon)?.into_iter().unzip();
        let (keys, rows) = owned.only(keys, rows)?;
        if keys.is_empty() {
            return Ok(Closed::default());
        }
        let columns = self.codec.decode(rows.iter().map(Vec::as_slice))?;
        if self.partial {
            return Ok(Closed { keys, columns });
        }
        let mut offset = 0;
        let mut results = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            let states = &columns[offset..offset + call.state_fields.len()];
            offset += call.state_fields.len();
            results.push(call.results_of(states, keys.len())?);
        }
        Ok(Closed { keys, columns: results })
    }

    fn flush(&mut self, commit: &mut EpochCommit) {
        self.state.flush(commit);
        self.distinct.flush(commit);
    }

    fn size(&self) -> StateSize {
        super::size_of([&self.state, self.distinct.state()])
    }
}

/// What an epoch feeds a call.
struct Epoch<'a> {
    call: &'a Call,
    touched: &'a Touched,
    /// Of a call with DISTINCT, the rows that count.
    fresh: Option<(&'a Fresh, Place)>,
}

impl Epoch<'_> {
    /// `total`: how many groups there are; `None`: each piece says it.
    fn update(&self, accumulator: &mut dyn GroupsAccumulator, total: Option<usize>) -> Result<()> {
        for (at, piece) in self.touched.pieces.iter().enumerate() {
            let total = total.unwrap_or(piece.total);
            match self.fresh {
                Some((fresh, place)) => {
                    let mask = Some(fresh.rows(at, place));
                    self.call.update_with(accumulator, &piece.batch, &piece.groups, total, mask)?;
                }
                None => self.call.update(accumulator, &piece.batch, &piece.groups, total)?,
            }
        }
        Ok(())
    }
}

impl Merge {
    /// DISTINCT: a key is stored once, when it is first seen.
    fn apply_distinct(&mut self, before: Side, touched: &Touched) -> Result<Change> {
        let mut known = before.groups.into_iter().peekable();
        let mut new = Vec::new();
        for group in 0..touched.groups.len() {
            if known.next_if_eq(&group).is_none() {
                self.state.put(touched.groups.key(group), &[]);
                new.push(group);
            }
        }
        if !self.sends_changes {
            return Ok(Change::default());
        }
        Ok(Change { old: Side::default(), new: Side { groups: new, columns: Vec::new() } })
    }
}
