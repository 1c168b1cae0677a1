//! What runs: one clock, one commit.
//!
//! ```text
//!   sessions' transactions ──┐                      ┌──▶ tables' changes ─┐
//!   sources' queues ─────────┴─▶ driver: one tick ──┤                     ├─▶ views in topological order ─▶ sinks' outboxes
//!                                                   └──▶ sources' rows ───┘              │
//!                                              one EpochCommit ◀──────────────────────────┘
//!                                                     │
//!              readers move to the new Moment, sessions get their answer, sink tasks and subscribers wake
//! ```
//!
//! [`Engine`] is the handle that the server holds; behind it one thread runs the [`driver`]. Everything that a tick does is
//! synchronous and in one order, so that the same input in the same epochs gives the same bytes.
//!
//! Architecture invariant: no SQL text in here; plans come ready made. Connectors are called through their traits only.

mod backfill;
pub mod dataflow;
mod dead_letters;
mod driver;
mod engine;
mod fold;
mod job;
mod lanes;
pub mod operators;
mod outbox;
mod pace;
mod replace;
mod source_input;
mod state_limit;
mod status;
mod subscription;
mod table;
mod tick;

pub use engine::{
    Definition, Engine, EngineConfig, Moment, Redelivery, SinkDef, SourceDef, Step, Transaction, ViewDef, WatermarkDef,
};
pub use lanes::Reason;
pub use source_input::{LATE_COLUMNS, RefusedRow, Replay};
pub use status::{EpochStatus, JobState, JobStatus, SinkStatus, SourceStatus, Status};
pub use subscription::{Change, Subscription};
pub use table::{TableDef, TableTtl, TableWrite};
