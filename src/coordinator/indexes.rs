//! CREATE INDEX, and what other DDL does to a relation's indexes.
//!
//! ```text
//!   CREATE INDEX i ON r (a, b) ──▶ Object(Index) in r's schema ──PlannedStep::CreateIndex──▶ filled from r, kept with it from then on
//!   DROP r, DROP COLUMN a      ──▶ goes too
//!   CREATE OR REPLACE r        ──▶ made anew over the new one
//! ```
//!
//! A unique index is enforced as a UNIQUE constraint is. Within a transaction block the table's rows are written again for it, so
//! that the statements after it find what they violate.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast as sql;
use futures::future::BoxFuture;
use tidemark_catalog::{
    Catalog, Change, Index, IndexColumn, Key, Object, ObjectKind, SYSTEM_SCHEMAS, Table, quote_ident,
};
use tidemark_common::plan::Dataflow;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};

use super::event_time;
use super::{MAX_NAME, Target, already_exists};
use crate::database::Database;
use crate::query::{find_relation, object_name};
use crate::session::{Outcome, Session, fold};
use crate::transaction::PlannedStep;

/// As in Postgres.
const MAX_COLUMNS: usize = 32;

impl Session {
    /// Boxed: what a statement may need lies on the stack of every other one.
    pub(crate) fn create_index<'a>(&'a mut self, create: &'a sql::CreateIndex) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(self.create_index_inside(create))
    }

    async fn create_index_inside(&mut self, create: &sql::CreateIndex) -> Result<Outcome> {
        let done = || Ok(Outcome::Command("CREATE INDEX".into()));
        if create.concurrently && self.in_transaction_block() {
            return Err(Error::new(
                SqlState::ActiveSqlTransaction,
                "CREATE INDEX CONCURRENTLY cannot run inside a transaction block",
            ));
        }
        let relation = self.relation_to_index(&create.table_name)?;
        if let (Some(name), true) = (&create.name, create.if_not_exists)
            && let Some(taken) = self.catalog()?.find_in(relation.schema, &object_name(name, "")?.1)
        {
            self.tell(format!("relation \"{}\" already exists, skipping", taken.name));
            return done();
        }
        let index = described(create, &relation)?;
        if index.unique {
            event_time::refuse_if_late_table(self.catalog()?.as_ref(), &relation, "create a unique index on")?;
        }
        if let (true, ObjectKind::MaterializedView(_)) = (index.unique, &relation.kind) {
            return Err(Error::unsupported("a unique index on a materialized view is not supported")
                .with_detail("The rows of a view follow from its query, and nobody could be told of a violation.")
                .with_hint("Leave UNIQUE out: lookups are as fast."));
        }
        let name = self.index_name(create.name.as_ref(), &relation, &index)?;
        let target = Target { schema: relation.schema, name };
        let unique = index.unique;
        let mut object = self.object(target, BTreeSet::from([relation.oid]), ObjectKind::Index(index))?;
        object.temporary = relation.temporary;
        match &relation.kind {
            ObjectKind::Table(table) if unique && self.in_transaction_block() => {
                self.add_unique_index(&relation, table, object).await?;
            }
            _ => {
                let mut steps = vec![PlannedStep::CreateIndex(object.oid)];
                steps.extend(self.redefinition(&relation));
                self.change_catalog(vec![Change::Put(Box::new(object))], steps)?;
            }
        }
        done()
    }

    /// The engine knows a table by its definition, indexes and all; it is told of a view's one by one.
    pub(super) fn redefinition(&self, relation: &Object) -> Option<PlannedStep> {
        matches!(relation.kind, ObjectKind::Table(_)).then_some(PlannedStep::Redefine(relation.oid))
    }

    async fn add_unique_index(&mut self, relation: &Arc<Object>, table: &Table, index: Object) -> Result<()> {
        let name = index.name.clone();
        self.change_catalog(vec![Change::Put(Box::new(index))], vec![])?;
        let values: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
        let after = Table { generation: table.generation + 1, ..table.clone() };
        self.rewrite_table(relation, after, &values).await.map_err(|error| match error.state() {
            SqlState::UniqueViolation => {
                let detail = error.detail().unwrap_or_default().replace("already exists", "is duplicated");
                let message = format!("could not create unique index \"{name}\"");
                Error::new(SqlState::UniqueViolation, message).with_detail(detail)
            }
            _ => error,
        })
    }

    fn relation_to_index(&self, name: &sql::ObjectName) -> Result<Arc<Object>> {
        let catalog = self.catalog()?;
        let (schema, bare) = object_name(name, &catalog.database)?;
        let relation = find_relation(&catalog, name, &self.settled_search_path()).map_err(|error| {
            let schema = schema.as_deref().unwrap_or("pg_catalog");
            let system = SYSTEM_SCHEMAS.iter().any(|(_, name)| *name == schema);
            match system && crate::pg_catalog::system_table_names(schema).contains(&bare) {
                true => Error::new(
                    SqlState::InsufficientPrivilege,
                    format!("permission denied: \"{bare}\" is a system catalog"),
                ),
                false => error,
            }
        })?;
        let kinds = match &relation.kind {
            ObjectKind::Table(_) | ObjectKind::MaterializedView(_) => {
                self.refuse_if_remote(&relation, "create an index on")?;
                return Ok(relation);
            }
            ObjectKind::View(_) => "views",
            ObjectKind::Source(_) => "sources",
            ObjectKind::Sink(_) => "sinks",
            ObjectKind::Sequence(_) => "sequences",
            ObjectKind::Index(_) => "indexes",
            ObjectKind::Schema => "schemas",
            ObjectKind::Secret(_) => "secrets",
            ObjectKind::Connection(_) => "connections",
            ObjectKind::Pipeline(_) => "pipelines",
        };
        let error = Error::new(SqlState::WrongObjectType, format!("cannot create index on relation \"{bare}\""))
            .with_detail(format!("This operation is not supported for {kinds}."));
        Err(match &relation.kind {
            ObjectKind::View(_) | ObjectKind::Source(_) => error
                .with_hint("Not it, but a view can have one: CREATE MATERIALIZED VIEW over it, and the index on that."),
            _ => error,
        })
    }

    /// The name that the statement gives, or one made of the columns, as Postgres does.
    fn index_name(&mut self, given: Option<&sql::ObjectName>, relation: &Object, index: &Index) -> Result<String> {
        let catalog = self.catalog()?;
        let Some(given) = given else {
            let columns = column_part(relation, index);
            let mut names = (0..).map(|n| made_name(&relation.name, &columns, n));
            return names
                .find(|name| !is_taken(&catalog, relation.schema, name))
                .ok_or_else(|| Error::internal("there is no free name"));
        };
        if given.0.len() > 1 {
            return Err(
                Error::syntax("an index is in the schema of its relation").with_hint("Give its name without a schema.")
            );
        }
        let target = self.target(given, false)?;
        match catalog.find_in(relation.schema, &target.name) {
            Some(taken) => Err(already_exists(taken)),
            None if is_taken(&catalog, relation.schema, &target.name) => {
                Err(Error::new(SqlState::DuplicateTable, format!("relation \"{}\" already exists", target.name)))
            }
            None => Ok(target.name),
        }
    }

    /// The index of a constraint has its name among those of relations.
    pub(super) fn check_key_names<'a>(&self, schema: Oid, keys: impl Iterator<Item = &'a Key>) -> Result<()> {
        let catalog = self.catalog()?;
        for key in keys {
            if let Some(taken) = catalog.find_in(schema, &key.name) {
                return Err(already_exists(taken));
            }
        }
        Ok(())
    }

    // ---- What happens to its relation ------------------------------------------------------------------------------

    /// Indexes over a column that goes go with it; those over columns behind it find these one place earlier.
    pub(super) fn drop_indexed_column(&mut self, relation: Oid, position: usize) -> Result<()> {
        let catalog = self.catalog()?;
        let (mut changes, mut steps) = (Vec::new(), Vec::new());
        for (object, index) in catalog.indexes_of(relation) {
            if index.positions().contains(&position) {
                changes.push(Change::Remove(object.oid));
                steps.push(PlannedStep::Drop(object.oid));
                continue;
            }
            let mut index = index.clone();
            index.columns.iter_mut().filter(|c| c.column > position).for_each(|c| c.column -= 1);
            changes.push(Change::Put(Box::new(Object { kind: ObjectKind::Index(index), ..object.as_ref().clone() })));
        }
        if changes.is_empty() { Ok(()) } else { self.change_catalog(changes, steps) }
    }
}

/// The indexes that a plan needs where it looks rows up by no key of a table.
pub(super) fn indexes_used(dataflow: &Dataflow, catalog: &Catalog) -> Vec<Oid> {
    let index = |(relation, columns): (Oid, Vec<usize>)| {
        let object = catalog.get(relation)?;
        // As `Way::by` of the storage has it.
        let leads = |of: &[usize], partial: bool| of.starts_with(&columns) && (partial || of.len() == columns.len());
        let by_key = crate::pg_catalog::keys(object).any(|(key, primary)| leads(&key.columns, primary));
        let indexes = catalog.indexes_of(relation).filter(|(_, index)| leads(&index.positions(), !index.unique));
        let shortest = indexes.min_by_key(|(_, index)| index.columns.len());
        shortest.filter(|_| !by_key).map(|(index, _)| index.oid)
    };
    dataflow.lookups().into_iter().filter_map(index).collect()
}

/// The indexes of a view that is replaced, over what takes its place.
pub(super) fn move_indexes(
    catalog: &Catalog,
    db: &Database,
    before: &Object,
    after: &Object,
) -> Result<(Vec<Change>, Vec<PlannedStep>)> {
    let (mut changes, mut steps) = (Vec::new(), Vec::new());
    for (object, index) in catalog.indexes_of(before.oid) {
        let mut index = Index { relation: after.oid, ..index.clone() };
        for column in &mut index.columns {
            let name = &before.columns()[column.column].name;
            column.column = after.columns().iter().position(|c| c.name == *name).ok_or_else(|| {
                Error::new(
                    SqlState::DependentObjectsStillExist,
                    format!("index {} needs column {name}, which the new {} does not have", object.name, after.name),
                )
                .with_hint("Drop the index first.")
            })?;
            indexable(&after.columns()[column.column])?;
        }
        let mut moved = Object { kind: ObjectKind::Index(index), ..object.as_ref().clone() };
        moved.oid = db.new_oid();
        moved.depends_on = BTreeSet::from([after.oid]);
        moved.reads.clear();
        changes.push(Change::Remove(object.oid));
        steps.push(PlannedStep::Drop(object.oid));
        steps.push(PlannedStep::CreateIndex(moved.oid));
        changes.push(Change::Put(Box::new(moved)));
    }
    Ok((changes, steps))
}

/// What the statement describes, without its name.
fn described(create: &sql::CreateIndex, relation: &Object) -> Result<Index> {
    let method = match &create.using {
        None | Some(sql::IndexType::BTree) => "btree",
        Some(sql::IndexType::Hash) => "hash",
        Some(sql::IndexType::Custom(other)) => {
            let message = format!("access method \"{}\" does not exist", fold(other));
            return Err(Error::new(SqlState::UndefinedObject, message));
        }
        Some(other) => {
            return Err(Error::unsupported(format!(
                "index method {} is not supported",
                other.to_string().to_lowercase()
            ))
            .with_hint("An index is ordered, which serves = and <: leave USING out."));
        }
    };
    if create.predicate.is_some() {
        return Err(Error::unsupported("partial indexes are not supported")
            .with_hint("Leave WHERE out, or index a materialized view that has the condition."));
    }
    if !create.include.is_empty() {
        return Err(Error::unsupported("INCLUDE is not supported").with_hint("Leave it out: the rows are read anyway."));
    }
    if create.nulls_distinct == Some(false) {
        return Err(Error::unsupported("NULLS NOT DISTINCT is not supported")
            .with_hint("Declare the columns NOT NULL, or leave it out."));
    }
    if !create.with.is_empty() || !create.index_options.is_empty() || !create.alter_options.is_empty() {
        return Err(Error::unsupported("storage parameters of an index are not supported").with_hint("Leave WITH out."));
    }
    if create.columns.len() > MAX_COLUMNS {
        return Err(Error::new(
            SqlState::ProgramLimitExceeded,
            format!("cannot use more than {MAX_COLUMNS} columns in an index"),
        ));
    }
    let columns: Vec<IndexColumn> =
        create.columns.iter().map(|column| index_column(column, relation)).collect::<Result<_>>()?;
    if method == "hash" && create.unique {
        return Err(Error::unsupported("access method \"hash\" does not support unique indexes"));
    }
    if method == "hash" && columns.len() > 1 {
        return Err(Error::unsupported("access method \"hash\" does not support multicolumn indexes"));
    }
    Ok(Index { relation: relation.oid, columns, unique: create.unique, method: method.into() })
}

fn index_column(given: &sql::IndexColumn, relation: &Object) -> Result<IndexColumn> {
    let sql::Expr::Identifier(ident) = &given.column.expr else {
        return Err(Error::unsupported("an index over an expression is not supported")
            .with_hint("Index a materialized view that has the expression as a column."));
    };
    let name = fold(ident);
    let column = relation
        .columns()
        .iter()
        .position(|c| c.name == name)
        .ok_or_else(|| Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" does not exist")))?;
    indexable(&relation.columns()[column])?;
    let operator_class = given.operator_class.as_ref().map(operator_class).transpose()?;
    let descending = given.column.options.asc == Some(false);
    let nulls_first = given.column.options.nulls_first.unwrap_or(descending);
    Ok(IndexColumn { column, descending, nulls_first, operator_class })
}

/// Text is in the order of its bytes, so the classes for patterns are the same as the default.
fn operator_class(class: &sql::ObjectName) -> Result<String> {
    let name = object_name(class, "")?.1;
    match name.as_str() {
        "text_pattern_ops" | "varchar_pattern_ops" | "bpchar_pattern_ops" => Ok(name),
        _ => Err(Error::unsupported(format!("operator class \"{name}\" is not supported")).with_hint("Leave it out.")),
    }
}

fn indexable(column: &tidemark_catalog::Column) -> Result<()> {
    match column.sql_type {
        SqlType::Json => Err(Error::new(
            SqlState::UndefinedObject,
            "data type json has no default operator class for access method \"btree\"",
        )
        .with_hint("Use jsonb, whose values have one form.")),
        _ => Ok(()),
    }
}

/// Whether a relation or the index of a constraint has the name.
fn is_taken(catalog: &Catalog, schema: Oid, name: &str) -> bool {
    let in_schema = catalog.objects().filter(|o| o.schema == schema);
    catalog.find_in(schema, name).is_some()
        || in_schema.flat_map(|o| crate::pg_catalog::keys(o)).any(|(key, _)| key.name == name)
}

/// The columns' names, one that comes again with a number.
fn column_part(relation: &Object, index: &Index) -> String {
    let mut names: Vec<String> = Vec::new();
    for column in &index.columns {
        let name = &relation.columns()[column.column].name;
        let mut candidates = (0..).map(|n| if n == 0 { name.clone() } else { format!("{name}{n}") });
        names.extend(candidates.find(|candidate| !names.contains(candidate)));
    }
    names.join("_")
}

/// `relation_columns_idx`, the longer of the first two cut where it would be too long for a name.
fn made_name(relation: &str, columns: &str, number: usize) -> String {
    let label = if number == 0 { "idx".to_string() } else { format!("idx{number}") };
    let room = MAX_NAME - label.len() - 2;
    let (mut first, mut second) = (relation.len(), columns.len());
    while first + second > room {
        *(if first > second { &mut first } else { &mut second }) -= 1;
    }
    let clipped = |name: &str, bytes: usize| name[..name.floor_char_boundary(bytes)].to_string();
    let (first, second) = (clipped(relation, first), clipped(columns, second));
    format!("{first}_{second}_{label}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_as_postgres_makes_them() {
        assert_eq!(made_name("t", "a_b", 0), "t_a_b_idx");
        assert_eq!(made_name("t", "a", 2), "t_a_idx2");
        let long = made_name(&"r".repeat(60), &"ü".repeat(30), 0);
        assert_eq!(long, format!("{}_{}_idx", "r".repeat(29), "ü".repeat(14)));
        assert!(made_name(&"r".repeat(63), "a", 12).len() == MAX_NAME);
    }
}
