//! The options of a file source, checked.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use tidemark_common::types::SqlType;
use tidemark_common::{Clock, Error, Result, SqlState};

use super::store::{Location, S3Options};
use crate::formats::Format;
use crate::options::{OnError, Options};
use crate::spec::{FormatSpec, SourceSpec, with_include};

/// What INCLUDE can tell of a file's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Included {
    File,
    Offset,
    Timestamp,
}

/// Rows go out as far apart as the times in `column`, divided by `speed`.
#[derive(Debug, Clone)]
pub(super) struct Replay {
    /// Place among the declared columns.
    pub column: usize,
    pub speed: f64,
}

#[derive(Debug)]
pub(super) struct FileOptions {
    pub location: Location,
    pub format: Format,
    pub on_error: OnError,
    pub bounded: bool,
    pub poll_interval: Duration,
    pub rows_per_second: Option<f64>,
    pub replay: Option<Replay>,
    pub included: Vec<Included>,
    pub declared: SchemaRef,
    /// The declared columns and the included.
    pub schema: SchemaRef,
    pub clock: Arc<dyn Clock>,
}

impl FileOptions {
    pub fn parse(spec: SourceSpec, mut options: Options) -> Result<Self> {
        let schema = with_include(
            &spec,
            &[("file", SqlType::Text), ("offset", SqlType::BigInt), ("timestamp", SqlType::TimestampTz)],
        )?;
        let included = spec.include.iter().map(|(what, _)| match what.as_str() {
            "file" => Included::File,
            "offset" => Included::Offset,
            _ => Included::Timestamp,
        });
        let (location, format) = where_and_what(&mut options, spec.format.as_ref())?;
        let on_error = options.on_error()?;
        if on_error == OnError::DeadLetters {
            return Err(Error::unsupported("on_error = 'dlq' is for records of topics, not of files")
                .with_hint("on_error = 'drop' leaves bad records out, and counts them: the file still has them."));
        }
        let rows_per_second = options.positive("rows_per_second")?;
        let replay = replay(&mut options, &spec.columns)?;
        let poll_interval = options.duration("poll_interval")?.unwrap_or(Duration::from_secs(1));
        let bounded = options.bool("bounded")?.unwrap_or(false);
        options.finish()?;
        Ok(Self {
            location,
            format,
            on_error,
            bounded,
            poll_interval,
            rows_per_second,
            replay,
            included: included.collect(),
            declared: spec.columns,
            schema,
            clock: spec.clock,
        })
    }
}

/// The options that say which files there are and how to read them.
pub(super) fn where_and_what(options: &mut Options, format: Option<&FormatSpec>) -> Result<(Location, Format)> {
    let path = options.require("path")?;
    let s3 = S3Options::parse(options);
    let format = Format::choose(format, options, &path)?;
    Ok((Location::to_read(&path, &s3)?, format))
}

fn replay(options: &mut Options, columns: &SchemaRef) -> Result<Option<Replay>> {
    let speed = options.positive("replay_speed")?;
    let column = options.take("replay_column");
    let (speed, name) = match (speed, column) {
        (None, None) => return Ok(None),
        (Some(speed), Some(name)) => (speed, name),
        _ => return Err(Error::invalid("options \"replay_speed\" and \"replay_column\" go together")),
    };
    let Some((column, field)) = columns.column_with_name(&name) else {
        return Err(Error::new(SqlState::UndefinedColumn, format!("replay_column \"{name}\" does not exist")));
    };
    match SqlType::from_field(field) {
        SqlType::Timestamp | SqlType::TimestampTz => Ok(Some(Replay { column, speed })),
        other => Err(Error::new(
            SqlState::DatatypeMismatch,
            format!("replay_column \"{name}\" must be a timestamp, not {other}"),
        )),
    }
}
