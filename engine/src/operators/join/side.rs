//! One input of a join: its rows by key, as they are kept and as an epoch changes them.
//!
//! ```text
//!   kept:   key ++ the other columns ─▶ weight, and how many rows of the other input it matches (if that is asked for)
//!           or, of an input that only grows and is not asked for matches, as a log: see log.rs
//!
//!   chunks ──same rows together──▶ Changes ──load──▶ Rows: the changed ones, then those kept of the keys asked for
//!              │                                       │ weights and matches before and after the epoch
//!              └▶ keyless: a NULL in the key            └──store──▶ kept
//! ```
//!
//! Rows that can meet nothing any more are let go ([`horizon`](super::horizon)).
//!
//! A row whose key has a NULL never matches, so it is not kept (unless NULL equals NULL). What is [`stored`](super::stored)
//! elsewhere is not kept either; which of its rows have changed is only looked for where the other input asks for their key.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use tidemark_common::{Delta, Error, Result};
use tidemark_storage::{EncodedRows, EpochCommit, KeyedState, RowCodec, Snapshot};

use super::horizon::{self, Horizon};
use super::log::{self, Log};
use super::stored::StoredRows;
use crate::operators::aggregate::Placement;
use crate::operators::aggregate::keys::GroupNumbers;
use crate::operators::exchange::shards_of;
use crate::operators::{Chunks, StepContext, check_weight};

pub struct Side {
    /// For errors.
    name: String,
    schema: SchemaRef,
    keys: Keys,
    /// The columns that the key does not give back.
    rest: Vec<usize>,
    rest_codec: RowCodec,
    kept: Kept,
    /// How many rows of the other input each row matches is kept with it.
    counts_matches: bool,
    /// When kept rows are let go.
    horizon: Option<Horizon>,
    placement: Placement,
}

/// Where the rows of an input are.
pub enum Kept {
    Own(KeyedState),
    Log(Log),
    Stored(StoredRows),
    /// Rows are not met again.
    Nothing,
}

/// The key columns of an input.
pub struct Keys {
    on: Vec<usize>,
    codec: RowCodec,
    null_equal: bool,
}

/// The net of an epoch's rows; of a log, the rows as they come.
pub struct Changes {
    /// Each row once; what has no net weight is not counted in `weights`.
    batch: RecordBatch,
    weights: Vec<i64>,
    /// The group of each row: the number of its key.
    groups: Vec<usize>,
    /// Keys and other columns of the rows.
    encoded: GroupNumbers,
    /// How long the part of each that is the key is.
    key_lens: Vec<usize>,
    /// Rows with a NULL in their key.
    pub keyless: Option<Delta>,
}

/// A row in this epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    pub before: i64,
    pub after: i64,
    /// Rows of the other input that match.
    pub matches_before: i64,
    pub matches_after: i64,
}

/// The rows that an epoch has to do with.
pub struct Rows {
    pub batch: RecordBatch,
    pub rows: Vec<Row>,
    /// The changed rows come first.
    changed: usize,
    changed_of: Vec<Vec<u32>>,
    others_of: Vec<Vec<u32>>,
    encoded: Vec<Vec<u8>>,
    key_lens: Vec<usize>,
}

impl Kept {
    /// What is kept of its own.
    fn entries(&self) -> Option<&KeyedState> {
        match self {
            Kept::Own(kept) => Some(kept),
            Kept::Log(log) => Some(log.entries()),
            Kept::Stored(_) | Kept::Nothing => None,
        }
    }

    fn entries_mut(&mut self) -> Option<&mut KeyedState> {
        match self {
            Kept::Own(kept) => Some(kept),
            Kept::Log(log) => Some(log.entries_mut()),
            Kept::Stored(_) | Kept::Nothing => None,
        }
    }
}

impl Keys {
    pub fn new(schema: &SchemaRef, on: Vec<usize>, null_equal: bool) -> Result<Self> {
        let fields: Vec<FieldRef> = on.iter().map(|&c| Arc::clone(&schema.fields()[c])).collect();
        Ok(Self { on, codec: RowCodec::for_keys(&fields)?, null_equal })
    }

    /// Each row's key, if it has one, by number of the row.
    pub fn each(&self, batch: &RecordBatch, mut each: impl FnMut(usize, Option<&[u8]>)) -> Result<()> {
        let columns: Vec<ArrayRef> = self.on.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        let encoded = self.codec.encode_rows(&columns, batch.num_rows())?;
        let nulls = match self.null_equal {
            true => None,
            false => columns.iter().fold(None, |all, c| NullBuffer::union(all.as_ref(), c.logical_nulls().as_ref())),
        };
        for row in 0..batch.num_rows() {
            let keyless = nulls.as_ref().is_some_and(|n| n.is_null(row));
            each(row, (!keyless).then(|| encoded.row(row)));
        }
        Ok(())
    }
}

impl Side {
    /// What is stored elsewhere and logs count no matches.
    pub fn new(
        placement: &Placement,
        schema: &SchemaRef,
        keys: Keys,
        kept: Kept,
        counts_matches: bool,
        horizon: Option<Horizon>,
    ) -> Result<Self> {
        debug_assert!(!(counts_matches && matches!(kept, Kept::Stored(_) | Kept::Log(_))));
        let given_back = |c: &usize| keys.on.contains(c) && is_exact(schema.field(*c).data_type());
        let rest: Vec<usize> = (0..schema.fields().len()).filter(|c| !given_back(c)).collect();
        let fields: Vec<FieldRef> = rest.iter().map(|&c| Arc::clone(&schema.fields()[c])).collect();
        let rest_codec = RowCodec::new(&fields)?;
        let horizon = horizon.filter(|_| kept.entries().is_some());
        Ok(Self {
            name: placement.name(),
            schema: Arc::clone(schema),
            keys,
            rest,
            rest_codec,
            kept,
            counts_matches,
            horizon,
            placement: placement.clone(),
        })
    }

    fn encode_rest(&self, batch: &RecordBatch) -> Result<EncodedRows> {
        let columns: Vec<ArrayRef> = self.rest.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        self.rest_codec.encode_rows(&columns, batch.num_rows())
    }

    /// Each row's key and other columns, encoded, and how long the key is; `None`: it has no key.
    fn each(&self, batch: &RecordBatch, mut each: impl FnMut(usize, Option<(&[u8], usize)>)) -> Result<()> {
        let rest = self.encode_rest(batch)?;
        let mut bytes = Vec::new();
        self.keys.each(batch, |row, key| {
            let Some(key) = key else { return each(row, None) };
            bytes.clear();
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(rest.row(row));
            each(row, Some((&bytes, key.len())));
        })
    }

    /// Its rows of an epoch that find all they can meet still there, and are still here themselves; and how many are not.
    pub fn on_time(&self, ctx: &StepContext<'_>, chunks: Chunks, partners: &mut Self) -> Result<(Chunks, u64)> {
        let (mut kept, mut late) = (chunks, [0, 0]);
        if let Some(horizon) = &mut partners.horizon {
            (kept, late[0]) = horizon.partners_on_time(ctx, kept, &self.schema)?;
        }
        if let Some(horizon) = &self.horizon {
            (kept, late[1]) = horizon.on_time(ctx, kept, &self.schema)?;
        }
        Ok((kept, late.iter().sum()))
    }

    /// The net of an epoch's rows, whose keys are numbered in `groups`.
    pub fn changes(&self, chunks: &Chunks, groups: &mut GroupNumbers) -> Result<Changes> {
        let delta = Delta::concat(&self.schema, chunks)?;
        if matches!(self.kept, Kept::Log(_)) {
            return self.each_change(&delta, groups);
        }
        let mut encoded = GroupNumbers::default();
        // Of each distinct row: where it is first, how long its key is, its net weight.
        let mut distinct: Vec<(u32, usize, i64)> = Vec::new();
        let mut keyless: Vec<u32> = Vec::new();
        self.each(&delta.batch, |row, bytes| {
            let Some((bytes, key_len)) = bytes else { return keyless.push(row as u32) };
            let number = encoded.number(None, bytes);
            if number == distinct.len() {
                distinct.push((row as u32, key_len, 0));
            }
            distinct[number].2 += delta.weight(row);
        })?;
        let net = |(number, &(_, key_len, weight)): (usize, &(u32, usize, i64))| match weight {
            0 => usize::MAX,
            _ => groups.number(None, &encoded.key(number)[..key_len]),
        };
        let numbered: Vec<usize> = distinct.iter().enumerate().map(net).collect();
        let first = UInt32Array::from_iter_values(distinct.iter().map(|d| d.0));
        let keyless = match keyless.is_empty() {
            true => None,
            false => Some(delta.take(&UInt32Array::from(keyless))?),
        };
        Ok(Changes {
            batch: delta.take(&first)?.batch,
            weights: distinct.iter().map(|d| d.2).collect(),
            groups: numbered,
            encoded,
            key_lens: distinct.iter().map(|d| d.1).collect(),
            keyless,
        })
    }

    /// Rows that nobody takes back are not told apart.
    fn each_change(&self, delta: &Delta, groups: &mut GroupNumbers) -> Result<Changes> {
        let (mut keyed, mut keyless) = (Vec::new(), Vec::new());
        let mut numbers = Vec::with_capacity(delta.num_rows());
        self.keys.each(&delta.batch, |row, key| match key {
            Some(key) => {
                keyed.push(row as u32);
                numbers.push(groups.number(None, key));
            }
            None => keyless.push(row as u32),
        })?;
        let weights: Vec<i64> = keyed.iter().map(|&row| delta.weight(row as usize)).collect();
        weights.iter().try_for_each(|&weight| check_weight(&self.name, "a row of append-only input", weight))?;
        let (batch, keyless) = match keyless.is_empty() {
            true => (delta.batch.clone(), None),
            false => {
                let keyed = delta.take(&UInt32Array::from(keyed))?;
                (keyed.batch, Some(delta.take(&UInt32Array::from(keyless))?))
            }
        };
        let (encoded, key_lens) = (GroupNumbers::default(), Vec::new());
        Ok(Changes { batch, weights, groups: numbers, encoded, key_lens, keyless })
    }

    /// The changed rows and, of the groups in `wanted`, all others that are kept.
    pub fn load(
        &mut self,
        ctx: &StepContext<'_>,
        changes: &Changes,
        wanted: &[bool],
        groups: &GroupNumbers,
    ) -> Result<Rows> {
        match &self.kept {
            Kept::Own(_) => self.load_own(ctx.snapshot, changes, wanted, groups),
            Kept::Log(_) => self.load_log(ctx.snapshot, changes, wanted, groups),
            Kept::Stored(_) => self.load_stored(ctx, changes, wanted, groups),
            Kept::Nothing => Ok(self.load_changed(changes, wanted.len())),
        }
    }

    /// Nothing was there before.
    fn load_changed(&self, changes: &Changes, groups: usize) -> Rows {
        let (rows, changed_of) = changes.as_new(groups);
        let (batch, others_of) = (changes.batch.clone(), vec![Vec::new(); groups]);
        Rows { batch, changed: rows.len(), rows, changed_of, others_of, ..Rows::nothing(&self.schema) }
    }

    /// A changed row of a group that is not wanted counts as if it had not been there before: with nothing changed on the other
    /// side, only the difference matters.
    fn load_stored(
        &mut self,
        ctx: &StepContext<'_>,
        changes: &Changes,
        wanted: &[bool],
        groups: &GroupNumbers,
    ) -> Result<Rows> {
        let Kept::Stored(stored) = &mut self.kept else { return Err(Error::internal("the rows are not stored")) };
        let (mut rows, changed_of) = changes.as_new(wanted.len());
        let mut others_of = vec![Vec::new(); wanted.len()];
        let keys: Vec<&[u8]> =
            (0..wanted.len()).filter(|&group| wanted[group]).map(|group| groups.key(group)).collect();
        let found = match keys.is_empty() {
            true => Chunks::new(),
            false => stored.find(ctx, &self.keys.codec.decode(keys)?)?,
        };
        let found = Delta::concat(&self.schema, &found)?;
        self.each(&found.batch, |row, bytes| {
            let Some((bytes, key_len)) = bytes else { return };
            let Some(group) = groups.find(&bytes[..key_len]) else { return };
            let weight = found.weight(row);
            match changes.encoded.find(bytes).filter(|&number| changes.weights[number] != 0) {
                Some(number) => {
                    rows[number].before += weight;
                    rows[number].after += weight;
                }
                None => others_of[group].push(row as u32),
            }
        })?;
        let changed = rows.len();
        // The rows found lie behind the changed ones, those that are changed ones themselves unused.
        rows.extend((0..found.num_rows()).map(|row| {
            let weight = found.weight(row);
            Row { before: weight, after: weight, ..Row::default() }
        }));
        others_of.iter_mut().flatten().for_each(|row| *row += changed as u32);
        for number in changed_of.iter().flatten().filter(|number| wanted[changes.groups[**number as usize]]) {
            check_weight(&self.name, "a row", rows[*number as usize].after)?;
        }
        let batch = match found.num_rows() {
            0 => changes.batch.clone(),
            _ => concat_batches(&self.schema, [&changes.batch, &found.batch])?,
        };
        Ok(Rows { batch, rows, changed, changed_of, others_of, encoded: Vec::new(), key_lens: Vec::new() })
    }

    fn load_log(
        &mut self,
        snapshot: &Snapshot,
        changes: &Changes,
        wanted: &[bool],
        groups: &GroupNumbers,
    ) -> Result<Rows> {
        let mut loaded = self.load_changed(changes, wanted.len());
        let Kept::Log(log) = &mut self.kept else { return Err(Error::internal("the rows are not in a log")) };
        let wanted: Vec<usize> = (0..wanted.len()).filter(|&group| wanted[group]).collect();
        let keys: Vec<&[u8]> = wanted.iter().map(|&group| groups.key(group)).collect();
        let (mut bytes, mut ends, mut of) = (Vec::new(), vec![0], Vec::new());
        log.find(snapshot, &keys, |at, weight, row| {
            loaded.others_of[wanted[at]].push(loaded.rows.len() as u32);
            loaded.rows.push(Row { before: weight, after: weight, ..Row::default() });
            bytes.extend_from_slice(row);
            ends.push(bytes.len());
            of.push(at);
        })?;
        if !of.is_empty() {
            let rests = ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
            let others = self.decode(of.iter().map(|&at| keys[at]), rests, of.len())?;
            loaded.batch = concat_batches(&self.schema, [&changes.batch, &others])?;
        }
        Ok(loaded)
    }

    fn load_own(
        &mut self,
        snapshot: &Snapshot,
        changes: &Changes,
        wanted: &[bool],
        groups: &GroupNumbers,
    ) -> Result<Rows> {
        let Kept::Own(kept) = &mut self.kept else { return Err(Error::internal("the rows are stored elsewhere")) };
        let mut encoded: Vec<Vec<u8>> = changes.encoded.keys().into_iter().map(<[u8]>::to_vec).collect();
        kept.load(snapshot, &encoded)?;
        let (mut changed_of, mut others_of) = (vec![Vec::new(); wanted.len()], vec![Vec::new(); wanted.len()]);
        let mut rows = Vec::with_capacity(encoded.len());
        for (number, (key, &weight)) in encoded.iter().zip(&changes.weights).enumerate() {
            let (before, matches) = kept.get(key).map_or(Ok((0, 0)), read_value)?;
            let after = before + weight;
            check_weight(&self.name, "a row", after)?;
            rows.push(Row { before, after, matches_before: matches, matches_after: matches });
            if weight != 0 {
                changed_of[changes.groups[number]].push(number as u32);
            }
        }
        let changed = rows.len();
        let wanted: Vec<usize> = (0..wanted.len()).filter(|&group| wanted[group]).collect();
        let prefixes: Vec<&[u8]> = wanted.iter().map(|&group| groups.key(group)).collect();
        let mut key_lens = changes.key_lens.clone();
        let mut found: Vec<(usize, (i64, i64))> = Vec::new();
        let mut broken = Ok(());
        kept.scan_prefixes(snapshot, &prefixes, |at, entry, value| {
            if changes.encoded.find(entry).is_some_and(|n| changes.weights[n] != 0) {
                return;
            }
            match read_value(value) {
                Ok(value) => found.push((wanted[at], value)),
                Err(e) => broken = Err(e),
            }
            key_lens.push(prefixes[at].len());
            encoded.push(entry.to_vec());
        })?;
        broken?;
        for (group, (weight, matches)) in found {
            others_of[group].push(rows.len() as u32);
            rows.push(Row { before: weight, after: weight, matches_before: matches, matches_after: matches });
        }
        let others = self.decode_entries(&encoded[changed..], &key_lens[changed..])?;
        let batch = match others.num_rows() {
            0 => changes.batch.clone(),
            _ => concat_batches(&self.schema, [&changes.batch, &others])?,
        };
        Ok(Rows { batch, rows, changed, changed_of, others_of, encoded, key_lens })
    }

    /// Keeps the rows as they are after the epoch; their keys are numbered in `groups`.
    pub fn store(&mut self, ctx: &StepContext<'_>, rows: &Rows, groups: &GroupNumbers) -> Result<()> {
        let kept = match &mut self.kept {
            Kept::Own(kept) => kept,
            Kept::Log(_) => return self.store_in_log(ctx, rows, groups),
            Kept::Stored(_) | Kept::Nothing => return Ok(()),
        };
        let by_time = self.horizon.as_ref().filter(|horizon| !horizon.until_met);
        let times = by_time.map(|horizon| horizon.times(&rows.batch)).transpose()?;
        let in_pieces = self.horizon.as_mut().filter(|horizon| horizon.in_pieces);
        let bound = in_pieces.map(|horizon| horizon.bound(ctx)).transpose()?;
        let mut pieces = Vec::new();
        for (number, (row, key)) in rows.rows.iter().zip(&rows.encoded).enumerate() {
            let same_matches = !self.counts_matches || row.matches_before == row.matches_after;
            if row.before == row.after && same_matches {
                continue;
            }
            if let (Some(horizon), Some(times)) = (&mut self.horizon, &times)
                && (row.before == 0) != (row.after == 0)
            {
                match (bound, times[number]) {
                    // It has met all that it ever will.
                    (Some(bound), Some(time)) if bound.is_some_and(|bound| time < bound) => continue,
                    (Some(_), Some(time)) => pieces.push((time, key.as_slice(), rows.key_lens[number])),
                    (_, time) => horizon.keep(time, key, rows.key_lens[number], row.after != 0),
                }
            }
            match row.after {
                0 => kept.delete(key),
                _ => put(kept, key, row, self.counts_matches)?,
            }
        }
        if let Some(horizon) = &mut self.horizon {
            horizon.keep_in_pieces(pieces);
        }
        Ok(())
    }

    fn store_in_log(&mut self, ctx: &StepContext<'_>, rows: &Rows, groups: &GroupNumbers) -> Result<()> {
        let changed = rows.batch.slice(0, rows.changed);
        let rests = self.encode_rest(&changed)?;
        let Kept::Log(log) = &mut self.kept else { return Err(Error::internal("the rows are not in a log")) };
        let times = self.horizon.as_ref().map(|horizon| horizon.times(&changed)).transpose()?;
        let bound = self.horizon.as_mut().map(|horizon| horizon.bound(ctx)).transpose()?.flatten();
        let mut pieces = Vec::new();
        let mut of_key: Vec<log::Row<'_>> = Vec::new();
        for group in 0..groups.len() {
            of_key.clear();
            for &row in rows.changed(group) {
                let row = row as usize;
                let time = times.as_ref().and_then(|times| times[row]);
                // Else it has met all that it ever will.
                if bound.zip(time).is_none_or(|(bound, time)| time >= bound) {
                    of_key.push((time, rows.rows[row].after, rests.row(row)));
                }
            }
            pieces.extend(log.keep(ctx.epoch, groups.key(group), &mut of_key)?);
        }
        if let Some(horizon) = &mut self.horizon {
            let timed =
                pieces.iter().filter_map(|(time, entry)| Some(((*time)?, entry.as_slice(), Log::key_len(entry))));
            horizon.keep_in_pieces(timed.collect());
        }
        Ok(())
    }

    /// Whether rows are let go by the time of the one partner that they have met.
    pub fn is_kept_until_met(&self) -> bool {
        self.horizon.as_ref().is_some_and(|horizon| horizon.until_met)
    }

    /// Rows have met their partner, or no longer: numbers of a row and of a partner, and the change of their weight.
    pub fn met(&mut self, rows: &Rows, partners: &Rows, mut pairs: Vec<(u32, u32, i64)>) -> Result<()> {
        let Some(horizon) = &mut self.horizon else { return Ok(()) };
        let times = horizon.partners_times(&partners.batch)?;
        // A partner may be replaced by one with its time: what goes is taken out before what comes is put in.
        pairs.sort_by_key(|(_, _, weight)| *weight > 0);
        for (row, partner, weight) in pairs {
            let (row, time) = (row as usize, times[partner as usize]);
            let is_there = weight > 0 || rows.rows[row].after > 0 && partners.rows[partner as usize].after > 0;
            horizon.keep(time, &rows.encoded[row], rows.key_lens[row], is_there);
        }
        Ok(())
    }

    /// Lets rows go that can meet nothing any more. `asks`: gives them, as rows that came in this epoch with all their matches.
    pub fn let_go(&mut self, ctx: &StepContext<'_>, asks: bool) -> Result<Option<Rows>> {
        let (Some(horizon), Some(kept)) = (&mut self.horizon, self.kept.entries_mut()) else { return Ok(None) };
        let gone = horizon.take(ctx)?;
        let mut told = None;
        if asks && !gone.is_empty() {
            let (keys, key_lens): (Vec<_>, Vec<_>) =
                gone.iter().map(|(key, len)| (key.clone(), horizon::key_len(len))).unzip();
            kept.load(ctx.snapshot, &keys)?;
            let values = keys.iter().map(|key| kept.get(key).map_or(Ok((0, 0)), read_value));
            told = Some((values.collect::<Result<Vec<_>>>()?, keys, key_lens));
        }
        gone.iter().for_each(|(key, _)| kept.delete(key));
        let Some((values, keys, key_lens)) = told else { return Ok(None) };
        let mine = self.mine(&keys, &key_lens)?;
        let row = |((after, matches_after), mine): (&(i64, i64), &bool)| Row {
            after: if *mine { *after } else { 0 },
            matches_after: *matches_after,
            ..Row::default()
        };
        let rows: Vec<Row> = values.iter().zip(&mine).map(row).collect();
        let batch = self.decode_entries(&keys, &key_lens)?;
        Ok(Some(Rows { batch, changed: rows.len(), rows, ..Rows::nothing(&self.schema) }))
    }

    /// Which keys are this shard's: after a restart with another number of shards it finds those of others, too.
    fn mine(&self, keys: &[Vec<u8>], key_lens: &[usize]) -> Result<Vec<bool>> {
        let Placement { shard, shards, shard_keys, .. } = &self.placement;
        if *shards == 1 || shard_keys.is_empty() {
            return Ok(vec![*shard == 0; keys.len()]);
        }
        let columns = self.keys.codec.decode(keys.iter().zip(key_lens).map(|(key, &len)| &key[..len]))?;
        Ok(shards_of(&columns, keys.len(), *shards)?.into_iter().map(|of| of == *shard).collect())
    }

    pub fn flush(&mut self, commit: &mut EpochCommit) {
        if let Some(kept) = self.kept.entries_mut() {
            kept.flush(commit);
        }
        if let Some(horizon) = &mut self.horizon {
            horizon.flush(commit);
        }
    }

    /// What it keeps of its own.
    pub fn kept(&self) -> Option<&KeyedState> {
        self.kept.entries()
    }

    fn decode_entries(&self, entries: &[Vec<u8>], key_lens: &[usize]) -> Result<RecordBatch> {
        let split = || entries.iter().zip(key_lens).map(|(entry, &len)| entry.split_at(len));
        self.decode(split().map(|(key, _)| key), split().map(|(_, rest)| rest), entries.len())
    }

    fn decode<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        rests: impl Iterator<Item = &'a [u8]>,
        rows: usize,
    ) -> Result<RecordBatch> {
        if rows == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let key_columns = self.keys.codec.decode(keys)?;
        let rest_columns = self.rest_codec.decode(rests)?;
        let column = |c: usize| match self.rest.iter().position(|r| *r == c) {
            Some(at) => Some(Arc::clone(&rest_columns[at])),
            None => self.keys.on.iter().position(|k| *k == c).map(|at| Arc::clone(&key_columns[at])),
        };
        let columns = (0..self.schema.fields().len()).map(column).collect::<Option<Vec<_>>>();
        let columns = columns.ok_or_else(|| Error::internal("a column is neither in the key nor beside it"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

impl Changes {
    /// Marks the groups in which a row has changed.
    pub fn mark(&self, touched: &mut [bool]) {
        self.groups.iter().filter(|g| **g != usize::MAX).for_each(|&g| touched[g] = true);
    }

    /// The changed rows as if none had been there before, and which of them are of each group.
    fn as_new(&self, groups: usize) -> (Vec<Row>, Vec<Vec<u32>>) {
        let mut of_group = vec![Vec::new(); groups];
        for (number, &group) in self.groups.iter().enumerate().filter(|(_, group)| **group != usize::MAX) {
            of_group[group].push(number as u32);
        }
        (self.weights.iter().map(|&after| Row { after, ..Row::default() }).collect(), of_group)
    }
}

impl Rows {
    pub fn nothing(schema: &SchemaRef) -> Self {
        Self {
            batch: RecordBatch::new_empty(Arc::clone(schema)),
            rows: Vec::new(),
            changed: 0,
            changed_of: Vec::new(),
            others_of: Vec::new(),
            encoded: Vec::new(),
            key_lens: Vec::new(),
        }
    }

    /// The rows of a group that have changed.
    pub fn changed(&self, group: usize) -> &[u32] {
        &self.changed_of[group]
    }

    /// The rows of a group that have not, if they were asked for.
    pub fn others(&self, group: usize) -> &[u32] {
        &self.others_of[group]
    }

    /// A row matches one of the other input. A changed row is told of all its matches, another of those that have changed.
    pub fn add_match(&mut self, row: u32, partner: Row) {
        let is_changed = (row as usize) < self.changed;
        let row = &mut self.rows[row as usize];
        if is_changed {
            row.matches_before += partner.before;
            row.matches_after += partner.after;
        } else {
            row.matches_after += partner.after - partner.before;
        }
    }

    /// Every row matches this many of the other input.
    pub fn set_matches(&mut self, group: usize, before: i64, after: i64) {
        for &row in self.changed_of[group].iter().chain(&self.others_of[group]) {
            let row = &mut self.rows[row as usize];
            (row.matches_before, row.matches_after) = (before, after);
        }
    }

    /// How the number of rows changes that have matches (or have none), by row.
    pub fn changes_of(&self, matched: bool) -> (UInt32Array, Vec<i64>) {
        let counted = |matches: i64, weight: i64| if (matches > 0) == matched { weight } else { 0 };
        let change = |row: &Row| counted(row.matches_after, row.after) - counted(row.matches_before, row.before);
        let changes = self.rows.iter().map(change).enumerate().filter(|(_, change)| *change != 0);
        let (rows, weights): (Vec<u32>, Vec<i64>) = changes.map(|(row, change)| (row as u32, change)).unzip();
        (UInt32Array::from(rows), weights)
    }

    /// To be told anew by [`Rows::add_match`].
    pub fn forget_matches_of_changed(&mut self) {
        for row in &mut self.rows[..self.changed] {
            (row.matches_before, row.matches_after) = (0, 0);
        }
    }
}

fn put(kept: &mut KeyedState, key: &[u8], row: &Row, with_matches: bool) -> Result<()> {
    let mut buffer = [0; 20];
    let encoded = match with_matches {
        true => postcard::to_slice(&(row.after, row.matches_after), &mut buffer),
        false => postcard::to_slice(&row.after, &mut buffer),
    };
    let value = encoded.map_err(|e| Error::internal(format!("cannot encode weight {}: {e}", row.after)))?;
    kept.put(key, value);
    Ok(())
}

/// The value of a kept row: its weight, its matches.
fn read_value(value: &[u8]) -> Result<(i64, i64)> {
    let broken = |e| Error::internal(format!("a kept row's weight cannot be read: {e}"));
    let (weight, rest) = postcard::take_from_bytes(value).map_err(broken)?;
    let matches = if rest.is_empty() { 0 } else { postcard::from_bytes(rest).map_err(broken)? };
    Ok((weight, matches))
}

/// Types whose values a key gives back as they were: in a key -0.0 is 0.0.
fn is_exact(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::Binary | DataType::Boolean | DataType::Decimal128(..) => true,
        other => other.is_integer() || other.is_temporal(),
    }
}
