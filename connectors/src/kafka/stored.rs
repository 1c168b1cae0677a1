//! The offsets that epochs have stored, for the brokers: `group.id` shows them in people's dashboards. Nobody reads them from there.

use std::sync::{Mutex, PoisonError};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use tidemark_common::Result;

use super::client::Context;
use super::error::from_kafka;
use super::position::KafkaPosition;
use super::topics::{Partition, Topics, list_of};
use crate::Positions;

/// The last ones, until they have been sent.
#[derive(Debug, Default)]
pub(super) struct Stored(Mutex<Option<Positions>>);

impl Stored {
    pub fn note(&self, positions: &Positions) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(positions.clone());
    }

    /// Blocks for as long as the broker takes.
    pub fn send(&self, topics: &Topics, consumer: &BaseConsumer<Context>) -> Result<()> {
        let Some(positions) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let one = |(split, text): (&String, &String)| {
            Ok((topics.partition(split)?, Offset::Offset(text.parse::<KafkaPosition>()?.next)))
        };
        let offsets: Vec<(Partition, Offset)> = positions.iter().map(one).collect::<Result<_>>()?;
        consumer
            .commit(&list_of(offsets)?, CommitMode::Sync)
            .map_err(|e| from_kafka(&e, "committing offsets to the group"))
    }
}
