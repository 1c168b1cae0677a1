//! Merge: the row of each key is as it came last. Rows that would stay as they are are not written.
//!
//! ```text
//!   comes   is there                                   soft                  hard
//!   yes     no        inserted
//!   yes     yes       updated, if a column differs     .. or it was deleted
//!   no      yes       stays                            updated: is_deleted   deleted
//! ```

use super::{ACTION, Deletes, END, Load, Merge, NEW, OLD, Target, list, new_columns, old_columns, quoted};

impl Load {
    /// The changes that the input makes.
    pub(super) fn merge_changes(&self, merge: &Merge, target: &Target<'_>) -> String {
        let mut differs: Vec<String> = merge
            .update_columns
            .iter()
            .map(|name| format!("{} IS DISTINCT FROM {}", self.comparable("s.", name), self.comparable("t.", name)))
            .collect();
        differs.extend(merge.is_deleted.iter().map(|flag| format!("t.{}", quoted(flag))));
        if differs.is_empty() {
            differs.push("false".into());
        }
        let gone = match (self.deletes, &merge.is_deleted) {
            (Deletes::Soft, Some(flag)) => {
                format!("CASE WHEN t.{} THEN 'unchanged' ELSE 'deleted' END", quoted(flag))
            }
            _ => "'deleted'".to_string(),
        };
        let mut columns = vec![format!(
            "CASE WHEN t.tidemark_there IS NULL THEN 'inserted' WHEN s.tidemark_given IS NULL THEN {gone} \
             WHEN {} THEN 'updated' ELSE 'unchanged' END AS {ACTION}",
            differs.join(" OR ")
        )];
        let comes = match self.deletes {
            Deletes::Hard => "s.tidemark_given IS NOT NULL",
            Deletes::Soft | Deletes::Ignore => "true",
        };
        columns.push(format!("t.tidemark_there IS NOT NULL AS {OLD}"));
        columns.push(format!("CAST(NULL AS timestamptz) AS {END}"));
        columns.push(format!("{comes} AS {NEW}"));
        columns.extend(old_columns(target));
        columns.extend(new_columns(target, |name| self.merged(merge, name)));
        format!(
            "SELECT {columns} FROM (SELECT i.*, true AS tidemark_given FROM {input} AS i) AS s \
             {join} JOIN (SELECT {of_table}, true AS tidemark_there FROM {table}) AS t ON {on}",
            columns = columns.join(", "),
            input = self.input(),
            join = self.join(),
            of_table = list(target.columns),
            table = target.name,
            on = self.same_key("s", "t"),
        )
    }

    /// What a column of the table is after the load.
    fn merged(&self, merge: &Merge, name: &str) -> String {
        let column = quoted(name);
        if merge.is_deleted.as_deref() == Some(name) {
            return "s.tidemark_given IS NULL".into();
        }
        if !self.is_declared(name) {
            return format!("t.{column}");
        }
        let taken = merge.update_columns.iter().chain(&self.keys).any(|c| c == name);
        match taken {
            true => format!("CASE WHEN s.tidemark_given THEN s.{column} ELSE t.{column} END"),
            false => format!("CASE WHEN t.tidemark_there THEN t.{column} ELSE s.{column} END"),
        }
    }
}
