//! A limit of rows a second, in real time.
//!
//! Credit grows with the clock, up to one second's worth, and is spent on rows: a reader that was held up does not flood what
//! comes behind it.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::Clock;

/// Rows come in bunches no closer than this, so that a high rate is not one row a batch.
const BUNCH_MICROS: i64 = 20_000;
/// Longest sleep before the clock is asked again.
const LONGEST_SLEEP_MICROS: i64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    /// Rows a second; `None`: no limit.
    rate: Option<f64>,
    credit: f64,
    counted_at: i64,
    spent_at: Option<i64>,
}

impl Pace {
    pub fn new(clock: Arc<dyn Clock>, rate: Option<f64>) -> Self {
        let counted_at = clock.now_micros();
        Self { clock, rate, credit: 0.0, counted_at, spent_at: None }
    }

    /// Waits until a row may go and says how many may. Nothing is spent yet, so a dropped wait loses nothing.
    pub async fn ready(&mut self) -> usize {
        let Some(rate) = self.rate else {
            tokio::task::yield_now().await;
            return usize::MAX;
        };
        loop {
            let now = self.clock.now_micros();
            let passed = (now - self.counted_at).max(0);
            self.counted_at = now;
            self.credit = (self.credit + passed as f64 * rate / 1e6).min(rate.max(1.0));
            let bunch = self.spent_at.map_or(0, |at| (at + BUNCH_MICROS - now).clamp(0, BUNCH_MICROS));
            if self.credit >= 1.0 && bunch == 0 {
                return self.credit as usize;
            }
            let until_next = ((1.0 - self.credit) * 1e6 / rate).ceil() as i64;
            let wait = until_next.max(bunch).clamp(1_000, LONGEST_SLEEP_MICROS);
            tokio::time::sleep(Duration::from_micros(wait as u64)).await;
        }
    }

    pub fn spend(&mut self, rows: usize) {
        if self.rate.is_some() {
            self.credit -= rows as f64;
            self.spent_at = Some(self.clock.now_micros());
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::ManualClock;

    use super::*;

    #[tokio::test]
    async fn credit_follows_the_clock_and_never_exceeds_a_second() {
        let clock = Arc::new(ManualClock::new(0));
        let mut pace = Pace::new(clock.clone(), Some(10.0));
        clock.advance(500_000);
        assert_eq!(pace.ready().await, 5);
        pace.spend(5);
        clock.advance(3_600_000_000);
        assert_eq!(pace.ready().await, 10);
        pace.spend(10);
        clock.advance(200_000);
        assert_eq!(pace.ready().await, 2);
    }

    #[tokio::test]
    async fn a_slow_rate_still_gives_a_row() {
        let clock = Arc::new(ManualClock::new(0));
        let mut pace = Pace::new(clock.clone(), Some(0.1));
        clock.advance(10_000_000);
        assert_eq!(pace.ready().await, 1);
    }
}
