//! Catalog objects as they are stored: what a CREATE statement said, after names were resolved.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use tidemark_common::normalize::Normalize;
use tidemark_common::plan::Emit;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result};

use crate::pipeline::Pipeline;
use crate::secret::Secret;

/// Format of a stored object, its first byte.
const FORMAT: u8 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    pub oid: Oid,
    /// 0 for a schema itself.
    pub schema: Oid,
    pub name: String,
    pub owner: Oid,
    #[serde(default)]
    pub comment: Option<String>,
    /// Everything that must exist for this to work. DROP of one of those needs CASCADE.
    #[serde(default)]
    pub depends_on: BTreeSet<Oid>,
    /// The relations among those as they were when this was defined: in a stored query their names mean these, for ever.
    #[serde(default)]
    pub reads: Vec<Read>,
    /// Where its joins look rows up instead of keeping them: a relation, and columns with which a key or an index of it begins.
    /// The indexes that do are among `depends_on`.
    #[serde(default)]
    pub lookups: Vec<(Oid, Vec<usize>)>,
    /// Tables of other systems that its joins ask for rows by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
    /// The session whose end drops it; temporary objects are not there after a restart.
    #[serde(default)]
    pub temporary: bool,
    pub kind: ObjectKind,
}

/// A table of another system as a stored query knows it, whatever has become of it there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub connection: Oid,
    pub schema: String,
    pub table: String,
    pub columns: Vec<Column>,
}

/// A relation as a stored query knows it, whatever it is called since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Read {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    /// Its first columns; those added later are not in a stored `SELECT *`.
    pub columns: Vec<String>,
}

impl Read {
    /// The one that a name means.
    pub fn find<'a>(reads: &'a [Read], schema: Option<&str>, name: &str, search_path: &[String]) -> Option<&'a Read> {
        let mut named = reads.iter().filter(|read| read.name == name);
        match schema {
            Some(schema) => named.find(|read| read.schema == schema),
            None => named.min_by_key(|read| search_path.iter().position(|s| *s == read.schema).unwrap_or(usize::MAX)),
        }
    }

    /// The relation under the column names that the query knows.
    pub fn as_known(&self, object: &Object) -> Object {
        let mut known = object.clone();
        known.columns_mut().iter_mut().zip(&self.columns).for_each(|(column, name)| column.name.clone_from(name));
        known
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ObjectKind {
    Schema,
    Table(Table),
    View(View),
    MaterializedView(MaterializedView),
    Source(Source),
    Sink(Sink),
    Sequence(Sequence),
    Index(Index),
    Secret(Secret),
    Connection(Connection),
    Pipeline(Pipeline),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub sql_type: SqlType,
    pub nullable: bool,
    /// SQL text of the DEFAULT expression.
    #[serde(default)]
    pub default: Option<String>,
    #[serde(default)]
    pub identity: Option<Identity>,
    /// What its values go through when they are given.
    #[serde(default)]
    pub normalize: Option<Normalize>,
    #[serde(default)]
    pub comment: Option<String>,
    /// The 1-based number a column keeps for life, as `pg_attribute.attnum`.
    pub attnum: i16,
}

impl Column {
    /// A column that may be NULL and of which nothing else is said. `attnum`: its number, from 1.
    pub fn new(name: impl Into<String>, sql_type: SqlType, attnum: i16) -> Self {
        Self {
            name: name.into(),
            sql_type,
            nullable: true,
            default: None,
            identity: None,
            normalize: None,
            comment: None,
            attnum,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    Always,
    ByDefault,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub columns: Vec<Column>,
    #[serde(default)]
    pub primary_key: Option<Key>,
    #[serde(default)]
    pub unique: Vec<Key>,
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Distinguishes the stored contents from those before a rewriting ALTER TABLE.
    #[serde(default)]
    pub generation: u32,
    #[serde(default)]
    pub load: Option<TableLoad>,
    /// Nothing of it is kept here.
    #[serde(default)]
    pub remote: Option<Remote>,
    /// Rows go when they are old.
    #[serde(default)]
    pub ttl: Option<Ttl>,
}

/// How long rows of a table or a source stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// The column of their time, by its number for life.
    pub attnum: i16,
    /// Microseconds after it.
    pub micros: i64,
}

impl Ttl {
    /// Of its column.
    pub fn position(&self, columns: &[Column]) -> Option<usize> {
        columns.iter().position(|column| column.attnum == self.attnum)
    }
}

/// The table of another system that holds what is loaded: WITH (connection = ..).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remote {
    pub connection: Oid,
    pub schema: String,
    pub table: String,
    /// As it was said.
    #[serde(default)]
    pub on_drift: Option<String>,
}

impl Remote {
    /// `schema.table`, quoted where that is needed.
    pub fn name(&self) -> String {
        format!("{}.{}", crate::quote_ident(&self.schema), crate::quote_ident(&self.table))
    }
}

/// How rows are loaded into a table: WITH (strategy = ..).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableLoad {
    pub options: Vec<(String, String)>,
    /// Columns that the strategy has added to those that were declared.
    pub own: Vec<String>,
    /// The key as it was declared, where the stored one is another.
    pub declared_key: Option<Key>,
}

/// A PRIMARY KEY or UNIQUE constraint over columns by position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub oid: Oid,
    pub name: String,
    pub columns: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub oid: Oid,
    pub name: String,
    /// SQL text of the condition.
    pub expr: String,
}

/// A plain view: its query takes its place wherever it is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub columns: Vec<Column>,
    pub query: String,
    /// Names in `query` were resolved along this path.
    pub search_path: Vec<String>,
    /// Its columns are called otherwise than those of `query`: a list of names was given, or one was renamed.
    #[serde(default)]
    pub own_names: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaterializedView {
    pub columns: Vec<Column>,
    pub query: String,
    pub search_path: Vec<String>,
    /// As a [`View`]'s.
    #[serde(default)]
    pub own_names: bool,
    pub emit: Emit,
    #[serde(default)]
    pub options: Vec<(String, String)>,
    /// How the contents are keyed, by position; `None`: not known.
    #[serde(default)]
    pub key: Option<Vec<usize>>,
    /// Rows are only ever added.
    pub append_only: bool,
    /// Column that carries a watermark.
    #[serde(default)]
    pub watermark: Option<usize>,
    /// The dataflow's EXPLAIN text: state on disk fits only the plan it was made by.
    pub fingerprint: String,
    /// Whose OID its rows and state are kept under; `None`: its own. (`pg_class.relfilenode`, in Postgres.)
    #[serde(default)]
    pub storage: Option<Oid>,
    /// The view whose place it takes when it has been built.
    #[serde(default)]
    pub replaces: Option<Oid>,
}

/// The source that a table is read by together with others, and what the table is called there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub source: Oid,
    pub table: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Declared columns, then INCLUDE columns.
    pub columns: Vec<Column>,
    /// How many of `columns` are declared.
    pub declared: usize,
    /// How many of the last of these have been added since.
    #[serde(default)]
    pub added: usize,
    /// (what, column name)
    #[serde(default)]
    pub include: Vec<(String, String)>,
    #[serde(default)]
    pub watermark: Option<Watermark>,
    pub options: Vec<(String, String)>,
    /// Options whose values are secrets, by OID.
    #[serde(default)]
    pub secrets: Vec<(String, Oid)>,
    #[serde(default)]
    pub format: Option<Format>,
    /// The table that takes rows that come too late.
    #[serde(default)]
    pub late_table: Option<Oid>,
    #[serde(default)]
    pub ttl: Option<Ttl>,
    /// Whose options it has besides its own.
    #[serde(default)]
    pub connection: Option<Oid>,
    /// Positions of the primary key, by which its rows are put and deleted; empty: rows only come.
    #[serde(default)]
    pub key: Vec<usize>,
    /// Columns whose values are not under their names: where they are in a record.
    #[serde(default)]
    pub paths: Vec<(usize, String)>,
    /// It is a table of another source. Its options are besides that one's.
    #[serde(default)]
    pub shared: Option<Shared>,
}

impl Source {
    /// It has no rows, but tables that are read by it.
    pub fn is_shared(&self) -> bool {
        self.columns.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Format {
    pub format: String,
    pub encode: String,
    pub options: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watermark {
    /// Position of the event-time column.
    pub column: usize,
    /// SQL text of the expression over the source's columns.
    pub expr: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sink {
    /// What is sent: a query over relations (`FROM v` is stored as `SELECT * FROM v`).
    pub query: String,
    pub search_path: Vec<String>,
    pub emit: Emit,
    pub columns: Vec<Column>,
    pub append_only: bool,
    /// Positions of columns that tell the rows apart; `None`: not known.
    #[serde(default)]
    pub key: Option<Vec<usize>>,
    /// What it is called in the system that it writes to: nothing else ever has this name.
    #[serde(default)]
    pub identity: String,
    pub options: Vec<(String, String)>,
    #[serde(default)]
    pub secrets: Vec<(String, Oid)>,
    /// By which it reaches that system, where it does not say so itself.
    #[serde(default)]
    pub connection: Option<Oid>,
    #[serde(default)]
    pub format: Option<Format>,
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub sql_type: SqlType,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
    /// Table and column (attnum) that it is dropped with.
    #[serde(default)]
    pub owned_by: Option<(Oid, i16)>,
}

/// Another system, and how to reach it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// As they were written: `${NAME}` stands for an environment variable when the connection is used.
    pub options: Vec<(String, String)>,
    /// Options whose values are secrets, by OID.
    #[serde(default)]
    pub secrets: Vec<(String, Oid)>,
}

/// An index that CREATE INDEX made, in the schema of its relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The table or materialized view.
    pub relation: Oid,
    pub columns: Vec<IndexColumn>,
    pub unique: bool,
    /// btree or hash: what the statement said. There is one kind.
    pub method: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Position in the relation.
    pub column: usize,
    /// As they were said; entries are found in either direction.
    #[serde(default)]
    pub descending: bool,
    #[serde(default)]
    pub nulls_first: bool,
    #[serde(default)]
    pub operator_class: Option<String>,
}

impl Index {
    pub fn positions(&self) -> Vec<usize> {
        self.columns.iter().map(|c| c.column).collect()
    }
}

impl Object {
    /// Bytes for the store: a format byte, then JSON, so that an object can gain fields.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![FORMAT];
        serde_json::to_writer(&mut bytes, self)
            .map_err(|e| Error::internal(format!("cannot encode \"{}\": {e}", self.name)))?;
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Object> {
        let corrupted = |why: String| Error::new(tidemark_common::SqlState::DataCorrupted, format!("catalog: {why}"));
        match bytes.split_first() {
            Some((&FORMAT, json)) => serde_json::from_slice(json).map_err(|e| corrupted(e.to_string())),
            Some((other, _)) => Err(corrupted(format!("object format {other} is not known"))),
            None => Err(corrupted("an object is empty".into())),
        }
    }

    /// It is a table that is read by a source.
    pub fn is_table_of_source(&self) -> bool {
        matches!(&self.kind, ObjectKind::Source(source) if source.shared.is_some())
    }

    /// Columns of a relation; empty for what has none.
    pub fn columns(&self) -> &[Column] {
        match &self.kind {
            ObjectKind::Table(t) => &t.columns,
            ObjectKind::View(v) => &v.columns,
            ObjectKind::MaterializedView(v) => &v.columns,
            ObjectKind::Source(s) => &s.columns,
            ObjectKind::Sink(s) => &s.columns,
            ObjectKind::Schema
            | ObjectKind::Sequence(_)
            | ObjectKind::Index(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Connection(_)
            | ObjectKind::Pipeline(_) => &[],
        }
    }

    /// Where a table is kept that is not kept here.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.kind {
            ObjectKind::Table(table) => table.remote.as_ref(),
            _ => None,
        }
    }

    /// When a view or sink tells what has changed.
    pub fn emit(&self) -> Emit {
        match &self.kind {
            ObjectKind::MaterializedView(v) => v.emit,
            ObjectKind::Sink(s) => s.emit,
            _ => Emit::Changes,
        }
    }

    /// What a view, sink or pipeline is made by, and the path along which its names were resolved.
    pub fn query(&self) -> Option<(&str, &[String])> {
        match &self.kind {
            ObjectKind::View(v) => Some((&v.query, &v.search_path)),
            ObjectKind::MaterializedView(v) => Some((&v.query, &v.search_path)),
            ObjectKind::Sink(s) => Some((&s.query, &s.search_path)),
            ObjectKind::Pipeline(p) => Some((&p.query, &p.search_path)),
            ObjectKind::Schema
            | ObjectKind::Table(_)
            | ObjectKind::Source(_)
            | ObjectKind::Sequence(_)
            | ObjectKind::Index(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Connection(_) => None,
        }
    }

    pub fn columns_mut(&mut self) -> &mut [Column] {
        match &mut self.kind {
            ObjectKind::Table(t) => &mut t.columns,
            ObjectKind::View(v) => &mut v.columns,
            ObjectKind::MaterializedView(v) => &mut v.columns,
            ObjectKind::Source(s) => &mut s.columns,
            ObjectKind::Sink(s) => &mut s.columns,
            ObjectKind::Schema
            | ObjectKind::Sequence(_)
            | ObjectKind::Index(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Connection(_)
            | ObjectKind::Pipeline(_) => &mut [],
        }
    }

    pub fn arrow_schema(&self) -> SchemaRef {
        columns_schema(self.columns())
    }

    /// The dataflow of a continuous pipeline.
    pub fn continuous(&self) -> Option<&crate::pipeline::Continuous> {
        match &self.kind {
            ObjectKind::Pipeline(pipeline) => pipeline.continuous(),
            _ => None,
        }
    }

    /// The view whose place it takes when it has been built.
    pub fn replaces(&self) -> Option<Oid> {
        match &self.kind {
            ObjectKind::MaterializedView(view) => view.replaces,
            _ => None,
        }
    }

    /// The table or view that it is an index of.
    pub fn index(&self) -> Option<&Index> {
        match &self.kind {
            ObjectKind::Index(index) => Some(index),
            _ => None,
        }
    }

    /// The word of CREATE and DROP, lower-case.
    pub fn kind_name(&self) -> &'static str {
        self.kind.name()
    }
}

/// Arrow schema of catalog columns.
pub fn columns_schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|c| c.sql_type.to_field(&c.name, c.nullable)).collect::<Vec<_>>()))
}

/// Catalog columns of a query's result.
pub fn columns_of(schema: &Schema) -> Vec<Column> {
    schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| Column {
            nullable: f.is_nullable(),
            ..Column::new(f.name(), SqlType::from_field(f), i as i16 + 1)
        })
        .collect()
}

impl ObjectKind {
    pub fn name(&self) -> &'static str {
        match self {
            ObjectKind::Schema => "schema",
            ObjectKind::Table(_) => "table",
            ObjectKind::View(_) => "view",
            ObjectKind::MaterializedView(_) => "materialized view",
            ObjectKind::Source(_) => "source",
            ObjectKind::Sink(_) => "sink",
            ObjectKind::Sequence(_) => "sequence",
            ObjectKind::Index(_) => "index",
            ObjectKind::Secret(_) => "secret",
            ObjectKind::Connection(_) => "connection",
            ObjectKind::Pipeline(_) => "pipeline",
        }
    }

    /// Things one can name in FROM.
    pub fn is_relation(&self) -> bool {
        matches!(
            self,
            ObjectKind::Table(_) | ObjectKind::View(_) | ObjectKind::MaterializedView(_) | ObjectKind::Source(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_survives_its_encoding_and_a_newer_one_is_refused() {
        let object = Object {
            oid: 16390,
            schema: 2200,
            name: "t".into(),
            owner: 10,
            comment: Some("c".into()),
            reads: vec![Read { oid: 3, schema: "public".into(), name: "u".into(), columns: vec!["a".into()] }],
            depends_on: [3].into(),
            lookups: vec![(3, vec![0])],
            asked: vec![Asked {
                connection: 4,
                schema: "raw".into(),
                table: "t".into(),
                columns: vec![Column::new("a", SqlType::Text, 1)],
            }],
            temporary: false,
            kind: ObjectKind::Schema,
        };
        let mut bytes = object.encode().unwrap();
        assert_eq!(Object::decode(&bytes).unwrap(), object);
        bytes[0] = 9;
        assert_eq!(Object::decode(&bytes).unwrap_err().code(), "XX001");
        assert_eq!(Object::decode(&[]).unwrap_err().code(), "XX001");
    }
}
