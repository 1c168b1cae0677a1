//! How a function is declared: a name, and overloads of (argument kinds, result kind, code for one row).
//!
//! ```text
//!   f(args) ──coerce_types: cheapest overload──▶ casts by DataFusion ──▶ columns ──eval row by row──▶ result array
//! ```
//!
//! This is for the long tail, where a screen of Arrow code a function would bury what the function does. What runs once a row
//! of a stream (windows, casts to a type) has its own vectorised code instead.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::clock::Clock;
pub(super) use super::row::Row;
use super::row::{Cache, Column};
use super::value::{Value, build};

/// Digits after the point that a function sees of a numeric wider than 38.
const WIDE_SCALE: i8 = 18;

/// What an argument must be, or a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// `integer`; as an argument any integer, read with [`Row::int`].
    Int4,
    /// `bigint`; as an argument any integer.
    Int8,
    Float8,
    /// `numeric` as it is held; see [`Row::numeric`].
    Numeric,
    Text,
    Name,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    /// As a result: json or jsonb, as the first argument is.
    SameJson,
    Texts,
    Ints,
    /// As a result: an array of text arrays.
    TextLists,
    /// Anything, as it comes.
    Any,
    /// Any array, as it comes.
    AnyArray,
}

impl Kind {
    pub(super) fn sql_type(self) -> SqlType {
        let array = |item| SqlType::Array(Box::new(item));
        match self {
            Kind::Bool => SqlType::Boolean,
            Kind::Int4 => SqlType::Integer,
            Kind::Int8 => SqlType::BigInt,
            Kind::Float8 => SqlType::Double,
            Kind::Numeric => SqlType::Numeric(None),
            Kind::Text | Kind::Any | Kind::AnyArray => SqlType::Text,
            Kind::Name => SqlType::Name,
            Kind::Bytea => SqlType::Bytea,
            Kind::Date => SqlType::Date,
            Kind::Time => SqlType::Time,
            Kind::Timestamp => SqlType::Timestamp,
            Kind::TimestampTz => SqlType::TimestampTz,
            Kind::Interval => SqlType::Interval,
            Kind::Uuid => SqlType::Uuid,
            Kind::Json | Kind::SameJson => SqlType::Json,
            Kind::Jsonb => SqlType::Jsonb,
            Kind::Texts => array(SqlType::Text),
            Kind::Ints => array(SqlType::BigInt),
            Kind::TextLists => array(array(SqlType::Text)),
        }
    }

    /// The type an argument of type `from` is cast to before the call.
    fn argument_type(self, from: &DataType) -> DataType {
        match self {
            Kind::Any => from.clone(),
            Kind::AnyArray if matches!(from, DataType::List(_)) => from.clone(),
            Kind::AnyArray => Kind::Texts.sql_type().data_type(),
            // The scale stays: digits after the tenth are not lost.
            Kind::Numeric => match from {
                DataType::Decimal128(..) => from.clone(),
                DataType::Decimal256(_, s) => DataType::Decimal128(38, (*s).min(WIDE_SCALE)),
                DataType::Decimal32(_, s) | DataType::Decimal64(_, s) => DataType::Decimal128(38, *s),
                from if from.is_integer() => DataType::Decimal128(38, 0),
                _ => self.sql_type().data_type(),
            },
            Kind::Int4 => DataType::Int64,
            _ => self.sql_type().data_type(),
        }
    }

    /// How far `from` is from what is asked; `None`: it does not convert by itself. Text converts to everything, because a
    /// literal in quotes is text here and of no type yet in Postgres.
    fn cost(self, from: &DataType) -> Option<u32> {
        use DataType as D;
        let text = from.is_string();
        let decimal = from.is_decimal();
        let cost = match (self, from) {
            (_, D::Dictionary(_, value)) => return self.cost(value).map(|c| c + 1),
            (Kind::Any, _) => 6,
            (_, D::Null) => 1,
            (Kind::Text | Kind::Name | Kind::Uuid | Kind::Json | Kind::Jsonb, _) if text => 0,
            (Kind::Bool, D::Boolean) => 0,
            (Kind::Int4, D::Int32) | (Kind::Int8, D::Int64) => 0,
            (Kind::Int4 | Kind::Int8, _) if from.is_integer() => 1,
            (Kind::Float8, D::Float64) => 0,
            (Kind::Float8, _) if from.is_floating() => 1,
            (Kind::Float8, _) if from.is_integer() || decimal => 4,
            (Kind::Numeric, _) if decimal => 0,
            (Kind::Numeric, _) if from.is_integer() => 2,
            (Kind::Bytea, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_)) => 0,
            (Kind::Date, D::Date32 | D::Date64) => 0,
            (Kind::Time, D::Time32(_) | D::Time64(_)) => 0,
            (Kind::Timestamp, D::Timestamp(_, None)) => 0,
            (Kind::Timestamp, D::Date32 | D::Date64) => 3,
            (Kind::TimestampTz, D::Timestamp(_, Some(_))) => 0,
            (Kind::TimestampTz, D::Timestamp(_, None) | D::Date32 | D::Date64) => 4,
            (Kind::Interval, D::Interval(_) | D::Duration(_)) => 0,
            (Kind::AnyArray, D::List(_) | D::LargeList(_) | D::FixedSizeList(..)) => 0,
            (Kind::Texts, D::List(f) | D::LargeList(f)) if f.data_type().is_string() || f.data_type().is_null() => 0,
            (Kind::Ints, D::List(f) | D::LargeList(f)) if f.data_type().is_integer() || f.data_type().is_null() => 0,
            (Kind::Texts | Kind::Ints | Kind::TextLists | Kind::AnyArray | Kind::Numeric, _) => return None,
            // Postgres prefers timestamptz for a literal.
            (Kind::TimestampTz, _) if text => 19,
            _ if text => 20,
            _ => return None,
        };
        Some(cost)
    }
}

type Eval = Arc<dyn Fn(&Row<'_>) -> Result<Value> + Send + Sync>;

struct Overload {
    params: Vec<Kind>,
    /// Further arguments, each of this kind.
    rest: Option<Kind>,
    result: Kind,
    /// A NULL argument makes the result NULL without a call.
    strict: bool,
    eval: Eval,
}

impl Overload {
    fn kind(&self, i: usize) -> Option<Kind> {
        self.params.get(i).copied().or(self.rest)
    }

    fn cost(&self, types: &[DataType]) -> Option<u32> {
        if types.len() < self.params.len() {
            return None;
        }
        types.iter().enumerate().map(|(i, t)| self.kind(i)?.cost(t)).sum()
    }
}

/// A function on its way to being declared; [`Function::udf`] ends it.
pub(super) struct Function {
    name: &'static str,
    aliases: Vec<String>,
    overloads: Vec<Overload>,
    volatility: Volatility,
}

pub(super) fn function(name: &'static str) -> Function {
    Function { name, aliases: Vec::new(), overloads: Vec::new(), volatility: Volatility::Immutable }
}

impl Function {
    #[must_use]
    pub(super) fn alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.to_string());
        self
    }

    /// The same within a statement, not from one to the next.
    #[must_use]
    pub(super) fn stable(mut self) -> Self {
        self.volatility = Volatility::Stable;
        self
    }

    #[must_use]
    pub(super) fn volatile(mut self) -> Self {
        self.volatility = Volatility::Volatile;
        self
    }

    /// An overload that is NULL when any argument is.
    #[must_use]
    pub(super) fn on<F>(self, params: &[Kind], result: Kind, eval: F) -> Self
    where
        F: Fn(&Row<'_>) -> Result<Value> + Send + Sync + 'static,
    {
        self.overload(params, None, result, true, Arc::new(eval))
    }

    /// An overload that sees NULLs.
    #[must_use]
    pub(super) fn on_nulls<F>(self, params: &[Kind], rest: Option<Kind>, result: Kind, eval: F) -> Self
    where
        F: Fn(&Row<'_>) -> Result<Value> + Send + Sync + 'static,
    {
        self.overload(params, rest, result, false, Arc::new(eval))
    }

    fn overload(mut self, params: &[Kind], rest: Option<Kind>, result: Kind, strict: bool, eval: Eval) -> Self {
        self.overloads.push(Overload { params: params.to_vec(), rest, result, strict, eval });
        self
    }

    pub(super) fn udf(self) -> ScalarUDF {
        let signature = if self.overloads.iter().all(|o| o.params.is_empty() && o.rest.is_none()) {
            Signature::nullary(self.volatility)
        } else {
            Signature::user_defined(self.volatility)
        };
        ScalarUDF::new_from_impl(RowFunction {
            name: self.name,
            aliases: self.aliases,
            overloads: self.overloads.into(),
            signature,
        })
    }
}

struct RowFunction {
    name: &'static str,
    aliases: Vec<String>,
    overloads: Arc<[Overload]>,
    signature: Signature,
}

impl RowFunction {
    fn resolve(&self, types: &[DataType]) -> Result<&Overload> {
        let costs = self.overloads.iter().filter_map(|o| Some((o.cost(types)?, o)));
        costs.min_by_key(|(cost, _)| *cost).map(|(_, o)| o).ok_or_else(|| no_such_function(self.name, types))
    }
}

/// What Postgres says when no overload takes these arguments.
pub(super) fn no_such_function(name: &str, types: &[DataType]) -> Error {
    let types: Vec<String> = types
        .iter()
        .map(|t| if t.is_null() { "unknown".to_string() } else { SqlType::from_data_type(t).to_string() })
        .collect();
    Error::new(SqlState::UndefinedFunction, format!("function {name}({}) does not exist", types.join(", ")))
        .with_hint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

impl fmt::Debug for RowFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for RowFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.overloads, &other.overloads)
    }
}

impl Eq for RowFunction {}

impl Hash for RowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for RowFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(self.resolve(types)?.result.sql_type().data_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let mut result = self.resolve(&types)?.result;
        if result == Kind::SameJson && args.arg_fields.first().is_some_and(|f| SqlType::from_field(f) == SqlType::Jsonb)
        {
            result = Kind::Jsonb;
        }
        Ok(result.sql_type().to_field_ref(self.name, true))
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let overload = self.resolve(types)?;
        Ok(types.iter().enumerate().filter_map(|(i, t)| Some(overload.kind(i)?.argument_type(t))).collect())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let overload = self.resolve(&types)?;
        let columns = args
            .args
            .iter()
            .zip(&args.arg_fields)
            .map(|(arg, field)| Column::new(arg, SqlType::from_field(field)))
            .collect::<Result<Vec<_>>>()?;
        // A volatile function of constants still has a value of its own in every row.
        let once = columns.iter().all(|c| c.scalar) && self.signature.volatility != Volatility::Volatile;
        let rows = if once { 1 } else { args.number_rows };
        let (cache, clock) = (Cache::default(), Clock::of(&args.config_options)?);
        let values = (0..rows)
            .map(|row| {
                let row = Row::new(&columns, row, &cache, &clock);
                if overload.strict && (0..row.len()).any(|i| row.is_null(i)) {
                    return Ok(Value::Null);
                }
                (overload.eval)(&row)
            })
            .collect::<Result<Vec<Value>>>()?;
        let array = build(overload.result, values)?;
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }
}
