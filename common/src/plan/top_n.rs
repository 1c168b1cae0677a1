//! The first rows of each partition: ORDER BY .. LIMIT, DISTINCT ON, and a filter over row_number() or rank().

use std::fmt::Write;

use super::Words;

/// Rows of each partition in order; those whose number is above `offset` and not above `offset + limit` are the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopN {
    /// Columns of the input. None: all rows are one partition.
    pub partition: Vec<usize>,
    /// What comes first. Rows that are equal here are told apart by the rest of their columns.
    pub order: Vec<SortKey>,
    pub number: RowNumber,
    pub offset: u64,
    /// `None`: all that follow.
    pub limit: Option<u64>,
    /// The row's number is a column behind those of the input.
    pub numbered: bool,
    /// The input only grows, so that what lies behind the last row that can be output is never needed again.
    pub append_only: bool,
    /// The partition column whose watermark closes partitions: those below it never change, their state is let go.
    pub close: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// How the rows of a partition are numbered, from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowNumber {
    /// Each its own: row_number(), LIMIT.
    Each,
    /// Equal ones the number of the first of them: rank().
    Rank,
    /// Equal ones the same, without holes: dense_rank().
    DenseRank,
}

impl TopN {
    /// The number of the last row that is output.
    pub fn last(&self) -> Option<u64> {
        self.limit.map(|limit| self.offset.saturating_add(limit))
    }

    pub(super) fn describe(&self, input_names: &dyn Fn(&[usize]) -> String, words: Words) -> String {
        let mut text = match (self.limit, self.offset) {
            (None, offset) => format!("TopN all but {offset}"),
            (Some(limit), 0) => format!("TopN {limit}"),
            (Some(limit), offset) => format!("TopN {limit} after {offset}"),
        };
        text.push_str(match self.number {
            RowNumber::Each => "",
            RowNumber::Rank => " by rank",
            RowNumber::DenseRank => " by dense rank",
        });
        if self.numbered {
            text.push_str(" with number");
        }
        text.push_str(&partitioned(&self.partition, &self.order, input_names));
        let kept = match (self.append_only, self.last()) {
            (true, Some(last)) => format!("the first {last} rows"),
            _ => "the rows".into(),
        };
        let whose = if self.partition.is_empty() { "" } else { " of each partition" };
        let _ = write!(text, "; keeps {kept}{whose}");
        if let Some(close) = self.close {
            let _ = write!(text, " until {} is below the watermark", input_names(&[close]));
        }
        if words == Words::Exact {
            let _ = write!(text, " {:?} {:?}", self.partition, self.order);
        }
        text
    }
}

/// " for each a, b ordered by c DESC"
pub(super) fn partitioned(partition: &[usize], order: &[SortKey], input_names: &dyn Fn(&[usize]) -> String) -> String {
    let mut text = String::new();
    if !partition.is_empty() {
        let _ = write!(text, " for each {}", input_names(partition));
    }
    if !order.is_empty() {
        let keys: Vec<String> = order.iter().map(|key| key.describe(&input_names(&[key.column]))).collect();
        let _ = write!(text, " ordered by {}", keys.join(", "));
    }
    text
}

impl SortKey {
    /// As SQL writes it: NULLS where it is not what the direction says.
    fn describe(&self, name: &str) -> String {
        let direction = if self.descending { " DESC" } else { "" };
        let nulls = match (self.descending, self.nulls_first) {
            (false, true) => " NULLS FIRST",
            (true, false) => " NULLS LAST",
            _ => "",
        };
        format!("{name}{direction}{nulls}")
    }
}
