//! Building an index over rows that are there already.
//!
//! ```text
//!   collection ──a chunk of rows──▶ entries ──Store::prepare──▶ in the store, looked for by nobody
//!                                                                   │
//!                                        the commit by which the index is there: they count
//!                                        an error: forget_index · a crash: strays finds them at the next start
//! ```
//!
//! Entries of many rows in the epoch's own commit would take its memory.

use std::sync::Arc;

use tidemark_common::{Oid, Result};

use crate::collection::{Collection, Index, KeyRange};
use crate::keys::Key;
use crate::snapshot::Snapshot;
use crate::store::Store;

impl Store {
    /// Fills an index that is new with what the collection holds. The snapshot that is returned has its entries; they count from
    /// the commit by which the index is there. After an error, [`Store::forget_index`].
    pub fn build_index(&self, collection: &Arc<Collection>, index: &Index) -> Result<Arc<Snapshot>> {
        /// Rows entered at a time.
        const ROWS: usize = 16_384;
        let mut entered = self.snapshot();
        let columns = Some(index.columns().to_vec());
        let mut scan = collection.scan(&entered, columns, &KeyRange::full(), ROWS)?;
        while let Some(rows) = scan.next_delta()? {
            let mut ahead = self.begin();
            if let Some(row) = index.enter(&rows.batch, scan.row_keys(), &entered, &mut ahead)? {
                return Err(index.not_unique(&rows.batch, row)?);
            }
            entered = self.prepare(&ahead)?;
        }
        self.enter_blocks(collection, entered)
    }

    /// Removes what was written ahead of an index that does not come to be.
    pub fn forget_index(&self, index: &Index) -> Result<()> {
        let mut ahead = self.begin();
        ahead.delete_collection(index.id());
        self.prepare(&ahead)?;
        Ok(())
    }

    /// Objects with rows that are not `known`: what was written ahead of a commit that never was.
    pub fn strays(&self, known: impl Fn(Oid) -> bool) -> Result<Vec<Oid>> {
        let snapshot = self.snapshot();
        let mut rows = Key::all_rows();
        let mut strays = Vec::new();
        while let Some((found, _)) = snapshot.first(&rows.start, &rows.end)? {
            let Key::Row { collection, .. } = Key::decode(&found)? else { break };
            if !known(collection.oid()) {
                strays.push(collection.oid());
            }
            rows.start = Key::rows_of_object(collection.oid()).end;
        }
        Ok(strays)
    }
}
