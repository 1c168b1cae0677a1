//! What a source asks the brokers beside its reading: whether there are new partitions, and that its group knows how far it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use tidemark_common::Result;

use super::client::{Context, TIMEOUT};
use super::position::KafkaPosition;
use super::stored::Stored;
use super::topics::Partition;
use super::worker::{Assigned, Shared};

/// How often offsets are committed to the group.
const COMMITS: Duration = Duration::from_secs(5);

/// Looks for new partitions, and topics, and hands each to the worker that has the fewest; and tells the group how far the source is.
pub(super) struct Discovery {
    pub control: Arc<BaseConsumer<Context>>,
    pub shared: Arc<Shared>,
    pub stored: Arc<Stored>,
    pub known: BTreeSet<Partition>,
    pub workers: Vec<(Sender<Assigned>, usize)>,
}

impl Discovery {
    pub async fn run(mut self) {
        let every = self.shared.options().discovery.min(COMMITS);
        let looks = (self.shared.options().discovery.as_secs_f64() / every.as_secs_f64()).ceil() as u64;
        for round in 1.. {
            tokio::select! {
                () = self.shared.sender.closed() => return,
                () = tokio::time::sleep(every) => {}
            }
            let asked = tokio::task::spawn_blocking(move || {
                if let Err(error) = self.stored.send(&self.shared.options().topics, &self.control) {
                    tracing::warn!(source = self.shared.options().name, %error, "the group does not know how far the source is");
                }
                let found = if round % looks == 0 { self.look() } else { Ok(Vec::new()) };
                (self, found)
            });
            let Ok((this, found)) = asked.await else { return };
            self = this;
            match found {
                Ok(found) => {
                    for one in found {
                        if !self.hand_out(one).await {
                            return;
                        }
                    }
                }
                // The next look may find them.
                Err(error) => tracing::warn!(source = self.shared.options().name, %error, "looking for new partitions"),
            }
        }
    }

    fn look(&self) -> Result<Vec<Assigned>> {
        let there = self.shared.options().topics.partitions(&self.control, TIMEOUT)?;
        let new = there.into_iter().filter(|partition| !self.known.contains(partition));
        let one = |partition: Partition| {
            let (start, _) = partition.range(&self.control, TIMEOUT)?;
            let lane = self.shared.options().topics.split(&partition).into();
            Ok(Assigned { partition, lane, position: KafkaPosition { start, next: start }, until: None })
        };
        new.map(one).collect()
    }

    /// False if nobody reads any more.
    async fn hand_out(&mut self, one: Assigned) -> bool {
        tracing::info!(source = self.shared.options().name, "found {}", one.partition);
        self.known.insert(one.partition.clone());
        if self.shared.sender.send(Ok(self.shared.nothing_yet(&one))).await.is_err() {
            return false;
        }
        let worker = self.workers.iter_mut().min_by_key(|(_, partitions)| *partitions);
        worker.is_some_and(|(sender, partitions)| {
            *partitions += 1;
            sender.send(one).is_ok()
        })
    }
}
