//! How the records of one schema become the columns that are wanted.
//!
//! ```text
//!   writer's schema   id: int   note: string   at: timestamp-millis        (of the record, by its id)
//!   reader's schema   id: long  remark: string = "", alias note            (the subject's latest when reading began)
//!   wanted            remark text, id bigint, at timestamptz
//!   ─▶ steps          id ─▶ column 1    note ─▶ column 0    at ─▶ column 2
//! ```
//!
//! A column is the field of its name (as it stands, or else whatever the case), of the field that the reader's schema has by that
//! name, or of one of the aliases of either. A field that the record's schema does not have is the reader's default, or else NULL.
//! Types are matched with the column, not with the reader's: a number stands for a wider one whoever writes it, and an enum's
//! symbol is its text whether the reader knows it or not.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Fields, SchemaRef};
use serde_json::Value;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::schema::{Field, Id, Leaf, Node, Record, Schema};
use super::types;
use crate::formats::column::{Kind, takes};

#[derive(Debug)]
pub(super) enum Plan {
    Null,
    Leaf(Leaf),
    Enum(Arc<[String]>),
    Array(Box<Plan>),
    Map(Box<Plan>),
    Record(RecordPlan),
    /// A branch that does not fit fails when it is met.
    Union(Vec<Result<Plan>>),
}

#[derive(Debug, Default)]
pub(super) struct RecordPlan {
    /// Of the columns.
    pub names: Vec<String>,
    /// For each field of the record in order.
    pub steps: Vec<Step>,
    /// Columns that no field is for: the reader's default, or NULL.
    pub absent: Vec<(usize, Option<ReaderDefault>)>,
}

#[derive(Debug)]
pub(super) enum Step {
    Skip(Id),
    /// Into this column.
    Read(usize, Plan),
}

/// A default, as the reader's schema has it.
#[derive(Debug)]
pub(super) struct ReaderDefault {
    pub schema: Arc<Schema>,
    pub node: Id,
    pub value: Value,
}

/// Between a writer's schema and the columns.
struct Matching<'a> {
    writer: &'a Schema,
    reader: &'a Arc<Schema>,
    /// Everything must fit: the reader's schema is held against the declared columns.
    strict: bool,
}

/// The plan for records by `writer`. `reader`: the schema that names and defaults are taken from. Of the columns `declared` those at the
/// places `wanted` are read, in that order; which field is whose does not depend on it.
pub(super) fn plan(
    writer: &Schema,
    reader: &Arc<Schema>,
    declared: &SchemaRef,
    wanted: &[usize],
) -> Result<RecordPlan> {
    let matching = Matching { writer, reader, strict: false };
    matching.record(writer.record()?, Some(reader.record()?), &columns(declared.fields()), wanted)
}

/// The writer's fields that no column is for, by name and what they hold; `within`: of the record that this field is.
pub(super) fn unread<'a>(writer: &'a Schema, plan: &RecordPlan, within: Option<&str>) -> Vec<(&'a str, Id)> {
    let Ok(record) = writer.record() else { return Vec::new() };
    let Some(within) = within else { return skipped(record, plan) };
    let field = record.fields.iter().zip(&plan.steps).find(|(field, _)| field.name == within);
    let Some((field, Step::Read(_, below))) = field else { return Vec::new() };
    let branches: &[Result<Plan>] = match below {
        Plan::Union(branches) => branches,
        _ => &[],
    };
    let mut plans = std::iter::once(below).chain(branches.iter().flatten());
    let plan = plans.find_map(|plan| if let Plan::Record(plan) = plan { Some(plan) } else { None });
    match (writer.node(writer.without_null(field.node)), plan) {
        (Node::Record(record), Some(plan)) => skipped(record, plan),
        _ => Vec::new(),
    }
}

fn skipped<'a>(record: &'a Record, plan: &RecordPlan) -> Vec<(&'a str, Id)> {
    let skipped = record.fields.iter().zip(&plan.steps).filter(|(_, step)| matches!(step, Step::Skip(_)));
    skipped.map(|(field, _)| (field.name.as_str(), field.node)).collect()
}

/// Refuses columns that the reader's schema does not have, or has otherwise.
pub(super) fn check(reader: &Arc<Schema>, declared: &SchemaRef) -> Result<()> {
    let (record, columns) = (reader.record()?, columns(declared.fields()));
    let all: Vec<usize> = (0..columns.len()).collect();
    Matching { writer: reader, reader, strict: true }.record(record, Some(record), &columns, &all).map(drop)
}

fn columns(fields: &Fields) -> Vec<(String, SqlType)> {
    fields.iter().map(|field| (field.name().clone(), SqlType::from_field(field))).collect()
}

impl Matching<'_> {
    fn record(
        &self,
        writer: &Record,
        reader: Option<&Arc<Record>>,
        columns: &[(String, SqlType)],
        wanted: &[usize],
    ) -> Result<RecordPlan> {
        let of_reader = places(reader.map_or(&[], |record| record.fields.as_slice()), columns);
        let of_writer = places(&writer.fields, columns);
        let names = wanted.iter().map(|column| columns[*column].0.clone()).collect();
        let mut plan = RecordPlan { names, ..RecordPlan::default() };
        let mut steps: Vec<Step> = writer.fields.iter().map(|field| Step::Skip(field.node)).collect();
        let mut taken = vec![false; writer.fields.len()];
        for (column, (name, sql_type)) in columns.iter().enumerate() {
            let read = of_reader[column].and_then(|place| Some(&reader?.fields[place]));
            let place = self.field_of(writer, read, of_writer[column]).filter(|place| !taken[*place]);
            if let Some(place) = place {
                taken[place] = true;
            }
            let Some(at) = wanted.iter().position(|wanted| *wanted == column) else { continue };
            match place {
                Some(place) => {
                    let found = self.value(writer.fields[place].node, read.map(|read| read.node), sql_type);
                    let found = found.map_err(|error| error.context(format!("column \"{name}\"")))?;
                    steps[place] = Step::Read(at, found);
                }
                None if self.strict => return Err(missing(name, &writer.fields)),
                None => plan.absent.push((at, self.default(read))),
            }
        }
        plan.steps = steps;
        Ok(plan)
    }

    /// The writer's field for a column.
    fn field_of(&self, writer: &Record, read: Option<&Field>, by_name: Option<usize>) -> Option<usize> {
        let place = |name: &str| writer.fields.iter().position(|field| field.name == name);
        let Some(read) = read else { return by_name };
        let by_alias = || read.aliases.iter().find_map(|alias| place(alias));
        let renamed = || writer.fields.iter().position(|field| field.aliases.contains(&read.name));
        place(&read.name).or_else(by_alias).or_else(renamed).or(by_name)
    }

    fn default(&self, read: Option<&Field>) -> Option<ReaderDefault> {
        let (read, value) = read.and_then(|read| Some((read, read.default.clone()?)))?;
        Some(ReaderDefault { schema: Arc::clone(self.reader), node: read.node, value })
    }

    fn value(&self, id: Id, reader: Option<Id>, sql_type: &SqlType) -> Result<Plan> {
        let inner = reader.map(|id| self.reader.without_null(id));
        let below = |part: fn(&Node) -> Option<Id>| inner.and_then(|id| part(self.reader.node(id)));
        Ok(match (self.writer.node(id), sql_type) {
            (Node::Null, _) => Plan::Null,
            (Node::Union(branches), _) => {
                if self.strict && matches!(self.writer.node(self.writer.without_null(id)), Node::Union(_)) {
                    types::sql_type(self.writer, id)?;
                }
                let plans = branches.iter().map(|branch| self.value(*branch, reader, sql_type));
                match self.strict {
                    true => Plan::Union(plans.collect::<Result<Vec<_>>>()?.into_iter().map(Ok).collect()),
                    false => Plan::Union(plans.collect()),
                }
            }
            (Node::Leaf(leaf), _) if takes(sql_type, leaf.kind()) => Plan::Leaf(*leaf),
            (Node::Enum(symbols), _) if takes(sql_type, Kind::Text) => Plan::Enum(Arc::clone(symbols)),
            (Node::Array(items), SqlType::Array(item)) => {
                let reader = below(|node| if let Node::Array(items) = node { Some(*items) } else { None });
                Plan::Array(Box::new(self.value(*items, reader, item)?))
            }
            (Node::Map(values), SqlType::Map(key, value)) if takes(key, Kind::Text) => {
                let reader = below(|node| if let Node::Map(values) = node { Some(*values) } else { None });
                Plan::Map(Box::new(self.value(*values, reader, value)?))
            }
            (Node::Record(record), SqlType::Struct(fields)) => {
                let reader = inner.and_then(|id| match self.reader.node(id) {
                    Node::Record(record) => Some(record),
                    _ => None,
                });
                let all: Vec<usize> = (0..fields.len()).collect();
                Plan::Record(self.record(record, reader, fields, &all)?)
            }
            _ => return Err(self.mismatch(id, sql_type)),
        })
    }

    fn mismatch(&self, id: Id, sql_type: &SqlType) -> Error {
        let (found, own) = (self.writer.name(id), types::sql_type(self.writer, id));
        let error =
            Error::new(SqlState::DatatypeMismatch, format!("it is of type {sql_type} but the schema has {found}"));
        match own {
            Ok(own) => error.with_hint(format!("Declare it as {own}.")),
            Err(_) => error,
        }
    }
}

/// The field of each column: by its name, or else by its name in another case if no column has that one's.
fn places(fields: &[Field], columns: &[(String, SqlType)]) -> Vec<Option<usize>> {
    let exact: Vec<Option<usize>> =
        columns.iter().map(|(name, _)| fields.iter().position(|field| field.name == *name)).collect();
    let folded = |name: &str| {
        fields
            .iter()
            .enumerate()
            .position(|(at, field)| field.name.eq_ignore_ascii_case(name) && !exact.contains(&Some(at)))
    };
    columns.iter().zip(&exact).map(|((name, _), place)| place.or_else(|| folded(name))).collect()
}

fn missing(column: &str, fields: &[Field]) -> Error {
    let error = Error::new(SqlState::UndefinedColumn, format!("the schema has no field for column \"{column}\""));
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    match nearest(column, names.iter().copied()) {
        Some(near) => error.with_hint(format!("Perhaps it is \"{near}\".")),
        None => error.with_detail(format!("It has: {}.", names.join(", "))),
    }
}
