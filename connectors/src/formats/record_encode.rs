//! Rows as records that come apart: the messages to a broker.
//!
//! ```text
//!   columns of many rows ──RecordEncoder──▶ bytes of each row, none for a row whose one value is NULL
//! ```

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use tidemark_common::values::{Column, Style};
use tidemark_common::{Error, Result, SqlState, nearest};

use super::csv::CsvOptions;
use super::encode::{csv_columns, json_values, write_csv};
use crate::options::Options;

/// Encodes many rows at once.
pub(crate) trait RecordEncoder: Send + Sync {
    /// The bytes of each row; `None`: the row has no value, such as a NULL that is not wrapped in anything.
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>>;

    /// Whether rows may have no value at all.
    fn may_be_nothing(&self) -> bool {
        false
    }

    /// What the first rows would have to wait for: a schema is registered. Blocks.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }
}

const ENCODINGS: [&str; 4] = ["json", "csv", "text", "bytes"];

/// The encoder that `encode` names, for rows of these columns. Takes its options out of `options`.
pub(crate) fn encoder(encode: &str, schema: &SchemaRef, options: &mut Options) -> Result<Box<dyn RecordEncoder>> {
    Ok(match encode.to_lowercase().as_str() {
        "json" => Box::new(JsonRow),
        "csv" => {
            let mut none = Options::default();
            Box::new(CsvRow(CsvOptions { header: false, ..CsvOptions::parse(options, &mut none)? }))
        }
        "text" => match options.take("template") {
            Some(template) => Box::new(Template::parse(&template, schema)?),
            None => Box::new(TextValue(only_column(schema, encode, None)?)),
        },
        "bytes" => {
            only_column(schema, encode, Some(&[DataType::Binary, DataType::Utf8]))?;
            Box::new(RawValue)
        }
        other => {
            let error = Error::invalid(format!("unknown encoding \"{encode}\""));
            return Err(match nearest(other, ENCODINGS.iter().copied()) {
                Some(near) => error.with_hint(format!("Perhaps you meant {}.", near.to_uppercase())),
                None => error.with_hint("Known here: JSON, CSV, TEXT, BYTES."),
            });
        }
    })
}

fn only_column(schema: &SchemaRef, encode: &str, of_types: Option<&[DataType]>) -> Result<FieldRef> {
    match schema.fields().as_ref() {
        [one] if of_types.is_none_or(|types| types.contains(one.data_type())) => Ok(one.clone()),
        fields => {
            let types = if of_types.is_some() { " of type BYTEA or TEXT" } else { "" };
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!("ENCODE {} writes one column{types}, not ({})", encode.to_uppercase(), names.join(", ")),
            )
            .with_hint("Select one column, or use ENCODE JSON. ENCODE TEXT (template = '{a}: {b}') writes several."))
        }
    }
}

/// An object of all columns.
struct JsonRow;

impl RecordEncoder for JsonRow {
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let rows = StructArray::from(batch.clone());
        let field = Arc::new(Field::new("row", rows.data_type().clone(), false));
        json_values(&field, &rows)
    }
}

/// A line without its end.
struct CsvRow(CsvOptions);

impl RecordEncoder for CsvRow {
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let columns = csv_columns(batch)?;
        let line = |row: usize| {
            let mut line = write_csv(&self.0, &columns.slice(row, 1))?;
            line.pop_if(|end| *end == b'\n');
            Ok(Some(line))
        };
        (0..batch.num_rows()).map(line).collect()
    }
}

/// The one column as Postgres writes it.
struct TextValue(FieldRef);

impl RecordEncoder for TextValue {
    fn may_be_nothing(&self) -> bool {
        true
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let (array, style) = (batch.column(0), Style::default());
        let column = Column::new(array, &self.0)?;
        let mut out = BytesMut::new();
        let mut value = |row: usize| {
            (!array.is_null(row)).then(|| {
                out.clear();
                column.write_text(row, &style, &mut out);
                out.to_vec()
            })
        };
        Ok((0..batch.num_rows()).map(&mut value).collect())
    }
}

/// The one column as it is.
struct RawValue;

impl RecordEncoder for RawValue {
    fn may_be_nothing(&self) -> bool {
        true
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let column = batch.column(0);
        Ok(match column.data_type() {
            DataType::Binary => column.as_binary::<i32>().iter().map(|value| value.map(<[u8]>::to_vec)).collect(),
            _ => column.as_string::<i32>().iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect(),
        })
    }
}

/// `{column}` in a text; `{{` and `}}` are braces. NULL is nothing.
#[derive(Debug)]
struct Template {
    /// A text, and the column after it.
    pieces: Vec<(String, usize)>,
    last: String,
    fields: Vec<FieldRef>,
}

impl Template {
    fn parse(text: &str, schema: &SchemaRef) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(format!("option \"template\": {why} in '{text}'"))
                .with_hint("Write {column} for a value, {{ and }} for braces.")
        };
        let (mut pieces, mut last, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            last.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                last.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = match brace {
                "{" => after.split_once('}').ok_or_else(|| wrong("a brace is not closed"))?,
                _ => return Err(wrong("a brace is not opened")),
            };
            let (column, _) = schema.column_with_name(name.trim()).ok_or_else(|| {
                Error::new(
                    SqlState::UndefinedColumn,
                    format!("column \"{}\" of the template does not exist", name.trim()),
                )
            })?;
            pieces.push((std::mem::take(&mut last), column));
            rest = after;
        }
        last.push_str(rest);
        Ok(Self { pieces, last, fields: schema.fields().iter().cloned().collect() })
    }
}

impl RecordEncoder for Template {
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let style = Style::default();
        let columns = self.fields.iter().zip(batch.columns()).map(|(field, array)| Column::new(array, field));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let row = |row: usize| {
            let mut out = BytesMut::new();
            for (text, column) in &self.pieces {
                out.extend_from_slice(text.as_bytes());
                if !batch.column(*column).is_null(row) {
                    columns[*column].write_text(row, &style, &mut out);
                }
            }
            out.extend_from_slice(self.last.as_bytes());
            Some(out.to_vec())
        };
        Ok((0..batch.num_rows()).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pairs, schema};
    use datafusion::arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
    use tidemark_common::types::SqlType;

    fn batch() -> RecordBatch {
        let columns = schema(&[("id", SqlType::BigInt), ("name", SqlType::Text), ("raw", SqlType::Bytea)]);
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), None]));
        let raw: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&[0xff, 0][..]), None]));
        RecordBatch::try_new(columns, vec![ids, names, raw]).unwrap()
    }

    fn encoded(encode: &str, columns: &[usize], options: &[(&str, &str)]) -> Result<Vec<Option<String>>> {
        let batch = batch().project(columns).unwrap();
        let mut options = Options::new(&pairs(options))?;
        let encoder = encoder(encode, &batch.schema(), &mut options)?;
        options.finish()?;
        Ok(encoder.encode(&batch)?.into_iter().map(|v| v.map(|v| String::from_utf8_lossy(&v).into_owned())).collect())
    }

    #[test]
    fn a_row_in_every_encoding() {
        let row = |value: &str| Some(value.to_string());
        let json = [row(r#"{"id":1,"name":"a,\"b\"\n"}"#), row(r#"{"id":null,"name":null}"#)];
        assert_eq!(encoded("JSON", &[0, 1], &[]).unwrap(), json);
        assert_eq!(encoded("csv", &[0, 1], &[]).unwrap(), [row("1,\"a,\"\"b\"\"\n\""), row(",")]);
        assert_eq!(encoded("text", &[0], &[]).unwrap(), [row("1"), None]);
        assert_eq!(encoded("bytes", &[2], &[]).unwrap(), [row("\u{fffd}\0"), None]);
        let template = encoded("TEXT", &[0, 1], &[("template", "{{{id}}} is { name }.")]).unwrap();
        assert_eq!(template, [row("{1} is a,\"b\"\n."), row("{} is .")]);
        for (encode, columns, options) in [
            ("text", &[0, 1][..], &[][..]),
            ("bytes", &[0], &[]),
            ("xml", &[0], &[]),
            ("text", &[0], &[("template", "{nobody}")]),
            ("text", &[0], &[("template", "{id")]),
            ("text", &[0], &[("template", "id}")]),
            ("json", &[0], &[("template", "x")]),
        ] {
            assert!(encoded(encode, columns, options).is_err(), "{encode} {options:?}");
        }
    }
}
