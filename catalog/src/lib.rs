//! What exists: objects by OID and by name, and what depends on what.
//!
//! ```text
//!   CREATE .. ──coordinator──▶ Change::Put(Object) ──same commit as the data──▶ store
//!                                     │
//!                                     └──▶ next Catalog version ──▶ sessions plan against it
//! ```
//!
//! A [`Catalog`] never changes: DDL makes the next one, so a statement plans against one version from start to end.
//!
//! Architecture invariant: no I/O. The coordinator is the only one that makes versions and stores them.

mod object;
mod pipeline;
mod secret;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub use object::*;
pub use pipeline::{Continuous, Pipeline, Trigger};
pub use secret::{Secret, SecretKey};
use tidemark_common::{Error, Oid, Result, SqlState, nearest};

/// OIDs of what is always there, as in Postgres.
pub const SUPERUSER: Oid = 10;
pub const PG_CATALOG: Oid = 11;
pub const PUBLIC: Oid = 2200;
pub const INFORMATION_SCHEMA: Oid = 13000;
pub const TIDEMARK_SCHEMA: Oid = 13001;
pub const PG_TEMP: Oid = 13002;
pub const DATABASE: Oid = 5;

/// Namespaces of what is no relation and in no schema: one name for the whole database.
pub const SECRETS: Oid = 13003;
pub const CONNECTIONS: Oid = 13004;
pub const PIPELINES: Oid = 13005;

/// Schemas that cannot be created or dropped.
pub const SYSTEM_SCHEMAS: [(Oid, &str); 3] =
    [(PG_CATALOG, "pg_catalog"), (INFORMATION_SCHEMA, "information_schema"), (TIDEMARK_SCHEMA, "tidemark")];

#[derive(Debug, Clone)]
pub struct Catalog {
    /// Grows by one with each DDL.
    pub version: u64,
    pub database: String,
    pub superuser: String,
    objects: BTreeMap<Oid, Arc<Object>>,
    names: HashMap<(Oid, String), Oid>,
    /// (relation, index)
    indexes: BTreeSet<(Oid, Oid)>,
}

/// One step from a catalog to the next.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Creates the object or replaces the one with its OID.
    Put(Box<Object>),
    Remove(Oid),
}

impl Catalog {
    /// The catalog of a new database: schema `public`.
    pub fn new(database: &str, superuser: &str) -> Self {
        let mut catalog = Self {
            version: 0,
            database: database.into(),
            superuser: superuser.into(),
            objects: BTreeMap::new(),
            names: HashMap::new(),
            indexes: BTreeSet::new(),
        };
        for (oid, name) in SYSTEM_SCHEMAS.into_iter().chain([(PUBLIC, "public")]) {
            catalog.insert(Object {
                oid,
                schema: 0,
                name: name.into(),
                owner: SUPERUSER,
                comment: (oid == PUBLIC).then(|| "standard public schema".into()),
                depends_on: BTreeSet::new(),
                reads: Vec::new(),
                lookups: Vec::new(),
                asked: Vec::new(),
                temporary: false,
                kind: ObjectKind::Schema,
            });
        }
        catalog
    }

    fn insert(&mut self, object: Object) {
        self.take_out(object.oid);
        self.names.insert((object.schema, object.name.clone()), object.oid);
        self.indexes.extend(object.index().map(|index| (index.relation, object.oid)));
        self.objects.insert(object.oid, Arc::new(object));
    }

    fn take_out(&mut self, oid: Oid) {
        if let Some(old) = self.objects.remove(&oid) {
            self.names.remove(&(old.schema, old.name.clone()));
            if let Some(index) = old.index() {
                self.indexes.remove(&(index.relation, oid));
            }
        }
    }

    /// The catalog after `changes`.
    #[must_use]
    pub fn apply(&self, changes: &[Change]) -> Catalog {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Put(object) => next.insert((**object).clone()),
                Change::Remove(oid) => next.take_out(*oid),
            }
        }
        next.version += 1;
        next
    }

    pub fn get(&self, oid: Oid) -> Option<&Arc<Object>> {
        self.objects.get(&oid)
    }

    /// The object, which something else in the catalog refers to.
    pub fn expect(&self, oid: Oid) -> Result<&Arc<Object>> {
        self.get(oid).ok_or_else(|| Error::internal(format!("object {oid} is not in the catalog")))
    }

    /// All objects in order of OID, which is order of creation.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub fn schema_oid(&self, name: &str) -> Option<Oid> {
        self.names.get(&(0, name.to_string())).copied()
    }

    pub fn schema(&self, name: &str) -> Result<Oid> {
        self.schema_oid(name).ok_or_else(|| {
            let error = Error::new(SqlState::UndefinedSchema, format!("schema \"{name}\" does not exist"));
            match nearest(name, self.schemas().map(|s| s.name.as_str())) {
                Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
                None => error,
            }
        })
    }

    pub fn schemas(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects().filter(|o| matches!(o.kind, ObjectKind::Schema))
    }

    pub fn schema_name(&self, oid: Oid) -> &str {
        self.get(oid).map_or("", |o| o.name.as_str())
    }

    pub fn find_in(&self, schema: Oid, name: &str) -> Option<&Arc<Object>> {
        self.names.get(&(schema, name.to_string())).and_then(|oid| self.objects.get(oid))
    }

    /// Finds `[schema.]name`, an unqualified name along `search_path`.
    pub fn find(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Option<&Arc<Object>> {
        // The session's own temporary schema stands in its path.
        let schema = match schema {
            Some("pg_temp") => search_path.iter().map(String::as_str).find(|s| s.starts_with("pg_temp_")).or(schema),
            other => other,
        };
        match schema {
            Some(schema) => self.schema_oid(schema).and_then(|s| self.find_in(s, name)),
            None => search_path.iter().filter_map(|s| self.schema_oid(s)).find_map(|s| self.find_in(s, name)),
        }
    }

    /// As [`Catalog::find`], or the error a Postgres user expects.
    pub fn resolve(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Result<&Arc<Object>> {
        if let Some(found) = self.find(schema, name, search_path) {
            return Ok(found);
        }
        let full = schema.map_or_else(|| name.to_string(), |s| format!("{s}.{name}"));
        let error = Error::new(SqlState::UndefinedTable, format!("relation \"{full}\" does not exist"));
        let in_schemas = || self.objects().filter(|o| !matches!(o.schema, 0 | SECRETS | CONNECTIONS | PIPELINES));
        let elsewhere = in_schemas().find(|o| o.name == name && schema.is_none());
        Err(match (elsewhere, nearest(name, in_schemas().map(|o| o.name.as_str()))) {
            (Some(o), _) => error.with_hint(format!(
                "There is \"{}.{name}\": qualify it or set search_path.",
                self.schema_name(o.schema)
            )),
            (None, Some(near)) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            (None, None) => error,
        })
    }

    /// What would break if `oid` went, nearest first, each once.
    pub fn dependants(&self, oid: Oid) -> Vec<Arc<Object>> {
        let mut found: Vec<Arc<Object>> = Vec::new();
        let mut wave = vec![oid];
        while let Some(target) = wave.pop() {
            for object in self.objects() {
                let depends = object.depends_on.contains(&target) || (object.schema == target && object.schema != 0);
                if depends && object.oid != oid && !found.iter().any(|f| f.oid == object.oid) {
                    found.push(object.clone());
                    wave.push(object.oid);
                }
            }
        }
        found
    }

    /// A secret of that name.
    pub fn secret(&self, name: &str) -> Result<&Arc<Object>> {
        self.find_in(SECRETS, name).ok_or_else(|| self.no_such(SECRETS, "secret", name))
    }

    /// A connection of that name.
    pub fn connection(&self, name: &str) -> Result<&Arc<Object>> {
        self.find_in(CONNECTIONS, name).ok_or_else(|| self.no_such(CONNECTIONS, "connection", name))
    }

    /// A pipeline of that name.
    pub fn pipeline(&self, name: &str) -> Result<&Arc<Object>> {
        self.find_in(PIPELINES, name).ok_or_else(|| self.no_such(PIPELINES, "pipeline", name))
    }

    pub fn has_connections(&self) -> bool {
        self.objects().any(|o| o.schema == CONNECTIONS)
    }

    fn no_such(&self, namespace: Oid, kind: &str, name: &str) -> Error {
        let error = Error::new(SqlState::UndefinedObject, format!("{kind} \"{name}\" does not exist"));
        let known = self.objects().filter(|o| o.schema == namespace).map(|o| o.name.as_str());
        match nearest(name, known) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => error,
        }
    }

    /// What CREATE INDEX has made of a relation, in order of creation.
    pub fn indexes_of(&self, relation: Oid) -> impl Iterator<Item = (&Arc<Object>, &Index)> {
        let own = self.indexes.range((relation, 0)..=(relation, Oid::MAX));
        own.filter_map(|(_, oid)| self.get(*oid)).filter_map(|object| Some((object, object.index()?)))
    }

    /// `schema.name`, quoted where SQL needs it.
    pub fn qualified_name(&self, object: &Object) -> String {
        match object.schema {
            0 | SECRETS | CONNECTIONS | PIPELINES => quote_ident(&object.name),
            schema => format!("{}.{}", quote_ident(self.schema_name(schema)), quote_ident(&object.name)),
        }
    }
}

/// `name`, in double quotes if it would not read back as itself.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$');
    if plain && !is_reserved(name) { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `text` as a SQL string literal.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn is_reserved(word: &str) -> bool {
    const RESERVED: &[&str] = &[
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "current_date",
        "current_role",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "intersect",
        "into",
        "lateral",
        "leading",
        "limit",
        "localtime",
        "localtimestamp",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "placing",
        "primary",
        "references",
        "returning",
        "select",
        "session_user",
        "some",
        "symmetric",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "when",
        "where",
        "window",
        "with",
    ];
    RESERVED.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(oid: Oid, name: &str, depends_on: &[Oid]) -> Change {
        Change::Put(Box::new(Object {
            oid,
            schema: PUBLIC,
            name: name.into(),
            owner: SUPERUSER,
            comment: None,
            depends_on: depends_on.iter().copied().collect(),
            reads: Vec::new(),
            lookups: Vec::new(),
            asked: Vec::new(),
            temporary: false,
            kind: ObjectKind::View(View {
                columns: vec![],
                query: String::new(),
                search_path: vec![],
                own_names: false,
            }),
        }))
    }

    #[test]
    fn names_resolve_along_the_path_and_errors_help() {
        let catalog = Catalog::new("tidemark", "tidemark").apply(&[view(20000, "orders", &[])]);
        let path = vec!["nowhere".to_string(), "public".to_string()];
        assert_eq!(catalog.resolve(None, "orders", &path).unwrap().oid, 20000);
        assert_eq!(catalog.resolve(Some("public"), "orders", &[]).unwrap().oid, 20000);
        let error = catalog.resolve(None, "order", &path).unwrap_err();
        assert_eq!((error.code(), error.hint()), ("42P01", Some("Perhaps you meant \"orders\".")));
        assert_eq!(catalog.resolve(Some("pub"), "orders", &path).unwrap_err().code(), "42P01");
        assert_eq!(catalog.schema("pub").unwrap_err().code(), "3F000");
    }

    #[test]
    fn a_rename_frees_the_old_name_and_old_versions_stay_as_they_were() {
        let one = Catalog::new("d", "u").apply(&[view(20000, "a", &[])]);
        let two = one.apply(&[view(20000, "b", &[])]);
        assert!(two.find_in(PUBLIC, "a").is_none() && two.find_in(PUBLIC, "b").is_some());
        assert!(one.find_in(PUBLIC, "a").is_some());
        assert_eq!(two.version, one.version + 1);
    }

    #[test]
    fn dependants_are_found_at_any_depth_once() {
        let catalog = Catalog::new("d", "u").apply(&[
            view(1, "a", &[]),
            view(2, "b", &[1]),
            view(3, "c", &[1, 2]),
            view(4, "other", &[]),
        ]);
        let found: Vec<Oid> = catalog.dependants(1).iter().map(|o| o.oid).collect();
        assert_eq!(found, [2, 3]);
        assert_eq!(catalog.dependants(PUBLIC).len(), 4);
    }

    #[test]
    fn identifiers_are_quoted_only_where_needed() {
        assert_eq!(quote_ident("a_1"), "a_1");
        assert_eq!(quote_ident("Select"), "\"Select\"");
        assert_eq!(quote_ident("user"), "\"user\"");
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
    }
}
