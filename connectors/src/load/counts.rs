//! What a load has done, and of which run it is a part.

use super::Action;

/// Rows of a load by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// That came.
    pub rows: u64,
    pub inserted: u64,
    pub updated: u64,
    /// Versions that have ended.
    pub closed: u64,
    pub deleted: u64,
}

/// A load that may be tried again and must count once: whoever tries again gives the same id and target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadRun {
    pub id: String,
    /// What is loaded, as the one who runs it calls it.
    pub target: String,
    /// Whatever else is to be recorded with it.
    pub payload: Option<String>,
    /// It is all done, counted, and taken back.
    pub dry: bool,
    /// What a table holds that loads only add to goes first.
    pub anew: bool,
}

impl Counts {
    pub fn count(&mut self, action: Action, times: u64) {
        match action {
            Action::Inserted => self.inserted += times,
            Action::Updated => self.updated += times,
            Action::Changed => {
                self.inserted += times;
                self.closed += times;
            }
            Action::Closed => self.closed += times,
            Action::Deleted => self.deleted += times,
            Action::Unchanged | Action::OutOfOrder => {}
        }
    }

    pub fn unchanged(&self) -> u64 {
        self.rows.saturating_sub(self.inserted + self.updated)
    }

    /// Of both.
    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            rows: self.rows + other.rows,
            inserted: self.inserted + other.inserted,
            updated: self.updated + other.updated,
            closed: self.closed + other.closed,
            deleted: self.deleted + other.deleted,
        }
    }

    /// As INSERT counts them: rows that are there now and were not.
    pub fn written(&self) -> u64 {
        self.inserted + self.updated
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, inserted, updated, closed, deleted } = self;
        let unchanged = self.unchanged();
        write!(
            f,
            "{rows} rows: {inserted} inserted, {updated} updated, {unchanged} unchanged, {closed} closed, {deleted} deleted"
        )
    }
}
