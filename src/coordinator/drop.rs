//! DROP of every kind of object, with what depends on it.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Catalog, Change, Object, ObjectKind, SYSTEM_SCHEMAS, quote_ident};
use tidemark_common::{Error, Oid, Result, SqlState};
use tidemark_sql::ast::ObjectType;

use super::{definitions, shared_source};
use crate::query::object_name;
use crate::session::{Outcome, Session};
use crate::transaction::PlannedStep;

/// sqlparser's word for the kind, as ours.
pub fn object_type(object_type: &sql::ObjectType) -> Result<ObjectType> {
    Ok(match object_type {
        sql::ObjectType::Table => ObjectType::Table,
        sql::ObjectType::View => ObjectType::View,
        sql::ObjectType::MaterializedView => ObjectType::MaterializedView,
        sql::ObjectType::Schema => ObjectType::Schema,
        sql::ObjectType::Index => ObjectType::Index,
        sql::ObjectType::Sequence => ObjectType::Sequence,
        sql::ObjectType::Role => ObjectType::Role,
        sql::ObjectType::Database => ObjectType::Database,
        sql::ObjectType::Type => ObjectType::Type,
        other => return Err(Error::unsupported(format!("DROP {other} is not supported"))),
    })
}

/// The kind in words, as messages and tags have it.
pub fn kind_words(object_type: ObjectType) -> &'static str {
    match object_type {
        ObjectType::Table => "table",
        ObjectType::View => "view",
        ObjectType::MaterializedView => "materialized view",
        ObjectType::Source => "source",
        ObjectType::Sink => "sink",
        ObjectType::Schema => "schema",
        ObjectType::Index => "index",
        ObjectType::Sequence => "sequence",
        ObjectType::Role => "role",
        ObjectType::Database => "database",
        ObjectType::Function => "function",
        ObjectType::Type => "type",
        ObjectType::Job => "job",
        ObjectType::Secret => "secret",
        ObjectType::Connection => "connection",
        ObjectType::Pipeline => "pipeline",
    }
}

impl Session {
    pub(crate) fn drop_objects(
        &mut self,
        object_type: ObjectType,
        if_exists: bool,
        names: &[sql::ObjectName],
        cascade: bool,
    ) -> Result<Outcome> {
        let kind = kind_words(object_type);
        let mut doomed: Vec<Arc<Object>> = Vec::new();
        for name in names {
            match self.find_to_drop(object_type, name) {
                Ok(object) => doomed.push(object),
                Err(error) if if_exists && is_missing(&error) => {
                    self.tell(format!("{kind} \"{}\" does not exist, skipping", last_part(name)));
                }
                Err(error) => return Err(error),
            }
        }
        let catalog = self.catalog()?;
        let all = with_dependants(&catalog, &doomed, cascade)?;
        let carried: Vec<&Arc<Object>> =
            all.iter().filter(|o| !doomed.iter().any(|d| d.oid == o.oid) && !belongs_to(o, &all)).collect();
        match carried.as_slice() {
            [] => {}
            [one] => self.tell(format!("drop cascades to {} {}", one.kind_name(), one.name)),
            many => self.tell(format!("drop cascades to {} other objects", many.len())),
        }
        for object in &all {
            if let Some(remote) = object.remote() {
                let connection = catalog.expect(remote.connection)?;
                let (name, there) = (&object.name, remote.name());
                self.tell(format!(
                    "table \"{name}\" is kept as {there} in connection \"{}\", where it stays",
                    connection.name
                ));
            }
        }
        let changes = all.iter().map(|o| Change::Remove(o.oid)).collect();
        // Users before what they use.
        let mut steps = Vec::new();
        for object in all.iter().rev().filter(|o| definitions::is_kept(o)) {
            steps.push(PlannedStep::Drop(object.oid));
            if let Some(index) = object.index() {
                steps.extend(self.redefinition(catalog.expect(index.relation)?));
            }
        }
        steps.extend(shared_source::readers_of(&all));
        for object in &all {
            self.forget_table(object.oid)?;
        }
        self.change_catalog(changes, steps)?;
        Ok(Outcome::Command(format!("DROP {}", kind.to_uppercase())))
    }

    pub(crate) fn find_to_drop(&self, object_type: ObjectType, name: &sql::ObjectName) -> Result<Arc<Object>> {
        let catalog = self.catalog()?;
        let kind = kind_words(object_type);
        if object_type == ObjectType::Schema {
            let (_, schema) = object_name(name, "")?;
            let oid = catalog.schema(&schema)?;
            if SYSTEM_SCHEMAS.iter().any(|(system, _)| *system == oid) {
                return Err(Error::new(
                    SqlState::DependentObjectsStillExist,
                    format!("cannot drop schema {schema} because it is required by the database system"),
                ));
            }
            return catalog.expect(oid).cloned();
        }
        if matches!(object_type, ObjectType::Secret | ObjectType::Connection | ObjectType::Pipeline) {
            let name = self.global_name(name, kind)?;
            let found = match object_type {
                ObjectType::Secret => catalog.secret(&name),
                ObjectType::Pipeline => catalog.pipeline(&name),
                _ => catalog.connection(&name),
            };
            return found.cloned();
        }
        let (schema, bare) = object_name(name, &catalog.database)?;
        let found = catalog.find(schema.as_deref(), &bare, &self.settled_search_path());
        match found {
            Some(object) if object.kind_name() == kind => Ok(object.clone()),
            // As it was created.
            Some(object) if object_type == ObjectType::Table && object.is_table_of_source() => Ok(object.clone()),
            Some(object) => {
                Err(Error::new(SqlState::WrongObjectType, format!("\"{bare}\" is not {}", with_article(kind)))
                    .with_hint(format!(
                        "Use DROP {} to remove {}.",
                        object.kind_name().to_uppercase(),
                        with_article(object.kind_name())
                    )))
            }
            None => {
                let in_schema = schema.as_deref().unwrap_or("pg_catalog");
                if crate::pg_catalog::system_table_names(in_schema).contains(&bare) {
                    return Err(Error::new(
                        SqlState::InsufficientPrivilege,
                        format!("permission denied: \"{bare}\" is a system catalog"),
                    ));
                }
                if let Some(schema) = &schema {
                    catalog.schema(schema)?;
                }
                let path = self.settled_search_path();
                if object_type == ObjectType::Index
                    && let Some(table) = table_of_constraint(&catalog, schema.as_deref(), &bare, &path)
                {
                    let message =
                        format!("index {bare} belongs to constraint {bare} on table {} and goes with it", table.name);
                    return Err(Error::new(SqlState::DependentObjectsStillExist, message)
                        .with_hint(format!("ALTER TABLE {} changes its constraints.", table.name)));
                }
                let state = match object_type {
                    ObjectType::Index | ObjectType::Role | ObjectType::Type => SqlState::UndefinedObject,
                    ObjectType::Database => SqlState::UndefinedDatabase,
                    _ => SqlState::UndefinedTable,
                };
                let name = schema.map_or_else(|| bare.clone(), |s| format!("{s}.{bare}"));
                Err(Error::new(state, format!("{kind} \"{name}\" does not exist")))
            }
        }
    }
}

pub(super) fn is_missing(error: &Error) -> bool {
    matches!(
        error.state(),
        SqlState::UndefinedTable | SqlState::UndefinedSchema | SqlState::UndefinedObject | SqlState::UndefinedDatabase
    )
}

fn last_part(name: &sql::ObjectName) -> String {
    name.0.last().and_then(|p| p.as_ident()).map(crate::session::fold).unwrap_or_default()
}

fn with_article(kind: &str) -> String {
    format!("{} {kind}", if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

/// The index of a constraint is no object of its own.
fn table_of_constraint<'a>(
    catalog: &'a Catalog,
    schema: Option<&str>,
    name: &str,
    search_path: &[String],
) -> Option<&'a Arc<Object>> {
    let schemas: Vec<Oid> = match schema {
        Some(schema) => catalog.schema_oid(schema).into_iter().collect(),
        None => search_path.iter().filter_map(|schema| catalog.schema_oid(schema)).collect(),
    };
    let has_key = |o: &Object| crate::pg_catalog::keys(o).any(|(key, _)| key.name == name);
    catalog.objects().find(|o| schemas.contains(&o.schema) && has_key(o))
}

/// Sequences go with the column that owns them, indexes with their relation, silently.
fn belongs_to(object: &Object, doomed: &[Arc<Object>]) -> bool {
    match &object.kind {
        ObjectKind::Index(index) => doomed.iter().any(|d| d.oid == index.relation),
        // What was to take its place.
        ObjectKind::MaterializedView(v) => v.replaces.is_some_and(|view| doomed.iter().any(|d| d.oid == view)),
        ObjectKind::Sequence(s) => s.owned_by.is_some_and(|(table, _)| doomed.iter().any(|d| d.oid == table)),
        _ => false,
    }
}

fn in_use(dependant: &Object, object: &Object) -> Error {
    Error::new(
        SqlState::DependentObjectsStillExist,
        format!("cannot drop {} {} because other objects depend on it", object.kind_name(), object.name),
    )
    .with_detail(format!(
        "{} {} depends on {} {}",
        dependant.kind_name(),
        dependant.name,
        object.kind_name(),
        object.name
    ))
}

/// Whether a default is the sequence's next number.
fn names_sequence(default: &str, catalog: &Catalog, sequence: &Object) -> bool {
    let Some((_, named)) = default.split_once("nextval('") else { return false };
    let named = named.split('\'').next().unwrap_or_default();
    named == quote_ident(&sequence.name) || named == catalog.qualified_name(sequence)
}

/// `doomed` and, with CASCADE, everything that depends on it.
fn with_dependants(catalog: &Catalog, doomed: &[Arc<Object>], cascade: bool) -> Result<Vec<Arc<Object>>> {
    let mut all: Vec<Arc<Object>> = Vec::new();
    let push = |all: &mut Vec<Arc<Object>>, object: Arc<Object>| {
        if !all.iter().any(|o| o.oid == object.oid) {
            all.push(object);
        }
    };
    for object in doomed {
        push(&mut all, object.clone());
        for owned in catalog.objects().filter(|o| belongs_to(o, std::slice::from_ref(object))) {
            push(&mut all, owned.clone());
        }
    }
    let own: Vec<Oid> = all.iter().map(|o| o.oid).collect();
    for sequence in doomed.iter().filter(|o| matches!(o.kind, ObjectKind::Sequence(_))) {
        // A default has no OID to depend by: it names the sequence, along the default path if it does so by halves.
        let table = catalog.objects().find(|o| {
            !own.contains(&o.oid)
                && o.columns()
                    .iter()
                    .any(|c| c.default.as_deref().is_some_and(|default| names_sequence(default, catalog, sequence)))
        });
        if let Some(table) = table {
            return Err(in_use(table, sequence).with_hint("ALTER TABLE .. ALTER COLUMN .. DROP DEFAULT first."));
        }
    }
    for object in doomed {
        for dependant in catalog.dependants(object.oid) {
            if !cascade && !own.contains(&dependant.oid) {
                return Err(
                    in_use(&dependant, object).with_hint("Use DROP ... CASCADE to drop the dependent objects too.")
                );
            }
            push(&mut all, dependant);
        }
    }
    Ok(all)
}
