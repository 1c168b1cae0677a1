//! Folding beside the clock: while no tick is due, rows that rest are copied by column, a sheet's worth at a time.
//!
//! ```text
//!   tick      wait             tick    wait                                      nothing comes for a second
//!   ████──────▒────────────────████────▒─────── ..        ▒──▒──▒──▒── ..        ▒ a step: read rows, write a sheet
//!             └─ 15 times as long ─┘                       as long as the step was
//! ```
//!
//! A step is written ahead of the next epoch: it changes nothing of what any snapshot holds.

use tidemark_common::Result;

use crate::driver::Driver;
use crate::job::Output;

/// Without a tick for so many microseconds, nobody needs the clock.
const QUIET: i64 = 1_000_000;
/// Microseconds until it is looked again for rows to fold.
const LOOK_AGAIN: i64 = 1_000_000;
/// Times as long as a step the clock waits after it, while it has work to do.
const WHEN_BUSY: i64 = 15;

#[derive(Debug, Default)]
pub(crate) struct FoldTurn {
    /// The table or view that was folded last.
    last: tidemark_common::Oid,
    /// When the next step may be taken.
    due_at: i64,
}

impl Driver {
    /// Microseconds until the next step.
    pub fn fold_due_in(&self) -> i64 {
        (self.folding.due_at - self.clock.now_micros()).min(LOOK_AGAIN)
    }

    /// One step of the next collection in turn that has one to take.
    pub fn fold(&mut self) -> Result<()> {
        let (rules, now) = (self.config.fold, self.clock.now_micros());
        let tables = self.tables.iter_mut().map(|(oid, table)| (*oid, table.writer_mut()));
        let views = self.jobs.iter_mut().filter(|(_, job)| !job.is_backfilling());
        let views = views.filter_map(|(oid, job)| match &mut job.output {
            Output::View(writer) => Some((*oid, &mut **writer)),
            _ => None,
        });
        let mut writers: Vec<_> = tables.chain(views).collect();
        writers.sort_unstable_by_key(|(oid, _)| *oid);
        let first = writers.partition_point(|(oid, _)| *oid < self.folding.last);
        writers.rotate_left(first);
        self.folding.due_at = now + LOOK_AGAIN;
        for (oid, writer) in writers {
            let Some(ahead) = writer.fold(&self.snapshot, rules, now)? else { continue };
            self.snapshot = self.store.prepare(&ahead)?;
            let done = self.clock.now_micros();
            let rest = if done - self.last_tick >= QUIET { 1 } else { WHEN_BUSY };
            self.folding.last = oid;
            self.folding.due_at = done + (done - now).max(0) * rest;
            self.publish();
            break;
        }
        Ok(())
    }
}
