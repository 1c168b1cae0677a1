//! How a function is declared: a name, and overloads of (argument kinds, result kind, code for one row).
//!
//! ```text
//!   f(args) ──coerce_types: cheapest overload──▶ casts by DataFusion ──▶ columns ──eval row by row──▶ result array
//! ```
//!
//! This is for the long tail, where a screen of Arrow code a function would bury what the function does. What runs once a row
//! of a stream (windows, casts to a type) has its own vectorised code instead.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNano, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemark_common::types::SqlType;
use tidemark_common::{Error, Result, SqlState};

use super::value::{Value, build};

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
            (Kind::Texts | Kind::Ints | Kind::AnyArray | Kind::Numeric, _) => return None,
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
        if result == Kind::SameJson && args.arg_fields.first().is_some_and(|f| SqlType::from_field(f) == SqlType::Jsonb) {
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
        let cache = Cache::default();
        let values = (0..rows)
            .map(|row| {
                let row = Row { columns: &columns, row, cache: &cache };
                if overload.strict && (0..row.len()).any(|i| row.is_null(i)) {
                    return Ok(Value::Null);
                }
                (overload.eval)(&row)
            })
            .collect::<Result<Vec<Value>>>()?;
        let array = build(overload.result, values)?;
        if once { Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)) } else { Ok(ColumnarValue::Array(array)) }
    }
}

enum Data {
    Bool(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    Numeric(Decimal128Array, i8),
    Text(StringArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    Interval(IntervalMonthDayNanoArray),
    List(ListArray),
    Other,
}

struct Column {
    array: ArrayRef,
    data: Data,
    sql_type: SqlType,
    scalar: bool,
}

impl Column {
    fn new(arg: &ColumnarValue, sql_type: SqlType) -> Result<Self> {
        let (array, scalar) = match arg {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        use datafusion::arrow::datatypes as t;
        let data = match array.data_type() {
            DataType::Boolean => Data::Bool(array.as_boolean().clone()),
            DataType::Int64 => Data::Int(array.as_primitive::<t::Int64Type>().clone()),
            DataType::Float64 => Data::Float(array.as_primitive::<t::Float64Type>().clone()),
            DataType::Decimal128(_, s) => Data::Numeric(array.as_primitive::<t::Decimal128Type>().clone(), *s),
            DataType::Utf8 => Data::Text(array.as_string::<i32>().clone()),
            DataType::Binary => Data::Bytes(array.as_binary::<i32>().clone()),
            DataType::Date32 => Data::Date(array.as_primitive::<t::Date32Type>().clone()),
            DataType::Time64(t::TimeUnit::Microsecond) => {
                Data::Time(array.as_primitive::<t::Time64MicrosecondType>().clone())
            }
            DataType::Timestamp(t::TimeUnit::Microsecond, _) => {
                Data::Timestamp(array.as_primitive::<t::TimestampMicrosecondType>().clone())
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Data::Interval(array.as_primitive::<t::IntervalMonthDayNanoType>().clone())
            }
            DataType::List(_) => Data::List(array.as_list::<i32>().clone()),
            _ => Data::Other,
        };
        Ok(Self { array, data, sql_type, scalar })
    }
}

/// Things made from constant arguments, kept for the rows of one batch.
#[derive(Default)]
struct Cache(Mutex<HashMap<String, Arc<regex::Regex>>>);

/// The most compiled patterns kept for one batch.
const CACHED_PATTERNS: usize = 64;

/// The arguments of one call. The getters are total over what the declared kinds promise; a wrong one is a fault in a
/// declaration, found by its first test.
pub(super) struct Row<'a> {
    columns: &'a [Column],
    row: usize,
    cache: &'a Cache,
}

impl<'a> Row<'a> {
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    fn at(&self, i: usize) -> (&'a Column, usize) {
        let column = &self.columns[i];
        (column, if column.scalar { 0 } else { self.row })
    }

    pub(super) fn is_null(&self, i: usize) -> bool {
        let (column, row) = self.at(i);
        column.array.is_null(row) || column.array.data_type().is_null()
    }

    /// The argument as it came, with its SQL type.
    pub(super) fn any(&self, i: usize) -> (&'a ArrayRef, usize, &'a SqlType) {
        let (column, row) = self.at(i);
        (&column.array, row, &column.sql_type)
    }

    pub(super) fn bool(&self, i: usize) -> bool {
        match self.at(i) {
            (Column { data: Data::Bool(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("boolean"),
        }
    }

    pub(super) fn int(&self, i: usize) -> i64 {
        match self.at(i) {
            (Column { data: Data::Int(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("bigint"),
        }
    }

    /// An integer argument that Postgres declares as `integer`.
    pub(super) fn int4(&self, i: usize) -> Result<i32> {
        i32::try_from(self.int(i))
            .map_err(|_| Error::new(SqlState::NumericValueOutOfRange, "integer out of range"))
    }

    pub(super) fn float(&self, i: usize) -> f64 {
        match self.at(i) {
            (Column { data: Data::Float(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("double precision"),
        }
    }

    /// Digits and scale.
    pub(super) fn numeric(&self, i: usize) -> (i128, i8) {
        match self.at(i) {
            (Column { data: Data::Numeric(a, scale), .. }, row) => (a.value(row), *scale),
            (column, _) => column.mismatch("numeric"),
        }
    }

    pub(super) fn text(&self, i: usize) -> &'a str {
        match self.at(i) {
            (Column { data: Data::Text(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("text"),
        }
    }

    pub(super) fn bytes(&self, i: usize) -> &'a [u8] {
        match self.at(i) {
            (Column { data: Data::Bytes(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("bytea"),
        }
    }

    /// Days since 1970-01-01.
    pub(super) fn date(&self, i: usize) -> i32 {
        match self.at(i) {
            (Column { data: Data::Date(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("date"),
        }
    }

    /// Microseconds: of a time since midnight, of a timestamp since 1970-01-01.
    pub(super) fn micros(&self, i: usize) -> i64 {
        match self.at(i) {
            (Column { data: Data::Timestamp(a), .. }, row) => a.value(row),
            (Column { data: Data::Time(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("timestamp"),
        }
    }

    pub(super) fn interval(&self, i: usize) -> IntervalMonthDayNano {
        match self.at(i) {
            (Column { data: Data::Interval(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("interval"),
        }
    }

    /// The items of an array argument.
    pub(super) fn list(&self, i: usize) -> ArrayRef {
        match self.at(i) {
            (Column { data: Data::List(a), .. }, row) => a.value(row),
            (column, _) => column.mismatch("array"),
        }
    }

    pub(super) fn texts(&self, i: usize) -> Vec<Option<String>> {
        self.list(i).as_string::<i32>().iter().map(|s| s.map(str::to_string)).collect()
    }

    /// The compiled form of `pattern` with Postgres' `flags`.
    pub(super) fn regex(&self, pattern: &str, flags: &str) -> Result<Arc<regex::Regex>> {
        let key = format!("{flags}/{pattern}");
        let mut cached = self.cache.0.lock().map_err(|_| Error::internal("a pattern cache is poisoned"))?;
        if let Some(found) = cached.get(&key) {
            return Ok(Arc::clone(found));
        }
        let regex = Arc::new(super::regexp::compile(pattern, flags)?);
        if cached.len() >= CACHED_PATTERNS {
            cached.clear();
        }
        cached.insert(key, Arc::clone(&regex));
        Ok(regex)
    }
}

impl Column {
    fn mismatch(&self, wanted: &str) -> ! {
        unreachable!("a function declared for {wanted} was called with {}", self.array.data_type())
    }
}
