//! FORMAT and ENCODE of records that say what became of rows.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::columns::{Columns, EnvelopeColumns};
use super::envelopes::{Custom, Debezium, Maxwell};
use super::objects::Objects;
use super::order::{OrderBy, Origin};
use super::upsert::{KeyFormat, Upsert};
use super::{ChangeDecoder, Declared, Envelope};
use crate::formats::drift::{KnownKeys, Unknown};
use crate::formats::json::JsonRecords;
use crate::formats::json_path::JsonPath;
use crate::formats::record::RecordFormat;
use crate::options::Options;
use crate::spec::FormatSpec;

/// What an envelope of columns has, as Debezium calls it.
pub(super) const ENVELOPE: [&str; 3] = ["op", "before", "after"];

#[derive(Debug, Clone)]
pub(crate) struct ChangeFormat {
    kind: Kind,
    /// How values are written.
    records: RecordFormat,
    /// A change that comes after a later one of its row counts for nothing.
    order: Option<OrderBy>,
}

#[derive(Debug, Clone)]
enum Kind {
    Upsert(KeyFormat),
    Debezium,
    Maxwell,
    Custom(Box<Custom>),
}

impl ChangeFormat {
    /// `None`: records are rows. Options may stand in the WITH clause as well, if they are not the format's own. `topics`: those that
    /// are known by name.
    pub fn choose(format: Option<&FormatSpec>, with: &mut Options, topics: &[String]) -> Result<Option<Self>> {
        let Some(spec) = format.filter(|spec| spec.format != "PLAIN") else { return Ok(None) };
        let (ours, rest): (Vec<_>, Vec<_>) =
            spec.options.iter().cloned().partition(|(key, _)| is_ours(&spec.format, key));
        let mut own = Options::new(&ours)?;
        let kind = match spec.format.as_str() {
            "UPSERT" => {
                let values = (spec.encode.as_str(), &Options::new(&rest)?);
                Kind::Upsert(KeyFormat::take(&mut own, values, with, topics)?)
            }
            "DEBEZIUM" => Kind::Debezium,
            "MAXWELL" => Kind::Maxwell,
            "CUSTOM" => Kind::Custom(Box::new(Custom::parse(&mut own)?)),
            other => {
                return Err(Error::unsupported(format!("FORMAT {other} is not supported"))
                    .with_hint("FORMAT PLAIN, UPSERT, DEBEZIUM, MAXWELL or CUSTOM"));
            }
        };
        let order = own.take("order_by").or(with.take("order_by")).map(|text| OrderBy::parse(&text)).transpose()?;
        own.finish()?;
        let encodings: &[&str] = match kind {
            Kind::Upsert(_) | Kind::Debezium => &["JSON", "AVRO", "PROTOBUF"],
            Kind::Maxwell | Kind::Custom(_) => &["JSON"],
        };
        if !encodings.contains(&spec.encode.as_str()) {
            return Err(Error::unsupported(format!("FORMAT {} ENCODE {} is not supported", spec.format, spec.encode))
                .with_hint(format!("FORMAT {} ENCODE {}", spec.format, encodings.join(" | "))));
        }
        let plain = FormatSpec { format: "PLAIN".to_string(), encode: spec.encode.clone(), options: rest };
        let records = RecordFormat::choose(Some(&plain), with, topics)?;
        if let Some(order) = &order {
            check_order(&kind, &records, order)?;
        }
        Ok(Some(Self { kind, records, order }))
    }

    /// Where a record's value is a row, so that columns can be taken from records.
    pub fn rows(&self) -> Option<&RecordFormat> {
        matches!(self.kind, Kind::Upsert(_)).then_some(&self.records)
    }

    /// Refuses columns that the format cannot have.
    pub fn check(&self, declared: &SchemaRef) -> Result<()> {
        self.records.check(&self.written(declared))
    }

    /// Refuses columns that the schema does not have, where there is one. Asks for it.
    pub async fn reach(&self, declared: &SchemaRef) -> Result<()> {
        self.records.reach(&self.written(declared)).await
    }

    /// The columns that the schema names, where there is one. Asks for it.
    pub async fn columns(&self) -> Result<Option<SchemaRef>> {
        let Some(columns) = self.records.columns().await? else { return Ok(None) };
        if !matches!(self.kind, Kind::Debezium) {
            return Ok(Some(columns));
        }
        match columns.column_with_name(ENVELOPE[2]).map(|(_, field)| field.data_type()) {
            Some(DataType::Struct(fields)) => Ok(Some(Arc::new(Schema::new(fields.clone())))),
            _ => Err(Error::new(
                SqlState::InvalidTableDefinition,
                "the schema has no record \"after\": it is not Debezium's",
            )
            .with_hint("FORMAT PLAIN reads records that are rows.")),
        }
    }

    /// The columns of a record.
    fn written(&self, declared: &SchemaRef) -> SchemaRef {
        if !matches!((&self.kind, &self.records), (Kind::Debezium, RecordFormat::Avro(_) | RecordFormat::Protobuf(_))) {
            return declared.clone();
        }
        let row = DataType::Struct(declared.fields().clone());
        let [op, before, after] = ENVELOPE;
        let fields =
            vec![SqlType::Text.to_field(op, true), Field::new(before, row.clone(), true), Field::new(after, row, true)];
        Arc::new(Schema::new(fields))
    }

    /// `key`: the declared columns of the primary key, by position. `unknown`: where columns are noted that are not declared.
    pub fn decoder(
        &self,
        schema: &SchemaRef,
        key: Vec<usize>,
        unknown: &Arc<Unknown>,
    ) -> Result<Box<dyn ChangeDecoder>> {
        let declared = Declared { schema: schema.clone(), key };
        if let RecordFormat::Json(json) = &self.records {
            let envelope: Box<dyn Envelope> = match &self.kind {
                Kind::Upsert(KeyFormat::Text(key)) => Box::new(Upsert(*key)),
                Kind::Upsert(KeyFormat::Avro(_)) => {
                    return Err(Error::internal("keys in Avro beside values in JSON"));
                }
                Kind::Debezium => Box::new(Debezium),
                Kind::Maxwell => Box::new(Maxwell),
                Kind::Custom(custom) => custom.clone(),
            };
            let besides: Vec<&JsonPath> = match &self.kind {
                Kind::Custom(custom) => custom.beside_row(),
                _ => Vec::new(),
            };
            let keys = KnownKeys::new(schema, besides.into_iter())?;
            let (rows, unknown) = (JsonRecords::new(schema, json)?, Arc::clone(unknown));
            let order = self.order.clone();
            return Ok(Box::new(Objects { envelope, declared, rows, keys, unknown, order }));
        }
        let mut written = self.written(schema);
        if self.order.is_some() {
            let mut fields = written.fields().to_vec();
            fields.push(Arc::new(Field::new("source", Origin::columns(), true)));
            written = Arc::new(Schema::new(fields));
        }
        let places: Vec<usize> = (0..written.fields().len()).collect();
        let mut records = self.records.decoder(&written, &written, &places)?;
        records.watch(Arc::clone(unknown), matches!(self.kind, Kind::Debezium).then_some(ENVELOPE[2]));
        Ok(match &self.kind {
            Kind::Upsert(key) => Box::new(Columns::new(records, declared, key)?),
            _ => {
                let id = DataType::Struct(vec![SqlType::Text.to_field("id", true)].into());
                let transaction = Arc::new(Schema::new(vec![Field::new("transaction", id, true)]));
                let transactions = self.records.decoder(&transaction, &transaction, &[0])?;
                Box::new(EnvelopeColumns { records, declared, transactions })
            }
        })
    }
}

/// Refuses an order that the records cannot have.
fn check_order(kind: &Kind, records: &RecordFormat, order: &OrderBy) -> Result<()> {
    let refuse = |message: &str, hint: &str| Err(Error::unsupported(message).with_hint(hint));
    match (kind, order, records) {
        (Kind::Upsert(_), ..) => refuse(
            "order_by is not supported for FORMAT UPSERT: a key without a value does not say when it was deleted",
            "FORMAT DEBEZIUM, MAXWELL or CUSTOM.",
        ),
        (Kind::Custom(_), OrderBy::Source, _) => refuse(
            "order_by = 'source' is not supported for FORMAT CUSTOM",
            "Name the values: order_by = '$.ts, $.seq'.",
        ),
        (_, OrderBy::Paths(_), RecordFormat::Avro(_) | RecordFormat::Protobuf(_)) => {
            refuse("order_by with paths is for records with ENCODE JSON", "order_by = 'source'")
        }
        _ => Ok(()),
    }
}

/// Options that are not the encoding's.
fn is_ours(format: &str, key: &str) -> bool {
    if key == "order_by" {
        return true;
    }
    match format {
        "UPSERT" => key == "key_encode",
        "CUSTOM" => matches!(key, "op" | "before" | "after" | "key") || key.starts_with("op."),
        _ => false,
    }
}
