//! A load into a table with a strategy: the rows of one INSERT or COPY, as one.
//!
//! ```text
//!   rows, of the columns' own types ──▶ tidemark_input ──the strategy's queries──▶ changes ──▶ rows out, rows in: the buffer
//!                                            the table as this statement sees it ──┘
//! ```
//!
//! The changes are made of all that the table holds (scope.rs: of the rows that are at stake), so what another session does to it meanwhile is a conflict, and the load
//! runs again. The input is held in memory, and counts for max_transaction_bytes.

mod scope;
mod there;
mod way;

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{cast, filter, is_not_null, prep_null_mask_filter};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use tidemark_catalog::{Object, ObjectKind, Table};
use tidemark_common::values::{Column as Values, Style};
use tidemark_common::{Error, Result, SqlState};
use tidemark_connectors::load::{self, Action, Changes, Counts, Deletes, Load, Strategy, Target};
use tidemark_engine::TableDef;

pub(super) use self::way::Way;
use super::dml::Writer;
use super::internal::time_literal;
use super::normalize::refuse_derived;
use super::{Session, select};
use crate::coordinator::definitions::stored_query;
use crate::query::Names;

/// The columns that a load gives.
struct Given {
    /// Where they are in the table.
    positions: Vec<usize>,
    schema: SchemaRef,
}

/// The rows of a load, as they come.
pub(super) struct LoadInput {
    load: Load,
    given: Given,
    batches: Vec<RecordBatch>,
    rows: u64,
    bytes: usize,
    /// Keys of rows that are to go: the load is about them and those that come, and leaves all others alone.
    gone: Option<Vec<RecordBatch>>,
}

/// Rows that go and rows that come, as the table stores them.
#[derive(Default)]
struct Made {
    out: Vec<RecordBatch>,
    into: Vec<RecordBatch>,
    /// The keys of which all history goes.
    gone: Vec<RecordBatch>,
}

impl Given {
    fn new(load: &Load, object: &Object) -> Result<Self> {
        let position = |name: &str| object.columns().iter().position(|column| column.name == name);
        let positions = load.columns.iter().map(|column| position(&column.name)).collect::<Option<Vec<_>>>();
        let positions = positions.ok_or_else(|| Error::internal("a column to load is not there"))?;
        let field = |at: &usize| object.columns()[*at].sql_type.to_field(&object.columns()[*at].name, true);
        let schema = Arc::new(Schema::new(positions.iter().map(field).collect::<Vec<_>>()));
        Ok(Self { positions, schema })
    }

    /// Rows of these columns. `columns`: by position in the table, those of the strategy among them, which count for nothing.
    fn batch(&self, columns: &[ArrayRef], rows: usize) -> Result<RecordBatch> {
        let columns = self.positions.iter().map(|at| Arc::clone(&columns[*at])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

impl LoadInput {
    fn new(load: Load, object: &Object) -> Result<Self> {
        let given = Given::new(&load, object)?;
        Ok(Self { load, given, batches: Vec::new(), rows: 0, bytes: 0, gone: None })
    }

    /// Takes rows, all columns of the table by position.
    fn push(&mut self, columns: &[ArrayRef], rows: usize, room: usize) -> Result<()> {
        let batch = self.given.batch(columns, rows)?;
        self.rows += rows as u64;
        self.bytes += batch.get_array_memory_size();
        if self.bytes > room {
            return Err(Error::new(
                SqlState::ConfigurationLimitExceeded,
                "the rows of the load have grown beyond max_transaction_bytes",
            )
            .with_hint("Load in smaller pieces, or raise max_transaction_bytes."));
        }
        self.batches.push(batch);
        Ok(())
    }
}

impl Session {
    /// Does what the strategy says with the rows that have come.
    pub(super) async fn apply_load(
        &mut self,
        object: &Arc<Object>,
        mut writer: Writer,
        input: LoadInput,
    ) -> Result<Counts> {
        let mut counts = Counts { rows: input.rows, ..Counts::default() };
        let load = &input.load;
        let mut names = self.names(Some(object.oid))?;
        let stored = writer.def.collection.schema().clone();
        let table = self.catalog()?.qualified_name(object);
        let columns: Vec<String> = stored.fields().iter().map(|field| field.name().clone()).collect();
        let now = time_literal(self.transaction()?.started_at);
        let mut target = Target { name: &table, columns: &columns, now: &now };
        if let Some(scope) = input.scope(&names, &table, &columns).await? {
            give(&mut names, load::TABLE, nullable(&stored), scope)?;
            target.name = load::TABLE;
        }
        give(&mut names, load::INPUT, input.given.schema.clone(), input.batches)?;
        check_keys(&names, load, &object.name).await?;
        let mut made = Made::default();
        match load.changes(&target)? {
            Changes::Query(query) => made.collect(self, &names, &query, load, &writer, &mut counts).await?,
            Changes::Timeline { candidates, known, timeline } => {
                let candidates = made.candidates(&names, &candidates, load, &writer, &mut counts).await?;
                give(&mut names, load::CANDIDATES, candidates_schema(&input.given.schema), candidates)?;
                let known = rows(&names, &known).await?;
                give(&mut names, load::KNOWN, nullable(&stored), known)?;
                made.collect(self, &names, &timeline, load, &writer, &mut counts).await?;
            }
        }
        if !made.gone.is_empty()
            && let Some(query) = load.ended_of_gone(&target)
        {
            let schema = made.gone[0].schema();
            give(&mut names, load::GONE, schema, std::mem::take(&mut made.gone))?;
            for batch in rows(&names, &query).await? {
                counts.deleted += batch.num_rows() as u64;
                made.out.push(under(&stored, batch.columns().to_vec())?);
            }
        }
        // What came is needed no longer.
        drop(names);
        target.name = &table;
        self.put_changes(&mut writer, load, made)?;
        if let Some(query) = load.expired(&target) {
            let expired = rows(&self.names(Some(object.oid))?, &query).await?;
            counts.deleted += expired.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
            let out = expired.into_iter().map(|batch| under(&stored, batch.columns().to_vec()));
            self.put_changes(&mut writer, load, Made { out: out.collect::<Result<_>>()?, ..Made::default() })?;
        }
        self.notice(format!("{} into \"{}\": {counts}", load.name(), object.name));
        Ok(counts)
    }

    /// Strategy truncate: what is there goes, and what comes in this statement is all there is.
    /// How many rows went.
    pub(super) async fn replace_contents(&mut self, object: &Arc<Object>, def: &TableDef) -> Result<u64> {
        let gone = self.delete_all(object).await?;
        let transaction = self.transaction_mut()?;
        let epoch = transaction.moment.epoch();
        transaction.buffer_mut(def)?.depends_on_all(epoch);
        Ok(gone)
    }

    fn put_changes(&mut self, writer: &mut Writer, load: &Load, made: Made) -> Result<()> {
        // That no two rows agree in these is the strategy's doing.
        let columns = writer.columns();
        let position = |name: &String| columns.iter().position(|column| column.name == *name);
        let distinct: Vec<usize> = load.table_key().iter().filter_map(position).collect();
        let transaction = self.transaction_mut()?;
        let epoch = transaction.moment.epoch();
        transaction.buffer_mut(&writer.def)?.depends_on_all(epoch);
        for batch in made.out {
            writer.remove(batch, transaction)?;
        }
        for batch in made.into {
            let rows = batch.num_rows();
            let batch = writer.stored(batch.columns().to_vec(), rows)?;
            writer.check(&batch)?;
            writer.add_distinct(batch, &distinct, transaction)?;
        }
        Ok(())
    }
}

impl Made {
    /// Runs a query of changes to its end.
    async fn collect(
        &mut self,
        session: &Session,
        names: &Names,
        query: &str,
        load: &Load,
        writer: &Writer,
        counts: &mut Counts,
    ) -> Result<()> {
        let plan = names.plan(&stored_query(query)?)?;
        let (_, mut stream) = select::execute(names, plan).await?;
        let mut held = 0;
        while let Some(batch) = futures::StreamExt::next(&mut stream).await {
            let (out, into) = (self.out.len(), self.into.len());
            self.take(&batch?, load, writer, counts)?;
            let new = self.out[out..].iter().chain(&self.into[into..]);
            held += new.map(RecordBatch::get_array_memory_size).sum::<usize>();
            if held > session.transaction()?.room() {
                return Err(Error::new(
                    SqlState::ConfigurationLimitExceeded,
                    "the changes of the load have grown beyond max_transaction_bytes",
                )
                .with_hint("Load in smaller pieces, or raise max_transaction_bytes."));
            }
        }
        Ok(())
    }

    /// Counts changes and keeps the rows that they take out and put in.
    fn take(&mut self, batch: &RecordBatch, load: &Load, writer: &Writer, counts: &mut Counts) -> Result<()> {
        let stored = writer.def.collection.schema();
        let width = stored.fields().len();
        let actions = actions(batch)?;
        for (action, times) in &actions.times {
            if *action == Action::OutOfOrder {
                return Err(out_of_order(batch, &actions.of, load, stored));
            }
            counts.count(*action, *times);
        }
        let old = column(batch, load::OLD)?;
        let new = column(batch, load::NEW)?;
        let end = column(batch, load::END)?;
        let first_old = batch.schema().index_of("old_0")?;
        let goes = and(&actions.changes, old.as_boolean());
        let rows_of = |first: usize, mask: &BooleanArray| -> Result<RecordBatch> {
            let columns = (first..first + width).map(|at| Ok(filter(batch.column(at), mask)?));
            under(stored, columns.collect::<Result<_>>()?)
        };
        push(&mut self.out, rows_of(first_old, &goes)?);
        let ends = and(&actions.changes, &is_not_null(end)?);
        if ends.true_count() > 0
            && let Strategy::Scd2(scd2) = &load.strategy
        {
            let mut columns = rows_of(first_old, &ends)?.columns().to_vec();
            columns[stored.index_of(&scd2.valid_to)?] = filter(end, &ends)?;
            columns[stored.index_of(&scd2.is_current)?] = Arc::new(BooleanArray::from(vec![false; ends.true_count()]));
            push(&mut self.into, under(stored, columns)?);
        }
        // Candidates have no new rows, but those that the timeline makes of them.
        if let Ok(first_new) = batch.schema().index_of("new_0") {
            push(&mut self.into, rows_of(first_new, &and(&actions.changes, new.as_boolean()))?);
        }
        // What a timeline takes out is no key that has gone.
        if load.deletes == Deletes::Hard && matches!(load.strategy, Strategy::Scd2(_)) {
            let gone: BooleanArray = actions.of.iter().map(|action| Some(*action == Action::Deleted)).collect();
            push(&mut self.gone, keys_of(&rows_of(first_old, &gone)?, load)?);
        }
        Ok(())
    }

    /// Of the candidates, keeps what is decided, and gives the rows that a timeline is to be made of.
    async fn candidates(
        &mut self,
        names: &Names,
        query: &str,
        load: &Load,
        writer: &Writer,
        counts: &mut Counts,
    ) -> Result<Vec<RecordBatch>> {
        let plan = names.plan(&stored_query(query)?)?;
        let (_, mut stream) = select::execute(names, plan).await?;
        let first = 4 + writer.def.collection.schema().fields().len();
        let mut candidates = Vec::new();
        while let Some(batch) = futures::StreamExt::next(&mut stream).await {
            let batch = batch?;
            let actions = actions(&batch)?;
            let changed: BooleanArray = actions.of.iter().map(|action| Some(*action == Action::Changed)).collect();
            let others: BooleanArray = changed.iter().map(|is| is.map(|is| !is)).collect();
            let columns = batch.columns()[first..].iter().map(|column| Ok(filter(column, &changed)?));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let schema = Arc::new(batch.schema().project(&(first..batch.num_columns()).collect::<Vec<_>>())?);
            if changed.true_count() > 0 {
                candidates.push(RecordBatch::try_new(schema, columns)?);
            }
            let decided = datafusion::arrow::compute::filter_record_batch(&batch, &others)?;
            self.take(&decided, load, writer, counts)?;
        }
        Ok(candidates)
    }
}

/// What a batch of changes says of each row.
struct Actions {
    of: Vec<Action>,
    times: Vec<(Action, u64)>,
    /// Where something changes.
    changes: BooleanArray,
}

fn actions(batch: &RecordBatch) -> Result<Actions> {
    let texts = cast(column(batch, load::ACTION)?, &datafusion::arrow::datatypes::DataType::Utf8)?;
    let of = texts
        .as_string::<i32>()
        .iter()
        .map(|text| Action::parse(text.unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    let mut times: Vec<(Action, u64)> = Vec::new();
    for action in &of {
        match times.iter_mut().find(|(known, _)| known == action) {
            Some((_, times)) => *times += 1,
            None => times.push((*action, 1)),
        }
    }
    let changes = of.iter().map(|action| Some(*action != Action::Unchanged)).collect();
    Ok(Actions { of, times, changes })
}

fn and(a: &BooleanArray, b: &BooleanArray) -> BooleanArray {
    let b = if b.null_count() > 0 { prep_null_mask_filter(b) } else { b.clone() };
    a.iter().zip(b.iter()).map(|(a, b)| Some(a == Some(true) && b == Some(true))).collect()
}

fn push(batches: &mut Vec<RecordBatch>, batch: RecordBatch) {
    if batch.num_rows() > 0 {
        batches.push(batch);
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::internal(format!("a load's changes have no column {name}")))
}

/// The columns as rows of the table.
fn under(stored: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let rows = columns.first().map_or(0, |column| column.len());
    let typed =
        stored.fields().iter().zip(columns).map(|(field, column)| match column.data_type() == field.data_type() {
            true => Ok(column),
            false => Ok(cast(&column, field.data_type())?),
        });
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(nullable(stored), typed.collect::<Result<_>>()?, &options)?)
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

fn keys_of(rows: &RecordBatch, load: &Load) -> Result<RecordBatch> {
    let positions = load.keys.iter().map(|key| Ok(rows.schema().index_of(key)?)).collect::<Result<Vec<_>>>()?;
    Ok(rows.project(&positions)?)
}

fn candidates_schema(input: &SchemaRef) -> SchemaRef {
    let hash = Field::new("tidemark_hash", datafusion::arrow::datatypes::DataType::Binary, true);
    Arc::new(Schema::new(input.fields().iter().map(|field| field.as_ref().clone()).chain([hash]).collect::<Vec<_>>()))
}

/// Lets a query read rows under a name.
fn give(names: &mut Names, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
    let restated = batches.into_iter().map(|batch| {
        let typed =
            batch.columns().iter().zip(schema.fields()).map(|(column, field)| Ok(cast(column, field.data_type())?));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema.clone(), typed.collect::<Result<_>>()?, &options)?)
    });
    let table = MemTable::try_new(schema.clone(), vec![restated.collect::<Result<_>>()?])?;
    names.returned.insert(name.to_string(), Some(Arc::new(table) as Arc<dyn TableProvider>));
    Ok(())
}

async fn rows(names: &Names, query: &str) -> Result<Vec<RecordBatch>> {
    select::collect(names, names.plan(&stored_query(query)?)?).await
}

/// No NULL in a key, and no key twice.
async fn check_keys(names: &Names, load: &Load, table: &str) -> Result<()> {
    if rows(names, &load.null_keys()).await?.iter().any(|batch| batch.num_rows() > 0) {
        return Err(load.null_key_error(table));
    }
    let Some(query) = load.duplicates() else { return Ok(()) };
    let mut shown = Vec::new();
    for batch in rows(names, &query).await? {
        let last = batch.num_columns() - 1;
        for row in 0..batch.num_rows() {
            let values = (0..last).map(|at| shown_value(&batch, at, row)).collect::<Result<Vec<_>>>()?;
            shown.push((values.join(", "), shown_value(&batch, last, row)?));
        }
    }
    if shown.is_empty() { Ok(()) } else { Err(load.duplicate_error(table, &shown)) }
}

/// A value as it is shown wherever the table is kept.
fn shown_value(batch: &RecordBatch, column: usize, row: usize) -> Result<String> {
    let schema = batch.schema();
    let values = Values::new(batch.column(column), schema.field(column))?;
    let mut text = BytesMut::new();
    if !values.is_null(row) {
        values.write_text(row, &Style::default(), &mut text);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The error for an event that comes too late.
fn out_of_order(batch: &RecordBatch, actions: &[Action], load: &Load, stored: &SchemaRef) -> Error {
    let row = actions.iter().position(|action| *action == Action::OutOfOrder).unwrap_or(0);
    let value = |name: &str| -> Option<String> {
        let at = stored.index_of(name).ok()?;
        let of = |prefix: &str| batch.schema().index_of(&format!("{prefix}_{at}")).ok();
        let there = |column: &usize| !batch.column(*column).is_null(row);
        shown_value(batch, of("new").filter(there).or_else(|| of("old"))?, row).ok()
    };
    let keys: Vec<String> = load.keys.iter().filter_map(|key| value(key)).collect();
    let event = match &load.strategy {
        Strategy::Scd2(scd2) => value(&scd2.valid_from).unwrap_or_default(),
        _ => String::new(),
    };
    load.late_event_error(&keys, &event)
}

/// Of columns that rows are given for, those that a load gives: all that are declared and not derived, if none are named (`all`).
pub(super) fn given_to_load(object: &Object, positions: Vec<usize>, all: bool) -> Result<Vec<usize>> {
    let ObjectKind::Table(Table { load, .. }) = &object.kind else { return Ok(positions) };
    let own = |at: &usize| load.as_ref().is_some_and(|load| load.own.contains(&object.columns()[*at].name));
    if all {
        return Ok(positions.into_iter().filter(|at| !own(at) && refuse_derived(object, *at).is_ok()).collect());
    }
    positions.iter().try_for_each(|at| refuse_derived(object, *at))?;
    match positions.iter().find(|at| own(at)) {
        None => Ok(positions),
        Some(at) => Err(Error::new(
            SqlState::GeneratedAlways,
            format!("column \"{}\" of \"{}\" is filled by its strategy", object.columns()[*at].name, object.name),
        )
        .with_hint("Leave the column out.")),
    }
}
