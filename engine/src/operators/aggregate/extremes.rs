//! The values of min and max in their order, so that the next one is at hand when the smallest or greatest goes away.
//!
//! ```text
//!   group key ++ number of the argument (u16) ++ the value, in its order ─▶ weight of the rows that have it (i64), big-endian
//!
//!   the epoch's rows ──▶ weights ──▶ does a group's extreme go? the first or last entry of the group
//!                                    does a value come that is beyond it? that one
//! ```
//!
//! Calls of the same argument and FILTER share their values.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, UInt32Array, new_null_array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::DataType;
use tidemark_common::{Error, Result};
use tidemark_storage::{Direction, EpochCommit, KeyedState, RowCodec, Snapshot, successor};

use super::Touched;
use super::calls::Call;
use super::keys::GroupNumbers;
use super::linear::counted_rows;
use crate::operators::check_weight;

/// An encoded value; `None`: the group has none.
pub type Extreme = Option<Box<[u8]>>;

pub struct Extremes {
    /// For errors.
    name: String,
    arguments: Vec<Argument>,
    values: KeyedState,
}

struct Argument {
    /// The first of the calls that ask for it.
    call: usize,
    codec: RowCodec,
}

/// Which values a call looks at, and from which end.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    argument: usize,
    pub greatest: bool,
}

fn number_of(argument: usize) -> Result<[u8; 2]> {
    let number = u16::try_from(argument).map_err(|_| Error::internal("more than 65535 arguments of min and max"))?;
    Ok(number.to_be_bytes())
}

/// What an epoch has done to the entry of a value.
struct Changed {
    group: usize,
    argument: usize,
    /// Bytes before the value.
    prefix: usize,
    weight: i64,
}

impl Extremes {
    pub fn new(name: String, values: KeyedState) -> Self {
        Self { name, arguments: Vec::new(), values }
    }

    /// Keeps the values that `calls[call]`, a min or max, looks at.
    pub fn keep(&mut self, calls: &[Call], call: usize) -> Result<Wanted> {
        let wanted = &calls[call];
        let greatest = wanted.function.fun().name() == "max";
        if let Some(argument) = self.arguments.iter().position(|known| calls[known.call].counts_same_values(wanted)) {
            return Ok(Wanted { argument, greatest });
        }
        let codec = RowCodec::new(std::slice::from_ref(&wanted.result))?;
        self.arguments.push(Argument { call, codec });
        Ok(Wanted { argument: self.arguments.len() - 1, greatest })
    }

    /// Takes the epoch's rows. `extremes`: of each call, by group, as they are before it and then after it.
    pub fn apply(
        &mut self,
        snapshot: &Snapshot,
        touched: &Touched,
        calls: &[Call],
        extremes: &mut [(Wanted, &mut Vec<Extreme>)],
    ) -> Result<()> {
        if self.arguments.is_empty() {
            return Ok(());
        }
        let mut entries = GroupNumbers::default();
        let mut changes: Vec<Changed> = Vec::new();
        for argument in 0..self.arguments.len() {
            self.changes(argument, touched, calls, &mut entries, &mut changes)?;
        }
        let after = self.store(snapshot, &entries, &changes)?;
        for (wanted, extremes) in extremes {
            let mut lost = vec![false; extremes.len()];
            let of_argument = || changes.iter().enumerate().filter(|(_, c)| c.argument == wanted.argument);
            for (number, change) in of_argument().filter(|(number, _)| after[*number] == 0) {
                let value = &entries.key(number)[change.prefix..];
                lost[change.group] |= extremes[change.group].as_deref() == Some(value);
            }
            for (number, change) in of_argument().filter(|(number, _)| after[*number] > 0) {
                let value = &entries.key(number)[change.prefix..];
                let beyond = |extreme: &[u8]| if wanted.greatest { value > extreme } else { value < extreme };
                let extreme = &mut extremes[change.group];
                if !lost[change.group] && extreme.as_deref().is_none_or(beyond) {
                    *extreme = Some(value.into());
                }
            }
            for group in (0..lost.len()).filter(|group| lost[*group]) {
                extremes[group] = self.first(snapshot, touched.groups.key(group), *wanted)?;
            }
        }
        Ok(())
    }

    /// The net weight of each value that the epoch has touched.
    fn changes(
        &self,
        argument: usize,
        touched: &Touched,
        calls: &[Call],
        entries: &mut GroupNumbers,
        changes: &mut Vec<Changed>,
    ) -> Result<()> {
        let Argument { call, codec } = &self.arguments[argument];
        let call = &calls[*call];
        let mut bytes = Vec::new();
        for piece in &touched.pieces {
            let values = call.argument(&piece.batch, 0)?;
            let counted = counted_rows(std::slice::from_ref(&values), call.mask(&piece.batch)?.as_ref());
            let encoded = codec.encode_rows(&[values], piece.batch.num_rows())?;
            for (row, &group) in piece.groups.iter().enumerate() {
                if counted.as_ref().is_some_and(|counted| !counted[row]) {
                    continue;
                }
                bytes.clear();
                bytes.extend_from_slice(touched.groups.key(group));
                bytes.extend(number_of(argument)?);
                let prefix = bytes.len();
                bytes.extend_from_slice(encoded.row(row));
                let number = entries.number(None, &bytes);
                if number == changes.len() {
                    changes.push(Changed { group, argument, prefix, weight: 0 });
                }
                changes[number].weight += piece.weights.as_ref().map_or(1, |w| w.value(row));
            }
        }
        Ok(())
    }

    /// Adds the changes to what is kept; the weight that each value has then.
    fn store(&mut self, snapshot: &Snapshot, entries: &GroupNumbers, changes: &[Changed]) -> Result<Vec<i64>> {
        let keys = entries.keys();
        self.values.load(snapshot, &keys)?;
        let mut after = Vec::with_capacity(keys.len());
        for (key, change) in keys.into_iter().zip(changes) {
            let before = match self.values.get(key) {
                None => 0,
                Some(weight) => i64::from_be_bytes(weight.try_into().map_err(|_| self.corrupted())?),
            };
            let weight = before + change.weight;
            check_weight(&self.name, "a value", weight)?;
            match weight {
                _ if change.weight == 0 => {}
                0 => self.values.delete(key),
                _ => self.values.put(key, &weight.to_be_bytes()),
            }
            after.push(weight);
        }
        Ok(after)
    }

    fn first(&mut self, snapshot: &Snapshot, group: &[u8], wanted: Wanted) -> Result<Extreme> {
        let from = [group, &number_of(wanted.argument)?].concat();
        let direction = if wanted.greatest { Direction::Reverse } else { Direction::Forward };
        let found = self.values.scan_range(snapshot, &from, successor(&from).as_deref(), direction, 1)?;
        Ok(found.first().map(|(key, _)| key[from.len()..].into()))
    }

    /// The values of some groups.
    pub fn decode<'a>(
        &self,
        wanted: Wanted,
        extremes: impl Iterator<Item = &'a Extreme>,
        data_type: &DataType,
    ) -> Result<ArrayRef> {
        let mut present: Vec<&[u8]> = Vec::new();
        let mut places: Vec<Option<u32>> = Vec::new();
        for extreme in extremes {
            places.push(extreme.as_ref().map(|_| present.len() as u32));
            present.extend(extreme.as_deref());
        }
        if present.is_empty() {
            return Ok(new_null_array(data_type, places.len()));
        }
        let values = self.arguments[wanted.argument].codec.decode(present)?;
        Ok(take(&Arc::clone(&values[0]), &UInt32Array::from(places), None)?)
    }

    pub fn drop_below(&mut self, snapshot: &Snapshot, horizon: &[u8]) -> Result<()> {
        self.values.drop_below(snapshot, horizon)
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        self.values.flush(commit);
    }

    pub fn state(&self) -> &KeyedState {
        &self.values
    }

    fn corrupted(&self) -> Error {
        Error::internal(format!("{}: the weight of a value cannot be read", self.name))
    }
}
