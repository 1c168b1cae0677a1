//! `connector = 'blackhole'`: takes everything, keeps nothing. For measuring what comes before it.

use std::sync::Arc;

use async_trait::async_trait;
use tidemark_common::{Delta, Epoch, Result};

use crate::options::Options;
use crate::spec::{SinkSpec, refuse_format};
use crate::{Sink, SinkWriter};

#[derive(Debug)]
struct Blackhole;

pub(crate) fn open(spec: SinkSpec, options: Options) -> Result<Arc<dyn Sink>> {
    refuse_format(spec.format.as_ref(), "blackhole")?;
    options.finish()?;
    Ok(Arc::new(Blackhole))
}

#[async_trait]
impl Sink for Blackhole {
    async fn writer(&self) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(Blackhole))
    }

    fn discards(&self) -> bool {
        true
    }
}

#[async_trait]
impl SinkWriter for Blackhole {
    async fn deliver(&mut self, _epoch: Epoch, _changes: Vec<Delta>) -> Result<()> {
        Ok(())
    }
}
