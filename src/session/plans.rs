//! What a session remembers of the statements it has planned, so that running them again does not plan them again.
//!
//! Only lookups by key are kept: planning is all that they cost. A plan holds for one catalog, one set of settings and one list of
//! parameter types; when any of these has changed, it is made anew.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use tidemark_catalog::Catalog;

use crate::query::{Lookup, types_of};

/// Plans kept; when there are more, all are forgotten.
const MAX_PLANS: usize = 500;

#[derive(Default)]
pub struct Plans {
    by_text: HashMap<String, Plan>,
}

struct Plan {
    made_for: MadeFor,
    /// `None`: the statement is no lookup.
    lookup: Option<Arc<Lookup>>,
}

/// What a plan depends on.
pub struct MadeFor {
    pub catalog: Arc<Catalog>,
    /// Counts changes of the session's settings.
    pub settings: u64,
    pub parameters: Vec<DataType>,
}

impl MadeFor {
    fn holds(&self, catalog: &Arc<Catalog>, settings: u64, parameters: &[ScalarValue]) -> bool {
        Arc::ptr_eq(&self.catalog, catalog)
            && self.settings == settings
            && self.parameters.len() == parameters.len()
            && self.parameters.iter().zip(parameters).all(|(t, p)| *t == p.data_type())
    }

    pub fn new(catalog: Arc<Catalog>, settings: u64, parameters: &[ScalarValue]) -> Self {
        Self { catalog, settings, parameters: types_of(parameters) }
    }
}

impl Plans {
    /// Whether the statement is a lookup, if that is known.
    pub fn get(
        &self,
        text: &str,
        catalog: &Arc<Catalog>,
        settings: u64,
        parameters: &[ScalarValue],
    ) -> Option<&Option<Arc<Lookup>>> {
        let plan = self.by_text.get(text)?;
        plan.made_for.holds(catalog, settings, parameters).then_some(&plan.lookup)
    }

    pub fn put(&mut self, text: &str, made_for: MadeFor, lookup: Option<Arc<Lookup>>) {
        if self.by_text.len() >= MAX_PLANS {
            self.by_text.clear();
        }
        self.by_text.insert(text.to_string(), Plan { made_for, lookup });
    }
}
