//! PostgreSQL as a system to read from: connecting, checking a connection, and tables as a query reads them.
//!
//! ```text
//!   CREATE CONNECTION ──▶ PostgresOptions ──connect──▶ DNS ▶ TCP ▶ TLS ▶ authentication ──▶ Client
//!   CHECK CONNECTION  ──▶ the same steps, each with what came of it
//!
//!   connection.schema.table in a query
//!     ──▶ Reading: one transaction, one snapshot ──describe──▶ columns in our types ──▶ RemoteTable (a TableProvider)
//!                       │   └── PushDown makes one of a join or an aggregate over such tables
//!                       └── COPY (SELECT columns WHERE filters LIMIT n) TO STDOUT BINARY ──▶ RecordBatches, bounded
//! ```
//!
//! Architecture invariant: only this folder knows `tokio_postgres`. Whoever needs a connection takes a [`Client`], whoever
//! needs types takes [`types`]; neither knows SQL objects.

mod check;
mod client;
mod copy;
mod error;
mod filter;
mod options;
mod pushdown;
mod reading;
mod scan;
mod table;
mod tls;
mod types;

pub use check::{CheckRow, check};
pub use options::PostgresOptions;
pub use pushdown::PushDown;
pub use reading::Reading;
pub use table::RemoteTable;
