//! What options are read as, and what is refused; the queries as text. What they give: the suites, on both systems.

use expect_test::{Expect, expect};
use tidemark_common::types::SqlType;

use super::{Declared, Load, Table, row_hash};

fn columns() -> Vec<Declared> {
    [
        ("id", SqlType::BigInt),
        ("email", SqlType::Text),
        ("amount", SqlType::Numeric(None)),
        ("at", SqlType::TimestampTz),
    ]
    .map(|(name, sql_type)| Declared { name: name.into(), sql_type })
    .to_vec()
}

fn parse(options: &[(&str, &str)], primary_key: Option<&[String]>) -> String {
    let options: Vec<(String, String)> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let (columns, unique) = (columns(), []);
    match Load::parse(&options, Table { name: "t", columns: &columns, primary_key, unique: &unique }) {
        Ok(Some((load, notices))) => {
            let own: Vec<String> = load.own_columns().into_iter().map(|own| own.name).collect();
            let key = load.table_key().join(", ");
            format!("{} by ({key}), adds ({})\n{}", load.name(), own.join(", "), notices.concat())
        }
        Ok(None) => "no load".into(),
        Err(error) => format!("{} {error} | {}\n", error.code(), error.hint().unwrap_or_default()),
    }
}

#[test]
fn options_are_read_or_refused() {
    let check = |options: &[(&str, &str)], expected: Expect| {
        expected.assert_eq(&parse(options, Some(&["id".to_string()])));
    };
    check(&[("strategy", "append"), ("loaded_at", "true"), ("batch_id", "batch")], expect![[r#""#]]);
    check(&[("strategy", "SCD1"), ("deletes", "soft")], expect![[r#""#]]);
    check(&[("strategy", "scd2"), ("event_time", "at"), ("valid_from", "begins")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("keys", "email")], expect![[r#""#]]);
    check(&[("deletes", "soft")], expect![[r#""#]]);
    check(&[("strategy", "upsert")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("delete", "soft")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("deletes", "gently")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("update_columns", "emial")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("update_columns", "id")], expect![[r#""#]]);
    check(&[("strategy", "merge"), ("dedupe", "newest")], expect![[r#""#]]);
    check(&[("strategy", "scd2"), ("event_time", "email")], expect![[r#""#]]);
    check(&[("strategy", "scd2"), ("out_of_order", "splice")], expect![[r#""#]]);
    check(&[("strategy", "scd2"), ("valid_from", "at")], expect![[r#""#]]);
    check(&[("strategy", "scd2"), ("valid_from", "x"), ("valid_to", "x")], expect![[r#""#]]);
    check(&[("strategy", "append"), ("keys", "id")], expect![[r#""#]]);
    expect![[r#""#]].assert_eq(&parse(&[("strategy", "merge")], None));
}

#[test]
fn the_hash_is_over_names_and_texts_in_order() {
    expect![[r#""#]].assert_eq(&row_hash(&columns()[1..], "i"));
}
