//! SUBSCRIBE: each epoch's changes of one collection, after a moment that is known exactly.
//!
//! ```text
//!   epoch          7          8          9
//!   moment ────────┤ snapshot │          │
//!   changes        │          ├─▶ of 8   ├─▶ of 9      none missing, none twice
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_common::{Delta, Epoch, Error, Result, SqlState};
use tokio::sync::mpsc;

use crate::engine::Moment;

/// What changed in one epoch.
#[derive(Debug, Clone)]
pub struct Change {
    pub epoch: Epoch,
    pub deltas: Vec<Delta>,
}

/// The subscriber's end.
pub struct Subscription {
    /// The first change comes after this.
    pub moment: Moment,
    changes: mpsc::Receiver<Change>,
    lagged: Arc<AtomicBool>,
}

impl Subscription {
    /// The next epoch that changed anything; `None` once the collection was dropped or the server stops.
    pub async fn next(&mut self) -> Result<Option<Change>> {
        match self.changes.recv().await {
            Some(change) => Ok(Some(change)),
            None if self.lagged.load(Ordering::Acquire) => Err(Error::new(
                SqlState::ProgramLimitExceeded,
                "this subscription was ended because it read too slowly",
            )
            .with_hint("Read faster, subscribe to less, or raise subscription_epochs.")),
            None => Ok(None),
        }
    }
}

/// The driver's end.
pub(crate) struct Subscriber {
    changes: mpsc::Sender<Change>,
    lagged: Arc<AtomicBool>,
}

impl Subscriber {
    pub fn new(moment: Moment, epochs: usize) -> (Subscriber, Subscription) {
        let (sender, changes) = mpsc::channel(epochs);
        let lagged = Arc::new(AtomicBool::new(false));
        (Subscriber { changes: sender, lagged: lagged.clone() }, Subscription { moment, changes, lagged })
    }

    /// False once there is nobody to send to.
    pub fn send(&self, change: &Change) -> bool {
        match self.changes.try_send(change.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
        }
    }

    pub fn is_gone(&self) -> bool {
        self.changes.is_closed()
    }
}
