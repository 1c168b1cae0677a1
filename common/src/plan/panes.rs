//! Overlapping windows by panes: what lies between two edges of windows is summed up once, for all windows that hold it.
//!
//! ```text
//!   edges      0    5    10   15   20          a window of HOP, slide 5, size 15, is three panes,
//!   panes      | p0 | p1 | p2 | p3 |           and so is the next one, of which two are the same
//!   windows    [──────────────)
//!                   [──────────────)
//!
//!   slide 5, size 12: a pane ends also where a window does      |  2 |  3  | 2 |  3  | 2 |
//!   CUMULATE, step 5, size 15: windows are the first pane, the first two, all three
//! ```
//!
//! Source: S. Krishnamurthy, C. Wu, M. Franklin, On-the-Fly Sharing for Streamed Aggregation, SIGMOD 2006 (paired windows).

use std::fmt::Write;
use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;

use super::{AggregateCall, Words};
use crate::values::duration_text;

/// Puts the states that [`Aggregate`](super::Aggregate) sends of panes together to windows, and sends each when it closes.
///
/// Input: the start of the pane, `keys` columns, and the states of the calls; append-only, closed by its first column. Output:
/// one column for each of `columns`, one for each call.
#[derive(Debug, Clone)]
pub struct Panes {
    pub windows: Windows,
    pub keys: usize,
    pub calls: Vec<AggregateCall>,
    pub columns: Vec<PaneColumn>,
}

#[derive(Debug, Clone)]
pub enum PaneColumn {
    /// One of the key's.
    Key(usize),
    /// Of the window: an expression over its start and its end.
    Window(Arc<dyn PhysicalExpr>),
}

/// Windows of fixed length that overlap, in microseconds since 1970. `offset`: that of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    shape: Shape,
    step: i64,
    size: i64,
    offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A window of `size` starts every `step`, which is no longer.
    Hop,
    /// Windows of up to `size`, a multiple of `step`, start together and end every `step`.
    Cumulate,
}

/// Half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: i64,
    pub end: i64,
}

impl Windows {
    /// `None`: these do not overlap, or are not of that shape.
    pub fn new(shape: Shape, step: i64, size: i64, offset: i64) -> Option<Self> {
        let fits = shape == Shape::Hop || (step > 0 && size % step == 0);
        // Edges come back after so long.
        let period = if shape == Shape::Hop { step } else { size };
        (0 < step && step <= size && fits).then(|| Self { shape, step, size, offset: offset.rem_euclid(period) })
    }

    pub fn size(&self) -> i64 {
        self.size
    }

    /// The pane that holds `time`, by its start. `None`: that is out of range.
    pub fn pane(&self, time: i64) -> Option<i64> {
        let start = last_at(time, self.step, self.offset)?;
        Some(if self.in_pairs() { start.max(last_at(time, self.step, self.offset + self.size)?) } else { start })
    }

    /// Panes are numbered without gaps. `edge`: the start of one.
    pub fn number(&self, edge: i64) -> i64 {
        let behind = i128::from(edge) - i128::from(self.offset);
        let step = i128::from(self.step);
        let number = if self.in_pairs() {
            2 * behind.div_euclid(step) + i128::from(behind.rem_euclid(step) > 0)
        } else {
            behind.div_euclid(step)
        };
        i64::try_from(number).expect("a pair of panes is two microseconds long at least")
    }

    /// Of the windows that end after `time`, the first; it holds `time` or starts there. `None`: that is out of range.
    pub fn first_ending_after(&self, time: i64) -> Option<Window> {
        match self.shape {
            Shape::Hop => {
                let end = last_at(time, self.step, self.offset + self.size)?.checked_add(self.step)?;
                Some(Window { start: end.checked_sub(self.size)?, end })
            }
            Shape::Cumulate => {
                let end = last_at(time, self.step, self.offset)?.checked_add(self.step)?;
                Some(Window { start: last_at(time, self.size, self.offset)?, end })
            }
        }
    }

    /// Panes are of two lengths in turn.
    fn in_pairs(&self) -> bool {
        self.size % self.step != 0
    }
}

/// The last time up to `time` that is `offset` modulo `step`.
fn last_at(time: i64, step: i64, offset: i64) -> Option<i64> {
    let behind = time.rem_euclid(step) - offset.rem_euclid(step);
    time.checked_sub(if behind < 0 { behind + step } else { behind })
}

impl Panes {
    pub(super) fn describe(&self, output: &dyn Fn(usize) -> String, words: Words) -> String {
        let names: Vec<String> = (0..self.columns.len()).map(output).collect();
        let calls: Vec<&str> = self.calls.iter().map(|call| call.function.name()).collect();
        let mut text = match calls.is_empty() {
            true => format!("Panes: distinct {}", names.join(", ")),
            false => format!("Panes: {} by {}", calls.join(", "), names.join(", ")),
        };
        if words == Words::Exact {
            let _ = write!(text, "; {:?} {:?}", self.windows, self.columns);
            return text;
        }
        let Windows { shape, step, size, .. } = self.windows;
        let (size, step) = (duration_text(size), duration_text(step));
        let _ = match shape {
            Shape::Hop => write!(text, "; windows of {size} every {step}"),
            Shape::Cumulate => write!(text, "; windows of up to {size} by {step}"),
        };
        text.push_str("; keeps the panes of those that are open; sends a window when it closes");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All windows of the definition that hold some of -60 to 60.
    fn all(shape: Shape, step: i64, size: i64, offset: i64) -> Vec<Window> {
        let starts = (-200..200).filter(|start| (start - offset).rem_euclid(step) == 0);
        let mut windows: Vec<Window> = match shape {
            Shape::Hop => starts.map(|start| Window { start, end: start + size }).collect(),
            Shape::Cumulate => starts
                .filter(|start| (start - offset).rem_euclid(size) == 0)
                .flat_map(|start| (1..=size / step).map(move |n| Window { start, end: start + n * step }))
                .collect(),
        };
        windows.sort_by_key(|window| window.end);
        windows
    }

    #[test]
    fn panes_are_what_lies_between_edges() {
        for (shape, step, size, offset) in [
            (Shape::Hop, 5, 15, 0),
            (Shape::Hop, 5, 12, 3),
            (Shape::Hop, 7, 20, -4),
            (Shape::Hop, 4, 4, 1),
            (Shape::Hop, 3, 50, 49),
            (Shape::Cumulate, 5, 20, 7),
            (Shape::Cumulate, 6, 6, 0),
        ] {
            let windows = Windows::new(shape, step, size, offset).unwrap();
            let all = all(shape, step, size, offset);
            let starts: Vec<i64> = match shape {
                Shape::Hop => all.iter().map(|w| w.start).collect(),
                Shape::Cumulate => all.iter().map(|w| w.end - step).collect(),
            };
            let mut edges: Vec<i64> = starts.into_iter().chain(all.iter().map(|w| w.end)).collect();
            edges.sort_unstable();
            edges.dedup();
            for time in -60..60 {
                let pane = *edges.iter().rfind(|edge| **edge <= time).unwrap();
                assert_eq!(windows.pane(time), Some(pane), "{windows:?} {time}");
                let next = *edges.iter().find(|edge| **edge > time).unwrap();
                assert_eq!(windows.number(next), windows.number(pane) + 1, "{windows:?} {time}");
                let first = *all.iter().find(|window| window.end > time).unwrap();
                assert_eq!(windows.first_ending_after(time), Some(first), "{windows:?} {time}");
                assert!(first.start <= time);
            }
        }
    }

    #[test]
    fn what_has_no_panes() {
        assert_eq!(Windows::new(Shape::Hop, 10, 5, 0), None, "there are gaps between them");
        assert_eq!(Windows::new(Shape::Cumulate, 2, 5, 0), None);
        assert_eq!(Windows::new(Shape::Hop, 0, 5, 0), None);
        let windows = Windows::new(Shape::Hop, 7, 20, 0).unwrap();
        assert_eq!((windows.pane(i64::MIN), windows.first_ending_after(i64::MAX)), (None, None));
    }
}
