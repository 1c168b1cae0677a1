//! unnest(list): the list columns of a row open side by side into rows, struct columns into columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Unnest;
use tidemark_common::plan::{NodeId, Op, Properties, UnnestColumn};
use tidemark_common::{Error, Result};

use super::Lowering;

impl Lowering {
    /// The logical node says for each output column from which input column it comes; a list column comes out once for each
    /// depth asked for, a struct column once for each field.
    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<NodeId> {
        let input = self.plan(&unnest.input)?;
        let input_schema = self.schema(input).clone();
        let mut columns = Vec::with_capacity(unnest.dependency_indices.len());
        for (output, column) in unnest.dependency_indices.iter().enumerate() {
            let name = unnest.schema.field(output).name();
            let list =
                unnest.list_type_columns.iter().find(|(c, list)| c == column && list.output_column.name() == name);
            columns.push(if let Some((_, list)) = list {
                UnnestColumn::List { column: *column, depth: list.depth }
            } else if unnest.struct_type_columns.contains(column) {
                let DataType::Struct(fields) = input_schema.field(*column).data_type() else {
                    return Err(Error::internal(format!("unnest: \"{name}\" comes from a column that is no struct")));
                };
                let first = unnest.dependency_indices.iter().position(|c| c == column).unwrap_or(output);
                debug_assert!(output - first < fields.len());
                UnnestColumn::Field { column: *column, field: output - first }
            } else {
                UnnestColumn::Keep(*column)
            });
        }
        let from = self.properties(input);
        let watermarks: BTreeSet<usize> = columns
            .iter()
            .enumerate()
            .filter(|(_, c)| match c {
                UnnestColumn::Keep(c) | UnnestColumn::List { column: c, depth: 1 } => from.watermarks.contains(c),
                _ => false,
            })
            .map(|(i, _)| i)
            .collect();
        let properties = Properties { append_only: from.append_only, key: None, watermarks };
        let schema = Arc::new(unnest.schema.as_arrow().clone());
        let op = Op::Unnest { columns, preserve_nulls: unnest.options.preserve_nulls() };
        Ok(self.add(op, vec![input], schema, properties))
    }
}
