//! What the server hands over from CREATE SOURCE and CREATE SINK, and the choice of the connector.
//!
//! ```text
//!   CREATE SOURCE ──▶ SourceSpec ──open_source──▶ dyn Source     (by `connector`; each option taken once, the rest refused)
//!   CREATE SINK   ──▶ SinkSpec   ──open_sink────▶ dyn Sink
//! ```

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use tidemark_common::types::SqlType;
use tidemark_common::{Clock, Error, Hidden, Result, SqlState, nearest};

use crate::options::Options;
use crate::postgres::replication;
use crate::{Sink, Source, blackhole, datagen, file, kafka, nexmark};

/// A CREATE SOURCE, its types resolved.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub name: String,
    /// The declared columns.
    pub columns: SchemaRef,
    /// How many of the last of them were added to the source.
    pub added: usize,
    /// INCLUDE what AS column: `what` lower-case, and the column's name.
    pub include: Vec<(String, String)>,
    /// Positions of the primary key; empty: it has none.
    pub key: Vec<usize>,
    pub options: Vec<(String, String)>,
    pub secrets: Vec<(String, Hidden)>,
    pub format: Option<FormatSpec>,
    /// The source that it is a table of: the options are that one's and its own.
    pub shared: Option<String>,
    /// Tables of a source that has no columns.
    pub tables: Vec<TableSpec>,
    pub clock: Arc<dyn Clock>,
}

/// A table of a source that several tables share.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its number here, by which batches say that they are its rows.
    pub id: u32,
    pub name: String,
    pub columns: SchemaRef,
    pub added: usize,
    pub key: Vec<usize>,
    /// Its own.
    pub options: Vec<(String, String)>,
}

/// `FORMAT format ENCODE encode (options)`, both words upper-case.
#[derive(Debug, Clone)]
pub struct FormatSpec {
    pub format: String,
    pub encode: String,
    pub options: Vec<(String, String)>,
}

/// A CREATE SINK with the columns of what it reads from.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    pub name: String,
    pub schema: SchemaRef,
    /// What it may be called in another system: nothing else has this name, and it keeps it for life.
    pub identity: String,
    /// False if rows of the input are ever updated or deleted.
    pub append_only: bool,
    /// Columns that tell the rows apart, if there are such.
    pub key: Option<Vec<usize>>,
    pub options: Vec<(String, String)>,
    pub secrets: Vec<(String, Hidden)>,
    pub format: Option<FormatSpec>,
    pub clock: Arc<dyn Clock>,
}

/// Where a declared column says that its value is in a record, if that is not under its name: `$.a.b[0]`.
pub const PATH_METADATA: &str = "tidemark.path";

/// Where the schema of [`infer_columns`] names the primary key that comes with the columns: their positions, with commas between them.
pub const KEY_METADATA: &str = "tidemark.key";

const SOURCES: [&str; 5] = ["datagen", "file", "kafka", "nexmark", "postgres-cdc"];
const SINKS: [&str; 3] = ["blackhole", "file", "kafka"];

/// Builds the source that `connector` names. Refuses unknown connectors, options and INCLUDE words.
pub fn open_source(spec: SourceSpec) -> Result<Arc<dyn Source>> {
    refuse_paths(&spec)?;
    let mut options = Options::with_secrets(&spec.options, &spec.secrets)?;
    match connector(&mut options, "source", &SOURCES)?.as_str() {
        "datagen" => datagen::open(spec, options),
        "nexmark" => nexmark::open(spec, options),
        "kafka" => kafka::open(spec, options),
        "postgres-cdc" => replication::open(spec, options),
        _ => file::open_source(spec, options),
    }
}

/// Only JSON has paths.
fn refuse_paths(spec: &SourceSpec) -> Result<()> {
    let by_path = spec.columns.fields().iter().find(|field| field.metadata().contains_key(PATH_METADATA));
    let is_json = spec.format.as_ref().is_some_and(|format| format.encode.eq_ignore_ascii_case("json"));
    match by_path.filter(|_| !is_json) {
        None => Ok(()),
        Some(field) => Err(Error::unsupported(format!("column \"{}\" cannot be taken FROM a path", field.name()))
            .with_hint("Paths are for records with ENCODE JSON.")),
    }
}

/// Builds the sink that `connector` names.
pub fn open_sink(spec: SinkSpec) -> Result<Arc<dyn Sink>> {
    let mut options = Options::with_secrets(&spec.options, &spec.secrets)?;
    match connector(&mut options, "sink", &SINKS)?.as_str() {
        "blackhole" => blackhole::open(spec, options),
        "kafka" => kafka::open_sink(spec, options),
        _ => file::open_sink(spec, options),
    }
}

/// The columns of a source declared with `(*)` or none, where the data or the connector tells them.
pub async fn infer_columns(
    options: &[(String, String)],
    secrets: &[(String, Hidden)],
    format: Option<&FormatSpec>,
) -> Result<SchemaRef> {
    let mut parsed = Options::with_secrets(options, secrets)?;
    match connector(&mut parsed, "source", &SOURCES)?.as_str() {
        "datagen" => Err(Error::new(SqlState::InvalidTableDefinition, "a datagen source must declare its columns")
            .with_hint("CREATE SOURCE name (id BIGINT, ..) WITH (connector = 'datagen', ..)")),
        "nexmark" => nexmark::infer(&mut parsed),
        "kafka" => kafka::infer(parsed, format).await,
        "postgres-cdc" => replication::infer(parsed, format).await,
        _ => file::infer(parsed, format).await,
    }
}

fn connector(options: &mut Options, kind: &str, known: &[&str]) -> Result<String> {
    let Some(name) = options.take("connector") else {
        return Err(Error::invalid(format!("a {kind} needs the option \"connector\""))
            .with_hint(format!("Add connector = '..' to WITH (..); known: {}.", known.join(", "))));
    };
    let name = name.to_lowercase();
    if known.contains(&name.as_str()) {
        return Ok(name);
    }
    let error = Error::invalid(format!("unknown {kind} connector \"{name}\""))
        .with_detail(format!("Known: {}.", known.join(", ")));
    Err(match nearest(&name, known.iter().copied()) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint(format!("Connectors known here: {}.", known.join(", "))),
    })
}

/// Rows that never are bytes have no format. RisingWave asks for PLAIN JSON on its generators, so that is let through.
pub(crate) fn refuse_format(format: Option<&FormatSpec>, connector: &str) -> Result<()> {
    let Some(spec) = format else { return Ok(()) };
    if matches!(spec.format.as_str(), "PLAIN" | "NATIVE")
        && matches!(spec.encode.as_str(), "JSON" | "NATIVE")
        && spec.options.is_empty()
    {
        return Ok(());
    }
    Err(Error::invalid(format!("connector \"{connector}\" takes no FORMAT {} ENCODE {}", spec.format, spec.encode))
        .with_hint("Leave the FORMAT clause out."))
}

/// The declared columns, then one column for each INCLUDE. `known`: what the connector can tell and its type.
pub(crate) fn with_include(spec: &SourceSpec, known: &[(&str, SqlType)]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = spec.columns.fields().iter().cloned().collect();
    for (what, name) in &spec.include {
        let Some((_, sql_type)) = known.iter().find(|(word, _)| word == what) else {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            return Err(Error::new(SqlState::SyntaxError, format!("this connector cannot INCLUDE {what}"))
                .with_hint(format!("It knows: {}.", words.join(", "))));
        };
        if fields.iter().any(|f| f.name() == name) {
            return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once"))
                .with_hint(format!("INCLUDE {what} AS another_name")));
        }
        fields.push(sql_type.to_field_ref(name, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns of `schema` at `projection`, or all.
pub(crate) fn projected(schema: &SchemaRef, projection: Option<&[usize]>) -> Result<(SchemaRef, Vec<usize>)> {
    let indices: Vec<usize> = match projection {
        Some(indices) => indices.to_vec(),
        None => (0..schema.fields().len()).collect(),
    };
    Ok((Arc::new(schema.project(&indices)?), indices))
}
