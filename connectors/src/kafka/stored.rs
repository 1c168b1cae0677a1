//! The offsets that epochs have stored, for the brokers: `group.id` shows them in people's dashboards. Nobody reads them from there.

use std::sync::{Mutex, PoisonError};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tidemark_common::Result;

use super::client::Context;
use super::error::from_kafka;
use super::position::KafkaPosition;
use super::topics::Topics;
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
        let refused = |error| from_kafka(&error, "committing offsets to the group");
        let mut list = TopicPartitionList::new();
        for (split, text) in &positions {
            let (partition, position) = (topics.partition(split)?, text.parse::<KafkaPosition>()?);
            list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(position.next))
                .map_err(refused)?;
        }
        consumer.commit(&list, CommitMode::Sync).map_err(refused)
    }
}
