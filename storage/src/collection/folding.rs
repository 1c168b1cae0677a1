//! Folding: which rows get [`sheets`](super::sheets), and when.
//!
//! ```text
//!   entries ──many, and few of them change──▶ sheet ──a quarter has changed, and it is quiet again──▶ a new sheet
//!      ▲                                        │
//!      └──────────── half has changed ──────────┘       a change within a sheet costs two entries
//! ```
//!
//! The clock folds a sheet's worth of rows at a time when it has nothing else to do. What is counted here is counted in memory, and
//! only decides when; what a sheet and its overlay say is in the store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tidemark_common::Result;

use super::Collection;
use super::sheets::Sheet;
use crate::commit::EpochCommit;
use crate::keys::Key;
use crate::snapshot::{Chunk, Snapshot};

/// How large collections and sheets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldRules {
    /// Rows that a collection has before it gets sheets; 0: none does.
    pub worth: u64,
    /// Of a sheet, at most.
    pub rows: usize,
}

impl FoldRules {
    /// For collections of so many rows; 0: for none.
    pub fn from(worth: u64) -> Self {
        /// What a reader takes at a time.
        const MAX_ROWS: usize = 8192;
        Self { worth, rows: usize::try_from(worth / 4).map_or(MAX_ROWS, |rows| rows.clamp(1, MAX_ROWS)) }
    }

    /// Fewer rows than this are better off as entries.
    fn least(&self) -> usize {
        self.rows.div_ceil(8)
    }
}

/// Microseconds for which changes count as recent.
const ROUND: i64 = 1_000_000;
/// Rows outside of sheets are quiet if no more of them changed within a round than this part of what has changed in all.
const PATIENCE: u64 = 16;
const MAX_PATIENCE: u64 = 1024;
/// Overlays that are counted, or places without enough rows that are looked at, in one step.
const MAX_LOOKS: usize = 64;

#[derive(Debug)]
pub(super) struct Folding {
    /// By the keys before which they end.
    sheets: BTreeMap<Vec<u8>, Watched>,
    next_number: u64,
    /// Changes outside of all sheets, since the last pass over what is there began.
    loose: Recent,
    /// The key at which a pass stands.
    pass: Option<Vec<u8>>,
    /// When the round began.
    round_at: i64,
    round: u64,
    patience: u64,
}

#[derive(Debug)]
struct Watched {
    sheet: Sheet,
    /// Changes of its keys, at least as many as the overlay has.
    changes: Recent,
}

/// Changes, and how many of them came in the last two rounds.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    all: u64,
    round: u64,
    now: u64,
    before: u64,
}

impl Recent {
    fn add(&mut self, round: u64) {
        self.turn(round);
        self.all += 1;
        self.now += 1;
    }

    fn turn(&mut self, round: u64) {
        if round != self.round {
            self.before = if round == self.round + 1 { self.now } else { 0 };
            (self.now, self.round) = (0, round);
        }
    }

    fn lately(mut self, round: u64) -> u64 {
        self.turn(round);
        self.now.max(self.before)
    }
}

impl Folding {
    pub fn open(collection: &Collection, snapshot: &Snapshot) -> Result<Self> {
        let sheets = collection.sheets(snapshot, &[], None)?;
        let next_number = sheets.iter().map(|sheet| sheet.head.number + 1).max().unwrap_or(0);
        // What their overlays have is counted when somebody asks.
        let watch = |sheet: Sheet| {
            let changes = Recent { all: sheet.head.rows, ..Recent::default() };
            (sheet.to.clone(), Watched { sheet, changes })
        };
        Ok(Self {
            sheets: sheets.into_iter().map(watch).collect(),
            next_number,
            loose: Recent { all: u64::MAX / 2, ..Recent::default() },
            pass: None,
            round_at: i64::MIN,
            round: 2,
            patience: PATIENCE,
        })
    }

    /// Nothing is there any more.
    pub fn clear(&mut self) {
        self.sheets.clear();
        self.pass = None;
    }

    /// A key changes: true if it is one of a sheet's, so that the overlay has to say so.
    pub fn changes(&mut self, key: &[u8]) -> bool {
        let beyond = (Bound::Excluded(key), Bound::Unbounded);
        match self.sheets.range_mut::<[u8], _>(beyond).next() {
            Some((_, watched)) if watched.sheet.head.from.as_slice() <= key => {
                watched.changes.add(self.round);
                true
            }
            _ => {
                self.loose.add(self.round);
                false
            }
        }
    }

    /// The next step, which changes nothing of what the collection holds, `rows` in all; `None`: there is none to take now.
    pub fn step(
        &mut self,
        collection: &Collection,
        snapshot: &Arc<Snapshot>,
        rows: u64,
        rules: FoldRules,
        now: i64,
    ) -> Result<Option<EpochCommit>> {
        // One that has become a little smaller keeps what it has.
        if rules.worth == 0 || rows < rules.worth.div_ceil(2) {
            return self.give_up(collection, snapshot);
        }
        if now < self.round_at || now.saturating_sub(self.round_at) >= ROUND {
            (self.round_at, self.round) = (now, self.round + 1);
        }
        if let Some(sheet) = self.changed_sheet(collection, snapshot)? {
            return self.fold_again(collection, snapshot, sheet, rules).map(Some);
        }
        match rows >= rules.worth {
            true => self.fold_entries(collection, snapshot, rules),
            false => Ok(None),
        }
    }

    /// No sheets any more, of a collection that is not worth them.
    fn give_up(&mut self, collection: &Collection, snapshot: &Snapshot) -> Result<Option<EpochCommit>> {
        self.pass = None;
        let Some((_, watched)) = self.sheets.pop_first() else { return Ok(None) };
        let mut ahead = EpochCommit::new(snapshot.epoch());
        collection.delete_sheet(snapshot, &watched.sheet, &mut ahead)?;
        Ok(Some(ahead))
    }

    /// A sheet of which much has changed: all too much, or it is quiet again.
    fn changed_sheet(&mut self, collection: &Collection, snapshot: &Snapshot) -> Result<Option<Sheet>> {
        let mut looks = 0;
        for watched in self.sheets.values_mut() {
            let rows = watched.sheet.head.rows;
            let is_due = |changes: &Recent| {
                changes.all * 2 > rows || changes.all * 4 > rows && changes.lately(self.round) * 8 <= changes.all
            };
            if !is_due(&watched.changes) {
                continue;
            }
            if looks == MAX_LOOKS {
                break;
            }
            looks += 1;
            // The same keys may have changed again and again.
            let mut all = 0;
            collection.visit_overlay(snapshot, &watched.sheet, |_, _| {
                all += 1;
                Ok(())
            })?;
            watched.changes.all = all;
            if is_due(&watched.changes) {
                return Ok(Some(watched.sheet.clone()));
            }
        }
        Ok(None)
    }

    /// Makes new sheets of a sheet's keys, or none while they go on changing.
    fn fold_again(
        &mut self,
        collection: &Collection,
        snapshot: &Arc<Snapshot>,
        sheet: Sheet,
        rules: FoldRules,
    ) -> Result<EpochCommit> {
        let mut ahead = EpochCommit::new(snapshot.epoch());
        collection.delete_sheet(snapshot, &sheet, &mut ahead)?;
        let watched = self.sheets.remove(&sheet.to);
        if watched.is_some_and(|watched| watched.changes.lately(self.round) * 8 > watched.changes.all) {
            self.patience = (self.patience * 2).min(MAX_PATIENCE);
            return Ok(ahead);
        }
        let mut from = sheet.head.from;
        while let Some(next) = self.fold_from(collection, snapshot, &from, Some(&sheet.to), rules, &mut ahead)? {
            from = next;
        }
        Ok(ahead)
    }

    /// The next sheet of rows that have none, if they are many, and quiet.
    fn fold_entries(
        &mut self,
        collection: &Collection,
        snapshot: &Arc<Snapshot>,
        rules: FoldRules,
    ) -> Result<Option<EpochCommit>> {
        let lately = self.loose.lately(self.round);
        if self.pass.is_none()
            && (self.loose.all < rules.rows as u64 || lately.saturating_mul(self.patience) > self.loose.all)
        {
            return Ok(None);
        }
        let mut at = match self.pass.take() {
            Some(at) => at,
            None => {
                self.loose.all = lately;
                Vec::new()
            }
        };
        let mut ahead = EpochCommit::new(snapshot.epoch());
        for _ in 0..MAX_LOOKS {
            let beyond = (Bound::Excluded(at.as_slice()), Bound::Unbounded);
            let next = self.sheets.range::<[u8], _>(beyond).next().map(|(_, watched)| &watched.sheet);
            let (until, after) = match next {
                Some(sheet) if sheet.head.from <= at => {
                    at = sheet.to.clone();
                    continue;
                }
                Some(sheet) => (Some(sheet.head.from.clone()), Some(sheet.to.clone())),
                None => (None, None),
            };
            if let Some(next) = self.fold_from(collection, snapshot, &at, until.as_deref(), rules, &mut ahead)? {
                self.pass = Some(next);
                return Ok(Some(ahead));
            }
            match after {
                Some(after) => at = after,
                None => return Ok((!ahead.is_empty()).then_some(ahead)),
            }
        }
        self.pass = Some(at);
        Ok(Some(ahead))
    }

    /// Makes a sheet of the first entries of a range, if there are enough. The key to go on from, if there may be more.
    fn fold_from(
        &mut self,
        collection: &Collection,
        snapshot: &Arc<Snapshot>,
        from: &[u8],
        until: Option<&[u8]>,
        rules: FoldRules,
        ahead: &mut EpochCommit,
    ) -> Result<Option<Vec<u8>>> {
        let rows = Key::rows(collection.id);
        let encoded = |key: &[u8]| [rows.start.as_slice(), key].concat();
        let end = until.map_or(rows.end.clone(), encoded);
        let mut chunk = Chunk::default();
        let mut scan = snapshot.scan(&encoded(from), &end);
        scan.fill(&mut chunk, rules.rows)?;
        let Some(last) = chunk.len().checked_sub(1) else { return Ok(None) };
        // A chunk of wide rows may be full with few of them.
        let is_full = !scan.is_done();
        if !is_full && chunk.len() < rules.least() {
            return Ok(None);
        }
        let after = [&chunk.key(last)[rows.start.len()..], &[0]].concat();
        let to = match until {
            Some(until) if !is_full => until.to_vec(),
            _ => after,
        };
        let sheet = collection.write_sheet(self.next_number, (from, &to), &chunk, ahead)?;
        self.next_number += 1;
        self.sheets.insert(to.clone(), Watched { sheet, changes: Recent::default() });
        Ok(is_full.then_some(to))
    }
}
