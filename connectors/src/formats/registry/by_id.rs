//! What reads the records of each schema, made when the first of them is met and kept.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidemark_common::{Error, Result, SqlState};

use super::{Fetched, Lookup, frame};
use crate::formats::column::{Column, Rows};
use crate::formats::record::no_value;

/// Schemas for which it is kept.
const KEPT: usize = 10_000;
/// After how long a registry is asked again for a schema that it does not know: one of several machines may not have heard of it yet.
const NOT_YET: Duration = Duration::from_millis(500);

/// `W`: made of a schema.
#[derive(Debug)]
pub(crate) struct ById<W> {
    lookup: Lookup,
    /// Those among them that cannot be read.
    made: RwLock<HashMap<u32, Result<Arc<W>>>>,
}

impl<W> ById<W> {
    pub fn new(lookup: Lookup) -> Self {
        Self { lookup, made: RwLock::default() }
    }

    /// The latest version of a subject. Blocks.
    pub fn latest(&self, subject: &str) -> Result<Arc<Fetched>> {
        self.lookup.latest(subject)
    }

    /// Appends the records to `rows`. Blocks where a schema has to be asked for.
    pub fn read(
        &self,
        records: &[Option<&[u8]>],
        rows: &mut Rows,
        make: impl Fn(&Fetched) -> Result<W>,
        decode: impl Fn(&W, &[u8], &mut [Column]) -> Result<()>,
    ) -> Result<()> {
        let mut unknown = HashMap::new();
        // Records of one schema mostly come together.
        let mut last: Option<(u32, Result<Arc<W>>)> = None;
        for record in records {
            let (id, body) = match record.ok_or_else(no_value).and_then(frame::split) {
                Ok(split) => split,
                Err(error) => {
                    rows.fail(error);
                    continue;
                }
            };
            let made = match &last {
                Some((same, made)) if *same == id => made,
                _ => &last.insert((id, self.of(id, &make, &mut unknown)?)).1,
            };
            match made {
                Ok(made) => rows.record(|columns| decode(made, body, columns)),
                Err(error) => rows.fail(error.clone()),
            }
        }
        Ok(())
    }

    /// The outer error is everybody's, the inner that of the records of this schema. `unknown`: ids that the registry does not know.
    fn of(
        &self,
        id: u32,
        make: &impl Fn(&Fetched) -> Result<W>,
        unknown: &mut HashMap<u32, Error>,
    ) -> Result<Result<Arc<W>>> {
        if let Some(known) = self.made.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(known.clone());
        }
        if let Some(error) = unknown.get(&id) {
            return Ok(Err(error.clone()));
        }
        let fetched = match self.fetched(id, unknown.is_empty()) {
            Ok(fetched) => fetched,
            Err(error) if error.state() == SqlState::UndefinedObject => {
                unknown.insert(id, error.clone());
                return Ok(Err(error));
            }
            Err(error) => return Err(error),
        };
        let made = make(&fetched).map(Arc::new).map_err(|error| error.context(format!("schema {id}")));
        let mut all = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(id, made.clone());
        Ok(made)
    }

    /// Waits only for the first that is unknown: damaged records name many.
    fn fetched(&self, id: u32, may_wait: bool) -> Result<Arc<Fetched>> {
        match self.lookup.by_id(id) {
            Err(error) if may_wait && error.state() == SqlState::UndefinedObject => {
                std::thread::sleep(NOT_YET);
                self.lookup.by_id(id)
            }
            answer => answer,
        }
    }
}
