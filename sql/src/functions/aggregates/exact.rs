//! Accumulators of exact sums: integers and decimals, in 256 bits, with the number of values.
//!
//! ```text
//!   values ──▶ count, sum (i256) ──▶ sum:  the sum, if it fits its type; or else 22003
//!                                └─▶ avg:  sum / count, with the digits that PostgreSQL gives
//! ```
//!
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

use super::integers::{for_each, out_of_range, scale_of, to_array};
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
    fn results(&self, sums: &[i256], counts: &[i64]) -> Result<ArrayRef> {
        let of_values = sums.iter().zip(counts).map(|(sum, count)| (*count != 0).then_some((*sum, *count)));
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

    fn states(&self, sums: &[i256], counts: &[i64]) -> Result<Vec<ArrayRef>> {
        let present = sums.iter().zip(counts).map(|(sum, count)| (*count != 0).then_some(*sum));
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

/// Count and sum of each group.
#[derive(Debug)]
pub struct ExactGroups {
    exact: Exact,
    sums: Vec<i256>,
    counts: Vec<i64>,
}

impl ExactGroups {
    pub fn new(exact: Exact) -> Self {
        Self { exact, sums: Vec::new(), counts: Vec::new() }
    }

    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, i256::ZERO);
        self.counts.resize(groups, 0);
    }

    fn add(
        &mut self,
        values: &ArrayRef,
        filter: Option<&BooleanArray>,
        group: impl Fn(usize) -> usize,
        change: Change,
    ) -> Result<()> {
        let Self { exact, sums, counts } = self;
        for_each(values, filter, |row, value| {
            let group = group(row);
            let (sum, count) = match change {
                Change::Add => (sums[group].checked_add(value), 1),
                Change::Retract => (sums[group].checked_sub(value), -1),
                Change::AddCounted => (sums[group].checked_add(value), 0),
            };
            sums[group] = sum.ok_or_else(|| out_of_range(&exact.sum_type))?;
            counts[group] += count;
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

    fn take(&mut self, emit_to: EmitTo) -> (Vec<i256>, Vec<i64>) {
        (emit_to.take_needed(&mut self.sums), emit_to.take_needed(&mut self.counts))
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
        Ok(self.add(&values[0], filter, |row| groups[row], Change::Add)?)
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
        self.sums.capacity() * size_of::<i256>() + self.counts.capacity() * size_of::<i64>()
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
        Ok(self.0.add(&values[0], None, |_| 0, Change::Add)?)
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
        for_each(values, None, |_, value| {
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
        let mut sum = i256::ZERO;
        for value in &self.seen {
            sum = sum.checked_add(*value).ok_or_else(|| out_of_range(&self.exact.sum_type))?;
        }
        let count = i64::try_from(self.seen.len()).map_err(|_| Error::internal("more distinct values than memory"))?;
        ScalarValue::try_from_array(&self.exact.results(&[sum], &[count])?, 0)
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
