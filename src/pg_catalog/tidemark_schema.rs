//! Schema `tidemark`: what runs and how it fares.

use tidemark_catalog::{Object, ObjectKind, Remote, Secret};
use tidemark_common::plan::Emit;
use tidemark_common::values::duration_text;
use tidemark_common::{Oid, Result};

use super::context::SystemContext;
use super::ddl;
use super::facts::SettingFact;
use super::present::present_query;
use super::relation::{Rows, row};

pub fn fill(name: &str, ctx: &SystemContext, rows: &mut Rows) -> Result<bool> {
    match name {
        "objects" => object_rows(ctx, rows),
        "jobs" => job_rows(ctx, rows),
        "sources" => source_rows(ctx, rows),
        "late_rows" => late_rows(ctx, rows),
        "sinks" => sink_rows(ctx, rows),
        "lookups" => lookup_rows(ctx, rows),
        "secrets" => secret_rows(ctx, rows),
        "connections" => connection_rows(ctx, rows),
        "pipelines" => pipeline_rows(ctx, rows),
        "epochs" => {
            for e in ctx.facts.epochs() {
                row!(
                    rows, epoch: e.epoch as i64, committed: e.committed, duration_ms: e.duration_ms,
                    commit_ms: e.commit_ms, rows_in: e.rows_in, rows_out: e.rows_out, bytes: e.bytes,
                );
            }
        }
        "settings" => ctx.facts.settings().into_iter().for_each(|s| setting_row(s, rows)),
        "tables" | "materialized_views" => stored_rows(name, ctx, rows),
        _ => return Ok(false),
    }
    Ok(true)
}

fn emit_text(emit: Emit) -> String {
    match emit {
        Emit::Changes => "changes".into(),
        Emit::ChangesEvery(micros) => format!("changes every {}", duration_text(micros)),
        Emit::OnWindowClose => "on window close".into(),
    }
}

fn names<'a>(ctx: &'a SystemContext, object: &'a Object) -> (&'a str, &'a str) {
    (ctx.schema_name(object.schema), &object.name)
}

fn setting_row(s: SettingFact, rows: &mut Rows) {
    let changeable = match s.context.as_str() {
        "user" => "by SET",
        "internal" => "never",
        _ => "at start",
    };
    row!(
        rows, name: s.name, value: s.value, unit: s.unit, description: s.description, source: s.source,
        changeable: changeable,
    );
}

fn object_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.catalog.objects().filter(|o| o.schema != 0) {
        let (schema, name) = names(ctx, object);
        row!(
            rows, oid: object.oid, schema_name: schema, name: name, kind: object.kind_name(),
            owner: ctx.owner_name(object.owner), temporary: object.temporary, comment: object.comment.clone(),
            depends_on: object.depends_on.iter().map(|o| i64::from(*o)).collect::<Vec<_>>(),
            definition: ddl::show_create(&ctx.catalog, object),
        );
    }
}

fn job_rows(ctx: &SystemContext, rows: &mut Rows) {
    for job in ctx.facts.jobs() {
        let (schema, name) = ctx.catalog.get(job.object).map_or(("", ""), |o| names(ctx, o));
        let progress = match (job.rows_done, job.rows_total) {
            _ if matches!(job.state.as_str(), "running" | "paused") => Some(1.0),
            (Some(done), Some(total)) if total > 0 => Some((done as f64 / total as f64).min(1.0)),
            _ => None,
        };
        row!(
            rows, id: job.id, name: name, schema_name: schema, kind: job.kind, state: job.state,
            rows_done: job.rows_done, rows_total: job.rows_total, progress: progress, started_at: job.started_at,
            error: job.error,
        );
    }
}

/// Facts of a source or sink that is in the catalog: one created or dropped this moment may be in only one of them.
fn fact_of<T: Clone>(facts: &[T], oid: Oid, oid_of: impl Fn(&T) -> Oid) -> Option<T> {
    facts.iter().find(|f| oid_of(f) == oid).cloned()
}

fn source_rows(ctx: &SystemContext, rows: &mut Rows) {
    let facts = ctx.facts.sources();
    for object in ctx.catalog.objects() {
        let ObjectKind::Source(source) = &object.kind else { continue };
        let (schema, name) = names(ctx, object);
        let fact = fact_of(&facts, object.oid, |f| f.oid).unwrap_or_default();
        let state = if fact.state.is_empty() { "starting" } else { &fact.state };
        row!(
            rows, oid: object.oid, schema_name: schema, name: name,
            connector: ddl::option(&source.options, "connector"), state: state, offsets: fact.offsets,
            watermark: fact.watermark, rows: fact.rows, late_rows: fact.late_rows,
            future_rows: fact.future_rows, bad_rows: fact.bad_rows, stale_rows: fact.stale_rows, lag_rows: fact.lag_rows,
            lag_bytes: fact.lag_bytes, lag_seconds: fact.lag_seconds,
            unknown_columns: fact.unknown_columns, error: fact.error,
        );
    }
}

fn late_rows(ctx: &SystemContext, rows: &mut Rows) {
    for fact in ctx.facts.late_rows() {
        let Ok(object) = ctx.catalog.expect(fact.source) else { continue };
        let (schema, name) = names(ctx, object);
        row!(
            rows, schema_name: schema, source: name, read_at: fact.read_at, reason: fact.reason,
            event_time: fact.event_time, late_limit: fact.limit, row: fact.row,
        );
    }
}

fn lookup_rows(ctx: &SystemContext, rows: &mut Rows) {
    for fact in ctx.facts.lookups() {
        let Ok(object) = ctx.catalog.expect(fact.object) else { continue };
        let (schema, name) = names(ctx, object);
        row!(
            rows, schema_name: schema, name: name, remote_table: fact.table, rows_waiting: fact.rows_waiting,
            bytes_waiting: fact.bytes_waiting, keys_waiting: fact.keys_waiting, keys_cached: fact.keys_cached,
            keys_asked: fact.keys_asked, cache_hits: fact.cache_hits, failures: fact.failures,
            next_attempt: fact.next_attempt, error: fact.error,
        );
    }
}

fn sink_rows(ctx: &SystemContext, rows: &mut Rows) {
    let facts = ctx.facts.sinks();
    for object in ctx.catalog.objects() {
        let ObjectKind::Sink(sink) = &object.kind else { continue };
        let (schema, name) = names(ctx, object);
        let fact = fact_of(&facts, object.oid, |f| f.oid).unwrap_or_default();
        let state = if fact.state.is_empty() { "starting" } else { &fact.state };
        row!(
            rows, oid: object.oid, schema_name: schema, name: name,
            connector: ddl::option(&sink.options, "connector"), state: state,
            delivered_epoch: fact.delivered_epoch.map(|e| e as i64), epochs_behind: fact.epochs_behind as i64,
            rows: fact.rows, pending_rows: fact.pending_rows, pending_bytes: fact.pending_bytes, failures: fact.failures,
            next_attempt: fact.next_attempt, error: fact.error,
        );
    }
}

/// What each secret is and who uses it: never its value.
fn secret_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.catalog.objects() {
        let ObjectKind::Secret(secret) = &object.kind else { continue };
        let (source, reference) = match secret {
            Secret::Sealed(_) => ("literal", None),
            Secret::Env(variable) => ("env", Some(variable.as_str())),
            Secret::File(path) => ("file", Some(path.as_str())),
        };
        let users = ctx.catalog.objects().filter(|o| o.depends_on.contains(&object.oid));
        let users: Vec<String> =
            users.map(|o| format!("{} {}", o.kind_name(), ctx.catalog.qualified_name(o))).collect();
        row!(
            rows, oid: object.oid, name: &object.name, source: source, reference: reference, used_by: users,
            comment: object.comment.clone(),
        );
    }
}

fn connection_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.catalog.objects() {
        let ObjectKind::Connection(connection) = &object.kind else { continue };
        let option = |key: &str| ddl::option(&connection.options, key);
        row!(
            rows, oid: object.oid, name: &object.name, type: option("type"), host: option("host"), port: option("port"),
            database: option("database"),
            options: ddl::shown_options(&ctx.catalog, &connection.options, &connection.secrets),
            comment: object.comment.clone(),
        );
    }
}

fn pipeline_rows(ctx: &SystemContext, rows: &mut Rows) {
    let (facts, outboxes) = (ctx.facts.pipelines(), ctx.facts.sinks());
    for object in ctx.catalog.objects() {
        let ObjectKind::Pipeline(pipeline) = &object.kind else { continue };
        let fact = fact_of(&facts, object.oid, |f| f.oid).unwrap_or_default();
        // Of a continuous one: what waits to be loaded.
        let outbox = fact_of(&outboxes, object.oid, |f| f.oid);
        let names = |oids: &[Oid]| {
            let objects = oids.iter().filter_map(|oid| ctx.catalog.get(*oid));
            objects.map(|object| ctx.catalog.qualified_name(object)).collect::<Vec<_>>()
        };
        row!(
            rows, oid: object.oid, name: &object.name, targets: names(&pipeline.targets),
            schedule: ddl::pipeline_trigger(&pipeline.trigger), after: names(&pipeline.after),
            state: if fact.state.is_empty() { "idle" } else { fact.state }, next_run: fact.next, run: fact.run,
            last_run: fact.last_run, last_status: fact.last_status, last_ended: fact.last_ended, error: fact.error,
            epochs_behind: outbox.as_ref().map(|o| o.epochs_behind as i64),
            pending_rows: outbox.as_ref().map(|o| o.pending_rows),
            pending_bytes: outbox.as_ref().map(|o| o.pending_bytes),
            definition: present_query(&ctx.catalog, object), comment: object.comment.clone(),
        );
    }
}

fn stored_rows(table: &str, ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.catalog.objects() {
        let (schema, name) = names(ctx, object);
        let size = ctx.facts.size(object.oid);
        let (count, bytes) = (size.as_ref().map(|s| s.rows), size.as_ref().map(|s| s.bytes));
        let column_rows = size.as_ref().map(|s| s.column_rows);
        match (table, &object.kind) {
            ("tables", ObjectKind::Table(_)) => row!(
                rows, oid: object.oid, schema_name: schema, name: name, rows: count,
                column_rows: column_rows, bytes: bytes, temporary: object.temporary,
                connection: object.remote().and_then(|r| ctx.catalog.get(r.connection)).map(|c| c.name.clone()),
                remote_table: object.remote().map(Remote::name),
            ),
            ("materialized_views", ObjectKind::MaterializedView(view)) => {
                let job = ctx.facts.jobs().into_iter().find(|j| j.object == object.oid);
                row!(
                    rows, oid: object.oid, schema_name: schema, name: name,
                    state: job.map_or_else(|| "starting".into(), |j| j.state), rows: count,
                    column_rows: column_rows, bytes: bytes, emit: emit_text(view.emit),
                    append_only: view.append_only, definition: present_query(&ctx.catalog, object),
                );
            }
            _ => {}
        }
    }
}
