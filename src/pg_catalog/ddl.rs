//! Objects back to the SQL that makes them: `SHOW CREATE`, `pg_get_viewdef` and their kin.
//!
//! The text runs again in an empty database, whatever `search_path` is then: names are qualified where that matters.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, visit_expressions, visit_relations, visit_relations_mut};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemark_catalog::{
    Catalog, Check, Column, Format, Identity, Key, MaterializedView, Object, ObjectKind, Pipeline, Secret, Sequence,
    Sink, Source, Table, Trigger, Ttl, View, quote_ident, quote_literal,
};
use tidemark_common::Oid;
use tidemark_common::plan::Emit;
use tidemark_common::types::SqlType;
use tidemark_common::values::duration_text;
use tidemark_sql::ast::fold;

use super::context::keys;
use super::output_names::output_names;
use super::present::{named_query, present_query};

/// The statements that make `object` and its comments, each ending in `;`.
pub fn show_create(catalog: &Catalog, object: &Object) -> String {
    let name = catalog.qualified_name(object);
    let mut text = match &object.kind {
        ObjectKind::Schema => format!("CREATE SCHEMA {name}"),
        ObjectKind::Table(table) => create_table(catalog, object, &name, table),
        ObjectKind::View(view) => create_view(catalog, object, &name, view),
        ObjectKind::MaterializedView(view) => create_materialized_view(catalog, object, &name, view),
        ObjectKind::Source(source) => create_source(catalog, &name, source),
        ObjectKind::Sink(sink) => create_sink(catalog, object, &name, sink),
        ObjectKind::Sequence(sequence) => create_sequence(catalog, &name, sequence),
        ObjectKind::Index(_) => index_text(catalog, object),
        ObjectKind::Secret(secret) => create_secret(&name, secret),
        ObjectKind::Pipeline(pipeline) => create_pipeline(catalog, object, &name, pipeline),
        ObjectKind::Connection(connection) => {
            format!("CREATE CONNECTION {name} {}", with_secrets(catalog, &connection.options, &connection.secrets))
        }
    };
    text.push(';');
    comments(object, &name, &mut text);
    text
}

fn comments(object: &Object, name: &str, text: &mut String) {
    if let Some(comment) = &object.comment {
        let kind = object.kind_name().to_uppercase();
        text.push_str(&format!("\nCOMMENT ON {kind} {name} IS {};", quote_literal(comment)));
    }
    for column in object.columns() {
        if let Some(comment) = &column.comment {
            let column = quote_ident(&column.name);
            text.push_str(&format!("\nCOMMENT ON COLUMN {name}.{column} IS {};", quote_literal(comment)));
        }
    }
}

fn create_table(catalog: &Catalog, object: &Object, name: &str, table: &Table) -> String {
    let own = |column: &&Column| table.load.as_ref().is_some_and(|load| load.own.contains(&column.name));
    let declared = table.columns.iter().filter(|column| !own(column));
    let mut lines: Vec<String> = declared.map(|c| table_column(catalog, object, c)).collect();
    for (key, primary) in keys(object) {
        let key = match (&table.load, primary) {
            (Some(load), true) => match &load.declared_key {
                Some(declared) => declared,
                None => continue,
            },
            _ => key,
        };
        lines.push(format!("CONSTRAINT {} {}", quote_ident(&key.name), key_definition(object, key, primary)));
    }
    for check in &table.checks {
        lines.push(format!("CONSTRAINT {} {}", quote_ident(&check.name), check_definition(check)));
    }
    // A temporary table's schema is the session's own.
    let (temporary, name) =
        if object.temporary { ("TEMPORARY ", quote_ident(&object.name)) } else { ("", name.to_string()) };
    let mut options: Vec<(String, String)> = table.load.iter().flat_map(|load| load.options.clone()).collect();
    if let Some(remote) = &table.remote {
        let connection = catalog.get(remote.connection).map(|o| o.name.clone()).unwrap_or_default();
        options.extend([("connection".into(), connection), ("table".into(), remote.name())]);
        options.extend(remote.on_drift.iter().map(|way| ("on_drift".into(), way.clone())));
    }
    options.extend(ttl_options(table.ttl, &table.columns));
    let options = if options.is_empty() { String::new() } else { format!(" {}", with(&options)) };
    format!("CREATE {temporary}TABLE {name} (\n    {}\n){options}", lines.join(",\n    "))
}

fn ttl_options(ttl: Option<Ttl>, columns: &[Column]) -> Vec<(String, String)> {
    let Some(ttl) = ttl else { return Vec::new() };
    let column = ttl.position(columns).map(|at| &columns[at]);
    let duration = ("ttl".to_string(), duration_text(ttl.micros));
    [duration].into_iter().chain(column.map(|column| ("ttl_column".to_string(), column.name.clone()))).collect()
}

fn table_column(catalog: &Catalog, table: &Object, column: &Column) -> String {
    let sequence = catalog.objects().find_map(|o| match &o.kind {
        ObjectKind::Sequence(s) if s.owned_by == Some((table.oid, column.attnum)) => Some(s),
        _ => None,
    });
    let name = quote_ident(&column.name);
    if let (Some(_), None, Some(default)) = (sequence, column.identity, &column.default)
        && default.to_ascii_lowercase().starts_with("nextval(")
        && let Some(serial) = serial_type(&column.sql_type)
    {
        return format!("{name} {serial}");
    }
    let mut text = format!("{name} {}", column.sql_type);
    if let Some(normalize) = &column.normalize {
        text.push_str(&format!(" {normalize}"));
    }
    if !column.nullable {
        text.push_str(" NOT NULL");
    }
    if let Some(default) = &column.default {
        text.push_str(&format!(" DEFAULT {default}"));
    }
    if let Some(identity) = column.identity {
        let when = if identity == Identity::Always { "ALWAYS" } else { "BY DEFAULT" };
        text.push_str(&format!(" GENERATED {when} AS IDENTITY"));
        let unusual = sequence.filter(|s| (s.start, s.increment) != (1, 1));
        if let Some(s) = unusual {
            text.push_str(&format!(" (START WITH {} INCREMENT BY {})", s.start, s.increment));
        }
    }
    text
}

fn serial_type(sql_type: &SqlType) -> Option<&'static str> {
    match sql_type {
        SqlType::SmallInt => Some("smallserial"),
        SqlType::Integer => Some("serial"),
        SqlType::BigInt => Some("bigserial"),
        _ => None,
    }
}

fn create_view(catalog: &Catalog, object: &Object, name: &str, view: &View) -> String {
    let query = portable(catalog, object);
    format!("CREATE VIEW {name}{} AS\n{query}", column_list(&query, &view.columns))
}

fn create_materialized_view(catalog: &Catalog, object: &Object, name: &str, view: &MaterializedView) -> String {
    let query = portable(catalog, object);
    let columns = column_list(&query, &view.columns);
    let options = if view.options.is_empty() { String::new() } else { format!(" {}", with(&view.options)) };
    format!("CREATE MATERIALIZED VIEW {name}{columns}{options} AS\n{query}{}", emit(view.emit))
}

fn emit(emit: Emit) -> String {
    match emit {
        Emit::Changes => String::new(),
        Emit::ChangesEvery(micros) => format!("\nEMIT CHANGES EVERY INTERVAL '{}'", duration_text(micros)),
        Emit::OnWindowClose => "\nEMIT ON WINDOW CLOSE".into(),
    }
}

fn create_source(catalog: &Catalog, name: &str, source: &Source) -> String {
    let mut lines: Vec<String> = source
        .columns
        .iter()
        .take(source.declared)
        .enumerate()
        .map(|(at, c)| {
            let not_null = if c.nullable { "" } else { " NOT NULL" };
            let path = source.paths.iter().find(|(of, _)| *of == at);
            let from = path.map(|(_, path)| format!(" FROM {}", quote_literal(path))).unwrap_or_default();
            format!("{} {}{not_null}{from}", quote_ident(&c.name), c.sql_type)
        })
        .collect();
    if let Some(watermark) = &source.watermark
        && let Some(column) = source.columns.get(watermark.column)
    {
        lines.push(format!("WATERMARK FOR {} AS {}", quote_ident(&column.name), watermark.expr));
    }
    if !source.key.is_empty() {
        let names = source.key.iter().filter_map(|at| source.columns.get(*at)).map(|c| quote_ident(&c.name));
        lines.push(format!("PRIMARY KEY ({})", names.collect::<Vec<_>>().join(", ")));
    }
    let kind = if source.shared.is_some() { "TABLE" } else { "SOURCE" };
    let mut text = format!("CREATE {kind} {name}");
    if !lines.is_empty() {
        text.push_str(&format!(" (\n    {}\n)", lines.join(",\n    ")));
    }
    if let Some(shared) = &source.shared {
        let of = catalog.get(shared.source).map(|of| catalog.qualified_name(of)).unwrap_or_default();
        text.push_str(&format!("\nFROM {of} TABLE {}", quote_literal(&shared.table)));
        return text;
    }
    if !source.include.is_empty() {
        let include: Vec<String> =
            source.include.iter().map(|(what, column)| format!("{what} AS {}", quote_ident(column))).collect();
        text.push_str(&format!("\nINCLUDE {}", include.join(", ")));
    }
    let beside =
        connection_option(catalog, source.connection).into_iter().chain(ttl_options(source.ttl, &source.columns));
    let options: Vec<_> = source.options.iter().cloned().chain(beside).collect();
    text.push_str(&format!("\n{}", with_secrets(catalog, &options, &source.secrets)));
    text.push_str(&format_clause(source.format.as_ref()));
    text
}

fn create_sink(catalog: &Catalog, object: &Object, name: &str, sink: &Sink) -> String {
    let query = portable(catalog, object);
    let from = query.strip_prefix("SELECT * FROM ").filter(|rest| !rest.contains(char::is_whitespace));
    let body = match from {
        Some(relation) if sink.emit == Emit::Changes => format!("\nFROM {relation}"),
        _ => format!(" AS\n{query}{}", emit(sink.emit)),
    };
    let options: Vec<_> = sink.options.iter().cloned().chain(connection_option(catalog, sink.connection)).collect();
    format!(
        "CREATE SINK {name}{body}\n{}{}",
        with_secrets(catalog, &options, &sink.secrets),
        format_clause(sink.format.as_ref())
    )
}

/// How an object names the connection by which it works.
fn connection_option(catalog: &Catalog, connection: Option<Oid>) -> Option<(String, String)> {
    let connection = catalog.get(connection?)?;
    Some(("connection".into(), connection.name.clone()))
}

fn create_pipeline(catalog: &Catalog, object: &Object, name: &str, pipeline: &Pipeline) -> String {
    let names = |oids: &[Oid]| {
        let objects = oids.iter().filter_map(|oid| catalog.get(*oid));
        objects.map(|object| catalog.qualified_name(object)).collect::<Vec<_>>().join(", ")
    };
    let mut text =
        format!("CREATE PIPELINE {name} INTO {}\n{}", names(&pipeline.targets), pipeline_trigger(&pipeline.trigger));
    if !pipeline.after.is_empty() {
        text.push_str(&format!("\nAFTER {}", names(&pipeline.after)));
    }
    for (words, steps) in [("ON SUCCESS", &pipeline.on_success), ("ON FAILURE", &pipeline.on_failure)] {
        steps.iter().for_each(|step| text.push_str(&format!("\n{words} {}", quote_literal(step))));
    }
    if !(pipeline.options.is_empty() && pipeline.secrets.is_empty()) {
        text.push_str(&format!("\n{}", with_secrets(catalog, &pipeline.options, &pipeline.secrets)));
    }
    text.push_str(&format!("\nAS {}", portable(catalog, object)));
    text
}

/// The clause that says when it runs.
pub fn pipeline_trigger(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Manual => "MANUAL".into(),
        Trigger::Continuous(_) => "CONTINUOUS".into(),
        Trigger::Schedule { pattern, zone } => {
            let zone = zone.as_ref().map(|zone| format!(" TIME ZONE {}", quote_literal(zone)));
            format!("SCHEDULE {}{}", quote_literal(pattern), zone.unwrap_or_default())
        }
        Trigger::Every(micros) => {
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}") };
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            format!("EVERY INTERVAL '{hours:02}:{minutes:02}:{:02}{fraction}'", seconds % 60)
        }
    }
}

fn create_sequence(catalog: &Catalog, name: &str, s: &Sequence) -> String {
    let mut text = format!(
        "CREATE SEQUENCE {name} AS {} INCREMENT BY {} MINVALUE {} MAXVALUE {} START WITH {}",
        s.sql_type, s.increment, s.min, s.max, s.start
    );
    text.push_str(if s.cycle { " CYCLE" } else { " NO CYCLE" });
    if let Some((table, attnum)) = s.owned_by
        && let Some(table) = catalog.get(table)
        && let Some(column) = table.columns().iter().find(|c| c.attnum == attnum)
    {
        text.push_str(&format!(" OWNED BY {}.{}", catalog.qualified_name(table), quote_ident(&column.name)));
    }
    text
}

/// The value of a literal cannot be shown: stars stand for it.
fn create_secret(name: &str, secret: &Secret) -> String {
    match secret {
        Secret::Sealed(_) => format!("CREATE SECRET {name} AS '***'"),
        Secret::Env(variable) => format!("CREATE SECRET {name} FROM ENV {}", quote_literal(variable)),
        Secret::File(path) => format!("CREATE SECRET {name} FROM FILE {}", quote_literal(path)),
    }
}

fn with(options: &[(String, String)]) -> String {
    with_lines(options.iter().map(|(key, value)| (key, quote_literal(value))))
}

fn with_secrets(catalog: &Catalog, options: &[(String, String)], secrets: &[(String, Oid)]) -> String {
    let plain = options.iter().map(|(key, value)| (key, quote_literal(value)));
    with_lines(plain.chain(secrets.iter().map(|(key, oid)| (key, secret_name(catalog, *oid)))))
}

fn secret_name(catalog: &Catalog, oid: Oid) -> String {
    format!("SECRET {}", catalog.get(oid).map(|o| quote_ident(&o.name)).unwrap_or_default())
}

/// `key=value`, as `pg_foreign_server.srvoptions` has them; a secret by its name.
pub fn shown_options(catalog: &Catalog, options: &[(String, String)], secrets: &[(String, Oid)]) -> Vec<String> {
    let plain = options.iter().map(|(key, value)| format!("{key}={value}"));
    plain.chain(secrets.iter().map(|(key, oid)| format!("{key}={}", secret_name(catalog, *oid)))).collect()
}

fn with_lines<'a>(options: impl Iterator<Item = (&'a String, String)>) -> String {
    let bare = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let lines: Vec<String> = options
        .map(|(key, value)| {
            let key = if bare(key) { key.clone() } else { format!("\"{key}\"") };
            format!("{key} = {value}")
        })
        .collect();
    match lines.len() {
        0..=2 => format!("WITH ({})", lines.join(", ")),
        _ => format!("WITH (\n    {}\n)", lines.join(",\n    ")),
    }
}

fn format_clause(format: Option<&Format>) -> String {
    let Some(format) = format else { return String::new() };
    let mut text = format!("\nFORMAT {} ENCODE {}", format.format, format.encode);
    if !format.options.is_empty() {
        text.push_str(with(&format.options).trim_start_matches("WITH"));
    }
    text
}

pub fn option<'a>(options: &'a [(String, String)], key: &str) -> Option<&'a str> {
    options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// A query as `pg_get_viewdef` gives it.
pub fn definition(catalog: &Catalog, object: &Object) -> String {
    format!("{};", named_query(catalog, object))
}

pub fn key_columns(table: &Object, key: &Key) -> String {
    let names = key.columns.iter().filter_map(|c| table.columns().get(*c)).map(|c| quote_ident(&c.name));
    names.collect::<Vec<_>>().join(", ")
}

pub fn key_definition(table: &Object, key: &Key, primary: bool) -> String {
    format!("{} ({})", if primary { "PRIMARY KEY" } else { "UNIQUE" }, key_columns(table, key))
}

pub fn check_definition(check: &Check) -> String {
    format!("CHECK ({})", check.expr)
}

pub fn index_definition(catalog: &Catalog, table: &Object, key: &Key) -> String {
    let (name, table_name) = (quote_ident(&key.name), catalog.qualified_name(table));
    format!("CREATE UNIQUE INDEX {name} ON {table_name} USING btree ({})", key_columns(table, key))
}

/// CREATE INDEX as `pg_get_indexdef` gives it.
pub fn index_text(catalog: &Catalog, object: &Object) -> String {
    let Some((index, relation)) = object.index().and_then(|i| Some((i, catalog.get(i.relation)?))) else {
        return String::new();
    };
    let columns: Vec<String> = index
        .columns
        .iter()
        .filter_map(|c| {
            let mut text = quote_ident(&relation.columns().get(c.column)?.name);
            if let Some(class) = &c.operator_class {
                text.push_str(&format!(" {class}"));
            }
            // What is not said is NULLS LAST, and NULLS FIRST where the order is descending.
            text.push_str(match (c.descending, c.nulls_first) {
                (false, false) => "",
                (false, true) => " NULLS FIRST",
                (true, true) => " DESC",
                (true, false) => " DESC NULLS LAST",
            });
            Some(text)
        })
        .collect();
    let unique = if index.unique { "UNIQUE " } else { "" };
    let (name, on) = (quote_ident(&object.name), catalog.qualified_name(relation));
    format!("CREATE {unique}INDEX {name} ON {on} USING {} ({})", index.method, columns.join(", "))
}

/// Positions of the columns that `expr` names.
pub fn columns_in(expr: &str, table: &Object) -> Vec<usize> {
    let mut names = BTreeSet::new();
    if let Ok(expr) = Parser::new(&PostgreSqlDialect {}).try_with_sql(expr).and_then(|mut p| p.parse_expr()) {
        let _: ControlFlow<()> = visit_expressions(&expr, |e| {
            match e {
                ast::Expr::Identifier(ident) => names.extend([fold(ident)]),
                ast::Expr::CompoundIdentifier(idents) => names.extend(idents.last().map(fold)),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
    table.columns().iter().enumerate().filter(|(_, c)| names.contains(&c.name)).map(|(i, _)| i).collect()
}

pub(super) fn parse_query(query: &str) -> Option<ast::Statement> {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, query).ok()?;
    (statements.len() == 1).then(|| statements.remove(0))
}

/// `(a, b)` unless the query itself calls its columns so.
fn column_list(query: &str, columns: &[Column]) -> String {
    let own = parse_query(query).and_then(|statement| output_names(&statement));
    if own.is_some_and(|own| own.iter().eq(columns.iter().map(|c| &c.name))) || columns.is_empty() {
        return String::new();
    }
    let mut list = String::from(" (");
    for (i, column) in columns.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(list, "{comma}{}", quote_ident(&column.name)).expect("writing to a String does not fail");
    }
    list.push(')');
    list
}

/// The query with relations qualified, if under another `search_path` it would mean something else.
fn portable(catalog: &Catalog, object: &Object) -> String {
    let text = present_query(catalog, object);
    let Some((_, search_path)) = object.query() else { return text };
    let Some(mut statement) = parse_query(&text) else { return text };
    let local = cte_names(&statement);
    let public = ["public".to_string()];
    let bare = |name: &ast::ObjectName| match name.0.as_slice() {
        [ast::ObjectNamePart::Identifier(ident)] => Some(fold(ident)).filter(|name| !local.contains(name)),
        _ => None,
    };
    let mut differs = false;
    let _: ControlFlow<()> = visit_relations(&statement, |name| {
        if let Some(name) = bare(name) {
            let oid = |path: &[String]| catalog.find(None, &name, path).map(|o| o.oid);
            differs |= oid(search_path) != oid(&public);
        }
        ControlFlow::Continue(())
    });
    if !differs {
        return text;
    }
    let _: ControlFlow<()> = visit_relations_mut(&mut statement, |name| {
        if let Some(found) = bare(name).and_then(|name| catalog.find(None, &name, search_path)) {
            let quoted =
                |text: &str| ast::Ident { quote_style: (quote_ident(text) != text).then_some('"'), ..text.into() };
            *name = vec![quoted(catalog.schema_name(found.schema)), quoted(&found.name)].into();
        }
        ControlFlow::Continue(())
    });
    statement.to_string()
}

pub(super) fn cte_names(statement: &ast::Statement) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl ast::Visitor for Names {
        type Break = ();
        fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|w| &w.cte_tables);
            self.0.extend(tables.map(|cte| fold(&cte.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(BTreeSet::new());
    let _ = ast::Visit::visit(statement, &mut names);
    names.0
}
