//! A script: what happens to two sources, a table and their views, a line each, so that a failing one can be kept and read.
//!
//! ```text
//!   workers 3
//!   source false 5000 drop true false                  a; then b: see Source::render
//!   run CREATE TABLE t (k INT PRIMARY KEY, v INT)
//!   view w window_end < 01: SELECT ..                  EMIT ON WINDOW CLOSE: final when window_end < the watermark of a and b
//!   view x changes: SELECT ..
//!   file 0 1,2,2024-01-02 10:00:00 | ,3,               a piece for a
//!   settle                                             all that was written is read
//!   validate                                           every view beside its query, whatever is read by now
//!   restart                                            kill -9, and a new server
//! ```
//!
//! At the end everything is read, and is compared: the sources with what their rows say, the views with their queries.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemark_sqllogictest::Client;

use super::super::case::{self, Bench, Outcome};
use super::queries::{Closes, Drawn};
use super::rows::{Late, NAMES, Row, Source, stamp};

/// How long rows that were written may take to be read; generous, for loaded machines.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone)]
pub struct Script {
    pub workers: u32,
    /// a and b.
    pub sources: Vec<Source>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Run(String),
    View(View),
    /// For a source by number.
    File(usize, Vec<Row>),
    Settle,
    Validate,
    Restart,
}

#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    pub drawn: Drawn,
}

/// What came of a script.
#[derive(Debug, Default)]
pub struct Verdict {
    pub created: usize,
    pub refused: usize,
    pub compared: usize,
    pub wrong: Vec<Wrong>,
}

#[derive(Debug, Clone)]
pub struct Wrong {
    /// `None`: a source.
    pub view: Option<String>,
    /// Stays the same while the script shrinks.
    pub way: String,
    pub found: String,
}

impl Script {
    /// Its sources do not wait for each other: no query may read both.
    pub fn apart(&self) -> bool {
        self.sources.iter().any(|source| source.idle)
    }

    pub fn render(&self) -> String {
        let mut lines = vec![format!("workers {}", self.workers)];
        lines.extend(self.sources.iter().map(|source| format!("source {}", source.render())));
        lines.extend(self.steps.iter().map(Step::render));
        lines.join("\n") + "\n"
    }

    pub fn parse(text: &str) -> Self {
        let mut script = Script { workers: 1, sources: Vec::new(), steps: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "workers" => script.workers = rest.parse().expect("a number of workers"),
                "source" => script.sources.push(Source::parse(rest)),
                _ => script.steps.push(Step::parse(word, rest)),
            }
        }
        assert_eq!(script.sources.len(), NAMES.len(), "a and b");
        script
    }

    /// `patience`: how long a view may differ after everything has been read.
    pub async fn run(&self, bench: &mut Bench, patience: Duration) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let schema = bench.new_schema().await;
        let client = bench.connect(&schema).await;
        let written = vec![Vec::new(); self.sources.len()];
        let verdict = Verdict::default();
        let mut run =
            Run { script: self, bench, schema, client, dir: dir.path(), written, files: 0, live: vec![], verdict };
        if run.create_sources().await && run.steps().await && run.settle().await {
            run.check_sources(patience).await;
            run.compare(patience).await;
            run.validate().await;
        }
        let _dropped = run.client.lines(&format!("DROP SCHEMA {} CASCADE", run.schema)).await;
        run.verdict
    }
}

impl Step {
    fn render(&self) -> String {
        match self {
            Step::Run(sql) => format!("run {sql}"),
            Step::View(View { name, drawn }) => match &drawn.closes {
                None => format!("view {name} changes: {}", drawn.query),
                Some(closes) => {
                    let reads: String = closes.reads.iter().map(usize::to_string).collect();
                    let sign = closes.sign();
                    format!("view {name} {} {sign} {reads}: {}", closes.end, drawn.query)
                }
            },
            Step::File(source, rows) => {
                let lines: Vec<String> = rows.iter().map(Row::line).collect();
                format!("file {source} {}", lines.join(" | "))
            }
            Step::Settle => "settle".into(),
            Step::Validate => "validate".into(),
            Step::Restart => "restart".into(),
        }
    }

    fn parse(word: &str, rest: &str) -> Self {
        match word {
            "run" => Step::Run(rest.into()),
            "view" => {
                let (head, query) = rest.split_once(": ").expect("view name ..: query");
                let words: Vec<&str> = head.split(' ').collect();
                let number = |digit: char| digit.to_digit(10).expect("numbers of sources") as usize;
                let closes = (words.len() == 4).then(|| Closes {
                    end: words[1].into(),
                    strictly: words[2] == "<",
                    reads: words[3].chars().map(number).collect(),
                });
                Step::View(View { name: words[0].into(), drawn: Drawn { query: query.into(), closes } })
            }
            "file" => {
                let (source, lines) = rest.split_once(' ').expect("file number rows");
                Step::File(source.parse().expect("a source"), lines.split(" | ").map(Row::parse).collect())
            }
            "settle" => Step::Settle,
            "validate" => Step::Validate,
            "restart" => Step::Restart,
            other => panic!("{other} is no step"),
        }
    }
}

impl Closes {
    fn sign(&self) -> &'static str {
        if self.strictly { "<" } else { "<=" }
    }
}

/// A script as it runs.
struct Run<'a> {
    script: &'a Script,
    bench: &'a mut Bench,
    schema: String,
    client: Client,
    dir: &'a Path,
    /// By source: rows in the order of the files.
    written: Vec<Vec<Row>>,
    files: usize,
    /// Views that were created and not found wrong.
    live: Vec<&'a View>,
    verdict: Verdict,
}

impl<'a> Run<'a> {
    fn wrong(&mut self, view: Option<&View>, way: impl Into<String>, found: impl Into<String>) {
        let view = view.map(|view| view.name.clone());
        self.verdict.wrong.push(Wrong { view, way: way.into(), found: found.into() });
    }

    async fn create_sources(&mut self) -> bool {
        let script = self.script;
        for (name, source) in NAMES.iter().zip(&script.sources) {
            let dir = self.dir.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            let sql = source.create(name, &dir);
            if let Err(error) = self.client.lines(&sql).await {
                self.wrong(None, "CREATE SOURCE fails", format!("{error}\n{sql}"));
                return false;
            }
        }
        true
    }

    /// False: there is no use in going on.
    async fn steps(&mut self) -> bool {
        let script = self.script;
        for step in &script.steps {
            match step {
                Step::Run(sql) => {
                    if let Err(error) = self.client.lines(sql).await {
                        self.wrong(None, "a statement fails", format!("{error}\n{sql}"));
                        return false;
                    }
                }
                Step::View(view) => self.create(view).await,
                Step::File(source, rows) => self.write(*source, rows),
                Step::Settle => {
                    if !self.settle().await {
                        return false;
                    }
                }
                Step::Validate => self.validate().await,
                Step::Restart => {
                    self.bench.server.kill_and_restart().await.unwrap();
                    self.client = self.bench.connect(&self.schema).await;
                }
            }
        }
        true
    }

    async fn create(&mut self, view: &'a View) {
        let emit = if view.drawn.closes.is_some() { " EMIT ON WINDOW CLOSE" } else { "" };
        let query = format!("{}{emit}", view.drawn.query);
        self.verdict.created += 1;
        match case::create(&mut self.client, &view.name, &query).await {
            Outcome::Right => self.live.push(view),
            Outcome::Refused => self.verdict.refused += 1,
            Outcome::Wrong(way, found) => self.wrong(Some(view), way, found),
        }
    }

    /// A file appears whole: under a name that is passed over, then renamed.
    fn write(&mut self, source: usize, rows: &[Row]) {
        self.files += 1;
        let text: String = rows.iter().map(|row| row.line() + "\n").collect();
        let dir = self.dir.join(NAMES[source]);
        std::fs::write(dir.join("_partial"), text).unwrap();
        std::fs::rename(dir.join("_partial"), dir.join(format!("{:04}.csv", self.files))).unwrap();
        self.written[source].extend(rows);
    }

    /// Waits until a query's rows, in any order, are as expected. `Err`: what they are instead.
    async fn wait_for(&mut self, sql: &str, mut expected: Vec<String>, patience: Duration) -> Result<(), String> {
        expected.sort();
        let began = Instant::now();
        loop {
            let found = match self.client.lines(sql).await {
                Ok(mut rows) => {
                    rows.sort();
                    if rows == expected {
                        return Ok(());
                    }
                    format!("{rows:?}")
                }
                Err(error) => error.to_string(),
            };
            if began.elapsed() >= patience {
                return Err(format!("{sql}\nfound: {found}\nexpected: {expected:?}"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Everything that was written has been read.
    async fn settle(&mut self) -> bool {
        let sql = format!("SELECT name, rows FROM tidemark.sources WHERE schema_name = '{}'", self.schema);
        let expected = NAMES.iter().zip(&self.written).map(|(name, rows)| format!("{name} {}", rows.len())).collect();
        let Err(found) = self.wait_for(&sql, expected, PATIENCE).await else { return true };
        let states = format!("SELECT name, state, error FROM tidemark.sources WHERE schema_name = '{}'", self.schema);
        let states = self.client.lines(&states).await;
        self.wrong(None, "a source is not read", format!("{found}\n{states:?}\n{}", self.bench.server.log_tail()));
        false
    }

    /// What VALIDATE says of a view that is going on.
    async fn validate(&mut self) {
        for view in std::mem::take(&mut self.live) {
            self.verdict.compared += 1;
            match case::validate(&mut self.client, &view.name).await {
                Outcome::Wrong(way, found) => self.wrong(Some(view), way, found),
                Outcome::Right | Outcome::Refused => self.live.push(view),
            }
        }
    }

    /// The sources beside the second opinion on them.
    async fn check_sources(&mut self, patience: Duration) {
        let script = self.script;
        for (number, source) in script.sources.iter().enumerate() {
            let (name, rows) = (NAMES[number], self.written[number].len());
            let judged = source.judge(&self.written[number]);
            let shown = |row: &Row| {
                let number = |value: Option<i64>| value.map_or("NULL".to_string(), |n| n.to_string());
                let ts = row.ts.map_or("NULL".to_string(), |ts| source.shown(ts));
                format!("{} {} {ts}", number(row.k), number(row.v))
            };
            let watermark = judged.watermark.map_or("NULL".to_string(), |ms| format!("{}+00", stamp(ms)));
            let counted = format!("{rows} {} {} {watermark}", judged.late.len(), judged.future.len());
            let facts = format!(
                "SELECT rows, late_rows, future_rows, watermark FROM tidemark.sources \
                 WHERE schema_name = '{}' AND name = '{name}'",
                self.schema
            );
            let kept = judged.kept.iter().map(shown).collect();
            let mut checks = vec![
                ("a source counts wrongly", facts, vec![counted]),
                ("SELECT over a source differs", format!("SELECT k, v, ts FROM {name}"), kept),
            ];
            if source.late == Late::Table {
                let late =
                    judged.late.iter().map(|(row, limit)| format!("{} late {}", shown(row), source.shown(*limit)));
                let future = judged.future.iter().map(|row| format!("{} future NULL", shown(row)));
                // How far ahead a row may lie is the clock's to say.
                let sql = format!(
                    "SELECT k, v, ts, late_reason, CASE WHEN late_reason = 'late' THEN late_limit END AS late_limit FROM {name}_late"
                );
                checks.push(("the table of late rows differs", sql, late.chain(future).collect()));
            }
            for (way, sql, expected) in checks {
                if let Err(found) = self.wait_for(&sql, expected, patience).await {
                    self.wrong(None, way, format!("{name} {}\n{found}", source.render()));
                }
            }
        }
    }

    /// The rows that a view is to have now, as a query.
    fn expected(&self, view: &View) -> String {
        let query = &view.drawn.query;
        let Some(closes) = &view.drawn.closes else { return query.clone() };
        let sources = &self.script.sources;
        let limits = closes.reads.iter().map(|&number| sources[number].closed_to(&self.written[number]));
        // A source without a watermark holds all back: None is the least.
        match limits.min().flatten() {
            None => format!("SELECT * FROM ({query}) AS q WHERE false"),
            Some(limit) => {
                let source = &sources[closes.reads[0]];
                let (sign, ty, limit) = (closes.sign(), source.type_name(), source.shown(limit));
                format!("SELECT * FROM ({query}) AS q WHERE q.{} {sign} {ty} '{limit}'", closes.end)
            }
        }
    }

    /// Each view beside the rows that it is to have, which it may need a moment for.
    async fn compare(&mut self, patience: Duration) {
        let began = Instant::now();
        for view in std::mem::take(&mut self.live) {
            self.verdict.compared += 1;
            let query = self.expected(view);
            loop {
                match case::select(&mut self.client, &view.name, &query).await {
                    Outcome::Right | Outcome::Refused => self.live.push(view),
                    Outcome::Wrong(way, found) if began.elapsed() >= patience => {
                        self.wrong(Some(view), way, format!("{found}\nexpected of it: {query}"));
                    }
                    Outcome::Wrong(..) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
                break;
            }
        }
    }
}

#[test]
fn scripts_are_read_as_they_are_written() {
    let text = "workers 3\nsource true 5000 10000 true false\nsource true 0 table false false\n\
                run CREATE TABLE t (k INT PRIMARY KEY, v INT)\nview w window_end < 01: SELECT 1 AS \": \"\n\
                view x changes: SELECT 2\nfile 1 1,,2024-01-02 10:00:00.5 | ,2,\nsettle\nvalidate\nrestart\n";
    assert_eq!(Script::parse(text).render(), text);
}
