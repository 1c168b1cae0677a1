//! Join: pairs of rows, or rows with or without a partner.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::Words;
use crate::values::duration_text;

/// Pairs of rows of two inputs, or those rows of the left one that have, or lack, a partner.
#[derive(Debug, Clone)]
pub struct Join {
    pub kind: JoinKind,
    /// Columns that must be equal: of the left input and of the right. Both inputs are exchanged by them. None: any two rows meet.
    pub on: Vec<(usize, usize)>,
    /// NULL equals NULL in them, as in INTERSECT.
    pub null_equal: bool,
    /// What else a pair must fulfil, over the columns of the left input, then those of the right.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
    /// The columns that it gives, numbered likewise; of the left input only where rows of that one are all that is asked for.
    pub output: Vec<usize>,
    /// Of each input: it is not kept, its rows are looked up by these columns of the collection that stores it ([`Stored`]), with
    /// which a key or an index of that begins.
    pub looked_up: [Option<Vec<usize>>; 2],
    /// How far apart in time rows that meet can be, so that those that can meet nothing any more are let go.
    pub within: Option<Within>,
    /// Rows of the left input, which only grows, meet those that the right one has when they come, and never again.
    pub current: bool,
}

/// Rows that meet are so far apart in event time: the right one's minus the left one's, in microseconds. Both columns have a
/// watermark.
///
/// ```text
///   right.ts BETWEEN left.ts - 5 s AND left.ts + 10 s       least = -5 s, most = 10 s
///
///            left row            let go when the right watermark is here
///               │                        │
///   ───┬────────┼────────────────────────┼───▶
///      └─ -5 s ─┴──────── +10 s ─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within {
    /// Columns of the left input and of the right.
    pub left: usize,
    pub right: usize,
    /// `None`: there is no bound on that side.
    pub least: Option<i64>,
    pub most: Option<i64>,
    /// A left row meets one right row at most, and is let go when both watermarks have passed that: no other can take its place.
    pub until_met: bool,
    /// Rows without partner are sent when none can come any more, and not before.
    pub emit_on_close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    /// Rows of the left input without partner, too, with NULL for the right one.
    Left,
    Right,
    Full,
    /// Rows of the left input with a partner, each once.
    Semi,
    /// Rows of the left input without partner.
    Anti,
    /// Rows of the left input and, as last column, whether they have a partner.
    Mark,
}

impl Join {
    pub(super) fn describe(
        &self,
        left: &SchemaRef,
        right: &SchemaRef,
        looked_up: [Option<&str>; 2],
        words: Words,
    ) -> String {
        let kind = match self.kind {
            JoinKind::Inner if self.on.is_empty() && self.residual.is_none() => "Cross",
            JoinKind::Inner => "Inner",
            JoinKind::Left => "Left",
            JoinKind::Right => "Right",
            JoinKind::Full => "Full",
            JoinKind::Semi => "Semi",
            JoinKind::Anti => "Anti",
            JoinKind::Mark => "Mark",
        };
        let equals = if self.null_equal { "IS NOT DISTINCT FROM" } else { "=" };
        let name = |schema: &SchemaRef, column: usize| schema.field(column).name().clone();
        let mut conditions: Vec<String> =
            self.on.iter().map(|&(l, r)| format!("{} {equals} {}", name(left, l), name(right, r))).collect();
        conditions.extend(self.residual.as_ref().map(|residual| match words {
            Words::Sql => fmt_sql(residual.as_ref()).to_string(),
            Words::Exact => residual.to_string(),
        }));
        let mut text = format!("{kind} Join");
        if !conditions.is_empty() {
            let _ = write!(text, " on {}", conditions.join(" AND "));
        }
        let kept = match (looked_up, self.keeps_counts()) {
            ([_, None], _) if self.current => "the rows of the right input, which a row meets when it comes",
            ([_, Some(_)], _) if self.current => "nothing; a row meets what is there when it comes",
            ([None, _], true) => "the rows of the left input and how many each key has on the right",
            ([Some(_), _], true) => "how many rows each key has on the right",
            ([None, None], false) => "the rows of both inputs",
            ([None, Some(_)], false) => "the rows of the left input",
            ([Some(_), None], false) => "the rows of the right input",
            ([Some(_), Some(_)], false) => "nothing",
        };
        let _ = write!(text, "; keeps {kept}");
        if let Some(within) = &self.within {
            text.push_str(&within.describe(&name(left, within.left), &name(right, within.right)));
        }
        if words == Words::Exact {
            let _ = write!(text, "; on {:?} gives {:?} looks up by {:?}", self.on, self.output, self.looked_up);
            let _ = write!(text, " within {:?}{}", self.within, if self.current { " current" } else { "" });
            let _ = write!(text, " logs {:?}", [true, false].map(|left| self.keeps_logs(left)));
        } else if looked_up.iter().any(Option::is_some) {
            let stored: Vec<&str> = looked_up.into_iter().flatten().collect();
            let _ = write!(text, ", looks up in {}", stored.join(" and "));
        }
        text
    }

    /// Whether it must know of each row of the left input (of the right one) how many rows match it.
    pub fn counts_matches(&self, left: bool) -> bool {
        match self.kind {
            JoinKind::Inner => false,
            JoinKind::Left => left,
            JoinKind::Right => !left,
            JoinKind::Full => true,
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark => left && !self.keeps_counts(),
        }
    }

    /// Whether rows of the left input (of the right one), if none is ever taken back, need not be found again one by one.
    pub fn keeps_logs(&self, left: bool) -> bool {
        let is_asked_for = self.within.is_some_and(|within| within.emit_on_close || (left && within.until_met));
        !self.counts_matches(left) && !is_asked_for
    }

    /// Only whether there is a partner counts, rows are kept for ever, and all rows of a key are partners: of the right input a number a key is enough.
    pub fn keeps_counts(&self) -> bool {
        matches!(self.kind, JoinKind::Semi | JoinKind::Anti | JoinKind::Mark)
            && self.residual.is_none()
            && self.within.is_none()
    }
}

impl Within {
    /// Rows so far apart.
    pub fn new(left: usize, right: usize, least: Option<i64>, most: Option<i64>) -> Self {
        Self { left, right, least, most, until_met: false, emit_on_close: false }
    }

    /// How much later than a left row's (a right row's) a partner's time may be.
    pub fn reach(&self, of_left: bool) -> Option<i64> {
        if of_left { self.most } else { self.least.map(i64::saturating_neg) }
    }

    fn describe(&self, left: &str, right: &str) -> String {
        let let_go = |of: &str, other: &str, column: &str, reach: Option<i64>| {
            reach.map(|reach| format!("the {of} until {} {column} is {} later", other, duration_text(reach)))
        };
        let met = || format!("the left ones until the right {right} that they meet is passed");
        let both = [
            let_go("left ones", "the right", right, self.reach(true)).or_else(|| self.until_met.then(met)),
            let_go("right ones", "the left", left, self.reach(false)),
        ];
        let both: Vec<String> = both.into_iter().flatten().collect();
        let sends = if self.emit_on_close { "; sends a row without partner then" } else { "" };
        format!(", by the watermarks {}{sends}", both.join(" and "))
    }
}
