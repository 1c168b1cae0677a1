//! The decisions behind a generated query, as a tree that can be replayed and made smaller.
//!
//! ```text
//!   select ── below(12) = 2, below(3) = 0          below() notes what was drawn in the node that it is called in,
//!     relation ── below(7) = 0                     within() opens a node of its own for a part of the query
//!     predicate ── below(10) = 7
//!       predicate ── ..                            a tree without draws gives zeros: the simplest query there is
//! ```
//!
//! A smaller tree is a simpler query: parts are emptied, replaced by a part of the same kind within them, or single draws lowered.
//! Whatever the tree, the generator makes a valid query of it.

use crate::harness::Random;

#[derive(Debug, Clone, Default)]
pub struct Tree {
    kind: &'static str,
    draws: Vec<u64>,
    parts: Vec<Tree>,
}

/// Where decisions come from: fresh ones, or those of a tree.
pub struct Choices {
    random: Option<Random>,
    stack: Vec<Frame>,
}

struct Frame {
    made: Tree,
    followed: Tree,
}

impl Choices {
    pub fn fresh(random: Random) -> Self {
        Self { random: Some(random), stack: vec![Frame { made: Tree::default(), followed: Tree::default() }] }
    }

    pub fn follow(tree: &Tree) -> Self {
        Self { random: None, stack: vec![Frame { made: Tree::default(), followed: tree.clone() }] }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        let frame = self.stack.last_mut().expect("the root is never closed");
        let drawn = match &mut self.random {
            Some(random) => random.below(n),
            None => frame.followed.draws.get(frame.made.draws.len()).copied().unwrap_or(0).min(n - 1),
        };
        frame.made.draws.push(drawn);
        drawn
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn open(&mut self, kind: &'static str) {
        let frame = self.stack.last_mut().expect("the root is never closed");
        let at = frame.made.parts.len();
        let followed = frame.followed.parts.get_mut(at).map(std::mem::take).unwrap_or_default();
        // Its place is taken now, so that its siblings find theirs.
        frame.made.parts.push(Tree::default());
        self.stack.push(Frame { made: Tree { kind, ..Tree::default() }, followed });
    }

    pub fn close(&mut self) {
        let part = self.stack.pop().expect("close() goes with an open()").made;
        let frame = self.stack.last_mut().expect("the root is never closed");
        *frame.made.parts.last_mut().expect("open() has made a place") = part;
    }

    pub fn into_tree(mut self) -> Tree {
        assert_eq!(self.stack.len(), 1, "all parts are closed");
        self.stack.pop().expect("the root").made
    }
}

impl Tree {
    /// Draws and parts: what shrinking makes smaller.
    pub fn size(&self) -> usize {
        let drawn: u64 = self.draws.iter().sum();
        1 + self.draws.len() + drawn as usize + self.parts.iter().map(Tree::size).sum::<usize>()
    }

    /// Trees that are a step simpler, the boldest steps first.
    pub fn simpler(&self) -> Vec<Tree> {
        let mut paths = Vec::new();
        self.paths(&mut Vec::new(), &mut paths);
        let (mut bold, mut hoisted, mut fine) = (Vec::new(), Vec::new(), Vec::new());
        for path in paths {
            let node = self.at(&path);
            if node.size() > 1 {
                bold.push(self.with(&path, Tree { kind: node.kind, ..Tree::default() }));
            }
            node.parts.iter().for_each(|part| {
                part.of_kind(node.kind, &mut |found| {
                    hoisted.push(self.with(&path, found.clone()));
                })
            });
            for (i, &drawn) in node.draws.iter().enumerate().filter(|(_, drawn)| **drawn > 0) {
                for lower in [0, drawn - 1] {
                    let mut changed = node.clone();
                    changed.draws[i] = lower;
                    fine.push(self.with(&path, changed));
                    if drawn == 1 {
                        break;
                    }
                }
            }
        }
        bold.into_iter().chain(hoisted).chain(fine).filter(|tree| tree.size() < self.size()).collect()
    }

    fn of_kind(&self, kind: &str, each: &mut impl FnMut(&Tree)) {
        if self.kind == kind {
            each(self);
        }
        self.parts.iter().for_each(|part| part.of_kind(kind, each));
    }

    fn paths(&self, here: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        all.push(here.clone());
        for (i, part) in self.parts.iter().enumerate() {
            here.push(i);
            part.paths(here, all);
            here.pop();
        }
    }

    fn at(&self, path: &[usize]) -> &Tree {
        path.iter().fold(self, |tree, &i| &tree.parts[i])
    }

    fn with(&self, path: &[usize], part: Tree) -> Tree {
        let mut whole = self.clone();
        *path.iter().fold(&mut whole, |tree, &i| &mut tree.parts[i]) = part;
        whole
    }
}
