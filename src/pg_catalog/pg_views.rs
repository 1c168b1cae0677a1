//! The views of `pg_catalog`: the same facts as its tables, with names in place of OIDs.

use tidemark_catalog::{self as catalog, ObjectKind};
use tidemark_common::Result;

use super::context::{SystemContext, keys};
use super::ddl;
use super::pg_core::has_indexes;
use super::relation::{Rows, row};

/// Fills the view; `false`: it is not one of these.
pub fn fill(name: &str, ctx: &SystemContext, rows: &mut Rows) -> Result<bool> {
    match name {
        "pg_tables" | "pg_views" | "pg_matviews" | "pg_indexes" | "pg_sequences" => relation_rows(name, ctx, rows),
        "pg_roles" => row!(
            rows, rolname: &ctx.catalog.superuser, rolsuper: true, rolinherit: true, rolcreaterole: true,
            rolcreatedb: true, rolcanlogin: true, rolreplication: true, rolconnlimit: -1, rolpassword: "********",
            rolbypassrls: true, oid: catalog::SUPERUSER,
        ),
        "pg_user" => row!(
            rows, usename: &ctx.catalog.superuser, usesysid: catalog::SUPERUSER, usecreatedb: true, usesuper: true,
            userepl: true, usebypassrls: true, passwd: "********",
        ),
        "pg_shadow" => row!(
            rows, usename: &ctx.catalog.superuser, usesysid: catalog::SUPERUSER, usecreatedb: true, usesuper: true,
            userepl: true, usebypassrls: true,
        ),
        "pg_settings" => setting_rows(ctx, rows),
        "pg_cursors" => {
            for c in ctx.facts.cursors() {
                row!(
                    rows, name: c.name, statement: c.statement, is_holdable: c.holdable, is_binary: c.binary,
                    is_scrollable: c.scrollable, creation_time: c.created,
                );
            }
        }
        "pg_stat_activity" => activity_rows(ctx, rows),
        "pg_stat_database" => row!(
            rows, datid: catalog::DATABASE, datname: &ctx.catalog.database,
            numbackends: ctx.facts.sessions().len() as i64,
        ),
        "pg_stat_user_tables" | "pg_stat_all_tables" => table_statistics(ctx, rows),
        "pg_stat_user_indexes" | "pg_stat_all_indexes" => index_statistics(ctx, rows),
        _ => return Ok(false),
    }
    Ok(true)
}

fn relation_rows(view: &str, ctx: &SystemContext, rows: &mut Rows) {
    if view == "pg_tables" {
        for r in super::relation::relations().filter(|r| r.kind == 'r') {
            row!(
                rows, schemaname: r.schema, tablename: r.name, tableowner: &ctx.catalog.superuser, hasindexes: false,
                hasrules: false, hastriggers: false, rowsecurity: false,
            );
        }
    }
    for object in ctx.user_relations() {
        let (schema, name, owner) = (ctx.schema_name(object.schema), &object.name, ctx.owner_name(object.owner));
        match (view, &object.kind) {
            ("pg_tables", ObjectKind::Table(_)) => row!(
                rows, schemaname: schema, tablename: name, tableowner: owner,
                hasindexes: has_indexes(ctx, object), hasrules: false, hastriggers: false, rowsecurity: false,
            ),
            ("pg_indexes", ObjectKind::Table(_) | ObjectKind::MaterializedView(_)) => {
                for (index, _) in ctx.catalog.indexes_of(object.oid) {
                    row!(
                        rows, schemaname: schema, tablename: name, indexname: &index.name,
                        indexdef: ddl::index_text(&ctx.catalog, index),
                    );
                }
                for (key, _) in keys(object) {
                    row!(
                        rows, schemaname: schema, tablename: name, indexname: &key.name,
                        indexdef: ddl::index_definition(&ctx.catalog, object, key),
                    );
                }
            }
            ("pg_views", ObjectKind::View(_)) => row!(
                rows, schemaname: schema, viewname: name, viewowner: owner, definition: ddl::definition(&ctx.catalog, object),
            ),
            ("pg_matviews", ObjectKind::MaterializedView(_)) => row!(
                rows, schemaname: schema, matviewname: name, matviewowner: owner,
                hasindexes: has_indexes(ctx, object), ispopulated: true,
                definition: ddl::definition(&ctx.catalog, object),
            ),
            ("pg_sequences", ObjectKind::Sequence(s)) => row!(
                rows, schemaname: schema, sequencename: name, sequenceowner: owner, data_type: s.sql_type.pg_oid(),
                start_value: s.start, min_value: s.min, max_value: s.max, increment_by: s.increment, cycle: s.cycle,
                cache_size: 1, last_value: ctx.facts.sequence_last_value(object.oid),
            ),
            _ => {}
        }
    }
}

fn setting_rows(ctx: &SystemContext, rows: &mut Rows) {
    for s in ctx.facts.settings() {
        row!(
            rows, name: s.name, setting: s.value, unit: s.unit, category: "Tidemark", short_desc: s.description,
            context: s.context, vartype: s.kind, source: s.source, boot_val: &s.default, reset_val: &s.default,
            pending_restart: false,
        );
    }
}

fn activity_rows(ctx: &SystemContext, rows: &mut Rows) {
    for s in ctx.facts.sessions() {
        let waits = s.state.starts_with("idle");
        row!(
            rows, datid: catalog::DATABASE, datname: &ctx.catalog.database, pid: s.pid, usesysid: catalog::SUPERUSER,
            usename: s.user, application_name: s.application_name, client_addr: s.client_address,
            client_port: s.client_port, backend_start: s.started, xact_start: s.transaction_started,
            query_start: s.query_started, state_change: s.state_changed, wait_event_type: waits.then_some("Client"),
            wait_event: waits.then_some("ClientRead"), state: s.state, query: s.query, backend_type: "client backend",
        );
    }
}

fn table_statistics(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if !matches!(object.kind, ObjectKind::Table(_) | ObjectKind::MaterializedView(_)) {
            continue;
        }
        let size = ctx.facts.size(object.oid).unwrap_or_default();
        row!(
            rows, relid: object.oid, schemaname: ctx.schema_name(object.schema), relname: &object.name, seq_scan: 0,
            seq_tup_read: 0, idx_scan: 0, idx_tup_fetch: 0, n_tup_ins: size.rows_inserted, n_tup_upd: size.rows_updated,
            n_tup_del: size.rows_deleted, n_tup_hot_upd: 0, n_live_tup: size.rows, n_dead_tup: 0,
            n_mod_since_analyze: 0, n_ins_since_vacuum: 0, vacuum_count: 0, autovacuum_count: 0, analyze_count: 0,
            autoanalyze_count: 0,
        );
    }
}

fn index_statistics(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        let of_constraints = keys(object).map(|(key, _)| (key.oid, &key.name));
        let created = ctx.catalog.indexes_of(object.oid).map(|(index, _)| (index.oid, &index.name));
        for (oid, name) in of_constraints.chain(created) {
            row!(
                rows, relid: object.oid, indexrelid: oid, schemaname: ctx.schema_name(object.schema),
                relname: &object.name, indexrelname: name, idx_scan: 0, idx_tup_read: 0, idx_tup_fetch: 0,
            );
        }
    }
}
