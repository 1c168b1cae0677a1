//! A failing script made smaller, as long as it fails in the same way: fewer views, steps and rows, a simpler query.

use std::time::Duration;

use super::super::case::Bench;
use super::super::choices::{Choices, Tree};
use super::queries;
use super::script::{Script, Step, Wrong};

/// Scripts tried at most; each takes a second or two.
const TRIALS: usize = 120;
/// How long a view may be wrong: shorter than where it was found, as every success of a trial waits for so long.
const PATIENCE: Duration = Duration::from_secs(3);

struct Shrinking<'a> {
    wrong: &'a Wrong,
    bench: Bench,
    trials: usize,
}

/// The smallest script found that fails in the same way, and what it shows. `None`: once more, it does not fail.
pub async fn shrink(script: &Script, wrong: &Wrong, tree: Option<&Tree>) -> Option<(Script, String)> {
    let bench = Bench::start(script.workers).await;
    let mut shrinking = Shrinking { wrong, bench, trials: 0 };
    let mut found = shrinking.fails(script).await?;
    let mut script = script.clone();
    let mut fewer = script.clone();
    fewer.steps.retain(|step| !matches!(step, Step::View(_)) || shrinking.stays(step));
    if let Some(now) = shrinking.fails(&fewer).await {
        (script, found) = (fewer, now);
    }
    shrinking.drop_steps(&mut script, &mut found).await;
    shrinking.drop_rows(&mut script, &mut found).await;
    if let Some(tree) = tree {
        shrinking.simplify(&mut script, &mut found, tree.clone()).await;
    }
    shrinking.drop_steps(&mut script, &mut found).await;
    Some((script, found))
}

impl Shrinking<'_> {
    async fn fails(&mut self, script: &Script) -> Option<String> {
        self.trials += 1;
        if self.bench.server.connect().await.is_err() {
            self.bench = Bench::start(script.workers).await;
        }
        let verdict = script.run(&mut self.bench, PATIENCE).await;
        let same = |other: &&Wrong| other.view == self.wrong.view && other.way == self.wrong.way;
        verdict.wrong.iter().find(same).map(|wrong| wrong.found.clone())
    }

    /// Without the view there is nothing to see, without the keepers nobody reads the sources.
    fn stays(&self, step: &Step) -> bool {
        matches!(step, Step::View(view) if view.name.starts_with("keep") || Some(&view.name) == self.wrong.view.as_ref())
    }

    /// Leaves out steps: first many at a time, then each.
    async fn drop_steps(&mut self, script: &mut Script, found: &mut String) {
        let mut size = script.steps.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < script.steps.len() && self.trials < TRIALS {
                let end = (at + size).min(script.steps.len());
                let mut fewer = script.clone();
                let mut number = 0;
                fewer.steps.retain(|step| {
                    number += 1;
                    !(at..end).contains(&(number - 1)) || self.stays(step)
                });
                let smaller = fewer.steps.len() < script.steps.len();
                match if smaller { self.fails(&fewer).await } else { None } {
                    Some(now) => (*script, *found) = (fewer, now),
                    None => at = end,
                }
            }
            size /= 2;
        }
    }

    /// Leaves out rows of files, each after the other.
    async fn drop_rows(&mut self, script: &mut Script, found: &mut String) {
        for step in 0..script.steps.len() {
            let mut row = 0;
            while self.trials < TRIALS * 3 / 4 {
                let mut fewer = script.clone();
                match &mut fewer.steps[step] {
                    // A file without rows would be another case.
                    Step::File(_, rows) if rows.len() > 1 && row < rows.len() => {
                        rows.remove(row);
                    }
                    _ => break,
                }
                match self.fails(&fewer).await {
                    Some(now) => (*script, *found) = (fewer, now),
                    None => row += 1,
                }
            }
        }
    }

    /// Replaces the query by simpler ones.
    async fn simplify(&mut self, script: &mut Script, found: &mut String, mut tree: Tree) {
        let name = self.wrong.view.clone();
        'simpler: loop {
            for candidate in tree.simpler() {
                if self.trials >= TRIALS {
                    return;
                }
                let (drawn, _) = queries::draw(Choices::follow(&candidate), script.apart());
                let mut simpler = script.clone();
                for step in &mut simpler.steps {
                    if let Step::View(view) = step
                        && Some(&view.name) == name.as_ref()
                    {
                        view.drawn = drawn.clone();
                    }
                }
                if simpler.render() == script.render() {
                    continue;
                }
                if let Some(now) = self.fails(&simpler).await {
                    (*script, *found, tree) = (simpler, now, candidate);
                    continue 'simpler;
                }
            }
            return;
        }
    }
}
