//! Accumulators of exact sums: integers and decimals, in 256 bits, with the number of values.
//!
//! ```text
//!   values ──▶ count, sum (i256) ──▶ sum:  the sum, if it fits its type; or else 22003
//!                                └─▶ avg:  sum / count, with the digits that PostgreSQL gives
//! ```
//!
//! A sum is kept in 128 bits as long as it fits there, which it nearly always does.
//! The order of the values cannot matter: 2^64 of the widest 128-bit ones fit, and wider ones are checked.

use std::collections::HashSet;
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Int64Type, i256};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use tidemark_common::{Error, Result};

use super::integers::{for_each, for_each_wide, is_wide, out_of_range, scale_of, to_array};
use super::small;
use crate::functions::ratio;

/// What is made of count and sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    Sum,
    Average,
}

/// How sums are kept and what comes out.
#[derive(Debug, Clone)]
pub struct Exact {
    pub finish: Finish,
    /// In which the sum is stored, and given by `sum`.
    pub sum_type: DataType,
    pub result: DataType,
}

impl Exact {
    fn results(&self, sums: &Sums, counts: &[i64]) -> Result<ArrayRef> {
        let of_values = sums.iter().zip(counts).map(|(sum, count)| (*count != 0).then_some((sum, *count)));
        match self.finish {
            Finish::Sum => to_array(of_values.map(|v| v.map(|(sum, _)| sum)), &self.result),
            Finish::Average => {
                let averages = of_values.map(|v| v.map(|(sum, count)| self.average(sum, count)).transpose());
                to_array(averages.collect::<Result<Vec<_>>>()?.into_iter(), &self.result)
            }
        }
    }

    fn average(&self, sum: i256, count: i64) -> Result<i256> {
        let dividend = ratio::Operand { digits: sum, scale: scale_of(&self.sum_type) };
        let divisor = ratio::Operand { digits: i256::from_i128(count.into()), scale: 0 };
        ratio::divide(dividend, divisor, scale_of(&self.result))
    }

    fn states(&self, sums: &Sums, counts: &[i64]) -> Result<Vec<ArrayRef>> {
        let present = sums.iter().zip(counts).map(|(sum, count)| (*count != 0).then_some(sum));
        let sums = to_array(present, &self.sum_type)?;
        Ok(match self.finish {
            Finish::Sum => vec![sums],
            Finish::Average => vec![Arc::new(Int64Array::from_iter_values(counts.iter().copied())), sums],
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Add,
    Retract,
    /// A sum of values that are counted apart.
    AddCounted,
}

impl Change {
    fn of_count(self) -> i64 {
        match self {
            Change::Add => 1,
            Change::Retract => -1,
            Change::AddCounted => 0,
        }
    }
}

/// A sum of each group, in two parts.
#[derive(Debug, Default)]
struct Sums {
    near: Vec<i128>,
    /// What did not fit there. Empty until there is such a sum.
    far: Vec<i256>,
}

impl Sums {
    fn resize(&mut self, groups: usize) {
        self.near.resize(groups, 0);
    }

    /// `None`: the sum does not even fit into 256 bits.
    fn change(&mut self, group: usize, value: i128, change: Change) -> Option<()> {
        let near = &mut self.near[group];
        let changed = match change {
            Change::Add | Change::AddCounted => near.checked_add(value),
            Change::Retract => near.checked_sub(value),
        };
        match changed {
            Some(changed) => *near = changed,
            None => self.change_wide(group, i256::from_i128(value), change)?,
        }
        Some(())
    }

    #[cold]
    fn change_wide(&mut self, group: usize, value: i256, change: Change) -> Option<()> {
        self.far.resize(self.near.len(), i256::ZERO);
        let sum = self.far[group].checked_add(i256::from_i128(self.near[group]))?;
        self.far[group] = match change {
            Change::Add | Change::AddCounted => sum.checked_add(value),
            Change::Retract => sum.checked_sub(value),
        }?;
        self.near[group] = 0;
        Some(())
    }

    fn iter(&self) -> impl Iterator<Item = i256> {
        let far = self.far.iter().copied().chain(std::iter::repeat(i256::ZERO));
        self.near.iter().zip(far).map(|(near, far)| far.wrapping_add(i256::from_i128(*near)))
    }

    fn take(&mut self, emit_to: EmitTo) -> Self {
        if !self.far.is_empty() {
            self.far.resize(self.near.len(), i256::ZERO);
        }
        let far = if self.far.is_empty() { Vec::new() } else { emit_to.take_needed(&mut self.far) };
        Self { near: emit_to.take_needed(&mut self.near), far }
    }

    fn size(&self) -> usize {
        self.near.capacity() * size_of::<i128>() + self.far.capacity() * size_of::<i256>()
    }
}

/// Count and sum of each group.
#[derive(Debug)]
pub struct ExactGroups {
    exact: Exact,
    sums: Sums,
    counts: Vec<i64>,
}

impl ExactGroups {
    pub fn new(exact: Exact) -> Self {
        Self { exact, sums: Sums::default(), counts: Vec::new() }
    }

    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups);
        self.counts.resize(groups, 0);
    }

    /// Adds all values. `groups`: each row's; all are of the only one without it.
    fn add_all(&mut self, values: &ArrayRef, groups: Option<&[usize]>) -> Result<()> {
        let Some(sums) = small::sums(values, groups, self.counts.len()) else {
            return self.add(values, None, |row| groups.map_or(0, |groups| groups[row]), Change::Add);
        };
        for (group, of) in sums.into_iter().enumerate() {
            let added = self.sums.change(group, of.sum.into(), Change::Add);
            added.ok_or_else(|| out_of_range(&self.exact.sum_type))?;
            self.counts[group] += of.count;
        }
        Ok(())
    }

    fn add(
        &mut self,
        values: &ArrayRef,
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
        change: Change,
    ) -> Result<()> {
        let Self { exact, sums, counts } = self;
        let too_large = || out_of_range(&exact.sum_type);
        if is_wide(values.data_type()) {
            return for_each_wide(values, filter, |row, value| {
                let group = group(row);
                sums.change_wide(group, value, change).ok_or_else(too_large)?;
                counts[group] += change.of_count();
                Ok(())
            });
        }
        for_each(values, filter, |row, value| {
            let group = group(row);
            sums.change(group, value, change).ok_or_else(too_large)?;
            counts[group] += change.of_count();
            Ok(())
        })
    }

    fn merge(&mut self, states: &[ArrayRef], group: impl Fn(usize) -> usize) -> Result<()> {
        match (self.exact.finish, states) {
            (Finish::Sum, [sums]) => self.add(sums, None, group, Change::Add),
            (Finish::Average, [counts, sums]) => {
                self.add(sums, None, &group, Change::AddCounted)?;
                for (row, count) in counts.as_primitive::<Int64Type>().iter().enumerate() {
                    self.counts[group(row)] += count.unwrap_or(0);
                }
                Ok(())
            }
            _ => Err(Error::internal("the state of a sum has another number of columns")),
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> (Sums, Vec<i64>) {
        (self.sums.take(emit_to), emit_to.take_needed(&mut self.counts))
    }
}

impl GroupsAccumulator for ExactGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.resize(total);
        Ok(match filter {
            None => self.add_all(&values[0], Some(groups)),
            Some(_) => self.add(&values[0], filter, |row| groups[row], Change::Add),
        }?)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        let (sums, counts) = self.take(emit_to);
        Ok(self.exact.results(&sums, &counts)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let (sums, counts) = self.take(emit_to);
        Ok(self.exact.states(&sums, &counts)?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        self.resize(total);
        Ok(self.merge(states, |row| groups[row])?)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let mut each = Self::new(self.exact.clone());
        each.resize(values[0].len());
        each.add(&values[0], filter, |row| row, Change::Add)?;
        Ok(each.exact.states(&each.sums, &each.counts)?)
    }

    fn size(&self) -> usize {
        self.sums.size() + self.counts.capacity() * size_of::<i64>()
    }
}

/// Count and sum of one group or of a window frame, which takes values back too.
#[derive(Debug)]
pub struct ExactOne(ExactGroups);

impl ExactOne {
    pub fn new(exact: Exact) -> Self {
        let mut one = ExactGroups::new(exact);
        one.resize(1);
        Self(one)
    }
}

impl Accumulator for ExactOne {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.0.add_all(&values[0], None)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.0.add(&values[0], None, |_| 0, Change::Retract)?)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        ScalarValue::try_from_array(&self.0.exact.results(&self.0.sums, &self.0.counts)?, 0)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let states = self.0.exact.states(&self.0.sums, &self.0.counts)?;
        states.iter().map(|s| ScalarValue::try_from_array(s, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        Ok(self.0.merge(states, |_| 0)?)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + GroupsAccumulator::size(&self.0)
    }
}

/// The values that have been seen. Its state is the list of them.
#[derive(Debug)]
pub struct ExactDistinct {
    exact: Exact,
    input: DataType,
    seen: HashSet<i256>,
}

impl ExactDistinct {
    pub fn new(exact: Exact, input: DataType) -> Self {
        Self { exact, input, seen: HashSet::new() }
    }

    fn see(&mut self, values: &ArrayRef) -> Result<()> {
        for_each_wide(values, None, |_, value| {
            self.seen.insert(value);
            Ok(())
        })
    }
}

impl Accumulator for ExactDistinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.see(&values[0])?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let mut sum = Sums::default();
        sum.resize(1);
        for value in &self.seen {
            sum.change_wide(0, *value, Change::Add).ok_or_else(|| out_of_range(&self.exact.sum_type))?;
        }
        let count = i64::try_from(self.seen.len()).map_err(|_| Error::internal("more distinct values than memory"))?;
        ScalarValue::try_from_array(&self.exact.results(&sum, &[count])?, 0)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let values = to_array(self.seen.iter().map(|v| Some(*v)), &self.input)?;
        Ok(vec![SingleRowListArrayBuilder::new(values).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.see(&values)?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.seen.capacity() * size_of::<i256>()
    }
}
