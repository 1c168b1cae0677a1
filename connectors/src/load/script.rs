//! A load as a script: for a system that runs the strategy's queries itself, all of them in one transaction.
//!
//! ```text
//!   tidemark_input, filled by whoever loads
//!      │ (into an empty table: one INSERT, and that is all)
//!      │ of changes: tidemark_scope, the keys of rows that go ─▶ tidemark_confined: the table's rows with those keys, and those that come
//!      │ prepare: temporary tables, which end with the transaction
//!      ▼
//!   tidemark_changes ──check──▶ a row: the load is refused
//!      │ apply
//!      ▼
//!   UPDATE what ends · DELETE what goes · UPDATE what has other values · INSERT what is new · DELETE history that goes
//! ```

use tidemark_common::Result;
use tidemark_common::types::SqlType;

use super::{
    ACTION, CANDIDATES, Changes, Declared, Deletes, END, INPUT, KNOWN, Load, NEW, OLD, Own, SCOPE, Strategy, Target,
    list, quoted,
};

const SEEN: &str = "tidemark_seen";
const CONFINED: &str = "tidemark_confined";
pub const CHANGES: &str = "tidemark_changes";

/// Statements in the order in which they are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What is to change, from `tidemark_input`.
    pub prepare: Vec<String>,
    /// A query for an event that is out of order: its key, and when the version begins or ends that it would change.
    pub check: Option<String>,
    /// How often each action is among the changes; what is unchanged is not.
    pub counts: String,
    pub apply: Vec<Apply>,
}

/// A statement that changes the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    pub sql: String,
    /// Its rows are no changes of their own, but history that goes: they count as deleted besides.
    pub counts: bool,
}

impl Apply {
    fn change(sql: String) -> Self {
        Self { sql, counts: false }
    }

    fn history(sql: String) -> Self {
        Self { sql, counts: true }
    }
}

fn temporary(name: &str, query: &str) -> String {
    format!("CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}")
}

/// Rows that stay as they are, which may be nearly all, are not written down.
fn changing(query: &str) -> String {
    format!("SELECT * FROM ({query}) AS changing WHERE {ACTION} <> 'unchanged'")
}

impl Load {
    /// Of a strategy that compares. `Target::columns` are the table's, and nothing else. `confined`: the load is about the keys in
    /// `tidemark_scope` and those that come, and about no other rows.
    pub fn script(&self, target: &Target<'_>, confined: bool) -> Result<Script> {
        let mut prepare = Vec::new();
        if confined {
            prepare.push(temporary(CONFINED, &self.confined(target)));
        }
        let read = Target { name: if confined { CONFINED } else { target.name }, ..target.clone() };
        match self.changes(&read)? {
            Changes::Query(query) => prepare.push(temporary(CHANGES, &changing(&query))),
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
                prepare.push(temporary(CHANGES, &format!("{} UNION ALL {decided}", changing(&timeline))));
            }
        }
        Ok(Script {
            prepare,
            check: self.late_events(target),
            counts: format!("SELECT {ACTION}, count(*) FROM {CHANGES} GROUP BY {ACTION} ORDER BY {ACTION}"),
            apply: self.applied(target),
        })
    }

    fn confined(&self, target: &Target<'_>) -> String {
        let keys = list(&self.keys);
        let columns: Vec<String> = target.columns.iter().map(|column| format!("t.{}", quoted(column))).collect();
        format!(
            "SELECT {} FROM {} AS t WHERE EXISTS (SELECT 1 FROM (SELECT {keys} FROM {SCOPE} UNION SELECT {keys} FROM {INPUT}) AS s WHERE {})",
            columns.join(", "),
            target.name,
            self.same_key("t", "s"),
        )
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

    fn applied(&self, target: &Target<'_>) -> Vec<Apply> {
        let table = target.name;
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
            apply.push(Apply::change(format!(
                "UPDATE {table} AS t SET {} = c.{END}, {} = false FROM {CHANGES} AS c \
                 WHERE c.{OLD} AND c.{END} IS NOT NULL AND {same_row}",
                quoted(&scd2.valid_to),
                quoted(&scd2.is_current),
            )));
        }
        apply.push(Apply::change(format!(
            "DELETE FROM {table} AS t USING {CHANGES} AS c \
             WHERE c.{OLD} AND c.{END} IS NULL AND NOT c.{NEW} AND {same_row}"
        )));
        apply.push(Apply::change(format!(
            "UPDATE {table} AS t SET {} FROM {CHANGES} AS c \
             WHERE c.{OLD} AND c.{END} IS NULL AND c.{NEW} AND {same_row}",
            set.join(", ")
        )));
        // In the order of the keys, as joins may have left them in any: indexes are quicker to write then.
        let keys: Vec<String> = self.keys.iter().map(|key| format!("new_{}", place(target, key))).collect();
        apply.push(Apply::change(format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {CHANGES} AS c \
             WHERE c.{NEW} AND (NOT c.{OLD} OR c.{END} IS NOT NULL) ORDER BY {}",
            list(target.columns),
            new.join(", "),
            keys.join(", ")
        )));
        if self.deletes == Deletes::Hard && matches!(self.strategy, Strategy::Scd2(_)) {
            apply.push(Apply::history(format!(
                "DELETE FROM {table} AS t USING {CHANGES} AS c WHERE c.{ACTION} = 'deleted' AND {}",
                same(&self.keys)
            )));
        }
        if let Some(expired) = self.when_expired(target) {
            apply.push(Apply::history(format!("DELETE FROM {table} WHERE {expired}")));
        }
        apply
    }

    /// The whole load as one statement, if nothing is in the table and the strategy has no line of events to see to.
    pub fn first(&self, target: &Target<'_>) -> Result<Option<String>> {
        let nothing = format!("(SELECT * FROM {} WHERE false) AS nothing", target.name);
        let Changes::Query(query) = self.changes(&Target { name: &nothing, ..*target })? else { return Ok(None) };
        let new: Vec<String> = (0..target.columns.len()).map(|at| format!("new_{at}")).collect();
        Ok(Some(format!(
            "INSERT INTO {} ({}) SELECT {} FROM ({query}) AS changing",
            target.name,
            list(target.columns),
            new.join(", ")
        )))
    }

    /// The statement that makes an empty `tidemark_input`: types as they are declared, collations as the target's.
    pub fn input_table(&self, target: &Target<'_>) -> String {
        empty(INPUT, self.columns.iter(), target)
    }

    /// The statement that makes an empty `tidemark_scope`, of the keys.
    pub fn scope_table(&self, target: &Target<'_>) -> String {
        empty(SCOPE, self.key_columns(), target)
    }

    /// The keys as they are declared, in their order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Declared> {
        self.keys.iter().filter_map(|key| self.columns.iter().find(|column| column.name == *key))
    }

    /// What append and truncate do with the input; columns of append's own are the same in all rows.
    pub fn added(&self, target: &Target<'_>, batch_id: &str) -> String {
        let given = self.names();
        let own = self.own_columns();
        let into: Vec<String> = given.iter().cloned().chain(own.iter().map(|own| own.name.clone())).collect();
        let value = |own: &Own| match own.sql_type {
            SqlType::Uuid => format!("'{batch_id}'::uuid"),
            _ => target.now.to_string(),
        };
        let values: Vec<String> = given.iter().map(|name| quoted(name)).chain(own.iter().map(value)).collect();
        format!("INSERT INTO {} ({}) SELECT {} FROM {INPUT}", target.name, list(&into), values.join(", "))
    }
}

fn empty<'a>(name: &str, columns: impl Iterator<Item = &'a Declared>, target: &Target<'_>) -> String {
    let cast = |column: &Declared| format!("{name}::{} AS {name}", column.sql_type, name = quoted(&column.name));
    let columns: Vec<String> = columns.map(cast).collect();
    temporary(name, &format!("SELECT {} FROM {} WHERE false", columns.join(", "), target.name))
}

fn place(target: &Target<'_>, name: &str) -> usize {
    target.columns.iter().position(|column| column == name).expect("keys and own columns are the target's")
}
