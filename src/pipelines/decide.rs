//! Which pipelines are to run now: nothing but times and outcomes in, decisions out.
//!
//! ```text
//!        handled      due   due       now                 a ──┐
//!   ────────┼──────────┼─────┼─────────┼────▶             b ──┴─▶ c   AFTER a, b: when both have succeeded
//!           │          missed: catch_up says which                    since c began last
//! ```
//!
//! Architecture invariant: no clock, no I/O. A test moves `now` by hand.

use std::collections::BTreeMap;

use tidemark_common::Oid;

use super::options::CatchUp;
use super::schedule::Schedule;

/// Due times that are looked at one by one.
const MISSED: usize = 1000;
/// How late a run may begin that nothing has kept: what is later was missed.
const ON_TIME: i64 = 60_000_000;

/// A pipeline as decisions are made about it. Times are microseconds since 1970.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub schedule: Schedule,
    pub after: Vec<Oid>,
    pub catch_up: CatchUp,
    /// Those it comes after must have succeeded so shortly before it is due.
    pub freshness: Option<i64>,
    pub paused: bool,
    pub running: bool,
    /// Due times up to here have had their run, or will not get one.
    pub handled: i64,
    pub last: Option<Last>,
    /// When its last run began, or when it came to be.
    pub began: i64,
    /// Outcomes up to here of those it comes after have been looked at.
    pub seen: i64,
}

/// How the last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub run: i64,
    pub ended: i64,
    pub succeeded: bool,
    /// It did not run, because one that it comes after had not succeeded.
    pub skipped: bool,
}

impl Last {
    /// As the history has it.
    pub fn status(self) -> &'static str {
        match (self.succeeded, self.skipped) {
            (true, _) => "succeeded",
            (false, true) => "skipped",
            (false, false) => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// `due`: the time it was due; `parent`: the run that set it off.
    Run { pipeline: Oid, due: Option<i64>, parent: Option<i64> },
    /// It would have been due, and what it comes after did not do its part: which one, and why not.
    Skip { pipeline: Oid, due: Option<i64>, of: Oid, why: &'static str, parent: Option<i64> },
    /// Due times up to here were missed, and nobody wants them.
    Forget { pipeline: Oid, until: i64 },
}

/// What is to be done now, and when to look again if nothing happens before.
pub fn decide(now: i64, candidates: &BTreeMap<Oid, Candidate>) -> (Vec<Decision>, Option<i64>) {
    let mut decisions = Vec::new();
    let mut wake: Option<i64> = None;
    for (oid, candidate) in candidates {
        if candidate.paused || candidate.running {
            continue;
        }
        let decision = match candidate.schedule {
            Schedule::Never => follow(*oid, candidate, candidates, now),
            _ => timed(*oid, candidate, candidates, now),
        };
        let handled = match &decision {
            Some(Decision::Run { due: Some(due), .. } | Decision::Skip { due: Some(due), .. }) => *due,
            Some(Decision::Forget { until, .. }) => *until,
            _ => candidate.handled.max(now),
        };
        if let Some(next) = candidate.schedule.next(handled) {
            wake = Some(wake.map_or(next, |wake| wake.min(next)));
        }
        decisions.extend(decision);
    }
    (decisions, wake)
}

fn timed(oid: Oid, candidate: &Candidate, all: &BTreeMap<Oid, Candidate>, now: i64) -> Option<Decision> {
    let due = match candidate.catch_up {
        CatchUp::All => candidate.schedule.next(candidate.handled).filter(|due| *due <= now)?,
        CatchUp::Latest | CatchUp::None => candidate.schedule.last(candidate.handled, now, MISSED)?.0,
    };
    if candidate.catch_up == CatchUp::None && now - due > ON_TIME && !waits(candidate, all, due) {
        return Some(Decision::Forget { pipeline: oid, until: due });
    }
    let mut parent = None;
    for dependency in &candidate.after {
        let Some(other) = all.get(dependency) else { continue };
        if is_to_come(other, all, due) {
            return None;
        }
        let skip = |why| {
            let parent = other.last.map(|last| last.run);
            Some(Decision::Skip { pipeline: oid, due: Some(due), of: *dependency, why, parent })
        };
        match other.last {
            None => return skip("it has not run yet"),
            Some(last) if !last.succeeded => return skip("its last run did not succeed"),
            Some(last) if candidate.freshness.is_some_and(|fresh| due.saturating_sub(last.ended) > fresh) => {
                return skip("its last success is older than freshness allows");
            }
            Some(last) => parent = parent.max(Some(last.run)),
        }
    }
    Some(Decision::Run { pipeline: oid, due: Some(due), parent })
}

/// It is late because of those it comes after.
fn waits(candidate: &Candidate, all: &BTreeMap<Oid, Candidate>, due: i64) -> bool {
    let others = candidate.after.iter().filter_map(|oid| all.get(oid));
    let ended = others.clone().filter_map(|other| other.last).map(|last| last.ended).max();
    others.clone().any(|other| is_to_come(other, all, due)) || ended.is_some_and(|ended| ended > due)
}

/// It runs, or is about to for a time not later than `due`.
fn is_to_come(candidate: &Candidate, all: &BTreeMap<Oid, Candidate>, due: i64) -> bool {
    if candidate.running {
        return true;
    }
    if candidate.paused {
        return false;
    }
    match candidate.schedule {
        Schedule::Never => {
            // Those it comes after have run, or are about to.
            let news = |last: Last| last.ended > if last.succeeded { candidate.began } else { candidate.seen };
            let comes = |oid: &Oid| {
                all.get(oid).is_some_and(|other| other.last.is_some_and(news) || is_to_come(other, all, due))
            };
            !candidate.after.is_empty() && candidate.after.iter().all(comes)
        }
        _ => candidate.schedule.next(candidate.handled).is_some_and(|next| next <= due),
    }
}

/// Without a time of its own, when all that it comes after have run since it did.
fn follow(oid: Oid, candidate: &Candidate, all: &BTreeMap<Oid, Candidate>, now: i64) -> Option<Decision> {
    if candidate.after.is_empty() {
        return None;
    }
    let mut ends = Vec::new();
    for dependency in &candidate.after {
        let other = all.get(dependency)?;
        if is_to_come(other, all, now) {
            return None;
        }
        ends.push((*dependency, other.last.filter(|last| last.ended > candidate.began)?));
    }
    let parent = ends.iter().max_by_key(|(_, last)| last.ended).map(|(_, last)| last.run);
    match ends.iter().find(|(_, last)| !last.succeeded) {
        None => Some(Decision::Run { pipeline: oid, due: None, parent }),
        Some((of, _)) => {
            let news = ends.iter().any(|(_, last)| last.ended > candidate.seen);
            let why = "its last run did not succeed";
            news.then_some(Decision::Skip { pipeline: oid, due: None, of: *of, why, parent })
        }
    }
}

#[cfg(test)]
mod tests;
