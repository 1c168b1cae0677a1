//! Counts and sums that can be taken back: each row adds its weight, and its weight times its value. For any input. Averages
//! are made of both; min and max are found among their values, which [`Extremes`] keeps.
//!
//! ```text
//!   group key ─▶ weight of its rows (i64) | call 1 | call 2 | ...       big-endian
//!                                            └─ weight of the rows that count (i64), then
//!                                               sum, avg: the sum, 16 bytes, 32 for a Decimal256
//!                                               min, max: the length of the encoded value + 1, or 0 (u32), and the value
//! ```
//!
//! A group without rows is no group (except the one without GROUP BY). What does not fit, a sum or a result, is an error
//! (22003): nothing wraps around.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray, PrimitiveBuilder, RecordBatch, UInt32Array,
    new_null_array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use tidemark_common::plan::is_ordered_extreme;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};
use tidemark_storage::{EpochCommit, KeyedState, Snapshot};

use super::calls::{Call, conform};
use super::extremes::{Extreme, Extremes, Wanted};
use super::{Change, Closed, Groups, Owned, Side, Touched};
use crate::operators::StateSize;

pub struct Linear {
    /// For errors.
    name: String,
    calls: Vec<Call>,
    kinds: Vec<Kind>,
    state: KeyedState,
    extremes: Extremes,
    /// There is no GROUP BY: the one group is there without rows, too.
    global: bool,
    sends_changes: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Count,
    Sum,
    /// Of Decimal256.
    WideSum,
    Extreme(Wanted),
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
    Extreme(Vec<Extreme>),
}

impl Linear {
    /// `values`: where min and max are found.
    pub fn new(
        name: String,
        calls: Vec<Call>,
        state: KeyedState,
        values: KeyedState,
        global: bool,
        sends_changes: bool,
    ) -> Result<Self> {
        let mut extremes = Extremes::new(name.clone(), values);
        let kind = |at: usize| match is_extreme(&calls[at]) {
            true => Ok(Kind::Extreme(extremes.keep(&calls, at)?)),
            false => Kind::of(&calls[at]),
        };
        let kinds = (0..calls.len()).map(kind).collect::<Result<Vec<_>>>().map_err(|e| e.context(&name))?;
        Ok(Self { name, calls, kinds, state, extremes, global, sends_changes })
    }

    /// The stored totals of the touched groups, zeros where there are none, and which are stored.
    fn load(&mut self, snapshot: &Snapshot, touched: &Touched) -> Result<(Totals, Vec<bool>)> {
        let keys = touched.groups.keys();
        self.state.load(snapshot, &keys)?;
        let mut totals = Totals::zeros(&self.kinds, keys.len());
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
        let calls = self.calls.iter().zip(&self.kinds).zip(&totals.calls);
        let columns = calls.map(|((call, kind), totals)| self.results(call, *kind, totals, &groups));
        Ok(Side { columns: columns.collect::<Result<_>>()?, groups })
    }

    /// One row for each of `groups`; NULL for all calls but count where no row counts.
    fn results(&self, call: &Call, kind: Kind, totals: &CallTotals, groups: &[usize]) -> Result<ArrayRef> {
        let result = call.result.data_type();
        match (kind, &totals.sums) {
            (Kind::Extreme(wanted), Sums::Extreme(extremes)) => {
                let values = self.extremes.decode(wanted, groups.iter().map(|&group| &extremes[group]), result)?;
                conform(values, result)
            }
            _ if call.function.fun().name() == "avg" => {
                // Of nothing there is no average, and accumulators divide by how many there are.
                let counted: Vec<usize> = groups.iter().copied().filter(|&g| totals.counts[g] != 0).collect();
                if counted.is_empty() {
                    return Ok(new_null_array(result, groups.len()));
                }
                let mut places = 0..counted.len() as u32;
                let places = groups.iter().map(|&g| (totals.counts[g] != 0).then(|| places.next()).flatten());
                let places = UInt32Array::from_iter(places);
                let counts = conform(Arc::new(totals.counts_of(&counted)), call.state_fields[0].data_type())?;
                let sums = totals.sums_of(&counted, call.state_fields[1].data_type())?;
                Ok(take(&call.results_of(&[counts, sums], counted.len())?, &places, None)?)
            }
            (Kind::Count, _) => conform(Arc::new(totals.counts_of(groups)), result),
            _ => conform(totals.sums_of(groups, result)?, result),
        }
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
        let wanted =
            self.kinds.iter().zip(&mut after.calls).filter_map(|(kind, totals)| match (kind, &mut totals.sums) {
                (Kind::Extreme(wanted), Sums::Extreme(extremes)) => Some((*wanted, extremes)),
                _ => None,
            });
        self.extremes.apply(snapshot, touched, &self.calls, &mut wanted.collect::<Vec<_>>())?;
        self.store(touched, &after, &stored)?;
        if !self.sends_changes {
            return Ok(Change::default());
        }
        let old = self.side(&before, |group| stored[group])?;
        let new = self.side(&after, |group| self.global || after.weights[group] > 0)?;
        Ok(Change { old, new })
    }

    fn drop_closed(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        self.extremes.drop_below(snapshot, horizon)?;
        self.state.drop_below(snapshot, horizon)
    }

    fn take_closed(&mut self, snapshot: &Snapshot, horizon: &[u8], owned: &Owned<'_>) -> Result<Closed> {
        self.extremes.drop_below(snapshot, horizon)?;
        let (keys, values): (Vec<_>, Vec<_>) = self.state.take_below(snapshot, horizon)?.into_iter().unzip();
        let (keys, values) = owned.only(keys, values)?;
        let mut totals = Totals::zeros(&self.kinds, keys.len());
        for (group, value) in values.iter().enumerate() {
            totals.read(group, value).ok_or_else(|| self.corrupted())?;
        }
        let columns = self.side(&totals, |_| true)?.columns;
        Ok(Closed { keys, columns })
    }

    fn flush(&mut self, commit: &mut EpochCommit) {
        self.state.flush(commit);
        self.extremes.flush(commit);
    }

    fn size(&self) -> StateSize {
        super::size_of([&self.state, self.extremes.state()])
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
        let name = call.function.fun().name();
        let summed = match (name, call.state_fields.as_slice()) {
            ("avg", [_, sum]) => sum.data_type(),
            _ => call.result.data_type(),
        };
        match (name, summed) {
            ("count", DataType::Int64) => Ok(Kind::Count),
            ("sum" | "avg", DataType::Decimal256(..)) => Ok(Kind::WideSum),
            ("avg", DataType::Decimal128(..)) => Ok(Kind::Sum),
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
    fn zeros(kinds: &[Kind], groups: usize) -> Self {
        let zeros = |kind: &Kind| CallTotals {
            counts: vec![0; groups],
            sums: match kind {
                Kind::Count => Sums::None,
                Kind::Sum => Sums::Narrow(vec![0; groups]),
                Kind::WideSum => Sums::Wide(vec![i256::ZERO; groups]),
                Kind::Extreme(_) => Sums::Extreme(vec![None; groups]),
            },
        };
        Self { weights: vec![0; groups], calls: kinds.iter().map(zeros).collect() }
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
                Sums::Extreme(values) => {
                    let value = values[group].as_deref();
                    out.extend(value.map_or(0, |value| value.len() as u32 + 1).to_be_bytes());
                    out.extend(value.unwrap_or_default());
                }
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
                Sums::Extreme(values) => {
                    if let Some(len) = u32::from_be_bytes(take_bytes(&mut value)?).checked_sub(1) {
                        let (extreme, rest) = value.split_at_checked(len as usize)?;
                        (values[group], value) = (Some(extreme.into()), rest);
                    }
                }
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
    fn add(&mut self, call: &Call, batch: &RecordBatch, groups: &[usize], weights: Option<&[i64]>) -> Result<()> {
        let arguments = (0..call.num_arguments()).map(|i| call.argument(batch, i)).collect::<Result<Vec<_>>>()?;
        let counted = counted_rows(&arguments, call.mask(batch)?.as_ref());
        let counts = |row: usize| counted.as_ref().is_none_or(|c| c[row]);
        let weight = |row: usize| weights.map_or(1, |w| w[row]);
        for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
            self.counts[group] += weight(row);
        }
        match &mut self.sums {
            Sums::None | Sums::Extreme(_) => {}
            Sums::Narrow(sums) => {
                let values = integers(&arguments[0])?;
                for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
                    let product = values[row].checked_mul(i128::from(weight(row)));
                    let sum = product.and_then(|product| sums[group].checked_add(product));
                    sums[group] = sum.ok_or_else(|| out_of_range(call.result.data_type()))?;
                }
            }
            Sums::Wide(sums) => {
                let values = arguments[0].as_primitive::<Decimal256Type>();
                for (row, &group) in groups.iter().enumerate().filter(|(row, _)| counts(*row)) {
                    let product = values.value(row).checked_mul(i256::from_i128(i128::from(weight(row))));
                    let sum = product.and_then(|product| sums[group].checked_add(product));
                    sums[group] = sum.ok_or_else(|| out_of_range(call.result.data_type()))?;
                }
            }
        }
        Ok(())
    }

    fn counts_of(&self, groups: &[usize]) -> Int64Array {
        Int64Array::from_iter_values(groups.iter().map(|&group| self.counts[group]))
    }

    /// A sum of no rows is NULL.
    fn sums_of(&self, groups: &[usize], data_type: &DataType) -> Result<ArrayRef> {
        let counts = &self.counts;
        match &self.sums {
            Sums::Narrow(sums) => {
                narrow_results(groups.iter().map(|&g| (counts[g] != 0).then_some(sums[g])), data_type)
            }
            Sums::Wide(sums) => {
                let mut builder = PrimitiveBuilder::<Decimal256Type>::new();
                groups.iter().for_each(|&g| builder.append_option((counts[g] != 0).then_some(sums[g])));
                decimals(builder.finish(), data_type)
            }
            Sums::None | Sums::Extreme(_) => Err(Error::internal("a call without a sum was asked for it")),
        }
    }
}

/// A min or max whose values have an order that is that of their bytes.
pub fn is_extreme(call: &Call) -> bool {
    is_ordered_extreme(&call.function)
}

/// Which rows a call counts: its FILTER lets them through and no argument is NULL. `None`: all of them.
pub fn counted_rows(arguments: &[ArrayRef], mask: Option<&BooleanArray>) -> Option<Vec<bool>> {
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
