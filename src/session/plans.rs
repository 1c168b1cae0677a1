//! What a session remembers of the statements it has planned, so that running them again does not plan them again.
//!
//! Only what costs little besides its planning is kept: lookups by key, and expressions in VALUES. A plan holds for one catalog, one set
//! of settings and one list of parameter types; when any of these has changed, it is made anew.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use tidemark_catalog::Catalog;

use super::insert::ValuesRow;
use crate::query::{Lookup, types_of};

/// Plans of a kind that are kept; when there are more, all are forgotten.
const MAX_PLANS: usize = 500;

#[derive(Default)]
pub struct Plans {
    pub lookups: Kept<Lookup>,
    pub values: Kept<ValuesRow>,
}

/// Plans by the text that they are of.
pub struct Kept<T> {
    by_text: HashMap<String, Plan<T>>,
}

struct Plan<T> {
    made_for: MadeFor,
    /// `None`: there is none of this kind.
    made: Option<Arc<T>>,
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

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { by_text: HashMap::new() }
    }
}

impl<T> Kept<T> {
    /// What was made of the text, or that nothing can be, if that is known.
    pub fn get(
        &self,
        text: &str,
        catalog: &Arc<Catalog>,
        settings: u64,
        parameters: &[ScalarValue],
    ) -> Option<&Option<Arc<T>>> {
        let plan = self.by_text.get(text)?;
        plan.made_for.holds(catalog, settings, parameters).then_some(&plan.made)
    }

    pub fn put(&mut self, text: &str, made_for: MadeFor, made: Option<Arc<T>>) {
        if self.by_text.len() >= MAX_PLANS {
            self.by_text.clear();
        }
        self.by_text.insert(text.to_string(), Plan { made_for, made });
    }
}
