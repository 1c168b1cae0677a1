//! What system tables and functions are computed from, and names to OIDs and back.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

use tidemark_catalog::{self as catalog, Catalog, Column, Key, Object, ObjectKind, quote_ident};
use tidemark_common::{Error, Oid, Result, SqlState};

use super::facts::{FunctionFact, SystemFacts};
use super::pg_proc;
use super::relation::{Relation, relation, relation_by_oid, relations};
use super::static_tables;

/// A statement's view of the database: one catalog version, the running server, and the session's names.
#[derive(Debug)]
pub struct SystemContext {
    pub catalog: Arc<Catalog>,
    pub facts: Arc<dyn SystemFacts>,
    /// Existing schemas of `search_path`, without the implicit `pg_catalog`.
    pub search_path: Vec<String>,
    functions: OnceLock<Vec<(Oid, FunctionFact)>>,
}

/// Anything that has a row in `pg_class`.
#[derive(Clone, Copy)]
pub enum Class<'a> {
    Object(&'a Arc<Object>),
    /// The index of a constraint of a table; those of CREATE INDEX are objects.
    Index(&'a Arc<Object>, &'a Key),
    System(&'static Relation),
}

impl SystemContext {
    pub fn new(catalog: Arc<Catalog>, facts: Arc<dyn SystemFacts>, search_path: Vec<String>) -> Arc<Self> {
        Arc::new(Self { catalog, facts, search_path, functions: OnceLock::new() })
    }

    /// The registry's functions with their OIDs, in the order of both.
    pub fn functions(&self) -> &[(Oid, FunctionFact)] {
        self.functions.get_or_init(|| pg_proc::numbered(self.facts.functions()))
    }

    /// Tables, views, sequences and the like: what users made that Postgres would call a relation.
    pub fn user_relations(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.catalog.objects().filter(|o| relkind(o).is_some())
    }

    pub fn classes(&self) -> impl Iterator<Item = Class<'_>> {
        let user = self.user_relations().flat_map(|object| {
            std::iter::once(Class::Object(object)).chain(keys(object).map(move |(key, _)| Class::Index(object, key)))
        });
        relations().map(Class::System).chain(user)
    }

    pub fn class(&self, oid: Oid) -> Option<Class<'_>> {
        if let Some(object) = self.catalog.get(oid) {
            return relkind(object).map(|_| Class::Object(object));
        }
        if let Some(relation) = relation_by_oid(oid) {
            return Some(Class::System(relation));
        }
        self.key(oid).map(|(object, key, _)| Class::Index(object, key))
    }

    /// The constraint with this OID, which is also its index's, and whether it is the primary key.
    pub fn key(&self, oid: Oid) -> Option<(&Arc<Object>, &Key, bool)> {
        self.catalog.objects().find_map(|o| keys(o).find(|(k, _)| k.oid == oid).map(|(k, primary)| (o, k, primary)))
    }

    pub fn owner_name(&self, oid: Oid) -> String {
        if oid == catalog::SUPERUSER { self.catalog.superuser.clone() } else { format!("unknown (OID={oid})") }
    }

    pub fn schema_name(&self, oid: Oid) -> &str {
        if oid == catalog::PG_TEMP { "pg_temp" } else { self.catalog.schema_name(oid) }
    }

    /// Schema OIDs in the order in which unqualified names are looked up.
    fn path(&self) -> impl Iterator<Item = Oid> {
        let implicit = (!self.search_path.iter().any(|s| s == "pg_catalog")).then_some(catalog::PG_CATALOG);
        std::iter::once(catalog::PG_TEMP)
            .chain(implicit)
            .chain(self.search_path.iter().filter_map(|s| self.catalog.schema_oid(s)))
    }

    /// `[schema.]name` as in `'name'::regclass`, quoted names included.
    pub fn find_class(&self, name: &str) -> Option<Oid> {
        let (schema, name) = split_name(name)?;
        match schema {
            Some(schema) => self.class_in(self.catalog.schema_oid(&schema)?, &name),
            None => self.path().find_map(|schema| self.class_in(schema, &name)),
        }
    }

    fn class_in(&self, schema: Oid, name: &str) -> Option<Oid> {
        if let Some(relation) = relation(self.catalog.schema_name(schema), name) {
            return Some(relation.oid);
        }
        if let Some(object) = self.catalog.find_in(schema, name) {
            return relkind(object).map(|_| object.oid);
        }
        let tables = self.catalog.objects().filter(|o| o.schema == schema);
        tables.flat_map(|o| keys(o)).find(|(key, _)| key.name == name).map(|(key, _)| key.oid)
    }

    /// Whether the class is what its bare name means.
    pub fn is_visible(&self, oid: Oid) -> Option<bool> {
        let (_, name) = self.class(oid)?.names(self);
        Some(self.path().find_map(|schema| self.class_in(schema, name)) == Some(oid))
    }

    /// The class as regclass prints it: qualified only where the bare name means another.
    pub fn class_name(&self, oid: Oid) -> Option<String> {
        let (schema, name) = self.class(oid)?.names(self);
        match self.is_visible(oid)? {
            true => Some(quote_ident(name)),
            false => Some(format!("{}.{}", quote_ident(schema), quote_ident(name))),
        }
    }

    pub fn column(&self, class: Oid, attnum: i64) -> Option<&Column> {
        self.catalog.get(class)?.columns().iter().find(|c| i64::from(c.attnum) == attnum)
    }

    /// OID of a function by name; that of Postgres' own where it has one.
    pub fn find_function(&self, name: &str) -> Option<Oid> {
        let (_, name) = split_name(name)?;
        pg_proc::function_oid(self, &name)
    }

    /// As `find_*` by what a `reg..` type is called, or Postgres' error.
    pub fn resolve(&self, reg: &str, name: &str) -> Result<Oid> {
        if let Ok(oid) = name.trim().parse::<Oid>() {
            return Ok(oid);
        }
        if name.trim() == "-" {
            return Ok(0);
        }
        let bare = || split_name(name).map_or_else(|| name.to_string(), |(_, name)| name);
        let (found, state, message) = match reg {
            "regclass" => {
                (self.find_class(name), SqlState::UndefinedTable, format!("relation \"{name}\" does not exist"))
            }
            "regtype" => (find_type(name), SqlState::UndefinedObject, format!("type \"{name}\" does not exist")),
            "regnamespace" => (
                self.catalog.schema_oid(&bare()),
                SqlState::UndefinedSchema,
                format!("schema \"{name}\" does not exist"),
            ),
            "regrole" => {
                let found = (bare() == self.catalog.superuser).then_some(catalog::SUPERUSER);
                (found, SqlState::UndefinedObject, format!("role \"{name}\" does not exist"))
            }
            "regproc" | "regprocedure" => {
                let name = name.split('(').next().unwrap_or(name);
                (self.find_function(name), SqlState::UndefinedFunction, format!("function \"{name}\" does not exist"))
            }
            "regcollation" => (
                static_tables::collation(&bare()),
                SqlState::UndefinedObject,
                format!("collation \"{name}\" does not exist"),
            ),
            _ => {
                (None, SqlState::InvalidTextRepresentation, format!("invalid input syntax for type {reg}: \"{name}\""))
            }
        };
        found.ok_or_else(|| Error::new(state, message))
    }

    /// The name of an OID as the `reg..` type prints it; the number itself where there is none.
    pub fn reg_name(&self, reg: &str, oid: Oid) -> String {
        if oid == 0 {
            return "-".into();
        }
        let name = match reg {
            "regclass" => self.class_name(oid),
            "regtype" => type_name(oid),
            "regnamespace" => self.catalog.get(oid).filter(|o| o.schema == 0).map(|o| quote_ident(&o.name)),
            "regrole" => (oid == catalog::SUPERUSER).then(|| quote_ident(&self.catalog.superuser)),
            "regproc" | "regprocedure" => pg_proc::function_name(self, oid),
            "regcollation" => static_tables::collation_name(oid),
            _ => None,
        };
        name.unwrap_or_else(|| oid.to_string())
    }
}

impl<'a> Class<'a> {
    /// (schema, name)
    pub fn names(self, ctx: &'a SystemContext) -> (&'a str, &'a str) {
        match self {
            Class::Object(o) => (ctx.schema_name(o.schema), &o.name),
            Class::Index(table, key) => (ctx.schema_name(table.schema), &key.name),
            Class::System(relation) => (relation.schema, relation.name),
        }
    }
}

/// `pg_class.relkind`; `None` for what Postgres would not call a relation.
pub fn relkind(object: &Object) -> Option<char> {
    match &object.kind {
        ObjectKind::Table(_) => Some('r'),
        ObjectKind::View(_) => Some('v'),
        ObjectKind::MaterializedView(_) => Some('m'),
        ObjectKind::Source(_) => Some('f'),
        ObjectKind::Sequence(_) => Some('S'),
        ObjectKind::Index(_) => Some('i'),
        ObjectKind::Schema
        | ObjectKind::Sink(_)
        | ObjectKind::Secret(_)
        | ObjectKind::Connection(_)
        | ObjectKind::Pipeline(_) => None,
    }
}

/// A table's keys; true marks the primary one.
pub fn keys(object: &Object) -> impl Iterator<Item = (&Key, bool)> {
    let table = match &object.kind {
        ObjectKind::Table(table) => Some(table),
        _ => None,
    };
    let primary = table.and_then(|t| t.primary_key.as_ref()).map(|k| (k, true));
    primary.into_iter().chain(table.into_iter().flat_map(|t| &t.unique).map(|k| (k, false)))
}

/// Splits `a.b`, folding what is not quoted to lower case.
pub fn split_name(text: &str) -> Option<(Option<String>, String)> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                part.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c if quoted => part.push(c),
            c => part.extend(c.to_lowercase()),
        }
    }
    let name = parts.pop()?;
    // A database name before the schema's says nothing: there is one.
    Some((parts.pop(), name))
}

/// What types are called where the name in `pg_type` is another.
const LONG_NAMES: [(&str, &str); 13] = [
    ("boolean", "bool"),
    ("smallint", "int2"),
    ("integer", "int4"),
    ("bigint", "int8"),
    ("real", "float4"),
    ("double precision", "float8"),
    ("character varying", "varchar"),
    ("character", "bpchar"),
    ("time without time zone", "time"),
    ("time with time zone", "timetz"),
    ("timestamp without time zone", "timestamp"),
    ("timestamp with time zone", "timestamptz"),
    ("bit varying", "varbit"),
];

/// Names that are read but never shown.
const SYNONYMS: [(&str, &str); 6] = [
    ("int", "int4"),
    ("float", "float8"),
    ("decimal", "numeric"),
    ("dec", "numeric"),
    ("char", "bpchar"),
    ("string", "text"),
];

/// The name in `pg_type` of a type by any of its names.
pub fn short_type_name(name: &str) -> String {
    let bare = name.split('(').next().unwrap_or(name).trim();
    let short = LONG_NAMES.iter().chain(&SYNONYMS).find(|(long, _)| *long == bare).map(|(_, short)| *short);
    short.unwrap_or(bare).to_string()
}

/// OID of a type by any of its names.
pub fn find_type(name: &str) -> Option<Oid> {
    let text = name.trim();
    if let Some(item) = text.strip_suffix("[]") {
        return find_type(item).and_then(|oid| static_tables::types().get(&oid)).map(|t| t.array).filter(|a| *a != 0);
    }
    let text = text.split('(').next().unwrap_or(text).trim();
    // "char" in quotes is the one-byte type.
    let quoted = text.ends_with('"');
    let (_, bare) = split_name(text)?;
    let alias = LONG_NAMES.iter().chain(&SYNONYMS).find(|(long, _)| *long == bare && !quoted).map(|(_, short)| *short);
    static TYPE_OIDS: LazyLock<HashMap<&'static str, Oid>> =
        LazyLock::new(|| static_tables::types().iter().map(|(oid, t)| (t.name.as_str(), *oid)).collect());
    TYPE_OIDS.get(alias.unwrap_or(&bare)).copied()
}

fn type_name(oid: Oid) -> Option<String> {
    let found = static_tables::types().get(&oid)?;
    if found.item != 0 && found.is_array {
        return type_name(found.item).map(|item| format!("{item}[]"));
    }
    let long = LONG_NAMES.iter().find(|(_, short)| *short == found.name).map(|(long, _)| (*long).to_string());
    Some(match (long, found.name.as_str()) {
        (Some(long), _) => long,
        (None, "char") => "\"char\"".into(),
        (None, name) => quote_ident(name),
    })
}

/// `format_type(oid, typmod)`
pub fn format_type(oid: Oid, typmod: Option<i64>) -> String {
    if oid == 0 {
        return "-".into();
    }
    let Some(name) = type_name(oid) else { return "???".into() };
    let Some(typmod) = typmod.filter(|t| *t >= 0) else { return name };
    let (base, brackets) = match name.strip_suffix("[]") {
        Some(base) => (base, "[]"),
        None => (name.as_str(), ""),
    };
    match base {
        "numeric" => format!("numeric({},{}){brackets}", (typmod - 4) >> 16, (typmod - 4) & 0x7ff),
        "character varying" | "character" => format!("{base}({}){brackets}", typmod - 4),
        "time without time zone"
        | "time with time zone"
        | "timestamp without time zone"
        | "timestamp with time zone" => {
            let (first, rest) = base.split_once(' ').unwrap_or((base, ""));
            format!("{first}({typmod}) {rest}{brackets}")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_any_name_and_named_as_postgres_does() {
        assert_eq!(find_type("int"), Some(23));
        assert_eq!(find_type("pg_catalog.int4[]"), Some(1007));
        assert_eq!(find_type("\"char\""), Some(18));
        assert_eq!(find_type("character varying(10)"), Some(1043));
        assert_eq!(find_type("nothing"), None);
        assert_eq!(format_type(1700, Some((10 << 16) + 2 + 4)), "numeric(10,2)");
        assert_eq!(format_type(1015, Some(14)), "character varying(10)[]");
        assert_eq!(format_type(1184, Some(-1)), "timestamp with time zone");
        assert_eq!(format_type(1042, None), "character");
        assert_eq!((format_type(0, None).as_str(), format_type(999_999, None).as_str()), ("-", "???"));
    }

    #[test]
    fn names_are_split_as_sql_reads_them() {
        assert_eq!(split_name("Public.T"), Some((Some("public".into()), "t".into())));
        assert_eq!(split_name("\"A.b\"\"c\""), Some((None, "A.b\"c".into())));
    }
}
