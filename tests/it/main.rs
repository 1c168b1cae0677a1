//! Whole-process tests: each starts servers of its own, talks to them as a client does, and kills them.
//!
//! One binary for all, so that one link serves them. `cargo test --workspace --test it crash` runs one module.

#![allow(clippy::disallowed_methods)] // waiting and measuring; no result depends on the time
#![allow(clippy::unwrap_used)] // clippy takes only the test functions themselves for tests

mod arrows;
mod backfill;
mod bad_input;
mod by_column;
mod certificates;
mod cli;
mod consistency;
mod copy;
mod crash;
mod cursors;
mod dead_letters;
mod demo;
mod differential;
#[cfg(unix)]
mod disk;
mod docs;
mod example_postgres;
mod explain;
mod harness;
mod indexes;
mod kafka;
mod kafka_broker;
mod kafka_changes;
mod kafka_exactly_once;
mod kafka_formats;
mod kafka_order;
mod kafka_sink;
mod kafka_tls;
mod kafka_tokens;
mod limits;
mod loads;
mod loads_elsewhere;
mod loads_postgres;
mod lookups;
#[cfg(target_os = "linux")] // reads /proc
mod memory;
mod normalize_postgres;
mod pgbench;
mod pipelines;
mod point_lookups;
mod postgres;
mod postgres_cdc;
mod postgres_remote;
mod postgres_shared;
mod psql;
mod raw;
mod registry;
mod renames;
mod replace;
mod s3;
mod secrets;
mod slt;
mod source_drift;
mod sources;
mod state_let_go;
mod subscribe;
mod tls;
mod token_endpoint;
mod tpch;
mod transactions;
mod types;
mod validate;
mod wire;
