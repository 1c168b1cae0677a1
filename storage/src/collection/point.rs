//! Rows by key for serving: what a lookup of a few keys needs and no more. Keys come as values and not as arrays, are encoded once
//! with what they start with in the store, and of the rows only the columns that are asked for are decoded.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use tidemark_common::Result;

use super::{Collection, Layout};
use crate::keys::Key;
use crate::snapshot::Snapshot;
use crate::value;

impl Collection {
    /// Where in the store the row with this key is: a value for each of the key's columns, in its order, none of them NULL. `None`:
    /// there is one of a type that only [`Collection::encode_keys`] knows.
    pub fn place_of<'a>(&self, key: impl IntoIterator<Item = &'a ScalarValue>) -> Option<Vec<u8>> {
        let mut place = self.place_of_key(&[]);
        let known = self.layout != Layout::Sequence && self.key_codec.encode_values(key, &mut place);
        known.then_some(place)
    }

    /// As [`Collection::place_of`], of an encoded key.
    pub fn place_of_key(&self, key: &[u8]) -> Vec<u8> {
        Key::Row { collection: self.id, key }.encode()
    }

    /// Those of the rows at `places`, which ascend, that are there; of them `columns`, which `schema` describes.
    pub fn rows_at_places(
        &self,
        snapshot: &Snapshot,
        places: &[Vec<u8>],
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let start = self.place_of_key(&[]).len();
        if self.in_blocks {
            let keys = places.iter().map(|place| place[start..].to_vec()).collect();
            return Ok(self.rows_at(snapshot, keys, columns, schema)?.batch);
        }
        let (mut stored, mut found) = (Vec::new(), Vec::with_capacity(places.len()));
        snapshot.get_often(places, |at, value| {
            let from = stored.len();
            stored.extend_from_slice(value::unframe(value)?);
            found.push((at, from..stored.len()));
            Ok(())
        })?;
        found.sort_unstable_by_key(|(at, _)| *at);
        let keys: Vec<&[u8]> = found.iter().map(|(at, _)| &places[*at][start..]).collect();
        let values: Vec<&[u8]> = found.iter().map(|(_, range)| &stored[range.clone()]).collect();
        self.decode(&keys, &values, columns, schema)
    }
}
