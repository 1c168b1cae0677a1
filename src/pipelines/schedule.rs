//! When a pipeline is due.
//!
//! ```text
//!   SCHEDULE '30 2 * * *' TIME ZONE 'Europe/Berlin'          EVERY INTERVAL '5 minutes'
//!        due by the wall clock there: once on a day              since ──5m──▶ due ──5m──▶ due
//!        that has 02:30 twice, and at 03:30                      by the seconds that pass
//!        on one that has no 02:30
//! ```

use std::str::FromStr;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::CronParser;
use tidemark_catalog::{Pipeline, Trigger};
use tidemark_common::{Error, Result};

/// Due times to come, in microseconds since 1970.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Only when told to.
    Never,
    Cron(Box<Cron>, Tz),
    Every {
        since: i64,
        period: i64,
    },
}

impl Schedule {
    pub fn of(pipeline: &Pipeline) -> Result<Self> {
        Ok(match &pipeline.trigger {
            Trigger::Manual | Trigger::Continuous(_) => Schedule::Never,
            Trigger::Every(period) => Schedule::Every { since: pipeline.since, period: *period },
            Trigger::Schedule { pattern, zone } => {
                let cron = CronParser::new().parse(pattern).map_err(|e| {
                    Error::invalid(format!("schedule \"{pattern}\" is no cron pattern: {e}"))
                        .with_hint("It is minute hour day month weekday: '0 * * * *' is every hour, '30 2 * * 1-5' weekdays at 02:30.")
                })?;
                let zone = zone.as_deref().unwrap_or("UTC");
                let zone = Tz::from_str(zone).map_err(|_| {
                    Error::invalid(format!("time zone \"{zone}\" not recognized"))
                        .with_hint("Name one as 'Europe/Berlin', or 'UTC'.")
                })?;
                Schedule::Cron(Box::new(cron), zone)
            }
        })
    }

    /// The first due time later than `after`.
    pub fn next(&self, after: i64) -> Option<i64> {
        match self {
            Schedule::Never => None,
            Schedule::Every { since, period } => {
                let periods = after.saturating_sub(*since).div_euclid(*period).saturating_add(1).max(1);
                since.checked_add(period.checked_mul(periods)?)
            }
            Schedule::Cron(cron, zone) => {
                let after: DateTime<Tz> =
                    zone.from_utc_datetime(&DateTime::<Utc>::from_timestamp_micros(after)?.naive_utc());
                let due = cron.find_next_occurrence(&after, false).ok()?;
                Some(due.timestamp_micros())
            }
        }
    }

    /// The last due time later than `after` and not later than `now`; how many there are, up to `limit`.
    pub fn last(&self, after: i64, now: i64, limit: usize) -> Option<(i64, usize)> {
        if let Schedule::Every { since, period } = self {
            let last = since + (now - since).div_euclid(*period) * period;
            let missed = (last - after.max(*since)).div_euclid(*period).max(0) as usize;
            return (last > after && last > *since).then_some((last, missed.min(limit).max(1)));
        }
        let mut last = None;
        let mut at = after;
        for count in 1..=limit {
            match self.next(at).filter(|due| *due <= now) {
                Some(due) => (at, last) = (due, Some((due, count))),
                None => return last,
            }
        }
        // Behind by more than anyone wants to count: from the end, then.
        let Schedule::Cron(cron, zone) = self else { return last };
        let from = DateTime::<Utc>::from_timestamp_micros(now)?.with_timezone(zone);
        let due = cron.find_previous_occurrence(&from, true).ok()?;
        Some((due.timestamp_micros(), limit))
    }
}
