//! INSERT: rows of VALUES or a query, defaults for what is not given, ON CONFLICT, RETURNING.
//!
//! ```text
//!   VALUES ──literals read, expressions computed──▶ ┐
//!   SELECT ──streamed─────────────────────────────▶ ├─▶ assigned ─▶ defaults ─▶ constraints ─▶ ON CONFLICT ─▶ buffer
//! ```

mod conflict;
mod defaults;
pub(crate) mod loading;
mod row_values;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use futures::StreamExt;
use tidemark_catalog::{Identity, Object};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{Load, LoadRun, Strategy};
use tidemark_sql::ast::{Overriding, overriding};

use self::conflict::Conflict;
pub(super) use self::defaults::Defaults;
pub(super) use self::row_values::ValuesRow;
use super::assign::{self, Source};
use super::dml::{self, Returning, RowSet, Writer};
use super::load::{Way, given_to_load};
use super::normalize::given_type;
use super::{Outcome, Session, describe, fold, select, with_parameters};
use crate::coordinator::loads::load_of;
use crate::query::Names;

/// An INSERT under way.
struct Insertion {
    writer: Writer,
    /// Columns that rows are given for.
    positions: Vec<usize>,
    defaults: Defaults,
    conflict: Option<Conflict>,
    overriding: Option<Overriding>,
    /// Rows for RETURNING.
    returned: Option<RowSet>,
    way: Way,
}

/// What a query's columns are to the columns they are inserted into. A literal with a cast is of that type, though the plan
/// does not say any more that `'x'::text` had one.
fn sources(plan: &LogicalPlan, query: &sql::Query) -> Vec<Source> {
    let mut sources = Source::of_plan(plan);
    if let sql::SetExpr::Select(select) = query.body.as_ref()
        && select.projection.len() == sources.len()
    {
        for (source, item) in sources.iter_mut().zip(&select.projection) {
            if let sql::SelectItem::UnnamedExpr(expr) | sql::SelectItem::ExprWithAlias { expr, .. } = item
                && matches!(expr, sql::Expr::Cast { .. } | sql::Expr::TypedString(_))
            {
                source.unknown = false;
            }
        }
    }
    sources
}

impl Session {
    pub(super) async fn insert(&mut self, insert: &sql::Insert, parameters: &[ScalarValue]) -> Result<Outcome> {
        let (object, alias) = self.insert_target(insert)?;
        let names = self.names(None)?;
        let positions = given_columns(&object, insert)?;
        let load = load_of(&object)?;
        check_clauses(insert, load.as_ref(), &object)?;
        if object.remote().is_some() {
            self.refuse_in_block("INSERT", &object.name)?;
        }
        let mut insertion = self.insertion(&names, &object, positions, load, None).await?;
        insertion.overriding = overriding(insert);
        insertion.conflict = match &insert.on {
            None => None,
            Some(sql::OnInsert::OnConflict(on)) => Some(Conflict::plan(&names, &insertion.writer, &alias, on)?),
            Some(_) => return Err(Error::syntax("ON DUPLICATE KEY is not supported").with_hint("Use ON CONFLICT.")),
        };
        insertion.returned = insert.returning.as_ref().map(|_| RowSet::of(&alias, visible(&insertion.writer)));
        let returning = match (&insert.returning, &insertion.returned) {
            (Some(items), Some(rows)) => Some(Returning::plan(&names, rows, items)?),
            _ => None,
        };
        match &insert.source {
            None => {
                insertion.positions.clear();
                self.plan_defaults(&names, &mut insertion)?;
                self.insert_arrays(&names, &mut insertion, vec![], 1, parameters).await?;
            }
            Some(query) => match row_values::of(query) {
                Some(rows) => self.insert_values(&names, &mut insertion, rows, parameters).await?,
                None => {
                    let plan = with_parameters(names.plan(query)?, parameters)?;
                    let sources = sources(&plan, query);
                    let all = insert.columns.is_empty();
                    self.insert_query(&names, &mut insertion, plan, sources, all, parameters).await?;
                }
            },
        }
        let returned = insertion.returned.take();
        let counts = self.close_way(&object, insertion.writer, insertion.way).await?;
        match (returning, returned) {
            (Some(returning), Some(rows)) => returning.outcome(&names, &rows, parameters, "INSERT 0").await,
            _ => Ok(Outcome::Command(format!("INSERT 0 {}", counts.written()))),
        }
    }

    /// Begins to insert into the table, for which the strategy may make room.
    async fn insertion(
        &mut self,
        names: &Names,
        object: &Arc<Object>,
        positions: Vec<usize>,
        load: Option<Load>,
        run: Option<LoadRun>,
    ) -> Result<Insertion> {
        let writer = self.writer(names, object)?;
        let way = self.open_way(&writer, load, run).await?;
        Ok(Insertion {
            writer,
            positions,
            defaults: Defaults::none(),
            conflict: None,
            overriding: None,
            returned: None,
            way,
        })
    }

    fn plan_defaults(&self, names: &Names, insertion: &mut Insertion) -> Result<()> {
        let object = &insertion.writer.object;
        insertion.defaults = Defaults::for_load(names, object, &insertion.positions, &self.db.environment)?;
        Ok(())
    }

    pub(super) fn insert_target(&self, insert: &sql::Insert) -> Result<(Arc<Object>, String)> {
        let sql::TableObject::TableName(name) = &insert.table else {
            return Err(Error::unsupported("INSERT INTO needs the name of a table"));
        };
        let overwrites = insert.overwrite && overriding(insert).is_none();
        if overwrites || insert.replace_into || insert.or.is_some() {
            return Err(Error::syntax("INSERT OVERWRITE, REPLACE and INSERT OR .. are not supported")
                .with_hint("Use INSERT .. ON CONFLICT, or TRUNCATE first."));
        }
        let object = self.table_to_change(name, "insert into")?;
        let alias = insert.table_alias.as_ref().map_or_else(|| object.name.clone(), |a| fold(&a.alias));
        Ok((object, alias))
    }

    async fn insert_values(
        &mut self,
        names: &Names,
        insertion: &mut Insertion,
        rows: &[sql::Parens<Vec<sql::Expr>>],
        parameters: &[ScalarValue],
    ) -> Result<()> {
        let width = rows.first().map_or(0, |row| row.content.len());
        if rows.iter().any(|row| row.content.len() != width) {
            return Err(Error::syntax("VALUES lists must all be the same length"));
        }
        insertion.narrow(width, insertion.positions.len() == insertion.writer.columns().len())?;
        let given = insertion.positions.clone();
        let kept = row_values::KeptRows { rows: &mut self.plans.values, settings: self.info.settings_version() };
        let arrays = row_values::arrays(names, kept, insertion, rows, parameters).await?;
        let arrays = insertion.kept_of(&given, arrays);
        insertion.forget_ignored();
        self.plan_defaults(names, insertion)?;
        self.insert_arrays(names, insertion, arrays, rows.len(), parameters).await
    }

    /// `all_columns`: no column list was given, so a query may have fewer columns than the table.
    async fn insert_query(
        &mut self,
        names: &Names,
        insertion: &mut Insertion,
        plan: LogicalPlan,
        sources: Vec<Source>,
        all_columns: bool,
        parameters: &[ScalarValue],
    ) -> Result<()> {
        insertion.narrow(sources.len(), all_columns)?;
        for position in &insertion.positions {
            insertion.refuse_generated(*position)?;
        }
        insertion.writer.check_assignable(&sources, &insertion.positions)?;
        let given = insertion.positions.clone();
        insertion.forget_ignored();
        self.plan_defaults(names, insertion)?;
        if let Way::There(there) = &mut insertion.way
            && self.load_within(names, &plan, &insertion.writer.object, (&given, &insertion.positions), there).await?
        {
            return Ok(());
        }
        let (_, mut stream) = select::execute(names, plan).await?;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let arrays = insertion.writer.assign(batch.columns(), &sources, &given)?;
            let arrays = insertion.kept_of(&given, arrays);
            self.insert_arrays(names, insertion, arrays, batch.num_rows(), parameters).await?;
        }
        Ok(())
    }

    /// Inserts rows of which `arrays`, of the columns' own types, are the columns at `positions`.
    async fn insert_arrays(
        &mut self,
        names: &Names,
        insertion: &mut Insertion,
        arrays: Vec<ArrayRef>,
        rows: usize,
        parameters: &[ScalarValue],
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        if !insertion.way.is_direct() {
            let columns = insertion.defaults.columns(&insertion.writer, &insertion.positions, arrays, rows)?;
            return insertion.way.take(&columns, rows, self.transaction()?.room()).await;
        }
        let batch = insertion.defaults.complete(&insertion.writer, &insertion.positions, arrays, rows)?;
        insertion.writer.check(&batch)?;
        let written = match &mut insertion.conflict {
            None => insertion.writer.add(batch, self.transaction_mut()?)?,
            Some(conflict) => {
                let transaction = self.transaction_mut()?;
                conflict.insert(names, &mut insertion.writer, batch, transaction, parameters).await?
            }
        };
        let width = insertion.writer.columns().len();
        insertion.way.count(rows, written.num_rows());
        if let Some(returned) = &mut insertion.returned {
            returned.push(written.columns()[..width].to_vec());
        }
        Ok(())
    }

    /// The rows of a plan, columns by position.
    pub(crate) async fn insert_rows(&mut self, object: &Arc<Object>, plan: LogicalPlan) -> Result<u64> {
        let names = self.names(None)?;
        let all = (0..object.columns().len()).collect();
        let mut insertion = self.insertion(&names, object, all, None, None).await?;
        let sources: Vec<Source> = plan.schema().fields().iter().map(|f| Source::lenient(f)).collect();
        let (_, mut stream) = select::execute(&names, plan).await?;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let arrays = insertion.writer.restore(batch.columns(), &sources)?;
            self.insert_arrays(&names, &mut insertion, arrays, batch.num_rows(), &[]).await?;
        }
        Ok(self.close_way(object, insertion.writer, insertion.way).await?.inserted)
    }

    /// Rows whose columns are the table's by position; constraints are checked.
    pub(crate) async fn insert_batches(&mut self, object: &Arc<Object>, batches: Vec<RecordBatch>) -> Result<()> {
        let names = self.names(None)?;
        let mut writer = self.writer(&names, object)?;
        for batch in batches {
            let sources: Vec<Source> = batch.schema().fields().iter().map(|f| Source::lenient(f)).collect();
            let arrays = writer.restore(batch.columns(), &sources)?;
            let stored = writer.stored(arrays, batch.num_rows())?;
            writer.check(&stored)?;
            writer.add(stored, self.transaction_mut()?)?;
        }
        Ok(())
    }

    /// The value of an expression without columns, as a value of `sql_type`.
    pub(super) async fn constant(&mut self, expr: &sql::Expr, sql_type: &SqlType) -> Result<ScalarValue> {
        let names = self.names(None)?;
        let item = sql::SelectItem::UnnamedExpr(expr.clone());
        let plan = names.plan(&dml::select_query(vec![item], vec![], None)?)?;
        let source = Source::of_plan(&plan).into_iter().next().unwrap_or_else(Source::unknown);
        let parameter = tidemark_catalog::Column::new("parameter", sql_type.clone(), 1);
        assign::check(&source, &parameter)?;
        let batches = select::collect(&names, plan).await?;
        let Some(array) = batches.first().and_then(|b| b.columns().first()) else {
            return Ok(ScalarValue::try_from(&sql_type.data_type())?);
        };
        let array = assign::convert(array, &source.sql_type, sql_type, &self.style()?)?;
        Ok(ScalarValue::try_from_array(&array, 0)?)
    }

    pub(super) fn describe_insert(
        &mut self,
        insert: &sql::Insert,
        parameters: &mut [Option<SqlType>],
    ) -> Result<Option<SchemaRef>> {
        let (object, alias) = self.insert_target(insert)?;
        let names = self.names(None)?;
        let positions = given_columns(&object, insert)?;
        let typed = |at: usize| positions.get(at).map(|p| given_type(&object.columns()[*p]));
        if let Some(query) = &insert.source {
            match row_values::of(query) {
                Some(rows) => {
                    let mut others = Vec::new();
                    for (at, expr) in rows.iter().flat_map(|row| row.content.iter().enumerate()) {
                        if !dml::note_parameter(expr, typed(at), parameters) && !dml::is_default(expr) {
                            others.push(expr.clone());
                        }
                    }
                    dml::describe_expressions(&names, others, parameters)?;
                }
                None => {
                    if let sql::SetExpr::Select(select) = query.body.as_ref() {
                        for (at, item) in select.projection.iter().enumerate() {
                            if let sql::SelectItem::UnnamedExpr(expr) | sql::SelectItem::ExprWithAlias { expr, .. } =
                                item
                            {
                                dml::note_parameter(expr, typed(at), parameters);
                            }
                        }
                    }
                    describe::fill(parameters, names.plan(query)?.get_parameter_types().unwrap_or_default());
                }
            }
        }
        if let Some(sql::OnInsert::OnConflict(on)) = &insert.on
            && let sql::OnConflictAction::DoUpdate(update) = &on.action
        {
            dml::describe_set(&object, &update.assignments, parameters)?;
        }
        let Some(items) = &insert.returning else { return Ok(None) };
        let rows = RowSet::of(&alias, object.arrow_schema().fields());
        let (plan, schema) = Returning::plan(&names, &rows, items)?.over(&rows)?;
        describe::fill(parameters, plan.get_parameter_types().unwrap_or_default());
        Ok(Some(schema))
    }
}

impl Insertion {
    /// Settles how many columns are given.
    fn narrow(&mut self, given: usize, all_columns: bool) -> Result<()> {
        if given > self.positions.len() {
            return Err(Error::syntax("INSERT has more expressions than target columns"));
        }
        if given < self.positions.len() && !all_columns {
            return Err(Error::syntax("INSERT has more target columns than expressions"));
        }
        self.positions.truncate(given);
        Ok(())
    }

    /// A value that is given for the column counts for nothing: OVERRIDING USER VALUE.
    fn ignores(&self, position: usize) -> bool {
        self.overriding == Some(Overriding::User) && self.writer.columns()[position].identity.is_some()
    }

    fn forget_ignored(&mut self) {
        let positions = std::mem::take(&mut self.positions);
        self.positions = positions.into_iter().filter(|position| !self.ignores(*position)).collect();
    }

    /// Of arrays for the columns at `given`, those that are not ignored.
    fn kept_of(&self, given: &[usize], arrays: Vec<ArrayRef>) -> Vec<ArrayRef> {
        given.iter().zip(arrays).filter(|(position, _)| !self.ignores(**position)).map(|(_, array)| array).collect()
    }

    /// A value for a column whose values are always generated.
    fn refuse_generated(&self, position: usize) -> Result<()> {
        let column = &self.writer.columns()[position];
        if column.identity != Some(Identity::Always) || self.overriding.is_some() {
            return Ok(());
        }
        Err(Error::new(
            SqlState::GeneratedAlways,
            format!("cannot insert a non-DEFAULT value into column \"{}\"", column.name),
        )
        .with_detail(format!("Column \"{}\" is an identity column defined as GENERATED ALWAYS.", column.name))
        .with_hint("Use OVERRIDING SYSTEM VALUE to override."))
    }
}

fn visible(writer: &Writer) -> impl Iterator<Item = &datafusion::arrow::datatypes::FieldRef> {
    writer.def.collection.schema().fields().iter().take(writer.columns().len())
}

pub(super) fn given_columns(object: &Object, insert: &sql::Insert) -> Result<Vec<usize>> {
    let idents = insert.columns.iter().map(dml::column_ident).collect::<Result<Vec<_>>>()?;
    given_to_load(object, dml::column_positions(object, &idents)?, idents.is_empty())
}

/// What INSERT can say besides, where rows go through a strategy.
fn check_clauses(insert: &sql::Insert, load: Option<&Load>, object: &Object) -> Result<()> {
    let Some(load) = load else { return Ok(()) };
    let refuse = |what: &str| {
        let table = &object.name;
        Error::unsupported(format!(
            "{what} is not possible: strategy {} decides what becomes of \"{table}\"",
            load.name()
        ))
        .with_hint("Leave it out, or load a table without a strategy.")
    };
    let plain = matches!(load.strategy, Strategy::Append { .. });
    let elsewhere = object.remote().is_some();
    match insert {
        sql::Insert { on: Some(_), .. } if !plain || elsewhere => Err(refuse("ON CONFLICT")),
        sql::Insert { returning: Some(_), .. } if load.compares() || elsewhere => Err(refuse("RETURNING")),
        _ => Ok(()),
    }
}
