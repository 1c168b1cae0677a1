//! Avro schemas: JSON to a table of types that refer to each other by number.
//!
//! ```text
//!   {"type": "record", "fields": [{"type": ["null", "Address"]}, ..]}  ──▶  0: record(1, ..)   1: union(2, 3)   2: null   3: record(..)
//! ```
//!
//! Names are resolved here and nowhere else; a type may contain itself. An annotation (`logicalType`) that makes no sense is passed
//! over, as Avro asks for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use tidemark_common::{Error, Result, SqlState};

/// A type's place in the table.
pub(super) type Id = usize;

/// Types in one schema.
const MOST_TYPES: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Schema {
    nodes: Vec<Node>,
    pub(super) root: Id,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Null,
    Leaf(Leaf),
    Enum(Arc<[String]>),
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Arc<Record>),
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub default: Option<Value>,
    pub node: Id,
}

/// What holds one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        local: bool,
    },
    /// `size`: of a fixed.
    Decimal {
        size: Option<usize>,
        precision: u8,
        scale: i8,
    },
    UuidText,
    UuidFixed,
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milli,
    Micro,
    Nano,
}

impl Schema {
    /// `texts`: the schemas that the last refers to by name, then that one.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parser = Parser { schema: Schema::default(), names: HashMap::new() };
        for text in texts {
            let json: Value = serde_json::from_str(text).map_err(|e| wrong(&format!("it is no JSON: {e}")))?;
            parser.schema.root = parser.node(&json, "")?;
        }
        match parser.schema.nodes.is_empty() {
            true => Err(wrong("it is empty")),
            false => Ok(parser.schema),
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The record that each value is.
    pub(super) fn record(&self) -> Result<&Arc<Record>> {
        match self.node(self.root) {
            Node::Record(record) => Ok(record),
            _ => Err(Error::unsupported(format!("the Avro schema is {}, not a record", self.name(self.root)))
                .with_hint("Such records are read by ENCODE BYTES.")),
        }
    }

    /// The other type of a union with null.
    pub(super) fn without_null(&self, id: Id) -> Id {
        let Node::Union(branches) = self.node(id) else { return id };
        let mut others = branches.iter().copied().filter(|branch| !matches!(self.node(*branch), Node::Null));
        match (others.next(), others.next()) {
            (Some(only), None) => only,
            _ => id,
        }
    }

    /// For people to read.
    pub(super) fn name(&self, id: Id) -> String {
        match self.node(id) {
            Node::Null => "null".to_string(),
            Node::Leaf(leaf) => leaf.to_string(),
            Node::Enum(_) => "enum".to_string(),
            Node::Array(_) => "array".to_string(),
            Node::Map(_) => "map".to_string(),
            Node::Union(branches) => {
                format!("union of {}", branches.iter().map(|branch| self.name(*branch)).collect::<Vec<_>>().join(", "))
            }
            Node::Record(record) => format!("record {}", record.name),
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |unit: &Unit| match unit {
            Unit::Milli => "millis",
            Unit::Micro => "micros",
            Unit::Nano => "nanos",
        };
        match self {
            Leaf::Boolean => f.write_str("boolean"),
            Leaf::Int => f.write_str("int"),
            Leaf::Long => f.write_str("long"),
            Leaf::Float => f.write_str("float"),
            Leaf::Double => f.write_str("double"),
            Leaf::Bytes => f.write_str("bytes"),
            Leaf::String => f.write_str("string"),
            Leaf::Fixed(size) => write!(f, "fixed({size})"),
            Leaf::Date => f.write_str("date"),
            Leaf::Time(of) => write!(f, "time-{}", unit(of)),
            Leaf::Timestamp { unit: of, local } => {
                write!(f, "{}timestamp-{}", if *local { "local-" } else { "" }, unit(of))
            }
            Leaf::Decimal { precision, scale, .. } => write!(f, "decimal({precision},{scale})"),
            Leaf::UuidText | Leaf::UuidFixed => f.write_str("uuid"),
            Leaf::Duration => f.write_str("duration"),
        }
    }
}

struct Parser {
    schema: Schema,
    /// Full name -> type.
    names: HashMap<String, Id>,
}

impl Parser {
    fn push(&mut self, node: Node) -> Result<Id> {
        if self.schema.nodes.len() >= MOST_TYPES {
            return Err(wrong(&format!("it has more than {MOST_TYPES} types")));
        }
        self.schema.nodes.push(node);
        Ok(self.schema.nodes.len() - 1)
    }

    fn node(&mut self, json: &Value, namespace: &str) -> Result<Id> {
        match json {
            Value::String(name) => self.named(name, namespace, &Map::new()),
            Value::Array(branches) => {
                let branches =
                    branches.iter().map(|branch| self.node(branch, namespace)).collect::<Result<Vec<_>>>()?;
                if branches.iter().any(|branch| matches!(self.schema.node(*branch), Node::Union(_))) {
                    return Err(wrong("a union stands in a union"));
                }
                self.push(Node::Union(branches))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(name)) => self.complex(name, object, namespace),
                Some(nested) => self.node(nested, namespace),
                None => Err(wrong("a type has no \"type\"")),
            },
            other => Err(wrong(&format!("{other} is no type"))),
        }
    }

    fn complex(&mut self, name: &str, object: &Map<String, Value>, namespace: &str) -> Result<Id> {
        let part = |key: &str| object.get(key).ok_or_else(|| wrong(&format!("{name} without \"{key}\"")));
        match name {
            "record" | "error" => self.record(object, namespace),
            "array" => {
                let items = self.node(part("items")?, namespace)?;
                self.push(Node::Array(items))
            }
            "map" => {
                let values = self.node(part("values")?, namespace)?;
                self.push(Node::Map(values))
            }
            "enum" => {
                let symbols = part("symbols")?.as_array().into_iter().flatten();
                let symbols: Option<Vec<String>> = symbols.map(|symbol| Some(symbol.as_str()?.to_string())).collect();
                let symbols = symbols.ok_or_else(|| wrong("the symbols of an enum are texts"))?;
                let id = self.push(Node::Enum(symbols.into()))?;
                self.define(object, namespace, id).map(|_| id)
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| u32::try_from(size).ok());
                let size = size.ok_or_else(|| wrong("the size of a fixed is no number"))? as usize;
                let id = self.push(Node::Leaf(fixed(size, object)))?;
                self.define(object, namespace, id).map(|_| id)
            }
            other => self.named(other, namespace, object),
        }
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<Id> {
        // Its fields may refer to it.
        let id = self.push(Node::Null)?;
        let name = self.define(object, namespace, id)?;
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_string();
        let mut fields = Vec::new();
        for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = field["name"].as_str() else { return Err(wrong("a field has no name")) };
            let node = field.get("type").ok_or_else(|| wrong(&format!("field \"{name}\" has no type")))?;
            let node = self.node(node, &namespace).map_err(|e| e.context(format!("field \"{name}\"")))?;
            let aliases = field["aliases"].as_array().into_iter().flatten();
            fields.push(Field {
                name: name.to_string(),
                aliases: aliases.filter_map(|alias| Some(alias.as_str()?.to_string())).collect(),
                default: field.get("default").cloned(),
                node,
            });
        }
        self.schema.nodes[id] = Node::Record(Arc::new(Record { name, fields }));
        Ok(id)
    }

    /// Notes the name of a type, and returns it in full.
    fn define(&mut self, object: &Map<String, Value>, namespace: &str, id: Id) -> Result<String> {
        let name = object.get("name").and_then(Value::as_str).ok_or_else(|| wrong("a type has no name"))?;
        let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, namespace);
        self.names.insert(full.clone(), id);
        Ok(full)
    }

    fn named(&mut self, name: &str, namespace: &str, object: &Map<String, Value>) -> Result<Id> {
        let leaf = match name {
            "null" => return self.push(Node::Null),
            "boolean" => Leaf::Boolean,
            "int" => Leaf::Int,
            "long" => Leaf::Long,
            "float" => Leaf::Float,
            "double" => Leaf::Double,
            "bytes" => Leaf::Bytes,
            "string" => Leaf::String,
            other => {
                let known = self.names.get(&full_name(other, namespace)).or_else(|| self.names.get(other));
                return known.copied().ok_or_else(|| wrong(&format!("there is no type \"{other}\"")));
            }
        };
        self.push(Node::Leaf(annotated(leaf, object)))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    match namespace.is_empty() || name.contains('.') {
        true => name.to_string(),
        false => format!("{namespace}.{name}"),
    }
}

fn logical_type(object: &Map<String, Value>) -> &str {
    object.get("logicalType").and_then(Value::as_str).unwrap_or_default()
}

fn annotated(leaf: Leaf, object: &Map<String, Value>) -> Leaf {
    match (leaf, logical_type(object)) {
        (Leaf::Int, "date") => Leaf::Date,
        (Leaf::Int, "time-millis") => Leaf::Time(Unit::Milli),
        (Leaf::Long, "time-micros") => Leaf::Time(Unit::Micro),
        (Leaf::Long, "timestamp-millis") => Leaf::Timestamp { unit: Unit::Milli, local: false },
        (Leaf::Long, "timestamp-micros") => Leaf::Timestamp { unit: Unit::Micro, local: false },
        (Leaf::Long, "timestamp-nanos") => Leaf::Timestamp { unit: Unit::Nano, local: false },
        (Leaf::Long, "local-timestamp-millis") => Leaf::Timestamp { unit: Unit::Milli, local: true },
        (Leaf::Long, "local-timestamp-micros") => Leaf::Timestamp { unit: Unit::Micro, local: true },
        (Leaf::Long, "local-timestamp-nanos") => Leaf::Timestamp { unit: Unit::Nano, local: true },
        (Leaf::String, "uuid") => Leaf::UuidText,
        (Leaf::Bytes, "decimal") => decimal(None, object).unwrap_or(leaf),
        _ => leaf,
    }
}

fn fixed(size: usize, object: &Map<String, Value>) -> Leaf {
    match (logical_type(object), size) {
        ("uuid", 16) => Leaf::UuidFixed,
        ("duration", 12) => Leaf::Duration,
        ("decimal", _) => decimal(Some(size), object).unwrap_or(Leaf::Fixed(size)),
        _ => Leaf::Fixed(size),
    }
}

/// `None` if no numeric has so many digits.
fn decimal(size: Option<usize>, object: &Map<String, Value>) -> Option<Leaf> {
    let precision = u8::try_from(object.get("precision")?.as_u64()?).ok().filter(|p| (1..=76).contains(p))?;
    let scale = object.get("scale").map_or(Some(0), Value::as_u64)?;
    let scale = i8::try_from(scale).ok().filter(|scale| *scale as u8 <= precision)?;
    Some(Leaf::Decimal { size, precision, scale })
}

fn wrong(what: &str) -> Error {
    Error::new(SqlState::InvalidObjectDefinition, format!("the Avro schema cannot be read: {what}"))
}
