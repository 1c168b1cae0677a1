//! UPDATE: the rows that WHERE finds go out of the table, and come in again with their new values.
//!
//! ```text
//!   SELECT t.*, value, .. FROM t, FROM WHERE ..  ──a row once──▶ old rows ──▶ out
//!                                                                new rows ──▶ checked against what is left ──▶ in
//! ```
//!
//! All old rows go before any new one comes, so keys can change places in one statement.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_empty_array};
use datafusion::arrow::compute::{concat, filter_record_batch};
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_catalog::Object;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{Load, Strategy};

use super::assign::Source;
use super::dml::{self, Returning, RowSet, Writer};
use super::{Outcome, Session, describe, fold, select, with_parameters};
use crate::coordinator::loads::load_of;
use crate::query::Names;

/// The table that UPDATE or DELETE changes, and where its rows are looked for.
pub(super) struct Scope<'a> {
    pub object: Arc<Object>,
    pub alias: String,
    target: sql::TableWithJoins,
    search: Search<'a>,
    /// Columns of the other tables are wanted too.
    pub all_columns: bool,
}

/// WITH, FROM or USING, and WHERE.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub with: Option<&'a sql::With>,
    pub others: &'a [sql::TableWithJoins],
    pub selection: Option<&'a sql::Expr>,
}

/// Target rows that were found, each once.
pub(super) struct Hits {
    /// As they are stored.
    pub old: RecordBatch,
    /// The computed expressions.
    pub values: Vec<ArrayRef>,
    /// Columns of the other tables.
    others: Vec<ArrayRef>,
}

impl Hits {
    /// The columns that RETURNING sees: the target's own as they are now, then those of the other tables.
    pub fn others_after(self, mut columns: Vec<ArrayRef>) -> Vec<ArrayRef> {
        columns.extend(self.others);
        columns
    }
}

/// Versions and their hashes would not fit the rows any more.
fn refuse_of_versions(object: &Object) -> Result<()> {
    match load_of(object)? {
        Some(Load { strategy: Strategy::Scd2(_), .. }) => Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("cannot update \"{}\": its strategy scd2 keeps every version of a row", object.name),
        )
        .with_hint("INSERT the row with its new values: that ends the version that is current.")),
        _ => Ok(()),
    }
}

impl Session {
    pub(super) async fn update(&mut self, update: &sql::Update, parameters: &[ScalarValue]) -> Result<Outcome> {
        self.update_with(update, None, parameters).await
    }

    pub(super) async fn update_with(
        &mut self,
        update: &sql::Update,
        with: Option<&sql::With>,
        parameters: &[ScalarValue],
    ) -> Result<Outcome> {
        let scope = self.update_scope(update, with)?;
        refuse_of_versions(&scope.object)?;
        let set = dml::set_list(&scope.object, &update.assignments)?;
        let (positions, values): (Vec<usize>, Vec<sql::Expr>) = set.into_iter().unzip();
        let names = self.names(Some(scope.object.oid))?;
        let mut writer = self.writer(&names, &scope.object)?;
        let plan = with_parameters(scope.plan(&names, &writer, &values)?, parameters)?;
        let mut rows = scope.rows(&plan, &writer, values.len());
        let returning = update.returning.as_ref().map(|items| Returning::plan(&names, &rows, items)).transpose()?;

        let stored = writer.def.collection.schema().fields().len();
        let sources = Source::of_plan(&plan)[stored..stored + values.len()].to_vec();
        writer.check_assignable(&sources, &positions)?;
        let hits = self.hits(&names, &writer, plan, values.len()).await?;
        let mut columns = hits.old.columns().to_vec();
        for (position, array) in positions.iter().zip(writer.assign(&hits.values, &sources, &positions)?) {
            columns[*position] = array;
        }
        let derived = writer.derive(&mut columns, hits.old.num_rows())?;
        let changed: Vec<usize> = positions.into_iter().chain(derived).collect();
        let new = writer.stored(columns, hits.old.num_rows())?;
        writer.check(&new)?;
        let count = new.num_rows();
        let transaction = self.transaction_mut()?;
        writer.remove(hits.old.clone(), transaction)?;
        let new = writer.put_back(new, &changed, transaction)?;
        match returning {
            None => Ok(Outcome::Command(format!("UPDATE {count}"))),
            Some(returning) => {
                rows.push(hits.others_after(new.columns()[..writer.columns().len()].to_vec()));
                returning.outcome(&names, &rows, parameters, "UPDATE").await
            }
        }
    }

    pub(super) fn update_scope<'a>(&self, update: &'a sql::Update, with: Option<&'a sql::With>) -> Result<Scope<'a>> {
        if update.limit.is_some() || !update.order_by.is_empty() || update.or.is_some() {
            return Err(Error::syntax("UPDATE takes no ORDER BY, LIMIT or OR"));
        }
        let others: &[sql::TableWithJoins] = match &update.from {
            None => &[],
            Some(sql::UpdateTableFromKind::AfterSet(from)) => from,
            Some(sql::UpdateTableFromKind::BeforeSet(_)) => return Err(Error::syntax("FROM stands after SET")),
        };
        let search = Search { with, others, selection: update.selection.as_ref() };
        self.scope(&update.table, search, update.returning.is_some(), "update")
    }

    pub(super) fn describe_update(
        &mut self,
        update: &sql::Update,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        self.describe_update_with(update, None, parameters)
    }

    pub(super) fn describe_update_with(
        &mut self,
        update: &sql::Update,
        with: Option<&sql::With>,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let scope = self.update_scope(update, with)?;
        dml::describe_set(&scope.object, &update.assignments, parameters)?;
        let values = dml::set_list(&scope.object, &update.assignments)?.into_iter().map(|(_, e)| e).collect::<Vec<_>>();
        self.describe_scope(&scope, &values, update.returning.as_deref(), parameters)
    }

    // ---- Shared with DELETE -------------------------------------------------------------------------------------------

    pub(super) fn scope<'a>(
        &self,
        target: &sql::TableWithJoins,
        search: Search<'a>,
        all_columns: bool,
        verb: &str,
    ) -> Result<Scope<'a>> {
        let sql::TableFactor::Table { name, alias, .. } = &target.relation else {
            return Err(Error::syntax(format!("{} needs the name of a table", verb.to_uppercase())));
        };
        if !target.joins.is_empty() {
            return Err(Error::syntax(format!("{} changes one table, not a join", verb.to_uppercase())));
        }
        let object = self.table_to_change(name, verb)?;
        let alias = alias.as_ref().map_or_else(|| object.name.clone(), |a| fold(&a.name));
        let target = self.by_full_name(&object, &alias, target.clone())?;
        Ok(Scope { object, alias, target, search, all_columns })
    }

    /// The table to change by its full name, which no query of a WITH has.
    fn by_full_name(
        &self,
        object: &Object,
        alias: &str,
        mut target: sql::TableWithJoins,
    ) -> Result<sql::TableWithJoins> {
        if let sql::TableFactor::Table { name, alias: given, .. } = &mut target.relation
            && object.schema != 0
        {
            let schema = self.catalog()?.schema_name(object.schema).to_string();
            let parts = [schema.as_str(), object.name.as_str()].map(|part| sql::Ident::with_quote('"', part));
            *name = sql::ObjectName::from(parts.to_vec());
            let alias = || sql::TableAlias {
                explicit: true,
                name: sql::Ident::with_quote('"', alias),
                columns: Vec::new(),
                at: None,
            };
            given.get_or_insert_with(alias);
        }
        Ok(target)
    }

    pub(super) fn describe_scope(
        &mut self,
        scope: &Scope<'_>,
        values: &[sql::Expr],
        returning: Option<&[sql::SelectItem]>,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let names = self.names(Some(scope.object.oid))?;
        let writer = self.remover(&names, &scope.object)?;
        let plan = scope.plan(&names, &writer, values)?;
        describe::fill(parameters, plan.get_parameter_types().unwrap_or_default());
        let Some(items) = returning else { return Ok(None) };
        let rows = scope.rows(&plan, &writer, values.len());
        let (plan, schema) = Returning::plan(&names, &rows, items)?.over(&rows)?;
        describe::fill(parameters, plan.get_parameter_types().unwrap_or_default());
        Ok(Some(schema))
    }

    /// Runs a scope's plan, which has `computed` expressions after the stored columns.
    pub(super) async fn hits(
        &self,
        names: &Names,
        writer: &Writer,
        plan: LogicalPlan,
        computed: usize,
    ) -> Result<Hits> {
        let batch = self.collect_bounded(names, plan).await?;
        let stored = writer.def.collection.schema();
        let width = stored.fields().len();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let old = RecordBatch::try_new_with_options(stored.clone(), batch.columns()[..width].to_vec(), &options)?;
        let keys = writer.def.collection.key_of(&old)?;
        let mut seen = std::collections::HashSet::with_capacity(old.num_rows());
        let changed = self.changed_by_parts(&writer.def)?;
        let first: BooleanArray = keys.iter().map(|key| Some(!changed.contains(key) && seen.insert(key))).collect();
        let (old, batch) = match seen.len() == old.num_rows() {
            true => (old, batch),
            false => (filter_record_batch(&old, &first)?, filter_record_batch(&batch, &first)?),
        };
        let rest = &batch.columns()[width..];
        Ok(Hits { old, values: rest[..computed].to_vec(), others: rest[computed..].to_vec() })
    }

    /// All rows of a plan as one batch, if the transaction may hold so much.
    async fn collect_bounded(&self, names: &Names, plan: LogicalPlan) -> Result<RecordBatch> {
        let limit = self.transaction()?.room();
        // The plan's names need not be unique here.
        let fields = plan.schema().fields().iter().enumerate();
        let fields: Vec<Field> =
            fields.map(|(i, f)| Field::new(format!("c{i}"), f.data_type().clone(), true)).collect();
        let (_, mut stream) = select::execute(names, plan).await?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            bytes += batch.get_array_memory_size();
            if bytes > limit {
                return Err(Error::new(
                    SqlState::ConfigurationLimitExceeded,
                    "the statement would change more than max_transaction_bytes",
                )
                .with_hint("Change fewer rows at a time, or raise max_transaction_bytes."));
            }
            batches.push(batch);
        }
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let column = |at: usize, field: &Field| {
            let arrays: Vec<_> = batches.iter().map(|b| b.column(at).as_ref()).collect();
            match arrays.as_slice() {
                [] => Ok(new_empty_array(field.data_type())),
                [_] => Ok(batches[0].column(at).clone()),
                many => Ok::<_, Error>(concat(many)?),
            }
        };
        let columns = fields.iter().enumerate().map(|(at, field)| column(at, field)).collect::<Result<Vec<_>>>()?;
        drop(batches);
        let fields: Vec<Field> =
            fields.into_iter().zip(&columns).map(|(f, c)| f.with_data_type(c.data_type().clone())).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    }
}

impl Scope<'_> {
    /// The target's stored columns, then `values`, then the other tables' columns if they are wanted.
    pub fn plan(&self, names: &Names, writer: &Writer, values: &[sql::Expr]) -> Result<LogicalPlan> {
        let quoted = |name: &str| sql::Ident::with_quote('"', name);
        let stored = writer.def.collection.schema();
        let mut items: Vec<sql::SelectItem> = stored
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| sql::SelectItem::ExprWithAlias {
                expr: sql::Expr::CompoundIdentifier(vec![quoted(&self.alias), quoted(field.name())]),
                alias: quoted(&format!("tidemark_old_{i}")),
            })
            .collect();
        items.extend(values.iter().enumerate().map(|(i, expr)| sql::SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias: quoted(&format!("tidemark_new_{i}")),
        }));
        if self.all_columns {
            items.extend(self.search.others.iter().flat_map(relations).map(|relation| {
                let name = sql::ObjectName(vec![sql::ObjectNamePart::Identifier(relation)]);
                let kind = sql::SelectItemQualifiedWildcardKind::ObjectName(name);
                sql::SelectItem::QualifiedWildcard(kind, sql::WildcardAdditionalOptions::default())
            }));
        }
        names.plan(&self.query(items)?)
    }

    /// How the target's rows are looked for, to be explained.
    pub fn search(&self, names: &Names) -> Result<LogicalPlan> {
        let alias = sql::ObjectNamePart::Identifier(sql::Ident::with_quote('"', &self.alias));
        let kind = sql::SelectItemQualifiedWildcardKind::ObjectName(sql::ObjectName(vec![alias]));
        let all = sql::SelectItem::QualifiedWildcard(kind, sql::WildcardAdditionalOptions::default());
        names.plan(&self.query(vec![all])?)
    }

    fn query(&self, items: Vec<sql::SelectItem>) -> Result<sql::Query> {
        let from = std::iter::once(self.target.clone()).chain(self.search.others.iter().cloned()).collect();
        let mut query = dml::select_query(items, from, self.search.selection.cloned())?;
        query.with = self.search.with.cloned();
        Ok(query)
    }

    /// What RETURNING can name: the target's columns, then those of the other tables.
    pub fn rows(&self, plan: &LogicalPlan, writer: &Writer, computed: usize) -> RowSet {
        let stored = writer.def.collection.schema();
        let visible = stored.fields().iter().take(writer.columns().len());
        let mut rows = RowSet::of(&self.alias, visible);
        let rest = plan.schema().iter().skip(stored.fields().len() + computed);
        for (relation, field) in rest {
            let relation = relation.map(|r| r.table().to_string()).unwrap_or_default();
            rows = rows.and(&relation, [field as &FieldRef]);
        }
        rows
    }
}

/// Names under which a FROM item's relations are known.
fn relations(table: &sql::TableWithJoins) -> Vec<sql::Ident> {
    let name = |factor: &sql::TableFactor| match factor {
        sql::TableFactor::Table { name, alias, .. } => match alias {
            Some(alias) => Some(alias.name.clone()),
            None => name.0.last().and_then(|p| p.as_ident()).cloned(),
        },
        sql::TableFactor::Derived { alias, .. } => alias.as_ref().map(|a| a.name.clone()),
        _ => None,
    };
    std::iter::once(&table.relation).chain(table.joins.iter().map(|j| &j.relation)).filter_map(name).collect()
}
