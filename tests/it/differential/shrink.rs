//! A failing case made smaller, as long as it fails in the same way.

use super::case::{Bench, Case, Outcome, Step};
use super::choices::Tree;
use super::queries;
use super::schema::Schema;

/// Cases tried at most; each takes a good part of a second.
const TRIALS: usize = 250;

/// A view that was not its query.
pub struct Failure {
    pub schema: Schema,
    pub tree: Tree,
    /// The view's step is where it was created.
    pub case: Case,
    /// In which way it failed.
    pub way: String,
}

struct Shrinking<'a> {
    failure: &'a Failure,
    bench: Bench,
    trials: usize,
}

/// The smallest case found that fails in the same way, and what it shows. `None`: alone, it does not fail.
pub async fn shrink(failure: &Failure) -> Option<(Case, String)> {
    let bench = Bench::start(failure.case.workers).await;
    let mut shrinking = Shrinking { failure, bench, trials: 0 };
    let mut found = shrinking.fails(&failure.case).await?;
    let mut case = failure.case.clone();
    shrinking.drop_steps(&mut case, &mut found).await;
    shrinking.simplify(&mut case, &mut found).await;
    shrinking.drop_steps(&mut case, &mut found).await;
    Some((case, found))
}

impl Shrinking<'_> {
    async fn fails(&mut self, case: &Case) -> Option<String> {
        self.trials += 1;
        if self.bench.server.connect().await.is_err() {
            self.bench = Bench::start(case.workers).await;
        }
        match self.bench.run(case).await {
            Outcome::Wrong(way, found) if way == self.failure.way => Some(found),
            _ => None,
        }
    }

    /// Leaves out statements: first many at a time, then each.
    async fn drop_steps(&mut self, case: &mut Case, found: &mut String) {
        let mut size = case.steps.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < case.steps.len() && self.trials < TRIALS {
                let end = (at + size).min(case.steps.len());
                let mut fewer = case.clone();
                fewer.steps.drain(at..end);
                let has_view = fewer.steps.iter().any(|step| matches!(step, Step::View(name, _) if name == "w"));
                match if has_view { self.fails(&fewer).await } else { None } {
                    Some(now) => (*case, *found) = (fewer, now),
                    None => at += size,
                }
            }
            size /= 2;
        }
    }

    /// Replaces the query by simpler ones.
    async fn simplify(&mut self, case: &mut Case, found: &mut String) {
        let mut tree = self.failure.tree.clone();
        'simpler: loop {
            for candidate in tree.simpler() {
                if self.trials >= TRIALS * 3 / 4 {
                    return;
                }
                let query = queries::replay(&self.failure.schema, &candidate);
                let mut simpler = case.clone();
                for step in &mut simpler.steps {
                    if let Step::View(name, old) = step
                        && name == "w"
                    {
                        old.clone_from(&query);
                    }
                }
                if simpler.render() == case.render() {
                    continue;
                }
                if let Some(now) = self.fails(&simpler).await {
                    (*case, *found, tree) = (simpler, now, candidate);
                    continue 'simpler;
                }
            }
            return;
        }
    }
}
