//! CREATE CONNECTION .. WITH (type = 'kafka'): the properties that sources share.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tidemark_common::{Error, Result};

use super::client::{ClientOptions, Context, Lag};
use super::error::from_kafka;
use super::reader::TIMEOUT;
use crate::options::Options;
use crate::postgres::CheckRow;

#[derive(Debug)]
pub struct KafkaConnection(ClientOptions);

impl KafkaConnection {
    pub fn parse(mut options: Options) -> Result<Self> {
        options.require("type")?;
        let client = ClientOptions::take(&mut options)?;
        options.finish()?;
        Ok(Self(client))
    }
}

/// Signs in, and looks what there is.
pub async fn check(connection: KafkaConnection) -> Vec<CheckRow> {
    let servers = connection.0.servers().to_string();
    let looked = tokio::task::spawn_blocking(move || look(&connection.0)).await;
    let looked = looked.unwrap_or_else(|e| Err(Error::internal(format!("asking Kafka failed: {e}"))));
    let reached = match looked {
        Ok(found) => CheckRow::done("connect", found),
        Err(error) => CheckRow::failed("connect", &error),
    };
    vec![CheckRow::done("options", servers), reached]
}

fn look(client: &ClientOptions) -> Result<String> {
    let context = Context { source: "CHECK CONNECTION".into(), lag: Arc::new(Lag::default()) };
    let consumer: BaseConsumer<Context> =
        client.config("check").create_with_context(context).map_err(|e| from_kafka(&e, "connecting to Kafka"))?;
    let found = consumer.fetch_metadata(None, TIMEOUT).map_err(|e| from_kafka(&e, "listing topics"))?;
    Ok(format!("{} brokers, {} topics", found.brokers().len(), found.topics().len()))
}
