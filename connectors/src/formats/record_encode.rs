//! Rows as records that come apart: the messages to a broker.

use datafusion::arrow::array::RecordBatch;
use tidemark_common::Result;

/// Encodes many rows at once.
#[allow(dead_code, reason = "sinks come with the change beside this one")]
pub(crate) trait RecordEncoder: Send + Sync {
    /// The bytes of each row; `None`: the row has no value.
    fn encode(&self, batch: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>>;
}
