//! Load strategies: what becomes of a table when rows come. SQL that is the same for a table kept here and one in Postgres.
//!
//! ```text
//!   WITH (strategy = 'scd2', ..) ──Load::parse──▶ Load
//!
//!   the rows that come: tidemark_input ─┐
//!   the table as it is ─────────────────┴──a query of merge.rs or scd2.rs──▶ tidemark_changes, one row a change
//!                                                                              │
//!              action            how it is counted                             │
//!              old, old_0, ..    whether a row goes, and the row               │
//!              end               the row that goes comes again, ended then     │
//!              new, new_0, ..    whether a row comes, and the row  ◀───────────┘ applied in one transaction
//! ```
//!
//! Architecture invariant: a strategy decides nothing outside its SQL, so that two systems cannot decide differently. Whoever
//! applies the changes takes rows out and puts rows in.

mod counts;
mod encoding;
mod formats;
mod merge;
mod normalize;
mod options;
mod scd2;
mod script;
#[cfg(test)]
mod tests;

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

pub use self::counts::{Counts, LoadRun};
pub use self::encoding::row_hash;
pub use self::normalize::{Normalization, failures, normalized};
pub use self::options::{Table, latest_by};
pub use self::scd2::{OutOfOrder, Scd2};
pub use self::script::{Apply, CHANGES, Script};

/// The relations that the queries read besides the table.
pub const INPUT: &str = "tidemark_input";
/// Rows of the table, where they are all that a load is about, and the keys that tell which those are.
pub const TABLE: &str = "tidemark_table";
pub const SCOPE: &str = "tidemark_scope";
pub const CANDIDATES: &str = "tidemark_candidates";
pub const KNOWN: &str = "tidemark_known";
pub const GONE: &str = "tidemark_gone";

/// The columns of a change, behind which come `old_0`, `old_1`, .. and `new_0`, `new_1`, .., by position in the table.
pub const ACTION: &str = "tidemark_action";
pub const OLD: &str = "tidemark_old";
pub const END: &str = "tidemark_end";
pub const NEW: &str = "tidemark_new";

/// How rows are loaded into a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub strategy: Strategy,
    /// Columns that loads give, in the order of the table.
    pub columns: Vec<Declared>,
    /// What tells rows (or, of scd2, things with a history) apart.
    pub keys: Vec<String>,
    pub deletes: Deletes,
    /// Of rows with one key, the one with the greatest value in this column; else they are an error.
    pub latest_by: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub name: String,
    pub sql_type: SqlType,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// Rows are added. Columns filled by the load: its time, its id.
    Append { loaded_at: Option<String>, batch_id: Option<String> },
    /// The rows are the table's contents from then on.
    Truncate,
    /// The row of each key is as it came last.
    Merge(Merge),
    /// Every version of the row of each key, with when it held.
    Scd2(Scd2),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// Those that a row that is there takes over.
    pub update_columns: Vec<String>,
    /// The flag of soft deletes.
    pub is_deleted: Option<String>,
}

/// What becomes of keys that are in the table and not in the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    Ignore,
    Soft,
    Hard,
}

/// What a change is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A row of a new key.
    Inserted,
    /// The row of the key takes other values.
    Updated,
    /// The version of the key ends, and another one begins.
    Changed,
    /// The version of the key ends, and none follows.
    Closed,
    Deleted,
    Unchanged,
    /// An event that lies before what is known already, where that is refused.
    OutOfOrder,
}

/// A column that the strategy adds to the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Own {
    pub name: String,
    pub sql_type: SqlType,
    pub nullable: bool,
}

/// The table as the queries name it.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// Quoted where that is needed, with its schema.
    pub name: &'a str,
    /// All columns, in the table's order; behind them what else tells its rows apart, if that is needed to take one out.
    pub columns: &'a [String],
    /// The time of the load, as a literal.
    pub now: &'a str,
}

impl Action {
    const ALL: [(Action, &'static str); 7] = [
        (Action::Inserted, "inserted"),
        (Action::Updated, "updated"),
        (Action::Changed, "changed"),
        (Action::Closed, "closed"),
        (Action::Deleted, "deleted"),
        (Action::Unchanged, "unchanged"),
        (Action::OutOfOrder, "out of order"),
    ];

    /// As the queries spell it.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(action, _)| *action).ok_or_else(|| Error::internal(format!("a load has no action \"{text}\"")))
    }
}

impl Load {
    /// The columns that it adds behind the declared ones.
    pub fn own_columns(&self) -> Vec<Own> {
        let own = |name: &str, sql_type, nullable| Own { name: name.to_string(), sql_type, nullable };
        match &self.strategy {
            Strategy::Append { loaded_at, batch_id } => {
                let loaded_at = loaded_at.iter().map(|name| own(name, SqlType::TimestampTz, false));
                loaded_at.chain(batch_id.iter().map(|name| own(name, SqlType::Uuid, false))).collect()
            }
            Strategy::Truncate => Vec::new(),
            Strategy::Merge(merge) => merge.is_deleted.iter().map(|name| own(name, SqlType::Boolean, false)).collect(),
            Strategy::Scd2(scd2) => vec![
                own(&scd2.valid_from, SqlType::TimestampTz, false),
                own(&scd2.valid_to, SqlType::TimestampTz, true),
                own(&scd2.is_current, SqlType::Boolean, false),
                own(&scd2.row_hash, SqlType::Bytea, false),
            ],
        }
    }

    /// The name of the strategy.
    pub fn name(&self) -> &'static str {
        match self.strategy {
            Strategy::Append { .. } => "append",
            Strategy::Truncate => "truncate",
            Strategy::Merge(_) => "merge",
            Strategy::Scd2(_) => "scd2",
        }
    }

    /// The columns that no two rows of the table agree in.
    pub fn table_key(&self) -> Vec<String> {
        match &self.strategy {
            Strategy::Scd2(scd2) => self.keys.iter().chain([&scd2.valid_from]).cloned().collect(),
            _ => self.keys.clone(),
        }
    }

    /// Whether a load compares the rows that come with those that are there.
    pub fn compares(&self) -> bool {
        matches!(self.strategy, Strategy::Merge(_) | Strategy::Scd2(_))
    }

    /// The columns in which no two rows of one load may agree.
    fn identity(&self) -> Vec<String> {
        match &self.strategy {
            Strategy::Scd2(Scd2 { event_time: Some(event_time), .. }) => {
                self.keys.iter().chain([event_time]).cloned().collect()
            }
            _ => self.keys.clone(),
        }
    }

    /// A query that is true where the input has neither of [`Load::null_keys`] and [`Load::duplicates`], and is sooner done: what
    /// has one column, and sorts fast, is sorted rather than grouped.
    pub fn sound_keys(&self) -> Option<String> {
        let [key] = self.identity().try_into().ok()?;
        let sql_type = &self.columns.iter().find(|column| column.name == key)?.sql_type;
        if !matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Uuid | SqlType::Date) {
            return None;
        }
        let key = quoted(&key);
        let once =
            if self.latest_by.is_none() { format!(" AND count({key}) = count(DISTINCT {key})") } else { String::new() };
        Some(format!("SELECT count(*) = count({key}){once} FROM {INPUT}"))
    }

    /// A query for what the input must not have: some rows with a NULL where none may be. Columns: those in question.
    pub fn null_keys(&self) -> String {
        let identity = self.identity();
        let null: Vec<String> = identity.iter().map(|key| format!("{} IS NULL", quoted(key))).collect();
        format!("SELECT {} FROM {INPUT} WHERE {} LIMIT 1", list(&identity), null.join(" OR "))
    }

    /// A query for keys that the input has more than once, some of them, and how often.
    pub fn duplicates(&self) -> Option<String> {
        let by = list(&self.identity());
        let query = format!(
            "SELECT {by}, count(*) AS tidemark_copies FROM {INPUT} GROUP BY {by} HAVING count(*) > 1 ORDER BY {by} LIMIT 3"
        );
        self.latest_by.is_none().then_some(query)
    }

    /// The error for what [`Load::null_keys`] gave.
    pub fn null_key_error(&self, table: &str) -> Error {
        let message = format!("a row to load into \"{table}\" has NULL in {}", self.identity().join(", "));
        Error::new(SqlState::NotNullViolation, message)
            .with_hint("Filter such rows out: nothing tells which row of the table they are about.")
    }

    /// The error for what [`Load::duplicates`] gave: values and how often, a row each.
    pub fn duplicate_error(&self, table: &str, rows: &[(String, String)]) -> Error {
        let shown: Vec<String> = rows.iter().map(|(key, copies)| format!("({key}) {copies} times")).collect();
        let columns = self.identity().join(", ");
        Error::new(
            SqlState::CardinalityViolation,
            format!("the rows to load into \"{table}\" have the same ({columns}) more than once"),
        )
        .with_detail(format!("For example {}.", shown.join(", ")))
        .with_hint("Make them one in the query, or set dedupe = 'latest by column' in the table's WITH.")
    }

    /// The error for an event that comes too late: its key, and when the version would begin or end that it would change.
    pub fn late_event_error(&self, keys: &[String], event: &str) -> Error {
        Error::new(SqlState::DataException, "an event lies before what is known of its key already")
            .with_detail(format!("Key ({})=({}), around {event}.", self.keys.join(", "), keys.join(", ")))
            .with_hint("Load events in order, or put them in their place in history: out_of_order = 'splice'.")
    }

    /// The input, of rows with one identity only the one to be taken.
    fn input(&self) -> String {
        let Some(latest_by) = &self.latest_by else { return INPUT.to_string() };
        let rest = self.columns.iter().map(|c| format!("{} DESC NULLS LAST", self.comparable("", &c.name)));
        let order: Vec<String> = [format!("{} DESC NULLS LAST", quoted(latest_by))].into_iter().chain(rest).collect();
        format!(
            "(SELECT {columns} FROM (SELECT {columns}, row_number() OVER (PARTITION BY {by} ORDER BY {order}) AS tidemark_rank \
             FROM {INPUT}) AS ranked WHERE tidemark_rank = 1)",
            columns = list(&self.names()),
            by = list(&self.identity()),
            order = order.join(", "),
        )
    }

    fn names(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    fn is_declared(&self, name: &str) -> bool {
        self.columns.iter().any(|c| c.name == name)
    }

    /// A column of `of`, which ends in a dot, as something that can be compared: a json has no order, nor equality, but its text.
    fn comparable(&self, of: &str, name: &str) -> String {
        let is_json = self.columns.iter().any(|c| c.name == name && c.sql_type == SqlType::Json);
        format!("{of}{}{}", quoted(name), if is_json { "::text" } else { "" })
    }

    /// `a.k = b.k AND ..` for every key.
    fn same_key(&self, a: &str, b: &str) -> String {
        let same = |key: &String| format!("{a}.{key} = {b}.{key}", key = quoted(key));
        self.keys.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }

    /// LEFT, or FULL where rows that did not come matter.
    fn join(&self) -> &'static str {
        if self.deletes == Deletes::Ignore { "LEFT" } else { "FULL" }
    }
}

/// `old_0`, .. as the columns of the table alias `t`.
fn old_columns(target: &Target<'_>) -> Vec<String> {
    target.columns.iter().enumerate().map(|(at, name)| format!("t.{} AS old_{at}", quoted(name))).collect()
}

fn new_columns(target: &Target<'_>, value: impl Fn(&String) -> String) -> Vec<String> {
    target.columns.iter().enumerate().map(|(at, name)| format!("{} AS new_{at}", value(name))).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

impl Load {
    /// What to ask, one after the other, for the changes that the input makes.
    pub fn changes(&self, target: &Target<'_>) -> Result<Changes> {
        match &self.strategy {
            Strategy::Merge(merge) => Ok(Changes::Query(self.merge_changes(merge, target))),
            Strategy::Scd2(scd2) => Ok(match &scd2.event_time {
                None => Changes::Query(self.scd2_changes(scd2, target)),
                Some(event_time) => Changes::Timeline {
                    candidates: self.scd2_candidates(scd2, event_time, target),
                    known: self.scd2_known(target),
                    timeline: self.scd2_timeline(scd2, event_time, target),
                },
            }),
            Strategy::Append { .. } | Strategy::Truncate => {
                Err(Error::internal(format!("{} compares nothing", self.name())))
            }
        }
    }
}

/// How the changes are asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    Query(String),
    /// Candidates that are `changed` are given to the others as [`CANDIDATES`], without the columns of changes; what `known` gives as
    /// [`KNOWN`]. The other candidates and the timeline are the changes.
    Timeline {
        candidates: String,
        known: String,
        timeline: String,
    },
}
