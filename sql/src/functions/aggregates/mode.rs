//! `mode() WITHIN GROUP (ORDER BY x)`: the value that is there most often; of several the first in that order.
//!
//! ```text
//!   values ──sortable bytes──▶ { value: times }, in order ──the first of the most──▶ value
//! ```

use std::collections::BTreeMap;
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, ReversedUDAF, Signature, Volatility};
use tidemark_common::{Error, Result, SqlState};

pub fn functions() -> Vec<AggregateUDF> {
    vec![AggregateUDF::new_from_impl(Mode { signature: Signature::any(1, Volatility::Immutable) })]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mode {
    signature: Signature,
}

impl AggregateUDFImpl for Mode {
    fn name(&self) -> &str {
        "mode"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(value(types)?.clone())
    }

    fn return_field(&self, fields: &[FieldRef]) -> DfResult<FieldRef> {
        Ok(Arc::new(value(fields)?.as_ref().clone().with_name("mode").with_nullable(true)))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let item = value(args.input_fields)?.data_type().clone();
        let list = |what: &str, item| {
            Field::new_list(format_state_name(args.name, what), Field::new_list_field(item, true), true)
        };
        Ok(vec![Arc::new(list("values", item)), Arc::new(list("times", DataType::Int64))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        let Some(order) = args.order_bys.first() else {
            let message = "WITHIN GROUP is required for ordered-set aggregate mode";
            return Err(Error::new(SqlState::WrongObjectType, message).into());
        };
        let data_type = value(args.expr_fields)?.data_type().clone();
        // What is NULL is not counted.
        let options = SortOptions { descending: order.options.descending, nulls_first: false };
        let rows = RowConverter::new(vec![SortField::new_with_options(data_type.clone(), options)])?;
        Ok(Box::new(Times { data_type, rows, times: BTreeMap::new() }))
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }
}

fn value<T>(arguments: &[T]) -> Result<&T> {
    let message = "WITHIN GROUP is required for ordered-set aggregate mode";
    arguments.first().ok_or_else(|| Error::new(SqlState::WrongObjectType, message))
}

/// How often each value has been there.
#[derive(Debug)]
struct Times {
    data_type: DataType,
    rows: RowConverter,
    /// By the value's bytes, in the order asked for.
    times: BTreeMap<Box<[u8]>, i64>,
}

impl Times {
    fn add(&mut self, values: &ArrayRef, times: impl Fn(usize) -> i64) -> DfResult<()> {
        let rows = self.rows.convert_columns(std::slice::from_ref(values))?;
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let bytes = rows.row(row);
            match self.times.get_mut(bytes.as_ref()) {
                Some(known) => *known += times(row),
                None => {
                    self.times.insert(bytes.as_ref().into(), times(row));
                }
            }
        }
        Ok(())
    }

    fn values<'a>(&self, bytes: impl Iterator<Item = &'a [u8]>) -> DfResult<ArrayRef> {
        let parser = self.rows.parser();
        let columns = self.rows.convert_rows(bytes.map(|bytes| parser.parse(bytes)))?;
        columns.into_iter().next().ok_or_else(|| Error::internal("a row of one column has none").into())
    }
}

impl Accumulator for Times {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.add(value(values)?, |_| 1)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let most = self.times.values().max().copied();
        match self.times.iter().find(|(_, times)| Some(**times) == most) {
            Some((bytes, _)) => ScalarValue::try_from_array(&self.values([bytes.as_ref()].into_iter())?, 0),
            None => ScalarValue::try_new_null(&self.data_type),
        }
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let values = self.values(self.times.keys().map(AsRef::as_ref))?;
        let times: ArrayRef = Arc::new(Int64Array::from_iter_values(self.times.values().copied()));
        Ok([values, times].map(|items| SingleRowListArrayBuilder::new(items).build_list_scalar()).into())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let [values, times] = states else { return Err(Error::internal("mode keeps two lists").into()) };
        for (values, times) in values.as_list::<i32>().iter().zip(times.as_list::<i32>().iter()) {
            if let (Some(values), Some(times)) = (values, times) {
                let times = times.as_primitive::<Int64Type>();
                self.add(&values, |row| times.value(row))?;
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        let entries: usize = self.times.keys().map(|bytes| bytes.len() + size_of::<(Box<[u8]>, i64)>()).sum();
        size_of::<Self>() + self.rows.size() + entries
    }
}
