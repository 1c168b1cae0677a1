//! Which topics a source reads, and which partitions they have.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use regex::Regex;
use tidemark_common::{Error, Result, SqlState};

use super::client::{Context, explained};
use super::error::from_kafka;
use crate::options::Options;

/// A topic that has just been made is not known everywhere for a moment.
const TRIES: usize = 30;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(super) enum Topics {
    Named(Vec<String>),
    /// Those there are, and those that come.
    Matching(Regex),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Partition {
    pub topic: Arc<str>,
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of topic \"{}\"", self.number, self.topic)
    }
}

impl Partition {
    /// The offsets that the broker has: the first, and the one after the last. Blocks.
    pub fn range(&self, consumer: &BaseConsumer<Context>, timeout: Duration) -> Result<(i64, i64)> {
        let range = consumer.fetch_watermarks(&self.topic, self.number, timeout);
        range.map_err(|e| from_kafka(&e, &format!("reading {self}")))
    }
}

/// As librdkafka takes them.
pub(super) fn list_of(partitions: impl IntoIterator<Item = (Partition, Offset)>) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (one, offset) in partitions {
        let added = list.add_partition_offset(&one.topic, one.number, offset);
        added.map_err(|e| from_kafka(&e, &format!("reading {one}")))?;
    }
    Ok(list)
}

impl Topics {
    pub fn take(options: &mut Options) -> Result<Self> {
        match (options.take("topic"), options.take("topic_pattern")) {
            (Some(_), Some(_)) => Err(Error::invalid("options \"topic\" and \"topic_pattern\" exclude each other")),
            (None, None) => Err(Error::invalid("option \"topic\" is missing")
                .with_hint("Add topic = '..' to WITH (..), or topic_pattern, a regular expression.")),
            (Some(names), None) => {
                let mut names: Vec<String> = names.split(',').map(|name| name.trim().to_string()).collect();
                names.sort_unstable();
                names.dedup();
                match names.iter().find(|name| !is_name(name)) {
                    None => Ok(Topics::Named(names)),
                    Some(name) => Err(Error::invalid(format!("option \"topic\": \"{name}\" is no name of a topic"))
                        .with_hint("Letters, digits, '.', '_' and '-'; several topics with commas between them.")),
                }
            }
            (None, Some(pattern)) => match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) => Ok(Topics::Matching(regex)),
                Err(error) => Err(Error::invalid(format!("option \"topic_pattern\": {error}"))),
            },
        }
    }

    /// Those that are known by name.
    pub fn names(&self) -> &[String] {
        match self {
            Topics::Named(names) => names,
            Topics::Matching(_) => &[],
        }
    }

    /// The name of a partition among the splits of the source.
    pub fn split(&self, partition: &Partition) -> String {
        match self.is_one() {
            true => partition.number.to_string(),
            false => format!("{}/{}", partition.topic, partition.number),
        }
    }

    pub fn partition(&self, split: &str) -> Result<Partition> {
        let (topic, number) = match self {
            Topics::Named(names) if self.is_one() => (names[0].as_str(), split),
            _ => split.rsplit_once('/').unwrap_or_default(),
        };
        let astray = |_| Error::new(SqlState::DataCorrupted, format!("\"{split}\" is no partition of this source"));
        Ok(Partition { topic: topic.into(), number: number.parse().map_err(astray)? })
    }

    fn is_one(&self) -> bool {
        matches!(self, Topics::Named(names) if names.len() == 1)
    }

    /// Those there are now, in order. Blocks for as long as brokers take, and `timeout` at most.
    pub fn partitions(&self, consumer: &BaseConsumer<Context>, timeout: Duration) -> Result<Vec<Partition>> {
        let mut found = Vec::new();
        match self {
            Topics::Named(names) => {
                for name in names {
                    found.extend(of_topic(consumer, name, timeout)?);
                }
            }
            Topics::Matching(regex) => {
                let metadata = consumer.fetch_metadata(None, timeout);
                let metadata = metadata.map_err(|e| explained(consumer, &e, "listing topics"))?;
                let matching = metadata.topics().iter().filter(|t| t.error().is_none() && regex.is_match(t.name()));
                found.extend(matching.flat_map(of_metadata));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..250).contains(&name.len()) && name.chars().all(known)
}

fn of_topic(consumer: &BaseConsumer<Context>, name: &str, timeout: Duration) -> Result<Vec<Partition>> {
    let what = format!("reading topic \"{name}\"");
    let mut missing = RDKafkaErrorCode::UnknownTopic;
    for _ in 0..TRIES {
        let metadata = consumer.fetch_metadata(Some(name), timeout).map_err(|e| explained(consumer, &e, &what))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        match topic.and_then(MetadataTopic::error) {
            Some(error) => missing = error.into(),
            None => {
                let found = topic.map(of_metadata).unwrap_or_default();
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    Err(from_kafka(&KafkaError::MetadataFetch(missing), &what))
}

fn of_metadata(topic: &MetadataTopic) -> Vec<Partition> {
    let name: Arc<str> = topic.name().into();
    topic.partitions().iter().map(|p| Partition { topic: Arc::clone(&name), number: p.id() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pairs: &[(&str, &str)]) -> Result<Topics> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Topics::take(&mut Options::new(&pairs)?)
    }

    #[test]
    fn splits_are_read_as_they_are_named() {
        for (pairs, split) in
            [(("topic", "a"), "7"), (("topic", "a, b-c.d"), "b-c.d/7"), (("topic_pattern", "b.*"), "b-c.d/7")]
        {
            let topics = take(&[pairs]).unwrap();
            let partition = topics.partition(split).unwrap();
            assert_eq!((partition.number, topics.split(&partition).as_str()), (7, split));
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for pairs in [&[] as &[_], &[("topic", "")], &[("topic", "a b")], &[("topic_pattern", "(")]] {
            assert!(take(pairs).is_err(), "{pairs:?}");
        }
        assert!(take(&[("topic", "a"), ("topic_pattern", "a")]).is_err());
    }
}
