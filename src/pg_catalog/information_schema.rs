//! `information_schema`: the catalog in the words of the SQL standard.

use tidemark_catalog::{Check, Column, Identity, Key, Object, ObjectKind, Sequence};
use tidemark_common::types::SqlType;
use tidemark_common::{Oid, Result};

use super::context::{SystemContext, keys};
use super::ddl;
use super::pg_core::shown_default;
use super::pg_proc;
use super::relation::{Rows, relations, row};
use super::static_tables::types;

pub fn fill(name: &str, ctx: &SystemContext, rows: &mut Rows) -> Result<bool> {
    let db = &ctx.catalog.database;
    let user = &ctx.catalog.superuser;
    match name {
        "tables" => table_rows(ctx, rows),
        "columns" => column_rows(ctx, rows),
        "schemata" => ctx.catalog.schemas().for_each(|s| {
            row!(rows, catalog_name: db, schema_name: &s.name, schema_owner: ctx.owner_name(s.owner));
        }),
        "views" => view_rows(ctx, rows),
        "table_constraints" | "constraint_table_usage" => table_constraint_rows(name, ctx, rows),
        "key_column_usage" | "constraint_column_usage" => constraint_column_rows(name, ctx, rows),
        "check_constraints" => check_rows(ctx, rows),
        "sequences" => sequence_rows(ctx, rows),
        "routines" | "parameters" => pg_proc::routine_rows(name, ctx, rows),
        "information_schema_catalog_name" => row!(rows, catalog_name: db),
        "enabled_roles" => row!(rows, role_name: user),
        "character_sets" => row!(
            rows, character_set_name: "UTF8", character_repertoire: "UCS", form_of_use: "UTF8",
            default_collate_catalog: db, default_collate_schema: "pg_catalog", default_collate_name: "default",
        ),
        "view_table_usage" => view_usage_rows(ctx, rows),
        "foreign_tables" => foreign_table_rows(ctx, rows),
        "table_privileges" | "role_table_grants" => privilege_rows(ctx, rows),
        "element_types" => element_rows(ctx, rows),
        _ => return Ok(false),
    }
    Ok(true)
}

fn table_rows(ctx: &SystemContext, rows: &mut Rows) {
    let mut add = |schema: &str, name: &str, kind: &str, insertable: bool, temporary: bool| {
        row!(
            rows, table_catalog: &ctx.catalog.database, table_schema: schema, table_name: name, table_type: kind,
            is_insertable_into: yes_no(insertable), is_typed: "NO", commit_action: temporary.then_some("PRESERVE"),
        );
    };
    for r in relations() {
        add(r.schema, r.name, if r.kind == 'r' { "BASE TABLE" } else { "VIEW" }, false, false);
    }
    for object in ctx.user_relations() {
        let (kind, insertable) = match (&object.kind, object.temporary) {
            (ObjectKind::Table(_), false) => ("BASE TABLE", true),
            (ObjectKind::Table(_), true) => ("LOCAL TEMPORARY", true),
            (ObjectKind::View(_), _) => ("VIEW", false),
            // Postgres leaves these out, and tools that read only this schema then do not find them.
            (ObjectKind::MaterializedView(_), _) => ("MATERIALIZED VIEW", false),
            (ObjectKind::Source(_), _) => ("FOREIGN", false),
            _ => continue,
        };
        add(ctx.schema_name(object.schema), &object.name, kind, insertable, object.temporary);
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "YES" } else { "NO" }
}

/// What the standard's type columns say of a type.
pub struct TypeWords {
    pub data_type: String,
    pub udt_name: String,
    pub characters: Option<i64>,
    pub octets: Option<i64>,
    pub numeric: (Option<i64>, Option<i64>, Option<i64>),
    pub datetime_precision: Option<i64>,
}

pub fn type_words(sql_type: &SqlType) -> TypeWords {
    let oid: Oid = sql_type.pg_oid();
    let characters = match sql_type {
        SqlType::Varchar(n) => n.map(i64::from),
        SqlType::Char(n) => Some(i64::from(*n)),
        _ => None,
    };
    let octets = match sql_type {
        SqlType::Text | SqlType::Varchar(None) => Some(1 << 30),
        _ => characters.map(|n| n * 4),
    };
    let numeric = match sql_type {
        SqlType::SmallInt => (Some(16), Some(2), Some(0)),
        SqlType::Integer => (Some(32), Some(2), Some(0)),
        SqlType::BigInt => (Some(64), Some(2), Some(0)),
        SqlType::Real => (Some(24), Some(2), None),
        SqlType::Double => (Some(53), Some(2), None),
        SqlType::Numeric(None) => (None, Some(10), None),
        SqlType::Numeric(Some((p, s))) => (Some(i64::from(*p)), Some(10), Some(i64::from(*s))),
        _ => (None, None, None),
    };
    let datetime_precision = match sql_type {
        SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Interval => Some(6),
        SqlType::Date => Some(0),
        _ => None,
    };
    let data_type = match sql_type {
        SqlType::Array(_) => "ARRAY".to_string(),
        other => super::context::format_type(other.pg_oid(), None),
    };
    let udt_name = types().get(&oid).map_or_else(|| "text".to_string(), |t| t.name.clone());
    TypeWords { data_type, udt_name, characters, octets, numeric, datetime_precision }
}

fn column_rows(ctx: &SystemContext, rows: &mut Rows) {
    for r in relations() {
        for (i, spec) in r.columns.iter().enumerate() {
            let column = spec.column(i);
            column_row(ctx, (r.schema, r.name), &column, false, None, rows);
        }
    }
    for object in ctx.user_relations() {
        if matches!(object.kind, ObjectKind::Sequence(_)) {
            continue;
        }
        let updatable = matches!(object.kind, ObjectKind::Table(_));
        for column in object.columns() {
            let sequence = column.identity.and_then(|_| identity_sequence(ctx, object.oid, column.attnum));
            let table = (ctx.schema_name(object.schema), object.name.as_str());
            column_row(ctx, table, column, updatable, sequence, rows);
        }
    }
}

fn identity_sequence(ctx: &SystemContext, table: Oid, attnum: i16) -> Option<&Sequence> {
    ctx.catalog.objects().find_map(|o| match &o.kind {
        ObjectKind::Sequence(s) if s.owned_by == Some((table, attnum)) => Some(s),
        _ => None,
    })
}

fn column_row(
    ctx: &SystemContext,
    (schema, table): (&str, &str),
    column: &Column,
    updatable: bool,
    sequence: Option<&Sequence>,
    rows: &mut Rows,
) {
    let db = &ctx.catalog.database;
    let words = type_words(&column.sql_type);
    let default = column.default.as_ref().map(|d| shown_default(d, &column.sql_type));
    let generation = column.identity.map(|i| if i == Identity::Always { "ALWAYS" } else { "BY DEFAULT" });
    row!(
        rows, table_catalog: db, table_schema: schema, table_name: table, column_name: &column.name,
        ordinal_position: column.attnum, column_default: default, is_nullable: yes_no(column.nullable),
        data_type: words.data_type, character_maximum_length: words.characters, character_octet_length: words.octets,
        numeric_precision: words.numeric.0, numeric_precision_radix: words.numeric.1, numeric_scale: words.numeric.2,
        datetime_precision: words.datetime_precision, udt_catalog: db, udt_schema: "pg_catalog",
        udt_name: words.udt_name, dtd_identifier: column.attnum.to_string(), is_self_referencing: "NO",
        is_identity: yes_no(column.identity.is_some()), identity_generation: generation,
        identity_start: sequence.map(|s| s.start.to_string()),
        identity_increment: sequence.map(|s| s.increment.to_string()),
        identity_maximum: sequence.map(|s| s.max.to_string()), identity_minimum: sequence.map(|s| s.min.to_string()),
        identity_cycle: yes_no(sequence.is_some_and(|s| s.cycle)), is_generated: "NEVER",
        is_updatable: yes_no(updatable),
    );
}

fn view_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if let ObjectKind::View(_) = &object.kind {
            row!(
                rows, table_catalog: &ctx.catalog.database, table_schema: ctx.schema_name(object.schema),
                table_name: &object.name, view_definition: ddl::definition(&ctx.catalog, object), check_option: "NONE",
                is_updatable: "NO", is_insertable_into: "NO", is_trigger_updatable: "NO", is_trigger_deletable: "NO",
                is_trigger_insertable_into: "NO",
            );
        }
    }
}

/// A constraint with its kind and columns by position.
enum Constraint<'a> {
    Key(&'a Key, bool),
    Check(&'a Check),
}

impl Constraint<'_> {
    fn name(&self) -> &str {
        match self {
            Constraint::Key(key, _) => &key.name,
            Constraint::Check(check) => &check.name,
        }
    }
}

fn constraints(table: &Object) -> Vec<Constraint<'_>> {
    let checks = match &table.kind {
        ObjectKind::Table(table) => table.checks.as_slice(),
        _ => &[],
    };
    keys(table)
        .map(|(key, primary)| Constraint::Key(key, primary))
        .chain(checks.iter().map(Constraint::Check))
        .collect()
}

fn table_constraint_rows(view: &str, ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for table in ctx.user_relations() {
        let schema = ctx.schema_name(table.schema);
        for constraint in constraints(table) {
            let (kind, nulls_distinct) = match constraint {
                Constraint::Key(_, true) => ("PRIMARY KEY", None),
                Constraint::Key(_, false) => ("UNIQUE", Some("YES")),
                Constraint::Check(_) => ("CHECK", None),
            };
            if view == "table_constraints" {
                row!(
                    rows, constraint_catalog: db, constraint_schema: schema, constraint_name: constraint.name(),
                    table_catalog: db, table_schema: schema, table_name: &table.name, constraint_type: kind,
                    is_deferrable: "NO", initially_deferred: "NO", enforced: "YES", nulls_distinct: nulls_distinct,
                );
            } else if kind != "CHECK" {
                row!(
                    rows, table_catalog: db, table_schema: schema, table_name: &table.name, constraint_catalog: db,
                    constraint_schema: schema, constraint_name: constraint.name(),
                );
            }
        }
    }
}

fn constraint_column_rows(view: &str, ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for table in ctx.user_relations() {
        let schema = ctx.schema_name(table.schema);
        for constraint in constraints(table) {
            let columns = match &constraint {
                Constraint::Key(key, _) => key.columns.clone(),
                Constraint::Check(check) => ddl::columns_in(&check.expr, table),
            };
            let columns = columns.iter().filter_map(|c| table.columns().get(*c));
            for (i, column) in columns.enumerate() {
                match (view, &constraint) {
                    ("constraint_column_usage", _) => row!(
                        rows, table_catalog: db, table_schema: schema, table_name: &table.name,
                        column_name: &column.name, constraint_catalog: db, constraint_schema: schema,
                        constraint_name: constraint.name(),
                    ),
                    (_, Constraint::Key(..)) => row!(
                        rows, constraint_catalog: db, constraint_schema: schema, constraint_name: constraint.name(),
                        table_catalog: db, table_schema: schema, table_name: &table.name, column_name: &column.name,
                        ordinal_position: i as i64 + 1,
                    ),
                    _ => {}
                }
            }
        }
    }
}

fn check_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if let ObjectKind::Table(table) = &object.kind {
            for check in &table.checks {
                row!(
                    rows, constraint_catalog: &ctx.catalog.database, constraint_schema: ctx.schema_name(object.schema),
                    constraint_name: &check.name, check_clause: format!("({})", check.expr),
                );
            }
        }
    }
}

fn sequence_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if let ObjectKind::Sequence(s) = &object.kind {
            let words = type_words(&s.sql_type);
            row!(
                rows, sequence_catalog: &ctx.catalog.database, sequence_schema: ctx.schema_name(object.schema),
                sequence_name: &object.name, data_type: words.data_type, numeric_precision: words.numeric.0,
                numeric_precision_radix: 2, numeric_scale: 0, start_value: s.start.to_string(),
                minimum_value: s.min.to_string(), maximum_value: s.max.to_string(), increment: s.increment.to_string(),
                cycle_option: yes_no(s.cycle),
            );
        }
    }
}

fn view_usage_rows(ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for view in ctx.user_relations().filter(|o| matches!(o.kind, ObjectKind::View(_))) {
        for table in view.depends_on.iter().filter_map(|oid| ctx.catalog.get(*oid)).filter(|o| o.schema != 0) {
            row!(
                rows, view_catalog: db, view_schema: ctx.schema_name(view.schema), view_name: &view.name,
                table_catalog: db, table_schema: ctx.schema_name(table.schema), table_name: &table.name,
            );
        }
    }
}

fn foreign_table_rows(ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for object in ctx.user_relations() {
        if let ObjectKind::Source(source) = &object.kind {
            row!(
                rows, foreign_table_catalog: db, foreign_table_schema: ctx.schema_name(object.schema),
                foreign_table_name: &object.name, foreign_server_catalog: db,
                foreign_server_name: ddl::option(&source.options, "connector"),
            );
        }
    }
}

fn privilege_rows(ctx: &SystemContext, rows: &mut Rows) {
    let (db, user) = (&ctx.catalog.database, &ctx.catalog.superuser);
    for object in ctx.user_relations() {
        let privileges: &[&str] = match object.kind {
            ObjectKind::Table(_) => &["INSERT", "SELECT", "UPDATE", "DELETE", "TRUNCATE"],
            ObjectKind::Sequence(_) | ObjectKind::Index(_) => &[],
            _ => &["SELECT"],
        };
        for privilege in privileges {
            row!(
                rows, grantor: user, grantee: user, table_catalog: db, table_schema: ctx.schema_name(object.schema),
                table_name: &object.name, privilege_type: *privilege, is_grantable: "YES",
                with_hierarchy: yes_no(*privilege == "SELECT"),
            );
        }
    }
}

fn element_rows(ctx: &SystemContext, rows: &mut Rows) {
    let db = &ctx.catalog.database;
    for object in ctx.user_relations() {
        for column in object.columns() {
            let SqlType::Array(item) = &column.sql_type else { continue };
            let words = type_words(item);
            row!(
                rows, object_catalog: db, object_schema: ctx.schema_name(object.schema), object_name: &object.name,
                object_type: if matches!(object.kind, ObjectKind::Table(_)) { "TABLE" } else { "VIEW" },
                collection_type_identifier: column.attnum.to_string(), data_type: words.data_type, udt_catalog: db,
                udt_schema: "pg_catalog", udt_name: words.udt_name, dtd_identifier: format!("a{}", column.attnum),
            );
        }
    }
}
