//! What a dataflow keeps for ever: state that grows with sources that never end.
//!
//! ```text
//!   source (endless) ─▶ Aggregate by k, no window      a state for each k, for ever
//!                    ─▶ Aggregate by window            let go by the watermark
//!                    ─▶ Join, no bound in time         every row, for ever
//! ```

use std::fmt;

use super::{Aggregate, Dataflow, Join, Keeps, Node, NodeId, Op};
use crate::Oid;

/// An operator whose state nothing bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// What is kept.
    pub what: String,
    /// What would let it go.
    pub hint: &'static str,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Dataflow {
    /// The operators whose state grows for ever, if the collections grow for ever of which `endless` says so.
    pub fn growing(&self, endless: &dyn Fn(Oid) -> bool) -> Vec<Growth> {
        let mut grows: Vec<bool> = Vec::with_capacity(self.nodes.len());
        let mut found = Vec::new();
        for node in &self.nodes {
            let input = |at: usize| node.inputs.get(at).is_some_and(|input| grows[*input as usize]);
            let any = (0..node.inputs.len()).any(input);
            if any {
                found.extend(self.growth(node, [input(0), input(1)]));
            }
            grows.push(match &node.op {
                Op::Input { collection, .. } => endless(*collection),
                // One row, a few rows, or those of the last hour.
                Op::Aggregate(aggregate) if aggregate.group == 0 => false,
                Op::TopN(top_n) if top_n.partition.is_empty() => false,
                Op::Temporal(temporal) if temporal.keeps == Keeps::Above => false,
                _ => any,
            });
        }
        found
    }

    fn growth(&self, node: &Node, inputs: [bool; 2]) -> Option<Growth> {
        let names = |input: NodeId, columns: &[usize]| {
            let schema = &self.nodes[input as usize].schema;
            columns.iter().map(|c| schema.field(*c).name().as_str()).collect::<Vec<_>>().join(", ")
        };
        let input = *node.inputs.first()?;
        match &node.op {
            Op::Aggregate(Aggregate { group, close: None, .. }) if *group > 0 => Some(Growth {
                what: format!(
                    "the aggregate keeps a state for each {}",
                    names(input, &(0..*group).collect::<Vec<_>>())
                ),
                hint: "GROUP BY a window over a column with a watermark, or count rows of a time only: WHERE ts > now() - INTERVAL '1 day'.",
            }),
            Op::Join(join) => joined(join, inputs),
            Op::TopN(top_n) if top_n.close.is_none() && !top_n.partition.is_empty() => Some(Growth {
                what: format!("the top-N keeps rows for each {}", names(input, &top_n.partition)),
                hint: "PARTITION BY a window over a column with a watermark, too, or add WHERE ts > now() - INTERVAL '1 day'.",
            }),
            Op::Over(over) if over.close.is_none() && over.until.is_none() => Some(Growth {
                what: "the window function keeps all rows".into(),
                hint: "PARTITION BY a window over a column with a watermark, too, or add WHERE ts > now() - INTERVAL '1 day'.",
            }),
            _ => None,
        }
    }
}

/// Each side keeps its rows, unless the other one's watermark lets them go.
fn joined(join: &Join, grows: [bool; 2]) -> Option<Growth> {
    let kept = |left: bool| {
        let (side, own) = (usize::from(!left), !(join.current && left));
        let let_go = join.within.is_some_and(|within| within.reach(left).is_some());
        grows[side] && own && !let_go && join.looked_up[side].is_none()
    };
    let sides = match (kept(true), kept(false)) {
        (true, true) => "both sides",
        (true, false) => "its left side",
        (false, true) => "its right side",
        (false, false) => return None,
    };
    Some(Growth {
        what: format!("the join keeps all rows of {sides}"),
        hint: "Say how far apart in time rows meet, b.ts BETWEEN a.ts - INTERVAL '1 hour' AND a.ts + INTERVAL '1 hour', over columns with watermarks, or join with FOR SYSTEM_TIME AS OF.",
    })
}
