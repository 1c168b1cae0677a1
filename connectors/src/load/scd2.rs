//! SCD2: every version of the row of each key, with the time from which and up to which it held.
//!
//! Without event time a version holds from the load that brought it:
//!
//! ```text
//!   load at 1: a = x      load at 5: a = y            load at 9: a is not there (deletes = 'soft')
//!   x [1, ..) current     x [1, 5)   y [5, ..)        x [1, 5)   y [5, 9)
//! ```
//!
//! With event time it holds from its event on, and several may come in one load. What is known of a key is a line of events, to
//! which those that come are added; an event that changes nothing makes no version:
//!
//! ```text
//!   known       x@1 ────────── y@5 ─────────────── ends@9
//!   come              x@3             z@7
//!   line        x@1 ── x@3 ─── y@5 ── z@7 ──────── ends@9
//!   versions    x [1, 5)       y [5, 7) z [7, 9)
//! ```
//!
//! z@7 lies before the last that was known of the key: refused, or `out_of_order = 'splice'` puts it in its place, as above.
//! A key that was deleted and comes back with an event from before that is live again from the load on.

use super::{
    ACTION, CANDIDATES, Deletes, END, GONE, KNOWN, Load, NEW, OLD, Strategy, Target, list, new_columns, old_columns,
    quoted, row_hash,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Scd2 {
    pub valid_from: String,
    pub valid_to: String,
    pub is_current: String,
    pub row_hash: String,
    /// Columns whose change makes a new version.
    pub compare: Vec<String>,
    pub event_time: Option<String>,
    pub out_of_order: OutOfOrder,
    /// How long versions that have ended are kept, an interval.
    pub ttl: Option<String>,
}

/// What becomes of an event that lies before what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfOrder {
    Refuse,
    Splice,
}

impl Load {
    fn hash(&self, scd2: &Scd2, of: &str) -> String {
        let compared: Vec<_> = self.columns.iter().filter(|c| scd2.compare.contains(&c.name)).cloned().collect();
        row_hash(&compared, of)
    }

    /// The rows that come, with their hash, and the versions that are current, side by side.
    fn beside_current(&self, scd2: &Scd2, target: &Target<'_>) -> String {
        format!(
            "(SELECT i.*, {hash} AS tidemark_hash, true AS tidemark_given FROM {input} AS i) AS s \
             {join} JOIN (SELECT {of_table}, true AS tidemark_there FROM {table} WHERE {current}) AS t ON {on}",
            hash = self.hash(scd2, "i"),
            input = self.input(),
            join = self.join(),
            of_table = list(target.columns),
            table = target.name,
            current = quoted(&scd2.is_current),
            on = self.same_key("s", "t"),
        )
    }

    fn when_gone(&self) -> &'static str {
        if self.deletes == Deletes::Hard { "'deleted'" } else { "'closed'" }
    }

    /// When a version ends that began at `t.valid_from`: now, and not before it began, if the clock was set back.
    fn end(scd2: &Scd2, target: &Target<'_>) -> String {
        format!("greatest({}, t.{})", target.now, quoted(&scd2.valid_from))
    }

    /// Without event time: the changes that the input makes.
    pub(super) fn scd2_changes(&self, scd2: &Scd2, target: &Target<'_>) -> String {
        let hash = quoted(&scd2.row_hash);
        let began_now = format!("t.{} >= {}", quoted(&scd2.valid_from), target.now);
        let ended = if self.deletes == Deletes::Hard { "s.tidemark_given IS NOT NULL" } else { "true" };
        let end = Self::end(scd2, target);
        let mut columns = vec![
            format!(
                "CASE WHEN t.tidemark_there IS NULL THEN 'inserted' WHEN s.tidemark_given IS NULL THEN {gone} \
                 WHEN s.tidemark_hash = t.{hash} THEN 'unchanged' WHEN {began_now} THEN 'updated' ELSE 'changed' END AS {ACTION}",
                gone = self.when_gone(),
            ),
            format!("t.tidemark_there IS NOT NULL AS {OLD}"),
            // A version that begins in this moment has held for no time: the other one takes its place.
            format!("CASE WHEN {ended} AND (s.tidemark_given IS NULL OR NOT {began_now}) THEN {end} END AS {END}"),
            format!("s.tidemark_given IS NOT NULL AS {NEW}"),
        ];
        columns.extend(old_columns(target));
        columns.extend(new_columns(target, |name| match name {
            name if *name == scd2.valid_from => {
                format!("CASE WHEN t.tidemark_there THEN {end} ELSE {} END", target.now)
            }
            name if *name == scd2.valid_to => "CAST(NULL AS timestamptz)".into(),
            name if *name == scd2.is_current => "true".into(),
            name if *name == scd2.row_hash => "s.tidemark_hash".into(),
            name => format!("s.{}", quoted(name)),
        }));
        format!("SELECT {} FROM {}", columns.join(", "), self.beside_current(scd2, target))
    }

    /// With event time, first: the rows of all keys of which a row is not just what is current, and the versions that are to end
    /// because their key is gone. The columns of a change without a new row, those of the input, and `tidemark_hash`. The action is
    /// closed or deleted, unchanged (the row and all others of its key), or changed.
    pub(super) fn scd2_candidates(&self, scd2: &Scd2, event_time: &str, target: &Target<'_>) -> String {
        let (event, keys) = (quoted(event_time), list(&self.keys));
        let known = format!(
            "s.tidemark_hash = t.{hash} AND (s.{event} >= t.{from} OR s.{event} = t.{event})",
            hash = quoted(&scd2.row_hash),
            from = quoted(&scd2.valid_from),
        );
        let given = |name: &String| match self.keys.contains(name) {
            true => format!("coalesce(s.{name}, t.{name}) AS {name}", name = quoted(name)),
            false => format!("s.{}", quoted(name)),
        };
        let end = match self.deletes {
            Deletes::Hard => "CAST(NULL AS timestamptz)".to_string(),
            _ => Self::end(scd2, target),
        };
        let names: Vec<String> = (0..target.columns.len()).map(|at| format!("old_{at}")).collect();
        format!(
            "SELECT CASE WHEN tidemark_given IS NULL THEN {gone} \
                WHEN bool_and(tidemark_known) OVER (PARTITION BY {keys}) THEN 'unchanged' ELSE 'changed' END AS {ACTION}, \
                true AS {OLD}, {END}, false AS {NEW}, {old_names}, {all}, tidemark_hash \
             FROM (SELECT {columns}, {old}, {end} AS {END}, s.tidemark_hash, s.tidemark_given, \
                coalesce({known}, false) AS tidemark_known FROM {beside}) AS seen",
            gone = self.when_gone(),
            old_names = names.join(", "),
            all = list(&self.names()),
            columns = self.names().iter().map(given).collect::<Vec<_>>().join(", "),
            old = old_columns(target).join(", "),
            beside = self.beside_current(scd2, target),
        )
    }

    /// All versions of the keys of the candidates.
    pub(super) fn scd2_known(&self, target: &Target<'_>) -> String {
        format!(
            "SELECT {} FROM {} AS t WHERE EXISTS (SELECT 1 FROM {CANDIDATES} AS c WHERE {})",
            list(target.columns),
            target.name,
            self.same_key("t", "c")
        )
    }

    /// With event time, then: the changes that the candidates make of what is known.
    pub(super) fn scd2_timeline(&self, scd2: &Scd2, event_time: &str, target: &Target<'_>) -> String {
        let [from, to, hash] = [&scd2.valid_from, &scd2.valid_to, &scd2.row_hash].map(|name| quoted(name));
        let declared = self.names();
        let columns = |of: &str| declared.iter().map(|n| format!("{of}.{}", quoted(n))).collect::<Vec<_>>().join(", ");
        let keys = |of: &str| self.keys.iter().map(|k| format!("{of}.{}", quoted(k))).collect::<Vec<_>>().join(", ");
        let only_key = |name: &String| match self.keys.contains(name) {
            true => format!("t.{}", quoted(name)),
            false => format!("NULL AS {}", quoted(name)),
        };
        let new = new_columns(target, |name| match name {
            name if *name == scd2.valid_from => "w.tidemark_at".into(),
            name if *name == scd2.valid_to => "w.tidemark_until".into(),
            name if *name == scd2.is_current => "w.tidemark_until IS NULL".into(),
            name if *name == scd2.row_hash => "w.tidemark_hash".into(),
            name if !self.is_declared(name) => format!("t.{}", quoted(name)),
            // What is not compared stays as the version has it.
            name => format!("CASE WHEN t.{hash} = w.tidemark_hash THEN t.{c} ELSE w.{c} END", c = quoted(name)),
        });
        format!(
            "WITH ends AS (SELECT {k}, max(coalesce(t.{to}, t.{from})) AS tidemark_last, \
                bool_and(t.{to} IS NOT NULL) AS tidemark_ended FROM {KNOWN} AS t GROUP BY {k}), \
             ranked AS (SELECT c.*, row_number() OVER (PARTITION BY {k_of_c} ORDER BY c.{event} DESC) AS tidemark_rank \
                FROM {CANDIDATES} AS c), \
             come AS (SELECT c.*, l.tidemark_last, l.tidemark_ended AND c.tidemark_rank = 1 AS tidemark_back \
                FROM ranked AS c LEFT JOIN ends AS l ON {l_is_c}), \
             fresh AS (SELECT c.* FROM come AS c WHERE c.tidemark_back OR NOT EXISTS (SELECT 1 FROM {KNOWN} AS t \
                WHERE {t_is_c} AND t.{hash} = c.tidemark_hash AND t.{event} = c.{event})), \
             events AS (SELECT {all_of_c}, c.tidemark_hash, 2 AS tidemark_order, \
                CASE WHEN c.tidemark_back AND c.{event} < c.tidemark_last THEN {now} ELSE c.{event} END AS tidemark_at FROM fresh AS c \
                UNION ALL SELECT {all_of_t}, t.{hash}, 1, t.{from} FROM {KNOWN} AS t \
                UNION ALL SELECT {only_keys}, NULL, 0, t.{to} FROM {KNOWN} AS t WHERE t.{to} IS NOT NULL), \
             ordered AS (SELECT e.*, row_number() OVER (PARTITION BY {k_of_e}, e.tidemark_at ORDER BY e.tidemark_order DESC) \
                AS tidemark_place FROM events AS e), \
             line AS (SELECT o.*, lag(o.tidemark_hash) OVER (PARTITION BY {k_of_o} ORDER BY o.tidemark_at) AS tidemark_before \
                FROM ordered AS o WHERE o.tidemark_place = 1), \
             turns AS (SELECT n.*, lead(n.tidemark_at) OVER (PARTITION BY {k_of_n} ORDER BY n.tidemark_at) AS tidemark_until \
                FROM line AS n WHERE n.tidemark_hash IS DISTINCT FROM n.tidemark_before), \
             wanted AS (SELECT v.*, l.tidemark_last, true AS tidemark_wanted FROM turns AS v LEFT JOIN ends AS l ON {l_is_v} \
                WHERE v.tidemark_hash IS NOT NULL) \
             SELECT CASE WHEN t.{hash} = w.tidemark_hash AND t.{to} IS NOT DISTINCT FROM w.tidemark_until THEN 'unchanged' \
                WHEN {late} THEN 'out of order' WHEN t.tidemark_there IS NULL THEN 'inserted' \
                WHEN t.{hash} = w.tidemark_hash AND t.{to} IS NULL THEN 'closed' ELSE 'updated' END AS {ACTION}, \
                t.tidemark_there IS NOT NULL AS {OLD}, CAST(NULL AS timestamptz) AS {END}, \
                w.tidemark_wanted IS NOT NULL AS {NEW}, {old}, {new} \
             FROM wanted AS w FULL JOIN (SELECT t.*, true AS tidemark_there FROM {KNOWN} AS t) AS t \
                ON {w_is_t} AND w.tidemark_at = t.{from}",
            k = keys("t"),
            k_of_c = keys("c"),
            k_of_e = keys("e"),
            k_of_o = keys("o"),
            k_of_n = keys("n"),
            all_of_c = columns("c"),
            all_of_t = columns("t"),
            only_keys = declared.iter().map(only_key).collect::<Vec<_>>().join(", "),
            event = quoted(event_time),
            now = target.now,
            l_is_c = self.same_key("l", "c"),
            t_is_c = self.same_key("t", "c"),
            l_is_v = self.same_key("l", "v"),
            w_is_t = self.same_key("w", "t"),
            late = late(scd2),
            old = old_columns(target).join(", "),
            new = new.join(", "),
        )
    }

    /// Of keys that are deleted, given as the relation `tidemark_gone`: the versions that had ended; columns of the table.
    pub fn ended_of_gone(&self, target: &Target<'_>) -> Option<String> {
        let Strategy::Scd2(scd2) = &self.strategy else { return None };
        Some(format!(
            "SELECT {} FROM {} AS t WHERE NOT t.{} AND EXISTS (SELECT 1 FROM {GONE} AS g WHERE {})",
            list(target.columns),
            target.name,
            quoted(&scd2.is_current),
            self.same_key("t", "g")
        ))
    }

    /// Versions that have ended and are older than is asked for; columns of the table.
    pub fn expired(&self, target: &Target<'_>) -> Option<String> {
        let expired = self.when_expired(target)?;
        Some(format!("SELECT {} FROM {} WHERE {expired}", list(target.columns), target.name))
    }

    pub(super) fn when_expired(&self, target: &Target<'_>) -> Option<String> {
        let Strategy::Scd2(Scd2 { ttl: Some(ttl), valid_to, .. }) = &self.strategy else { return None };
        Some(format!("{} < {} - INTERVAL '{}'", quoted(valid_to), target.now, ttl.replace('\'', "''")))
    }
}

/// Whether a change of the timeline is anything else than that the last version ends and others follow it.
fn late(scd2: &Scd2) -> String {
    let [from, to, hash] = [&scd2.valid_from, &scd2.valid_to, &scd2.row_hash].map(|name| quoted(name));
    match scd2.out_of_order {
        OutOfOrder::Splice => "false".into(),
        OutOfOrder::Refuse => format!(
            "w.tidemark_wanted IS NULL OR t.{to} IS NOT NULL \
             OR t.{hash} IS DISTINCT FROM w.tidemark_hash AND (t.{from} IS NOT NULL OR w.tidemark_at < w.tidemark_last)"
        ),
    }
}
