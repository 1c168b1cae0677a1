//! A load as a script: for a system that runs the strategy's queries itself, all of them in one transaction.
//!
//! ```text
//!   tidemark_input, filled by whoever loads
//!      │ prepare: temporary tables, which end with the transaction
//!      ▼
//!   tidemark_changes ──check──▶ a row: the load is refused
//!      │ apply
//!      ▼
//!   UPDATE what ends · DELETE what goes · UPDATE what has other values · INSERT what is new
//! ```

use super::{ACTION, CANDIDATES, Changes, Deletes, END, INPUT, KNOWN, Load, NEW, OLD, Strategy, Target, list, quoted};
use tidemark_common::Result;

const SEEN: &str = "tidemark_seen";
pub const CHANGES: &str = "tidemark_changes";

/// Statements in the order in which they are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What is to change, from `tidemark_input`.
    pub prepare: Vec<String>,
    /// A query for an event that is out of order: its key, and when the version begins or ends that it would change.
    pub check: Option<String>,
    /// How often each action is among the changes.
    pub counts: String,
    pub apply: Vec<String>,
}

fn temporary(name: &str, query: &str) -> String {
    format!("CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}")
}

impl Load {
    /// Of a strategy that compares. `Target::columns` are the table's, and nothing else.
    pub fn script(&self, target: &Target<'_>) -> Result<Script> {
        let mut prepare = Vec::new();
        match self.changes(target)? {
            Changes::Query(query) => prepare.push(temporary(CHANGES, &query)),
            Changes::Timeline { candidates, known, timeline } => {
                let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
                let of_input = list(&names);
                prepare.push(temporary(SEEN, &candidates));
                prepare.push(temporary(
                    CANDIDATES,
                    &format!("SELECT {of_input}, tidemark_hash FROM {SEEN} WHERE {ACTION} = 'changed'"),
                ));
                prepare.push(temporary(KNOWN, &known));
                let old: Vec<String> = (0..target.columns.len()).map(|at| format!("old_{at}")).collect();
                let nothing = vec!["NULL"; target.columns.len()];
                let decided = format!(
                    "SELECT {ACTION}, {OLD}, {END}, {NEW}, {}, {} FROM {SEEN} WHERE {ACTION} NOT IN ('changed', 'unchanged')",
                    old.join(", "),
                    nothing.join(", "),
                );
                prepare
                    .push(temporary(CHANGES, &format!("SELECT * FROM ({timeline}) AS timeline UNION ALL {decided}")));
            }
        }
        Ok(Script {
            prepare,
            check: self.late_events(target),
            counts: format!("SELECT {ACTION}, count(*) FROM {CHANGES} GROUP BY {ACTION} ORDER BY {ACTION}"),
            apply: self.applied(target),
        })
    }

    fn late_events(&self, target: &Target<'_>) -> Option<String> {
        let Strategy::Scd2(scd2) = &self.strategy else { return None };
        scd2.event_time.as_ref()?;
        let shown = self.keys.iter().chain([&scd2.valid_from]).map(|name| {
            let at = place(target, name);
            format!("coalesce(new_{at}, old_{at})::text")
        });
        let shown: Vec<String> = shown.collect();
        Some(format!("SELECT {} FROM {CHANGES} WHERE {ACTION} = 'out of order' LIMIT 1", shown.join(", ")))
    }

    fn applied(&self, target: &Target<'_>) -> Vec<String> {
        let table = target.name;
        let changes = format!("{ACTION} <> 'unchanged'");
        let same = |names: &[String]| {
            let same = names.iter().map(|name| format!("t.{} = c.old_{}", quoted(name), place(target, name)));
            same.collect::<Vec<_>>().join(" AND ")
        };
        let same_row = same(&self.table_key());
        let new: Vec<String> = (0..target.columns.len()).map(|at| format!("new_{at}")).collect();
        let set: Vec<String> =
            target.columns.iter().enumerate().map(|(at, name)| format!("{} = c.new_{at}", quoted(name))).collect();
        let mut apply = Vec::new();
        if let Strategy::Scd2(scd2) = &self.strategy {
            apply.push(format!(
                "UPDATE {table} AS t SET {} = c.{END}, {} = false FROM {CHANGES} AS c \
                 WHERE {changes} AND c.{OLD} AND c.{END} IS NOT NULL AND {same_row}",
                quoted(&scd2.valid_to),
                quoted(&scd2.is_current),
            ));
        }
        apply.push(format!(
            "DELETE FROM {table} AS t USING {CHANGES} AS c \
             WHERE {changes} AND c.{OLD} AND c.{END} IS NULL AND NOT c.{NEW} AND {same_row}"
        ));
        apply.push(format!(
            "UPDATE {table} AS t SET {} FROM {CHANGES} AS c \
             WHERE {changes} AND c.{OLD} AND c.{END} IS NULL AND c.{NEW} AND {same_row}",
            set.join(", ")
        ));
        apply.push(format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {CHANGES} AS c \
             WHERE {changes} AND c.{NEW} AND (NOT c.{OLD} OR c.{END} IS NOT NULL)",
            list(target.columns),
            new.join(", ")
        ));
        if self.deletes == Deletes::Hard && matches!(self.strategy, Strategy::Scd2(_)) {
            apply.push(format!(
                "DELETE FROM {table} AS t USING {CHANGES} AS c WHERE c.{ACTION} = 'deleted' AND {}",
                same(&self.keys)
            ));
        }
        if let Some(expired) = self.when_expired(target) {
            apply.push(format!("DELETE FROM {table} WHERE {expired}"));
        }
        apply
    }

    /// The statement that makes an empty `tidemark_input`, as columns of the target are.
    pub fn input_table(&self, target: &Target<'_>) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        temporary(INPUT, &format!("SELECT {} FROM {} WHERE false", list(&names), target.name))
    }
}

fn place(target: &Target<'_>, name: &str) -> usize {
    target.columns.iter().position(|column| column == name).expect("keys and own columns are the target's")
}
