//! Sequences: numbers that never repeat, handed out without waiting for a commit each time.
//!
//! ```text
//!   stored counter:  reserved up to 33          after a crash the sequence goes on at 33:
//!   in memory:       next is 7  ──▶ 7, 8, 9     numbers may be missing, none comes twice
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_catalog::Sequence;
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_engine::{Engine, Transaction as Commit};
use tidemark_storage::{Key, Snapshot};

/// Numbers reserved with one commit.
const RESERVE: i64 = 1000;

pub struct Sequences {
    opened: Arc<Snapshot>,
    states: Mutex<HashMap<Oid, State>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// The number that comes next; `None` once the sequence has run out.
    next: Option<i64>,
    last: Option<i64>,
    /// Numbers that may still be given before more must be reserved.
    reserved: i64,
}

impl Sequences {
    pub fn new(opened: Arc<Snapshot>) -> Self {
        Self { opened, states: Mutex::default() }
    }

    /// Name of the stored counter: the first number that is not reserved.
    pub fn counter(oid: Oid) -> String {
        format!("sequence {oid}")
    }

    /// The next number. Blocks for a commit once in a while: call from a thread that may.
    pub fn next(&self, oid: Oid, name: &str, def: &Sequence, engine: &Engine) -> Result<i64> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match states.entry(oid) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                let stored: Option<i64> = self.opened.get_value(&Key::Counter(&Self::counter(oid)))?;
                e.insert(State { next: Some(stored.unwrap_or(def.start)), last: None, reserved: 0 })
            }
        };
        let Some(number) = state.next else { return Err(exhausted(name, def)) };
        if !(def.min..=def.max).contains(&number) {
            return Err(exhausted(name, def));
        }
        if state.reserved == 0 {
            reserve(engine, oid, after(number, RESERVE, def))?;
            state.reserved = RESERVE;
        }
        state.reserved -= 1;
        state.last = Some(number);
        state.next = step(number, def);
        Ok(number)
    }

    pub fn last(&self, oid: Oid) -> Option<i64> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).get(&oid).and_then(|s| s.last)
    }

    /// setval: the next number is `number`, or the one after it if it `is_called`.
    pub fn set(&self, oid: Oid, number: i64, is_called: bool, def: &Sequence, engine: &Engine) -> Result<()> {
        if !(def.min..=def.max).contains(&number) {
            return Err(Error::new(
                SqlState::NumericValueOutOfRange,
                format!("setval: value {number} is out of bounds for the sequence ({}..{})", def.min, def.max),
            ));
        }
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if is_called { step(number, def) } else { Some(number) };
        reserve(engine, oid, next.unwrap_or(def.max))?;
        states.insert(oid, State { next, last: is_called.then_some(number), reserved: 0 });
        Ok(())
    }
}

fn step(number: i64, def: &Sequence) -> Option<i64> {
    match number.checked_add(def.increment).filter(|n| (def.min..=def.max).contains(n)) {
        Some(next) => Some(next),
        None if def.cycle => Some(if def.increment > 0 { def.min } else { def.max }),
        None => None,
    }
}

/// The number `steps` on, or past the end.
fn after(number: i64, steps: i64, def: &Sequence) -> i64 {
    let far = number.saturating_add(def.increment.saturating_mul(steps));
    if def.cycle && !(def.min..=def.max).contains(&far) { def.start } else { far }
}

fn reserve(engine: &Engine, oid: Oid, until: i64) -> Result<()> {
    let commit = Commit { counters: vec![(Sequences::counter(oid), until)], ..Commit::default() };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| runtime.block_on(engine.commit(commit)))?;
    Ok(())
}

fn exhausted(name: &str, def: &Sequence) -> Error {
    let (which, limit) = if def.increment > 0 { ("maximum", def.max) } else { ("minimum", def.min) };
    Error::new(
        SqlState::SequenceLimitExceeded,
        format!("nextval: reached {which} value of sequence \"{name}\" ({limit})"),
    )
}
