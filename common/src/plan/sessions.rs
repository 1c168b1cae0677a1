//! Sessions by their states: rows of a partition that follow each other within a gap are one group, which rows extend and join.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;

use super::{AggregateCall, Words};
use crate::values::duration_text;

/// GROUP BY the partition and the window of SESSION, over rows that only come.
///
/// Input: the time, `keys` columns of the partition, then what the calls read; append-only, with a watermark in the time, which is
/// never NULL. Output: one column for each of `columns`, one for each call.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub keys: usize,
    /// A row belongs to what came up to so many microseconds before it.
    pub gap: i64,
    pub calls: Vec<AggregateCall>,
    /// Over the partition's columns, the session's start and its end; they tell sessions apart.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
    /// A session is sent once, when no row can join it any more.
    pub emit_on_close: bool,
}

impl Sessions {
    pub(super) fn describe(&self, names: &dyn Fn(&[usize]) -> String, words: Words) -> String {
        let keys: Vec<usize> = (1..=self.keys).collect();
        let calls: Vec<&str> = self.calls.iter().map(|call| call.function.name()).collect();
        let what = if calls.is_empty() { "distinct" } else { &calls.join(", ") };
        let mut text = format!("Sessions: {what}");
        if self.keys > 0 {
            let _ = write!(text, " for each {}", names(&keys));
        }
        let time = names(&[0]);
        let _ = write!(text, " by {time}, gap {}; keeps one state a session", duration_text(self.gap));
        let _ = write!(text, " until its end is below the watermark of {time}");
        text.push_str(if self.emit_on_close { "; sends a session then" } else { "" });
        if words == Words::Exact {
            let filters: Vec<Option<usize>> = self.calls.iter().map(|call| call.filter).collect();
            let _ = write!(text, " {:?} {filters:?}", self.columns);
        }
        text
    }
}
