use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, TimeZone};
use chrono_tz::Tz;
use tidemark_catalog::{Pipeline, Trigger};
use tidemark_common::{Clock, ManualClock};

use super::*;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

fn at(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn schedule(trigger: Trigger, since: i64) -> Schedule {
    let pipeline = Pipeline {
        targets: vec![],
        trigger,
        after: vec![],
        query: String::new(),
        search_path: vec![],
        options: vec![],
        secrets: vec![],
        on_success: vec![],
        on_failure: vec![],
        paused: false,
        since,
    };
    Schedule::of(&pipeline).unwrap()
}

fn cron(pattern: &str, zone: &str) -> Schedule {
    schedule(Trigger::Schedule { pattern: pattern.into(), zone: Some(zone.into()) }, 0)
}

fn candidate(schedule: Schedule, since: i64) -> Candidate {
    Candidate {
        schedule,
        after: vec![],
        catch_up: CatchUp::Latest,
        freshness: None,
        paused: false,
        running: false,
        handled: since,
        last: None,
        began: since,
        seen: since,
    }
}

/// Pipelines whose runs take no time and end as they are told, on a clock that is moved by hand.
struct World {
    clock: ManualClock,
    pipelines: BTreeMap<Oid, Candidate>,
    runs: i64,
    /// Those that fail.
    broken: Vec<Oid>,
    log: String,
    zone: Tz,
}

impl World {
    fn new(now: i64, zone: Tz, pipelines: impl IntoIterator<Item = (Oid, Candidate)>) -> Self {
        let pipelines = pipelines.into_iter().collect();
        Self { clock: ManualClock::new(now), pipelines, runs: 0, broken: vec![], log: String::new(), zone }
    }

    /// Does what is to be done, until nothing is.
    fn settle(&mut self) -> Option<i64> {
        loop {
            let now = self.clock.now_micros();
            let (decisions, wake) = decide(now, &self.pipelines);
            if decisions.is_empty() {
                return wake;
            }
            for decision in decisions {
                self.act(decision, now);
                // A run takes a moment, so that what follows it ends later.
                self.clock.advance(1);
            }
        }
    }

    fn act(&mut self, decision: Decision, now: i64) {
        let shown = self.zone.timestamp_micros(now).unwrap().format("%m-%d %H:%M %Z").to_string();
        match decision {
            Decision::Run { pipeline, due, .. } => {
                self.runs += 1;
                let succeeded = !self.broken.contains(&pipeline);
                let state = self.pipelines.get_mut(&pipeline).unwrap();
                state.handled = due.unwrap_or(state.handled);
                state.began = now;
                state.last = Some(Last { run: self.runs, ended: now + 1, succeeded, skipped: false });
                let due = due.map(|due| self.zone.timestamp_micros(due).unwrap().format(" for %H:%M %Z").to_string());
                let how = if succeeded { "ran" } else { "failed" };
                writeln!(self.log, "{shown}: {pipeline} {how}{}", due.unwrap_or_default()).unwrap();
            }
            Decision::Skip { pipeline, due, of, why, .. } => {
                self.runs += 1;
                let state = self.pipelines.get_mut(&pipeline).unwrap();
                state.handled = due.unwrap_or(state.handled);
                state.seen = now;
                state.last = Some(Last { run: self.runs, ended: now, succeeded: false, skipped: true });
                writeln!(self.log, "{shown}: {pipeline} skipped, {of}: {why}").unwrap();
            }
            Decision::Forget { pipeline, .. } => {
                let Decision::Forget { until, .. } = decision else { unreachable!() };
                self.pipelines.get_mut(&pipeline).unwrap().handled = until;
                writeln!(self.log, "{shown}: {pipeline} forgot").unwrap();
            }
        }
    }

    /// Moves the clock from one due time to the next.
    fn until(&mut self, end: i64) {
        while let Some(next) = self.settle().filter(|next| *next <= end) {
            self.clock.advance((next - self.clock.now_micros()).max(0));
        }
        self.clock.advance((end - self.clock.now_micros()).max(0));
    }

    fn log(&mut self) -> String {
        std::mem::take(&mut self.log)
    }
}

#[test]
fn a_time_of_day_comes_once_a_day_when_clocks_are_set_and_every_hour_comes_each_hour() {
    let zone: Tz = "Europe/Berlin".parse().unwrap();
    // Clocks go from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October.
    let daily = || candidate(cron("30 2 * * *", "Europe/Berlin"), at("2026-03-27T12:00:00Z"));
    let mut world = World::new(at("2026-03-27T12:00:00Z"), zone, [(1, daily())]);
    world.until(at("2026-03-30T12:00:00Z"));
    expect_test::expect![[r#"
        03-28 02:30 CET: 1 ran for 02:30 CET
        03-29 03:00 CEST: 1 ran for 03:00 CEST
        03-30 02:30 CEST: 1 ran for 02:30 CEST
    "#]]
    .assert_eq(&world.log());

    let since = at("2026-10-23T12:00:00Z");
    let mut world = World::new(since, zone, [(1, candidate(cron("30 2 * * *", "Europe/Berlin"), since))]);
    world.until(at("2026-10-26T12:00:00Z"));
    expect_test::expect![[r#"
        10-24 02:30 CEST: 1 ran for 02:30 CEST
        10-25 02:30 CEST: 1 ran for 02:30 CEST
        10-26 02:30 CET: 1 ran for 02:30 CET
    "#]]
    .assert_eq(&world.log());

    let since = at("2026-10-24T23:30:00Z");
    let mut world = World::new(since, zone, [(1, candidate(cron("0 * * * *", "Europe/Berlin"), since))]);
    world.until(at("2026-10-25T03:30:00Z"));
    expect_test::expect![[r#"
        10-25 02:00 CEST: 1 ran for 02:00 CEST
        10-25 02:00 CET: 1 ran for 02:00 CET
        10-25 03:00 CET: 1 ran for 03:00 CET
        10-25 04:00 CET: 1 ran for 04:00 CET
    "#]]
    .assert_eq(&world.log());

    let since = at("2026-03-29T00:30:00Z");
    let every = schedule(Trigger::Every(HOUR), since);
    let mut world = World::new(since, zone, [(1, candidate(every, since))]);
    world.until(at("2026-03-29T03:45:00Z"));
    expect_test::expect![[r#"
        03-29 03:30 CEST: 1 ran for 03:30 CEST
        03-29 04:30 CEST: 1 ran for 04:30 CEST
        03-29 05:30 CEST: 1 ran for 05:30 CEST
    "#]]
    .assert_eq(&world.log());
}

#[test]
fn what_was_missed_is_made_up_for_as_catch_up_says() {
    let since = at("2026-05-01T00:00:00Z");
    let pipelines = [CatchUp::Latest, CatchUp::All, CatchUp::None].into_iter().zip(1..).map(|(catch_up, oid)| {
        (oid, Candidate { catch_up, ..candidate(schedule(Trigger::Every(HOUR), since), since) })
    });
    // The server was down for three hours and a half.
    let mut world = World::new(since + 3 * HOUR + HOUR / 2, Tz::UTC, pipelines);
    world.until(since + 4 * HOUR + MINUTE);
    expect_test::expect![[r#"
        05-01 03:30 UTC: 1 ran for 03:00 UTC
        05-01 03:30 UTC: 2 ran for 01:00 UTC
        05-01 03:30 UTC: 3 forgot
        05-01 03:30 UTC: 2 ran for 02:00 UTC
        05-01 03:30 UTC: 2 ran for 03:00 UTC
        05-01 04:00 UTC: 1 ran for 04:00 UTC
        05-01 04:00 UTC: 2 ran for 04:00 UTC
        05-01 04:00 UTC: 3 ran for 04:00 UTC
    "#]]
    .assert_eq(&world.log());
}

#[test]
fn a_schedule_that_was_asleep_for_years_is_due_once() {
    let every_minute = cron("* * * * *", "UTC");
    let now = at("2026-05-01T10:00:30Z");
    assert_eq!(every_minute.last(0, now, 1000), Some((at("2026-05-01T10:00:00Z"), 1000)));
    let every = schedule(Trigger::Every(MINUTE), at("2020-01-01T00:00:00Z"));
    assert_eq!(every.last(0, now, 1000), Some((at("2026-05-01T10:00:00Z"), 1000)));
    assert_eq!(every.next(0), Some(at("2020-01-01T00:01:00Z")));
}

/// Ten pipelines:
/// ```text
///   1 ─┬─▶ 3 ─┬─▶ 5 ─┬─▶ 7 ──▶ 9 ──▶ 10
///   2 ─┴─▶ 4 ─┘      └─▶ 8 ────▲
///          └─▶ 6 ──────────────┘
/// ```
/// 1 and 2 every hour; 10 at its own time, and not without a fresh 9.
fn graph(since: i64) -> Vec<(Oid, Candidate)> {
    let edges: [(Oid, &[Oid]); 7] =
        [(3, &[1, 2]), (4, &[2]), (5, &[3, 4]), (6, &[4]), (7, &[5]), (8, &[5]), (9, &[6, 7, 8])];
    let hourly = || candidate(schedule(Trigger::Every(HOUR), since), since);
    let mut pipelines = vec![(1, hourly()), (2, hourly())];
    for (oid, after) in edges {
        pipelines.push((oid, Candidate { after: after.to_vec(), ..candidate(Schedule::Never, since) }));
    }
    let last = Candidate { after: vec![9], freshness: Some(HOUR), ..candidate(cron("0 * * * *", "UTC"), since) };
    pipelines.push((10, last));
    pipelines
}

/// 3 comes after 1 and 2, and 2 after 1: it waits for 2, whose last outcome is one of before.
#[test]
fn what_is_about_to_run_is_waited_for() {
    let since = at("2026-05-01T00:00:00Z");
    let follower = |after: &[Oid]| Candidate { after: after.to_vec(), ..candidate(Schedule::Never, since) };
    let first = candidate(schedule(Trigger::Every(HOUR), since), since);
    let mut world = World::new(since, Tz::UTC, [(1, first), (2, follower(&[1])), (3, follower(&[1, 2]))]);
    // So that 3 is looked at before 2 is.
    let two = world.pipelines.remove(&2).unwrap();
    world.pipelines.insert(4, two);
    world.pipelines.get_mut(&3).unwrap().after = vec![1, 4];
    world.broken = vec![1];
    world.until(since + HOUR + MINUTE);
    world.broken.clear();
    world.until(since + 2 * HOUR + MINUTE);
    expect_test::expect![[r#"
        05-01 01:00 UTC: 1 failed for 01:00 UTC
        05-01 01:00 UTC: 4 skipped, 1: its last run did not succeed
        05-01 01:00 UTC: 3 skipped, 1: its last run did not succeed
        05-01 02:00 UTC: 1 ran for 02:00 UTC
        05-01 02:00 UTC: 4 ran
        05-01 02:00 UTC: 3 ran
    "#]]
    .assert_eq(&world.log());
}

#[test]
fn a_graph_of_ten_runs_in_its_order_and_failures_keep_back_what_hangs_on_them() {
    let since = at("2026-05-01T00:00:00Z");
    let mut world = World::new(since, Tz::UTC, graph(since));
    world.until(since + HOUR + MINUTE);
    expect_test::expect![[r#"
        05-01 01:00 UTC: 1 ran for 01:00 UTC
        05-01 01:00 UTC: 2 ran for 01:00 UTC
        05-01 01:00 UTC: 3 ran
        05-01 01:00 UTC: 4 ran
        05-01 01:00 UTC: 5 ran
        05-01 01:00 UTC: 6 ran
        05-01 01:00 UTC: 7 ran
        05-01 01:00 UTC: 8 ran
        05-01 01:00 UTC: 9 ran
        05-01 01:00 UTC: 10 ran for 01:00 UTC
    "#]]
    .assert_eq(&world.log());

    world.broken = vec![3];
    world.until(since + 2 * HOUR + MINUTE);
    expect_test::expect![[r#"
        05-01 02:00 UTC: 1 ran for 02:00 UTC
        05-01 02:00 UTC: 2 ran for 02:00 UTC
        05-01 02:00 UTC: 3 failed
        05-01 02:00 UTC: 4 ran
        05-01 02:00 UTC: 5 skipped, 3: its last run did not succeed
        05-01 02:00 UTC: 6 ran
        05-01 02:00 UTC: 7 skipped, 5: its last run did not succeed
        05-01 02:00 UTC: 8 skipped, 5: its last run did not succeed
        05-01 02:00 UTC: 9 skipped, 7: its last run did not succeed
        05-01 02:00 UTC: 10 skipped, 9: its last run did not succeed
    "#]]
    .assert_eq(&world.log());

    // Mended, and run by hand: what hangs on it follows, without another run of what had worked.
    world.broken.clear();
    world.act(Decision::Run { pipeline: 3, due: None, parent: None }, world.clock.now_micros());
    world.clock.advance(1);
    world.until(since + 2 * HOUR + 2 * MINUTE);
    expect_test::expect![[r#"
        05-01 02:01 UTC: 3 ran
        05-01 02:01 UTC: 5 ran
        05-01 02:01 UTC: 7 ran
        05-01 02:01 UTC: 8 ran
        05-01 02:01 UTC: 9 ran
    "#]]
    .assert_eq(&world.log());
}

#[test]
fn what_is_paused_or_running_waits_and_what_is_stale_does_not_count() {
    let since = at("2026-05-01T00:00:00Z");
    let mut pipelines = graph(since);
    pipelines[0].1.paused = true;
    let mut world = World::new(since, Tz::UTC, pipelines);
    world.until(since + HOUR + MINUTE);
    expect_test::expect![[r#"
        05-01 01:00 UTC: 2 ran for 01:00 UTC
        05-01 01:00 UTC: 10 skipped, 9: it has not run yet
        05-01 01:00 UTC: 4 ran
        05-01 01:00 UTC: 6 ran
    "#]]
    .assert_eq(&world.log());

    let daily = candidate(cron("0 0 * * *", "UTC"), since);
    let stale = Candidate {
        after: vec![1],
        freshness: Some(HOUR),
        ..candidate(schedule(Trigger::Every(9 * HOUR), since), since)
    };
    let mut world = World::new(since, Tz::UTC, [(1, daily), (2, stale)]);
    world.until(since + 37 * HOUR);
    expect_test::expect![[r#"
        05-01 09:00 UTC: 2 skipped, 1: it has not run yet
        05-01 18:00 UTC: 2 skipped, 1: it has not run yet
        05-02 00:00 UTC: 1 ran for 00:00 UTC
        05-02 03:00 UTC: 2 skipped, 1: its last success is older than freshness allows
        05-02 12:00 UTC: 2 skipped, 1: its last success is older than freshness allows
    "#]]
    .assert_eq(&world.log());
}
