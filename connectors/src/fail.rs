//! Fail points: where a test has the process die.
//!
//! `TIDEMARK_FAIL_POINT=name` in the environment makes [`fail_point`] of that name abort the process as `kill -9` would. In
//! optimized builds there is nothing of it.

use std::sync::OnceLock;

/// Dies here if the environment says so.
pub fn fail_point(name: &str) {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return;
    }
    let wanted = WANTED.get_or_init(|| std::env::var("TIDEMARK_FAIL_POINT").ok());
    if wanted.as_deref() == Some(name) {
        std::process::abort();
    }
}
