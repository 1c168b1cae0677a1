//! The options of a Kafka source, checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use tidemark_common::types::SqlType;
use tidemark_common::{Clock, Error, Result, SqlState};

use super::client::ClientOptions;
use super::included::{Included, known};
use super::topics::Topics;
use crate::formats::changes::ChangeFormat;
use crate::formats::drift::{self, Missing};
use crate::formats::record::RecordFormat;
use crate::formats::text;
use crate::options::{OnError, Options};
use crate::postgres::OnDrift;
use crate::spec::{FormatSpec, SourceSpec, with_include};

/// How often new partitions and topics are looked for.
const DISCOVERY: Duration = Duration::from_secs(30);

/// Where a partition begins that has not been read yet, if it was there when the source was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Startup {
    Earliest,
    Latest,
    /// The first record at or after this time, in milliseconds.
    Timestamp(i64),
    /// By partition; those that are not named begin at the earliest.
    Offsets(BTreeMap<i32, i64>),
}

pub(super) struct KafkaOptions {
    pub name: String,
    pub client: ClientOptions,
    pub topics: Topics,
    pub startup: Startup,
    /// Finished when what was there at its start has been read.
    pub bounded: bool,
    pub discovery: Duration,
    pub rows_per_second: Option<f64>,
    pub on_error: OnError,
    /// Of records that say what became of rows: what becomes of columns that the source does not have.
    pub on_drift: OnDrift,
    /// Columns that it waits for.
    pub missing: Missing,
    pub records: Records,
    /// The primary key, if there is one.
    pub key: Key,
    pub included: Vec<Included>,
    pub declared: SchemaRef,
    /// The declared columns and the included.
    pub schema: SchemaRef,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource").field("name", &self.name).field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl KafkaOptions {
    pub fn parse(spec: SourceSpec, mut options: Options) -> Result<Self> {
        if spec.columns.fields().is_empty() {
            return Err(Error::new(SqlState::InvalidTableDefinition, "a kafka source must have columns")
                .with_hint("Declare them, or take them from the data: CREATE SOURCE name (*) WITH (..)."));
        }
        let schema = with_include(&spec, &known())?;
        let included: Vec<Included> = spec.include.iter().filter_map(|(what, _)| Included::of(what)).collect();
        let (client, topics, records) = where_and_what(&mut options, spec.format.as_ref())?;
        records.check(&spec)?;
        let key = Key::of(&spec, &included);
        let startup = startup(&mut options)?;
        let bounded = options.bool("bounded")?.unwrap_or(false);
        let discovery = options.duration("discovery_interval")?.unwrap_or(DISCOVERY);
        let rows_per_second = options.positive("rows_per_second")?;
        let on_error = options.on_error()?;
        let on_drift = match &records {
            Records::Changes(_) => drift::on_drift(&mut options)?,
            Records::Rows(_) if options.take("on_drift").is_some() => {
                return Err(Error::invalid("option \"on_drift\" is for sources that follow changes")
                    .with_hint("FORMAT UPSERT, DEBEZIUM, MAXWELL or CUSTOM. What other records have besides the columns is left out."));
            }
            Records::Rows(_) => OnDrift::Ignore,
        };
        options.finish()?;
        Ok(Self {
            name: spec.name,
            client,
            topics,
            startup,
            bounded,
            discovery,
            rows_per_second,
            on_error,
            on_drift,
            missing: Missing::default(),
            records,
            key,
            included,
            declared: spec.columns,
            schema,
            clock: spec.clock,
        })
    }
}

/// What records say.
#[derive(Debug)]
pub(super) enum Records {
    /// Each is a row.
    Rows(RecordFormat),
    /// What became of rows.
    Changes(ChangeFormat),
}

impl Records {
    fn check(&self, spec: &SourceSpec) -> Result<()> {
        match self {
            Records::Rows(format) => format.check(&spec.columns),
            Records::Changes(_) if spec.key.is_empty() => {
                let format = spec.format.as_ref().map(|f| f.format.as_str()).unwrap_or_default();
                Err(Error::new(
                    SqlState::InvalidTableDefinition,
                    format!("FORMAT {format} is for a source with a PRIMARY KEY: by it rows are put and deleted"),
                )
                .with_hint("CREATE SOURCE name (id BIGINT PRIMARY KEY, ..)"))
            }
            Records::Changes(format) => format.check(&spec.columns),
        }
    }

    /// Refuses columns that the schema does not have, where there is one. Asks for it.
    pub async fn reach(&self, declared: &SchemaRef) -> Result<()> {
        match self {
            Records::Rows(format) => format.reach(declared).await,
            Records::Changes(format) => format.reach(declared).await,
        }
    }

    /// The columns that the schema names, where there is one. Asks for it.
    pub async fn columns(&self) -> Result<Option<SchemaRef>> {
        match self {
            Records::Rows(format) => format.columns().await,
            Records::Changes(format) => format.columns().await,
        }
    }

    /// How rows are written, where a record's value is one.
    pub fn rows(&self) -> Option<&RecordFormat> {
        match self {
            Records::Rows(format) => Some(format),
            Records::Changes(format) => format.rows(),
        }
    }
}

/// The columns of a primary key.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// By position among those declared.
    pub declared: Vec<usize>,
    pub included: Vec<Included>,
}

impl Key {
    fn of(spec: &SourceSpec, included: &[Included]) -> Self {
        let declared = spec.columns.fields().len();
        let (here, beside): (Vec<usize>, Vec<usize>) = spec.key.iter().partition(|at| **at < declared);
        Self { declared: here, included: beside.into_iter().map(|at| included[at - declared]).collect() }
    }
}

/// The options that say which records there are and how to read them.
pub(super) fn where_and_what(
    options: &mut Options,
    format: Option<&FormatSpec>,
) -> Result<(ClientOptions, Topics, Records)> {
    let client = ClientOptions::take(options)?;
    let topics = Topics::take(options)?;
    let records = match ChangeFormat::choose(format, options, topics.names())? {
        Some(changes) => Records::Changes(changes),
        None => Records::Rows(RecordFormat::choose(format, options, topics.names())?),
    };
    Ok((client, topics, records))
}

/// In the words of RisingWave and of Flink.
fn startup(options: &mut Options) -> Result<Startup> {
    let millis = match options.parse::<i64>("scan.startup.timestamp.millis", "a number of milliseconds since 1970")? {
        Some(millis) => Some(millis),
        None => options.parse("scan.startup.timestamp-millis", "a number of milliseconds since 1970")?,
    };
    let timestamp = options.take("scan.startup.timestamp").map(|text| moment(&text)).transpose()?;
    let offsets = options.take("scan.startup.specific-offsets").map(|text| offsets(&text)).transpose()?;
    let mode = options.take("scan.startup.mode").map(|mode| mode.to_lowercase());
    if millis.is_some() && timestamp.is_some() {
        return Err(Error::invalid(
            "options \"scan.startup.timestamp\" and \"scan.startup.timestamp.millis\" exclude each other",
        ));
    }
    let millis = millis.or(timestamp);
    let needs = |mode: &str, option: &str| {
        Error::invalid(format!("scan.startup.mode = '{mode}' needs the option \"{option}\""))
    };
    let only =
        |option: &str, mode: &str| Error::invalid(format!("option \"{option}\" needs scan.startup.mode = '{mode}'"));
    let startup = match (mode.as_deref(), millis, offsets) {
        (None | Some("earliest" | "earliest-offset"), None, None) => Startup::Earliest,
        (Some("latest" | "latest-offset"), None, None) => Startup::Latest,
        (None | Some("timestamp"), Some(millis), None) => Startup::Timestamp(millis),
        (None | Some("specific-offsets"), None, Some(offsets)) => Startup::Offsets(offsets),
        (Some("timestamp"), None, _) => return Err(needs("timestamp", "scan.startup.timestamp")),
        (Some("specific-offsets"), _, None) => {
            return Err(needs("specific-offsets", "scan.startup.specific-offsets")
                .with_hint("Such as 'partition:0,offset:42;partition:1,offset:300'."));
        }
        (Some("earliest" | "earliest-offset" | "latest" | "latest-offset" | "specific-offsets"), Some(_), _) => {
            return Err(only("scan.startup.timestamp", "timestamp"));
        }
        (_, _, Some(_)) => return Err(only("scan.startup.specific-offsets", "specific-offsets")),
        (Some(other), ..) => {
            return Err(Error::invalid(format!("option \"scan.startup.mode\" cannot be '{other}'"))
                .with_hint("Use 'earliest', 'latest', 'timestamp' or 'specific-offsets'."));
        }
    };
    Ok(startup)
}

/// Milliseconds since 1970.
fn moment(text: &str) -> Result<i64> {
    let read =
        text::parse_one(text, &SqlType::TimestampTz).map_err(|e| e.context("option \"scan.startup.timestamp\""))?;
    Ok(read.as_primitive::<TimestampMicrosecondType>().value(0).div_euclid(1000))
}

/// `partition:0,offset:42;partition:1,offset:300`
fn offsets(text: &str) -> Result<BTreeMap<i32, i64>> {
    let one = |pair: &str| {
        let (partition, offset) = pair.split_once(',')?;
        let partition: i32 = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
        let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    };
    let all: Option<BTreeMap<i32, i64>> = text.split(';').filter(|pair| !pair.trim().is_empty()).map(one).collect();
    all.filter(|offsets| !offsets.is_empty()).ok_or_else(|| {
        Error::invalid(format!("option \"scan.startup.specific-offsets\" cannot be '{text}'"))
            .with_hint("Write 'partition:0,offset:42;partition:1,offset:300'.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Startup> {
        let pairs: Vec<_> =
            pairs.iter().map(|(key, value)| (format!("scan.startup.{key}"), value.to_string())).collect();
        let mut options = Options::new(&pairs)?;
        let startup = startup(&mut options)?;
        options.finish()?;
        Ok(startup)
    }

    #[test]
    fn where_reading_begins() {
        assert_eq!(parse(&[]).unwrap(), Startup::Earliest);
        assert_eq!(parse(&[("mode", "LATEST")]).unwrap(), Startup::Latest);
        assert_eq!(parse(&[("timestamp.millis", "5")]).unwrap(), Startup::Timestamp(5));
        assert_eq!(
            parse(&[("mode", "timestamp"), ("timestamp", "2024-01-01 00:00:00+00")]).unwrap(),
            Startup::Timestamp(1_704_067_200_000)
        );
        assert_eq!(
            parse(&[("specific-offsets", "partition:0,offset:42; partition:3 , offset:7")]).unwrap(),
            Startup::Offsets(BTreeMap::from([(0, 42), (3, 7)]))
        );
        for wrong in [
            &[("mode", "sometime")] as &[_],
            &[("mode", "timestamp")],
            &[("mode", "latest"), ("timestamp.millis", "5")],
            &[("mode", "specific-offsets")],
            &[("mode", "earliest"), ("specific-offsets", "partition:0,offset:1")],
            &[("specific-offsets", "0:1")],
            &[("timestamp", "soon")],
            &[("timestamp", "2024-01-01"), ("timestamp-millis", "5")],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
