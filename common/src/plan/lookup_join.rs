//! Lookup join: rows that only come meet those that a table of another system has for their key.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::{JoinKind, Words};
use crate::connector::LookupTable;

/// Each row of the input with the rows that the table has for its key when it is asked, soon after the row has come, and never
/// again. The input is exchanged by the key.
#[derive(Debug, Clone)]
pub struct LookupJoin {
    /// Inner or left.
    pub kind: JoinKind,
    /// Its Debug says which it is, whatever it is called.
    pub table: Arc<dyn LookupTable>,
    /// As EXPLAIN shows it.
    pub name: String,
    /// The columns that the table is asked for, by position, and as they come.
    pub columns: Vec<usize>,
    pub schema: SchemaRef,
    /// Columns that must be equal, of one type: of the input, and of `schema`.
    pub on: Vec<(usize, usize)>,
    /// What a row of the table must fulfil, over `schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// What else a pair must fulfil, over the columns of the input, then those of `schema`.
    pub residual: Option<Arc<dyn PhysicalExpr>>,
    /// The columns that it gives, numbered likewise.
    pub output: Vec<usize>,
}

impl LookupJoin {
    /// The key's columns, of the input and of the table.
    pub fn keys(&self) -> (Vec<usize>, Vec<usize>) {
        self.on.iter().copied().unzip()
    }

    pub(super) fn describe(&self, input: &SchemaRef, words: Words) -> String {
        let shown = |expr: &Arc<dyn PhysicalExpr>| match words {
            Words::Sql => fmt_sql(expr.as_ref()).to_string(),
            Words::Exact => expr.to_string(),
        };
        let equal =
            self.on.iter().map(|&(l, r)| format!("{} = {}", input.field(l).name(), self.schema.field(r).name()));
        let asked = self.filter.iter().chain(&self.residual).map(shown);
        let conditions: Vec<String> = equal.chain(asked).collect();
        let kind = if self.kind == JoinKind::Left { "Left" } else { "Inner" };
        // Its name may change; what was asked of it does not.
        let name = if words == Words::Exact { format!("{:?}", self.table) } else { self.name.clone() };
        let mut text = format!(
            "{kind} Lookup Join in {name} on {}; keeps the rows that wait for an answer",
            conditions.join(" AND ")
        );
        if words == Words::Exact {
            let fields: Vec<String> =
                self.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
            let _ = write!(text, "; on {:?} gives {:?} of {}", self.on, self.output, fields.join(", "));
        }
        text
    }
}
