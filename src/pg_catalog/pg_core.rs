//! The tables of `pg_catalog` that the catalog's objects fill: `pg_class` and what hangs on it.

use tidemark_catalog::{self as catalog, Column, Identity, Object, ObjectKind};
use tidemark_common::types::SqlType;
use tidemark_common::{Oid, Result};

use super::context::{Class, SystemContext, keys, relkind};
use super::ddl;
use super::relation::{Rows, relations, row};
use super::static_tables::types;

/// OIDs of catalogs, by which `pg_depend` and `pg_description` say what an OID is.
pub const PG_CLASS: Oid = 1259;
pub const PG_CONSTRAINT: Oid = 2606;
pub const PG_NAMESPACE: Oid = 2615;
pub const PG_REWRITE: Oid = 2618;
const BTREE: Oid = 403;
const HASH: Oid = 405;
const TABLESPACE: Oid = 1663;
/// OIDs below those of users' objects that Postgres 15 does not use.
const WRAPPER: Oid = 13199;
const FIRST_SERVER: Oid = 13200;

/// Fills the table; `false`: it is not one of these.
pub fn fill(name: &str, ctx: &SystemContext, rows: &mut Rows) -> Result<bool> {
    match name {
        "pg_class" => ctx.classes().for_each(|class| class_row(ctx, &class, rows)),
        "pg_attribute" => ctx.classes().for_each(|class| attribute_rows(ctx, &class, rows)),
        "pg_attrdef" => attribute_defaults(ctx, rows),
        "pg_constraint" => ctx.user_relations().for_each(|o| constraint_rows(o, rows)),
        "pg_index" => index_rows(ctx, rows),
        "pg_namespace" => namespace_rows(ctx, rows),
        "pg_depend" => depend_rows(ctx, rows),
        "pg_description" => description_rows(ctx, rows),
        "pg_sequence" => sequence_rows(ctx, rows),
        "pg_rewrite" => rewrite_rows(ctx, rows),
        "pg_foreign_table" | "pg_foreign_server" | "pg_foreign_data_wrapper" => foreign_rows(name, ctx, rows),
        "pg_database" => database_row(ctx, rows),
        "pg_tablespace" => row!(rows, oid: TABLESPACE, spcname: "pg_default", spcowner: catalog::SUPERUSER),
        "pg_authid" => row!(
            rows, oid: catalog::SUPERUSER, rolname: &ctx.catalog.superuser, rolsuper: true, rolinherit: true,
            rolcreaterole: true, rolcreatedb: true, rolcanlogin: true, rolreplication: true, rolbypassrls: true,
            rolconnlimit: -1,
        ),
        _ => return Ok(false),
    }
    Ok(true)
}

fn class_row(ctx: &SystemContext, class: &Class<'_>, rows: &mut Rows) {
    match class {
        Class::Object(object) => object_class_row(ctx, object, rows),
        Class::Index(table, key) => row!(
            rows, oid: key.oid, relname: &key.name, relnamespace: table.schema, relowner: table.owner, relam: BTREE,
            relfilenode: key.oid, relpersistence: persistence(table), relkind: 'i', relnatts: key.columns.len() as i64,
            relreplident: 'n', relispopulated: true,
        ),
        Class::System(relation) => row!(
            rows, oid: relation.oid, relname: relation.name, relnamespace: schema_oid(ctx, relation.schema),
            relowner: catalog::SUPERUSER, reltuples: -1, relpersistence: 'p', relkind: relation.kind,
            relnatts: relation.columns.len() as i64, relreplident: 'n', relispopulated: true,
            relhasrules: relation.kind == 'v',
        ),
    }
}

fn schema_oid(ctx: &SystemContext, name: &str) -> Oid {
    ctx.catalog.schema_oid(name).unwrap_or(catalog::PG_CATALOG)
}

fn persistence(object: &Object) -> char {
    if object.temporary { 't' } else { 'p' }
}

fn object_class_row(ctx: &SystemContext, object: &Object, rows: &mut Rows) {
    let Some(kind) = relkind(object) else { return };
    let size = ctx.facts.size(object.oid);
    let index = object.index();
    let (checks, options) = match &object.kind {
        ObjectKind::Table(table) => (table.checks.len(), vec![]),
        ObjectKind::MaterializedView(view) => (0, options_text(&view.options)),
        _ => (0, vec![]),
    };
    row!(
        rows, oid: object.oid, relname: &object.name, relnamespace: object.schema, relowner: object.owner,
        relam: index.map_or(0, |index| if index.method == "hash" { HASH } else { BTREE }),
        relfilenode: if size.is_some() { object.oid } else { 0 },
        relpages: size.as_ref().map_or(0, |s| s.bytes / 8192),
        reltuples: size.as_ref().map_or(-1.0, |s| s.rows as f64),
        relhasindex: has_indexes(ctx, object), relpersistence: persistence(object), relkind: kind,
        relnatts: index.map_or(object.columns().len(), |index| index.columns.len()) as i64, relchecks: checks as i64, relhasrules: matches!(kind, 'v' | 'm'),
        relispopulated: true, relreplident: if kind == 'r' { 'd' } else { 'n' },
        reloptions: (!options.is_empty()).then_some(options),
    );
}

/// Of constraints, or of CREATE INDEX.
pub fn has_indexes(ctx: &SystemContext, relation: &Object) -> bool {
    keys(relation).next().is_some() || ctx.catalog.indexes_of(relation.oid).next().is_some()
}

fn options_text(options: &[(String, String)]) -> Vec<String> {
    options.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn attribute_rows(ctx: &SystemContext, class: &Class<'_>, rows: &mut Rows) {
    match class {
        Class::Object(object) if object.index().is_some() => {
            let index = object.index().map(|index| (ctx.catalog.get(index.relation), index.positions()));
            if let Some((Some(relation), columns)) = index {
                index_attribute_rows(object.oid, relation, &columns, rows);
            }
        }
        Class::Object(object) => {
            let local = !matches!(object.kind, ObjectKind::Sequence(_));
            for column in object.columns().iter().filter(|_| local) {
                attribute_row(object.oid, column, column.attnum, rows);
            }
        }
        Class::Index(table, key) => {
            index_attribute_rows(key.oid, table, &key.columns, rows);
        }
        Class::System(relation) => {
            for (i, spec) in relation.columns.iter().enumerate() {
                let column = spec.column(i);
                attribute_row(relation.oid, &column, column.attnum, rows);
            }
        }
    }
}

fn index_attribute_rows(index: Oid, relation: &Object, columns: &[usize], rows: &mut Rows) {
    for (i, column) in columns.iter().filter_map(|c| relation.columns().get(*c)).enumerate() {
        let column = Column { default: None, identity: None, nullable: true, ..column.clone() };
        attribute_row(index, &column, i as i16 + 1, rows);
    }
}

fn attribute_row(class: Oid, column: &Column, attnum: i16, rows: &mut Rows) {
    let oid = column.sql_type.pg_oid();
    let held = types().get(&oid);
    row!(
        rows, attrelid: class, attname: &column.name, atttypid: oid, attstattarget: -1,
        attlen: held.map_or(-1, |t| t.length), attnum: attnum, attndims: dimensions(&column.sql_type), attcacheoff: -1,
        atttypmod: column.sql_type.typmod(), attbyval: held.is_some_and(|t| t.by_value),
        attalign: held.map_or("i", |t| &t.align), attstorage: held.map_or("p", |t| &t.storage),
        attnotnull: !column.nullable, atthasdef: column.default.is_some(),
        attidentity: identity(column), attislocal: true, attcollation: held.map_or(0, |t| t.collation),
    );
}

fn identity(column: &Column) -> &'static str {
    match column.identity {
        Some(Identity::Always) => "a",
        Some(Identity::ByDefault) => "d",
        None => "",
    }
}

fn dimensions(sql_type: &SqlType) -> i32 {
    match sql_type {
        SqlType::Array(item) => 1 + dimensions(item),
        _ => 0,
    }
}

fn attribute_defaults(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        for column in object.columns() {
            if let Some(default) = &column.default {
                // Only (adrelid, adnum) is ever joined on: the OID is that pair in one number.
                let oid = object.oid.wrapping_mul(1600).wrapping_add(column.attnum as u32) & 0x7fff_ffff;
                row!(rows, oid: oid, adrelid: object.oid, adnum: column.attnum, adbin: shown_default(default, &column.sql_type));
            }
        }
    }
}

/// A DEFAULT as Postgres shows it: a literal with its type.
pub fn shown_default(default: &str, sql_type: &SqlType) -> String {
    let inside = default.strip_prefix('\'').and_then(|d| d.strip_suffix('\''));
    let literal = inside.is_some_and(|text| !text.replace("''", "").contains('\''));
    if !literal {
        return default.to_string();
    }
    let name = sql_type.to_string();
    format!("{default}::{}", name.split_once('(').map_or(name.as_str(), |(base, _)| base))
}

/// `attnum`s of columns by position.
pub fn attnums(table: &Object, columns: &[usize]) -> Vec<i64> {
    columns.iter().filter_map(|c| table.columns().get(*c)).map(|c| c.attnum.into()).collect()
}

fn constraint_rows(table: &Object, rows: &mut Rows) {
    for (key, primary) in keys(table) {
        row!(
            rows, oid: key.oid, conname: &key.name, connamespace: table.schema,
            contype: if primary { 'p' } else { 'u' }, convalidated: true, conrelid: table.oid, conindid: key.oid,
            confupdtype: ' ', confdeltype: ' ', confmatchtype: ' ', conislocal: true, connoinherit: true,
            conkey: attnums(table, &key.columns),
        );
    }
    if let ObjectKind::Table(described) = &table.kind {
        for check in &described.checks {
            row!(
                rows, oid: check.oid, conname: &check.name, connamespace: table.schema, contype: 'c',
                convalidated: true, conrelid: table.oid, confupdtype: ' ', confdeltype: ' ', confmatchtype: ' ',
                conislocal: true, conkey: attnums(table, &ddl::columns_in(&check.expr, table)), conbin: &check.expr,
            );
        }
    }
}

fn index_rows(ctx: &SystemContext, rows: &mut Rows) {
    for table in ctx.user_relations() {
        for (key, primary) in keys(table) {
            index_row(table, key.oid, &key.columns, (true, primary), vec![0; key.columns.len()], rows);
        }
        for (object, index) in ctx.catalog.indexes_of(table.oid) {
            let options = index.columns.iter().map(|c| i64::from(c.descending) | i64::from(c.nulls_first) << 1);
            index_row(table, object.oid, &index.positions(), (index.unique, false), options.collect(), rows);
        }
    }
}

fn index_row(
    table: &Object,
    index: Oid,
    columns: &[usize],
    (unique, primary): (bool, bool),
    options: Vec<i64>,
    rows: &mut Rows,
) {
    let n = columns.len();
    let collation = |c: &usize| {
        let oid = table.columns().get(*c).map(|c| c.sql_type.pg_oid());
        oid.and_then(|oid| types().get(&oid)).map_or(0, |t| t.collation.into())
    };
    row!(
        rows, indexrelid: index, indrelid: table.oid, indnatts: n as i64, indnkeyatts: n as i64,
        indisunique: unique, indisprimary: primary, indimmediate: true, indisvalid: true, indisready: true,
        indislive: true, indkey: attnums(table, columns),
        indcollation: columns.iter().map(collation).collect::<Vec<i64>>(), indclass: vec![0_i64; n],
        indoption: options,
    );
}

fn namespace_rows(ctx: &SystemContext, rows: &mut Rows) {
    for schema in ctx.catalog.schemas() {
        row!(rows, oid: schema.oid, nspname: &schema.name, nspowner: schema.owner);
    }
    let temporary = ctx.catalog.get(catalog::PG_TEMP).is_none();
    if temporary && ctx.catalog.objects().any(|o| o.schema == catalog::PG_TEMP) {
        row!(rows, oid: catalog::PG_TEMP, nspname: "pg_temp", nspowner: catalog::SUPERUSER);
    }
}

fn depend_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if let Some(index) = object.index() {
            for attnum in ctx.catalog.get(index.relation).map(|r| attnums(r, &index.positions())).unwrap_or_default() {
                row!(
                    rows, classid: PG_CLASS, objid: object.oid, refclassid: PG_CLASS, refobjid: index.relation,
                    refobjsubid: attnum, deptype: 'a',
                );
            }
            continue;
        }
        row!(
            rows, classid: PG_CLASS, objid: object.oid, refclassid: PG_NAMESPACE, refobjid: object.schema, deptype: 'n',
        );
        // As in Postgres, what a view reads is known of its rewrite rule.
        let is_view = matches!(object.kind, ObjectKind::View(_) | ObjectKind::MaterializedView(_));
        let classid = if is_view { PG_REWRITE } else { PG_CLASS };
        if is_view {
            row!(
                rows, classid: PG_REWRITE, objid: object.oid, refclassid: PG_CLASS, refobjid: object.oid, deptype: 'i',
            );
        }
        for target in object.depends_on.iter().filter(|t| ctx.class(**t).is_some()) {
            row!(rows, classid: classid, objid: object.oid, refclassid: PG_CLASS, refobjid: *target, deptype: 'n');
        }
        for (key, _) in keys(object) {
            row!(
                rows, classid: PG_CLASS, objid: key.oid, refclassid: PG_CONSTRAINT, refobjid: key.oid, deptype: 'i',
            );
            for attnum in attnums(object, &key.columns) {
                row!(
                    rows, classid: PG_CONSTRAINT, objid: key.oid, refclassid: PG_CLASS, refobjid: object.oid,
                    refobjsubid: attnum, deptype: 'a',
                );
            }
        }
        if let ObjectKind::Sequence(sequence) = &object.kind
            && let Some((table, attnum)) = sequence.owned_by
        {
            let of_identity = ctx.column(table, attnum.into()).is_some_and(|c| c.identity.is_some());
            row!(
                rows, classid: PG_CLASS, objid: object.oid, refclassid: PG_CLASS, refobjid: table,
                refobjsubid: attnum, deptype: if of_identity { 'i' } else { 'a' },
            );
        }
    }
}

fn description_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.catalog.objects() {
        let classid = if object.schema == 0 { PG_NAMESPACE } else { PG_CLASS };
        if let Some(comment) = &object.comment {
            row!(rows, objoid: object.oid, classoid: classid, description: comment);
        }
        for column in object.columns() {
            if let Some(comment) = &column.comment {
                row!(rows, objoid: object.oid, classoid: PG_CLASS, objsubid: column.attnum, description: comment);
            }
        }
    }
}

fn sequence_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if let ObjectKind::Sequence(s) = &object.kind {
            row!(
                rows, seqrelid: object.oid, seqtypid: s.sql_type.pg_oid(), seqstart: s.start, seqincrement: s.increment,
                seqmax: s.max, seqmin: s.min, seqcache: 1, seqcycle: s.cycle,
            );
        }
    }
}

fn rewrite_rows(ctx: &SystemContext, rows: &mut Rows) {
    for object in ctx.user_relations() {
        if matches!(object.kind, ObjectKind::View(_) | ObjectKind::MaterializedView(_)) {
            row!(
                rows, oid: object.oid, rulename: "_RETURN", ev_class: object.oid, ev_type: '1', ev_enabled: 'O',
                is_instead: true,
            );
        }
    }
}

/// A source is a foreign table on a server named like its connector.
fn foreign_rows(name: &str, ctx: &SystemContext, rows: &mut Rows) {
    let sources = || {
        ctx.user_relations().filter_map(|o| match &o.kind {
            ObjectKind::Source(source) => {
                Some((o, source, ddl::option(&source.options, "connector").unwrap_or("none")))
            }
            _ => None,
        })
    };
    let connectors: std::collections::BTreeSet<&str> = sources().map(|(_, _, connector)| connector).collect();
    let server = |connector: &str| FIRST_SERVER + connectors.iter().take_while(|c| **c != connector).count() as Oid;
    match name {
        "pg_foreign_table" => {
            for (object, source, connector) in sources() {
                let options = options_text(&source.options);
                row!(rows, ftrelid: object.oid, ftserver: server(connector), ftoptions: options);
            }
        }
        "pg_foreign_server" => {
            for connector in &connectors {
                row!(rows, oid: server(connector), srvname: *connector, srvowner: catalog::SUPERUSER, srvfdw: WRAPPER);
            }
        }
        _ if !connectors.is_empty() => row!(rows, oid: WRAPPER, fdwname: "tidemark", fdwowner: catalog::SUPERUSER),
        _ => {}
    }
}

fn database_row(ctx: &SystemContext, rows: &mut Rows) {
    row!(
        rows, oid: catalog::DATABASE, datname: &ctx.catalog.database, datdba: catalog::SUPERUSER, encoding: 6,
        datlocprovider: 'c', datallowconn: true, datconnlimit: -1, dattablespace: TABLESPACE, datcollate: "C.UTF-8",
        datctype: "C.UTF-8",
    );
}

/// Relations of things that Tidemark does not have: they never hold a row.
pub fn is_always_empty(schema: &str, name: &str) -> bool {
    const NEVER: &[&str] = &[
        "pg_auth_members",
        "pg_db_role_setting",
        "pg_default_acl",
        "pg_enum",
        "pg_event_trigger",
        "pg_extension",
        "pg_inherits",
        "pg_init_privs",
        "pg_largeobject_metadata",
        "pg_partitioned_table",
        "pg_policies",
        "pg_policy",
        "pg_publication",
        "pg_publication_namespace",
        "pg_publication_rel",
        "pg_publication_tables",
        "pg_rules",
        "pg_seclabel",
        "pg_seclabels",
        "pg_shdepend",
        "pg_shdescription",
        "pg_shseclabel",
        "pg_statistic_ext",
        "pg_statistic_ext_data",
        "pg_stats",
        "pg_subscription",
        "pg_subscription_rel",
        "pg_transform",
        "pg_trigger",
        "pg_ts_config",
        "pg_ts_config_map",
        "pg_ts_dict",
        "pg_ts_parser",
        "pg_ts_template",
        "pg_user_mapping",
        "pg_user_mappings",
        "pg_prepared_xacts",
        "pg_stat_replication",
        "pg_stat_subscription",
    ];
    debug_assert!(NEVER.iter().all(|n| relations().any(|r| r.name == *n)));
    schema == "pg_catalog" && NEVER.contains(&name)
}
