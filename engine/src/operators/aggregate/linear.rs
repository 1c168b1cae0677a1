//! Counts and sums that can be taken back: each row adds its weight, and its weight times its value. For any input.
//!
//! ```text
//!   group key ─▶ weight of its rows (i64) | call 1 | call 2 | ...       big-endian
//!                                            └─ weight of the rows that count (i64), then for a sum: the sum,
//!                                               16 bytes, 32 for a Decimal256
//! ```
//!
//! A group without rows is no group (except the one without GROUP BY). What does not fit, a sum or a result, is an error
//! (22003): nothing wraps around.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray, PrimitiveBuilder, RecordBatch,
};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, Snapshot};

use super::calls::{Call, conform};
use super::{Change, Closed, Groups, Owned, Side, Touched};
use crate::operators::StateSize;

pub struct Linear {
    /// For errors.
    name: String,
    calls: Vec<LinearCall>,
    state: KeyedState,
    /// There is no GROUP BY: the one group is there without rows, too.
    global: bool,
    sends_changes: bool,
}

struct LinearCall {
    call: Call,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Sum,
    /// Of Decimal256.
    WideSum,
}

/// The state of some groups, column by column.
#[derive(Clone)]
struct Totals {
    weights: Vec<i64>,
    calls: Vec<CallTotals>,
}

#[derive(Clone)]
struct CallTotals {
    counts: Vec<i64>,
    sums: Sums,
}

#[derive(Clone)]
enum Sums {
    None,
    Narrow(Vec<i128>),
    Wide(Vec<i256>),
}

impl Linear {
    pub fn new(name: String, calls: Vec<Call>, state: KeyedState, global: bool, sends_changes: bool) -> Result<Self> {
        let calls = calls
            .into_iter()
            .map(|call| Ok(LinearCall { kind: Kind::of(&call)?, call }))
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.context(&name))?;
        Ok(Self { name, calls, state, global, sends_changes })
    }

    /// The stored totals of the touched groups, zeros where there are none, and which are stored.
    fn load(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<(Totals, Vec<bool>)> {
        let keys = touched.groups.keys();
        self.state.load(snapshot, &keys)?;
        let mut totals = Totals::zeros(&self.calls, keys.len());
        let mut stored = vec![false; keys.len()];
        for (group, key) in keys.iter().enumerate() {
            if let Some(value) = self.state.get(key) {
                totals.read(group, value).ok_or_else(|| self.corrupted())?;
                stored[group] = true;
            }
        }
        Ok((totals, stored))
    }

    fn store(&mut self, touched: &Touched, after: &Totals, stored: &[bool]) -> Result<()> {
        let mut value = Vec::new();
        for (group, &stored) in stored.iter().enumerate() {
            let key = touched.groups.key(group);
            match after.weights[group] {
                0 if !self.global => {
                    if stored {
                        self.state.delete(key);
                    }
                }
                weight if weight < 0 => {
                    return Err(Error::internal(format!(
                        "{}: a group has {weight} rows: more rows went away than had come",
                        self.name
                    )));
                }
                _ => {
                    value.clear();
                    after.write(group, &mut value);
                    self.state.put(key, &value);
                }
            }
        }
        Ok(())
    }

    fn side(&self, totals: &Totals, is_there: impl Fn(usize) -> bool) -> Result<Side> {
        let groups: Vec<usize> = (0..totals.weights.len()).filter(|&g| is_there(g)).collect();
        let columns = self
            .calls
            .iter()
            .zip(&totals.calls)
            .map(|(call, totals)| totals.results(&groups, call.call.result.data_type()))
            .collect::<Result<_>>()?;
        Ok(Side { groups, columns })
    }

    fn corrupted(&self) -> Error {
        Error::internal(format!("{}: a stored group has the wrong length", self.name))
    }
}

impl Groups for Linear {
    fn apply(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<Change> {
        let (before, stored) = self.load(snapshot, touched)?;
        let mut after = before.clone();
        for piece in &touched.pieces {
            let weights = piece.weights.as_ref().map(|w| &w.values()[..]);
            after.add_rows(&piece.groups, weights);
            for (call, totals) in self.calls.iter().zip(&mut after.calls) {
                totals.add(call, &piece.batch, &piece.groups, weights)?;
            }
        }
        self.store(touched, &after, &stored)?;
        if !self.sends_changes {
            return Ok(Change::default());
        }
        let old = self.side(&before, |group| stored[group])?;
        let new = self.side(&after, |group| self.global || after.weights[group] > 0)?;
        Ok(Change { old, new })
    }

    fn drop_closed(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        self.state.drop_below(snapshot, horizon)
    }

    fn take_closed(&mut self, snapshot: &Snapshot, horizon: &[u8], owned: &Owned<'_>) -> Result<Closed> {
        let (keys, values): (Vec<_>, Vec<_>) = self.state.take_below(snapshot, horizon)?.into_iter().unzip();
        let (keys, values) = owned.only(keys, values)?;
        let mut totals = Totals::zeros(&self.calls, keys.len());
        for (group, value) in values.iter().enumerate() {
            totals.read(group, value).ok_or_else(|| self.corrupted())?;
        }
        let columns = self.side(&totals, |_| true)?.columns;
        Ok(Closed { keys, columns })
    }

    fn flush(&mut self, commit: &mut EpochCommit) {
        self.state.flush(commit);
    }

    fn size(&self) -> StateSize {
        super::size_of([&self.state])
    }
}

impl Kind {
    fn of(call: &Call) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::internal(format!("{} cannot be kept as a count or a sum: {why}", call.function.name())))
        };
        if call.function.is_distinct() {
            return refuse("it is DISTINCT");
        }
        match (call.function.fun().name(), call.result.data_type()) {
            ("count", DataType::Int64) => Ok(Kind::Count),
            ("sum", DataType::Decimal256(..)) => Ok(Kind::WideSum),
            (
                "sum",
                DataType::Int64
                | DataType::UInt64
                | DataType::Decimal32(..)
                | DataType::Decimal64(..)
                | DataType::Decimal128(..)
                | DataType::Duration(_),
            ) => Ok(Kind::Sum),
            (_, result) => refuse(&format!("only count and exact sums can, not a result of type {result}")),
        }
    }
}

impl Totals {
    fn zeros(calls: &[LinearCall], groups: usize) -> Self {
        let zeros = |call: &LinearCall| CallTotals {
            counts: vec![0; groups],
            sums: match call.kind {
                Kind::Count => Sums::None,
                Kind::Sum => Sums::Narrow(vec![0; groups]),
                Kind::WideSum => Sums::Wide(vec![i256::ZERO; groups]),
            },
        };
        Self { weights: vec![0; groups], calls: calls.iter().map(zeros).collect() }
    }

    fn add_rows(&mut self, groups: &[usize], weights: Option<&[i64]>) {
        for (row, &group) in groups.iter().enumerate() {
            self.weights[group] += weights.map_or(1, |w| w[row]);
        }
    }

    fn write(&self, group: usize, out: &mut Vec<u8>) {
        out.extend(self.weights[group].to_be_bytes());
        for call in &self.calls {
            out.extend(call.counts[group].to_be_bytes());
            match &call.sums {
                Sums::None => {}
                Sums::Narrow(sums) => out.extend(sums[group].to_be_bytes()),
                Sums::Wide(sums) => out.extend(sums[group].to_be_bytes()),
            }
        }
    }

    /// `None`: the value is not of these calls.
    fn read(&mut self, group: usize, mut value: &[u8]) -> Option<()> {
        self.weights[group] = i64::from_be_bytes(take_bytes(&mut value)?);
        for call in &mut self.calls {
            call.counts[group] = i64::from_be_bytes(take_bytes(&mut value)?);
            match &mut call.sums {
                Sums::None => {}
                Sums::Narrow(sums) => sums[group] = i128::from_be_bytes(take_bytes(&mut value)?),
                Sums::Wide(sums) => sums[group] = i256::from_be_bytes(take_bytes(&mut value)?),
            }
        }
        value.is_empty().then_some(())
    }
}

fn take_bytes<const N: usize>(value: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = value.split_first_chunk::<N>()?;
    *value = rest;
    Some(*bytes)
}

impl CallTotals {
    fn add(&mut self, call: &LinearCall, batch: &RecordBatch, groups: &[usize], weights: Option<&[i64]>) -> Result<()> {
        let arguments =
            (0..call.call.num_arguments()).map(|i| call.call.argument(batch, i)).collect::<Result<Vec<_>>>()?;
        let counted = counted_rows(&arguments, call.call.mask(batch)?.as_ref());
        let counts = |row: usize| counted.as_ref().is_none_or(|c| c[row]);
        let weight = |row: usize| weights.map_or(1, |w| w[row]);
        for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
            self.counts[group] += weight(row);
        }
        match &mut self.sums {
            Sums::None => {}
            Sums::Narrow(sums) => {
                let values = integers(&arguments[0])?;
                for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
                    let product = values[row].checked_mul(i128::from(weight(row)));
                    let sum = product.and_then(|product| sums[group].checked_add(product));
                    sums[group] = sum.ok_or_else(|| out_of_range(call.call.result.data_type()))?;
                }
            }
            Sums::Wide(sums) => {
                let values = arguments[0].as_primitive::<Decimal256Type>();
                for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
                    let product = values.value(row).checked_mul(i256::from_i128(i128::from(weight(row))));
                    let sum = product.and_then(|product| sums[group].checked_add(product));
                    sums[group] = sum.ok_or_else(|| out_of_range(call.call.result.data_type()))?;
                }
            }
        }
        Ok(())
    }

    /// One row for each of `groups`; a sum of no rows is NULL.
    fn results(&self, groups: &[usize], data_type: &DataType) -> Result<ArrayRef> {
        let counts = &self.counts;
        let result: ArrayRef = match &self.sums {
            Sums::None => Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| counts[g]))),
            Sums::Narrow(sums) => {
                let sums = groups.iter().map(|&g| (counts[g] != 0).then_some(sums[g]));
                narrow_results(sums, data_type)?
            }
            Sums::Wide(sums) => {
                let mut builder = PrimitiveBuilder::<Decimal256Type>::new();
                groups.iter().for_each(|&g| builder.append_option((counts[g] != 0).then_some(sums[g])));
                decimals(builder.finish(), data_type)?
            }
        };
        conform(result, data_type)
    }
}

/// Which rows a call counts: its FILTER lets them through and no argument is NULL. `None`: all of them.
fn counted_rows(arguments: &[ArrayRef], mask: Option<&BooleanArray>) -> Option<Vec<bool>> {
    let mut counted: Option<Vec<bool>> = mask.map(|m| m.values().iter().collect());
    for argument in arguments {
        if let Some(nulls) = argument.logical_nulls().filter(|n| n.null_count() > 0) {
            let counted = counted.get_or_insert_with(|| vec![true; argument.len()]);
            counted.iter_mut().zip(nulls.iter()).for_each(|(counts, valid)| *counts &= valid);
        }
    }
    counted
}

/// Any integer or narrower decimal, as it is in memory. What lies below a NULL is not looked at.
fn integers(array: &ArrayRef) -> Result<Vec<i128>> {
    fn widen<T: ArrowPrimitiveType>(array: &ArrayRef, to: impl Fn(T::Native) -> i128) -> Vec<i128> {
        array.as_primitive::<T>().values().iter().map(|&v| to(v)).collect()
    }
    Ok(match array.data_type() {
        DataType::Int8 => widen::<Int8Type>(array, i128::from),
        DataType::Int16 => widen::<Int16Type>(array, i128::from),
        DataType::Int32 => widen::<Int32Type>(array, i128::from),
        DataType::Int64 => widen::<Int64Type>(array, i128::from),
        DataType::UInt8 => widen::<UInt8Type>(array, i128::from),
        DataType::UInt16 => widen::<UInt16Type>(array, i128::from),
        DataType::UInt32 => widen::<UInt32Type>(array, i128::from),
        DataType::UInt64 => widen::<UInt64Type>(array, i128::from),
        DataType::Decimal32(..) => widen::<Decimal32Type>(array, i128::from),
        DataType::Decimal64(..) => widen::<Decimal64Type>(array, i128::from),
        DataType::Decimal128(..) => widen::<Decimal128Type>(array, |v| v),
        DataType::Duration(TimeUnit::Second) => widen::<DurationSecondType>(array, i128::from),
        DataType::Duration(TimeUnit::Millisecond) => widen::<DurationMillisecondType>(array, i128::from),
        DataType::Duration(TimeUnit::Microsecond) => widen::<DurationMicrosecondType>(array, i128::from),
        DataType::Duration(TimeUnit::Nanosecond) => widen::<DurationNanosecondType>(array, i128::from),
        other => return Err(Error::internal(format!("a sum that is kept exactly got values of type {other}"))),
    })
}

/// The sums in the type of the result.
fn narrow_results(sums: impl Iterator<Item = Option<i128>>, data_type: &DataType) -> Result<ArrayRef> {
    fn collect<T: ArrowPrimitiveType>(
        sums: impl Iterator<Item = Option<i128>>,
        data_type: &DataType,
    ) -> Result<PrimitiveArray<T>>
    where
        T::Native: TryFrom<i128>,
    {
        let mut builder = PrimitiveBuilder::<T>::new();
        for sum in sums {
            let sum = sum.map(|sum| T::Native::try_from(sum).map_err(|_| out_of_range(data_type))).transpose()?;
            builder.append_option(sum);
        }
        Ok(builder.finish())
    }
    Ok(match data_type {
        DataType::Int64 => Arc::new(collect::<Int64Type>(sums, data_type)?),
        DataType::UInt64 => Arc::new(collect::<UInt64Type>(sums, data_type)?),
        DataType::Decimal32(..) => decimals(collect::<Decimal32Type>(sums, data_type)?, data_type)?,
        DataType::Decimal64(..) => decimals(collect::<Decimal64Type>(sums, data_type)?, data_type)?,
        DataType::Decimal128(..) => decimals(collect::<Decimal128Type>(sums, data_type)?, data_type)?,
        DataType::Duration(TimeUnit::Second) => Arc::new(collect::<DurationSecondType>(sums, data_type)?),
        DataType::Duration(TimeUnit::Millisecond) => Arc::new(collect::<DurationMillisecondType>(sums, data_type)?),
        DataType::Duration(TimeUnit::Microsecond) => Arc::new(collect::<DurationMicrosecondType>(sums, data_type)?),
        DataType::Duration(TimeUnit::Nanosecond) => Arc::new(collect::<DurationNanosecondType>(sums, data_type)?),
        other => return Err(Error::internal(format!("an exact sum cannot have the type {other}"))),
    })
}

fn out_of_range(data_type: &DataType) -> Error {
    SqlType::from_data_type(data_type).out_of_range()
}

/// The same numbers with the precision and scale of `data_type`.
fn decimals<T: DecimalType>(array: PrimitiveArray<T>, data_type: &DataType) -> Result<ArrayRef> {
    let array = array.with_data_type(data_type.clone());
    array.validate_decimal_precision(array.precision()).map_err(|_| out_of_range(data_type))?;
    Ok(Arc::new(array))
}
