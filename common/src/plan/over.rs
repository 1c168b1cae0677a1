//! OVER: window functions. Each row with what functions say of it among the rows of its partition.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::window::WindowExpr;

use super::Words;
use super::top_n::{SortKey, partitioned};

/// The output is the input's columns, then one for each function.
#[derive(Debug, Clone)]
pub struct Over {
    /// Columns of the input. None: all rows are one partition.
    pub partition: Vec<usize>,
    /// The order of ORDER BY inside OVER. Rows that are equal there are ordered by the rest of their columns.
    pub order: Vec<SortKey>,
    /// All with this partition and order.
    pub functions: Vec<Arc<dyn WindowExpr>>,
    /// The partition column whose watermark closes partitions: those below it never change, their state is let go.
    pub close: Option<usize>,
    /// When rows are final though their partition is not.
    pub until: Option<Until>,
}

/// Rows are final when what a function says of them lies below a watermark: the end of a session, and that of its time. No row
/// that can still come changes it, and their state is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// The column of the input that has the watermark.
    pub time: usize,
    /// The place of the function in [`Over::functions`]; its values are of the type of `time`.
    pub function: usize,
    /// Rows are sent when they are final, and not before.
    pub emit_on_close: bool,
}

impl Over {
    /// `output`: the node's columns.
    pub(super) fn describe(
        &self,
        input_names: &dyn Fn(&[usize]) -> String,
        output: &SchemaRef,
        words: Words,
    ) -> String {
        let functions: Vec<&str> = self.functions.iter().map(|f| call_of(f.name(), words)).collect();
        let mut text = format!("Over {}", functions.join(", "));
        text.push_str(&partitioned(&self.partition, &self.order, input_names));
        let whose = if self.partition.is_empty() { "" } else { " of each partition" };
        let _ = write!(text, "; keeps the rows{whose}");
        if let Some(close) = self.close {
            let _ = write!(text, " until {} is below the watermark", input_names(&[close]));
        }
        if let Some(until) = self.until {
            let first = output.fields().len() - self.functions.len();
            let (end, time) = (output.field(first + until.function).name(), input_names(&[until.time]));
            let _ = write!(text, " until {end} is below the watermark of {time}");
            text.push_str(if until.emit_on_close { "; sends rows then" } else { "" });
        }
        if words == Words::Exact {
            let _ = write!(text, " {:?} {:?}", self.partition, self.order);
            for function in &self.functions {
                let arguments: Vec<String> = function.expressions().iter().map(ToString::to_string).collect();
                let _ = write!(text, " ({}) {}", arguments.join(", "), function.get_window_frame());
            }
        }
        text
    }
}

/// For EXPLAIN the call alone: partition and order are said once for all, and a frame that was not written is long.
fn call_of(name: &str, words: Words) -> &str {
    let end =
        if words == Words::Exact { None } else { name.find(" PARTITION BY [").or_else(|| name.find(" ORDER BY [")) };
    name[..end.unwrap_or(name.len())].trim_end()
}
