//! How fast a backfill may read: so many rows a second, paid from credit that the clock brings.
//!
//! ```text
//!   credit        ╱│    ╱│        grows by `rate` a second, up to one second's worth
//!   (rows)      ╱  │  ╱  │  ╱     a chunk takes it, no sooner than `interval` after the chunk before
//!             ╱    │╱    │╱
//! ```
//!
//! A chunk that cannot be cut (a batch of a source's reader) may take more than there is: the next one waits for longer.
//!
//! Without a rate a chunk has as many rows as could be worked off in half an `interval`, going by the chunk before, so that a
//! backfill takes no more than a part of each epoch and everybody else keeps their pace:
//!
//! ```text
//!   chunk of 8192 took 12 ms ──▶ 16384 took 30 ms ──▶ 32768 took 90 ms ──▶ 18204 took 51 ms ──▶ 17847
//! ```

const SECOND: i64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Pace {
    /// Rows a second; `None`: no limit, 0: it stands still.
    rate: Option<u64>,
    /// Shortest time between two chunks in microseconds.
    interval: i64,
    /// Rows times microseconds, so that nothing is lost in rounding.
    credit: i128,
    counted_at: i64,
    spent_at: i64,
    /// Rows that a chunk has at most.
    chunk: usize,
}

/// Rows of the first chunk, of which nothing is known.
const FIRST_CHUNK: usize = 8192;
/// However long they take.
const SMALLEST_CHUNK: usize = 512;

impl Pace {
    pub fn new(rate: Option<u64>, interval: i64, now: i64) -> Self {
        Self { rate, interval, credit: 0, counted_at: now, spent_at: now, chunk: FIRST_CHUNK }
    }

    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    pub fn set_rate(&mut self, rate: Option<u64>, now: i64) {
        self.credit = self.credit_at(now);
        self.counted_at = now;
        self.rate = rate;
    }

    fn credit_at(&self, now: i64) -> i128 {
        let rate = i128::from(self.rate.unwrap_or(0));
        let passed = i128::from((now - self.counted_at).max(0));
        (self.credit + passed * rate).min(rate * i128::from(SECOND))
    }

    /// Rows that a chunk may have now.
    pub fn allowance(&self, now: i64) -> usize {
        match self.rate {
            None => self.chunk,
            Some(_) if self.interval_left(now) > 0 => 0,
            Some(_) => {
                usize::try_from((self.credit_at(now) / i128::from(SECOND)).max(0)).unwrap_or(usize::MAX).min(self.chunk)
            }
        }
    }

    pub fn spend(&mut self, rows: u64, now: i64) {
        if self.rate.is_some() && rows > 0 {
            self.credit = self.credit_at(now) - i128::from(rows) * i128::from(SECOND);
            self.counted_at = now;
            self.spent_at = now;
        }
    }

    /// A chunk of `rows` took so many microseconds: the next one may take half an interval, and no more than twice the rows.
    pub fn took(&mut self, rows: u64, micros: i64) {
        let wanted = i128::from(rows) * i128::from(self.interval / 2) / i128::from(micros.max(1));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let most = self.chunk.saturating_mul(2);
        // What was no whole chunk says nothing for a larger one.
        let most = if rows >= self.chunk as u64 / 2 { most } else { self.chunk };
        self.chunk = wanted.min(most).max(SMALLEST_CHUNK);
    }

    /// Microseconds until there is something to spend; `None`: that will not come.
    pub fn due_in(&self, now: i64) -> Option<i64> {
        let rate = match self.rate {
            None => return Some(0),
            Some(0) => return None,
            Some(rate) => i128::from(rate),
        };
        let missing = (i128::from(SECOND) - self.credit_at(now)).max(0);
        let wait = i64::try_from((missing + rate - 1) / rate).unwrap_or(i64::MAX);
        Some(wait.max(self.interval_left(now)))
    }

    /// A clock that was set back does not count.
    fn interval_left(&self, now: i64) -> i64 {
        if now < self.spent_at { 0 } else { (self.spent_at + self.interval - now).max(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_clock() {
        let mut pace = Pace::new(Some(1000), 100_000, 0);
        assert_eq!((pace.allowance(0), pace.due_in(0)), (0, Some(100_000)));
        assert_eq!((pace.allowance(99_999), pace.due_in(99_999)), (0, Some(1)));
        assert_eq!((pace.allowance(100_000), pace.due_in(100_000)), (100, Some(0)));
        pace.spend(100, 100_000);
        assert_eq!((pace.allowance(100_000), pace.due_in(100_000)), (0, Some(100_000)));
        // What was not taken stays, up to a second's worth.
        assert_eq!(pace.allowance(10_000_000), 1000);
        pace.spend(400, 10_000_000);
        assert_eq!(pace.allowance(10_100_000), 700);
    }

    #[test]
    fn a_chunk_that_was_too_large_is_waited_for() {
        let mut pace = Pace::new(Some(10), 1000, 0);
        pace.spend(25, 1_000_000);
        assert_eq!((pace.allowance(2_500_000), pace.due_in(1_000_000)), (0, Some(1_600_000)));
        assert_eq!((pace.allowance(2_600_000), pace.due_in(2_600_000)), (1, Some(0)));
    }

    #[test]
    fn chunks_take_half_an_interval() {
        let mut pace = Pace::new(None, 100_000, 0);
        let mut after = |rows, micros| {
            pace.took(rows, micros);
            pace.allowance(0)
        };
        assert_eq!(after(8192, 12_000), 16_384);
        assert_eq!(after(16_384, 30_000), 27_306);
        assert_eq!(after(27_306, 0), 54_612);
        assert_eq!(after(54_612, 1_000_000), 2730);
        assert_eq!(after(10, 50_000_000), SMALLEST_CHUNK);
        assert_eq!(after(100, 1), SMALLEST_CHUNK, "the last few rows");
        assert_eq!(after(512, 1), 1024);
    }

    #[test]
    fn slow_none_and_no_limit() {
        // Less than a row in an interval, and none of it lost to rounding.
        let mut pace = Pace::new(Some(3), 100_000, 0);
        assert_eq!(pace.due_in(0), Some(333_334));
        pace.spend(1, 333_334);
        assert_eq!(pace.due_in(333_334), Some(333_333));
        pace.set_rate(Some(0), 400_000);
        assert_eq!((pace.allowance(9_000_000), pace.due_in(9_000_000)), (0, None));
        pace.set_rate(None, 9_000_000);
        pace.spend(1_000_000, 9_000_000);
        assert_eq!((pace.allowance(9_000_000), pace.due_in(9_000_000)), (FIRST_CHUNK, Some(0)));
        // The clock is set back.
        let mut pace = Pace::new(Some(10), 1000, 5_000_000);
        pace.spend(0, 5_000_000);
        assert_eq!(pace.due_in(1_000_000), Some(100_000));
    }
}
