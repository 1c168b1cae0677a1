//! Random event time against random queries: files that come piece by piece, out of order and late, and views that follow.
//!
//! ```text
//!   a/0001.csv ─▶ source a ─ late? too far ahead? ─▶ rows that count ─┬▶ view, EMIT CHANGES          = its query
//!   b/0002.csv ─▶ source b ─ ...                                      └▶ view, EMIT ON WINDOW CLOSE  = its query's closed windows
//!   INSERT, .. ─▶ table t                  │
//!                                          └─ second opinion: the rows one after the other, by brute force (rows)
//!   round (a seed):  views made before the first row, half way and after the last; the server killed on the way
//!   failure:         the script alone ─▶ shrunk ─▶ a file in event_time/kept, which every later run begins with
//! ```
//!
//! TIDEMARK_SEED chooses other rounds, TIDEMARK_EVENT_TIME_ROUNDS how many, TIDEMARK_SOAK_SECONDS how long rounds follow upon each
//! other (`make soak`).

mod queries;
mod rows;
mod script;
mod shrink;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use self::queries::Drawn;
use self::rows::{Flow, NAMES, Source};
use self::script::{Script, Step, Verdict, View};
use super::case::Bench;
use super::choices::{Choices, Tree};
use super::from_env;
use crate::harness::{Random, repository};

const ROUNDS: u64 = 3;
/// Views of a round, a third of them at a time.
const VIEWS: usize = 24;
/// Files of a round before the last views are made.
const PIECES: usize = 8;
/// Restarts of a round at most: they take most of its time.
const RESTARTS: usize = 2;
/// Of a hundred queries that the grammar draws, how many the product may refuse at most.
const REFUSED_PERCENT: usize = 30;
/// How long a view may differ after everything has been read: windows close with the epoch after, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Failures of a round that are shrunk.
const SHRUNK: usize = 2;

fn kept_dir() -> PathBuf {
    repository().join("tests/it/differential/event_time/kept")
}

/// Draws a round.
struct Round {
    random: Random,
    script: Script,
    flows: Vec<Flow>,
    /// What the queries were made of, by view.
    trees: BTreeMap<String, Tree>,
    restarts: usize,
    /// Somebody reads the sources.
    started: bool,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let workers = if seed.is_multiple_of(2) { 3 } else { 1 };
        // Sources that do not wait for each other close windows by the clock: then no query reads both, and it decides nothing.
        let (zoned, idle) = (random.below(3) == 0, random.below(5) == 0);
        let sources: Vec<Source> = NAMES.iter().map(|_| Source::random(&mut random, zoned, idle)).collect();
        let at = rows::beginning(&mut random);
        let flows = NAMES.iter().map(|_| Flow::new(random.below(u64::MAX), at)).collect();
        let setup = ["CREATE TABLE t (k INT PRIMARY KEY, v INT)", queries::BOTH];
        let steps = setup.map(|sql| Step::Run(sql.into())).into();
        let script = Script { workers, sources, steps };
        Self { random, script, flows, trees: BTreeMap::new(), restarts: 0, started: false }
    }

    fn draw(mut self) -> (Script, BTreeMap<String, Tree>) {
        let start = if self.random.below(3) == 0 { PIECES / 2 } else { 0 };
        for piece in 0..PIECES {
            if piece == start {
                self.start();
                self.views(0..VIEWS / 3);
            }
            if piece == PIECES / 2 {
                self.views(VIEWS / 3..VIEWS * 2 / 3);
            }
            self.piece();
            self.meanwhile();
        }
        if self.random.below(2) == 0 {
            self.push(Step::Settle);
        }
        self.views(VIEWS * 2 / 3..VIEWS);
        // Half of the rounds end with views that have seen nothing but what was there.
        if self.random.below(2) == 0 {
            (0..2).for_each(|_| self.piece());
            self.meanwhile();
        }
        (self.script, self.trees)
    }

    fn push(&mut self, step: Step) {
        self.script.steps.push(step);
    }

    fn view(&mut self, name: &str, drawn: Drawn) {
        self.push(Step::View(View { name: name.into(), drawn }));
    }

    /// The views that others read, and those that have the sources read even if no other view does.
    fn start(&mut self) {
        self.started = true;
        for name in NAMES {
            let query = match self.random.below(3) {
                0 => format!("SELECT k, v, ts FROM {name}"),
                1 => format!("SELECT count(*) AS n FROM {name}"),
                _ => format!("SELECT k, count(v) AS n FROM {name} GROUP BY k"),
            };
            self.view(&format!("keep_{name}"), Drawn { query, closes: None });
        }
        for (name, drawn) in queries::bases() {
            self.view(name, drawn);
        }
    }

    fn views(&mut self, which: std::ops::Range<usize>) {
        for n in which {
            let choices = Choices::fresh(Random::new(self.random.below(u64::MAX)));
            let (drawn, tree) = queries::draw(choices, self.script.apart());
            let name = format!("w{n}");
            self.view(&name, drawn);
            self.trees.insert(name, tree);
        }
    }

    fn piece(&mut self) {
        let source = self.random.below(NAMES.len() as u64) as usize;
        let latest = self.flows.iter().map(Flow::at).max().unwrap_or_default();
        self.flows[source].catch_up(latest);
        let rows = self.flows[source].piece(&self.script.sources[source]);
        self.push(Step::File(source, rows));
    }

    /// What happens between two files, which may be nothing, so that they are read together.
    fn meanwhile(&mut self) {
        for _ in 0..self.random.below(3) {
            let change = rows::change_table(&mut self.random);
            self.push(Step::Run(change));
        }
        if !self.started {
            return;
        }
        match self.random.below(8) {
            0 | 1 if self.restarts < RESTARTS => {
                self.restarts += 1;
                self.push(Step::Restart);
            }
            2..5 => self.push(Step::Settle),
            _ => {}
        }
        if self.random.below(2) == 0 {
            self.push(Step::Validate);
        }
    }
}

/// Shrinks the failures of a round and keeps them as files; what to say of them.
async fn keep(seed: u64, script: &Script, trees: &BTreeMap<String, Tree>, verdict: &Verdict) -> Vec<String> {
    let mut said = Vec::new();
    for (n, wrong) in verdict.wrong.iter().enumerate() {
        let query = script.steps.iter().find_map(|step| match step {
            Step::View(view) if Some(&view.name) == wrong.view.as_ref() => Some(format!("{:?}", view.drawn)),
            _ => None,
        });
        let context = format!(
            "seed {seed}, {}: {}\n{}\n{}",
            wrong.view.as_deref().unwrap_or("the sources"),
            wrong.way,
            query.unwrap_or_default(),
            wrong.found
        );
        let tree = wrong.view.as_ref().and_then(|name| trees.get(name));
        let shrunk = if n < SHRUNK { shrink::shrink(script, wrong, tree).await } else { None };
        said.push(match shrunk {
            None if n < SHRUNK => format!("{context}\n(once more, it does not fail)\n{}", script.render()),
            None => context,
            Some((script, found)) => {
                let path = kept_dir().join(format!("seed_{seed}_{n}.txt"));
                std::fs::create_dir_all(kept_dir()).unwrap();
                std::fs::write(&path, format!("# {}\n{}", wrong.way, script.render())).unwrap();
                format!("{context}\nkept as {}:\n{}{found}", path.display(), script.render())
            }
        });
        eprintln!("{}\n", said.last().expect("just pushed"));
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_event_times_stay_mended() {
    // The folder comes with the first failure.
    let entries = std::fs::read_dir(kept_dir()).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in &files {
        let script = Script::parse(&std::fs::read_to_string(file).unwrap());
        let mut bench = Bench::start(script.workers).await;
        let verdict = script.run(&mut bench, PATIENCE).await;
        wrong.extend(verdict.wrong.iter().map(|wrong| format!("{}: {wrong:?}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn views_over_event_time_equal_their_queries() {
    let soak = from_env("TIDEMARK_SOAK_SECONDS").map(Duration::from_secs);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let first = from_env("TIDEMARK_SEED").unwrap_or_else(|| if soak.is_some() { now() } else { 1 });
    let rounds = from_env("TIDEMARK_EVENT_TIME_ROUNDS").unwrap_or(ROUNDS);
    let began = Instant::now();
    let (mut created, mut refused, mut compared, mut done) = (0, 0, 0, 0);
    let mut failures = Vec::new();
    for number in 0.. {
        let goes_on = soak.map_or(number < rounds, |limit| began.elapsed() < limit);
        if !goes_on {
            break;
        }
        let seed = first + number;
        let (script, trees) = Round::new(seed).draw();
        let mut bench = Bench::start(script.workers).await;
        let verdict = script.run(&mut bench, PATIENCE).await;
        failures.extend(keep(seed, &script, &trees, &verdict).await);
        (created, refused) = (created + verdict.created, refused + verdict.refused);
        (compared, done) = (compared + verdict.compared, done + 1);
        eprintln!(
            "seed {seed}: {created} views, {refused} refused, {compared} compared, {} seconds",
            began.elapsed().as_secs()
        );
    }
    assert!(failures.is_empty(), "{} were wrong:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(refused * 100 <= created * REFUSED_PERCENT, "{refused} of {created} views were refused");
    assert!(compared >= done * VIEWS, "only {compared} comparisons");
}
