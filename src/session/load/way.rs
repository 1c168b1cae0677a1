//! Where the rows of an INSERT or a COPY go: by the table's strategy, and by where it is kept.
//!
//! ```text
//!   rows ──Way::take──▶ Rows:  not taken; who has them puts them into the table
//!                       Held:  kept until all have come, since the strategy compares
//!                       There: sent to the other system
//!   end  ──close_way──▶ Counts
//! ```

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use tidemark_catalog::Object;
use tidemark_common::Result;
use tidemark_connectors::load::{Counts, Load, LoadRun, Strategy};

use super::LoadInput;
use super::there::There;
use crate::session::Session;
use crate::session::dml::Writer;

pub(in crate::session) enum Way {
    Rows(Counts),
    Held(Box<LoadInput>),
    There(Box<There>),
}

impl Session {
    /// Opens the way; for some strategies, what the table holds goes now.
    pub(in crate::session) async fn open_way(
        &mut self,
        writer: &Writer,
        load: Option<Load>,
        run: Option<LoadRun>,
    ) -> Result<Way> {
        let object = writer.object.clone();
        let mut counts = Counts::default();
        match load {
            Some(load) if object.remote().is_some() => {
                let mut there = self.load_there(&object, load, run).await?;
                if let Some(gone) = self.gone.take() {
                    there.confine(&gone).await?;
                }
                Ok(Way::There(there))
            }
            Some(load) if load.compares() => {
                let mut input = LoadInput::new(load, &object)?;
                input.gone = self.gone.take();
                Ok(Way::Held(Box::new(input)))
            }
            load => {
                if load.is_some_and(|load| load.strategy == Strategy::Truncate) {
                    counts.deleted = self.replace_contents(&object, &writer.def).await?;
                }
                Ok(Way::Rows(counts))
            }
        }
    }

    /// All rows have come.
    pub(in crate::session) async fn close_way(
        &mut self,
        object: &Arc<Object>,
        writer: Writer,
        way: Way,
    ) -> Result<Counts> {
        match way {
            Way::Rows(counts) => Ok(counts),
            Way::Held(input) => self.apply_load(object, writer, *input).await,
            Way::There(there) => self.end_there(*there).await,
        }
    }
}

impl Way {
    pub fn is_direct(&self) -> bool {
        matches!(self, Way::Rows(_))
    }

    /// Takes rows, all columns of the table by position. `room`: bytes that may be held.
    pub async fn take(&mut self, columns: &[ArrayRef], rows: usize, room: usize) -> Result<()> {
        match self {
            Way::Rows(_) => Ok(()),
            Way::Held(input) => input.push(columns, rows, room),
            Way::There(there) => there.push(columns, rows).await,
        }
    }

    /// Rows that were put into the table.
    pub fn count(&mut self, came: usize, written: usize) {
        if let Way::Rows(counts) = self {
            counts.rows += came as u64;
            counts.inserted += written as u64;
        }
    }
}
