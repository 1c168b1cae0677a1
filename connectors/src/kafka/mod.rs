//! Apache Kafka, by librdkafka.
//!
//! ```text
//!   topic ─ partition 0 ─┐  Worker (a thread, a consumer of its own)    ┌─▶ SourceBatch, lane "0" ─┐
//!         ─ partition 1 ─┼─ poll ─▶ records of a partition ─▶ decode ──┼─▶ SourceBatch, lane "1" ─┼─▶ bounded channel ─▶ driver
//!         ─ partition 2 ─┘                                             └─▶ SourceBatch, lane "2" ─┘
//!   new partitions, new topics ──Discovery──▶ the worker that has the fewest
//!
//!   outbox ─▶ an epoch's changes ──envelope──▶ messages ──Sender──▶ one transaction with the epoch's number ──▶ topic
//! ```
//!
//! A source has all partitions of its topics itself: it assigns them and takes part in no group, so no rebalance can take one
//! away. Where it stands is what the epochs have stored; offsets committed to `group.id` are for people's dashboards.

mod client;
mod connection;
mod decoding;
mod discovery;
mod error;
mod included;
mod options;
mod position;
mod reader;
mod security;
mod sink;
mod sink_options;
mod source;
mod starting;
mod stored;
mod tokens;
mod topics;
mod transaction;
mod whole;
mod worker;

pub use connection::{KafkaConnection, check};
pub(crate) use sink::open as open_sink;
pub(crate) use source::{infer, open};
