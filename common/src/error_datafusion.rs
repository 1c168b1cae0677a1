//! DataFusion's and Arrow's errors as a Postgres user knows them.

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::error::{Error, SqlState};

/// Finds our own error inside, or else the SQLSTATE that fits best.
pub(crate) fn translate(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(nested) => translate(*nested),
                Err(other) => Error::new(SqlState::Internal, other.to_string()),
            },
        },
        DataFusionError::Context(context, inner) => {
            let inner = translate(*inner);
            match (inner.state(), state_of_known_message(&inner.message().to_lowercase())) {
                (SqlState::Internal, Some(state)) => Error::new(state, inner.message()),
                (SqlState::Internal, None) => inner.context(context),
                _ => inner,
            }
        }
        DataFusionError::Diagnostic(_, inner) => translate(*inner),
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => translate(first),
            None => Error::internal("an empty collection of errors"),
        },
        DataFusionError::Shared(inner) => translate_shared(&inner),
        DataFusionError::ArrowError(inner, _) => translate_arrow(*inner),
        DataFusionError::SchemaError(inner, _) => translate_schema(&inner),
        DataFusionError::SQL(inner, _) => Error::syntax(inner.to_string()),
        DataFusionError::NotImplemented(message) => Error::unsupported(message),
        DataFusionError::Plan(message) => Error::new(state_of_plan_error(&message), reworded(&message)),
        DataFusionError::Execution(message) => Error::new(state_of_value_error(&message), reworded(&message)),
        DataFusionError::ResourcesExhausted(message) => {
            Error::new(SqlState::OutOfMemory, message).with_hint("Raise query_memory_limit, or ask for less at once.")
        }
        other => {
            let message = other.strip_backtrace();
            match state_of_known_message(&message.to_lowercase()) {
                Some(state) => Error::new(state, message),
                None => Error::internal(message),
            }
        }
    }
}

/// The message, in Postgres' words where it has some for the same.
fn reworded(message: &str) -> String {
    if message.contains("Scalar subquery returned more than one row") {
        return "more than one row returned by a subquery used as an expression".into();
    }
    if message.starts_with("Too many columns! The subquery should only return one column") {
        return "subquery has too many columns".into();
    }
    if let Some((_, column)) = message.split_once("While expanding wildcard, column ")
        && let Some((column, _)) = column.split_once(" must appear in the GROUP BY clause")
    {
        return format!("column {column} must appear in the GROUP BY clause or be used in an aggregate function");
    }
    unwrapped(message).to_string()
}

/// A function's own words about its arguments, which DataFusion keeps only as text within its own.
fn unwrapped(message: &str) -> &str {
    const KINDS: [&str; 4] =
        ["External error: ", "Error during planning: ", "Execution error: ", "This feature is not implemented: "];
    let Some((_, mut inner)) = message.rsplit_once("coercion failed with: ") else { return message };
    while let Some(rest) = KINDS.iter().find_map(|kind| inner.strip_prefix(kind)) {
        inner = rest;
    }
    inner
}

/// A shared error cannot be taken apart, so its text decides.
fn translate_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::internal(inner.to_string()),
        },
        root => {
            let message = root.strip_backtrace();
            Error::new(state_of_value_error(&message), reworded(&message))
        }
    }
}

fn translate_arrow(error: ArrowError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::new(SqlState::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(message) => {
            Error::new(SqlState::NumericValueOutOfRange, "value out of range").with_detail(message)
        }
        ArrowError::ExternalError(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(nested) => translate(*nested),
                Err(other) => Error::internal(other.to_string()),
            },
        },
        ArrowError::IoError(message, inner) => Error::from(inner).context(message),
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::InvalidArgumentError(message)
        | ArrowError::CsvError(message)
        | ArrowError::JsonError(message)
        | ArrowError::ParquetError(message) => Error::new(state_of_value_error(&message), message),
        other => Error::internal(other.to_string()),
    }
}

fn translate_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::AmbiguousReference { field } => {
            Error::new(SqlState::AmbiguousColumn, format!("column reference \"{}\" is ambiguous", field.name))
        }
        SchemaError::FieldNotFound { field, valid_fields } => {
            if let Some(relation) = &field.relation
                && !valid_fields.iter().any(|f| f.relation.as_ref().is_some_and(|r| r.table() == relation.table()))
            {
                let message = format!("missing FROM-clause entry for table \"{}\"", relation.table());
                return Error::new(SqlState::UndefinedTable, message);
            }
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), field.name),
                None => format!("\"{}\"", field.name),
            };
            let error = Error::new(SqlState::UndefinedColumn, format!("column {name} does not exist"));
            match nearest(&field.name, valid_fields.iter().map(|f| f.name.as_str())) {
                Some(near) => error.with_hint(format!("Perhaps you meant to reference the column \"{near}\".")),
                None => error,
            }
        }
        // One column is never in a table twice, so the table is.
        SchemaError::DuplicateQualifiedField { qualifier, .. } => Error::new(
            SqlState::DuplicateAlias,
            format!("table name \"{}\" specified more than once", qualifier.table()),
        ),
        SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once"))
        }
    }
}

/// The candidate closest to `name`, if it is close enough to be a typing error.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = datafusion::common::utils::datafusion_strsim::levenshtein;
    candidates
        .map(|c| (distance(&c.to_lowercase(), &name.to_lowercase()), c))
        .filter(|(d, _)| *d <= 1 + name.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

fn state_of_plan_error(message: &str) -> SqlState {
    let lower = message.to_lowercase();
    if let Some(state) = state_of_known_message(&lower) {
        state
    } else if lower.contains("aggregate functions are not allowed")
        || lower.contains("aggregate function calls cannot be nested")
    {
        SqlState::GroupingError
    } else if lower.starts_with("with query name") {
        SqlState::DuplicateAlias
    } else if lower.starts_with("cannot coerce arithmetic") || lower.starts_with("unnest() can only be applied") {
        // In Postgres an operator is a function: there is none for these types.
        SqlState::UndefinedFunction
    } else if lower.contains("function")
        && (lower.contains("invalid") || lower.contains("no function") || lower.contains("coerc"))
    {
        SqlState::UndefinedFunction
    } else if lower.contains("must appear in the group by") || lower.contains("must be in group by") {
        SqlState::GroupingError
    } else if lower.contains("cannot coerce") || lower.contains("cannot infer common") || lower.contains("type") {
        SqlState::DatatypeMismatch
    } else {
        SqlState::SyntaxError
    }
}

fn state_of_value_error(message: &str) -> SqlState {
    let lower = message.to_lowercase();
    if let Some(state) = state_of_known_message(&lower) {
        state
    } else if lower.contains("divide by zero") || lower.contains("division by zero") {
        SqlState::DivisionByZero
    } else if lower.contains("invalid timezone") {
        SqlState::InvalidParameterValue
    } else if lower.contains("overflow")
        || lower.contains("out of range")
        || lower.contains("can't cast value")
        || lower.contains("too large to store")
    {
        SqlState::NumericValueOutOfRange
    } else if lower.contains("date") || lower.contains("timestamp") || lower.contains("time zone") {
        SqlState::InvalidDatetimeFormat
    } else if lower.contains("cast") || lower.contains("parse") || lower.contains("invalid") {
        SqlState::InvalidTextRepresentation
    } else if lower.contains("more than one row") {
        SqlState::CardinalityViolation
    } else {
        SqlState::DataException
    }
}

/// Messages of DataFusion and Arrow for which Postgres has an error of its own.
fn state_of_known_message(lower: &str) -> Option<SqlState> {
    const KNOWN: [(&str, SqlState); 11] = [
        ("order by column out of bounds", SqlState::InvalidColumnReference),
        ("for select distinct, order by expressions", SqlState::InvalidColumnReference),
        ("cannot create filter with non-boolean predicate", SqlState::DatatypeMismatch),
        ("limit must be >= 0", SqlState::InvalidLimit),
        ("offset must be >=", SqlState::InvalidOffset),
        ("cannot take square root of a negative number", SqlState::InvalidPowerArgument),
        ("zero raised to a negative power", SqlState::InvalidPowerArgument),
        ("cannot take logarithm", SqlState::InvalidLogArgument),
        ("invalid regex", SqlState::InvalidRegularExpression),
        ("regex parse error", SqlState::InvalidRegularExpression),
        ("step can't be 0", SqlState::InvalidParameterValue),
    ];
    KNOWN.iter().find(|(part, _)| lower.contains(part)).map(|(_, state)| *state)
}
