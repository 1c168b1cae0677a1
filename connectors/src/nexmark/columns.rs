//! The columns of each kind of event, under the names that RisingWave's nexmark connector gives them.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, Int64Builder, NullBufferBuilder, StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::{self, CastOptions};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState, nearest};

use super::event::{Depth, Effort, Kind, Row};

/// Which events a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Only(Kind),
    /// All, each in the struct of its kind.
    Event,
}

/// A value of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Id,
    Name,
    EmailAddress,
    CreditCard,
    City,
    State,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    Auction,
    Bidder,
    Price,
    Channel,
    Url,
    Extra,
    DateTime,
    EventType,
    Number,
    Partition,
}

const PERSON: &[(&str, Part)] = &[
    ("id", Part::Id),
    ("name", Part::Name),
    ("email_address", Part::EmailAddress),
    ("credit_card", Part::CreditCard),
    ("city", Part::City),
    ("state", Part::State),
    ("date_time", Part::DateTime),
    ("extra", Part::Extra),
];
const AUCTION: &[(&str, Part)] = &[
    ("id", Part::Id),
    ("item_name", Part::ItemName),
    ("description", Part::Description),
    ("initial_bid", Part::InitialBid),
    ("reserve", Part::Reserve),
    ("date_time", Part::DateTime),
    ("expires", Part::Expires),
    ("seller", Part::Seller),
    ("category", Part::Category),
    ("extra", Part::Extra),
];
const BID: &[(&str, Part)] = &[
    ("auction", Part::Auction),
    ("bidder", Part::Bidder),
    ("price", Part::Price),
    ("channel", Part::Channel),
    ("url", Part::Url),
    ("date_time", Part::DateTime),
    ("extra", Part::Extra),
];
const STRUCTS: [(&str, Kind); 3] = [("person", Kind::Person), ("auction", Kind::Auction), ("bid", Kind::Bid)];

fn parts(kind: Kind) -> &'static [(&'static str, Part)] {
    match kind {
        Kind::Person => PERSON,
        Kind::Auction => AUCTION,
        Kind::Bid => BID,
    }
}

enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Millis(u64),
}

impl Part {
    fn sql_type(self) -> SqlType {
        match self {
            Part::Expires | Part::DateTime => SqlType::Timestamp,
            Part::Name
            | Part::EmailAddress
            | Part::CreditCard
            | Part::City
            | Part::State
            | Part::ItemName
            | Part::Description
            | Part::Channel
            | Part::Url
            | Part::Extra => SqlType::Text,
            _ => SqlType::BigInt,
        }
    }

    /// How far the event must be drawn to have this value.
    fn depth(self) -> Depth {
        match self {
            Part::Id | Part::DateTime | Part::EventType | Part::Number | Part::Partition => Depth::Known,
            Part::Auction | Part::Bidder | Part::Price => Depth::Numbers,
            Part::Extra => Depth::Extra,
            _ => Depth::Texts,
        }
    }

    fn of(self, row: &Row) -> Value<'_> {
        match self {
            Part::Id => Value::Int(row.id as i64),
            Part::Name => Value::Text(&row.name),
            Part::EmailAddress => Value::Text(&row.email_address),
            Part::CreditCard => Value::Text(&row.credit_card),
            Part::City => Value::Text(&row.city),
            Part::State => Value::Text(&row.state),
            Part::ItemName => Value::Text(&row.item_name),
            Part::Description => Value::Text(&row.description),
            Part::InitialBid => Value::Int(row.initial_bid as i64),
            Part::Reserve => Value::Int(row.reserve as i64),
            Part::Expires => Value::Millis(row.expires_millis),
            Part::Seller => Value::Int(row.seller as i64),
            Part::Category => Value::Int(row.category as i64),
            Part::Auction => Value::Int(row.auction as i64),
            Part::Bidder => Value::Int(row.bidder as i64),
            Part::Price => Value::Int(row.price as i64),
            Part::Channel => Value::Text(&row.channel),
            Part::Url => Value::Text(&row.url),
            Part::Extra => Value::Text(&row.extra),
            Part::DateTime => Value::Millis(row.millis),
            Part::EventType => Value::Int(row.kind as i64),
            Part::Number => Value::Int(row.number as i64),
            Part::Partition => Value::Int(0),
        }
    }
}

/// A declared column.
#[derive(Debug, Clone)]
pub(super) enum Column {
    Part(Part),
    /// The values of one kind of event, NULL for the other kinds.
    Struct(Kind, Vec<Part>),
}

impl Table {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "event" => Some(Table::Event),
            _ => STRUCTS.iter().find(|(known, _)| *known == name).map(|(_, kind)| Table::Only(*kind)),
        }
    }

    pub fn holds(self, kind: Kind) -> bool {
        match self {
            Table::Event => true,
            Table::Only(only) => only == kind,
        }
    }

    /// All columns there are.
    pub fn schema(self) -> SchemaRef {
        let fields = |kind| parts(kind).iter().map(|(name, part)| part.sql_type().to_field(name, true));
        Arc::new(Schema::new(match self {
            Table::Only(kind) => fields(kind).collect::<Vec<_>>(),
            Table::Event => {
                let structs = STRUCTS
                    .iter()
                    .map(|(name, kind)| Field::new(*name, DataType::Struct(fields(*kind).collect::<Fields>()), true));
                let event_type = Part::EventType.sql_type().to_field("event_type", true);
                let date_time = Part::DateTime.sql_type().to_field("date_time", true);
                std::iter::once(event_type).chain(structs).chain([date_time]).collect()
            }
        }))
    }

    /// Finds what a declared column stands for; its type must be able to hold the values.
    pub fn column(self, field: &Field) -> Result<Column> {
        match self {
            Table::Only(kind) => Ok(Column::Part(part(field, parts(kind))?)),
            Table::Event => match (STRUCTS.iter().find(|(name, _)| name == field.name()), field.data_type()) {
                (Some((_, kind)), DataType::Struct(fields)) => {
                    let found = fields.iter().map(|f| part(f, parts(*kind))).collect::<Result<_>>();
                    Ok(Column::Struct(*kind, found.map_err(|e| e.context(format!("column \"{}\"", field.name())))?))
                }
                (Some(_), _) => {
                    Err(Error::new(SqlState::DatatypeMismatch, format!("column \"{}\" must be a struct", field.name())))
                }
                (None, _) => {
                    let others = [("event_type", Part::EventType), ("date_time", Part::DateTime)];
                    Ok(Column::Part(part(field, &others)?))
                }
            },
        }
    }

    pub fn effort(self, wanted: &[&Column]) -> Effort {
        let mut effort = Effort::default();
        for column in wanted {
            let (kind, depth) = match (column, self) {
                (Column::Struct(kind, parts), _) => (*kind, parts.iter().map(|p| p.depth()).max().unwrap_or_default()),
                (Column::Part(part), Table::Only(kind)) => (kind, part.depth()),
                (Column::Part(_), Table::Event) => continue,
            };
            let known = match kind {
                Kind::Person => &mut effort.person,
                Kind::Auction => &mut effort.auction,
                Kind::Bid => &mut effort.bid,
            };
            *known = (*known).max(depth);
        }
        effort
    }
}

fn part(field: &Field, known: &[(&str, Part)]) -> Result<Part> {
    let Some((_, part)) = known.iter().find(|(name, _)| name == field.name()) else {
        let error = Error::new(SqlState::UndefinedColumn, format!("nexmark has no column \"{}\" here", field.name()));
        return Err(match nearest(field.name(), known.iter().map(|(name, _)| *name)) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                error.with_hint(format!("There are: {}.", names.join(", ")))
            }
        });
    };
    let (own, declared) = (part.sql_type(), SqlType::from_field(field));
    let fits = match own {
        SqlType::BigInt => matches!(declared, SqlType::BigInt | SqlType::Integer | SqlType::Numeric(_)),
        SqlType::Timestamp => matches!(declared, SqlType::Timestamp | SqlType::TimestampTz),
        _ => matches!(declared, SqlType::Text | SqlType::Varchar(None)),
    };
    if fits {
        return Ok(*part);
    }
    Err(Error::new(
        SqlState::DatatypeMismatch,
        format!("column \"{}\" of nexmark is of type {own}, not {declared}", field.name()),
    ))
}

impl Column {
    /// What `INCLUDE what` gives; the word has been checked.
    pub fn included(what: &str) -> Self {
        Column::Part(match what {
            "offset" => Part::Number,
            "partition" => Part::Partition,
            _ => Part::DateTime,
        })
    }

    pub fn builder(&self, rows: usize) -> ColumnBuilder {
        match self {
            Column::Part(part) => ColumnBuilder::Part(PartBuilder::new(*part, rows)),
            Column::Struct(kind, parts) => ColumnBuilder::Struct {
                kind: *kind,
                parts: parts.iter().map(|part| PartBuilder::new(*part, rows)).collect(),
                valid: NullBufferBuilder::new(rows),
            },
        }
    }
}

pub(super) enum ColumnBuilder {
    Part(PartBuilder),
    Struct { kind: Kind, parts: Vec<PartBuilder>, valid: NullBufferBuilder },
}

impl ColumnBuilder {
    pub fn append(&mut self, row: &Row) {
        match self {
            ColumnBuilder::Part(builder) => builder.append(Some(row)),
            ColumnBuilder::Struct { kind, parts, valid } => {
                let own = row.kind == *kind;
                valid.append(own);
                for part in parts {
                    part.append(own.then_some(row));
                }
            }
        }
    }

    pub fn finish(self, field: &FieldRef) -> Result<ArrayRef> {
        match self {
            ColumnBuilder::Part(builder) => builder.finish(field),
            ColumnBuilder::Struct { parts, mut valid, .. } => {
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(Error::internal("a struct column without a struct type"));
                };
                let rows = valid.len();
                let arrays =
                    parts.into_iter().zip(fields).map(|(part, field)| part.finish(field)).collect::<Result<_>>()?;
                Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), arrays, valid.finish(), rows)?))
            }
        }
    }
}

pub(super) struct PartBuilder {
    part: Part,
    values: Values,
}

enum Values {
    Int(Int64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl PartBuilder {
    fn new(part: Part, rows: usize) -> Self {
        let values = match part.sql_type() {
            SqlType::Timestamp => Values::Time(TimestampMicrosecondBuilder::with_capacity(rows)),
            SqlType::Text => Values::Text(StringBuilder::with_capacity(rows, rows * 16)),
            _ => Values::Int(Int64Builder::with_capacity(rows)),
        };
        Self { part, values }
    }

    fn append(&mut self, row: Option<&Row>) {
        match (&mut self.values, row.map(|row| self.part.of(row))) {
            (Values::Int(builder), Some(Value::Int(value))) => builder.append_value(value),
            (Values::Text(builder), Some(Value::Text(value))) => builder.append_value(value),
            (Values::Time(builder), Some(Value::Millis(value))) => builder.append_value(value as i64 * 1000),
            (Values::Int(builder), _) => builder.append_null(),
            (Values::Text(builder), _) => builder.append_null(),
            (Values::Time(builder), _) => builder.append_null(),
        }
    }

    fn finish(self, field: &FieldRef) -> Result<ArrayRef> {
        let array: ArrayRef = match self.values {
            Values::Int(mut builder) => Arc::new(builder.finish()),
            Values::Text(mut builder) => Arc::new(builder.finish()),
            Values::Time(mut builder) => Arc::new(builder.finish()),
        };
        if array.data_type() == field.data_type() {
            return Ok(array);
        }
        let strict = CastOptions { safe: false, ..Default::default() };
        Ok(compute::cast_with_options(&array, field.data_type(), &strict)?)
    }
}
