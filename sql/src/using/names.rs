//! A merged column in the place of its name, wherever the query says it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, VisitMut, VisitorMut};

use super::Merged;
use super::scope::Scope;
use crate::ast::fold;

/// Puts what USING has merged in the place of its name, in subqueries too where they have no column of that name.
pub(super) fn substitute(node: &mut impl VisitMut, merged: &Merged, scope: &Scope) {
    if !merged.is_empty() {
        let mut names = Names { merged, scope: scope.clone(), own: Vec::new() };
        let ControlFlow::Continue(()) = node.visit(&mut names);
    }
}

struct Names<'a> {
    merged: &'a Merged,
    scope: Scope<'a>,
    /// The columns of each SELECT on the way; `None`: not known, so that any name may be its own.
    own: Vec<Option<BTreeSet<String>>>,
}

impl VisitorMut for Names<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.scope.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.scope.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let own = self.scope.from(&select.from);
        self.own.push(own.map(|side| side.star.into_iter().map(|(name, _)| name).collect()));
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _select: &mut Select) -> ControlFlow<Self::Break> {
        self.own.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(name) = expr
            && let Some(merged) = self.merged.get(&fold(name))
            && self.own.iter().all(|own| own.as_ref().is_some_and(|own| !own.contains(&fold(name))))
        {
            *expr = merged.clone();
        }
        ControlFlow::Continue(())
    }
}
