//! What INSERT, UPDATE, DELETE and COPY share: the table as a statement changes it, and its constraints.
//!
//! ```text
//!   rows ──NOT NULL, CHECK──▶ keys free? ──────────────────────────────▶ transaction's buffer
//!                             the buffer first, then the snapshot less
//!                             what the transaction took out of it
//! ```
//!
//! Errors are found here, on the statement's own moment, so that they come with the row at fault. What other transactions
//! did meanwhile is found at commit.

mod rows;
mod syntax;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::compute::interleave_record_batch;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast as sql;
use tidemark_catalog::{Column, Object, ObjectKind, SYSTEM_SCHEMAS, Table};
use tidemark_common::{Error, Result, SqlState};
use tidemark_engine::TableDef;
use tidemark_storage::{EncodedRows, Key, RowCodec, Snapshot, StateId, value};

pub(super) use self::rows::{Returning, RowSet};
pub(super) use self::syntax::*;
use super::Session;
use super::assign::{self, Source};
use super::normalize::{Normalizer, Taken};
use crate::coordinator::definitions;
use crate::query::{Names, find_relation, object_name};
use crate::transaction::Transaction;
use tidemark_common::values::{self, Style};

/// A table under a statement that changes it.
pub(super) struct Writer {
    pub object: Arc<Object>,
    pub def: TableDef,
    pub style: Style,
    snapshot: Arc<Snapshot>,
    checks: Vec<(String, Arc<dyn PhysicalExpr>)>,
    /// `None`: no column is normalised.
    pub normalizer: Option<Normalizer>,
    /// The primary key, if there is one, then the UNIQUE constraints and unique indexes.
    pub keys: Vec<UniqueKey>,
}

/// A constraint that no two rows may agree in these columns.
pub(super) struct UniqueKey {
    pub name: String,
    pub columns: Vec<usize>,
    codec: RowCodec,
    /// The index's place in the store; `None`: the primary key, which is the table's own order.
    state: Option<StateId>,
}

/// What is known of the keys of rows before they are put in.
enum Known<'a> {
    Nothing,
    /// They are those of rows just taken out, but where these columns are part of them.
    Changed(&'a [usize]),
    /// Those of these columns are free, and given once.
    Distinct(&'a [usize]),
}

/// Keys of a batch's rows under one constraint.
pub(super) struct Keys {
    encoded: EncodedRows,
    null: Vec<bool>,
}

impl Keys {
    /// `None`: a NULL in it, which equals nothing.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        (!self.null[row]).then(|| self.encoded.row(row))
    }
}

impl UniqueKey {
    pub fn keys(&self, batch: &RecordBatch) -> Result<Keys> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|c| batch.column(*c).clone()).collect();
        let encoded = self.codec.encode_rows(&columns, batch.num_rows())?;
        let null = (0..batch.num_rows()).map(|row| columns.iter().any(|c| c.is_null(row))).collect();
        Ok(Keys { encoded, null })
    }
}

impl Session {
    /// The table that a statement names, if it can be changed.
    pub(crate) fn table_to_change(&self, name: &sql::ObjectName, verb: &str) -> Result<Arc<Object>> {
        let catalog = self.transaction()?.catalog.clone();
        let object = find_relation(&catalog, name, &self.search_path());
        let (schema, bare) = object_name(name, &catalog.database)?;
        let object = match object {
            Ok(object) => object,
            Err(error) => {
                let schema = schema.as_deref().unwrap_or("pg_catalog");
                let system = SYSTEM_SCHEMAS.iter().any(|(_, name)| *name == schema);
                if system && crate::pg_catalog::system_table_names(schema).contains(&bare) {
                    return Err(Error::new(
                        SqlState::WrongObjectType,
                        format!("cannot {verb} system table \"{bare}\""),
                    )
                    .with_hint("Its rows tell what is there: use CREATE, ALTER and DROP, or SET."));
                }
                return Err(error);
            }
        };
        let (kind, hint) = match &object.kind {
            ObjectKind::Table(_) => {
                if !matches!(verb, "insert into" | "copy to" | "load into") {
                    self.refuse_if_remote(&object, verb)?;
                }
                return Ok(object);
            }
            ObjectKind::View(_) => ("view", "Change the tables that it reads."),
            ObjectKind::MaterializedView(_) => {
                ("materialized view", "It follows its query by itself: change the tables that it reads.")
            }
            ObjectKind::Source(_) => {
                ("source", "Its rows come from its connector; for rows of your own, CREATE TABLE.")
            }
            other => {
                return Err(Error::new(
                    SqlState::WrongObjectType,
                    format!("\"{bare}\" is a {}, not a table", other.name()),
                ));
            }
        };
        Err(Error::new(SqlState::WrongObjectType, format!("cannot {verb} {kind} \"{bare}\"")).with_hint(hint))
    }

    /// Of a table whose rows a statement adds or changes.
    pub(super) fn writer(&mut self, names: &Names, object: &Arc<Object>) -> Result<Writer> {
        self.check_may_change(object.schema, &object.name)?;
        self.remover(names, object)
    }

    /// Of a table whose rows a statement takes out.
    pub(super) fn remover(&mut self, names: &Names, object: &Arc<Object>) -> Result<Writer> {
        self.check_may_delete(object.schema, &object.name)?;
        let transaction = self.transaction()?;
        let ObjectKind::Table(table) = &object.kind else {
            return Err(Error::internal(format!("\"{}\" is not a table", object.name)));
        };
        let def = definitions::table(object, table, &transaction.catalog)?;
        let writer = Writer {
            checks: checks(names, table, &def, &self.db.environment)?,
            normalizer: Normalizer::plan(&object.name, object.columns(), names, &self.db.environment, self.style()?)?,
            keys: unique_keys(table, &def)?,
            style: self.style()?,
            snapshot: transaction.moment.snapshot.clone(),
            object: object.clone(),
            def,
        };
        writer.index_own_rows(self.transaction_mut()?)?;
        Ok(writer)
    }

    /// How this session reads and writes values.
    pub(super) fn style(&self) -> Result<Style> {
        let mut style = Style::default();
        style.now_micros = self.transaction()?.started_at;
        style.iso_intervals = self.info.setting("IntervalStyle").as_deref() == Some("iso_8601");
        style.bytea_escape = self.info.setting("bytea_output").as_deref() == Some("escape");
        if let Some(digits) = self.info.setting("extra_float_digits").and_then(|d| d.parse().ok()) {
            style.extra_float_digits = digits;
        }
        match self.info.setting("TimeZone") {
            Some(zone) => style.with_time_zone(&zone),
            None => Ok(style),
        }
    }
}

fn checks(
    names: &Names,
    table: &Table,
    def: &TableDef,
    env: &definitions::Environment,
) -> Result<Vec<(String, Arc<dyn PhysicalExpr>)>> {
    if table.checks.is_empty() {
        return Ok(Vec::new());
    }
    let schema = DFSchema::try_from(def.collection.schema().as_ref().clone())?;
    let props = names.state.execution_props();
    let compile = |text: &str| {
        let expr = names.planner().expr(&rewritten(parse_expression(text)?)?, &schema)?;
        let expr = definitions::runnable(expr, &schema, env)?;
        Ok::<_, Error>(create_physical_expr(&expr, &schema, props, &PhysicalPlanningContext::default())?)
    };
    table.checks.iter().map(|check| Ok((check.name.clone(), compile(&check.expr)?))).collect()
}

fn unique_keys(table: &Table, def: &TableDef) -> Result<Vec<UniqueKey>> {
    let schema = def.collection.schema();
    let key = |name: &str, columns: &[usize], state: Option<StateId>| {
        let fields: Vec<FieldRef> = columns.iter().map(|c| schema.fields()[*c].clone()).collect();
        let codec = RowCodec::for_keys(&fields)?;
        Ok::<_, Error>(UniqueKey { name: name.into(), columns: columns.to_vec(), codec, state })
    };
    let primary = table.primary_key.iter().map(|k| key(&k.name, &k.columns, None));
    let unique = def.indexes.iter().filter(|i| i.is_unique()).map(|i| key(i.name(), i.columns(), Some(i.id())));
    primary.chain(unique).collect()
}

impl Writer {
    /// Columns that users see.
    pub fn columns(&self) -> &[Column] {
        self.object.columns()
    }

    /// Rows as they are stored, new ones without a row number.
    pub fn stored(&self, mut columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        if self.def.key_name.is_none() && columns.len() == self.columns().len() {
            columns.push(new_null_array(&DataType::Int64, rows));
        }
        for (column, array) in self.columns().iter().zip(&columns) {
            if !column.nullable && array.null_count() > 0 {
                return Err(self.not_null_violation(column, array, &columns));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.def.collection.schema().clone(), columns, &options)?)
    }

    /// Converts given columns into those at `positions`, normalised.
    pub fn assign(&self, arrays: &[ArrayRef], sources: &[Source], positions: &[usize]) -> Result<Vec<ArrayRef>> {
        let assign = |((array, source), at): ((&ArrayRef, &Source), &usize)| match self.takes(*at, source) {
            None => assign::convert(array, &source.sql_type, &self.columns()[*at].sql_type, &self.style),
            Some((column, taken)) => {
                let array = assign::convert(array, &source.sql_type, &column.sql_type, &self.style)?;
                self.normalized(*at, taken, array)
            }
        };
        arrays.iter().zip(sources).zip(positions).map(assign).collect()
    }

    /// Converts rows of all columns that were in the table, or in another one: they are what they are.
    pub fn restore(&self, arrays: &[ArrayRef], sources: &[Source]) -> Result<Vec<ArrayRef>> {
        let convert = |((array, source), column): ((&ArrayRef, &Source), &Column)| {
            assign::convert(array, &source.sql_type, &column.sql_type, &self.style)
        };
        arrays.iter().zip(sources).zip(self.columns()).map(convert).collect()
    }

    pub fn check_assignable(&self, sources: &[Source], positions: &[usize]) -> Result<()> {
        sources.iter().zip(positions).try_for_each(|(source, at)| match self.takes(*at, source) {
            Some((column, _)) => assign::check(source, &column),
            None => assign::check(source, &self.columns()[*at]),
        })
    }

    /// What a column takes of a source, if it is normalised.
    fn takes(&self, at: usize, source: &Source) -> Option<(Column, Taken)> {
        self.normalizer.as_ref()?.takes(at, source)
    }

    /// What the column at `at` has taken, as it is to be stored.
    pub fn normalized(&self, at: usize, taken: Taken, array: ArrayRef) -> Result<ArrayRef> {
        match &self.normalizer {
            Some(normalizer) => normalizer.apply(at, taken, &array),
            None => Ok(array),
        }
    }

    /// Fills the columns that are derived from the others of the same rows; which they are.
    pub fn derive(&self, columns: &mut [ArrayRef], rows: usize) -> Result<Vec<usize>> {
        let Some(normalizer) = &self.normalizer else { return Ok(Vec::new()) };
        normalizer.derive(columns, rows)?;
        Ok(normalizer.derived().collect())
    }

    fn not_null_violation(&self, column: &Column, array: &ArrayRef, columns: &[ArrayRef]) -> Error {
        let row = (0..array.len()).find(|row| array.is_null(*row)).unwrap_or(0);
        Error::new(
            SqlState::NotNullViolation,
            format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, self.object.name
            ),
        )
        .with_detail(self.failing_row(columns, row))
    }

    fn failing_row(&self, columns: &[ArrayRef], row: usize) -> String {
        format!("Failing row contains ({}).", self.texts(self.columns().iter().zip(columns), row))
    }

    fn texts<'a>(&self, columns: impl Iterator<Item = (&'a Column, &'a ArrayRef)>, row: usize) -> String {
        /// Bytes of a value that a message shows.
        const SHOWN: usize = 64;
        let text = |(column, array): (&Column, &ArrayRef)| {
            if array.is_null(row) {
                return "null".to_string();
            }
            let mut out = BytesMut::new();
            match values::Column::of_type(&array.slice(row, 1), &column.sql_type) {
                Ok(value) => value.write_text(0, &self.style, &mut out),
                Err(error) => return error.to_string(),
            }
            let text = String::from_utf8_lossy(&out);
            match text.len() > SHOWN {
                true => format!("{}...", &text[..text.floor_char_boundary(SHOWN)]),
                false => text.into_owned(),
            }
        };
        columns.map(text).collect::<Vec<_>>().join(", ")
    }

    /// CHECK constraints. NULL passes, as SQL has it.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        for (name, expr) in &self.checks {
            let result = expr.evaluate(batch)?.into_array(batch.num_rows())?;
            let Some(holds) = result.as_boolean_opt() else {
                return Err(Error::internal(format!("CHECK \"{name}\" is not boolean")));
            };
            if let Some(row) = holds.iter().position(|held| held == Some(false)) {
                return Err(Error::new(
                    SqlState::CheckViolation,
                    format!("new row for relation \"{}\" violates check constraint \"{name}\"", self.object.name),
                )
                .with_detail(self.failing_row(batch.columns(), row)));
            }
        }
        Ok(())
    }

    /// For each row, the key of the row that has its place under the constraint, if one has.
    pub fn holders(&self, key: &UniqueKey, keys: &Keys, transaction: &Transaction) -> Result<Vec<Option<Box<[u8]>>>> {
        let buffer = transaction.buffer(self.object.oid);
        let touched = |row_key: &[u8]| buffer.and_then(|b| b.lookup(row_key));
        let mut holders: Vec<Option<Box<[u8]>>> = vec![None; keys.null.len()];
        let (mut unknown, mut wanted) = (Vec::new(), Vec::new());
        let collection = key.state.unwrap_or(self.def.collection.id());
        for (row, holder) in holders.iter_mut().enumerate() {
            let Some(bytes) = keys.get(row) else { continue };
            match key.state {
                Some(state) => *holder = buffer.and_then(|b| b.holder(state, bytes)).map(Into::into),
                None => match touched(bytes) {
                    Some(Some(_)) => *holder = Some(bytes.into()),
                    Some(None) => continue,
                    None => {}
                },
            }
            if holder.is_none() {
                unknown.push(row);
                wanted.push(Key::Row { collection, key: bytes }.encode());
            }
        }
        for (row, found) in unknown.into_iter().zip(self.snapshot.multi_get_encoded(&wanted)?) {
            let Some(found) = found else { continue };
            holders[row] = match key.state {
                None => keys.get(row).map(Into::into),
                Some(_) => {
                    let row_key = value::unframe(&found)?;
                    // A row that was changed or removed in this transaction is not there as the index has it.
                    touched(row_key).is_none().then(|| row_key.into())
                }
            };
        }
        Ok(holders)
    }

    /// Every key must be free, and given once.
    fn check_free(&self, batch: &RecordBatch, known: &Known<'_>, transaction: &Transaction) -> Result<()> {
        let can_collide = |key: &&UniqueKey| match known {
            Known::Nothing => true,
            Known::Changed(changed) => key.columns.iter().any(|k| changed.contains(k)),
            Known::Distinct(columns) => {
                key.columns.len() != columns.len() || !key.columns.iter().all(|k| columns.contains(k))
            }
        };
        for key in self.keys.iter().filter(can_collide) {
            let keys = key.keys(batch)?;
            let mut seen = HashSet::with_capacity(batch.num_rows());
            let taken = self.holders(key, &keys, transaction)?;
            for (row, taken) in taken.iter().enumerate() {
                let twice = keys.get(row).is_some_and(|bytes| !seen.insert(bytes));
                if taken.is_some() || twice {
                    return Err(self.duplicate(key, batch, row));
                }
            }
        }
        Ok(())
    }

    fn duplicate(&self, key: &UniqueKey, batch: &RecordBatch, row: usize) -> Error {
        let of = |c: &usize| (&self.columns()[*c], batch.column(*c));
        let names: Vec<&str> = key.columns.iter().map(|c| self.columns()[*c].name.as_str()).collect();
        Error::new(
            SqlState::UniqueViolation,
            format!("duplicate key value violates unique constraint \"{}\"", key.name),
        )
        .with_detail(format!(
            "Key ({})=({}) already exists.",
            names.join(", "),
            self.texts(key.columns.iter().map(of), row)
        ))
    }

    /// Puts rows in that pass all constraints; returns them with their row numbers.
    pub fn add(&mut self, batch: RecordBatch, transaction: &mut Transaction) -> Result<RecordBatch> {
        self.add_with(batch, &Known::Nothing, transaction)
    }

    /// As [`Writer::add`], of rows of which it is known that their keys in these columns are free, and given once.
    pub fn add_distinct(
        &mut self,
        batch: RecordBatch,
        columns: &[usize],
        transaction: &mut Transaction,
    ) -> Result<RecordBatch> {
        self.add_with(batch, &Known::Distinct(columns), transaction)
    }

    /// Puts rows in that were taken out just now, with other values in the `changed` columns.
    pub fn put_back(
        &mut self,
        batch: RecordBatch,
        changed: &[usize],
        transaction: &mut Transaction,
    ) -> Result<RecordBatch> {
        self.add_with(batch, &Known::Changed(changed), transaction)
    }

    fn add_with(
        &mut self,
        batch: RecordBatch,
        known: &Known<'_>,
        transaction: &mut Transaction,
    ) -> Result<RecordBatch> {
        if batch.num_rows() == 0 {
            return Ok(batch);
        }
        self.check_free(&batch, known, transaction)?;
        let added = transaction.buffer_mut(&self.def)?.add(batch)?;
        transaction.check_size()?;
        for key in &self.keys {
            let Some(state) = key.state else { continue };
            self.index(key, state, &added, transaction)?;
        }
        Ok(added)
    }

    /// The rows that the transaction has put in, under the constraints whose index is not there: it is new, or ROLLBACK TO
    /// took it back.
    fn index_own_rows(&self, transaction: &mut Transaction) -> Result<()> {
        for key in &self.keys {
            let Some(state) = key.state else { continue };
            match transaction.buffer(self.object.oid) {
                Some(buffer) if !buffer.has_index(state) => {
                    let rows = buffer.current()?;
                    self.index(key, state, &rows, transaction)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn index(&self, key: &UniqueKey, state: StateId, rows: &RecordBatch, transaction: &mut Transaction) -> Result<()> {
        let (keys, row_keys) = (key.keys(rows)?, self.def.collection.key_of(rows)?);
        let of = |row| keys.get(row).map(|bytes| (bytes.into(), row_keys.row(row).into()));
        transaction.buffer_mut(&self.def)?.index(state, (0..rows.num_rows()).filter_map(of));
        Ok(())
    }

    /// Takes rows out, which must be as they stand.
    pub fn remove(&mut self, batch: RecordBatch, transaction: &mut Transaction) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let buffer = transaction.buffer_mut(&self.def)?;
        for key in &self.keys {
            let Some(state) = key.state.filter(|state| buffer.has_index(*state)) else { continue };
            let keys = key.keys(&batch)?;
            (0..batch.num_rows()).filter_map(|row| keys.get(row)).for_each(|bytes| buffer.unindex(state, bytes));
        }
        buffer.remove(batch)
    }

    /// The rows of these keys, which are all there.
    pub fn rows_at(&self, row_keys: &[Box<[u8]>], transaction: &Transaction) -> Result<RecordBatch> {
        let buffer = transaction.buffer(self.object.oid);
        let mut own = Vec::new();
        let mut stored: Vec<&[u8]> = Vec::new();
        let mut places = Vec::with_capacity(row_keys.len());
        for key in row_keys {
            match buffer.and_then(|b| b.lookup(key)).flatten() {
                Some(at) => {
                    places.push((0, own.len()));
                    own.push(at);
                }
                None => {
                    places.push((1, stored.len()));
                    stored.push(key.as_ref());
                }
            }
        }
        let own = match buffer {
            Some(buffer) => buffer.gather(&own)?,
            None => RecordBatch::new_empty(self.def.collection.schema().clone()),
        };
        let found = self.def.collection.get_rows(&self.snapshot, &stored)?;
        for place in places.iter_mut().filter(|p| p.0 == 1) {
            place.1 = found.found[place.1].ok_or_else(|| Error::internal("a row in conflict is not there"))?;
        }
        if places.is_empty() {
            return Ok(own);
        }
        Ok(interleave_record_batch(&[&own, &found.batch], &places)?)
    }
}
