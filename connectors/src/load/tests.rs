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
    check(
        &[("strategy", "append"), ("loaded_at", "true"), ("batch_id", "batch")],
        expect![[r#"
        append by (), adds (_loaded_at, batch)
    "#]],
    );
    check(
        &[("strategy", "SCD1"), ("deletes", "soft")],
        expect![[r#"
        merge by (id), adds (is_deleted)
    "#]],
    );
    check(
        &[("strategy", "scd2"), ("event_time", "at"), ("valid_from", "begins")],
        expect![[r#"
        scd2 by (id, begins), adds (begins, valid_to, is_current, row_hash)
    "#]],
    );
    check(
        &[("strategy", "merge"), ("keys", "email")],
        expect![[r#"
        merge by (email), adds ()
        table "t" is loaded by (email), not by its key (id)"#]],
    );
    check(
        &[("deletes", "soft")],
        expect![[r#"
        22023 option "strategy" is missing | Say how the table is loaded: strategy = 'append', 'truncate', 'merge' or 'scd2'.
    "#]],
    );
    check(
        &[("strategy", "upsert")],
        expect![[r#"
        22023 there is no strategy "upsert" | A table is loaded by 'append', 'truncate', 'merge' (or 'scd1') or 'scd2'.
    "#]],
    );
    check(
        &[("strategy", "merge"), ("delete", "soft")],
        expect![[r#"
        22023 unrecognized option "delete" | Perhaps you meant "deletes".
    "#]],
    );
    check(
        &[("strategy", "merge"), ("deletes", "gently")],
        expect![[r#"
        22023 option "deletes" must be ignore, soft or hard, not "gently" | 
    "#]],
    );
    check(
        &[("strategy", "merge"), ("update_columns", "emial")],
        expect![[r#"
        42703 option "update_columns" names column "emial", which "t" does not have | Perhaps you meant "email".
    "#]],
    );
    check(
        &[("strategy", "merge"), ("update_columns", "id")],
        expect![[r#"
        22023 update_columns has "id", which is a key | 
    "#]],
    );
    check(
        &[("strategy", "merge"), ("dedupe", "newest")],
        expect![[r#"
        22023 option "dedupe" must be 'latest by column', not "newest" | 
    "#]],
    );
    check(
        &[("strategy", "scd2"), ("event_time", "email")],
        expect![[r#"
        42804 event_time "email" is of type text, not timestamp with time zone | Declare the column TIMESTAMPTZ.
    "#]],
    );
    check(
        &[("strategy", "scd2"), ("out_of_order", "splice")],
        expect![[r#"
        22023 out_of_order = 'splice' needs event_time | 
    "#]],
    );
    check(
        &[("strategy", "scd2"), ("valid_from", "at")],
        expect![[r#"
        42701 column "at" of "t" is one that the strategy adds | Leave it out of the table's columns, or give the strategy's another name in WITH.
    "#]],
    );
    check(
        &[("strategy", "scd2"), ("valid_from", "x"), ("valid_to", "x")],
        expect![[r#"
        42701 two columns of the strategy are called "x" | 
    "#]],
    );
    check(
        &[("strategy", "append"), ("keys", "id")],
        expect![[r#"
        22023 unrecognized option "keys" | Options known here: strategy, loaded_at, batch_id.
    "#]],
    );
    expect![[r#"
        42P16 table "t" has no key to load by | Declare a PRIMARY KEY, or say keys = 'column, ..' in WITH.
    "#]]
    .assert_eq(&parse(&[("strategy", "merge")], None));
}

#[test]
fn the_hash_is_over_names_and_texts_in_order() {
    expect![[r#"sha256(convert_to(coalesce('6:amount=' || octet_length(trim_scale(i."amount")::text) || ':' || trim_scale(i."amount")::text, '') || coalesce('2:at=' || octet_length((i."at" AT TIME ZONE 'UTC')::text) || ':' || (i."at" AT TIME ZONE 'UTC')::text, '') || coalesce('5:email=' || octet_length(i."email") || ':' || i."email", ''), 'UTF8'))"#]].assert_eq(&row_hash(&columns()[1..], "i"));
}
