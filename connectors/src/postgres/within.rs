//! Rows to load that are in the database already: the SELECT that gives them, and what NORMALIZE makes of them over there.
//!
//! ```text
//!   SELECT over there ─────────────────────────────────────────────────────────▶ tidemark_input
//!          │ if a column is normalised                                                 ▲
//!          └─▶ texts with a collation that knows letters ─▶ tidemark_given ─▶ steps ───┘
//!                                                           └─▶ a step that cannot take a value: an error
//! ```

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use tidemark_common::normalize::{Normalize, Step};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result};

use super::filter::identifier;
use super::pushdown::{WholeQuery, output};
use super::reading::Reading;
use super::types::RemoteColumn;
use crate::load::{Normalization, failures, normalized};

const GIVEN: &str = "tidemark_given";

pub struct Within {
    pub reading: Arc<Reading>,
    /// Of the table, those that it gives.
    pub columns: Vec<String>,
    /// Columns of these names.
    select: String,
    normalizations: Vec<Normalization>,
}

/// A column of the table that rows are for.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub sql_type: &'a SqlType,
    pub normalize: Option<&'a Normalize>,
}

impl Within {
    /// `None`: not all of it can be done over there. `columns`: of the table, what each of the plan's is for; `None` for nothing.
    pub fn of(plan: &LogicalPlan, columns: &[Option<Wanted<'_>>]) -> Result<Option<Self>> {
        let Some(whole) = WholeQuery::of(plan) else { return Ok(None) };
        let (mut names, mut items, mut normalizations) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (column, given)) in columns.iter().zip(&whole.columns).enumerate() {
            let Some(column) = column else { continue };
            let mut value = identifier(&output(at));
            if let Some(normalize) = column.normalize {
                let of = Normalization::compile(column.name, column.sql_type, normalize)?;
                let Some(collate) = collation(&normalize.steps, &of, given) else { return Ok(None) };
                value.push_str(collate);
                normalizations.push(of);
            }
            names.push(column.name.to_string());
            items.push(format!("{value} AS {}", identifier(column.name)));
        }
        let select = match normalizations.is_empty() && names.len() == whole.columns.len() {
            true => whole.sql,
            false => format!("SELECT {} FROM ({}) AS q", items.join(", "), whole.sql),
        };
        Ok(Some(Self { reading: whole.reading, columns: names, select, normalizations }))
    }

    /// The rows, with the columns in their order.
    pub fn query(&self) -> String {
        match (self.normalizations.is_empty(), self.is_staged()) {
            (true, _) => self.select.clone(),
            (false, true) => normalized(&self.columns, &self.normalizations, GIVEN),
            (false, false) => normalized(&self.columns, &self.normalizations, &format!("({}) AS {GIVEN}", self.select)),
        }
    }

    /// What could be an error has to be looked at, and has to be the same when it is taken.
    fn is_staged(&self) -> bool {
        self.normalizations.iter().any(|of| of.failed.is_some())
    }

    pub(super) fn stage(&self) -> Option<String> {
        self.is_staged().then(|| format!("CREATE TEMPORARY TABLE {GIVEN} ON COMMIT DROP AS {}", self.select))
    }

    pub(super) fn failures(&self) -> Option<String> {
        failures(&self.columns, &self.normalizations, GIVEN)
    }

    /// The error for a row of [`Within::failures`].
    pub(super) fn failure(&self, table: &str, at: &str, value: Option<&str>) -> Error {
        let of = at.parse().ok().and_then(|at: usize| self.normalizations.get(at));
        match of {
            Some(of) => of.error(table, value.unwrap_or_default()),
            None => Error::internal(format!("no column {at} is normalised")),
        }
    }
}

/// By which the other server does the steps as we do, as what stands behind the value; `None` if it does not.
fn collation(steps: &[Step], of: &Normalization, given: &RemoteColumn) -> Option<&'static str> {
    let is_text = matches!(given.sql_type, SqlType::Text | SqlType::Varchar(_));
    if of.derived.is_some() {
        return None;
    }
    if of.input != SqlType::Text {
        return (given.sql_type == of.input).then_some("");
    }
    if !is_text || !given.texts.ordered {
        return None;
    }
    // Which of several alternatives of a pattern matches is another one over there.
    if steps.iter().any(|step| matches!(step, Step::RegexReplace(..))) {
        return None;
    }
    match steps.iter().any(|step| matches!(step, Step::Lower | Step::Upper)) {
        true => given.texts.folded.then_some("::text COLLATE \"und-x-icu\""),
        false => Some("::text COLLATE \"C\""),
    }
}
