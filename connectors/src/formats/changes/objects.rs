//! Changes in JSON: an envelope says which objects in a record are rows, and one decoder reads them all.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::Array;
use tidemark_common::connector::{RowChanges, RowOp};
use tidemark_common::{Error, Result};

use super::order::{OrderBy, Version, by_paths};
use super::{Belongs, ChangeDecoder, Changed, Declared, Envelope, KeyValue};
use crate::formats::drift::{KnownKeys, Unknown};
use crate::formats::json::JsonRecords;

pub(super) struct Objects {
    pub envelope: Box<dyn Envelope>,
    pub declared: Declared,
    pub rows: JsonRecords,
    pub keys: KnownKeys,
    pub unknown: Arc<Unknown>,
    pub order: Option<OrderBy>,
}

impl Objects {
    /// Where the record stands, if that is asked for.
    fn version(&self, value: Option<&[u8]>) -> Result<Option<Version>> {
        let (Some(order), Some(value)) = (&self.order, value) else { return Ok(None) };
        match order {
            OrderBy::Paths(paths) => by_paths(self.envelope.inside(value), paths).map(Some),
            OrderBy::Source => self.envelope.origin(value).transpose(),
        }
    }
}

impl ChangeDecoder for Objects {
    fn rows(&self, records: &[KeyValue<'_>]) -> Result<Changed> {
        let mut failures: BTreeMap<usize, Error> = BTreeMap::new();
        let (mut said, mut of, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (at, record) in records.iter().enumerate() {
            let read = self.envelope.read(*record, &self.declared);
            let read = read.and_then(|all| match all.is_empty() {
                true => Ok((all, None)),
                false => Ok((all, self.version(record.1)?)),
            });
            match read {
                Ok((all, version)) => {
                    versions.extend(version.into_iter().flat_map(|version| std::iter::repeat_n(version, all.len())));
                    of.extend(std::iter::repeat_n(at as u32, all.len()));
                    said.extend(all);
                }
                Err(error) => {
                    failures.insert(at, error);
                }
            }
        }
        for put in said.iter().filter(|said| said.op == RowOp::Put) {
            self.keys.look(&put.object, &self.unknown);
        }
        let objects: Vec<&[u8]> = said.iter().map(|said| said.object.as_ref()).collect();
        let (columns, bad) = self.rows.columns(&objects)?;
        for (row, error) in bad {
            failures.entry(of[row] as usize).or_insert(error);
        }
        for (row, said) in said.iter().enumerate().filter(|(_, said)| said.op != RowOp::Truncate) {
            let null = self.declared.key.iter().find(|at| columns[**at].is_null(row));
            if let Some(null) = null {
                let error = self.declared.no_key(*null, said.op);
                failures.entry(of[row] as usize).or_insert(error);
            }
        }
        let mut changes = RowChanges { versions, ..RowChanges::default() };
        for (row, said) in said.iter().enumerate() {
            changes.kept.extend(said.kept.iter().map(|column| (row as u32, *column as u32)));
            changes.ops.push(said.op);
        }
        let failures = failures.into_iter().map(|(record, error)| (record as u32, error)).collect();
        Changed { columns, records: of, changes, failures: Vec::new() }.without(failures)
    }

    fn belongs(&self, record: KeyValue<'_>) -> Belongs {
        self.envelope.belongs(record)
    }
}
