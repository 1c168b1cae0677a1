//! Numerics of JSON records, wherever they lie in a column's type.
//!
//! arrow-json counts a decimal's digits in 8 bits and its exponent in 16, and goes on when these run over: a number that is too long
//! became another one. So it is asked for their texts, which are read as Postgres reads them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use tidemark_common::types::SqlType;
use tidemark_common::values::{ColumnBuilder, Style};
use tidemark_common::{Error, Result};

use super::Failures;

/// The type with texts in place of numerics.
pub(super) fn as_text(data_type: &DataType) -> DataType {
    let of_field =
        |field: &FieldRef| -> FieldRef { Arc::new(field.as_ref().clone().with_data_type(as_text(field.data_type()))) };
    match data_type {
        DataType::Decimal128(..) | DataType::Decimal256(..) => DataType::Utf8,
        DataType::List(item) => DataType::List(of_field(item)),
        DataType::Map(entries, sorted) => DataType::Map(of_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(of_field).collect()),
        other => other.clone(),
    }
}

/// Values of `field` out of such an array, and the rows where one is no numeric, or does not fit.
pub(super) fn read(array: &ArrayRef, field: &Field) -> Result<(ArrayRef, Failures)> {
    if array.data_type() == field.data_type() {
        return Ok((Arc::clone(array), Failures::new()));
    }
    match field.data_type() {
        DataType::List(item) => {
            let list = array.as_list::<i32>();
            let (items, failed) = read(list.values(), item)?;
            let failures = of_rows(failed, list.value_offsets());
            let made = ListArray::try_new(Arc::clone(item), list.offsets().clone(), items, list.nulls().cloned())?;
            Ok((Arc::new(made), failures))
        }
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let pairs: ArrayRef = Arc::new(map.entries().clone());
            let (pairs, failed) = read(&pairs, entries)?;
            let failures = of_rows(failed, map.value_offsets());
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            let made = MapArray::try_new(Arc::clone(entries), offsets, pairs.as_struct().clone(), nulls, *sorted)?;
            Ok((Arc::new(made), failures))
        }
        DataType::Struct(fields) => {
            let all = array.as_struct();
            let (mut columns, mut failures) = (Vec::new(), Failures::new());
            for (field, column) in fields.iter().zip(all.columns()) {
                let (column, failed) = read(column, field)?;
                columns.push(column);
                failures.extend(failed);
            }
            let made = StructArray::try_new_with_length(fields.clone(), columns, all.nulls().cloned(), all.len())?;
            Ok((Arc::new(made), failures))
        }
        _ => numerics(array, field),
    }
}

fn numerics(array: &ArrayRef, field: &Field) -> Result<(ArrayRef, Failures)> {
    let (mut builder, style) = (ColumnBuilder::new(&SqlType::from_field(field))?, Style::default());
    let texts = array.as_string_opt::<i32>().ok_or_else(|| Error::internal("numerics are read from their texts"))?;
    let mut failures = Failures::new();
    for (row, text) in texts.iter().enumerate() {
        match text.map(|text| builder.append_text(text, &style)) {
            Some(Ok(())) => {}
            None => builder.append_null(),
            Some(Err(error)) => {
                builder.append_null();
                failures.push((row, error));
            }
        }
    }
    Ok((builder.finish()?, failures))
}

/// Of items, those of the rows that they lie in.
fn of_rows(failed: Failures, offsets: &[i32]) -> Failures {
    let row = |item: usize| offsets.partition_point(|offset| *offset as usize <= item).saturating_sub(1);
    failed.into_iter().map(|(item, error)| (row(item), error)).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::RecordBatch;

    use crate::formats::json::{JsonOptions, JsonRecords};
    use crate::formats::random_rows::columns;
    use tidemark_common::types::SqlType;

    #[test]
    fn numbers_are_what_they_say() {
        let numeric = || SqlType::Numeric(Some((9, 2)));
        let fields = vec![("n".to_string(), numeric())];
        let schema = columns(&[
            numeric(),
            SqlType::Array(Box::new(numeric())),
            SqlType::Map(Box::new(SqlType::Text), Box::new(numeric())),
            SqlType::Array(Box::new(SqlType::Struct(fields))),
        ]);
        let long = format!("{}7", "0".repeat(300));
        let too_long = "1".repeat(300);
        let good = [
            (
                "{\"c0\": 12.345, \"c1\": [1e2, null, \"-7\"], \"c2\": {\"a\": 5E-1}, \"c3\": [{\"n\": 1}, null]}"
                    .to_string(),
                "12.35|[100.00, , -7.00]|{a: 0.50}|[{n: 1.00}, ]",
            ),
            (format!("{{\"c0\": \"{long}\"}}"), "7.00|||"),
            ("{\"c0\": 1e-99999999}".to_string(), "0.00|||"),
        ];
        let wild = [too_long.as_str(), "1e65536", "1e99999999999", "1e32767", "\"x\"", "1e7"];
        let places =
            ["{\"c0\": #}", "{\"c1\": [1, #]}", "{\"c1\": [1], \"c2\": {\"a\": #}}", "{\"c3\": [{}, {\"n\": #}]}"];
        let mut records: Vec<String> = good.iter().map(|(record, _)| record.clone()).collect();
        records.extend(places.iter().flat_map(|place| wild.iter().map(|number| place.replace('#', number))));
        let bytes: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
        let decoder = JsonRecords::new(&schema, &JsonOptions::default()).unwrap();
        let (read, mut failures) = decoder.columns(&bytes).unwrap();
        failures.sort_by_key(|(row, _)| *row);
        let shown = crate::testing::rows(&RecordBatch::try_new(schema, read).unwrap());
        assert_eq!(shown[..3], good.map(|(_, expected)| expected.to_string()));
        // 1e7 has eight digits before the point, and one too many.
        let failed: Vec<usize> = failures.iter().map(|(row, _)| *row).collect();
        assert_eq!(failed, (3..records.len()).collect::<Vec<_>>(), "{failures:?}");
        assert!(failures.iter().all(|(_, error)| ["22003", "22P02"].contains(&error.code())), "{failures:?}");
    }
}
