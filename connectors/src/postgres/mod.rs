//! PostgreSQL as a system to read from and to load into: connecting, checking a connection, tables as a query reads them, and
//! tables that are kept there.
//!
//! ```text
//!   CREATE CONNECTION ──▶ PostgresOptions ──connect──▶ DNS ▶ TCP ▶ TLS ▶ authentication ──▶ Client
//!   CHECK CONNECTION  ──▶ the same steps, each with what came of it
//!
//!   connection.schema.table in a query
//!     ──▶ Reading: one transaction, one snapshot ──describe──▶ columns in our types ──▶ RemoteTable (a TableProvider)
//!                       │   └── PushDown makes one of a join or an aggregate over such tables
//!                       └── COPY (SELECT columns WHERE filters LIMIT n) TO STDOUT BINARY ──▶ RecordBatches, bounded
//!
//!   JOIN connection.schema.table FOR SYSTEM_TIME AS OF proctime() in a view ──▶ Lookup: the rows of some keys
//!
//!   CREATE TABLE .. WITH (connection = ..) ──▶ TargetTable::settle: created, or compared with what is there
//!   a load into it ──▶ Loading: RecordBatches ──COPY .. FROM STDIN BINARY──▶ staging ──the strategy's SQL──▶ the table
//!
//!   CREATE SOURCE .. WITH (connector = 'postgres-cdc') ──▶ replication: a table's rows, then its changes
//! ```
//!
//! Architecture invariant: only this folder knows `tokio_postgres`. Whoever needs a connection takes a [`Client`], whoever
//! needs types takes [`types`]; neither knows SQL objects.

mod check;
mod client;
mod copy;
mod ddl;
mod describe;
mod drift;
mod encode;
mod error;
mod expression;
mod filter;
mod load;
mod lookup;
mod options;
mod progress;
mod pushdown;
mod reading;
pub(crate) mod replication;
mod scan;
mod table;
mod tls;
mod types;
mod within;

pub use check::{CheckRow, check};
pub use client::Client;
pub use ddl::{SchemaChange, TargetColumn, TargetTable, indexes_for};
pub use drift::OnDrift;
pub use load::{Begun, LoadPlan, Loading};
pub use lookup::Lookup;
pub use options::PostgresOptions;
pub use progress::recorded;
pub use pushdown::{PushDown, WholeQuery};
pub use reading::Reading;
pub use table::RemoteTable;
pub use within::{Wanted, Within};
