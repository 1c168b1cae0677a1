//! Rows of the two sources, and a second opinion on which of them count: from their order alone, as a reader of the docs would say.
//!
//! ```text
//!   ts         10:00  10:04  10:01  10:09  2999   10:03        delay 5 minutes, allowed_lateness 30 seconds, max_future
//!   watermark  09:55  09:59  09:59  10:04  10:04  10:04
//!                                          too far ahead: moves nothing
//!                                                 late: 10:03 < 10:04 - 30 seconds
//! ```

use std::path::Path;

use crate::harness::Random;

/// Milliseconds of a second.
const SECOND: i64 = 1000;
const DAY: i64 = 24 * 3600 * SECOND;
/// The year 2999.
pub const FAR: i64 = i64::MAX;
/// What the sources are called, and their directories.
pub const NAMES: [&str; 2] = ["a", "b"];

/// A row of a file. Times are milliseconds since 2024-01-01 00:00, in halves of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub k: Option<i64>,
    pub v: Option<i64>,
    pub ts: Option<i64>,
}

/// `late_data`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    Drop,
    Table,
    /// For so long after the watermark.
    Reopen(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// TIMESTAMPTZ and not TIMESTAMP.
    pub zoned: bool,
    pub delay: i64,
    pub late: Late,
    pub max_future: bool,
    /// It has an idle_timeout so short that the sources do not wait for each other.
    pub idle: bool,
}

/// What is to become of rows.
#[derive(Debug, Default)]
pub struct Judged {
    pub kept: Vec<Row>,
    /// With what each was below.
    pub late: Vec<(Row, i64)>,
    pub future: Vec<Row>,
    pub watermark: Option<i64>,
}

/// As the server prints a TIMESTAMP.
pub fn stamp(ms: i64) -> String {
    if ms == FAR {
        return "2999-01-01 00:00:00".into();
    }
    let (day, rest) = (ms.div_euclid(DAY), ms.rem_euclid(DAY));
    assert!((0..31).contains(&day), "times stay within January");
    let (seconds, half) = (rest / SECOND, if rest % SECOND == 0 { "" } else { ".5" });
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("2024-01-{:02} {hours:02}:{minutes:02}:{:02}{half}", day + 1, seconds % 60)
}

fn parse_stamp(text: &str) -> i64 {
    if text.starts_with("2999") {
        return FAR;
    }
    let number = |from: usize| text[from..from + 2].parse::<i64>().expect("two digits");
    let seconds = (number(11) * 60 + number(14)) * 60 + number(17);
    (number(8) - 1) * DAY + seconds * SECOND + if text.ends_with(".5") { SECOND / 2 } else { 0 }
}

/// `INTERVAL '7.5 seconds'` without the word.
pub fn seconds(ms: i64) -> String {
    match ms % SECOND {
        0 => format!("'{} seconds'", ms / SECOND),
        _ => format!("'{}.5 seconds'", ms / SECOND),
    }
}

fn number(value: Option<i64>) -> String {
    value.map(|n| n.to_string()).unwrap_or_default()
}

impl Row {
    /// A line of CSV; also how it is kept.
    pub fn line(&self) -> String {
        format!("{},{},{}", number(self.k), number(self.v), self.ts.map(stamp).unwrap_or_default())
    }

    pub fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |text: &str| (!text.is_empty()).then(|| text.parse().expect("a number"));
        Row { k: number(fields[0]), v: number(fields[1]), ts: (!fields[2].is_empty()).then(|| parse_stamp(fields[2])) }
    }
}

impl Source {
    pub fn random(random: &mut Random, zoned: bool, idle: bool) -> Self {
        let delay = [0, 2, 5, 15, 40][random.below(5) as usize] * SECOND;
        let late = match random.below(5) {
            0 => Late::Table,
            1 | 2 => Late::Reopen([1, 10, 60][random.below(3) as usize] * SECOND),
            _ => Late::Drop,
        };
        Self { zoned, delay, late, max_future: random.below(2) == 0, idle }
    }

    pub fn type_name(&self) -> &'static str {
        if self.zoned { "TIMESTAMPTZ" } else { "TIMESTAMP" }
    }

    /// A time as the server prints it in a column of the source's type.
    pub fn shown(&self, ms: i64) -> String {
        let zone = if self.zoned { "+00" } else { "" };
        format!("{}{zone}", stamp(ms))
    }

    pub fn create(&self, name: &str, dir: &Path) -> String {
        let delay = match self.delay {
            0 => String::new(),
            delay => format!(" - INTERVAL {}", seconds(delay)),
        };
        let mut options = match self.late {
            Late::Drop => String::new(),
            Late::Table => ", late_data = 'dlq'".into(),
            Late::Reopen(allowed) => format!(", late_data = 'reopen', allowed_lateness = {}", seconds(allowed)),
        };
        if self.max_future {
            options.push_str(", max_future = '1 hour'");
        }
        if self.idle {
            options.push_str(", idle_timeout = '1 second'");
        }
        format!(
            "CREATE SOURCE {name} (k INT, v INT, ts {}, WATERMARK FOR ts AS ts{delay}) \
             WITH (connector = 'file', path = '{}', poll_interval = '50ms', header = 'false', null = ''{options}) \
             FORMAT PLAIN ENCODE CSV",
            self.type_name(),
            dir.display()
        )
    }

    pub fn render(&self) -> String {
        let late = match self.late {
            Late::Drop => "drop".to_string(),
            Late::Table => "table".to_string(),
            Late::Reopen(allowed) => allowed.to_string(),
        };
        format!("{} {} {late} {} {}", self.zoned, self.delay, self.max_future, self.idle)
    }

    pub fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let late = match words[2] {
            "drop" => Late::Drop,
            "table" => Late::Table,
            allowed => Late::Reopen(allowed.parse().expect("milliseconds")),
        };
        Source {
            zoned: words[0] == "true",
            delay: words[1].parse().expect("milliseconds"),
            late,
            max_future: words[3] == "true",
            idle: words[4] == "true",
        }
    }

    pub fn allowed(&self) -> i64 {
        match self.late {
            Late::Reopen(allowed) => allowed,
            Late::Drop | Late::Table => 0,
        }
    }

    /// Brute force: the rows one after the other, in the order of the files.
    pub fn judge(&self, rows: &[Row]) -> Judged {
        let mut judged = Judged::default();
        for row in rows {
            let limit = judged.watermark.map(|watermark| watermark - self.allowed());
            match (row.ts, limit) {
                (Some(FAR), _) if self.max_future => judged.future.push(*row),
                (Some(ts), Some(limit)) if ts < limit => judged.late.push((*row, limit)),
                (Some(ts), _) => {
                    judged.kept.push(*row);
                    judged.watermark = judged.watermark.max(Some(ts - self.delay));
                }
                (None, _) => judged.kept.push(*row),
            }
        }
        judged
    }

    /// Below this, no row is let in any more.
    pub fn closed_to(&self, rows: &[Row]) -> Option<i64> {
        self.judge(rows).watermark.map(|watermark| watermark - self.allowed())
    }
}

/// Event time as it goes on in one source, with rows behind it.
pub struct Flow {
    random: Random,
    /// The latest time so far.
    at: i64,
    last: Option<Row>,
}

impl Flow {
    pub fn new(seed: u64, at: i64) -> Self {
        Self { random: Random::new(seed), at, last: None }
    }

    pub fn at(&self) -> i64 {
        self.at
    }

    /// Two sources that drift apart have no windows in common.
    pub fn catch_up(&mut self, with: i64) {
        self.at = self.at.max(with - self.random.below(40) as i64 * SECOND);
    }

    /// A file: never empty.
    pub fn piece(&mut self, source: &Source) -> Vec<Row> {
        (0..3 + self.random.below(10)).map(|_| self.row(source)).collect()
    }

    fn row(&mut self, source: &Source) -> Row {
        if let Some(last) = self.last
            && self.random.below(10) == 0
        {
            return last;
        }
        self.at += match self.random.below(40) {
            0 => 200 * SECOND,
            _ => self.random.below(16) as i64 * SECOND,
        };
        // In time, on the edge of being late, or far behind.
        let behind = match self.random.below(10) {
            0..4 => 0,
            4..7 => self.random.below(source.delay as u64 / 500 + 3) as i64 * SECOND / 2,
            7 => source.delay + source.allowed(),
            8 => source.delay + source.allowed() + SECOND / 2,
            _ => self.random.below(600) as i64 * SECOND / 2,
        };
        let ts = match self.random.below(16) {
            0 => None,
            1 if source.max_future => Some(FAR),
            _ => Some(self.at - behind),
        };
        let row = Row { k: self.value(4), v: self.value(7), ts };
        self.last = Some(row);
        row
    }

    fn value(&mut self, n: u64) -> Option<i64> {
        (self.random.below(9) > 0).then(|| self.random.below(n) as i64)
    }
}

/// Where the event time of a round begins: half of them pass midnight.
pub fn beginning(random: &mut Random) -> i64 {
    let hours = if random.below(2) == 0 { 34 } else { 48 };
    (hours * 3600 - 90) * SECOND
}

/// Statements that change the table of the joins.
pub fn change_table(random: &mut Random) -> String {
    let (k, v) = (random.below(4), random.below(7));
    match random.below(6) {
        0..3 => format!("INSERT INTO t VALUES ({k}, {v}) ON CONFLICT (k) DO UPDATE SET v = excluded.v"),
        3 => format!("UPDATE t SET v = {v} WHERE k >= {k}"),
        4 => format!("UPDATE t SET v = NULL WHERE k = {k}"),
        _ => format!("DELETE FROM t WHERE k = {k}"),
    }
}

#[test]
fn rows_are_judged_in_their_order() {
    let at = |seconds: i64| 34 * 3600 * SECOND + seconds * SECOND;
    let row = |ts: Option<i64>| Row { k: Some(1), v: None, ts };
    let source = Source { zoned: false, delay: 300_000, late: Late::Reopen(30_000), max_future: true, idle: false };
    let rows = [0, 240, 60, 540].map(|seconds| row(Some(at(seconds))));
    let more = [row(Some(FAR)), row(None), row(Some(at(210))), row(Some(at(209)))];
    let judged = source.judge(&[&rows[..], &more[..]].concat());
    assert_eq!(judged.watermark, Some(at(240)));
    assert_eq!(judged.late, [(row(Some(at(209))), at(210))]);
    assert_eq!((judged.kept.len(), judged.future.len()), (6, 1));
    for row in more {
        assert_eq!(Row::parse(&row.line()), row);
    }
    assert_eq!(Source::parse(&source.render()), source);
    assert_eq!(stamp(at(0)), "2024-01-02 10:00:00");
}
