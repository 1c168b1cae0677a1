//! ON CONFLICT: what happens to a row whose key is taken.
//!
//! ```text
//!   rows ──keys of the arbiter──▶ free? ─▶ inserted
//!                                 taken ─▶ left out  |  row there + excluded ──WHERE, SET──▶ old row out, new row in
//! ```

use std::collections::HashSet;

/// A row of the statement, and the key of the row that is in its way.
type Hit = (usize, Box<[u8]>);

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::logical_expr::Expr;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast as sql;
use tidemark_common::{Error, Result, SqlState};

use crate::query::Names;
use crate::session::assign::Source;
use crate::session::dml::{self, RowSet, Writer};
use crate::session::{fold, select, with_parameters};
use crate::transaction::Transaction;

pub(super) struct Conflict {
    /// Constraints that decide, by position in [`Writer::keys`].
    arbiters: Vec<usize>,
    update: Option<Update>,
    /// Keys of the rows that this statement has put in, for each arbiter.
    seen: Vec<HashSet<Box<[u8]>>>,
}

struct Update {
    positions: Vec<usize>,
    values: Vec<Expr>,
    selection: Option<Expr>,
    /// Columns of the row that is there and of the one that was to come.
    columns: RowSet,
}

/// Name of the column that tells pairs of rows apart.
const PAIR: &str = "tidemark_pair";

impl Conflict {
    pub fn plan(names: &Names, writer: &Writer, alias: &str, on: &sql::OnConflict) -> Result<Conflict> {
        let arbiters = arbiters(writer, on)?;
        let update = match &on.action {
            sql::OnConflictAction::DoNothing => None,
            sql::OnConflictAction::DoUpdate(update) => Some(Update::plan(names, writer, alias, update)?),
        };
        Ok(Conflict { seen: vec![HashSet::new(); arbiters.len()], arbiters, update })
    }

    /// Inserts what can be, updates what is to be; returns the rows as they now are, in the order they were given.
    pub async fn insert(
        &mut self,
        names: &Names,
        writer: &mut Writer,
        batch: RecordBatch,
        transaction: &mut Transaction,
        parameters: &[ScalarValue],
    ) -> Result<RecordBatch> {
        let (free, taken) = self.divide(writer, &batch, transaction)?;
        let inserted = writer.add(filter_record_batch(&batch, &free)?, transaction)?;
        let Some(update) = self.update.as_ref().filter(|_| !taken.is_empty()) else { return Ok(inserted) };
        let (updated, from) = update.apply(names, writer, &batch, &taken, transaction, parameters).await?;
        let free = (0..batch.num_rows()).filter(|row| free.value(*row)).enumerate().map(|(at, row)| (row, (0, at)));
        let mut order: Vec<(usize, (usize, usize))> = free.collect();
        order.extend(from.into_iter().enumerate().map(|(at, row)| (row, (1, at))));
        order.sort_unstable();
        let places: Vec<(usize, usize)> = order.into_iter().map(|(_, place)| place).collect();
        if places.is_empty() {
            return Ok(inserted);
        }
        Ok(interleave_record_batch(&[&inserted, &updated], &places)?)
    }

    /// Which rows are free to go in, and for the others (if they are to update) the key of the row in their place.
    fn divide(
        &mut self,
        writer: &Writer,
        batch: &RecordBatch,
        transaction: &Transaction,
    ) -> Result<(BooleanArray, Vec<Hit>)> {
        let keys = self.arbiters.iter().map(|a| writer.keys[*a].keys(batch)).collect::<Result<Vec<_>>>()?;
        let holders = self
            .arbiters
            .iter()
            .zip(&keys)
            .map(|(a, keys)| writer.holders(&writer.keys[*a], keys, transaction))
            .collect::<Result<Vec<_>>>()?;
        let mut taken = Vec::new();
        let mut free = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let own = (0..keys.len()).any(|a| keys[a].get(row).is_some_and(|k| self.seen[a].contains(k)));
            let holder = holders.iter().find_map(|of| of[row].clone());
            free.push(!own && holder.is_none());
            if self.update.is_some() {
                if own {
                    return Err(Error::new(
                        SqlState::CardinalityViolation,
                        "ON CONFLICT DO UPDATE command cannot affect row a second time",
                    )
                    .with_hint(
                        "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
                    ));
                }
                taken.extend(holder.map(|holder| (row, holder)));
            }
            for (seen, keys) in self.seen.iter_mut().zip(&keys) {
                if let Some(key) = keys.get(row) {
                    seen.insert(key.into());
                }
            }
        }
        Ok((BooleanArray::from(free), taken))
    }
}

fn arbiters(writer: &Writer, on: &sql::OnConflict) -> Result<Vec<usize>> {
    match &on.conflict_target {
        None if matches!(on.action, sql::OnConflictAction::DoUpdate(_)) => {
            Err(Error::syntax("ON CONFLICT DO UPDATE requires inference specification or constraint name")
                .with_hint("For example, ON CONFLICT (column_name)."))
        }
        None => Ok((0..writer.keys.len()).collect()),
        Some(sql::ConflictTarget::OnConstraint(name)) => {
            let name = fold(&dml::column_ident(name)?);
            let found = writer.keys.iter().position(|k| k.name == name);
            found.map(|at| vec![at]).ok_or_else(|| {
                Error::new(
                    SqlState::UndefinedObject,
                    format!("constraint \"{name}\" for table \"{}\" does not exist", writer.object.name),
                )
            })
        }
        Some(sql::ConflictTarget::Columns(idents)) => {
            let mut wanted =
                idents.iter().map(|i| dml::column_position(&writer.object, &fold(i))).collect::<Result<Vec<_>>>()?;
            wanted.sort_unstable();
            wanted.dedup();
            let matches = |columns: &[usize]| {
                let mut columns = columns.to_vec();
                columns.sort_unstable();
                columns == wanted
            };
            let found: Vec<usize> =
                (0..writer.keys.len()).filter(|at| matches(&writer.keys[*at].columns)).take(1).collect();
            if found.is_empty() {
                return Err(Error::new(
                    SqlState::InvalidColumnReference,
                    "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                )
                .with_hint("Name the columns of the primary key or of a UNIQUE constraint."));
            }
            Ok(found)
        }
    }
}

impl Update {
    fn plan(names: &Names, writer: &Writer, alias: &str, update: &sql::DoUpdate) -> Result<Update> {
        let fields: Vec<FieldRef> =
            writer.def.collection.schema().fields().iter().take(writer.columns().len()).cloned().collect();
        let pair: FieldRef = Field::new(PAIR, DataType::Int64, false).into();
        let columns = RowSet::of(alias, &fields).and("excluded", &fields).and(PAIR, [&pair]);
        let mut update_plan = Update { positions: Vec::new(), values: Vec::new(), selection: None, columns };
        let qualify = |expr: sql::Expr| qualified(expr, alias, writer);
        for (position, expr) in dml::set_list(&writer.object, &update.assignments)? {
            update_plan.positions.push(position);
            update_plan.values.push(update_plan.columns.expr(names, qualify(expr))?);
        }
        if let Some(selection) = &update.selection {
            update_plan.selection = Some(update_plan.columns.expr(names, qualify(selection.clone()))?);
        }
        Ok(update_plan)
    }

    /// The rows as updated, and which of the `proposed` each comes from.
    async fn apply(
        &self,
        names: &Names,
        writer: &mut Writer,
        proposed: &RecordBatch,
        taken: &[(usize, Box<[u8]>)],
        transaction: &mut Transaction,
        parameters: &[ScalarValue],
    ) -> Result<(RecordBatch, Vec<usize>)> {
        let row_keys: Vec<Box<[u8]>> = taken.iter().map(|(_, key)| key.clone()).collect();
        let there = writer.rows_at(&row_keys, transaction)?;
        let excluded = take_record_batch(proposed, &taken.iter().map(|(row, _)| *row as u64).collect::<UInt64Array>())?;
        let width = writer.columns().len();
        let mut rows = self.columns.clone();
        let mut arrays: Vec<ArrayRef> = there.columns()[..width].to_vec();
        arrays.extend_from_slice(&excluded.columns()[..width]);
        arrays.push(dml::row_positions(taken.len()));
        rows.push(arrays);

        let mut plan = rows.plan()?;
        if let Some(selection) = &self.selection {
            plan = plan.filter(selection.clone())?;
        }
        let pair = Expr::Column(datafusion::common::Column::new(Some(PAIR), PAIR));
        let values = self.values.iter().enumerate().map(|(i, e)| e.clone().alias(format!("n{i}")));
        let plan = plan.project(values.chain([pair.alias(PAIR)]).collect::<Vec<_>>())?.build()?;
        let plan = with_parameters(plan, parameters)?;
        let sources = Source::of_plan(&plan);
        let sources = &sources[..self.positions.len()];
        writer.check_assignable(sources, &self.positions)?;

        let batches = select::collect(names, plan).await?;
        let (mut old, mut new, mut from) = (Vec::new(), Vec::new(), Vec::new());
        for batch in batches {
            let pairs = batch.column(batch.num_columns() - 1);
            let pairs: UInt64Array = pairs.as_primitive::<Int64Type>().iter().map(|p| p.map(|p| p as u64)).collect();
            let before = take_record_batch(&there, &pairs)?;
            let mut columns = before.columns().to_vec();
            let assigned = writer.assign(&batch.columns()[..self.positions.len()], sources, &self.positions)?;
            for (position, array) in self.positions.iter().zip(assigned) {
                columns[*position] = array;
            }
            writer.derive(&mut columns, pairs.len())?;
            let after = writer.stored(columns, pairs.len())?;
            writer.check(&after)?;
            from.extend(pairs.values().iter().map(|pair| taken[*pair as usize].0));
            old.push(before);
            new.push(after);
        }
        let schema = writer.def.collection.schema().clone();
        let old = concat_batches(&schema, &old)?;
        let new = concat_batches(&schema, &new)?;
        writer.remove(old, transaction)?;
        let derived = writer.normalizer.iter().flat_map(|normalizer| normalizer.derived());
        let changed: Vec<usize> = self.positions.iter().copied().chain(derived).collect();
        Ok((writer.put_back(new, &changed, transaction)?, from))
    }
}

/// Bare column names are the table's, not `excluded`'s.
fn qualified(mut expr: sql::Expr, alias: &str, writer: &Writer) -> sql::Expr {
    let _all = sql::visit_expressions_mut(&mut expr, |e| {
        if let sql::Expr::Identifier(ident) = e
            && writer.columns().iter().any(|c| c.name == fold(ident))
        {
            let relation = sql::Ident::with_quote('"', alias);
            *e = sql::Expr::CompoundIdentifier(vec![relation, ident.clone()]);
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    expr
}
