//! The functions themselves: each a name, its arguments, and a few lines over the catalog.

use tidemark_catalog::{self as catalog, ObjectKind, quote_ident};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};

use super::context::{SystemContext, format_type};
use super::functions::{Declared, Eval, Row};
use super::relation::Value;
use super::{ddl, pg_core, pg_proc};

/// The types whose values are OIDs and whose text is a name.
pub const REG_TYPES: [&str; 7] =
    ["regclass", "regtype", "regnamespace", "regproc", "regprocedure", "regrole", "regcollation"];

fn strict(name: &str, arguments: (usize, usize), result: SqlType, eval: Eval) -> Declared {
    Declared { name: name.into(), arguments, result, strict: arguments.0, eval }
}

pub(super) fn declared() -> Vec<Declared> {
    let mut all = definitions();
    all.extend(descriptions());
    all.extend(sizes());
    all.extend(visibility());
    all.extend(privileges());
    all.extend(about_functions());
    all.extend(names());
    all.extend(server());
    all
}

fn definitions() -> Vec<Declared> {
    let text = SqlType::Text;
    vec![
        strict("pg_get_viewdef", (1, 2), text.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            Ok(match ctx.catalog.get(oid) {
                Some(view) if matches!(view.kind, ObjectKind::View(_) | ObjectKind::MaterializedView(_)) => {
                    ddl::definition(&ctx.catalog, view).into()
                }
                _ => Value::Null,
            })
        }),
        strict("pg_get_indexdef", (1, 3), text.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            let created = ctx.catalog.get(oid).and_then(|o| Some((ctx.catalog.get(o.index()?.relation)?, o)));
            let (relation, columns, definition) = match (created, ctx.key(oid)) {
                (Some((relation, object)), _) => {
                    let columns = object.index().map(tidemark_catalog::Index::positions).unwrap_or_default();
                    (relation, columns, ddl::index_text(&ctx.catalog, object))
                }
                (None, Some((table, key, _))) => {
                    (table, key.columns.clone(), ddl::index_definition(&ctx.catalog, table, key))
                }
                (None, None) => return Ok(Value::Null),
            };
            Ok(match row.int(1).unwrap_or(0) {
                0 => definition.into(),
                n => {
                    let column = usize::try_from(n - 1).ok().and_then(|i| columns.get(i));
                    column.and_then(|c| relation.columns().get(*c)).map(|c| quote_ident(&c.name)).into()
                }
            })
        }),
        strict("pg_get_constraintdef", (1, 2), text.clone(), constraint_definition),
        strict("pg_get_expr", (2, 3), text.clone(), |_, row| Ok(row.text(0).into())),
        strict("pg_get_serial_sequence", (2, 2), text.clone(), serial_sequence),
        strict("pg_get_tabledef", (1, 1), text.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            Ok(ctx.catalog.get(oid).map(|o| ddl::show_create(&ctx.catalog, o)).into())
        }),
        strict("pg_get_ruledef", (1, 2), text.clone(), |ctx, row| {
            let object = row.int(0).and_then(|oid| ctx.catalog.get(oid as Oid));
            Ok(object.map(|o| ddl::show_create(&ctx.catalog, o)).into())
        }),
        strict("pg_get_triggerdef", (1, 2), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_partkeydef", (1, 1), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_partition_constraintdef", (1, 1), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_statisticsobjdef", (1, 1), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_statisticsobjdef_columns", (1, 1), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_statisticsobjdef_expressions", (1, 1), SqlType::Array(Box::new(text)), |_, _| Ok(Value::Null)),
    ]
}

fn constraint_definition(ctx: &SystemContext, row: &Row<'_>) -> Result<Value> {
    let Some(oid) = row.int(0).map(|oid| oid as Oid) else { return Ok(Value::Null) };
    if let Some((table, key, primary)) = ctx.key(oid) {
        return Ok(ddl::key_definition(table, key, primary).into());
    }
    let check = ctx.catalog.objects().find_map(|o| match &o.kind {
        ObjectKind::Table(table) => table.checks.iter().find(|c| c.oid == oid),
        _ => None,
    });
    Ok(check.map(ddl::check_definition).into())
}

fn serial_sequence(ctx: &SystemContext, row: &Row<'_>) -> Result<Value> {
    let oid = row.oid(0, ctx, "regclass")?;
    let (Some(table), Some(name)) = (ctx.catalog.get(oid), row.text(1)) else { return Ok(Value::Null) };
    let Some(column) = table.columns().iter().find(|c| c.name == name) else {
        let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.name);
        return Err(Error::new(SqlState::UndefinedColumn, message));
    };
    let owned = (oid, column.attnum);
    let sequence =
        ctx.catalog.objects().find(|o| matches!(&o.kind, ObjectKind::Sequence(s) if s.owned_by == Some(owned)));
    Ok(sequence.map(|s| ctx.catalog.qualified_name(s)).into())
}

fn descriptions() -> Vec<Declared> {
    vec![
        strict("obj_description", (1, 2), SqlType::Text, |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            let object = ctx.catalog.get(oid).filter(|o| match row.text(1) {
                Some("pg_class") => o.schema != 0,
                Some("pg_namespace") => o.schema == 0,
                Some(_) => false,
                None => true,
            });
            Ok(object.and_then(|o| o.comment.clone()).into())
        }),
        strict("col_description", (2, 2), SqlType::Text, |ctx, row| {
            let class = row.oid(0, ctx, "regclass")?;
            Ok(row.int(1).and_then(|n| ctx.column(class, n)).and_then(|c| c.comment.clone()).into())
        }),
        strict("shobj_description", (2, 2), SqlType::Text, |_, _| Ok(Value::Null)),
    ]
}

fn stored_bytes(ctx: &SystemContext, row: &Row<'_>) -> Result<Value> {
    let oid = row.oid(0, ctx, "regclass")?;
    let known = ctx.class(oid).is_some();
    Ok(known.then(|| ctx.facts.size(oid).map_or(0, |s| s.bytes)).into())
}

/// Of its indexes; the primary key is the table's own order on disk and takes nothing more.
fn index_bytes(ctx: &SystemContext, row: &Row<'_>) -> Result<Value> {
    let oid = row.oid(0, ctx, "regclass")?;
    let known = ctx.class(oid).is_some();
    Ok(known.then(|| ctx.facts.size(oid).map_or(0, |s| s.index_bytes)).into())
}

fn total_bytes(ctx: &SystemContext, row: &Row<'_>) -> Result<Value> {
    let oid = row.oid(0, ctx, "regclass")?;
    let known = ctx.class(oid).is_some();
    Ok(known.then(|| ctx.facts.size(oid).map_or(0, |s| s.bytes + s.index_bytes)).into())
}

fn sizes() -> Vec<Declared> {
    let bytes = SqlType::BigInt;
    vec![
        strict("pg_table_size", (1, 1), bytes.clone(), stored_bytes),
        strict("pg_relation_size", (1, 2), bytes.clone(), stored_bytes),
        strict("pg_total_relation_size", (1, 1), bytes.clone(), total_bytes),
        strict("pg_indexes_size", (1, 1), bytes.clone(), index_bytes),
        strict("pg_database_size", (1, 1), bytes.clone(), |ctx, _| Ok((ctx.facts.database_bytes() as i64).into())),
        strict("pg_tablespace_size", (1, 1), bytes.clone(), |ctx, _| Ok((ctx.facts.database_bytes() as i64).into())),
        strict("pg_sequence_last_value", (1, 1), bytes, |ctx, row| {
            Ok(ctx.facts.sequence_last_value(row.oid(0, ctx, "regclass")?).into())
        }),
        strict("pg_relation_filenode", (1, 1), SqlType::Oid, |ctx, row| Ok(row.oid(0, ctx, "regclass")?.into())),
    ]
}

fn visibility() -> Vec<Declared> {
    let builtin = [
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_operator_is_visible",
        "pg_opclass_is_visible",
        "pg_opfamily_is_visible",
        "pg_collation_is_visible",
        "pg_conversion_is_visible",
        "pg_ts_config_is_visible",
        "pg_ts_dict_is_visible",
        "pg_ts_parser_is_visible",
        "pg_ts_template_is_visible",
        "pg_statistics_obj_is_visible",
    ];
    // All of these are in pg_catalog, which is always on the path.
    let mut all: Vec<Declared> =
        builtin.iter().map(|name| strict(name, (1, 1), SqlType::Boolean, |_, _| Ok(true.into()))).collect();
    all.push(strict("pg_table_is_visible", (1, 1), SqlType::Boolean, |ctx, row| {
        Ok(ctx.is_visible(row.oid(0, ctx, "regclass")?).into())
    }));
    all
}

/// There are no roles but the superuser, who may do everything that exists.
fn privileges() -> Vec<Declared> {
    let kinds = [
        "table",
        "schema",
        "database",
        "function",
        "sequence",
        "language",
        "type",
        "tablespace",
        "any_column",
        "server",
        "foreign_data_wrapper",
        "parameter",
    ];
    let mut all: Vec<Declared> = kinds
        .iter()
        .map(|kind| strict(&format!("has_{kind}_privilege"), (2, 3), SqlType::Boolean, |_, _| Ok(true.into())))
        .collect();
    all.push(strict("has_column_privilege", (3, 4), SqlType::Boolean, |_, _| Ok(true.into())));
    all.push(strict("pg_has_role", (2, 3), SqlType::Boolean, |_, _| Ok(true.into())));
    all.push(strict("row_security_active", (1, 1), SqlType::Boolean, |_, _| Ok(false.into())));
    all
}

fn about_functions() -> Vec<Declared> {
    let text = SqlType::Text;
    let arguments: Eval = |ctx, row| Ok(row.int(0).and_then(|oid| pg_proc::arguments(ctx, oid as Oid)).into());
    vec![
        strict("pg_get_function_arguments", (1, 1), text.clone(), arguments),
        strict("pg_get_function_identity_arguments", (1, 1), text.clone(), arguments),
        strict("pg_get_function_result", (1, 1), text.clone(), |ctx, row| {
            Ok(row.int(0).and_then(|oid| pg_proc::result(ctx, oid as Oid)).into())
        }),
        strict("pg_get_functiondef", (1, 1), text.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regproc")?;
            Ok(pg_proc::definition(ctx, oid).into())
        }),
        strict("pg_get_function_arg_default", (2, 2), text.clone(), |_, _| Ok(Value::Null)),
        strict("pg_get_function_sqlbody", (1, 1), text, |_, _| Ok(Value::Null)),
    ]
}

fn names() -> Vec<Declared> {
    let mut all = vec![
        strict("pg_get_userbyid", (1, 1), SqlType::Name, |ctx, row| {
            Ok(row.int(0).map(|oid| ctx.owner_name(oid as Oid)).into())
        }),
        // The modifier may be NULL, the type may not.
        Declared {
            strict: 1,
            ..strict("format_type", (2, 2), SqlType::Text, |_, row| {
                Ok(row.int(0).map(|oid| format_type(oid as Oid, row.int(1))).into())
            })
        },
    ];
    macro_rules! reg {
        ($($name:literal)*) => {$(
            all.push(strict(concat!($name, "_oid"), (1, 1), SqlType::Oid, |ctx, row| Ok(row.oid(0, ctx, $name)?.into())));
            all.push(strict(concat!($name, "_name"), (1, 1), SqlType::Text, |ctx, row| {
                Ok(ctx.reg_name($name, row.oid(0, ctx, $name)?).into())
            }));
            for name in [concat!("to_", $name), concat!("to_", $name, "_name")] {
                all.push(strict(name, (1, 1), SqlType::Text, |ctx, row| {
                    Ok(row.oid(0, ctx, $name).ok().map(|oid| ctx.reg_name($name, oid)).into())
                }));
            }
            all.push(strict(concat!("to_", $name, "_oid"), (1, 1), SqlType::Oid, |ctx, row| {
                Ok(row.oid(0, ctx, $name).ok().into())
            }));
        )*};
    }
    reg!("regclass" "regtype" "regnamespace" "regproc" "regprocedure" "regrole" "regcollation");
    all
}

fn server() -> Vec<Declared> {
    let (boolean, text) = (SqlType::Boolean, SqlType::Text);
    vec![
        strict("pg_encoding_to_char", (1, 1), SqlType::Name, |_, row| {
            Ok(if row.int(0) == Some(6) { "UTF8" } else { "" }.into())
        }),
        strict("pg_char_to_encoding", (1, 1), SqlType::Integer, |_, row| {
            let utf8 =
                row.text(0).is_some_and(|t| matches!(t.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode"));
            Ok(if utf8 { 6_i64 } else { -1 }.into())
        }),
        strict("getdatabaseencoding", (0, 0), SqlType::Name, |_, _| Ok("UTF8".into())),
        strict("pg_tablespace_location", (1, 1), text.clone(), |_, _| Ok("".into())),
        strict("pg_relation_is_publishable", (1, 1), boolean.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            Ok(ctx.catalog.get(oid).is_some_and(|o| matches!(o.kind, ObjectKind::Table(_))).into())
        }),
        strict("pg_relation_is_updatable", (2, 2), SqlType::Integer, |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            // Bits for UPDATE, INSERT and DELETE.
            let bits = match ctx.catalog.get(oid) {
                Some(object) if object.remote().is_some() => 8_i64,
                Some(object) if matches!(object.kind, ObjectKind::Table(_)) => 28,
                _ => 0,
            };
            Ok(bits.into())
        }),
        strict("pg_column_is_updatable", (3, 3), boolean.clone(), |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            let is_table =
                |o: &std::sync::Arc<catalog::Object>| matches!(o.kind, ObjectKind::Table(_)) && o.remote().is_none();
            Ok(ctx.catalog.get(oid).is_some_and(is_table).into())
        }),
        strict("pg_index_column_has_property", (3, 3), boolean.clone(), |_, row| {
            Ok(matches!(row.text(2), Some("asc" | "orderable" | "returnable" | "nulls_last")).into())
        }),
        strict("pg_indexam_has_property", (2, 2), boolean.clone(), |_, row| {
            Ok(matches!(row.text(1), Some("can_order" | "can_unique" | "can_multi_col")).into())
        }),
        strict("pg_index_has_property", (2, 2), boolean.clone(), |_, row| {
            Ok(matches!(row.text(1), Some("index_scan" | "backward_scan")).into())
        }),
        strict("pg_stat_get_numscans", (1, 1), SqlType::BigInt, |_, _| Ok(0_i64.into())),
        // A session holds no advisory lock.
        strict("pg_advisory_unlock_all", (0, 0), text.clone(), |_, _| Ok("".into())),
        strict("catalog_version", (0, 0), SqlType::BigInt, |ctx, _| Ok((ctx.catalog.version as i64).into())),
        strict("pg_is_other_temp_schema", (1, 1), boolean.clone(), |_, _| Ok(false.into())),
        strict("pg_my_temp_schema", (0, 0), SqlType::Oid, |ctx, _| {
            let used = ctx.catalog.objects().any(|o| o.schema == catalog::PG_TEMP);
            Ok(if used { catalog::PG_TEMP } else { 0 }.into())
        }),
        strict("pg_get_replica_identity_index", (1, 1), SqlType::Oid, |ctx, row| {
            let oid = row.oid(0, ctx, "regclass")?;
            let key = ctx.catalog.get(oid).and_then(|o| super::context::keys(o).find(|(_, primary)| *primary));
            Ok(key.map(|(key, _)| key.oid).into())
        }),
        strict("pg_describe_object", (3, 3), text, |ctx, row| {
            let (class, oid) = (row.oid(0, ctx, "regclass")?, row.int(1).unwrap_or(0) as Oid);
            Ok(match ctx.catalog.get(oid) {
                Some(o) if class == pg_core::PG_CLASS || class == pg_core::PG_NAMESPACE => {
                    format!("{} {}", o.kind_name(), quote_ident(&o.name)).into()
                }
                _ => Value::Null,
            })
        }),
    ]
}
