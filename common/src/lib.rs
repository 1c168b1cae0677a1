//! Words that every layer shares: errors, SQL types, changes, dataflow plans, clocks.
//!
//! ```text
//!   SQL text ──sql──▶ plan::Dataflow ──engine──▶ Delta, Delta, ... ──storage──▶ rows
//!                         │                        │
//!                         └── defined here ────────┘
//! ```
//!
//! Architecture invariant: nothing here does I/O, holds state or knows any other crate of ours.

pub mod clock;
pub mod connector;
pub mod delta;
pub mod error;
mod error_datafusion;
mod hidden;
pub mod normalize;
pub mod plan;
mod plan_text;
pub mod types;
pub mod values;

pub use clock::{Clock, ManualClock, SystemClock};
pub use delta::{Delta, Net};
pub use error::{Error, Result, SqlState};
pub use error_datafusion::nearest;
pub use hidden::Hidden;

/// Identifies a catalog object for as long as the data directory lives; also its Postgres OID.
pub type Oid = u32;

/// The number of a tick of the database clock. Epoch 0 is the empty database.
pub type Epoch = u64;

/// First OID given to a user's object, as in Postgres; those below are the system's own.
pub const FIRST_USER_OID: Oid = 16384;
