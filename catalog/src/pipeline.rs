//! A pipeline as it is stored: what is loaded, into which tables, and when.

use serde::{Deserialize, Serialize};

use crate::object::Column;
use tidemark_common::Oid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Tables, each loaded with what the query gives.
    pub targets: Vec<Oid>,
    pub trigger: Trigger,
    /// Pipelines that come first.
    #[serde(default)]
    pub after: Vec<Oid>,
    /// SQL text; the names in it were resolved along `search_path`.
    pub query: String,
    pub search_path: Vec<String>,
    #[serde(default)]
    pub options: Vec<(String, String)>,
    /// Options whose values are secrets, by OID.
    #[serde(default)]
    pub secrets: Vec<(String, Oid)>,
    /// SQL texts, each of one or more statements.
    #[serde(default)]
    pub on_success: Vec<String>,
    #[serde(default)]
    pub on_failure: Vec<String>,
    #[serde(default)]
    pub paused: bool,
    /// Due times before it do not count, in microseconds: when it was created, or went on after a pause.
    /// A continuous one's never changes: other systems know its loads by it.
    pub since: i64,
}

/// What begins a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// RUN PIPELINE alone, or a run of those it comes `after`.
    Manual,
    /// A cron pattern, and the time zone that it is read in.
    Schedule { pattern: String, zone: Option<String> },
    /// From [`Pipeline::since`] on, in microseconds.
    Every(i64),
    /// Every change, as it comes.
    Continuous(Continuous),
}

/// The dataflow of a continuous pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuous {
    pub columns: Vec<Column>,
    /// Rows are only ever added.
    pub append_only: bool,
    /// The dataflow's EXPLAIN text: state on disk fits only the plan it was made by.
    pub fingerprint: String,
}

impl Pipeline {
    pub fn continuous(&self) -> Option<&Continuous> {
        match &self.trigger {
            Trigger::Continuous(continuous) => Some(continuous),
            _ => None,
        }
    }
}
