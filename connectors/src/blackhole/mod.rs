//! `connector = 'blackhole'`: takes everything, keeps nothing. For measuring what comes before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tidemark_common::{Delta, Epoch, Result};

use crate::options::Options;
use crate::spec::{SinkSpec, refuse_format};
use crate::{Sink, SinkWriter};

#[derive(Debug)]
struct Blackhole {
    name: String,
    rows: Arc<AtomicU64>,
}

pub(crate) fn open(spec: SinkSpec, options: Options) -> Result<Arc<dyn Sink>> {
    refuse_format(spec.format.as_ref(), "blackhole")?;
    options.finish()?;
    Ok(Arc::new(Blackhole { name: spec.name, rows: Arc::default() }))
}

#[async_trait]
impl Sink for Blackhole {
    async fn writer(&self) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(Writer { name: self.name.clone(), rows: self.rows.clone() }))
    }
}

struct Writer {
    name: String,
    rows: Arc<AtomicU64>,
}

#[async_trait]
impl SinkWriter for Writer {
    async fn deliver(&mut self, epoch: Epoch, changes: Vec<Delta>) -> Result<()> {
        let rows: usize = changes.iter().map(Delta::num_rows).sum();
        let total = self.rows.fetch_add(rows as u64, Ordering::Relaxed) + rows as u64;
        tracing::trace!(sink = %self.name, epoch, rows, total, "swallowed");
        Ok(())
    }
}
