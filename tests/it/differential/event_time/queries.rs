//! Queries over event time: windows over streams, and what is made of them.
//!
//! ```text
//!   stream   a, b, both, filtered, joined with t or with each other, a view over a, windows of windows
//!     ─▶ shape    TUMBLE | HOP | CUMULATE | SESSION, with and without offset, PARTITION BY, longest length
//!        ─▶ form  groups, DISTINCT, first rows of each window, joins of windows, unions of windows, ..    [EMIT ON WINDOW CLOSE]
//! ```
//!
//! The first choice of each is the simplest, as in the other grammar. What is drawn has one answer: orders are total up to equal
//! rows.

use super::super::choices::{Choices, Tree};

/// When rows of a view are final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closes {
    /// The column with the end of the window.
    pub end: String,
    /// A row at the very end of a session still belongs to it, so its end must lie below the watermark.
    pub strictly: bool,
    /// Sources by number: the least of their watermarks counts.
    pub reads: Vec<usize>,
}

/// A query, and how it closes if it is to EMIT ON WINDOW CLOSE.
#[derive(Debug, Clone)]
pub struct Drawn {
    pub query: String,
    pub closes: Option<Closes>,
}

/// Rows with k, v and ts.
#[derive(Debug, Clone)]
struct Stream {
    sql: String,
    reads: Vec<usize>,
    /// Its watermark is that of the sources; of the others it is not said here when their windows close.
    plain: bool,
}

/// A window function without its stream.
struct Shape {
    name: &'static str,
    partition: bool,
    args: String,
}

struct Generator {
    choices: Choices,
    /// No query may read both sources.
    apart: bool,
}

/// Views that others read. `None`: EMIT CHANGES.
pub fn bases() -> Vec<(&'static str, Drawn)> {
    let windows = |call: &str| {
        format!(
            "SELECT window_start, window_end, k, count(*) AS n, max(v) AS m FROM {call} GROUP BY window_start, window_end, k"
        )
    };
    let closes = Some(Closes { end: "window_end".into(), strictly: false, reads: vec![0] });
    let rows = "SELECT k, v + 1 AS v, ts FROM a WHERE k IS NOT NULL".to_string();
    vec![
        ("va", Drawn { query: rows, closes: None }),
        ("vw", Drawn { query: windows("TUMBLE(a, ts, INTERVAL '10 seconds')"), closes: None }),
        ("vc", Drawn { query: windows("HOP(a, ts, INTERVAL '10 seconds', INTERVAL '20 seconds')"), closes }),
    ]
}

/// The plain view that has both sources.
pub const BOTH: &str = "CREATE VIEW u AS SELECT k, v, ts FROM a UNION ALL SELECT k, v, ts FROM b";

/// A query, and the choices that made it. `apart`: it must not read both sources.
pub fn draw(choices: Choices, apart: bool) -> (Drawn, Tree) {
    let mut generator = Generator { choices, apart };
    let on_close = generator.percent(45);
    let mut drawn = generator.form();
    if !on_close {
        drawn.closes = None;
    }
    (drawn, generator.choices.into_tree())
}

const KEYS: &str = "window_start, window_end, k";

impl Shape {
    fn over(&self, stream: &Stream) -> String {
        let partition = if self.partition { " PARTITION BY k" } else { "" };
        format!("{}({}{partition}, ts, {})", self.name, stream.sql, self.args)
    }

    /// How what is grouped by the end of its windows closes.
    fn closes(&self, stream: &Stream, end: &str) -> Option<Closes> {
        let strictly = self.name == "SESSION";
        stream.plain.then(|| Closes { end: end.into(), strictly, reads: stream.reads.clone() })
    }
}

impl Generator {
    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.choices.below(choices.len() as u64) as usize]
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.choices.below(100) >= 100 - chance
    }

    fn within<T>(&mut self, kind: &'static str, part: impl FnOnce(&mut Self) -> T) -> T {
        self.choices.open(kind);
        let made = part(self);
        self.choices.close();
        made
    }

    fn stream(&mut self) -> Stream {
        let stream = |sql: String, reads: &[usize], plain: bool| Stream { sql, reads: reads.to_vec(), plain };
        self.within("stream", |g| match g.choices.below(14) {
            0..4 => stream("a".into(), &[0], true),
            4 | 5 => stream("b".into(), &[1], true),
            6 => stream("(SELECT k, v, ts FROM a WHERE v > 1)".into(), &[0], true),
            7 | 8 if !g.apart => {
                let both = g.one_of(&["u", "(SELECT k, v, ts FROM a UNION ALL SELECT k, v, ts FROM b)"]);
                stream(both.into(), &[0, 1], true)
            }
            9 | 10 => stream("va".into(), &[0], true),
            11 => {
                // Changes of the table change windows of any age: such a view can have no end.
                let kind = g.one_of(&["JOIN", "LEFT JOIN"]);
                let sql =
                    format!("(SELECT a.k AS k, a.v + coalesce(t.v, 0) AS v, a.ts AS ts FROM a {kind} t ON a.k = t.k)");
                stream(sql, &[0], true)
            }
            12 => {
                let (left, right, on) = g.interval_join();
                let sql =
                    format!("(SELECT l.k AS k, l.v + r.v AS v, l.ts AS ts FROM {left} AS l JOIN {right} AS r ON {on})");
                stream(sql, &[0, 1], false)
            }
            13 => {
                let shape = g.shape();
                let inner = shape.over(&stream("a".into(), &[0], true));
                let sql = format!(
                    "(SELECT window_time AS ts, k, count(*) AS v FROM {inner} GROUP BY window_start, window_end, window_time, k)"
                );
                stream(sql, &[0], false)
            }
            _ => stream("b".into(), &[1], true),
        })
    }

    /// Another stream beside `other`: if the sources are kept apart, the same.
    fn beside(&mut self, other: &Stream) -> Stream {
        match self.apart {
            true => other.clone(),
            false => self.stream(),
        }
    }

    fn shape(&mut self) -> Shape {
        self.within("shape", |g| {
            let (name, args) = match g.choices.below(8) {
                0 | 1 => {
                    ("TUMBLE", g.one_of(&["INTERVAL '30 seconds'", "INTERVAL '10 seconds'", "INTERVAL '1 minute'"]))
                }
                2 | 3 => {
                    let hops = [
                        "INTERVAL '10 seconds', INTERVAL '30 seconds'",
                        "INTERVAL '20 seconds', INTERVAL '50 seconds'",
                        "INTERVAL '7 seconds', INTERVAL '15 seconds'",
                        "INTERVAL '1 second', INTERVAL '40 seconds'",
                    ];
                    ("HOP", g.one_of(&hops))
                }
                4 => {
                    let steps =
                        ["INTERVAL '10 seconds', INTERVAL '30 seconds'", "INTERVAL '20 seconds', INTERVAL '1 minute'"];
                    ("CUMULATE", g.one_of(&steps))
                }
                _ => {
                    let gaps = [
                        "INTERVAL '10 seconds'",
                        "INTERVAL '3 seconds'",
                        "INTERVAL '30 seconds'",
                        "INTERVAL '10 seconds', INTERVAL '25 seconds'",
                        "INTERVAL '30 seconds', INTERVAL '1 minute'",
                    ];
                    ("SESSION", g.one_of(&gaps))
                }
            };
            let session = name == "SESSION";
            let offset = if !session && g.percent(30) { ", INTERVAL '7 seconds'" } else { "" };
            Shape { name, partition: session && g.percent(60), args: format!("{args}{offset}") }
        })
    }

    fn aggregate(&mut self) -> &'static str {
        self.one_of(&[
            "count(*)",
            "count(v)",
            "sum(v)",
            "min(v)",
            "max(v)",
            "avg(v)",
            "count(DISTINCT v)",
            "array_agg(v ORDER BY v)",
            "array_agg(k ORDER BY ts, v, k)",
            "array_agg(v ORDER BY ts DESC, v DESC)",
            "sum(DISTINCT v)",
            "sum(v) FILTER (WHERE k > 0)",
            "string_agg(v::text, ',' ORDER BY v)",
            "max(ts)",
            "last_value(v ORDER BY ts, v)",
        ])
    }

    fn form(&mut self) -> Drawn {
        match self.choices.below(28) {
            0..6 => self.groups(),
            6 => self.distinct(),
            7 | 8 => self.first_rows(),
            9 => self.first_groups(),
            10..13 => self.joined_windows(),
            13..16 => self.joined_by_time(),
            16 => self.rows_of_windows(),
            17 => self.united_windows(),
            18 => self.windows_and_table(),
            19..22 => self.versions(),
            22 => self.neighbours(),
            23 => self.extreme_rows(),
            24 => self.extreme_groups(),
            _ => self.of_views(),
        }
    }

    fn groups(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let keys = self.one_of(&["window_start, window_end", KEYS, "window_end"]);
        let (one, other) = (self.aggregate(), self.aggregate());
        let filter = if self.percent(20) { " WHERE v < 5" } else { "" };
        let having = self.one_of(&["", "", "", " HAVING count(*) > 1", " HAVING min(v) < 3"]);
        let query = format!(
            "SELECT {keys}, {one} AS x, {other} AS y FROM {}{filter} GROUP BY {keys}{having}",
            shape.over(&stream)
        );
        Drawn { query, closes: shape.closes(&stream, "window_end") }
    }

    fn distinct(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let query = format!("SELECT DISTINCT {KEYS} FROM {}", shape.over(&stream));
        Drawn { query, closes: shape.closes(&stream, "window_end") }
    }

    fn first_rows(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let number = self.one_of(&["", ", n"]);
        let rows = 1 + self.choices.below(3);
        let query = format!(
            "SELECT k, v, ts, window_start, window_end{number} FROM (SELECT k, v, ts, window_start, window_end, \
             row_number() OVER (PARTITION BY window_start, window_end ORDER BY v DESC NULLS LAST, ts, k) AS n \
             FROM {}) AS numbered WHERE n <= {rows}",
            shape.over(&stream)
        );
        Drawn { query, closes: shape.closes(&stream, "window_end") }
    }

    fn first_groups(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let rows = 1 + self.choices.below(2);
        let query = format!(
            "SELECT {KEYS}, c FROM (SELECT {KEYS}, c, \
             row_number() OVER (PARTITION BY window_start, window_end ORDER BY c DESC, k) AS n \
             FROM (SELECT {KEYS}, count(*) AS c FROM {} GROUP BY {KEYS}) AS counted) AS numbered WHERE n <= {rows}",
            shape.over(&stream)
        );
        Drawn { query, closes: shape.closes(&stream, "window_end") }
    }

    fn joined_windows(&mut self) -> Drawn {
        let (left, shape) = (self.stream(), self.shape());
        let right = self.beside(&left);
        let kind = self.one_of(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (x, y) = (self.aggregate(), self.aggregate());
        let side = |stream: &Stream, value: &str| {
            format!("(SELECT {KEYS}, {value} AS x FROM {} GROUP BY {KEYS})", shape.over(stream))
        };
        let by_key = if self.percent(70) { " AND l.k = r.k" } else { "" };
        // A row without key is final as soon as its own side is.
        let with_key = if by_key.is_empty() || left.reads == right.reads { "" } else { " WHERE l.k IS NOT NULL" };
        let query = format!(
            "SELECT l.window_start AS ls, l.window_end AS le, l.k AS lk, l.x AS lx, r.window_end AS re, r.k AS rk, r.x AS rx \
             FROM {} AS l {kind} {} AS r ON l.window_start = r.window_start AND l.window_end = r.window_end{by_key}{with_key}",
            side(&left, x),
            side(&right, y)
        );
        // Where the left side may be missing, no one column says when a row is final.
        let one_end = kind == "JOIN" || kind == "LEFT JOIN";
        let closes = shape.closes(&left, "le").filter(|_| one_end && right.plain).map(|mut closes| {
            closes.reads.extend(&right.reads);
            closes
        });
        Drawn { query, closes }
    }

    /// Both sides, and when rows of l and r meet.
    fn interval_join(&mut self) -> (&'static str, &'static str, String) {
        let (left, right) = match (self.apart, self.choices.below(4)) {
            (true, _) | (_, 3) => ("a", "a"),
            (_, 0 | 1) => ("a", "b"),
            (_, _) => ("b", "va"),
        };
        let spans = ["INTERVAL '5 seconds'", "INTERVAL '20 seconds'", "INTERVAL '0.5 seconds'"];
        let (before, after) = (self.one_of(&spans), self.one_of(&spans));
        let meet = match self.choices.below(6) {
            0 | 1 => format!("r.ts BETWEEN l.ts - {before} AND l.ts + {before}"),
            2 => format!("r.ts BETWEEN l.ts - {before} AND l.ts + {after}"),
            3 => format!("r.ts BETWEEN l.ts AND l.ts + {after}"),
            4 => format!("r.ts >= l.ts - {before}"),
            _ => format!("r.ts <= l.ts + {after}"),
        };
        let further = self.one_of(&["", "", "", " AND l.v <= r.v"]);
        (left, right, format!("l.k = r.k AND {meet}{further}"))
    }

    fn joined_by_time(&mut self) -> Drawn {
        let (left, right, on) = self.interval_join();
        let kind = self.one_of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let query = format!(
            "SELECT l.k AS lk, l.v AS lv, l.ts AS lts, r.k AS rk, r.v AS rv, r.ts AS rts FROM {left} AS l {kind} {right} AS r ON {on}"
        );
        Drawn { query, closes: None }
    }

    /// Each row with the nearest one on its side of it.
    fn versions(&mut self) -> Drawn {
        let (left, right) = match (self.apart, self.choices.below(6)) {
            (true, _) | (_, 5) => ("a", "a"),
            (_, 0..3) => ("a", "b"),
            (_, 3) => ("b", "va"),
            (_, _) => ("va", "u"),
        };
        let kind = self.one_of(&["ASOF JOIN", "ASOF LEFT JOIN"]);
        let operator = self.one_of(&[">=", ">", "<=", "<"]);
        let by_key = if self.percent(80) { "l.k = r.k AND " } else { "" };
        let query = format!(
            "SELECT l.k AS lk, l.v AS lv, l.ts AS lts, r.k AS rk, r.v AS rv, r.ts AS rts \
             FROM {left} AS l {kind} {right} AS r ON {by_key}l.ts {operator} r.ts"
        );
        Drawn { query, closes: None }
    }

    /// What the row before says, or when the next one comes.
    fn neighbours(&mut self) -> Drawn {
        let stream = self.stream();
        let asked = self.one_of(&[
            "lag(ts) OVER w AS x",
            "lag(v) OVER w AS x, lag(ts) OVER w AS y",
            "lead(ts) OVER w AS x",
            "lag(ts) OVER w AS x, lead(ts) OVER w AS y",
        ]);
        let query =
            format!("SELECT k, v, ts, {asked} FROM {} AS s WINDOW w AS (PARTITION BY k ORDER BY ts, v)", stream.sql);
        Drawn { query, closes: None }
    }

    fn rows_of_windows(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let query = format!("SELECT k, v, ts, window_start, window_end FROM {}", shape.over(&stream));
        Drawn { query, closes: shape.closes(&stream, "window_end") }
    }

    /// Each side closes by its own watermark: only EMIT CHANGES.
    fn united_windows(&mut self) -> Drawn {
        let (left, shape) = (self.stream(), self.shape());
        let (right, all) = (self.beside(&left), self.one_of(&["UNION ALL", "UNION", "EXCEPT"]));
        let side =
            |stream: &Stream| format!("SELECT {KEYS}, count(*) AS c FROM {} GROUP BY {KEYS}", shape.over(stream));
        Drawn { query: format!("{} {all} {}", side(&left), side(&right)), closes: None }
    }

    /// Rows with the greatest or least value of their window.
    fn extreme_rows(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let (call, meets) = self.choices.one_of(&[("max", "="), ("min", "="), ("max", ">="), ("min", "<=")]);
        let query = format!(
            "SELECT b.k AS bk, b.v AS bv, b.ts AS bts, m.x AS mx, m.window_end AS me FROM {} AS b \
             JOIN (SELECT window_start, window_end, {call}(v) AS x FROM {} GROUP BY window_start, window_end) AS m \
             ON b.v {meets} m.x AND b.ts >= m.window_start AND b.ts < m.window_end",
            stream.sql,
            shape.over(&stream)
        );
        Drawn { query, closes: shape.closes(&stream, "me") }
    }

    /// The keys with the most of their window.
    fn extreme_groups(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let value = self.one_of(&["count(*)", "sum(v)", "max(v)"]);
        let (call, meets) = self.choices.one_of(&[("max", ">="), ("max", "="), ("min", "<=")]);
        let groups = format!("(SELECT {KEYS}, {value} AS x FROM {} GROUP BY {KEYS})", shape.over(&stream));
        let shown = self.one_of(&["", ", m.y AS my"]);
        let query = format!(
            "SELECT c.window_end AS ce, c.k AS ck, c.x AS cx{shown} FROM {groups} AS c \
             JOIN (SELECT window_start, window_end, {call}(x) AS y FROM {groups} AS g GROUP BY window_start, window_end) AS m \
             ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.x {meets} m.y"
        );
        Drawn { query, closes: shape.closes(&stream, "ce") }
    }

    fn windows_and_table(&mut self) -> Drawn {
        let (stream, shape) = (self.stream(), self.shape());
        let kind = self.one_of(&["JOIN", "LEFT JOIN"]);
        let query = format!(
            "SELECT g.window_start AS ws, g.window_end AS we, g.k AS gk, g.c AS gc, t.v AS tv \
             FROM (SELECT {KEYS}, count(*) AS c FROM {} GROUP BY {KEYS}) AS g {kind} t ON t.k = g.k",
            shape.over(&stream)
        );
        Drawn { query, closes: shape.closes(&stream, "we") }
    }

    fn of_views(&mut self) -> Drawn {
        let (query, closes) = match self.choices.below(4) {
            0 => (
                "SELECT window_start, window_end, sum(n) AS s, max(m) AS h FROM vw GROUP BY window_start, window_end",
                true,
            ),
            1 => ("SELECT window_end, count(*) AS c, sum(n) AS s FROM vc GROUP BY window_end", true),
            2 => ("SELECT k, sum(n) AS s, max(window_end) AS latest FROM vc GROUP BY k", false),
            _ => (
                "SELECT w.k AS wk, w.window_end AS we, w.n AS wn, c.n AS cn FROM vw AS w LEFT JOIN vc AS c \
                 ON w.k = c.k AND w.window_end = c.window_end",
                false,
            ),
        };
        let of_a = Closes { end: "window_end".into(), strictly: false, reads: vec![0] };
        Drawn { query: query.into(), closes: closes.then_some(of_a) }
    }
}
