//! Functions over arrays that stand in for Postgres' set-returning ones: their result is unnested by the rewritten query.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int16Array, Int32Array, ListArray, StringArray, StructArray, new_empty_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int16Type, Int32Type};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemark_catalog::{quote_ident, quote_literal};

pub fn functions() -> Vec<ScalarUDF> {
    [Kind::Subscripts, Kind::VectorSubscripts, Kind::Expand, Kind::EmptyIfNull, Kind::Options, Kind::ToastOptions]
        .into_iter()
        .map(|kind| {
            ScalarUDF::new_from_impl(ArrayFunction { kind, signature: Signature::any(1, Volatility::Immutable) })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// `generate_subscripts(array, 1)`
    Subscripts,
    /// The same of a vector, which counts from 0.
    VectorSubscripts,
    /// `information_schema._pg_expandarray`: (element, position)
    Expand,
    /// `ARRAY(SELECT ..)` of no rows is an empty array.
    EmptyIfNull,
    /// `key=value` items as `key 'value'`, which psql asks `pg_options_to_table` for.
    Options,
    /// The same items with `toast.` before each.
    ToastOptions,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayFunction {
    kind: Kind,
    signature: Signature,
}

fn pair_fields() -> Fields {
    Fields::from(vec![Field::new("x", DataType::Int16, true), Field::new("n", DataType::Int32, true)])
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

impl ScalarUDFImpl for ArrayFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Subscripts => "array_subscripts",
            Kind::VectorSubscripts => "vector_subscripts",
            Kind::Expand => "array_expand",
            Kind::EmptyIfNull => "array_or_empty",
            Kind::Options => "options_text",
            Kind::ToastOptions => "toast_options_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        Ok(match self.kind {
            Kind::Subscripts | Kind::VectorSubscripts => list_of(DataType::Int32),
            Kind::Expand => list_of(DataType::Struct(pair_fields())),
            Kind::Options | Kind::ToastOptions => list_of(DataType::Utf8),
            Kind::EmptyIfNull => arguments[0].clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let input = args.args[0].clone().into_array(if constant { 1 } else { args.number_rows })?;
        let input = if input.data_type().is_null() { cast(&input, &list_of(DataType::Utf8))? } else { input };
        let Some(list) = input.as_list_opt::<i32>() else {
            return exec_err!("{} takes an array, not {}", self.name(), input.data_type());
        };
        let array = self.evaluate(list)?;
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        } else {
            ColumnarValue::Array(array)
        })
    }
}

impl ArrayFunction {
    fn evaluate(&self, list: &ListArray) -> DfResult<ArrayRef> {
        let lengths: Vec<usize> =
            (0..list.len()).map(|i| if list.is_null(i) { 0 } else { list.value_length(i) as usize }).collect();
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        let nulls = list.nulls().cloned();
        let positions = || lengths.iter().flat_map(|n| 1..=*n as i32).collect::<Int32Array>();
        let elements = || -> DfResult<ArrayRef> {
            let parts: Vec<ArrayRef> = (0..list.len()).filter(|i| list.is_valid(*i)).map(|i| list.value(i)).collect();
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            if parts.is_empty() {
                return Ok(new_empty_array(&list.value_type()));
            }
            Ok(datafusion::arrow::compute::concat(&parts)?)
        };
        let (values, nulls): (ArrayRef, _) = match self.kind {
            Kind::Subscripts => (Arc::new(positions()), nulls),
            Kind::VectorSubscripts => (Arc::new(positions().unary::<_, Int32Type>(|n| n - 1)), nulls),
            Kind::Expand => {
                let x: Int16Array = cast(&elements()?, &DataType::Int16)?.as_primitive::<Int16Type>().clone();
                let pairs = StructArray::try_new(pair_fields(), vec![Arc::new(x), Arc::new(positions())], None)?;
                (Arc::new(pairs), nulls)
            }
            Kind::EmptyIfNull => (elements()?, None),
            Kind::Options | Kind::ToastOptions => {
                let items = cast(&elements()?, &DataType::Utf8)?;
                let text = items.as_string::<i32>().iter().map(|item| item.map(|item| self.option_text(item)));
                (Arc::new(text.collect::<StringArray>()), nulls)
            }
        };
        let field = match self.return_type(&[list.data_type().clone()])? {
            DataType::List(field) => field,
            other => return exec_err!("{} is declared to return {other}", self.name()),
        };
        Ok(Arc::new(ListArray::try_new(field, offsets, values, nulls)?))
    }

    fn option_text(&self, item: &str) -> String {
        match (self.kind, item.split_once('=')) {
            (Kind::Options, Some((key, value))) => format!("{} {}", quote_ident(key), quote_literal(value)),
            (Kind::Options, None) => format!("{} ''", quote_ident(item)),
            _ => format!("toast.{item}"),
        }
    }
}
