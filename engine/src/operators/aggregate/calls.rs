//! One call of an aggregate function: its arguments, its accumulators, and what it stores.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{SortColumn, cast, concat, lexsort_to_indices, take};
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr, PhysicalSortExpr};
use tidemark_common::plan::AggregateCall;
use tidemark_common::{Error, Result};
use tidemark_storage::RowCodec;

use crate::operators::true_rows;

/// Functions whose accumulator state is their result, when both have the same type.
const STATE_IS_RESULT: [&str; 9] =
    ["count", "sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];

pub struct Call {
    pub function: Arc<AggregateFunctionExpr>,
    pub filter: Option<usize>,
    /// What the accumulator is fed: the arguments, then what ORDER BY inside the call sorts by.
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    order: Vec<PhysicalSortExpr>,
    pub state_fields: Vec<FieldRef>,
    pub result: FieldRef,
    /// There is no GROUP BY.
    global: bool,
}

impl Call {
    pub fn new(call: &AggregateCall, global: bool) -> Result<Self> {
        let function = Arc::clone(&call.function);
        let order = function.order_bys().to_vec();
        let inputs = function.expressions().into_iter().chain(order.iter().map(|o| Arc::clone(&o.expr))).collect();
        let state_fields = function.state_fields()?;
        let result = function.field();
        Ok(Self { filter: call.filter, inputs, order, state_fields, result, function, global })
    }

    /// The call without its DISTINCT, over rows of `input`: for those rows that bring a value for the first time.
    pub fn of_each_value(&self, input: &SchemaRef) -> Result<Self> {
        let function = AggregateExprBuilder::new(Arc::new(self.function.fun().clone()), self.function.expressions())
            .schema(Arc::clone(input))
            .alias(self.function.name())
            .build()?;
        Self::new(&AggregateCall { function: Arc::new(function), filter: self.filter }, self.global)
    }

    /// Rows must come in the order that the call asks for.
    pub fn is_ordered(&self) -> bool {
        !self.order.is_empty()
    }

    /// The stored state needs no evaluation: it is what the call returns.
    pub fn state_is_result(&self) -> bool {
        let [state] = self.state_fields.as_slice() else { return false };
        STATE_IS_RESULT.contains(&self.function.fun().name())
            && !self.function.is_distinct()
            && state.data_type() == self.result.data_type()
    }

    /// The columns of the input that it reads.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        let of_inputs = self.inputs.iter().flat_map(datafusion::physical_expr::utils::collect_columns);
        of_inputs.map(|c| c.index()).chain(self.filter)
    }

    /// Its accumulator knows of groups, and takes it that each it was told of has had a row; otherwise there is an
    /// accumulator a group, which knows nothing of the others.
    pub fn counts_groups(&self) -> bool {
        // DataFusion's groups of bit_xor forget DISTINCT; its accumulator of one group does not.
        let is_wrong = self.function.is_distinct() && self.function.fun().name() == "bit_xor";
        !self.global && !is_wrong && self.function.groups_accumulator_supported()
    }

    /// Without GROUP BY the one group may have no rows, which accumulators of many groups do not expect: an average of
    /// decimals divides by zero, a sum is 0. Those of one group know that case.
    pub fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        if self.counts_groups() {
            return Ok(self.function.create_groups_accumulator()?);
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }

    /// Feeds the rows of `batch` in the order in which they are.
    pub fn update(
        &self,
        accumulator: &mut dyn GroupsAccumulator,
        batch: &RecordBatch,
        groups: &[usize],
        total: usize,
    ) -> Result<()> {
        self.update_with(accumulator, batch, groups, total, self.mask(batch)?.as_ref())
    }

    /// Feeds the rows of `batch` where `mask` is true.
    pub fn update_with(
        &self,
        accumulator: &mut dyn GroupsAccumulator,
        batch: &RecordBatch,
        groups: &[usize],
        total: usize,
        mask: Option<&BooleanArray>,
    ) -> Result<()> {
        Ok(accumulator.update_batch(&self.evaluate(batch)?, groups, mask, total)?)
    }

    /// Feeds the rows of `batch` in the order that the call asks for; those it holds equal stay in their order.
    pub fn update_in_order(
        &self,
        accumulator: &mut dyn GroupsAccumulator,
        batch: &RecordBatch,
        groups: &[usize],
        total: usize,
    ) -> Result<()> {
        if !self.is_ordered() || batch.num_rows() < 2 {
            return self.update(accumulator, batch, groups, total);
        }
        let values = self.evaluate(batch)?;
        let order = self.sorted_rows(&values[values.len() - self.order.len()..], batch.num_rows())?;
        let values = values.iter().map(|v| take(v, &order, None)).collect::<Result<Vec<_>, _>>()?;
        let groups: Vec<usize> = order.values().iter().map(|&row| groups[row as usize]).collect();
        let mask = match self.mask(batch)? {
            Some(mask) => Some(take(&mask, &order, None)?.as_boolean().clone()),
            None => None,
        };
        Ok(accumulator.update_batch(&values, &groups, mask.as_ref(), total)?)
    }

    /// The results of groups that are stored as `states`, one row a group.
    pub fn results_of(&self, states: &[ArrayRef], groups: usize) -> Result<ArrayRef> {
        if self.state_is_result() {
            return conform(Arc::clone(&states[0]), self.result.data_type());
        }
        let mut accumulator = self.accumulator()?;
        let identity: Vec<usize> = (0..groups).collect();
        accumulator.merge_batch(states, &identity, groups)?;
        self.results(accumulator.as_mut())
    }

    /// What the accumulated groups come to.
    pub fn results(&self, accumulator: &mut dyn GroupsAccumulator) -> Result<ArrayRef> {
        conform(self.settled(accumulator.evaluate(EmitTo::All)?)?, self.result.data_type())
    }

    /// Stored states of groups, several of one among them, merged with what an epoch `added` to each group. `of`: the group of each
    /// that is stored.
    ///
    /// All at once, since accumulators that count groups take it that each has had a row; but where there is an accumulator a group,
    /// some take only one state at a time.
    pub fn joined(&self, stored: &[ArrayRef], of: &[usize], added: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        let Some(total) = added.first().map(|state| state.len()).filter(|_| !of.is_empty()) else { return Ok(added) };
        let mut accumulator = self.accumulator()?;
        if self.counts_groups() {
            let groups: Vec<usize> = of.iter().copied().chain(0..total).collect();
            let both = stored.iter().zip(&added).map(|(s, a)| concat(&[s, a])).collect::<Result<Vec<_>, _>>()?;
            accumulator.merge_batch(&both, &groups, total)?;
            return self.states(accumulator.as_mut());
        }
        for turn in in_turns(of) {
            let groups: Vec<usize> = turn.iter().map(|&row| of[row as usize]).collect();
            let turn = UInt32Array::from(turn);
            let states = stored.iter().map(|state| take(state, &turn, None)).collect::<Result<Vec<_>, _>>()?;
            accumulator.merge_batch(&states, &groups, total)?;
        }
        accumulator.merge_batch(&added, &(0..total).collect::<Vec<_>>(), total)?;
        self.states(accumulator.as_mut())
    }

    /// What to store of the accumulated groups.
    pub fn states(&self, accumulator: &mut dyn GroupsAccumulator) -> Result<Vec<ArrayRef>> {
        let states = accumulator.state(EmitTo::All)?;
        if states.len() != self.state_fields.len() {
            let (got, expected) = (states.len(), self.state_fields.len());
            return Err(Error::internal(format!(
                "the state of {} has {got} columns instead of {expected}",
                self.function.name()
            )));
        }
        states.into_iter().zip(&self.state_fields).map(|(s, f)| conform(self.settled(s)?, f.data_type())).collect()
    }

    /// DISTINCT gives its values in the order of a hash table that is another in each process: sorted, the same input gives
    /// the same bytes.
    fn settled(&self, array: ArrayRef) -> Result<ArrayRef> {
        if self.function.is_distinct() && !self.is_ordered() { sorted_lists(array) } else { Ok(array) }
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let rows = batch.num_rows();
        Ok(self.inputs.iter().map(|e| e.evaluate(batch)?.into_array(rows)).collect::<Result<_, _>>()?)
    }

    /// The rows that FILTER lets through.
    pub fn mask(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(column) = self.filter else { return Ok(None) };
        let Some(mask) = batch.column(column).as_boolean_opt() else {
            return Err(Error::internal(format!("the FILTER of {} is not boolean", self.function.name())));
        };
        Ok(Some(true_rows(mask)))
    }

    /// The same argument of the same rows.
    pub fn counts_same_values(&self, other: &Call) -> bool {
        self.filter == other.filter && self.inputs.first() == other.inputs.first()
    }

    pub fn has_same_arguments(&self, other: &Call) -> bool {
        self.inputs == other.inputs
    }

    pub fn argument_types(&self, input: &SchemaRef) -> Result<Vec<DataType>> {
        Ok(self.inputs.iter().map(|argument| argument.data_type(input)).collect::<Result<_, _>>()?)
    }

    /// An argument, evaluated.
    pub fn argument(&self, batch: &RecordBatch, index: usize) -> Result<ArrayRef> {
        Ok(self.inputs[index].evaluate(batch)?.into_array(batch.num_rows())?)
    }

    pub fn num_arguments(&self) -> usize {
        self.inputs.len() - self.order.len()
    }

    fn sorted_rows(&self, by: &[ArrayRef], rows: usize) -> Result<UInt32Array> {
        let mut columns: Vec<SortColumn> = by
            .iter()
            .zip(&self.order)
            .map(|(values, order)| SortColumn { values: Arc::clone(values), options: Some(order.options) })
            .collect();
        // Makes the sort stable.
        let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows as u32));
        columns.push(SortColumn { values: numbers, options: None });
        Ok(lexsort_to_indices(&columns, None)?)
    }
}

/// Rows such that no two of one turn are of one group: the first of each group, the second of each, ..
fn in_turns(of: &[usize]) -> Vec<Vec<u32>> {
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut turns: Vec<Vec<u32>> = Vec::new();
    for (row, group) in of.iter().enumerate() {
        let turn = seen.entry(*group).or_default();
        if turns.len() == *turn {
            turns.push(Vec::new());
        }
        turns[*turn].push(row as u32);
        *turn += 1;
    }
    turns
}

/// Each list with its elements in the order of their encoding; arrays that are no lists as they are.
fn sorted_lists(array: ArrayRef) -> Result<ArrayRef> {
    let (DataType::List(item), Some(lists)) = (array.data_type(), array.as_list_opt::<i32>()) else {
        return Ok(array);
    };
    let encoded = RowCodec::new(std::slice::from_ref(item))?.encode(std::slice::from_ref(lists.values()))?;
    let mut order: Vec<u32> = (0..lists.values().len() as u32).collect();
    for ends in lists.offsets().windows(2) {
        order[ends[0] as usize..ends[1] as usize].sort_unstable_by_key(|&at| encoded.row(at as usize));
    }
    let values = take(lists.values(), &UInt32Array::from(order), None)?;
    let sorted = ListArray::try_new(Arc::clone(item), lists.offsets().clone(), values, lists.nulls().cloned())?;
    Ok(Arc::new(sorted))
}

/// The array with exactly the type that was announced: accumulators are not strict about the names of list items and the like.
pub fn conform(array: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type { Ok(array) } else { Ok(cast(&array, data_type)?) }
}
