//! How much state a view may keep: WITH (max_state_entries = ..).
//!
//! ```text
//!   state on disk, by key   ├── counted with epoch e ──┼── e+1 ──┼── e+2 ── end: all of it is counted, again from the start
//! ```
//!
//! What the operators hold in memory is a part only, so entries are counted where all of them are: a piece with each epoch, so that no
//! epoch is long. A view beyond its limit is noticed when the count comes to it, small ones with the next epoch.

use std::sync::Arc;

use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_storage::{Key, Snapshot};

/// Entries that are counted with one epoch.
const PIECE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct StateLimit {
    max: u64,
    counted: u64,
    /// Where the count goes on; `None`: from the start.
    from: Option<Vec<u8>>,
}

impl StateLimit {
    pub fn new(max: u64) -> Self {
        Self { max, counted: 0, from: None }
    }

    /// Counts on in the state of `oid`; an error if that is more than there may be.
    pub fn check(&mut self, snapshot: &Arc<Snapshot>, oid: Oid, name: &str) -> Result<()> {
        let span = Key::states_of_object(oid);
        let from = self.from.take().unwrap_or_else(|| {
            self.counted = 0;
            span.start.clone()
        });
        for (n, entry) in (1..).zip(snapshot.scan(&from, &span.end)) {
            let (key, _) = entry?;
            self.counted += 1;
            if self.counted > self.max {
                return Err(exceeded(name, self.max));
            }
            if n == PIECE {
                self.from = Some([key.as_slice(), &[0]].concat());
                break;
            }
        }
        Ok(())
    }
}

fn exceeded(name: &str, max: u64) -> Error {
    Error::new(
        SqlState::ConfigurationLimitExceeded,
        format!("the state of \"{name}\" has more entries than its max_state_entries of {max}"),
    )
    .with_hint(
        "Bound its state (EXPLAIN shows what keeps rows, and until when), or create it again with a higher limit.",
    )
}

#[cfg(test)]
mod tests {
    use tidemark_storage::{StateId, Store, StoreOptions, value};

    use super::*;

    #[test]
    fn entries_are_counted_piece_by_piece() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions { sync: false, ..StoreOptions::default() }).unwrap();
        let mut commit = store.begin();
        for n in 0u32..10_000 {
            commit.put(&Key::State { state: StateId::new(7, 4 + n % 3), key: &n.to_be_bytes() }, &value::frame(b"x"));
        }
        commit.put(&Key::State { state: StateId::new(8, 4), key: b"another's" }, &value::frame(b"x"));
        let snapshot = store.commit(commit, 1, false).unwrap();
        let mut enough = StateLimit::new(10_000);
        (0..10).for_each(|_| enough.check(&snapshot, 7, "v").unwrap());
        let mut less = StateLimit::new(9_999);
        let told: Vec<bool> = (0..3).map(|_| less.check(&snapshot, 7, "v").is_ok()).collect();
        assert_eq!(told, [true, true, false]);
        assert_eq!(StateLimit::new(5).check(&snapshot, 7, "v").unwrap_err().code(), "53400");
    }
}
