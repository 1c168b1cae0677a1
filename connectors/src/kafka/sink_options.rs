//! The options of a Kafka sink, checked.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use tidemark_common::types::SqlType;
use tidemark_common::{Clock, Error, Result, SqlState};

use super::client::{ClientOptions, TRANSACTIONS};
use crate::formats::envelope::{Envelope, Writer};
use crate::formats::record_encode::encoder;
use crate::formats::schema_encode::{key_encoder, schema_encoder, take_for_keys};
use crate::options::Options;
use crate::spec::{FormatSpec, SinkSpec};

pub(super) struct KafkaSinkOptions {
    pub name: String,
    pub client: ClientOptions,
    pub topic: String,
    pub exactly_once: bool,
    /// What the sink is called over there, for life.
    pub identity: String,
    /// This process, as the topic's other writers see it.
    pub process: String,
    pub schema: SchemaRef,
    pub writer: Writer,
    pub beside: Beside,
    pub clock: Arc<dyn Clock>,
}

/// Columns that go beside the value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    pub partition: Option<usize>,
    pub timestamp: Option<usize>,
    pub headers: Option<usize>,
}

impl KafkaSinkOptions {
    pub fn parse(spec: SinkSpec, mut options: Options) -> Result<Self> {
        let client = ClientOptions::take(&mut options)?;
        let topic = options.require("topic")?;
        let exactly_once = exactly_once(&mut options)?;
        if !exactly_once && client.get(TRANSACTIONS).is_some() {
            return Err(Error::invalid(
                "option \"properties.transactional.id\" needs sink.delivery-guarantee = 'exactly-once'",
            ));
        }
        let beside = Beside::take(&mut options, &spec.schema)?;
        let writer = writer(&spec, &topic, &beside, &mut options)?;
        options.finish()?;
        let process = format!("{}-{}", std::process::id(), spec.clock.now_micros());
        let SinkSpec { name, identity, schema, clock, .. } = spec;
        let identity = client.get(TRANSACTIONS).map_or(identity, str::to_string);
        Ok(Self { name, client, topic, exactly_once, identity, process, schema, writer, beside, clock })
    }
}

impl std::fmt::Debug for KafkaSinkOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("name", &self.name).field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// In Flink's words.
fn exactly_once(options: &mut Options) -> Result<bool> {
    match options.take("sink.delivery-guarantee").map(|text| text.to_lowercase().replace('_', "-")).as_deref() {
        None | Some("exactly-once") => Ok(true),
        Some("at-least-once") => Ok(false),
        Some(other) => Err(Error::invalid(format!(
            "option \"sink.delivery-guarantee\" must be 'exactly-once' or 'at-least-once', not \"{other}\""
        ))),
    }
}

impl Beside {
    fn take(options: &mut Options, schema: &SchemaRef) -> Result<Self> {
        let mut column = |option: &'static str, expected: &str, fits: fn(&SqlType, &DataType) -> bool| {
            let Some(name) = options.take(option) else { return Ok(None) };
            let at = column_named(schema, name.trim(), option)?;
            let field = schema.field(at);
            match fits(&SqlType::from_field(field), field.data_type()) {
                true => Ok(Some(at)),
                false => Err(Error::new(
                    SqlState::DatatypeMismatch,
                    format!("column \"{}\" of option \"{option}\" must be of type {expected}", field.name()),
                )),
            }
        };
        Ok(Self {
            partition: column("partition", "integer", |_, held| *held == DataType::Int32)?,
            timestamp: column("timestamp", "timestamptz", |_, held| {
                matches!(held, DataType::Timestamp(TimeUnit::Microsecond, _))
            })?,
            headers: column("headers", "jsonb", |sql, _| matches!(sql, SqlType::Json | SqlType::Jsonb))?,
        })
    }

    fn has(&self, column: usize) -> bool {
        [self.partition, self.timestamp, self.headers].contains(&Some(column))
    }
}

fn column_named(schema: &SchemaRef, name: &str, option: &str) -> Result<usize> {
    let lower = name.to_lowercase();
    let found = schema.column_with_name(name).or_else(|| schema.column_with_name(&lower));
    found.map(|(at, _)| at).ok_or_else(|| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" of option \"{option}\" does not exist"))
            .with_hint(format!("The sink's columns are {}.", names.join(", ")))
    })
}

/// How the rows are written, from FORMAT .. ENCODE .. and the options of the key.
fn writer(spec: &SinkSpec, topic: &str, beside: &Beside, options: &mut Options) -> Result<Writer> {
    let Some(format) = &spec.format else {
        return Err(Error::invalid("the sink needs a format")
            .with_hint("FORMAT PLAIN ENCODE JSON, or FORMAT UPSERT ENCODE JSON for rows that change."));
    };
    let mut own = Options::new(&format.options)?;
    let envelope = envelope(spec, format, &mut own)?;
    let key = key_columns(spec, envelope, options)?;
    let with_key =
        match options.take("value.fields-include").map(|text| text.to_lowercase().replace('_', "-")).as_deref() {
            None | Some("all") => true,
            Some("except-key") => false,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "option \"value.fields-include\" must be 'all' or 'except-key', not \"{other}\""
                )));
            }
        };
    let is_key = |column: usize| key.as_ref().is_some_and(|key| key.contains(&column));
    let all = 0..spec.schema.fields().len();
    let columns: Vec<usize> = all.filter(|column| !beside.has(*column) && (with_key || !is_key(*column))).collect();
    if columns.is_empty() {
        return Err(Error::new(SqlState::InvalidTableDefinition, "no column is left for the value"));
    }
    let key_encode = own.take("key_encode");
    let mut key_has_schema = false;
    let key = match key {
        None if key_encode.is_some() => {
            return Err(Error::invalid("KEY ENCODE needs the option \"key\"").with_hint("key = 'column, ..'"));
        }
        None => None,
        Some(columns) => {
            let schema = Arc::new(spec.schema.project(&columns)?);
            let encode = key_encode.as_deref().unwrap_or("json");
            let of_schema = key_encoder(encode, &schema, &own, options, topic)?;
            key_has_schema = of_schema.is_some();
            let encoder = match of_schema {
                Some(encoder) => encoder,
                None => encoder(encode, &schema, &mut Options::default())?,
            };
            Some((columns, encoder))
        }
    };
    let schema = Arc::new(spec.schema.project(&columns)?);
    let value = match schema_encoder(&format.encode, &schema, &mut own, options, topic)? {
        Some(encoder) => encoder,
        None => {
            if key_has_schema {
                take_for_keys(&mut own, options)?;
            }
            encoder(&format.encode, &schema, &mut own)?
        }
    };
    own.finish()?;
    if envelope == Envelope::Upsert && value.may_be_nothing() {
        return Err(Error::unsupported(format!(
            "FORMAT UPSERT ENCODE {} cannot tell a NULL from a row that is gone",
            format.encode
        ))
        .with_hint("ENCODE JSON, or ENCODE TEXT (template = '{column}')."));
    }
    Ok(Writer { envelope, key, columns, value })
}

fn envelope(spec: &SinkSpec, format: &FormatSpec, own: &mut Options) -> Result<Envelope> {
    let force = own.bool("force_append_only")?.unwrap_or(false);
    let envelope = match format.format.as_str() {
        "PLAIN" => Envelope::Plain,
        "UPSERT" => Envelope::Upsert,
        "DEBEZIUM" => Envelope::Debezium,
        other => {
            return Err(Error::unsupported(format!("FORMAT {other} is not supported by sinks"))
                .with_hint("FORMAT PLAIN, UPSERT or DEBEZIUM"));
        }
    };
    if envelope == Envelope::Plain && !spec.append_only && !force {
        return Err(Error::unsupported("FORMAT PLAIN cannot say that rows change or go, and those of the query do")
            .with_hint(
                "Use FORMAT UPSERT or DEBEZIUM; (force_append_only = 'true') sends the new rows and leaves out what goes.",
            ));
    }
    if envelope == Envelope::Debezium && !format.encode.eq_ignore_ascii_case("json") {
        return Err(Error::unsupported(format!("FORMAT DEBEZIUM ENCODE {} is not supported", format.encode))
            .with_hint("FORMAT DEBEZIUM ENCODE JSON"));
    }
    Ok(envelope)
}

/// The columns of the messages' keys, which must tell rows apart where a message stands for a change.
fn key_columns(spec: &SinkSpec, envelope: Envelope, options: &mut Options) -> Result<Option<Vec<usize>>> {
    let given = match (options.take("key"), options.take("primary_key")) {
        (Some(_), Some(_)) => return Err(Error::invalid("options \"key\" and \"primary_key\" exclude each other")),
        (key, primary) => key.or(primary),
    };
    let given = given.map(|list| {
        let columns = list.split(',').map(|name| column_named(&spec.schema, name.trim(), "key"));
        columns.collect::<Result<Vec<usize>>>()
    });
    let given = given.transpose()?;
    if envelope == Envelope::Plain {
        return Ok(given);
    }
    let needs = |why: String| {
        Error::new(SqlState::InvalidTableDefinition, why).with_hint(
            "Add key = 'column, ..' with columns that tell rows apart: those of GROUP BY, of a primary key, or of DISTINCT.",
        )
    };
    let name = if envelope == Envelope::Upsert { "UPSERT" } else { "DEBEZIUM" };
    match (given, &spec.key) {
        (Some(given), _) if spec.append_only => Ok(Some(given)),
        (Some(given), Some(key)) if key.iter().all(|column| given.contains(column)) => Ok(Some(given)),
        (Some(given), _) => {
            let names: Vec<&str> = given.iter().map(|at| spec.schema.field(*at).name().as_str()).collect();
            Err(needs(format!("the columns ({}) do not tell the query's rows apart", names.join(", "))))
        }
        (None, Some(key)) if !key.is_empty() => Ok(Some(key.clone())),
        (None, _) => Err(needs(format!("FORMAT {name} needs a key, and the query has none"))),
    }
}
