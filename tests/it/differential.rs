//! Random changes against random queries: after every change each view is what its query says.
//!
//! ```text
//!   round (a seed):  random tables ─▶ views over them, from a grammar ─▶ change ─▶ VALIDATE all ─▶ change ─▶ ..
//!                    one server, with one worker thread or several, killed and restarted on the way
//!   failure:         the case alone ─▶ shrunk ─▶ a file in differential/kept, which every later run begins with
//! ```
//!
//! TIDEMARK_SEED chooses other rounds, TIDEMARK_DIFFERENTIAL_ROUNDS how many, TIDEMARK_SOAK_SECONDS how long rounds follow upon
//! each other (`make soak`).

mod case;
mod choices;
mod event_time;
mod expressions;
mod queries;
mod schema;
mod shrink;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use self::case::{Bench, Case, Outcome, Step};
use self::choices::{Choices, Tree};
use self::schema::{Schema, Table};
use self::shrink::Failure;
use crate::harness::{Random, repository};

/// Views of a round.
const VIEWS: usize = 40;
/// Views that the others read as they read tables.
const BASE_VIEWS: usize = 2;
/// Changes of a round.
const EPOCHS: usize = 25;
/// Sessions that validate at the same time.
const SESSIONS: usize = 2;
const ROUNDS: u64 = 3;
/// Of a hundred queries that the grammar draws, how many the product may refuse at most.
const REFUSED_PERCENT: usize = 15;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn kept_dir() -> PathBuf {
    repository().join("tests/it/differential/kept")
}

/// A drawn query, and the view that it became.
struct View {
    name: String,
    query: String,
    tree: Tree,
    /// Its place among the steps of the round, if it was created and not found wrong.
    created: Option<usize>,
}

struct Round {
    seed: u64,
    bench: Bench,
    home: String,
    schema: Schema,
    views: Vec<View>,
    steps: Vec<Step>,
    workers: u32,
    report: Report,
}

/// What rounds came to.
#[derive(Default)]
struct Report {
    queries: usize,
    refused: usize,
    compared: usize,
    failures: Vec<(Failure, String)>,
}

impl Round {
    async fn new(seed: u64) -> Self {
        let workers = if seed.is_multiple_of(2) { 3 } else { 1 };
        let mut random = Random::new(seed);
        let mut bench = Bench::start(workers).await;
        let home = bench.new_schema().await;
        let mut client = bench.connect(&home).await;
        let mut schema = Schema::random(&mut random);
        for sql in &schema.setup {
            client.lines(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        while schema.tables.len() < 3 + BASE_VIEWS {
            let (select, _) = queries::generate(&schema, Choices::fresh(Random::new(random.below(u64::MAX))));
            let name = format!("v{}", schema.tables.len());
            if case::create(&mut client, &name, &select.sql).await == Outcome::Right {
                schema.setup.push(format!("CREATE MATERIALIZED VIEW {name} AS {}", select.sql));
                schema.tables.push(Table::of_view(name, select.columns));
            }
        }
        let views = (0..VIEWS)
            .map(|n| {
                let (select, tree) = queries::generate(&schema, Choices::fresh(Random::new(random.below(u64::MAX))));
                View { name: format!("w{n}"), query: select.sql, tree, created: None }
            })
            .collect();
        let steps = Case::parse(&(schema.setup.join(";\n") + ";\n")).steps;
        Self { seed, bench, home, schema, views, steps, workers, report: Report::default() }
    }

    /// Half of the views see the first rows come, the other half are filled from what is there.
    async fn create_views(&mut self, which: std::ops::Range<usize>) {
        let mut client = self.bench.connect(&self.home).await;
        for n in which {
            let view = &self.views[n];
            self.report.queries += 1;
            match case::create(&mut client, &view.name, &view.query).await {
                Outcome::Right => self.views[n].created = Some(self.steps.len()),
                Outcome::Refused => self.report.refused += 1,
                Outcome::Wrong(way, found) => {
                    self.views[n].created = Some(self.steps.len());
                    self.fail(n, way, found);
                }
            }
        }
    }

    /// The view is compared no more, and will be looked into.
    fn fail(&mut self, n: usize, way: String, found: String) {
        let view = &mut self.views[n];
        let created = view.created.take().expect("only what was created is compared");
        let mut steps = self.steps.clone();
        steps.insert(created, Step::View("w".into(), view.query.clone()));
        let case = Case { workers: self.workers, steps };
        let failure = Failure { schema: self.schema.clone(), tree: view.tree.clone(), case, way };
        self.report.failures.push((failure, format!("seed {}, {}: {}\n{found}", self.seed, view.name, view.query)));
    }

    /// Compares all views; `last`: also as a client would.
    async fn compare(&mut self, last: bool) {
        let live: Vec<usize> = (0..VIEWS).filter(|n| self.views[*n].created.is_some()).collect();
        self.report.compared += live.len();
        let mut sessions = tokio::task::JoinSet::new();
        for session in 0..SESSIONS {
            let mut client = self.bench.connect(&self.home).await;
            let mine: Vec<(usize, String, String)> = live
                .iter()
                .filter(|n| **n % SESSIONS == session)
                .map(|n| (*n, self.views[*n].name.clone(), self.views[*n].query.clone()))
                .collect();
            sessions.spawn(async move {
                let mut outcomes = Vec::new();
                for (n, name, query) in mine {
                    let outcome = match case::validate(&mut client, &name).await {
                        Outcome::Right if last => case::select(&mut client, &name, &query).await,
                        outcome => outcome,
                    };
                    outcomes.push((n, outcome));
                }
                outcomes
            });
        }
        while let Some(outcomes) = sessions.join_next().await {
            for (n, outcome) in outcomes.unwrap() {
                if let Outcome::Wrong(way, found) = outcome {
                    self.fail(n, way, found);
                }
            }
        }
    }

    async fn run(mut self) -> Report {
        let mut random = Random::new(self.seed + 1_000_000);
        for epoch in 0..EPOCHS {
            match epoch {
                0 => self.create_views(0..VIEWS / 2).await,
                _ if epoch == EPOCHS / 3 => self.create_views(VIEWS / 2..VIEWS).await,
                _ => {}
            }
            let change = self.schema.change(&mut random);
            let mut client = self.bench.connect(&self.home).await;
            // A key may be there already: then nothing has happened.
            let _ = client.lines(&change).await;
            self.steps.push(Step::Run(change));
            if epoch == EPOCHS / 2 || epoch == EPOCHS - 4 {
                self.bench.server.kill_and_restart().await.unwrap();
                self.steps.push(Step::Restart);
            }
            self.compare(epoch == EPOCHS - 1).await;
        }
        self.report
    }
}

/// Shrinks a failure and keeps it as a file; what to say of it.
async fn keep(failure: &Failure, context: &str, name: &str) -> String {
    match shrink::shrink(failure).await {
        None => format!("{context}\n(alone the view does not fail: {})\n{}", failure.way, failure.case.render()),
        Some((case, found)) => {
            let path = kept_dir().join(format!("{name}.sql"));
            let way = &failure.way;
            std::fs::write(&path, format!("-- {way}\n{}", case.render())).unwrap();
            format!("{context}\nkept as {}:\n{}{way}:\n{found}", path.display(), case.render())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_cases_stay_mended() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(kept_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut one, mut three) = (Bench::start(1).await, Bench::start(3).await);
    let mut wrong = Vec::new();
    for file in &files {
        let case = Case::parse(&std::fs::read_to_string(file).unwrap());
        let bench = if case.workers == 1 { &mut one } else { &mut three };
        match bench.run(&case).await {
            Outcome::Right => {}
            outcome => wrong.push(format!("{}: {outcome:?}", file.display())),
        }
    }
    assert!(!files.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn views_equal_their_queries() {
    let soak = from_env("TIDEMARK_SOAK_SECONDS").map(Duration::from_secs);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let first = from_env("TIDEMARK_SEED").unwrap_or_else(|| if soak.is_some() { now() } else { 1 });
    let rounds = from_env("TIDEMARK_DIFFERENTIAL_ROUNDS").unwrap_or(ROUNDS);
    let began = Instant::now();
    let mut all = Report::default();
    let mut failures = Vec::new();
    for number in 0.. {
        let goes_on = soak.map_or(number < rounds, |limit| began.elapsed() < limit);
        if !goes_on {
            break;
        }
        let report = Round::new(first + number).await.run().await;
        (all.queries, all.refused) = (all.queries + report.queries, all.refused + report.refused);
        all.compared += report.compared;
        for (n, (failure, context)) in report.failures.iter().enumerate() {
            failures.push(keep(failure, context, &format!("seed_{}_{n}", first + number)).await);
            eprintln!("{}\n", failures.last().unwrap());
        }
        eprintln!(
            "seed {}: {} queries, {} refused, {} compared",
            first + number,
            all.queries,
            all.refused,
            all.compared
        );
    }
    assert!(failures.is_empty(), "{} views were not their queries:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(
        all.refused * 100 <= all.queries * REFUSED_PERCENT,
        "{} of {} queries were refused",
        all.refused,
        all.queries
    );
    assert!(all.compared as u64 >= rounds * 500, "only {} comparisons", all.compared);
}
