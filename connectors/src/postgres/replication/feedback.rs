//! What is told both ways beside the rows: how far epochs have stored them, how much the server keeps, and whether changes still come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::lsn::Lsn;
use super::position::Position;

/// No lag is known.
const UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
pub struct Feedback {
    /// What lies before is stored.
    stored: AtomicU64,
    /// Bytes of the log that the server keeps for the slot.
    lag: AtomicU64,
    /// The table that the publication does not have.
    left_out: Mutex<Option<String>>,
}

impl Default for Feedback {
    fn default() -> Self {
        Self { stored: AtomicU64::new(0), lag: AtomicU64::new(UNKNOWN), left_out: Mutex::default() }
    }
}

impl Feedback {
    /// An epoch has stored this position.
    pub fn note(&self, position: &str) {
        // Half a snapshot lets nothing go: its slot has to be made anew.
        if let Ok(Position::At(lsn)) = position.parse() {
            self.stored.fetch_max(lsn.0, Ordering::Relaxed);
        }
    }

    /// A copy begins: positions of before are those of another slot.
    pub fn begin(&self) {
        self.stored.store(0, Ordering::Relaxed);
    }

    pub fn stored(&self) -> Lsn {
        Lsn(self.stored.load(Ordering::Relaxed))
    }

    pub fn set_lag(&self, bytes: Option<u64>) {
        self.lag.store(bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    pub fn lag(&self) -> Option<u64> {
        Some(self.lag.load(Ordering::Relaxed)).filter(|lag| *lag != UNKNOWN)
    }

    pub fn set_left_out(&self, table: Option<String>) {
        *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    pub fn left_out(&self) -> Option<String> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
