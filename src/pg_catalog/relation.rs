//! System relations: their columns, and rows of them.
//!
//! ```text
//!   relations.txt ──once──▶ Relation ──rows(..)──▶ Rows::push(name => value, ..) ──finish──▶ RecordBatch
//! ```
//!
//! A row names only the columns it knows; the others are NULL, or the type's zero where Postgres says NOT NULL.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int16Array, Int16Builder, Int32Array, Int32Builder, Int64Array,
    ListBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder, TimestampMicrosecondArray,
    new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use tidemark_catalog::Column;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result};

/// `kind` of what Postgres has as a function of rows.
const FUNCTION: char = 'F';

#[derive(Debug)]
pub struct Relation {
    pub schema: &'static str,
    pub name: &'static str,
    pub oid: Oid,
    /// As in `pg_class.relkind`.
    pub kind: char,
    pub columns: Vec<SystemColumn>,
    pub arrow: SchemaRef,
    positions: HashMap<&'static str, usize>,
}

#[derive(Debug)]
pub struct SystemColumn {
    pub name: &'static str,
    pub sql_type: SqlType,
    pub not_null: bool,
}

impl SystemColumn {
    /// As the catalog says a column of a table: the `at`th of its relation, from 0.
    pub fn column(&self, at: usize) -> Column {
        Column { nullable: !self.not_null, ..Column::new(self.name, self.sql_type.clone(), at as i16 + 1) }
    }
}

static RELATIONS: LazyLock<BTreeMap<&'static str, BTreeMap<&'static str, Relation>>> = LazyLock::new(|| {
    let lines = include_str!("relations.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let mut schemas: BTreeMap<&'static str, BTreeMap<&'static str, Relation>> = BTreeMap::new();
    for relation in lines.filter_map(Relation::parse) {
        schemas.entry(relation.schema).or_default().insert(relation.name, relation);
    }
    schemas
});

pub fn relation(schema: &str, name: &str) -> Option<&'static Relation> {
    RELATIONS.get(schema)?.get(name)
}

/// All but what is a function in Postgres.
pub fn relations() -> impl Iterator<Item = &'static Relation> {
    RELATIONS.values().flat_map(BTreeMap::values).filter(|r| r.kind != FUNCTION)
}

pub fn relation_by_oid(oid: Oid) -> Option<&'static Relation> {
    relations().find(|r| r.oid == oid)
}

impl Relation {
    /// Reads a line of `relations.txt`; `None` where it is malformed, which a test rules out.
    fn parse(line: &'static str) -> Option<Relation> {
        let (head, columns) = line.split_once(": ")?;
        let mut words = head.split(' ');
        let (schema, name) = words.next()?.split_once('.')?;
        let (oid, kind) = (words.next()?.parse().ok()?, words.next()?.chars().next()?);
        let columns: Vec<SystemColumn> = columns
            .split(", ")
            .map(|column| {
                let (name, typename) = column.split_once(' ')?;
                let not_null = typename.ends_with('!');
                Some(SystemColumn { name, sql_type: type_of(typename.trim_end_matches('!'))?, not_null })
            })
            .collect::<Option<_>>()?;
        let fields: Vec<_> = columns.iter().map(|c| c.sql_type.to_field(c.name, !c.not_null)).collect();
        let positions = columns.iter().enumerate().map(|(i, c)| (c.name, i)).collect();
        Some(Relation { schema, name, oid, kind, columns, arrow: Arc::new(Schema::new(fields)), positions })
    }

    pub fn rows(&'static self) -> Rows {
        Rows { relation: self, columns: self.columns.iter().map(|_| Vec::new()).collect(), unknown: None, len: 0 }
    }
}

/// How a Postgres type is held. Types that clients only print are text.
fn type_of(name: &str) -> Option<SqlType> {
    if let Some(item) = name.strip_suffix("[]") {
        // Without markers: Arrow list types are equal only if their items' metadata are.
        return Some(SqlType::Array(Box::new(match type_of(item)? {
            SqlType::Oid => SqlType::Integer,
            SqlType::Name => SqlType::Text,
            other => other,
        })));
    }
    Some(match name {
        "bool" => SqlType::Boolean,
        "name" => SqlType::Name,
        "int2" => SqlType::SmallInt,
        "int4" => SqlType::Integer,
        "int8" | "xid" => SqlType::BigInt,
        "oid" | "regproc" | "regtype" => SqlType::Oid,
        "float4" => SqlType::Real,
        "float8" => SqlType::Double,
        "numeric" => SqlType::Numeric(None),
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "bytea" => SqlType::Bytea,
        "int2vector" => SqlType::Array(Box::new(SqlType::SmallInt)),
        "oidvector" => SqlType::Array(Box::new(SqlType::Integer)),
        "anyarray" => SqlType::Array(Box::new(SqlType::Text)),
        "text" | "char" | "aclitem" | "pg_node_tree" | "pg_lsn" | "inet" | "pg_ndistinct" | "pg_dependencies"
        | "pg_mcv_list" | "pg_statistic" => SqlType::Text,
        _ => return None,
    })
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// Integers, OIDs, and timestamps in microseconds.
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $into:expr),* $(,)?) => {
        $(impl From<$from> for Value { fn from($v: $from) -> Value { $into } })*
    };
}
value_from! {
    bool => |v| Value::Bool(v),
    i16 => |v| Value::Int(v.into()),
    i32 => |v| Value::Int(v.into()),
    u32 => |v| Value::Int(v.into()),
    i64 => |v| Value::Int(v),
    f64 => |v| Value::Float(v),
    char => |v| Value::Text(v.into()),
    &str => |v| Value::Text(v.into()),
    &String => |v| Value::Text(v.clone()),
    String => |v| Value::Text(v),
    Vec<i64> => |v| Value::Ints(v),
    Vec<String> => |v| Value::Texts(v),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Rows of a relation under construction.
pub struct Rows {
    relation: &'static Relation,
    columns: Vec<Vec<Value>>,
    unknown: Option<String>,
    len: usize,
}

/// `row!(rows, oid: 1, relname: "t")` adds a row.
macro_rules! row {
    ($rows:expr, $($name:ident: $value:expr),* $(,)?) => {
        $rows.push([$((stringify!($name), $crate::pg_catalog::relation::Value::from($value))),*])
    };
}
pub(crate) use row;

impl Rows {
    pub fn push<const N: usize>(&mut self, values: [(&'static str, Value); N]) {
        self.len += 1;
        for (name, value) in values {
            match self.relation.positions.get(name) {
                Some(&i) => self.columns[i].push(value),
                None => self.unknown = Some(name.to_string()),
            }
        }
        for (column, spec) in self.columns.iter_mut().zip(&self.relation.columns) {
            if column.len() < self.len {
                column.push(if spec.not_null { zero(&spec.sql_type) } else { Value::Null });
            }
        }
    }

    pub fn finish(self) -> Result<RecordBatch> {
        let relation = self.relation;
        if let Some(name) = self.unknown {
            return Err(Error::internal(format!("{} has no column {name}", relation.name)));
        }
        let arrays = self
            .columns
            .into_iter()
            .zip(&relation.columns)
            .map(|(values, spec)| {
                to_array(&values, &spec.sql_type).map_err(|e| e.context(format!("{}.{}", relation.name, spec.name)))
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.len));
        Ok(RecordBatch::try_new_with_options(relation.arrow.clone(), arrays, &options)?)
    }
}

/// What stands for "nothing" in a NOT NULL column.
pub fn zero(sql_type: &SqlType) -> Value {
    match sql_type {
        SqlType::Boolean => Value::Bool(false),
        SqlType::Real | SqlType::Double => Value::Float(0.0),
        SqlType::Text | SqlType::Name => Value::Text(String::new()),
        SqlType::Array(item) if **item == SqlType::Text => Value::Texts(vec![]),
        SqlType::Array(_) => Value::Ints(vec![]),
        _ => Value::Int(0),
    }
}

pub fn to_array(values: &[Value], sql_type: &SqlType) -> Result<ArrayRef> {
    let int = |v: &Value| if let Value::Int(i) = v { Some(*i) } else { None };
    let narrow = |v: &Value| int(v).and_then(|i| i32::try_from(i).ok().or(u32::try_from(i).ok().map(|u| u as i32)));
    let float = |v: &Value| match v {
        Value::Float(f) => Some(*f),
        Value::Int(i) => Some(*i as f64),
        _ => None,
    };
    let array: ArrayRef = match sql_type {
        SqlType::Boolean => Arc::new(
            values.iter().map(|v| if let Value::Bool(b) = v { Some(*b) } else { None }).collect::<BooleanArray>(),
        ),
        SqlType::SmallInt => {
            Arc::new(values.iter().map(|v| int(v).and_then(|i| i.try_into().ok())).collect::<Int16Array>())
        }
        SqlType::Integer | SqlType::Oid => Arc::new(values.iter().map(narrow).collect::<Int32Array>()),
        SqlType::BigInt => Arc::new(values.iter().map(int).collect::<Int64Array>()),
        SqlType::Real => Arc::new(values.iter().map(|v| float(v).map(|f| f as f32)).collect::<Float32Array>()),
        SqlType::Double => Arc::new(values.iter().map(float).collect::<Float64Array>()),
        SqlType::Text | SqlType::Name => Arc::new(
            values
                .iter()
                .map(|v| if let Value::Text(t) = v { Some(t.as_str()) } else { None })
                .collect::<StringArray>(),
        ),
        SqlType::TimestampTz => {
            Arc::new(values.iter().map(int).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        SqlType::Array(item) => list_array(values, item)?,
        other => new_null_array(&other.data_type(), values.len()),
    };
    let nulls = values.iter().filter(|v| **v == Value::Null).count();
    if array.logical_null_count() != nulls {
        return Err(Error::internal(format!("a value does not fit into {sql_type}")));
    }
    Ok(array)
}

fn list_array(values: &[Value], item: &SqlType) -> Result<ArrayRef> {
    macro_rules! list {
        ($builder:expr, $variant:path, |$b:ident, $v:ident| $append:expr) => {{
            let mut list = ListBuilder::new($builder);
            for value in values {
                if let $variant(items) = value {
                    for $v in items {
                        let $b = list.values();
                        $append;
                    }
                    list.append(true);
                } else {
                    list.append(false);
                }
            }
            Ok(Arc::new(list.finish()))
        }};
    }
    match item.data_type() {
        DataType::Utf8 => list!(StringBuilder::new(), Value::Texts, |b, v| b.append_value(v)),
        DataType::Int16 => list!(Int16Builder::new(), Value::Ints, |b, v| b.append_value(*v as i16)),
        DataType::Int32 => list!(Int32Builder::new(), Value::Ints, |b, v| b.append_value(*v as i32)),
        _ => Ok(new_null_array(&SqlType::Array(Box::new(item.clone())).data_type(), values.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_oids_are_unique() {
        let is_relation = |line: &&str| !line.starts_with('#') && !line.contains(" F: ");
        let lines = include_str!("relations.txt").lines().filter(is_relation).count();
        assert_eq!(relations().count(), lines);
        let mut oids: Vec<Oid> = relations().map(|r| r.oid).collect();
        oids.sort();
        oids.dedup();
        assert_eq!(oids.len(), lines);
    }

    #[test]
    fn rows_default_what_they_do_not_name_and_refuse_what_is_not_there() {
        let class = relation("pg_catalog", "pg_class").unwrap();
        let mut rows = class.rows();
        row!(rows, oid: 7, relname: "t");
        let batch = rows.finish().unwrap();
        assert_eq!(batch.num_rows(), 1);
        assert!(batch.column_by_name("reloptions").unwrap().is_null(0));
        assert!(batch.column_by_name("relhasindex").unwrap().is_valid(0));
        let mut rows = class.rows();
        row!(rows, nonsense: 1);
        assert!(rows.finish().unwrap_err().message().contains("nonsense"));
    }
}
