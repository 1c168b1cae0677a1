//! CREATE CONNECTION .. WITH (type = 'kafka'): the properties that sources share.

use std::sync::Arc;

use rdkafka::consumer::Consumer;
use tidemark_common::Result;

use super::client::{ClientOptions, Purpose, TIMEOUT, blocking, explained};
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
    let reached = match blocking(move || look(&connection.0)).await {
        Ok(found) => CheckRow::done("connect", found),
        Err(error) => CheckRow::failed("connect", &error),
    };
    vec![CheckRow::done("options", servers), reached]
}

fn look(client: &ClientOptions) -> Result<String> {
    let consumer = client.consumer("check", &Arc::default(), Purpose::Follow)?;
    let found = consumer.fetch_metadata(None, TIMEOUT).map_err(|e| explained(&consumer, &e, "listing topics"))?;
    Ok(format!("{} brokers, {} topics", found.brokers().len(), found.topics().len()))
}
