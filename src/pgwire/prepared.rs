//! Prepared statements and portals: what the extended protocol names.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Oid, Result, SqlState};

use super::errors::protocol_violation;
use super::message::Bind;
use super::rows::{Format, RowSender, type_oid};
use crate::session::Description;
use tidemark_common::values::{Style, scalar_from_binary, scalar_from_text};

pub(super) struct Prepared<St> {
    /// `None`: an empty query.
    pub statement: Option<St>,
    pub description: Description,
    /// As the client gave them, 0 where it did not.
    pub parameter_oids: Vec<Oid>,
    /// The columns of a result that was found to be as the description says.
    checked: OnceLock<SchemaRef>,
}

pub(super) struct Portal<St> {
    pub bound: Bound<St>,
    pub state: PortalState,
}

/// A statement with everything that it needs to run.
pub(super) struct Bound<St> {
    pub prepared: Arc<Prepared<St>>,
    pub parameters: Vec<ScalarValue>,
    pub result_formats: Vec<i16>,
}

pub(super) enum PortalState {
    /// Bound, not executed.
    Ready,
    /// Sent some rows and waits for the next Execute.
    Suspended(RowSender),
    /// All rows were sent: executing it again sends none.
    Exhausted(crate::session::RowsTag),
    /// Was a statement without rows: cannot be run again.
    Done,
}

pub(super) fn no_statement(name: &str) -> Error {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_string()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    Error::new(SqlState::UndefinedPreparedStatement, message)
}

pub(super) fn no_portal(name: &str) -> Error {
    Error::new(SqlState::UndefinedCursor, format!("portal \"{name}\" does not exist"))
}

impl<St> Prepared<St> {
    pub fn new(statement: Option<St>, description: Description, parameter_oids: Vec<Oid>) -> Self {
        Self { statement, description, parameter_oids, checked: OnceLock::new() }
    }

    /// The client decodes rows by what Describe said; a table may have changed since.
    pub fn check_columns(&self, columns: &SchemaRef) -> Result<()> {
        if self.checked.get().is_some_and(|checked| Arc::ptr_eq(checked, columns)) {
            return Ok(());
        }
        let same = self.description.columns.as_ref().is_some_and(|described| {
            described.fields().len() == columns.fields().len()
                && described.fields().iter().zip(columns.fields()).all(|(a, b)| type_oid(a) == type_oid(b))
        });
        if !same {
            return Err(Error::new(SqlState::FeatureNotSupported, "cached plan must not change result type")
                .with_hint("Prepare the statement again: a table that it reads has changed."));
        }
        self.checked.get_or_init(|| Arc::clone(columns));
        Ok(())
    }

    /// Types for ParameterDescription: the client's own where it gave one.
    pub fn parameter_types(&self) -> Vec<Oid> {
        let types = self.description.parameters.iter().enumerate();
        types
            .map(|(at, t)| match self.parameter_oids.get(at) {
                Some(given) if *given != 0 && *given != UNKNOWN_OID => *given,
                _ => t.pg_oid(),
            })
            .collect()
    }

    pub fn result_formats(&self, codes: &[i16]) -> Result<Vec<Format>> {
        let count = self.description.columns.as_ref().map_or(0, |schema| schema.fields().len());
        Format::of_codes(codes, count).unwrap_or_else(|| {
            Err(protocol_violation(format!(
                "bind message has {} result formats but query has {count} columns",
                codes.len()
            )))
        })
    }

    pub fn bind(&self, bind: &Bind, style: &Style) -> Result<Vec<ScalarValue>> {
        let types = &self.description.parameters;
        if bind.parameters.len() != types.len() {
            return Err(protocol_violation(format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                bind.parameters.len(),
                bind.statement,
                types.len()
            )));
        }
        let formats = Format::of_codes(&bind.parameter_formats, types.len()).unwrap_or_else(|| {
            Err(protocol_violation(format!(
                "bind message has {} parameter formats but {} parameters",
                bind.parameter_formats.len(),
                types.len()
            )))
        })?;
        let mut values = Vec::with_capacity(types.len());
        for ((value, t), format) in bind.parameters.iter().zip(types).zip(formats) {
            values.push(parameter(value.as_ref(), t, format, style)?);
        }
        Ok(values)
    }
}

fn parameter(value: Option<&Bytes>, t: &SqlType, format: Format, style: &Style) -> Result<ScalarValue> {
    let Some(bytes) = value else {
        return Ok(ScalarValue::try_from(&t.data_type())?);
    };
    match format {
        Format::Binary => scalar_from_binary(t, bytes),
        Format::Text => {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                Error::new(SqlState::InvalidTextRepresentation, "invalid byte sequence for encoding \"UTF8\"")
            })?;
            scalar_from_text(t, text, style)
        }
    }
}

/// What clients declare when they do not know.
const UNKNOWN_OID: Oid = 705;

/// The SQL type that a client means by an OID; `None`: to be inferred.
pub(super) fn type_of_oid(oid: Oid) -> Result<Option<SqlType>> {
    use SqlType::*;
    let array = |t: SqlType| Array(Box::new(t));
    Ok(Some(match oid {
        0 | UNKNOWN_OID => return Ok(None),
        16 => Boolean,
        17 => Bytea,
        19 => Name,
        20 => BigInt,
        21 => SmallInt,
        23 => Integer,
        18 | 25 => Text,
        26 | 2202..=2206 | 4089 | 4096 => Oid,
        114 => Json,
        700 => Real,
        701 => Double,
        1042 | 1043 => Varchar(None),
        1082 => Date,
        1083 => Time,
        1114 => Timestamp,
        1184 => TimestampTz,
        1186 => Interval,
        1700 => Numeric(None),
        2950 => Uuid,
        3802 => Jsonb,
        1000 => array(Boolean),
        1001 => array(Bytea),
        1003 => array(Name),
        1005 => array(SmallInt),
        1007 => array(Integer),
        1009 => array(Text),
        1014 | 1015 => array(Varchar(None)),
        1016 => array(BigInt),
        1021 => array(Real),
        1022 => array(Double),
        1028 => array(Oid),
        1115 => array(Timestamp),
        1182 => array(Date),
        1183 => array(Time),
        1185 => array(TimestampTz),
        1187 => array(Interval),
        1231 => array(Numeric(None)),
        199 => array(Json),
        2951 => array(Uuid),
        3807 => array(Jsonb),
        other => {
            return Err(Error::new(SqlState::UndefinedObject, format!("type with OID {other} does not exist"))
                .with_hint("Send the parameter as text, with type 0, and cast it in the statement."));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_oid_that_is_sent_is_understood() {
        for oid in [16, 17, 19, 20, 21, 23, 25, 26, 114, 700, 701, 1043, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802]
        {
            let t = type_of_oid(oid).unwrap().unwrap();
            assert_eq!(t.pg_oid(), oid);
            let array = SqlType::Array(Box::new(t)).pg_oid();
            assert_eq!(type_of_oid(array).unwrap().unwrap().pg_oid(), array);
        }
        assert_eq!(type_of_oid(0).unwrap(), None);
        assert!(type_of_oid(123_456).is_err());
    }
}
