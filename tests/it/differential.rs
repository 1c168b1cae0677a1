//! Random changes against random queries: after every statement each view is what its query says.
//!
//! TIDEMARK_SEED chooses other queries and changes, TIDEMARK_DIFFERENTIAL_STEPS how many changes. A failure names the seed.

use tidemark_sqllogictest::Client;

use crate::harness::{Instance, Random, start};

const VIEWS: usize = 36;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Makes queries and statements over `a` and `b`, which have the same columns: id, g, k, v, f, at.
struct Generator {
    random: Random,
    next_id: i64,
}

impl Generator {
    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.random.below(choices.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn predicate(&mut self) -> String {
        let one = match self.random.below(8) {
            0 => format!("v > {}", self.random.below(20)),
            1 => format!("g = {}", self.random.below(5)),
            2 => "k IS NULL".into(),
            3 => "f".into(),
            4 => format!("k IN ('a', '{}')", self.one_of(&["b", "c", "d"])),
            5 => format!("v BETWEEN {} AND 15", self.random.below(10)),
            6 => "k LIKE '%b%'".into(),
            _ => format!("id % {} = 0", 2 + self.random.below(3)),
        };
        match self.random.below(6) {
            0 => format!("({one} OR {})", self.one_of(&["v IS NULL", "g < 2", "k > 'b'"])),
            1 => format!("NOT ({one})"),
            2 => format!("({one} AND v IS NOT NULL)"),
            _ => one,
        }
    }

    /// What pairs of `l` and `r` must fulfil.
    fn on(&mut self, l: &str, r: &str) -> String {
        match self.random.below(7) {
            0 => format!("{l}.g = {r}.g AND {l}.v > {r}.v"),
            1 => format!("{l}.k = {r}.k AND {l}.g = {r}.g"),
            2 => format!("{l}.k = {r}.k AND {l}.f AND {r}.v IS NOT NULL"),
            3 => format!("{l}.v = {r}.id"),
            4 => format!("{l}.v = {r}.v AND {l}.k IS NOT DISTINCT FROM {r}.k"),
            5 => format!("{l}.v + 1 = {r}.v"),
            _ => format!("{l}.id = {r}.id"),
        }
    }

    fn join(&mut self) -> &'static str {
        ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"][self.random.below(4) as usize]
    }

    /// Two tables, or one with itself, joined.
    fn joined(&mut self) -> String {
        let (join, other) = (self.join(), self.one_of(&["a", "b"]));
        let on = self.on("l", "r");
        format!("(SELECT l.id, r.g, l.k, r.v, l.f, r.at FROM a AS l {join} {other} AS r ON {on}) AS j")
    }

    fn subquery(&mut self) -> String {
        let column = self.one_of(&["g", "v", "id"]);
        let table = self.one_of(&["a", "b"]);
        match self.random.below(6) {
            0 => format!("{column} IN (SELECT v FROM {table}{})", self.condition("WHERE")),
            1 => format!("{column} NOT IN (SELECT v FROM {table} WHERE v IS NOT NULL)"),
            2 => format!("{column} NOT IN (SELECT g FROM {table} WHERE {})", self.predicate()),
            3 => format!("(v > 3 OR k IN (SELECT k FROM {table} WHERE {}))", self.predicate()),
            4 => format!("{column} > (SELECT avg(g) FROM {table}{})", self.condition("WHERE")),
            _ => format!("NOT EXISTS (SELECT 1 FROM {table} WHERE {} AND {})", self.predicate(), self.predicate()),
        }
    }

    /// Queries of joins and subqueries that are tied to the outer row.
    fn tied(&mut self) -> String {
        match self.random.below(6) {
            0 => {
                let (first, second) = (self.join(), self.join());
                let (on, then) = (self.on("x", "y"), self.on("x", "z"));
                format!("SELECT x.id AS xi, y.id AS yi, z.v, z.k FROM a AS x {first} b AS y ON {on} {second} a AS z ON {then}")
            }
            1 => {
                let (on, not) = (self.on("o", "i"), self.one_of(&["", "NOT "]));
                format!("SELECT id, g, k FROM a AS o WHERE {not}EXISTS (SELECT 1 FROM b AS i WHERE {on})")
            }
            2 => format!(
                "SELECT id, (SELECT count(*) FROM b WHERE b.g = a.g) AS n, (SELECT max(v) FROM b WHERE b.k = a.k) - v AS d FROM a{}",
                self.condition("WHERE")
            ),
            3 => "SELECT id, v IN (SELECT v FROM b WHERE b.g = a.g) AS inside, g NOT IN (SELECT v FROM b) AS outside FROM a".into(),
            4 => format!(
                "SELECT {0} FROM a {1} SELECT {0} FROM b{2}",
                self.one_of(&["g, k", "v", "k, f"]),
                self.one_of(&["INTERSECT", "EXCEPT"]),
                self.condition("WHERE")
            ),
            _ => format!(
                "SELECT a.id, s.n, s.top FROM a CROSS JOIN LATERAL (SELECT count(*) AS n, max(v) AS top FROM b WHERE b.g = a.g) AS s{}",
                self.one_of(&["", " WHERE s.n > 1"])
            ),
        }
    }

    fn source(&mut self) -> String {
        match self.random.below(8) {
            6 | 7 => self.joined(),
            0 => "(SELECT id, g, k, v, f, at FROM a UNION ALL SELECT id, g, k, v, f, at FROM b) AS u".into(),
            1 => format!("(SELECT id, g + 1 AS g, lower(k) AS k, v, f, at FROM b WHERE {}) AS s", self.predicate()),
            2 => "b".into(),
            3 => "(SELECT DISTINCT 0 AS id, g, k, v, f, at FROM a) AS d".into(),
            _ => "a".into(),
        }
    }

    fn condition(&mut self, word: &str) -> String {
        match self.random.below(10) {
            0..4 => format!(" {word} {}", self.predicate()),
            4 => format!(" {word} {}", self.subquery()),
            _ => String::new(),
        }
    }

    fn aggregate(&mut self) -> String {
        let aggregate = self.one_of(&[
            "count(*)",
            "count(v)",
            "sum(v)",
            "min(v)",
            "max(v)",
            "min(k)",
            "max(at)",
            "count(DISTINCT v)",
            "count(DISTINCT k)",
            "sum(DISTINCT v)",
            "bool_and(f)",
            "bool_or(f)",
            "bit_or(v)",
            "sum(v * 2 + g)",
            "string_agg(k, ',' ORDER BY k, id)",
            "array_agg(v ORDER BY v, id)",
        ]);
        if self.chance(20) { format!("{aggregate} FILTER (WHERE {})", self.predicate()) } else { aggregate.into() }
    }

    /// An order that leaves only equal rows undecided.
    fn order(&mut self) -> String {
        let first = self.one_of(&[
            "v",
            "v DESC",
            "k DESC NULLS LAST",
            "at, v",
            "g, k NULLS FIRST",
            "f",
            "v % 3 DESC",
            "length(k)",
        ]);
        format!("{first}, id DESC, g, k, v, f, at")
    }

    fn partition(&mut self) -> &'static str {
        ["", "PARTITION BY g ", "PARTITION BY k, f ", "PARTITION BY v % 4 ", "PARTITION BY date_trunc('day', at) "]
            [self.random.below(5) as usize]
    }

    /// A function over a window that orders all rows, or over one where equal rows are told the same.
    fn over(&mut self) -> String {
        let partition = self.partition();
        if self.chance(30) {
            let call =
                self.one_of(&["rank()", "dense_rank()", "sum(v)", "count(*)", "max(k)", "cume_dist()", "bool_or(f)"]);
            let order = self.one_of(&["", "ORDER BY v", "ORDER BY k DESC", "ORDER BY at, g"]);
            return format!("{call} OVER ({partition}{order})");
        }
        let call = self.one_of(&[
            "row_number()",
            "ntile(3)",
            "lag(v)",
            "lead(k, 2, 'none')",
            "first_value(v)",
            "last_value(k)",
            "nth_value(v, 2)",
            "sum(v)",
            "count(v)",
            "min(k)",
        ]);
        let frame = self.one_of(&[
            "",
            "",
            " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            " ROWS 2 PRECEDING",
            " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            " GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
        ]);
        format!("{call} OVER ({partition}ORDER BY {}{frame})", self.order())
    }

    /// The first rows, of all or of each group.
    fn top_n(&mut self) -> String {
        let (limit, offset) = (1 + self.random.below(4), self.random.below(3));
        let (source, condition) = (self.source(), self.condition("WHERE"));
        let order = self.order();
        match self.random.below(5) {
            0 => format!("SELECT id, g, k, v FROM {source}{condition} ORDER BY {order} LIMIT {limit}"),
            1 => format!(
                "SELECT g, k, v + 1 AS w FROM {source}{condition} ORDER BY {order} LIMIT {limit} OFFSET {offset}"
            ),
            2 => format!("SELECT DISTINCT ON (g) g, k, v, id FROM {source}{condition} ORDER BY g, {order}"),
            _ => {
                let call = self.one_of(&["row_number", "row_number", "rank", "dense_rank"]);
                let order = if call == "row_number" { order } else { self.one_of(&["v", "k DESC"]).to_string() };
                let bound = self.one_of(&["<=", "=", "<"]);
                let number = if self.chance(50) { ", n" } else { "" };
                format!(
                    "SELECT id, g, k, v{number} FROM (SELECT id, g, k, v, f, {call}() OVER ({}ORDER BY {order}) AS n FROM {source}{condition}) AS o WHERE n {bound} {limit} AND id > 2",
                    self.partition()
                )
            }
        }
    }

    fn query(&mut self) -> String {
        match self.random.below(17) {
            14..=16 => self.tied(),
            8 | 9 => self.top_n(),
            10 | 11 => {
                let (x, y) = (self.over(), self.over());
                format!("SELECT id, g, k, {x} AS x, {y} AS y FROM {}{}", self.source(), self.condition("WHERE"))
            }
            12 => format!(
                "SELECT r, count(*) AS n, sum(total) AS s FROM (SELECT g, sum(v) AS total, rank() OVER (ORDER BY sum(v) DESC) AS r FROM {} GROUP BY g) AS i GROUP BY r",
                self.source()
            ),
            13 => {
                let (sets, keys) = [
                    ("ROLLUP (g, k)", &["g", "k"][..]),
                    ("CUBE (g, f)", &["g", "f"]),
                    ("GROUPING SETS ((g), (k, f), ())", &["g", "k", "f"]),
                    ("g, ROLLUP (k)", &["g", "k"]),
                ][self.random.below(4) as usize];
                let named: Vec<String> = keys.iter().map(|k| format!("{k} AS key_{k}")).collect();
                format!(
                    "SELECT {}, grouping({}) AS id, {} AS x FROM {}{} GROUP BY {sets}",
                    named.join(", "),
                    keys.join(", "),
                    self.aggregate(),
                    self.source(),
                    self.condition("WHERE")
                )
            }
            0 | 1 => {
                let columns = self.one_of(&[
                    "id, g, k, v",
                    "v + 1 AS w, k || '!' AS kk",
                    "CASE WHEN v > 5 THEN 'big' ELSE k END AS c, f, at",
                    "coalesce(v, -1) AS v, upper(k) AS k, date_trunc('day', at) AS day",
                ]);
                format!("SELECT {columns} FROM {}{}", self.source(), self.condition("WHERE"))
            }
            2 => format!(
                "SELECT DISTINCT {} FROM {}{}",
                self.one_of(&["g", "k, f", "v % 3 AS m"]),
                self.source(),
                self.condition("WHERE")
            ),
            3 => format!(
                "SELECT {} AS x, {} AS y FROM {}{}",
                self.aggregate(),
                self.aggregate(),
                self.source(),
                self.condition("WHERE")
            ),
            4 => format!(
                "SELECT n, count(*) AS groups, sum(s) AS total FROM (SELECT g, count(*) AS n, sum(v) AS s FROM {} GROUP BY g) AS i GROUP BY n",
                self.source()
            ),
            _ => {
                let key = self.one_of(&["g", "k", "g, k", "f", "date_trunc('day', at)", "v % 4"]);
                let named: Vec<String> =
                    key_columns(key).iter().enumerate().map(|(i, k)| format!("{k} AS key{i}")).collect();
                let (x, y) = (self.aggregate(), self.aggregate());
                let having = if self.chance(30) { " HAVING count(*) > 1" } else { "" };
                let condition = self.condition("WHERE");
                format!(
                    "SELECT {}, {x} AS x, {y} AS y FROM {}{condition} GROUP BY {key}{having}",
                    named.join(", "),
                    self.source()
                )
            }
        }
    }

    fn value(&mut self) -> String {
        let g = self.random.below(5);
        let k = self.one_of(&["NULL", "'a'", "'b'", "'ab'", "'c'", "''"]);
        let v = if self.chance(15) { "NULL".into() } else { self.random.below(20).to_string() };
        let f = self.one_of(&["true", "false", "NULL"]);
        let at = format!("'2024-01-0{} 1{}:00'", 1 + self.random.below(5), self.random.below(10));
        format!("{g}, {k}, {v}, {f}, {at}")
    }

    fn change(&mut self) -> String {
        let table = self.one_of(&["a", "b"]);
        match self.random.below(10) {
            0..=3 => {
                let rows: Vec<String> = (0..1 + self.random.below(12))
                    .map(|_| {
                        self.next_id += 1;
                        let (id, value) = (self.next_id, self.value());
                        format!("({id}, {value})")
                    })
                    .collect();
                format!("INSERT INTO {table} VALUES {}", rows.join(", "))
            }
            4 => format!("UPDATE {table} SET v = v + 1 WHERE {}", self.predicate()),
            5 => format!("UPDATE {table} SET g = (g + 1) % 5, k = 'c' WHERE {}", self.predicate()),
            6 => format!("DELETE FROM {table} WHERE {} AND id % 3 = {}", self.predicate(), self.random.below(3)),
            7 => {
                let id = 1 + self.random.below(self.next_id.max(1) as u64);
                self.next_id = self.next_id.max(id as i64);
                format!(
                    "INSERT INTO {table} VALUES ({id}, {}) ON CONFLICT (id) DO UPDATE SET v = excluded.v, k = excluded.k",
                    self.value()
                )
            }
            8 => format!(
                "BEGIN; {}; {}; COMMIT",
                self.change(),
                self.change().replace("BEGIN; ", "").replace("; COMMIT", "")
            ),
            _ if self.chance(10) => format!("DELETE FROM {table}"),
            _ => format!(
                "BEGIN; {}; ROLLBACK",
                self.change().replace("BEGIN; ", "").replace("; COMMIT", "").replace("; ROLLBACK", "")
            ),
        }
    }
}

fn key_columns(key: &str) -> Vec<&str> {
    // date_trunc's comma is not a separator of keys.
    if key.starts_with("date_trunc") { vec![key] } else { key.split(", ").collect() }
}

async fn sorted(client: &mut Client, sql: &str, context: &str) -> Vec<String> {
    let mut lines = client.lines(sql).await.unwrap_or_else(|e| panic!("{context}\n{sql}\n{e}"));
    lines.sort();
    lines
}

async fn check(instance: &Instance, views: &[String], context: &str) {
    let mut client = instance.server.connect().await.unwrap();
    for (n, query) in views.iter().enumerate() {
        let view = sorted(&mut client, &format!("SELECT * FROM view{n}"), context).await;
        let truth = sorted(&mut client, query, context).await;
        assert_eq!(view, truth, "{context}\nview{n} is not\n{query}");
    }
}

#[tokio::test]
async fn views_equal_their_queries() {
    let seed = from_env("TIDEMARK_SEED", 1);
    let steps = from_env("TIDEMARK_DIFFERENTIAL_STEPS", 60);
    let mut generator = Generator { random: Random::new(seed), next_id: 0 };
    let mut instance = start().await;
    for table in ["a", "b"] {
        instance
            .run(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, g INT, k TEXT, v INT, f BOOLEAN, at TIMESTAMP)"))
            .await;
    }
    let views: Vec<String> = (0..VIEWS).map(|_| generator.query()).collect();
    // Half of them see the first rows come, the other half are filled from what is there.
    let mut made = 0;
    for step in 0..steps {
        let wanted = if step == 0 {
            VIEWS / 2
        } else if step >= steps / 3 {
            VIEWS
        } else {
            made
        };
        for (n, query) in views.iter().enumerate().take(wanted).skip(made) {
            instance.run(&format!("CREATE MATERIALIZED VIEW view{n} AS {query}")).await;
        }
        made = made.max(wanted);
        let change = generator.change();
        let context = format!("seed {seed}, step {step}: {change}");
        instance.run(&change).await;
        check(&instance, &views[..made], &context).await;
        if step == steps / 2 {
            instance.server.kill_and_restart().await.unwrap();
            check(&instance, &views[..made], &format!("{context}, after SIGKILL")).await;
        }
    }
}
