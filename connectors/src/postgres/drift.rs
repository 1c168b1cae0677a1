//! How a table over there differs from what is declared here, and what may be done about it.
//!
//! ```text
//!                                             error     ignore                evolve
//!   column missing there                      refused   refused               ADD COLUMN
//!   type narrower there                       refused   the server casts      ALTER COLUMN .. TYPE
//!   type wider there                          refused   the server casts      stays
//!   another type                              refused   the server casts      refused
//!   column not declared: NULL, or a default   refused   stays                 stays
//!   column not declared: NOT NULL             refused   refused               refused
//!   NOT NULL on one side only                 refused   stays                 stays
//!   no unique constraint on a key             refused   stays                 ADD UNIQUE
//! ```

use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::ddl::{SchemaChange, TargetTable};
use super::filter::identifier;

/// What becomes of a load when the table is not as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrift {
    Error,
    Ignore,
    Evolve,
}

impl OnDrift {
    const NAMES: [(&'static str, OnDrift); 3] =
        [("error", OnDrift::Error), ("ignore", OnDrift::Ignore), ("evolve", OnDrift::Evolve)];

    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, way)| *way).ok_or_else(|| {
            Error::invalid(format!("option \"on_drift\" must be error, ignore or evolve, not \"{text}\""))
        })
    }

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, way)| *way == self).map_or("", |(name, _)| name)
    }
}

/// A table as it is over there.
#[derive(Debug, Clone, Default)]
pub struct Live {
    pub columns: Vec<LiveColumn>,
    /// Columns of each unique constraint or index that holds for all rows.
    pub keys: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct LiveColumn {
    pub name: String,
    /// As `format_type` shows it.
    pub sql_type: String,
    pub not_null: bool,
    /// A default, identity or generation expression fills it.
    pub filled: bool,
}

/// A line of the diff.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    line: String,
    /// What makes it go, and loses nothing.
    fix: Option<String>,
    /// Loads do what they are declared to do in spite of it; PostgreSQL says so if they cannot.
    ignorable: bool,
    /// Nothing has to be done about it where something may.
    harmless: bool,
}

/// What to do so that the table can be loaded, or why it cannot.
pub fn settle_drift(table: &TargetTable, live: &Live, on_drift: OnDrift) -> Result<Vec<SchemaChange>> {
    let differences = differences(table, live);
    let stands_in_the_way = |difference: &Difference| match on_drift {
        OnDrift::Error => true,
        OnDrift::Ignore => !difference.ignorable,
        OnDrift::Evolve => !difference.harmless && difference.fix.is_none(),
    };
    if differences.iter().any(stands_in_the_way) {
        return Err(refused(table, &differences, on_drift));
    }
    let changes = differences.into_iter().filter(|_| on_drift == OnDrift::Evolve);
    let change = |difference: Difference| Some(SchemaChange { change: difference.line, sql: difference.fix? });
    Ok(changes.filter_map(change).collect())
}

fn refused(table: &TargetTable, differences: &[Difference], on_drift: OnDrift) -> Error {
    let lines: Vec<&str> = differences.iter().map(|difference| difference.line.as_str()).collect();
    let hint = match on_drift {
        OnDrift::Error => {
            "on_drift = 'evolve' changes that table where nothing is lost by it, 'ignore' loads it as it is where that can be \
             done. Or DROP TABLE here, which leaves that table alone, and declare it as it is."
        }
        OnDrift::Ignore => "Not all of it can be ignored. on_drift = 'evolve' adds columns and widens types.",
        OnDrift::Evolve => {
            "Not all of it can be changed without losing something: change that table by hand, or DROP TABLE here, which leaves \
             it alone, and declare it as it is."
        }
    };
    Error::new(
        SqlState::ObjectNotInPrerequisiteState,
        format!("table \"{}\" is not declared as {} is in PostgreSQL", table.name, table.qualified()),
    )
    .with_detail(lines.join("\n"))
    .with_hint(hint)
}

fn differences(table: &TargetTable, live: &Live) -> Vec<Difference> {
    let alter = format!("ALTER TABLE {}", table.qualified());
    let mut found = Vec::new();
    for column in &table.columns {
        let name = &column.name;
        let Some(there) = live.columns.iter().find(|there| there.name == *name) else {
            found.push(Difference {
                line: format!("column \"{name}\": missing there"),
                fix: Some(format!("{alter} ADD COLUMN {}", column.definition())),
                ignorable: false,
                harmless: false,
            });
            continue;
        };
        if !same_type(&column.sql_type, &there.sql_type) {
            let live_type = parse_type(&there.sql_type);
            let widens = live_type.as_ref().is_some_and(|live| is_wider(live, &column.sql_type));
            found.push(Difference {
                line: format!("column \"{name}\": {} here, {} there", column.sql_type, there.sql_type),
                fix: widens.then(|| format!("{alter} ALTER COLUMN {} TYPE {}", identifier(name), column.sql_type)),
                ignorable: true,
                harmless: live_type.is_some_and(|live| is_wider(&column.sql_type, &live)),
            });
        }
        if column.nullable == there.not_null {
            let (here, over_there) = if column.nullable { ("NULL", "NOT NULL") } else { ("NOT NULL", "NULL") };
            let line = format!("column \"{name}\": {here} here, {over_there} there");
            found.push(Difference { line, fix: None, ignorable: true, harmless: true });
        }
    }
    for there in live.columns.iter().filter(|there| !table.columns.iter().any(|c| c.name == there.name)) {
        let fits = there.filled || !there.not_null;
        let more = if fits { "" } else { " NOT NULL, without a default" };
        let line = format!("column \"{}\": not declared here, {}{more} there", there.name, there.sql_type);
        found.push(Difference { line, fix: None, ignorable: fits, harmless: fits });
    }
    for key in &table.keys {
        let same = |other: &Vec<String>| other.len() == key.len() && other.iter().all(|column| key.contains(column));
        if !live.keys.iter().any(same) {
            let columns: Vec<String> = key.iter().map(|column| identifier(column)).collect();
            found.push(Difference {
                line: format!("key ({}): no unique constraint there", key.join(", ")),
                fix: Some(format!("{alter} ADD UNIQUE ({})", columns.join(", "))),
                ignorable: true,
                harmless: false,
            });
        }
    }
    found
}

fn same_type(declared: &SqlType, live: &str) -> bool {
    // PostgreSQL does not keep how many dimensions an array was declared with.
    let element = |text: &str| (text.trim_end_matches("[]").to_string(), text.ends_with("[]"));
    element(&declared.to_string()) == element(live)
}

/// Types of which some are wider than others.
fn parse_type(text: &str) -> Option<SqlType> {
    let sized = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    Some(match text {
        "smallint" => SqlType::SmallInt,
        "integer" => SqlType::Integer,
        "bigint" => SqlType::BigInt,
        "real" => SqlType::Real,
        "double precision" => SqlType::Double,
        "numeric" => SqlType::Numeric(None),
        "text" => SqlType::Text,
        "character varying" => SqlType::Varchar(None),
        _ => {
            if let Some(length) = sized("character varying") {
                return Some(SqlType::Varchar(Some(length.parse().ok()?)));
            }
            let (precision, scale) = sized("numeric")?.split_once(',')?;
            SqlType::Numeric(Some((precision.parse().ok()?, scale.parse().ok()?)))
        }
    })
}

/// Every value of `narrow` is one of `wide`, and its text is the same.
fn is_wider(narrow: &SqlType, wide: &SqlType) -> bool {
    use SqlType as T;
    let digits_before = |(precision, scale): (u8, i8)| i32::from(precision) - i32::from(scale);
    let whole = |digits: i32, wide: &SqlType| match wide {
        T::Numeric(None) => true,
        T::Numeric(Some(sizes)) => digits_before(*sizes) >= digits,
        _ => false,
    };
    match (narrow, wide) {
        (T::SmallInt, T::Integer | T::BigInt) | (T::Integer, T::BigInt) | (T::Real, T::Double) => true,
        (T::SmallInt, wide) => whole(5, wide),
        (T::Integer, wide) => whole(10, wide),
        (T::BigInt, wide) => whole(19, wide),
        (T::Numeric(Some(_)), T::Numeric(None)) => true,
        (T::Numeric(Some(narrow)), T::Numeric(Some(wide))) => {
            narrow != wide && digits_before(*wide) >= digits_before(*narrow) && wide.1 >= narrow.1
        }
        (T::Varchar(Some(narrow)), T::Varchar(Some(wide))) => wide > narrow,
        (T::Varchar(Some(_)), T::Varchar(None)) | (T::Varchar(_), T::Text) | (T::Text, T::Varchar(None)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::postgres::ddl::TargetColumn;

    fn table() -> TargetTable {
        let column = |name: &str, sql_type, nullable| TargetColumn { name: name.into(), sql_type, nullable };
        TargetTable {
            name: "dim".into(),
            schema: "dwh".into(),
            table: "dim".into(),
            columns: vec![
                column("id", SqlType::BigInt, false),
                column("email", SqlType::Text, true),
                column("tags", SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Text)))), true),
            ],
            keys: vec![vec!["id".into()]],
            has_primary_key: true,
            indexes: vec![],
        }
    }

    fn live(columns: &[(&str, &str, bool, bool)], keys: &[&str]) -> Live {
        let column = |(name, sql_type, not_null, filled): &(&str, &str, bool, bool)| LiveColumn {
            name: name.to_string(),
            sql_type: sql_type.to_string(),
            not_null: *not_null,
            filled: *filled,
        };
        Live {
            columns: columns.iter().map(column).collect(),
            keys: keys.iter().map(|key| vec![key.to_string()]).collect(),
        }
    }

    fn settled(live: &Live) -> String {
        let way = |on_drift: OnDrift| match settle_drift(&table(), live, on_drift) {
            Ok(changes) if changes.is_empty() => "goes on".to_string(),
            Ok(changes) => changes.into_iter().map(|change| change.sql).collect::<Vec<_>>().join("; "),
            Err(error) => format!("refused\n  {}", error.detail().unwrap_or_default().replace('\n', "\n  ")),
        };
        OnDrift::NAMES.map(|(name, on_drift)| format!("{name}: {}\n", way(on_drift))).concat()
    }

    #[test]
    fn each_difference_has_its_way() {
        let same = [("id", "bigint", true, false), ("email", "text", false, false), ("tags", "text[]", false, false)];
        let check = |live: Live, expected: Expect| expected.assert_eq(&settled(&live));
        check(
            live(&same, &["id"]),
            expect![[r#"
            error: goes on
            ignore: goes on
            evolve: goes on
        "#]],
        );
        check(
            live(&same[..2], &["id"]),
            expect![[r#"
            error: refused
              column "tags": missing there
            ignore: refused
              column "tags": missing there
            evolve: ALTER TABLE "dwh"."dim" ADD COLUMN "tags" text[][]
        "#]],
        );
        let mut other = same;
        other[0].1 = "integer";
        other[1].1 = "character varying(10)";
        check(
            live(&other, &[]),
            expect![[r#"
            error: refused
              column "id": bigint here, integer there
              column "email": text here, character varying(10) there
              key (id): no unique constraint there
            ignore: goes on
            evolve: ALTER TABLE "dwh"."dim" ALTER COLUMN "id" TYPE bigint; ALTER TABLE "dwh"."dim" ALTER COLUMN "email" TYPE text; ALTER TABLE "dwh"."dim" ADD UNIQUE ("id")
        "#]],
        );
        other[0].1 = "numeric";
        other[1].1 = "date";
        other[1].2 = true;
        check(
            live(&other, &["id"]),
            expect![[r#"
            error: refused
              column "id": bigint here, numeric there
              column "email": text here, date there
              column "email": NULL here, NOT NULL there
            ignore: goes on
            evolve: refused
              column "id": bigint here, numeric there
              column "email": text here, date there
              column "email": NULL here, NOT NULL there
        "#]],
        );
        let more = [&same[..], &[("seen", "date", false, false)]].concat();
        check(
            live(&more, &["id"]),
            expect![[r#"
            error: refused
              column "seen": not declared here, date there
            ignore: goes on
            evolve: goes on
        "#]],
        );
        let more = [&same[..], &[("seen", "date", true, false)]].concat();
        check(
            live(&more, &["id"]),
            expect![[r#"
            error: refused
              column "seen": not declared here, date NOT NULL, without a default there
            ignore: refused
              column "seen": not declared here, date NOT NULL, without a default there
            evolve: refused
              column "seen": not declared here, date NOT NULL, without a default there
        "#]],
        );
    }

    #[test]
    fn wider_is_never_narrower() {
        let wider = |narrow: &str, wide: &str| is_wider(&parse_type(narrow).unwrap(), &parse_type(wide).unwrap());
        for (narrow, wide) in [
            ("smallint", "bigint"),
            ("integer", "numeric(10,0)"),
            ("numeric(5,2)", "numeric(6,3)"),
            ("numeric(5,2)", "numeric"),
            ("real", "double precision"),
            ("character varying(3)", "character varying(4)"),
            ("character varying(3)", "text"),
        ] {
            assert!(wider(narrow, wide) && !wider(wide, narrow), "{narrow} {wide}");
        }
        for (a, b) in [("integer", "numeric(9,0)"), ("numeric(5,2)", "numeric(6,4)"), ("bigint", "double precision")] {
            assert!(!wider(a, b) && !wider(b, a), "{a} {b}");
        }
    }
}
